// SPDX-License-Identifier: Apache-2.0
/*
 * Groups of referenced pages between their frame's push and its acknowledgement.
 *
 * Owns the groups and an encoder for FILLs; `lock` guards all of it. A frame is pushed with the
 * lock held, so that a NEED, which may come at once, finds its group. Fails with GW_ERROR_PROTOCOL
 * on questions that make no sense.
 */
#include "lane/ref_keep.h"

#include <pthread.h>

/* As many frames as a target asks its disks for ahead (ref_desk.c). */
#define MIN_PAGES (16 * GW_REF_MAX_PAGES)
#define PERIOD_US 100000

typedef struct Kept {
    uint64_t sequence;
    int64_t pushed_us;
    GwRefGroup *group;
    bool asked; /* in `due` */
} Kept;

struct GwRefKeep {
    GwRefSource *source;
    GwRefKeepWake wake;
    void *wake_data;
    pthread_mutex_t lock;
    pthread_cond_t room;
    GQueue order;            /* of Kept, by sequence */
    GHashTable *by_sequence; /* &kept->sequence → Kept, owned */
    GQueue due;              /* of Kept that have FILLs to send */
    unsigned n_pages;
    unsigned max_pages;
    int64_t since_us;    /* of this period; 0: none has begun */
    unsigned n_dealt;    /* pages acknowledged since then */
    bool was_full;       /* since then */
    int64_t shortest_us; /* from push to acknowledgement; 0: none */
    uint64_t acked;
    bool stopped;
    void *encoder;
};

static void
kept_free(void *data)
{
    Kept *kept = data;

    gw_ref_group_free(kept->group);
    g_free(kept);
}

GwRefKeep *
gw_ref_keep_new(GwRefSource *source, GwRefKeepWake wake, void *data)
{
    GwRefKeep *keep = g_new0(GwRefKeep, 1);

    keep->source = source;
    keep->wake = wake;
    keep->wake_data = data;
    keep->by_sequence = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, kept_free);
    keep->encoder = gw_codec_zstd.encoder_new(0);
    keep->max_pages = GW_REF_MAX_UNPROVEN_PAGES;
    pthread_mutex_init(&keep->lock, NULL);
    pthread_cond_init(&keep->room, NULL);
    g_queue_init(&keep->order);
    g_queue_init(&keep->due);
    return keep;
}

void
gw_ref_keep_free(GwRefKeep *keep)
{
    if (!keep) {
        return;
    }
    g_queue_clear(&keep->order);
    g_queue_clear(&keep->due);
    g_hash_table_unref(keep->by_sequence);
    gw_codec_zstd.encoder_free(keep->encoder);
    pthread_cond_destroy(&keep->room);
    pthread_mutex_destroy(&keep->lock);
    g_free(keep);
}

GwRefSource *
gw_ref_keep_source(const GwRefKeep *keep)
{
    return keep->source;
}

bool
gw_ref_keep_wait_room(GwRefKeep *keep)
{
    pthread_mutex_lock(&keep->lock);
    while (!keep->stopped && keep->n_pages >= keep->max_pages) {
        pthread_cond_wait(&keep->room, &keep->lock);
    }
    bool go_on = !keep->stopped;
    pthread_mutex_unlock(&keep->lock);
    return go_on;
}

void
gw_ref_keep_stop(GwRefKeep *keep)
{
    pthread_mutex_lock(&keep->lock);
    keep->stopped = true;
    pthread_cond_broadcast(&keep->room);
    pthread_mutex_unlock(&keep->lock);
}

void
gw_ref_keep_push(GwRefKeep *keep, GwOutbox *outbox, GwFrame *frame, int64_t now_us)
{
    Kept *kept = g_new0(Kept, 1);

    kept->group = g_steal_pointer(&frame->references);
    kept->pushed_us = now_us;
    pthread_mutex_lock(&keep->lock);
    kept->sequence = gw_outbox_push(outbox, frame);
    keep->n_pages += gw_ref_group_n_pages(kept->group);
    keep->was_full = keep->was_full || keep->n_pages >= keep->max_pages;
    g_queue_push_tail(&keep->order, kept);
    g_hash_table_insert(keep->by_sequence, &kept->sequence, kept);
    pthread_mutex_unlock(&keep->lock);
}

/* What the target deals with in GW_REF_QUEUE_US, and in the time that it takes at least to hear of
 * it. */
static void
adjust(GwRefKeep *keep, int64_t now_us)
{
    int64_t period_us = now_us - keep->since_us;

    if (keep->since_us > 0 && period_us < PERIOD_US) {
        return;
    }
    if (keep->since_us > 0 && keep->was_full) {
        int64_t pages = (int64_t)keep->n_dealt * (keep->shortest_us + GW_REF_QUEUE_US) / period_us;

        keep->max_pages = (unsigned)CLAMP(pages, MIN_PAGES, GW_REF_MAX_UNPROVEN_PAGES);
    }
    keep->since_us = now_us;
    keep->n_dealt = 0;
    keep->was_full = keep->n_pages >= keep->max_pages;
}

void
gw_ref_keep_acked(GwRefKeep *keep, uint64_t sequence, int64_t now_us)
{
    pthread_mutex_lock(&keep->lock);
    keep->acked = MAX(keep->acked, sequence);
    for (;;) {
        Kept *kept = g_queue_peek_head(&keep->order);

        if (!kept || kept->sequence > keep->acked) {
            break;
        }
        g_queue_pop_head(&keep->order);
        if (kept->asked) {
            g_queue_remove(&keep->due, kept);
        }
        unsigned n_pages = gw_ref_group_n_pages(kept->group);
        int64_t took_us = MAX(now_us - kept->pushed_us, 1);

        keep->n_pages -= n_pages;
        keep->n_dealt += n_pages;
        keep->shortest_us = keep->shortest_us > 0 ? MIN(keep->shortest_us, took_us) : took_us;
        g_hash_table_remove(keep->by_sequence, &kept->sequence);
    }
    adjust(keep, now_us);
    pthread_cond_broadcast(&keep->room);
    pthread_mutex_unlock(&keep->lock);
}

static bool
take_need_locked(GwRefKeep *keep, uint64_t sequence, const uint8_t *payload, size_t len,
                 GError **error)
{
    Kept *kept = g_hash_table_lookup(keep->by_sequence, &sequence);

    if (!kept && sequence <= keep->acked) {
        return true; /* asked twice, and the first answer has done */
    }
    if (!kept) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer asked about references in frame %" G_GUINT64_FORMAT
                    ", which has none",
                    sequence);
        return false;
    }
    if (!gw_ref_group_take_need(kept->group, keep->source, payload, len, error)) {
        return false;
    }
    if (!kept->asked) {
        kept->asked = true;
        g_queue_push_tail(&keep->due, kept);
    }
    keep->wake(keep->wake_data);
    return true;
}

bool
gw_ref_keep_take_need(GwRefKeep *keep, const uint8_t *payload, size_t len, GError **error)
{
    uint64_t sequence;

    if (!gw_ref_sequence(payload, len, &sequence, error)) {
        return false;
    }
    pthread_mutex_lock(&keep->lock);
    bool ok = take_need_locked(keep, sequence, payload, len, error);
    pthread_mutex_unlock(&keep->lock);
    return ok;
}

bool
gw_ref_keep_has_fill(GwRefKeep *keep)
{
    pthread_mutex_lock(&keep->lock);
    bool has_fill = !g_queue_is_empty(&keep->due);
    pthread_mutex_unlock(&keep->lock);
    return has_fill;
}

GBytes *
gw_ref_keep_next_fill(GwRefKeep *keep)
{
    GBytes *fill = NULL;

    pthread_mutex_lock(&keep->lock);
    while (!fill && !g_queue_is_empty(&keep->due)) {
        Kept *kept = g_queue_peek_head(&keep->due);

        fill = gw_ref_group_next_fill(kept->group, &gw_codec_zstd, keep->encoder);
        if (!fill) {
            kept->asked = false;
            g_queue_pop_head(&keep->due);
        }
    }
    pthread_mutex_unlock(&keep->lock);
    return fill;
}
