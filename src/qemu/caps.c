// SPDX-License-Identifier: Apache-2.0
/*
 * Asks a QEMU without a machine (-machine none) for its version, machine types and the features
 * of the processor "max", which is the host's own under KVM. QEMU's documentation:
 * docs/interop/qmp-spec, qapi/machine.json, qapi/machine-target.json.
 *
 * The expansion is the static one: it names each CPUID feature once, while the full one adds
 * aliases (sse4_1 for sse4.1) and properties that are no features (migratable, l3-cache).
 * Owns the QEMU and the answers. Main context. An answer of the wrong shape is an error.
 */
#include "qemu/caps.h"

#include "qemu/probe_qemu.h"

#include <string.h>

struct GwCapsQuery {
    GwProbeQemu *qemu;
    json_t *facts;
    GwCapsQueryFn callback;
    void *data;
};

void
gw_caps_query_free(GwCapsQuery *query)
{
    if (!query) {
        return;
    }
    gw_probe_qemu_free(query->qemu);
    json_decref(query->facts);
    g_free(query);
}

bool
gw_caps_facts_are_valid(const json_t *facts)
{
    const json_t *features = json_object_get(facts, "cpu_features");
    size_t i;
    json_t *feature;

    json_array_foreach(features, i, feature)
    {
        if (!json_is_string(feature)) {
            return false;
        }
    }
    return json_array_size(features) > 0 && gw_json_str(facts, "version", NULL) &&
           json_object_size(json_object_get(facts, "machines")) > 0;
}

/* The last thing that is done with @query, which the callback may free. */
static void
conclude(GwCapsQuery *query, const GError *error)
{
    g_autoptr(json_t) facts = g_steal_pointer(&query->facts);

    g_clear_pointer(&query->qemu, gw_probe_qemu_free);
    if (error) {
        query->callback(NULL, error, query->data);
        return;
    }
    if (!gw_caps_facts_are_valid(facts)) {
        g_autoptr(GError) odd =
            g_error_new(GW_ERROR, GW_ERROR_PROTOCOL,
                        "QEMU's answers about itself lack a version, machines or CPU features");
        query->callback(NULL, odd, query->data);
        return;
    }
    query->callback(facts, NULL, query->data);
}

/* Of a QEMU that has ended we hear again, with its own words, in on_ended(). */
static void
conclude_refused(GwCapsQuery *query, const GError *error)
{
    if (!g_error_matches(error, GW_ERROR, GW_ERROR_UNREACHABLE)) {
        conclude(query, error);
    }
}

static void
take_version(json_t *facts, const json_t *result)
{
    const json_t *qemu = json_object_get(result, "qemu");
    g_autofree char *text =
        g_strdup_printf("%" G_GINT64_FORMAT ".%" G_GINT64_FORMAT ".%" G_GINT64_FORMAT,
                        gw_json_int(qemu, "major", 0), gw_json_int(qemu, "minor", 0),
                        gw_json_int(qemu, "micro", 0));

    gw_json_set_str(facts, "version", text);
}

static void
take_machines(json_t *facts, const json_t *result)
{
    json_t *machines = json_object();
    size_t i;
    json_t *entry;

    json_array_foreach(result, i, entry)
    {
        const char *name = gw_json_str(entry, "name", NULL);
        const char *alias = gw_json_str(entry, "alias", NULL);
        if (name) {
            json_object_set_new(
                machines, name,
                json_pack("{s:b}", "deprecated", gw_json_bool(entry, "deprecated", false)));
        }
        if (name && alias) {
            json_object_set_new(machines, alias, json_pack("{s:s}", "alias_of", name));
        }
    }
    json_object_set_new(facts, "machines", machines);
}

static int
compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void
take_features(json_t *facts, const json_t *result)
{
    json_t *props = json_object_get(json_object_get(result, "model"), "props");
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    json_t *features = json_array();
    const char *name;
    json_t *value;

    json_object_foreach(props, name, value)
    {
        if (json_is_true(value)) {
            g_ptr_array_add(names, (char *)name);
        }
    }
    g_ptr_array_sort(names, compare_names);
    for (unsigned i = 0; i < names->len; i++) {
        json_array_append_new(features, json_string(names->pdata[i]));
    }
    json_object_set_new(facts, "cpu_features", features);
}

static void
on_version(json_t *result, const GError *error, void *data)
{
    GwCapsQuery *query = data;

    if (error) {
        conclude_refused(query, error);
        return;
    }
    take_version(query->facts, result);
}

static void
on_machines(json_t *result, const GError *error, void *data)
{
    GwCapsQuery *query = data;

    if (error) {
        conclude_refused(query, error);
        return;
    }
    take_machines(query->facts, result);
}

static void
on_expansion(json_t *result, const GError *error, void *data)
{
    GwCapsQuery *query = data;

    if (error) {
        conclude_refused(query, error);
        return;
    }
    take_features(query->facts, result);
    conclude(query, NULL);
}

static void
on_ready(GwQmp *qmp, void *data)
{
    gw_qmp_call(qmp, "query-version", NULL, on_version, data);
    gw_qmp_call(qmp, "query-machines", NULL, on_machines, data);
    gw_qmp_call(qmp, "query-cpu-model-expansion",
                json_pack("{s:s, s:{s:s}}", "type", "static", "model", "name", "max"), on_expansion,
                data);
}

static void
on_ended(const GError *error, void *data)
{
    conclude(data, error);
}

GwCapsQuery *
gw_caps_query_start(const GwCapsQueryOptions *options, GwCapsQueryFn callback, void *data,
                    GError **error)
{
    static const GwProbeQemuHandlers HANDLERS = {.ready = on_ready, .ended = on_ended};
    g_autofree char *machine = g_strdup_printf("none,accel=%s", options->accel);
    const char *arguments[] = {"-machine", machine, NULL};
    g_autoptr(GwCapsQuery) query = g_new0(GwCapsQuery, 1);

    query->facts = json_object();
    query->callback = callback;
    query->data = data;
    query->qemu = gw_probe_qemu_start(
        &(GwProbeQemuOptions){
            .name = "caps",
            .binary = options->binary,
            .user = options->user,
            .run_dir = options->run_dir,
            .arguments = arguments,
        },
        &HANDLERS, query, error);
    return query->qemu ? g_steal_pointer(&query) : NULL;
}
