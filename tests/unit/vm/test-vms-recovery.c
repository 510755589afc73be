// SPDX-License-Identifier: Apache-2.0
/* What the daemon finds when it comes back, and VMs that come in and go by a move. */
#include "host.h"

#include "base/fd.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>

#define WEB1 "[vm]\nname = web1\nmemory = 64 MiB\n"

static GwVm *
restart(Host *host)
{
    host_stop_daemon(host);
    host_start_daemon(host);
    return gw_vms_find(host->vms, "web1");
}

static void
test_running(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);

    host_start(host, vm);
    pid_t pid = vm_pid(vm);
    vm = restart(host);
    g_assert_cmpint(vm_pid(vm), ==, pid);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_RUNNING);
    g_assert_nonnull(gw_vm_qmp(vm));
    g_assert_cmpstr(gw_json_str(gw_vm_run_info(vm), "cpu", NULL), ==, "max");
    g_autoptr(GError) error = host_fail_start(host, vm);
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    host_kill(host, vm);
    vm = restart(host);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_assert_null(gw_vm_stop_reason(vm));
}

static void
on_reply(json_t *result, const GError *error, void *data)
{
    g_assert_no_error(error);
    *(bool *)data = true;
}

static bool
is_true(void *data)
{
    return *(bool *)data;
}

static void
test_paused(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    bool replied = false;

    host_start(host, vm);
    gw_qmp_call(gw_vm_qmp(vm), "stop", NULL, on_reply, &replied);
    wait_until(is_true, &replied);
    vm = restart(host);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_PAUSED);
}

static char *
run_token(Host *host)
{
    g_autofree char *text = host_record(host, "vm/web1/run");
    g_autoptr(json_t) record = gw_json_parse(text, strlen(text), 65536, "record", NULL);

    return g_strdup(gw_json_str(record, "token", NULL));
}

/* As if the daemon had died between launching QEMU and writing its pid. */
static void
forget_pid(Host *host)
{
    g_autofree char *text = host_record(host, "vm/web1/run");
    g_autoptr(json_t) record = gw_json_parse(text, strlen(text), 65536, "record", NULL);

    gw_json_set_int(record, "pid", 0);
    gw_json_set_int(record, "start_ticks", 0);
    g_autofree char *without = gw_json_text(record);
    host_put_record(host, "vm/web1/run", without);
}

static void
test_intent_only(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);

    host_start(host, vm);
    pid_t pid = vm_pid(vm);
    g_autofree char *token = run_token(host);
    forget_pid(host);
    vm = restart(host);
    g_assert_cmpint(vm_pid(vm), ==, pid);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_RUNNING);
    g_autofree char *token_again = run_token(host);
    g_assert_cmpstr(token_again, ==, token);
    /* What was found was written down. */
    g_autofree char *text = host_record(host, "vm/web1/run");
    g_autoptr(json_t) record = gw_json_parse(text, strlen(text), 65536, "record", NULL);
    g_assert_cmpint(gw_json_int(record, "pid", 0), ==, pid);
}

/* The recorded pid belongs to another process by now: that one is left alone. */
static void
test_pid_used_again(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    GwVm *other = host_define(host, "[vm]\nname = web2\nmemory = 64 MiB\n");

    host_start(host, vm);
    host_start(host, other);
    pid_t other_pid = vm_pid(other);
    g_autofree char *text = host_record(host, "vm/web1/run");
    g_autofree char *other_text = host_record(host, "vm/web2/run");
    g_autoptr(json_t) record = gw_json_parse(text, strlen(text), 65536, "record", NULL);
    g_autoptr(json_t) other_record =
        gw_json_parse(other_text, strlen(other_text), 65536, "record", NULL);
    host_kill(host, vm);
    json_object_set(record, "pid", json_object_get(other_record, "pid"));
    json_object_set(record, "start_ticks", json_object_get(other_record, "start_ticks"));
    g_autofree char *mixed = gw_json_text(record);
    host_put_record(host, "vm/web1/run", mixed);
    vm = restart(host);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_assert_cmpint(vm_pid(gw_vms_find(host->vms, "web2")), ==, other_pid);
    g_assert_cmpint(kill(other_pid, 0), ==, 0);
}

static bool
is_gone(void *data)
{
    return kill(*(pid_t *)data, 0) < 0;
}

static gboolean
tick(void *data)
{
    return G_SOURCE_CONTINUE;
}

/* Until init has reaped it, too. */
static void
wait_gone(pid_t pid)
{
    guint poll = g_timeout_add(10, tick, NULL);

    wait_until(is_gone, &pid);
    g_source_remove(poll);
}

static void
kill_and_wait(pid_t pid)
{
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    wait_gone(pid);
}

static void
test_ended_meanwhile(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);

    host_start(host, vm);
    pid_t pid = vm_pid(vm);
    host_stop_daemon(host);
    kill_and_wait(pid);
    host_start_daemon(host);
    vm = gw_vms_find(host->vms, "web1");
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_assert_true(g_str_has_prefix(gw_vm_stop_reason(vm), "QEMU ended while no daemon ran"));
    g_autofree char *run = host_record(host, "vm/web1/run");
    g_assert_null(run);
    host_start(host, vm);
}

static bool
has_pid(void *data)
{
    return vm_pid(data) > 0;
}

/* The daemon goes when QEMU is there but the guest was not told to run yet. */
static void
test_interrupted_start(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_auto(Outcome) start = {0};

    gw_vms_start(host->vms, vm, on_outcome, &start);
    wait_until(has_pid, vm);
    pid_t pid = vm_pid(vm);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STARTING);
    vm = restart(host);
    g_assert_cmpint(vm_pid(vm), ==, pid);
    wait_state(vm, GW_VM_RUNNING);
    g_assert_false(start.done);
}

/* ... or when there is no QEMU yet. */
static void
test_start_never_happened(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_auto(Outcome) start = {0};

    gw_vms_start(host->vms, vm, on_outcome, &start);
    vm = restart(host);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_assert_cmpstr(gw_vm_stop_reason(vm), ==,
                    "the daemon ended before it launched QEMU: start the VM again");
    host_start(host, vm);
}

/* --- a daemon that is killed at any moment of a start
 * --------------------------------------------- */

#define CRASHES 12
/* A start takes some 100 ms here; what matters happens in the first 30. */
#define CRASH_WINDOW_US 40000

static const char *program;

/* The other process: starts the VM, says so just before, and waits for its death. */
static void G_GNUC_NORETURN
be_daemon(const char *folder)
{
    g_auto(Outcome) start = {0};

    g_assert_null(hosts_prepare());
    Host *host = host_open(folder);
    gw_vms_start(host->vms, gw_vms_find(host->vms, "web1"), on_outcome, &start);
    g_assert_true(gw_fd_write_full(STDOUT_FILENO, "x", 1));
    for (;;) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static unsigned
count_qemus(const char *uuid)
{
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    const char *name;
    unsigned count = 0;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("/proc/%s/cmdline", name);
        size_t len = 0;
        g_autofree char *text =
            g_ascii_isdigit(name[0]) ? gw_file_read(path, 1024 * 1024, &len, NULL) : NULL;
        count += text && memmem(text, len, uuid, strlen(uuid)) != NULL;
    }
    return count;
}

static void
crash_daemon(Host *host, gulong after_us)
{
    char *argv[] = {(char *)program, (char *)"--daemon", host->folder, NULL};
    /* What it leaves behind goes with the host. */
    g_auto(GStrv) environment = g_environ_setenv(g_get_environ(), "TMPDIR", host->folder, TRUE);
    g_auto(GwFd) out = GW_FD_NONE;
    GPid pid;
    char byte;

    g_assert_true(g_spawn_async_with_pipes(NULL, argv, environment, G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                                           NULL, &pid, NULL, &out, NULL, NULL));
    g_assert_cmpint(gw_fd_read_full(out, &byte, 1), ==, 1);
    g_usleep(after_us);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

static void
test_crash_anywhere(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_autofree char *uuid = g_strdup(gw_vm_definition(vm)->uuid);
    unsigned found = 0;

    for (unsigned i = 0; i < CRASHES; i++) {
        host_stop_daemon(host);
        crash_daemon(host, (gulong)g_test_rand_int_range(0, CRASH_WINDOW_US));
        host_start_daemon(host);
        vm = gw_vms_find(host->vms, "web1");
        if (gw_vm_state(vm) == GW_VM_STOPPED) {
            g_assert_cmpuint(count_qemus(uuid), ==, 0);
            host_start(host, vm);
        } else {
            found++;
            wait_state(vm, GW_VM_RUNNING);
        }
        g_assert_cmpuint(count_qemus(uuid), ==, 1);
        host_kill(host, vm);
    }
    g_test_message("of %u crashes, %u left a QEMU that was found again", CRASHES, found);
}

/* Something that is no QEMU of ours has the lock: no start, and no claim that all is well. */
static void
test_lock_held(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_autofree char *path = g_build_filename(host->state_dir, "vm", "web1", "lock", NULL);

    host_start(host, vm);
    host_kill(host, vm);
    g_auto(GwFd) lock = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(flock(lock, LOCK_EX | LOCK_NB), ==, 0);
    g_autoptr(GError) error = host_fail_start(host, vm);
    g_assert_nonnull(strstr(error->message, "a QEMU of this VM is still there"));
    host_put_record(host, "vm/web1/run",
                    "{\"pid\":0,\"start_ticks\":0,\"token\":\"t\",\"accel\":\"tcg\",\"machine\":"
                    "\"q35\",\"cpu\":\"max\",\"qemu_version\":\"1\"}");
    vm = restart(host);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_assert_cmpstr(gw_vm_stop_reason(vm), ==, "an unknown process holds the VM's lock");
    g_autoptr(GError) later = host_fail_start(host, vm);
    g_assert_error(later, GW_ERROR, GW_ERROR_STATE);
    gw_fd_clear(&lock);
    host_start(host, vm);
}

/* The monitor's socket is gone: the guest is taken for running, its process is still watched. */
static void
test_no_monitor(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);

    host_start(host, vm);
    pid_t pid = vm_pid(vm);
    g_autofree char *folder = gw_vm_run_dir(vm);
    g_autofree char *socket = g_build_filename(folder, "qmp.sock", NULL);
    host_stop_daemon(host);
    g_assert_cmpint(g_unlink(socket), ==, 0);
    host_start_daemon(host);
    vm = gw_vms_find(host->vms, "web1");
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_RUNNING);
    g_assert_null(gw_vm_qmp(vm));
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    wait_state(vm, GW_VM_STOPPED);
}

static void
test_damaged_records(void)
{
    static const char *const texts[] = {"",
                                        "{}",
                                        "[vm]\n",
                                        "{\"pid\":-1}",
                                        "{\"host\":\"alpha\",\"generation\":0}",
                                        "{\"pid\":1,\"start_ticks\":1,\"token\":\"t\",\"accel\":"
                                        "\"a\",\"machine\":\"m\",\"cpu\":\"c\",\"qemu_version\":"
                                        "\"v\",\"incoming\":true}"};
    static const char *const keys[] = {"vm/web1/definition", "vm/web1/owner", "vm/web1/run"};

    for (unsigned k = 0; k < G_N_ELEMENTS(keys); k++) {
        for (unsigned t = 0; t < G_N_ELEMENTS(texts); t++) {
            g_autoptr(Host) host = host_new();
            host_define(host, WEB1);
            host_put_record(host, keys[k], texts[t]);
            host_put_record(host, "vm/../x", "y");
            g_assert_null(restart(host));
            g_autofree char *kept = host_record(host, keys[k]);
            g_assert_cmpstr(kept, ==, texts[t]);
        }
    }
}

/* --- moves ------------------------------------------------------------------------------------ */

static char *
moved_text(void)
{
    return g_strdup_printf(
        "[vm]\nname=web1\nmemory=64M\nuuid=6f9619ff-8b86-d011-b42d-00cf4fc964ff\nmachine=%s\n",
        gw_json_str(json_object_get(host_caps()->machines, "q35"), "alias_of", "q35"));
}

static json_t *
source_info(void)
{
    json_t *info = json_object();

    gw_json_set_str(info, "accel", "kvm");
    gw_json_set_str(info, "cpu", "qemu64,+aes");
    gw_json_set_str(info, "machine",
                    gw_json_str(json_object_get(host_caps()->machines, "q35"), "alias_of", "q35"));
    gw_json_set_str(info, "qemu_version", "10.0.0");
    return info;
}

static GwVm *
prepare(Host *host)
{
    g_auto(Outcome) outcome = {0};
    g_autofree char *text = moved_text();
    g_autoptr(json_t) info = source_info();

    gw_vms_prepare_incoming(host->vms, definition_of(text), info, "m1", on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_no_error(outcome.error);
    g_assert_cmpint(gw_vm_state(outcome.vm), ==, GW_VM_INCOMING);
    g_assert_cmpstr(gw_vm_held_by(outcome.vm), ==, "m1");
    g_assert_cmpint(gw_vm_generation(outcome.vm), ==, 0);
    g_assert_nonnull(gw_vm_qmp(outcome.vm));
    return outcome.vm;
}

static void
discard(Host *host, GwVm *vm)
{
    g_auto(Outcome) outcome = {0};

    gw_vms_discard(host->vms, vm, on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_no_error(outcome.error);
    g_assert_null(outcome.vm);
}

static void
test_incoming(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = prepare(host);
    pid_t pid = vm_pid(vm);

    /* This host's accelerator, the source's CPU; its balloon is as before that was told. */
    g_assert_cmpstr(gw_json_str(gw_vm_run_info(vm), "balloon", NULL), ==, "plain");
    g_assert_cmpstr(gw_json_str(gw_vm_run_info(vm), "accel", NULL), ==, "tcg");
    g_assert_cmpstr(gw_json_str(gw_vm_run_info(vm), "cpu", NULL), ==, "qemu64,+aes");
    g_autofree char *definition = host_record(host, "vm/web1/definition");
    g_autofree char *owner = host_record(host, "vm/web1/owner");
    g_assert_null(definition);
    g_assert_null(owner);

    g_auto(Outcome) second = {0};
    g_autofree char *text = moved_text();
    g_autoptr(json_t) info = source_info();
    gw_vms_prepare_incoming(host->vms, definition_of(text), info, "m2", on_outcome, &second);
    wait_outcome(&second);
    g_assert_error(second.error, GW_ERROR, GW_ERROR_EXISTS);

    /* A crash of the daemon leaves it what it was, for the move to decide. */
    vm = restart(host);
    g_assert_cmpint(vm_pid(vm), ==, pid);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_INCOMING);
    g_assert_cmpstr(gw_vm_held_by(vm), ==, "m1");
    discard(host, vm);
    g_assert_null(gw_vms_find(host->vms, "web1"));
    g_autofree char *any = host_record(host, "vm/");
    g_assert_null(any);
    wait_gone(pid);
}

static void
test_incoming_dies(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = prepare(host);
    pid_t pid = vm_pid(vm);

    /* While the daemon is there: the move still has it, until it discards it. */
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    wait_state(vm, GW_VM_STOPPED);
    gw_vm_release(vm);
    g_autoptr(GError) error = host_fail_start(host, vm);
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    discard(host, vm);

    /* While it is not: nothing is left of it. */
    vm = prepare(host);
    pid = vm_pid(vm);
    host_stop_daemon(host);
    kill_and_wait(pid);
    host_start_daemon(host);
    g_assert_null(gw_vms_find(host->vms, "web1"));
    g_autofree char *any = host_record(host, "vm/");
    g_assert_null(any);
}

static void
take_over(Host *host, GwVm *vm, int64_t generation)
{
    GwStoreTxn *txn = gw_store_txn_new();

    gw_vms_txn_take_over(host->vms, vm, generation, txn);
    gw_store_commit(host->store, txn, NULL, NULL);
    g_autofree char *owner = host_record(host, "vm/web1/owner");
    g_assert_nonnull(owner);
    gw_vms_take_over(host->vms, vm, generation);
    gw_vm_release(vm);
}

static void
test_take_over(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = prepare(host);
    pid_t pid = vm_pid(vm);

    take_over(host, vm, 8);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_PAUSED);
    g_assert_cmpint(gw_vm_generation(vm), ==, 8);
    vm = restart(host);
    g_assert_cmpint(vm_pid(vm), ==, pid);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_PAUSED);
    g_assert_cmpint(gw_vm_generation(vm), ==, 8);
    g_assert_null(gw_vm_held_by(vm));
    g_assert_cmpstr(gw_vm_definition(vm)->uuid, ==, "6f9619ff-8b86-d011-b42d-00cf4fc964ff");
    host_kill(host, vm);
    host_start(host, vm);
}

/* QEMU dies in the moment of the take-over: the records must still say whose the VM is. */
static void
test_take_over_dead(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = prepare(host);

    g_assert_cmpint(kill(vm_pid(vm), SIGKILL), ==, 0);
    wait_state(vm, GW_VM_STOPPED);
    take_over(host, vm, 8);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    vm = restart(host);
    g_assert_cmpint(gw_vm_generation(vm), ==, 8);
    host_start(host, vm);
}

static void
make_outdated(Host *host)
{
    GwVm *vm = host_define(host, "[vm]\nname = web1\nmemory = 128 MiB\n");
    GwStoreTxn *txn = gw_store_txn_new();

    gw_vms_txn_set_owner(host->vms, vm, "beta", 7, txn);
    gw_store_commit(host->store, txn, NULL, NULL);
    gw_vms_set_owner(host->vms, vm, "beta", 7);
}

static void
test_outdated_copy(void)
{
    g_autoptr(Host) host = host_new();

    make_outdated(host);
    GwVm *vm = prepare(host);
    g_assert_cmpuint(gw_vm_definition(vm)->memory_bytes, ==, 64 * 1024 * 1024);
    vm = restart(host);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_INCOMING);
    g_auto(Outcome) outcome = {0};
    gw_vms_discard(host->vms, vm, on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_no_error(outcome.error);
    /* Refused: the copy is there as before. */
    vm = gw_vms_find(host->vms, "web1");
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_assert_cmpint(gw_vm_generation(vm), ==, 7);
    g_assert_cmpuint(gw_vm_definition(vm)->memory_bytes, ==, 128 * 1024 * 1024);
    g_assert_null(gw_vm_held_by(vm));

    vm = prepare(host);
    take_over(host, vm, 8);
    vm = restart(host);
    g_assert_cmpuint(gw_vm_definition(vm)->memory_bytes, ==, 64 * 1024 * 1024);
    g_assert_cmpint(gw_vm_generation(vm), ==, 8);
}

static void
test_incoming_refused(void)
{
    g_autoptr(Host) host = host_new();
    g_autofree char *text = moved_text();
    g_autofree char *with_disk = g_strconcat(text, "[disk d]\npath=/no/disk\nformat=raw\n", NULL);
    g_autoptr(json_t) info = source_info();
    g_auto(Outcome) exists = {0};
    g_auto(Outcome) hostile = {0};
    g_auto(Outcome) disk = {0};

    /* QEMU's reason comes back, and nothing of the VM stays. */
    gw_vms_prepare_incoming(host->vms, definition_of(with_disk), info, "m1", on_outcome, &disk);
    wait_outcome(&disk);
    g_assert_nonnull(strstr(disk.error->message, "/no/disk"));
    g_assert_null(disk.vm);
    g_assert_null(gw_vms_find(host->vms, "web1"));

    /* A peer may not choose options for our QEMU. */
    gw_json_set_str(info, "machine", "q35,firmware=/etc/shadow");
    gw_vms_prepare_incoming(host->vms, definition_of(text), info, "m1", on_outcome, &hostile);
    wait_outcome(&hostile);
    g_assert_error(hostile.error, GW_ERROR, GW_ERROR_PROTOCOL);
    g_assert_null(gw_vms_find(host->vms, "web1"));

    host_define(host, WEB1);
    gw_vms_prepare_incoming(host->vms, definition_of(text), info, "m1", on_outcome, &exists);
    wait_outcome(&exists);
    g_assert_error(exists.error, GW_ERROR, GW_ERROR_EXISTS);
}

/* The source after a move: killed at once, forgotten, although held. */
static void
test_discard_running(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_auto(Outcome) start = {0};
    g_auto(Outcome) starting = {0};

    host_start(host, vm);
    pid_t pid = vm_pid(vm);
    gw_vm_hold(vm, "m1");
    discard(host, vm);
    wait_gone(pid);
    g_assert_null(gw_vms_find(host->vms, "web1"));

    vm = host_define(host, WEB1);
    gw_vms_start(host->vms, vm, on_outcome, &start);
    gw_vms_discard(host->vms, vm, on_outcome, &starting);
    wait_outcome(&starting);
    wait_outcome(&start);
    g_assert_no_error(starting.error);
    g_assert_error(start.error, GW_ERROR, GW_ERROR_CANCELLED);
    g_assert_null(gw_vms_find(host->vms, "web1"));
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && strcmp(argv[1], "--daemon") == 0) {
        be_daemon(argv[2]);
    }
    program = argv[0];
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/recovery/running", test_running);
    g_test_add_func("/recovery/paused", test_paused);
    g_test_add_func("/recovery/intent-only", test_intent_only);
    g_test_add_func("/recovery/pid-used-again", test_pid_used_again);
    g_test_add_func("/recovery/ended-meanwhile", test_ended_meanwhile);
    g_test_add_func("/recovery/interrupted-start", test_interrupted_start);
    g_test_add_func("/recovery/start-never-happened", test_start_never_happened);
    g_test_add_func("/recovery/crash-anywhere", test_crash_anywhere);
    g_test_add_func("/recovery/lock-held", test_lock_held);
    g_test_add_func("/recovery/no-monitor", test_no_monitor);
    g_test_add_func("/recovery/damaged-records", test_damaged_records);
    g_test_add_func("/moves/incoming", test_incoming);
    g_test_add_func("/moves/incoming-dies", test_incoming_dies);
    g_test_add_func("/moves/take-over", test_take_over);
    g_test_add_func("/moves/take-over-dead", test_take_over_dead);
    g_test_add_func("/moves/outdated-copy", test_outdated_copy);
    g_test_add_func("/moves/incoming-refused", test_incoming_refused);
    g_test_add_func("/moves/discard-running", test_discard_running);
    return hosts_run();
}
