// SPDX-License-Identifier: Apache-2.0
/*
 * The ladder of efforts and the climbing on it.
 *
 * Owns nothing; pure; one thread; cannot fail. Of a Linux guest that has read its file system a
 * page takes 0.05 us plain, 5.1 at level -7, 7.5 at 1, 13 at 3, 26 at 5 and 44 at 8 with a far
 * view, and comes down to 100, 61, 47, 42, 41 and 38 %. Beyond, 64 us and 140 us take off 0.2 and
 * 0.5 % more (levels 9 and 12).
 */
#include "lane/adapt.h"

#include "lane/encodings.h"

/* Of a period, in percent. */
#define LINK_WAITED    30 /* the link is what holds the stream up */
#define ENCODER_WAITED 20 /* the encoders are */
#define LITTLE_WAITED  5
#define IDLE_TO_CLIMB  25 /* processors, for the rungs beyond COMMON */
#define IDLE_TO_STAY   10
/* Of the encoders' time that a higher rung may take by estimate. */
#define MAX_BUSY 80

/* By which the stream passes faster after a step down, if it was the codec that took so long: of
 * references, finding them is what takes the encoders' time. */
#define MIN_GAIN 10

/* So long a link is believed to be as fast as when it was full, unless it takes so much more. */
#define FULL_US           (3 * (int64_t)G_USEC_PER_SEC)
#define FULL_MORE_PERCENT 25

#define FIRST_PENALTY_US G_USEC_PER_SEC
#define MAX_PENALTY_US   (30 * (int64_t)G_USEC_PER_SEC)

/* From 1 Gbit/s on a delta that takes as long as zstd on the page itself does not pay. */
#define FAST_BYTES_S (125u * 1000u * 1000u)

typedef struct Rung {
    const GwCodec *codec;
    int level;
    unsigned cost; /* of a page, relative; 0: next to nothing */
} Rung;

#define PLAIN  0u
#define COMMON 2u

static const Rung rungs[] = {
    {&gw_codec_plain, 0, 0},         {&gw_codec_zstd_stream, -7, 51},
    {&gw_codec_zstd_stream, 1, 75},  {&gw_codec_zstd_stream, 3, 130},
    {&gw_codec_zstd_stream, 5, 257}, {&gw_codec_zstd_wide, 8, 440},
};

void
gw_adapt_init(GwAdapt *adapt, unsigned encodings_off)
{
    bool zstd = !(encodings_off & GW_ENCODING_ZSTD);

    *adapt = (GwAdapt){
        .rung = zstd ? COMMON : PLAIN,
        .top = zstd ? G_N_ELEMENTS(rungs) - 1 : PLAIN,
        .barred = G_N_ELEMENTS(rungs),
        .penalty_us = FIRST_PENALTY_US / 2,
    };
}

static int64_t
percent(int64_t part_us, int64_t whole_us)
{
    return 100 * part_us / whole_us;
}

/*
 * This rung was too much: down, and not up again for a while. On a near link from the lower ones to
 * plain bodies at once: between them the difference is too small to be told from other changes.
 */
static void
step_down(GwAdapt *adapt, uint64_t bytes_s, bool is_far)
{
    adapt->above_bytes_s = bytes_s;
    adapt->penalty_us = MIN(adapt->penalty_us * 2, MAX_PENALTY_US);
    adapt->barred = adapt->rung;
    adapt->barred_us = adapt->penalty_us;
    adapt->rung = adapt->rung > COMMON || is_far ? adapt->rung - 1 : PLAIN;
}

/* @is_full: the stream had to wait for it in this period, so what it took is what it takes. */
static void
learn_link(GwAdapt *adapt, const GwAdaptSample *sample, bool is_full)
{
    adapt->full_us -= sample->period_us;
    if (is_full) {
        adapt->full_bytes_s = sample->rate_bytes_s;
        adapt->full_us = FULL_US;
    } else if (sample->rate_bytes_s / (100 + FULL_MORE_PERCENT) > adapt->full_bytes_s / 100) {
        adapt->full_us = 0;
    }
}

/* Whether the stream could pass faster a step down. */
static bool
may_pay(const GwAdapt *adapt, uint64_t bytes_s, bool is_far)
{
    bool to_plain = adapt->rung == PLAIN + 1 || (adapt->rung <= COMMON && !is_far);

    return !to_plain || adapt->full_us <= 0 ||
           bytes_s / 100 * (100 + MIN_GAIN) < adapt->full_bytes_s;
}

/* The last step down did not pay: up again, and not down for a while. */
static void
step_back(GwAdapt *adapt)
{
    adapt->rung = adapt->barred;
    adapt->barred = G_N_ELEMENTS(rungs);
    adapt->kept_us = adapt->penalty_us;
}

/* Whether there is time for rung @next, going by what this one takes. */
static bool
may_climb(const GwAdapt *adapt, const GwAdaptSample *sample, unsigned next)
{
    unsigned cost = rungs[adapt->rung].cost;

    if (next > adapt->top || next >= adapt->barred) {
        return false;
    }
    if (next > COMMON && sample->idle_percent < IDLE_TO_CLIMB) {
        return false;
    }
    if (cost == 0) {
        return next == adapt->rung + 1;
    }
    int64_t cpu_us = sample->encoder_cpu_us * rungs[next].cost / cost;
    unsigned n_encoders = rungs[next].codec->single ? 1 : sample->n_encoders;
    int64_t more =
        percent(cpu_us - sample->encoder_cpu_us, sample->period_us * MAX(sample->n_processors, 1));

    return percent(cpu_us, sample->period_us * n_encoders) <= MAX_BUSY &&
           (next <= COMMON || sample->idle_percent >= more + IDLE_TO_STAY);
}

/* To the highest rung that there is time for: what goes over a slow link before is lost. */
static void
climb(GwAdapt *adapt, const GwAdaptSample *sample)
{
    unsigned next = adapt->rung;

    while (may_climb(adapt, sample, next + 1)) {
        next++;
    }
    adapt->rung = next;
}

void
gw_adapt_sample(GwAdapt *adapt, const GwAdaptSample *sample)
{
    if (sample->period_us <= 0 || sample->n_encoders == 0) {
        return;
    }
    int64_t link = percent(sample->waited_link_us, sample->period_us);
    int64_t encoder = percent(sample->waited_encoder_us, sample->period_us);

    uint64_t bytes_s = sample->taken_bytes * G_USEC_PER_SEC / (uint64_t)sample->period_us;
    uint64_t passes_bytes_s = MAX(bytes_s, adapt->passes_bytes_s / 4 * 3);
    /* Of a period as long as the bar, in which the stream stood still, nothing can be told. */
    bool did_not_pay = adapt->barred_us > sample->period_us &&
                       bytes_s < adapt->above_bytes_s / 100 * (100 + MIN_GAIN);
    bool too_slow = encoder >= ENCODER_WAITED && link <= LITTLE_WAITED;

    adapt->fast_link = sample->rate_bytes_s >= FAST_BYTES_S;
    adapt->barred_us -= sample->period_us;
    adapt->kept_us -= sample->period_us;
    adapt->passes_bytes_s = passes_bytes_s;
    learn_link(adapt, sample, link > LITTLE_WAITED);
    adapt->above_bytes_s = 0;
    if (adapt->barred_us <= 0) {
        adapt->barred = G_N_ELEMENTS(rungs);
    }
    if (did_not_pay) {
        step_back(adapt);
    } else if (too_slow && rungs[adapt->rung].codec->single) {
        adapt->rung = COMMON; /* which is what batches in a hurry had */
    } else if (too_slow && adapt->rung > PLAIN && adapt->kept_us <= 0 &&
               may_pay(adapt, passes_bytes_s, sample->is_far)) {
        step_down(adapt, bytes_s, sample->is_far);
    } else if (adapt->rung > COMMON && sample->idle_percent < IDLE_TO_STAY) {
        adapt->rung = COMMON;
    } else if (link >= LINK_WAITED && encoder <= LITTLE_WAITED) {
        climb(adapt, sample);
    }
}

GwBatchEffort
gw_adapt_effort(const GwAdapt *adapt, bool hurry)
{
    /* The others' streams begin anew with another level, and lose more than a wait costs. */
    unsigned rung = hurry && rungs[adapt->rung].codec->single ? COMMON : adapt->rung;

    return (GwBatchEffort){
        .codec = rungs[rung].codec,
        .level = rungs[rung].level,
        .zstd_deltas = rung >= COMMON && !adapt->fast_link,
    };
}
