// SPDX-License-Identifier: Apache-2.0
/*
 * The table of configuration keys. A new key is one row here and one member of GwConfig.
 */
#pragma once

#include "daemon/config.h"

#include <stddef.h>

typedef enum GwConfigKind {
    GW_CONFIG_TEXT,     /* char *: printable, may be empty if min is 0 */
    GW_CONFIG_NAME,     /* char *: a host name of the fleet */
    GW_CONFIG_ADDRESS,  /* char *: an IP address */
    GW_CONFIG_PATH,     /* char *: absolute */
    GW_CONFIG_NETWORKS, /* char *: base/networks.h, may be empty */
    GW_CONFIG_CHOICE,   /* char *: one of `choices` */
    GW_CONFIG_NUMBER,   /* int64_t */
    GW_CONFIG_DURATION, /* int64_t, milliseconds */
    GW_CONFIG_SIZE,     /* int64_t, bytes */
    GW_CONFIG_PORTS,    /* GwConfigRange */
} GwConfigKind;

typedef struct GwConfigKey {
    const char *group;
    const char *key;
    GwConfigKind kind;
    bool reloads;             /* SIGHUP applies it; else a restart is needed */
    const char *default_text; /* as it would be written in the file */
    int64_t min;              /* in the member's unit */
    int64_t max;
    const char *const *choices;
    size_t offset;    /* of the member in GwConfig */
    const char *help; /* lines for the sample */
} GwConfigKey;

extern const GwConfigKey gw_config_keys[];
extern const size_t gw_config_n_keys;
