// SPDX-License-Identifier: Apache-2.0
/*
 * Agreement on the images that both sides can read.
 *
 * Owns nothing; the thread that has the image: making an offer reads at most MAX_STEPS blocks for
 * each of GW_REF_MAX_SAMPLES samples, one as a rule, and a slow disk may take its time for them. An
 * offer that arrives is hostile input, checked whole before anything is read. Making an offer
 * cannot fail: an image without data has no samples, and is not taken then.
 */
#include "lane/image_ref.h"
#include "lane/image_sha256.h"

#include <string.h>

/* How far to look for a sample behind the place where it should be: blocks read, gaps crossed. */
#define MAX_STEPS 64u

static bool
read_block(GwImage *image, uint64_t block, uint8_t *page)
{
    GwImageRead read = {.block = block, .out = page};

    gw_image_read(image, &read, 1);
    return read.known;
}

/*
 * The first block at or behind @block that the file itself has and that tells it from others: zero
 * blocks are on every disk.
 */
static bool
find_sample(GwImage *image, uint64_t *block, uint8_t *page)
{
    uint64_t end = gw_image_n_blocks(image);

    for (unsigned i = 0; i < MAX_STEPS && *block < end; i++) {
        GwImageExtent extent = gw_image_map_layer(image, 0, *block, end - *block);
        bool has_data = extent.content == GW_IMAGE_DATA;

        if (has_data && read_block(image, *block, page) && !gw_page_repeats(page)) {
            return true;
        }
        *block += has_data ? 1 : extent.n_blocks;
    }
    return false;
}

void
gw_ref_offer_make(GwImage *image, GwRefOffer *out)
{
    const uint64_t n_blocks = gw_image_n_blocks(image);
    uint8_t page[GW_PAGE_BYTES];
    uint64_t next = 0;

    *out = (GwRefOffer){.n_blocks = n_blocks};
    for (uint64_t i = 0; i < GW_REF_MAX_SAMPLES; i++) {
        /* From the middle of each part of the disk. */
        uint64_t block = MAX(next, n_blocks * (2 * i + 1) / (2 * GW_REF_MAX_SAMPLES));

        if (find_sample(image, &block, page)) {
            GwRefSample *sample = &out->samples[out->n_samples++];

            sample->block = block;
            gw_sha256(page, GW_PAGE_BYTES, sample->sha256);
            next = block + 1;
        }
    }
}

static char *
hex(const uint8_t *bytes)
{
    GString *text = g_string_sized_new((gsize)2 * GW_SHA256_BYTES);

    for (unsigned i = 0; i < GW_SHA256_BYTES; i++) {
        g_string_append_printf(text, "%02x", bytes[i]);
    }
    return g_string_free(text, FALSE);
}

static bool
unhex(const char *text, uint8_t *bytes)
{
    if (strlen(text) != (size_t)2 * GW_SHA256_BYTES) {
        return false;
    }
    for (unsigned i = 0; i < GW_SHA256_BYTES; i++) {
        int high = g_ascii_xdigit_value(text[2 * i]);
        int low = g_ascii_xdigit_value(text[2 * i + 1]);

        if (high < 0 || low < 0) {
            return false;
        }
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

json_t *
gw_ref_offer_to_json(const GwRefOffer *offer)
{
    json_t *object = json_object();
    json_t *samples = json_array();

    gw_json_set_int(object, "blocks", (int64_t)offer->n_blocks);
    for (unsigned i = 0; i < offer->n_samples; i++) {
        json_t *sample = json_object();
        g_autofree char *digest = hex(offer->samples[i].sha256);

        gw_json_set_int(sample, "block", (int64_t)offer->samples[i].block);
        gw_json_set_str(sample, "sha256", digest);
        json_array_append_new(samples, sample);
    }
    json_object_set_new(object, "samples", samples);
    return object;
}

static bool
take_sample(const json_t *object, uint64_t n_blocks, GwRefSample *out, GError **error)
{
    const char *digest;
    int64_t block;

    if (!gw_json_need_int(object, "block", 0, (int64_t)n_blocks - 1, &block, error) ||
        !gw_json_need_string(object, "sha256", &digest, error)) {
        return false;
    }
    out->block = (uint64_t)block;
    if (!unhex(digest, out->sha256)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "'sha256' is not a SHA-256");
        return false;
    }
    return true;
}

bool
gw_ref_offer_from_json(const json_t *object, GwRefOffer *out, GError **error)
{
    const json_t *samples = json_object_get(object, "samples");
    GwRefOffer offer = {0};
    int64_t n_blocks;
    g_autoptr(GError) why = NULL;

    bool ok = gw_json_need_int(object, "blocks", 0, (int64_t)GW_IMAGE_MAX_BLOCKS, &n_blocks, &why);
    if (ok && (!json_is_array(samples) || json_array_size(samples) > GW_REF_MAX_SAMPLES)) {
        g_set_error(&why, GW_ERROR, GW_ERROR_PROTOCOL, "'samples' is no list, or too long a one");
        ok = false;
    }
    for (size_t i = 0; ok && i < json_array_size(samples); i++) {
        ok = take_sample(json_array_get(samples, i), (uint64_t)n_blocks,
                         &offer.samples[offer.n_samples++], &why);
    }
    if (!ok) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer offered a disk image in a way that cannot be understood: %s",
                    why->message);
        return false;
    }
    offer.n_blocks = (uint64_t)n_blocks;
    *out = offer;
    return true;
}

bool
gw_ref_offer_check(const GwRefOffer *offer, GwImage *image, GError **error)
{
    const char *path = gw_image_layer_path(image, 0);
    unsigned n_equal = 0;

    if (offer->n_blocks != gw_image_n_blocks(image)) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the disk in '%s' is not of the size that the source's has", path);
        return false;
    }
    for (unsigned i = 0; i < offer->n_samples; i++) {
        uint8_t page[GW_PAGE_BYTES];
        uint8_t digest[GW_SHA256_BYTES];

        if (read_block(image, offer->samples[i].block, page)) {
            gw_sha256(page, GW_PAGE_BYTES, digest);
            n_equal += memcmp(digest, offer->samples[i].sha256, GW_SHA256_BYTES) == 0;
        }
    }
    if (n_equal == 0 || 2 * n_equal < offer->n_samples) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "of %u blocks that the source has, '%s' has %u: not the same disk",
                    offer->n_samples, path, n_equal);
        return false;
    }
    return true;
}
