// SPDX-License-Identifier: Apache-2.0
/*
 * An index over one disk image file: at which block is a page's content on the disk?
 *
 * A thread of its own reads the blocks that the file itself has (its backing files are images of
 * their own, with an index of their own) and fills the table. Look-ups are good at any time: they
 * find what is in the table so far. Nothing here waits for the thread.
 *
 * It steps back (nice 10, idle I/O) but for two things: to load what was kept, which is short, and
 * to make from nothing what a move is waiting for. There every block that is read in time, in less
 * than 1 us, can save a page that takes ten times as long to compress.
 *
 * With a cache folder, an index that was kept is there at once. If the image was written since, it
 * is used nevertheless while the image is read again: a wrong answer costs bytes, never
 * correctness. What the index finished is kept again.
 *
 * Pages that repeat after eight bytes (zero, all ones …) are left out: they cost less as they are.
 *
 * Memory: 10 bytes and a bit per block that the file has, 2.6 MiB per GiB, at most max_table_bytes;
 * beyond it blocks are left out. While building also 1 MiB, and 1 MiB per qcow2 file of the chain.
 */
#pragma once

#include "lane/image.h"

#include <string.h>

#define GW_IMAGE_INDEX_DEFAULT_BYTES       (UINT64_C(256) << 20)
#define GW_IMAGE_INDEX_DEFAULT_CACHE_BYTES (UINT64_C(2) << 30)

typedef struct GwImageIndex GwImageIndex;

typedef struct GwImageIndexOptions {
    const char *path;
    const char *format;
    uint64_t seed;            /* of the hashes: gw_image_cache_seed() */
    uint64_t max_table_bytes; /* 0: the default */
    const char *cache_folder; /* NULL: keep nothing */
    uint64_t max_cache_bytes; /* of all indexes in the folder; 0: the default */
    bool is_awaited;          /* a move of this guest is under way */
} GwImageIndexOptions;

typedef enum GwImageIndexState {
    GW_IMAGE_INDEX_BUILDING,
    GW_IMAGE_INDEX_COMPLETE,
    GW_IMAGE_INDEX_CANCELLED,
    GW_IMAGE_INDEX_FAILED, /* the image cannot be opened, or memory is short */
} GwImageIndexState;

typedef struct GwImageIndexFigures {
    GwImageIndexState state;
    bool was_kept;         /* an index that was kept is or was in use */
    uint64_t total_blocks; /* to read, 0: not known yet or nothing */
    uint64_t read_blocks;  /* so far */
    uint64_t n_entries;
    uint64_t memory_bytes;
    uint64_t elapsed_us; /* of building */
} GwImageIndexFigures;

/* Fails only when no thread can be made. Errors with the image are in the figures and the log. */
GwImageIndex *gw_image_index_start(const GwImageIndexOptions *options, GError **error) GW_MUST_USE;

/*
 * Stops building and gives the index up. Does not wait: the thread ends, and memory is freed, as
 * soon as the read that it is in returns. No look-up may go on or follow.
 */
void gw_image_index_free(GwImageIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwImageIndex, gw_image_index_free)

/* Waits for the thread to end; for those who have nothing else to do. */
void gw_image_index_wait(GwImageIndex *index);

/* Any thread. */
void gw_image_index_figures(GwImageIndex *index, GwImageIndexFigures *out);

/* --- look-ups, any thread --------------------------------------------------------------------- */

/* The page is one pattern of eight bytes all over: zero, all ones … */
static inline bool
gw_page_repeats(const uint8_t *page)
{
    return memcmp(page, page + 8, GW_PAGE_BYTES - 8) == 0;
}

/* What counts of every hash: all. Tests leave fewer bits, to make look-ups go wrong. */
extern uint64_t gw_image_index_hash_mask;

/* The hash of a page's content (GW_PAGE_BYTES) with this seed. */
uint64_t gw_image_index_hash(const uint8_t *page, uint64_t seed);

/* Begins to fetch what find() will look at; of use before a row of look-ups. */
void gw_image_index_prefetch(const GwImageIndex *index, uint64_t hash);

/* A block that probably has, or had, this content. */
bool gw_image_index_find(const GwImageIndex *index, uint64_t hash, uint64_t *block);
