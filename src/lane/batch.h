// SPDX-License-Identifier: Apache-2.0
/*
 * RAM batches: a piece of QEMU's migration stream as the payload of one RAM frame.
 *
 * A batch describes items (ramstream.h) in their order. The map says what they are, the body
 * holds the contents of pages and the opaque bytes, in the order of the map, encoded by a codec.
 * Each batch can be decoded by itself.
 *
 *     offset size
 *          0    1  codec of the body, GwCodecId
 *          1    3  0
 *          4    4  body bytes, decoded; at most GW_BATCH_MAX_BODY_BYTES
 *          8    4  body bytes, encoded
 *         12    4  map bytes; at most GW_BATCH_MAX_MAP_BYTES
 *         16    …  encoded body
 *          …    …  map: entries until its end
 *
 * Map entry, numbers are LEB128 ("varint"):
 *
 *     varint  2 × count, or 2 × count + 1; count ≥ 1
 *             even: `count` opaque bytes, taken from the body
 *             odd:  a run of `count` pages that follow each other in one RAM block:
 *     varint  2 × block + (1 if the first page's header in the stream names the block)
 *     varint  number of the first page: its address / 4096
 *     bytes   ceil(count / 8) bytes of bitmap, lowest bit first: 1 = content in the body, 0 = zero
 *             page; unused bits are 0
 *
 * A batch holds at most GW_BATCH_MAX_PAGES pages. The body is used up exactly.
 */
#pragma once

#include "lane/codec.h"
#include "lane/pool.h"
#include "ramstream/ramstream.h"

#define GW_BATCH_HEADER_BYTES   16u
#define GW_BATCH_MAX_BODY_BYTES (256u * 1024u)
#define GW_BATCH_MAX_MAP_BYTES  (32u * 1024u)
#define GW_BATCH_MAX_PAGES      65536u
#define GW_BATCH_MAX_BYTES                                                                         \
    (GW_BATCH_HEADER_BYTES + GW_BATCH_MAX_BODY_BYTES + GW_BATCH_MAX_MAP_BYTES)

/* One thread. */
typedef struct GwBatchEncoder GwBatchEncoder;

/* @codec is tried on every body; what it does not shrink goes plain. @pool outlives the encoder. */
GwBatchEncoder *gw_batch_encoder_new(const GwCodec *codec, GwFramePool *pool);
void gw_batch_encoder_free(GwBatchEncoder *encoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwBatchEncoder, gw_batch_encoder_free)

/*
 * Adds @item. False: the batch is full; take it and add the item again. Opaque bytes are split
 * where needed: the part that was added is gone from @item.
 */
bool gw_batch_encoder_add(GwBatchEncoder *encoder, GwRamItem *item);

/* Opaque bytes and page contents that wait to be taken. */
bool gw_batch_encoder_is_empty(const GwBatchEncoder *encoder);

/* The batch as a frame, with causes; the encoder is empty again. NULL if it was empty. */
GwFrame *gw_batch_encoder_take(GwBatchEncoder *encoder) GW_MUST_USE;

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

/* Called for each item in order; item->data is borrowed for the call. False stops decoding. */
typedef bool (*GwBatchItemFn)(const GwRamItem *item, void *data, GError **error);

/*
 * Yields the items of one RAM payload. GW_ERROR_PROTOCOL if it is damaged; items before the damage
 * may have been yielded.
 */
bool gw_batch_decode(GwBatchDecoder *decoder, const uint8_t *payload, size_t len,
                     GwBatchItemFn each, void *data, GError **error) GW_MUST_USE;
