// SPDX-License-Identifier: Apache-2.0
/* The command line of several definitions, word for word: a change here changes guests. */
#include "vm/command.h"

#include <string.h>

#define TOKEN "5d0c4f6e-0000-4000-8000-000000000001"

static GwCommandPlan
plan_new(void)
{
    return (GwCommandPlan){
        .qemu_binary = "/usr/bin/qemu-system-x86_64",
        .accel = "tcg",
        .machine = "pc-q35-10.0",
        .cpu = "max",
        .balloon = "hint",
        .token = TOKEN,
        .qmp_fd = 11,
        .spare_in_fd = -1,
        .spare_out_fd = -1,
        .serial_fds = {13, 14, 15, 16},
        .console_log_fd = 12,
        .firmware_vars_fd = -1,
    };
}

/* One argument per line, options with their value on one. */
static char *
build(const char *text, const GwCommandPlan *plan)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwDefinition) definition = gw_definition_parse(text, strlen(text), "t", &error);
    g_autoptr(GString) out = g_string_new(NULL);

    g_assert_no_error(error);
    g_auto(GStrv) argv = gw_command_build(definition, plan);
    for (char **at = argv; *at; at++) {
        g_string_append_printf(out, "%s%s", out->len == 0 ? "" : (*at)[0] == '-' ? "\n" : " ", *at);
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

#define HINTING_BALLOON                                                                            \
    "-object {\"qom-type\":\"iothread\",\"id\":\"free-pages\"}\n"                                  \
    "-device {\"driver\":\"virtio-balloon-pci\",\"id\":\"balloon\",\"free-page-hint\":true,"       \
    "\"iothread\":\"free-pages\",\"addr\":\"0x2.0x0\"}\n"
#define SANDBOX "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

static void
test_minimal(void)
{
    GwCommandPlan plan = plan_new();
    g_autofree char *got = build("[vm]\nname = web1\nmemory = 64 MiB\n", &plan);

    g_assert_cmpstr(
        got, ==,
        "/usr/bin/qemu-system-x86_64\n"
        "-name guest=web1,process=vm-web1,debug-threads=on\n"
        "-machine pc-q35-10.0,usb=off,graphics=off\n"
        "-accel tcg,thread=multi\n"
        "-cpu max\n"
        "-m size=64M\n"
        "-smp cpus=1,sockets=1,cores=1,threads=1\n"
        "-nodefaults\n"
        "-no-user-config\n"
        "-display none\n"
        "-sandbox " SANDBOX "\n"
        "-msg timestamp=on\n"
        "-rtc base=utc\n"
        "-S\n"
        "-chardev socket,id=monitor,fd=11,server=on,wait=off\n"
        "-mon chardev=monitor,mode=control\n"
        "-add-fd fd=12,set=1,opaque=godwit-" TOKEN "\n"
        "-chardev socket,id=port0,fd=13,server=on,wait=off,logfile=/dev/fdset/1,logappend=on\n"
        "-device "
        "{\"driver\":\"isa-serial\",\"id\":\"serial0\",\"chardev\":\"port0\",\"index\":0}"
        "\n" HINTING_BALLOON "-object {\"qom-type\":\"rng-builtin\",\"id\":\"random\"}\n"
        "-device "
        "{\"driver\":\"virtio-rng-pci\",\"id\":\"rng\",\"rng\":\"random\",\"addr\":\"0x3.0x0\"}");
}

/* Whatever the definition says by now: what this run has counts. The others keep their places. */
static void
test_balloon(void)
{
    static const char plain[] = "{\"driver\":\"virtio-balloon-pci\",\"id\":\"balloon\","
                                "\"addr\":\"0x2.0x0\"}";
    static const char rng[] = "\"rng\":\"random\",\"addr\":\"0x3.0x0\"}";
    GwCommandPlan plan = plan_new();

    plan.balloon = "plain";
    g_autofree char *without_hints = build("[vm]\nname=a\nmemory=64M\n", &plan);
    g_assert_nonnull(strstr(without_hints, plain));
    g_assert_nonnull(strstr(without_hints, rng));
    g_assert_null(strstr(without_hints, "iothread"));
    plan.balloon = "none";
    g_autofree char *without_balloon = build("[vm]\nname=a\nmemory=64M\n", &plan);
    g_assert_null(strstr(without_balloon, "balloon"));
    g_assert_nonnull(strstr(without_balloon, rng));
}

static const char full[] = "[vm]\nname=db\nmemory=2G\nvcpus=4\nserial-ports=2\nfirmware=uefi\n"
                           "uuid=6f9619ff-8b86-d011-b42d-00cf4fc964ff\n"
                           "[boot]\nkernel=/k,readonly=on\ninitrd=/i\nappend=console=ttyS0 x\n"
                           "[disk root]\npath=/a,b=\"c\".qcow2\nformat=qcow2\n"
                           "[disk log]\npath=/dev/vg/log\nformat=raw\nbus=scsi\ncache=writeback\n"
                           "[disk old]\npath=/old\nformat=raw\nbus=ide\n"
                           "[disk cd]\npath=/cd\nformat=raw\nbus=ide\nread-only=true\n"
                           "[nic lan]\nmode=bridge\nbridge=br0\nmac=52:54:00:00:00:01\n"
                           "[nic wan]\nmode=user\nmodel=e1000\nmac=52:54:00:00:00:02\n"
                           "[extra]\narguments=-device 'usb-ehci,id=e'\n";

#define SAME_DEVICES                                                                               \
    HINTING_BALLOON                                                                                \
    "-object {\"qom-type\":\"rng-builtin\",\"id\":\"random\"}\n"                                   \
    "-device "                                                                                     \
    "{\"driver\":\"virtio-rng-pci\",\"id\":\"rng\",\"rng\":\"random\",\"addr\":\"0x3.0x0\"}\n"     \
    "-device {\"driver\":\"virtio-scsi-pci\",\"id\":\"scsi\",\"addr\":\"0x4.0x0\"}\n"              \
    "-netdev {\"type\":\"tap\",\"id\":\"net0\",\"fd\":\"20\"}\n"                                   \
    "-device {\"driver\":\"virtio-net-pci\",\"id\":\"nic-lan\",\"netdev\":\"net0\","               \
    "\"mac\":\"52:54:00:00:00:01\",\"romfile\":\"\",\"addr\":\"0x5.0x0\"}\n"                       \
    "-netdev {\"type\":\"user\",\"id\":\"net1\"}\n"                                                \
    "-device {\"driver\":\"e1000\",\"id\":\"nic-wan\",\"netdev\":\"net1\","                        \
    "\"mac\":\"52:54:00:00:00:02\",\"romfile\":\"\",\"addr\":\"0x6.0x0\"}\n"

static void
test_full(void)
{
    GwCommandPlan plan = plan_new();

    plan.accel = "kvm";
    plan.cpu = "host";
    plan.incoming = true;
    plan.tap_fds[0] = 20;
    plan.block_device[1] = true;
    plan.firmware_code = "/usr/share/OVMF/OVMF_CODE_4M.fd";
    plan.firmware_vars_fd = 21;
    plan.spare_in_fd = 22;
    plan.spare_out_fd = 23;
    g_autofree char *got = build(full, &plan);
    g_assert_cmpstr(
        got, ==,
        "/usr/bin/qemu-system-x86_64\n"
        "-name guest=db,process=vm-db,debug-threads=on\n"
        "-uuid 6f9619ff-8b86-d011-b42d-00cf4fc964ff\n"
        "-machine pc-q35-10.0,usb=off,graphics=off,pflash0=firmware-code,pflash1=firmware-vars\n"
        "-accel kvm\n"
        "-cpu host\n"
        "-m size=2048M\n"
        "-smp cpus=4,sockets=1,cores=4,threads=1\n"
        "-nodefaults\n"
        "-no-user-config\n"
        "-display none\n"
        "-sandbox " SANDBOX "\n"
        "-msg timestamp=on\n"
        "-rtc base=utc\n"
        "-S\n"
        "-incoming defer\n"
        "-chardev socket,id=monitor,fd=11,server=on,wait=off\n"
        "-mon chardev=monitor,mode=control\n"
        "-add-fd fd=22,set=3\n"
        "-add-fd fd=23,set=4\n"
        "-chardev file,id=spare,path=/dev/fdset/4,input-path=/dev/fdset/3,append=on\n"
        "-mon chardev=spare,mode=control\n"
        "-add-fd fd=12,set=1,opaque=godwit-" TOKEN "\n"
        "-chardev socket,id=port0,fd=13,server=on,wait=off,logfile=/dev/fdset/1,logappend=on\n"
        "-device {\"driver\":\"isa-serial\",\"id\":\"serial0\",\"chardev\":\"port0\",\"index\":0}\n"
        "-chardev socket,id=port1,fd=14,server=on,wait=off\n"
        "-device {\"driver\":\"isa-serial\",\"id\":\"serial1\",\"chardev\":\"port1\",\"index\":1}\n"
        "-blockdev {\"driver\":\"file\",\"node-name\":\"firmware-code\","
        "\"filename\":\"/usr/share/OVMF/OVMF_CODE_4M.fd\",\"read-only\":true}\n"
        "-add-fd fd=21,set=2\n"
        "-blockdev {\"driver\":\"file\",\"node-name\":\"firmware-vars\","
        "\"filename\":\"/dev/fdset/2\"}\n" SAME_DEVICES
        "-blockdev {\"driver\":\"qcow2\",\"node-name\":\"disk0\",\"read-only\":false,"
        "\"discard\":\"unmap\",\"cache\":{\"direct\":true,\"no-flush\":false},"
        "\"file\":{\"driver\":\"file\",\"filename\":\"/a,b=\\\"c\\\".qcow2\"}}\n"
        "-device {\"driver\":\"virtio-blk-pci\",\"id\":\"disk-root\",\"drive\":\"disk0\","
        "\"serial\":\"root\",\"bootindex\":1,\"addr\":\"0x7.0x0\"}\n"
        "-blockdev {\"driver\":\"raw\",\"node-name\":\"disk1\",\"read-only\":false,"
        "\"discard\":\"unmap\",\"cache\":{\"direct\":false,\"no-flush\":false},"
        "\"file\":{\"driver\":\"host_device\",\"filename\":\"/dev/vg/log\"}}\n"
        "-device {\"driver\":\"scsi-hd\",\"id\":\"disk-log\",\"bus\":\"scsi.0\",\"scsi-id\":0,"
        "\"drive\":\"disk1\",\"serial\":\"log\",\"bootindex\":2}\n"
        "-blockdev {\"driver\":\"raw\",\"node-name\":\"disk2\",\"read-only\":false,"
        "\"discard\":\"unmap\",\"cache\":{\"direct\":true,\"no-flush\":false},"
        "\"file\":{\"driver\":\"file\",\"filename\":\"/old\"}}\n"
        "-device {\"driver\":\"ide-hd\",\"id\":\"disk-old\",\"bus\":\"ide.0\",\"unit\":0,"
        "\"drive\":\"disk2\",\"serial\":\"old\",\"bootindex\":3}\n"
        "-blockdev {\"driver\":\"raw\",\"node-name\":\"disk3\",\"read-only\":true,"
        "\"discard\":\"unmap\",\"cache\":{\"direct\":true,\"no-flush\":false},"
        "\"file\":{\"driver\":\"file\",\"filename\":\"/cd\"}}\n"
        "-device {\"driver\":\"ide-cd\",\"id\":\"disk-cd\",\"bus\":\"ide.1\",\"unit\":0,"
        "\"drive\":\"disk3\",\"serial\":\"cd\",\"bootindex\":4}\n"
        "-kernel /k,readonly=on\n"
        "-initrd /i\n"
        "-append console=ttyS0 x\n"
        "-device usb-ehci,id=e");
}

/* Whatever the source runs on: the guest's devices are those of the target. */
static void
test_same_on_both_hosts(void)
{
    GwCommandPlan source = plan_new();
    GwCommandPlan target = plan_new();

    source.tap_fds[0] = 20;
    target.tap_fds[0] = 20;
    target.accel = "kvm";
    target.incoming = true;
    target.block_device[0] = true;
    g_autofree char *on_source = build(full, &source);
    g_autofree char *on_target = build(full, &target);
    g_assert_nonnull(strstr(on_source, SAME_DEVICES));
    g_assert_nonnull(strstr(on_target, SAME_DEVICES));
}

/* pc: two ports with two units each. */
static void
test_ide_on_pc(void)
{
    GwCommandPlan plan = plan_new();

    plan.machine = "pc-i440fx-10.0";
    g_autofree char *got = build("[vm]\nname=a\nmemory=64M\nmachine=pc-i440fx-10.0\n"
                                 "[disk a]\npath=/a\nformat=raw\nbus=ide\n"
                                 "[disk b]\npath=/b\nformat=raw\nbus=ide\n"
                                 "[disk c]\npath=/c\nformat=raw\nbus=ide\n",
                                 &plan);
    g_assert_nonnull(strstr(got, "\"id\":\"disk-b\",\"bus\":\"ide.0\",\"unit\":1"));
    g_assert_nonnull(strstr(got, "\"id\":\"disk-c\",\"bus\":\"ide.1\",\"unit\":0"));
}

/* More devices than slots: eight to a slot, and each address once. */
static void
test_packed_pci(void)
{
    GwCommandPlan plan = plan_new();
    g_autoptr(GString) text = g_string_new("[vm]\nname=a\nmemory=64M\n");
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (unsigned i = 0; i < GW_MAX_DISKS; i++) {
        g_string_append_printf(text, "[disk d%u]\npath=/d%u\nformat=raw\n", i, i);
    }
    for (unsigned i = 0; i < GW_MAX_NICS; i++) {
        g_string_append_printf(text, "[nic n%u]\nmode=user\n", i);
    }
    g_autofree char *got = build(text->str, &plan);
    const char *at = got;
    while ((at = strstr(at, "\"addr\":\""))) {
        at += strlen("\"addr\":\"");
        char *address = g_strndup(at, strcspn(at, "\""));
        bool first = g_str_has_suffix(address, ".0x0");
        g_assert_cmpint(first, ==,
                        g_str_has_prefix(at + strlen(address), "\",\"multifunction\":true"));
        g_assert_true(g_hash_table_add(seen, address));
    }
    g_assert_cmpuint(g_hash_table_size(seen), ==, 2 + GW_MAX_DISKS + GW_MAX_NICS);
}

static void
test_token(void)
{
    g_assert_true(gw_command_argument_has_token("fd=12,set=1,opaque=godwit-" TOKEN, TOKEN));
    g_assert_false(gw_command_argument_has_token("fd=12,set=1,opaque=godwit-other", TOKEN));
    g_assert_false(gw_command_argument_has_token(TOKEN, TOKEN));
    g_assert_false(gw_command_argument_has_token("grep fd=,opaque=godwit-" TOKEN, TOKEN));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/command/minimal", test_minimal);
    g_test_add_func("/command/full", test_full);
    g_test_add_func("/command/balloon", test_balloon);
    g_test_add_func("/command/same-on-both-hosts", test_same_on_both_hosts);
    g_test_add_func("/command/ide-on-pc", test_ide_on_pc);
    g_test_add_func("/command/packed-pci", test_packed_pci);
    g_test_add_func("/command/token", test_token);
    return g_test_run();
}
