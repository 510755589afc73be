// SPDX-License-Identifier: Apache-2.0
/*
 * The payload of section "ram": the list of blocks, pages and the other records.
 *
 * See reader.h for what a step is. Thread: the owner's. Limits: the longest unit, a page that
 * names its block, has 4,360 bytes; a full table of blocks, an address outside its block or a
 * record that is not known ends the understanding (GW_STEP_STUCK).
 */
#include "ramstream/reader.h"

static void
after_block(GwStreamReader *reader)
{
    reader->state = reader->block_bytes_left > 0 ? GW_STATE_BLOCK : GW_STATE_RAM;
}

GwStreamStep
gw_stream_step_block(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    char name[GW_STREAM_MAX_NAME_BYTES + 1];
    bool huge_pages = reader->page_sizes > GW_PAGE_BYTES;

    gw_stream_take_name(cursor, name);
    uint64_t bytes = gw_cursor_be64(cursor);
    if (reader->ignore_shared) {
        gw_cursor_be64(cursor); /* guest address */
    }
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (huge_pages && reader->ignore_shared) {
        return gw_stream_stuck(reader, "huge pages with post-copy and x-ignore-shared");
    }
    if (!name[0] || bytes == 0 || bytes % GW_PAGE_BYTES || bytes > reader->block_bytes_left) {
        return gw_stream_stuck(reader, "the list of RAM blocks is malformed");
    }
    int block = gw_ram_blocks_find(reader->blocks, name);
    if (block == GW_RAM_NO_BLOCK) {
        block = gw_ram_blocks_add(reader->blocks, name);
    }
    if (block == GW_RAM_NO_BLOCK) {
        return gw_stream_stuck(reader, "too many RAM blocks");
    }
    gw_ram_blocks_set_bytes(reader->blocks, (unsigned)block, bytes);
    reader->block_bytes_left -= bytes;
    if (huge_pages) {
        reader->state = GW_STATE_BLOCK_PAGE_SIZE;
    } else {
        after_block(reader);
    }
    return GW_STEP_BYTES;
}

/*
 * A block of huge pages has its page size behind it, another has not. They cannot be confused: the
 * size is a power of two above 4096, so its first byte is 0, which no name's length is; and a
 * record after the list has flags below that.
 */
GwStreamStep
gw_stream_step_block_page_size(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    GwCursor first = *cursor;
    if (gw_cursor_u8(&first) != 0) {
        after_block(reader);
        return GW_STEP_BYTES;
    }
    uint64_t size = gw_cursor_be64(cursor);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (size <= GW_PAGE_BYTES || (size & (size - 1)) != 0) {
        cursor->pos = 0;
    }
    after_block(reader);
    return GW_STEP_BYTES;
}

/* The content of a ZERO, PAGE or XBZRLE record; GW_STEP_MORE without effect if it is not whole. */
static GwStreamStep
take_content(GwStreamReader *reader, GwCursor *cursor, unsigned kind, GwRamItem *item)
{
    if (kind == GW_STREAM_RAM_PAGE) {
        item->kind = GW_RAM_ITEM_PAGE;
        item->data = gw_cursor_bytes(cursor, GW_PAGE_BYTES);
        return cursor->failed ? GW_STEP_MORE : GW_STEP_PAGE;
    }
    if (kind == GW_STREAM_RAM_ZERO) {
        item->kind = GW_RAM_ITEM_ZERO;
        item->data = NULL;
        uint8_t fill = gw_cursor_u8(cursor);
        reader->hides_changes |= fill != 0;
        return cursor->failed ? GW_STEP_MORE : fill == 0 ? GW_STEP_PAGE : GW_STEP_BYTES;
    }
    uint8_t marker = gw_cursor_u8(cursor);
    uint16_t len = gw_cursor_be16(cursor);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (marker != GW_STREAM_XBZRLE_MARKER || len > GW_PAGE_BYTES) {
        return gw_stream_stuck(reader, "a delta page is malformed");
    }
    reader->hides_changes = true;
    reader->skip_bytes = len;
    return GW_STEP_BYTES;
}

static GwStreamStep
step_page(GwStreamReader *reader, GwCursor *cursor, uint64_t header, GwRamItem *item)
{
    uint64_t address = header & ~(uint64_t)GW_STREAM_RAM_FLAGS;
    bool names_block = !(header & GW_STREAM_RAM_CONTINUE);
    int block = reader->last_block;
    char name[GW_STREAM_MAX_NAME_BYTES + 1] = "";

    if (names_block) {
        gw_stream_take_name(cursor, name);
        if (cursor->failed) {
            return GW_STEP_MORE;
        }
        if (!name[0]) {
            return gw_stream_stuck(reader, "a page's RAM block has no name");
        }
        block = gw_ram_blocks_find(reader->blocks, name);
    } else if (block == GW_RAM_NO_BLOCK) {
        return gw_stream_stuck(reader, "a page continues in no RAM block");
    }
    uint64_t block_bytes =
        block == GW_RAM_NO_BLOCK ? 0 : gw_ram_blocks_bytes(reader->blocks, block);
    if (block_bytes > 0 && address >= block_bytes) {
        return gw_stream_stuck(reader, "a page lies outside its RAM block");
    }
    unsigned kind = header & GW_STREAM_RAM_FLAGS & ~GW_STREAM_RAM_CONTINUE;
    GwStreamStep step = take_content(reader, cursor, kind, item);
    if (step != GW_STEP_BYTES && step != GW_STEP_PAGE) {
        return step;
    }
    if (block == GW_RAM_NO_BLOCK) {
        block = gw_ram_blocks_add(reader->blocks, name);
    }
    if (block == GW_RAM_NO_BLOCK) {
        return gw_stream_stuck(reader, "too many RAM blocks");
    }
    reader->last_block = block;
    item->names_block = names_block;
    item->block = (uint16_t)block;
    item->address = address;
    item->len = 0;
    return step;
}

GwStreamStep
gw_stream_step_ram(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    uint64_t header = gw_cursor_be64(cursor);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    switch (header & GW_STREAM_RAM_FLAGS) {
    case GW_STREAM_RAM_PAGE:
    case GW_STREAM_RAM_PAGE | GW_STREAM_RAM_CONTINUE:
    case GW_STREAM_RAM_ZERO:
    case GW_STREAM_RAM_ZERO | GW_STREAM_RAM_CONTINUE:
    case GW_STREAM_RAM_XBZRLE:
    case GW_STREAM_RAM_XBZRLE | GW_STREAM_RAM_CONTINUE:
        return step_page(reader, cursor, header, item);
    case GW_STREAM_RAM_MEM_SIZE:
        reader->block_bytes_left = header - GW_STREAM_RAM_MEM_SIZE;
        after_block(reader);
        return GW_STEP_BYTES;
    default:
        break;
    }
    if (header == GW_STREAM_RAM_EOS) {
        gw_stream_close_section(reader);
        return GW_STEP_BYTES;
    }
    return header == GW_STREAM_RAM_MULTIFD
               ? GW_STEP_BYTES
               : gw_stream_stuck(reader, "an unknown record in section ram");
}
