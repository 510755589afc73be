// SPDX-License-Identifier: Apache-2.0
/*
 * The head of the stream, its sections and commands, and section "dirty-bitmap".
 *
 * Every function step_...() handles one unit in one state, see reader.h. Owns the table of blocks.
 * Thread: the owner's. Limits: a unit is at most a few hundred bytes, every length is checked
 * before it is believed. Cannot fail: what is not understood is GW_STEP_STUCK.
 */
#include "ramstream/reader.h"

#include <string.h>

#define MAX_CAPABILITIES   256u
#define MAX_BITMAP_BYTES   (10u * 1024u) /* of one chunk; QEMU takes no more either */
#define MAX_MACHINE_BYTES  255u
#define TARGET_PAGE_BITS   12u
#define CONFIGURATION_UUID 16u
#define CAPABILITY_SHARED  "x-ignore-shared"
#define NO_SECTION         (-1)

GwStreamStep
gw_stream_stuck(GwStreamReader *reader, const char *why)
{
    reader->why = why;
    return GW_STEP_STUCK;
}

void
gw_stream_take_name(GwCursor *cursor, char out[GW_STREAM_MAX_NAME_BYTES + 1])
{
    size_t len = gw_cursor_u8(cursor);
    const uint8_t *name = gw_cursor_bytes(cursor, len);

    out[0] = '\0';
    if (name && !memchr(name, '\0', len)) {
        memcpy(out, name, len);
        out[len] = '\0';
    }
}

/* --- head of the stream ----------------------------------------------------------------------- */

static GwStreamStep
step_file_header(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    uint32_t magic = gw_cursor_be32(cursor);
    uint32_t version = gw_cursor_be32(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (magic != GW_STREAM_MAGIC || version != GW_STREAM_VERSION) {
        return gw_stream_stuck(reader, "not a migration stream of version 3");
    }
    reader->state = GW_STATE_FIRST_SECTION;
    return GW_STEP_BYTES;
}

static GwStreamStep
step_configuration(GwStreamReader *reader, GwCursor *cursor)
{
    uint32_t machine_bytes = gw_cursor_be32(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (machine_bytes > MAX_MACHINE_BYTES) {
        return gw_stream_stuck(reader, "the machine type's name is too long");
    }
    reader->skip_bytes = machine_bytes;
    reader->state = GW_STATE_SUBSECTION;
    return GW_STEP_BYTES;
}

static GwStreamStep
step_target_page_bits(GwStreamReader *reader, GwCursor *cursor)
{
    uint32_t bits = gw_cursor_be32(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    return bits == TARGET_PAGE_BITS ? GW_STEP_BYTES
                                    : gw_stream_stuck(reader, "pages are not of 4096 bytes");
}

static GwStreamStep
step_capabilities(GwStreamReader *reader, GwCursor *cursor)
{
    uint32_t count = gw_cursor_be32(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (count > MAX_CAPABILITIES) {
        return gw_stream_stuck(reader, "too many capabilities");
    }
    reader->capabilities_left = count;
    reader->state = count > 0 ? GW_STATE_CAPABILITY : GW_STATE_SUBSECTION;
    return GW_STEP_BYTES;
}

static GwStreamStep
step_subsection(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    char name[GW_STREAM_MAX_NAME_BYTES + 1];

    if (gw_cursor_u8(cursor) != GW_STREAM_SUBSECTION) {
        reader->state = GW_STATE_SECTION;
        cursor->pos = 0;
        return GW_STEP_BYTES;
    }
    gw_stream_take_name(cursor, name);
    uint32_t version = gw_cursor_be32(cursor);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (version == 1 && strcmp(name, "configuration/target-page-bits") == 0) {
        return step_target_page_bits(reader, cursor);
    }
    if (version == 1 && strcmp(name, "configuration/capabilities") == 0) {
        return step_capabilities(reader, cursor);
    }
    if (version == 1 && strcmp(name, "configuration/uuid") == 0) {
        reader->skip_bytes = CONFIGURATION_UUID;
        return GW_STEP_BYTES;
    }
    return gw_stream_stuck(reader, "an unknown part of the configuration");
}

static GwStreamStep
step_capability(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    char name[GW_STREAM_MAX_NAME_BYTES + 1];

    gw_stream_take_name(cursor, name);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    /* QEMU lists only capabilities that both ends must have: one may change what follows. */
    if (strcmp(name, CAPABILITY_SHARED) != 0) {
        return gw_stream_stuck(reader, "a capability that changes the stream (such as mapped-ram)");
    }
    reader->ignore_shared = true;
    if (--reader->capabilities_left == 0) {
        reader->state = GW_STATE_SUBSECTION;
    }
    return GW_STEP_BYTES;
}

/* --- sections --------------------------------------------------------------------------------- */

static void
open_section(GwStreamReader *reader, int64_t id)
{
    reader->open_section = id;
    reader->state = id == reader->ram_section ? GW_STATE_RAM : GW_STATE_BITMAP;
}

void
gw_stream_close_section(GwStreamReader *reader)
{
    reader->state = GW_STATE_SECTION;
    reader->footer_due = true;
}

static GwStreamStep
step_start(GwStreamReader *reader, GwCursor *cursor)
{
    char name[GW_STREAM_MAX_NAME_BYTES + 1];
    int64_t id = gw_cursor_be32(cursor);

    gw_stream_take_name(cursor, name);
    uint32_t instance = gw_cursor_be32(cursor);
    uint32_t version = gw_cursor_be32(cursor);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (id == reader->ram_section || id == reader->bitmap_section) {
        return gw_stream_stuck(reader, "two sections have the same id");
    }
    if (instance == 0 && version == GW_STREAM_RAM_VERSION && strcmp(name, "ram") == 0) {
        reader->ram_section = id;
    } else if (instance == 0 && version == GW_STREAM_BITMAP_VERSION &&
               strcmp(name, "dirty-bitmap") == 0) {
        reader->bitmap_section = id;
    } else {
        return gw_stream_stuck(reader, "an iterative section other than ram and dirty-bitmap");
    }
    open_section(reader, id);
    return GW_STEP_BYTES;
}

static GwStreamStep
step_part_or_end(GwStreamReader *reader, GwCursor *cursor)
{
    int64_t id = gw_cursor_be32(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (id != reader->ram_section && id != reader->bitmap_section) {
        return gw_stream_stuck(reader, "a part of a section that was not started");
    }
    open_section(reader, id);
    return GW_STEP_BYTES;
}

static GwStreamStep
step_footer(GwStreamReader *reader, GwCursor *cursor, bool due)
{
    int64_t id = gw_cursor_be32(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    return due && id == reader->open_section
               ? GW_STEP_BYTES
               : gw_stream_stuck(reader, "a section's footer is out of place");
}

static GwStreamStep
step_postcopy_advise(GwStreamReader *reader, GwCursor *cursor, uint16_t len)
{
    if (len == 0) {
        return GW_STEP_BYTES;
    }
    uint64_t page_sizes = gw_cursor_be64(cursor);
    uint64_t target_page_bytes = gw_cursor_be64(cursor);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (len != 16 || target_page_bytes != GW_PAGE_BYTES) {
        return gw_stream_stuck(reader, "post-copy with pages that are not of 4096 bytes");
    }
    reader->page_sizes = page_sizes;
    return GW_STEP_BYTES;
}

static GwStreamStep
step_packaged(GwStreamReader *reader, GwCursor *cursor, uint16_t len)
{
    uint32_t package_bytes = gw_cursor_be32(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (len != 4) {
        return gw_stream_stuck(reader, "a package's length is malformed");
    }
    reader->skip_bytes = package_bytes;
    reader->hides_changes = true;
    return GW_STEP_BYTES;
}

static GwStreamStep
step_command(GwStreamReader *reader, GwCursor *cursor)
{
    uint16_t command = gw_cursor_be16(cursor);
    uint16_t len = gw_cursor_be16(cursor);

    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    switch (command) {
    case GW_STREAM_POSTCOPY_ADVISE:
        return step_postcopy_advise(reader, cursor, len);
    case GW_STREAM_PACKAGED:
        return step_packaged(reader, cursor, len);
    case GW_STREAM_POSTCOPY_LISTEN:
    case GW_STREAM_POSTCOPY_RUN:
    case GW_STREAM_POSTCOPY_RAM_DISCARD:
    case GW_STREAM_POSTCOPY_RESUME:
    case GW_STREAM_RECV_BITMAP:
        reader->hides_changes = true;
        reader->skip_bytes = len;
        return GW_STEP_BYTES;
    case GW_STREAM_OPEN_RETURN_PATH:
    case GW_STREAM_PING:
    case GW_STREAM_SWITCHOVER_START:
        reader->skip_bytes = len;
        return GW_STEP_BYTES;
    default:
        return gw_stream_stuck(reader, "an unknown command");
    }
}

static GwStreamStep
step_section(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    bool footer_due = reader->footer_due;
    bool first = reader->state == GW_STATE_FIRST_SECTION;
    GwStreamStep step;

    switch (gw_cursor_u8(cursor)) {
    case GW_STREAM_EOF:
        reader->state = GW_STATE_ENDED;
        step = GW_STEP_BYTES;
        break;
    case GW_STREAM_START:
        step = step_start(reader, cursor);
        break;
    case GW_STREAM_PART:
    case GW_STREAM_END:
        step = step_part_or_end(reader, cursor);
        break;
    case GW_STREAM_FULL:
        return gw_stream_stuck(reader, "device state, whose length is not in the stream");
    case GW_STREAM_CONFIGURATION:
        step = first ? step_configuration(reader, cursor)
                     : gw_stream_stuck(reader, "a second configuration");
        break;
    case GW_STREAM_COMMAND:
        step = step_command(reader, cursor);
        break;
    case GW_STREAM_FOOTER:
        step = step_footer(reader, cursor, footer_due);
        break;
    default:
        return gw_stream_stuck(reader, "an unknown kind of section");
    }
    if (step == GW_STEP_BYTES) {
        reader->footer_due = false;
        if (reader->state == GW_STATE_FIRST_SECTION) {
            reader->state = GW_STATE_SECTION;
        }
    }
    return step;
}

static GwStreamStep
step_ended(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    return gw_stream_stuck(reader, "the end mark has passed");
}

/* --- section "dirty-bitmap" ------------------------------------------------------------------- */

static GwStreamStep
step_bitmap_bits(GwStreamReader *reader, GwCursor *cursor, bool zeroes)
{
    gw_cursor_be64(cursor); /* first sector */
    gw_cursor_be32(cursor); /* sectors */
    uint64_t len = zeroes ? 0 : gw_cursor_be64(cursor);
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (len > MAX_BITMAP_BYTES) {
        return gw_stream_stuck(reader, "a piece of a dirty bitmap is too long");
    }
    reader->skip_bytes = len;
    return GW_STEP_BYTES;
}

static GwStreamStep
step_bitmap(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    char name[GW_STREAM_MAX_NAME_BYTES + 1];
    unsigned flags = gw_cursor_u8(cursor);
    GwStreamStep step = GW_STEP_BYTES;

    if (flags & ~GW_STREAM_BITMAP_KNOWN) {
        return gw_stream_stuck(reader, "unknown flags of a dirty bitmap");
    }
    if (flags & GW_STREAM_BITMAP_DEVICE_NAME) {
        gw_stream_take_name(cursor, name);
    }
    if (flags & GW_STREAM_BITMAP_BITMAP_NAME) {
        gw_stream_take_name(cursor, name);
    }
    if (flags & GW_STREAM_BITMAP_START) {
        gw_cursor_be32(cursor); /* granularity */
        gw_cursor_u8(cursor);   /* flags of the bitmap */
    } else if (flags & GW_STREAM_BITMAP_BITS && !(flags & GW_STREAM_BITMAP_COMPLETE)) {
        step = step_bitmap_bits(reader, cursor, flags & GW_STREAM_BITMAP_ZEROES);
    }
    if (cursor->failed) {
        return GW_STEP_MORE;
    }
    if (step == GW_STEP_BYTES && flags & GW_STREAM_BITMAP_EOS) {
        gw_stream_close_section(reader);
    }
    return step;
}

/* --- all together ----------------------------------------------------------------------------- */

void
gw_stream_reader_init(GwStreamReader *reader)
{
    *reader = (GwStreamReader){
        .ram_section = NO_SECTION,
        .bitmap_section = NO_SECTION,
        .open_section = NO_SECTION,
        .blocks = gw_ram_blocks_new(),
        .last_block = GW_RAM_NO_BLOCK,
    };
}

void
gw_stream_reader_clear(GwStreamReader *reader)
{
    gw_ram_blocks_free(reader->blocks);
    reader->blocks = NULL;
}

GwStreamStep
gw_stream_step(GwStreamReader *reader, GwCursor *cursor, GwRamItem *item)
{
    static GwStreamStep (*const steps[GW_STATE_N])(GwStreamReader *, GwCursor *, GwRamItem *) = {
        [GW_STATE_FILE_HEADER] = step_file_header,
        [GW_STATE_FIRST_SECTION] = step_section,
        [GW_STATE_SUBSECTION] = step_subsection,
        [GW_STATE_CAPABILITY] = step_capability,
        [GW_STATE_SECTION] = step_section,
        [GW_STATE_RAM] = gw_stream_step_ram,
        [GW_STATE_BLOCK] = gw_stream_step_block,
        [GW_STATE_BLOCK_PAGE_SIZE] = gw_stream_step_block_page_size,
        [GW_STATE_BITMAP] = step_bitmap,
        [GW_STATE_ENDED] = step_ended,
    };
    return steps[reader->state](reader, cursor, item);
}
