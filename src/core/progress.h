// SPDX-License-Identifier: Apache-2.0
/*
 * What a person is told while memory travels: a percentage that never runs backwards, the time
 * left, and how much downtime to allow in which round. Pure; any thread.
 *
 * Why not "remaining bytes": it is a saw-tooth. Each round ends near zero and the next one begins
 * with what the guest wrote meanwhile. So the first round, which must pass over all of RAM, counts
 * for 90 %, and each later one covers a part of the rest.
 */
#pragma once

#include <stdint.h>

typedef struct GwProgressInput {
    uint64_t total_bytes;     /* the guest's RAM */
    uint64_t remaining_bytes; /* QEMU's estimate, within this round */
    unsigned round;           /* 1 = the first pass over all memory */
    uint64_t drain_bytes_s;   /* how fast QEMU gets rid of memory, 0: not known yet */
    uint64_t dirty_bytes_s;   /* how fast the guest writes, 0: not known yet */
} GwProgressInput;

typedef struct GwProgress {
    unsigned percent; /* 0 .. 99; 100 is for a move that is done */
    int64_t left_ms;  /* -1: cannot be told, also when the guest writes faster than we drain */
} GwProgress;

/* @last: what was shown before, or all zero. */
GwProgress gw_progress_next(const GwProgress *last, const GwProgressInput *input);

/*
 * The downtime limit for QEMU in @round, up to @limit_ms: a quarter of it at first, so that a guest
 * that can be moved with a shorter pause is, and all of it when a few rounds did not get there.
 */
int64_t gw_progress_downtime_limit_ms(int64_t limit_ms, unsigned round);

/*
 * The same where QEMU alone decides by its own estimate. It takes the limit for what it may leave,
 * also when it could have less at once, and knows nothing of what follows: so it begins much lower.
 */
int64_t gw_progress_qemu_limit_ms(int64_t limit_ms, unsigned round);
