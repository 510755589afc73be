// SPDX-License-Identifier: Apache-2.0
/*
 * Starting QEMU for a VM, step by step:
 *
 *     lock → run record "intent" in the store → QEMU → run record with the pid → monitor → cont
 *
 * No crash of the daemon leaves a QEMU that is not found again, and none can be started twice. The
 * run record is durable before QEMU exists and has a token that stands in this QEMU's command line,
 * so a QEMU whose pid was not written yet is found by looking for the token in /proc. And an
 * exclusive flock() on the file "lock" of the VM's state folder is taken before the record is
 * written and handed to QEMU as a descriptor: the kernel holds it for as long as that process
 * lives, from the fork on, whoever else dies. A free lock is proof that there is no QEMU.
 *
 * Owns the descriptors until QEMU has them. Main context. A start has START_TIMEOUT_S in all for
 * QEMU's own part. Whatever fails ends in gw_vm_gone() with the reason.
 */
#include "base/log.h"
#include "vm/command.h"
#include "vm/definition_keys.h"
#include "vm/firmware.h"
#include "vm/internal.h"
#include "vm/qemu_log.h"
#include "vm/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define START_TIMEOUT_S  60
#define SPARE_FILE       "spare"
#define FIRST_HANDED_FD  10
#define MAX_HANDED_FDS   (7u + GW_MAX_SERIAL_PORTS + GW_MAX_NICS)
#define LISTEN_MODE      0600
#define PRIVATE_DIR_MODE 0700

/* Descriptors for QEMU, closed here at the end of the scope. */
typedef struct Handed {
    int fds[MAX_HANDED_FDS];
    int fds_as[MAX_HANDED_FDS];
    unsigned n;
} Handed;

static void
handed_clear(Handed *handed)
{
    while (handed->n > 0) {
        gw_fd_close(handed->fds[--handed->n]);
    }
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Handed, handed_clear)

/* Takes @fd and returns its number in QEMU; passes on GW_FD_NONE. */
static int
hand(Handed *handed, GwFd fd)
{
    if (fd < 0) {
        return GW_FD_NONE;
    }
    g_assert(handed->n < MAX_HANDED_FDS);
    handed->fds[handed->n] = fd;
    handed->fds_as[handed->n] = FIRST_HANDED_FD + (int)handed->n;
    return handed->fds_as[handed->n++];
}

/* --- what this run will be -------------------------------------------------------------------- */

static const char *
choose_accel(const GwVm *vm, GError **error)
{
    const GwHostCaps *caps = vm->vms->caps;
    const char *wanted = vm->definition->accel;

    if (!caps) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "what this host's QEMU offers is not known (yet): see the daemon's log");
        return NULL;
    }
    if (strcmp(wanted, "kvm") == 0 && strcmp(caps->accel, "kvm") != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "accel = kvm, but this host has %s (%s): use accel = auto", caps->accel,
                    caps->accel_reason);
        return NULL;
    }
    return strcmp(wanted, "auto") == 0 ? caps->accel : wanted;
}

/*
 * The source is another host: what it says stands in option strings, so it is checked. @value is
 * what it means if it says nothing; NULL: it must.
 */
static bool
take_from_source(const json_t *info, const char *key, const char *value, char **out, GError **error)
{
    const GwKeySpec *spec = gw_vm_keys;
    bool ok = value ? gw_json_opt_string(info, key, &value, error)
                    : gw_json_need_string(info, key, &value, error);

    if (!ok) {
        return false;
    }
    while (strcmp(spec->key, key) != 0) {
        spec++;
    }
    g_autofree char *hint = spec->type->set(spec, value, out);
    if (hint) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the source's %s '%s' is not valid", key,
                    value);
        return false;
    }
    return true;
}

static char **
tap_names(const GwDefinition *definition)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (unsigned i = 0; i < definition->nics->len; i++) {
        const GwNic *nic = g_ptr_array_index(definition->nics, i);
        if (strcmp(nic->mode, "bridge") == 0) {
            g_ptr_array_add(names, gw_tap_name(definition->name, i));
        }
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
}

static GwRun *
plan_run(const GwVm *vm, const json_t *info, GError **error)
{
    const GwDefinition *definition = vm->definition;
    const char *accel = choose_accel(vm, error);
    g_autoptr(GwRun) run = g_new0(GwRun, 1);

    if (!accel) {
        return NULL;
    }
    run->accel = g_strdup(accel);
    if (info) {
        if (!take_from_source(info, "machine", NULL, &run->machine, error) ||
            !take_from_source(info, "cpu", NULL, &run->cpu, error) ||
            !take_from_source(info, "balloon", "plain", &run->balloon, error)) {
            return NULL;
        }
    } else {
        const char *fallback = strcmp(accel, "kvm") == 0 ? "host" : "max";
        run->machine = g_strdup(definition->machine);
        run->cpu = g_strdup(definition->cpu ? definition->cpu : fallback);
        run->balloon = g_strdup(definition->balloon);
    }
    run->token = g_uuid_string_random();
    run->qemu_version = g_strdup(vm->vms->caps->qemu_version);
    run->taps = tap_names(definition);
    run->incoming = vm->incoming;
    if (vm->incoming) {
        run->move_id = g_strdup(vm->held_by);
        run->definition_text = gw_definition_text(definition);
    }
    return g_steal_pointer(&run);
}

/* --- the lock --------------------------------------------------------------------------------- */

/* @path: transfer full. */
static bool
make_folder(char *path, GError **error)
{
    g_autofree char *owned = path;

    if (g_mkdir_with_parents(owned, PRIVATE_DIR_MODE) < 0) {
        gw_set_error_errno(error, errno, "cannot make the folder '%s'", owned);
        return false;
    }
    return true;
}

GwFd
gw_vm_take_lock(const GwVm *vm, GError **error)
{
    if (!make_folder(gw_vm_state_path(vm, ""), error)) {
        return GW_FD_NONE;
    }
    g_autofree char *path = gw_vm_state_path(vm, "lock");
    g_auto(GwFd) fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
        return g_steal_fd(&fd);
    }
    if (fd >= 0 && errno == EWOULDBLOCK) {
        g_set_error(
            error, GW_ERROR, GW_ERROR_STATE,
            "a QEMU of this VM is still there (it holds '%s': see fuser): it must end first", path);
    } else {
        gw_set_error_errno(error, errno, "cannot lock '%s'", path);
    }
    return GW_FD_NONE;
}

/* --- QEMU ------------------------------------------------------------------------------------- */

static int
hand_listener(const GwVm *vm, Handed *handed, const char *file, GError **error)
{
    g_autofree char *path = gw_vm_socket_path(vm, file);
    g_auto(GwFd) fd = gw_unix_listen(path, LISTEN_MODE, error);

    /*
     * Two threads of a QEMU that is starting may both accept the first client (10.0.2): one of
     * them would wait for ever, and QEMU with it.
     */
    if (fd < 0 || !gw_fd_set_nonblocking(fd, true, error)) {
        return -1;
    }
    return hand(handed, g_steal_fd(&fd));
}

static bool
hand_spare(const GwVm *vm, Handed *handed, GwCommandPlan *plan, GError **error)
{
    g_autofree char *path = gw_vm_socket_path(vm, SPARE_FILE);
    g_auto(GwSpareEnds) ends = {GW_FD_NONE, GW_FD_NONE, GW_FD_NONE};

    if (!vm->spare) {
        return true;
    }
    if (!gw_spare_make(path, &ends, error)) {
        return false;
    }
    plan->spare_in_fd = hand(handed, g_steal_fd(&ends.input));
    plan->spare_out_fd = hand(handed, g_steal_fd(&ends.output));
    (void)hand(handed, g_steal_fd(&ends.keeper));
    return true;
}

GwSpare *
gw_vm_open_spare(GwVm *vm, bool fresh, GError **error)
{
    g_autofree char *path = gw_vm_socket_path(vm, SPARE_FILE);
    GwSpare *spare = gw_spare_open(path, fresh, error);

    if (!spare) {
        g_prefix_error(error, "VM %s: its QEMU's spare monitor: ", vm->name);
    }
    return spare;
}

static bool
hand_serial_ports(const GwVm *vm, Handed *handed, GwCommandPlan *plan, GError **error)
{
    g_autofree char *log = gw_vm_console_log_path(vm);

    gw_qemu_log_trim(log);
    plan->console_log_fd =
        hand(handed, open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (plan->console_log_fd < 0) {
        gw_set_error_errno(error, errno, "cannot open '%s'", log);
        return false;
    }
    for (unsigned i = 0; i < vm->definition->serial_ports; i++) {
        g_autofree char *file =
            i == 0 ? g_strdup("console.sock") : g_strdup_printf("serial%u.sock", i);
        plan->serial_fds[i] = hand_listener(vm, handed, file, error);
        if (plan->serial_fds[i] < 0) {
            return false;
        }
    }
    return true;
}

static bool
hand_taps(const GwVm *vm, Handed *handed, GwCommandPlan *plan, GError **error)
{
    for (unsigned i = 0; i < vm->definition->nics->len; i++) {
        const GwNic *nic = g_ptr_array_index(vm->definition->nics, i);
        plan->tap_fds[i] = GW_FD_NONE;
        if (strcmp(nic->mode, "bridge") == 0) {
            g_autofree char *name = gw_tap_name(vm->name, i);
            plan->tap_fds[i] = hand(handed, gw_tap_open(name, nic, error));
            if (plan->tap_fds[i] < 0) {
                return false;
            }
        }
    }
    return true;
}

static bool
hand_firmware(const GwVm *vm, Handed *handed, GwCommandPlan *plan, GError **error)
{
    if (strcmp(vm->definition->firmware, "uefi") != 0) {
        return true;
    }
    g_autofree char *path = gw_vm_state_path(vm, "uefi-vars.fd");
    plan->firmware_vars_fd = hand(handed, gw_firmware_open(path, &plan->firmware_code, error));
    return plan->firmware_vars_fd >= 0;
}

static void
find_block_devices(const GwDefinition *definition, GwCommandPlan *plan)
{
    for (unsigned i = 0; i < definition->disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(definition->disks, i);
        struct stat st;
        /* What cannot be seen here is left to QEMU, which says why. */
        plan->block_device[i] = stat(disk->path, &st) == 0 && S_ISBLK(st.st_mode);
    }
}

static bool
exec_qemu(GwVm *vm, const Handed *handed, const GwCommandPlan *plan, GError **error)
{
    static const char *const groups[] = {"kvm", NULL};
    g_auto(GStrv) argv = gw_command_build(vm->definition, plan);
    g_autofree char *log = gw_vm_log_path(vm);
    GwLaunch launch = {
        .argv = (const char *const *)argv,
        .user = vm->vms->qemu_user,
        .groups = groups,
        .log_path = log,
        .fds = handed->fds,
        .fds_as = handed->fds_as,
        .n_fds = handed->n,
    };

    gw_qemu_log_trim(log);
    return gw_qemu_log_begin(log, launch.argv, error) &&
           gw_launch(&launch, &vm->run->process, error);
}

static bool
run_qemu(GwVm *vm, GError **error)
{
    g_auto(Handed) handed = {0};
    GwCommandPlan plan = {
        .qemu_binary = vm->vms->caps->qemu_binary,
        .accel = vm->run->accel,
        .machine = vm->run->machine,
        .cpu = vm->run->cpu,
        .balloon = vm->run->balloon,
        .token = vm->run->token,
        .incoming = vm->incoming,
        .spare_in_fd = GW_FD_NONE,
        .spare_out_fd = GW_FD_NONE,
        .firmware_vars_fd = GW_FD_NONE,
    };

    hand(&handed, g_steal_fd(&vm->lock));
    if (!make_folder(gw_vm_run_dir(vm), error)) {
        return false;
    }
    plan.qmp_fd = hand_listener(vm, &handed, "qmp.sock", error);
    if (plan.qmp_fd < 0 || !hand_spare(vm, &handed, &plan, error) ||
        !hand_serial_ports(vm, &handed, &plan, error) || !hand_taps(vm, &handed, &plan, error) ||
        !hand_firmware(vm, &handed, &plan, error)) {
        return false;
    }
    find_block_devices(vm->definition, &plan);
    return exec_qemu(vm, &handed, &plan, error);
}

static gboolean
on_start_timeout(void *data)
{
    GwVm *vm = data;
    g_autofree char *log = gw_vm_log_path(vm);

    vm->start_timer = 0;
    gw_vm_abort_start(vm, g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                                      "VM %s: QEMU was not ready within %d s: is the storage of "
                                      "its disks slow or gone? See '%s'",
                                      vm->name, START_TIMEOUT_S, log));
    return G_SOURCE_REMOVE;
}

static void
on_intent_committed(GwVm *vm, const GError *error)
{
    GError *problem = error ? g_error_copy(error) : g_steal_pointer(&vm->start_error);

    if (!problem && run_qemu(vm, &problem)) {
        vm->start_timer = g_timeout_add_seconds(START_TIMEOUT_S, on_start_timeout, vm);
        gw_vm_save_run(vm);
        gw_info(GW_VM_LOG(vm), "QEMU %s started, pid %d, accel %s, %s, cpu %s",
                vm->run->qemu_version, (int)vm->run->process.pid, vm->run->accel, vm->run->machine,
                vm->run->cpu);
        gw_vm_attach(vm);
        return;
    }
    g_prefix_error(&problem, "VM %s cannot be started: ", vm->name);
    gw_vm_gone(vm, problem);
}

/* Nobody else may have become the owner meanwhile, here or through the store. */
static void
expect_owner(GwVm *vm, GwStoreTxn *txn)
{
    g_autofree char *key = gw_vm_record_key(vm, "owner");

    if (vm->owner_text) {
        gw_store_txn_if_value(txn, key, vm->owner_text, strlen(vm->owner_text));
    } else {
        gw_store_txn_if_revision(txn, key, 0);
    }
}

bool
gw_vm_launch(GwVm *vm, const json_t *info, GError **error)
{
    g_autoptr(GwRun) run = plan_run(vm, info, error);
    g_auto(GwFd) lock = run ? gw_vm_take_lock(vm, error) : GW_FD_NONE;

    if (lock < 0) {
        g_prefix_error(error, "VM %s cannot be started: ", vm->name);
        return false;
    }
    g_autofree char *key = gw_vm_record_key(vm, "run");
    g_autofree char *text = gw_run_text(run);
    GwStoreTxn *txn = gw_store_txn_new();
    expect_owner(vm, txn);
    gw_store_txn_put_text(txn, key, text);

    vm->lock = g_steal_fd(&lock);
    vm->spare = gw_json_bool(info, "spare_monitor", false);
    gw_vm_set_run(vm, g_steal_pointer(&run));
    gw_vm_set_stop_reason(vm, NULL);
    g_clear_pointer(&vm->shutdown_cause, g_free);
    vm->stop_asked = false;
    vm->guest_running = false;
    vm->phase = GW_PHASE_STARTING;
    gw_vm_commit(vm, txn, on_intent_committed);
    gw_vm_changed(vm);
    return true;
}

/* --- the guest -------------------------------------------------------------------------------- */

static void
started(GwVm *vm)
{
    if (vm->start_error) {
        return; /* It is being undone. */
    }
    g_clear_handle_id(&vm->start_timer, g_source_remove);
    vm->phase = GW_PHASE_UP;
    gw_vm_changed(vm);
    gw_vm_report(vm, &vm->start, NULL);
}

static void
on_first_status(json_t *result, const GError *error, void *data)
{
    GwVm *vm = data;

    if (error) {
        gw_vm_abort_start(vm, g_error_copy(error));
    } else if (!gw_json_bool(result, "running", false)) {
        gw_vm_abort_start(vm, g_error_new(GW_ERROR, GW_ERROR_FAILED,
                                          "VM %s: the guest stopped at once, QEMU says '%s'",
                                          vm->name, gw_json_str(result, "status", "?")));
    } else {
        vm->guest_running = true;
        gw_info(GW_VM_LOG(vm), "running");
        started(vm);
    }
}

static void
on_cont(json_t *result, const GError *error, void *data)
{
    GwVm *vm = data;

    if (error) {
        gw_vm_abort_start(vm, g_error_copy(error));
        return;
    }
    gw_qmp_call(vm->qmp, "query-status", NULL, on_first_status, vm);
}

void
gw_vm_start_ready(GwVm *vm)
{
    if (vm->incoming) {
        started(vm);
        return;
    }
    gw_qmp_call(vm->qmp, "cont", NULL, on_cont, vm);
}

void
gw_vm_abort_start(GwVm *vm, GError *error)
{
    if (vm->start_error) {
        g_error_free(error);
    } else {
        vm->start_error = error;
    }
    if (vm->launched) {
        gw_vm_signal(vm, SIGKILL);
    }
}

static GError *
why_not_startable(const GwVm *vm)
{
    if (vm->held_by) {
        return g_error_new(GW_ERROR, GW_ERROR_STATE, "VM %s is held by move %s", vm->name,
                           vm->held_by);
    }
    if (vm->phase != GW_PHASE_STOPPED || vm->incoming || vm->discarding) {
        return g_error_new(GW_ERROR, GW_ERROR_STATE, "VM %s cannot be started: it is %s", vm->name,
                           vm->discarding ? "being removed" : gw_vm_state_name(gw_vm_state(vm)));
    }
    if (g_strcmp0(vm->owner.host, vm->vms->host_name) != 0) {
        return g_error_new(GW_ERROR, GW_ERROR_STATE,
                           "VM %s belongs to host %s (generation %" G_GINT64_FORMAT
                           "): start it there",
                           vm->name, vm->owner.host ? vm->owner.host : "?", vm->owner.generation);
    }
    return NULL;
}

void
gw_vms_start(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data)
{
    GwWaiter waiter = {.done = callback, .data = data};
    GError *error = why_not_startable(vm);

    if (error || !gw_vm_launch(vm, NULL, &error)) {
        gw_vms_report(vms, waiter, vm, error);
        return;
    }
    vm->start = waiter;
}
