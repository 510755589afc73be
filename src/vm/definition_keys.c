// SPDX-License-Identifier: Apache-2.0
/*
 * Kinds of values and the tables of keys. Owns nothing; pure; any thread. A value that does not
 * fit is answered with what would; it never changes the field.
 */
#include "vm/definition_keys.h"

#include "base/units.h"

#include <limits.h>
#include <string.h>

#define MIB              (1024u * 1024u)
#define MIN_MEMORY_BYTES (64ull * MIB)
#define MAX_MEMORY_BYTES (4ull * 1024 * 1024 * MIB)

static char *
take(void *field, char *value)
{
    char **string = field;

    g_free(*string);
    *string = value;
    return NULL;
}

static char *
get_string(const void *field)
{
    return g_strdup(*(char *const *)field);
}

static char *
set_text(const GwKeySpec *spec, const char *value, void *field)
{
    return take(field, g_strdup(value));
}

static char *
set_name(const GwKeySpec *spec, const char *value, void *field)
{
    if (!gw_check_name("name", value, NULL)) {
        return g_strdup(GW_NAME_HINT);
    }
    return take(field, g_strdup(value));
}

static char *
set_path(const GwKeySpec *spec, const char *value, void *field)
{
    if (value[0] != '/') {
        return g_strdup("write an absolute path");
    }
    if (strlen(value) >= PATH_MAX) {
        return g_strdup("this path is too long");
    }
    return take(field, g_strdup(value));
}

static char *
set_choice(const GwKeySpec *spec, const char *value, void *field)
{
    g_auto(GStrv) choices = g_strsplit(spec->choices, ", ", -1);

    if (!g_strv_contains((const char *const *)choices, value)) {
        return g_strdup_printf("use one of %s", spec->choices);
    }
    return take(field, g_strdup(value));
}

static char *
set_size(const GwKeySpec *spec, const char *value, void *field)
{
    uint64_t bytes;

    if (!gw_parse_size(value, &bytes, NULL) || bytes < MIN_MEMORY_BYTES ||
        bytes > MAX_MEMORY_BYTES || bytes % MIB != 0) {
        return g_strdup("write a size from 64 MiB to 4 TiB, a multiple of 1 MiB");
    }
    *(uint64_t *)field = bytes;
    return NULL;
}

static char *
get_size(const void *field)
{
    return g_strdup_printf("%" G_GUINT64_FORMAT " MiB", *(const uint64_t *)field / MIB);
}

static char *
set_count(const GwKeySpec *spec, const char *value, void *field)
{
    uint64_t number;

    if (!g_ascii_string_to_unsigned(value, 10, 1, spec->max, &number, NULL)) {
        return g_strdup_printf("write a number from 1 to %u", spec->max);
    }
    *(unsigned *)field = (unsigned)number;
    return NULL;
}

static char *
get_count(const void *field)
{
    return g_strdup_printf("%u", *(const unsigned *)field);
}

static char *
set_bool(const GwKeySpec *spec, const char *value, void *field)
{
    if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0) {
        return g_strdup("use one of true, false");
    }
    *(bool *)field = value[0] == 't';
    return NULL;
}

static char *
get_bool(const void *field)
{
    return g_strdup(*(const bool *)field ? "true" : "false");
}

static char *
set_cpu(const GwKeySpec *spec, const char *value, void *field)
{
    if (strlen(value) > 4096 ||
        !g_regex_match_simple("^[A-Za-z0-9_.-]+(,[+-][A-Za-z0-9_.-]+|,[A-Za-z0-9_.-]+="
                              "[A-Za-z0-9_.-]+)*$",
                              value, G_REGEX_DOLLAR_ENDONLY, 0)) {
        return g_strdup("write a QEMU CPU model, with changes if any: max,+feature,-feature");
    }
    return take(field, g_strdup(value));
}

static char *
set_machine(const GwKeySpec *spec, const char *value, void *field)
{
    if (strlen(value) > 64 || !g_regex_match_simple("^(q35|pc|pc-(q35|i440fx)-[A-Za-z0-9_.-]+)$",
                                                    value, G_REGEX_DOLLAR_ENDONLY, 0)) {
        return g_strdup("use q35, pc or a version of them such as pc-q35-10.0");
    }
    return take(field, g_strdup(value));
}

static char *
set_mac(const GwKeySpec *spec, const char *value, void *field)
{
    if (!g_regex_match_simple("^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$", value,
                              G_REGEX_DOLLAR_ENDONLY, 0) ||
        strcmp(value, "00:00:00:00:00:00") == 0) {
        return g_strdup("write a unicast address such as 52:54:00:12:34:56");
    }
    return take(field, g_ascii_strdown(value, -1));
}

static char *
set_bridge(const GwKeySpec *spec, const char *value, void *field)
{
    if (!g_regex_match_simple("^[A-Za-z0-9_.-]{1,15}$", value, G_REGEX_DOLLAR_ENDONLY, 0)) {
        return g_strdup("write the name of a bridge interface such as br0");
    }
    return take(field, g_strdup(value));
}

static char *
set_uuid(const GwKeySpec *spec, const char *value, void *field)
{
    if (!g_uuid_string_is_valid(value)) {
        return g_strdup("write a UUID, or leave the key out to get one");
    }
    return take(field, g_ascii_strdown(value, -1));
}

static char *
set_arguments(const GwKeySpec *spec, const char *value, void *field)
{
    char ***arguments = field;
    g_auto(GStrv) parsed = NULL;
    g_autoptr(GError) error = NULL;

    if (!g_shell_parse_argv(value, NULL, &parsed, &error)) {
        bool quoting = g_error_matches(error, G_SHELL_ERROR, G_SHELL_ERROR_BAD_QUOTING);
        return g_strdup_printf("write arguments as for a shell: %s",
                               quoting ? "a quote is not closed" : "there are none");
    }
    g_strfreev(*arguments);
    *arguments = g_steal_pointer(&parsed);
    return NULL;
}

static char *
get_arguments(const void *field)
{
    char *const *arguments = *(char **const *)field;
    g_autoptr(GString) out = g_string_new(NULL);

    for (; *arguments; arguments++) {
        g_autofree char *quoted = g_shell_quote(*arguments);
        g_string_append_printf(out, "%s%s", out->len ? " " : "", quoted);
    }
    return out->len ? g_string_free(g_steal_pointer(&out), FALSE) : NULL;
}

static const GwValueType type_text = {set_text, get_string};
static const GwValueType type_name = {set_name, get_string};
static const GwValueType type_path = {set_path, get_string};
static const GwValueType type_choice = {set_choice, get_string};
static const GwValueType type_size = {set_size, get_size};
static const GwValueType type_count = {set_count, get_count};
static const GwValueType type_bool = {set_bool, get_bool};
static const GwValueType type_cpu = {set_cpu, get_string};
static const GwValueType type_machine = {set_machine, get_string};
static const GwValueType type_mac = {set_mac, get_string};
static const GwValueType type_bridge = {set_bridge, get_string};
static const GwValueType type_uuid = {set_uuid, get_string};
static const GwValueType type_arguments = {set_arguments, get_arguments};

#define VM(field)   offsetof(GwDefinition, field)
#define DISK(field) offsetof(GwDisk, field)
#define NIC(field)  offsetof(GwNic, field)

const GwKeySpec gw_vm_keys[] = {
    {"name", &type_name, VM(name), .needed = true},
    {"memory", &type_size, VM(memory_bytes), .needed = true},
    {"vcpus", &type_count, VM(vcpus), .fallback = "1", .max = 255},
    {"cpu", &type_cpu, VM(cpu)},
    {"machine", &type_machine, VM(machine), .fallback = "q35"},
    {"firmware", &type_choice, VM(firmware), .fallback = "bios", .choices = "bios, uefi"},
    {"accel", &type_choice, VM(accel), .fallback = "auto", .choices = "auto, kvm, tcg"},
    {"serial-ports", &type_count, VM(serial_ports), .fallback = "1", .max = GW_MAX_SERIAL_PORTS},
    {"balloon", &type_choice, VM(balloon), .fallback = "hint", .choices = "hint, plain, none"},
    {"uuid", &type_uuid, VM(uuid)},
    {0},
};

const GwKeySpec gw_boot_keys[] = {
    {"kernel", &type_path, VM(kernel), .needed = true},
    {"initrd", &type_path, VM(initrd)},
    {"append", &type_text, VM(append)},
    {0},
};

const GwKeySpec gw_disk_keys[] = {
    {"path", &type_path, DISK(path), .needed = true},
    {"format", &type_choice, DISK(format), .needed = true, .choices = "qcow2, raw"},
    {"bus", &type_choice, DISK(bus), .fallback = "virtio", .choices = "virtio, scsi, ide"},
    {"cache", &type_choice, DISK(cache), .fallback = "none", .choices = "none, writeback"},
    {"read-only", &type_bool, DISK(read_only), .fallback = "false"},
    {0},
};

const GwKeySpec gw_nic_keys[] = {
    {"mode", &type_choice, NIC(mode), .needed = true, .choices = "bridge, user"},
    {"bridge", &type_bridge, NIC(bridge)},
    {"mac", &type_mac, NIC(mac)},
    {"model", &type_choice, NIC(model), .fallback = "virtio", .choices = "virtio, e1000"},
    {0},
};

const GwKeySpec gw_extra_keys[] = {
    {"arguments", &type_arguments, VM(extra), .needed = true},
    {0},
};

char *
gw_key_names(const GwKeySpec *keys)
{
    g_autoptr(GString) out = g_string_new(NULL);

    for (; keys->key; keys++) {
        g_string_append_printf(out, "%s%s", out->len ? ", " : "", keys->key);
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}
