// SPDX-License-Identifier: Apache-2.0
/*
 * Items of batches back to QEMU's stream.
 *
 * Owns writer, tagger, page memory, delta decoder and digest. The inbox thread. Memory: what the
 * source asked for, checked against the caps; the copies' is reserved at once and taken as it is
 * used, the tags' with the pages that come. Fails with GW_ERROR_PROTOCOL on what cannot be.
 */
#include "lane/page_target.h"

#include "lane/digest.h"
#include "lane/page_delta.h"

#include <inttypes.h>
#include <unistd.h>

#define HOST_PART          64u
#define MIN_TABLE_CAP      (256u * 1024u * 1024u)
#define DEFAULT_COPY_BYTES (256u * 1024u * 1024u)
/* A page's record that does not name the block. */
#define RECORD_BYTES (8u + GW_PAGE_BYTES)

typedef struct GwPlacedBlock {
    int number; /* the placer's, or GW_PLACER_NO_BLOCK */
    size_t name_len;
} GwPlacedBlock;

struct GwPageTarget {
    GwPageTargetCaps caps;
    GwRamWriter *writer;
    unsigned n_blocks;
    GwDigest *digest;
    GwPageTagger *tagger; /* NULL before begin() */
    GwPageMemory *memory;
    GwDeltaDecoder *deltas;
    GwVisitTags *tags;     /* borrowed, NULL: not noted */
    GwPlacer *placer;      /* borrowed, NULL: all goes to QEMU */
    GwPlacedBlock *placed; /* by index */
    GwPageTargetCounts counts;
};

static uint64_t
host_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long page_bytes = sysconf(_SC_PAGESIZE);

    return pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : 0;
}

GwPageTarget *
gw_page_target_new(const GwPageTargetCaps *caps)
{
    GwPageTarget *pages = g_new0(GwPageTarget, 1);

    pages->caps = *caps;
    if (caps->table_bytes == 0) {
        pages->caps.table_bytes = MAX(host_bytes() / HOST_PART, MIN_TABLE_CAP);
    }
    if (caps->copy_bytes == 0) {
        pages->caps.copy_bytes = DEFAULT_COPY_BYTES;
    }
    pages->writer = gw_ram_writer_new();
    pages->digest = gw_digest_new();
    pages->deltas = gw_delta_decoder_new();
    return pages;
}

void
gw_page_target_free(GwPageTarget *pages)
{
    if (pages) {
        gw_ram_writer_free(pages->writer);
        gw_digest_free(pages->digest);
        gw_page_tagger_free(pages->tagger);
        gw_page_memory_free(pages->memory);
        gw_delta_decoder_free(pages->deltas);
        g_free(pages->placed);
        g_free(pages);
    }
}

static bool
damaged(GError **error, const char *what)
{
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the peer sent %s", what);
    return false;
}

bool
gw_page_target_begin(GwPageTarget *pages, const GwStreamBegin *begin, GError **error)
{
    const GwPageMemoryLimits *limits = &begin->limits;
    uint64_t copy_bytes = (uint64_t)limits->copies * GW_PAGE_BYTES;

    if (pages->tagger) {
        return damaged(error, "a second beginning of the stream");
    }
    if (limits->table_bytes > pages->caps.table_bytes || copy_bytes > pages->caps.copy_bytes) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "the source asks for %" G_GUINT64_FORMAT " MiB to remember pages by and "
                    "%" G_GUINT64_FORMAT " MiB for copies of pages; this host gives at most "
                    "%" G_GUINT64_FORMAT " and %" G_GUINT64_FORMAT " MiB",
                    limits->table_bytes >> 20, copy_bytes >> 20, pages->caps.table_bytes >> 20,
                    pages->caps.copy_bytes >> 20);
        return false;
    }
    g_autoptr(GwPageMemory) memory = gw_page_memory_new(limits, error);

    pages->tagger = memory ? gw_page_tagger_new(begin->key, error) : NULL;
    if (!pages->tagger) {
        return false;
    }
    pages->memory = g_steal_pointer(&memory);
    return true;
}

bool
gw_page_target_add_block(GwPageTarget *pages, uint16_t index, const char *name, size_t name_len,
                         GError **error)
{
    if (!pages->tagger) {
        return damaged(error, "the name of a RAM block before the beginning of the stream");
    }
    if (index != pages->n_blocks) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer named RAM block %u where %u was next", index, pages->n_blocks);
        return false;
    }
    if (!gw_ram_writer_add_block(pages->writer, name, name_len, error)) {
        return false;
    }
    if (pages->placer) {
        pages->placed = g_renew(GwPlacedBlock, pages->placed, pages->n_blocks + 1);
        pages->placed[pages->n_blocks] = (GwPlacedBlock){
            .number = gw_placer_find(pages->placer, name, name_len),
            .name_len = name_len,
        };
    }
    pages->n_blocks++;
    if (pages->tags) {
        gw_visit_tags_add_block(pages->tags, name, name_len);
    }
    return true;
}

/* The length of a page's record in QEMU's stream. */
static size_t
record_bytes(const GwRamItem *page, const GwPlacedBlock *block)
{
    size_t header = sizeof(uint64_t) + (page->names_block ? 1 + block->name_len : 0);

    return header + (page->kind == GW_RAM_ITEM_ZERO ? 1 : GW_PAGE_BYTES);
}

/* Gives the page to the placer or to QEMU. */
static bool
give_page(GwPageTarget *pages, const GwRamItem *page, GByteArray *out, size_t *len, GError **error)
{
    const GwPlacedBlock *block =
        pages->placed && page->block < pages->n_blocks ? &pages->placed[page->block] : NULL;
    guint before = out->len;

    if (block && block->number != GW_PLACER_NO_BLOCK) {
        *len = record_bytes(page, block);
        pages->counts.placed_pages++;
        return gw_placer_put(pages->placer, block->number, page->address,
                             page->kind == GW_RAM_ITEM_ZERO ? NULL : page->data, error);
    }
    bool written = gw_ram_writer_put(pages->writer, page, out, error);

    *len = out->len - before;
    return written;
}

/* Writes the page and adds it to the digest. */
static bool
put_page(GwPageTarget *pages, const GwRamItem *page, const GwPageTag *tag, GByteArray *out,
         GError **error)
{
    size_t len;

    if (!give_page(pages, page, out, &len, error)) {
        return false;
    }
    if (pages->tags) {
        gw_visit_tags_put(pages->tags, page->block, page->address / GW_PAGE_BYTES, page->data);
    }
    gw_digest_add_page(pages->digest, page, tag, len);
    return true;
}

/* A page with content, found or sent. @known: its tag, NULL: to be computed. */
static bool
put_content(GwPageTarget *pages, const GwRamItem *page, bool first, const GwPageTag *known,
            GByteArray *out, GError **error)
{
    uint64_t number = page->address / GW_PAGE_BYTES;
    GwPageTag tag;

    if (known) {
        tag = *known;
    } else {
        gw_page_tag(pages->tagger, page->data, &tag);
    }
    /* The first time nothing is kept but the tag, at either end. */
    gw_page_memory_put(pages->memory, page->block, number, first ? NULL : page->data, &tag, true);
    if (gw_page_memory_is_lost(pages->memory)) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED,
                    "this host has no memory left to remember the guest's pages by: free some, or "
                    "move the VM with the encodings 'same' and 'delta' switched off");
        return false;
    }
    return put_page(pages, page, &tag, out, error);
}

static bool
put_same(GwPageTarget *pages, const GwRamItem *page, const GwPageSeen *seen, GError **error)
{
    if (!seen->tag || page->names_block) {
        return damaged(error, "a page as the same as before that is not known here");
    }
    gw_digest_add_page(pages->digest, page, seen->tag, RECORD_BYTES);
    pages->counts.same_pages++;
    return true;
}

/* The content that was sent last of the page that the item names, and its tag. */
static bool
find_equal(GwPageTarget *pages, const GwBatchItem *item, uint8_t content[GW_PAGE_BYTES],
           GwPageTag *tag, GError **error)
{
    bool is_known = pages->placed && item->equal_block < pages->n_blocks;
    int block = is_known ? pages->placed[item->equal_block].number : GW_PLACER_NO_BLOCK;
    GwPageSeen seen;

    gw_page_memory_find(pages->memory, item->equal_block, item->equal_address / GW_PAGE_BYTES,
                        &seen);
    if (block == GW_PLACER_NO_BLOCK || !seen.tag) {
        return damaged(error, "a page as equal to one that is not known here");
    }
    if (!gw_placer_get(pages->placer, block, item->equal_address, content, error)) {
        return false;
    }
    gw_page_tag(pages->tagger, content, tag);
    if (!gw_page_tag_equal(tag, seen.tag)) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED,
                    "page 0x%" PRIx64
                    " of RAM block \"%s\" is not what was written there any more: "
                    "something else writes to the memory of the target's QEMU; the guest must not "
                    "run from it",
                    item->equal_address, gw_placer_block_name(pages->placer, (unsigned)block));
        return false;
    }
    return true;
}

static bool
put_equal(GwPageTarget *pages, const GwBatchItem *item, GwRamItem *page, const GwPageSeen *seen,
          GByteArray *out, GError **error)
{
    uint8_t content[GW_PAGE_BYTES];
    GwPageTag tag;

    if (!find_equal(pages, item, content, &tag, error)) {
        return false;
    }
    page->data = content;
    pages->counts.equal_pages++;
    return put_content(pages, page, seen->first, &tag, out, error);
}

static bool
put_delta(GwPageTarget *pages, const GwBatchItem *item, GwRamItem *page, const GwPageSeen *seen,
          GByteArray *out, GError **error)
{
    uint8_t content[GW_PAGE_BYTES];

    if (!seen->copy) {
        return damaged(error, "changes of a page that there is no copy of here");
    }
    if (!gw_delta_decode(pages->deltas, item->body, seen->copy, content, error)) {
        return false;
    }
    page->data = content;
    pages->counts.delta_pages++;
    return put_content(pages, page, seen->first, NULL, out, error);
}

static bool
put_opaque(GwPageTarget *pages, const GwBatchItem *item, GByteArray *out, GError **error)
{
    GwRamItem bytes = {.kind = GW_RAM_ITEM_BYTES, .data = item->data, .len = item->len};

    /* Devices may look at the guest's memory as they are loaded. */
    if ((pages->placer && !gw_placer_drain(pages->placer, error)) ||
        !gw_ram_writer_put(pages->writer, &bytes, out, error)) {
        return false;
    }
    gw_digest_add(pages->digest, item->data, item->len);
    return true;
}

bool
gw_page_target_put(GwPageTarget *pages, const GwBatchItem *item, GByteArray *out, GError **error)
{
    uint64_t number = item->address / GW_PAGE_BYTES;
    GwRamItem page = {
        .kind = item->kind == GW_BATCH_ZERO ? GW_RAM_ITEM_ZERO : GW_RAM_ITEM_PAGE,
        .names_block = item->names_block,
        .block = item->block,
        .address = item->address,
        .data = item->data,
    };
    GwPageSeen seen;

    if (item->kind == GW_BATCH_OPAQUE) {
        return put_opaque(pages, item, out, error);
    }
    if (!pages->tagger) {
        return damaged(error, "a page before the beginning of the stream");
    }
    if (item->kind == GW_BATCH_REFERENCE && !item->data) {
        return damaged(error, "a reference that is not proven");
    }
    if (item->kind == GW_BATCH_ZERO) {
        gw_page_memory_put_zero(pages->memory, page.block, number);
        pages->counts.zero_pages++;
        return put_page(pages, &page, NULL, out, error);
    }
    gw_page_memory_find(pages->memory, page.block, number, &seen);
    pages->counts.pages++;
    switch ((unsigned)item->kind) {
    case GW_BATCH_SAME:
        return put_same(pages, &page, &seen, error);
    case GW_BATCH_EQUAL:
        return put_equal(pages, item, &page, &seen, out, error);
    case GW_BATCH_DELTA:
        return put_delta(pages, item, &page, &seen, out, error);
    case GW_BATCH_REFERENCE:
        pages->counts.reference_pages++;
        return put_content(pages, &page, seen.first, item->tag, out, error);
    default:
        return put_content(pages, &page, seen.first, NULL, out, error);
    }
}

void
gw_page_target_note(GwPageTarget *pages, GwVisitTags *tags)
{
    pages->tags = tags;
}

void
gw_page_target_place(GwPageTarget *pages, GwPlacer *placer)
{
    pages->placer = placer;
}

void
gw_page_target_mark(const GwPageTarget *pages, GwStreamMark *out)
{
    gw_digest_mark(pages->digest, out);
}

uint64_t
gw_page_target_stream_bytes(const GwPageTarget *pages)
{
    return gw_digest_bytes(pages->digest);
}

uint64_t
gw_page_target_memory_bytes(const GwPageTarget *pages)
{
    GwPageMemoryFigures figures;

    if (!pages->memory) {
        return 0;
    }
    gw_page_memory_figures(pages->memory, &figures);
    return figures.table_bytes + (uint64_t)figures.copies * GW_PAGE_BYTES +
           (pages->placer ? gw_placer_memory_bytes(pages->placer) : 0);
}

GwPageTargetCounts
gw_page_target_take_counts(GwPageTarget *pages)
{
    GwPageTargetCounts counts = pages->counts;

    pages->counts = (GwPageTargetCounts){0};
    return counts;
}
