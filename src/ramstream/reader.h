// SPDX-License-Identifier: Apache-2.0
/*
 * What the parser understands of a stream, without the bytes: one step reads one unit (a section
 * header, a record of section "ram", ...) through a cursor over the bytes that are there.
 *
 * A step changes the reader only if its unit is whole and understood. Content whose length is
 * known but whose meaning is not needed is left to the caller to count down (skip_bytes).
 * Private to this folder; one thread.
 */
#pragma once

#include "base/cursor.h"
#include "ramstream/blocks.h"
#include "ramstream/format.h"
#include "ramstream/ramstream.h"

typedef enum GwStreamState {
    GW_STATE_FILE_HEADER,
    GW_STATE_FIRST_SECTION, /* as GW_STATE_SECTION, or the configuration */
    GW_STATE_SUBSECTION,    /* of the configuration, or what follows it */
    GW_STATE_CAPABILITY,
    GW_STATE_SECTION,
    GW_STATE_RAM,
    GW_STATE_BLOCK,
    GW_STATE_BLOCK_PAGE_SIZE, /* may be there or not */
    GW_STATE_BITMAP,
    GW_STATE_ENDED,
    GW_STATE_N,
} GwStreamState;

typedef enum GwStreamStep {
    GW_STEP_MORE,  /* the unit is not whole */
    GW_STEP_BYTES, /* consumed as far as the cursor went (perhaps not at all) */
    GW_STEP_PAGE,  /* the same, and the item is filled in */
    GW_STEP_STUCK, /* not understood; reader->why is set */
} GwStreamStep;

typedef struct GwStreamReader {
    GwStreamState state;
    const char *why;
    uint64_t skip_bytes; /* of content, before the next unit */

    /* The sections that can be understood, by the id that their START gave them. */
    int64_t ram_section;
    int64_t bitmap_section;
    int64_t open_section; /* whose payload is being read or was read last */
    bool footer_due;
    bool hides_changes; /* see gw_ram_parser_hides_changes() */

    bool ignore_shared;
    uint64_t page_sizes; /* of all blocks, or-ed; 0 unless post-copy was advised */
    unsigned capabilities_left;
    uint64_t block_bytes_left; /* of the sum that the block list must give */
    GwRamBlocks *blocks;
    int last_block;
} GwStreamReader;

void gw_stream_reader_init(GwStreamReader *reader);
void gw_stream_reader_clear(GwStreamReader *reader);

/* Reads the unit at @cursor, which has at least one byte. */
GwStreamStep gw_stream_step(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item);

/* --- between reader.c and reader_ram.c -------------------------------------------------------- */

/* GW_STEP_STUCK, with @why (static text) noted. */
GwStreamStep gw_stream_stuck(GwStreamReader *reader, const char *why);

/* @out is left empty for a name that no block, section or capability can have. */
void gw_stream_take_name(GwCursor *cursor, char out[GW_STREAM_MAX_NAME_BYTES + 1]);

/* The payload of the open section ends here. */
void gw_stream_close_section(GwStreamReader *reader);

GwStreamStep gw_stream_step_ram(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item);
GwStreamStep gw_stream_step_block(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item);
GwStreamStep gw_stream_step_block_page_size(GwStreamReader *reader, GwCursor *cursor,
                                            GwRamItem *item);
