// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon's HTTP API on a Unix socket: JSON requests and answers, live events as NDJSON.
 *
 * Runs on the main context without a thread of its own. Who may connect is decided by the socket
 * (mode 0660, group below); whoever connects may do everything. Each request that changes
 * something leaves one line in the log: who (uid, pid), what, result. The routes are listed by
 * GET /v1 and in the tables of routes_*.c.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "fleet/peers.h"
#include "migrate/migrate.h"
#include "vm/vm.h"

typedef struct GwServer GwServer;

/* Everything is borrowed and must outlive the server; strings are copied. */
typedef struct GwServerOptions {
    const char *socket_path; /* its folder exists */
    const char *group;       /* owns the socket; NULL or "": the process's own group */
    const char *host_name;
    const char *pki_dir; /* of fleet/identity.h */
    GwVms *vms;          /* these three are loaded already */
    GwMoves *moves;
    GwPeers *peers;
    /* What this host tells about itself, as in GwPeersOptions; the object is transfer full. */
    json_t *(*describe)(void *data);
    void *data;
} GwServerOptions;

/*
 * Listens at once. GW_ERROR_EXISTS if another process listens there, GW_ERROR_NOT_FOUND for an
 * unknown group, GW_ERROR_IO.
 */
GwServer *gw_server_new(const GwServerOptions *options, GError **error) GW_MUST_USE;

/*
 * Ends event streams, answers what is still waiting with an error, closes and removes the socket.
 * Call it before vms, moves and peers are freed: their late callbacks then find nobody and are
 * ignored.
 */
void gw_server_free(GwServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwServer, gw_server_free)

/* Tells event streams of a VM's change: {"event": "vm", "name": …, "vm": {…}|null}. A
 * GwVmsChangedFn with the server as @data, for whoever owns gw_vms_on_change(). */
void gw_server_vm_changed(const char *name, GwVm *vm, void *server);
