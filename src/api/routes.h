// SPDX-License-Identifier: Apache-2.0
/*
 * The routes' tables, one file per noun, and what their handlers work with.
 */
#pragma once

#include "api/events.h"
#include "api/http.h"
#include "fleet/identity.h"
#include "fleet/peers.h"
#include "migrate/migrate.h"
#include "vm/vm.h"

/* The context of every handler; owned by the server. */
typedef struct GwApi {
    char *host_name;
    char *pki_dir;
    GwVms *vms;
    GwMoves *moves;
    GwPeers *peers;
    GwEvents *events;
    json_t *(*describe)(void *data);
    void *data;
} GwApi;

extern const GwRoute gw_routes_host[];
extern const GwRoute gw_routes_identity[];
extern const GwRoute gw_routes_vm[];
extern const GwRoute gw_routes_move[];
