// SPDX-License-Identifier: Apache-2.0
/*
 * Listening for sessions of other hosts.
 *
 * Owns the listening socket and the sessions that are not established yet ("half-open": TLS, the
 * question whether the peer is welcome, greeting; GW_LANE_HANDSHAKE_MS for all of it). An
 * established session passes to the accepted() handler. Main context throughout.
 *
 * Limits: max_sessions counts established and half-open sessions; a connection beyond it is closed
 * at once. When the process runs out of descriptors, accepting pauses for a second instead of
 * spinning. Half-open sessions that fail are logged here, as nobody else hears of them.
 */
#include "base/log.h"
#include "lane/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define LISTEN_BACKLOG   64
#define ACCEPT_PAUSE_MS  1000
#define ACCEPTS_PER_TURN 16

struct GwLaneServer {
    GwFd fd;
    uint16_t port;
    GwLaneServerHandlers handlers;
    void *data;
    GwLaneCredentials *credentials;
    int64_t session_timeout_ms;
    unsigned max_sessions;
    GwLaneSlots *slots;
    GPtrArray *half_open; /* of GwLane, owned */
    GMainContext *context;
    GSource *accept_source; /* the socket, or the pause */
};

void
gw_lane_slots_unref(GwLaneSlots *slots)
{
    if (--slots->refs == 0) {
        g_free(slots);
    }
}

GwLaneCredentials *
gw_lane_server_credentials(const GwLaneServer *server)
{
    return server->credentials;
}

int64_t
gw_lane_server_session_timeout_ms(const GwLaneServer *server)
{
    return server->session_timeout_ms;
}

/* --- half-open sessions ----------------------------------------------------------------------- */

bool
gw_lane_server_welcome(GwLaneServer *server, const char *name, GError **error)
{
    return server->handlers.welcome(name, error, server->data);
}

void
gw_lane_server_accepted(GwLaneServer *server, GwLane *lane)
{
    g_ptr_array_remove_fast(server->half_open, lane);
    server->handlers.accepted(lane, server->data);
}

void
gw_lane_server_dropped(GwLaneServer *server, GwLane *lane, const GError *error)
{
    gw_warn(NULL, "session from %s: %s", lane->peer_address, error->message);
    g_ptr_array_remove_fast(server->half_open, lane);
    gw_lane_free(lane);
}

/* --- accepting -------------------------------------------------------------------------------- */

static char *
format_address(const struct sockaddr_storage *address)
{
    char text[INET6_ADDRSTRLEN] = "?";

    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;

        if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
            inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, sizeof(text));
        } else {
            inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
        }
    } else if (address->ss_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, sizeof(text));
    }
    return g_strdup(text);
}

static void
admit(GwLaneServer *server, int fd, const struct sockaddr_storage *address)
{
    g_autofree char *peer = format_address(address);
    g_autoptr(GError) error = NULL;

    if (server->slots->used >= server->max_sessions) {
        gw_fd_close(fd);
        gw_warn(NULL, "connection from %s was closed: all %u sessions are in use", peer,
                server->max_sessions);
        return;
    }
    GwLane *lane = gw_lane_accept(server, server->slots, fd, peer, &error);

    if (!lane) {
        gw_warn(NULL, "connection from %s was closed: %s", peer, error->message);
        return;
    }
    g_ptr_array_add(server->half_open, lane);
}

static void watch_socket(GwLaneServer *server);

static gboolean
on_pause_over(void *data)
{
    watch_socket(data);
    return G_SOURCE_REMOVE;
}

static void
replace_accept_source(GwLaneServer *server, GSource *source)
{
    if (server->accept_source) {
        g_source_destroy(server->accept_source);
        g_source_unref(server->accept_source);
    }
    server->accept_source = source;
    if (source) {
        g_source_attach(source, server->context);
    }
}

static void
pause_accepting(GwLaneServer *server)
{
    GSource *timer = g_timeout_source_new(ACCEPT_PAUSE_MS);

    g_source_set_callback(timer, on_pause_over, server, NULL);
    replace_accept_source(server, timer);
}

static gboolean
on_connection(int fd, GIOCondition condition, void *data)
{
    GwLaneServer *server = data;

    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage address = {0};
        socklen_t len = sizeof(address);
        int accepted = accept4(fd, (struct sockaddr *)&address, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (accepted >= 0) {
            admit(server, accepted, &address);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            gw_warn(NULL, "cannot accept connections for now: %s", g_strerror(errno));
            pause_accepting(server);
            return G_SOURCE_REMOVE;
        } else {
            /* Nobody waits, or one who waited has gone away. */
            break;
        }
    }
    return G_SOURCE_CONTINUE;
}

static void
watch_socket(GwLaneServer *server)
{
    GSource *source = g_unix_fd_source_new(server->fd, G_IO_IN);

    g_source_set_callback(source, G_SOURCE_FUNC(on_connection), server, NULL);
    replace_accept_source(server, source);
}

/* --- making and freeing ----------------------------------------------------------------------- */

static socklen_t
make_address(const char *text, uint16_t port, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof(*v4);
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return sizeof(*v6);
    }
    return 0;
}

static bool
listen_at(GwLaneServer *server, const char *text, uint16_t port, GError **error)
{
    struct sockaddr_storage address;
    socklen_t len = make_address(text, port, &address);
    int on = 1, off = 0;

    if (len == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%s' is not an IP address to listen at: use \"0.0.0.0\", \"::\" or one "
                    "address of this host",
                    text);
        return false;
    }
    server->fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->fd >= 0) {
        setsockopt(server->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        setsockopt(server->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    }
    if (server->fd < 0 || bind(server->fd, (struct sockaddr *)&address, len) < 0 ||
        listen(server->fd, LISTEN_BACKLOG) < 0 ||
        getsockname(server->fd, (struct sockaddr *)&address, &len) < 0) {
        gw_set_error_errno(error, errno, "cannot listen for other hosts at %s port %u", text, port);
        return false;
    }
    server->port =
        ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                           : ((struct sockaddr_in6 *)&address)->sin6_port);
    return true;
}

GwLaneServer *
gw_lane_server_new(const GwLaneServerOptions *options, const GwLaneServerHandlers *handlers,
                   void *data, GError **error)
{
    g_autoptr(GwLaneServer) server = g_new0(GwLaneServer, 1);

    server->fd = GW_FD_NONE;
    server->handlers = *handlers;
    server->data = data;
    server->credentials = gw_lane_credentials_ref(options->credentials);
    server->session_timeout_ms = options->session_timeout_ms;
    server->max_sessions = options->max_sessions;
    server->slots = g_new0(GwLaneSlots, 1);
    server->slots->refs = 1;
    server->half_open = g_ptr_array_new();
    server->context = g_main_context_ref_thread_default();
    if (!listen_at(server, options->bind_address, options->port, error)) {
        return NULL;
    }
    watch_socket(server);
    return g_steal_pointer(&server);
}

void
gw_lane_server_free(GwLaneServer *server)
{
    if (!server) {
        return;
    }
    replace_accept_source(server, NULL);
    for (guint i = 0; i < server->half_open->len; i++) {
        gw_lane_free(server->half_open->pdata[i]);
    }
    g_ptr_array_unref(server->half_open);
    gw_lane_slots_unref(server->slots);
    gw_lane_credentials_unref(server->credentials);
    gw_fd_clear(&server->fd);
    g_main_context_unref(server->context);
    g_free(server);
}

void
gw_lane_server_set_credentials(GwLaneServer *server, GwLaneCredentials *credentials)
{
    GwLaneCredentials *before = server->credentials;

    server->credentials = gw_lane_credentials_ref(credentials);
    gw_lane_credentials_unref(before);
}

uint16_t
gw_lane_server_port(const GwLaneServer *server)
{
    return server->port;
}
