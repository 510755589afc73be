// SPDX-License-Identifier: Apache-2.0
/*
 * How the end of a stream is recognised, behind device state and without it.
 */
#include "streams.h"

static bool
ends(const void *data, size_t len, bool before_finish)
{
    bool seen[2];

    for (uint32_t pieces = 0; pieces < 2; pieces++) {
        g_autoptr(Stream) stream = stream_new();
        g_autoptr(GwRamParser) parser = gw_ram_parser_new();
        GwRamItem item;

        put_file_header(stream);
        put_data(stream, data, len);
        for (size_t pos = 0, piece; pos < stream->bytes->len; pos += piece) {
            size_t room;
            uint8_t *space = gw_ram_parser_space(parser, &room);
            piece = pieces == 0 ? stream->bytes->len : 1;
            memcpy(space, stream->bytes->data + pos, piece);
            gw_ram_parser_fed(parser, piece);
            while (gw_ram_parser_next(parser, &item)) {
            }
        }
        if (!before_finish) {
            gw_ram_parser_finish(parser, &item);
        }
        seen[pieces] = gw_ram_parser_saw_end(parser);
    }
    g_assert_cmpint(seen[0], ==, seen[1]);
    return seen[0];
}

#define ENDS(text) ends(text, sizeof(text) - 1, false)

static void
test_end_described(void)
{
    g_assert_true(ENDS("\x04xx\x00\x06\x00\x00\x00\x02{}"));
    g_assert_true(ENDS("\x04xx\x00\x06\x00\x00\x00\x0b{\"a\": [{}]}"));
    g_assert_true(ENDS("\x04xx\x00\x06\x00\x00\x00\x0a{\"\\\"{[}\": 1}"
                       "\x00\x06\x00\x00\x00\x02{}"));
    /* Begins within what looked like a description, or right behind one. */
    g_assert_true(ENDS("\x04\x00\x06\x00\x00\x00\x99{\"a\x00\x06\x00\x00\x00\x02{}"));
    g_assert_true(ENDS("\x04\x00\x06\x00\x00\x00\x02{}\x00\x06\x00\x00\x00\x02{}"));
    g_assert_true(ENDS("\x04\x00\x06\x00\x00\x00\x06\x00\x00\x00\x02{}\x00\x06\x00\x00\x00\x02{}"));
    /* A length that has a brace's value in it. */
    g_assert_true(ENDS("\x04\x00\x06\x00\x00\x00\x7b{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                       "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                       "aaa\":1}"));
    g_assert_false(ENDS("\x04xx\x00\x06\x00\x00\x00\x03{}"));
    g_assert_false(ENDS("\x04xx\x00\x06\x00\x00\x00\x03{}}"));
    g_assert_false(ENDS("\x04xx\x00\x06\x00\x00\x00\x02{}x"));
    g_assert_false(ENDS("\x04xx\x00\x06\x00\x00\x00\x02{\""));
    g_assert_false(ENDS("\x04xx\x00\x06\x00\x00\x00\x02[]"));
    g_assert_false(ENDS("\x04xx\x01\x06\x00\x00\x00\x02{}"));
    g_assert_false(ENDS("\x04xx\x00\x06\x00\x00\x00\x06{\"\n\":}"));
    g_assert_true(ends("\x04\x00\x06\x00\x00\x00\x02{}", 9, true));
}

static void
test_end_marked(void)
{
    g_assert_true(ENDS("\x04xx\x7e\x00\x00\x00\x07\x00"));
    g_assert_false(ENDS("\x04xx\x7e\x01\x00\x00\x07\x00"));
    g_assert_false(ENDS("\x04xx\x7e\x00\x00\x00\x07\x01"));
    g_assert_false(ENDS("\x04xx\x7e\x00\x00\x00\x00"));
    g_assert_false(ENDS("\x04xx\x7e\x00\x00\x00\x07\x00x"));
    /* More may come as long as the stream was not said to be over. */
    g_assert_false(ends("\x04xx\x7e\x00\x00\x00\x07\x00", 9, true));
    /* Without a device section in between, the mark itself is read. */
    g_assert_true(ends("", 1, true));
    g_assert_false(ENDS("\x00x"));
    g_assert_true(ENDS("\x00\x06\x00\x00\x00\x02{}"));
    /* What was never fed is no end mark. */
    g_assert_false(ENDS("\x06\x00\x00\x00\x02{}"));
    g_assert_false(ENDS(""));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tail/described", test_end_described);
    g_test_add_func("/tail/marked", test_end_marked);
    return g_test_run();
}
