// SPDX-License-Identifier: Apache-2.0
/*
 * How much may be in flight: between one and two bandwidth-delay products, measured live.
 *
 *     limit = 1.5 × rate × (rtt + GW_WINDOW_TURN_US)
 *
 * within [GW_WINDOW_MIN_BYTES, GW_WINDOW_MAX_BYTES]; 3 times until the rate has stopped growing for
 * the first time, or TCP has seen a queue. In flight is what was queued and not received by the
 * peer. Half a product of queue keeps the link busy; a whole one would overflow routers that have
 * room for just that.
 *
 * What the peer has not dealt with may be twice as much, to the same maximum: behind a frame that
 * was lost on one connection the others' frames wait at the peer, and the links need not stand
 * still for that.
 *
 * rate: the highest of about the last second, of averages over two round trips and at least 100 ms.
 * What is received counts, in whatever order; what is dealt with comes in bursts. Times in which
 * less than half the limit was in flight say little about the link: they can raise the rate, not
 * lower it.
 *
 * rtt: the smallest seen. Our own queue can stretch the path to about 2 × rtt; when even the
 * best sample of 10 s is more than 4 × as long, the path itself has changed and counts anew.
 *
 * Paced, for a link on which others wait for urgent frames, the limit follows the queue itself, as
 * FAST TCP does: once per flight
 *
 *     limit ×= (1 + (shortest + GW_WINDOW_PACED_US) / recent) / 2
 *
 * with the shortest flight of the last 10 to 20 s, which is without a queue, and the shortest of
 * the last one; twice as fast with each flight that meets no queue, up to a quarter. It settles
 * where GW_WINDOW_PACED_US of queue stand before the narrowest point. Every 10 s half the limit is
 * used for one flight, so that one without a queue is seen. It is not below three quarters of a
 * bandwidth-delay product of the last 10 to 20 s, with the best average over a second (shorter ones
 * are too high where news of what was received come in bursts): flights also take longer when
 * threads do not get a CPU, or TCP paces what it sends by the little that it was given before.
 *
 * A deep queue would lengthen the downtime and lie to QEMU about the drain rate; a shallow one
 * starves the link. Pure: the caller brings the time (monotonic µs). One thread or a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define GW_WINDOW_MIN_BYTES (512u * 1024u)
#define GW_WINDOW_MAX_BYTES (64u * 1024u * 1024u)
/* Threads on both sides take their turns as well: so long together. */
#define GW_WINDOW_TURN_US 2500

/* From this round trip on a path is far: bytes count there, and lost packets take long to mend. */
#define GW_WINDOW_FAR_RTT_US 10000

#define GW_WINDOW_PACED_US        700
#define GW_WINDOW_PACED_MIN_BYTES (32u * 1024u)

#define GW_WINDOW_RATE_SLOTS  5u
#define GW_WINDOW_ACKED_SLOTS 11u
#define GW_WINDOW_SLOTS       64u /* of 20 ms: more than the longest average */

typedef struct GwWindow {
    /* All, ever; acked ≤ received ≤ sent ≤ queued. */
    uint64_t queued_bytes;
    uint64_t sent_bytes;
    uint64_t received_bytes;
    uint64_t acked_bytes;
    int64_t rtt_us;        /* 0: none seen */
    int64_t recent_rtt_us; /* smallest since recent_since_us; 0: none */
    int64_t recent_since_us;
    int64_t flights_us[2];  /* shortest of this and of the last 10 s; 0: none */
    uint64_t best_rates[2]; /* best of a second in the same times, as far as paced */
    int64_t flights_since_us;
    bool paced;
    uint64_t paced_bytes; /* the limit, when paced */
    bool draining;        /* half of it */
    int64_t period_since_us;
    int64_t period_flight_us;           /* shortest since then; 0: none */
    bool period_busy;                   /* the limit was what limited */
    double growth;                      /* of the last flight that met no queue */
    uint64_t received[GW_WINDOW_SLOTS]; /* bytes, a ring of 20 ms slots */
    bool idle[GW_WINDOW_SLOTS];         /* less than half the limit was in flight */
    int64_t slot;
    int64_t first_slot;                   /* when something was received first; 0: never */
    uint64_t rates[GW_WINDOW_RATE_SLOTS]; /* highest averages, a ring of 200 ms slots */
    int64_t rate_slot;
    bool settled; /* the rate has stopped growing */
    uint64_t grown_rate;
    int64_t grown_us;                      /* when it last grew by a quarter */
    uint64_t acked[GW_WINDOW_ACKED_SLOTS]; /* acknowledged bytes, a ring of 100 ms slots */
    int64_t acked_slot;
} GwWindow;

/* What is remembered of a frame while it is in flight. */
typedef struct GwWindowMark {
    uint32_t bytes;
    int64_t sent_us; /* 0: still queued */
    bool busy;       /* half the limit was in flight when it left */
    bool stale;      /* its flight says nothing about the link any more */
} GwWindowMark;

void gw_window_init(GwWindow *window);

/* From now on. */
void gw_window_pace(GwWindow *window);

/* A queue was seen before the link: its rate will not grow any more. */
static inline void
gw_window_full(GwWindow *window)
{
    window->settled = true;
}

/* A frame was queued; it counts as in flight from now on. */
void gw_window_queued(GwWindow *window, uint32_t bytes, GwWindowMark *mark);
/* It was handed to the transport. */
void gw_window_sent(GwWindow *window, GwWindowMark *mark, int64_t now_us);
/* The connection that it was handed to was lost. */
static inline void
gw_window_lost(GwWindowMark *mark)
{
    mark->stale = true;
}
/* The peer has received so many bytes, all told; false: more than were sent. */
bool gw_window_received(GwWindow *window, uint64_t received_bytes, int64_t now_us);
/* It was acknowledged. */
void gw_window_acked(GwWindow *window, const GwWindowMark *mark, int64_t now_us);
/* A round trip was seen by other means. */
void gw_window_rtt(GwWindow *window, int64_t rtt_us, int64_t now_us);

uint64_t gw_window_limit(const GwWindow *window);
/* Queued and not acknowledged. */
uint64_t gw_window_in_flight(const GwWindow *window);
bool gw_window_has_room(const GwWindow *window);
/* The link has enough to do for a while: half of what may queue does. */
bool gw_window_is_filled(const GwWindow *window);
/* What the links are good for, as far as is known: `rate` above. */
uint64_t gw_window_link_rate(const GwWindow *window);
/* Acknowledged over the last second, for people. */
uint64_t gw_window_rate(const GwWindow *window, int64_t now_us);
