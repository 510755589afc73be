// SPDX-License-Identifier: Apache-2.0
/*
 * The probes' cache. Owns the files in the cache folder. Main context. A broken or foreign file is
 * ignored when read and replaced when written; a failure to write is the caller's to report.
 */
#include "qemu/probe_cache.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

#define CACHE_MAX_BYTES (4u * 1024u * 1024u)

static char *
cache_path(const char *dir, const char *name)
{
    return g_strdup_printf("%s/%s.json", dir, name);
}

json_t *
gw_probe_cache_get(const char *dir, const char *name, const char *key)
{
    g_autofree char *path = cache_path(dir, name);
    g_autoptr(GError) error = NULL;
    size_t len = 0;
    g_autofree char *text = gw_file_read(path, CACHE_MAX_BYTES, &len, &error);

    if (!text) {
        return NULL;
    }
    g_autoptr(json_t) file = gw_json_parse(text, len, CACHE_MAX_BYTES, path, &error);
    if (!file) {
        gw_debug(NULL, "ignored a broken cache file: %s", error->message);
        return NULL;
    }
    if (g_strcmp0(gw_json_str(file, "key", NULL), key) != 0) {
        return NULL;
    }
    return json_incref(json_object_get(file, "value"));
}

bool
gw_probe_cache_put(const char *dir, const char *name, const char *key, json_t *value,
                   GError **error)
{
    g_autofree char *path = cache_path(dir, name);
    g_autoptr(json_t) file = json_pack("{s:s, s:O}", "key", key, "value", value);

    if (g_mkdir_with_parents(dir, 0700) < 0) {
        gw_set_error_errno(error, errno, "cannot make the folder '%s'", dir);
        return false;
    }
    if (!file) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "cannot cache '%s': its key is not UTF-8",
                    name);
        return false;
    }
    g_autofree char *text = gw_json_text(file);
    return gw_file_write(path, text, strlen(text), 0600, error);
}
