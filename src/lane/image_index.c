// SPDX-License-Identifier: Apache-2.0
/*
 * Building an image index in the background.
 *
 * One thread per index opens the image, loads what was kept, reads the file's own blocks and fills
 * the table; it ends by itself. Index and thread each hold a reference, so that nobody has to wait
 * for a thread that hangs in a read. The table is published once, when it exists, and stays until
 * the last reference is gone; look-ups take no lock. `lock` guards the figures.
 *
 * Limits: the table within max_table_bytes, 1 MiB to read into. A read that fails costs the blocks
 * it was for. An image that cannot be opened gives an empty index and a line in the log.
 */
#include "lane/image_index.h"

#include "base/log.h"
#include "base/units.h"
#include "lane/image_cache.h"
#include "lane/page_hash.h"

#include <linux/ioprio.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHUNK_BLOCKS 256u
#define NICE         10

struct GwImageIndex {
    _Atomic unsigned refs;
    _Atomic bool cancelled;
    _Atomic(GwImageTable *) table; /* NULL: not yet */

    /* Constant. */
    char *path;
    char *format;
    char *cache_folder;
    uint64_t seed;
    uint64_t max_table_bytes;
    uint64_t max_cache_bytes;
    bool is_awaited;

    /* The thread's alone. */
    int64_t begun_us;
    uint8_t *chunk;

    /* Under `lock`. */
    pthread_mutex_t lock;
    pthread_cond_t ended;
    GwImageIndexFigures figures;
};

uint64_t gw_image_index_hash_mask = UINT64_MAX;

/* --- look-ups --------------------------------------------------------------------------------- */

uint64_t
gw_image_index_hash(const uint8_t *page, uint64_t seed)
{
    return gw_page_hash(page, seed) & gw_image_index_hash_mask;
}

void
gw_image_index_prefetch(const GwImageIndex *index, uint64_t hash)
{
    const GwImageTable *table = atomic_load_explicit(&index->table, memory_order_acquire);

    if (table) {
        gw_image_table_prefetch(table, hash);
    }
}

bool
gw_image_index_find(const GwImageIndex *index, uint64_t hash, uint64_t *block)
{
    const GwImageTable *table = atomic_load_explicit(&index->table, memory_order_acquire);

    return table && gw_image_table_find(table, hash, block);
}

/* --- reading the image ------------------------------------------------------------------------ */

static bool
is_cancelled(GwImageIndex *index)
{
    return atomic_load_explicit(&index->cancelled, memory_order_relaxed);
}

static void
count_read(GwImageIndex *index, const GwImageTable *table, uint64_t n_blocks)
{
    pthread_mutex_lock(&index->lock);
    index->figures.read_blocks += n_blocks;
    index->figures.n_entries = table->n_entries;
    index->figures.elapsed_us = (uint64_t)(gw_now_us() - index->begun_us);
    pthread_mutex_unlock(&index->lock);
}

static void
index_extent(GwImageIndex *index, GwImage *image, GwImageTable *table, GwImageExtent extent,
             uint64_t block)
{
    while (extent.n_blocks > 0 && !is_cancelled(index)) {
        size_t n = (size_t)MIN(extent.n_blocks, CHUNK_BLOCKS);
        size_t whole =
            gw_image_read_extent(image, &extent, index->chunk, n * GW_PAGE_BYTES) / GW_PAGE_BYTES;

        for (size_t i = 0; i < whole; i++) {
            const uint8_t *page = index->chunk + i * GW_PAGE_BYTES;

            if (!gw_page_repeats(page)) {
                gw_image_table_put(table, gw_image_index_hash(page, index->seed), block + i);
            }
        }
        count_read(index, table, n);
        block += n;
        extent.n_blocks -= n;
        extent.file_offset += n * GW_PAGE_BYTES;
    }
}

/* Walks over what the file itself has. With a table: reads it; without: counts it. */
static uint64_t
walk(GwImageIndex *index, GwImage *image, GwImageTable *table)
{
    uint64_t end = MIN(gw_image_n_blocks(image), GW_IMAGE_TABLE_END);
    uint64_t most = gw_image_max_data_blocks(image);
    uint64_t data_blocks = 0;

    for (uint64_t block = 0; block < end && !is_cancelled(index);) {
        GwImageExtent extent = gw_image_map_layer(image, 0, block, end - block);

        if (extent.content == GW_IMAGE_DATA) {
            /* A damaged image could have the same few blocks read for days. */
            extent.n_blocks = MIN(extent.n_blocks, most - data_blocks);
            if (extent.n_blocks == 0) {
                break;
            }
            data_blocks += extent.n_blocks;
            if (table) {
                index_extent(index, image, table, extent, block);
            }
        }
        block += extent.n_blocks;
    }
    return data_blocks;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void
index_unref(GwImageIndex *index)
{
    if (atomic_fetch_sub_explicit(&index->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    gw_image_table_free(atomic_load_explicit(&index->table, memory_order_relaxed));
    g_free(index->path);
    g_free(index->format);
    g_free(index->cache_folder);
    g_free(index->chunk);
    pthread_cond_destroy(&index->ended);
    pthread_mutex_destroy(&index->lock);
    g_free(index);
}

/* Guests and moves come first. */
static void
step_back(void)
{
    pid_t thread = (pid_t)syscall(SYS_gettid);

    (void)setpriority(PRIO_PROCESS, (id_t)thread, NICE);
    (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, thread,
                  IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

static void
publish(GwImageIndex *index, GwImageTable *table, uint64_t total_blocks, bool was_kept)
{
    atomic_store_explicit(&index->table, table, memory_order_release);
    pthread_mutex_lock(&index->lock);
    index->figures.was_kept = was_kept;
    index->figures.total_blocks = total_blocks;
    index->figures.n_entries = table->n_entries;
    index->figures.memory_bytes = gw_image_table_bytes(table->n_slots);
    pthread_mutex_unlock(&index->lock);
}

/* The table to go on with, published; NULL when memory is short. */
static GwImageTable *
make_table(GwImageIndex *index, GwImage *image, GwImageTable *kept)
{
    uint64_t data_blocks = walk(index, image, NULL);
    uint64_t expected = data_blocks + data_blocks / 16;
    uint64_t most = index->max_table_bytes / (GW_IMAGE_SLOT_BYTES + 1);

    /* The image may have grown: a table that has become too tight is made anew. */
    if (kept && kept->n_slots < MIN(expected, most)) {
        g_clear_pointer(&kept, gw_image_table_free);
    }
    GwImageTable *table = kept ? kept : gw_image_table_new(data_blocks, index->max_table_bytes);
    if (table) {
        publish(index, table, data_blocks, kept != NULL);
    }
    return table;
}

static void
keep(const GwImageIndex *index, const GwImageCacheKey *key, const GwImageTable *table)
{
    g_autoptr(GError) error = NULL;

    if (key->folder && !gw_image_cache_save(key, table, index->max_cache_bytes, &error)) {
        gw_warn(NULL, "%s; it will be made anew for the next move", error->message);
    }
}

static GwImageIndexState
build(GwImageIndex *index, GError **error)
{
    g_autoptr(GwImage) image = gw_image_open(index->path, index->format, error);
    GwImageCacheKey key = {.folder = index->cache_folder, .path = index->path, .seed = index->seed};
    GwImageTable *table = NULL;
    bool is_fresh = false;

    if (!image || !gw_image_identity(image, &key.identity, error)) {
        return GW_IMAGE_INDEX_FAILED;
    }
    if (key.folder) {
        table = gw_image_cache_load(&key, index->max_table_bytes, &is_fresh);
    }
    if (table && is_fresh) {
        publish(index, table, 0, true);
        return GW_IMAGE_INDEX_COMPLETE;
    }
    if (table || !index->is_awaited) {
        step_back();
    }
    table = make_table(index, image, table);
    index->chunk = g_try_malloc((size_t)CHUNK_BLOCKS * GW_PAGE_BYTES);
    if (!table || !index->chunk) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "not enough memory for an index of '%s'",
                    index->path);
        return GW_IMAGE_INDEX_FAILED;
    }
    (void)walk(index, image, table);
    if (is_cancelled(index)) {
        return GW_IMAGE_INDEX_CANCELLED;
    }
    gw_image_table_drop_unconfirmed(table);
    count_read(index, table, 0);
    keep(index, &key, table);
    return GW_IMAGE_INDEX_COMPLETE;
}

static void *
index_thread(void *data)
{
    GwImageIndex *index = data;
    g_autoptr(GError) error = NULL;

    index->begun_us = gw_now_us();
    GwImageIndexState state = build(index, &error);

    g_clear_pointer(&index->chunk, g_free);
    if (error) {
        gw_warn(NULL, "pages that are on the disk will be sent nevertheless: %s", error->message);
    }
    pthread_mutex_lock(&index->lock);
    index->figures.state = state;
    index->figures.elapsed_us = (uint64_t)(gw_now_us() - index->begun_us);
    pthread_cond_broadcast(&index->ended);
    pthread_mutex_unlock(&index->lock);
    index_unref(index);
    return NULL;
}

/* --- for the caller --------------------------------------------------------------------------- */

static bool
start_thread(GwImageIndex *index, GError **error)
{
    pthread_attr_t attributes;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int errnum = pthread_create(&thread, &attributes, index_thread, index);
    pthread_attr_destroy(&attributes);
    if (errnum != 0) {
        gw_set_error_errno(error, errnum, "cannot make a thread for the index of '%s'",
                           index->path);
    }
    return errnum == 0;
}

GwImageIndex *
gw_image_index_start(const GwImageIndexOptions *options, GError **error)
{
    GwImageIndex *index = g_new0(GwImageIndex, 1);

    index->refs = 2;
    index->path = g_strdup(options->path);
    index->format = g_strdup(options->format);
    index->cache_folder = g_strdup(options->cache_folder);
    index->seed = options->seed;
    index->max_table_bytes =
        options->max_table_bytes ? options->max_table_bytes : GW_IMAGE_INDEX_DEFAULT_BYTES;
    index->max_cache_bytes =
        options->max_cache_bytes ? options->max_cache_bytes : GW_IMAGE_INDEX_DEFAULT_CACHE_BYTES;
    index->is_awaited = options->is_awaited;
    pthread_mutex_init(&index->lock, NULL);
    pthread_cond_init(&index->ended, NULL);
    if (!start_thread(index, error)) {
        index->refs = 1;
        index_unref(index);
        return NULL;
    }
    return index;
}

void
gw_image_index_free(GwImageIndex *index)
{
    if (index) {
        atomic_store_explicit(&index->cancelled, true, memory_order_relaxed);
        index_unref(index);
    }
}

void
gw_image_index_wait(GwImageIndex *index)
{
    pthread_mutex_lock(&index->lock);
    while (index->figures.state == GW_IMAGE_INDEX_BUILDING) {
        pthread_cond_wait(&index->ended, &index->lock);
    }
    pthread_mutex_unlock(&index->lock);
}

void
gw_image_index_figures(GwImageIndex *index, GwImageIndexFigures *out)
{
    pthread_mutex_lock(&index->lock);
    *out = index->figures;
    pthread_mutex_unlock(&index->lock);
}
