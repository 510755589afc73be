// SPDX-License-Identifier: Apache-2.0
/* Where QEMU has its guest's memory: as it tells, and as it must not. */
#include "migrate/qemu_memory.h"

#include "qemu/process.h"
#include "ramstream/ramstream.h"

#include <string.h>
#include <sys/mman.h>

static const char table[] =
    "              Block Name    PSize              Offset               Used              Total"
    "                HVA  RO\r\n"
    "                  pc.ram    4 KiB  0x0000000000000000 0x0000000040000000 0x0000000040000000 "
    "0x00007f1d6be00000  rw\r\n"
    "   0000:00:01.0/vga.vram    4 KiB  0x0000000040080000 0x0000000001000000 0x0000000001000000 "
    "0x00007f1d6ac00000  rw\r\n"
    "           /objects/mem1    2 MiB  0x0000000050000000 0x0000000080000000 0x0000000080000000 "
    "0x00007e0000000000  rw\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x0000000041100000 0x0000000000020000 0x0000000008000000 "
    "0x00007f1df8a00000  ro\r\n";

static void
test_table(void)
{
    g_autoptr(GPtrArray) blocks = gw_qemu_memory_parse(table);

    g_assert_cmpuint(blocks->len, ==, 2);
    const GwQemuBlock *ram = blocks->pdata[0], *more = blocks->pdata[1];
    g_assert_cmpstr(ram->name, ==, "pc.ram");
    g_assert_cmphex(ram->start, ==, 0x7f1d6be00000);
    g_assert_cmphex(ram->bytes, ==, 0x40000000);
    g_assert_cmpstr(more->name, ==, "/objects/mem1");
    g_assert_cmphex(more->bytes, ==, 0x80000000);
}

/* An older QEMU's table, and lines that are none. */
static void
test_other_tables(void)
{
    static const char *const others[] = {
        "",
        "\n\n \r\n",
        "pc.ram 4 KiB 0x0 0x40000000 0x40000000\n",
        "pc.ram 4 KiB 0x0 0x40000000 0x40000000 0x0 rw\n",
        "pc.ram 4 KiB 0x0 0x40000000 0x40000000 0x7f0000000001 rw\n",
        "pc.ram 4 KiB 0x0 0x40000001 0x40001000 0x7f0000000000 rw\n",
        "pc.ram 4 KiB 0x0 0xffffffffffffffff 0xffffffffffffffff 0x7f0000000000 rw\n",
        "pc.ram 4 KiB 0x0 0x40000000 0x40000000 0xfffff00000000000 rw\n",
        "pc.ram 4 KiB 0x0 0x40000000 0x40000000 0x7f0000000000 ro\n",
        "pc.ram 4 KiB 0x0 0x40000000 0x40000000 0x7f0000000000 rw more\n",
        "pc.ram 4 KiB 0x0 -40000000 0x40000000 0x7f0000000000 rw\n",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autoptr(GPtrArray) blocks = gw_qemu_memory_parse(others[i]);
        g_assert_cmpuint(blocks->len, ==, 0);
    }
}

static void
test_private(void)
{
    static const GwQemuBlock block = {.start = 0x10000, .bytes = 0x4000};
    static const struct {
        const char *maps;
        bool is_private;
    } cases[] = {
        {"10000-14000 rw-p 00000000 00:00 0 \n", true},
        {"1000-80000 rw-p 00000000 00:00 0  [anon: guest]\n", true},
        {"10000-12000 rw-p 00000000 00:00 0\n12000-14000 rw-p 00000000 00:00 0\n", true},
        {"10000-12000 rw-p 00000000 00:00 0\n13000-14000 rw-p 00000000 00:00 0\n", false},
        {"10000-12000 rw-p 00000000 00:00 0\n12000-14000 rw-s 00000000 00:01 77 /memfd:x\n", false},
        {"10000-14000 rw-s 00000000 00:00 0\n", false},
        {"10000-14000 r--p 00000000 00:00 0\n", false},
        {"10000-14000 rw-p 00000000 fd:00 1234 /a file\n", false},
        {"10000-13000 rw-p 00000000 00:00 0\n", false},
        {"10000 rw-p 00000000 00:00 0\n", false},
        {"10000-14000 rw-p\n", false},
        {"", false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_test_message("%s", cases[i].maps);
        g_assert_cmpint(gw_qemu_memory_is_private(cases[i].maps, &block), ==, cases[i].is_private);
    }
}

/* This process stands for QEMU. */
static void
test_open(void)
{
    GwProcessId self = {.pid = getpid()};
    size_t bytes = GW_QEMU_MEMORY_MIN_BYTES;
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint8_t page[GW_PAGE_BYTES];
    g_autoptr(GError) error = NULL;

    g_assert_true(memory != MAP_FAILED && shared != MAP_FAILED);
    g_assert_true(gw_process_start_ticks(self.pid, &self.start_ticks, NULL));
    g_autofree char *ours = g_strdup_printf("ram 4 KiB 0x0 %#zx 0x40000000 %p rw\n", bytes, memory);
    g_autofree char *not_ours =
        g_strdup_printf("ram 4 KiB 0x0 %#zx 0x40000000 %p rw\n", bytes, shared);

    g_autoptr(GwPlacer) placer = gw_qemu_memory_open(self, ours, &error);
    g_assert_no_error(error);
    memset(page, 0x5a, sizeof(page));
    g_assert_true(gw_placer_put(placer, 0, 5 * GW_PAGE_BYTES, page, NULL));
    g_assert_true(gw_placer_drain(placer, NULL));
    g_assert_cmpmem(memory + 5 * GW_PAGE_BYTES, GW_PAGE_BYTES, page, sizeof(page));

    g_assert_null(gw_qemu_memory_open(self, not_ours, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED);
    g_clear_error(&error);
    self.start_ticks++;
    g_assert_null(gw_qemu_memory_open(self, ours, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
    munmap(memory, bytes);
    munmap(shared, bytes);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qemu-memory/table", test_table);
    g_test_add_func("/qemu-memory/other-tables", test_other_tables);
    g_test_add_func("/qemu-memory/private", test_private);
    g_test_add_func("/qemu-memory/open", test_open);
    return g_test_run();
}
