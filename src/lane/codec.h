// SPDX-License-Identifier: Apache-2.0
/*
 * Codecs: how the body of a RAM batch is made smaller. A new one is one file and one table line.
 *
 * The decoder always knows the decoded size, checked against the batch limit, before it begins,
 * and never writes beyond it: there is nothing for a decompression bomb to blow up.
 * A state (contexts, tables) belongs to one thread and is reused from batch to batch.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef enum GwCodecId {
    GW_CODEC_PLAIN = 0,
    GW_CODEC_ZSTD = 1,
    GW_CODEC_ZSTD_STREAM = 2, /* to be decoded in the order of encoding: codec_zstd_stream.c */
    GW_CODEC_ZSTD_WIDE = 3,   /* the same, with a far view: all bodies from one encoder */
    GW_CODEC_N_IDS,
} GwCodecId;

/* Encoders whose bodies one decoder may get. */
#define GW_CODEC_MAX_STREAMS 8u

/* A result of an encoder that remembers, beyond its input, at most. */
#define GW_CODEC_MAX_GROWTH_BYTES 64u

typedef struct GwCodec {
    GwCodecId id;
    const char *name;
    bool remembers; /* bodies before; a result that does not fit makes its encoder forget them */
    bool single;    /* one encoder for a decoder, number 0 */
    /* @number: below GW_CODEC_MAX_STREAMS, another one for each encoder of the same decoder. */
    void *(*encoder_new)(unsigned number);
    void (*encoder_free)(void *encoder);
    void *(*decoder_new)(void);
    void (*decoder_free)(void *decoder);
    /* From the next encode() on; NULL: there are no levels. */
    void (*set_level)(void *encoder, int level);
    /* Bytes written to @out, or 0 if the result does not fit into @out_len. */
    size_t (*encode)(void *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len);
    /* Exactly @out_len bytes: either in @out, or @in itself when nothing is to be done; NULL if @in
     * does not decode to that. */
    const uint8_t *(*decode)(void *decoder, const uint8_t *in, size_t in_len, uint8_t *out,
                             size_t out_len);
    /* Memory that a state has now; NULL: next to nothing. */
    size_t (*decoder_bytes)(const void *decoder);
} GwCodec;

extern const GwCodec gw_codec_plain;
extern const GwCodec gw_codec_zstd;
extern const GwCodec gw_codec_zstd_stream;
extern const GwCodec gw_codec_zstd_wide;

/* NULL for an unknown id. */
const GwCodec *gw_codec_find(unsigned id);
