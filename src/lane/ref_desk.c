// SPDX-License-Identifier: Apache-2.0
/*
 * Resolving references ahead of their frames' turn.
 *
 * A desk has one job per frame, in the order of the frames; they are resolved in this order, as
 * long as not too many pages wait, the first one always. The thread and the owner hold a reference
 * each. The images and a tagger are the thread's; `lock` guards the rest; a job that is being
 * resolved is the thread's until it says so. Proofs of FILLs are computed by the link that brought
 * them.
 */
#include "lane/ref_desk.h"

#include "base/processor.h"
#include "base/units.h"
#include "lane/batch.h"

#include <pthread.h>
#include <time.h>

/* Frames for whose blocks the disk is asked ahead, where it has to be waited for. */
#define MAX_AHEAD 16u

typedef enum JobState {
    JOB_WAITS,
    JOB_IN_WORK,
    JOB_RESOLVED, /* has pages or an error */
} JobState;

typedef struct Job {
    JobState state;
    GwFrame *frame;
    GwBatchReferences references; /* into the frame */
    GwRefPages *pages;
    GError *error;
    bool need_due;
} Job;

struct GwRefDesk {
    unsigned refs; /* atomic */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GwRefDeskWake wake;
    void *wake_data;
    GQueue jobs;      /* of Job, owned */
    GList *waiting;   /* the first of them that waits, NULL: none does */
    GList *unasked;   /* the first that waits and whose blocks the disk was not asked for */
    unsigned n_ahead; /* jobs before that one which wait */
    bool is_cold;     /* the last blocks that were read were not in memory */
    unsigned n_open;  /* jobs with questions that are not answered */
    unsigned n_pages; /* of the jobs that are not waiting */
    uint64_t taken;   /* the last sequence */
    int64_t asked_us; /* the last question or answer */
    GwPageTagger *fill_tagger; /* NULL: the key is not known yet */
    uint64_t cpu_us;
    bool has_images;
    bool ended;
    bool closing;
    bool closed;
    bool stopped;

    /* The thread's; the tagger from when `fill_tagger` is there. */
    GwRefTarget *images;
    GwPageTagger *tagger;
};

static void
job_free(void *data)
{
    Job *job = data;

    gw_frame_free(job->frame);
    gw_ref_pages_free(job->pages);
    g_clear_error(&job->error);
    g_free(job);
}

GwRefDesk *
gw_ref_desk_new(GwRefDeskWake wake, void *data)
{
    GwRefDesk *desk = g_new0(GwRefDesk, 1);
    pthread_condattr_t attributes;

    desk->refs = 1;
    desk->wake = wake;
    desk->wake_data = data;
    pthread_mutex_init(&desk->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&desk->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    g_queue_init(&desk->jobs);
    return desk;
}

static void
desk_unref(GwRefDesk *desk)
{
    if (__atomic_sub_fetch(&desk->refs, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    g_queue_clear_full(&desk->jobs, job_free);
    gw_ref_target_free(desk->images);
    gw_page_tagger_free(desk->tagger);
    gw_page_tagger_free(desk->fill_tagger);
    pthread_cond_destroy(&desk->changed);
    pthread_mutex_destroy(&desk->lock);
    g_free(desk);
}

/* Frames belong to their pool, which the owner may free next. */
void
gw_ref_desk_free(GwRefDesk *desk)
{
    if (!desk) {
        return;
    }
    gw_ref_desk_stop(desk);
    pthread_mutex_lock(&desk->lock);
    for (GList *item = desk->jobs.head; item; item = item->next) {
        Job *job = item->data;

        g_clear_pointer(&job->frame, gw_frame_free);
    }
    pthread_mutex_unlock(&desk->lock);
    desk_unref(desk);
}

/* --- the thread ------------------------------------------------------------------------------- */

static Job *
next_to_resolve(const GwRefDesk *desk)
{
    if (!desk->waiting || !desk->fill_tagger) {
        return NULL;
    }
    Job *job = desk->waiting->data;
    bool fits = desk->n_pages + job->references.n_pages <= GW_REF_MAX_UNPROVEN_PAGES;

    return fits || desk->waiting == desk->jobs.head ? job : NULL;
}

/*
 * One frame more: a disk is much quicker with many reads to choose from. With the lock held, which
 * is given up meanwhile.
 */
static void
prefetch(GwRefDesk *desk)
{
    Job *job = desk->unasked->data;
    const size_t len = job->references.len;
    g_autofree uint8_t *section = g_memdup2(job->references.section, len);

    desk->unasked = desk->unasked->next;
    desk->n_ahead++;
    pthread_mutex_unlock(&desk->lock);
    gw_ref_target_prefetch(desk->images, section, len);
    pthread_mutex_lock(&desk->lock);
}

/* With the lock held, which is given up meanwhile. */
static void
resolve(GwRefDesk *desk, Job *job)
{
    const GwBatchReferences references = job->references;
    g_autofree uint8_t *section = g_memdup2(references.section, references.len);
    GError *error = NULL;

    job->state = JOB_IN_WORK;
    if (desk->unasked == desk->waiting) {
        desk->unasked = desk->unasked->next;
    } else {
        desk->n_ahead--;
    }
    desk->waiting = desk->waiting->next;
    desk->n_pages += references.n_pages;
    pthread_mutex_unlock(&desk->lock);
    GwRefPages *pages = gw_ref_target_resolve(desk->images, desk->tagger, section, references.len,
                                              references.n_pages, &error);
    uint64_t cpu_us = gw_thread_cpu_us();
    pthread_mutex_lock(&desk->lock);
    desk->cpu_us = cpu_us;
    job->state = JOB_RESOLVED;
    job->pages = pages;
    job->error = error;
    desk->is_cold = pages && gw_ref_pages_were_cold(pages);
    if (pages && !gw_ref_pages_is_proven(pages)) {
        job->need_due = true;
        desk->n_open++;
        desk->asked_us = gw_now_us();
        if (!desk->stopped) {
            desk->wake(desk->wake_data);
        }
    }
    pthread_cond_broadcast(&desk->changed);
}

static bool
is_open(const Job *job)
{
    return job->state == JOB_RESOLVED && job->pages && !gw_ref_pages_is_proven(job->pages);
}

static bool
ask_again_locked(GwRefDesk *desk)
{
    bool any = false;

    for (GList *item = desk->jobs.head; item; item = item->next) {
        Job *job = item->data;

        if (is_open(job)) {
            job->need_due = true;
            any = true;
        }
    }
    if (any && !desk->stopped) {
        desk->wake(desk->wake_data);
    }
    return any;
}

/* Until something changes, or an answer is overdue. */
static void
wait_locked(GwRefDesk *desk)
{
    struct timespec until;

    if (desk->n_open == 0) {
        pthread_cond_wait(&desk->changed, &desk->lock);
        return;
    }
    if (gw_now_us() - desk->asked_us >= GW_REF_ANSWER_US) {
        desk->asked_us = gw_now_us();
        (void)ask_again_locked(desk);
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    (void)pthread_cond_timedwait(&desk->changed, &desk->lock, &until);
}

static void *
desk_thread(void *data)
{
    GwRefDesk *desk = data;

    pthread_mutex_lock(&desk->lock);
    while (!desk->stopped && !desk->closing) {
        Job *job = next_to_resolve(desk);

        if (job && desk->is_cold && desk->unasked && desk->n_ahead < MAX_AHEAD) {
            prefetch(desk);
        } else if (job) {
            resolve(desk, job);
        } else {
            wait_locked(desk);
        }
    }
    pthread_mutex_unlock(&desk->lock);
    g_clear_pointer(&desk->images, gw_ref_target_free);
    pthread_mutex_lock(&desk->lock);
    desk->closed = true;
    pthread_cond_broadcast(&desk->changed);
    pthread_mutex_unlock(&desk->lock);
    desk_unref(desk);
    return NULL;
}

bool
gw_ref_desk_start(GwRefDesk *desk, GwRefTarget *images, GError **error)
{
    pthread_attr_t attributes;
    pthread_t thread;

    desk->images = images;
    desk->refs++;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int errnum = pthread_create(&thread, &attributes, desk_thread, desk);
    pthread_attr_destroy(&attributes);
    if (errnum != 0) {
        desk->refs--;
        g_clear_pointer(&desk->images, gw_ref_target_free);
        gw_set_error_errno(error, errnum, "cannot start a thread for references");
        return false;
    }
    pthread_mutex_lock(&desk->lock);
    desk->has_images = true;
    pthread_mutex_unlock(&desk->lock);
    return true;
}

bool
gw_ref_desk_set_key(GwRefDesk *desk, const uint8_t key[GW_PAGE_TAG_KEY_BYTES], GError **error)
{
    g_autoptr(GwPageTagger) tagger = gw_page_tagger_new(key, error);
    g_autoptr(GwPageTagger) fill_tagger = tagger ? gw_page_tagger_new(key, error) : NULL;

    if (!fill_tagger) {
        return false;
    }
    pthread_mutex_lock(&desk->lock);
    if (!desk->fill_tagger) {
        desk->tagger = g_steal_pointer(&tagger);
        desk->fill_tagger = g_steal_pointer(&fill_tagger);
    }
    pthread_cond_broadcast(&desk->changed);
    pthread_mutex_unlock(&desk->lock);
    return true;
}

/* --- frames ----------------------------------------------------------------------------------- */

void
gw_ref_desk_announce(GwRefDesk *desk, GwFrame *frame)
{
    GwBatchReferences references;

    if (frame->header.type != GW_FRAME_RAM ||
        !gw_batch_references(gw_frame_payload(frame), frame->header.payload_bytes, &references) ||
        references.n_pages == 0) {
        return; /* what is damaged is told when it is decoded */
    }
    pthread_mutex_lock(&desk->lock);
    if (!desk->closing && !desk->stopped) {
        Job *job = g_new0(Job, 1);

        job->frame = gw_frame_ref(frame);
        job->references = references;
        g_queue_push_tail(&desk->jobs, job);
        desk->waiting = desk->waiting ? desk->waiting : desk->jobs.tail;
        desk->unasked = desk->unasked ? desk->unasked : desk->jobs.tail;
        pthread_cond_broadcast(&desk->changed);
    }
    pthread_mutex_unlock(&desk->lock);
}

/* The first job, which is that of @sequence; NULL: there is none. */
static Job *
first_job(const GwRefDesk *desk, uint64_t sequence)
{
    Job *job = g_queue_peek_head((GQueue *)&desk->jobs);

    return job && job->frame->header.sequence == sequence ? job : NULL;
}

static bool
is_done(const GwRefDesk *desk, const Job *job)
{
    return desk->stopped || desk->closed ||
           (job->state == JOB_RESOLVED && (!is_open(job) || desk->ended));
}

/* A read that is under way when the session ends is waited for, a disk that hangs is not. */
static void
wait_until_done(GwRefDesk *desk, const Job *job)
{
    struct timespec until = {0};
    bool in_time = true;

    while (in_time && !is_done(desk, job)) {
        if (!desk->ended) {
            pthread_cond_wait(&desk->changed, &desk->lock);
            continue;
        }
        if (until.tv_sec == 0) {
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += GW_REF_READ_S;
        }
        in_time = pthread_cond_timedwait(&desk->changed, &desk->lock, &until) == 0;
    }
}

static GwRefPages *
take_locked(GwRefDesk *desk, uint64_t sequence, GError **error)
{
    Job *job = first_job(desk, sequence);

    if (!job || !desk->has_images || !desk->fill_tagger) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer referred to disk images that were not agreed on");
        return NULL;
    }
    wait_until_done(desk, job);
    if (job->state != JOB_RESOLVED || (!job->error && is_open(job))) {
        g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED,
                    "the session ended before all referenced pages were there");
        return NULL;
    }
    GwRefPages *pages = g_steal_pointer(&job->pages);

    if (!pages) {
        g_propagate_error(error, g_steal_pointer(&job->error));
    }
    g_queue_pop_head(&desk->jobs);
    desk->n_pages -= job->references.n_pages;
    desk->taken = sequence;
    job_free(job);
    pthread_cond_broadcast(&desk->changed);
    return pages;
}

bool
gw_ref_desk_is_ready(GwRefDesk *desk, uint64_t sequence)
{
    pthread_mutex_lock(&desk->lock);
    const Job *job = first_job(desk, sequence);
    bool ready = !job || is_done(desk, job);
    pthread_mutex_unlock(&desk->lock);
    return ready;
}

GwRefPages *
gw_ref_desk_take(GwRefDesk *desk, uint64_t sequence, GError **error)
{
    pthread_mutex_lock(&desk->lock);
    GwRefPages *pages = take_locked(desk, sequence, error);
    pthread_mutex_unlock(&desk->lock);
    return pages;
}

void
gw_ref_desk_close(GwRefDesk *desk)
{
    pthread_mutex_lock(&desk->lock);
    desk->closing = true;
    pthread_cond_broadcast(&desk->changed);
    pthread_mutex_unlock(&desk->lock);
}

void
gw_ref_desk_wait_closed(GwRefDesk *desk)
{
    pthread_mutex_lock(&desk->lock);
    while (desk->has_images && !desk->closed && !desk->stopped) {
        pthread_cond_wait(&desk->changed, &desk->lock);
    }
    pthread_mutex_unlock(&desk->lock);
}

void
gw_ref_desk_end(GwRefDesk *desk)
{
    pthread_mutex_lock(&desk->lock);
    desk->ended = true;
    pthread_cond_broadcast(&desk->changed);
    pthread_mutex_unlock(&desk->lock);
}

void
gw_ref_desk_stop(GwRefDesk *desk)
{
    pthread_mutex_lock(&desk->lock);
    desk->stopped = true;
    pthread_cond_broadcast(&desk->changed);
    pthread_mutex_unlock(&desk->lock);
}

uint64_t
gw_ref_desk_cpu_us(GwRefDesk *desk)
{
    pthread_mutex_lock(&desk->lock);
    uint64_t cpu_us = desk->cpu_us;
    pthread_mutex_unlock(&desk->lock);
    return cpu_us;
}

/* --- links ------------------------------------------------------------------------------------ */

void
gw_ref_desk_ask_again(GwRefDesk *desk)
{
    pthread_mutex_lock(&desk->lock);
    (void)ask_again_locked(desk);
    pthread_mutex_unlock(&desk->lock);
}

static Job *
next_asking(const GwRefDesk *desk)
{
    for (GList *item = desk->n_open > 0 ? desk->jobs.head : NULL; item; item = item->next) {
        Job *job = item->data;

        if (job->need_due) {
            return job;
        }
    }
    return NULL;
}

bool
gw_ref_desk_has_need(GwRefDesk *desk)
{
    pthread_mutex_lock(&desk->lock);
    bool has_need = next_asking(desk) != NULL;
    pthread_mutex_unlock(&desk->lock);
    return has_need;
}

bool
gw_ref_desk_next_need(GwRefDesk *desk, GByteArray *out)
{
    pthread_mutex_lock(&desk->lock);
    Job *job = next_asking(desk);
    if (job) {
        job->need_due = false;
        desk->asked_us = gw_now_us();
        gw_ref_pages_need(job->pages, job->frame->header.sequence, out);
    }
    pthread_mutex_unlock(&desk->lock);
    return job != NULL;
}

static bool
take_fill_locked(GwRefDesk *desk, uint64_t sequence, const uint8_t *payload, size_t len,
                 GError **error)
{
    for (GList *item = desk->jobs.head; item; item = item->next) {
        Job *job = item->data;

        if (job->frame->header.sequence == sequence && job->state == JOB_RESOLVED && job->pages) {
            bool was_open = is_open(job);

            desk->asked_us = gw_now_us();
            if (!gw_ref_pages_fill(job->pages, desk->fill_tagger, payload, len, error)) {
                return false;
            }
            bool answered = was_open && !is_open(job);

            desk->n_open -= answered;
            job->need_due = job->need_due && !answered;
            pthread_cond_broadcast(&desk->changed);
            return true;
        }
    }
    if (sequence <= desk->taken) {
        return true; /* the second answer to a question that was repeated */
    }
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                "the peer answered a question about frame %" G_GUINT64_FORMAT " that was not asked",
                sequence);
    return false;
}

bool
gw_ref_desk_take_fill(GwRefDesk *desk, const uint8_t *payload, size_t len, GError **error)
{
    uint64_t sequence;

    if (!gw_ref_sequence(payload, len, &sequence, error)) {
        return false;
    }
    pthread_mutex_lock(&desk->lock);
    bool ok = take_fill_locked(desk, sequence, payload, len, error);
    pthread_mutex_unlock(&desk->lock);
    return ok;
}
