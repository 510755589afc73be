// SPDX-License-Identifier: Apache-2.0
/*
 * Are these the same files? Both sides' probes on one machine, over files that are the same, that
 * only look so, and that are none; several probes at once, and probes that are freed on the way.
 */
#include "base/fd.h"
#include "migrate/check.h"
#include "support.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct Fixture {
    char *folder;
} Fixture;

static void
setup(Fixture *fixture, const void *data)
{
    fixture->folder = test_folder_new();
}

static void
teardown(Fixture *fixture, const void *data)
{
    test_folder_free(fixture->folder);
}

static char *
file_with(Fixture *fixture, const char *name, const char *content)
{
    char *path = g_build_filename(fixture->folder, name, NULL);
    g_autoptr(GError) error = NULL;
    bool written = gw_file_write(path, content, strlen(content), 0644, &error);

    g_assert_no_error(error);
    g_assert_true(written);
    return path;
}

/* A VM with one disk, and a kernel if there is one. */
static GwDefinition *
definition_with(const char *disk, const char *kernel)
{
    g_autofree char *boot = kernel ? g_strdup_printf("[boot]\nkernel = %s\n", kernel) : NULL;
    g_autofree char *text = g_strdup_printf("[vm]\nname = web\nmemory = 64 MiB\n"
                                            "[disk root]\npath = %s\nformat = raw\n%s",
                                            disk, boot ? boot : "");
    g_autoptr(GError) error = NULL;
    GwDefinition *definition = gw_definition_parse(text, strlen(text), "test", &error);

    g_assert_no_error(error);
    return definition;
}

typedef struct Probe {
    GwFileProbe *probe;
    json_t *files;
} Probe;

static void
on_probed(json_t *files, void *data)
{
    Probe *probe = data;

    g_assert_null(probe->files);
    probe->files = json_incref(files);
}

static void
probe_clear(Probe *probe)
{
    g_clear_pointer(&probe->probe, gw_file_probe_free);
    g_clear_pointer(&probe->files, json_decref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Probe, probe_clear)

static void
look_from_source(Probe *probe, const char *disk, const char *kernel)
{
    g_autoptr(GwDefinition) definition = definition_with(disk, kernel);

    probe->probe = gw_file_probe_source(definition, on_probed, probe);
    WAIT_FOR(probe->files);
}

static void
look_from_target(Probe *probe, const json_t *files)
{
    probe->probe = gw_file_probe_target(files, on_probed, probe);
    WAIT_FOR(probe->files);
}

static const char *
verdict_of(const Probe *probe, size_t i)
{
    return gw_json_str(json_array_get(probe->files, i), "verdict", "none");
}

static void
assert_part(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_error("'%s' lacks '%s'", text, part);
    }
}

static void
test_same(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_autofree char *kernel = file_with(fixture, "kernel", "linux");
    g_auto(Probe) source = {0};
    g_auto(Probe) target = {0};

    look_from_source(&source, disk, kernel);
    const json_t *found = json_array_get(source.files, 0);
    g_assert_cmpint(gw_json_int(found, "size", 0), ==, 5);
    g_assert_false(gw_json_bool(found, "device", true));
    look_from_target(&target, source.files);
    g_assert_cmpstr(verdict_of(&target, 0), ==, "ok");
    g_assert_cmpstr(verdict_of(&target, 1), ==, "ok");
    g_autofree char *content = gw_file_read(disk, 100, NULL, NULL);
    g_assert_cmpstr(content, ==, "image");
}

/* The same path, size, content and even inode number elsewhere prove nothing. */
static void
test_other_file(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_autofree char *copy = file_with(fixture, "copy", "image");
    g_auto(Probe) source = {0};
    g_auto(Probe) target = {0};

    look_from_source(&source, disk, NULL);
    gw_json_set_str(json_array_get(source.files, 0), "path", copy);
    look_from_target(&target, source.files);
    assert_part(verdict_of(&target, 0), "another file");
}

/* The proof ends with the source's probe. */
static void
test_lock_ends(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_auto(Probe) source = {0};
    bool locked = true;

    look_from_source(&source, disk, NULL);
    g_clear_pointer(&source.probe, gw_file_probe_free);
    /* The worker may hold its task a moment longer. */
    guint watchdog = watchdog_start("the end of the locks");
    while (locked) {
        g_auto(Probe) target = {0};
        look_from_target(&target, source.files);
        locked = strcmp(verdict_of(&target, 0), "ok") == 0;
    }
    g_source_remove(watchdog);
}

/* A file that is locked all over is none that proves anything. */
static void
test_locked_all_over(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_auto(GwFd) fd = open(disk, O_RDWR | O_CLOEXEC);
    struct flock everything = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    g_auto(Probe) source = {0};
    g_auto(Probe) target = {0};

    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &everything), ==, 0);
    look_from_source(&source, disk, NULL);
    look_from_target(&target, source.files);
    assert_part(verdict_of(&target, 0), "another file");
}

static void
test_two_at_once(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    Probe sources[4] = {{0}};
    Probe targets[4] = {{0}};

    for (unsigned i = 0; i < 4; i++) {
        look_from_source(&sources[i], disk, NULL);
    }
    for (unsigned i = 0; i < 4; i++) {
        look_from_target(&targets[i], sources[i].files);
        g_assert_cmpstr(verdict_of(&targets[i], 0), ==, "ok");
    }
    for (unsigned i = 0; i < 4; i++) {
        probe_clear(&sources[i]);
        probe_clear(&targets[i]);
    }
}

static void
test_missing(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_autofree char *nowhere = g_build_filename(fixture->folder, "nowhere", NULL);
    g_auto(Probe) source = {0};
    g_auto(Probe) here = {0};
    g_auto(Probe) target = {0};

    look_from_source(&source, nowhere, nowhere);
    assert_part(gw_json_str(json_array_get(source.files, 0), "error", ""), "No such file");
    assert_part(gw_json_str(json_array_get(source.files, 1), "error", ""), "No such file");
    look_from_source(&here, disk, NULL);
    g_unlink(disk);
    look_from_target(&target, here.files);
    assert_part(verdict_of(&target, 0), "No such file");
}

/* Opening a pipe would wait for its other end, and opening a device may do something. */
static void
test_no_file(Fixture *fixture, const void *data)
{
    g_autofree char *pipe_path = g_build_filename(fixture->folder, "pipe", NULL);
    const char *const paths[] = {pipe_path, fixture->folder, "/dev/null", "/dev/tty"};

    g_assert_cmpint(mkfifo(pipe_path, 0600), ==, 0);
    for (unsigned i = 0; i < 4; i++) {
        g_auto(Probe) source = {0};
        g_auto(Probe) target = {0};
        look_from_source(&source, paths[i], paths[i]);
        for (unsigned n = 0; n < 2; n++) {
            json_t *file = json_array_get(source.files, n);
            assert_part(gw_json_str(file, "error", ""), "neither a file nor a block device");
            gw_json_set_int(file, "offset", INT64_C(1) << 60);
        }
        look_from_target(&target, source.files);
        assert_part(verdict_of(&target, 0), "neither a file nor a block device");
        assert_part(verdict_of(&target, 1), "neither a file nor a block device");
    }
}

static void
test_no_permission(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_auto(Probe) source = {0};
    bool was_root = geteuid() == 0;

    g_assert_cmpint(g_chmod(disk, was_root ? 0600 : 0), ==, 0);
    if (was_root) {
        g_assert_cmpint(seteuid(65534), ==, 0);
    }
    look_from_source(&source, disk, NULL);
    if (was_root) {
        g_assert_cmpint(seteuid(0), ==, 0);
    }
    assert_part(gw_json_str(json_array_get(source.files, 0), "error", ""), "Permission denied");
}

static void
test_other_kernel(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_autofree char *kernel = file_with(fixture, "kernel", "linux");
    g_auto(Probe) source = {0};
    g_auto(Probe) target = {0};

    look_from_source(&source, disk, kernel);
    g_free(file_with(fixture, "kernel", "linus"));
    look_from_target(&target, source.files);
    g_assert_cmpstr(verdict_of(&target, 0), ==, "ok");
    assert_part(verdict_of(&target, 1), "another content");
}

static void
test_freed_midway(Fixture *fixture, const void *data)
{
    g_autofree char *disk = file_with(fixture, "disk", "image");
    g_autoptr(GwDefinition) definition = definition_with(disk, disk);
    g_auto(Probe) last = {0};

    for (unsigned i = 0; i < 50; i++) {
        Probe never = {0};
        GwFileProbe *probe = gw_file_probe_source(definition, on_probed, &never);
        if (i % 2) {
            g_main_context_iteration(NULL, FALSE);
        }
        gw_file_probe_free(probe);
        g_clear_pointer(&never.files, json_decref);
    }
    gw_file_probe_free(NULL);
    look_from_source(&last, disk, NULL);
}

/* The list comes from another host. */
static void
test_hostile_lists(Fixture *fixture, const void *data)
{
    static const char *const lists[] = {
        "null",
        "7",
        "{}",
        "[]",
        "[7, null, [], \"disk\"]",
        "[{}]",
        "[{\"kind\":\"disk\"}]",
        "[{\"kind\":\"disk\",\"path\":7,\"offset\":[]}]",
        "[{\"kind\":\"disk\",\"path\":\"relative\",\"offset\":9223372036854775807}]",
        "[{\"kind\":\"boot\",\"path\":\"/dev/zero\",\"sha256\":{}}]",
    };
    g_autofree char *disk = file_with(fixture, "disk", "image");

    for (unsigned i = 0; i < G_N_ELEMENTS(lists); i++) {
        g_autoptr(json_t) list = json_loads(lists[i], JSON_DECODE_ANY, NULL);
        g_auto(Probe) target = {0};
        look_from_target(&target, list);
        for (size_t n = 0; n < json_array_size(target.files); n++) {
            g_assert_cmpstr(verdict_of(&target, n), !=, "ok");
        }
    }

    static const int64_t offsets[] = {INT64_MIN, -1, 0, INT64_MAX, INT64_MAX - 1};
    for (unsigned i = 0; i < G_N_ELEMENTS(offsets); i++) {
        g_autoptr(json_t) list = json_pack("[{s:s, s:s, s:I}]", "kind", "disk", "path", disk,
                                           "offset", (json_int_t)offsets[i]);
        g_auto(Probe) target = {0};
        look_from_target(&target, list);
        g_assert_cmpstr(verdict_of(&target, 0), !=, "ok");
    }

    g_autoptr(json_t) many = json_array();
    for (unsigned i = 0; i < 1000; i++) {
        json_array_append_new(many, json_pack("{s:s, s:s}", "kind", "disk", "path", disk));
    }
    g_auto(Probe) target = {0};
    look_from_target(&target, many);
    g_assert_cmpuint(json_array_size(target.files), ==, GW_MAX_DISKS + 2);
}

#define ADD(path, function) g_test_add(path, Fixture, NULL, setup, function, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/check-files/same", test_same);
    ADD("/check-files/other-file", test_other_file);
    ADD("/check-files/lock-ends", test_lock_ends);
    ADD("/check-files/locked-all-over", test_locked_all_over);
    ADD("/check-files/two-at-once", test_two_at_once);
    ADD("/check-files/missing", test_missing);
    ADD("/check-files/no-file", test_no_file);
    ADD("/check-files/no-permission", test_no_permission);
    ADD("/check-files/other-kernel", test_other_kernel);
    ADD("/check-files/freed-midway", test_freed_midway);
    ADD("/check-files/hostile-lists", test_hostile_lists);
    return g_test_run();
}
