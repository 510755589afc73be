// SPDX-License-Identifier: Apache-2.0
/*
 * Decoding of RAM batches: hostile input.
 *
 * Owns one buffer of GW_BATCH_MAX_BODY_BYTES and the codecs' decoders, made when first needed. One
 * thread (the target's). Sizes are checked against the limits before anything is decoded; the map
 * is read through a bounded cursor; the body must be used up exactly. Fails with
 * GW_ERROR_PROTOCOL.
 */
#include "lane/batch.h"

#include "base/cursor.h"

struct GwBatchDecoder {
    void *codec_states[GW_CODEC_N_IDS];
    bool codec_ready[GW_CODEC_N_IDS];
    uint8_t *body;
};

typedef struct Walk {
    GwCursor map;
    GwCursor body;
    uint64_t n_pages;
    GwBatchItemFn each;
    void *data;
} Walk;

GwBatchDecoder *
gw_batch_decoder_new(void)
{
    GwBatchDecoder *decoder = g_new0(GwBatchDecoder, 1);

    decoder->body = g_malloc(GW_BATCH_MAX_BODY_BYTES);
    return decoder;
}

void
gw_batch_decoder_free(GwBatchDecoder *decoder)
{
    if (!decoder) {
        return;
    }
    for (unsigned id = 0; id < GW_CODEC_N_IDS; id++) {
        if (decoder->codec_ready[id]) {
            gw_codec_find(id)->decoder_free(decoder->codec_states[id]);
        }
    }
    g_free(decoder->body);
    g_free(decoder);
}

static bool
damaged(GError **error, const char *what)
{
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the peer sent a damaged RAM batch: %s", what);
    return false;
}

bool
gw_batch_references(const uint8_t *payload, size_t len, GwBatchReferences *out)
{
    GwCursor cursor = gw_cursor(payload, len);

    (void)gw_cursor_be16(&cursor);
    unsigned n_pages = gw_cursor_be16(&cursor);
    (void)gw_cursor_be32(&cursor);
    uint32_t body_bytes = gw_cursor_be32(&cursor);
    uint32_t map_bytes = gw_cursor_be32(&cursor);

    (void)gw_cursor_bytes(&cursor, body_bytes);
    (void)gw_cursor_bytes(&cursor, map_bytes);
    size_t left = gw_cursor_left(&cursor);
    const uint8_t *section = gw_cursor_bytes(&cursor, left);

    *out = (GwBatchReferences){.n_pages = n_pages, .section = section, .len = left};
    return !cursor.failed;
}

static const uint8_t *
decode_body(GwBatchDecoder *decoder, unsigned id, const uint8_t *in, size_t in_len, size_t out_len)
{
    const GwCodec *codec = gw_codec_find(id);

    if (!codec) {
        return NULL;
    }
    if (!decoder->codec_ready[id]) {
        decoder->codec_states[id] = codec->decoder_new();
        decoder->codec_ready[id] = true;
    }
    return codec->decode(decoder->codec_states[id], in, in_len, decoder->body, out_len);
}

static bool
walk_opaque(Walk *walk, uint64_t len, GError **error)
{
    if (len > gw_cursor_left(&walk->body)) {
        return damaged(error, "opaque bytes run over the body");
    }
    GwRamItem item = {
        .kind = GW_RAM_ITEM_BYTES,
        .data = gw_cursor_bytes(&walk->body, (size_t)len),
        .len = (size_t)len,
    };

    return walk->each(&item, walk->data, error);
}

static bool
walk_run(Walk *walk, uint64_t n_pages, GError **error)
{
    uint64_t block = gw_cursor_varint(&walk->map);
    uint64_t first_page = gw_cursor_varint(&walk->map);

    walk->n_pages += n_pages;
    if (walk->n_pages > GW_BATCH_MAX_PAGES || (block >> 1) >= GW_RAM_MAX_BLOCKS ||
        first_page > UINT64_MAX / GW_PAGE_BYTES - n_pages) {
        return damaged(error, "a page run exceeds the limits");
    }
    size_t bitmap_bytes = (size_t)(n_pages + 7) / 8;
    const uint8_t *bitmap = gw_cursor_bytes(&walk->map, bitmap_bytes);

    if (!bitmap || (n_pages % 8 != 0 && bitmap[bitmap_bytes - 1] >> (n_pages % 8) != 0)) {
        return damaged(error, "a page run's bitmap is cut off or too long");
    }
    for (uint64_t i = 0; i < n_pages; i++) {
        bool content = bitmap[i / 8] & (1u << (i % 8));
        GwRamItem item = {
            .kind = content ? GW_RAM_ITEM_PAGE : GW_RAM_ITEM_ZERO,
            .names_block = i == 0 && (block & 1) != 0,
            .block = (uint16_t)(block >> 1),
            .address = (first_page + i) * GW_PAGE_BYTES,
            .data = content ? gw_cursor_bytes(&walk->body, GW_PAGE_BYTES) : NULL,
        };

        if (content && !item.data) {
            return damaged(error, "page contents are missing");
        }
        if (!walk->each(&item, walk->data, error)) {
            return false;
        }
    }
    return true;
}

static bool
walk_items(Walk *walk, GError **error)
{
    while (gw_cursor_left(&walk->map) > 0) {
        uint64_t entry = gw_cursor_varint(&walk->map);
        uint64_t count = entry >> 1;

        if (walk->map.failed || count == 0 || count > GW_BATCH_MAX_BODY_BYTES) {
            return damaged(error, "a map entry is cut off or has an impossible size");
        }
        if (!((entry & 1) ? walk_run(walk, count, error) : walk_opaque(walk, count, error))) {
            return false;
        }
    }
    if (walk->map.failed || gw_cursor_left(&walk->body) > 0) {
        return damaged(error, "map and body do not agree");
    }
    return true;
}

bool
gw_batch_decode(GwBatchDecoder *decoder, const uint8_t *payload, size_t len, GwBatchItemFn each,
                void *data, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    uint8_t codec = gw_cursor_u8(&cursor);
    const uint8_t *reserved = gw_cursor_bytes(&cursor, 3);
    uint32_t body_bytes = gw_cursor_be32(&cursor);
    uint32_t encoded_bytes = gw_cursor_be32(&cursor);
    uint32_t map_bytes = gw_cursor_be32(&cursor);

    if (cursor.failed || reserved[0] != 0 || reserved[1] != 0 || reserved[2] != 0) {
        return damaged(error, "its header is damaged");
    }
    if (body_bytes > GW_BATCH_MAX_BODY_BYTES || map_bytes > GW_BATCH_MAX_MAP_BYTES ||
        (uint64_t)encoded_bytes + map_bytes != gw_cursor_left(&cursor)) {
        return damaged(error, "its sizes exceed the limits or do not add up");
    }
    const uint8_t *encoded = gw_cursor_bytes(&cursor, encoded_bytes);
    const uint8_t *map = gw_cursor_bytes(&cursor, map_bytes);
    const uint8_t *body = decode_body(decoder, codec, encoded, encoded_bytes, body_bytes);

    if (!body) {
        return damaged(error, "its body does not decode");
    }
    Walk walk = {
        .map = gw_cursor(map, map_bytes),
        .body = gw_cursor(body, body_bytes),
        .each = each,
        .data = data,
    };

    return walk_items(&walk, error);
}
