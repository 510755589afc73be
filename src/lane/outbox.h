// SPDX-License-Identifier: Apache-2.0
/*
 * The outbox: what one side of a session sends in order, and what of it is still in flight.
 *
 * Frames get their sequence here. Links take them one by one, the lowest sequence first; they
 * count as in flight from the push until the peer's cumulative acknowledgement. The stream thread
 * asks for room before it takes more from QEMU: that is how back-pressure begins.
 *
 * A frame is kept until the peer is known to have received it. What a link was given and lost goes
 * to the other links at once; without any it waits for the next greeting, which tells exactly
 * what the peer lacks.
 *
 * Any thread. Frames and marks are bounded by the window plus GW_OUTBOX_MAX_CONTROL_BYTES; of a
 * frame that is less than half of a large buffer only what it needs is kept.
 */
#pragma once

#include "lane/pool.h"
#include "lane/window.h"

#define GW_OUTBOX_MAX_CONTROL_BYTES (16u * 1024u * 1024u)

typedef struct GwOutbox GwOutbox;

typedef struct GwOutboxFigures {
    uint64_t queued_bytes; /* ever */
    uint64_t in_flight_bytes;
    uint64_t limit_bytes;
    uint64_t rate_bytes_s; /* over the last second */
    uint64_t link_bytes_s; /* what the links are good for, as far as is known */
    uint64_t rtt_us;
} GwOutboxFigures;

/* Called with the outbox unlocked when there is something to take; @data is its own. */
typedef void (*GwOutboxWake)(void *data);

GwOutbox *gw_outbox_new(GwOutboxWake wake, void *data);
void gw_outbox_free(GwOutbox *outbox);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwOutbox, gw_outbox_free)

/* Stream frames; @frame: transfer full. Returns its sequence. */
uint64_t gw_outbox_push(GwOutbox *outbox, GwFrame *frame);
/* Control frames: GW_ERROR_TOO_LARGE when the peer has not taken so many before it. */
bool gw_outbox_push_control(GwOutbox *outbox, GwFrame *frame, GError **error) GW_MUST_USE;

/* Waits until the window has room. False: the session is over. */
bool gw_outbox_wait_room(GwOutbox *outbox) GW_MUST_USE;
/* Whether the links have enough to do for a while. */
bool gw_outbox_is_filled(GwOutbox *outbox);

/*
 * Keeps little before the narrowest point of the path, so that what does not go through this outbox
 * gets past it: see window.h.
 */
void gw_outbox_set_paced(GwOutbox *outbox);
/* What a frame should not be larger than, for a paced outbox; 0: no such limit. */
uint32_t gw_outbox_piece_bytes(GwOutbox *outbox);
/* TCP has seen a queue: the links carry no more than they do. */
void gw_outbox_link_is_full(GwOutbox *outbox);

/* --- links ------------------------------------------------------------------------------------ */

/*
 * @link has a new connection, whose greeting told what the peer received: that is not sent again,
 * what was lost otherwise is. GW_ERROR_PROTOCOL if it received what was never sent.
 */
bool gw_outbox_link_up(GwOutbox *outbox, unsigned link, const GwReceived *received, int64_t now_us,
                       GError **error) GW_MUST_USE;
/* @link has lost its connection. Fine for one that had none. */
void gw_outbox_link_down(GwOutbox *outbox, unsigned link);
/*
 * @link has a connection that seems dead. True: others send what it was given, too, and it takes
 * nothing more until it is trusted again. False: there are no others.
 */
bool gw_outbox_link_doubtful(GwOutbox *outbox, unsigned link);
void gw_outbox_link_trusted(GwOutbox *outbox, unsigned link);

/* Only the links in @mask (a bit for each) are given frames while any of them is up. */
void gw_outbox_prefer(GwOutbox *outbox, unsigned mask);
/* Only one of those at a time, the first that is up. */
void gw_outbox_set_narrow(GwOutbox *outbox, bool narrow);

/* Whether there is a frame for @link. */
bool gw_outbox_has_work(GwOutbox *outbox, unsigned link);
/* Without waiting. */
bool gw_outbox_has_room(GwOutbox *outbox);
/* The next frame for @link, its header encoded; NULL if there is none. Transfer full. */
GwFrame *gw_outbox_take(GwOutbox *outbox, unsigned link, int64_t now_us) GW_MUST_USE;

/* The peer's word. GW_ERROR_PROTOCOL for what was never sent. */
bool gw_outbox_acked(GwOutbox *outbox, const GwAck *ack, int64_t now_us,
                     GError **error) GW_MUST_USE;
void gw_outbox_rtt(GwOutbox *outbox, int64_t rtt_us, int64_t now_us);

/* The smallest seen; 0: none yet. */
int64_t gw_outbox_rtt_us(GwOutbox *outbox);

/* Everything pushed so far was acknowledged. */
bool gw_outbox_is_settled(GwOutbox *outbox);

/* The session is over: nobody waits in here any more. */
void gw_outbox_stop(GwOutbox *outbox);

void gw_outbox_figures(GwOutbox *outbox, int64_t now_us, GwOutboxFigures *out);
