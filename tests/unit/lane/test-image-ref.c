// SPDX-License-Identifier: Apache-2.0
/*
 * References: whatever the indexes, the guest or the peer do, the pages that come out are the pages
 * that went in, or the frame fails.
 */
#include "base/cursor.h"
#include "lane/image_ref.h"
#include "test-image-files.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define N_PAGES 2000u

static uint64_t
below(uint64_t end)
{
    return (uint32_t)g_test_rand_int() % end;
}

/* --- both sides ------------------------------------------------------------------------------- */

typedef struct Rig {
    ImageFiles files;
    GwRefSource *source;
    GwRefTarget *target;
    GwPageTagger *tagger;
    const GwCodec *codec;
    void *encoder;
    uint64_t section_bytes;
    uint64_t fill_bytes;
    unsigned n_refs;
    unsigned n_asked; /* frames */
    unsigned n_fills;
} Rig;

/* Of both ends of one stream. */
static GwPageTagger *
new_tagger(void)
{
    static const uint8_t key[GW_PAGE_TAG_KEY_BYTES] = {1, 2, 3};
    g_autoptr(GError) error = NULL;
    GwPageTagger *tagger = gw_page_tagger_new(key, &error);

    g_assert_no_error(error);
    return tagger;
}

static bool
add_to_group(Rig *rig, GwRefGroup *group, const GwRef *ref, const uint8_t *page)
{
    GwPageTag tag;

    gw_page_tag(rig->tagger, page, &tag);
    return gw_ref_group_add(group, ref, page, &tag);
}

static void
wait_for_index(GwRefSource *source, unsigned number)
{
    GwRefSourceFigures figures;

    do {
        g_thread_yield();
        g_assert_true(gw_ref_source_figures(source, number, &figures));
    } while (figures.index.state == GW_IMAGE_INDEX_BUILDING);
    g_assert_cmpint(figures.index.state, ==, GW_IMAGE_INDEX_COMPLETE);
}

static void
add_image(Rig *rig, unsigned number, const char *source_file, const char *target_file)
{
    g_autofree char *path = image_file(&rig->files, source_file);
    g_autofree char *target_path = image_file(&rig->files, target_file);
    const char *format = g_str_has_suffix(source_file, "qcow2") ? "qcow2" : "raw";
    const char *target_format = g_str_has_suffix(target_file, "qcow2") ? "qcow2" : "raw";
    g_autoptr(GError) error = NULL;
    GwImage *image = gw_image_open(target_path, target_format, &error);

    g_assert_no_error(error);
    g_assert_true(gw_ref_source_add(rig->source, path, format, &error));
    gw_ref_target_set_image(rig->target, number, image);
    wait_for_index(rig->source, number);
    gw_ref_source_use(rig->source, number);
}

static bool
rig_init(Rig *rig)
{
    const GwRefSourceOptions options = {0};

    memset(rig, 0, sizeof(*rig));
    if (!image_files_init(&rig->files)) {
        return false;
    }
    rig->source = gw_ref_source_new(&options);
    rig->target = gw_ref_target_new();
    rig->tagger = new_tagger();
    rig->codec = &gw_codec_zstd;
    rig->encoder = rig->codec->encoder_new(0);
    return true;
}

static void
rig_clear(Rig *rig)
{
    gw_ref_source_free(rig->source);
    gw_ref_target_free(rig->target);
    gw_page_tagger_free(rig->tagger);
    rig->codec->encoder_free(rig->encoder);
    image_files_clear(&rig->files);
}

static bool
answer_into(Rig *rig, GwRefGroup *group, const uint8_t *need, size_t len, GPtrArray *fills,
            GError **error)
{
    GBytes *fill;

    if (!gw_ref_group_take_need(group, rig->source, need, len, error)) {
        return false;
    }
    while ((fill = gw_ref_group_next_fill(group, rig->codec, rig->encoder))) {
        g_ptr_array_add(fills, fill);
    }
    return true;
}

/* What the target lacks, by question and answer, the answers mixed up and some twice. */
static void
ask(Rig *rig, GwRefGroup *group, GwRefPages *pages)
{
    g_autoptr(GByteArray) need = g_byte_array_new();
    g_autoptr(GPtrArray) fills = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    g_autoptr(GError) error = NULL;
    uint64_t sequence = 0;

    gw_ref_pages_need(pages, 77, need);
    g_assert_cmpuint(need->len, <=, GW_REF_NEED_MAX_BYTES);
    g_assert_true(gw_ref_sequence(need->data, need->len, &sequence, &error));
    g_assert_cmpuint(sequence, ==, 77);
    for (unsigned i = 0; i < 1 + below(2); i++) {
        bool ok = answer_into(rig, group, need->data, need->len, fills, &error);
        g_assert_no_error(error);
        g_assert_true(ok);
    }
    while (fills->len > 0) {
        g_autoptr(GBytes) fill = g_ptr_array_steal_index(fills, (guint)below(fills->len));
        size_t len;
        const uint8_t *bytes = g_bytes_get_data(fill, &len);

        g_assert_cmpuint(len, <=, GW_REF_FILL_MAX_BYTES);
        g_assert_true(gw_ref_sequence(bytes, len, &sequence, &error));
        g_assert_cmpuint(sequence, ==, 77);
        bool ok = gw_ref_pages_fill(pages, rig->tagger, bytes, len, &error);
        g_assert_no_error(error);
        g_assert_true(ok);
        rig->fill_bytes += len;
        rig->n_fills++;
    }
    rig->n_asked++;
    g_assert_true(gw_ref_pages_is_proven(pages));
}

/* Sends the referenced pages of one frame; they must come out as they went in. */
static void
send_group(Rig *rig, GwRefGroup *group, const uint8_t *const *sent)
{
    g_autoptr(GByteArray) section = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    unsigned n = gw_ref_group_n_pages(group);

    if (n == 0) {
        return;
    }
    gw_ref_group_encode(group, section);
    g_assert_cmpuint(section->len, <=, GW_REF_SECTION_MAX_BYTES);
    g_autoptr(GwRefPages) pages =
        gw_ref_target_resolve(rig->target, rig->tagger, section->data, section->len, n, &error);
    g_assert_no_error(error);
    g_assert_nonnull(pages);
    if (!gw_ref_pages_is_proven(pages)) {
        g_assert_null(gw_ref_pages_get(pages, 0));
        ask(rig, group, pages);
    }
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpmem(gw_ref_pages_get(pages, i), GW_PAGE_BYTES, sent[i], GW_PAGE_BYTES);
    }
    g_assert_null(gw_ref_pages_get(pages, n));
    rig->section_bytes += section->len;
    rig->n_refs += n;
}

/* All of @pages, in frames of up to @per_frame. */
static void
send_pages(Rig *rig, const uint8_t *const *pages, unsigned n, unsigned per_frame)
{
    for (unsigned i = 0; i < n; i += per_frame) {
        g_autoptr(GwRefGroup) group = gw_ref_group_new();
        unsigned count = MIN(per_frame, n - i);
        g_autofree GwRef *refs = g_new(GwRef, count);
        g_autofree const uint8_t **sent = g_new(const uint8_t *, count);
        unsigned n_sent = 0;

        unsigned n_found = gw_ref_source_try(rig->source, pages + i, count, refs);
        for (unsigned k = 0; k < count; k++) {
            if (add_to_group(rig, group, &refs[k], pages[i + k])) {
                sent[n_sent++] = pages[i + k];
            }
        }
        g_assert_cmpuint(n_sent, ==, n_found);
        send_group(rig, group, sent);
    }
}

typedef struct Pages {
    uint8_t *bytes;
    const uint8_t **list;
} Pages;

/* @n pages of the file as a guest may have them: runs, and single ones from anywhere. */
static Pages
guest_pages(const Rig *rig, const char *name, const char *format, unsigned n)
{
    size_t len;
    Pages pages = {.bytes = image_convert(&rig->files, name, format, &len)};
    uint64_t next = 0;

    pages.list = g_new(const uint8_t *, n);
    for (unsigned i = 0; i < n; i++) {
        next = below(4) == 0 ? below(len / GW_PAGE_BYTES) : (next + 1) % (len / GW_PAGE_BYTES);
        pages.list[i] = pages.bytes + next * GW_PAGE_BYTES;
    }
    return pages;
}

static void
pages_clear(Pages *pages)
{
    g_free(pages->bytes);
    g_free(pages->list);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Pages, pages_clear)

/* --- what works ------------------------------------------------------------------------------- */

static void
test_same_disk(void)
{
    Rig rig;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "disk", 3000, 1);
    add_image(&rig, 0, "disk", "disk");
    g_auto(Pages) pages = guest_pages(&rig, "disk", "raw", N_PAGES);

    send_pages(&rig, pages.list, N_PAGES, GW_REF_MAX_PAGES);
    g_assert_cmpuint(rig.n_refs, >, N_PAGES * 8 / 10);
    g_assert_cmpuint(rig.n_asked, ==, 0);
    g_test_message("%.2f bytes per reference", (double)rig.section_bytes / rig.n_refs);
    g_assert_cmpuint(rig.section_bytes, <, rig.n_refs * 4);
    rig_clear(&rig);
}

/* The source has a chain, the target one flat image: both files' blocks are found in it. */
static void
test_chain_to_flat(void)
{
    Rig rig;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "plain", 2000, 1);
    image_run(&rig.files, "qemu-img convert -f raw -O qcow2 plain base.qcow2");
    image_run(&rig.files, "qemu-img create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    image_scribble(&rig.files, "top.qcow2", "qcow2", 20, "ww");
    image_run(&rig.files, "qemu-img convert -f qcow2 -O raw top.qcow2 flat");
    add_image(&rig, 0, "top.qcow2", "flat");
    add_image(&rig, 1, "base.qcow2", "flat");
    g_auto(Pages) pages = guest_pages(&rig, "top.qcow2", "qcow2", N_PAGES);

    for (unsigned per_frame = 1; per_frame <= GW_REF_MAX_PAGES; per_frame *= 4) {
        send_pages(&rig, pages.list, N_PAGES, per_frame);
    }
    g_assert_cmpuint(rig.n_asked, ==, 0);
    GwRefSourceFigures figures;
    g_assert_true(gw_ref_source_figures(rig.source, 0, &figures));
    g_assert_cmpuint(figures.refs, >, 0);
    g_assert_true(gw_ref_source_figures(rig.source, 1, &figures));
    g_assert_cmpuint(figures.refs, >, 0);
    rig_clear(&rig);
}

static void
test_not_in_use(void)
{
    Rig rig;
    uint8_t page[GW_PAGE_BYTES];
    const uint8_t *pages[] = {page};
    GwRefSourceFigures figures;
    GwRef ref;
    g_autoptr(GError) error = NULL;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "disk", 10, 1);
    image_page(page, 1, 3);
    g_autofree char *path = image_file(&rig.files, "disk");

    g_assert_cmpuint(gw_ref_source_try(rig.source, pages, 1, &ref), ==, 0);
    g_assert_cmpuint(ref.image, ==, GW_REF_NO_IMAGE);
    g_assert_false(gw_ref_source_figures(rig.source, 0, &figures));
    gw_ref_source_use(rig.source, 3); /* not there: no harm */
    for (unsigned i = 0; i < GW_REF_MAX_IMAGES; i++) {
        g_assert_true(gw_ref_source_add(rig.source, path, "raw", &error));
    }
    g_assert_false(gw_ref_source_add(rig.source, path, "raw", &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
    for (unsigned i = 0; i < GW_REF_MAX_IMAGES; i++) {
        wait_for_index(rig.source, i);
    }
    g_assert_cmpuint(gw_ref_source_try(rig.source, pages, 1, &ref), ==, 0);
    gw_ref_source_use(rig.source, 3);
    g_assert_cmpuint(gw_ref_source_try(rig.source, pages, 1, &ref), ==, 1);
    g_assert_cmpuint(ref.image, ==, 3);
    g_assert_cmpuint(ref.block, ==, 3);
    rig_clear(&rig);
}

/* --- what goes wrong on the disk -------------------------------------------------------------- */

/* A few blocks were written since the index was made: those pages are sent, and nothing else. */
static void
test_written_since(void)
{
    Rig rig;
    uint8_t other[GW_PAGE_BYTES];
    GwRefSourceFigures figures;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "disk", 3000, 1);
    g_auto(Pages) pages = guest_pages(&rig, "disk", "raw", N_PAGES);
    add_image(&rig, 0, "disk", "disk");
    for (unsigned i = 0; i < 60; i++) {
        image_page(other, 99, i);
        image_patch(&rig.files, "disk", below(3000) * GW_PAGE_BYTES, other, GW_PAGE_BYTES);
    }
    send_pages(&rig, pages.list, N_PAGES, GW_REF_MAX_PAGES);
    g_assert_cmpuint(rig.n_asked, >, 0);
    g_assert_cmpuint(rig.fill_bytes, <, 200 * GW_PAGE_BYTES);
    g_assert_true(gw_ref_source_figures(rig.source, 0, &figures));
    g_assert_true(figures.in_use);
    g_assert_cmpuint(figures.misses, >, 0);
    g_assert_cmpuint(figures.misses, <, 200);
    rig_clear(&rig);
}

/* Quite another disk: it is given up soon. */
static void
test_other_disk(void)
{
    Rig rig;
    GwRefSourceFigures figures;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "disk", 3000, 1);
    image_write_raw(&rig.files, "other", 2000, 2); /* and shorter: some blocks are not there */
    add_image(&rig, 0, "disk", "other");
    g_auto(Pages) pages = guest_pages(&rig, "disk", "raw", N_PAGES);

    send_pages(&rig, pages.list, N_PAGES, 100);
    g_assert_true(gw_ref_source_figures(rig.source, 0, &figures));
    g_assert_false(figures.in_use);
    g_assert_cmpuint(rig.n_refs, <=, 100);
    g_assert_cmpuint(figures.misses, ==, rig.n_refs);
    rig_clear(&rig);
}

/* The target's file goes away under it. */
static void
test_truncated(void)
{
    Rig rig;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "disk", 3000, 1);
    g_auto(Pages) pages = guest_pages(&rig, "disk", "raw", N_PAGES);
    add_image(&rig, 0, "disk", "disk");
    g_autofree char *path = image_file(&rig.files, "disk");
    g_assert_cmpint(truncate(path, 2900 * GW_PAGE_BYTES + 5), ==, 0);
    send_pages(&rig, pages.list, N_PAGES, 64);
    g_assert_cmpuint(rig.n_asked, >, 0);
    rig_clear(&rig);
}

/* With few bits of hash nearly every look-up is wrong; no page ever is. */
static void
test_forced_collisions(void)
{
    static const uint64_t masks[] = {0, 1, UINT64_C(0xf) << 32, UINT64_C(0xf00000000f),
                                     UINT64_C(0xfff000000ff)};
    for (unsigned i = 0; i < G_N_ELEMENTS(masks); i++) {
        Rig rig;

        if (!rig_init(&rig)) {
            return;
        }
        gw_image_index_hash_mask = masks[i];
        image_write_raw(&rig.files, "disk", 3000, 1);
        image_write_raw(&rig.files, "other", 3000, 2);
        add_image(&rig, 0, "disk", "disk");
        g_auto(Pages) there = guest_pages(&rig, "disk", "raw", 300);
        g_auto(Pages) elsewhere = guest_pages(&rig, "other", "raw", 300);

        send_pages(&rig, there.list, 300, 50);
        send_pages(&rig, elsewhere.list, 300, 50);
        g_assert_cmpuint(rig.n_asked, >, 0);
        g_test_message("mask %016" G_GINT64_MODIFIER "x: %u references, %u frames asked for",
                       masks[i], rig.n_refs, rig.n_asked);
        gw_image_index_hash_mask = UINT64_MAX;
        rig_clear(&rig);
    }
}

/* --- hostile peers ---------------------------------------------------------------------------- */

/* A sound frame with its question and its first answer, to be spoiled. */
typedef struct Frame {
    Rig rig;
    Pages pages;
    GwRefGroup *group;
    GByteArray *section;
    GByteArray *need;
    GPtrArray *fills;
    unsigned n_pages;
    const uint8_t *sent[150];
} Frame;

static bool
frame_init(Frame *frame, bool missing)
{
    GwRef refs[150];
    g_autoptr(GError) error = NULL;

    memset(frame, 0, sizeof(*frame));
    if (!rig_init(&frame->rig)) {
        return false;
    }
    image_write_raw(&frame->rig.files, "disk", 1000, 1);
    image_write_raw(&frame->rig.files, "other", 1000, 2);
    frame->pages = guest_pages(&frame->rig, "disk", "raw", 150);
    add_image(&frame->rig, 0, "disk", missing ? "other" : "disk");
    frame->group = gw_ref_group_new();
    gw_ref_source_try(frame->rig.source, frame->pages.list, 150, refs);
    for (unsigned i = 0; i < 150; i++) {
        if (add_to_group(&frame->rig, frame->group, &refs[i], frame->pages.list[i])) {
            frame->sent[frame->n_pages++] = frame->pages.list[i];
        }
    }
    frame->section = g_byte_array_new();
    frame->need = g_byte_array_new();
    frame->fills = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    gw_ref_group_encode(frame->group, frame->section);
    g_autoptr(GwRefPages) pages =
        gw_ref_target_resolve(frame->rig.target, frame->rig.tagger, frame->section->data,
                              frame->section->len, frame->n_pages, &error);
    g_assert_no_error(error);
    g_assert_true(gw_ref_pages_is_proven(pages) == !missing);
    gw_ref_pages_need(pages, 5, frame->need);
    if (missing) {
        g_assert_true(answer_into(&frame->rig, frame->group, frame->need->data, frame->need->len,
                                  frame->fills, &error));
        g_assert_cmpuint(frame->fills->len, >, 1);
    }
    return true;
}

static void
frame_clear(Frame *frame)
{
    gw_ref_group_free(frame->group);
    g_byte_array_unref(frame->section);
    g_byte_array_unref(frame->need);
    g_ptr_array_unref(frame->fills);
    pages_clear(&frame->pages);
    rig_clear(&frame->rig);
}

static GwRefPages *
resolve(Frame *frame, const uint8_t *section, size_t len, unsigned n_pages)
{
    /* Memory of the exact size, so that a read beyond is seen. */
    g_autofree uint8_t *copy = g_memdup2(section, len);
    g_autoptr(GError) error = NULL;
    GwRefPages *pages =
        gw_ref_target_resolve(frame->rig.target, frame->rig.tagger, copy, len, n_pages, &error);

    if (!pages) {
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
    return pages;
}

static void
test_hostile_sections(void)
{
    static const struct {
        const char *runs;
        size_t len;
        unsigned n_pages;
    } sections[] = {
        {"", 0, 0},
        {"", 0, 1},
        {"\0\0", 2, 2},                                        /* too few */
        {"\4\0", 2, 2},                                        /* too many */
        {"\1\1\0", 3, 1},                                      /* an image not agreed on */
        {"\1\377\0", 3, 1},                                    /* an impossible image */
        {"\0\1", 2, 1},                                        /* block -1 */
        {"\0\377\377\377\377\177", 6, 1},                      /* a block beyond all disks */
        {"\0\377\377\377\377\377\377\377\377\377\1", 11, 1},   /* overflow */
        {"\0\377\377\377\377\377\377\377\377\377\377", 11, 1}, /* an endless number */
        {"\376\377\377\377\377\377\377\377\377\1\0", 11, 1},   /* very many pages */
        {"\376\17\0", 3, 1024},                                /* more than a frame may have */
        {"\0", 1, 1},                                          /* cut off */
        {"\1", 1, 1},
        {"\0\0\0", 3, 1},
    };
    Frame frame;

    if (!frame_init(&frame, false)) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sections); i++) {
        uint8_t bytes[64] = {0};

        memcpy(bytes + GW_REF_PROOF_BYTES, sections[i].runs, sections[i].len);
        g_assert_null(
            resolve(&frame, bytes, GW_REF_PROOF_BYTES + sections[i].len, sections[i].n_pages));
    }
    g_assert_null(resolve(&frame, frame.section->data, frame.section->len, frame.n_pages + 1));
    for (unsigned len = 0; len < frame.section->len; len++) {
        g_assert_null(resolve(&frame, frame.section->data, len, frame.n_pages));
    }
    for (unsigned i = 0; i < 2000; i++) {
        g_autofree uint8_t *bytes = g_memdup2(frame.section->data, frame.section->len);
        size_t at = below(frame.section->len);

        bytes[at] ^= (uint8_t)(1u << below(8));
        g_autoptr(GwRefPages) pages = resolve(&frame, bytes, frame.section->len, frame.n_pages);
        /* Another block may have the same content. */
        for (unsigned k = 0; pages && gw_ref_pages_is_proven(pages) && k < frame.n_pages; k++) {
            g_autoptr(GwRefPages) sound =
                resolve(&frame, frame.section->data, frame.section->len, frame.n_pages);

            g_assert_cmpmem(gw_ref_pages_get(pages, k), GW_PAGE_BYTES, gw_ref_pages_get(sound, k),
                            GW_PAGE_BYTES);
        }
    }
    frame_clear(&frame);
}

static bool
answer(Frame *frame, const uint8_t *need, size_t len, int code)
{
    g_autoptr(GPtrArray) fills = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    g_autofree uint8_t *copy = g_memdup2(need, len);
    g_autoptr(GError) error = NULL;
    bool ok = answer_into(&frame->rig, frame->group, copy, len, fills, &error);

    g_assert_true(ok == (fills->len > 0));
    if (!ok) {
        g_assert_error(error, GW_ERROR, code);
    }
    return ok;
}

static void
test_hostile_needs(void)
{
    Frame frame;
    unsigned n_answered = 0;

    if (!frame_init(&frame, false)) {
        return;
    }
    g_autofree uint8_t *larger = g_malloc0(frame.need->len + GW_PAGE_TAG_BYTES);
    memcpy(larger, frame.need->data, frame.need->len);
    for (unsigned len = 0; len < frame.need->len; len += len < 20 ? 1 : 13) {
        g_assert_false(answer(&frame, larger, len, GW_ERROR_PROTOCOL));
    }
    g_assert_false(answer(&frame, larger, frame.need->len + GW_PAGE_TAG_BYTES, GW_ERROR_PROTOCOL));
    larger[9] ^= 1;
    g_assert_false(answer(&frame, larger, frame.need->len, GW_ERROR_PROTOCOL));
    g_assert_false(answer(&frame, larger, frame.need->len + GW_PAGE_TAG_BYTES, GW_ERROR_PROTOCOL));
    /* The same question without end. */
    while (answer(&frame, frame.need->data, frame.need->len, GW_ERROR_PROTOCOL)) {
        n_answered++;
    }
    g_assert_cmpuint(n_answered, >, 1);
    g_assert_cmpuint(n_answered, <, 100);
    frame_clear(&frame);
}

static bool
fill(Frame *frame, GwRefPages *pages, const uint8_t *bytes, size_t len)
{
    g_autofree uint8_t *copy = g_memdup2(bytes, len);
    g_autoptr(GError) error = NULL;
    bool ok = gw_ref_pages_fill(pages, frame->rig.tagger, copy, len, &error);

    if (!ok) {
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
    return ok;
}

static GwRefPages *
asking(Frame *frame)
{
    GwRefPages *pages = resolve(frame, frame->section->data, frame->section->len, frame->n_pages);
    g_autoptr(GByteArray) need = g_byte_array_new();

    g_assert_nonnull(pages);
    gw_ref_pages_need(pages, 5, need);
    return pages;
}

static void
test_hostile_fills(void)
{
    Frame frame;
    static const uint8_t nothing_more[13] = {0, 0, 0, 0, 0, 0, 0, 5};

    if (!frame_init(&frame, true)) {
        return;
    }
    size_t len;
    const uint8_t *sound = g_bytes_get_data(g_ptr_array_index(frame.fills, 0), &len);
    g_autoptr(GwRefPages) unasked =
        resolve(&frame, frame.section->data, frame.section->len, frame.n_pages);
    g_assert_false(fill(&frame, unasked, sound, len));

    g_autoptr(GwRefPages) pages = asking(&frame);
    g_assert_false(fill(&frame, pages, nothing_more, sizeof(nothing_more)));
    for (size_t cut = 0; cut < len; cut += cut < 200 ? 1 : 977) {
        g_assert_false(fill(&frame, pages, sound, cut));
    }
    for (unsigned i = 0; i < 800; i++) {
        g_autofree uint8_t *bytes = g_memdup2(sound, len);
        g_autoptr(GwRefPages) spoiled = asking(&frame);

        /* The sequence is for the caller to look at. */
        bytes[8 + below(i % 2 ? 140 : len - 8)] ^= (uint8_t)(1u << below(8));
        bool ok = fill(&frame, spoiled, bytes, len);
        for (unsigned k = 1; ok && k < frame.fills->len; k++) {
            size_t next_len;
            const uint8_t *next = g_bytes_get_data(g_ptr_array_index(frame.fills, k), &next_len);

            ok = fill(&frame, spoiled, next, next_len);
        }
        /* A bit in the count of pages to come may do no harm in the end; wrong pages never pass. */
        for (unsigned k = 0; k < frame.n_pages && gw_ref_pages_is_proven(spoiled); k++) {
            g_assert_true(ok);
            g_assert_cmpmem(gw_ref_pages_get(spoiled, k), GW_PAGE_BYTES, frame.sent[k],
                            GW_PAGE_BYTES);
        }
    }
    frame_clear(&frame);
}

/* --- agreement -------------------------------------------------------------------------------- */

static GwImage *
open_image(const Rig *rig, const char *name, const char *format)
{
    g_autofree char *path = image_file(&rig->files, name);
    g_autoptr(GError) error = NULL;
    GwImage *image = gw_image_open(path, format, &error);

    g_assert_no_error(error);
    return image;
}

static bool
is_taken(const GwRefOffer *offer, const Rig *rig, const char *name, const char *format)
{
    g_autoptr(GwImage) image = open_image(rig, name, format);
    g_autoptr(GError) error = NULL;
    bool taken = gw_ref_offer_check(offer, image, &error);

    if (!taken) {
        g_assert_error(error, GW_ERROR, GW_ERROR_REFUSED);
        g_test_message("%s", error->message);
    }
    return taken;
}

static void
test_offer(void)
{
    Rig rig;
    GwRefOffer offer, again;
    g_autoptr(GError) error = NULL;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "disk", 1000, 1);
    image_write_raw(&rig.files, "other", 1000, 2);
    image_write_raw(&rig.files, "longer", 1001, 1);
    image_run(&rig.files, "qemu-img convert -f raw -O qcow2 disk disk.qcow2");
    image_run(&rig.files, "qemu-img create -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2");
    image_run(&rig.files, "qemu-img create -f raw empty 4096000");
    g_autoptr(GwImage) image = open_image(&rig, "disk", "raw");
    gw_ref_offer_make(image, &offer);
    g_assert_cmpuint(offer.n_samples, ==, GW_REF_MAX_SAMPLES);
    g_autoptr(json_t) object = gw_ref_offer_to_json(&offer);
    g_assert_true(gw_ref_offer_from_json(object, &again, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(again.n_blocks, ==, offer.n_blocks);
    g_assert_cmpuint(again.n_samples, ==, offer.n_samples);
    g_assert_cmpmem(again.samples, sizeof(again.samples), offer.samples, sizeof(offer.samples));
    g_assert_true(is_taken(&again, &rig, "disk", "raw"));
    g_assert_true(is_taken(&again, &rig, "disk.qcow2", "qcow2"));
    g_assert_true(is_taken(&again, &rig, "top.qcow2", "qcow2"));
    g_assert_false(is_taken(&again, &rig, "other", "raw"));
    g_assert_false(is_taken(&again, &rig, "longer", "raw"));
    g_assert_false(is_taken(&again, &rig, "empty", "raw"));

    /* A disk that is being written to is still the same; a file without data is offered empty. */
    g_autofree uint8_t *zeros = g_malloc0((gsize)300 * GW_PAGE_BYTES);
    image_patch(&rig.files, "disk", 0, zeros, (size_t)300 * GW_PAGE_BYTES);
    g_assert_true(is_taken(&again, &rig, "disk", "raw"));
    g_autoptr(GwImage) top = open_image(&rig, "top.qcow2", "qcow2");
    gw_ref_offer_make(top, &offer);
    g_assert_cmpuint(offer.n_samples, ==, 0);
    g_assert_false(is_taken(&offer, &rig, "disk.qcow2", "qcow2"));
    rig_clear(&rig);
}

#define ZEROS_63 "000000000000000000000000000000000000000000000000000000000000000"

static void
test_hostile_offers(void)
{
    static const char *const offers[] = {
        "[]",
        "{}",
        "{\"blocks\": -1, \"samples\": []}",
        "{\"blocks\": 17179869185, \"samples\": []}",
        "{\"blocks\": 1}",
        "{\"blocks\": 1, \"samples\": {}}",
        "{\"blocks\": 1, \"samples\": [7]}",
        "{\"blocks\": 1, \"samples\": [{\"block\": 1, \"sha256\": \"\"}]}",
        "{\"blocks\": 0, \"samples\": [{\"block\": 0, \"sha256\": \"\"}]}",
        "{\"blocks\": 1, \"samples\": [{\"block\": 0, \"sha256\": \"00\"}]}",
        "{\"blocks\": 1, \"samples\": [{\"block\": 0, \"sha256\": \"" ZEROS_63 "x\"}]}",
        "{\"blocks\": 1, \"samples\": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(offers); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(json_t) object =
            gw_json_parse(offers[i], strlen(offers[i]), 4096, "a test", &error);
        GwRefOffer offer;

        g_assert_no_error(error);
        g_assert_false(gw_ref_offer_from_json(object, &offer, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
}

/* --- figures ---------------------------------------------------------------------------------- */

static void
test_rates(void)
{
    enum { N = 25600 };
    Rig rig;
    unsigned n_found = 0;

    if (!rig_init(&rig)) {
        return;
    }
    image_write_raw(&rig.files, "disk", N, 1);
    image_run(&rig.files, "qemu-img convert -f raw -O qcow2 disk disk.qcow2");
    add_image(&rig, 0, "disk", "disk.qcow2");
    g_auto(Pages) pages = guest_pages(&rig, "disk", "raw", N);
    g_autofree GwRef *refs = g_new(GwRef, N);
    double try_s = 0, add_s = 0, encode_s = 0, resolve_s = 0;

    for (unsigned i = 0; i < N; i += GW_REF_MAX_PAGES) {
        g_autoptr(GByteArray) section = g_byte_array_new();
        g_autoptr(GwRefGroup) group = gw_ref_group_new();
        gint64 t0 = g_get_monotonic_time();

        n_found += gw_ref_source_try(rig.source, pages.list + i, GW_REF_MAX_PAGES, refs + i);
        gint64 t1 = g_get_monotonic_time();
        for (unsigned k = i; k < i + GW_REF_MAX_PAGES; k++) {
            (void)add_to_group(&rig, group, &refs[k], pages.list[k]);
        }
        gint64 t2 = g_get_monotonic_time();
        gw_ref_group_encode(group, section);
        gint64 t3 = g_get_monotonic_time();
        g_autoptr(GwRefPages) resolved = gw_ref_target_resolve(
            rig.target, rig.tagger, section->data, section->len, gw_ref_group_n_pages(group), NULL);
        gint64 t4 = g_get_monotonic_time();

        g_assert_true(gw_ref_pages_is_proven(resolved));
        try_s += (double)(t1 - t0) / 1e6;
        add_s += (double)(t2 - t1) / 1e6;
        encode_s += (double)(t3 - t2) / 1e6;
        resolve_s += (double)(t4 - t3) / 1e6;
        rig.section_bytes += section->len;
    }
    double mb = (double)N * GW_PAGE_BYTES / 1e6;
    g_printerr("%u of %u found; try %.0f MB/s, tag and add %.0f MB/s, encode %.0f MB/s, resolve "
               "%.0f MB/s; %.2f bytes per reference\n",
               n_found, N, mb / try_s, mb / add_s, mb / encode_s, mb / resolve_s,
               (double)rig.section_bytes / n_found);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lane/image-ref/same-disk", test_same_disk);
    g_test_add_func("/lane/image-ref/chain-to-flat", test_chain_to_flat);
    g_test_add_func("/lane/image-ref/not-in-use", test_not_in_use);
    g_test_add_func("/lane/image-ref/written-since", test_written_since);
    g_test_add_func("/lane/image-ref/other-disk", test_other_disk);
    g_test_add_func("/lane/image-ref/truncated", test_truncated);
    g_test_add_func("/lane/image-ref/forced-collisions", test_forced_collisions);
    g_test_add_func("/lane/image-ref/hostile-sections", test_hostile_sections);
    g_test_add_func("/lane/image-ref/hostile-needs", test_hostile_needs);
    g_test_add_func("/lane/image-ref/hostile-fills", test_hostile_fills);
    g_test_add_func("/lane/image-ref/offer", test_offer);
    g_test_add_func("/lane/image-ref/hostile-offers", test_hostile_offers);
    if (g_test_perf()) { /* -m perf */
        g_test_add_func("/lane/image-ref/rates", test_rates);
    }
    return g_test_run();
}
