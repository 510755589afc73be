// SPDX-License-Identifier: Apache-2.0
/*
 * The probe with the installed QEMU, mostly behind a script that counts its starts.
 */
#include "qemu/probe.h"

#include "support.h"

#include <fcntl.h>
#include <sys/wait.h>

typedef struct Fixture {
    char *dir;
    char *cache;
    char *count;
    char *qemu;
    char *script;
    GwProbe *probe;
    bool done;
    GwHostCaps *caps;
    GError *error;
} Fixture;

/* Starts the real QEMU with "accel=kvm" replaced by $ACCEL and $EXTRA added. */
static const char SCRIPT[] = "#!/bin/sh\n"
                             "echo \"$*\" >>%s\n"
                             "n=$#\n"
                             "while [ $n -gt 0 ]; do\n"
                             "    case \"$1\" in\n"
                             "    *,accel=kvm) set -- \"$@\" \"${1%%,*},accel=%s\" ;;\n"
                             "    *) set -- \"$@\" \"$1\" ;;\n"
                             "    esac\n"
                             "    shift\n"
                             "    n=$((n - 1))\n"
                             "done\n"
                             "exec %s \"$@\" %s\n";

static void
write_script(Fixture *f, const char *accel, const char *extra)
{
    g_autofree char *text = g_strdup_printf(SCRIPT, f->count, accel, f->qemu, extra);

    g_assert_true(gw_file_write(f->script, text, strlen(text), 0755, NULL));
}

static void
set_up(Fixture *f, const void *unused)
{
    *f = (Fixture){.dir = make_test_dir(), .qemu = real_qemu()};
    f->cache = g_build_filename(f->dir, "cache", NULL);
    f->count = g_build_filename(f->dir, "count", NULL);
    f->script = g_build_filename(f->dir, "qemu-system-x86_64", NULL);
    if (f->qemu) {
        write_script(f, "kvm", "");
    } else {
        g_test_skip("no qemu-system-x86_64");
    }
}

static void
tear_down(Fixture *f, const void *unused)
{
    gw_probe_free(f->probe);
    gw_host_caps_free(f->caps);
    g_clear_error(&f->error);
    g_free(f->cache);
    g_free(f->count);
    g_free(f->qemu);
    g_free(f->script);
    remove_test_dir(f->dir);
}

static void
on_probed(GwHostCaps *caps, const GError *error, void *data)
{
    Fixture *f = data;

    g_assert_true((caps == NULL) == (error != NULL));
    f->done = true;
    f->caps = caps;
    f->error = error ? g_error_copy(error) : NULL;
    g_test_message("%s", error ? error->message : caps->accel_reason);
}

static void
start_probe(Fixture *f, const char *binary, const char *accel)
{
    g_clear_pointer(&f->probe, gw_probe_free);
    g_clear_pointer(&f->caps, gw_host_caps_free);
    g_clear_error(&f->error);
    f->done = false;
    f->probe = gw_probe_start(
        &(GwProbeOptions){
            .qemu_binary = binary, .cache_dir = f->cache, .run_dir = f->dir, .accel = accel},
        on_probed, f);
    g_assert_false(f->done);
}

static void
probe(Fixture *f, const char *binary, const char *accel)
{
    start_probe(f, binary, accel);
    wait_for(f->done);
}

/* How often QEMU was started so far. */
static unsigned
starts(Fixture *f)
{
    g_autofree char *text = gw_file_read(f->count, 1 << 20, NULL, NULL);
    unsigned n = 0;

    for (const char *p = text; p && *p; p++) {
        n += *p == '\n';
    }
    return n;
}

static bool
has_feature(const GwHostCaps *caps, const char *name)
{
    size_t i;
    json_t *feature;

    json_array_foreach(caps->cpu_features, i, feature)
    {
        if (strcmp(json_string_value(feature), name) == 0) {
            return true;
        }
    }
    return false;
}

static void
check_caps(const GwHostCaps *caps)
{
    const json_t *q35 = json_object_get(caps->machines, "q35");
    const char *versioned = gw_json_str(q35, "alias_of", NULL);

    g_assert_true(g_path_is_absolute(caps->qemu_binary));
    g_assert_cmpuint(caps->qemu_major_minor, >=, 702);
    g_assert_true(g_ascii_isdigit(caps->qemu_version[0]));
    g_assert_nonnull(versioned);
    g_assert_nonnull(json_object_get(json_object_get(caps->machines, versioned), "deprecated"));
    g_assert_cmpuint(json_array_size(caps->cpu_features), >, 20);
    g_assert_true(has_feature(caps, "lm"));
    g_assert_true(has_feature(caps, "sse2"));
    g_assert_false(has_feature(caps, "migratable"));
    g_assert_cmpuint(caps->cpus, >, 0);
    g_assert_cmpuint(caps->memory_bytes, >, 64 << 20);
    g_assert_cmpstr(caps->cpu_model, !=, "");
}

static void
check_nothing_left(Fixture *f)
{
    static const char *const NAMES[] = {"accel", "caps"};

    for (unsigned i = 0; i < G_N_ELEMENTS(NAMES); i++) {
        g_autofree char *base = g_strdup_printf("%s/probe-%s", f->dir, NAMES[i]);
        g_autofree char *socket = g_strconcat(base, ".sock", NULL);
        g_autofree char *log = g_strconcat(base, ".log", NULL);
        g_autofree char *record = g_strconcat(base, ".pid", NULL);
        g_assert_false(g_file_test(socket, G_FILE_TEST_EXISTS));
        g_assert_false(g_file_test(log, G_FILE_TEST_EXISTS));
        g_assert_false(g_file_test(record, G_FILE_TEST_EXISTS));
    }
}

static void
test_tcg(Fixture *f, const void *unused)
{
    if (!f->qemu) {
        return;
    }
    probe(f, f->script, "tcg");
    g_assert_no_error(f->error);
    g_assert_cmpstr(f->caps->accel, ==, "tcg");
    g_assert_cmpstr(f->caps->accel_reason, ==, "tcg: as configured");
    check_caps(f->caps);
    g_assert_cmpuint(starts(f), ==, 1);
    check_nothing_left(f);

    g_autofree char *version = g_strdup(f->caps->qemu_version);
    json_t *features = json_incref(f->caps->cpu_features);
    probe(f, f->script, "tcg");
    g_assert_no_error(f->error);
    g_assert_cmpuint(starts(f), ==, 1); /* all of it from the cache */
    check_caps(f->caps);
    g_assert_cmpstr(f->caps->qemu_version, ==, version);
    g_assert_true(json_equal(f->caps->cpu_features, features));
    json_decref(features);
}

static void
test_binary_by_name(Fixture *f, const void *unused)
{
    if (!f->qemu) {
        return;
    }
    probe(f, "qemu-system-x86_64", "tcg");
    g_assert_no_error(f->error);
    g_assert_cmpstr(f->caps->qemu_binary, ==, f->qemu);
}

static void
test_stale_and_broken_cache(Fixture *f, const void *unused)
{
    g_autofree char *file = g_build_filename(f->cache, "qemu-tcg.json", NULL);
    struct stat st;

    if (!f->qemu) {
        return;
    }
    probe(f, f->script, "tcg");
    g_assert_cmpint(stat(f->cache, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0700);
    write_script(f, "kvm", "-name other"); /* another size and mtime: another QEMU */
    probe(f, f->script, "tcg");
    g_assert_cmpuint(starts(f), ==, 2);
    g_assert_true(gw_file_write(file, "{\"key\": ", 8, 0600, NULL));
    probe(f, f->script, "tcg");
    g_assert_no_error(f->error);
    g_assert_cmpuint(starts(f), ==, 3);

    /* The right key with a value of the wrong shape. */
    g_autofree char *text = gw_file_read(file, 1 << 22, NULL, NULL);
    g_autoptr(json_t) entry = gw_json_parse(text, strlen(text), SIZE_MAX, file, NULL);
    json_object_set_new(entry, "value", json_pack("{s:[i]}", "cpu_features", 5));
    g_autofree char *odd = gw_json_text(entry);
    g_assert_true(gw_file_write(file, odd, strlen(odd), 0600, NULL));
    probe(f, f->script, "tcg");
    g_assert_no_error(f->error);
    check_caps(f->caps);
    g_assert_cmpuint(starts(f), ==, 4);
}

/* What auto finds depends on the machine; that it says so does not. */
static void
test_auto(Fixture *f, const void *unused)
{
    if (!f->qemu) {
        return;
    }
    probe(f, f->script, "auto");
    g_assert_no_error(f->error);
    check_caps(f->caps);
    g_autofree char *start = g_strconcat(f->caps->accel, ": ", NULL);
    g_assert_true(g_str_has_prefix(f->caps->accel_reason, start));
    g_assert_null(strchr(f->caps->accel_reason, '\n'));
    if (g_str_equal(f->caps->accel, "tcg")) {
        g_assert_nonnull(strstr(f->caps->accel_reason, "/dev/kvm"));
    }
    check_nothing_left(f);
}

static bool
has_no_kvm_node(void)
{
    if (!g_file_test("/dev/kvm", G_FILE_TEST_EXISTS)) {
        g_test_skip("no /dev/kvm");
        return true;
    }
    return false;
}

/* Plays a host whose KVM works. */
static void
test_kvm_works(Fixture *f, const void *unused)
{
    if (!f->qemu || has_no_kvm_node()) {
        return;
    }
    write_script(f, "tcg", "");
    probe(f, f->script, "auto");
    g_assert_no_error(f->error);
    g_assert_cmpstr(f->caps->accel, ==, "kvm");
    g_assert_cmpstr(f->caps->accel_reason, ==, "kvm: a 64-bit test guest ran");
    g_assert_cmpuint(starts(f), ==, 2);
    probe(f, f->script, "kvm");
    g_assert_no_error(f->error);
    g_assert_cmpstr(f->caps->accel_reason, ==, "kvm: as configured, and a 64-bit test guest ran");
    g_assert_cmpuint(starts(f), ==, 2);
}

static void
write_hanging_image(Fixture *f)
{
    g_autofree char *image = g_build_filename(f->dir, "image", NULL);
    g_autofree uint8_t *bytes = g_malloc0(65536);
    g_autofree char *extra = g_strdup_printf("-bios %s", image);

    bytes[65536 - 16] = 0xeb; /* jmp to itself */
    bytes[65536 - 15] = 0xfe;
    g_assert_true(gw_file_write(image, bytes, 65536, 0600, NULL));
    write_script(f, "tcg", extra);
}

/* Plays a host whose /dev/kvm opens and whose guests hang. */
static void
test_kvm_hangs(Fixture *f, const void *unused)
{
    if (!f->qemu || has_no_kvm_node()) {
        return;
    }
    write_hanging_image(f);
    probe(f, f->script, "auto");
    g_assert_no_error(f->error);
    g_assert_cmpstr(f->caps->accel, ==, "tcg");
    g_assert_cmpstr(f->caps->accel_reason, ==,
                    "tcg: /dev/kvm opens but a 64-bit test guest did not finish within 3 s");
    g_assert_cmpuint(starts(f), ==, 2);
    probe(f, f->script, "auto");
    g_assert_no_error(f->error);
    g_assert_cmpstr(f->caps->accel, ==, "tcg");
    g_assert_cmpuint(starts(f), ==, 2);
    check_nothing_left(f);
}

static void
test_kvm_asked_for_and_broken(Fixture *f, const void *unused)
{
    static const char REFUSE[] = "#!/bin/sh\n"
                                 "echo 'qemu: failed to initialize kvm: No such device' >&2\n";

    if (has_no_kvm_node()) {
        return;
    }
    g_assert_true(gw_file_write(f->script, REFUSE, strlen(REFUSE), 0755, NULL));
    probe(f, f->script, "kvm");
    g_assert_error(f->error, GW_ERROR, GW_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(f->error->message, "failed to initialize kvm: No such device"));
    g_assert_nonnull(strstr(f->error->message, "accel=tcg"));
}

static void
test_broken_qemu(Fixture *f, const void *unused)
{
    static const char BROKEN[] = "#!/bin/sh\necho 'qemu: libfoo.so is missing' >&2\nexit 1\n";

    g_assert_true(gw_file_write(f->script, BROKEN, strlen(BROKEN), 0755, NULL));
    probe(f, f->script, "tcg");
    g_assert_error(f->error, GW_ERROR, GW_ERROR_FAILED);
    g_assert_nonnull(strstr(f->error->message, "libfoo.so is missing"));
    check_nothing_left(f);
}

static void
test_wrong_options(Fixture *f, const void *unused)
{
    probe(f, "/nonexistent/qemu", "tcg");
    g_assert_error(f->error, GW_ERROR, GW_ERROR_NOT_FOUND);
    probe(f, "qemu", "xen");
    g_assert_error(f->error, GW_ERROR, GW_ERROR_INVALID);
    g_assert_true(gw_file_write(f->script, "not a program", 13, 0755, NULL));
    probe(f, f->script, "tcg");
    g_assert_error(f->error, GW_ERROR, GW_ERROR_IO);
}

static bool
read_process(Fixture *f, const char *name, GwProcessId *out)
{
    g_autofree char *path = g_build_filename(f->dir, name, NULL);
    g_autofree char *text = gw_file_read(path, 256, NULL, NULL);

    return text && sscanf(text, "%d %" SCNu64, &out->pid, &out->start_ticks) == 2;
}

static void
test_freed_midway(Fixture *f, const void *unused)
{
    GwProcessId process = {0};

    if (!f->qemu) {
        return;
    }
    start_probe(f, f->script, "tcg");
    g_clear_pointer(&f->probe, gw_probe_free); /* before anything happened */
    start_probe(f, f->script, "tcg");
    wait_for(read_process(f, "probe-caps.pid", &process));
    g_assert_true(gw_process_alive(process));
    g_clear_pointer(&f->probe, gw_probe_free);
    wait_for_end(process);
    check_nothing_left(f);
    run_pending();
    g_assert_false(f->done);
}

static void
test_freed_midway_in_proof(Fixture *f, const void *unused)
{
    GwProcessId process = {0};

    if (!f->qemu || has_no_kvm_node()) {
        return;
    }
    write_hanging_image(f);
    start_probe(f, f->script, "auto");
    wait_for(read_process(f, "probe-accel.pid", &process));
    g_assert_true(gw_process_alive(process));
    g_clear_pointer(&f->probe, gw_probe_free);
    wait_for_end(process);
    check_nothing_left(f);
    g_assert_false(f->done);
}

/* A daemon that was killed in the middle of a probe leaves a QEMU; the next probe ends it. */
static void
test_leftover(Fixture *f, const void *unused)
{
    GwProcessId process = {0};

    if (!f->qemu) {
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        start_probe(f, f->script, "tcg");
        wait_for(read_process(f, "probe-caps.pid", &process));
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_true(read_process(f, "probe-caps.pid", &process));
    g_assert_true(gw_process_alive(process));
    probe(f, f->script, "tcg");
    g_assert_no_error(f->error);
    wait_for_end(process);
    check_nothing_left(f);
}

static void
test_other_user(Fixture *f, const void *unused)
{
    if (!f->qemu) {
        return;
    }
    if (geteuid() != 0) {
        g_test_skip("only root can become another user");
        return;
    }
    f->probe = gw_probe_start(&(GwProbeOptions){.qemu_binary = f->qemu,
                                                .qemu_user = "nobody",
                                                .cache_dir = f->cache,
                                                .run_dir = f->dir,
                                                .accel = "auto"},
                              on_probed, f);
    wait_for(f->done);
    g_assert_no_error(f->error);
    check_caps(f->caps);
}

static void
test_memory(void)
{
    uint64_t available = gw_memory_available_bytes();

    g_assert_cmpuint(available, >, 1 << 20);
    g_assert_cmpuint(available % 1024, ==, 0);
}

#define ADD(name, function) g_test_add("/probe/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    ADD("tcg", test_tcg);
    ADD("binary-by-name", test_binary_by_name);
    ADD("stale-and-broken-cache", test_stale_and_broken_cache);
    ADD("auto", test_auto);
    ADD("kvm-works", test_kvm_works);
    ADD("kvm-hangs", test_kvm_hangs);
    ADD("kvm-asked-for-and-broken", test_kvm_asked_for_and_broken);
    ADD("broken-qemu", test_broken_qemu);
    ADD("wrong-options", test_wrong_options);
    ADD("freed-midway", test_freed_midway);
    ADD("freed-midway-in-proof", test_freed_midway_in_proof);
    ADD("leftover", test_leftover);
    ADD("other-user", test_other_user);
    g_test_add_func("/probe/memory", test_memory);
    return g_test_run();
}
