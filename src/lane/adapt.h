// SPDX-License-Identifier: Apache-2.0
/*
 * How much work is put into batches: as much as makes the stream pass soonest.
 *
 * Six efforts, from plain bodies to zstd at level 8 with a window of 64 MiB, which takes so much
 * memory at either end, and only there. Which is right follows from what the stream
 * thread waits for. For the link: more effort makes less to send. For the encoders: they are
 * slower than the link, and less effort is quicker. For QEMU: neither is in the way, and the effort
 * stays. An effort that was too slow is tried again only after a while, each time a longer one; if
 * the stream does not pass faster with less of it, it was not too slow. Plain bodies are not tried
 * when the stream passes as fast already as the link takes bytes: a stall of a period, in which all
 * threads stand still, is no reason.
 *
 * What is beyond zstd at level 1 costs more than it gains unless processors have nothing to do: the
 * guest and its QEMU come first.
 *
 * Pure; the owner brings the time and the measures, every GW_ADAPT_PERIOD_US or so. One thread.
 */
#pragma once

#include "lane/batch.h"

#define GW_ADAPT_PERIOD_US (200 * 1000)

typedef struct GwAdaptSample {
    int64_t period_us;         /* that it is about */
    int64_t waited_link_us;    /* by the stream thread, for room in the window */
    int64_t waited_encoder_us; /* by the stream thread, for encoders */
    int64_t encoder_cpu_us;    /* of all encoders */
    unsigned n_encoders;
    unsigned n_processors; /* of this host */
    unsigned idle_percent; /* of this host's processors */
    bool is_far;           /* the link is, where each byte counts */
    uint64_t rate_bytes_s; /* of the link, as far as is known */
    uint64_t taken_bytes;  /* of the stream, in the period */
} GwAdaptSample;

typedef struct GwAdapt {
    unsigned rung;
    unsigned top; /* the highest rung allowed */
    bool fast_link;
    unsigned barred;         /* from this rung on, none for the time being */
    int64_t barred_us;       /* so long yet */
    int64_t penalty_us;      /* and so long the last time */
    uint64_t above_bytes_s;  /* how fast the stream passed before the last step down; 0: known */
    int64_t kept_us;         /* no step down so long yet */
    uint64_t passes_bytes_s; /* the stream: the fastest of the last periods, older ones less */
    uint64_t full_bytes_s;   /* of the link, when it last was what limited */
    int64_t full_us;         /* believed so long yet */
} GwAdapt;

/* @encodings_off: of GwEncoding. */
void gw_adapt_init(GwAdapt *adapt, unsigned encodings_off);
void gw_adapt_sample(GwAdapt *adapt, const GwAdaptSample *sample);
/* Of the next batch. @hurry: the link is running dry, and waiting for much work would cost it
 * more than what that saves. */
GwBatchEffort gw_adapt_effort(const GwAdapt *adapt, bool hurry);
