// SPDX-License-Identifier: Apache-2.0
/*
 * Zstandard as a stream: a body may refer to the bodies before it that the same encoder made.
 *
 *     0  1  number of the stream; + 0x80: it begins anew
 *     1  …  zstd, up to the end of a block
 *
 * Bodies of one encoder are decoded in the order in which they were encoded. At level 3 they take 7
 * % less than bodies that stand for themselves, and no more time.
 *
 * There are two kinds. Streams of the common one, below GW_CODEC_MAX_STREAMS, look back on 4 MiB;
 * the wide one, a single stream, on 64 MiB with zstd's long-distance matching, which of a guest
 * with a file system in memory makes 5 % less at the same level.
 *
 * An encoder is one zstd context of about 8 MiB, or wide of 76 MiB, owned by one thread; it begins
 * anew when the level changes and behind a body that did not fit. A decoder has a context for each
 * stream, made when it begins, of at most 4.3 MiB, or 64.3 MiB: a frame that wants a larger window
 * is refused. Encoding fails (0) when the result does not fit into the room given; decoding fails
 * (NULL) unless exactly the expected size comes out.
 */
#include "lane/codec.h"

#include <zstd.h>

#define DEFAULT_LEVEL 1
#define BEGINS        0x80u

typedef struct Kind {
    int window_log;
    bool far; /* looks for matches anywhere in the window */
    unsigned n_streams;
} Kind;

static const Kind common = {.window_log = 22, .n_streams = GW_CODEC_MAX_STREAMS};
static const Kind wide = {.window_log = 26, .far = true, .n_streams = 1};

typedef struct StreamEncoder {
    const Kind *kind;
    ZSTD_CCtx *context;
    uint8_t number;
    int level;
    bool begun;
} StreamEncoder;

typedef struct StreamDecoder {
    const Kind *kind;
    ZSTD_DCtx *contexts[GW_CODEC_MAX_STREAMS];
} StreamDecoder;

static void *
encoder_new(const Kind *kind, unsigned number)
{
    StreamEncoder *encoder = g_new0(StreamEncoder, 1);

    encoder->kind = kind;
    encoder->context = ZSTD_createCCtx();
    if (!encoder->context) {
        g_error("out of memory for a zstd context");
    }
    encoder->number = (uint8_t)number;
    encoder->level = DEFAULT_LEVEL;
    return encoder;
}

static void *
stream_encoder_new(unsigned number)
{
    return encoder_new(&common, number);
}

static void *
wide_encoder_new(unsigned number)
{
    return encoder_new(&wide, number);
}

static void
stream_encoder_free(void *state)
{
    StreamEncoder *encoder = state;

    ZSTD_freeCCtx(encoder->context);
    g_free(encoder);
}

static void
stream_set_level(void *state, int level)
{
    StreamEncoder *encoder = state;

    encoder->begun = encoder->begun && level == encoder->level;
    encoder->level = level;
}

static void *
decoder_new(const Kind *kind)
{
    StreamDecoder *decoder = g_new0(StreamDecoder, 1);

    decoder->kind = kind;
    return decoder;
}

static void *
stream_decoder_new(void)
{
    return decoder_new(&common);
}

static void *
wide_decoder_new(void)
{
    return decoder_new(&wide);
}

static void
stream_decoder_free(void *state)
{
    StreamDecoder *decoder = state;

    for (unsigned i = 0; i < GW_CODEC_MAX_STREAMS; i++) {
        ZSTD_freeDCtx(decoder->contexts[i]);
    }
    g_free(decoder);
}

static size_t
stream_decoder_bytes(const void *state)
{
    const StreamDecoder *decoder = state;
    size_t bytes = 0;

    for (unsigned i = 0; i < decoder->kind->n_streams; i++) {
        bytes += ZSTD_sizeof_DCtx(decoder->contexts[i]);
    }
    return bytes;
}

/* False: it does not fit. */
static bool
flush_into(ZSTD_CCtx *context, ZSTD_inBuffer *in, ZSTD_outBuffer *out)
{
    size_t left;

    do {
        left = ZSTD_compressStream2(context, out, in, ZSTD_e_flush);
    } while (!ZSTD_isError(left) && left > 0 && out->pos < out->size);
    return left == 0 && in->pos == in->size;
}

static void
begin(StreamEncoder *encoder)
{
    const Kind *kind = encoder->kind;

    ZSTD_CCtx_reset(encoder->context, ZSTD_reset_session_only);
    ZSTD_CCtx_setParameter(encoder->context, ZSTD_c_compressionLevel, encoder->level);
    ZSTD_CCtx_setParameter(encoder->context, ZSTD_c_windowLog, kind->window_log);
    ZSTD_CCtx_setParameter(encoder->context, ZSTD_c_enableLongDistanceMatching, kind->far);
}

static size_t
stream_encode(void *state, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    StreamEncoder *encoder = state;
    ZSTD_inBuffer body = {.src = in, .size = in_len};
    ZSTD_outBuffer packed = {.dst = out, .size = out_len, .pos = 1};
    bool begins = !encoder->begun;

    if (out_len < 2) {
        return 0;
    }
    if (begins) {
        begin(encoder);
    }
    out[0] = (uint8_t)(encoder->number | (begins ? BEGINS : 0));
    encoder->begun = flush_into(encoder->context, &body, &packed);
    return encoder->begun ? packed.pos : 0;
}

/* The context that goes on, or begins; NULL: there is none. */
static ZSTD_DCtx *
context_for(StreamDecoder *decoder, uint8_t head)
{
    unsigned number = head & ~BEGINS;

    if (number >= decoder->kind->n_streams) {
        return NULL;
    }
    ZSTD_DCtx **context = &decoder->contexts[number];

    if (!(head & BEGINS)) {
        return *context;
    }
    if (!*context && !(*context = ZSTD_createDCtx())) {
        return NULL;
    }
    ZSTD_DCtx_reset(*context, ZSTD_reset_session_only);
    ZSTD_DCtx_setParameter(*context, ZSTD_d_windowLogMax, decoder->kind->window_log);
    return *context;
}

static const uint8_t *
stream_decode(void *state, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    ZSTD_DCtx *context = in_len > 0 ? context_for(state, in[0]) : NULL;
    ZSTD_inBuffer packed = {.src = in, .size = in_len, .pos = 1};
    ZSTD_outBuffer body = {.dst = out, .size = out_len};

    if (!context) {
        return NULL;
    }
    while (packed.pos < packed.size || body.pos < body.size) {
        size_t taken = packed.pos, given = body.pos;

        if (ZSTD_isError(ZSTD_decompressStream(context, &body, &packed)) ||
            (packed.pos == taken && body.pos == given)) {
            return NULL;
        }
    }
    return out;
}

const GwCodec gw_codec_zstd_stream = {
    .id = GW_CODEC_ZSTD_STREAM,
    .name = "zstd-stream",
    .remembers = true,
    .encoder_new = stream_encoder_new,
    .encoder_free = stream_encoder_free,
    .decoder_new = stream_decoder_new,
    .decoder_free = stream_decoder_free,
    .set_level = stream_set_level,
    .encode = stream_encode,
    .decode = stream_decode,
    .decoder_bytes = stream_decoder_bytes,
};

const GwCodec gw_codec_zstd_wide = {
    .id = GW_CODEC_ZSTD_WIDE,
    .name = "zstd-wide",
    .remembers = true,
    .single = true,
    .encoder_new = wide_encoder_new,
    .encoder_free = stream_encoder_free,
    .decoder_new = wide_decoder_new,
    .decoder_free = stream_decoder_free,
    .set_level = stream_set_level,
    .encode = stream_encode,
    .decode = stream_decode,
    .decoder_bytes = stream_decoder_bytes,
};
