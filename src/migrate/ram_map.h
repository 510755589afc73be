// SPDX-License-Identifier: Apache-2.0
/*
 * Where in the guest's physical address space its memory is: QEMU's answer to "info mtree -f".
 *
 * That text is meant for people; only these lines of it matter, in the view that has the address
 * space "memory" (QEMU: system/memory.c, mtree_print_flatview):
 *
 *     FlatView #0
 *      AS "memory", root: system
 *       0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000
 *
 * Taken are ranges of the types ram and rom, cut to whole pages; those that follow each other in
 * one block are one. All else (device registers, flash) is not the stream's. Pure; any thread.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define GW_RAM_PAGE_BYTES 4096u
#define GW_RAM_MAX_RANGES 1024u

typedef struct GwRamRange {
    uint64_t start;  /* in the guest's physical address space */
    uint64_t bytes;  /* whole pages, at least one */
    uint64_t offset; /* of the first byte in its block */
    char *block;     /* "pc.ram"; printable ASCII */
} GwRamRange;

/* Ascending, not overlapping, at least one. Transfer full; of GwRamRange. */
GPtrArray *gw_ram_map_parse(const char *text, GError **error) GW_MUST_USE;

/* Is all of it in one range? */
bool gw_ram_map_has(const GPtrArray *ranges, uint64_t start, uint64_t bytes);
