// SPDX-License-Identifier: Apache-2.0
/*
 * XXH3-128 over a stream, canonical (big-endian) form. Owns the hash's state; one thread; cannot
 * fail but by running out of memory.
 */
#include "lane/digest.h"

#include <string.h>
#include <xxhash.h>

struct GwDigest {
    XXH3_state_t *state;
    uint64_t bytes;
};

GwDigest *
gw_digest_new(void)
{
    GwDigest *digest = g_new0(GwDigest, 1);

    digest->state = XXH3_createState();
    if (!digest->state) {
        g_error("out of memory for a digest");
    }
    XXH3_128bits_reset(digest->state);
    return digest;
}

void
gw_digest_free(GwDigest *digest)
{
    if (digest) {
        XXH3_freeState(digest->state);
        g_free(digest);
    }
}

void
gw_digest_add(GwDigest *digest, const void *data, size_t len)
{
    XXH3_128bits_update(digest->state, data, len);
    digest->bytes += len;
}

void
gw_digest_mark(const GwDigest *digest, GwStreamMark *out)
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(digest->state));
    out->stream_bytes = digest->bytes;
    memcpy(out->digest, canonical.digest, GW_DIGEST_BYTES);
}

uint64_t
gw_digest_bytes(const GwDigest *digest)
{
    return digest->bytes;
}

void
gw_digest_hex(const GwStreamMark *mark, char out[GW_DIGEST_HEX_BYTES])
{
    for (unsigned i = 0; i < GW_DIGEST_BYTES; i++) {
        g_snprintf(out + 2 * i, 3, "%02x", mark->digest[i]);
    }
}
