// SPDX-License-Identifier: Apache-2.0
/*
 * Telling a service manager how the daemon does: the protocol of sd_notify(3), by hand.
 *
 * Datagrams of VARIABLE=VALUE lines to the Unix socket in $NOTIFY_SOCKET. Without that variable
 * nothing is sent. Main context; a send never blocks, and one that fails is lost.
 */
#pragma once

#include "base/error.h"

typedef struct GwNotify GwNotify;

/*
 * Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that no process
 * that we start can speak in our name, and feeds the watchdog from the main loop if it is asked
 * for.
 */
GwNotify *gw_notify_new(void) GW_MUST_USE;
void gw_notify_free(GwNotify *notify);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwNotify, gw_notify_free)

void gw_notify_ready(GwNotify *notify);
/* Ready again is said with gw_notify_ready(). */
void gw_notify_reloading(GwNotify *notify);
void gw_notify_stopping(GwNotify *notify);
/* One line for people. */
void gw_notify_status(GwNotify *notify, const char *format, ...) GW_PRINTF(2, 3);
