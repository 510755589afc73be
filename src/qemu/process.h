// SPDX-License-Identifier: Apache-2.0
/*
 * What launching and watching share: a process's start time.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>
#include <sys/types.h>

/* Field 22 of /proc/PID/stat (proc(5)); GW_ERROR_NOT_FOUND if there is no such process. */
bool gw_process_start_ticks(pid_t pid, uint64_t *ticks, GError **error) GW_MUST_USE;
