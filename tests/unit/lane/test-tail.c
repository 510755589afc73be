// SPDX-License-Identifier: Apache-2.0
/* What the lane says behind its last frame, to a peer that lets it wait for the acknowledgement. */
#include "harness.h"
#include "rawpeer.h"

#include <signal.h>
#include <string.h>

#define TIMEOUT_MS 30000
#define RTT_US     400000
/* Four round trips of eight, and the one at their beginning. */
#define MAX_TAIL 33u

typedef struct Listener {
    Rig rig;
    bool acks;
    gint measured;   /* atomic: the lane may know the round trip */
    unsigned n_tail; /* PINGs behind the message that measure nothing */
} Listener;

static bool
measures(const GByteArray *ping)
{
    uint64_t number;

    g_assert_true(gw_number_decode(ping->data, ping->len, &number, NULL));
    return number != 0;
}

static void
acknowledge(RawPeer *peer, const GByteArray *message)
{
    const GwAck ack = {.sequence = 1, .received_bytes = GW_FRAME_HEADER_BYTES + message->len};
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_ack_encode(&ack, payload);
    g_assert_true(raw_send_frame(peer, GW_FRAME_ACK, payload->data, payload->len));
}

static void
listen_to_tail(Listener *listener, RawPeer *peer)
{
    g_autoptr(GByteArray) first = raw_expect(peer, GW_FRAME_PING);

    g_assert_true(measures(first));
    g_usleep(RTT_US); /* in place of a link that takes so long there and back */
    g_assert_true(raw_send_frame(peer, GW_FRAME_PONG, first->data, first->len));
    g_atomic_int_set(&listener->measured, 1);
    g_main_context_wakeup(NULL);
    g_autoptr(GByteArray) message = raw_expect(peer, GW_FRAME_CONTROL);

    /* A second goes by between those that measure. */
    for (unsigned n_measuring = 0; n_measuring < 3;) {
        g_autoptr(GByteArray) ping = raw_expect(peer, GW_FRAME_PING);

        if (measures(ping)) {
            n_measuring++;
        } else if (++listener->n_tail == 3 && listener->acks) {
            acknowledge(peer, message);
        }
    }
}

static void *
run_listener(void *data)
{
    Listener *listener = data;
    RawPeer peer;

    g_assert_true(raw_open(&peer, raw_connect_tcp(gw_lane_server_port(listener->rig.server)), false,
                           listener->rig.dir, "ca", "beta"));
    g_assert_true(raw_greet(&peer));
    listen_to_tail(listener, &peer);
    raw_close(&peer);
    return NULL;
}

static unsigned
count_tail(bool acks)
{
    Listener listener = {.acks = acks};
    g_autoptr(json_t) message = json_pack("{s:s}", "do", "run");
    g_autoptr(GError) error = NULL;

    rig_init(&listener.rig, TIMEOUT_MS);
    GThread *thread = g_thread_new("listener", run_listener, &listener);
    WAIT_FOR(listener.rig.accepted.lane);
    WAIT_FOR(g_atomic_int_get(&listener.measured));
    g_assert_true(gw_lane_send(listener.rig.accepted.lane, message, &error));
    g_thread_join(thread);
    rig_clear(&listener.rig);
    return listener.n_tail;
}

/* TCP is kept going for some round trips. */
static void
test_far(void)
{
    unsigned n = count_tail(false);

    g_assert_cmpuint(n, >=, 8);
    g_assert_cmpuint(n, <=, MAX_TAIL);
}

/* ... or until the peer has all. */
static void
test_acknowledged(void)
{
    unsigned n = count_tail(true);

    g_assert_cmpuint(n, >=, 3);
    g_assert_cmpuint(n, <, MAX_TAIL / 2);
}

int
main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tail/far", test_far);
    g_test_add_func("/tail/acknowledged", test_acknowledged);
    return g_test_run();
}
