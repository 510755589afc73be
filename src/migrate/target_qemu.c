// SPDX-License-Identifier: Apache-2.0
/*
 * The receiving host's QEMU in a move: makes it ready to listen, hears how its loading goes, starts
 * the guest that was given to this host.
 *
 * Main context. Owns nothing of its own: the VM is GwVms', the rest the move's (internal.h). Every
 * failure is an event to the mover.
 */
#include "base/fd.h"
#include "migrate/internal.h"
#include "migrate/qemu_memory.h"

#include <string.h>

#define FD_NAME "gwmig"

/* --- what it says ------------------------------------------------------------------------------
 */

static void
on_migration_status(GwTarget *target, const char *status)
{
    gw_target_post_look(target, status);
    if (strcmp(status, "completed") == 0) {
        target->loaded = true;
        gw_target_check_handed(target);
        gw_target_verify_loaded(target);
    } else if (strcmp(status, "postcopy-active") == 0) {
        gw_target_post_await_load(target);
    } else if (strcmp(status, "failed") == 0) {
        gw_move_fail(target->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on host '%s' could not load the guest; its log is %s",
                     target->move->vm_name, target->move->moves->options.host_name,
                     "shown by 'godwit vm log' there");
    }
}

static void
on_load_status(json_t *answer, const GError *error, void *data)
{
    if (!error) {
        on_migration_status(data, gw_json_str(answer, "status", ""));
    }
}

void
gw_target_qemu_ask_loaded(GwTarget *target)
{
    GwQmp *qmp = gw_move_qmp(target->move);

    if (target->move->state == GW_MOVE_INCOMING && !target->loaded && qmp) {
        gw_qmp_call(qmp, "query-migrate", NULL, on_load_status, target);
    }
}

static void
on_vm_event(GwVm *vm, const char *event, json_t *arguments, void *data)
{
    GwTarget *target = data;
    GwMove *move = target->move;

    if (event) {
        if (strcmp(event, "MIGRATION") == 0) {
            gw_move_log_status(move, gw_json_str(arguments, "status", ""));
            on_migration_status(target, gw_json_str(arguments, "status", ""));
        } else if (strcmp(event, "RESUME") == 0 && move->state == GW_MOVE_ACCEPTED &&
                   gw_move_may_post(move)) {
            /* The answer to "cont" may have to wait for a page. */
            gw_target_post_started(target);
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
                 move->state == GW_MOVE_INCOMING || move->state == GW_MOVE_PREPARING
                     ? GW_ERROR_FAILED
                     : GW_ERROR_GUEST_LOST,
                 "VM '%s': QEMU on host '%s' ended: %s", move->vm_name,
                 move->moves->options.host_name, reason);
}

void
gw_target_qemu_observe(GwTarget *target, GwVm *vm)
{
    if (!target->observing) {
        target->observing = true;
        gw_vm_observe(vm, on_vm_event, target);
    }
}

void
gw_target_qemu_leave(GwTarget *target)
{
    GwVm *vm = gw_move_vm(target->move);

    g_clear_handle_id(&target->refuse_timer, g_source_remove);
    g_clear_pointer(&target->door, gw_plain_door_free);
    gw_target_post_leave(target);
    gw_target_verify_free(target);
    if (vm && gw_vm_qmp(vm)) {
        gw_qmp_forget(gw_vm_qmp(vm), target);
    }
    if (vm && target->observing) {
        gw_vm_unobserve(vm, target);
    }
    target->observing = false;
}

/* --- listening ---------------------------------------------------------------------------------
 */

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

static void
on_direct_ready(json_t *answer, const GError *error, void *data)
{
    on_setup_reply(answer, error, data);
    if (!error) {
        gw_target_listens(data);
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
    gw_target_listens(target);
}

static void
on_lane_listening(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    GwQmp *qmp = gw_move_qmp(target->move);

    on_setup_reply(answer, error, data);
    if (!error && qmp) {
        gw_qmp_call(qmp, "human-monitor-command",
                    json_pack("{s:s}", "command-line", "info ramblock"), on_memory_told, target);
    }
}

static void
listen_on(GwTarget *target, GwQmp *qmp, GwFd fd, GwQmpReplyFn listening)
{
    gw_qmp_call_fd(qmp, "getfd", json_pack("{s:s}", "fdname", FD_NAME), fd, on_setup_reply, target);
    gw_qmp_call(qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" FD_NAME), listening,
                target);
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
    listen_on(target, qmp, qemu_end, on_lane_listening);
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
    GwQmp *qmp = gw_move_qmp(target->move);
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

static void
on_plain_caller(GwFd fd, const GError *error, void *data)
{
    GwTarget *target = data;
    GwQmp *qmp = gw_move_qmp(target->move);
    g_auto(GwFd) owned = fd;

    g_clear_pointer(&target->door, gw_plain_door_free);
    if (error) {
        gw_move_event(target->move, GW_MOVE_EVENT_FAILED, error);
    } else if (qmp) { /* else its end is told by an event */
        listen_on(target, qmp, owned, on_setup_reply);
    }
}

/* QEMU listens when the source has come, and that comes when it has heard that the door is open. */
static bool
start_plain(GwTarget *target, GError **error)
{
    struct sockaddr_storage here = {0};

    if (!target->lane) {
        return true; /* its end is told by an event that waits behind this one */
    }
    gw_lane_ends(target->lane, &here, NULL);
    target->door = gw_plain_door_new(target->move, &here, on_plain_caller, target, error);
    if (!target->door) {
        return false;
    }
    target->key = g_strdup(gw_plain_door_key(target->door));
    target->port = gw_plain_door_port(target->door);
    gw_target_listens(target);
    return true;
}

static bool
start_listening(GwTarget *target, GwVm *vm, GError **error)
{
    switch (gw_move_transport(target->move)) {
    case GW_TRANSPORT_DIRECT:
        return start_direct(target, vm, error);
    case GW_TRANSPORT_PLAIN:
        return start_plain(target, error);
    case GW_TRANSPORT_LANE:
    case GW_TRANSPORT_N:
        break;
    }
    return gw_move_may_post(target->move) ? gw_target_post_listen(target, gw_vm_qmp(vm), error)
                                          : listen_on_lane(target, gw_vm_qmp(vm), error);
}

/* late-block-activate: the disks stay the source's until the guest is started here. */
static json_t *
capability_list(bool may_post)
{
    static const char *const names[] = {"events", "late-block-activate", "return-path",
                                        "postcopy-ram", "postcopy-preempt"};
    json_t *list = json_array();

    for (size_t i = 0; i < (may_post ? G_N_ELEMENTS(names) : 2); i++) {
        json_array_append_new(list, json_pack("{s:s, s:b}", "capability", names[i], "state", 1));
    }
    return json_pack("{s:o}", "capabilities", list);
}

void
gw_target_qemu_listen(GwTarget *target, GwVm *vm)
{
    bool may_post = gw_move_may_post(target->move);
    GwQmp *qmp = gw_vm_qmp(vm);
    g_autoptr(GError) error = NULL;

    gw_target_qemu_observe(target, vm);
    gw_qmp_call(qmp, "migrate-set-capabilities", capability_list(may_post), on_setup_reply, target);
    if (!start_listening(target, vm, &error)) {
        gw_move_event(target->move, GW_MOVE_EVENT_FAILED, error);
    }
}

/* --- the start ---------------------------------------------------------------------------------
 */

static void
tell_started(GwTarget *target)
{
    if (gw_move_may_post(target->move)) {
        gw_target_post_started(target);
    } else {
        gw_move_event(target->move, GW_MOVE_EVENT_GUEST_RUNNING, NULL);
    }
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
        tell_started(target);
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
    GwQmp *qmp = gw_move_qmp(target->move);

    if (!error) {
        tell_started(target);
        return;
    }
    g_free(target->start_error);
    target->start_error = g_strdup(error->message);
    if (qmp) {
        gw_qmp_call(qmp, "query-status", NULL, on_status_after_start, target);
    }
}

void
gw_target_qemu_start(GwTarget *target)
{
    GwMove *move = target->move;
    GwVm *vm = gw_move_vm(move);
    GwQmp *qmp = gw_move_qmp(target->move);

    if (!vm || gw_vm_state(vm) == GW_VM_STOPPED) {
        gw_move_fail(move,
                     target->never_started ? GW_MOVE_EVENT_START_REFUSED : GW_MOVE_EVENT_QEMU_GONE,
                     target->never_started ? GW_ERROR_FAILED : GW_ERROR_GUEST_LOST,
                     "VM '%s' was given to host '%s', and its QEMU is gone", move->vm_name,
                     move->moves->options.host_name);
        return;
    }
    gw_vms_take_over(move->moves->options.vms, vm, move->generation + 1);
    if (target->taken_back) {
        return; /* while that was written; the end of the move waits behind this step */
    }
    gw_target_verify_free(target);
    gw_target_qemu_observe(target, vm);
    if (qmp) {
        target->first_start = target->never_started;
        target->never_started = false;
        gw_qmp_forget(qmp, target);
        target->post.recovers = target->post.asks = false;
        gw_qmp_call(qmp, "cont", NULL, on_start_reply, target);
    }
    gw_target_post_stand_by(target);
}
