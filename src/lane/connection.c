// SPDX-License-Identifier: Apache-2.0
/*
 * Frames over one TLS connection.
 *
 * Owns the socket, TLS, one frame being sent and one being received. One thread at a time. A
 * frame's payload is allocated only after its header passed the checks of frame.h, and before the
 * greeting only for greetings, so a peer can make us hold at most one frame of 1 MiB here.
 *
 * Fails with GW_ERROR_UNREACHABLE or GW_ERROR_PROTOCOL when the connection is gone, and with
 * GW_ERROR_PROTOCOL or GW_ERROR_TOO_LARGE (and `breached`) for what the peer may not send.
 */
#include "lane/connection.h"

#include "base/log.h"
#include "base/units.h"
#include "lane/wake.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* What TCP keeps unsent below the connection: more would only lengthen the queue. */
#define NOTSENT_LOWAT_BYTES (128 * 1024)

#define CONGESTION_LIST "/proc/sys/net/ipv4/tcp_available_congestion_control"

/* gw_lane_free() may take so long on a connection that does not move. */
#define ABANDON_US (100 * 1000)

GwConnection *
gw_connection_new(int fd, const char *peer)
{
    GwConnection *connection = g_new0(GwConnection, 1);

    connection->fd = fd;
    connection->peer = g_strdup(peer);
    return connection;
}

void
gw_connection_free(GwConnection *connection)
{
    if (!connection) {
        return;
    }
    gw_frame_free(connection->sending);
    gw_frame_free(connection->receiving);
    gw_tls_free(connection->tls);
    gw_fd_clear(&connection->fd);
    g_free(connection->peer);
    g_free(connection->peer_name);
    g_free(connection);
}

/* All of them improve latency or error detection; a kernel that refuses one still works. */
void
gw_connection_tune(int fd, int64_t timeout_ms)
{
    int on = 1;
    int lowat = NOTSENT_LOWAT_BYTES;
    unsigned user_timeout_ms = (unsigned)CLAMP(timeout_ms, 1000, G_MAXINT);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
    /* TCP gives up no earlier than we do, so the link may be gone for less than that. */
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
}

void
gw_connection_suit_link(int fd, const char *congestion)
{
    if (congestion && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion,
                                 (socklen_t)strlen(congestion)) < 0) {
        gw_debug(NULL, "the kernel does not offer congestion control '%s': %s", congestion,
                 g_strerror(errno));
    }
}

bool
gw_lane_check_congestion(const char *name, GError **error)
{
    g_auto(GwFd) fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_autofree char *offered = NULL;

    if (fd >= 0 &&
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0) {
        return true;
    }
    int errnum = errno;
    if (g_file_get_contents(CONGESTION_LIST, &offered, NULL, NULL)) {
        g_strstrip(offered);
    }
    g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                "this kernel does not offer TCP congestion control '%s' (%s); it offers: %s", name,
                g_strerror(errnum),
                offered ? offered : "nobody knows, " CONGESTION_LIST " is not there");
    return false;
}

/* --- frames, never waiting -------------------------------------------------------------------- */

int
gw_connection_send_some(GwConnection *connection, GwFrame **sent, GError **error)
{
    GwFrame *frame = connection->sending;
    size_t len = gw_frame_wire_bytes(frame);

    while (connection->sent_bytes < len) {
        ssize_t n = gw_tls_send(connection->tls, frame->wire + connection->sent_bytes,
                                len - connection->sent_bytes, error);
        if (n <= 0) {
            return (int)n;
        }
        connection->sent_bytes += (size_t)n;
    }
    *sent = g_steal_pointer(&connection->sending);
    connection->sent_bytes = 0;
    return 1;
}

static int
begin_frame(GwConnection *connection, GError **error)
{
    GwFrameHeader header;

    connection->breached = true;
    if (!gw_frame_decode_header(connection->header, &header, error)) {
        return -1;
    }
    if (!connection->pool && header.type != GW_FRAME_HELLO && header.type != GW_FRAME_REFUSE) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s sent %s before its greeting",
                    connection->peer, gw_frame_type_name(header.type));
        return -1;
    }
    connection->receiving = gw_frame_new(connection->pool, header.type, header.payload_bytes);
    if (!connection->receiving) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "out of memory for a frame of %u bytes",
                    header.payload_bytes);
        return -1;
    }
    connection->breached = false;
    connection->receiving->header = header;
    connection->payload_have = 0;
    return 1;
}

/* 1: @have reached @want. */
static int
fill(GwConnection *connection, uint8_t *buffer, size_t *have, size_t want, GError **error)
{
    while (*have < want) {
        ssize_t n = gw_tls_recv(connection->tls, buffer + *have, want - *have, error);
        if (n <= 0) {
            return (int)n;
        }
        *have += (size_t)n;
        connection->heard_us = gw_now_us();
    }
    return 1;
}

int
gw_connection_receive_some(GwConnection *connection, GwFrame **out, GError **error)
{
    int result = fill(connection, connection->header, &connection->header_have,
                      GW_FRAME_HEADER_BYTES, error);

    if (result == 1 && !connection->receiving) {
        result = begin_frame(connection, error);
    }
    if (result == 1) {
        GwFrame *frame = connection->receiving;

        result = fill(connection, gw_frame_payload(frame), &connection->payload_have,
                      frame->header.payload_bytes, error);
    }
    if (result == 1) {
        *out = g_steal_pointer(&connection->receiving);
        connection->header_have = 0;
    }
    return result;
}

/* --- waiting ---------------------------------------------------------------------------------- */

/* False: the time is over (@error), or stopped (no error). */
static bool
wait_for(GwConnection *connection, short events, int stop_fd, int64_t deadline_us, const char *what,
         GError **error)
{
    int64_t left_us = deadline_us - gw_now_us();

    if (left_us <= 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "%s did not %s in time", connection->peer,
                    what);
        return false;
    }
    int timeout_ms = (int)MIN(left_us / 1000 + 1, G_MAXINT);

    return gw_wake_wait_fd(connection->fd, events, stop_fd, timeout_ms) >= 0;
}

bool
gw_connection_shake_hands(GwConnection *connection, int stop_fd, int64_t deadline_us,
                          GError **error)
{
    for (;;) {
        GwTlsResult result = gw_tls_handshake(connection->tls, error);
        short events = result == GW_TLS_WANT_WRITE ? POLLOUT : POLLIN;

        if (result == GW_TLS_DONE || result == GW_TLS_FAILED) {
            return result == GW_TLS_DONE;
        }
        if (!wait_for(connection, events, stop_fd, deadline_us, "finish the TLS handshake",
                      error)) {
            return false;
        }
    }
}

bool
gw_connection_send(GwConnection *connection, GwFrame *frame, int stop_fd, int64_t deadline_us,
                   GError **error)
{
    g_autoptr(GwFrame) sent = NULL;

    gw_frame_encode_header(&frame->header, frame->wire);
    connection->sending = frame;
    for (;;) {
        int result = gw_connection_send_some(connection, &sent, error);

        if (result != 0) {
            return result == 1;
        }
        if (!wait_for(connection, POLLOUT, stop_fd, deadline_us, "take what was said", error)) {
            return false;
        }
    }
}

GwFrame *
gw_connection_receive(GwConnection *connection, int stop_fd, int64_t deadline_us, GError **error)
{
    GwFrame *frame = NULL;

    for (;;) {
        int result = gw_connection_receive_some(connection, &frame, error);

        if (result != 0) {
            return frame;
        }
        if (!wait_for(connection, POLLIN, stop_fd, deadline_us, "answer", error)) {
            return NULL;
        }
    }
}

/* --- greeting --------------------------------------------------------------------------------- */

bool
gw_connection_send_hello(GwConnection *connection, const GwHello *hello, int stop_fd,
                         int64_t deadline_us, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_hello_encode(hello, payload);
    return gw_connection_send(connection, gw_frame_new_with(NULL, GW_FRAME_HELLO, payload), stop_fd,
                              deadline_us, error);
}

bool
gw_connection_take_hello(GwConnection *connection, const GwFrame *frame, GwHello *out,
                         bool *refused, GError **error)
{
    const uint8_t *payload = gw_frame_payload(frame);
    size_t len = frame->header.payload_bytes;

    if (frame->header.type == GW_FRAME_REFUSE) {
        *refused = true;
        g_propagate_prefixed_error(error, gw_refuse_decode(payload, len),
                                   "%s refused: ", connection->peer);
        return false;
    }
    connection->breached = true;
    if (!gw_hello_decode(payload, len, out, error)) {
        return false;
    }
    connection->breached = false;
    return true;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* Closing with unread bytes would reset the connection and destroy what we said last. */
static void
linger(GwConnection *connection, int stop_fd, int64_t deadline_us)
{
    uint8_t waste[4096];

    shutdown(connection->fd, SHUT_WR);
    for (;;) {
        ssize_t n = recv(connection->fd, waste, sizeof(waste), MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            return;
        }
        if (gw_now_us() >= deadline_us ||
            (n < 0 && !wait_for(connection, POLLIN, stop_fd, deadline_us, "close", NULL))) {
            return;
        }
    }
}

/* A frame that was begun has to be completed first, or the peer cannot tell them apart. */
static bool
complete_frame(GwConnection *connection, int stop_fd, int64_t deadline_us)
{
    while (connection->sending) {
        g_autoptr(GwFrame) sent = NULL;
        int result = gw_connection_send_some(connection, &sent, NULL);

        if (result < 0 || (result == 0 && !wait_for(connection, POLLOUT, stop_fd, deadline_us,
                                                    "take what was said", NULL))) {
            return false;
        }
    }
    return true;
}

void
gw_connection_say_last(GwConnection *connection, GwFrame *frame, int stop_fd)
{
    int64_t deadline_us = gw_now_us() + GW_CONNECTION_LINGER_US;

    if (frame && complete_frame(connection, stop_fd, deadline_us)) {
        (void)!gw_connection_send(connection, g_steal_pointer(&frame), stop_fd, deadline_us, NULL);
    }
    gw_frame_free(frame);
    linger(connection, stop_fd, gw_now_us() + GW_CONNECTION_LINGER_US);
}

GwFrame *
gw_refuse_frame(const GError *reason)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_refuse_encode(reason, payload);
    return gw_frame_new_with(NULL, GW_FRAME_REFUSE, payload);
}

void
gw_connection_abandon(GwConnection *connection)
{
    int64_t deadline_us = gw_now_us() + ABANDON_US;

    while (!gw_tls_bye(connection->tls)) {
        if (!wait_for(connection, POLLOUT, -1, deadline_us, "take what was said", NULL)) {
            return;
        }
    }
    linger(connection, -1, deadline_us);
}
