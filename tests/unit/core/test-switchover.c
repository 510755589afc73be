// SPDX-License-Identifier: Apache-2.0
/*
 * When QEMU may stop the guest: measured rates and packing, thresholds, a guest on a slow far link.
 */
#include "core/switchover.h"

#include <glib.h>

#define RATE     12500000u /* 100 Mbit/s */
#define RTT_US   40000u
#define QUEUE    1000000u /* two bandwidth-delay products */
#define LIMIT_MS 150

/* A busy link for a second, @packing in the second round. */
static GwSwitchover
busy(double packing, unsigned round)
{
    GwSwitchover state = {0};
    GwSwitchoverInput input = {.now_us = 1, .round = round, .rtt_us = RTT_US};

    input.in_flight_bytes = QUEUE;
    input.wire_bytes = QUEUE;
    for (unsigned i = 0; i < 10; i++) {
        gw_switchover_measure(&state, &input);
        input.now_us += 100000;
        input.wire_bytes += RATE / 10;
        input.stream_bytes += (uint64_t)(RATE / 10 / packing);
    }
    return state;
}

static void
test_measured(void)
{
    GwSwitchover state = busy(0.25, 2);

    g_assert_cmpfloat_with_epsilon(state.rate_bytes_s, RATE, RATE / 100);
    g_assert_cmpfloat_with_epsilon(state.packing, 0.25, 0.01);
    state = busy(0.001, 1);
    g_assert_cmpfloat(state.packing, ==, 0);

    /* The guest writes little: the link is as fast as it was. */
    GwSwitchoverInput input = state.last;
    for (unsigned i = 0; i < 10; i++) {
        input.now_us += 100000;
        input.wire_bytes += 10000;
        input.in_flight_bytes = 1000;
        input.rate_bytes_s = 100000;
        gw_switchover_measure(&state, &input);
    }
    g_assert_cmpfloat(state.rate_bytes_s, >, RATE / 2);
}

/* What is let through keeps to the limit by the formula in the header. */
static void
test_keeps_to_the_limit(void)
{
    for (double packing = 0.05; packing < 1; packing += 0.1) {
        for (int64_t limit_ms = 160; limit_ms < 1000; limit_ms += 40) {
            GwSwitchover state = busy(packing, 3);
            uint64_t left = gw_switchover_threshold(&state, limit_ms);
            if (left > 1) {
                g_assert_cmpint(gw_switchover_expected_ms(&state, left), <=, limit_ms + 1);
                g_assert_cmpint(gw_switchover_expected_ms(&state, left), >=, limit_ms - 2);
            }
        }
    }
}

static void
test_full_queue_waits(void)
{
    GwSwitchover state = busy(0.5, 3);

    /* 80 ms of queue, 20 ms of way, 35 ms fixed. */
    g_assert_cmpuint(gw_switchover_threshold(&state, 130), ==, 1);
    state.last.in_flight_bytes = 0;
    g_assert_cmpuint(gw_switchover_threshold(&state, 130), >, 1000000);
}

/* Neither a limit that cannot be kept nor a guest that always fills the queue is waited for
 * forever. */
static void
test_ends(void)
{
    GwSwitchover state = busy(0.5, 2);

    state.last.in_flight_bytes = 0;
    g_assert_cmpuint(gw_switchover_threshold(&state, 200), >, 1);
    state = busy(0.5, 100);
    g_assert_cmpuint(gw_switchover_threshold(&state, 50), >, 1);
}

static void
test_nothing_known(void)
{
    GwSwitchover state = {0};
    GwSwitchoverInput input = {.now_us = 5};

    g_assert_cmpuint(gw_switchover_threshold(&state, LIMIT_MS), ==, 1);
    g_assert_cmpint(gw_switchover_expected_ms(&state, 0), ==, -1);
    gw_switchover_measure(&state, &input);
    gw_switchover_measure(&state, &input);
    g_assert_cmpuint(gw_switchover_threshold(&state, LIMIT_MS), ==, 1);
    input = (GwSwitchoverInput){.now_us = 200000, .rate_bytes_s = UINT64_MAX, .wire_bytes = 1};
    gw_switchover_measure(&state, &input);
    g_assert_cmpuint(gw_switchover_threshold(&state, INT64_MAX), ==, (uint64_t)1e15);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/switchover/measured", test_measured);
    g_test_add_func("/switchover/keeps-to-the-limit", test_keeps_to_the_limit);
    g_test_add_func("/switchover/full-queue-waits", test_full_queue_waits);
    g_test_add_func("/switchover/ends", test_ends);
    g_test_add_func("/switchover/nothing-known", test_nothing_known);
    return g_test_run();
}
