// SPDX-License-Identifier: Apache-2.0
/*
 * Frame buffers and their reuse.
 *
 * Owns the spare large buffers; `lock` guards the list. Any thread. Memory kept: at most
 * GW_POOL_MAX_SPARE × GW_BATCH_MAX_BYTES (about 5 MiB). gw_frame_new() returns NULL when the
 * allocator does, as a peer may have chosen the size; gw_frame_trim() then leaves all as it is.
 */
#include "lane/pool.h"

#include "lane/batch.h"
#include "lane/image_ref.h"

#include <pthread.h>
#include <string.h>

/* Below this the allocator is as quick as the list. */
#define LARGE_BYTES 4096u

struct GwFramePool {
    pthread_mutex_t lock;
    uint8_t *spare[GW_POOL_MAX_SPARE];
    unsigned n_spare;
};

GwFramePool *
gw_frame_pool_new(void)
{
    GwFramePool *pool = g_new0(GwFramePool, 1);

    pthread_mutex_init(&pool->lock, NULL);
    return pool;
}

void
gw_frame_pool_free(GwFramePool *pool)
{
    if (!pool) {
        return;
    }
    for (unsigned i = 0; i < pool->n_spare; i++) {
        g_free(pool->spare[i]);
    }
    pthread_mutex_destroy(&pool->lock);
    g_free(pool);
}

static uint8_t *
take_spare(GwFramePool *pool)
{
    pthread_mutex_lock(&pool->lock);
    uint8_t *wire = pool->n_spare > 0 ? pool->spare[--pool->n_spare] : NULL;
    pthread_mutex_unlock(&pool->lock);
    return wire;
}

GwFrame *
gw_frame_new(GwFramePool *pool, GwFrameType type, uint32_t capacity)
{
    uint8_t *wire = NULL;

    if (capacity > LARGE_BYTES && capacity <= GW_BATCH_MAX_BYTES) {
        capacity = GW_BATCH_MAX_BYTES;
        wire = take_spare(pool);
    }
    if (!wire) {
        wire = g_try_malloc(GW_FRAME_HEADER_BYTES + (size_t)capacity);
    }
    if (!wire) {
        return NULL;
    }
    GwFrame *frame = g_new0(GwFrame, 1);

    frame->header.type = type;
    frame->pool = pool;
    frame->refs = 1;
    frame->capacity = capacity;
    frame->wire = wire;
    return frame;
}

/* @wire: transfer full. */
static void
give_back(GwFramePool *pool, uint8_t *wire, uint32_t capacity)
{
    if (capacity == GW_BATCH_MAX_BYTES) {
        pthread_mutex_lock(&pool->lock);
        if (pool->n_spare < GW_POOL_MAX_SPARE) {
            pool->spare[pool->n_spare++] = g_steal_pointer(&wire);
        }
        pthread_mutex_unlock(&pool->lock);
    }
    g_free(wire);
}

GwFrame *
gw_frame_ref(GwFrame *frame)
{
    g_atomic_int_inc(&frame->refs);
    return frame;
}

void
gw_frame_free(GwFrame *frame)
{
    if (!frame || !g_atomic_int_dec_and_test(&frame->refs)) {
        return;
    }
    give_back(frame->pool, frame->wire, frame->capacity);
    gw_ref_group_free(frame->references);
    g_free(frame);
}

void
gw_frame_trim(GwFrame *frame)
{
    size_t used = gw_frame_wire_bytes(frame);

    if (frame->capacity != GW_BATCH_MAX_BYTES || used > GW_BATCH_MAX_BYTES / 2) {
        return;
    }
    uint8_t *wire = g_try_malloc(used);

    if (!wire) {
        return;
    }
    memcpy(wire, frame->wire, used);
    give_back(frame->pool, frame->wire, frame->capacity);
    frame->wire = wire;
    frame->capacity = frame->header.payload_bytes;
}

GwFrame *
gw_frame_new_with(GwFramePool *pool, GwFrameType type, const GByteArray *payload)
{
    GwFrame *frame = gw_frame_new(pool, type, payload->len);

    if (!frame) {
        g_error("out of memory for a frame of %u bytes", payload->len);
    }
    if (payload->len > 0) {
        memcpy(gw_frame_payload(frame), payload->data, payload->len);
    }
    frame->header.payload_bytes = payload->len;
    frame->causes.control_bytes = payload->len;
    return frame;
}
