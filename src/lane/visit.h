// SPDX-License-Identifier: Apache-2.0
/*
 * A VM's earlier visit to a host: what its memory was when it left, for the day it comes back.
 *
 * The host that a VM leaves may keep the pages that it sent, in a sparse file that serves as one
 * more image for references (image_ref.h). The host that it goes to notes a hash of each page as it
 * came. When the VM goes back there, pages with the same hash at the same address as then are
 * referenced instead of sent. Both belong to one move. As everywhere with references, a wrong hash,
 * a page that was not kept or a file that was changed costs bytes, never correctness.
 *
 * Place of a page in the file: its number + GW_VISIT_BLOCK_PAGES × its RAM block, counted in the
 * order in which that move's stream named them. What is beyond that is not kept.
 */
#pragma once

#include "base/error.h"
#include "ramstream/ramstream.h"

#include <stdint.h>

#define GW_VISIT_MAX_BLOCKS  15u
#define GW_VISIT_BLOCK_PAGES (UINT64_C(1) << 28)

static inline bool
gw_visit_place(uint16_t block, uint64_t page, uint64_t *place)
{
    *place = block * GW_VISIT_BLOCK_PAGES + page;
    return block < GW_VISIT_MAX_BLOCKS && page < GW_VISIT_BLOCK_PAGES;
}

/* --- the host that is left: pages ------------------------------------------------------------- */

/*
 * Writes the pages of a stream to a file, behind the stream: a thread of its own does it, nobody
 * waits for it. When the disk does not follow, or is full, the visit is given up. The file is
 * PATH.part until it is whole. Memory: GW_VISIT_MAX_WAITING pages, 256 MiB.
 */
typedef struct GwVisitWriter GwVisitWriter;

#define GW_VISIT_MAX_WAITING 65536u

/* GW_ERROR_IO. */
GwVisitWriter *gw_visit_writer_new(const char *path, GError **error) GW_MUST_USE;
/* Lets go of it: what was not to be kept is removed. Does not wait. */
void gw_visit_writer_free(GwVisitWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwVisitWriter, gw_visit_writer_free)

/* A page with content, in the order of the stream. One thread, not after keep(). */
void gw_visit_writer_put(GwVisitWriter *writer, uint16_t block, uint64_t page,
                         const uint8_t *content);
/* The VM is gone: what was put is the visit. It is there as soon as all of it is written. */
void gw_visit_writer_keep(GwVisitWriter *writer);
/* For those who have nothing else to do: waits for the end of it. True: the file is there. */
bool gw_visit_writer_wait(GwVisitWriter *writer);

/* --- the host that it came to: hashes --------------------------------------------------------- */

/*
 * Hashes of pages by address, 8 bytes per page with content, 2 MiB per GiB. One thread changes
 * them; then any may look.
 *
 * Kept in a file, numbers big-endian:
 *
 *     offset size
 *          0    8  magic "GWVISIT\n"
 *          8    2  version
 *         10    2  oldest version whose readers can read it
 *         12    4  RAM blocks, at most GW_VISIT_MAX_BLOCKS
 *         16    8  seed of the hashes
 *         24    8  chunks
 *          …       for each RAM block: 1 byte length, its name
 *          …       for each chunk: 1 byte block, 4 bytes number (of GW_VISIT_CHUNK_PAGES pages),
 *                  both ascending, then 8 bytes for each page: XXH3-64, 0: not known
 *          …   16  XXH3-128 (canonical form) over all before it
 */
typedef struct GwVisitTags GwVisitTags;

#define GW_VISIT_CHUNK_PAGES  4096u
#define GW_VISIT_HEADER_BYTES 32u

/* What a guest of @guest_bytes needs, with some room for firmware and video memory. */
uint64_t gw_visit_tags_max_bytes(uint64_t guest_bytes);

/* Pages beyond @max_bytes are not noted. */
GwVisitTags *gw_visit_tags_new(uint64_t max_bytes) GW_MUST_USE;
void gw_visit_tags_free(GwVisitTags *tags);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwVisitTags, gw_visit_tags_free)

/* The stream's next RAM block. */
void gw_visit_tags_add_block(GwVisitTags *tags, const char *name, size_t len);
/* The page came with @content; NULL: as zero. */
void gw_visit_tags_put(GwVisitTags *tags, uint16_t block, uint64_t page, const uint8_t *content);

/* The block with this name; -1: there was none. */
int gw_visit_tags_find_block(const GwVisitTags *tags, const char *name);
/* The page came with this content, most probably. */
bool gw_visit_tags_match(const GwVisitTags *tags, uint16_t block, uint64_t page,
                         const uint8_t *content);
uint64_t gw_visit_tags_bytes(const GwVisitTags *tags);

/* Replaces the file atomically; not made durable, as damage is noticed. GW_ERROR_IO. */
bool gw_visit_tags_save(const GwVisitTags *tags, const char *path, GError **error) GW_MUST_USE;
/* GW_ERROR_IO, GW_ERROR_INVALID, GW_ERROR_TOO_LARGE. */
GwVisitTags *gw_visit_tags_load(const char *path, uint64_t max_bytes, GError **error) GW_MUST_USE;
