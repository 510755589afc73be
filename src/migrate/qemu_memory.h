// SPDX-License-Identifier: Apache-2.0
/*
 * Where QEMU has its guest's memory, for a placer (lane/placer.h).
 *
 * QEMU tells it in "info ramblock", a table for people (system/physmem.c, ram_block_format); since
 * version 8 it has the address in QEMU's own address space:
 *
 *       Block Name    PSize     Offset       Used      Total         HVA  RO
 *           pc.ram    4 KiB  0x0000…00  0x0000…00  0x0000…00  0x00007f…00  rw
 *
 * Taken are blocks of GW_QEMU_MEMORY_MIN_BYTES and more that are private memory: that of the guest,
 * not what QEMU itself may write while it loads (firmware, tables, displays), and nothing that
 * others map as well.
 */
#pragma once

#include "lane/placer.h"
#include "qemu/launch.h"

#define GW_QEMU_MEMORY_MIN_BYTES (64u * 1024u * 1024u)

typedef struct GwQemuBlock {
    char *name;
    uint64_t start; /* in QEMU's address space */
    uint64_t bytes; /* whole pages */
} GwQemuBlock;

/* The large blocks of the table, at most GW_PLACER_MAX_BLOCKS. Transfer full; of GwQemuBlock. */
GPtrArray *gw_qemu_memory_parse(const char *table) GW_MUST_USE;

/* Whether all of @block is private memory of no file, by the text of /proc/PID/maps. */
bool gw_qemu_memory_is_private(const char *maps, const GwQemuBlock *block);

/*
 * A placer for the memory of this QEMU, whose guest has not run yet. GW_ERROR_UNSUPPORTED if there
 * is none to be written this way, GW_ERROR_IO if the system does not let us.
 */
GwPlacer *gw_qemu_memory_open(GwProcessId process, const char *table, GError **error) GW_MUST_USE;
