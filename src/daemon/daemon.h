// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon's parts, put together. Main context.
 */
#pragma once

#include "base/error.h"
#include "daemon/config.h"

typedef struct GwDaemon GwDaemon;

typedef struct GwDaemonOptions {
    const char *config_path;
    bool config_may_be_absent;
    bool debug; /* whatever the configuration says */
} GwDaemonOptions;

/*
 * Makes the folders, takes the lock, gives up privileges, opens the store and begins to load the
 * rest. @config: transfer full. GW_ERROR_EXISTS if another daemon uses the same state folder.
 */
GwDaemon *gw_daemon_new(const GwDaemonOptions *options, GwConfig *config,
                        GError **error) GW_MUST_USE;

/* Runs until SIGTERM or SIGINT (true) or until a part cannot be loaded. */
bool gw_daemon_run(GwDaemon *daemon, GError **error) GW_MUST_USE;

/* Leaves every guest running and every move for recovery at the next start. */
void gw_daemon_free(GwDaemon *daemon);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwDaemon, gw_daemon_free)
