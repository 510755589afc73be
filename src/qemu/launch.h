// SPDX-License-Identifier: Apache-2.0
/*
 * Starting and watching QEMU processes that outlive the daemon.
 *
 * QEMU is started in a session of its own with an unprivileged user, no inherited descriptors but
 * the given ones, stderr in a log file, and is not our child: its end is seen through a pidfd,
 * the same way for one started a moment ago and for one found again after the daemon's restart.
 * A process is named by pid and start time (clock ticks since boot, /proc/PID/stat field 22), so
 * a pid that was used again is never mistaken for it.
 * Main context. Blocking for the few milliseconds of fork and exec.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>
#include <sys/types.h>

typedef struct GwProcessId {
    pid_t pid; /* 0: none */
    uint64_t start_ticks;
} GwProcessId;

typedef struct GwLaunch {
    const char *const *argv;   /* argv[0] is the binary's path */
    const char *user;          /* NULL: as we are */
    const char *const *groups; /* extra groups by name, missing ones are skipped; NULL: none */
    const char *log_path;      /* stdout and stderr, appended, mode 0600 */
    const int *fds;            /* kept open under fds_as[i] in the new process */
    const int *fds_as;
    unsigned n_fds;
} GwLaunch;

/* Fails when the binary cannot be executed or the user does not exist. */
bool gw_launch(const GwLaunch *launch, GwProcessId *out, GError **error) GW_MUST_USE;

bool gw_process_alive(GwProcessId process);

typedef struct GwProcessWatch GwProcessWatch;
typedef void (*GwProcessExitFn)(void *data);

/* Calls back once when the process has ended; GW_ERROR_NOT_FOUND if it is not there (any more). */
GwProcessWatch *gw_process_watch(GwProcessId process, GwProcessExitFn callback, void *data,
                                 GError **error) GW_MUST_USE;
void gw_process_watch_free(GwProcessWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwProcessWatch, gw_process_watch_free)

/* Sends a signal through the pidfd: never to another process that got the same pid. */
bool gw_process_signal(GwProcessId process, int signal_number, GError **error) GW_MUST_USE;
