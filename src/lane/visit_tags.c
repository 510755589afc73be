// SPDX-License-Identifier: Apache-2.0
/*
 * Hashes of a VM's pages as they came, by address.
 *
 * Owns chunks of GW_VISIT_CHUNK_PAGES hashes, made when the first of their pages comes, within the
 * limit; what there is no room or memory for is not known. A file is hostile input in so far as a
 * disk may have damaged it: sizes are checked before anything is made. Saving and loading block.
 */
#include "lane/visit.h"

#include "base/cursor.h"
#include "base/fd.h"
#include "lane/page_hash.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC          "GWVISIT\n"
#define VERSION        1u
#define OLDEST_VERSION 1u
#define SUM_BYTES      16u
#define N_CHUNKS       ((unsigned)(GW_VISIT_BLOCK_PAGES / GW_VISIT_CHUNK_PAGES))
#define CHUNK_BYTES    (GW_VISIT_CHUNK_PAGES * 8u)
#define CHUNK_HEAD     5u

/* Of a guest beside its memory. */
#define ROOM_BYTES (UINT64_C(1) << 20)

typedef struct TagBlock {
    char *name;
    uint64_t **chunks; /* `n_chunks`, NULL where no page came */
    unsigned n_chunks;
} TagBlock;

struct GwVisitTags {
    uint64_t max_bytes;
    uint64_t bytes;
    uint64_t seed;
    uint64_t n_chunks;
    unsigned n_blocks;
    TagBlock blocks[GW_VISIT_MAX_BLOCKS];
};

uint64_t
gw_visit_tags_max_bytes(uint64_t guest_bytes)
{
    return guest_bytes / GW_PAGE_BYTES * 8 + ROOM_BYTES;
}

GwVisitTags *
gw_visit_tags_new(uint64_t max_bytes)
{
    GwVisitTags *tags = g_new0(GwVisitTags, 1);

    tags->max_bytes = max_bytes;
    /* Another one each time, so that guests cannot arrange for equal hashes. */
    if (getrandom(&tags->seed, sizeof(tags->seed), 0) != sizeof(tags->seed)) {
        tags->seed = (uint64_t)g_random_int() << 32 | g_random_int();
    }
    return tags;
}

void
gw_visit_tags_free(GwVisitTags *tags)
{
    if (!tags) {
        return;
    }
    for (unsigned i = 0; i < tags->n_blocks; i++) {
        TagBlock *block = &tags->blocks[i];

        for (unsigned k = 0; k < block->n_chunks; k++) {
            g_free(block->chunks[k]);
        }
        g_free(block->chunks);
        g_free(block->name);
    }
    g_free(tags);
}

void
gw_visit_tags_add_block(GwVisitTags *tags, const char *name, size_t len)
{
    if (tags->n_blocks < GW_VISIT_MAX_BLOCKS) {
        tags->blocks[tags->n_blocks++] = (TagBlock){.name = g_strndup(name, len)};
    }
}

/* The chunk, made if need be; NULL: there is no room for it. */
static uint64_t *
need_chunk(GwVisitTags *tags, TagBlock *block, unsigned number)
{
    if (number < block->n_chunks && block->chunks[number]) {
        return block->chunks[number];
    }
    if (tags->bytes + CHUNK_BYTES > tags->max_bytes) {
        return NULL;
    }
    if (number >= block->n_chunks) {
        unsigned wanted = MIN(MAX(number + 1, 2 * block->n_chunks), N_CHUNKS);

        block->chunks = g_renew(uint64_t *, block->chunks, wanted);
        memset(block->chunks + block->n_chunks, 0, (wanted - block->n_chunks) * sizeof(uint64_t *));
        block->n_chunks = wanted;
    }
    block->chunks[number] = g_try_malloc0(CHUNK_BYTES);
    if (block->chunks[number]) {
        tags->bytes += CHUNK_BYTES;
        tags->n_chunks++;
    }
    return block->chunks[number];
}

static uint64_t
hash_of(const GwVisitTags *tags, const uint8_t *content)
{
    return MAX(gw_page_hash(content, tags->seed), 1);
}

void
gw_visit_tags_put(GwVisitTags *tags, uint16_t block, uint64_t page, const uint8_t *content)
{
    if (block >= tags->n_blocks || page >= GW_VISIT_BLOCK_PAGES) {
        return;
    }
    TagBlock *found = &tags->blocks[block];
    unsigned number = (unsigned)(page / GW_VISIT_CHUNK_PAGES);
    bool is_there = number < found->n_chunks && found->chunks[number];
    uint64_t *chunk = content || is_there ? need_chunk(tags, found, number) : NULL;

    if (chunk) {
        chunk[page % GW_VISIT_CHUNK_PAGES] = content ? hash_of(tags, content) : 0;
    }
}

int
gw_visit_tags_find_block(const GwVisitTags *tags, const char *name)
{
    for (unsigned i = 0; i < tags->n_blocks; i++) {
        if (strcmp(tags->blocks[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

bool
gw_visit_tags_match(const GwVisitTags *tags, uint16_t block, uint64_t page, const uint8_t *content)
{
    if (block >= tags->n_blocks || page / GW_VISIT_CHUNK_PAGES >= tags->blocks[block].n_chunks) {
        return false;
    }
    const uint64_t *chunk = tags->blocks[block].chunks[page / GW_VISIT_CHUNK_PAGES];

    return chunk && chunk[page % GW_VISIT_CHUNK_PAGES] == hash_of(tags, content);
}

uint64_t
gw_visit_tags_bytes(const GwVisitTags *tags)
{
    return tags->bytes;
}

/* --- files ------------------------------------------------------------------------------------ */

/* A file being read or written, with the sum over what has passed. */
typedef struct File {
    GwFd fd;
    XXH3_state_t *sum;
} File;

static void
file_init(File *file, int fd)
{
    *file = (File){.fd = fd, .sum = XXH3_createState()};
    if (!file->sum) {
        g_error("out of memory for a digest");
    }
    XXH3_128bits_reset(file->sum);
}

static void
file_clear(File *file)
{
    gw_fd_clear(&file->fd);
    XXH3_freeState(file->sum);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(File, file_clear)

static void
file_sum(const File *file, uint8_t out[SUM_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(file->sum));
    memcpy(out, canonical.digest, SUM_BYTES);
}

static bool
give(File *file, const void *data, size_t len)
{
    XXH3_128bits_update(file->sum, data, len);
    return gw_fd_write_full(file->fd, data, len);
}

static bool
take(File *file, void *out, size_t len)
{
    bool whole = gw_fd_read_full(file->fd, out, len) == (ssize_t)len;

    if (whole) {
        XXH3_128bits_update(file->sum, out, len);
    }
    return whole;
}

static bool
save_chunk(File *file, unsigned block, unsigned number, const uint64_t *chunk, uint64_t *room)
{
    g_autoptr(GByteArray) head = g_byte_array_new();

    gw_put_u8(head, (uint8_t)block);
    gw_put_be32(head, number);
    for (unsigned i = 0; i < GW_VISIT_CHUNK_PAGES; i++) {
        room[i] = GUINT64_TO_BE(chunk[i]);
    }
    return give(file, head->data, head->len) && give(file, room, CHUNK_BYTES);
}

static bool
save_all(File *file, const GwVisitTags *tags)
{
    g_autoptr(GByteArray) head = g_byte_array_new();
    g_autofree uint64_t *room = g_malloc(CHUNK_BYTES);
    uint8_t sum[SUM_BYTES];

    g_byte_array_append(head, (const guint8 *)MAGIC, 8);
    gw_put_be16(head, VERSION);
    gw_put_be16(head, OLDEST_VERSION);
    gw_put_be32(head, tags->n_blocks);
    gw_put_be64(head, tags->seed);
    gw_put_be64(head, tags->n_chunks);
    for (unsigned i = 0; i < tags->n_blocks; i++) {
        size_t len = strlen(tags->blocks[i].name);

        gw_put_u8(head, (uint8_t)len);
        g_byte_array_append(head, (const guint8 *)tags->blocks[i].name, (guint)len);
    }
    if (!give(file, head->data, head->len)) {
        return false;
    }
    for (unsigned i = 0; i < tags->n_blocks; i++) {
        const TagBlock *block = &tags->blocks[i];

        for (unsigned k = 0; k < block->n_chunks; k++) {
            if (block->chunks[k] && !save_chunk(file, i, k, block->chunks[k], room)) {
                return false;
            }
        }
    }
    file_sum(file, sum);
    return gw_fd_write_full(file->fd, sum, SUM_BYTES);
}

bool
gw_visit_tags_save(const GwVisitTags *tags, const char *path, GError **error)
{
    g_autofree char *part = g_strdup_printf("%s.part", path);
    g_auto(File) file = {.fd = GW_FD_NONE};

    file_init(&file, open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.fd >= 0 && save_all(&file, tags) && g_rename(part, path) == 0) {
        return true;
    }
    gw_set_error_errno(error, errno, "cannot write '%s'", path);
    (void)g_unlink(part);
    return false;
}

static bool
load_blocks(File *file, GwVisitTags *tags, unsigned n_blocks)
{
    for (unsigned i = 0; i < n_blocks; i++) {
        uint8_t len;
        char name[256];

        if (!take(file, &len, 1) || len == 0 || !take(file, name, len) || memchr(name, 0, len)) {
            return false;
        }
        gw_visit_tags_add_block(tags, name, len);
    }
    return true;
}

/* @last: the place of the chunk before it, which it has to be behind. */
static bool
load_chunk(File *file, GwVisitTags *tags, int64_t *last)
{
    uint8_t head[CHUNK_HEAD];

    if (!take(file, head, CHUNK_HEAD)) {
        return false;
    }
    GwCursor cursor = gw_cursor(head, CHUNK_HEAD);
    uint8_t block = gw_cursor_u8(&cursor);
    uint32_t number = gw_cursor_be32(&cursor);
    int64_t place = (int64_t)block * N_CHUNKS + number;

    if (block >= tags->n_blocks || number >= N_CHUNKS || place <= *last) {
        return false;
    }
    uint64_t *chunk = need_chunk(tags, &tags->blocks[block], number);

    if (!chunk || !take(file, chunk, CHUNK_BYTES)) {
        return false;
    }
    for (unsigned i = 0; i < GW_VISIT_CHUNK_PAGES; i++) {
        chunk[i] = GUINT64_FROM_BE(chunk[i]);
    }
    *last = place;
    return true;
}

static GwVisitTags *
load_all(File *file, uint64_t max_bytes)
{
    uint8_t head[GW_VISIT_HEADER_BYTES];
    uint8_t sum[SUM_BYTES], expected[SUM_BYTES];
    int64_t last = -1;

    if (!take(file, head, sizeof(head)) || memcmp(head, MAGIC, 8) != 0) {
        return NULL;
    }
    GwCursor cursor = gw_cursor(head + 8, sizeof(head) - 8);
    unsigned version = gw_cursor_be16(&cursor);
    unsigned oldest_version = gw_cursor_be16(&cursor);
    uint32_t n_blocks = gw_cursor_be32(&cursor);
    uint64_t seed = gw_cursor_be64(&cursor);
    uint64_t n_chunks = gw_cursor_be64(&cursor);

    if (version < OLDEST_VERSION || oldest_version > VERSION || n_blocks > GW_VISIT_MAX_BLOCKS ||
        n_chunks > max_bytes / CHUNK_BYTES) {
        return NULL;
    }
    g_autoptr(GwVisitTags) tags = gw_visit_tags_new(max_bytes);

    tags->seed = seed;
    if (!load_blocks(file, tags, n_blocks)) {
        return NULL;
    }
    for (uint64_t i = 0; i < n_chunks; i++) {
        if (!load_chunk(file, tags, &last)) {
            return NULL;
        }
    }
    file_sum(file, expected);
    if (!take(file, sum, SUM_BYTES) || memcmp(sum, expected, SUM_BYTES) != 0) {
        return NULL;
    }
    return g_steal_pointer(&tags);
}

GwVisitTags *
gw_visit_tags_load(const char *path, uint64_t max_bytes, GError **error)
{
    g_auto(File) file = {.fd = GW_FD_NONE};

    file_init(&file, open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (file.fd < 0) {
        gw_set_error_errno(error, errno, "cannot open '%s'", path);
        return NULL;
    }
    GwVisitTags *tags = load_all(&file, max_bytes);

    if (!tags) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%s' is damaged, too large or of another version", path);
    }
    return tags;
}
