// SPDX-License-Identifier: Apache-2.0
/*
 * Setting a move's progress as text. Owns nothing; any thread; cannot fail: members that are
 * absent are left out.
 */
#include "cli/progress.h"
#include "base/units.h"
#include "cli/text.h"

#define BAR_COLUMNS 20u

static unsigned
percent_of(GwProgressView *view, const json_t *move)
{
    int64_t told = CLAMP(gw_json_int(move, "percent", 0), 0, 100);

    view->percent = MAX(view->percent, (unsigned)told);
    return view->percent;
}

/* Before its first round and after its end a move's rates mean nothing. */
static bool
is_sending(const json_t *move)
{
    return gw_json_int(move, "round", 0) > 0 && !gw_json_bool(move, "final", false);
}

/* "precopy, round 2" */
static char *
stage_text(const json_t *move)
{
    const char *state = gw_json_str(move, "state", "?");
    g_autofree char *stage = gw_text_escape(gw_json_str(move, "stage", state), false);
    int64_t round = gw_json_int(move, "round", 0);

    return is_sending(move) ? g_strdup_printf("%s, round %d", stage, (int)MIN(round, 9999))
                            : g_steal_pointer(&stage);
}

/* Rate, dirty rate, expected downtime, time left: those that are known. Transfer full. */
static GPtrArray *
figures(const json_t *move)
{
    static const struct {
        const char *key;
        const char *format;
        bool is_size;
    } all[] = {
        {"rate_bytes_s", "%s/s", true},
        {"dirty_rate_bytes_s", "dirty %s/s", true},
        {"expected_downtime_ms", "downtime %s", false},
        {"left_ms", "%s left", false},
    };
    GPtrArray *list = g_ptr_array_new_with_free_func(g_free);
    bool sending = is_sending(move);

    for (size_t i = 0; sending && i < G_N_ELEMENTS(all); i++) {
        if (gw_json_int(move, all[i].key, -1) >= 0) {
            g_autofree char *value =
                all[i].is_size ? gw_text_size(move, all[i].key) : gw_text_ms(move, all[i].key);
            GString *text = g_string_new(all[i].format);
            g_string_replace(text, "%s", value, 1);
            g_ptr_array_add(list, g_string_free(text, FALSE));
        }
    }
    return list;
}

/* Appends @part with two spaces before it if the line stays within @width. */
static void
append_if_fits(GString *line, const char *part, unsigned width)
{
    if (gw_text_width(line->str) + 2 + gw_text_width(part) <= width) {
        g_string_append_printf(line, "  %s", part);
    }
}

static char *
bar_line(unsigned percent, const GPtrArray *parts, unsigned width)
{
    g_autoptr(GString) line = g_string_new(NULL);
    unsigned done = percent * BAR_COLUMNS / 100;

    if (width >= BAR_COLUMNS + 2 + 2 + 5) {
        g_string_append_c(line, '[');
        for (unsigned i = 0; i < BAR_COLUMNS; i++) {
            g_string_append_c(line, i < done ? '#' : '.');
        }
        g_string_append(line, "]  ");
    }
    g_string_append_printf(line, "%u %%", percent);
    for (guint i = 0; i < parts->len; i++) {
        append_if_fits(line, parts->pdata[i], width);
    }
    return gw_text_fit(line->str, width);
}

char *
gw_progress_lines(GwProgressView *view, const json_t *move, unsigned width)
{
    g_autofree char *vm = gw_text_escape(gw_json_str(move, "vm", "?"), false);
    g_autofree char *source = gw_text_escape(gw_json_str(move, "source", "?"), false);
    g_autofree char *target = gw_text_escape(gw_json_str(move, "target", "?"), false);
    g_autofree char *stage = stage_text(move);
    g_autofree char *head = g_strdup_printf("%s: %s -> %s  %s", vm, source, target, stage);
    g_autofree char *first = gw_text_fit(head, width);
    g_autoptr(GPtrArray) parts = figures(move);
    g_autofree char *second = bar_line(percent_of(view, move), parts, width);

    return g_strdup_printf("%s\n%s", first, second);
}

char *
gw_progress_plain(GwProgressView *view, const json_t *move)
{
    g_autofree char *vm = gw_text_escape(gw_json_str(move, "vm", "?"), false);
    g_autofree char *stage = stage_text(move);
    g_autoptr(GPtrArray) parts = figures(move);
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_append_printf(line, "%s: %s, %u %%", vm, stage, percent_of(view, move));
    for (guint i = 0; i < parts->len; i++) {
        g_string_append_printf(line, ", %s", (const char *)parts->pdata[i]);
    }
    return g_strdup(line->str);
}
