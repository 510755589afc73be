// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon's configuration: one table of keys (config_keys.c) from which the parser, its
 * messages and the commented sample come.
 *
 * Read are FILE and then conf.d/NAME.conf beside it, in the order of their names; a later file's
 * value replaces an earlier one's. Within one file no group and no key may be given twice. All
 * mistakes of all files are told at once, with file, line, key and the allowed values; unknown
 * groups and keys are mistakes. Main context; blocking reads of small files.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

#define GW_CONFIG_DEFAULT_PATH   "/etc/godwit/godwitd.conf"
#define GW_CONFIG_MAX_FILE_BYTES (256u * 1024u)

typedef struct GwConfigRange {
    uint16_t min;
    uint16_t max;
} GwConfigRange;

/* Strings may be empty where config_keys.c allows it, and are never NULL. */
typedef struct GwConfig {
    char *host_name;
    char *state_dir;
    char *run_dir;
    char *api_socket; /* absolute */
    char *api_group;  /* "": the daemon's own */
    char *peer_bind;
    int64_t peer_port;
    int64_t connect_timeout_ms;
    int64_t session_timeout_ms;
    char *qemu_binary;
    char *qemu_user; /* "": as the daemon */
    char *accel;
    int64_t prepare_timeout_ms;
    int64_t precopy_timeout_ms;
    int64_t switchover_timeout_ms;
    int64_t refuse_timeout_ms;
    int64_t downtime_limit_ms;
    int64_t max_bandwidth; /* bytes per second, 0: no limit */
    GwConfigRange direct_ports;
    char *plain_networks; /* "": none; gw_networks_parse() takes it */
    int64_t connections;  /* 0: by measure */
    char *congestion;     /* "": by the link */
    int64_t silence_ms;
    int64_t max_incoming;
    int64_t history;
    int64_t visits_size; /* bytes, 0: none are kept */
    int64_t visits_age_ms;
    char *log_level;
} GwConfig;

/* @may_be_absent: a missing FILE is as good as an empty one. */
GwConfig *gw_config_load(const char *path, bool may_be_absent, GError **error) GW_MUST_USE;
void gw_config_free(GwConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwConfig, gw_config_free)

/* data/godwitd.conf: every key with its default and its explanation. Transfer full. */
char *gw_config_sample(void) GW_MUST_USE;

/* Tells each key whose value differs. @reloads: a running daemon can take it over. */
typedef void (*GwConfigDiffFn)(const char *group, const char *key, bool reloads, void *data);
void gw_config_diff(const GwConfig *before, const GwConfig *after, GwConfigDiffFn callback,
                    void *data);
