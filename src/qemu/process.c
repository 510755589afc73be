// SPDX-License-Identifier: Apache-2.0
/*
 * Processes that are not our children: are they there, when do they end, signals for them, and what
 * /proc has of them.
 *
 * The pidfd is opened first and the start time compared afterwards: a pidfd that was opened for
 * the wrong process then shows the wrong start time, and one for the right process stays with it.
 * A process that has ended but was not reaped by its parent yet counts as ended. Owns a watch's
 * pidfd. Main context. Fails with GW_ERROR_NOT_FOUND, or GW_ERROR_IO when /proc cannot be read.
 */
#include "qemu/process.h"

#include "base/fd.h"
#include "qemu/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STAT_MAX_BYTES 4096
/* proc(5) counts from 1; what follows the name in parentheses begins with field 3. */
#define FIELD_AFTER_NAME  3
#define FIELD_USER_TICKS  14 /* and 15: in the kernel */
#define FIELD_START_TICKS 22

struct GwProcessWatch {
    GwFd pidfd;
    guint source;
    GwProcessExitFn callback;
    void *data;
};

static bool
not_found(pid_t pid, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND, "process %d has ended", (int)pid);
    return false;
}

/* Reads @n fields, of which @first is the first. */
static bool
read_stat(pid_t pid, int first, size_t n, uint64_t *out, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autoptr(GError) problem = NULL;
    g_autofree char *text = gw_file_read(path, STAT_MAX_BYTES, NULL, &problem);

    if (!text) {
        if (!g_file_test("/proc/self/stat", G_FILE_TEST_EXISTS)) {
            g_propagate_error(error, g_steal_pointer(&problem));
            return false;
        }
        return not_found(pid, error);
    }
    /* The name may hold blanks and parentheses; nothing after it does. */
    const char *field = strrchr(text, ')');
    for (int i = FIELD_AFTER_NAME - 1; field && i < first; i++) {
        field = strchr(field + 1, ' ');
    }
    for (size_t i = 0; i < n; i++) {
        if (!field || !g_ascii_isdigit(field[1])) {
            g_set_error(error, GW_ERROR, GW_ERROR_IO, "'%s' cannot be understood", path);
            return false;
        }
        out[i] = g_ascii_strtoull(field + 1, NULL, 10);
        field = strchr(field + 1, ' ');
    }
    return true;
}

bool
gw_process_start_ticks(pid_t pid, uint64_t *ticks, GError **error)
{
    return read_stat(pid, FIELD_START_TICKS, 1, ticks, error);
}

bool
gw_process_cpu_us(pid_t pid, int64_t *cpu_us, GError **error)
{
    uint64_t ticks[2];

    if (!read_stat(pid, FIELD_USER_TICKS, G_N_ELEMENTS(ticks), ticks, error)) {
        return false;
    }
    *cpu_us = (int64_t)((ticks[0] + ticks[1]) * G_USEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
    return true;
}

/* Whether the process with that number is this one still: numbers are given again. */
static bool
is_the_one(GwProcessId process, GError **error)
{
    uint64_t ticks = 0;

    if (!gw_process_start_ticks(process.pid, &ticks, error)) {
        return false;
    }
    if (ticks != process.start_ticks) {
        not_found(process.pid, error);
        return false;
    }
    return true;
}

/* A descriptor for the process, which may have ended; GW_ERROR_NOT_FOUND if it is another one. */
static GwFd
open_process(GwProcessId process, GError **error)
{
    if (process.pid <= 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND, "there is no process");
        return GW_FD_NONE;
    }
    g_auto(GwFd) pidfd = pidfd_open(process.pid, 0);
    if (pidfd < 0 && errno != ESRCH) {
        gw_set_error_errno(error, errno, "cannot watch process %d", (int)process.pid);
        return GW_FD_NONE;
    }
    if (pidfd < 0) {
        not_found(process.pid, error);
        return GW_FD_NONE;
    }
    if (!is_the_one(process, error)) {
        return GW_FD_NONE;
    }
    return g_steal_fd(&pidfd);
}

/* For the calling thread only, and for files only: see setfsuid(2). */
static void
act_on_files_as(uid_t uid, gid_t gid)
{
    syscall(SYS_setfsgid, gid);
    syscall(SYS_setfsuid, uid);
}

GwFd
gw_process_open(GwProcessId process, const char *name, int flags, GError **error)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d", (int)process.pid);
    g_autofree char *path = g_strdup_printf("%s/%s", folder, name);
    struct stat status;

    if (stat(folder, &status) < 0) {
        not_found(process.pid, error);
        return GW_FD_NONE;
    }
    act_on_files_as(status.st_uid, status.st_gid);
    g_auto(GwFd) fd = open(path, flags | O_CLOEXEC);
    int problem = errno;
    act_on_files_as(geteuid(), getegid());
    if (fd < 0) {
        gw_set_error_errno(error, problem, "cannot open '%s'", path);
        return GW_FD_NONE;
    }
    /* Looked at only now: then it is this process's. */
    if (!is_the_one(process, error)) {
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

/* A pidfd becomes readable when its process ends. */
static bool
has_ended(int pidfd)
{
    struct pollfd entry = {.fd = pidfd, .events = POLLIN};

    return poll(&entry, 1, 0) == 1;
}

bool
gw_process_alive(GwProcessId process)
{
    g_auto(GwFd) pidfd = open_process(process, NULL);

    return pidfd >= 0 && !has_ended(pidfd);
}

static gboolean
on_ended(gint fd, GIOCondition condition, void *data)
{
    GwProcessWatch *watch = data;

    watch->source = 0;
    watch->callback(watch->data);
    return G_SOURCE_REMOVE;
}

GwProcessWatch *
gw_process_watch(GwProcessId process, GwProcessExitFn callback, void *data, GError **error)
{
    g_auto(GwFd) pidfd = open_process(process, error);

    if (pidfd < 0) {
        return NULL;
    }
    if (has_ended(pidfd)) {
        not_found(process.pid, error);
        return NULL;
    }
    GwProcessWatch *watch = g_new0(GwProcessWatch, 1);
    watch->pidfd = g_steal_fd(&pidfd);
    watch->callback = callback;
    watch->data = data;
    watch->source = g_unix_fd_add(watch->pidfd, G_IO_IN, on_ended, watch);
    return watch;
}

void
gw_process_watch_free(GwProcessWatch *watch)
{
    if (!watch) {
        return;
    }
    if (watch->source) {
        g_source_remove(watch->source);
    }
    gw_fd_close(watch->pidfd);
    g_free(watch);
}

bool
gw_process_signal(GwProcessId process, int signal_number, GError **error)
{
    g_auto(GwFd) pidfd = open_process(process, error);

    if (pidfd < 0) {
        return false;
    }
    if (pidfd_send_signal(pidfd, signal_number, NULL, 0) == 0) {
        return true;
    }
    if (errno == ESRCH) {
        return not_found(process.pid, error);
    }
    gw_set_error_errno(error, errno, "cannot send signal %d to process %d", signal_number,
                       (int)process.pid);
    return false;
}
