// SPDX-License-Identifier: Apache-2.0
/*
 * Facts about this host that need no QEMU. Any thread.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

/* "model name" of /proc/cpuinfo, "unknown" if it is not there. Transfer full. */
char *gw_host_cpu_model(void) GW_MUST_USE;

/* Processors that are online. */
unsigned gw_host_cpus(void);

/* MemTotal of /proc/meminfo; 0 if it cannot be read. */
uint64_t gw_host_memory_bytes(void);

/* Changes with every boot; "unknown" if it cannot be read. Transfer full. */
char *gw_host_boot_id(void) GW_MUST_USE;
