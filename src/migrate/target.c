// SPDX-License-Identifier: Apache-2.0
/*
 * The receiving host: prepares a QEMU (target_qemu.c), takes the stream in, and has the guest
 * started once it was given to this host; or refuses, durably.
 *
 * Main context. Owns the session of each incoming move.
 *
 * A peer may speak only of moves that it is the source of. The guest is started only in ACCEPTED.
 */
#include "base/fd.h"
#include "base/units.h"
#include "lane/placer.h"
#include "migrate/check.h"

#include <string.h>

static GwTarget *
side_of(GwMove *move)
{
    return move->side;
}

/* --- the end of the stream -------------------------------------------------------------------- */

static gboolean
on_refuse_timeout(gpointer data)
{
    GwTarget *target = data;

    target->refuse_timer = 0;
    gw_move_fail(target->move, GW_MOVE_EVENT_TIMEOUT, GW_ERROR_TIMEOUT,
                 "VM '%s': %s within %" G_GINT64_FORMAT " s", target->move->vm_name,
                 target->given_up ? "QEMU did not load what it was sent"
                                  : "the source did not say that it gave the guest up",
                 target->move->moves->options.refuse_timeout_ms / 1000);
    return G_SOURCE_REMOVE;
}

/*
 * All three in any order: loaded by QEMU, proven by the digests, given up by the source. From the
 * first on, the others have refuse-timeout to come.
 */
void
gw_target_check_handed(GwTarget *target)
{
    bool whole = target->loaded &&
                 (target->stream_whole || gw_move_is_by_qemu(target->move) || target->post.loaded);
    bool begun = target->loaded || target->stream_whole || target->given_up;
    int64_t wait_ms = target->move->moves->options.refuse_timeout_ms;

    if (target->move->state != GW_MOVE_INCOMING || !begun) {
        return;
    }
    if (whole && target->given_up) {
        g_clear_handle_id(&target->refuse_timer, g_source_remove);
        target->never_started = true;
        gw_move_event(target->move, GW_MOVE_EVENT_HANDED_TO_US, NULL);
    } else if (target->refuse_timer == 0) {
        guint timeout_ms = (guint)MIN(wait_ms, G_MAXINT);
        target->refuse_timer = g_timeout_add(timeout_ms, on_refuse_timeout, target);
    }
}

/* --- getting ready ---------------------------------------------------------------------------- */

static gboolean
on_ref_waited(gpointer data)
{
    GwTarget *target = data;

    target->ref_wait = 0;
    g_clear_pointer(&target->ref_probe, gw_ref_probe_free);
    gw_move_event(target->move, GW_MOVE_EVENT_READY, NULL);
    return G_SOURCE_REMOVE;
}

static void
on_taken(json_t *taken, GwRefTarget *images, void *data)
{
    GwTarget *target = data;

    g_clear_pointer(&target->ref_probe, gw_ref_probe_free);
    target->images = images;
    target->ref_taken = images ? json_incref(taken) : NULL;
    if (target->ref_wait != 0) {
        g_clear_handle_id(&target->ref_wait, g_source_remove);
        (void)on_ref_waited(target);
    }
}

static void
drop_references(GwTarget *target)
{
    g_clear_handle_id(&target->ref_wait, g_source_remove);
    g_clear_pointer(&target->ref_probe, gw_ref_probe_free);
    g_clear_pointer(&target->ref_taken, json_decref);
    g_clear_pointer(&target->images, gw_ref_target_free);
}

/* The disks that the source offers to refer to are looked at while QEMU starts. */
void
gw_target_listens(GwTarget *target)
{
    if (target->ref_probe) {
        target->ref_wait = g_timeout_add(GW_REF_PROBE_WAIT_MS, on_ref_waited, target);
    } else {
        gw_move_event(target->move, GW_MOVE_EVENT_READY, NULL);
    }
}

static void
on_vm_prepared(GwVm *vm, const GError *error, void *data)
{
    GwTarget *target = side_of(data);

    gw_move_call_done(target->move);
    if (target->move->state != GW_MOVE_PREPARING) {
        return; /* refused meanwhile; the discard that belongs to it deals with QEMU */
    }
    if (error) {
        gw_move_event(target->move, GW_MOVE_EVENT_FAILED, error);
    } else if (!vm || !gw_vm_qmp(vm)) {
        gw_move_fail(target->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on host '%s' ended as soon as it was started",
                     target->move->vm_name, target->move->moves->options.host_name);
    } else {
        gw_target_qemu_listen(target, vm);
    }
}

static void
look_at_offers(GwTarget *target, const GwDefinition *definition)
{
    const GwMove *move = target->move;
    const json_t *offers = json_object_get(target->prepare, "references");
    GwVisits *visits = move->moves->options.visits;
    const GwRefProbeOptions options = {
        .definition = definition,
        .peer = move->peer,
        .visits_folder = visits ? gw_visits_folder(visits) : NULL,
    };

    if (json_array_size(offers) > 0) {
        target->ref_probe = gw_ref_probe_target(&options, offers, on_taken, target);
    }
    if (visits && gw_json_bool(target->prepare, "keeps_visit", false)) {
        target->tags = gw_visit_tags_new(gw_visit_tags_max_bytes(definition->memory_bytes));
    }
}

static void
prepare(GwTarget *target)
{
    GwMove *move = target->move;
    const char *text = gw_json_str(target->prepare, "definition", "");
    g_autoptr(GError) error = NULL;
    GwDefinition *definition = gw_definition_parse(text, strlen(text), move->peer, &error);

    if (!definition) {
        gw_move_event(move, GW_MOVE_EVENT_FAILED, error);
        return;
    }
    if (strcmp(definition->name, move->vm_name) != 0) {
        gw_move_fail(move, GW_MOVE_EVENT_FAILED, GW_ERROR_PROTOCOL,
                     "host '%s' announced VM '%s' with the definition of '%s'", move->peer,
                     move->vm_name, definition->name);
        gw_definition_free(definition);
        return;
    }
    /* In the store by the time that ACCEPTED is: what tells the VM from another of its name. */
    gw_json_set_str(move->record, "vm_uuid", definition->uuid);
    target->started_us = gw_now_us();
    g_autoptr(json_t) run = json_deep_copy(json_object_get(target->prepare, "run"));

    gw_json_set_bool(run, "spare_monitor", gw_move_may_post(move));
    look_at_offers(target, definition);
    move->calls++;
    gw_vms_prepare_incoming(move->moves->options.vms, definition, run, move->id, on_vm_prepared,
                            move);
}

/* --- the session ------------------------------------------------------------------------------ */

static void answer_source(GwTarget *target);

static void
send_answer(GwTarget *target, const char *what)
{
    json_t *extra = json_object();

    json_object_set(extra, "error", json_object_get(target->move->record, "error"));
    if (strcmp(what, "running") == 0) {
        json_object_set_new(extra, "figures", gw_report_for_source(target->move->record));
    }
    gw_move_send(target->move, target->lane, what, extra);
}

static void
on_discarded(GwMove *move)
{
    answer_source(side_of(move));
}

GError *
gw_target_copy_stays(GwMoves *moves, GwVm *copy)
{
    const char *name = gw_vm_name(copy);

    return g_error_new(GW_ERROR, GW_ERROR_STATE,
                       "VM '%s' of generation %" G_GINT64_FORMAT " is on host '%s' still, which "
                       "does not remove it as it may be another VM of that name. If it is the copy "
                       "that was moved there, remove it there: godwit vm stop %s --force; godwit "
                       "vm undefine %s",
                       name, gw_vm_generation(copy), moves->options.host_name, name, name);
}

/* A VM of that name and generation may be an operator's own, or may have come from elsewhere. */
static bool
was_brought(const GwMove *move, GwVm *copy)
{
    const char *uuid = gw_json_str(move->record, "vm_uuid", NULL);
    bool came = move->state == GW_MOVE_RUNNING || move->state == GW_MOVE_GUEST_LOST;

    return came && uuid && g_strcmp0(uuid, gw_vm_definition(copy)->uuid) == 0;
}

/* It is known not to be the source's, whatever brought it. */
static bool
is_another(const GwMove *move, GwVm *copy)
{
    const char *uuid = gw_json_str(move->record, "vm_uuid", NULL);

    return uuid && g_strcmp0(uuid, gw_vm_definition(copy)->uuid) != 0;
}

/*
 * The source was told that this host is off, and owns the VM again: the copy that this move
 * brought, whatever became of it, goes before that is confirmed. Not once the source has said how
 * the move ended, and not under another move of the VM: then it asks again.
 */
static void
let_go(GwTarget *target)
{
    GwMove *move = target->move;
    GwVm *vm = gw_move_vm(move);
    GwVm *copy = gw_moves_find_owned(move->moves, move->vm_name, move->generation + 1);
    bool settled = gw_json_bool(move->record, "settled", false);
    bool brought = copy && !settled && was_brought(move, copy);

    if (!gw_move_is_final(move) || vm || (brought && gw_vm_held_by(copy))) {
        return; /* on its way out, or not to be touched now */
    }
    if (brought) {
        GwLogFields fields = gw_move_log_fields(move);
        gw_warn(&fields, "host '%s' took the VM back: its copy here is removed", move->peer);
        gw_vm_hold(copy, move->id);
        gw_move_discard_vm(move, on_discarded);
        return;
    }
    if (copy && !is_another(move, copy)) {
        g_autoptr(GError) error = gw_target_copy_stays(move->moves, copy);
        gw_move_send(move, target->lane, "failed",
                     json_pack("{s:o}", "error", gw_json_from_error(error)));
        return;
    }
    if (!settled) {
        gw_json_set_bool(move->record, "settled", true);
        gw_move_save(move);
    }
    send_answer(target, "let-go");
}

/* What the source wants to know; nothing while it is not decided. */
static void
answer_source(GwTarget *target)
{
    GwMoveState state = target->move->state;

    if (target->taken_back) {
        let_go(target);
    } else if (state == GW_MOVE_RUNNING) {
        send_answer(target, "running");
    } else if (state == GW_MOVE_FETCHING) {
        send_answer(target, "fetching");
    } else if (state == GW_MOVE_REFUSED && !gw_move_vm(target->move)) {
        /* The source may resume as soon as it hears of it, so QEMU's end comes first. */
        send_answer(target, "refused");
    } else if (state == GW_MOVE_GUEST_LOST) {
        send_answer(target, "lost");
    }
}

static void
on_given_up(GwTarget *target, json_t *message)
{
    GwMove *move = target->move;

    if (gw_json_int(message, "generation", 0) != move->generation + 1) {
        gw_move_fail(move, GW_MOVE_EVENT_FAILED, GW_ERROR_PROTOCOL,
                     "host '%s' gave up another generation of VM '%s' than it announced",
                     move->peer, move->vm_name);
    } else {
        target->given_up = true;
        target->given_up_us = gw_now_us();
        gw_target_check_handed(target);
        gw_target_qemu_ask_loaded(target);
    }
    answer_source(target);
}

static void
on_taken_back(GwTarget *target, json_t *message)
{
    GwMove *move = target->move;

    if (gw_json_int(message, "generation", 0) != move->generation + 2) {
        GwLogFields fields = gw_move_log_fields(move);
        gw_warn(&fields, "host '%s' took back another generation of it than it gave up",
                move->peer);
        return;
    }
    target->taken_back = true;
    gw_move_fail(move, GW_MOVE_EVENT_TAKEN_BACK, GW_ERROR_GUEST_LOST,
                 "VM '%s': host '%s' took it back when it was told that host '%s' is off",
                 move->vm_name, move->peer, move->moves->options.host_name);
    answer_source(target);
}

/* As long as the source compares, it has not forgotten us. */
static void
on_verify(GwTarget *target, json_t *message)
{
    if (target->move->state == GW_MOVE_INCOMING && !target->given_up) {
        g_clear_handle_id(&target->refuse_timer, g_source_remove);
        gw_target_check_handed(target);
        gw_target_verify(target, message);
        gw_target_qemu_ask_loaded(target);
    }
}

/* The move has ended on both hosts: its record is history. */
static void
on_settled(GwTarget *target, GwLane *lane)
{
    GwMove *move = target->move;

    if (gw_move_is_final(move) && !gw_json_bool(move->record, "settled", false)) {
        gw_json_set_bool(move->record, "settled", true);
        gw_move_save(move);
    }
    gw_lane_finish(lane);
}

static void
on_message(GwLane *lane, json_t *message, void *data)
{
    GwTarget *target = data;
    const char *what = gw_json_str(message, "do", "");
    json_t *why = json_object_get(message, "error");
    g_autoptr(GError) error = why ? gw_json_to_error(why) : NULL;

    if (strcmp(gw_json_str(message, "move", ""), target->move->id) != 0) {
        return;
    }
    if (strcmp(what, "given-up") == 0) {
        on_given_up(target, message);
    } else if (strcmp(what, "taken-back") == 0) {
        on_taken_back(target, message);
    } else if (strcmp(what, "verify") == 0) {
        on_verify(target, message);
    } else if (strcmp(what, "abort") == 0) {
        gw_move_event(target->move, GW_MOVE_EVENT_PEER_FAILED, error);
    } else if (strcmp(what, "settled") == 0) {
        on_settled(target, lane);
    }
}

static void
on_stream_end(GwLane *lane, const GwLaneStreamEnd *end, void *data)
{
    GwTarget *target = data;
    json_t *record = target->move->record;

    if (end->error) {
        gw_move_event(target->move, GW_MOVE_EVENT_FAILED, end->error);
        return;
    }
    gw_json_set_str(record, "digest", end->digest);
    gw_json_set_int(record, "stream_bytes", (int64_t)end->stream_bytes);
    target->stream_whole = true;
    gw_target_check_handed(target);
}

/* To post-copy: what QEMU needs to run the guest may be in its hands already. */
static bool
is_switching(const GwTarget *target)
{
    return target->given_up && gw_move_may_post(target->move);
}

/* Of a move that has failed only its record is needed. The lane borrows the tags. */
static void
drop_unused(GwTarget *target)
{
    if (!gw_move_is_final(target->move)) {
        return;
    }
    g_clear_pointer(&target->placer, gw_placer_free);
    if (!target->lane) {
        g_clear_pointer(&target->tags, gw_visit_tags_free);
    }
}

void
gw_target_drop_session(GwTarget *target)
{
    target->ended_stats = gw_report_sessions(&target->ended_stats, target->lane);
    gw_move_note_heard(target->move);
    g_clear_pointer(&target->lane, gw_lane_free);
    target->post.streams = false;
    drop_unused(target);
}

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    GwTarget *target = data;
    GwMove *move = target->move;
    bool whole = target->stream_whole || (gw_move_is_by_qemu(move) && target->loaded) ||
                 is_switching(target);
    g_autoptr(GError) reason = g_error_copy(error);

    g_prefix_error(&reason, "VM '%s': session with host '%s' ended: ", move->vm_name, move->peer);
    gw_target_drop_session(target);
    /* A stream that is not whole cannot become so: there is no other session for it. */
    if (move->state == GW_MOVE_INCOMING && !whole) {
        gw_move_event(move, GW_MOVE_EVENT_FAILED, reason);
    } else {
        gw_move_event(move, GW_MOVE_EVENT_LINK_LOST, reason);
    }
}

static void
on_ready(GwLane *lane, void *data)
{
    /* An accepted session was ready before it came to us. */
}

void
gw_target_take_session(GwMove *move, GwLane *lane, json_t *first_message)
{
    static const GwLaneHandlers handlers = {on_ready, on_message, on_stream_end, on_closed};
    GwTarget *target = side_of(move);
    bool cuts_stream =
        target->lane && !gw_move_is_by_qemu(move) && !target->stream_whole && !is_switching(target);

    gw_target_drop_session(target);
    target->lane = lane;
    gw_lane_set_handlers(lane, &handlers, target);
    if (cuts_stream) {
        gw_move_fail(move, GW_MOVE_EVENT_FAILED, GW_ERROR_UNREACHABLE,
                     "VM '%s': host '%s' opened a new session before all of the guest had come",
                     move->vm_name, move->peer);
    }
    on_message(lane, first_message, target);
    gw_target_post_consider(target);
}

void
gw_target_set_prepare(GwMove *move, const json_t *message)
{
    GwTarget *target = side_of(move);

    target->prepare = json_deep_copy(message);
}

/* --- the states' work ------------------------------------------------------------------------- */

/* Names of the blocks that pages are written to, which can be read back. */
static json_t *
placed_blocks(const GwPlacer *placer)
{
    json_t *names = json_array();
    const char *name;

    for (unsigned i = 0; placer && (name = gw_placer_block_name(placer, i)); i++) {
        json_array_append_new(names, json_string(name));
    }
    return names;
}

static void
receive(GwTarget *target)
{
    GwMove *move = target->move;
    GwVm *vm = gw_move_vm(move);
    g_autoptr(GError) error = NULL;

    if (!target->lane) {
        return; /* its end is told by an event that waits behind this one */
    }
    if (target->images &&
        !gw_lane_take_references(target->lane, g_steal_pointer(&target->images), &error)) {
        gw_move_event(move, GW_MOVE_EVENT_FAILED, error);
        return;
    }
    gw_lane_note_visit(target->lane, target->tags);
    g_autoptr(json_t) placed = placed_blocks(target->placer);

    gw_lane_place_pages(target->lane, g_steal_pointer(&target->placer));
    bool by_qemu = gw_move_is_by_qemu(move);
    bool ok = by_qemu ? true
              : gw_move_may_post(move)
                  ? gw_target_post_receive(target, &error)
                  : gw_lane_start_stream(target->lane, g_steal_fd(&target->stream_fd), &error);
    if (!ok) {
        gw_move_event(move, GW_MOVE_EVENT_FAILED, error);
        return;
    }
    json_t *extra = json_object();
    if (vm) {
        gw_json_set_str(extra, "qemu_version",
                        gw_json_str(gw_vm_run_info(vm), "qemu_version", NULL));
    }
    if (by_qemu) {
        gw_json_set_int(extra, "port", target->port);
        gw_json_set_str(extra, "psk", target->key);
    }
    gw_json_set_bool(extra, "notes_visit", target->tags != NULL);
    if (json_array_size(placed) > 0) {
        json_object_set(extra, "placed", placed);
    }
    if (target->ref_taken) {
        json_object_set(extra, "references", target->ref_taken);
    }
    gw_move_send(move, target->lane, "prepared", extra);
    gw_target_check_handed(target);
}

/* The guest runs here, and nothing of it is on its way any more. */
static void
note_arrival(GwTarget *target)
{
    GwMove *move = target->move;

    if (move->state == GW_MOVE_RUNNING && target->stream_whole && move->moves->options.visits) {
        gw_visits_came(move->moves->options.visits, move->vm_name, move->peer, move->id,
                       g_steal_pointer(&target->tags));
    }
}

static void
on_refreshed(GwVm *vm, const GError *error, void *data)
{
    /* Only the state shown depends on it; QEMU's events correct that, too. */
}

static void
settle_running(GwTarget *target)
{
    GwMove *move = target->move;
    GwVm *vm = gw_move_vm(move);

    gw_target_qemu_leave(target);
    if (vm) {
        gw_vm_release(vm);
        gw_vms_refresh(move->moves->options.vms, vm, on_refreshed, move);
    }
    note_arrival(target);
    answer_source(target);
}

static void
refuse(GwTarget *target)
{
    gw_target_qemu_leave(target);
    gw_fd_clear(&target->stream_fd);
    drop_references(target);
    drop_unused(target);
    gw_move_discard_vm(target->move, on_discarded);
}

static void
fetch(GwTarget *target)
{
    GwVm *vm = gw_move_vm(target->move);

    if (!vm || gw_vm_state(vm) == GW_VM_STOPPED) {
        gw_move_fail(target->move, GW_MOVE_EVENT_QEMU_GONE, GW_ERROR_GUEST_LOST,
                     "VM '%s': QEMU on host '%s' ended before all its pages were there",
                     target->move->vm_name, target->move->moves->options.host_name);
        return;
    }
    gw_target_qemu_observe(target, vm);
    gw_target_post_stand_by(target);
    gw_target_post_fetch(target);
    answer_source(target);
}

static void
guest_lost(GwTarget *target)
{
    GwVm *vm = gw_move_vm(target->move);

    gw_target_qemu_leave(target);
    if (vm) {
        gw_vm_release(vm);
    }
    gw_move_end_half(target->move, vm);
    drop_unused(target);
    answer_source(target);
}

static void
target_enter(GwMove *move)
{
    GwTarget *target = side_of(move);

    switch (move->state) {
    case GW_MOVE_PREPARING:
        if (target->prepare) {
            prepare(target);
        } else {
            gw_move_fail(move, GW_MOVE_EVENT_FAILED, GW_ERROR_NOT_FOUND,
                         "host '%s' knows nothing of this move", move->moves->options.host_name);
        }
        break;
    case GW_MOVE_INCOMING:
        receive(target);
        break;
    case GW_MOVE_ACCEPTED:
        gw_target_qemu_start(target);
        break;
    case GW_MOVE_FETCHING:
        fetch(target);
        break;
    case GW_MOVE_RUNNING:
        settle_running(target);
        break;
    case GW_MOVE_REFUSED:
        refuse(target);
        break;
    case GW_MOVE_GUEST_LOST:
        guest_lost(target);
        break;
    case GW_MOVE_PLANNED:
    case GW_MOVE_CHECKED:
    case GW_MOVE_PREPARED:
    case GW_MOVE_PRECOPY:
    case GW_MOVE_SWITCHOVER:
    case GW_MOVE_PAUSING:
    case GW_MOVE_POSTCOPY:
    case GW_MOVE_HANDED_OVER:
    case GW_MOVE_SETTLED:
    case GW_MOVE_ROLLING_BACK:
    case GW_MOVE_ROLLED_BACK:
    case GW_MOVE_ABANDONED:
    case GW_MOVE_CANCELLING:
    case GW_MOVE_CANCELLED:
    case GW_MOVE_N_STATES:
        break; /* the source's */
    }
}

/* --- records ---------------------------------------------------------------------------------- */

static void
target_write(GwMove *move, GwMoveState next, GwStoreTxn *txn)
{
    GwVm *vm = gw_move_vm(move);

    if (next == GW_MOVE_ACCEPTED && vm) {
        gw_vms_txn_take_over(move->moves->options.vms, vm, move->generation + 1, txn);
    } else if (next == GW_MOVE_REFUSED && move->state == GW_MOVE_ACCEPTED && vm) {
        /* As the source will write, and so that recovery knows what it finds here. */
        gw_vms_txn_set_owner(move->moves->options.vms, vm, move->peer, move->generation + 2, txn);
    }
}

static void
target_report(GwMove *move, json_t *record)
{
    GwTarget *target = side_of(move);

    GwLaneStats stats = gw_report_sessions(&target->ended_stats, target->lane);

    gw_report_lane(record, &stats);
    gw_report_cpu(record, gw_move_vm(move), 0);
    GwMoveState state = gw_move_state_from_name(gw_json_str(record, "state", ""));

    /* Written with the state: should this host crash now, it is ended when the daemon is back. */
    if (state == GW_MOVE_GUEST_LOST && gw_move_may_post(move)) {
        gw_move_note_half(move, record);
    }
    bool runs = state == GW_MOVE_RUNNING || state == GW_MOVE_FETCHING;
    if (runs && target->given_up_us > 0 && !json_object_get(record, "start_ms")) {
        gw_json_set_int(record, "start_ms", (gw_now_us() - target->given_up_us) / 1000);
    }
    if (target->started_us > 0 && !json_object_get(record, "ended")) {
        gw_json_set_int(record, "total_ms", (gw_now_us() - target->started_us) / 1000);
    }
}

static const GwLane *
target_lane(const GwMove *move)
{
    const GwTarget *target = move->side;

    return target->lane;
}

static void
target_init(GwMove *move)
{
    GwTarget *target = g_new0(GwTarget, 1);

    target->move = move;
    target->stream_fd = GW_FD_NONE;
    move->side = target;
}

static void
target_free(GwMove *move)
{
    GwTarget *target = side_of(move);

    gw_target_qemu_leave(target);
    drop_references(target);
    gw_placer_free(target->placer);
    gw_lane_free(target->lane);
    gw_visit_tags_free(target->tags);
    gw_fd_clear(&target->stream_fd);
    json_decref(target->prepare);
    g_free(target->key);
    g_free(target->start_error);
    g_free(target);
}

const GwMoveRole gw_target_role = {
    .name = "target",
    .init = target_init,
    .enter = target_enter,
    .write = target_write,
    .report = target_report,
    .lane = target_lane,
    .free = target_free,
};
