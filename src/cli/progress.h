// SPDX-License-Identifier: Apache-2.0
/*
 * A move's progress as text. The numbers are the daemon's (migrate/migrate.h has the object's
 * members); here they are only set. Pure; any thread.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

/* What was shown before: all zero at the beginning. */
typedef struct GwProgressView {
    unsigned percent;
} GwProgressView;

/*
 * Two lines, neither wider than @width columns, for a terminal that rewrites them:
 *
 *     web1: alpha -> beta  precopy, round 2
 *     [############........]  62 %  1.1 GiB/s  dirty 20 MiB/s  downtime 85 ms  4.2 s left
 *
 * What does not fit is left out from the right; the percentage never goes back. Transfer full.
 */
char *gw_progress_lines(GwProgressView *view, const json_t *move, unsigned width) GW_MUST_USE;

/* The same in one line without a bar, for a log. Transfer full. */
char *gw_progress_plain(GwProgressView *view, const json_t *move) GW_MUST_USE;
