// SPDX-License-Identifier: Apache-2.0
/*
 * Keys, requests and certificates (GnuTLS). Owns nothing beyond its results; any thread; blocking
 * for the milliseconds of a signature. PEM is capped at GW_IDENTITY_MAX_PEM_BYTES. GnuTLS's own
 * failures become GW_ERROR_FAILED with its text; what was handed in and does not fit becomes
 * GW_ERROR_INVALID or GW_ERROR_REFUSED.
 */
#include "fleet/x509.h"
#include "base/units.h"
#include "fleet/identity.h"

#include <gnutls/crypto.h>
#include <string.h>
#include <time.h>

/* Clocks of hosts differ: a new certificate is valid a little before it is made. */
#define BACKDATE_SECONDS 3600

#define SERIAL_BYTES 16u

typedef struct gnutls_pubkey_st GwX509PublicKey;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwX509PublicKey, gnutls_pubkey_deinit)

static bool
gnutls_ok(int result, const char *what, GError **error)
{
    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "%s: %s", what, gnutls_strerror(result));
        return false;
    }
    return true;
}

/* A borrowed view of PEM text; false if it is too large to be looked at. */
static bool
pem_datum(const char *pem, const char *what, gnutls_datum_t *out, GError **error)
{
    size_t len = strnlen(pem, GW_IDENTITY_MAX_PEM_BYTES + 1);

    if (len > GW_IDENTITY_MAX_PEM_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "%s is larger than %u bytes", what,
                    GW_IDENTITY_MAX_PEM_BYTES);
        return false;
    }
    *out = (gnutls_datum_t){.data = (unsigned char *)pem, .size = (unsigned)len};
    return true;
}

/* GnuTLS's buffer as a string of ours. */
static char *
take_datum(gnutls_datum_t *datum)
{
    char *text = g_strndup((const char *)datum->data, datum->size);

    gnutls_memset(datum->data, 0, datum->size);
    gnutls_free(datum->data);
    return text;
}

/* --- keys ------------------------------------------------------------------------------------- */

GwX509Key *
gw_x509_key_new(GError **error)
{
    gnutls_x509_privkey_t raw = NULL;
    int result = gnutls_x509_privkey_init(&raw);
    g_autoptr(GwX509Key) key = raw;

    if (result >= 0) {
        result = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                              GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    }
    return gnutls_ok(result, "cannot make a key", error) ? g_steal_pointer(&key) : NULL;
}

GwX509Key *
gw_x509_key_parse(const char *pem, const char *what, GError **error)
{
    gnutls_x509_privkey_t raw = NULL;
    gnutls_datum_t datum;

    if (!pem_datum(pem, what, &datum, error)) {
        return NULL;
    }
    int result = gnutls_x509_privkey_init(&raw);
    g_autoptr(GwX509Key) key = raw;
    if (result >= 0) {
        result = gnutls_x509_privkey_import(key, &datum, GNUTLS_X509_FMT_PEM);
    }
    return gnutls_ok(result, what, error) ? g_steal_pointer(&key) : NULL;
}

char *
gw_x509_key_pem(GwX509Key *key, GError **error)
{
    gnutls_datum_t out = {0};
    int result = gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &out);

    return gnutls_ok(result, "cannot write a key", error) ? take_datum(&out) : NULL;
}

void
gw_x509_secret_free(char *secret)
{
    if (secret) {
        gnutls_memset(secret, 0, strlen(secret));
        g_free(secret);
    }
}

bool
gw_x509_key_id(GwX509Key *key, GwX509KeyId *out, GError **error)
{
    size_t size = sizeof out->bytes;

    return gnutls_ok(
        gnutls_x509_privkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, out->bytes, &size),
        "cannot digest a key", error);
}

bool
gw_x509_request_key_id(GwX509Request *request, GwX509KeyId *out, GError **error)
{
    size_t size = sizeof out->bytes;

    return gnutls_ok(
        gnutls_x509_crq_get_key_id(request, GNUTLS_KEYID_USE_SHA256, out->bytes, &size),
        "cannot digest a key", error);
}

bool
gw_x509_cert_key_id(GwX509Cert *cert, GwX509KeyId *out, GError **error)
{
    size_t size = sizeof out->bytes;

    return gnutls_ok(gnutls_x509_crt_get_key_id(cert, GNUTLS_KEYID_USE_SHA256, out->bytes, &size),
                     "cannot digest a key", error);
}

bool
gw_x509_key_id_equal(const GwX509KeyId *a, const GwX509KeyId *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* --- signing requests ------------------------------------------------------------------------- */

char *
gw_x509_request_pem(GwX509Key *key, const char *name, GError **error)
{
    static const char what[] = "cannot make a signing request";
    gnutls_x509_crq_t raw = NULL;
    gnutls_datum_t out = {0};
    int result = gnutls_x509_crq_init(&raw);
    g_autoptr(GwX509Request) request = raw;

    if (!gnutls_ok(result, what, error) ||
        !gnutls_ok(gnutls_x509_crq_set_version(request, 1), what, error) ||
        !gnutls_ok(gnutls_x509_crq_set_dn_by_oid(request, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                                 (unsigned)strlen(name)),
                   what, error) ||
        !gnutls_ok(gnutls_x509_crq_set_key(request, key), what, error) ||
        !gnutls_ok(gnutls_x509_crq_sign2(request, key, GNUTLS_DIG_SHA256, 0), what, error) ||
        !gnutls_ok(gnutls_x509_crq_export2(request, GNUTLS_X509_FMT_PEM, &out), what, error)) {
        return NULL;
    }
    return take_datum(&out);
}

static GwX509PublicKey *
request_public_key(GwX509Request *request, GError **error)
{
    gnutls_pubkey_t raw = NULL;
    int result = gnutls_pubkey_init(&raw);
    g_autoptr(GwX509PublicKey) key = raw;

    if (result >= 0) {
        result = gnutls_pubkey_import_x509_crq(key, request, 0);
    }
    return gnutls_ok(result, "cannot read the signing request's key", error) ? g_steal_pointer(&key)
                                                                             : NULL;
}

static bool
check_request_key(GwX509Request *request, GError **error)
{
    gnutls_ecc_curve_t curve = GNUTLS_ECC_CURVE_INVALID;
    g_autoptr(GwX509PublicKey) key = request_public_key(request, error);

    if (!key) {
        return false;
    }
    if (gnutls_pubkey_get_pk_algorithm(key, NULL) == GNUTLS_PK_ECDSA) {
        gnutls_pubkey_export_ecc_raw(key, &curve, NULL, NULL);
    }
    if (curve != GNUTLS_ECC_CURVE_SECP256R1) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "the signing request's key is not ECDSA P-256: make the request with "
                    "'godwit init --join'");
        return false;
    }
    return true;
}

static char *
request_name(GwX509Request *request, GError **error)
{
    char name[256];
    size_t size = sizeof name;
    int result =
        gnutls_x509_crq_get_dn_by_oid(request, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &size);

    if (result < 0 || memchr(name, '\0', size)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "the signing request names no host");
        return NULL;
    }
    g_autofree char *copy = g_strndup(name, size);
    return gw_check_name("the signing request's host name", copy, error) ? g_steal_pointer(&copy)
                                                                         : NULL;
}

GwX509Request *
gw_x509_request_parse(const char *pem, char **name, GError **error)
{
    gnutls_x509_crq_t raw = NULL;
    gnutls_datum_t datum;

    if (!pem_datum(pem, "the signing request", &datum, error)) {
        return NULL;
    }
    if (!gnutls_ok(gnutls_x509_crq_init(&raw), "cannot read a signing request", error)) {
        return NULL;
    }
    g_autoptr(GwX509Request) request = raw;
    int result = gnutls_x509_crq_import(request, &datum, GNUTLS_X509_FMT_PEM);
    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "this is not a signing request (PEM): %s",
                    gnutls_strerror(result));
        return NULL;
    }
    result = gnutls_x509_crq_verify(request, 0);
    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the signing request was changed after it was made: its own signature does not "
                    "fit (%s); fetch it again from the host",
                    gnutls_strerror(result));
        return NULL;
    }
    g_autofree char *found =
        check_request_key(request, error) ? request_name(request, error) : NULL;
    if (!found) {
        return NULL;
    }
    *name = g_steal_pointer(&found);
    return g_steal_pointer(&request);
}

/* --- certificates ----------------------------------------------------------------------------- */

GwX509Cert *
gw_x509_cert_parse(const char *pem, const char *what, GError **error)
{
    gnutls_x509_crt_t raw = NULL;
    gnutls_datum_t datum;

    if (!pem_datum(pem, what, &datum, error)) {
        return NULL;
    }
    int result = gnutls_x509_crt_init(&raw);
    g_autoptr(GwX509Cert) cert = raw;
    if (result >= 0) {
        result = gnutls_x509_crt_import(cert, &datum, GNUTLS_X509_FMT_PEM);
    }
    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s is not a certificate (PEM): %s", what,
                    gnutls_strerror(result));
        return NULL;
    }
    return g_steal_pointer(&cert);
}

char *
gw_x509_cert_pem(GwX509Cert *cert, GError **error)
{
    gnutls_datum_t out = {0};
    int result = gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &out);

    return gnutls_ok(result, "cannot write a certificate", error) ? take_datum(&out) : NULL;
}

char *
gw_x509_cert_name(GwX509Cert *cert)
{
    char name[256];
    size_t size = sizeof name;

    if (gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &size) < 0 ||
        memchr(name, '\0', size)) {
        return NULL;
    }
    g_autofree char *copy = g_strndup(name, size);
    return gw_check_name("name", copy, NULL) ? g_steal_pointer(&copy) : NULL;
}

char *
gw_x509_cert_fingerprint(GwX509Cert *cert)
{
    uint8_t digest[32];
    size_t size = sizeof digest;
    GString *text = g_string_new(NULL);

    if (gnutls_x509_crt_get_fingerprint(cert, GNUTLS_DIG_SHA256, digest, &size) == 0) {
        for (size_t i = 0; i < size; i++) {
            g_string_append_printf(text, "%s%02x", i ? ":" : "", digest[i]);
        }
    }
    return g_string_free(text, FALSE);
}

/* What CA and host certificates have in common: version, serial number, name, time. */
static bool
set_common(GwX509Cert *cert, const char *common_name, time_t end, GError **error)
{
    static const char what[] = "cannot make a certificate";
    uint8_t serial[SERIAL_BYTES];

    if (!gnutls_ok(gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof serial), what, error)) {
        return false;
    }
    /* RFC 5280, 4.1.2.2: positive, and not zero. */
    serial[0] = (uint8_t)((serial[0] & 0x7f) | 0x40);
    return gnutls_ok(gnutls_x509_crt_set_version(cert, 3), what, error) &&
           gnutls_ok(gnutls_x509_crt_set_serial(cert, serial, sizeof serial), what, error) &&
           gnutls_ok(gnutls_x509_crt_set_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0,
                                                   common_name, (unsigned)strlen(common_name)),
                     what, error) &&
           gnutls_ok(gnutls_x509_crt_set_activation_time(cert, time(NULL) - BACKDATE_SECONDS), what,
                     error) &&
           gnutls_ok(gnutls_x509_crt_set_expiration_time(cert, end), what, error);
}

/* The subject key id, and the authority's: RFC 5280, 4.2.1.1 and 4.2.1.2, first 160 bits. */
static bool
set_key_ids(GwX509Cert *cert, const GwX509KeyId *subject, const GwX509KeyId *authority,
            GError **error)
{
    static const char what[] = "cannot put key ids into a certificate";

    return gnutls_ok(gnutls_x509_crt_set_subject_key_id(cert, subject->bytes, 20), what, error) &&
           gnutls_ok(gnutls_x509_crt_set_authority_key_id(cert, authority->bytes, 20), what, error);
}

static time_t
days_from_now(unsigned days)
{
    return time(NULL) + (time_t)days * 86400;
}

GwX509Cert *
gw_x509_ca_new(GwX509Key *key, GError **error)
{
    static const char what[] = "cannot make the CA certificate";
    gnutls_x509_crt_t raw = NULL;
    GwX509KeyId id;

    if (!gw_x509_key_id(key, &id, error) || !gnutls_ok(gnutls_x509_crt_init(&raw), what, error)) {
        return NULL;
    }
    g_autoptr(GwX509Cert) cert = raw;
    /* Fleets are told apart by name, too: it makes the message about a foreign one clearer. */
    g_autofree char *name = g_strdup_printf("Godwit fleet CA %02x%02x%02x%02x", id.bytes[0],
                                            id.bytes[1], id.bytes[2], id.bytes[3]);
    if (!set_common(cert, name, days_from_now(GW_X509_CA_DAYS), error) ||
        !gnutls_ok(gnutls_x509_crt_set_key(cert, key), what, error) ||
        !gnutls_ok(gnutls_x509_crt_set_basic_constraints(cert, 1, 0), what, error) ||
        !gnutls_ok(
            gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN),
            what, error) ||
        !set_key_ids(cert, &id, &id, error) ||
        !gnutls_ok(gnutls_x509_crt_sign2(cert, cert, key, GNUTLS_DIG_SHA256, 0), what, error)) {
        return NULL;
    }
    return g_steal_pointer(&cert);
}

static bool
set_host_usage(GwX509Cert *cert, const char *name, GError **error)
{
    static const char what[] = "cannot make the host's certificate";

    return gnutls_ok(gnutls_x509_crt_set_basic_constraints(cert, 0, -1), what, error) &&
           gnutls_ok(gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_DIGITAL_SIGNATURE), what,
                     error) &&
           gnutls_ok(gnutls_x509_crt_set_key_purpose_oid(cert, GNUTLS_KP_TLS_WWW_SERVER, 0), what,
                     error) &&
           gnutls_ok(gnutls_x509_crt_set_key_purpose_oid(cert, GNUTLS_KP_TLS_WWW_CLIENT, 0), what,
                     error) &&
           gnutls_ok(gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, name,
                                                          (unsigned)strlen(name), 0),
                     what, error);
}

/* RFC 5280's chain rule: a certificate that outlives its CA is worth nothing afterwards. */
static bool
choose_end(GwX509Cert *ca, unsigned days, time_t *end, GError **error)
{
    time_t ca_end = gnutls_x509_crt_get_expiration_time(ca);

    if (days > GW_X509_CA_DAYS) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "a certificate cannot be valid for %u days: at most %u", days, GW_X509_CA_DAYS);
        return false;
    }
    if (ca_end <= time(NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "the fleet CA's certificate has expired: make a new CA with 'godwit init' in "
                    "an empty folder and let every host join it");
        return false;
    }
    *end = MIN(days_from_now(days ? days : GW_X509_HOST_DAYS), ca_end);
    return true;
}

GwX509Cert *
gw_x509_sign(const GwX509Signer *ca, GwX509Request *request, const char *name, unsigned days,
             GError **error)
{
    static const char what[] = "cannot sign the host's certificate";
    gnutls_x509_crt_t raw = NULL;
    GwX509KeyId id;
    GwX509KeyId ca_id;
    time_t end;

    /* Key and name are all that is taken from the request: it may ask for anything else. */
    g_autoptr(GwX509PublicKey) key = request_public_key(request, error);
    if (!key || !choose_end(ca->cert, days, &end, error) ||
        !gnutls_ok(gnutls_x509_crt_init(&raw), what, error)) {
        return NULL;
    }
    g_autoptr(GwX509Cert) cert = raw;
    if (!gnutls_ok(gnutls_x509_crt_set_pubkey(cert, key), what, error) ||
        !set_common(cert, name, end, error) || !set_host_usage(cert, name, error) ||
        !gw_x509_request_key_id(request, &id, error) ||
        !gw_x509_cert_key_id(ca->cert, &ca_id, error) || !set_key_ids(cert, &id, &ca_id, error) ||
        !gnutls_ok(gnutls_x509_crt_sign2(cert, ca->cert, ca->key, GNUTLS_DIG_SHA256, 0), what,
                   error)) {
        return NULL;
    }
    return g_steal_pointer(&cert);
}

bool
gw_x509_check_host(GwX509Cert *cert, GwX509Cert *ca, const char *name, GError **error)
{
    gnutls_x509_crt_t chain[] = {cert};
    gnutls_x509_crt_t roots[] = {ca};
    unsigned status = 0;
    g_autofree char *found = gw_x509_cert_name(cert);

    if (g_strcmp0(found, name) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the certificate is for host '%s', but this host is '%s'",
                    found ? found : "(no name)", name);
        return false;
    }
    int result = gnutls_x509_crt_list_verify(chain, 1, roots, 1, NULL, 0, 0, &status);
    if (!gnutls_ok(result, "cannot check the host's certificate", error)) {
        return false;
    }
    if (status) {
        gnutls_datum_t why = {0};
        g_autofree char *text = NULL;
        if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &why, 0) == 0) {
            text = take_datum(&why);
        }
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the certificate of host '%s' is not valid here: %s", name,
                    text ? g_strstrip(text) : "unknown reason");
        return false;
    }
    return true;
}
