// SPDX-License-Identifier: Apache-2.0
/* The life of VMs with the real QEMU (SeaBIOS is guest enough) and the real store. */
#include "host.h"

#include "base/fd.h"
#include "vm/tap.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define WEB1 "[vm]\nname = web1\nmemory = 64 MiB\n"

static void
test_life(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);

    g_assert_true(g_str_has_prefix(gw_vm_definition(vm)->machine, "pc-q35-"));
    g_assert_true(g_uuid_string_is_valid(gw_vm_definition(vm)->uuid));
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_assert_cmpint(gw_vm_generation(vm), ==, 1);
    g_assert_null(gw_vm_qmp(vm));
    g_assert_null(gw_vm_run_info(vm));
    g_autofree char *owner = host_record(host, "vm/web1/owner");
    g_assert_cmpstr(owner, ==, "{\"host\":\"alpha\",\"generation\":1}");

    host_start(host, vm);
    g_assert_nonnull(gw_vm_qmp(vm));
    g_assert_cmpstr(gw_json_str(gw_vm_run_info(vm), "accel", NULL), ==, "tcg");
    g_assert_cmpstr(gw_json_str(gw_vm_run_info(vm), "cpu", NULL), ==, "max");
    g_assert_cmpstr(gw_json_str(gw_vm_run_info(vm), "balloon", NULL), ==, "hint");
    g_assert_cmpint(kill(vm_pid(vm), 0), ==, 0);
    g_autofree char *run_dir = gw_vm_run_dir(vm);
    g_autofree char *console = g_build_filename(run_dir, "console.sock", NULL);
    struct stat st;
    g_assert_cmpint(stat(console, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    g_assert_cmpint(stat(run_dir, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0700);

    host_kill(host, vm);
    g_assert_null(gw_vm_stop_reason(vm));
    g_assert_null(gw_vm_qmp(vm));
    g_assert_false(g_file_test(run_dir, G_FILE_TEST_EXISTS));
    g_autofree char *run = host_record(host, "vm/web1/run");
    g_assert_null(run);

    g_auto(Outcome) gone = {0};
    gw_vms_undefine(host->vms, vm, on_outcome, &gone);
    wait_outcome(&gone);
    g_assert_no_error(gone.error);
    g_assert_null(gw_vms_find(host->vms, "web1"));
    g_autofree char *any = host_record(host, "vm/");
    g_assert_null(any);
}

static bool
bios_spoke(void *data)
{
    g_autofree char *text = gw_file_read(data, 1024 * 1024, NULL, NULL);

    return text && strstr(text, "SeaBIOS");
}

static gboolean
tick(void *data)
{
    return G_SOURCE_CONTINUE;
}

static void
test_console_log(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    guint poll = g_timeout_add(20, tick, NULL);

    host_start(host, vm);
    g_autofree char *path = gw_vm_console_log_path(vm);
    wait_until(bios_spoke, path);
    g_source_remove(poll);
}

static void
test_define_errors(void)
{
    g_autoptr(Host) host = host_new();
    g_auto(Outcome) first = {0};
    g_auto(Outcome) second = {0};
    g_auto(Outcome) third = {0};
    g_auto(Outcome) machine = {0};

    /* The second comes while the first is on its way to the store. */
    gw_vms_define(host->vms, definition_of(WEB1), on_outcome, &first);
    gw_vms_define(host->vms, definition_of(WEB1), on_outcome, &second);
    g_assert_false(first.done || second.done);
    wait_outcome(&first);
    wait_outcome(&second);
    g_assert_no_error(first.error);
    g_assert_error(second.error, GW_ERROR, GW_ERROR_EXISTS);
    gw_vms_define(host->vms, definition_of(WEB1), on_outcome, &third);
    wait_outcome(&third);
    g_assert_error(third.error, GW_ERROR, GW_ERROR_EXISTS);
    gw_vms_define(host->vms, definition_of("[vm]\nname=x\nmemory=64M\nmachine=pc-q35-99.9\n"),
                  on_outcome, &machine);
    wait_outcome(&machine);
    g_assert_error(machine.error, GW_ERROR, GW_ERROR_UNSUPPORTED);
}

/* A record of that name which could not be loaded is not written over. */
static void
test_define_over_record(void)
{
    g_autoptr(Host) host = host_new();
    g_auto(Outcome) outcome = {0};

    host_put_record(host, "vm/web1/owner", "damaged");
    gw_vms_define(host->vms, definition_of(WEB1), on_outcome, &outcome);
    wait_outcome(&outcome);
    g_assert_error(outcome.error, GW_ERROR, GW_ERROR_EXISTS);
    g_autofree char *owner = host_record(host, "vm/web1/owner");
    g_assert_cmpstr(owner, ==, "damaged");
}

static void
test_start_twice(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_auto(Outcome) first = {0};
    g_auto(Outcome) second = {0};
    g_auto(Outcome) undefine = {0};

    gw_vms_start(host->vms, vm, on_outcome, &first);
    gw_vms_start(host->vms, vm, on_outcome, &second);
    gw_vms_undefine(host->vms, vm, on_outcome, &undefine);
    wait_outcome(&second);
    g_assert_error(second.error, GW_ERROR, GW_ERROR_STATE);
    wait_outcome(&undefine);
    g_assert_error(undefine.error, GW_ERROR, GW_ERROR_STATE);
    wait_outcome(&first);
    g_assert_no_error(first.error);
}

static bool
has_pid(void *data)
{
    return vm_pid(data) > 0;
}

/* Before QEMU is there, and after. */
static void
test_stop_during_start(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);

    for (int launched = 0; launched < 2; launched++) {
        g_auto(Outcome) start = {0};
        g_auto(Outcome) stop = {0};
        gw_vms_start(host->vms, vm, on_outcome, &start);
        if (launched) {
            wait_until(has_pid, vm);
        }
        g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STARTING);
        gw_vms_stop(host->vms, vm, false, 1000, on_outcome, &stop);
        wait_outcome(&stop);
        wait_outcome(&start);
        g_assert_no_error(stop.error);
        g_assert_error(start.error, GW_ERROR, GW_ERROR_CANCELLED);
        g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
        g_autofree char *run = host_record(host, "vm/web1/run");
        g_assert_null(run);
    }
    host_start(host, vm);
}

static void
test_stop_orderly(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_auto(Outcome) orderly = {0};
    g_auto(Outcome) patient = {0};
    g_auto(Outcome) forced = {0};
    g_auto(Outcome) again = {0};

    host_start(host, vm);
    /* SeaBIOS does not know the power button. */
    gw_vms_stop(host->vms, vm, false, 100, on_outcome, &orderly);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPING);
    wait_outcome(&orderly);
    g_assert_error(orderly.error, GW_ERROR, GW_ERROR_TIMEOUT);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_RUNNING);

    gw_vms_stop(host->vms, vm, false, 60000, on_outcome, &patient);
    gw_vms_stop(host->vms, vm, true, 0, on_outcome, &forced);
    wait_outcome(&patient);
    wait_outcome(&forced);
    g_assert_no_error(patient.error);
    g_assert_no_error(forced.error);
    gw_vms_stop(host->vms, vm, true, 0, on_outcome, &again);
    wait_outcome(&again);
    g_assert_error(again.error, GW_ERROR, GW_ERROR_STATE);
}

static void
test_held(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_auto(Outcome) undefine = {0};
    g_auto(Outcome) stop = {0};

    gw_vm_hold(vm, "m1");
    g_autoptr(GError) error = host_fail_start(host, vm);
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    gw_vms_undefine(host->vms, vm, on_outcome, &undefine);
    wait_outcome(&undefine);
    g_assert_error(undefine.error, GW_ERROR, GW_ERROR_STATE);
    gw_vm_release(vm);
    host_start(host, vm);
    gw_vm_hold(vm, "m1");
    gw_vms_stop(host->vms, vm, true, 0, on_outcome, &stop);
    wait_outcome(&stop);
    g_assert_cmpstr(stop.error->message, ==, "VM web1 is held by move m1: cancel that first");
    gw_vm_release(vm);
}

typedef struct Seen {
    GString *events;
    bool ended;
} Seen;

static void
on_seen(GwVm *vm, const char *event, json_t *arguments, void *data)
{
    Seen *seen = data;

    g_assert_false(seen->ended);
    if (event) {
        g_string_append_printf(seen->events, "%s ", event);
    } else {
        seen->ended = true;
        g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
        gw_vm_unobserve(vm, data);
    }
}

static void
on_other(GwVm *vm, const char *event, json_t *arguments, void *data)
{
    g_assert_not_reached();
}

static void
test_killed(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    g_autoptr(GString) events = g_string_new(NULL);
    Seen seen = {.events = events};
    int other;

    gw_vm_observe(vm, on_seen, &seen);
    gw_vm_observe(vm, on_other, &other);
    gw_vm_unobserve(vm, &other);
    host_start(host, vm);
    g_assert_cmpint(kill(vm_pid(vm), SIGKILL), ==, 0);
    wait_state(vm, GW_VM_STOPPED);
    g_assert_true(seen.ended);
    g_assert_nonnull(strstr(events->str, "RESUME"));
    g_assert_true(g_str_has_prefix(gw_vm_stop_reason(vm), "QEMU was killed or crashed"));
    host_start(host, vm);
    g_assert_null(gw_vm_stop_reason(vm));
    g_assert_cmpint(kill(vm_pid(vm), SIGTERM), ==, 0);
    wait_state(vm, GW_VM_STOPPED);
    g_assert_cmpstr(gw_vm_stop_reason(vm), ==, "QEMU was ended by a signal from this host");
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
test_pause(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);
    bool replied = false;
    g_auto(Outcome) refresh = {0};
    g_auto(Outcome) stop = {0};

    host_start(host, vm);
    gw_qmp_call(gw_vm_qmp(vm), "stop", NULL, on_reply, &replied);
    wait_until(is_true, &replied);
    wait_state(vm, GW_VM_PAUSED);
    gw_vms_stop(host->vms, vm, false, 1000, on_outcome, &stop);
    wait_outcome(&stop);
    g_assert_error(stop.error, GW_ERROR, GW_ERROR_STATE);
    gw_qmp_call(gw_vm_qmp(vm), "cont", NULL, NULL, NULL);
    gw_vms_refresh(host->vms, vm, on_outcome, &refresh);
    wait_outcome(&refresh);
    g_assert_no_error(refresh.error);
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_RUNNING);

    /* A refresh under way when QEMU ends is answered, too. */
    g_auto(Outcome) late = {0};
    g_assert_cmpint(kill(vm_pid(vm), SIGSTOP), ==, 0);
    gw_vms_refresh(host->vms, vm, on_outcome, &late);
    g_assert_cmpint(kill(vm_pid(vm), SIGKILL), ==, 0);
    wait_outcome(&late);
    wait_state(vm, GW_VM_STOPPED);
}

static void
check_start_error(const char *text, const char *const *parts)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, text);
    g_autoptr(GError) error = host_fail_start(host, vm);

    g_test_message("%s", error->message);
    for (; *parts; parts++) {
        if (!strstr(error->message, *parts)) {
            g_error("'%s' is not in '%s'", *parts, error->message);
        }
    }
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_STOPPED);
    g_autofree char *run = host_record(host, "vm/web1/run");
    g_assert_null(run);
    /* Nothing is left behind that would be in the way of the next try. */
    g_autoptr(GError) again = host_fail_start(host, vm);
    g_assert_cmpstr(again->message, ==, error->message);
}

static void
test_bad_disk(void)
{
    static const char *const parts[] = {"VM web1 cannot be started: ", "/no/such,disk=x",
                                        "No such file or directory", "check the path", NULL};

    check_start_error(WEB1 "[disk root]\npath=/no/such,disk=x\nformat=raw\n", parts);
}

static void
test_bad_kernel(void)
{
    static const char *const parts[] = {"could not open kernel file '/no/kernel'", "check the path",
                                        NULL};

    check_start_error(WEB1 "[boot]\nkernel=/no/kernel\n", parts);
}

static void
test_bad_bridge(void)
{
    static const char *const parts[] = {"nic lan: this host has no bridge 'br-none'", NULL};

    check_start_error(WEB1 "[nic lan]\nmode=bridge\nbridge=br-none\n", parts);
}

static void
test_bad_extra(void)
{
    static const char *const parts[] = {"no-such-device", NULL};

    check_start_error(WEB1 "[extra]\narguments=-device no-such-device\n", parts);
}

static void
test_no_kvm(void)
{
    static const char *const parts[] = {"accel = kvm, but this host has tcg", NULL};

    check_start_error("[vm]\nname=web1\nmemory=64M\naccel=kvm\n", parts);
}

static void
test_no_permission(void)
{
    g_autoptr(Host) host = host_new();
    g_autofree char *image = host_image(host, "secret");
    g_autofree char *text =
        g_strdup_printf(WEB1 "[disk root]\npath=%s\nformat=raw\ncache=writeback\n", image);

    if (!host->qemu_user) {
        g_test_skip("needs root, to run QEMU as another user");
        return;
    }
    g_assert_cmpint(g_chmod(image, 0600), ==, 0);
    GwVm *vm = host_define(host, text);
    g_autoptr(GError) error = host_fail_start(host, vm);
    g_assert_nonnull(strstr(error->message, image));
    g_assert_nonnull(strstr(error->message, "give the user 'nobody' that QEMU runs as access"));
    g_assert_cmpint(g_chmod(image, 0666), ==, 0);
    host_start(host, vm);
}

static void
test_locked(void)
{
    g_autoptr(Host) host = host_new();
    g_autofree char *image = host_image(host, "a,b=c.raw");
    g_autofree char *disk =
        g_strdup_printf("[disk root]\npath=%s\nformat=raw\ncache=writeback\n", image);
    g_autofree char *text1 = g_strconcat(WEB1, disk, NULL);
    g_autofree char *text2 = g_strconcat("[vm]\nname=web2\nmemory=64M\n", disk, NULL);
    GwVm *web1 = host_define(host, text1);
    GwVm *web2 = host_define(host, text2);

    host_start(host, web1);
    g_autoptr(GError) error = host_fail_start(host, web2);
    g_assert_nonnull(strstr(error->message, "another QEMU, here or on another host"));
    g_assert_nonnull(strstr(error->message, image));
    host_kill(host, web1);
    host_start(host, web2);
}

/* Every kind of device, and the most of them: the addresses given out are good ones. */
static void
test_devices(void)
{
    static const char *const machines[] = {"q35", "pc"};

    for (unsigned m = 0; m < G_N_ELEMENTS(machines); m++) {
        g_autoptr(Host) host = host_new();
        g_autoptr(GString) text = g_string_new(NULL);
        unsigned n_disks = 0;

        g_string_printf(text, "[vm]\nname=web1\nmemory=64M\nmachine=%s\nserial-ports=4\nvcpus=4\n",
                        machines[m]);
        for (; n_disks < GW_MAX_DISKS; n_disks++) {
            g_autofree char *name = g_strdup_printf("d%u", n_disks);
            g_autofree char *image = host_image(host, name);
            const char *bus = n_disks < 4 ? "ide" : n_disks < 8 ? "scsi" : "virtio";
            g_string_append_printf(text,
                                   "[disk %s]\npath=%s\nformat=raw\nbus=%s\ncache=writeback\n"
                                   "read-only=%s\n",
                                   name, image, bus, n_disks % 4 == 3 ? "true" : "false");
        }
        for (unsigned i = 0; i < GW_MAX_NICS; i++) {
            g_string_append_printf(text, "[nic n%u]\nmode=user\nmodel=%s\n", i,
                                   i % 2 ? "virtio" : "e1000");
        }
        GwVm *vm = host_define(host, text->str);
        host_start(host, vm);
    }
}

static void
test_uefi(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm;

    if (!g_file_test("/usr/share/OVMF", G_FILE_TEST_IS_DIR)) {
        g_test_skip("needs the package ovmf");
        return;
    }
    vm = host_define(host, "[vm]\nname=web1\nmemory=128M\nfirmware=uefi\n");
    g_autofree char *vars = g_build_filename(host->state_dir, "vm", "web1", "uefi-vars.fd", NULL);
    host_start(host, vm);
    g_assert_true(g_file_test(vars, G_FILE_TEST_EXISTS));
    host_kill(host, vm);
    host_start(host, vm);
    host_kill(host, vm);
    g_auto(Outcome) gone = {0};
    gw_vms_undefine(host->vms, vm, on_outcome, &gone);
    wait_outcome(&gone);
    g_assert_false(g_file_test(vars, G_FILE_TEST_EXISTS));
}

/* The owner record has the last word, also when it changed behind our back. */
static void
test_owner(void)
{
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1);

    host_put_record(host, "vm/web1/owner", "{\"host\":\"beta\",\"generation\":2}");
    g_autoptr(GError) error = host_fail_start(host, vm);
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    host_stop_daemon(host);
    host_start_daemon(host);
    vm = gw_vms_find(host->vms, "web1");
    g_assert_cmpint(gw_vm_generation(vm), ==, 2);
    g_autoptr(GError) later = host_fail_start(host, vm);
    g_assert_cmpstr(later->message, ==,
                    "VM web1 belongs to host beta (generation 2): start it there");
}

static bool
tap_is_gone(void *data)
{
    return if_nametoindex(data) == 0;
}

/* In a network namespace of this process's own: nothing may come after it. */
static void
test_bridge(void)
{
    g_auto(GwFd) tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    if (tun < 0 || unshare(CLONE_NEWNET) < 0) {
        g_test_skip("needs /dev/net/tun and network namespaces");
        return;
    }
    g_auto(GwFd) control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(ioctl(control, SIOCBRADDBR, "br-test"), ==, 0);
    g_autoptr(Host) host = host_new();
    GwVm *vm = host_define(host, WEB1 "[nic wan]\nmode=user\n"
                                      "[nic lan]\nmode=bridge\nbridge=br-test\n");
    g_autofree char *tap = gw_tap_name("web1", 1);

    host_start(host, vm);
    g_assert_cmpuint(if_nametoindex(tap), !=, 0);
    /* It is QEMU's: it stays when the daemon goes, and goes when QEMU does. */
    host_stop_daemon(host);
    g_assert_cmpuint(if_nametoindex(tap), !=, 0);
    host_start_daemon(host);
    vm = gw_vms_find(host->vms, "web1");
    g_assert_cmpint(gw_vm_state(vm), ==, GW_VM_RUNNING);
    host_kill(host, vm);
    guint poll = g_timeout_add(10, tick, NULL);
    wait_until(tap_is_gone, tap);
    g_source_remove(poll);
    host_start(host, vm);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_test_add_func("/vms/life", test_life);
    g_test_add_func("/vms/console-log", test_console_log);
    g_test_add_func("/vms/define-errors", test_define_errors);
    g_test_add_func("/vms/define-over-record", test_define_over_record);
    g_test_add_func("/vms/start-twice", test_start_twice);
    g_test_add_func("/vms/stop-during-start", test_stop_during_start);
    g_test_add_func("/vms/stop-orderly", test_stop_orderly);
    g_test_add_func("/vms/held", test_held);
    g_test_add_func("/vms/killed", test_killed);
    g_test_add_func("/vms/pause", test_pause);
    g_test_add_func("/vms/bad-disk", test_bad_disk);
    g_test_add_func("/vms/bad-kernel", test_bad_kernel);
    g_test_add_func("/vms/bad-bridge", test_bad_bridge);
    g_test_add_func("/vms/bad-extra", test_bad_extra);
    g_test_add_func("/vms/no-kvm", test_no_kvm);
    g_test_add_func("/vms/no-permission", test_no_permission);
    g_test_add_func("/vms/locked", test_locked);
    g_test_add_func("/vms/devices", test_devices);
    g_test_add_func("/vms/uefi", test_uefi);
    g_test_add_func("/vms/owner", test_owner);
    g_test_add_func("/vms/bridge", test_bridge);
    return hosts_run();
}
