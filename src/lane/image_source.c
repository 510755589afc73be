// SPDX-License-Identifier: Apache-2.0
/*
 * The source's side of references: finding blocks for pages, and the group of one frame.
 *
 * A GwRefSource owns the indexes of a move; they are built by threads of their own. Looking up is
 * for any thread and takes no lock; an image counts from the moment it is taken into use until it
 * has missed too often. A GwRefGroup owns its pages until the frame is acknowledged:
 * the caller bounds them all together by GW_REF_MAX_UNPROVEN_PAGES. What a target sends (NEED) is
 * hostile input: it is compared with, and can only fetch, what the group has.
 */
#include "base/cursor.h"
#include "lane/image_cache.h"
#include "lane/image_ref.h"
#include "lane/image_sha256.h"

#include <stdatomic.h>
#include <string.h>

/* Look-ups on their way at once, while memory is being fetched. */
#define AHEAD 32u

/* An image is given up beyond this many misses, if they are more than one in MISS_SHARE. */
#define FREE_MISSES 64u
#define MISS_SHARE  8u

/* Answers to one frame: once per connection that is lost, and not for ever. */
#define MAX_NEEDS 64u

#define FILL_CODEC_AT 12u

#define NO_BLOCK (-1)

typedef struct SourceImage {
    GwImageIndex *index; /* NULL: the visit */
    _Atomic bool in_use;
    _Atomic uint64_t refs;
    _Atomic uint64_t misses;
} SourceImage;

struct GwRefSource {
    char *cache_folder;
    uint64_t max_table_bytes;
    uint64_t max_cache_bytes;
    bool is_awaited;
    uint64_t seed;
    _Atomic unsigned n_images;
    SourceImage images[GW_REF_MAX_IMAGES];
    GwVisitTags *visit; /* NULL: none */
    uint8_t visit_number;
    int8_t visit_blocks[GW_RAM_MAX_BLOCKS]; /* of the stream → of the visit */
};

struct GwRefGroup {
    unsigned n_pages;
    bool encoded;
    GwRef refs[GW_REF_MAX_PAGES];
    GwPageTag tags[GW_REF_MAX_PAGES];
    uint32_t at[GW_REF_MAX_PAGES]; /* where in `base` the page is */
    const uint8_t *base;
    uint8_t *copies; /* is `base`, or: */
    GwFrame *frame;  /* its payload is */
    /* The answer to a NEED. */
    unsigned n_needs;
    uint64_t sequence;
    uint16_t missing[GW_REF_MAX_PAGES];
    unsigned n_missing;
    unsigned n_filled; /* of the missing, in FILLs that were made */
    bool fill_due;
};

/* --- images ----------------------------------------------------------------------------------- */

GwRefSource *
gw_ref_source_new(const GwRefSourceOptions *options)
{
    GwRefSource *source = g_new0(GwRefSource, 1);

    source->cache_folder = g_strdup(options->cache_folder);
    source->max_table_bytes = options->max_table_bytes;
    source->max_cache_bytes = options->max_cache_bytes;
    source->is_awaited = options->is_awaited;
    source->seed = gw_image_cache_seed(options->cache_folder);
    return source;
}

void
gw_ref_source_free(GwRefSource *source)
{
    if (!source) {
        return;
    }
    for (unsigned i = 0; i < source->n_images; i++) { /* index NULL: fine */
        gw_image_index_free(source->images[i].index);
    }
    gw_visit_tags_free(source->visit);
    g_free(source->cache_folder);
    g_free(source);
}

bool
gw_ref_source_add(GwRefSource *source, const char *path, const char *format, GError **error)
{
    const GwImageIndexOptions options = {
        .path = path,
        .format = format,
        .seed = source->seed,
        .max_table_bytes = source->max_table_bytes,
        .cache_folder = source->cache_folder,
        .max_cache_bytes = source->max_cache_bytes,
        .is_awaited = source->is_awaited,
    };
    unsigned number = atomic_load(&source->n_images);

    if (number == GW_REF_MAX_IMAGES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "no more than %u disk image files can be referenced: '%s' is left out",
                    GW_REF_MAX_IMAGES, path);
        return false;
    }
    source->images[number].index = gw_image_index_start(&options, error);
    if (!source->images[number].index) {
        return false;
    }
    atomic_store(&source->n_images, number + 1);
    return true;
}

bool
gw_ref_source_add_visit(GwRefSource *source, GwVisitTags *visit, GError **error)
{
    unsigned number = atomic_load(&source->n_images);

    if (number == GW_REF_MAX_IMAGES || source->visit) {
        gw_visit_tags_free(visit);
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "no more than %u images and one visit can be referenced", GW_REF_MAX_IMAGES);
        return false;
    }
    memset(source->visit_blocks, NO_BLOCK, sizeof(source->visit_blocks));
    source->visit = visit;
    source->visit_number = (uint8_t)number;
    atomic_store(&source->n_images, number + 1);
    return true;
}

void
gw_ref_source_use(GwRefSource *source, unsigned image)
{
    if (image < atomic_load(&source->n_images)) {
        atomic_store(&source->images[image].in_use, true);
    }
}

bool
gw_ref_source_figures(GwRefSource *source, unsigned image, GwRefSourceFigures *out)
{
    if (image >= atomic_load(&source->n_images)) {
        return false;
    }
    SourceImage *found = &source->images[image];

    if (found->index) {
        gw_image_index_figures(found->index, &out->index);
    } else {
        out->index = (GwImageIndexFigures){.state = GW_IMAGE_INDEX_COMPLETE,
                                           .memory_bytes = gw_visit_tags_bytes(source->visit)};
    }
    out->refs = atomic_load(&found->refs);
    out->misses = atomic_load(&found->misses);
    out->in_use = atomic_load(&found->in_use);
    return true;
}

void
gw_ref_source_totals(GwRefSource *source, GwRefTotals *out)
{
    GwRefSourceFigures figures;

    *out = (GwRefTotals){0};
    for (unsigned i = 0; gw_ref_source_figures(source, i, &figures); i++) {
        out->refs += figures.refs;
        out->misses += figures.misses;
        out->memory_bytes += figures.index.memory_bytes;
    }
}

static void
count_miss(GwRefSource *source, unsigned image)
{
    SourceImage *missed = &source->images[image];
    uint64_t misses = atomic_fetch_add(&missed->misses, 1) + 1;

    if (misses > FREE_MISSES && misses > atomic_load(&missed->refs) / MISS_SHARE) {
        atomic_store(&missed->in_use, false);
    }
}

/* --- look-ups --------------------------------------------------------------------------------- */

static unsigned
images_in_use(GwRefSource *source, uint8_t numbers[GW_REF_MAX_IMAGES])
{
    unsigned n = 0;

    for (unsigned i = 0; i < atomic_load(&source->n_images); i++) {
        const SourceImage *image = &source->images[i];

        if (image->index && atomic_load_explicit(&image->in_use, memory_order_acquire)) {
            numbers[n++] = (uint8_t)i;
        }
    }
    return n;
}

static GwRef
find(GwRefSource *source, const uint8_t *numbers, unsigned n_numbers, uint64_t hash)
{
    GwRef ref = {.image = GW_REF_NO_IMAGE};

    for (unsigned i = 0; i < n_numbers; i++) {
        SourceImage *image = &source->images[numbers[i]];

        if (gw_image_index_find(image->index, hash, &ref.block)) {
            ref.image = numbers[i];
            atomic_fetch_add_explicit(&image->refs, 1, memory_order_relaxed);
            return ref;
        }
    }
    return ref;
}

unsigned
gw_ref_source_try(GwRefSource *source, const uint8_t *const *pages, unsigned n, GwRef *refs)
{
    uint8_t numbers[GW_REF_MAX_IMAGES];
    unsigned n_numbers = images_in_use(source, numbers);
    unsigned n_found = 0;

    for (unsigned first = 0; first < n; first += AHEAD) {
        unsigned end = MIN(n, first + AHEAD);
        uint64_t hashes[AHEAD];

        for (unsigned i = first; i < end && n_numbers > 0; i++) {
            hashes[i - first] = gw_image_index_hash(pages[i], source->seed);
            for (unsigned k = 0; k < n_numbers; k++) {
                gw_image_index_prefetch(source->images[numbers[k]].index, hashes[i - first]);
            }
        }
        for (unsigned i = first; i < end; i++) {
            refs[i] = n_numbers > 0 ? find(source, numbers, n_numbers, hashes[i - first])
                                    : (GwRef){.image = GW_REF_NO_IMAGE};
            n_found += refs[i].image != GW_REF_NO_IMAGE;
        }
    }
    return n_found;
}

void
gw_ref_source_name_block(GwRefSource *source, uint16_t block, const char *name)
{
    if (source->visit && block < GW_RAM_MAX_BLOCKS) {
        source->visit_blocks[block] = (int8_t)gw_visit_tags_find_block(source->visit, name);
    }
}

bool
gw_ref_source_try_visit(GwRefSource *source, uint16_t block, uint64_t page, const uint8_t *content,
                        GwRef *ref)
{
    SourceImage *image = &source->images[source->visit_number];
    int was = source->visit && block < GW_RAM_MAX_BLOCKS ? source->visit_blocks[block] : NO_BLOCK;

    if (was < 0 || !atomic_load_explicit(&image->in_use, memory_order_acquire) ||
        !gw_visit_place((uint16_t)was, page, &ref->block) ||
        !gw_visit_tags_match(source->visit, (uint16_t)was, page, content)) {
        return false;
    }
    ref->image = source->visit_number;
    atomic_fetch_add_explicit(&image->refs, 1, memory_order_relaxed);
    return true;
}

/* --- groups ----------------------------------------------------------------------------------- */

GwRefGroup *
gw_ref_group_new(void)
{
    g_autoptr(GwRefGroup) group = g_new0(GwRefGroup, 1);

    group->copies = g_try_malloc((gsize)GW_REF_MAX_PAGES * GW_PAGE_BYTES);
    group->base = group->copies;
    return group->copies ? g_steal_pointer(&group) : NULL;
}

GwRefGroup *
gw_ref_group_new_in(GwFrame *frame)
{
    GwRefGroup *group = g_new0(GwRefGroup, 1);

    group->frame = gw_frame_ref(frame);
    group->base = gw_frame_payload(frame);
    return group;
}

void
gw_ref_group_free(GwRefGroup *group)
{
    if (group) {
        g_free(group->copies);
        gw_frame_free(group->frame);
        g_free(group);
    }
}

static const uint8_t *
page_at(const GwRefGroup *group, unsigned number)
{
    return group->base + group->at[number];
}

bool
gw_ref_group_add(GwRefGroup *group, const GwRef *ref, const uint8_t *page, const GwPageTag *tag)
{
    if (group->encoded || group->n_pages == GW_REF_MAX_PAGES || ref->image >= GW_REF_MAX_IMAGES) {
        return false;
    }
    if (group->copies) {
        group->at[group->n_pages] = group->n_pages * GW_PAGE_BYTES;
        memcpy(group->copies + group->at[group->n_pages], page, GW_PAGE_BYTES);
    } else {
        group->at[group->n_pages] = (uint32_t)(page - group->base);
    }
    group->tags[group->n_pages] = *tag;
    group->refs[group->n_pages++] = *ref;
    return true;
}

unsigned
gw_ref_group_n_pages(const GwRefGroup *group)
{
    return group->n_pages;
}

void
gw_ref_group_encode(GwRefGroup *group, GByteArray *out)
{
    int64_t next[GW_REF_MAX_IMAGES] = {0};
    uint8_t proof[GW_REF_PROOF_BYTES];
    unsigned image = 0;

    gw_ref_proof(group->tags, group->n_pages, proof);
    g_byte_array_append(out, proof, GW_REF_PROOF_BYTES);
    for (unsigned i = 0; i < group->n_pages;) {
        const GwRef *first = &group->refs[i];
        unsigned count = gw_ref_run(first, group->n_pages - i);

        gw_put_varint(out, (uint64_t)(count - 1) << 1 | (first->image != image));
        if (first->image != image) {
            image = first->image;
            gw_put_u8(out, first->image);
        }
        gw_put_varint(out, gw_zigzag((int64_t)first->block - next[image]));
        next[image] = (int64_t)(first->block + count);
        i += count;
    }
    group->encoded = true;
    if (group->copies) {
        group->copies = g_realloc(group->copies, MAX(group->n_pages, 1) * (gsize)GW_PAGE_BYTES);
        group->base = group->copies;
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

bool
gw_ref_sequence(const uint8_t *payload, size_t len, uint64_t *sequence, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    uint64_t number = gw_cursor_be64(&cursor);

    if (cursor.failed) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent a question or answer about references that is cut off");
        return false;
    }
    *sequence = number;
    return true;
}

/* The tags of a NEED for this group; NULL: it is none. */
static const uint8_t *
tags_of(const GwRefGroup *group, const uint8_t *need, size_t len)
{
    GwCursor cursor = gw_cursor(need, len);

    (void)gw_cursor_be64(&cursor);
    unsigned n_pages = gw_cursor_be16(&cursor);
    const uint8_t *tags = gw_cursor_bytes(&cursor, (size_t)n_pages * GW_PAGE_TAG_BYTES);

    return tags && gw_cursor_left(&cursor) == 0 && n_pages == group->n_pages ? tags : NULL;
}

bool
gw_ref_group_take_need(GwRefGroup *group, GwRefSource *source, const uint8_t *need, size_t len,
                       GError **error)
{
    const uint8_t *tags = group->encoded ? tags_of(group, need, len) : NULL;

    if (!tags || !gw_ref_sequence(need, len, &group->sequence, NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer asked for referenced pages that were not referenced");
        return false;
    }
    if (group->n_needs == MAX_NEEDS) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer asked for the same referenced pages again and again");
        return false;
    }
    group->n_missing = 0;
    group->n_filled = 0;
    group->fill_due = true;
    for (unsigned i = 0; i < group->n_pages; i++) {
        if (memcmp(group->tags[i].bytes, tags + (size_t)i * GW_PAGE_TAG_BYTES, GW_PAGE_TAG_BYTES) !=
            0) {
            group->missing[group->n_missing++] = (uint16_t)i;
            if (group->n_needs == 0) {
                count_miss(source, group->refs[i].image);
            }
        }
    }
    group->n_needs++;
    return true;
}

/* Appends @raw as it is or smaller; which, goes to the codec's place in the header. */
static void
append_body(GByteArray *fill, const GByteArray *raw, const GwCodec *codec, void *encoder)
{
    guint header_len = fill->len;
    size_t len = 0;

    g_byte_array_set_size(fill, header_len + raw->len);
    if (raw->len > 0) {
        len = codec->encode(encoder, raw->data, raw->len, fill->data + header_len, raw->len - 1);
    }
    if (len > 0) {
        g_byte_array_set_size(fill, header_len + (guint)len);
    } else if (raw->len > 0) {
        memcpy(fill->data + header_len, raw->data, raw->len);
    }
    fill->data[FILL_CODEC_AT] = (uint8_t)(len > 0 ? codec->id : GW_CODEC_PLAIN);
}

GBytes *
gw_ref_group_next_fill(GwRefGroup *group, const GwCodec *codec, void *encoder)
{
    const unsigned first = group->n_filled;
    const unsigned n = MIN(group->n_missing - first, GW_REF_FILL_PAGES);
    g_autoptr(GByteArray) raw = g_byte_array_new();

    if (!group->fill_due) {
        return NULL;
    }
    GByteArray *fill = g_byte_array_sized_new(GW_REF_FILL_HEADER_BYTES + n * (2u + GW_PAGE_BYTES));

    gw_put_be64(fill, group->sequence);
    gw_put_be16(fill, (uint16_t)group->n_missing);
    gw_put_be16(fill, (uint16_t)n);
    gw_put_u8(fill, 0);
    for (unsigned i = first; i < first + n; i++) {
        gw_put_be16(fill, group->missing[i]);
        g_byte_array_append(raw, page_at(group, group->missing[i]), GW_PAGE_BYTES);
    }
    append_body(fill, raw, codec, encoder);
    group->n_filled += n;
    group->fill_due = group->n_filled < group->n_missing;
    return g_byte_array_free_to_bytes(fill);
}
