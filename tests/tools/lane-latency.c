// SPDX-License-Identifier: Apache-2.0
/*
 * How long a page request takes over a lane that is busy with a stream, between two network
 * namespaces (see wanbox.c).
 *
 * usage: lane-latency SERVER_NS SERVER_IP CLIENT_NS SECONDS idle|busy|paced
 *     idle   no stream beside the requests
 *     busy   a stream of random bytes as fast as it goes, with the window of a pre-copy
 *     paced  the same with the window of a post-copy, after 3 s of a pre-copy
 *
 * A thread asks with 16 bytes over the return path, another answers with 4,109 bytes over the
 * preempt channel; 20 questions a second, from the 7th second on. Prints one JSON object. Root.
 */
#include "base/units.h"
#include "certs.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_BYTES 16u
#define ANSWER_BYTES  4109u
#define PIECE_BYTES   (1u << 20)
#define PAUSE_US      50000
#define PRECOPY_MS    3000
#define WARM_UP_US    (2 * PRECOPY_MS * 1000)

typedef struct Bench {
    GwLane *client, *accepted;
    bool opened, closed;
    int stop; /* atomic */
    int stream[2], back[2], preempt[2], sink[2];
    GArray *latencies_us;
    uint64_t streamed_bytes; /* atomic; since the first question */
    int64_t began_us;
} Bench;

static void
fail(const char *what)
{
    fprintf(stderr, "lane-latency: %s\n", what);
    exit(1);
}

static void
enter(const char *ns)
{
    g_autofree char *path = g_build_filename("/run/netns", ns, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) {
        fail("cannot enter the network namespace");
    }
    close(fd);
}

static bool
read_whole(int fd, uint8_t *out, size_t len)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = read(fd, out + have, len - have);

        if (n <= 0) {
            return false;
        }
        have += (size_t)n;
    }
    return true;
}

/* New ones each time: what was sent before would be found again. xorshift, as GRand is slow. */
static void
fill(uint64_t *words, size_t n, uint64_t *word)
{
    for (size_t i = 0; i < n; i++) {
        *word ^= *word << 13;
        *word ^= *word >> 7;
        *word ^= *word << 17;
        words[i] = *word;
    }
}

static void *
feed(void *data)
{
    Bench *bench = data;
    g_autofree uint64_t *words = g_malloc(PIECE_BYTES);
    uint64_t word = 1;

    do {
        fill(words, PIECE_BYTES / sizeof(*words), &word);
    } while (!g_atomic_int_get(&bench->stop) &&
             send(bench->stream[0], words, PIECE_BYTES, MSG_NOSIGNAL) > 0);
    return NULL;
}

static void *
drain(void *data)
{
    Bench *bench = data;
    g_autofree uint8_t *buffer = g_malloc(1 << 20);
    ssize_t n;

    while ((n = read(bench->sink[0], buffer, 1 << 20)) > 0) {
        __atomic_fetch_add(&bench->streamed_bytes, (uint64_t)n, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void *
answer(void *data)
{
    Bench *bench = data;
    uint8_t request[REQUEST_BYTES], page[ANSWER_BYTES] = {0};

    while (read_whole(bench->back[1], request, sizeof(request))) {
        if (send(bench->preempt[0], page, sizeof(page), MSG_NOSIGNAL) < 0) {
            break;
        }
    }
    return NULL;
}

static void *
ask(void *data)
{
    Bench *bench = data;
    uint8_t request[REQUEST_BYTES] = {0}, page[ANSWER_BYTES];

    g_usleep(WARM_UP_US);
    while (!g_atomic_int_get(&bench->stop)) {
        int64_t asked_us = gw_now_us();

        if (bench->latencies_us->len == 0) {
            __atomic_store_n(&bench->streamed_bytes, 0, __ATOMIC_RELAXED);
            bench->began_us = asked_us;
        }
        if (send(bench->back[0], request, sizeof(request), MSG_NOSIGNAL) < 0 ||
            !read_whole(bench->preempt[1], page, sizeof(page))) {
            break;
        }
        int64_t latency_us = gw_now_us() - asked_us;

        g_array_append_val(bench->latencies_us, latency_us);
        g_usleep(PAUSE_US);
    }
    return NULL;
}

/* --- the session ------------------------------------------------------------------------------ */

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    fail(error->message);
}

static const GwLaneHandlers handlers = {.closed = on_closed};

static bool
on_welcome(const char *peer_name, GError **error, void *data)
{
    return true;
}

static void
on_accepted(GwLane *lane, void *data)
{
    Bench *bench = data;

    bench->accepted = lane;
    gw_lane_set_handlers(lane, &handlers, bench);
}

static void
on_opened(GwLane *lane, GwLaneBytes channel, void *data)
{
    ((Bench *)data)->opened = true;
}

static GwLaneCredentials *
make_credentials(TestCa *ca, const char *dir, const char *name)
{
    test_cert_write(ca, dir, name, &(TestCert){.common_name = name, .dns_name = name});
    return test_credentials(dir, "ca", name);
}

static void
establish(Bench *bench, const char *const *arguments, const char *dir)
{
    static const GwLaneServerHandlers serving = {on_welcome, on_accepted};
    g_autoptr(GError) error = NULL;
    TestCa *ca = test_ca_new(dir, "ca");
    GwLaneServerOptions server = {.bind_address = arguments[2],
                                  .credentials = make_credentials(ca, dir, "alpha"),
                                  .session_timeout_ms = 60000,
                                  .max_sessions = 4};

    enter(arguments[1]);
    GwLaneServer *listening = gw_lane_server_new(&server, &serving, bench, &error);
    if (!listening) {
        fail(error->message);
    }
    enter(arguments[3]); /* threads from now on are the client's, too */
    GwLaneConnect connect = {.address = arguments[2],
                             .port = gw_lane_server_port(listening),
                             .expected_name = "alpha",
                             .credentials = make_credentials(ca, dir, "beta"),
                             .connect_timeout_ms = 10000,
                             .session_timeout_ms = 60000};

    bench->client = gw_lane_connect(&connect, &handlers, bench);
    while (!bench->accepted || !gw_lane_peer_name(bench->client)) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void
open_channel(GwLane *lane, GwLaneBytes channel, int pair[2], unsigned end, unsigned ways)
{
    g_autoptr(GError) error = NULL;

    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0 ||
        !gw_lane_open_bytes(lane, channel, ends[1], ways, &error)) {
        fail(error ? error->message : "no socket pair");
    }
    pair[end] = ends[0];
}

static gboolean
on_switch(void *data)
{
    gw_lane_set_paced(((Bench *)data)->client);
    return G_SOURCE_REMOVE;
}

static void
start(Bench *bench, bool busy, bool paced)
{
    g_autoptr(GError) error = NULL;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, bench->stream) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, bench->sink) < 0 ||
        !gw_lane_start_stream(bench->accepted, bench->sink[1], &error) ||
        !gw_lane_start_stream(bench->client, bench->stream[1], &error)) {
        fail(error ? error->message : "no socket pair");
    }
    if (paced) {
        g_timeout_add(PRECOPY_MS, on_switch, bench);
    }
    gw_lane_set_opened(bench->accepted, on_opened);
    open_channel(bench->accepted, GW_LANE_RETURN_PATH, bench->back, 0, GW_LANE_BYTES_READ);
    open_channel(bench->client, GW_LANE_RETURN_PATH, bench->back, 1, GW_LANE_BYTES_WRITE);
    open_channel(bench->client, GW_LANE_PREEMPT, bench->preempt, 0, GW_LANE_BYTES_READ);
    while (!bench->opened) {
        g_main_context_iteration(NULL, TRUE);
    }
    open_channel(bench->accepted, GW_LANE_PREEMPT, bench->preempt, 1, GW_LANE_BYTES_WRITE);
    if (busy) {
        g_thread_unref(g_thread_new("feed", feed, bench));
    }
    g_thread_unref(g_thread_new("drain", drain, bench));
    g_thread_unref(g_thread_new("answer", answer, bench));
    g_thread_unref(g_thread_new("ask", ask, bench));
}

static gint
by_value(gconstpointer a, gconstpointer b)
{
    const int64_t *left = a, *right = b;

    return (*left > *right) - (*left < *right);
}

static double
part_ms(GArray *latencies_us, unsigned percent)
{
    return (double)g_array_index(latencies_us, int64_t, (latencies_us->len - 1) * percent / 100) /
           1000;
}

static gboolean
on_time(void *data)
{
    g_atomic_int_set(&((Bench *)data)->stop, 1);
    return G_SOURCE_REMOVE;
}

int
main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("lane-latency-XXXXXX", NULL);
    Bench bench = {.latencies_us = g_array_new(FALSE, FALSE, sizeof(int64_t))};
    GwLaneStats stats;

    if (argc != 6 || !dir) {
        fail("usage: lane-latency SERVER_NS SERVER_IP CLIENT_NS SECONDS idle|busy|paced");
    }
    establish(&bench, (const char *const *)argv, dir);
    start(&bench, strcmp(argv[5], "idle") != 0, strcmp(argv[5], "paced") == 0);
    g_timeout_add_seconds((guint)atoi(argv[4]), on_time, &bench);
    while (!g_atomic_int_get(&bench.stop)) {
        g_main_context_iteration(NULL, TRUE);
    }
    gw_lane_stats(bench.client, &stats);
    g_array_sort(bench.latencies_us, by_value);
    if (bench.latencies_us->len == 0) {
        fail("no answer came");
    }
    double seconds = (double)(gw_now_us() - bench.began_us) / 1e6;
    printf("{\"mode\": \"%s\", \"answers\": %u, \"median_ms\": %.2f, \"p90_ms\": %.2f, "
           "\"p99_ms\": %.2f, \"min_ms\": %.2f, \"rtt_ms\": %.2f, \"stream_mbit\": %.0f}\n",
           argv[5], bench.latencies_us->len, part_ms(bench.latencies_us, 50),
           part_ms(bench.latencies_us, 90), part_ms(bench.latencies_us, 99),
           part_ms(bench.latencies_us, 0), (double)stats.rtt_us / 1000,
           (double)__atomic_load_n(&bench.streamed_bytes, __ATOMIC_RELAXED) * 8 / 1e6 / seconds);
    g_autofree char *remove = g_strdup_printf("rm -rf %s", dir);
    return system(remove);
}
