// SPDX-License-Identifier: Apache-2.0
/*
 * All VMs of this host: the registry, defining and undefining, and how outcomes reach callers.
 *
 * Owns the VMs, the commits under way and the reports not yet delivered; freeing it drops all of
 * these without a call and leaves every QEMU running. Main context. Reports always come from the
 * main loop, so a caller's callback finds no function of this folder on its stack; commits for one
 * VM end in the order in which they were made, as the store's do.
 */
#include "base/log.h"
#include "vm/internal.h"
#include "vm/qemu_log.h"

#include <string.h>

#define TRIM_EVERY_S 60

typedef struct GwReport {
    GwVms *vms;
    GwVm *vm; /* NULL once it is removed */
    GwWaiter waiter;
    GError *error;
    guint source;
} GwReport;

typedef struct GwCommit {
    GwVm *vm;
    GwVmCommittedFn committed;
} GwCommit;

/* --- reports ---------------------------------------------------------------------------------- */

static void
report_free(void *data)
{
    GwReport *report = data;

    if (report->source) {
        g_source_remove(report->source);
    }
    g_clear_error(&report->error);
    g_free(report);
}

static gboolean
deliver_report(void *data)
{
    GwReport *report = data;
    GwWaiter waiter = report->waiter;
    GwVm *vm = report->vm;
    g_autoptr(GError) error = g_steal_pointer(&report->error);

    report->source = 0;
    g_ptr_array_remove(report->vms->reports, report);
    waiter.done(vm, error, waiter.data);
    return G_SOURCE_REMOVE;
}

void
gw_vms_report(GwVms *vms, GwWaiter waiter, GwVm *vm, GError *error)
{
    if (!waiter.done) {
        g_clear_error(&error);
        return;
    }
    GwReport *report = g_new0(GwReport, 1);
    report->vms = vms;
    report->vm = vm;
    report->waiter = waiter;
    report->error = error;
    report->source = g_idle_add_full(G_PRIORITY_DEFAULT, deliver_report, report, NULL);
    g_ptr_array_add(vms->reports, report);
}

void
gw_vm_report(GwVm *vm, GwWaiter *waiter, GError *error)
{
    GwWaiter once = *waiter;

    *waiter = (GwWaiter){0};
    gw_vms_report(vm->vms, once, vm, error);
}

/* --- commits ---------------------------------------------------------------------------------- */

static void
on_committed(const GwStoreTxnResult *result, const GError *error, void *data)
{
    GwCommit commit = *(GwCommit *)data;
    g_autoptr(GError) problem = error ? g_error_copy(error) : NULL;

    g_ptr_array_remove(commit.vm->vms->commits, data);
    if (!problem && !result->succeeded) {
        problem = g_error_new(GW_ERROR, GW_ERROR_STATE,
                              "VM %s: its records were changed by somebody else meanwhile",
                              commit.vm->name);
    }
    commit.committed(commit.vm, problem);
}

void
gw_vm_commit(GwVm *vm, GwStoreTxn *txn, GwVmCommittedFn committed)
{
    GwCommit *commit = g_new0(GwCommit, 1);

    commit->vm = vm;
    commit->committed = committed;
    g_ptr_array_add(vm->vms->commits, commit);
    gw_store_commit(vm->vms->store, txn, on_committed, commit);
}

/* --- the registry ----------------------------------------------------------------------------- */

static gboolean
trim_logs(void *data)
{
    GwVms *vms = data;
    GHashTableIter iter;
    void *value;

    g_hash_table_iter_init(&iter, vms->by_name);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const GwVm *vm = value;
        g_autofree char *log = gw_vm_log_path(vm);
        g_autofree char *console = gw_vm_console_log_path(vm);
        gw_qemu_log_trim(log);
        gw_qemu_log_trim(console);
    }
    return G_SOURCE_CONTINUE;
}

GwVms *
gw_vms_new(const GwVmsOptions *options, GwVmsDoneFn loaded, void *data)
{
    GwVms *vms = g_new0(GwVms, 1);

    vms->store = options->store;
    vms->host_name = g_strdup(options->host_name);
    vms->run_dir = g_strdup(options->run_dir);
    vms->state_dir = g_strdup(options->state_dir);
    vms->qemu_user = g_strdup(options->qemu_user);
    vms->by_name = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)gw_vm_free);
    vms->defining = g_ptr_array_new_with_free_func((GDestroyNotify)gw_vm_free);
    vms->commits = g_ptr_array_new_with_free_func(g_free);
    vms->reports = g_ptr_array_new_with_free_func(report_free);
    vms->trim_timer = g_timeout_add_seconds(TRIM_EVERY_S, trim_logs, vms);
    gw_vms_load(vms, (GwWaiter){.done = loaded, .data = data});
    return vms;
}

void
gw_vms_free(GwVms *vms)
{
    if (!vms) {
        return;
    }
    g_source_remove(vms->trim_timer);
    gw_vms_load_free(vms);
    for (unsigned i = 0; i < vms->commits->len; i++) {
        gw_store_forget(vms->store, g_ptr_array_index(vms->commits, i));
    }
    g_ptr_array_unref(vms->commits);
    g_ptr_array_unref(vms->reports);
    g_ptr_array_unref(vms->defining);
    g_hash_table_unref(vms->by_name);
    g_free(vms->host_name);
    g_free(vms->run_dir);
    g_free(vms->state_dir);
    g_free(vms->qemu_user);
    g_free(vms);
}

void
gw_vms_set_caps(GwVms *vms, const GwHostCaps *caps)
{
    vms->caps = caps;
}

void
gw_vms_on_change(GwVms *vms, GwVmsChangedFn callback, void *data)
{
    vms->on_change = callback;
    vms->on_change_data = data;
}

void
gw_vm_changed(GwVm *vm)
{
    if (vm->vms->on_change) {
        vm->vms->on_change(vm->name, vm, vm->vms->on_change_data);
    }
}

GwVm *
gw_vms_find(GwVms *vms, const char *name)
{
    return g_hash_table_lookup(vms->by_name, name);
}

static int
compare_names(const void *a, const void *b)
{
    return g_strcmp0((*(GwVm *const *)a)->name, (*(GwVm *const *)b)->name);
}

GPtrArray *
gw_vms_list(GwVms *vms)
{
    g_autoptr(GPtrArray) out = g_ptr_array_new();
    GHashTableIter iter;
    void *value;

    g_hash_table_iter_init(&iter, vms->by_name);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        g_ptr_array_add(out, value);
    }
    g_ptr_array_sort(out, compare_names);
    return g_steal_pointer(&out);
}

void
gw_vms_remove(GwVm *vm)
{
    GwVms *vms = vm->vms;
    g_autofree char *name = g_strdup(vm->name);

    for (unsigned i = 0; i < vms->reports->len; i++) {
        GwReport *report = g_ptr_array_index(vms->reports, i);
        if (report->vm == vm) {
            report->vm = NULL;
        }
    }
    g_hash_table_remove(vms->by_name, name);
    if (vms->on_change) {
        vms->on_change(name, NULL, vms->on_change_data);
    }
}

/* --- define and undefine ---------------------------------------------------------------------- */

bool
gw_vms_is_defining(GwVms *vms, const char *name)
{
    for (unsigned i = 0; i < vms->defining->len; i++) {
        const GwVm *vm = g_ptr_array_index(vms->defining, i);
        if (strcmp(vm->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static GError *
exists_error(const char *name)
{
    return g_error_new(GW_ERROR, GW_ERROR_EXISTS,
                       "VM %s exists already: undefine it first or choose another name", name);
}

/* "q35" becomes the version that it means here, which it then means everywhere and for ever. */
static bool
pin_machine(const GwVms *vms, GwDefinition *definition, GError **error)
{
    if (!vms->caps) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "VM %s cannot be defined: what this host's QEMU offers is not known (yet)",
                    definition->name);
        return false;
    }
    const json_t *machine = json_object_get(vms->caps->machines, definition->machine);
    if (!machine) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "VM %s: QEMU %s of this host has no machine '%s': use q35 or pc",
                    definition->name, vms->caps->qemu_version, definition->machine);
        return false;
    }
    const char *pinned = gw_json_str(machine, "alias_of", NULL);
    if (pinned) {
        g_free(definition->machine);
        definition->machine = g_strdup(pinned);
    }
    return true;
}

/* The text that goes to the store: it must be readable again with what defining adds to it. */
static char *
stored_text(GwDefinition *definition, GError **error)
{
    if (!definition->uuid) {
        definition->uuid = g_uuid_string_random();
    }
    g_autofree char *text = gw_definition_text(definition);
    if (strlen(text) > GW_DEFINITION_MAX_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "VM %s: its definition is larger than %u bytes", definition->name,
                    GW_DEFINITION_MAX_BYTES);
        return NULL;
    }
    return g_steal_pointer(&text);
}

static void
on_defined(GwVm *vm, const GError *error)
{
    GwVms *vms = vm->vms;
    GwWaiter waiter = vm->define;
    guint index = 0;

    vm->define = (GwWaiter){0};
    g_ptr_array_find(vms->defining, vm, &index);
    g_ptr_array_steal_index(vms->defining, index);
    if (error) {
        gw_vms_report(vms, waiter, NULL,
                      g_error_matches(error, GW_ERROR, GW_ERROR_STATE) ? exists_error(vm->name)
                                                                       : g_error_copy(error));
        gw_vm_free(vm);
        return;
    }
    g_hash_table_insert(vms->by_name, vm->name, vm);
    gw_info(GW_VM_LOG(vm), "defined, machine %s", vm->definition->machine);
    gw_vm_changed(vm);
    gw_vms_report(vms, waiter, vm, NULL);
}

void
gw_vms_define(GwVms *vms, GwDefinition *definition, GwVmsDoneFn callback, void *data)
{
    GwWaiter waiter = {.done = callback, .data = data};
    g_autoptr(GwDefinition) owned = definition;
    GError *error = NULL;

    if (gw_vms_find(vms, definition->name) || gw_vms_is_defining(vms, definition->name)) {
        gw_vms_report(vms, waiter, NULL, exists_error(definition->name));
        return;
    }
    g_autofree char *text =
        pin_machine(vms, definition, &error) ? stored_text(definition, &error) : NULL;
    if (!text) {
        gw_vms_report(vms, waiter, NULL, error);
        return;
    }
    GwVm *vm = gw_vm_new(vms, g_steal_pointer(&owned));
    vm->define = waiter;
    gw_vm_set_owner_record(vm, vms->host_name, 1);
    g_ptr_array_add(vms->defining, vm);

    g_autofree char *definition_key = gw_vm_record_key(vm, "definition");
    g_autofree char *owner_key = gw_vm_record_key(vm, "owner");
    GwStoreTxn *txn = gw_store_txn_new();
    gw_store_txn_if_revision(txn, definition_key, 0);
    gw_store_txn_if_revision(txn, owner_key, 0);
    gw_store_txn_put_text(txn, definition_key, text);
    gw_store_txn_put_text(txn, owner_key, vm->owner_text);
    gw_vm_commit(vm, txn, on_defined);
}

void
gw_vms_undefine(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data)
{
    GwWaiter waiter = {.done = callback, .data = data};
    GError *error = NULL;

    if (vm->held_by) {
        error = g_error_new(GW_ERROR, GW_ERROR_STATE, "VM %s is held by move %s", vm->name,
                            vm->held_by);
    } else if (vm->phase != GW_PHASE_STOPPED) {
        error = g_error_new(GW_ERROR, GW_ERROR_STATE, "VM %s is %s: stop it before undefining it",
                            vm->name, gw_vm_state_name(gw_vm_state(vm)));
    }
    if (error) {
        gw_vms_report(vms, waiter, NULL, error);
        return;
    }
    vm->purge |= !vm->discarding;
    gw_vms_discard(vms, vm, callback, data);
}
