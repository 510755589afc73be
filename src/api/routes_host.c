// SPDX-License-Identifier: Apache-2.0
/*
 * Routes of this host and of the hosts it knows. Owns nothing; main context; errors are answered.
 */
#include "api/routes.h"

static void
show_host(GwRequest *request, void *context)
{
    GwApi *api = context;
    json_t *host = api->describe ? api->describe(api->data) : json_object();

    gw_json_set_str(host, "name", api->host_name);
    gw_json_set_str(host, "godwit_version", GODWIT_VERSION);
    json_object_set_new(host, "identity", gw_identity_status(api->pki_dir));
    gw_request_answer(request, host, NULL);
}

static void
hosts_listed(json_t *hosts, const GError *error, void *data)
{
    json_t *answer = json_object();

    if (hosts) {
        json_object_set(answer, "hosts", hosts);
    }
    gw_request_answer(data, answer, error);
}

static void
list_hosts(GwRequest *request, void *context)
{
    GwApi *api = context;

    gw_peers_query(api->peers, hosts_listed, request);
}

static void
hosts_changed(const GError *error, void *data)
{
    gw_request_answer(data, NULL, error);
}

static bool
read_host(GwRequest *request, const char **name, const char **address, int64_t *port,
          GError **error)
{
    static const char *const members[] = {"name", "address", "port", NULL};
    const json_t *body = gw_request_body(request, members, error);

    return body && gw_json_need_string(body, "name", name, error) &&
           gw_json_need_string(body, "address", address, error) &&
           gw_json_opt_int(body, "port", 0, 65535, port, error);
}

static void
add_host(GwRequest *request, void *context)
{
    GwApi *api = context;
    GError *error = NULL;
    const char *name;
    const char *address;
    int64_t port = 0;

    if (!read_host(request, &name, &address, &port, &error)) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    gw_request_set_subject(request, name);
    gw_peers_add(api->peers, name, address, (uint16_t)port, hosts_changed, request);
}

static void
remove_host(GwRequest *request, void *context)
{
    GwApi *api = context;

    gw_peers_remove(api->peers, gw_request_arg(request), hosts_changed, request);
}

const GwRoute gw_routes_host[] = {
    {"GET", "/v1/host", show_host, .help = "this host: name, version, accelerator, identity"},
    {"GET", "/v1/hosts", list_hosts, .help = "all known hosts, asked for their state"},
    {"POST", "/v1/hosts", add_host, .changes = true,
     .help = "trust another host: {name, address (several: with commas), port?}"},
    {"DELETE", "/v1/hosts/{name}", remove_host, .changes = true, .help = "forget another host"},
    {0},
};
