// SPDX-License-Identifier: Apache-2.0
/*
 * The figures of a move, the same for both roles: what the lane counted, at this end and, told by
 * the target with its word that the guest runs, at the other one; and what follows from them.
 *
 * A new figure is a row of the table. Owns nothing; main context; cannot fail. What the other host
 * tells is taken number by number by the table's names.
 */
#include "migrate/internal.h"

#include <string.h>

#define US_PER_SECOND 1e6
#define GIB           (1024.0 * 1024 * 1024)

typedef struct Figure {
    const char *key;
    size_t offset; /* in GwLaneStats, of a uint64_t */
    bool in_bytes; /* a member of "bytes" */
    bool highest;  /* the highest ever seen counts, not the last */
    bool adds;     /* from session to session */
} Figure;

#define LANE(name)  .offset = offsetof(GwLaneStats, name)
#define COUNT(name) LANE(name), .adds = true

static const Figure figures[] = {
    {"wire", COUNT(wire_bytes), .in_bytes = true},
    {"page", COUNT(page_bytes), .in_bytes = true},
    {"zero", COUNT(zero_bytes), .in_bytes = true},
    {"same", COUNT(same_bytes), .in_bytes = true},
    {"equal", COUNT(equal_bytes), .in_bytes = true},
    {"delta", COUNT(delta_bytes), .in_bytes = true},
    {"reference", COUNT(reference_bytes), .in_bytes = true},
    {"opaque", COUNT(opaque_bytes), .in_bytes = true},
    {"control", COUNT(control_bytes), .in_bytes = true},
    {"overhead", COUNT(overhead_bytes), .in_bytes = true},
    {"resent", COUNT(resent_bytes), .in_bytes = true},
    {"stream", COUNT(stream_bytes), .in_bytes = true},
    {"pages", COUNT(pages)},
    {"zero_pages", COUNT(zero_pages)},
    {"same_pages", COUNT(same_pages)},
    {"equal_pages", COUNT(equal_pages)},
    {"delta_pages", COUNT(delta_pages)},
    {"reference_pages", COUNT(reference_pages)},
    {"placed_pages", COUNT(placed_pages)},
    {"reference_misses", COUNT(reference_misses)},
    {"reconnects", COUNT(reconnects)},
    {"rate_bytes_s", LANE(rate_bytes_s)},
    {"highest_rate_bytes_s", LANE(rate_bytes_s), .highest = true},
    {"rtt_us", LANE(rtt_us)},
    {"in_flight_bytes", LANE(in_flight_bytes)},
    {"cpu_us", COUNT(cpu_us)},
    {"memory_bytes", LANE(memory_bytes), .highest = true},
};

/* The target's that the lane does not count. */
static const char *const more_of_target[] = {"connections",   "start_ms",        "qemu_cpu_us",
                                             "page_requests", "page_request_us", NULL};

static void
set_figure(json_t *record, const Figure *figure, int64_t value)
{
    json_t *place = figure->in_bytes ? json_object_get(record, "bytes") : record;

    if (figure->highest) {
        value = MAX(value, gw_json_int(place, figure->key, 0));
    }
    gw_json_set_int(place, figure->key, value);
}

static uint64_t
get_count(const GwLaneStats *stats, const Figure *figure)
{
    uint64_t value;

    memcpy(&value, (const char *)stats + figure->offset, sizeof(value));
    return value;
}

void
gw_report_add(GwLaneStats *sum, const GwLaneStats *session)
{
    GwLaneStats all = *session;

    for (size_t i = 0; i < G_N_ELEMENTS(figures); i++) {
        uint64_t value = get_count(sum, &figures[i]) + get_count(session, &figures[i]);
        if (figures[i].adds) {
            memcpy((char *)&all + figures[i].offset, &value, sizeof(value));
        }
    }
    all.rtt_us = session->rtt_us > 0 ? session->rtt_us : sum->rtt_us;
    all.requests = sum->requests + session->requests;
    all.request_us = session->requests > 0 ? session->request_us : sum->request_us;
    *sum = all;
}

GwLaneStats
gw_report_sessions(const GwLaneStats *ended, GwLane *lane)
{
    GwLaneStats sum = *ended, session;

    if (lane) {
        gw_lane_stats(lane, &session);
        gw_report_add(&sum, &session);
    }
    return sum;
}

void
gw_report_lane(json_t *record, const GwLaneStats *stats)
{
    int64_t connections = MAX(gw_json_int(record, "connections", 0), stats->links);

    if (stats->wire_bytes == 0) {
        return;
    }
    if (!json_object_get(record, "bytes")) {
        json_object_set_new(record, "bytes", json_object());
    }
    for (size_t i = 0; i < G_N_ELEMENTS(figures); i++) {
        uint64_t value = get_count(stats, &figures[i]);
        set_figure(record, &figures[i], (int64_t)MIN(value, INT64_MAX));
    }
    gw_json_set_int(record, "connections", connections);
    if (stats->requests > 0) {
        gw_json_set_int(record, "page_requests", (int64_t)stats->requests);
        gw_json_set_int(record, "page_request_us", (int64_t)stats->request_us);
    }
}

void
gw_report_cpu(json_t *record, const GwVm *vm, int64_t before_us)
{
    int64_t now_us = vm ? gw_vm_cpu_us(vm) : -1;

    if (before_us >= 0 && now_us >= before_us) {
        gw_json_set_int(record, "qemu_cpu_us", now_us - before_us);
    }
}

/* --- what follows from them ------------------------------------------------------------------- */

static void
set_real(json_t *record, const char *key, double value)
{
    json_object_set_new(record, key, json_real(value));
}

static void
derive_core_seconds(json_t *record, const json_t *end, const char *key, double ram_bytes)
{
    int64_t cpu_us = gw_json_int(end, "cpu_us", 0);

    if (cpu_us > 0) {
        set_real(record, key, (double)cpu_us / US_PER_SECOND / (ram_bytes / GIB));
    }
}

void
gw_report_derive(json_t *record)
{
    double wire = (double)gw_json_int(json_object_get(record, "bytes"), "wire", 0);
    double seconds = (double)gw_json_int(record, "total_ms", 0) / 1000;
    double rate = (double)gw_json_int(record, "highest_rate_bytes_s", 0);
    double ram_bytes = (double)gw_json_int(record, "ram_bytes", 0);
    const json_t *at_target = json_object_get(record, "at_target");

    if (rate > 0 && seconds > 0) {
        set_real(record, "link_use", MIN(wire / (rate * seconds), 1));
    }
    if (ram_bytes > 0) {
        derive_core_seconds(record, record, "core_s_per_gib", ram_bytes);
        derive_core_seconds(record, at_target, "target_core_s_per_gib", ram_bytes);
    }
}

/* --- from host to host ------------------------------------------------------------------------ */

json_t *
gw_report_for_source(const json_t *record)
{
    json_t *told = json_object();
    json_t *bytes = json_object_get(record, "bytes");

    if (bytes) {
        json_object_set(told, "bytes", bytes);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(figures); i++) {
        json_t *value = figures[i].in_bytes ? NULL : json_object_get(record, figures[i].key);
        if (value) {
            json_object_set(told, figures[i].key, value);
        }
    }
    for (const char *const *key = more_of_target; *key; key++) {
        if (json_object_get(record, *key)) {
            json_object_set(told, *key, json_object_get(record, *key));
        }
    }
    gw_json_set_str(told, "digest", gw_json_str(record, "digest", NULL));
    return told;
}

static void
take_number(json_t *to, const json_t *from, const char *key)
{
    const json_t *value = json_object_get(from, key);

    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        gw_json_set_int(to, key, json_integer_value(value));
    }
}

void
gw_report_take_target(json_t *record, const json_t *told)
{
    json_t *taken = json_object();
    json_t *bytes = json_object();
    g_autofree char *digest = g_strndup(gw_json_str(told, "digest", NULL), 32);

    for (size_t i = 0; i < G_N_ELEMENTS(figures); i++) {
        if (figures[i].in_bytes) {
            take_number(bytes, json_object_get(told, "bytes"), figures[i].key);
        } else {
            take_number(taken, told, figures[i].key);
        }
    }
    for (const char *const *key = more_of_target; *key; key++) {
        take_number(taken, told, *key);
    }
    gw_json_set_str(taken, "digest", digest);
    json_object_set_new(taken, "bytes", bytes);
    json_object_set_new(record, "at_target", taken);
}
