// SPDX-License-Identifier: Apache-2.0
/* JSON at the borders: caps before parsing, typed getters, errors there and back. */
#include "base/json.h"

#include <string.h>

static json_t *
parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    json_t *value = gw_json_parse(text, strlen(text), 4096, "test", &error);

    g_assert_no_error(error);
    g_assert_nonnull(value);
    return value;
}

static void
check_refused(const void *data, size_t len, size_t max_bytes, int code)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_json_parse(data, len, max_bytes, "the answer of host a", &error));
    g_assert_error(error, GW_ERROR, code);
    g_assert_true(g_str_has_prefix(error->message, "the answer of host a: "));
}

static void
check_refused_text(const char *text)
{
    g_test_message("JSON %s", text);
    check_refused(text, strlen(text), 4096, GW_ERROR_PROTOCOL);
}

static void
test_malformed(void)
{
    check_refused("", 0, 100, GW_ERROR_PROTOCOL);
    check_refused(NULL, 0, 100, GW_ERROR_PROTOCOL);
    check_refused("{\"a\":1}", 6, 100, GW_ERROR_PROTOCOL);
    check_refused_text("{\"a\":1} x");
    check_refused_text("{\"a\":1,\"a\":2}");
    check_refused("{\"a\":\"\xff\"}", 9, 100, GW_ERROR_PROTOCOL);
    check_refused_text("{\"a\":\"\\u0000\"}");
    check_refused_text("{\"a\":1e999}");
    check_refused_text("\"\\");
    check_refused_text("]]]]");
}

/* QEMU's unsigned numbers: too large ones become the largest, and nothing else in the text changes,
 * neither digits in strings nor those of a small fraction. */
static void
test_large_integers(void)
{
    g_autoptr(json_t) object = parse(
        "{\"u\":18446744073709551615,\"min\":-9223372036854775807,\"max\":9223372036854775807,"
        "\"over\":9223372036854775808,\"under\":-99999999999999999999,"
        "\"s\":\"\\\"99999999999999999999\",\"f\":0.00012345678901234567,\"l\":[1e2]}");

    g_assert_cmpint(gw_json_int(object, "u", 0), ==, INT64_MAX);
    g_assert_cmpint(gw_json_int(object, "max", 0), ==, INT64_MAX);
    g_assert_cmpint(gw_json_int(object, "over", 0), ==, INT64_MAX);
    g_assert_cmpint(gw_json_int(object, "min", 0), ==, -INT64_MAX);
    g_assert_cmpint(gw_json_int(object, "under", 0), ==, -INT64_MAX);
    g_assert_cmpstr(gw_json_str(object, "s", ""), ==, "\"99999999999999999999");
    g_assert_cmpfloat_with_epsilon(json_real_value(json_object_get(object, "f")), 0.000123456789,
                                   1e-12);
}

static void
test_size_cap(void)
{
    const char text[] = "{\"a\":1}";

    check_refused(text, strlen(text), strlen(text) - 1, GW_ERROR_TOO_LARGE);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) value = gw_json_parse(text, strlen(text), strlen(text), "test", &error);
    g_assert_nonnull(value);
}

static char *
nested(unsigned depth, const char *open, const char *close)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < depth; i++) {
        g_string_append(text, open);
    }
    for (unsigned i = 0; i < depth; i++) {
        g_string_append(text, close);
    }
    return g_string_free(text, FALSE);
}

static void
test_depth_cap(void)
{
    g_autofree char *deepest = nested(GW_JSON_MAX_DEPTH, "[", "]");
    g_autofree char *too_deep = nested(GW_JSON_MAX_DEPTH + 1, "[", "]");
    g_autofree char *hostile = nested(100000, "[", "");
    g_autoptr(json_t) value = parse(deepest);

    g_assert_true(json_is_array(value));
    check_refused(too_deep, strlen(too_deep), SIZE_MAX, GW_ERROR_TOO_LARGE);
    check_refused(hostile, strlen(hostile), SIZE_MAX, GW_ERROR_TOO_LARGE);
}

/* Brackets within strings, also behind escaped quotes, are not depth. */
static void
test_depth_ignores_strings(void)
{
    g_autofree char *brackets = nested(100, "[{", "");
    g_autofree char *text = g_strdup_printf("{\"a\":\"\\\"%s\",\"b\":\"\\\\\"}", brackets);
    g_autoptr(json_t) value = parse(text);

    g_assert_cmpstr(gw_json_str(value, "b", ""), ==, "\\");
}

static void
test_need(void)
{
    g_autoptr(json_t) object = parse("{\"s\":\"text\",\"i\":7,\"n\":null,\"f\":7.0}");
    g_autoptr(GError) error = NULL;
    const char *text = "before";
    int64_t number = -5;

    g_assert_true(gw_json_need_string(object, "s", &text, &error));
    g_assert_cmpstr(text, ==, "text");
    g_assert_true(gw_json_need_int(object, "i", 7, 7, &number, &error));
    g_assert_cmpint(number, ==, 7);

    static const char *const not_ints[] = {"s", "n", "f", "absent"};
    for (size_t i = 0; i < G_N_ELEMENTS(not_ints); i++) {
        g_assert_false(gw_json_need_int(object, not_ints[i], 0, 10, &number, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
        g_assert_nonnull(strstr(error->message, not_ints[i]));
        g_clear_error(&error);
    }
    static const char *const not_strings[] = {"i", "n", "absent"};
    for (size_t i = 0; i < G_N_ELEMENTS(not_strings); i++) {
        g_assert_false(gw_json_need_string(object, not_strings[i], &text, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
        g_clear_error(&error);
    }
    g_assert_cmpint(number, ==, 7);
    g_assert_cmpstr(text, ==, "text");
}

static void
test_range(void)
{
    g_autoptr(json_t) object =
        parse("{\"min\":-9223372036854775808,\"max\":9223372036854775807,\"i\":5}");
    g_autoptr(GError) error = NULL;
    int64_t number = 0;

    g_assert_true(gw_json_need_int(object, "min", INT64_MIN, INT64_MAX, &number, &error));
    g_assert_cmpint(number, ==, INT64_MIN);
    g_assert_true(gw_json_opt_int(object, "max", INT64_MIN, INT64_MAX, &number, &error));
    g_assert_cmpint(number, ==, INT64_MAX);
    g_assert_false(gw_json_opt_int(object, "i", 6, 10, &number, &error));
    g_clear_error(&error);
    g_assert_false(gw_json_opt_int(object, "i", 0, 4, &number, &error));
    g_assert_cmpint(number, ==, INT64_MAX);
}

static void
test_optional(void)
{
    g_autoptr(json_t) object = parse("{\"s\":\"text\",\"i\":7,\"b\":true,\"n\":null}");
    g_autoptr(GError) error = NULL;
    const char *text = "default";
    int64_t number = 42;
    bool flag = false;

    g_assert_true(gw_json_opt_string(object, "absent", &text, &error));
    g_assert_true(gw_json_opt_string(object, "n", &text, &error));
    g_assert_cmpstr(text, ==, "default");
    g_assert_true(gw_json_opt_int(object, "absent", 0, 1, &number, &error));
    g_assert_cmpint(number, ==, 42);
    g_assert_true(gw_json_opt_bool(object, "absent", &flag, &error));
    g_assert_false(flag);
    g_assert_true(gw_json_opt_bool(object, "b", &flag, &error));
    g_assert_true(flag);

    g_assert_false(gw_json_opt_string(object, "i", &text, &error));
    g_clear_error(&error);
    g_assert_false(gw_json_opt_int(object, "b", 0, 1, &number, &error));
    g_clear_error(&error);
    g_assert_false(gw_json_opt_bool(object, "i", &flag, &error));
    g_assert_true(flag);
}

/* What is not an object has no members, and says so without a crash. */
static void
test_not_an_object(void)
{
    g_autoptr(json_t) array = parse("[1]");
    g_autoptr(GError) error = NULL;
    const char *text = NULL;

    g_assert_false(gw_json_need_string(array, "a", &text, &error));
    g_clear_error(&error);
    g_assert_false(gw_json_need_string(NULL, "a", &text, &error));
    g_assert_cmpstr(gw_json_str(array, "a", "none"), ==, "none");
    g_assert_cmpint(gw_json_int(NULL, "a", 3), ==, 3);
}

static void
test_lenient(void)
{
    g_autoptr(json_t) object = parse("{\"s\":\"text\",\"i\":7,\"b\":true}");

    g_assert_cmpstr(gw_json_str(object, "s", "x"), ==, "text");
    g_assert_cmpstr(gw_json_str(object, "i", "x"), ==, "x");
    g_assert_cmpint(gw_json_int(object, "i", 1), ==, 7);
    g_assert_cmpint(gw_json_int(object, "s", 1), ==, 1);
    g_assert_true(gw_json_bool(object, "b", false));
    g_assert_true(gw_json_bool(object, "s", true));
}

static void
test_write(void)
{
    g_autoptr(json_t) object = json_object();

    gw_json_set_str(object, "a", "one");
    gw_json_set_str(object, "gone", "x");
    gw_json_set_str(object, "gone", NULL);
    gw_json_set_str(object, "never", NULL);
    gw_json_set_int(object, "i", INT64_MIN);
    gw_json_set_bool(object, "b", true);
    g_autofree char *text = gw_json_text(object);
    g_assert_cmpstr(text, ==, "{\"a\":\"one\",\"i\":-9223372036854775808,\"b\":true}");

    gw_json_set_str(object, "bytes", "a\xff\x80z");
    g_assert_true(g_utf8_validate(gw_json_str(object, "bytes", "\xff"), -1, NULL));
}

static void
test_errors(void)
{
    g_autoptr(GError) error = g_error_new(GW_ERROR, GW_ERROR_TIMEOUT, "host b: no answer");
    g_autoptr(json_t) object = gw_json_from_error(error);
    g_autoptr(GError) back = gw_json_to_error(object);

    g_assert_cmpstr(gw_json_str(object, "code", ""), ==, "timeout");
    g_assert_error(back, GW_ERROR, GW_ERROR_TIMEOUT);
    g_assert_cmpstr(back->message, ==, "host b: no answer");

    g_autoptr(GError) foreign = g_error_new(G_FILE_ERROR, G_FILE_ERROR_NOENT, "no file");
    g_autoptr(json_t) of_foreign = gw_json_from_error(foreign);
    g_assert_cmpstr(gw_json_str(of_foreign, "code", ""), ==, "failed");

    g_autoptr(json_t) empty = json_object();
    g_autoptr(GError) unknown = gw_json_to_error(empty);
    g_assert_error(unknown, GW_ERROR, GW_ERROR_FAILED);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/malformed", test_malformed);
    g_test_add_func("/json/large-integers", test_large_integers);
    g_test_add_func("/json/size-cap", test_size_cap);
    g_test_add_func("/json/depth-cap", test_depth_cap);
    g_test_add_func("/json/depth-ignores-strings", test_depth_ignores_strings);
    g_test_add_func("/json/need", test_need);
    g_test_add_func("/json/range", test_range);
    g_test_add_func("/json/optional", test_optional);
    g_test_add_func("/json/not-an-object", test_not_an_object);
    g_test_add_func("/json/lenient", test_lenient);
    g_test_add_func("/json/write", test_write);
    g_test_add_func("/json/errors", test_errors);
    return g_test_run();
}
