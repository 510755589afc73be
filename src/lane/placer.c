// SPDX-License-Identifier: Apache-2.0
/*
 * Chunks of pages, and the threads that write them.
 *
 * Owns descriptors, chunks and threads. Each worker has its own chunks and its own share of the
 * address space, regions of REGION_BYTES in turn: so pages of one address stay in their order, and
 * two workers do not wait for the kernel to make the same huge page. The thread that puts fills one
 * chunk per worker and hands it on when it is full or all is to be written. A chunk keeps what was
 * in it until it is taken again, by the same thread, so that thread can look into it meanwhile.
 *
 * `lock` guards queues and counts and is not held while something is written. A write into memory
 * takes as long as the kernel needs to find memory for it. The first failure is kept and what comes
 * after it dropped. Limits: placer.h.
 */
#include "lane/placer.h"

#include "base/processor.h"
#include "lane/session.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define CHUNK_PAGES  64u
#define CHUNK_PIECES 256u
#define REGION_BYTES (2u * 1024u * 1024u) /* of a huge page */
#define MAP_ENTRIES  (REGION_BYTES / GW_PAGE_BYTES)
/* Of a page map's entry: the page is in memory, or was swapped out (pagemap in the kernel's
 * Documentation/admin-guide/mm). */
#define MAP_IS_THERE (UINT64_C(3) << 62)

#define IS_ZERO UINT32_MAX

/* Pages that follow each other: of content, or zero. */
typedef struct Piece {
    uint64_t at; /* in the process's address space */
    uint32_t bytes;
    uint32_t content; /* where it begins in the chunk's, or IS_ZERO */
} Piece;

typedef struct Chunk {
    unsigned n_pieces;
    unsigned n_pages; /* with content */
    Piece pieces[CHUNK_PIECES];
    uint8_t content[CHUNK_PAGES * GW_PAGE_BYTES];
} Chunk;

typedef struct Block {
    char *name;
    uint64_t start;
    uint64_t bytes;
} Block;

typedef struct Worker {
    GwPlacer *placer;
    pthread_t thread;
    /* Of the thread that puts: */
    Chunk *filling; /* NULL: none is taken */
    Chunk *taken[GW_PLACER_CHUNKS];
    uint64_t n_taken; /* the last one is at (n_taken − 1) % GW_PLACER_CHUNKS */
    /* Under the lock: */
    pthread_cond_t work;
    GQueue full;  /* of Chunk, in order */
    GQueue empty; /* of Chunk */
    uint64_t cpu_us;
} Worker;

struct GwPlacer {
    GwFd memory_fd;
    GwFd map_fd;
    unsigned n_blocks;
    Block blocks[GW_PLACER_MAX_BLOCKS];
    unsigned n_workers;
    Worker workers[GW_PLACER_MAX_WORKERS];

    pthread_mutex_t lock;
    pthread_cond_t written; /* a chunk was */
    unsigned under_way;     /* chunks that were handed on and are not written */
    bool stopping;
    GError *error; /* the first one */
};

static const uint8_t zero_page[GW_PAGE_BYTES];

/* --- the workers ------------------------------------------------------------------------------ */

static bool
write_at(const GwPlacer *placer, uint64_t at, const uint8_t *content, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(placer->memory_fd, content + done, len - done, (off_t)(at + done));

        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            /* 0: the process has ended and its memory is gone. */
            gw_set_error_errno(error, n == 0 ? ESRCH : errno,
                               "cannot write into the memory of the target's QEMU");
            return false;
        }
    }
    return true;
}

static bool
read_at(int fd, uint64_t at, void *out, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (uint8_t *)out + done, len - done, (off_t)(at + done));

        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            gw_set_error_errno(error, n == 0 ? ESRCH : errno,
                               "cannot read the memory of the target's QEMU");
            return false;
        }
    }
    return true;
}

static bool
make_zero(const GwPlacer *placer, const Piece *piece, GError **error)
{
    uint64_t entries[MAP_ENTRIES];
    size_t n_pages = piece->bytes / GW_PAGE_BYTES;
    uint8_t page[GW_PAGE_BYTES];

    if (!read_at(placer->map_fd, piece->at / GW_PAGE_BYTES * sizeof(*entries), entries,
                 n_pages * sizeof(*entries), error)) {
        return false;
    }
    for (size_t i = 0; i < n_pages; i++) {
        uint64_t at = piece->at + i * GW_PAGE_BYTES;

        if (!(entries[i] & MAP_IS_THERE)) {
            continue;
        }
        if (!read_at(placer->memory_fd, at, page, sizeof(page), error)) {
            return false;
        }
        if (memcmp(page, zero_page, sizeof(page)) != 0 &&
            !write_at(placer, at, zero_page, sizeof(zero_page), error)) {
            return false;
        }
    }
    return true;
}

static bool
write_chunk(const GwPlacer *placer, const Chunk *chunk, GError **error)
{
    bool ok = true;

    for (unsigned i = 0; ok && i < chunk->n_pieces; i++) {
        const Piece *piece = &chunk->pieces[i];

        ok =
            piece->content == IS_ZERO
                ? make_zero(placer, piece, error)
                : write_at(placer, piece->at, chunk->content + piece->content, piece->bytes, error);
    }
    return ok;
}

/* Under the lock, which is let go meanwhile. */
static void
handle_chunk(Worker *worker, Chunk *chunk)
{
    GwPlacer *placer = worker->placer;
    GError *error = NULL;

    if (!placer->error) {
        pthread_mutex_unlock(&placer->lock);
        (void)write_chunk(placer, chunk, &error);
        uint64_t cpu_us = gw_thread_cpu_us();
        pthread_mutex_lock(&placer->lock);
        worker->cpu_us = cpu_us;
    }
    if (error && !placer->error) {
        placer->error = g_steal_pointer(&error);
    }
    g_clear_error(&error);
    g_queue_push_tail(&worker->empty, chunk);
    placer->under_way--;
    pthread_cond_signal(&placer->written);
}

static void *
run_worker(void *data)
{
    Worker *worker = data;
    GwPlacer *placer = worker->placer;

    pthread_mutex_lock(&placer->lock);
    for (;;) {
        Chunk *chunk = g_queue_pop_head(&worker->full);

        if (chunk) {
            handle_chunk(worker, chunk);
        } else if (placer->stopping) {
            break;
        } else {
            pthread_cond_wait(&worker->work, &placer->lock);
        }
    }
    pthread_mutex_unlock(&placer->lock);
    return NULL;
}

/* --- making and freeing ----------------------------------------------------------------------- */

static bool
start_worker(GwPlacer *placer, GError **error)
{
    Worker *worker = &placer->workers[placer->n_workers];

    worker->placer = placer;
    pthread_cond_init(&worker->work, NULL);
    g_queue_init(&worker->full);
    g_queue_init(&worker->empty);
    for (unsigned i = 0; i < GW_PLACER_CHUNKS; i++) {
        Chunk *chunk = g_try_malloc(sizeof(*chunk));

        if (!chunk) {
            g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "no memory to gather pages in");
            break;
        }
        chunk->n_pieces = chunk->n_pages = 0;
        g_queue_push_tail(&worker->empty, chunk);
    }
    if (worker->empty.length == GW_PLACER_CHUNKS &&
        gw_lane_start_thread(&worker->thread, run_worker, worker, "gw-lane-place", error)) {
        placer->n_workers++;
        return true;
    }
    g_queue_clear_full(&worker->empty, g_free);
    pthread_cond_destroy(&worker->work);
    return false;
}

GwPlacer *
gw_placer_new(GwFd memory_fd, GwFd map_fd, GError **error)
{
    unsigned wanted = CLAMP(g_get_num_processors(), 1, GW_PLACER_MAX_WORKERS);
    g_autoptr(GError) problem = NULL;
    GwPlacer *placer = g_new0(GwPlacer, 1);

    placer->memory_fd = memory_fd;
    placer->map_fd = map_fd;
    pthread_mutex_init(&placer->lock, NULL);
    pthread_cond_init(&placer->written, NULL);
    while (placer->n_workers < wanted && start_worker(placer, &problem)) {
    }
    if (placer->n_workers == 0) {
        g_propagate_error(error, g_steal_pointer(&problem));
        gw_placer_free(placer);
        return NULL;
    }
    return placer;
}

static void
hand_on(Worker *worker)
{
    GwPlacer *placer = worker->placer;

    if (worker->filling) {
        pthread_mutex_lock(&placer->lock);
        g_queue_push_tail(&worker->full, g_steal_pointer(&worker->filling));
        placer->under_way++;
        pthread_cond_signal(&worker->work);
        pthread_mutex_unlock(&placer->lock);
    }
}

static void
free_worker(Worker *worker)
{
    hand_on(worker);
    pthread_mutex_lock(&worker->placer->lock);
    worker->placer->stopping = true;
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->placer->lock);
    pthread_join(worker->thread, NULL);
    g_queue_clear_full(&worker->empty, g_free);
    pthread_cond_destroy(&worker->work);
}

void
gw_placer_free(GwPlacer *placer)
{
    if (!placer) {
        return;
    }
    for (unsigned i = 0; i < placer->n_workers; i++) {
        free_worker(&placer->workers[i]);
    }
    for (unsigned i = 0; i < placer->n_blocks; i++) {
        g_free(placer->blocks[i].name);
    }
    gw_fd_clear(&placer->memory_fd);
    gw_fd_clear(&placer->map_fd);
    g_clear_error(&placer->error);
    pthread_cond_destroy(&placer->written);
    pthread_mutex_destroy(&placer->lock);
    g_free(placer);
}

/* --- blocks ----------------------------------------------------------------------------------- */

bool
gw_placer_add_block(GwPlacer *placer, const char *name, uint64_t start, uint64_t bytes)
{
    if (placer->n_blocks == GW_PLACER_MAX_BLOCKS) {
        return false;
    }
    placer->blocks[placer->n_blocks++] =
        (Block){.name = g_strdup(name), .start = start, .bytes = bytes};
    return true;
}

int
gw_placer_find(const GwPlacer *placer, const char *name, size_t name_len)
{
    for (unsigned i = 0; i < placer->n_blocks; i++) {
        if (strlen(placer->blocks[i].name) == name_len &&
            memcmp(placer->blocks[i].name, name, name_len) == 0) {
            return (int)i;
        }
    }
    return GW_PLACER_NO_BLOCK;
}

const char *
gw_placer_block_name(const GwPlacer *placer, unsigned block)
{
    return block < placer->n_blocks ? placer->blocks[block].name : NULL;
}

/* --- putting ---------------------------------------------------------------------------------- */

static bool
told_error(const GwPlacer *placer, GError **error)
{
    if (placer->error) {
        g_propagate_error(error, g_error_copy(placer->error));
    }
    return placer->error != NULL;
}

static bool
take_chunk(Worker *worker, GError **error)
{
    GwPlacer *placer = worker->placer;

    pthread_mutex_lock(&placer->lock);
    while (g_queue_is_empty(&worker->empty)) {
        pthread_cond_wait(&placer->written, &placer->lock);
    }
    bool failed = told_error(placer, error);
    if (!failed) {
        worker->filling = g_queue_pop_head(&worker->empty);
        worker->taken[worker->n_taken++ % GW_PLACER_CHUNKS] = worker->filling;
        worker->filling->n_pieces = worker->filling->n_pages = 0;
    }
    pthread_mutex_unlock(&placer->lock);
    return !failed;
}

/* Adds to the last piece what follows it, within a region: a worker's share ends there. */
static void
add_page(Chunk *chunk, uint64_t at, const uint8_t *content)
{
    Piece *last = chunk->n_pieces > 0 ? &chunk->pieces[chunk->n_pieces - 1] : NULL;
    uint32_t end = chunk->n_pages * GW_PAGE_BYTES;

    if (last && last->at + last->bytes == at && (last->content == IS_ZERO) == !content &&
        at % REGION_BYTES != 0) {
        last->bytes += GW_PAGE_BYTES;
    } else {
        chunk->pieces[chunk->n_pieces++] =
            (Piece){.at = at, .bytes = GW_PAGE_BYTES, .content = content ? end : IS_ZERO};
    }
    if (content) {
        memcpy(chunk->content + end, content, GW_PAGE_BYTES);
        chunk->n_pages++;
    }
}

static bool
find_place(const GwPlacer *placer, int block, uint64_t address, uint64_t *at, GError **error)
{
    const Block *in = &placer->blocks[block];

    if (address % GW_PAGE_BYTES != 0 || address >= in->bytes) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer means a page at 0x%" PRIx64 " of RAM block \"%s\", which has %" PRIu64
                    " bytes here",
                    address, in->name, in->bytes);
        return false;
    }
    *at = in->start + address;
    return true;
}

static Worker *
worker_of(GwPlacer *placer, uint64_t at)
{
    return &placer->workers[at / REGION_BYTES % placer->n_workers];
}

bool
gw_placer_put(GwPlacer *placer, int block, uint64_t address, const uint8_t *content, GError **error)
{
    uint64_t at;

    if (!find_place(placer, block, address, &at, error)) {
        return false;
    }
    Worker *worker = worker_of(placer, at);

    if (!worker->filling && !take_chunk(worker, error)) {
        return false;
    }
    add_page(worker->filling, at, content);
    if (worker->filling->n_pages == CHUNK_PAGES || worker->filling->n_pieces == CHUNK_PIECES) {
        hand_on(worker);
    }
    return true;
}

bool
gw_placer_drain(GwPlacer *placer, GError **error)
{
    for (unsigned i = 0; i < placer->n_workers; i++) {
        hand_on(&placer->workers[i]);
    }
    pthread_mutex_lock(&placer->lock);
    while (placer->under_way > 0) {
        pthread_cond_wait(&placer->written, &placer->lock);
    }
    bool failed = told_error(placer, error);
    pthread_mutex_unlock(&placer->lock);
    return !failed;
}

bool
gw_placer_has_failed(GwPlacer *placer)
{
    pthread_mutex_lock(&placer->lock);
    bool failed = placer->error != NULL;
    pthread_mutex_unlock(&placer->lock);
    return failed;
}

/* --- getting back ----------------------------------------------------------------------------- */

static const uint8_t *
find_in_chunk(const Chunk *chunk, uint64_t at)
{
    for (unsigned i = chunk->n_pieces; i-- > 0;) {
        const Piece *piece = &chunk->pieces[i];

        if (at - piece->at < piece->bytes) {
            return piece->content == IS_ZERO
                       ? zero_page
                       : chunk->content + piece->content + (size_t)(at - piece->at);
        }
    }
    return NULL;
}

/* What was put last of those that may not have been written yet; NULL: nothing. */
static const uint8_t *
find_in_chunks(const Worker *worker, uint64_t at)
{
    const uint8_t *found = NULL;

    for (unsigned i = 1; !found && i <= MIN(worker->n_taken, GW_PLACER_CHUNKS); i++) {
        found = find_in_chunk(worker->taken[(worker->n_taken - i) % GW_PLACER_CHUNKS], at);
    }
    return found;
}

bool
gw_placer_get(GwPlacer *placer, int block, uint64_t address, uint8_t *out, GError **error)
{
    GError *problem = NULL;
    uint64_t at;

    if (!find_place(placer, block, address, &at, error)) {
        return false;
    }
    const uint8_t *found = find_in_chunks(worker_of(placer, at), at);

    if (found) {
        memcpy(out, found, GW_PAGE_BYTES);
    } else if (!read_at(placer->memory_fd, at, out, GW_PAGE_BYTES, &problem)) {
        pthread_mutex_lock(&placer->lock);
        placer->error = placer->error ? placer->error : g_error_copy(problem);
        pthread_mutex_unlock(&placer->lock);
        g_propagate_error(error, problem);
        return false;
    }
    return true;
}

/* --- figures ---------------------------------------------------------------------------------- */

uint64_t
gw_placer_cpu_us(GwPlacer *placer)
{
    uint64_t cpu_us = 0;

    pthread_mutex_lock(&placer->lock);
    for (unsigned i = 0; i < placer->n_workers; i++) {
        cpu_us += placer->workers[i].cpu_us;
    }
    pthread_mutex_unlock(&placer->lock);
    return cpu_us;
}

uint64_t
gw_placer_memory_bytes(const GwPlacer *placer)
{
    return (uint64_t)placer->n_workers * GW_PLACER_CHUNKS * sizeof(Chunk);
}
