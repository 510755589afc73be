// SPDX-License-Identifier: Apache-2.0
/*
 * The codec that changes nothing: for bodies that do not shrink, and for links faster than zstd.
 *
 * Owns nothing; any thread. The encoder never "fits", so that a batch's body is sent from where
 * it was collected; the decoder hands back its input. Neither copies.
 */
#include "lane/codec.h"

static void *
plain_encoder_new(unsigned number)
{
    return NULL;
}

static void *
plain_decoder_new(void)
{
    return NULL;
}

static void
plain_free(void *state)
{
}

static size_t
plain_encode(void *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    return 0;
}

static const uint8_t *
plain_decode(void *decoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    return in_len == out_len ? in : NULL;
}

const GwCodec gw_codec_plain = {
    .id = GW_CODEC_PLAIN,
    .name = "plain",
    .encoder_new = plain_encoder_new,
    .encoder_free = plain_free,
    .decoder_new = plain_decoder_new,
    .decoder_free = plain_free,
    .encode = plain_encode,
    .decode = plain_decode,
};
