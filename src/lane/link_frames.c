// SPDX-License-Identifier: Apache-2.0
/*
 * Moving frames over one connection.
 *
 * Owns nothing but what hangs on GwLink: one frame being sent, one being received. Link thread.
 * A frame's payload is allocated only after its header passed the checks of frame.h, so a peer
 * can make us hold at most one frame of 1 MiB here. Fails with GW_ERROR_UNREACHABLE when the
 * connection is gone and GW_ERROR_PROTOCOL for damaged frames (then link->tell_peer is set).
 */
#include "lane/link.h"

#include "base/units.h"
#include "lane/wake.h"

#include <poll.h>

static int
left_ms(int64_t deadline_us)
{
    int64_t left_us = deadline_us - gw_now_us();

    return left_us <= 0 ? 0 : (int)MIN(left_us / 1000 + 1, G_MAXINT);
}

GwLinkWait
gw_link_wait(GwLink *link, short events, int64_t deadline_us)
{
    struct pollfd fds[] = {
        {.fd = link->lane->stop_fd, .events = POLLIN},
        {.fd = link->lane->wake_fd, .events = POLLIN},
        /* Not at all without events: a reset would be reported again and again. */
        {.fd = events ? link->fd : -1, .events = events},
    };
    int n = poll(fds, G_N_ELEMENTS(fds), left_ms(deadline_us));

    if (n <= 0) {
        return GW_LINK_TIMEOUT;
    }
    if (fds[0].revents) {
        return GW_LINK_STOPPED;
    }
    if (fds[1].revents) {
        gw_wake_lower(link->lane->wake_fd);
    }
    return GW_LINK_READY;
}

static void
count_sent(GwLink *link, const GwFrameCauses *causes)
{
    GwLaneStats *stats = &link->lane->stats;

    pthread_mutex_lock(&link->lane->lock);
    stats->wire_bytes = gw_tls_wire_bytes(link->tls);
    stats->page_bytes += causes->page_bytes;
    stats->zero_bytes += causes->zero_bytes;
    stats->opaque_bytes += causes->opaque_bytes;
    stats->control_bytes += causes->control_bytes;
    pthread_mutex_unlock(&link->lane->lock);
}

int
gw_link_send_some(GwLink *link, GError **error)
{
    GwFrame *frame = link->sending;
    size_t len = gw_frame_wire_bytes(frame);

    while (link->sent_bytes < len) {
        ssize_t sent =
            gw_tls_send(link->tls, frame->wire + link->sent_bytes, len - link->sent_bytes, error);
        if (sent <= 0) {
            return (int)sent;
        }
        link->sent_bytes += (size_t)sent;
    }
    count_sent(link, &frame->causes);
    g_clear_pointer(&link->sending, gw_frame_free);
    link->sent_bytes = 0;
    return 1;
}

static int
begin_frame(GwLink *link, GError **error)
{
    GwFrameHeader header;

    if (!gw_frame_decode_header(link->header, &header, error)) {
        link->tell_peer = true;
        return -1;
    }
    link->receiving = gw_frame_new(link->lane->pool, header.type, header.payload_bytes);
    if (!link->receiving) {
        link->tell_peer = true;
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "out of memory for a frame of %u bytes",
                    header.payload_bytes);
        return -1;
    }
    link->receiving->header = header;
    link->payload_have = 0;
    return 1;
}

/* 1: @have reached @want. */
static int
fill(GwLink *link, uint8_t *buffer, size_t *have, size_t want, GError **error)
{
    while (*have < want) {
        ssize_t received = gw_tls_recv(link->tls, buffer + *have, want - *have, error);
        if (received <= 0) {
            return (int)received;
        }
        *have += (size_t)received;
        link->heard_us = gw_now_us();
    }
    return 1;
}

int
gw_link_receive_some(GwLink *link, GwFrame **out, GError **error)
{
    int result = fill(link, link->header, &link->header_have, GW_FRAME_HEADER_BYTES, error);

    if (result == 1 && !link->receiving) {
        result = begin_frame(link, error);
    }
    if (result == 1) {
        result = fill(link, gw_frame_payload(link->receiving), &link->payload_have,
                      link->receiving->header.payload_bytes, error);
    }
    if (result == 1) {
        *out = g_steal_pointer(&link->receiving);
        link->header_have = 0;
    }
    return result;
}

static bool
wait_or_fail(GwLink *link, short events, int64_t deadline_us, GError **error)
{
    switch (gw_link_wait(link, events, deadline_us)) {
    case GW_LINK_READY:
        return true;
    case GW_LINK_TIMEOUT:
        if (gw_now_us() < deadline_us) {
            return true;
        }
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "%s did not answer in time", link->peer);
        return false;
    case GW_LINK_STOPPED:
        return false;
    }
    g_return_val_if_reached(false);
}

bool
gw_link_send_frame(GwLink *link, GwFrame *frame, int64_t deadline_us, GError **error)
{
    gw_frame_encode_header(&frame->header, frame->wire);
    link->sending = frame;
    for (;;) {
        int result = gw_link_send_some(link, error);

        if (result != 0) {
            return result == 1;
        }
        if (!wait_or_fail(link, POLLOUT, deadline_us, error)) {
            return false;
        }
    }
}

GwFrame *
gw_link_receive_frame(GwLink *link, int64_t deadline_us, GError **error)
{
    GwFrame *frame = NULL;

    for (;;) {
        int result = gw_link_receive_some(link, &frame, error);

        if (result != 0) {
            return frame;
        }
        if (!wait_or_fail(link, POLLIN, deadline_us, error)) {
            return NULL;
        }
    }
}
