// SPDX-License-Identifier: Apache-2.0
/* Log lines as they reach stderr: level, fields, escapes, the debug switch. */
#include "base/fd.h"
#include "base/log.h"

#include <string.h>

/* Runs @say with stderr in a pipe; what it wrote, transfer full. */
static char *
captured(void (*say)(void))
{
    int ends[2];
    char text[4096];
    g_auto(GwFd) saved = dup(STDERR_FILENO);

    g_assert_cmpint(pipe(ends), ==, 0);
    g_assert_cmpint(dup2(ends[1], STDERR_FILENO), ==, STDERR_FILENO);
    gw_fd_clear(&ends[1]);
    say();
    g_assert_cmpint(dup2(saved, STDERR_FILENO), ==, STDERR_FILENO);
    ssize_t len = gw_fd_read_full(ends[0], text, sizeof text);
    gw_fd_clear(&ends[0]);
    g_assert_cmpint(len, >=, 0);
    return g_strndup(text, (gsize)len);
}

/* What follows the time stamp in a line. */
static const char *
after_time(const char *line)
{
    const char *end = strchr(line, ' ');

    g_assert_nonnull(end);
    g_assert_cmpint(end[-1], ==, 'Z');
    return end + 1;
}

static void
say_with_fields(void)
{
    const GwLogFields fields = {.vm = "web1", .host = "a", .move = "m1", .step = "precopy"};

    gw_info(&fields, "round %d done", 3);
}

static void
test_fields(void)
{
    g_autofree char *line = captured(say_with_fields);

    g_assert_cmpstr(after_time(line), ==,
                    "INFO  vm=web1 host=a move=m1 step=precopy round 3 done\n");
}

static void
say_without_fields(void)
{
    gw_err(NULL, "no fields, %s", "100 %s");
}

static void
test_no_fields(void)
{
    g_autofree char *line = captured(say_without_fields);

    g_assert_cmpstr(after_time(line), ==, "ERROR no fields, 100 %s\n");
}

static void
say_hostile_text(void)
{
    gw_warn(&(GwLogFields){.vm = "a\x1b[2J"}, "one\ntwo\r\x7f \xc2\x9b!\xff\xc3\xa4\xe2\x82");
}

/* One line, no control characters of C0 or C1, no broken UTF-8; letters stay letters. */
static void
test_escapes(void)
{
    g_autofree char *line = captured(say_hostile_text);

    g_assert_cmpstr(after_time(line), ==,
                    "WARN  vm=a\\x1b[2J one | two\\x0d\\x7f \\x9b!\\xff\xc3\xa4\\xe2\\x82\n");
}

static void
say_debug(void)
{
    gw_debug(NULL, "detail");
}

static void
test_debug_switch(void)
{
    gw_log_init(false);
    g_autofree char *silent = captured(say_debug);
    gw_log_init(true);
    g_autofree char *line = captured(say_debug);
    gw_log_init(false);

    g_assert_cmpstr(silent, ==, "");
    g_assert_cmpstr(after_time(line), ==, "DEBUG detail\n");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/log/fields", test_fields);
    g_test_add_func("/log/no-fields", test_no_fields);
    g_test_add_func("/log/escapes", test_escapes);
    g_test_add_func("/log/debug-switch", test_debug_switch);
    return g_test_run();
}
