// SPDX-License-Identifier: Apache-2.0
/*
 * What TCP knows of a far path, and what follows from it.
 *
 * A queue: TCP's round trip is a quarter longer than the shortest it has seen. Then the link is
 * full, and the window need not look for its rate any more, but stops before the queue runs over.
 *
 * Losses that no queue explains: packets had to be sent again while the round trip was as short as
 * ever. What takes them for a full link, as most congestion controls do, leaves most of such a link
 * unused: with 100 ms and one packet in a thousand lost, a connection gets about 5 Mbit/s, whatever
 * the link has (Mathis et al., "The Macroscopic Behavior of the TCP Congestion Avoidance
 * Algorithm", 1997). So the session's connections get BBR from then on, where the kernel has it,
 * unless the configuration names another, and bulk frames take all of them instead of the first
 * alone. Not before: where only queues lose packets BBR leaves some percent of the link unused, as
 * it stops now and then to measure the path, and connections get in each other's way.
 *
 * Link thread; a look is one system call. Cannot fail: without TCP's word nothing changes.
 */
#include "base/log.h"
#include "base/units.h"
#include "lane/link.h"

#include <linux/tcp.h> /* the C library's tcp_info ends before tcpi_min_rtt */
#include <netinet/in.h>
#include <sys/socket.h>

#define LOOK_US    10000
#define CONGESTION "bbr"

/* What a queue has lost is sent again within so many round trips. */
#define MENDING_ROUND_TRIPS 8
/* One or two may be probes of TCP's own, which it sends when an acknowledgement is late. */
#define UNEXPLAINED 3u

GwLinkPathSigns
gw_link_path_judge(GwLinkPath *path, const GwLinkPathSample *sample, int64_t now_us)
{
    GwLinkPathSigns signs = {
        .has_queue = sample->rtt_us > sample->min_rtt_us + sample->min_rtt_us / 4,
    };

    if (signs.has_queue) {
        path->queue_us = now_us;
    } else if (now_us - path->queue_us > MENDING_ROUND_TRIPS * (int64_t)sample->rtt_us) {
        path->n_unexplained += sample->n_resent - path->n_resent;
    }
    path->n_resent = sample->n_resent;
    signs.loses_packets = path->n_unexplained >= UNEXPLAINED;
    return signs;
}

static void
tell_lane(GwLink *link, const GwLinkPathSigns *signs)
{
    GwLane *lane = link->lane;

    if (signs->has_queue) {
        gw_outbox_link_is_full(lane->outbox);
    }
    if (signs->loses_packets &&
        !__atomic_exchange_n(&lane->loses_packets, true, __ATOMIC_RELAXED)) {
        gw_debug(&(GwLogFields){.host = link->connection->peer_name},
                 "the path loses packets where there is no queue");
        gw_outbox_set_narrow(lane->outbox, false);
    }
}

void
gw_link_path_look(GwLink *link, int64_t now_us)
{
    GwLane *lane = link->lane;
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (now_us < link->path.due_us) {
        return;
    }
    link->path.due_us = now_us + LOOK_US;
    if (getsockopt(link->connection->fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
        info.tcpi_min_rtt < GW_WINDOW_FAR_RTT_US || info.tcpi_min_rtt > info.tcpi_rtt) {
        return;
    }
    const GwLinkPathSample sample = {
        .rtt_us = info.tcpi_rtt,
        .min_rtt_us = info.tcpi_min_rtt,
        .n_resent = info.tcpi_total_retrans,
    };
    const GwLinkPathSigns signs = gw_link_path_judge(&link->path, &sample, now_us);

    tell_lane(link, &signs);
    bool may_choose = !lane->congestion && !link->urgent && !link->path.is_suited;
    if (may_choose && __atomic_load_n(&lane->loses_packets, __ATOMIC_RELAXED)) {
        link->path.is_suited = true;
        gw_connection_suit_link(link->connection->fd, CONGESTION);
    }
}
