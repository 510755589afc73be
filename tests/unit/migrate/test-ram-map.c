// SPDX-License-Identifier: Apache-2.0
/* QEMU's map of the guest's memory: as it comes, and as it must not. */
#include "migrate/ram_map.h"

#include <string.h>

#define VIEW "FlatView #0\n AS \"memory\", root: system\n Root memory region: system\n"

static const char q35[] =
    "FlatView #0\n"
    " AS \"I/O\", root: io\n"
    " Root memory region: io\n"
    "  0000000000000000-0000000000000007 (prio 0, ram): not.this\n"
    "\n"
    "FlatView #1\r\n"
    " AS \"memory\", root: system\r\n"
    " AS \"cpu-memory-0\", root: system\r\n"
    " Root memory region: system\r\n"
    "  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM\r\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n"
    "  00000000000c3000-00000000000e3fff (prio 0, rom): pc.ram @00000000000c3000 KVM\r\n"
    "  00000000000e4000-00000000000effff (prio 0, ram): pc.ram @00000000000e4000\r\n"
    "  0000000000100000-000000007fffffff (prio 0, ram): pc.ram @0000000000100000\r\n"
    "  00000000fd000000-00000000fd000fff (prio 0, romd): flash\r\n"
    "  00000000fffc0100-00000000ffffffff (prio 0, rom): pc.\tbios\r\n"
    "  0000000100000000-000000017fffffff (prio 0, ram): pc.ram @0000000080000000\r\n"
    "\r\n"
    "FlatView #2\r\n"
    " AS \"cpu-smm-0\", root: memory\r\n"
    "  0000000200000000-00000002ffffffff (prio 0, ram): pc.ram\r\n";

static void
assert_range(const GPtrArray *ranges, guint i, const char *block, uint64_t start, uint64_t end,
             uint64_t offset)
{
    const GwRamRange *range = ranges->pdata[i];

    g_assert_cmpstr(range->block, ==, block);
    g_assert_cmphex(range->start, ==, start);
    g_assert_cmphex(range->start + range->bytes, ==, end);
    g_assert_cmphex(range->offset, ==, offset);
}

static void
test_q35(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) ranges = gw_ram_map_parse(q35, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(ranges->len, ==, 5);
    assert_range(ranges, 0, "pc.ram", 0, 0xa0000, 0);
    assert_range(ranges, 1, "pc.ram", 0xc3000, 0xf0000, 0xc3000);
    assert_range(ranges, 2, "pc.ram", 0x100000, 0x80000000, 0x100000);
    assert_range(ranges, 3, "pc.?bios", 0xfffc1000, 0x100000000, 0xf00);
    assert_range(ranges, 4, "pc.ram", 0x100000000, 0x180000000, 0x80000000);
    g_assert_true(gw_ram_map_has(ranges, 0, 0xa0000));
    g_assert_true(gw_ram_map_has(ranges, 0x9f000, 0x1000));
    g_assert_false(gw_ram_map_has(ranges, 0x9f000, 0x1001));
    g_assert_false(gw_ram_map_has(ranges, 0xa0000, 1));
    g_assert_false(gw_ram_map_has(ranges, 0x17ffff000, UINT64_MAX));
    g_assert_false(gw_ram_map_has(ranges, UINT64_MAX, 2));
}

static void
test_bad(void)
{
    static const char *const texts[] = {
        "",
        "\n",
        "unknown command: 'info mtree -f'\r\n",
        " AS \"memory\", root: system\n  0000000000000000-0000000000000fff (prio 0, ram): a\n",
        VIEW,
        VIEW "\n  0000000000000000-0000000000000fff (prio 0, ram): a\n",
        VIEW "  0000000000000000-0000000000000ffe (prio 0, ram): a\n",
        VIEW "  0000000000001000-0000000000000fff (prio 0, ram): a\n",
        VIEW "  0000000000000000-ffffffffffffffff (prio 0, ram): a\n",
        VIEW "  -1-0000000000000fff (prio 0, ram): a\n",
        VIEW "  0000000000000000-0000000000000fff (prio 0, ram): a @x\n",
        VIEW "  0000000000000000-0000000000000fff (prio 0, ram)",
        VIEW "  0000000000001000-0000000000001fff (prio 0, ram): a\n"
             "  0000000000000000-0000000000000fff (prio 0, ram): b\n",
        VIEW "  0000000000000000-0000000000001fff (prio 0, ram): a\n"
             "  0000000000001000-0000000000002fff (prio 0, ram): b\n",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) ranges = gw_ram_map_parse(texts[i], &error);
        g_assert_null(ranges);
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
}

static void
test_many(void)
{
    g_autoptr(GString) text = g_string_new(VIEW);
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i <= GW_RAM_MAX_RANGES; i++) {
        if (i == GW_RAM_MAX_RANGES) {
            g_autoptr(GPtrArray) ranges = gw_ram_map_parse(text->str, &error);
            g_assert_no_error(error);
            g_assert_cmpuint(ranges->len, ==, GW_RAM_MAX_RANGES);
        }
        g_string_append_printf(text, "  %016x-%016x (prio 0, ram): r\n", i * 0x2000,
                               i * 0x2000 + 0xfff);
    }
    g_assert_null(gw_ram_map_parse(text->str, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ram-map/q35", test_q35);
    g_test_add_func("/ram-map/bad", test_bad);
    g_test_add_func("/ram-map/many", test_many);
    return g_test_run();
}
