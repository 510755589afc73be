// SPDX-License-Identifier: Apache-2.0
/* What is concluded from TCP's word on a far path. */
#include "lane/link.h"

#define RTT_US 40000u

typedef struct Teller {
    GwLinkPath path;
    int64_t now_us;
    uint32_t n_resent;
} Teller;

/* A look, so much later; @n_resent more packets had to be sent again. */
static GwLinkPathSigns
look(Teller *teller, int64_t later_us, uint32_t rtt_us, uint32_t n_resent)
{
    teller->now_us += later_us;
    teller->n_resent += n_resent;
    const GwLinkPathSample sample = {
        .rtt_us = rtt_us, .min_rtt_us = RTT_US, .n_resent = teller->n_resent};

    return gw_link_path_judge(&teller->path, &sample, teller->now_us);
}

static Teller
teller_new(void)
{
    return (Teller){.now_us = G_USEC_PER_SEC};
}

static void
test_queue(void)
{
    Teller teller = teller_new();

    g_assert_false(look(&teller, 10000, RTT_US, 0).has_queue);
    g_assert_false(look(&teller, 10000, RTT_US * 5 / 4, 0).has_queue);
    g_assert_true(look(&teller, 10000, RTT_US * 5 / 4 + 1, 0).has_queue);
}

static void
test_losses_of_a_queue(void)
{
    Teller teller = teller_new();

    g_assert_false(look(&teller, 10000, 2 * RTT_US, 0).loses_packets);
    /* They are sent again as the queue shrinks, and when it has gone. */
    g_assert_false(look(&teller, 10000, 2 * RTT_US, 80).loses_packets);
    g_assert_false(look(&teller, RTT_US, RTT_US, 40).loses_packets);
    g_assert_false(look(&teller, 6 * RTT_US, RTT_US, 40).loses_packets);
}

static void
test_losses_without_a_queue(void)
{
    Teller teller = teller_new();

    g_assert_false(look(&teller, 10000, RTT_US, 1).loses_packets);
    g_assert_false(look(&teller, G_USEC_PER_SEC, RTT_US + 100, 1).loses_packets);
    g_assert_true(look(&teller, G_USEC_PER_SEC, RTT_US, 1).loses_packets);
    /* And that is so from then on. */
    g_assert_true(look(&teller, G_USEC_PER_SEC, 2 * RTT_US, 0).loses_packets);

    Teller late = teller_new();
    g_assert_false(look(&late, 10000, 2 * RTT_US, 50).loses_packets);
    g_assert_true(look(&late, 9 * RTT_US, RTT_US, 3).loses_packets);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/path/queue", test_queue);
    g_test_add_func("/path/losses-of-a-queue", test_losses_of_a_queue);
    g_test_add_func("/path/losses-without-a-queue", test_losses_without_a_queue);
    return g_test_run();
}
