// SPDX-License-Identifier: Apache-2.0
/*
 * UEFI firmware (OVMF): the host's read-only code and each VM's own copy of the variables. Small
 * blocking file work; main context.
 */
#pragma once

#include "base/fd.h"

/*
 * Opens the variables at @vars_path for reading and writing, made from the host's template if they
 * are not there, and tells the code that fits them (static). GW_ERROR_UNSUPPORTED without OVMF.
 */
GwFd gw_firmware_open(const char *vars_path, const char **code, GError **error) GW_MUST_USE;
