// SPDX-License-Identifier: Apache-2.0
/*
 * Collecting pieces of the stream into a batch.
 *
 * Owns a frame buffer, in which contents lie from the start so that a body that does not shrink
 * goes out without another copy, and the bases of deltas. One thread at a time. Limits: those of
 * batch.h. Cannot fail but by running out of memory.
 */
#include "lane/batch.h"

#include <string.h>

static GwFrame *
new_batch_frame(GwFramePool *pool)
{
    GwFrame *frame = gw_frame_new(pool, GW_FRAME_RAM, GW_BATCH_MAX_BYTES);

    if (!frame) {
        g_error("out of memory for a batch");
    }
    return frame;
}

GwBatch *
gw_batch_new(GwFramePool *pool)
{
    GwBatch *batch = g_new0(GwBatch, 1);

    batch->pool = pool;
    batch->frame = new_batch_frame(pool);
    return batch;
}

void
gw_batch_free(GwBatch *batch)
{
    if (batch) {
        gw_frame_free(batch->frame);
        g_free(batch->bases);
        g_free(batch);
    }
}

GwFrame *
gw_batch_take_frame(GwBatch *batch)
{
    GwFrame *frame = batch->frame;

    batch->frame = new_batch_frame(batch->pool);
    batch->content_bytes = 0;
    batch->n_pages = 0;
    batch->n_runs = 0;
    batch->n_contents = 0;
    return frame;
}

bool
gw_batch_is_empty(const GwBatch *batch)
{
    return batch->n_runs == 0;
}

bool
gw_batch_has_room(const GwBatch *batch)
{
    return batch->n_runs < GW_BATCH_MAX_RUNS && batch->n_pages < GW_BATCH_MAX_PAGES &&
           batch->content_bytes + GW_PAGE_BYTES <= GW_BATCH_MAX_BODY_BYTES;
}

static uint8_t *
content_end(const GwBatch *batch)
{
    return gw_frame_payload(batch->frame) + GW_BATCH_HEADER_BYTES + batch->content_bytes;
}

static void
add_content(GwBatch *batch, const GwBatchPage *page)
{
    unsigned number = batch->n_contents++;

    memcpy(content_end(batch), page->content, GW_PAGE_BYTES);
    batch->content_bytes += GW_PAGE_BYTES;
    batch->is_first[number] = page->is_first && page->tag;
    if (page->tag) {
        batch->tags[number] = *page->tag;
    }
    batch->has_base[number] = page->base != NULL;
    if (!page->base) {
        return;
    }
    if (!batch->bases) {
        batch->bases = g_malloc(GW_BATCH_MAX_BODY_BYTES);
    }
    memcpy(batch->bases + (size_t)number * GW_PAGE_BYTES, page->base, GW_PAGE_BYTES);
}

void
gw_batch_add_page(GwBatch *batch, const GwBatchPage *page)
{
    GwBatchRun *last = batch->n_runs > 0 ? &batch->runs[batch->n_runs - 1] : NULL;
    uint64_t number = page->address / GW_PAGE_BYTES;

    if (last && last->kind == page->kind && !page->names_block && last->block == page->block &&
        last->first_page + last->count == number &&
        (page->kind != GW_BATCH_EQUAL || last->equal_place + last->count == page->equal_place)) {
        last->count++;
    } else {
        batch->runs[batch->n_runs++] = (GwBatchRun){
            .kind = page->kind,
            .names_block = page->names_block,
            .block = page->block,
            .count = 1,
            .first_page = number,
            .equal_place = page->equal_place,
        };
    }
    batch->n_pages++;
    if (page->kind == GW_BATCH_CONTENT) {
        add_content(batch, page);
    }
}

size_t
gw_batch_add_bytes(GwBatch *batch, const uint8_t *data, size_t len)
{
    GwBatchRun *last = batch->n_runs > 0 ? &batch->runs[batch->n_runs - 1] : NULL;

    len = MIN(len, GW_BATCH_MAX_BODY_BYTES - batch->content_bytes);
    if (len == 0 || batch->n_runs == GW_BATCH_MAX_RUNS) {
        return 0;
    }
    memcpy(content_end(batch), data, len);
    batch->content_bytes += (uint32_t)len;
    if (last && last->kind == GW_BATCH_OPAQUE) {
        last->count += (uint32_t)len;
    } else {
        batch->runs[batch->n_runs++] =
            (GwBatchRun){.kind = GW_BATCH_OPAQUE, .count = (uint32_t)len};
    }
    return len;
}
