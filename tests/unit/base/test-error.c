// SPDX-License-Identifier: Apache-2.0
/* Error codes: every one has a name of its own that leads back to it. */
#include "base/error.h"

#include <errno.h>

static void
test_names(void)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    for (int code = 0; code < GW_ERROR_N_CODES; code++) {
        const char *name = gw_error_code_name(code);
        g_assert_nonnull(name);
        g_assert_true(g_hash_table_add(seen, (void *)name));
        g_assert_cmpint((int)gw_error_code_from_name(name), ==, code);
    }
    g_assert_cmpstr(gw_error_code_name(GW_ERROR_NOT_FOUND), ==, "not-found");
}

static void
test_out_of_range(void)
{
    g_assert_null(gw_error_code_name(-1));
    g_assert_null(gw_error_code_name(GW_ERROR_N_CODES));
    g_assert_cmpint((int)gw_error_code_from_name("no-such-name"), ==, GW_ERROR_FAILED);
    g_assert_cmpint((int)gw_error_code_from_name(NULL), ==, GW_ERROR_FAILED);
}

static void
test_errno(void)
{
    g_autoptr(GError) error = NULL;

    gw_set_error_errno(&error, ENOSPC, "cannot write '%s' (%d)", "/a/file", 7);
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_assert_cmpstr(error->message, ==, "cannot write '/a/file' (7): No space left on device");
    gw_set_error_errno(NULL, ENOSPC, "nobody listens");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/error/names", test_names);
    g_test_add_func("/error/out-of-range", test_out_of_range);
    g_test_add_func("/error/errno", test_errno);
    return g_test_run();
}
