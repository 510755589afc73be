// SPDX-License-Identifier: Apache-2.0
/*
 * Reads definitions: scan, values, then what the parts mean together. Owns only what it returns;
 * pure; any thread. Limits: GW_DEFINITION_MAX_BYTES of text, GW_MAX_DISKS, GW_MAX_NICS. All
 * mistakes are collected and told at once; a definition with a mistake is never returned.
 */
#include "vm/definition.h"

#include "base/units.h"
#include "vm/definition_keys.h"
#include "vm/keyfile.h"

#include <string.h>

typedef struct Parser {
    GwMistakes *mistakes;
    GwDefinition *definition;
    GPtrArray *groups;      /* of GwKeyGroup */
    GPtrArray *disk_groups; /* borrowed, one per disk, in the disks' order */
    GPtrArray *nic_groups;  /* the same for NICs */
} Parser;

static void
disk_free(void *data)
{
    GwDisk *disk = data;

    g_free(disk->name);
    g_free(disk->path);
    g_free(disk->format);
    g_free(disk->bus);
    g_free(disk->cache);
    g_free(disk);
}

static void
nic_free(void *data)
{
    GwNic *nic = data;

    g_free(nic->name);
    g_free(nic->mode);
    g_free(nic->bridge);
    g_free(nic->mac);
    g_free(nic->model);
    g_free(nic);
}

void
gw_definition_free(GwDefinition *definition)
{
    if (!definition) {
        return;
    }
    g_free(definition->name);
    g_free(definition->cpu);
    g_free(definition->machine);
    g_free(definition->firmware);
    g_free(definition->accel);
    g_free(definition->balloon);
    g_free(definition->uuid);
    g_free(definition->kernel);
    g_free(definition->initrd);
    g_free(definition->append);
    g_ptr_array_unref(definition->disks);
    g_ptr_array_unref(definition->nics);
    g_strfreev(definition->extra);
    g_free(definition);
}

static GwDefinition *
definition_new(void)
{
    GwDefinition *definition = g_new0(GwDefinition, 1);

    definition->disks = g_ptr_array_new_with_free_func(disk_free);
    definition->nics = g_ptr_array_new_with_free_func(nic_free);
    definition->extra = g_new0(char *, 1);
    return definition;
}

static unsigned
line_of(const GwKeyGroup *group, const char *key)
{
    const GwKeyEntry *entry = gw_key_group_find(group, key);

    return entry ? entry->line : group->line;
}

static void
bad_value(Parser *parser, const GwKeyGroup *group, const GwKeyEntry *entry, const char *hint)
{
    g_autofree char *shown = gw_keyfile_shown(entry->value);

    gw_mistakes_add(parser->mistakes, entry->line, "[%s] %s = '%s': %s", group->name, entry->key,
                    shown, hint);
}

static void
set_value(Parser *parser, const GwKeyGroup *group, const GwKeyEntry *entry, const GwKeySpec *spec,
          void *object)
{
    if (entry->value[0] == '\0') {
        bad_value(parser, group, entry, "write a value or leave the key out");
        return;
    }
    g_autofree char *hint = spec->type->set(spec, entry->value, gw_key_field(spec, object));
    if (hint) {
        bad_value(parser, group, entry, hint);
    }
}

/* All keys of @group into @object; absent ones get their fallback. */
static void
read_group(Parser *parser, const GwKeyGroup *group, const GwKeySpec *keys, void *object)
{
    for (const GwKeySpec *spec = keys; spec->key; spec++) {
        const GwKeyEntry *entry = gw_key_group_find(group, spec->key);
        if (entry && entry->value) {
            set_value(parser, group, entry, spec, object);
        } else if (!entry && spec->fallback) {
            g_free(spec->type->set(spec, spec->fallback, gw_key_field(spec, object)));
        } else if (!entry && spec->needed) {
            gw_mistakes_add(parser->mistakes, group->line, "[%s] %s: missing", group->name,
                            spec->key);
        }
    }
    for (unsigned i = 0; i < group->entries->len; i++) {
        const GwKeyEntry *entry = g_ptr_array_index(group->entries, i);
        const GwKeySpec *spec = keys;
        while (spec->key && strcmp(spec->key, entry->key) != 0) {
            spec++;
        }
        if (!spec->key) {
            g_autofree char *names = gw_key_names(keys);
            gw_mistakes_add(parser->mistakes, entry->line, "[%s] %s: unknown key: use one of %s",
                            group->name, entry->key, names);
        }
    }
}

/* The name in "[disk NAME]"; NULL with the mistake noted. Transfer full. */
static char *
name_in(Parser *parser, const GwKeyGroup *group, const char *kind)
{
    g_autofree char *name = g_strdup(group->name + strlen(kind));

    if (!gw_check_name("name", g_strstrip(name), NULL)) {
        gw_mistakes_add(parser->mistakes, group->line, "[%s]: name '%s': %s", group->name, name,
                        GW_NAME_HINT);
        return NULL;
    }
    return g_steal_pointer(&name);
}

static void
read_disk(Parser *parser, const GwKeyGroup *group)
{
    GPtrArray *disks = parser->definition->disks;

    if (disks->len == GW_MAX_DISKS) {
        gw_mistakes_add(parser->mistakes, group->line, "[%s]: a VM has at most %u disks",
                        group->name, GW_MAX_DISKS);
        return;
    }
    GwDisk *disk = g_new0(GwDisk, 1);
    g_ptr_array_add(disks, disk);
    g_ptr_array_add(parser->disk_groups, (void *)group);
    disk->name = name_in(parser, group, "disk ");
    read_group(parser, group, gw_disk_keys, disk);
}

/*
 * A locally administered address out of the names: the same on every host and at every start. 40
 * hashed bits, so that a fleet of 10,000 NICs has a clash with a probability of 1 in 20,000.
 */
static char *
mac_from_names(const char *vm, const char *nic)
{
    g_autofree char *names = g_strdup_printf("%s/%s", vm, nic);
    uint8_t digest[32];
    size_t len = sizeof digest;
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);

    g_checksum_update(checksum, (const unsigned char *)names, -1);
    g_checksum_get_digest(checksum, digest, &len);
    return g_strdup_printf("52:%02x:%02x:%02x:%02x:%02x", digest[0], digest[1], digest[2],
                           digest[3], digest[4]);
}

static void
read_nic(Parser *parser, const GwKeyGroup *group)
{
    GPtrArray *nics = parser->definition->nics;

    if (nics->len == GW_MAX_NICS) {
        gw_mistakes_add(parser->mistakes, group->line, "[%s]: a VM has at most %u NICs",
                        group->name, GW_MAX_NICS);
        return;
    }
    GwNic *nic = g_new0(GwNic, 1);
    g_ptr_array_add(nics, nic);
    g_ptr_array_add(parser->nic_groups, (void *)group);
    nic->name = name_in(parser, group, "nic ");
    read_group(parser, group, gw_nic_keys, nic);
    bool bridged = g_strcmp0(nic->mode, "bridge") == 0;
    if (bridged && !gw_key_group_find(group, "bridge")) {
        gw_mistakes_add(parser->mistakes, group->line,
                        "[%s] bridge: missing: mode = bridge needs the bridge's name", group->name);
    } else if (nic->mode && !bridged && nic->bridge) {
        gw_mistakes_add(parser->mistakes, line_of(group, "bridge"),
                        "[%s] bridge: only with mode = bridge", group->name);
    }
}

static void
read_groups(Parser *parser)
{
    bool have_vm = false;

    for (unsigned i = 0; i < parser->groups->len; i++) {
        const GwKeyGroup *group = g_ptr_array_index(parser->groups, i);
        if (strcmp(group->name, "vm") == 0) {
            have_vm = true;
            read_group(parser, group, gw_vm_keys, parser->definition);
        } else if (strcmp(group->name, "boot") == 0) {
            read_group(parser, group, gw_boot_keys, parser->definition);
        } else if (strcmp(group->name, "extra") == 0) {
            read_group(parser, group, gw_extra_keys, parser->definition);
        } else if (g_str_has_prefix(group->name, "disk ")) {
            read_disk(parser, group);
        } else if (g_str_has_prefix(group->name, "nic ")) {
            read_nic(parser, group);
        } else {
            gw_mistakes_add(parser->mistakes, group->line,
                            "[%s]: unknown group: use one of vm, boot, disk NAME, nic NAME, extra",
                            group->name);
        }
    }
    if (!have_vm) {
        gw_mistakes_add(parser->mistakes, 1, "[vm]: missing");
    }
}

/* IDE: q35 has six ports, pc two with two units each. */
static unsigned
max_ide_disks(const GwDefinition *definition)
{
    return strstr(definition->machine, "q35") ? 6 : 4;
}

static void
check_disks(Parser *parser)
{
    GPtrArray *disks = parser->definition->disks;
    unsigned ide = 0;

    for (unsigned i = 0; i < disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(disks, i);
        const GwKeyGroup *group = g_ptr_array_index(parser->disk_groups, i);
        for (unsigned j = 0; j < i; j++) {
            const GwDisk *other = g_ptr_array_index(disks, j);
            const GwKeyGroup *other_group = g_ptr_array_index(parser->disk_groups, j);
            if (disk->name && g_strcmp0(disk->name, other->name) == 0) {
                gw_mistakes_add(parser->mistakes, group->line,
                                "[%s]: this name was given in line %u", group->name,
                                other_group->line);
            }
            if (disk->path && g_strcmp0(disk->path, other->path) == 0) {
                gw_mistakes_add(parser->mistakes, line_of(group, "path"),
                                "[%s] path: [%s] has this file already", group->name,
                                other_group->name);
            }
        }
        ide += g_strcmp0(disk->bus, "ide") == 0;
        if (parser->definition->machine && g_strcmp0(disk->bus, "ide") == 0 &&
            ide > max_ide_disks(parser->definition)) {
            gw_mistakes_add(parser->mistakes, line_of(group, "bus"),
                            "[%s] bus = 'ide': machine %s has at most %u of them: use virtio or "
                            "scsi",
                            group->name, parser->definition->machine,
                            max_ide_disks(parser->definition));
        }
    }
}

static void
check_nics(Parser *parser)
{
    GPtrArray *nics = parser->definition->nics;

    for (unsigned i = 0; i < nics->len; i++) {
        GwNic *nic = g_ptr_array_index(nics, i);
        const GwKeyGroup *group = g_ptr_array_index(parser->nic_groups, i);
        if (!nic->mac && nic->name && parser->definition->name) {
            nic->mac = mac_from_names(parser->definition->name, nic->name);
        }
        for (unsigned j = 0; j < i; j++) {
            const GwNic *other = g_ptr_array_index(nics, j);
            const GwKeyGroup *other_group = g_ptr_array_index(parser->nic_groups, j);
            if (nic->name && g_strcmp0(nic->name, other->name) == 0) {
                gw_mistakes_add(parser->mistakes, group->line,
                                "[%s]: this name was given in line %u", group->name,
                                other_group->line);
            } else if (nic->mac && g_strcmp0(nic->mac, other->mac) == 0) {
                gw_mistakes_add(parser->mistakes, line_of(group, "mac"),
                                "[%s] mac: [%s] has this address already", group->name,
                                other_group->name);
            }
        }
    }
}

static bool
check_size(size_t len, const char *source, GError **error)
{
    if (len > GW_DEFINITION_MAX_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "%s: a definition has at most %u bytes, this has %zu", source,
                    GW_DEFINITION_MAX_BYTES, len);
        return false;
    }
    return true;
}

GwDefinition *
gw_definition_parse(const char *text, size_t len, const char *source, GError **error)
{
    if (!check_size(len, source, error)) {
        return NULL;
    }
    g_autoptr(GwMistakes) mistakes = gw_mistakes_new(source);
    g_autoptr(GwDefinition) definition = definition_new();
    g_autoptr(GPtrArray) groups = gw_keyfile_scan(text, len, mistakes);
    g_autoptr(GPtrArray) disk_groups = g_ptr_array_new();
    g_autoptr(GPtrArray) nic_groups = g_ptr_array_new();
    Parser parser = {
        .mistakes = mistakes,
        .definition = definition,
        .groups = groups,
        .disk_groups = disk_groups,
        .nic_groups = nic_groups,
    };

    read_groups(&parser);
    check_disks(&parser);
    check_nics(&parser);
    if (!gw_mistakes_none(mistakes, error)) {
        return NULL;
    }
    /* Quoting makes the normalised text longer: it has to be readable again, too. */
    g_autofree char *normalised = gw_definition_text(definition);
    if (!check_size(strlen(normalised), source, error)) {
        return NULL;
    }
    return g_steal_pointer(&definition);
}
