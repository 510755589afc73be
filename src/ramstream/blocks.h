// SPDX-License-Identifier: Apache-2.0
/*
 * The RAM blocks that a stream has named, in order of appearance. At most GW_RAM_MAX_BLOCKS, each
 * name once. Shared by parser and writer; one thread.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define GW_RAM_NO_BLOCK (-1)

typedef struct GwRamBlocks GwRamBlocks;

GwRamBlocks *gw_ram_blocks_new(void);
void gw_ram_blocks_free(GwRamBlocks *blocks);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRamBlocks, gw_ram_blocks_free)

/* The index of @name; GW_RAM_NO_BLOCK if it has not appeared. */
int gw_ram_blocks_find(const GwRamBlocks *blocks, const char *name);

/* Adds a name that has not appeared yet; its index, or GW_RAM_NO_BLOCK if the table is full. */
int gw_ram_blocks_add(GwRamBlocks *blocks, const char *name);

unsigned gw_ram_blocks_count(const GwRamBlocks *blocks);
/* NULL for an index out of range. Borrowed. */
const char *gw_ram_blocks_name(const GwRamBlocks *blocks, unsigned index);
/* 0 if it was not set or the index is out of range. */
uint64_t gw_ram_blocks_bytes(const GwRamBlocks *blocks, unsigned index);
void gw_ram_blocks_set_bytes(GwRamBlocks *blocks, unsigned index, uint64_t bytes);
