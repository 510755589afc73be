// SPDX-License-Identifier: Apache-2.0
/*
 * What both ends remember of pages: long random histories over a small wire of its own kinds, at
 * the end of which both memories and the guest's pages must be equal; limits; replacement; what a
 * hostile peer may report; and that the histories find tags that are too weak.
 */
#include "lane/page_delta.h"
#include "lane/page_memory.h"

#include <string.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

#define GUEST_PAGES 600u
#define BLOCKS      3u

typedef enum Kind {
    KIND_ZERO,
    KIND_CONTENT,
    KIND_REFERENCE, /* the content comes from elsewhere */
    KIND_SAME,
    KIND_DELTA,
    N_KINDS,
} Kind;

typedef struct End {
    GwPageMemory *memory;
    uint8_t *guest; /* BLOCKS * GUEST_PAGES pages */
} End;

typedef struct Rig {
    End source, target;
    GwPageTagger *tagger;
    unsigned tag_bits; /* of a tag that count: the hook that weakens it */
    GwDeltaEncoder *encoder;
    GwDeltaDecoder *decoder;
    GRand *random;
    bool keep;
    unsigned n_sent[N_KINDS];
} Rig;

static GwPageMemory *
new_memory(uint64_t table_bytes, uint32_t copies)
{
    GwPageMemoryLimits limits = {.table_bytes = table_bytes, .copies = copies};
    g_autoptr(GError) error = NULL;
    GwPageMemory *memory = gw_page_memory_new(&limits, &error);

    g_assert_no_error(error);
    g_assert_nonnull(memory);
    return memory;
}

static void
rig_init(Rig *rig, uint64_t table_bytes, uint32_t copies)
{
    uint8_t key[GW_PAGE_TAG_KEY_BYTES];

    *rig = (Rig){.tag_bits = 128, .keep = true};
    g_assert_true(gw_page_tag_key(key, NULL));
    rig->tagger = gw_page_tagger_new(key, NULL);
    rig->encoder = gw_delta_encoder_new();
    rig->decoder = gw_delta_decoder_new();
    rig->random = g_rand_new_with_seed(g_test_rand_int());
    rig->source.memory = new_memory(table_bytes, copies);
    rig->target.memory = new_memory(table_bytes, copies);
    rig->source.guest = g_malloc0_n(BLOCKS * GUEST_PAGES, GW_PAGE_BYTES);
    rig->target.guest = g_malloc0_n(BLOCKS * GUEST_PAGES, GW_PAGE_BYTES);
}

static void
rig_clear(Rig *rig)
{
    gw_page_tagger_free(rig->tagger);
    gw_delta_encoder_free(rig->encoder);
    gw_delta_decoder_free(rig->decoder);
    g_rand_free(rig->random);
    gw_page_memory_free(rig->source.memory);
    gw_page_memory_free(rig->target.memory);
    g_free(rig->source.guest);
    g_free(rig->target.guest);
}

static uint8_t *
page_of(const End *end, uint16_t block, uint64_t page)
{
    return end->guest + (block * GUEST_PAGES + page) * GW_PAGE_BYTES;
}

static void
tag(Rig *rig, const uint8_t *content, GwPageTag *out)
{
    gw_page_tag(rig->tagger, content, out);
    for (unsigned i = 0; i < GW_PAGE_TAG_BYTES; i++) {
        unsigned bits = rig->tag_bits - MIN(rig->tag_bits, 8 * i);

        out->bytes[i] &= (uint8_t)(bits >= 8 ? 0xff : 0xff << (8 - bits));
    }
}

/* --- the wire --------------------------------------------------------------------------------- */

static bool
is_zero(const uint8_t *content)
{
    return content[0] == 0 && memcmp(content, content + 1, GW_PAGE_BYTES - 1) == 0;
}

/* How the page is sent; @out has room for a page. */
static Kind
encode_content(Rig *rig, uint16_t block, uint64_t page, uint8_t *out, size_t *len)
{
    const uint8_t *content = page_of(&rig->source, block, page);
    GwPageSeen seen;
    GwPageTag tag_now;

    tag(rig, content, &tag_now);
    gw_page_memory_find(rig->source.memory, block, page, &seen);
    if (seen.tag && memcmp(seen.tag, &tag_now, sizeof(tag_now)) == 0) {
        return KIND_SAME;
    }
    if (!seen.copy && g_rand_int_range(rig->random, 0, 10) == 0) {
        gw_page_memory_put(rig->source.memory, block, page, NULL, &tag_now, rig->keep);
        return KIND_REFERENCE;
    }
    Kind kind = KIND_CONTENT;

    if (seen.copy) {
        *len = gw_delta_encode(rig->encoder, seen.copy, content, out, 1000);
        kind = *len > 0 ? KIND_DELTA : KIND_CONTENT;
    }
    if (kind == KIND_CONTENT) {
        memcpy(out, content, GW_PAGE_BYTES);
        *len = GW_PAGE_BYTES;
    }
    gw_page_memory_put(rig->source.memory, block, page, content, &tag_now, rig->keep);
    return kind;
}

static void
decode_content(Rig *rig, Kind kind, uint16_t block, uint64_t page, const uint8_t *in, size_t len)
{
    uint8_t *content = page_of(&rig->target, block, page);
    g_autoptr(GError) error = NULL;
    GwPageSeen seen;
    GwPageTag tag_now;

    gw_page_memory_find(rig->target.memory, block, page, &seen);
    if (kind == KIND_SAME) {
        g_assert_nonnull(seen.tag);
        return;
    }
    if (kind == KIND_DELTA) {
        GwCursor cursor = gw_cursor(in, len);
        uint8_t result[GW_PAGE_BYTES];

        g_assert_nonnull(seen.copy);
        g_assert_true(gw_delta_decode(rig->decoder, &cursor, seen.copy, result, &error));
        g_assert_cmpuint(gw_cursor_left(&cursor), ==, 0);
        memcpy(content, result, GW_PAGE_BYTES);
    } else {
        memcpy(content, kind == KIND_CONTENT ? in : page_of(&rig->source, block, page),
               GW_PAGE_BYTES);
    }
    tag(rig, content, &tag_now);
    gw_page_memory_put(rig->target.memory, block, page, kind == KIND_REFERENCE ? NULL : content,
                       &tag_now, rig->keep);
}

/* Both know the same of the page, and nothing that is wrong. */
static void
check_page(Rig *rig, uint16_t block, uint64_t page)
{
    GwPageSeen at_source, at_target;

    gw_page_memory_find(rig->source.memory, block, page, &at_source);
    gw_page_memory_find(rig->target.memory, block, page, &at_target);
    g_assert_true(!at_source.tag == !at_target.tag);
    g_assert_true(!at_source.copy == !at_target.copy);
    g_assert_true(at_source.tag || !at_source.copy);
    if (at_source.tag) {
        g_assert_cmpmem(at_source.tag, sizeof(GwPageTag), at_target.tag, sizeof(GwPageTag));
    }
    if (at_source.copy) {
        g_assert_cmpmem(at_source.copy, GW_PAGE_BYTES, at_target.copy, GW_PAGE_BYTES);
    }
}

static void
check_limits(const GwPageMemory *memory, uint64_t table_bytes, uint32_t copies)
{
    GwPageMemoryFigures figures;

    gw_page_memory_figures(memory, &figures);
    g_assert_cmpuint(figures.table_bytes, <=, table_bytes);
    g_assert_cmpuint(figures.copies, <=, copies);
    g_assert_false(gw_page_memory_is_lost(memory));
}

static void
send_page(Rig *rig, uint16_t block, uint64_t page)
{
    uint8_t wire[GW_PAGE_BYTES];
    size_t len = 0;

    if (is_zero(page_of(&rig->source, block, page))) {
        gw_page_memory_put_zero(rig->source.memory, block, page);
        gw_page_memory_put_zero(rig->target.memory, block, page);
        memset(page_of(&rig->target, block, page), 0, GW_PAGE_BYTES);
        rig->n_sent[KIND_ZERO]++;
    } else {
        Kind kind = encode_content(rig, block, page, wire, &len);
        g_autofree uint8_t *exact = g_memdup2(wire, len);

        decode_content(rig, kind, block, page, exact, len);
        rig->n_sent[kind]++;
    }
    check_page(rig, block, page);
}

/* --- histories -------------------------------------------------------------------------------- */

static void
touch(Rig *rig, uint16_t block, uint64_t page)
{
    uint8_t *content = page_of(&rig->source, block, page);
    int style = g_rand_int_range(rig->random, 0, 20);
    unsigned n = 1u << g_rand_int_range(rig->random, 0, 6);

    if (style == 0) {
        memset(content, 0, GW_PAGE_BYTES);
    } else if (style == 1) {
        memmove(content + 16, content, GW_PAGE_BYTES - 16);
    } else if (style == 2) {
        for (unsigned i = 0; i < GW_PAGE_BYTES; i++) {
            content[i] = (uint8_t)g_rand_int(rig->random);
        }
    } else if (style < 16) {
        for (unsigned i = 0; i < n; i++) {
            content[g_rand_int_range(rig->random, 0, GW_PAGE_BYTES)]++;
        }
    } /* else dirtied with the content that it had */
}

/* Pre-copy's rounds: in the order of addresses, some working set, at times another. */
static void
run_history(Rig *rig, unsigned n_rounds)
{
    for (unsigned round = 0; round < n_rounds; round++) {
        unsigned first = (unsigned)g_rand_int_range(rig->random, 0, GUEST_PAGES);
        unsigned length = (unsigned)g_rand_int_range(rig->random, 0, GUEST_PAGES);
        unsigned often = 1u << g_rand_int_range(rig->random, 0, 4);

        rig->keep = g_rand_int_range(rig->random, 0, 8) != 0;
        for (unsigned i = 0; i < BLOCKS * length; i += often) {
            uint16_t block = (uint16_t)(i / length);
            uint64_t page = (first + i % length) % GUEST_PAGES;

            touch(rig, block, page);
            send_page(rig, block, page);
        }
    }
    for (unsigned i = 0; i < BLOCKS * GUEST_PAGES; i++) {
        check_page(rig, (uint16_t)(i / GUEST_PAGES), i % GUEST_PAGES);
    }
}

static bool
guests_are_equal(const Rig *rig)
{
    return memcmp(rig->source.guest, rig->target.guest, BLOCKS * GUEST_PAGES * GW_PAGE_BYTES) == 0;
}

static void
test_histories(void)
{
    /* From no room at all to enough for everything. */
    static const struct {
        uint64_t table_bytes;
        uint32_t copies;
    } limits[] = {{0, 0},      {0, 100},    {100000, 0}, {40000, 1},
                  {40000, 64}, {100000, 7}, {80000, 50}, {100000, GUEST_PAGES * BLOCKS}};

    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        Rig rig;

        rig_init(&rig, limits[i].table_bytes, limits[i].copies);
        run_history(&rig, 60);
        g_assert_true(guests_are_equal(&rig));
        check_limits(rig.source.memory, limits[i].table_bytes, limits[i].copies);
        check_limits(rig.target.memory, limits[i].table_bytes, limits[i].copies);
        g_assert_true(rig.n_sent[KIND_SAME] > 0 || limits[i].table_bytes == 0);
        g_assert_true(rig.n_sent[KIND_DELTA] > 0 || limits[i].table_bytes == 0 ||
                      limits[i].copies <= 1);
        g_assert_cmpuint(rig.n_sent[KIND_CONTENT], >, 0);
        rig_clear(&rig);
    }
}

/* With tags of four bits the target's guest is damaged: it is the tags that "the same" rests on. */
static void
test_weak_tags(void)
{
    Rig rig;

    rig_init(&rig, 100000, 500);
    rig.tag_bits = 4;
    run_history(&rig, 60);
    g_assert_false(guests_are_equal(&rig));
    rig_clear(&rig);
}

/* --- one memory ------------------------------------------------------------------------------- */

static void
put(GwPageMemory *memory, uint64_t page, uint8_t fill)
{
    uint8_t content[GW_PAGE_BYTES];
    GwPageTag tag_now = {{fill, 1}};

    memset(content, fill, sizeof(content));
    gw_page_memory_put(memory, 0, page, content, &tag_now, true);
}

static bool
has_copy(const GwPageMemory *memory, uint64_t page)
{
    GwPageSeen seen;

    gw_page_memory_find(memory, 0, page, &seen);
    return seen.copy;
}

static void
test_life_of_a_page(void)
{
    g_autoptr(GwPageMemory) memory = new_memory(100000, 4);
    GwPageTag other = {{9}};
    GwPageSeen seen;

    gw_page_memory_find(memory, 0, 5, &seen);
    g_assert_true(!seen.tag && !seen.copy);
    gw_page_memory_put_zero(memory, 0, 5);
    gw_page_memory_find(memory, 0, 5, &seen);
    g_assert_true(!seen.tag && !seen.copy);

    put(memory, 5, 1); /* the first time: a tag */
    gw_page_memory_find(memory, 0, 5, &seen);
    g_assert_true(seen.tag && !seen.copy);
    g_assert_cmpuint(seen.tag->bytes[0], ==, 1);
    put(memory, 5, 2); /* again: a copy */
    gw_page_memory_find(memory, 0, 5, &seen);
    g_assert_cmpuint(seen.tag->bytes[0], ==, 2);
    g_assert_cmpuint(seen.copy[GW_PAGE_BYTES - 1], ==, 2);

    gw_page_memory_put(memory, 0, 5, NULL, &other, true); /* by reference */
    gw_page_memory_find(memory, 0, 5, &seen);
    g_assert_true(seen.tag && !seen.copy);
    g_assert_cmpuint(seen.tag->bytes[0], ==, 9);
    put(memory, 5, 3);
    g_assert_true(has_copy(memory, 5));

    gw_page_memory_put_zero(memory, 0, 5);
    gw_page_memory_find(memory, 0, 5, &seen);
    g_assert_true(!seen.tag && !seen.copy);
    put(memory, 5, 3); /* zero counts as sent */
    g_assert_true(has_copy(memory, 5));

    gw_page_memory_find(memory, 1, 5, &seen); /* of another block */
    g_assert_true(!seen.tag && !seen.copy);
}

/* Rounds over a set of @n_pages from @first; how many of the last round's pages had a copy. */
static unsigned
scan(GwPageMemory *memory, unsigned first, unsigned n_pages, unsigned n_rounds)
{
    unsigned n_found = 0;

    for (unsigned round = 0; round < n_rounds; round++) {
        n_found = 0;
        for (unsigned i = 0; i < n_pages; i++) {
            n_found += has_copy(memory, first + i);
            put(memory, first + i, (uint8_t)round);
        }
    }
    return n_found;
}

static void
test_replacement(void)
{
    g_autoptr(GwPageMemory) memory = new_memory(1000000, 100);

    g_assert_cmpuint(scan(memory, 0, 100, 3), ==, 100);
    /* Another set takes over. */
    g_assert_cmpuint(scan(memory, 1000, 100, 40), >=, 90);
    /* A set of four times the room: most of what there is room for stays. */
    g_assert_cmpuint(scan(memory, 2000, 400, 40), >=, 60);
    /* Pages that come once each drive out little of what is in use. */
    for (unsigned round = 0; round < 40; round++) {
        scan(memory, 1000, 100, 1);
        scan(memory, 10000 + 20 * round, 20, 2);
    }
    g_assert_cmpuint(scan(memory, 1000, 100, 1), >=, 80);
    check_limits(memory, 1000000, 100);
}

static void
test_any_page_number(void)
{
    static const uint64_t pages[] = {
        0, 255, 256, 1u << 20, UINT32_MAX, 1ull << 40, 1ull << 52, UINT64_MAX - 1, UINT64_MAX};
    static const uint16_t blocks[] = {0, 1, GW_RAM_MAX_BLOCKS - 1, GW_RAM_MAX_BLOCKS, UINT16_MAX};
    g_autoptr(GwPageMemory) memory = new_memory(1000000, 10);
    uint8_t content[GW_PAGE_BYTES] = {0};
    GwPageTag tag_now = {{1}};
    GwPageMemoryFigures figures;
    GwPageSeen seen;

    for (unsigned i = 0; i < G_N_ELEMENTS(pages) * G_N_ELEMENTS(blocks); i++) {
        uint64_t page = pages[i / G_N_ELEMENTS(blocks)];
        uint16_t block = blocks[i % G_N_ELEMENTS(blocks)];

        gw_page_memory_find(memory, block, page, &seen);
        g_assert_null(seen.tag);
        gw_page_memory_put_zero(memory, block, page);
        gw_page_memory_put(memory, block, page, content, &tag_now, true);
        gw_page_memory_find(memory, block, page, &seen);
        g_assert_true(!seen.tag == !(page <= 1u << 20 && block < GW_RAM_MAX_BLOCKS));
        gw_page_memory_put(memory, block, page, content, &tag_now, true);
        gw_page_memory_put_zero(memory, block, page);
    }
    check_limits(memory, 1000000, 10);
    /* Scattered as far as possible: the table fills up, and that is all. */
    for (uint64_t page = 0; page < 100000; page++) {
        gw_page_memory_put(memory, (uint16_t)(page % 7), page * 97, content, &tag_now, true);
    }
    check_limits(memory, 1000000, 10);
    gw_page_memory_figures(memory, &figures);
    g_assert_cmpuint(figures.refused, >, 90000);
    g_assert_cmpuint(figures.table_bytes, >, 900000);
}

static void
test_too_many_copies(void)
{
    static const uint32_t copies[] = {GW_PAGE_MEMORY_MAX_COPIES + 1, UINT32_MAX};

    for (unsigned i = 0; i < G_N_ELEMENTS(copies); i++) {
        GwPageMemoryLimits limits = {.copies = copies[i]};
        g_autoptr(GError) error = NULL;

        g_assert_null(gw_page_memory_new(&limits, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
    }
}

/* In a process of its own, which may not have any more memory. */
static void
run_out_of_memory(void)
{
    g_autoptr(GwPageMemory) memory = new_memory(UINT64_MAX, 10);
    struct rlimit limit = {.rlim_cur = 256u << 20, .rlim_max = 256u << 20};
    uint64_t page = 0;

    put(memory, 1, 1);
    put(memory, 1, 2);
    g_assert_true(has_copy(memory, 1));
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);
    for (; !gw_page_memory_is_lost(memory); page += 256) {
        put(memory, page, 1);
    }
    g_assert_cmpuint(page, >, 1000000);
    g_assert_false(has_copy(memory, 1));
    put(memory, 1, 3);
    gw_page_memory_put_zero(memory, 0, 1);
    g_assert_false(has_copy(memory, 1));
}

static void
test_out_of_memory(void)
{
    if (SANITIZED) {
        g_test_skip("a sanitizer needs more address space");
        return;
    }
    if (g_test_subprocess()) {
        run_out_of_memory();
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-memory/histories", test_histories);
    g_test_add_func("/page-memory/weak-tags", test_weak_tags);
    g_test_add_func("/page-memory/life-of-a-page", test_life_of_a_page);
    g_test_add_func("/page-memory/replacement", test_replacement);
    g_test_add_func("/page-memory/any-page-number", test_any_page_number);
    g_test_add_func("/page-memory/too-many-copies", test_too_many_copies);
    g_test_add_func("/page-memory/out-of-memory", test_out_of_memory);
    return g_test_run();
}
