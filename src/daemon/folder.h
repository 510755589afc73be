// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon's folders and its lock.
 */
#pragma once

#include "base/fd.h"

#include <sys/types.h>

/*
 * Makes @path with @mode, and what is missing above it. A folder that is there must be ours and
 * not writable by others. @key names the setting for messages.
 */
bool gw_folder_make(const char *path, mode_t mode, const char *key, GError **error) GW_MUST_USE;

/*
 * Locks @state_dir for as long as the descriptor, or the process, lives; GW_ERROR_EXISTS, with the
 * other's pid, if it is locked already.
 */
GwFd gw_folder_lock(const char *state_dir, GError **error) GW_MUST_USE;
