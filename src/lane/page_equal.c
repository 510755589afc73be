// SPDX-License-Identifier: Apache-2.0
/*
 * The index: buckets of one cache line each, chosen by the tag, of entries that hold a part of the
 * tag and a page's place. Tags are random to those who do not know the key, so nobody can fill a
 * bucket on purpose; where one is full, an entry that does not hold any more makes room, or the
 * next in turn.
 *
 * Owns the table. The owner's thread. Cannot fail but by not being made.
 */
#include "lane/page_equal.h"

#include "lane/batch.h"

#include <string.h>

#define BUCKET_ENTRIES 8u
#define BYTES_PER_PAGE 10u

#define PLACE_BITS 44u
#define PLACE_MASK ((UINT64_C(1) << PLACE_BITS) - 1)

/* A part of the tag, never 0, in the upper bits and a place in the others; 0: none. */
typedef uint64_t Entry;

G_STATIC_ASSERT(GW_RAM_MAX_BLOCKS *GW_BATCH_PLACE_PAGES - 1 <= PLACE_MASK);

struct GwPageEqual {
    uint32_t n_buckets;
    unsigned n_displaced;
    Entry *entries;
};

GwPageEqual *
gw_page_equal_new(uint64_t n_pages)
{
    const uint64_t bucket_bytes = BUCKET_ENTRIES * sizeof(Entry);
    uint64_t bytes = MIN(n_pages, GW_PAGE_EQUAL_MAX_BYTES / BYTES_PER_PAGE) * BYTES_PER_PAGE;
    uint64_t n_buckets = MAX(bytes / bucket_bytes, 1);
    Entry *entries = g_try_malloc0_n(n_buckets, bucket_bytes);

    if (!entries) {
        return NULL;
    }
    GwPageEqual *equals = g_new0(GwPageEqual, 1);

    equals->n_buckets = (uint32_t)n_buckets;
    equals->entries = entries;
    return equals;
}

void
gw_page_equal_free(GwPageEqual *equals)
{
    if (equals) {
        g_free(equals->entries);
        g_free(equals);
    }
}

/* The bucket of a tag, and the entry for a page at @place that has it. */
static Entry *
locate(const GwPageEqual *equals, const GwPageTag *tag, uint64_t place, Entry *entry)
{
    uint32_t chooser, mark;

    memcpy(&chooser, tag->bytes, sizeof(chooser));
    memcpy(&mark, tag->bytes + sizeof(chooser), sizeof(mark));
    *entry = (uint64_t)MAX(mark >> (PLACE_BITS - 32), 1u) << PLACE_BITS | place;
    return equals->entries + (size_t)((uint64_t)chooser * equals->n_buckets >> 32) * BUCKET_ENTRIES;
}

/* What @entry's page had when it was sent last; NULL: nothing that can be referred to. */
static const GwPageTag *
tag_now(const GwPageMemory *memory, Entry entry)
{
    uint64_t place = entry & PLACE_MASK;
    GwPageSeen seen;

    gw_page_memory_find(memory, (uint16_t)(place / GW_BATCH_PLACE_PAGES),
                        place % GW_BATCH_PLACE_PAGES, &seen);
    return seen.tag;
}

/* The place in a full bucket for another entry. */
static Entry *
make_room(GwPageEqual *equals, const GwPageMemory *memory, Entry *bucket)
{
    unsigned first = equals->n_displaced++;

    for (unsigned i = 0; i < BUCKET_ENTRIES; i++) {
        Entry *at = &bucket[(first + i) % BUCKET_ENTRIES];
        const GwPageTag *tag = tag_now(memory, *at);
        Entry as_now;

        if (!tag || locate(equals, tag, *at & PLACE_MASK, &as_now) != bucket || as_now != *at) {
            return at;
        }
    }
    return &bucket[first % BUCKET_ENTRIES];
}

bool
gw_page_equal_find(GwPageEqual *equals, const GwPageMemory *memory, const GwPageEqualPage *page,
                   uint64_t *place)
{
    /* The last place is left out: so runs of places never reach into another block. */
    bool has_place = page->number < GW_BATCH_PLACE_PAGES - 1;
    uint64_t own = has_place ? gw_batch_place(page->block, page->number) : 0;
    Entry *room = NULL;
    Entry wanted;
    Entry *bucket = locate(equals, page->tag, own, &wanted);

    for (unsigned i = 0; i < BUCKET_ENTRIES; i++) {
        Entry *at = &bucket[i];

        if (*at == 0) {
            room = room ? room : at;
            break;
        }
        if (*at >> PLACE_BITS != wanted >> PLACE_BITS) {
            continue;
        }
        if (has_place && *at == wanted) {
            return false; /* as it was when it was sent before: it holds again */
        }
        const GwPageTag *tag = tag_now(memory, *at);

        if (tag && gw_page_tag_equal(tag, page->tag)) {
            *place = *at & PLACE_MASK;
            return true;
        }
        room = at;
    }
    if (has_place && page->may_be_found) {
        *(room ? room : make_room(equals, memory, bucket)) = wanted;
    }
    return false;
}

uint64_t
gw_page_equal_memory_bytes(const GwPageEqual *equals)
{
    return (uint64_t)equals->n_buckets * BUCKET_ENTRIES * sizeof(Entry);
}
