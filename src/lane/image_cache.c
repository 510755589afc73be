// SPDX-License-Identifier: Apache-2.0
/*
 * Index files. Hostile input in so far as a disk may have damaged them.
 *
 * Owns nothing; the thread of the index that is loaded or saved. Memory: the table that is loaded,
 * checked against the caller's limit and the file's size before it is made, and 64 KiB. Loading
 * never fails with an error, it has nothing to offer then; saving fails with GW_ERROR_IO or
 * GW_ERROR_TOO_LARGE.
 */
#include "lane/image_cache.h"

#include "base/cursor.h"
#include "base/fd.h"
#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <xxhash.h>

#define MAGIC          "GWINDEX\n"
#define MAX_PATH_BYTES 4096u
#define SUM_BYTES      16u
#define CHUNK_BYTES    65536u
#define SEED_BYTES     8u

/* A file being read or written, with the sum over what has passed. */
typedef struct Stream {
    GwFd fd;
    XXH3_state_t *sum;
    uint8_t *chunk; /* CHUNK_BYTES */
} Stream;

static void
stream_init(Stream *stream, int fd)
{
    *stream = (Stream){
        .fd = fd,
        .sum = XXH3_createState(),
        .chunk = g_malloc(CHUNK_BYTES),
    };
    if (!stream->sum) {
        g_error("out of memory for a digest");
    }
    XXH3_128bits_reset(stream->sum);
}

static void
stream_clear(Stream *stream)
{
    gw_fd_clear(&stream->fd);
    XXH3_freeState(stream->sum);
    g_free(stream->chunk);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Stream, stream_clear)

static void
stream_sum(const Stream *stream, uint8_t out[SUM_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(stream->sum));
    memcpy(out, canonical.digest, SUM_BYTES);
}

static char *
file_of(const char *folder, const char *path)
{
    XXH128_canonical_t name;
    GString *file = g_string_new(folder);

    XXH128_canonicalFromHash(&name, XXH3_128bits(path, strlen(path)));
    g_string_append_c(file, '/');
    for (unsigned i = 0; i < sizeof(name.digest); i++) {
        g_string_append_printf(file, "%02x", name.digest[i]);
    }
    return g_string_free(g_string_append(file, ".index"), FALSE);
}

bool
gw_image_cache_is_recent(const char *folder, const char *path, int64_t seconds)
{
    g_autofree char *file = file_of(folder, path);
    struct stat st;

    return stat(file, &st) == 0 && st.st_mtime > gw_wall_us() / G_USEC_PER_SEC - seconds;
}

void
gw_image_cache_remove(const char *folder, const char *path)
{
    g_autofree char *file = file_of(folder, path);

    (void)g_unlink(file);
}

static void
encode_header(const GwImageCacheKey *key, uint64_t n_slots, GByteArray *out)
{
    size_t path_bytes = strlen(key->path);

    g_byte_array_append(out, (const uint8_t *)MAGIC, 8);
    gw_put_be16(out, GW_IMAGE_CACHE_VERSION);
    gw_put_be16(out, GW_IMAGE_CACHE_OLDEST_VERSION);
    gw_put_be32(out, (uint32_t)path_bytes);
    gw_put_be64(out, key->seed);
    gw_put_be64(out, key->identity.inode);
    gw_put_be64(out, key->identity.n_blocks);
    gw_put_be64(out, key->identity.shape);
    gw_put_be64(out, key->identity.file_bytes);
    gw_put_be64(out, (uint64_t)key->identity.mtime_ns);
    gw_put_be64(out, n_slots);
    g_byte_array_append(out, (const uint8_t *)key->path, (guint)path_bytes);
}

/* --- seed ------------------------------------------------------------------------------------- */

uint64_t
gw_image_cache_seed(const char *folder)
{
    g_autofree char *path = folder ? g_build_filename(folder, "seed", NULL) : NULL;
    uint64_t seed = 0;
    size_t len = 0;

    if (path) {
        g_autofree char *kept = gw_file_read(path, SEED_BYTES, &len, NULL);

        if (kept && len == SEED_BYTES) {
            memcpy(&seed, kept, SEED_BYTES);
            return seed;
        }
    }
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed)) {
        g_error("the system gives no random numbers");
    }
    /* One that cannot be kept is good for as long as the process lives. */
    if (path && g_mkdir_with_parents(folder, 0700) == 0) {
        (void)!gw_file_write(path, &seed, SEED_BYTES, 0600, NULL);
    }
    return seed;
}

/* --- loading ---------------------------------------------------------------------------------- */

static bool
take(Stream *stream, void *out, size_t len)
{
    if (gw_fd_read_full(stream->fd, out, len) != (ssize_t)len) {
        return false;
    }
    XXH3_128bits_update(stream->sum, out, len);
    return true;
}

/* False: not an index of this image. */
static bool
decode_header(const GwImageCacheKey *key, const uint8_t *header, uint64_t *n_slots, bool *is_fresh)
{
    const GwImageIdentity *now = &key->identity;
    GwCursor cursor = gw_cursor(header, GW_IMAGE_CACHE_HEADER_BYTES);
    const uint8_t *magic = gw_cursor_bytes(&cursor, 8);
    uint16_t version = gw_cursor_be16(&cursor);
    uint16_t oldest = gw_cursor_be16(&cursor);
    uint32_t path_bytes = gw_cursor_be32(&cursor);
    uint64_t seed = gw_cursor_be64(&cursor);
    GwImageIdentity then = {.inode = gw_cursor_be64(&cursor)};

    then.n_blocks = gw_cursor_be64(&cursor);
    then.shape = gw_cursor_be64(&cursor);
    then.file_bytes = gw_cursor_be64(&cursor);
    then.mtime_ns = (int64_t)gw_cursor_be64(&cursor);
    *n_slots = gw_cursor_be64(&cursor);
    *is_fresh = now->tells_writes && then.n_blocks == now->n_blocks && then.shape == now->shape &&
                then.file_bytes == now->file_bytes && then.mtime_ns == now->mtime_ns;
    return memcmp(magic, MAGIC, 8) == 0 && version >= GW_IMAGE_CACHE_OLDEST_VERSION &&
           oldest <= GW_IMAGE_CACHE_VERSION && path_bytes == strlen(key->path) &&
           seed == key->seed && then.inode == now->inode;
}

static bool
load_slots(Stream *stream, GwImageTable *table)
{
    for (uint64_t at = 0; at < table->n_slots;) {
        size_t n = (size_t)MIN(table->n_slots - at, CHUNK_BYTES / GW_IMAGE_SLOT_BYTES);

        if (!take(stream, stream->chunk, n * GW_IMAGE_SLOT_BYTES)) {
            return false;
        }
        GwCursor cursor = gw_cursor(stream->chunk, n * GW_IMAGE_SLOT_BYTES);
        for (size_t i = 0; i < n; i++, at++) {
            gw_image_table_restore(table, at, gw_cursor_be64(&cursor));
        }
    }
    return true;
}

static bool
has_size(int fd, uint64_t n_slots, size_t path_bytes)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size ==
               GW_IMAGE_CACHE_HEADER_BYTES + path_bytes + n_slots * GW_IMAGE_SLOT_BYTES + SUM_BYTES;
}

GwImageTable *
gw_image_cache_load(const GwImageCacheKey *key, uint64_t max_bytes, bool *is_fresh)
{
    g_autofree char *file = file_of(key->folder, key->path);
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    size_t path_bytes = strlen(key->path);
    uint8_t expected[SUM_BYTES], sum[SUM_BYTES];
    uint64_t n_slots;
    g_auto(Stream) stream = {.fd = GW_FD_NONE};

    if (fd < 0) {
        return NULL;
    }
    stream_init(&stream, fd);
    if (path_bytes > MAX_PATH_BYTES || !take(&stream, stream.chunk, GW_IMAGE_CACHE_HEADER_BYTES) ||
        !decode_header(key, stream.chunk, &n_slots, is_fresh) || n_slots > GW_IMAGE_MAX_SLOTS ||
        gw_image_table_bytes(n_slots) > max_bytes || !has_size(fd, n_slots, path_bytes) ||
        !take(&stream, stream.chunk, path_bytes) ||
        memcmp(stream.chunk, key->path, path_bytes) != 0) {
        return NULL;
    }
    g_autoptr(GwImageTable) table = gw_image_table_new_slots(n_slots);

    if (!table || !load_slots(&stream, table)) {
        return NULL;
    }
    stream_sum(&stream, sum);
    if (gw_fd_read_full(fd, expected, SUM_BYTES) != SUM_BYTES ||
        memcmp(sum, expected, SUM_BYTES) != 0) {
        return NULL;
    }
    (void)futimens(fd, NULL); /* files that are of use are not the first to go */
    return g_steal_pointer(&table);
}

/* --- saving ----------------------------------------------------------------------------------- */

static bool
give(Stream *stream, const void *data, size_t len)
{
    XXH3_128bits_update(stream->sum, data, len);
    return gw_fd_write_full(stream->fd, data, len);
}

static bool
save_slots(Stream *stream, const GwImageTable *table)
{
    g_autoptr(GByteArray) chunk = g_byte_array_sized_new(CHUNK_BYTES);

    for (uint64_t at = 0; at < table->n_slots; at++) {
        gw_put_be64(chunk, atomic_load_explicit(&table->slots[at], memory_order_relaxed));
        if (chunk->len == CHUNK_BYTES || at + 1 == table->n_slots) {
            if (!give(stream, chunk->data, chunk->len)) {
                return false;
            }
            g_byte_array_set_size(chunk, 0);
        }
    }
    return true;
}

static bool
save_all(Stream *stream, const GwImageCacheKey *key, const GwImageTable *table)
{
    g_autoptr(GByteArray) header = g_byte_array_new();
    uint8_t sum[SUM_BYTES];

    encode_header(key, table->n_slots, header);
    if (!give(stream, header->data, header->len) || !save_slots(stream, table)) {
        return false;
    }
    stream_sum(stream, sum);
    return gw_fd_write_full(stream->fd, sum, SUM_BYTES);
}

typedef struct CacheFile {
    char *path;
    uint64_t bytes;
    int64_t used_s;
} CacheFile;

static void
cache_file_free(CacheFile *file)
{
    g_free(file->path);
    g_free(file);
}

static int
compare_files(const void *a, const void *b)
{
    int64_t left = (*(CacheFile *const *)a)->used_s;
    int64_t right = (*(CacheFile *const *)b)->used_s;

    return left < right ? -1 : left > right;
}

/* What is in the folder beside @own, also what a crash left unfinished. */
static GPtrArray *
other_files(const char *folder, const char *own)
{
    GPtrArray *files = g_ptr_array_new_with_free_func((GDestroyNotify)cache_file_free);
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat st;

        if (strstr(name, ".index") && strcmp(path, own) != 0 && lstat(path, &st) == 0) {
            CacheFile *file = g_new0(CacheFile, 1);

            file->path = g_steal_pointer(&path);
            file->bytes = (uint64_t)st.st_size;
            file->used_s = st.st_mtime;
            g_ptr_array_add(files, file);
        }
    }
    g_clear_pointer(&dir, g_dir_close);
    return files;
}

static void
make_room(const char *folder, const char *own, uint64_t room)
{
    g_autoptr(GPtrArray) files = other_files(folder, own);
    uint64_t bytes = 0;

    for (guint i = 0; i < files->len; i++) {
        bytes += ((CacheFile *)g_ptr_array_index(files, i))->bytes;
    }
    g_ptr_array_sort(files, compare_files);
    for (guint i = 0; i < files->len && bytes > room; i++) {
        CacheFile *file = g_ptr_array_index(files, i);

        if (g_unlink(file->path) == 0) {
            bytes -= file->bytes;
        }
    }
}

bool
gw_image_cache_save(const GwImageCacheKey *key, const GwImageTable *table,
                    uint64_t max_folder_bytes, GError **error)
{
    g_autofree char *file = file_of(key->folder, key->path);
    g_autofree char *temporary = g_strdup_printf("%s.XXXXXX", file);
    uint64_t bytes = GW_IMAGE_CACHE_HEADER_BYTES + MAX_PATH_BYTES + SUM_BYTES +
                     table->n_slots * GW_IMAGE_SLOT_BYTES;
    g_auto(Stream) stream = {.fd = GW_FD_NONE};

    if (bytes > max_folder_bytes || strlen(key->path) > MAX_PATH_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "the index of '%s' is too large to be kept in '%s'", key->path, key->folder);
        return false;
    }
    if (g_mkdir_with_parents(key->folder, 0700) < 0) {
        gw_set_error_errno(error, errno, "cannot make the folder '%s'", key->folder);
        return false;
    }
    make_room(key->folder, file, max_folder_bytes - bytes);
    stream_init(&stream, g_mkstemp_full(temporary, O_WRONLY | O_CLOEXEC, 0600));
    if (stream.fd < 0) {
        gw_set_error_errno(error, errno, "cannot make a file in '%s'", key->folder);
        return false;
    }
    if (!save_all(&stream, key, table) || rename(temporary, file) < 0) {
        gw_set_error_errno(error, errno, "cannot keep the index of '%s' in '%s'", key->path,
                           key->folder);
        unlink(temporary);
        return false;
    }
    return true;
}
