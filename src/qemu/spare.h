// SPDX-License-Identifier: Apache-2.0
/*
 * A second monitor of a QEMU for commands out of band, which a daemon that was started anew can
 * use while QEMU's main loop stands still.
 *
 * The monitor on a socket cannot be: a new connection to it is a new monitor, whose negotiation
 * the main loop has to answer. This one is on two named pipes, PATH.in and PATH.out, of which QEMU
 * also holds the other end of the one that it reads: for QEMU the connection is never closed, so
 * what was negotiated by the daemon that started QEMU holds for those after it. What QEMU says
 * while nobody reads is lost, which is as well. Nothing else than answers to commands is taken from
 * it.
 *
 * QEMU from 8.1 on: "-chardev file,path=…,input-path=…,append=on".
 */
#pragma once

#include "base/fd.h"
#include "qemu/qmp.h"

typedef struct GwSpare GwSpare;

/* For QEMU; the third only has to stay open in it. */
typedef struct GwSpareEnds {
    GwFd input;
    GwFd output;
    GwFd keeper;
} GwSpareEnds;

void gw_spare_ends_clear(GwSpareEnds *ends);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(GwSpareEnds, gw_spare_ends_clear)

/* Makes both pipes, in the place of what is there. */
bool gw_spare_make(const char *path, GwSpareEnds *out, GError **error) GW_MUST_USE;

/*
 * Transfer full. @fresh: QEMU was started just now, and the monitor is negotiated. It fails if
 * there are no such pipes, or no QEMU that reads.
 */
GwSpare *gw_spare_open(const char *path, bool fresh, GError **error) GW_MUST_USE;
/* Drops a pending reply without calling it. NULL is fine. */
void gw_spare_free(GwSpare *spare);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwSpare, gw_spare_free)

/*
 * Sends @command with @arguments (transfer full, nullable) out of band. One at a time: a reply that
 * is pending is dropped. @reply as with gw_qmp_call(), never from inside; it may free @spare.
 */
void gw_spare_call(GwSpare *spare, const char *command, json_t *arguments, GwQmpReplyFn reply,
                   void *data);
