// SPDX-License-Identifier: Apache-2.0
/*
 * Tags of pages: 16 bytes that stand for a page's content, for this stream only.
 *
 * The tag is AES-256-GCM's over the page as additional data, with a key that is drawn for each
 * stream, known to both ends and to nobody else, and a fixed nonce. As a function of the page it is
 * GHASH under a secret point, plus a constant: two different pages, chosen without knowledge of the
 * key, have the same tag with a probability of at most 257 / 2^128 (NIST SP 800-38D; McGrew and
 * Viega, "The Security and Performance of the Galois/Counter Mode", 2004, lemma 2). That holds for
 * whatever a guest does, however much it computes: it never sees a tag, and learns of a comparison
 * only that it failed. So a page may be left out because its tag equals another's, be it that of
 * the same page or of any page that was sent: with 2^30 pages that is true of some two different
 * ones with a probability below 2^-60. For that tags are shown to nobody but the two ends of the
 * stream, and not stored beyond it.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>
#include <string.h>

#define GW_PAGE_TAG_BYTES     16u
#define GW_PAGE_TAG_KEY_BYTES 32u

typedef struct GwPageTag {
    uint8_t bytes[GW_PAGE_TAG_BYTES];
} GwPageTag;

static inline bool
gw_page_tag_equal(const GwPageTag *a, const GwPageTag *b)
{
    return memcmp(a->bytes, b->bytes, GW_PAGE_TAG_BYTES) == 0;
}

/* A new key, random. */
bool gw_page_tag_key(uint8_t key[GW_PAGE_TAG_KEY_BYTES], GError **error) GW_MUST_USE;

/* One thread; as many with the same key as there are threads. */
typedef struct GwPageTagger GwPageTagger;

/* GW_ERROR_UNSUPPORTED where the library does not offer the cipher. The key is not kept. */
GwPageTagger *gw_page_tagger_new(const uint8_t key[GW_PAGE_TAG_KEY_BYTES],
                                 GError **error) GW_MUST_USE;
void gw_page_tagger_free(GwPageTagger *tagger);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwPageTagger, gw_page_tagger_free)

/* @page: GW_PAGE_BYTES. */
void gw_page_tag(GwPageTagger *tagger, const uint8_t *page, GwPageTag *out);
