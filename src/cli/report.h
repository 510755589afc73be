// SPDX-License-Identifier: Apache-2.0
/*
 * What a person reads about a move that has ended, and about a plan. Pure; any thread. The objects
 * are those of migrate/migrate.h.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

/* Where the guest runs now, times, downtime, bytes by cause, rounds. Transfer full. */
char *gw_report_move(const json_t *move) GW_MUST_USE;

/* Everything about a move, for `migration show`. Transfer full. */
char *gw_report_details(const json_t *move) GW_MUST_USE;

/* All checks with their remedies. Transfer full. */
char *gw_report_plan(const json_t *plan) GW_MUST_USE;

/*
 * True if the move completed. Otherwise the error says why, and its code is that of the outcome:
 * GW_ERROR_CHECKS, _ROLLED_BACK, _CANCELLED, _REFUSED, _GUEST_LOST.
 */
bool gw_report_outcome(const json_t *move, GError **error) GW_MUST_USE;
