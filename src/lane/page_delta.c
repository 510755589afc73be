// SPDX-License-Identifier: Apache-2.0
/*
 * Deltas between two versions of a page; the decoder's input is hostile.
 *
 * Owns a zstd context each. Whoever uses one owns its thread. Memory: about 100 KiB each; nothing
 * grows with the input. Encoding cannot fail; decoding reads through a bounded cursor, writes one
 * page at most and fails with GW_ERROR_PROTOCOL.
 */
#include "lane/page_delta.h"

#include <string.h>
#include <zstd.h>

#define WORD_BYTES     8u
#define LINE_WORDS     8u
#define LINE_BYTES     (LINE_WORDS * WORD_BYTES)
#define PAGE_LINES     (GW_PAGE_BYTES / LINE_BYTES)
#define LINE_MAP_BYTES 8u

#define ZSTD_LEVEL      1
#define ZSTD_WINDOW_LOG 13 /* copy and page */
#define ZSTD_HASH_LOG   12
#define MAGIC_BYTES     4u

/* After so many attempts in a row that did not pay, only every so many-th page is tried. */
#define MAX_FUTILE 8u

struct GwDeltaEncoder {
    ZSTD_CCtx *zstd;
    unsigned n_futile; /* attempts in a row */
    unsigned n_passed; /* pages that were not tried since */
    uint8_t frame[GW_PAGE_BYTES];
};

struct GwDeltaDecoder {
    ZSTD_DCtx *zstd;
    uint8_t frame[MAGIC_BYTES + GW_DELTA_MAX_BYTES];
};

/* What a frame begins with: the format's le32 ZSTD_MAGICNUMBER. */
static const uint8_t magic[MAGIC_BYTES] = {0x28, 0xb5, 0x2f, 0xfd};

G_STATIC_ASSERT(ZSTD_MAGICNUMBER == 0xfd2fb528u);
G_STATIC_ASSERT(PAGE_LINES == 64);

/* --- encoding --------------------------------------------------------------------------------- */

GwDeltaEncoder *
gw_delta_encoder_new(void)
{
    GwDeltaEncoder *encoder = g_new0(GwDeltaEncoder, 1);

    encoder->zstd = ZSTD_createCCtx();
    if (!encoder->zstd) {
        g_error("out of memory for a zstd context");
    }
    ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
    ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_windowLog, ZSTD_WINDOW_LOG);
    ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_hashLog, ZSTD_HASH_LOG);
    ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_contentSizeFlag, 0);
    return encoder;
}

void
gw_delta_encoder_free(GwDeltaEncoder *encoder)
{
    if (encoder) {
        ZSTD_freeCCtx(encoder->zstd);
        g_free(encoder);
    }
}

/* A bit for each word that differs; old XOR new of the whole line in @change. */
static unsigned
compare_line(const uint8_t *base, const uint8_t *page, uint64_t change[LINE_WORDS])
{
    uint64_t was[LINE_WORDS], is[LINE_WORDS];
    uint64_t any = 0;
    unsigned mask = 0;

    memcpy(was, base, LINE_BYTES);
    memcpy(is, page, LINE_BYTES);
    for (unsigned i = 0; i < LINE_WORDS; i++) {
        change[i] = was[i] ^ is[i];
        any |= change[i];
    }
    for (unsigned i = 0; any != 0 && i < LINE_WORDS; i++) {
        mask |= (unsigned)(change[i] != 0) << i;
    }
    return mask;
}

/* 0: too many words changed. */
static size_t
encode_words(const uint8_t *base, const uint8_t *page, uint8_t *out)
{
    uint8_t *masks = out + 1 + LINE_MAP_BYTES;
    uint8_t words[GW_DELTA_MAX_WORDS_BYTES];
    unsigned n_masks = 0;
    size_t words_len = 0;
    uint64_t lines = 0;

    for (unsigned line = 0; line < PAGE_LINES; line++) {
        uint64_t change[LINE_WORDS];
        unsigned mask = compare_line(base + line * LINE_BYTES, page + line * LINE_BYTES, change);

        if (mask == 0) {
            continue;
        }
        size_t len = (size_t)__builtin_popcount(mask) * WORD_BYTES;

        if (LINE_MAP_BYTES + n_masks + 1 + words_len + len > GW_DELTA_MAX_WORDS_BYTES) {
            return 0;
        }
        lines |= (uint64_t)1 << line;
        masks[n_masks++] = (uint8_t)mask;
        for (unsigned i = 0; i < LINE_WORDS; i++) {
            if (mask & (1u << i)) {
                memcpy(words + words_len, &change[i], WORD_BYTES);
                words_len += WORD_BYTES;
            }
        }
    }
    out[0] = 0;
    for (unsigned i = 0; i < LINE_MAP_BYTES; i++) {
        out[1 + i] = (uint8_t)(lines >> (8 * i));
    }
    memcpy(masks + n_masks, words, words_len);
    return 1 + LINE_MAP_BYTES + n_masks + words_len;
}

/* Whether the next attempt is worth its time. */
static bool
is_worth_trying(GwDeltaEncoder *encoder)
{
    return encoder->n_futile < MAX_FUTILE || ++encoder->n_passed % MAX_FUTILE == 0;
}

/* 0: it does not pay. */
static size_t
encode_zstd(GwDeltaEncoder *encoder, const uint8_t *base, const uint8_t *page, uint8_t *out,
            size_t max_bytes)
{
    size_t room = MIN(max_bytes, GW_DELTA_MAX_BYTES - 2) + MAGIC_BYTES;

    if (max_bytes == 0 || !is_worth_trying(encoder)) {
        return 0;
    }
    /* An attempt that ran out of room has left the context in the middle of a frame. */
    ZSTD_CCtx_reset(encoder->zstd, ZSTD_reset_session_only);
    ZSTD_CCtx_refPrefix(encoder->zstd, base, GW_PAGE_BYTES);
    size_t len = ZSTD_compress2(encoder->zstd, encoder->frame, MIN(room, GW_PAGE_BYTES), page,
                                GW_PAGE_BYTES);

    if (ZSTD_isError(len) || len <= MAGIC_BYTES ||
        memcmp(encoder->frame, magic, MAGIC_BYTES) != 0) {
        encoder->n_futile++;
        return 0;
    }
    encoder->n_futile = 0;
    len -= MAGIC_BYTES;
    size_t pos = 0;

    if (len >= 0x80) {
        out[pos++] = (uint8_t)(len | 0x80);
        out[pos++] = (uint8_t)(len >> 7);
    } else {
        out[pos++] = (uint8_t)len;
    }
    memcpy(out + pos, encoder->frame + MAGIC_BYTES, len);
    return pos + len;
}

size_t
gw_delta_encode(GwDeltaEncoder *encoder, const uint8_t *base, const uint8_t *page, uint8_t *out,
                size_t max_zstd_bytes)
{
    size_t len = encode_words(base, page, out);

    return len > 0 ? len : encode_zstd(encoder, base, page, out, max_zstd_bytes);
}

/* --- decoding --------------------------------------------------------------------------------- */

GwDeltaDecoder *
gw_delta_decoder_new(void)
{
    GwDeltaDecoder *decoder = g_new0(GwDeltaDecoder, 1);

    decoder->zstd = ZSTD_createDCtx();
    if (!decoder->zstd) {
        g_error("out of memory for a zstd context");
    }
    memcpy(decoder->frame, magic, MAGIC_BYTES);
    return decoder;
}

void
gw_delta_decoder_free(GwDeltaDecoder *decoder)
{
    if (decoder) {
        ZSTD_freeDCtx(decoder->zstd);
        g_free(decoder);
    }
}

static bool
damaged(GError **error, const char *what)
{
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the peer sent a damaged page delta: %s", what);
    return false;
}

/* False: a word that did not change. */
static bool
apply_line(uint8_t *line, unsigned mask, const uint8_t *words)
{
    for (unsigned i = 0; i < LINE_WORDS; i++) {
        uint64_t word, change;

        if (!(mask & (1u << i))) {
            continue;
        }
        memcpy(&change, words, WORD_BYTES);
        if (change == 0) {
            return false;
        }
        memcpy(&word, line + i * WORD_BYTES, WORD_BYTES);
        word ^= change;
        memcpy(line + i * WORD_BYTES, &word, WORD_BYTES);
        words += WORD_BYTES;
    }
    return true;
}

static bool
decode_words(GwCursor *in, const uint8_t *base, uint8_t *page, GError **error)
{
    size_t before = gw_cursor_left(in);
    uint64_t lines = gw_cursor_le64(in);
    const uint8_t *masks = gw_cursor_bytes(in, (size_t)__builtin_popcountll(lines));

    if (!masks) {
        return damaged(error, "it is cut off");
    }
    memcpy(page, base, GW_PAGE_BYTES);
    for (; lines != 0; lines &= lines - 1) {
        unsigned mask = *masks++;
        const uint8_t *words = gw_cursor_bytes(in, (size_t)__builtin_popcount(mask) * WORD_BYTES);

        if (!words || mask == 0) {
            return damaged(error, mask == 0 ? "a line without changes" : "words are missing");
        }
        if (!apply_line(page + (size_t)__builtin_ctzll(lines) * LINE_BYTES, mask, words)) {
            return damaged(error, "a word without change");
        }
    }
    if (before - gw_cursor_left(in) > GW_DELTA_MAX_WORDS_BYTES) {
        return damaged(error, "it has too many words");
    }
    return true;
}

static bool
decode_zstd(GwDeltaDecoder *decoder, GwCursor *in, size_t len, const uint8_t *base, uint8_t *page,
            GError **error)
{
    const uint8_t *rest = gw_cursor_bytes(in, len);

    if (!rest) {
        return damaged(error, "it is cut off");
    }
    memcpy(decoder->frame + MAGIC_BYTES, rest, len);
    ZSTD_DCtx_refPrefix(decoder->zstd, base, GW_PAGE_BYTES);
    size_t page_len =
        ZSTD_decompressDCtx(decoder->zstd, page, GW_PAGE_BYTES, decoder->frame, MAGIC_BYTES + len);

    if (ZSTD_isError(page_len) || page_len != GW_PAGE_BYTES) {
        return damaged(error, "it does not make a page");
    }
    return true;
}

bool
gw_delta_decode(GwDeltaDecoder *decoder, GwCursor *in, const uint8_t *base, uint8_t *page,
                GError **error)
{
    uint64_t len = gw_cursor_varint(in);

    if (in->failed || len > GW_DELTA_MAX_BYTES) {
        return damaged(error, "its length is cut off or impossible");
    }
    return len == 0 ? decode_words(in, base, page, error)
                    : decode_zstd(decoder, in, (size_t)len, base, page, error);
}
