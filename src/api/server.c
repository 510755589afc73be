// SPDX-License-Identifier: Apache-2.0
/*
 * Wiring of the API: the HTTP server, the event streams and the routes' context. Owns all three;
 * borrows vms, moves and peers. Main context. Fails only when the socket cannot be opened.
 */
#include "api/server.h"
#include "api/routes.h"

struct GwServer {
    GwApi api;
    GwHttp *http;
};

/* GET /v1: the routes themselves, as the tables have them. */
static void list_routes(GwRequest *request, void *context);

static const GwRoute routes_root[] = {
    {"GET", "/v1", list_routes, .help = "this list"},
    {0},
};

static const GwRoute *const tables[] = {
    routes_root, gw_routes_host, gw_routes_identity, gw_routes_vm, gw_routes_move, NULL,
};

static void
list_routes(GwRequest *request, void *context)
{
    json_t *list = json_array();

    for (const GwRoute *const *table = tables; *table; table++) {
        for (const GwRoute *route = *table; route->method; route++) {
            json_t *row = json_object();
            gw_json_set_str(row, "method", route->method);
            gw_json_set_str(row, "path", route->path);
            gw_json_set_str(row, "help", route->help);
            json_array_append_new(list, row);
        }
    }
    json_t *answer = json_object();
    gw_json_set_str(answer, "version", GODWIT_VERSION);
    json_object_set_new(answer, "routes", list);
    gw_request_answer(request, answer, NULL);
}

static void
move_changed(json_t *event, void *data)
{
    GwServer *server = data;

    gw_events_publish(server->api.events, event);
}

void
gw_server_vm_changed(const char *name, GwVm *vm, void *data)
{
    GwServer *server = data;
    g_autoptr(json_t) event = json_object();

    gw_json_set_str(event, "event", "vm");
    gw_json_set_str(event, "name", name);
    json_object_set_new(event, "vm", vm ? gw_vm_json(vm) : json_null());
    gw_events_publish(server->api.events, event);
}

GwServer *
gw_server_new(const GwServerOptions *options, GError **error)
{
    GwServer *server = g_new0(GwServer, 1);

    server->api = (GwApi){
        .host_name = g_strdup(options->host_name),
        .pki_dir = g_strdup(options->pki_dir),
        .vms = options->vms,
        .moves = options->moves,
        .peers = options->peers,
        .events = gw_events_new(),
        .describe = options->describe,
        .data = options->data,
    };
    gw_moves_observe(options->moves, move_changed, server);
    server->http = gw_http_new(options->socket_path, options->group, tables, &server->api, error);
    if (!server->http) {
        gw_server_free(server);
        return NULL;
    }
    return server;
}

void
gw_server_free(GwServer *server)
{
    if (!server) {
        return;
    }
    gw_moves_unobserve(server->api.moves, server);
    gw_events_free(server->api.events);
    gw_http_free(server->http);
    g_free(server->api.host_name);
    g_free(server->api.pki_dir);
    g_free(server);
}
