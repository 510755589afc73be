// SPDX-License-Identifier: Apache-2.0
/*
 * The table of an image index: from the hash of a page's content to the block that had it.
 *
 * Open addressing with linear probing over slots of 8 bytes: the low 32 bits of the hash as a tag,
 * and the block's number plus one (0: empty). The high 32 bits of the hash choose the slot. A
 * content is kept once. A wrong hit, on a tag that is equal by chance, happens for one lookup in
 * 10⁹ or so, and whenever a guest arranges for it: a hit is a candidate, no more.
 *
 * One thread changes a table, any number of threads look things up meanwhile, without locks. The
 * changing side may mark what it has confirmed, and drop the rest afterwards.
 */
#pragma once

#include "base/error.h"

#include <stdatomic.h>
#include <stdint.h>

#define GW_IMAGE_SLOT_BYTES 8u
/* Slots are 5/4 of the blocks that are expected: 10 bytes per block, 2.5 MiB per GiB. */
#define GW_IMAGE_MAX_SLOTS (UINT64_C(1) << 32)
/* The highest block that can be told is one below. */
#define GW_IMAGE_TABLE_END UINT64_C(0xfffffffe)

typedef struct GwImageTable {
    uint64_t n_slots;
    uint64_t n_entries; /* of the changing thread */
    uint8_t *confirmed; /* a bit per slot; of the changing thread */
    _Atomic uint64_t *slots;
} GwImageTable;

/* For @n_blocks, within @max_bytes; NULL when memory is short. */
GwImageTable *gw_image_table_new(uint64_t n_blocks, uint64_t max_bytes) GW_MUST_USE;
/* With exactly @n_slots. */
GwImageTable *gw_image_table_new_slots(uint64_t n_slots) GW_MUST_USE;
void gw_image_table_free(GwImageTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwImageTable, gw_image_table_free)

/* Memory of a table with @n_slots. */
uint64_t gw_image_table_bytes(uint64_t n_slots);

/* --- the changing thread ---------------------------------------------------------------------- */

/*
 * The content with @hash is at @block. Nothing happens if it is known, and confirmed, to be
 * elsewhere, or if there is no room.
 */
void gw_image_table_put(GwImageTable *table, uint64_t hash, uint64_t block);

/* Sets a slot to what it was in another table of this size; not confirmed. */
void gw_image_table_restore(GwImageTable *table, uint64_t at, uint64_t slot);

/* Forgets all that was not put since the table was made. */
void gw_image_table_drop_unconfirmed(GwImageTable *table);

/* --- any thread ------------------------------------------------------------------------------- */

bool gw_image_table_find(const GwImageTable *table, uint64_t hash, uint64_t *block);

static inline uint64_t
gw_image_table_home(const GwImageTable *table, uint64_t hash)
{
    return ((hash >> 32) * table->n_slots) >> 32;
}

/* Ahead of a find(). */
static inline void
gw_image_table_prefetch(const GwImageTable *table, uint64_t hash)
{
    __builtin_prefetch((const void *)&table->slots[gw_image_table_home(table, hash)]);
}
