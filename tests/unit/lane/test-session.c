// SPDX-License-Identifier: Apache-2.0
/* Sessions over loopback with real TLS: messages, streams, order, ends, back-pressure. */
#include "base/networks.h"
#include "base/units.h"
#include "harness.h"
#include "lane/batch.h"
#include "lane/session.h"
#include "proxy.h"
#include "qemustream.h"
#include "ramstream/format.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define TIMEOUT_MS   30000
#define SLOW_BYTES_S (8u * 1000 * 1000)

static void
send_text(GwLane *lane, const char *text)
{
    g_autoptr(json_t) message = json_object();
    g_autoptr(GError) error = NULL;

    gw_json_set_str(message, "text", text);
    bool sent = gw_lane_send(lane, message, &error);
    g_assert_no_error(error);
    g_assert_true(sent);
}

static void
expect_wire_adds_up(GwLane *lane, GwLaneStats *out)
{
    gw_lane_stats(lane, out);
    g_assert_cmpuint(out->page_bytes + out->zero_bytes + out->same_bytes + out->equal_bytes +
                         out->delta_bytes + out->opaque_bytes + out->control_bytes +
                         out->overhead_bytes,
                     ==, out->wire_bytes);
    /* No wrap-around. */
    g_assert_cmpuint(out->overhead_bytes, <=, out->wire_bytes);
}

/* --- messages
 * ------------------------------------------------------------------------------------- */

static void
test_messages(void)
{
    Rig rig;
    rig_init(&rig, TIMEOUT_MS);
    rig_establish(&rig);
    g_assert_cmpstr(rig.asked, ==, "beta");
    g_assert_cmpstr(gw_lane_peer_name(rig.client.lane), ==, "alpha");
    g_assert_cmpstr(gw_lane_peer_name(rig.accepted.lane), ==, "beta");

    for (unsigned i = 0; i < 500; i++) {
        g_autofree char *text = g_strdup_printf("%u", i);

        send_text(rig.client.lane, text);
        send_text(rig.accepted.lane, text);
    }
    g_autofree char *long_text = g_strnfill(GW_LANE_MAX_MESSAGE_BYTES - 20, 'x');
    send_text(rig.client.lane, long_text);
    WAIT_FOR(rig.accepted.n_messages == 501 && rig.client.n_messages == 500);
    g_autoptr(GString) expected = g_string_new(NULL);
    for (unsigned i = 0; i < 500; i++) {
        g_string_append_printf(expected, "message:%u;", i);
    }
    g_assert_true(g_str_has_prefix(rig.accepted.log->str, expected->str));
    g_assert_cmpuint(rig.accepted.log->len, ==,
                     expected->len + strlen("message:;") + strlen(long_text));
    g_string_prepend(expected, "ready;");
    g_assert_cmpstr(rig.client.log->str, ==, expected->str);
    rig_clear(&rig);
}

static gboolean
keep_looking(void *data)
{
    return G_SOURCE_CONTINUE;
}

static void
test_measure(void)
{
    Rig rig;
    GwLaneStats stats;

    rig_init(&rig, TIMEOUT_MS);
    rig_establish(&rig);
    gw_lane_stats(rig.client.lane, &stats);
    g_assert_cmpuint(stats.burst_bytes_s, ==, 0);
    guint look = g_timeout_add(2, keep_looking, NULL); /* figures are no event */
    gw_lane_measure(rig.client.lane);
    WAIT_FOR((gw_lane_stats(rig.client.lane, &stats), stats.burst_bytes_s > 0));
    g_source_remove(look);
    g_test_message("%.2f Gbit/s", (double)stats.burst_bytes_s * 8e-9);
    g_assert_cmpuint(stats.burst_bytes_s, >, 1000 * 1000);
    expect_wire_adds_up(rig.client.lane, &stats);
    g_assert_cmpuint(stats.wire_bytes, >, GW_PROBE_MAX_BYTES);
    g_assert_cmpuint(stats.wire_bytes, <, 5 << 20);
    /* Again: not the old figure. */
    look = g_timeout_add(2, keep_looking, NULL);
    uint64_t wire_bytes = stats.wire_bytes;
    gw_lane_measure(rig.client.lane);
    WAIT_FOR((gw_lane_stats(rig.client.lane, &stats), stats.burst_bytes_s > 0));
    g_source_remove(look);
    g_assert_cmpuint(stats.wire_bytes, >, wire_bytes + GW_PROBE_MAX_BYTES);
    /* The session is none the worse for it. */
    send_text(rig.client.lane, "after");
    WAIT_FOR(rig.accepted.n_messages == 1);
    rig_clear(&rig);
}

/* What one side has here the other has there. */
static void
test_ends(void)
{
    Rig rig;
    struct sockaddr_storage ends[4];

    rig_init(&rig, TIMEOUT_MS);
    rig_establish(&rig);
    gw_lane_ends(rig.client.lane, &ends[0], &ends[1]);
    gw_lane_ends(rig.accepted.lane, &ends[2], &ends[3]);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *one = gw_sockaddr_text(&ends[i]);
        g_autofree char *other = gw_sockaddr_text(&ends[3 - i]);
        g_assert_cmpstr(one, ==, "127.0.0.1");
        g_assert_cmpstr(other, ==, "127.0.0.1");
        g_assert_cmpuint(gw_sockaddr_port(&ends[i]), ==, gw_sockaddr_port(&ends[3 - i]));
        g_assert_cmpuint(gw_sockaddr_port(&ends[i]), >, 0);
    }
    rig_clear(&rig);
}

static void
test_message_limits(void)
{
    g_autoptr(GError) early = NULL, large = NULL, array = NULL, over = NULL;
    g_autofree char *text = g_strnfill(GW_LANE_MAX_MESSAGE_BYTES, 'x');
    g_autoptr(json_t) message = json_object();
    g_autoptr(json_t) list = json_array();
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    rig_connect(&rig, "ca", "beta", NULL);
    g_assert_null(gw_lane_peer_name(rig.client.lane));
    g_assert_false(gw_lane_send(rig.client.lane, message, &early));
    g_assert_error(early, GW_ERROR, GW_ERROR_STATE);
    WAIT_FOR(rig.client.ready && rig.accepted.lane);
    gw_json_set_str(message, "text", text);
    g_assert_false(gw_lane_send(rig.client.lane, message, &large));
    g_assert_error(large, GW_ERROR, GW_ERROR_TOO_LARGE);
    g_assert_false(gw_lane_send(rig.client.lane, list, &array));
    g_assert_nonnull(array);
    g_clear_pointer(&rig.accepted.lane, gw_lane_free);
    WAIT_FOR(rig.client.closed);
    g_assert_error(rig.client.closed, GW_ERROR, GW_ERROR_UNREACHABLE);
    json_object_clear(message);
    g_assert_false(gw_lane_send(rig.client.lane, message, &over));
    g_assert_error(over, GW_ERROR, GW_ERROR_STATE);
    rig_clear(&rig);
}

static void
test_finish(void)
{
    Rig rig;

    for (unsigned i = 0; i < 4; i++) {
        Side *ends[] = {&rig.client, &rig.accepted};
        Side *leaver = ends[i % 2];
        Side *other = ends[(i + 1) % 2];

        rig_init(&rig, TIMEOUT_MS);
        rig_establish(&rig);
        for (unsigned k = 0; k < 200; k++) {
            send_text(leaver->lane, "last words");
        }
        gw_lane_finish(leaver->lane);
        if (i >= 2) {
            gw_lane_finish(other->lane);
        }
        WAIT_FOR(leaver->closed && other->closed);
        g_assert_error(leaver->closed, GW_ERROR, GW_ERROR_CANCELLED);
        g_assert_error(other->closed, GW_ERROR, GW_ERROR_CANCELLED);
        if (i < 2) {
            g_assert_cmpuint(other->n_messages, ==, 200);
        }
        rig_clear(&rig);
    }
}

/* The owner does not run its main loop: the sender is held back, nothing is lost. */
static void
test_many_messages_while_peer_is_busy(void)
{
    g_autofree char *text = g_strnfill(100000, 'y');
    g_autoptr(json_t) message = json_object();
    unsigned n_sent = 0;
    g_autoptr(GError) error = NULL;
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    rig_establish(&rig);
    gw_json_set_str(message, "text", text);
    while (gw_lane_send(rig.client.lane, message, &error)) {
        n_sent++;
        g_assert_cmpuint(n_sent, <, 2000);
    }
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
    g_assert_cmpuint(n_sent, >=, GW_OUTBOX_MAX_CONTROL_BYTES / 100100);
    WAIT_FOR(rig.accepted.n_messages == n_sent);
    rig_clear(&rig);
}

/* --- streams
 * -------------------------------------------------------------------------------------- */

typedef struct Move {
    Rig rig;
    GByteArray *stream;
    Feeder feeder;
    Drain drain;
    Proxy *proxy; /* NULL: none between */
} Move;

static void
move_init(Move *move, const QemuStreamSpec *spec)
{
    move->stream = qemu_stream_make(spec);
    move->proxy = NULL;
    rig_init(&move->rig, TIMEOUT_MS);
    rig_establish(&move->rig);
    drain_init(&move->drain);
}

/* Over a link that is slower than any encoder, so that packing pays on any machine. */
static void
move_init_slow(Move *move, const QemuStreamSpec *spec)
{
    move->stream = qemu_stream_make(spec);
    rig_init(&move->rig, TIMEOUT_MS);
    move->proxy = proxy_new("127.0.0.1", 0, gw_lane_server_port(move->rig.server));
    proxy_limit(move->proxy, SLOW_BYTES_S);
    rig_connect_to(&move->rig, proxy_port(move->proxy), "ca", "beta", "alpha");
    WAIT_FOR((move->rig.client.ready && move->rig.accepted.ready) || move->rig.client.closed);
    g_assert_no_error(move->rig.client.closed);
    drain_init(&move->drain);
}

static void
move_start_source(Move *move)
{
    g_autoptr(GError) error = NULL;

    feeder_start(&move->feeder, move->stream);
    g_assert_true(gw_lane_start_stream(move->rig.client.lane, move->feeder.lane_fd, &error));
    g_assert_no_error(error);
}

static void
move_start_target(Move *move)
{
    g_autoptr(GError) error = NULL;

    drain_start(&move->drain);
    g_assert_true(gw_lane_start_stream(move->rig.accepted.lane, move->drain.lane_fd, &error));
    g_assert_no_error(error);
}

static void
move_check_target(Move *move)
{
    Side *target = &move->rig.accepted;

    g_assert_no_error(target->end_error);
    drain_join(&move->drain);
    g_assert_cmpuint(move->drain.bytes->len, ==, move->stream->len);
    g_assert_true(move->stream->len == 0 ||
                  memcmp(move->drain.bytes->data, move->stream->data, move->stream->len) == 0);
    g_assert_cmpuint(target->end_bytes, ==, move->stream->len);
}

static void
move_clear(Move *move)
{
    drain_clear(&move->drain);
    rig_clear(&move->rig);
    g_clear_pointer(&move->proxy, proxy_free);
    g_byte_array_unref(move->stream);
}

static const QemuStreamSpec mixed = {
    .seed = 11,
    .n_pages = 14000,
    .zero_part = 40,
    .plain_part = 40,
    .device_bytes = 300000,
};

static void
test_stream(void)
{
    GwLaneStats source, target;
    Move move;

    move_init_slow(&move, &mixed);
    move_start_target(&move);
    move_start_source(&move);
    WAIT_FOR(move.rig.client.ended && move.rig.accepted.ended);
    feeder_join(&move.feeder);
    move_check_target(&move);
    g_assert_no_error(move.rig.client.end_error);
    g_assert_cmpuint(move.rig.client.end_bytes, ==, move.stream->len);
    g_assert_cmpstr(move.rig.client.end_digest, ==, move.rig.accepted.end_digest);
    g_assert_cmpuint(strlen(move.rig.client.end_digest), ==, 32);

    expect_wire_adds_up(move.rig.client.lane, &source);
    gw_lane_stats(move.rig.accepted.lane, &target);
    g_assert_cmpuint(source.stream_bytes, ==, move.stream->len);
    g_assert_cmpuint(target.stream_bytes, ==, move.stream->len);
    g_assert_cmpuint(source.pages + source.zero_pages, ==, 14000);
    g_assert_cmpuint(source.pages, ==, target.pages);
    g_assert_cmpuint(source.zero_pages, ==, target.zero_pages);
    g_assert_cmpuint(source.zero_pages, >, 5000);
    /* Of the content, a third is random and the rest shrinks to little. */
    g_assert_cmpuint(source.wire_bytes, <, move.stream->len / 2);
    g_assert_cmpuint(source.page_bytes, >, source.wire_bytes / 2);
    g_assert_cmpuint(source.zero_bytes, >, 0);
    g_assert_cmpuint(source.zero_bytes, <, 20000);
    g_assert_cmpuint(source.opaque_bytes, >, 100000);
    g_assert_cmpuint(source.opaque_bytes, <, 310000);
    g_assert_cmpuint(source.control_bytes, >, 0);
    g_assert_cmpuint(source.cpu_us, >, 0);
    g_assert_cmpuint(source.rtt_us, >, 0);
    /* The device in the middle of nowhere is opaque, and that is no error. */
    g_assert_true(source.opaque);
    move_clear(&move);
}

/* Pages that are sent again: most need little, some nothing, and the guest is the same. */
static void
test_stream_with_memory(void)
{
    static const QemuStreamSpec again = {
        .seed = 12,
        .n_pages = 40000,
        .zero_part = 10,
        .plain_part = 30,
        .same_part = 30,
        .delta_part = 30,
        .device_bytes = 3000,
    };
    GwLaneStats source, target;
    QemuGuest sent, received;
    Move move;

    move_init(&move, &again);
    move_start_target(&move);
    move_start_source(&move);
    WAIT_FOR(move.rig.client.ended && move.rig.accepted.ended);
    feeder_join(&move.feeder);
    drain_join(&move.drain);
    g_assert_no_error(move.rig.client.end_error);
    g_assert_no_error(move.rig.accepted.end_error);
    g_assert_cmpstr(move.rig.client.end_digest, ==, move.rig.accepted.end_digest);
    g_assert_cmpuint(move.rig.accepted.end_bytes, ==, move.stream->len);

    qemu_guest_load(&sent, move.stream);
    qemu_guest_load(&received, move.drain.bytes);
    qemu_guest_assert_equal(&sent, &received);
    expect_wire_adds_up(move.rig.client.lane, &source);
    gw_lane_stats(move.rig.accepted.lane, &target);
    g_assert_cmpuint(source.same_pages, >, 5000);
    g_assert_cmpuint(source.delta_pages, >, 2000);
    g_assert_cmpuint(source.same_pages, ==, target.same_pages);
    g_assert_cmpuint(source.delta_pages, ==, target.delta_pages);
    g_assert_cmpuint(source.pages, ==, target.pages);
    g_assert_cmpuint(received.n_pages, ==, sent.n_pages - source.same_pages);
    g_assert_cmpuint(source.same_bytes, >, 0);
    g_assert_cmpuint(source.same_bytes, <, 5 * source.same_pages);
    g_assert_cmpuint(source.delta_bytes, >, 0);
    g_assert_cmpuint(source.delta_bytes, <, 200 * source.delta_pages);
    g_assert_cmpuint(source.memory_bytes, >, 1000000);
    g_assert_cmpuint(target.memory_bytes, >, 1000000);
    qemu_guest_clear(&sent);
    qemu_guest_clear(&received);
    move_clear(&move);
}

/* Pages that are equal to others go as such where the target can read back what it got. */
static void
test_equal_pages(void)
{
    static const QemuStreamSpec equal = {
        .seed = 13, .n_pages = 20000, .plain_part = 30, .equal_part = 40, .device_bytes = 3000};
    const size_t bytes = (size_t)1 << 30;
    char *names[] = {"no.such", "pc.ram", NULL};
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    GwLaneStats source, target;
    GwPlacer *placer;
    Move move;

    g_assert_true(memory != MAP_FAILED);
    placer = gw_placer_new(open("/proc/self/mem", O_RDWR | O_CLOEXEC),
                           open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), NULL);
    g_assert_true(gw_placer_add_block(placer, "pc.ram", (uint64_t)(uintptr_t)memory, bytes));
    move_init(&move, &equal);
    gw_lane_place_pages(move.rig.accepted.lane, placer);
    gw_lane_set_placed(move.rig.client.lane, g_strdupv(names));
    move_start_target(&move);
    move_start_source(&move);
    gw_lane_set_placed(move.rig.client.lane, NULL); /* too late, as a peer may be */
    gw_lane_set_placed(move.rig.client.lane, g_strdupv(names));
    WAIT_FOR(move.rig.client.ended && move.rig.accepted.ended);
    feeder_join(&move.feeder);
    drain_join(&move.drain);
    g_assert_no_error(move.rig.client.end_error);
    g_assert_no_error(move.rig.accepted.end_error);
    g_assert_cmpstr(move.rig.client.end_digest, ==, move.rig.accepted.end_digest);
    expect_wire_adds_up(move.rig.client.lane, &source);
    gw_lane_stats(move.rig.accepted.lane, &target);
    g_assert_cmpuint(source.equal_pages, >, 2000);
    g_assert_cmpuint(source.equal_pages, ==, target.equal_pages);
    g_assert_cmpuint(source.equal_bytes, >, 0);
    g_assert_cmpuint(source.equal_bytes, <, 10 * source.equal_pages);
    move_clear(&move);
    munmap(memory, bytes);
}

/*
 * Where pages are placed nothing of memory may pass in another form: QEMU has not seen the records
 * that came before, and would take it for another block's.
 */
static void
test_placed_stream_turns_unknown(void)
{
    static const QemuStreamSpec spec = {.seed = 14, .n_pages = 4000, .plain_part = 50};
    static const char name[] = "\6pc.ram";
    char *names[] = {"pc.ram", NULL};
    Move move;

    move_init(&move, &spec);
    /* It is named in the list of blocks, then by its first page. */
    uint8_t *found = move.stream->data;
    for (unsigned i = 0; i < 2; i++) {
        found = memmem(found + 1, move.stream->len - (size_t)(found + 1 - move.stream->data), name,
                       strlen(name));
        g_assert_nonnull(found);
    }
    found[-1] = GW_STREAM_RAM_XBZRLE; /* the last byte of address and flags, a page's before */
    gw_lane_set_placed(move.rig.client.lane, g_strdupv(names));
    move_start_target(&move);
    move_start_source(&move);
    WAIT_FOR(move.rig.client.ended);
    g_assert_error(move.rig.client.end_error, GW_ERROR, GW_ERROR_UNSUPPORTED);
    g_clear_pointer(&move.rig.client.lane, gw_lane_free);
    feeder_join(&move.feeder);
    WAIT_FOR(move.rig.accepted.closed);
    g_clear_pointer(&move.rig.accepted.lane, gw_lane_free);
    drain_join(&move.drain);
    move_clear(&move);
}

/* The lane knows nothing of what QEMU may send one day: it passes, byte by byte. */
static void
test_unknown_stream(void)
{
    Move move = {0};

    move.stream = g_byte_array_new();
    for (unsigned i = 0; i < 3000000; i++) {
        g_byte_array_append(move.stream, (const guint8[]){(guint8)(i * i >> 7)}, 1);
    }
    rig_init(&move.rig, TIMEOUT_MS);
    rig_establish(&move.rig);
    drain_init(&move.drain);
    move_start_source(&move);
    move_start_target(&move);
    WAIT_FOR(move.rig.client.ended && move.rig.accepted.ended);
    feeder_join(&move.feeder);
    move_check_target(&move);
    g_assert_false(move.rig.client.end_saw_end);
    move_clear(&move);
}

static void
test_empty_stream(void)
{
    Move move = {.stream = g_byte_array_new()};

    rig_init(&move.rig, TIMEOUT_MS);
    rig_establish(&move.rig);
    drain_init(&move.drain);
    move_start_source(&move);
    move_start_target(&move);
    WAIT_FOR(move.rig.client.ended && move.rig.accepted.ended);
    feeder_join(&move.feeder);
    move_check_target(&move);
    move_clear(&move);
}

/* What is said after the stream's end arrives after its last byte, and in order. */
static void
test_order_after_stream(void)
{
    /* Small enough to be in flight as a whole. */
    QemuStreamSpec small = {.seed = 2, .n_pages = 60, .device_bytes = 5000};
    Move move;

    move_init(&move, &small);
    send_text(move.rig.client.lane, "before");
    move_start_source(&move);
    WAIT_FOR(move.rig.client.ended);
    send_text(move.rig.client.lane, "after");
    send_text(move.rig.client.lane, "later");
    /* Held back until the target is ready for the stream. */
    g_assert_false(strstr(move.rig.accepted.log->str, "after") != NULL);
    move_start_target(&move);
    WAIT_FOR(move.rig.accepted.n_messages == 3);
    g_assert_true(g_str_has_suffix(move.rig.accepted.log->str, "end;message:after;message:later;"));
    feeder_join(&move.feeder);
    move_check_target(&move);
    move_clear(&move);
}

static void
test_stream_only_once(void)
{
    g_autoptr(GError) again = NULL;
    g_autoptr(GError) early = NULL;
    GwFd pair[2];
    Move move;

    move_init(&move, &mixed);
    move_start_target(&move);
    move_start_source(&move);
    g_assert_true(gw_fd_socketpair(pair, NULL));
    g_assert_false(gw_lane_start_stream(move.rig.client.lane, pair[1], &again));
    g_assert_error(again, GW_ERROR, GW_ERROR_STATE);
    /* The refused descriptor was closed: its other end sees it. */
    char byte;
    g_assert_cmpint(read(pair[0], &byte, 1), ==, 0);
    gw_fd_close(pair[0]);
    WAIT_FOR(move.rig.client.ended && move.rig.accepted.ended);
    feeder_join(&move.feeder);
    move_check_target(&move);

    rig_connect(&move.rig, "ca", "beta", NULL);
    g_assert_true(gw_fd_socketpair(pair, NULL));
    g_assert_false(gw_lane_start_stream(move.rig.client.lane, pair[1], &early));
    g_assert_error(early, GW_ERROR, GW_ERROR_STATE);
    gw_fd_close(pair[0]);
    move_clear(&move);
}

/* --- back-pressure
 * ------------------------------------------------------------------------------------ */

static gboolean
set_flag(void *data)
{
    *(bool *)data = true;
    return G_SOURCE_REMOVE;
}

/* Nothing observable says "it stands still" but standing still for a while. */
static uint64_t
wait_until_still(Feeder *feeder)
{
    gint before;

    do {
        bool passed = false;

        before = g_atomic_int_get(&feeder->n_written);
        g_timeout_add(300, set_flag, &passed);
        WAIT_FOR(passed);
    } while (g_atomic_int_get(&feeder->n_written) != before);
    return (uint64_t)before * 1024;
}

static void
expect_within_window(GwLane *lane)
{
    GwOutboxFigures figures;

    gw_outbox_figures(lane->outbox, gw_now_us(), &figures);
    g_assert_cmpuint(figures.in_flight_bytes, <=, 2 * figures.limit_bytes + 2 * GW_BATCH_MAX_BYTES);
    g_assert_cmpuint(figures.limit_bytes, <=, GW_WINDOW_MAX_BYTES);
}

static void
test_back_pressure(void)
{
    QemuStreamSpec random = {.seed = 5, .n_pages = 24000, .zero_part = 0, .device_bytes = 10};
    g_autoptr(GError) error = NULL;
    GwLaneStats stats;
    Move move;

    move_init(&move, &random);
    /* A QEMU that reads nothing yet. */
    g_assert_true(gw_lane_start_stream(move.rig.accepted.lane, move.drain.lane_fd, &error));
    move_start_source(&move);
    uint64_t taken = wait_until_still(&move.feeder);
    expect_within_window(move.rig.client.lane);
    gw_lane_stats(move.rig.client.lane, &stats);
    g_assert_cmpuint(stats.in_flight_bytes, >, 0);
    /* In flight, one batch, parser and socket buffers: no hidden queue. */
    g_assert_cmpuint(taken, <, stats.in_flight_bytes + 4 * 1024 * 1024);
    g_assert_false(move.rig.client.ended);

    drain_start(&move.drain);
    while (!move.rig.accepted.ended) {
        g_main_context_iteration(NULL, TRUE);
        expect_within_window(move.rig.client.lane);
    }
    feeder_join(&move.feeder);
    move_check_target(&move);
    move_clear(&move);
}

/* --- ends
 * -----------------------------------------------------------------------------------------------
 */

static void
test_target_qemu_dies(void)
{
    g_autoptr(GError) error = NULL;
    Move move;

    move_init(&move, &mixed);
    g_assert_true(gw_lane_start_stream(move.rig.accepted.lane, move.drain.lane_fd, &error));
    move_start_source(&move);
    wait_until_still(&move.feeder);
    shutdown(move.drain.fd, SHUT_RDWR);
    WAIT_FOR(move.rig.accepted.ended && move.rig.client.ended);
    g_assert_error(move.rig.accepted.end_error, GW_ERROR, GW_ERROR_IO);
    g_assert_nonnull(strstr(move.rig.accepted.end_error->message, "QEMU stopped reading"));
    /* The two daemons can still talk about it. */
    send_text(move.rig.accepted.lane, "my QEMU died");
    send_text(move.rig.client.lane, "a pity");
    WAIT_FOR(move.rig.client.n_messages == 1 && move.rig.accepted.n_messages == 1);
    g_assert_null(move.rig.client.closed);
    feeder_join(&move.feeder);
    move_clear(&move);
}

static void
test_source_dies_mid_stream(void)
{
    Move move;
    GwLaneStats stats;

    move_init(&move, &mixed);
    move_start_target(&move);
    move_start_source(&move);
    do {
        g_main_context_iteration(NULL, FALSE);
        gw_lane_stats(move.rig.accepted.lane, &stats);
    } while (stats.pages < 100);
    g_clear_pointer(&move.rig.client.lane, gw_lane_free);
    /* The lane closed its end: QEMU notices. */
    feeder_join(&move.feeder);
    WAIT_FOR(move.rig.accepted.closed);
    g_assert_error(move.rig.accepted.closed, GW_ERROR, GW_ERROR_UNREACHABLE);
    g_assert_false(move.rig.accepted.ended);
    g_clear_pointer(&move.rig.accepted.lane, gw_lane_free);
    drain_join(&move.drain);
    g_assert_cmpuint(move.drain.bytes->len, <, move.stream->len);
    move_clear(&move);
}

/* The target goes away: the source's QEMU must see its socket close, and so fall back. */
static void
test_target_dies_mid_stream(void)
{
    g_autoptr(GError) error = NULL;
    Move move;

    move_init(&move, &mixed);
    g_assert_true(gw_lane_start_stream(move.rig.accepted.lane, move.drain.lane_fd, &error));
    move_start_source(&move);
    wait_until_still(&move.feeder);
    g_clear_pointer(&move.rig.accepted.lane, gw_lane_free);
    WAIT_FOR(move.rig.client.closed);
    g_assert_error(move.rig.client.closed, GW_ERROR, GW_ERROR_UNREACHABLE);
    feeder_join(&move.feeder);
    g_assert_false(move.rig.client.ended);
    move_clear(&move);
}

/* Everything that arrived whole before the connection broke still counts. */
static void
test_last_message_before_death(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    rig_establish(&rig);
    send_text(rig.client.lane, "given up, generation 8");
    while (!gw_outbox_is_settled(rig.client.lane->outbox)) {
        /* The accepted side's main loop does not turn: the message waits there. */
        g_thread_yield();
    }
    g_clear_pointer(&rig.client.lane, gw_lane_free);
    WAIT_FOR(rig.accepted.closed);
    g_assert_cmpstr(rig.accepted.log->str, ==, "message:given up, generation 8;closed;");
    rig_clear(&rig);
}

static void
test_too_many_sessions(void)
{
    Side others[3] = {0};
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    rig.max_sessions = 3;
    rig_serve(&rig, "alpha");
    for (unsigned i = 0; i < 3; i++) {
        rig_establish(&rig);
        others[i].lane = g_steal_pointer(&rig.accepted.lane);
        gw_lane_set_handlers(others[i].lane, &(GwLaneHandlers){0}, NULL);
        /* The client goes away, but the owner of the accepted lane keeps it. */
    }
    rig_connect(&rig, "ca", "beta", NULL);
    WAIT_FOR(rig.client.closed);
    g_assert_error(rig.client.closed, GW_ERROR, GW_ERROR_UNREACHABLE);
    gw_lane_free(others[0].lane);
    rig_establish(&rig);
    gw_lane_free(others[1].lane);
    gw_lane_free(others[2].lane);
    rig_clear(&rig);
}

static void
test_nobody_answers(void)
{
    Rig rig;
    uint16_t port;

    rig_init(&rig, TIMEOUT_MS);
    port = gw_lane_server_port(rig.server);
    g_clear_pointer(&rig.server, gw_lane_server_free);
    rig_connect_to(&rig, port, "ca", "beta", "alpha");
    WAIT_FOR(rig.client.closed);
    g_assert_error(rig.client.closed, GW_ERROR, GW_ERROR_UNREACHABLE);
    g_assert_nonnull(strstr(rig.client.closed->message, "'alpha'"));
    g_assert_nonnull(strstr(rig.client.closed->message, "Connection refused"));
    rig_clear(&rig);
}

/* --- freeing at any moment
 * ------------------------------------------------------------------------------- */

static int64_t
timed_free(GwLane **lane)
{
    int64_t begin_us = gw_now_us();

    g_clear_pointer(lane, gw_lane_free);
    return gw_now_us() - begin_us;
}

static void
free_at_random(GRand *random, const GByteArray *stream)
{
    Rig rig;
    Feeder feeder;
    Drain drain;
    bool streaming = false;
    unsigned turns = (unsigned)g_rand_int_range(random, 0, 60);
    bool reads = g_rand_int_range(random, 0, 3) > 0;

    rig_init(&rig, TIMEOUT_MS);
    drain_init(&drain);
    rig_connect(&rig, "ca", "beta", NULL);
    for (unsigned i = 0; i < turns; i++) {
        g_main_context_iteration(NULL, FALSE);
        g_usleep((gulong)g_rand_int_range(random, 0, 2000));
        if (!streaming && rig.client.ready && rig.accepted.lane) {
            streaming = true;
            feeder_start(&feeder, stream);
            g_assert_true(gw_lane_start_stream(rig.client.lane, feeder.lane_fd, NULL));
            g_assert_true(gw_lane_start_stream(rig.accepted.lane, drain.lane_fd, NULL));
            if (reads) {
                drain_start(&drain);
            }
            send_text(rig.client.lane, "one");
            send_text(rig.accepted.lane, "two");
        }
    }
    Side *victims[] = {&rig.client, &rig.accepted};
    Side *first = victims[g_rand_int_range(random, 0, 2)];
    Side *second = first == &rig.client ? &rig.accepted : &rig.client;
    g_assert_cmpint(timed_free(&first->lane), <, 3 * G_USEC_PER_SEC);
    if (g_rand_boolean(random)) {
        g_clear_pointer(&rig.server, gw_lane_server_free);
    }
    for (unsigned i = 0; i < 3; i++) {
        g_main_context_iteration(NULL, FALSE);
    }
    g_assert_cmpint(timed_free(&second->lane), <, 3 * G_USEC_PER_SEC);
    if (streaming) {
        feeder_join(&feeder);
    } else {
        gw_fd_close(drain.lane_fd);
    }
    if (drain.thread) {
        drain_join(&drain);
    }
    drain_clear(&drain);
    rig_clear(&rig);
}

static void
test_free_at_random_moments(void)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autoptr(GByteArray) stream = qemu_stream_make(&mixed);

    g_test_message("seed %u", seed);
    for (unsigned i = 0; i < 60; i++) {
        free_at_random(random, stream);
    }
}

static void
test_free_within_handlers(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    rig_connect(&rig, "ca", "beta", NULL);
    rig.client.free_on_event = true; /* in ready() */
    WAIT_FOR(!rig.client.lane && rig.accepted.closed);

    rig_establish(&rig);
    rig.accepted.free_on_event = true; /* in message(), with more of them waiting */
    for (unsigned i = 0; i < 20; i++) {
        send_text(rig.client.lane, "x");
    }
    rig.client.free_on_event = true; /* in closed() */
    WAIT_FOR(!rig.accepted.lane && !rig.client.lane);
    g_assert_cmpuint(rig.accepted.n_messages, ==, 1);
    g_assert_nonnull(rig.client.closed);
    rig_clear(&rig);

    Move move;
    move_init(&move, &mixed);
    move.rig.client.free_on_event = true; /* in stream_end() */
    move.rig.accepted.free_on_event = true;
    move_start_target(&move);
    move_start_source(&move);
    WAIT_FOR(!move.rig.accepted.lane && !move.rig.client.lane);
    feeder_join(&move.feeder);
    drain_join(&move.drain);
    move_clear(&move);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/session/messages", test_messages);
    g_test_add_func("/session/measure", test_measure);
    g_test_add_func("/session/ends", test_ends);
    g_test_add_func("/session/message-limits", test_message_limits);
    g_test_add_func("/session/finish", test_finish);
    g_test_add_func("/session/many-messages", test_many_messages_while_peer_is_busy);
    g_test_add_func("/session/stream", test_stream);
    g_test_add_func("/session/unknown-stream", test_unknown_stream);
    g_test_add_func("/session/stream-with-memory", test_stream_with_memory);
    g_test_add_func("/session/equal-pages", test_equal_pages);
    g_test_add_func("/session/placed-stream-turns-unknown", test_placed_stream_turns_unknown);
    g_test_add_func("/session/empty-stream", test_empty_stream);
    g_test_add_func("/session/order-after-stream", test_order_after_stream);
    g_test_add_func("/session/stream-only-once", test_stream_only_once);
    g_test_add_func("/session/back-pressure", test_back_pressure);
    g_test_add_func("/session/target-qemu-dies", test_target_qemu_dies);
    g_test_add_func("/session/source-dies-mid-stream", test_source_dies_mid_stream);
    g_test_add_func("/session/target-dies-mid-stream", test_target_dies_mid_stream);
    g_test_add_func("/session/last-message-before-death", test_last_message_before_death);
    g_test_add_func("/session/too-many-sessions", test_too_many_sessions);
    g_test_add_func("/session/nobody-answers", test_nobody_answers);
    g_test_add_func("/session/free-at-random-moments", test_free_at_random_moments);
    g_test_add_func("/session/free-within-handlers", test_free_within_handlers);
    return g_test_run();
}
