// SPDX-License-Identifier: Apache-2.0
/*
 * What has to travel of each page, decided in the order of the stream.
 *
 * Owns tagger, page memory, index of contents and digest. The stream thread. Memory: 5.03 MiB of
 * tags per GiB of the guest that was sent, copies of a 16th of the guest, at most MAX_COPY_BYTES,
 * and the index (page_equal.h); none of that with the encodings that use it switched off. Where
 * there is no memory for copies or index it goes on without them. Fails only at the beginning,
 * without random numbers or the cipher of the tags.
 */
#include "lane/page_source.h"

#include "lane/digest.h"
#include "lane/encodings.h"
#include "lane/page_equal.h"

#define MAX_COPY_BYTES (64u * 1024u * 1024u)
#define COPY_PART      16u
/* A table entry is 20 bytes; pointers, and blocks that end within a chunk, make the rest. */
#define TABLE_BYTES_PER_PAGE 22u
#define MIN_TABLE_BYTES      (4u * 1024u * 1024u)

struct GwPageSource {
    unsigned encodings_off;
    GwDigest *digest;
    GwPageTagger *tagger;
    GwPageMemory *memory;
    GwPageEqual *equals; /* NULL: pages are not compared with others */
    bool readable[GW_RAM_MAX_BLOCKS];
    GwPageSourceCounts counts;
};

GwPageSource *
gw_page_source_new(unsigned encodings_off)
{
    GwPageSource *pages = g_new0(GwPageSource, 1);

    pages->encodings_off = encodings_off;
    pages->digest = gw_digest_new();
    return pages;
}

void
gw_page_source_free(GwPageSource *pages)
{
    if (pages) {
        gw_digest_free(pages->digest);
        gw_page_tagger_free(pages->tagger);
        gw_page_memory_free(pages->memory);
        gw_page_equal_free(pages->equals);
        g_free(pages);
    }
}

static GwPageMemoryLimits
choose_limits(const GwPageSource *pages, uint64_t guest_bytes)
{
    const unsigned users = GW_ENCODING_SAME | GW_ENCODING_EQUAL | GW_ENCODING_DELTA;
    GwPageMemoryLimits limits = {0};

    if ((pages->encodings_off & users) != users) {
        limits.table_bytes = MIN_TABLE_BYTES + guest_bytes / GW_PAGE_BYTES * TABLE_BYTES_PER_PAGE;
    }
    if (!(pages->encodings_off & GW_ENCODING_DELTA)) {
        limits.copies = (uint32_t)(MIN(guest_bytes / COPY_PART, MAX_COPY_BYTES) / GW_PAGE_BYTES);
    }
    return limits;
}

bool
gw_page_source_begin(GwPageSource *pages, uint64_t guest_bytes, GwStreamBegin *out, GError **error)
{
    GwStreamBegin begin = {.limits = choose_limits(pages, guest_bytes)};

    if (!gw_page_tag_key(begin.key, error)) {
        return false;
    }
    pages->tagger = gw_page_tagger_new(begin.key, error);
    if (!pages->tagger) {
        return false;
    }
    pages->memory = gw_page_memory_new(&begin.limits, NULL);
    if (!pages->memory) {
        begin.limits.copies = 0;
        pages->memory = gw_page_memory_new(&begin.limits, error);
    }
    if (!(pages->encodings_off & GW_ENCODING_EQUAL)) {
        pages->equals = gw_page_equal_new(guest_bytes / GW_PAGE_BYTES);
    }
    *out = begin;
    return pages->memory != NULL;
}

void
gw_page_source_set_readable(GwPageSource *pages, uint16_t block)
{
    pages->readable[block] = true;
}

void
gw_page_source_bytes(GwPageSource *pages, const uint8_t *data, size_t len)
{
    gw_digest_add(pages->digest, data, len);
}

static void
take_zero(GwPageSource *pages, const GwRamItem *page, GwBatchPage *out)
{
    out->kind = GW_BATCH_ZERO;
    gw_page_memory_put_zero(pages->memory, page->block, page->address / GW_PAGE_BYTES);
    pages->counts.zero_pages++;
}

/* The target's QEMU learns a block's name from the record that has it: that one is never left out.
 */
static bool
is_same(const GwPageSource *pages, const GwRamItem *page, const GwPageSeen *seen,
        const GwPageTag *tag)
{
    return seen->tag && !page->names_block && !(pages->encodings_off & GW_ENCODING_SAME) &&
           gw_page_tag_equal(seen->tag, tag);
}

/* Another page has this content at the target; if not, others may be equal to this one. */
static bool
is_equal(GwPageSource *pages, const GwRamItem *page, const GwPageTag *tag, uint64_t *place)
{
    const GwPageEqualPage what = {
        .block = page->block,
        .number = page->address / GW_PAGE_BYTES,
        .tag = tag,
        .may_be_found = pages->readable[page->block],
    };

    return pages->equals && gw_page_equal_find(pages->equals, pages->memory, &what, place);
}

/* How a page with content goes, as far as that is decided here. */
static void
choose_kind(GwPageSource *pages, const GwRamItem *page, const GwPageSeen *seen,
            const GwPageTag *tag, GwBatchPage *out)
{
    if (is_same(pages, page, seen, tag)) {
        out->kind = GW_BATCH_SAME;
        pages->counts.same_pages++;
    } else if (is_equal(pages, page, tag, &out->equal_place)) {
        out->kind = GW_BATCH_EQUAL;
        pages->counts.equal_pages++;
    }
}

void
gw_page_source_page(GwPageSource *pages, const GwRamItem *page, size_t record_bytes, bool omittable,
                    GwBatch *batch)
{
    uint64_t number = page->address / GW_PAGE_BYTES;
    GwBatchPage out = {
        .kind = GW_BATCH_CONTENT,
        .names_block = page->names_block,
        .block = page->block,
        .address = page->address,
        .content = page->data,
    };
    GwPageTag tag;
    GwPageSeen seen;

    if (page->kind == GW_RAM_ITEM_ZERO) {
        take_zero(pages, page, &out);
        gw_batch_add_page(batch, &out);
        gw_digest_add_page(pages->digest, page, NULL, record_bytes);
        return;
    }
    gw_page_tag(pages->tagger, page->data, &tag);
    gw_page_memory_find(pages->memory, page->block, number, &seen);
    pages->counts.pages++;
    if (omittable) {
        choose_kind(pages, page, &seen, &tag, &out);
    }
    out.is_first = seen.first;
    out.tag = &tag;
    out.base = seen.copy;
    gw_batch_add_page(batch, &out);
    if (out.kind != GW_BATCH_SAME) {
        gw_page_memory_put(pages->memory, page->block, number, seen.first ? NULL : page->data, &tag,
                           true);
    }
    gw_digest_add_page(pages->digest, page, &tag, record_bytes);
}

void
gw_page_source_mark(const GwPageSource *pages, GwStreamMark *out)
{
    gw_digest_mark(pages->digest, out);
}

uint64_t
gw_page_source_stream_bytes(const GwPageSource *pages)
{
    return gw_digest_bytes(pages->digest);
}

uint64_t
gw_page_source_memory_bytes(const GwPageSource *pages)
{
    GwPageMemoryFigures figures;

    if (!pages->memory) {
        return 0;
    }
    gw_page_memory_figures(pages->memory, &figures);
    return figures.table_bytes + (uint64_t)figures.copies * GW_PAGE_BYTES +
           (pages->equals ? gw_page_equal_memory_bytes(pages->equals) : 0);
}

GwPageSourceCounts
gw_page_source_take_counts(GwPageSource *pages)
{
    GwPageSourceCounts counts = pages->counts;

    pages->counts = (GwPageSourceCounts){0};
    return counts;
}
