// SPDX-License-Identifier: Apache-2.0
/*
 * The QMP client against a server that the test plays itself, and against a real QEMU.
 */
#include "qemu/qmp.h"

#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, "             \
    "\"package\": \"x\"}, \"capabilities\": []}}\r\n"

/* One client and the server's end of its connection. */
typedef struct Fixture {
    char *dir;
    char *path;
    GwFd listener;
    GwFd peer;
    GwQmp *qmp;
    GString *inbox; /* what the server received and did not look at yet */
    GString *story; /* what the client's callbacks saw */
    bool free_on_event;
    bool free_on_ready;
    bool free_on_closed;
    bool is_closed;
} Fixture;

static void
on_ready(GwQmp *qmp, void *data)
{
    Fixture *f = data;

    g_string_append(f->story, "ready ");
    if (f->free_on_ready) {
        g_clear_pointer(&f->qmp, gw_qmp_free);
    }
}

static void
on_event(GwQmp *qmp, const char *name, json_t *arguments, void *data)
{
    Fixture *f = data;

    g_string_append_printf(f->story, "%s:%d ", name, (int)gw_json_int(arguments, "n", -1));
    if (f->free_on_event) {
        g_clear_pointer(&f->qmp, gw_qmp_free);
    }
}

static void
on_closed(GwQmp *qmp, const GError *error, void *data)
{
    Fixture *f = data;

    g_test_message("%s", error->message);
    g_string_append_printf(f->story, "closed-%s ", gw_error_code_name(error->code));
    f->is_closed = true;
    if (f->free_on_closed) {
        g_clear_pointer(&f->qmp, gw_qmp_free);
    }
}

static void
on_reply(json_t *result, const GError *error, void *data)
{
    Fixture *f = data;

    g_assert_true((result == NULL) == (error != NULL));
    if (error) {
        g_string_append_printf(f->story, "error-%s ", gw_error_code_name(error->code));
    } else {
        g_string_append_printf(f->story, "result-%d ", (int)gw_json_int(result, "n", -1));
    }
}

static void
on_reply_free(json_t *result, const GError *error, void *data)
{
    Fixture *f = data;

    on_reply(result, error, data);
    g_clear_pointer(&f->qmp, gw_qmp_free);
}

static void
on_reply_call_again(json_t *result, const GError *error, void *data)
{
    Fixture *f = data;

    on_reply(result, error, data);
    gw_qmp_call(f->qmp, "again", NULL, on_reply, f);
}

static const GwQmpHandlers HANDLERS = {on_ready, on_event, on_closed};

static void
set_up(Fixture *f, const void *unused)
{
    g_autoptr(GError) error = NULL;

    *f = (Fixture){.dir = make_test_dir(), .inbox = g_string_new(NULL)};
    f->story = g_string_new(NULL);
    f->path = g_build_filename(f->dir, "qmp.sock", NULL);
    f->listener = gw_unix_listen(f->path, 0600, &error);
    g_assert_no_error(error);
    f->qmp = gw_qmp_open(f->path, &HANDLERS, f, &error);
    g_assert_no_error(error);
    f->peer = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(f->peer, >=, 0);
}

static void
tear_down(Fixture *f, const void *unused)
{
    gw_qmp_free(f->qmp);
    run_pending();
    gw_fd_clear(&f->peer);
    gw_fd_clear(&f->listener);
    g_string_free(f->inbox, TRUE);
    g_string_free(f->story, TRUE);
    g_free(f->path);
    remove_test_dir(f->dir);
}

static void
serve(Fixture *f, const char *text)
{
    g_assert_true(gw_fd_write_full(f->peer, text, strlen(text)));
}

/* The next line that the client sent. Transfer full. */
static json_t *
receive(Fixture *f)
{
    char *end;

    while (!(end = strchr(f->inbox->str, '\n'))) {
        char buffer[65536];
        ssize_t count = recv(f->peer, buffer, sizeof buffer, MSG_DONTWAIT);
        g_assert_true(count > 0 || (count < 0 && errno == EAGAIN));
        if (count > 0) {
            g_string_append_len(f->inbox, buffer, count);
        } else {
            g_main_context_iteration(NULL, FALSE);
        }
    }
    json_t *line =
        gw_json_parse(f->inbox->str, (size_t)(end - f->inbox->str), SIZE_MAX, "test", NULL);
    g_assert_nonnull(line);
    g_string_erase(f->inbox, 0, end + 1 - f->inbox->str);
    return line;
}

/* Receives @command and returns its id. */
static int64_t
expect_command(Fixture *f, const char *command)
{
    g_autoptr(json_t) line = receive(f);

    g_assert_cmpstr(gw_json_str(line, "execute", ""), ==, command);
    return gw_json_int(line, "id", -1);
}

static void
answer(Fixture *f, int64_t id, int n)
{
    g_autofree char *text =
        g_strdup_printf("{\"return\": {\"n\": %d}, \"id\": %d}\r\n", n, (int)id);

    serve(f, text);
}

static void
wait_for_story(Fixture *f, const char *story)
{
    wait_for(f->story->len >= strlen(story));
    run_pending();
    g_assert_cmpstr(f->story->str, ==, story);
}

static void
greet(Fixture *f)
{
    serve(f, GREETING);
    answer(f, expect_command(f, "qmp_capabilities"), 0);
    wait_for_story(f, "ready ");
    g_string_truncate(f->story, 0);
}

static void
test_handshake(Fixture *f, const void *unused)
{
    const char *text = GREETING;

    g_assert_cmpuint(gw_qmp_version(f->qmp), ==, 0);
    gw_qmp_call(f->qmp, "early", NULL, on_reply, f);
    for (const char *p = text; *p; p++) {
        g_assert_cmpint(write(f->peer, p, 1), ==, 1);
        run_pending();
    }
    int64_t id = expect_command(f, "qmp_capabilities");
    run_pending();
    g_assert_cmpint(recv(f->peer, &(char){0}, 1, MSG_DONTWAIT), ==, -1); /* "early" waits */
    g_assert_cmpstr(f->story->str, ==, "");
    answer(f, id, 0);
    answer(f, expect_command(f, "early"), 5);
    wait_for_story(f, "ready result-5 ");
    g_assert_cmpuint(gw_qmp_version(f->qmp), ==, 1000);
}

static void
test_greeted_twice(Fixture *f, const void *unused)
{
    serve(f, GREETING GREETING);
    answer(f, expect_command(f, "qmp_capabilities"), 0);
    wait_for_story(f, "ready ");
    serve(f, GREETING);
    wait_for_story(f, "ready closed-protocol ");
}

static void
test_answers_and_events(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_call(f->qmp, "one", json_pack("{s:i}", "x", 1), on_reply, f);
    gw_qmp_call(f->qmp, "two", NULL, on_reply, f);
    gw_qmp_call(f->qmp, "three", NULL, NULL, NULL);
    gw_qmp_call(f->qmp, "four", NULL, on_reply, f);
    g_assert_cmpstr(f->story->str, ==, "");

    g_autoptr(json_t) one = receive(f);
    g_assert_cmpint(gw_json_int(json_object_get(one, "arguments"), "x", 0), ==, 1);
    int64_t two = expect_command(f, "two");
    int64_t three = expect_command(f, "three");
    int64_t four = expect_command(f, "four");
    serve(f, "{\"event\": \"A\", \"data\": {\"n\": 1}}\r\n");
    answer(f, gw_json_int(one, "id", -1), 1);
    serve(f, "{\"event\": \"B\"}\r\n");
    g_autofree char *refusal = g_strdup_printf(
        "{\"id\": %d, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n", (int)two);
    serve(f, refusal);
    answer(f, three, 3);
    serve(f, "{\"event\": \"A\", \"data\": {\"n\": 2}}\r\n");
    answer(f, four, 4);
    wait_for_story(f, "A:1 result-1 B:-1 error-failed A:2 result-4 ");
}

static void
keep_message(json_t *result, const GError *error, void *data)
{
    *(char **)data = g_strdup(error->message);
}

static void
test_refusal_has_description(Fixture *f, const void *unused)
{
    g_autofree char *message = NULL;

    greet(f);
    gw_qmp_call(f->qmp, "bad", NULL, keep_message, &message);
    g_autofree char *refusal = g_strdup_printf(
        "{\"id\": %d, \"error\": {\"class\": \"X\", \"desc\": \"disk is on fire\"}}\n",
        (int)expect_command(f, "bad"));
    serve(f, refusal);
    wait_for(message);
    g_assert_cmpstr(message, ==, "QEMU refused 'bad': disk is on fire");
}

static void
test_long_answer(Fixture *f, const void *unused)
{
    g_autofree char *filler = g_strnfill(6 * 1024 * 1024, 'x');

    greet(f);
    gw_qmp_call(f->qmp, "big", NULL, on_reply, f);
    g_autofree char *text =
        g_strdup_printf("{\"return\": {\"n\": 6, \"filler\": \"%s\"}, \"id\": %d}\n", filler,
                        (int)expect_command(f, "big"));
    size_t sent = 0;
    while (sent < strlen(text)) {
        ssize_t count = send(f->peer, text + sent, strlen(text) - sent, MSG_DONTWAIT);
        sent += count > 0 ? (size_t)count : 0;
        g_main_context_iteration(NULL, FALSE);
    }
    wait_for_story(f, "result-6 ");
}

static void
test_endless_line(Fixture *f, const void *unused)
{
    g_autofree char *filler = g_strnfill(65536, ' ');

    greet(f);
    gw_qmp_call(f->qmp, "big", NULL, on_reply, f);
    for (size_t sent = 0; !f->is_closed;) {
        ssize_t count = send(f->peer, filler, strlen(filler), MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += count > 0 ? (size_t)count : 0;
        g_assert_cmpuint(sent, <, 9 * 1024 * 1024);
        g_main_context_iteration(NULL, FALSE);
    }
    wait_for_story(f, "error-too-large closed-too-large ");
}

static void
test_garbage(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_call(f->qmp, "one", NULL, on_reply, f);
    serve(f, "{\"event\": \"A\"}\nrubbish\n{\"event\": \"B\"}\n");
    wait_for_story(f, "A:-1 error-protocol closed-protocol ");
}

static void
test_any_order(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_call(f->qmp, "one", NULL, on_reply, f);
    gw_qmp_call(f->qmp, "two", NULL, on_reply, f);
    int64_t one = expect_command(f, "one");
    answer(f, expect_command(f, "two"), 2);
    answer(f, one, 1);
    wait_for_story(f, "result-2 result-1 ");
    answer(f, one, 1);
    wait_for_story(f, "result-2 result-1 closed-protocol ");
}

static void
test_unasked_answer(Fixture *f, const void *unused)
{
    greet(f);
    answer(f, 1, 1);
    wait_for_story(f, "closed-protocol ");
}

static void
test_early_close(Fixture *f, const void *unused)
{
    gw_qmp_call(f->qmp, "one", NULL, on_reply_call_again, f);
    gw_fd_clear(&f->peer);
    wait_for_story(f, "error-unreachable closed-unreachable error-unreachable ");
    gw_qmp_call(f->qmp, "two", json_object(), on_reply, f);
    gw_qmp_call(f->qmp, "three", NULL, NULL, NULL);
    g_assert_cmpuint(f->story->len, ==,
                     strlen("error-unreachable closed-unreachable error-unreachable "));
    wait_for_story(f, "error-unreachable closed-unreachable error-unreachable error-unreachable ");
}

static void
test_last_words(Fixture *f, const void *unused)
{
    greet(f);
    serve(f, "{\"event\": \"SHUTDOWN\"}\n");
    gw_fd_clear(&f->peer);
    gw_qmp_call(f->qmp, "one", NULL, on_reply, f);
    wait_for_story(f, "SHUTDOWN:-1 error-unreachable closed-unreachable ");
}

static void
test_timeout(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_set_timeout_ms(f->qmp, 50);
    gw_qmp_call(f->qmp, "slow", NULL, on_reply, f);
    gw_qmp_call(f->qmp, "unheard", NULL, NULL, NULL);
    gw_qmp_set_timeout_ms(f->qmp, 20000);
    gw_qmp_call(f->qmp, "patient", NULL, on_reply, f);
    wait_for_story(f, "error-timeout ");
    answer(f, expect_command(f, "slow"), 1);
    answer(f, expect_command(f, "unheard"), 2);
    answer(f, expect_command(f, "patient"), 3);
    wait_for_story(f, "error-timeout result-3 ");
}

static void
test_no_greeting(Fixture *f, const void *unused)
{
    gw_qmp_set_timeout_ms(f->qmp, 50);
    wait_for_story(f, "closed-timeout ");
}

static void
test_no_negotiation(Fixture *f, const void *unused)
{
    gw_qmp_set_timeout_ms(f->qmp, 50);
    serve(f, GREETING);
    expect_command(f, "qmp_capabilities");
    wait_for_story(f, "closed-timeout ");
}

static void
test_negotiation_refused(Fixture *f, const void *unused)
{
    gw_qmp_call(f->qmp, "early", NULL, on_reply, f);
    serve(f, GREETING);
    expect_command(f, "qmp_capabilities");
    serve(f, "{\"id\": 0, \"error\": {\"class\": \"X\", \"desc\": \"no\"}}\n");
    wait_for_story(f, "error-failed closed-failed ");
}

/* Reads on until a descriptor has arrived. */
static int
receive_descriptor(Fixture *f)
{
    char data[256];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct cmsghdr *header = NULL;
    int fd = -1;

    while (!header) {
        struct iovec part = {data, sizeof data};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control.space,
                                 .msg_controllen = sizeof control.space};
        ssize_t count = recvmsg(f->peer, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        g_assert_cmpint(count, >, 0);
        g_string_append_len(f->inbox, data, count);
        header = CMSG_FIRSTHDR(&message);
    }
    g_assert_cmpint(header->cmsg_type, ==, SCM_RIGHTS);
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

static void
test_descriptor(Fixture *f, const void *unused)
{
    char data[256];
    int pair[2];

    greet(f);
    g_assert_cmpint(pipe2(pair, O_CLOEXEC), ==, 0);
    gw_qmp_call(f->qmp, "before", NULL, NULL, NULL);
    gw_qmp_call_fd(f->qmp, "getfd", json_pack("{s:s}", "fdname", "x"), pair[1], on_reply, f);
    close(pair[1]);
    run_pending();
    int received = receive_descriptor(f);
    answer(f, expect_command(f, "before"), 1);
    answer(f, expect_command(f, "getfd"), 7);
    wait_for_story(f, "result-7 ");
    g_assert_cmpint(write(received, "x", 1), ==, 1);
    close(received);
    g_assert_cmpint(read(pair[0], data, sizeof data), ==, 1);
    g_assert_cmpint(read(pair[0], data, sizeof data), ==, 0); /* no copy was left open */
    close(pair[0]);
}

static void
test_bad_descriptor(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_call_fd(f->qmp, "getfd", NULL, 1 << 20, on_reply, f);
    g_assert_cmpstr(f->story->str, ==, "");
    wait_for_story(f, "error-io ");
}

static void
test_slow_reader(Fixture *f, const void *unused)
{
    g_autofree char *filler = g_strnfill(1024 * 1024, 'x');

    greet(f);
    for (int i = 0; i < 4; i++) {
        gw_qmp_call(f->qmp, "big", json_pack("{s:s}", "filler", filler), on_reply, f);
    }
    run_pending(); /* as much as the socket takes */
    for (int i = 0; i < 4; i++) {
        g_autoptr(json_t) line = receive(f);
        g_assert_cmpstr(gw_json_str(json_object_get(line, "arguments"), "filler", ""), ==, filler);
        answer(f, gw_json_int(line, "id", -1), i);
    }
    wait_for_story(f, "result-0 result-1 result-2 result-3 ");
}

static void
test_forget(Fixture *f, const void *unused)
{
    int other;

    greet(f);
    gw_qmp_call(f->qmp, "one", NULL, on_reply, &other);
    gw_qmp_call(f->qmp, "two", NULL, on_reply, f);
    expect_command(f, "one");
    gw_qmp_call(f->qmp, "three", NULL, on_reply, &other);
    gw_qmp_forget(f->qmp, &other);
    answer(f, 1, 1);
    answer(f, expect_command(f, "two"), 2);
    answer(f, expect_command(f, "three"), 3);
    wait_for_story(f, "result-2 ");
}

/* --- out of band ------------------------------------------------------------------------------ */

static int64_t
expect_oob(Fixture *f, const char *command)
{
    g_autoptr(json_t) line = receive(f);

    g_assert_cmpstr(gw_json_str(line, "exec-oob", ""), ==, command);
    g_assert_null(json_object_get(line, "execute"));
    return gw_json_int(line, "id", -1);
}

static void
expect_silence(Fixture *f)
{
    run_pending();
    g_assert_cmpuint(f->inbox->len, ==, 0);
    g_assert_cmpint(recv(f->peer, &(char){0}, 1, MSG_DONTWAIT), ==, -1);
}

static void
test_negotiates_oob(Fixture *f, const void *unused)
{
    static const struct {
        const char *offered;
        const char *enabled;
    } cases[] = {
        {"[]", NULL},
        {"[\"new\", 7]", NULL},
        {"{}", NULL},
        {"[\"new\", \"oob\"]", "[\"oob\"]"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Fixture other;
        set_up(&other, NULL);
        g_autofree char *greeting = g_strdup_printf(
            "{\"QMP\": {\"version\": {\"qemu\": {\"minor\": 2, \"major\": 7}}, \"capabilities\": "
            "%s}}\n",
            cases[i].offered);
        /* What waits for the negotiation does not go before it. */
        gw_qmp_call_oob(other.qmp, "urgent", NULL, on_reply, &other);
        serve(&other, greeting);
        g_autoptr(json_t) line = receive(&other);
        gw_qmp_call_oob(other.qmp, "more", NULL, on_reply, &other);
        g_assert_cmpstr(gw_json_str(line, "execute", ""), ==, "qmp_capabilities");
        const json_t *enabled = json_object_get(json_object_get(line, "arguments"), "enable");
        g_autofree char *text = enabled ? json_dumps(enabled, 0) : NULL;
        g_assert_cmpstr(text, ==, cases[i].enabled);
        expect_silence(&other);
        answer(&other, 0, 0);
        answer(&other, expect_oob(&other, "urgent"), 1);
        answer(&other, expect_oob(&other, "more"), 2);
        wait_for_story(&other, "ready result-1 result-2 ");
        tear_down(&other, NULL);
    }
}

/* A main loop that stands still: nothing that waits for it holds up what does not. */
static void
test_oob_overtakes(Fixture *f, const void *unused)
{
    int64_t stuck[4];

    greet(f);
    for (int i = 0; i < 6; i++) {
        gw_qmp_call(f->qmp, "stuck", NULL, on_reply, f);
    }
    for (int i = 0; i < 4; i++) {
        stuck[i] = expect_command(f, "stuck");
    }
    expect_silence(f); /* QEMU would stop reading */
    gw_qmp_call_oob(f->qmp, "first", NULL, on_reply, f);
    gw_qmp_call_oob(f->qmp, "second", NULL, on_reply, f);
    int64_t first = expect_oob(f, "first");
    answer(f, expect_oob(f, "second"), 12);
    answer(f, first, 11);
    expect_silence(f);
    answer(f, stuck[0], 0);
    int64_t last = expect_command(f, "stuck");
    expect_silence(f);
    for (int i = 1; i < 4; i++) {
        answer(f, stuck[i], i);
    }
    answer(f, last, 4);
    answer(f, expect_command(f, "stuck"), 5);
    wait_for_story(f, "result-12 result-11 result-0 result-1 result-2 result-3 result-4 result-5 ");
}

/* Its caller was told that it failed: it is not run much later. */
static void
test_expired_is_not_sent(Fixture *f, const void *unused)
{
    int64_t stuck[4];

    greet(f);
    for (int i = 0; i < 4; i++) {
        gw_qmp_call(f->qmp, "stuck", NULL, NULL, NULL);
        stuck[i] = expect_command(f, "stuck");
    }
    gw_qmp_set_timeout_ms(f->qmp, 50);
    gw_qmp_call(f->qmp, "late", NULL, on_reply, f);
    wait_for_story(f, "error-timeout ");
    for (int i = 0; i < 4; i++) {
        answer(f, stuck[i], i);
    }
    gw_qmp_set_timeout_ms(f->qmp, 20000);
    gw_qmp_call(f->qmp, "next", NULL, on_reply, f);
    answer(f, expect_command(f, "next"), 7);
    wait_for_story(f, "error-timeout result-7 ");
}

/* A second one would take the place of the first in QEMU. */
static void
test_one_descriptor_at_a_time(Fixture *f, const void *unused)
{
    int pair[2];

    greet(f);
    g_assert_cmpint(pipe2(pair, O_CLOEXEC), ==, 0);
    gw_qmp_call_fd(f->qmp, "getfd", NULL, pair[0], on_reply, f);
    gw_qmp_call_fd(f->qmp, "getfd", NULL, pair[1], on_reply, f);
    run_pending();
    close(receive_descriptor(f));
    int64_t first = expect_command(f, "getfd");
    expect_silence(f);
    answer(f, first, 1);
    wait_for_story(f, "result-1 ");
    run_pending();
    close(receive_descriptor(f));
    answer(f, expect_command(f, "getfd"), 2);
    wait_for_story(f, "result-1 result-2 ");
    close(pair[0]);
    close(pair[1]);
}

static void
test_oob_on_closed(Fixture *f, const void *unused)
{
    greet(f);
    gw_fd_clear(&f->peer);
    wait_for_story(f, "closed-unreachable ");
    gw_qmp_call_oob(f->qmp, "one", json_object(), on_reply, f);
    wait_for_story(f, "closed-unreachable error-unreachable ");
}

/* --- freeing from within each callback -------------------------------------------------------- */

static void
test_free_in_ready(Fixture *f, const void *unused)
{
    f->free_on_ready = true;
    gw_qmp_call(f->qmp, "one", NULL, on_reply, f);
    serve(f, GREETING);
    answer(f, expect_command(f, "qmp_capabilities"), 0);
    wait_for_story(f, "ready ");
    g_assert_null(f->qmp);
}

static void
test_free_in_event(Fixture *f, const void *unused)
{
    greet(f);
    f->free_on_event = true;
    gw_qmp_call(f->qmp, "one", NULL, on_reply, f);
    serve(f, "{\"event\": \"A\"}\n{\"event\": \"B\"}\nrubbish\n");
    wait_for_story(f, "A:-1 ");
}

static void
test_free_in_reply(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_call(f->qmp, "one", NULL, on_reply_free, f);
    gw_qmp_call(f->qmp, "two", NULL, on_reply, f);
    answer(f, expect_command(f, "one"), 1);
    wait_for_story(f, "result-1 ");
}

static void
test_free_in_failing_reply(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_call(f->qmp, "one", NULL, on_reply_free, f);
    gw_qmp_call(f->qmp, "two", NULL, on_reply, f);
    gw_fd_clear(&f->peer);
    wait_for_story(f, "error-unreachable ");
}

static void
test_free_in_timeout(Fixture *f, const void *unused)
{
    greet(f);
    gw_qmp_set_timeout_ms(f->qmp, 20);
    gw_qmp_call(f->qmp, "one", NULL, on_reply_free, f);
    gw_qmp_call(f->qmp, "two", NULL, on_reply, f);
    wait_for_story(f, "error-timeout ");
}

static void
test_free_in_closed(Fixture *f, const void *unused)
{
    greet(f);
    f->free_on_closed = true;
    gw_fd_clear(&f->peer);
    wait_for_story(f, "closed-unreachable ");
}

static void
test_free_in_refused(Fixture *f, const void *unused)
{
    greet(f);
    gw_fd_clear(&f->peer);
    wait_for_story(f, "closed-unreachable ");
    gw_qmp_call(f->qmp, "one", NULL, on_reply_free, f);
    gw_qmp_call(f->qmp, "two", NULL, on_reply, f);
    wait_for_story(f, "closed-unreachable error-unreachable ");
}

static void
test_no_socket(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_qmp_open("/nonexistent/qmp.sock", &HANDLERS, NULL, &error));
    g_assert_nonnull(error);
}

/* --- a real QEMU ------------------------------------------------------------------------------ */

static void
real_event(GwQmp *qmp, const char *name, json_t *arguments, void *data)
{
    Fixture *f = data;

    g_string_append_printf(f->story, "%s ", name);
}

static GwProcessId
launch_real(Fixture *f, const char *binary)
{
    g_autofree char *log = g_build_filename(f->dir, "log", NULL);
    const char *argv[] = {binary,
                          "-machine",
                          "none",
                          "-nodefaults",
                          "-display",
                          "none",
                          "-S",
                          "-chardev",
                          "socket,id=q,fd=3,server=on,wait=off",
                          "-mon",
                          "chardev=q,mode=control",
                          NULL};
    GwLaunch launch = {
        .argv = argv, .log_path = log, .fds = &f->listener, .fds_as = &(int){3}, .n_fds = 1};
    GwProcessId process = {0};
    g_autoptr(GError) error = NULL;

    bool started = gw_launch(&launch, &process, &error);
    g_assert_no_error(error);
    g_assert_true(started);
    return process;
}

static void
test_real_qemu(void)
{
    static const GwQmpHandlers REAL = {on_ready, real_event, on_closed};
    g_autofree char *binary = real_qemu();
    g_autoptr(GError) error = NULL;
    Fixture f = {.dir = make_test_dir(), .peer = GW_FD_NONE, .story = g_string_new(NULL)};
    g_autofree char *path = g_build_filename(f.dir, "qmp.sock", NULL);

    if (!binary) {
        g_test_skip("no qemu-system-x86_64");
        g_string_free(f.story, TRUE);
        remove_test_dir(f.dir);
        return;
    }
    f.listener = gw_unix_listen(path, 0600, &error);
    g_assert_no_error(error);
    /* A client that connects while QEMU starts may be accepted by two of its threads; the one that
     * finds nobody must not block. */
    g_assert_true(gw_fd_set_nonblocking(f.listener, true, &error));
    GwProcessId process = launch_real(&f, binary);
    gw_fd_clear(&f.listener);
    f.qmp = gw_qmp_open(path, &REAL, &f, &error);
    g_assert_no_error(error);
    gw_qmp_call(f.qmp, "query-version", NULL, on_reply, &f);
    gw_qmp_call(f.qmp, "no-such-command", NULL, on_reply, &f);
    gw_qmp_call_fd(f.qmp, "getfd", json_pack("{s:s}", "fdname", "out"), 1, on_reply, &f);
    gw_qmp_call(f.qmp, "closefd", json_pack("{s:s}", "fdname", "out"), on_reply, &f);
    gw_qmp_call(f.qmp, "closefd", json_pack("{s:s}", "fdname", "out"), on_reply, &f);
    wait_for_story(&f, "ready result--1 error-failed result--1 result--1 error-failed ");
    g_assert_cmpuint(gw_qmp_version(f.qmp), >=, 702);
    g_string_truncate(f.story, 0);
    gw_qmp_call_oob(f.qmp, "query-yank", NULL, on_reply, &f);
    wait_for_story(&f, "result--1 ");
    g_string_truncate(f.story, 0);
    gw_qmp_call(f.qmp, "quit", NULL, on_reply, &f);
    wait_for(f.is_closed);
    g_assert_nonnull(strstr(f.story->str, "SHUTDOWN "));
    g_assert_nonnull(strstr(f.story->str, "result--1 "));
    g_assert_true(g_str_has_suffix(f.story->str, " closed-unreachable "));
    wait_for_end(process);
    gw_qmp_free(f.qmp);
    g_string_free(f.story, TRUE);
    remove_test_dir(f.dir);
}

#define ADD(name, function) g_test_add("/qmp/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    ADD("handshake", test_handshake);
    ADD("greeted-twice", test_greeted_twice);
    ADD("answers-and-events", test_answers_and_events);
    ADD("refusal-has-description", test_refusal_has_description);
    ADD("long-answer", test_long_answer);
    ADD("endless-line", test_endless_line);
    ADD("garbage", test_garbage);
    ADD("any-order", test_any_order);
    ADD("unasked-answer", test_unasked_answer);
    ADD("early-close", test_early_close);
    ADD("last-words", test_last_words);
    ADD("timeout", test_timeout);
    ADD("no-greeting", test_no_greeting);
    ADD("no-negotiation", test_no_negotiation);
    ADD("negotiation-refused", test_negotiation_refused);
    ADD("descriptor", test_descriptor);
    ADD("bad-descriptor", test_bad_descriptor);
    ADD("slow-reader", test_slow_reader);
    ADD("forget", test_forget);
    ADD("negotiates-oob", test_negotiates_oob);
    ADD("oob-overtakes", test_oob_overtakes);
    ADD("expired-is-not-sent", test_expired_is_not_sent);
    ADD("one-descriptor-at-a-time", test_one_descriptor_at_a_time);
    ADD("oob-on-closed", test_oob_on_closed);
    ADD("free-in-ready", test_free_in_ready);
    ADD("free-in-event", test_free_in_event);
    ADD("free-in-reply", test_free_in_reply);
    ADD("free-in-failing-reply", test_free_in_failing_reply);
    ADD("free-in-timeout", test_free_in_timeout);
    ADD("free-in-closed", test_free_in_closed);
    ADD("free-in-refused", test_free_in_refused);
    g_test_add_func("/qmp/no-socket", test_no_socket);
    g_test_add_func("/qmp/real-qemu", test_real_qemu);
    return g_test_run();
}
