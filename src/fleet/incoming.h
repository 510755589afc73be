// SPDX-License-Identifier: Apache-2.0
/*
 * The listening side of gw_peers: accepts sessions and hands each to the service it asks for.
 * Main context.
 */
#pragma once

#include "fleet/peers.h"

typedef struct GwIncoming GwIncoming;

typedef struct GwIncomingOptions {
    const char *host_name;
    const char *bind_address;
    uint16_t port;
    int64_t session_timeout_ms;
    const char *congestion; /* nullable */
    bool (*is_known)(const char *name, void *data);
    json_t *(*describe)(void *data); /* the answer to "info" */
    void *data;
} GwIncomingOptions;

GwIncoming *gw_incoming_new(const GwIncomingOptions *options) GW_MUST_USE;
void gw_incoming_free(GwIncoming *incoming);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwIncoming, gw_incoming_free)

/* Listens, or takes new credentials for sessions from now on if it does already. */
bool gw_incoming_listen(GwIncoming *incoming, GwLaneCredentials *credentials,
                        GError **error) GW_MUST_USE;

void gw_incoming_serve(GwIncoming *incoming, const char *service, GwPeersServeFn serve, void *data);
