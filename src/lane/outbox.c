// SPDX-License-Identifier: Apache-2.0
/*
 * Ordered sending over links that come and go, and the in-flight window.
 *
 * Owns the frames of the session from push to receipt, their marks and the window; `lock` guards
 * all of it, and no call holds it across a system call. Losing a link or greeting walks over all
 * that is in flight, a few thousand entries at most. Fails only on what a peer acknowledges
 * wrongly, or when control messages pile up.
 */
#include "lane/outbox.h"

#include <pthread.h>

/* Of a paced outbox: small enough not to delay others, large enough to be worth a frame. */
#define PIECES_IN_FLIGHT 32u
#define PIECE_MIN_BYTES  (8u * 1024u)
#define PIECE_MAX_BYTES  (64u * 1024u)

typedef enum FlightState {
    FLIGHT_QUEUED,   /* to be taken: for the first time, or again */
    FLIGHT_SENT,     /* given to `link` */
    FLIGHT_LOST,     /* with its link; nobody knows whether it arrived */
    FLIGHT_RECEIVED, /* and not yet dealt with; the frame is gone */
} FlightState;

typedef struct Flight {
    uint64_t sequence;
    FlightState state;
    unsigned link;
    bool control;
    GwFrame *frame;
    GwWindowMark mark;
} Flight;

struct GwOutbox {
    GwOutboxWake wake;
    void *wake_data;
    pthread_mutex_t lock;
    pthread_cond_t room;
    GQueue flight; /* of Flight: not acknowledged yet, ascending; owned */
    GList *fresh;  /* in `flight`: the first that was never taken */
    GQueue again;  /* of Flight: queued and taken before, ascending */
    uint64_t last_sequence;
    uint64_t taken_sequence;
    uint64_t acked_sequence;
    uint64_t control_bytes; /* in flight */
    unsigned links_up;      /* a bit for each */
    unsigned preferred;     /* of them */
    bool narrow;            /* one of these at a time */
    GwWindow window;
    bool stopped;
};

GwOutbox *
gw_outbox_new(GwOutboxWake wake, void *data)
{
    GwOutbox *outbox = g_new0(GwOutbox, 1);

    outbox->wake = wake;
    outbox->wake_data = data;
    pthread_mutex_init(&outbox->lock, NULL);
    pthread_cond_init(&outbox->room, NULL);
    g_queue_init(&outbox->flight);
    g_queue_init(&outbox->again);
    outbox->preferred = ~0u;
    gw_window_init(&outbox->window);
    return outbox;
}

static void
free_flight(void *data)
{
    Flight *flight = data;

    gw_frame_free(flight->frame);
    g_free(flight);
}

void
gw_outbox_free(GwOutbox *outbox)
{
    if (!outbox) {
        return;
    }
    g_queue_clear(&outbox->again);
    g_queue_clear_full(&outbox->flight, free_flight);
    pthread_cond_destroy(&outbox->room);
    pthread_mutex_destroy(&outbox->lock);
    g_free(outbox);
}

/* --- pushing ---------------------------------------------------------------------------------- */

static void
push_locked(GwOutbox *outbox, GwFrame *frame)
{
    Flight *flight = g_new0(Flight, 1);

    frame->header.sequence = ++outbox->last_sequence;
    gw_frame_encode_header(&frame->header, frame->wire);
    flight->sequence = frame->header.sequence;
    flight->control = frame->header.type == GW_FRAME_CONTROL;
    flight->frame = frame;
    gw_window_queued(&outbox->window, (uint32_t)gw_frame_wire_bytes(frame), &flight->mark);
    if (flight->control) {
        outbox->control_bytes += flight->mark.bytes;
    }
    g_queue_push_tail(&outbox->flight, flight);
    if (!outbox->fresh) {
        outbox->fresh = outbox->flight.tail;
    }
}

uint64_t
gw_outbox_push(GwOutbox *outbox, GwFrame *frame)
{
    gw_frame_trim(frame);
    pthread_mutex_lock(&outbox->lock);
    push_locked(outbox, frame);
    uint64_t sequence = outbox->last_sequence;
    pthread_mutex_unlock(&outbox->lock);
    outbox->wake(outbox->wake_data);
    return sequence;
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
    outbox->wake(outbox->wake_data);
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

bool
gw_outbox_has_room(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    bool has_room = gw_window_has_room(&outbox->window);
    pthread_mutex_unlock(&outbox->lock);
    return has_room;
}

void
gw_outbox_set_paced(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    gw_window_pace(&outbox->window);
    pthread_mutex_unlock(&outbox->lock);
}

uint32_t
gw_outbox_piece_bytes(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t share = gw_window_limit(&outbox->window) / PIECES_IN_FLIGHT;
    bool paced = outbox->window.paced;
    pthread_mutex_unlock(&outbox->lock);
    return paced ? (uint32_t)CLAMP(share, PIECE_MIN_BYTES, PIECE_MAX_BYTES) : 0;
}

void
gw_outbox_link_is_full(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    gw_window_full(&outbox->window);
    pthread_mutex_unlock(&outbox->lock);
}

bool
gw_outbox_is_filled(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    bool filled = gw_window_is_filled(&outbox->window);
    pthread_mutex_unlock(&outbox->lock);
    return filled;
}

/* --- links ------------------------------------------------------------------------------------ */

/* Collects anew what is to be sent again; all of it stands before `fresh`. */
static void
rebuild_again(GwOutbox *outbox)
{
    g_queue_clear(&outbox->again);
    for (GList *item = outbox->flight.head; item && item != outbox->fresh; item = item->next) {
        Flight *flight = item->data;

        if (flight->state == FLIGHT_QUEUED) {
            g_queue_push_tail(&outbox->again, flight);
        }
    }
}

/* What @link was given and is not known to have arrived becomes @state. */
static void
release_link(GwOutbox *outbox, unsigned link, FlightState state)
{
    for (GList *item = outbox->flight.head; item && item != outbox->fresh; item = item->next) {
        Flight *flight = item->data;

        if (flight->state == FLIGHT_SENT && flight->link == link) {
            flight->state = state;
            gw_window_lost(&flight->mark);
        }
    }
    rebuild_again(outbox);
}

/* What the peer has needs no sending; what was lost otherwise is sent again. */
static void
note_received(GwOutbox *outbox, const GwReceived *received)
{
    for (GList *item = outbox->flight.head; item && item != outbox->fresh; item = item->next) {
        Flight *flight = item->data;

        if (gw_received_has(received, flight->sequence)) {
            flight->state = FLIGHT_RECEIVED;
            g_clear_pointer(&flight->frame, gw_frame_free);
        } else if (flight->state == FLIGHT_LOST) {
            flight->state = FLIGHT_QUEUED;
        }
    }
}

void
gw_outbox_link_down(GwOutbox *outbox, unsigned link)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->links_up &= ~(1u << link);
    bool others = outbox->links_up != 0;
    release_link(outbox, link, others ? FLIGHT_QUEUED : FLIGHT_LOST);
    pthread_mutex_unlock(&outbox->lock);
    if (others) {
        outbox->wake(outbox->wake_data);
    }
}

bool
gw_outbox_link_doubtful(GwOutbox *outbox, unsigned link)
{
    pthread_mutex_lock(&outbox->lock);
    bool others = (outbox->links_up & ~(1u << link)) != 0;
    if (others) {
        outbox->links_up &= ~(1u << link);
        release_link(outbox, link, FLIGHT_QUEUED);
    }
    pthread_mutex_unlock(&outbox->lock);
    if (others) {
        outbox->wake(outbox->wake_data);
    }
    return others;
}

void
gw_outbox_link_trusted(GwOutbox *outbox, unsigned link)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->links_up |= 1u << link;
    /* What others lost in the meantime has found its way. */
    note_received(outbox, &(GwReceived){.whole = outbox->acked_sequence});
    rebuild_again(outbox);
    pthread_mutex_unlock(&outbox->lock);
}

/* @sequence is one that may be acknowledged. */
static void
acked_locked(GwOutbox *outbox, uint64_t sequence, int64_t now_us)
{
    outbox->acked_sequence = MAX(outbox->acked_sequence, sequence);
    while (!g_queue_is_empty(&outbox->flight)) {
        Flight *oldest = g_queue_peek_head(&outbox->flight);

        if (oldest->sequence > sequence) {
            break;
        }
        if (g_queue_peek_head(&outbox->again) == oldest) {
            g_queue_pop_head(&outbox->again);
        }
        gw_window_acked(&outbox->window, &oldest->mark, now_us);
        if (oldest->control) {
            outbox->control_bytes -= oldest->mark.bytes;
        }
        free_flight(g_queue_pop_head(&outbox->flight));
    }
    pthread_cond_signal(&outbox->room);
}

/* Nothing may count as received that was not sent. */
static bool
is_possible(const GwOutbox *outbox, const GwReceived *received)
{
    uint64_t last = received->whole;

    for (unsigned bit = 0; bit < 8u * received->map_bytes; bit++) {
        if (received->map[bit / 8] >> (bit % 8) & 1) {
            last = received->whole + 1 + bit;
        }
    }
    return received->whole >= received->handled && received->whole <= outbox->taken_sequence &&
           last <= outbox->taken_sequence;
}

bool
gw_outbox_link_up(GwOutbox *outbox, unsigned link, const GwReceived *received, int64_t now_us,
                  GError **error)
{
    pthread_mutex_lock(&outbox->lock);
    bool possible = is_possible(outbox, received);
    if (possible) {
        acked_locked(outbox, received->handled, now_us);
        /* What the connection before this one was given is as lost as that one is. */
        release_link(outbox, link, FLIGHT_LOST);
        note_received(outbox, received);
        rebuild_again(outbox);
        outbox->links_up |= 1u << link;
    }
    pthread_mutex_unlock(&outbox->lock);
    if (!possible) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer claims to have received what was never sent to it");
    }
    return possible;
}

void
gw_outbox_prefer(GwOutbox *outbox, unsigned mask)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->preferred = mask;
    pthread_mutex_unlock(&outbox->lock);
    outbox->wake(outbox->wake_data);
}

void
gw_outbox_set_narrow(GwOutbox *outbox, bool narrow)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->narrow = narrow;
    pthread_mutex_unlock(&outbox->lock);
    outbox->wake(outbox->wake_data);
}

static bool
may_take(const GwOutbox *outbox, unsigned link)
{
    unsigned mask = outbox->links_up & outbox->preferred;

    if (outbox->narrow) {
        mask &= -mask; /* the lowest */
    }
    return mask == 0 || (mask >> link & 1);
}

/*
 * NULL, or what @link is to send next. The peer need not put up with more than
 * GW_LANE_MAX_UNACKED.
 */
static Flight *
next_flight(const GwOutbox *outbox, unsigned link)
{
    Flight *flight = g_queue_peek_head((GQueue *)&outbox->again);

    if (!may_take(outbox, link)) {
        return NULL;
    }
    if (!flight && outbox->fresh) {
        flight = outbox->fresh->data;
    }
    return flight && flight->sequence <= outbox->acked_sequence + GW_LANE_MAX_UNACKED ? flight
                                                                                      : NULL;
}

bool
gw_outbox_has_work(GwOutbox *outbox, unsigned link)
{
    pthread_mutex_lock(&outbox->lock);
    bool has_work = next_flight(outbox, link) != NULL;
    pthread_mutex_unlock(&outbox->lock);
    return has_work;
}

GwFrame *
gw_outbox_take(GwOutbox *outbox, unsigned link, int64_t now_us)
{
    GwFrame *frame = NULL;

    pthread_mutex_lock(&outbox->lock);
    Flight *flight = next_flight(outbox, link);
    if (flight) {
        if (g_queue_peek_head(&outbox->again) == flight) {
            g_queue_pop_head(&outbox->again);
        } else {
            outbox->fresh = outbox->fresh->next;
            outbox->taken_sequence = flight->sequence;
            gw_window_sent(&outbox->window, &flight->mark, now_us);
        }
        flight->state = FLIGHT_SENT;
        flight->link = link;
        frame = gw_frame_ref(flight->frame);
    }
    pthread_mutex_unlock(&outbox->lock);
    return frame;
}

bool
gw_outbox_acked(GwOutbox *outbox, const GwAck *ack, int64_t now_us, GError **error)
{
    pthread_mutex_lock(&outbox->lock);
    bool known = ack->sequence <= outbox->taken_sequence &&
                 gw_window_received(&outbox->window, ack->received_bytes, now_us);
    if (known) {
        acked_locked(outbox, ack->sequence, now_us);
    }
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

int64_t
gw_outbox_rtt_us(GwOutbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    int64_t rtt_us = outbox->window.rtt_us;
    pthread_mutex_unlock(&outbox->lock);
    return rtt_us;
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
        .queued_bytes = outbox->window.queued_bytes,
        .in_flight_bytes = gw_window_in_flight(&outbox->window),
        .limit_bytes = gw_window_limit(&outbox->window),
        .rate_bytes_s = gw_window_rate(&outbox->window, now_us),
        .link_bytes_s = gw_window_link_rate(&outbox->window),
        .rtt_us = (uint64_t)outbox->window.rtt_us,
    };
    pthread_mutex_unlock(&outbox->lock);
}
