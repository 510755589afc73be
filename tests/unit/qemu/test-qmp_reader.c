// SPDX-License-Identifier: Apache-2.0
#include "qemu/qmp_reader.h"

#include <string.h>

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 2, \"major\": 7}, "              \
    "\"package\": \"x\"}, \"capabilities\": [\"oob\"]}}\r\n"

static void
push(GwQmpReader *reader, const char *text)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(gw_qmp_reader_push(reader, text, strlen(text), &error));
    g_assert_no_error(error);
}

static void
expect(GwQmpReader *reader, GwQmpMessage *message, GwQmpKind kind)
{
    g_autoptr(GError) error = NULL;

    gw_qmp_message_clear(message);
    bool good = gw_qmp_reader_next(reader, message, &error);
    g_assert_no_error(error);
    g_assert_true(good);
    g_assert_cmpint(message->kind, ==, kind);
}

static GwQmpReader *
greeted_reader(void)
{
    GwQmpReader *reader = gw_qmp_reader_new();
    g_auto(GwQmpMessage) message = {0};

    push(reader, GREETING);
    expect(reader, &message, GW_QMP_GREETING);
    g_assert_cmpuint(message.version, ==, 702);
    return reader;
}

static void
test_kinds(void)
{
    g_autoptr(GwQmpReader) reader = greeted_reader();
    g_auto(GwQmpMessage) message = {0};

    push(reader, "{\"return\": {\"a\": 1}, \"id\": 7}\r\n"
                 "{\"timestamp\": {}, \"event\": \"STOP\"}\n"
                 "{\"id\": 8, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n"
                 "{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n{\"ret");
    expect(reader, &message, GW_QMP_RESULT);
    g_assert_cmpint(message.id, ==, 7);
    g_assert_cmpint(gw_json_int(message.body, "a", 0), ==, 1);
    expect(reader, &message, GW_QMP_EVENT);
    g_assert_cmpstr(message.text, ==, "STOP");
    g_assert_null(message.body);
    expect(reader, &message, GW_QMP_REFUSAL);
    g_assert_cmpint(message.id, ==, 8);
    g_assert_cmpstr(message.text, ==, "no");
    expect(reader, &message, GW_QMP_EVENT);
    g_assert_true(gw_json_bool(message.body, "guest", false));
    expect(reader, &message, GW_QMP_NOTHING);
    expect(reader, &message, GW_QMP_NOTHING);
    push(reader, "urn\": [], \"id\": 9}\n");
    expect(reader, &message, GW_QMP_RESULT);
    g_assert_cmpint(message.id, ==, 9);
}

static void
test_byte_by_byte(void)
{
    g_autoptr(GwQmpReader) reader = gw_qmp_reader_new();
    const char *text = GREETING "{\"return\": {}, \"id\": 0}\n{\"event\": \"STOP\"}\n";
    unsigned seen = 0;

    for (const char *p = text; *p; p++) {
        g_auto(GwQmpMessage) message = {0};
        g_assert_true(gw_qmp_reader_push(reader, p, 1, NULL));
        g_assert_true(gw_qmp_reader_next(reader, &message, NULL));
        g_assert_cmpint(message.kind != GW_QMP_NOTHING, ==, *p == '\n');
        seen += message.kind != GW_QMP_NOTHING;
    }
    g_assert_cmpuint(seen, ==, 3);
}

static void
test_garbage(void)
{
    static const char *const LINES[] = {
        "hello\n",
        "\n",
        "[]\n",
        "3\n",
        "{}\n",
        "{\"return\": {}}\n",
        "{\"return\": {}, \"id\": \"one\"}\n",
        "{\"return\": {}, \"id\": -1}\n",
        "{\"return\": {}, \"id\": 1} {\"return\": {}, \"id\": 2}\n",
        "{\"id\": 1}\n",
        "{\"error\": {}, \"id\": 1}\n",
        "{\"error\": \"no\", \"id\": 1}\n",
        "{\"error\": {\"desc\": \"no\"}}\n",
        "{\"event\": 5}\n",
        "{\"event\": \"STOP\", \"data\": []}\n",
        "{\"return\": \"\xff\xfe\", \"id\": 1}\n",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(LINES); i++) {
        g_autoptr(GwQmpReader) reader = greeted_reader();
        g_autoptr(GError) error = NULL;
        GwQmpMessage message = {.kind = GW_QMP_EVENT};
        push(reader, LINES[i]);
        g_assert_false(gw_qmp_reader_next(reader, &message, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
        g_assert_cmpint(message.kind, ==, GW_QMP_EVENT);
    }
}

static void
test_no_greeting(void)
{
    static const char *const LINES[] = {
        "{\"return\": {}, \"id\": 1}\n",
        "{\"event\": \"STOP\"}\n",
        "{\"QMP\": {}}\n",
        "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 10}}}}\n",
        "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 99999, \"minor\": 0}}}}\n",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(LINES); i++) {
        g_autoptr(GwQmpReader) reader = gw_qmp_reader_new();
        g_autoptr(GError) error = NULL;
        GwQmpMessage message;
        push(reader, LINES[i]);
        g_assert_false(gw_qmp_reader_next(reader, &message, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    }
}

static void
test_depth(void)
{
    g_autoptr(GwQmpReader) reader = greeted_reader();
    g_autoptr(GError) error = NULL;
    GwQmpMessage message;

    push(reader, "{\"id\": 1, \"return\": ");
    for (unsigned i = 0; i < GW_JSON_MAX_DEPTH; i++) {
        push(reader, "[");
    }
    push(reader, "\n");
    g_assert_false(gw_qmp_reader_next(reader, &message, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
}

static void
test_long_lines(void)
{
    g_autoptr(GwQmpReader) reader = greeted_reader();
    g_autofree char *piece = g_strnfill(GW_QMP_READ_MAX_BYTES, 'x');
    g_auto(GwQmpMessage) message = {0};
    g_autoptr(GError) error = NULL;
    size_t pushed = 0;

    push(reader, "{\"id\": 1, \"return\": \"");
    for (; pushed < GW_QMP_LINE_MAX_BYTES - GW_QMP_READ_MAX_BYTES; pushed += strlen(piece)) {
        push(reader, piece);
        expect(reader, &message, GW_QMP_NOTHING);
    }
    push(reader, "\"}\n");
    expect(reader, &message, GW_QMP_RESULT);
    g_assert_cmpuint(json_string_length(message.body), ==, pushed);

    for (pushed = 0; gw_qmp_reader_push(reader, piece, strlen(piece), &error);) {
        pushed += strlen(piece);
        expect(reader, &message, GW_QMP_NOTHING);
        g_assert_cmpuint(pushed, <=, GW_QMP_LINE_MAX_BYTES + GW_QMP_READ_MAX_BYTES);
    }
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qmp-reader/kinds", test_kinds);
    g_test_add_func("/qmp-reader/byte-by-byte", test_byte_by_byte);
    g_test_add_func("/qmp-reader/garbage", test_garbage);
    g_test_add_func("/qmp-reader/no-greeting", test_no_greeting);
    g_test_add_func("/qmp-reader/depth", test_depth);
    g_test_add_func("/qmp-reader/long-lines", test_long_lines);
    return g_test_run();
}
