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

#define RATE_SLOT_US  200000
#define ACKED_SLOT_US 100000
#define RECENT_RTT_US 10000000
#define US_PER_SECOND 1000000u
#define PERIOD_MIN_US 2000
#define GROWTH_MAX    0.25

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

static uint64_t
highest_rate(const GwWindow *window)
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
    if (window->sent_bytes == window->acked_bytes) {
        window->acked_us = now_us;
    }
    window->sent_bytes += mark->bytes;
    mark->sent_us = now_us;
    mark->acked_bytes = window->acked_bytes;
    mark->acked_us = window->acked_us;
    mark->link_busy = gw_window_in_flight(window) >= gw_window_limit(window) / 2;
}

static void
take_rate_sample(GwWindow *window, const GwWindowMark *mark, int64_t now_us)
{
    int64_t interval_us = MAX(now_us - mark->acked_us, 1);
    uint64_t bytes = window->acked_bytes - mark->acked_bytes;
    uint64_t rate = bytes * US_PER_SECOND / (uint64_t)interval_us;

    if (!mark->link_busy && rate <= highest_rate(window)) {
        return;
    }
    advance_ring(window->rates, GW_WINDOW_RATE_SLOTS, &window->rate_slot, now_us / RATE_SLOT_US);
    uint64_t *slot = &window->rates[window->rate_slot % GW_WINDOW_RATE_SLOTS];

    *slot = MAX(*slot, rate);
}

static int64_t
shortest_flight_us(const GwWindow *window)
{
    const int64_t *flights_us = window->flights_us;

    return flights_us[0] == 0   ? flights_us[1]
           : flights_us[1] == 0 ? flights_us[0]
                                : MIN(flights_us[0], flights_us[1]);
}

void
gw_window_pace(GwWindow *window)
{
    double bytes = (double)highest_rate(window) * (double)shortest_flight_us(window);

    window->paced_bytes =
        (uint64_t)CLAMP(bytes / US_PER_SECOND, GW_WINDOW_PACED_MIN_BYTES, GW_WINDOW_MAX_BYTES);
    window->paced = true;
    window->draining = true;
    window->period_flight_us = 0;
}

/* One flight is over: the limit follows what it met. */
static void
end_period(GwWindow *window)
{
    int64_t shortest_us = shortest_flight_us(window);
    int64_t queue_us = window->period_flight_us - shortest_us;
    double wanted_us = (double)(shortest_us + GW_WINDOW_PACED_US);
    double factor = (1 + wanted_us / (double)window->period_flight_us) / 2;

    if (!window->period_busy || window->draining) {
        return;
    }
    if (queue_us < GW_WINDOW_PACED_US / 2) {
        window->growth = MIN(MAX(2 * window->growth, factor - 1), GROWTH_MAX);
        factor = 1 + window->growth;
    } else {
        window->growth = 0;
    }
    window->paced_bytes = (uint64_t)CLAMP((double)window->paced_bytes * factor,
                                          GW_WINDOW_PACED_MIN_BYTES, GW_WINDOW_MAX_BYTES);
}

static void
note_flight(GwWindow *window, const GwWindowMark *mark, int64_t now_us)
{
    int64_t flight_us = MAX(now_us - mark->sent_us, 1);
    bool drain = window->flights_us[0] == 0 || now_us - window->flights_since_us >= RECENT_RTT_US;

    if (drain) {
        window->flights_us[1] = window->flights_us[0];
        window->flights_us[0] = flight_us;
        window->flights_since_us = now_us;
    }
    window->flights_us[0] = MIN(window->flights_us[0], flight_us);
    if (window->period_flight_us == 0) {
        window->period_since_us = now_us;
        window->period_flight_us = flight_us;
        window->period_busy = false;
    }
    window->period_flight_us = MIN(window->period_flight_us, flight_us);
    window->period_busy = window->period_busy || mark->link_busy;
    if (drain) {
        window->draining = true;
    } else if (now_us - window->period_since_us >= MAX(flight_us, PERIOD_MIN_US)) {
        end_period(window);
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
        take_rate_sample(window, mark, now_us);
        gw_window_rtt(window, now_us - mark->sent_us, now_us);
        note_flight(window, mark, now_us);
    }
    window->acked_us = now_us;
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
    /* In floating point, as the product of two hostile-looking figures may not overflow. */
    double bytes = 2.0 * (double)highest_rate(window) * (double)window->rtt_us / US_PER_SECOND;

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
    return gw_window_in_flight(window) < gw_window_limit(window);
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
