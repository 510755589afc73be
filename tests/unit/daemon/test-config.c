// SPDX-License-Identifier: Apache-2.0
/* The configuration: values, mistakes, conf.d, and that sample and manual tell what the table has.
 */
#include "base/fd.h"
#include "daemon/config.h"
#include "daemon/config_keys.h"

#include <glib/gstdio.h>
#include <string.h>

static const char *source_root;

typedef struct Fixture {
    char *dir;
    char *path;
    char *parts;
} Fixture;

static void
put(const char *path, const char *text)
{
    g_assert_true(gw_file_write(path, text, strlen(text), 0600, NULL));
}

static void
put_part(Fixture *fixture, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(fixture->parts, name, NULL);

    put(path, text);
}

static void
setup(Fixture *fixture, const void *data)
{
    fixture->dir = g_dir_make_tmp("godwit-config-XXXXXX", NULL);
    fixture->path = g_build_filename(fixture->dir, "godwitd.conf", NULL);
    fixture->parts = g_build_filename(fixture->dir, "conf.d", NULL);
    g_assert_cmpint(g_mkdir(fixture->parts, 0700), ==, 0);
}

static void
remove_dir(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    g_rmdir(path);
}

static void
teardown(Fixture *fixture, const void *data)
{
    remove_dir(fixture->parts);
    remove_dir(fixture->dir);
    g_free(fixture->dir);
    g_free(fixture->path);
    g_free(fixture->parts);
}

static GwConfig *
load(Fixture *fixture, const char *text)
{
    g_autoptr(GError) error = NULL;

    put(fixture->path, text);
    GwConfig *config = gw_config_load(fixture->path, false, &error);
    g_assert_no_error(error);
    return config;
}

/* --- values ----------------------------------------------------------------------------------- */

static void
test_defaults(Fixture *fixture, const void *data)
{
    g_autoptr(GwConfig) config = load(fixture, "[host]\nname = alpha\n");

    g_assert_cmpstr(config->host_name, ==, "alpha");
    g_assert_cmpstr(config->state_dir, ==, "/var/lib/godwit");
    g_assert_cmpstr(config->run_dir, ==, "/run/godwit");
    g_assert_cmpstr(config->api_socket, ==, "/run/godwit/godwitd.sock");
    g_assert_cmpstr(config->api_group, ==, "godwit");
    g_assert_cmpstr(config->peer_bind, ==, "::");
    g_assert_cmpint(config->peer_port, ==, 7790);
    g_assert_cmpint(config->connect_timeout_ms, ==, 5000);
    g_assert_cmpint(config->session_timeout_ms, ==, 120000);
    g_assert_cmpstr(config->qemu_user, ==, "godwit-qemu");
    g_assert_cmpstr(config->accel, ==, "auto");
    g_assert_cmpint(config->precopy_timeout_ms, ==, 3600000);
    g_assert_cmpint(config->downtime_limit_ms, ==, 300);
    g_assert_cmpint(config->max_bandwidth, ==, 0);
    g_assert_cmpint(config->direct_ports.min, ==, 49152);
    g_assert_cmpint(config->direct_ports.max, ==, 49215);
    g_assert_cmpstr(config->plain_networks, ==, "");
    g_assert_cmpstr(config->log_level, ==, "info");
}

static void
test_values(Fixture *fixture, const void *data)
{
    g_autoptr(GwConfig) config =
        load(fixture, "# all kinds\n"
                      "[host]\nname=beta-2.example\nrun-dir = /tmp/run\napi-socket = /tmp/x.sock\n"
                      "api-group =\n"
                      "[peer]\nbind = 192.0.2.1\nport = 65535\nconnect-timeout = 100ms\n"
                      "[qemu]\nuser =\naccel = tcg\n"
                      "[migration]\nmax-bandwidth = 100 MiB\ndirect-ports = 5000 - 5000\n"
                      "history = 1\nplain-networks = 10.77.0.0/24, fd00:77::/64 192.0.2.7\n"
                      "[log]\nlevel = debug\n");

    g_assert_cmpstr(config->host_name, ==, "beta-2.example");
    g_assert_cmpstr(config->api_socket, ==, "/tmp/x.sock");
    g_assert_cmpstr(config->api_group, ==, "");
    g_assert_cmpstr(config->peer_bind, ==, "192.0.2.1");
    g_assert_cmpint(config->peer_port, ==, 65535);
    g_assert_cmpint(config->connect_timeout_ms, ==, 100);
    g_assert_cmpstr(config->qemu_user, ==, "");
    g_assert_cmpstr(config->accel, ==, "tcg");
    g_assert_cmpint(config->max_bandwidth, ==, 100 << 20);
    g_assert_cmpint(config->direct_ports.min, ==, 5000);
    g_assert_cmpint(config->direct_ports.max, ==, 5000);
    g_assert_cmpint(config->history, ==, 1);
    g_assert_cmpstr(config->plain_networks, ==, "10.77.0.0/24, fd00:77::/64 192.0.2.7");
    g_assert_cmpstr(config->log_level, ==, "debug");
}

static void
test_host_name_of_the_machine(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;

    put(fixture->path, "");
    g_autoptr(GwConfig) config = gw_config_load(fixture->path, false, &error);
    if (config) {
        g_assert_true(g_ascii_strncasecmp(config->host_name, g_get_host_name(),
                                          strlen(config->host_name)) == 0);
        g_assert_cmpuint(strlen(config->host_name), >, 0);
        g_assert_null(strchr(config->host_name, '.'));
    } else {
        /* A machine whose name cannot be used: said with the remedy. */
        g_assert_nonnull(strstr(error->message, "set [host] name"));
    }
}

/* --- files ------------------------------------------------------------------------------------ */

static void
test_parts_in_order(Fixture *fixture, const void *data)
{
    put_part(fixture, "20-late.conf", "[peer]\nport = 2000\n");
    put_part(fixture, "10-early.conf", "[peer]\nport = 1000\n[qemu]\naccel = kvm\n");
    put_part(fixture, "30-ignored.bak", "[peer]\nport = 3000\n");
    put_part(fixture, ".40-hidden.conf", "[peer]\nport = 4000\n");
    g_autoptr(GwConfig) config =
        load(fixture, "[host]\nname = alpha\n[peer]\nport = 1\n[qemu]\naccel = tcg\n");
    g_assert_cmpint(config->peer_port, ==, 2000);
    g_assert_cmpstr(config->accel, ==, "kvm");
    g_assert_cmpstr(config->host_name, ==, "alpha");
}

static void
test_absent(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_config_load(fixture->path, false, &error));
    g_assert_nonnull(strstr(error->message, fixture->path));
    g_clear_error(&error);
    put_part(fixture, "host.conf", "[host]\nname = alpha\n[peer]\nport = 1000\n");
    g_autoptr(GwConfig) config = gw_config_load(fixture->path, true, &error);
    g_assert_no_error(error);
    g_assert_cmpint(config->peer_port, ==, 1000);
}

/* --- mistakes --------------------------------------------------------------------------------- */

static void
test_bad_values(Fixture *fixture, const void *data)
{
    static const struct {
        const char *group;
        const char *line;
        const char *allowed;
    } rows[] = {
        {"host", "name = Alpha", "a-z"},
        {"host", "state-dir = var/lib", "absolute path"},
        {"host", "run-dir =", "absolute path"},
        {"host", "api-socket =", "1 to 100"},
        {"host", "api-group = two words", "without blanks"},
        {"peer", "bind = localhost", "IP address"},
        {"peer", "port = 0", "from 1 to 65535"},
        {"peer", "port = 7790x", "from 1 to 65535"},
        {"peer", "connect-timeout = 1ms", "from 100 ms to 5 min"},
        {"peer", "session-timeout = soon", "a duration"},
        {"qemu", "accel = xen", "one of auto, kvm, tcg"},
        {"qemu", "binary =", "1 to 4000"},
        {"migration", "max-bandwidth = -1", "a size"},
        {"migration", "max-bandwidth = fast", "a size"},
        {"migration", "direct-ports = 49152", "FIRST-LAST"},
        {"migration", "direct-ports = 6000-5000", "FIRST-LAST"},
        {"migration", "direct-ports = 80-90", "from 1024"},
        {"migration", "direct-ports = 5000-70000", "to 65535"},
        {"migration", "direct-ports = +5000-+6000", "FIRST-LAST"},
        {"migration", "plain-networks = 10.77.0.0/24, lab", "'lab' is not a network"},
        {"migration", "plain-networks = 10.77.0.1/24", "'10.77.0.1/24' is not a network"},
        {"migration", "plain-networks = yes", "write networks like 10.77.0.0/24"},
        {"migration", "max-incoming = 0", "from 1 to 64"},
        {"migration", "history = 99999999999999999999", "whole number"},
        {"log", "level = loud", "one of info, debug"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text = g_strdup_printf("\n[%s]\n%s\n", rows[i].group, rows[i].line);
        g_autofree char *where = g_strdup_printf("%s:3: [%s] ", fixture->path, rows[i].group);
        put(fixture->path, text);
        if (gw_config_load(fixture->path, false, &error)) {
            g_error("'%s' was taken", rows[i].line);
        }
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
        if (!strstr(error->message, where) || !strstr(error->message, rows[i].allowed)) {
            g_error("'%s' and '%s' are not in: %s", where, rows[i].allowed, error->message);
        }
    }
}

static void
test_all_mistakes_at_once(Fixture *fixture, const void *data)
{
    static const char *const parts[] = {
        "godwitd.conf:2: [peer] port: 'x'",
        "godwitd.conf:3: [peer] colour: there is no such key; there are: bind, port, "
        "connect-timeout, session-timeout",
        "godwitd.conf:4: [pear]: there is no such group; there are: host, peer, qemu, migration, "
        "lane, log",
        "godwitd.conf:5: 'nonsense'",
        "godwitd.conf:7: [peer]: this group was given in line 1",
        "10-more.conf:2: [log] level: 'loud'",
    };
    g_autoptr(GError) error = NULL;

    put(fixture->path, "[peer]\nport = x\ncolour = blue\n[pear]\nnonsense\n\n[peer]\n");
    put_part(fixture, "10-more.conf", "[log]\nlevel = loud\n");
    g_assert_null(gw_config_load(fixture->path, false, &error));
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (!strstr(error->message, parts[i])) {
            g_error("'%s' is not in: %s", parts[i], error->message);
        }
    }
}

static void
test_too_large(Fixture *fixture, const void *data)
{
    g_autofree char *text = g_strnfill(GW_CONFIG_MAX_FILE_BYTES + 1, '#');
    g_autoptr(GError) error = NULL;

    put(fixture->path, text);
    g_assert_null(gw_config_load(fixture->path, false, &error));
    g_assert_nonnull(strstr(error->message, "larger"));
}

/* --- changes ---------------------------------------------------------------------------------- */

static void
note_change(const char *group, const char *key, bool reloads, void *data)
{
    g_string_append_printf(data, "%s.%s%s ", group, key, reloads ? "+" : "");
}

static void
test_diff(Fixture *fixture, const void *data)
{
    g_autoptr(GString) changes = g_string_new(NULL);
    g_autoptr(GwConfig) a = load(fixture, "[host]\nname = alpha\n");
    g_autoptr(GwConfig) b = load(fixture, "[host]\nname = alpha\n[log]\nlevel = debug\n[peer]\n"
                                          "port = 1\n[qemu]\naccel = auto\n[migration]\n"
                                          "direct-ports = 49152-49216\n");

    gw_config_diff(a, a, note_change, changes);
    g_assert_cmpstr(changes->str, ==, "");
    gw_config_diff(a, b, note_change, changes);
    g_assert_cmpstr(changes->str, ==, "peer.port migration.direct-ports log.level+ ");
}

/* --- documents -------------------------------------------------------------------------------- */

static char *
source_file(const char *name)
{
    g_autofree char *path = g_build_filename(source_root, name, NULL);
    g_autoptr(GError) error = NULL;
    char *text = gw_file_read(path, 1 << 20, NULL, &error);

    g_assert_no_error(error);
    return text;
}

static void
test_sample_equals_table(Fixture *fixture, const void *data)
{
    g_autofree char *sample = gw_config_sample();
    g_autofree char *file = source_file("data/godwitd.conf");

    /* After a change of the table: build/src/daemon/godwitd --print-config > data/godwitd.conf */
    g_assert_cmpstr(file, ==, sample);
}

/* The sample with its comment signs before keys taken away is the default configuration. */
static void
test_sample_is_valid(Fixture *fixture, const void *data)
{
    g_autofree char *sample = gw_config_sample();
    g_autoptr(GString) text = g_string_new(NULL);
    g_auto(GStrv) lines = g_strsplit(sample, "\n", -1);
    unsigned keys = 0;

    for (char **line = lines; *line; line++) {
        bool is_key = (*line)[0] == '#' && g_ascii_islower((*line)[1]);
        keys += is_key;
        g_string_append_printf(text, "%s\n", *line + is_key);
    }
    g_assert_cmpuint(keys, ==, gw_config_n_keys);
    g_autoptr(GwConfig) written = load(fixture, text->str);
    g_autoptr(GwConfig) defaults = load(fixture, "");
    g_autoptr(GString) changes = g_string_new(NULL);
    gw_config_diff(written, defaults, note_change, changes);
    g_assert_cmpstr(changes->str, ==, "");
}

/* Each key stands in the manual as ".It Cm KEY No = DEFAULT" under its group. */
static void
test_manual_has_all_keys(Fixture *fixture, const void *data)
{
    g_autofree char *manual = source_file("man/godwitd.conf.5");

    for (size_t i = 0; i < gw_config_n_keys; i++) {
        const GwConfigKey *key = &gw_config_keys[i];
        g_autofree char *item =
            g_strdup_printf("\n.It Cm %s No = %s\n", key->key,
                            key->default_text[0] ? key->default_text : "(empty)");
        if (!strstr(manual, item)) {
            g_error("man/godwitd.conf.5 lacks%s", item);
        }
    }
}

#define ADD(name, function) g_test_add("/config/" name, Fixture, NULL, setup, function, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc != 2) {
        g_printerr("usage: test-config SOURCE_ROOT\n");
        return 2;
    }
    source_root = argv[1];
    ADD("defaults", test_defaults);
    ADD("values", test_values);
    ADD("host-name-of-the-machine", test_host_name_of_the_machine);
    ADD("parts-in-order", test_parts_in_order);
    ADD("absent", test_absent);
    ADD("bad-values", test_bad_values);
    ADD("all-mistakes-at-once", test_all_mistakes_at_once);
    ADD("too-large", test_too_large);
    ADD("diff", test_diff);
    ADD("sample-equals-table", test_sample_equals_table);
    ADD("sample-is-valid", test_sample_is_valid);
    ADD("manual-has-all-keys", test_manual_has_all_keys);
    return g_test_run();
}
