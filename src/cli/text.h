// SPDX-License-Identifier: Apache-2.0
/*
 * Text for a terminal: made harmless, measured, set in tables. Pure; any thread.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

/*
 * Guests, peers and QEMU choose parts of what is printed: control characters, invalid UTF-8 and
 * what changes the direction of writing become visible escapes. With @lines, newlines and tabs
 * stay. Transfer full.
 */
char *gw_text_escape(const char *text, bool lines) GW_MUST_USE;

/* Columns that @text (valid UTF-8) takes. */
unsigned gw_text_width(const char *text);

/* Cuts @text so that it fits @width columns, with "~" at the end of what was cut. Transfer full. */
char *gw_text_fit(const char *text, unsigned width) GW_MUST_USE;

/* "1.5 GiB" of a member in bytes, "-" if there is none. Transfer full. */
char *gw_text_size(const json_t *object, const char *key) GW_MUST_USE;
/* "85 ms" of a member in milliseconds; "-" if there is none. Transfer full. */
char *gw_text_ms(const json_t *object, const char *key) GW_MUST_USE;

typedef struct GwTable GwTable;

/* @headings: NULL-terminated, borrowed. */
GwTable *gw_table_new(const char *const *headings) GW_MUST_USE;
void gw_table_free(GwTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwTable, gw_table_free)

/* As many strings as there are headings; NULL is "-". They are escaped here. */
void gw_table_add(GwTable *table, ...);

/* Left-aligned columns, two spaces apart, no space at a line's end. Transfer full. */
char *gw_table_text(const GwTable *table) GW_MUST_USE;
