// SPDX-License-Identifier: Apache-2.0
/*
 * Builder of hand-made migration streams. Owns what it builds until stream_free().
 */
#include "streams.h"

Stream *
stream_new(void)
{
    Stream *stream = g_new0(Stream, 1);
    stream->bytes = g_byte_array_new();
    stream->fields = g_array_new(FALSE, FALSE, sizeof(size_t));
    return stream;
}

void
stream_free(Stream *stream)
{
    g_byte_array_unref(stream->bytes);
    g_array_unref(stream->fields);
    g_free(stream);
}

static void
field_ends(Stream *stream)
{
    size_t end = stream->bytes->len;
    g_array_append_val(stream->fields, end);
}

void
put_u8(Stream *stream, uint8_t value)
{
    gw_put_u8(stream->bytes, value);
    field_ends(stream);
}

void
put_u16(Stream *stream, uint16_t value)
{
    gw_put_be16(stream->bytes, value);
    field_ends(stream);
}

void
put_u32(Stream *stream, uint32_t value)
{
    gw_put_be32(stream->bytes, value);
    field_ends(stream);
}

void
put_u64(Stream *stream, uint64_t value)
{
    gw_put_be64(stream->bytes, value);
    field_ends(stream);
}

void
put_data(Stream *stream, const void *data, size_t len)
{
    g_byte_array_append(stream->bytes, data, (guint)len);
    field_ends(stream);
}

void
put_fill(Stream *stream, uint8_t fill, size_t len)
{
    g_autofree uint8_t *data = g_malloc(len);
    memset(data, fill, len);
    put_data(stream, data, len);
}

void
put_name(Stream *stream, const char *name)
{
    put_u8(stream, (uint8_t)strlen(name));
    put_data(stream, name, strlen(name));
}

void
put_file_header(Stream *stream)
{
    put_u32(stream, GW_STREAM_MAGIC);
    put_u32(stream, GW_STREAM_VERSION);
}

void
put_configuration(Stream *stream)
{
    put_u8(stream, GW_STREAM_CONFIGURATION);
    put_u32(stream, 11);
    put_data(stream, "pc-q35-10.0", 11);
}

void
put_subsection(Stream *stream, const char *name)
{
    put_u8(stream, GW_STREAM_SUBSECTION);
    put_name(stream, name);
    put_u32(stream, 1);
}

void
put_command(Stream *stream, uint16_t command, uint16_t len)
{
    put_u8(stream, GW_STREAM_COMMAND);
    put_u16(stream, command);
    put_u16(stream, len);
}

void
put_start(Stream *stream, uint8_t type, uint32_t id, const char *name, uint32_t version)
{
    put_part(stream, type, id);
    put_name(stream, name);
    put_u32(stream, 0);
    put_u32(stream, version);
}

void
put_part(Stream *stream, uint8_t type, uint32_t id)
{
    put_u8(stream, type);
    put_u32(stream, id);
}

void
put_footer(Stream *stream, uint32_t id)
{
    put_u8(stream, GW_STREAM_FOOTER);
    put_u32(stream, id);
}

void
put_block_list(Stream *stream)
{
    put_u64(stream, (RAM_BLOCK_PAGES + VGA_BLOCK_PAGES) * GW_PAGE_BYTES | GW_STREAM_RAM_MEM_SIZE);
    put_name(stream, "pc.ram");
    put_u64(stream, RAM_BLOCK_PAGES * GW_PAGE_BYTES);
    put_name(stream, "vga.vram");
    put_u64(stream, VGA_BLOCK_PAGES * GW_PAGE_BYTES);
}

static void
put_page_header(Stream *stream, const char *name, uint64_t page, uint64_t flags)
{
    put_u64(stream, page * GW_PAGE_BYTES | flags | (name ? 0 : GW_STREAM_RAM_CONTINUE));
    if (name) {
        put_name(stream, name);
    }
}

void
put_page(Stream *stream, const char *name, uint64_t page, uint8_t fill)
{
    put_page_header(stream, name, page, GW_STREAM_RAM_PAGE);
    put_fill(stream, fill, GW_PAGE_BYTES);
}

void
put_zero(Stream *stream, const char *name, uint64_t page, uint8_t fill)
{
    put_page_header(stream, name, page, GW_STREAM_RAM_ZERO);
    put_u8(stream, fill);
}

void
put_eos(Stream *stream)
{
    put_u64(stream, GW_STREAM_RAM_EOS);
}

void
put_device(Stream *stream)
{
    put_start(stream, GW_STREAM_FULL, DEVICE_SECTION, "timer", 2);
    put_data(stream, "\x01\x02\x03{\x00\x06\x00\x00\x00\x02{ ", 13);
    put_footer(stream, DEVICE_SECTION);
}

void
put_description(Stream *stream, const char *json)
{
    put_u8(stream, GW_STREAM_DESCRIPTION);
    put_u32(stream, (uint32_t)strlen(json));
    put_data(stream, json, strlen(json));
}

void
put_ram_start(Stream *stream)
{
    put_file_header(stream);
    put_configuration(stream);
    put_start(stream, GW_STREAM_START, RAM_SECTION, "ram", GW_STREAM_RAM_VERSION);
    put_block_list(stream);
}

static void
put_ram_end(Stream *stream)
{
    put_part(stream, GW_STREAM_END, RAM_SECTION);
    put_page(stream, NULL, 2, 0x44);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
}

static void
put_xbzrle(Stream *stream, const char *name, uint64_t page)
{
    put_page_header(stream, name, page, GW_STREAM_RAM_XBZRLE);
    put_u8(stream, GW_STREAM_XBZRLE_MARKER);
    put_u16(stream, 5);
    put_data(stream, "delta", 5);
}

Stream *
stream_undescribed(void)
{
    Stream *stream = stream_new();

    put_file_header(stream);
    put_configuration(stream);
    put_subsection(stream, "configuration/target-page-bits");
    put_u32(stream, 12);
    put_subsection(stream, "configuration/uuid");
    put_fill(stream, 0x05, 16);
    put_command(stream, GW_STREAM_OPEN_RETURN_PATH, 0);
    put_command(stream, GW_STREAM_PING, 4);
    put_u32(stream, 1);
    put_start(stream, GW_STREAM_START, RAM_SECTION, "ram", GW_STREAM_RAM_VERSION);
    put_block_list(stream);
    put_u64(stream, GW_STREAM_RAM_MULTIFD);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_part(stream, GW_STREAM_PART, RAM_SECTION);
    put_page(stream, "pc.ram", 0, 0x11);
    put_page(stream, NULL, 1, 0x22);
    put_zero(stream, NULL, RAM_BLOCK_PAGES - 1, 0);
    put_zero(stream, "vga.vram", 3, 0);
    put_zero(stream, NULL, 4, 9);
    put_zero(stream, NULL, 5, 0);
    put_xbzrle(stream, "pc.ram", 1);
    put_page(stream, NULL, 0, 0x33);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_command(stream, GW_STREAM_SWITCHOVER_START, 0);
    put_ram_end(stream);
    put_device(stream);
    put_u8(stream, GW_STREAM_EOF);
    return stream;
}

Stream *
stream_precopy(void)
{
    Stream *stream = stream_undescribed();
    put_description(stream, "{\"page_size\": 4096, \"devices\": [{\"name\": \"a\\\"}\"}]}");
    return stream;
}

Stream *
stream_postcopy(void)
{
    const uint64_t huge = 2 * 1024 * 1024;
    Stream *stream = stream_new();

    put_file_header(stream);
    put_configuration(stream);
    put_command(stream, GW_STREAM_POSTCOPY_ADVISE, 16);
    put_u64(stream, huge | GW_PAGE_BYTES);
    put_u64(stream, GW_PAGE_BYTES);
    put_start(stream, GW_STREAM_START, RAM_SECTION, "ram", GW_STREAM_RAM_VERSION);
    put_u64(stream, (2 * huge + 2 * GW_PAGE_BYTES) | GW_STREAM_RAM_MEM_SIZE);
    put_name(stream, "pc.ram");
    put_u64(stream, huge);
    put_u64(stream, huge);
    put_name(stream, "rom");
    put_u64(stream, GW_PAGE_BYTES);
    put_name(stream, "vga.vram");
    put_u64(stream, huge);
    put_u64(stream, huge);
    put_name(stream, "last");
    put_u64(stream, GW_PAGE_BYTES);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_command(stream, GW_STREAM_POSTCOPY_RAM_DISCARD, 5);
    put_data(stream, "\0list", 5);
    put_command(stream, GW_STREAM_PACKAGED, 4);
    put_u32(stream, 100);
    put_fill(stream, GW_STREAM_FULL, 100);
    put_part(stream, GW_STREAM_PART, RAM_SECTION);
    put_page(stream, "pc.ram", 511, 0x11);
    put_zero(stream, "rom", 0, 0);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_part(stream, GW_STREAM_END, RAM_SECTION);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_u8(stream, GW_STREAM_EOF);
    return stream;
}

Stream *
stream_shared(void)
{
    Stream *stream = stream_new();

    put_file_header(stream);
    put_configuration(stream);
    put_subsection(stream, "configuration/capabilities");
    put_u32(stream, 1);
    put_name(stream, "x-ignore-shared");
    put_start(stream, GW_STREAM_START, RAM_SECTION, "ram", GW_STREAM_RAM_VERSION);
    put_u64(stream, 2 * GW_PAGE_BYTES | GW_STREAM_RAM_MEM_SIZE);
    put_name(stream, "pc.ram");
    put_u64(stream, GW_PAGE_BYTES);
    put_u64(stream, 0);
    put_name(stream, "rom");
    put_u64(stream, GW_PAGE_BYTES);
    put_u64(stream, 0xfffc0000);
    put_page(stream, "rom", 0, 0x77);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_u8(stream, GW_STREAM_EOF);
    return stream;
}

Stream *
stream_bitmap(void)
{
    Stream *stream = stream_new();

    put_ram_start(stream);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_start(stream, GW_STREAM_START, BITMAP_SECTION, "dirty-bitmap", GW_STREAM_BITMAP_VERSION);
    put_u8(stream,
           GW_STREAM_BITMAP_START | GW_STREAM_BITMAP_DEVICE_NAME | GW_STREAM_BITMAP_BITMAP_NAME);
    put_name(stream, "disk0");
    put_name(stream, "daily");
    put_u32(stream, 65536);
    put_u8(stream, 3);
    put_u8(stream, GW_STREAM_BITMAP_EOS);
    put_footer(stream, BITMAP_SECTION);
    put_part(stream, GW_STREAM_PART, RAM_SECTION);
    put_page(stream, "pc.ram", 0, 0x11);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_part(stream, GW_STREAM_END, BITMAP_SECTION);
    put_u8(stream, GW_STREAM_BITMAP_BITS | GW_STREAM_BITMAP_ZEROES);
    put_u64(stream, 0);
    put_u32(stream, 1024);
    put_u8(stream, GW_STREAM_BITMAP_BITS | GW_STREAM_BITMAP_BITMAP_NAME);
    put_name(stream, "weekly");
    put_u64(stream, 0);
    put_u32(stream, 1024);
    put_u64(stream, 32);
    put_fill(stream, 0xff, 32);
    put_u8(stream, GW_STREAM_BITMAP_COMPLETE);
    put_u8(stream, GW_STREAM_BITMAP_EOS);
    put_footer(stream, BITMAP_SECTION);
    put_part(stream, GW_STREAM_END, RAM_SECTION);
    put_page(stream, NULL, 1, 0x22);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    put_device(stream);
    put_u8(stream, GW_STREAM_EOF);
    put_description(stream, "{}");
    return stream;
}

Stream *
stream_old_machine(void)
{
    Stream *stream = stream_new();

    put_file_header(stream);
    put_start(stream, GW_STREAM_START, RAM_SECTION, "ram", GW_STREAM_RAM_VERSION);
    put_block_list(stream);
    put_eos(stream);
    put_part(stream, GW_STREAM_END, RAM_SECTION);
    put_page(stream, "pc.ram", 5, 0x55);
    put_eos(stream);
    put_u8(stream, GW_STREAM_EOF);
    put_description(stream, "{\"devices\": []}");
    return stream;
}
