// SPDX-License-Identifier: Apache-2.0
/*
 * QEMU's own log: where each start is marked, how it is kept small, and what it says of an end.
 * Small blocking file work; main context.
 */
#pragma once

#include "base/error.h"

/* Beyond this a log is cut to its newest GW_LOG_KEPT_BYTES: a guest can make QEMU write. */
#define GW_LOG_MAX_BYTES  (16u * 1024u * 1024u)
#define GW_LOG_KEPT_BYTES (1024u * 1024u)

/* Appends the mark of a new start, with the command line. */
bool gw_qemu_log_begin(const char *path, const char *const *argv, GError **error) GW_MUST_USE;

/* What was written since the last mark, at most its last 16 KiB, UTF-8. Transfer full. */
char *gw_qemu_log_tail(const char *path) GW_MUST_USE;

/* Cuts the log at @path if it is too large. Safe while QEMU appends to it. */
void gw_qemu_log_trim(const char *path);

/*
 * The error among the lines of @tail, on one line, with what to do about it where that is known;
 * NULL if there is none. Pure. Transfer full.
 */
char *gw_qemu_log_explain(const char *tail, const char *qemu_user) GW_MUST_USE;
