// SPDX-License-Identifier: Apache-2.0
/* RAM batches and codecs: round trips, causes, limits, truncations, random damage, bombs. */
#include "base/cursor.h"
#include "lane/batch.h"

#include <string.h>
#include <zstd.h>

/* --- items in, items out ---------------------------------------------------------------------- */

/* All items as text plus the content, so that two sequences can be compared. */
typedef struct Log {
    GByteArray *bytes;
    unsigned n_items;
    unsigned fail_at;
} Log;

static bool
log_item(const GwRamItem *item, void *data, GError **error)
{
    Log *log = data;

    if (log->fail_at && ++log->n_items >= log->fail_at) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "enough");
        return false;
    }
    /* Opaque bytes may be split differently: they are logged without their borders. */
    if (item->kind == GW_RAM_ITEM_BYTES) {
        for (size_t i = 0; i < item->len; i++) {
            gw_put_u8(log->bytes, 0xb0);
            gw_put_u8(log->bytes, item->data[i]);
        }
        return true;
    }
    gw_put_u8(log->bytes, (uint8_t)item->kind);
    gw_put_u8(log->bytes, item->names_block);
    gw_put_be16(log->bytes, item->block);
    gw_put_be64(log->bytes, item->address);
    if (item->kind == GW_RAM_ITEM_PAGE) {
        g_byte_array_append(log->bytes, item->data, GW_PAGE_BYTES);
    }
    return true;
}

typedef struct Rig {
    GwFramePool *pool;
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
    rig->encoder = gw_batch_encoder_new(codec, rig->pool);
    rig->decoder = gw_batch_decoder_new();
    rig->in.bytes = g_byte_array_new();
    rig->out.bytes = g_byte_array_new();
}

static void
rig_clear(Rig *rig)
{
    gw_batch_encoder_free(rig->encoder);
    gw_batch_decoder_free(rig->decoder);
    g_byte_array_unref(rig->in.bytes);
    g_byte_array_unref(rig->out.bytes);
    gw_frame_pool_free(rig->pool);
}

static void
rig_flush(Rig *rig)
{
    g_autoptr(GwFrame) frame = gw_batch_encoder_take(rig->encoder);
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
                      frame->causes.opaque_bytes + frame->causes.control_bytes;
    g_assert_cmpuint(caused + GW_BATCH_HEADER_BYTES, ==, frame->header.payload_bytes);
    rig->causes.page_bytes += frame->causes.page_bytes;
    rig->causes.zero_bytes += frame->causes.zero_bytes;
    rig->causes.opaque_bytes += frame->causes.opaque_bytes;
    rig->payload_bytes += frame->header.payload_bytes;
    rig->n_frames++;
}

static void
rig_add(Rig *rig, GwRamItem item)
{
    g_assert_true(log_item(&item, &rig->in, NULL));
    while (!gw_batch_encoder_add(rig->encoder, &item)) {
        rig_flush(rig);
    }
}

static void
rig_check(Rig *rig)
{
    rig_flush(rig);
    g_assert_true(gw_batch_encoder_is_empty(rig->encoder));
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

static void
test_random_items(const void *codec)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree uint8_t *data = g_malloc(300000);
    uint64_t address = 0;
    uint16_t block = 0;
    Rig rig;

    g_test_message("seed %u", seed);
    rig_init(&rig, codec);
    for (unsigned i = 0; i < 3000; i++) {
        unsigned dice = g_rand_int_range(random, 0, 100);

        if (dice < 8) {
            size_t len = g_rand_int_range(random, 1, dice == 0 ? 300000 : 200);
            for (size_t k = 0; k < len; k++) {
                data[k] = (uint8_t)g_rand_int(random);
            }
            rig_add(&rig, (GwRamItem){.kind = GW_RAM_ITEM_BYTES, .data = data, .len = len});
            continue;
        }
        if (dice < 20) {
            block = (uint16_t)g_rand_int_range(random, 0, GW_RAM_MAX_BLOCKS);
            address = (uint64_t)g_rand_int(random) * GW_PAGE_BYTES;
        }
        fill(data, random, dice % 3);
        rig_add(&rig, (GwRamItem){
                          .kind = dice < 60 ? GW_RAM_ITEM_ZERO : GW_RAM_ITEM_PAGE,
                          .names_block = dice < 25,
                          .block = block,
                          .address = address,
                          .data = dice < 60 ? NULL : data,
                      });
        address += GW_PAGE_BYTES;
    }
    rig_check(&rig);
    g_assert_cmpuint(rig.n_frames, >, 10);
    rig_clear(&rig);
}

static void
test_zero_pages_cost_a_bit(void)
{
    Rig rig;

    rig_init(&rig, &gw_codec_zstd);
    for (uint64_t page = 0; page < 262144; page++) {
        rig_add(&rig, (GwRamItem){.kind = GW_RAM_ITEM_ZERO,
                                  .names_block = page == 0,
                                  .address = page * GW_PAGE_BYTES});
    }
    rig_check(&rig);
    /* 1 GiB of zero: 32 KiB of bits, entries every 8192 pages, 4 headers. */
    g_assert_cmpuint(rig.causes.page_bytes, ==, 0);
    g_assert_cmpuint(rig.causes.opaque_bytes, ==, 0);
    g_assert_cmpuint(rig.payload_bytes, <, 32768 + 300);
    rig_clear(&rig);
}

static void
test_incompressible_goes_plain(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    uint8_t page[GW_PAGE_BYTES];
    GwRamItem item = {.kind = GW_RAM_ITEM_PAGE, .data = page};
    Rig rig;

    rig_init(&rig, &gw_codec_zstd);
    for (unsigned i = 0; i < 64; i++, item.address += GW_PAGE_BYTES) {
        fill(page, random, 0);
        g_assert_true(gw_batch_encoder_add(rig.encoder, &item));
    }
    g_assert_false(gw_batch_encoder_add(rig.encoder, &item));
    g_autoptr(GwFrame) frame = gw_batch_encoder_take(rig.encoder);
    g_assert_cmpuint(gw_frame_payload(frame)[0], ==, GW_CODEC_PLAIN);
    g_assert_cmpuint(frame->causes.page_bytes, >=, 64 * GW_PAGE_BYTES);

    memset(page, 7, sizeof(page));
    item.address = 0;
    g_assert_true(gw_batch_encoder_add(rig.encoder, &item));
    g_autoptr(GwFrame) small = gw_batch_encoder_take(rig.encoder);
    g_assert_cmpuint(gw_frame_payload(small)[0], ==, GW_CODEC_ZSTD);
    g_assert_cmpuint(small->header.payload_bytes, <, 100);
    g_assert_null(gw_batch_encoder_take(rig.encoder));
    g_clear_pointer(&frame, gw_frame_free);
    g_clear_pointer(&small, gw_frame_free);
    rig_clear(&rig);
}

/* Addresses at the end of what 64 bits can say must not wrap. */
static void
test_highest_address(void)
{
    uint64_t last = UINT64_MAX / GW_PAGE_BYTES - 2;
    Rig rig;

    rig_init(&rig, &gw_codec_plain);
    rig_add(&rig, (GwRamItem){.kind = GW_RAM_ITEM_ZERO, .address = last * GW_PAGE_BYTES});
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

    for (unsigned i = 0; i < 20; i++) {
        GwRamItem page_item = {.kind = i % 3 ? GW_RAM_ITEM_PAGE : GW_RAM_ITEM_ZERO,
                               .names_block = i % 7 == 0,
                               .block = (uint16_t)(i / 7),
                               .address = (i + i / 5) * GW_PAGE_BYTES,
                               .data = page};
        GwRamItem bytes = {.kind = GW_RAM_ITEM_BYTES, .data = page, .len = 10 + i};

        fill(page, random, 1 + i);
        g_assert_true(gw_batch_encoder_add(rig->encoder, &page_item));
        if (i % 6 == 0) {
            g_assert_true(gw_batch_encoder_add(rig->encoder, &bytes));
        }
    }
    return gw_batch_encoder_take(rig->encoder);
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

static void
test_forged_maps(void)
{
    static const uint8_t zeros[8192];
    static const uint64_t too_many_pages[] = {2 * 65537 + 1, 0, 0};
    static const uint64_t huge_run[] = {UINT64_MAX, 0, 0};
    static const uint64_t unknown_block[] = {2 * 1 + 1, 2 * 4096, 0, 0};
    static const uint64_t wrapping[] = {2 * 8 + 1, 0, UINT64_MAX / 4096, 0};
    static const uint64_t page_without_body[] = {2 * 1 + 1, 0, 0, 1};
    static const uint64_t stray_bits[] = {2 * 1 + 1, 0, 0, 2};
    static const uint64_t opaque_over_body[] = {2 * 5000};
    static const uint64_t huge_opaque[] = {UINT64_MAX - 1};
    static const uint64_t nothing[] = {0};
    static const uint64_t body_left[] = {2 * 4000};
    const Forged forged[] = {
        {GW_CODEC_PLAIN, 0, "", 0, too_many_pages, 3},
        {GW_CODEC_PLAIN, 0, "", 0, huge_run, 3},
        {GW_CODEC_PLAIN, 0, "", 0, unknown_block, 4},
        {GW_CODEC_PLAIN, 0, "", 0, wrapping, 4},
        {GW_CODEC_PLAIN, 0, "", 0, page_without_body, 4},
        {GW_CODEC_PLAIN, 0, "", 0, stray_bits, 4},
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
    static const uint64_t map[] = {2 * 4096};

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
    g_test_add_func("/batch/zero-pages-cost-a-bit", test_zero_pages_cost_a_bit);
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
