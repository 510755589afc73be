// SPDX-License-Identifier: Apache-2.0
/* A hand-driven peer over blocking GnuTLS. */
#include "rawpeer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in
loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}

int
raw_listen(uint16_t *port)
{
    struct sockaddr_in address = loopback(0);
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, len), ==, 0);
    g_assert_cmpint(listen(fd, 8), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&address, &len), ==, 0);
    *port = ntohs(address.sin_port);
    return fd;
}

int
raw_connect_tcp(uint16_t port)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;

    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

static void
note_alert(RawPeer *peer, ssize_t result)
{
    if (result == GNUTLS_E_FATAL_ALERT_RECEIVED) {
        peer->alert = gnutls_alert_get(peer->session);
    }
}

bool
raw_open(RawPeer *peer, int fd, bool server, const char *dir, const char *ca, const char *name)
{
    g_autofree char *ca_path = g_strdup_printf("%s/%s.crt", dir, ca);
    g_autofree char *cert_path = g_strdup_printf("%s/%s.crt", dir, name ? name : "");
    g_autofree char *key_path = g_strdup_printf("%s/%s.key", dir, name ? name : "");
    int result;

    *peer = (RawPeer){.fd = fd};
    gnutls_certificate_allocate_credentials(&peer->credentials);
    gnutls_certificate_set_x509_trust_file(peer->credentials, ca_path, GNUTLS_X509_FMT_PEM);
    if (name) {
        result = gnutls_certificate_set_x509_key_file(peer->credentials, cert_path, key_path,
                                                      GNUTLS_X509_FMT_PEM);
        g_assert_cmpint(result, ==, 0);
    }
    gnutls_init(&peer->session, server ? GNUTLS_SERVER : GNUTLS_CLIENT);
    gnutls_priority_set_direct(peer->session, "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL);
    gnutls_credentials_set(peer->session, GNUTLS_CRD_CERTIFICATE, peer->credentials);
    gnutls_certificate_server_set_request(peer->session, GNUTLS_CERT_REQUEST);
    gnutls_transport_set_int(peer->session, fd);
    do {
        result = gnutls_handshake(peer->session);
    } while (result < 0 && !gnutls_error_is_fatal(result));
    note_alert(peer, result);
    return result == 0;
}

void
raw_close(RawPeer *peer)
{
    /* An end in order, or the session would be waiting for the next connection. */
    if (!peer->dies) {
        gnutls_bye(peer->session, GNUTLS_SHUT_WR);
    }
    gnutls_deinit(peer->session);
    gnutls_certificate_free_credentials(peer->credentials);
    close(peer->fd);
}

bool
raw_send(RawPeer *peer, const void *data, size_t len)
{
    const uint8_t *bytes = data;

    while (len > 0) {
        ssize_t sent = gnutls_record_send(peer->session, bytes, len);

        if (sent < 0 && !gnutls_error_is_fatal((int)sent)) {
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

bool
raw_send_frame(RawPeer *peer, GwFrameType type, const void *payload, size_t len)
{
    GwFrameHeader header = {.payload_bytes = (uint32_t)len, .type = type};
    uint8_t wire[GW_FRAME_HEADER_BYTES];

    if (gw_frame_is_ordered(type)) {
        header.sequence = ++peer->sequence;
    }
    gw_frame_encode_header(&header, wire);
    return raw_send(peer, wire, sizeof(wire)) && raw_send(peer, payload, len);
}

static bool
receive(RawPeer *peer, uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t n = gnutls_record_recv(peer->session, data, len);

        if (n < 0 && !gnutls_error_is_fatal((int)n)) {
            continue;
        }
        if (n <= 0) {
            note_alert(peer, n);
            return false;
        }
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* The next frame of any type; the payload, transfer full, or NULL. */
static GByteArray *
receive_frame(RawPeer *peer, GwFrameType *type)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    uint8_t wire[GW_FRAME_HEADER_BYTES];
    GwFrameHeader header;

    if (!receive(peer, wire, sizeof(wire)) || !gw_frame_decode_header(wire, &header, NULL)) {
        return NULL;
    }
    g_byte_array_set_size(payload, header.payload_bytes);
    *type = header.type;
    return receive(peer, payload->data, payload->len) ? g_steal_pointer(&payload) : NULL;
}

GByteArray *
raw_expect(RawPeer *peer, GwFrameType type)
{
    for (;;) {
        GwFrameType received;
        g_autoptr(GByteArray) payload = receive_frame(peer, &received);

        if (!payload || received == type) {
            return g_steal_pointer(&payload);
        }
    }
}

GByteArray *
raw_expect_either(RawPeer *peer, GwFrameType refusal, GwFrameType other, GwHello *hello)
{
    for (;;) {
        GwFrameType received;
        g_autoptr(GByteArray) payload = receive_frame(peer, &received);

        if (!payload || received == other) {
            return NULL;
        }
        if (received == refusal) {
            return g_steal_pointer(&payload);
        }
        if (received == GW_FRAME_HELLO) {
            g_assert_true(gw_hello_decode(payload->data, payload->len, hello, NULL));
        }
    }
}

bool
raw_greet(RawPeer *peer)
{
    GwHello hello = {.version = GW_LANE_VERSION,
                     .oldest_version = GW_LANE_OLDEST_VERSION,
                     .session_id = {1, 2, 3},
                     .instance = {7},
                     .attempt = 1};

    return raw_greet_with(peer, &hello, &peer->answer);
}

bool
raw_greet_with(RawPeer *peer, const GwHello *hello, GwHello *answer)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_hello_encode(hello, payload);
    if (!raw_send_frame(peer, GW_FRAME_HELLO, payload->data, payload->len)) {
        return false;
    }
    g_autoptr(GByteArray) bytes = raw_expect(peer, GW_FRAME_HELLO);

    return bytes && gw_hello_decode(bytes->data, bytes->len, answer, NULL);
}
