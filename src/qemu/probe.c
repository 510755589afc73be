// SPDX-License-Identifier: Apache-2.0
/*
 * The probe of this host, step by step: find the binary, choose the accelerator (configured,
 * remembered or proved), ask QEMU what it offers (remembered or asked), report.
 *
 * The cache has "accel.json", keyed by boot, binary and user: that KVM works, or that its test
 * guest hangs, which takes seconds to find out. Other failures (no node, no permission) are found
 * again at once, so their repair is noticed without a reboot. And "qemu-tcg.json" or
 * "qemu-kvm.json", keyed by binary; under KVM by boot, too, as the features come from the host's
 * kernel.
 *
 * Owns the steps' QEMUs, which end with it. Main context; every step is asynchronous and has a
 * timeout. Fails when QEMU is missing or does not start, or when kvm is asked for and does not
 * work.
 */
#include "qemu/probe.h"

#include "base/log.h"
#include "qemu/accel.h"
#include "qemu/caps.h"
#include "qemu/host.h"
#include "qemu/probe_cache.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define ACCEL_CACHE "accel"

struct GwProbe {
    char *qemu_binary;
    char *qemu_user;
    char *cache_dir;
    char *run_dir;
    char *accel;
    GwProbeFn callback;
    void *data;
    guint start_source;
    GwHostCaps *caps;
    char *binary_key; /* path, size and mtime */
    GwAccelProof *proof;
    GwCapsQuery *query;
};

void
gw_host_caps_free(GwHostCaps *caps)
{
    if (!caps) {
        return;
    }
    g_free(caps->qemu_binary);
    g_free(caps->qemu_version);
    g_free(caps->accel);
    g_free(caps->accel_reason);
    json_decref(caps->machines);
    json_decref(caps->cpu_features);
    g_free(caps->cpu_model);
    g_free(caps);
}

void
gw_probe_free(GwProbe *probe)
{
    if (!probe) {
        return;
    }
    if (probe->start_source) {
        g_source_remove(probe->start_source);
    }
    gw_accel_proof_free(probe->proof);
    gw_caps_query_free(probe->query);
    gw_host_caps_free(probe->caps);
    g_free(probe->qemu_binary);
    g_free(probe->qemu_user);
    g_free(probe->cache_dir);
    g_free(probe->run_dir);
    g_free(probe->accel);
    g_free(probe->binary_key);
    g_free(probe);
}

/* The last thing that is done with @probe, which the callback may free. Takes @error. */
static void
conclude(GwProbe *probe, GError *error)
{
    g_autoptr(GError) reason = error;
    GwHostCaps *caps = g_steal_pointer(&probe->caps);

    if (reason) {
        g_clear_pointer(&caps, gw_host_caps_free);
    }
    probe->callback(caps, reason, probe->data);
}

static void
remember(const GwProbe *probe, const char *name, const char *key, json_t *value)
{
    g_autoptr(GError) error = NULL;

    if (!gw_probe_cache_put(probe->cache_dir, name, key, value, &error)) {
        gw_warn(NULL, "a probe's result is not kept for the next start: %s", error->message);
    }
}

/* --- what QEMU offers ------------------------------------------------------------------------- */

static char *
facts_key(const GwProbe *probe)
{
    if (g_str_equal(probe->caps->accel, "tcg")) {
        return g_strdup(probe->binary_key);
    }
    g_autofree char *boot_id = gw_host_boot_id();
    return g_strdup_printf("%s boot %s", probe->binary_key, boot_id);
}

static char *
facts_name(const GwProbe *probe)
{
    return g_strdup_printf("qemu-%s", probe->caps->accel);
}

static bool
parse_version(const char *text, unsigned *major_minor)
{
    unsigned major = 0;
    unsigned minor = 0;

    if (sscanf(text, "%3u.%2u", &major, &minor) != 2) {
        return false;
    }
    *major_minor = 100 * major + minor;
    return true;
}

static void
take_facts(GwProbe *probe, json_t *facts)
{
    GwHostCaps *caps = probe->caps;
    GError *error = NULL;

    caps->qemu_version = g_strdup(gw_json_str(facts, "version", ""));
    caps->machines = json_incref(json_object_get(facts, "machines"));
    caps->cpu_features = json_incref(json_object_get(facts, "cpu_features"));
    if (!parse_version(caps->qemu_version, &caps->qemu_major_minor)) {
        g_set_error(&error, GW_ERROR, GW_ERROR_PROTOCOL, "'%s' has the odd version '%s'",
                    caps->qemu_binary, caps->qemu_version);
    }
    conclude(probe, error);
}

static void
on_facts(json_t *facts, const GError *error, void *data)
{
    GwProbe *probe = data;

    if (error) {
        conclude(probe, g_error_new(error->domain, error->code, "'%s' does not work: %s",
                                    probe->caps->qemu_binary, error->message));
        return;
    }
    g_autofree char *name = facts_name(probe);
    g_autofree char *key = facts_key(probe);
    remember(probe, name, key, facts);
    take_facts(probe, facts);
}

static void
find_facts(GwProbe *probe)
{
    g_autofree char *name = facts_name(probe);
    g_autofree char *key = facts_key(probe);
    g_autoptr(json_t) facts = gw_probe_cache_get(probe->cache_dir, name, key);
    GError *error = NULL;

    if (facts && gw_caps_facts_are_valid(facts)) {
        take_facts(probe, facts);
        return;
    }
    probe->query = gw_caps_query_start(
        &(GwCapsQueryOptions){
            .accel = probe->caps->accel,
            .binary = probe->caps->qemu_binary,
            .user = probe->qemu_user,
            .run_dir = probe->run_dir,
        },
        on_facts, probe, &error);
    if (error) {
        conclude(probe, error);
    }
}

/* --- the accelerator -------------------------------------------------------------------------- */

static char *
accel_key(const GwProbe *probe)
{
    g_autofree char *boot_id = gw_host_boot_id();

    return g_strdup_printf("%s user %s boot %s", probe->binary_key,
                           probe->qemu_user ? probe->qemu_user : "-", boot_id);
}

/* Settles on an accelerator, given what is known of KVM, and goes on. */
static void
settle_accel(GwProbe *probe, bool kvm_works, const char *text)
{
    bool asked_for = g_str_equal(probe->accel, "kvm");

    if (asked_for && !kvm_works) {
        conclude(probe, g_error_new(GW_ERROR, GW_ERROR_UNSUPPORTED,
                                    "accel=kvm is configured and KVM does not work: %s. Repair "
                                    "KVM, or configure accel=auto or accel=tcg",
                                    text));
        return;
    }
    probe->caps->accel = g_strdup(kvm_works ? "kvm" : "tcg");
    probe->caps->accel_reason = g_strdup_printf("%s: %s%s", probe->caps->accel,
                                                asked_for ? "as configured, and " : "", text);
    find_facts(probe);
}

static void
on_verdict(const GwAccelVerdict *verdict, void *data)
{
    GwProbe *probe = data;

    if (verdict->lasting) {
        g_autofree char *key = accel_key(probe);
        g_autoptr(json_t) value = json_object();
        gw_json_set_bool(value, "works", verdict->works);
        gw_json_set_str(value, "text", verdict->text);
        remember(probe, ACCEL_CACHE, key, value);
    }
    settle_accel(probe, verdict->works, verdict->text);
}

static void
prove_kvm(GwProbe *probe)
{
    GError *error = NULL;

    probe->proof = gw_accel_proof_start(
        &(GwAccelProofOptions){
            .accel = "kvm",
            .binary = probe->caps->qemu_binary,
            .user = probe->qemu_user,
            .run_dir = probe->run_dir,
        },
        on_verdict, probe, &error);
    if (error) {
        conclude(probe, error);
    }
}

static void
choose_accel(GwProbe *probe)
{
    if (g_str_equal(probe->accel, "tcg")) {
        settle_accel(probe, false, "as configured");
        return;
    }
    if (!g_file_test("/dev/kvm", G_FILE_TEST_EXISTS)) {
        settle_accel(probe, false,
                     "there is no /dev/kvm (no virtualisation in this CPU or its firmware's "
                     "settings, or the kvm module is not loaded)");
        return;
    }
    g_autofree char *key = accel_key(probe);
    g_autoptr(json_t) known = gw_probe_cache_get(probe->cache_dir, ACCEL_CACHE, key);
    const char *text = gw_json_str(known, "text", NULL);
    bool works = gw_json_bool(known, "works", false);
    /* Who asks for kvm after a failure has repaired something: try again. */
    if (text && (works || g_str_equal(probe->accel, "auto"))) {
        settle_accel(probe, works, text);
        return;
    }
    prove_kvm(probe);
}

/* --- the start -------------------------------------------------------------------------------- */

static char *
find_binary(const char *name, GError **error)
{
    g_autofree char *found = g_find_program_in_path(name);

    if (!found) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND,
                    "there is no QEMU '%s': install qemu-system-x86, or configure its path", name);
        return NULL;
    }
    return g_canonicalize_filename(found, NULL);
}

static char *
key_of_binary(const char *path, GError **error)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        gw_set_error_errno(error, errno, "cannot read '%s'", path);
        return NULL;
    }
    return g_strdup_printf("v1 %s size %" G_GINT64_FORMAT " mtime %" G_GINT64_FORMAT ".%09ld", path,
                           (gint64)st.st_size, (gint64)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

static gboolean
on_start(void *data)
{
    GwProbe *probe = data;
    GwHostCaps *caps = probe->caps;
    GError *error = NULL;

    probe->start_source = 0;
    if (!g_strv_contains((const char *const[]){"auto", "kvm", "tcg", NULL}, probe->accel)) {
        g_set_error(&error, GW_ERROR, GW_ERROR_INVALID, "accel=%s: must be one of auto, kvm, tcg",
                    probe->accel);
        conclude(probe, error);
        return G_SOURCE_REMOVE;
    }
    caps->cpu_model = gw_host_cpu_model();
    caps->cpus = gw_host_cpus();
    caps->memory_bytes = gw_host_memory_bytes();
    caps->qemu_binary = find_binary(probe->qemu_binary, &error);
    probe->binary_key = caps->qemu_binary ? key_of_binary(caps->qemu_binary, &error) : NULL;
    if (error) {
        conclude(probe, error);
        return G_SOURCE_REMOVE;
    }
    choose_accel(probe);
    return G_SOURCE_REMOVE;
}

GwProbe *
gw_probe_start(const GwProbeOptions *options, GwProbeFn callback, void *data)
{
    GwProbe *probe = g_new0(GwProbe, 1);

    probe->qemu_binary = g_strdup(options->qemu_binary);
    probe->qemu_user = g_strdup(options->qemu_user);
    probe->cache_dir = g_strdup(options->cache_dir);
    probe->run_dir = g_strdup(options->run_dir);
    probe->accel = g_strdup(options->accel);
    probe->callback = callback;
    probe->data = data;
    probe->caps = g_new0(GwHostCaps, 1);
    probe->start_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_start, probe, NULL);
    return probe;
}
