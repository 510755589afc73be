// SPDX-License-Identifier: Apache-2.0
/*
 * The table of pages and the copies.
 *
 * The table is, per RAM block, an array of pointers to chunks of CHUNK_PAGES entries; both grow as
 * pages come. QEMU's blocks are dense, so there is nothing to hash and no page number, whoever
 * chose it, makes a look-up slow. Chunks neither move nor go before the end, so a copy can point
 * to its page's entry. Copies lie in one piece of memory that the kernel fills in as it is used.
 *
 * Owns all of it; the owner's thread. Page numbers may come from a peer: every growth is checked
 * against the limit before it is tried, and depends on the reports and the limits only. Fails by
 * remembering less; see gw_page_memory_is_lost().
 */
#include "lane/page_memory.h"

#include <string.h>

/* 1 MiB of the guest. */
#define CHUNK_PAGES 256u
#define MIN_CHUNKS  64u

/* Of the newcomers that find no room, one in so many looks for some. */
#define LOOK_EVERY 8u

#define NO_SLOT UINT32_MAX

/* Entry.state */
enum {
    UNSEEN,     /* as the chunk was made */
    NO_CONTENT, /* sent with content once, but as zero the last time */
    NO_COPY,
    FIRST_COPY, /* + slot */
};

typedef struct Entry {
    GwPageTag tag; /* from NO_COPY on */
    uint32_t state;
} Entry;

G_STATIC_ASSERT(sizeof(Entry) == 20);

typedef struct Block {
    Entry **chunks;
    uint64_t n_chunks;
} Block;

typedef struct Slot {
    Entry *owner; /* NULL: free */
    uint32_t next_free;
    bool used; /* sent again since it was looked at */
} Slot;

struct GwPageMemory {
    GwPageMemoryLimits limits;
    Block blocks[GW_RAM_MAX_BLOCKS];
    uint64_t table_bytes;
    uint64_t refused;
    bool lost;

    uint8_t *copies;
    Slot *slots;
    uint32_t n_touched; /* slots that were ever used */
    uint32_t first_free;
    uint32_t n_copies;
    uint32_t hand;
    uint32_t n_newcomers;
};

GwPageMemory *
gw_page_memory_new(const GwPageMemoryLimits *limits, GError **error)
{
    g_autoptr(GwPageMemory) memory = g_new0(GwPageMemory, 1);

    memory->limits = *limits;
    memory->first_free = NO_SLOT;
    if (limits->copies == 0) {
        return g_steal_pointer(&memory);
    }
    if (limits->copies <= GW_PAGE_MEMORY_MAX_COPIES) {
        memory->copies = g_try_malloc_n(limits->copies, GW_PAGE_BYTES);
        memory->slots = g_try_new(Slot, limits->copies);
    }
    if (!memory->copies || !memory->slots) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "no memory for copies of %u hot pages: lower the budget for copies",
                    limits->copies);
        return NULL;
    }
    return g_steal_pointer(&memory);
}

void
gw_page_memory_free(GwPageMemory *memory)
{
    if (!memory) {
        return;
    }
    for (unsigned i = 0; i < GW_RAM_MAX_BLOCKS; i++) {
        for (uint64_t k = 0; k < memory->blocks[i].n_chunks; k++) {
            g_free(memory->blocks[i].chunks[k]);
        }
        g_free(memory->blocks[i].chunks);
    }
    g_free(memory->copies);
    g_free(memory->slots);
    g_free(memory);
}

/* --- the table -------------------------------------------------------------------------------- */

static Entry *
find_entry(const GwPageMemory *memory, uint16_t block, uint64_t page)
{
    if (memory->lost || block >= GW_RAM_MAX_BLOCKS ||
        page / CHUNK_PAGES >= memory->blocks[block].n_chunks) {
        return NULL;
    }
    Entry *chunk = memory->blocks[block].chunks[page / CHUNK_PAGES];

    return chunk ? &chunk[page % CHUNK_PAGES] : NULL;
}

static bool
has_room(const GwPageMemory *memory, uint64_t bytes)
{
    return bytes <= memory->limits.table_bytes - memory->table_bytes;
}

/* False: there is no room, or no memory. */
static bool
grow_block(GwPageMemory *memory, Block *block, uint64_t n_needed)
{
    uint64_t n_chunks = MAX(block->n_chunks, MIN_CHUNKS);

    if (n_needed > memory->limits.table_bytes / sizeof(Entry *)) {
        return false;
    }
    while (n_chunks < n_needed) {
        n_chunks *= 2;
    }
    uint64_t more = n_chunks - block->n_chunks;

    if (!has_room(memory, more * sizeof(Entry *))) {
        return false;
    }
    Entry **chunks = g_try_renew(Entry *, block->chunks, n_chunks);

    if (!chunks) {
        memory->lost = true;
        return false;
    }
    memset(chunks + block->n_chunks, 0, more * sizeof(Entry *));
    block->chunks = chunks;
    block->n_chunks = n_chunks;
    memory->table_bytes += more * sizeof(Entry *);
    return true;
}

/* NULL: there is no room, or no memory. */
static Entry *
make_entry(GwPageMemory *memory, uint16_t index, uint64_t page)
{
    uint64_t at = page / CHUNK_PAGES;

    if (memory->lost || index >= GW_RAM_MAX_BLOCKS) {
        return NULL;
    }
    Block *block = &memory->blocks[index];

    if (at >= block->n_chunks && !grow_block(memory, block, at + 1)) {
        return NULL;
    }
    if (!block->chunks[at]) {
        if (!has_room(memory, CHUNK_PAGES * sizeof(Entry))) {
            return NULL;
        }
        block->chunks[at] = g_try_new0(Entry, CHUNK_PAGES);
        if (!block->chunks[at]) {
            memory->lost = true;
            return NULL;
        }
        memory->table_bytes += CHUNK_PAGES * sizeof(Entry);
    }
    return &block->chunks[at][page % CHUNK_PAGES];
}

/* --- copies ----------------------------------------------------------------------------------- */

static uint8_t *
copy_at(const GwPageMemory *memory, uint32_t slot)
{
    return memory->copies + (size_t)slot * GW_PAGE_BYTES;
}

static uint32_t
slot_of(const Entry *entry)
{
    return entry->state >= FIRST_COPY ? entry->state - FIRST_COPY : NO_SLOT;
}

static void
drop_copy(GwPageMemory *memory, uint32_t slot)
{
    memory->slots[slot].owner = NULL;
    memory->slots[slot].next_free = memory->first_free;
    memory->first_free = slot;
    memory->n_copies--;
}

static uint32_t
take_free_slot(GwPageMemory *memory)
{
    uint32_t slot = memory->first_free;

    if (slot != NO_SLOT) {
        memory->first_free = memory->slots[slot].next_free;
    } else if (memory->n_touched < memory->limits.copies) {
        slot = memory->n_touched++;
    }
    return slot;
}

/* There are copies and none is free. */
static uint32_t
look_for_slot(GwPageMemory *memory)
{
    if (++memory->n_newcomers % LOOK_EVERY != 0) {
        return NO_SLOT;
    }
    uint32_t at = memory->hand;
    Slot *slot = &memory->slots[at];

    memory->hand = at + 1 < memory->limits.copies ? at + 1 : 0;
    if (slot->used) {
        slot->used = false;
        return NO_SLOT;
    }
    slot->owner->state = NO_COPY;
    memory->n_copies--;
    return at;
}

/* NO_SLOT: it gets none. */
static uint32_t
take_slot(GwPageMemory *memory, Entry *owner)
{
    if (memory->limits.copies == 0) {
        return NO_SLOT;
    }
    uint32_t slot = take_free_slot(memory);

    if (slot == NO_SLOT) {
        slot = look_for_slot(memory);
    }
    if (slot != NO_SLOT) {
        memory->slots[slot] = (Slot){.owner = owner};
        memory->n_copies++;
    }
    return slot;
}

/* --- finding and reporting -------------------------------------------------------------------- */

void
gw_page_memory_find(const GwPageMemory *memory, uint16_t block, uint64_t page, GwPageSeen *out)
{
    const Entry *entry = find_entry(memory, block, page);

    *out = (GwPageSeen){.first = !entry || entry->state == UNSEEN};
    if (entry && entry->state >= NO_COPY) {
        uint32_t slot = slot_of(entry);

        out->tag = &entry->tag;
        out->copy = slot != NO_SLOT ? copy_at(memory, slot) : NULL;
    }
}

void
gw_page_memory_put(GwPageMemory *memory, uint16_t block, uint64_t page, const uint8_t *content,
                   const GwPageTag *tag, bool keep)
{
    Entry *entry = make_entry(memory, block, page);

    if (!entry) {
        memory->refused++;
        return;
    }
    uint32_t slot = slot_of(entry);

    if (slot != NO_SLOT && !content) {
        drop_copy(memory, slot);
        slot = NO_SLOT;
    } else if (slot != NO_SLOT) {
        memory->slots[slot].used = true;
    } else if (content && keep && entry->state != UNSEEN) {
        slot = take_slot(memory, entry);
    }
    if (slot != NO_SLOT) {
        memcpy(copy_at(memory, slot), content, GW_PAGE_BYTES);
    }
    entry->tag = *tag;
    entry->state = slot != NO_SLOT ? FIRST_COPY + slot : NO_COPY;
}

void
gw_page_memory_put_zero(GwPageMemory *memory, uint16_t block, uint64_t page)
{
    Entry *entry = find_entry(memory, block, page);

    if (!entry || entry->state == UNSEEN) {
        return;
    }
    if (slot_of(entry) != NO_SLOT) {
        drop_copy(memory, slot_of(entry));
    }
    entry->state = NO_CONTENT;
}

bool
gw_page_memory_is_lost(const GwPageMemory *memory)
{
    return memory->lost;
}

void
gw_page_memory_figures(const GwPageMemory *memory, GwPageMemoryFigures *out)
{
    *out = (GwPageMemoryFigures){
        .table_bytes = memory->table_bytes,
        .copies = memory->n_copies,
        .refused = memory->refused,
    };
}
