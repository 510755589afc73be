// SPDX-License-Identifier: Apache-2.0
/*
 * Escaping, widths and tables. A table owns its cells. Any thread; cannot fail.
 */
#include "cli/text.h"
#include "base/units.h"

#include <stdarg.h>
#include <string.h>

struct GwTable {
    guint n_columns;
    GPtrArray *cells; /* row by row, the headings first */
};

/* What a terminal obeys instead of showing it, or what makes text read otherwise than it is. */
static bool
is_harmful(gunichar c)
{
    bool control = c < 0x20 || (c >= 0x7f && c < 0xa0);
    bool direction = (c >= 0x200e && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
                     (c >= 0x2066 && c <= 0x2069);

    return control || direction;
}

char *
gw_text_escape(const char *text, bool lines)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);

    for (const char *at = valid; *at; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);
        if ((lines && (c == '\n' || c == '\t')) || !is_harmful(c)) {
            g_string_append_unichar(out, c);
        } else if (c < 0x100) {
            g_string_append_printf(out, "\\x%02x", c);
        } else {
            g_string_append_printf(out, "\\u%04x", c);
        }
    }
    return g_string_free(out, FALSE);
}

static unsigned
char_width(gunichar c)
{
    return g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
}

unsigned
gw_text_width(const char *text)
{
    unsigned width = 0;

    for (const char *at = text; *at; at = g_utf8_next_char(at)) {
        width += char_width(g_utf8_get_char(at));
    }
    return width;
}

char *
gw_text_fit(const char *text, unsigned width)
{
    unsigned used = 0;

    if (gw_text_width(text) <= width) {
        return g_strdup(text);
    }
    if (width == 0) {
        return g_strdup("");
    }
    const char *at = text;
    while (used + char_width(g_utf8_get_char(at)) <= width - 1) {
        used += char_width(g_utf8_get_char(at));
        at = g_utf8_next_char(at);
    }
    return g_strdup_printf("%.*s~", (int)(at - text), text);
}

char *
gw_text_size(const json_t *object, const char *key)
{
    int64_t bytes = gw_json_int(object, key, -1);

    return bytes < 0 ? g_strdup("-") : gw_format_size((uint64_t)bytes);
}

char *
gw_text_ms(const json_t *object, const char *key)
{
    int64_t ms = gw_json_int(object, key, -1);

    return ms < 0 || ms > G_MAXINT64 / 1000 ? g_strdup("-") : gw_format_duration(ms * 1000);
}

GwTable *
gw_table_new(const char *const *headings)
{
    GwTable *table = g_new0(GwTable, 1);

    table->cells = g_ptr_array_new_with_free_func(g_free);
    for (; headings[table->n_columns]; table->n_columns++) {
        g_ptr_array_add(table->cells, g_strdup(headings[table->n_columns]));
    }
    return table;
}

void
gw_table_free(GwTable *table)
{
    if (table) {
        g_ptr_array_unref(table->cells);
        g_free(table);
    }
}

void
gw_table_add(GwTable *table, ...)
{
    va_list args;

    va_start(args, table);
    for (guint i = 0; i < table->n_columns; i++) {
        const char *cell = va_arg(args, const char *);
        g_ptr_array_add(table->cells, gw_text_escape(cell ? cell : "-", false));
    }
    va_end(args);
}

static unsigned
column_width(const GwTable *table, guint column)
{
    unsigned width = 0;

    for (guint i = column; i < table->cells->len; i += table->n_columns) {
        width = MAX(width, gw_text_width(table->cells->pdata[i]));
    }
    return width;
}

char *
gw_table_text(const GwTable *table)
{
    GString *out = g_string_new(NULL);

    for (guint i = 0; i < table->cells->len; i++) {
        const char *cell = table->cells->pdata[i];
        guint column = i % table->n_columns;
        g_string_append(out, cell);
        if (column + 1 == table->n_columns) {
            g_string_append_c(out, '\n');
            continue;
        }
        for (unsigned used = gw_text_width(cell); used < column_width(table, column) + 2; used++) {
            g_string_append_c(out, ' ');
        }
    }
    return g_string_free(out, FALSE);
}
