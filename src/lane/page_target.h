// SPDX-License-Identifier: Apache-2.0
/*
 * The target's side of the page model: items of batches become QEMU's stream again.
 *
 * It takes everything in the order of the stream, finds the contents of pages that came without
 * them, keeps tags, memory and digest as the source does (page_source.h) and writes what QEMU has
 * to see: all but the pages that are the same as before. Everything that comes in is hostile.
 * One thread.
 */
#pragma once

#include "lane/batch.h"
#include "lane/frame.h"
#include "lane/placer.h"

typedef struct GwPageTarget GwPageTarget;

/* What a source may ask for; 0: a 64th of this host's memory for tags, 256 MiB for copies. */
typedef struct GwPageTargetCaps {
    uint64_t table_bytes;
    uint64_t copy_bytes;
} GwPageTargetCaps;

GwPageTarget *gw_page_target_new(const GwPageTargetCaps *caps);
void gw_page_target_free(GwPageTarget *pages);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwPageTarget, gw_page_target_free)

/* Once, before blocks and pages. GW_ERROR_PROTOCOL, GW_ERROR_TOO_LARGE, GW_ERROR_UNSUPPORTED. */
bool gw_page_target_begin(GwPageTarget *pages, const GwStreamBegin *begin,
                          GError **error) GW_MUST_USE;
/* The blocks, in their order. GW_ERROR_PROTOCOL. */
bool gw_page_target_add_block(GwPageTarget *pages, uint16_t index, const char *name,
                              size_t name_len, GError **error) GW_MUST_USE;

/*
 * Appends to @out what QEMU is to be given for @item. GW_ERROR_PROTOCOL for what cannot be, and
 * GW_ERROR_FAILED if this machine has no memory to remember pages, or what was placed has changed.
 */
bool gw_page_target_put(GwPageTarget *pages, const GwBatchItem *item, GByteArray *out,
                        GError **error) GW_MUST_USE;

/* All that was put, as the source's QEMU wrote it. */
void gw_page_target_mark(const GwPageTarget *pages, GwStreamMark *out);
uint64_t gw_page_target_stream_bytes(const GwPageTarget *pages);
/* Memory for tags and copies, and the placer's. */
uint64_t gw_page_target_memory_bytes(const GwPageTarget *pages);

/* Before the first block: where it is noted how pages come; borrowed (visit.h). */
void gw_page_target_note(GwPageTarget *pages, GwVisitTags *tags);
/* Before the first block: pages of blocks that it knows go there, and not to @out; borrowed. All of
 * them are written before anything behind them that is no page. NULL: none do. */
void gw_page_target_place(GwPageTarget *pages, GwPlacer *placer);

/* Since they were asked for last. */
typedef struct GwPageTargetCounts {
    uint64_t pages; /* with content; of these: */
    uint64_t same_pages;
    uint64_t equal_pages;
    uint64_t delta_pages;
    uint64_t reference_pages;
    uint64_t zero_pages;
    uint64_t placed_pages; /* of all that were not the same */
} GwPageTargetCounts;

GwPageTargetCounts gw_page_target_take_counts(GwPageTarget *pages);
