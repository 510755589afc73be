// SPDX-License-Identifier: Apache-2.0
/*
 * The API's client: blocking calls over the daemon's Unix socket.
 *
 * An error of the daemon arrives as the same GwErrorCode it had there. GW_ERROR_UNREACHABLE: no
 * daemon listens, or it went away; GW_ERROR_REFUSED: the socket may not be opened; both messages
 * say what to do. GW_ERROR_PROTOCOL: something else answered. One thread per client.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

#define GW_CLIENT_DEFAULT_SOCKET     "/run/godwit/godwitd.sock"
#define GW_CLIENT_DEFAULT_TIMEOUT_MS (120 * 1000)

/* Bounds of what is accepted from the daemon. */
#define GW_CLIENT_MAX_ANSWER_BYTES ((size_t)16 * 1024 * 1024)
#define GW_CLIENT_MAX_LINE_BYTES   ((size_t)1024 * 1024)

typedef struct GwClient GwClient;

GwClient *gw_client_new(const char *socket_path) GW_MUST_USE;
void gw_client_free(GwClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwClient, gw_client_free)

/* How long one call may take; GW_CLIENT_DEFAULT_TIMEOUT_MS until set. */
void gw_client_set_timeout_ms(GwClient *client, int64_t timeout_ms);

/* @path begins with "/v1"; @body may be NULL. The answer's object, transfer full. */
json_t *gw_client_call(GwClient *client, const char *method, const char *path, const json_t *body,
                       GError **error) GW_MUST_USE;

/* "/v1/vms/" NAME SUFFIX with the name percent-encoded. Transfer full. */
char *gw_client_path(const char *before, const char *name, const char *after) GW_MUST_USE;

typedef struct GwClientStream {
    /* One line; false ends the stream. @event is borrowed. */
    bool (*event)(json_t *event, void *data);
    int wake_fd; /* -1: none */
    /* @wake_fd is readable; false ends the stream. */
    bool (*woken)(void *data);
    void *data;
} GwClientStream;

/*
 * GETs @path as NDJSON until a callback says so (true) or the daemon ends the stream (true). A
 * daemon that goes away in the middle is GW_ERROR_UNREACHABLE.
 */
bool gw_client_stream(GwClient *client, const char *path, const GwClientStream *stream,
                      GError **error) GW_MUST_USE;
