// SPDX-License-Identifier: Apache-2.0
/*
 * Moves of running VMs between this host and others: plan, start, watch, cancel, recover.
 *
 * A move is known by an id ("m-" and 12 hex digits) that both hosts use. Its record is in each
 * host's store under move/ID and is written before each outward effect (core/move_state.h has the
 * table of states). After a restart of the daemon, recovery ends every move that was cut off, with
 * the guest running on exactly one host.
 *
 * Main context; callbacks report once and never from inside the call.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/networks.h"
#include "lane/lane.h"
#include "migrate/visits.h"
#include "qemu/probe.h"
#include "store/store.h"
#include "vm/vm.h"

typedef struct GwMoves GwMoves;

/* How moves reach other hosts: a seam, because hosts are known further up. */
typedef struct GwMovesNetwork {
    /* @wishes: NULL for none. */
    GwLane *(*connect)(const char *host, const GwLaneWishes *wishes, const GwLaneHandlers *handlers,
                       void *data, void *network, GError **error);
    /* Address of a known host, borrowed; NULL if it is not known. */
    const char *(*address)(const char *host, void *network);
    void *network;
} GwMovesNetwork;

typedef struct GwMovesOptions {
    GwStore *store;
    GwVms *vms;
    const char *host_name;
    const char *run_dir;
    const char *qemu_user;
    GwVisits *visits;      /* NULL: none are kept */
    const char *index_dir; /* indexes of disk images; NULL: they are made anew for each move */
    GwMovesNetwork network;
    /* Timeouts of the states, 0: the default in core/move_state.h. */
    int64_t prepare_timeout_ms;
    int64_t precopy_timeout_ms;
    int64_t switchover_timeout_ms;
    int64_t refuse_timeout_ms; /* target: how long a loaded guest waits for the source's word */
    /* Defaults of requests that leave them open; 0: 300 ms, unlimited. */
    int64_t downtime_limit_ms;
    uint64_t max_bandwidth; /* bytes per second */
    unsigned connections;   /* 0: by measure */
    /* Transports by QEMU itself: the target's ports, inclusive. */
    uint16_t direct_port_min;
    uint16_t direct_port_max;
    const GwNetworks *plain_networks; /* where transport plain may go, borrowed; NULL: nowhere */
    int64_t connect_timeout_ms;       /* of its connection; 0: 5 s */
    unsigned max_history;             /* finished moves kept, e.g. 1000 */
    unsigned max_incoming;            /* moves to this host at the same time */
} GwMovesOptions;

/* What the operator may choose for one move; zero means default. */
typedef struct GwMoveRequest {
    const char *vm;
    const char *host;
    const char *transport;     /* "auto" (default), "lane", "direct" or "plain" */
    const char *mode;          /* "pre-copy" (default), "post-copy" or "hybrid" */
    int64_t downtime_limit_ms; /* default 300 */
    uint64_t max_bandwidth;    /* bytes per second; default: unlimited */
    int64_t timeout_ms;        /* of the pre-copy; default by configuration */
    int64_t connections;       /* of the lane; default by configuration */
    const char *encodings;     /* those that the lane may use (lane/encodings.h); default: all */
    const char *verify;        /* "off" (default) or "full" */
} GwMoveRequest;

/*
 * Every move is shown as one JSON object, the same for API, CLI and records:
 *   id vm source target role ("source"|"target") transport mode state final outcome
 *   ("completed"|"rolled-back"|"cancelled"|"refused"|"guest-lost"|null) reason error {code,message}
 *   started ended (µs, wall)  percent stage round rate_bytes_s dirty_rate_bytes_s
 *   expected_downtime_ms left_ms  total_ms downtime_ms downtime_qemu_ms  rounds  ram_bytes
 *   the lane's figures at this end (report.c): bytes {wire page zero …} pages … cpu_us memory_bytes
 *   digest, at_target {the same at the other one}, link_use core_s_per_gib target_core_s_per_gib
 *   postcopy (it has switched)  page_requests page_request_us (median; target)
 *   verify {mode timeout_ms pages ms mismatches} (only if it was asked for)
 *   vm_uuid (target)  settled (both hosts know of its end)
 *   unsettled (source, abandoned: why the target has not let go)
 *   source_qemu target_qemu accel  history [{state, reason, at}]
 */
typedef void (*GwMovesJsonFn)(json_t *value, const GError *error, void *data);

/* @changed is told of each transition and, at most 5 times a second, of progress:
 * {"event": "state"|"progress"|"end", "move": {…}}. Borrowed. */
typedef void (*GwMovesEventFn)(json_t *event, void *data);

/* Loads records and starts recovery at once; needs GwVms loaded. */
GwMoves *gw_moves_new(const GwMovesOptions *options, GwMovesJsonFn loaded, void *data) GW_MUST_USE;
/* Leaves moves as they are: recovery at the next start deals with them. */
void gw_moves_free(GwMoves *moves);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwMoves, gw_moves_free)

void gw_moves_set_caps(GwMoves *moves, const GwHostCaps *caps);
void gw_moves_observe(GwMoves *moves, GwMovesEventFn changed, void *data);
void gw_moves_unobserve(GwMoves *moves, void *data);

/*
 * Runs every check and touches nothing: {"vm", "source", "target", "ok": bool, "checks":
 * [{"id", "status": "ok"|"warning"|"error", "message", "remedy"}]}.
 */
void gw_moves_plan(GwMoves *moves, const GwMoveRequest *request, GwMovesJsonFn callback,
                   void *data);

/* Reports the move's object once its record is written; what follows is told as events. */
void gw_moves_start(GwMoves *moves, const GwMoveRequest *request, GwMovesJsonFn callback,
                    void *data);

/* Asks the move to stop; reports the object. GW_ERROR_STATE once the guest was handed over. */
void gw_moves_cancel(GwMoves *moves, const char *id, GwMovesJsonFn callback, void *data);

/*
 * Ends a move that has been given up and cannot end because the other host is gone for good,
 * without its guest: the VM can be started from its disks here. @peer_is_off: the operator's word
 * that the VM does not run on the other host, and will not. Reports the object once what is left of
 * the guest here has ended. GW_ERROR_STATE in any other state, and until the other host has been
 * silent for some seconds; GW_ERROR_INVALID for want of @peer_is_off.
 */
void gw_moves_abandon(GwMoves *moves, const char *id, bool peer_is_off, GwMovesJsonFn callback,
                      void *data);

/* Switches a move that may to post-copy now; reports the object. GW_ERROR_STATE if it cannot. */
void gw_moves_postcopy(GwMoves *moves, const char *id, GwMovesJsonFn callback, void *data);

/* The object of one move; NULL if unknown. Transfer full. */
json_t *gw_moves_get(GwMoves *moves, const char *id) GW_MUST_USE;
/* All, newest first, at most @limit (0: all). Transfer full. */
json_t *gw_moves_list(GwMoves *moves, unsigned limit) GW_MUST_USE;

/* Serves a session of another host whose first message has "service": "move". Lane: transfer full.
 */
void gw_moves_serve(GwLane *lane, json_t *first_message, void *moves);
