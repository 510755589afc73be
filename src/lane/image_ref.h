// SPDX-License-Identifier: Apache-2.0
/*
 * References: pages that are not sent because the target has them on a disk that it can read.
 *
 * 1. Agreement, before the stream. For each image file the source offers its size and the SHA-256
 *    of a few blocks; the target compares with what it has in that image's place and takes it or
 *    not. The target alone decides what file that is: no path travels.
 * 2. The source finds blocks for pages (GwRefSource) and collects them, with copies of the pages,
 *    for one frame (GwRefGroup). The frame carries the section below: block numbers, and one
 *    proof for all the pages together. The group is kept until the frame is acknowledged.
 * 3. The target reads the blocks, tags them (page_tag.h) and computes the same proof (GwRefTarget,
 *    GwRefPages). If it agrees the pages are proven.
 * 4. If it does not, the target tells the tag of each page it has (NEED); the source compares with
 *    those of its copies and sends what differs (FILL); the target proves the whole again. One
 *    round trip, whatever the number of pages.
 *
 * The proof is the beginning of a SHA-256 over the pages' tags, which both ends compute of every
 * page anyway. It accepts a wrong page if its tag is the right one's, or if two lists of tags have
 * the same 128 bits of SHA-256. A guest may choose the pages, and with its disk also what the
 * target reads in their place; it neither knows the stream's key nor sees a tag, a proof or a NEED,
 * which travel within TLS between the two that have the key, and of a comparison it can learn at
 * most that it failed. So for each page that it tries the first has a probability of at most
 * 257 / 2^128, and the second, over values that it cannot choose, one of 1 / 2^128 for each frame.
 * A SHA-256 over the pages would prove no more by anything that can happen, at four times the cost.
 *
 * So neither an old index nor a disk that was written meanwhile, nor a guest that makes pages with
 * equal fast hashes, can put a wrong page into the target: it can only cost bytes. An image that
 * misses too often is not used any more.
 *
 * Section of a frame, for the frame's referenced pages in their order:
 *
 *     offset size
 *          0   16  proof: the first 16 bytes of the SHA-256 over their tags, 16 bytes each
 *         16    …  runs until the end:
 *     varint  2 × (count − 1), or that + 1: the image is another one than the last run's (at first
 *             image 0), then
 *             u8  image
 *     varint  first block − the block after this image's last run (at first 0), as zigzag: n ≥ 0
 *             is 2n, n < 0 is −2n − 1. `count` pages are `count` blocks in a row.
 *
 * NEED, target to source:          FILL, source to target:
 *     0  8  sequence of the frame       0  8  sequence of the frame
 *     8  2  pages n, all of the frame   8  2  pages that differ, in all FILLs for this frame
 *    10 16n tag of each, or 0s         10  2  pages n that follow, at most GW_REF_FILL_PAGES
 *           where there is no page     12  1  codec, GwCodecId
 *                                      13 2n  their numbers in the frame, ascending
 *                                       … …   their contents, encoded
 *
 * Numbers are big-endian. The FILLs of a frame may come in any order and more than once, and a
 * NEED may be repeated: what is lost with a connection is asked for again.
 */
#pragma once

#include "base/json.h"
#include "lane/codec.h"
#include "lane/image.h"
#include "lane/image_index.h"
#include "lane/page_tag.h"
#include "lane/pool.h"
#include "lane/visit.h"

#define GW_REF_MAX_IMAGES  32u
#define GW_REF_MAX_PAGES   256u /* of one frame */
#define GW_REF_FILL_PAGES  64u
#define GW_SHA256_BYTES    32u
#define GW_REF_PROOF_BYTES 16u
#define GW_REF_MAX_SAMPLES 16u
/* No run of one page takes more: head, image, difference. */
#define GW_REF_RUN_MAX_BYTES     8u
#define GW_REF_SECTION_MAX_BYTES (GW_REF_PROOF_BYTES + GW_REF_MAX_PAGES * GW_REF_RUN_MAX_BYTES)
#define GW_REF_NEED_MAX_BYTES    (10u + GW_REF_MAX_PAGES * GW_PAGE_TAG_BYTES)
#define GW_REF_FILL_HEADER_BYTES 13u
#define GW_REF_FILL_MAX_BYTES    (GW_REF_FILL_HEADER_BYTES + GW_REF_FILL_PAGES * (2u + GW_PAGE_BYTES))

/* What a source may have under way, referenced and not acknowledged; what a target must hold. */
#define GW_REF_MAX_UNPROVEN_PAGES 8192u

#define GW_REF_NO_IMAGE 0xffu

typedef struct GwRef {
    uint64_t block;
    uint8_t image; /* GW_REF_NO_IMAGE: no reference */
} GwRef;

/* How many of @n references, at least one, follow each other in the first one's image. */
static inline unsigned
gw_ref_run(const GwRef *refs, unsigned n)
{
    unsigned count = 1;

    while (count < n && refs[count].image == refs->image &&
           refs[count].block == refs->block + count) {
        count++;
    }
    return count;
}

/* --- agreement -------------------------------------------------------------------------------- */

typedef struct GwRefSample {
    uint64_t block;
    uint8_t sha256[GW_SHA256_BYTES];
} GwRefSample;

typedef struct GwRefOffer {
    uint64_t n_blocks;
    unsigned n_samples;
    GwRefSample samples[GW_REF_MAX_SAMPLES];
} GwRefOffer;

/* Takes up to GW_REF_MAX_SAMPLES blocks that the file itself has, spread over the disk. */
void gw_ref_offer_make(GwImage *image, GwRefOffer *out);

/* {"blocks": n, "samples": [{"block": n, "sha256": hex} …]} and back; GW_ERROR_PROTOCOL. */
json_t *gw_ref_offer_to_json(const GwRefOffer *offer) GW_MUST_USE;
bool gw_ref_offer_from_json(const json_t *object, GwRefOffer *out, GError **error) GW_MUST_USE;

/*
 * Is @image what was offered? Yes if it has the same size and at least half of the samples: the
 * guest may be writing to it. GW_ERROR_REFUSED says why not.
 */
bool gw_ref_offer_check(const GwRefOffer *offer, GwImage *image, GError **error) GW_MUST_USE;

/* --- source: finding -------------------------------------------------------------------------- */

/* The images of a move with their indexes. Images are added by one thread. */
typedef struct GwRefSource GwRefSource;

typedef struct GwRefSourceOptions {
    const char *cache_folder; /* for indexes and the seed of their hashes; NULL: keep nothing */
    uint64_t max_table_bytes; /* of each index; 0: the default */
    uint64_t max_cache_bytes; /* of the folder; 0: the default */
    bool is_awaited;          /* by a move: image_index.h */
} GwRefSourceOptions;

typedef struct GwRefSourceFigures {
    GwImageIndexFigures index;
    uint64_t refs;   /* found */
    uint64_t misses; /* of these the target did not have */
    bool in_use;
} GwRefSourceFigures;

typedef struct GwRefTotals {
    uint64_t refs;
    uint64_t misses;
    uint64_t memory_bytes;
} GwRefTotals;

GwRefSource *gw_ref_source_new(const GwRefSourceOptions *options) GW_MUST_USE;
/* Does not wait for the threads that build indexes. No look-up may go on. */
void gw_ref_source_free(GwRefSource *source);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRefSource, gw_ref_source_free)

/*
 * Begins to index a file. Its number is the count of those before it. Not used before
 * gw_ref_source_use(). GW_ERROR_TOO_LARGE for more than GW_REF_MAX_IMAGES.
 */
bool gw_ref_source_add(GwRefSource *source, const char *path, const char *format,
                       GError **error) GW_MUST_USE;

/*
 * Adds an earlier visit to the target (transfer full) as one more image. Once, after the files.
 * GW_ERROR_TOO_LARGE.
 */
bool gw_ref_source_add_visit(GwRefSource *source, GwVisitTags *visit, GError **error) GW_MUST_USE;

/* The target took the image. Any thread. */
void gw_ref_source_use(GwRefSource *source, unsigned image);

/* Any thread; false for an image that there is not. */
bool gw_ref_source_figures(GwRefSource *source, unsigned image, GwRefSourceFigures *out);

/* Over all images. Any thread. */
void gw_ref_source_totals(GwRefSource *source, GwRefTotals *out);

/*
 * Looks for @n pages (GW_PAGE_BYTES each); refs[i] tells where pages[i] may be. Any thread, no
 * locks; many pages at once are quicker. Returns how many were found.
 */
unsigned gw_ref_source_try(GwRefSource *source, const uint8_t *const *pages, unsigned n,
                           GwRef *refs);

/*
 * The name of a RAM block of the stream, before pages of it are looked for in the visit. One
 * thread, which orders this before the look-ups.
 */
void gw_ref_source_name_block(GwRefSource *source, uint16_t block, const char *name);
/* Looks for a page that may be as it was in the visit. Any thread, no locks. */
bool gw_ref_source_try_visit(GwRefSource *source, uint16_t block, uint64_t page,
                             const uint8_t *content, GwRef *ref);

/* --- source: one frame ------------------------------------------------------------------------ */

/* The references of a frame and their pages. One thread at a time. */
typedef struct GwRefGroup GwRefGroup;

/* NULL when memory is short: 1 MiB while it is filled, what is needed after encode(). */
GwRefGroup *gw_ref_group_new(void) GW_MUST_USE;
/* One whose pages lie in @frame's payload, are not copied, and are not changed any more. */
GwRefGroup *gw_ref_group_new_in(GwFrame *frame) GW_MUST_USE;
void gw_ref_group_free(GwRefGroup *group);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRefGroup, gw_ref_group_free)

/* @tag: the page's. False: it is full, or the reference is none. Not after encode(). */
bool gw_ref_group_add(GwRefGroup *group, const GwRef *ref, const uint8_t *page,
                      const GwPageTag *tag);
unsigned gw_ref_group_n_pages(const GwRefGroup *group);

/* Appends the section to @out. Once. */
void gw_ref_group_encode(GwRefGroup *group, GByteArray *out);

/*
 * Takes in a NEED for this group's frame and counts the misses. GW_ERROR_PROTOCOL if it is not for
 * this group, or is repeated without end.
 */
bool gw_ref_group_take_need(GwRefGroup *group, GwRefSource *source, const uint8_t *need, size_t len,
                            GError **error) GW_MUST_USE;

/*
 * The FILL payloads that answer the last NEED, one after the other, at least one; then NULL.
 * @codec with its encoder's state. Transfer full.
 */
GBytes *gw_ref_group_next_fill(GwRefGroup *group, const GwCodec *codec, void *encoder) GW_MUST_USE;

/* The frame that a NEED or a FILL is about. GW_ERROR_PROTOCOL. */
bool gw_ref_sequence(const uint8_t *payload, size_t len, uint64_t *sequence,
                     GError **error) GW_MUST_USE;

/* --- target ----------------------------------------------------------------------------------- */

/* The images that were agreed on. One thread: each decoding thread has its own. */
typedef struct GwRefTarget GwRefTarget;
/* The referenced pages of one frame. One thread at a time. */
typedef struct GwRefPages GwRefPages;

GwRefTarget *gw_ref_target_new(void) GW_MUST_USE;
void gw_ref_target_free(GwRefTarget *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRefTarget, gw_ref_target_free)

/* @image: transfer full. */
void gw_ref_target_set_image(GwRefTarget *target, unsigned number, GwImage *image);

/*
 * Decodes a section of @n_pages references, reads the blocks and tags them. They may be proven then
 * or not: gw_ref_pages_is_proven(). GW_ERROR_PROTOCOL, GW_ERROR_FAILED when memory is short.
 */
GwRefPages *gw_ref_target_resolve(GwRefTarget *target, GwPageTagger *tagger, const uint8_t *section,
                                  size_t len, unsigned n_pages, GError **error) GW_MUST_USE;
void gw_ref_pages_free(GwRefPages *pages);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRefPages, gw_ref_pages_free)

/* Asks the disk for the blocks of a section that is resolved later. */
void gw_ref_target_prefetch(GwRefTarget *target, const uint8_t *section, size_t len);

bool gw_ref_pages_is_proven(const GwRefPages *pages);
/* Some of them were not in memory: the disk had to be waited for. */
bool gw_ref_pages_were_cold(const GwRefPages *pages);

/* GW_PAGE_BYTES, borrowed; NULL before the pages are proven and for a number out of range. */
const uint8_t *gw_ref_pages_get(const GwRefPages *pages, unsigned number);
/* Its tag, in the same way. */
const GwPageTag *gw_ref_pages_tag(const GwRefPages *pages, unsigned number);

/* The NEED to send when they are not proven; the same each time. */
void gw_ref_pages_need(GwRefPages *pages, uint64_t sequence, GByteArray *out);

/*
 * Takes a FILL in. A second answer to the same question does no harm. GW_ERROR_PROTOCOL if it
 * is damaged, or all have come and the pages are still not what the source had.
 */
bool gw_ref_pages_fill(GwRefPages *pages, GwPageTagger *tagger, const uint8_t *fill, size_t len,
                       GError **error) GW_MUST_USE;
