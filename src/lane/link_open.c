// SPDX-License-Identifier: Apache-2.0
/*
 * Opening a session: TCP, TLS, who is it, is it welcome, greeting.
 *
 * Owns nothing but what hangs on GwLink. Link thread; every step waits with the lane's opening
 * deadline and ends at once when the lane is freed. Fails with GW_ERROR_UNREACHABLE,
 * GW_ERROR_TIMEOUT, GW_ERROR_REFUSED, GW_ERROR_UNSUPPORTED (versions) or GW_ERROR_PROTOCOL, in
 * words that name the host and the remedy.
 */
#include "lane/link.h"

#include "base/units.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* What TCP keeps unsent below the connection: more would only lengthen the queue. */
#define NOTSENT_LOWAT_BYTES (128 * 1024)

/* All of them improve latency or error detection; a kernel that refuses one still works. */
static void
set_socket_options(const GwLink *link)
{
    int on = 1;
    int lowat = NOTSENT_LOWAT_BYTES;
    unsigned timeout_ms = (unsigned)CLAMP(link->lane->session_timeout_ms, 1000, G_MAXINT);

    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(link->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
    /* TCP gives up no earlier than we do, so the link may be gone for less than that. */
    setsockopt(link->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

/* --- TCP -------------------------------------------------------------------------------------- */

/* 0, or an errno; ECANCELED: stopped. */
static int
connect_to(GwLink *link, GInetAddress *address, int64_t deadline_us)
{
    g_autoptr(GSocketAddress) target = g_inet_socket_address_new(address, link->lane->port);
    struct sockaddr_storage native;
    gssize len = g_socket_address_get_native_size(target);
    int result = 0;
    socklen_t result_len = sizeof(result);

    if (!g_socket_address_to_native(target, &native, sizeof(native), NULL)) {
        return EAFNOSUPPORT;
    }
    link->fd = socket(native.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (link->fd < 0) {
        return errno;
    }
    set_socket_options(link);
    if (connect(link->fd, (struct sockaddr *)&native, (socklen_t)len) < 0 && errno != EINPROGRESS) {
        return errno;
    }
    for (;;) {
        struct pollfd probe = {.fd = link->fd, .events = POLLOUT};
        GwLinkWait wait = gw_link_wait(link, POLLOUT, deadline_us);

        if (wait == GW_LINK_STOPPED) {
            return ECANCELED;
        }
        if (poll(&probe, 1, 0) == 1) {
            break;
        }
        if (gw_now_us() >= deadline_us) {
            return ETIMEDOUT;
        }
    }
    getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &result, &result_len);
    return result;
}

/* Each address gets its share of the time that is left. */
static bool
connect_any(GwLink *link, GError **error)
{
    GwLane *lane = link->lane;
    unsigned n_left = g_list_length(lane->addresses);
    int result = EHOSTUNREACH;

    for (GList *item = lane->addresses; item; item = item->next, n_left--) {
        int64_t now_us = gw_now_us();
        int64_t share_us = MAX(lane->open_deadline_us - now_us, 0) / n_left;

        result = connect_to(link, item->data, now_us + share_us);
        if (result == 0) {
            return true;
        }
        gw_fd_clear(&link->fd);
        if (result == ECANCELED) {
            return false;
        }
    }
    g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE,
                "%s port %u does not answer: %s; is godwitd running there and the port open?",
                link->peer, lane->port, g_strerror(result));
    return false;
}

/* --- TLS -------------------------------------------------------------------------------------- */

static bool
shake_hands(GwLink *link, GError **error)
{
    for (;;) {
        GwTlsResult result = gw_tls_handshake(link->tls, error);

        if (result == GW_TLS_DONE || result == GW_TLS_FAILED) {
            return result == GW_TLS_DONE;
        }
        short events = result == GW_TLS_WANT_WRITE ? POLLOUT : POLLIN;
        GwLinkWait wait = gw_link_wait(link, events, link->lane->open_deadline_us);

        if (wait == GW_LINK_STOPPED) {
            return false;
        }
        if (gw_now_us() >= link->lane->open_deadline_us) {
            g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT,
                        "%s did not finish the TLS handshake in time", link->peer);
            return false;
        }
    }
}

static bool
authenticate(GwLink *link, GError **error)
{
    GwLane *lane = link->lane;

    link->tls = gw_tls_new(link->fd, lane->credentials, lane->expected_name, link->peer, error);
    if (!link->tls || !shake_hands(link, error)) {
        return false;
    }
    link->tell_peer = true;
    link->peer_name = gw_tls_verify_peer(link->tls, error);
    return link->peer_name != NULL;
}

/* --- verdict ---------------------------------------------------------------------------------- */

static bool
await_verdict(GwLink *link, GError **error)
{
    GwLane *lane = link->lane;

    gw_lane_post(lane,
                 (GwLaneEvent){.kind = GW_LANE_EVENT_WELCOME, .name = g_strdup(link->peer_name)});
    for (;;) {
        pthread_mutex_lock(&lane->lock);
        GwLaneVerdict verdict = lane->verdict;
        if (verdict == GW_LANE_VERDICT_REFUSED) {
            g_propagate_error(error, g_steal_pointer(&lane->verdict_error));
        }
        pthread_mutex_unlock(&lane->lock);
        if (verdict != GW_LANE_VERDICT_NONE) {
            return verdict == GW_LANE_VERDICT_WELCOME;
        }
        /* The socket is not looked at: what the peer sends now has to wait. */
        if (gw_link_wait(link, 0, lane->open_deadline_us) == GW_LINK_STOPPED) {
            return false;
        }
        if (gw_now_us() >= lane->open_deadline_us) {
            g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT,
                        "nobody decided in time whether host '%s' may connect", link->peer_name);
            return false;
        }
    }
}

/* --- greeting --------------------------------------------------------------------------------- */

static bool
send_hello(GwLink *link, const GwHello *hello, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_hello_encode(hello, payload);
    return gw_link_send_frame(link, gw_frame_new_with(link->lane->pool, GW_FRAME_HELLO, payload),
                              link->lane->open_deadline_us, error);
}

static bool
receive_hello(GwLink *link, GwHello *out, GError **error)
{
    g_autoptr(GwFrame) frame = gw_link_receive_frame(link, link->lane->open_deadline_us, error);

    if (!frame) {
        return false;
    }
    const uint8_t *payload = gw_frame_payload(frame);
    size_t len = frame->header.payload_bytes;

    if (frame->header.type == GW_FRAME_REFUSE) {
        link->tell_peer = false;
        g_propagate_prefixed_error(error, gw_refuse_decode(payload, len),
                                   "%s refused: ", link->peer);
        return false;
    }
    if (frame->header.type != GW_FRAME_HELLO) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s sent %s before its greeting",
                    link->peer, gw_frame_type_name(frame->header.type));
        return false;
    }
    return gw_hello_decode(payload, len, out, error);
}

static bool
greet(GwLink *link, GError **error)
{
    GwHello ours = {.version = GW_LANE_VERSION, .oldest_version = GW_LANE_OLDEST_VERSION};
    GwHello theirs;
    uint16_t version;

    if (!link->lane->expected_name) {
        if (!receive_hello(link, &theirs, error) ||
            !gw_hello_agree(&ours, &theirs, &version, error)) {
            return false;
        }
        memcpy(ours.session_id, theirs.session_id, GW_SESSION_ID_BYTES);
        return send_hello(link, &ours, error);
    }
    if (gnutls_rnd(GNUTLS_RND_NONCE, ours.session_id, GW_SESSION_ID_BYTES) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "no random numbers for a session id");
        return false;
    }
    if (!send_hello(link, &ours, error) || !receive_hello(link, &theirs, error) ||
        !gw_hello_agree(&ours, &theirs, &version, error)) {
        return false;
    }
    if (memcmp(ours.session_id, theirs.session_id, GW_SESSION_ID_BYTES) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s answered for another session",
                    link->peer);
        return false;
    }
    return true;
}

bool
gw_link_open(GwLink *link, GError **error)
{
    GwLane *lane = link->lane;

    if (lane->expected_name) {
        link->peer = g_strdup_printf("host '%s' at %s", lane->expected_name, lane->peer_address);
        if (!connect_any(link, error)) {
            return false;
        }
    } else {
        link->peer = g_strdup_printf("the peer at %s", lane->peer_address);
        link->fd = lane->accepted_fd;
        lane->accepted_fd = GW_FD_NONE;
        set_socket_options(link);
    }
    if (!authenticate(link, error)) {
        return false;
    }
    if (!lane->expected_name) {
        g_free(link->peer);
        link->peer = g_strdup_printf("host '%s' at %s", link->peer_name, lane->peer_address);
        if (!await_verdict(link, error)) {
            return false;
        }
    }
    if (!greet(link, error)) {
        return false;
    }
    link->tell_peer = false;
    return true;
}
