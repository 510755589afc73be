// SPDX-License-Identifier: Apache-2.0
/*
 * What this host's QEMU can do: version, accelerator, machine types, CPU.
 *
 * Each probe runs a QEMU of its own (as the QEMU user, sandboxed, no disks, no network) for at
 * most a few seconds; results are cached in @cache_dir: per boot for the accelerator, per binary
 * (path, size, mtime) for the rest. The control thread never waits: probes are asynchronous.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

typedef struct GwProbe GwProbe;

typedef struct GwProbeOptions {
    const char *qemu_binary; /* path, or a name to be looked up in PATH */
    const char *qemu_user;   /* NULL: as we are */
    const char *cache_dir;   /* kept across restarts; mode 0700 */
    const char *run_dir;     /* for sockets of the probing QEMU */
    const char *accel;       /* auto | kvm | tcg, as configured */
} GwProbeOptions;

typedef struct GwHostCaps {
    char *qemu_binary;         /* absolute path */
    char *qemu_version;        /* "10.0.2" */
    unsigned qemu_major_minor; /* 1000 for 10.0, 702 for 7.2: 100 * major + minor */
    char *accel;               /* "kvm" or "tcg": what auto chose, or what was asked for */
    char *accel_reason;        /* one line: why */
    json_t *
        machines; /* {"pc-q35-10.0": {"deprecated": false}, ..., aliases: "q35": {"alias_of": …}} */
    json_t *cpu_features; /* array of feature names that a guest can have under this accelerator
                             ("max"/"host" expanded) */
    char *cpu_model;      /* the host CPU's name, for people */
    unsigned cpus;
    uint64_t memory_bytes;
} GwHostCaps;

void gw_host_caps_free(GwHostCaps *caps);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwHostCaps, gw_host_caps_free)

/* MemAvailable of /proc/meminfo; 0 if it cannot be read. */
uint64_t gw_memory_available_bytes(void);

/* @caps: transfer full; NULL when @error is set (no QEMU, asked-for kvm does not work, …). */
typedef void (*GwProbeFn)(GwHostCaps *caps, const GError *error, void *data);

/*
 * accel=auto proves KVM by running a tiny 64-bit guest to completion within 3 s under it (a device
 * node that opens is no proof), and falls back to TCG. Transfer full.
 */
GwProbe *gw_probe_start(const GwProbeOptions *options, GwProbeFn callback, void *data) GW_MUST_USE;
void gw_probe_free(GwProbe *probe);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwProbe, gw_probe_free)
