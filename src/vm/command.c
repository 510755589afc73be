// SPDX-License-Identifier: Apache-2.0
/*
 * Builds QEMU's arguments. Owns only what it returns; pure; any thread; cannot fail: a definition
 * was checked when it was parsed.
 *
 * PCI addresses are given out in the order balloon, random numbers, SCSI, NICs, disks, one slot
 * each while there are enough, else eight to a slot, always beginning with slot 2: so a further
 * disk moves nothing but disks, and the balloon's place stays empty without one.
 */
#include "vm/command.h"

#include <string.h>

#define FIRST_PCI_SLOT       2u
#define MAX_SINGLE_PCI_SLOTS 24u
#define FUNCTIONS_PER_SLOT   8u
#define SERIAL_CHARS         20 /* what virtio-blk and IDE have room for */

#define CONSOLE_LOG_SET   1
#define FIRMWARE_VARS_SET 2
#define SPARE_IN_SET      3
#define SPARE_OUT_SET     4

#define TOKEN_FORMAT ",opaque=godwit-%s"

typedef struct Builder {
    const GwDefinition *definition;
    const GwCommandPlan *plan;
    GPtrArray *argv;
    unsigned n_pci; /* devices that the machine will have */
    unsigned next_pci;
    unsigned next_ide;
    unsigned next_scsi;
} Builder;

char *
gw_command_disk_node(unsigned index)
{
    return g_strdup_printf("disk%u", index);
}

bool
gw_command_argument_has_token(const char *argument, const char *token)
{
    g_autofree char *suffix = g_strdup_printf(TOKEN_FORMAT, token);

    return g_str_has_prefix(argument, "fd=") && g_str_has_suffix(argument, suffix);
}

static void
put(Builder *builder, const char *option, const char *value)
{
    g_ptr_array_add(builder->argv, g_strdup(option));
    if (value) {
        g_ptr_array_add(builder->argv, g_strdup(value));
    }
}

static void put_format(Builder *builder, const char *option, const char *format, ...)
    GW_PRINTF(3, 4);

static void
put_format(Builder *builder, const char *option, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *value = g_strdup_vprintf(format, args);
    va_end(args);
    put(builder, option, value);
}

/* @object: transfer full. */
static void
put_json(Builder *builder, const char *option, json_t *object)
{
    g_autoptr(json_t) owned = object;
    g_autofree char *text = gw_json_text(owned);

    put(builder, option, text);
}

static json_t *
device_new(const char *driver, const char *id_kind, const char *id_name)
{
    json_t *device = json_object();
    g_autofree char *id =
        g_strdup_printf("%s%s%s", id_kind, id_name ? "-" : "", id_name ? id_name : "");

    gw_json_set_str(device, "driver", driver);
    gw_json_set_str(device, "id", id);
    return device;
}

/* @device: transfer full. */
static void
put_pci_device(Builder *builder, json_t *device)
{
    unsigned per_slot = builder->n_pci <= MAX_SINGLE_PCI_SLOTS ? 1 : FUNCTIONS_PER_SLOT;
    unsigned index = builder->next_pci++;
    g_autofree char *address =
        g_strdup_printf("0x%x.0x%x", FIRST_PCI_SLOT + index / per_slot, index % per_slot);

    gw_json_set_str(device, "addr", address);
    if (per_slot > 1 && index % per_slot == 0) {
        gw_json_set_bool(device, "multifunction", true);
    }
    put_json(builder, "-device", device);
}

static unsigned
disks_on(const GwDefinition *definition, const char *bus)
{
    unsigned count = 0;

    for (unsigned i = 0; i < definition->disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(definition->disks, i);
        count += strcmp(disk->bus, bus) == 0;
    }
    return count;
}

static unsigned
count_pci(const GwDefinition *definition)
{
    unsigned common = 2; /* balloon and random numbers */

    common += disks_on(definition, "scsi") > 0;
    return common + definition->nics->len + disks_on(definition, "virtio");
}

static void
put_machine(Builder *builder)
{
    const GwDefinition *definition = builder->definition;
    const GwCommandPlan *plan = builder->plan;

    put_format(builder, "-name", "guest=%s,process=vm-%s,debug-threads=on", definition->name,
               definition->name);
    if (definition->uuid) {
        put(builder, "-uuid", definition->uuid);
    }
    put_format(builder, "-machine", "%s,usb=off,graphics=off%s", plan->machine,
               plan->firmware_code ? ",pflash0=firmware-code,pflash1=firmware-vars" : "");
    put(builder, "-accel", strcmp(plan->accel, "tcg") == 0 ? "tcg,thread=multi" : plan->accel);
    put(builder, "-cpu", plan->cpu);
    put_format(builder, "-m", "size=%" G_GUINT64_FORMAT "M",
               definition->memory_bytes / (1024 * 1024));
    put_format(builder, "-smp", "cpus=%u,sockets=1,cores=%u,threads=1", definition->vcpus,
               definition->vcpus);
    put(builder, "-nodefaults", NULL);
    put(builder, "-no-user-config", NULL);
    put(builder, "-display", "none");
    put(builder, "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    put(builder, "-msg", "timestamp=on");
    put(builder, "-rtc", "base=utc");
    /* The guest waits for the daemon's word, also after a move. */
    put(builder, "-S", NULL);
    if (plan->incoming) {
        put(builder, "-incoming", "defer");
    }
}

static void
put_monitor(Builder *builder)
{
    put_format(builder, "-chardev", "socket,id=monitor,fd=%d,server=on,wait=off",
               builder->plan->qmp_fd);
    put(builder, "-mon", "chardev=monitor,mode=control");
}

/* "append": QEMU would truncate a pipe otherwise, which cannot be. */
static void
put_spare_monitor(Builder *builder)
{
    const GwCommandPlan *plan = builder->plan;

    if (plan->spare_in_fd < 0) {
        return;
    }
    put_format(builder, "-add-fd", "fd=%d,set=%d", plan->spare_in_fd, SPARE_IN_SET);
    put_format(builder, "-add-fd", "fd=%d,set=%d", plan->spare_out_fd, SPARE_OUT_SET);
    put_format(builder, "-chardev",
               "file,id=spare,path=/dev/fdset/%d,input-path=/dev/fdset/%d,append=on", SPARE_OUT_SET,
               SPARE_IN_SET);
    put(builder, "-mon", "chardev=spare,mode=control");
}

/* Port 0 is the console: what it writes is kept in a file, too. The file's descriptor carries the
 * token, as a remark of which QEMU takes no notice. */
static void
put_serial_ports(Builder *builder)
{
    const GwCommandPlan *plan = builder->plan;

    put_format(builder, "-add-fd", "fd=%d,set=%d" TOKEN_FORMAT, plan->console_log_fd,
               CONSOLE_LOG_SET, plan->token);
    for (unsigned i = 0; i < builder->definition->serial_ports; i++) {
        g_autofree char *log =
            i == 0 ? g_strdup_printf(",logfile=/dev/fdset/%d,logappend=on", CONSOLE_LOG_SET) : NULL;
        g_autofree char *chardev = g_strdup_printf("port%u", i);
        g_autofree char *id = g_strdup_printf("serial%u", i);
        put_format(builder, "-chardev", "socket,id=%s,fd=%d,server=on,wait=off%s", chardev,
                   plan->serial_fds[i], log ? log : "");
        json_t *device = device_new("isa-serial", id, NULL);
        gw_json_set_str(device, "chardev", chardev);
        gw_json_set_int(device, "index", i);
        put_json(builder, "-device", device);
    }
}

static void
put_firmware(Builder *builder)
{
    const GwCommandPlan *plan = builder->plan;

    if (!plan->firmware_code) {
        return;
    }
    json_t *code = json_object();
    gw_json_set_str(code, "driver", "file");
    gw_json_set_str(code, "node-name", "firmware-code");
    gw_json_set_str(code, "filename", plan->firmware_code);
    gw_json_set_bool(code, "read-only", true);
    put_json(builder, "-blockdev", code);

    put_format(builder, "-add-fd", "fd=%d,set=%d", plan->firmware_vars_fd, FIRMWARE_VARS_SET);
    json_t *vars = json_object();
    g_autofree char *path = g_strdup_printf("/dev/fdset/%d", FIRMWARE_VARS_SET);
    gw_json_set_str(vars, "driver", "file");
    gw_json_set_str(vars, "node-name", "firmware-vars");
    gw_json_set_str(vars, "filename", path);
    put_json(builder, "-blockdev", vars);
}

/* What the guest reports as free is taken in by a thread of its own: QEMU asks for one. */
static void
put_balloon(Builder *builder)
{
    const char *kind = builder->plan->balloon;
    json_t *device = device_new("virtio-balloon-pci", "balloon", NULL);

    if (strcmp(kind, "hint") == 0) {
        json_t *thread = json_object();
        gw_json_set_str(thread, "qom-type", "iothread");
        gw_json_set_str(thread, "id", "free-pages");
        put_json(builder, "-object", thread);
        gw_json_set_bool(device, "free-page-hint", true);
        gw_json_set_str(device, "iothread", "free-pages");
    }
    if (strcmp(kind, "none") == 0) {
        builder->next_pci++;
        json_decref(device);
    } else {
        put_pci_device(builder, device);
    }
}

static void
put_common_devices(Builder *builder)
{
    put_balloon(builder);
    json_t *random = json_object();
    gw_json_set_str(random, "qom-type", "rng-builtin");
    gw_json_set_str(random, "id", "random");
    put_json(builder, "-object", random);
    json_t *device = device_new("virtio-rng-pci", "rng", NULL);
    gw_json_set_str(device, "rng", "random");
    put_pci_device(builder, device);
    if (disks_on(builder->definition, "scsi") > 0) {
        put_pci_device(builder, device_new("virtio-scsi-pci", "scsi", NULL));
    }
}

static void
put_nic(Builder *builder, unsigned index)
{
    const GwNic *nic = g_ptr_array_index(builder->definition->nics, index);
    g_autofree char *id = g_strdup_printf("net%u", index);
    json_t *netdev = json_object();
    bool bridged = strcmp(nic->mode, "bridge") == 0;

    gw_json_set_str(netdev, "type", bridged ? "tap" : "user");
    gw_json_set_str(netdev, "id", id);
    if (bridged) {
        g_autofree char *fd = g_strdup_printf("%d", builder->plan->tap_fds[index]);
        gw_json_set_str(netdev, "fd", fd);
    }
    put_json(builder, "-netdev", netdev);

    bool virtio = strcmp(nic->model, "virtio") == 0;
    json_t *device = device_new(virtio ? "virtio-net-pci" : nic->model, "nic", nic->name);
    gw_json_set_str(device, "netdev", id);
    gw_json_set_str(device, "mac", nic->mac);
    gw_json_set_str(device, "romfile", "");
    put_pci_device(builder, device);
}

static void
put_disk_node(Builder *builder, unsigned index, const char *node)
{
    const GwDisk *disk = g_ptr_array_index(builder->definition->disks, index);
    json_t *format = json_object();
    json_t *cache = json_object();
    json_t *file = json_object();

    gw_json_set_str(format, "driver", disk->format);
    gw_json_set_str(format, "node-name", node);
    gw_json_set_bool(format, "read-only", disk->read_only);
    gw_json_set_str(format, "discard", "unmap");
    gw_json_set_bool(cache, "direct", strcmp(disk->cache, "none") == 0);
    gw_json_set_bool(cache, "no-flush", false);
    json_object_set_new(format, "cache", cache);
    gw_json_set_str(file, "driver", builder->plan->block_device[index] ? "host_device" : "file");
    gw_json_set_str(file, "filename", disk->path);
    json_object_set_new(format, "file", file);
    put_json(builder, "-blockdev", format);
}

/* An IDE disk that is read-only is a CD-ROM drive: there is no other kind. */
static json_t *
ide_device(Builder *builder, const GwDisk *disk)
{
    json_t *device = device_new(disk->read_only ? "ide-cd" : "ide-hd", "disk", disk->name);
    bool one_per_port = strstr(builder->plan->machine, "q35") != NULL;
    unsigned index = builder->next_ide++;
    g_autofree char *bus = g_strdup_printf("ide.%u", one_per_port ? index : index / 2);

    gw_json_set_str(device, "bus", bus);
    gw_json_set_int(device, "unit", one_per_port ? 0 : index % 2);
    return device;
}

static void
put_disk(Builder *builder, unsigned index)
{
    const GwDisk *disk = g_ptr_array_index(builder->definition->disks, index);
    g_autofree char *node = gw_command_disk_node(index);
    g_autofree char *serial = g_strndup(disk->name, SERIAL_CHARS);
    bool virtio = strcmp(disk->bus, "virtio") == 0;
    json_t *device;

    put_disk_node(builder, index, node);
    if (virtio) {
        device = device_new("virtio-blk-pci", "disk", disk->name);
    } else if (strcmp(disk->bus, "scsi") == 0) {
        device = device_new("scsi-hd", "disk", disk->name);
        gw_json_set_str(device, "bus", "scsi.0");
        gw_json_set_int(device, "scsi-id", builder->next_scsi++);
    } else {
        device = ide_device(builder, disk);
    }
    gw_json_set_str(device, "drive", node);
    gw_json_set_str(device, "serial", serial);
    gw_json_set_int(device, "bootindex", index + 1);
    if (virtio) {
        put_pci_device(builder, device);
    } else {
        put_json(builder, "-device", device);
    }
}

static void
put_direct_boot(Builder *builder)
{
    const GwDefinition *definition = builder->definition;

    if (definition->kernel) {
        put(builder, "-kernel", definition->kernel);
    }
    if (definition->initrd) {
        put(builder, "-initrd", definition->initrd);
    }
    if (definition->append) {
        put(builder, "-append", definition->append);
    }
}

char **
gw_command_build(const GwDefinition *definition, const GwCommandPlan *plan)
{
    Builder builder = {
        .definition = definition,
        .plan = plan,
        .argv = g_ptr_array_new(),
        .n_pci = count_pci(definition),
    };

    put(&builder, plan->qemu_binary, NULL);
    put_machine(&builder);
    put_monitor(&builder);
    put_spare_monitor(&builder);
    put_serial_ports(&builder);
    put_firmware(&builder);
    put_common_devices(&builder);
    for (unsigned i = 0; i < definition->nics->len; i++) {
        put_nic(&builder, i);
    }
    for (unsigned i = 0; i < definition->disks->len; i++) {
        put_disk(&builder, i);
    }
    put_direct_boot(&builder);
    for (char **argument = definition->extra; *argument; argument++) {
        put(&builder, *argument, NULL);
    }
    g_ptr_array_add(builder.argv, NULL);
    return (char **)g_ptr_array_free(builder.argv, FALSE);
}
