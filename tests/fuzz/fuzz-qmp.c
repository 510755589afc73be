// SPDX-License-Identifier: Apache-2.0
/*
 * The monitor's bytes as a hostile QEMU may choose them: any message that comes out must be whole,
 * whatever the pieces they arrive in. The first byte of the input is the size of the pieces.
 */
#include "qemu/qmp_reader.h"

#include <string.h>

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 10, \"minor\": 0}}}}\n"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(const GwQmpMessage *message)
{
    bool answer = message->kind == GW_QMP_RESULT || message->kind == GW_QMP_REFUSAL;

    g_assert_true(json_is_object(message->root));
    g_assert_true(!answer || message->id >= 0);
    g_assert_true(message->kind != GW_QMP_RESULT || message->body);
    g_assert_true(message->kind != GW_QMP_REFUSAL || message->text);
    g_assert_true(message->kind != GW_QMP_EVENT || message->text);
    g_assert_true(message->kind != GW_QMP_EVENT || !message->body || json_is_object(message->body));
}

static bool
feed(GwQmpReader *reader, const void *data, size_t len)
{
    g_autoptr(GError) error = NULL;
    bool good = gw_qmp_reader_push(reader, data, len, &error);

    while (good) {
        g_auto(GwQmpMessage) message = {.kind = GW_QMP_NOTHING};
        good = gw_qmp_reader_next(reader, &message, &error);
        if (good && message.kind == GW_QMP_NOTHING) {
            return true;
        }
        if (good) {
            check(&message);
        }
    }
    g_assert_nonnull(error);
    return false;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GwQmpReader) reader = gw_qmp_reader_new();

    if (size == 0) {
        return 0;
    }
    size_t piece = (size_t)data[0] + 1;
    bool good = data[0] % 2 == 0 || feed(reader, GREETING, strlen(GREETING));
    for (size_t at = 1; good && at < size; at += piece) {
        good = feed(reader, data + at, MIN(piece, size - at));
    }
    return 0;
}
