// SPDX-License-Identifier: Apache-2.0
/*
 * The other hosts: who they are, whether they answer, sessions to and from them.
 *
 * The table is in the store: host/NAME = {"addresses": […], "port": …}. A host may connect if its
 * certificate is the fleet CA's and its name is in the table; so both hosts add each other.
 * An accepted session is given to the service that its first message names in "service".
 *
 * Main context; callbacks report once and never from inside the call.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "lane/lane.h"
#include "store/store.h"

#define GW_PEER_DEFAULT_PORT  7790
#define GW_PEER_MAX_ADDRESSES 8

typedef struct GwPeers GwPeers;

typedef struct GwPeersOptions {
    GwStore *store;
    const char *host_name;
    const char *pki_dir;
    const char *bind_address;
    uint16_t port;
    int64_t connect_timeout_ms;
    int64_t session_timeout_ms;
    const char *congestion; /* of TCP; NULL: by the link */
    int64_t silence_ms;     /* as in GwLaneConnect */
    /* What this host tells others about itself: version, accelerator, QEMU, CPU, memory. */
    json_t *(*describe)(void *data);
    void *data;
} GwPeersOptions;

typedef void (*GwPeersDoneFn)(const GError *error, void *data);
typedef void (*GwPeersListFn)(json_t *hosts, const GError *error, void *data);

/* Loads the table; listens if there is an identity. @loaded is called once. */
GwPeers *gw_peers_new(const GwPeersOptions *options, GwPeersDoneFn loaded, void *data) GW_MUST_USE;
void gw_peers_free(GwPeers *peers);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwPeers, gw_peers_free)

/* After the identity was made, installed or renewed: loads it and (re)starts listening. */
bool gw_peers_reload_identity(GwPeers *peers, GError **error) GW_MUST_USE;

/*
 * @addresses: one, or several separated by commas: ways to the same host, tried in this order.
 * @port 0: the default. Checks name and addresses; GW_ERROR_EXISTS for a known name.
 */
void gw_peers_add(GwPeers *peers, const char *name, const char *addresses, uint16_t port,
                  GwPeersDoneFn callback, void *data);
void gw_peers_remove(GwPeers *peers, const char *name, GwPeersDoneFn callback, void *data);

/*
 * Asks every host at once (bounded by the connect timeout) and reports an array, this host first:
 * {"name", "address" (the first), "addresses", "port", "self", "reachable", "error" {code, message}
 * or null, and what the host tells of itself: "godwit_version", "qemu_version", "accel",
 * "accel_reason", "cpu_model", "cpus", "memory_bytes", "memory_available_bytes", "problem" (why it
 * can run no guests)}.
 */
void gw_peers_query(GwPeers *peers, GwPeersListFn callback, void *data);

/*
 * Opens a session to a known host. @wishes may be NULL. GW_ERROR_NOT_FOUND for an unknown one,
 * GW_ERROR_STATE without an identity; everything later is told through the handlers. Transfer full.
 */
GwLane *gw_peers_connect(GwPeers *peers, const char *host, const GwLaneWishes *wishes,
                         const GwLaneHandlers *handlers, void *data, GError **error) GW_MUST_USE;

/* The first address of a known host; NULL if it is not known. Borrowed. */
const char *gw_peers_address(GwPeers *peers, const char *host);

/*
 * Hands sessions whose first message is {"service": @service, …} to @serve: the lane is transfer
 * full, the message borrowed; set handlers before returning. One service per name.
 */
typedef void (*GwPeersServeFn)(GwLane *lane, json_t *first_message, void *data);
void gw_peers_serve(GwPeers *peers, const char *service, GwPeersServeFn serve, void *data);
