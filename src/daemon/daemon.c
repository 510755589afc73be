// SPDX-License-Identifier: Apache-2.0
/*
 * Wiring: makes each part with its options, in order, and takes them apart in the reverse order.
 *
 *     folders, lock, privileges → store → probe (on its own) → VMs → peers → moves → API → ready
 *
 * Each step begins when the one before has loaded. Ready is told when the API answers and the
 * first probe has ended, well or not: without QEMU or an identity the daemon runs and says what is
 * missing. SIGHUP reads the configuration again, takes over what can be, loads a renewed identity
 * and probes QEMU anew.
 *
 * Owns all parts; main context. A part that cannot be made ends the main loop with its error.
 */
#include "daemon/daemon.h"
#include "api/server.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/networks.h"
#include "daemon/folder.h"
#include "daemon/notify.h"
#include "daemon/privileges.h"
#include "fleet/peers.h"
#include "migrate/indexer.h"
#include "migrate/migrate.h"
#include "qemu/probe.h"
#include "store/store.h"
#include "vm/vm.h"

#include <glib-unix.h>
#include <grp.h>

#define PROBE_RETRY_S 30

struct GwDaemon {
    char *config_path;
    bool config_may_be_absent;
    bool debug;
    GwConfig *config;
    char *pki_dir;
    char *cache_dir;
    char *index_dir;
    char *visits_dir;

    GMainLoop *loop;
    GError *error; /* why the loop ended; NULL: on request */
    unsigned signals[3];
    GwFd lock;
    GwNotify *notify;
    bool told_ready;

    GwStore *store;
    GwProbe *probe; /* NULL when none runs */
    GwHostCaps *caps;
    char *caps_problem;   /* why there are none */
    unsigned probe_retry; /* a timer */
    GwVms *vms;
    GwPeers *peers;
    GwVisits *visits;
    GwNetworks *plain_networks; /* NULL: none */
    GwMoves *moves;
    GwIndexer *indexer;
    GwServer *server;
};

static void
give_up(GwDaemon *daemon, const GError *error, const char *what)
{
    if (!daemon->error) {
        daemon->error = g_error_copy(error);
        g_prefix_error(&daemon->error, "%s: ", what);
    }
    g_main_loop_quit(daemon->loop);
}

static const char *
null_if_empty(const char *text)
{
    return text[0] ? text : NULL;
}

/* --- what this host tells of itself ----------------------------------------------------------- */

static json_t *
describe(void *data)
{
    const GwDaemon *daemon = data;
    const GwHostCaps *caps = daemon->caps;
    json_t *host = json_object();

    gw_json_set_str(host, "godwit_version", GODWIT_VERSION);
    gw_json_set_int(host, "memory_available_bytes", (int64_t)gw_memory_available_bytes());
    if (!caps) {
        gw_json_set_str(host, "problem",
                        daemon->caps_problem ? daemon->caps_problem
                                             : "QEMU is being probed: ask again in a moment");
        return host;
    }
    gw_json_set_str(host, "qemu_version", caps->qemu_version);
    gw_json_set_str(host, "accel", caps->accel);
    gw_json_set_str(host, "accel_reason", caps->accel_reason);
    gw_json_set_str(host, "cpu_model", caps->cpu_model);
    gw_json_set_int(host, "cpus", caps->cpus);
    gw_json_set_int(host, "memory_bytes", (int64_t)caps->memory_bytes);
    return host;
}

static void
tell_status(GwDaemon *daemon)
{
    if (daemon->caps) {
        gw_notify_status(daemon->notify, "host %s, QEMU %s under %s", daemon->config->host_name,
                         daemon->caps->qemu_version, daemon->caps->accel);
    } else if (daemon->caps_problem) {
        gw_notify_status(daemon->notify, "host %s, no guests: %s", daemon->config->host_name,
                         daemon->caps_problem);
    }
}

static void
tell_ready_if_done(GwDaemon *daemon)
{
    if (daemon->told_ready || !daemon->server || daemon->probe) {
        return;
    }
    daemon->told_ready = true;
    gw_notify_ready(daemon->notify);
    tell_status(daemon);
    gw_info(NULL, "ready: host '%s', API on %s", daemon->config->host_name,
            daemon->config->api_socket);
}

/* --- the probe -------------------------------------------------------------------------------- */

static void
share_caps(GwDaemon *daemon)
{
    if (daemon->vms && daemon->caps) {
        gw_vms_set_caps(daemon->vms, daemon->caps);
    }
    if (daemon->moves && daemon->caps) {
        gw_moves_set_caps(daemon->moves, daemon->caps);
    }
}

static void start_probe(GwDaemon *daemon);

static gboolean
on_probe_retry(gpointer data)
{
    GwDaemon *daemon = data;

    daemon->probe_retry = 0;
    start_probe(daemon);
    return G_SOURCE_REMOVE;
}

static void
on_probed(GwHostCaps *caps, const GError *error, void *data)
{
    GwDaemon *daemon = data;

    g_clear_pointer(&daemon->probe, gw_probe_free);
    g_clear_pointer(&daemon->caps_problem, g_free);
    if (caps) {
        /* The parts borrow: the old ones go when the new ones are in their place. */
        GwHostCaps *old = daemon->caps;
        daemon->caps = caps;
        share_caps(daemon);
        gw_host_caps_free(old);
        gw_info(NULL, "QEMU %s (%s); %s", caps->qemu_version, caps->qemu_binary,
                caps->accel_reason);
    } else {
        daemon->caps_problem = g_strdup(error->message);
        gw_err(NULL, "%s guests can be started here: %s; 'systemctl reload godwitd' looks again",
               daemon->caps ? "a new probe failed, as before" : "no", error->message);
        /* A host under load may answer too late: no reason to stay without guests. */
        if (g_error_matches(error, GW_ERROR, GW_ERROR_TIMEOUT) && daemon->probe_retry == 0) {
            daemon->probe_retry = g_timeout_add_seconds(PROBE_RETRY_S, on_probe_retry, daemon);
        }
    }
    if (daemon->told_ready) {
        tell_status(daemon);
    }
    tell_ready_if_done(daemon);
}

static void
start_probe(GwDaemon *daemon)
{
    const GwProbeOptions options = {
        .qemu_binary = daemon->config->qemu_binary,
        .qemu_user = null_if_empty(daemon->config->qemu_user),
        .cache_dir = daemon->cache_dir,
        .run_dir = daemon->config->run_dir,
        .accel = daemon->config->accel,
    };

    if (!daemon->probe) {
        daemon->probe = gw_probe_start(&options, on_probed, daemon);
    }
}

/* --- the chain of parts, last to first -------------------------------------------------------- */

/* The configured group if there is one: a host without it still has root. */
static const char *
api_group(const GwDaemon *daemon)
{
    const char *group = daemon->config->api_group;

    if (group[0] && !getgrnam(group)) {
        gw_warn(NULL,
                "there is no group '%s' ([host] api-group): only root may use the API until it is "
                "made and godwitd restarted",
                group);
        return NULL;
    }
    return null_if_empty(group);
}

static void
on_vm_changed(const char *name, GwVm *vm, void *data)
{
    GwDaemon *daemon = data;

    gw_server_vm_changed(name, vm, daemon->server);
    gw_indexer_vm_changed(name, vm, daemon->indexer);
}

static void
on_moves_loaded(json_t *moves, const GError *error, void *data)
{
    GwDaemon *daemon = data;
    g_autoptr(GError) problem = NULL;

    if (error) {
        give_up(daemon, error, "cannot load the moves");
        return;
    }
    const GwServerOptions options = {
        .socket_path = daemon->config->api_socket,
        .group = api_group(daemon),
        .host_name = daemon->config->host_name,
        .pki_dir = daemon->pki_dir,
        .vms = daemon->vms,
        .moves = daemon->moves,
        .peers = daemon->peers,
        .describe = describe,
        .data = daemon,
    };
    daemon->server = gw_server_new(&options, &problem);
    if (!daemon->server) {
        give_up(daemon, problem, "cannot offer the API");
        return;
    }
    daemon->indexer = gw_indexer_new(daemon->vms, daemon->index_dir, daemon->visits);
    gw_vms_on_change(daemon->vms, on_vm_changed, daemon);
    tell_ready_if_done(daemon);
}

static GwLane *
connect_for_move(const char *host, const GwLaneWishes *wishes, const GwLaneHandlers *handlers,
                 void *data, void *network, GError **error)
{
    return gw_peers_connect(network, host, wishes, handlers, data, error);
}

static const char *
address_for_move(const char *host, void *network)
{
    return gw_peers_address(network, host);
}

static void
on_peers_loaded(const GError *error, void *data)
{
    GwDaemon *daemon = data;
    const GwConfig *config = daemon->config;
    const GwVisitsOptions visits = {
        .folder = daemon->visits_dir,
        .max_bytes = (uint64_t)config->visits_size,
        .max_age_ms = config->visits_age_ms,
    };

    if (error) {
        give_up(daemon, error, "cannot load the hosts");
        return;
    }
    if (config->plain_networks[0]) { /* checked when the configuration was read */
        daemon->plain_networks = gw_networks_parse(config->plain_networks, NULL);
    }
    daemon->visits = gw_visits_new(&visits);
    const GwMovesOptions options = {
        .store = daemon->store,
        .vms = daemon->vms,
        .host_name = config->host_name,
        .run_dir = config->run_dir,
        .qemu_user = null_if_empty(config->qemu_user),
        .visits = daemon->visits,
        .index_dir = daemon->index_dir,
        .network = {connect_for_move, address_for_move, daemon->peers},
        .prepare_timeout_ms = config->prepare_timeout_ms,
        .precopy_timeout_ms = config->precopy_timeout_ms,
        .switchover_timeout_ms = config->switchover_timeout_ms,
        .refuse_timeout_ms = config->refuse_timeout_ms,
        .downtime_limit_ms = config->downtime_limit_ms,
        .max_bandwidth = (uint64_t)config->max_bandwidth,
        .connections = (unsigned)config->connections,
        .direct_port_min = config->direct_ports.min,
        .direct_port_max = config->direct_ports.max,
        .plain_networks = daemon->plain_networks,
        .connect_timeout_ms = config->connect_timeout_ms,
        .max_history = (unsigned)config->history,
        .max_incoming = (unsigned)config->max_incoming,
    };
    daemon->moves = gw_moves_new(&options, on_moves_loaded, daemon);
    gw_peers_serve(daemon->peers, "move", gw_moves_serve, daemon->moves);
    share_caps(daemon);
}

/* Any is better than no moves at all. */
static const char *
usable_congestion(const GwConfig *config)
{
    const char *name = null_if_empty(config->congestion);
    g_autoptr(GError) error = NULL;

    if (name && !gw_lane_check_congestion(name, &error)) {
        gw_warn(NULL, "[lane] congestion: %s; it is left to the link", error->message);
        return NULL;
    }
    return name;
}

static void
on_vms_loaded(GwVm *vm, const GError *error, void *data)
{
    GwDaemon *daemon = data;
    const GwConfig *config = daemon->config;

    if (error) {
        give_up(daemon, error, "cannot load the VMs");
        return;
    }
    const GwPeersOptions options = {
        .store = daemon->store,
        .host_name = config->host_name,
        .pki_dir = daemon->pki_dir,
        .bind_address = config->peer_bind,
        .port = (uint16_t)config->peer_port,
        .connect_timeout_ms = config->connect_timeout_ms,
        .session_timeout_ms = config->session_timeout_ms,
        .congestion = usable_congestion(config),
        .silence_ms = config->silence_ms,
        .describe = describe,
        .data = daemon,
    };
    daemon->peers = gw_peers_new(&options, on_peers_loaded, daemon);
}

static void
start_vms(GwDaemon *daemon)
{
    const GwVmsOptions options = {
        .store = daemon->store,
        .host_name = daemon->config->host_name,
        .run_dir = daemon->config->run_dir,
        .state_dir = daemon->config->state_dir,
        .qemu_user = null_if_empty(daemon->config->qemu_user),
    };

    daemon->vms = gw_vms_new(&options, on_vms_loaded, daemon);
    share_caps(daemon);
}

static bool
make_folders(GwDaemon *daemon, GError **error)
{
    static const char state_key[] = "[host] state-dir";

    /* Sockets in run-dir are protected one by one; their users must get through. */
    return gw_folder_make(daemon->config->state_dir, 0700, state_key, error) &&
           gw_folder_make(daemon->config->run_dir, 0711, "[host] run-dir", error) &&
           gw_folder_make(daemon->pki_dir, 0700, state_key, error) &&
           gw_folder_make(daemon->cache_dir, 0700, state_key, error) &&
           gw_folder_make(daemon->index_dir, 0700, state_key, error) &&
           gw_folder_make(daemon->visits_dir, 0700, state_key, error);
}

/* --- signals ---------------------------------------------------------------------------------- */

static gboolean
on_stop(void *data)
{
    GwDaemon *daemon = data;

    gw_info(NULL, "stopping on request; guests keep running");
    gw_notify_stopping(daemon->notify);
    g_main_loop_quit(daemon->loop);
    return G_SOURCE_CONTINUE;
}

static void
init_log(const GwDaemon *daemon)
{
    gw_log_init(daemon->debug || g_str_equal(daemon->config->log_level, "debug"));
}

static void
on_changed_key(const char *group, const char *key, bool reloads, void *data)
{
    if (reloads) {
        gw_info(NULL, "reload: [%s] %s was taken over", group, key);
    } else {
        gw_warn(NULL,
                "reload: [%s] %s has changed, which needs a restart of godwitd (guests keep "
                "running)",
                group, key);
    }
}

static void
take_over(GwDaemon *daemon, const GwConfig *changed)
{
    gw_config_diff(daemon->config, changed, on_changed_key, NULL);
    /* All that reloads so far; a key more is a line more. */
    g_free(daemon->config->log_level);
    daemon->config->log_level = g_strdup(changed->log_level);
    init_log(daemon);
}

static gboolean
on_reload(void *data)
{
    GwDaemon *daemon = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GwConfig) changed = NULL;

    gw_notify_reloading(daemon->notify);
    changed = gw_config_load(daemon->config_path, daemon->config_may_be_absent, &error);
    if (changed) {
        take_over(daemon, changed);
    } else {
        gw_err(NULL, "reload: the configuration stays as it was: %s", error->message);
        g_clear_error(&error);
    }
    if (daemon->peers && !gw_peers_reload_identity(daemon->peers, &error)) {
        gw_warn(NULL, "reload: %s", error->message);
    }
    start_probe(daemon);
    if (daemon->told_ready) {
        gw_notify_ready(daemon->notify);
    }
    gw_info(NULL, "reload: done");
    return G_SOURCE_CONTINUE;
}

/* --- life ------------------------------------------------------------------------------------- */

static GwDaemon *
daemon_alloc(const GwDaemonOptions *options, GwConfig *config)
{
    GwDaemon *daemon = g_new0(GwDaemon, 1);

    daemon->config_path = g_strdup(options->config_path);
    daemon->config_may_be_absent = options->config_may_be_absent;
    daemon->debug = options->debug;
    daemon->config = config;
    daemon->pki_dir = g_build_filename(config->state_dir, "pki", NULL);
    daemon->cache_dir = g_build_filename(config->state_dir, "cache", NULL);
    daemon->index_dir = g_build_filename(daemon->cache_dir, "images", NULL);
    daemon->visits_dir = g_build_filename(config->state_dir, "visits", NULL);
    daemon->lock = GW_FD_NONE;
    daemon->loop = g_main_loop_new(NULL, FALSE);
    daemon->notify = gw_notify_new();
    return daemon;
}

GwDaemon *
gw_daemon_new(const GwDaemonOptions *options, GwConfig *config, GError **error)
{
    g_autoptr(GwDaemon) daemon = daemon_alloc(options, config);
    g_autofree char *store_path = g_build_filename(config->state_dir, "store.db", NULL);

    init_log(daemon);
    gw_info(NULL, "godwitd %s starts as host '%s' with state in %s", GODWIT_VERSION,
            config->host_name, config->state_dir);
    gw_privileges_raise_files();
    if (!make_folders(daemon, error)) {
        return NULL;
    }
    daemon->lock = gw_folder_lock(config->state_dir, error);
    if (daemon->lock < 0 || !gw_privileges_drop(error)) {
        return NULL;
    }
    daemon->store = gw_store_sqlite_open(store_path, error);
    if (!daemon->store) {
        return NULL;
    }
    daemon->signals[0] = g_unix_signal_add(SIGTERM, on_stop, daemon);
    daemon->signals[1] = g_unix_signal_add(SIGINT, on_stop, daemon);
    daemon->signals[2] = g_unix_signal_add(SIGHUP, on_reload, daemon);
    start_probe(daemon);
    start_vms(daemon);
    return g_steal_pointer(&daemon);
}

bool
gw_daemon_run(GwDaemon *daemon, GError **error)
{
    g_main_loop_run(daemon->loop);
    if (daemon->error) {
        g_propagate_error(error, g_steal_pointer(&daemon->error));
        return false;
    }
    return true;
}

void
gw_daemon_free(GwDaemon *daemon)
{
    if (!daemon) {
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(daemon->signals); i++) {
        g_clear_handle_id(&daemon->signals[i], g_source_remove);
    }
    if (daemon->vms) {
        gw_vms_on_change(daemon->vms, NULL, NULL);
    }
    gw_server_free(daemon->server);
    gw_indexer_free(daemon->indexer);
    gw_moves_free(daemon->moves);
    gw_visits_free(daemon->visits);
    gw_networks_free(daemon->plain_networks);
    gw_peers_free(daemon->peers);
    gw_vms_free(daemon->vms);
    g_clear_handle_id(&daemon->probe_retry, g_source_remove);
    gw_probe_free(daemon->probe);
    g_clear_pointer(&daemon->caps, gw_host_caps_free);
    gw_store_free(daemon->store);
    gw_notify_free(daemon->notify);
    gw_fd_clear(&daemon->lock);
    g_clear_error(&daemon->error);
    g_main_loop_unref(daemon->loop);
    gw_config_free(daemon->config);
    g_free(daemon->caps_problem);
    g_free(daemon->pki_dir);
    g_free(daemon->cache_dir);
    g_free(daemon->index_dir);
    g_free(daemon->visits_dir);
    g_free(daemon->config_path);
    g_free(daemon);
}
