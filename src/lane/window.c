// SPDX-License-Identifier: Apache-2.0
/*
 * The in-flight window's arithmetic: window.h tells the rule.
 *
 * Owns nothing but the struct it is given; no clock, no lock, no allocation; cannot fail. Time
 * that stands still or jumps is harmless: intervals are at least 1 µs, rings clear what is old.
 */
#include "lane/window.h"

#include <glib.h>
#include <string.h>

#define SLOT_US       20000
#define MIN_SPAN      5  /* slots of an average */
#define MAX_SPAN      50 /* of the ring's, with room for what is not over yet */
#define GAIN          1.5
#define STARTUP_GAIN  3.0
#define RATE_SLOT_US  200000
#define ACKED_SLOT_US 100000
#define GROWTH_US     200000 /* without growth for two round trips and so long: settled */
#define RECENT_RTT_US 10000000
#define US_PER_SECOND 1000000u
#define PERIOD_MIN_US 2000
#define GROWTH_MAX    0.25
#define PACED_FLOOR   0.75

void
gw_window_init(GwWindow *window)
{
    memset(window, 0, sizeof(*window));
}

/* Moves a ring on to @now_slot, clearing what it passes (all of it at most); never backwards. */
static void
advance_ring(uint64_t *ring, unsigned n_slots, int64_t *slot, int64_t now_slot)
{
    for (unsigned i = 0; i < n_slots && *slot < now_slot; i++) {
        ++*slot;
        ring[*slot % n_slots] = 0;
    }
    *slot = MAX(*slot, now_slot);
}

uint64_t
gw_window_link_rate(const GwWindow *window)
{
    uint64_t highest = 0;

    for (unsigned i = 0; i < GW_WINDOW_RATE_SLOTS; i++) {
        highest = MAX(highest, window->rates[i]);
    }
    return highest;
}

void
gw_window_queued(GwWindow *window, uint32_t bytes, GwWindowMark *mark)
{
    *mark = (GwWindowMark){.bytes = bytes};
    window->queued_bytes += bytes;
}

void
gw_window_sent(GwWindow *window, GwWindowMark *mark, int64_t now_us)
{
    window->sent_bytes += mark->bytes;
    mark->sent_us = now_us;
    mark->busy = window->queued_bytes - window->received_bytes >= gw_window_limit(window) / 2;
}

/* --- rate ------------------------------------------------------------------------------------- */

static void
take_rate_sample(GwWindow *window, uint64_t rate, bool idle, int64_t now_us)
{
    if (idle && rate <= gw_window_link_rate(window)) {
        return;
    }
    advance_ring(window->rates, GW_WINDOW_RATE_SLOTS, &window->rate_slot, now_us / RATE_SLOT_US);
    uint64_t *slot = &window->rates[window->rate_slot % GW_WINDOW_RATE_SLOTS];

    *slot = MAX(*slot, rate);
    if (rate > window->grown_rate + window->grown_rate / 4) {
        window->grown_rate = rate;
        window->grown_us = now_us;
    } else if (!idle && now_us - window->grown_us > 2 * window->rtt_us + GROWTH_US) {
        window->settled = true;
    }
}

/* The slot before @slot is over: the average of the last ones up to it. */
static void
take_average(GwWindow *window, int64_t slot)
{
    int64_t span = CLAMP(2 * window->rtt_us / SLOT_US + 1, MIN_SPAN, MAX_SPAN);
    int64_t since = MAX(slot - span, window->first_slot);
    uint64_t bytes = 0;
    bool idle = false;

    for (int64_t i = since; i < slot; i++) {
        bytes += window->received[i % GW_WINDOW_SLOTS];
        idle = idle || window->idle[i % GW_WINDOW_SLOTS];
    }
    take_rate_sample(window, bytes * US_PER_SECOND / (uint64_t)((slot - since) * SLOT_US), idle,
                     slot * SLOT_US);
}

static void
advance_slots(GwWindow *window, int64_t now_slot)
{
    if (window->first_slot == 0) {
        window->first_slot = window->slot = now_slot;
    }
    /* After a long silence the last slots tell the same as all of them. */
    window->slot = MAX(window->slot, now_slot - (int64_t)GW_WINDOW_SLOTS);
    while (window->slot < now_slot) {
        window->slot++;
        take_average(window, window->slot);
        window->received[window->slot % GW_WINDOW_SLOTS] = 0;
        window->idle[window->slot % GW_WINDOW_SLOTS] = false;
    }
}

bool
gw_window_received(GwWindow *window, uint64_t received_bytes, int64_t now_us)
{
    if (received_bytes > window->sent_bytes) {
        return false;
    }
    if (received_bytes <= window->received_bytes) {
        return true; /* another connection was quicker with news */
    }
    bool idle = window->queued_bytes - window->received_bytes < gw_window_limit(window) / 2;

    advance_slots(window, now_us / SLOT_US);
    window->received[window->slot % GW_WINDOW_SLOTS] += received_bytes - window->received_bytes;
    window->idle[window->slot % GW_WINDOW_SLOTS] |= idle;
    window->received_bytes = received_bytes;
    return true;
}

/* --- acknowledgements and round trips --------------------------------------------------------- */

static int64_t
shortest_flight_us(const GwWindow *window)
{
    const int64_t *flights_us = window->flights_us;

    return flights_us[0] == 0   ? flights_us[1]
           : flights_us[1] == 0 ? flights_us[0]
                                : MIN(flights_us[0], flights_us[1]);
}

/* What is surely not more than the path holds without a queue. */
static double
paced_floor(const GwWindow *window)
{
    double rate = (double)MAX(window->best_rates[0], window->best_rates[1]);
    double bytes = PACED_FLOOR * rate * (double)window->rtt_us / US_PER_SECOND;

    return CLAMP(bytes, GW_WINDOW_PACED_MIN_BYTES, GW_WINDOW_MAX_BYTES);
}

/* The flights so far met the queue of a window that is not paced. */
void
gw_window_pace(GwWindow *window)
{
    double bytes = (double)gw_window_link_rate(window) * (double)window->rtt_us / US_PER_SECOND;

    window->paced_bytes = (uint64_t)CLAMP(bytes, GW_WINDOW_PACED_MIN_BYTES, GW_WINDOW_MAX_BYTES);
    window->paced = true;
    window->draining = true;
    window->period_flight_us = 0;
}

/* One flight is over: the limit follows what it met. */
static void
end_period(GwWindow *window, int64_t now_us)
{
    int64_t shortest_us = shortest_flight_us(window);
    int64_t queue_us = window->period_flight_us - shortest_us;
    double wanted_us = (double)(shortest_us + GW_WINDOW_PACED_US);
    double factor = (1 + wanted_us / (double)window->period_flight_us) / 2;

    window->best_rates[0] = MAX(window->best_rates[0], gw_window_rate(window, now_us));
    if (!window->period_busy || window->draining) {
        return;
    }
    if (queue_us < GW_WINDOW_PACED_US / 2) {
        window->growth = MIN(MAX(2 * window->growth, factor - 1), GROWTH_MAX);
        factor = 1 + window->growth;
    } else {
        window->growth = 0;
    }
    window->paced_bytes = (uint64_t)CLAMP((double)window->paced_bytes * factor, paced_floor(window),
                                          GW_WINDOW_MAX_BYTES);
}

static void
note_flight(GwWindow *window, const GwWindowMark *mark, int64_t now_us)
{
    int64_t flight_us = MAX(now_us - mark->sent_us, 1);
    bool drain = window->flights_us[0] == 0 || now_us - window->flights_since_us >= RECENT_RTT_US;

    if (drain) {
        window->flights_us[1] = window->flights_us[0];
        window->flights_us[0] = flight_us;
        window->best_rates[1] = window->best_rates[0];
        window->best_rates[0] = 0;
        window->flights_since_us = now_us;
    }
    window->flights_us[0] = MIN(window->flights_us[0], flight_us);
    if (window->period_flight_us == 0) {
        window->period_since_us = now_us;
        window->period_flight_us = flight_us;
        window->period_busy = false;
    }
    window->period_flight_us = MIN(window->period_flight_us, flight_us);
    window->period_busy = window->period_busy || mark->busy;
    if (drain) {
        window->draining = true;
        window->period_since_us = now_us; /* for a whole flight */
    } else if (now_us - window->period_since_us >= MAX(flight_us, PERIOD_MIN_US)) {
        end_period(window, now_us);
        window->draining = false;
        window->period_flight_us = 0;
    }
}

void
gw_window_acked(GwWindow *window, const GwWindowMark *mark, int64_t now_us)
{
    window->acked_bytes += mark->bytes;
    advance_ring(window->acked, GW_WINDOW_ACKED_SLOTS, &window->acked_slot, now_us / ACKED_SLOT_US);
    window->acked[window->acked_slot % GW_WINDOW_ACKED_SLOTS] += mark->bytes;
    if (!mark->stale) {
        gw_window_rtt(window, now_us - mark->sent_us, now_us);
        note_flight(window, mark, now_us);
    }
}

void
gw_window_rtt(GwWindow *window, int64_t rtt_us, int64_t now_us)
{
    rtt_us = MAX(rtt_us, 1);
    if (window->recent_rtt_us == 0) {
        window->recent_since_us = now_us;
        window->recent_rtt_us = rtt_us;
    }
    window->recent_rtt_us = MIN(window->recent_rtt_us, rtt_us);
    if (window->rtt_us == 0 || rtt_us < window->rtt_us) {
        window->rtt_us = rtt_us;
    }
    if (now_us - window->recent_since_us >= RECENT_RTT_US) {
        if (window->recent_rtt_us > 4 * window->rtt_us) {
            window->rtt_us = window->recent_rtt_us;
        }
        window->recent_rtt_us = 0;
    }
}

uint64_t
gw_window_limit(const GwWindow *window)
{
    if (window->paced) {
        return window->draining ? window->paced_bytes / 2 : window->paced_bytes;
    }
    double rtt_us = (double)window->rtt_us + GW_WINDOW_TURN_US;
    /* In floating point, as the product of two hostile-looking figures may not overflow. */
    double bytes = (window->settled ? GAIN : STARTUP_GAIN) * (double)gw_window_link_rate(window) *
                   rtt_us / US_PER_SECOND;

    return (uint64_t)CLAMP(bytes, GW_WINDOW_MIN_BYTES, GW_WINDOW_MAX_BYTES);
}

uint64_t
gw_window_in_flight(const GwWindow *window)
{
    return window->queued_bytes - window->acked_bytes;
}

bool
gw_window_has_room(const GwWindow *window)
{
    uint64_t limit = gw_window_limit(window);

    return window->queued_bytes - window->received_bytes < limit &&
           gw_window_in_flight(window) < MIN(2 * limit, GW_WINDOW_MAX_BYTES);
}

bool
gw_window_is_filled(const GwWindow *window)
{
    /* Of 1.5 products one is under way and half a one queues. */
    return window->queued_bytes - window->received_bytes >= gw_window_limit(window) / 4 * 3;
}

uint64_t
gw_window_rate(const GwWindow *window, int64_t now_us)
{
    int64_t now_slot = now_us / ACKED_SLOT_US;
    uint64_t bytes = 0;

    for (unsigned back = 1; back < GW_WINDOW_ACKED_SLOTS; back++) {
        int64_t slot = now_slot - back;

        if (slot >= 0 && slot <= window->acked_slot &&
            window->acked_slot - slot < GW_WINDOW_ACKED_SLOTS) {
            bytes += window->acked[slot % GW_WINDOW_ACKED_SLOTS];
        }
    }
    return bytes;
}
