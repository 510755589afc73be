// SPDX-License-Identifier: Apache-2.0
/*
 * Reading, checking, comparing and explaining the configuration, all from the table of keys. Owns
 * nothing beyond its results; main context. A file is at most GW_CONFIG_MAX_FILE_BYTES. Fails with
 * GW_ERROR_INVALID and one line per mistake, GW_ERROR_IO for a file that cannot be read.
 */
#include "daemon/config.h"
#include "base/fd.h"
#include "base/networks.h"
#include "base/units.h"
#include "daemon/config_keys.h"
#include "vm/keyfile.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

/* --- members ---------------------------------------------------------------------------------- */

static bool
is_text(const GwConfigKey *key)
{
    return key->kind <= GW_CONFIG_CHOICE;
}

static char **
text_member(const GwConfigKey *key, const GwConfig *config)
{
    return (char **)((char *)config + key->offset);
}

static int64_t *
number_member(const GwConfigKey *key, const GwConfig *config)
{
    return (int64_t *)((char *)config + key->offset);
}

static GwConfigRange *
range_member(const GwConfigKey *key, const GwConfig *config)
{
    return (GwConfigRange *)((char *)config + key->offset);
}

void
gw_config_free(GwConfig *config)
{
    if (!config) {
        return;
    }
    for (size_t i = 0; i < gw_config_n_keys; i++) {
        if (is_text(&gw_config_keys[i])) {
            g_free(*text_member(&gw_config_keys[i], config));
        }
    }
    g_free(config);
}

static bool
members_equal(const GwConfigKey *key, const GwConfig *a, const GwConfig *b)
{
    if (is_text(key)) {
        return g_str_equal(*text_member(key, a), *text_member(key, b));
    }
    if (key->kind == GW_CONFIG_PORTS) {
        const GwConfigRange *left = range_member(key, a);
        const GwConfigRange *right = range_member(key, b);
        return left->min == right->min && left->max == right->max;
    }
    return *number_member(key, a) == *number_member(key, b);
}

void
gw_config_diff(const GwConfig *before, const GwConfig *after, GwConfigDiffFn callback, void *data)
{
    for (size_t i = 0; i < gw_config_n_keys; i++) {
        const GwConfigKey *key = &gw_config_keys[i];
        if (!members_equal(key, before, after)) {
            callback(key->group, key->key, key->reloads, data);
        }
    }
}

/* --- values ----------------------------------------------------------------------------------- */

/* In the largest unit that needs no fraction, as an operator would write it. */
static char *
format_duration(int64_t ms)
{
    static const struct {
        int64_t ms;
        const char *name;
    } units[] = {{3600000, "h"}, {60000, "min"}, {1000, "s"}, {1, "ms"}};
    size_t i = 0;

    while (ms % units[i].ms) {
        i++;
    }
    return g_strdup_printf("%" G_GINT64_FORMAT " %s", ms / units[i].ms, units[i].name);
}

static char *
format_number(const GwConfigKey *key, int64_t value)
{
    if (key->kind == GW_CONFIG_DURATION) {
        return format_duration(value);
    }
    if (key->kind == GW_CONFIG_SIZE) {
        return gw_format_size((uint64_t)value);
    }
    return g_strdup_printf("%" G_GINT64_FORMAT, value);
}

/* What may stand behind the "=", for messages. */
static char *
allowed_values(const GwConfigKey *key)
{
    static const char *const kinds[] = {
        [GW_CONFIG_TEXT] = "text",
        [GW_CONFIG_NAME] = "1 to 63 of a-z, 0-9, '-', '_' and '.'",
        [GW_CONFIG_ADDRESS] = "an IP address of this host, \"::\" or \"0.0.0.0\"",
        [GW_CONFIG_PATH] = "an absolute path",
        [GW_CONFIG_NETWORKS] = "networks like 10.77.0.0/24, fd00:77::/64",
        [GW_CONFIG_CHOICE] = "one of",
        [GW_CONFIG_NUMBER] = "a whole number",
        [GW_CONFIG_DURATION] = "a duration (like 300 ms, 5 s, 2 min)",
        [GW_CONFIG_SIZE] = "a size (like 512 MiB, 1 GiB)",
        [GW_CONFIG_PORTS] = "two ports as FIRST-LAST",
    };

    if (key->kind == GW_CONFIG_CHOICE) {
        g_autofree char *list = g_strjoinv(", ", (char **)key->choices);
        return g_strdup_printf("%s %s", kinds[key->kind], list);
    }
    if (key->kind == GW_CONFIG_TEXT) {
        return g_strdup_printf("%d to %d bytes of %s without blanks", (int)key->min, (int)key->max,
                               kinds[key->kind]);
    }
    if (is_text(key)) {
        return g_strdup(kinds[key->kind]);
    }
    g_autofree char *min = format_number(key, key->min);
    g_autofree char *max = format_number(key, key->max);
    return g_strdup_printf("%s from %s to %s", kinds[key->kind], min, max);
}

static bool
is_in_range(const GwConfigKey *key, int64_t value)
{
    return value >= key->min && value <= key->max;
}

static bool
networks_are_allowed(const char *text, GError **error)
{
    g_autoptr(GwNetworks) networks = gw_networks_parse(text, error);

    return networks != NULL;
}

static bool
text_is_allowed(const GwConfigKey *key, const char *text)
{
    struct in6_addr unused;
    const size_t len = strlen(text);

    switch (key->kind) {
    case GW_CONFIG_NAME:
        return len == 0 || gw_check_name(key->key, text, NULL);
    case GW_CONFIG_ADDRESS:
        return inet_pton(AF_INET, text, &unused) == 1 || inet_pton(AF_INET6, text, &unused) == 1;
    case GW_CONFIG_PATH:
        return text[0] == '/' && len < 4000;
    case GW_CONFIG_NETWORKS:
        return networks_are_allowed(text, NULL);
    case GW_CONFIG_CHOICE:
        return g_strv_contains(key->choices, text);
    case GW_CONFIG_TEXT:
        return is_in_range(key, (int64_t)len) && !strpbrk(text, " \t");
    case GW_CONFIG_NUMBER:
    case GW_CONFIG_DURATION:
    case GW_CONFIG_SIZE:
    case GW_CONFIG_PORTS:
        break;
    }
    return false;
}

static bool
parse_number(const GwConfigKey *key, const char *text, int64_t *out)
{
    int64_t value;
    uint64_t size;

    if (key->kind == GW_CONFIG_DURATION) {
        if (!gw_parse_duration(text, &value, NULL)) {
            return false;
        }
        value /= 1000;
    } else if (key->kind == GW_CONFIG_SIZE) {
        if (!gw_parse_size(text, &size, NULL)) {
            return false;
        }
        value = (int64_t)size;
    } else if (!g_ascii_string_to_signed(text, 10, key->min, key->max, &value, NULL)) {
        return false;
    }
    if (!is_in_range(key, value)) {
        return false;
    }
    *out = value;
    return true;
}

static bool
parse_range(const GwConfigKey *key, const char *text, GwConfigRange *out)
{
    unsigned first;
    unsigned last;
    int used = 0;

    if (sscanf(text, "%5u - %5u%n", &first, &last, &used) != 2 || text[used] != '\0' ||
        !g_ascii_isdigit(text[0]) || !is_in_range(key, first) || !is_in_range(key, last) ||
        first > last) {
        return false;
    }
    *out = (GwConfigRange){.min = (uint16_t)first, .max = (uint16_t)last};
    return true;
}

static bool
set_value(const GwConfigKey *key, const char *text, GwConfig *config)
{
    if (key->kind == GW_CONFIG_PORTS) {
        return parse_range(key, text, range_member(key, config));
    }
    if (!is_text(key)) {
        return parse_number(key, text, number_member(key, config));
    }
    if (!text_is_allowed(key, text)) {
        return false;
    }
    g_free(*text_member(key, config));
    *text_member(key, config) = g_strdup(text);
    return true;
}

/* --- files ------------------------------------------------------------------------------------ */

static const GwConfigKey *
find_key(const char *group, const char *name)
{
    for (size_t i = 0; i < gw_config_n_keys; i++) {
        const GwConfigKey *key = &gw_config_keys[i];
        if (g_str_equal(key->group, group) && (!name || g_str_equal(key->key, name))) {
            return key;
        }
    }
    return NULL;
}

/* The groups, or the keys of @group, as "a, b, c". */
static char *
list_names(const char *group)
{
    g_autoptr(GString) list = g_string_new(NULL);
    const char *last = "";

    for (size_t i = 0; i < gw_config_n_keys; i++) {
        const GwConfigKey *key = &gw_config_keys[i];
        const char *name = group ? key->key : key->group;
        if ((!group || g_str_equal(key->group, group)) && !g_str_equal(name, last)) {
            g_string_append_printf(list, "%s%s", list->len ? ", " : "", name);
            last = name;
        }
    }
    return g_string_free(g_steal_pointer(&list), FALSE);
}

static void
take_entry(const GwKeyGroup *group, const GwKeyEntry *entry, GwConfig *config, GwMistakes *mistakes)
{
    const GwConfigKey *key = find_key(group->name, entry->key);

    if (!key) {
        g_autofree char *names = list_names(group->name);
        gw_mistakes_add(mistakes, entry->line, "[%s] %s: there is no such key; there are: %s",
                        group->name, entry->key, names);
    } else if (!set_value(key, entry->value, config)) {
        g_autofree char *shown = gw_keyfile_shown(entry->value);
        g_autofree char *allowed = allowed_values(key);
        g_autoptr(GError) why = NULL; /* which of several it is */
        (void)!(key->kind != GW_CONFIG_NETWORKS || networks_are_allowed(entry->value, &why));
        gw_mistakes_add(mistakes, entry->line, "[%s] %s: '%s' is not allowed: %s%swrite %s",
                        group->name, entry->key, shown, why ? why->message : "", why ? "; " : "",
                        allowed);
    }
}

static void
take_group(const GwKeyGroup *group, GwConfig *config, GwMistakes *mistakes)
{
    if (!find_key(group->name, NULL)) {
        g_autofree char *names = list_names(NULL);
        gw_mistakes_add(mistakes, group->line, "[%s]: there is no such group; there are: %s",
                        group->name, names);
        return;
    }
    for (unsigned i = 0; i < group->entries->len; i++) {
        take_entry(group, g_ptr_array_index(group->entries, i), config, mistakes);
    }
}

/* Takes one file's values; its mistakes are appended to @problems. */
static void
take_file(const char *path, GwConfig *config, GString *problems)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwMistakes) mistakes = gw_mistakes_new(path);
    size_t len = 0;
    g_autofree char *text = gw_file_read(path, GW_CONFIG_MAX_FILE_BYTES, &len, &error);

    if (text) {
        g_autoptr(GPtrArray) groups = gw_keyfile_scan(text, len, mistakes);
        for (unsigned i = 0; i < groups->len; i++) {
            take_group(g_ptr_array_index(groups, i), config, mistakes);
        }
    }
    if (!text || !gw_mistakes_none(mistakes, &error)) {
        g_string_append_printf(problems, "%s%s", problems->len ? "\n" : "", error->message);
    }
}

static int
compare_paths(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* conf.d/NAME.conf beside @path, in the order of the names; hidden files are left out. */
static GPtrArray *
list_parts(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *parts_dir = g_build_filename(folder, "conf.d", NULL);
    g_autoptr(GDir) dir = g_dir_open(parts_dir, 0, NULL);
    GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        if (g_str_has_suffix(name, ".conf") && name[0] != '.') {
            g_ptr_array_add(paths, g_build_filename(parts_dir, name, NULL));
        }
    }
    g_ptr_array_sort(paths, compare_paths);
    return paths;
}

/* --- what needs more than one key or the machine ---------------------------------------------- */

static void
complete_host_name(GwConfig *config, GString *problems)
{
    g_autoptr(GError) error = NULL;

    if (config->host_name[0]) {
        return;
    }
    g_auto(GStrv) labels = g_strsplit(g_get_host_name(), ".", 2);
    g_free(config->host_name);
    config->host_name = g_ascii_strdown(labels[0] ? labels[0] : "", -1);
    if (!gw_check_name("the machine's host name", config->host_name, &error)) {
        g_string_append_printf(problems, "%s%s; set [host] name", problems->len ? "\n" : "",
                               error->message);
    }
}

static void
complete_socket(GwConfig *config)
{
    if (config->api_socket[0] != '/') {
        char *path = g_build_filename(config->run_dir, config->api_socket, NULL);
        g_free(config->api_socket);
        config->api_socket = path;
    }
}

static GwConfig *
defaults(void)
{
    GwConfig *config = g_new0(GwConfig, 1);

    for (size_t i = 0; i < gw_config_n_keys; i++) {
        bool ok = set_value(&gw_config_keys[i], gw_config_keys[i].default_text, config);
        /* The table is ours; test-config goes through all of it. */
        g_assert(ok);
    }
    return config;
}

GwConfig *
gw_config_load(const char *path, bool may_be_absent, GError **error)
{
    g_autoptr(GwConfig) config = defaults();
    g_autoptr(GString) problems = g_string_new(NULL);
    g_autoptr(GPtrArray) parts = list_parts(path);

    if (!may_be_absent || g_file_test(path, G_FILE_TEST_EXISTS)) {
        take_file(path, config, problems);
    }
    for (unsigned i = 0; i < parts->len; i++) {
        take_file(g_ptr_array_index(parts, i), config, problems);
    }
    complete_host_name(config, problems);
    complete_socket(config);
    if (problems->len) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID, problems->str);
        return NULL;
    }
    return g_steal_pointer(&config);
}

/* --- the sample ------------------------------------------------------------------------------- */

static void
append_comment(GString *out, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line; line++) {
        g_string_append_printf(out, "# %s\n", *line);
    }
}

char *
gw_config_sample(void)
{
    GString *out = g_string_new(
        "# godwitd.conf: every key with its default; godwitd.conf(5) tells more.\n"
        "#\n"
        "# Files conf.d/*.conf beside this one are read after it, in the order of their names; a\n"
        "# later value replaces an earlier one. \"godwitd --check-config\" tells all mistakes.\n"
        "# A change needs a restart of godwitd, which guests do not notice, unless it says\n"
        "# \"reloads\": then \"systemctl reload godwitd\" (SIGHUP) is enough.\n");
    const char *group = "";

    for (size_t i = 0; i < gw_config_n_keys; i++) {
        const GwConfigKey *key = &gw_config_keys[i];
        if (!g_str_equal(key->group, group)) {
            g_string_append_printf(out, "\n[%s]\n", key->group);
            group = key->group;
        } else {
            g_string_append_c(out, '\n');
        }
        append_comment(out, key->help);
        if (!is_text(key) || key->kind == GW_CONFIG_CHOICE) {
            g_autofree char *allowed = allowed_values(key);
            g_string_append_printf(out, "# Allowed: %s.\n", allowed);
        }
        if (key->reloads) {
            g_string_append(out, "# Reloads.\n");
        }
        g_string_append_printf(out, "#%s =%s%s\n", key->key, key->default_text[0] ? " " : "",
                               key->default_text);
    }
    return g_string_free(out, FALSE);
}
