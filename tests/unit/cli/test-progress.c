// SPDX-License-Identifier: Apache-2.0
/* Golden outputs of the progress lines; they fit every width and never go back. */
#include "cli/progress.h"
#include "cli/text.h"

#include <string.h>

static json_t *
move_at(int percent)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "vm", "web1", "source",
                     "alpha", "target", "beta", "state", "precopy", "round", 2, "percent", percent,
                     "rate_bytes_s", 117440512, "dirty_rate_bytes_s", 20971520,
                     "expected_downtime_ms", 85, "left_ms", 4200);
}

static void
test_golden(void)
{
    GwProgressView view = {0};
    g_autoptr(json_t) move = move_at(62);
    g_autofree char *wide = gw_progress_lines(&view, move, 120);
    g_autofree char *medium = gw_progress_lines(&view, move, 60);
    g_autofree char *narrow = gw_progress_lines(&view, move, 20);
    g_autofree char *plain = gw_progress_plain(&view, move);

    g_assert_cmpstr(wide, ==,
                    "web1: alpha -> beta  precopy, round 2\n"
                    "[############........]  62 %  112 MiB/s  dirty 20 MiB/s  downtime 85 ms"
                    "  4.2 s left");
    g_assert_cmpstr(medium, ==,
                    "web1: alpha -> beta  precopy, round 2\n"
                    "[############........]  62 %  112 MiB/s  dirty 20 MiB/s");
    g_assert_cmpstr(narrow, ==, "web1: alpha -> beta~\n62 %  112 MiB/s");
    g_assert_cmpstr(plain, ==,
                    "web1: precopy, round 2, 62 %, 112 MiB/s, dirty 20 MiB/s, downtime 85 ms, "
                    "4.2 s left");
}

static void
test_little_known(void)
{
    GwProgressView view = {0};
    g_autoptr(json_t) nothing = json_object();
    g_autoptr(json_t) unknown_rest = json_pack("{s:s, s:s, s:i, s:i}", "vm", "w\033", "state",
                                               "checked", "left_ms", -1, "percent", 400);
    g_autofree char *empty = gw_progress_lines(&view, nothing, 80);
    g_autofree char *some = gw_progress_plain(&view, unknown_rest);

    g_assert_cmpstr(empty, ==, "?: ? -> ?  ?\n[....................]  0 %");
    g_assert_cmpstr(some, ==, "w\\x1b: checked, 100 %");
}

/* Rates say nothing about a move that has ended. */
static void
test_ended(void)
{
    GwProgressView view = {0};
    g_autoptr(json_t) move = move_at(100);

    gw_json_set_bool(move, "final", true);
    gw_json_set_str(move, "state", "settled");
    g_autofree char *line = gw_progress_plain(&view, move);
    g_assert_cmpstr(line, ==, "web1: settled, 100 %");
}

static void
test_never_backwards(void)
{
    static const int told[] = {10, 50, 40, 0, 51, 49, 100, 3};
    static const unsigned shown[] = {10, 50, 50, 50, 51, 51, 100, 100};
    GwProgressView view = {0};

    for (size_t i = 0; i < G_N_ELEMENTS(told); i++) {
        g_autoptr(json_t) move = move_at(told[i]);
        g_autofree char *line = gw_progress_plain(&view, move);
        g_autofree char *expected = g_strdup_printf(", %u %%,", shown[i]);
        g_assert_nonnull(strstr(line, expected));
    }
}

static void
test_fits_every_width(void)
{
    g_autoptr(json_t) move = move_at(100);

    gw_json_set_str(move, "vm", "世界世界-with-a-long-name-äöü");
    for (unsigned width = 1; width < 200; width++) {
        GwProgressView view = {0};
        g_autofree char *lines = gw_progress_lines(&view, move, width);
        g_auto(GStrv) parts = g_strsplit(lines, "\n", -1);
        g_assert_cmpuint(g_strv_length(parts), ==, 2);
        g_assert_cmpuint(gw_text_width(parts[0]), <=, width);
        g_assert_cmpuint(gw_text_width(parts[1]), <=, width);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/progress/golden", test_golden);
    g_test_add_func("/progress/little-known", test_little_known);
    g_test_add_func("/progress/ended", test_ended);
    g_test_add_func("/progress/never-backwards", test_never_backwards);
    g_test_add_func("/progress/fits-every-width", test_fits_every_width);
    return g_test_run();
}
