// SPDX-License-Identifier: Apache-2.0
/*
 * The table of RAM blocks: an array in order of appearance and an index by name.
 *
 * Owns the names. Thread: the owner's. Limits: GW_RAM_MAX_BLOCKS names of at most 255 bytes, so
 * about 1.5 MiB. Failure: a full table refuses.
 */
#include "ramstream/blocks.h"

#include "ramstream/ramstream.h"

typedef struct Block {
    char *name;
    uint64_t bytes;
} Block;

struct GwRamBlocks {
    GArray *blocks;      /* Block */
    GHashTable *by_name; /* name, owned by the array => index */
};

static void
block_clear(void *data)
{
    Block *block = data;
    g_free(block->name);
}

static Block *
block_at(const GwRamBlocks *blocks, unsigned index)
{
    return index < blocks->blocks->len ? &g_array_index(blocks->blocks, Block, index) : NULL;
}

GwRamBlocks *
gw_ram_blocks_new(void)
{
    GwRamBlocks *blocks = g_new0(GwRamBlocks, 1);
    blocks->blocks = g_array_new(FALSE, FALSE, sizeof(Block));
    g_array_set_clear_func(blocks->blocks, block_clear);
    blocks->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    return blocks;
}

void
gw_ram_blocks_free(GwRamBlocks *blocks)
{
    if (!blocks) {
        return;
    }
    g_hash_table_destroy(blocks->by_name);
    g_array_free(blocks->blocks, TRUE);
    g_free(blocks);
}

int
gw_ram_blocks_find(const GwRamBlocks *blocks, const char *name)
{
    void *index;
    if (!g_hash_table_lookup_extended(blocks->by_name, name, NULL, &index)) {
        return GW_RAM_NO_BLOCK;
    }
    return GPOINTER_TO_INT(index);
}

int
gw_ram_blocks_add(GwRamBlocks *blocks, const char *name)
{
    if (blocks->blocks->len >= GW_RAM_MAX_BLOCKS) {
        return GW_RAM_NO_BLOCK;
    }
    int index = (int)blocks->blocks->len;
    Block block = {.name = g_strdup(name)};
    g_array_append_val(blocks->blocks, block);
    g_hash_table_insert(blocks->by_name, block.name, GINT_TO_POINTER(index));
    return index;
}

unsigned
gw_ram_blocks_count(const GwRamBlocks *blocks)
{
    return blocks->blocks->len;
}

const char *
gw_ram_blocks_name(const GwRamBlocks *blocks, unsigned index)
{
    const Block *block = block_at(blocks, index);
    return block ? block->name : NULL;
}

uint64_t
gw_ram_blocks_bytes(const GwRamBlocks *blocks, unsigned index)
{
    const Block *block = block_at(blocks, index);
    return block ? block->bytes : 0;
}

void
gw_ram_blocks_set_bytes(GwRamBlocks *blocks, unsigned index, uint64_t bytes)
{
    Block *block = block_at(blocks, index);
    if (block) {
        block->bytes = bytes;
    }
}
