// SPDX-License-Identifier: Apache-2.0
/*
 * A QEMU that is there: its monitor, what its events mean, stopping it, and its end.
 *
 * QEMU's end is known from its process alone. A monitor that closes while the process lives (a
 * broken protocol, a greeting that did not come in time) is opened again every RECONNECT_MS; until
 * then the guest's state is what was known last. Owns watch, monitor, timers and those who wait.
 * Main context; nothing waits.
 */
#include "base/log.h"
#include "vm/internal.h"
#include "vm/qemu_log.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>

#define RECONNECT_MS 500
/* From SIGTERM, at which QEMU writes out what it caches of disk images, to SIGKILL. */
#define KILL_AFTER_MS 3000

typedef struct GwRefresh {
    GwVm *vm;
    GwWaiter waiter;
} GwRefresh;

/* --- records ---------------------------------------------------------------------------------- */

void
gw_vm_set_run(GwVm *vm, GwRun *run)
{
    gw_run_free(vm->run);
    json_decref(vm->run_info);
    vm->run = run;
    vm->run_info = run ? gw_run_info(run) : NULL;
    vm->launched = false;
}

void
gw_vm_save_run(GwVm *vm)
{
    g_autofree char *key = gw_vm_record_key(vm, "run");
    g_autofree char *text = gw_run_text(vm->run);
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_text(txn, key, text);
    gw_store_commit(vm->vms->store, txn, NULL, NULL);
}

/* A record that stays because this fails is found to be stale at the next load. */
static void
drop_run(GwVm *vm)
{
    g_autofree char *key = gw_vm_record_key(vm, "run");
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_delete(txn, key);
    gw_store_commit(vm->vms->store, txn, NULL, NULL);
    gw_vm_set_run(vm, NULL);
}

/* --- the guest's state ------------------------------------------------------------------------ */

static void
set_guest_running(GwVm *vm, bool running)
{
    if (vm->guest_running != running) {
        vm->guest_running = running;
        gw_vm_changed(vm);
    }
}

static void
refresh_done(GwRefresh *refresh, GError *error)
{
    GwVm *vm = refresh->vm;

    g_ptr_array_remove(vm->refreshes, refresh);
    gw_vm_report(vm, &refresh->waiter, error);
    g_free(refresh);
}

static void
on_refreshed(json_t *result, const GError *error, void *data)
{
    GwRefresh *refresh = data;

    if (!error) {
        set_guest_running(refresh->vm, gw_json_bool(result, "running", false));
    }
    refresh_done(refresh, error ? g_error_copy(error) : NULL);
}

void
gw_vms_refresh(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data)
{
    GwWaiter waiter = {.done = callback, .data = data};
    GwQmp *qmp = gw_vm_qmp(vm);

    if (vm->phase == GW_PHASE_STOPPED) {
        gw_vms_report(vms, waiter, vm, NULL);
        return;
    }
    if (!qmp) {
        gw_vms_report(vms, waiter, vm,
                      g_error_new(GW_ERROR, GW_ERROR_UNREACHABLE,
                                  "VM %s: QEMU's monitor does not answer (yet)", vm->name));
        return;
    }
    GwRefresh *refresh = g_new0(GwRefresh, 1);
    refresh->vm = vm;
    refresh->waiter = waiter;
    g_ptr_array_add(vm->refreshes, refresh);
    gw_qmp_call(qmp, "query-status", NULL, on_refreshed, refresh);
}

/* --- the monitor ------------------------------------------------------------------------------ */

/*
 * After a reconnect. "prelaunch" is a start that the daemon did not live to finish: its owner
 * record was compared before QEMU was launched, so the guest is ours to start.
 */
static void
on_status(json_t *result, const GError *error, void *data)
{
    GwVm *vm = data;

    if (error) {
        gw_warn(GW_VM_LOG(vm), "its state is unknown: %s", error->message);
    } else {
        set_guest_running(vm, gw_json_bool(result, "running", false));
        if (!vm->incoming && g_strcmp0(vm->owner.host, vm->vms->host_name) == 0 &&
            strcmp(gw_json_str(result, "status", ""), "prelaunch") == 0) {
            gw_info(GW_VM_LOG(vm), "finishing a start that was interrupted");
            gw_qmp_call(vm->qmp, "cont", NULL, NULL, NULL);
        }
    }
    gw_vm_adopted(vm);
}

static void
on_ready(GwQmp *qmp, void *data)
{
    GwVm *vm = data;

    vm->qmp_ready = true;
    if (vm->phase == GW_PHASE_STARTING) {
        gw_vm_start_ready(vm);
    } else {
        gw_qmp_call(qmp, "query-status", NULL, on_status, vm);
    }
}

static void
on_event(GwQmp *qmp, const char *name, json_t *arguments, void *data)
{
    GwVm *vm = data;

    if (strcmp(name, "STOP") == 0 || strcmp(name, "RESUME") == 0) {
        set_guest_running(vm, strcmp(name, "RESUME") == 0);
    } else if (strcmp(name, "SHUTDOWN") == 0) {
        g_free(vm->shutdown_cause);
        vm->shutdown_cause = g_strdup(gw_json_str(arguments, "reason", ""));
    } else if (strcmp(name, "BLOCK_IO_ERROR") == 0) {
        gw_warn(GW_VM_LOG(vm), "I/O error on %s: %s", gw_json_str(arguments, "node-name", "?"),
                gw_json_str(arguments, "reason", "?"));
    }
    gw_vm_tell_observers(vm, name, arguments);
}

static bool open_monitor(GwVm *vm, GError **error);

static gboolean
on_reconnect(void *data)
{
    GwVm *vm = data;

    g_clear_pointer(&vm->qmp, gw_qmp_free);
    if (!open_monitor(vm, NULL)) {
        return G_SOURCE_CONTINUE;
    }
    vm->reconnect_timer = 0;
    return G_SOURCE_REMOVE;
}

/* Mostly QEMU ends, which its process tells in a moment; then the timer goes with the rest. */
static void
on_closed(GwQmp *qmp, const GError *error, void *data)
{
    GwVm *vm = data;

    vm->qmp_ready = false;
    if (!error || !g_error_matches(error, GW_ERROR, GW_ERROR_UNREACHABLE)) {
        gw_warn(GW_VM_LOG(vm), "%s", error ? error->message : "QEMU's monitor closed");
    }
    vm->reconnect_timer = g_timeout_add(RECONNECT_MS, on_reconnect, vm);
    gw_vm_adopted(vm);
}

static bool
open_monitor(GwVm *vm, GError **error)
{
    static const GwQmpHandlers handlers = {
        .ready = on_ready,
        .event = on_event,
        .closed = on_closed,
    };
    g_autofree char *path = gw_vm_socket_path(vm, "qmp.sock");

    vm->qmp = gw_qmp_open(path, &handlers, vm, error);
    return vm->qmp != NULL;
}

/* --- those who wait for the end --------------------------------------------------------------- */

static void
stop_wait_free(GwStopWait *wait)
{
    g_clear_handle_id(&wait->timer, g_source_remove);
    g_free(wait);
}

static void
stop_wait_done(GwStopWait *wait, GError *error)
{
    GwVm *vm = wait->vm;

    g_ptr_array_remove(vm->stop_waits, wait);
    gw_vm_report(vm, &wait->waiter, error);
    stop_wait_free(wait);
}

/* --- the process ------------------------------------------------------------------------------ */

static void
clear_run_dir(GwVm *vm)
{
    g_autofree char *folder = gw_vm_run_dir(vm);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *file;

    while (dir && (file = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, file, NULL);
        g_unlink(path);
    }
    g_rmdir(folder);
}

/* For people; NULL if the end was on request. Transfer full. */
static char *
reason_of_end(GwVm *vm)
{
    static const struct {
        const char *cause;
        const char *text;
    } causes[] = {
        {"guest-shutdown", "the guest powered itself off"},
        {"guest-reset", "the guest reset itself, which this VM takes for its end"},
        {"guest-panic", "the guest's kernel panicked"},
        {"host-signal", "QEMU was ended by a signal from this host"},
        {"host-qmp-quit", "QEMU was told to quit through its monitor"},
    };

    if (vm->stop_asked) {
        return NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(causes); i++) {
        if (g_strcmp0(vm->shutdown_cause, causes[i].cause) == 0) {
            return g_strdup(causes[i].text);
        }
    }
    g_autofree char *log = gw_vm_log_path(vm);
    g_autofree char *tail = gw_qemu_log_tail(log);
    g_autofree char *message = gw_qemu_log_explain(tail, vm->vms->qemu_user);
    if (!message) {
        return g_strdup_printf("QEMU was killed or crashed without a message: see '%s' and the "
                               "kernel's log (out of memory?)",
                               log);
    }
    return g_strdup_printf("QEMU ended: %s", message);
}

static void
on_process_end(void *data)
{
    GwVm *vm = data;
    g_autofree char *reason = reason_of_end(vm);
    GError *start_error = NULL;

    gw_vm_set_stop_reason(vm, reason);
    if (vm->phase == GW_PHASE_STARTING) {
        start_error = vm->start_error
                          ? g_steal_pointer(&vm->start_error)
                          : g_error_new(GW_ERROR, GW_ERROR_FAILED, "VM %s cannot be started: %s",
                                        vm->name, reason ? reason : "QEMU ended");
    } else {
        gw_log(reason ? GW_LOG_LEVEL_WARNING : GW_LOG_LEVEL_INFO, GW_VM_LOG(vm), "stopped%s%s",
               reason ? ": " : "", reason ? reason : "");
    }
    gw_vm_gone(vm, start_error);
}

void
gw_vm_attach(GwVm *vm)
{
    g_autoptr(GError) error = NULL;

    vm->launched = true;
    vm->watch = gw_process_watch(vm->run->process, on_process_end, vm, &error);
    if (!vm->watch) {
        if (!g_error_matches(error, GW_ERROR, GW_ERROR_NOT_FOUND)) {
            gw_err(GW_VM_LOG(vm), "QEMU is ended as it cannot be watched: %s", error->message);
            gw_vm_signal(vm, SIGKILL);
        }
        on_process_end(vm);
        return;
    }
    if (!open_monitor(vm, &error)) {
        gw_warn(GW_VM_LOG(vm), "%s", error->message);
        vm->reconnect_timer = g_timeout_add(RECONNECT_MS, on_reconnect, vm);
    }
}

void
gw_vm_detach(GwVm *vm)
{
    g_clear_handle_id(&vm->reconnect_timer, g_source_remove);
    g_clear_handle_id(&vm->start_timer, g_source_remove);
    g_clear_handle_id(&vm->kill_timer, g_source_remove);
    g_clear_pointer(&vm->watch, gw_process_watch_free);
    g_clear_pointer(&vm->qmp, gw_qmp_free);
    vm->qmp_ready = false;
}

void
gw_vm_signal(GwVm *vm, int number)
{
    g_autoptr(GError) error = NULL;

    if (!gw_process_signal(vm->run->process, number, &error) &&
        !g_error_matches(error, GW_ERROR, GW_ERROR_NOT_FOUND)) {
        gw_err(GW_VM_LOG(vm), "QEMU cannot be ended: %s", error->message);
    }
}

void
gw_vm_gone(GwVm *vm, GError *start_error)
{
    gw_vm_detach(vm);
    gw_fd_clear(&vm->lock);
    g_clear_error(&vm->start_error);
    clear_run_dir(vm);
    drop_run(vm);
    vm->phase = GW_PHASE_STOPPED;
    vm->guest_running = false;
    gw_vm_tell_observers(vm, NULL, NULL);
    gw_vm_changed(vm);
    while (vm->refreshes->len > 0) {
        refresh_done(g_ptr_array_index(vm->refreshes, 0), NULL);
    }
    while (vm->stop_waits->len > 0) {
        stop_wait_done(g_ptr_array_index(vm->stop_waits, 0), NULL);
    }
    gw_vm_adopted(vm);
    bool failed = start_error != NULL;
    gw_vm_report(vm, &vm->start, start_error);
    if (vm->discarding) {
        gw_vm_finish_discard(vm);
    } else if (vm->incoming && failed) {
        gw_vm_forget_incoming(vm);
    }
}

/* --- stopping --------------------------------------------------------------------------------- */

void
gw_vm_free_waits(GwVm *vm)
{
    g_ptr_array_set_free_func(vm->refreshes, g_free);
    g_ptr_array_set_free_func(vm->stop_waits, (GDestroyNotify)stop_wait_free);
    g_ptr_array_unref(vm->refreshes);
    g_ptr_array_unref(vm->stop_waits);
}

static GwStopWait *
add_stop_wait(GwVm *vm, GwWaiter waiter)
{
    GwStopWait *wait = g_new0(GwStopWait, 1);

    wait->vm = vm;
    wait->waiter = waiter;
    g_ptr_array_add(vm->stop_waits, wait);
    return wait;
}

/* The guest did not go: if nobody waits any more, it just runs on. */
static gboolean
on_stop_timeout(void *data)
{
    GwStopWait *wait = data;
    GwVm *vm = wait->vm;

    wait->timer = 0;
    stop_wait_done(wait, g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                                     "VM %s: the guest did not power itself off in time: is it "
                                     "made to react to the power button? Use force to stop it "
                                     "anyway",
                                     vm->name));
    if (vm->stop_waits->len == 0 && vm->phase == GW_PHASE_STOPPING) {
        vm->phase = GW_PHASE_UP;
        vm->stop_asked = false;
        gw_vm_changed(vm);
    }
    return G_SOURCE_REMOVE;
}

static gboolean
on_kill_timer(void *data)
{
    GwVm *vm = data;

    vm->kill_timer = 0;
    gw_vm_signal(vm, SIGKILL);
    return G_SOURCE_REMOVE;
}

static GError *
why_not_stoppable(GwVm *vm, bool force)
{
    if (vm->held_by) {
        return g_error_new(GW_ERROR, GW_ERROR_STATE, "VM %s is held by move %s: cancel that first",
                           vm->name, vm->held_by);
    }
    if (vm->phase == GW_PHASE_STOPPED || vm->incoming) {
        return g_error_new(GW_ERROR, GW_ERROR_STATE, "VM %s is %s: there is nothing to stop",
                           vm->name, gw_vm_state_name(gw_vm_state(vm)));
    }
    if (force || vm->phase == GW_PHASE_STARTING) {
        return NULL;
    }
    if (!gw_vm_qmp(vm)) {
        return g_error_new(GW_ERROR, GW_ERROR_UNREACHABLE,
                           "VM %s: QEMU's monitor does not answer: use force to stop it anyway",
                           vm->name);
    }
    if (!vm->guest_running) {
        return g_error_new(GW_ERROR, GW_ERROR_STATE,
                           "VM %s is paused, so its guest cannot power itself off: use force",
                           vm->name);
    }
    return NULL;
}

void
gw_vms_stop(GwVms *vms, GwVm *vm, bool force, int64_t timeout_ms, GwVmsDoneFn callback, void *data)
{
    GwWaiter waiter = {.done = callback, .data = data};
    GError *error = why_not_stoppable(vm, force);

    if (error) {
        gw_vms_report(vms, waiter, vm, error);
        return;
    }
    GwStopWait *wait = add_stop_wait(vm, waiter);
    vm->stop_asked = true;
    if (vm->phase == GW_PHASE_STARTING) {
        /* Nothing of the guest ran yet that would have to end in order. */
        gw_vm_abort_start(vm, g_error_new(GW_ERROR, GW_ERROR_CANCELLED,
                                          "VM %s was stopped while it started", vm->name));
        return;
    }
    vm->phase = GW_PHASE_STOPPING;
    gw_vm_changed(vm);
    if (force) {
        gw_vm_signal(vm, SIGTERM);
        if (!vm->kill_timer) {
            vm->kill_timer = g_timeout_add(KILL_AFTER_MS, on_kill_timer, vm);
        }
    } else {
        int64_t limit_ms = CLAMP(timeout_ms, 1, G_MAXINT32);
        wait->timer = g_timeout_add((guint)limit_ms, on_stop_timeout, wait);
        gw_qmp_call(gw_vm_qmp(vm), "system_powerdown", NULL, NULL, NULL);
    }
}
