// SPDX-License-Identifier: Apache-2.0
/*
 * What both ends of a stream remember of the guest's pages: of every page the tag of the content
 * that was sent last, and of pages that were sent more than once that content itself, in bounded
 * room.
 *
 * Source and target have one each and report every page of the stream to it, in the order of the
 * stream. What it remembers, and which copy makes room for another, follows from these reports
 * alone: with the same limits both ends remember the same, without a word on the wire. So the
 * source may refer to what it finds in its own memory: "the same as before" (the tags are equal),
 * "the same as that page" (page_equal.h) or "changed from the copy that you have" (page_delta.h).
 * Finding has no effect; a page that is the same as before needs no report.
 *
 * Copies: a page gets one when it is sent for the second time, if there is room. Pre-copy sends the
 * pages of a working set round after round, in the order of their addresses; with a set larger than
 * the room, the policies that make way for every newcomer (LRU, FIFO, CLOCK) would have lost each
 * copy before its page comes again. So only every eighth newcomer gets a chance: it looks at the
 * next copy in turn and takes its place if that was not sent again since it was last looked at.
 *
 * Memory: the limits, beside 64 KiB. One thread.
 */
#pragma once

#include "lane/page_tag.h"
#include "ramstream/ramstream.h"

/* Copies that a memory may have: 64 GiB. */
#define GW_PAGE_MEMORY_MAX_COPIES (1u << 24)

typedef struct GwPageMemoryLimits {
    /* For tags: 20 bytes per page, 5.03 MiB per GiB of a guest that uses all of it. A page for
     * which there is no room is not remembered. */
    uint64_t table_bytes;
    uint32_t copies; /* 4,112 bytes each; 0: none are kept */
} GwPageMemoryLimits;

/* What is remembered of a page. Valid until the next report. */
typedef struct GwPageSeen {
    const GwPageTag *tag; /* of the content sent last; NULL: none was, or the page was zero */
    const uint8_t *copy;  /* that content; NULL: not kept */
    bool first; /* it was never sent with content: of the next report only the tag counts */
} GwPageSeen;

typedef struct GwPageMemory GwPageMemory;

/* GW_ERROR_TOO_LARGE if there is no memory for the copies, or too many are asked for. */
GwPageMemory *gw_page_memory_new(const GwPageMemoryLimits *limits, GError **error) GW_MUST_USE;
void gw_page_memory_free(GwPageMemory *memory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwPageMemory, gw_page_memory_free)

/* @page: the address in the block / GW_PAGE_BYTES. Any value is safe. */
void gw_page_memory_find(const GwPageMemory *memory, uint16_t block, uint64_t page,
                         GwPageSeen *out);

/*
 * Report: @page was sent with content. @content: GW_PAGE_BYTES, not within the memory; NULL for
 * content that is not at hand at both ends (a reference): then no copy is kept. @keep: whether the
 * page may get a copy that it does not have yet; both ends must say the same.
 */
void gw_page_memory_put(GwPageMemory *memory, uint16_t block, uint64_t page, const uint8_t *content,
                        const GwPageTag *tag, bool keep);
/* Report: @page was sent as zero. */
void gw_page_memory_put_zero(GwPageMemory *memory, uint16_t block, uint64_t page);

/*
 * The machine had no memory for the table (not: the limit was reached). From then on nothing is
 * found: at the source all goes on without references, at the target the stream cannot.
 */
bool gw_page_memory_is_lost(const GwPageMemory *memory);

typedef struct GwPageMemoryFigures {
    uint64_t table_bytes; /* never more than the limit */
    uint32_t copies;      /* never more than the limit */
    uint64_t refused;     /* reports of pages that there was no room to remember */
} GwPageMemoryFigures;

void gw_page_memory_figures(const GwPageMemory *memory, GwPageMemoryFigures *out);
