// SPDX-License-Identifier: Apache-2.0
/* Bounded cursor: every read at every cut, byte orders, varints, round trips of random values. */
#include "base/cursor.h"

#include <string.h>

static const uint8_t sample[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08};

static void
test_byte_orders(void)
{
    GwCursor cursor = gw_cursor(sample, sizeof sample);
    g_assert_cmphex(gw_cursor_be16(&cursor), ==, 0x0102);
    g_assert_cmphex(gw_cursor_le16(&cursor), ==, 0x0403);
    g_assert_cmphex(gw_cursor_be32(&cursor), ==, 0x05060708);
    g_assert_false(cursor.failed);
    g_assert_cmpuint(gw_cursor_left(&cursor), ==, 0);

    cursor = gw_cursor(sample, sizeof sample);
    g_assert_cmphex(gw_cursor_be64(&cursor), ==, 0x0102030405060708);
    cursor = gw_cursor(sample, sizeof sample);
    g_assert_cmphex(gw_cursor_le64(&cursor), ==, 0x0807060504030201);
    cursor = gw_cursor(sample, sizeof sample);
    g_assert_cmphex(gw_cursor_le32(&cursor), ==, 0x04030201);
    g_assert_cmphex(gw_cursor_u8(&cursor), ==, 0x05);
}

/* The buffer is exactly @len bytes on the heap, so that a sanitizer sees the first byte beyond. */
static void
check_short_read(uint64_t (*read)(GwCursor *), size_t width)
{
    for (size_t len = 0; len < width; len++) {
        g_autofree uint8_t *bytes = g_malloc(len + (len == 0));
        memset(bytes, 0xff, len);
        GwCursor cursor = gw_cursor(bytes, len);
        g_assert_cmpuint(read(&cursor), ==, 0);
        g_assert_true(cursor.failed);
        g_assert_cmpuint(cursor.pos, ==, 0);
        g_assert_cmpuint(gw_cursor_left(&cursor), ==, 0);
        g_assert_null(gw_cursor_bytes(&cursor, 0));
        g_assert_cmpuint(gw_cursor_u8(&cursor), ==, 0);
    }
}

#define WIDEN(type)                                                                                \
    static uint64_t read_##type(GwCursor *cursor)                                                  \
    {                                                                                              \
        return gw_cursor_##type(cursor);                                                           \
    }
WIDEN(u8)
WIDEN(be16)
WIDEN(be32)
WIDEN(be64)
WIDEN(le16)
WIDEN(le32)
WIDEN(le64)

static void
test_short_reads(void)
{
    check_short_read(read_u8, 1);
    check_short_read(read_be16, 2);
    check_short_read(read_be32, 4);
    check_short_read(read_be64, 8);
    check_short_read(read_le16, 2);
    check_short_read(read_le32, 4);
    check_short_read(read_le64, 8);
}

static void
test_bytes(void)
{
    GwCursor cursor = gw_cursor(sample, sizeof sample);

    g_assert_true(gw_cursor_bytes(&cursor, 3) == sample);
    g_assert_true(gw_cursor_bytes(&cursor, 0) == sample + 3);
    g_assert_null(gw_cursor_bytes(&cursor, SIZE_MAX));
    g_assert_true(cursor.failed);
    g_assert_cmpuint(cursor.pos, ==, 3);
}

static void
test_nothing(void)
{
    GwCursor cursor = gw_cursor(NULL, 0);

    g_assert_cmpuint(gw_cursor_left(&cursor), ==, 0);
    g_assert_nonnull(gw_cursor_bytes(&cursor, 0));
    g_assert_false(cursor.failed);
    g_assert_cmpuint(gw_cursor_u8(&cursor), ==, 0);
    g_assert_true(cursor.failed);
}

static bool
varint_of(const void *bytes, size_t len, uint64_t *value)
{
    GwCursor cursor = gw_cursor(bytes, len);

    *value = gw_cursor_varint(&cursor);
    return !cursor.failed && gw_cursor_left(&cursor) == 0;
}

static void
test_varint_edges(void)
{
    uint64_t value;

    g_assert_true(varint_of("\x00", 1, &value));
    g_assert_cmpuint(value, ==, 0);
    g_assert_true(varint_of("\xac\x02", 2, &value));
    g_assert_cmpuint(value, ==, 300);
    g_assert_true(varint_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, &value));
    g_assert_cmpuint(value, ==, UINT64_MAX);

    g_assert_false(varint_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10, &value));
    g_assert_cmpuint(value, ==, 0);
    g_assert_false(varint_of("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 11, &value));
    g_assert_false(varint_of("\x80\x80", 2, &value));
    g_assert_false(varint_of("", 0, &value));
}

static void
test_round_trip(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint64_t values[400];

    for (size_t i = 0; i < G_N_ELEMENTS(values); i++) {
        values[i] = (uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
        values[i] >>= g_test_rand_int_range(0, 64);
        gw_put_varint(out, values[i]);
        gw_put_be64(out, values[i]);
        gw_put_le64(out, values[i]);
        gw_put_be32(out, (uint32_t)values[i]);
        gw_put_le32(out, (uint32_t)values[i]);
        gw_put_be16(out, (uint16_t)values[i]);
        gw_put_le16(out, (uint16_t)values[i]);
        gw_put_u8(out, (uint8_t)values[i]);
    }
    GwCursor cursor = gw_cursor(out->data, out->len);
    for (size_t i = 0; i < G_N_ELEMENTS(values); i++) {
        g_assert_cmphex(gw_cursor_varint(&cursor), ==, values[i]);
        g_assert_cmphex(gw_cursor_be64(&cursor), ==, values[i]);
        g_assert_cmphex(gw_cursor_le64(&cursor), ==, values[i]);
        g_assert_cmphex(gw_cursor_be32(&cursor), ==, (uint32_t)values[i]);
        g_assert_cmphex(gw_cursor_le32(&cursor), ==, (uint32_t)values[i]);
        g_assert_cmphex(gw_cursor_be16(&cursor), ==, (uint16_t)values[i]);
        g_assert_cmphex(gw_cursor_le16(&cursor), ==, (uint16_t)values[i]);
        g_assert_cmphex(gw_cursor_u8(&cursor), ==, (uint8_t)values[i]);
    }
    g_assert_false(cursor.failed);
    g_assert_cmpuint(gw_cursor_left(&cursor), ==, 0);
}

static void
test_written_bytes(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();

    gw_put_be32(out, 0x01020304);
    gw_put_le32(out, 0x08070605);
    g_assert_cmpmem(out->data, out->len, sample, sizeof sample);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cursor/byte-orders", test_byte_orders);
    g_test_add_func("/cursor/short-reads", test_short_reads);
    g_test_add_func("/cursor/bytes", test_bytes);
    g_test_add_func("/cursor/nothing", test_nothing);
    g_test_add_func("/cursor/varint-edges", test_varint_edges);
    g_test_add_func("/cursor/round-trip", test_round_trip);
    g_test_add_func("/cursor/written-bytes", test_written_bytes);
    return g_test_run();
}
