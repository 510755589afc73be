// SPDX-License-Identifier: Apache-2.0
/*
 * From error code to exit status. Owns nothing; any thread; cannot fail.
 */
#include "cli/exit.h"

static const int statuses[GW_ERROR_N_CODES] = {
    [GW_ERROR_FAILED] = GW_EXIT_FAILURE,
    [GW_ERROR_INVALID] = GW_EXIT_INVALID,
    [GW_ERROR_NOT_FOUND] = GW_EXIT_NOT_FOUND,
    [GW_ERROR_EXISTS] = GW_EXIT_STATE,
    [GW_ERROR_STATE] = GW_EXIT_STATE,
    [GW_ERROR_UNREACHABLE] = GW_EXIT_UNREACHABLE,
    [GW_ERROR_REFUSED] = GW_EXIT_REFUSED,
    [GW_ERROR_TIMEOUT] = GW_EXIT_TIMEOUT,
    [GW_ERROR_CANCELLED] = GW_EXIT_CANCELLED,
    [GW_ERROR_CHECKS] = GW_EXIT_CHECKS,
    [GW_ERROR_ROLLED_BACK] = GW_EXIT_ROLLED_BACK,
    [GW_ERROR_GUEST_LOST] = GW_EXIT_GUEST_LOST,
    [GW_ERROR_PROTOCOL] = GW_EXIT_FAILURE,
    [GW_ERROR_TOO_LARGE] = GW_EXIT_INVALID,
    [GW_ERROR_UNSUPPORTED] = GW_EXIT_FAILURE,
    [GW_ERROR_IO] = GW_EXIT_FAILURE,
};

int
gw_exit_status(const GError *error)
{
    if (!error) {
        return GW_EXIT_SUCCESS;
    }
    bool known = error->domain == GW_ERROR && error->code >= 0 && error->code < GW_ERROR_N_CODES;
    return known ? statuses[error->code] : GW_EXIT_FAILURE;
}
