// SPDX-License-Identifier: Apache-2.0
/*
 * HTTP/1.1 on a Unix socket for the main loop: routes, requests, answers now or later.
 *
 * A route's handler gets a request whose body has arrived whole, and answers it exactly once, at
 * once or from a later callback; until then the connection is suspended. The request stays valid
 * until it is answered, also when the client or the server has gone meanwhile: the answer then
 * goes nowhere. Everything here belongs to the main context.
 *
 * An error is answered as {"error": {"code", "message"}} with the status of gw_http_status().
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <microhttpd.h>

#define GW_HTTP_MAX_BODY_BYTES  (128u * 1024u)
#define GW_HTTP_MAX_CONNECTIONS 64u
#define GW_HTTP_IDLE_SECONDS    30u

typedef struct GwHttp GwHttp;
typedef struct GwRequest GwRequest;

typedef void (*GwRouteFn)(GwRequest *request, void *context);

typedef struct GwRoute {
    const char *method;
    const char *path; /* one segment may be a {name}: gw_request_arg() */
    GwRouteFn handler;
    bool changes; /* something: leaves a line in the log */
    const char *help;
} GwRoute;

/*
 * Serves @routes (tables that end with an empty row; the NULL-terminated list of them is copied,
 * the tables are borrowed) on a socket of mode 0660 that belongs to @group (NULL: unchanged).
 */
GwHttp *gw_http_new(const char *socket_path, const char *group, const GwRoute *const *routes,
                    void *context, GError **error) GW_MUST_USE;

/* Answers what waits with GW_ERROR_UNREACHABLE, closes, removes the socket. Not from a handler. */
void gw_http_free(GwHttp *http);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwHttp, gw_http_free)

unsigned gw_http_status(const GError *error);

/* --- the request ------------------------------------------------------------------------------ */

/* The path's {name}; "" if the route has none. Borrowed. */
const char *gw_request_arg(const GwRequest *request);

/* A whole number after '?'; @fallback if it is absent. Only before the handler returns. */
bool gw_request_query_int(GwRequest *request, const char *key, int64_t max, int64_t fallback,
                          int64_t *out, GError **error) GW_MUST_USE;

/*
 * The body, a JSON object (an empty body is an empty object) with no member but @members
 * (NULL-terminated). Borrowed. Errors are for gw_request_answer_bad_input().
 */
const json_t *gw_request_body(GwRequest *request, const char *const *members,
                              GError **error) GW_MUST_USE;

/* What the log line shall name beside the path, e.g. the VM's name out of the body. */
void gw_request_set_subject(GwRequest *request, const char *subject);

/* --- the answer: exactly one of these, once; they consume the handler's hold on the request --- */

/* @error (borrowed) if it is not NULL, else @value (transfer full either way; NULL: {}). */
void gw_request_answer(GwRequest *request, json_t *value, const GError *error);

/* Consumes @error. */
void gw_request_answer_error(GwRequest *request, GError *error);
/* The same for a body that does not fit: "malformed" is the caller's mistake here. */
void gw_request_answer_bad_input(GwRequest *request, GError *error);

/*
 * An answer of unknown length that is produced by and by. @response: transfer full. @gone is
 * called once when the connection does not need it any more (before the response is destroyed).
 * The request stays valid until then; the producer may suspend and resume it.
 */
typedef void (*GwRequestGoneFn)(void *data);
void gw_request_answer_stream(GwRequest *request, struct MHD_Response *response,
                              GwRequestGoneFn gone, void *data);

/* Only from within the content reader of the response. */
void gw_request_suspend(GwRequest *request);
/* Does nothing if it is not suspended. */
void gw_request_resume(GwRequest *request);
