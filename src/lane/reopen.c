// SPDX-License-Identifier: Apache-2.0
/*
 * Getting a link a connection, on the side that connects.
 *
 * Owns link->opening. Link thread. The session's first connection is tried at each address of the
 * peer once, until the lane's opening deadline; if that fails the session never begins. Every other
 * connection is tried at all addresses in turn, after a round without success again after a pause
 * of BACKOFF_MIN_US, doubled up to BACKOFF_MAX_US, for as long as the session lives.
 *
 * A peer that refuses in words ends the session: it does not know it any more, or it does not want
 * us. A wrong certificate does not: an address may have gone to another host.
 */
#include "base/log.h"
#include "base/units.h"
#include "lane/link.h"

#include <string.h>

/*
 * Every Linux has it. One that paces what it sends, such as bbr, spreads a page of one answer over
 * a tenth of a round trip: it knows a link only by how little the answers before have used of it.
 */
#define URGENT_CONGESTION "reno"

#define BACKOFF_MIN_US (50 * 1000)
#define BACKOFF_MAX_US G_USEC_PER_SEC

/* After a link was down its first sign of life is an answered SYN; TCP repeats one after 1 s. */
#define CONNECT_US G_USEC_PER_SEC
#define OPEN_US    (6 * G_USEC_PER_SEC)

static void
set_deadlines(const GwLink *link, int64_t now_us, int64_t *connect_us, int64_t *open_us)
{
    const GwLane *lane = link->lane;
    GwOutboxFigures figures;

    if (!link->joins) {
        unsigned n_left = g_list_length(lane->addresses) - link->next_address;

        /* Each address gets its share of the time that is left. */
        *open_us = lane->open_deadline_us;
        *connect_us = now_us + MAX(lane->open_deadline_us - now_us, 0) / n_left;
        return;
    }
    gw_outbox_figures(lane->outbox, now_us, &figures);
    int64_t trips_us = 4 * (int64_t)MIN(figures.rtt_us, G_USEC_PER_SEC);

    *connect_us = now_us + CONNECT_US + trips_us;
    *open_us = now_us + OPEN_US + 2 * trips_us;
}

static void
begin(GwLink *link, int64_t now_us)
{
    GwLane *lane = link->lane;
    GwHello ours = {
        .version = GW_LANE_VERSION,
        .oldest_version = GW_LANE_OLDEST_VERSION,
        .joins = link->joins,
        .link = (uint8_t)link->index,
        .attempt = ++link->attempt,
        .flags = link->urgent ? GW_HELLO_URGENT : 0,
    };
    int64_t connect_us, open_us;

    if (!link->peer) {
        link->peer = g_strdup_printf("host '%s' at %s", lane->expected_name, lane->peer_address);
    }
    memcpy(ours.session_id, lane->session_id, GW_SESSION_ID_BYTES);
    (void)!gw_lane_instance(ours.instance);
    if (link->joins) {
        memcpy(ours.ticket, lane->ticket, GW_TICKET_BYTES);
    }
    gw_inbox_received(lane->inbox, &ours.received);
    gw_inbox_received(lane->urgent_inbox, &ours.urgent);
    set_deadlines(link, now_us, &connect_us, &open_us);
    GwOpeningTarget target = {
        .address = g_list_nth_data(lane->addresses, link->next_address),
        .port = lane->port,
        .peer = link->peer,
        .expected_name = lane->expected_name,
        .credentials = lane->credentials,
        .timeout_ms = lane->session_timeout_ms,
        .congestion = link->urgent ? URGENT_CONGESTION : lane->congestion,
    };
    link->opening = gw_opening_new(&target, &ours, connect_us, open_us);
}

static void
finish_opening(GwLink *link)
{
    if (link->opening) {
        gw_link_count_wire(link, link->opening->connection);
        g_clear_pointer(&link->opening, gw_opening_free);
    }
}

static void
succeed(GwLink *link)
{
    GwLane *lane = link->lane;
    GwConnection *connection = g_steal_pointer(&link->opening->connection);
    GwHello theirs = link->opening->theirs;
    int64_t rtt_us = gw_now_us() - link->opening->greeted_us;
    bool is_first = !link->joins;

    finish_opening(link);
    if (is_first) {
        memcpy(lane->ticket, theirs.ticket, GW_TICKET_BYTES);
        gw_outbox_rtt(lane->outbox, rtt_us, gw_now_us());
    }
    link->joins = true;
    g_autofree char *name = g_strdup(connection->peer_name);

    gw_link_take_over(link, connection, &theirs);
    if (is_first) {
        gw_lane_post(lane,
                     (GwLaneEvent){.kind = GW_LANE_EVENT_READY, .name = g_steal_pointer(&name)});
    }
}

static void
back_off(GwLink *link, int64_t now_us)
{
    link->backoff_us = CLAMP(2 * link->backoff_us, BACKOFF_MIN_US, BACKOFF_MAX_US);
    link->retry_us = now_us + link->backoff_us;
}

/* @error: transfer full. */
static void
fail(GwLink *link, GError *error)
{
    GwLane *lane = link->lane;
    bool refused = link->opening->refused;
    unsigned n_addresses = g_list_length(lane->addresses);

    finish_opening(link);
    link->next_address++;
    bool tried_all = link->next_address >= n_addresses;

    if (refused && g_error_matches(error, GW_ERROR, GW_ERROR_NOT_FOUND) &&
        gw_link_said_goodbye(link)) {
        /* Who has heard it does not know the session any more. */
        g_error_free(error);
        error = g_error_new(GW_ERROR, GW_ERROR_CANCELLED, "the session with %s is finished",
                            link->peer);
    }
    /* "Later" is the only no that leaves hope. */
    if ((!link->joins && (refused || tried_all)) ||
        (refused && !g_error_matches(error, GW_ERROR, GW_ERROR_TIMEOUT))) {
        gw_lane_end(lane, error, false);
        return;
    }
    gw_debug(&(GwLogFields){.host = lane->expected_name}, "link %u: %s", link->index,
             error->message);
    g_clear_error(&link->trouble);
    link->trouble = error;
    link->retry_us = 0;
    if (tried_all) {
        link->next_address = 0;
        back_off(link, gw_now_us());
    }
}

void
gw_link_reopen_soon(GwLink *link, int64_t now_us)
{
    bool lived = now_us - link->up_since_us >= BACKOFF_MAX_US;

    link->backoff_us = 0;
    link->retry_us = lived ? 0 : now_us + BACKOFF_MIN_US;
}

static bool
is_wanted(const GwLink *link)
{
    return !link->connection || link->doubtful;
}

void
gw_link_reopen(GwLink *link, int64_t now_us)
{
    GError *error = NULL;

    if (!link->opening && is_wanted(link) && now_us >= link->retry_us) {
        begin(link, now_us);
    }
    if (!link->opening) {
        return;
    }
    switch (gw_opening_step(link->opening, &error)) {
    case GW_OPENING_GOES_ON:
        break;
    case GW_OPENING_DONE:
        succeed(link);
        break;
    case GW_OPENING_FAILED:
        fail(link, error);
        break;
    }
}

void
gw_link_stop_reopening(GwLink *link)
{
    /* Once it was greeted, the peer turns to the new connection. */
    if (link->opening && (!link->connection || link->opening->stage < GW_OPENING_GREETING)) {
        finish_opening(link);
    }
}

int64_t
gw_link_reopen_due(const GwLink *link)
{
    if (link->opening) {
        return link->opening->deadline_us;
    }
    return is_wanted(link) ? link->retry_us : G_MAXINT64;
}
