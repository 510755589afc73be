// SPDX-License-Identifier: Apache-2.0
/*
 * When may QEMU stop the guest? With so many bytes left that the guest is away no longer than it
 * may. Pure; any thread.
 *
 * Left to itself QEMU takes the rate at which it gets rid of bytes for the link's. Behind it the
 * lane packs them, some to a tenth, and has one to two bandwidth-delay products of them in flight,
 * which have to arrive, too, before the guest can start:
 *
 *     downtime = FIXED + rtt / 2 + (in flight + left × packing) / rate
 *
 * All of it is measured while the stream runs. The allowance grows round by round (progress.h), so
 * a guest that can move with a shorter pause does.
 */
#pragma once

#include <stdint.h>

/* Device state, both hosts' records, loading and starting: what no link makes faster. */
#define GW_SWITCHOVER_FIXED_MS 35

typedef struct GwSwitchoverInput {
    int64_t now_us;
    uint64_t wire_bytes;   /* sent, ever */
    uint64_t stream_bytes; /* taken from QEMU, ever */
    uint64_t in_flight_bytes;
    uint64_t rate_bytes_s; /* acknowledged over the last second */
    uint64_t rtt_us;
    unsigned round; /* 1 = the first pass over all memory */
} GwSwitchoverInput;

typedef struct GwSwitchover {
    GwSwitchoverInput last;
    double rate_bytes_s; /* of the link, on the wire; 0: not known yet */
    double packing;      /* bytes on the wire for one of QEMU's; 0: not known yet */
} GwSwitchover;

/* Takes new measurements in; @state begins as zeros. */
void gw_switchover_measure(GwSwitchover *state, const GwSwitchoverInput *input);

/* How many bytes QEMU may have left when it stops the guest, for a downtime of @limit_ms; at least
 * one. */
uint64_t gw_switchover_threshold(const GwSwitchover *state, int64_t limit_ms);

/* The downtime if the guest were stopped now; -1: cannot be told yet. */
int64_t gw_switchover_expected_ms(const GwSwitchover *state, uint64_t left_bytes);
