// SPDX-License-Identifier: Apache-2.0
/*
 * Reports of moves and plans as text. Owns nothing; any thread; members that are absent are left
 * out.
 */
#include "cli/report.h"
#include "base/units.h"
#include "cli/text.h"

#include <string.h>

#define LABEL_COLUMNS 16

static void
append_row(GString *out, const char *label, const char *value)
{
    g_autofree char *safe = gw_text_escape(value, false);

    g_string_append_printf(out, "  %-*s%s\n", LABEL_COLUMNS, label, safe);
}

static void
append_text(GString *out, const char *label, const json_t *object, const char *key)
{
    const char *value = gw_json_str(object, key, NULL);

    if (value) {
        append_row(out, label, value);
    }
}

static void
append_ms(GString *out, const char *label, const json_t *object, const char *key)
{
    if (gw_json_int(object, key, -1) >= 0) {
        g_autofree char *value = gw_text_ms(object, key);
        append_row(out, label, value);
    }
}

static void
append_number(GString *out, const char *label, const json_t *object, const char *key)
{
    if (gw_json_int(object, key, -1) >= 0) {
        g_autofree char *value = g_strdup_printf("%" G_GINT64_FORMAT, gw_json_int(object, key, 0));
        append_row(out, label, value);
    }
}

/* Nothing is not worth a line. */
static void
append_count(GString *out, const char *label, const json_t *object, const char *key)
{
    if (gw_json_int(object, key, 0) > 0) {
        append_number(out, label, object, key);
    }
}

static void
append_time(GString *out, const char *label, const json_t *object, const char *key)
{
    if (gw_json_int(object, key, -1) >= 0) {
        g_autofree char *value = gw_format_time(gw_json_int(object, key, 0));
        append_row(out, label, value);
    }
}

/* Bytes on the wire by cause, and what they stand for. */
static void
append_bytes(GString *out, const json_t *move)
{
    static const struct {
        const char *key;
        const char *label;
    } causes[] = {
        {"page", "  pages"},        {"zero", "  zero pages"}, {"same", "  same pages"},
        {"equal", "  equal pages"}, {"delta", "  changes"},   {"reference", "  known"},
        {"opaque", "  devices"},    {"control", "  control"}, {"overhead", "  framing"},
        {"resent", "  sent again"},
    };
    const json_t *bytes = json_object_get(move, "bytes");

    if (!json_is_object(bytes)) {
        return;
    }
    g_autofree char *wire = gw_text_size(bytes, "wire");
    g_autofree char *stream = gw_text_size(bytes, "stream");
    g_autofree char *total = gw_json_int(bytes, "stream", -1) < 0
                                 ? g_strdup(wire)
                                 : g_strdup_printf("%s for %s of QEMU's stream", wire, stream);
    append_row(out, "sent", total);
    for (size_t i = 0; i < G_N_ELEMENTS(causes); i++) {
        if (gw_json_int(bytes, causes[i].key, 0) > 0) {
            g_autofree char *value = gw_text_size(bytes, causes[i].key);
            append_row(out, causes[i].label, value);
        }
    }
}

static void
append_size(GString *out, const char *label, const json_t *object, const char *key)
{
    if (gw_json_int(object, key, 0) > 0) {
        g_autofree char *value = gw_text_size(object, key);
        append_row(out, label, value);
    }
}

/* µs, for people. */
static void
append_us(GString *out, const char *label, const json_t *object, const char *key)
{
    if (gw_json_int(object, key, 0) > 0) {
        g_autofree char *value = gw_format_duration(gw_json_int(object, key, 0));
        append_row(out, label, value);
    }
}

static void
append_real(GString *out, const char *label, const json_t *object, const char *key)
{
    if (json_is_real(json_object_get(object, key))) {
        g_autofree char *value =
            g_strdup_printf("%.2f", json_real_value(json_object_get(object, key)));
        append_row(out, label, value);
    }
}

typedef void (*AppendFn)(GString *out, const char *label, const json_t *object, const char *key);

typedef struct Row {
    AppendFn append;
    const char *label;
    const char *key;
} Row;

static void
append_rows(GString *out, const json_t *object, const Row *rows)
{
    for (; rows->append; rows++) {
        rows->append(out, rows->label, object, rows->key);
    }
}

/* What was counted at one end. */
static const Row end_rows[] = {
    {append_us, "processor", "cpu_us"},
    {append_us, "QEMU and guest", "qemu_cpu_us"},
    {append_size, "memory", "memory_bytes"},
    {append_text, "digest", "digest"},
    {0},
};

static void
append_verify(GString *out, const json_t *move)
{
    const json_t *verify = json_object_get(move, "verify");

    if (gw_json_int(verify, "pages", -1) >= 0) {
        g_autofree char *time = gw_text_ms(verify, "ms");
        g_autofree char *value = g_strdup_printf(
            "%" G_GINT64_FORMAT " pages in %s, %" G_GINT64_FORMAT " differ",
            gw_json_int(verify, "pages", 0), time, gw_json_int(verify, "mismatches", 0));
        append_row(out, "compared", value);
    }
}

static void
append_figures(GString *out, const json_t *move)
{
    static const Row times[] = {
        {append_ms, "total time", "total_ms"},
        {append_ms, "downtime", "downtime_ms"},
        {append_ms, "  by QEMU", "downtime_qemu_ms"},
        {append_number, "rounds", "rounds"},
        {0},
    };
    static const Row rows[] = {
        {append_number, "pages", "pages"},
        {append_count, "  same", "same_pages"},
        {append_count, "  equal", "equal_pages"},
        {append_count, "  changed", "delta_pages"},
        {append_count, "  known there", "reference_pages"},
        {append_count, "  ... not", "reference_misses"},
        {append_number, "zero pages", "zero_pages"},
        {append_number, "connections", "connections"},
        {append_count, "  replaced", "reconnects"},
        {append_us, "round trip", "rtt_us"},
        {append_size, "highest rate/s", "highest_rate_bytes_s"},
        {append_real, "  used of it", "link_use"},
        {append_real, "core-s per GiB", "core_s_per_gib"},
        {append_real, "  at target", "target_core_s_per_gib"},
        {0},
    };
    const json_t *at_target = json_object_get(move, "at_target");

    append_rows(out, move, times);
    append_bytes(out, move);
    append_rows(out, move, rows);
    append_rows(out, move, end_rows);
    if (json_is_object(at_target)) {
        g_string_append(out, "at the target\n");
        append_ms(out, "guest start", at_target, "start_ms");
        append_rows(out, at_target, end_rows);
    }
    append_verify(out, move);
}

char *
gw_report_move(const json_t *move)
{
    g_autofree char *vm = gw_text_escape(gw_json_str(move, "vm", "?"), false);
    g_autofree char *source = gw_text_escape(gw_json_str(move, "source", "?"), false);
    g_autofree char *target = gw_text_escape(gw_json_str(move, "target", "?"), false);
    bool completed = strcmp(gw_json_str(move, "outcome", ""), "completed") == 0;
    GString *out = g_string_new(NULL);

    if (completed) {
        g_string_append_printf(out, "%s runs on %s now (it was on %s)\n", vm, target, source);
    } else {
        g_string_append_printf(out, "%s was not moved from %s to %s\n", vm, source, target);
    }
    append_figures(out, move);
    return g_string_free(out, FALSE);
}

static void
append_history(GString *out, const json_t *move)
{
    const json_t *history = json_object_get(move, "history");
    const json_t *step;
    size_t i;

    if (json_array_size(history) > 0) {
        g_string_append(out, "history\n");
    }
    json_array_foreach(history, i, step)
    {
        g_autofree char *time = gw_format_time(gw_json_int(step, "at", 0));
        g_autofree char *state = gw_text_escape(gw_json_str(step, "state", "?"), false);
        g_autofree char *reason = gw_text_escape(gw_json_str(step, "reason", ""), false);
        g_string_append_printf(out, "  %s  %-*s%s\n", time, LABEL_COLUMNS, state, reason);
    }
}

char *
gw_report_details(const json_t *move)
{
    static const struct {
        const char *label;
        const char *key;
    } texts[] = {
        {"VM", "vm"},
        {"source", "source"},
        {"target", "target"},
        {"role here", "role"},
        {"transport", "transport"},
        {"  because", "transport_reason"},
        {"encodings", "encodings"},
        {"state", "state"},
        {"outcome", "outcome"},
        {"reason", "reason"},
        {"not settled", "unsettled"},
        {"accelerator", "accel"},
        {"source QEMU", "source_qemu"},
        {"target QEMU", "target_qemu"},
    };
    const json_t *why = json_object_get(move, "error");
    g_autofree char *id = gw_text_escape(gw_json_str(move, "id", "?"), false);
    GString *out = g_string_new(NULL);

    g_string_append_printf(out, "%s\n", id);
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        append_text(out, texts[i].label, move, texts[i].key);
    }
    if (json_is_object(why)) {
        append_text(out, "error", why, "message");
    }
    append_time(out, "started", move, "started");
    append_time(out, "ended", move, "ended");
    append_number(out, "percent", move, "percent");
    append_figures(out, move);
    append_history(out, move);
    return g_string_free(out, FALSE);
}

char *
gw_report_plan(const json_t *plan)
{
    g_autofree char *vm = gw_text_escape(gw_json_str(plan, "vm", "?"), false);
    g_autofree char *source = gw_text_escape(gw_json_str(plan, "source", "?"), false);
    g_autofree char *target = gw_text_escape(gw_json_str(plan, "target", "?"), false);
    GString *out = g_string_new(NULL);
    const json_t *check;
    size_t i;

    json_array_foreach(json_object_get(plan, "checks"), i, check)
    {
        g_autofree char *status = gw_text_escape(gw_json_str(check, "status", "?"), false);
        g_autofree char *id = gw_text_escape(gw_json_str(check, "id", "?"), false);
        g_autofree char *message = gw_text_escape(gw_json_str(check, "message", ""), false);
        const char *remedy = gw_json_str(check, "remedy", NULL);
        g_string_append_printf(out, "%-8s %-*s  %s\n", status, LABEL_COLUMNS, id, message);
        if (remedy && remedy[0]) {
            g_autofree char *safe = gw_text_escape(remedy, false);
            g_string_append_printf(out, "%*s-> %s\n", 9 + LABEL_COLUMNS + 2, "", safe);
        }
    }
    if (json_object_get(plan, "transport")) {
        g_autofree char *transport = gw_text_escape(gw_json_str(plan, "transport", "?"), false);
        g_autofree char *reason = gw_text_escape(gw_json_str(plan, "transport_reason", ""), false);
        g_string_append_printf(out, "transport %s: %s\n", transport, reason);
    }
    g_string_append_printf(out, "%s can%s be moved from %s to %s\n", vm,
                           gw_json_bool(plan, "ok", false) ? "" : "not", source, target);
    return g_string_free(out, FALSE);
}

bool
gw_report_outcome(const json_t *move, GError **error)
{
    static const struct {
        const char *outcome;
        GwErrorCode code;
        const char *what;
    } all[] = {
        {"rolled-back", GW_ERROR_ROLLED_BACK, "it runs on the source as before"},
        {"cancelled", GW_ERROR_CANCELLED, "cancelled; it runs on the source as before"},
        {"refused", GW_ERROR_REFUSED, "the target refused it"},
        {"guest-lost", GW_ERROR_GUEST_LOST,
         "the guest was lost: see `godwit vm show` on both hosts"},
    };
    const char *outcome = gw_json_str(move, "outcome", "");
    g_autoptr(GError) why = NULL;
    GwErrorCode code = GW_ERROR_FAILED;
    const char *what = "it ended in an unknown way";

    if (strcmp(outcome, "completed") == 0) {
        return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        if (strcmp(outcome, all[i].outcome) == 0) {
            code = all[i].code;
            what = all[i].what;
        }
    }
    if (json_is_object(json_object_get(move, "error"))) {
        why = gw_json_to_error(json_object_get(move, "error"));
        /* Nothing was touched: more telling than "rolled back". */
        code = why->code == GW_ERROR_CHECKS && code != GW_ERROR_GUEST_LOST ? GW_ERROR_CHECKS : code;
    }
    g_set_error(error, GW_ERROR, (int)code, "%s was not moved to %s: %s%s%s",
                gw_json_str(move, "vm", "?"), gw_json_str(move, "target", "?"), what,
                why ? "\nreason: " : "", why ? why->message : "");
    return false;
}
