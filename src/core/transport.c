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

/* On 2 cores the lane takes 0.3 to 0.4 GB/s from QEMU where it can refer to little, and QEMU sends
 * up to 2.5 as it is. No more can be asked for: on a veth pair without a limit the burst, which
 * goes over TLS on one connection, measured 0.3 to 1.1 GB/s there. */
#define PLAIN_MIN_BYTES_S (375ull * 1000 * 1000)

static const char *const names[] = {
    [GW_TRANSPORT_LANE] = "lane",
    [GW_TRANSPORT_DIRECT] = "direct",
    [GW_TRANSPORT_PLAIN] = "plain",
};

const char *
gw_transport_name(GwTransport transport)
{
    return names[transport];
}

bool
gw_transport_parse(const char *name, GwTransport *out)
{
    for (unsigned i = 0; i < GW_TRANSPORT_N; i++) {
        if (g_str_equal(name, names[i])) {
            *out = (GwTransport)i;
            return true;
        }
    }
    return false;
}

static uint64_t
lane_bytes_s(unsigned cpus)
{
    return MIN(LANE_CORE_BYTES_S * MAX(cpus / 2, 1), LANE_THREAD_BYTES_S);
}

static double
gbit_s(uint64_t bytes_s)
{
    return (double)bytes_s * 8e-9;
}

/* NULL: the link is near, and its rate is known. */
static char *
why_not_near(const GwTransportFacts *facts)
{
    if (facts->rtt_us == 0) {
        return g_strdup("the round trip could not be measured");
    }
    if (facts->rtt_us >= GW_TRANSPORT_NEAR_US) {
        return g_strdup_printf("the round trip is %.1f ms: what is not sent gains most",
                               (double)facts->rtt_us / 1000);
    }
    if (facts->link_bytes_s == 0) {
        return g_strdup("the link's rate could not be measured");
    }
    return NULL;
}

static bool
direct_gains(const GwTransportFacts *facts)
{
    return facts->cpus >= MIN_CPUS && facts->link_bytes_s > lane_bytes_s(facts->cpus);
}

static bool
plain_gains(const GwTransportFacts *facts)
{
    return facts->link_bytes_s > MAX(lane_bytes_s(facts->cpus), PLAIN_MIN_BYTES_S);
}

static GwTransport
choose_direct(const GwTransportFacts *facts, char **reason)
{
    double link = gbit_s(facts->link_bytes_s);
    double lane = gbit_s(lane_bytes_s(facts->cpus));

    if (facts->cpus < MIN_CPUS) {
        *reason =
            g_strdup_printf("the link carries %.1f Gbit/s; on %u cores direct would hardly be "
                            "faster over any link",
                            link, facts->cpus);
    } else if (!direct_gains(facts)) {
        *reason = g_strdup_printf("the link's %.1f Gbit/s are no more than the %.1f that the lane "
                                  "packs on %u cores",
                                  link, lane, facts->cpus);
    } else if (facts->no_door) {
        *reason = g_strdup_printf("the link carries %.1f Gbit/s, but direct is not possible: %s",
                                  link, facts->no_door);
    } else {
        *reason = g_strdup_printf("the link carries %.1f Gbit/s, more than the %.1f that the lane "
                                  "packs on %u cores",
                                  link, lane, facts->cpus);
        return GW_TRANSPORT_DIRECT;
    }
    return GW_TRANSPORT_LANE;
}

GwTransport
gw_transport_choose(const GwTransportFacts *facts, char **reason)
{
    const char *no_plain = facts->plain ? facts->no_door : facts->no_plain;

    *reason = why_not_near(facts);
    if (*reason) {
        return GW_TRANSPORT_LANE;
    }
    if (facts->plain && !facts->no_door && plain_gains(facts)) {
        *reason = g_strdup_printf("the link carries %.1f Gbit/s, more than the lane takes from "
                                  "QEMU on %u cores; memory travels unencrypted, as plain-networks "
                                  "of both hosts allow",
                                  gbit_s(facts->link_bytes_s), facts->cpus);
        return GW_TRANSPORT_PLAIN;
    }
    GwTransport choice = choose_direct(facts, reason);

    if (no_plain && plain_gains(facts)) {
        char *told = g_strdup_printf("%s; plain is not possible: %s", *reason, no_plain);
        g_free(*reason);
        *reason = told;
    }
    return choice;
}
