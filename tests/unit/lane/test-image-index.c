// SPDX-License-Identifier: Apache-2.0
/*
 * Image indexes: every block is found, also while building; files that keep indexes are used,
 * refreshed, or ignored. With -m perf: rates and memory.
 */
#include "base/cursor.h"
#include "hung-disk.h"
#include "lane/image_cache.h"
#include "lane/image_index.h"
#include "test-image-files.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SEED UINT64_C(0x1234567890abcdef)

/* --- the table -------------------------------------------------------------------------------- */

static void
test_table(void)
{
    g_autoptr(GwImageTable) table = gw_image_table_new(1000, 1 << 20);
    uint64_t block;

    g_assert_false(gw_image_table_find(table, 0, &block));
    for (uint64_t i = 0; i < 1000; i++) {
        gw_image_table_put(table, i * UINT64_C(0x9e3779b97f4a7c15), i);
    }
    gw_image_table_put(table, UINT64_C(0x9e3779b97f4a7c15), 77); /* known: stays */
    g_assert_cmpuint(table->n_entries, ==, 1000);
    for (uint64_t i = 0; i < 1000; i++) {
        g_assert_true(gw_image_table_find(table, i * UINT64_C(0x9e3779b97f4a7c15), &block));
        g_assert_cmpuint(block, ==, i);
    }
    g_assert_false(gw_image_table_find(table, 12345, &block));
    gw_image_table_put(table, 12345, GW_IMAGE_TABLE_END);
    g_assert_false(gw_image_table_find(table, 12345, &block));
    gw_image_table_put(table, 12345, GW_IMAGE_TABLE_END - 1);
    g_assert_true(gw_image_table_find(table, 12345, &block));
    g_assert_cmpuint(block, ==, GW_IMAGE_TABLE_END - 1);
}

/* What crowds one place, or a table that is full, costs entries, not time. */
static void
test_table_full(void)
{
    g_autoptr(GwImageTable) crowded = gw_image_table_new(100000, 16 << 20);
    g_autoptr(GwImageTable) tiny = gw_image_table_new(100000, 90);
    uint64_t block;

    g_assert_cmpuint(tiny->n_slots, ==, 10);
    g_assert_null(gw_image_table_new(100, 0));
    for (uint64_t i = 1; i <= 5000; i++) {
        gw_image_table_put(crowded, i, i);
        gw_image_table_put(tiny, i << 32 | i, i);
    }
    g_assert_cmpuint(crowded->n_entries, <, 200);
    g_assert_cmpuint(tiny->n_entries, ==, 10);
    g_assert_true(gw_image_table_find(crowded, 3, &block));
    g_assert_false(gw_image_table_find(tiny, UINT64_C(4000) << 32 | 4000, &block));
}

static void
test_table_refresh(void)
{
    g_autoptr(GwImageTable) old = gw_image_table_new(100, 1 << 20);
    g_autoptr(GwImageTable) table = gw_image_table_new(100, 1 << 20);
    uint64_t block;

    for (uint64_t i = 1; i <= 100; i++) {
        gw_image_table_put(old, i << 16, i);
    }
    for (uint64_t at = 0; at < old->n_slots; at++) {
        gw_image_table_restore(table, at, old->slots[at]);
    }
    g_assert_cmpuint(table->n_entries, ==, 100);
    /* 1 to 50 have moved; 200 is new; the others are gone. */
    for (uint64_t i = 1; i <= 50; i++) {
        gw_image_table_put(table, i << 16, 1000 + i);
    }
    gw_image_table_put(table, UINT64_C(200) << 16, 200);
    gw_image_table_drop_unconfirmed(table);
    g_assert_cmpuint(table->n_entries, ==, 51);
    for (uint64_t i = 1; i <= 100; i++) {
        bool found = gw_image_table_find(table, i << 16, &block);

        g_assert_true(found == (i <= 50));
        g_assert_true(!found || block == 1000 + i);
    }
    /* Places that were emptied are used again. */
    for (uint64_t i = 51; i <= 100; i++) {
        gw_image_table_put(table, i << 16, i);
        g_assert_true(gw_image_table_find(table, i << 16, &block));
        g_assert_cmpuint(block, ==, i);
    }
}

/* --- building --------------------------------------------------------------------------------- */

static GwImageIndex *
start(const ImageFiles *files, const char *name, const char *format, const char *cache)
{
    g_autofree char *path = image_file(files, name);
    g_autofree char *folder = cache ? image_file(files, cache) : NULL;
    GwImageIndexOptions options = {
        .path = path, .format = format, .seed = SEED, .cache_folder = folder};
    g_autoptr(GError) error = NULL;
    GwImageIndex *index = gw_image_index_start(&options, &error);

    g_assert_no_error(error);
    return index;
}

static GwImageIndexFigures
finish(GwImageIndex *index)
{
    GwImageIndexFigures figures;

    gw_image_index_wait(index);
    gw_image_index_figures(index, &figures);
    return figures;
}

static bool
find_page(GwImageIndex *index, const uint8_t *page, uint64_t *block)
{
    return gw_image_index_find(index, gw_image_index_hash(page, SEED), block);
}

/* Every block of @disk that does not repeat itself is found, where its content is. */
static unsigned
check_found(GwImageIndex *index, const uint8_t *disk, size_t len)
{
    unsigned n_found = 0;

    for (size_t at = 0; at + GW_PAGE_BYTES <= len; at += GW_PAGE_BYTES) {
        uint64_t block;
        bool repeats = memcmp(disk + at, disk + at + 8, GW_PAGE_BYTES - 8) == 0;

        if (!find_page(index, disk + at, &block)) {
            g_assert_true(repeats);
            continue;
        }
        g_assert_false(repeats);
        g_assert_cmpmem(disk + at, GW_PAGE_BYTES, disk + block * GW_PAGE_BYTES, GW_PAGE_BYTES);
        n_found++;
    }
    return n_found;
}

static void
test_raw(void)
{
    ImageFiles files = {0};
    uint8_t page[GW_PAGE_BYTES];
    uint64_t block;

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 1100, 2);
    image_page(page, 2, 5);
    image_patch(&files, "disk", 800 * GW_PAGE_BYTES, page, GW_PAGE_BYTES);
    g_autoptr(GwImageIndex) index = start(&files, "disk", "raw", NULL);
    GwImageIndexFigures figures = finish(index);
    size_t len;
    g_autofree uint8_t *disk = image_convert(&files, "disk", "raw", &len);

    g_assert_cmpint(figures.state, ==, GW_IMAGE_INDEX_COMPLETE);
    g_assert_cmpuint(figures.total_blocks, ==, 1100);
    g_assert_cmpuint(figures.read_blocks, ==, 1100);
    g_assert_cmpuint(figures.n_entries, ==, 999); /* without 100 zero ones and a double */
    g_assert_cmpuint(figures.memory_bytes, <, 1100 * 12);
    g_assert_cmpuint(check_found(index, disk, len), ==, 1000);
    g_assert_true(find_page(index, page, &block));
    g_assert_cmpuint(block, ==, 5);
    image_page(page, 3, 5);
    g_assert_false(find_page(index, page, &block));
    image_files_clear(&files);
}

/* Each file of a chain has its own index, and together they have all that the guest sees. */
static void
test_chain(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "plain", 1500, 4);
    image_run(&files, "qemu-img convert -f raw -O qcow2 plain base");
    image_run(&files, "qemu-img create -f qcow2 -b base -F qcow2 -o cluster_size=4096 top");
    image_scribble(&files, "top", "qcow2", 20, "wwz");
    g_autoptr(GwImageIndex) base = start(&files, "base", "qcow2", NULL);
    g_autoptr(GwImageIndex) top = start(&files, "top", "qcow2", NULL);
    GwImageIndexFigures of_base = finish(base);
    GwImageIndexFigures of_top = finish(top);
    size_t len;
    g_autofree uint8_t *disk = image_convert(&files, "top", "qcow2", &len);
    unsigned n_top = 0;

    g_assert_cmpuint(of_base.total_blocks, >, 1300);
    g_assert_cmpuint(of_top.total_blocks, >, 0);
    g_assert_cmpuint(of_base.total_blocks, ==, image_own_blocks(&files, "base"));
    g_assert_cmpuint(of_top.total_blocks, ==, image_own_blocks(&files, "top"));
    for (size_t at = 0; at + GW_PAGE_BYTES <= len; at += GW_PAGE_BYTES) {
        uint64_t block;
        bool in_top = find_page(top, disk + at, &block);

        n_top += in_top;
        g_assert_true(in_top || find_page(base, disk + at, &block) ||
                      memcmp(disk + at, disk + at + 8, GW_PAGE_BYTES - 8) == 0);
    }
    g_assert_cmpuint(n_top, >, 0);
    image_files_clear(&files);
}

static void
test_failures(void)
{
    ImageFiles files = {0};
    uint8_t page[GW_PAGE_BYTES] = {1};
    uint64_t block;

    if (!image_files_init(&files)) {
        return;
    }
    g_autoptr(GwImageIndex) index = start(&files, "nowhere", "raw", NULL);
    g_assert_cmpint(finish(index).state, ==, GW_IMAGE_INDEX_FAILED);
    g_assert_false(find_page(index, page, &block));
    gw_image_index_prefetch(index, 7);
    image_run(&files, "qemu-img create -f raw empty 0");
    g_autoptr(GwImageIndex) empty = start(&files, "empty", "raw", NULL);
    g_assert_cmpint(finish(empty).state, ==, GW_IMAGE_INDEX_COMPLETE);
    g_assert_false(find_page(empty, page, &block));
    image_files_clear(&files);
}

static void
test_table_limit(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 2000, 2);
    g_autofree char *path = image_file(&files, "disk");
    GwImageIndexOptions options = {
        .path = path, .format = "raw", .seed = SEED, .max_table_bytes = 9000};
    g_autoptr(GwImageIndex) index = gw_image_index_start(&options, NULL);
    GwImageIndexFigures figures = finish(index);

    g_assert_cmpint(figures.state, ==, GW_IMAGE_INDEX_COMPLETE);
    g_assert_cmpuint(figures.memory_bytes, <=, 9000);
    g_assert_cmpuint(figures.n_entries, >, 900);
    g_assert_cmpuint(figures.n_entries, <=, 1000);
    image_files_clear(&files);
}

/* A small file whose tables say the same block again and again is not read for ever. */
static void
test_endless_image(void)
{
    ImageFiles files = {0};
    uint8_t tables[2][4096];
    g_autofree char *bytes = NULL;
    size_t len;

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files, "qemu-img create -f qcow2 -o cluster_size=4096 disk 1G");
    image_run(&files, "qemu-io -t unsafe -f qcow2 -c 'write -P 7 0 4k' disk");
    g_autofree char *path = image_file(&files, "disk");
    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    GwCursor header = gw_cursor(bytes + 40, 8);
    uint64_t l1 = gw_cursor_be64(&header);
    GwCursor entry = gw_cursor(bytes + l1, 8);
    uint64_t l2 = gw_cursor_be64(&entry) & ~(UINT64_C(1) << 63);

    for (unsigned i = 0; i < sizeof(tables[0]); i++) {
        tables[0][i] = (uint8_t)bytes[l1 + i % 8];
        tables[1][i] = (uint8_t)bytes[l2 + i % 8];
    }
    image_patch(&files, "disk", l1, tables[0], sizeof(tables[0]));
    image_patch(&files, "disk", l2, tables[1], sizeof(tables[1]));
    g_autoptr(GwImageIndex) index = start(&files, "disk", "qcow2", NULL);
    GwImageIndexFigures figures = finish(index);

    g_assert_cmpint(figures.state, ==, GW_IMAGE_INDEX_COMPLETE);
    g_assert_cmpuint(figures.read_blocks, >, 500);
    g_assert_cmpuint(figures.read_blocks, <, 1000);
    image_files_clear(&files);
}

typedef struct Looker {
    GwImageIndex *index;
    const uint8_t *disk;
    size_t n_blocks;
    _Atomic bool stop;
    uint64_t n_found;
} Looker;

static void *
look(void *data)
{
    Looker *looker = data;

    do {
        for (size_t i = 0; i < looker->n_blocks; i += 7) {
            const uint8_t *page = looker->disk + i * GW_PAGE_BYTES;
            uint64_t block;

            if (find_page(looker->index, page, &block)) {
                g_assert_cmpmem(page, GW_PAGE_BYTES, looker->disk + block * GW_PAGE_BYTES,
                                GW_PAGE_BYTES);
                looker->n_found++;
            }
        }
    } while (!atomic_load(&looker->stop));
    return NULL;
}

static void
test_look_up_while_building(void)
{
    ImageFiles files = {0};
    pthread_t thread;
    size_t len;

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 8000, 2);
    g_autofree uint8_t *disk = image_convert(&files, "disk", "raw", &len);
    g_autoptr(GwImageIndex) index = start(&files, "disk", "raw", NULL);
    Looker looker = {.index = index, .disk = disk, .n_blocks = 8000};

    g_assert_cmpint(pthread_create(&thread, NULL, look, &looker), ==, 0);
    g_assert_cmpint(finish(index).state, ==, GW_IMAGE_INDEX_COMPLETE);
    atomic_store(&looker.stop, true);
    pthread_join(thread, NULL);
    looker.n_found = 0;
    look(&looker);
    g_assert_cmpuint(looker.n_found, >, 1000);
    image_files_clear(&files);
}

/* Given up at any moment: nobody waits, and everything is freed (which ASan looks at). */
static void
test_cancel(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files, "qemu-img create -f qcow2 -o preallocation=metadata disk 2G");
    for (unsigned i = 0; i < 20; i++) {
        GwImageIndexFigures figures = {0};
        GwImageIndex *index = start(&files, "disk", "qcow2", NULL);

        while (i % 4 != 0 && figures.read_blocks < i && figures.state == GW_IMAGE_INDEX_BUILDING) {
            g_thread_yield();
            gw_image_index_figures(index, &figures);
        }
        gw_image_index_free(index);
    }
    image_files_clear(&files);
}

/* Neither look-ups nor who lets go of the index wait for a disk that does not answer. */
static void
test_hung_disk(void)
{
    ImageFiles files = {0};
    GwImageIndexFigures figures;
    uint64_t block;

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files, "qemu-img create -f qcow2 disk 1G");
    image_write_raw(&files, "raw", 100, 1);
    for (unsigned i = 0; i < 2; i++) {
        hung_disk_begin();
        GwImageIndex *index =
            i == 0 ? start(&files, "disk", "qcow2", "cache") : start(&files, "raw", "raw", NULL);

        hung_disk_wait();
        g_assert_false(gw_image_index_find(index, 1, &block));
        gw_image_index_figures(index, &figures);
        g_assert_cmpint(figures.state, ==, GW_IMAGE_INDEX_BUILDING);
        gw_image_index_free(index);
        hung_disk_end();
    }
    image_files_clear(&files);
}

/* --- kept indexes ----------------------------------------------------------------------------- */

static char *
only_index_file(const ImageFiles *files)
{
    g_autofree char *folder = image_file(files, "cache");
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;
    char *found = NULL;

    while ((name = g_dir_read_name(dir))) {
        if (g_str_has_suffix(name, ".index")) {
            g_assert_null(found);
            found = g_build_filename("cache", name, NULL);
        }
    }
    g_assert_nonnull(found);
    return found;
}

static void
test_kept(void)
{
    ImageFiles files = {0};
    uint8_t old[GW_PAGE_BYTES], new[GW_PAGE_BYTES];
    uint64_t block;
    size_t len;

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 1000, 2);
    g_autofree uint8_t *disk = image_convert(&files, "disk", "raw", &len);
    g_autoptr(GwImageIndex) first = start(&files, "disk", "raw", "cache");
    g_assert_false(finish(first).was_kept);

    g_autoptr(GwImageIndex) second = start(&files, "disk", "raw", "cache");
    GwImageIndexFigures figures = finish(second);
    g_assert_true(figures.was_kept);
    g_assert_cmpuint(figures.read_blocks, ==, 0);
    g_assert_cmpuint(figures.n_entries, ==, 910);
    g_assert_cmpuint(check_found(second, disk, len), ==, 910);

    /* Written since: of use, and read again; what has gone is not found any more. */
    image_page(old, 2, 20);
    image_page(new, 3, 20);
    image_patch(&files, "disk", 20 * GW_PAGE_BYTES, new, GW_PAGE_BYTES);
    g_autoptr(GwImageIndex) third = start(&files, "disk", "raw", "cache");
    figures = finish(third);
    g_assert_true(figures.was_kept);
    g_assert_cmpuint(figures.read_blocks, ==, 1000);
    g_assert_cmpuint(figures.n_entries, ==, 910);
    g_assert_true(find_page(third, new, &block));
    g_assert_cmpuint(block, ==, 20);
    g_assert_false(find_page(third, old, &block));

    g_autoptr(GwImageIndex) fourth = start(&files, "disk", "raw", "cache");
    g_assert_cmpuint(finish(fourth).read_blocks, ==, 0);
    g_assert_true(find_page(fourth, new, &block));

    /* Much larger than it was: made anew, as it would be too tight. */
    image_write_raw(&files, "larger", 3000, 6);
    g_autofree char *larger = NULL;
    g_autofree char *larger_path = image_file(&files, "larger");
    g_assert_true(g_file_get_contents(larger_path, &larger, &len, NULL));
    image_patch(&files, "disk", 0, larger, len);
    g_autoptr(GwImageIndex) fifth = start(&files, "disk", "raw", "cache");
    figures = finish(fifth);
    g_assert_false(figures.was_kept);
    g_assert_cmpuint(figures.n_entries, ==, 2728);
    image_files_clear(&files);
}

/* Whatever is wrong with the file, the index is made anew and is right. */
static void
test_kept_damaged(void)
{
    ImageFiles files = {0};
    g_autofree char *sound = NULL;
    size_t len;

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 300, 2);
    g_autoptr(GwImageIndex) first = start(&files, "disk", "raw", "cache");
    (void)finish(first);
    g_autofree char *name = only_index_file(&files);
    g_autofree char *path = image_file(&files, name);
    g_assert_true(g_file_get_contents(path, &sound, &len, NULL));
    for (unsigned i = 0; i < 150; i++) {
        g_autofree char *bytes = g_memdup2(sound, len + 1);
        size_t new_len = len;

        if (i < 80) {
            bytes[i] ^= (char)(1 << i % 8);
        } else if (i < 100) {
            new_len = i == 80 ? 0 : i == 81 ? len + 1 : (uint32_t)g_test_rand_int() % len;
        } else {
            bytes[g_test_rand_int_range(0, (gint32)len)] ^= (char)g_test_rand_int_range(1, 256);
        }
        g_assert_true(g_file_set_contents(path, bytes, (gssize)new_len, NULL));
        g_autoptr(GwImageIndex) index = start(&files, "disk", "raw", "cache");
        GwImageIndexFigures figures = finish(index);

        g_assert_cmpint(figures.state, ==, GW_IMAGE_INDEX_COMPLETE);
        g_assert_false(figures.was_kept);
        g_assert_cmpuint(figures.read_blocks, ==, 300);
        g_assert_cmpuint(figures.n_entries, ==, 273);
    }
    image_files_clear(&files);
}

/* Sizes are believed only as far as the file and the limit go. */
static void
test_kept_hostile_size(void)
{
    ImageFiles files = {0};
    static const char huge[] = "\0\0\0\1\0\0\0\0";

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 300, 2);
    g_autoptr(GwImageIndex) first = start(&files, "disk", "raw", "cache");
    (void)finish(first);
    g_autofree char *name = only_index_file(&files);
    g_autofree char *path = image_file(&files, name);
    image_patch(&files, name, 64, huge, 8);
    g_assert_cmpint(truncate(path, INT64_C(1) << 36), ==, 0); /* sparse */
    g_autoptr(GwImageIndex) index = start(&files, "disk", "raw", "cache");
    g_assert_false(finish(index).was_kept);
    image_files_clear(&files);
}

static void
test_kept_bounded(void)
{
    ImageFiles files = {0};
    uint64_t total = 0;
    const char *name;

    if (!image_files_init(&files)) {
        return;
    }
    g_autofree char *folder = image_file(&files, "cache");
    for (unsigned i = 0; i < 6; i++) {
        g_autofree char *disk = g_strdup_printf("disk%u", i);
        g_autofree char *path = image_file(&files, disk);

        image_write_raw(&files, disk, 1000, i);
        GwImageIndexOptions options = {.path = path,
                                       .format = "raw",
                                       .seed = SEED,
                                       .cache_folder = folder,
                                       .max_cache_bytes = 40000};
        g_autoptr(GwImageIndex) index = gw_image_index_start(&options, NULL);
        g_assert_cmpint(finish(index).state, ==, GW_IMAGE_INDEX_COMPLETE);
    }
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        GStatBuf st;

        g_assert_cmpint(g_stat(path, &st), ==, 0);
        g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
        total += (uint64_t)st.st_size;
    }
    g_assert_cmpuint(total, <=, 40000);
    g_assert_cmpuint(total, >, 20000);
    image_files_clear(&files);
}

/* As on a full disk: a limit on the size of files. */
static void
limit_files(rlim_t bytes)
{
    struct rlimit limit;

    (void)signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    limit.rlim_cur = MIN(bytes, limit.rlim_max);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
}

/* An index that cannot be kept is as good as any other, and leaves nothing behind. */
static void
test_full_disk(void)
{
    ImageFiles files = {0};
    uint8_t page[GW_PAGE_BYTES];
    uint64_t block;

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 4000, 3);
    image_page(page, 3, 1);
    g_autofree char *folder = image_file(&files, "cache");
    g_assert_cmpint(g_mkdir(folder, 0700), ==, 0);
    for (rlim_t bytes = 0; bytes < 8192; bytes += 4096) {
        g_autoptr(GDir) dir = NULL;

        limit_files(bytes);
        g_autoptr(GwImageIndex) index = start(&files, "disk", "raw", "cache");
        g_assert_cmpint(finish(index).state, ==, GW_IMAGE_INDEX_COMPLETE);
        limit_files(RLIM_INFINITY);
        g_assert_true(find_page(index, page, &block));
        g_assert_cmpuint(block, ==, 1);
        dir = g_dir_open(folder, 0, NULL);
        g_assert_null(g_dir_read_name(dir));
    }
    g_autoptr(GwImageIndex) index = start(&files, "disk", "raw", "cache");
    g_assert_false(finish(index).was_kept);
    g_free(only_index_file(&files)); /* there is one */
    image_files_clear(&files);
}

static void
test_seed(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    g_autofree char *folder = image_file(&files, "cache");
    uint64_t seed = gw_image_cache_seed(folder);

    g_assert_cmpuint(seed, ==, gw_image_cache_seed(folder));
    g_assert_cmpuint(seed, !=, gw_image_cache_seed(NULL));
    g_autofree char *path = g_build_filename(folder, "seed", NULL);
    g_assert_cmpint(truncate(path, 5), ==, 0);
    g_assert_cmpuint(seed, !=, gw_image_cache_seed(folder));
    image_files_clear(&files);
}

/* --- figures ---------------------------------------------------------------------------------- */

static void
print_rates(GwImageIndex *index, const char *what)
{
    GwImageIndexFigures figures = finish(index);
    double s = (double)MAX(figures.elapsed_us, 1) / 1e6;
    double mb = (double)figures.read_blocks * GW_PAGE_BYTES / 1e6;

    g_printerr("%s: %.0f MB in %.3f s, %.0f MB/s; %" G_GUINT64_FORMAT " entries, %.2f MiB, "
               "%.2f MiB per GiB\n",
               what, mb, s, mb / s, figures.n_entries, (double)figures.memory_bytes / 1048576,
               (double)figures.memory_bytes * 1024 /
                   ((double)MAX(figures.read_blocks, 1) * GW_PAGE_BYTES));
}

static void
print_look_ups(GwImageIndex *index, uint32_t seed, const char *what)
{
    enum { N = 65536 };
    g_autofree uint64_t *hashes = g_new(uint64_t, N);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    uint8_t page[GW_PAGE_BYTES] = {0};
    uint64_t block, n_found = 0;

    for (unsigned i = 0; i < N; i++) {
        uint32_t number = g_rand_int(random);

        memcpy(page, &number, 4);
        hashes[i] = gw_image_index_hash(page, SEED);
    }
    int64_t begun_us = g_get_monotonic_time();
    for (unsigned k = 0; k < 20; k++) {
        for (unsigned i = 0; i < N; i++) {
            gw_image_index_prefetch(index, hashes[(i + 16) % N]);
            n_found += gw_image_index_find(index, hashes[i], &block);
        }
    }
    double s = (double)(g_get_monotonic_time() - begun_us) / 1e6;
    g_printerr("%s: %.1f million look-ups/s (%.0f %% found)\n", what, 20 * N / s / 1e6,
               (double)n_found * 100 / (20 * N));
}

static void
test_rates(void)
{
    enum { MB = 1024 };
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    g_autofree char *path = image_file(&files, "disk");
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    g_autofree uint8_t *chunk = g_malloc(1048576);
    int fd = g_open(path, O_WRONLY | O_CREAT, 0600);

    for (unsigned i = 0; i < 1048576; i++) {
        chunk[i] = (uint8_t)g_rand_int(random);
    }
    for (unsigned i = 0; i < MB; i++) {
        for (unsigned k = 0; k < 256; k++) {
            uint32_t number = g_rand_int(random);

            memcpy(chunk + (size_t)k * GW_PAGE_BYTES, &number, 4);
        }
        g_assert_cmpint(write(fd, chunk, 1048576), ==, 1048576);
    }
    close(fd);
    image_run(&files, "qemu-img convert -f raw -O qcow2 disk disk.qcow2");
    for (unsigned i = 0; i < 3; i++) {
        g_autoptr(GwImageIndex) raw = start(&files, "disk", "raw", NULL);
        print_rates(raw, "raw");
        g_autoptr(GwImageIndex) qcow2 = start(&files, "disk.qcow2", "qcow2", i ? "cache" : NULL);
        print_rates(qcow2, i == 2 ? "qcow2, kept" : "qcow2");
        print_look_ups(raw, 7, "not there");
    }
    image_files_clear(&files);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lane/image-index/table", test_table);
    g_test_add_func("/lane/image-index/table-full", test_table_full);
    g_test_add_func("/lane/image-index/table-refresh", test_table_refresh);
    g_test_add_func("/lane/image-index/raw", test_raw);
    g_test_add_func("/lane/image-index/chain", test_chain);
    g_test_add_func("/lane/image-index/failures", test_failures);
    g_test_add_func("/lane/image-index/table-limit", test_table_limit);
    g_test_add_func("/lane/image-index/endless-image", test_endless_image);
    g_test_add_func("/lane/image-index/look-up-while-building", test_look_up_while_building);
    g_test_add_func("/lane/image-index/cancel", test_cancel);
    g_test_add_func("/lane/image-index/kept", test_kept);
    g_test_add_func("/lane/image-index/kept-damaged", test_kept_damaged);
    g_test_add_func("/lane/image-index/kept-hostile-size", test_kept_hostile_size);
    g_test_add_func("/lane/image-index/kept-bounded", test_kept_bounded);
    g_test_add_func("/lane/image-index/full-disk", test_full_disk);
    g_test_add_func("/lane/image-index/hung-disk", test_hung_disk);
    g_test_add_func("/lane/image-index/seed", test_seed);
    if (g_test_perf()) { /* -m perf */
        g_test_add_func("/lane/image-index/rates", test_rates);
    }
    return g_test_run();
}
