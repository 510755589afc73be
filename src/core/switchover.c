// SPDX-License-Identifier: Apache-2.0
/*
 * The arithmetic of switchover.h. Owns nothing, no clock; cannot fail.
 *
 * A rate is taken only over a time at whose both ends the link had work; otherwise the guest, not
 * the link, was what was slow. Packing is taken from the second round on: the first one has all the
 * zero pages and what never changes again.
 */
#include "core/switchover.h"

#include <glib.h>
#include <stdbool.h>

/* In QEMU's socket and the lane's batch, taken from neither yet. */
#define ON_THE_WAY_BYTES (256 * 1024)
#define BUSY_BYTES       (256 * 1024)
#define MIN_STREAM_BYTES (16 * 1024)
#define MIN_INTERVAL_US  20000
#define US_PER_SECOND    1e6

/* A guest that writes as fast as the link carries has the lane's queue full in every round. From
 * this round on a longer pause is better than no end. */
#define PATIENT_ROUNDS 30

static double
blend(double before, double sample)
{
    return before > 0 ? (before + sample) / 2 : sample;
}

void
gw_switchover_measure(GwSwitchover *state, const GwSwitchoverInput *input)
{
    const GwSwitchoverInput *last = &state->last;
    int64_t interval_us = input->now_us - last->now_us;

    if (last->now_us > 0 && interval_us < MIN_INTERVAL_US) {
        return;
    }
    double arrived = (double)input->wire_bytes - (double)input->in_flight_bytes -
                     (double)last->wire_bytes + (double)last->in_flight_bytes;
    double taken = (double)input->stream_bytes - (double)last->stream_bytes;
    bool busy = MIN(input->in_flight_bytes, last->in_flight_bytes) >= BUSY_BYTES;

    if (last->now_us > 0 && busy && arrived > 0) {
        state->rate_bytes_s =
            blend(state->rate_bytes_s, arrived * US_PER_SECOND / (double)interval_us);
    } else {
        state->rate_bytes_s = MAX(state->rate_bytes_s, (double)input->rate_bytes_s);
    }
    if (last->round >= 2 && taken >= MIN_STREAM_BYTES) {
        double wire = (double)input->wire_bytes - (double)last->wire_bytes;
        state->packing = blend(state->packing, CLAMP(wire / taken, 0.001, 1.1));
    }
    state->last = *input;
}

/* Time on the wire that a downtime of so much leaves; a limit below what is fixed still gets some.
 */
static double
wire_seconds(const GwSwitchover *state, int64_t limit_ms)
{
    double fixed_ms = GW_SWITCHOVER_FIXED_MS + (double)state->last.rtt_us / 2000;

    return MAX((double)limit_ms - fixed_ms, (double)limit_ms / 4) / 1000;
}

static double
packing_of(const GwSwitchover *state)
{
    return state->packing > 0 ? state->packing : 1;
}

uint64_t
gw_switchover_threshold(const GwSwitchover *state, int64_t limit_ms)
{
    double wire_bytes = state->rate_bytes_s * wire_seconds(state, limit_ms);
    double least = state->last.round >= PATIENT_ROUNDS ? wire_bytes / 4 : 0;
    double room = MAX(wire_bytes - (double)state->last.in_flight_bytes, least);
    double left = room / packing_of(state) - (least > 0 ? 0 : ON_THE_WAY_BYTES);

    return left < 1 ? 1 : left > 1e15 ? (uint64_t)1e15 : (uint64_t)left;
}

int64_t
gw_switchover_expected_ms(const GwSwitchover *state, uint64_t left_bytes)
{
    if (state->rate_bytes_s <= 0) {
        return -1;
    }
    double bytes = (double)state->last.in_flight_bytes +
                   ((double)left_bytes + ON_THE_WAY_BYTES) * packing_of(state);
    double ms = GW_SWITCHOVER_FIXED_MS + (double)state->last.rtt_us / 2000 +
                bytes / state->rate_bytes_s * 1000;

    return (int64_t)MIN(ms, 1e12);
}
