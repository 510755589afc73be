// SPDX-License-Identifier: Apache-2.0
/*
 * The listening side: sessions that other hosts open, until it is clear who serves them.
 *
 * An accepted session is held here until its first message has named a service; one that says
 * nothing for FIRST_MESSAGE_MS is ended, and a host may have MAX_WAITING_PER_HOST such sessions.
 * All together, also those that were handed on, are bounded by the server's MAX_SESSIONS. "info"
 * is answered here. Owns the server and the sessions that it has not handed on. Main context.
 */
#include "fleet/incoming.h"
#include "base/fd.h"
#include "base/log.h"
#include "fleet/address.h"

#include <sys/socket.h>

#define MAX_SESSIONS         256u
#define MAX_WAITING_PER_HOST 16u
#define FIRST_MESSAGE_MS     10000u

typedef struct Service {
    GwPeersServeFn serve;
    void *data;
} Service;

struct GwIncoming {
    char *host_name;
    char *bind_address;
    uint16_t port;
    int64_t session_timeout_ms;
    const char *congestion;
    bool (*is_known)(const char *name, void *data);
    json_t *(*describe)(void *data);
    void *data;
    GwLaneServer *server; /* NULL until there are credentials */
    GHashTable *services; /* name -> Service */
    GPtrArray *sessions;  /* of Session */
};

/* An accepted session whose service is not known yet, or which waits for its goodbye. */
typedef struct Session {
    GwIncoming *incoming;
    GwLane *lane;
    unsigned timer;
} Session;

static void
session_free(void *data)
{
    Session *session = data;

    g_clear_handle_id(&session->timer, g_source_remove);
    gw_lane_free(session->lane);
    g_free(session);
}

static void
session_end(Session *session)
{
    g_ptr_array_remove_fast(session->incoming->sessions, session);
}

static void
on_session_closed(GwLane *lane, const GError *error, void *data)
{
    session_end(data);
}

static gboolean
on_session_silent(void *data)
{
    Session *session = data;

    session->timer = 0;
    gw_debug(&(GwLogFields){.host = gw_lane_peer_name(session->lane)},
             "a session asked for nothing and was ended");
    session_end(session);
    return G_SOURCE_REMOVE;
}

/* Sends @reply (transfer full) and says goodbye; the timer still bounds the wait for its end. */
static void
session_reply(Session *session, json_t *reply)
{
    static const GwLaneHandlers handlers = {.closed = on_session_closed};
    g_autoptr(json_t) owned = reply;
    g_autoptr(GError) error = NULL;

    if (!gw_lane_send(session->lane, owned, &error)) {
        gw_debug(&(GwLogFields){.host = gw_lane_peer_name(session->lane)}, "no reply was sent: %s",
                 error->message);
        session_end(session);
        return;
    }
    gw_lane_set_handlers(session->lane, &handlers, session);
    gw_lane_finish(session->lane);
}

static void
refuse_service(Session *session, const char *service)
{
    g_autoptr(GError) error = g_error_new(
        GW_ERROR, GW_ERROR_UNSUPPORTED,
        "host '%s' does not know the service '%.40s': run the same version of Godwit on both hosts",
        session->incoming->host_name, service);
    json_t *reply = json_object();

    json_object_set_new(reply, "error", gw_json_from_error(error));
    session_reply(session, reply);
}

static void
on_first_message(GwLane *lane, json_t *message, void *data)
{
    Session *session = data;
    GwIncoming *incoming = session->incoming;
    const char *name = gw_json_str(message, "service", "");
    const Service *service = g_hash_table_lookup(incoming->services, name);

    if (g_str_equal(name, "info")) {
        session_reply(session, incoming->describe(incoming->data));
    } else if (!service) {
        refuse_service(session, name);
    } else {
        session->lane = NULL;
        session_end(session);
        service->serve(lane, message, service->data);
    }
}

static unsigned
count_sessions_of(const GwIncoming *incoming, const char *name)
{
    unsigned count = 0;

    for (unsigned i = 0; i < incoming->sessions->len; i++) {
        const Session *session = g_ptr_array_index(incoming->sessions, i);
        count += g_strcmp0(gw_lane_peer_name(session->lane), name) == 0;
    }
    return count;
}

static void
on_accepted(GwLane *lane, void *data)
{
    static const GwLaneHandlers handlers = {
        .message = on_first_message,
        .closed = on_session_closed,
    };
    GwIncoming *incoming = data;
    const char *name = gw_lane_peer_name(lane);

    if (count_sessions_of(incoming, name) >= MAX_WAITING_PER_HOST) {
        gw_warn(&(GwLogFields){.host = name}, "too many idle sessions from this host: one ended");
        gw_lane_free(lane);
        return;
    }
    Session *session = g_new0(Session, 1);
    session->incoming = incoming;
    session->lane = lane;
    session->timer = g_timeout_add(FIRST_MESSAGE_MS, on_session_silent, session);
    g_ptr_array_add(incoming->sessions, session);
    gw_lane_set_handlers(lane, &handlers, session);
}

static bool
on_welcome(const char *peer_name, GError **error, void *data)
{
    const GwIncoming *incoming = data;

    if (incoming->is_known(peer_name, incoming->data)) {
        return true;
    }
    g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                "host '%s' does not know host '%s': run 'godwit host add %s ADDRESS' on '%s'",
                incoming->host_name, peer_name, peer_name, incoming->host_name);
    return false;
}

/* Where the kernel has no IPv6, "all addresses" are those of IPv4. */
static const char *
usable_address(const char *address)
{
    if (g_str_equal(address, "::")) {
        g_auto(GwFd) fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        return fd < 0 ? "0.0.0.0" : address;
    }
    return address;
}

bool
gw_incoming_listen(GwIncoming *incoming, GwLaneCredentials *credentials, GError **error)
{
    static const GwLaneServerHandlers handlers = {.welcome = on_welcome, .accepted = on_accepted};
    const GwLaneServerOptions options = {
        .bind_address = usable_address(incoming->bind_address),
        .port = incoming->port,
        .credentials = credentials,
        .session_timeout_ms = incoming->session_timeout_ms,
        .congestion = incoming->congestion,
        .max_sessions = MAX_SESSIONS,
    };

    if (incoming->server) {
        gw_lane_server_set_credentials(incoming->server, credentials);
        return true;
    }
    incoming->server = gw_lane_server_new(&options, &handlers, incoming, error);
    if (!incoming->server) {
        g_autofree char *where = gw_address_format(incoming->bind_address, incoming->port);
        g_prefix_error(error,
                       "other hosts cannot reach this one, it does not listen on %s: ", where);
        return false;
    }
    gw_info(NULL, "listening for other hosts on %s port %u", incoming->bind_address,
            incoming->port);
    return true;
}

void
gw_incoming_serve(GwIncoming *incoming, const char *service, GwPeersServeFn serve, void *data)
{
    Service *entry = g_new0(Service, 1);

    entry->serve = serve;
    entry->data = data;
    g_hash_table_replace(incoming->services, g_strdup(service), entry);
}

GwIncoming *
gw_incoming_new(const GwIncomingOptions *options)
{
    GwIncoming *incoming = g_new0(GwIncoming, 1);

    incoming->host_name = g_strdup(options->host_name);
    incoming->bind_address = g_strdup(options->bind_address);
    incoming->port = options->port;
    incoming->session_timeout_ms = options->session_timeout_ms;
    incoming->congestion = options->congestion;
    incoming->is_known = options->is_known;
    incoming->describe = options->describe;
    incoming->data = options->data;
    incoming->services = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    incoming->sessions = g_ptr_array_new_with_free_func(session_free);
    return incoming;
}

void
gw_incoming_free(GwIncoming *incoming)
{
    if (!incoming) {
        return;
    }
    gw_lane_server_free(incoming->server);
    g_ptr_array_unref(incoming->sessions);
    g_hash_table_unref(incoming->services);
    g_free(incoming->host_name);
    g_free(incoming->bind_address);
    g_free(incoming);
}
