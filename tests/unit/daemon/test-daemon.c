// SPDX-License-Identifier: Apache-2.0
/*
 * The real godwitd in a folder of its own, without an identity and without QEMU. What it tells its
 * service manager is what the test waits for.
 */
#include "base/fd.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static const char *godwitd;

typedef struct Fixture {
    char *dir;
    char *config;
    char *state_dir;
    char *run_dir;
    char *notify_path;
    char *log;
    GwFd notify;
    GSubprocess *daemon;
} Fixture;

static uint16_t
any_port(void)
{
    return (uint16_t)g_random_int_range(20000, 30000);
}

static void
write_config(Fixture *fixture, const char *more)
{
    g_autofree char *text =
        g_strdup_printf("[host]\nname = alpha\nstate-dir = %s\nrun-dir = %s\napi-group =\n"
                        "[qemu]\nbinary = /nonexistent/qemu\nuser =\n%s",
                        fixture->state_dir, fixture->run_dir, more);

    g_assert_true(gw_file_write(fixture->config, text, strlen(text), 0600, NULL));
}

static void
setup(Fixture *fixture, const void *data)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = 30};

    fixture->dir = g_dir_make_tmp("godwitd-XXXXXX", NULL);
    fixture->config = g_build_filename(fixture->dir, "godwitd.conf", NULL);
    fixture->state_dir = g_build_filename(fixture->dir, "lib", "state", NULL);
    fixture->run_dir = g_build_filename(fixture->dir, "run", NULL);
    fixture->notify_path = g_build_filename(fixture->dir, "notify", NULL);
    fixture->log = g_build_filename(fixture->dir, "log", NULL);
    fixture->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    g_strlcpy(address.sun_path, fixture->notify_path, sizeof address.sun_path);
    g_assert_cmpint(bind(fixture->notify, (struct sockaddr *)&address, sizeof address), ==, 0);
    setsockopt(fixture->notify, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    g_autofree char *peer = g_strdup_printf("[peer]\nbind = 127.0.0.1\nport = %u\n", any_port());
    write_config(fixture, peer);
}

static void
remove_tree(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *entry = g_build_filename(path, name, NULL);
        remove_tree(entry);
    }
    g_remove(path);
}

static void
teardown(Fixture *fixture, const void *data)
{
    if (fixture->daemon) {
        g_subprocess_force_exit(fixture->daemon);
        g_subprocess_wait(fixture->daemon, NULL, NULL);
        g_object_unref(fixture->daemon);
    }
    gw_fd_clear(&fixture->notify);
    remove_tree(fixture->dir);
    g_free(fixture->dir);
    g_free(fixture->config);
    g_free(fixture->state_dir);
    g_free(fixture->run_dir);
    g_free(fixture->notify_path);
    g_free(fixture->log);
}

/* Everything that the daemon tells, up to a message with @part in it. */
static void
wait_told(Fixture *fixture, const char *part)
{
    char text[1024];

    for (;;) {
        ssize_t len = recv(fixture->notify, text, sizeof text - 1, 0);
        if (len < 0) {
            g_autofree char *log = gw_file_read(fixture->log, 1 << 20, NULL, NULL);
            g_error("never told: %s; log: %s", part, log);
        }
        text[len] = '\0';
        if (strstr(text, part)) {
            return;
        }
    }
}

static GSubprocess *
spawn(Fixture *fixture)
{
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_NONE);
    g_autoptr(GError) error = NULL;

    g_subprocess_launcher_setenv(launcher, "NOTIFY_SOCKET", fixture->notify_path, TRUE);
    g_subprocess_launcher_set_stderr_file_path(launcher, fixture->log);
    GSubprocess *process =
        g_subprocess_launcher_spawn(launcher, &error, godwitd, "--config", fixture->config, NULL);
    g_assert_no_error(error);
    return process;
}

static void
start(Fixture *fixture)
{
    fixture->daemon = spawn(fixture);
    wait_told(fixture, "READY=1");
}

static void
stop(Fixture *fixture)
{
    g_subprocess_send_signal(fixture->daemon, SIGTERM);
    wait_told(fixture, "STOPPING=1");
    g_assert_true(g_subprocess_wait_check(fixture->daemon, NULL, NULL));
    g_clear_object(&fixture->daemon);
}

static void
assert_log_says(Fixture *fixture, const char *part)
{
    g_autofree char *log = gw_file_read(fixture->log, 1 << 20, NULL, NULL);

    if (!log || !strstr(log, part)) {
        g_error("'%s' is not in the log: %s", part, log);
    }
}

static char *
socket_path(Fixture *fixture)
{
    return g_build_filename(fixture->run_dir, "godwitd.sock", NULL);
}

/* The answer to GET @path on the API's socket. */
static char *
get(Fixture *fixture, const char *path)
{
    g_autofree char *where = socket_path(fixture);
    g_autoptr(GError) error = NULL;
    g_auto(GwFd) fd = gw_unix_connect(where, &error);
    g_autofree char *request =
        g_strdup_printf("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    g_autofree char *answer = g_malloc0(65536);

    g_assert_no_error(error);
    g_assert_true(gw_fd_write_full(fd, request, strlen(request)));
    g_assert_cmpint(gw_fd_read_full(fd, answer, 65535), >, 0);
    return g_steal_pointer(&answer);
}

static void
assert_mode(const char *folder, const char *name, mode_t mode)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmphex(st.st_mode & 07777, ==, mode);
}

/* The hexadecimal or decimal value behind "NAME:" in /proc/PID/status. */
static uint64_t
status_value(Fixture *fixture, const char *name)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%s/status", g_subprocess_get_identifier(fixture->daemon));
    g_autofree char *text = gw_file_read(path, 1 << 16, NULL, NULL);
    g_autofree char *label = g_strdup_printf("\n%s:\t", name);
    const char *at = text ? strstr(text, label) : NULL;

    g_assert_nonnull(at);
    return g_ascii_strtoull(at + strlen(label), NULL, 16);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void
test_start_and_stop(Fixture *fixture, const void *data)
{
    start(fixture);
    g_autofree char *host = get(fixture, "/v1/host");
    g_assert_nonnull(strstr(host, "200 OK"));
    g_assert_nonnull(strstr(host, "/nonexistent/qemu"));
    g_autofree char *hosts = get(fixture, "/v1/hosts");
    g_assert_nonnull(strstr(hosts, "\"alpha\""));
    assert_log_says(fixture, "no identity yet");
    assert_log_says(fixture, "no guests can be started here");
    assert_mode(fixture->dir, "run", 0711);
    assert_mode(fixture->dir, "lib/state", 0700);
    assert_mode(fixture->state_dir, "pki", 0700);
    assert_mode(fixture->state_dir, "store.db", 0600);
    stop(fixture);
    g_autofree char *path = socket_path(fixture);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void
test_privileges(Fixture *fixture, const void *data)
{
    /* chown, dac_override, fowner, kill, setgid, setuid, net_admin: bits of capabilities(7). */
    const uint64_t kept = 1u << 0 | 1u << 1 | 1u << 3 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 12;

    start(fixture);
    g_assert_cmphex(status_value(fixture, "CapEff") & ~kept, ==, 0);
    g_assert_cmphex(status_value(fixture, "CapPrm") & ~kept, ==, 0);
    g_assert_cmphex(status_value(fixture, "CapInh"), ==, 0);
    g_assert_cmphex(status_value(fixture, "CapAmb"), ==, 0);
    g_assert_cmphex(status_value(fixture, "NoNewPrivs"), ==, 1);
    if (geteuid() == 0) {
        g_assert_cmphex(status_value(fixture, "CapBnd") & ~kept, ==, 0);
        g_assert_cmphex(status_value(fixture, "CapEff"), !=, 0);
    }
    stop(fixture);
}

static void
test_reload(Fixture *fixture, const void *data)
{
    start(fixture);
    write_config(fixture, "[peer]\nbind = 127.0.0.1\nport = 1\n[log]\nlevel = debug\n");
    g_subprocess_send_signal(fixture->daemon, SIGHUP);
    wait_told(fixture, "RELOADING=1");
    wait_told(fixture, "READY=1");
    assert_log_says(fixture, "[log] level was taken over");
    assert_log_says(fixture, "[peer] port has changed, which needs a restart");
    write_config(fixture, "[log]\nlevel = loud\n");
    g_subprocess_send_signal(fixture->daemon, SIGHUP);
    wait_told(fixture, "RELOADING=1");
    wait_told(fixture, "READY=1");
    assert_log_says(fixture, "the configuration stays as it was");
    assert_log_says(fixture, "'loud' is not allowed");
    g_autofree char *host = get(fixture, "/v1/host");
    g_assert_nonnull(strstr(host, "200 OK"));
    stop(fixture);
}

static void
test_second_is_refused(Fixture *fixture, const void *data)
{
    start(fixture);
    g_free(fixture->log);
    fixture->log = g_build_filename(fixture->dir, "second-log", NULL);
    g_autoptr(GSubprocess) second = spawn(fixture);
    g_assert_false(g_subprocess_wait_check(second, NULL, NULL));
    g_assert_cmpint(g_subprocess_get_exit_status(second), ==, 1);
    g_autofree char *said =
        g_strdup_printf("another godwitd (pid %s)", g_subprocess_get_identifier(fixture->daemon));
    assert_log_says(fixture, said);
    /* The first one did not notice. */
    g_autofree char *host = get(fixture, "/v1/host");
    g_assert_nonnull(strstr(host, "200 OK"));
    stop(fixture);
}

static void
test_kill_and_start_again(Fixture *fixture, const void *data)
{
    start(fixture);
    g_subprocess_force_exit(fixture->daemon);
    g_assert_true(g_subprocess_wait(fixture->daemon, NULL, NULL));
    g_clear_object(&fixture->daemon);
    start(fixture);
    g_autofree char *host = get(fixture, "/v1/host");
    g_assert_nonnull(strstr(host, "200 OK"));
    stop(fixture);
}

static void
test_foreign_state_dir(Fixture *fixture, const void *data)
{
    g_autofree char *parent = g_path_get_dirname(fixture->state_dir);

    g_assert_cmpint(g_mkdir_with_parents(fixture->state_dir, 0755), ==, 0);
    g_assert_cmpint(g_chmod(fixture->state_dir, 0777), ==, 0);
    fixture->daemon = spawn(fixture);
    g_assert_false(g_subprocess_wait_check(fixture->daemon, NULL, NULL));
    g_clear_object(&fixture->daemon);
    assert_log_says(fixture, "other users can write");
    assert_mode(parent, "state", 0777);
}

/* Runs godwitd to its end; its exit status, and stdout and stderr in one text. */
static int
run(char **output, const char *first, const char *second, const char *third)
{
    g_autoptr(GSubprocess) process =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE, NULL,
                         godwitd, first, second, third, NULL);

    g_assert_true(g_subprocess_communicate_utf8(process, NULL, NULL, output, NULL, NULL));
    return g_subprocess_get_exit_status(process);
}

static void
test_options(Fixture *fixture, const void *data)
{
    g_autofree char *version = NULL;
    g_autofree char *good = NULL;
    g_autofree char *bad = NULL;
    g_autofree char *missing = NULL;
    g_autofree char *unknown = NULL;
    g_autofree char *argument = NULL;
    g_autofree char *sample = NULL;

    g_assert_cmpint(run(&version, "--version", NULL, NULL), ==, 0);
    g_assert_cmpstr(version, ==, "godwitd " GODWIT_VERSION "\n");
    g_assert_cmpint(run(&good, "--check-config", "--config", fixture->config), ==, 0);
    g_assert_nonnull(strstr(good, "no mistakes"));
    write_config(fixture, "[log]\nlevel = loud\n[x]\n");
    g_assert_cmpint(run(&bad, "--check-config", "--config", fixture->config), ==, 2);
    g_assert_nonnull(strstr(bad, "[log] level"));
    g_assert_nonnull(strstr(bad, "[x]: there is no such group"));
    g_assert_cmpint(run(&missing, "--check-config", "--config", "/nonexistent/file"), ==, 2);
    g_assert_nonnull(strstr(missing, "/nonexistent/file"));
    g_assert_cmpint(run(&unknown, "--unknown", NULL, NULL), ==, 2);
    g_assert_cmpint(run(&argument, "stray", NULL, NULL), ==, 2);
    g_assert_cmpint(run(&sample, "--print-config", NULL, NULL), ==, 0);
    g_assert_nonnull(strstr(sample, "[migration]"));
}

#define ADD(name, function) g_test_add("/daemon/" name, Fixture, NULL, setup, function, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc != 2) {
        g_printerr("usage: test-daemon GODWITD\n");
        return 2;
    }
    godwitd = argv[1];
    ADD("start-and-stop", test_start_and_stop);
    ADD("privileges", test_privileges);
    ADD("reload", test_reload);
    ADD("second-is-refused", test_second_is_refused);
    ADD("kill-and-start-again", test_kill_and_start_again);
    ADD("foreign-state-dir", test_foreign_state_dir);
    ADD("options", test_options);
    return g_test_run();
}
