// SPDX-License-Identifier: Apache-2.0
/*
 * Asks hosts for what they tell of themselves and collects the answers. Owns one session per host
 * until it answers, fails or the time is up; then the array is reported, whole, from the main
 * loop. Main context. A host's failure is an entry of the array, never a failure of the query.
 */
#include "fleet/query.h"
#include "base/units.h"
#include "fleet/address.h"

struct GwQuery {
    GwPeers *peers;
    GwPeersListFn callback;
    void *data;
    int64_t timeout_ms;
    json_t *hosts;
    GPtrArray *asks; /* of Ask, until answered */
    bool started;
    unsigned timer;
    unsigned report; /* idle source that reports */
};

typedef struct Ask {
    GwQuery *query;
    json_t *entry; /* in query->hosts */
    GwLane *lane;
} Ask;

static void
ask_free(void *data)
{
    Ask *ask = data;

    gw_lane_free(ask->lane);
    g_free(ask);
}

GwQuery *
gw_query_new(GwPeers *peers, int64_t timeout_ms, GwPeersListFn callback, void *data)
{
    GwQuery *query = g_new0(GwQuery, 1);

    query->peers = peers;
    query->callback = callback;
    query->data = data;
    query->timeout_ms = timeout_ms;
    query->hosts = json_array();
    query->asks = g_ptr_array_new_with_free_func(ask_free);
    return query;
}

void
gw_query_free(GwQuery *query)
{
    if (!query) {
        return;
    }
    g_clear_handle_id(&query->timer, g_source_remove);
    g_clear_handle_id(&query->report, g_source_remove);
    g_ptr_array_unref(query->asks);
    json_decref(query->hosts);
    g_free(query);
}

void
gw_query_add_entry(GwQuery *query, json_t *entry)
{
    json_array_append_new(query->hosts, entry);
}

static gboolean
report(void *data)
{
    GwQuery *query = data;

    query->report = 0;
    query->callback(query->hosts, NULL, query->data);
    return G_SOURCE_REMOVE;
}

static void
report_if_done(GwQuery *query)
{
    if (query->started && query->asks->len == 0 && query->report == 0) {
        g_clear_handle_id(&query->timer, g_source_remove);
        query->report = g_idle_add(report, query);
    }
}

static void
ask_ended(Ask *ask, const GError *error)
{
    GwQuery *query = ask->query;

    if (error) {
        json_object_set_new(ask->entry, "error", gw_json_from_error(error));
    } else {
        gw_json_set_bool(ask->entry, "reachable", true);
    }
    g_ptr_array_remove_fast(query->asks, ask);
    report_if_done(query);
}

static void
on_ready(GwLane *lane, void *data)
{
    g_autoptr(json_t) question = json_object();
    g_autoptr(GError) error = NULL;

    gw_json_set_str(question, "service", "info");
    if (!gw_lane_send(lane, question, &error)) {
        ask_ended(data, error);
    }
}

static void
on_message(GwLane *lane, json_t *message, void *data)
{
    Ask *ask = data;
    const json_t *refusal = json_object_get(message, "error");

    if (json_is_object(refusal)) {
        g_autoptr(GError) error = gw_json_to_error(refusal);
        ask_ended(ask, error);
        return;
    }
    /* What we know of the host stands: an answer only adds to it. */
    json_object_update_missing(ask->entry, message);
    ask_ended(ask, NULL);
}

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    ask_ended(data, error);
}

void
gw_query_ask(GwQuery *query, const char *name, json_t *entry)
{
    static const GwLaneHandlers handlers = {
        .ready = on_ready,
        .message = on_message,
        .closed = on_closed,
    };
    g_autoptr(GError) error = NULL;
    Ask *ask = g_new0(Ask, 1);

    gw_json_set_bool(entry, "reachable", false);
    json_object_set_new(entry, "error", json_null());
    json_array_append_new(query->hosts, entry);
    ask->query = query;
    ask->entry = entry;
    g_ptr_array_add(query->asks, ask);
    ask->lane = gw_peers_connect(query->peers, name, NULL, &handlers, ask, &error);
    if (!ask->lane) {
        ask_ended(ask, error);
    }
}

static void
ask_took_too_long(Ask *ask)
{
    uint16_t port = (uint16_t)gw_json_int(ask->entry, "port", 0);
    g_autofree char *where = gw_address_format(gw_json_str(ask->entry, "address", ""), port);
    g_autofree char *time = gw_format_duration(ask->query->timeout_ms * 1000);
    g_autoptr(GError) error = g_error_new(
        GW_ERROR, GW_ERROR_TIMEOUT,
        "host '%s' at %s did not answer within %s: check that godwitd runs there, that the address "
        "is right and that no firewall blocks TCP port %u",
        gw_json_str(ask->entry, "name", ""), where, time, port);

    ask_ended(ask, error);
}

static gboolean
on_time_is_up(void *data)
{
    GwQuery *query = data;

    query->timer = 0;
    while (query->asks->len > 0) {
        ask_took_too_long(g_ptr_array_index(query->asks, 0));
    }
    return G_SOURCE_REMOVE;
}

void
gw_query_start(GwQuery *query)
{
    query->timer = g_timeout_add((unsigned)query->timeout_ms, on_time_is_up, query);
    query->started = true;
    report_if_done(query);
}
