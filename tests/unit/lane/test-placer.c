// SPDX-License-Identifier: Apache-2.0
/*
 * Pages into a process's memory: this one's own, which shows what was touched, and one that ends.
 */
#include "lane/placer.h"
#include "ramstream/ramstream.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK_PAGES 4096u
#define BLOCK_BYTES ((size_t)BLOCK_PAGES * GW_PAGE_BYTES)

typedef struct Rig {
    uint8_t *memory; /* of BLOCK_BYTES */
    GwPlacer *placer;
    int block;
} Rig;

static GwPlacer *
placer_of(pid_t pid)
{
    g_autofree char *memory = g_strdup_printf("/proc/%d/mem", (int)pid);
    g_autofree char *map = g_strdup_printf("/proc/%d/pagemap", (int)pid);
    g_autoptr(GError) error = NULL;
    int memory_fd = open(memory, O_RDWR | O_CLOEXEC);
    int map_fd = open(map, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(memory_fd, >=, 0);
    g_assert_cmpint(map_fd, >=, 0);
    GwPlacer *placer = gw_placer_new(memory_fd, map_fd, &error);
    g_assert_no_error(error);
    return placer;
}

static void
rig_init(Rig *rig)
{
    rig->memory =
        mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(rig->memory != MAP_FAILED);
    /* Whole huge pages would hide which page was touched. */
    madvise(rig->memory, BLOCK_BYTES, MADV_NOHUGEPAGE);
    rig->placer = placer_of(getpid());
    g_assert_true(
        gw_placer_add_block(rig->placer, "ram", (uint64_t)(uintptr_t)rig->memory, BLOCK_BYTES));
    rig->block = gw_placer_find(rig->placer, "ram", 3);
    g_assert_cmpint(rig->block, ==, 0);
}

static void
rig_clear(Rig *rig)
{
    gw_placer_free(rig->placer);
    munmap(rig->memory, BLOCK_BYTES);
}

static void
put(Rig *rig, unsigned page, const uint8_t *content)
{
    g_autoptr(GError) error = NULL;

    bool ok =
        gw_placer_put(rig->placer, rig->block, (uint64_t)page * GW_PAGE_BYTES, content, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
}

static void
drain(Rig *rig)
{
    g_autoptr(GError) error = NULL;

    bool ok = gw_placer_drain(rig->placer, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
}

/* What was put last counts, whatever came before and in whatever runs it came. */
static void
test_last_one_counts(void)
{
    g_autofree uint8_t *model = g_malloc0(BLOCK_BYTES);
    uint8_t content[GW_PAGE_BYTES];
    Rig rig;

    rig_init(&rig);
    for (unsigned round = 0; round < 400; round++) {
        unsigned first = (unsigned)g_test_rand_int_range(0, BLOCK_PAGES - 300);
        unsigned n = (unsigned)g_test_rand_int_range(1, 300);

        for (unsigned page = first; page < first + n; page++) {
            bool is_zero = g_test_rand_int_range(0, 3) == 0;

            memset(content, is_zero ? 0 : g_test_rand_int_range(1, 256), sizeof(content));
            memcpy(model + (size_t)page * GW_PAGE_BYTES, content, sizeof(content));
            put(&rig, page, is_zero ? NULL : content);
        }
        if (round % 20 == 0) {
            drain(&rig);
            g_assert_true(memcmp(rig.memory, model, BLOCK_BYTES) == 0);
        }
    }
    drain(&rig);
    g_assert_true(memcmp(rig.memory, model, BLOCK_BYTES) == 0);
    g_assert_cmpuint(gw_placer_memory_bytes(rig.placer), >, 0);
    rig_clear(&rig);
}

/* What was put last can be had, wherever it is by then. */
static void
test_read_back(void)
{
    g_autofree uint8_t *model = g_malloc0(BLOCK_BYTES);
    uint8_t content[GW_PAGE_BYTES], got[GW_PAGE_BYTES];
    Rig rig;

    rig_init(&rig);
    for (unsigned i = 0; i < 60000; i++) {
        /* Few pages, far from each other, and many. */
        unsigned page = (unsigned)(i / 1000 % 2 ? g_test_rand_int_range(0, 5) * 700
                                                : g_test_rand_int_range(0, BLOCK_PAGES));
        int fill = g_test_rand_int_range(0, 300);

        if (fill < 256) {
            memset(content, fill, sizeof(content));
            memcpy(model + (size_t)page * GW_PAGE_BYTES, content, sizeof(content));
            put(&rig, page, fill == 0 ? NULL : content);
        }
        if (i % 4999 == 0) {
            drain(&rig);
        }
        page = (unsigned)g_test_rand_int_range(0, i % 2 ? 5 * 700 : BLOCK_PAGES);
        page = i % 2 ? page / 700 * 700 : page;
        g_assert_true(
            gw_placer_get(rig.placer, rig.block, (uint64_t)page * GW_PAGE_BYTES, got, NULL));
        g_assert_true(memcmp(got, model + (size_t)page * GW_PAGE_BYTES, GW_PAGE_BYTES) == 0);
    }
    drain(&rig);
    g_assert_true(memcmp(rig.memory, model, BLOCK_BYTES) == 0);
    rig_clear(&rig);
}

static unsigned
n_resident(const Rig *rig)
{
    unsigned char there[BLOCK_PAGES];
    unsigned n = 0;

    g_assert_cmpint(mincore(rig->memory, BLOCK_BYTES, there), ==, 0);
    for (unsigned i = 0; i < BLOCK_PAGES; i++) {
        n += there[i] & 1;
    }
    return n;
}

static void
test_zero_touches_nothing(void)
{
    Rig rig;

    rig_init(&rig);
    rig.memory[7 * GW_PAGE_BYTES] = 1; /* as firmware may have left something there */
    for (unsigned page = 0; page < BLOCK_PAGES; page++) {
        put(&rig, page, NULL);
    }
    drain(&rig);
    g_assert_cmpuint(rig.memory[7 * GW_PAGE_BYTES], ==, 0);
    g_assert_cmpuint(n_resident(&rig), ==, 1);
    rig_clear(&rig);
}

static void
test_bad_addresses(void)
{
    static const uint8_t content[GW_PAGE_BYTES];
    static const uint64_t bad[] = {BLOCK_BYTES, BLOCK_BYTES + GW_PAGE_BYTES,
                                   1,           GW_PAGE_BYTES / 2,
                                   UINT64_MAX,  UINT64_MAX & ~(uint64_t)(GW_PAGE_BYTES - 1)};
    uint8_t got[GW_PAGE_BYTES];
    Rig rig;

    rig_init(&rig);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(gw_placer_put(rig.placer, rig.block, bad[i], content, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
        g_clear_error(&error);
        g_assert_false(gw_placer_get(rig.placer, rig.block, bad[i], got, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
    g_assert_cmpstr(gw_placer_block_name(rig.placer, 0), ==, "ram");
    g_assert_null(gw_placer_block_name(rig.placer, 1));
    g_assert_cmpint(gw_placer_find(rig.placer, "ra", 2), ==, GW_PLACER_NO_BLOCK);
    g_assert_cmpint(gw_placer_find(rig.placer, "ram2", 4), ==, GW_PLACER_NO_BLOCK);
    g_assert_false(gw_placer_has_failed(rig.placer));
    drain(&rig);
    rig_clear(&rig);
}

/* Puts until it is told of the failure; bounded by what may be under way. */
static void
expect_failure(GwPlacer *placer, const uint8_t *content)
{
    g_autoptr(GError) error = NULL;
    bool ok = true;

    for (unsigned page = 0; ok && page < BLOCK_PAGES; page++) {
        ok = gw_placer_put(placer, 0, (uint64_t)page * GW_PAGE_BYTES, content, &error);
    }
    if (ok) {
        g_assert_false(gw_placer_drain(placer, &error));
    }
    g_assert_nonnull(error);
    g_assert_false(g_error_matches(error, GW_ERROR, GW_ERROR_PROTOCOL));
    g_assert_true(gw_placer_has_failed(placer));
    g_assert_false(gw_placer_drain(placer, NULL));
}

static void
expect_no_reading(GwPlacer *placer)
{
    g_autoptr(GError) error = NULL;
    uint8_t got[GW_PAGE_BYTES];

    g_assert_false(
        gw_placer_get(placer, 0, (uint64_t)(BLOCK_PAGES - 1) * GW_PAGE_BYTES, got, &error));
    g_assert_nonnull(error);
    g_assert_false(g_error_matches(error, GW_ERROR, GW_ERROR_PROTOCOL));
    g_assert_true(gw_placer_has_failed(placer));
}

/* @first: whether it is found by reading. */
static void
test_memory_is_gone(const void *first)
{
    static const uint8_t content[GW_PAGE_BYTES] = {1};
    const uint8_t *const kinds[] = {content, NULL};

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        void *memory =
            mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pid_t pid = fork();

        g_assert_true(memory != MAP_FAILED && pid >= 0);
        if (pid == 0) {
            for (;;) {
                pause();
            }
        }
        g_autoptr(GwPlacer) placer = placer_of(pid);
        g_assert_true(gw_placer_add_block(placer, "ram", (uint64_t)(uintptr_t)memory, BLOCK_BYTES));
        g_assert_true(gw_placer_put(placer, 0, 0, content, NULL));
        g_assert_true(gw_placer_drain(placer, NULL));
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        if (first) {
            expect_no_reading(placer);
        }
        expect_failure(placer, kinds[i]);
        munmap(memory, BLOCK_BYTES);
    }
}

static void
test_too_many_blocks(void)
{
    Rig rig;
    unsigned n = 1;

    rig_init(&rig);
    while (gw_placer_add_block(rig.placer, "more", 0, GW_PAGE_BYTES)) {
        n++;
    }
    g_assert_cmpuint(n, ==, GW_PLACER_MAX_BLOCKS);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/placer/last-one-counts", test_last_one_counts);
    g_test_add_func("/placer/read-back", test_read_back);
    g_test_add_func("/placer/zero-touches-nothing", test_zero_touches_nothing);
    g_test_add_func("/placer/bad-addresses", test_bad_addresses);
    g_test_add_data_func("/placer/memory-is-gone/writing", NULL, test_memory_is_gone);
    g_test_add_data_func("/placer/memory-is-gone/reading", "", test_memory_is_gone);
    g_test_add_func("/placer/too-many-blocks", test_too_many_blocks);
    return g_test_run();
}
