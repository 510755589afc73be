// SPDX-License-Identifier: Apache-2.0
/* Zstandard streams, common and wide: encoders and one decoder, levels that change, bodies of a
 * villain. */
#include "lane/codec.h"

#include <glib.h>
#include <string.h>
#include <zstd.h>

#define MAX_BODY  (256u * 1024u)
#define N_BODIES  400u
#define HEAD_ANEW 0x80u

typedef struct Rig {
    const GwCodec *codec;
    unsigned n_encoders;
    void *encoders[GW_CODEC_MAX_STREAMS];
    void *decoder;
    uint8_t *packed;
    uint8_t *out;
} Rig;

static void
rig_init(Rig *rig, const GwCodec *codec)
{
    rig->codec = codec;
    rig->n_encoders = codec->single ? 1 : GW_CODEC_MAX_STREAMS;
    for (unsigned i = 0; i < rig->n_encoders; i++) {
        rig->encoders[i] = codec->encoder_new(i);
    }
    rig->decoder = codec->decoder_new();
    rig->packed = g_malloc(MAX_BODY + 64);
    rig->out = g_malloc(MAX_BODY);
}

static void
rig_clear(Rig *rig)
{
    for (unsigned i = 0; i < rig->n_encoders; i++) {
        rig->codec->encoder_free(rig->encoders[i]);
    }
    rig->codec->decoder_free(rig->decoder);
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
    const uint8_t *out = rig->codec->decode(rig->decoder, packed, packed_len, rig->out, len);

    g_assert_nonnull(out);
    g_assert_cmpint(memcmp(out, body, len), ==, 0);
}

static void
test_many_encoders(const void *codec)
{
    static const unsigned vocabularies[] = {0, 2, 16, 100};
    static const int levels[] = {-7, 1, 3, 5, 8};
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree uint8_t *body = g_malloc(MAX_BODY);
    unsigned n_packed = 0;
    Rig rig;

    g_test_message("seed %u", seed);
    rig_init(&rig, codec);
    for (unsigned i = 0; i < N_BODIES; i++) {
        void *encoder = rig.encoders[g_rand_int_range(random, 0, (gint32)rig.n_encoders)];
        size_t len = (size_t)g_rand_int_range(random, 1, i % 4 ? 5000 : MAX_BODY + 1);

        if (i % 5 == 0) {
            rig.codec->set_level(encoder,
                                 levels[g_rand_int_range(random, 0, G_N_ELEMENTS(levels))]);
        }
        fill(body, len, random, vocabularies[g_rand_int_range(random, 0, 4)]);
        size_t packed_len = rig.codec->encode(encoder, body, len, rig.packed, len - 1);

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
test_remembers_bodies(const void *codec)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    g_autofree uint8_t *body = g_malloc(MAX_BODY);
    size_t first = 0;
    Rig rig;

    rig_init(&rig, codec);
    rig.codec->set_level(rig.encoders[0], 3);
    fill(body, MAX_BODY, random, 100);
    for (unsigned i = 0; i < 8; i++) {
        size_t len = rig.codec->encode(rig.encoders[0], body, MAX_BODY, rig.packed, MAX_BODY - 1);

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
    g_assert_null(rig->codec->decode(rig->decoder, packed, len, rig->out, out_len));
}

static void
test_villains(const void *codec)
{
    g_autofree uint8_t *body = g_malloc0(MAX_BODY);
    ZSTD_CCtx *wide = ZSTD_createCCtx();
    uint8_t packed[1024];
    Rig rig;

    rig_init(&rig, codec);
    size_t len = rig.codec->encode(rig.encoders[rig.n_encoders - 1], body, 10000, rig.packed, 9999);

    g_assert_cmpuint(len, >, 0);
    expect_refused(&rig, rig.packed, 0, 10000);
    rig.packed[0] = 0; /* goes on, and has not begun */
    expect_refused(&rig, rig.packed, len, 10000);
    rig.packed[0] = (uint8_t)(HEAD_ANEW | rig.n_encoders);
    expect_refused(&rig, rig.packed, len, 10000);
    rig.packed[0] = HEAD_ANEW;
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
test_damage(const void *codec)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree uint8_t *body = g_malloc(20000);
    Rig rig;

    g_test_message("seed %u", seed);
    rig_init(&rig, codec);
    fill(body, 20000, random, 20);
    for (unsigned i = 0; i < 3000; i++) {
        size_t len =
            rig.codec->encode(rig.encoders[i % 3 % rig.n_encoders], body, 20000, rig.packed, 19999);

        for (unsigned k = 0; k < i % 4; k++) {
            rig.packed[g_rand_int_range(random, 0, (gint32)len)] = (uint8_t)g_rand_int(random);
        }
        (void)rig.codec->decode(rig.decoder, rig.packed, len, rig.out, 20000);
    }
    rig_clear(&rig);
}

/* With room to grow, noise is a body like any other: what comes behind it still sees what came
 * before, as far as the window goes. */
static size_t
again_behind_noise(const GwCodec *codec, unsigned n_noise)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    g_autofree uint8_t *body = g_malloc(MAX_BODY);
    g_autofree uint8_t *noise = g_malloc(MAX_BODY);
    size_t len;
    Rig rig;

    rig_init(&rig, codec);
    codec->set_level(rig.encoders[0], 3);
    fill(body, MAX_BODY, random, 100);
    for (unsigned i = 0; i < n_noise + 2; i++) {
        const uint8_t *in = i == 0 || i == n_noise + 1 ? body : noise;

        fill(noise, MAX_BODY, random, 0);
        len = codec->encode(rig.encoders[0], in, MAX_BODY, rig.packed,
                            MAX_BODY + GW_CODEC_MAX_GROWTH_BYTES);
        g_assert_cmpuint(len, >, 0);
        g_assert_cmpuint(rig.packed[0], ==, i == 0 ? HEAD_ANEW : 0);
        expect_decoded(&rig, rig.packed, len, in, MAX_BODY);
    }
    size_t held_bytes = codec->decoder_bytes(rig.decoder);
    g_assert_cmpuint(held_bytes, >, codec->single ? 64u << 20 : 4u << 20);
    g_assert_cmpuint(held_bytes, <, codec->single ? 65u << 20 : 5u << 20);
    rig_clear(&rig);
    return len;
}

static void
test_view(void)
{
    g_assert_cmpuint(again_behind_noise(&gw_codec_zstd_stream, 8), <, MAX_BODY / 50);
    g_assert_cmpuint(again_behind_noise(&gw_codec_zstd_stream, 160), >, MAX_BODY / 2);
    g_assert_cmpuint(again_behind_noise(&gw_codec_zstd_wide, 160), <, MAX_BODY / 50);
}

static void
add(const char *name, void (*test)(const void *))
{
    static const GwCodec *const codecs[] = {&gw_codec_zstd_stream, &gw_codec_zstd_wide};

    for (size_t i = 0; i < G_N_ELEMENTS(codecs); i++) {
        g_autofree char *path = g_strdup_printf("/codec-stream/%s/%s", name, codecs[i]->name);

        g_test_add_data_func(path, codecs[i], test);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("many-encoders", test_many_encoders);
    add("remembers-bodies", test_remembers_bodies);
    add("villains", test_villains);
    add("damage", test_damage);
    g_test_add_func("/codec-stream/view", test_view);
    return g_test_run();
}
