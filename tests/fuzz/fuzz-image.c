// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes what image files, kept indexes and peers bring: the first byte says which.
 *
 *   0  a qcow2 image, read all over
 *   1  a kept index of an image
 *   2  a section of references, then a fill
 *   3  a question (NEED) for a sound group
 *   4  an offer of an image, in JSON
 *   5  hashes of a VM's earlier visit
 *
 * The image that references point into is the fuzzer's own, in memory. What is given out as proven
 * must have the proof that was asked for.
 */
#include "lane/image_cache.h"
#include "lane/image_ref.h"
#include "lane/image_sha256.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define IMAGE_BLOCKS 64u
#define MAX_STEPS    512u

static int
file_with(const void *data, size_t len, char path[64])
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (fd < 0 || (len > 0 && write(fd, data, len) != (ssize_t)len)) {
        abort();
    }
    g_snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

static GwImage *
own_image(void)
{
    static char path[64];
    g_autofree uint8_t *bytes = NULL;

    if (path[0] == '\0') {
        bytes = g_malloc((gsize)IMAGE_BLOCKS * GW_PAGE_BYTES);
        for (size_t i = 0; i < (size_t)IMAGE_BLOCKS * GW_PAGE_BYTES; i++) {
            bytes[i] = (uint8_t)(i / GW_PAGE_BYTES + i % 251);
        }
        (void)file_with(bytes, (size_t)IMAGE_BLOCKS * GW_PAGE_BYTES, path);
    }
    return gw_image_open(path, "raw", NULL);
}

static void
fuzz_qcow2(const uint8_t *data, size_t len)
{
    char path[64];
    int fd = file_with(data, len, path);
    g_autoptr(GError) error = NULL;
    g_autoptr(GwImage) image = gw_image_open(path, "qcow2", &error);
    g_autofree uint8_t *page = g_malloc(GW_PAGE_BYTES);

    if ((image == NULL) == (error == NULL)) {
        abort();
    }
    uint64_t n_blocks = image ? gw_image_n_blocks(image) : 0;
    for (uint64_t block = 0, step = 0; block < n_blocks && step < MAX_STEPS; step++) {
        GwImageExtent extent = gw_image_map_layer(image, 0, block, n_blocks - block);
        GwImageRead read = {.block = block, .out = page};

        if (extent.n_blocks == 0 || extent.n_blocks > n_blocks - block) {
            abort();
        }
        gw_image_read(image, &read, 1);
        if (extent.content == GW_IMAGE_DATA &&
            gw_image_read_extent(image, &extent, page, GW_PAGE_BYTES) > GW_PAGE_BYTES) {
            abort();
        }
        block += extent.n_blocks;
    }
    close(fd);
}

static void
fuzz_kept(const uint8_t *data, size_t len)
{
    static char folder[64];
    const GwImageCacheKey key = {.folder = folder, .path = "/x", .seed = 7, .identity = {1, 2}};
    bool is_fresh;

    if (folder[0] == '\0') {
        g_autoptr(GwImageTable) table = gw_image_table_new(4, 4096);

        g_snprintf(folder, sizeof(folder), "/tmp/fuzz-image-%d", getpid());
        /* Made once, so that the name of the file is known. */
        if (!gw_image_cache_save(&key, table, 65536, NULL)) {
            abort();
        }
    }
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    g_autofree char *path = g_build_filename(folder, g_dir_read_name(dir), NULL);

    if (!g_file_set_contents(path, (const char *)data, (gssize)len, NULL)) {
        abort();
    }
    g_autoptr(GwImageTable) table = gw_image_cache_load(&key, 1048576, &is_fresh);
    uint64_t block;

    if (table) {
        (void)gw_image_table_find(table, 12345, &block);
    }
}

static GwPageTagger *
own_tagger(void)
{
    static const uint8_t key[GW_PAGE_TAG_KEY_BYTES] = {1};
    static GwPageTagger *tagger;

    tagger = tagger ? tagger : gw_page_tagger_new(key, NULL);
    return tagger;
}

static void
check_proven(const GwRefPages *pages, const uint8_t *section, unsigned n_pages)
{
    GwPageTag tags[GW_REF_MAX_PAGES];
    uint8_t proof[GW_REF_PROOF_BYTES];

    for (unsigned i = 0; i < n_pages; i++) {
        gw_page_tag(own_tagger(), gw_ref_pages_get(pages, i), &tags[i]);
        if (!gw_page_tag_equal(&tags[i], gw_ref_pages_tag(pages, i))) {
            abort();
        }
    }
    gw_ref_proof(tags, n_pages, proof);
    if (memcmp(proof, section, GW_REF_PROOF_BYTES) != 0) {
        abort();
    }
}

/* u8 pages, u8 bytes of the section, section, fill. */
static void
fuzz_target(const uint8_t *data, size_t len)
{
    g_autoptr(GwRefTarget) target = gw_ref_target_new();
    g_autoptr(GByteArray) need = g_byte_array_new();

    if (len < 2) {
        return;
    }
    unsigned n_pages = data[0] + 1u;
    size_t section_len = MIN(len - 2, data[1]);
    g_autofree uint8_t *section = g_memdup2(data + 2, section_len);
    g_autofree uint8_t *fill = g_memdup2(data + 2 + section_len, len - 2 - section_len);

    gw_ref_target_set_image(target, 0, own_image());
    gw_ref_target_set_image(target, 3, own_image());
    gw_ref_target_prefetch(target, section, section_len);
    g_autoptr(GwRefPages) pages =
        gw_ref_target_resolve(target, own_tagger(), section, section_len, n_pages, NULL);

    if (!pages) {
        return;
    }
    if (!gw_ref_pages_is_proven(pages)) {
        gw_ref_pages_need(pages, 1, need);
        (void)!gw_ref_pages_fill(pages, own_tagger(), fill, len - 2 - section_len, NULL);
    }
    if (gw_ref_pages_is_proven(pages)) {
        check_proven(pages, section, n_pages);
    }
}

static void
fuzz_source(const uint8_t *data, size_t len)
{
    const GwRefSourceOptions options = {0};
    static GwRefSource *source;
    static uint8_t page[GW_PAGE_BYTES] = {1};
    g_autoptr(GwRefGroup) group = gw_ref_group_new();
    g_autoptr(GByteArray) section = g_byte_array_new();
    g_autofree uint8_t *need = g_memdup2(data, len);
    GwPageTag tag;

    gw_page_tag(own_tagger(), page, &tag);
    source = source ? source : gw_ref_source_new(&options);
    for (unsigned i = 0; i < 3; i++) {
        (void)gw_ref_group_add(group, &(GwRef){.block = i}, page, &tag);
    }
    gw_ref_group_encode(group, section);
    if (gw_ref_group_take_need(group, source, need, len, NULL)) {
        GBytes *fill;

        while ((fill = gw_ref_group_next_fill(group, &gw_codec_plain, NULL))) {
            g_bytes_unref(fill);
        }
    }
}

static void
fuzz_offer(const uint8_t *data, size_t len)
{
    g_autoptr(json_t) object = gw_json_parse(data, len, 65536, "the fuzzer", NULL);
    g_autoptr(GwImage) image = own_image();
    GwRefOffer offer;

    if (object && gw_ref_offer_from_json(object, &offer, NULL)) {
        (void)!gw_ref_offer_check(&offer, image, NULL);
    }
}

static void
fuzz_visit(const uint8_t *data, size_t len)
{
    static uint8_t page[GW_PAGE_BYTES] = {1};
    /* No link is followed, so it has to be a file of its own. */
    g_autofree char *path = g_strdup_printf("/tmp/fuzz-visit-%d", getpid());
    g_autoptr(GError) error = NULL;

    if (!g_file_set_contents(path, (const char *)data, (gssize)len, NULL)) {
        abort();
    }
    g_autoptr(GwVisitTags) tags = gw_visit_tags_load(path, 1 << 20, &error);

    if ((tags == NULL) == (error == NULL) || (tags && gw_visit_tags_bytes(tags) > 1 << 20)) {
        abort();
    }
    if (tags) {
        (void)gw_visit_tags_match(tags, 0, 5, page);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static void (*const kinds[])(const uint8_t *, size_t) = {
        fuzz_qcow2, fuzz_kept, fuzz_target, fuzz_source, fuzz_offer, fuzz_visit,
    };
    if (len > 0) {
        kinds[data[0] % G_N_ELEMENTS(kinds)](data + 1, len - 1);
    }
    return 0;
}
