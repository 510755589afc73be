// SPDX-License-Identifier: Apache-2.0
/*
 * What the TLS part needs of GwLaneCredentials, and the judging of certificates.
 *
 * A host's identity is the first DNS name among its certificate's alternative names, or, if it has
 * none, the common name; it must be a valid host name of Godwit (base/units.h).
 * Any thread; credentials are constant once loaded.
 */
#pragma once

#include "lane/lane.h"

#include <gnutls/gnutls.h>

gnutls_certificate_credentials_t gw_lane_credentials_gnutls(const GwLaneCredentials *credentials);

typedef enum GwPeerRole {
    GW_PEER_IS_SERVER,
    GW_PEER_IS_CLIENT,
} GwPeerRole;

/*
 * Judges the certificate that the peer showed in @session: chain up to the fleet's CA, validity,
 * purpose, name. On success the proven name, transfer full. On failure GW_ERROR_REFUSED, fit for
 * both sides' logs, and in @alert (nullable) the TLS alert that says about the same.
 */
char *gw_certificate_judge(gnutls_session_t session, GwPeerRole role,
                           gnutls_alert_description_t *alert, GError **error) GW_MUST_USE;
