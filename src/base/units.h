// SPDX-License-Identifier: Apache-2.0
/*
 * Sizes and durations as people write and read them. Pure; any thread.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

/* "512 MiB", "1G", "1 GiB", "4096": K, M, G, T with an optional "iB" or "B" are powers of 1024. */
bool gw_parse_size(const char *text, uint64_t *bytes, GError **error) GW_MUST_USE;

/* "300ms", "5 s", "2 min", "1 h"; a bare number is seconds. */
bool gw_parse_duration(const char *text, int64_t *us, GError **error) GW_MUST_USE;

/* "1.5 GiB", "96 KiB", "12 B". Transfer full. */
char *gw_format_size(uint64_t bytes) GW_MUST_USE;

/* "85 ms", "1.4 s", "2 min 05 s". Transfer full. */
char *gw_format_duration(int64_t us) GW_MUST_USE;

/* Monotonic microseconds, also counting time in suspend (CLOCK_BOOTTIME). */
int64_t gw_now_us(void);

/* Wall clock, microseconds since 1970 UTC: for people and records, never for intervals. */
int64_t gw_wall_us(void);

/* "2026-11-22T02:34:00Z". Transfer full. */
char *gw_format_time(int64_t wall_us) GW_MUST_USE;

/*
 * A name of a VM, host, disk or NIC: 1 to 63 of [a-z0-9-_.], beginning with a letter or digit.
 * @what is put in the message ("VM name").
 */
bool gw_check_name(const char *what, const char *name, GError **error) GW_MUST_USE;
