// SPDX-License-Identifier: Apache-2.0
/*
 * Splits a monitor's bytes into lines and tells what each line is. Owns its buffer: one line of at
 * most 8 MiB plus one read; given back when it is empty and large. Any thread, one at a time.
 * Fails with GW_ERROR_TOO_LARGE beyond a limit and GW_ERROR_PROTOCOL for all that is not QMP.
 */
#include "qemu/qmp_reader.h"

#include <string.h>

#define KEEP_BYTES (64u * 1024u)

struct GwQmpReader {
    char *data;
    size_t capacity;
    size_t start;   /* of the line that is being read */
    size_t scanned; /* no end of line before here */
    size_t end;
    bool greeted;
};

void
gw_qmp_message_clear(GwQmpMessage *message)
{
    json_decref(message->root);
    *message = (GwQmpMessage){.kind = GW_QMP_NOTHING};
}

GwQmpReader *
gw_qmp_reader_new(void)
{
    return g_new0(GwQmpReader, 1);
}

void
gw_qmp_reader_free(GwQmpReader *reader)
{
    if (reader) {
        g_free(reader->data);
        g_free(reader);
    }
}

/* Moves the unfinished line to the front and makes room for @len more bytes. */
static bool
make_room(GwQmpReader *reader, size_t len, GError **error)
{
    size_t held = reader->end - reader->start;
    size_t needed = held + len;

    if (reader->start > 0) {
        memmove(reader->data, reader->data + reader->start, held);
        reader->scanned -= reader->start;
        reader->start = 0;
        reader->end = held;
    }
    if (needed <= reader->capacity && (needed > KEEP_BYTES || reader->capacity <= KEEP_BYTES)) {
        return true;
    }
    size_t capacity = KEEP_BYTES;
    while (capacity < needed) {
        capacity *= 2;
    }
    char *data = g_try_realloc(reader->data, capacity);
    if (!data) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "no memory for a line of %zu bytes",
                    capacity);
        return false;
    }
    reader->data = data;
    reader->capacity = capacity;
    return true;
}

bool
gw_qmp_reader_push(GwQmpReader *reader, const void *data, size_t len, GError **error)
{
    if (len > GW_QMP_READ_MAX_BYTES || reader->end - reader->start > GW_QMP_LINE_MAX_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "a line is longer than %u bytes",
                    GW_QMP_LINE_MAX_BYTES);
        return false;
    }
    if (!make_room(reader, len, error)) {
        return false;
    }
    if (len > 0) {
        memcpy(reader->data + reader->end, data, len);
        reader->end += len;
    }
    return true;
}

static bool
breach(GError **error, const char *what)
{
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "QEMU broke the monitor's protocol: %s", what);
    return false;
}

static bool
has_name(const json_t *list, const char *name)
{
    size_t i;
    json_t *item;

    json_array_foreach(list, i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), name) == 0) {
            return true;
        }
    }
    return false;
}

static bool
read_greeting(GwQmpReader *reader, GwQmpMessage *message, GError **error)
{
    const json_t *greeting = json_object_get(message->root, "QMP");
    const json_t *qemu = json_object_get(json_object_get(greeting, "version"), "qemu");
    int64_t major = 0;
    int64_t minor = 0;

    if (!gw_json_need_int(qemu, "major", 0, 1000, &major, error) ||
        !gw_json_need_int(qemu, "minor", 0, 99, &minor, error)) {
        g_prefix_error(error, "QEMU's greeting has no version: ");
        return false;
    }
    reader->greeted = true;
    message->kind = GW_QMP_GREETING;
    message->version = (unsigned)(100 * major + minor);
    message->offers_oob = has_name(json_object_get(greeting, "capabilities"), "oob");
    return true;
}

static bool
read_event(GwQmpMessage *message, GError **error)
{
    message->kind = GW_QMP_EVENT;
    message->text = json_string_value(json_object_get(message->root, "event"));
    message->body = json_object_get(message->root, "data");
    if (!message->text || (message->body && !json_is_object(message->body))) {
        return breach(error, "a malformed event");
    }
    return true;
}

static bool
read_answer(GwQmpMessage *message, GError **error)
{
    const json_t *refusal = json_object_get(message->root, "error");

    if (!gw_json_need_int(message->root, "id", 0, G_MAXINT64, &message->id, error)) {
        g_prefix_error(error, "QEMU answered without the command's id: ");
        return false;
    }
    if (refusal) {
        message->kind = GW_QMP_REFUSAL;
        message->text = gw_json_str(refusal, "desc", NULL);
        return message->text ? true : breach(error, "an error without a description");
    }
    message->kind = GW_QMP_RESULT;
    message->body = json_object_get(message->root, "return");
    return message->body ? true : breach(error, "neither a result, an error nor an event");
}

static bool
classify(GwQmpReader *reader, GwQmpMessage *message, GError **error)
{
    if (!json_is_object(message->root)) {
        return breach(error, "a line is not an object");
    }
    if (json_object_get(message->root, "QMP")) {
        return read_greeting(reader, message, error);
    }
    if (!reader->greeted) {
        return breach(error, "no greeting");
    }
    if (json_object_get(message->root, "event")) {
        return read_event(message, error);
    }
    return read_answer(message, error);
}

bool
gw_qmp_reader_next(GwQmpReader *reader, GwQmpMessage *out, GError **error)
{
    size_t unseen = reader->end - reader->scanned;
    const char *line_end = unseen > 0 ? memchr(reader->data + reader->scanned, '\n', unseen) : NULL;

    if (!line_end) {
        reader->scanned = reader->end;
        *out = (GwQmpMessage){.kind = GW_QMP_NOTHING};
        return true;
    }
    const char *line = reader->data + reader->start;
    size_t len = (size_t)(line_end - line);
    reader->start += len + 1;
    reader->scanned = reader->start;

    g_auto(GwQmpMessage) message = {
        .root = gw_json_parse(line, len, GW_QMP_LINE_MAX_BYTES, "QEMU's monitor", error),
    };
    if (!message.root || !classify(reader, &message, error)) {
        return false;
    }
    *out = message;
    message.root = NULL;
    return true;
}
