// SPDX-License-Identifier: Apache-2.0
/* Certificates for tests: ECDSA P-256, so that making dozens of them takes no time. */
#include "certs.h"

#include "base/fd.h"

#include <gnutls/x509-ext.h>
#include <gnutls/x509.h>
#include <string.h>
#include <time.h>

struct TestCa {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t certificate;
};

#define OK(call) g_assert_cmpint((call), >=, 0)

static gnutls_x509_privkey_t
new_key(void)
{
    gnutls_x509_privkey_t key;

    OK(gnutls_x509_privkey_init(&key));
    OK(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                    GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0));
    return key;
}

static void
write_datum(const char *dir, const char *name, const char *suffix, gnutls_datum_t *datum)
{
    g_autofree char *file = g_strconcat(name, suffix, NULL);
    g_autofree char *path = g_build_filename(dir, file, NULL);
    g_autoptr(GError) error = NULL;

    bool written = gw_file_write(path, datum->data, datum->size, 0600, &error);
    g_assert_no_error(error);
    g_assert_true(written);
    gnutls_free(datum->data);
}

static gnutls_x509_crt_t
new_certificate(gnutls_x509_privkey_t key, const TestCert *spec)
{
    static unsigned serial;
    gnutls_x509_crt_t certificate;
    time_t now = time(NULL);
    bool dated = spec->begins_s != 0 || spec->ends_s != 0;
    uint8_t serial_bytes[] = {1, (uint8_t)(serial >> 8), (uint8_t)serial};

    serial++;

    OK(gnutls_x509_crt_init(&certificate));
    OK(gnutls_x509_crt_set_version(certificate, 3));
    OK(gnutls_x509_crt_set_key(certificate, key));
    OK(gnutls_x509_crt_set_serial(certificate, serial_bytes, sizeof(serial_bytes)));
    OK(gnutls_x509_crt_set_activation_time(certificate, now + (dated ? spec->begins_s : -3600)));
    OK(gnutls_x509_crt_set_expiration_time(certificate, now + (dated ? spec->ends_s : 86400)));
    if (spec->common_name) {
        OK(gnutls_x509_crt_set_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0,
                                         spec->common_name, (unsigned)strlen(spec->common_name)));
    }
    if (spec->dns_name) {
        OK(gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_DNSNAME, spec->dns_name,
                                                (unsigned)strlen(spec->dns_name), GNUTLS_FSAN_SET));
    }
    if (spec->purpose) {
        OK(gnutls_x509_crt_set_key_purpose_oid(certificate, spec->purpose, 0));
    }
    return certificate;
}

TestCa *
test_ca_new(const char *dir, const char *name)
{
    TestCa *ca = g_new0(TestCa, 1);
    gnutls_datum_t pem;

    ca->key = new_key();
    ca->certificate = new_certificate(ca->key, &(TestCert){.common_name = name});
    OK(gnutls_x509_crt_set_ca_status(ca->certificate, 1));
    OK(gnutls_x509_crt_set_key_usage(ca->certificate, GNUTLS_KEY_KEY_CERT_SIGN));
    OK(gnutls_x509_crt_sign2(ca->certificate, ca->certificate, ca->key, GNUTLS_DIG_SHA256, 0));
    OK(gnutls_x509_crt_export2(ca->certificate, GNUTLS_X509_FMT_PEM, &pem));
    write_datum(dir, name, ".crt", &pem);
    return ca;
}

void
test_ca_free(TestCa *ca)
{
    gnutls_x509_crt_deinit(ca->certificate);
    gnutls_x509_privkey_deinit(ca->key);
    g_free(ca);
}

void
test_cert_write(TestCa *ca, const char *dir, const char *name, const TestCert *spec)
{
    gnutls_x509_privkey_t key = new_key();
    gnutls_x509_crt_t certificate = new_certificate(key, spec);
    gnutls_datum_t pem;

    OK(gnutls_x509_crt_sign2(certificate, ca->certificate, ca->key, GNUTLS_DIG_SHA256, 0));
    OK(gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &pem));
    write_datum(dir, name, ".crt", &pem);
    OK(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem));
    write_datum(dir, name, ".key", &pem);
    gnutls_x509_crt_deinit(certificate);
    gnutls_x509_privkey_deinit(key);
}

GwLaneCredentials *
test_credentials(const char *dir, const char *ca, const char *name)
{
    g_autofree char *ca_path = g_strdup_printf("%s/%s.crt", dir, ca);
    g_autofree char *cert_path = g_strdup_printf("%s/%s.crt", dir, name);
    g_autofree char *key_path = g_strdup_printf("%s/%s.key", dir, name);
    g_autoptr(GError) error = NULL;
    GwLaneCredentials *credentials = gw_lane_credentials_load(ca_path, cert_path, key_path, &error);

    g_assert_no_error(error);
    return credentials;
}
