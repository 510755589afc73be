// SPDX-License-Identifier: Apache-2.0
/*
 * Transport "auto": each fact decides as transport.h says, and says why.
 */
#include "core/transport.h"

#include <glib.h>
#include <string.h>

#define GBIT 125000000ull

typedef struct Case {
    GwTransportFacts facts; /* round trip, rate, cores, no door, plain, no plain */
    GwTransport choice;
    const char *because;
} Case;

static void
check_cases(const Case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        g_autofree char *reason = NULL;
        GwTransport choice = gw_transport_choose(&cases[i].facts, &reason);
        g_test_message("%s: %s", gw_transport_name(choice), reason);
        g_assert_cmpstr(gw_transport_name(choice), ==, gw_transport_name(cases[i].choice));
        g_assert_nonnull(strstr(reason, cases[i].because));
    }
}

static void
test_choices(void)
{
    static const Case cases[] = {
        {{0, 0, 8}, GW_TRANSPORT_LANE, "round trip could not"},
        {{100, 0, 8}, GW_TRANSPORT_LANE, "rate could not"},
        {{GW_TRANSPORT_NEAR_US, 40 * GBIT, 8}, GW_TRANSPORT_LANE, "round trip is 2.0 ms"},
        {{100, 10 * GBIT, 2}, GW_TRANSPORT_LANE, "on 2 cores"},
        {{100, GBIT, 4}, GW_TRANSPORT_LANE, "1.0 Gbit/s are no more than the 4.0"},
        {{100, 10 * GBIT, 4}, GW_TRANSPORT_DIRECT, "carries 10.0 Gbit/s, more than the 4.0"},
        {{100, 10 * GBIT, 4, "a firewall"}, GW_TRANSPORT_LANE, "not possible: a firewall"},
        {{100, 7 * GBIT, 64}, GW_TRANSPORT_LANE, "the 8.0 that"},
        {{100, 9 * GBIT, 64}, GW_TRANSPORT_DIRECT, "more than the 8.0"},
        {{1, UINT64_MAX, UINT32_MAX}, GW_TRANSPORT_DIRECT, "more than the 8.0"},
    };

    check_cases(cases, G_N_ELEMENTS(cases));
}

/* Where it is allowed: on any number of cores, and only over a link that is faster than the lane.
 */
static void
test_plain(void)
{
    static const Case cases[] = {
        {{100, 10 * GBIT, 2, NULL, true}, GW_TRANSPORT_PLAIN, "travels unencrypted, as plain-net"},
        {{100, 10 * GBIT, 1, NULL, true}, GW_TRANSPORT_PLAIN, "carries 10.0 Gbit/s"},
        {{100, 10 * GBIT, 64, NULL, true}, GW_TRANSPORT_PLAIN, "on 64 cores"},
        {{100, 5 * GBIT, 4, NULL, true}, GW_TRANSPORT_PLAIN, "unencrypted"}, /* else direct */
        {{100, 4 * GBIT, 2, NULL, true}, GW_TRANSPORT_PLAIN, "carries 4.0"},
        {{100, 5 * GBIT / 2, 2, NULL, true}, GW_TRANSPORT_LANE, "on 2 cores"},
        {{100, 7 * GBIT, 64, NULL, true}, GW_TRANSPORT_LANE, "the 8.0 that"},
        {{100, GBIT, 2, NULL, true}, GW_TRANSPORT_LANE, "on 2 cores"},
        {{100, GBIT, 64, NULL, true}, GW_TRANSPORT_LANE, "1.0 Gbit/s are no more"},
        {{GW_TRANSPORT_NEAR_US, 40 * GBIT, 8, NULL, true}, GW_TRANSPORT_LANE, "round trip is"},
        {{0, 40 * GBIT, 8, NULL, true}, GW_TRANSPORT_LANE, "round trip could not"},
        {{100, 0, 8, NULL, true}, GW_TRANSPORT_LANE, "rate could not"},
        {{100, 10 * GBIT, 2, "a firewall", true},
         GW_TRANSPORT_LANE,
         "; plain is not possible: a firewall"},
        {{100, 10 * GBIT, 2, NULL, false, "not there"},
         GW_TRANSPORT_LANE,
         "; plain is not possible: not there"},
        {{100, 10 * GBIT, 4, NULL, false, "not there"},
         GW_TRANSPORT_DIRECT,
         "; plain is not possible: not there"},
    };

    check_cases(cases, G_N_ELEMENTS(cases));
    g_autofree char *reason = NULL;
    const GwTransportFacts slow = {100, GBIT, 2, NULL, false, "not there"};
    g_assert_cmpint(gw_transport_choose(&slow, &reason), ==, GW_TRANSPORT_LANE);
    g_assert_null(strstr(reason, "not there")); /* it would not have been chosen */
}

static void
test_names(void)
{
    GwTransport found;

    for (GwTransport i = GW_TRANSPORT_LANE; i < GW_TRANSPORT_N; i++) {
        g_assert_true(gw_transport_parse(gw_transport_name(i), &found));
        g_assert_cmpint(found, ==, i);
    }
    g_assert_false(gw_transport_parse("auto", &found));
    g_assert_false(gw_transport_parse("", &found));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/transport/choices", test_choices);
    g_test_add_func("/transport/plain", test_plain);
    g_test_add_func("/transport/names", test_names);
    return g_test_run();
}
