// SPDX-License-Identifier: Apache-2.0
/*
 * This host's identity: its key, its certificate, the fleet's CA, and, on the host that made it,
 * the CA's key. Files in one folder of mode 0700, keys 0600:
 *
 *     ca.crt  host.crt  host.key          every host
 *     ca.key                              the host that ran `godwit init` as CA
 *     pending.key  pending.csr            between `init --join` and `init --install`
 *
 * The only thing that leaves the host is a signing request. Keys are ECDSA P-256; certificates
 * carry the host's name as CN and DNS SAN and are valid for 2 years (the CA's for 20), from an
 * hour before now. All of it blocking and quick; main context. Nothing here prints a key.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

#define GW_IDENTITY_MAX_PEM_BYTES (64u * 1024u)

/* {"name", "ca_fingerprint", "expires", "is_ca", "state": "none|pending|ready"}. Never fails. */
json_t *gw_identity_status(const char *pki_dir) GW_MUST_USE;

/* Makes a CA and this host's certificate. GW_ERROR_EXISTS if there is an identity already. */
bool gw_identity_init_ca(const char *pki_dir, const char *host_name, GError **error) GW_MUST_USE;

/* Makes a key and returns the signing request (PEM). Repeating it returns the same request. */
char *gw_identity_request(const char *pki_dir, const char *host_name, GError **error) GW_MUST_USE;

/*
 * On the CA's host: signs @request for the name in it, after checking its self-signature, key
 * type and name. Returns host certificate and CA certificate, concatenated PEM. @valid_days 0:
 * default.
 */
char *gw_identity_sign(const char *pki_dir, const char *request, unsigned valid_days,
                       GError **error) GW_MUST_USE;

/* Puts the answer of gw_identity_sign() in place, if it fits the pending key and checks out. */
bool gw_identity_install(const char *pki_dir, const char *host_name, const char *certificates,
                         GError **error) GW_MUST_USE;
