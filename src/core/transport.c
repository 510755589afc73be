// SPDX-License-Identifier: Apache-2.0
/*
 * The rule of transport.h. Owns nothing; cannot fail.
 */
#include "core/transport.h"

#include <glib.h>

/* What the lane takes from QEMU: a core packs and encrypts 250 to 300 MB/s (zstd 1, AES-GCM, EPYC;
 * docs/performance.md: processor time by QEMU's bytes), half of the cores are the guests', and one
 * thread reads QEMU's stream. */
#define MIN_CPUS            4 /* with fewer, direct gained a fifth at most: the rest is worth more */
#define LANE_CORE_BYTES_S   (250ull * 1000 * 1000)
#define LANE_THREAD_BYTES_S (1000ull * 1000 * 1000)

static uint64_t
lane_bytes_s(unsigned cpus)
{
    return MIN(LANE_CORE_BYTES_S * MAX(cpus / 2, 1), LANE_THREAD_BYTES_S);
}

bool
gw_transport_is_direct(const GwTransportFacts *facts, char **reason)
{
    double link = (double)facts->link_bytes_s * 8e-9;
    double lane = (double)lane_bytes_s(facts->cpus) * 8e-9;

    if (facts->rtt_us == 0) {
        *reason = g_strdup("the round trip could not be measured");
    } else if (facts->rtt_us >= GW_TRANSPORT_NEAR_US) {
        *reason = g_strdup_printf("the round trip is %.1f ms: what is not sent gains most",
                                  (double)facts->rtt_us / 1000);
    } else if (facts->link_bytes_s == 0) {
        *reason = g_strdup("the link's rate could not be measured");
    } else if (facts->cpus < MIN_CPUS) {
        *reason = g_strdup_printf("on %u cores the other way would hardly be faster over any link",
                                  facts->cpus);
    } else if (link <= lane) {
        *reason = g_strdup_printf("the link's %.1f Gbit/s are no more than the %.1f that the lane "
                                  "packs on %u cores",
                                  link, lane, facts->cpus);
    } else if (facts->no_direct) {
        *reason = g_strdup_printf("the link carries %.1f Gbit/s, but direct is not possible: %s",
                                  link, facts->no_direct);
    } else {
        *reason = g_strdup_printf("the link carries %.1f Gbit/s, more than the %.1f that the lane "
                                  "packs on %u cores",
                                  link, lane, facts->cpus);
        return true;
    }
    return false;
}
