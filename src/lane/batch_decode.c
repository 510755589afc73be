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
    unsigned n_references;
    bool placed; /* there is a next page's place: */
    bool names_block;
    bool moved; /* and a page has to follow */
    uint16_t block;
    uint64_t page;
    uint64_t equal_place; /* behind what was referred to last */
    GwBatchItemFn each;
    void *data;
} Walk;

/* Pages of which the address can be told. */
#define MAX_BLOCK_PAGES (UINT64_MAX / GW_PAGE_BYTES)

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

size_t
gw_batch_decoder_memory_bytes(const GwBatchDecoder *decoder)
{
    size_t bytes = GW_BATCH_MAX_BODY_BYTES;

    for (unsigned id = 0; id < GW_CODEC_N_IDS; id++) {
        if (decoder->codec_ready[id] && gw_codec_find(id)->decoder_bytes) {
            bytes += gw_codec_find(id)->decoder_bytes(decoder->codec_states[id]);
        }
    }
    return bytes;
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
    if (walk->moved || len > gw_cursor_left(&walk->body)) {
        return damaged(error, "opaque bytes are out of place or run over the body");
    }
    GwBatchItem item = {
        .kind = GW_BATCH_OPAQUE,
        .data = gw_cursor_bytes(&walk->body, (size_t)len),
        .len = (size_t)len,
    };

    return walk->each(&item, walk->data, error);
}

static bool
walk_jump(Walk *walk, uint64_t where, GError **error)
{
    uint64_t page = gw_cursor_varint(&walk->map);

    if (walk->moved || walk->map.failed || (where >> 1) >= GW_RAM_MAX_BLOCKS ||
        page >= MAX_BLOCK_PAGES) {
        return damaged(error, "a jump leads nowhere");
    }
    walk->placed = true;
    walk->moved = true;
    walk->names_block = where & 1;
    walk->block = (uint16_t)(where >> 1);
    walk->page = page;
    return true;
}

static bool
walk_skip(Walk *walk, uint64_t count, GError **error)
{
    if (!walk->placed || walk->moved || count >= MAX_BLOCK_PAGES - walk->page) {
        return damaged(error, "a skip leads nowhere");
    }
    walk->page += count;
    walk->moved = true;
    return true;
}

/* What @count pages from here on are equal to: others. */
static bool
walk_equal(Walk *walk, uint64_t count, GError **error)
{
    uint64_t place = walk->equal_place + (uint64_t)gw_unzigzag(gw_cursor_varint(&walk->map));
    bool is_other =
        walk->page >= GW_BATCH_PLACE_PAGES || place != gw_batch_place(walk->block, walk->page);

    if (walk->map.failed || !is_other || place >= gw_batch_place(GW_RAM_MAX_BLOCKS, 0) ||
        count > GW_BATCH_PLACE_PAGES - place % GW_BATCH_PLACE_PAGES) {
        return damaged(error, "pages are equal to what cannot be");
    }
    walk->equal_place = place;
    return true;
}

static void
set_equal(Walk *walk, GwBatchItem *item)
{
    item->equal_block = (uint16_t)(walk->equal_place / GW_BATCH_PLACE_PAGES);
    item->equal_address = walk->equal_place % GW_BATCH_PLACE_PAGES * GW_PAGE_BYTES;
    walk->equal_place++;
}

static bool
walk_pages(Walk *walk, GwBatchKind kind, uint64_t count, GError **error)
{
    walk->n_pages += count;
    if (!walk->placed || walk->n_pages > GW_BATCH_MAX_PAGES ||
        count > MAX_BLOCK_PAGES - walk->page) {
        return damaged(error, "its pages exceed the limits");
    }
    if (kind == GW_BATCH_EQUAL && !walk_equal(walk, count, error)) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        bool content = kind == GW_BATCH_CONTENT;
        GwBatchItem item = {
            .kind = kind,
            .names_block = walk->names_block && i == 0,
            .block = walk->block,
            .address = (walk->page + i) * GW_PAGE_BYTES,
            .reference = kind == GW_BATCH_REFERENCE ? walk->n_references++ : 0,
            .data = content ? gw_cursor_bytes(&walk->body, GW_PAGE_BYTES) : NULL,
            .body = &walk->body,
        };

        if (content && !item.data) {
            return damaged(error, "page contents are missing");
        }
        if (kind == GW_BATCH_EQUAL) {
            set_equal(walk, &item);
        }
        if (!walk->each(&item, walk->data, error)) {
            return false;
        }
    }
    walk->page += count;
    walk->names_block = false;
    walk->moved = false;
    return true;
}

static bool
walk_entry(Walk *walk, GError **error)
{
    uint64_t head = gw_cursor_varint(&walk->map);
    GwBatchKind kind = (GwBatchKind)(head & 7);
    uint64_t count = head >> 3;

    if (kind == GW_BATCH_OPAQUE) {
        kind = count & 1 ? GW_BATCH_EQUAL : GW_BATCH_OPAQUE;
        count >>= 1;
    }
    if (walk->map.failed || (kind != GW_BATCH_JUMP && (count == 0 || count > UINT32_MAX))) {
        return damaged(error, "a map entry is cut off or has an impossible size");
    }
    switch ((unsigned)kind) {
    case GW_BATCH_OPAQUE:
        return walk_opaque(walk, count, error);
    case GW_BATCH_JUMP:
        return walk_jump(walk, count, error);
    case GW_BATCH_SKIP:
        return walk_skip(walk, count, error);
    default:
        return walk_pages(walk, kind, count, error);
    }
}

static bool
walk_items(Walk *walk, unsigned n_references, GError **error)
{
    while (gw_cursor_left(&walk->map) > 0) {
        if (!walk_entry(walk, error)) {
            return false;
        }
    }
    if (walk->map.failed || walk->body.failed || walk->moved || gw_cursor_left(&walk->body) > 0 ||
        walk->n_references != n_references) {
        return damaged(error, "map, body and references do not agree");
    }
    return true;
}

bool
gw_batch_decode(GwBatchDecoder *decoder, const uint8_t *payload, size_t len, GwBatchItemFn each,
                void *data, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    uint8_t codec = gw_cursor_u8(&cursor);
    uint8_t reserved = gw_cursor_u8(&cursor);
    unsigned n_references = gw_cursor_be16(&cursor);
    uint32_t body_bytes = gw_cursor_be32(&cursor);
    uint32_t encoded_bytes = gw_cursor_be32(&cursor);
    uint32_t map_bytes = gw_cursor_be32(&cursor);

    if (cursor.failed || reserved != 0) {
        return damaged(error, "its header is damaged");
    }
    if (body_bytes > GW_BATCH_MAX_BODY_BYTES || map_bytes > GW_BATCH_MAX_MAP_BYTES ||
        (uint64_t)encoded_bytes + map_bytes > gw_cursor_left(&cursor)) {
        return damaged(error, "its sizes exceed the limits or do not add up");
    }
    const uint8_t *encoded = gw_cursor_bytes(&cursor, encoded_bytes);
    const uint8_t *map = gw_cursor_bytes(&cursor, map_bytes);
    bool has_section = gw_cursor_left(&cursor) > 0;
    const uint8_t *body = decode_body(decoder, codec, encoded, encoded_bytes, body_bytes);

    if (has_section != (n_references > 0)) {
        return damaged(error, "its sizes do not add up");
    }
    if (!body) {
        return damaged(error, "its body does not decode");
    }
    Walk walk = {
        .map = gw_cursor(map, map_bytes),
        .body = gw_cursor(body, body_bytes),
        .each = each,
        .data = data,
    };

    return walk_items(&walk, n_references, error);
}
