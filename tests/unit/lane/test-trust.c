// SPDX-License-Identifier: Apache-2.0
/*
 * Who may talk to whom, and whether both sides say clearly why not. The server only logs its side,
 * so stderr is read back.
 */
#include "harness.h"
#include "rawpeer.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <gnutls/x509.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT_MS 30000
#define DAY_S      86400

/* --- the server's log
 * ------------------------------------------------------------------------------ */

static int log_fd;

static char *
read_log(void)
{
    char text[65536];
    ssize_t len = pread(log_fd, text, sizeof(text) - 1, 0);

    text[MAX(len, 0)] = '\0';
    return g_strdup(text);
}

static bool
log_says(const char *words)
{
    g_autofree char *text = read_log();

    return strstr(text, words) != NULL;
}

static unsigned
count_in_log(const char *words)
{
    g_autofree char *text = read_log();
    unsigned n = 0;

    for (const char *place = text; (place = strstr(place, words)); place++) {
        n++;
    }
    return n;
}

static void
expect_log(const char *words)
{
    g_autofree char *text = read_log();

    g_test_message("log: %s", text);
    g_assert_nonnull(strstr(text, words));
    g_assert_cmpint(ftruncate(log_fd, 0), ==, 0);
}

static void
expect_closed(Rig *rig, GwErrorCode code, const char *words)
{
    WAIT_FOR(rig->client.closed || rig->client.ready);
    g_assert_nonnull(rig->client.closed);
    g_test_message("client: %s", rig->client.closed->message);
    g_assert_error(rig->client.closed, GW_ERROR, (int)code);
    g_assert_nonnull(strstr(rig->client.closed->message, words));
    g_assert_null(rig->accepted.lane);
}

/* --- the client's certificate
 * ----------------------------------------------------------------------- */

typedef struct BadClient {
    const char *what;
    TestCert cert;
    bool foreign; /* signed by another CA */
    const char *words;
} BadClient;

static void
test_bad_clients(void)
{
    static const BadClient clients[] = {
        {"unknown CA",
         {.dns_name = "beta"},
         true,
         "certificate of host 'beta' is not signed by this fleet's CA"},
        {"expired",
         {.dns_name = "beta", .begins_s = -2 * DAY_S, .ends_s = -DAY_S},
         false,
         "certificate of host 'beta' expired on 20"},
        {"not yet valid",
         {.dns_name = "beta", .begins_s = DAY_S, .ends_s = 2 * DAY_S},
         false,
         "certificate of host 'beta' is not valid before 20"},
        {"no host",
         {.dns_name = "beta", .purpose = GNUTLS_KP_TLS_WWW_SERVER},
         false,
         "certificate of host 'beta' is not a host's"},
    };
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    for (size_t i = 0; i < G_N_ELEMENTS(clients); i++) {
        g_test_message("%s", clients[i].what);
        test_cert_write(clients[i].foreign ? rig.other_ca : rig.ca, rig.dir, "bad",
                        &clients[i].cert);
        rig_connect(&rig, "ca", "bad", NULL);
        expect_closed(&rig, GW_ERROR_REFUSED, clients[i].words);
        g_assert_nonnull(strstr(rig.client.closed->message, "host 'alpha' at 127.0.0.1"));
        g_assert_null(rig.asked);
    }
    rig_clear(&rig);
}

typedef struct RawClient {
    uint16_t port;
    const char *dir;
    const char *certificate;
    bool opened;
    gnutls_alert_description_t alert;
    GByteArray *refusal;
} RawClient;

/* Says hello at once and takes down how it is refused. */
static void *
run_raw_client(void *data)
{
    RawClient *client = data;
    RawPeer peer;

    client->opened = raw_open(&peer, raw_connect_tcp(client->port), false, client->dir, "ca",
                              client->certificate);
    if (client->opened) {
        client->refusal = raw_expect(&peer, GW_FRAME_REFUSE);
        client->alert = peer.alert;
    }
    raw_close(&peer);
    return NULL;
}

static RawClient
raw_client(Rig *rig, const char *certificate, const char *logged)
{
    RawClient client = {
        .port = gw_lane_server_port(rig->server),
        .dir = rig->dir,
        .certificate = certificate,
    };
    GThread *thread = g_thread_new("raw", run_raw_client, &client);

    WAIT_FOR(log_says(logged));
    g_thread_join(thread);
    return client;
}

/* Names that only a hostile peer would put into a certificate never reach a log or welcome(). */
static void
test_nameless_clients(void)
{
    static const TestCert certs[] = {
        {.common_name = NULL},
        {.common_name = "beta\n2026 ERROR all is lost"},
        {.common_name = "Beta"},
        {.common_name = "beta", .dns_name = "*.example"},
    };
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    for (size_t i = 0; i < G_N_ELEMENTS(certs); i++) {
        test_cert_write(rig.ca, rig.dir, "bad", &certs[i]);
        RawClient client = raw_client(&rig, "bad", "names no host");

        g_assert_nonnull(client.refusal);
        g_autoptr(GError) refusal = gw_refuse_decode(client.refusal->data, client.refusal->len);
        g_assert_error(refusal, GW_ERROR, GW_ERROR_REFUSED);
        g_assert_false(log_says("all is lost"));
        expect_log("names no host");
        g_byte_array_unref(client.refusal);
    }
    g_assert_null(rig.asked);
    rig_clear(&rig);
}

static void
test_no_certificate(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    RawClient client = raw_client(&rig, NULL, "showed no certificate");
    expect_log("the peer at 127.0.0.1 showed no certificate");
    g_assert_null(client.refusal);
    if (client.opened) {
        g_assert_cmpint(client.alert, ==, GNUTLS_A_CERTIFICATE_REQUIRED);
    }
    rig_clear(&rig);
}

static void
test_both_logs_name_the_reason(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    test_cert_write(rig.ca, rig.dir, "old",
                    &(TestCert){.dns_name = "beta", .begins_s = -2 * DAY_S, .ends_s = -60});
    rig_connect(&rig, "ca", "old", NULL);
    expect_closed(&rig, GW_ERROR_REFUSED, "certificate of host 'beta' expired on 20");
    WAIT_FOR(log_says("expired"));
    expect_log("session from 127.0.0.1: certificate of host 'beta' expired on 20");
    rig_clear(&rig);
}

static void
test_unwelcome(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    rig.refuse = true;
    rig_connect(&rig, "ca", "beta", NULL);
    expect_closed(&rig, GW_ERROR_REFUSED,
                  "refused: host 'beta' is not known here: run 'godwit host add beta ADDRESS'");
    g_assert_cmpstr(rig.asked, ==, "beta");
    WAIT_FOR(log_says("godwit host add beta"));
    expect_log("host 'beta' is not known here");
    rig_clear(&rig);
}

/* --- the server's certificate
 * ------------------------------------------------------------------------ */

static void
expect_server_refused(Rig *rig, const char *client_words, const char *server_words)
{
    rig_connect(rig, "ca", "beta", "alpha");
    expect_closed(rig, GW_ERROR_REFUSED, client_words);
    WAIT_FOR(log_says("refused our certificate"));
    expect_log(server_words);
    g_assert_null(rig->asked);
}

static void
test_bad_servers(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    test_cert_write(rig.other_ca, rig.dir, "foreign", &(TestCert){.dns_name = "alpha"});
    rig_serve(&rig, "foreign");
    expect_server_refused(&rig, "certificate of host 'alpha' is not signed by this fleet's CA",
                          "the peer at 127.0.0.1 refused our certificate: CA is unknown");

    test_cert_write(rig.ca, rig.dir, "old",
                    &(TestCert){.dns_name = "alpha", .begins_s = -2 * DAY_S, .ends_s = -DAY_S});
    rig_serve(&rig, "old");
    expect_server_refused(&rig, "certificate of host 'alpha' expired on 20",
                          "refused our certificate: Certificate is expired");

    test_cert_write(rig.ca, rig.dir, "gamma", &(TestCert){.common_name = "gamma"});
    rig_serve(&rig, "gamma");
    expect_server_refused(&rig,
                          "host 'alpha' at 127.0.0.1 proves to be host 'gamma', not 'alpha': "
                          "check the address of host 'alpha'",
                          "refused our certificate: it expected a host of another name");

    test_cert_write(rig.ca, rig.dir, "user",
                    &(TestCert){.dns_name = "alpha", .purpose = GNUTLS_KP_TLS_WWW_CLIENT});
    rig_serve(&rig, "user");
    expect_server_refused(&rig, "certificate of host 'alpha' is not a host's",
                          "refused our certificate");
    rig_clear(&rig);
}

/* A name in the common name alone is enough; a DNS name goes before it. */
static void
test_names(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    test_cert_write(rig.ca, rig.dir, "plain", &(TestCert){.common_name = "beta-2.example"});
    rig_connect(&rig, "ca", "plain", NULL);
    WAIT_FOR(rig.client.ready && rig.accepted.lane);
    g_assert_cmpstr(gw_lane_peer_name(rig.accepted.lane), ==, "beta-2.example");

    side_reset(&rig.accepted);
    test_cert_write(rig.ca, rig.dir, "both",
                    &(TestCert){.common_name = "gamma", .dns_name = "beta"});
    rig_connect(&rig, "ca", "both", NULL);
    WAIT_FOR(rig.client.ready && rig.accepted.lane);
    g_assert_cmpstr(gw_lane_peer_name(rig.accepted.lane), ==, "beta");
    rig_clear(&rig);
}

/* A renewed certificate counts from the next session on; the old one goes on. */
static void
test_renewal(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    rig_establish(&rig);
    Side old = rig.client;
    rig.client = (Side){0};
    test_cert_write(rig.ca, rig.dir, "new", &(TestCert){.dns_name = "omega"});
    g_autoptr(GwLaneCredentials) renewed = test_credentials(rig.dir, "ca", "new");
    gw_lane_server_set_credentials(rig.server, renewed);
    g_assert_cmpstr(gw_lane_credentials_name(renewed), ==, "omega");
    GwLane *accepted = g_steal_pointer(&rig.accepted.lane);

    rig_connect(&rig, "ca", "beta", "omega");
    WAIT_FOR(rig.client.ready && rig.accepted.lane);
    gw_lane_free(accepted);
    gw_lane_set_handlers(old.lane, &(GwLaneHandlers){0}, NULL);
    side_reset(&old);
    g_string_free(old.log, TRUE);
    rig_clear(&rig);
}

/* --- half-open peers
 * ------------------------------------------------------------------------------------ */

/* Two that connect and say nothing take up the places only until the handshake's time is over. */
static void
test_half_open_peers(void)
{
    Rig rig;
    int silent[2];

    rig_init(&rig, TIMEOUT_MS);
    rig.max_sessions = 2;
    rig_serve(&rig, "alpha");
    for (unsigned i = 0; i < 2; i++) {
        silent[i] = raw_connect_tcp(gw_lane_server_port(rig.server));
    }
    WAIT_FOR(log_says("did not finish the TLS handshake in time"));
    WAIT_FOR(count_in_log("in time") == 2);
    for (unsigned i = 0; i < 2; i++) {
        char byte;

        g_assert_cmpint(read(silent[i], &byte, 1), <=, 0);
        close(silent[i]);
    }
    expect_log("the peer at 127.0.0.1 did not finish the TLS handshake in time");
    rig_establish(&rig);
    rig_clear(&rig);
}

static void
test_not_tls(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    int fd = raw_connect_tcp(gw_lane_server_port(rig.server));
    static const char request[] = "GET / HTTP/1.1\r\nHost: alpha\r\n\r\n";
    g_assert_cmpint(write(fd, request, strlen(request)), ==, (ssize_t)strlen(request));
    WAIT_FOR(log_says("TLS with the peer at 127.0.0.1 failed"));
    expect_log("in the handshake");
    close(fd);
    rig_clear(&rig);
}

/* --- loading
 * ---------------------------------------------------------------------------------------------- */

static void
expect_load_error(Rig *rig, const char *ca, const char *cert, const char *key, const char *words)
{
    g_autofree char *ca_path = g_build_filename(rig->dir, ca, NULL);
    g_autofree char *cert_path = g_build_filename(rig->dir, cert, NULL);
    g_autofree char *key_path = g_build_filename(rig->dir, key, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_lane_credentials_load(ca_path, cert_path, key_path, &error));
    g_assert_nonnull(error);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, words));
}

static void
test_loading(void)
{
    Rig rig;

    rig_init(&rig, TIMEOUT_MS);
    g_autofree char *open_key = g_build_filename(rig.dir, "beta.key", NULL);
    g_assert_cmpint(chmod(open_key, 0644), ==, 0);
    expect_load_error(&rig, "ca.crt", "beta.crt", "beta.key", "run 'chmod 0600");
    g_assert_cmpint(chmod(open_key, 0600), ==, 0);
    expect_load_error(&rig, "ca.crt", "beta.crt", "none.key", "none.key");
    expect_load_error(&rig, "none.crt", "beta.crt", "beta.key", "none.crt");
    expect_load_error(&rig, "beta.key", "beta.crt", "beta.key", "no CA certificate");
    expect_load_error(&rig, "ca.crt", "beta.key", "beta.key", "not a certificate");
    expect_load_error(&rig, "ca.crt", "beta.crt", "alpha.key", "cannot be used together");
    test_cert_write(rig.ca, rig.dir, "bad", &(TestCert){.common_name = "No Host"});
    expect_load_error(&rig, "ca.crt", "bad.crt", "bad.key", "names no host");
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_autofree char *log_path = NULL;

    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    log_fd = g_file_open_tmp("lane-log-XXXXXX", &log_path, NULL);
    g_assert_cmpint(log_fd, >=, 0);
    g_unlink(log_path);
    fcntl(log_fd, F_SETFL, O_APPEND);
    dup2(log_fd, STDERR_FILENO);
    g_test_add_func("/trust/bad-clients", test_bad_clients);
    g_test_add_func("/trust/nameless-clients", test_nameless_clients);
    g_test_add_func("/trust/no-certificate", test_no_certificate);
    g_test_add_func("/trust/both-logs-name-the-reason", test_both_logs_name_the_reason);
    g_test_add_func("/trust/unwelcome", test_unwelcome);
    g_test_add_func("/trust/bad-servers", test_bad_servers);
    g_test_add_func("/trust/names", test_names);
    g_test_add_func("/trust/renewal", test_renewal);
    g_test_add_func("/trust/half-open-peers", test_half_open_peers);
    g_test_add_func("/trust/not-tls", test_not_tls);
    g_test_add_func("/trust/loading", test_loading);
    return g_test_run();
}
