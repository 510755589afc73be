// SPDX-License-Identifier: Apache-2.0
/*
 * Watching a move until it ends: live lines on a terminal, plain lines elsewhere, NDJSON with
 * --json. Ctrl-C leaves; the move goes on in the daemon. A daemon that goes away is waited for,
 * as moves survive its restart.
 */
#pragma once

#include "cli/cli.h"

/*
 * From here to gw_watch_end() Ctrl-C is taken by the watch instead of ending the process. NULL
 * only with an error.
 */
typedef struct GwWatch GwWatch;
GwWatch *gw_watch_begin(GwCli *cli, GError **error) GW_MUST_USE;
void gw_watch_end(GwWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwWatch, gw_watch_end)

/*
 * Until the move has ended: its object, transfer full. NULL with an error, or without one after
 * Ctrl-C: then cli->interrupted is set and the user was told what to do.
 */
json_t *gw_watch_move(GwWatch *watch, const char *id, GError **error) GW_MUST_USE;
