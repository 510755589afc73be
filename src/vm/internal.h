// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of this folder share of GwVm and GwVms. Main context.
 *
 *     vms.c        registry, define and undefine, reports to callers
 *     vms_load.c   records after the daemon's start, QEMUs found again
 *     vms_move.c   what moves need: incoming VMs, owner records, discard
 *     vm.c         one VM as others see it
 *     vm_start.c   from the decision to start until QEMU's monitor answers
 *     vm_run.c     a QEMU that is there: events, stop, end
 */
#pragma once

#include "base/fd.h"
#include "vm/record.h"
#include "vm/vm.h"

typedef enum GwPhase {
    GW_PHASE_STOPPED,
    GW_PHASE_STARTING,
    GW_PHASE_UP,
    GW_PHASE_STOPPING, /* a stop was asked for, QEMU is there */
} GwPhase;

/* Who is told, once, of the end of something; `done` is NULL when nobody waits. */
typedef struct GwWaiter {
    GwVmsDoneFn done;
    void *data;
} GwWaiter;

/* One that waits for QEMU's end, with an optional time limit. */
typedef struct GwStopWait {
    GwVm *vm;
    GwWaiter waiter;
    guint timer;
} GwStopWait;

struct GwVm {
    GwVms *vms;
    char *name;
    GwDefinition *definition;
    /* Of an incoming VM: what stands in the store from an earlier time, owned by another host. */
    GwDefinition *outdated;
    GwOwner owner;    /* generation 0: no owner record */
    char *owner_text; /* as it stands in the store, NULL without a record */

    GwPhase phase;
    bool incoming;      /* not ours yet */
    bool spare;         /* QEMU is started with a spare monitor */
    bool guest_running; /* as QEMU said last */
    char *held_by;
    char *stop_reason;
    char *shutdown_cause; /* from QEMU's SHUTDOWN event of this run */
    bool stop_asked;      /* the end of QEMU is on request */

    GwRun *run; /* NULL when stopped */
    json_t *run_info;
    bool launched; /* run->process is (or was) there */
    GwProcessWatch *watch;
    GwQmp *qmp;
    bool qmp_ready;
    GwFd lock; /* held from before the run record is written until QEMU holds it, too */
    guint reconnect_timer;
    guint start_timer;
    guint kill_timer;
    GError *start_error; /* why a start under way is being undone */

    GwWaiter define;
    GwWaiter start;
    GwWaiter discard;
    bool discarding;
    bool purge;            /* the logs go, too: the VM is undefined */
    GPtrArray *stop_waits; /* of GwStopWait */
    GPtrArray *refreshes;  /* of GwRefresh (vm_run.c) */
    GPtrArray *observers;  /* of GwObserver (vm.c) */
};

struct GwVms {
    GwStore *store;
    char *host_name;
    char *run_dir;
    char *state_dir;
    char *qemu_user;
    const GwHostCaps *caps; /* borrowed */
    GHashTable *by_name;    /* char * (the VM's) → GwVm, owned */
    GPtrArray *defining;    /* of GwVm: owned, their records not written yet */
    GPtrArray *commits;     /* of GwCommit (vms.c): under way */
    GPtrArray *reports;     /* of GwReport (vms.c): not delivered */
    GwVmsChangedFn on_change;
    void *on_change_data;
    guint trim_timer;
    struct GwLoad *load; /* NULL once loaded */
};

/* --- vm.c ------------------------------------------------------------------------------------- */

GwVm *gw_vm_new(GwVms *vms, GwDefinition *definition) GW_MUST_USE;
void gw_vm_free(GwVm *vm);
void gw_vm_tell_observers(GwVm *vm, const char *event, json_t *arguments);
void gw_vm_set_stop_reason(GwVm *vm, const char *reason);
void gw_vm_set_owner_record(GwVm *vm, const char *host, int64_t generation);
/* A file of this VM in the state folder. Transfer full. */
char *gw_vm_state_path(const GwVm *vm, const char *file) GW_MUST_USE;
char *gw_vm_socket_path(const GwVm *vm, const char *file) GW_MUST_USE;
char *gw_vm_record_key(const GwVm *vm, const char *what) GW_MUST_USE;
/* {.vm = name} for the log. */
#define GW_VM_LOG(vm) (&(GwLogFields){.vm = (vm)->name})

/* --- vms.c ------------------------------------------------------------------------------------ */

/* Called from the main loop, never from inside; @error: transfer full, NULL for success. */
void gw_vms_report(GwVms *vms, GwWaiter waiter, GwVm *vm, GError *error);
/* The same, and the waiter does not wait any more. */
void gw_vm_report(GwVm *vm, GwWaiter *waiter, GError *error);
void gw_vm_changed(GwVm *vm);

/* @error: NULL if committed; borrowed. A compare that did not hold is GW_ERROR_STATE. */
typedef void (*GwVmCommittedFn)(GwVm *vm, const GError *error);
/* Commits @txn (transfer full) for @vm and calls back unless GwVms is freed before. */
void gw_vm_commit(GwVm *vm, GwStoreTxn *txn, GwVmCommittedFn committed);
/* A VM of this name is being written to the store, and not found yet. */
bool gw_vms_is_defining(GwVms *vms, const char *name);
/* Takes the VM out and frees it. */
void gw_vms_remove(GwVm *vm);

/* --- vm_start.c ------------------------------------------------------------------------------- */

/*
 * Takes the VM's lock, writes the run record and goes on from there to GW_PHASE_UP; the outcome
 * goes to vm->start. @info: the source's run info for an incoming VM, else NULL. On failure
 * nothing has changed.
 */
bool gw_vm_launch(GwVm *vm, const json_t *info, GError **error) GW_MUST_USE;
/* The lock of this VM's QEMU; GW_ERROR_STATE if a process holds it. */
GwFd gw_vm_take_lock(const GwVm *vm, GError **error) GW_MUST_USE;
/* The monitor of a starting VM answers. */
void gw_vm_start_ready(GwVm *vm);
/* Undoes a start, with @error (transfer full) for who waits. */
void gw_vm_abort_start(GwVm *vm, GError *error);

/* --- vm_run.c --------------------------------------------------------------------------------- */

/* Watches run->process and opens the monitor. If the process has ended, gw_vm_gone() follows now.
 */
void gw_vm_attach(GwVm *vm);
/* Lets go of process and monitor, which stay as they are. */
void gw_vm_detach(GwVm *vm);
void gw_vm_free_waits(GwVm *vm);
void gw_vm_signal(GwVm *vm, int number);
/* Replaces the run record (NULL: none) and what is derived from it. Transfer full. */
void gw_vm_set_run(GwVm *vm, GwRun *run);
/* Writes the run record as it is now; an error is logged: the token finds the QEMU, too. */
void gw_vm_save_run(GwVm *vm);
/*
 * There is no QEMU (any more): tells all who wait. @start_error (transfer full) for who waits for
 * a start. The VM may be gone afterwards.
 */
void gw_vm_gone(GwVm *vm, GError *start_error);

/* --- vms_load.c ------------------------------------------------------------------------------- */

void gw_vms_load(GwVms *vms, GwWaiter loaded);
void gw_vms_load_free(GwVms *vms);
/* The first answer (or failure) of a QEMU that was found again. */
void gw_vm_adopted(GwVm *vm);

/* --- vms_move.c ------------------------------------------------------------------------------- */

/* Goes on with gw_vms_discard() once QEMU is gone. */
void gw_vm_finish_discard(GwVm *vm);
/* An incoming VM that was not taken over: forget it, or be the outdated copy again. */
void gw_vm_forget_incoming(GwVm *vm);
