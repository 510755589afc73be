// SPDX-License-Identifier: Apache-2.0
/*
 * The outbox: what one side of a session sends in order, and what of it is still in flight.
 *
 * Frames get their sequence here and leave in that order. The connection takes them one by one;
 * they count as in flight from the push until the peer's cumulative acknowledgement. The stream
 * thread asks for room before it takes more from QEMU: that is how back-pressure begins.
 *
 * Frames are let go of as soon as the connection has sent them, as a session lives and dies with
 * its one connection. Several connections, and sending again what a lost one had not acknowledged,
 * belong here: `flight` has the sequence of every such frame.
 *
 * Any thread. Frames and marks are bounded by the window plus GW_OUTBOX_MAX_CONTROL_BYTES.
 */
#pragma once

#include "lane/pool.h"
#include "lane/window.h"

#define GW_OUTBOX_MAX_CONTROL_BYTES (16u * 1024u * 1024u)

typedef struct GwOutbox GwOutbox;

typedef struct GwOutboxFigures {
    uint64_t in_flight_bytes;
    uint64_t limit_bytes;
    uint64_t rate_bytes_s;
    uint64_t rtt_us;
} GwOutboxFigures;

/* @wake_fd: an eventfd that is raised when there is something to take. Stays the caller's. */
GwOutbox *gw_outbox_new(int wake_fd);
void gw_outbox_free(GwOutbox *outbox);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwOutbox, gw_outbox_free)

/* Stream frames; @frame: transfer full. */
void gw_outbox_push(GwOutbox *outbox, GwFrame *frame);
/* Control frames: GW_ERROR_TOO_LARGE when the peer has not taken so many before it. */
bool gw_outbox_push_control(GwOutbox *outbox, GwFrame *frame, GError **error) GW_MUST_USE;

/* Waits until the window has room. False: the session is over. */
bool gw_outbox_wait_room(GwOutbox *outbox) GW_MUST_USE;

/* The next frame to send, its header encoded; NULL if there is none. Transfer full. */
GwFrame *gw_outbox_take(GwOutbox *outbox, int64_t now_us) GW_MUST_USE;

/* The peer acknowledged up to @sequence. GW_ERROR_PROTOCOL for what was never sent. */
bool gw_outbox_acked(GwOutbox *outbox, uint64_t sequence, int64_t now_us,
                     GError **error) GW_MUST_USE;
void gw_outbox_rtt(GwOutbox *outbox, int64_t rtt_us, int64_t now_us);

/* Everything pushed so far was acknowledged. */
bool gw_outbox_is_settled(GwOutbox *outbox);

/* The session is over: nobody waits in here any more. */
void gw_outbox_stop(GwOutbox *outbox);

void gw_outbox_figures(GwOutbox *outbox, int64_t now_us, GwOutboxFigures *out);
