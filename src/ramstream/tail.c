// SPDX-License-Identifier: Apache-2.0
/*
 * Looks for QEMU's VM description at the end of bytes that are not understood.
 *
 * Owns nothing but the few fields of GwStreamTail. Thread: the owner's. Limits: constant memory,
 * one pass; until a description begins the cost is that of memchr(). Cannot fail: what does not
 * fit is simply not the end.
 */
#include "ramstream/tail.h"

#include "ramstream/format.h"

#include <string.h>

void
gw_stream_tail_init(GwStreamTail *tail)
{
    *tail = (GwStreamTail){0};
    /* Nothing was fed: no byte that means something may seem to be there. */
    memset(tail->last, 0xff, sizeof(tail->last));
}

/* The byte @back places before data[pos]; reaches into what was fed earlier. */
static uint8_t
byte_before(const GwStreamTail *tail, const uint8_t *data, size_t pos, size_t back)
{
    return back <= pos ? data[pos - back] : tail->last[GW_STREAM_TAIL_BYTES + pos - back];
}

/* Does the brace at data[pos] begin a description? */
static bool
begins_description(GwStreamTail *tail, const uint8_t *data, size_t pos)
{
    if (byte_before(tail, data, pos, 6) != GW_STREAM_EOF ||
        byte_before(tail, data, pos, 5) != GW_STREAM_DESCRIPTION) {
        return false;
    }
    uint32_t len = 0;
    for (size_t back = 4; back > 0; back--) {
        len = len << 8 | byte_before(tail, data, pos, back);
    }
    if (len == 0) {
        return false;
    }
    tail->in_description = true;
    tail->in_string = tail->in_escape = false;
    tail->depth = 0;
    tail->left = len;
    return true;
}

/* Where to go on: at the brace of a description, or at the end. */
static size_t
seek_description(GwStreamTail *tail, const uint8_t *data, size_t pos, size_t len)
{
    while (pos < len) {
        const uint8_t *brace = memchr(data + pos, '{', len - pos);
        if (!brace) {
            return len;
        }
        pos = (size_t)(brace - data);
        if (begins_description(tail, data, pos)) {
            return pos;
        }
        pos++;
    }
    return len;
}

static void
follow_json(GwStreamTail *tail, uint8_t c)
{
    if (tail->in_escape) {
        tail->in_escape = false;
    } else if (tail->in_string) {
        tail->in_escape = c == '\\';
        tail->in_string = c != '"';
    } else if (c == '"') {
        tail->in_string = true;
    } else if (c == '{' || c == '[') {
        tail->depth++;
    } else if (c == '}' || c == ']') {
        tail->depth--;
    }
}

/* Where to go on: behind the description, at a byte that it cannot have, or at the end. */
static size_t
follow_description(GwStreamTail *tail, const uint8_t *data, size_t pos, size_t len)
{
    for (; pos < len; pos++) {
        if (data[pos] < 0x20) {
            tail->in_description = false;
            return pos;
        }
        follow_json(tail, data[pos]);
        tail->left--;
        /* The object must close with its last byte and not before. */
        if (tail->depth == 0 || tail->left == 0) {
            tail->in_description = false;
            tail->described = tail->depth == 0 && tail->left == 0;
            return pos + 1;
        }
    }
    return len;
}

static void
remember_last(GwStreamTail *tail, const uint8_t *data, size_t len)
{
    if (len >= GW_STREAM_TAIL_BYTES) {
        memcpy(tail->last, data + len - GW_STREAM_TAIL_BYTES, GW_STREAM_TAIL_BYTES);
        return;
    }
    memmove(tail->last, tail->last + len, GW_STREAM_TAIL_BYTES - len);
    memcpy(tail->last + GW_STREAM_TAIL_BYTES - len, data, len);
}

void
gw_stream_tail_feed(GwStreamTail *tail, const uint8_t *data, size_t len)
{
    for (size_t pos = 0; pos < len;) {
        tail->described = false;
        pos = tail->in_description ? follow_description(tail, data, pos, len)
                                   : seek_description(tail, data, pos, len);
    }
    remember_last(tail, data, len);
}

bool
gw_stream_tail_marked(const GwStreamTail *tail)
{
    /* Section ids count up from 0: a high byte other than 0 is no footer. */
    return tail->last[0] == GW_STREAM_FOOTER && tail->last[1] == 0 &&
           tail->last[GW_STREAM_FOOTER_BYTES] == GW_STREAM_EOF;
}
