// SPDX-License-Identifier: Apache-2.0
/*
 * Frame buffers: a frame's header and payload in one piece of memory, ready for the wire.
 *
 * Large buffers (a whole RAM batch) are kept and given out again, at most GW_POOL_MAX_SPARE of
 * them; small ones come from and go back to the allocator. Any thread. A pool outlives its frames.
 *
 * A frame may have several owners (the outbox and the links that send it); they do not change it.
 */
#pragma once

#include "lane/frame.h"

#define GW_POOL_MAX_SPARE 16u

typedef struct GwFramePool GwFramePool;

/* What the payload was spent on, in bytes; the rest of it and the header are overhead. */
typedef struct GwFrameCauses {
    uint32_t page_bytes;
    uint32_t zero_bytes;
    uint32_t same_bytes;
    uint32_t equal_bytes;
    uint32_t delta_bytes;
    uint32_t reference_bytes;
    uint32_t opaque_bytes;
    uint32_t control_bytes;
    uint32_t delta_pages; /* not bytes */
    uint32_t reference_pages;
} GwFrameCauses;

typedef struct GwRefGroup GwRefGroup; /* image_ref.h */

typedef struct GwFrame {
    GwFrameHeader header;
    GwFrameCauses causes;
    GwRefGroup *references; /* of a batch, until the frame gets its sequence; NULL: none */
    GwFramePool *pool;
    int refs;          /* atomic */
    bool was_sent;     /* whole, at least once; the sending lane's lock guards it */
    uint32_t capacity; /* of the payload */
    uint8_t *wire;     /* GW_FRAME_HEADER_BYTES for the header, then the payload */
} GwFrame;

GwFramePool *gw_frame_pool_new(void);
void gw_frame_pool_free(GwFramePool *pool);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwFramePool, gw_frame_pool_free)

/*
 * A frame whose payload may grow to @capacity bytes. NULL when memory is short. @pool may be NULL
 * for what is smaller than a RAM batch.
 */
GwFrame *gw_frame_new(GwFramePool *pool, GwFrameType type, uint32_t capacity) GW_MUST_USE;
GwFrame *gw_frame_ref(GwFrame *frame);
/* Drops one owner's share. */
void gw_frame_free(GwFrame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwFrame, gw_frame_free)

/* For frames that are kept: gives a large buffer that is mostly empty back. One owner. */
void gw_frame_trim(GwFrame *frame);

/* A frame with this small payload, counted as control. Never NULL. */
GwFrame *gw_frame_new_with(GwFramePool *pool, GwFrameType type, const GByteArray *payload);

static inline uint8_t *
gw_frame_payload(const GwFrame *frame)
{
    return frame->wire + GW_FRAME_HEADER_BYTES;
}

static inline size_t
gw_frame_wire_bytes(const GwFrame *frame)
{
    return GW_FRAME_HEADER_BYTES + (size_t)frame->header.payload_bytes;
}
