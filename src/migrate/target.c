// SPDX-License-Identifier: Apache-2.0
/*
 * The receiving host: answers checks, prepares a QEMU, takes the stream in, and starts the guest
 * once it was given to this host; or refuses, durably.
 *
 * Main context. Owns the session of each incoming move, and "visitors": sessions that belong to no
 * move of ours (checks, questions about moves that this host does not know).
 *
 * A peer may speak only of moves that it is the source of. The guest is started only in ACCEPTED.
 */
#include "base/fd.h"
#include "base/units.h"
#include "migrate/check.h"
#include "migrate/qemu_memory.h"

#include <string.h>

#define FD_NAME "gwmig"

static GwTarget *
side_of(GwMove *move)
{
    return move->side;
}

static GwQmp *
qmp_of(GwTarget *target)
{
    GwVm *vm = gw_move_vm(target->move);

    return vm ? gw_vm_qmp(vm) : NULL;
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
static void
check_handed_to_us(GwTarget *target)
{
    bool whole = target->loaded && (target->stream_whole || target->direct);
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

static void
on_migration_status(GwTarget *target, const char *status)
{
    if (strcmp(status, "completed") == 0) {
        target->loaded = true;
        check_handed_to_us(target);
        gw_target_verify_loaded(target);
    } else if (strcmp(status, "failed") == 0) {
        gw_move_fail(target->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on host '%s' could not load the guest; its log is %s",
                     target->move->vm_name, target->move->moves->options.host_name,
                     "shown by 'godwit vm log' there");
    }
}

static void
on_vm_event(GwVm *vm, const char *event, json_t *arguments, void *data)
{
    GwTarget *target = data;
    GwMove *move = target->move;

    if (event) {
        if (strcmp(event, "MIGRATION") == 0) {
            on_migration_status(target, gw_json_str(arguments, "status", ""));
        }
        return;
    }
    const char *reason = gw_vm_stop_reason(vm) ? gw_vm_stop_reason(vm) : "no reason known";
    if (target->never_started) {
        gw_move_fail(move, GW_MOVE_EVENT_START_REFUSED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on host '%s' ended before it was started: %s", move->vm_name,
                     move->moves->options.host_name, reason);
        return;
    }
    gw_move_fail(move, GW_MOVE_EVENT_QEMU_GONE,
                 move->state == GW_MOVE_ACCEPTED ? GW_ERROR_GUEST_LOST : GW_ERROR_FAILED,
                 "VM '%s': QEMU on host '%s' ended: %s", move->vm_name,
                 move->moves->options.host_name, reason);
}

/* --- preparing QEMU --------------------------------------------------------------------------- */

static void
on_setup_reply(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;

    if (error) {
        gw_move_fail(target->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on host '%s' did not accept the move: %s",
                     target->move->vm_name, target->move->moves->options.host_name, error->message);
    }
}

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
static void
be_ready(GwTarget *target)
{
    if (target->ref_probe) {
        target->ref_wait = g_timeout_add(GW_REF_PROBE_WAIT_MS, on_ref_waited, target);
    } else {
        gw_move_event(target->move, GW_MOVE_EVENT_READY, NULL);
    }
}

static void
on_direct_ready(json_t *answer, const GError *error, void *data)
{
    on_setup_reply(answer, error, data);
    if (!error) {
        be_ready(data);
    }
}

/* Without it pages take the way through QEMU's loader. */
static void
on_memory_told(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    const char *table = json_string_value(answer);
    GwVm *vm = gw_move_vm(target->move);
    g_autoptr(GError) problem = error ? g_error_copy(error) : NULL;

    if (vm && table) {
        target->placer = gw_qemu_memory_open(gw_vm_process(vm), table, &problem);
    }
    if (!target->placer) {
        GwLogFields fields = gw_move_log_fields(target->move);
        gw_info(&fields, "pages go through QEMU's loader: its memory cannot be written to: %s",
                problem ? problem->message : "it does not tell where that is");
    }
    be_ready(target);
}

static void
on_lane_listening(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    GwQmp *qmp = qmp_of(target);

    on_setup_reply(answer, error, data);
    if (!error && qmp) {
        gw_qmp_call(qmp, "human-monitor-command",
                    json_pack("{s:s}", "command-line", "info ramblock"), on_memory_told, target);
    }
}

static bool
listen_on_lane(GwTarget *target, GwQmp *qmp, GError **error)
{
    g_auto(GwFd) qemu_end = GW_FD_NONE;
    GwFd pair[2];

    if (!gw_fd_socketpair(pair, error)) {
        return false;
    }
    target->stream_fd = pair[0];
    qemu_end = pair[1];
    gw_qmp_call_fd(qmp, "getfd", json_pack("{s:s}", "fdname", FD_NAME), qemu_end, on_setup_reply,
                   target);
    gw_qmp_call(qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" FD_NAME),
                on_lane_listening, target);
    return true;
}

static void listen_direct(GwTarget *target);

/* A port that is taken is no failure: the next one of the range is tried. */
static void
on_direct_listening(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    const GwMovesOptions *options = &target->move->moves->options;

    if (error && target->next_port < options->direct_port_max) {
        target->next_port++;
        listen_direct(target);
        return;
    }
    target->port = target->next_port;
    on_direct_ready(answer, error, data);
}

static void
listen_direct(GwTarget *target)
{
    GwQmp *qmp = qmp_of(target);
    g_autofree char *uri = g_strdup_printf("tcp:[::]:%u", target->next_port);

    if (qmp) {
        gw_qmp_call(qmp, "migrate-incoming", json_pack("{s:s}", "uri", uri), on_direct_listening,
                    target);
    }
}

static bool
start_direct(GwTarget *target, GwVm *vm, GError **error)
{
    target->key = gw_direct_new_key();
    if (!gw_direct_add_credentials(target->move, target->key, "server", on_setup_reply, target,
                                   error)) {
        return false;
    }
    gw_qmp_call(gw_vm_qmp(vm), "migrate-set-parameters", json_pack("{s:s}", "tls-creds", "gwpsk"),
                on_setup_reply, target);
    target->next_port = target->move->moves->options.direct_port_min;
    listen_direct(target);
    return true;
}

/* late-block-activate: the disks stay the source's until the guest is started here. */
static json_t *
capability_list(void)
{
    return json_pack("{s:[{s:s, s:b}, {s:s, s:b}]}", "capabilities", "capability", "events",
                     "state", 1, "capability", "late-block-activate", "state", 1);
}

static void
on_vm_prepared(GwVm *vm, const GError *error, void *data)
{
    GwTarget *target = ((GwMove *)data)->side;
    g_autoptr(GError) failure = NULL;

    gw_move_call_done(target->move);
    if (target->move->state != GW_MOVE_PREPARING) {
        return; /* refused meanwhile; the discard that belongs to it deals with QEMU */
    }
    if (error) {
        gw_move_event(target->move, GW_MOVE_EVENT_FAILED, error);
        return;
    }
    if (!vm || !gw_vm_qmp(vm)) {
        gw_move_fail(target->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on host '%s' ended as soon as it was started",
                     target->move->vm_name, target->move->moves->options.host_name);
        return;
    }
    target->observing = true;
    gw_vm_observe(vm, on_vm_event, target);
    GwQmp *qmp = gw_vm_qmp(vm);
    gw_qmp_call(qmp, "migrate-set-capabilities", capability_list(), on_setup_reply, target);
    bool ok =
        target->direct ? start_direct(target, vm, &failure) : listen_on_lane(target, qmp, &failure);
    if (!ok) {
        gw_move_event(target->move, GW_MOVE_EVENT_FAILED, failure);
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
    target->started_us = gw_now_us();
    look_at_offers(target, definition);
    move->calls++;
    gw_vms_prepare_incoming(move->moves->options.vms, definition,
                            json_object_get(target->prepare, "run"), move->id, on_vm_prepared,
                            move);
}

/* --- the session ------------------------------------------------------------------------------ */

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

/* What the source wants to know; nothing while it is not decided. */
static void
answer_source(GwTarget *target)
{
    GwMoveState state = target->move->state;

    if (state == GW_MOVE_RUNNING) {
        send_answer(target, "running");
    } else if (state == GW_MOVE_REFUSED && !gw_move_vm(target->move)) {
        /* The source may resume as soon as it hears of it, so QEMU's end comes first. */
        send_answer(target, "refused");
    } else if (state == GW_MOVE_GUEST_LOST) {
        send_answer(target, "lost");
    }
}

static void
on_load_status(json_t *answer, const GError *error, void *data)
{
    if (!error) {
        on_migration_status(data, gw_json_str(answer, "status", ""));
    }
}

/* QEMU tells it by an event, which is lost if its monitor had to be opened again. */
static void
ask_whether_loaded(GwTarget *target)
{
    GwQmp *qmp = qmp_of(target);

    if (target->move->state == GW_MOVE_INCOMING && !target->loaded && qmp) {
        gw_qmp_call(qmp, "query-migrate", NULL, on_load_status, target);
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
        check_handed_to_us(target);
        ask_whether_loaded(target);
    }
    answer_source(target);
}

/* As long as the source compares, it has not forgotten us. */
static void
on_verify(GwTarget *target, json_t *message)
{
    if (target->move->state == GW_MOVE_INCOMING && !target->given_up) {
        g_clear_handle_id(&target->refuse_timer, g_source_remove);
        check_handed_to_us(target);
        gw_target_verify(target, message);
        ask_whether_loaded(target);
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
    check_handed_to_us(target);
}

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    GwTarget *target = data;
    GwMove *move = target->move;
    bool whole = target->stream_whole || (target->direct && target->loaded);
    g_autoptr(GError) reason = g_error_copy(error);

    g_prefix_error(&reason, "VM '%s': session with host '%s' ended: ", move->vm_name, move->peer);
    gw_lane_stats(lane, &target->lane_stats);
    g_clear_pointer(&target->lane, gw_lane_free);
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
    bool cuts_stream = target->lane && !target->direct && !target->stream_whole;

    gw_lane_free(target->lane);
    target->lane = lane;
    gw_lane_set_handlers(lane, &handlers, target);
    if (cuts_stream) {
        gw_move_fail(move, GW_MOVE_EVENT_FAILED, GW_ERROR_UNREACHABLE,
                     "VM '%s': host '%s' opened a new session before all of the guest had come",
                     move->vm_name, move->peer);
    }
    on_message(lane, first_message, target);
}

void
gw_target_set_prepare(GwMove *move, const json_t *message)
{
    GwTarget *target = side_of(move);

    target->prepare = json_deep_copy(message);
    target->direct = strcmp(gw_json_str(message, "transport", "lane"), "direct") == 0;
}

/* --- the states' work ------------------------------------------------------------------------- */

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
    gw_lane_place_pages(target->lane, g_steal_pointer(&target->placer));
    if (!target->direct &&
        !gw_lane_start_stream(target->lane, g_steal_fd(&target->stream_fd), &error)) {
        gw_move_event(move, GW_MOVE_EVENT_FAILED, error);
        return;
    }
    json_t *extra = json_object();
    if (vm) {
        gw_json_set_str(extra, "qemu_version",
                        gw_json_str(gw_vm_run_info(vm), "qemu_version", NULL));
    }
    if (target->direct) {
        gw_json_set_int(extra, "port", target->port);
        gw_json_set_str(extra, "psk", target->key);
    }
    gw_json_set_bool(extra, "notes_visit", target->tags != NULL);
    if (target->ref_taken) {
        json_object_set(extra, "references", target->ref_taken);
    }
    gw_move_send(move, target->lane, "prepared", extra);
    check_handed_to_us(target);
}

static void
on_status_after_start(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    GwMove *move = target->move;

    if (error) {
        return; /* the state's timer starts it again */
    }
    if (gw_json_bool(answer, "running", false)) {
        gw_move_event(move, GW_MOVE_EVENT_GUEST_RUNNING, NULL);
        return;
    }
    if (!target->first_start) {
        GwLogFields fields = gw_move_log_fields(move);
        gw_err(&fields, "the guest is ours and QEMU does not start it, trying again: %s",
               target->start_error);
        return;
    }
    gw_move_fail(move, GW_MOVE_EVENT_START_REFUSED, GW_ERROR_FAILED,
                 "VM '%s': QEMU on host '%s' did not start the guest: %s", move->vm_name,
                 move->moves->options.host_name, target->start_error);
}

static void
on_start_reply(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    GwQmp *qmp = qmp_of(target);

    if (!error) {
        gw_move_event(target->move, GW_MOVE_EVENT_GUEST_RUNNING, NULL);
        return;
    }
    g_free(target->start_error);
    target->start_error = g_strdup(error->message);
    if (qmp) {
        gw_qmp_call(qmp, "query-status", NULL, on_status_after_start, target);
    }
}

static void
start_guest(GwTarget *target)
{
    GwMove *move = target->move;
    GwVm *vm = gw_move_vm(move);
    GwQmp *qmp = qmp_of(target);

    if (!vm || gw_vm_state(vm) == GW_VM_STOPPED) {
        gw_move_fail(move,
                     target->never_started ? GW_MOVE_EVENT_START_REFUSED : GW_MOVE_EVENT_QEMU_GONE,
                     target->never_started ? GW_ERROR_FAILED : GW_ERROR_GUEST_LOST,
                     "VM '%s' was given to host '%s', and its QEMU is gone", move->vm_name,
                     move->moves->options.host_name);
        return;
    }
    gw_vms_take_over(move->moves->options.vms, vm, move->generation + 1);
    gw_target_verify_free(target);
    if (!target->observing) {
        target->observing = true;
        gw_vm_observe(vm, on_vm_event, target);
    }
    if (qmp) {
        target->first_start = target->never_started;
        target->never_started = false;
        gw_qmp_forget(qmp, target);
        gw_qmp_call(qmp, "cont", NULL, on_start_reply, target);
    }
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
leave_vm(GwTarget *target)
{
    GwVm *vm = gw_move_vm(target->move);

    g_clear_handle_id(&target->refuse_timer, g_source_remove);
    gw_target_verify_free(target);
    if (vm && gw_vm_qmp(vm)) {
        gw_qmp_forget(gw_vm_qmp(vm), target);
    }
    if (vm && target->observing) {
        gw_vm_unobserve(vm, target);
    }
    target->observing = false;
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

    leave_vm(target);
    if (vm) {
        gw_vm_release(vm);
        gw_vms_refresh(move->moves->options.vms, vm, on_refreshed, move);
    }
    note_arrival(target);
    answer_source(target);
}

static void
on_discarded(GwMove *move)
{
    answer_source(side_of(move));
}

static void
refuse(GwTarget *target)
{
    leave_vm(target);
    gw_fd_clear(&target->stream_fd);
    drop_references(target);
    gw_move_discard_vm(target->move, on_discarded);
}

static void
guest_lost(GwTarget *target)
{
    GwVm *vm = gw_move_vm(target->move);

    leave_vm(target);
    if (vm) {
        gw_vm_release(vm);
    }
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
        start_guest(target);
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
    case GW_MOVE_HANDED_OVER:
    case GW_MOVE_SETTLED:
    case GW_MOVE_ROLLING_BACK:
    case GW_MOVE_ROLLED_BACK:
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

    if (target->lane) {
        gw_lane_stats(target->lane, &target->lane_stats);
    }
    gw_report_lane(record, &target->lane_stats);
    gw_report_cpu(record, gw_move_vm(move), 0);
    if (target->given_up_us > 0 && !json_object_get(record, "start_ms") &&
        strcmp(gw_json_str(record, "state", ""), gw_move_state_info(GW_MOVE_RUNNING)->name) == 0) {
        gw_json_set_int(record, "start_ms", (gw_now_us() - target->given_up_us) / 1000);
    }
    if (target->started_us > 0 && !json_object_get(record, "ended")) {
        gw_json_set_int(record, "total_ms", (gw_now_us() - target->started_us) / 1000);
    }
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

    leave_vm(target);
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
    .free = target_free,
};
