// SPDX-License-Identifier: Apache-2.0
/*
 * Fault points: places where a test stops the daemon to see what the rest of the world makes of it.
 *
 * In builds with -Dfaults=true the process stops itself (SIGSTOP) at the first point whose name is
 * in the environment variable GODWIT_STOP_AT; a test then kills or continues it, or breaks
 * something else meanwhile. Other builds have no trace of them.
 */
#pragma once

#ifdef GODWIT_FAULTS
void gw_fault_point(const char *name);
#else
static inline void
gw_fault_point(const char *name)
{
    (void)name;
}
#endif
