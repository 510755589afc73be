// SPDX-License-Identifier: Apache-2.0
/*
 * Outbox and inbox of both sides of a session under simulated time: connections that delay, break,
 * stall and come again, in thousands of seeded orders.
 *
 * A connection carries packets both ways in order and with a delay. When it breaks, what is on its
 * way is lost, and each end notices at a time of its own. The connecting side opens new ones, also
 * beside a silent one; greetings cross, and may be lost with their connection. Whatever happens:
 *
 *     every frame is handled once, in order, with its content;
 *     nothing is kept back for ever: when accidents stop, all is delivered and acknowledged;
 *     what is sent twice is bounded by what was in flight at each accident.
 *
 * In some of them frames refer to a disk of which the target has another state: it asks (NEED) and
 * is answered (FILL) over whatever connection there is, and nobody sends these again by himself.
 */
#include "lane/inbox.h"
#include "lane/outbox.h"
#include "references.h"

#include <glib.h>
#include <string.h>

#define MAX_LINKS   4u
#define TICK_US     1000
#define SILENCE_US  30000
#define SOCKET_FULL 4u /* frames on their way in one direction */

typedef enum PacketKind {
    PACKET_FRAME,
    PACKET_ACK,
    PACKET_PING,
    PACKET_HELLO,
    PACKET_ABOUT_REFERENCES, /* NEED towards end 0, FILL towards end 1 */
} PacketKind;

typedef struct Packet {
    PacketKind kind;
    int64_t at_us;
    GwFrame *frame;
    GwAck ack;
    GwReceived received;
    GBytes *about_references;
} Packet;

typedef struct Connection {
    unsigned refs; /* how many ends have it */
    unsigned link;
    bool broken;
    int64_t notice_us[2]; /* when each end sees that it is broken */
    int64_t last_us[2];   /* arrivals do not overtake each other */
    GQueue ways[2];       /* of Packet, towards end 0 and 1 */
} Connection;

typedef struct End {
    GwOutbox *outbox;
    GwInbox *inbox;
    Connection *connections[MAX_LINKS];
    int64_t heard_us[MAX_LINKS];
    bool benched[MAX_LINKS];
    uint64_t pushed, taken, sent, acked;
    uint64_t to_push;
} End;

typedef struct World {
    GRand *random;
    GwFramePool *pool;
    unsigned n_links;
    End ends[2]; /* 0 connects */
    Connection *openings[MAX_LINKS];
    int64_t opening_us[MAX_LINKS];
    int64_t now_us;
    int64_t delay_us;
    int64_t stalled_until_us;
    int64_t first_link_ends_us; /* its path is gone for good; the others are left */
    unsigned accidents;         /* left to happen */
    uint64_t may_resend;        /* frames */
    SimReferences *references;  /* NULL: there are none */
    int64_t stop_us;            /* the source is told to stop */
} World;

static bool
chance(World *world, unsigned percent)
{
    return (unsigned)g_rand_int_range(world->random, 0, 100) < percent;
}

/* --- connections ------------------------------------------------------------------------------ */

static void
free_packet(void *data)
{
    Packet *packet = data;

    gw_frame_free(packet->frame);
    g_clear_pointer(&packet->about_references, g_bytes_unref);
    g_free(packet);
}

static void
lose_packets(Connection *connection)
{
    g_queue_clear_full(&connection->ways[0], free_packet);
    g_queue_clear_full(&connection->ways[1], free_packet);
}

static void
unref_connection(Connection *connection)
{
    if (--connection->refs == 0) {
        lose_packets(connection);
        g_free(connection);
    }
}

static void
send_packet(World *world, Connection *connection, unsigned to, Packet packet)
{
    if (connection->broken) {
        gw_frame_free(packet.frame);
        g_clear_pointer(&packet.about_references, g_bytes_unref);
        return;
    }
    packet.at_us = world->now_us + world->delay_us + g_rand_int_range(world->random, 0, 3000);
    packet.at_us = MAX(packet.at_us, connection->last_us[to]);
    connection->last_us[to] = packet.at_us;
    g_queue_push_tail(&connection->ways[to], g_memdup2(&packet, sizeof(packet)));
}

static void
break_connection(World *world, Connection *connection)
{
    for (unsigned end = 0; end < 2; end++) {
        world->may_resend += g_queue_get_length(&connection->ways[end]) + 2;
        connection->notice_us[end] = world->now_us + g_rand_int_range(world->random, 0, 60000);
    }
    connection->broken = true;
    lose_packets(connection);
}

/* @which has lost or got a connection, or doubts one. */
static void
say_again(World *world, unsigned which)
{
    gw_inbox_ack_again(world->ends[which].inbox);
    if (which == 1 && world->references) {
        sim_references_ask_again(world->references);
    }
}

static void
drop(World *world, unsigned which, unsigned link, bool replaced)
{
    End *end = &world->ends[which];

    if (!end->connections[link]) {
        return;
    }
    Connection *connection = end->connections[link];

    /* The other end finds it closed. */
    if (!connection->broken) {
        break_connection(world, connection);
    }
    end->connections[link] = NULL;
    unref_connection(connection);
    if (!replaced) {
        gw_outbox_link_down(end->outbox, link);
    }
    say_again(world, which);
    end->benched[link] = false;
}

/* --- greetings -------------------------------------------------------------------------------- */

static void
adopt(World *world, unsigned which, Connection *connection, const GwReceived *received)
{
    End *end = &world->ends[which];
    g_autoptr(GError) error = NULL;

    drop(world, which, connection->link, true);
    end->connections[connection->link] = connection;
    connection->refs++;
    end->heard_us[connection->link] = world->now_us;
    bool possible =
        gw_outbox_link_up(end->outbox, connection->link, received, world->now_us, &error);
    g_assert_no_error(error);
    g_assert_true(possible);
    end->acked = MAX(end->acked, received->handled);
    say_again(world, which);
}

static void
open_connection(World *world, unsigned link)
{
    Packet hello = {.kind = PACKET_HELLO};
    Connection *connection = g_new0(Connection, 1);

    connection->refs = 1;
    connection->link = link;
    world->openings[link] = connection;
    world->opening_us[link] = world->now_us;
    gw_inbox_received(world->ends[0].inbox, &hello.received);
    send_packet(world, connection, 1, hello);
}

static void
take_hello(World *world, unsigned which, Connection *connection, const GwReceived *received)
{
    Packet answer = {.kind = PACKET_HELLO};

    if (which == 0) {
        adopt(world, 0, connection, received);
        world->openings[connection->link] = NULL;
        unref_connection(connection);
        return;
    }
    drop(world, 1, connection->link, true);
    gw_inbox_received(world->ends[1].inbox, &answer.received);
    send_packet(world, connection, 0, answer);
    adopt(world, 1, connection, received);
}

/* The connecting end keeps its links connected. */
static void
keep_links(World *world)
{
    for (unsigned link = 0; link < world->n_links; link++) {
        const Connection *connection = world->ends[0].connections[link];
        bool doubtful = connection && world->now_us - world->ends[0].heard_us[link] >= SILENCE_US;

        if (link == 0 && world->now_us >= world->first_link_ends_us) {
            if (connection && !connection->broken) {
                break_connection(world, world->ends[0].connections[0]);
            }
            continue;
        }
        if (world->openings[link]) {
            if (world->now_us - world->opening_us[link] > 80000) {
                Connection *given_up = g_steal_pointer(&world->openings[link]);

                break_connection(world, given_up);
                unref_connection(given_up);
            }
        } else if (!connection || doubtful) {
            open_connection(world, link);
        }
    }
}

/* --- frames ----------------------------------------------------------------------------------- */

static void
push_frame(World *world, End *end, uint32_t bytes)
{
    bool control = chance(world, 30);
    GwFrame *frame = gw_frame_new(world->pool, control ? GW_FRAME_CONTROL : GW_FRAME_RAM, bytes);

    frame->header.payload_bytes = bytes;
    memset(gw_frame_payload(frame), (int)end->pushed, bytes);
    memcpy(gw_frame_payload(frame), &end->pushed, 8);
    if (control) {
        g_assert_true(gw_outbox_push_control(end->outbox, frame, NULL));
    } else {
        gw_outbox_push(end->outbox, frame);
    }
}

static void
push_some(World *world, End *end)
{
    GwOutboxFigures figures;

    gw_outbox_figures(end->outbox, world->now_us, &figures);
    while (end->pushed < end->to_push && figures.in_flight_bytes < 60000 && chance(world, 50)) {
        uint32_t bytes = 8 + (uint32_t)g_rand_int_range(world->random, 0, 3000);

        end->pushed++;
        if (world->references && end == &world->ends[0] && chance(world, 50)) {
            sim_references_push(world->references, world->pool, end->outbox, end->pushed,
                                world->now_us);
        } else {
            push_frame(world, end, bytes);
        }
        figures.in_flight_bytes += bytes;
    }
}

/* They overtake what is queued. True: there was one. */
static bool
send_about_references(World *world, unsigned which, Connection *connection)
{
    Packet packet = {.kind = PACKET_ABOUT_REFERENCES};

    if (world->references) {
        packet.about_references = sim_references_next(world->references, which, world->now_us);
    }
    if (packet.about_references) {
        send_packet(world, connection, !which, packet);
    }
    return packet.about_references != NULL;
}

static void
send_some(World *world, unsigned which)
{
    End *end = &world->ends[which];
    unsigned first = (unsigned)g_rand_int_range(world->random, 0, (int)world->n_links);

    for (unsigned i = 0; i < world->n_links; i++) {
        unsigned link = (first + i) % world->n_links;
        Connection *connection = end->connections[link];
        Packet packet = {.kind = PACKET_ACK};

        if (!connection || end->benched[link]) {
            continue;
        }
        if (gw_inbox_take_ack(end->inbox, &packet.ack)) {
            send_packet(world, connection, !which, packet);
        }
        if (world->now_us % (8 * TICK_US) == 0) {
            send_packet(world, connection, !which, (Packet){.kind = PACKET_PING});
        }
        while (g_queue_get_length(&connection->ways[!which]) < SOCKET_FULL && chance(world, 70)) {
            if (send_about_references(world, which, connection)) {
                continue;
            }
            GwFrame *frame = gw_outbox_take(end->outbox, link, world->now_us);

            if (!frame) {
                break;
            }
            end->sent++;
            send_packet(world, connection, !which, (Packet){.kind = PACKET_FRAME, .frame = frame});
            if (connection->broken) {
                world->may_resend++;
            }
        }
    }
}

static void
take_packet(World *world, unsigned which, Packet *packet)
{
    End *end = &world->ends[which];
    GwFrameHeader header;
    bool fine = true;

    switch (packet->kind) {
    case PACKET_FRAME:
        g_assert_true(gw_frame_decode_header(packet->frame->wire, &header, NULL));
        GwFrame *copy = gw_frame_new(world->pool, header.type, header.payload_bytes);

        copy->header = header;
        memcpy(gw_frame_payload(copy), gw_frame_payload(packet->frame), header.payload_bytes);
        fine = gw_inbox_push(end->inbox, copy, NULL);
        break;
    case PACKET_ACK:
        fine = gw_outbox_acked(end->outbox, &packet->ack, world->now_us, NULL);
        end->acked = MAX(end->acked, packet->ack.sequence);
        if (which == 0 && world->references) {
            sim_references_acked(world->references, end->acked, world->now_us);
        }
        break;
    case PACKET_ABOUT_REFERENCES:
        sim_references_hear(world->references, which, packet->about_references, world->now_us);
        break;
    case PACKET_PING:
    case PACKET_HELLO:
        break;
    }
    g_assert_true(fine);
}

/* Everything that has arrived at @which over @connection. */
static void
receive_from(World *world, unsigned which, Connection *connection, bool opening)
{
    Packet *packet;

    while ((packet = g_queue_peek_head(&connection->ways[which])) &&
           packet->at_us <= world->now_us && world->now_us >= world->stalled_until_us) {
        bool hello = packet->kind == PACKET_HELLO;

        g_queue_pop_head(&connection->ways[which]);
        world->ends[which].heard_us[connection->link] = world->now_us;
        if (hello) {
            take_hello(world, which, connection, &packet->received);
        } else {
            take_packet(world, which, packet);
        }
        free_packet(packet);
        if (hello && opening) {
            return;
        }
    }
}

static void
receive_some(World *world)
{
    for (unsigned link = 0; link < world->n_links; link++) {
        for (unsigned which = 0; which < 2; which++) {
            Connection *connection = world->ends[which].connections[link];

            if (connection) {
                connection->refs++;
                receive_from(world, which, connection, false);
                unref_connection(connection);
            }
        }
        Connection *opening = world->openings[link];

        if (opening) {
            opening->refs++;
            if (world->ends[1].connections[link] != opening) {
                receive_from(world, 1, opening, true);
            }
            if (world->openings[link] == opening) {
                receive_from(world, 0, opening, true);
            }
            unref_connection(opening);
        }
    }
}

/* In order, once each, with the right content. */
static void
check_frame(const GwFrame *frame, uint64_t expected)
{
    uint64_t number;

    memcpy(&number, gw_frame_payload(frame), 8);
    g_assert_cmpuint(number, ==, expected);
    g_assert_true(frame->header.payload_bytes == 8 ||
                  gw_frame_payload(frame)[frame->header.payload_bytes - 1] == (uint8_t)expected);
}

static void
handle_some(World *world, unsigned which)
{
    End *end = &world->ends[which];
    SimReferences *references = which == 1 ? world->references : NULL;
    GwReceived received;

    gw_inbox_received(end->inbox, &received);
    while (end->taken < received.whole && chance(world, 80)) {
        if (references && !sim_references_is_ready(references, end->taken + 1)) {
            break;
        }
        g_autoptr(GwFrame) frame = gw_inbox_take(end->inbox);

        end->taken++;
        g_assert_cmpuint(frame->header.sequence, ==, end->taken);
        if (references) {
            sim_references_take(references, end->taken);
        }
        if (!sim_references_has(references, end->taken)) {
            check_frame(frame, end->taken);
        }
        gw_inbox_handled(end->inbox, end->taken);
    }
}

/* --- accidents -------------------------------------------------------------------------------- */

static void
have_accidents(World *world)
{
    if (world->accidents == 0 || !chance(world, 12)) {
        return;
    }
    world->accidents--;
    unsigned kind = (unsigned)g_rand_int_range(world->random, 0, 10);

    if (kind == 0) {
        world->stalled_until_us = world->now_us + g_rand_int_range(world->random, 0, 200000);
        return;
    }
    for (unsigned link = 0; link < world->n_links; link++) {
        Connection *victims[] = {world->ends[0].connections[link], world->ends[1].connections[link],
                                 world->openings[link]};
        Connection *victim = victims[g_rand_int_range(world->random, 0, 3)];

        /* All of them, now and then. */
        if (victim && !victim->broken && (kind == 1 || chance(world, 100 / world->n_links))) {
            break_connection(world, victim);
        }
    }
}

static void
notice_accidents(World *world)
{
    for (unsigned which = 0; which < 2; which++) {
        End *end = &world->ends[which];

        for (unsigned link = 0; link < world->n_links; link++) {
            const Connection *connection = end->connections[link];

            if (!connection) {
                continue;
            }
            if (connection->broken && world->now_us >= connection->notice_us[which]) {
                drop(world, which, link, false);
            } else if (world->now_us - end->heard_us[link] >= SILENCE_US) {
                if (!end->benched[link]) {
                    end->benched[link] = gw_outbox_link_doubtful(end->outbox, link);
                    if (end->benched[link]) {
                        say_again(world, which);
                    }
                    /* Of what the others send again, too, anything may have arrived. */
                    world->may_resend += end->pushed - end->acked;
                }
            } else if (end->benched[link]) {
                gw_outbox_link_trusted(end->outbox, link);
                end->benched[link] = false;
                world->may_resend += end->pushed - end->acked;
            }
        }
    }
}

/* --- runs ------------------------------------------------------------------------------------- */

static void
no_outbox_wake(void *data)
{
}

static void
no_inbox_wake(void *data, bool all)
{
}

static void
on_ahead(void *data, GwFrame *frame)
{
    World *world = data;

    if (world->references) {
        sim_references_announce(world->references, frame);
    }
}

static void
world_init(World *world, uint32_t seed, bool with_references)
{
    const int most = with_references ? 120 : 300;

    *world = (World){.random = g_rand_new_with_seed(seed), .pool = gw_frame_pool_new()};
    world->now_us = 1000000;
    world->n_links = 1 + seed % MAX_LINKS;
    world->delay_us = g_rand_int_range(world->random, 0, 20000);
    world->first_link_ends_us = G_MAXINT64;
    if (world->n_links > 1 && chance(world, 25)) {
        world->first_link_ends_us = world->now_us + g_rand_int_range(world->random, 0, 1000000);
    }
    world->accidents = (unsigned)g_rand_int_range(world->random, 0, 40);
    for (unsigned i = 0; i < 2; i++) {
        world->ends[i].outbox = gw_outbox_new(no_outbox_wake, NULL);
        world->ends[i].inbox = gw_inbox_new(no_inbox_wake, i ? on_ahead : NULL, world);
        world->ends[i].to_push = (uint64_t)g_rand_int_range(world->random, 0, i ? 60 : most);
    }
    world->stop_us = G_MAXINT64;
    if (with_references) {
        world->references = sim_references_new(world->random);
        if (chance(world, 20)) {
            world->stop_us = world->now_us + g_rand_int_range(world->random, 0, 400000);
        }
    }
}

static void
world_clear(World *world)
{
    world->accidents = 0;
    for (unsigned link = 0; link < MAX_LINKS; link++) {
        for (unsigned i = 0; i < 2; i++) {
            g_clear_pointer(&world->ends[i].connections[link], unref_connection);
        }
        g_clear_pointer(&world->openings[link], unref_connection);
    }
    sim_references_free(world->references);
    for (unsigned i = 0; i < 2; i++) {
        gw_outbox_free(world->ends[i].outbox);
        gw_inbox_free(world->ends[i].inbox);
    }
    gw_frame_pool_free(world->pool);
    g_rand_free(world->random);
}

static bool
is_done(const World *world)
{
    for (unsigned i = 0; i < 2; i++) {
        if (world->ends[i].pushed < world->ends[i].to_push ||
            !gw_outbox_is_settled(world->ends[i].outbox)) {
            return false;
        }
    }
    return true;
}

static void
step(World *world)
{
    have_accidents(world);
    notice_accidents(world);
    keep_links(world);
    for (unsigned i = 0; i < 2; i++) {
        push_some(world, &world->ends[i]);
        send_some(world, i);
    }
    receive_some(world);
    if (world->references) {
        sim_references_settle(world->references);
        sim_references_tick(world->references, world->now_us);
    }
    for (unsigned i = 0; i < 2; i++) {
        handle_some(world, i);
    }
    world->now_us += TICK_US;
}

/* Some of what is on its way still arrives, then the target is alone with what it has. */
static void
stop(World *world)
{
    End *target = &world->ends[1];
    GwReceived received;

    gw_outbox_stop(world->ends[0].outbox);
    sim_references_stop(world->references);
    world->now_us += g_rand_int_range(world->random, 0, 20000);
    receive_some(world);
    sim_references_end(world->references, chance(world, 30));
    gw_inbox_received(target->inbox, &received);
    while (target->taken < received.whole) {
        gw_frame_free(gw_inbox_take(target->inbox));
        target->taken++;
        if (!sim_references_take_last(world->references, target->taken)) {
            break;
        }
    }
}

/* Everything was handled; returns what was sent again. */
static uint64_t
check_end(const World *world, uint32_t seed)
{
    uint64_t resent = 0;

    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpuint(world->ends[!i].taken, ==, world->ends[i].to_push);
        resent += world->ends[i].sent - world->ends[i].to_push;
    }
    if (resent > world->may_resend) {
        g_error("seed %u: %" G_GUINT64_FORMAT " frames were sent again, at most %" G_GUINT64_FORMAT
                " had a reason",
                seed, resent, world->may_resend);
    }
    return resent;
}

/* @counts: NULL for schedules without references. */
static uint64_t
run(uint32_t seed, SimReferenceCounts *counts)
{
    World world;
    uint64_t resent = 0;

    world_init(&world, seed, counts != NULL);
    while ((!is_done(&world) || world.accidents > 0) && world.now_us < world.stop_us) {
        step(&world);
        if (world.now_us > 200 * G_USEC_PER_SEC) {
            g_error("seed %u: stuck: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                    " and %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " handled",
                    seed, world.ends[1].taken, world.ends[0].to_push, world.ends[0].taken,
                    world.ends[1].to_push);
        }
    }
    if (world.now_us < world.stop_us) {
        resent = check_end(&world, seed);
    } else {
        stop(&world);
    }
    if (counts) {
        sim_references_add_counts(world.references, counts);
    }
    world_clear(&world);
    return resent;
}

static void
test_schedules(void)
{
    uint32_t first = g_test_rand_int();
    unsigned n = g_test_thorough() ? 200000 : 6000;
    uint64_t resent = 0;

    g_test_message("seeds %u to %u", first, first + n - 1);
    for (unsigned i = 0; i < n; i++) {
        resent += run(first + i, NULL);
    }
    g_test_message("%" G_GUINT64_FORMAT " frames were sent again", resent);
    g_assert_cmpuint(resent, >, 0);
}

static void
test_references(void)
{
    uint32_t first = g_test_rand_int();
    unsigned n = g_test_thorough() ? 50000 : 2000;
    SimReferenceCounts counts = {0};

    g_test_message("seeds %u to %u", first, first + n - 1);
    for (unsigned i = 0; i < n; i++) {
        (void)run(first + i, &counts);
    }
    g_test_message("%" G_GUINT64_FORMAT " frames with references, %" G_GUINT64_FORMAT
                   " not proven; %" G_GUINT64_FORMAT " questions, %" G_GUINT64_FORMAT
                   " repeated by time alone; %" G_GUINT64_FORMAT " answers, %" G_GUINT64_FORMAT
                   " double, %" G_GUINT64_FORMAT " late",
                   counts.frames, counts.unproven, counts.needs, counts.overdue, counts.fills,
                   counts.double_fills, counts.late_fills);
    g_assert_cmpuint(counts.needs, >, counts.unproven);
    g_assert_cmpuint(counts.double_fills, >, 0);
    g_assert_cmpuint(counts.late_fills, >, 0);
}

/* One link, one break: only what was lost on the way is sent again. */
static void
test_exact(void)
{
    g_autoptr(GwFramePool) pool = gw_frame_pool_new();
    g_autoptr(GwOutbox) outbox = gw_outbox_new(no_outbox_wake, NULL);
    GwReceived received = {.handled = 2, .whole = 4, .map_bytes = 1, .map = {0x0a}};

    for (unsigned i = 0; i < 12; i++) {
        GwFrame *frame = gw_frame_new(pool, GW_FRAME_RAM, 100);

        frame->header.payload_bytes = 100;
        gw_outbox_push(outbox, frame);
    }
    g_assert_true(gw_outbox_link_up(outbox, 0, &(GwReceived){0}, 1, NULL));
    for (unsigned i = 0; i < 10; i++) {
        gw_frame_free(gw_outbox_take(outbox, 0, 1));
    }
    gw_outbox_link_down(outbox, 0);
    g_assert_true(gw_outbox_link_up(outbox, 0, &received, 2, NULL));
    /* 1 to 4, 6 and 8 are there; 11 and 12 are new. */
    static const uint64_t expected[] = {5, 7, 9, 10, 11, 12};

    for (unsigned i = 0; i < G_N_ELEMENTS(expected); i++) {
        g_autoptr(GwFrame) frame = gw_outbox_take(outbox, 0, 3);

        g_assert_cmpuint(frame->header.sequence, ==, expected[i]);
    }
    g_assert_null(gw_outbox_take(outbox, 0, 3));
    /* To have what was never sent is a lie, in the bitmap, too. */
    received = (GwReceived){.handled = 2, .whole = 13};
    g_assert_false(gw_outbox_link_up(outbox, 0, &received, 4, NULL));
    received = (GwReceived){.handled = 2, .whole = 11, .map_bytes = 1, .map = {0x02}};
    g_assert_false(gw_outbox_link_up(outbox, 0, &received, 4, NULL));
}

/* What lies behind a gap is bounded, in number and bytes. */
static void
test_ahead_is_bounded(void)
{
    g_autoptr(GwFramePool) pool = gw_frame_pool_new();
    g_autoptr(GwInbox) inbox = gw_inbox_new(no_inbox_wake, NULL, NULL);
    g_autoptr(GError) error = NULL;
    uint64_t bytes = 0;

    for (uint64_t sequence = 2; bytes <= GW_INBOX_MAX_AHEAD_BYTES; sequence++) {
        GwFrame *frame = gw_frame_new(pool, GW_FRAME_CONTROL, 1024 * 1024);

        frame->header.payload_bytes = 1024 * 1024;
        frame->header.sequence = sequence;
        bytes += gw_frame_wire_bytes(frame);
        bool taken = gw_inbox_push(inbox, frame, &error);
        g_assert_cmpint(taken, ==, bytes <= GW_INBOX_MAX_AHEAD_BYTES);
    }
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lane-sim/exact", test_exact);
    g_test_add_func("/lane-sim/ahead-is-bounded", test_ahead_is_bounded);
    g_test_add_func("/lane-sim/schedules", test_schedules);
    g_test_add_func("/lane-sim/references", test_references);
    return g_test_run();
}
