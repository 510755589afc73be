// SPDX-License-Identifier: Apache-2.0
/*
 * The link thread: serves one connection after the other, from the session's begin to its end.
 *
 * Owns the connection, and on the connecting side the one that is being opened. It is the only
 * thread that reads or writes them. In each turn it gets a new connection if there is one to get,
 * receives what is there, looks at the clock, and sends what the outbox and its own small frames
 * offer.
 *
 * Limits: a PING goes out every second. A connection that is silent for the lane's silence_us is in
 * doubt: the other links take over what it was given, and the connecting side opens another one
 * beside it; the first of the two that works is used. Silence of all links for session_timeout_ms
 * ends the session. At the end a REFUSE gets GW_CONNECTION_LINGER_US to arrive. A GOODBYE is said
 * over every connection, and the session goes on until the peer ends it in turn.
 *
 * Fails by ending the session: the reason goes through the inbox, behind all that arrived before.
 */
#include "lane/link.h"

#include "base/log.h"
#include "base/units.h"
#include "lane/wake.h"

#include <poll.h>
#include <string.h>

#define PING_US G_USEC_PER_SEC

/* --- the connection comes and goes ------------------------------------------------------------ */

void
gw_link_count_wire(GwLink *link, GwConnection *connection)
{
    if (!connection || !connection->tls) {
        return;
    }
    uint64_t wire_bytes = gw_tls_wire_bytes(connection->tls);

    pthread_mutex_lock(&link->lane->lock);
    link->lane->stats.wire_bytes += wire_bytes - connection->wire_counted;
    pthread_mutex_unlock(&link->lane->lock);
    connection->wire_counted = wire_bytes;
}

static void
count_up(GwLink *link, bool up)
{
    GwLaneStats *stats = &link->lane->stats;

    pthread_mutex_lock(&link->lane->lock);
    if (up) {
        stats->links++;
        stats->reconnects += link->was_up;
    } else {
        GwConnection *connection = link->connection;

        stats->links--;
        if (connection->sending && gw_frame_is_ordered(connection->sending->header.type)) {
            stats->resent_bytes += connection->sent_bytes;
        }
    }
    pthread_mutex_unlock(&link->lane->lock);
}

static void
drop_connection(GwLink *link)
{
    if (!link->connection) {
        return;
    }
    gw_link_count_wire(link, link->connection);
    count_up(link, false);
    g_clear_pointer(&link->connection, gw_connection_free);
}

static void
ack_again(GwLane *lane)
{
    gw_inbox_ack_again(lane->inbox);
    gw_inbox_ack_again(lane->urgent_inbox);
}

/* Acknowledgements, and what was asked or its answer, may be lost. */
static void
say_again(GwLane *lane)
{
    ack_again(lane);
    if (lane->desk) {
        gw_ref_desk_ask_again(lane->desk);
    }
}

static void
note_ends(GwLane *lane, int fd)
{
    struct sockaddr_storage here = {0};
    struct sockaddr_storage there = {0};
    socklen_t here_len = sizeof(here);
    socklen_t there_len = sizeof(there);

    if (getsockname(fd, (struct sockaddr *)&here, &here_len) == 0 &&
        getpeername(fd, (struct sockaddr *)&there, &there_len) == 0) {
        pthread_mutex_lock(&lane->lock);
        lane->here = here;
        lane->there = there;
        pthread_mutex_unlock(&lane->lock);
    }
}

void
gw_link_take_over(GwLink *link, GwConnection *connection, const GwHello *theirs)
{
    GwLane *lane = link->lane;
    GError *error = NULL;
    int64_t now_us = gw_now_us();

    drop_connection(link);
    connection->pool = lane->pool;
    connection->heard_us = now_us;
    __atomic_store_n(&lane->heard_us, now_us, __ATOMIC_RELAXED);
    link->connection = connection;
    note_ends(lane, connection->fd);
    link->up_since_us = now_us;
    if (!link->peer) {
        link->peer = g_strdup(connection->peer);
    }
    link->doubtful = link->benched = link->has_bulk = link->has_urgent = false;
    link->more_to_receive = true;
    link->more_to_send = true;
    link->ping_due_us = now_us;
    link->ping_token = 0;
    link->ping_pending = link->pong_pending = false;
    link->said_goodbye = link->goodbye_pending = false;
    link->path = (GwLinkPath){.due_us = now_us};
    count_up(link, true);
    if (link->was_up) {
        gw_info(&(GwLogFields){.host = connection->peer_name},
                "link %u of the session is connected again%s%s", link->index,
                link->trouble ? "; it was lost: " : "",
                link->trouble ? link->trouble->message : "");
    }
    link->was_up = true;
    g_clear_error(&link->trouble);
    if (!gw_outbox_link_up(lane->outbox, link->index, &theirs->received, now_us, &error) ||
        !gw_outbox_link_up(lane->urgent_outbox, link->index, &theirs->urgent, now_us, &error)) {
        gw_lane_end(lane, error, true);
    }
    gw_wake_raise(lane->bytes_fd);
    ack_again(lane);
    link->fresh = true;
}

static void
take_handed(GwLink *link)
{
    GwLane *lane = link->lane;

    pthread_mutex_lock(&lane->lock);
    GwConnection *connection = g_steal_pointer(&link->handed);
    GwHello theirs = link->handed_hello;
    pthread_mutex_unlock(&lane->lock);
    if (!connection) {
        return;
    }
    /* What the old connection still brings is not waited for: the peer has turned away from it. */
    drop_connection(link);
    g_autoptr(GByteArray) payload = g_byte_array_new();
    GwHello ours = {.version = GW_LANE_VERSION,
                    .oldest_version = GW_LANE_OLDEST_VERSION,
                    .joins = theirs.joins,
                    .link = theirs.link,
                    .attempt = theirs.attempt};

    memcpy(ours.session_id, lane->session_id, GW_SESSION_ID_BYTES);
    if (!theirs.joins) {
        memcpy(ours.ticket, lane->ticket, GW_TICKET_BYTES);
    }
    (void)!gw_lane_instance(ours.instance);
    gw_inbox_received(lane->inbox, &ours.received);
    gw_inbox_received(lane->urgent_inbox, &ours.urgent);
    gw_hello_encode(&ours, payload);
    connection->sending = gw_frame_new_with(NULL, GW_FRAME_HELLO, payload);
    gw_frame_encode_header(&connection->sending->header, connection->sending->wire);
    gw_link_take_over(link, connection, &theirs);
}

/* @error: transfer full. */
static void
give_up_connection(GwLink *link, GError *error)
{
    GwLane *lane = link->lane;

    switch (link->fate) {
    case GW_LINK_BREACHED:
        gw_lane_end(lane, error, true);
        return;
    case GW_LINK_PEER_ENDED:
        gw_lane_end(lane, error, false);
        return;
    case GW_LINK_LOST:
        break;
    }
    gw_debug(&(GwLogFields){.host = link->connection->peer_name}, "link %u: %s", link->index,
             error->message);
    drop_connection(link);
    gw_outbox_link_down(lane->outbox, link->index);
    gw_outbox_link_down(lane->urgent_outbox, link->index);
    say_again(lane);
    link->doubtful = link->benched = false;
    gw_link_reopen_soon(link, gw_now_us());
    g_clear_error(&link->trouble);
    link->trouble = error;
}

/* --- the clock -------------------------------------------------------------------------------- */

/* A session that the peer may never have heard of does not wait for long. */
static int64_t
session_timeout_us(const GwLane *lane)
{
    bool confirmed = lane->expected_name || __atomic_load_n(&lane->confirmed, __ATOMIC_RELAXED);

    return 1000 * (confirmed ? lane->session_timeout_ms
                             : MIN(lane->session_timeout_ms, GW_LANE_HANDSHAKE_MS));
}

static void
look_at_session_silence(GwLink *link, int64_t now_us)
{
    GwLane *lane = link->lane;
    int64_t silent_us = now_us - __atomic_load_n(&lane->heard_us, __ATOMIC_RELAXED);

    if (!link->was_up || silent_us < session_timeout_us(lane)) {
        return;
    }
    g_autofree char *duration = gw_format_duration(silent_us);
    gw_lane_end(lane,
                g_error_new(GW_ERROR, GW_ERROR_TIMEOUT, "%s has not been heard for %s%s%s",
                            link->peer, duration, link->trouble ? ": " : "",
                            link->trouble ? link->trouble->message : ""),
                false);
}

static void
look_at_connection_silence(GwLink *link, int64_t now_us)
{
    GwLane *lane = link->lane;
    bool doubtful = now_us - link->connection->heard_us >= lane->silence_us;

    if (doubtful && !link->doubtful) {
        /* Both outboxes know of the same links. */
        link->benched = gw_outbox_link_doubtful(lane->outbox, link->index) &&
                        gw_outbox_link_doubtful(lane->urgent_outbox, link->index);
        if (link->benched) {
            say_again(lane);
        }
        link->retry_us = 0;
    } else if (!doubtful && link->doubtful) {
        if (link->benched) {
            gw_outbox_link_trusted(lane->outbox, link->index);
            gw_outbox_link_trusted(lane->urgent_outbox, link->index);
            link->benched = false;
        }
        gw_link_stop_reopening(link);
    }
    link->doubtful = doubtful;
    link->tail_pending = now_us >= gw_link_tail_due(link, now_us);
    if (now_us >= link->ping_due_us) {
        link->ping_pending = true;
        link->ping_due_us = now_us + MIN(PING_US, lane->silence_us / 3);
    }
}

/*
 * All that was sent has been acknowledged, and no more is to be said. Over any link that gets a
 * connection, until one of them shows that the peer has heard it.
 */
static void
look_at_finish(GwLink *link)
{
    GwLane *lane = link->lane;

    pthread_mutex_lock(&lane->lock);
    int64_t finishing_us = lane->finishing_us;
    pthread_mutex_unlock(&lane->lock);
    if (finishing_us == 0 || link->said_goodbye) {
        return;
    }
    if (gw_outbox_is_settled(lane->outbox) && gw_outbox_is_settled(lane->urgent_outbox)) {
        pthread_mutex_lock(&lane->lock);
        lane->said_goodbye = true;
        pthread_mutex_unlock(&lane->lock);
        link->said_goodbye = link->goodbye_pending = true;
    } else if (gw_now_us() - finishing_us >= session_timeout_us(lane)) {
        gw_lane_end(lane,
                    g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                                "%s does not deal with what it was sent", link->peer),
                    true);
    }
}

bool
gw_link_said_goodbye(GwLink *link)
{
    pthread_mutex_lock(&link->lane->lock);
    bool said_goodbye = link->lane->said_goodbye;
    pthread_mutex_unlock(&link->lane->lock);
    return said_goodbye;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void
use_connection(GwLink *link)
{
    GError *error = NULL;
    bool usable = gw_link_receive_turn(link, &error);

    if (usable) {
        /* The clock goes before sending: it may call for a ping. */
        look_at_connection_silence(link, gw_now_us());
        gw_link_path_look(link, gw_now_us());
        look_at_finish(link);
        if (link->index == 0 &&
            __atomic_exchange_n(&link->lane->burst_wanted, false, __ATOMIC_RELAXED)) {
            gw_link_burst_begin(link, gw_now_us());
        }
        usable = gw_link_send_turn(link, &error);
    }
    if (!usable) {
        give_up_connection(link, error);
    }
}

static void
turn(GwLink *link)
{
    if (link->lane->expected_name) {
        gw_link_reopen(link, gw_now_us());
    } else {
        take_handed(link);
    }
    if (link->connection) {
        use_connection(link);
    }
    look_at_session_silence(link, gw_now_us());
    gw_lane_count_cpu(link->lane, &link->cpu_us);
}

static bool
has_work(const GwLink *link)
{
    const GwLane *lane = link->lane;
    GwRefKeep *keep = __atomic_load_n(&lane->keep, __ATOMIC_ACQUIRE);

    return gw_outbox_has_work(lane->outbox, link->index) ||
           gw_outbox_has_work(lane->urgent_outbox, link->index) || gw_inbox_has_ack(lane->inbox) ||
           gw_inbox_has_ack(lane->urgent_inbox) || (keep && gw_ref_keep_has_fill(keep)) ||
           (lane->desk && gw_ref_desk_has_need(lane->desk));
}

/* Work that comes after this is told by a wake-up. */
static bool
declare_idle(GwLink *link)
{
    if (!link->connection || link->connection->sending || link->benched) {
        return true;
    }
    __atomic_store_n(&link->idle, 1, __ATOMIC_SEQ_CST);
    if (!has_work(link)) {
        return true;
    }
    __atomic_store_n(&link->idle, 0, __ATOMIC_SEQ_CST);
    return false;
}

static int64_t
next_due(GwLink *link)
{
    const GwLane *lane = link->lane;
    int64_t due_us = G_MAXINT64;

    if (link->was_up) {
        due_us = __atomic_load_n(&lane->heard_us, __ATOMIC_RELAXED) + session_timeout_us(lane);
    }
    if (link->connection) {
        due_us = MIN(due_us, MIN(link->ping_due_us, gw_link_tail_due(link, gw_now_us())));
        if (!link->doubtful) {
            due_us = MIN(due_us, link->connection->heard_us + lane->silence_us);
        }
    }
    return lane->expected_name ? MIN(due_us, gw_link_reopen_due(link)) : due_us;
}

static int
left_ms(int64_t deadline_us)
{
    int64_t left_us = deadline_us - gw_now_us();

    return left_us <= 0 ? 0 : (int)MIN(left_us / 1000 + 1, G_MAXINT);
}

/* False: the lane is being freed. */
static bool
wait_for_work(GwLink *link)
{
    const GwConnection *connection = link->connection;
    const GwConnection *opening = link->opening ? link->opening->connection : NULL;
    struct pollfd fds[] = {
        {.fd = link->lane->stop_fd, .events = POLLIN},
        {.fd = link->wake_fd, .events = POLLIN},
        {.fd = -1},
        {.fd = opening ? opening->fd : -1, .events = opening ? link->opening->events : 0},
    };
    int timeout_ms = left_ms(next_due(link));

    if (connection) {
        bool reads = gw_link_may_read(link);

        fds[2].events = (short)((reads ? POLLIN : 0) |
                                (connection->sending || link->more_to_send ? POLLOUT : 0));
        /* Not at all without events: a reset would be reported again and again. */
        fds[2].fd = fds[2].events ? connection->fd : -1;
        if ((reads && link->more_to_receive) || !declare_idle(link)) {
            timeout_ms = 0;
        }
    }
    int n = poll(fds, G_N_ELEMENTS(fds), timeout_ms);

    __atomic_store_n(&link->idle, 0, __ATOMIC_SEQ_CST);
    if (n > 0 && fds[1].revents) {
        gw_wake_lower(link->wake_fd);
    }
    return n <= 0 || !fds[0].revents;
}

static void
end_link(GwLink *link, bool ended)
{
    GwLane *lane = link->lane;
    GwFrame *refusal = NULL;

    pthread_mutex_lock(&lane->lock);
    GwConnection *handed = g_steal_pointer(&link->handed);
    if (ended && lane->tells_reason) {
        refusal = gw_refuse_frame(lane->end_reason);
    }
    pthread_mutex_unlock(&lane->lock);
    if (link->connection && refusal) {
        gw_connection_say_last(link->connection, g_steal_pointer(&refusal), lane->stop_fd);
    } else if (link->connection) {
        gw_connection_abandon(link->connection);
    }
    gw_frame_free(refusal);
    gw_connection_free(handed);
    drop_connection(link);
    gw_link_stop_reopening(link);
    gw_lane_count_cpu(lane, &link->cpu_us);

    pthread_mutex_lock(&lane->lock);
    bool last = --lane->links_running == 0;
    GError *reason = last && lane->end_reason ? g_error_copy(lane->end_reason) : NULL;
    pthread_mutex_unlock(&lane->lock);
    if (reason) {
        gw_inbox_end(lane->inbox, reason);
    }
    if (last && lane->desk) {
        gw_ref_desk_end(lane->desk);
    }
}

static void *
link_thread(void *data)
{
    GwLink *link = data;
    GwLane *lane = link->lane;
    bool ended = false, stopped = false;

    while (!ended && !stopped) {
        turn(link);
        pthread_mutex_lock(&lane->lock);
        ended = lane->end_reason != NULL;
        pthread_mutex_unlock(&lane->lock);
        stopped = !ended && !wait_for_work(link);
    }
    end_link(link, ended);
    return NULL;
}

/* --- main context ----------------------------------------------------------------------------- */

GwLink *
gw_link_new(GwLane *lane, unsigned index, GError **error)
{
    g_auto(GwFd) wake_fd = gw_wake_new(error);

    if (wake_fd < 0) {
        return NULL;
    }
    GwLink *link = g_new0(GwLink, 1);

    link->lane = lane;
    link->index = index;
    link->wake_fd = g_steal_fd(&wake_fd);
    __atomic_store_n(&lane->links[index], link, __ATOMIC_RELEASE);
    return link;
}

bool
gw_link_start(GwLink *link, GError **error)
{
    GwLane *lane = link->lane;

    /* Before the thread can end, and with it, perhaps, the session. */
    pthread_mutex_lock(&lane->lock);
    bool over = lane->end_reason != NULL;
    lane->links_running += !over;
    pthread_mutex_unlock(&lane->lock);
    if (over) {
        return true;
    }
    link->runs = gw_lane_start_thread(&link->thread, link_thread, link, "gw-lane-link", error);
    if (!link->runs) {
        pthread_mutex_lock(&lane->lock);
        lane->links_running--;
        pthread_mutex_unlock(&lane->lock);
    }
    return link->runs;
}

void
gw_link_hand(GwLink *link, GwConnection *connection, const GwHello *hello)
{
    pthread_mutex_lock(&link->lane->lock);
    GwConnection *unwanted = connection;
    if (!link->lane->end_reason) {
        unwanted = link->handed;
        link->handed = connection;
        link->handed_hello = *hello;
    }
    pthread_mutex_unlock(&link->lane->lock);
    gw_connection_free(unwanted);
    gw_wake_raise(link->wake_fd);
}

void
gw_link_join(GwLink *link)
{
    if (link->runs) {
        pthread_join(link->thread, NULL);
        link->runs = false;
    }
}

void
gw_link_free(GwLink *link)
{
    gw_connection_free(link->handed);
    gw_connection_free(link->connection);
    gw_opening_free(link->opening);
    g_clear_error(&link->trouble);
    gw_fd_clear(&link->wake_fd);
    g_free(link->peer);
    g_free(link);
}
