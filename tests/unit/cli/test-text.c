// SPDX-License-Identifier: Apache-2.0
/* Escaping, widths, tables. */
#include "cli/text.h"

#include <string.h>

static void
assert_escaped(const char *text, bool lines, const char *expected)
{
    g_autofree char *escaped = gw_text_escape(text, lines);

    g_assert_cmpstr(escaped, ==, expected);
}

static void
test_escape(void)
{
    assert_escaped("plain äöü 世界", false, "plain äöü 世界");
    assert_escaped("\033[2Jgone\r\n", false, "\\x1b[2Jgone\\x0d\\x0a");
    assert_escaped("a\n\tb\x07", true, "a\n\tb\\x07");
    assert_escaped("del\x7f", false, "del\\x7f");
    /* C1 controls as UTF-8 (CSI), and as a bare byte, which is not UTF-8. */
    assert_escaped("\xc2\x9b"
                   "31m",
                   false, "\\x9b31m");
    assert_escaped("\x9b"
                   "31m",
                   false,
                   "\xef\xbf\xbd"
                   "31m");
    /* Right-to-left override. */
    assert_escaped("a\xe2\x80\xae"
                   "b",
                   false, "a\\u202eb");
    assert_escaped("", false, "");
}

static void
test_fit(void)
{
    static const struct {
        const char *text;
        unsigned width;
        const char *expected;
    } cases[] = {
        {"abc", 3, "abc"}, {"abcd", 3, "ab~"}, {"abc", 1, "~"},      {"abc", 0, ""},
        {"", 0, ""},       {"äöü", 2, "ä~"},   {"世界世", 4, "世~"}, {"世界", 4, "世界"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *fit = gw_text_fit(cases[i].text, cases[i].width);
        g_assert_cmpstr(fit, ==, cases[i].expected);
    }
}

static void
test_numbers(void)
{
    g_autoptr(json_t) object = json_pack("{s:i, s:i, s:i, s:I}", "size", 1536, "ms", 1400, "none",
                                         -1, "huge", (json_int_t)G_MAXINT64);
    g_autofree char *size = gw_text_size(object, "size");
    g_autofree char *ms = gw_text_ms(object, "ms");
    g_autofree char *none = gw_text_ms(object, "none");
    g_autofree char *huge = gw_text_ms(object, "huge");
    g_autofree char *absent = gw_text_size(object, "absent");

    g_assert_cmpstr(size, ==, "1.5 KiB");
    g_assert_cmpstr(ms, ==, "1.4 s");
    g_assert_cmpstr(none, ==, "-");
    g_assert_cmpstr(huge, ==, "-");
    g_assert_cmpstr(absent, ==, "-");
}

static void
test_table(void)
{
    static const char *const headings[] = {"NAME", "STATE", "X", NULL};
    g_autoptr(GwTable) table = gw_table_new(headings);

    g_autofree char *empty = gw_table_text(table);
    g_assert_cmpstr(empty, ==, "NAME  STATE  X\n");
    gw_table_add(table, "web1", "running", "1");
    gw_table_add(table, "世界世界", NULL, "\033");
    g_autofree char *text = gw_table_text(table);
    g_assert_cmpstr(text, ==,
                    "NAME      STATE    X\n"
                    "web1      running  1\n"
                    "世界世界  -        \\x1b\n");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/text/escape", test_escape);
    g_test_add_func("/text/fit", test_fit);
    g_test_add_func("/text/numbers", test_numbers);
    g_test_add_func("/text/table", test_table);
    return g_test_run();
}
