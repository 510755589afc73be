// SPDX-License-Identifier: Apache-2.0
#include "peer.h"

#include "base/fd.h"

#include <glib-unix.h>
#include <string.h>

#define SESSION_TIMEOUT_MS 20000

static GwLaneCredentials *
make_host(Peer *peer, const char *name)
{
    const TestCert spec = {.common_name = name, .dns_name = name};

    test_cert_write(peer->ca, peer->folder, name, &spec);
    return test_credentials(peer->folder, "ca", name);
}

/* --- beta as the target ----------------------------------------------------------------------- */

static bool
on_welcome(const char *peer_name, GError **error, void *data)
{
    return true;
}

static void
on_message(GwLane *lane, json_t *message, void *data)
{
    Peer *peer = data;

    g_string_append_printf(peer->heard, "%s ", gw_json_str(message, "do", "?"));
    peer->script(peer, lane, message);
}

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    peer_hang_up(data, lane);
}

static void
on_accepted(GwLane *lane, void *data)
{
    static const GwLaneHandlers handlers = {.message = on_message, .closed = on_closed};
    Peer *peer = data;

    g_ptr_array_add(peer->sessions, lane);
    gw_lane_set_handlers(lane, &handlers, peer);
}

static GwLaneServer *
serve(GwLaneCredentials *credentials, void (*accepted)(GwLane *, void *), void *data)
{
    const GwLaneServerOptions options = {
        .bind_address = "127.0.0.1",
        .credentials = credentials,
        .session_timeout_ms = SESSION_TIMEOUT_MS,
        .max_sessions = 64,
    };
    const GwLaneServerHandlers handlers = {.welcome = on_welcome, .accepted = accepted};
    g_autoptr(GError) error = NULL;
    GwLaneServer *server = gw_lane_server_new(&options, &handlers, data, &error);

    g_assert_no_error(error);
    return server;
}

void
peer_init(Peer *peer, ScriptFn script, void *data)
{
    *peer = (Peer){.folder = test_folder_new(), .script = script, .data = data};
    peer->ca = test_ca_new(peer->folder, "ca");
    peer->alpha = make_host(peer, "alpha");
    peer->beta = make_host(peer, "beta");
    peer->sessions = g_ptr_array_new_with_free_func((GDestroyNotify)gw_lane_free);
    peer->heard = g_string_new(NULL);
    peer->server = serve(peer->beta, on_accepted, peer);
}

void
peer_clear(Peer *peer)
{
    g_clear_handle_id(&peer->sink, g_source_remove);
    gw_lane_server_free(peer->door);
    gw_lane_server_free(peer->server);
    g_ptr_array_unref(peer->sessions);
    g_string_free(peer->heard, TRUE);
    gw_lane_credentials_unref(peer->alpha);
    gw_lane_credentials_unref(peer->beta);
    test_ca_free(peer->ca);
    test_folder_free(peer->folder);
}

static GwLane *
connect_to(GwLaneServer *server, GwLaneCredentials *credentials, const char *name,
           const GwLaneHandlers *handlers, void *data)
{
    const GwLaneConnect options = {
        .address = "127.0.0.1",
        .port = gw_lane_server_port(server),
        .expected_name = name,
        .credentials = credentials,
        .connect_timeout_ms = SESSION_TIMEOUT_MS,
        .session_timeout_ms = SESSION_TIMEOUT_MS,
    };

    return gw_lane_connect(&options, handlers, data);
}

GwLane *
peer_connect(const char *host, const GwLaneWishes *wishes, const GwLaneHandlers *handlers,
             void *data, void *network, GError **error)
{
    Peer *peer = network;

    peer->wishes = wishes ? *wishes : (GwLaneWishes){0};

    g_assert_cmpstr(host, ==, "beta");
    return connect_to(peer->server, peer->alpha, "beta", handlers, data);
}

const char *
peer_address(const char *host, void *network)
{
    return "127.0.0.1";
}

void
peer_say(GwLane *lane, const json_t *message, const char *what, json_t *extra)
{
    g_autoptr(json_t) owned = extra ? extra : json_object();
    g_autoptr(GError) error = NULL;

    gw_json_set_str(owned, "service", "move");
    gw_json_set_str(owned, "do", what);
    if (!json_object_get(owned, "move")) {
        gw_json_set_str(owned, "move", gw_json_str(message, "move", ""));
    }
    bool sent = gw_lane_send(lane, owned, &error);
    g_assert_no_error(error);
    g_assert_true(sent);
}

static gboolean
on_bytes(gint fd, GIOCondition condition, void *data)
{
    Peer *peer = data;
    char buffer[65536];

    if (read(fd, buffer, sizeof buffer) > 0) {
        return G_SOURCE_CONTINUE;
    }
    peer->sink = 0;
    gw_fd_close(fd);
    return G_SOURCE_REMOVE;
}

void
peer_swallow_stream(Peer *peer, GwLane *lane)
{
    g_autoptr(GError) error = NULL;
    GwFd pair[2];
    bool made = gw_fd_socketpair(pair, &error);

    g_assert_true(made);
    bool started = gw_lane_start_stream(lane, pair[0], &error);
    g_assert_no_error(error);
    g_assert_true(started);
    peer->sink = g_unix_fd_add(pair[1], G_IO_IN | G_IO_HUP, on_bytes, peer);
}

void
peer_hang_up(Peer *peer, GwLane *lane)
{
    g_ptr_array_remove(peer->sessions, lane);
}

/* --- alpha as the target ---------------------------------------------------------------------- */

static void
on_first_message(GwLane *lane, json_t *message, void *data)
{
    gw_moves_serve(lane, message, ((Peer *)data)->moves);
}

static void
on_early_close(GwLane *lane, const GError *error, void *data)
{
    gw_lane_free(lane);
}

static void
on_caller(GwLane *lane, void *data)
{
    static const GwLaneHandlers handlers = {.message = on_first_message, .closed = on_early_close};

    gw_lane_set_handlers(lane, &handlers, data);
}

void
peer_open_door(Peer *peer, GwMoves *moves)
{
    peer->moves = moves;
    if (!peer->door) {
        peer->door = serve(peer->alpha, on_caller, peer);
    }
}

static void
on_caller_ready(GwLane *lane, void *data)
{
    ((Caller *)data)->ready = true;
}

static void
on_caller_message(GwLane *lane, json_t *message, void *data)
{
    g_ptr_array_add(((Caller *)data)->answers, json_incref(message));
}

static void
on_caller_stream_end(GwLane *lane, const GwLaneStreamEnd *end, void *data)
{
}

static void
on_caller_closed(GwLane *lane, const GError *error, void *data)
{
    ((Caller *)data)->closed = true;
}

Caller *
caller_new(Peer *peer)
{
    static const GwLaneHandlers handlers = {on_caller_ready, on_caller_message,
                                            on_caller_stream_end, on_caller_closed};
    Caller *caller = g_new0(Caller, 1);

    caller->answers = g_ptr_array_new_with_free_func((GDestroyNotify)json_decref);
    caller->lane = connect_to(peer->door, peer->beta, "alpha", &handlers, caller);
    WAIT_FOR(caller->ready);
    return caller;
}

void
caller_free(Caller *caller)
{
    gw_lane_free(caller->lane);
    g_ptr_array_unref(caller->answers);
    g_free(caller);
}

void
caller_say(Caller *caller, json_t *message)
{
    g_autoptr(json_t) owned = message;
    g_autoptr(GError) error = NULL;
    bool sent = gw_lane_send(caller->lane, owned, &error);

    g_assert_no_error(error);
    g_assert_true(sent);
}

const json_t *
caller_hear(Caller *caller)
{
    unsigned before = caller->answers->len;

    WAIT_FOR(caller->answers->len > before);
    return g_ptr_array_index(caller->answers, before);
}
