// SPDX-License-Identifier: Apache-2.0
/* Routing, answers now and later, limits, and every way in which a client or server can leave. */
#include "api/http.h"
#include "support.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>

typedef struct Fixture {
    Place place;
    GwHttp *http;
    GPtrArray *waiting; /* of GwRequest: not answered yet */
    unsigned answered;
    bool some_waiting;
    bool stream_waits;
    bool stream_has_news;
    bool stream_gone;
    bool stream_freed;
    GwRequest *stream_request;
} Fixture;

static void
echo(GwRequest *request, void *context)
{
    static const char *const members[] = {"text", "number", NULL};
    GError *error = NULL;
    const json_t *body = gw_request_body(request, members, &error);

    if (!body) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    json_t *answer = json_object();
    gw_json_set_str(answer, "arg", gw_request_arg(request));
    json_object_set(answer, "body", (json_t *)body);
    gw_request_set_subject(request, "subject");
    gw_request_answer(request, answer, NULL);
}

static void
number(GwRequest *request, void *context)
{
    GError *error = NULL;
    int64_t n;

    if (!gw_request_query_int(request, "n", 100, 7, &n, &error)) {
        gw_request_answer_error(request, error);
        return;
    }
    gw_request_answer(request, json_pack("{s:I}", "n", (json_int_t)n), NULL);
}

static void
later(GwRequest *request, void *context)
{
    Fixture *fixture = context;

    g_ptr_array_add(fixture->waiting, request);
    fixture->some_waiting = true;
}

static void
fail(GwRequest *request, void *context)
{
    gw_request_answer_error(request, g_error_new(GW_ERROR, GW_ERROR_STATE, "not \x1b[31mnow"));
}

/* Tells one byte when there is news; a vanished client is noticed only by telling it something. */
static ssize_t
endless(void *data, uint64_t position, char *buffer, size_t max)
{
    Fixture *fixture = data;

    if (fixture->stream_has_news) {
        fixture->stream_has_news = false;
        buffer[0] = 'x';
        return 1;
    }
    gw_request_suspend(fixture->stream_request);
    fixture->stream_waits = true;
    return 0;
}

static void
stream_gone(void *data)
{
    ((Fixture *)data)->stream_gone = true;
}

static void
stream_freed(void *data)
{
    ((Fixture *)data)->stream_freed = true;
}

static void
stream(GwRequest *request, void *context)
{
    Fixture *fixture = context;

    fixture->stream_request = request;
    gw_request_answer_stream(
        request,
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1024, endless, fixture, stream_freed),
        stream_gone, fixture);
}

static const GwRoute routes_a[] = {
    {"GET", "/v1/things/{name}", echo, .help = "h"},
    {"POST", "/v1/things/{name}/do", echo, .changes = true, .help = "h"},
    {"GET", "/v1/number", number, .help = "h"},
    {0},
};
static const GwRoute routes_b[] = {
    {"GET", "/v1/later", later, .help = "h"},
    {"GET", "/v1/fail", fail, .help = "h"},
    {"GET", "/v1/stream", stream, .help = "h"},
    {0},
};

static void
set_up(Fixture *fixture, gconstpointer data)
{
    static const GwRoute *const tables[] = {routes_a, routes_b, NULL};
    g_autoptr(GError) error = NULL;

    place_make(&fixture->place);
    fixture->waiting = g_ptr_array_new();
    fixture->http = gw_http_new(fixture->place.socket, NULL, tables, fixture, &error);
    g_assert_no_error(error);
}

static void
answer_all(Fixture *fixture)
{
    for (guint i = 0; i < fixture->waiting->len; i++) {
        gw_request_answer(fixture->waiting->pdata[i], json_pack("{s:i}", "late", (int)i), NULL);
    }
    g_ptr_array_set_size(fixture->waiting, 0);
    fixture->some_waiting = false;
}

static void
tear_down(Fixture *fixture, gconstpointer data)
{
    answer_all(fixture);
    gw_http_free(fixture->http);
    g_ptr_array_unref(fixture->waiting);
    g_assert_false(g_file_test(fixture->place.socket, G_FILE_TEST_EXISTS));
    place_remove(&fixture->place);
}

/* --- one exchange in a thread ----------------------------------------------------------------- */

typedef struct Exchange {
    const Fixture *fixture;
    const char *text;
    const char *enough;
    char *answer;
} Exchange;

static void
do_exchange(void *data)
{
    Exchange *e = data;

    e->answer = exchange(e->fixture->place.socket, e->text, e->enough);
}

static char *
ask(const Fixture *fixture, const char *text, const char *enough)
{
    Exchange e = {.fixture = fixture, .text = text, .enough = enough};

    run_beside_loop(do_exchange, &e);
    return e.answer;
}

static void
assert_answer(const Fixture *fixture, const char *text, const char *status, const char *contains)
{
    g_autofree char *request = g_strdup_printf("%s", text);
    g_autofree char *answer = ask(fixture, request, NULL);

    g_autofree char *shown = g_strescape(answer, NULL);
    g_test_message("%.300s", shown);
    g_assert_true(g_str_has_prefix(answer, status));
    g_assert_nonnull(strstr(answer, contains));
}

#define HEAD "Host: x\r\nConnection: close\r\n"

static void
test_routes(Fixture *fixture, gconstpointer data)
{
    assert_answer(fixture, "GET /v1/things/a%2Db HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200",
                  "{\"arg\":\"a-b\",\"body\":{}}");
    assert_answer(fixture,
                  "POST /v1/things/web1/do HTTP/1.1\r\n" HEAD
                  "Content-Length: 15\r\n\r\n{\"text\":\"x\\ny\"}",
                  "HTTP/1.1 200", "{\"arg\":\"web1\",\"body\":{\"text\":\"x\\ny\"}}");
    assert_answer(fixture, "GET /v1/things/ HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 404", "not-found");
    assert_answer(fixture, "GET /v1/things/a/b HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 404",
                  "not-found");
    assert_answer(fixture, "GET /v1/things/a/do HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 501",
                  "no route GET");
    assert_answer(fixture, "GET /v1/fail HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 409",
                  "{\"error\":{\"code\":\"wrong-state\",\"message\":\"not \\u001B[31mnow\"}}");
}

static void
test_query(Fixture *fixture, gconstpointer data)
{
    assert_answer(fixture, "GET /v1/number HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200", "{\"n\":7}");
    assert_answer(fixture, "GET /v1/number?n=99 HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200",
                  "{\"n\":99}");
    assert_answer(fixture, "GET /v1/number?n=101 HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 400", "100");
    assert_answer(fixture, "GET /v1/number?n=-1 HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 400", "100");
    assert_answer(fixture, "GET /v1/number?n HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200", "7");
}

static void
test_bad_bodies(Fixture *fixture, gconstpointer data)
{
    static const struct {
        const char *body;
        const char *status;
        const char *contains;
    } cases[] = {
        {"{", "HTTP/1.1 400", "invalid"},
        {"[]", "HTTP/1.1 400", "object is needed"},
        {"{\"a\":1,\"a\":2}", "HTTP/1.1 400", "invalid"},
        {"{\"nonsense\":1}", "HTTP/1.1 400", "allowed: text, number"},
        {"\x80\xff", "HTTP/1.1 400", "invalid"},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "HTTP/1.1 413", "too-large"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = g_strdup_printf("POST /v1/things/a/do HTTP/1.1\r\n" HEAD
                                                "Content-Length: %zu\r\n\r\n%s",
                                                strlen(cases[i].body), cases[i].body);
        assert_answer(fixture, text, cases[i].status, cases[i].contains);
    }
}

static char *
body_of(size_t len, bool chunked)
{
    g_autofree char *filler = g_strnfill(len - strlen("{\"text\":\"\"}"), 'x');
    g_autofree char *json = g_strdup_printf("{\"text\":\"%s\"}", filler);

    return chunked ? g_strdup_printf("POST /v1/things/a/do HTTP/1.1\r\n" HEAD
                                     "Transfer-Encoding: chunked\r\n\r\n%zx\r\n%s\r\n0\r\n\r\n",
                                     len, json)
                   : g_strdup_printf("POST /v1/things/a/do HTTP/1.1\r\n" HEAD
                                     "Content-Length: %zu\r\n\r\n%s",
                                     len, json);
}

static void
test_body_limit(Fixture *fixture, gconstpointer data)
{
    g_autofree char *largest = body_of(GW_HTTP_MAX_BODY_BYTES, false);
    g_autofree char *largest_chunked = body_of(GW_HTTP_MAX_BODY_BYTES, true);
    g_autofree char *too_large = body_of(GW_HTTP_MAX_BODY_BYTES + 1, false);
    g_autofree char *too_large_chunked = body_of(GW_HTTP_MAX_BODY_BYTES + 1, true);

    assert_answer(fixture, largest, "HTTP/1.1 200", "xxx\"}}");
    assert_answer(fixture, largest_chunked, "HTTP/1.1 200", "xxx\"}}");
    assert_answer(fixture, too_large, "HTTP/1.1 413", "at most 131072 bytes");
    assert_answer(fixture,
                  "POST /v1/things/a/do HTTP/1.1\r\n" HEAD
                  "Content-Length: 99999999999999999999\r\n\r\n",
                  "HTTP/1.1 4", "");
    g_autofree char *answer = ask(fixture, too_large_chunked, NULL);
    g_assert_cmpstr(answer, ==, "");
    assert_answer(fixture, "GET /v1/number HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200", "7");
}

static void
test_header_limit(Fixture *fixture, gconstpointer data)
{
    g_autofree char *filler = g_strnfill(200000, 'y');
    g_autofree char *text =
        g_strdup_printf("GET /v1/number HTTP/1.1\r\n" HEAD "X-Long: %s\r\n\r\n", filler);

    assert_answer(fixture, text, "HTTP/1.1 431", "");
    assert_answer(fixture, "no http at all\r\n\r\n", "HTTP/1.", "");
}

/* --- later answers ---------------------------------------------------------------------------- */

static gboolean
answer_when_waiting(void *data)
{
    Fixture *fixture = data;

    if (fixture->some_waiting) {
        fixture->answered += fixture->waiting->len;
        answer_all(fixture);
    }
    return G_SOURCE_CONTINUE;
}

static void
test_later(Fixture *fixture, gconstpointer data)
{
    guint timer = g_timeout_add(5, answer_when_waiting, fixture);

    assert_answer(fixture, "GET /v1/later HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200",
                  "{\"late\":0}");
    /* Two requests on one connection, the second sent before the first is answered. */
    g_autofree char *answer = ask(fixture,
                                  "GET /v1/later HTTP/1.1\r\nHost: x\r\n\r\n"
                                  "GET /v1/number HTTP/1.1\r\n" HEAD "\r\n",
                                  NULL);
    g_assert_nonnull(strstr(answer, "{\"late\":0}"));
    g_assert_nonnull(strstr(answer, "{\"n\":7}"));
    g_source_remove(timer);
}

#define N_CLIENTS 200u

static void
many_clients(void *data)
{
    const Fixture *fixture = data;
    GwFd fds[N_CLIENTS];

    for (guint i = 0; i < N_CLIENTS; i++) {
        fds[i] = open_and_send(fixture->place.socket, "GET /v1/later HTTP/1.1\r\n" HEAD "\r\n");
    }
    for (guint i = 0; i < N_CLIENTS; i++) {
        g_autofree char *answer = read_until(fds[i], NULL);
        g_assert_true(g_str_has_prefix(answer, "HTTP/1.1 200"));
        gw_fd_close(fds[i]);
    }
}

static void
test_many_connections(Fixture *fixture, gconstpointer data)
{
    guint timer = g_timeout_add(2, answer_when_waiting, fixture);

    run_beside_loop(many_clients, fixture);
    g_assert_cmpuint(fixture->answered, ==, N_CLIENTS);
    g_source_remove(timer);
}

static void
test_client_leaves(Fixture *fixture, gconstpointer data)
{
    GwFd fd = open_and_send(fixture->place.socket, "GET /v1/later HTTP/1.1\r\nHost: x\r\n\r\n");

    loop_until(&fixture->some_waiting);
    gw_fd_close(fd);
    answer_all(fixture);
    assert_answer(fixture, "GET /v1/number HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200", "7");
}

static void
test_client_leaves_in_body(Fixture *fixture, gconstpointer data)
{
    GwFd fd = open_and_send(fixture->place.socket, "POST /v1/things/a/do HTTP/1.1\r\nHost: x\r\n"
                                                   "Content-Length: 100\r\n\r\n{\"te");
    assert_answer(fixture, "GET /v1/number HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200", "7");
    gw_fd_close(fd);
    assert_answer(fixture, "GET /v1/number HTTP/1.1\r\n" HEAD "\r\n", "HTTP/1.1 200", "7");
}

/* The server goes first: the client is told, and the late answer finds nobody. */
static void
test_server_leaves(Fixture *fixture, gconstpointer data)
{
    g_auto(GwFd) fd =
        open_and_send(fixture->place.socket, "GET /v1/later HTTP/1.1\r\nHost: x\r\n\r\n");

    loop_until(&fixture->some_waiting);
    g_clear_pointer(&fixture->http, gw_http_free);
    g_autofree char *answer = read_until(fd, NULL);
    g_assert_true(g_str_has_prefix(answer, "HTTP/1.1 503"));
    g_assert_nonnull(strstr(answer, "shutting down"));
    answer_all(fixture);
}

static void
test_stream_client_leaves(Fixture *fixture, gconstpointer data)
{
    GwFd fd = open_and_send(fixture->place.socket, "GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n");

    loop_until(&fixture->stream_waits);
    gw_fd_close(fd);
    fixture->stream_has_news = true;
    gw_request_resume(fixture->stream_request);
    loop_until(&fixture->stream_freed);
    g_assert_true(fixture->stream_gone);
}

static void
test_stream_server_leaves(Fixture *fixture, gconstpointer data)
{
    GwFd fd = open_and_send(fixture->place.socket, "GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n");

    loop_until(&fixture->stream_waits);
    g_clear_pointer(&fixture->http, gw_http_free);
    g_assert_true(fixture->stream_gone);
    g_assert_true(fixture->stream_freed);
    gw_fd_close(fd);
}

/* --- the socket ------------------------------------------------------------------------------- */

static void
test_socket(void)
{
    static const GwRoute *const tables[] = {routes_a, NULL};
    g_autoptr(GError) error = NULL;
    Place place;
    struct stat st;

    place_make(&place);
    g_assert_null(gw_http_new(place.socket, "no-such-group", tables, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_assert_false(g_file_test(place.socket, G_FILE_TEST_EXISTS));
    g_clear_error(&error);

    g_autoptr(GwHttp) first = gw_http_new(place.socket, "", tables, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stat(place.socket, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0660);
    g_assert_null(gw_http_new(place.socket, NULL, tables, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_EXISTS);
    g_clear_pointer(&first, gw_http_free);
    place_remove(&place);
}

static void
test_statuses(void)
{
    for (int code = 0; code < GW_ERROR_N_CODES; code++) {
        g_autoptr(GError) error = g_error_new(GW_ERROR, code, "x");
        g_assert_cmpuint(gw_http_status(error), >=, 400);
    }
    g_autoptr(GError) foreign = g_error_new(G_FILE_ERROR, 3, "x");
    g_assert_cmpuint(gw_http_status(foreign), ==, 500);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function) g_test_add("/http/" name, Fixture, NULL, set_up, function, tear_down)
    ADD("routes", test_routes);
    ADD("query", test_query);
    ADD("bad-bodies", test_bad_bodies);
    ADD("body-limit", test_body_limit);
    ADD("header-limit", test_header_limit);
    ADD("later", test_later);
    ADD("many-connections", test_many_connections);
    ADD("client-leaves", test_client_leaves);
    ADD("client-leaves-in-body", test_client_leaves_in_body);
    ADD("server-leaves", test_server_leaves);
    ADD("stream-client-leaves", test_stream_client_leaves);
    ADD("stream-server-leaves", test_stream_server_leaves);
    g_test_add_func("/http/socket", test_socket);
    g_test_add_func("/http/statuses", test_statuses);
    return g_test_run();
}
