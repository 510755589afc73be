// SPDX-License-Identifier: Apache-2.0
/*
 * What follows the last frame on a far link: PINGs that only keep TCP going.
 *
 * TCP learns that a packet was lost from what the peer acknowledges of those behind it. Behind the
 * last one there is nothing, and it waits for timers: two to three round trips, and longer if what
 * it sends again is lost as well. As a rule the guest stands still then, as what is sent last is
 * what it needs to run. So while the peer has not acknowledged everything, and for
 * TAIL_ROUND_TRIPS after a frame on this connection, a PING goes out whenever nothing else has for
 * an eighth of a round trip: three of them tell TCP enough.
 *
 * A frame that TCP has not taken whole is followed by the rest of itself, and while there is much
 * under way the next one comes with an acknowledgement.
 *
 * Link thread. Costs about 0.1 KB each, nothing while frames flow, nothing on near links, where
 * TCP's timers are short. Cannot fail.
 */
#include "base/units.h"
#include "lane/link.h"

#define TAIL_ROUND_TRIPS   4
#define PINGS_A_ROUND_TRIP 8
#define MIN_STEP_US        2000

void
gw_link_tail_sent(GwLink *link, GwFrameType type, int64_t now_us)
{
    link->tail_sent_us = now_us;
    if (gw_frame_is_ordered(type)) {
        link->tail_since_us = now_us;
    }
}

int64_t
gw_link_tail_due(GwLink *link, int64_t now_us)
{
    GwLane *lane = link->lane;

    if (link->connection->sending) {
        return G_MAXINT64;
    }
    int64_t rtt_us = gw_outbox_rtt_us(lane->outbox);
    bool is_last = now_us - link->tail_since_us < TAIL_ROUND_TRIPS * rtt_us;

    if (rtt_us < GW_WINDOW_FAR_RTT_US || !is_last || gw_outbox_is_filled(lane->outbox) ||
        gw_outbox_is_settled(lane->outbox)) {
        return G_MAXINT64;
    }
    return link->tail_sent_us + MAX(rtt_us / PINGS_A_ROUND_TRIP, MIN_STEP_US);
}
