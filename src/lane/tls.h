// SPDX-License-Identifier: Apache-2.0
/*
 * One TLS 1.3 connection over a non-blocking TCP socket.
 *
 * Never waits: what cannot be done now is reported and tried again when the socket is ready. One
 * thread does both directions: GnuTLS allows a second one, but an incoming KeyUpdate changes the
 * state of the sending side without a lock.
 *
 * The client judges the server's certificate within the handshake, before it shows its own. The
 * server finishes the handshake first and judges then (gw_tls_verify_peer), so that a refusal can
 * travel as text; nothing that the peer sent is looked at before.
 */
#pragma once

#include "lane/lane.h"

#include <sys/types.h>

typedef struct GwTls GwTls;

typedef enum GwTlsResult {
    GW_TLS_DONE,
    GW_TLS_WANT_READ,
    GW_TLS_WANT_WRITE,
    GW_TLS_FAILED,
} GwTlsResult;

/*
 * @fd: stays the caller's. @expected_name: the server's identity; NULL: we are the server.
 * @peer: how messages call the other side ("host 'beta' at 10.0.0.2").
 */
GwTls *gw_tls_new(int fd, GwLaneCredentials *credentials, const char *expected_name,
                  const char *peer, GError **error) GW_MUST_USE;
void gw_tls_free(GwTls *tls);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwTls, gw_tls_free)

/* Call until it is done. GW_ERROR_REFUSED if either side's certificate was not accepted. */
GwTlsResult gw_tls_handshake(GwTls *tls, GError **error);

/* After the handshake: the peer's proven name, transfer full; GW_ERROR_REFUSED with the reason. */
char *gw_tls_verify_peer(GwTls *tls, GError **error) GW_MUST_USE;

/*
 * Bytes sent or received; 0: not now; -1: the connection is gone. After a 0 gw_tls_send() must be
 * called with the same bytes again.
 */
ssize_t gw_tls_send(GwTls *tls, const void *data, size_t len, GError **error);
ssize_t gw_tls_recv(GwTls *tls, void *data, size_t len, GError **error);

/*
 * The peer has ended TLS in order, so it is there and wants no more of this connection. A process
 * that was killed or a link that broke does not do that.
 */
bool gw_tls_peer_said_bye(const GwTls *tls);

/* Ends our side of TLS in order. False: the socket takes nothing now; try again. */
bool gw_tls_bye(GwTls *tls);

/* What was really written to the socket. */
uint64_t gw_tls_wire_bytes(const GwTls *tls);
