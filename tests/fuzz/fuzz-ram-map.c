// SPDX-License-Identifier: Apache-2.0
/* QEMU's map of the guest's memory as a hostile QEMU may write it: what comes out is in order. */
#include "migrate/ram_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) ranges = gw_ram_map_parse(text, &error);
    uint64_t end = 0;

    g_assert_true((ranges == NULL) == (error != NULL));
    for (guint i = 0; ranges && i < ranges->len; i++) {
        const GwRamRange *range = ranges->pdata[i];
        g_assert_true(range->start >= end && range->bytes > 0);
        g_assert_true(range->start % GW_RAM_PAGE_BYTES == 0);
        g_assert_true(range->bytes % GW_RAM_PAGE_BYTES == 0);
        g_assert_true(gw_ram_map_has(ranges, range->start, range->bytes));
        end = range->start + range->bytes;
    }
    return 0;
}
