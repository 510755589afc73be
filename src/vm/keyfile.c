// SPDX-License-Identifier: Apache-2.0
/*
 * The scanner of key files. Owns nothing beyond its results; pure; any thread. The text's size is
 * capped by the caller. Nothing in a text is fatal: each mistake is noted with its line and the
 * scan goes on behind it, and at most MAX_MISTAKES of them are kept.
 */
#include "vm/keyfile.h"

#include <string.h>

#define MAX_MISTAKES 50u
#define SHOWN_CHARS  100

typedef struct Mistake {
    unsigned line;
    unsigned order; /* keeps mistakes of one line in the order in which they were found */
    char *text;
} Mistake;

struct GwMistakes {
    char *source;
    GPtrArray *list; /* of Mistake */
    unsigned left_out;
};

typedef struct Scan {
    GwMistakes *mistakes;
    GPtrArray *groups;
    GwKeyGroup *group; /* the one that lines now belong to; NULL before the first */
    bool skipping;     /* inside a group that is left out */
    unsigned line;
} Scan;

static void
mistake_free(void *data)
{
    Mistake *mistake = data;

    g_free(mistake->text);
    g_free(mistake);
}

GwMistakes *
gw_mistakes_new(const char *source)
{
    GwMistakes *mistakes = g_new0(GwMistakes, 1);

    mistakes->source = g_strdup(source);
    mistakes->list = g_ptr_array_new_with_free_func(mistake_free);
    return mistakes;
}

void
gw_mistakes_free(GwMistakes *mistakes)
{
    if (mistakes) {
        g_ptr_array_unref(mistakes->list);
        g_free(mistakes->source);
        g_free(mistakes);
    }
}

void
gw_mistakes_add(GwMistakes *mistakes, unsigned line, const char *format, ...)
{
    va_list args;

    if (mistakes->list->len == MAX_MISTAKES) {
        mistakes->left_out++;
        return;
    }
    Mistake *mistake = g_new0(Mistake, 1);
    mistake->line = line;
    mistake->order = mistakes->list->len;
    va_start(args, format);
    mistake->text = g_strdup_vprintf(format, args);
    va_end(args);
    g_ptr_array_add(mistakes->list, mistake);
}

static int
compare_mistakes(const void *a, const void *b)
{
    const Mistake *left = *(Mistake *const *)a;
    const Mistake *right = *(Mistake *const *)b;

    if (left->line != right->line) {
        return left->line < right->line ? -1 : 1;
    }
    return left->order < right->order ? -1 : 1;
}

bool
gw_mistakes_none(GwMistakes *mistakes, GError **error)
{
    if (mistakes->list->len == 0) {
        return true;
    }
    g_ptr_array_sort(mistakes->list, compare_mistakes);
    g_autoptr(GString) text = g_string_new(NULL);
    for (unsigned i = 0; i < mistakes->list->len; i++) {
        const Mistake *mistake = g_ptr_array_index(mistakes->list, i);
        g_string_append_printf(text, "%s%s:%u: %s", i ? "\n" : "", mistakes->source, mistake->line,
                               mistake->text);
    }
    if (mistakes->left_out) {
        g_string_append_printf(text, "\n... and %u more mistakes", mistakes->left_out);
    }
    g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID, text->str);
    return false;
}

static void
entry_free(void *data)
{
    GwKeyEntry *entry = data;

    g_free(entry->key);
    g_free(entry->value);
    g_free(entry);
}

static void
group_free(void *data)
{
    GwKeyGroup *group = data;

    g_free(group->name);
    g_ptr_array_unref(group->entries);
    g_free(group);
}

const GwKeyEntry *
gw_key_group_find(const GwKeyGroup *group, const char *key)
{
    for (unsigned i = 0; i < group->entries->len; i++) {
        const GwKeyEntry *entry = g_ptr_array_index(group->entries, i);
        if (strcmp(entry->key, key) == 0) {
            return entry;
        }
    }
    return NULL;
}

char *
gw_keyfile_shown(const char *value)
{
    g_autoptr(GString) out = g_string_new(NULL);
    int chars = 0;

    for (const char *at = value; *at; at = g_utf8_next_char(at)) {
        if (chars++ == SHOWN_CHARS) {
            g_string_append(out, "...");
            break;
        }
        gunichar c = g_utf8_get_char(at);
        g_string_append_unichar(out, g_unichar_iscntrl(c) ? '?' : c);
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

/* The value without its escapes; NULL with a mistake noted. */
static char *
unescape(Scan *scan, const char *key, const char *raw)
{
    g_autoptr(GString) out = g_string_new(NULL);

    for (const char *at = raw; *at; at++) {
        if (g_ascii_iscntrl(*at)) {
            gw_mistakes_add(scan->mistakes, scan->line, "[%s] %s: a control character in the value",
                            scan->group->name, key);
            return NULL;
        }
        if (*at != '\\') {
            g_string_append_c(out, *at);
            continue;
        }
        at++;
        if (*at != 's' && *at != '\\') {
            gw_mistakes_add(scan->mistakes, scan->line,
                            "[%s] %s: a backslash begins \\s (a space) or \\\\ (a backslash)",
                            scan->group->name, key);
            return NULL;
        }
        g_string_append_c(out, *at == 's' ? ' ' : '\\');
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

static void
scan_group(Scan *scan, char *line)
{
    line[strlen(line) - 1] = '\0';
    const char *name = g_strstrip(line + 1);
    g_autofree char *shown = gw_keyfile_shown(name);

    scan->skipping = true;
    for (unsigned i = 0; i < scan->groups->len; i++) {
        const GwKeyGroup *other = g_ptr_array_index(scan->groups, i);
        if (strcmp(other->name, shown) == 0) {
            gw_mistakes_add(scan->mistakes, scan->line, "[%s]: this group was given in line %u",
                            shown, other->line);
            return;
        }
    }
    scan->skipping = false;
    scan->group = g_new0(GwKeyGroup, 1);
    scan->group->line = scan->line;
    /* Kept as shown: a name that differs from this is refused anyway. */
    scan->group->name = g_steal_pointer(&shown);
    scan->group->entries = g_ptr_array_new_with_free_func(entry_free);
    g_ptr_array_add(scan->groups, scan->group);
}

static void
scan_entry(Scan *scan, char *line, char *equals)
{
    *equals = '\0';
    g_autofree char *key = gw_keyfile_shown(g_strstrip(line));
    const GwKeyEntry *other = gw_key_group_find(scan->group, key);

    if (other) {
        gw_mistakes_add(scan->mistakes, scan->line, "[%s] %s: this key was given in line %u",
                        scan->group->name, key, other->line);
        return;
    }
    GwKeyEntry *entry = g_new0(GwKeyEntry, 1);
    entry->line = scan->line;
    entry->value = unescape(scan, key, g_strstrip(equals + 1));
    entry->key = g_steal_pointer(&key);
    g_ptr_array_add(scan->group->entries, entry);
}

static void
scan_line(Scan *scan, char *line)
{
    g_strstrip(line);
    size_t len = strlen(line);
    char *equals = strchr(line, '=');

    if (len == 0 || line[0] == '#') {
        return;
    }
    if (line[0] == '[' && line[len - 1] == ']') {
        scan_group(scan, line);
    } else if (!equals || equals == line) {
        g_autofree char *shown = gw_keyfile_shown(line);
        gw_mistakes_add(scan->mistakes, scan->line, "'%s' is neither [group] nor key = value",
                        shown);
    } else if (!scan->group && !scan->skipping) {
        gw_mistakes_add(scan->mistakes, scan->line, "a key stands before the first [group]");
    } else if (!scan->skipping) {
        scan_entry(scan, line, equals);
    }
}

GPtrArray *
gw_keyfile_scan(const char *text, size_t len, GwMistakes *mistakes)
{
    g_autoptr(GPtrArray) groups = g_ptr_array_new_with_free_func(group_free);
    Scan scan = {.mistakes = mistakes, .groups = groups};
    size_t pos = 0;

    while (pos < len) {
        const char *start = text + pos;
        const char *newline = memchr(start, '\n', len - pos);
        size_t line_len = newline ? (size_t)(newline - start) : len - pos;
        scan.line++;
        if (g_utf8_validate_len(start, line_len, NULL)) {
            g_autofree char *line = g_strndup(start, line_len);
            scan_line(&scan, line);
        } else {
            gw_mistakes_add(mistakes, scan.line, "this line is not UTF-8 text");
        }
        pos += line_len + 1;
    }
    return g_steal_pointer(&groups);
}

void
gw_keyfile_put(GString *out, const char *key, const char *value)
{
    size_t len = strlen(value);

    g_string_append_printf(out, "%s = ", key);
    for (size_t i = 0; i < len; i++) {
        if (value[i] == '\\') {
            g_string_append(out, "\\\\");
        } else if (value[i] == ' ' && (i == 0 || i == len - 1)) {
            g_string_append(out, "\\s");
        } else {
            g_string_append_c(out, value[i]);
        }
    }
    g_string_append_c(out, '\n');
}
