// SPDX-License-Identifier: Apache-2.0
/*
 * The plain transport: QEMU's stream as it is, over a TCP connection that the two daemons make.
 *
 * It is neither encrypted nor digested, so it goes only where both hosts' plain-networks allow it.
 * Who is at the other end is proven, once: the target's daemon tells a fresh key over the hosts'
 * authenticated session, the source's writes it first, and only a connection that begins with it
 * goes to QEMU. Whoever can write to the network can still take such a connection over; that is
 * what the operator allows by naming the network.
 *
 * Main context, never waiting. A door (target) and a call (source) own their sockets, callers and
 * timers; freeing them leaves nothing. They end once, through their GwPlainFn, with a connection or
 * an error, after at most the time that they were given. A door has at most MAX_CALLERS at once,
 * each of whom has KEY_WAIT_MS to show the key, and ends after MAX_WRONG that did not.
 */
#include "base/fd.h"
#include "migrate/internal.h"

#include <errno.h>
#include <glib-unix.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#define KEY_CHARS          64
#define KEY_WAIT_MS        2000
#define MAX_CALLERS        4
#define MAX_WRONG          16
#define CONNECT_TIMEOUT_MS 5000
#define KEEP_IDLE_S        15
#define KEEP_INTERVAL_S    5

struct GwPlainDoor {
    GwMove *move;
    GwFd fd; /* listens */
    guint watch;
    guint timer;
    GPtrArray *callers; /* of Caller, owning */
    unsigned n_wrong;
    char *key;
    uint16_t port;
    GwPlainFn done;
    void *data;
};

typedef struct Caller {
    GwPlainDoor *door;
    GwFd fd;
    char *from;
    guint watch;
    guint timer;
    char key[KEY_CHARS];
    size_t have;
} Caller;

struct GwPlainCall {
    GwMove *move;
    GwFd fd;
    char *to;
    guint watch;
    guint timer;
    char *key;
    size_t sent;
    GwPlainFn done;
    void *data;
};

bool
gw_plain_is_allowed(const GwMovesOptions *options, const struct sockaddr_storage *address,
                    GError **error)
{
    if (gw_networks_have(options->plain_networks, address)) {
        return true;
    }
    g_autofree char *text = gw_sockaddr_text(address);
    g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                "plain-networks in godwitd.conf on host '%s' has no network with %s",
                options->host_name, text);
    return false;
}

static guint
connect_timeout_ms(const GwMove *move)
{
    int64_t ms = move->moves->options.connect_timeout_ms;

    return ms > 0 ? (guint)MIN(ms, G_MAXINT / 2) : CONNECT_TIMEOUT_MS;
}

/* Improvements all: a kernel that refuses one still works. */
static void
tune(int fd)
{
    static const struct {
        int level;
        int name;
        int value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                   sizeof(options[i].value));
    }
}

/* --- the target's door ------------------------------------------------------------------------ */

static void
caller_free(void *data)
{
    Caller *caller = data;

    g_clear_handle_id(&caller->watch, g_source_remove);
    g_clear_handle_id(&caller->timer, g_source_remove);
    gw_fd_clear(&caller->fd);
    g_free(caller->from);
    g_free(caller);
}

static void
close_door(GwPlainDoor *door)
{
    g_clear_handle_id(&door->watch, g_source_remove);
    g_clear_handle_id(&door->timer, g_source_remove);
    g_ptr_array_set_size(door->callers, 0);
    gw_fd_clear(&door->fd);
}

/* Its owner may free it in the callback. */
static void
end_door(GwPlainDoor *door, GwFd fd, const GError *error)
{
    close_door(door);
    door->done(fd, error, door->data);
}

static void
fail_door(GwPlainDoor *door, const char *why)
{
    const GwMove *move = door->move;
    g_autoptr(GError) error =
        g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                    "VM '%s': host '%s' made no connection for its memory to port %u of host '%s': "
                    "%s; see that nothing between them closes direct-ports, or use --transport "
                    "lane",
                    move->vm_name, move->peer, door->port, move->moves->options.host_name, why);

    end_door(door, GW_FD_NONE, error);
}

static gboolean on_knock(int fd, GIOCondition condition, void *data);

static void
watch_door(GwPlainDoor *door)
{
    if (door->watch == 0) {
        door->watch = g_unix_fd_add(door->fd, G_IO_IN, on_knock, door);
    }
}

/* The last of them ends the door, which then must not be touched any more. */
static void
turn_away(Caller *caller, const char *why)
{
    GwPlainDoor *door = caller->door;
    GwLogFields fields = gw_move_log_fields(door->move);

    gw_warn(&fields, "a connection from %s to port %u was closed: it %s", caller->from, door->port,
            why);
    g_ptr_array_remove_fast(door->callers, caller);
    if (++door->n_wrong >= MAX_WRONG) {
        fail_door(door, "too many others did who had not the key");
        return;
    }
    watch_door(door);
}

static gboolean
on_caller_silent(gpointer data)
{
    turn_away(data, "did not show the key in time");
    return G_SOURCE_REMOVE;
}

static void
let_in(Caller *caller)
{
    GwPlainDoor *door = caller->door;
    g_autoptr(GError) error = NULL;
    GwFd fd = g_steal_fd(&caller->fd);

    tune(fd);
    if (!gw_fd_set_nonblocking(fd, false, &error)) {
        gw_fd_clear(&fd);
    }
    end_door(door, fd, error);
}

/* Not a byte more than the key: what follows is QEMU's. */
static gboolean
on_caller_speaks(int fd, GIOCondition condition, void *data)
{
    Caller *caller = data;
    ssize_t n = recv(fd, caller->key + caller->have, KEY_CHARS - caller->have, 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    if (n <= 0) {
        turn_away(caller, "ended without the key");
        return G_SOURCE_REMOVE;
    }
    caller->have += (size_t)n;
    if (caller->have < KEY_CHARS) {
        return G_SOURCE_CONTINUE;
    }
    if (gnutls_memcmp(caller->key, caller->door->key, KEY_CHARS) == 0) {
        let_in(caller);
    } else {
        turn_away(caller, "showed a wrong key");
    }
    return G_SOURCE_REMOVE;
}

static gboolean
on_knock(int fd, GIOCondition condition, void *data)
{
    GwPlainDoor *door = data;
    struct sockaddr_storage from = {0};
    socklen_t len = sizeof(from);
    GwFd accepted = accept4(fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (accepted < 0) {
        return G_SOURCE_CONTINUE; /* who waited has gone, or descriptors are short: a timer runs */
    }
    Caller *caller = g_new0(Caller, 1);
    caller->door = door;
    caller->fd = accepted;
    caller->from = gw_sockaddr_text(&from);
    g_ptr_array_add(door->callers, caller);
    if (!gw_networks_have(door->move->moves->options.plain_networks, &from)) {
        turn_away(caller, "is not from plain-networks");
        return G_SOURCE_CONTINUE;
    }
    caller->watch = g_unix_fd_add(accepted, G_IO_IN | G_IO_HUP, on_caller_speaks, caller);
    caller->timer = g_timeout_add(KEY_WAIT_MS, on_caller_silent, caller);
    if (door->callers->len < MAX_CALLERS) {
        return G_SOURCE_CONTINUE;
    }
    door->watch = 0; /* until one of them has gone */
    return G_SOURCE_REMOVE;
}

static gboolean
on_nobody_came(gpointer data)
{
    fail_door(data, "it did not come in time");
    return G_SOURCE_REMOVE;
}

GwPlainDoor *
gw_plain_door_new(GwMove *move, const struct sockaddr_storage *at, GwPlainFn done, void *data,
                  GError **error)
{
    uint16_t port = 0;
    GwFd fd = gw_direct_open_door(&move->moves->options, at, &port, error);

    if (fd < 0) {
        return NULL;
    }
    GwPlainDoor *door = g_new0(GwPlainDoor, 1);
    door->move = move;
    door->fd = fd;
    door->port = port;
    door->key = gw_direct_new_key();
    door->callers = g_ptr_array_new_with_free_func(caller_free);
    door->done = done;
    door->data = data;
    /* The source connects when it has heard of it. */
    door->timer = g_timeout_add(2 * connect_timeout_ms(move), on_nobody_came, door);
    watch_door(door);
    return door;
}

const char *
gw_plain_door_key(const GwPlainDoor *door)
{
    return door->key;
}

uint16_t
gw_plain_door_port(const GwPlainDoor *door)
{
    return door->port;
}

void
gw_plain_door_free(GwPlainDoor *door)
{
    if (door) {
        close_door(door);
        g_ptr_array_unref(door->callers);
        g_free(door->key);
        g_free(door);
    }
}

/* --- the source's call ------------------------------------------------------------------------ */

/* Its owner may free it in the callback. */
static void
end_call(GwPlainCall *call, GwFd fd, const GError *error)
{
    g_clear_handle_id(&call->watch, g_source_remove);
    g_clear_handle_id(&call->timer, g_source_remove);
    call->done(fd, error, call->data);
}

static GError *
no_connection(const GwMove *move, const char *to, int errnum)
{
    return g_error_new(GW_ERROR, GW_ERROR_UNREACHABLE,
                       "VM '%s': no connection for its memory to host '%s' at %s: %s; open "
                       "direct-ports of that host, or use --transport lane",
                       move->vm_name, move->peer, to, g_strerror(errnum));
}

static void
fail_call(GwPlainCall *call, int errnum)
{
    g_autoptr(GError) error = no_connection(call->move, call->to, errnum);

    gw_fd_clear(&call->fd);
    end_call(call, GW_FD_NONE, error);
}

static gboolean
on_call_late(gpointer data)
{
    fail_call(data, ETIMEDOUT);
    return G_SOURCE_REMOVE;
}

/* It is connected, or cannot be: the key goes first. */
static gboolean
on_call_ready(int fd, GIOCondition condition, void *data)
{
    GwPlainCall *call = data;
    int result = 0;
    socklen_t len = sizeof(result);

    getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &len);
    ssize_t n =
        result == 0 ? send(fd, call->key + call->sent, KEY_CHARS - call->sent, MSG_NOSIGNAL) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    if (result != 0 || n < 0) {
        fail_call(call, result != 0 ? result : errno);
        return G_SOURCE_REMOVE;
    }
    call->sent += (size_t)n;
    if (call->sent < KEY_CHARS) {
        return G_SOURCE_CONTINUE;
    }
    g_autoptr(GError) error = NULL;
    if (!gw_fd_set_nonblocking(fd, false, &error)) {
        gw_fd_clear(&call->fd);
    }
    end_call(call, g_steal_fd(&call->fd), error);
    return G_SOURCE_REMOVE;
}

static char *
place_text(const struct sockaddr_storage *address)
{
    g_autofree char *text = gw_sockaddr_text(address);

    return g_strdup_printf("%s port %u", text, gw_sockaddr_port(address));
}

GwPlainCall *
gw_plain_call_new(GwMove *move, const struct sockaddr_storage *to, const char *key, GwPlainFn done,
                  void *data, GError **error)
{
    g_auto(GwFd) fd = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    g_autofree char *place = place_text(to);

    if (fd >= 0) {
        tune(fd);
    }
    if (fd < 0 || (connect(fd, (const struct sockaddr *)to, gw_sockaddr_len(to)) < 0 &&
                   errno != EINPROGRESS)) {
        g_propagate_error(error, no_connection(move, place, errno));
        return NULL;
    }
    GwPlainCall *call = g_new0(GwPlainCall, 1);
    call->move = move;
    call->fd = g_steal_fd(&fd);
    call->to = g_steal_pointer(&place);
    call->key = g_strdup(key);
    call->done = done;
    call->data = data;
    call->watch = g_unix_fd_add(call->fd, G_IO_OUT, on_call_ready, call);
    call->timer = g_timeout_add(connect_timeout_ms(move), on_call_late, call);
    return call;
}

void
gw_plain_call_free(GwPlainCall *call)
{
    if (call) {
        g_clear_handle_id(&call->watch, g_source_remove);
        g_clear_handle_id(&call->timer, g_source_remove);
        gw_fd_clear(&call->fd);
        g_free(call->to);
        g_free(call->key);
        g_free(call);
    }
}
