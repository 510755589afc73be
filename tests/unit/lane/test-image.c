// SPDX-License-Identifier: Apache-2.0
/*
 * Disk images: what is read is what QEMU reads, for images of all kinds made by QEMU's own tools;
 * what cannot be read is unknown; damaged and hostile files fail cleanly.
 */
#include "lane/image.h"
#include "test-image-files.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH 256u

typedef struct Counts {
    uint64_t known;
    uint64_t zero;
    uint64_t unknown;
} Counts;

static uint64_t
below(uint64_t end)
{
    return (uint32_t)g_test_rand_int() % end;
}

static void
read_batch(GwImage *image, GwImageRead *reads, size_t n, const uint8_t *disk, Counts *counts)
{
    gw_image_read(image, reads, n);
    for (size_t i = 0; i < n; i++) {
        if (!reads[i].known) {
            counts->unknown++;
            continue;
        }
        const uint8_t *expected = disk + reads[i].block * GW_PAGE_BYTES;

        g_assert_cmpmem(reads[i].out, GW_PAGE_BYTES, expected, GW_PAGE_BYTES);
        counts->known++;
        counts->zero += reads[i].out[0] == 0 && memcmp(reads[i].out, reads[i].out + 1, 4095) == 0;
    }
}

/* In an order with runs, leaps, repetitions and blocks beyond the end. */
static void
check_reads(GwImage *image, const uint8_t *disk, Counts *counts)
{
    const uint64_t n_blocks = gw_image_n_blocks(image);
    g_autofree uint8_t *pages = g_malloc((gsize)BATCH * GW_PAGE_BYTES);
    g_autofree uint64_t *order = g_new(uint64_t, n_blocks);
    GwImageRead reads[BATCH];

    for (uint64_t i = 0; i < n_blocks; i++) {
        order[i] = i;
    }
    for (uint64_t i = 0; i < n_blocks / 3; i++) {
        uint64_t a = below(n_blocks), b = below(n_blocks);
        uint64_t swapped = order[a];

        order[a] = order[b];
        order[b] = swapped;
    }
    for (uint64_t i = 0; i < n_blocks;) {
        size_t n = 0;

        for (; n < BATCH && i < n_blocks; n++, i++) {
            reads[n] = (GwImageRead){.block = order[i], .out = pages + n * GW_PAGE_BYTES};
        }
        read_batch(image, reads, n, disk, counts);
    }
    reads[0] = (GwImageRead){.block = 0, .out = pages};
    reads[1] = (GwImageRead){.block = 0, .out = pages + GW_PAGE_BYTES};
    reads[2] = (GwImageRead){.block = n_blocks, .out = pages};
    reads[3] = (GwImageRead){.block = UINT64_MAX, .out = pages};
    gw_image_read(image, reads, 4);
    g_assert_false(reads[2].known || reads[3].known);
    g_assert_true(reads[0].known == reads[1].known);
}

/* The extents of a layer cover it without gaps; what layer 0 has is what the guest sees. */
static uint64_t
check_layer(GwImage *image, unsigned layer, const uint8_t *disk)
{
    const uint64_t n_blocks = gw_image_n_blocks(image);
    g_autofree uint8_t *buffer = g_malloc((gsize)BATCH * GW_PAGE_BYTES);
    uint64_t data_blocks = 0;

    for (uint64_t block = 0; block < n_blocks;) {
        uint64_t most = g_test_rand_bit() ? n_blocks - block : 1 + below(64);
        GwImageExtent extent = gw_image_map_layer(image, layer, block, most);

        g_assert_cmpuint(extent.n_blocks, >=, 1);
        g_assert_cmpuint(extent.n_blocks, <=, most);
        if (extent.content == GW_IMAGE_DATA) {
            size_t len = (size_t)MIN(extent.n_blocks, BATCH) * GW_PAGE_BYTES;
            size_t got = gw_image_read_extent(image, &extent, buffer, len);

            data_blocks += extent.n_blocks;
            len = MIN(got, (n_blocks - block) * GW_PAGE_BYTES);
            if (layer == 0) {
                g_assert_true(memcmp(buffer, disk + block * GW_PAGE_BYTES, len) == 0);
            }
        }
        block += extent.n_blocks;
    }
    return data_blocks;
}

static Counts
check_image(const ImageFiles *files, const char *name, const char *format)
{
    g_autofree char *path = image_file(files, name);
    g_autoptr(GError) error = NULL;
    g_autoptr(GwImage) image = gw_image_open(path, format, &error);
    size_t len;
    g_autofree uint8_t *disk = image_convert(files, name, format, &len);
    Counts counts = {0};

    g_assert_no_error(error);
    g_assert_cmpuint(gw_image_n_blocks(image), ==, len / GW_PAGE_BYTES);
    for (unsigned i = 0; i < gw_image_n_layers(image); i++) {
        (void)check_layer(image, i, disk);
    }
    check_reads(image, disk, &counts);
    g_test_message("%s: %" G_GUINT64_FORMAT " known, of these %" G_GUINT64_FORMAT
                   " zero; %" G_GUINT64_FORMAT " unknown",
                   name, counts.known, counts.zero, counts.unknown);
    return counts;
}

/* --- all kinds -------------------------------------------------------------------------------- */

static void
test_raw(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "disk", 700, 5);
    g_autofree char *path = image_file(&files, "disk");
    g_assert_cmpint(truncate(path, 1500 * GW_PAGE_BYTES), ==, 0);
    image_patch(&files, "disk", 1200 * GW_PAGE_BYTES + 100, "x", 1);
    Counts counts = check_image(&files, "disk", "raw");
    g_assert_cmpuint(counts.unknown, ==, 0);
    g_assert_cmpuint(counts.known, ==, 1500);

    g_autoptr(GwImage) image = gw_image_open(path, "raw", NULL);
    GwImageExtent extent = gw_image_map_layer(image, 0, 700, 800);
    g_assert_cmpuint(extent.content, ==, GW_IMAGE_ZERO);
    g_assert_cmpuint(extent.n_blocks, ==, 500);
    extent = gw_image_map_layer(image, 0, 1200, 300);
    g_assert_cmpuint(extent.content, ==, GW_IMAGE_DATA);
    g_assert_cmpuint(extent.n_blocks, <, 300);
    image_files_clear(&files);
}

static void
test_qcow2_kinds(void)
{
    static const char *const kinds[] = {
        "compat=0.10",
        "compat=0.10,cluster_size=4096",
        "compat=1.1",
        "compat=1.1,cluster_size=4096",
        "compat=1.1,cluster_size=2M",
        "compat=1.1,lazy_refcounts=on,cluster_size=16K",
        "compat=1.1,preallocation=metadata",
        "compat=1.1,preallocation=full",
        "compat=1.1,compression_type=zstd",
    };
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        image_run(&files, "qemu-img create -f qcow2 -o %s disk 24M", kinds[i]);
        image_scribble(&files, "disk", "qcow2", 80, i == 0 ? "w" : "wwwzd");
        Counts counts = check_image(&files, "disk", "qcow2");

        g_test_message("%s", kinds[i]);
        /* The file may end within a cluster: what is behind is not read. */
        g_assert_cmpuint(counts.unknown, <=, 512);
        g_assert_cmpuint(counts.known - counts.zero, >, 200);
    }
    image_files_clear(&files);
}

/* 4 KiB clusters: an L2 table covers 2 MiB, so the L1 table is more than one piece. */
static void
test_many_tables(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files, "qemu-img create -f qcow2 -o cluster_size=4096 disk 4G");
    image_run(&files,
              "qemu-io -t unsafe -f qcow2 -c 'write -P 1 0 8k' -c 'write -P 2 2097148k 16k' "
              "-c 'write -P 3 4294963200 4k' disk");
    g_autofree char *path = image_file(&files, "disk");
    g_autoptr(GwImage) image = gw_image_open(path, "qcow2", NULL);
    uint8_t pages[4][GW_PAGE_BYTES];
    GwImageRead reads[] = {{.block = 1048575, .out = pages[0]},
                           {.block = 1, .out = pages[1]},
                           {.block = 524287, .out = pages[2]},
                           {.block = 524288, .out = pages[3]}};

    gw_image_read(image, reads, G_N_ELEMENTS(reads));
    for (unsigned i = 0; i < 4; i++) {
        g_assert_true(reads[i].known);
    }
    g_assert_cmpuint(pages[0][77], ==, 3);
    g_assert_cmpuint(pages[1][77], ==, 1);
    g_assert_cmpuint(pages[2][77], ==, 2);
    g_assert_cmpuint(pages[3][77], ==, 2);
    image_files_clear(&files);
}

static void
test_chain(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "base", 2500, 9);
    image_run(&files, "qemu-img create -f qcow2 -b base -F raw -o cluster_size=32K middle 6M");
    image_scribble(&files, "middle", "qcow2", 25, "wwz");
    image_run(&files, "qemu-img create -f qcow2 -b middle -F qcow2 top 24M");
    image_scribble(&files, "top", "qcow2", 25, "wwzd");

    Counts counts = check_image(&files, "middle", "qcow2");
    g_assert_cmpuint(counts.known - counts.zero, >, 500);
    counts = check_image(&files, "top", "qcow2");
    g_assert_cmpuint(counts.known - counts.zero, >, 500);
    g_assert_cmpuint(counts.unknown, <=, 16);

    g_autofree char *path = image_file(&files, "top");
    g_autoptr(GwImage) image = gw_image_open(path, "qcow2", NULL);
    g_assert_cmpuint(gw_image_n_layers(image), ==, 3);
    g_assert_true(g_str_has_suffix(gw_image_layer_path(image, 2), "/base"));
    g_assert_cmpstr(gw_image_layer_format(image, 2), ==, "raw");
    g_assert_null(gw_image_layer_path(image, 3));
    g_assert_null(gw_image_note(image));
    image_files_clear(&files);
}

static void
test_snapshots(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files, "qemu-img create -f qcow2 disk 16M");
    image_scribble(&files, "disk", "qcow2", 30, "w");
    image_run(&files, "qemu-img snapshot -c before disk");
    image_scribble(&files, "disk", "qcow2", 30, "wz");
    Counts counts = check_image(&files, "disk", "qcow2");
    g_assert_cmpuint(counts.unknown, <=, 16);
    image_run(&files, "qemu-img snapshot -a before disk");
    (void)check_image(&files, "disk", "qcow2");
    image_files_clear(&files);
}

static void
test_compressed(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "plain", 4096, 8);
    g_autofree char *half = g_malloc0((gsize)2048 * GW_PAGE_BYTES);
    memset(half, 'a', (size_t)1024 * GW_PAGE_BYTES);
    image_patch(&files, "plain", 0, half, (size_t)2048 * GW_PAGE_BYTES);
    image_run(&files, "qemu-img convert -c -f raw -O qcow2 plain disk");
    image_scribble(&files, "disk", "qcow2", 40, "w");
    Counts counts = check_image(&files, "disk", "qcow2");
    g_assert_cmpuint(counts.unknown, >, 16);
    g_assert_cmpuint(counts.known - counts.zero, >, 16);
    image_files_clear(&files);
}

/* --- not for us: unknown, with a note, and no error ------------------------------------------- */

static void
check_unknown(const ImageFiles *files, const char *name)
{
    g_autofree char *path = image_file(files, name);
    g_autoptr(GError) error = NULL;
    g_autoptr(GwImage) image = gw_image_open(path, "qcow2", &error);
    uint8_t page[GW_PAGE_BYTES];
    GwImageRead read = {.block = 0, .out = page};

    g_assert_no_error(error);
    gw_image_read(image, &read, 1);
    g_assert_false(read.known);
    g_assert_nonnull(gw_image_note(image));
    g_test_message("%s", gw_image_note(image));
}

static void
test_not_understood(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files,
              "qemu-img create -f qcow2 -o extended_l2=on,cluster_size=128K subclusters 8M");
    image_run(&files, "qemu-img create -f qcow2 -o data_file=outside,data_file_raw=on data 8M");
    image_run(&files, "qemu-img create -f qcow2 -o cluster_size=1024 small 8M");
    check_unknown(&files, "subclusters");
    check_unknown(&files, "data");
    check_unknown(&files, "small");
    if (image_try(&files, "qemu-img create -f qcow2 --object secret,id=s,data=abcdefgh "
                          "-o encrypt.format=aes,encrypt.key-secret=s secret 8M")) {
        check_unknown(&files, "secret");
    }
    image_files_clear(&files);
}

static void
test_no_backing(void)
{
    static const struct {
        const char *from;
        const char *to;
        size_t len;
    } renames[] = {
        {"thebase", "nowhere", 7},           /* not there */
        {"thebase", "nbd:foo", 7},           /* not a file */
        {"thebase", "the\0ase", 7},          /* not text */
        {"\xe2\x79\x2a\xca", "\1\2\3\4", 4}, /* no format recorded */
        {"raw", "vdi", 3},
    };
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "thebase", 1000, 3);
    for (unsigned i = 0; i < G_N_ELEMENTS(renames); i++) {
        image_run(&files, "qemu-img create -f qcow2 -b thebase -F raw disk");
        image_run(&files, "qemu-io -t unsafe -f qcow2 -c 'write -P 7 64k 64k' disk");
        g_autofree char *path = image_file(&files, "disk");
        uint8_t pages[2][GW_PAGE_BYTES];
        GwImageRead reads[] = {{.block = 16, .out = pages[0]}, {.block = 100, .out = pages[1]}};

        image_replace(&files, "disk", renames[i].from, renames[i].to, renames[i].len);
        g_autoptr(GError) error = NULL;
        g_autoptr(GwImage) image = gw_image_open(path, "qcow2", &error);

        g_assert_no_error(error);
        g_assert_nonnull(gw_image_note(image));
        g_test_message("%s", gw_image_note(image));
        gw_image_read(image, reads, 2);
        g_assert_true(reads[0].known);
        g_assert_cmpuint(pages[0][5], ==, 7);
        g_assert_false(reads[1].known);
    }
    image_files_clear(&files);
}

static void
test_absolute_and_file_names(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "base", 100, 3);
    image_run(&files, "qemu-img create -f qcow2 -b file:%s/base -F raw one", files.folder);
    image_run(&files, "qemu-img create -f qcow2 -b %s/one -F qcow2 two", files.folder);
    Counts counts = check_image(&files, "two", "qcow2");
    g_assert_cmpuint(counts.unknown, ==, 0);
    image_files_clear(&files);
}

/* --- refused ---------------------------------------------------------------------------------- */

static void
check_refused(const ImageFiles *files, const char *name, const char *format, int code)
{
    g_autofree char *path = image_file(files, name);
    g_autoptr(GError) error = NULL;
    g_autoptr(GwImage) image = gw_image_open(path, format, &error);

    g_assert_null(image);
    g_assert_error(error, GW_ERROR, code);
    g_test_message("%s", error->message);
}

static void
test_cycles_and_depth(void)
{
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files, "qemu-img create -f qcow2 aaaa 4M");
    image_run(&files, "qemu-img create -f qcow2 -b aaaa -F qcow2 bbbb");
    image_run(&files, "qemu-img create -f qcow2 -b bbbb -F qcow2 cccc");
    image_replace(&files, "bbbb", "aaaa", "cccc", 4);
    check_refused(&files, "cccc", "qcow2", GW_ERROR_INVALID);
    image_replace(&files, "bbbb", "cccc", "bbbb", 4);
    check_refused(&files, "bbbb", "qcow2", GW_ERROR_INVALID);

    image_run(&files, "qemu-img create -f qcow2 level0 4M");
    for (unsigned i = 1; i <= GW_IMAGE_MAX_LAYERS; i++) {
        image_run(&files, "qemu-img create -f qcow2 -b level%u -F qcow2 level%u", i - 1, i);
    }
    g_autofree char *path = image_file(&files, "level15");
    g_autoptr(GwImage) image = gw_image_open(path, "qcow2", NULL);
    g_assert_cmpuint(gw_image_n_layers(image), ==, 16);
    check_refused(&files, "level16", "qcow2", GW_ERROR_TOO_LARGE);
    image_files_clear(&files);
}

static void
test_not_an_image(void)
{
    ImageFiles files = {0};
    g_autofree char *pipe = NULL;

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "raw", 20, 1);
    image_run(&files, "qemu-img create -f raw empty 0");
    pipe = image_file(&files, "pipe");
    g_assert_cmpint(mkfifo(pipe, 0600), ==, 0);
    check_refused(&files, "raw", "qcow2", GW_ERROR_INVALID);
    check_refused(&files, "empty", "qcow2", GW_ERROR_INVALID);
    check_refused(&files, "raw", "vmdk", GW_ERROR_UNSUPPORTED);
    check_refused(&files, "raw", NULL, GW_ERROR_UNSUPPORTED);
    check_refused(&files, "nowhere", "raw", GW_ERROR_IO);
    check_refused(&files, "pipe", "raw", GW_ERROR_INVALID);
    check_refused(&files, ".", "raw", GW_ERROR_INVALID);
    image_files_clear(&files);
}

typedef struct Patch {
    size_t offset;
    const char *bytes;
    size_t len;
    int code; /* -1: opens, and nothing in it can be read */
} Patch;

static void
test_hostile_headers(void)
{
    static const Patch patches[] = {
        {4, "\0\0\0\1", 4, GW_ERROR_INVALID},                            /* version */
        {4, "\0\0\0\4", 4, GW_ERROR_INVALID},                            /* version */
        {20, "\0\0\0\10", 4, GW_ERROR_INVALID},                          /* cluster bits */
        {20, "\0\0\0\26", 4, GW_ERROR_INVALID},                          /* cluster bits */
        {20, "\xff\xff\xff\xff", 4, GW_ERROR_INVALID},                   /* cluster bits */
        {24, "\x7f\xff\xff\xff\xff\xff\xff\xff", 8, GW_ERROR_TOO_LARGE}, /* disk size */
        {32, "\0\0\0\1", 4, -1},                                         /* encrypted */
        {36, "\0\0\0\0", 4, -1},                                         /* no L1 table */
        {40, "\0\0\0\0\0\0\0\1", 8, GW_ERROR_INVALID},                   /* L1 not aligned */
        {40, "\xff\xff\xff\xff\xff\xff\0\0", 8, GW_ERROR_INVALID},       /* L1 beyond all */
        {40, "\0\x7f\xff\xff\xff\xff\0\0", 8, -1},                       /* L1 beyond the file */
        {8, "\0\0\0\0\0\0\xff\xff\0\0\0\4", 12, GW_ERROR_INVALID},       /* name over the cluster */
        {8, "\0\0\0\0\0\0\1\0\0\0\x7f\xff", 12, GW_ERROR_INVALID},       /* name too long */
        {8, "\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\4", 12, GW_ERROR_INVALID},
        {72, "\0\0\0\0\0\0\0\2", 8, -1},                /* corrupt */
        {72, "\x80\0\0\0\0\0\0\0", 8, -1},              /* of the future */
        {100, "\0\0\0\10", 4, GW_ERROR_INVALID},        /* header bytes */
        {100, "\xff\xff\xff\xff", 4, GW_ERROR_INVALID}, /* header bytes */
    };
    ImageFiles files = {0};

    if (!image_files_init(&files)) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(patches); i++) {
        image_run(&files, "qemu-img create -f qcow2 disk 8M");
        image_run(&files, "qemu-io -t unsafe -f qcow2 -c 'write -P 7 0 64k' disk");
        image_patch(&files, "disk", patches[i].offset, patches[i].bytes, patches[i].len);
        if (patches[i].code >= 0) {
            check_refused(&files, "disk", "qcow2", patches[i].code);
            continue;
        }
        g_autofree char *path = image_file(&files, "disk");
        g_autoptr(GwImage) image = gw_image_open(path, "qcow2", NULL);
        uint8_t page[GW_PAGE_BYTES];
        GwImageRead read = {.block = 0, .out = page};

        g_assert_nonnull(image);
        gw_image_read(image, &read, 1);
        g_assert_false(read.known);
    }
    image_files_clear(&files);
}

/* Random damage in header and tables: anything may come out but a crash, or a read beyond. */
static void
test_random_damage(void)
{
    ImageFiles files = {0};
    g_autofree char *sound = NULL;
    size_t len;
    unsigned n_opened = 0;

    if (!image_files_init(&files)) {
        return;
    }
    image_write_raw(&files, "base", 100, 3);
    image_run(&files, "qemu-img create -f qcow2 -b base -F raw -o cluster_size=4096 disk 4M");
    image_scribble(&files, "disk", "qcow2", 20, "wz");
    g_autofree char *path = image_file(&files, "disk");
    g_assert_true(g_file_get_contents(path, &sound, &len, NULL));
    for (unsigned round = 0; round < 1000; round++) {
        g_autofree char *bytes = g_memdup2(sound, len);
        g_autofree uint8_t *pages = g_malloc((gsize)BATCH * GW_PAGE_BYTES);
        GwImageRead reads[BATCH];

        for (unsigned i = 0; i < 1 + round % 8; i++) {
            size_t where = below(round % 3 == 0 ? 112 : 24576);

            bytes[where] = (char)g_test_rand_int();
        }
        /* In place: files are many, and a new one each time would take the time. */
        image_patch(&files, "disk", 0, bytes, 24576);
        g_autoptr(GwImage) image = gw_image_open(path, "qcow2", NULL);

        if (!image) {
            continue;
        }
        n_opened++;
        uint64_t n_blocks = gw_image_n_blocks(image);
        for (uint64_t block = 0, steps = 0; block < n_blocks && steps < 500; steps++) {
            GwImageExtent extent = gw_image_map_layer(image, 0, block, n_blocks - block);

            g_assert_cmpuint(extent.n_blocks, >=, 1);
            block += extent.n_blocks;
        }
        for (unsigned i = 0; i < BATCH; i++) {
            reads[i] =
                (GwImageRead){.block = below(1100), .out = pages + (size_t)i * GW_PAGE_BYTES};
        }
        gw_image_read(image, reads, BATCH);
    }
    g_test_message("%u of 1000 opened", n_opened);
    g_assert_cmpuint(n_opened, >, 100);
    image_files_clear(&files);
}

/* --- identity --------------------------------------------------------------------------------- */

static void
test_identity(void)
{
    ImageFiles files = {0};
    GwImageIdentity before, after;

    if (!image_files_init(&files)) {
        return;
    }
    image_run(&files, "qemu-img create -f qcow2 disk 8M");
    g_autofree char *path = image_file(&files, "disk");
    g_autoptr(GwImage) image = gw_image_open(path, "qcow2", NULL);

    g_assert_true(gw_image_identity(image, &before, NULL));
    g_assert_true(before.tells_writes);
    g_assert_true(gw_image_identity(image, &after, NULL));
    g_assert_cmpint(before.mtime_ns, ==, after.mtime_ns);
    image_run(&files, "qemu-io -t unsafe -f qcow2 -c 'write -P 7 0 64k' disk");
    g_assert_true(gw_image_identity(image, &after, NULL));
    g_assert_cmpint(before.mtime_ns, !=, after.mtime_ns);
    g_assert_cmpuint(before.shape, ==, after.shape);
    image_files_clear(&files);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lane/image/raw", test_raw);
    g_test_add_func("/lane/image/qcow2-kinds", test_qcow2_kinds);
    g_test_add_func("/lane/image/many-tables", test_many_tables);
    g_test_add_func("/lane/image/chain", test_chain);
    g_test_add_func("/lane/image/snapshots", test_snapshots);
    g_test_add_func("/lane/image/compressed", test_compressed);
    g_test_add_func("/lane/image/not-understood", test_not_understood);
    g_test_add_func("/lane/image/no-backing", test_no_backing);
    g_test_add_func("/lane/image/absolute-and-file-names", test_absolute_and_file_names);
    g_test_add_func("/lane/image/cycles-and-depth", test_cycles_and_depth);
    g_test_add_func("/lane/image/not-an-image", test_not_an_image);
    g_test_add_func("/lane/image/hostile-headers", test_hostile_headers);
    g_test_add_func("/lane/image/random-damage", test_random_damage);
    g_test_add_func("/lane/image/identity", test_identity);
    return g_test_run();
}
