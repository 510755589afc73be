// SPDX-License-Identifier: Apache-2.0
/*
 * What must end the understanding of a stream: at the right byte, with the right reason, and
 * without touching a byte.
 */
#include "roundtrip.h"
#include "streams.h"

static void
after_list_page_continues(Stream *stream)
{
    put_page(stream, NULL, 0, 1);
}

static void
after_list_page_outside(Stream *stream)
{
    put_page(stream, "vga.vram", VGA_BLOCK_PAGES, 1);
}

static void
after_list_page_wraps(Stream *stream)
{
    put_zero(stream, "vga.vram", UINT64_MAX / GW_PAGE_BYTES, 0);
}

static void
after_list_page_unnamed(Stream *stream)
{
    put_page(stream, "", 0, 1);
}

static void
after_list_page_named_with_nul(Stream *stream)
{
    put_u64(stream, GW_STREAM_RAM_PAGE);
    put_u8(stream, 6);
    put_data(stream, "pc\0ram", 6);
    put_fill(stream, 1, GW_PAGE_BYTES);
}

static void
after_list_two_flags(Stream *stream)
{
    put_u64(stream, GW_STREAM_RAM_PAGE | GW_STREAM_RAM_ZERO);
}

static void
after_list_compressed(Stream *stream)
{
    put_u64(stream, 0x100);
}

static void
after_list_hook(Stream *stream)
{
    put_u64(stream, 0x80);
}

static void
after_list_eos_with_address(Stream *stream)
{
    put_u64(stream, GW_PAGE_BYTES | GW_STREAM_RAM_EOS);
}

static void
after_list_long_delta(Stream *stream)
{
    put_u64(stream, GW_STREAM_RAM_XBZRLE);
    put_name(stream, "pc.ram");
    put_u8(stream, GW_STREAM_XBZRLE_MARKER);
    put_u16(stream, GW_PAGE_BYTES + 1);
}

typedef struct AfterList {
    const char *name;
    void (*put)(Stream *stream);
    const char *why;
} AfterList;

static const AfterList after_lists[] = {
    {"page-continues", after_list_page_continues, "a page continues in no RAM block"},
    {"page-outside", after_list_page_outside, "a page lies outside its RAM block"},
    {"page-wraps", after_list_page_wraps, "a page lies outside its RAM block"},
    {"page-unnamed", after_list_page_unnamed, "a page's RAM block has no name"},
    {"page-with-nul", after_list_page_named_with_nul, "a page's RAM block has no name"},
    {"two-flags", after_list_two_flags, "an unknown record in section ram"},
    {"compressed", after_list_compressed, "an unknown record in section ram"},
    {"hook", after_list_hook, "an unknown record in section ram"},
    {"eos-with-address", after_list_eos_with_address, "an unknown record in section ram"},
    {"long-delta", after_list_long_delta, "a delta page is malformed"},
};

static void
check_opaque(const Stream *stream, size_t opaque_at, const char *expected_why)
{
    for (uint32_t pieces = 0; pieces < 3; pieces++) {
        RoundTrip trip = {0};
        const char *why;

        roundtrip_check(&trip, stream->bytes->data, stream->bytes->len, pieces);
        g_assert_true(gw_ram_parser_is_opaque(trip.parser, &why));
        g_assert_cmpstr(why, ==, expected_why);
        g_assert_cmpuint(trip.opaque_at, ==, opaque_at);
        g_assert_false(gw_ram_parser_saw_end(trip.parser));
        roundtrip_clear(&trip);
    }
}

static void
test_after_list(const void *data)
{
    const AfterList *after_list = data;
    g_autoptr(Stream) stream = stream_new();

    put_ram_start(stream);
    size_t opaque_at = stream->bytes->len;
    after_list->put(stream);
    put_page(stream, "pc.ram", 0, 1);
    check_opaque(stream, opaque_at, after_list->why);
}

static void
test_block_list(void)
{
    static const struct {
        const char *name;
        uint64_t bytes;
        uint64_t sum;
    } lists[] = {
        {"", GW_PAGE_BYTES, GW_PAGE_BYTES},
        {"pc.ram", 0, GW_PAGE_BYTES},
        {"pc.ram", 100, GW_PAGE_BYTES},
        {"pc.ram", 2 * GW_PAGE_BYTES, GW_PAGE_BYTES},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
        g_autoptr(Stream) stream = stream_new();
        put_file_header(stream);
        put_start(stream, GW_STREAM_START, RAM_SECTION, "ram", GW_STREAM_RAM_VERSION);
        put_u64(stream, lists[i].sum | GW_STREAM_RAM_MEM_SIZE);
        size_t opaque_at = stream->bytes->len;
        put_name(stream, lists[i].name);
        put_u64(stream, lists[i].bytes);
        put_eos(stream);
        check_opaque(stream, opaque_at, "the list of RAM blocks is malformed");
    }
}

static void
test_many_blocks(void)
{
    g_autoptr(Stream) stream = stream_new();
    size_t opaque_at = 0;

    put_ram_start(stream);
    for (unsigned i = 2; i < GW_RAM_MAX_BLOCKS + 10; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);
        if (i == GW_RAM_MAX_BLOCKS) {
            opaque_at = stream->bytes->len;
        }
        put_zero(stream, name, i, 0);
    }
    check_opaque(stream, opaque_at, "too many RAM blocks");
}

static void
test_many_listed_blocks(void)
{
    g_autoptr(Stream) stream = stream_new();
    size_t opaque_at = 0;

    put_file_header(stream);
    put_start(stream, GW_STREAM_START, RAM_SECTION, "ram", GW_STREAM_RAM_VERSION);
    put_u64(stream, 2 * GW_RAM_MAX_BLOCKS * (uint64_t)GW_PAGE_BYTES | GW_STREAM_RAM_MEM_SIZE);
    for (unsigned i = 0; i < 2 * GW_RAM_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);
        if (i == GW_RAM_MAX_BLOCKS) {
            opaque_at = stream->bytes->len;
        }
        put_name(stream, name);
        put_u64(stream, GW_PAGE_BYTES);
    }
    check_opaque(stream, opaque_at, "too many RAM blocks");
}

static void
check_head(void (*put)(Stream *stream), const char *why)
{
    g_autoptr(Stream) stream = stream_new();

    put_file_header(stream);
    put_configuration(stream);
    size_t opaque_at = stream->bytes->len;
    put(stream);
    put_fill(stream, 0x55, 100);
    check_opaque(stream, opaque_at, why);
}

static void
head_mapped_ram(Stream *stream)
{
    put_name(stream, "mapped-ram");
}

static void
head_unknown_subsection(Stream *stream)
{
    put_subsection(stream, "configuration/new");
}

static void
head_page_bits(Stream *stream)
{
    put_subsection(stream, "configuration/target-page-bits");
    put_u32(stream, 16);
}

static void
head_device_first(Stream *stream)
{
    put_start(stream, GW_STREAM_FULL, 1, "virtio-mem-device-early", 1);
}

static void
head_vfio(Stream *stream)
{
    put_start(stream, GW_STREAM_START, 1, "0000:00:02.0/vfio", 1);
}

static void
head_ram_of_another_version(Stream *stream)
{
    put_start(stream, GW_STREAM_START, 1, "ram", 5);
}

static void
head_part_of_nothing(Stream *stream)
{
    put_part(stream, GW_STREAM_PART, 0xffffffff);
}

static void
head_footer_of_nothing(Stream *stream)
{
    put_footer(stream, 0);
}

static void
head_colo(Stream *stream)
{
    put_command(stream, 8, 0);
}

static void
head_second_configuration(Stream *stream)
{
    put_configuration(stream);
}

static void
head_unknown_section(Stream *stream)
{
    put_u8(stream, 0x09);
}

static void
head_advise_other_pages(Stream *stream)
{
    put_command(stream, GW_STREAM_POSTCOPY_ADVISE, 16);
    put_u64(stream, 65536);
    put_u64(stream, 65536);
}

static void
head_many_capabilities(Stream *stream)
{
    put_subsection(stream, "configuration/capabilities");
    put_u32(stream, 257);
}

static void
head_odd_package(Stream *stream)
{
    put_command(stream, GW_STREAM_PACKAGED, 5);
    put_u32(stream, 1);
}

static void
head_odd_advise(Stream *stream)
{
    put_command(stream, GW_STREAM_POSTCOPY_ADVISE, 20);
    put_u64(stream, GW_PAGE_BYTES);
    put_u64(stream, GW_PAGE_BYTES);
}

static void
test_heads(void)
{
    g_autoptr(Stream) stream = stream_new();

    put_file_header(stream);
    put_configuration(stream);
    put_subsection(stream, "configuration/capabilities");
    put_u32(stream, 1);
    size_t opaque_at = stream->bytes->len;
    head_mapped_ram(stream);
    check_opaque(stream, opaque_at, "a capability that changes the stream (such as mapped-ram)");

    check_head(head_many_capabilities, "too many capabilities");
    check_head(head_odd_package, "a package's length is malformed");
    check_head(head_odd_advise, "post-copy with pages that are not of 4096 bytes");
    check_head(head_unknown_subsection, "an unknown part of the configuration");
    check_head(head_page_bits, "pages are not of 4096 bytes");
    check_head(head_device_first, DEVICE_WHY);
    check_head(head_vfio, "an iterative section other than ram and dirty-bitmap");
    check_head(head_ram_of_another_version, "an iterative section other than ram and dirty-bitmap");
    check_head(head_part_of_nothing, "a part of a section that was not started");
    check_head(head_footer_of_nothing, "a section's footer is out of place");
    check_head(head_colo, "an unknown command");
    check_head(head_second_configuration, "a second configuration");
    check_head(head_unknown_section, "an unknown kind of section");
    check_head(head_advise_other_pages, "post-copy with pages that are not of 4096 bytes");
}

static void
test_long_machine_name(void)
{
    g_autoptr(Stream) stream = stream_new();

    put_file_header(stream);
    put_u8(stream, GW_STREAM_CONFIGURATION);
    put_u32(stream, 256);
    put_fill(stream, 'x', 300);
    check_opaque(stream, 8, "the machine type's name is too long");
}

/* Behind a whole section "ram", where one footer has passed. */
static void
check_after_section(void (*put)(Stream *stream), size_t understood, const char *why)
{
    g_autoptr(Stream) stream = stream_new();

    put_ram_start(stream);
    put_eos(stream);
    put_footer(stream, RAM_SECTION);
    size_t opaque_at = stream->bytes->len + understood;
    put(stream);
    put_fill(stream, 0x55, 100);
    check_opaque(stream, opaque_at, why);
}

static void
section_second_footer(Stream *stream)
{
    put_footer(stream, RAM_SECTION);
}

static void
section_same_id(Stream *stream)
{
    put_start(stream, GW_STREAM_START, RAM_SECTION, "dirty-bitmap", GW_STREAM_BITMAP_VERSION);
}

static void
section_bitmap_flags(Stream *stream)
{
    put_start(stream, GW_STREAM_START, 9, "dirty-bitmap", GW_STREAM_BITMAP_VERSION);
    put_u8(stream, 0x80);
}

static void
section_bitmap_too_long(Stream *stream)
{
    put_start(stream, GW_STREAM_START, 9, "dirty-bitmap", GW_STREAM_BITMAP_VERSION);
    put_u8(stream, GW_STREAM_BITMAP_BITS);
    put_u64(stream, 0);
    put_u32(stream, 8);
    put_u64(stream, 10 * 1024 + 1);
}

static void
test_after_section(void)
{
    const size_t start_bytes = 1 + 4 + 1 + strlen("dirty-bitmap") + 4 + 4;

    check_after_section(section_second_footer, 0, "a section's footer is out of place");
    check_after_section(section_same_id, 0, "two sections have the same id");
    check_after_section(section_bitmap_flags, start_bytes, "unknown flags of a dirty bitmap");
    check_after_section(section_bitmap_too_long, start_bytes,
                        "a piece of a dirty bitmap is too long");
}

static void
test_foreign(void)
{
    g_autoptr(Stream) stream = stream_new();

    put_u32(stream, GW_STREAM_MAGIC);
    put_u32(stream, GW_STREAM_VERSION + 1);
    put_page(stream, "pc.ram", 0, 1);
    check_opaque(stream, 0, "not a migration stream of version 3");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(after_lists); i++) {
        g_autofree char *path = g_strdup_printf("/reader/after-list/%s", after_lists[i].name);
        g_test_add_data_func(path, &after_lists[i], test_after_list);
    }
    g_test_add_func("/reader/block-list", test_block_list);
    g_test_add_func("/reader/many-blocks", test_many_blocks);
    g_test_add_func("/reader/many-listed-blocks", test_many_listed_blocks);
    g_test_add_func("/reader/heads", test_heads);
    g_test_add_func("/reader/long-machine-name", test_long_machine_name);
    g_test_add_func("/reader/after-section", test_after_section);
    g_test_add_func("/reader/foreign", test_foreign);
    return g_test_run();
}
