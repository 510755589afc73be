// SPDX-License-Identifier: Apache-2.0
/*
 * Transport "auto": through the lane or from QEMU to QEMU? Pure; any thread.
 *
 * The lane sends less, survives outages and proves what arrived; it costs processor time for each
 * byte that QEMU writes. So it is the choice unless the link is near and carries more than the lane
 * can take from QEMU: then packing only holds it back.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Farther hosts are never moved to directly. */
#define GW_TRANSPORT_NEAR_US 2000

typedef struct GwTransportFacts {
    uint64_t rtt_us;       /* 0: not known */
    uint64_t link_bytes_s; /* measured by a burst; 0: not known */
    unsigned cpus;         /* of this host */
    const char *no_direct; /* why the target's QEMU cannot be reached; NULL: it can */
} GwTransportFacts;

/* Whether to go directly. @reason: for people, transfer full. */
bool gw_transport_is_direct(const GwTransportFacts *facts, char **reason);
