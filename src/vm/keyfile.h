// SPDX-License-Identifier: Apache-2.0
/*
 * Key files with line numbers: groups of "key = value" lines, and the mistakes found in them.
 *
 *     # comment
 *     [group]
 *     key = value
 *
 * Blanks around keys and values are dropped; in a value "\s" is a space and "\\" a backslash, and
 * control characters are mistakes. GLib's GKeyFile reads the same files but loses the lines, and
 * takes the last of several equal keys without a word. Pure; any thread.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>

/* All mistakes of one file, told together and in the order of its lines. */
typedef struct GwMistakes GwMistakes;

GwMistakes *gw_mistakes_new(const char *source);
void gw_mistakes_free(GwMistakes *mistakes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwMistakes, gw_mistakes_free)

void gw_mistakes_add(GwMistakes *mistakes, unsigned line, const char *format, ...) GW_PRINTF(3, 4);

/* False with all of them in one GW_ERROR_INVALID, one per line; true if there are none. */
bool gw_mistakes_none(GwMistakes *mistakes, GError **error) GW_MUST_USE;

typedef struct GwKeyEntry {
    unsigned line;
    char *key;
    char *value; /* NULL: unreadable, and noted as a mistake */
} GwKeyEntry;

typedef struct GwKeyGroup {
    unsigned line;
    char *name;
    GPtrArray *entries; /* of GwKeyEntry, no key twice */
} GwKeyGroup;

/*
 * The groups in their order, none twice; what cannot be read or is given twice is noted in
 * @mistakes. Transfer full.
 */
GPtrArray *gw_keyfile_scan(const char *text, size_t len, GwMistakes *mistakes) GW_MUST_USE;

/* NULL if the group has no such key. Borrowed. */
const GwKeyEntry *gw_key_group_find(const GwKeyGroup *group, const char *key);

/* Appends "key = value\n" such that a scan gives the value back. */
void gw_keyfile_put(GString *out, const char *key, const char *value);

/* @value as it may stand in a message: cut, without control characters. Transfer full. */
char *gw_keyfile_shown(const char *value) GW_MUST_USE;
