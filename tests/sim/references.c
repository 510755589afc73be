// SPDX-License-Identifier: Apache-2.0
/* References in a simulated session. Every sixth block of the target's disk has changed. */
#include "references.h"

#include "lane/batch.h"

#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_BLOCKS       600u
#define N_TARGET       512u /* the target's disk is shorter */
#define CHANGED_OF     6u
#define WORDS_OF_PAGE  (GW_PAGE_BYTES / sizeof(uint64_t))
#define MAX_USUAL      6
#define BIG_IN_HUNDRED 1

typedef struct SentFrame {
    unsigned first_block;
    unsigned n_pages; /* 0: a frame without references */
    bool has_changed;
} SentFrame;

struct SimReferences {
    GRand *random;
    GwRefSource *source;
    GwPageTagger *tagger;
    GwRefKeep *keep;
    GwRefDesk *desk;
    GArray *sent; /* of SentFrame, by sequence */
    pthread_t own;
    sem_t questions; /* of the desk's thread */
    unsigned unsettled;
    int64_t asked_us;
    uint64_t taken;
    SimReferenceCounts counts;
};

/* --- the disk --------------------------------------------------------------------------------- */

static bool
is_changed(unsigned block)
{
    return block % CHANGED_OF == 0 || block >= N_TARGET;
}

static void
make_page(uint64_t page[WORDS_OF_PAGE], unsigned block, bool at_target)
{
    for (unsigned i = 0; i < WORDS_OF_PAGE; i++) {
        page[i] = (block + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
    }
    page[WORDS_OF_PAGE - 1] += at_target && is_changed(block);
}

static GwImage *
open_disk(void)
{
    static int fd = -1;
    g_autoptr(GError) error = NULL;

    if (fd < 0) {
        fd = memfd_create("godwit-sim-disk", MFD_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        for (unsigned block = 0; block < N_TARGET; block++) {
            uint64_t page[WORDS_OF_PAGE];

            make_page(page, block, true);
            g_assert_cmpint(write(fd, page, sizeof(page)), ==, sizeof(page));
        }
    }
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    GwImage *image = gw_image_open(path, "raw", &error);

    g_assert_no_error(error);
    return image;
}

/* --- both ends -------------------------------------------------------------------------------- */

/* The thread has found out that it must ask; a question that is repeated is no news. */
static void
on_question(void *data)
{
    SimReferences *references = data;

    if (!pthread_equal(pthread_self(), references->own)) {
        sem_post(&references->questions);
    }
}

static void
on_answer(void *data)
{
}

SimReferences *
sim_references_new(GRand *random)
{
    static const uint8_t key[GW_PAGE_TAG_KEY_BYTES] = {7};
    SimReferences *references = g_new0(SimReferences, 1);
    GwRefTarget *images = gw_ref_target_new();
    g_autoptr(GError) error = NULL;

    references->random = random;
    references->own = pthread_self();
    references->source = gw_ref_source_new(&(GwRefSourceOptions){.cache_folder = NULL});
    references->keep = gw_ref_keep_new(references->source, on_answer, references);
    references->desk = gw_ref_desk_new(on_question, references);
    references->sent = g_array_new(FALSE, TRUE, sizeof(SentFrame));
    references->tagger = gw_page_tagger_new(key, &error);
    g_assert_no_error(error);
    sem_init(&references->questions, 0, 0);
    gw_ref_target_set_image(images, 0, open_disk());
    bool started = gw_ref_desk_start(references->desk, images, &error);
    g_assert_no_error(error);
    g_assert_true(started);
    g_assert_true(gw_ref_desk_set_key(references->desk, key, &error));
    return references;
}

void
sim_references_free(SimReferences *references)
{
    if (!references) {
        return;
    }
    gw_ref_desk_close(references->desk);
    gw_ref_desk_wait_closed(references->desk);
    gw_ref_desk_free(references->desk);
    gw_ref_keep_free(references->keep);
    gw_ref_source_free(references->source);
    gw_page_tagger_free(references->tagger);
    g_array_unref(references->sent);
    sem_destroy(&references->questions);
    g_free(references);
}

void
sim_references_add_counts(const SimReferences *references, SimReferenceCounts *sum)
{
    const SimReferenceCounts *counts = &references->counts;

    sum->frames += counts->frames;
    sum->unproven += counts->unproven;
    sum->needs += counts->needs;
    sum->fills += counts->fills;
    sum->double_fills += counts->double_fills;
    sum->late_fills += counts->late_fills;
    sum->overdue += counts->overdue;
}

static const SentFrame *
sent_frame(const SimReferences *references, uint64_t sequence)
{
    static const SentFrame none = {.n_pages = 0};

    return references && sequence < references->sent->len
               ? &g_array_index(references->sent, SentFrame, sequence)
               : &none;
}

bool
sim_references_has(const SimReferences *references, uint64_t sequence)
{
    return sent_frame(references, sequence)->n_pages > 0;
}

/* --- source ----------------------------------------------------------------------------------- */

static SentFrame
choose_pages(SimReferences *references)
{
    bool big = g_rand_int_range(references->random, 0, 100) < BIG_IN_HUNDRED;
    int most = big ? (int)GW_REF_MAX_PAGES : MAX_USUAL;
    SentFrame sent = {.n_pages = (unsigned)g_rand_int_range(references->random, 1, most + 1)};

    sent.first_block =
        (unsigned)g_rand_int_range(references->random, 0, (int)(N_BLOCKS - sent.n_pages));
    for (unsigned i = 0; i < sent.n_pages; i++) {
        sent.has_changed |= is_changed(sent.first_block + i);
    }
    return sent;
}

/* A batch of nothing but references. */
static GwFrame *
make_frame(GwFramePool *pool, unsigned n_pages, const GByteArray *section)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    g_byte_array_set_size(payload, GW_BATCH_HEADER_BYTES);
    memset(payload->data, 0, payload->len);
    payload->data[2] = (uint8_t)(n_pages >> 8);
    payload->data[3] = (uint8_t)n_pages;
    g_byte_array_append(payload, section->data, section->len);
    return gw_frame_new_with(pool, GW_FRAME_RAM, payload);
}

void
sim_references_push(SimReferences *references, GwFramePool *pool, GwOutbox *outbox,
                    uint64_t sequence, int64_t now_us)
{
    const SentFrame sent = choose_pages(references);
    GwRefGroup *group = gw_ref_group_new();
    g_autoptr(GByteArray) section = g_byte_array_new();

    for (unsigned i = 0; i < sent.n_pages; i++) {
        const GwRef ref = {.block = sent.first_block + i, .image = 0};
        uint64_t page[WORDS_OF_PAGE];
        GwPageTag tag;

        make_page(page, sent.first_block + i, false);
        gw_page_tag(references->tagger, (const uint8_t *)page, &tag);
        g_assert_true(gw_ref_group_add(group, &ref, (const uint8_t *)page, &tag));
    }
    gw_ref_group_encode(group, section);
    GwFrame *frame = make_frame(pool, sent.n_pages, section);

    frame->references = group;
    gw_ref_keep_push(references->keep, outbox, frame, now_us);
    g_array_set_size(references->sent, (guint)sequence + 1);
    g_array_index(references->sent, SentFrame, sequence) = sent;
    references->counts.frames++;
    references->counts.unproven += sent.has_changed;
}

void
sim_references_acked(SimReferences *references, uint64_t sequence, int64_t now_us)
{
    gw_ref_keep_acked(references->keep, sequence, now_us);
}

/* --- target ----------------------------------------------------------------------------------- */

void
sim_references_announce(SimReferences *references, GwFrame *frame)
{
    gw_ref_desk_announce(references->desk, frame);
    references->unsettled += sent_frame(references, frame->header.sequence)->has_changed;
}

void
sim_references_settle(SimReferences *references)
{
    while (references->unsettled > 0) {
        references->unsettled -= sem_wait(&references->questions) == 0;
    }
}

void
sim_references_ask_again(SimReferences *references)
{
    gw_ref_desk_ask_again(references->desk);
}

void
sim_references_tick(SimReferences *references, int64_t now_us)
{
    if (now_us - references->asked_us >= GW_REF_ANSWER_US &&
        !gw_ref_desk_has_need(references->desk)) {
        references->asked_us = now_us;
        gw_ref_desk_ask_again(references->desk);
        references->counts.overdue += gw_ref_desk_has_need(references->desk);
    }
}

/* --- questions and answers -------------------------------------------------------------------- */

GBytes *
sim_references_next(SimReferences *references, unsigned end, int64_t now_us)
{
    g_autoptr(GByteArray) need = g_byte_array_new();

    if (end == 0) {
        GBytes *fill = gw_ref_keep_next_fill(references->keep);

        g_assert_true(!fill || g_bytes_get_size(fill) <= GW_REF_FILL_MAX_BYTES);
        references->counts.fills += fill != NULL;
        return fill;
    }
    if (!gw_ref_desk_next_need(references->desk, need)) {
        return NULL;
    }
    g_assert_cmpuint(need->len, <=, GW_REF_NEED_MAX_BYTES);
    references->asked_us = now_us;
    references->counts.needs++;
    return g_byte_array_free_to_bytes(g_steal_pointer(&need));
}

static void
count_fill(SimReferences *references, const uint8_t *payload, size_t len)
{
    uint64_t sequence = 0;

    g_assert_true(gw_ref_sequence(payload, len, &sequence, NULL));
    if (sequence <= references->taken) {
        references->counts.late_fills++;
    } else if (sequence == references->taken + 1 &&
               gw_ref_desk_is_ready(references->desk, sequence)) {
        references->counts.double_fills++;
    }
}

void
sim_references_hear(SimReferences *references, unsigned end, GBytes *bytes, int64_t now_us)
{
    g_autoptr(GError) error = NULL;
    size_t len = 0;
    const uint8_t *payload = g_bytes_get_data(bytes, &len);
    bool taken;

    if (end == 0) {
        taken = gw_ref_keep_take_need(references->keep, payload, len, &error);
    } else {
        count_fill(references, payload, len);
        references->asked_us = now_us;
        taken = gw_ref_desk_take_fill(references->desk, payload, len, &error);
    }
    g_assert_no_error(error);
    g_assert_true(taken);
}

/* --- taking ----------------------------------------------------------------------------------- */

bool
sim_references_is_ready(SimReferences *references, uint64_t sequence)
{
    /* What has not changed is ready as soon as the thread has read it. */
    return !sent_frame(references, sequence)->has_changed ||
           gw_ref_desk_is_ready(references->desk, sequence);
}

static void
check_pages(const SimReferences *references, uint64_t sequence, const GwRefPages *pages)
{
    const SentFrame *sent = sent_frame(references, sequence);

    for (unsigned i = 0; i < sent->n_pages; i++) {
        uint64_t page[WORDS_OF_PAGE];

        make_page(page, sent->first_block + i, false);
        g_assert_cmpmem(gw_ref_pages_get(pages, i), GW_PAGE_BYTES, page, GW_PAGE_BYTES);
    }
    g_assert_null(gw_ref_pages_get(pages, sent->n_pages));
}

void
sim_references_take(SimReferences *references, uint64_t sequence)
{
    g_autoptr(GError) error = NULL;

    references->taken = sequence;
    if (sim_references_has(references, sequence)) {
        g_autoptr(GwRefPages) pages = gw_ref_desk_take(references->desk, sequence, &error);

        g_assert_no_error(error);
        check_pages(references, sequence, pages);
    }
}

/* --- the end ---------------------------------------------------------------------------------- */

void
sim_references_stop(SimReferences *references)
{
    gw_ref_keep_stop(references->keep);
    g_assert_false(gw_ref_keep_wait_room(references->keep));
}

void
sim_references_end(SimReferences *references, bool freed)
{
    if (freed) {
        gw_ref_desk_stop(references->desk);
    } else {
        gw_ref_desk_end(references->desk);
    }
}

bool
sim_references_take_last(SimReferences *references, uint64_t sequence)
{
    const SentFrame *sent = sent_frame(references, sequence);
    g_autoptr(GError) error = NULL;

    if (sent->n_pages == 0) {
        return true;
    }
    g_autoptr(GwRefPages) pages = gw_ref_desk_take(references->desk, sequence, &error);

    if (pages) {
        check_pages(references, sequence, pages);
    } else {
        g_assert_error(error, GW_ERROR, GW_ERROR_CANCELLED);
    }
    return pages != NULL;
}
