// SPDX-License-Identifier: Apache-2.0
/*
 * Listening for sessions of other hosts.
 *
 * Owns the listening socket, the connections whose session is not known yet (entry.h) and sessions
 * that are not ready yet. A session that is ready passes to the accepted() handler; further
 * connections of it come through here, too. Main context throughout.
 *
 * Limits: max_sessions bounds sessions, and again the connections that are in the entry; one beyond
 * it is closed at once. When the process runs out of descriptors, accepting pauses for a second
 * instead of spinning. What fails before a session is ready is logged here, as nobody else hears
 * of it.
 */
#include "base/log.h"
#include "lane/connection.h"
#include "lane/entry.h"
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
    GwLaneServerOptions options; /* with credentials and congestion of its own */
    GwLaneRegistry *registry;
    GPtrArray *entries;   /* of GwEntry, owned */
    GPtrArray *not_ready; /* of GwLane, owned */
    GMainContext *context;
    GSource *accept_source; /* the socket, or the pause */
};

/* --- sessions that are not ready yet -----------------------------------------------------------
 */

void
gw_lane_server_accepted(GwLaneServer *server, GwLane *lane)
{
    g_ptr_array_remove_fast(server->not_ready, lane);
    server->handlers.accepted(lane, server->data);
}

void
gw_lane_server_dropped(GwLaneServer *server, GwLane *lane, const GError *error)
{
    gw_warn(NULL, "session from %s: %s", lane->peer_address, error->message);
    g_ptr_array_remove_fast(server->not_ready, lane);
    gw_lane_free(lane);
}

/* --- connections whose session is not known yet ------------------------------------------------
 */

static bool
on_welcome(const char *name, GError **error, void *data)
{
    GwLaneServer *server = data;

    return server->handlers.welcome(name, error, server->data);
}

static bool
join_session(GwLaneServer *server, GwConnection *connection, const GwHello *hello, GError **error)
{
    GwLane *lane = gw_lane_registry_find(server->registry, hello, connection->peer_name, error);

    return lane && gw_lane_join(lane, connection, hello, error);
}

static bool
begin_session(GwLaneServer *server, GwConnection *connection, const GwHello *hello, GError **error)
{
    GwLaneRegistry *registry = server->registry;

    gw_lane_registry_end_others(registry, hello, connection->peer_name);
    if (registry->used >= server->options.max_sessions) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE, "all %u sessions are in use: try later",
                    server->options.max_sessions);
        return false;
    }
    if (hello->link != 0 || g_hash_table_contains(registry->sessions, hello->session_id)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the greeting begins a session that exists, or not with its first link");
        return false;
    }
    GwLane *lane = gw_lane_accept(&server->options, connection, hello, error);

    if (!lane) {
        return false;
    }
    lane->server = server;
    gw_lane_registry_add(registry, lane);
    g_ptr_array_add(server->not_ready, lane);
    return true;
}

static bool
on_greeted(GwConnection *connection, const GwHello *hello, GError **error, void *data)
{
    return hello->joins ? join_session(data, connection, hello, error)
                        : begin_session(data, connection, hello, error);
}

static void
on_entry_done(GwEntry *entry, const GError *error, void *data)
{
    GwLaneServer *server = data;

    if (error) {
        gw_warn(NULL, "session from %s: %s", gw_entry_address(entry), error->message);
    }
    g_ptr_array_remove_fast(server->entries, entry);
    gw_entry_free(entry);
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
    static const GwEntryHandlers entry_handlers = {on_welcome, on_greeted, on_entry_done};
    g_autofree char *peer = format_address(address);
    g_autoptr(GError) error = NULL;

    if (server->entries->len >= server->options.max_sessions) {
        gw_fd_close(fd);
        gw_warn(NULL, "connection from %s was closed: %u others have not said yet what they want",
                peer, server->entries->len);
        return;
    }
    gw_connection_tune(fd, server->options.session_timeout_ms);
    gw_connection_suit_link(fd, server->options.congestion);
    GwEntry *entry =
        gw_entry_new(fd, peer, server->options.credentials, &entry_handlers, server, &error);

    if (!entry) {
        gw_warn(NULL, "connection from %s was closed: %s", peer, error->message);
        return;
    }
    g_ptr_array_add(server->entries, entry);
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
    server->options = *options;
    server->options.credentials = gw_lane_credentials_ref(options->credentials);
    server->options.congestion = g_strdup(options->congestion);
    server->registry = gw_lane_registry_new();
    server->entries = g_ptr_array_new();
    server->not_ready = g_ptr_array_new();
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
    for (guint i = 0; i < server->entries->len; i++) {
        gw_entry_free(server->entries->pdata[i]);
    }
    for (guint i = 0; i < server->not_ready->len; i++) {
        gw_lane_free(server->not_ready->pdata[i]);
    }
    g_ptr_array_unref(server->entries);
    g_ptr_array_unref(server->not_ready);
    gw_lane_registry_unref(server->registry);
    gw_lane_credentials_unref(server->options.credentials);
    g_free((char *)server->options.congestion);
    gw_fd_clear(&server->fd);
    g_main_context_unref(server->context);
    g_free(server);
}

void
gw_lane_server_set_credentials(GwLaneServer *server, GwLaneCredentials *credentials)
{
    GwLaneCredentials *before = server->options.credentials;

    server->options.credentials = gw_lane_credentials_ref(credentials);
    gw_lane_credentials_unref(before);
}

uint16_t
gw_lane_server_port(const GwLaneServer *server)
{
    return server->port;
}
