// SPDX-License-Identifier: Apache-2.0
/*
 * Loading our certificate and the fleet's CA, and judging the certificates of peers.
 *
 * Owns GnuTLS credentials, which are read-only once loaded and so may be used by all sessions'
 * threads at once; the reference count is atomic. Loading reads three small files (main context).
 * Certificates of peers are parsed by GnuTLS alone, and a name is only put into a message when it
 * is a valid host name. Fails with GW_ERROR_INVALID or GW_ERROR_IO on loading, GW_ERROR_REFUSED
 * on judging.
 */
#include "lane/credentials.h"

#include "base/fd.h"
#include "base/units.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_PEM_BYTES (256u * 1024u)

struct GwLaneCredentials {
    gatomicrefcount refs;
    gnutls_certificate_credentials_t gnutls;
    char *name;
};

gnutls_certificate_credentials_t
gw_lane_credentials_gnutls(const GwLaneCredentials *credentials)
{
    return credentials->gnutls;
}

const char *
gw_lane_credentials_name(const GwLaneCredentials *credentials)
{
    return credentials->name;
}

GwLaneCredentials *
gw_lane_credentials_ref(GwLaneCredentials *credentials)
{
    g_atomic_ref_count_inc(&credentials->refs);
    return credentials;
}

void
gw_lane_credentials_unref(GwLaneCredentials *credentials)
{
    if (!credentials || !g_atomic_ref_count_dec(&credentials->refs)) {
        return;
    }
    if (credentials->gnutls) {
        gnutls_certificate_free_credentials(credentials->gnutls);
    }
    g_free(credentials->name);
    g_free(credentials);
}

static char *
valid_name(const char *text, size_t len)
{
    if (memchr(text, '\0', len) || !gw_check_name("host name", text, NULL)) {
        return NULL;
    }
    return g_strdup(text);
}

/* NULL if the certificate has no valid name. Transfer full. */
static char *
read_name(gnutls_x509_crt_t certificate)
{
    char text[256];

    for (unsigned i = 0;; i++) {
        size_t len = sizeof(text) - 1;
        int type = gnutls_x509_crt_get_subject_alt_name(certificate, i, text, &len, NULL);

        if (type == GNUTLS_SAN_DNSNAME) {
            text[len] = '\0';
            return valid_name(text, len);
        }
        if (type < 0 && type != GNUTLS_E_SHORT_MEMORY_BUFFER) {
            break;
        }
    }
    size_t len = sizeof(text);
    int result =
        gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, text, &len);

    return result == 0 ? valid_name(text, len) : NULL;
}

static bool
check_key_mode(const char *key_path, GError **error)
{
    struct stat status;

    if (stat(key_path, &status) < 0) {
        gw_set_error_errno(error, errno, "cannot read the private key %s", key_path);
        return false;
    }
    if (status.st_mode & (S_IRWXO | S_IWGRP)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "the private key %s is open to others (mode %04o): run 'chmod 0600 %s'",
                    key_path, (unsigned)(status.st_mode & 07777), key_path);
        return false;
    }
    return true;
}

static bool
read_pem(const char *path, gnutls_datum_t *out, GError **error)
{
    size_t len;
    char *text = gw_file_read(path, MAX_PEM_BYTES, &len, error);

    if (!text) {
        return false;
    }
    *out = (gnutls_datum_t){.data = (unsigned char *)text, .size = (unsigned)len};
    return true;
}

static char *
name_of_pem(const gnutls_datum_t *pem, const char *path, GError **error)
{
    gnutls_x509_crt_t certificate;

    if (gnutls_x509_crt_init(&certificate) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "out of memory for a certificate");
        return NULL;
    }
    int result = gnutls_x509_crt_import(certificate, pem, GNUTLS_X509_FMT_PEM);
    char *name = result < 0 ? NULL : read_name(certificate);

    gnutls_x509_crt_deinit(certificate);
    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s is not a certificate in PEM form: %s",
                    path, gnutls_strerror(result));
    } else if (!name) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "the certificate %s names no host: it needs a DNS name or common name that is "
                    "this host's name (a-z, 0-9, '-', '_', '.')",
                    path);
    }
    return name;
}

static bool
load_into(GwLaneCredentials *credentials, const char *const paths[3], const gnutls_datum_t pems[3],
          GError **error)
{
    if (gnutls_certificate_allocate_credentials(&credentials->gnutls) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "out of memory for TLS credentials");
        return false;
    }
    int result =
        gnutls_certificate_set_x509_trust_mem(credentials->gnutls, &pems[0], GNUTLS_X509_FMT_PEM);

    if (result <= 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s has no CA certificate in PEM form: %s",
                    paths[0], result < 0 ? gnutls_strerror(result) : "none found");
        return false;
    }
    credentials->name = name_of_pem(&pems[1], paths[1], error);
    if (!credentials->name) {
        return false;
    }
    result = gnutls_certificate_set_x509_key_mem2(credentials->gnutls, &pems[1], &pems[2],
                                                  GNUTLS_X509_FMT_PEM, NULL, 0);
    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "certificate %s and private key %s cannot be used together: %s", paths[1],
                    paths[2], gnutls_strerror(result));
        return false;
    }
    return true;
}

GwLaneCredentials *
gw_lane_credentials_load(const char *ca_path, const char *cert_path, const char *key_path,
                         GError **error)
{
    const char *const paths[3] = {ca_path, cert_path, key_path};
    gnutls_datum_t pems[3] = {0};
    g_autoptr(GwLaneCredentials) credentials = g_new0(GwLaneCredentials, 1);

    g_atomic_ref_count_init(&credentials->refs);
    bool loaded = check_key_mode(key_path, error);
    for (unsigned i = 0; loaded && i < G_N_ELEMENTS(pems); i++) {
        loaded = read_pem(paths[i], &pems[i], error);
    }
    loaded = loaded && load_into(credentials, paths, pems, error);
    if (pems[2].data) {
        explicit_bzero(pems[2].data, pems[2].size);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(pems); i++) {
        g_free(pems[i].data);
    }
    return loaded ? g_steal_pointer(&credentials) : NULL;
}

static char *
format_day(time_t seconds)
{
    return gw_format_time((int64_t)seconds * G_USEC_PER_SEC);
}

/* A signature that does not hold makes all other claims, such as dates, meaningless: it is first.
 */
static void
explain_status(unsigned status, gnutls_x509_crt_t certificate, const char *whose,
               gnutls_alert_description_t *alert, GError **error)
{
    time_t expires = gnutls_x509_crt_get_expiration_time(certificate);
    time_t begins = gnutls_x509_crt_get_activation_time(certificate);
    g_autofree char *expires_text = format_day(expires);
    g_autofree char *begins_text = format_day(begins);

    if (status & (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNER_NOT_CA |
                  GNUTLS_CERT_SIGNATURE_FAILURE)) {
        *alert = GNUTLS_A_UNKNOWN_CA;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "certificate of %s is not signed by this fleet's CA: give it one that is",
                    whose);
    } else if ((status & GNUTLS_CERT_EXPIRED) && expires <= time(NULL)) {
        *alert = GNUTLS_A_CERTIFICATE_EXPIRED;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "certificate of %s expired on %s: renew it there", whose, expires_text);
    } else if (status & GNUTLS_CERT_EXPIRED) {
        *alert = GNUTLS_A_CERTIFICATE_EXPIRED;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the CA that signed the certificate of %s has expired: renew the fleet's CA",
                    whose);
    } else if (status & GNUTLS_CERT_NOT_ACTIVATED) {
        *alert = GNUTLS_A_BAD_CERTIFICATE;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "certificate of %s is not valid before %s: check the clocks of both hosts",
                    whose, begins_text);
    } else if (status & GNUTLS_CERT_PURPOSE_MISMATCH) {
        *alert = GNUTLS_A_UNSUPPORTED_CERTIFICATE;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "certificate of %s is not a host's: its extended key usage must allow both "
                    "TLS server and TLS client",
                    whose);
    } else {
        gnutls_datum_t text = {0};

        *alert = GNUTLS_A_BAD_CERTIFICATE;
        gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "certificate of %s is not acceptable: %s",
                    whose, text.data ? (const char *)text.data : "no reason known");
        gnutls_free(text.data);
    }
}

static char *
judge_certificate(gnutls_session_t session, gnutls_x509_crt_t certificate, GwPeerRole role,
                  gnutls_alert_description_t *alert, GError **error)
{
    gnutls_typed_vdata_st purpose = {
        .type = GNUTLS_DT_KEY_PURPOSE_OID,
        .data = (unsigned char *)(role == GW_PEER_IS_SERVER ? GNUTLS_KP_TLS_WWW_SERVER
                                                            : GNUTLS_KP_TLS_WWW_CLIENT),
    };
    g_autofree char *name = read_name(certificate);
    g_autofree char *whose =
        name ? g_strdup_printf("host '%s'", name) : g_strdup("a peer without a valid name");
    unsigned status = 0;
    int result = gnutls_certificate_verify_peers(session, &purpose, 1, &status);

    if (result < 0) {
        *alert = GNUTLS_A_BAD_CERTIFICATE;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "certificate of %s cannot be verified: %s",
                    whose, gnutls_strerror(result));
        return NULL;
    }
    if (status != 0) {
        explain_status(status, certificate, whose, alert, error);
        return NULL;
    }
    if (!name) {
        *alert = GNUTLS_A_BAD_CERTIFICATE;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the peer's certificate names no host: it needs a DNS name or common name "
                    "that is the host's name");
        return NULL;
    }
    return g_steal_pointer(&name);
}

char *
gw_certificate_judge(gnutls_session_t session, GwPeerRole role, gnutls_alert_description_t *alert,
                     GError **error)
{
    gnutls_alert_description_t unused;
    unsigned n = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &n);
    gnutls_x509_crt_t certificate = NULL;
    char *name = NULL;

    alert = alert ? alert : &unused;
    if (n > 0 && gnutls_x509_crt_init(&certificate) == 0 &&
        gnutls_x509_crt_import(certificate, &chain[0], GNUTLS_X509_FMT_DER) == 0) {
        name = judge_certificate(session, certificate, role, alert, error);
    } else {
        *alert = GNUTLS_A_BAD_CERTIFICATE;
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "the peer showed no readable certificate");
    }
    if (certificate) {
        gnutls_x509_crt_deinit(certificate);
    }
    return name;
}
