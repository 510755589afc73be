// SPDX-License-Identifier: Apache-2.0
/* Golden reports of moves and plans, and the error that an outcome becomes. */
#include "cli/report.h"

#include <string.h>

static json_t *
load(const char *text)
{
    json_t *value = json_loads(text, 0, NULL);

    g_assert_nonnull(value);
    return value;
}

static void
test_completed(void)
{
    g_autoptr(json_t) move =
        load("{\"vm\":\"web1\",\"source\":\"alpha\",\"target\":\"beta\",\"outcome\":\"completed\","
             "\"total_ms\":12300,\"downtime_ms\":95,\"downtime_qemu_ms\":85,\"rounds\":4,"
             "\"bytes\":{\"wire\":1048576,\"page\":1000000,\"zero\":100,\"opaque\":40000,"
             "\"control\":10,\"overhead\":8466,\"same\":0,\"resent\":20,\"stream\":1073741824},"
             "\"pages\":250,\"same_pages\":3,\"zero_pages\":7,\"connections\":4,\"cpu_us\":1500000,"
             "\"memory_bytes\":1048576,\"link_use\":0.934,\"digest\":\"abc\\u001b\","
             "\"at_target\":{\"start_ms\":20,\"cpu_us\":500000,\"digest\":\"abc\"},"
             "\"verify\":{\"mode\":\"full\",\"pages\":9,\"ms\":95,\"mismatches\":0}}");
    g_autofree char *text = gw_report_move(move);

    g_assert_cmpstr(text, ==,
                    "web1 runs on beta now (it was on alpha)\n"
                    "  total time      12.3 s\n"
                    "  downtime        95 ms\n"
                    "    by QEMU       85 ms\n"
                    "  rounds          4\n"
                    "  sent            1 MiB for 1 GiB of QEMU's stream\n"
                    "    pages         977 KiB\n"
                    "    zero pages    100 B\n"
                    "    devices       39.1 KiB\n"
                    "    control       10 B\n"
                    "    framing       8.3 KiB\n"
                    "    sent again    20 B\n"
                    "  pages           250\n"
                    "    same          3\n"
                    "  zero pages      7\n"
                    "  connections     4\n"
                    "    used of it    0.93\n"
                    "  processor       1.5 s\n"
                    "  memory          1 MiB\n"
                    "  digest          abc\\x1b\n"
                    "at the target\n"
                    "  guest start     20 ms\n"
                    "  processor       500 ms\n"
                    "  digest          abc\n"
                    "  compared        9 pages in 95 ms, 0 differ\n");
    g_assert_true(gw_report_outcome(move, NULL));
}

static void
test_outcomes(void)
{
    static const struct {
        const char *move;
        GwErrorCode code;
        const char *contains;
    } cases[] = {
        {"{\"outcome\":\"rolled-back\",\"vm\":\"w\",\"target\":\"b\"}", GW_ERROR_ROLLED_BACK,
         "w was not moved to b: it runs on the source"},
        {"{\"outcome\":\"rolled-back\",\"error\":{\"code\":\"timeout\",\"message\":\"slow\"}}",
         GW_ERROR_ROLLED_BACK, "reason: slow"},
        {"{\"outcome\":\"rolled-back\",\"error\":{\"code\":\"checks-failed\",\"message\":\"c\"}}",
         GW_ERROR_CHECKS, "reason: c"},
        {"{\"outcome\":\"cancelled\"}", GW_ERROR_CANCELLED, "cancelled"},
        {"{\"outcome\":\"refused\"}", GW_ERROR_REFUSED, "refused"},
        {"{\"outcome\":\"guest-lost\",\"error\":{\"code\":\"checks-failed\",\"message\":\"c\"}}",
         GW_ERROR_GUEST_LOST, "lost"},
        {"{\"outcome\":\"new-kind\"}", GW_ERROR_FAILED, "unknown"},
        {"{}", GW_ERROR_FAILED, "unknown"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(json_t) move = load(cases[i].move);
        g_autoptr(GError) error = NULL;
        g_assert_false(gw_report_outcome(move, &error));
        g_assert_error(error, GW_ERROR, (int)cases[i].code);
        g_assert_nonnull(strstr(error->message, cases[i].contains));
        g_autofree char *text = gw_report_move(move);
        g_assert_nonnull(strstr(text, "was not moved"));
    }
}

static void
test_plan(void)
{
    g_autoptr(json_t) plan =
        load("{\"vm\":\"web1\",\"source\":\"alpha\",\"target\":\"beta\",\"ok\":false,"
             "\"transport\":\"lane\",\"transport_reason\":\"far away\",\"checks\":["
             "{\"id\":\"vm-running\",\"status\":\"ok\",\"message\":\"it runs\",\"remedy\":null},"
             "{\"id\":\"memory\",\"status\":\"error\",\"message\":\"too little\\n\","
             "\"remedy\":\"free some\"}]}");
    g_autofree char *text = gw_report_plan(plan);

    g_assert_cmpstr(text, ==,
                    "ok       vm-running        it runs\n"
                    "error    memory            too little\\x0a\n"
                    "                           -> free some\n"
                    "transport lane: far away\n"
                    "web1 cannot be moved from alpha to beta\n");
}

static void
test_details(void)
{
    g_autoptr(json_t) move =
        load("{\"id\":\"m-1\",\"vm\":\"web1\",\"state\":\"rolled-back\",\"started\":0,"
             "\"error\":{\"code\":\"io\",\"message\":\"why\"},\"percent\":4,"
             "\"unsettled\":\"a copy is there\","
             "\"history\":[{\"state\":\"planned\",\"reason\":\"asked for\",\"at\":1000000}]}");
    g_autofree char *text = gw_report_details(move);

    g_assert_cmpstr(text, ==,
                    "m-1\n"
                    "  VM              web1\n"
                    "  state           rolled-back\n"
                    "  not settled     a copy is there\n"
                    "  error           why\n"
                    "  started         1970-01-01T00:00:00Z\n"
                    "  percent         4\n"
                    "history\n"
                    "  1970-01-01T00:00:01Z  planned         asked for\n");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/report/completed", test_completed);
    g_test_add_func("/report/outcomes", test_outcomes);
    g_test_add_func("/report/plan", test_plan);
    g_test_add_func("/report/details", test_details);
    return g_test_run();
}
