// SPDX-License-Identifier: Apache-2.0
/*
 * The ways that a guest's memory may take, and which of them "auto" chooses. Pure; any thread.
 *
 * The lane sends less, survives outages and proves what arrived; it costs processor time for each
 * byte that QEMU writes. So it is the choice unless the link is near and carries more than the lane
 * can take from QEMU: then packing only holds it back.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef enum GwTransport {
    GW_TRANSPORT_LANE,   /* through both daemons */
    GW_TRANSPORT_DIRECT, /* from QEMU to QEMU, over TLS */
    GW_TRANSPORT_PLAIN,  /* the same, neither encrypted nor digested */
    GW_TRANSPORT_N,
} GwTransport;

const char *gw_transport_name(GwTransport transport);
/* False: @name is none of them, as "auto" is not. */
bool gw_transport_parse(const char *name, GwTransport *out);

/* Farther hosts are never moved to from QEMU to QEMU. */
#define GW_TRANSPORT_NEAR_US 2000

typedef struct GwTransportFacts {
    uint64_t rtt_us;       /* 0: not known */
    uint64_t link_bytes_s; /* measured by a burst; 0: not known */
    unsigned cpus;         /* of this host */
    const char *no_door;   /* why the target's ports cannot be reached; NULL: they can */
    bool plain;            /* both hosts' configurations allow it */
    const char *no_plain;  /* why not, if that is worth telling; nullable */
} GwTransportFacts;

/* @reason: for people, transfer full. */
GwTransport gw_transport_choose(const GwTransportFacts *facts, char **reason);
