// SPDX-License-Identifier: Apache-2.0
/*
 * Image indexes kept in files, one per image, in a folder of their own.
 *
 * An index file is a help, no more: one that is missing, damaged, of another version or of another
 * image is ignored; one of an older state of the image is told apart and still of use. Byte table,
 * numbers big-endian:
 *
 *     offset size
 *          0    8  magic "GWINDEX\n"
 *          8    2  version
 *         10    2  oldest version whose readers can read it
 *         12    4  bytes of the path, at most 4096
 *         16    8  seed of the hashes
 *         24    8  inode                      \
 *         32    8  blocks of the guest's disk  |
 *         40    8  shape                       | GwImageIdentity when the index was begun
 *         48    8  bytes of the file           |
 *         56    8  time of the last write, ns /
 *         64    8  slots
 *         72    n  path
 *          …  8 ×  slots, see image_table.h
 *          …   16  XXH3-128 (canonical form) over all before it
 */
#pragma once

#include "lane/image.h"
#include "lane/image_table.h"

#define GW_IMAGE_CACHE_VERSION        1u
#define GW_IMAGE_CACHE_OLDEST_VERSION 1u
#define GW_IMAGE_CACHE_HEADER_BYTES   72u

typedef struct GwImageCacheKey {
    const char *folder;
    const char *path;
    uint64_t seed;
    GwImageIdentity identity;
} GwImageCacheKey;

/*
 * The seed of all hashes kept in @folder, secret so that guests cannot arrange for equal hashes;
 * made when there is none. @folder may be NULL: a new one each time.
 */
uint64_t gw_image_cache_seed(const char *folder);

/* NULL: none of use. @is_fresh: the image has not been written since. */
GwImageTable *gw_image_cache_load(const GwImageCacheKey *key, uint64_t max_bytes,
                                  bool *is_fresh) GW_MUST_USE;

/* There is an index of the image @path, written less than @seconds ago. */
bool gw_image_cache_is_recent(const char *folder, const char *path, int64_t seconds);

/* The index of the image @path goes, if there is one. */
void gw_image_cache_remove(const char *folder, const char *path);

/*
 * Replaces the file of this image atomically; not made durable, as damage is noticed. The oldest
 * other files go until all fit into @max_folder_bytes.
 */
bool gw_image_cache_save(const GwImageCacheKey *key, const GwImageTable *table,
                         uint64_t max_folder_bytes, GError **error) GW_MUST_USE;
