// SPDX-License-Identifier: Apache-2.0
#include "qemu/launch.h"

#include "qemu/process.h"

#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>

typedef struct Fixture {
    char *dir;
    char *log;
} Fixture;

static void
set_up(Fixture *f, const void *unused)
{
    f->dir = make_test_dir();
    f->log = g_build_filename(f->dir, "log", NULL);
}

static void
tear_down(Fixture *f, const void *unused)
{
    g_free(f->log);
    remove_test_dir(f->dir);
}

static GwProcessId
start(const GwLaunch *launch)
{
    GwProcessId process = {0};
    g_autoptr(GError) error = NULL;

    bool started = gw_launch(launch, &process, &error);
    g_assert_no_error(error);
    g_assert_true(started);
    g_assert_cmpint(process.pid, >, 1);
    g_assert_cmpuint(process.start_ticks, >, 0);
    return process;
}

static GwProcessId
start_shell(Fixture *f, const char *script)
{
    return start(&(GwLaunch){.argv = (const char *const[]){"/bin/sh", "-c", script, NULL},
                             .log_path = f->log});
}

static GwProcessId
start_sleeper(Fixture *f)
{
    return start(
        &(GwLaunch){.argv = (const char *const[]){"/bin/sleep", "1000", NULL}, .log_path = f->log});
}

static void
end(GwProcessId process)
{
    g_assert_true(gw_process_signal(process, SIGKILL, NULL));
    wait_for_end(process);
}

/* What the script wrote to the log. */
static char *
output_of(Fixture *f, GwProcessId process)
{
    wait_for_end(process);
    char *text = gw_file_read(f->log, 65536, NULL, NULL);
    g_assert_nonnull(text);
    return text;
}

static void
expect_failure(const GwLaunch *launch, GwErrorCode code, const char *text)
{
    GwProcessId process = {.pid = 77};
    g_autoptr(GError) error = NULL;

    g_assert_false(gw_launch(launch, &process, &error));
    g_assert_error(error, GW_ERROR, (int)code);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, text));
    g_assert_cmpint(process.pid, ==, 77);
}

static void
test_exec_failure(Fixture *f, const void *unused)
{
    const char *const missing[] = {"/nonexistent/qemu", NULL};
    const char *const not_a_program[] = {"/etc/passwd", NULL};
    const char *const not_a_path[] = {"sh", NULL};

    expect_failure(&(GwLaunch){.argv = missing, .log_path = f->log}, GW_ERROR_IO,
                   g_strerror(ENOENT));
    expect_failure(&(GwLaunch){.argv = not_a_program, .log_path = f->log}, GW_ERROR_IO,
                   g_strerror(EACCES));
    expect_failure(&(GwLaunch){.argv = not_a_path, .log_path = f->log}, GW_ERROR_INVALID, "sh");
}

static void
test_unknown_user(Fixture *f, const void *unused)
{
    const char *const argv[] = {"/bin/true", NULL};

    expect_failure(&(GwLaunch){.argv = argv, .log_path = f->log, .user = "no-such-user"},
                   GW_ERROR_NOT_FOUND, "no-such-user");
}

static void
test_bad_log(Fixture *f, const void *unused)
{
    const char *const argv[] = {"/bin/true", NULL};

    expect_failure(&(GwLaunch){.argv = argv, .log_path = "/nonexistent/log"}, GW_ERROR_IO,
                   g_strerror(ENOENT));
    g_assert_cmpint(symlink("/dev/null", f->log), ==, 0);
    expect_failure(&(GwLaunch){.argv = argv, .log_path = f->log}, GW_ERROR_IO, g_strerror(ELOOP));
}

static void
test_bad_descriptors(Fixture *f, const void *unused)
{
    const char *const argv[] = {"/bin/true", NULL};
    GwLaunch launch = {.argv = argv, .log_path = f->log, .fds = (int[]){0, 0}, .n_fds = 2};

    launch.fds_as = (int[]){5, 5};
    expect_failure(&launch, GW_ERROR_INVALID, "5");
    launch.fds_as = (int[]){1, 5};
    expect_failure(&launch, GW_ERROR_INVALID, "1");
    launch.fds_as = (int[]){3, 4};
    launch.fds = (int[]){0, 1 << 20};
    expect_failure(&launch, GW_ERROR_IO, g_strerror(EBADF));
}

static void
test_log(Fixture *f, const void *unused)
{
    struct stat st;

    g_free(output_of(f, start_shell(f, "echo one; echo two >&2")));
    g_autofree char *text = output_of(f, start_shell(f, "echo three"));
    g_assert_cmpstr(text, ==, "one\ntwo\nthree\n");
    g_assert_cmpint(stat(f->log, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
}

static void
test_surroundings(Fixture *f, const void *unused)
{
    sigset_t blocked;

    g_setenv("GODWIT_SECRET", "x", TRUE);
    signal(SIGUSR2, SIG_IGN);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    g_autofree char *text =
        output_of(f, start_shell(f, "umask; pwd; echo ${LC_ALL}; echo ${GODWIT_SECRET-none}; "
                                    "readlink /proc/$$/fd/0; "
                                    "exec grep -E 'Sig(Blk|Ign)' /proc/self/status"));
    sigprocmask(SIG_UNBLOCK, &blocked, NULL);
    signal(SIGUSR2, SIG_DFL);
    g_assert_cmpstr(text, ==,
                    "0077\n/\nC\nnone\n/dev/null\n"
                    "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

static void
test_descriptors(Fixture *f, const void *unused)
{
    int first[2];
    int second[2];
    char buffer[16] = "";

    g_assert_cmpint(pipe(first), ==, 0); /* inheritable on purpose: they must not be */
    g_assert_cmpint(pipe(second), ==, 0);
    g_autofree char *script =
        g_strdup_printf("echo a >/proc/$$/fd/%d; echo b >/proc/$$/fd/%d; "
                        "for i in $(seq 0 60); do [ -e /proc/$$/fd/$i ] && echo $i; done",
                        second[1], first[1]);
    /* The wanted numbers are each other's. */
    GwLaunch launch = {
        .argv = (const char *const[]){"/bin/sh", "-c", script, NULL},
        .log_path = f->log,
        .fds = (int[]){first[1], second[1]},
        .fds_as = (int[]){second[1], first[1]},
        .n_fds = 2,
    };
    g_autofree char *text = output_of(f, start(&launch));
    g_auto(GStrv) numbers = g_strsplit(g_strchomp(text), "\n", -1);
    for (unsigned i = 0; numbers[i]; i++) {
        int number = atoi(numbers[i]);
        g_assert_true(number <= 2 || number == first[1] || number == second[1]);
    }
    g_assert_cmpuint(g_strv_length(numbers), ==, 5);
    g_assert_cmpint(read(first[0], buffer, 2), ==, 2);
    g_assert_cmpstr(buffer, ==, "a\n");
    g_assert_cmpint(read(second[0], buffer, 2), ==, 2);
    g_assert_cmpstr(buffer, ==, "b\n");
    for (int i = 0; i < 2; i++) {
        close(first[i]);
        close(second[i]);
    }
}

static void
test_not_our_child(Fixture *f, const void *unused)
{
    GwProcessId process = start_sleeper(f);
    int status;

    g_assert_cmpint(waitpid(process.pid, &status, WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
    g_assert_cmpint(getsid(process.pid), !=, getsid(0));
    g_assert_cmpint(getsid(process.pid), !=, process.pid); /* cannot get a terminal by accident */
    g_assert_true(gw_process_alive(process));
    end(process);
    g_assert_false(gw_process_alive(process));
}

static void
test_survives_us(Fixture *f, const void *unused)
{
    GwProcessId process = {0};
    int channel[2];

    g_assert_cmpint(pipe2(channel, O_CLOEXEC), ==, 0);
    pid_t child = fork();
    if (child == 0) {
        GwProcessId started = start_sleeper(f);
        _exit(write(channel[1], &started, sizeof started) == sizeof started ? 0 : 1);
    }
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_cmpint(read(channel[0], &process, sizeof process), ==, sizeof process);
    g_assert_true(gw_process_alive(process));
    end(process);
    close(channel[0]);
    close(channel[1]);
}

static void
test_user(Fixture *f, const void *unused)
{
    if (geteuid() != 0) {
        g_test_skip("only root can become another user");
        return;
    }
    GwLaunch launch = {
        .argv = (const char *const[]){"/bin/sh", "-c",
                                      "grep -E '^(Uid|Gid|Groups|Cap(Eff|Prm|Amb)):' "
                                      "/proc/$$/status",
                                      NULL},
        .log_path = f->log,
        .user = "nobody",
        .groups = (const char *const[]){"daemon", "no-such-group", NULL},
    };
    g_autofree char *text = output_of(f, start(&launch));
    g_assert_nonnull(strstr(text, "Uid:\t65534\t65534\t65534\t65534\n"));
    g_assert_nonnull(strstr(text, "Gid:\t65534\t65534\t65534\t65534\n"));
    g_assert_nonnull(strstr(text, "Groups:\t1 65534 \n"));
    g_assert_nonnull(strstr(text, "CapEff:\t0000000000000000\n"));
    g_assert_nonnull(strstr(text, "CapPrm:\t0000000000000000\n"));
    g_assert_nonnull(strstr(text, "CapAmb:\t0000000000000000\n"));
}

static void
set_effective(unsigned capability, bool on)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    g_assert_cmpint(syscall(SYS_capget, &header, data), ==, 0);
    uint32_t bit = UINT32_C(1) << capability % 32;
    uint32_t *word = &data[capability / 32].effective;
    *word = on ? *word | bit : *word & ~bit;
    g_assert_cmpint(syscall(SYS_capset, &header, data), ==, 0);
}

/* Another user's process, without the right to look into every one. */
static void
test_memory_of_another_user(Fixture *f, const void *unused)
{
    if (geteuid() != 0) {
        g_test_skip("only root can become another user");
        return;
    }
    GwProcessId process = start(&(GwLaunch){
        .argv = (const char *const[]){"/bin/sleep", "1000", NULL},
        .log_path = f->log,
        .user = "nobody",
    });
    g_autoptr(GError) error = NULL;

    set_effective(CAP_SYS_PTRACE, false);
    g_auto(GwFd) memory = gw_process_open(process, "mem", O_RDWR, &error);
    set_effective(CAP_SYS_PTRACE, true);
    g_assert_no_error(error);
    g_assert_cmpint(memory, >=, 0);
    /* We are who we were. */
    g_auto(GwFd) own = open(f->log, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(own, >=, 0);

    GwProcessId other = process;
    other.start_ticks++;
    g_assert_cmpint(gw_process_open(other, "mem", O_RDWR, &error), <, 0);
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_cmpint(gw_process_open(process, "no-such-file", O_RDONLY, &error), <, 0);
    g_assert_nonnull(error);
    g_clear_error(&error);
    end(process);
}

static void
test_watch(Fixture *f, const void *unused)
{
    GwProcessId process = start_sleeper(f);
    bool ended = false;
    bool ignored = false;
    g_autoptr(GError) error = NULL;

    GwProcessWatch *watch = gw_process_watch(process, note_end, &ended, &error);
    g_assert_no_error(error);
    GwProcessWatch *dropped = gw_process_watch(process, note_end, &ignored, &error);
    g_assert_no_error(error);
    run_pending();
    g_assert_false(ended);
    gw_process_watch_free(dropped);
    g_assert_true(gw_process_signal(process, SIGTERM, &error));
    wait_for(ended);
    run_pending();
    g_assert_false(ignored);
    gw_process_watch_free(watch);
    g_assert_null(gw_process_watch(process, note_end, &ended, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
}

static void
test_reused_pid(Fixture *f, const void *unused)
{
    GwProcessId process = start_sleeper(f);
    GwProcessId other = {process.pid, process.start_ticks + 1};
    g_autoptr(GError) error = NULL;

    g_assert_false(gw_process_alive(other));
    g_assert_null(gw_process_watch(other, note_end, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_false(gw_process_signal(other, SIGKILL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_assert_true(gw_process_alive(process));
    end(process);
}

static void
test_no_process(Fixture *f, const void *unused)
{
    g_assert_false(gw_process_alive((GwProcessId){0}));
    g_assert_false(gw_process_signal((GwProcessId){.pid = -1}, SIGKILL, NULL));
    g_assert_false(gw_process_signal((GwProcessId){.pid = G_MAXINT}, SIGKILL, NULL));
}

static void
test_zombie(Fixture *f, const void *unused)
{
    GwProcessId process = {.pid = fork()};
    g_autofree char *text = NULL;
    siginfo_t info;

    if (process.pid == 0) {
        _exit(0);
    }
    g_assert_cmpint(waitid(P_PID, (id_t)process.pid, &info, WEXITED | WNOWAIT), ==, 0);
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)process.pid);
    text = gw_file_read(path, 4096, NULL, NULL);
    g_auto(GStrv) fields = g_strsplit(strrchr(text, ')') + 2, " ", -1);
    process.start_ticks = g_ascii_strtoull(fields[22 - 3], NULL, 10);
    g_assert_false(gw_process_alive(process));
    g_assert_cmpint(waitpid(process.pid, NULL, 0), ==, process.pid);
}

#define ADD(name, function) g_test_add("/launch/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    ADD("exec-failure", test_exec_failure);
    ADD("unknown-user", test_unknown_user);
    ADD("bad-log", test_bad_log);
    ADD("bad-descriptors", test_bad_descriptors);
    ADD("log", test_log);
    ADD("surroundings", test_surroundings);
    ADD("descriptors", test_descriptors);
    ADD("not-our-child", test_not_our_child);
    ADD("survives-us", test_survives_us);
    ADD("user", test_user);
    ADD("memory-of-another-user", test_memory_of_another_user);
    ADD("watch", test_watch);
    ADD("reused-pid", test_reused_pid);
    ADD("no-process", test_no_process);
    ADD("zombie", test_zombie);
    return g_test_run();
}
