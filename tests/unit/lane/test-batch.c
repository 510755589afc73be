// SPDX-License-Identifier: Apache-2.0
/* RAM batches and codecs: round trips, causes, limits, truncations, random damage, bombs. */
#include "base/cursor.h"
#include "lane/batch.h"
#include "lane/page_delta.h"

#include <string.h>
#include <zstd.h>

/* --- items in, items out ---------------------------------------------------------------------- */

/* All items as text plus the content, so that two sequences can be compared. */
typedef struct Log {
    GByteArray *bytes;
    unsigned n_items;
    unsigned fail_at;
    unsigned n_kind[GW_BATCH_N_KINDS];
} Log;

/* What pages with a base are told against: any page's is the same here. */
static uint8_t base_page[GW_PAGE_BYTES];

/* As they are on both sides: a page is logged with its content, however that came. */
static void
log_page(GByteArray *out, const GwBatchItem *item, const uint8_t *content)
{
    gw_put_u8(out, (uint8_t)(item->kind == GW_BATCH_DELTA ? GW_BATCH_CONTENT : item->kind));
    gw_put_u8(out, item->names_block);
    gw_put_be16(out, item->block);
    gw_put_be64(out, item->address);
    if (item->kind == GW_BATCH_EQUAL) {
        gw_put_be64(out, gw_batch_place(item->equal_block, item->equal_address / GW_PAGE_BYTES));
    }
    if (content) {
        g_byte_array_append(out, content, GW_PAGE_BYTES);
    }
}

static void
log_bytes(GByteArray *out, const uint8_t *data, size_t len)
{
    /* Opaque bytes may be split differently: they are logged without their borders. */
    for (size_t i = 0; i < len; i++) {
        gw_put_u8(out, 0xb0);
        gw_put_u8(out, data[i]);
    }
}

static bool
log_item(const GwBatchItem *item, void *data, GError **error)
{
    Log *log = data;
    uint8_t content[GW_PAGE_BYTES];
    g_autoptr(GwDeltaDecoder) deltas = NULL;

    if (log->fail_at && ++log->n_items >= log->fail_at) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "enough");
        return false;
    }
    log->n_kind[item->kind]++;
    switch ((unsigned)item->kind) {
    case GW_BATCH_OPAQUE:
        log_bytes(log->bytes, item->data, item->len);
        return true;
    case GW_BATCH_DELTA:
        deltas = gw_delta_decoder_new();
        if (!gw_delta_decode(deltas, item->body, base_page, content, error)) {
            return false;
        }
        log_page(log->bytes, item, content);
        return true;
    default:
        log_page(log->bytes, item, item->kind == GW_BATCH_CONTENT ? item->data : NULL);
        return true;
    }
}

typedef struct Rig {
    GwFramePool *pool;
    GwBatchEffort effort;
    GwBatch *batch;
    GwBatchEncoder *encoder;
    GwBatchDecoder *decoder;
    Log in, out;
    unsigned n_frames;
    GwFrameCauses causes;
    uint64_t payload_bytes;
} Rig;

static void
rig_init(Rig *rig, const GwCodec *codec)
{
    memset(rig, 0, sizeof(*rig));
    rig->pool = gw_frame_pool_new();
    rig->effort = (GwBatchEffort){.codec = codec, .zstd_deltas = codec != &gw_codec_plain};
    rig->batch = gw_batch_new(rig->pool);
    rig->encoder = gw_batch_encoder_new(0);
    rig->decoder = gw_batch_decoder_new();
    rig->in.bytes = g_byte_array_new();
    rig->out.bytes = g_byte_array_new();
}

static void
rig_clear(Rig *rig)
{
    gw_batch_free(rig->batch);
    gw_batch_encoder_free(rig->encoder);
    gw_batch_decoder_free(rig->decoder);
    g_byte_array_unref(rig->in.bytes);
    g_byte_array_unref(rig->out.bytes);
    gw_frame_pool_free(rig->pool);
}

static GwFrame *
rig_take(Rig *rig)
{
    return gw_batch_encode(rig->encoder, rig->batch, &rig->effort);
}

static void
rig_flush(Rig *rig)
{
    g_autoptr(GwFrame) frame = rig_take(rig);
    g_autoptr(GError) error = NULL;

    if (!frame) {
        return;
    }
    g_assert_cmpuint(frame->header.payload_bytes, <=, gw_frame_max_payload(GW_FRAME_RAM));
    bool ok = gw_batch_decode(rig->decoder, gw_frame_payload(frame), frame->header.payload_bytes,
                              log_item, &rig->out, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
    uint64_t caused = (uint64_t)frame->causes.page_bytes + frame->causes.zero_bytes +
                      frame->causes.same_bytes + frame->causes.equal_bytes +
                      frame->causes.delta_bytes + frame->causes.opaque_bytes +
                      frame->causes.control_bytes;
    g_assert_cmpuint(caused + GW_BATCH_HEADER_BYTES, ==, frame->header.payload_bytes);
    rig->causes.page_bytes += frame->causes.page_bytes;
    rig->causes.zero_bytes += frame->causes.zero_bytes;
    rig->causes.same_bytes += frame->causes.same_bytes;
    rig->causes.equal_bytes += frame->causes.equal_bytes;
    rig->causes.delta_bytes += frame->causes.delta_bytes;
    rig->causes.delta_pages += frame->causes.delta_pages;
    rig->causes.opaque_bytes += frame->causes.opaque_bytes;
    rig->payload_bytes += frame->header.payload_bytes;
    rig->n_frames++;
}

static void
rig_add(Rig *rig, const GwBatchPage *page)
{
    GwBatchItem item = {
        .kind = page->kind,
        .names_block = page->names_block,
        .block = page->block,
        .address = page->address,
        .equal_block = (uint16_t)(page->equal_place / GW_BATCH_PLACE_PAGES),
        .equal_address = page->equal_place % GW_BATCH_PLACE_PAGES * GW_PAGE_BYTES,
    };

    log_page(rig->in.bytes, &item, page->kind == GW_BATCH_CONTENT ? page->content : NULL);
    if (!gw_batch_has_room(rig->batch)) {
        rig_flush(rig);
    }
    gw_batch_add_page(rig->batch, page);
}

static void
rig_add_bytes(Rig *rig, const uint8_t *data, size_t len)
{
    log_bytes(rig->in.bytes, data, len);
    while (len > 0) {
        size_t added = gw_batch_add_bytes(rig->batch, data, len);

        data += added;
        len -= added;
        if (added == 0) {
            rig_flush(rig);
        }
    }
}

static void
rig_check(Rig *rig)
{
    rig_flush(rig);
    g_assert_true(gw_batch_is_empty(rig->batch));
    g_assert_cmpmem(rig->in.bytes->data, rig->in.bytes->len, rig->out.bytes->data,
                    rig->out.bytes->len);
}

static void
fill(uint8_t *page, GRand *random, unsigned style)
{
    for (unsigned i = 0; i < GW_PAGE_BYTES; i++) {
        page[i] = (uint8_t)(style == 0 ? g_rand_int(random) : i / 64 * style);
    }
}

/* --- round trips
 * ---------------------------------------------------------------------------------- */

/* All kinds, in runs and alone, back and forth, with bases that help and that do not. */
static void
test_random_items(const void *codec)
{
    static const GwBatchKind kinds[] = {GW_BATCH_ZERO, GW_BATCH_SAME, GW_BATCH_CONTENT,
                                        GW_BATCH_EQUAL};
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree uint8_t *data = g_malloc(300000);
    GwBatchPage page = {
        .kind = GW_BATCH_ZERO, .content = data, .equal_place = gw_batch_place(9, 0)};
    Rig rig;

    g_test_message("seed %u", seed);
    rig_init(&rig, codec);
    fill(base_page, random, 0);
    for (unsigned i = 0; i < 6000; i++) {
        unsigned dice = g_rand_int_range(random, 0, 100);

        if (dice < 5) {
            size_t len = g_rand_int_range(random, 1, dice == 0 ? 300000 : 200);
            for (size_t k = 0; k < len; k++) {
                data[k] = (uint8_t)g_rand_int(random);
            }
            rig_add_bytes(&rig, data, len);
            continue;
        }
        if (dice < 12) {
            page.block = (uint16_t)g_rand_int_range(random, 0, GW_RAM_MAX_BLOCKS);
            page.address = (uint64_t)g_rand_int(random) * GW_PAGE_BYTES;
        } else if (dice < 25) {
            page.address += (uint64_t)g_rand_int_range(random, 0, 40) * GW_PAGE_BYTES;
        }
        page.names_block = dice < 15;
        page.kind = dice < 70 ? page.kind : kinds[dice % 4];
        page.equal_place++;
        if (dice % 5 == 0) {
            page.equal_place = gw_batch_place(
                (uint16_t)(dice < 50 ? page.block : g_rand_int_range(random, 0, GW_RAM_MAX_BLOCKS)),
                g_rand_int(random) / 2);
        }
        page.base = dice % 2 ? base_page : NULL;
        if (dice % 4 == 1) {
            memcpy(data, base_page, GW_PAGE_BYTES);
            for (unsigned k = 0; k < dice; k++) {
                data[g_rand_int_range(random, 0, GW_PAGE_BYTES)] ^= 1;
            }
        } else {
            fill(data, random, dice % 3);
        }
        rig_add(&rig, &page);
        page.address += GW_PAGE_BYTES;
    }
    rig_check(&rig);
    g_assert_cmpuint(rig.n_frames, >, 10);
    g_assert_cmpuint(rig.out.n_kind[GW_BATCH_SAME], >, 100);
    g_assert_cmpuint(rig.out.n_kind[GW_BATCH_DELTA], >, 100);
    g_assert_cmpuint(rig.out.n_kind[GW_BATCH_CONTENT], >, 100);
    g_assert_cmpuint(rig.out.n_kind[GW_BATCH_EQUAL], >, 100);
    g_assert_cmpuint(rig.causes.delta_pages, ==, rig.out.n_kind[GW_BATCH_DELTA]);
    rig_clear(&rig);
}

/* Runs so short that the map is what fills the batch. */
static void
test_scattered_pages(void)
{
    Rig rig;

    rig_init(&rig, &gw_codec_zstd);
    for (unsigned i = 0; i < 20000; i++) {
        rig_add(&rig, &(GwBatchPage){
                          .kind = GW_BATCH_SAME,
                          .block = (uint16_t)(i % 2 * (GW_RAM_MAX_BLOCKS - 1)),
                          .address = (UINT64_MAX / GW_PAGE_BYTES - 7 * i - 1) * GW_PAGE_BYTES,
                      });
    }
    rig_check(&rig);
    g_assert_cmpuint(rig.causes.same_bytes, ==, rig.payload_bytes - 16 * rig.n_frames);
    rig_clear(&rig);

    rig_init(&rig, &gw_codec_zstd);
    for (unsigned i = 0; i < 20000; i++) {
        rig_add(&rig, &(GwBatchPage){.kind = GW_BATCH_SAME, .address = 9 * i * GW_PAGE_BYTES});
    }
    rig_check(&rig);
    g_assert_cmpuint(rig.payload_bytes, <, 20000 * 2 + 1000);
    rig_clear(&rig);
}

/* Runs that are equal to runs take a few bytes; the most scattered pages still fit. */
static void
test_equal_pages(void)
{
    Rig rig;

    rig_init(&rig, &gw_codec_zstd);
    for (uint64_t i = 0; i < 20000; i++) {
        rig_add(&rig, &(GwBatchPage){.kind = GW_BATCH_EQUAL,
                                     .address = (i + 70000) * GW_PAGE_BYTES,
                                     .equal_place = gw_batch_place(3, i + i / 5000 * 77)});
    }
    rig_check(&rig);
    g_assert_cmpuint(rig.n_frames, ==, 1);
    g_assert_cmpuint(rig.causes.equal_bytes, <, 40);
    g_assert_cmpuint(rig.causes.equal_bytes, ==, rig.payload_bytes - 16);
    rig_clear(&rig);

    rig_init(&rig, &gw_codec_zstd);
    for (unsigned i = 0; i < 20000; i++) {
        uint16_t last = GW_RAM_MAX_BLOCKS - 1;

        rig_add(&rig, &(GwBatchPage){
                          .kind = GW_BATCH_EQUAL,
                          .names_block = i % 3 == 0,
                          .block = (uint16_t)(i % 2 * last),
                          .address = (UINT64_MAX / GW_PAGE_BYTES - 7 * i - 1) * GW_PAGE_BYTES,
                          .equal_place = gw_batch_place((uint16_t)(i / 2 % 2 * last), 99 * i),
                      });
    }
    rig_check(&rig);
    g_assert_cmpuint(rig.n_frames, ==, (20000 + GW_BATCH_MAX_RUNS - 1) / GW_BATCH_MAX_RUNS);
    rig_clear(&rig);
}

static void
test_zero_pages_cost_nothing(void)
{
    Rig rig;

    rig_init(&rig, &gw_codec_zstd);
    for (uint64_t page = 0; page < 262144; page++) {
        rig_add(&rig, &(GwBatchPage){.kind = GW_BATCH_ZERO,
                                     .names_block = page == 0,
                                     .address = page * GW_PAGE_BYTES});
    }
    rig_check(&rig);
    /* 1 GiB of zero: 4 headers and runs. */
    g_assert_cmpuint(rig.causes.page_bytes, ==, 0);
    g_assert_cmpuint(rig.causes.opaque_bytes, ==, 0);
    g_assert_cmpuint(rig.payload_bytes, <, 100);
    rig_clear(&rig);
}

static void
test_incompressible_goes_plain(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    uint8_t page[GW_PAGE_BYTES];
    GwBatchPage item = {.kind = GW_BATCH_CONTENT, .content = page};
    Rig rig;

    rig_init(&rig, &gw_codec_zstd);
    for (unsigned i = 0; i < 64; i++, item.address += GW_PAGE_BYTES) {
        fill(page, random, 0);
        g_assert_true(gw_batch_has_room(rig.batch));
        gw_batch_add_page(rig.batch, &item);
    }
    g_assert_false(gw_batch_has_room(rig.batch));
    g_autoptr(GwFrame) frame = rig_take(&rig);
    g_assert_cmpuint(gw_frame_payload(frame)[0], ==, GW_CODEC_PLAIN);
    g_assert_cmpuint(frame->causes.page_bytes, >=, 64 * GW_PAGE_BYTES);

    memset(page, 7, sizeof(page));
    item.address = 0;
    gw_batch_add_page(rig.batch, &item);
    g_autoptr(GwFrame) small = rig_take(&rig);
    g_assert_cmpuint(gw_frame_payload(small)[0], ==, GW_CODEC_ZSTD);
    g_assert_cmpuint(small->header.payload_bytes, <, 100);
    g_assert_null(rig_take(&rig));
    g_clear_pointer(&frame, gw_frame_free);
    g_clear_pointer(&small, gw_frame_free);
    rig_clear(&rig);
}

/* A stream goes on behind a body that does not shrink, which both ends have seen. */
static void
test_noise_is_remembered(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    g_autofree uint8_t *noise = g_malloc(GW_BATCH_MAX_BODY_BYTES);
    uint64_t once;
    Rig rig;

    for (size_t i = 0; i < GW_BATCH_MAX_BODY_BYTES; i++) {
        noise[i] = (uint8_t)g_rand_int(random);
    }
    rig_init(&rig, &gw_codec_zstd_wide);
    rig_add_bytes(&rig, noise, GW_BATCH_MAX_BODY_BYTES);
    rig_flush(&rig);
    once = rig.payload_bytes;
    g_assert_cmpuint(once, >, GW_BATCH_MAX_BODY_BYTES);
    g_assert_cmpuint(once, <, GW_BATCH_MAX_BODY_BYTES + 100);
    rig_add_bytes(&rig, noise, GW_BATCH_MAX_BODY_BYTES);
    rig_check(&rig);
    g_assert_cmpuint(rig.payload_bytes, <, once + 1000);
    g_assert_cmpuint(gw_batch_decoder_memory_bytes(rig.decoder), >, 64u << 20);
    rig_clear(&rig);
}

/* Addresses at the end of what 64 bits can say must not wrap. */
static void
test_highest_address(void)
{
    uint64_t last = UINT64_MAX / GW_PAGE_BYTES - 2;
    Rig rig;

    rig_init(&rig, &gw_codec_plain);
    rig_add(&rig, &(GwBatchPage){.kind = GW_BATCH_ZERO, .address = last * GW_PAGE_BYTES});
    rig_check(&rig);
    rig_clear(&rig);
}

/* --- damage
 * ------------------------------------------------------------------------------------------ */

static GwFrame *
sample_batch(Rig *rig)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(3);
    uint8_t page[GW_PAGE_BYTES];

    fill(base_page, random, 0);
    for (unsigned i = 0; i < 30; i++) {
        static const GwBatchKind kinds[] = {GW_BATCH_ZERO, GW_BATCH_CONTENT, GW_BATCH_CONTENT,
                                            GW_BATCH_SAME};
        GwBatchPage item = {
            .kind = i % 12 == 11 ? GW_BATCH_EQUAL : kinds[i % 4],
            .equal_place = 100 + 40 * i,
            .names_block = i % 7 == 0,
            .block = (uint16_t)(i / 7),
            .address = (i + i / 5) * GW_PAGE_BYTES,
            .content = page,
            .base = i % 4 == 2 ? base_page : NULL,
        };

        if (i % 8 == 2) {
            memcpy(page, base_page, GW_PAGE_BYTES);
            page[100 + i] ^= 1;
        } else {
            fill(page, random, 1 + i);
        }
        gw_batch_add_page(rig->batch, &item);
        if (i % 6 == 0) {
            g_assert_cmpuint(gw_batch_add_bytes(rig->batch, page, 10 + i), ==, 10 + i);
        }
    }
    return rig_take(rig);
}

static void
test_truncations(void)
{
    const GwCodec *codecs[] = {&gw_codec_plain, &gw_codec_zstd};

    for (size_t c = 0; c < G_N_ELEMENTS(codecs); c++) {
        Rig rig;
        rig_init(&rig, codecs[c]);
        g_autoptr(GwFrame) frame = sample_batch(&rig);

        for (uint32_t len = 0; len < frame->header.payload_bytes; len++) {
            /* A copy of exact size, so that a sanitizer sees any read beyond. */
            g_autofree uint8_t *copy = g_memdup2(gw_frame_payload(frame), len);
            g_autoptr(GError) error = NULL;

            g_assert_false(gw_batch_decode(rig.decoder, copy, len, log_item, &rig.out, &error));
            g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
        }
        g_clear_pointer(&frame, gw_frame_free);
        rig_clear(&rig);
    }
}

static void
test_random_damage(void)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    unsigned n_failed = 0;
    Rig rig;

    g_test_message("seed %u", seed);
    rig_init(&rig, &gw_codec_zstd);
    g_autoptr(GwFrame) frame = sample_batch(&rig);
    uint32_t len = frame->header.payload_bytes;

    for (unsigned i = 0; i < 20000; i++) {
        g_autofree uint8_t *copy = g_memdup2(gw_frame_payload(frame), len);
        g_autoptr(GError) error = NULL;

        for (unsigned k = 0; k < 1 + i % 3; k++) {
            copy[g_rand_int_range(random, 0, (gint32)len)] = (uint8_t)g_rand_int(random);
        }
        g_byte_array_set_size(rig.out.bytes, 0);
        if (!gw_batch_decode(rig.decoder, copy, len, log_item, &rig.out, &error)) {
            g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
            n_failed++;
        }
    }
    g_assert_cmpuint(n_failed, >, 0);
    g_clear_pointer(&frame, gw_frame_free);
    rig_clear(&rig);
}

typedef struct Forged {
    unsigned codec;
    uint32_t body_bytes;
    const void *encoded;
    size_t encoded_len;
    const uint64_t *map; /* varints, 0-terminated */
    size_t map_len;
} Forged;

static void
expect_refused(const Forged *forged)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_autoptr(GByteArray) map = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    Rig rig;

    for (size_t i = 0; i < forged->map_len; i++) {
        gw_put_varint(map, forged->map[i]);
    }
    gw_put_u8(payload, (uint8_t)forged->codec);
    g_byte_array_append(payload, (const uint8_t *)"\0\0\0", 3);
    gw_put_be32(payload, forged->body_bytes);
    gw_put_be32(payload, (uint32_t)forged->encoded_len);
    gw_put_be32(payload, map->len);
    g_byte_array_append(payload, forged->encoded, (guint)forged->encoded_len);
    g_byte_array_append(payload, map->data, map->len);
    rig_init(&rig, &gw_codec_plain);
    g_assert_false(
        gw_batch_decode(rig.decoder, payload->data, payload->len, log_item, &rig.out, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    rig_clear(&rig);
}

#define HEAD(count, kind)                                                                          \
    (GW_BATCH_##kind == GW_BATCH_OPAQUE  ? (uint64_t)(count) << 4                                  \
     : GW_BATCH_##kind == GW_BATCH_EQUAL ? (uint64_t)(count) << 4 | 1 << 3                         \
                                         : (uint64_t)(count) << 3 | GW_BATCH_##kind)
#define TOP_PAGE (UINT64_MAX / GW_PAGE_BYTES)

static void
test_forged_maps(void)
{
    static const uint8_t zeros[8192];
    static const uint64_t too_many_pages[] = {HEAD(0, JUMP), 0, HEAD(65537, ZERO)};
    static const uint64_t too_many_in_all[] = {HEAD(0, JUMP), 0, HEAD(65536, SAME), HEAD(1, ZERO)};
    static const uint64_t huge_run[] = {HEAD(0, JUMP), 0, UINT64_MAX - 7 + GW_BATCH_ZERO};
    static const uint64_t unknown_block[] = {HEAD(2 * 4096, JUMP), 0, HEAD(1, ZERO)};
    static const uint64_t wrapping[] = {HEAD(0, JUMP), TOP_PAGE - 1, HEAD(2, ZERO)};
    static const uint64_t too_far[] = {HEAD(0, JUMP), TOP_PAGE, HEAD(1, ZERO)};
    static const uint64_t skips_too_far[] = {HEAD(0, JUMP), TOP_PAGE - 3, HEAD(1, ZERO),
                                             HEAD(2, SKIP), HEAD(1, ZERO)};
    static const uint64_t placeless[] = {HEAD(1, ZERO)};
    static const uint64_t placeless_skip[] = {HEAD(1, SKIP), HEAD(1, ZERO)};
    static const uint64_t jump_at_end[] = {HEAD(0, JUMP), 0};
    static const uint64_t cut_jump[] = {HEAD(0, JUMP)};
    static const uint64_t two_jumps[] = {HEAD(0, JUMP), 0, HEAD(0, JUMP), 0, HEAD(1, ZERO)};
    static const uint64_t jump_and_skip[] = {HEAD(0, JUMP), 0, HEAD(1, SKIP), HEAD(1, ZERO)};
    static const uint64_t jump_to_bytes[] = {HEAD(0, JUMP), 0, HEAD(4096, OPAQUE)};
    static const uint64_t empty_run[] = {HEAD(0, JUMP), 0, HEAD(0, ZERO)};
    static const uint64_t empty_skip[] = {HEAD(0, JUMP), 0, HEAD(1, ZERO), HEAD(0, SKIP),
                                          HEAD(1, ZERO)};
    static const uint64_t page_without_body[] = {HEAD(0, JUMP), 0, HEAD(1, CONTENT)};
    static const uint64_t delta_without_body[] = {HEAD(0, JUMP), 0, HEAD(1, DELTA)};
    static const uint64_t reference[] = {HEAD(0, JUMP), 0, HEAD(1, REFERENCE)};
    static const uint64_t equal_to_itself[] = {HEAD(2, JUMP), 7, HEAD(3, EQUAL),
                                               2 * (GW_BATCH_PLACE_PAGES + 7)};
    static const uint64_t equal_before_all[] = {HEAD(0, JUMP), 7, HEAD(1, EQUAL), 1};
    static const uint64_t equal_behind_all[] = {HEAD(0, JUMP), 7, HEAD(1, EQUAL),
                                                2 * GW_RAM_MAX_BLOCKS * GW_BATCH_PLACE_PAGES};
    static const uint64_t equal_over_end[] = {HEAD(0, JUMP), 7, HEAD(2, EQUAL),
                                              2 * (GW_BATCH_PLACE_PAGES - 1)};
    static const uint64_t equal_back[] = {HEAD(0, JUMP),  7,        HEAD(1, EQUAL), 6,
                                          HEAD(1, EQUAL), 2 * 5 - 1};
    static const uint64_t cut_equal[] = {HEAD(0, JUMP), 7, HEAD(1, EQUAL)};
    static const uint64_t empty_equal[] = {HEAD(0, JUMP), 7, HEAD(0, EQUAL), 1};
    static const uint64_t opaque_over_body[] = {HEAD(5000, OPAQUE)};
    static const uint64_t huge_opaque[] = {UINT64_MAX - 15};
    static const uint64_t nothing[] = {0};
    static const uint64_t body_left[] = {HEAD(4000, OPAQUE)};
    const Forged forged[] = {
        {GW_CODEC_PLAIN, 0, "", 0, too_many_pages, 3},
        {GW_CODEC_PLAIN, 0, "", 0, too_many_in_all, 4},
        {GW_CODEC_PLAIN, 0, "", 0, huge_run, 3},
        {GW_CODEC_PLAIN, 0, "", 0, unknown_block, 3},
        {GW_CODEC_PLAIN, 0, "", 0, wrapping, 3},
        {GW_CODEC_PLAIN, 0, "", 0, too_far, 3},
        {GW_CODEC_PLAIN, 0, "", 0, skips_too_far, 5},
        {GW_CODEC_PLAIN, 0, "", 0, placeless, 1},
        {GW_CODEC_PLAIN, 0, "", 0, placeless_skip, 2},
        {GW_CODEC_PLAIN, 0, "", 0, jump_at_end, 2},
        {GW_CODEC_PLAIN, 0, "", 0, cut_jump, 1},
        {GW_CODEC_PLAIN, 0, "", 0, two_jumps, 5},
        {GW_CODEC_PLAIN, 0, "", 0, jump_and_skip, 4},
        {GW_CODEC_PLAIN, 4096, zeros, 4096, jump_to_bytes, 3},
        {GW_CODEC_PLAIN, 0, "", 0, empty_run, 3},
        {GW_CODEC_PLAIN, 0, "", 0, empty_skip, 5},
        {GW_CODEC_PLAIN, 0, "", 0, page_without_body, 3},
        {GW_CODEC_PLAIN, 0, "", 0, delta_without_body, 3},
        {GW_CODEC_PLAIN, 0, "", 0, reference, 3},
        {GW_CODEC_PLAIN, 0, "", 0, equal_to_itself, 4},
        {GW_CODEC_PLAIN, 0, "", 0, equal_before_all, 4},
        {GW_CODEC_PLAIN, 0, "", 0, equal_behind_all, 4},
        {GW_CODEC_PLAIN, 0, "", 0, equal_over_end, 4},
        {GW_CODEC_PLAIN, 0, "", 0, equal_back, 6},
        {GW_CODEC_PLAIN, 0, "", 0, cut_equal, 3},
        {GW_CODEC_PLAIN, 0, "", 0, empty_equal, 4},
        {GW_CODEC_PLAIN, 4096, zeros, 4096, opaque_over_body, 1},
        {GW_CODEC_PLAIN, 4096, zeros, 4096, huge_opaque, 1},
        {GW_CODEC_PLAIN, 0, "", 0, nothing, 1},
        {GW_CODEC_PLAIN, 4096, zeros, 4096, body_left, 1},
        {GW_CODEC_PLAIN, 4096, zeros, 4096, NULL, 0},
        {GW_CODEC_PLAIN, 4096, zeros, 4095, opaque_over_body, 0},
        {GW_CODEC_N_IDS, 0, "", 0, NULL, 0},
        {255, 0, "", 0, NULL, 0},
        {GW_CODEC_PLAIN, GW_BATCH_MAX_BODY_BYTES + 1, "", 0, NULL, 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(forged); i++) {
        g_test_message("case %zu", i);
        expect_refused(&forged[i]);
    }
}

/* A tiny zstd frame that unpacks to far more than is announced, or allowed at all. */
static void
test_bombs(void)
{
    static const size_t real_sizes[] = {4097, GW_BATCH_MAX_BODY_BYTES + 1, 64u * 1024 * 1024};
    static const uint32_t announced[] = {4096, GW_BATCH_MAX_BODY_BYTES, 0, UINT32_MAX};
    static const uint64_t map[] = {HEAD(4096, OPAQUE)};

    for (size_t i = 0; i < G_N_ELEMENTS(real_sizes); i++) {
        g_autofree uint8_t *raw = g_malloc0(real_sizes[i]);
        size_t bound = ZSTD_compressBound(real_sizes[i]);
        g_autofree uint8_t *packed = g_malloc(bound);
        size_t len = ZSTD_compress(packed, bound, raw, real_sizes[i], 3);

        g_assert_cmpuint(len, <, 32768);
        for (size_t k = 0; k < G_N_ELEMENTS(announced); k++) {
            expect_refused(&(Forged){GW_CODEC_ZSTD, announced[k], packed, len, map, 1});
        }
    }
    expect_refused(&(Forged){GW_CODEC_ZSTD, 4096, "no zstd at all", 14, map, 1});
}

static void
test_consumer_can_stop(void)
{
    g_autoptr(GError) error = NULL;
    Rig rig;

    rig_init(&rig, &gw_codec_plain);
    g_autoptr(GwFrame) frame = sample_batch(&rig);
    rig.out.fail_at = 5;
    g_assert_false(gw_batch_decode(rig.decoder, gw_frame_payload(frame),
                                   frame->header.payload_bytes, log_item, &rig.out, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_assert_cmpuint(rig.out.n_items, ==, 5);
    g_clear_pointer(&frame, gw_frame_free);
    rig_clear(&rig);
}

static void
test_codec_table(void)
{
    for (unsigned id = 0; id < GW_CODEC_N_IDS; id++) {
        g_assert_cmpuint(gw_codec_find(id)->id, ==, id);
    }
    g_assert_null(gw_codec_find(GW_CODEC_N_IDS));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/batch/random-items/plain", &gw_codec_plain, test_random_items);
    g_test_add_data_func("/batch/random-items/zstd", &gw_codec_zstd, test_random_items);
    g_test_add_data_func("/batch/random-items/zstd-stream", &gw_codec_zstd_stream,
                         test_random_items);
    g_test_add_data_func("/batch/random-items/zstd-wide", &gw_codec_zstd_wide, test_random_items);
    g_test_add_func("/batch/noise-is-remembered", test_noise_is_remembered);
    g_test_add_func("/batch/scattered-pages", test_scattered_pages);
    g_test_add_func("/batch/equal-pages", test_equal_pages);
    g_test_add_func("/batch/zero-pages-cost-nothing", test_zero_pages_cost_nothing);
    g_test_add_func("/batch/incompressible-goes-plain", test_incompressible_goes_plain);
    g_test_add_func("/batch/highest-address", test_highest_address);
    g_test_add_func("/batch/truncations", test_truncations);
    g_test_add_func("/batch/random-damage", test_random_damage);
    g_test_add_func("/batch/forged-maps", test_forged_maps);
    g_test_add_func("/batch/bombs", test_bombs);
    g_test_add_func("/batch/consumer-can-stop", test_consumer_can_stop);
    g_test_add_func("/batch/codec-table", test_codec_table);
    return g_test_run();
}
