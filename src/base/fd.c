// SPDX-License-Identifier: Apache-2.0
/*
 * Descriptors, whole reads and writes, Unix sockets, atomic files. Owns nothing; any thread.
 * Every failure is an errno or a GError; EINTR is retried.
 */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

void
gw_fd_close(GwFd fd)
{
    int saved = errno;

    if (fd >= 0) {
        close(fd);
    }
    errno = saved;
}

void
gw_fd_clear(GwFd *fd)
{
    gw_fd_close(*fd);
    *fd = GW_FD_NONE;
}

ssize_t
gw_fd_read_full(int fd, void *buffer, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t count = read(fd, (char *)buffer + done, len - done);
        if (count == 0) {
            break;
        }
        if (count < 0 && errno != EINTR) {
            return -1;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    return (ssize_t)done;
}

bool
gw_fd_write_full(int fd, const void *buffer, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t count = write(fd, (const char *)buffer + done, len - done);
        if (count < 0 && errno != EINTR) {
            return false;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    return true;
}

bool
gw_fd_set_nonblocking(int fd, bool nonblocking, GError **error)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags >= 0) {
        flags = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
        flags = fcntl(fd, F_SETFL, flags);
    }
    if (flags < 0) {
        gw_set_error_errno(error, errno, "cannot change a descriptor's flags");
        return false;
    }
    return true;
}

GwFd
gw_fd_dup(int fd, GError **error)
{
    GwFd copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    if (copy < 0) {
        gw_set_error_errno(error, errno, "cannot duplicate a descriptor");
    }
    return copy;
}

bool
gw_fd_socketpair(GwFd out[2], GError **error)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        gw_set_error_errno(error, errno, "cannot make a socket pair");
        return false;
    }
    out[0] = fds[0];
    out[1] = fds[1];
    return true;
}

static bool
unix_address(const char *path, struct sockaddr_un *address, GError **error)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "socket path '%s' is longer than %zu bytes: choose a shorter folder", path,
                    sizeof address->sun_path - 1);
        return false;
    }
    memcpy(address->sun_path, path, strlen(path) + 1);
    return true;
}

/* Connects without waiting for a place in the listener's queue; errno tells why not. */
static GwFd
connect_now(const struct sockaddr_un *address)
{
    g_auto(GwFd) fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address) < 0) {
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

/* A socket file whose listener is gone may be replaced, anything else may not. */
static bool
remove_stale_socket(const char *path, const struct sockaddr_un *address, GError **error)
{
    struct stat st;

    if (lstat(path, &st) < 0) {
        return true;
    }
    if (!S_ISSOCK(st.st_mode)) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS, "'%s' exists and is not a socket", path);
        return false;
    }
    /* Only a refusal proves that nobody listens: a full queue or a lack of rights does not. */
    g_auto(GwFd) probe = connect_now(address);
    if (probe >= 0 || errno != ECONNREFUSED) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS, "another process listens on '%s'", path);
        return false;
    }
    if (unlink(path) < 0 && errno != ENOENT) {
        gw_set_error_errno(error, errno, "cannot remove the old socket '%s'", path);
        return false;
    }
    return true;
}

GwFd
gw_unix_listen(const char *path, mode_t mode, GError **error)
{
    struct sockaddr_un address;

    if (!unix_address(path, &address, error) || !remove_stale_socket(path, &address, error)) {
        return GW_FD_NONE;
    }
    g_auto(GwFd) fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* The mode must hold from the first moment: fchmod() before bind() sets it on Linux. */
    if (fd < 0 || fchmod(fd, mode) < 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 || chmod(path, mode) < 0 ||
        listen(fd, SOMAXCONN) < 0) {
        gw_set_error_errno(error, errno, "cannot listen on '%s'", path);
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

GwFd
gw_unix_connect(const char *path, GError **error)
{
    struct sockaddr_un address;

    if (!unix_address(path, &address, error)) {
        return GW_FD_NONE;
    }
    g_auto(GwFd) fd = connect_now(&address);
    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot connect to '%s'", path);
        return GW_FD_NONE;
    }
    return gw_fd_set_nonblocking(fd, false, error) ? g_steal_fd(&fd) : GW_FD_NONE;
}

/* Reads to the end of the file or to one byte beyond the limit; NULL with errno set. The size that
 * fstat() tells is no guide: it is 0 in /proc, a page in /sys, and a file may grow. */
static char *
read_to_end(int fd, size_t max_bytes, size_t *len)
{
    g_autofree char *text = NULL;
    const size_t most = MIN(max_bytes, G_MAXSSIZE / 2) + 1;
    size_t capacity = 0;
    size_t done = 0;

    while (done == capacity && done < most) {
        capacity = MIN(most, MAX(2 * capacity, 16384));
        char *larger = g_try_realloc(text, capacity + 1);
        if (!larger) {
            errno = ENOMEM;
            return NULL;
        }
        text = larger;
        ssize_t count = gw_fd_read_full(fd, text + done, capacity - done);
        if (count < 0) {
            return NULL;
        }
        done += (size_t)count;
    }
    text[done] = '\0';
    *len = done;
    return g_steal_pointer(&text);
}

char *
gw_file_read(const char *path, size_t max_bytes, size_t *len, GError **error)
{
    g_auto(GwFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    size_t count = 0;

    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot open '%s'", path);
        return NULL;
    }
    g_autofree char *text = read_to_end(fd, max_bytes, &count);
    if (!text) {
        gw_set_error_errno(error, errno, "cannot read '%s'", path);
        return NULL;
    }
    if (count > max_bytes) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "'%s' is larger than %zu bytes", path,
                    max_bytes);
        return NULL;
    }
    if (len) {
        *len = count;
    }
    return g_steal_pointer(&text);
}

static bool
sync_folder_of(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_auto(GwFd) fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd >= 0 && fsync(fd) == 0;
}

bool
gw_file_write(const char *path, const void *data, size_t len, mode_t mode, GError **error)
{
    g_autofree char *temporary = g_strdup_printf("%s.XXXXXX", path);
    g_auto(GwFd) fd = g_mkstemp_full(temporary, O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot make a file beside '%s'", path);
        return false;
    }
    if (!gw_fd_write_full(fd, data, len) || fchmod(fd, mode) < 0 || fsync(fd) < 0 ||
        rename(temporary, path) < 0) {
        gw_set_error_errno(error, errno, "cannot write '%s'", path);
        unlink(temporary);
        return false;
    }
    if (!sync_folder_of(path)) {
        gw_set_error_errno(error, errno, "cannot make '%s' durable", path);
        return false;
    }
    return true;
}
