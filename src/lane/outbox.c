// SPDX-License-Identifier: Apache-2.0
/*
 * Ordered sending and the in-flight window.
 *
 * Owns queued frames, the marks of frames in flight and the window; `lock` guards all of it, and
 * no call holds it across a system call but the raising of an eventfd. Fails only on what a peer
 * acknowledges wrongly, or when control messages pile up.
 */
#include "lane/outbox.h"

#include "lane/wake.h"

#include <pthread.h>

typedef struct Flight {
    uint64_t sequence;
    bool control;
    GwWindowMark mark;
} Flight;

struct GwOutbox {
    int wake_fd;
    pthread_mutex_t lock;
    pthread_cond_t room;
    GQueue queue;  /* of GwFrame: not taken yet */
    GQueue flight; /* of Flight: not acknowledged yet, ascending */
    uint64_t last_sequence;
    uint64_t taken_sequence;
    uint64_t control_bytes; /* in flight */
    GwWindow window;
    bool stopped;
};

GwOutbox *
gw_outbox_new(int wake_fd)
{
    GwOutbox *outbox = g_new0(GwOutbox, 1);

    outbox->wake_fd = wake_fd;
    pthread_mutex_init(&outbox->lock, NULL);
    pthread_cond_init(&outbox->room, NULL);
    g_queue_init(&outbox->queue);
    g_queue_init(&outbox->flight);
    gw_window_init(&outbox->window);
    return outbox;
}

static void
free_frame(void *frame)
{
    gw_frame_free(frame);
}

void
gw_outbox_free(GwOutbox *outbox)
{
    if (!outbox) {
        return;
    }
    g_queue_clear_full(&outbox->queue, free_frame);
    g_queue_clear_full(&outbox->flight, g_free);
    pthread_cond_destroy(&outbox->room);
    pthread_mutex_destroy(&outbox->lock);
    g_free(outbox);
}

static void
push_locked(GwOutbox *outbox, GwFrame *frame)
{
    Flight *flight = g_new0(Flight, 1);

    frame->header.sequence = ++outbox->last_sequence;
    flight->sequence = frame->header.sequence;
    flight->control = frame->header.type == GW_FRAME_CONTROL;
    gw_window_queued(&outbox->window, (uint32_t)gw_frame_wire_bytes(frame), &flight->mark);
    if (flight->control) {
        outbox->control_bytes += flight->mark.bytes;
    }
    g_queue_push_tail(&outbox->queue, frame);
    g_queue_push_tail(&outbox->flight, flight);
}

void
gw_outbox_push(GwOutbox *outbox, GwFrame *frame)
{
    pthread_mutex_lock(&outbox->lock);
    push_locked(outbox, frame);
    pthread_mutex_unlock(&outbox->lock);
    gw_wake_raise(outbox->wake_fd);
}

bool
gw_outbox_push_control(GwOutbox *outbox, GwFrame *frame, GError **error)
{
    pthread_mutex_lock(&outbox->lock);
    bool fits = outbox->control_bytes + gw_frame_wire_bytes(frame) <= GW_OUTBOX_MAX_CONTROL_BYTES;
    if (fits) {
        push_locked(outbox, frame);
    }
    pthread_mutex_unlock(&outbox->lock);
    if (!fits) {
        gw_frame_free(frame);
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "the peer has not taken the last %u MiB of control messages",
                    GW_OUTBOX_MAX_CONTROL_BYTES >> 20);
        return false;
    }
    gw_wake_raise(outbox->wake_fd);
    return true;
}

bool
gw_outbox_wait_room(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    while (!outbox->stopped && !gw_window_has_room(&outbox->window)) {
        pthread_cond_wait(&outbox->room, &outbox->lock);
    }
    bool go_on = !outbox->stopped;
    pthread_mutex_unlock(&outbox->lock);
    return go_on;
}

/* Frames are taken in order, so the frame's mark stands where the untaken part of flight begins. */
static Flight *
find_flight(GwOutbox *outbox, uint64_t sequence)
{
    guint untaken = outbox->queue.length + 1;
    Flight *flight = g_queue_peek_nth(&outbox->flight, outbox->flight.length - untaken);

    g_assert(flight && flight->sequence == sequence);
    return flight;
}

GwFrame *
gw_outbox_take(GwOutbox *outbox, int64_t now_us)
{
    pthread_mutex_lock(&outbox->lock);
    GwFrame *frame = g_queue_pop_head(&outbox->queue);
    if (frame) {
        outbox->taken_sequence = frame->header.sequence;
        gw_window_sent(&outbox->window, &find_flight(outbox, frame->header.sequence)->mark, now_us);
    }
    pthread_mutex_unlock(&outbox->lock);
    if (frame) {
        gw_frame_encode_header(&frame->header, frame->wire);
    }
    return frame;
}

bool
gw_outbox_acked(GwOutbox *outbox, uint64_t sequence, int64_t now_us, GError **error)
{
    pthread_mutex_lock(&outbox->lock);
    bool known = sequence <= outbox->taken_sequence;
    while (known && !g_queue_is_empty(&outbox->flight)) {
        Flight *oldest = g_queue_peek_head(&outbox->flight);

        if (oldest->sequence > sequence) {
            break;
        }
        gw_window_acked(&outbox->window, &oldest->mark, now_us);
        if (oldest->control) {
            outbox->control_bytes -= oldest->mark.bytes;
        }
        g_free(g_queue_pop_head(&outbox->flight));
    }
    pthread_cond_signal(&outbox->room);
    pthread_mutex_unlock(&outbox->lock);
    if (!known) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer acknowledged a frame that was never sent to it");
    }
    return known;
}

void
gw_outbox_rtt(GwOutbox *outbox, int64_t rtt_us, int64_t now_us)
{
    pthread_mutex_lock(&outbox->lock);
    gw_window_rtt(&outbox->window, rtt_us, now_us);
    pthread_mutex_unlock(&outbox->lock);
}

bool
gw_outbox_is_settled(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    bool settled = g_queue_is_empty(&outbox->flight);
    pthread_mutex_unlock(&outbox->lock);
    return settled;
}

void
gw_outbox_stop(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->stopped = true;
    pthread_cond_broadcast(&outbox->room);
    pthread_mutex_unlock(&outbox->lock);
}

void
gw_outbox_figures(GwOutbox *outbox, int64_t now_us, GwOutboxFigures *out)
{
    pthread_mutex_lock(&outbox->lock);
    *out = (GwOutboxFigures){
        .in_flight_bytes = gw_window_in_flight(&outbox->window),
        .limit_bytes = gw_window_limit(&outbox->window),
        .rate_bytes_s = gw_window_rate(&outbox->window, now_us),
        .rtt_us = (uint64_t)outbox->window.rtt_us,
    };
    pthread_mutex_unlock(&outbox->lock);
}
