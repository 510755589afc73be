// SPDX-License-Identifier: Apache-2.0
/*
 * The target's side of references: reading the blocks, proving the pages, taking what is missing.
 *
 * A GwRefTarget owns its opened images; a GwRefPages owns one frame's pages, at most 1 MiB. One
 * thread each. Sections and fills are hostile input: numbers are checked before anything is read,
 * and no page is given out before the proof of all of them agrees. A block that is not there or
 * cannot be read is missing, which is no error; an image that was not agreed on is one.
 */
#include "base/cursor.h"
#include "lane/image_ref.h"
#include "lane/image_sha256.h"

#include <string.h>

struct GwRefTarget {
    GwImage *images[GW_REF_MAX_IMAGES];
};

struct GwRefPages {
    unsigned n_pages;
    unsigned n_filled;
    bool proven;
    bool cold;
    uint8_t proof[GW_REF_PROOF_BYTES]; /* that all pages together must have */
    GwRef refs[GW_REF_MAX_PAGES];
    GwPageTag tags[GW_REF_MAX_PAGES]; /* of those that are known */
    bool known[GW_REF_MAX_PAGES];
    bool filled[GW_REF_MAX_PAGES];
    GByteArray *need; /* the tags, once they were asked for */
    uint8_t *pages;
};

GwRefTarget *
gw_ref_target_new(void)
{
    return g_new0(GwRefTarget, 1);
}

void
gw_ref_target_free(GwRefTarget *target)
{
    if (!target) {
        return;
    }
    for (unsigned i = 0; i < GW_REF_MAX_IMAGES; i++) {
        gw_image_free(target->images[i]);
    }
    g_free(target);
}

void
gw_ref_target_set_image(GwRefTarget *target, unsigned number, GwImage *image)
{
    g_return_if_fail(number < GW_REF_MAX_IMAGES);
    gw_image_free(target->images[number]);
    target->images[number] = image;
}

void
gw_ref_pages_free(GwRefPages *pages)
{
    if (!pages) {
        return;
    }
    g_clear_pointer(&pages->need, g_byte_array_unref);
    g_free(pages->pages);
    g_free(pages);
}

static bool
damaged(GError **error, const char *what)
{
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the peer sent damaged references: %s", what);
    return false;
}

static uint8_t *
page_at(const GwRefPages *pages, unsigned number)
{
    return pages->pages + (size_t)number * GW_PAGE_BYTES;
}

/* --- sections --------------------------------------------------------------------------------- */

/* One run; @next: where each image's last run ended. */
static bool
take_run(const GwRefTarget *target, GwCursor *cursor, GwRefPages *pages, uint8_t *image,
         int64_t next[GW_REF_MAX_IMAGES], GError **error)
{
    uint64_t head = gw_cursor_varint(cursor);
    uint64_t count = (head >> 1) + 1;

    if (head & 1) {
        *image = gw_cursor_u8(cursor);
    }
    uint64_t difference = gw_cursor_varint(cursor);

    if (cursor->failed || count > GW_REF_MAX_PAGES - pages->n_pages ||
        difference > 4 * GW_IMAGE_MAX_BLOCKS) {
        return damaged(error, "a run is cut off or has an impossible size");
    }
    if (*image >= GW_REF_MAX_IMAGES || !target->images[*image]) {
        return damaged(error, "an image that was not agreed on");
    }
    int64_t first = next[*image] + gw_unzigzag(difference);

    if (first < 0 || (uint64_t)first + count > GW_IMAGE_MAX_BLOCKS) {
        return damaged(error, "a block that no disk has");
    }
    for (uint64_t i = 0; i < count; i++) {
        pages->refs[pages->n_pages++] = (GwRef){.block = (uint64_t)first + i, .image = *image};
    }
    next[*image] = first + (int64_t)count;
    return true;
}

static bool
decode_section(const GwRefTarget *target, const uint8_t *section, size_t len, GwRefPages *pages,
               GError **error)
{
    GwCursor cursor = gw_cursor(section, len);
    const uint8_t *proof = gw_cursor_bytes(&cursor, GW_REF_PROOF_BYTES);
    int64_t next[GW_REF_MAX_IMAGES] = {0};
    uint8_t image = 0;

    if (!proof) {
        return damaged(error, "the proof is cut off");
    }
    memcpy(pages->proof, proof, GW_REF_PROOF_BYTES);
    while (gw_cursor_left(&cursor) > 0) {
        if (!take_run(target, &cursor, pages, &image, next, error)) {
            return false;
        }
    }
    return true;
}

/* --- reading and proving ---------------------------------------------------------------------- */

/* The pages that one image has to give. */
static void
read_from(GwImage *image, unsigned number, GwPageTagger *tagger, GwRefPages *pages)
{
    GwImageRead reads[GW_REF_MAX_PAGES];
    size_t n = 0;

    for (unsigned i = 0; i < pages->n_pages; i++) {
        if (pages->refs[i].image == number) {
            reads[n++] = (GwImageRead){.block = pages->refs[i].block, .out = page_at(pages, i)};
        }
    }
    if (n > 0) {
        pages->cold |= gw_image_read(image, reads, n);
    }
    for (size_t i = 0; i < n; i++) {
        size_t page = (size_t)(reads[i].out - pages->pages) / GW_PAGE_BYTES;

        pages->known[page] = reads[i].known;
        if (reads[i].known) {
            gw_page_tag(tagger, reads[i].out, &pages->tags[page]);
        }
    }
}

static void
prove(GwRefPages *pages)
{
    uint8_t proof[GW_REF_PROOF_BYTES];

    for (unsigned i = 0; i < pages->n_pages; i++) {
        if (!pages->known[i]) {
            return;
        }
    }
    gw_ref_proof(pages->tags, pages->n_pages, proof);
    pages->proven = memcmp(proof, pages->proof, GW_REF_PROOF_BYTES) == 0;
}

GwRefPages *
gw_ref_target_resolve(GwRefTarget *target, GwPageTagger *tagger, const uint8_t *section, size_t len,
                      unsigned n_pages, GError **error)
{
    g_autoptr(GwRefPages) pages = g_new0(GwRefPages, 1);

    if (!decode_section(target, section, len, pages, error)) {
        return NULL;
    }
    if (pages->n_pages != n_pages || n_pages == 0) {
        damaged(error, "not as many as pages that need them");
        return NULL;
    }
    pages->pages = g_try_malloc((gsize)n_pages * GW_PAGE_BYTES);
    if (!pages->pages) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "not enough memory for referenced pages");
        return NULL;
    }
    for (unsigned i = 0; i < GW_REF_MAX_IMAGES; i++) {
        if (target->images[i]) {
            read_from(target->images[i], i, tagger, pages);
        }
    }
    prove(pages);
    return g_steal_pointer(&pages);
}

void
gw_ref_target_prefetch(GwRefTarget *target, const uint8_t *section, size_t len)
{
    g_autofree GwRefPages *pages = g_new0(GwRefPages, 1);

    if (!decode_section(target, section, len, pages, NULL)) {
        return; /* which is told when it is resolved */
    }
    for (unsigned i = 0; i < pages->n_pages;) {
        const GwRef *first = &pages->refs[i];
        unsigned count = gw_ref_run(first, pages->n_pages - i);

        gw_image_prefetch(target->images[first->image], first->block, count);
        i += count;
    }
}

bool
gw_ref_pages_is_proven(const GwRefPages *pages)
{
    return pages->proven;
}

bool
gw_ref_pages_were_cold(const GwRefPages *pages)
{
    return pages->cold;
}

const uint8_t *
gw_ref_pages_get(const GwRefPages *pages, unsigned number)
{
    return pages->proven && number < pages->n_pages ? page_at(pages, number) : NULL;
}

const GwPageTag *
gw_ref_pages_tag(const GwRefPages *pages, unsigned number)
{
    return pages->proven && number < pages->n_pages ? &pages->tags[number] : NULL;
}

/* --- what is missing -------------------------------------------------------------------------- */

void
gw_ref_pages_need(GwRefPages *pages, uint64_t sequence, GByteArray *out)
{
    if (!pages->need) {
        const guint bytes = pages->n_pages * GW_PAGE_TAG_BYTES;

        pages->need = g_byte_array_sized_new(bytes);
        g_byte_array_set_size(pages->need, bytes);
        memset(pages->need->data, 0, bytes);
        for (unsigned i = 0; i < pages->n_pages; i++) {
            if (pages->known[i]) {
                memcpy(pages->need->data + (size_t)i * GW_PAGE_TAG_BYTES, pages->tags[i].bytes,
                       GW_PAGE_TAG_BYTES);
            }
        }
    }
    gw_put_be64(out, sequence);
    gw_put_be16(out, (uint16_t)pages->n_pages);
    g_byte_array_append(out, pages->need->data, pages->need->len);
}

typedef struct Fill {
    unsigned n_missing;
    unsigned n_pages;
    const GwCodec *codec;
    const uint8_t *numbers; /* be16 each */
    const uint8_t *body;
    size_t body_len;
} Fill;

static bool
take_fill(const GwRefPages *pages, const uint8_t *payload, size_t len, Fill *fill, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    int last = -1;

    (void)gw_cursor_be64(&cursor); /* by it the caller found the pages */
    fill->n_missing = gw_cursor_be16(&cursor);
    fill->n_pages = gw_cursor_be16(&cursor);
    fill->codec = gw_codec_find(gw_cursor_u8(&cursor));
    fill->numbers = gw_cursor_bytes(&cursor, (size_t)fill->n_pages * 2);
    if (!fill->numbers || fill->n_pages > GW_REF_FILL_PAGES || fill->n_missing > pages->n_pages ||
        !fill->codec) {
        return damaged(error, "the header of a fill");
    }
    GwCursor numbers = gw_cursor(fill->numbers, (size_t)fill->n_pages * 2);

    for (unsigned i = 0; i < fill->n_pages; i++) {
        int number = gw_cursor_be16(&numbers);

        if (number <= last || number >= (int)pages->n_pages) {
            return damaged(error, "a fill of pages that were not missing");
        }
        last = number;
    }
    fill->body_len = gw_cursor_left(&cursor);
    fill->body = gw_cursor_bytes(&cursor, fill->body_len);
    return true;
}

static void
put_pages(GwRefPages *pages, GwPageTagger *tagger, const Fill *fill, const uint8_t *contents)
{
    GwCursor numbers = gw_cursor(fill->numbers, (size_t)fill->n_pages * 2);

    for (unsigned i = 0; i < fill->n_pages; i++) {
        unsigned number = gw_cursor_be16(&numbers);

        memcpy(page_at(pages, number), contents + (size_t)i * GW_PAGE_BYTES, GW_PAGE_BYTES);
        gw_page_tag(tagger, page_at(pages, number), &pages->tags[number]);
        pages->n_filled += !pages->filled[number];
        pages->filled[number] = true;
        pages->known[number] = true;
    }
}

static bool
decode_fill(GwRefPages *pages, GwPageTagger *tagger, const Fill *fill, GError **error)
{
    const size_t len = (size_t)fill->n_pages * GW_PAGE_BYTES;
    g_autofree uint8_t *room = g_try_malloc(MAX(len, 1));

    if (!room) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "not enough memory for referenced pages");
        return false;
    }
    void *decoder = fill->codec->decoder_new();
    const uint8_t *contents = fill->codec->decode(decoder, fill->body, fill->body_len, room, len);

    if (contents) {
        put_pages(pages, tagger, fill, contents);
    }
    fill->codec->decoder_free(decoder);
    return contents || damaged(error, "a fill that does not decode");
}

bool
gw_ref_pages_fill(GwRefPages *pages, GwPageTagger *tagger, const uint8_t *payload, size_t len,
                  GError **error)
{
    Fill fill;

    if (!take_fill(pages, payload, len, &fill, error)) {
        return false;
    }
    if (pages->proven) {
        return true;
    }
    /* The tags that were sent are of what was there then. */
    if (!pages->need) {
        return damaged(error, "a fill that was not asked for");
    }
    if (!decode_fill(pages, tagger, &fill, error)) {
        return false;
    }
    if (pages->n_filled >= fill.n_missing) {
        prove(pages);
        if (!pages->proven) {
            return damaged(error, "with all that was missing they are not what was announced");
        }
    }
    return true;
}
