// SPDX-License-Identifier: Apache-2.0
/*
 * The table of an image index.
 *
 * Owns its slots: 8 bytes each and a bit. Slots are written by one thread, whole, and read by any;
 * a reader sees the old or the new value. Nothing moves and nothing is freed while the table
 * lives. A probe looks at no more than MAX_PROBES slots, so that content made to crowd one place
 * costs entries, not time. Cannot fail but by running out of memory when it is made.
 */
#include "lane/image_table.h"

#define MAX_PROBES 128u
#define NO_BLOCK   UINT32_C(0xffffffff) /* a slot that was emptied; probes go on behind it */

uint64_t
gw_image_table_bytes(uint64_t n_slots)
{
    return n_slots * GW_IMAGE_SLOT_BYTES + n_slots / 8 + 1;
}

GwImageTable *
gw_image_table_new_slots(uint64_t n_slots)
{
    g_autoptr(GwImageTable) table = g_new0(GwImageTable, 1);

    if (n_slots == 0 || n_slots > GW_IMAGE_MAX_SLOTS) {
        return NULL;
    }
    table->n_slots = n_slots;
    table->slots = g_try_malloc0_n(n_slots, GW_IMAGE_SLOT_BYTES);
    table->confirmed = g_try_malloc0(n_slots / 8 + 1);
    return table->slots && table->confirmed ? g_steal_pointer(&table) : NULL;
}

GwImageTable *
gw_image_table_new(uint64_t n_blocks, uint64_t max_bytes)
{
    uint64_t most = MIN(max_bytes / (GW_IMAGE_SLOT_BYTES + 1), GW_IMAGE_MAX_SLOTS);

    return gw_image_table_new_slots(CLAMP(n_blocks + n_blocks / 4 + 64, 1, most));
}

void
gw_image_table_free(GwImageTable *table)
{
    if (table) {
        g_free((void *)table->slots);
        g_free(table->confirmed);
        g_free(table);
    }
}

static bool
is_confirmed(const GwImageTable *table, uint64_t at)
{
    return table->confirmed[at / 8] & (1u << (at % 8));
}

/* Where @hash's content is or would go; false: no room within the probe's reach. */
static bool
find_place(const GwImageTable *table, uint64_t hash, uint64_t *place)
{
    uint64_t at = gw_image_table_home(table, hash);
    bool room = false;

    for (unsigned i = 0; i < MAX_PROBES; i++) {
        uint64_t slot = atomic_load_explicit(&table->slots[at], memory_order_relaxed);
        bool is_emptied = (uint32_t)slot == NO_BLOCK;

        if (slot >> 32 == (uint32_t)hash && slot != 0 && !is_emptied) {
            *place = at;
            return true;
        }
        if (!room && (slot == 0 || is_emptied)) {
            *place = at;
            room = true;
        }
        if (slot == 0) {
            return true;
        }
        at = at + 1 == table->n_slots ? 0 : at + 1;
    }
    return room;
}

void
gw_image_table_put(GwImageTable *table, uint64_t hash, uint64_t block)
{
    uint64_t at;

    if (block < GW_IMAGE_TABLE_END && find_place(table, hash, &at) && !is_confirmed(table, at)) {
        uint64_t slot = atomic_load_explicit(&table->slots[at], memory_order_relaxed);

        table->n_entries += slot == 0 || (uint32_t)slot == NO_BLOCK;
        atomic_store_explicit(&table->slots[at], (hash << 32) | (uint32_t)(block + 1),
                              memory_order_relaxed);
        table->confirmed[at / 8] |= (uint8_t)(1u << (at % 8));
    }
}

void
gw_image_table_restore(GwImageTable *table, uint64_t at, uint64_t slot)
{
    table->n_entries += slot != 0 && (uint32_t)slot != NO_BLOCK;
    atomic_store_explicit(&table->slots[at], slot, memory_order_relaxed);
}

void
gw_image_table_drop_unconfirmed(GwImageTable *table)
{
    for (uint64_t at = 0; at < table->n_slots; at++) {
        uint64_t slot = atomic_load_explicit(&table->slots[at], memory_order_relaxed);

        if (slot != 0 && (uint32_t)slot != NO_BLOCK && !is_confirmed(table, at)) {
            table->n_entries--;
            atomic_store_explicit(&table->slots[at], NO_BLOCK, memory_order_relaxed);
        }
    }
}

bool
gw_image_table_find(const GwImageTable *table, uint64_t hash, uint64_t *block)
{
    uint64_t at = gw_image_table_home(table, hash);

    for (unsigned i = 0; i < MAX_PROBES; i++) {
        uint64_t slot = atomic_load_explicit(&table->slots[at], memory_order_relaxed);

        if (slot == 0) {
            return false;
        }
        if (slot >> 32 == (uint32_t)hash && (uint32_t)slot != NO_BLOCK) {
            *block = (uint32_t)slot - 1;
            return true;
        }
        at = at + 1 == table->n_slots ? 0 : at + 1;
    }
    return false;
}
