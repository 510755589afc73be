// SPDX-License-Identifier: Apache-2.0
/*
 * Sessions that outlive their connections, over loopback with real TLS and a relay that breaks.
 */
#include "base/units.h"
#include "harness.h"
#include "lane/connection.h"
#include "lane/session.h"
#include "proxy.h"
#include "qemustream.h"
#include "rawpeer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 30000
#define N_MESSAGES 40u

typedef struct Trip {
    Rig rig;
    Proxy *proxy;
    GByteArray *stream;
    Feeder feeder;
    Drain drain;
} Trip;

static const QemuStreamSpec random_pages = {
    .seed = 3, .n_pages = 6000, .zero_part = 20, .device_bytes = 100000};

static void
trip_init(Trip *trip, const QemuStreamSpec *spec, unsigned n_links)
{
    *trip = (Trip){.stream = qemu_stream_make(spec)};
    rig_init(&trip->rig, TIMEOUT_MS);
    trip->rig.n_links = n_links;
    trip->rig.silence_ms = 600;
    trip->proxy = proxy_new("127.0.0.1", 0, gw_lane_server_port(trip->rig.server));
    drain_init(&trip->drain);
}

static void
trip_establish(Trip *trip)
{
    Rig *rig = &trip->rig;

    rig_connect_to(rig, proxy_port(trip->proxy), "ca", "beta", "alpha");
    WAIT_FOR((rig->client.ready && rig->accepted.ready) || rig->client.closed);
    g_assert_no_error(rig->client.closed);
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
send_number(Side *side, unsigned number)
{
    g_autoptr(json_t) message = json_object();
    g_autofree char *text = g_strdup_printf("%u", number);

    gw_json_set_str(message, "text", text);
    g_autoptr(GError) error = NULL;
    bool sent = gw_lane_send(side->lane, message, &error);
    g_assert_no_error(side->closed);
    g_assert_no_error(error);
    g_assert_true(sent);
}

/* Messages 0 … N_MESSAGES-1, each once, in order, wherever the stream's end lies between them. */
static void
expect_messages(const Side *side)
{
    g_autoptr(GString) expected = g_string_new(NULL);
    g_autoptr(GString) log = g_string_new(side->log->str);

    for (unsigned i = 0; i < N_MESSAGES; i++) {
        g_string_append_printf(expected, "message:%u;", i);
    }
    if (g_str_has_prefix(log->str, "ready;")) {
        g_string_erase(log, 0, strlen("ready;"));
    }
    const char *end = strstr(log->str, "end;");
    g_assert_nonnull(end);
    g_string_erase(log, end - log->str, strlen("end;"));
    g_assert_cmpstr(log->str, ==, expected->str);
}

/* The handshake and greeting of a connection take no more, at either end. */
#define GREETING_BYTES 8192u

static void
expect_sums(const Trip *trip, GwLane *lane, GwLaneStats *out)
{
    gw_lane_stats(lane, out);
    g_assert_cmpuint(out->page_bytes + out->zero_bytes + out->opaque_bytes + out->control_bytes +
                         out->overhead_bytes + out->resent_bytes,
                     ==, out->wire_bytes);
    uint64_t greetings = (uint64_t)proxy_connections(trip->proxy) * GREETING_BYTES;

    g_assert_cmpuint(out->overhead_bytes, <,
                     (out->wire_bytes - out->overhead_bytes) / 2 + greetings);
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
    g_assert_cmpstr(rig->client.end_digest, ==, rig->accepted.end_digest);
}

static void
trip_clear(Trip *trip)
{
    drain_clear(&trip->drain);
    rig_clear(&trip->rig);
    proxy_free(trip->proxy);
    g_byte_array_unref(trip->stream);
}

/* --- resets ----------------------------------------------------------------------------------- */

/* One stream and messages both ways over connections that each live for a random while. */
static unsigned
run_with_resets(uint32_t seed, unsigned n_links, uint64_t cut_max)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    unsigned sent = 0;
    GwLaneStats stats;
    Trip trip;

    g_test_message("seed %u, %u links, connections of up to %" G_GUINT64_FORMAT " bytes", seed,
                   n_links, cut_max);
    trip_init(&trip, &random_pages, n_links);
    trip_establish(&trip);
    proxy_cut_after(trip.proxy, seed, 5000, cut_max);
    proxy_cut(trip.proxy);
    trip_start(&trip);
    while (sent < N_MESSAGES) {
        g_main_context_iteration(NULL, FALSE);
        if (g_rand_int_range(random, 0, 8) == 0) {
            send_number(&trip.rig.client, sent);
            send_number(&trip.rig.accepted, sent);
            sent++;
        }
        g_usleep(500);
    }
    trip_finish(&trip);
    WAIT_FOR(trip.rig.client.n_messages == N_MESSAGES &&
             trip.rig.accepted.n_messages == N_MESSAGES);
    expect_messages(&trip.rig.client);
    expect_messages(&trip.rig.accepted);
    expect_sums(&trip, trip.rig.client.lane, &stats);
    unsigned cuts = proxy_cuts(trip.proxy);

    g_test_message("%u cuts, %" G_GUINT64_FORMAT " reconnects, %" G_GUINT64_FORMAT
                   " of %" G_GUINT64_FORMAT " bytes sent again",
                   cuts, stats.reconnects, stats.resent_bytes, stats.wire_bytes);
    g_assert_cmpuint(stats.reconnects, >, 0);
    g_assert_cmpuint(stats.resent_bytes, <=, (uint64_t)cuts * (GW_WINDOW_MAX_BYTES / 16));
    expect_sums(&trip, trip.rig.accepted.lane, &stats);
    proxy_cut_after(trip.proxy, 0, 0, 0);
    proxy_cut(trip.proxy);
    gw_lane_finish(trip.rig.client.lane);
    WAIT_FOR(trip.rig.client.closed && trip.rig.accepted.closed);
    g_assert_error(trip.rig.client.closed, GW_ERROR, GW_ERROR_CANCELLED);
    g_assert_error(trip.rig.accepted.closed, GW_ERROR, GW_ERROR_CANCELLED);
    trip_clear(&trip);
    return cuts;
}

static void
test_random_resets(void)
{
    uint32_t seed = g_test_rand_int();
    unsigned cuts = 0;

    for (unsigned i = 0; i < (g_test_thorough() ? 120 : 16); i++) {
        cuts += run_with_resets(seed + i, 1 + i % 4, i % 3 ? 1500000 : 400000);
    }
    g_test_message("%u cuts in all", cuts);
    g_assert_cmpuint(cuts, >, 100);
}

static gboolean
count_up(void *data)
{
    ++*(unsigned *)data;
    return G_SOURCE_CONTINUE;
}

/* The timer's beats are the unit of time here; nothing else tells that nothing happens. */
static void
let_pass(unsigned beats, guint interval_ms)
{
    unsigned passed = 0;
    guint timer = g_timeout_add(interval_ms, count_up, &passed);

    WAIT_FOR(passed >= beats);
    g_source_remove(timer);
}

/* One reset, one link: what the peer had received does not travel again. */
static void
test_resend_is_exact(void)
{
    GwLaneStats stats;
    Trip trip;

    trip_init(&trip, &random_pages, 1);
    trip_establish(&trip);
    /* A QEMU that reads nothing: all of the window arrives, and stays unacknowledged. */
    feeder_start(&trip.feeder, trip.stream);
    g_assert_true(gw_lane_start_stream(trip.rig.accepted.lane, trip.drain.lane_fd, NULL));
    g_assert_true(gw_lane_start_stream(trip.rig.client.lane, trip.feeder.lane_fd, NULL));
    let_pass(4, 200);
    gw_lane_stats(trip.rig.client.lane, &stats);
    g_assert_cmpuint(stats.in_flight_bytes, >, 300000);
    for (unsigned i = 1; i <= 5; i++) {
        proxy_cut(trip.proxy);
        do {
            g_main_context_iteration(NULL, FALSE);
            gw_lane_stats(trip.rig.client.lane, &stats);
            g_usleep(500);
        } while (stats.reconnects < i);
    }
    g_assert_cmpuint(stats.resent_bytes, ==, 0);
    drain_start(&trip.drain);
    trip_finish(&trip);
    expect_sums(&trip, trip.rig.client.lane, &stats);
    g_assert_cmpuint(stats.resent_bytes, ==, 0);
    trip_clear(&trip);
}

/* --- silence ---------------------------------------------------------------------------------- */

static int64_t
time_until_flow(Trip *trip)
{
    int64_t begin_us = gw_now_us();
    GwLaneStats before, now;

    gw_lane_stats(trip->rig.accepted.lane, &before);
    do {
        g_main_context_iteration(NULL, FALSE);
        gw_lane_stats(trip->rig.accepted.lane, &now);
        g_usleep(500);
        g_assert_cmpint(gw_now_us() - begin_us, <, 20 * G_USEC_PER_SEC);
    } while (now.stream_bytes == before.stream_bytes);
    return gw_now_us() - begin_us;
}

static void
test_stall(void)
{
    static const QemuStreamSpec large = {
        .seed = 5, .n_pages = 40000, .zero_part = 0, .device_bytes = 1000};

    for (unsigned n_links = 1; n_links <= 4; n_links += 3) {
        GwLaneStats stats;
        Trip trip;

        trip_init(&trip, &large, n_links);
        trip_establish(&trip);
        trip_start(&trip);
        time_until_flow(&trip);
        proxy_stall(trip.proxy, true);
        let_pass(5, 1000);
        g_assert_null(trip.rig.client.closed);
        g_assert_null(trip.rig.accepted.closed);
        proxy_stall(trip.proxy, false);
        int64_t took_us = time_until_flow(&trip);
        g_test_message("%u links: flowed again after %" G_GINT64_FORMAT " ms", n_links,
                       took_us / 1000);
        g_assert_cmpint(took_us, <, 2 * G_USEC_PER_SEC);
        trip_finish(&trip);
        expect_sums(&trip, trip.rig.client.lane, &stats);
        trip_clear(&trip);
    }
}

static void
test_session_timeout(void)
{
    Trip trip;

    trip_init(&trip, &random_pages, 1);
    trip.rig.session_timeout_ms = 1500;
    rig_serve(&trip.rig, "alpha");
    proxy_set_target(trip.proxy, gw_lane_server_port(trip.rig.server));
    trip_establish(&trip);
    proxy_refuse(trip.proxy, true);
    proxy_cut(trip.proxy);
    WAIT_FOR(trip.rig.client.closed && trip.rig.accepted.closed);
    g_test_message("%s", trip.rig.client.closed->message);
    g_assert_error(trip.rig.client.closed, GW_ERROR, GW_ERROR_TIMEOUT);
    g_assert_error(trip.rig.accepted.closed, GW_ERROR, GW_ERROR_TIMEOUT);
    close(trip.drain.lane_fd);
    trip_clear(&trip);
}

/* --- addresses -------------------------------------------------------------------------------- */

static void
test_other_address(void)
{
    static const char *const more[] = {"127.0.0.3", NULL};
    GwLaneStats stats;
    Trip trip;

    trip_init(&trip, &random_pages, 2);
    proxy_free(trip.proxy);
    trip.proxy = proxy_new("127.0.0.2", 0, gw_lane_server_port(trip.rig.server));
    Proxy *other =
        proxy_new("127.0.0.3", proxy_port(trip.proxy), gw_lane_server_port(trip.rig.server));
    trip.rig.address = "127.0.0.2";
    trip.rig.more_addresses = more;
    trip_establish(&trip);
    g_assert_cmpuint(proxy_connections(other), ==, 0);
    trip_start(&trip);
    time_until_flow(&trip);
    proxy_free(trip.proxy);
    trip_finish(&trip);
    do {
        g_main_context_iteration(NULL, FALSE);
        gw_lane_stats(trip.rig.client.lane, &stats);
        g_usleep(500);
    } while (stats.links < 2 && !trip.rig.client.closed);
    g_assert_no_error(trip.rig.client.closed);
    g_assert_cmpuint(proxy_connections(other), >=, 2);
    trip.proxy = other;
    trip_clear(&trip);
}

/* --- ends ------------------------------------------------------------------------------------- */

/* The peer's daemon was killed and started anew: the session is not known, and ends at once. */
static void
test_unknown_session(void)
{
    Trip trip;

    trip_init(&trip, &random_pages, 1);
    trip_establish(&trip);
    proxy_refuse(trip.proxy, true);
    proxy_cut(trip.proxy);
    GwLane *killed = g_steal_pointer(&trip.rig.accepted.lane);
    rig_serve(&trip.rig, "alpha");
    proxy_set_target(trip.proxy, gw_lane_server_port(trip.rig.server));
    int64_t begin_us = gw_now_us();
    proxy_refuse(trip.proxy, false);
    WAIT_FOR(trip.rig.client.closed);
    g_test_message("%s", trip.rig.client.closed->message);
    g_assert_error(trip.rig.client.closed, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_assert_cmpint(gw_now_us() - begin_us, <, 3 * G_USEC_PER_SEC);
    gw_lane_free(killed);
    close(trip.drain.lane_fd);
    trip_clear(&trip);
}

static void
test_free_while_reconnecting(void)
{
    for (unsigned i = 0; i < 12; i++) {
        Trip trip;

        trip_init(&trip, &random_pages, 1 + i % 4);
        trip_establish(&trip);
        trip_start(&trip);
        time_until_flow(&trip);
        proxy_refuse(trip.proxy, i % 3 == 0);
        proxy_stall(trip.proxy, i % 3 == 1);
        proxy_cut(trip.proxy);
        let_pass(1, 1 + 20 * i);
        Side *first = i % 2 ? &trip.rig.client : &trip.rig.accepted;
        Side *second = i % 2 ? &trip.rig.accepted : &trip.rig.client;
        int64_t begin_us = gw_now_us();
        g_clear_pointer(&first->lane, gw_lane_free);
        g_assert_cmpint(gw_now_us() - begin_us, <, G_USEC_PER_SEC);
        g_clear_pointer(&second->lane, gw_lane_free);
        g_assert_cmpint(gw_now_us() - begin_us, <, 2 * G_USEC_PER_SEC);
        feeder_join(&trip.feeder);
        drain_join(&trip.drain);
        trip_clear(&trip);
    }
}

/* --- who may resume --------------------------------------------------------------------------- */

typedef struct Resumer {
    Rig *rig;
    const char *certificate;
    GwHello hello;
    GByteArray *refusal;
    GwHello answer;
    bool answered;
    gint done;
    bool dies;
} Resumer;

static void *
run_resumer(void *data)
{
    Resumer *resumer = data;
    RawPeer peer;

    g_assert_true(raw_open(&peer, raw_connect_tcp(gw_lane_server_port(resumer->rig->server)), false,
                           resumer->rig->dir, "ca", resumer->certificate));
    g_autoptr(GByteArray) payload = g_byte_array_new();

    peer.dies = resumer->dies;
    gw_hello_encode(&resumer->hello, payload);
    raw_send_frame(&peer, GW_FRAME_HELLO, payload->data, payload->len);
    raw_send_frame(&peer, GW_FRAME_PING, "12345678", 8);
    resumer->refusal = raw_expect_either(&peer, GW_FRAME_REFUSE, GW_FRAME_PONG, &resumer->answer);
    raw_close(&peer);
    g_atomic_int_set(&resumer->done, 1);
    return NULL;
}

static void
resume(Resumer *resumer)
{
    resumer->done = 0;
    resumer->refusal = NULL;
    GThread *thread = g_thread_new("resumer", run_resumer, resumer);

    while (!g_atomic_int_get(&resumer->done)) {
        g_main_context_iteration(NULL, FALSE);
        g_usleep(500);
    }
    g_thread_join(thread);
}

static void
expect_no_resume(Resumer resumer, GwErrorCode code, const char *words)
{
    resume(&resumer);
    g_assert_nonnull(resumer.refusal);
    g_autoptr(GError) told = gw_refuse_decode(resumer.refusal->data, resumer.refusal->len);
    g_test_message("%s", told->message);
    g_assert_error(told, GW_ERROR, (int)code);
    g_assert_nonnull(strstr(told->message, words));
    g_byte_array_unref(resumer.refusal);
    g_assert_null(resumer.rig->accepted.closed);
}

static void
test_who_may_resume(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    test_cert_write(rig.ca, rig.dir, "gamma", &(TestCert){.dns_name = "gamma", .common_name = "x"});
    Resumer first = {.rig = &rig,
                     .certificate = "beta",
                     .dies = true,
                     .hello = {.version = GW_LANE_VERSION,
                               .oldest_version = GW_LANE_OLDEST_VERSION,
                               .session_id = {9, 8, 7},
                               .instance = {1},
                               .attempt = 5}};
    resume(&first);
    g_assert_null(first.refusal);
    WAIT_FOR(rig.accepted.lane);

    Resumer good = first;
    good.hello.joins = true;
    good.hello.attempt = 6;
    memcpy(good.hello.ticket, first.answer.ticket, GW_TICKET_BYTES);

    Resumer bad = good;
    bad.certificate = "gamma";
    expect_no_resume(bad, GW_ERROR_REFUSED, "belongs to another host than 'gamma'");
    bad = good;
    bad.hello.session_id[3] ^= 1;
    expect_no_resume(bad, GW_ERROR_NOT_FOUND, "not known here");
    bad = good;
    bad.hello.ticket[31] ^= 1;
    expect_no_resume(bad, GW_ERROR_REFUSED, "not the ticket");
    bad = good;
    bad.hello.attempt = 5;
    expect_no_resume(bad, GW_ERROR_REFUSED, "newer connection");
    bad = good;
    bad.hello.joins = false;
    expect_no_resume(bad, GW_ERROR_PROTOCOL, "begins a session that exists");

    resume(&good);
    g_assert_null(good.refusal);
    static const uint8_t nothing[GW_TICKET_BYTES];
    g_assert_cmpmem(good.answer.ticket, GW_TICKET_BYTES, nothing, GW_TICKET_BYTES);
    expect_no_resume(good, GW_ERROR_REFUSED, "newer connection");
    g_assert_null(rig.accepted.closed);

    /* The same host, started anew, begins another session: the one before is over. */
    Side old = rig.accepted;
    rig.accepted = (Side){.log = g_string_new(NULL)};
    gw_lane_set_handlers(old.lane, &side_handlers, &old);
    Resumer anew = first;
    anew.hello.session_id[0] = 77;
    anew.hello.instance[0] = 2;
    resume(&anew);
    g_assert_null(anew.refusal);
    WAIT_FOR(old.closed);
    g_assert_error(old.closed, GW_ERROR, GW_ERROR_UNREACHABLE);
    g_assert_nonnull(strstr(old.closed->message, "started anew"));
    side_reset(&old);
    g_string_free(old.log, TRUE);
    rig_clear(&rig);
}

/* --- TCP -------------------------------------------------------------------------------------- */

static void
expect_congestion(int fd, const char *name)
{
    char actual[16] = {0};
    socklen_t len = sizeof(actual) - 1;

    g_assert_cmpint(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, actual, &len), ==, 0);
    g_assert_cmpstr(actual, ==, name);
}

static void
test_congestion_control(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    gw_connection_suit_link(fd, "reno");
    expect_congestion(fd, "reno");
    /* What the kernel does not have changes nothing. */
    gw_connection_suit_link(fd, "nonesuch");
    expect_congestion(fd, "reno");
    close(fd);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    /* Before there are threads: GLib sets errors up in a way that thread sanitizers do not know. */
    g_error_free(g_error_new_literal(GW_ERROR, GW_ERROR_FAILED, ""));
    g_test_add_func("/resume/resend-is-exact", test_resend_is_exact);
    g_test_add_func("/resume/who-may-resume", test_who_may_resume);
    g_test_add_func("/resume/unknown-session", test_unknown_session);
    g_test_add_func("/resume/session-timeout", test_session_timeout);
    g_test_add_func("/resume/other-address", test_other_address);
    g_test_add_func("/resume/stall", test_stall);
    g_test_add_func("/resume/free-while-reconnecting", test_free_while_reconnecting);
    g_test_add_func("/resume/congestion-control", test_congestion_control);
    g_test_add_func("/resume/random-resets", test_random_resets);
    return g_test_run();
}
