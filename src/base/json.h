// SPDX-License-Identifier: Apache-2.0
/*
 * JSON at the borders: capped parsing and typed access with errors that name the key.
 *
 * Everything that arrives is size-capped and checked for depth (32) before the parser sees it.
 * Getters leave *out untouched on failure. "need" getters fail when the key is absent, "opt"
 * getters leave the default in place and fail only on a wrong type or range. Strings are borrowed
 * from the object. Any thread, as long as an object stays within one.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(json_t, json_decref)

#define GW_JSON_MAX_DEPTH 32

/*
 * Parses one JSON object or array from @len bytes; @what names the source for the message.
 * Integers beyond 64 bits, signed, become the largest one. Transfer full.
 */
json_t *gw_json_parse(const void *data, size_t len, size_t max_bytes, const char *what,
                      GError **error) GW_MUST_USE;

/* Compact text; transfer full, g_free. */
char *gw_json_text(const json_t *value) GW_MUST_USE;

bool gw_json_need_string(const json_t *object, const char *key, const char **out,
                         GError **error) GW_MUST_USE;
bool gw_json_need_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                      GError **error) GW_MUST_USE;
bool gw_json_opt_string(const json_t *object, const char *key, const char **out,
                        GError **error) GW_MUST_USE;
bool gw_json_opt_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                     GError **error) GW_MUST_USE;
bool gw_json_opt_bool(const json_t *object, const char *key, bool *out, GError **error) GW_MUST_USE;

/* Lenient readers for display and for our own records: the default when absent or mistyped. */
const char *gw_json_str(const json_t *object, const char *key, const char *fallback);
int64_t gw_json_int(const json_t *object, const char *key, int64_t fallback);
bool gw_json_bool(const json_t *object, const char *key, bool fallback);

/* Sets a string member, or removes it when @value is NULL. Text that is not UTF-8 is made so. */
void gw_json_set_str(json_t *object, const char *key, const char *value);
void gw_json_set_int(json_t *object, const char *key, int64_t value);
void gw_json_set_bool(json_t *object, const char *key, bool value);

/* {"code": …, "message": …} and back. */
json_t *gw_json_from_error(const GError *error) GW_MUST_USE;
GError *gw_json_to_error(const json_t *object) GW_MUST_USE;
