// SPDX-License-Identifier: Apache-2.0
/*
 * A terminal attached to a guest's console socket. Blocks until Ctrl-], the guest's end, or a
 * signal; the terminal is as before afterwards, however it ends.
 */
#pragma once

#include "base/error.h"

bool gw_console_attach(const char *vm, const char *socket_path, GError **error) GW_MUST_USE;
