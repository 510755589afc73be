// SPDX-License-Identifier: Apache-2.0
/*
 * What /proc tells of a process: start time, processor time, and its memory.
 */
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "qemu/launch.h"

#include <stdint.h>
#include <sys/types.h>

/* Field 22 of /proc/PID/stat (proc(5)); GW_ERROR_NOT_FOUND if there is no such process. */
bool gw_process_start_ticks(pid_t pid, uint64_t *ticks, GError **error) GW_MUST_USE;

/* Of all its threads, user and kernel, in µs; fields 14 and 15. */
bool gw_process_cpu_us(pid_t pid, int64_t *cpu_us, GError **error) GW_MUST_USE;

/*
 * Opens /proc/PID/@name, with the rights of the process's own user where they differ from ours:
 * that takes CAP_SETUID, not the right to look into every process (CAP_SYS_PTRACE). What it returns
 * belongs to this process, not to another one that gets its number later. GW_ERROR_NOT_FOUND,
 * GW_ERROR_IO.
 */
GwFd gw_process_open(GwProcessId process, const char *name, int flags, GError **error) GW_MUST_USE;
