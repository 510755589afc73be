// SPDX-License-Identifier: Apache-2.0
/*
 * The source's side of the page model: what has to travel of each piece of the stream.
 *
 * It sees everything in the order of the stream, keeps tags, memory and digest (page_memory.h,
 * digest.h) and puts each page into a batch: as zero, as the same as before, as equal to another
 * one that was sent, or with its content and, if the target has one, the copy that changes can be
 * told against. Whether a content becomes a delta or a reference is for whoever encodes the batch;
 * what is remembered does not depend on it. One thread.
 */
#pragma once

#include "lane/batch.h"
#include "lane/frame.h"

typedef struct GwPageSource GwPageSource;

/* @encodings_off: of GwEncoding. */
GwPageSource *gw_page_source_new(unsigned encodings_off);
void gw_page_source_free(GwPageSource *pages);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwPageSource, gw_page_source_free)

/*
 * Before the first page: draws the key and makes the memory, sized for a guest of @guest_bytes.
 * What is to be told to the target is in @out. GW_ERROR_FAILED, GW_ERROR_UNSUPPORTED.
 */
bool gw_page_source_begin(GwPageSource *pages, uint64_t guest_bytes, GwStreamBegin *out,
                          GError **error) GW_MUST_USE;

/* Before the block's first page: the target can read back what it got of it. */
void gw_page_source_set_readable(GwPageSource *pages, uint16_t block);

/* Bytes that are no page, for the digest only. */
void gw_page_source_bytes(GwPageSource *pages, const uint8_t *data, size_t len);

/*
 * A page; @batch has room. @record_bytes: what its record in QEMU's stream takes. @omittable: the
 * target has what was sent last, at this address and others (gw_ram_parser_hides_changes()).
 */
void gw_page_source_page(GwPageSource *pages, const GwRamItem *page, size_t record_bytes,
                         bool omittable, GwBatch *batch);

void gw_page_source_mark(const GwPageSource *pages, GwStreamMark *out);
uint64_t gw_page_source_stream_bytes(const GwPageSource *pages);
/* Memory for tags, copies and the index of contents. */
uint64_t gw_page_source_memory_bytes(const GwPageSource *pages);

/* Since they were asked for last. */
typedef struct GwPageSourceCounts {
    uint64_t pages; /* with content; of these: */
    uint64_t same_pages;
    uint64_t equal_pages;
    uint64_t zero_pages;
} GwPageSourceCounts;

GwPageSourceCounts gw_page_source_take_counts(GwPageSource *pages);
