// SPDX-License-Identifier: Apache-2.0
/*
 * SHA-256 of a piece of memory, and the proof of references made of it. Any thread.
 */
#pragma once

#include "lane/image_ref.h"

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

/* What a section carries for its pages. */
static inline void
gw_ref_proof(const GwPageTag *tags, unsigned n, uint8_t out[GW_REF_PROOF_BYTES])
{
    uint8_t digest[GW_SHA256_BYTES];

    gw_sha256(tags, (size_t)n * GW_PAGE_TAG_BYTES, digest);
    memcpy(out, digest, GW_REF_PROOF_BYTES);
}
