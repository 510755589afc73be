// SPDX-License-Identifier: Apache-2.0
/*
 * File descriptors that close themselves, whole reads and writes, Unix sockets, safe files.
 *
 * Blocking calls in here are for worker threads and for small local files; the control thread
 * uses them on local files only. EINTR is retried. All descriptors are close-on-exec.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/* g_auto(GwFd) fd = GW_FD_NONE; closes at the end of the scope and keeps errno. */
typedef int GwFd;
#define GW_FD_NONE (-1)

void gw_fd_close(GwFd fd);
G_DEFINE_AUTO_CLEANUP_FREE_FUNC(GwFd, gw_fd_close, GW_FD_NONE)

/* Closes *@fd if it is open and sets it to GW_FD_NONE. */
void gw_fd_clear(GwFd *fd);

/* Reads until @len bytes or end of file. Returns the count (short only at end of file) or -1. */
ssize_t gw_fd_read_full(int fd, void *buffer, size_t len) GW_MUST_USE;

/* Writes all of @len bytes; false with errno set. SIGPIPE must be ignored by the process. */
bool gw_fd_write_full(int fd, const void *buffer, size_t len) GW_MUST_USE;

bool gw_fd_set_nonblocking(int fd, bool nonblocking, GError **error) GW_MUST_USE;

/* Another descriptor of what @fd is. GW_FD_NONE on failure. */
GwFd gw_fd_dup(int fd, GError **error) GW_MUST_USE;

/* A pair of connected stream sockets. */
bool gw_fd_socketpair(GwFd out[2], GError **error) GW_MUST_USE;

/* A listening Unix stream socket at @path with @mode; a stale socket file there is replaced. */
GwFd gw_unix_listen(const char *path, mode_t mode, GError **error) GW_MUST_USE;

/* Connects to the Unix socket at @path: at once or not at all, as these do. */
GwFd gw_unix_connect(const char *path, GError **error) GW_MUST_USE;

/*
 * Reads a whole file of at most @max_bytes (GW_ERROR_TOO_LARGE beyond); NUL-terminated, the
 * length goes to @len (nullable). Transfer full.
 */
char *gw_file_read(const char *path, size_t max_bytes, size_t *len, GError **error) GW_MUST_USE;

/* Replaces @path atomically and durably (temporary file, fsync, rename, fsync of the folder). */
bool gw_file_write(const char *path, const void *data, size_t len, mode_t mode,
                   GError **error) GW_MUST_USE;
