// SPDX-License-Identifier: Apache-2.0
/*
 * The inbox: ordered frames of the peer on their way from the links to whoever handles them.
 *
 * Frames come over several links and, after one was lost, some come twice: order is restored by
 * sequence, what is there already is dropped. What is in order and waits to be handled is bounded:
 * when it is too much the links stop reading, so that TCP holds the peer back. What came ahead of
 * a gap is bounded by what a peer may have in flight; a peer that sends more breaks the protocol.
 *
 * The end of the session travels through it as well: what arrived whole before it is still handled.
 *
 * Any thread; one takes.
 */
#pragma once

#include "lane/pool.h"

/* The links stop reading above this; one frame more of each may arrive. */
#define GW_INBOX_MAX_BYTES  (4u * 1024u * 1024u)
#define GW_INBOX_MAX_FRAMES 1024u

/* Ahead of a gap: the largest window, all control messages and one frame of each link. */
#define GW_INBOX_MAX_AHEAD_BYTES (96u * 1024u * 1024u)

typedef struct GwInbox GwInbox;

/* Called with the inbox unlocked: @all links may read again, or one of them has to acknowledge. */
typedef void (*GwInboxWake)(void *data, bool all);

/*
 * Called for each frame as it gets its place in the order, with the inbox locked: it must not call
 * back. May be left out.
 */
typedef void (*GwInboxAhead)(void *data, GwFrame *frame);

GwInbox *gw_inbox_new(GwInboxWake wake, GwInboxAhead ahead, void *data);
void gw_inbox_free(GwInbox *inbox);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwInbox, gw_inbox_free)

/* @frame: transfer full. GW_ERROR_PROTOCOL when it is too far ahead. */
bool gw_inbox_push(GwInbox *inbox, GwFrame *frame, GError **error) GW_MUST_USE;
/* False: hold the peer back. The links are woken when that changes. */
bool gw_inbox_has_room(GwInbox *inbox);
/*
 * Who takes waits for something that comes over the links (@parked), or does no more: meanwhile
 * they read on, whatever is queued. What a peer may have in flight is the bound then.
 */
void gw_inbox_park(GwInbox *inbox, bool parked);
/* For a greeting. */
void gw_inbox_received(GwInbox *inbox, GwReceived *out);

/* No frame follows. @reason: transfer full, why the session ended; the first one counts. */
void gw_inbox_end(GwInbox *inbox, GError *reason);
/* NULL before the end; borrowed. */
const GError *gw_inbox_end_reason(GwInbox *inbox);

/* The lane is being freed: nobody waits in here any more. */
void gw_inbox_stop(GwInbox *inbox);

/* Waits for the next frame. NULL: the end was reached, or stopped. Transfer full. */
GwFrame *gw_inbox_take(GwInbox *inbox) GW_MUST_USE;

/* The same without waiting: NULL if there is none now. */
GwFrame *gw_inbox_try_take(GwInbox *inbox) GW_MUST_USE;

/* Where stream bytes go: a socket to QEMU, transfer full. Once. */
void gw_inbox_set_sink(GwInbox *inbox, int fd);
/* Waits for the sink. GW_FD_NONE: the session ended without one, or stopped. Stays the inbox's. */
int gw_inbox_wait_sink(GwInbox *inbox);

/* Everything up to @sequence was dealt with; wakes a link to say so to the peer. */
void gw_inbox_handled(GwInbox *inbox, uint64_t sequence);
bool gw_inbox_has_ack(GwInbox *inbox);
/* What has to be acknowledged: true if anything of it grew since the last call. */
bool gw_inbox_take_ack(GwInbox *inbox, GwAck *out);
/* A link was lost that may have had the last acknowledgement: it is to be said again. */
void gw_inbox_ack_again(GwInbox *inbox);
