// SPDX-License-Identifier: Apache-2.0
/*
 * Writes and reads the store's records of a VM. Owns only what it returns; pure; any thread.
 * Records are our own, but a store can be damaged or newer than we are: reading checks all of it.
 */
#include "vm/record.h"

#include "base/units.h"

#include <string.h>

#define MAX_RECORD_BYTES (256u * 1024u)

void
gw_run_free(GwRun *run)
{
    if (run) {
        g_free(run->token);
        g_free(run->accel);
        g_free(run->machine);
        g_free(run->cpu);
        g_free(run->balloon);
        g_free(run->qemu_version);
        g_strfreev(run->taps);
        g_free(run->move_id);
        g_free(run->definition_text);
        g_free(run);
    }
}

json_t *
gw_run_info(const GwRun *run)
{
    json_t *object = json_object();

    gw_json_set_str(object, "accel", run->accel);
    gw_json_set_str(object, "machine", run->machine);
    gw_json_set_str(object, "cpu", run->cpu);
    gw_json_set_str(object, "balloon", run->balloon);
    gw_json_set_str(object, "qemu_version", run->qemu_version);
    return object;
}

char *
gw_run_text(const GwRun *run)
{
    g_autoptr(json_t) object = gw_run_info(run);
    json_t *taps = json_array();

    gw_json_set_int(object, "pid", run->process.pid);
    gw_json_set_int(object, "start_ticks", (int64_t)run->process.start_ticks);
    gw_json_set_str(object, "token", run->token);
    for (char **tap = run->taps; *tap; tap++) {
        json_array_append_new(taps, json_string(*tap));
    }
    json_object_set_new(object, "taps", taps);
    gw_json_set_bool(object, "incoming", run->incoming);
    gw_json_set_str(object, "move", run->move_id);
    gw_json_set_str(object, "definition", run->definition_text);
    return gw_json_text(object);
}

static char **
read_taps(const json_t *object)
{
    const json_t *taps = json_object_get(object, "taps");
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (size_t i = 0; i < json_array_size(taps); i++) {
        const char *name = json_string_value(json_array_get(taps, i));
        if (name) {
            g_ptr_array_add(names, g_strdup(name));
        }
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
}

static bool
read_run(const json_t *object, GwRun *run, GError **error)
{
    const char *token, *accel, *machine, *cpu, *version;
    const char *balloon = "plain"; /* what QEMUs had before it was recorded */
    const char *move_id = NULL;
    const char *definition = NULL;
    int64_t pid, ticks;

    if (!gw_json_need_int(object, "pid", 0, G_MAXINT32, &pid, error) ||
        !gw_json_need_int(object, "start_ticks", 0, G_MAXINT64, &ticks, error) ||
        !gw_json_need_string(object, "token", &token, error) ||
        !gw_json_need_string(object, "accel", &accel, error) ||
        !gw_json_need_string(object, "machine", &machine, error) ||
        !gw_json_need_string(object, "cpu", &cpu, error) ||
        !gw_json_need_string(object, "qemu_version", &version, error) ||
        !gw_json_opt_string(object, "balloon", &balloon, error) ||
        !gw_json_opt_bool(object, "incoming", &run->incoming, error) ||
        !gw_json_opt_string(object, "move", &move_id, error) ||
        !gw_json_opt_string(object, "definition", &definition, error)) {
        return false;
    }
    run->process = (GwProcessId){.pid = (pid_t)pid, .start_ticks = (uint64_t)ticks};
    run->token = g_strdup(token);
    run->accel = g_strdup(accel);
    run->machine = g_strdup(machine);
    run->cpu = g_strdup(cpu);
    run->balloon = g_strdup(balloon);
    run->qemu_version = g_strdup(version);
    run->taps = read_taps(object);
    run->move_id = g_strdup(move_id);
    run->definition_text = g_strdup(definition);
    return true;
}

GwRun *
gw_run_parse(const void *data, size_t len, const char *vm_name, GError **error)
{
    g_autofree char *what = g_strdup_printf("run record of VM %s", vm_name);
    g_autoptr(json_t) object = gw_json_parse(data, len, MAX_RECORD_BYTES, what, error);
    g_autoptr(GwRun) run = g_new0(GwRun, 1);

    if (!object) {
        return NULL;
    }
    if (!read_run(object, run, error)) {
        g_prefix_error(error, "%s: ", what);
        return NULL;
    }
    return g_steal_pointer(&run);
}

void
gw_owner_clear(GwOwner *owner)
{
    g_clear_pointer(&owner->host, g_free);
}

char *
gw_owner_text(const char *host, int64_t generation)
{
    g_autoptr(json_t) object = json_object();

    gw_json_set_str(object, "host", host);
    gw_json_set_int(object, "generation", generation);
    return gw_json_text(object);
}

bool
gw_owner_parse(const void *data, size_t len, const char *vm_name, GwOwner *out, GError **error)
{
    g_autofree char *what = g_strdup_printf("owner record of VM %s", vm_name);
    g_autoptr(json_t) object = gw_json_parse(data, len, MAX_RECORD_BYTES, what, error);
    const char *host;
    int64_t generation;

    if (!object) {
        return false;
    }
    if (!gw_json_need_string(object, "host", &host, error) ||
        !gw_json_need_int(object, "generation", 1, G_MAXINT64, &generation, error)) {
        g_prefix_error(error, "%s: ", what);
        return false;
    }
    *out = (GwOwner){.host = g_strdup(host), .generation = generation};
    return true;
}

char *
gw_vm_key(const char *vm_name, const char *what)
{
    return g_strdup_printf(GW_VM_KEY_PREFIX "%s/%s", vm_name, what);
}

bool
gw_vm_key_split(const char *key, char **vm_name, char **what)
{
    if (!g_str_has_prefix(key, GW_VM_KEY_PREFIX)) {
        return false;
    }
    const char *name = key + strlen(GW_VM_KEY_PREFIX);
    const char *slash = strchr(name, '/');
    g_autofree char *candidate = slash ? g_strndup(name, (size_t)(slash - name)) : NULL;
    if (!candidate || !gw_check_name("VM name", candidate, NULL)) {
        return false;
    }
    *vm_name = g_steal_pointer(&candidate);
    *what = g_strdup(slash + 1);
    return true;
}
