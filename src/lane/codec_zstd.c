// SPDX-License-Identifier: Apache-2.0
/*
 * Zstandard, at level 1 unless told otherwise, one frame per body: it stands for itself.
 *
 * A state is one zstd context, owned by one worker thread and reused. Memory: about 1 MiB for the
 * encoder at 256 KiB bodies, 100 KiB for the decoder, which decodes straight into the caller's
 * buffer and so needs no window of its own. Encoding fails (0) when the result would not be
 * smaller than the room given; decoding fails (NULL) unless exactly the expected size comes out.
 */
#include "lane/codec.h"

#include <zstd.h>

#define DEFAULT_LEVEL 1

static void *
zstd_encoder_new(unsigned number)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();

    if (!context) {
        g_error("out of memory for a zstd context");
    }
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, DEFAULT_LEVEL);
    /* The batch header has the size already. */
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    return context;
}

static void
zstd_set_level(void *encoder, int level)
{
    ZSTD_CCtx_setParameter(encoder, ZSTD_c_compressionLevel, level);
}

static void
zstd_encoder_free(void *encoder)
{
    ZSTD_freeCCtx(encoder);
}

static void *
zstd_decoder_new(void)
{
    ZSTD_DCtx *context = ZSTD_createDCtx();

    if (!context) {
        g_error("out of memory for a zstd context");
    }
    return context;
}

static void
zstd_decoder_free(void *decoder)
{
    ZSTD_freeDCtx(decoder);
}

static size_t
zstd_encode(void *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    size_t len = ZSTD_compress2(encoder, out, out_len, in, in_len);

    return ZSTD_isError(len) ? 0 : len;
}

static const uint8_t *
zstd_decode(void *decoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    size_t len = ZSTD_decompressDCtx(decoder, out, out_len, in, in_len);

    return !ZSTD_isError(len) && len == out_len ? out : NULL;
}

const GwCodec gw_codec_zstd = {
    .id = GW_CODEC_ZSTD,
    .name = "zstd",
    .encoder_new = zstd_encoder_new,
    .encoder_free = zstd_encoder_free,
    .decoder_new = zstd_decoder_new,
    .decoder_free = zstd_decoder_free,
    .set_level = zstd_set_level,
    .encode = zstd_encode,
    .decode = zstd_decode,
};
