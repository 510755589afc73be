// SPDX-License-Identifier: Apache-2.0
/*
 * One link of a session: a place for a connection, and the thread that serves it.
 *
 * The thread starts with the link and ends with the session. Connections come from reopen.c on the
 * side that connects, and from the server (gw_link_hand()) on the other.
 */
#pragma once

#include "lane/connection.h"
#include "lane/opening.h"
#include "lane/session.h"

/* What became of a connection that can be used no more. */
typedef enum GwLinkFate {
    GW_LINK_LOST,       /* broken; the session goes on */
    GW_LINK_PEER_ENDED, /* the peer ended the session */
    GW_LINK_BREACHED,   /* the peer sent what it must not */
} GwLinkFate;

/* See link_burst.c. */
typedef struct GwLinkBurst {
    bool running;
    bool in_second_half;
    int64_t began_us; /* 0: never */
    int64_t middle_us;
    uint64_t first_bytes;
    uint64_t sent_bytes;
} GwLinkBurst;

/* Of a connection; see link_path.c. */
typedef struct GwLinkPath {
    int64_t due_us;         /* the next look */
    int64_t queue_us;       /* when there was one last; 0: never */
    uint32_t n_resent;      /* packets, up to the last look */
    uint32_t n_unexplained; /* of them */
    bool is_suited;         /* its congestion control to such losses */
} GwLinkPath;

/* TCP's word on it. */
typedef struct GwLinkPathSample {
    uint32_t rtt_us;
    uint32_t min_rtt_us;
    uint32_t n_resent; /* packets, ever */
} GwLinkPathSample;

typedef struct GwLinkPathSigns {
    bool has_queue;
    bool loses_packets; /* also without one */
} GwLinkPathSigns;

struct GwLink {
    /* --- constant --- */
    GwLane *lane;
    unsigned index;
    GwFd wake_fd;
    bool announces; /* the accepting side's first: READY when its greeting has left */
    bool urgent;    /* for urgent frames alone, while it is up; before the thread starts */

    /* --- atomic --- */
    int idle; /* 1: it waits, and could send something */

    /* --- main context --- */
    pthread_t thread;
    bool runs;
    uint32_t last_attempt; /* accepting side: of the peer, for this link */

    /* --- under the lane's lock --- */
    GwConnection *handed; /* accepting side: the next connection */
    GwHello handed_hello;

    /* --- link thread --- */
    GwConnection *connection; /* NULL: none at the moment */
    char *peer;               /* how messages call the other side */
    int64_t up_since_us;
    bool was_up;
    bool doubtful;   /* silent for too long */
    bool benched;    /* doubtful, and the other links do its work */
    bool fresh;      /* nothing has come over the connection yet */
    bool has_bulk;   /* the connection has brought bulk frames */
    bool has_urgent; /* ... urgent frames */
    bool more_to_send;
    bool more_to_receive;
    GwLinkFate fate;
    GError *trouble;   /* why there is no connection */
    bool said_goodbye; /* over this connection */
    bool goodbye_pending;
    int64_t ping_due_us;
    uint64_t ping_token; /* = when it was sent; 0: none is out */
    bool ping_pending;
    bool pong_pending;
    uint64_t pong_token;
    bool tail_pending;
    int64_t tail_since_us; /* the last ordered frame was sent */
    int64_t tail_sent_us;  /* the last frame was */
    GwLinkBurst burst;
    GwLinkPath path;
    int64_t cpu_us;

    /* --- link thread of the connecting side --- */
    GwOpening *opening;
    bool joins; /* the session exists */
    uint32_t attempt;
    unsigned next_address;
    int64_t retry_us;
    int64_t backoff_us;
};

/* One of @lane's links from now on. NULL: no descriptors. Main context, like the next four. */
GwLink *gw_link_new(GwLane *lane, unsigned index, GError **error) GW_MUST_USE;
bool gw_link_start(GwLink *link, GError **error) GW_MUST_USE;
void gw_link_join(GwLink *link);
void gw_link_free(GwLink *link);
/* @connection: transfer full; it takes the place of the one that the link has, or is closed. */
void gw_link_hand(GwLink *link, GwConnection *connection, const GwHello *hello);

/* --- link.c: for the others ------------------------------------------------------------------- */

/* @connection (transfer full) is the link's from now on; @theirs: the peer's greeting. */
void gw_link_take_over(GwLink *link, GwConnection *connection, const GwHello *theirs);
/* This or another link has said GOODBYE: the peer may end the session now. */
bool gw_link_said_goodbye(GwLink *link);
/* Adds what @connection gave to TCP since the last time. */
void gw_link_count_wire(GwLink *link, GwConnection *connection);

/* --- reopen.c --------------------------------------------------------------------------------- */

/* Gets the link a connection, if it has none or one in doubt, one step at a time. */
void gw_link_reopen(GwLink *link, int64_t now_us);
/* The connection was lost; one that was lost as soon as it was there is given a pause. */
void gw_link_reopen_soon(GwLink *link, int64_t now_us);
/* The connection is heard again: no other is needed. */
void gw_link_stop_reopening(GwLink *link);
/* When gw_link_reopen() has to be called, at the latest. */
int64_t gw_link_reopen_due(const GwLink *link);

/* --- link_burst.c ----------------------------------------------------------------------------- */

void gw_link_burst_begin(GwLink *link, int64_t now_us);
/* The next frame of it; NULL: none. */
GwFrame *gw_link_burst_next(GwLink *link, int64_t now_us);
/* Whether this PONG belongs to it. */
bool gw_link_burst_pong(GwLink *link, uint64_t number, int64_t now_us);

/* --- link_tail.c ------------------------------------------------------------------------------ */

/* A frame of @type was given to the connection. */
void gw_link_tail_sent(GwLink *link, GwFrameType type, int64_t now_us);
/* When a PING is to follow what was sent last; G_MAXINT64: never. */
int64_t gw_link_tail_due(GwLink *link, int64_t now_us);

/* --- link_path.c ------------------------------------------------------------------------------ */

/* While there is a connection, as often as there is something to do. */
void gw_link_path_look(GwLink *link, int64_t now_us);
/* What @sample means. Pure. */
GwLinkPathSigns gw_link_path_judge(GwLinkPath *path, const GwLinkPathSample *sample,
                                   int64_t now_us) GW_MUST_USE;

/* --- link_frames.c ---------------------------------------------------------------------------- */

/* False: the peer is held back. */
bool gw_link_may_read(GwLink *link);
/* One turn each. False: the connection can be used no more, `fate` says how. */
bool gw_link_receive_turn(GwLink *link, GError **error) GW_MUST_USE;
bool gw_link_send_turn(GwLink *link, GError **error) GW_MUST_USE;
