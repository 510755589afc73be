// SPDX-License-Identifier: Apache-2.0
/* Event streams: order, ends, slow readers, too many of them, daemon and client that leave. */
#include "api/client.h"
#include "api/events.h"
#include "api/server.h"
#include "fakes.h"
#include "support.h"

#include <signal.h>
#include <string.h>

typedef struct Fixture {
    Place place;
    GwServer *server;
} Fixture;

static void
set_up(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    place_make(&fixture->place);
    fake_calls = g_string_new(NULL);
    fake_move_final = false;
    fixture->server = gw_server_new(&(GwServerOptions){.socket_path = fixture->place.socket,
                                                       .host_name = "alpha",
                                                       .pki_dir = "/pki"},
                                    &error);
    g_assert_no_error(error);
}

static void
tear_down(Fixture *fixture, gconstpointer data)
{
    gw_server_free(fixture->server);
    g_string_free(g_steal_pointer(&fake_calls), TRUE);
    place_remove(&fixture->place);
}

static json_t *
event(const char *kind, const char *id, int n, size_t padding)
{
    g_autofree char *text = g_strnfill(padding, 'p');

    return json_pack("{s:s, s:{s:s, s:i, s:s}}", "event", kind, "move", "id", id, "n", n, "reason",
                     text);
}

/* The main loop's side reads without blocking it: waits for the descriptor as a source. */
typedef struct Reading {
    int fd;
    const char *enough;
    char *text;
} Reading;

static void
do_read(void *data)
{
    Reading *reading = data;

    reading->text = read_until(reading->fd, reading->enough);
}

static char *
read_beside_loop(int fd, const char *enough)
{
    Reading reading = {.fd = fd, .enough = enough};

    run_beside_loop(do_read, &reading);
    return reading.text;
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"

static void
test_one_move(Fixture *fixture, gconstpointer data)
{
    g_auto(GwFd) fd =
        open_and_send(fixture->place.socket, GET("/v1/migrations/" FAKE_MOVE "/events"));
    g_autofree char *first =
        read_beside_loop(fd, "{\"event\":\"state\",\"move\":{\"id\":\"" FAKE_MOVE "\"");

    g_assert_nonnull(strstr(first, "Transfer-Encoding: chunked"));
    fake_move_event(event("state", "m-other", 1, 0));
    fake_move_event(event("progress", FAKE_MOVE, 2, 0));
    fake_move_event(event("state", FAKE_MOVE, 3, 0));
    fake_move_event(event("end", FAKE_MOVE, 4, 0));
    fake_move_event(event("state", FAKE_MOVE, 5, 0));
    g_autofree char *rest = read_beside_loop(fd, "\r\n0\r\n\r\n");
    g_assert_null(strstr(rest, "m-other"));
    g_assert_null(strstr(rest, "\"n\":5"));
    const char *two = strstr(rest, "\"n\":2");
    const char *three = strstr(rest, "\"n\":3");
    const char *four = strstr(rest, "\"n\":4");
    g_assert_true(two && two < three && three < four);
}

static void
test_ended_move(Fixture *fixture, gconstpointer data)
{
    fake_move_final = true;
    g_auto(GwFd) fd =
        open_and_send(fixture->place.socket, GET("/v1/migrations/" FAKE_MOVE "/events"));
    g_autofree char *text = read_beside_loop(fd, "\r\n0\r\n\r\n");
    g_assert_nonnull(strstr(text, "{\"event\":\"end\""));
    g_auto(GwFd) unknown = open_and_send(fixture->place.socket, GET("/v1/migrations/m-0/events"));
    g_autofree char *error = read_beside_loop(unknown, "}}");
    g_assert_true(g_str_has_prefix(error, "HTTP/1.1 404"));
}

/* Waits until an event published again and again has arrived: then the stream is listed. */
static void
expect_stream(int fd, const char *mark)
{
    g_autoptr(GString) seen = g_string_new(NULL);

    while (!strstr(seen->str, mark)) {
        char part[4096];
        ssize_t count;
        fake_move_event(event("state", mark, 0, 0));
        g_main_context_iteration(NULL, TRUE);
        while ((count = read(fd, part, sizeof part)) > 0) {
            g_string_append_len(seen, part, count);
        }
    }
}

static GwFd
open_stream(const Fixture *fixture, const char *mark)
{
    GwFd fd = open_and_send(fixture->place.socket, GET("/v1/events"));

    g_assert_true(gw_fd_set_nonblocking(fd, true, NULL));
    expect_stream(fd, mark);
    g_assert_true(gw_fd_set_nonblocking(fd, false, NULL));
    return fd;
}

static void
test_vm_events(Fixture *fixture, gconstpointer data)
{
    g_auto(GwFd) fd = open_stream(fixture, "m-begin");

    gw_server_vm_changed("web1", (GwVm *)"web1", fixture->server);
    gw_server_vm_changed("web1", NULL, fixture->server);
    g_autofree char *text =
        read_beside_loop(fd, "{\"event\":\"vm\",\"name\":\"web1\",\"vm\":null}");
    g_assert_nonnull(strstr(text, "{\"event\":\"vm\",\"name\":\"web1\",\"vm\":{\"name\":\"web1\""));
}

/* Nobody reads while far more than the socket holds is told: states stay, progress is thinned. */
static void
test_slow_reader(Fixture *fixture, gconstpointer data)
{
    g_auto(GwFd) fd = open_stream(fixture, "m-begin");
    unsigned progress = 0;

    for (int i = 0; i < 20000; i++) {
        fake_move_event(event("progress", "m-busy", i, 200));
        g_main_context_iteration(NULL, FALSE);
    }
    for (int i = 0; i < 10; i++) {
        fake_move_event(event("state", "m-busy", 100000 + i, 200));
    }
    g_autofree char *text = read_beside_loop(fd, "\"n\":100009");
    for (int i = 0; i < 10; i++) {
        g_autofree char *mark = g_strdup_printf("\"n\":%d,", 100000 + i);
        g_assert_nonnull(i == 9 ? text : strstr(text, mark));
    }
    for (const char *at = text; (at = strstr(at, "\"progress\"")); at++) {
        progress++;
    }
    g_test_message("%u of 20000 progress events were read", progress);
    g_assert_cmpuint(progress, <, 10000);
    g_assert_nonnull(strstr(text, "\"n\":19999"));
    g_assert_null(strstr(text, "\"cut\""));
}

static void
test_far_too_slow_reader(Fixture *fixture, gconstpointer data)
{
    g_auto(GwFd) fd = open_stream(fixture, "m-begin");

    for (int i = 0; i < 2000; i++) {
        fake_move_event(event("state", "m-busy", i, 2000));
        g_main_context_iteration(NULL, FALSE);
    }
    g_autofree char *text = read_beside_loop(fd, "\r\n0\r\n\r\n");
    const char *cut = strstr(text, "\n{\"event\":\"cut\"");
    g_assert_nonnull(cut);
    g_assert_nonnull(strstr(cut, "too slow"));
    g_assert_null(strstr(text, "\"n\":1999"));
}

static void
test_too_many(Fixture *fixture, gconstpointer data)
{
    GwFd fds[GW_EVENTS_MAX_STREAMS];

    for (guint i = 0; i < GW_EVENTS_MAX_STREAMS; i++) {
        g_autofree char *mark = g_strdup_printf("m-begin-%u.", i);
        fds[i] = open_stream(fixture, mark);
    }
    g_auto(GwFd) extra = open_and_send(fixture->place.socket, GET("/v1/events"));
    g_autofree char *text = read_beside_loop(extra, "}}");
    g_assert_true(g_str_has_prefix(text, "HTTP/1.1 409"));
    /* Those who leave are noticed as soon as there is something to tell. */
    for (guint i = 0; i < GW_EVENTS_MAX_STREAMS; i++) {
        gw_fd_close(fds[i]);
    }
    g_auto(GwFd) next = GW_FD_NONE;
    for (bool open = false; !open;) {
        gw_fd_clear(&next);
        fake_move_event(event("state", "m-x", 0, 0));
        next = open_and_send(fixture->place.socket, GET("/v1/events"));
        while (g_main_context_iteration(NULL, FALSE)) {
            continue;
        }
        fake_move_event(event("state", "m-x", 0, 0));
        g_autofree char *answer = read_beside_loop(next, "\r\n\r\n");
        open = g_str_has_prefix(answer, "HTTP/1.1 200");
    }
}

/* --- with the client -------------------------------------------------------------------------- */

typedef struct Watch {
    const Fixture *fixture;
    const char *path;
    GwFd wake[2];
    unsigned events;
    unsigned stop_after; /* 0: never */
    unsigned woken;
    bool ok;
    GError *error;
} Watch;

static bool
watch_event(json_t *line, void *data)
{
    Watch *watch = data;

    watch->events++;
    return watch->events != watch->stop_after;
}

static bool
watch_woken(void *data)
{
    Watch *watch = data;

    watch->woken++;
    return false;
}

static void
do_watch(void *data)
{
    Watch *watch = data;
    g_autoptr(GwClient) client = gw_client_new(watch->fixture->place.socket);
    GwClientStream stream = {watch_event, watch->wake[0], watch_woken, watch};

    watch->ok = gw_client_stream(client, watch->path, &stream, &watch->error);
}

static gboolean
tell_end(void *data)
{
    fake_move_event(event("progress", FAKE_MOVE, 1, 10000));
    fake_move_event(event("end", FAKE_MOVE, 1, 10000));
    return G_SOURCE_CONTINUE;
}

static void
test_client_reads_to_the_end(Fixture *fixture, gconstpointer data)
{
    Watch watch = {fixture, "/v1/migrations/" FAKE_MOVE "/events", .wake = {-1, -1}};
    guint timer = g_timeout_add(20, tell_end, NULL);

    run_beside_loop(do_watch, &watch);
    g_source_remove(timer);
    g_assert_no_error(watch.error);
    g_assert_true(watch.ok);
    g_assert_cmpuint(watch.events, ==, 3);
}

static void
test_client_stops(Fixture *fixture, gconstpointer data)
{
    Watch watch = {fixture, "/v1/migrations/" FAKE_MOVE "/events", .wake = {-1, -1},
                   .stop_after = 1};

    run_beside_loop(do_watch, &watch);
    g_assert_true(watch.ok);
    g_assert_cmpuint(watch.events, ==, 1);
}

static void
test_client_woken(Fixture *fixture, gconstpointer data)
{
    Watch watch = {fixture, "/v1/events"};

    g_assert_true(gw_fd_socketpair(watch.wake, NULL));
    g_assert_true(gw_fd_write_full(watch.wake[1], "x", 1));
    run_beside_loop(do_watch, &watch);
    g_assert_true(watch.ok);
    g_assert_cmpuint(watch.woken, ==, 1);
    gw_fd_clear(&watch.wake[0]);
    gw_fd_clear(&watch.wake[1]);
}

static void
test_client_unknown(Fixture *fixture, gconstpointer data)
{
    Watch watch = {fixture, "/v1/migrations/m-none/events", .wake = {-1, -1}};

    run_beside_loop(do_watch, &watch);
    g_assert_false(watch.ok);
    g_assert_error(watch.error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_clear_error(&watch.error);
}

/* The daemon shuts down in an orderly way: the stream ends, and it is not the move's end. */
static gboolean
free_server(void *data)
{
    Fixture *fixture = data;

    g_clear_pointer(&fixture->server, gw_server_free);
    return G_SOURCE_REMOVE;
}

static void
test_daemon_leaves(Fixture *fixture, gconstpointer data)
{
    Watch watch = {fixture, "/v1/migrations/" FAKE_MOVE "/events", .wake = {-1, -1}};

    g_timeout_add(50, free_server, fixture);
    run_beside_loop(do_watch, &watch);
    g_assert_null(fixture->server);
    g_assert_cmpuint(watch.events, <=, 1);
    g_clear_error(&watch.error);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function) g_test_add("/events/" name, Fixture, NULL, set_up, function, tear_down)
    ADD("one-move", test_one_move);
    ADD("ended-move", test_ended_move);
    ADD("vm", test_vm_events);
    ADD("slow-reader", test_slow_reader);
    ADD("far-too-slow-reader", test_far_too_slow_reader);
    ADD("too-many", test_too_many);
    ADD("client/reads-to-the-end", test_client_reads_to_the_end);
    ADD("client/stops", test_client_stops);
    ADD("client/woken", test_client_woken);
    ADD("client/unknown", test_client_unknown);
    ADD("client/daemon-leaves", test_daemon_leaves);
    return g_test_run();
}
