// SPDX-License-Identifier: Apache-2.0
/*
 * Desk and keep: references on their way through a session whose connections lose what they carry,
 * peers that ask and answer what makes no sense, and disks that are not there any more.
 */
#include "base/cursor.h"
#include "hung-disk.h"
#include "lane/batch.h"
#include "lane/inbox.h"
#include "lane/ref_desk.h"
#include "lane/ref_keep.h"
#include "test-image-files.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define NOW_US  1000000 /* some time */
#define N_PAGES 3000u
#define SEED    11u

static uint64_t
below(uint64_t end)
{
    return (uint32_t)g_test_rand_int() % end;
}

/* --- both ends -------------------------------------------------------------------------------- */

typedef struct Rig {
    ImageFiles files;
    GwFramePool *pool;
    GwRefSource *source;
    GwOutbox *outbox;
    GwRefKeep *keep;
    GwRefDesk *desk;
    GwPageTagger *tagger;
    gint woken;
    unsigned n_frames;
    uint8_t (*sent)[GW_PAGE_BYTES]; /* page i of the stream */
    unsigned n_sent;
} Rig;

static const uint8_t key[GW_PAGE_TAG_KEY_BYTES] = {7};

static void
on_wake(void *data)
{
    Rig *rig = data;

    g_atomic_int_inc(&rig->woken);
}

static GwImage *
open_image(const Rig *rig, const char *name)
{
    g_autofree char *path = image_file(&rig->files, name);
    g_autoptr(GError) error = NULL;
    GwImage *image = gw_image_open(path, "raw", &error);

    g_assert_no_error(error);
    return image;
}

/* Source with an index over "a", target with @target_file in its place, and no key yet. */
static void
rig_make(Rig *rig, const char *target_file)
{
    const GwRefSourceOptions options = {0};
    g_autoptr(GError) error = NULL;
    GwRefTarget *images = gw_ref_target_new();
    GwRefSourceFigures figures;

    memset(rig, 0, sizeof(*rig));
    g_assert_true(image_files_init(&rig->files));
    image_write_raw(&rig->files, "a", N_PAGES, SEED);
    image_write_raw(&rig->files, "b", N_PAGES, SEED + 1);
    image_write_raw(&rig->files, "half", N_PAGES, SEED);
    for (unsigned i = 0; i < N_PAGES; i += 2) {
        uint8_t page[GW_PAGE_BYTES];

        image_page(page, SEED + 2, i);
        image_patch(&rig->files, "half", (size_t)i * GW_PAGE_BYTES, page, GW_PAGE_BYTES);
    }
    g_autofree char *path = image_file(&rig->files, "a");

    rig->source = gw_ref_source_new(&options);
    g_assert_true(gw_ref_source_add(rig->source, path, "raw", &error));
    do {
        g_thread_yield();
        g_assert_true(gw_ref_source_figures(rig->source, 0, &figures));
    } while (figures.index.state == GW_IMAGE_INDEX_BUILDING);
    gw_ref_source_use(rig->source, 0);
    rig->pool = gw_frame_pool_new();
    rig->outbox = gw_outbox_new(on_wake, rig);
    rig->keep = gw_ref_keep_new(rig->source, on_wake, rig);
    rig->desk = gw_ref_desk_new(on_wake, rig);
    rig->sent = g_malloc((gsize)N_PAGES * 4 * GW_PAGE_BYTES);
    gw_ref_target_set_image(images, 0, open_image(rig, target_file));
    g_assert_true(gw_ref_desk_start(rig->desk, images, &error));
    rig->tagger = gw_page_tagger_new(key, &error);
    g_assert_no_error(error);
}

static void
give_key(const Rig *rig)
{
    g_autoptr(GError) error = NULL;
    bool given = gw_ref_desk_set_key(rig->desk, key, &error);

    g_assert_no_error(error);
    g_assert_true(given);
}

static void
rig_init(Rig *rig, const char *target_file)
{
    rig_make(rig, target_file);
    give_key(rig);
}

static void
rig_clear(Rig *rig)
{
    gw_ref_desk_free(rig->desk);
    gw_page_tagger_free(rig->tagger);
    gw_ref_keep_free(rig->keep);
    gw_outbox_free(rig->outbox);
    gw_frame_pool_free(rig->pool);
    gw_ref_source_free(rig->source);
    image_files_clear(&rig->files);
    g_free(rig->sent);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

/* A batch of nothing but the section of @group: what the desk looks at. Sequence is the outbox's.
 */
static GwFrame *
make_frame(Rig *rig, unsigned n_pages, const GByteArray *section)
{
    GwFrame *frame = gw_frame_new(rig->pool, GW_FRAME_RAM, GW_BATCH_HEADER_BYTES + section->len);
    uint8_t *payload = gw_frame_payload(frame);

    memset(payload, 0, GW_BATCH_HEADER_BYTES);
    payload[2] = (uint8_t)(n_pages >> 8);
    payload[3] = (uint8_t)n_pages;
    memcpy(payload + GW_BATCH_HEADER_BYTES, section->data, section->len);
    frame->header.payload_bytes = GW_BATCH_HEADER_BYTES + section->len;
    return frame;
}

/* Sends a frame of up to @most pages of the disk, from @first on. */
static void
send_frame(Rig *rig, unsigned first, unsigned most)
{
    GwRefGroup *group = gw_ref_group_new();
    g_autoptr(GByteArray) section = g_byte_array_new();

    for (unsigned i = 0; i < most; i++) {
        uint8_t *page = rig->sent[rig->n_sent];
        const uint8_t *pages[1] = {page};
        GwPageTag tag;
        GwRef ref;

        image_page(page, SEED, (first + i) % N_PAGES);
        if (gw_ref_source_try(rig->source, pages, 1, &ref) == 1) {
            gw_page_tag(rig->tagger, page, &tag);
            g_assert_true(gw_ref_group_add(group, &ref, page, &tag));
            rig->n_sent++;
        }
    }
    g_assert_cmpuint(gw_ref_group_n_pages(group), >, 0);
    gw_ref_group_encode(group, section);
    GwFrame *frame = make_frame(rig, gw_ref_group_n_pages(group), section);
    g_autoptr(GwFrame) arriving = gw_frame_ref(frame);

    frame->references = group;
    gw_ref_keep_push(rig->keep, rig->outbox, frame, NOW_US);
    rig->n_frames++;
    gw_ref_desk_announce(rig->desk, arriving);
}

/* Takes all frames, as the inbox thread does, and compares their pages with what was sent. */
typedef struct Taker {
    Rig *rig;
    GThread *thread;
    gint done; /* atomic */
} Taker;

static void *
take_all(void *data)
{
    Taker *taker = data;
    Rig *rig = taker->rig;
    g_autoptr(GwPageTagger) tagger = gw_page_tagger_new(key, NULL);
    unsigned compared = 0;

    for (uint64_t sequence = 1; sequence <= rig->n_frames; sequence++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GwRefPages) pages = gw_ref_desk_take(rig->desk, sequence, &error);

        g_assert_no_error(error);
        for (unsigned i = 0; gw_ref_pages_get(pages, i); i++) {
            GwPageTag tag;

            gw_page_tag(tagger, gw_ref_pages_get(pages, i), &tag);
            g_assert_true(gw_page_tag_equal(gw_ref_pages_tag(pages, i), &tag));
            g_assert_cmpmem(gw_ref_pages_get(pages, i), GW_PAGE_BYTES, rig->sent[compared++],
                            GW_PAGE_BYTES);
        }
        gw_ref_keep_acked(rig->keep, sequence, NOW_US);
    }
    g_assert_cmpuint(compared, ==, rig->n_sent);
    g_atomic_int_set(&taker->done, 1);
    return NULL;
}

/* Carries questions and answers until all is taken; @loss_in of each ten get lost. */
static void
carry(Rig *rig, Taker *taker, unsigned loss_in_ten)
{
    while (!g_atomic_int_get(&taker->done)) {
        g_autoptr(GByteArray) need = g_byte_array_new();
        g_autoptr(GBytes) fill = NULL;
        g_autoptr(GError) error = NULL;
        bool idle = true;

        if (gw_ref_desk_next_need(rig->desk, need)) {
            idle = false;
            if (below(10) >= loss_in_ten) {
                g_assert_true(gw_ref_keep_take_need(rig->keep, need->data, need->len, &error));
            }
        }
        fill = gw_ref_keep_next_fill(rig->keep);
        if (fill) {
            gsize len = 0;
            const uint8_t *payload = g_bytes_get_data(fill, &len);

            idle = false;
            g_assert_cmpuint(len, <=, GW_REF_FILL_MAX_BYTES);
            if (below(10) >= loss_in_ten) {
                g_assert_true(gw_ref_desk_take_fill(rig->desk, payload, len, &error));
            }
        }
        if (idle && loss_in_ten > 0) {
            gw_ref_desk_ask_again(rig->desk); /* the connection was lost */
        }
        if (idle) {
            g_usleep(100);
        }
    }
}

static void
run(const char *target_file, unsigned loss_in_ten)
{
    g_auto(Rig) rig = {0};
    Taker taker = {.rig = &rig};

    rig_make(&rig, target_file);
    for (unsigned i = 0; i < 40; i++) {
        send_frame(&rig, (unsigned)below(N_PAGES), 8 + (unsigned)below(57));
    }
    give_key(&rig);
    taker.thread = g_thread_new("taker", take_all, &taker);
    carry(&rig, &taker, loss_in_ten);
    g_thread_join(taker.thread);
    gw_ref_desk_close(rig.desk);
    gw_ref_desk_wait_closed(rig.desk);
    g_assert_null(gw_ref_keep_next_fill(rig.keep));
}

static void
test_same_disk(void)
{
    run("a", 0);
}

static void
test_half_is_missing(void)
{
    run("half", 0);
}

static void
test_all_is_missing(void)
{
    run("b", 0);
}

/* Blocks that the disk has to be asked for, where the file system gives memory back. */
static void
forget_blocks(const Rig *rig, const char *name)
{
    g_autofree char *path = image_file(&rig->files, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(fsync(fd), ==, 0);
    g_assert_cmpint(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), ==, 0);
    close(fd);
}

static void
test_cold_disk(void)
{
    g_auto(Rig) rig = {0};
    Taker taker = {.rig = &rig};

    rig_make(&rig, "half");
    for (unsigned i = 0; i < 60; i++) {
        send_frame(&rig, (unsigned)below(N_PAGES), 8 + (unsigned)below(57));
    }
    forget_blocks(&rig, "half");
    give_key(&rig);
    taker.thread = g_thread_new("taker", take_all, &taker);
    carry(&rig, &taker, 0);
    g_thread_join(taker.thread);
}

static void
test_lost_connections(void)
{
    for (unsigned i = 0; i < 5; i++) {
        run("half", 3);
    }
}

/* --- limits ----------------------------------------------------------------------------------- */

static gint has_room; /* atomic */

static void *
wait_for_room(void *data)
{
    bool room = gw_ref_keep_wait_room(data);

    g_atomic_int_set(&has_room, room);
    return GINT_TO_POINTER(room);
}

static void
send_until(Rig *rig, unsigned n_pages)
{
    for (unsigned n = 0; n < n_pages; n += rig->n_sent) {
        rig->n_sent = 0;
        send_frame(rig, rig->n_frames, 70);
    }
}

static void
test_room(void)
{
    g_auto(Rig) rig = {0};

    rig_init(&rig, "a");
    send_until(&rig, GW_REF_MAX_UNPROVEN_PAGES);
    GThread *waiter = g_thread_new("waiter", wait_for_room, rig.keep);

    gw_ref_keep_acked(rig.keep, 1, NOW_US);
    g_assert_true(GPOINTER_TO_INT(g_thread_join(waiter)));
    send_until(&rig, 200);
    waiter = g_thread_new("waiter", wait_for_room, rig.keep);
    gw_ref_keep_stop(rig.keep);
    g_assert_false(GPOINTER_TO_INT(g_thread_join(waiter)));
}

/* A target that deals with little is given less. */
static void
test_room_follows_the_target(void)
{
    g_auto(Rig) rig = {0};

    rig_init(&rig, "a");
    g_atomic_int_set(&has_room, false);
    send_until(&rig, GW_REF_MAX_UNPROVEN_PAGES);
    gw_ref_keep_acked(rig.keep, 1, NOW_US); /* a period begins */
    send_until(&rig, 200);
    GThread *waiter = g_thread_new("waiter", wait_for_room, rig.keep);

    /* A second in which next to nothing is dealt with. */
    gw_ref_keep_acked(rig.keep, 2, NOW_US + G_USEC_PER_SEC);
    gw_ref_keep_acked(rig.keep, rig.n_frames * 3 / 8, NOW_US + G_USEC_PER_SEC);
    g_assert_false(g_atomic_int_get(&has_room));
    gw_ref_keep_acked(rig.keep, rig.n_frames * 5 / 8, NOW_US + G_USEC_PER_SEC);
    g_assert_true(GPOINTER_TO_INT(g_thread_join(waiter)));
}

/* --- ends ------------------------------------------------------------------------------------- */

typedef struct Taking {
    GwRefDesk *desk;
    int code;
} Taking;

static void *
take_first(void *data)
{
    Taking *taking = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GwRefPages) pages = gw_ref_desk_take(taking->desk, 1, &error);

    g_assert_null(pages);
    taking->code = error->code;
    return NULL;
}

/* Who waits for the first frame does not do so when the session ends, or is freed. */
static void
expect_end(const Rig *rig, bool freed)
{
    Taking taking = {.desk = rig->desk};
    GThread *taker = g_thread_new("taker", take_first, &taking);

    if (freed) {
        gw_ref_desk_stop(rig->desk);
    } else {
        gw_ref_desk_end(rig->desk);
    }
    g_thread_join(taker);
    g_assert_cmpint(taking.code, ==, GW_ERROR_CANCELLED);
}

/* An answer that cannot come. */
static void
test_session_ends(void)
{
    for (unsigned freed = 0; freed < 2; freed++) {
        g_auto(Rig) rig = {0};

        rig_init(&rig, "b");
        send_frame(&rig, 0, 64);
        while (!gw_ref_desk_has_need(rig.desk)) {
            g_thread_yield();
        }
        expect_end(&rig, freed);
    }
}

/* A disk that hangs; nor does who frees the desk wait for it. */
static void
test_hung_disk(void)
{
    for (unsigned freed = 0; freed < 2; freed++) {
        g_auto(Rig) rig = {0};

        rig_init(&rig, "a");
        hung_disk_begin();
        send_frame(&rig, 0, 64);
        hung_disk_wait();
        g_assert_false(gw_ref_desk_is_ready(rig.desk, 1));
        expect_end(&rig, freed);
        g_clear_pointer(&rig.desk, gw_ref_desk_free);
        hung_disk_end();
    }
}

/* What has come whole is read to its end, though the session has ended. */
static void
test_slow_disk(void)
{
    g_auto(Rig) rig = {0};
    g_autoptr(GError) error = NULL;

    rig_init(&rig, "a");
    hung_disk_begin();
    send_frame(&rig, 0, 64);
    hung_disk_wait();
    gw_ref_desk_end(rig.desk);
    hung_disk_end();
    g_autoptr(GwRefPages) pages = gw_ref_desk_take(rig.desk, 1, &error);

    g_assert_no_error(error);
    g_assert_true(gw_ref_pages_is_proven(pages));
}

static void
test_without_images(void)
{
    g_auto(Rig) rig = {0};
    g_autoptr(GByteArray) section = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    rig_init(&rig, "a");
    g_autoptr(GwRefDesk) desk = gw_ref_desk_new(on_wake, &rig);
    g_byte_array_set_size(section, 40);
    memset(section->data, 0, 40);
    g_autoptr(GwFrame) frame = make_frame(&rig, 1, section);

    frame->header.sequence = 1;
    gw_ref_desk_announce(desk, frame);
    g_assert_null(gw_ref_desk_take(desk, 1, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
}

/* A peer that refers to something before the stream begins is not waited for. */
static void
test_without_key(void)
{
    g_auto(Rig) rig = {0};
    g_autoptr(GError) error = NULL;

    rig_make(&rig, "a");
    send_frame(&rig, 0, 10);
    g_assert_null(gw_ref_desk_take(rig.desk, 1, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
}

/* Tags under another key are of no use: nothing is proven, not even what is right. */
static void
test_other_key(void)
{
    static const uint8_t other_key[GW_PAGE_TAG_KEY_BYTES] = {8};
    g_auto(Rig) rig = {0};
    g_autoptr(GError) error = NULL;

    rig_make(&rig, "a");
    g_assert_true(gw_ref_desk_set_key(rig.desk, other_key, &error));
    send_frame(&rig, 0, 10);
    while (!gw_ref_desk_has_need(rig.desk)) {
        g_thread_yield();
    }
}

static void
on_inbox_wake(void *data, bool all)
{
    *(unsigned *)data += all;
}

static GwFrame *
next_frame(GwFramePool *pool, uint64_t sequence)
{
    GwFrame *frame = gw_frame_new(pool, GW_FRAME_RAM, GW_BATCH_MAX_BYTES);

    frame->header.sequence = sequence;
    frame->header.payload_bytes = GW_BATCH_MAX_BYTES;
    return frame;
}

/* A full inbox must not keep out what the frame at its head waits for; nor grow without end. */
static void
test_parked_inbox(void)
{
    g_autoptr(GwFramePool) pool = gw_frame_pool_new();
    unsigned n_wakes = 0;
    g_autoptr(GwInbox) inbox = gw_inbox_new(on_inbox_wake, NULL, &n_wakes);
    g_autoptr(GError) error = NULL;
    uint64_t sequence = 0;

    while (gw_inbox_has_room(inbox)) {
        g_assert_true(gw_inbox_push(inbox, next_frame(pool, ++sequence), &error));
    }
    gw_inbox_park(inbox, true);
    g_assert_cmpuint(n_wakes, ==, 1);
    g_assert_true(gw_inbox_has_room(inbox));
    while (gw_inbox_push(inbox, next_frame(pool, ++sequence), &error)) {
        g_assert_true(gw_inbox_has_room(inbox));
    }
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    g_assert_cmpuint(sequence * GW_BATCH_MAX_BYTES, >=, GW_INBOX_MAX_AHEAD_BYTES);
    gw_inbox_park(inbox, false);
    g_assert_false(gw_inbox_has_room(inbox));
}

/* --- peers that break the rules --------------------------------------------------------------- */

static void
expect_bad_need(Rig *rig, const GByteArray *need)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(gw_ref_keep_take_need(rig->keep, need->data, need->len, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
}

static void
test_hostile_needs(void)
{
    g_auto(Rig) rig = {0};
    g_autoptr(GByteArray) need = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    rig_init(&rig, "b");
    expect_bad_need(&rig, need);
    gw_put_be64(need, 1);
    gw_put_be16(need, 0);
    expect_bad_need(&rig, need); /* nothing was sent */
    send_frame(&rig, 0, 64);
    expect_bad_need(&rig, need); /* not so many pages */
    g_byte_array_set_size(need, 0);
    while (!gw_ref_desk_next_need(rig.desk, need)) {
        g_thread_yield();
    }
    for (unsigned i = 0; i < 64; i++) {
        g_assert_true(gw_ref_keep_take_need(rig.keep, need->data, need->len, &error));
    }
    expect_bad_need(&rig, need); /* without end */
    gw_ref_keep_acked(rig.keep, 1, NOW_US);
    g_assert_false(gw_ref_keep_has_fill(rig.keep));
    g_assert_true(gw_ref_keep_take_need(rig.keep, need->data, need->len, &error)); /* late */
    g_assert_false(gw_ref_keep_has_fill(rig.keep));
}

static void
expect_bad_fill(Rig *rig, uint64_t sequence, size_t cut)
{
    g_autoptr(GByteArray) fill = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    gw_put_be64(fill, sequence);
    gw_put_be32(fill, 0);
    gw_put_u8(fill, GW_CODEC_PLAIN);
    g_assert_false(gw_ref_desk_take_fill(rig->desk, fill->data, fill->len - cut, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
}

static void
test_hostile_fills(void)
{
    g_auto(Rig) rig = {0};

    rig_init(&rig, "b");
    expect_bad_fill(&rig, 1, 0);
    expect_bad_fill(&rig, 1, 6);
    send_frame(&rig, 0, 64);
    while (!gw_ref_desk_has_need(rig.desk)) {
        g_thread_yield();
    }
    expect_bad_fill(&rig, 2, 0);
    expect_bad_fill(&rig, 1, 1);
    expect_bad_fill(&rig, 1, 0); /* nothing differs, says the source, and it does */
}

/* --- rate ------------------------------------------------------------------------------------- */

static void
test_rate(void)
{
    const unsigned n_rounds = g_test_perf() ? 1100 : 20;
    g_auto(Rig) rig = {0};
    uint64_t n_pages = 0;

    rig_init(&rig, "a");
    g_test_timer_start();
    for (unsigned round = 0; round < n_rounds; round++) {
        unsigned first = rig.n_frames;

        rig.n_sent = 0;
        for (unsigned i = 0; i < 4; i++) {
            send_frame(&rig, (unsigned)below(N_PAGES), 64);
        }
        for (unsigned i = first + 1; i <= rig.n_frames; i++) {
            g_autoptr(GError) error = NULL;
            gw_ref_pages_free(gw_ref_desk_take(rig.desk, i, &error));

            g_assert_no_error(error);
            gw_ref_keep_acked(rig.keep, i, NOW_US);
        }
        n_pages += rig.n_sent;
    }
    double seconds = g_test_timer_elapsed();

    g_test_message("%" G_GUINT64_FORMAT
                   " pages made, looked up, referenced and resolved: %.0f MB/s",
                   n_pages, (double)n_pages * GW_PAGE_BYTES / 1e6 / seconds);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ref-desk/same-disk", test_same_disk);
    g_test_add_func("/ref-desk/half-is-missing", test_half_is_missing);
    g_test_add_func("/ref-desk/all-is-missing", test_all_is_missing);
    g_test_add_func("/ref-desk/cold-disk", test_cold_disk);
    g_test_add_func("/ref-desk/lost-connections", test_lost_connections);
    g_test_add_func("/ref-desk/room", test_room);
    g_test_add_func("/ref-desk/room-follows-the-target", test_room_follows_the_target);
    g_test_add_func("/ref-desk/session-ends", test_session_ends);
    g_test_add_func("/ref-desk/hung-disk", test_hung_disk);
    g_test_add_func("/ref-desk/slow-disk", test_slow_disk);
    g_test_add_func("/ref-desk/parked-inbox", test_parked_inbox);
    g_test_add_func("/ref-desk/without-images", test_without_images);
    g_test_add_func("/ref-desk/without-key", test_without_key);
    g_test_add_func("/ref-desk/other-key", test_other_key);
    g_test_add_func("/ref-desk/hostile-needs", test_hostile_needs);
    g_test_add_func("/ref-desk/hostile-fills", test_hostile_fills);
    g_test_add_func("/ref-desk/rate", test_rate);
    return g_test_run();
}
