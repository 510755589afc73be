// SPDX-License-Identifier: Apache-2.0
/* Definitions: what is accepted, every message, the way to text and back, damaged texts. */
#include "vm/definition.h"

#include <string.h>

#define MINIMAL "[vm]\nname = web1\nmemory = 64 MiB\n"

#define NAME_HINT "use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"

typedef struct Bad {
    const char *name;
    const char *text;
    const char *message; /* whole */
} Bad;

static const Bad bad[] = {
    {"empty", "", "web.vm:1: [vm]: missing"},
    {"needed", "[vm]\n", "web.vm:1: [vm] name: missing\nweb.vm:1: [vm] memory: missing"},
    {"no-group", "name = a\n" MINIMAL, "web.vm:1: a key stands before the first [group]"},
    {"no-key", MINIMAL "nonsense\n", "web.vm:4: 'nonsense' is neither [group] nor key = value"},
    {"unknown-key", MINIMAL "color = red\n",
     "web.vm:4: [vm] color: unknown key: use one of name, memory, vcpus, cpu, machine, firmware, "
     "accel, serial-ports, balloon, uuid"},
    {"unknown-group", MINIMAL "[gpu]\n",
     "web.vm:4: [gpu]: unknown group: use one of vm, boot, disk NAME, nic NAME, extra"},
    {"key-twice", MINIMAL "memory = 1G\n", "web.vm:4: [vm] memory: this key was given in line 3"},
    {"group-twice", MINIMAL "\n[vm]\nname = other\n",
     "web.vm:5: [vm]: this group was given in line 1"},
    {"name", "[vm]\nname = Web!\nmemory = 64M\n", "web.vm:2: [vm] name = 'Web!': " NAME_HINT},
    {"memory", "[vm]\nname = a\nmemory = 100 KiB\n",
     "web.vm:3: [vm] memory = '100 KiB': write a size from 64 MiB to 4 TiB, a multiple of 1 MiB"},
    {"memory-odd", "[vm]\nname = a\nmemory = 67108865\n",
     "web.vm:3: [vm] memory = '67108865': write a size from 64 MiB to 4 TiB, a multiple of 1 MiB"},
    {"memory-huge", "[vm]\nname = a\nmemory = 5 TiB\n",
     "web.vm:3: [vm] memory = '5 TiB': write a size from 64 MiB to 4 TiB, a multiple of 1 MiB"},
    {"vcpus", MINIMAL "vcpus = 256\n",
     "web.vm:4: [vm] vcpus = '256': write a number from 1 to 255"},
    {"vcpus-zero", MINIMAL "vcpus = 0\n",
     "web.vm:4: [vm] vcpus = '0': write a number from 1 to 255"},
    {"cpu", MINIMAL "cpu = max, +x\n",
     "web.vm:4: [vm] cpu = 'max, +x': write a QEMU CPU model, with changes if any: "
     "max,+feature,-feature"},
    {"machine", MINIMAL "machine = q35,firmware=/etc/shadow\n",
     "web.vm:4: [vm] machine = 'q35,firmware=/etc/shadow': use q35, pc or a version of them such "
     "as "
     "pc-q35-10.0"},
    {"accel", MINIMAL "accel = xen\n", "web.vm:4: [vm] accel = 'xen': use one of auto, kvm, tcg"},
    {"choice-list", MINIMAL "accel = auto, kvm\n",
     "web.vm:4: [vm] accel = 'auto, kvm': use one of auto, kvm, tcg"},
    {"serial", MINIMAL "serial-ports = 5\n",
     "web.vm:4: [vm] serial-ports = '5': write a number from 1 to 4"},
    {"uuid", MINIMAL "uuid = 1234\n",
     "web.vm:4: [vm] uuid = '1234': write a UUID, or leave the key out to get one"},
    {"empty-value", MINIMAL "cpu =\n",
     "web.vm:4: [vm] cpu = '': write a value or leave the key out"},
    {"control", MINIMAL "[boot]\nkernel = /a\x01\n",
     "web.vm:5: [boot] kernel: a control character in the value"},
    {"escape", MINIMAL "[boot]\nkernel = /a\\n\n",
     "web.vm:5: [boot] kernel: a backslash begins \\s (a space) or \\\\ (a backslash)"},
    {"utf8", MINIMAL "# \xff\n", "web.vm:4: this line is not UTF-8 text"},
    {"initrd-alone", MINIMAL "[boot]\ninitrd = /i\n", "web.vm:4: [boot] kernel: missing"},
    {"format", MINIMAL "[disk root]\npath = /r\n\nformat = vmdk\n",
     "web.vm:7: [disk root] format = 'vmdk': use one of qcow2, raw"},
    {"disk-needed", MINIMAL "[disk root]\n",
     "web.vm:4: [disk root] path: missing\nweb.vm:4: [disk root] format: missing"},
    {"relative", MINIMAL "[disk root]\npath = r.qcow2\nformat = raw\n",
     "web.vm:5: [disk root] path = 'r.qcow2': write an absolute path"},
    {"bool", MINIMAL "[disk root]\npath = /r\nformat = raw\nread-only = yes\n",
     "web.vm:7: [disk root] read-only = 'yes': use one of true, false"},
    {"disk-name", MINIMAL "[disk a/b]\npath = /r\nformat = raw\n",
     "web.vm:4: [disk a/b]: name 'a/b': " NAME_HINT},
    {"same-disk", MINIMAL "[disk a]\npath = /r\nformat = raw\n[disk  a]\npath = /s\nformat = raw\n",
     "web.vm:7: [disk  a]: this name was given in line 4"},
    {"same-path", MINIMAL "[disk a]\npath = /r\nformat = raw\n[disk b]\nformat = raw\npath = /r\n",
     "web.vm:9: [disk b] path: [disk a] has this file already"},
    {"ide",
     MINIMAL "machine = pc\n"
             "[disk a]\npath = /a\nformat = raw\nbus = ide\n"
             "[disk b]\npath = /b\nformat = raw\nbus = ide\n"
             "[disk c]\npath = /c\nformat = raw\nbus = ide\n"
             "[disk d]\npath = /d\nformat = raw\nbus = ide\n"
             "[disk e]\npath = /e\nformat = raw\nbus = ide\n",
     "web.vm:24: [disk e] bus = 'ide': machine pc has at most 4 of them: use virtio or scsi"},
    {"bridge", MINIMAL "[nic n]\nmode = bridge\n",
     "web.vm:4: [nic n] bridge: missing: mode = bridge needs the bridge's name"},
    {"bridge-user", MINIMAL "[nic n]\nmode = user\nbridge = br0\n",
     "web.vm:6: [nic n] bridge: only with mode = bridge"},
    {"bridge-name", MINIMAL "[nic n]\nmode = bridge\nbridge = ../br0\n",
     "web.vm:6: [nic n] bridge = '../br0': write the name of a bridge interface such as br0"},
    {"mac-group", MINIMAL "[nic n]\nmode = user\nmac = 53:54:00:00:00:01\n",
     "web.vm:6: [nic n] mac = '53:54:00:00:00:01': write a unicast address such as "
     "52:54:00:12:34:56"},
    {"same-mac",
     MINIMAL "[nic n]\nmode = user\nmac = 52:54:00:00:00:0A\n"
             "[nic m]\nmode = user\nmac = 52:54:00:00:00:0a\n",
     "web.vm:9: [nic m] mac: [nic n] has this address already"},
    {"extra", MINIMAL "[extra]\narguments = -device 'x\n",
     "web.vm:5: [extra] arguments = '-device 'x': write arguments as for a shell: a quote is not "
     "closed"},
    {"all-at-once",
     "[vm]\nname = a b\nvcpus = many\n[disk root]\nformat = vmdk\n[nic n]\nmode = nat\n",
     "web.vm:1: [vm] memory: missing\n"
     "web.vm:2: [vm] name = 'a b': " NAME_HINT "\n"
     "web.vm:3: [vm] vcpus = 'many': write a number from 1 to 255\n"
     "web.vm:4: [disk root] path: missing\n"
     "web.vm:5: [disk root] format = 'vmdk': use one of qcow2, raw\n"
     "web.vm:7: [nic n] mode = 'nat': use one of bridge, user"},
};

static GwDefinition *
parse(const char *text, GError **error)
{
    return gw_definition_parse(text, strlen(text), "web.vm", error);
}

static void
test_bad(const void *data)
{
    const Bad *one = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GwDefinition) definition = parse(one->text, &error);

    g_assert_null(definition);
    g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
    g_assert_cmpstr(error->message, ==, one->message);
}

static const char full[] = "# a comment\n"
                           "[vm]\n"
                           "  name = web1  \r\n"
                           "memory=1.5G\n"
                           "vcpus = 4\n"
                           "cpu = max,+avx,-svm,vendor=GenuineIntel\n"
                           "machine = pc-q35-10.0\n"
                           "firmware = uefi\n"
                           "accel = tcg\n"
                           "serial-ports = 2\n"
                           "balloon = plain\n"
                           "uuid = 6F9619FF-8B86-D011-B42D-00CF4FC964FF\n"
                           "[boot]\n"
                           "kernel = /boot/vmlinuz\n"
                           "initrd = /boot/init rd\n"
                           "append = console=ttyS0 x=\\\\y\\s\n"
                           "[disk root]\n"
                           "path = /images/a,b=c.qcow2\n"
                           "format = qcow2\n"
                           "bus = scsi\n"
                           "cache = writeback\n"
                           "[disk cd]\n"
                           "path = /images/größe.iso\n"
                           "format = raw\n"
                           "bus = ide\n"
                           "read-only = true\n"
                           "[nic lan]\n"
                           "mode = bridge\n"
                           "bridge = br0\n"
                           "model = e1000\n"
                           "mac = 52:54:00:AA:BB:CC\n"
                           "[nic wan]\n"
                           "mode = user\n"
                           "[extra]\n"
                           "arguments = -device 'usb storage' -name \"a\\\\\\\\b\" ''\n";

/* Every value written out; the MAC of wan is sha256("web1/wan"). */
static const char full_normalised[] = "[vm]\n"
                                      "name = web1\n"
                                      "memory = 1536 MiB\n"
                                      "vcpus = 4\n"
                                      "cpu = max,+avx,-svm,vendor=GenuineIntel\n"
                                      "machine = pc-q35-10.0\n"
                                      "firmware = uefi\n"
                                      "accel = tcg\n"
                                      "serial-ports = 2\n"
                                      "balloon = plain\n"
                                      "uuid = 6f9619ff-8b86-d011-b42d-00cf4fc964ff\n"
                                      "\n[boot]\n"
                                      "kernel = /boot/vmlinuz\n"
                                      "initrd = /boot/init rd\n"
                                      "append = console=ttyS0 x=\\\\y\\s\n"
                                      "\n[disk root]\n"
                                      "path = /images/a,b=c.qcow2\n"
                                      "format = qcow2\n"
                                      "bus = scsi\n"
                                      "cache = writeback\n"
                                      "read-only = false\n"
                                      "\n[disk cd]\n"
                                      "path = /images/größe.iso\n"
                                      "format = raw\n"
                                      "bus = ide\n"
                                      "cache = none\n"
                                      "read-only = true\n"
                                      "\n[nic lan]\n"
                                      "mode = bridge\n"
                                      "bridge = br0\n"
                                      "mac = 52:54:00:aa:bb:cc\n"
                                      "model = e1000\n"
                                      "\n[nic wan]\n"
                                      "mode = user\n"
                                      "mac = 52:1d:d3:5b:fe:21\n"
                                      "model = virtio\n"
                                      "\n[extra]\n"
                                      "arguments = '-device' 'usb storage' '-name' 'a\\\\b' ''\n";

static void
test_full(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwDefinition) definition = parse(full, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(definition->memory_bytes, ==, 1536ull * 1024 * 1024);
    g_assert_cmpstr(definition->append, ==, "console=ttyS0 x=\\y ");
    g_assert_cmpuint(g_strv_length(definition->extra), ==, 5);
    g_assert_cmpstr(definition->extra[3], ==, "a\\b");
    g_assert_cmpstr(definition->extra[4], ==, "");

    g_autofree char *text = gw_definition_text(definition);
    g_assert_cmpstr(text, ==, full_normalised);
    g_autoptr(GPtrArray) warnings = gw_definition_warnings(definition);
    g_assert_cmpuint(warnings->len, ==, 3);
}

static void
test_defaults(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwDefinition) definition = parse(MINIMAL, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(definition->vcpus, ==, 1);
    g_assert_null(definition->cpu);
    g_assert_null(definition->uuid);
    g_assert_null(definition->kernel);
    g_assert_cmpstr(definition->machine, ==, "q35");
    g_assert_cmpstr(definition->firmware, ==, "bios");
    g_assert_cmpstr(definition->accel, ==, "auto");
    g_assert_cmpuint(definition->serial_ports, ==, 1);
    g_assert_cmpuint(definition->disks->len + definition->nics->len, ==, 0);
    g_assert_null(definition->extra[0]);
    g_autoptr(GPtrArray) warnings = gw_definition_warnings(definition);
    g_assert_cmpuint(warnings->len, ==, 0);
}

static void
test_json(void)
{
    g_autoptr(GwDefinition) definition = parse(full, NULL);
    g_autoptr(json_t) object = gw_definition_json(definition);
    const json_t *disk = json_array_get(json_object_get(object, "disks"), 1);

    g_assert_cmpint(gw_json_int(object, "memory_bytes", 0), ==, 1536 * 1024 * 1024);
    g_assert_cmpstr(gw_json_str(disk, "path", NULL), ==, "/images/größe.iso");
    g_assert_true(gw_json_bool(disk, "read_only", false));
    g_assert_cmpuint(json_array_size(json_object_get(object, "nics")), ==, 2);
    g_assert_cmpuint(json_array_size(json_object_get(object, "extra")), ==, 5);
}

static void
test_limits(void)
{
    g_autoptr(GString) disks = g_string_new(MINIMAL);
    g_autoptr(GString) nics = g_string_new(MINIMAL);
    g_autofree char *huge = g_strnfill(GW_DEFINITION_MAX_BYTES + 1, '#');

    for (unsigned i = 0; i < GW_MAX_DISKS; i++) {
        g_string_append_printf(disks, "[disk d%u]\npath=/d%u\nformat=raw\n", i, i);
    }
    for (unsigned i = 0; i < GW_MAX_NICS; i++) {
        g_string_append_printf(nics, "[nic n%u]\nmode=user\n", i);
    }
    g_autoptr(GwDefinition) most_disks = parse(disks->str, NULL);
    g_autoptr(GwDefinition) most_nics = parse(nics->str, NULL);
    g_assert_nonnull(most_disks);
    g_assert_nonnull(most_nics);

    g_autoptr(GError) error = NULL;
    g_string_append(disks, "[disk more]\npath=/more\nformat=raw\n");
    g_assert_null(parse(disks->str, &error));
    g_assert_cmpstr(error->message, ==, "web.vm:100: [disk more]: a VM has at most 32 disks");
    g_clear_error(&error);
    g_string_append(nics, "[nic more]\nmode=user\n");
    g_assert_null(parse(nics->str, &error));
    g_assert_cmpstr(error->message, ==, "web.vm:36: [nic more]: a VM has at most 16 NICs");
    g_clear_error(&error);
    g_assert_null(parse(huge, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
}

/* What is accepted has to be readable again as it is stored, where quoting makes it longer. */
static void
test_stored_size(void)
{
    g_autofree char *quotes = g_strnfill(20000, '\'');
    g_autofree char *text = g_strdup_printf(MINIMAL "[extra]\narguments = \"%s\"\n", quotes);
    g_autoptr(GError) error = NULL;

    g_assert_null(parse(text, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
}

static void
test_many_mistakes(void)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < 1000; i++) {
        g_string_append(text, "nonsense\n");
    }
    g_assert_null(parse(text->str, &error));
    g_assert_true(g_str_has_suffix(error->message, "\n... and 951 more mistakes"));
}

static void
check_round_trip(const GwDefinition *definition)
{
    g_autofree char *text = gw_definition_text(definition);
    g_autoptr(GError) error = NULL;
    g_autoptr(GwDefinition) again = parse(text, &error);

    g_assert_no_error(error);
    g_autofree char *text_again = gw_definition_text(again);
    g_assert_cmpstr(text_again, ==, text);
    g_autoptr(json_t) before = gw_definition_json(definition);
    g_autoptr(json_t) after = gw_definition_json(again);
    g_assert_true(json_equal(before, after));
}

/* Pieces of texts put together at random, and texts with damaged bytes: no crash, no lost value. */
static void
test_random(void)
{
    static const char *const pieces[] = {
        "[",
        "]",
        "=",
        "\n",
        " ",
        "\\",
        "\\s",
        "\\\\",
        "#",
        "'",
        "\"",
        "\t",
        "\r\n",
        "\xc3\xbc",
        "\xff",
        "vm",
        "name = x\n",
        "memory = 64M\n",
        "[disk ",
        "[nic n]\n",
        "path = /",
        "format = raw\n",
        "[extra]\n",
        "arguments = ",
        "-x",
        "a",
        "mode = user\n",
    };
    unsigned accepted = 0;

    for (unsigned round = 0; round < 20000; round++) {
        g_autoptr(GString) text = g_string_new(round % 2 ? full : MINIMAL "[extra]\narguments = a");
        unsigned changes = (unsigned)g_test_rand_int_range(1, 4);
        for (unsigned i = 0; i < changes; i++) {
            gssize at = g_test_rand_int_range(0, (gint32)text->len);
            const char *piece = pieces[g_test_rand_int_range(0, G_N_ELEMENTS(pieces))];
            if (g_test_rand_bit()) {
                g_string_erase(text, at, MIN(3, (gssize)text->len - at));
            }
            g_string_insert(text, at, piece);
        }
        g_autoptr(GwDefinition) definition = gw_definition_parse(text->str, text->len, "r", NULL);
        if (definition) {
            accepted++;
            check_round_trip(definition);
        }
    }
    /* Were hardly any accepted, this would prove nothing. */
    g_assert_cmpuint(accepted, >, 300);
}

static void
test_mac(void)
{
    g_autoptr(GwDefinition) one = parse(MINIMAL "[nic a]\nmode=user\n[nic b]\nmode=user\n", NULL);
    g_autoptr(GwDefinition) same = parse(MINIMAL "[nic a]\nmode=user\n", NULL);
    const GwNic *a = g_ptr_array_index(one->nics, 0);
    const GwNic *b = g_ptr_array_index(one->nics, 1);
    const GwNic *a_again = g_ptr_array_index(same->nics, 0);

    g_assert_cmpstr(a->mac, !=, b->mac);
    g_assert_cmpstr(a->mac, ==, a_again->mac);
    g_assert_true(g_str_has_prefix(a->mac, "52:"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *path = g_strdup_printf("/definition/bad/%s", bad[i].name);
        g_test_add_data_func(path, &bad[i], test_bad);
    }
    g_test_add_func("/definition/defaults", test_defaults);
    g_test_add_func("/definition/full", test_full);
    g_test_add_func("/definition/json", test_json);
    g_test_add_func("/definition/limits", test_limits);
    g_test_add_func("/definition/stored-size", test_stored_size);
    g_test_add_func("/definition/many-mistakes", test_many_mistakes);
    g_test_add_func("/definition/mac", test_mac);
    g_test_add_func("/definition/random", test_random);
    return g_test_run();
}
