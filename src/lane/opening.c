// SPDX-License-Identifier: Apache-2.0
/*
 * Opening a connection step by step.
 *
 * Owns the socket and TLS until they are taken. Link thread of the side that connects. Fails with
 * GW_ERROR_UNREACHABLE, GW_ERROR_TIMEOUT, GW_ERROR_REFUSED, GW_ERROR_UNSUPPORTED (versions),
 * GW_ERROR_PROTOCOL or with what the peer refused for, in words that name the host and the remedy.
 */
#include "lane/opening.h"

#include "base/units.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

static bool
set_unreachable(GwOpening *opening, int errnum, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE,
                "%s port %u does not answer: %s; is godwitd running there and the port open?",
                opening->target.peer, opening->target.port, g_strerror(errnum));
    return false;
}

/* 0, or an errno; EINPROGRESS is fine. */
static int
begin_connect(GwOpening *opening)
{
    const GwOpeningTarget *target = &opening->target;
    g_autoptr(GSocketAddress) address = g_inet_socket_address_new(target->address, target->port);
    struct sockaddr_storage native;
    gssize len = g_socket_address_get_native_size(address);

    if (!g_socket_address_to_native(address, &native, sizeof(native), NULL)) {
        return EAFNOSUPPORT;
    }
    g_auto(GwFd) fd = socket(native.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return errno;
    }
    gw_connection_tune(fd, target->timeout_ms);
    if (connect(fd, (struct sockaddr *)&native, (socklen_t)len) < 0 && errno != EINPROGRESS) {
        return errno;
    }
    opening->connection = gw_connection_new(g_steal_fd(&fd), target->peer);
    return 0;
}

GwOpening *
gw_opening_new(const GwOpeningTarget *target, const GwHello *ours, int64_t connect_deadline_us,
               int64_t deadline_us)
{
    GwOpening *opening = g_new0(GwOpening, 1);

    opening->target = *target;
    opening->ours = *ours;
    opening->stage = GW_OPENING_CONNECTING;
    opening->events = POLLOUT;
    opening->deadline_us = connect_deadline_us;
    opening->whole_deadline_us = deadline_us;
    return opening;
}

void
gw_opening_free(GwOpening *opening)
{
    if (!opening) {
        return;
    }
    gw_connection_free(opening->connection);
    g_free(opening);
}

/* --- stages: true when it is passed; false without error: not yet ------------------------------
 */

static bool
connect_stage(GwOpening *opening, GError **error)
{
    int result = 0;
    socklen_t len = sizeof(result);

    if (!opening->connection) {
        result = begin_connect(opening);
        if (result != 0) {
            return set_unreachable(opening, result, error);
        }
    }
    struct pollfd probe = {.fd = opening->connection->fd, .events = POLLOUT};

    if (poll(&probe, 1, 0) != 1) {
        return false;
    }
    getsockopt(probe.fd, SOL_SOCKET, SO_ERROR, &result, &len);
    if (result != 0) {
        return set_unreachable(opening, result, error);
    }
    gw_connection_suit_link(probe.fd, opening->target.congestion);
    opening->connection->tls =
        gw_tls_new(probe.fd, opening->target.credentials, opening->target.expected_name,
                   opening->target.peer, error);
    return opening->connection->tls != NULL;
}

static bool
handshake_stage(GwOpening *opening, GError **error)
{
    GwConnection *connection = opening->connection;
    GwTlsResult result = gw_tls_handshake(connection->tls, error);

    opening->events = result == GW_TLS_WANT_WRITE ? POLLOUT : POLLIN;
    if (result != GW_TLS_DONE) {
        return false;
    }
    connection->peer_name = gw_tls_verify_peer(connection->tls, error);
    if (!connection->peer_name) {
        return false;
    }
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_hello_encode(&opening->ours, payload);
    connection->sending = gw_frame_new_with(NULL, GW_FRAME_HELLO, payload);
    gw_frame_encode_header(&connection->sending->header, connection->sending->wire);
    opening->events = POLLOUT;
    return true;
}

static bool
greeting_stage(GwOpening *opening, GError **error)
{
    g_autoptr(GwFrame) sent = NULL;

    if (gw_connection_send_some(opening->connection, &sent, error) != 1) {
        return false;
    }
    opening->events = POLLIN;
    opening->greeted_us = gw_now_us();
    return true;
}

static bool
check_answer(GwOpening *opening, GError **error)
{
    uint16_t version;

    if (!gw_hello_agree(&opening->ours, &opening->theirs, &version, error)) {
        return false;
    }
    if (memcmp(opening->ours.session_id, opening->theirs.session_id, GW_SESSION_ID_BYTES) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s answered for another session",
                    opening->target.peer);
        return false;
    }
    return true;
}

static bool
answer_stage(GwOpening *opening, GError **error)
{
    GwConnection *connection = opening->connection;
    g_autoptr(GwFrame) frame = NULL;

    return gw_connection_receive_some(connection, &frame, error) == 1 &&
           gw_connection_take_hello(connection, frame, &opening->theirs, &opening->refused,
                                    error) &&
           check_answer(opening, error);
}

/* --- stepping --------------------------------------------------------------------------------- */

static void
set_late(GwOpening *opening, GError **error)
{
    switch (opening->stage) {
    case GW_OPENING_CONNECTING:
        set_unreachable(opening, ETIMEDOUT, error);
        break;
    case GW_OPENING_SHAKING_HANDS:
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT,
                    "%s did not finish the TLS handshake in time", opening->target.peer);
        break;
    case GW_OPENING_GREETING:
    case GW_OPENING_AWAITING_ANSWER:
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT, "%s did not answer our greeting in time",
                    opening->target.peer);
        break;
    }
}

GwOpeningResult
gw_opening_step(GwOpening *opening, GError **error)
{
    static bool (*const stages[])(GwOpening *, GError **) = {
        [GW_OPENING_CONNECTING] = connect_stage,
        [GW_OPENING_SHAKING_HANDS] = handshake_stage,
        [GW_OPENING_GREETING] = greeting_stage,
        [GW_OPENING_AWAITING_ANSWER] = answer_stage,
    };
    GError *problem = NULL;

    while (stages[opening->stage](opening, &problem)) {
        if (opening->stage == GW_OPENING_AWAITING_ANSWER) {
            return GW_OPENING_DONE;
        }
        opening->stage++;
        opening->deadline_us = opening->whole_deadline_us;
    }
    if (!problem && gw_now_us() >= opening->deadline_us) {
        set_late(opening, &problem);
    }
    if (problem) {
        g_propagate_error(error, problem);
        return GW_OPENING_FAILED;
    }
    return GW_OPENING_GOES_ON;
}
