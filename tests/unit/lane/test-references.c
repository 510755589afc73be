// SPDX-License-Identifier: Apache-2.0
/*
 * Streams with references between two real sessions, over a relay that breaks: whatever the target
 * has of what is referred to, and whatever is lost, its QEMU gets the guest that was sent.
 */
#include "harness.h"
#include "hung-disk.h"
#include "lane/encodings.h"
#include "lane/image_ref.h"
#include "proxy.h"
#include "qemustream.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_MS 30000

static const QemuStreamSpec random_pages = {
    .seed = 3, .n_pages = 6000, .zero_part = 20, .delta_part = 5, .device_bytes = 100000};

/* --- disks ------------------------------------------------------------------------------------ */

/* The pages of a stream, in an order of their own, as a disk. */
static GByteArray *
disk_of(const GByteArray *stream, uint32_t seed)
{
    g_autoptr(GwRamParser) parser = gw_ram_parser_new();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    GByteArray *disk = g_byte_array_new();
    size_t done = 0;
    GwRamItem item;

    while (done < stream->len) {
        size_t room;
        uint8_t *space = gw_ram_parser_space(parser, &room);
        size_t n = MIN(room, stream->len - done);

        memcpy(space, stream->data + done, n);
        done += n;
        gw_ram_parser_fed(parser, n);
        while (gw_ram_parser_next(parser, &item)) {
            if (item.kind == GW_RAM_ITEM_PAGE) {
                g_byte_array_append(disk, item.data, GW_PAGE_BYTES);
            }
        }
    }
    guint n_pages = disk->len / GW_PAGE_BYTES;

    for (guint i = n_pages - 1; i > 0; i -= 1 + (guint)g_rand_int_range(random, 0, 4) % i) {
        uint8_t page[GW_PAGE_BYTES];
        uint8_t *a = disk->data + (gsize)i * GW_PAGE_BYTES;
        uint8_t *b = disk->data + (gsize)g_rand_int_range(random, 0, (gint)i + 1) * GW_PAGE_BYTES;

        memcpy(page, a, GW_PAGE_BYTES);
        memmove(a, b, GW_PAGE_BYTES);
        memcpy(b, page, GW_PAGE_BYTES);
    }
    return disk;
}

static char *
write_disk(const char *folder, const char *name, const GByteArray *disk)
{
    char *path = g_build_filename(folder, name, NULL);

    g_assert_true(g_file_set_contents(path, (const char *)disk->data, disk->len, NULL));
    return path;
}

/* --- trips ------------------------------------------------------------------------------------ */

typedef struct Trip {
    Rig rig;
    Proxy *proxy;
    char *folder;
    GByteArray *stream;
    Feeder feeder;
    Drain drain;
    GwLaneStats sent;
    GwLaneStats received;
} Trip;

static void
trip_init_for(Trip *trip, const QemuStreamSpec *spec, int64_t session_timeout_ms)
{
    *trip = (Trip){.stream = qemu_stream_make(spec)};
    trip->folder = g_dir_make_tmp("godwit-refs-XXXXXX", NULL);
    rig_init(&trip->rig, session_timeout_ms);
    trip->rig.n_links = 2;
    trip->rig.silence_ms = 600;
    trip->proxy = proxy_new("127.0.0.1", 0, gw_lane_server_port(trip->rig.server));
    drain_init(&trip->drain);
    rig_connect_to(&trip->rig, proxy_port(trip->proxy), "ca", "beta", "alpha");
    WAIT_FOR((trip->rig.client.ready && trip->rig.accepted.ready) || trip->rig.client.closed);
    g_assert_no_error(trip->rig.client.closed);
}

static void
trip_init(Trip *trip, const QemuStreamSpec *spec)
{
    trip_init_for(trip, spec, TIMEOUT_MS);
}

/* @theirs: the target's disk in that place. */
static GwRefSource *
index_disk(const Trip *trip, const GByteArray *ours)
{
    const GwRefSourceOptions options = {0};
    g_autofree char *path = write_disk(trip->folder, "ours", ours);
    GwRefSource *source = gw_ref_source_new(&options);
    g_autoptr(GError) error = NULL;
    GwRefSourceFigures figures;

    g_assert_true(gw_ref_source_add(source, path, "raw", &error));
    do {
        g_thread_yield();
        g_assert_true(gw_ref_source_figures(source, 0, &figures));
    } while (figures.index.state == GW_IMAGE_INDEX_BUILDING);
    gw_ref_source_use(source, 0);
    return source;
}

static void
agree(Trip *trip, const GByteArray *ours, const GByteArray *theirs)
{
    g_autofree char *path = write_disk(trip->folder, "theirs", theirs);
    GwRefTarget *images = gw_ref_target_new();
    g_autoptr(GError) error = NULL;

    gw_ref_target_set_image(images, 0, gw_image_open(path, "raw", &error));
    g_assert_no_error(error);
    gw_lane_set_references(trip->rig.client.lane, index_disk(trip, ours));
    g_assert_true(gw_lane_take_references(trip->rig.accepted.lane, images, &error));
}

static void
trip_start(Trip *trip)
{
    g_autoptr(GError) error = NULL;

    feeder_start(&trip->feeder, trip->stream);
    drain_start(&trip->drain);
    g_assert_true(gw_lane_start_stream(trip->rig.accepted.lane, trip->drain.lane_fd, &error));
    g_assert_true(gw_lane_start_stream(trip->rig.client.lane, trip->feeder.lane_fd, &error));
}

static void
trip_run(Trip *trip)
{
    Rig *rig = &trip->rig;

    trip_start(trip);
    WAIT_FOR((rig->client.ended && rig->accepted.ended) || rig->client.closed ||
             rig->accepted.closed);
    g_assert_no_error(rig->client.closed);
    g_assert_no_error(rig->accepted.closed);
    g_assert_no_error(rig->accepted.end_error);
    feeder_join(&trip->feeder);
    drain_join(&trip->drain);
    gw_lane_stats(rig->client.lane, &trip->sent);
    gw_lane_stats(rig->accepted.lane, &trip->received);
}

static void
expect_same_guest(const Trip *trip)
{
    QemuGuest sent, received;

    qemu_guest_load(&sent, trip->stream);
    qemu_guest_load(&received, trip->drain.bytes);
    qemu_guest_assert_equal(&sent, &received);
    qemu_guest_clear(&sent);
    qemu_guest_clear(&received);
    g_assert_cmpstr(trip->rig.client.end_digest, ==, trip->rig.accepted.end_digest);
}

static void
trip_clear(Trip *trip)
{
    static const char *const names[] = {"ours", "theirs", "pages", "tags"};

    drain_clear(&trip->drain);
    rig_clear(&trip->rig);
    proxy_free(trip->proxy);
    g_byte_array_unref(trip->stream);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(trip->folder, names[i], NULL);

        (void)g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(trip->folder), ==, 0);
    g_free(trip->folder);
}

/* --- images ----------------------------------------------------------------------------------- */

static void
test_same_disk(void)
{
    Trip trip;

    trip_init(&trip, &random_pages);
    g_autoptr(GByteArray) disk = disk_of(trip.stream, 1);

    agree(&trip, disk, disk);
    trip_run(&trip);
    expect_same_guest(&trip);
    g_assert_cmpuint(trip.sent.reference_pages, >, 3000);
    g_assert_cmpuint(trip.sent.reference_pages, ==, trip.received.reference_pages);
    g_assert_cmpuint(trip.sent.reference_misses, ==, 0);
    g_assert_cmpuint(trip.sent.reference_bytes, <, trip.sent.reference_pages * 12);
    g_assert_cmpuint(trip.sent.wire_bytes, <, trip.stream->len / 4);
    trip_clear(&trip);
}

/* Every @part-th page of the target's disk is another one. */
static void
run_with_misses(unsigned part, uint32_t cut_seed)
{
    Trip trip;

    trip_init(&trip, &random_pages);
    g_autoptr(GByteArray) ours = disk_of(trip.stream, 1);
    g_autoptr(GByteArray) theirs = g_byte_array_new();

    g_byte_array_append(theirs, ours->data, ours->len);
    for (guint i = 0; i < theirs->len / GW_PAGE_BYTES; i += part) {
        theirs->data[(gsize)i * GW_PAGE_BYTES + i % GW_PAGE_BYTES] ^= 1;
    }
    agree(&trip, ours, theirs);
    if (cut_seed > 0) {
        proxy_cut_after(trip.proxy, cut_seed, 20000, 400000);
        proxy_cut(trip.proxy);
    }
    trip_run(&trip);
    expect_same_guest(&trip);
    g_assert_cmpuint(trip.sent.reference_misses, >, 0);
    g_test_message("%" G_GUINT64_FORMAT " references, %" G_GUINT64_FORMAT " missed, %u cuts",
                   trip.sent.reference_pages, trip.sent.reference_misses, proxy_cuts(trip.proxy));
    trip_clear(&trip);
}

static void
test_some_are_missing(void)
{
    run_with_misses(20, 0);
}

/* The image is given up. */
static void
test_all_are_missing(void)
{
    run_with_misses(1, 0);
}

static void
test_lost_connections(void)
{
    for (uint32_t seed = 1; seed <= 6; seed++) {
        run_with_misses(20, seed);
    }
}

static void
test_shrunk_disk(void)
{
    Trip trip;

    trip_init(&trip, &random_pages);
    g_autoptr(GByteArray) ours = disk_of(trip.stream, 1);
    g_autoptr(GByteArray) theirs = g_byte_array_new();

    g_byte_array_append(theirs, ours->data, ours->len / 2 + 100);
    agree(&trip, ours, theirs);
    trip_run(&trip);
    expect_same_guest(&trip);
    g_assert_cmpuint(trip.sent.reference_misses, >, 0);
    trip_clear(&trip);
}

static bool
has_open(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GDir) fds = g_dir_open("/proc/self/fd", 0, NULL);
    const char *fd;

    while ((fd = g_dir_read_name(fds))) {
        g_autofree char *link = g_build_filename("/proc/self/fd", fd, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);

        if (g_strcmp0(target, path) == 0) {
            return true;
        }
    }
    return false;
}

/* What QEMU gets, until that is in it. */
static void
drain_until(Drain *drain, const char *what)
{
    guint8 buffer[4096];

    for (bool found = false; !found;) {
        ssize_t n = read(drain->fd, buffer, sizeof(buffer));

        g_assert_cmpint(n, >, 0);
        g_byte_array_append(drain->bytes, buffer, (guint)n);
        guint tail = MIN(drain->bytes->len, (guint)((size_t)n + strlen(what)));
        found = memmem(drain->bytes->data + drain->bytes->len - tail, tail, what, strlen(what));
    }
}

/* Before the target's QEMU may start the guest its disk is closed; pages behind that come whole. */
static void
test_post_copy(void)
{
    const QemuStreamSpec spec = {.seed = 5, .n_pages = 12000, .zero_part = 20, .post_copy = true};
    g_autoptr(GError) error = NULL;
    Trip trip;
    Rig *rig = &trip.rig;

    trip_init(&trip, &spec);
    g_autoptr(GByteArray) disk = disk_of(trip.stream, 1);

    agree(&trip, disk, disk);
    g_assert_true(has_open(trip.folder, "theirs"));
    feeder_start(&trip.feeder, trip.stream);
    g_assert_true(gw_lane_start_stream(rig->accepted.lane, trip.drain.lane_fd, &error));
    g_assert_true(gw_lane_start_stream(rig->client.lane, trip.feeder.lane_fd, &error));
    drain_until(&trip.drain, QEMU_STREAM_PACKAGE);
    g_assert_false(has_open(trip.folder, "theirs"));
    drain_start(&trip.drain);
    WAIT_FOR((rig->client.ended && rig->accepted.ended) || rig->client.closed);
    g_assert_no_error(rig->client.closed);
    feeder_join(&trip.feeder);
    drain_join(&trip.drain);
    expect_same_guest(&trip);
    gw_lane_stats(rig->client.lane, &trip.sent);
    g_assert_cmpuint(trip.sent.reference_pages, >, 3000);
    g_assert_cmpuint(trip.sent.page_bytes, >, 1500 * GW_PAGE_BYTES);
    trip_clear(&trip);
}

/* The source refers to a disk that the target has not taken. */
static void
test_not_agreed(void)
{
    Trip trip;
    Rig *rig = &trip.rig;

    trip_init(&trip, &random_pages);
    g_autoptr(GByteArray) disk = disk_of(trip.stream, 1);

    gw_lane_set_references(rig->client.lane, index_disk(&trip, disk));
    trip_start(&trip);
    WAIT_FOR(rig->client.closed && rig->accepted.closed);
    g_assert_error(rig->client.closed, GW_ERROR, GW_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(rig->client.closed->message, "agreed on"));
    g_clear_pointer(&rig->accepted.lane, gw_lane_free);
    feeder_join(&trip.feeder);
    drain_join(&trip.drain);
    trip_clear(&trip);
}

/* Sessions are given up in the middle of it. */
static void
test_freed(void)
{
    for (unsigned i = 0; i < 12; i++) {
        Trip trip;
        Side *side;

        trip_init(&trip, &random_pages);
        side = i % 2 ? &trip.rig.client : &trip.rig.accepted;
        g_autoptr(GByteArray) ours = disk_of(trip.stream, 1);
        g_autoptr(GByteArray) theirs = disk_of(trip.stream, 2);

        agree(&trip, ours, theirs);
        trip_start(&trip);
        g_usleep(3000 * i);
        g_clear_pointer(&side->lane, gw_lane_free);
        g_usleep(3000);
        g_clear_pointer(&trip.rig.client.lane, gw_lane_free);
        g_clear_pointer(&trip.rig.accepted.lane, gw_lane_free);
        feeder_join(&trip.feeder);
        drain_join(&trip.drain);
        trip_clear(&trip);
    }
}

/* With a read on the target that does not return. */
static void
start_hung(Trip *trip, int64_t timeout_ms)
{
    trip_init_for(trip, &random_pages, timeout_ms);
    g_autoptr(GByteArray) disk = disk_of(trip->stream, 1);

    agree(trip, disk, disk);
    hung_disk_begin();
    trip_start(trip);
    hung_disk_wait();
    g_assert_false(trip->rig.accepted.closed);
}

/* Both ends let go of everything but that read. */
static void
end_hung(Trip *trip)
{
    g_clear_pointer(&trip->rig.client.lane, gw_lane_free);
    g_clear_pointer(&trip->rig.accepted.lane, gw_lane_free);
    hung_disk_end();
    feeder_join(&trip->feeder);
    drain_join(&trip->drain);
    trip_clear(trip);
}

/* The source gives up; the target is told of it nevertheless. */
static void
test_hung_disk(void)
{
    Trip trip;
    Side *target = &trip.rig.accepted;

    start_hung(&trip, TIMEOUT_MS);
    g_clear_pointer(&trip.rig.client.lane, gw_lane_free);
    WAIT_FOR(target->closed);
    g_assert_true(target->ended);
    g_assert_error(target->end_error, GW_ERROR, GW_ERROR_CANCELLED);
    end_hung(&trip);
}

/* The source says its last words in order: they are not waited for for ever. */
static void
test_hung_disk_at_the_end(void)
{
    Trip trip;
    Rig *rig = &trip.rig;

    start_hung(&trip, 1500);
    gw_lane_finish(rig->client.lane);
    WAIT_FOR(rig->client.closed);
    g_assert_error(rig->client.closed, GW_ERROR, GW_ERROR_TIMEOUT);
    WAIT_FOR(rig->accepted.closed);
    end_hung(&trip);
}

/* --- visits ----------------------------------------------------------------------------------- */

/* A guest goes, and comes back with a part of its pages changed. */
static void
test_return(void)
{
    QemuStreamSpec spec = {.seed = 8, .n_pages = 8000, .same_part = 98};
    g_autoptr(GError) error = NULL;
    Trip out, back;

    trip_init(&out, &spec);
    g_autofree char *pages = g_build_filename(out.folder, "pages", NULL);
    g_autofree char *path = g_build_filename(out.folder, "tags", NULL);
    g_autoptr(GwVisitWriter) visit = gw_visit_writer_new(pages, &error);
    g_autoptr(GwVisitTags) tags = gw_visit_tags_new(gw_visit_tags_max_bytes(1 << 30));

    gw_lane_keep_visit(out.rig.client.lane, visit);
    gw_lane_note_visit(out.rig.accepted.lane, tags);
    trip_run(&out);
    expect_same_guest(&out);
    gw_visit_writer_keep(visit);
    g_assert_true(gw_visit_writer_wait(visit));
    g_assert_true(gw_visit_tags_save(tags, path, &error));

    const GwRefSourceOptions options = {0};
    GwRefSource *source = gw_ref_source_new(&options);
    GwRefTarget *images = gw_ref_target_new();

    trip_init(&back, &spec);
    GwVisitTags *loaded = gw_visit_tags_load(path, gw_visit_tags_max_bytes(1 << 30), &error);

    g_assert_no_error(error);
    g_assert_true(gw_ref_source_add_visit(source, loaded, &error));
    gw_ref_source_use(source, 0);
    gw_ref_target_set_image(images, 0, gw_image_open(pages, "raw", &error));
    gw_lane_set_references(back.rig.client.lane, source);
    g_assert_true(gw_lane_take_references(back.rig.accepted.lane, images, &error));
    trip_run(&back);
    expect_same_guest(&back);
    g_test_message("%" G_GUINT64_FORMAT " bytes out, %" G_GUINT64_FORMAT " back: %.3f",
                   out.sent.wire_bytes, back.sent.wire_bytes,
                   (double)back.sent.wire_bytes / (double)out.sent.wire_bytes);
    g_assert_cmpuint(back.sent.wire_bytes, <, out.sent.wire_bytes * 6 / 100);
    trip_clear(&back);
    trip_clear(&out);
}

int
main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/references/same-disk", test_same_disk);
    g_test_add_func("/references/some-are-missing", test_some_are_missing);
    g_test_add_func("/references/all-are-missing", test_all_are_missing);
    g_test_add_func("/references/shrunk-disk", test_shrunk_disk);
    g_test_add_func("/references/lost-connections", test_lost_connections);
    g_test_add_func("/references/post-copy", test_post_copy);
    g_test_add_func("/references/not-agreed", test_not_agreed);
    g_test_add_func("/references/freed", test_freed);
    g_test_add_func("/references/hung-disk", test_hung_disk);
    g_test_add_func("/references/hung-disk-at-the-end", test_hung_disk_at_the_end);
    g_test_add_func("/references/return", test_return);
    return g_test_run();
}
