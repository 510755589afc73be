// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes what a peer reports of pages: a target's page memory with small limits, driven by kinds,
 * page numbers, contents and deltas from the input. The memory stays within its limits, and a
 * delta that decodes must, encoded anew, decode to the same page. What is left of the input when a
 * delta is read is copied to memory of its exact size, so that every read beyond is seen.
 */
#include "lane/page_delta.h"
#include "lane/page_memory.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define TABLE_BYTES 40000u
#define COPIES      5u
#define MAX_REPORTS 200u

typedef struct Target {
    GwPageMemory *memory;
    GwDeltaEncoder *encoder;
    GwDeltaDecoder *decoder;
} Target;

static void
check_again(Target *target, const uint8_t *base, const uint8_t *page)
{
    uint8_t out[GW_DELTA_MAX_BYTES], again[GW_PAGE_BYTES];
    size_t len = gw_delta_encode(target->encoder, base, page, out, GW_PAGE_BYTES);
    GwCursor cursor = gw_cursor(out, len);

    if (len > 0 && (!gw_delta_decode(target->decoder, &cursor, base, again, NULL) ||
                    gw_cursor_left(&cursor) != 0 || memcmp(page, again, GW_PAGE_BYTES) != 0)) {
        abort();
    }
}

/* False: the peer has failed. */
static bool
take_delta(Target *target, GwCursor *in, const uint8_t *copy, uint8_t *page)
{
    size_t left = gw_cursor_left(in);
    g_autofree uint8_t *exact = g_memdup2(in->data + in->pos, left);
    GwCursor cursor = gw_cursor(exact, left);
    g_autoptr(GError) error = NULL;

    if (!copy) {
        return false;
    }
    if (gw_delta_decode(target->decoder, &cursor, copy, page, &error) != !error) {
        abort();
    }
    if (error) {
        return false;
    }
    gw_cursor_bytes(in, cursor.pos);
    check_again(target, copy, page);
    return true;
}

static bool
take_report(Target *target, GwCursor *in)
{
    unsigned kind = gw_cursor_u8(in);
    uint16_t block = (uint16_t)(kind >> 4);
    uint64_t number = gw_cursor_varint(in);
    uint8_t page[GW_PAGE_BYTES];
    GwPageTag tag = {{0}};
    GwPageSeen seen;

    gw_page_memory_find(target->memory, block, number, &seen);
    switch (kind & 3) {
    case 0:
        gw_page_memory_put_zero(target->memory, block, number);
        return !in->failed;
    case 1:
        gw_page_memory_put(target->memory, block, number, NULL, &tag, true);
        return !in->failed;
    case 2:
        memset(page, gw_cursor_u8(in), sizeof(page));
        break;
    default:
        if (!take_delta(target, in, seen.copy, page)) {
            return false;
        }
    }
    memcpy(tag.bytes, page, sizeof(tag));
    gw_page_memory_put(target->memory, block, number, page, &tag, (kind & 4) != 0);
    return !in->failed;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    GwPageMemoryLimits limits = {.table_bytes = TABLE_BYTES, .copies = COPIES};
    Target target = {
        .memory = gw_page_memory_new(&limits, NULL),
        .encoder = gw_delta_encoder_new(),
        .decoder = gw_delta_decoder_new(),
    };
    GwCursor in = gw_cursor(data, len);
    GwPageMemoryFigures figures;

    for (unsigned i = 0; i < MAX_REPORTS && gw_cursor_left(&in) > 0; i++) {
        if (!take_report(&target, &in)) {
            break;
        }
    }
    gw_page_memory_figures(target.memory, &figures);
    if (figures.table_bytes > TABLE_BYTES || figures.copies > COPIES) {
        abort();
    }
    gw_page_memory_free(target.memory);
    gw_delta_encoder_free(target.encoder);
    gw_delta_decoder_free(target.decoder);
    return 0;
}
