// SPDX-License-Identifier: Apache-2.0
/* Page tags: the right function, of every bit of the page and the key. */
#include "lane/page_tag.h"

#include "ramstream/ramstream.h"

#include <gnutls/crypto.h>
#include <string.h>

static GwPageTagger *
new_tagger(const uint8_t key[GW_PAGE_TAG_KEY_BYTES])
{
    g_autoptr(GError) error = NULL;
    GwPageTagger *tagger = gw_page_tagger_new(key, &error);

    g_assert_no_error(error);
    g_assert_nonnull(tagger);
    return tagger;
}

static void
fill(uint8_t *page)
{
    for (unsigned i = 0; i < GW_PAGE_BYTES; i++) {
        page[i] = (uint8_t)g_test_rand_int();
    }
}

/* GMAC is GCM without content: the library has it as another function. */
static void
test_is_gmac(void)
{
    uint8_t key[GW_PAGE_TAG_KEY_BYTES], page[GW_PAGE_BYTES], expected[GW_PAGE_TAG_BYTES];
    const uint8_t nonce[12] = {0};
    gnutls_hmac_hd_t gmac;
    GwPageTag tag;

    g_assert_true(gw_page_tag_key(key, NULL));
    g_autoptr(GwPageTagger) tagger = new_tagger(key);

    for (unsigned i = 0; i < 100; i++) {
        fill(page);
        gw_page_tag(tagger, page, &tag);
        g_assert_cmpint(gnutls_hmac_init(&gmac, GNUTLS_MAC_AES_GMAC_256, key, sizeof(key)), ==, 0);
        gnutls_hmac_set_nonce(gmac, nonce, sizeof(nonce));
        gnutls_hmac(gmac, page, sizeof(page));
        gnutls_hmac_deinit(gmac, expected);
        g_assert_cmpmem(tag.bytes, GW_PAGE_TAG_BYTES, expected, sizeof(expected));
    }
}

static void
test_every_bit_counts(void)
{
    uint8_t key[GW_PAGE_TAG_KEY_BYTES], page[GW_PAGE_BYTES];
    GwPageTag tag, again, other;

    g_assert_true(gw_page_tag_key(key, NULL));
    g_autoptr(GwPageTagger) tagger = new_tagger(key);

    fill(page);
    gw_page_tag(tagger, page, &tag);
    for (unsigned bit = 0; bit < 8 * GW_PAGE_BYTES; bit++) {
        page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        gw_page_tag(tagger, page, &other);
        page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        g_assert_cmpint(memcmp(&tag, &other, sizeof(tag)), !=, 0);
    }
    gw_page_tag(tagger, page, &again);
    g_assert_cmpmem(&tag, sizeof(tag), &again, sizeof(again));
}

static void
test_keys_differ(void)
{
    uint8_t key[GW_PAGE_TAG_KEY_BYTES], page[GW_PAGE_BYTES] = {0};
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (unsigned i = 0; i < 1000; i++) {
        GwPageTag tag;

        g_assert_true(gw_page_tag_key(key, NULL));
        g_autoptr(GwPageTagger) tagger = new_tagger(key);
        gw_page_tag(tagger, page, &tag);
        g_assert_true(g_hash_table_add(seen, g_base64_encode(tag.bytes, sizeof(tag.bytes))));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-tag/is-gmac", test_is_gmac);
    g_test_add_func("/page-tag/every-bit-counts", test_every_bit_counts);
    g_test_add_func("/page-tag/keys-differ", test_keys_differ);
    return g_test_run();
}
