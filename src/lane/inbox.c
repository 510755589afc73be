// SPDX-License-Identifier: Apache-2.0
/*
 * Ordered receiving with a bound.
 *
 * Owns received frames until they are taken, the reason of the session's end and the socket to
 * QEMU; `lock` guards all of it. Cannot fail.
 */
#include "lane/inbox.h"

#include "base/fd.h"
#include "lane/wake.h"

#include <pthread.h>

struct GwInbox {
    int wake_fd;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GQueue queue; /* of GwFrame */
    uint64_t queued_bytes;
    bool holding; /* the connection was told to stop reading */
    GError *end_reason;
    bool stopped;
    GwFd sink;
    uint64_t handled;
    uint64_t acked;
};

GwInbox *
gw_inbox_new(int wake_fd)
{
    GwInbox *inbox = g_new0(GwInbox, 1);

    inbox->wake_fd = wake_fd;
    inbox->sink = GW_FD_NONE;
    pthread_mutex_init(&inbox->lock, NULL);
    pthread_cond_init(&inbox->changed, NULL);
    g_queue_init(&inbox->queue);
    return inbox;
}

static void
free_frame(void *frame)
{
    gw_frame_free(frame);
}

void
gw_inbox_free(GwInbox *inbox)
{
    if (!inbox) {
        return;
    }
    g_queue_clear_full(&inbox->queue, free_frame);
    g_clear_error(&inbox->end_reason);
    gw_fd_clear(&inbox->sink);
    pthread_cond_destroy(&inbox->changed);
    pthread_mutex_destroy(&inbox->lock);
    g_free(inbox);
}

void
gw_inbox_push(GwInbox *inbox, GwFrame *frame)
{
    pthread_mutex_lock(&inbox->lock);
    g_queue_push_tail(&inbox->queue, frame);
    inbox->queued_bytes += gw_frame_wire_bytes(frame);
    pthread_cond_signal(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
}

bool
gw_inbox_has_room(GwInbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->holding =
        inbox->queued_bytes >= GW_INBOX_MAX_BYTES || inbox->queue.length >= GW_INBOX_MAX_FRAMES;
    bool room = !inbox->holding;
    pthread_mutex_unlock(&inbox->lock);
    return room;
}

void
gw_inbox_end(GwInbox *inbox, GError *reason)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->end_reason = reason;
    pthread_cond_signal(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
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

GwFrame *
gw_inbox_take(GwInbox *inbox)
{
    bool wake = false;

    pthread_mutex_lock(&inbox->lock);
    while (!inbox->stopped && !inbox->end_reason && g_queue_is_empty(&inbox->queue)) {
        pthread_cond_wait(&inbox->changed, &inbox->lock);
    }
    GwFrame *frame = inbox->stopped ? NULL : g_queue_pop_head(&inbox->queue);
    if (frame) {
        inbox->queued_bytes -= gw_frame_wire_bytes(frame);
        wake = inbox->holding && inbox->queued_bytes < GW_INBOX_MAX_BYTES / 2;
        inbox->holding = inbox->holding && !wake;
    }
    pthread_mutex_unlock(&inbox->lock);
    if (wake) {
        gw_wake_raise(inbox->wake_fd);
    }
    return frame;
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
    bool wake = inbox->handled == inbox->acked;
    inbox->handled = sequence;
    pthread_mutex_unlock(&inbox->lock);
    if (wake) {
        gw_wake_raise(inbox->wake_fd);
    }
}

bool
gw_inbox_take_ack(GwInbox *inbox, uint64_t *sequence)
{
    pthread_mutex_lock(&inbox->lock);
    bool grew = inbox->handled > inbox->acked;
    if (grew) {
        inbox->acked = inbox->handled;
        *sequence = inbox->handled;
    }
    pthread_mutex_unlock(&inbox->lock);
    return grew;
}
