// SPDX-License-Identifier: Apache-2.0
/*
 * The writer: items back to the bytes they stand for.
 *
 * Owns the table of blocks. Thread: the owner's. Limits: GW_RAM_MAX_BLOCKS blocks, names of 1 to
 * 255 bytes, MAX_OUT_BYTES in the caller's array (which is to be emptied as it fills).
 * Failure: items come from a peer, so each is checked and GW_ERROR_PROTOCOL or
 * GW_ERROR_TOO_LARGE returned before a byte is written.
 */
#include "base/cursor.h"
#include "ramstream/blocks.h"
#include "ramstream/format.h"
#include "ramstream/ramstream.h"

#include <inttypes.h>
#include <string.h>

#define MAX_OUT_BYTES    (256u * 1024u * 1024u)
#define MAX_HEADER_BYTES (8u + 1u + GW_STREAM_MAX_NAME_BYTES)

struct GwRamWriter {
    GwRamBlocks *blocks;
};

GwRamWriter *
gw_ram_writer_new(void)
{
    GwRamWriter *writer = g_new0(GwRamWriter, 1);
    writer->blocks = gw_ram_blocks_new();
    return writer;
}

void
gw_ram_writer_free(GwRamWriter *writer)
{
    if (!writer) {
        return;
    }
    gw_ram_blocks_free(writer->blocks);
    g_free(writer);
}

bool
gw_ram_writer_add_block(GwRamWriter *writer, const char *name, size_t name_len, GError **error)
{
    if (name_len == 0 || name_len > GW_STREAM_MAX_NAME_BYTES || memchr(name, '\0', name_len)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "RAM block %u has no proper name (%zu bytes; 1 to %u without NUL are allowed)",
                    gw_ram_blocks_count(writer->blocks), name_len, GW_STREAM_MAX_NAME_BYTES);
        return false;
    }
    g_autofree char *text = g_strndup(name, name_len);
    if (gw_ram_blocks_find(writer->blocks, text) != GW_RAM_NO_BLOCK) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "RAM block \"%s\" is named twice", text);
        return false;
    }
    if (gw_ram_blocks_add(writer->blocks, text) == GW_RAM_NO_BLOCK) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the stream names more than %u RAM blocks",
                    GW_RAM_MAX_BLOCKS);
        return false;
    }
    return true;
}

static bool
check_room(const GByteArray *out, size_t len, GError **error)
{
    if (out->len > MAX_OUT_BYTES || len > MAX_OUT_BYTES - out->len) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "%zu bytes of the migration stream do not fit behind %u others (at most %u)",
                    len, out->len, MAX_OUT_BYTES);
        return false;
    }
    return true;
}

static bool
put_bytes(const GwRamItem *item, GByteArray *out, GError **error)
{
    if (!check_room(out, item->len, error)) {
        return false;
    }
    if (item->len > 0) {
        g_byte_array_append(out, item->data, (guint)item->len);
    }
    return true;
}

static bool
put_header(GwRamWriter *writer, const GwRamItem *item, unsigned flags, GByteArray *out,
           GError **error)
{
    const char *name = gw_ram_blocks_name(writer->blocks, item->block);
    if (!name) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "a page is in RAM block %u, but only %u were named", item->block,
                    gw_ram_blocks_count(writer->blocks));
        return false;
    }
    if (item->address % GW_PAGE_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "address 0x%" PRIx64 " in RAM block \"%s\" is not that of a page",
                    item->address, name);
        return false;
    }
    if (!check_room(out, MAX_HEADER_BYTES + GW_PAGE_BYTES, error)) {
        return false;
    }
    if (!item->names_block) {
        gw_put_be64(out, item->address | flags | GW_STREAM_RAM_CONTINUE);
        return true;
    }
    size_t name_len = strlen(name);
    gw_put_be64(out, item->address | flags);
    gw_put_u8(out, (uint8_t)name_len);
    g_byte_array_append(out, (const uint8_t *)name, (guint)name_len);
    return true;
}

static bool
put_zero(GwRamWriter *writer, const GwRamItem *item, GByteArray *out, GError **error)
{
    if (!put_header(writer, item, GW_STREAM_RAM_ZERO, out, error)) {
        return false;
    }
    gw_put_u8(out, 0);
    return true;
}

static bool
put_page(GwRamWriter *writer, const GwRamItem *item, GByteArray *out, GError **error)
{
    if (!put_header(writer, item, GW_STREAM_RAM_PAGE, out, error)) {
        return false;
    }
    g_byte_array_append(out, item->data, GW_PAGE_BYTES);
    return true;
}

bool
gw_ram_writer_put(GwRamWriter *writer, const GwRamItem *item, GByteArray *out, GError **error)
{
    switch (item->kind) {
    case GW_RAM_ITEM_BYTES:
        return put_bytes(item, out, error);
    case GW_RAM_ITEM_ZERO:
        return put_zero(writer, item, out, error);
    case GW_RAM_ITEM_PAGE:
        return put_page(writer, item, out, error);
    }
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "unknown kind of stream item: %d",
                (int)item->kind);
    return false;
}
