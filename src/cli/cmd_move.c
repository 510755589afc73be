// SPDX-License-Identifier: Apache-2.0
/*
 * `godwit migrate` and `godwit migration …`. Owns nothing; one thread.
 */
#include "base/units.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/text.h"
#include "cli/watch.h"

#include <stdio.h>
#include <string.h>

typedef struct MoveOptions {
    gboolean plan;
    gboolean no_wait;
    char *transport;
    char *mode;
    char *downtime_limit;
    char *max_bandwidth;
    char *timeout;
    int connections;
    char *encodings;
    char *verify;
} MoveOptions;

static void
move_options_clear(MoveOptions *options)
{
    g_free(options->transport);
    g_free(options->mode);
    g_free(options->downtime_limit);
    g_free(options->max_bandwidth);
    g_free(options->timeout);
    g_free(options->encodings);
    g_free(options->verify);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(MoveOptions, move_options_clear)

/* "100M" or "100 MiB/s" */
static bool
set_bandwidth(json_t *body, const char *text, GError **error)
{
    uint64_t bytes = 0;

    if (!text) {
        return true;
    }
    size_t len = strlen(text);
    g_autofree char *size = g_strndup(text, g_str_has_suffix(text, "/s") ? len - 2 : len);
    if (!gw_parse_size(size, &bytes, error) || bytes == 0) {
        g_clear_error(error);
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "--max-bandwidth: '%s' is not a rate: write for instance 100M or 1 GiB/s "
                    "(bytes per second)",
                    text);
        return false;
    }
    gw_json_set_int(body, "max_bandwidth_bytes_s", (int64_t)bytes);
    return true;
}

/* The request's body. Transfer full. */
static json_t *
move_request(char **args, const MoveOptions *options, GError **error)
{
    g_autoptr(json_t) body = json_object();
    int64_t downtime_ms = 0;
    int64_t timeout_ms = 0;

    if (!gw_cli_duration_ms("--downtime-limit", options->downtime_limit, &downtime_ms, error) ||
        !gw_cli_duration_ms("--timeout", options->timeout, &timeout_ms, error) ||
        !set_bandwidth(body, options->max_bandwidth, error)) {
        return NULL;
    }
    gw_json_set_str(body, "vm", args[0]);
    gw_json_set_str(body, "host", args[1]);
    gw_json_set_str(body, "transport", options->transport);
    gw_json_set_str(body, "mode", options->mode);
    gw_json_set_str(body, "verify", options->verify);
    if (downtime_ms > 0) {
        gw_json_set_int(body, "downtime_limit_ms", downtime_ms);
    }
    if (timeout_ms > 0) {
        gw_json_set_int(body, "timeout_ms", timeout_ms);
    }
    if (options->connections != 0) {
        gw_json_set_int(body, "connections", options->connections);
    }
    gw_json_set_str(body, "encodings", options->encodings);
    return g_steal_pointer(&body);
}

static bool
print_plan(GwCli *cli, const json_t *body, GError **error)
{
    g_autoptr(json_t) plan = gw_cli_call(cli, "POST", "/v1/migrations/plan", body, error);

    if (!plan) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(plan, false);
    } else {
        g_autofree char *text = gw_report_plan(plan);
        fputs(text, stdout);
    }
    if (!gw_json_bool(plan, "ok", false)) {
        g_set_error(error, GW_ERROR, GW_ERROR_CHECKS,
                    "not all checks passed: see the remedies above");
        return false;
    }
    return true;
}

/* Watches to the end, prints the report or the result object, and turns the outcome to an error. */
static bool
watch_to_the_end(GwCli *cli, GwWatch *watch, const char *id, GError **error)
{
    g_autoptr(json_t) move = gw_watch_move(watch, id, error);

    if (!move) {
        return cli->interrupted;
    }
    if (cli->json) {
        gw_cli_print_json(move, true);
    } else {
        g_autofree char *text = gw_report_move(move);
        fputs(text, stdout);
    }
    return gw_report_outcome(move, error);
}

static bool
start_and_watch(GwCli *cli, const json_t *body, bool wait, GError **error)
{
    /* Before the start: a Ctrl-C right after it must find somebody who says what goes on. */
    g_autoptr(GwWatch) watch = gw_watch_begin(cli, error);

    if (!watch) {
        return false;
    }
    g_autoptr(json_t) move = gw_cli_call(cli, "POST", "/v1/migrations", body, error);
    if (!move) {
        return false;
    }
    const char *id = gw_json_str(move, "id", "");
    if (wait) {
        return watch_to_the_end(cli, watch, id, error);
    }
    if (cli->json) {
        gw_cli_print_json(move, true);
    } else {
        g_autofree char *safe = gw_text_escape(id, false);
        printf("%s is under way: godwit migration watch %s\n", safe, safe);
    }
    return true;
}

static bool
migrate(GwCli *cli, char **args, GError **error)
{
    static const char *const transports[] = {"auto", "lane", "direct", "plain", NULL};
    g_auto(MoveOptions) chosen = {0};
    const GOptionEntry options[] = {
        {"plan", 0, 0, G_OPTION_ARG_NONE, &chosen.plan, "Run all checks and touch nothing", NULL},
        {"no-wait", 0, 0, G_OPTION_ARG_NONE, &chosen.no_wait, "Start the move and return", NULL},
        {"transport", 0, 0, G_OPTION_ARG_STRING, &chosen.transport,
         "lane; QEMU to QEMU: direct (TLS), plain (unencrypted, where that is allowed); auto "
         "(default): by the link",
         "auto|lane|direct|plain"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &chosen.mode,
         "pre-copy (default); post-copy: switch after one pass; hybrid: when it does not converge",
         "pre-copy|post-copy|hybrid"},
        {"downtime-limit", 0, 0, G_OPTION_ARG_STRING, &chosen.downtime_limit,
         "How long the guest may stand still at the end (300ms)", "T"},
        {"max-bandwidth", 0, 0, G_OPTION_ARG_STRING, &chosen.max_bandwidth,
         "At most this many bytes per second, e.g. 100M", "R"},
        {"timeout", 0, 0, G_OPTION_ARG_STRING, &chosen.timeout,
         "Give up, and stay, if memory takes longer than this", "T"},
        {"connections", 0, 0, G_OPTION_ARG_INT, &chosen.connections,
         "TCP connections to use, 1 to 8; by measure if not given", "N"},
        {"encodings", 0, 0, G_OPTION_ARG_STRING, &chosen.encodings,
         "For measuring: all, none, or some of same,equal,delta,reference,visit,zstd", "LIST"},
        {"verify", 0, 0, G_OPTION_ARG_STRING, &chosen.verify,
         "full: compare all memory before the guest goes on, which lengthens its standstill",
         "off|full"},
        {0}};

    if (!gw_cli_parse(cli, args, options, 2, 2, error)) {
        return false;
    }
    if (chosen.transport && !g_strv_contains(transports, chosen.transport)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "--transport: '%s' is not auto, lane, direct or plain", chosen.transport);
        return false;
    }
    if (chosen.verify && strcmp(chosen.verify, "off") != 0 && strcmp(chosen.verify, "full") != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "--verify: '%s' is not off or full",
                    chosen.verify);
        return false;
    }
    g_autoptr(json_t) body = move_request(args, &chosen, error);
    if (!body) {
        return false;
    }
    return chosen.plan ? print_plan(cli, body, error)
                       : start_and_watch(cli, body, !chosen.no_wait, error);
}

/* --- migration … ------------------------------------------------------------------------------ */

static void
print_move_table(const json_t *moves)
{
    static const char *const headings[] = {"ID",   "VM",      "FROM",  "TO",       "STATE",
                                           "DONE", "STARTED", "TOTAL", "DOWNTIME", NULL};
    g_autoptr(GwTable) table = gw_table_new(headings);
    const json_t *move;
    size_t i;

    json_array_foreach(moves, i, move)
    {
        int64_t started = gw_json_int(move, "started", -1);
        g_autofree char *when = started >= 0 ? gw_format_time(started) : NULL;
        g_autofree char *total = gw_text_ms(move, "total_ms");
        g_autofree char *downtime = gw_text_ms(move, "downtime_ms");
        g_autofree char *done =
            g_strdup_printf("%" G_GINT64_FORMAT " %%", gw_json_int(move, "percent", 0));
        gw_table_add(table, gw_json_str(move, "id", NULL), gw_json_str(move, "vm", NULL),
                     gw_json_str(move, "source", NULL), gw_json_str(move, "target", NULL),
                     gw_json_str(move, "outcome", gw_json_str(move, "state", NULL)), done, when,
                     total, downtime);
    }
    g_autofree char *text = gw_table_text(table);
    fputs(text, stdout);
}

static bool
migration_list(GwCli *cli, char **args, GError **error)
{
    gboolean names = FALSE;
    int limit = 20;
    const GOptionEntry options[] = {
        {"limit", 'n', 0, G_OPTION_ARG_INT, &limit, "At most the N newest; 0: all (20)", "N"},
        {"names", 0, 0, G_OPTION_ARG_NONE, &names, "Print the ids only", NULL},
        {0}};

    if (!gw_cli_parse(cli, args, options, 0, 0, error)) {
        return false;
    }
    g_autofree char *path = g_strdup_printf("/v1/migrations?limit=%d", MAX(limit, 0));
    g_autoptr(json_t) answer = gw_cli_call(cli, "GET", path, NULL, error);
    if (!answer) {
        return false;
    }
    const json_t *moves = json_object_get(answer, "migrations");
    if (names) {
        gw_cli_print_members(moves, "id");
    } else if (cli->json) {
        gw_cli_print_json(moves, false);
    } else {
        print_move_table(moves);
    }
    return true;
}

static bool
migration_show(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autofree char *path = gw_client_path("/v1/migrations/", args[0], "");
    g_autoptr(json_t) move = gw_cli_call(cli, "GET", path, NULL, error);
    if (!move) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(move, false);
    } else {
        g_autofree char *text = gw_report_details(move);
        fputs(text, stdout);
    }
    return true;
}

/* @said: what is told, of the move's id. */
static bool
tell_move(GwCli *cli, char **args, const char *action, const char *said, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autofree char *path = gw_client_path("/v1/migrations/", args[0], action);
    g_autoptr(json_t) move = gw_cli_call(cli, "POST", path, NULL, error);
    if (!move) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(move, false);
    } else {
        printf("%s %s: godwit migration watch %s\n", args[0], said, args[0]);
    }
    return true;
}

static bool
migration_cancel(GwCli *cli, char **args, GError **error)
{
    return tell_move(cli, args, "/cancel", "is being cancelled", error);
}

static bool
migration_abandon(GwCli *cli, char **args, GError **error)
{
    gboolean peer_is_off = FALSE;
    const GOptionEntry options[] = {
        {"peer-is-off", 0, 0, G_OPTION_ARG_NONE, &peer_is_off,
         "I know that the VM does not run, and will not, on the other host: it is off, or cut off "
         "from the VM's disks",
         NULL},
        {0}};

    if (!gw_cli_parse(cli, args, options, 1, 1, error)) {
        return false;
    }
    g_autofree char *path = gw_client_path("/v1/migrations/", args[0], "/abandon");
    g_autoptr(json_t) body = json_pack("{s:b}", "peer_is_off", (int)peer_is_off);
    g_autoptr(json_t) move = gw_cli_call(cli, "POST", path, body, error);
    if (!move) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(move, false);
    } else {
        g_autofree char *reason = gw_text_escape(gw_json_str(move, "reason", ""), false);
        puts(reason);
    }
    return true;
}

static bool
migration_postcopy(GwCli *cli, char **args, GError **error)
{
    return tell_move(cli, args, "/postcopy", "is switching to post-copy", error);
}

static bool
migration_watch(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autoptr(GwWatch) watch = gw_watch_begin(cli, error);
    return watch && watch_to_the_end(cli, watch, args[0], error);
}

const GwCommand gw_commands_move[] = {
    {"migrate", NULL, "VM HOST", "move a running VM to another host", migrate},
    {"migration", "list", "", "list moves, newest first", migration_list},
    {"migration", "show", "ID", "show one move with its history", migration_show},
    {"migration", "cancel", "ID", "cancel a move: the VM stays where it is", migration_cancel},
    {"migration", "abandon", "ID", "end a move whose other host is gone for good",
     migration_abandon},
    {"migration", "postcopy", "ID", "switch a move that may to post-copy now", migration_postcopy},
    {"migration", "watch", "ID", "watch a move until it ends", migration_watch},
    {0},
};
