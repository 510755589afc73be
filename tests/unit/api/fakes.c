// SPDX-License-Identifier: Apache-2.0
/*
 * What stands behind the routes, as little of it as a test needs: one VM "web1", one move
 * "m-000000000001". Every call is noted in fake_calls; asynchronous ones report from an idle
 * callback with fake_error, if that is set.
 */
#include "fakes.h"

#include <string.h>

GString *fake_calls;
GError *fake_error;
char *fake_log_path;
GwVmState fake_vm_state;
bool fake_move_final;
GPtrArray *fake_held;
static GwMovesEventFn observer;
static void *observer_data;

static GwVm *const the_vm = (GwVm *)"web1";

typedef struct Later {
    GwVmsDoneFn vm_done;
    GwMovesJsonFn json_done;
    GwPeersDoneFn peers_done;
    GwPeersListFn list_done;
    void *data;
} Later;

static gboolean
run_later(void *data)
{
    Later *later = data;
    g_autoptr(json_t) value = fake_error ? NULL : json_pack("{s:s}", "id", FAKE_MOVE);
    g_autoptr(json_t) list = json_pack("[{s:s}]", "name", "alpha");

    if (later->vm_done) {
        later->vm_done(fake_error ? NULL : the_vm, fake_error, later->data);
    } else if (later->json_done) {
        later->json_done(value, fake_error, later->data);
    } else if (later->peers_done) {
        later->peers_done(fake_error, later->data);
    } else {
        later->list_done(fake_error ? NULL : list, fake_error, later->data);
    }
    g_free(later);
    return G_SOURCE_REMOVE;
}

static void
report_later(const Later *later)
{
    if (fake_held) {
        g_ptr_array_add(fake_held, g_memdup2(later, sizeof *later));
    } else {
        g_idle_add(run_later, g_memdup2(later, sizeof *later));
    }
}

void
fake_report_held(void)
{
    for (guint i = 0; i < fake_held->len; i++) {
        run_later(fake_held->pdata[i]);
    }
    g_clear_pointer(&fake_held, g_ptr_array_unref);
}

#define NOTE(...) g_string_append_printf(fake_calls, __VA_ARGS__)

/* --- vms -------------------------------------------------------------------------------------- */

GwVm *
gw_vms_find(GwVms *vms, const char *name)
{
    return strcmp(name, "web1") == 0 ? the_vm : NULL;
}

GPtrArray *
gw_vms_list(GwVms *vms)
{
    GPtrArray *list = g_ptr_array_new();

    g_ptr_array_add(list, the_vm);
    return list;
}

json_t *
gw_vm_json(GwVm *vm)
{
    return json_pack("{s:s, s:s}", "name", "web1", "state", "running");
}

const char *
gw_vm_name(const GwVm *vm)
{
    return "web1";
}

GwVmState
gw_vm_state(const GwVm *vm)
{
    return fake_vm_state;
}

char *
gw_vm_run_dir(const GwVm *vm)
{
    return g_strdup("/run/fake/vm/web1");
}

char *
gw_vm_log_path(const GwVm *vm)
{
    return g_strdup(fake_log_path);
}

void
gw_vms_define(GwVms *vms, GwDefinition *definition, GwVmsDoneFn callback, void *data)
{
    NOTE("define %s;", definition->name);
    gw_definition_free(definition);
    report_later(&(Later){.vm_done = callback, .data = data});
}

void
gw_vms_undefine(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data)
{
    NOTE("undefine;");
    report_later(&(Later){.vm_done = callback, .data = data});
}

void
gw_vms_start(GwVms *vms, GwVm *vm, GwVmsDoneFn callback, void *data)
{
    NOTE("start;");
    report_later(&(Later){.vm_done = callback, .data = data});
}

void
gw_vms_stop(GwVms *vms, GwVm *vm, bool force, int64_t timeout_ms, GwVmsDoneFn callback, void *data)
{
    NOTE("stop %d %d;", force, (int)timeout_ms);
    report_later(&(Later){.vm_done = callback, .data = data});
}

GwDefinition *
gw_definition_parse(const char *text, size_t len, const char *source, GError **error)
{
    if (strcmp(text, "good") != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s:1: not good", source);
        return NULL;
    }
    GwDefinition *definition = g_new0(GwDefinition, 1);
    definition->name = g_strdup("web1");
    return definition;
}

void
gw_definition_free(GwDefinition *definition)
{
    g_free(definition->name);
    g_free(definition);
}

/* --- moves ------------------------------------------------------------------------------------ */

void
gw_moves_observe(GwMoves *moves, GwMovesEventFn changed, void *data)
{
    observer = changed;
    observer_data = data;
}

void
gw_moves_unobserve(GwMoves *moves, void *data)
{
    g_assert_true(data == observer_data);
    observer = NULL;
}

void
fake_move_event(json_t *event)
{
    observer(event, observer_data);
    json_decref(event);
}

static void
note_request(const char *what, const GwMoveRequest *request)
{
    NOTE("%s %s %s %s %d %d %d %d %s %s;", what, request->vm, request->host,
         request->transport ? request->transport : "-", (int)request->downtime_limit_ms,
         (int)request->max_bandwidth, (int)request->timeout_ms, (int)request->connections,
         request->encodings ? request->encodings : "-", request->verify ? request->verify : "-");
}

void
gw_moves_plan(GwMoves *moves, const GwMoveRequest *request, GwMovesJsonFn callback, void *data)
{
    note_request("plan", request);
    report_later(&(Later){.json_done = callback, .data = data});
}

void
gw_moves_start(GwMoves *moves, const GwMoveRequest *request, GwMovesJsonFn callback, void *data)
{
    note_request("move", request);
    report_later(&(Later){.json_done = callback, .data = data});
}

void
gw_moves_cancel(GwMoves *moves, const char *id, GwMovesJsonFn callback, void *data)
{
    NOTE("cancel %s;", id);
    report_later(&(Later){.json_done = callback, .data = data});
}

void
gw_moves_abandon(GwMoves *moves, const char *id, bool peer_is_off, GwMovesJsonFn callback,
                 void *data)
{
    NOTE("abandon %s %d;", id, peer_is_off);
    report_later(&(Later){.json_done = callback, .data = data});
}

void
gw_moves_postcopy(GwMoves *moves, const char *id, GwMovesJsonFn callback, void *data)
{
    NOTE("postcopy %s;", id);
    report_later(&(Later){.json_done = callback, .data = data});
}

json_t *
gw_moves_get(GwMoves *moves, const char *id)
{
    return strcmp(id, FAKE_MOVE) == 0
               ? json_pack("{s:s, s:b}", "id", id, "final", (int)fake_move_final)
               : NULL;
}

json_t *
gw_moves_list(GwMoves *moves, unsigned limit)
{
    NOTE("list %u;", limit);
    return json_array();
}

/* --- hosts and identity ----------------------------------------------------------------------- */

void
gw_peers_add(GwPeers *peers, const char *name, const char *address, uint16_t port,
             GwPeersDoneFn callback, void *data)
{
    NOTE("add %s %s %u;", name, address, port);
    report_later(&(Later){.peers_done = callback, .data = data});
}

void
gw_peers_remove(GwPeers *peers, const char *name, GwPeersDoneFn callback, void *data)
{
    NOTE("remove %s;", name);
    report_later(&(Later){.peers_done = callback, .data = data});
}

void
gw_peers_query(GwPeers *peers, GwPeersListFn callback, void *data)
{
    report_later(&(Later){.list_done = callback, .data = data});
}

bool
gw_peers_reload_identity(GwPeers *peers, GError **error)
{
    NOTE("reload;");
    return true;
}

static bool
identity_result(GError **error)
{
    if (fake_error) {
        g_propagate_error(error, g_error_copy(fake_error));
    }
    return !fake_error;
}

json_t *
gw_identity_status(const char *pki_dir)
{
    return json_pack("{s:s}", "state", "none");
}

bool
gw_identity_init_ca(const char *pki_dir, const char *host_name, GError **error)
{
    NOTE("init %s %s;", pki_dir, host_name);
    return identity_result(error);
}

char *
gw_identity_request(const char *pki_dir, const char *host_name, GError **error)
{
    return identity_result(error) ? g_strdup("REQUEST") : NULL;
}

char *
gw_identity_sign(const char *pki_dir, const char *request, unsigned valid_days, GError **error)
{
    NOTE("sign %s %u;", request, valid_days);
    return identity_result(error) ? g_strdup("CERTIFICATES") : NULL;
}

bool
gw_identity_install(const char *pki_dir, const char *host_name, const char *certificates,
                    GError **error)
{
    NOTE("install %s;", certificates);
    return identity_result(error);
}
