// SPDX-License-Identifier: Apache-2.0
/*
 * The parser on streams that QEMU wrote: recorded while the tests run (tests/tools/
 * record-stream.py), and one of QEMU 7.2 that is kept in data/ with the pages' content replaced.
 * The arguments are the files.
 */
#include "base/cursor.h"
#include "ramstream/format.h"
#include "roundtrip.h"

#include <zstd.h>

#define MAX_STREAM_BYTES (64u * 1024u * 1024u)
#define MAX_BLOCKS       64u
#define CUTS             150

typedef struct Recording {
    char *path;
    GByteArray *bytes;
} Recording;

static void
unpack(GByteArray *bytes, const char *path, const char *data, size_t len)
{
    if (!g_str_has_suffix(path, ".zst")) {
        g_byte_array_append(bytes, (const uint8_t *)data, (guint)len);
        return;
    }
    g_byte_array_set_size(bytes, MAX_STREAM_BYTES);
    size_t unpacked = ZSTD_decompress(bytes->data, bytes->len, data, len);
    g_assert_false(ZSTD_isError(unpacked));
    g_byte_array_set_size(bytes, (guint)unpacked);
}

static Recording *
recording_new(const char *path)
{
    Recording *recording = g_new0(Recording, 1);
    g_autofree char *data = NULL;
    g_autoptr(GError) error = NULL;
    size_t len;

    g_file_get_contents(path, &data, &len, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(len, <, MAX_STREAM_BYTES);
    recording->path = g_path_get_basename(path);
    recording->bytes = g_byte_array_new();
    unpack(recording->bytes, path, data, len);
    return recording;
}

static void
recording_free(void *data)
{
    Recording *recording = data;
    g_free(recording->path);
    g_byte_array_unref(recording->bytes);
    g_free(recording);
}

/* An empty file says that this machine cannot make the recording. */
static bool
skipped(const Recording *recording)
{
    if (recording->bytes->len > 0) {
        return false;
    }
    g_test_skip("it could not be recorded here (see the recorder's message)");
    return true;
}

static bool
is_postcopy(const Recording *recording)
{
    return g_str_has_prefix(recording->path, "postcopy");
}

/* --- every page is seen ----------------------------------------------------------------------- */

typedef struct Coverage {
    GHashTable *seen[MAX_BLOCKS]; /* page numbers */
    GArray *ends;                 /* size_t: where each item ends */
} Coverage;

static void
cover(const GwRamItem *item, size_t pos, void *data)
{
    Coverage *coverage = data;

    g_array_append_val(coverage->ends, pos);
    if (item->kind == GW_RAM_ITEM_BYTES) {
        return;
    }
    g_assert_cmpuint(item->block, <, MAX_BLOCKS);
    g_hash_table_add(coverage->seen[item->block],
                     GSIZE_TO_POINTER(item->address / GW_PAGE_BYTES + 1));
}

static void
coverage_init(Coverage *coverage)
{
    coverage->ends = g_array_new(FALSE, FALSE, sizeof(size_t));
    for (unsigned i = 0; i < MAX_BLOCKS; i++) {
        coverage->seen[i] = g_hash_table_new(NULL, NULL);
    }
}

static void
coverage_clear(Coverage *coverage)
{
    g_array_unref(coverage->ends);
    for (unsigned i = 0; i < MAX_BLOCKS; i++) {
        g_hash_table_destroy(coverage->seen[i]);
    }
}

static void
check_all_pages_seen(const GwRamParser *parser, const Coverage *coverage)
{
    uint64_t ram_bytes = 0;

    for (uint16_t i = 0; i < gw_ram_parser_n_blocks(parser); i++) {
        uint64_t bytes = gw_ram_parser_block_bytes(parser, i);
        g_test_message("block %s: %" G_GUINT64_FORMAT " bytes, %u pages seen",
                       gw_ram_parser_block_name(parser, i), bytes,
                       g_hash_table_size(coverage->seen[i]));
        g_assert_cmpuint(g_hash_table_size(coverage->seen[i]), ==, bytes / GW_PAGE_BYTES);
        ram_bytes += bytes;
    }
    g_assert_cmpuint(ram_bytes, >=, 8 * 1024 * 1024);
}

static void
test_pages(const void *data)
{
    const Recording *recording = data;
    RoundTrip trip = {.seen = cover};
    Coverage coverage;
    const char *why;

    if (skipped(recording)) {
        return;
    }
    coverage_init(&coverage);
    trip.seen_data = &coverage;
    roundtrip_check(&trip, recording->bytes->data, recording->bytes->len, 0);
    check_all_pages_seen(trip.parser, &coverage);
    g_assert_true(gw_ram_parser_saw_end(trip.parser));
    /* Nothing but device state is passed on without being understood; post-copy packs even that. */
    bool opaque = gw_ram_parser_is_opaque(trip.parser, &why);
    g_assert_cmpint(opaque, ==, !is_postcopy(recording));
    if (opaque) {
        g_assert_cmpstr(why, ==, "device state, whose length is not in the stream");
        g_assert_cmpuint(recording->bytes->data[trip.opaque_at], ==, GW_STREAM_FULL);
    }
    roundtrip_clear(&trip);
    coverage_clear(&coverage);
}

/* --- pieces, cuts, damage --------------------------------------------------------------------- */

static void
test_pieces(const void *data)
{
    const Recording *recording = data;

    if (skipped(recording)) {
        return;
    }
    for (uint32_t pieces = 1; pieces < 100000; pieces *= 7) {
        RoundTrip trip = {0};
        roundtrip_check(&trip, recording->bytes->data, recording->bytes->len, pieces);
        g_assert_true(gw_ram_parser_saw_end(trip.parser));
        roundtrip_clear(&trip);
    }
}

/* Where the end mark ends: before the description, if there is one. */
static size_t
end_of_mark(const Recording *recording)
{
    const uint8_t *bytes = recording->bytes->data;

    for (size_t pos = recording->bytes->len - 7; pos > 0; pos--) {
        GwCursor cursor = gw_cursor(bytes + pos, recording->bytes->len - pos);
        if (gw_cursor_u8(&cursor) == GW_STREAM_EOF &&
            gw_cursor_u8(&cursor) == GW_STREAM_DESCRIPTION &&
            gw_cursor_be32(&cursor) == gw_cursor_left(&cursor)) {
            return pos + 1;
        }
    }
    return recording->bytes->len;
}

static void
check_cut(const Recording *recording, size_t len, size_t opaque_at, size_t mark)
{
    RoundTrip trip = {0};

    roundtrip_check(&trip, recording->bytes->data, len, 0);
    bool saw_end = gw_ram_parser_saw_end(trip.parser);
    if (len == mark) {
        g_assert_true(saw_end);
    } else if (len <= opaque_at || len > mark) {
        /* In between, device state may look like the mark: see tail.h. */
        g_assert_false(saw_end);
    }
    roundtrip_clear(&trip);
}

static void
test_cuts(const void *data)
{
    const Recording *recording = data;
    RoundTrip trip = {.seen = cover};
    Coverage coverage;

    if (skipped(recording)) {
        return;
    }
    coverage_init(&coverage);
    trip.seen_data = &coverage;
    roundtrip_check(&trip, recording->bytes->data, recording->bytes->len, 0);
    size_t mark = end_of_mark(recording);
    check_cut(recording, mark, trip.opaque_at, mark);
    for (int i = 0; i < CUTS; i++) {
        int32_t n = g_test_rand_int_range(0, (int32_t)coverage.ends->len);
        size_t len = g_array_index(coverage.ends, size_t, n);
        check_cut(recording, len, trip.opaque_at, mark);
        check_cut(recording, (size_t)g_test_rand_int_range(0, (int32_t)recording->bytes->len),
                  trip.opaque_at, mark);
    }
    roundtrip_clear(&trip);
    coverage_clear(&coverage);
}

/* The description is not taken for whole before its last byte. */
static void
test_end(const void *data)
{
    const Recording *recording = data;
    const uint8_t *bytes = recording->bytes->data;
    size_t len = recording->bytes->len;
    size_t room;
    GwRamItem item;

    if (skipped(recording)) {
        return;
    }
    g_autoptr(GwRamParser) parser = gw_ram_parser_new();
    for (size_t pos = 0; pos < len; pos++) {
        g_assert_false(gw_ram_parser_saw_end(parser));
        *gw_ram_parser_space(parser, &room) = bytes[pos];
        gw_ram_parser_fed(parser, 1);
        while (gw_ram_parser_next(parser, &item)) {
        }
    }
    g_assert_true(gw_ram_parser_saw_end(parser));
}

static void
test_damaged(const void *data)
{
    const Recording *recording = data;

    if (skipped(recording)) {
        return;
    }
    g_autofree uint8_t *bytes = g_memdup2(recording->bytes->data, recording->bytes->len);
    for (int i = 0; i < CUTS; i++) {
        RoundTrip trip = {0};
        /* Half of the damage goes to the head, where there is more than pages. */
        int32_t limit = (int32_t)(i % 2 ? recording->bytes->len : MIN(2000, recording->bytes->len));
        size_t pos = (size_t)g_test_rand_int_range(0, limit);
        bytes[pos] ^= (uint8_t)g_test_rand_int_range(1, 256);
        roundtrip_check(&trip, bytes, recording->bytes->len, 0);
        bytes[pos] = recording->bytes->data[pos];
        roundtrip_clear(&trip);
    }
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        GTestDataFunc test;
    } tests[] = {
        {"pages", test_pages}, {"pieces", test_pieces},   {"cuts", test_cuts},
        {"end", test_end},     {"damaged", test_damaged},
    };
    g_autoptr(GPtrArray) recordings = g_ptr_array_new_with_free_func(recording_free);

    g_test_init(&argc, &argv, NULL);
    for (int i = 1; i < argc; i++) {
        Recording *recording = recording_new(argv[i]);
        g_ptr_array_add(recordings, recording);
        for (size_t t = 0; t < G_N_ELEMENTS(tests); t++) {
            g_autofree char *path =
                g_strdup_printf("/recorded/%s/%s", recording->path, tests[t].name);
            g_test_add_data_func(path, recording, tests[t].test);
        }
    }
    return g_test_run();
}
