// SPDX-License-Identifier: Apache-2.0
/*
 * Page tags by GnuTLS's AES-256-GCM, which uses the processor's instructions: about 0.55 us per
 * page, against 2.4 us for SHA-256.
 *
 * Owns the cipher's context with the key in it; one thread. Making one can fail; tagging cannot, as
 * sizes are constant: a library that refuses is a broken one and ends the process.
 */
#include "lane/page_tag.h"

#include "ramstream/ramstream.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#define NONCE_BYTES 12u

struct GwPageTagger {
    gnutls_aead_cipher_hd_t cipher;
};

bool
gw_page_tag_key(uint8_t key[GW_PAGE_TAG_KEY_BYTES], GError **error)
{
    int result = gnutls_rnd(GNUTLS_RND_KEY, key, GW_PAGE_TAG_KEY_BYTES);

    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "cannot draw a key for page tags: %s",
                    gnutls_strerror(result));
    }
    return result >= 0;
}

GwPageTagger *
gw_page_tagger_new(const uint8_t key[GW_PAGE_TAG_KEY_BYTES], GError **error)
{
    g_autofree GwPageTagger *tagger = g_new0(GwPageTagger, 1);
    /* The library does not write to it. */
    gnutls_datum_t datum = {.data = (uint8_t *)key, .size = GW_PAGE_TAG_KEY_BYTES};
    int result = gnutls_aead_cipher_init(&tagger->cipher, GNUTLS_CIPHER_AES_256_GCM, &datum);

    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "GnuTLS does not offer AES-256-GCM, which page tags need: %s",
                    gnutls_strerror(result));
        return NULL;
    }
    return g_steal_pointer(&tagger);
}

void
gw_page_tagger_free(GwPageTagger *tagger)
{
    if (tagger) {
        gnutls_aead_cipher_deinit(tagger->cipher);
        g_free(tagger);
    }
}

void
gw_page_tag(GwPageTagger *tagger, const uint8_t *page, GwPageTag *out)
{
    static const uint8_t nonce[NONCE_BYTES];
    size_t len = GW_PAGE_TAG_BYTES;
    int result = gnutls_aead_cipher_encrypt(tagger->cipher, nonce, NONCE_BYTES, page, GW_PAGE_BYTES,
                                            GW_PAGE_TAG_BYTES, NULL, 0, out->bytes, &len);

    if (result < 0 || len != GW_PAGE_TAG_BYTES) {
        g_error("GnuTLS cannot tag a page: %s", gnutls_strerror(result));
    }
}
