// SPDX-License-Identifier: Apache-2.0
/*
 * The link thread: one connection of a session from opening to end.
 *
 * Owns the socket, TLS and GwLink. It is the only thread that reads or writes the connection. In
 * each turn it receives what is there (ordered frames go to the inbox, the others are answered
 * here), sends what the outbox and its own small frames offer, and looks at the clock.
 *
 * Limits: a turn moves at most TURN_BYTES each way, so that neither direction starves; while the
 * inbox is full nothing is read, and that silence is not the peer's. Pings go out every second;
 * silence of session_timeout_ms ends the session. At the end a REFUSE or GOODBYE is given
 * LINGER_US to arrive.
 *
 * Fails by ending the session: the reason goes through the inbox, behind all that arrived before.
 */
#include "lane/link.h"

#include "base/units.h"
#include "lane/wake.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#define TURN_BYTES (512u * 1024u)
#define PING_US    G_USEC_PER_SEC
#define LINGER_US  (2 * G_USEC_PER_SEC)

/* --- receiving -------------------------------------------------------------------------------- */

static bool
handle_number(GwLink *link, const GwFrame *frame, GError **error)
{
    int64_t now_us = gw_now_us();
    uint64_t number;

    if (!gw_number_decode(gw_frame_payload(frame), frame->header.payload_bytes, &number, error)) {
        return false;
    }
    if (frame->header.type == GW_FRAME_ACK) {
        return gw_outbox_acked(link->lane->outbox, number, now_us, error);
    }
    if (frame->header.type == GW_FRAME_PING) {
        link->pong_pending = true;
        link->pong_token = number;
    } else if (link->ping_token != 0 && number == link->ping_token) {
        gw_outbox_rtt(link->lane->outbox, now_us - (int64_t)link->ping_token, now_us);
        link->ping_token = 0;
    }
    return true;
}

/* @frame: transfer full. */
static bool
handle_ordered(GwLink *link, GwFrame *frame, GError **error)
{
    bool is_wrong_way = gw_frame_is_stream(frame->header.type) && link->lane->expected_name;

    if (is_wrong_way || frame->header.sequence != link->last_sequence + 1) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s sent a %s frame %s", link->peer,
                    gw_frame_type_name(frame->header.type),
                    is_wrong_way ? "to the source of the stream" : "out of order");
        gw_frame_free(frame);
        return false;
    }
    link->last_sequence++;
    gw_inbox_push(link->lane->inbox, frame);
    return true;
}

/* @frame: transfer full. False also for the regular ends of a session. */
static bool
handle_frame(GwLink *link, GwFrame *frame, GError **error)
{
    if (gw_frame_is_ordered(frame->header.type)) {
        return handle_ordered(link, frame, error);
    }
    g_autoptr(GwFrame) own = frame;

    switch ((unsigned)own->header.type) {
    case GW_FRAME_ACK:
    case GW_FRAME_PING:
    case GW_FRAME_PONG:
        return handle_number(link, own, error);
    case GW_FRAME_GOODBYE:
        link->tell_peer = false;
        g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED, "%s finished the session", link->peer);
        return false;
    case GW_FRAME_REFUSE:
        link->tell_peer = false;
        g_propagate_prefixed_error(
            error, gw_refuse_decode(gw_frame_payload(own), own->header.payload_bytes),
            "%s ended the session: ", link->peer);
        return false;
    default:
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s sent a second greeting", link->peer);
        return false;
    }
}

static bool
receive_turn(GwLink *link, GError **error)
{
    size_t received = 0;

    link->more_to_receive = false;
    while (received < TURN_BYTES) {
        GwFrame *frame = NULL;

        if (!gw_inbox_has_room(link->lane->inbox)) {
            link->heard_us = gw_now_us();
            return true;
        }
        int result = gw_link_receive_some(link, &frame, error);

        if (result <= 0) {
            return result == 0;
        }
        received += gw_frame_wire_bytes(frame);
        link->tell_peer = true;
        if (!handle_frame(link, frame, error)) {
            return false;
        }
        link->tell_peer = false;
    }
    link->more_to_receive = true;
    return true;
}

/* --- sending ---------------------------------------------------------------------------------- */

static GwFrame *
make_number_frame(GwLink *link, GwFrameType type, uint64_t number)
{
    g_autoptr(GByteArray) payload = g_byte_array_sized_new(8);

    gw_number_encode(number, payload);
    GwFrame *frame = gw_frame_new_with(link->lane->pool, type, payload);

    gw_frame_encode_header(&frame->header, frame->wire);
    return frame;
}

/* Small frames overtake what is queued: the peer waits for them, or measures with them. */
static GwFrame *
next_frame(GwLink *link, int64_t now_us)
{
    uint64_t sequence;

    if (gw_inbox_take_ack(link->lane->inbox, &sequence)) {
        return make_number_frame(link, GW_FRAME_ACK, sequence);
    }
    if (link->pong_pending) {
        link->pong_pending = false;
        return make_number_frame(link, GW_FRAME_PONG, link->pong_token);
    }
    if (link->ping_pending) {
        link->ping_pending = false;
        link->ping_token = (uint64_t)now_us;
        return make_number_frame(link, GW_FRAME_PING, link->ping_token);
    }
    return gw_outbox_take(link->lane->outbox, now_us);
}

static bool
send_turn(GwLink *link, GError **error)
{
    size_t sent = 0;

    link->more_to_send = false;
    while (sent < TURN_BYTES) {
        if (!link->sending) {
            link->sending = next_frame(link, gw_now_us());
        }
        if (!link->sending) {
            return true;
        }
        size_t len = gw_frame_wire_bytes(link->sending);
        int result = gw_link_send_some(link, error);

        if (result <= 0) {
            return result == 0;
        }
        sent += len;
    }
    link->more_to_send = true;
    return true;
}

/* --- the running session
 * -------------------------------------------------------------------------- */

static bool
look_at_clock(GwLink *link, GError **error)
{
    int64_t now_us = gw_now_us();
    int64_t silent_us = now_us - link->heard_us;

    if (silent_us >= link->lane->session_timeout_ms * 1000) {
        g_autofree char *duration = gw_format_duration(silent_us);

        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "%s has not been heard for %s", link->peer,
                    duration);
        return false;
    }
    if (now_us >= link->ping_due_us) {
        link->ping_pending = true;
        link->ping_due_us = now_us + PING_US;
    }
    return true;
}

/* Orders of other threads. False: the session is to end. */
static bool
look_at_orders(GwLink *link, GError **error)
{
    GwLane *lane = link->lane;

    pthread_mutex_lock(&lane->lock);
    GError *failure = g_steal_pointer(&lane->failure);
    bool finishing = lane->finishing;
    pthread_mutex_unlock(&lane->lock);
    if (failure) {
        link->tell_peer = true;
        g_propagate_error(error, failure);
        return false;
    }
    if (!finishing || link->sending || !gw_outbox_is_settled(lane->outbox)) {
        return true;
    }
    GwFrame *goodbye =
        gw_frame_new_with(lane->pool, GW_FRAME_GOODBYE, &(GByteArray){.data = NULL, .len = 0});

    if (gw_link_send_frame(link, goodbye, gw_now_us() + LINGER_US, error)) {
        g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED, "the session with %s is finished",
                    link->peer);
    }
    return false;
}

static GwLinkWait
wait_for_work(GwLink *link)
{
    short events = 0;
    int64_t silence_us = link->heard_us + link->lane->session_timeout_ms * 1000;
    int64_t deadline_us = MIN(link->ping_due_us, silence_us);

    if (gw_inbox_has_room(link->lane->inbox)) {
        events |= POLLIN;
    }
    if (link->sending || link->more_to_send) {
        events |= POLLOUT;
    }
    return gw_link_wait(link, events, link->more_to_receive ? 0 : deadline_us);
}

/* Returns when the session is over; false without error: the lane is being freed. */
static bool
run(GwLink *link, GError **error)
{
    while (wait_for_work(link) != GW_LINK_STOPPED) {
        /* The clock goes before sending: it may call for a ping. */
        if (!receive_turn(link, error) || !look_at_clock(link, error) || !send_turn(link, error) ||
            !look_at_orders(link, error)) {
            return false;
        }
        gw_lane_count_cpu(link->lane, &link->cpu_us);
    }
    return false;
}

/* --- the end
 * ---------------------------------------------------------------------------------------- */

/* Closing with unread bytes would reset the connection and destroy what we said last. */
static void
linger(GwLink *link)
{
    uint8_t waste[4096];
    int64_t deadline_us = gw_now_us() + LINGER_US;

    shutdown(link->fd, SHUT_WR);
    while (gw_now_us() < deadline_us) {
        ssize_t n = recv(link->fd, waste, sizeof(waste), MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            return;
        }
        if (n < 0 && gw_link_wait(link, POLLIN, deadline_us) == GW_LINK_STOPPED) {
            return;
        }
    }
}

static void
tell_reason(GwLink *link, const GError *reason)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    int64_t deadline_us = gw_now_us() + LINGER_US;

    /* A frame that was begun has to be completed first, or the peer cannot tell them apart. */
    while (link->sending) {
        int result = gw_link_send_some(link, NULL);

        if (result < 0 || gw_now_us() >= deadline_us) {
            return;
        }
        if (result == 0 && gw_link_wait(link, POLLOUT, deadline_us) == GW_LINK_STOPPED) {
            return;
        }
    }
    gw_refuse_encode(reason, payload);
    (void)!gw_link_send_frame(link, gw_frame_new_with(link->lane->pool, GW_FRAME_REFUSE, payload),
                              deadline_us, NULL);
}

static void
end_session(GwLink *link, GError *reason)
{
    GwLane *lane = link->lane;

    gw_wake_raise(lane->cut_fd);
    gw_outbox_stop(lane->outbox);
    if (reason && link->tls && link->tell_peer) {
        tell_reason(link, reason);
    }
    if (reason && link->fd >= 0) {
        linger(link);
    }
    g_clear_pointer(&link->sending, gw_frame_free);
    g_clear_pointer(&link->receiving, gw_frame_free);
    g_clear_pointer(&link->tls, gw_tls_free);
    gw_fd_clear(&link->fd);
    gw_lane_count_cpu(lane, &link->cpu_us);
    if (reason) {
        gw_inbox_end(lane->inbox, reason);
    }
}

void *
gw_link_thread(void *data)
{
    GwLane *lane = data;
    GwLink link = {.lane = lane, .fd = GW_FD_NONE};
    GError *reason = NULL;

    if (gw_link_open(&link, &reason)) {
        link.heard_us = gw_now_us();
        link.ping_due_us = link.heard_us;
        gw_lane_post(lane,
                     (GwLaneEvent){.kind = GW_LANE_EVENT_READY, .name = g_strdup(link.peer_name)});
        (void)!run(&link, &reason);
    }
    end_session(&link, reason);
    g_free(link.peer);
    g_free(link.peer_name);
    return NULL;
}
