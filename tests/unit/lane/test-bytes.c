// SPDX-License-Identifier: Apache-2.0
/*
 * Byte channels beside a busy stream: whole, in order, with their ends, ahead of the bulk, over
 * connections that break.
 */
#include "base/units.h"
#include "harness.h"
#include "lane/connection.h"
#include "lane/session.h"
#include "proxy.h"
#include "qemustream.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 30000

typedef struct Trip {
    Rig rig;
    Proxy *proxy;
    GByteArray *stream;
    Feeder feeder;
    Drain drain;
    int back[2];    /* return path: QEMU's ends at the target and at the source */
    int preempt[2]; /* ... at the source and at the target */
    unsigned n_opened;
    GwLaneBytes opened;
} Trip;

static Trip *the_trip;

static void
on_opened(GwLane *lane, GwLaneBytes channel, void *data)
{
    the_trip->n_opened++;
    the_trip->opened = channel;
}

/* Our end is returned, @lane carries the other one. */
static int
open_channel(GwLane *lane, GwLaneBytes channel, unsigned ways)
{
    g_autoptr(GError) error = NULL;
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    g_assert_true(gw_lane_open_bytes(lane, channel, pair[1], ways, &error));
    g_assert_no_error(error);
    return pair[0];
}

static void
trip_establish(Trip *trip, unsigned n_pages, unsigned n_links)
{
    QemuStreamSpec spec = {.seed = 5, .n_pages = n_pages, .zero_part = 20, .device_bytes = 100000};
    Rig *rig = &trip->rig;

    *trip = (Trip){.stream = qemu_stream_make(&spec)};
    the_trip = trip;
    rig_init(rig, TIMEOUT_MS);
    rig->n_links = n_links;
    rig->silence_ms = 600;
    trip->proxy = proxy_new("127.0.0.1", 0, gw_lane_server_port(rig->server));
    rig_connect_to(rig, proxy_port(trip->proxy), "ca", "beta", "alpha");
    WAIT_FOR((rig->client.ready && rig->accepted.ready) || rig->client.closed);
    g_assert_no_error(rig->client.closed);
    drain_init(&trip->drain);
}

static void
trip_start(Trip *trip)
{
    g_autoptr(GError) error = NULL;
    Rig *rig = &trip->rig;

    feeder_start(&trip->feeder, trip->stream);
    drain_start(&trip->drain);
    g_assert_true(gw_lane_start_stream(rig->accepted.lane, trip->drain.lane_fd, &error));
    g_assert_true(gw_lane_start_stream(rig->client.lane, trip->feeder.lane_fd, &error));
    gw_lane_set_opened(rig->accepted.lane, on_opened);
    gw_lane_set_paced(rig->client.lane);
    trip->back[0] = open_channel(rig->accepted.lane, GW_LANE_RETURN_PATH, GW_LANE_BYTES_READ);
    trip->back[1] = open_channel(rig->client.lane, GW_LANE_RETURN_PATH, GW_LANE_BYTES_WRITE);
    trip->preempt[0] =
        open_channel(rig->client.lane, GW_LANE_PREEMPT, GW_LANE_BYTES_READ | GW_LANE_BYTES_WRITE);
    WAIT_FOR(trip->n_opened == 1);
    g_assert_cmpint(trip->opened, ==, GW_LANE_PREEMPT);
    trip->preempt[1] =
        open_channel(rig->accepted.lane, GW_LANE_PREEMPT, GW_LANE_BYTES_READ | GW_LANE_BYTES_WRITE);
}

static void
trip_finish(Trip *trip)
{
    Rig *rig = &trip->rig;

    WAIT_FOR((rig->client.ended && rig->accepted.ended) || rig->client.closed ||
             rig->accepted.closed);
    g_assert_no_error(rig->client.closed);
    g_assert_no_error(rig->accepted.closed);
    g_assert_no_error(rig->accepted.end_error);
    feeder_join(&trip->feeder);
    drain_join(&trip->drain);
    g_assert_cmpuint(trip->drain.bytes->len, ==, trip->stream->len);
    g_assert_cmpint(memcmp(trip->drain.bytes->data, trip->stream->data, trip->stream->len), ==, 0);
}

static void
trip_clear(Trip *trip)
{
    drain_clear(&trip->drain);
    rig_clear(&trip->rig);
    proxy_free(trip->proxy);
    g_byte_array_unref(trip->stream);
    for (unsigned i = 0; i < 2; i++) {
        close(trip->back[i]);
        close(trip->preempt[i]);
    }
}

static bool
read_whole(int fd, void *out, size_t len)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = read(fd, (uint8_t *)out + have, len - have);

        if (n <= 0) {
            return false;
        }
        have += (size_t)n;
    }
    return true;
}

/* --- a target that asks for pages, and a source that answers ---------------------------------- */

#define REQUEST_BYTES 16u
#define ANSWER_BYTES  4109u

typedef struct Pages {
    Trip *trip;
    unsigned n_requests; /* 0: until `stop` */
    bool stop;           /* atomic */
    GArray *latencies_us;
    GThread *asker, *answerer;
    gint done; /* atomic */
} Pages;

static void *
answer_pages(void *data)
{
    Pages *pages = data;
    uint8_t request[REQUEST_BYTES], answer[ANSWER_BYTES];

    while (read_whole(pages->trip->back[1], request, sizeof(request))) {
        memset(answer, request[0], sizeof(answer));
        g_assert_cmpint(write(pages->trip->preempt[0], answer, sizeof(answer)), ==, sizeof(answer));
    }
    shutdown(pages->trip->preempt[0], SHUT_WR);
    return NULL;
}

static void *
ask_for_pages(void *data)
{
    Pages *pages = data;
    uint8_t request[REQUEST_BYTES] = {0}, answer[ANSWER_BYTES];
    unsigned i = 0;

    for (; pages->n_requests ? i < pages->n_requests
                             : !__atomic_load_n(&pages->stop, __ATOMIC_RELAXED);
         i++) {
        int64_t asked_us = gw_now_us();

        memset(request, (int)i, sizeof(request));
        g_assert_cmpint(write(pages->trip->back[0], request, sizeof(request)), ==, sizeof(request));
        g_assert_true(read_whole(pages->trip->preempt[1], answer, sizeof(answer)));
        g_assert_cmpint(answer[0], ==, (uint8_t)i);
        g_assert_cmpint(answer[sizeof(answer) - 1], ==, (uint8_t)i);
        int64_t latency_us = gw_now_us() - asked_us;

        g_array_append_val(pages->latencies_us, latency_us);
    }
    /* The end travels there and back: a half-closed channel still carries the other direction. */
    shutdown(pages->trip->back[0], SHUT_WR);
    g_assert_false(read_whole(pages->trip->preempt[1], answer, 1));
    g_atomic_int_set(&pages->done, 1);
    return NULL;
}

static void
pages_start(Pages *pages, Trip *trip, unsigned n_requests)
{
    *pages = (Pages){.trip = trip, .n_requests = n_requests};
    pages->latencies_us = g_array_new(FALSE, FALSE, sizeof(int64_t));
    pages->answerer = g_thread_new("answerer", answer_pages, pages);
    pages->asker = g_thread_new("asker", ask_for_pages, pages);
}

static void
pages_join(Pages *pages)
{
    WAIT_FOR(g_atomic_int_get(&pages->done) || pages->trip->rig.client.closed);
    g_assert_no_error(pages->trip->rig.client.closed);
    g_thread_join(pages->asker);
    g_thread_join(pages->answerer);
}

static gint
by_value(gconstpointer a, gconstpointer b)
{
    const int64_t *left = a, *right = b;

    return (*left > *right) - (*left < *right);
}

static int64_t
part_us(Pages *pages, unsigned percent)
{
    g_array_sort(pages->latencies_us, by_value);
    return g_array_index(pages->latencies_us, int64_t,
                         (pages->latencies_us->len - 1) * percent / 100);
}

static gboolean
on_tick(void *data)
{
    return G_SOURCE_CONTINUE;
}

static void
test_beside_a_stream(void)
{
    Trip trip;
    Pages pages;
    unsigned tick = g_timeout_add(20, on_tick, NULL);

    trip_establish(&trip, 20000, 2);
    trip_start(&trip);
    pages_start(&pages, &trip, 300);
    pages_join(&pages);
    trip_finish(&trip);
    g_test_message("%u answers beside a stream: median %" G_GINT64_FORMAT
                   " us, 90 %% %" G_GINT64_FORMAT " us",
                   pages.latencies_us->len, part_us(&pages, 50), part_us(&pages, 90));
    g_assert_cmpuint(pages.latencies_us->len, ==, 300);
    g_array_unref(pages.latencies_us);
    trip_clear(&trip);
    g_source_remove(tick);
}

/* The target's QEMU takes nothing of the stream: what is urgent comes through all the same. */
static void
test_past_a_blocked_stream(void)
{
    Trip trip;
    Pages pages;
    g_autoptr(GError) error = NULL;
    unsigned tick = g_timeout_add(20, on_tick, NULL);

    trip_establish(&trip, 6000, 1);
    feeder_start(&trip.feeder, trip.stream);
    g_assert_true(gw_lane_start_stream(trip.rig.accepted.lane, trip.drain.lane_fd, &error));
    g_assert_true(gw_lane_start_stream(trip.rig.client.lane, trip.feeder.lane_fd, &error));
    trip.back[0] = open_channel(trip.rig.accepted.lane, GW_LANE_RETURN_PATH, GW_LANE_BYTES_READ);
    trip.back[1] = open_channel(trip.rig.client.lane, GW_LANE_RETURN_PATH, GW_LANE_BYTES_WRITE);
    trip.preempt[0] = open_channel(trip.rig.client.lane, GW_LANE_PREEMPT, GW_LANE_BYTES_READ);
    trip.preempt[1] = open_channel(trip.rig.accepted.lane, GW_LANE_PREEMPT, GW_LANE_BYTES_WRITE);
    pages_start(&pages, &trip, 50);
    pages_join(&pages);
    drain_start(&trip.drain);
    trip_finish(&trip);
    g_array_unref(pages.latencies_us);
    trip_clear(&trip);
    g_source_remove(tick);
}

static void
test_over_breaking_connections(void)
{
    for (uint32_t seed = 1; seed <= 3; seed++) {
        Trip trip;
        Pages pages;
        unsigned tick = g_timeout_add(20, on_tick, NULL);

        trip_establish(&trip, 4000, 2);
        trip_start(&trip);
        g_test_message("seed %u", seed);
        proxy_cut_after(trip.proxy, seed, 30000, 700000);
        proxy_cut(trip.proxy);
        pages_start(&pages, &trip, 400);
        pages_join(&pages);
        proxy_cut_after(trip.proxy, seed, 0, 0);
        trip_finish(&trip);
        g_assert_cmpuint(proxy_cuts(trip.proxy), >, 3);
        g_array_unref(pages.latencies_us);
        trip_clear(&trip);
        g_source_remove(tick);
    }
}

/* All of the session's end is the end of its channels. */
static void
test_session_ends(void)
{
    Trip trip;
    uint8_t byte;

    trip_establish(&trip, 100, 1);
    trip_start(&trip);
    trip_finish(&trip);
    g_clear_pointer(&trip.rig.client.lane, gw_lane_free);
    WAIT_FOR(trip.rig.accepted.closed);
    g_assert_false(read_whole(trip.back[1], &byte, 1));
    g_assert_false(read_whole(trip.preempt[1], &byte, 1));
    trip_clear(&trip);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bytes/beside-a-stream", test_beside_a_stream);
    g_test_add_func("/bytes/past-a-blocked-stream", test_past_a_blocked_stream);
    g_test_add_func("/bytes/over-breaking-connections", test_over_breaking_connections);
    g_test_add_func("/bytes/session-ends", test_session_ends);
    return g_test_run();
}
