// SPDX-License-Identifier: Apache-2.0
/*
 * The facts for transport "auto" (core/transport.h), gathered during the checks: round trip and
 * rate of the session to the target, and whether a port on which the target's QEMU may wait for a
 * move can be reached from here.
 *
 * Main context. Owns a timer and a connection attempt; each of the two steps calls back once, from
 * the main loop, within a second. What cannot be found out is reason enough for the lane.
 */
#include "base/units.h"
#include "core/transport.h"
#include "migrate/check.h"

#include <gio/gio.h>
#include <string.h>

#define LOOK_MS    2
#define RTT_US     (1000 * 1000)
#define BURST_US   (200 * 1000)
#define KNOCK_S    1
#define NOT_OPENED "the target has no port for it"

struct GwTransportProbe {
    GwLane *lane; /* borrowed; while it measures */
    guint look;
    int64_t since_us;
    bool bursts;
    GwTransportFacts facts;
    char *no_direct;
    GCancellable *cancel; /* not NULL while it knocks */
    GwTransportProbeFn done;
    void *data;
};

GwTransportProbe *
gw_transport_probe_new(GwTransportProbeFn done, void *data)
{
    GwTransportProbe *probe = g_new0(GwTransportProbe, 1);

    probe->facts.cpus = g_get_num_processors();
    probe->no_direct = g_strdup(NOT_OPENED);
    probe->done = done;
    probe->data = data;
    return probe;
}

void
gw_transport_probe_free(GwTransportProbe *probe)
{
    if (!probe) {
        return;
    }
    g_clear_handle_id(&probe->look, g_source_remove);
    if (probe->cancel) {
        g_cancellable_cancel(probe->cancel);
        g_object_unref(probe->cancel);
    }
    g_free(probe->no_direct);
    g_free(probe);
}

/* --- the link --------------------------------------------------------------------------------- */

/* The round trip first: a burst over a far link would only hold up what follows it. */
static gboolean
on_look(void *data)
{
    GwTransportProbe *probe = data;
    int64_t waited_us = gw_now_us() - probe->since_us;
    GwLaneStats stats;

    gw_lane_stats(probe->lane, &stats);
    probe->facts.rtt_us = stats.rtt_us;
    probe->facts.link_bytes_s = stats.burst_bytes_s;
    bool is_near = stats.rtt_us > 0 && stats.rtt_us < GW_TRANSPORT_NEAR_US;
    if (is_near && !probe->bursts) {
        probe->bursts = true;
        probe->since_us = gw_now_us();
        gw_lane_measure(probe->lane);
        return G_SOURCE_CONTINUE;
    }
    bool waits = probe->bursts ? stats.burst_bytes_s == 0 && waited_us < BURST_US
                               : stats.rtt_us == 0 && waited_us < RTT_US;
    if (waits) {
        return G_SOURCE_CONTINUE;
    }
    probe->look = 0;
    probe->lane = NULL;
    probe->done(probe->data);
    return G_SOURCE_REMOVE;
}

void
gw_transport_probe_measure(GwTransportProbe *probe, GwLane *lane)
{
    probe->lane = lane;
    probe->since_us = gw_now_us();
    probe->look = g_timeout_add(LOOK_MS, on_look, probe);
}

void
gw_transport_probe_stop(GwTransportProbe *probe)
{
    g_clear_handle_id(&probe->look, g_source_remove);
    probe->lane = NULL;
}

/* --- the port --------------------------------------------------------------------------------- */

static void
on_knocked(GObject *client, GAsyncResult *result, void *data)
{
    g_autoptr(GError) error = NULL;
    GSocketConnection *connection =
        g_socket_client_connect_finish(G_SOCKET_CLIENT(client), result, &error);

    g_clear_object(&connection); /* that it came about is all there is to know */
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        return; /* the probe is gone */
    }
    GwTransportProbe *probe = data;
    g_clear_object(&probe->cancel);
    g_free(probe->no_direct);
    probe->no_direct = error ? g_strndup(error->message, 200) : NULL;
    probe->done(probe->data);
}

bool
gw_transport_probe_knock(GwTransportProbe *probe, const char *address, uint16_t port)
{
    GwTransportFacts facts = probe->facts;
    g_autofree char *reason = NULL;

    if (!address || port == 0 || !gw_transport_is_direct(&facts, &reason)) {
        return false;
    }
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autofree char *where = g_strdup_printf(strchr(address, ':') ? "[%s]" : "%s", address);

    g_socket_client_set_timeout(client, KNOCK_S);
    g_socket_client_set_enable_proxy(client, FALSE);
    probe->cancel = g_cancellable_new();
    g_socket_client_connect_to_host_async(client, where, port, probe->cancel, on_knocked, probe);
    return true;
}

const char *
gw_transport_probe_choose(GwTransportProbe *probe, char **reason)
{
    probe->facts.no_direct = probe->no_direct;
    return gw_transport_is_direct(&probe->facts, reason) ? "direct" : "lane";
}
