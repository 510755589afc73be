// SPDX-License-Identifier: Apache-2.0
/*
 * Deltas: a page as what changed since the copy of it that both ends keep (page_memory.h).
 *
 * A delta stands in a batch's body like any content, and the body's codec goes over it. It tells
 * its own length and is decoded with the copy alone, so pages and frames can be encoded in any
 * order by any number of threads; to decode one, the copy must be what it was when the page was
 * encoded: deltas are decoded in the order of the stream.
 *
 *     varint  0: scattered words changed
 *     le64    which of the page's 64 lines of 64 bytes have changed words; bit 0: the first line
 *     bytes   per such line: which of its 8 words changed; never 0
 *     bytes   per such word: 8 bytes, old XOR new; never all 0
 *             together at most GW_DELTA_MAX_WORDS_BYTES
 *
 *     varint  n > 0: content was moved or rewritten
 *     n bytes a zstd frame without its magic number, made with the copy as its prefix
 *
 * The first form suits counters, pointers and rows: with "same as before" it takes re-sent pages of
 * redis from 715 bytes with zstd alone to 54, of a compiler loop from 473 to 230, of SQLite from
 * 1160 to 242. The second suits pages in which content moves, such as those of a database's trees
 * (SQLite: to 151), and takes as much time as zstd does on a page that is sent anew.
 */
#pragma once

#include "base/cursor.h"
#include "ramstream/ramstream.h"

/* After the varint. */
#define GW_DELTA_MAX_WORDS_BYTES 1024u
/* A delta is always smaller than a page. */
#define GW_DELTA_MAX_BYTES (GW_PAGE_BYTES - 1)

/* One thread. */
typedef struct GwDeltaEncoder GwDeltaEncoder;

GwDeltaEncoder *gw_delta_encoder_new(void);
void gw_delta_encoder_free(GwDeltaEncoder *encoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwDeltaEncoder, gw_delta_encoder_free)

/*
 * Writes the delta from @base to @page (GW_PAGE_BYTES each) to @out (GW_DELTA_MAX_BYTES) and
 * returns its length; 0: none pays, the page is to be sent itself. @max_zstd_bytes is the most that
 * the second form may take. It competes with the page in the body, where the codec shrinks it
 * together with its neighbours, so half of what the codec makes of a page at present is right; 0:
 * that form is not tried, as on links that outrun it.
 */
size_t gw_delta_encode(GwDeltaEncoder *encoder, const uint8_t *base, const uint8_t *page,
                       uint8_t *out, size_t max_zstd_bytes);

/* One thread. */
typedef struct GwDeltaDecoder GwDeltaDecoder;

GwDeltaDecoder *gw_delta_decoder_new(void);
void gw_delta_decoder_free(GwDeltaDecoder *decoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwDeltaDecoder, gw_delta_decoder_free)

/* Reads one delta off @in and writes the page; @page is not @base. GW_ERROR_PROTOCOL. */
bool gw_delta_decode(GwDeltaDecoder *decoder, GwCursor *in, const uint8_t *base, uint8_t *page,
                     GError **error) GW_MUST_USE;
