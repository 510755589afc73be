// SPDX-License-Identifier: Apache-2.0
/*
 * The inbox: ordered frames of the peer on their way from the connection to whoever handles them.
 *
 * The connection pushes in order of sequence (it checks that); restoring the order of frames that
 * come over several connections belongs here. It is bounded: when it is full the connection stops
 * reading, so that TCP holds the peer back. The end of the session travels through it as well:
 * what arrived whole before it is still handled.
 *
 * Any thread; one takes.
 */
#pragma once

#include "lane/pool.h"

/* The connection stops reading above this; one frame more may arrive. */
#define GW_INBOX_MAX_BYTES  (4u * 1024u * 1024u)
#define GW_INBOX_MAX_FRAMES 1024u

typedef struct GwInbox GwInbox;

/* @wake_fd: an eventfd that is raised for the connection. Stays the caller's. */
GwInbox *gw_inbox_new(int wake_fd);
void gw_inbox_free(GwInbox *inbox);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwInbox, gw_inbox_free)

/* @frame: transfer full. */
void gw_inbox_push(GwInbox *inbox, GwFrame *frame);
/* False: hold the peer back. The connection is woken when that changes. */
bool gw_inbox_has_room(GwInbox *inbox);

/* No frame follows. @reason: transfer full, why the session ended. */
void gw_inbox_end(GwInbox *inbox, GError *reason);
/* NULL before the end; borrowed. */
const GError *gw_inbox_end_reason(GwInbox *inbox);

/* The lane is being freed: nobody waits in here any more. */
void gw_inbox_stop(GwInbox *inbox);

/* Waits for the next frame. NULL: the end was reached, or stopped. Transfer full. */
GwFrame *gw_inbox_take(GwInbox *inbox) GW_MUST_USE;

/* Where stream bytes go: a socket to QEMU, transfer full. Once. */
void gw_inbox_set_sink(GwInbox *inbox, int fd);
/* Waits for the sink. GW_FD_NONE: the session ended without one, or stopped. Stays the inbox's. */
int gw_inbox_wait_sink(GwInbox *inbox);

/* Everything up to @sequence was dealt with; wakes the connection to say so to the peer. */
void gw_inbox_handled(GwInbox *inbox, uint64_t sequence);
/* What has to be acknowledged: true if @sequence grew since the last call. */
bool gw_inbox_take_ack(GwInbox *inbox, uint64_t *sequence);
