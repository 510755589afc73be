// SPDX-License-Identifier: Apache-2.0
/*
 * What moves need of the registry: VMs that come in, owner records, and VMs that go.
 *
 * An incoming VM is in the registry from the beginning and in the store by its run record alone,
 * which has its definition: until it is taken over, nothing else of ours says that it exists. A
 * stopped VM of that name which another host owns is an outdated copy; it steps aside and is
 * replaced by the take-over, or is back after a discard. Main context.
 */
#include "base/log.h"
#include "vm/internal.h"

#include <glib/gstdio.h>
#include <signal.h>

/* --- incoming --------------------------------------------------------------------------------- */

/* NULL with an error if the name is taken by anything but an outdated copy. */
static bool
may_come_in(GwVms *vms, const char *name, GError **error)
{
    GwVm *vm = gw_vms_find(vms, name);

    if (gw_vms_is_defining(vms, name) ||
        (vm && (vm->phase != GW_PHASE_STOPPED || vm->held_by || vm->incoming || vm->discarding ||
                g_strcmp0(vm->owner.host, vms->host_name) == 0))) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS,
                    "host %s has a VM %s of its own: undefine that or choose another host",
                    vms->host_name, name);
        return false;
    }
    return true;
}

void
gw_vms_prepare_incoming(GwVms *vms, GwDefinition *definition, const json_t *run_info,
                        const char *move_id, GwVmsDoneFn callback, void *data)
{
    GwWaiter waiter = {.done = callback, .data = data};
    g_autoptr(GwDefinition) owned = definition;
    GError *error = NULL;

    if (!may_come_in(vms, definition->name, &error)) {
        gw_vms_report(vms, waiter, NULL, error);
        return;
    }
    GwVm *vm = gw_vms_find(vms, definition->name);
    if (vm) {
        vm->outdated = vm->definition;
        vm->definition = g_steal_pointer(&owned);
    } else {
        vm = gw_vm_new(vms, g_steal_pointer(&owned));
        g_hash_table_insert(vms->by_name, vm->name, vm);
    }
    vm->incoming = true;
    vm->held_by = g_strdup(move_id);
    if (!gw_vm_launch(vm, run_info, &error)) {
        gw_vm_forget_incoming(vm);
        gw_vms_report(vms, waiter, NULL, error);
        return;
    }
    vm->start = waiter;
}

void
gw_vm_forget_incoming(GwVm *vm)
{
    if (!vm->outdated) {
        gw_vms_remove(vm);
        return;
    }
    gw_definition_free(vm->definition);
    vm->definition = g_steal_pointer(&vm->outdated);
    vm->incoming = false;
    g_clear_pointer(&vm->held_by, g_free);
    gw_vm_changed(vm);
}

void
gw_vms_txn_take_over(GwVms *vms, GwVm *vm, int64_t generation, GwStoreTxn *txn)
{
    g_autofree char *definition_key = gw_vm_record_key(vm, "definition");
    g_autofree char *run_key = gw_vm_record_key(vm, "run");
    g_autofree char *definition = gw_definition_text(vm->definition);

    gw_store_txn_put_text(txn, definition_key, definition);
    if (vm->run) {
        /* The same run, but no longer of a move. */
        GwRun ours = *vm->run;
        ours.incoming = false;
        ours.move_id = NULL;
        ours.definition_text = NULL;
        g_autofree char *run = gw_run_text(&ours);
        gw_store_txn_put_text(txn, run_key, run);
    }
    gw_vms_txn_set_owner(vms, vm, vms->host_name, generation, txn);
}

void
gw_vms_take_over(GwVms *vms, GwVm *vm, int64_t generation)
{
    vm->incoming = false;
    g_clear_pointer(&vm->outdated, gw_definition_free);
    if (vm->run) {
        vm->run->incoming = false;
        g_clear_pointer(&vm->run->move_id, g_free);
        g_clear_pointer(&vm->run->definition_text, g_free);
    }
    gw_vms_set_owner(vms, vm, vms->host_name, generation);
}

/* --- owners ----------------------------------------------------------------------------------- */

void
gw_vms_txn_set_owner(GwVms *vms, GwVm *vm, const char *host, int64_t generation, GwStoreTxn *txn)
{
    g_autofree char *key = gw_vm_record_key(vm, "owner");
    g_autofree char *text = gw_owner_text(host, generation);

    gw_store_txn_put_text(txn, key, text);
}

void
gw_vms_set_owner(GwVms *vms, GwVm *vm, const char *host, int64_t generation)
{
    gw_vm_set_owner_record(vm, host, generation);
    gw_info(GW_VM_LOG(vm), "owner is host %s, generation %" G_GINT64_FORMAT, host, generation);
    gw_vm_changed(vm);
}

/* --- discard ---------------------------------------------------------------------------------- */

static void
remove_file(const GwVm *vm, const char *file)
{
    g_autofree char *path = gw_vm_state_path(vm, file);

    g_unlink(path);
}

/* The logs stay, except of a VM that its operator undefined: they may say why a move failed. */
static void
remove_files(const GwVm *vm)
{
    g_autofree char *folder = gw_vm_state_path(vm, "");

    remove_file(vm, "uefi-vars.fd");
    remove_file(vm, "lock");
    if (vm->purge) {
        remove_file(vm, "qemu.log");
        remove_file(vm, "console.log");
        g_rmdir(folder);
    }
}

static void
on_discarded(GwVm *vm, const GError *error)
{
    GwVms *vms = vm->vms;
    GwWaiter waiter = vm->discard;

    vm->discard = (GwWaiter){0};
    vm->discarding = false;
    if (error) {
        vm->purge = false;
        gw_vms_report(vms, waiter, vm, g_error_copy(error));
        return;
    }
    remove_files(vm);
    gw_info(GW_VM_LOG(vm), "removed from this host");
    if (vm->incoming) {
        gw_vm_forget_incoming(vm);
    } else {
        gw_vms_remove(vm);
    }
    gw_vms_report(vms, waiter, NULL, NULL);
}

void
gw_vm_finish_discard(GwVm *vm)
{
    g_autofree char *run = gw_vm_record_key(vm, "run");
    g_autofree char *definition = gw_vm_record_key(vm, "definition");
    g_autofree char *owner = gw_vm_record_key(vm, "owner");
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_delete(txn, run);
    if (!vm->outdated) {
        gw_store_txn_delete(txn, definition);
        gw_store_txn_delete(txn, owner);
    }
    gw_vm_commit(vm, txn, on_discarded);
}

void
gw_vms_discard(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data)
{
    GwWaiter waiter = {.done = callback, .data = data};

    if (vm->discarding) {
        gw_vms_report(
            vms, waiter, vm,
            g_error_new(GW_ERROR, GW_ERROR_STATE, "VM %s is being removed already", vm->name));
        return;
    }
    vm->discarding = true;
    vm->discard = waiter;
    vm->stop_asked = true;
    if (vm->phase == GW_PHASE_STOPPED) {
        gw_vm_finish_discard(vm);
    } else if (vm->phase == GW_PHASE_STARTING) {
        gw_vm_abort_start(vm, g_error_new(GW_ERROR, GW_ERROR_CANCELLED,
                                          "VM %s was removed while it started", vm->name));
    } else {
        /* At once: a QEMU that is told to end in order might still write to disks that the other
         * host's uses by now. */
        gw_vm_signal(vm, SIGKILL);
    }
}
