// SPDX-License-Identifier: Apache-2.0
/*
 * Transport "auto": each fact decides as transport.h says, and says why.
 */
#include "core/transport.h"

#include <glib.h>
#include <string.h>

#define GBIT 125000000ull

static void
test_choices(void)
{
    static const struct {
        GwTransportFacts facts;
        bool direct;
        const char *because;
    } cases[] = {
        {{0, 0, 8, NULL}, false, "round trip could not"},
        {{100, 0, 8, NULL}, false, "rate could not"},
        {{GW_TRANSPORT_NEAR_US, 40 * GBIT, 8, NULL}, false, "round trip is 2.0 ms"},
        {{100, 10 * GBIT, 2, NULL}, false, "on 2 cores"},
        {{100, GBIT, 4, NULL}, false, "1.0 Gbit/s are no more than the 4.0"},
        {{100, 10 * GBIT, 4, NULL}, true, "carries 10.0 Gbit/s, more than the 4.0"},
        {{100, 10 * GBIT, 4, "a firewall"}, false, "not possible: a firewall"},
        {{100, 7 * GBIT, 64, NULL}, false, "the 8.0 that"},
        {{100, 9 * GBIT, 64, NULL}, true, "more than the 8.0"},
        {{1, UINT64_MAX, UINT32_MAX, NULL}, true, "more than the 8.0"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *reason = NULL;
        bool direct = gw_transport_is_direct(&cases[i].facts, &reason);
        g_test_message("%s", reason);
        g_assert_cmpint(direct, ==, cases[i].direct);
        g_assert_nonnull(strstr(reason, cases[i].because));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/transport/choices", test_choices);
    return g_test_run();
}
