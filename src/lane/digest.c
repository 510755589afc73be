// SPDX-License-Identifier: Apache-2.0
/*
 * XXH3-128 over what stands for a stream, canonical (big-endian) form. Owns the hash's state; one
 * thread; cannot fail but by running out of memory.
 */
#include "lane/digest.h"

#include "ramstream/format.h"

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
gw_digest_add_page(GwDigest *digest, const GwRamItem *page, const GwPageTag *tag,
                   size_t record_bytes)
{
    bool content = page->kind == GW_RAM_ITEM_PAGE;
    uint64_t head = page->address | (content ? GW_STREAM_RAM_PAGE : GW_STREAM_RAM_ZERO) |
                    (page->names_block ? 0 : GW_STREAM_RAM_CONTINUE);
    uint8_t bytes[10 + GW_PAGE_TAG_BYTES];

    for (unsigned i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(head >> (56 - 8 * i));
    }
    bytes[8] = (uint8_t)(page->block >> 8);
    bytes[9] = (uint8_t)page->block;
    if (content) {
        memcpy(bytes + 10, tag->bytes, GW_PAGE_TAG_BYTES);
    }
    XXH3_128bits_update(digest->state, bytes, content ? sizeof(bytes) : 10);
    digest->bytes += record_bytes;
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
