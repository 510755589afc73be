// SPDX-License-Identifier: Apache-2.0
/*
 * Bounded reads from, and appends to, byte buffers in explicit byte order. Pure; any thread.
 * Fails only by setting cursor->failed.
 */
#include "base/cursor.h"

const uint8_t *
gw_cursor_bytes(GwCursor *cursor, size_t len)
{
    if (cursor->failed || cursor->len - cursor->pos < len) {
        cursor->failed = true;
        return NULL;
    }
    const uint8_t *bytes = cursor->data + cursor->pos;
    cursor->pos += len;
    return bytes;
}

static uint64_t
read_big_endian(GwCursor *cursor, size_t len)
{
    const uint8_t *bytes = gw_cursor_bytes(cursor, len);
    uint64_t value = 0;

    for (size_t i = 0; bytes && i < len; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static uint64_t
read_little_endian(GwCursor *cursor, size_t len)
{
    const uint8_t *bytes = gw_cursor_bytes(cursor, len);
    uint64_t value = 0;

    for (size_t i = 0; bytes && i < len; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    return value;
}

uint8_t
gw_cursor_u8(GwCursor *cursor)
{
    return (uint8_t)read_big_endian(cursor, 1);
}

uint16_t
gw_cursor_be16(GwCursor *cursor)
{
    return (uint16_t)read_big_endian(cursor, 2);
}

uint32_t
gw_cursor_be32(GwCursor *cursor)
{
    return (uint32_t)read_big_endian(cursor, 4);
}

uint64_t
gw_cursor_be64(GwCursor *cursor)
{
    return read_big_endian(cursor, 8);
}

uint16_t
gw_cursor_le16(GwCursor *cursor)
{
    return (uint16_t)read_little_endian(cursor, 2);
}

uint32_t
gw_cursor_le32(GwCursor *cursor)
{
    return (uint32_t)read_little_endian(cursor, 4);
}

uint64_t
gw_cursor_le64(GwCursor *cursor)
{
    return read_little_endian(cursor, 8);
}

uint64_t
gw_cursor_varint(GwCursor *cursor)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = gw_cursor_u8(cursor);
        uint64_t bits = byte & 0x7f;
        if (cursor->failed || (shift == 63 && bits > 1)) {
            break;
        }
        value |= bits << shift;
        if (!(byte & 0x80)) {
            return value;
        }
    }
    cursor->failed = true;
    return 0;
}

static void
put_big_endian(GByteArray *out, uint64_t value, unsigned len)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < len; i++) {
        bytes[i] = (uint8_t)(value >> (8 * (len - 1 - i)));
    }
    g_byte_array_append(out, bytes, len);
}

static void
put_little_endian(GByteArray *out, uint64_t value, unsigned len)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < len; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    g_byte_array_append(out, bytes, len);
}

void
gw_put_u8(GByteArray *out, uint8_t value)
{
    g_byte_array_append(out, &value, 1);
}

void
gw_put_be16(GByteArray *out, uint16_t value)
{
    put_big_endian(out, value, 2);
}

void
gw_put_be32(GByteArray *out, uint32_t value)
{
    put_big_endian(out, value, 4);
}

void
gw_put_be64(GByteArray *out, uint64_t value)
{
    put_big_endian(out, value, 8);
}

void
gw_put_le16(GByteArray *out, uint16_t value)
{
    put_little_endian(out, value, 2);
}

void
gw_put_le32(GByteArray *out, uint32_t value)
{
    put_little_endian(out, value, 4);
}

void
gw_put_le64(GByteArray *out, uint64_t value)
{
    put_little_endian(out, value, 8);
}

void
gw_put_varint(GByteArray *out, uint64_t value)
{
    while (value >= 0x80) {
        gw_put_u8(out, (uint8_t)(value | 0x80));
        value >>= 7;
    }
    gw_put_u8(out, (uint8_t)value);
}
