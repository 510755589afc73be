// SPDX-License-Identifier: Apache-2.0
/*
 * The sending host: checks, a session with the target, the hand-over, and what follows from the
 * target's answers. What concerns QEMU is in source_qemu.c, what follows when the target is gone
 * for good in source_abandoned.c.
 *
 * Main context. Owns the session. Before the commit point (HANDED_OVER) any failure rolls back;
 * after it this file asks the target again and again until it says "running", "refused" or
 * "lost", on a new session if the old one died.
 */
#include "base/units.h"
#include "lane/encodings.h"
#include "lane/placer.h"
#include "migrate/check.h"

#include <string.h>

#define RECONNECT_MS     1000
#define MAX_CHECKS_BYTES (256u * 1024u)

static void send_prepare(GwSource *source);

static GwSource *
side_of(GwMove *move)
{
    return move->side;
}

static void
drop_lane(GwSource *source)
{
    source->ended_stats = gw_report_sessions(&source->ended_stats, source->lane);
    gw_move_note_heard(source->move);
    g_clear_pointer(&source->lane, gw_lane_free);
    gw_source_post_close(source);
    source->post.told_failure = false;
    source->post.waits_us = gw_now_us();
}

/* Of a move that has failed only its record is needed. The lane borrows the visit. */
static void
drop_unused(GwSource *source)
{
    if (!source->lane && gw_move_is_final(source->move)) {
        g_clear_pointer(&source->visit, gw_visit_writer_free);
    }
}

/* The target's word decides: a session that ends is begun again. */
static bool
is_given_up(const GwMove *move)
{
    return move->state == GW_MOVE_HANDED_OVER || move->state == GW_MOVE_POSTCOPY;
}

/* --- references ------------------------------------------------------------------------------- */

/* The record may be from another version: an encoding that is not known here is not used. */
static GwLaneWishes
lane_wishes(const json_t *record)
{
    const char *names = gw_json_str(record, "encodings", "all");
    unsigned encodings = GW_ENCODING_ALL;

    (void)!gw_encodings_parse(names, &encodings, NULL);
    return (GwLaneWishes){
        .n_links = (unsigned)gw_json_int(record, "connections_wanted", 0),
        .encodings_off = GW_ENCODING_ALL & ~encodings,
    };
}

/* Over the lane: "auto" is decided by the checks. */
static bool
may_refer(const GwSource *source)
{
    return !gw_move_is_by_qemu(source->move);
}

/* The pages that a running guest waits for pass the stream by, and so all who take notes of it. */
static bool
may_keep_visit(const GwSource *source)
{
    return may_refer(source) && !gw_move_may_post(source->move);
}

static void
drop_references(GwSource *source)
{
    g_clear_handle_id(&source->ref_wait, g_source_remove);
    g_clear_pointer(&source->ref_probe, gw_ref_probe_free);
    g_clear_pointer(&source->ref_offers, json_decref);
    g_clear_pointer(&source->references, gw_ref_source_free);
}

static gboolean
on_ref_waited(gpointer data)
{
    GwSource *source = data;

    source->ref_wait = 0;
    g_clear_pointer(&source->ref_probe, gw_ref_probe_free);
    if (source->move->state == GW_MOVE_CHECKED && source->lane) {
        send_prepare(source);
    }
    return G_SOURCE_REMOVE;
}

static void
on_offers(json_t *offers, GwRefSource *references, void *data)
{
    GwSource *source = data;

    g_clear_pointer(&source->ref_probe, gw_ref_probe_free);
    source->references = references;
    source->ref_offers = references ? json_incref(offers) : NULL;
    if (source->ref_wait != 0) {
        g_clear_handle_id(&source->ref_wait, g_source_remove);
        (void)on_ref_waited(source);
    }
}

/* Beside the checks, which take longer as a rule. */
static void
start_references(GwSource *source)
{
    GwVm *vm = gw_move_vm(source->move);

    const unsigned both = GW_ENCODING_REFERENCE | GW_ENCODING_VISIT;
    bool wanted = (lane_wishes(source->move->record).encodings_off & both) != both;

    if (vm && may_refer(source) && wanted) {
        const GwMovesOptions *moves = &source->move->moves->options;
        const GwRefProbeOptions options = {
            .definition = gw_vm_definition(vm),
            .peer = source->move->peer,
            .visits_folder = moves->visits ? gw_visits_folder(moves->visits) : NULL,
            .index_folder = moves->index_dir,
        };

        source->ref_probe = gw_ref_probe_source(&options, on_offers, source);
    }
}

/* @taken: hostile; numbers that were not offered do no harm. */
static void
take_answer(GwSource *source, const json_t *taken)
{
    size_t i;
    json_t *number;
    unsigned n = 0;

    json_array_foreach(taken, i, number)
    {
        json_int_t value = json_is_integer(number) ? json_integer_value(number) : -1;

        if (source->references && value >= 0 && value < GW_REF_MAX_IMAGES) {
            gw_ref_source_use(source->references, (unsigned)value);
            n++;
        }
    }
    if (n == 0) {
        drop_references(source);
    }
}

/* Else the target would note every page for nothing. */
static bool
keeps_visit(const GwSource *source, const GwDefinition *definition)
{
    const GwVisits *visits = source->move->moves->options.visits;

    return visits && may_keep_visit(source) && gw_visits_keeps(visits, definition->memory_bytes);
}

/* The target notes how the memory comes: what this host keeps of it can be referred to. */
static void
begin_visit(GwSource *source)
{
    GwMove *move = source->move;
    GwVisits *visits = move->moves->options.visits;
    GwVm *vm = gw_move_vm(move);

    if (vm && visits && !source->visit) {
        source->visit = gw_visits_begin(visits, move->vm_name, move->peer, move->id,
                                        gw_vm_definition(vm)->memory_bytes);
    }
}

/* @names: hostile; blocks that this guest does not have do no harm. NULL: there are none. */
static char **
take_placed(const json_t *names)
{
    g_autoptr(GPtrArray) blocks = g_ptr_array_new_with_free_func(g_free);
    size_t i;
    json_t *name;

    json_array_foreach(names, i, name)
    {
        if (json_is_string(name) && blocks->len < GW_PLACER_MAX_BLOCKS) {
            g_ptr_array_add(blocks, g_strdup(json_string_value(name)));
        }
    }
    if (blocks->len == 0) {
        return NULL;
    }
    g_ptr_array_add(blocks, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&blocks), FALSE);
}

/* --- the target's words ----------------------------------------------------------------------- */

static void
on_prepared(GwSource *source, json_t *message)
{
    g_autofree char *version = g_strndup(gw_json_str(message, "qemu_version", "unknown"), 40);

    gw_json_set_str(source->move->record, "target_qemu", version);
    if (gw_move_is_by_qemu(source->move)) {
        int64_t port = gw_json_int(message, "port", 0);
        const char *key = gw_json_str(message, "psk", "");
        if (port < 1 || port > 65535 || strlen(key) != 64 ||
            strspn(key, "0123456789abcdef") != 64) {
            gw_move_fail(source->move, GW_MOVE_EVENT_PEER_FAILED, GW_ERROR_PROTOCOL,
                         "host '%s' gave no port and key for a move by QEMU", source->move->peer);
            return;
        }
        json_decref(source->door);
        source->door = json_pack("{s:I, s:s}", "port", (json_int_t)port, "psk", key);
    }
    take_answer(source, json_object_get(message, "references"));
    if (may_keep_visit(source) && gw_json_bool(message, "notes_visit", false)) {
        begin_visit(source);
    }
    if (!gw_move_may_post(source->move)) {
        gw_lane_set_placed(source->lane, take_placed(json_object_get(message, "placed")));
    }
    gw_move_event(source->move, GW_MOVE_EVENT_READY, NULL);
}

static void
on_running(GwSource *source, const json_t *message)
{
    if (is_given_up(source->move)) {
        source->running_us = source->running_us > 0 ? source->running_us : gw_now_us();
        gw_report_take_target(source->move->record, json_object_get(message, "figures"));
        gw_source_qemu_finish(source);
    } else {
        gw_move_fail(source->move, GW_MOVE_EVENT_PEER_RUNNING, GW_ERROR_PROTOCOL,
                     "host '%s' says that it runs VM '%s', which it was not given",
                     source->move->peer, source->move->vm_name);
    }
}

static void
on_message(GwLane *lane, json_t *message, void *data)
{
    GwSource *source = data;
    GwMove *move = source->move;
    const char *what = gw_json_str(message, "do", "");
    json_t *why = json_object_get(message, "error");
    g_autoptr(GError) error = why ? gw_json_to_error(why) : NULL;

    if (strcmp(gw_json_str(message, "move", ""), move->id) != 0) {
        return; /* of another move: not on this session */
    }
    if (error) {
        g_prefix_error(&error, "host '%s': ", move->peer);
    }
    if (strcmp(what, "prepared") == 0) {
        on_prepared(source, message);
    } else if (strcmp(what, "verified") == 0) {
        gw_source_verify_answer(source, message);
    } else if (strcmp(what, "running") == 0) {
        on_running(source, message);
    } else if (strcmp(what, "fetching") == 0 || strcmp(what, "resume") == 0) {
        if (move->state == GW_MOVE_POSTCOPY) {
            gw_source_post_heard(source, what);
        }
    } else if (strcmp(what, "refused") == 0) {
        gw_move_event(move, GW_MOVE_EVENT_PEER_REFUSED, error);
    } else if (strcmp(what, "let-go") == 0) {
        gw_source_let_go(source);
    } else if (strcmp(what, "lost") == 0) {
        gw_move_event(move, GW_MOVE_EVENT_PEER_LOST, error);
    } else if (strcmp(what, "failed") == 0 && error && gw_source_owes_word(move)) {
        gw_source_not_let_go(source, error);
    } else if (strcmp(what, "failed") == 0 && error) {
        gw_move_event(move, GW_MOVE_EVENT_PEER_FAILED, error);
    } else {
        gw_move_fail(move, GW_MOVE_EVENT_PEER_FAILED, GW_ERROR_PROTOCOL,
                     "host '%s' sent the unknown message '%.40s'", move->peer, what);
    }
}

/* --- the session ------------------------------------------------------------------------------ */

static void
send_prepare(GwSource *source)
{
    GwMove *move = source->move;
    GwVm *vm = gw_move_vm(move);

    if (!vm) {
        return; /* QEMU_GONE is on its way */
    }
    g_autofree char *text = gw_definition_text(gw_vm_definition(vm));
    json_t *extra =
        json_pack("{s:s, s:I, s:s, s:O, s:s, s:s}", "vm", move->vm_name, "generation",
                  (json_int_t)move->generation, "definition", text, "run", gw_vm_run_info(vm),
                  "transport", gw_json_str(move->record, "transport", "lane"), "mode",
                  gw_json_str(move->record, "mode", GW_MODE_PRE_COPY));
    gw_json_set_bool(extra, "keeps_visit", keeps_visit(source, gw_vm_definition(vm)));
    if (!may_refer(source)) {
        drop_references(source);
    } else if (source->ref_offers) {
        json_object_set(extra, "references", source->ref_offers);
    }
    gw_move_send(move, source->lane, "prepare", extra);
}

/* Who owns the VM from now on. */
static void
send_ownership(GwSource *source, const char *what, int64_t generation)
{
    json_t *extra =
        json_pack("{s:s, s:I}", "vm", source->move->vm_name, "generation", (json_int_t)generation);

    gw_move_send(source->move, source->lane, what, extra);
}

void
gw_source_send_given_up(GwSource *source)
{
    send_ownership(source, "given-up", source->move->generation + 1);
}

static gboolean
on_reconnect(gpointer data)
{
    GwSource *source = data;

    source->reconnect = 0;
    gw_source_connect(source);
    return G_SOURCE_REMOVE;
}

void
gw_source_connect_later(GwSource *source, guint ms)
{
    if (source->reconnect == 0) {
        source->reconnect = g_timeout_add(ms, on_reconnect, source);
    }
}

static void
on_ready(GwLane *lane, void *data)
{
    GwSource *source = data;

    if (source->move->state == GW_MOVE_CHECKED && source->ref_probe) {
        source->ref_wait = g_timeout_add(GW_REF_PROBE_WAIT_MS, on_ref_waited, source);
    } else if (source->move->state == GW_MOVE_CHECKED) {
        send_prepare(source);
    } else if (source->move->state == GW_MOVE_HANDED_OVER) {
        gw_source_send_given_up(source);
    } else if (source->move->state == GW_MOVE_POSTCOPY) {
        source->post.waits_us = gw_now_us();
        gw_source_post_enter(source);
    } else if (gw_source_owes_word(source->move)) {
        send_ownership(source, "taken-back", source->move->generation + 2);
        /* Until it answers, or may: it holds the VM for another move, for instance. */
        gw_source_tell_later(source);
    }
}

static void
on_stream_end(GwLane *lane, const GwLaneStreamEnd *end, void *data)
{
    GwSource *source = data;
    json_t *record = source->move->record;

    /* QEMU closes its end when it fails, too: its status decides, not the end of the bytes. */
    if (end->error) {
        gw_move_event(source->move, GW_MOVE_EVENT_FAILED, end->error);
        return;
    }
    gw_json_set_str(record, "digest", end->digest);
    gw_json_set_int(record, "stream_bytes", (int64_t)end->stream_bytes);
    source->stream_ended = true;
    gw_source_check_sent(source);
}

void
gw_source_reconnect(GwSource *source)
{
    drop_lane(source);
    gw_source_connect_later(source, RECONNECT_MS);
}

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    GwSource *source = data;
    g_autoptr(GError) reason = g_error_copy(error);

    g_prefix_error(&reason, "VM '%s': session with host '%s' ended: ", source->move->vm_name,
                   source->move->peer);
    drop_lane(source);
    drop_unused(source);
    if (is_given_up(source->move)) {
        GwLogFields fields = gw_move_log_fields(source->move);
        gw_warn(&fields, "%s; asking again", reason->message);
        gw_source_reconnect(source);
        return;
    }
    if (gw_source_owes_word(source->move)) {
        gw_source_tell_later(source);
        return;
    }
    gw_move_event(source->move, GW_MOVE_EVENT_LINK_LOST, reason);
}

void
gw_source_connect(GwSource *source)
{
    static const GwLaneHandlers handlers = {on_ready, on_message, on_stream_end, on_closed};
    const GwMovesNetwork *network = &source->move->moves->options.network;
    const GwLaneWishes wishes = lane_wishes(source->move->record);
    g_autoptr(GError) error = NULL;

    /* A session that was to be opened later would end this one. */
    g_clear_handle_id(&source->reconnect, g_source_remove);
    drop_lane(source);
    source->lane =
        network->connect(source->move->peer, &wishes, &handlers, source, network->network, &error);
    if (source->lane) {
        return;
    }
    if (is_given_up(source->move)) {
        GwLogFields fields = gw_move_log_fields(source->move);
        gw_err(&fields, "cannot ask host '%s' whether it runs the guest: %s", source->move->peer,
               error->message);
        return; /* the state's timer tries again */
    }
    if (gw_source_owes_word(source->move)) {
        gw_source_tell_later(source);
        return;
    }
    gw_move_event(source->move, GW_MOVE_EVENT_LINK_LOST, error);
}

/* --- the states' work ------------------------------------------------------------------------- */

static void
on_checked(json_t *plan, const GError *error, void *data)
{
    GwSource *source = data;
    GwMove *move = source->move;

    g_clear_pointer(&source->checks, gw_check_run_free);
    if (error) {
        gw_move_event(move, GW_MOVE_EVENT_CHECKS_FAILED, error);
        return;
    }
    /* QEMU and the target have a say in their size, and a record that is too large stops the move.
     */
    g_autofree char *checks = gw_json_text(json_object_get(plan, "checks"));
    if (strlen(checks) <= MAX_CHECKS_BYTES) {
        json_object_set(move->record, "checks", json_object_get(plan, "checks"));
    }
    if (!gw_json_bool(plan, "ok", false)) {
        g_autofree char *summary = gw_check_summary(plan);
        gw_move_fail(move, GW_MOVE_EVENT_CHECKS_FAILED, GW_ERROR_CHECKS,
                     "VM '%s' cannot move to host '%s': %s", move->vm_name, move->peer, summary);
        return;
    }
    if (json_object_get(plan, "transport")) {
        gw_json_set_str(move->record, "transport", gw_json_str(plan, "transport", NULL));
        gw_json_set_str(move->record, "transport_reason",
                        gw_json_str(plan, "transport_reason", NULL));
    }
    gw_move_event(move, GW_MOVE_EVENT_CHECKS_PASSED, NULL);
}

static void
start_checks(GwSource *source)
{
    GwMove *move = source->move;
    json_t *request =
        json_pack("{s:s, s:s, s:s, s:s, s:s}", "vm", move->vm_name, "target", move->peer,
                  "transport", gw_json_str(move->record, "transport", "lane"), "mode",
                  gw_json_str(move->record, "mode", GW_MODE_PRE_COPY), "move", move->id);

    gw_json_set_str(request, "verify",
                    gw_json_str(json_object_get(move->record, "verify"), "mode", NULL));
    source->checks = gw_check_run(move->moves, request, on_checked, source);
    json_decref(request);
}

static void
hand_over(GwSource *source)
{
    GwVm *vm = gw_move_vm(source->move);

    g_clear_handle_id(&source->poll, g_source_remove);
    if (vm) {
        gw_vms_set_owner(source->move->moves->options.vms, vm, source->move->peer,
                         source->move->generation + 1);
    }
    if (source->lane && gw_lane_peer_name(source->lane)) {
        gw_source_send_given_up(source);
    } else if (!source->lane && source->reconnect == 0) {
        gw_source_connect(source); /* one that is being opened is given the time it takes */
    }
}

/* The target has it: this host keeps nothing but history. */
static void
settle(GwSource *source)
{
    GwMove *move = source->move;

    gw_source_qemu_leave(source);
    g_clear_handle_id(&source->reconnect, g_source_remove);
    if (move->moves->options.visits) {
        gw_visits_left(move->moves->options.visits, move->vm_name, move->id,
                       g_steal_pointer(&source->visit));
    }
    gw_move_discard_vm(move, NULL);
    gw_move_send(move, source->lane, "settled", NULL);
    if (source->lane) {
        gw_lane_finish(source->lane);
    }
}

static void
give_up_target(GwSource *source)
{
    json_t *extra = json_object();

    g_clear_pointer(&source->checks, gw_check_run_free);
    gw_source_verify_free(source);
    g_clear_handle_id(&source->reconnect, g_source_remove);
    drop_references(source);
    json_object_set(extra, "error", json_object_get(source->move->record, "error"));
    gw_move_send(source->move, source->lane, "abort", extra);
    if (source->lane) {
        gw_lane_finish(source->lane);
    }
}

static bool
was_handed_over(const GwMove *move)
{
    const char *handed_over = gw_move_state_info(GW_MOVE_HANDED_OVER)->name;
    const char *postcopy = gw_move_state_info(GW_MOVE_POSTCOPY)->name;
    size_t i;
    json_t *step;

    json_array_foreach(json_object_get(move->record, "history"), i, step)
    {
        const char *state = gw_json_str(step, "state", "");
        if (strcmp(state, handed_over) == 0 || strcmp(state, postcopy) == 0) {
            return true;
        }
    }
    return false;
}

static void
bring_back(GwSource *source)
{
    GwMove *move = source->move;
    GwVm *vm = gw_move_vm(move);
    int64_t generation = move->generation + (was_handed_over(move) ? 2 : 0);

    give_up_target(source);
    if (vm && generation != gw_vm_generation(vm)) {
        gw_vms_set_owner(move->moves->options.vms, vm, move->moves->options.host_name, generation);
    }
    gw_source_qemu_bring_back(source);
}

static void
leave_vm(GwSource *source)
{
    GwVm *vm = gw_move_vm(source->move);

    gw_source_qemu_leave(source);
    if (vm) {
        gw_vm_release(vm);
    }
    drop_unused(source);
}

/* The VM is this host's again, without what it had in memory. */
static void
abandon(GwSource *source)
{
    GwMove *move = source->move;
    GwVm *vm = gw_move_vm(move);

    if (vm) {
        gw_vms_set_owner(move->moves->options.vms, vm, move->moves->options.host_name,
                         move->generation + 2);
    }
    drop_lane(source);
    leave_vm(source);
    gw_move_end_half(move, vm);
    gw_source_tell_taken_back(move);
}

/* The state before this one. */
static const char *
came_from(GwMove *move)
{
    const json_t *history = json_object_get(move->record, "history");
    size_t steps = json_array_size(history);

    return steps < 2 ? "" : gw_json_str(json_array_get(history, steps - 2), "state", "");
}

static void
guest_lost(GwSource *source)
{
    const char *from = came_from(source->move);

    /* Started by the target and lost there: what this host still holds is older than its disk. */
    if (strcmp(from, gw_move_state_info(GW_MOVE_HANDED_OVER)->name) == 0 ||
        strcmp(from, gw_move_state_info(GW_MOVE_POSTCOPY)->name) == 0) {
        settle(source);
        return;
    }
    give_up_target(source);
    leave_vm(source);
}

static void
source_enter(GwMove *move)
{
    GwSource *source = side_of(move);

    switch (move->state) {
    case GW_MOVE_PLANNED:
        gw_source_qemu_observe(source);
        start_checks(source);
        start_references(source);
        break;
    case GW_MOVE_CHECKED:
        gw_source_connect(source);
        break;
    case GW_MOVE_PREPARED:
        gw_source_qemu_start(source);
        break;
    case GW_MOVE_PRECOPY:
        gw_source_qemu_watch(source);
        break;
    case GW_MOVE_SWITCHOVER:
        gw_source_qemu_continue(source);
        break;
    case GW_MOVE_PAUSING:
        gw_source_post_pause(source);
        break;
    case GW_MOVE_POSTCOPY:
        gw_source_post_enter(source);
        break;
    case GW_MOVE_HANDED_OVER:
        hand_over(source);
        break;
    case GW_MOVE_SETTLED:
        settle(source);
        break;
    case GW_MOVE_ROLLING_BACK:
    case GW_MOVE_CANCELLING:
        bring_back(source);
        break;
    case GW_MOVE_ROLLED_BACK:
    case GW_MOVE_CANCELLED:
        leave_vm(source);
        break;
    case GW_MOVE_GUEST_LOST:
        guest_lost(source);
        break;
    case GW_MOVE_ABANDONED:
        abandon(source);
        break;
    case GW_MOVE_PREPARING:
    case GW_MOVE_INCOMING:
    case GW_MOVE_ACCEPTED:
    case GW_MOVE_FETCHING:
    case GW_MOVE_RUNNING:
    case GW_MOVE_REFUSED:
    case GW_MOVE_N_STATES:
        break; /* the target's */
    }
}

/* --- records ---------------------------------------------------------------------------------- */

/*
 * The owner record changes with the step itself: given up with HANDED_OVER, taken back, one
 * generation further, when the target has refused or is gone for good; that again with the step
 * after ROLLING_BACK, as nobody waited for the first.
 */
static void
source_write(GwMove *move, GwMoveState next, GwStoreTxn *txn)
{
    GwVms *vms = move->moves->options.vms;
    GwVm *vm = gw_move_vm(move);

    if (!vm) {
        return;
    }
    if (next == GW_MOVE_HANDED_OVER || next == GW_MOVE_POSTCOPY) {
        gw_vms_txn_set_owner(vms, vm, move->peer, move->generation + 1, txn);
    } else if (was_handed_over(move) &&
               (next == GW_MOVE_ROLLING_BACK || next == GW_MOVE_ABANDONED ||
                move->state == GW_MOVE_ROLLING_BACK)) {
        gw_vms_txn_set_owner(vms, vm, move->moves->options.host_name, move->generation + 2, txn);
    }
}

static void
report_times(GwSource *source, json_t *record, int64_t now_us)
{
    bool fetches = gw_json_bool(record, "postcopy", false); /* until all pages are there */
    int64_t end_us = source->running_us > 0 && !fetches ? source->running_us : now_us;

    if (source->started_us > 0 && !json_object_get(record, "ended")) {
        gw_json_set_int(record, "total_ms", (end_us - source->started_us) / 1000);
    }
    if (source->stopped_us > 0 && source->running_us > 0) {
        gw_json_set_int(record, "downtime_ms", (source->running_us - source->stopped_us) / 1000);
    }
}

static void
source_report(GwMove *move, json_t *record)
{
    GwSource *source = side_of(move);
    GwLaneStats stats = gw_report_sessions(&source->ended_stats, source->lane);

    /* Written with the state: should this host crash now, it is ended when the daemon is back. */
    if (gw_move_state_from_name(gw_json_str(record, "state", "")) == GW_MOVE_ABANDONED) {
        gw_move_note_half(move, record);
    }
    report_times(source, record, gw_now_us());
    gw_report_cpu(record, gw_move_vm(move), source->qemu_cpu_us);
    if (gw_move_is_by_qemu(move)) {
        /* QEMU's own count; TLS is not in it. */
        json_object_set_new(record, "bytes",
                            json_pack("{s:I}", "wire", gw_json_int(record, "qemu_sent_bytes", 0)));
        return;
    }
    gw_report_lane(record, &stats);
    gw_report_derive(record);
}

static const GwLane *
source_lane(const GwMove *move)
{
    const GwSource *source = move->side;

    return source->lane;
}

static void
source_init(GwMove *move)
{
    GwSource *source = g_new0(GwSource, 1);

    source->move = move;
    source->post.listen_fd = GW_FD_NONE;
    source->qemu_cpu_us = -1;
    move->side = source;
}

static void
source_free(GwMove *move)
{
    GwSource *source = side_of(move);

    gw_source_qemu_leave(source);
    gw_source_verify_free(source);
    g_clear_handle_id(&source->reconnect, g_source_remove);
    gw_source_post_close(source);
    gw_check_run_free(source->checks);
    drop_references(source);
    gw_lane_free(source->lane);
    gw_visit_writer_free(source->visit);
    json_decref(source->door);
    g_free(source);
}

const GwMoveRole gw_source_role = {
    .name = "source",
    .init = source_init,
    .enter = source_enter,
    .write = source_write,
    .report = source_report,
    .lane = source_lane,
    .free = source_free,
};
