// SPDX-License-Identifier: Apache-2.0
/*
 * The table of hosts, this host's credentials, and sessions to other hosts.
 *
 * The table is read once and then kept in memory: this daemon is its only writer. A change is
 * written to the store first and takes effect when that is durable. A host that is removed keeps
 * the sessions it has and gets no new ones.
 *
 * Owns table, credentials, the listening side (incoming.c), changes and queries under way. Main
 * context. At most MAX_HOSTS hosts. Without an identity, or when listening fails, all but sessions
 * still works, and the log says what is missing.
 */
#include "fleet/peers.h"
#include "base/log.h"
#include "base/units.h"
#include "fleet/address.h"
#include "fleet/identity.h"
#include "fleet/incoming.h"
#include "fleet/query.h"

#include <string.h>

#define MAX_HOSTS   1024u
#define HOST_PREFIX "host/"

typedef struct Host {
    char **addresses; /* one at least */
    uint16_t port;
} Host;

struct GwPeers {
    GwStore *store;
    char *host_name;
    char *pki_dir;
    char *bind_address;
    uint16_t port;
    int64_t connect_timeout_ms;
    int64_t session_timeout_ms;
    char *congestion;
    int64_t silence_ms;
    json_t *(*describe)(void *data);
    void *describe_data;
    GwPeersDoneFn loaded;
    void *loaded_data;
    GTree *hosts;                   /* name → Host */
    GwLaneCredentials *credentials; /* NULL without an identity */
    GwIncoming *incoming;
    GPtrArray *changes; /* of Change */
    GPtrArray *queries; /* of Query */
};

typedef struct Change {
    GwPeers *peers;
    char *name;
    Host *host; /* NULL: to be removed */
    GwPeersDoneFn callback;
    void *data;
    GError *error; /* found before the store was asked */
    unsigned idle;
} Change;

typedef struct Query {
    GwPeers *peers;
    GwQuery *query;
    GwPeersListFn callback;
    void *data;
} Query;

static void
host_free(void *data)
{
    Host *host = data;

    if (host) {
        g_strfreev(host->addresses);
        g_free(host);
    }
}

static char *
host_key(const char *name)
{
    return g_strconcat(HOST_PREFIX, name, NULL);
}

/* --- identity and services -------------------------------------------------------------------- */

static bool
check_identity(const GwPeers *peers, GError **error)
{
    g_autoptr(json_t) status = gw_identity_status(peers->pki_dir);
    const char *state = gw_json_str(status, "state", "none");
    const char *problem = gw_json_str(status, "problem", NULL);

    if (g_str_equal(state, "ready")) {
        return true;
    }
    if (problem) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "this host's identity in '%s' cannot be used: %s; 'godwit init --join' renews "
                    "it",
                    peers->pki_dir, problem);
    } else if (g_str_equal(state, "pending")) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "this host waits for its certificate: let the fleet's CA sign "
                    "'%s/pending.csr', then run 'godwit init --install'",
                    peers->pki_dir);
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "this host has no identity yet: run 'godwit init' to make a new fleet or "
                    "'godwit init --join' to join one");
    }
    return false;
}

bool
gw_peers_reload_identity(GwPeers *peers, GError **error)
{
    g_autofree char *ca = g_build_filename(peers->pki_dir, "ca.crt", NULL);
    g_autofree char *cert = g_build_filename(peers->pki_dir, "host.crt", NULL);
    g_autofree char *key = g_build_filename(peers->pki_dir, "host.key", NULL);

    if (!check_identity(peers, error)) {
        return false;
    }
    g_autoptr(GwLaneCredentials) credentials = gw_lane_credentials_load(ca, cert, key, error);
    if (!credentials) {
        return false;
    }
    const char *name = gw_lane_credentials_name(credentials);
    if (g_strcmp0(name, peers->host_name) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "this host is '%s' by its configuration but '%s' by its certificate: set "
                    "[host] name, or make a new certificate with 'godwit init --join'",
                    peers->host_name, name);
        return false;
    }
    g_clear_pointer(&peers->credentials, gw_lane_credentials_unref);
    peers->credentials = g_steal_pointer(&credentials);
    return gw_incoming_listen(peers->incoming, peers->credentials, error);
}

void
gw_peers_serve(GwPeers *peers, const char *service, GwPeersServeFn serve, void *data)
{
    gw_incoming_serve(peers->incoming, service, serve, data);
}

static bool
is_known(const char *name, void *data)
{
    const GwPeers *peers = data;

    return g_tree_lookup(peers->hosts, name) != NULL;
}

static json_t *
describe(void *data)
{
    GwPeers *peers = data;

    return peers->describe ? peers->describe(peers->describe_data) : json_object();
}

/* --- the table -------------------------------------------------------------------------------- */

/* Until 0.1 a record had one "address". */
static char **
stored_addresses(const json_t *value)
{
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    const char *only = gw_json_str(value, "address", NULL);
    const json_t *address;
    size_t i;

    json_array_foreach(json_object_get(value, "addresses"), i, address)
    {
        if (json_is_string(address)) {
            g_strv_builder_add(builder, json_string_value(address));
        }
    }
    if (only) {
        g_strv_builder_add(builder, only);
    }
    return g_strv_builder_end(builder);
}

static json_t *
address_array(const Host *host)
{
    json_t *array = json_array();

    for (char **address = host->addresses; *address; address++) {
        json_array_append_new(array, json_string(*address));
    }
    return array;
}

static Host *
parse_host(const char *name, const void *text, size_t len, GError **error)
{
    g_autoptr(json_t) value = gw_json_parse(text, len, 4096, name, error);
    int64_t port;

    if (!value || !gw_check_name("host name", name, error) ||
        !gw_json_need_int(value, "port", 1, 65535, &port, error)) {
        return NULL;
    }
    g_auto(GStrv) addresses = stored_addresses(value);
    if (!addresses[0]) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "it has no address");
        return NULL;
    }
    Host *host = g_new0(Host, 1);
    host->addresses = g_steal_pointer(&addresses);
    host->port = (uint16_t)port;
    return host;
}

static void
load_entry(GwPeers *peers, const GwStoreEntry *entry)
{
    const char *name = entry->key + strlen(HOST_PREFIX);
    g_autoptr(GError) error = NULL;
    size_t len;
    const void *text = g_bytes_get_data(entry->value, &len);
    Host *host = parse_host(name, text, len, &error);

    if (!host) {
        gw_warn(&(GwLogFields){.host = name},
                "the store's record of this host cannot be read and is left out: %s",
                error->message);
    } else if (g_str_equal(name, peers->host_name)) {
        gw_warn(&(GwLogFields){.host = name},
                "this host knows another one by its own name, which is left out: remove it with "
                "'godwit host remove'");
        host_free(host);
    } else {
        g_tree_insert(peers->hosts, g_strdup(name), host);
    }
}

static void
on_loaded(const GPtrArray *entries, int64_t revision, const GError *error, void *data)
{
    GwPeers *peers = data;
    g_autoptr(GError) problem = NULL;

    for (unsigned i = 0; entries && i < entries->len; i++) {
        load_entry(peers, g_ptr_array_index(entries, i));
    }
    if (!error && !gw_peers_reload_identity(peers, &problem)) {
        gw_warn(NULL, "no sessions with other hosts: %s", problem->message);
    }
    peers->loaded(error, peers->loaded_data);
}

static void
change_free(void *data)
{
    Change *change = data;

    g_clear_handle_id(&change->idle, g_source_remove);
    g_clear_error(&change->error);
    host_free(change->host);
    g_free(change->name);
    g_free(change);
}

/* Out of @list first: what a callback does to us may not reach it any more. */
static void
take_from(GPtrArray *list, void *item)
{
    unsigned index;

    if (g_ptr_array_find(list, item, &index)) {
        g_ptr_array_steal_index_fast(list, index);
    }
}

static void
change_report(Change *change, const GError *error)
{
    take_from(change->peers->changes, change);
    change->callback(error, change->data);
    change_free(change);
}

static gboolean
on_refused_change(void *data)
{
    Change *change = data;

    change->idle = 0;
    change_report(change, change->error);
    return G_SOURCE_REMOVE;
}

static Change *
change_new(GwPeers *peers, const char *name, GwPeersDoneFn callback, void *data)
{
    Change *change = g_new0(Change, 1);

    change->peers = peers;
    change->name = g_strdup(name);
    change->callback = callback;
    change->data = data;
    g_ptr_array_add(peers->changes, change);
    return change;
}

static void
on_committed(const GwStoreTxnResult *result, const GError *error, void *data)
{
    Change *change = data;
    GwPeers *peers = change->peers;
    g_autoptr(GError) taken = NULL;

    if (result && !result->succeeded) {
        g_set_error(&taken, GW_ERROR, GW_ERROR_EXISTS, "host '%s' was added a moment ago",
                    change->name);
    } else if (result && change->host) {
        g_tree_replace(peers->hosts, g_strdup(change->name), g_steal_pointer(&change->host));
    } else if (result) {
        g_tree_remove(peers->hosts, change->name);
    }
    change_report(change, taken ? taken : error);
}

/* Adds what stands between two commas to @out; all of them have the same port. */
static bool
add_address(const char *name, const char *text, GPtrArray *out, uint16_t *port, GError **error)
{
    g_autofree char *bare = NULL;
    uint16_t given_port = 0;

    if (!gw_address_parse(text, &bare, &given_port, error)) {
        return false;
    }
    if (*port && given_port && *port != given_port) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "two ports are given for host '%s', %u and %u: leave one out", name, given_port,
                    *port);
        return false;
    }
    if (g_ptr_array_find_with_equal_func(out, bare, g_str_equal, NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "address '%s' of host '%s' is given twice",
                    bare, name);
        return false;
    }
    *port = given_port ? given_port : *port;
    g_ptr_array_add(out, g_steal_pointer(&bare));
    return true;
}

static Host *
parse_addresses(const char *name, const char *text, uint16_t port, GError **error)
{
    g_autoptr(GPtrArray) addresses = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) words = g_strsplit(text, ",", GW_PEER_MAX_ADDRESSES + 1);

    if (g_strv_length(words) > GW_PEER_MAX_ADDRESSES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "host '%s' can have at most %d addresses",
                    name, GW_PEER_MAX_ADDRESSES);
        return NULL;
    }
    for (char **word = words; *word; word++) {
        if (!add_address(name, g_strstrip(*word), addresses, &port, error)) {
            return NULL;
        }
    }
    g_ptr_array_add(addresses, NULL);
    Host *host = g_new0(Host, 1);
    host->addresses = (char **)g_ptr_array_steal(addresses, NULL);
    host->port = port ? port : GW_PEER_DEFAULT_PORT;
    return host;
}

/* The new host's record, checked; NULL with the reason. */
static Host *
check_new_host(GwPeers *peers, const char *name, const char *addresses, uint16_t port,
               GError **error)
{
    if (!gw_check_name("host name", name, error)) {
        return NULL;
    }
    if (g_str_equal(name, peers->host_name)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%s' is this host itself: add the other hosts", name);
        return NULL;
    }
    if (g_tree_lookup(peers->hosts, name)) {
        g_set_error(error, GW_ERROR, GW_ERROR_EXISTS,
                    "host '%s' is known already: remove it first to change its address", name);
        return NULL;
    }
    if (g_tree_nnodes(peers->hosts) >= (int)MAX_HOSTS) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "at most %u hosts can be known",
                    MAX_HOSTS);
        return NULL;
    }
    return parse_addresses(name, addresses, port, error);
}

void
gw_peers_add(GwPeers *peers, const char *name, const char *addresses, uint16_t port,
             GwPeersDoneFn callback, void *data)
{
    Change *change = change_new(peers, name, callback, data);

    change->host = check_new_host(peers, name, addresses, port, &change->error);
    if (!change->host) {
        change->idle = g_idle_add(on_refused_change, change);
        return;
    }
    g_autofree char *key = host_key(name);
    g_autoptr(json_t) value = json_object();
    json_object_set_new(value, "addresses", address_array(change->host));
    gw_json_set_int(value, "port", change->host->port);
    g_autofree char *text = gw_json_text(value);
    GwStoreTxn *txn = gw_store_txn_new();
    gw_store_txn_if_revision(txn, key, 0);
    gw_store_txn_put_text(txn, key, text);
    gw_store_commit(peers->store, txn, on_committed, change);
}

static GError *
unknown_host(const char *name)
{
    return g_error_new(GW_ERROR, GW_ERROR_NOT_FOUND,
                       "host '%.63s' is not known here: 'godwit host list' shows those that are, "
                       "'godwit host add' adds one",
                       name);
}

void
gw_peers_remove(GwPeers *peers, const char *name, GwPeersDoneFn callback, void *data)
{
    Change *change = change_new(peers, name, callback, data);

    if (!g_tree_lookup(peers->hosts, name)) {
        change->error = unknown_host(name);
        change->idle = g_idle_add(on_refused_change, change);
        return;
    }
    g_autofree char *key = host_key(name);
    GwStoreTxn *txn = gw_store_txn_new();
    gw_store_txn_delete(txn, key);
    gw_store_commit(peers->store, txn, on_committed, change);
}

const char *
gw_peers_address(GwPeers *peers, const char *name)
{
    const Host *host = g_tree_lookup(peers->hosts, name);

    return host ? host->addresses[0] : NULL;
}

/* --- sessions to other hosts ------------------------------------------------------------------ */

GwLane *
gw_peers_connect(GwPeers *peers, const char *name, const GwLaneWishes *wishes,
                 const GwLaneHandlers *handlers, void *data, GError **error)
{
    const Host *host = g_tree_lookup(peers->hosts, name);
    const GwLaneWishes none = {0};

    if (g_str_equal(name, peers->host_name)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is this host itself", name);
        return NULL;
    }
    if (!host) {
        g_propagate_error(error, unknown_host(name));
        return NULL;
    }
    if (!peers->credentials && !gw_peers_reload_identity(peers, error)) {
        return NULL;
    }
    wishes = wishes ? wishes : &none;
    const GwLaneConnect options = {
        .address = host->addresses[0],
        .more_addresses = (const char *const *)host->addresses + 1,
        .port = host->port,
        .expected_name = name,
        .credentials = peers->credentials,
        .connect_timeout_ms = peers->connect_timeout_ms,
        .session_timeout_ms = peers->session_timeout_ms,
        .n_links = wishes->n_links,
        .encodings_off = wishes->encodings_off,
        .congestion = peers->congestion,
        .silence_ms = peers->silence_ms,
    };
    return gw_lane_connect(&options, handlers, data);
}

static void
query_free(void *data)
{
    Query *query = data;

    gw_query_free(query->query);
    g_free(query);
}

static void
on_query_done(json_t *hosts, const GError *error, void *data)
{
    Query *query = data;

    take_from(query->peers->queries, query);
    query->callback(hosts, error, query->data);
    query_free(query);
}

static json_t *
new_entry(const char *name, const char *address, uint16_t port, bool self)
{
    json_t *entry = json_object();

    gw_json_set_str(entry, "name", name);
    gw_json_set_str(entry, "address", address);
    gw_json_set_int(entry, "port", port);
    gw_json_set_bool(entry, "self", self);
    return entry;
}

static gboolean
ask_host(void *name, void *value, void *data)
{
    const Host *host = value;
    json_t *entry = new_entry(name, host->addresses[0], host->port, false);

    json_object_set_new(entry, "addresses", address_array(host));
    gw_query_ask(data, name, entry);
    return FALSE;
}

void
gw_peers_query(GwPeers *peers, GwPeersListFn callback, void *data)
{
    Query *query = g_new0(Query, 1);
    json_t *self = new_entry(peers->host_name, peers->bind_address, peers->port, true);
    g_autoptr(json_t) told = describe(peers);

    query->peers = peers;
    query->callback = callback;
    query->data = data;
    query->query = gw_query_new(peers, peers->connect_timeout_ms, on_query_done, query);
    g_ptr_array_add(peers->queries, query);
    gw_json_set_bool(self, "reachable", true);
    json_object_set_new(self, "error", json_null());
    json_object_update_missing(self, told);
    gw_query_add_entry(query->query, self);
    g_tree_foreach(peers->hosts, ask_host, query->query);
    gw_query_start(query->query);
}

/* --- life ------------------------------------------------------------------------------------- */

static int
compare_names(const void *a, const void *b, void *data)
{
    return strcmp(a, b);
}

GwPeers *
gw_peers_new(const GwPeersOptions *options, GwPeersDoneFn loaded, void *data)
{
    GwPeers *peers = g_new0(GwPeers, 1);

    peers->store = options->store;
    peers->host_name = g_strdup(options->host_name);
    peers->pki_dir = g_strdup(options->pki_dir);
    peers->bind_address = g_strdup(options->bind_address);
    peers->port = options->port ? options->port : GW_PEER_DEFAULT_PORT;
    peers->connect_timeout_ms = options->connect_timeout_ms;
    peers->session_timeout_ms = options->session_timeout_ms;
    peers->congestion = g_strdup(options->congestion);
    peers->silence_ms = options->silence_ms;
    peers->describe = options->describe;
    peers->describe_data = options->data;
    peers->loaded = loaded;
    peers->loaded_data = data;
    peers->hosts = g_tree_new_full(compare_names, NULL, g_free, host_free);
    peers->changes = g_ptr_array_new_with_free_func(change_free);
    peers->queries = g_ptr_array_new_with_free_func(query_free);
    const GwIncomingOptions incoming = {
        .host_name = peers->host_name,
        .bind_address = peers->bind_address,
        .port = peers->port,
        .session_timeout_ms = peers->session_timeout_ms,
        .congestion = peers->congestion,
        .is_known = is_known,
        .describe = describe,
        .data = peers,
    };
    peers->incoming = gw_incoming_new(&incoming);
    gw_store_range(peers->store, HOST_PREFIX, 0, on_loaded, peers);
    return peers;
}

void
gw_peers_free(GwPeers *peers)
{
    if (!peers) {
        return;
    }
    gw_store_forget(peers->store, peers);
    for (unsigned i = 0; i < peers->changes->len; i++) {
        gw_store_forget(peers->store, g_ptr_array_index(peers->changes, i));
    }
    gw_incoming_free(peers->incoming);
    g_ptr_array_unref(peers->queries);
    g_ptr_array_unref(peers->changes);
    g_clear_pointer(&peers->credentials, gw_lane_credentials_unref);
    g_tree_unref(peers->hosts);
    g_free(peers->host_name);
    g_free(peers->pki_dir);
    g_free(peers->bind_address);
    g_free(peers->congestion);
    g_free(peers);
}
