// SPDX-License-Identifier: Apache-2.0
/* Zstandard streams: several encoders and one decoder, levels that change, bodies of a villain. */
#include "lane/codec.h"

#include <glib.h>
#include <string.h>
#include <zstd.h>

#define MAX_BODY  (256u * 1024u)
#define N_BODIES  400u
#define HEAD_ANEW 0x80u

static const GwCodec *const codec = &gw_codec_zstd_stream;

typedef struct Rig {
    void *encoders[GW_CODEC_MAX_STREAMS];
    void *decoder;
    uint8_t *packed;
    uint8_t *out;
} Rig;

static void
rig_init(Rig *rig)
{
    for (unsigned i = 0; i < GW_CODEC_MAX_STREAMS; i++) {
        rig->encoders[i] = codec->encoder_new(i);
    }
    rig->decoder = codec->decoder_new();
    rig->packed = g_malloc(MAX_BODY + 64);
    rig->out = g_malloc(MAX_BODY);
}

static void
rig_clear(Rig *rig)
{
    for (unsigned i = 0; i < GW_CODEC_MAX_STREAMS; i++) {
        codec->encoder_free(rig->encoders[i]);
    }
    codec->decoder_free(rig->decoder);
    g_free(rig->packed);
    g_free(rig->out);
}

/* Words of a small or a large vocabulary; 0: noise. */
static void
fill(uint8_t *body, size_t len, GRand *random, unsigned vocabulary)
{
    for (size_t i = 0; i < len; i++) {
        body[i] = (uint8_t)(vocabulary ? (unsigned)g_rand_int_range(random, 0, (gint32)vocabulary)
                                       : g_rand_int(random));
    }
}

static void
expect_decoded(Rig *rig, const uint8_t *packed, size_t packed_len, const uint8_t *body, size_t len)
{
    const uint8_t *out = codec->decode(rig->decoder, packed, packed_len, rig->out, len);

    g_assert_nonnull(out);
    g_assert_cmpint(memcmp(out, body, len), ==, 0);
}

static void
test_many_encoders(void)
{
    static const unsigned vocabularies[] = {0, 2, 16, 100};
    static const int levels[] = {-7, 1, 3, 5};
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree uint8_t *body = g_malloc(MAX_BODY);
    unsigned n_packed = 0;
    Rig rig;

    g_test_message("seed %u", seed);
    rig_init(&rig);
    for (unsigned i = 0; i < N_BODIES; i++) {
        void *encoder = rig.encoders[g_rand_int_range(random, 0, GW_CODEC_MAX_STREAMS)];
        size_t len = (size_t)g_rand_int_range(random, 1, i % 4 ? 5000 : MAX_BODY + 1);

        if (i % 5 == 0) {
            codec->set_level(encoder, levels[g_rand_int_range(random, 0, G_N_ELEMENTS(levels))]);
        }
        fill(body, len, random, vocabularies[g_rand_int_range(random, 0, 4)]);
        size_t packed_len = codec->encode(encoder, body, len, rig.packed, len - 1);

        g_assert_cmpuint(packed_len, <, len);
        if (packed_len > 0) {
            expect_decoded(&rig, rig.packed, packed_len, body, len);
            n_packed++;
        }
    }
    g_assert_cmpuint(n_packed, >, N_BODIES / 3);
    g_assert_cmpuint(n_packed, <, N_BODIES);
    rig_clear(&rig);
}

/* What it is for: a body like the one before takes next to nothing. */
static void
test_remembers_bodies(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    g_autofree uint8_t *body = g_malloc(MAX_BODY);
    size_t first = 0;
    Rig rig;

    rig_init(&rig);
    codec->set_level(rig.encoders[0], 3);
    fill(body, MAX_BODY, random, 100);
    for (unsigned i = 0; i < 8; i++) {
        size_t len = codec->encode(rig.encoders[0], body, MAX_BODY, rig.packed, MAX_BODY - 1);

        expect_decoded(&rig, rig.packed, len, body, MAX_BODY);
        g_assert_cmpuint(len, >, 0);
        g_assert_cmpuint(rig.packed[0], ==, i == 0 ? HEAD_ANEW : 0);
        first = i == 0 ? len : first;
        g_assert_true(i == 0 || len < first / 50);
    }
    rig_clear(&rig);
}

static void
expect_refused(Rig *rig, const uint8_t *packed, size_t len, size_t out_len)
{
    g_assert_null(codec->decode(rig->decoder, packed, len, rig->out, out_len));
}

static void
test_villains(void)
{
    g_autofree uint8_t *body = g_malloc0(MAX_BODY);
    ZSTD_CCtx *wide = ZSTD_createCCtx();
    uint8_t packed[1024];
    Rig rig;

    rig_init(&rig);
    size_t len = codec->encode(rig.encoders[1], body, 10000, rig.packed, 9999);

    g_assert_cmpuint(len, >, 0);
    expect_refused(&rig, rig.packed, 0, 10000);
    rig.packed[0] = 1; /* goes on, and has not begun */
    expect_refused(&rig, rig.packed, len, 10000);
    rig.packed[0] = HEAD_ANEW | GW_CODEC_MAX_STREAMS;
    expect_refused(&rig, rig.packed, len, 10000);
    rig.packed[0] = HEAD_ANEW | 1;
    expect_refused(&rig, rig.packed, len - 1, 10000); /* cut off */
    expect_refused(&rig, rig.packed, len, 10001);     /* less than was announced */
    expect_refused(&rig, rig.packed, 1, 1);
    expect_decoded(&rig, rig.packed, len, body, 10000);

    /* A window of 128 MiB. */
    ZSTD_inBuffer in = {body, MAX_BODY, 0};
    ZSTD_outBuffer out = {packed, sizeof(packed), 1};

    packed[0] = HEAD_ANEW;
    ZSTD_CCtx_setParameter(wide, ZSTD_c_windowLog, 27);
    g_assert_cmpuint(ZSTD_compressStream2(wide, &out, &in, ZSTD_e_flush), ==, 0);
    expect_refused(&rig, packed, out.pos, MAX_BODY);
    ZSTD_freeCCtx(wide);
    rig_clear(&rig);
}

/* Anything may come out of damaged bytes, but not more than there is room for. */
static void
test_damage(void)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree uint8_t *body = g_malloc(20000);
    Rig rig;

    g_test_message("seed %u", seed);
    rig_init(&rig);
    fill(body, 20000, random, 20);
    for (unsigned i = 0; i < 3000; i++) {
        size_t len = codec->encode(rig.encoders[i % 3], body, 20000, rig.packed, 19999);

        for (unsigned k = 0; k < i % 4; k++) {
            rig.packed[g_rand_int_range(random, 0, (gint32)len)] = (uint8_t)g_rand_int(random);
        }
        (void)codec->decode(rig.decoder, rig.packed, len, rig.out, 20000);
    }
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/codec-stream/many-encoders", test_many_encoders);
    g_test_add_func("/codec-stream/remembers-bodies", test_remembers_bodies);
    g_test_add_func("/codec-stream/villains", test_villains);
    g_test_add_func("/codec-stream/damage", test_damage);
    return g_test_run();
}
