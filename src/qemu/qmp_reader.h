// SPDX-License-Identifier: Apache-2.0
/*
 * From the bytes of a monitor socket to QMP messages. Pure; no I/O; any thread.
 *
 * QMP (QEMU's docs/interop/qmp-spec): one JSON object per line, CR LF at its end. The first is the
 * greeting {"QMP": …}; then come {"return": …, "id": …}, {"error": {"class", "desc"}, "id": …}
 * and {"event": NAME, "data": …}. Every command of ours carries an id, so an answer without one is
 * a breach of the protocol, as is anything else that is not in this list. Whether a second greeting
 * may be is the client's to say.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

#define GW_QMP_LINE_MAX_BYTES (8u * 1024u * 1024u)
#define GW_QMP_READ_MAX_BYTES (32u * 1024u)

typedef enum GwQmpKind {
    GW_QMP_NOTHING, /* no whole line yet */
    GW_QMP_GREETING,
    GW_QMP_RESULT,
    GW_QMP_REFUSAL,
    GW_QMP_EVENT,
} GwQmpKind;

typedef struct GwQmpMessage {
    GwQmpKind kind;
    json_t *root;     /* owned; what follows is borrowed from it */
    int64_t id;       /* RESULT, REFUSAL */
    json_t *body;     /* RESULT: the value; EVENT: its data, may be NULL */
    const char *text; /* EVENT: its name; REFUSAL: QEMU's description */
    unsigned version; /* GREETING: 100 * major + minor */
    bool offers_oob;  /* GREETING: commands may be run out of band */
} GwQmpMessage;

void gw_qmp_message_clear(GwQmpMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(GwQmpMessage, gw_qmp_message_clear)

typedef struct GwQmpReader GwQmpReader;

GwQmpReader *gw_qmp_reader_new(void) GW_MUST_USE;
void gw_qmp_reader_free(GwQmpReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwQmpReader, gw_qmp_reader_free)

/*
 * Adds up to GW_QMP_READ_MAX_BYTES received bytes; take all messages with gw_qmp_reader_next()
 * before the next push. GW_ERROR_TOO_LARGE when the line grows beyond its limit.
 */
bool gw_qmp_reader_push(GwQmpReader *reader, const void *data, size_t len,
                        GError **error) GW_MUST_USE;

/* The next message, or GW_QMP_NOTHING. After an error the stream is of no more use. */
bool gw_qmp_reader_next(GwQmpReader *reader, GwQmpMessage *out, GError **error) GW_MUST_USE;
