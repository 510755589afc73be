// SPDX-License-Identifier: Apache-2.0
/*
 * GnuTLS over a non-blocking socket: handshake, records, alerts as clear text.
 *
 * Owns the GnuTLS session. One thread (the connection's). Memory: GnuTLS's own, two records of
 * 16 KiB. Session tickets are off; keys are renewed by GnuTLS itself. Fails with
 * GW_ERROR_REFUSED (certificates), GW_ERROR_UNREACHABLE (connection gone), GW_ERROR_PROTOCOL.
 */
#include "lane/tls.h"

#include "lane/credentials.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_RECORD_BYTES 16384u

struct GwTls {
    int fd;
    gnutls_session_t session;
    GwLaneCredentials *credentials;
    char *expected_name; /* NULL: we are the server */
    char *peer;
    uint64_t wire_bytes;
    char *proven_name;
    bool peer_said_bye;
    GError *judgement; /* why the server's certificate was not accepted in the handshake */
};

static ssize_t
push_bytes(gnutls_transport_ptr_t data, const giovec_t *vectors, int n)
{
    GwTls *tls = data;
    struct msghdr message = {.msg_iov = (struct iovec *)vectors, .msg_iovlen = (size_t)n};
    ssize_t sent = sendmsg(tls->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent > 0) {
        tls->wire_bytes += (uint64_t)sent;
    }
    return sent;
}

static ssize_t
pull_bytes(gnutls_transport_ptr_t data, void *buffer, size_t len)
{
    GwTls *tls = data;

    return recv(tls->fd, buffer, len, MSG_DONTWAIT);
}

static int
pull_timeout(gnutls_transport_ptr_t data, unsigned timeout_ms)
{
    GwTls *tls = data;
    struct pollfd fd = {.fd = tls->fd, .events = POLLIN};

    return poll(&fd, 1, (int)MIN(timeout_ms, (unsigned)G_MAXINT));
}

/* Runs within the client's handshake. Non-zero makes it fail. */
static int
judge_server(gnutls_session_t session)
{
    GwTls *tls = gnutls_session_get_ptr(session);
    gnutls_alert_description_t alert = GNUTLS_A_BAD_CERTIFICATE;

    g_clear_error(&tls->judgement);
    g_free(tls->proven_name);
    tls->proven_name = gw_certificate_judge(session, GW_PEER_IS_SERVER, &alert, &tls->judgement);
    if (tls->proven_name && strcmp(tls->proven_name, tls->expected_name) != 0) {
        alert = GNUTLS_A_ACCESS_DENIED;
        g_set_error(&tls->judgement, GW_ERROR, GW_ERROR_REFUSED,
                    "%s proves to be host '%s', not '%s': check the address of host '%s'",
                    tls->peer, tls->proven_name, tls->expected_name, tls->expected_name);
        g_clear_pointer(&tls->proven_name, g_free);
    }
    if (tls->proven_name) {
        return 0;
    }
    /* Best effort: the reason is in our own error, too. */
    gnutls_alert_send(session, GNUTLS_AL_FATAL, alert);
    return -1;
}

static int
set_up_session(GwTls *tls)
{
    int result = gnutls_priority_set_direct(tls->session, "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL);

    if (result >= 0) {
        result = gnutls_credentials_set(tls->session, GNUTLS_CRD_CERTIFICATE,
                                        gw_lane_credentials_gnutls(tls->credentials));
    }
    if (result >= 0 && !tls->expected_name) {
        gnutls_certificate_server_set_request(tls->session, GNUTLS_CERT_REQUIRE);
        /* Without a list of CAs the client shows what it has, and hears what is wrong with it. */
        gnutls_certificate_send_x509_rdn_sequence(tls->session, 1);
    } else if (result >= 0) {
        gnutls_session_set_verify_function(tls->session, judge_server);
    }
    return result;
}

GwTls *
gw_tls_new(int fd, GwLaneCredentials *credentials, const char *expected_name, const char *peer,
           GError **error)
{
    g_autoptr(GwTls) tls = g_new0(GwTls, 1);
    unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS |
                     (expected_name ? GNUTLS_CLIENT : GNUTLS_SERVER);

    tls->fd = fd;
    tls->credentials = gw_lane_credentials_ref(credentials);
    tls->expected_name = g_strdup(expected_name);
    tls->peer = g_strdup(peer);
    int result = gnutls_init(&tls->session, flags);
    if (result >= 0) {
        result = set_up_session(tls);
    }
    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "cannot set up TLS with %s: %s", peer,
                    gnutls_strerror(result));
        return NULL;
    }
    gnutls_session_set_ptr(tls->session, tls);
    gnutls_transport_set_ptr(tls->session, tls);
    gnutls_transport_set_vec_push_function(tls->session, push_bytes);
    gnutls_transport_set_pull_function(tls->session, pull_bytes);
    gnutls_transport_set_pull_timeout_function(tls->session, pull_timeout);
    return g_steal_pointer(&tls);
}

void
gw_tls_free(GwTls *tls)
{
    if (!tls) {
        return;
    }
    if (tls->session) {
        gnutls_deinit(tls->session);
    }
    gw_lane_credentials_unref(tls->credentials);
    g_clear_error(&tls->judgement);
    g_free(tls->expected_name);
    g_free(tls->peer);
    g_free(tls->proven_name);
    g_free(tls);
}

static bool
is_about_certificates(gnutls_alert_description_t alert)
{
    static const gnutls_alert_description_t about[] = {
        GNUTLS_A_BAD_CERTIFICATE,     GNUTLS_A_UNSUPPORTED_CERTIFICATE,
        GNUTLS_A_CERTIFICATE_REVOKED, GNUTLS_A_CERTIFICATE_EXPIRED,
        GNUTLS_A_CERTIFICATE_UNKNOWN, GNUTLS_A_UNKNOWN_CA,
        GNUTLS_A_ACCESS_DENIED,       GNUTLS_A_CERTIFICATE_REQUIRED,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(about); i++) {
        if (about[i] == alert) {
            return true;
        }
    }
    return false;
}

static void
explain_alert(GwTls *tls, GError **error)
{
    gnutls_alert_description_t alert = gnutls_alert_get(tls->session);
    const char *name = gnutls_alert_get_name(alert);

    name = name ? name : "unknown alert";
    if (alert == GNUTLS_A_ACCESS_DENIED) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "%s refused our certificate: it expected a host of another name (%s)",
                    tls->peer, name);
    } else if (is_about_certificates(alert)) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "%s refused our certificate: %s", tls->peer,
                    name);
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "%s ended TLS with the alert: %s",
                    tls->peer, name);
    }
}

static void
explain_failure(GwTls *tls, int result, int errnum, const char *during, GError **error)
{
    switch (result) {
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
        explain_alert(tls, error);
        break;
    case GNUTLS_E_PREMATURE_TERMINATION:
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE, "%s closed the connection %s", tls->peer,
                    during);
        break;
    case GNUTLS_E_PULL_ERROR:
    case GNUTLS_E_PUSH_ERROR:
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE, "the connection to %s was lost %s: %s",
                    tls->peer, during, g_strerror(errnum));
        break;
    case GNUTLS_E_NO_CERTIFICATE_FOUND:
    case GNUTLS_E_CERTIFICATE_REQUIRED:
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "%s showed no certificate", tls->peer);
        break;
    default:
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "TLS with %s failed %s: %s", tls->peer,
                    during, gnutls_strerror(result));
        break;
    }
}

GwTlsResult
gw_tls_handshake(GwTls *tls, GError **error)
{
    int result;

    do {
        result = gnutls_handshake(tls->session);
    } while (result == GNUTLS_E_INTERRUPTED || result == GNUTLS_E_WARNING_ALERT_RECEIVED);
    int errnum = errno;

    if (result == GNUTLS_E_SUCCESS) {
        return GW_TLS_DONE;
    }
    if (result == GNUTLS_E_AGAIN) {
        return gnutls_record_get_direction(tls->session) ? GW_TLS_WANT_WRITE : GW_TLS_WANT_READ;
    }
    if (tls->judgement) {
        g_propagate_error(error, g_steal_pointer(&tls->judgement));
        return GW_TLS_FAILED;
    }
    explain_failure(tls, result, errnum, "in the handshake", error);
    if (result != GNUTLS_E_FATAL_ALERT_RECEIVED) {
        gnutls_alert_send_appropriate(tls->session, result);
    }
    return GW_TLS_FAILED;
}

char *
gw_tls_verify_peer(GwTls *tls, GError **error)
{
    if (tls->expected_name) {
        return g_strdup(tls->proven_name);
    }
    return gw_certificate_judge(tls->session, GW_PEER_IS_CLIENT, NULL, error);
}

static ssize_t
finish_io(GwTls *tls, ssize_t result, GError **error)
{
    int errnum = errno;

    if (result > 0) {
        return result;
    }
    if (result == GNUTLS_E_AGAIN || result == GNUTLS_E_INTERRUPTED ||
        result == GNUTLS_E_WARNING_ALERT_RECEIVED) {
        return 0;
    }
    explain_failure(tls, result == 0 ? GNUTLS_E_PREMATURE_TERMINATION : (int)result, errnum,
                    "during the session", error);
    return -1;
}

ssize_t
gw_tls_send(GwTls *tls, const void *data, size_t len, GError **error)
{
    return finish_io(tls, gnutls_record_send(tls->session, data, MIN(len, MAX_RECORD_BYTES)),
                     error);
}

ssize_t
gw_tls_recv(GwTls *tls, void *data, size_t len, GError **error)
{
    ssize_t result = gnutls_record_recv(tls->session, data, len);

    tls->peer_said_bye = tls->peer_said_bye || result == 0;
    return finish_io(tls, result, error);
}

bool
gw_tls_peer_said_bye(const GwTls *tls)
{
    return tls->peer_said_bye;
}

bool
gw_tls_bye(GwTls *tls)
{
    int result = gnutls_bye(tls->session, GNUTLS_SHUT_WR);

    return result != GNUTLS_E_AGAIN && result != GNUTLS_E_INTERRUPTED;
}

uint64_t
gw_tls_wire_bytes(const GwTls *tls)
{
    return tls->wire_bytes;
}
