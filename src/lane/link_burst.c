// SPDX-License-Identifier: Apache-2.0
/*
 * How fast a link is before anything has to travel: PROBE frames, which mean nothing, as fast as
 * the connection takes them, with a PING in their middle and one at their end. What lies between
 * the two PONGs is the second half, when TCP has found its pace.
 *
 * Link thread of link 0, one at a time. At most BURST_BYTES and about BURST_US; a link that does
 * not take the first half in that time is measured by what it took. Cannot fail: a connection that
 * is lost meanwhile leaves the rate unknown.
 */
#include "base/units.h"
#include "lane/link.h"

#include <string.h>

#define BURST_BYTES (4u * 1024u * 1024u)
#define BURST_US    20000

/* Numbers of PINGs; the others' are times. */
#define MARK_MIDDLE 1u
#define MARK_END    2u

void
gw_link_burst_begin(GwLink *link, int64_t now_us)
{
    link->burst = (GwLinkBurst){.running = true, .began_us = now_us};
}

static GwFrame *
make_probe(GwLink *link)
{
    GwFrame *frame = gw_frame_new(link->lane->pool, GW_FRAME_PROBE, GW_PROBE_MAX_BYTES);

    if (frame) {
        frame->header.payload_bytes = GW_PROBE_MAX_BYTES;
        memset(frame->wire + GW_FRAME_HEADER_BYTES, 0, GW_PROBE_MAX_BYTES);
        gw_frame_encode_header(&frame->header, frame->wire);
    }
    return frame;
}

static GwFrame *
make_mark(GwLink *link, uint64_t number)
{
    g_autoptr(GByteArray) payload = g_byte_array_sized_new(8);

    gw_number_encode(number, payload);
    GwFrame *frame = gw_frame_new_with(link->lane->pool, GW_FRAME_PING, payload);

    gw_frame_encode_header(&frame->header, frame->wire);
    return frame;
}

GwFrame *
gw_link_burst_next(GwLink *link, int64_t now_us)
{
    GwLinkBurst *burst = &link->burst;
    bool late = now_us - burst->began_us >= BURST_US;

    if (!burst->running) {
        return NULL;
    }
    if (!burst->in_second_half && (late || burst->sent_bytes >= BURST_BYTES / 2)) {
        burst->in_second_half = true;
        burst->first_bytes = burst->sent_bytes;
        return make_mark(link, MARK_MIDDLE);
    }
    GwFrame *probe = late || burst->sent_bytes >= BURST_BYTES ? NULL : make_probe(link);
    if (probe) {
        burst->sent_bytes += gw_frame_wire_bytes(probe);
        return probe;
    }
    burst->running = false;
    return make_mark(link, MARK_END);
}

bool
gw_link_burst_pong(GwLink *link, uint64_t number, int64_t now_us)
{
    GwLinkBurst *burst = &link->burst;
    GwLane *lane = link->lane;

    if (number == MARK_MIDDLE) {
        burst->middle_us = now_us;
    }
    if (number != MARK_END || burst->began_us == 0) {
        return number == MARK_MIDDLE;
    }
    bool both = burst->middle_us > 0 && burst->sent_bytes > burst->first_bytes;
    uint64_t bytes = both ? burst->sent_bytes - burst->first_bytes : burst->sent_bytes;
    int64_t time_us = MAX(now_us - (both ? burst->middle_us : burst->began_us), 1);

    pthread_mutex_lock(&lane->lock);
    lane->stats.burst_bytes_s = bytes * G_USEC_PER_SEC / (uint64_t)time_us;
    pthread_mutex_unlock(&lane->lock);
    return true;
}
