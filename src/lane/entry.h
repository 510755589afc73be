// SPDX-License-Identifier: Apache-2.0
/*
 * The server's way in: one accepted connection until it is known which session it belongs to.
 *
 * A thread of its own does TLS and reads the greeting; in between it asks the main context twice:
 * whether the proven host is welcome, and, with the greeting, what to do with the connection. All
 * of it may take GW_LANE_HANDSHAKE_MS. A refusal travels as text.
 */
#pragma once

#include "lane/connection.h"

typedef struct GwEntry GwEntry;

typedef struct GwEntryHandlers {
    /* May the holder of the proven @name come in? */
    bool (*welcome)(const char *name, GError **error, void *data);
    /* @connection: transfer full if it returns true, else it is told @error. */
    bool (*greeted)(GwConnection *connection, const GwHello *hello, GError **error, void *data);
    /* Over, one way or the other; @error: why nothing came of it, or NULL. Free @entry here. */
    void (*done)(GwEntry *entry, const GError *error, void *data);
} GwEntryHandlers;

/* @fd: transfer full, also on failure. Main context, like the rest and all handlers. */
GwEntry *gw_entry_new(int fd, const char *peer_address, GwLaneCredentials *credentials,
                      const GwEntryHandlers *handlers, void *data, GError **error) GW_MUST_USE;
const char *gw_entry_address(const GwEntry *entry);
void gw_entry_free(GwEntry *entry);
