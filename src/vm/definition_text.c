// SPDX-License-Identifier: Apache-2.0
/*
 * Writes definitions: as a key file, as JSON, and what an operator should know of one. Owns only
 * what it returns; pure; any thread; cannot fail.
 */
#include "vm/definition.h"
#include "vm/definition_keys.h"
#include "vm/keyfile.h"

#include <string.h>

static void
put_group(GString *out, const char *kind, const char *name, const GwKeySpec *keys,
          const void *object)
{
    g_string_append_printf(out, "%s[%s%s%s]\n", out->len ? "\n" : "", kind, name ? " " : "",
                           name ? name : "");
    for (; keys->key; keys++) {
        g_autofree char *value = keys->type->get(gw_key_field(keys, object));
        if (value) {
            gw_keyfile_put(out, keys->key, value);
        }
    }
}

char *
gw_definition_text(const GwDefinition *definition)
{
    g_autoptr(GString) out = g_string_new(NULL);

    put_group(out, "vm", NULL, gw_vm_keys, definition);
    if (definition->kernel) {
        put_group(out, "boot", NULL, gw_boot_keys, definition);
    }
    for (unsigned i = 0; i < definition->disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(definition->disks, i);
        put_group(out, "disk", disk->name, gw_disk_keys, disk);
    }
    for (unsigned i = 0; i < definition->nics->len; i++) {
        const GwNic *nic = g_ptr_array_index(definition->nics, i);
        put_group(out, "nic", nic->name, gw_nic_keys, nic);
    }
    if (definition->extra[0]) {
        put_group(out, "extra", NULL, gw_extra_keys, definition);
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

static json_t *
disk_json(const GwDisk *disk)
{
    json_t *object = json_object();

    gw_json_set_str(object, "name", disk->name);
    gw_json_set_str(object, "path", disk->path);
    gw_json_set_str(object, "format", disk->format);
    gw_json_set_str(object, "bus", disk->bus);
    gw_json_set_str(object, "cache", disk->cache);
    gw_json_set_bool(object, "read_only", disk->read_only);
    return object;
}

static json_t *
nic_json(const GwNic *nic)
{
    json_t *object = json_object();

    gw_json_set_str(object, "name", nic->name);
    gw_json_set_str(object, "mode", nic->mode);
    gw_json_set_str(object, "bridge", nic->bridge);
    gw_json_set_str(object, "mac", nic->mac);
    gw_json_set_str(object, "model", nic->model);
    return object;
}

json_t *
gw_definition_json(const GwDefinition *definition)
{
    json_t *object = json_object();
    json_t *disks = json_array();
    json_t *nics = json_array();
    json_t *extra = json_array();

    gw_json_set_str(object, "name", definition->name);
    gw_json_set_int(object, "memory_bytes", (int64_t)definition->memory_bytes);
    gw_json_set_int(object, "vcpus", definition->vcpus);
    gw_json_set_str(object, "cpu", definition->cpu);
    gw_json_set_str(object, "machine", definition->machine);
    gw_json_set_str(object, "firmware", definition->firmware);
    gw_json_set_str(object, "accel", definition->accel);
    gw_json_set_int(object, "serial_ports", definition->serial_ports);
    gw_json_set_str(object, "balloon", definition->balloon);
    gw_json_set_str(object, "uuid", definition->uuid);
    gw_json_set_str(object, "kernel", definition->kernel);
    gw_json_set_str(object, "initrd", definition->initrd);
    gw_json_set_str(object, "append", definition->append);
    for (unsigned i = 0; i < definition->disks->len; i++) {
        json_array_append_new(disks, disk_json(g_ptr_array_index(definition->disks, i)));
    }
    for (unsigned i = 0; i < definition->nics->len; i++) {
        json_array_append_new(nics, nic_json(g_ptr_array_index(definition->nics, i)));
    }
    for (char **argument = definition->extra; *argument; argument++) {
        json_array_append_new(extra, json_string(*argument));
    }
    json_object_set_new(object, "disks", disks);
    json_object_set_new(object, "nics", nics);
    json_object_set_new(object, "extra", extra);
    return object;
}

GPtrArray *
gw_definition_warnings(const GwDefinition *definition)
{
    g_autoptr(GPtrArray) out = g_ptr_array_new_with_free_func(g_free);

    for (unsigned i = 0; i < definition->disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(definition->disks, i);
        if (strcmp(disk->cache, "writeback") == 0 && !disk->read_only) {
            g_ptr_array_add(
                out, g_strdup_printf("disk %s: cache = writeback: after a move over shared storage "
                                     "the other host may see old blocks; use none there",
                                     disk->name));
        }
    }
    for (unsigned i = 0; i < definition->nics->len; i++) {
        const GwNic *nic = g_ptr_array_index(definition->nics, i);
        if (strcmp(nic->mode, "user") == 0) {
            g_ptr_array_add(out, g_strdup_printf("nic %s: mode = user: connections do not survive "
                                                 "a move; use bridge for servers",
                                                 nic->name));
        }
    }
    if (definition->extra[0]) {
        g_ptr_array_add(out, g_strdup("extra arguments go to QEMU unchecked: they must be the same "
                                      "and valid on every host"));
    }
    return g_steal_pointer(&out);
}
