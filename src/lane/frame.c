// SPDX-License-Identifier: Apache-2.0
/*
 * Encoding and decoding of frame headers and of all payloads but RAM batches (batch.c).
 *
 * Owns nothing; pure; any thread. Everything is read through a bounded cursor; lengths are checked
 * per type before anybody allocates for them. Fails with GW_ERROR_PROTOCOL and the field's name.
 */
#include "lane/frame.h"

#include "base/cursor.h"
#include "base/json.h"
#include "lane/batch.h"
#include "lane/image_ref.h"
#include "lane/lane.h"

#include <string.h>

static const uint8_t hello_magic[8] = {'G', 'O', 'D', 'W', 'I', 'T', '\r', '\n'};

typedef struct GwFrameKind {
    const char *name;
    uint32_t max_payload;
    GwChannel channel;
    bool ordered;
    bool urgent;
} GwFrameKind;

static const GwFrameKind kinds[] = {
    [GW_FRAME_HELLO] = {"HELLO", GW_HELLO_MAX_BYTES, GW_CHANNEL_CONTROL, false, false},
    [GW_FRAME_REFUSE] = {"REFUSE", GW_REFUSE_MAX_BYTES, GW_CHANNEL_CONTROL, false, false},
    [GW_FRAME_CONTROL] = {"CONTROL", GW_LANE_MAX_MESSAGE_BYTES, GW_CHANNEL_CONTROL, true, false},
    [GW_FRAME_BLOCK] = {"BLOCK", 2 + GW_BLOCK_NAME_MAX_BYTES, GW_CHANNEL_RAM, true, false},
    [GW_FRAME_RAM] = {"RAM", GW_BATCH_MAX_BYTES, GW_CHANNEL_RAM, true, false},
    [GW_FRAME_CHECKPOINT] = {"CHECKPOINT", GW_MARK_BYTES, GW_CHANNEL_RAM, true, false},
    [GW_FRAME_STREAM_END] = {"STREAM_END", GW_MARK_BYTES, GW_CHANNEL_RAM, true, false},
    [GW_FRAME_ACK] = {"ACK", 16, GW_CHANNEL_CONTROL, false, false},
    [GW_FRAME_PING] = {"PING", 8, GW_CHANNEL_CONTROL, false, false},
    [GW_FRAME_PONG] = {"PONG", 8, GW_CHANNEL_CONTROL, false, false},
    [GW_FRAME_GOODBYE] = {"GOODBYE", 0, GW_CHANNEL_CONTROL, false, false},
    [GW_FRAME_OPEN] = {"OPEN", 0, GW_CHANNEL_FIRST_BYTES, true, true},
    [GW_FRAME_BYTES] = {"BYTES", GW_BYTES_MAX_BYTES, GW_CHANNEL_FIRST_BYTES, true, true},
    [GW_FRAME_END] = {"END", 0, GW_CHANNEL_FIRST_BYTES, true, true},
    [GW_FRAME_BYTES_ACK] = {"BYTES_ACK", 16, GW_CHANNEL_CONTROL, false, true},
    [GW_FRAME_STREAM_BEGIN] = {"STREAM_BEGIN", GW_STREAM_BEGIN_BYTES, GW_CHANNEL_RAM, true, false},
    [GW_FRAME_NEED] = {"NEED", GW_REF_NEED_MAX_BYTES, GW_CHANNEL_CONTROL, false, false},
    [GW_FRAME_FILL] = {"FILL", GW_REF_FILL_MAX_BYTES, GW_CHANNEL_RAM, false, false},
    [GW_FRAME_REFERENCES_END] = {"REFERENCES_END", 0, GW_CHANNEL_RAM, true, false},
    [GW_FRAME_PROBE] = {"PROBE", GW_PROBE_MAX_BYTES, GW_CHANNEL_CONTROL, false, false},
};

static const GwFrameKind *
find_kind(unsigned type)
{
    return type < G_N_ELEMENTS(kinds) && kinds[type].name ? &kinds[type] : NULL;
}

const char *
gw_frame_type_name(GwFrameType type)
{
    const GwFrameKind *kind = find_kind(type);

    return kind ? kind->name : "unknown";
}

bool
gw_frame_is_ordered(GwFrameType type)
{
    const GwFrameKind *kind = find_kind(type);

    return kind && kind->ordered;
}

bool
gw_frame_is_urgent(GwFrameType type)
{
    const GwFrameKind *kind = find_kind(type);

    return kind && kind->urgent;
}

/* OPEN, BYTES and END say themselves which channel they are of. */
static bool
is_of_bytes(const GwFrameKind *kind)
{
    return kind->ordered && kind->urgent;
}

static bool
channel_fits(const GwFrameKind *kind, uint16_t channel)
{
    return is_of_bytes(kind) ? channel >= GW_CHANNEL_FIRST_BYTES && channel < GW_CHANNEL_N
                             : channel == kind->channel;
}

bool
gw_frame_is_stream(GwFrameType type)
{
    const GwFrameKind *kind = find_kind(type);

    return kind && kind->channel == GW_CHANNEL_RAM;
}

uint32_t
gw_frame_max_payload(GwFrameType type)
{
    const GwFrameKind *kind = find_kind(type);

    return kind ? kind->max_payload : 0;
}

static bool
set_protocol_error(GError **error, const char *what)
{
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the peer sent %s", what);
    return false;
}

static void
put_be(uint8_t *out, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
}

void
gw_frame_encode_header(const GwFrameHeader *header, uint8_t *out)
{
    const GwFrameKind *kind = find_kind(header->type);

    put_be(out, header->payload_bytes, 4);
    out[4] = (uint8_t)header->type;
    out[5] = 0;
    put_be(out + 6, !kind ? 0 : is_of_bytes(kind) ? header->channel : kind->channel, 2);
    put_be(out + 8, header->sequence, 8);
}

bool
gw_frame_decode_header(const uint8_t *in, GwFrameHeader *out, GError **error)
{
    GwCursor cursor = gw_cursor(in, GW_FRAME_HEADER_BYTES);
    uint32_t payload_bytes = gw_cursor_be32(&cursor);
    uint8_t type = gw_cursor_u8(&cursor);
    uint8_t reserved = gw_cursor_u8(&cursor);
    uint16_t channel = gw_cursor_be16(&cursor);
    uint64_t sequence = gw_cursor_be64(&cursor);
    const GwFrameKind *kind = find_kind(type);

    if (!kind) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the peer sent a frame of unknown type %u",
                    type);
        return false;
    }
    if (payload_bytes > kind->max_payload) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent a %s frame of %u bytes; at most %u are allowed", kind->name,
                    payload_bytes, kind->max_payload);
        return false;
    }
    if (reserved != 0 || !channel_fits(kind, channel) || kind->ordered != (sequence != 0)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent a %s frame with a damaged header", kind->name);
        return false;
    }
    *out = (GwFrameHeader){.payload_bytes = payload_bytes,
                           .type = (GwFrameType)type,
                           .channel = channel,
                           .sequence = sequence};
    return true;
}

bool
gw_received_has(const GwReceived *received, uint64_t sequence)
{
    if (sequence <= received->whole) {
        return true;
    }
    uint64_t bit = sequence - received->whole - 1;

    return bit < 8u * (uint64_t)received->map_bytes && (received->map[bit / 8] >> (bit % 8) & 1);
}

static void
encode_received(const GwReceived *received, GByteArray *out)
{
    gw_put_be64(out, received->handled);
    gw_put_be64(out, received->whole);
    gw_put_be16(out, received->map_bytes);
    g_byte_array_append(out, received->map, received->map_bytes);
}

void
gw_hello_encode(const GwHello *hello, GByteArray *out)
{
    g_byte_array_append(out, hello_magic, sizeof(hello_magic));
    gw_put_be16(out, hello->version);
    gw_put_be16(out, hello->oldest_version);
    gw_put_be32(out, hello->flags);
    g_byte_array_append(out, hello->session_id, GW_SESSION_ID_BYTES);
    g_byte_array_append(out, (const guint8[]){hello->joins, hello->link, 0, 0}, 4);
    gw_put_be32(out, hello->attempt);
    g_byte_array_append(out, hello->instance, GW_INSTANCE_BYTES);
    g_byte_array_append(out, hello->ticket, GW_TICKET_BYTES);
    encode_received(&hello->received, out);
    encode_received(&hello->urgent, out);
}

static bool
decode_received(GwCursor *cursor, GwReceived *out)
{
    out->handled = gw_cursor_be64(cursor);
    out->whole = gw_cursor_be64(cursor);
    out->map_bytes = gw_cursor_be16(cursor);
    if (cursor->failed || out->map_bytes > GW_RECEIVED_MAP_BYTES || out->handled > out->whole) {
        return false;
    }
    const uint8_t *map = gw_cursor_bytes(cursor, out->map_bytes);

    if (cursor->failed) {
        return false;
    }
    memcpy(out->map, map, out->map_bytes);
    return true;
}

/* What follows magic and versions. False: it is cut short or impossible. */
static bool
decode_hello_body(GwCursor *cursor, GwHello *out)
{
    const uint8_t *session_id = gw_cursor_bytes(cursor, GW_SESSION_ID_BYTES);
    uint8_t kind = gw_cursor_u8(cursor);

    out->joins = kind == 1;
    out->link = gw_cursor_u8(cursor);
    (void)gw_cursor_be16(cursor);
    out->attempt = gw_cursor_be32(cursor);
    const uint8_t *instance = gw_cursor_bytes(cursor, GW_INSTANCE_BYTES);
    const uint8_t *ticket = gw_cursor_bytes(cursor, GW_TICKET_BYTES);

    if (cursor->failed || kind > 1 || out->link >= GW_LANE_MAX_LINKS) {
        return false;
    }
    memcpy(out->session_id, session_id, GW_SESSION_ID_BYTES);
    memcpy(out->instance, instance, GW_INSTANCE_BYTES);
    memcpy(out->ticket, ticket, GW_TICKET_BYTES);
    return decode_received(cursor, &out->received) && decode_received(cursor, &out->urgent);
}

bool
gw_hello_decode(const uint8_t *payload, size_t len, GwHello *out, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    const uint8_t *magic = gw_cursor_bytes(&cursor, sizeof(hello_magic));
    GwHello hello = {
        .version = gw_cursor_be16(&cursor),
        .oldest_version = gw_cursor_be16(&cursor),
        .flags = gw_cursor_be32(&cursor),
    };

    if (cursor.failed || memcmp(magic, hello_magic, sizeof(hello_magic)) != 0) {
        return set_protocol_error(error, "no greeting of this protocol");
    }
    if (hello.version == 0 || hello.oldest_version == 0 || hello.oldest_version > hello.version) {
        return set_protocol_error(error, "a greeting with impossible versions");
    }
    /* The versions of one whom we do not understand are told by gw_hello_agree(). */
    if (hello.version >= GW_LANE_OLDEST_VERSION && hello.oldest_version <= GW_LANE_VERSION &&
        !decode_hello_body(&cursor, &hello)) {
        return set_protocol_error(error, "a damaged greeting");
    }
    *out = hello;
    return true;
}

bool
gw_hello_agree(const GwHello *ours, const GwHello *theirs, uint16_t *version, GError **error)
{
    uint16_t newest = MIN(ours->version, theirs->version);

    if (newest < ours->oldest_version || newest < theirs->oldest_version) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "this host speaks lane protocol %u to %u, the peer %u to %u: upgrade the older "
                    "of the two",
                    ours->oldest_version, ours->version, theirs->oldest_version, theirs->version);
        return false;
    }
    *version = newest;
    return true;
}

void
gw_refuse_encode(const GError *refusal, GByteArray *out)
{
    g_autoptr(GError) cut = g_error_copy(refusal);

    for (;;) {
        g_autoptr(json_t) object = gw_json_from_error(cut);
        g_autofree char *text = gw_json_text(object);
        size_t len = strlen(text);
        size_t message_len = strlen(cut->message);

        if (len <= GW_REFUSE_MAX_BYTES) {
            g_byte_array_append(out, (const uint8_t *)text, (guint)len);
            return;
        }
        /* Escapes make the text longer than the message, so cutting may take more than one try. */
        cut->message[message_len / 2] = '\0';
    }
}

GError *
gw_refuse_decode(const uint8_t *payload, size_t len)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) object =
        gw_json_parse(payload, len, GW_REFUSE_MAX_BYTES, "the peer's refusal", &error);

    if (object && json_is_object(object)) {
        return gw_json_to_error(object);
    }
    return g_error_new(GW_ERROR, GW_ERROR_PROTOCOL,
                       "the peer refused for a reason that is unreadable");
}

void
gw_block_encode(uint16_t index, const char *name, GByteArray *out)
{
    gw_put_be16(out, index);
    g_byte_array_append(out, (const uint8_t *)name, (guint)strlen(name));
}

bool
gw_block_decode(const uint8_t *payload, size_t len, uint16_t *index, const char **name,
                size_t *name_len, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    uint16_t number = gw_cursor_be16(&cursor);
    size_t left = gw_cursor_left(&cursor);

    if (cursor.failed || left == 0 || left > GW_BLOCK_NAME_MAX_BYTES) {
        return set_protocol_error(error, "a damaged BLOCK frame");
    }
    *index = number;
    *name = (const char *)gw_cursor_bytes(&cursor, left);
    *name_len = left;
    return true;
}

void
gw_stream_begin_encode(const GwStreamBegin *begin, GByteArray *out)
{
    g_byte_array_append(out, begin->key, GW_PAGE_TAG_KEY_BYTES);
    gw_put_be64(out, begin->limits.table_bytes);
    gw_put_be32(out, begin->limits.copies);
}

bool
gw_stream_begin_decode(const uint8_t *payload, size_t len, GwStreamBegin *out, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    const uint8_t *key = gw_cursor_bytes(&cursor, GW_PAGE_TAG_KEY_BYTES);
    uint64_t table_bytes = gw_cursor_be64(&cursor);
    uint32_t copies = gw_cursor_be32(&cursor);

    if (cursor.failed || gw_cursor_left(&cursor) != 0) {
        return set_protocol_error(error, "a damaged STREAM_BEGIN frame");
    }
    memcpy(out->key, key, GW_PAGE_TAG_KEY_BYTES);
    out->limits = (GwPageMemoryLimits){.table_bytes = table_bytes, .copies = copies};
    return true;
}

void
gw_mark_encode(const GwStreamMark *mark, GByteArray *out)
{
    gw_put_be64(out, mark->stream_bytes);
    g_byte_array_append(out, mark->digest, GW_DIGEST_BYTES);
}

bool
gw_mark_decode(const uint8_t *payload, size_t len, GwStreamMark *out, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    uint64_t stream_bytes = gw_cursor_be64(&cursor);
    const uint8_t *digest = gw_cursor_bytes(&cursor, GW_DIGEST_BYTES);

    if (cursor.failed || gw_cursor_left(&cursor) != 0) {
        return set_protocol_error(error, "a damaged CHECKPOINT or STREAM_END frame");
    }
    out->stream_bytes = stream_bytes;
    memcpy(out->digest, digest, GW_DIGEST_BYTES);
    return true;
}

void
gw_ack_encode(const GwAck *ack, GByteArray *out)
{
    gw_put_be64(out, ack->sequence);
    gw_put_be64(out, ack->received_bytes);
}

bool
gw_ack_decode(const uint8_t *payload, size_t len, GwAck *out, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    GwAck ack = {.sequence = gw_cursor_be64(&cursor)};

    ack.received_bytes = gw_cursor_be64(&cursor);
    if (cursor.failed || gw_cursor_left(&cursor) != 0) {
        return set_protocol_error(error, "a damaged ACK frame");
    }
    *out = ack;
    return true;
}

void
gw_number_encode(uint64_t number, GByteArray *out)
{
    gw_put_be64(out, number);
}

bool
gw_number_decode(const uint8_t *payload, size_t len, uint64_t *out, GError **error)
{
    GwCursor cursor = gw_cursor(payload, len);
    uint64_t number = gw_cursor_be64(&cursor);

    if (cursor.failed || gw_cursor_left(&cursor) != 0) {
        return set_protocol_error(error, "a damaged PING or PONG frame");
    }
    *out = number;
    return true;
}
