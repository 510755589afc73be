// SPDX-License-Identifier: Apache-2.0
/*
 * Structured logging: a message plus the fields an operator filters by.
 *
 *     gw_info(&(GwLogFields){.vm = name, .move = id}, "round %u done", round);
 *
 * Under systemd the fields go to the journal (GODWIT_VM=, GODWIT_HOST=, GODWIT_MOVE=,
 * GODWIT_STEP=); elsewhere a line goes to stderr: "TIME LEVEL vm=… move=… message". Control
 * characters in a message or field (a guest, QEMU or a peer may have chosen it) are escaped.
 *
 * Rule: a function either logs an error or returns it, never both. Any thread. Cannot fail.
 * Levels: error = an operator must act; warning = something is wrong but handled; info = what an
 * operator wants to read afterwards; debug = everything else (shown with GW_LOG_DEBUG set).
 */
#pragma once

#include "base/error.h"

typedef struct GwLogFields {
    const char *vm;
    const char *host;
    const char *move; /* the move's id */
    const char *step; /* a state or check name */
} GwLogFields;

typedef enum GwLogLevel {
    GW_LOG_LEVEL_ERROR,
    GW_LOG_LEVEL_WARNING,
    GW_LOG_LEVEL_INFO,
    GW_LOG_LEVEL_DEBUG,
} GwLogLevel;

/* Called once at start: debug lines are shown if @debug. */
void gw_log_init(bool debug);

/* @fields may be NULL. */
void gw_log(GwLogLevel level, const GwLogFields *fields, const char *format, ...) GW_PRINTF(3, 4);

#define gw_err(fields, ...)   gw_log(GW_LOG_LEVEL_ERROR, fields, __VA_ARGS__)
#define gw_warn(fields, ...)  gw_log(GW_LOG_LEVEL_WARNING, fields, __VA_ARGS__)
#define gw_info(fields, ...)  gw_log(GW_LOG_LEVEL_INFO, fields, __VA_ARGS__)
#define gw_debug(fields, ...) gw_log(GW_LOG_LEVEL_DEBUG, fields, __VA_ARGS__)
