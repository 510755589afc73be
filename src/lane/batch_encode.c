// SPDX-License-Identifier: Apache-2.0
/*
 * Encoding of batches: references, deltas where they pay, the map, the codec over the body.
 *
 * Owns the codecs' and the deltas' contexts, about 9 MiB, and 76 MiB more from the first wide body
 * on (codec_zstd_stream.c). One thread; as many encoders as there are threads. What an encoder
 * decides (which pages become deltas, which codec) depends on nothing that other encoders do, so
 * each may go ahead with whatever batch it has; the batches of one encoder are decoded in the order
 * in which it encoded them. Cannot fail but by running out of memory.
 */
#include "lane/batch.h"
#include "lane/page_delta.h"

#include <string.h>

/* Longer ways take a JUMP. */
#define MAX_SKIP_PAGES (1u << 24)

/* In the map, at most: a run's place (3 + 8 bytes), its count (4) and what it is equal to (7), a
 * part of it that became something else. */
#define MAX_RUN_BYTES  22u
#define MAX_PART_BYTES 2u

/* What the codec makes of a page: a mean over about so many batches. */
#define MEAN_BATCHES 8u

/* With so many references a group keeps the batch's own buffer instead of copies of them. */
#define MIN_KEPT_REFERENCES (GW_BATCH_MAX_CONTENTS * 3u / 4u)

struct GwBatchEncoder {
    unsigned number;
    void *codec_states[GW_CODEC_N_IDS];
    bool codec_ready[GW_CODEC_N_IDS];
    GwDeltaEncoder *deltas;
    size_t page_bytes; /* running mean of what a page takes, encoded; 0: not known yet */
    GByteArray *map;

    /* Of the batch that is being encoded. */
    const GwBatchEffort *effort;
    const uint8_t *contents; /* as they were collected */
    uint8_t *body;           /* made in the same place, or in `apart` */
    GwFrame *apart;          /* NULL: the same place */
    uint32_t body_bytes;
    bool placed; /* the next page's place follows from the map */
    uint16_t block;
    uint64_t page;
    uint64_t equal_place; /* behind what was referred to last */
    unsigned n_deltas;
    GwRefGroup *group; /* NULL: no references */
    GwRef refs[GW_BATCH_MAX_CONTENTS];
    uint32_t map_share[GW_BATCH_N_KINDS];
    uint32_t body_share[GW_BATCH_N_KINDS];
};

GwBatchEncoder *
gw_batch_encoder_new(unsigned number)
{
    GwBatchEncoder *encoder = g_new0(GwBatchEncoder, 1);

    encoder->number = number;
    encoder->deltas = gw_delta_encoder_new();
    encoder->map = g_byte_array_sized_new(GW_BATCH_MAX_MAP_BYTES);
    return encoder;
}

void
gw_batch_encoder_free(GwBatchEncoder *encoder)
{
    if (!encoder) {
        return;
    }
    for (unsigned id = 0; id < GW_CODEC_N_IDS; id++) {
        if (encoder->codec_ready[id]) {
            gw_codec_find(id)->encoder_free(encoder->codec_states[id]);
        }
    }
    gw_delta_encoder_free(encoder->deltas);
    g_byte_array_unref(encoder->map);
    g_free(encoder);
}

/* --- the map ---------------------------------------------------------------------------------- */

static void
put_head(GwBatchEncoder *encoder, uint64_t count, GwBatchKind kind)
{
    if (kind == GW_BATCH_OPAQUE || kind == GW_BATCH_EQUAL) {
        count = count << 1 | (kind == GW_BATCH_EQUAL);
        kind = GW_BATCH_OPAQUE;
    }
    gw_put_varint(encoder->map, count << 3 | kind);
}

static void
put_place(GwBatchEncoder *encoder, const GwBatchRun *run, uint64_t page)
{
    bool names = run->names_block && page == run->first_page;
    bool here = encoder->placed && encoder->block == run->block && !names;

    if (here && encoder->page == page) {
        return;
    }
    if (here && page > encoder->page && page - encoder->page <= MAX_SKIP_PAGES) {
        put_head(encoder, page - encoder->page, GW_BATCH_SKIP);
    } else {
        put_head(encoder, (uint64_t)run->block << 1 | names, GW_BATCH_JUMP);
        gw_put_varint(encoder->map, page);
    }
}

/* @count pages of @run as @kind, the first of them @page. */
static void
put_pages(GwBatchEncoder *encoder, const GwBatchRun *run, uint64_t page, uint32_t count,
          GwBatchKind kind)
{
    guint before = encoder->map->len;

    put_place(encoder, run, page);
    put_head(encoder, count, kind);
    if (kind == GW_BATCH_EQUAL) {
        gw_put_varint(encoder->map, gw_zigzag((int64_t)(run->equal_place - encoder->equal_place)));
        encoder->equal_place = run->equal_place + count;
    }
    encoder->placed = true;
    encoder->block = run->block;
    encoder->page = page + count;
    encoder->map_share[kind] += encoder->map->len - before;
}

/* --- references ------------------------------------------------------------------------------- */

/* Contents that were never sent, and are not found at their place in the visit. */
typedef struct Wanted {
    unsigned n;
    unsigned numbers[GW_BATCH_MAX_CONTENTS];
    const uint8_t *pages[GW_BATCH_MAX_CONTENTS];
} Wanted;

static unsigned
look_in_run(GwBatchEncoder *encoder, const GwBatch *batch, const GwBatchRun *run, unsigned number,
            const uint8_t *data, Wanted *wanted)
{
    GwRefSource *visit = encoder->effort->visit;
    unsigned n_found = 0;

    for (uint32_t i = 0; i < run->count; i++, number++, data += GW_PAGE_BYTES) {
        encoder->refs[number].image = GW_REF_NO_IMAGE;
        if (!batch->is_first[number]) {
            continue;
        }
        if (visit && gw_ref_source_try_visit(visit, run->block, run->first_page + i, data,
                                             &encoder->refs[number])) {
            n_found++;
        } else {
            wanted->numbers[wanted->n] = number;
            wanted->pages[wanted->n++] = data;
        }
    }
    return n_found;
}

/* Without memory for them references are sent. */
static void
make_group(GwBatchEncoder *encoder, const GwBatch *batch, unsigned n_found)
{
    if (n_found >= MIN_KEPT_REFERENCES) {
        encoder->apart = gw_frame_new(batch->pool, GW_FRAME_RAM, GW_BATCH_MAX_BYTES);
    }
    if (encoder->apart) {
        encoder->body = gw_frame_payload(encoder->apart) + GW_BATCH_HEADER_BYTES;
        encoder->group = gw_ref_group_new_in(batch->frame);
    } else {
        encoder->group = gw_ref_group_new();
    }
}

/* Before anything moves. */
static void
find_references(GwBatchEncoder *encoder, const GwBatch *batch)
{
    const uint8_t *data = encoder->contents;
    GwRef refs[GW_BATCH_MAX_CONTENTS];
    Wanted wanted = {.n = 0};
    unsigned number = 0;
    unsigned n_found = 0;

    for (unsigned i = 0; i < batch->n_runs; i++) {
        const GwBatchRun *run = &batch->runs[i];

        if (run->kind == GW_BATCH_CONTENT) {
            n_found += look_in_run(encoder, batch, run, number, data, &wanted);
            number += run->count;
            data += (size_t)run->count * GW_PAGE_BYTES;
        } else if (run->kind == GW_BATCH_OPAQUE) {
            data += run->count;
        }
    }
    if (encoder->effort->images && wanted.n > 0) {
        n_found += gw_ref_source_try(encoder->effort->images, wanted.pages, wanted.n, refs);
        for (unsigned i = 0; i < wanted.n; i++) {
            encoder->refs[wanted.numbers[i]] = refs[i];
        }
    }
    if (n_found > 0) {
        make_group(encoder, batch, n_found);
    }
}

/* --- the body --------------------------------------------------------------------------------- */

/*
 * Moves the body's next bytes to its end. They lie in another buffer, or in the same and not before
 * it, as nothing takes more than it was collected in.
 */
static void
put_body(GwBatchEncoder *encoder, const uint8_t *data, size_t len, GwBatchKind kind)
{
    uint8_t *end = encoder->body + encoder->body_bytes;

    if (end != data) {
        memmove(end, data, len);
    }
    encoder->body_bytes += (uint32_t)len;
    encoder->body_share[kind] += (uint32_t)len;
}

/* Puts content @number, which is @data, or its changes, or where it is. Returns which. */
static GwBatchKind
put_content(GwBatchEncoder *encoder, const GwBatch *batch, unsigned number, const uint8_t *data)
{
    uint8_t delta[GW_DELTA_MAX_BYTES];
    size_t len = 0;

    if (encoder->group &&
        gw_ref_group_add(encoder->group, &encoder->refs[number], data, &batch->tags[number])) {
        return GW_BATCH_REFERENCE;
    }
    if (batch->has_base[number]) {
        size_t max_zstd_bytes = encoder->effort->zstd_deltas ? encoder->page_bytes / 2 : 0;

        len = gw_delta_encode(encoder->deltas, batch->bases + (size_t)number * GW_PAGE_BYTES, data,
                              delta, max_zstd_bytes);
    }
    if (len == 0) {
        put_body(encoder, data, GW_PAGE_BYTES, GW_BATCH_CONTENT);
        return GW_BATCH_CONTENT;
    }
    put_body(encoder, delta, len, GW_BATCH_DELTA);
    encoder->n_deltas++;
    return GW_BATCH_DELTA;
}

/* A run of contents; neighbours of which the same became are one entry. */
static void
put_contents(GwBatchEncoder *encoder, const GwBatch *batch, const GwBatchRun *run, unsigned number,
             const uint8_t *data)
{
    GwBatchKind kind = GW_BATCH_CONTENT;
    uint64_t first = run->first_page;
    uint32_t count = 0;

    for (uint32_t i = 0; i < run->count; i++, data += GW_PAGE_BYTES) {
        GwBatchKind is = put_content(encoder, batch, number + i, data);

        if (is != kind && count > 0) {
            put_pages(encoder, run, first, count, kind);
            first += count;
            count = 0;
        }
        kind = is;
        count++;
    }
    put_pages(encoder, run, first, count, kind);
}

static void
put_runs(GwBatchEncoder *encoder, const GwBatch *batch)
{
    const uint8_t *data = encoder->contents;
    unsigned number = 0;

    for (unsigned i = 0; i < batch->n_runs; i++) {
        const GwBatchRun *run = &batch->runs[i];

        if (run->kind == GW_BATCH_OPAQUE) {
            guint before = encoder->map->len;

            put_head(encoder, run->count, GW_BATCH_OPAQUE);
            encoder->map_share[GW_BATCH_OPAQUE] += encoder->map->len - before;
            put_body(encoder, data, run->count, GW_BATCH_OPAQUE);
            data += run->count;
        } else if (run->kind == GW_BATCH_CONTENT) {
            put_contents(encoder, batch, run, number, data);
            number += run->count;
            data += (size_t)run->count * GW_PAGE_BYTES;
        } else {
            put_pages(encoder, run, run->first_page, run->count, run->kind);
        }
    }
}

/* --- all of it -------------------------------------------------------------------------------- */

/* Map and section of the largest batch and a body that grew fit into a frame. */
G_STATIC_ASSERT(GW_BATCH_MAX_RUNS *MAX_RUN_BYTES + GW_BATCH_MAX_CONTENTS * MAX_PART_BYTES +
                    GW_CODEC_MAX_GROWTH_BYTES <=
                GW_BATCH_MAX_MAP_BYTES);

/* Runs the codec. *@frame is replaced by the result if it fits. Returns the body's size. */
static uint32_t
encode_body(GwBatchEncoder *encoder, GwFrame **frame, GwFramePool *pool, GwCodecId *used)
{
    const GwCodec *codec = encoder->effort->codec;
    size_t len = 0;

    *used = GW_CODEC_PLAIN;
    if (codec->id == GW_CODEC_PLAIN || encoder->body_bytes == 0) {
        return encoder->body_bytes;
    }
    if (!encoder->codec_ready[codec->id]) {
        encoder->codec_states[codec->id] = codec->encoder_new(encoder->number);
        encoder->codec_ready[codec->id] = true;
    }
    if (codec->set_level) {
        codec->set_level(encoder->codec_states[codec->id], encoder->effort->level);
    }
    g_autoptr(GwFrame) packed = gw_frame_new(pool, GW_FRAME_RAM, GW_BATCH_MAX_BYTES);
    size_t room = codec->remembers ? encoder->body_bytes + GW_CODEC_MAX_GROWTH_BYTES
                                   : encoder->body_bytes - 1;

    if (packed) {
        len = codec->encode(encoder->codec_states[codec->id], encoder->body, encoder->body_bytes,
                            gw_frame_payload(packed) + GW_BATCH_HEADER_BYTES, room);
    }
    if (len == 0) {
        return encoder->body_bytes;
    }
    gw_frame_free(*frame);
    *frame = g_steal_pointer(&packed);
    *used = codec->id;
    return (uint32_t)len;
}

/* What deltas compete with: only bodies that are mostly pages tell. */
static void
note_page_bytes(GwBatchEncoder *encoder, uint32_t encoded_bytes)
{
    uint32_t content = encoder->body_share[GW_BATCH_CONTENT];

    if (content < encoder->body_bytes / 4 * 3 || content == 0) {
        return;
    }
    size_t now = (size_t)((uint64_t)encoded_bytes * GW_PAGE_BYTES / encoder->body_bytes);

    encoder->page_bytes = encoder->page_bytes == 0
                              ? now
                              : (encoder->page_bytes * (MEAN_BATCHES - 1) + now) / MEAN_BATCHES;
}

/* The body's bytes go to those in it, by share. */
static uint32_t
cost_of(const GwBatchEncoder *encoder, GwBatchKind kind, uint32_t encoded_bytes)
{
    uint64_t body = 0;

    if (encoder->body_bytes > 0) {
        body = (uint64_t)encoded_bytes * encoder->body_share[kind] / encoder->body_bytes;
    }
    return (uint32_t)body + encoder->map_share[kind];
}

static void
tell_causes(const GwBatchEncoder *encoder, uint32_t encoded_bytes, uint32_t section_bytes,
            GwFrameCauses *out)
{
    *out = (GwFrameCauses){
        .zero_bytes = cost_of(encoder, GW_BATCH_ZERO, encoded_bytes),
        .same_bytes = cost_of(encoder, GW_BATCH_SAME, encoded_bytes),
        .equal_bytes = cost_of(encoder, GW_BATCH_EQUAL, encoded_bytes),
        .delta_bytes = cost_of(encoder, GW_BATCH_DELTA, encoded_bytes),
        .opaque_bytes = cost_of(encoder, GW_BATCH_OPAQUE, encoded_bytes),
        .reference_bytes = encoder->map_share[GW_BATCH_REFERENCE] + section_bytes,
        .delta_pages = encoder->n_deltas,
        .reference_pages = encoder->group ? gw_ref_group_n_pages(encoder->group) : 0,
    };
    /* With what was lost by rounding. */
    out->page_bytes = encoded_bytes + encoder->map->len - out->zero_bytes - out->same_bytes -
                      out->equal_bytes - out->delta_bytes - out->opaque_bytes -
                      encoder->map_share[GW_BATCH_REFERENCE];
}

static void
put_be32_at(uint8_t *out, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        out[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

static void
begin(GwBatchEncoder *encoder, const GwBatch *batch, const GwBatchEffort *effort)
{
    encoder->effort = effort;
    encoder->body = gw_frame_payload(batch->frame) + GW_BATCH_HEADER_BYTES;
    encoder->contents = encoder->body;
    encoder->apart = NULL;
    encoder->body_bytes = 0;
    encoder->placed = false;
    encoder->equal_place = 0;
    encoder->n_deltas = 0;
    encoder->group = NULL;
    memset(encoder->map_share, 0, sizeof(encoder->map_share));
    memset(encoder->body_share, 0, sizeof(encoder->body_share));
    g_byte_array_set_size(encoder->map, 0);
}

/* The map, and behind it the section of the references. Returns the section's size. */
static uint32_t
finish_map(GwBatchEncoder *encoder)
{
    guint map_bytes = encoder->map->len;

    if (encoder->group) {
        gw_ref_group_encode(encoder->group, encoder->map);
    }
    return encoder->map->len - map_bytes;
}

G_STATIC_ASSERT(GW_BATCH_MAX_CONTENTS <= GW_REF_MAX_PAGES && GW_BATCH_MAX_CONTENTS <= 255);
/* The section takes less than the contents that it stands for. */
G_STATIC_ASSERT(GW_REF_PROOF_BYTES + GW_REF_RUN_MAX_BYTES < GW_PAGE_BYTES);

GwFrame *
gw_batch_encode(GwBatchEncoder *encoder, GwBatch *batch, const GwBatchEffort *effort)
{
    GwCodecId codec;

    if (gw_batch_is_empty(batch)) {
        return NULL;
    }
    begin(encoder, batch, effort);
    if (effort->images || effort->visit) {
        find_references(encoder, batch);
    }
    put_runs(encoder, batch);
    GwFrame *frame = gw_batch_take_frame(batch);
    if (encoder->apart) {
        gw_frame_free(frame);
        frame = g_steal_pointer(&encoder->apart);
    }
    uint32_t encoded_bytes = encode_body(encoder, &frame, batch->pool, &codec);
    uint8_t *payload = gw_frame_payload(frame);
    unsigned n_references = encoder->group ? gw_ref_group_n_pages(encoder->group) : 0;
    uint32_t section_bytes = finish_map(encoder);

    memset(payload, 0, GW_BATCH_HEADER_BYTES);
    payload[0] = (uint8_t)codec;
    payload[3] = (uint8_t)n_references;
    put_be32_at(payload + 4, encoder->body_bytes);
    put_be32_at(payload + 8, encoded_bytes);
    put_be32_at(payload + 12, encoder->map->len - section_bytes);
    memcpy(payload + GW_BATCH_HEADER_BYTES + encoded_bytes, encoder->map->data, encoder->map->len);
    frame->header.payload_bytes = GW_BATCH_HEADER_BYTES + encoded_bytes + encoder->map->len;
    g_byte_array_set_size(encoder->map, encoder->map->len - section_bytes);
    tell_causes(encoder, encoded_bytes, section_bytes, &frame->causes);
    note_page_bytes(encoder, encoded_bytes);
    frame->references = g_steal_pointer(&encoder->group);
    return frame;
}
