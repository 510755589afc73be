// SPDX-License-Identifier: Apache-2.0
/*
 * Capped JSON parsing and typed access (jansson). Owns nothing; any thread. Fails with
 * GW_ERROR_TOO_LARGE beyond a limit and GW_ERROR_PROTOCOL for anything malformed.
 */
#include "base/json.h"

#include <string.h>

/* The parser recurses: depth is checked before it sees the text. */
static bool
depth_is_bounded(const char *text, size_t len)
{
    unsigned depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > GW_JSON_MAX_DEPTH) {
                return false;
            }
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return true;
}

/* Whether these digits are those before or after the point of a number with a fraction or exponent:
 * a small one has more digits than an integer may. */
static bool
is_part_of_real(const char *text, size_t len, size_t start, size_t digits)
{
    const char before = start > 0 ? text[start - 1] : ' ';
    const char after = start + digits < len ? text[start + digits] : ' ';

    return before == '.' || after == '.' || after == 'e' || after == 'E';
}

/*
 * QEMU writes unsigned 64-bit numbers where jansson takes signed ones. A copy in which numbers
 * that are too long are the largest one: nobody here needs the exact value of any of them.
 */
static char *
clamp_integers(const char *text, size_t len)
{
    static const char largest[] = "9223372036854775807";
    const size_t max_digits = sizeof largest - 1;
    char *copy = g_memdup2(text, len);
    bool in_string = false;

    for (size_t i = 0; copy && i < len; i++) {
        size_t digits = 0;
        if (in_string && copy[i] == '\\') {
            i++;
        } else if (copy[i] == '"') {
            in_string = !in_string;
        } else if (!in_string) {
            while (i + digits < len && g_ascii_isdigit(copy[i + digits])) {
                digits++;
            }
        }
        bool too_large =
            digits > max_digits || (digits == max_digits && memcmp(copy + i, largest, digits) > 0);
        if (too_large && !is_part_of_real(copy, len, i, digits)) {
            memcpy(copy + i, largest, max_digits);
            memset(copy + i + max_digits, ' ', digits - max_digits);
        }
        i += digits > 0 ? digits - 1 : 0;
    }
    return copy;
}

json_t *
gw_json_parse(const void *data, size_t len, size_t max_bytes, const char *what, GError **error)
{
    json_error_t problem;

    if (len > max_bytes) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "%s: %zu bytes of JSON, at most %zu", what,
                    len, max_bytes);
        return NULL;
    }
    if (!depth_is_bounded(data, len)) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "%s: JSON nested deeper than %d", what,
                    GW_JSON_MAX_DEPTH);
        return NULL;
    }
    json_t *value = json_loadb(data, len, JSON_REJECT_DUPLICATES, &problem);
    if (!value && json_error_code(&problem) == json_error_numeric_overflow) {
        g_autofree char *clamped = clamp_integers(data, len);
        value = json_loadb(clamped, len, JSON_REJECT_DUPLICATES, &problem);
    }
    if (!value) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s: bad JSON at byte %d: %s", what,
                    problem.position, problem.text);
    }
    return value;
}

char *
gw_json_text(const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    char *copy = g_strdup(text ? text : "null");

    free(text);
    return copy;
}

/* A null counts as absent, here and in the getters. */
static bool
is_there(const json_t *object, const char *key, GError **error)
{
    const json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "'%s' is missing", key);
        return false;
    }
    return true;
}

bool
gw_json_opt_string(const json_t *object, const char *key, const char **out, GError **error)
{
    const json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value)) {
        return true;
    }
    if (!json_is_string(value)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "'%s' is not a string", key);
        return false;
    }
    *out = json_string_value(value);
    return true;
}

bool
gw_json_need_string(const json_t *object, const char *key, const char **out, GError **error)
{
    return is_there(object, key, error) && gw_json_opt_string(object, key, out, error);
}

bool
gw_json_opt_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                GError **error)
{
    const json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value)) {
        return true;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < min || number > max) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "'%s' must be a whole number from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT,
                    key, min, max);
        return false;
    }
    *out = number;
    return true;
}

bool
gw_json_need_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                 GError **error)
{
    return is_there(object, key, error) && gw_json_opt_int(object, key, min, max, out, error);
}

bool
gw_json_opt_bool(const json_t *object, const char *key, bool *out, GError **error)
{
    const json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value)) {
        return true;
    }
    if (!json_is_boolean(value)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "'%s' must be true or false", key);
        return false;
    }
    *out = json_is_true(value);
    return true;
}

const char *
gw_json_str(const json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : fallback;
}

int64_t
gw_json_int(const json_t *object, const char *key, int64_t fallback)
{
    const json_t *value = json_object_get(object, key);

    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

bool
gw_json_bool(const json_t *object, const char *key, bool fallback)
{
    const json_t *value = json_object_get(object, key);

    return json_is_boolean(value) ? json_is_true(value) : fallback;
}

void
gw_json_set_str(json_t *object, const char *key, const char *value)
{
    if (!value) {
        json_object_del(object, key);
        return;
    }
    g_autofree char *valid = g_utf8_make_valid(value, -1);
    json_object_set_new(object, key, json_string(valid));
}

void
gw_json_set_int(json_t *object, const char *key, int64_t value)
{
    json_object_set_new(object, key, json_integer(value));
}

void
gw_json_set_bool(json_t *object, const char *key, bool value)
{
    json_object_set_new(object, key, json_boolean(value));
}

json_t *
gw_json_from_error(const GError *error)
{
    json_t *object = json_object();
    const char *name = error->domain == GW_ERROR ? gw_error_code_name(error->code) : NULL;

    gw_json_set_str(object, "code", name ? name : gw_error_code_name(GW_ERROR_FAILED));
    gw_json_set_str(object, "message", error->message);
    return object;
}

GError *
gw_json_to_error(const json_t *object)
{
    GwErrorCode code = gw_error_code_from_name(gw_json_str(object, "code", NULL));

    return g_error_new_literal(GW_ERROR, (int)code,
                               gw_json_str(object, "message", "no reason was given"));
}
