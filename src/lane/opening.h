// SPDX-License-Identifier: Apache-2.0
/*
 * A connection being opened by the side that connects: TCP, TLS, greeting.
 *
 * Never waits: the link thread polls `events` of its socket and steps it, beside the connection
 * that it may still have. One address each. One thread.
 */
#pragma once

#include "lane/connection.h"

#include <gio/gio.h>

typedef enum GwOpeningResult {
    GW_OPENING_GOES_ON,
    GW_OPENING_DONE,   /* `connection` and `theirs` are the caller's to take */
    GW_OPENING_FAILED, /* with an error */
} GwOpeningResult;

typedef enum GwOpeningStage {
    GW_OPENING_CONNECTING,
    GW_OPENING_SHAKING_HANDS,
    GW_OPENING_GREETING,
    GW_OPENING_AWAITING_ANSWER,
} GwOpeningStage;

typedef struct GwOpeningTarget {
    GInetAddress *address;
    uint16_t port;
    const char *peer;          /* how messages call it */
    const char *expected_name; /* the identity that it must prove */
    GwLaneCredentials *credentials;
    int64_t timeout_ms; /* of the session, for TCP */
    const char *congestion;
} GwOpeningTarget;

typedef struct GwOpening {
    GwOpeningTarget target; /* borrowed */
    GwHello ours;
    GwOpeningStage stage;
    GwConnection *connection;
    short events;
    int64_t deadline_us; /* of the stage */
    int64_t whole_deadline_us;
    int64_t greeted_us; /* when our greeting left */
    GwHello theirs;
    bool refused; /* the peer said no, in words */
} GwOpening;

/*
 * TCP has to connect until @connect_deadline_us, everything until @deadline_us. Never NULL: what
 * fails at once is told by the first step. @target's content must outlive it.
 */
GwOpening *gw_opening_new(const GwOpeningTarget *target, const GwHello *ours,
                          int64_t connect_deadline_us, int64_t deadline_us);
void gw_opening_free(GwOpening *opening);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwOpening, gw_opening_free)

GwOpeningResult gw_opening_step(GwOpening *opening, GError **error);
