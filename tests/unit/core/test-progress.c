// SPDX-License-Identifier: Apache-2.0
/*
 * Percent, time left and the downtime ladder.
 */
#include "core/progress.h"

#include <glib.h>

#define GIB (1024ULL * 1024 * 1024)

static void
test_percent_never_runs_back(void)
{
    GRand *random = g_rand_new_with_seed(20261122);
    GwProgress shown = {0};

    g_test_message("seed 20261122");
    for (unsigned round = 1; round < 40; round++) {
        for (unsigned step = 0; step < 10; step++) {
            GwProgressInput input = {
                .total_bytes = GIB,
                .remaining_bytes = (uint64_t)g_rand_int(random) % (2 * GIB),
                .round = round,
                .drain_bytes_s = (uint64_t)g_rand_int(random) % GIB,
                .dirty_bytes_s = (uint64_t)g_rand_int(random) % GIB,
            };
            GwProgress next = gw_progress_next(&shown, &input);
            g_assert_cmpuint(next.percent, >=, shown.percent);
            g_assert_cmpuint(next.percent, <=, 99);
            g_assert_cmpint(next.left_ms, >=, -1);
            shown = next;
        }
    }
    g_rand_free(random);
}

static void
test_first_round(void)
{
    GwProgress none = {0};
    GwProgressInput input = {GIB, GIB / 2, 1, 100 * 1000 * 1000, 0};
    GwProgress half = gw_progress_next(&none, &input);

    g_assert_cmpuint(half.percent, ==, 45);
    g_assert_cmpint(half.left_ms, ==, 5368);
    input.remaining_bytes = 0;
    g_assert_cmpuint(gw_progress_next(&half, &input).percent, ==, 90);
}

static void
test_time_left(void)
{
    GwProgress none = {0};
    GwProgressInput input = {GIB, 1000, 2, 1000, 500};

    /* 1 s for what is left, and half as much again in each round after it. */
    g_assert_cmpint(gw_progress_next(&none, &input).left_ms, ==, 2000);
    input.dirty_bytes_s = 1000;
    g_assert_cmpint(gw_progress_next(&none, &input).left_ms, ==, -1);
    input.drain_bytes_s = 0;
    g_assert_cmpint(gw_progress_next(&none, &input).left_ms, ==, -1);
}

static void
test_nothing_known(void)
{
    GwProgress none = {0};
    GwProgressInput input = {0};

    g_assert_cmpuint(gw_progress_next(&none, &input).percent, ==, 0);
}

static void
test_downtime_ladder(void)
{
    int64_t last = 0;

    for (unsigned round = 0; round < 20; round++) {
        int64_t limit = gw_progress_downtime_limit_ms(300, round);
        g_assert_cmpint(limit, >=, last);
        g_assert_cmpint(limit, <=, 300);
        last = limit;
    }
    g_assert_cmpint(gw_progress_downtime_limit_ms(300, 1), ==, 75);
    g_assert_cmpint(gw_progress_downtime_limit_ms(300, 8), ==, 300);
    g_assert_cmpint(gw_progress_downtime_limit_ms(1, 1), ==, 1);
}

/* It begins far below what is allowed, and gets there all the same. */
static void
test_qemu_ladder(void)
{
    int64_t last = 0;

    for (unsigned round = 0; round < 20; round++) {
        int64_t limit = gw_progress_qemu_limit_ms(300, round);
        g_assert_cmpint(limit, >=, last);
        g_assert_cmpint(limit, <=, 300);
        last = limit;
    }
    g_assert_cmpint(gw_progress_qemu_limit_ms(300, 0), ==, 15);
    g_assert_cmpint(gw_progress_qemu_limit_ms(300, 1), ==, 15);
    g_assert_cmpint(gw_progress_qemu_limit_ms(300, 8), ==, 300);
    g_assert_cmpint(gw_progress_qemu_limit_ms(60, 1), ==, 10);
    g_assert_cmpint(gw_progress_qemu_limit_ms(4, 1), ==, 4);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/progress/percent-never-runs-back", test_percent_never_runs_back);
    g_test_add_func("/progress/first-round", test_first_round);
    g_test_add_func("/progress/time-left", test_time_left);
    g_test_add_func("/progress/nothing-known", test_nothing_known);
    g_test_add_func("/progress/downtime-ladder", test_downtime_ladder);
    g_test_add_func("/progress/qemu-ladder", test_qemu_ladder);
    return g_test_run();
}
