// SPDX-License-Identifier: Apache-2.0
/*
 * The facts for transport "auto" (core/transport.h), gathered during the checks: round trip and
 * rate of the session to the target, whether a port on which the target's QEMU may wait for a move
 * can be reached from here, and whether both hosts' configurations allow the plain transport.
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
#define MAX_BURSTS 3
#define NOT_OPENED "the target has no port for it"

struct GwTransportProbe {
    GwLane *lane; /* borrowed; while it measures */
    guint look;
    int64_t since_us;
    unsigned n_bursts; /* begun */
    GwTransportFacts facts;
    char *host;
    char *no_door;
    char *no_plain;       /* NULL: allowed, or never thought of */
    char *there;          /* the session's peer, if plain is allowed to go there */
    GCancellable *cancel; /* not NULL while it knocks */
    GwTransportProbeFn done;
    void *data;
};

GwTransportProbe *
gw_transport_probe_new(const char *host, GwTransportProbeFn done, void *data)
{
    GwTransportProbe *probe = g_new0(GwTransportProbe, 1);

    probe->facts.cpus = g_get_num_processors();
    probe->host = g_strdup(host);
    probe->no_door = g_strdup(NOT_OPENED);
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
    g_free(probe->host);
    g_free(probe->no_door);
    g_free(probe->no_plain);
    g_free(probe->there);
    g_free(probe);
}

/* --- the link --------------------------------------------------------------------------------- */

static bool
would_be_plain(const GwTransportProbe *probe, uint64_t link_bytes_s)
{
    GwTransportFacts facts = probe->facts;
    g_autofree char *reason = NULL;

    facts.plain = true;
    facts.link_bytes_s = link_bytes_s;
    return gw_transport_choose(&facts, &reason) == GW_TRANSPORT_PLAIN;
}

/*
 * A burst over a fast link is over in a few ms, and what else the two hosts' cores do then makes it
 * look slower. Where that may decide about plain it is worth another look.
 */
static bool
wants_burst(const GwTransportProbe *probe)
{
    uint64_t link_bytes_s = probe->facts.link_bytes_s;

    return probe->n_bursts == 0 ||
           (probe->there && probe->n_bursts < MAX_BURSTS && !would_be_plain(probe, link_bytes_s) &&
            would_be_plain(probe, 2 * link_bytes_s));
}

/* The round trip first: a burst over a far link would only hold up what follows it. */
static gboolean
on_look(void *data)
{
    GwTransportProbe *probe = data;
    int64_t waited_us = gw_now_us() - probe->since_us;
    GwLaneStats stats;

    gw_lane_stats(probe->lane, &stats);
    probe->facts.rtt_us = stats.rtt_us;
    probe->facts.link_bytes_s = MAX(probe->facts.link_bytes_s, stats.burst_bytes_s);
    bool waits = probe->n_bursts > 0 ? stats.burst_bytes_s == 0 && waited_us < BURST_US
                                     : stats.rtt_us == 0 && waited_us < RTT_US;
    if (waits) {
        return G_SOURCE_CONTINUE;
    }
    bool is_near = stats.rtt_us > 0 && stats.rtt_us < GW_TRANSPORT_NEAR_US;
    if (is_near && wants_burst(probe)) {
        probe->n_bursts++;
        probe->since_us = gw_now_us();
        gw_lane_measure(probe->lane);
        return G_SOURCE_CONTINUE;
    }
    probe->look = 0;
    probe->lane = NULL;
    probe->done(probe->data);
    return G_SOURCE_REMOVE;
}

/* Whether the session's other end is where this host's configuration lets memory go to plainly. */
static char *
plain_place(const GwMovesOptions *options, GwLane *lane, GError **error)
{
    struct sockaddr_storage there;

    gw_lane_ends(lane, NULL, &there);
    return gw_plain_is_allowed(options, &there, error) ? gw_sockaddr_text(&there) : NULL;
}

void
gw_check_warn_of_plain(json_t *checks)
{
    gw_check_add(checks, "plain-networks", "warning",
                 "use --transport lane if others than hosts can reach this network",
                 "memory would travel unencrypted and undigested, as plain-networks of both hosts "
                 "allow: who can listen on or write to the network can read and change it");
}

void
gw_check_plain(const GwMovesOptions *options, GwLane *lane, json_t *checks)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *there = plain_place(options, lane, &error);

    if (there) {
        gw_check_warn_of_plain(checks);
    } else {
        gw_check_add(checks, "plain-networks", "error", GW_PLAIN_REMEDY, "%s", error->message);
    }
}

void
gw_transport_probe_measure(GwTransportProbe *probe, const GwMovesOptions *options, GwLane *lane)
{
    g_autoptr(GError) error = NULL;

    probe->there = plain_place(options, lane, &error);
    if (error && options->plain_networks) {
        probe->no_plain = g_strdup(error->message);
    }
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
    g_free(probe->no_door);
    probe->no_door = error ? g_strndup(error->message, 200) : NULL;
    probe->done(probe->data);
}

bool
gw_transport_probe_knock(GwTransportProbe *probe, const char *address, uint16_t port, bool plain)
{
    g_autofree char *reason = NULL;

    probe->facts.plain = probe->there && plain;
    if (probe->there && !plain) {
        probe->no_plain = g_strdup_printf("plain-networks in godwitd.conf on host '%s' does not "
                                          "have this host's address",
                                          probe->host);
    }
    address = probe->facts.plain ? probe->there : address;
    if (!address || port == 0 || gw_transport_choose(&probe->facts, &reason) == GW_TRANSPORT_LANE) {
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

GwTransport
gw_transport_probe_choose(GwTransportProbe *probe, char **reason)
{
    probe->facts.no_door = probe->no_door;
    probe->facts.no_plain = probe->no_plain;
    return gw_transport_choose(&probe->facts, reason);
}
