// SPDX-License-Identifier: Apache-2.0
/*
 * The index of contents, beside a page memory as a source has it: what it finds holds, and it finds
 * what there is while it has room.
 */
#include "lane/batch.h"
#include "lane/page_equal.h"

#define GUEST_PAGES 2000u

typedef struct Rig {
    GwPageMemory *memory;
    GwPageEqual *equals;
} Rig;

static void
rig_init(Rig *rig, uint64_t n_pages)
{
    rig->memory = gw_page_memory_new(&(GwPageMemoryLimits){.table_bytes = 64u << 20}, NULL);
    rig->equals = gw_page_equal_new(n_pages);
    g_assert_nonnull(rig->memory);
    g_assert_nonnull(rig->equals);
}

static void
rig_clear(Rig *rig)
{
    gw_page_memory_free(rig->memory);
    gw_page_equal_free(rig->equals);
}

/* As random as the cipher's. */
static GwPageTag
tag_of(uint32_t content)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(content);
    GwPageTag tag;

    for (unsigned i = 0; i < GW_PAGE_TAG_BYTES; i++) {
        tag.bytes[i] = (uint8_t)g_rand_int(random);
    }
    return tag;
}

/* Sends a page; the place of what it is equal to, or UINT64_MAX. */
static uint64_t
put(Rig *rig, uint16_t block, uint64_t page, const GwPageTag *tag, bool may_be_found)
{
    const GwPageEqualPage what = {
        .block = block, .number = page, .tag = tag, .may_be_found = may_be_found};
    uint64_t place;
    GwPageSeen seen;

    if (!gw_page_equal_find(rig->equals, rig->memory, &what, &place)) {
        place = UINT64_MAX;
    } else {
        gw_page_memory_find(rig->memory, (uint16_t)(place / GW_BATCH_PLACE_PAGES),
                            place % GW_BATCH_PLACE_PAGES, &seen);
        g_assert_true(seen.tag && gw_page_tag_equal(seen.tag, tag));
        g_assert_cmpuint(place, !=, gw_batch_place(block, page));
    }
    gw_page_memory_put(rig->memory, block, page, NULL, tag, false);
    return place;
}

static void
test_finds(void)
{
    const GwPageTag a = tag_of(1), b = tag_of(2);
    Rig rig;

    rig_init(&rig, GUEST_PAGES);
    g_assert_cmpuint(put(&rig, 3, 0, &a, true), ==, UINT64_MAX);
    g_assert_cmpuint(put(&rig, 3, 0, &a, true), ==, UINT64_MAX); /* it, but no other */
    g_assert_cmpuint(put(&rig, 3, 1, &a, true), ==, gw_batch_place(3, 0));
    g_assert_cmpuint(put(&rig, 0, 0, &a, true), ==, gw_batch_place(3, 0));
    g_assert_cmpuint(put(&rig, 3, 0, &b, true), ==, UINT64_MAX);
    g_assert_cmpuint(put(&rig, 4, 5, &a, true), ==, UINT64_MAX); /* in the place of the other */
    g_assert_cmpuint(put(&rig, 4, 6, &a, true), ==, gw_batch_place(4, 5));
    g_assert_cmpuint(put(&rig, 4, 7, &b, true), ==, gw_batch_place(3, 0));
    gw_page_memory_put_zero(rig.memory, 4, 5);
    g_assert_cmpuint(put(&rig, 4, 8, &a, false), ==, UINT64_MAX);
    g_assert_cmpuint(put(&rig, 4, 5, &a, true), ==, UINT64_MAX);
    g_assert_cmpuint(put(&rig, 4, 9, &a, false), ==, gw_batch_place(4, 5));
    rig_clear(&rig);
}

/* What has no place is looked up, but not found. */
static void
test_far_pages(void)
{
    static const uint64_t far[] = {GW_BATCH_PLACE_PAGES - 1, GW_BATCH_PLACE_PAGES, UINT64_MAX};
    const GwPageTag tag = tag_of(1);
    const uint16_t last = GW_RAM_MAX_BLOCKS - 1;
    uint64_t place = 0;
    Rig rig;

    rig_init(&rig, GUEST_PAGES);
    for (size_t i = 0; i < G_N_ELEMENTS(far); i++) {
        GwPageEqualPage what = {.block = last, .number = far[i], .tag = &tag, .may_be_found = true};

        g_assert_false(gw_page_equal_find(rig.equals, rig.memory, &what, &place));
    }
    put(&rig, last, 0, &tag, true);
    for (size_t i = 0; i < G_N_ELEMENTS(far); i++) {
        GwPageEqualPage what = {.block = 0, .number = far[i], .tag = &tag, .may_be_found = true};

        g_assert_true(gw_page_equal_find(rig.equals, rig.memory, &what, &place));
        g_assert_cmpuint(place, ==, gw_batch_place(last, 0));
    }
    rig_clear(&rig);
}

/* As many contents as the guest has pages are found again, all but a few that have no luck. */
static void
test_whole_guest(void)
{
    unsigned n_found = 0;
    Rig rig;

    rig_init(&rig, GUEST_PAGES);
    g_assert_cmpuint(gw_page_equal_memory_bytes(rig.equals), <=, 10 * GUEST_PAGES);
    for (unsigned round = 0; round < 4; round++) {
        /* What was there before does not hold any more. */
        for (unsigned i = 0; i < GUEST_PAGES; i++) {
            const GwPageTag tag = tag_of(round * GUEST_PAGES + i);

            put(&rig, 0, i, &tag, true);
        }
        n_found = 0;
        for (unsigned i = 0; i < GUEST_PAGES; i++) {
            const GwPageTag tag = tag_of(round * GUEST_PAGES + i);

            n_found += put(&rig, 1, i, &tag, false) == i;
        }
        g_assert_cmpuint(n_found, >, GUEST_PAGES * 8 / 10);
        for (unsigned i = 0; i < GUEST_PAGES; i++) {
            gw_page_memory_put_zero(rig.memory, 1, i);
        }
    }
    rig_clear(&rig);
}

/* Whatever comes, what it finds holds, with much too little room. */
static void
test_random(void)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    GwPageTag tags[300];
    unsigned n_found = 0;
    Rig rig;

    g_test_message("seed %u", seed);
    for (unsigned i = 0; i < G_N_ELEMENTS(tags); i++) {
        tags[i] = tag_of(i);
    }
    rig_init(&rig, 100);
    for (unsigned i = 0; i < 100000; i++) {
        uint16_t block = (uint16_t)g_rand_int_range(random, 0, 3);
        uint64_t page = (uint64_t)g_rand_int_range(random, 0, 200);

        if (g_rand_int_range(random, 0, 8) == 0) {
            gw_page_memory_put_zero(rig.memory, block, page);
        } else {
            const GwPageTag *tag = &tags[g_rand_int_range(random, 0, G_N_ELEMENTS(tags))];

            n_found += put(&rig, block, page, tag, block != 2) != UINT64_MAX;
        }
    }
    g_assert_cmpuint(n_found, >, 10000);
    rig_clear(&rig);
}

static void
test_sizes(void)
{
    static const uint64_t sizes[] = {0, 1, 1000, 26843545, UINT64_MAX};

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GwPageEqual) equals = gw_page_equal_new(sizes[i]);

        g_assert_nonnull(equals);
        g_assert_cmpuint(gw_page_equal_memory_bytes(equals), >, 0);
        g_assert_cmpuint(gw_page_equal_memory_bytes(equals), <=, GW_PAGE_EQUAL_MAX_BYTES);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-equal/finds", test_finds);
    g_test_add_func("/page-equal/far-pages", test_far_pages);
    g_test_add_func("/page-equal/whole-guest", test_whole_guest);
    g_test_add_func("/page-equal/random", test_random);
    g_test_add_func("/page-equal/sizes", test_sizes);
    return g_test_run();
}
