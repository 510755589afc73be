// SPDX-License-Identifier: Apache-2.0
/*
 * One short-lived QEMU of a probe: started stopped (-S), without devices, sandboxed, with a
 * monitor. It ends with its GwProbeQemu; one that a killed daemon left behind is ended by the next
 * start under the same name. Main context.
 */
#pragma once

#include "base/error.h"
#include "qemu/qmp.h"

typedef struct GwProbeQemu GwProbeQemu;

/* The first number for GwProbeQemuOptions.fds in the new process; 3 is the monitor. */
#define GW_PROBE_QEMU_FIRST_FD 4
#define GW_PROBE_QEMU_MAX_FDS  2

typedef struct GwProbeQemuOptions {
    const char *name; /* of its files in @run_dir */
    const char *binary;
    const char *user;
    const char *run_dir;
    const char *const *arguments; /* beyond what every probe has; NULL-terminated */
    const int *fds;               /* arrive as GW_PROBE_QEMU_FIRST_FD and up */
    unsigned n_fds;
} GwProbeQemuOptions;

typedef struct GwProbeQemuHandlers {
    void (*ready)(GwQmp *qmp, void *data);
    /* The last call; pending commands were failed before. @error has QEMU's own words. */
    void (*ended)(const GError *error, void *data);
} GwProbeQemuHandlers;

GwProbeQemu *gw_probe_qemu_start(const GwProbeQemuOptions *options,
                                 const GwProbeQemuHandlers *handlers, void *data,
                                 GError **error) GW_MUST_USE;
void gw_probe_qemu_free(GwProbeQemu *qemu);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwProbeQemu, gw_probe_qemu_free)
