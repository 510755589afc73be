// SPDX-License-Identifier: Apache-2.0
/*
 * One VM as others see it: state, names of its files, JSON, observers. Owns all of struct GwVm.
 * Main context. Nothing in here waits or fails.
 */
#include "qemu/process.h"
#include "vm/internal.h"

typedef struct GwObserver {
    GwVmEventFn callback;
    void *data;
} GwObserver;

static const char *const state_names[GW_VM_N_STATES] = {
    [GW_VM_STOPPED] = "stopped", [GW_VM_STARTING] = "starting", [GW_VM_RUNNING] = "running",
    [GW_VM_PAUSED] = "paused",   [GW_VM_INCOMING] = "incoming", [GW_VM_STOPPING] = "stopping",
};

const char *
gw_vm_state_name(GwVmState state)
{
    return (unsigned)state < GW_VM_N_STATES ? state_names[state] : NULL;
}

GwVm *
gw_vm_new(GwVms *vms, GwDefinition *definition)
{
    GwVm *vm = g_new0(GwVm, 1);

    vm->vms = vms;
    vm->name = g_strdup(definition->name);
    vm->definition = definition;
    vm->lock = GW_FD_NONE;
    vm->observers = g_ptr_array_new_with_free_func(g_free);
    vm->stop_waits = g_ptr_array_new();
    vm->refreshes = g_ptr_array_new();
    return vm;
}

void
gw_vm_free(GwVm *vm)
{
    if (!vm) {
        return;
    }
    gw_vm_detach(vm);
    gw_vm_free_waits(vm);
    g_clear_error(&vm->start_error);
    gw_fd_clear(&vm->lock);
    gw_owner_clear(&vm->owner);
    gw_run_free(vm->run);
    json_decref(vm->run_info);
    gw_definition_free(vm->definition);
    gw_definition_free(vm->outdated);
    g_ptr_array_unref(vm->observers);
    g_free(vm->owner_text);
    g_free(vm->held_by);
    g_free(vm->stop_reason);
    g_free(vm->shutdown_cause);
    g_free(vm->name);
    g_free(vm);
}

const char *
gw_vm_name(const GwVm *vm)
{
    return vm->name;
}

const GwDefinition *
gw_vm_definition(const GwVm *vm)
{
    return vm->definition;
}

GwVmState
gw_vm_state(const GwVm *vm)
{
    switch (vm->phase) {
    case GW_PHASE_STOPPED:
        return GW_VM_STOPPED;
    case GW_PHASE_STARTING:
        return GW_VM_STARTING;
    case GW_PHASE_STOPPING:
        return GW_VM_STOPPING;
    case GW_PHASE_UP:
        break;
    }
    if (vm->incoming) {
        return GW_VM_INCOMING;
    }
    return vm->guest_running ? GW_VM_RUNNING : GW_VM_PAUSED;
}

GwQmp *
gw_vm_qmp(GwVm *vm)
{
    bool up = vm->phase == GW_PHASE_UP || vm->phase == GW_PHASE_STOPPING;

    return up && vm->qmp_ready ? vm->qmp : NULL;
}

int64_t
gw_vm_generation(const GwVm *vm)
{
    return vm->incoming ? 0 : vm->owner.generation;
}

const char *
gw_vm_owner(const GwVm *vm)
{
    return vm->incoming ? NULL : vm->owner.host;
}

const json_t *
gw_vm_run_info(const GwVm *vm)
{
    return vm->run_info;
}

GwProcessId
gw_vm_process(const GwVm *vm)
{
    return vm->run ? vm->run->process : (GwProcessId){0};
}

int64_t
gw_vm_cpu_us(const GwVm *vm)
{
    int64_t cpu_us = -1;

    return vm->run && gw_process_cpu_us(vm->run->process.pid, &cpu_us, NULL) ? cpu_us : -1;
}

const char *
gw_vm_stop_reason(const GwVm *vm)
{
    return vm->stop_reason;
}

void
gw_vm_set_stop_reason(GwVm *vm, const char *reason)
{
    g_free(vm->stop_reason);
    vm->stop_reason = g_strdup(reason);
}

const char *
gw_vm_held_by(const GwVm *vm)
{
    return vm->held_by;
}

void
gw_vm_hold(GwVm *vm, const char *move_id)
{
    char *copy = g_strdup(move_id);

    g_free(vm->held_by);
    vm->held_by = copy;
    gw_vm_changed(vm);
}

void
gw_vm_release(GwVm *vm)
{
    g_clear_pointer(&vm->held_by, g_free);
    gw_vm_changed(vm);
}

void
gw_vm_set_owner_record(GwVm *vm, const char *host, int64_t generation)
{
    GwOwner owner = {.host = g_strdup(host), .generation = generation};

    gw_owner_clear(&vm->owner);
    vm->owner = owner;
    g_free(vm->owner_text);
    vm->owner_text = gw_owner_text(host, generation);
}

json_t *
gw_vm_json(GwVm *vm)
{
    json_t *object = json_object();
    json_t *warnings = json_array();
    g_autoptr(GPtrArray) texts = gw_definition_warnings(vm->definition);

    gw_json_set_str(object, "name", vm->name);
    gw_json_set_str(object, "state", gw_vm_state_name(gw_vm_state(vm)));
    gw_json_set_str(object, "host", vm->owner.host);
    gw_json_set_int(object, "generation", gw_vm_generation(vm));
    gw_json_set_str(object, "held_by", vm->held_by);
    gw_json_set_str(object, "stop_reason", vm->stop_reason);
    if (vm->run && vm->launched) {
        gw_json_set_int(object, "pid", vm->run->process.pid);
    }
    if (vm->run_info) {
        json_object_set(object, "run", vm->run_info);
    }
    json_object_set_new(object, "definition", gw_definition_json(vm->definition));
    for (unsigned i = 0; i < texts->len; i++) {
        json_array_append_new(warnings, json_string(g_ptr_array_index(texts, i)));
    }
    json_object_set_new(object, "warnings", warnings);
    return object;
}

char *
gw_vm_run_dir(const GwVm *vm)
{
    return g_build_filename(vm->vms->run_dir, "vm", vm->name, NULL);
}

char *
gw_vm_socket_path(const GwVm *vm, const char *file)
{
    return g_build_filename(vm->vms->run_dir, "vm", vm->name, file, NULL);
}

char *
gw_vm_state_path(const GwVm *vm, const char *file)
{
    return g_build_filename(vm->vms->state_dir, "vm", vm->name, file, NULL);
}

char *
gw_vm_log_path(const GwVm *vm)
{
    return gw_vm_state_path(vm, "qemu.log");
}

char *
gw_vm_console_log_path(const GwVm *vm)
{
    return gw_vm_state_path(vm, "console.log");
}

char *
gw_vm_record_key(const GwVm *vm, const char *what)
{
    return gw_vm_key(vm->name, what);
}

void
gw_vm_observe(GwVm *vm, GwVmEventFn callback, void *data)
{
    GwObserver *observer = g_new0(GwObserver, 1);

    observer->callback = callback;
    observer->data = data;
    g_ptr_array_add(vm->observers, observer);
}

void
gw_vm_unobserve(GwVm *vm, void *data)
{
    for (unsigned i = vm->observers->len; i-- > 0;) {
        const GwObserver *observer = g_ptr_array_index(vm->observers, i);
        if (observer->data == data) {
            g_ptr_array_remove_index(vm->observers, i);
        }
    }
}

/* An observer may take itself or others out: those that are gone are not called any more. */
void
gw_vm_tell_observers(GwVm *vm, const char *event, json_t *arguments)
{
    g_autoptr(GPtrArray) now = g_ptr_array_new();

    for (unsigned i = 0; i < vm->observers->len; i++) {
        g_ptr_array_add(now, g_ptr_array_index(vm->observers, i));
    }
    for (unsigned i = 0; i < now->len; i++) {
        const GwObserver *observer = g_ptr_array_index(now, i);
        if (g_ptr_array_find(vm->observers, observer, NULL)) {
            observer->callback(vm, event, arguments, observer->data);
        }
    }
}
