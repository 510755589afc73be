// SPDX-License-Identifier: Apache-2.0
/*
 * The exit statuses of godwit(1): stable, and the same table as in its EXIT STATUS. Pure.
 */
#pragma once

#include "base/error.h"

#define GW_EXIT_SUCCESS     0
#define GW_EXIT_FAILURE     1
#define GW_EXIT_INVALID     2
#define GW_EXIT_NOT_FOUND   3
#define GW_EXIT_STATE       4
#define GW_EXIT_UNREACHABLE 5
#define GW_EXIT_REFUSED     6
#define GW_EXIT_CHECKS      7
#define GW_EXIT_ROLLED_BACK 8
#define GW_EXIT_CANCELLED   9
#define GW_EXIT_GUEST_LOST  10
#define GW_EXIT_TIMEOUT     11
#define GW_EXIT_INTERRUPTED 130

/* Success for NULL; failure for an error of another domain. */
int gw_exit_status(const GError *error) GW_MUST_USE;
