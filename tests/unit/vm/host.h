// SPDX-License-Identifier: Apache-2.0
/*
 * One host for tests: temporary folders, a real store, the real QEMU's capabilities, and its VMs.
 * Waiting is for events, with a limit after which the test fails.
 */
#pragma once

#include "vm/vm.h"

typedef struct Host {
    char *folder;
    char *run_dir;
    char *state_dir;
    char *images;
    const char *qemu_user; /* unprivileged if we are root */
    GwStore *store;
    GwVms *vms;
} Host;

/* Probes QEMU, once for all hosts of the process. NULL, or why there can be none; transfer full. */
GError *hosts_prepare(void);
/* g_test_run() for tests that need hosts; where there can be none all are skipped. */
int hosts_run(void);

Host *host_new(void);
/* A second process's view of a host that is there; not to be freed, but left by exiting. */
Host *host_open(const char *folder);
/* Kills every QEMU that it has, then removes its folders. */
void host_free(Host *host);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Host, host_free)

/* The daemon goes, and comes back. */
void host_stop_daemon(Host *host);
void host_start_daemon(Host *host);

/* What a GwVmsDoneFn was told. */
typedef struct Outcome {
    bool done;
    GwVm *vm;
    GError *error;
} Outcome;

void outcome_clear(Outcome *outcome);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Outcome, outcome_clear)

void on_outcome(GwVm *vm, const GError *error, void *data);
void wait_outcome(Outcome *outcome);

/* Runs the main loop until @what holds. */
typedef bool (*Condition)(void *data);
void wait_until(Condition what, void *data);
void wait_state(GwVm *vm, GwVmState state);

/* These assert success. */
GwVm *host_define(Host *host, const char *text);
void host_start(Host *host, GwVm *vm);
void host_kill(Host *host, GwVm *vm);

/* These return the error, which there must be. Transfer full. */
GError *host_fail_start(Host *host, GwVm *vm);

/* A sparse raw image that QEMU may use. Transfer full: its path. */
char *host_image(Host *host, const char *name);

/* The text of a record; NULL if there is none. Transfer full. */
char *host_record(Host *host, const char *key);
void host_put_record(Host *host, const char *key, const char *text);

pid_t vm_pid(GwVm *vm);
GwDefinition *definition_of(const char *text);
const GwHostCaps *host_caps(void);
