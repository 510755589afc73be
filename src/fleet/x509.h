// SPDX-License-Identifier: Apache-2.0
/*
 * Keys, signing requests and certificates of a fleet: a thin layer over GnuTLS that knows nothing
 * of files. All text is PEM. Keys are ECDSA P-256; signatures are SHA-256.
 *
 * Pure but for random numbers and the clock; any thread. Requests and certificates come from
 * outside: they are size-checked before they are parsed. Secrets are wiped when freed.
 */
#pragma once

#include "base/error.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdint.h>

typedef struct gnutls_x509_privkey_int GwX509Key;
typedef struct gnutls_x509_crq_int GwX509Request;
typedef struct gnutls_x509_crt_int GwX509Cert;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwX509Key, gnutls_x509_privkey_deinit)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwX509Request, gnutls_x509_crq_deinit)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwX509Cert, gnutls_x509_crt_deinit)

/* The digest of a public key: equal for a key, its request and its certificate. */
typedef struct GwX509KeyId {
    uint8_t bytes[32];
} GwX509KeyId;

#define GW_X509_HOST_DAYS 730u
#define GW_X509_CA_DAYS   7305u

GwX509Key *gw_x509_key_new(GError **error) GW_MUST_USE;
/* @what names the source for messages, here and below. */
GwX509Key *gw_x509_key_parse(const char *pem, const char *what, GError **error) GW_MUST_USE;
/* Free it with gw_x509_secret_free(). */
char *gw_x509_key_pem(GwX509Key *key, GError **error) GW_MUST_USE;
void gw_x509_secret_free(char *secret);

/* A signing request for @name, signed with @key. Transfer full. */
char *gw_x509_request_pem(GwX509Key *key, const char *name, GError **error) GW_MUST_USE;

/*
 * Parses a request and checks everything that a signer must: its self-signature, the key's type
 * and curve, and that the name is a host name. @name: transfer full.
 */
GwX509Request *gw_x509_request_parse(const char *pem, char **name, GError **error) GW_MUST_USE;

/* The first certificate in @pem. */
GwX509Cert *gw_x509_cert_parse(const char *pem, const char *what, GError **error) GW_MUST_USE;
char *gw_x509_cert_pem(GwX509Cert *cert, GError **error) GW_MUST_USE;
/* The CN; NULL if there is none that is a host name. Transfer full. */
char *gw_x509_cert_name(GwX509Cert *cert);
/* SHA-256 of the certificate: "ab:cd:…". Transfer full. */
char *gw_x509_cert_fingerprint(GwX509Cert *cert);

/* A self-signed CA that may sign hosts and nothing below them. */
GwX509Cert *gw_x509_ca_new(GwX509Key *key, GError **error) GW_MUST_USE;

typedef struct GwX509Signer {
    GwX509Key *key;
    GwX509Cert *cert;
} GwX509Signer;

/* A certificate for @request and @name; it ends with the CA's at the latest. @days 0: default. */
GwX509Cert *gw_x509_sign(const GwX509Signer *ca, GwX509Request *request, const char *name,
                         unsigned days, GError **error) GW_MUST_USE;

/* Is @cert, now, a host's certificate of @ca for @name? The message says what does not fit. */
bool gw_x509_check_host(GwX509Cert *cert, GwX509Cert *ca, const char *name,
                        GError **error) GW_MUST_USE;

bool gw_x509_key_id(GwX509Key *key, GwX509KeyId *out, GError **error) GW_MUST_USE;
bool gw_x509_request_key_id(GwX509Request *request, GwX509KeyId *out, GError **error) GW_MUST_USE;
bool gw_x509_cert_key_id(GwX509Cert *cert, GwX509KeyId *out, GError **error) GW_MUST_USE;
bool gw_x509_key_id_equal(const GwX509KeyId *a, const GwX509KeyId *b);
