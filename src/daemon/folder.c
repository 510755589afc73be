// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon's folders and the lock that keeps a second daemon out of them. Owns nothing beyond
 * its results; runs once at the start, in the main thread while there are no others (the umask
 * belongs to the process). Fails with GW_ERROR_IO, GW_ERROR_REFUSED for a folder that others can
 * write to, GW_ERROR_EXISTS for one that is in use.
 */
#include "daemon/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

/* A folder that was there keeps its mode, but nobody else may be able to change what is in it. */
static bool
check_folder(const char *path, const char *key, GError **error)
{
    struct stat st;

    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' (%s) is not a folder", path, key);
        return false;
    }
    if (st.st_uid != geteuid() || (st.st_mode & 022)) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "other users can write to the folder '%s' (%s): give it to godwitd's user and "
                    "take away the others' right to write",
                    path, key);
        return false;
    }
    return true;
}

bool
gw_folder_make(const char *path, mode_t mode, const char *key, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    const mode_t mask = umask(022);
    int made = g_mkdir_with_parents(parent, 0755);

    umask(mask);
    if (made == 0) {
        made = mkdir(path, mode);
        if (made < 0 && errno == EEXIST) {
            return check_folder(path, key, error);
        }
    }
    if (made < 0 || chmod(path, mode) < 0) {
        gw_set_error_errno(error, errno, "cannot make the folder '%s' (%s)", path, key);
        return false;
    }
    return true;
}

GwFd
gw_folder_lock(const char *state_dir, GError **error)
{
    g_autofree char *path = g_build_filename(state_dir, "godwitd.lock", NULL);
    g_autofree char *pid = g_strdup_printf("%d\n", (int)getpid());
    g_auto(GwFd) fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot open '%s'", path);
        return GW_FD_NONE;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        char holder[16] = "";
        if (errno != EWOULDBLOCK) {
            gw_set_error_errno(error, errno, "cannot lock '%s'", path);
            return GW_FD_NONE;
        }
        if (pread(fd, holder, sizeof holder - 1, 0) < 0) {
            holder[0] = '\0';
        }
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS,
                    "another godwitd (pid %s) uses '%s': stop it first, or give this one another "
                    "[host] state-dir and run-dir",
                    holder[0] ? g_strstrip(holder) : "unknown", state_dir);
        return GW_FD_NONE;
    }
    if (ftruncate(fd, 0) < 0 || !gw_fd_write_full(fd, pid, strlen(pid))) {
        gw_set_error_errno(error, errno, "cannot write '%s'", path);
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}
