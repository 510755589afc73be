// SPDX-License-Identifier: Apache-2.0
/*
 * Another host, "beta", played by a test: it answers host "alpha" by a script, or asks it, over
 * real sessions on loopback.
 */
#pragma once

#include "../lane/certs.h"
#include "support.h"

typedef struct Peer Peer;

/* What beta does with a message of a session that alpha opened. */
typedef void (*ScriptFn)(Peer *peer, GwLane *lane, json_t *message);

struct Peer {
    char *folder;
    TestCa *ca;
    GwLaneCredentials *alpha;
    GwLaneCredentials *beta;

    /* beta as the target */
    GwLaneServer *server;
    ScriptFn script;
    void *data;
    GPtrArray *sessions; /* of GwLane */
    GString *heard;      /* "check prepare given-up …" */
    guint sink;
    GwLaneWishes wishes; /* the last session's */

    /* alpha as the target */
    GwLaneServer *door;
    GwMoves *moves;
};

void peer_init(Peer *peer, ScriptFn script, void *data);
void peer_clear(Peer *peer);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Peer, peer_clear)

/* For GwMovesNetwork: alpha connects to beta. */
GwLane *peer_connect(const char *host, const GwLaneWishes *wishes, const GwLaneHandlers *handlers,
                     void *data, void *network, GError **error);
const char *peer_address(const char *host, void *network);

/* Sends {"service": "move", "do": @what, "move": of @message} and @extra (transfer full, nullable).
 */
void peer_say(GwLane *lane, const json_t *message, const char *what, json_t *extra);
/* Takes a migration stream and throws it away. */
void peer_swallow_stream(Peer *peer, GwLane *lane);
/* Ends a session from beta's side at once. */
void peer_hang_up(Peer *peer, GwLane *lane);

/* Sessions to alpha are served by @moves from now on. */
void peer_open_door(Peer *peer, GwMoves *moves);

/* beta as the source: one session to alpha. */
typedef struct Caller {
    GwLane *lane;
    bool ready;
    bool closed;
    GPtrArray *answers; /* of json_t */
} Caller;

Caller *caller_new(Peer *peer);
void caller_free(Caller *caller);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Caller, caller_free)
/* @message: transfer full. */
void caller_say(Caller *caller, json_t *message);
/* Waits for an answer more than before; borrowed. */
const json_t *caller_hear(Caller *caller);
