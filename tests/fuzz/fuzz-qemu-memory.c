// SPDX-License-Identifier: Apache-2.0
/* QEMU's table of RAM blocks, and a process's map: what comes out is whole pages, few blocks. */
#include "migrate/qemu_memory.h"

#include "ramstream/ramstream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autoptr(GPtrArray) blocks = gw_qemu_memory_parse(text);

    g_assert_true(blocks->len <= GW_PLACER_MAX_BLOCKS);
    for (guint i = 0; i < blocks->len; i++) {
        const GwQemuBlock *block = blocks->pdata[i];

        g_assert_true(block->start > 0 && block->start % GW_PAGE_BYTES == 0);
        g_assert_true(block->bytes >= GW_QEMU_MEMORY_MIN_BYTES);
        g_assert_true(block->bytes % GW_PAGE_BYTES == 0);
        (void)gw_qemu_memory_is_private(text, block);
    }
    return 0;
}
