// SPDX-License-Identifier: Apache-2.0
/*
 * QMP client: commands to, and events from, one QEMU's monitor socket. Asynchronous, in the main
 * context. QEMU is treated as hostile (its guest may have taken it over): lines are capped at
 * 8 MiB, depth at 32, and a monitor that breaks the protocol is closed.
 *
 * Commands are run in order, but for those out of band, which QEMU runs at once. A command that is
 * not answered within its timeout fails with GW_ERROR_TIMEOUT (a late answer is dropped; if it was
 * not sent yet it is not sent any more); QEMU may hang on a stuck disk.
 * No callback runs inside a call into this module.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

typedef struct GwQmp GwQmp;

#define GW_QMP_TIMEOUT_MS 15000

/* @result: borrowed, NULL when @error is set. An error of QEMU itself has GW_ERROR_FAILED and its
 * text. */
typedef void (*GwQmpReplyFn)(json_t *result, const GError *error, void *data);

typedef struct GwQmpHandlers {
    /* The greeting was read and capabilities are negotiated; commands may be sent before, too. */
    void (*ready)(GwQmp *qmp, void *data);
    /* @arguments may be NULL; borrowed. */
    void (*event)(GwQmp *qmp, const char *name, json_t *arguments, void *data);
    /* The socket closed or broke the protocol; pending replies were failed before. Last call. */
    void (*closed)(GwQmp *qmp, const GError *error, void *data);
} GwQmpHandlers;

/*
 * Connects to the monitor at @path. Transfer full. When QEMU is only starting, it must have been
 * given a listening socket that is non-blocking (-chardev socket,fd=N,server=on,wait=off): its main
 * thread and its monitor's thread may both try to accept, and the one that finds nobody would hang
 * for ever (seen with 10.0, about one start in 200 on a busy processor).
 */
GwQmp *gw_qmp_open(const char *path, const GwQmpHandlers *handlers, void *data,
                   GError **error) GW_MUST_USE;

/* Drops pending replies without calling them. NULL is fine. */
void gw_qmp_free(GwQmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwQmp, gw_qmp_free)

/* For commands sent from now on and for the greeting; GW_QMP_TIMEOUT_MS unless set. */
void gw_qmp_set_timeout_ms(GwQmp *qmp, int64_t timeout_ms);

/* QEMU's version from the greeting, 100 * major + minor; 0 before ready(). */
unsigned gw_qmp_version(const GwQmp *qmp);

/*
 * Sends @command with @arguments (transfer full, nullable). @reply may be NULL: then an error is
 * logged. It is called exactly once unless gw_qmp_forget() or gw_qmp_free() drops it.
 */
void gw_qmp_call(GwQmp *qmp, const char *command, json_t *arguments, GwQmpReplyFn reply,
                 void *data);

/* The same with a descriptor sent along (for getfd). @fd stays the caller's. */
void gw_qmp_call_fd(GwQmp *qmp, const char *command, json_t *arguments, int fd, GwQmpReplyFn reply,
                    void *data);

/*
 * The same out of band: QEMU runs it while its main loop stands still, as it may during a
 * post-copy, and whatever was sent before. For the few commands that allow it ("allow-oob" in
 * QEMU's schema). The monitor's greeting and negotiation are not such: a monitor that is opened
 * while the main loop stands still gets ready when that goes on.
 */
void gw_qmp_call_oob(GwQmp *qmp, const char *command, json_t *arguments, GwQmpReplyFn reply,
                     void *data);

/* Drops all pending replies that were given this @data. */
void gw_qmp_forget(GwQmp *qmp, void *data);
