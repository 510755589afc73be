// SPDX-License-Identifier: Apache-2.0
/*
 * The one error domain of Godwit.
 *
 * Every fallible function returns bool or a pointer, takes a trailing GError **, is marked
 * GW_MUST_USE and leaves its outputs untouched on failure. The code says what kind of failure it
 * is, because the CLI's exit codes and the API's HTTP statuses follow from it; the message names
 * the VM, host, step and cause, and what to do.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

#define GW_MUST_USE           __attribute__((warn_unused_result))
#define GW_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

typedef enum GwErrorCode {
    GW_ERROR_FAILED,      /* anything without a better code */
    GW_ERROR_INVALID,     /* the caller's input is wrong */
    GW_ERROR_NOT_FOUND,   /* no such VM, host, move, file */
    GW_ERROR_EXISTS,      /* the name is taken */
    GW_ERROR_STATE,       /* the object is in a state that does not allow it */
    GW_ERROR_UNREACHABLE, /* the other end does not answer */
    GW_ERROR_REFUSED,     /* trust or permission: certificate, role, unknown host */
    GW_ERROR_TIMEOUT,     /* a step took longer than it may */
    GW_ERROR_CANCELLED,   /* on request */
    GW_ERROR_CHECKS,      /* checks before a move found errors */
    GW_ERROR_ROLLED_BACK, /* a move failed; the guest runs on the source as before */
    GW_ERROR_GUEST_LOST,  /* the guest is not running any more, or nobody can tell where */
    GW_ERROR_PROTOCOL,    /* a peer, guest or QEMU sent what it must not */
    GW_ERROR_TOO_LARGE,   /* a limit was exceeded */
    GW_ERROR_UNSUPPORTED, /* this version, QEMU or machine cannot do it */
    GW_ERROR_IO,          /* the operating system said no; the message has errno's text */
    GW_ERROR_N_CODES,
} GwErrorCode;

#define GW_ERROR (gw_error_quark())
GQuark gw_error_quark(void);

/* Stable lower-case name ("not-found"), used in JSON. NULL for a code out of range. */
const char *gw_error_code_name(int code);

/* The inverse; GW_ERROR_FAILED for an unknown name. */
GwErrorCode gw_error_code_from_name(const char *name);

/* Sets GW_ERROR_IO with "MESSAGE: strerror(errnum)". */
void gw_set_error_errno(GError **error, int errnum, const char *format, ...) GW_PRINTF(3, 4);
