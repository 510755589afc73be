// SPDX-License-Identifier: Apache-2.0
/*
 * Percent, time left and the downtime ladder of progress.h. Pure; cannot fail.
 */
#include "core/progress.h"

#define FIRST_ROUND_PERCENT 90.0
#define LADDER_ROUNDS       8
#define QEMU_FIRST_MS       10

/* The share of all work that is done, 0 to 1, ignoring what was shown before. */
static double
done_percent(const GwProgressInput *input)
{
    if (input->total_bytes == 0 || input->round == 0) {
        return 0;
    }
    double left = (double)input->remaining_bytes / (double)input->total_bytes;
    if (left > 1) {
        left = 1;
    }
    if (input->round == 1) {
        return FIRST_ROUND_PERCENT * (1 - left);
    }
    /* Round n covers half of what the rounds before it left over. */
    double begin = FIRST_ROUND_PERCENT;
    for (unsigned round = 2; round < input->round && round < 8; round++) {
        begin += (100 - begin) / 2;
    }
    return begin + (100 - begin) / 2 * (1 - left);
}

/*
 * remaining / drain for this round; what the guest writes meanwhile is drained after it: with
 * r = dirty / drain the rounds form a geometric series, remaining / drain / (1 - r).
 */
static int64_t
left_ms(const GwProgressInput *input)
{
    if (input->drain_bytes_s == 0 || input->dirty_bytes_s >= input->drain_bytes_s) {
        return -1;
    }
    double ratio = (double)input->dirty_bytes_s / (double)input->drain_bytes_s;
    double seconds = (double)input->remaining_bytes / (double)input->drain_bytes_s / (1 - ratio);
    return seconds < 1e9 ? (int64_t)(seconds * 1000) : -1;
}

GwProgress
gw_progress_next(const GwProgress *last, const GwProgressInput *input)
{
    unsigned percent = (unsigned)done_percent(input);

    percent = percent > 99 ? 99 : percent;
    return (GwProgress){
        .percent = percent > last->percent ? percent : last->percent,
        .left_ms = left_ms(input),
    };
}

/* From @first_ms in round 0 and 1 to @limit_ms. */
static int64_t
ladder_ms(int64_t first_ms, int64_t limit_ms, unsigned round)
{
    if (round >= LADDER_ROUNDS) {
        return limit_ms;
    }
    return first_ms + (limit_ms - first_ms) * (round > 1 ? round - 1 : 0) / (LADDER_ROUNDS - 1);
}

int64_t
gw_progress_downtime_limit_ms(int64_t limit_ms, unsigned round)
{
    return ladder_ms(limit_ms / 4 > 0 ? limit_ms / 4 : 1, limit_ms, round);
}

int64_t
gw_progress_qemu_limit_ms(int64_t limit_ms, unsigned round)
{
    int64_t first_ms = limit_ms / 20 > QEMU_FIRST_MS ? limit_ms / 20 : QEMU_FIRST_MS;

    return ladder_ms(first_ms < limit_ms ? first_ms : limit_ms, limit_ms, round);
}
