// SPDX-License-Identifier: Apache-2.0
/*
 * The parser: a buffer of stream bytes, cut into items unit by unit by the reader.
 *
 * Too few bytes for a unit: it is tried again when there are more. A unit that is not understood:
 * the parser turns opaque *before* it and never back, so no guess can alter a byte.
 *
 * Owns the buffer and the reader's table of blocks. Thread: the owner's. Limits: 1 MiB of buffer
 * and GW_RAM_MAX_BLOCKS blocks; nothing else grows. Cannot fail.
 */
#include "ramstream/ramstream.h"

#include "ramstream/reader.h"
#include "ramstream/tail.h"

#include <string.h>

#define BUFFER_BYTES (1024u * 1024u)

struct GwRamParser {
    uint8_t *buffer;
    size_t start; /* of what has not been handed out */
    size_t end;
    GwStreamReader reader;
    bool opaque;
    const char *why; /* it is opaque */
    bool finished;
    GwStreamTail tail; /* of what was handed out while opaque */
};

GwRamParser *
gw_ram_parser_new(void)
{
    GwRamParser *parser = g_new0(GwRamParser, 1);
    parser->buffer = g_malloc(BUFFER_BYTES);
    gw_stream_reader_init(&parser->reader);
    gw_stream_tail_init(&parser->tail);
    return parser;
}

void
gw_ram_parser_free(GwRamParser *parser)
{
    if (!parser) {
        return;
    }
    gw_stream_reader_clear(&parser->reader);
    g_free(parser->buffer);
    g_free(parser);
}

uint8_t *
gw_ram_parser_space(GwRamParser *parser, size_t *len)
{
    size_t left = parser->end - parser->start;

    memmove(parser->buffer, parser->buffer + parser->start, left);
    parser->start = 0;
    parser->end = left;
    *len = BUFFER_BYTES - left;
    return parser->buffer + left;
}

void
gw_ram_parser_fed(GwRamParser *parser, size_t len)
{
    g_return_if_fail(len <= BUFFER_BYTES - parser->end);
    parser->end += len;
}

static void
turn_opaque(GwRamParser *parser, const char *why)
{
    const uint8_t end_mark = GW_STREAM_EOF;

    parser->opaque = true;
    parser->why = why;
    /* Pages may follow that nobody sees. */
    parser->reader.hides_changes |= parser->reader.state == GW_STATE_RAM;
    if (parser->reader.state == GW_STATE_ENDED) {
        /* What follows may be the description. */
        gw_stream_tail_feed(&parser->tail, &end_mark, sizeof(end_mark));
    }
}

static void
take_bytes(GwRamParser *parser, size_t len, GwRamItem *item)
{
    *item =
        (GwRamItem){.kind = GW_RAM_ITEM_BYTES, .data = parser->buffer + parser->start, .len = len};
    parser->start += len;
    if (parser->opaque) {
        gw_stream_tail_feed(&parser->tail, item->data, len);
    }
}

bool
gw_ram_parser_next(GwRamParser *parser, GwRamItem *item)
{
    while (parser->start < parser->end) {
        size_t available = parser->end - parser->start;
        if (parser->opaque) {
            take_bytes(parser, available, item);
            return true;
        }
        if (parser->reader.skip_bytes > 0) {
            size_t len = (size_t)MIN(parser->reader.skip_bytes, available);
            parser->reader.skip_bytes -= len;
            take_bytes(parser, len, item);
            return true;
        }
        GwCursor cursor = gw_cursor(parser->buffer + parser->start, available);
        switch (gw_stream_step(&parser->reader, &cursor, item)) {
        case GW_STEP_MORE:
            return false;
        case GW_STEP_STUCK:
            turn_opaque(parser, parser->reader.why);
            break;
        case GW_STEP_PAGE:
            parser->start += cursor.pos;
            return true;
        case GW_STEP_BYTES:
            if (cursor.pos > 0) {
                take_bytes(parser, cursor.pos, item);
                return true;
            }
            break;
        }
    }
    return false;
}

bool
gw_ram_parser_finish(GwRamParser *parser, GwRamItem *item)
{
    size_t left = parser->end - parser->start;

    parser->finished = true;
    if (left == 0) {
        return false;
    }
    take_bytes(parser, left, item);
    if (!parser->opaque) {
        turn_opaque(parser, "the stream stops in the middle of a record");
    }
    return true;
}

const char *
gw_ram_parser_block_name(const GwRamParser *parser, uint16_t block)
{
    return gw_ram_blocks_name(parser->reader.blocks, block);
}

uint64_t
gw_ram_parser_block_bytes(const GwRamParser *parser, uint16_t block)
{
    return gw_ram_blocks_bytes(parser->reader.blocks, block);
}

unsigned
gw_ram_parser_n_blocks(const GwRamParser *parser)
{
    return gw_ram_blocks_count(parser->reader.blocks);
}

bool
gw_ram_parser_is_opaque(const GwRamParser *parser, const char **why)
{
    if (why) {
        *why = parser->opaque ? parser->why : "";
    }
    return parser->opaque;
}

bool
gw_ram_parser_hides_changes(const GwRamParser *parser)
{
    return parser->reader.hides_changes;
}

bool
gw_ram_parser_saw_end(const GwRamParser *parser)
{
    if (!parser->opaque) {
        return parser->reader.state == GW_STATE_ENDED;
    }
    return parser->tail.described || (parser->finished && gw_stream_tail_marked(&parser->tail));
}
