// SPDX-License-Identifier: Apache-2.0
/*
 * Sessions from other hosts: what they ask before, or instead of, a move of ours.
 *
 *   "check"     judge whether a VM could move here; answered, nothing is kept
 *   "prepare"   a move begins: a record is written and the session goes to it (target.c)
 *   "given-up"  on a new session: the source asks about a move whose session died
 *   "taken-back"  the source was told that this host is off, and owns the VM again
 *
 * A peer may only speak of moves that it is the source of: its name comes from its certificate.
 * A move that this host does not know is refused durably before that is said, unless the VM's
 * owner record shows that it was accepted. Main context. Owns each session until it is passed on.
 */
#include "base/units.h"
#include "migrate/check.h"

#include <string.h>

typedef struct GwVisitor {
    GwMoves *moves;
    GwLane *lane;
    GwCheckAnswer *answer;
} GwVisitor;

void
gw_visitor_free(void *data)
{
    GwVisitor *visitor = data;

    if (visitor->answer) {
        gw_check_answer_free(visitor->answer);
    }
    gw_lane_free(visitor->lane);
    g_free(visitor);
}

static void
answer(GwLane *lane, json_t *message)
{
    g_autoptr(json_t) owned = message;
    g_autoptr(GError) error = NULL;

    gw_json_set_str(owned, "service", "move");
    if (!gw_lane_send(lane, owned, &error)) {
        gw_debug(NULL, "an answer was not sent: %s", error->message);
    }
}

/* The one answer to the one question; then goodbye. A source that has to know more asks anew. */
static void
answer_last(GwLane *lane, json_t *message)
{
    answer(lane, message);
    gw_lane_finish(lane);
}

/* --- visitors --------------------------------------------------------------------------------- */

static void
on_visitor_ready(GwLane *lane, void *data)
{
    /* It was ready before it came to us. */
}

static void
on_visitor_message(GwLane *lane, json_t *message, void *data)
{
    /* One question to a session. */
}

static void
on_visitor_stream_end(GwLane *lane, const GwLaneStreamEnd *end, void *data)
{
    /* No stream was started on it. */
}

static void
on_visitor_closed(GwLane *lane, const GError *error, void *data)
{
    GwVisitor *visitor = data;

    g_ptr_array_remove_fast(visitor->moves->visitors, visitor);
}

static GwVisitor *
visitor_new(GwMoves *moves, GwLane *lane)
{
    static const GwLaneHandlers handlers = {
        on_visitor_ready,
        on_visitor_message,
        on_visitor_stream_end,
        on_visitor_closed,
    };
    GwVisitor *visitor = g_new0(GwVisitor, 1);

    visitor->moves = moves;
    visitor->lane = lane;
    gw_lane_set_handlers(lane, &handlers, visitor);
    g_ptr_array_add(moves->visitors, visitor);
    return visitor;
}

/* With a port to try the source ends the session, when it has done so; else this is goodbye. */
static void
on_check_answer(json_t *checks, uint16_t port, bool plain, void *data)
{
    GwVisitor *visitor = data;

    answer(visitor->lane,
           json_pack("{s:s, s:i, s:O, s:i, s:b}", "do", "checked", "protocol", GW_CHECK_PROTOCOL,
                     "checks", checks, "direct_port", (int)port, "plain", plain));
    if (port == 0) {
        gw_lane_finish(visitor->lane);
    }
}

/* @lane: transfer full. */
static void
refuse(GwMoves *moves, GwLane *lane, const char *what, const char *id, const GError *error)
{
    json_t *message = json_pack("{s:s, s:o}", "do", what, "error", gw_json_from_error(error));

    gw_json_set_str(message, "move", id);
    visitor_new(moves, lane);
    answer_last(lane, message);
}

/* --- prepare ---------------------------------------------------------------------------------- */

/* The record of a move to this host, from what the source says; NULL with an error. */
static json_t *
record_from(GwMoves *moves, GwLane *lane, const json_t *message, int64_t generation, GError **error)
{
    const char *id = NULL;
    const char *vm = NULL;
    const char *transport = "lane";
    const char *mode = GW_MODE_PRE_COPY;
    GwTransport known;

    if (!gw_json_need_string(message, "move", &id, error) ||
        !gw_json_need_string(message, "vm", &vm, error) || !gw_check_name("VM name", vm, error) ||
        !gw_json_opt_string(message, "transport", &transport, error) ||
        !gw_json_opt_string(message, "mode", &mode, error)) {
        return NULL;
    }
    if (!gw_transport_parse(transport, &known)) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "transport '%.40s' is unknown here",
                    transport);
        return NULL;
    }
    if (!gw_mode_is_valid(mode) ||
        (known != GW_TRANSPORT_LANE && strcmp(mode, GW_MODE_PRE_COPY) != 0)) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "mode '%.40s' is unknown here with transport '%s'", mode, transport);
        return NULL;
    }
    if (!gw_move_id_is_valid(id)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "'%.40s' is not the id of a move", id);
        return NULL;
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:s}", "id", id, "vm", vm,
                     "source", gw_lane_peer_name(lane), "target", moves->options.host_name, "role",
                     "target", "state", gw_move_state_info(GW_MOVE_PREPARING)->name, "generation",
                     (json_int_t)generation, "started", (json_int_t)gw_wall_us(), "transport",
                     transport, "mode", mode);
}

/* Whatever the source's checks said. */
static bool
may_come_plainly(GwMoves *moves, GwLane *lane, GError **error)
{
    struct sockaddr_storage there;

    gw_lane_ends(lane, NULL, &there);
    return gw_plain_is_allowed(&moves->options, &there, error);
}

static bool
may_come(GwMoves *moves, GwLane *lane, const json_t *record, GError **error)
{
    const char *vm = gw_json_str(record, "vm", "");
    const GwMove *other = gw_moves_busy_with(moves, vm);

    if (gw_moves_find(moves, gw_json_str(record, "id", ""))) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS, "this move is known already");
        return false;
    }
    if (other) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "move %s of VM '%s' is under way here",
                    other->id, vm);
        return false;
    }
    if (gw_moves_count_incoming(moves) >= moves->options.max_incoming) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "host '%s' takes at most %u moves at the same time: wait for one to end, or "
                    "raise max-incoming",
                    moves->options.host_name, moves->options.max_incoming);
        return false;
    }
    return strcmp(gw_json_str(record, "transport", ""), "plain") != 0 ||
           may_come_plainly(moves, lane, error);
}

static void
serve_prepare(GwMoves *moves, GwLane *lane, json_t *message)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) record = NULL;
    int64_t generation = 0;

    if (gw_json_need_int(message, "generation", 1, GW_MOVE_MAX_GENERATION, &generation, &error)) {
        record = record_from(moves, lane, message, generation, &error);
    }
    if (!record || !may_come(moves, lane, record, &error)) {
        refuse(moves, lane, "refused", gw_json_str(message, "move", ""), error);
        return;
    }
    GwMove *move = gw_move_new(moves, &gw_target_role, g_steal_pointer(&record));
    gw_moves_add(moves, move);
    gw_target_set_prepare(move, message);
    gw_target_take_session(move, lane, message);
    gw_move_begin(move, NULL, NULL);
}

/* --- given-up --------------------------------------------------------------------------------- */

/* A move that this host does not know: was it accepted here once, and its record pruned? */
static void
serve_unknown(GwMoves *moves, GwLane *lane, json_t *message)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) record = NULL;
    GwVm *vm = gw_vms_find(moves->options.vms, gw_json_str(message, "vm", ""));
    int64_t given = 0;

    if (gw_json_need_int(message, "generation", 2, GW_MOVE_MAX_GENERATION, &given, &error)) {
        record = record_from(moves, lane, message, given - 1, &error);
    }
    if (!record) {
        refuse(moves, lane, "failed", gw_json_str(message, "move", ""), error);
        return;
    }
    if (vm && gw_vm_generation(vm) >= given) {
        visitor_new(moves, lane);
        answer_last(lane, json_pack("{s:s, s:s}", "do", "running", "move",
                                    gw_json_str(message, "move", "")));
        return;
    }
    GwMove *move = gw_move_new(moves, &gw_target_role, g_steal_pointer(&record));
    gw_moves_add(moves, move);
    gw_target_take_session(move, lane, message);
    gw_move_begin(move, NULL, NULL);
}

/* A move that this host does not know has brought nothing, or its record was pruned. */
static void
let_go_unknown(GwMoves *moves, GwLane *lane, json_t *message)
{
    int64_t taken = gw_json_int(message, "generation", 0);
    GwVm *copy =
        taken > 1 ? gw_moves_find_owned(moves, gw_json_str(message, "vm", ""), taken - 1) : NULL;

    if (copy) {
        g_autoptr(GError) error = gw_target_copy_stays(moves, copy);
        refuse(moves, lane, "failed", gw_json_str(message, "move", ""), error);
        return;
    }
    visitor_new(moves, lane);
    answer_last(lane,
                json_pack("{s:s, s:s}", "do", "let-go", "move", gw_json_str(message, "move", "")));
}

/* The move's own. @unknown: for one that this host does not know. */
static void
serve_known(GwMoves *moves, GwLane *lane, json_t *message,
            void (*unknown)(GwMoves *moves, GwLane *lane, json_t *message))
{
    GwMove *move = gw_moves_find(moves, gw_json_str(message, "move", ""));

    if (!move) {
        unknown(moves, lane, message);
    } else if (move->role != &gw_target_role || strcmp(move->peer, gw_lane_peer_name(lane)) != 0) {
        g_autoptr(GError) error = g_error_new(GW_ERROR, GW_ERROR_REFUSED,
                                              "move %s is not between these two hosts", move->id);
        refuse(moves, lane, "failed", move->id, error);
    } else {
        gw_target_take_session(move, lane, message);
    }
}

void
gw_moves_serve(GwLane *lane, json_t *first_message, void *data)
{
    GwMoves *moves = data;
    const char *what = gw_json_str(first_message, "do", "");
    g_autoptr(GError) error = NULL;

    if (!moves->is_loaded) {
        g_set_error(&error, GW_ERROR, GW_ERROR_STATE, "godwitd on host '%s' is starting: try again",
                    moves->options.host_name);
        refuse(moves, lane, "failed", gw_json_str(first_message, "move", ""), error);
    } else if (strcmp(what, "check") == 0) {
        GwVisitor *visitor = visitor_new(moves, lane);
        struct sockaddr_storage from;
        gw_lane_ends(lane, NULL, &from);
        visitor->answer = gw_check_answer(moves, &from, first_message, on_check_answer, visitor);
    } else if (strcmp(what, "prepare") == 0) {
        serve_prepare(moves, lane, first_message);
    } else if (strcmp(what, "given-up") == 0) {
        serve_known(moves, lane, first_message, serve_unknown);
    } else if (strcmp(what, "taken-back") == 0) {
        serve_known(moves, lane, first_message, let_go_unknown);
    } else {
        g_set_error(&error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "'%.40s' is unknown to this version of godwitd (" GODWIT_VERSION ")", what);
        refuse(moves, lane, "failed", gw_json_str(first_message, "move", ""), error);
    }
}
