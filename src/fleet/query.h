// SPDX-License-Identifier: Apache-2.0
/*
 * One question to all hosts at once: the work behind gw_peers_query(). Main context.
 */
#pragma once

#include "fleet/peers.h"

typedef struct GwQuery GwQuery;

/* Transfer full. @callback reports once, never from inside the call, unless it is freed before. */
GwQuery *gw_query_new(GwPeers *peers, int64_t timeout_ms, GwPeersListFn callback,
                      void *data) GW_MUST_USE;
void gw_query_free(GwQuery *query);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwQuery, gw_query_free)

/* Adds what is known already: an entry without asking. Transfer full. */
void gw_query_add_entry(GwQuery *query, json_t *entry);

/* Asks the known host @name; @entry holds what the table has of it. Transfer full. */
void gw_query_ask(GwQuery *query, const char *name, json_t *entry);

/* After the last of them. */
void gw_query_start(GwQuery *query);
