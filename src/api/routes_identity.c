// SPDX-License-Identifier: Apache-2.0
/*
 * Routes of this host's identity. Blocking for the milliseconds that a P-256 key takes. After a
 * change the listening side takes up the new certificate. Owns nothing; main context.
 */
#include "api/routes.h"

static void
answer_status(GwRequest *request, GwApi *api)
{
    json_t *status = gw_identity_status(api->pki_dir);

    gw_json_set_str(status, "name", api->host_name);
    gw_request_answer(request, status, NULL);
}

static void
show_identity(GwRequest *request, void *context)
{
    answer_status(request, context);
}

static void
init_ca(GwRequest *request, void *context)
{
    GwApi *api = context;
    GError *error = NULL;

    if (!gw_identity_init_ca(api->pki_dir, api->host_name, &error) ||
        !gw_peers_reload_identity(api->peers, &error)) {
        gw_request_answer_error(request, error);
        return;
    }
    answer_status(request, api);
}

static void
make_request(GwRequest *request, void *context)
{
    GwApi *api = context;
    GError *error = NULL;
    g_autofree char *pem = gw_identity_request(api->pki_dir, api->host_name, &error);

    if (!pem) {
        gw_request_answer_error(request, error);
        return;
    }
    json_t *answer = json_object();
    gw_json_set_str(answer, "request", pem);
    gw_request_answer(request, answer, NULL);
}

static void
sign_request(GwRequest *request, void *context)
{
    static const char *const members[] = {"request", "valid_days", NULL};
    GwApi *api = context;
    GError *error = NULL;
    const char *pem;
    int64_t valid_days = 0;
    const json_t *body = gw_request_body(request, members, &error);

    if (!body || !gw_json_need_string(body, "request", &pem, &error) ||
        !gw_json_opt_int(body, "valid_days", 1, 3650, &valid_days, &error)) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    g_autofree char *certificates =
        gw_identity_sign(api->pki_dir, pem, (unsigned)valid_days, &error);
    if (!certificates) {
        gw_request_answer_error(request, error);
        return;
    }
    json_t *answer = json_object();
    gw_json_set_str(answer, "certificates", certificates);
    gw_request_answer(request, answer, NULL);
}

static void
install_certificates(GwRequest *request, void *context)
{
    static const char *const members[] = {"certificates", NULL};
    GwApi *api = context;
    GError *error = NULL;
    const char *certificates;
    const json_t *body = gw_request_body(request, members, &error);

    if (!body || !gw_json_need_string(body, "certificates", &certificates, &error)) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    if (!gw_identity_install(api->pki_dir, api->host_name, certificates, &error) ||
        !gw_peers_reload_identity(api->peers, &error)) {
        gw_request_answer_error(request, error);
        return;
    }
    answer_status(request, api);
}

const GwRoute gw_routes_identity[] = {
    {"GET", "/v1/identity", show_identity, .help = "this host's certificate and CA"},
    {"POST", "/v1/identity/init", init_ca, .changes = true,
     .help = "make a CA and this host's certificate"},
    {"POST", "/v1/identity/request", make_request, .changes = true,
     .help = "make a key and return the signing request for another host's CA"},
    {"POST", "/v1/identity/sign", sign_request, .changes = true,
     .help = "sign another host's request: {request, valid_days?}"},
    {"POST", "/v1/identity/install", install_certificates, .changes = true,
     .help = "put the CA's answer in place: {certificates}"},
    {0},
};
