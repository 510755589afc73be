// SPDX-License-Identifier: Apache-2.0
/*
 * The records of a VM in the store (vm.h names them) as structs, and their keys. Pure; any thread.
 */
#pragma once

#include "base/json.h"
#include "qemu/launch.h"

/* What finds a QEMU again. Written before QEMU is launched (pid 0), and again with the pid. */
typedef struct GwRun {
    GwProcessId process;
    char *token; /* stands in this QEMU's command line and in no other */
    char *accel;
    char *machine;
    char *cpu;
    char *balloon;
    char *qemu_version;
    char **taps; /* NULL-terminated, never NULL */
    bool incoming;
    /* Only of an incoming one: */
    char *move_id;
    char *definition_text;
} GwRun;

void gw_run_free(GwRun *run);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRun, gw_run_free)

/* Transfer full. */
char *gw_run_text(const GwRun *run) GW_MUST_USE;
GwRun *gw_run_parse(const void *data, size_t len, const char *vm_name, GError **error) GW_MUST_USE;

/* {"accel", "machine", "cpu", "balloon", "qemu_version"}: what the guest runs on. Transfer full. */
json_t *gw_run_info(const GwRun *run) GW_MUST_USE;

typedef struct GwOwner {
    char *host;
    int64_t generation;
} GwOwner;

void gw_owner_clear(GwOwner *owner);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(GwOwner, gw_owner_clear)

/* Transfer full. */
char *gw_owner_text(const char *host, int64_t generation) GW_MUST_USE;
bool gw_owner_parse(const void *data, size_t len, const char *vm_name, GwOwner *out,
                    GError **error) GW_MUST_USE;

#define GW_VM_KEY_PREFIX "vm/"

/* "vm/NAME/WHAT"; @what: "definition", "owner" or "run". Transfer full. */
char *gw_vm_key(const char *vm_name, const char *what) GW_MUST_USE;

/* The name and the rest of such a key; false for any other key. Both transfer full. */
bool gw_vm_key_split(const char *key, char **vm_name, char **what) GW_MUST_USE;
