// SPDX-License-Identifier: Apache-2.0
/*
 * What a link does with the frames of its connection.
 *
 * Link thread. Ordered frames go to the inbox and come from the outbox; the others are answered
 * here, and counted. A turn moves at most TURN_BYTES each way, so that neither direction starves;
 * while the inbox is full nothing is read, and that silence is not the peer's.
 *
 * Fails with link->fate: the connection was lost, the peer ended the session, or it sent what it
 * must not.
 */
#include "base/units.h"
#include "lane/link.h"
#include "lane/wake.h"

#include <string.h>

#define TURN_BYTES (512u * 1024u)
/* Of PINGs whose PONGs measure nothing: link_tail.c. */
#define TAIL_NUMBER 0u

/* --- receiving -------------------------------------------------------------------------------- */

static GwRefKeep *
keep_of(GwLane *lane)
{
    return __atomic_load_n(&lane->keep, __ATOMIC_ACQUIRE);
}

static bool
handle_ack(GwLink *link, const GwFrame *frame, GError **error)
{
    GwLane *lane = link->lane;
    bool urgent = frame->header.type == GW_FRAME_BYTES_ACK;
    GwAck ack;

    if (!gw_ack_decode(gw_frame_payload(frame), frame->header.payload_bytes, &ack, error) ||
        !gw_outbox_acked(urgent ? lane->urgent_outbox : lane->outbox, &ack, gw_now_us(), error)) {
        return false;
    }
    if (urgent) {
        gw_wake_raise(lane->bytes_fd);
    } else if (keep_of(lane)) {
        gw_ref_keep_acked(keep_of(lane), ack.sequence, gw_now_us());
    }
    return true;
}

static bool
handle_number(GwLink *link, const GwFrame *frame, GError **error)
{
    int64_t now_us = gw_now_us();
    uint64_t number;

    if (!gw_number_decode(gw_frame_payload(frame), frame->header.payload_bytes, &number, error)) {
        return false;
    }
    if (frame->header.type == GW_FRAME_PING) {
        /* One that measures is not forgotten for one that does not. */
        link->pong_token = link->pong_pending && number == TAIL_NUMBER ? link->pong_token : number;
        link->pong_pending = true;
    } else if (gw_link_burst_pong(link, number, now_us)) {
        return true;
    } else if (link->ping_token != 0 && number == link->ping_token) {
        gw_outbox_rtt(link->lane->urgent_outbox, now_us - (int64_t)link->ping_token, now_us);
        gw_outbox_rtt(link->lane->outbox, now_us - (int64_t)link->ping_token, now_us);
        link->ping_token = 0;
    }
    return true;
}

/* @frame: transfer full. */
static bool
handle_ordered(GwLink *link, GwFrame *frame, GError **error)
{
    if (gw_frame_is_stream(frame->header.type) && link->lane->expected_name) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "%s sent a %s frame to the source of the "
                    "stream",
                    link->connection->peer, gw_frame_type_name(frame->header.type));
        gw_frame_free(frame);
        return false;
    }
    if (gw_frame_is_urgent(frame->header.type)) {
        link->has_urgent = true;
        bool pushed = gw_inbox_push(link->lane->urgent_inbox, frame, error);

        gw_wake_raise(link->lane->bytes_fd);
        return pushed;
    }
    link->has_bulk = true;
    return gw_inbox_push(link->lane->inbox, frame, error);
}

/* NEED goes to the side that refers, FILL to the one that asked. */
static bool
handle_about_references(GwLink *link, const GwFrame *frame, GError **error)
{
    GwLane *lane = link->lane;
    const uint8_t *payload = gw_frame_payload(frame);
    size_t len = frame->header.payload_bytes;

    if (frame->header.type == GW_FRAME_NEED && keep_of(lane)) {
        return gw_ref_keep_take_need(keep_of(lane), payload, len, error);
    }
    if (frame->header.type == GW_FRAME_FILL && lane->desk) {
        return gw_ref_desk_take_fill(lane->desk, payload, len, error);
    }
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                "%s sent a %s frame, and there are no references", link->connection->peer,
                gw_frame_type_name(frame->header.type));
    return false;
}

/* Until the peer uses the new connection its answers may go into the one before, and be lost. */
static void
ask_lost(GwLink *link)
{
    if (link->fresh && link->lane->desk) {
        gw_ref_desk_ask_again(link->lane->desk);
    }
    link->fresh = false;
}

/* @frame: transfer full. False also for the regular ends of a session. */
static bool
handle_frame(GwLink *link, GwFrame *frame, GError **error)
{
    const char *peer = link->connection->peer;

    ask_lost(link);
    link->fate = GW_LINK_BREACHED;
    __atomic_store_n(&link->lane->confirmed, true, __ATOMIC_RELAXED);
    if (gw_frame_is_ordered(frame->header.type)) {
        return handle_ordered(link, frame, error);
    }
    g_autoptr(GwFrame) own = frame;

    switch ((unsigned)own->header.type) {
    case GW_FRAME_ACK:
    case GW_FRAME_BYTES_ACK:
        return handle_ack(link, own, error);
    case GW_FRAME_PING:
    case GW_FRAME_PONG:
        return handle_number(link, own, error);
    case GW_FRAME_NEED:
    case GW_FRAME_FILL:
        return handle_about_references(link, own, error);
    case GW_FRAME_PROBE:
        return true;
    case GW_FRAME_GOODBYE:
        link->fate = GW_LINK_PEER_ENDED;
        g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED, "%s finished the session", peer);
        return false;
    case GW_FRAME_REFUSE:
        link->fate = GW_LINK_PEER_ENDED;
        g_propagate_prefixed_error(
            error, gw_refuse_decode(gw_frame_payload(own), own->header.payload_bytes),
            "%s ended the session: ", peer);
        return false;
    default:
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s sent a second greeting", peer);
        return false;
    }
}

static void
note_heard(GwLink *link)
{
    int64_t heard_us = link->connection->heard_us;

    if (heard_us > __atomic_load_n(&link->lane->heard_us, __ATOMIC_RELAXED)) {
        __atomic_store_n(&link->lane->heard_us, heard_us, __ATOMIC_RELAXED);
    }
}

/* The connection failed, or what came over it. */
static GwLinkFate
judge_connection(GwLink *link, GError **error)
{
    const GwConnection *connection = link->connection;

    if (connection->breached) {
        return GW_LINK_BREACHED;
    }
    if (!gw_tls_peer_said_bye(connection->tls)) {
        return GW_LINK_LOST;
    }
    if (gw_link_said_goodbye(link)) {
        g_clear_error(error);
        g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED, "the session with %s is finished",
                    connection->peer);
    }
    return GW_LINK_PEER_ENDED;
}

/* What waits here does not hold back a connection that brings none of its class. */
bool
gw_link_may_read(GwLink *link)
{
    GwLane *lane = link->lane;

    return (!link->has_bulk || gw_inbox_has_room(lane->inbox)) &&
           (!link->has_urgent || gw_inbox_has_room(lane->urgent_inbox));
}

bool
gw_link_receive_turn(GwLink *link, GError **error)
{
    GwConnection *connection = link->connection;
    size_t received = 0;

    link->more_to_receive = false;
    while (received < TURN_BYTES) {
        GwFrame *frame = NULL;

        if (!gw_link_may_read(link)) {
            connection->heard_us = gw_now_us();
            note_heard(link);
            return true;
        }
        int result = gw_connection_receive_some(connection, &frame, error);

        note_heard(link);
        if (result < 0) {
            link->fate = judge_connection(link, error);
            return false;
        }
        if (result == 0) {
            return true;
        }
        received += gw_frame_wire_bytes(frame);
        if (!handle_frame(link, frame, error)) {
            return false;
        }
    }
    link->more_to_receive = true;
    return true;
}

/* --- sending ---------------------------------------------------------------------------------- */

static GwFrame *
make_frame(GwLink *link, GwFrameType type, const GByteArray *payload)
{
    GwFrame *frame = gw_frame_new_with(link->lane->pool, type, payload);

    gw_frame_encode_header(&frame->header, frame->wire);
    return frame;
}

static GwFrame *
make_number_frame(GwLink *link, GwFrameType type, uint64_t number)
{
    g_autoptr(GByteArray) payload = g_byte_array_sized_new(8);

    gw_number_encode(number, payload);
    return make_frame(link, type, payload);
}

static GwFrame *
make_ack_frame(GwLink *link, GwFrameType type, const GwAck *ack)
{
    g_autoptr(GByteArray) payload = g_byte_array_sized_new(16);

    gw_ack_encode(ack, payload);
    return make_frame(link, type, payload);
}

/* The peer, or what it holds back, waits for these. NULL: there are none. */
static GwFrame *
next_about_references(GwLane *lane)
{
    g_autoptr(GByteArray) need = g_byte_array_new();
    GwFrame *frame = NULL;

    if (lane->desk && gw_ref_desk_next_need(lane->desk, need)) {
        frame = gw_frame_new_with(lane->pool, GW_FRAME_NEED, need);
    } else if (keep_of(lane)) {
        g_autoptr(GBytes) fill = gw_ref_keep_next_fill(keep_of(lane));
        gsize len = 0;
        const void *payload = fill ? g_bytes_get_data(fill, &len) : NULL;

        /* Without memory it is as good as lost: it will be asked for again. */
        frame = fill ? gw_frame_new(lane->pool, GW_FRAME_FILL, (uint32_t)len) : NULL;
        if (frame) {
            memcpy(gw_frame_payload(frame), payload, len);
            frame->header.payload_bytes = (uint32_t)len;
        }
    }
    if (frame) {
        gw_frame_encode_header(&frame->header, frame->wire);
        frame->causes = (GwFrameCauses){.reference_bytes = frame->header.payload_bytes};
    }
    return frame;
}

/* Small frames overtake what is queued: the peer waits for them, or measures with them. */
static GwFrame *
next_frame(GwLink *link, int64_t now_us)
{
    GwFrame *frame;
    GwAck ack;

    if (!link->benched && gw_inbox_take_ack(link->lane->urgent_inbox, &ack)) {
        return make_ack_frame(link, GW_FRAME_BYTES_ACK, &ack);
    }
    if (!link->benched && gw_inbox_take_ack(link->lane->inbox, &ack)) {
        return make_ack_frame(link, GW_FRAME_ACK, &ack);
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
    if (link->tail_pending) {
        link->tail_pending = false;
        return make_number_frame(link, GW_FRAME_PING, TAIL_NUMBER);
    }
    GwFrame *burst = gw_link_burst_next(link, now_us);
    if (burst) {
        return burst;
    }
    if (link->goodbye_pending) {
        link->goodbye_pending = false;
        return make_frame(link, GW_FRAME_GOODBYE, &(GByteArray){.data = NULL, .len = 0});
    }
    if (link->benched) {
        return NULL;
    }
    frame = gw_outbox_take(link->lane->urgent_outbox, link->index, now_us);
    frame = frame ? frame : next_about_references(link->lane);
    return frame ? frame : gw_outbox_take(link->lane->outbox, link->index, now_us);
}

/* Of a frame that is sent more than once, the first that is whole counts for its causes. */
static void
count_sent(GwLink *link, GwFrame *frame)
{
    GwLaneStats *stats = &link->lane->stats;
    const GwFrameCauses *causes = &frame->causes;

    gw_link_count_wire(link, link->connection);
    pthread_mutex_lock(&link->lane->lock);
    if (frame->was_sent) {
        stats->resent_bytes += gw_frame_wire_bytes(frame);
    } else if (frame->header.type != GW_FRAME_HELLO) {
        stats->page_bytes += causes->page_bytes;
        stats->zero_bytes += causes->zero_bytes;
        stats->same_bytes += causes->same_bytes;
        stats->equal_bytes += causes->equal_bytes;
        stats->delta_bytes += causes->delta_bytes;
        stats->delta_pages += causes->delta_pages;
        stats->reference_bytes += causes->reference_bytes;
        stats->reference_pages += causes->reference_pages;
        stats->opaque_bytes += causes->opaque_bytes;
        stats->control_bytes += causes->control_bytes;
    }
    frame->was_sent = true;
    pthread_mutex_unlock(&link->lane->lock);
}

bool
gw_link_send_turn(GwLink *link, GError **error)
{
    GwConnection *connection = link->connection;
    size_t sent_bytes = 0;

    link->more_to_send = false;
    while (sent_bytes < TURN_BYTES) {
        g_autoptr(GwFrame) sent = NULL;

        if (!connection->sending) {
            connection->sending = next_frame(link, gw_now_us());
        }
        if (!connection->sending) {
            return true;
        }
        int result = gw_connection_send_some(connection, &sent, error);

        if (result <= 0) {
            link->fate = GW_LINK_LOST;
            return result == 0;
        }
        count_sent(link, sent);
        gw_link_tail_sent(link, sent->header.type, gw_now_us());
        sent_bytes += gw_frame_wire_bytes(sent);
        if (sent->header.type == GW_FRAME_HELLO && link->announces) {
            link->announces = false;
            gw_lane_post(link->lane, (GwLaneEvent){.kind = GW_LANE_EVENT_READY,
                                                   .name = g_strdup(connection->peer_name)});
        }
    }
    link->more_to_send = true;
    return true;
}
