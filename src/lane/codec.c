// SPDX-License-Identifier: Apache-2.0
/*
 * The table of codecs. Constant; any thread; cannot fail.
 */
#include "lane/codec.h"

static const GwCodec *const codecs[GW_CODEC_N_IDS] = {
    [GW_CODEC_PLAIN] = &gw_codec_plain,
    [GW_CODEC_ZSTD] = &gw_codec_zstd,
    [GW_CODEC_ZSTD_STREAM] = &gw_codec_zstd_stream,
    [GW_CODEC_ZSTD_WIDE] = &gw_codec_zstd_wide,
};

const GwCodec *
gw_codec_find(unsigned id)
{
    return id < G_N_ELEMENTS(codecs) ? codecs[id] : NULL;
}
