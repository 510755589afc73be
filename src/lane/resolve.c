// SPDX-License-Identifier: Apache-2.0
/*
 * From the peer's names to its addresses, before the session's first connection.
 *
 * Owns the look-up that is under way. Main context; the resolver's work happens in a thread of
 * GLib's. Names are looked up one after the other; one that does not resolve is no failure if
 * another one does. All of it may take the connect timeout. Fails by ending the session with
 * GW_ERROR_UNREACHABLE or GW_ERROR_TIMEOUT.
 */
#include "base/log.h"
#include "lane/session.h"

struct GwLaneResolve {
    GwLane *lane; /* NULL: freed in the meantime */
    GCancellable *cancellable;
    char *name;
};

static void resolve_next(GwLane *lane);

static void
drop_timeout(GwLane *lane)
{
    if (lane->resolve_timeout) {
        g_source_destroy(lane->resolve_timeout);
        g_clear_pointer(&lane->resolve_timeout, g_source_unref);
    }
}

void
gw_lane_stop_resolving(GwLane *lane)
{
    drop_timeout(lane);
    if (lane->resolve) {
        lane->resolve->lane = NULL;
        g_cancellable_cancel(lane->resolve->cancellable);
        lane->resolve = NULL;
    }
}

/* @cause: why the last name was not found. */
static void
finish_resolving(GwLane *lane, const GError *cause)
{
    GError *error = NULL;

    drop_timeout(lane);
    if (lane->addresses) {
        (void)!gw_lane_start(lane, &error);
    } else {
        error = g_error_new(GW_ERROR, GW_ERROR_UNREACHABLE,
                            "address '%s' of host '%s' cannot be resolved: %s", lane->peer_address,
                            lane->expected_name, cause->message);
    }
    if (error) {
        gw_lane_end_before_start(lane, error);
    }
}

static void
on_resolved(GObject *resolver, GAsyncResult *result, void *data)
{
    GwLaneResolve *resolve = data;
    GwLane *lane = resolve->lane;
    g_autofree char *name = g_steal_pointer(&resolve->name);
    g_autoptr(GError) cause = NULL;
    GList *addresses = g_resolver_lookup_by_name_finish(G_RESOLVER(resolver), result, &cause);

    g_object_unref(resolve->cancellable);
    g_free(resolve);
    if (!lane) {
        g_list_free_full(addresses, g_object_unref);
        return;
    }
    lane->resolve = NULL;
    lane->addresses = g_list_concat(lane->addresses, addresses);
    if (lane->names->len == 0) {
        finish_resolving(lane, cause);
        return;
    }
    if (cause) {
        gw_debug(&(GwLogFields){.host = lane->expected_name}, "address '%s': %s", name,
                 cause->message);
    }
    resolve_next(lane);
}

static gboolean
on_timeout(void *data)
{
    GwLane *lane = data;

    gw_lane_stop_resolving(lane);
    gw_lane_end_before_start(
        lane, g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                          "address '%s' of host '%s' was not resolved in time: check the name "
                          "service or use an IP address",
                          lane->peer_address, lane->expected_name));
    return G_SOURCE_REMOVE;
}

static void
resolve_next(GwLane *lane)
{
    g_autoptr(GResolver) resolver = g_resolver_get_default();
    GwLaneResolve *resolve = g_new0(GwLaneResolve, 1);

    resolve->lane = lane;
    resolve->cancellable = g_cancellable_new();
    resolve->name = g_ptr_array_steal_index(lane->names, 0);
    lane->resolve = resolve;
    g_resolver_lookup_by_name_async(resolver, resolve->name, resolve->cancellable, on_resolved,
                                    resolve);
}

void
gw_lane_resolve(GwLane *lane, guint timeout_ms)
{
    lane->resolve_timeout = g_timeout_source_new(timeout_ms);
    g_source_set_callback(lane->resolve_timeout, on_timeout, lane, NULL);
    g_source_attach(lane->resolve_timeout, lane->context);
    resolve_next(lane);
}
