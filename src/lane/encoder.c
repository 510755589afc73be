// SPDX-License-Identifier: Apache-2.0
/*
 * A line of jobs in the stream's order, and the threads that work on it.
 *
 * Owns batches, jobs and threads; `lock` guards them, and is not held while a batch is encoded or a
 * frame pushed. One thread at a time pushes (`pushing`), always from the line's head: that keeps
 * the order. Workers never wait for the link, only for jobs, so freeing takes as long as encoding
 * what was given. Limits: see encoder.h; frames that are ready are small and few. Cannot fail once
 * it runs.
 */
#include "lane/encoder.h"

#include "base/processor.h"
#include "base/units.h"
#include "lane/session.h"

#include <pthread.h>

#define BATCHES_PER_WORKER 2u
#define WORKER_BYTES       (9u * 1024u * 1024u)
/* More, of the first worker, from the first batch on that a single encoder has to encode. */
#define SINGLE_BYTES (76u * 1024u * 1024u)

/* The worker for batches that a single encoder has to encode. */
#define SINGLE_WORKER 0u

typedef struct Job {
    GwBatch *batch; /* NULL: `frame` is ready */
    GwBatchEffort effort;
    GwFrame *frame; /* NULL: not yet, or nothing came of an empty batch */
    bool taken;     /* a worker has it */
    bool ready;
} Job;

struct GwEncoder {
    GwFramePool *pool;
    GwOutbox *outbox;
    GwRefKeep *keep; /* NULL: no references */
    unsigned n_workers;
    pthread_t workers[GW_ENCODER_MAX_WORKERS];

    pthread_mutex_t lock;
    pthread_cond_t work;    /* a job to take, or stopping */
    pthread_cond_t changed; /* what the stream thread waits for: a batch to fill, or all pushed */
    GQueue jobs;            /* of Job: not pushed yet, in order */
    GQueue batches;         /* of GwBatch: empty */
    unsigned n_batches;     /* made */
    unsigned n_started;     /* workers */
    bool had_single;        /* SINGLE_BYTES are taken */
    bool pushing;
    bool stopping;
    GwEncoderFigures figures;
};

/* --- the workers ------------------------------------------------------------------------------ */

static Job *
next_job(const GwEncoder *encoder, unsigned worker)
{
    for (GList *item = encoder->jobs.head; item; item = item->next) {
        Job *job = item->data;

        if (!job->taken && (worker == SINGLE_WORKER || !job->effort.codec->single)) {
            return job;
        }
    }
    return NULL;
}

static void
push(GwEncoder *encoder, GwFrame *frame)
{
    if (frame->references) {
        gw_ref_keep_push(encoder->keep, encoder->outbox, frame, gw_now_us());
    } else {
        gw_outbox_push(encoder->outbox, frame);
    }
}

/* Pushes what is ready at the head. Under the lock, which is let go in between. */
static void
push_ready(GwEncoder *encoder)
{
    if (encoder->pushing) {
        return;
    }
    encoder->pushing = true;
    for (;;) {
        Job *job = g_queue_peek_head(&encoder->jobs);

        if (!job || !job->ready) {
            break;
        }
        g_queue_pop_head(&encoder->jobs);
        if (job->frame) {
            pthread_mutex_unlock(&encoder->lock);
            push(encoder, job->frame);
            pthread_mutex_lock(&encoder->lock);
        }
        g_free(job);
    }
    encoder->pushing = false;
    pthread_cond_signal(&encoder->changed);
}

/* Under the lock, which is let go meanwhile. */
static void
encode(GwEncoder *encoder, GwBatchEncoder *codec, Job *job, uint64_t *cpu_us)
{
    GwBatch *batch = job->batch;

    job->taken = true;
    pthread_mutex_unlock(&encoder->lock);
    GwFrame *frame = gw_batch_encode(codec, batch, &job->effort);
    uint64_t now_us = gw_thread_cpu_us();
    pthread_mutex_lock(&encoder->lock);
    job->frame = frame;
    job->ready = true;
    encoder->figures.cpu_us += now_us - *cpu_us;
    *cpu_us = now_us;
    g_queue_push_tail(&encoder->batches, batch);
    pthread_cond_signal(&encoder->changed);
    push_ready(encoder);
}

static void *
run_worker(void *data)
{
    GwEncoder *encoder = data;
    uint64_t cpu_us = 0;

    pthread_mutex_lock(&encoder->lock);
    unsigned worker = encoder->n_started++;
    g_autoptr(GwBatchEncoder) codec = gw_batch_encoder_new(worker);
    for (;;) {
        Job *job = next_job(encoder, worker);

        if (job) {
            encode(encoder, codec, job, &cpu_us);
        } else if (encoder->stopping) {
            break;
        } else {
            pthread_cond_wait(&encoder->work, &encoder->lock);
        }
    }
    pthread_mutex_unlock(&encoder->lock);
    return NULL;
}

/* --- making and freeing ----------------------------------------------------------------------- */

GwEncoder *
gw_encoder_new(GwFramePool *pool, GwOutbox *outbox, unsigned n_workers, GError **error)
{
    g_autoptr(GError) problem = NULL;
    GwEncoder *encoder = g_new0(GwEncoder, 1);

    encoder->pool = pool;
    encoder->outbox = outbox;
    pthread_mutex_init(&encoder->lock, NULL);
    pthread_cond_init(&encoder->work, NULL);
    pthread_cond_init(&encoder->changed, NULL);
    g_queue_init(&encoder->jobs);
    g_queue_init(&encoder->batches);
    while (encoder->n_workers < CLAMP(n_workers, 1, GW_ENCODER_MAX_WORKERS) &&
           gw_lane_start_thread(&encoder->workers[encoder->n_workers], run_worker, encoder,
                                "gw-lane-encode", &problem)) {
        encoder->n_workers++;
    }
    if (encoder->n_workers == 0) {
        g_propagate_error(error, g_steal_pointer(&problem));
        gw_encoder_free(encoder);
        return NULL;
    }
    return encoder;
}

void
gw_encoder_set_keep(GwEncoder *encoder, GwRefKeep *keep)
{
    encoder->keep = keep;
}

void
gw_encoder_free(GwEncoder *encoder)
{
    if (!encoder) {
        return;
    }
    pthread_mutex_lock(&encoder->lock);
    encoder->stopping = true;
    pthread_cond_broadcast(&encoder->work);
    pthread_mutex_unlock(&encoder->lock);
    for (unsigned i = 0; i < encoder->n_workers; i++) {
        pthread_join(encoder->workers[i], NULL);
    }
    g_queue_clear_full(&encoder->batches, (GDestroyNotify)gw_batch_free);
    pthread_cond_destroy(&encoder->work);
    pthread_cond_destroy(&encoder->changed);
    pthread_mutex_destroy(&encoder->lock);
    g_free(encoder);
}

/* --- the stream thread ------------------------------------------------------------------------ */

GwBatch *
gw_encoder_take_batch(GwEncoder *encoder)
{
    unsigned max_batches = BATCHES_PER_WORKER * encoder->n_workers + 1;

    pthread_mutex_lock(&encoder->lock);
    int64_t begin_us = gw_now_us();
    while (g_queue_is_empty(&encoder->batches) && encoder->n_batches == max_batches) {
        pthread_cond_wait(&encoder->changed, &encoder->lock);
        encoder->figures.waited_us += (uint64_t)(gw_now_us() - begin_us);
        begin_us = gw_now_us();
    }
    GwBatch *batch = g_queue_pop_head(&encoder->batches);
    encoder->n_batches += batch ? 0 : 1;
    pthread_mutex_unlock(&encoder->lock);
    return batch ? batch : gw_batch_new(encoder->pool);
}

static void
put_job(GwEncoder *encoder, const Job *job)
{
    pthread_mutex_lock(&encoder->lock);
    g_queue_push_tail(&encoder->jobs, g_memdup2(job, sizeof(*job)));
    if (job->ready) {
        push_ready(encoder);
    } else {
        encoder->had_single |= job->effort.codec->single;
        /* Not every worker may take every job. */
        pthread_cond_broadcast(&encoder->work);
    }
    pthread_mutex_unlock(&encoder->lock);
}

void
gw_encoder_put_batch(GwEncoder *encoder, GwBatch *batch, const GwBatchEffort *effort)
{
    put_job(encoder, &(Job){.batch = batch, .effort = *effort});
}

void
gw_encoder_put_frame(GwEncoder *encoder, GwFrame *frame)
{
    put_job(encoder, &(Job){.frame = frame, .taken = true, .ready = true});
}

bool
gw_encoder_has_backlog(GwEncoder *encoder)
{
    pthread_mutex_lock(&encoder->lock);
    bool has_backlog = next_job(encoder, SINGLE_WORKER) != NULL;
    pthread_mutex_unlock(&encoder->lock);
    return has_backlog;
}

void
gw_encoder_drain(GwEncoder *encoder)
{
    pthread_mutex_lock(&encoder->lock);
    while (encoder->pushing || !g_queue_is_empty(&encoder->jobs)) {
        pthread_cond_wait(&encoder->changed, &encoder->lock);
    }
    pthread_mutex_unlock(&encoder->lock);
}

void
gw_encoder_figures(GwEncoder *encoder, GwEncoderFigures *out)
{
    pthread_mutex_lock(&encoder->lock);
    *out = encoder->figures;
    out->n_workers = encoder->n_workers;
    out->memory_bytes = (uint64_t)encoder->n_workers * WORKER_BYTES +
                        (encoder->had_single ? SINGLE_BYTES : 0) +
                        (uint64_t)encoder->n_batches * 2 * GW_BATCH_MAX_BODY_BYTES;
    pthread_mutex_unlock(&encoder->lock);
}
