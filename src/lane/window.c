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
    window->sent_bytes += mark->bytes;
    mark->sent_us = now_us;
}

/* --- rate ------------------------------------------------------------------------------------- */

static void
take_rate_sample(GwWindow *window, uint64_t rate, bool idle, int64_t now_us)
{
    if (idle && rate <= highest_rate(window)) {
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

void
gw_window_acked(GwWindow *window, const GwWindowMark *mark, int64_t now_us)
{
    window->acked_bytes += mark->bytes;
    advance_ring(window->acked, GW_WINDOW_ACKED_SLOTS, &window->acked_slot, now_us / ACKED_SLOT_US);
    window->acked[window->acked_slot % GW_WINDOW_ACKED_SLOTS] += mark->bytes;
    if (!mark->stale) {
        gw_window_rtt(window, now_us - mark->sent_us, now_us);
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
    double rtt_us = (double)MAX(window->rtt_us, GW_WINDOW_MIN_RTT_US);
    /* In floating point, as the product of two hostile-looking figures may not overflow. */
    double bytes = (window->settled ? GAIN : STARTUP_GAIN) * (double)highest_rate(window) * rtt_us /
                   US_PER_SECOND;

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
