// SPDX-License-Identifier: Apache-2.0
/*
 * Names of the error codes. Pure; any thread; cannot fail.
 */
#include "base/error.h"

#include <stdarg.h>
#include <string.h>

/* As G_DEFINE_QUARK does it, but for threads that come here for the first time together. */
GQuark
gw_error_quark(void)
{
    static GQuark known;
    GQuark quark = __atomic_load_n(&known, __ATOMIC_RELAXED);

    if (quark == 0) {
        quark = g_quark_from_static_string("gw-error-quark");
        __atomic_store_n(&known, quark, __ATOMIC_RELAXED);
    }
    return quark;
}

static const char *const code_names[GW_ERROR_N_CODES] = {
    [GW_ERROR_FAILED] = "failed",           [GW_ERROR_INVALID] = "invalid",
    [GW_ERROR_NOT_FOUND] = "not-found",     [GW_ERROR_EXISTS] = "exists",
    [GW_ERROR_STATE] = "wrong-state",       [GW_ERROR_UNREACHABLE] = "unreachable",
    [GW_ERROR_REFUSED] = "refused",         [GW_ERROR_TIMEOUT] = "timeout",
    [GW_ERROR_CANCELLED] = "cancelled",     [GW_ERROR_CHECKS] = "checks-failed",
    [GW_ERROR_ROLLED_BACK] = "rolled-back", [GW_ERROR_GUEST_LOST] = "guest-lost",
    [GW_ERROR_PROTOCOL] = "protocol",       [GW_ERROR_TOO_LARGE] = "too-large",
    [GW_ERROR_UNSUPPORTED] = "unsupported", [GW_ERROR_IO] = "io",
};

const char *
gw_error_code_name(int code)
{
    return code >= 0 && code < GW_ERROR_N_CODES ? code_names[code] : NULL;
}

GwErrorCode
gw_error_code_from_name(const char *name)
{
    for (int code = 0; name && code < GW_ERROR_N_CODES; code++) {
        if (strcmp(code_names[code], name) == 0) {
            return (GwErrorCode)code;
        }
    }
    return GW_ERROR_FAILED;
}

void
gw_set_error_errno(GError **error, int errnum, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, GW_ERROR, GW_ERROR_IO, "%s: %s", what, g_strerror(errnum));
}
