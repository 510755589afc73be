// SPDX-License-Identifier: Apache-2.0
/*
 * Encoding of batches by several threads, into the outbox in the order in which they were given.
 *
 * The stream thread fills batches and gives them away; workers encode them (batch.h), and whoever
 * has finished the oldest one pushes it and what is ready behind it. So a batch leaves as soon as
 * it and those before it are encoded; nothing waits for more to come.
 *
 * Batches for a codec with a single encoder (codec.h) are encoded by one worker, in their order.
 *
 * Memory: a worker has 9 MiB, and one of them 76 MiB more once it encodes with such a codec;
 * batches under way are bounded: two for each worker and one that is being filled, each of 320 to
 * 576 KiB.
 */
#pragma once

#include "lane/batch.h"
#include "lane/outbox.h"
#include "lane/ref_keep.h"

#define GW_ENCODER_MAX_WORKERS GW_CODEC_MAX_STREAMS

typedef struct GwEncoder GwEncoder;

/* @pool, @outbox: outlive the encoder. An error if not even one thread can be started. */
GwEncoder *gw_encoder_new(GwFramePool *pool, GwOutbox *outbox, unsigned n_workers,
                          GError **error) GW_MUST_USE;
void gw_encoder_free(GwEncoder *encoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwEncoder, gw_encoder_free)

/* Before the first batch: where the references of frames are kept; outlives the encoder. */
void gw_encoder_set_keep(GwEncoder *encoder, GwRefKeep *keep);

/* --- the stream thread ------------------------------------------------------------------------ */

/* An empty batch; waits while too many are under way. Transfer full. */
GwBatch *gw_encoder_take_batch(GwEncoder *encoder) GW_MUST_USE;
/* Transfer full; may be empty. */
void gw_encoder_put_batch(GwEncoder *encoder, GwBatch *batch, const GwBatchEffort *effort);
/* A frame that is ready, in its turn. Transfer full. */
void gw_encoder_put_frame(GwEncoder *encoder, GwFrame *frame);

/* Whether a batch would have to wait for a worker. */
bool gw_encoder_has_backlog(GwEncoder *encoder);

/* Waits until everything that was given is in the outbox. */
void gw_encoder_drain(GwEncoder *encoder);

/* All since the beginning. */
typedef struct GwEncoderFigures {
    uint64_t waited_us;    /* by the stream thread, for a batch */
    uint64_t cpu_us;       /* of the workers */
    uint64_t memory_bytes; /* now, at most */
    unsigned n_workers;
} GwEncoderFigures;

void gw_encoder_figures(GwEncoder *encoder, GwEncoderFigures *out);
