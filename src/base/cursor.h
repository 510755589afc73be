// SPDX-License-Identifier: Apache-2.0
/*
 * Bounded reading and writing of byte formats.
 *
 * GwCursor walks over bytes that somebody else owns. A read past the end does not move, returns
 * zero and sets `failed`, which stays set: parse a whole structure, then check once. No read ever
 * touches memory outside the buffer. Writers append to a GByteArray. Byte order is in the names.
 * Pure; any thread.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct GwCursor {
    const uint8_t *data;
    size_t len;
    size_t pos;
    bool failed;
} GwCursor;

static inline GwCursor
gw_cursor(const void *data, size_t len)
{
    /* No bytes at all may come as NULL (an empty GBytes does). */
    return (GwCursor){.data = data ? data : (const uint8_t *)"", .len = data ? len : 0};
}

static inline size_t
gw_cursor_left(const GwCursor *cursor)
{
    return cursor->failed ? 0 : cursor->len - cursor->pos;
}

/* The next @len bytes, borrowed; NULL and failed if there are fewer. */
const uint8_t *gw_cursor_bytes(GwCursor *cursor, size_t len);

uint8_t gw_cursor_u8(GwCursor *cursor);
uint16_t gw_cursor_be16(GwCursor *cursor);
uint32_t gw_cursor_be32(GwCursor *cursor);
uint64_t gw_cursor_be64(GwCursor *cursor);
uint16_t gw_cursor_le16(GwCursor *cursor);
uint32_t gw_cursor_le32(GwCursor *cursor);
uint64_t gw_cursor_le64(GwCursor *cursor);

/* LEB128, at most 10 bytes; failed on overflow. */
uint64_t gw_cursor_varint(GwCursor *cursor);

void gw_put_u8(GByteArray *out, uint8_t value);
void gw_put_be16(GByteArray *out, uint16_t value);
void gw_put_be32(GByteArray *out, uint32_t value);
void gw_put_be64(GByteArray *out, uint64_t value);
void gw_put_le16(GByteArray *out, uint16_t value);
void gw_put_le32(GByteArray *out, uint32_t value);
void gw_put_le64(GByteArray *out, uint64_t value);
void gw_put_varint(GByteArray *out, uint64_t value);

/* Small numbers of either sign as small varints: n ≥ 0 as 2n, n < 0 as −2n − 1. */
static inline uint64_t
gw_zigzag(int64_t value)
{
    return value < 0 ? ~((uint64_t)value << 1) : (uint64_t)value << 1;
}

static inline int64_t
gw_unzigzag(uint64_t value)
{
    return (value & 1) ? (int64_t) ~(value >> 1) : (int64_t)(value >> 1);
}
