// SPDX-License-Identifier: Apache-2.0
/*
 * Fault points, see fault.h. Owns the fact that one was hit. Main context. Empty without faults.
 */
#include "base/fault.h"

#ifdef GODWIT_FAULTS
#include <glib.h>
#include <signal.h>
#include <stdbool.h>

void
gw_fault_point(const char *name)
{
    static bool hit;
    const char *wanted = g_getenv("GODWIT_STOP_AT");

    if (!hit && g_strcmp0(wanted, name) == 0) {
        hit = true;
        raise(SIGSTOP);
    }
}
#endif
