// SPDX-License-Identifier: Apache-2.0
/*
 * Collecting items of the stream into a RAM batch and encoding it.
 *
 * Owns the batch being collected: the body lies in a frame buffer from the start, so a body that
 * does not shrink goes out without another copy. One thread (the source's stream thread). Memory:
 * two frame buffers, the map and the codec's context, about 2 MiB. Cannot fail but by running out
 * of memory.
 */
#include "lane/batch.h"

#include "base/cursor.h"

#include <string.h>

/* Pages in one map entry: keeps an open run's bitmap small. */
#define MAX_RUN_PAGES 8192u
/* The most that closing a run and one opaque entry can add to the map. */
#define MAX_ENTRY_BYTES (3u * 10u + MAX_RUN_PAGES / 8u)

typedef struct Run {
    uint16_t block;
    bool names_block;
    uint64_t first_page;
    unsigned n_pages;
    uint8_t bitmap[MAX_RUN_PAGES / 8];
} Run;

struct GwBatchEncoder {
    const GwCodec *codec;
    void *codec_state;
    GwFramePool *pool;
    GwFrame *body;       /* the payload holds room for the batch header, then the body */
    GwFrame *spare;      /* where the codec writes to */
    uint32_t body_bytes; /* collected */
    GByteArray *map;     /* closed entries */
    uint64_t open_opaque_bytes;
    Run run; /* open if n_pages > 0; never together with open opaque bytes */
    unsigned n_pages;
    uint32_t page_body_bytes;
    unsigned n_zero_pages;
    uint32_t run_map_bytes; /* of the map: entries of page runs */
};

static GwFrame *
new_batch_frame(GwFramePool *pool)
{
    GwFrame *frame = gw_frame_new(pool, GW_FRAME_RAM, GW_BATCH_MAX_BYTES);

    if (!frame) {
        g_error("out of memory for a batch");
    }
    return frame;
}

GwBatchEncoder *
gw_batch_encoder_new(const GwCodec *codec, GwFramePool *pool)
{
    GwBatchEncoder *encoder = g_new0(GwBatchEncoder, 1);

    encoder->codec = codec;
    encoder->codec_state = codec->encoder_new();
    encoder->pool = pool;
    encoder->body = new_batch_frame(pool);
    encoder->spare = new_batch_frame(pool);
    encoder->map = g_byte_array_sized_new(GW_BATCH_MAX_MAP_BYTES);
    return encoder;
}

void
gw_batch_encoder_free(GwBatchEncoder *encoder)
{
    if (!encoder) {
        return;
    }
    encoder->codec->encoder_free(encoder->codec_state);
    gw_frame_free(encoder->body);
    gw_frame_free(encoder->spare);
    g_byte_array_unref(encoder->map);
    g_free(encoder);
}

static uint8_t *
body_end(GwBatchEncoder *encoder)
{
    return gw_frame_payload(encoder->body) + GW_BATCH_HEADER_BYTES + encoder->body_bytes;
}

static void
close_entry(GwBatchEncoder *encoder)
{
    Run *run = &encoder->run;

    if (encoder->open_opaque_bytes > 0) {
        gw_put_varint(encoder->map, encoder->open_opaque_bytes << 1);
        encoder->open_opaque_bytes = 0;
    }
    if (run->n_pages > 0) {
        guint before = encoder->map->len;
        unsigned bitmap_bytes = (run->n_pages + 7) / 8;

        gw_put_varint(encoder->map, ((uint64_t)run->n_pages << 1) | 1);
        gw_put_varint(encoder->map, ((uint64_t)run->block << 1) | run->names_block);
        gw_put_varint(encoder->map, run->first_page);
        g_byte_array_append(encoder->map, run->bitmap, bitmap_bytes);
        encoder->run_map_bytes += encoder->map->len - before;
        memset(run->bitmap, 0, bitmap_bytes);
        run->n_pages = 0;
    }
}

static bool
add_bytes(GwBatchEncoder *encoder, GwRamItem *item)
{
    size_t room = GW_BATCH_MAX_BODY_BYTES - encoder->body_bytes;
    size_t len = MIN(item->len, room);

    if (len > 0) {
        if (encoder->run.n_pages > 0) {
            close_entry(encoder);
        }
        memcpy(body_end(encoder), item->data, len);
        encoder->body_bytes += (uint32_t)len;
        encoder->open_opaque_bytes += len;
        item->data += len;
        item->len -= len;
    }
    return item->len == 0;
}

static bool
continues_run(const Run *run, const GwRamItem *item)
{
    return run->n_pages > 0 && run->n_pages < MAX_RUN_PAGES && !item->names_block &&
           run->block == item->block &&
           run->first_page + run->n_pages == item->address / GW_PAGE_BYTES;
}

static bool
add_page(GwBatchEncoder *encoder, const GwRamItem *item)
{
    Run *run = &encoder->run;
    bool content = item->kind == GW_RAM_ITEM_PAGE;

    if (encoder->n_pages == GW_BATCH_MAX_PAGES ||
        (content && encoder->body_bytes + GW_PAGE_BYTES > GW_BATCH_MAX_BODY_BYTES)) {
        return false;
    }
    if (!continues_run(run, item)) {
        close_entry(encoder);
        run->block = item->block;
        run->names_block = item->names_block;
        run->first_page = item->address / GW_PAGE_BYTES;
    }
    if (content) {
        run->bitmap[run->n_pages / 8] |= (uint8_t)(1u << (run->n_pages % 8));
        memcpy(body_end(encoder), item->data, GW_PAGE_BYTES);
        encoder->body_bytes += GW_PAGE_BYTES;
        encoder->page_body_bytes += GW_PAGE_BYTES;
    } else {
        encoder->n_zero_pages++;
    }
    run->n_pages++;
    encoder->n_pages++;
    return true;
}

bool
gw_batch_encoder_add(GwBatchEncoder *encoder, GwRamItem *item)
{
    if (encoder->map->len + 2 * MAX_ENTRY_BYTES > GW_BATCH_MAX_MAP_BYTES) {
        return false;
    }
    switch (item->kind) {
    case GW_RAM_ITEM_BYTES:
        return add_bytes(encoder, item);
    case GW_RAM_ITEM_ZERO:
    case GW_RAM_ITEM_PAGE:
        return add_page(encoder, item);
    }
    g_return_val_if_reached(true);
}

bool
gw_batch_encoder_is_empty(const GwBatchEncoder *encoder)
{
    return encoder->n_pages == 0 && encoder->body_bytes == 0;
}

/* Runs the codec; the smaller of both results is in encoder->body. Returns its size. */
static uint32_t
encode_body(GwBatchEncoder *encoder, GwCodecId *used)
{
    const uint8_t *in = gw_frame_payload(encoder->body) + GW_BATCH_HEADER_BYTES;
    uint8_t *out = gw_frame_payload(encoder->spare) + GW_BATCH_HEADER_BYTES;
    size_t len = 0;

    if (encoder->body_bytes > 0) {
        len = encoder->codec->encode(encoder->codec_state, in, encoder->body_bytes, out,
                                     encoder->body_bytes - 1);
    }
    if (len == 0) {
        *used = GW_CODEC_PLAIN;
        return encoder->body_bytes;
    }
    GwFrame *raw = encoder->body;

    encoder->body = encoder->spare;
    encoder->spare = raw;
    *used = encoder->codec->id;
    return (uint32_t)len;
}

/* The body's bytes go to pages and opaque bytes, the map's to pages and zero pages, by share. */
static GwFrameCauses
share_out(const GwBatchEncoder *encoder, uint32_t encoded_bytes)
{
    uint64_t page_body = 0;
    uint64_t zero_map = 0;

    if (encoder->body_bytes > 0) {
        page_body = (uint64_t)encoded_bytes * encoder->page_body_bytes / encoder->body_bytes;
    }
    if (encoder->n_pages > 0) {
        zero_map = (uint64_t)encoder->run_map_bytes * encoder->n_zero_pages / encoder->n_pages;
    }
    return (GwFrameCauses){
        .page_bytes = (uint32_t)(page_body + encoder->run_map_bytes - zero_map),
        .zero_bytes = (uint32_t)zero_map,
        .opaque_bytes =
            (uint32_t)(encoded_bytes - page_body + encoder->map->len - encoder->run_map_bytes),
    };
}

static void
put_be32_at(uint8_t *out, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        out[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

GwFrame *
gw_batch_encoder_take(GwBatchEncoder *encoder)
{
    GwCodecId codec;

    if (gw_batch_encoder_is_empty(encoder)) {
        return NULL;
    }
    close_entry(encoder);
    uint32_t encoded_bytes = encode_body(encoder, &codec);
    GwFrame *frame = encoder->body;
    uint8_t *payload = gw_frame_payload(frame);

    memset(payload, 0, GW_BATCH_HEADER_BYTES);
    payload[0] = (uint8_t)codec;
    put_be32_at(payload + 4, encoder->body_bytes);
    put_be32_at(payload + 8, encoded_bytes);
    put_be32_at(payload + 12, encoder->map->len);
    memcpy(payload + GW_BATCH_HEADER_BYTES + encoded_bytes, encoder->map->data, encoder->map->len);
    frame->header.payload_bytes = GW_BATCH_HEADER_BYTES + encoded_bytes + encoder->map->len;
    frame->causes = share_out(encoder, encoded_bytes);

    encoder->body = new_batch_frame(encoder->pool);
    encoder->body_bytes = 0;
    encoder->n_pages = 0;
    encoder->n_zero_pages = 0;
    encoder->page_body_bytes = 0;
    encoder->run_map_bytes = 0;
    g_byte_array_set_size(encoder->map, 0);
    return frame;
}
