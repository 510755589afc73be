// SPDX-License-Identifier: Apache-2.0
/*
 * Through parser and writer and back: what the unit tests and the fuzzer share. The one property
 * that holds for any bytes at all is checked here: what comes out is what went in, in items that
 * are well formed, and nothing is held back for longer than one unit.
 */
#pragma once

#include "ramstream/ramstream.h"

#include <string.h>

/* The longest unit: a page that names its block with 255 bytes, one byte short. */
#define MAX_HELD_BACK_BYTES (8u + 1u + 255u + GW_PAGE_BYTES - 1u)

typedef struct RoundTrip {
    GwRamParser *parser;
    GwRamWriter *writer;
    GByteArray *out;
    const uint8_t *data;
    size_t pos; /* of data that has come out again */
    unsigned n_blocks;
    uint64_t pages;
    uint64_t zero_pages;
    size_t opaque_at;   /* where understanding ended; the length if it did not */
    const char *broken; /* the property that does not hold */
    void (*seen)(const GwRamItem *item, size_t pos, void *data); /* nullable */
    void *seen_data;
} RoundTrip;

static inline void
roundtrip_clear(RoundTrip *trip)
{
    gw_ram_parser_free(trip->parser);
    gw_ram_writer_free(trip->writer);
    g_byte_array_unref(trip->out);
}

static inline bool
roundtrip_broken(RoundTrip *trip, const char *what)
{
    trip->broken = what;
    return false;
}

static inline bool
roundtrip_item(RoundTrip *trip, const GwRamItem *item, size_t available)
{
    for (; trip->n_blocks < gw_ram_parser_n_blocks(trip->parser); trip->n_blocks++) {
        const char *name = gw_ram_parser_block_name(trip->parser, (uint16_t)trip->n_blocks);
        if (!name || !gw_ram_writer_add_block(trip->writer, name, strlen(name), NULL)) {
            return roundtrip_broken(trip, "the writer refused a block");
        }
    }
    if (trip->n_blocks > GW_RAM_MAX_BLOCKS) {
        return roundtrip_broken(trip, "too many blocks");
    }
    trip->pages += item->kind == GW_RAM_ITEM_PAGE;
    trip->zero_pages += item->kind == GW_RAM_ITEM_ZERO;
    if (item->kind == GW_RAM_ITEM_BYTES && item->len == 0) {
        return roundtrip_broken(trip, "an empty item");
    }
    g_byte_array_set_size(trip->out, 0);
    if (!gw_ram_writer_put(trip->writer, item, trip->out, NULL)) {
        return roundtrip_broken(trip, "the writer refused an item");
    }
    if (trip->out->len > available ||
        memcmp(trip->out->data, trip->data + trip->pos, trip->out->len) != 0) {
        return roundtrip_broken(trip, "other bytes came out than went in");
    }
    if (trip->seen) {
        trip->seen(item, trip->pos, trip->seen_data);
    }
    trip->pos += trip->out->len;
    return true;
}

static inline bool
roundtrip_drain(RoundTrip *trip, size_t fed)
{
    GwRamItem item;

    while (gw_ram_parser_next(trip->parser, &item)) {
        bool opaque = gw_ram_parser_is_opaque(trip->parser, NULL);
        if (opaque && trip->opaque_at == SIZE_MAX) {
            trip->opaque_at = trip->pos;
        }
        if (opaque && item.kind != GW_RAM_ITEM_BYTES) {
            return roundtrip_broken(trip, "a page after understanding ended");
        }
        if (!roundtrip_item(trip, &item, fed - trip->pos)) {
            return false;
        }
    }
    return fed - trip->pos <= MAX_HELD_BACK_BYTES || roundtrip_broken(trip, "bytes were held back");
}

/*
 * Feeds @len bytes in pieces: all that fits if @pieces is 0, @pieces bytes if it is small, else of
 * changing size. False if a property is broken. To be cleared in any case; `seen` may be set
 * before.
 */
static inline bool
roundtrip(RoundTrip *trip, const uint8_t *data, size_t len, uint32_t pieces)
{
    uint32_t random = pieces;
    GwRamItem item;

    trip->parser = gw_ram_parser_new();
    trip->writer = gw_ram_writer_new();
    trip->out = g_byte_array_new();
    trip->data = data;
    trip->opaque_at = SIZE_MAX;
    for (size_t fed = 0; fed < len;) {
        size_t room;
        uint8_t *space = gw_ram_parser_space(trip->parser, &room);
        if (room < 65536) {
            return roundtrip_broken(trip, "the buffer has no room");
        }
        random = random * 1664525u + 1013904223u;
        size_t piece = pieces == 0    ? room
                       : pieces < 256 ? pieces
                                      : 1 + (random >> 8) % (1u << (random >> 4) % 16);
        piece = MIN(MIN(piece, room), len - fed);
        memcpy(space, data + fed, piece);
        gw_ram_parser_fed(trip->parser, piece);
        fed += piece;
        if (!roundtrip_drain(trip, fed)) {
            return false;
        }
    }
    if (gw_ram_parser_finish(trip->parser, &item) &&
        !roundtrip_item(trip, &item, len - trip->pos)) {
        return false;
    }
    trip->opaque_at = MIN(trip->opaque_at, len);
    return trip->pos == len || roundtrip_broken(trip, "bytes were lost");
}

/* The same within a test. */
static inline void
roundtrip_check(RoundTrip *trip, const uint8_t *data, size_t len, uint32_t pieces)
{
    if (!roundtrip(trip, data, len, pieces)) {
        g_test_message("pieces %u, byte %zu of %zu: %s", pieces, trip->pos, len, trip->broken);
        g_test_fail();
    }
}
