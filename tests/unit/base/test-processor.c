// SPDX-License-Identifier: Apache-2.0
/* How busy the processors are. */
#include "base/processor.h"

#include <glib.h>

static void
test_reading(void)
{
    GwProcessorTimes first, second;

    g_assert_true(gw_processor_times(&first));
    g_assert_cmpuint(first.all_ticks, >, 0);
    g_assert_cmpuint(first.idle_ticks, <=, first.all_ticks);
    do {
        g_assert_true(gw_processor_times(&second));
    } while (second.all_ticks == first.all_ticks);
    g_assert_cmpuint(gw_processor_idle_percent(&first, &second), <=, 100);
}

static void
test_percent(void)
{
    static const struct {
        GwProcessorTimes before, now;
        unsigned percent;
    } cases[] = {
        {{100, 1000}, {150, 1100}, 50},  {{100, 1000}, {100, 1100}, 0},
        {{100, 1000}, {200, 1100}, 100}, {{100, 1000}, {200, 1050}, 100},
        {{100, 1000}, {90, 1100}, 0},    {{100, 1000}, {100, 1000}, 0},
        {{100, 1000}, {0, 0}, 0},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_assert_cmpuint(gw_processor_idle_percent(&cases[i].before, &cases[i].now), ==,
                         cases[i].percent);
    }
}

static void *
read_own(void *data)
{
    *(uint64_t *)data = gw_thread_cpu_us();
    return NULL;
}

/* Work counts, and only the thread's own. */
static void
test_thread(void)
{
    const uint64_t before = gw_thread_cpu_us();
    uint64_t others = 0;

    while (gw_thread_cpu_us() < before + 20000) {
    }
    g_thread_join(g_thread_new("other", read_own, &others));
    g_assert_cmpuint(others, <, before + 20000);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/processor/reading", test_reading);
    g_test_add_func("/processor/percent", test_percent);
    g_test_add_func("/processor/thread", test_thread);
    return g_test_run();
}
