// SPDX-License-Identifier: Apache-2.0
/*
 * Visits: what one host kept and what the other noted belong together; files that are damaged;
 * disks that are full or away.
 */
#include "base/fd.h"
#include "lane/image_ref.h"
#include "lane/visit.h"
#include "test-image-files.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEED    5u
#define N_PAGES 20000u

static char *
make_folder(void)
{
    g_autoptr(GError) error = NULL;
    char *folder = g_dir_make_tmp("godwit-visit-XXXXXX", &error);

    g_assert_no_error(error);
    return folder;
}

static void
remove_folder(char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(folder), ==, 0);
    g_free(folder);
}

static bool
exists(const char *path)
{
    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* --- tags ------------------------------------------------------------------------------------- */

static GwVisitTags *
make_tags(uint64_t max_bytes)
{
    GwVisitTags *tags = gw_visit_tags_new(max_bytes);
    uint8_t page[GW_PAGE_BYTES];

    gw_visit_tags_add_block(tags, "pc.ram", 6);
    gw_visit_tags_add_block(tags, "vga.vram", 8);
    for (unsigned i = 0; i < N_PAGES; i++) {
        image_page(page, SEED, i);
        gw_visit_tags_put(tags, i % 2, i, page);
    }
    image_page(page, SEED, 77);
    gw_visit_tags_put(tags, 0, 12, page); /* sent again */
    gw_visit_tags_put(tags, 0, 14, NULL);
    gw_visit_tags_put(tags, 7, 1, page);
    gw_visit_tags_put(tags, 0, GW_VISIT_BLOCK_PAGES, page);
    return tags;
}

static void
check_tags(const GwVisitTags *tags)
{
    uint8_t page[GW_PAGE_BYTES];

    g_assert_cmpint(gw_visit_tags_find_block(tags, "vga.vram"), ==, 1);
    g_assert_cmpint(gw_visit_tags_find_block(tags, "vga"), ==, -1);
    for (unsigned i = 0; i < N_PAGES; i++) {
        image_page(page, SEED, i);
        g_assert_true(gw_visit_tags_match(tags, i % 2, i, page) == (i != 12 && i != 14));
        g_assert_false(gw_visit_tags_match(tags, 1 - i % 2, i, page));
        page[i % GW_PAGE_BYTES] ^= 1;
        g_assert_false(gw_visit_tags_match(tags, i % 2, i, page));
    }
    image_page(page, SEED, 77);
    g_assert_true(gw_visit_tags_match(tags, 0, 12, page));
    g_assert_false(gw_visit_tags_match(tags, 7, 1, page));
    g_assert_false(gw_visit_tags_match(tags, 0, UINT64_MAX, page));
}

static void
test_tags(void)
{
    char *folder = make_folder();
    g_autofree char *path = g_build_filename(folder, "tags", NULL);
    g_autoptr(GwVisitTags) tags = make_tags(UINT64_MAX);
    g_autoptr(GError) error = NULL;

    check_tags(tags);
    g_assert_true(gw_visit_tags_save(tags, path, &error));
    g_autoptr(GwVisitTags) loaded = gw_visit_tags_load(path, gw_visit_tags_bytes(tags), &error);

    g_assert_no_error(error);
    check_tags(loaded);
    g_assert_cmpuint(gw_visit_tags_bytes(loaded), ==, gw_visit_tags_bytes(tags));
    g_assert_null(gw_visit_tags_load(path, gw_visit_tags_bytes(tags) - 1, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
    remove_folder(folder);
}

static void
test_limit(void)
{
    g_autoptr(GwVisitTags) tags = make_tags(3 * GW_VISIT_CHUNK_PAGES * 8);

    g_assert_cmpuint(gw_visit_tags_bytes(tags), ==, 3 * GW_VISIT_CHUNK_PAGES * 8);
    for (uint64_t page = 1; page < GW_VISIT_BLOCK_PAGES; page *= 2) {
        uint8_t content[GW_PAGE_BYTES] = {1};

        gw_visit_tags_put(tags, 1, page, content);
    }
    g_assert_cmpuint(gw_visit_tags_bytes(tags), ==, 3 * GW_VISIT_CHUNK_PAGES * 8);
}

static void
test_damaged_tags(void)
{
    char *folder = make_folder();
    g_autofree char *path = g_build_filename(folder, "tags", NULL);
    g_autoptr(GwVisitTags) tags = make_tags(UINT64_MAX);
    g_autofree char *text = NULL;
    gsize len = 0;

    g_assert_true(gw_visit_tags_save(tags, path, NULL));
    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    for (unsigned i = 0; i < 300; i++) {
        gsize at = i < 60 ? i : (gsize)g_test_rand_int_range(0, (gint)len);
        gsize keep = i % 3 == 0 ? at : len;
        g_autoptr(GError) error = NULL;

        text[at] ^= 0x40;
        g_assert_true(g_file_set_contents(path, text, (gssize)keep, NULL));
        text[at] ^= 0x40;
        g_assert_null(gw_visit_tags_load(path, UINT64_MAX, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
    }
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_null(gw_visit_tags_load(path, UINT64_MAX, NULL));
    remove_folder(folder);
}

/* --- pages ------------------------------------------------------------------------------------ */

/* Puts pages as make_tags() does, the first ones twice, with something else before. */
static void
put_pages(GwVisitWriter *writer)
{
    uint8_t page[GW_PAGE_BYTES];

    for (unsigned i = 0; i < 1000; i++) {
        image_page(page, SEED + 1, i);
        gw_visit_writer_put(writer, i % 2, i, page);
    }
    for (unsigned i = 0; i < N_PAGES / 2; i++) {
        image_page(page, SEED, i);
        gw_visit_writer_put(writer, i % 2, i, page);
    }
    gw_visit_writer_put(writer, GW_VISIT_MAX_BLOCKS, 1, page);
}

static void
test_pages(void)
{
    char *folder = make_folder();
    g_autofree char *path = g_build_filename(folder, "pages", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GwVisitWriter) writer = gw_visit_writer_new(path, &error);
    struct stat st;

    g_assert_no_error(error);
    put_pages(writer);
    gw_visit_writer_keep(writer);
    g_assert_true(gw_visit_writer_wait(writer));
    g_assert_cmpint(g_stat(path, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
    g_assert_cmpint((gint64)st.st_blocks * 512, <, 64 << 20);
    g_autoptr(GwImage) image = gw_image_open(path, "raw", &error);

    g_assert_no_error(error);
    for (unsigned i = 0; i < N_PAGES / 2; i++) {
        uint8_t expected[GW_PAGE_BYTES], page[GW_PAGE_BYTES];
        GwImageRead read = {.out = page};

        g_assert_true(gw_visit_place(i % 2, i, &read.block));
        gw_image_read(image, &read, 1);
        image_page(expected, SEED, i);
        g_assert_true(read.known);
        g_assert_cmpmem(page, GW_PAGE_BYTES, expected, GW_PAGE_BYTES);
    }
    remove_folder(folder);
}

/* A move that fails leaves nothing. */
static void
test_not_kept(void)
{
    char *folder = make_folder();
    g_autofree char *path = g_build_filename(folder, "pages", NULL);
    g_autofree char *part = g_strdup_printf("%s.part", path);
    GwVisitWriter *writer = gw_visit_writer_new(path, NULL);

    g_assert_true(exists(part));
    put_pages(writer);
    gw_visit_writer_free(writer);
    while (exists(part)) {
        g_usleep(1000);
    }
    g_assert_false(exists(path));
    g_autofree char *nowhere = g_build_filename(folder, "no", "folder", NULL);
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_visit_writer_new(nowhere, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    remove_folder(folder);
}

/* As on a full disk: a limit on the size of files. */
static void
test_full_disk(void)
{
    char *folder = make_folder();
    g_autofree char *path = g_build_filename(folder, "pages", NULL);
    g_autofree char *part = g_strdup_printf("%s.part", path);

    g_assert_cmpint(symlink("/dev/full", part), ==, 0);
    g_assert_null(gw_visit_writer_new(path, NULL)); /* and no link is followed */
    g_assert_cmpint(g_unlink(part), ==, 0);
    g_autoptr(GwVisitWriter) writer = gw_visit_writer_new(path, NULL);

    /* Beyond what any file system takes. */
    uint8_t page[GW_PAGE_BYTES] = {1};
    struct rlimit limit, before;

    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &before), ==, 0);
    limit = before;
    limit.rlim_cur = 1 << 20;
    (void)signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    for (unsigned i = 0; i < 1000; i++) {
        gw_visit_writer_put(writer, 0, i, page);
    }
    gw_visit_writer_keep(writer);
    g_assert_false(gw_visit_writer_wait(writer));
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &before), ==, 0);
    g_assert_false(exists(path));
    g_assert_false(exists(part));
    gw_visit_writer_put(writer, 0, 1, page);
    remove_folder(folder);
}

/* --- both ------------------------------------------------------------------------------------- */

static void
test_return(void)
{
    char *folder = make_folder();
    g_autofree char *path = g_build_filename(folder, "pages", NULL);
    const GwRefSourceOptions options = {0};
    g_autoptr(GwVisitWriter) writer = gw_visit_writer_new(path, NULL);
    g_autoptr(GwRefSource) source = gw_ref_source_new(&options);
    g_autoptr(GwRefTarget) target = gw_ref_target_new();
    g_autoptr(GwRefGroup) group = gw_ref_group_new();
    g_autoptr(GByteArray) section = g_byte_array_new();
    g_autoptr(GwPageTagger) tagger =
        gw_page_tagger_new((const uint8_t[GW_PAGE_TAG_KEY_BYTES]){3}, NULL);
    g_autoptr(GError) error = NULL;
    uint8_t page[GW_PAGE_BYTES];
    unsigned n_found = 0;

    put_pages(writer);
    gw_visit_writer_keep(writer);
    g_assert_true(gw_visit_writer_wait(writer));
    gw_ref_target_set_image(target, 0, gw_image_open(path, "raw", &error));
    g_assert_true(gw_ref_source_add_visit(source, make_tags(UINT64_MAX), &error));
    g_assert_false(gw_ref_source_add_visit(source, make_tags(UINT64_MAX), NULL));
    /* The stream's blocks come in another order this time. */
    gw_ref_source_name_block(source, 0, "bios");
    gw_ref_source_name_block(source, 4, "vga.vram");
    gw_ref_source_name_block(source, 5, "pc.ram");
    for (unsigned used = 0; used < 2; used++) {
        for (unsigned i = 100; i < 300; i++) {
            GwPageTag tag;
            GwRef ref;

            image_page(page, SEED, i);
            page[0] ^= i % 10 == 0;
            g_assert_false(gw_ref_source_try_visit(source, 0, i, page, &ref));
            if (gw_ref_source_try_visit(source, i % 2 ? 4 : 5, i, page, &ref)) {
                gw_page_tag(tagger, page, &tag);
                g_assert_true(gw_ref_group_add(group, &ref, page, &tag));
                n_found++;
            }
        }
        g_assert_cmpuint(n_found, ==, used * 180);
        gw_ref_source_use(source, 0);
    }
    gw_ref_group_encode(group, section);
    g_autoptr(GwRefPages) pages =
        gw_ref_target_resolve(target, tagger, section->data, section->len, n_found, &error);

    g_assert_no_error(error);
    g_assert_true(gw_ref_pages_is_proven(pages));
    remove_folder(folder);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/visit/tags", test_tags);
    g_test_add_func("/visit/limit", test_limit);
    g_test_add_func("/visit/damaged-tags", test_damaged_tags);
    g_test_add_func("/visit/pages", test_pages);
    g_test_add_func("/visit/not-kept", test_not_kept);
    g_test_add_func("/visit/full-disk", test_full_disk);
    g_test_add_func("/visit/return", test_return);
    return g_test_run();
}
