// SPDX-License-Identifier: Apache-2.0
/*
 * One connection of a session: its state and the moving of frames over it. Link thread only.
 */
#pragma once

#include "lane/session.h"
#include "lane/tls.h"

typedef struct GwLink {
    GwLane *lane;
    GwFd fd;
    GwTls *tls;
    char *peer;      /* how messages call the other side */
    char *peer_name; /* proven */
    bool tell_peer;  /* the failure is to be sent as REFUSE */

    GwFrame *sending;
    size_t sent_bytes; /* of `sending` */
    bool more_to_send; /* the turn was over first */

    uint8_t header[GW_FRAME_HEADER_BYTES];
    size_t header_have;
    GwFrame *receiving;
    size_t payload_have;
    bool more_to_receive;
    uint64_t last_sequence; /* received */
    int64_t heard_us;       /* when bytes came last */

    int64_t ping_due_us;
    uint64_t ping_token; /* = when it was sent; 0: none is out */
    bool ping_pending;
    bool pong_pending;
    uint64_t pong_token;

    int64_t cpu_us;
} GwLink;

/* --- link_open.c ------------------------------------------------------------------------------ */

/*
 * From nothing to an established session: connect or take the accepted socket, TLS, verdict,
 * greeting. False with no error: the lane is being freed.
 */
bool gw_link_open(GwLink *link, GError **error) GW_MUST_USE;

/* --- link_frames.c ---------------------------------------------------------------------------- */

typedef enum GwLinkWait {
    GW_LINK_READY, /* or woken: look at everything */
    GW_LINK_TIMEOUT,
    GW_LINK_STOPPED,
} GwLinkWait;

/* Waits until the socket has @events, the link is woken or @deadline_us. */
GwLinkWait gw_link_wait(GwLink *link, short events, int64_t deadline_us);

/*
 * Sends what `sending` has left. 1: all of it, and the frame is freed and counted; 0: the socket
 * takes no more now; -1: the connection is gone.
 */
int gw_link_send_some(GwLink *link, GError **error);

/* A whole frame if there is one by now: 1 and @out, transfer full; 0; -1: gone or damaged. */
int gw_link_receive_some(GwLink *link, GwFrame **out, GError **error);

/* Both wait, for opening and ending a session. GW_ERROR_TIMEOUT; false without error: stopped. */
bool gw_link_send_frame(GwLink *link, GwFrame *frame, int64_t deadline_us,
                        GError **error) GW_MUST_USE;
GwFrame *gw_link_receive_frame(GwLink *link, int64_t deadline_us, GError **error) GW_MUST_USE;
