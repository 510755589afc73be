// SPDX-License-Identifier: Apache-2.0
/*
 * One guest on this host: its QEMU process, monitor and state. And all of them.
 *
 * GwVms owns the VMs of this host; each is known by name. Definitions, owner records and what is
 * needed to find a running QEMU again are in the store:
 *
 *     vm/NAME/definition   the normalised key file
 *     vm/NAME/owner        {"host": "alpha", "generation": 7}; generations only grow
 *     vm/NAME/run          {"pid": …, "start_ticks": …, "accel": …, "machine": …, "cpu": …,
 *                           "balloon": …, "qemu_version": …, "taps": […], "incoming": false,
 * "token": …}; absent when stopped; of an incoming VM also "move", "definition"
 *
 * The main context owns all of it. Asynchronous calls report once through their callback, never
 * from inside the call.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "qemu/launch.h"
#include "qemu/probe.h"
#include "qemu/qmp.h"
#include "store/store.h"
#include "vm/definition.h"

typedef struct GwVm GwVm;
typedef struct GwVms GwVms;

typedef enum GwVmState {
    GW_VM_STOPPED,
    GW_VM_STARTING, /* QEMU is launched, the monitor not ready */
    GW_VM_RUNNING,
    GW_VM_PAUSED,   /* QEMU is there, the guest does not run; also after a move's switchover */
    GW_VM_INCOMING, /* QEMU waits for or loads a migration stream; never counts as ours yet */
    GW_VM_STOPPING,
    GW_VM_N_STATES,
} GwVmState;

const char *gw_vm_state_name(GwVmState state);

/* --- one VM; borrowed from GwVms, valid until removed ----------------------------------------- */

const char *gw_vm_name(const GwVm *vm);
const GwDefinition *gw_vm_definition(const GwVm *vm);
GwVmState gw_vm_state(const GwVm *vm);
/*
 * NULL unless STARTING has passed and QEMU's monitor answers. Changes when the VM is started anew
 * and when the connection to the monitor is: ask each time.
 */
GwQmp *gw_vm_qmp(GwVm *vm);
/* As in vm/NAME/owner; 0 for an incoming VM. */
int64_t gw_vm_generation(const GwVm *vm);
/* Whose it is, as in vm/NAME/owner; NULL for an incoming VM. Borrowed. */
const char *gw_vm_owner(const GwVm *vm);
/* {"accel", "machine", "cpu", "balloon", "qemu_version"} of the running QEMU; NULL when stopped.
 * Borrowed. */
const json_t *gw_vm_run_info(const GwVm *vm);
/* Its QEMU; .pid is 0 if it has none. */
GwProcessId gw_vm_process(const GwVm *vm);
/* Processor time that its QEMU has used, the guest's own included, in µs; -1: it has none. */
int64_t gw_vm_cpu_us(const GwVm *vm);
/* Why it stopped last, for people; NULL if it never did or on request. */
const char *gw_vm_stop_reason(const GwVm *vm);
/* The id of the move that holds it, NULL if none. start/stop/undefine refuse while it is held. */
const char *gw_vm_held_by(const GwVm *vm);
void gw_vm_hold(GwVm *vm, const char *move_id);
void gw_vm_release(GwVm *vm);
/*
 * For `vm show`, `vm list` and the API: {"name", "state", "host", "generation", "held_by",
 * "stop_reason", "pid", "run": {…}, "definition": {…}, "warnings": […]}; what there is not is
 * absent.
 */
json_t *gw_vm_json(GwVm *vm) GW_MUST_USE;

/* Folder of the sockets of one VM: console.sock, serial1.sock … Transfer full. */
char *gw_vm_run_dir(const GwVm *vm) GW_MUST_USE;
/* QEMU's own messages; what the guest wrote to the console. Transfer full. */
char *gw_vm_log_path(const GwVm *vm) GW_MUST_USE;
char *gw_vm_console_log_path(const GwVm *vm) GW_MUST_USE;

/*
 * Observers hear of every QMP event and of QEMU's end (event name NULL: replies that are still
 * due may then not come), after GwVms itself has taken note. gw_vm_unobserve() drops all with
 * this @data.
 */
typedef void (*GwVmEventFn)(GwVm *vm, const char *event, json_t *arguments, void *data);
void gw_vm_observe(GwVm *vm, GwVmEventFn callback, void *data);
void gw_vm_unobserve(GwVm *vm, void *data);

/* --- all VMs ---------------------------------------------------------------------------------- */

typedef struct GwVmsOptions {
    GwStore *store;
    const char *host_name;
    const char *run_dir;   /* /run/godwit: sockets, one folder per VM */
    const char *state_dir; /* /var/lib/godwit: logs, UEFI variables */
    const char *qemu_user; /* NULL: as we are */
} GwVmsOptions;

/* @vm: NULL if there is none (any more), whatever @error says. */
typedef void (*GwVmsDoneFn)(GwVm *vm, const GError *error, void *data);
/* A change of any VM's state, definition or presence (vm is NULL when it was removed). */
typedef void (*GwVmsChangedFn)(const char *name, GwVm *vm, void *data);

/*
 * Loads all records and finds running QEMUs again (a QEMU without a record of its own in the
 * store is left alone). @loaded is called once when that is done.
 */
GwVms *gw_vms_new(const GwVmsOptions *options, GwVmsDoneFn loaded, void *data) GW_MUST_USE;
void gw_vms_free(GwVms *vms); /* leaves every QEMU running */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwVms, gw_vms_free)

/* What the probe found; borrowed, set once before the first start and again after a new probe. */
void gw_vms_set_caps(GwVms *vms, const GwHostCaps *caps);
void gw_vms_on_change(GwVms *vms, GwVmsChangedFn callback, void *data);

GwVm *gw_vms_find(GwVms *vms, const char *name);
GPtrArray *gw_vms_list(GwVms *vms) GW_MUST_USE; /* of borrowed GwVm, by name */

/* Takes over @definition (transfer full); pins the machine; owner becomes this host, generation 1.
 */
void gw_vms_define(GwVms *vms, GwDefinition *definition, GwVmsDoneFn callback, void *data);
void gw_vms_undefine(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data);
/* Reports when QEMU says that the guest runs, or QEMU's own reason why not. */
void gw_vms_start(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data);
/* Orderly: power button, then an error after @timeout_ms; @force: kill. Reports when QEMU is gone.
 */
void gw_vms_stop(GwVms *vms, GwVm *vm, bool force, int64_t timeout_ms, GwVmsDoneFn callback,
                 void *data);

/* --- for moves -------------------------------------------------------------------------------- */

/*
 * Target: makes a VM in state INCOMING from the source's definition text and run info (machine,
 * cpu, accel), with QEMU started with -incoming defer and -S. Its record says "incoming": after a
 * crash it is killed, never resumed, unless the move's own record says otherwise.
 */
void gw_vms_prepare_incoming(GwVms *vms, GwDefinition *definition, const json_t *run_info,
                             const char *move_id, GwVmsDoneFn callback, void *data);

/*
 * Appends to @txn what makes an incoming VM ours with this generation (definition, owner, run
 * record). After the commit call gw_vms_take_over().
 */
void gw_vms_txn_take_over(GwVms *vms, GwVm *vm, int64_t generation, GwStoreTxn *txn);
void gw_vms_take_over(GwVms *vms, GwVm *vm, int64_t generation);

/* Appends what writes the owner record {host, generation}; then gw_vms_set_owner(). */
void gw_vms_txn_set_owner(GwVms *vms, GwVm *vm, const char *host, int64_t generation,
                          GwStoreTxn *txn);
void gw_vms_set_owner(GwVms *vms, GwVm *vm, const char *host, int64_t generation);

/* Asks QEMU for the guest's state and takes note of it (after cont, stop or a crash). */
void gw_vms_refresh(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data);

/* Kills the QEMU if there is one and forgets the VM and all its records: an incoming one that was
 * refused, or the source's after the target runs it. Works while held. */
void gw_vms_discard(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data);
