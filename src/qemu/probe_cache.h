// SPDX-License-Identifier: Apache-2.0
/*
 * Results of probes on disk: small JSON files "NAME.json", {"key": …, "value": …}. The key says
 * what the value is about; a file with another key, or that cannot be read, is as good as none.
 * Main context; local files only.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

/* NULL if there is none under this key. Transfer full. */
json_t *gw_probe_cache_get(const char *dir, const char *name, const char *key) GW_MUST_USE;

/* Makes @dir (mode 0700) if need be. Borrows @value. */
bool gw_probe_cache_put(const char *dir, const char *name, const char *key, json_t *value,
                        GError **error) GW_MUST_USE;
