// SPDX-License-Identifier: Apache-2.0
/* The fleet's identities: every step from a CA to a host that others trust, and what is refused. */
#include "base/fd.h"
#include "fleet/identity.h"
#include "fleet/x509.h"
#include "lane/lane.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct Fixture {
    char *root;
    char *ca;   /* folder of the CA's host, "alpha" */
    char *host; /* folder of the one that joins, "beta" */
} Fixture;

static void
setup(Fixture *fixture, const void *data)
{
    fixture->root = g_dir_make_tmp("godwit-identity-XXXXXX", NULL);
    g_assert_nonnull(fixture->root);
    fixture->ca = g_build_filename(fixture->root, "alpha", NULL);
    fixture->host = g_build_filename(fixture->root, "beta", NULL);
}

static void
remove_dir(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    g_rmdir(path);
}

static void
teardown(Fixture *fixture, const void *data)
{
    remove_dir(fixture->ca);
    remove_dir(fixture->host);
    g_assert_cmpint(g_rmdir(fixture->root), ==, 0);
    g_free(fixture->root);
    g_free(fixture->ca);
    g_free(fixture->host);
}

static void
init_ca(Fixture *fixture)
{
    g_autoptr(GError) error = NULL;
    bool ok = gw_identity_init_ca(fixture->ca, "alpha", &error);

    g_assert_no_error(error);
    g_assert_true(ok);
}

static char *
request(const char *dir, const char *name)
{
    g_autoptr(GError) error = NULL;
    char *pem = gw_identity_request(dir, name, &error);

    g_assert_no_error(error);
    g_assert_nonnull(pem);
    return pem;
}

static char *
sign(Fixture *fixture, const char *pem)
{
    g_autoptr(GError) error = NULL;
    char *answer = gw_identity_sign(fixture->ca, pem, 0, &error);

    g_assert_no_error(error);
    g_assert_nonnull(answer);
    return answer;
}

static void
install(Fixture *fixture, const char *answer)
{
    g_autoptr(GError) error = NULL;
    bool ok = gw_identity_install(fixture->host, "beta", answer, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
}

static void
assert_refused(bool ok, GError **error, GwErrorCode code, const char *part)
{
    g_assert_false(ok);
    g_assert_error(*error, GW_ERROR, (int)code);
    if (!strstr((*error)->message, part)) {
        g_error("'%s' is not in: %s", part, (*error)->message);
    }
    g_clear_error(error);
}

static void
assert_state(const char *dir, const char *state, const char *name)
{
    g_autoptr(json_t) status = gw_identity_status(dir);

    g_assert_cmpstr(gw_json_str(status, "state", NULL), ==, state);
    g_assert_cmpstr(gw_json_str(status, "name", NULL), ==, name);
}

static char *
file_text(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    return gw_file_read(path, GW_IDENTITY_MAX_PEM_BYTES, NULL, NULL);
}

static void
put_file(const char *dir, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    g_assert_true(gw_file_write(path, text, strlen(text), 0600, NULL));
}

static void
drop_file(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    g_assert_cmpint(g_unlink(path), ==, 0);
}

static void
assert_files_are_ours_alone(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    struct stat st;
    const char *name;

    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0700);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_assert_cmpint(stat(file, &st), ==, 0);
        g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    }
}

static void
assert_loads(const char *dir, const char *name)
{
    g_autofree char *ca = g_build_filename(dir, "ca.crt", NULL);
    g_autofree char *cert = g_build_filename(dir, "host.crt", NULL);
    g_autofree char *key = g_build_filename(dir, "host.key", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GwLaneCredentials) credentials = gw_lane_credentials_load(ca, cert, key, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(gw_lane_credentials_name(credentials), ==, name);
}

/* --- the whole way ---------------------------------------------------------------------------- */

static void
test_whole_way(Fixture *fixture, const void *data)
{
    assert_state(fixture->ca, "none", NULL);
    init_ca(fixture);
    assert_state(fixture->ca, "ready", "alpha");
    assert_loads(fixture->ca, "alpha");

    g_autofree char *pem = request(fixture->host, "beta");
    assert_state(fixture->host, "pending", NULL);
    g_autofree char *answer = sign(fixture, pem);
    g_assert_null(strstr(answer, "PRIVATE KEY"));
    install(fixture, answer);
    assert_state(fixture->host, "ready", "beta");
    assert_loads(fixture->host, "beta");
    assert_files_are_ours_alone(fixture->ca);
    assert_files_are_ours_alone(fixture->host);

    g_autofree char *pending = file_text(fixture->host, "pending.key");
    g_assert_null(pending);
    g_autoptr(json_t) of_ca = gw_identity_status(fixture->ca);
    g_autoptr(json_t) of_host = gw_identity_status(fixture->host);
    g_assert_true(gw_json_bool(of_ca, "is_ca", false));
    g_assert_false(gw_json_bool(of_host, "is_ca", true));
    g_assert_cmpstr(gw_json_str(of_ca, "ca_fingerprint", NULL), ==,
                    gw_json_str(of_host, "ca_fingerprint", ""));
}

/* The extensions are what keeps a host from signing others: read them back. */
static void
test_certificate_content(Fixture *fixture, const void *data)
{
    char purposes[2][64];
    unsigned is_ca = 1;
    unsigned usage = 0;
    int path_length = 7;
    char alt_name[64];
    size_t size = sizeof alt_name;

    init_ca(fixture);
    g_autofree char *ca_pem = file_text(fixture->ca, "ca.crt");
    g_autofree char *cert_pem = file_text(fixture->ca, "host.crt");
    g_autoptr(GwX509Cert) ca = gw_x509_cert_parse(ca_pem, "CA", NULL);
    g_autoptr(GwX509Cert) cert = gw_x509_cert_parse(cert_pem, "host", NULL);

    g_assert_cmpint(gnutls_x509_crt_get_basic_constraints(ca, NULL, &is_ca, &path_length), ==, 1);
    g_assert_cmpuint(is_ca, ==, 1);
    g_assert_cmpint(path_length, ==, 0);
    g_assert_cmpint(gnutls_x509_crt_get_key_usage(ca, &usage, NULL), ==, 0);
    g_assert_cmpuint(usage, ==, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);

    gnutls_x509_crt_get_basic_constraints(cert, NULL, &is_ca, &path_length);
    g_assert_cmpuint(is_ca, ==, 0);
    g_assert_cmpint(gnutls_x509_crt_get_key_usage(cert, &usage, NULL), ==, 0);
    g_assert_cmpuint(usage, ==, GNUTLS_KEY_DIGITAL_SIGNATURE);
    for (unsigned i = 0; i < 2; i++) {
        size_t len = sizeof purposes[i];
        g_assert_cmpint(gnutls_x509_crt_get_key_purpose_oid(cert, i, purposes[i], &len, NULL), ==,
                        0);
    }
    g_assert_cmpstr(purposes[0], ==, GNUTLS_KP_TLS_WWW_SERVER);
    g_assert_cmpstr(purposes[1], ==, GNUTLS_KP_TLS_WWW_CLIENT);
    g_assert_cmpint(gnutls_x509_crt_get_subject_alt_name(cert, 0, alt_name, &size, NULL), ==,
                    GNUTLS_SAN_DNSNAME);
    g_assert_cmpstr(alt_name, ==, "alpha");
    int64_t left = gnutls_x509_crt_get_expiration_time(cert) - time(NULL);
    g_assert_cmpint(left, >, 729 * 86400);
    g_assert_cmpint(left, <=, 730 * 86400);
    g_assert_cmpint(gnutls_x509_crt_get_activation_time(cert), <=, time(NULL) - 3600);
}

static void
test_serials_differ(Fixture *fixture, const void *data)
{
    g_autofree char *pem = NULL;
    unsigned char serials[2][32];
    size_t sizes[2] = {sizeof serials[0], sizeof serials[1]};

    init_ca(fixture);
    pem = request(fixture->host, "beta");
    for (int i = 0; i < 2; i++) {
        g_autofree char *answer = sign(fixture, pem);
        g_autoptr(GwX509Cert) cert = gw_x509_cert_parse(answer, "answer", NULL);
        g_assert_cmpint(gnutls_x509_crt_get_serial(cert, serials[i], &sizes[i]), ==, 0);
        g_assert_cmpuint(sizes[i], ==, 16);
    }
    g_assert_cmpint(memcmp(serials[0], serials[1], 16), !=, 0);
}

static void
test_renewal_keeps_the_key(Fixture *fixture, const void *data)
{
    init_ca(fixture);
    g_autofree char *before = file_text(fixture->ca, "host.key");
    g_autofree char *old_cert = file_text(fixture->ca, "host.crt");
    /* The CA's own host renews itself: the same three steps. */
    g_autofree char *pem = request(fixture->ca, "alpha");
    g_autofree char *answer = sign(fixture, pem);
    g_autoptr(GError) error = NULL;
    g_assert_true(gw_identity_install(fixture->ca, "alpha", answer, &error));
    g_autofree char *after = file_text(fixture->ca, "host.key");
    g_autofree char *new_cert = file_text(fixture->ca, "host.crt");
    g_assert_cmpstr(before, ==, after);
    g_assert_cmpstr(old_cert, !=, new_cert);
    assert_state(fixture->ca, "ready", "alpha");
}

/* --- refusals --------------------------------------------------------------------------------- */

static void
test_init_twice(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;

    init_ca(fixture);
    assert_refused(gw_identity_init_ca(fixture->ca, "alpha", &error), &error, GW_ERROR_EXISTS,
                   "identity already");
    g_free(request(fixture->host, "beta"));
    assert_refused(gw_identity_init_ca(fixture->host, "beta", &error), &error, GW_ERROR_EXISTS,
                   "joining");
    assert_refused(gw_identity_init_ca(fixture->host, "Not A Name", &error), &error,
                   GW_ERROR_INVALID, "host name");
}

static void
test_sign_without_ca(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *pem = request(fixture->host, "beta");

    assert_refused(gw_identity_sign(fixture->ca, pem, 0, &error) != NULL, &error, GW_ERROR_STATE,
                   "not the fleet's CA");
}

static void
test_tampered_request(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwX509Key) key = gw_x509_key_new(NULL);
    gnutls_x509_crq_t crq;
    gnutls_datum_t out;

    init_ca(fixture);
    g_autofree char *pem = gw_x509_request_pem(key, "beta", NULL);
    /* Another name under the old signature: changed in the DER, not in the PEM's armour. */
    gnutls_datum_t in = {(unsigned char *)pem, (unsigned)strlen(pem)};
    g_assert_cmpint(gnutls_pem_base64_decode2("NEW CERTIFICATE REQUEST", &in, &out), ==, 0);
    unsigned char *name = memmem(out.data, out.size, "beta", 4);
    g_assert_nonnull(name);
    memcpy(name, "zeta", 4);
    gnutls_datum_t der = out;
    g_assert_cmpint(gnutls_pem_base64_encode2("NEW CERTIFICATE REQUEST", &der, &out), ==, 0);
    g_autofree char *bad = g_strndup((char *)out.data, out.size);
    gnutls_free(der.data);
    gnutls_free(out.data);
    assert_refused(gw_identity_sign(fixture->ca, bad, 0, &error) != NULL, &error, GW_ERROR_REFUSED,
                   "changed after it was made");

    /* Properly signed, but by a key of another kind. */
    gnutls_x509_privkey_t rsa;
    gnutls_x509_privkey_init(&rsa);
    g_assert_cmpint(gnutls_x509_privkey_generate(rsa, GNUTLS_PK_RSA, 2048, 0), ==, 0);
    gnutls_x509_crq_init(&crq);
    gnutls_x509_crq_set_version(crq, 1);
    gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, "beta", 4);
    gnutls_x509_crq_set_key(crq, rsa);
    gnutls_x509_crq_sign2(crq, rsa, GNUTLS_DIG_SHA256, 0);
    g_assert_cmpint(gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &out), ==, 0);
    g_autofree char *weak = g_strndup((char *)out.data, out.size);
    gnutls_free(out.data);
    gnutls_x509_crq_deinit(crq);
    gnutls_x509_privkey_deinit(rsa);
    assert_refused(gw_identity_sign(fixture->ca, weak, 0, &error) != NULL, &error, GW_ERROR_INVALID,
                   "P-256");
}

static void
test_bad_requests(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwX509Key) key = gw_x509_key_new(NULL);

    init_ca(fixture);
    g_autofree char *shouting = gw_x509_request_pem(key, "BETA", NULL);
    g_autofree char *slashed = gw_x509_request_pem(key, "../beta", NULL);
    g_autofree char *ours = gw_x509_request_pem(key, "alpha", NULL);
    g_autofree char *huge = g_strnfill(GW_IDENTITY_MAX_PEM_BYTES + 1, 'A');
    g_autofree char *fine = gw_x509_request_pem(key, "beta", NULL);
    const struct {
        const char *pem;
        unsigned days;
        GwErrorCode code;
        const char *part;
    } rows[] = {
        {"", 0, GW_ERROR_INVALID, "not a signing request"},
        {"-----BEGIN NEW CERTIFICATE REQUEST-----\nAAAA\n", 0, GW_ERROR_INVALID,
         "not a signing request"},
        {shouting, 0, GW_ERROR_INVALID, "host name"},
        {slashed, 0, GW_ERROR_INVALID, "host name"},
        {ours, 0, GW_ERROR_REFUSED, "this very host"},
        {huge, 0, GW_ERROR_TOO_LARGE, "larger"},
        {fine, 100000, GW_ERROR_INVALID, "days"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        char *answer = gw_identity_sign(fixture->ca, rows[i].pem, rows[i].days, &error);
        assert_refused(answer != NULL, &error, rows[i].code, rows[i].part);
    }
}

/* What a request asks for beyond name and key is not granted. */
static void
test_request_cannot_ask_for_more(Fixture *fixture, const void *data)
{
    g_autoptr(GwX509Key) key = gw_x509_key_new(NULL);
    gnutls_x509_crq_t crq;
    gnutls_datum_t out;
    unsigned is_ca = 0;

    init_ca(fixture);
    gnutls_x509_crq_init(&crq);
    gnutls_x509_crq_set_version(crq, 1);
    gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, "beta", 4);
    gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_ORGANIZATION_NAME, 0, "admins", 6);
    gnutls_x509_crq_set_basic_constraints(crq, 1, 3);
    gnutls_x509_crq_set_key(crq, key);
    gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_SHA256, 0);
    g_assert_cmpint(gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &out), ==, 0);
    g_autofree char *pem = g_strndup((char *)out.data, out.size);
    gnutls_free(out.data);
    gnutls_x509_crq_deinit(crq);

    g_autofree char *answer = sign(fixture, pem);
    g_autoptr(GwX509Cert) cert = gw_x509_cert_parse(answer, "answer", NULL);
    gnutls_x509_crt_get_basic_constraints(cert, NULL, &is_ca, NULL);
    g_assert_cmpuint(is_ca, ==, 0);
    char dn[256];
    size_t size = sizeof dn;
    g_assert_cmpint(gnutls_x509_crt_get_dn(cert, dn, &size), ==, 0);
    g_assert_cmpstr(dn, ==, "CN=beta");
}

static void
test_install_refusals(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwX509Key) other_key = gw_x509_key_new(NULL);

    init_ca(fixture);
    assert_refused(gw_identity_install(fixture->host, "beta", "x", &error), &error, GW_ERROR_STATE,
                   "waits for no certificate");
    g_autofree char *pem = request(fixture->host, "beta");
    g_autofree char *answer = sign(fixture, pem);
    g_autofree char *other_pem = gw_x509_request_pem(other_key, "beta", NULL);
    g_autofree char *other_answer = sign(fixture, other_pem);
    g_autofree char *half = g_strndup(answer, (size_t)(strstr(answer + 10, "-----BEGIN") - answer));
    /* Our certificate beside a CA that did not sign it. */
    g_autoptr(GwX509Key) foreign_key = gw_x509_key_new(NULL);
    g_autoptr(GwX509Cert) foreign = gw_x509_ca_new(foreign_key, NULL);
    g_autofree char *foreign_pem = gw_x509_cert_pem(foreign, NULL);
    g_autofree char *mixed = g_strconcat(half, foreign_pem, NULL);

    assert_refused(gw_identity_install(fixture->host, "beta", other_answer, &error), &error,
                   GW_ERROR_INVALID, "pending request");
    assert_refused(gw_identity_install(fixture->host, "beta", half, &error), &error,
                   GW_ERROR_INVALID, "two certificates");
    assert_refused(gw_identity_install(fixture->host, "beta", mixed, &error), &error,
                   GW_ERROR_REFUSED, "not valid here");
    assert_refused(gw_identity_install(fixture->host, "gamma", answer, &error), &error,
                   GW_ERROR_REFUSED, "for host 'beta'");
    assert_state(fixture->host, "pending", NULL);
    install(fixture, answer);
}

/* A certificate of ours whose time is over, made as gw_x509_sign() never would. */
static char *
expired_answer(Fixture *fixture, const char *pem)
{
    g_autofree char *answer = sign(fixture, pem);
    g_autofree char *key_pem = file_text(fixture->ca, "ca.key");
    g_autofree char *ca_pem = file_text(fixture->ca, "ca.crt");
    g_autoptr(GwX509Cert) cert = gw_x509_cert_parse(answer, "answer", NULL);
    g_autoptr(GwX509Cert) ca = gw_x509_cert_parse(ca_pem, "CA", NULL);
    g_autoptr(GwX509Key) key = gw_x509_key_parse(key_pem, "CA", NULL);

    gnutls_x509_crt_set_expiration_time(cert, time(NULL) - 60);
    g_assert_cmpint(gnutls_x509_crt_sign2(cert, ca, key, GNUTLS_DIG_SHA256, 0), ==, 0);
    g_autofree char *text = gw_x509_cert_pem(cert, NULL);
    return g_strconcat(text, ca_pem, NULL);
}

static void
test_expired(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;

    init_ca(fixture);
    g_autofree char *pem = request(fixture->host, "beta");
    g_autofree char *late = expired_answer(fixture, pem);
    assert_refused(gw_identity_install(fixture->host, "beta", late, &error), &error,
                   GW_ERROR_REFUSED, "expired");

    g_autofree char *answer = sign(fixture, pem);
    install(fixture, answer);
    put_file(fixture->host, "host.crt", late);
    g_autoptr(json_t) status = gw_identity_status(fixture->host);
    g_assert_cmpstr(gw_json_str(status, "state", NULL), ==, "none");
    g_assert_nonnull(strstr(gw_json_str(status, "problem", ""), "expired"));
}

static void
test_no_change_of_fleet(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;

    init_ca(fixture);
    g_autofree char *pem = request(fixture->host, "beta");
    g_autofree char *answer = sign(fixture, pem);
    install(fixture, answer);
    remove_dir(fixture->ca);
    init_ca(fixture);
    g_autofree char *again = request(fixture->host, "beta");
    g_autofree char *foreign = sign(fixture, again);
    assert_refused(gw_identity_install(fixture->host, "beta", foreign, &error), &error,
                   GW_ERROR_EXISTS, "change fleets");
    assert_state(fixture->host, "ready", "beta");
}

/* --- crashes ---------------------------------------------------------------------------------- */

static void
test_crash_in_init(Fixture *fixture, const void *data)
{
    static const char *const order[] = {"host.crt", "host.key", "ca.crt", "ca.key"};

    init_ca(fixture);
    g_autofree char *ca_cert = file_text(fixture->ca, "ca.crt");
    for (size_t lost = 1; lost <= G_N_ELEMENTS(order); lost++) {
        for (size_t i = 0; i < lost; i++) {
            drop_file(fixture->ca, order[i]);
        }
        g_autoptr(json_t) status = gw_identity_status(fixture->ca);
        g_assert_cmpstr(gw_json_str(status, "state", NULL), ==, "none");
        init_ca(fixture);
        assert_state(fixture->ca, "ready", "alpha");
        if (lost <= 2) {
            g_autofree char *kept = file_text(fixture->ca, "ca.crt");
            g_assert_cmpstr(kept, ==, ca_cert);
        }
    }
}

static void
test_crash_in_request(Fixture *fixture, const void *data)
{
    g_autofree char *first = request(fixture->host, "beta");
    g_autofree char *same = request(fixture->host, "beta");
    g_assert_cmpstr(first, ==, same);

    g_autofree char *key = file_text(fixture->host, "pending.key");
    drop_file(fixture->host, "pending.csr");
    g_autofree char *again = request(fixture->host, "beta");
    g_autofree char *kept = file_text(fixture->host, "pending.key");
    g_assert_cmpstr(key, ==, kept);

    g_autofree char *renamed = request(fixture->host, "gamma");
    g_assert_cmpstr(renamed, !=, again);
    put_file(fixture->host, "pending.csr", "half a file");
    g_autofree char *healed = request(fixture->host, "gamma");
    g_assert_nonnull(strstr(healed, "CERTIFICATE REQUEST"));
}

static void
test_crash_in_install(Fixture *fixture, const void *data)
{
    /* What is there when the crash comes, in the order of writing. */
    static const char *const order[] = {"host.key", "ca.crt", "host.crt"};

    init_ca(fixture);
    g_autofree char *pem = request(fixture->host, "beta");
    g_autofree char *answer = sign(fixture, pem);
    g_autofree char *key = file_text(fixture->host, "pending.key");
    g_autofree char *csr = file_text(fixture->host, "pending.csr");
    for (size_t kept = 0; kept <= G_N_ELEMENTS(order); kept++) {
        install(fixture, answer);
        for (size_t i = kept; i < G_N_ELEMENTS(order); i++) {
            drop_file(fixture->host, order[i]);
        }
        put_file(fixture->host, "pending.key", key);
        put_file(fixture->host, "pending.csr", csr);
        bool whole = kept == G_N_ELEMENTS(order);
        assert_state(fixture->host, whole ? "ready" : "pending", whole ? "beta" : NULL);
    }
    drop_file(fixture->host, "pending.csr");
    install(fixture, answer);
    assert_state(fixture->host, "ready", "beta");
}

#define ADD(name, function) g_test_add("/identity/" name, Fixture, NULL, setup, function, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("whole-way", test_whole_way);
    ADD("certificate-content", test_certificate_content);
    ADD("serials-differ", test_serials_differ);
    ADD("renewal-keeps-the-key", test_renewal_keeps_the_key);
    ADD("init-twice", test_init_twice);
    ADD("sign-without-ca", test_sign_without_ca);
    ADD("tampered-request", test_tampered_request);
    ADD("bad-requests", test_bad_requests);
    ADD("request-cannot-ask-for-more", test_request_cannot_ask_for_more);
    ADD("install-refusals", test_install_refusals);
    ADD("expired", test_expired);
    ADD("no-change-of-fleet", test_no_change_of_fleet);
    ADD("crash-in-init", test_crash_in_init);
    ADD("crash-in-request", test_crash_in_request);
    ADD("crash-in-install", test_crash_in_install);
    return g_test_run();
}
