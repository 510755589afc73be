// SPDX-License-Identifier: Apache-2.0
/*
 * RAM batches: a piece of QEMU's migration stream as the payload of one RAM frame.
 *
 * A batch describes the stream in its order. The map says what comes, the body holds what cannot be
 * derived, in the order of the map, encoded by a codec.
 *
 *     offset size
 *          0    1  codec of the body, GwCodecId
 *          1    1  0
 *          2    2  pages that are references
 *          4    4  body bytes, decoded; at most GW_BATCH_MAX_BODY_BYTES
 *          8    4  body bytes, encoded
 *         12    4  map bytes; at most GW_BATCH_MAX_MAP_BYTES
 *         16    …  encoded body
 *          …    …  map: entries until its end
 *          …    …  section of the references, if there are any: image_ref.h
 *
 * A map entry begins with a varint (LEB128), 8 × count + kind (GwBatchKind); count ≥ 1 but for
 * JUMP:
 *
 *     OPAQUE     count / 2 bytes of the stream that are no page, taken from the body. If count is
 *                odd the kind is EQUAL, of count / 2 pages
 *     JUMP       the next page is in RAM block count / 2; count & 1: its record names the block.
 *                varint  its number, the address / 4096
 *     SKIP       the next page is `count` pages further on, in the same block
 *     ZERO       `count` zero pages that follow each other; and so for the others:
 *     CONTENT    pages with their content in the body
 *     SAME       pages with the content that was sent last; none whose record names the block
 *     DELTA      pages with their changes (page_delta.h) in the body
 *     REFERENCE  pages that the target has from elsewhere
 *     EQUAL      pages with the content that was sent last of other pages in a row.
 *                varint  the place of the first of them less that behind the batch's last ones (at
 *                first 0), as zigzag (cursor.h). A place is 2^32 × block + page
 *
 * A batch begins at no page: a JUMP comes before the first. JUMP and SKIP stand before pages only.
 * A batch holds at most GW_BATCH_MAX_PAGES pages. The body is used up exactly. Batches are decoded
 * in the order of the stream: bodies may refer to those before (codec_zstd_stream.c), SAME, DELTA
 * and EQUAL refer to all of the stream before (page_memory.h), also to pages of the same batch and,
 * EQUAL, of the same entry.
 */
#pragma once

#include "base/cursor.h"
#include "lane/codec.h"
#include "lane/image_ref.h"
#include "lane/pool.h"
#include "ramstream/ramstream.h"

#define GW_BATCH_HEADER_BYTES   16u
#define GW_BATCH_MAX_BODY_BYTES (256u * 1024u)
#define GW_BATCH_MAX_MAP_BYTES  (32u * 1024u)
#define GW_BATCH_MAX_PAGES      65536u
#define GW_BATCH_MAX_BYTES                                                                         \
    (GW_BATCH_HEADER_BYTES + GW_BATCH_MAX_BODY_BYTES + GW_BATCH_MAX_MAP_BYTES)

typedef enum GwBatchKind {
    GW_BATCH_OPAQUE = 0,
    GW_BATCH_JUMP = 1,
    GW_BATCH_ZERO = 2,
    GW_BATCH_CONTENT = 3,
    GW_BATCH_SAME = 4,
    GW_BATCH_DELTA = 5,
    GW_BATCH_REFERENCE = 6,
    GW_BATCH_SKIP = 7,
    GW_BATCH_EQUAL = 8, /* in a map: OPAQUE */
    GW_BATCH_N_KINDS,
} GwBatchKind;

/* Of each block, as many pages have a place. */
#define GW_BATCH_PLACE_PAGES (UINT64_C(1) << 32)

static inline uint64_t
gw_batch_place(uint16_t block, uint64_t page)
{
    return block * GW_BATCH_PLACE_PAGES + page;
}

/* --- collecting (batch.c) --------------------------------------------------------------------- */

/* Pages with content that a batch collects, and runs of any kind: no map gets too long of them. */
#define GW_BATCH_MAX_CONTENTS (GW_BATCH_MAX_BODY_BYTES / GW_PAGE_BYTES)
#define GW_BATCH_MAX_RUNS     1280u

/* Pages of one kind that follow each other, or opaque bytes. */
typedef struct GwBatchRun {
    GwBatchKind kind; /* OPAQUE, ZERO, SAME, EQUAL or CONTENT */
    bool names_block; /* the first page's record does */
    uint16_t block;
    uint32_t count;
    uint64_t first_page;
    uint64_t equal_place; /* EQUAL: of what the first page equals */
} GwBatchRun;

/*
 * What is to be encoded, with all that is needed for it: a batch may travel to another thread. Made
 * by one that adds, read and emptied by an encoder. Memory: 320 KiB, twice as much with bases.
 */
typedef struct GwBatch {
    GwFramePool *pool;
    GwFrame *frame;         /* payload: room for the header, then contents and opaque bytes */
    uint32_t content_bytes; /* collected there */
    unsigned n_pages;
    unsigned n_runs;
    GwBatchRun runs[GW_BATCH_MAX_RUNS];
    unsigned n_contents;
    bool has_base[GW_BATCH_MAX_CONTENTS];
    bool is_first[GW_BATCH_MAX_CONTENTS]; /* never sent before: may become a reference */
    GwPageTag tags[GW_BATCH_MAX_CONTENTS];
    uint8_t *bases; /* GW_BATCH_MAX_CONTENTS pages: copies to tell changes against; NULL: none */
} GwBatch;

typedef struct GwBatchPage {
    GwBatchKind kind; /* ZERO, SAME, EQUAL or CONTENT */
    bool names_block;
    bool is_first;
    uint16_t block;
    uint64_t address;
    uint64_t equal_place;   /* EQUAL: of a page with this content, another one */
    const uint8_t *content; /* CONTENT: GW_PAGE_BYTES; copied */
    const GwPageTag *tag;   /* CONTENT: copied; NULL: not known, and no reference it becomes */
    const uint8_t *base;    /* the copy that the target has, or NULL; copied */
} GwBatchPage;

/* @pool outlives the batch. */
GwBatch *gw_batch_new(GwFramePool *pool);
void gw_batch_free(GwBatch *batch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwBatch, gw_batch_free)

bool gw_batch_is_empty(const GwBatch *batch);
/* Whether a page, of whatever kind, fits. */
bool gw_batch_has_room(const GwBatch *batch);
/* There must be room. */
void gw_batch_add_page(GwBatch *batch, const GwBatchPage *page);
/* Returns how many of @len bytes were added; fewer: the batch is full. */
size_t gw_batch_add_bytes(GwBatch *batch, const uint8_t *data, size_t len);
/* For encoders: the frame with the contents; the batch is empty again. Transfer full. */
GwFrame *gw_batch_take_frame(GwBatch *batch) GW_MUST_USE;

/* --- encoding (batch_encode.c) ---------------------------------------------------------------- */

/* One thread. */
typedef struct GwBatchEncoder GwBatchEncoder;

/* How much is to be done; may be another from batch to batch. */
typedef struct GwBatchEffort {
    const GwCodec *codec; /* for every body; what it does not shrink goes plain, if it may */
    int level;            /* the codec's, if it has any */
    bool zstd_deltas;     /* deltas also of content that moved: page_delta.h, second form */
    GwRefSource *images;  /* where pages that were never sent are looked up, NULL: nowhere */
    GwRefSource *visit;   /* the same, for the VM's earlier visit */
} GwBatchEffort;

/* @number: below GW_CODEC_MAX_STREAMS, another one for each encoder of a stream. */
GwBatchEncoder *gw_batch_encoder_new(unsigned number);
void gw_batch_encoder_free(GwBatchEncoder *encoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwBatchEncoder, gw_batch_encoder_free)

/* @batch as a frame, with causes and references; it is empty again. NULL if it was empty. */
GwFrame *gw_batch_encode(GwBatchEncoder *encoder, GwBatch *batch,
                         const GwBatchEffort *effort) GW_MUST_USE;

/* --- decoding (batch_decode.c) ---------------------------------------------------------------- */

/* Opaque bytes, or one page. */
typedef struct GwBatchItem {
    GwBatchKind kind; /* not JUMP, not SKIP */
    bool names_block;
    uint16_t block;
    uint64_t address;
    const uint8_t *data; /* OPAQUE: `len` bytes; CONTENT: GW_PAGE_BYTES */
    size_t len;
    uint16_t equal_block; /* EQUAL: where the page is that has the content */
    uint64_t equal_address;
    unsigned reference;   /* REFERENCE: which of the payload's, counted from 0 */
    const GwPageTag *tag; /* NULL; for who finds the referenced page with its tag */
    GwCursor *body;       /* DELTA: to be read off it, which the receiver of the item has to do */
} GwBatchItem;

/* Where the references of a payload are; see image_ref.h. */
typedef struct GwBatchReferences {
    unsigned n_pages;
    const uint8_t *section; /* `len` bytes, borrowed */
    size_t len;
} GwBatchReferences;

/* False: the payload is damaged. */
bool gw_batch_references(const uint8_t *payload, size_t len, GwBatchReferences *out) GW_MUST_USE;

/* One thread. */
typedef struct GwBatchDecoder GwBatchDecoder;

GwBatchDecoder *gw_batch_decoder_new(void);
void gw_batch_decoder_free(GwBatchDecoder *decoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwBatchDecoder, gw_batch_decoder_free)

/* Memory of the decoder, now. */
size_t gw_batch_decoder_memory_bytes(const GwBatchDecoder *decoder);

/* Called for each item in order; what it points to is borrowed. False stops decoding. */
typedef bool (*GwBatchItemFn)(const GwBatchItem *item, void *data, GError **error);

/*
 * Yields the items of one RAM payload. GW_ERROR_PROTOCOL if it is damaged; items before the damage
 * may have been yielded.
 */
bool gw_batch_decode(GwBatchDecoder *decoder, const uint8_t *payload, size_t len,
                     GwBatchItemFn each, void *data, GError **error) GW_MUST_USE;
