// SPDX-License-Identifier: Apache-2.0
/*
 * A process's start time and the processor time that it has used.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>
#include <sys/types.h>

/* Field 22 of /proc/PID/stat (proc(5)); GW_ERROR_NOT_FOUND if there is no such process. */
bool gw_process_start_ticks(pid_t pid, uint64_t *ticks, GError **error) GW_MUST_USE;

/* Of all its threads, user and kernel, in µs; fields 14 and 15. */
bool gw_process_cpu_us(pid_t pid, int64_t *cpu_us, GError **error) GW_MUST_USE;
