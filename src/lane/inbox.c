// SPDX-License-Identifier: Apache-2.0
/*
 * Ordered receiving with bounds.
 *
 * Owns received frames until they are taken, the reason of the session's end and the socket to
 * QEMU; `lock` guards all of it. Fails with GW_ERROR_PROTOCOL on frames beyond the bounds.
 */
#include "lane/inbox.h"

#include "base/fd.h"

#include <pthread.h>
#include <string.h>

struct GwInbox {
    GwInboxWake wake;
    GwInboxAhead announce;
    void *wake_data; /* of both */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GQueue queue; /* of GwFrame: in order */
    uint64_t queued_bytes;
    uint64_t whole;    /* the last sequence that came in order */
    GHashTable *ahead; /* sequence (in the frame) → GwFrame, owned: behind a gap */
    uint64_t ahead_bytes;
    bool holding; /* the links were told to stop reading */
    bool parked;
    GError *end_reason;
    bool stopped;
    GwFd sink;
    uint64_t handled;
    uint64_t received_bytes;
    GwAck acked;
};

static void
free_frame(void *frame)
{
    gw_frame_free(frame);
}

GwInbox *
gw_inbox_new(GwInboxWake wake, GwInboxAhead ahead, void *data)
{
    GwInbox *inbox = g_new0(GwInbox, 1);

    inbox->wake = wake;
    inbox->announce = ahead;
    inbox->wake_data = data;
    inbox->sink = GW_FD_NONE;
    pthread_mutex_init(&inbox->lock, NULL);
    pthread_cond_init(&inbox->changed, NULL);
    g_queue_init(&inbox->queue);
    inbox->ahead = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, free_frame);
    return inbox;
}

void
gw_inbox_free(GwInbox *inbox)
{
    if (!inbox) {
        return;
    }
    g_queue_clear_full(&inbox->queue, free_frame);
    g_hash_table_unref(inbox->ahead);
    g_clear_error(&inbox->end_reason);
    gw_fd_clear(&inbox->sink);
    pthread_cond_destroy(&inbox->changed);
    pthread_mutex_destroy(&inbox->lock);
    g_free(inbox);
}

/* --- order ------------------------------------------------------------------------------------ */

static void
queue_in_order(GwInbox *inbox, GwFrame *frame)
{
    g_queue_push_tail(&inbox->queue, frame);
    inbox->queued_bytes += gw_frame_wire_bytes(frame);
    inbox->whole = frame->header.sequence;
    if (inbox->announce) {
        inbox->announce(inbox->wake_data, frame);
    }
}

/* The gap before them may be closed. */
static void
queue_what_followed(GwInbox *inbox)
{
    uint64_t next = inbox->whole + 1;
    GwFrame *frame;

    while ((frame = g_hash_table_lookup(inbox->ahead, &next))) {
        g_hash_table_steal(inbox->ahead, &next);
        inbox->ahead_bytes -= gw_frame_wire_bytes(frame);
        queue_in_order(inbox, frame);
        next++;
    }
}

/* False: @frame is not taken, there is no room for it. */
static bool
keep_ahead(GwInbox *inbox, GwFrame *frame)
{
    size_t bytes = gw_frame_wire_bytes(frame);

    if (frame->header.sequence - inbox->whole > GW_LANE_MAX_UNACKED ||
        inbox->ahead_bytes + bytes > GW_INBOX_MAX_AHEAD_BYTES) {
        return false;
    }
    gw_frame_trim(frame);
    inbox->ahead_bytes += bytes;
    g_hash_table_insert(inbox->ahead, &frame->header.sequence, frame);
    return true;
}

/* More than any peer may have in flight. */
static bool
is_too_much(const GwInbox *inbox, const GwFrame *frame)
{
    return inbox->queue.length >= GW_LANE_MAX_UNACKED ||
           inbox->queued_bytes + gw_frame_wire_bytes(frame) >
               GW_INBOX_MAX_AHEAD_BYTES + GW_INBOX_MAX_BYTES;
}

bool
gw_inbox_push(GwInbox *inbox, GwFrame *frame, GError **error)
{
    uint64_t sequence = frame->header.sequence;
    size_t bytes = gw_frame_wire_bytes(frame);
    bool possible = true;
    bool taken = false;

    pthread_mutex_lock(&inbox->lock);
    if (sequence == inbox->whole + 1 && is_too_much(inbox, frame)) {
        possible = false;
    } else if (sequence == inbox->whole + 1) {
        taken = true;
        queue_in_order(inbox, frame);
        queue_what_followed(inbox);
        pthread_cond_signal(&inbox->changed);
    } else if (sequence > inbox->whole && !g_hash_table_contains(inbox->ahead, &sequence)) {
        possible = taken = keep_ahead(inbox, frame);
    }
    inbox->received_bytes += taken ? bytes : 0;
    uint64_t whole = inbox->whole;
    pthread_mutex_unlock(&inbox->lock);
    if (!taken) {
        gw_frame_free(frame);
    }
    if (!possible) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent frame %" G_GUINT64_FORMAT " too far out of order: number "
                    "%" G_GUINT64_FORMAT " has not come yet, or too much waits before it",
                    sequence, whole + 1);
    }
    return possible;
}

void
gw_inbox_received(GwInbox *inbox, GwReceived *out)
{
    GHashTableIter iter;
    const uint64_t *sequence;

    memset(out, 0, sizeof(*out));
    pthread_mutex_lock(&inbox->lock);
    out->handled = inbox->handled;
    out->whole = inbox->whole;
    g_hash_table_iter_init(&iter, inbox->ahead);
    while (g_hash_table_iter_next(&iter, (void **)&sequence, NULL)) {
        uint64_t bit = *sequence - inbox->whole - 1;

        if (bit < 8u * GW_RECEIVED_MAP_BYTES) {
            out->map[bit / 8] |= (uint8_t)(1u << (bit % 8));
            out->map_bytes = MAX(out->map_bytes, (uint16_t)(bit / 8 + 1));
        }
    }
    pthread_mutex_unlock(&inbox->lock);
}

/* --- taking and its end ----------------------------------------------------------------------- */

bool
gw_inbox_has_room(GwInbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->holding = !inbox->parked && (inbox->queued_bytes >= GW_INBOX_MAX_BYTES ||
                                        inbox->queue.length >= GW_INBOX_MAX_FRAMES);
    bool room = !inbox->holding;
    pthread_mutex_unlock(&inbox->lock);
    return room;
}

void
gw_inbox_park(GwInbox *inbox, bool parked)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->parked = parked;
    bool wake = parked && inbox->holding;
    inbox->holding = inbox->holding && !parked;
    pthread_mutex_unlock(&inbox->lock);
    if (wake) {
        inbox->wake(inbox->wake_data, true);
    }
}

void
gw_inbox_end(GwInbox *inbox, GError *reason)
{
    pthread_mutex_lock(&inbox->lock);
    bool first = !inbox->end_reason;
    if (first) {
        inbox->end_reason = reason;
    }
    pthread_cond_signal(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
    if (!first) {
        g_error_free(reason);
    }
}

const GError *
gw_inbox_end_reason(GwInbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    const GError *reason = inbox->end_reason;
    pthread_mutex_unlock(&inbox->lock);
    return reason;
}

void
gw_inbox_stop(GwInbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->stopped = true;
    pthread_cond_signal(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
}

static GwFrame *
take_frame(GwInbox *inbox, bool waits)
{
    bool wake = false;

    pthread_mutex_lock(&inbox->lock);
    while (waits && !inbox->stopped && !inbox->end_reason && g_queue_is_empty(&inbox->queue)) {
        pthread_cond_wait(&inbox->changed, &inbox->lock);
    }
    GwFrame *frame = inbox->stopped ? NULL : g_queue_pop_head(&inbox->queue);
    if (frame) {
        inbox->queued_bytes -= gw_frame_wire_bytes(frame);
        wake = inbox->holding && inbox->queued_bytes < GW_INBOX_MAX_BYTES / 2 &&
               inbox->queue.length < GW_INBOX_MAX_FRAMES / 2;
        inbox->holding = inbox->holding && !wake;
    }
    pthread_mutex_unlock(&inbox->lock);
    if (wake) {
        inbox->wake(inbox->wake_data, true);
    }
    return frame;
}

GwFrame *
gw_inbox_take(GwInbox *inbox)
{
    return take_frame(inbox, true);
}

GwFrame *
gw_inbox_try_take(GwInbox *inbox)
{
    return take_frame(inbox, false);
}

void
gw_inbox_set_sink(GwInbox *inbox, int fd)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->sink = fd;
    pthread_cond_signal(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
}

int
gw_inbox_wait_sink(GwInbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    while (inbox->sink < 0 && !inbox->stopped && !inbox->end_reason) {
        pthread_cond_wait(&inbox->changed, &inbox->lock);
    }
    int fd = inbox->sink;
    pthread_mutex_unlock(&inbox->lock);
    return fd;
}

void
gw_inbox_handled(GwInbox *inbox, uint64_t sequence)
{
    pthread_mutex_lock(&inbox->lock);
    bool wake = inbox->handled == inbox->acked.sequence;
    inbox->handled = sequence;
    pthread_mutex_unlock(&inbox->lock);
    if (wake) {
        inbox->wake(inbox->wake_data, false);
    }
}

static bool
has_ack(const GwInbox *inbox)
{
    return inbox->handled > inbox->acked.sequence ||
           inbox->received_bytes > inbox->acked.received_bytes;
}

bool
gw_inbox_has_ack(GwInbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    bool grew = has_ack(inbox);
    pthread_mutex_unlock(&inbox->lock);
    return grew;
}

bool
gw_inbox_take_ack(GwInbox *inbox, GwAck *out)
{
    pthread_mutex_lock(&inbox->lock);
    bool grew = has_ack(inbox);
    if (grew) {
        inbox->acked = (GwAck){inbox->handled, inbox->received_bytes};
        *out = inbox->acked;
    }
    pthread_mutex_unlock(&inbox->lock);
    return grew;
}

void
gw_inbox_ack_again(GwInbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->acked = (GwAck){0};
    bool wake = inbox->received_bytes > 0;
    pthread_mutex_unlock(&inbox->lock);
    if (wake) {
        inbox->wake(inbox->wake_data, false);
    }
}
