// SPDX-License-Identifier: Apache-2.0
/* Names of encodings. */
#include "lane/encodings.h"

static void
test_names(void)
{
    for (unsigned encodings = 0; encodings <= GW_ENCODING_ALL; encodings++) {
        g_autofree char *text = gw_encodings_text(encodings);
        g_autoptr(GError) error = NULL;
        unsigned parsed = ~0u;

        g_assert_true(gw_encodings_parse(text, &parsed, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(parsed, ==, encodings);
    }
}

static void
test_words(void)
{
    unsigned parsed = 0;

    g_assert_true(gw_encodings_parse("all", &parsed, NULL));
    g_assert_cmpuint(parsed, ==, GW_ENCODING_ALL);
    g_assert_true(gw_encodings_parse("zstd, same", &parsed, NULL));
    g_assert_cmpuint(parsed, ==, GW_ENCODING_ZSTD | GW_ENCODING_SAME);
}

static void
test_mistakes(void)
{
    static const char *const texts[] = {"", ",", "zstd,", "all,zstd", "gzip"};

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        unsigned parsed = 7;

        g_assert_false(gw_encodings_parse(texts[i], &parsed, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
        g_assert_cmpuint(parsed, ==, 7);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/encodings/names", test_names);
    g_test_add_func("/encodings/words", test_words);
    g_test_add_func("/encodings/mistakes", test_mistakes);
    return g_test_run();
}
