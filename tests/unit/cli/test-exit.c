// SPDX-License-Identifier: Apache-2.0
/* Exit statuses are promises: the table, the man page and godwit(1)'s words must agree. */
#include "cli/exit.h"

#include <stdlib.h>
#include <string.h>

/* The man page's text for one status: from its ".B N" to the next ".TP" or section. */
static char *
man_entry(const char *page, int status)
{
    g_autofree char *head = g_strdup_printf("\n.TP\n.B %d\n", status);
    const char *section = strstr(page, "\n.SH EXIT STATUS\n");

    g_assert_nonnull(section);
    const char *end = strstr(section + 1, "\n.SH ");
    const char *entry = strstr(section, head);
    g_assert_nonnull(entry);
    g_assert_true(entry < end);
    entry += strlen(head) - 1;
    const char *next = strstr(entry, "\n.TP\n");
    return g_strndup(entry, (gsize)((next && next < end ? next : end) - entry));
}

static bool
entry_has(const char *entry, const char *name)
{
    g_auto(GStrv) parts = g_strsplit(name, "-", -1);
    g_autofree char *escaped = g_strjoinv("\\-", parts);
    g_autofree char *literal = g_regex_escape_string(escaped, -1);
    g_autofree char *pattern = g_strdup_printf("(^|[ \"])%s([ \"]|$)", literal);
    /* After ".IR", as a word of its own. */
    const char *codes = strstr(entry, "\n.IR ");

    return codes && g_regex_match_simple(pattern, codes + 1, G_REGEX_MULTILINE, 0);
}

static void
test_man_page(void)
{
    g_autofree char *page = NULL;
    g_autofree char *path = g_build_filename(g_getenv("MAN_DIR"), "godwit.1", NULL);

    g_assert_true(g_file_get_contents(path, &page, NULL, NULL));
    for (int code = 0; code < GW_ERROR_N_CODES; code++) {
        g_autoptr(GError) error = g_error_new_literal(GW_ERROR, code, "x");
        int status = gw_exit_status(error);
        g_assert_cmpint(status, >, GW_EXIT_SUCCESS);
        for (int other = 0; other <= GW_EXIT_TIMEOUT; other++) {
            g_autofree char *entry = man_entry(page, other);
            bool has = entry_has(entry, gw_error_code_name(code));
            if (has != (other == status)) {
                g_error("%s: exit status %d, but the man page %s it at %d",
                        gw_error_code_name(code), status, has ? "has" : "lacks", other);
            }
        }
    }
    g_free(man_entry(page, GW_EXIT_INTERRUPTED));
}

static void
test_others(void)
{
    g_autoptr(GError) foreign = g_error_new_literal(G_FILE_ERROR, 3, "x");

    g_assert_cmpint(gw_exit_status(NULL), ==, 0);
    g_assert_cmpint(gw_exit_status(foreign), ==, 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exit/man-page", test_man_page);
    g_test_add_func("/exit/others", test_others);
    return g_test_run();
}
