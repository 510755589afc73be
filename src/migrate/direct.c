// SPDX-License-Identifier: Apache-2.0
/*
 * The direct transport's key: QEMU talks to QEMU over TLS with a pre-shared key that is made for
 * one move, travels over the hosts' authenticated session, and lies in a file that only QEMU's
 * user can read. A listening QEMU reads it at each handshake, so it stays until the move has ended;
 * what a crash leaves is removed at the next start.
 *
 * Main context. Owns the folder key-ID in the run folder.
 */
#include "base/fd.h"
#include "migrate/internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <pwd.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_BYTES 32
#define BACKLOG   4
#define KEY_FILE  "keys.psk" /* the name that QEMU looks for */
#define USER_NAME "godwit"

static void
ignore_reply(json_t *answer, const GError *error, void *data)
{
    /* There is nothing to do if it was not there. */
}

char *
gw_direct_new_key(void)
{
    uint8_t bytes[KEY_BYTES];
    GString *hex = g_string_new(NULL);

    /* From the kernel; 32 bytes never come in parts once it is seeded. */
    while (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
        continue;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        g_string_append_printf(hex, "%02x", bytes[i]);
    }
    return g_string_free(hex, FALSE);
}

static char *
key_folder(const GwMove *move)
{
    return g_strdup_printf("%s/key-%s", move->moves->options.run_dir, move->id);
}

/* @at: NULL for all addresses. */
static GwFd
listen_at(const struct sockaddr_storage *at, uint16_t port)
{
    struct sockaddr_storage address = {.ss_family = AF_INET6};
    int off = 0;
    int on = 1;

    if (at) {
        address = *at;
    }
    gw_sockaddr_set_port(&address, port);
    g_auto(GwFd) fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (const struct sockaddr *)&address, gw_sockaddr_len(&address)) < 0 ||
        listen(fd, BACKLOG) < 0) {
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

GwFd
gw_direct_open_door(const GwMovesOptions *options, const struct sockaddr_storage *at,
                    uint16_t *port, GError **error)
{
    int errnum = 0;

    for (unsigned next = options->direct_port_min; next <= options->direct_port_max; next++) {
        GwFd fd = listen_at(at, (uint16_t)next);
        if (fd >= 0) {
            *port = (uint16_t)next;
            return fd;
        }
        errnum = errno;
    }
    gw_set_error_errno(error, errnum, "none of the ports %u to %u for direct moves is free",
                       options->direct_port_min, options->direct_port_max);
    return GW_FD_NONE;
}

void
gw_direct_remove_key(GwMove *move)
{
    g_autofree char *folder = key_folder(move);
    g_autofree char *path = g_build_filename(folder, KEY_FILE, NULL);

    unlink(path);
    rmdir(folder);
}

bool
gw_direct_give_to_qemu(const char *path, const char *user_name, GError **error)
{
    const struct passwd *user = user_name ? getpwnam(user_name) : NULL;

    if (user_name && (!user || chown(path, user->pw_uid, user->pw_gid) < 0)) {
        gw_set_error_errno(error, user ? errno : ENOENT, "cannot give '%s' to user '%s'", path,
                           user_name);
        return false;
    }
    return true;
}

static bool
write_key(GwMove *move, const char *folder, const char *key, GError **error)
{
    const char *user = move->moves->options.qemu_user;
    g_autofree char *path = g_build_filename(folder, KEY_FILE, NULL);
    g_autofree char *text = g_strdup_printf(USER_NAME ":%s\n", key);

    if (mkdir(folder, 0700) < 0) {
        gw_set_error_errno(error, errno, "cannot make folder '%s'", folder);
        return false;
    }
    return gw_file_write(path, text, strlen(text), 0600, error) &&
           gw_direct_give_to_qemu(path, user, error) && gw_direct_give_to_qemu(folder, user, error);
}

bool
gw_direct_add_credentials(GwMove *move, const char *key, const char *endpoint, GwQmpReplyFn reply,
                          void *data, GError **error)
{
    g_autofree char *folder = key_folder(move);
    GwVm *vm = gw_move_vm(move);

    if (!vm || !gw_vm_qmp(vm)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "VM '%s' has no QEMU any more", move->vm_name);
        return false;
    }
    if (!write_key(move, folder, key, error)) {
        gw_direct_remove_key(move);
        return false;
    }
    /* Left to itself GnuTLS takes ChaCha20 for a pre-shared key, at several times AES's cost. */
    json_t *arguments =
        json_pack("{s:s, s:s, s:s, s:s, s:s}", "qom-type", "tls-creds-psk", "id", "gwpsk", "dir",
                  folder, "endpoint", endpoint, "priority", "NORMAL:-CHACHA20-POLY1305");
    if (g_str_equal(endpoint, "client")) {
        gw_json_set_str(arguments, "username", USER_NAME);
    }
    /* Left over from an earlier move of this QEMU: none is no error. */
    gw_qmp_call(gw_vm_qmp(vm), "object-del", json_pack("{s:s}", "id", "gwpsk"), ignore_reply, NULL);
    gw_qmp_call(gw_vm_qmp(vm), "object-add", arguments, reply, data);
    return true;
}
