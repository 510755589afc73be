// SPDX-License-Identifier: Apache-2.0
/*
 * Starts a process that is not our child and outlives us.
 *
 * We fork twice; the process in the middle makes a new session and exits at once, so the init
 * process inherits and reaps the new one. Everything that allocates or takes a lock (user and group
 * look-ups, the log file, the environment) happens before the first fork; in between fork and exec
 * there are only system calls, because the daemon has threads whose locks a forked child would
 * find taken for ever.
 *
 * A socket pair connects us to the new process: it tells its pid and waits; we read its start time
 * while it cannot end; it goes on, and either exec closes the socket or the failed step arrives.
 *
 * The new process has: descriptors 0 to 2 (/dev/null and the log) and those asked for; default
 * signal dispositions, none blocked; umask 077; / as its folder; and of our environment only PATH,
 * LD_LIBRARY_PATH and TMPDIR, so that nothing meant for the daemon (notify socket, credentials)
 * reaches QEMU. Owns nothing beyond the call. Main context. Blocks for fork and exec.
 */
#include "qemu/launch.h"

#include "base/fd.h"
#include "qemu/process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MAX_FDS    64
#define MAX_GROUPS 256

typedef enum Step {
    STEP_FORKED, /* not a failure: `value` is the pid */
    STEP_FORK,
    STEP_DESCRIPTORS,
    STEP_USER,
    STEP_REGAINED,
    STEP_EXEC,
} Step;

typedef struct Report {
    int step;
    int value; /* errno, or the pid */
} Report;

/* All that the new process needs, made before the fork. */
typedef struct Plan {
    const GwLaunch *launch;
    char **environment;
    bool change_user;
    uid_t uid;
    gid_t gid;
    gid_t groups[MAX_GROUPS];
    int n_groups;
    int log_fd;
    int null_fd;
    int first_free_fd; /* above all that are asked for */
    int status_fd;
    pid_t our_pid;
    int our_fd; /* the other end: open there it would hide our death from the new process */
} Plan;

/* --- between fork and exec: async-signal-safe only -------------------------------------------- */

static void G_GNUC_NORETURN
give_up(int status_fd, Step step)
{
    Report report = {.step = step, .value = errno};
    ssize_t ignored = write(status_fd, &report, sizeof report);

    (void)ignored;
    _exit(127);
}

static void
reset_signals(const Plan *plan)
{
    /* The kernel's structure, all zero: SIG_DFL. glibc's call leaves out the two signals that it
     * keeps for itself, and whoever started us may have had them ignored. */
    const unsigned long action[4] = {0};
    sigset_t none;

    for (int number = 1; number < NSIG; number++) {
        syscall(SYS_rt_sigaction, number, action, NULL, sizeof(unsigned long));
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* First all out of the way of the wanted numbers, then close-on-exec for all, then into place. */
static void
place_fds(Plan *plan)
{
    const GwLaunch *launch = plan->launch;
    int away[MAX_FDS];

    for (unsigned i = 0; i < launch->n_fds; i++) {
        away[i] = fcntl(launch->fds[i], F_DUPFD, plan->first_free_fd);
        if (away[i] < 0) {
            give_up(plan->status_fd, STEP_DESCRIPTORS);
        }
    }
    int log_fd = fcntl(plan->log_fd, F_DUPFD, plan->first_free_fd);
    int null_fd = fcntl(plan->null_fd, F_DUPFD, plan->first_free_fd);
    int status_fd = fcntl(plan->status_fd, F_DUPFD, plan->first_free_fd);
    if (log_fd < 0 || null_fd < 0 || status_fd < 0) {
        give_up(plan->status_fd, STEP_DESCRIPTORS);
    }
    plan->status_fd = status_fd;
    if (syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) < 0 || dup2(null_fd, 0) < 0 ||
        dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0) {
        give_up(status_fd, STEP_DESCRIPTORS);
    }
    for (unsigned i = 0; i < launch->n_fds; i++) {
        if (dup2(away[i], launch->fds_as[i]) < 0) {
            give_up(status_fd, STEP_DESCRIPTORS);
        }
    }
}

/* System calls, not glibc's wrappers: those change all threads of a process, under a lock. */
static void
drop_privileges(const Plan *plan)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

    if (!plan->change_user) {
        return;
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        syscall(SYS_setgroups, plan->n_groups, plan->groups) < 0 ||
        syscall(SYS_setresgid, plan->gid, plan->gid, plan->gid) < 0 ||
        syscall(SYS_setresuid, plan->uid, plan->uid, plan->uid) < 0 ||
        syscall(SYS_capset, &header, none) < 0) {
        give_up(plan->status_fd, STEP_USER);
    }
    if (plan->uid != 0 && syscall(SYS_setresuid, 0, 0, 0) == 0) {
        errno = EPERM;
        give_up(plan->status_fd, STEP_REGAINED);
    }
}

/* Where only ancestors may look into a process (Yama), we may: pages of a guest that comes are
 * written into its memory. Not more than that, and nothing where there is no Yama. */
static void
allow_us(const Plan *plan)
{
    (void)prctl(PR_SET_PTRACER, (unsigned long)plan->our_pid, 0, 0, 0);
}

static void G_GNUC_NORETURN
run_new_process(Plan *plan)
{
    Report hello = {.step = STEP_FORKED, .value = getpid()};
    char go;

    if (write(plan->status_fd, &hello, sizeof hello) != sizeof hello ||
        read(plan->status_fd, &go, 1) != 1) {
        _exit(127);
    }
    umask(077);
    place_fds(plan);
    drop_privileges(plan);
    allow_us(plan);
    if (chdir("/") < 0) {
        give_up(plan->status_fd, STEP_EXEC);
    }
    reset_signals(plan);
    execve(plan->launch->argv[0], (char *const *)plan->launch->argv, plan->environment);
    give_up(plan->status_fd, STEP_EXEC);
}

static void G_GNUC_NORETURN
run_middle_process(Plan *plan)
{
    close(plan->our_fd);
    setsid();
    pid_t pid = fork();
    if (pid == 0) {
        run_new_process(plan);
    }
    if (pid < 0) {
        give_up(plan->status_fd, STEP_FORK);
    }
    _exit(0);
}

/* --- before the fork -------------------------------------------------------------------------- */

static bool
check_request(const GwLaunch *launch, GError **error)
{
    if (!strchr(launch->argv[0], '/')) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is not a path", launch->argv[0]);
        return false;
    }
    if (launch->n_fds > MAX_FDS) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "%u descriptors for '%s', at most %d",
                    launch->n_fds, launch->argv[0], MAX_FDS);
        return false;
    }
    for (unsigned i = 0; i < launch->n_fds; i++) {
        bool taken = launch->fds_as[i] < 3;
        for (unsigned j = 0; j < i; j++) {
            taken = taken || launch->fds_as[j] == launch->fds_as[i];
        }
        if (taken) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "descriptor number %d is taken",
                        launch->fds_as[i]);
            return false;
        }
    }
    return true;
}

static void
add_group(Plan *plan, const char *name)
{
    char buffer[16384];
    struct group entry;
    struct group *found = NULL;

    if (plan->n_groups < MAX_GROUPS &&
        getgrnam_r(name, &entry, buffer, sizeof buffer, &found) == 0 && found) {
        plan->groups[plan->n_groups++] = found->gr_gid;
    }
}

static bool
look_up_user(Plan *plan, GError **error)
{
    const GwLaunch *launch = plan->launch;
    char buffer[16384];
    struct passwd entry;
    struct passwd *found = NULL;

    if (!launch->user) {
        return true;
    }
    int result = getpwnam_r(launch->user, &entry, buffer, sizeof buffer, &found);
    if (!found) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND,
                    "user '%s' does not exist%s%s: make it, "
                    "or choose another user for QEMU",
                    launch->user, result ? ": " : "", result ? g_strerror(result) : "");
        return false;
    }
    plan->change_user = found->pw_uid != geteuid();
    plan->uid = found->pw_uid;
    plan->gid = found->pw_gid;
    plan->n_groups = MAX_GROUPS;
    if (getgrouplist(launch->user, plan->gid, plan->groups, &plan->n_groups) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "user '%s' is in more than %d groups",
                    launch->user, MAX_GROUPS);
        return false;
    }
    for (unsigned i = 0; launch->groups && launch->groups[i]; i++) {
        add_group(plan, launch->groups[i]);
    }
    return true;
}

static char **
make_environment(void)
{
    static const char *const KEPT[] = {"PATH", "LD_LIBRARY_PATH", "TMPDIR"};
    char **environment = g_environ_setenv(NULL, "LC_ALL", "C", TRUE);

    for (unsigned i = 0; i < G_N_ELEMENTS(KEPT); i++) {
        const char *value = g_getenv(KEPT[i]);
        if (value) {
            environment = g_environ_setenv(environment, KEPT[i], value, TRUE);
        }
    }
    return environment;
}

static GwFd
open_log(const char *path, GError **error)
{
    GwFd fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);

    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot open the log '%s'", path);
    }
    return fd;
}

/* --- our side of the socket pair -------------------------------------------------------------- */

static bool
explain(const GwLaunch *launch, const Report *report, GError **error)
{
    const char *binary = launch->argv[0];

    switch ((Step)report->step) {
    case STEP_FORK:
        gw_set_error_errno(error, report->value, "cannot start '%s': no new process", binary);
        break;
    case STEP_DESCRIPTORS:
        gw_set_error_errno(error, report->value, "cannot start '%s': its descriptors", binary);
        break;
    case STEP_USER:
        gw_set_error_errno(error, report->value,
                           "cannot start '%s': becoming user '%s' (does the daemon run as root?)",
                           binary, launch->user);
        break;
    case STEP_REGAINED:
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED,
                    "cannot start '%s': user '%s' could become root again", binary, launch->user);
        break;
    case STEP_EXEC:
        gw_set_error_errno(error, report->value, "cannot run '%s'%s%s", binary,
                           launch->user ? " as user " : "", launch->user ? launch->user : "");
        break;
    case STEP_FORKED:
    default:
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "cannot start '%s': it was killed at once",
                    binary);
        break;
    }
    return false;
}

/* Follows the new process until exec has closed its end of the socket, or says what failed. */
static bool
follow(const GwLaunch *launch, int fd, GwProcessId *out, GError **error)
{
    Report report = {.step = STEP_FORKED};
    GwProcessId process = {0};

    if (gw_fd_read_full(fd, &report, sizeof report) != sizeof report ||
        report.step != STEP_FORKED) {
        return explain(launch, &report, error);
    }
    process.pid = report.value;
    if (!gw_process_start_ticks(process.pid, &process.start_ticks, error)) {
        return false; /* The process sees our end close, and goes. */
    }
    if (!gw_fd_write_full(fd, "g", 1) ||
        gw_fd_read_full(fd, &report, sizeof report) == sizeof report) {
        return explain(launch, &report, error);
    }
    *out = process;
    return true;
}

/* Signals are blocked over the fork, so that no handler of ours runs in the new process. */
static pid_t
fork_middle_process(Plan *plan)
{
    sigset_t all;
    sigset_t before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) {
        run_middle_process(plan);
    }
    int saved = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
    return pid;
}

bool
gw_launch(const GwLaunch *launch, GwProcessId *out, GError **error)
{
    Plan plan = {.launch = launch, .first_free_fd = 3, .our_pid = getpid()};

    if (!check_request(launch, error) || !look_up_user(&plan, error)) {
        return false;
    }
    g_auto(GwFd) log_fd = open_log(launch->log_path, error);
    if (log_fd < 0) {
        return false;
    }
    g_auto(GwFd) null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd < 0) {
        gw_set_error_errno(error, errno, "cannot open /dev/null");
        return false;
    }
    GwFd pair[2] = {GW_FD_NONE, GW_FD_NONE};
    if (!gw_fd_socketpair(pair, error)) {
        return false;
    }
    g_auto(GwFd) ours = pair[0];
    g_auto(GwFd) theirs = pair[1];
    g_auto(GStrv) environment = make_environment();
    for (unsigned i = 0; i < launch->n_fds; i++) {
        plan.first_free_fd = MAX(plan.first_free_fd, launch->fds_as[i] + 1);
    }
    plan.environment = environment;
    plan.log_fd = log_fd;
    plan.null_fd = null_fd;
    plan.status_fd = theirs;
    plan.our_fd = ours;
    pid_t middle = fork_middle_process(&plan);
    if (middle < 0) {
        gw_set_error_errno(error, errno, "cannot start '%s': no new process", launch->argv[0]);
        return false;
    }
    gw_fd_clear(&theirs);
    while (waitpid(middle, NULL, 0) < 0 && errno == EINTR) {
    }
    return follow(launch, ours, out, error);
}
