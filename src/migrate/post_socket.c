// SPDX-License-Identifier: Apache-2.0
/*
 * The Unix sockets over which QEMU and the daemon meet when a move may switch to post-copy.
 *
 * QEMU opens its preempt channel only over a transport that it can connect to by itself, so the
 * descriptor that a pre-copy gets is not enough. The sockets lie in a folder of the move's own
 * that belongs to QEMU's user. Main context; local calls only. Who is at the other end is proven by
 * its process id: other QEMUs run as the same user.
 */
#include "base/fd.h"
#include "migrate/internal.h"
#include "qemu/launch.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define DEVICE "/dev/userfaultfd"
#define SYSCTL "/proc/sys/vm/unprivileged_userfaultfd"

static char *
folder_of(const GwMove *move)
{
    return g_strdup_printf("%s/post-%s", move->moves->options.run_dir, move->id);
}

bool
gw_move_may_post(const GwMove *move)
{
    return strcmp(gw_json_str(move->record, "mode", GW_MODE_PRE_COPY), GW_MODE_PRE_COPY) != 0;
}

bool
gw_mode_is_valid(const char *mode)
{
    static const char *const modes[] = {GW_MODE_PRE_COPY, GW_MODE_POST_COPY, GW_MODE_HYBRID, NULL};

    return g_strv_contains(modes, mode);
}

char *
gw_post_socket_path(GwMove *move, unsigned number, GError **error)
{
    g_autofree char *folder = folder_of(move);

    if (g_mkdir(folder, 0700) < 0 && errno != EEXIST) {
        gw_set_error_errno(error, errno, "cannot make folder '%s'", folder);
        return NULL;
    }
    if (!gw_direct_give_to_qemu(folder, move->moves->options.qemu_user, error)) {
        return NULL;
    }
    return g_strdup_printf("%s/%u", folder, number);
}

void
gw_post_remove_sockets(GwMove *move)
{
    g_autofree char *folder = folder_of(move);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_unlink(path);
    }
    g_rmdir(folder);
}

bool
gw_post_is_qemu(GwMove *move, int fd, GError **error)
{
    struct ucred peer = {0};
    socklen_t len = sizeof peer;
    GwVm *vm = gw_move_vm(move);
    g_autoptr(json_t) shown = vm ? gw_vm_json(vm) : NULL;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && shown &&
        peer.pid == gw_json_int(shown, "pid", -1)) {
        return true;
    }
    g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                "VM '%s': process %d is not its QEMU and has no business at its migration socket",
                move->vm_name, (int)peer.pid);
    return false;
}

GwFd
gw_post_connect(GwMove *move, const char *path, GError **error)
{
    g_auto(GwFd) fd = gw_unix_connect(path, error);

    return fd >= 0 && gw_post_is_qemu(move, fd, error) ? g_steal_fd(&fd) : GW_FD_NONE;
}

/* --- what the kernel allows ------------------------------------------------------------------- */

static bool
has_group(const struct passwd *user, gid_t wanted)
{
    const struct group *kvm = getgrnam("kvm"); /* QEMU is started with it */
    gid_t groups[64];
    int n = G_N_ELEMENTS(groups);

    if (kvm && kvm->gr_gid == wanted) {
        return true;
    }
    n = getgrouplist(user->pw_name, user->pw_gid, groups, &n) < 0 ? 0 : n;
    for (int i = 0; i < n; i++) {
        if (groups[i] == wanted) {
            return true;
        }
    }
    return false;
}

bool
gw_post_may_fault(const char *qemu_user)
{
    g_autofree char *allowed = gw_file_read(SYSCTL, 16, NULL, NULL);
    const struct passwd *user = qemu_user ? getpwnam(qemu_user) : NULL;
    struct stat device;

    if ((allowed && allowed[0] == '1') || !qemu_user || (user && user->pw_uid == 0)) {
        return true;
    }
    if (!user || stat(DEVICE, &device) < 0) {
        return false;
    }
    return (device.st_mode & 0006) == 0006 ||
           (device.st_uid == user->pw_uid && (device.st_mode & 0600) == 0600) ||
           ((device.st_mode & 0060) == 0060 && has_group(user, device.st_gid));
}
