// SPDX-License-Identifier: Apache-2.0
/*
 * The figures of a move: what the lane counted, what follows, and what another host tells of them.
 */
#include "migrate/internal.h"

#include <string.h>

static json_t *
told(const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

    g_assert_nonnull(value);
    return value;
}

static void
test_lane(void)
{
    g_autoptr(json_t) record = json_object();
    GwLaneStats stats = {.stream_bytes = 1};

    gw_report_lane(record, &stats);
    g_assert_cmpuint(json_object_size(record), ==, 0);
    stats = (GwLaneStats){.wire_bytes = 1000,
                          .same_bytes = 5,
                          .rate_bytes_s = 500,
                          .links = 4,
                          .memory_bytes = 70,
                          .cpu_us = 2000000,
                          .delta_pages = UINT64_MAX};
    gw_report_lane(record, &stats);
    stats.rate_bytes_s = stats.memory_bytes = stats.links = 0;
    gw_report_lane(record, &stats);
    const json_t *bytes = json_object_get(record, "bytes");
    g_assert_cmpint(gw_json_int(bytes, "wire", 0), ==, 1000);
    g_assert_cmpint(gw_json_int(bytes, "same", 0), ==, 5);
    g_assert_cmpint(gw_json_int(record, "rate_bytes_s", 9), ==, 0);
    g_assert_cmpint(gw_json_int(record, "highest_rate_bytes_s", 0), ==, 500);
    g_assert_cmpint(gw_json_int(record, "memory_bytes", 0), ==, 70);
    g_assert_cmpint(gw_json_int(record, "connections", 0), ==, 4);
    g_assert_cmpint(gw_json_int(record, "delta_pages", 0), ==, INT64_MAX);

    gw_json_set_int(record, "total_ms", 4000);
    gw_json_set_int(record, "ram_bytes", 1 << 30);
    gw_report_derive(record);
    g_assert_cmpfloat(json_real_value(json_object_get(record, "link_use")), ==, 0.5);
    g_assert_cmpfloat(json_real_value(json_object_get(record, "core_s_per_gib")), ==, 2);
    g_assert_null(json_object_get(record, "target_core_s_per_gib"));
}

/* A move that went on over another session counts both. */
static void
test_sessions(void)
{
    GwLaneStats sum = {
        .wire_bytes = 1000, .requests = 3, .request_us = 20, .rtt_us = 9, .links = 4};
    const GwLaneStats session = {.wire_bytes = 10, .pages = 2, .rtt_us = 5, .links = 1};
    g_autoptr(json_t) record = json_object();

    gw_report_add(&sum, &session);
    gw_report_lane(record, &sum);
    g_assert_cmpint(gw_json_int(json_object_get(record, "bytes"), "wire", 0), ==, 1010);
    g_assert_cmpint(gw_json_int(record, "pages", 0), ==, 2);
    g_assert_cmpint(gw_json_int(record, "rtt_us", 0), ==, 5);
    g_assert_cmpint(gw_json_int(record, "page_requests", 0), ==, 3);
    g_assert_cmpint(gw_json_int(record, "page_request_us", 0), ==, 20);
    g_assert_cmpint(gw_json_int(record, "connections", 0), ==, 1);
}

/* All that an honest target tells arrives; nothing else does. */
static void
test_of_the_target(void)
{
    g_autoptr(json_t) at_target = json_object();
    g_autoptr(json_t) record = json_object();
    GwLaneStats stats = {.wire_bytes = 7, .pages = 8};

    gw_report_lane(at_target, &stats);
    gw_json_set_int(at_target, "start_ms", 20);
    gw_json_set_str(at_target, "digest", "0123456789abcdef0123456789abcdef");
    g_autoptr(json_t) message = gw_report_for_source(at_target);
    gw_report_take_target(record, message);
    g_assert_true(json_equal(json_object_get(record, "at_target"), at_target));
}

static void
test_hostile(void)
{
    static const char *const texts[] = {
        "null",
        "[]",
        "\"figures\"",
        "{\"bytes\":3,\"pages\":\"many\",\"cpu_us\":-1,\"digest\":[],\"state\":\"settled\"}",
        "{\"bytes\":{\"wire\":1.5,\"page\":{}},\"rtt_us\":null,\"at_target\":{\"pages\":1}}",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(json_t) record = json_object();
        g_autoptr(json_t) figures = told(texts[i]);
        g_autoptr(json_t) nothing = told("{\"bytes\":{}}");
        gw_report_take_target(record, figures);
        g_assert_true(json_equal(json_object_get(record, "at_target"), nothing));
        g_assert_cmpuint(json_object_size(record), ==, 1);
    }
    g_autoptr(json_t) record = json_object();
    g_autofree char *text = g_strdup_printf("{\"digest\":\"%0200d\"}", 1);
    g_autoptr(json_t) figures = told(text);
    gw_report_take_target(record, figures);
    const json_t *taken = json_object_get(record, "at_target");
    g_assert_cmpuint(strlen(gw_json_str(taken, "digest", "")), ==, 32);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/report/lane", test_lane);
    g_test_add_func("/report/sessions", test_sessions);
    g_test_add_func("/report/of-the-target", test_of_the_target);
    g_test_add_func("/report/hostile", test_hostile);
    return g_test_run();
}
