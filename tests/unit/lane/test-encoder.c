// SPDX-License-Identifier: Apache-2.0
/* Parallel encoding: the order stays, whatever takes long; nothing is lost; room is bounded. */
#include "lane/encoder.h"

#include <string.h>

typedef struct Rig {
    GwFramePool *pool;
    GwOutbox *outbox;
    GwEncoder *encoder;
} Rig;

static void
no_wake(void *data)
{
}

static void
rig_init(Rig *rig, unsigned n_workers)
{
    g_autoptr(GError) error = NULL;

    rig->pool = gw_frame_pool_new();
    rig->outbox = gw_outbox_new(no_wake, NULL);
    rig->encoder = gw_encoder_new(rig->pool, rig->outbox, n_workers, &error);
    g_assert_no_error(error);
}

static void
rig_clear(Rig *rig)
{
    gw_encoder_free(rig->encoder);
    gw_outbox_free(rig->outbox);
    gw_frame_pool_free(rig->pool);
}

/* Of the frame that was @number-th. */
static unsigned
expected_zero_pages(unsigned number)
{
    return 1 + number % 50;
}

/* Some take long, some next to nothing. */
static GwBatch *
fill_batch(Rig *rig, GRand *random, unsigned number)
{
    GwBatch *batch = gw_encoder_take_batch(rig->encoder);
    uint8_t page[GW_PAGE_BYTES];
    unsigned n = number % 7 == 0 ? GW_BATCH_MAX_CONTENTS - 1 : number % 3;

    g_assert_true(gw_batch_is_empty(batch));
    for (unsigned i = 0; i < expected_zero_pages(number); i++) {
        gw_batch_add_page(
            batch, &(GwBatchPage){.kind = GW_BATCH_ZERO, .address = i * (uint64_t)GW_PAGE_BYTES});
    }
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < GW_PAGE_BYTES; k++) {
            page[k] = (uint8_t)(g_rand_int(random) & 0x1f);
        }
        gw_batch_add_page(batch, &(GwBatchPage){.kind = GW_BATCH_CONTENT, .content = page});
    }
    return batch;
}

static bool
count_zero_pages(const GwBatchItem *item, void *data, GError **error)
{
    *(unsigned *)data += item->kind == GW_BATCH_ZERO;
    return true;
}

static void
expect_frame(Rig *rig, GwBatchDecoder *decoder, unsigned number)
{
    GwReceived none = {0};
    unsigned n_zero_pages = 0;

    if (number == 0) {
        g_assert_true(gw_outbox_link_up(rig->outbox, 0, &none, 1, NULL));
    }
    g_autoptr(GwFrame) frame = gw_outbox_take(rig->outbox, 0, 1);

    g_assert_nonnull(frame);
    if (number % 5 == 4) {
        g_assert_cmpint(frame->header.type, ==, GW_FRAME_CHECKPOINT);
        g_assert_cmpuint(gw_frame_payload(frame)[0], ==, number & 0xff);
        return;
    }
    g_assert_true(gw_batch_decode(decoder, gw_frame_payload(frame), frame->header.payload_bytes,
                                  count_zero_pages, &n_zero_pages, NULL));
    g_assert_cmpuint(n_zero_pages, ==, expected_zero_pages(number));
}

/* Also where only one worker may take some of the batches. */
static void
test_order(void)
{
    static const GwBatchEffort efforts[] = {
        {.codec = &gw_codec_zstd, .level = 1},
        {.codec = &gw_codec_zstd_wide, .level = 3},
        {.codec = &gw_codec_zstd_wide, .level = 3},
        {.codec = &gw_codec_zstd_stream, .level = 1},
    };

    for (unsigned n_workers = 1; n_workers <= GW_ENCODER_MAX_WORKERS; n_workers *= 2) {
        g_autoptr(GRand) random = g_rand_new_with_seed(n_workers);
        g_autoptr(GwBatchDecoder) decoder = gw_batch_decoder_new();
        const unsigned n_frames = 400;
        GwEncoderFigures figures;
        Rig rig;

        rig_init(&rig, n_workers);
        for (unsigned i = 0; i < n_frames; i++) {
            if (i % 5 == 4) {
                GByteArray payload = {.data = (guint8[]){(guint8)i}, .len = 1};

                gw_encoder_put_frame(rig.encoder,
                                     gw_frame_new_with(rig.pool, GW_FRAME_CHECKPOINT, &payload));
            } else {
                gw_encoder_put_batch(rig.encoder, fill_batch(&rig, random, i),
                                     &efforts[i % G_N_ELEMENTS(efforts)]);
            }
        }
        gw_encoder_drain(rig.encoder);
        gw_encoder_figures(rig.encoder, &figures);
        g_assert_cmpuint(figures.n_workers, ==, n_workers);
        g_assert_cmpuint(figures.cpu_us, >, 0);
        g_assert_cmpuint(figures.memory_bytes, <=, n_workers * (10u << 20) + (77u << 20));
        g_assert_cmpuint(figures.memory_bytes, >=, 64u << 20);
        for (unsigned i = 0; i < n_frames; i++) {
            expect_frame(&rig, decoder, i);
        }
        g_assert_null(gw_outbox_take(rig.outbox, 0, 1));
        rig_clear(&rig);
    }
}

/* Nothing waits for more to come, nor for the end. */
static void
test_leaves_at_once(void)
{
    static const GwBatchEffort effort = {.codec = &gw_codec_plain};
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    Rig rig;

    rig_init(&rig, 2);
    gw_encoder_put_batch(rig.encoder, fill_batch(&rig, random, 1), &effort);
    while (gw_outbox_is_settled(rig.outbox)) {
        g_thread_yield();
    }
    /* An empty one comes to nothing, and keeps nobody waiting. */
    gw_encoder_put_batch(rig.encoder, gw_encoder_take_batch(rig.encoder), &effort);
    gw_encoder_drain(rig.encoder);
    g_assert_false(gw_encoder_has_backlog(rig.encoder));
    rig_clear(&rig);
}

/* What was given and not fetched goes with the encoder. */
static void
test_free_with_work(void)
{
    static const GwBatchEffort effort = {.codec = &gw_codec_zstd, .level = 3};

    for (unsigned i = 0; i < 20; i++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(i);
        Rig rig;

        rig_init(&rig, 1 + i % 4);
        for (unsigned k = 0; k < i % 5; k++) {
            gw_encoder_put_batch(rig.encoder, fill_batch(&rig, random, 7 * k), &effort);
        }
        rig_clear(&rig);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/encoder/order", test_order);
    g_test_add_func("/encoder/leaves-at-once", test_leaves_at_once);
    g_test_add_func("/encoder/free-with-work", test_free_with_work);
    return g_test_run();
}
