// SPDX-License-Identifier: Apache-2.0
/* The spare monitor, with QEMU's part played by the test, and by a real one. */
#include "qemu/spare.h"

#include "support.h"

#include <errno.h>
#include <fcntl.h>

#define NEGOTIATION "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n"

typedef struct Fixture {
    char *dir;
    char *path;
    GwSpareEnds ends; /* QEMU's */
    GwSpare *spare;
    GString *story;
    bool free_on_reply;
} Fixture;

static void
set_up(Fixture *f, const void *unused)
{
    g_autoptr(GError) error = NULL;

    *f = (Fixture){.dir = make_test_dir(), .story = g_string_new(NULL)};
    f->path = g_build_filename(f->dir, "spare", NULL);
    g_assert_true(gw_spare_make(f->path, &f->ends, &error));
    g_assert_no_error(error);
    g_assert_true(gw_fd_set_nonblocking(f->ends.input, true, NULL));
}

static void
tear_down(Fixture *f, const void *unused)
{
    gw_spare_free(f->spare);
    gw_spare_ends_clear(&f->ends);
    g_string_free(f->story, TRUE);
    g_free(f->path);
    remove_test_dir(f->dir);
}

static void
open_spare(Fixture *f, bool fresh)
{
    g_autoptr(GError) error = NULL;

    f->spare = gw_spare_open(f->path, fresh, &error);
    g_assert_no_error(error);
    g_assert_nonnull(f->spare);
}

static void
on_reply(json_t *result, const GError *error, void *data)
{
    Fixture *f = data;

    g_assert_true((result == NULL) == (error != NULL));
    if (error) {
        g_test_message("%s", error->message);
        g_string_append_printf(f->story, "error-%s ", gw_error_code_name(error->code));
    } else {
        g_string_append_printf(f->story, "result-%d ", (int)gw_json_int(result, "n", -1));
    }
    if (f->free_on_reply) {
        g_clear_pointer(&f->spare, gw_spare_free);
    }
}

/* All that QEMU would read now. Transfer full. */
static char *
heard(Fixture *f)
{
    char buffer[65536];
    ssize_t n = read(f->ends.input, buffer, sizeof buffer - 1);

    g_assert_true(n > 0 || errno == EAGAIN);
    buffer[MAX(n, 0)] = '\0';
    return g_strdup(buffer);
}

static int64_t
expect_call(Fixture *f, const char *command)
{
    g_autofree char *text = heard(f);
    g_autoptr(json_t) line = gw_json_parse(text, strlen(text), SIZE_MAX, "test", NULL);

    g_assert_true(g_str_has_suffix(text, "}\n"));
    g_assert_cmpstr(gw_json_str(line, "exec-oob", ""), ==, command);
    return gw_json_int(line, "id", 0);
}

static void
say(Fixture *f, const char *text)
{
    g_assert_true(gw_fd_write_full(f->ends.output, text, strlen(text)));
}

static void
answer(Fixture *f, int64_t id, int n)
{
    g_autofree char *text =
        g_strdup_printf("{\"return\": {\"n\": %d}, \"id\": %" G_GINT64_FORMAT "}\r\n", n, id);

    say(f, text);
}

static void
wait_for_story(Fixture *f, const char *story)
{
    wait_for(f->story->len >= strlen(story));
    run_pending();
    g_assert_cmpstr(f->story->str, ==, story);
}

static void
test_two_daemons(Fixture *f, const void *unused)
{
    open_spare(f, true);
    g_autofree char *first = heard(f);
    g_assert_cmpstr(first, ==, NEGOTIATION);
    say(f, "{\"QMP\": {}}\r\n{\"return\": {}}\r\n");
    gw_spare_call(f->spare, "one", json_pack("{s:i}", "x", 1), on_reply, f);
    int64_t one = expect_call(f, "one");
    say(f, "{\"event\": \"A\"}\r\n{\"retu");
    run_pending();
    /* The daemon dies in the middle of a line; QEMU does not notice, nor say what nobody reads. */
    g_clear_pointer(&f->spare, gw_spare_free);
    g_assert_cmpint(write(f->ends.output, "lost\n", 5), ==, -1);
    g_assert_cmpint(errno, ==, EPIPE);
    g_autofree char *nothing = heard(f);
    g_assert_cmpstr(nothing, ==, "");

    open_spare(f, false);
    g_autofree char *second = heard(f);
    g_assert_cmpstr(second, ==, "");
    gw_spare_call(f->spare, "two", NULL, on_reply, f);
    int64_t two = expect_call(f, "two");
    g_assert_cmpint(one, !=, two);
    say(f, "rn\": {}}\r\nrubbish\n[]\n{}\n7\n");
    answer(f, one, 1);
    say(f, "{\"event\": \"B\"}\r\n");
    answer(f, two, 2);
    answer(f, two, 3);
    wait_for_story(f, "result-2 ");
}

static void
test_refusal(Fixture *f, const void *unused)
{
    open_spare(f, false);
    gw_spare_call(f->spare, "one", NULL, on_reply, f);
    g_autofree char *text = g_strdup_printf(
        "{\"error\": {\"class\": \"X\", \"desc\": \"no\"}, \"id\": %" G_GINT64_FORMAT "}\n",
        expect_call(f, "one"));
    say(f, text);
    wait_for_story(f, "error-failed ");
}

static void
test_long_line(Fixture *f, const void *unused)
{
    g_autofree char *filler = g_strnfill(16 * 1024, 'x');

    open_spare(f, false);
    gw_spare_call(f->spare, "one", NULL, on_reply, f);
    for (int i = 0; i < 20; i++) {
        say(f, filler);
        run_pending();
    }
    say(f, "\n");
    answer(f, expect_call(f, "one"), 1);
    wait_for_story(f, "result-1 ");
}

static void
test_replaced_call(Fixture *f, const void *unused)
{
    open_spare(f, false);
    gw_spare_call(f->spare, "one", NULL, on_reply, f);
    int64_t one = expect_call(f, "one");
    gw_spare_call(f->spare, "two", NULL, on_reply, f);
    answer(f, one, 1);
    answer(f, expect_call(f, "two"), 2);
    wait_for_story(f, "result-2 ");
}

static void
test_qemu_ends(Fixture *f, const void *unused)
{
    open_spare(f, false);
    f->free_on_reply = true;
    gw_spare_call(f->spare, "one", NULL, on_reply, f);
    gw_spare_ends_clear(&f->ends);
    wait_for_story(f, "error-unreachable ");
    g_assert_null(gw_spare_open(f->path, false, NULL));
}

static void
test_qemu_does_not_read(Fixture *f, const void *unused)
{
    g_autofree char *filler = g_strnfill(4000, 'x');

    open_spare(f, false);
    for (int i = 0; i < 64; i++) {
        gw_spare_call(f->spare, filler, NULL, on_reply, f);
        run_pending();
        if (f->story->len > 0) {
            break;
        }
    }
    wait_for_story(f, "error-unreachable ");
    g_autofree char *too_long = g_strnfill(5000, 'x');
    gw_spare_call(f->spare, too_long, NULL, on_reply, f);
    g_assert_cmpstr(f->story->str, ==, "error-unreachable ");
    wait_for_story(f, "error-unreachable error-too-large ");
}

static void
test_no_pipes(void)
{
    g_autoptr(GError) error = NULL;
    GwSpareEnds ends;

    g_assert_null(gw_spare_open("/nonexistent/spare", true, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    g_assert_false(gw_spare_make("/nonexistent/spare", &ends, &error));
    g_assert_nonnull(error);
}

/* --- a real QEMU ------------------------------------------------------------------------------ */

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
                          "-add-fd",
                          "fd=3,set=1",
                          "-add-fd",
                          "fd=4,set=2",
                          "-chardev",
                          "file,id=s,path=/dev/fdset/2,input-path=/dev/fdset/1,append=on",
                          "-mon",
                          "chardev=s,mode=control",
                          NULL};
    GwLaunch launch = {.argv = argv,
                       .log_path = log,
                       .fds = (const int[]){f->ends.input, f->ends.output, f->ends.keeper},
                       .fds_as = (const int[]){3, 4, 5},
                       .n_fds = 3};
    GwProcessId process = {0};
    g_autoptr(GError) error = NULL;

    g_assert_true(gw_fd_set_nonblocking(f->ends.input, false, NULL));
    bool started = gw_launch(&launch, &process, &error);
    g_assert_no_error(error);
    g_assert_true(started);
    return process;
}

/* Answers come when QEMU has read the negotiation, also to a daemon after the first. */
static void
test_real_qemu(Fixture *f, const void *unused)
{
    g_autofree char *binary = real_qemu();
    g_autoptr(GError) error = NULL;

    if (!binary) {
        g_test_skip("no qemu-system-x86_64");
        return;
    }
    GwProcessId process = launch_real(f, binary);
    open_spare(f, true);
    gw_spare_ends_clear(&f->ends);
    for (int i = 0; i < 2; i++) {
        while (!g_str_has_prefix(f->story->str, "result--1 ")) {
            gsize before = f->story->len;
            gw_spare_call(f->spare, "query-yank", NULL, on_reply, f);
            wait_for(f->story->len > before);
            if (g_str_has_prefix(f->story->str, "error-failed ")) {
                g_string_truncate(f->story, 0); /* not negotiated yet */
            }
        }
        g_string_truncate(f->story, 0);
        g_clear_pointer(&f->spare, gw_spare_free);
        open_spare(f, false);
    }
    g_assert_true(gw_process_signal(process, SIGKILL, &error));
    wait_for_end(process);
}

#define ADD(name, function) g_test_add("/spare/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    ADD("two-daemons", test_two_daemons);
    ADD("refusal", test_refusal);
    ADD("long-line", test_long_line);
    ADD("replaced-call", test_replaced_call);
    ADD("qemu-ends", test_qemu_ends);
    ADD("qemu-does-not-read", test_qemu_does_not_read);
    g_test_add_func("/spare/no-pipes", test_no_pipes);
    ADD("real-qemu", test_real_qemu);
    return g_test_run();
}
