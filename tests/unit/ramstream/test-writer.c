// SPDX-License-Identifier: Apache-2.0
/*
 * What the writer refuses: items and names as a hostile peer may send them.
 */
#include "ramstream/format.h"
#include "ramstream/ramstream.h"

#include <string.h>

static void
check_refused(GwRamWriter *writer, GwRamItem item, GwErrorCode code)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    g_assert_false(gw_ram_writer_put(writer, &item, out, &error));
    g_assert_error(error, GW_ERROR, (int)code);
    g_assert_cmpuint(out->len, ==, 0);
}

static void
test_writer_refuses(void)
{
    static const uint8_t page[GW_PAGE_BYTES];
    g_autoptr(GwRamWriter) writer = gw_ram_writer_new();
    g_autoptr(GError) error = NULL;
    char long_name[GW_STREAM_MAX_NAME_BYTES + 1];

    g_assert_true(gw_ram_writer_add_block(writer, "pc.ram", 6, NULL));
    check_refused(writer, (GwRamItem){.kind = GW_RAM_ITEM_ZERO, .block = 1}, GW_ERROR_PROTOCOL);
    check_refused(writer, (GwRamItem){.kind = GW_RAM_ITEM_PAGE, .block = 65535, .data = page},
                  GW_ERROR_PROTOCOL);
    check_refused(writer, (GwRamItem){.kind = GW_RAM_ITEM_ZERO, .address = 8}, GW_ERROR_PROTOCOL);
    check_refused(writer, (GwRamItem){.kind = (GwRamItemKind)9}, GW_ERROR_PROTOCOL);
    check_refused(writer, (GwRamItem){.kind = GW_RAM_ITEM_BYTES, .data = page, .len = SIZE_MAX},
                  GW_ERROR_TOO_LARGE);

    GByteArray full = {.len = G_MAXUINT};
    GwRamItem zero = {.kind = GW_RAM_ITEM_ZERO};
    g_assert_false(gw_ram_writer_put(writer, &zero, &full, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
    g_clear_error(&error);

    memset(long_name, 'x', sizeof(long_name));
    g_assert_false(gw_ram_writer_add_block(writer, long_name, sizeof(long_name), NULL));
    g_assert_true(gw_ram_writer_add_block(writer, long_name, sizeof(long_name) - 1, NULL));
    g_assert_false(gw_ram_writer_add_block(writer, "", 0, NULL));
    g_assert_false(gw_ram_writer_add_block(writer, "a\0b", 3, NULL));
    g_assert_false(gw_ram_writer_add_block(writer, "pc.ram", 6, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    for (unsigned i = 2; i < GW_RAM_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);
        g_assert_true(gw_ram_writer_add_block(writer, name, strlen(name), NULL));
    }
    g_assert_false(gw_ram_writer_add_block(writer, "one more", 8, NULL));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/writer/refuses", test_writer_refuses);
    return g_test_run();
}
