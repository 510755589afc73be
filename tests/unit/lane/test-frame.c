// SPDX-License-Identifier: Apache-2.0
/* Frames: round trips, every truncation, damaged headers, limits, versions. */
#include "base/json.h"
#include "lane/batch.h"
#include "lane/frame.h"
#include "lane/lane.h"

#include <string.h>

static const GwFrameType all_types[] = {
    GW_FRAME_HELLO,      GW_FRAME_REFUSE,         GW_FRAME_CONTROL, GW_FRAME_BLOCK, GW_FRAME_RAM,
    GW_FRAME_CHECKPOINT, GW_FRAME_STREAM_END,     GW_FRAME_ACK,     GW_FRAME_PING,  GW_FRAME_PONG,
    GW_FRAME_GOODBYE,    GW_FRAME_STREAM_BEGIN,   GW_FRAME_PROBE,   GW_FRAME_NEED,  GW_FRAME_FILL,
    GW_FRAME_BYTES_ACK,  GW_FRAME_REFERENCES_END,
};

/* ... and those that say which channel they are of. */
static const GwFrameType byte_types[] = {GW_FRAME_OPEN, GW_FRAME_BYTES, GW_FRAME_END};

static void
test_header_round_trip(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(all_types); i++) {
        GwFrameHeader in = {
            .payload_bytes = gw_frame_max_payload(all_types[i]),
            .type = all_types[i],
            .sequence =
                gw_frame_is_ordered(all_types[i]) ? G_GUINT64_CONSTANT(0x0102030405060708) : 0,
        };
        GwFrameHeader out = {0};
        uint8_t wire[GW_FRAME_HEADER_BYTES];
        g_autoptr(GError) error = NULL;

        gw_frame_encode_header(&in, wire);
        g_assert_true(gw_frame_decode_header(wire, &out, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(out.payload_bytes, ==, in.payload_bytes);
        g_assert_cmpuint(out.type, ==, in.type);
        g_assert_cmpuint(out.sequence, ==, in.sequence);
    }
}

static void
test_byte_channels(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(byte_types); i++) {
        for (uint16_t channel = 0; channel < 6; channel++) {
            GwFrameHeader in = {.type = byte_types[i], .channel = channel, .sequence = 7};
            GwFrameHeader out = {0};
            uint8_t wire[GW_FRAME_HEADER_BYTES];
            bool known = channel >= GW_CHANNEL_FIRST_BYTES && channel < GW_CHANNEL_N;
            g_autoptr(GError) error = NULL;

            gw_frame_encode_header(&in, wire);
            g_assert_true(gw_frame_decode_header(wire, &out, &error) == known);
            g_assert_cmpuint(out.channel, ==, known ? channel : 0);
        }
        g_assert_true(gw_frame_is_ordered(byte_types[i]) && gw_frame_is_urgent(byte_types[i]));
        g_assert_false(gw_frame_is_stream(byte_types[i]));
    }
}

/* The byte table of frame.h, so that a change of the format cannot slip in. */
static void
test_header_bytes(void)
{
    static const uint8_t expected[GW_FRAME_HEADER_BYTES] = {0, 0, 1, 2, 5, 0, 0, 1,
                                                            0, 0, 0, 0, 0, 0, 0, 9};
    GwFrameHeader header = {.payload_bytes = 0x102, .type = GW_FRAME_RAM, .sequence = 9};
    uint8_t wire[GW_FRAME_HEADER_BYTES];

    gw_frame_encode_header(&header, wire);
    g_assert_cmpmem(wire, sizeof(wire), expected, sizeof(expected));
}

static void
expect_bad_header(const uint8_t *wire, const char *words)
{
    GwFrameHeader out = {.payload_bytes = 77};
    g_autoptr(GError) error = NULL;

    g_assert_false(gw_frame_decode_header(wire, &out, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(error->message, words));
    g_assert_cmpuint(out.payload_bytes, ==, 77);
}

static bool
is_known(unsigned type)
{
    for (size_t i = 0; i < G_N_ELEMENTS(all_types); i++) {
        if (all_types[i] == type) {
            return true;
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(byte_types); i++) {
        if (byte_types[i] == type) {
            return true;
        }
    }
    return false;
}

static void
test_header_damage(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(all_types); i++) {
        bool ordered = gw_frame_is_ordered(all_types[i]);
        GwFrameHeader header = {.type = all_types[i], .sequence = ordered};
        uint8_t wire[GW_FRAME_HEADER_BYTES];

        header.payload_bytes = gw_frame_max_payload(all_types[i]) + 1;
        gw_frame_encode_header(&header, wire);
        expect_bad_header(wire, "at most");
        memset(wire, 0xff, 4);
        expect_bad_header(wire, "at most");

        header.payload_bytes = 0;
        gw_frame_encode_header(&header, wire);
        wire[5] = 1;
        expect_bad_header(wire, "damaged header");
        wire[5] = 0;
        wire[7] ^= 1;
        expect_bad_header(wire, "damaged header");
        wire[7] ^= 1;
        wire[15] ^= 1;
        expect_bad_header(wire, "damaged header");
        wire[15] ^= 1;
        for (unsigned type = 0; type < 256; type++) {
            if (!is_known(type)) {
                wire[4] = (uint8_t)type;
                expect_bad_header(wire, "unknown type");
            }
        }
    }
}

static void
test_limits(void)
{
    g_assert_cmpuint(gw_frame_max_payload(GW_FRAME_CONTROL), ==, GW_LANE_MAX_MESSAGE_BYTES);
    g_assert_cmpuint(gw_frame_max_payload(GW_FRAME_RAM), ==, GW_BATCH_MAX_BYTES);
    for (size_t i = 0; i < G_N_ELEMENTS(all_types); i++) {
        g_assert_cmpuint(gw_frame_max_payload(all_types[i]), <=, 1024 * 1024);
    }
    g_assert_cmpuint(gw_frame_max_payload((GwFrameType)200), ==, 0);
    g_assert_cmpstr(gw_frame_type_name((GwFrameType)0), ==, "unknown");
    g_assert_cmpstr(gw_frame_type_name(GW_FRAME_STREAM_END), ==, "STREAM_END");
}

static void
test_hello(void)
{
    GwHello in = {.version = 3, .oldest_version = 2, .flags = 0xa0b0c0d0};
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    GwHello out;

    memset(in.session_id, 0x5a, sizeof(in.session_id));
    gw_hello_encode(&in, bytes);
    g_assert_cmpuint(bytes->len, ==, GW_HELLO_BYTES);
    g_assert_true(gw_hello_decode(bytes->data, bytes->len, &out, &error));
    g_assert_cmpuint(out.version, ==, 3);
    g_assert_cmpuint(out.oldest_version, ==, 2);
    g_assert_cmpuint(out.flags, ==, 0xa0b0c0d0);
    g_assert_cmpmem(out.session_id, 16, in.session_id, 16);
    for (guint len = 0; len < bytes->len; len++) {
        g_autoptr(GError) cut = NULL;

        g_assert_false(gw_hello_decode(bytes->data, len, &out, &cut));
        g_assert_error(cut, GW_ERROR, GW_ERROR_PROTOCOL);
    }
    g_byte_array_append(bytes, (const uint8_t *)"later", 5);
    g_assert_true(gw_hello_decode(bytes->data, bytes->len, &out, &error));
    bytes->data[0] ^= 1;
    g_assert_false(gw_hello_decode(bytes->data, bytes->len, &out, NULL));
    bytes->data[0] ^= 1;
    bytes->data[11] = 9; /* oldest above newest */
    g_assert_false(gw_hello_decode(bytes->data, bytes->len, &out, NULL));
}

static void
test_versions(void)
{
    static const struct {
        uint16_t ours, our_oldest, theirs, their_oldest, agreed;
    } cases[] = {
        {1, 1, 1, 1, 1}, {3, 1, 2, 1, 2}, {2, 2, 5, 2, 2}, {2, 1, 5, 3, 0}, {5, 4, 3, 1, 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        GwHello ours = {.version = cases[i].ours, .oldest_version = cases[i].our_oldest};
        GwHello theirs = {.version = cases[i].theirs, .oldest_version = cases[i].their_oldest};
        g_autoptr(GError) error = NULL;
        uint16_t version = 0;

        g_assert_cmpint(gw_hello_agree(&ours, &theirs, &version, &error), ==, cases[i].agreed != 0);
        g_assert_cmpuint(version, ==, cases[i].agreed);
        if (cases[i].agreed == 0) {
            g_assert_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED);
            g_assert_nonnull(strstr(error->message, "upgrade"));
        }
    }
}

static void
test_refuse(void)
{
    g_autoptr(GError) in = g_error_new(GW_ERROR, GW_ERROR_REFUSED, "host 'x' \xc3\xa9 is \"new\"");
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    gw_refuse_encode(in, bytes);
    g_autoptr(GError) out = gw_refuse_decode(bytes->data, bytes->len);
    g_assert_error(out, GW_ERROR, GW_ERROR_REFUSED);
    g_assert_cmpstr(out->message, ==, in->message);
    for (guint len = 0; len < bytes->len; len++) {
        g_autoptr(GError) cut = gw_refuse_decode(bytes->data, len);

        g_assert_error(cut, GW_ERROR, GW_ERROR_PROTOCOL);
    }
}

/* Escapes multiply the length, and a cut may fall into a character. */
static void
test_refuse_is_cut(void)
{
    g_autofree char *controls = g_strnfill(GW_REFUSE_MAX_BYTES, '\1');
    g_autoptr(GString) letters = g_string_new("x");
    while (letters->len < GW_REFUSE_MAX_BYTES) {
        g_string_append(letters, "\xe2\x82\xac");
    }
    const char *texts[] = {controls, letters->str};

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) in = g_error_new_literal(GW_ERROR, GW_ERROR_TIMEOUT, texts[i]);
        g_autoptr(GByteArray) bytes = g_byte_array_new();

        gw_refuse_encode(in, bytes);
        g_assert_cmpuint(bytes->len, <=, GW_REFUSE_MAX_BYTES);
        g_autoptr(GError) out = gw_refuse_decode(bytes->data, bytes->len);
        g_assert_error(out, GW_ERROR, GW_ERROR_TIMEOUT);
        g_assert_cmpuint(strlen(out->message), >, 0);
    }
}

static void
test_block(void)
{
    g_autofree char *longest = g_strnfill(GW_BLOCK_NAME_MAX_BYTES, 'n');
    const char *names[] = {"p", "pc.ram", "0000:00:02.0/vga.vram", longest};
    const char *name;
    size_t name_len;
    uint16_t index;

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();

        gw_block_encode((uint16_t)(i + 300), names[i], bytes);
        g_assert_cmpuint(bytes->len, <=, gw_frame_max_payload(GW_FRAME_BLOCK));
        g_assert_true(gw_block_decode(bytes->data, bytes->len, &index, &name, &name_len, NULL));
        g_assert_cmpuint(index, ==, i + 300);
        g_assert_cmpuint(name_len, ==, strlen(names[i]));
        g_assert_true(memcmp(name, names[i], name_len) == 0);
        for (guint len = 0; len < 3; len++) {
            g_autoptr(GError) error = NULL;

            g_assert_false(gw_block_decode(bytes->data, len, &index, &name, &name_len, &error));
            g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
        }
    }
    g_autofree char *too_long = g_strnfill(3 + GW_BLOCK_NAME_MAX_BYTES, 'n');
    g_assert_false(
        gw_block_decode((uint8_t *)too_long, strlen(too_long), &index, &name, &name_len, NULL));
}

static void
test_stream_begin(void)
{
    GwStreamBegin in = {
        .limits = {.table_bytes = G_GUINT64_CONSTANT(0x123456789abc), .copies = 0xfedcba98}};
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    GwStreamBegin out;

    memset(in.key, 0x5a, sizeof(in.key));
    gw_stream_begin_encode(&in, bytes);
    g_assert_cmpuint(bytes->len, ==, gw_frame_max_payload(GW_FRAME_STREAM_BEGIN));
    g_assert_true(gw_stream_begin_decode(bytes->data, bytes->len, &out, NULL));
    g_assert_cmpmem(out.key, sizeof(out.key), in.key, sizeof(in.key));
    g_assert_cmpuint(out.limits.table_bytes, ==, in.limits.table_bytes);
    g_assert_cmpuint(out.limits.copies, ==, in.limits.copies);
    for (guint len = 0; len < bytes->len; len++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(gw_stream_begin_decode(bytes->data, len, &out, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
    gw_put_u8(bytes, 0);
    g_assert_false(gw_stream_begin_decode(bytes->data, bytes->len, &out, NULL));
}

static void
test_marks_and_numbers(void)
{
    GwStreamMark in = {.stream_bytes = G_GUINT64_CONSTANT(0xfedcba9876543210)};
    GwStreamMark out;
    g_autoptr(GByteArray) mark = g_byte_array_new();
    g_autoptr(GByteArray) number = g_byte_array_new();
    uint64_t value;

    memset(in.digest, 0xa5, sizeof(in.digest));
    gw_mark_encode(&in, mark);
    gw_number_encode(in.stream_bytes, number);
    g_assert_true(gw_mark_decode(mark->data, mark->len, &out, NULL));
    g_assert_cmpuint(out.stream_bytes, ==, in.stream_bytes);
    g_assert_cmpmem(out.digest, 16, in.digest, 16);
    g_assert_true(gw_number_decode(number->data, number->len, &value, NULL));
    g_assert_cmpuint(value, ==, in.stream_bytes);
    for (guint len = 0; len < mark->len; len++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(gw_mark_decode(mark->data, len, &out, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
        g_assert_cmpint(gw_number_decode(mark->data, len, &value, NULL), ==, len == 8);
    }
    gw_number_encode(0, mark);
    g_assert_false(gw_mark_decode(mark->data, mark->len, &out, NULL));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/frame/byte-channels", test_byte_channels);
    g_test_add_func("/frame/header/round-trip", test_header_round_trip);
    g_test_add_func("/frame/header/bytes", test_header_bytes);
    g_test_add_func("/frame/header/damage", test_header_damage);
    g_test_add_func("/frame/limits", test_limits);
    g_test_add_func("/frame/hello", test_hello);
    g_test_add_func("/frame/versions", test_versions);
    g_test_add_func("/frame/refuse", test_refuse);
    g_test_add_func("/frame/refuse-is-cut", test_refuse_is_cut);
    g_test_add_func("/frame/block", test_block);
    g_test_add_func("/frame/stream-begin", test_stream_begin);
    g_test_add_func("/frame/marks-and-numbers", test_marks_and_numbers);
    return g_test_run();
}
