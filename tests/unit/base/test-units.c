// SPDX-License-Identifier: Apache-2.0
/* Sizes, durations, times and names: what is taken, what is refused, what is written. */
#include "base/units.h"

static void
check_size(const char *text, uint64_t expected)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes = 1;

    g_assert_true(gw_parse_size(text, &bytes, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(bytes, ==, expected);
}

static void
test_sizes(void)
{
    check_size("0", 0);
    check_size("4096", 4096);
    check_size("12 B", 12);
    check_size("1k", 1024);
    check_size("512 MiB", UINT64_C(512) << 20);
    check_size("1G", UINT64_C(1) << 30);
    check_size("1 GiB", UINT64_C(1) << 30);
    check_size("1.5 GB", UINT64_C(3) << 29);
    check_size("2TiB", UINT64_C(2) << 40);
}

static void
test_bad_sizes(void)
{
    static const char *const bad[] = {
        "",          " ",    "-1",    "+1",  "G",    "1 X",    "1 Gi",
        "1 G B",     "0x10", "1e30",  "1e3", "inf",  "nan",    "1 MiB x",
        "99999999T", "1..2", "1,5 G", " 1",  "1 %s", "1 MiBB", "1\n2",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        uint64_t bytes = 77;
        g_test_message("size '%s'", bad[i]);
        g_assert_false(gw_parse_size(bad[i], &bytes, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
        g_assert_cmpuint(bytes, ==, 77);
    }
}

static void
check_duration(const char *text, int64_t expected)
{
    g_autoptr(GError) error = NULL;
    int64_t us = -1;

    g_assert_true(gw_parse_duration(text, &us, &error));
    g_assert_no_error(error);
    g_assert_cmpint(us, ==, expected);
}

static void
test_durations(void)
{
    check_duration("300ms", 300000);
    check_duration("5 s", 5000000);
    check_duration("5", 5000000);
    check_duration("0", 0);
    check_duration("2 min", 120000000);
    check_duration("1 h", 3600000000);
    check_duration("1.5 s", 1500000);
    check_duration("1d", 86400000000);
}

static void
test_bad_durations(void)
{
    static const char *const bad[] = {"", "-1 s", "s", "1 fortnight", "99999999999 d", "1e3 s"};

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        int64_t us = 77;
        g_test_message("duration '%s'", bad[i]);
        g_assert_false(gw_parse_duration(bad[i], &us, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
        g_assert_cmpint(us, ==, 77);
    }
}

/* Takes @text. */
static void
check_text(char *text, const char *expected)
{
    g_assert_cmpstr(text, ==, expected);
    g_free(text);
}

static void
test_format_size(void)
{
    check_text(gw_format_size(0), "0 B");
    check_text(gw_format_size(12), "12 B");
    check_text(gw_format_size(1023), "1023 B");
    check_text(gw_format_size(96 * 1024), "96 KiB");
    check_text(gw_format_size(UINT64_C(3) << 29), "1.5 GiB");
    check_text(gw_format_size(UINT64_MAX), "16384 PiB");
}

static void
test_format_duration(void)
{
    check_text(gw_format_duration(0), "0 ms");
    check_text(gw_format_duration(85000), "85 ms");
    check_text(gw_format_duration(1400000), "1.4 s");
    check_text(gw_format_duration(125000000), "2 min 05 s");
    check_text(gw_format_duration(INT64_C(3725) * 1000000), "1 h 02 min");
}

static void
test_format_time(void)
{
    check_text(gw_format_time(0), "1970-01-01T00:00:00Z");
    check_text(gw_format_time(INT64_C(1795314840123456)), "2026-11-22T02:34:00Z");
    g_autofree char *far_away = gw_format_time(INT64_MAX);
    g_autofree char *long_ago = gw_format_time(INT64_MIN);
    g_assert_nonnull(far_away);
    g_assert_nonnull(long_ago);
}

static void
test_clocks(void)
{
    const int64_t before = gw_now_us();

    g_assert_cmpint(before, >, 0);
    g_assert_cmpint(gw_now_us(), >=, before);
    g_assert_cmpint(ABS(gw_wall_us() - g_get_real_time()), <, 60 * G_USEC_PER_SEC);
}

static void
test_names(void)
{
    g_autofree char *longest = g_strnfill(63, 'a');
    g_autofree char *too_long = g_strnfill(64, 'a');
    const char *good[] = {"a", "web1", "0", "db-2.rack_3", longest};
    const char *bad[] = {"",    "-a",   ".",        "..",    "_x",     "Web",   "a b",   "a/b",
                         "a\n", "a%sb", "\xc3\xa4", "a\xff", "../etc", "a\x1b", too_long};

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_true(gw_check_name("VM name", good[i], &error));
        g_assert_no_error(error);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(gw_check_name("VM name", bad[i], &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
        g_assert_true(g_str_has_prefix(error->message, "VM name '"));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/units/sizes", test_sizes);
    g_test_add_func("/units/bad-sizes", test_bad_sizes);
    g_test_add_func("/units/durations", test_durations);
    g_test_add_func("/units/bad-durations", test_bad_durations);
    g_test_add_func("/units/format-size", test_format_size);
    g_test_add_func("/units/format-duration", test_format_duration);
    g_test_add_func("/units/format-time", test_format_time);
    g_test_add_func("/units/clocks", test_clocks);
    g_test_add_func("/units/names", test_names);
    return g_test_run();
}
