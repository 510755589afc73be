// SPDX-License-Identifier: Apache-2.0
#include "host.h"

#include "base/fd.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#define WAIT_LIMIT_S 60

static GwHostCaps *probed;
static char *probe_folder;

static void
remove_tree(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *entry = g_build_filename(path, name, NULL);
        if (g_file_test(entry, G_FILE_TEST_IS_DIR) && !g_file_test(entry, G_FILE_TEST_IS_SYMLINK)) {
            remove_tree(entry);
        } else {
            g_unlink(entry);
        }
    }
    g_rmdir(path);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static gboolean
on_limit(void *data)
{
    g_error("what a test waits for did not come within %d s", WAIT_LIMIT_S);
    return G_SOURCE_REMOVE;
}

void
wait_until(Condition what, void *data)
{
    guint limit = g_timeout_add_seconds(WAIT_LIMIT_S, on_limit, NULL);

    while (!what(data)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_remove(limit);
}

void
outcome_clear(Outcome *outcome)
{
    g_clear_error(&outcome->error);
    outcome->done = false;
    outcome->vm = NULL;
}

void
on_outcome(GwVm *vm, const GError *error, void *data)
{
    Outcome *outcome = data;

    g_assert_false(outcome->done);
    outcome->done = true;
    outcome->vm = vm;
    outcome->error = error ? g_error_copy(error) : NULL;
}

static bool
is_done(void *data)
{
    return ((Outcome *)data)->done;
}

void
wait_outcome(Outcome *outcome)
{
    wait_until(is_done, outcome);
}

typedef struct StateWait {
    GwVm *vm;
    GwVmState state;
} StateWait;

static bool
has_state(void *data)
{
    const StateWait *wait = data;

    return gw_vm_state(wait->vm) == wait->state;
}

void
wait_state(GwVm *vm, GwVmState state)
{
    StateWait wait = {.vm = vm, .state = state};

    wait_until(has_state, &wait);
}

/* --- capabilities ----------------------------------------------------------------------------- */

typedef struct ProbeWait {
    bool done;
    GError *error;
} ProbeWait;

static void
on_probe(GwHostCaps *caps, const GError *error, void *data)
{
    ProbeWait *wait = data;

    wait->done = true;
    wait->error = error ? g_error_copy(error) : NULL;
    probed = caps;
}

static bool
probe_done(void *data)
{
    return ((ProbeWait *)data)->done;
}

GError *
hosts_prepare(void)
{
    ProbeWait wait = {0};

    probe_folder = g_dir_make_tmp("gw-probe-XXXXXX", NULL);
    GwProbeOptions options = {
        .qemu_binary = "qemu-system-x86_64",
        .cache_dir = probe_folder,
        .run_dir = probe_folder,
        .accel = "tcg",
    };
    GwProbe *probe = gw_probe_start(&options, on_probe, &wait);
    wait_until(probe_done, &wait);
    gw_probe_free(probe);
    return wait.error;
}

int
hosts_run(void)
{
    g_autoptr(GError) error = hosts_prepare();
    int result = 0;

    if (error) {
        g_print("1..0 # SKIP %s\n", error->message);
    } else {
        result = g_test_run();
    }
    g_clear_pointer(&probed, gw_host_caps_free);
    remove_tree(probe_folder);
    g_free(probe_folder);
    return result;
}

const GwHostCaps *
host_caps(void)
{
    return probed;
}

/* --- the host --------------------------------------------------------------------------------- */

static Host *
host_at(const char *folder)
{
    Host *host = g_new0(Host, 1);

    host->folder = g_strdup(folder);
    host->run_dir = g_build_filename(folder, "run", NULL);
    host->state_dir = g_build_filename(folder, "state", NULL);
    host->images = g_build_filename(folder, "images", NULL);
    host->qemu_user = geteuid() == 0 ? "nobody" : NULL;
    return host;
}

Host *
host_new(void)
{
    g_autofree char *folder = g_dir_make_tmp("gw-host-XXXXXX", NULL);
    Host *host = host_at(folder);

    g_assert_cmpint(g_mkdir(host->run_dir, 0700) | g_mkdir(host->state_dir, 0700) |
                        g_mkdir(host->images, 0711) | g_chmod(host->folder, 0711),
                    ==, 0);
    host_start_daemon(host);
    return host;
}

Host *
host_open(const char *folder)
{
    Host *host = host_at(folder);

    host_start_daemon(host);
    return host;
}

void
host_start_daemon(Host *host)
{
    g_autofree char *path = g_build_filename(host->state_dir, "store.db", NULL);
    g_autoptr(GError) error = NULL;
    g_auto(Outcome) loaded = {0};
    GwVmsOptions options = {
        .host_name = "alpha",
        .run_dir = host->run_dir,
        .state_dir = host->state_dir,
        .qemu_user = host->qemu_user,
    };

    host->store = gw_store_sqlite_open(path, &error);
    g_assert_no_error(error);
    options.store = host->store;
    host->vms = gw_vms_new(&options, on_outcome, &loaded);
    gw_vms_set_caps(host->vms, probed);
    wait_outcome(&loaded);
    g_assert_no_error(loaded.error);
}

void
host_stop_daemon(Host *host)
{
    g_clear_pointer(&host->vms, gw_vms_free);
    g_clear_pointer(&host->store, gw_store_free);
}

void
host_free(Host *host)
{
    g_autoptr(GPtrArray) list = gw_vms_list(host->vms);

    for (unsigned i = 0; i < list->len; i++) {
        g_auto(Outcome) outcome = {0};
        gw_vms_discard(host->vms, g_ptr_array_index(list, i), on_outcome, &outcome);
        wait_outcome(&outcome);
        g_assert_no_error(outcome.error);
    }
    host_stop_daemon(host);
    remove_tree(host->folder);
    g_free(host->images);
    g_free(host->state_dir);
    g_free(host->run_dir);
    g_free(host->folder);
    g_free(host);
}

GwDefinition *
definition_of(const char *text)
{
    g_autoptr(GError) error = NULL;
    GwDefinition *definition = gw_definition_parse(text, strlen(text), "test", &error);

    g_assert_no_error(error);
    return definition;
}

GwVm *
host_define(Host *host, const char *text)
{
    g_auto(Outcome) outcome = {0};

    gw_vms_define(host->vms, definition_of(text), on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_no_error(outcome.error);
    g_assert_nonnull(outcome.vm);
    return outcome.vm;
}

void
host_start(Host *host, GwVm *vm)
{
    g_auto(Outcome) outcome = {0};

    gw_vms_start(host->vms, vm, on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_no_error(outcome.error);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_RUNNING);
}

GError *
host_fail_start(Host *host, GwVm *vm)
{
    g_auto(Outcome) outcome = {0};

    gw_vms_start(host->vms, vm, on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_nonnull(outcome.error);
    return g_steal_pointer(&outcome.error);
}

void
host_kill(Host *host, GwVm *vm)
{
    g_auto(Outcome) outcome = {0};

    gw_vms_stop(host->vms, vm, true, 0, on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_no_error(outcome.error);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
}

char *
host_image(Host *host, const char *name)
{
    char *path = g_build_filename(host->images, name, NULL);
    g_auto(GwFd) fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    g_assert_cmpint(ftruncate(fd, 1024 * 1024), ==, 0);
    g_assert_cmpint(fchmod(fd, 0666), ==, 0);
    return path;
}

typedef struct RecordWait {
    bool done;
    char *text;
} RecordWait;

static void
on_record(const GPtrArray *entries, int64_t revision, const GError *error, void *data)
{
    RecordWait *wait = data;

    g_assert_no_error(error);
    wait->done = true;
    if (entries->len > 0) {
        const GwStoreEntry *entry = g_ptr_array_index(entries, 0);
        size_t len;
        const char *text = g_bytes_get_data(entry->value, &len);
        wait->text = len > 0 ? g_strndup(text, len) : g_strdup("");
    }
}

static bool
record_done(void *data)
{
    return ((RecordWait *)data)->done;
}

char *
host_record(Host *host, const char *key)
{
    RecordWait wait = {0};

    gw_store_range(host->store, key, 1, on_record, &wait);
    wait_until(record_done, &wait);
    return wait.text;
}

void
host_put_record(Host *host, const char *key, const char *text)
{
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_text(txn, key, text);
    gw_store_commit(host->store, txn, NULL, NULL);
    g_autofree char *again = host_record(host, key);
    g_assert_cmpstr(again, ==, text);
}

pid_t
vm_pid(GwVm *vm)
{
    g_autoptr(json_t) object = gw_vm_json(vm);

    return (pid_t)gw_json_int(object, "pid", 0);
}
