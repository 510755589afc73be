// SPDX-License-Identifier: Apache-2.0
/* The in-flight window against simulated links, in virtual time. */
#include "lane/outbox.h"
#include "lane/window.h"

#include <glib.h>

#define FRAME_BYTES (64u * 1024u)

/* A link of fixed rate and round trip with an endless source. */
typedef struct Link {
    GwWindow window;
    GQueue flight; /* of Packet */
    int64_t now_us;
    int64_t rtt_us;
    double bytes_us;
    int64_t link_free_us;
    uint64_t delivered;
    uint64_t most_in_flight;
    int64_t late_us;   /* what takes so long is not the link */
    int64_t bundle_us; /* news come in bundles of so long; 0: one by one */
} Link;

typedef struct Packet {
    GwWindowMark mark;
    int64_t ack_us;
} Packet;

static void
link_init(Link *link, double mbit, int64_t rtt_us)
{
    *link = (Link){.rtt_us = rtt_us, .bytes_us = mbit / 8.0, .now_us = 1000000};
    gw_window_init(&link->window);
    g_queue_init(&link->flight);
}

static void
link_send(Link *link)
{
    Packet *packet = g_new0(Packet, 1);

    gw_window_queued(&link->window, FRAME_BYTES, &packet->mark);
    gw_window_sent(&link->window, &packet->mark, link->now_us);
    link->link_free_us =
        MAX(link->link_free_us, link->now_us) + (int64_t)(FRAME_BYTES / link->bytes_us);
    packet->ack_us = link->link_free_us + link->rtt_us + link->late_us;
    if (link->bundle_us > 0) {
        packet->ack_us += link->bundle_us - packet->ack_us % link->bundle_us;
    }
    g_queue_push_tail(&link->flight, packet);
    link->most_in_flight = MAX(link->most_in_flight, gw_window_in_flight(&link->window));
}

static void
link_run(Link *link, int64_t duration_us, bool full)
{
    int64_t end_us = link->now_us + duration_us;

    while (link->now_us < end_us) {
        while (full ? gw_window_has_room(&link->window) : g_queue_is_empty(&link->flight)) {
            link_send(link);
        }
        Packet *packet = g_queue_pop_head(&link->flight);

        link->now_us = MAX(link->now_us, packet->ack_us);
        link->delivered += packet->mark.bytes;
        g_assert_true(gw_window_received(&link->window, link->delivered, link->now_us));
        gw_window_acked(&link->window, &packet->mark, link->now_us);
        g_free(packet);
    }
}

static void
link_clear(Link *link)
{
    g_queue_clear_full(&link->flight, g_free);
}

static void
test_starts_at_minimum(void)
{
    GwWindow window;
    GwWindowMark mark;

    gw_window_init(&window);
    g_assert_cmpuint(gw_window_limit(&window), ==, GW_WINDOW_MIN_BYTES);
    g_assert_true(gw_window_has_room(&window));
    gw_window_queued(&window, GW_WINDOW_MIN_BYTES / 4 * 3 - 1, &mark);
    g_assert_false(gw_window_is_filled(&window));
    gw_window_queued(&window, GW_WINDOW_MIN_BYTES / 4, &mark);
    g_assert_true(gw_window_is_filled(&window));
    g_assert_true(gw_window_has_room(&window));
    gw_window_queued(&window, 1, &mark);
    g_assert_false(gw_window_has_room(&window));
    g_assert_true(gw_window_is_filled(&window));
    g_assert_cmpuint(gw_window_in_flight(&window), ==, GW_WINDOW_MIN_BYTES);
}

/* On every link it settles at about two bandwidth-delay products and fills the link. */
static void
test_fills_links(void)
{
    static const struct {
        double mbit;
        int64_t rtt_us;
    } links[] = {{10, 1000},    {100, 20000},   {1000, 1000},
                 {1000, 40000}, {1000, 100000}, {10000, 10000}};

    for (size_t i = 0; i < G_N_ELEMENTS(links); i++) {
        Link link;
        double product = links[i].mbit / 8.0 * (double)(links[i].rtt_us + GW_WINDOW_TURN_US);

        g_test_message("%.0f Mbit/s, %ld us", links[i].mbit, (long)links[i].rtt_us);
        link_init(&link, links[i].mbit, links[i].rtt_us);
        link_run(&link, 20 * links[i].rtt_us + 2000000, true);
        uint64_t before = link.delivered;
        link_run(&link, 2000000, true);
        double rate = (double)(link.delivered - before) / 2e6 / link.bytes_us;
        double limit = (double)gw_window_limit(&link.window);

        g_assert_cmpfloat(rate, >, 0.95);
        if (gw_window_limit(&link.window) > GW_WINDOW_MIN_BYTES) {
            g_assert_cmpfloat(limit, >, 1.3 * product);
            g_assert_cmpfloat(limit, <, 2.0 * product + 2 * FRAME_BYTES);
        }
        g_assert_cmpuint(link.most_in_flight, <=, GW_WINDOW_MAX_BYTES + FRAME_BYTES);
        link_clear(&link);
    }
}

/* Paced, it fills the link nearly as well and leaves hardly a queue, also when the link changes. */
static void
expect_paced(Link *link)
{
    double product = link->bytes_us * (double)link->rtt_us;
    uint64_t before = link->delivered;

    link_run(link, 4000000, true);
    double rate = (double)(link->delivered - before) / 4e6 / link->bytes_us;
    double queue_us = ((double)gw_window_limit(&link->window) - product) / link->bytes_us;

    g_test_message("%.0f bytes/us, %ld us: rate %.2f, queue %.0f us", link->bytes_us,
                   (long)link->rtt_us, rate, queue_us);
    g_assert_cmpfloat(rate, >, 0.85);
    g_assert_cmpfloat(queue_us, <, 2 * GW_WINDOW_PACED_US);
}

static void
test_paced(void)
{
    static const struct {
        double mbit;
        int64_t rtt_us;
    } links[] = {{1000, 40000}, {1000, 10000}, {10000, 20000}};

    for (size_t i = 0; i < G_N_ELEMENTS(links); i++) {
        Link link;

        link_init(&link, links[i].mbit, links[i].rtt_us);
        link_run(&link, 20 * links[i].rtt_us + 2000000, true);
        gw_window_pace(&link.window);
        link_run(&link, 5000000, true);
        expect_paced(&link);
        link.bytes_us *= 2;
        link_run(&link, 4000000, true);
        expect_paced(&link);
        link_clear(&link);
    }
}

/* Threads that get no CPU for some seconds do not make the link slow. */
static void
test_paced_late(void)
{
    Link link;

    link_init(&link, 1000, 40000);
    link_run(&link, 3000000, true);
    gw_window_pace(&link.window);
    link_run(&link, 5000000, true);
    link.late_us = 3000;
    link_run(&link, 3000000, true);
    uint64_t before = link.delivered;
    link_run(&link, 1000000, true);
    g_assert_cmpfloat((double)(link.delivered - before) / 1e6 / link.bytes_us, >, 0.65);
    link.late_us = 0;
    link_run(&link, 2000000, true);
    expect_paced(&link);
    link_clear(&link);
}

/* News that come in bundles do not make the link quicker than it is. */
static void
test_paced_bundles(void)
{
    Link link;

    link_init(&link, 1000, 40000);
    link.bundle_us = 60000;
    link_run(&link, 3000000, true);
    gw_window_pace(&link.window);
    link_run(&link, 3000000, true);
    link.bundle_us = 0;
    link_run(&link, 3000000, true);
    expect_paced(&link);
    link_clear(&link);
}

/* A link that becomes slower: the window follows within seconds. */
static void
test_follows_slower_link(void)
{
    Link link;

    link_init(&link, 1000, 40000);
    link_run(&link, 3000000, true);
    uint64_t fast = gw_window_limit(&link.window);
    link.bytes_us /= 10;
    link_run(&link, 4000000, true);
    g_assert_cmpuint(gw_window_limit(&link.window), <, fast / 5);
    link_clear(&link);
}

/* A path that becomes longer must not throttle the session for ever. */
static void
test_follows_longer_path(void)
{
    Link link;

    link_init(&link, 1000, 5000);
    link_run(&link, 3000000, true);
    link.rtt_us = 100000;
    link_run(&link, 30000000, true);
    uint64_t before = link.delivered;
    link_run(&link, 2000000, true);
    g_assert_cmpfloat((double)(link.delivered - before) / 2e6 / link.bytes_us, >, 0.9);
    link_clear(&link);
}

/* One frame at a time says nothing about the link and must not shrink the window. */
static void
test_idle_source_keeps_rate(void)
{
    Link link;

    link_init(&link, 1000, 40000);
    link_run(&link, 3000000, true);
    uint64_t full = gw_window_limit(&link.window);
    while (!g_queue_is_empty(&link.flight)) {
        link_run(&link, 1, false);
    }
    link_run(&link, 5000000, false);
    g_assert_cmpuint(gw_window_limit(&link.window), >, full * 9 / 10);
    link_clear(&link);
}

static void
test_outage(void)
{
    Link link;

    link_init(&link, 1000, 20000);
    link_run(&link, 3000000, true);
    link.link_free_us = link.now_us + 20000000;
    link_run(&link, 25000000, true);
    uint64_t before = link.delivered;
    link_run(&link, 2000000, true);
    g_assert_cmpfloat((double)(link.delivered - before) / 2e6 / link.bytes_us, >, 0.9);
    link_clear(&link);
}

static void
test_rate_over_last_second(void)
{
    Link link;

    link_init(&link, 100, 1000);
    g_assert_cmpuint(gw_window_rate(&link.window, link.now_us), ==, 0);
    link_run(&link, 5000000, true);
    double rate = (double)gw_window_rate(&link.window, link.now_us);
    g_assert_cmpfloat(rate, >, 12.5e6 * 0.95);
    g_assert_cmpfloat(rate, <, 12.5e6 * 1.05);
    g_assert_cmpuint(gw_window_rate(&link.window, link.now_us + 500000), <, 7000000);
    g_assert_cmpuint(gw_window_rate(&link.window, link.now_us + 1200000), ==, 0);
    link_clear(&link);
}

/* --- the outbox around it --------------------------------------------------------------------- */

static void
no_wake(void *data)
{
}

static void
push_frame(GwOutbox *outbox, GwFramePool *pool, GwFrameType type, uint32_t bytes)
{
    GwFrame *frame = gw_frame_new(pool, type, bytes);

    frame->header.payload_bytes = bytes;
    if (type == GW_FRAME_CONTROL) {
        g_assert_true(gw_outbox_push_control(outbox, frame, NULL));
    } else {
        gw_outbox_push(outbox, frame);
    }
}

static void
test_outbox_order_and_acks(void)
{
    g_autoptr(GwFramePool) pool = gw_frame_pool_new();
    g_autoptr(GwOutbox) outbox = gw_outbox_new(no_wake, NULL);
    g_autoptr(GError) error = NULL;
    GwOutboxFigures figures;

    g_assert_true(gw_outbox_is_settled(outbox));
    for (unsigned i = 0; i < 6; i++) {
        push_frame(outbox, pool, i % 2 ? GW_FRAME_CONTROL : GW_FRAME_RAM, 100);
    }
    for (unsigned i = 1; i <= 5; i++) {
        g_autoptr(GwFrame) frame = gw_outbox_take(outbox, 0, 1000 * i);
        GwFrameHeader header;

        g_assert_true(gw_frame_decode_header(frame->wire, &header, NULL));
        g_assert_cmpuint(header.sequence, ==, i);
    }
    gw_outbox_figures(outbox, 6000, &figures);
    g_assert_cmpuint(figures.in_flight_bytes, ==, 6 * 116);
    g_assert_true(gw_outbox_acked(outbox, &(GwAck){3, 5 * 116}, 7000, &error));
    g_assert_true(gw_outbox_acked(outbox, &(GwAck){2, 2 * 116}, 7000, &error));
    gw_outbox_figures(outbox, 7000, &figures);
    g_assert_cmpuint(figures.in_flight_bytes, ==, 3 * 116);
    g_assert_cmpuint(figures.rtt_us, ==, 4000);
    /* Queued but never sent. */
    g_assert_false(gw_outbox_acked(outbox, &(GwAck){6, 5 * 116}, 8000, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    g_clear_error(&error);
    g_assert_false(gw_outbox_acked(outbox, &(GwAck){3, 5 * 116 + 1}, 8000, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    g_autoptr(GwFrame) last = gw_outbox_take(outbox, 0, 8000);
    g_assert_null(gw_outbox_take(outbox, 0, 8000));
    g_assert_false(gw_outbox_is_settled(outbox));
    g_assert_true(gw_outbox_acked(outbox, &(GwAck){6, 6 * 116}, 9000, NULL));
    g_assert_true(gw_outbox_is_settled(outbox));
    g_clear_pointer(&last, gw_frame_free);
}

static void
test_outbox_bounds_control(void)
{
    g_autoptr(GwFramePool) pool = gw_frame_pool_new();
    g_autoptr(GwOutbox) outbox = gw_outbox_new(no_wake, NULL);
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < 15; i++) {
        push_frame(outbox, pool, GW_FRAME_CONTROL, 1024 * 1024);
    }
    GwFrame *frame = gw_frame_new(pool, GW_FRAME_CONTROL, 1024 * 1024);
    frame->header.payload_bytes = 1024 * 1024;
    g_assert_false(gw_outbox_push_control(outbox, frame, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
    gw_frame_free(gw_outbox_take(outbox, 0, 1));
    g_assert_true(gw_outbox_acked(outbox, &(GwAck){1, 100}, 2, NULL));
    push_frame(outbox, pool, GW_FRAME_CONTROL, 1024 * 1024);
}

/* One link at a time, the first that is up, until it is told to take all. */
static void
test_outbox_narrow(void)
{
    static const GwReceived nothing = {.whole = 0};
    g_autoptr(GwFramePool) pool = gw_frame_pool_new();
    g_autoptr(GwOutbox) outbox = gw_outbox_new(no_wake, NULL);

    gw_outbox_set_narrow(outbox, true);
    for (unsigned link = 0; link < 3; link++) {
        g_assert_true(gw_outbox_link_up(outbox, link, &nothing, 1, NULL));
    }
    gw_outbox_prefer(outbox, ~(1u << 2)); /* which is for others */
    for (unsigned i = 0; i < 4; i++) {
        push_frame(outbox, pool, GW_FRAME_RAM, 100);
    }
    g_assert_false(gw_outbox_has_work(outbox, 1));
    g_assert_null(gw_outbox_take(outbox, 1, 2));
    gw_frame_free(gw_outbox_take(outbox, 0, 2));
    gw_outbox_link_down(outbox, 0);
    g_assert_null(gw_outbox_take(outbox, 2, 3));
    g_autoptr(GwFrame) again = gw_outbox_take(outbox, 1, 3);
    g_assert_cmpuint(again->header.sequence, ==, 1);
    g_assert_true(gw_outbox_link_up(outbox, 0, &nothing, 4, NULL));
    g_assert_null(gw_outbox_take(outbox, 1, 5));
    gw_outbox_set_narrow(outbox, false);
    gw_frame_free(gw_outbox_take(outbox, 1, 6));
    gw_frame_free(gw_outbox_take(outbox, 0, 6));
    g_assert_null(gw_outbox_take(outbox, 2, 6));
}

/* A queue that TCP has seen ends the search for the rate, and with it its wide limit. */
static void
test_queue_ends_startup(void)
{
    Link link;

    link_init(&link, 100, 40000);
    link_run(&link, 300000, true);
    uint64_t searching = gw_window_limit(&link.window);
    gw_window_full(&link.window);
    g_assert_cmpuint(gw_window_limit(&link.window), ==, searching / 2);
    link_clear(&link);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/window/paced", test_paced);
    g_test_add_func("/window/paced-late", test_paced_late);
    g_test_add_func("/window/paced-bundles", test_paced_bundles);
    g_test_add_func("/window/starts-at-minimum", test_starts_at_minimum);
    g_test_add_func("/window/fills-links", test_fills_links);
    g_test_add_func("/window/follows-slower-link", test_follows_slower_link);
    g_test_add_func("/window/follows-longer-path", test_follows_longer_path);
    g_test_add_func("/window/idle-source-keeps-rate", test_idle_source_keeps_rate);
    g_test_add_func("/window/outage", test_outage);
    g_test_add_func("/window/rate-over-last-second", test_rate_over_last_second);
    g_test_add_func("/outbox/order-and-acks", test_outbox_order_and_acks);
    g_test_add_func("/window/queue-ends-startup", test_queue_ends_startup);
    g_test_add_func("/outbox/bounds-control", test_outbox_bounds_control);
    g_test_add_func("/outbox/narrow", test_outbox_narrow);
    return g_test_run();
}
