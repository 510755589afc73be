// SPDX-License-Identifier: Apache-2.0
/* Deltas: round trips of many kinds of change, sizes, truncations, damage, bombs. */
#include "lane/page_delta.h"

#include <string.h>
#include <zstd.h>

typedef struct Rig {
    GwDeltaEncoder *encoder;
    GwDeltaDecoder *decoder;
    GRand *random;
} Rig;

static void
rig_set_up(Rig *rig, const void *unused)
{
    rig->encoder = gw_delta_encoder_new();
    rig->decoder = gw_delta_decoder_new();
    rig->random = g_rand_new_with_seed(g_test_rand_int());
}

static void
rig_tear_down(Rig *rig, const void *unused)
{
    gw_delta_encoder_free(rig->encoder);
    gw_delta_decoder_free(rig->decoder);
    g_rand_free(rig->random);
}

static void
fill(GRand *random, uint8_t *page)
{
    static const char *const words[] = {"godwit ", "page ", "row 17\n", "\1\0\0\0\0\0\0"};
    unsigned style = (unsigned)g_rand_int_range(random, 0, 3);

    for (size_t i = 0; i < GW_PAGE_BYTES;) {
        const char *word = words[g_rand_int_range(random, 0, G_N_ELEMENTS(words))];

        if (style == 0) {
            page[i++] = (uint8_t)g_rand_int(random);
        } else if (style == 1) {
            page[i++] = 0;
        } else {
            for (size_t k = 0; word[k] && i < GW_PAGE_BYTES; k++) {
                page[i++] = (uint8_t)word[k];
            }
        }
    }
}

/* What guests do to a page between two looks at it. */
static void
change(GRand *random, uint8_t *page)
{
    size_t from = (size_t)g_rand_int_range(random, 0, GW_PAGE_BYTES);
    size_t to = (size_t)g_rand_int_range(random, 0, GW_PAGE_BYTES);
    unsigned n = 1u << g_rand_int_range(random, 0, 10);

    switch (g_rand_int_range(random, 0, 5)) {
    case 0: /* scattered bytes */
        for (unsigned i = 0; i < n; i++) {
            page[g_rand_int_range(random, 0, GW_PAGE_BYTES)] ^= (uint8_t)g_rand_int(random);
        }
        break;
    case 1: /* counters */
        for (unsigned i = 0; i < n; i++) {
            page[8 * g_rand_int_range(random, 0, GW_PAGE_BYTES / 8)]++;
        }
        break;
    case 2: /* moved */
        memmove(page + to, page + from, GW_PAGE_BYTES - MAX(from, to));
        break;
    case 3: /* written in one piece */
        for (size_t i = MIN(from, to); i < MAX(from, to); i++) {
            page[i] = (uint8_t)g_rand_int(random);
        }
        break;
    default: /* reused */
        fill(random, page);
        break;
    }
}

/* The delta's length; it must decode to @page, from memory of its exact size. */
static size_t
check_round_trip(Rig *rig, const uint8_t *base, const uint8_t *page, size_t max_zstd_bytes)
{
    uint8_t out[GW_DELTA_MAX_BYTES], result[GW_PAGE_BYTES];
    size_t len = gw_delta_encode(rig->encoder, base, page, out, max_zstd_bytes);

    if (len == 0) {
        return 0;
    }
    g_assert_cmpuint(len, <=, MAX(1 + GW_DELTA_MAX_WORDS_BYTES, 2 + max_zstd_bytes));
    g_assert_cmpuint(len, <=, GW_DELTA_MAX_BYTES);
    g_autofree uint8_t *exact = g_memdup2(out, len);
    GwCursor cursor = gw_cursor(exact, len);
    g_autoptr(GError) error = NULL;
    bool ok = gw_delta_decode(rig->decoder, &cursor, base, result, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
    g_assert_cmpuint(gw_cursor_left(&cursor), ==, 0);
    g_assert_cmpmem(result, GW_PAGE_BYTES, page, GW_PAGE_BYTES);
    return len;
}

static void
test_round_trips(Rig *rig, const void *unused)
{
    uint8_t base[GW_PAGE_BYTES], page[GW_PAGE_BYTES];
    unsigned n_words = 0, n_zstd = 0, n_none = 0;

    for (unsigned i = 0; i < 20000; i++) {
        size_t max_zstd_bytes = (size_t)g_rand_int_range(rig->random, 0, 2 * GW_PAGE_BYTES);

        if (i % 50 == 0) {
            fill(rig->random, page);
        }
        memcpy(base, page, GW_PAGE_BYTES);
        change(rig->random, page);
        size_t len = check_round_trip(rig, base, page, max_zstd_bytes);

        n_none += len == 0;
        n_words += len > 0 && len <= 1 + GW_DELTA_MAX_WORDS_BYTES;
        n_zstd += len > 1 + GW_DELTA_MAX_WORDS_BYTES;
    }
    g_assert_cmpuint(MIN(n_none, MIN(n_words, n_zstd)), >, 100);
}

static void
test_sizes(Rig *rig, const void *unused)
{
    uint8_t base[GW_PAGE_BYTES], page[GW_PAGE_BYTES];

    for (unsigned i = 0; i < GW_PAGE_BYTES; i++) {
        base[i] = (uint8_t)g_rand_int(rig->random);
    }
    memcpy(page, base, GW_PAGE_BYTES);
    g_assert_cmpuint(check_round_trip(rig, base, page, 0), ==, 1 + 8);
    page[GW_PAGE_BYTES - 1] ^= 0x80;
    g_assert_cmpuint(check_round_trip(rig, base, page, 0), ==, 1 + 8 + 1 + 8);
    page[GW_PAGE_BYTES - 8] ^= 1;
    g_assert_cmpuint(check_round_trip(rig, base, page, 0), ==, 1 + 8 + 1 + 8);
    page[0] ^= 1;
    g_assert_cmpuint(check_round_trip(rig, base, page, 0), ==, 1 + 8 + 2 + 16);

    /* The most that fits: 15 whole lines, and 6 words of another. */
    memcpy(page, base, GW_PAGE_BYTES);
    for (unsigned i = 0; i < 15 * 64 + 40; i += 8) {
        page[i] ^= 1;
    }
    g_assert_cmpuint(check_round_trip(rig, base, page, 0), ==, 1 + 8 + 16 + 125 * 8);
    page[15 * 64 + 40] ^= 1;
    g_assert_cmpuint(check_round_trip(rig, base, page, 0), ==, 0);

    /* Moved by three bytes: far too many words, but little for zstd. */
    memmove(page, base + 3, GW_PAGE_BYTES - 3);
    g_assert_cmpuint(check_round_trip(rig, base, page, 0), ==, 0);
    g_assert_cmpuint(check_round_trip(rig, base, page, 100), <, 40);
    g_assert_cmpuint(check_round_trip(rig, base, page, 10), ==, 0);
}

/* Attempts that do not pay become rare, and frequent again when one does. */
static void
test_gives_up_for_a_while(Rig *rig, const void *unused)
{
    uint8_t base[GW_PAGE_BYTES], moved[GW_PAGE_BYTES], other[GW_PAGE_BYTES];
    unsigned n_encoded = 0;

    for (unsigned i = 0; i < GW_PAGE_BYTES; i++) {
        base[i] = (uint8_t)g_rand_int(rig->random);
        other[i] = (uint8_t)g_rand_int(rig->random);
    }
    memcpy(moved, base + 1, GW_PAGE_BYTES - 1);
    moved[GW_PAGE_BYTES - 1] = 0;
    for (unsigned i = 0; i < 100; i++) {
        g_assert_cmpuint(check_round_trip(rig, base, other, 1000), ==, 0);
    }
    for (unsigned i = 0; i < 8; i++) {
        n_encoded += check_round_trip(rig, base, moved, 1000) > 0;
    }
    g_assert_cmpuint(n_encoded, >=, 1);
    g_assert_cmpuint(check_round_trip(rig, base, moved, 1000), >, 0);
}

/* --- hostile input ---------------------------------------------------------------------------- */

static bool
decodes(Rig *rig, const uint8_t *in, size_t len)
{
    uint8_t base[GW_PAGE_BYTES] = {1, 2, 3}, page[GW_PAGE_BYTES];
    g_autofree uint8_t *exact = g_memdup2(in, len);
    GwCursor cursor = gw_cursor(exact, len);
    g_autoptr(GError) error = NULL;
    bool ok = gw_delta_decode(rig->decoder, &cursor, base, page, &error);

    g_assert_true(ok == !error);
    if (error) {
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
    return ok;
}

static void
test_truncated(Rig *rig, const void *unused)
{
    uint8_t base[GW_PAGE_BYTES] = {1, 2, 3}, page[GW_PAGE_BYTES], out[GW_DELTA_MAX_BYTES];

    for (unsigned i = 0; i < 40; i++) {
        memcpy(page, base, GW_PAGE_BYTES);
        if (i % 2) {
            fill(rig->random, page);
        } else {
            page[g_rand_int_range(rig->random, 0, GW_PAGE_BYTES)] ^= 1;
        }
        size_t len = gw_delta_encode(rig->encoder, base, page, out, GW_PAGE_BYTES);

        g_assert_true(len == 0 || decodes(rig, out, len));
        for (size_t cut = 0; cut < len; cut++) {
            g_assert_false(decodes(rig, out, cut));
        }
    }
}

static void
test_damaged(Rig *rig, const void *unused)
{
    uint8_t base[GW_PAGE_BYTES] = {1, 2, 3}, page[GW_PAGE_BYTES], out[GW_DELTA_MAX_BYTES];

    for (unsigned i = 0; i < 20000; i++) {
        if (i % 100 == 0) {
            fill(rig->random, page);
        }
        change(rig->random, page);
        size_t len = gw_delta_encode(rig->encoder, base, page, out, GW_PAGE_BYTES);

        for (unsigned k = 0; len > 0 && k < 4; k++) {
            out[g_rand_int_range(rig->random, 0, (gint32)len)] = (uint8_t)g_rand_int(rig->random);
        }
        (void)decodes(rig, out, len);
    }
}

static void
test_not_canonical(Rig *rig, const void *unused)
{
    uint8_t in[1 + 8 + 64 + GW_PAGE_BYTES] = {0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1};

    g_assert_true(decodes(rig, in, 1 + 8 + 1 + 8));
    in[10] = 0; /* the word did not change */
    g_assert_false(decodes(rig, in, 1 + 8 + 1 + 8));
    in[9] = 0; /* none in the line did */
    g_assert_false(decodes(rig, in, 1 + 8 + 1 + 8));

    memset(in + 1, 0xff, sizeof(in) - 1); /* all words of all lines */
    g_assert_false(decodes(rig, in, sizeof(in)));

    uint8_t length[10] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    g_assert_false(decodes(rig, length, sizeof(length)));
    memset(in, 0x7f, sizeof(in));
    in[0] = GW_PAGE_BYTES & 0x7f; /* as long as a page */
    in[0] |= 0x80;
    in[1] = GW_PAGE_BYTES >> 7;
    g_assert_false(decodes(rig, in, sizeof(in)));
}

/* A frame that makes @len bytes. */
static bool
frame_decodes(Rig *rig, size_t len)
{
    g_autofree uint8_t *content = g_malloc0(MAX(len, 1));
    uint8_t frame[1024], in[1024];
    size_t frame_len = ZSTD_compress(frame, sizeof(frame), content, len, 1);

    g_assert_false(ZSTD_isError(frame_len));
    g_assert_cmpuint(frame_len, <, 0x80 + 4);
    in[0] = (uint8_t)(frame_len - 4);
    memcpy(in + 1, frame + 4, frame_len - 4);
    return decodes(rig, in, frame_len - 3);
}

static void
test_bomb(Rig *rig, const void *unused)
{
    g_assert_true(frame_decodes(rig, GW_PAGE_BYTES));
    g_assert_false(frame_decodes(rig, GW_PAGE_BYTES - 1));
    g_assert_false(frame_decodes(rig, GW_PAGE_BYTES + 1));
    g_assert_false(frame_decodes(rig, 0));
    g_assert_false(frame_decodes(rig, 1024 * 1024));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function)                                                                        \
    g_test_add("/page-delta/" name, Rig, NULL, rig_set_up, function, rig_tear_down)
    ADD("round-trips", test_round_trips);
    ADD("sizes", test_sizes);
    ADD("gives-up-for-a-while", test_gives_up_for_a_while);
    ADD("truncated", test_truncated);
    ADD("damaged", test_damaged);
    ADD("not-canonical", test_not_canonical);
    ADD("bomb", test_bomb);
    return g_test_run();
}
