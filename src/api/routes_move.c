// SPDX-License-Identifier: Apache-2.0
/*
 * Routes of moves: plan, start, list, show, cancel, abandon, watch. Owns nothing; main context;
 * errors are answered. The objects are those of migrate/migrate.h.
 */
#include "api/routes.h"

/* A day: longer waits are mistakes. */
#define MAX_MS (24 * 3600 * 1000)
/* Of the lane, see docs/wire-format.md. */
#define MAX_CONNECTIONS 8

static void
move_answered(json_t *value, const GError *error, void *data)
{
    gw_request_answer(data, value ? json_incref(value) : NULL, error);
}

static bool
read_move(GwRequest *request, GwMoveRequest *move, GError **error)
{
    static const char *const members[] = {"vm",
                                          "host",
                                          "transport",
                                          "mode",
                                          "downtime_limit_ms",
                                          "timeout_ms",
                                          "max_bandwidth_bytes_s",
                                          "connections",
                                          "encodings",
                                          "verify",
                                          NULL};
    const json_t *body = gw_request_body(request, members, error);
    int64_t max_bandwidth = 0;

    *move = (GwMoveRequest){0};
    if (!body || !gw_json_need_string(body, "vm", &move->vm, error) ||
        !gw_json_need_string(body, "host", &move->host, error) ||
        !gw_json_opt_string(body, "transport", &move->transport, error) ||
        !gw_json_opt_string(body, "mode", &move->mode, error) ||
        !gw_json_opt_string(body, "verify", &move->verify, error) ||
        !gw_json_opt_int(body, "downtime_limit_ms", 1, MAX_MS, &move->downtime_limit_ms, error) ||
        !gw_json_opt_int(body, "timeout_ms", 1, MAX_MS, &move->timeout_ms, error) ||
        !gw_json_opt_int(body, "connections", 1, MAX_CONNECTIONS, &move->connections, error) ||
        !gw_json_opt_string(body, "encodings", &move->encodings, error) ||
        !gw_json_opt_int(body, "max_bandwidth_bytes_s", 1, G_MAXINT64, &max_bandwidth, error)) {
        return false;
    }
    move->max_bandwidth = (uint64_t)max_bandwidth;
    g_autofree char *subject = g_strdup_printf("%.80s -> %.80s", move->vm, move->host);
    gw_request_set_subject(request, subject);
    return true;
}

/* gw_moves_start or gw_moves_plan: both are told the same. */
typedef void (*AskMovesFn)(GwMoves *moves, const GwMoveRequest *move, GwMovesJsonFn callback,
                           void *data);

static void
ask_moves(GwRequest *request, GwApi *api, AskMovesFn ask)
{
    GError *error = NULL;
    GwMoveRequest move;

    if (!read_move(request, &move, &error)) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    ask(api->moves, &move, move_answered, request);
}

static void
start_move(GwRequest *request, void *context)
{
    ask_moves(request, context, gw_moves_start);
}

static void
plan_move(GwRequest *request, void *context)
{
    ask_moves(request, context, gw_moves_plan);
}

static void
list_moves(GwRequest *request, void *context)
{
    GwApi *api = context;
    GError *error = NULL;
    int64_t limit;

    if (!gw_request_query_int(request, "limit", G_MAXUINT, 0, &limit, &error)) {
        gw_request_answer_error(request, error);
        return;
    }
    json_t *answer = json_object();
    json_object_set_new(answer, "migrations", gw_moves_list(api->moves, (unsigned)limit));
    gw_request_answer(request, answer, NULL);
}

/* The move of the path; NULL with the request answered. Transfer full. */
static json_t *
get_move(GwRequest *request, GwApi *api)
{
    json_t *move = gw_moves_get(api->moves, gw_request_arg(request));

    if (!move) {
        gw_request_answer_error(
            request, g_error_new(GW_ERROR, GW_ERROR_NOT_FOUND,
                                 "no move '%.80s' on host '%s': `godwit migration list` shows them",
                                 gw_request_arg(request), api->host_name));
    }
    return move;
}

static void
show_move(GwRequest *request, void *context)
{
    json_t *move = get_move(request, context);

    if (move) {
        gw_request_answer(request, move, NULL);
    }
}

static void
cancel_move(GwRequest *request, void *context)
{
    GwApi *api = context;

    gw_moves_cancel(api->moves, gw_request_arg(request), move_answered, request);
}

static void
abandon_move(GwRequest *request, void *context)
{
    static const char *const members[] = {"peer_is_off", NULL};
    GwApi *api = context;
    GError *error = NULL;
    bool peer_is_off = false;
    const json_t *body = gw_request_body(request, members, &error);

    if (!body || !gw_json_opt_bool(body, "peer_is_off", &peer_is_off, &error)) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    gw_request_set_subject(request, peer_is_off ? "the other host is off" : NULL);
    gw_moves_abandon(api->moves, gw_request_arg(request), peer_is_off, move_answered, request);
}

static void
postcopy_move(GwRequest *request, void *context)
{
    GwApi *api = context;

    gw_moves_postcopy(api->moves, gw_request_arg(request), move_answered, request);
}

static void
watch_move(GwRequest *request, void *context)
{
    GwApi *api = context;
    json_t *move = get_move(request, api);

    if (!move) {
        return;
    }
    json_t *first = json_object();
    gw_json_set_str(first, "event", gw_json_bool(move, "final", false) ? "end" : "state");
    json_object_set_new(first, "move", move);
    gw_events_answer(api->events, request, gw_request_arg(request), first);
}

static void
watch_all(GwRequest *request, void *context)
{
    GwApi *api = context;

    gw_events_answer(api->events, request, NULL, NULL);
}

const GwRoute gw_routes_move[] = {
    {"GET", "/v1/migrations", list_moves, .help = "all moves, newest first, at most ?limit=N"},
    {"POST", "/v1/migrations", start_move, .changes = true,
     .help = "start a move: {vm, host, transport?, mode?, downtime_limit_ms?, timeout_ms?, "
             "max_bandwidth_bytes_s?, connections?, encodings?, verify?}"},
    {"POST", "/v1/migrations/plan", plan_move,
     .help = "run all checks of a move and touch nothing; body as above"},
    {"GET", "/v1/migrations/{id}", show_move, .help = "one move"},
    {"POST", "/v1/migrations/{id}/cancel", cancel_move, .changes = true, .help = "cancel a move"},
    {"POST", "/v1/migrations/{id}/abandon", abandon_move, .changes = true,
     .help = "end a move whose other host is gone for good, without its guest: {peer_is_off}"},
    {"POST", "/v1/migrations/{id}/postcopy", postcopy_move, .changes = true,
     .help = "switch a move of mode post-copy or hybrid to post-copy now"},
    {"GET", "/v1/migrations/{id}/events", watch_move,
     .help = "one move's events as NDJSON, beginning with its state now, until it ends"},
    {"GET", "/v1/events", watch_all, .help = "all events as NDJSON"},
    {0},
};
