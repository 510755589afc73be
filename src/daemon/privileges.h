// SPDX-License-Identifier: Apache-2.0
/*
 * What the daemon needs of root, and giving up the rest.
 */
#pragma once

#include "base/error.h"

/*
 * Gives up every capability but those in the table of privileges.c, for this process and all that
 * it starts, and the way back through set-user-id programs. Call it before the first thread is
 * made: capabilities belong to threads. Does nothing but the last for a daemon that is not root.
 */
bool gw_privileges_drop(GError **error) GW_MUST_USE;

/* Raises the soft limit of open files towards the hard one: each guest and session needs some. */
void gw_privileges_raise_files(void);
