// SPDX-License-Identifier: Apache-2.0
/*
 * Keeping the pages of a VM that leaves.
 *
 * The stream's thread copies pages into pieces of PIECE_PAGES; the writer's thread takes the pieces
 * in their order and writes them where they belong. It gets its share of the processors: behind all
 * others, on a host with few, it would not follow a stream of references, and nothing would be
 * kept. Writer and owner hold a reference each, so that nobody waits for a disk. `lock` guards the
 * queue. Fails by giving the visit up, with a line in the log: the file is removed and what follows
 * is dropped.
 */
#include "lane/visit.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define PIECE_PAGES 64u
#define MAX_PIECES  (GW_VISIT_MAX_WAITING / PIECE_PAGES)

typedef struct Piece {
    unsigned n;
    uint64_t places[PIECE_PAGES];
    uint8_t pages[PIECE_PAGES][GW_PAGE_BYTES];
} Piece;

typedef enum VisitState {
    VISIT_OPEN,
    VISIT_KEEP, /* all is put */
    VISIT_GIVEN_UP,
    VISIT_WHOLE,
} VisitState;

struct GwVisitWriter {
    unsigned refs; /* atomic */
    char *path;
    char *part;

    /* The putting thread's. */
    Piece *piece;

    /* The writer's thread's. */
    GwFd fd;

    /* Under `lock`. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GQueue pieces; /* of Piece */
    GQueue empty;  /* of Piece: memory that is at hand, which new memory may not be */
    VisitState state;
    bool ended; /* the thread has */
};

static void
writer_unref(GwVisitWriter *writer)
{
    if (__atomic_sub_fetch(&writer->refs, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    g_queue_clear_full(&writer->pieces, g_free);
    g_queue_clear_full(&writer->empty, g_free);
    g_free(writer->piece);
    gw_fd_clear(&writer->fd);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->lock);
    g_free(writer->path);
    g_free(writer->part);
    g_free(writer);
}

/* --- the thread ------------------------------------------------------------------------------- */

/* Pages that follow each other are written at one go. */
static bool
write_piece(GwVisitWriter *writer, const Piece *piece)
{
    for (unsigned i = 0, n; i < piece->n; i += n) {
        size_t done = 0;

        for (n = 1; i + n < piece->n && piece->places[i + n] == piece->places[i] + n; n++) {
        }
        while (done < (size_t)n * GW_PAGE_BYTES) {
            ssize_t len =
                pwrite(writer->fd, piece->pages[i] + done, (size_t)n * GW_PAGE_BYTES - done,
                       (off_t)(piece->places[i] * GW_PAGE_BYTES + done));

            if (len < 0 && errno != EINTR) {
                return false;
            }
            done += len > 0 ? (size_t)len : 0;
        }
    }
    return true;
}

/* The next piece; NULL: there is no more to do. With the lock held. */
static Piece *
next_piece(GwVisitWriter *writer)
{
    while (writer->state == VISIT_OPEN && g_queue_is_empty(&writer->pieces)) {
        pthread_cond_wait(&writer->changed, &writer->lock);
    }
    return writer->state == VISIT_GIVEN_UP ? NULL : g_queue_pop_head(&writer->pieces);
}

static void
finish(GwVisitWriter *writer)
{
    bool whole = false;

    if (writer->state == VISIT_KEEP) {
        whole = g_rename(writer->part, writer->path) == 0;
    }
    if (!whole) {
        (void)g_unlink(writer->part);
    }
    writer->state = whole ? VISIT_WHOLE : VISIT_GIVEN_UP;
    writer->ended = true;
    pthread_cond_broadcast(&writer->changed);
}

static void *
writer_thread(void *data)
{
    GwVisitWriter *writer = data;
    Piece *piece;

    pthread_mutex_lock(&writer->lock);
    while ((piece = next_piece(writer))) {
        pthread_mutex_unlock(&writer->lock);
        bool written = write_piece(writer, piece);
        int errnum = errno;

        pthread_mutex_lock(&writer->lock);
        g_queue_push_head(&writer->empty, piece);
        if (!written) {
            gw_warn(NULL, "a VM's memory is not kept for its return: cannot write '%s': %s",
                    writer->part, g_strerror(errnum));
            writer->state = VISIT_GIVEN_UP;
        }
    }
    finish(writer);
    pthread_mutex_unlock(&writer->lock);
    writer_unref(writer);
    return NULL;
}

static bool
start_thread(GwVisitWriter *writer, GError **error)
{
    pthread_attr_t attributes;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    writer->refs++;
    int errnum = pthread_create(&thread, &attributes, writer_thread, writer);
    pthread_attr_destroy(&attributes);
    if (errnum != 0) {
        writer->refs--;
        gw_set_error_errno(error, errnum, "cannot make a thread to keep a VM's memory");
    }
    return errnum == 0;
}

/* --- for the owner ---------------------------------------------------------------------------- */

GwVisitWriter *
gw_visit_writer_new(const char *path, GError **error)
{
    GwVisitWriter *writer = g_new0(GwVisitWriter, 1);

    writer->refs = 1;
    writer->path = g_strdup(path);
    writer->part = g_strdup_printf("%s.part", path);
    pthread_mutex_init(&writer->lock, NULL);
    pthread_cond_init(&writer->changed, NULL);
    g_queue_init(&writer->pieces);
    g_queue_init(&writer->empty);
    writer->fd = open(writer->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (writer->fd < 0) {
        gw_set_error_errno(error, errno, "cannot make '%s'", writer->part);
    } else if (start_thread(writer, error)) {
        return writer;
    } else {
        (void)g_unlink(writer->part);
    }
    writer_unref(writer);
    return NULL;
}

void
gw_visit_writer_free(GwVisitWriter *writer)
{
    if (!writer) {
        return;
    }
    pthread_mutex_lock(&writer->lock);
    if (writer->state == VISIT_OPEN) {
        writer->state = VISIT_GIVEN_UP;
    }
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    writer_unref(writer);
}

/* Hands the piece that is being filled to the thread. */
static void
hand_over(GwVisitWriter *writer)
{
    Piece *piece = g_steal_pointer(&writer->piece);

    pthread_mutex_lock(&writer->lock);
    if (writer->state == VISIT_OPEN && writer->pieces.length == MAX_PIECES) {
        gw_info(NULL, "a VM's memory is not kept for its return: the disk of '%s' does not follow",
                writer->part);
        writer->state = VISIT_GIVEN_UP;
    }
    if (writer->state == VISIT_OPEN) {
        g_queue_push_tail(&writer->pieces, g_steal_pointer(&piece));
        writer->piece = g_queue_pop_head(&writer->empty);
        if (writer->piece) {
            writer->piece->n = 0;
        }
    }
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    g_free(piece);
}

void
gw_visit_writer_put(GwVisitWriter *writer, uint16_t block, uint64_t page, const uint8_t *content)
{
    uint64_t place;

    if (!gw_visit_place(block, page, &place)) {
        return;
    }
    if (!writer->piece) {
        writer->piece = g_try_new(Piece, 1);
        if (!writer->piece) {
            return; /* not kept, and missed later */
        }
        writer->piece->n = 0;
    }
    Piece *piece = writer->piece;

    piece->places[piece->n] = place;
    memcpy(piece->pages[piece->n++], content, GW_PAGE_BYTES);
    if (piece->n == PIECE_PAGES) {
        hand_over(writer);
    }
}

void
gw_visit_writer_keep(GwVisitWriter *writer)
{
    if (writer->piece && writer->piece->n > 0) {
        hand_over(writer);
    }
    pthread_mutex_lock(&writer->lock);
    if (writer->state == VISIT_OPEN) {
        writer->state = VISIT_KEEP;
    }
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
}

bool
gw_visit_writer_wait(GwVisitWriter *writer)
{
    pthread_mutex_lock(&writer->lock);
    while (!writer->ended) {
        pthread_cond_wait(&writer->changed, &writer->lock);
    }
    bool whole = writer->state == VISIT_WHOLE;
    pthread_mutex_unlock(&writer->lock);
    return whole;
}
