// SPDX-License-Identifier: Apache-2.0
/*
 * Sizes, durations, clocks and names. Owns nothing; any thread. Parsers fail with
 * GW_ERROR_INVALID and say what they would accept.
 */
#include "base/units.h"

#include <math.h>
#include <string.h>
#include <time.h>

typedef struct Unit {
    const char *name;
    double factor;
} Unit;

/* Non-negative number, optional space, unit out of @units (the first is the default). */
static bool
parse_with_units(const char *text, const Unit *units, double max, double *out)
{
    char *end = NULL;

    if (!g_ascii_isdigit(text[0])) {
        return false;
    }
    double number = g_ascii_strtod(text, &end);
    if ((size_t)(end - text) != strspn(text, "0123456789.")) {
        return false; /* strtod also takes hexadecimal and exponents */
    }
    while (g_ascii_isspace(*end)) {
        end++;
    }
    for (const Unit *unit = units; unit->name; unit++) {
        if (g_ascii_strcasecmp(end, unit->name) == 0) {
            double value = number * unit->factor;
            if (!isfinite(value) || value > max) {
                return false;
            }
            *out = value;
            return true;
        }
    }
    return false;
}

#define KI 1024.0

bool
gw_parse_size(const char *text, uint64_t *bytes, GError **error)
{
    static const Unit units[] = {
        {"", 1},
        {"B", 1},
        {"K", KI},
        {"KB", KI},
        {"KiB", KI},
        {"M", KI * KI},
        {"MB", KI * KI},
        {"MiB", KI * KI},
        {"G", KI * KI * KI},
        {"GB", KI * KI * KI},
        {"GiB", KI * KI * KI},
        {"T", KI * KI * KI * KI},
        {"TB", KI * KI * KI * KI},
        {"TiB", KI * KI * KI * KI},
        {0},
    };
    double value;

    if (!parse_with_units(text, units, (double)(1ULL << 62), &value)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%s' is not a size: write for instance 512 MiB or 2 GiB", text);
        return false;
    }
    *bytes = (uint64_t)value;
    return true;
}

bool
gw_parse_duration(const char *text, int64_t *us, GError **error)
{
    static const Unit units[] = {
        {"", 1e6},     {"us", 1},   {"ms", 1e3},   {"s", 1e6},     {"sec", 1e6},
        {"min", 60e6}, {"m", 60e6}, {"h", 3600e6}, {"d", 86400e6}, {0},
    };
    double value;

    if (!parse_with_units(text, units, 1e18, &value)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%s' is not a duration: write for instance 300ms, 10s or 5min", text);
        return false;
    }
    *us = (int64_t)value;
    return true;
}

char *
gw_format_size(uint64_t bytes)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    unsigned unit = 0;

    while (value >= 1024 && unit + 1 < G_N_ELEMENTS(names)) {
        value /= 1024;
        unit++;
    }
    /* Whole numbers where a fraction would say nothing. */
    int digits = unit == 0 || value >= 100 || value == floor(value) ? 0 : 1;
    return g_strdup_printf("%.*f %s", digits, value, names[unit]);
}

char *
gw_format_duration(int64_t us)
{
    double seconds = (double)us / 1e6;

    if (seconds < 1) {
        return g_strdup_printf("%.0f ms", seconds * 1e3);
    }
    if (seconds < 100) {
        return g_strdup_printf("%.1f s", seconds);
    }
    int64_t whole = us / G_USEC_PER_SEC;
    if (whole < 3600) {
        return g_strdup_printf("%d min %02d s", (int)(whole / 60), (int)(whole % 60));
    }
    return g_strdup_printf("%" G_GINT64_FORMAT " h %02d min", whole / 3600, (int)(whole / 60 % 60));
}

static int64_t
clock_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * G_USEC_PER_SEC + now.tv_nsec / 1000;
}

int64_t
gw_now_us(void)
{
    return clock_us(CLOCK_BOOTTIME);
}

int64_t
gw_wall_us(void)
{
    return clock_us(CLOCK_REALTIME);
}

char *
gw_format_time(int64_t wall_us)
{
    time_t seconds = (time_t)(wall_us / G_USEC_PER_SEC);
    struct tm parts;
    char text[32];

    if (!gmtime_r(&seconds, &parts) ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) {
        return g_strdup("unknown");
    }
    return g_strdup(text);
}

bool
gw_check_name(const char *what, const char *name, GError **error)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-_.";
    size_t len = strlen(name);

    if (len < 1 || len > 63 || strspn(name, allowed) != len || !g_ascii_isalnum(name[0])) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "%s '%.80s' is not allowed: use 1 to 63 of a-z, 0-9, '-', '_' and '.', "
                    "beginning with a letter or digit",
                    what, name);
        return false;
    }
    return true;
}
