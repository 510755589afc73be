// SPDX-License-Identifier: Apache-2.0
/*
 * SHA-256 of a piece of memory: the proof of every reference. Any thread.
 */
#pragma once

#include <glib.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

static inline void
gw_sha256(const void *data, size_t len, uint8_t *out)
{
    /* It has nothing to fail on but memory. */
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, data, len, out) < 0) {
        g_error("out of memory for a SHA-256");
    }
}
