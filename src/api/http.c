// SPDX-License-Identifier: Apache-2.0
/*
 * libmicrohttpd under GLib's main loop.
 *
 * The server library runs in its "external epoll" mode: its epoll descriptor and its own idea of
 * the next deadline (MHD_get_timeout(), which must be asked each time because the descriptor is
 * edge-triggered inside) feed one GSource, and MHD_run() does the work in its dispatch.
 *
 * A request is held by the library until its connection is done with it (request_completed()) and
 * by the handler from its call until the answer. While only the handler holds it the connection is
 * suspended; the answer resumes it and the library calls request_received() again to fetch it.
 * While suspended a client's disconnect goes unseen, so each backend bounds its own time.
 *
 * Limits: GW_HTTP_MAX_BODY_BYTES of body, 32 KiB per connection for the header (the library's
 * pool), GW_HTTP_MAX_CONNECTIONS (more wait in the socket's queue), GW_HTTP_IDLE_SECONDS without
 * progress. Beyond: an HTTP error or the end of the connection. Owns the socket and its file.
 * Main context only.
 */
#include "api/http.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>

#define CONNECTION_MEMORY_BYTES ((size_t)32 * 1024)

/* Runs of the library that bring a last answer out before the socket closes. */
#define FLUSH_RUNS 3

typedef struct HttpSource {
    GSource base;
    GwHttp *http;
    gpointer epoll_tag;
} HttpSource;

struct GwHttp {
    struct MHD_Daemon *daemon;
    HttpSource *source;
    char *socket_path;
    const GwRoute **routes; /* NULL-terminated list of tables */
    void *context;
    GQueue requests; /* of GwRequest: those the library holds */
    bool kicked;     /* a connection was resumed or closed: run before the next poll */
    bool closing;    /* no handler may be called any more */
};

struct GwRequest {
    unsigned refs;
    GwHttp *http;                      /* NULL once the library has done with it */
    struct MHD_Connection *connection; /* likewise */
    GList link;                        /* in http->requests */
    const GwRoute *route;
    char *method;
    char *path;
    char *arg;
    char *subject;
    GByteArray *body;
    json_t *body_json;
    struct ucred peer;
    bool dispatched; /* the handler was called */
    bool suspended;
    struct MHD_Response *response; /* NULL until answered, and after it was handed over */
    unsigned status;
    GwRequestGoneFn gone;
    void *gone_data;
};

unsigned
gw_http_status(const GError *error)
{
    static const unsigned statuses[GW_ERROR_N_CODES] = {
        [GW_ERROR_FAILED] = MHD_HTTP_INTERNAL_SERVER_ERROR,
        [GW_ERROR_INVALID] = MHD_HTTP_BAD_REQUEST,
        [GW_ERROR_NOT_FOUND] = MHD_HTTP_NOT_FOUND,
        [GW_ERROR_EXISTS] = MHD_HTTP_CONFLICT,
        [GW_ERROR_STATE] = MHD_HTTP_CONFLICT,
        [GW_ERROR_UNREACHABLE] = MHD_HTTP_SERVICE_UNAVAILABLE,
        [GW_ERROR_REFUSED] = MHD_HTTP_FORBIDDEN,
        [GW_ERROR_TIMEOUT] = MHD_HTTP_GATEWAY_TIMEOUT,
        [GW_ERROR_CANCELLED] = MHD_HTTP_CONFLICT,
        [GW_ERROR_CHECKS] = MHD_HTTP_PRECONDITION_FAILED,
        [GW_ERROR_ROLLED_BACK] = MHD_HTTP_INTERNAL_SERVER_ERROR,
        [GW_ERROR_GUEST_LOST] = MHD_HTTP_INTERNAL_SERVER_ERROR,
        [GW_ERROR_PROTOCOL] = MHD_HTTP_BAD_GATEWAY,
        [GW_ERROR_TOO_LARGE] = MHD_HTTP_CONTENT_TOO_LARGE,
        [GW_ERROR_UNSUPPORTED] = MHD_HTTP_NOT_IMPLEMENTED,
        [GW_ERROR_IO] = MHD_HTTP_INTERNAL_SERVER_ERROR,
    };
    bool known = error->domain == GW_ERROR && error->code >= 0 && error->code < GW_ERROR_N_CODES;

    return known ? statuses[error->code] : MHD_HTTP_INTERNAL_SERVER_ERROR;
}

/* --- routes ----------------------------------------------------------------------------------- */

/* Whether @path is of the route's form; the segment at {name} goes to @arg. */
static bool
route_matches(const GwRoute *route, const char *path, char **arg)
{
    const char *open = strchr(route->path, '{');

    if (!open) {
        return strcmp(route->path, path) == 0;
    }
    size_t before = (size_t)(open - route->path);
    const char *after = strchr(open, '}') + 1;
    if (strncmp(route->path, path, before) != 0) {
        return false;
    }
    size_t len = strcspn(path + before, "/");
    if (len == 0 || strcmp(path + before + len, after) != 0) {
        return false;
    }
    g_free(*arg);
    *arg = g_strndup(path + before, len);
    return true;
}

static const GwRoute *
find_route(GwRequest *request, GError **error)
{
    bool path_known = false;

    for (const GwRoute **table = request->http->routes; *table; table++) {
        for (const GwRoute *route = *table; route->method; route++) {
            if (route_matches(route, request->path, &request->arg)) {
                path_known = true;
                if (strcmp(route->method, request->method) == 0) {
                    return route;
                }
            }
        }
    }
    g_set_error(error, GW_ERROR, path_known ? GW_ERROR_UNSUPPORTED : GW_ERROR_NOT_FOUND,
                "no route %.16s %.200s: GET /v1 lists them", request->method, request->path);
    return NULL;
}

/* --- the request's life ----------------------------------------------------------------------- */

static void
request_unref(GwRequest *request)
{
    if (--request->refs > 0) {
        return;
    }
    g_clear_pointer(&request->response, MHD_destroy_response);
    g_clear_pointer(&request->body, g_byte_array_unref);
    g_clear_pointer(&request->body_json, json_decref);
    g_free(request->method);
    g_free(request->path);
    g_free(request->arg);
    g_free(request->subject);
    g_free(request);
}

static GwRequest *
request_new(GwHttp *http, struct MHD_Connection *connection, const char *method, const char *path)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    GwRequest *request = g_new0(GwRequest, 1);
    socklen_t len = sizeof request->peer;

    request->refs = 1;
    request->http = http;
    request->connection = connection;
    request->method = g_strdup(method);
    request->path = g_utf8_make_valid(path, -1);
    request->body = g_byte_array_new();
    request->peer.uid = (uid_t)-1;
    if (info && getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &request->peer, &len) < 0) {
        gw_debug(NULL, "api: the caller's uid is unknown: %s", g_strerror(errno));
    }
    request->link.data = request;
    g_queue_push_tail_link(&http->requests, &request->link);
    return request;
}

static void
request_completed(void *data, struct MHD_Connection *connection, void **state,
                  enum MHD_RequestTerminationCode code)
{
    GwRequest *request = *state;

    if (!request) {
        return;
    }
    *state = NULL;
    g_queue_unlink(&request->http->requests, &request->link);
    request->http = NULL;
    request->connection = NULL;
    if (request->gone) {
        request->gone(request->gone_data);
    }
    request_unref(request);
}

const char *
gw_request_arg(const GwRequest *request)
{
    return request->arg ? request->arg : "";
}

bool
gw_request_query_int(GwRequest *request, const char *key, int64_t max, int64_t fallback,
                     int64_t *out, GError **error)
{
    const char *text = MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, key);
    guint64 value = (guint64)fallback;

    if (text && !g_ascii_string_to_unsigned(text, 10, 0, (guint64)max, &value, NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%s' must be a whole number from 0 to %" G_GINT64_FORMAT, key, max);
        return false;
    }
    *out = (int64_t)value;
    return true;
}

const json_t *
gw_request_body(GwRequest *request, const char *const *members, GError **error)
{
    g_autoptr(json_t) body = NULL;
    const char *key;
    json_t *value;

    if (request->body->len == 0) {
        body = json_object();
    } else {
        body = gw_json_parse(request->body->data, request->body->len, GW_HTTP_MAX_BODY_BYTES,
                             "request body", error);
        if (!body) {
            return NULL;
        }
    }
    if (!json_is_object(body)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "request body: a JSON object is needed");
        return NULL;
    }
    json_object_foreach(body, key, value)
    {
        if (!g_strv_contains(members, key)) {
            g_autofree char *allowed = g_strjoinv(", ", (char **)members);
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                        "request body: unknown member '%.64s'; allowed: %s", key,
                        allowed[0] ? allowed : "none");
            return NULL;
        }
    }
    g_clear_pointer(&request->body_json, json_decref);
    request->body_json = g_steal_pointer(&body);
    return request->body_json;
}

void
gw_request_set_subject(GwRequest *request, const char *subject)
{
    g_free(request->subject);
    request->subject = g_strdup(subject);
}

/* --- answers ---------------------------------------------------------------------------------- */

static void
log_change(const GwRequest *request, const GError *error)
{
    struct passwd entry;
    struct passwd *found = NULL;
    char buffer[4096];
    const char *user = "?";

    if (!request->route || !request->route->changes) {
        return;
    }
    if (getpwuid_r(request->peer.uid, &entry, buffer, sizeof buffer, &found) == 0 && found) {
        user = found->pw_name;
    }
    gw_info(NULL, "api: %s (uid %d, pid %d) %s %s%s%s: %s%s%s", user, (int)request->peer.uid,
            (int)request->peer.pid, request->method, request->path, request->subject ? " " : "",
            request->subject ? request->subject : "", error ? "failed: " : "done",
            error ? error->message : "", request->connection ? "" : " (the caller is gone)");
}

static struct MHD_Response *
json_response(const json_t *value)
{
    char *text = gw_json_text(value);
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(strlen(text), text, g_free);

    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    return response;
}

static struct MHD_Response *
error_response(const GError *error)
{
    g_autoptr(json_t) object = json_object();

    json_object_set_new(object, "error", gw_json_from_error(error));
    return json_response(object);
}

/* Gives the response to the library if it is waiting for one. */
static void
put_response(GwRequest *request, unsigned status, struct MHD_Response *response)
{
    if (!request->connection) {
        MHD_destroy_response(response);
        return;
    }
    request->response = response;
    request->status = status;
    gw_request_resume(request);
}

void
gw_request_answer(GwRequest *request, json_t *value, const GError *error)
{
    g_autoptr(json_t) object = value ? value : json_object();

    log_change(request, error);
    put_response(request, error ? gw_http_status(error) : MHD_HTTP_OK,
                 error ? error_response(error) : json_response(object));
    request_unref(request);
}

void
gw_request_answer_error(GwRequest *request, GError *error)
{
    gw_request_answer(request, NULL, error);
    g_error_free(error);
}

void
gw_request_answer_bad_input(GwRequest *request, GError *error)
{
    if (error->code == GW_ERROR_PROTOCOL) {
        error->code = GW_ERROR_INVALID;
    }
    gw_request_answer_error(request, error);
}

void
gw_request_answer_stream(GwRequest *request, struct MHD_Response *response, GwRequestGoneFn gone,
                         void *data)
{
    /* Nobody there any more: the response's own clean-up tells its producer. */
    if (request->connection) {
        request->gone = gone;
        request->gone_data = data;
    }
    put_response(request, MHD_HTTP_OK, response);
    request_unref(request);
}

void
gw_request_suspend(GwRequest *request)
{
    request->suspended = true;
    MHD_suspend_connection(request->connection);
}

void
gw_request_resume(GwRequest *request)
{
    if (request->suspended && request->connection) {
        request->suspended = false;
        MHD_resume_connection(request->connection);
        request->http->kicked = true;
    }
}

/* --- what the library calls ------------------------------------------------------------------- */

static enum MHD_Result
queue_response(GwRequest *request)
{
    struct MHD_Response *response = g_steal_pointer(&request->response);
    enum MHD_Result result = MHD_queue_response(request->connection, request->status, response);

    MHD_destroy_response(response);
    return result;
}

/* A refusal before any handler: the request is known to the library alone. */
static enum MHD_Result
refuse(GwRequest *request, const GError *error)
{
    request->response = error_response(error);
    request->status = gw_http_status(error);
    return queue_response(request);
}

static enum MHD_Result
request_begins(GwRequest *request)
{
    const char *text = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND,
                                                   MHD_HTTP_HEADER_CONTENT_LENGTH);
    guint64 length = 0;

    if (!text || (g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &length, NULL) &&
                  length <= GW_HTTP_MAX_BODY_BYTES)) {
        return MHD_YES;
    }
    g_autoptr(GError) error =
        g_error_new(GW_ERROR, GW_ERROR_TOO_LARGE, "request body: at most %u bytes are accepted",
                    GW_HTTP_MAX_BODY_BYTES);
    return refuse(request, error);
}

static enum MHD_Result
dispatch_request(GwHttp *http, GwRequest *request)
{
    g_autoptr(GError) error = NULL;

    request->dispatched = true;
    if (http->closing) {
        g_set_error(&error, GW_ERROR, GW_ERROR_UNREACHABLE, "godwitd is shutting down");
        return refuse(request, error);
    }
    request->route = find_route(request, &error);
    if (!request->route) {
        return refuse(request, error);
    }
    request->refs++;
    request->route->handler(request, http->context);
    if (!request->response) {
        gw_request_suspend(request);
        return MHD_YES;
    }
    return queue_response(request);
}

static enum MHD_Result
request_received(void *data, struct MHD_Connection *connection, const char *url, const char *method,
                 const char *version, const char *upload, size_t *upload_len, void **state)
{
    GwHttp *http = data;
    GwRequest *request = *state;

    if (!request) {
        *state = request = request_new(http, connection, method, url);
        return request_begins(request);
    }
    if (*upload_len > 0) {
        /* Only a chunked body gets here too large: without an announced length, no answer. */
        if (request->body->len + *upload_len > GW_HTTP_MAX_BODY_BYTES) {
            return MHD_NO;
        }
        g_byte_array_append(request->body, (const guint8 *)upload, (guint)*upload_len);
        *upload_len = 0;
        return MHD_YES;
    }
    return request->dispatched ? queue_response(request) : dispatch_request(http, request);
}

/*
 * At its limit of connections the library looks away from the listening socket, and looks back only
 * at the beginning of a run: one that ended with a closed connection needs another.
 */
static void
connection_changed(void *data, struct MHD_Connection *connection, void **state,
                   enum MHD_ConnectionNotificationCode code)
{
    GwHttp *http = data;

    http->kicked = http->kicked || code == MHD_CONNECTION_NOTIFY_CLOSED;
}

static void
log_library(void *data, const char *format, va_list args)
{
    g_autofree char *message = g_strdup_vprintf(format, args);

    gw_debug(NULL, "api: %s", g_strchomp(message));
}

/* --- the main loop ---------------------------------------------------------------------------- */

static gboolean
http_prepare(GSource *base, int *timeout_ms)
{
    GwHttp *http = ((HttpSource *)base)->http;
    MHD_UNSIGNED_LONG_LONG wait_ms;

    *timeout_ms = -1;
    if (http->kicked) {
        *timeout_ms = 0;
    } else if (MHD_get_timeout(http->daemon, &wait_ms) == MHD_YES) {
        *timeout_ms = (int)MIN(wait_ms, (MHD_UNSIGNED_LONG_LONG)G_MAXINT);
    }
    return *timeout_ms == 0;
}

static gboolean
http_check(GSource *base)
{
    HttpSource *source = (HttpSource *)base;
    int timeout_ms;

    return g_source_query_unix_fd(base, source->epoll_tag) != 0 || http_prepare(base, &timeout_ms);
}

static gboolean
http_dispatch(GSource *base, GSourceFunc callback, void *data)
{
    GwHttp *http = ((HttpSource *)base)->http;

    http->kicked = false;
    MHD_run(http->daemon);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs http_source_functions = {
    .prepare = http_prepare,
    .check = http_check,
    .dispatch = http_dispatch,
};

static void
attach_to_main_loop(GwHttp *http)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    GSource *source = g_source_new(&http_source_functions, sizeof(HttpSource));

    http->source = (HttpSource *)source;
    http->source->http = http;
    http->source->epoll_tag = g_source_add_unix_fd(source, info->epoll_fd, G_IO_IN);
    g_source_set_static_name(source, "http");
    g_source_attach(source, NULL);
}

/* --- life of the server ----------------------------------------------------------------------- */

static bool
give_to_group(const char *path, const char *group, GError **error)
{
    struct group entry;
    struct group *found = NULL;
    char buffer[16384];

    if (!group || !group[0]) {
        return true;
    }
    if (getgrnam_r(group, &entry, buffer, sizeof buffer, &found) != 0 || !found) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND,
                    "no group '%s' for the socket '%s': make it (groupadd --system %s) or choose "
                    "another in the configuration",
                    group, path, group);
        return false;
    }
    if (chown(path, (uid_t)-1, found->gr_gid) < 0) {
        gw_set_error_errno(error, errno, "cannot give '%s' to group '%s'", path, group);
        return false;
    }
    return true;
}

static bool
start_library(GwHttp *http, int listen_fd, GError **error)
{
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        request_received, http, MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL,
        MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_COMPLETED, request_completed, NULL,
        MHD_OPTION_NOTIFY_CONNECTION, connection_changed, http, MHD_OPTION_CONNECTION_LIMIT,
        GW_HTTP_MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, GW_HTTP_IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY_BYTES, MHD_OPTION_END);
    if (!http->daemon) {
        gw_set_error_errno(error, errno, "cannot start the HTTP server on '%s'", http->socket_path);
    }
    return http->daemon != NULL;
}

static const GwRoute **
copy_list(const GwRoute *const *routes)
{
    size_t count = 0;

    while (routes[count]) {
        count++;
    }
    return g_memdup2(routes, (count + 1) * sizeof routes[0]);
}

GwHttp *
gw_http_new(const char *socket_path, const char *group, const GwRoute *const *routes, void *context,
            GError **error)
{
    g_auto(GwFd) fd = gw_unix_listen(socket_path, 0660, error);

    if (fd < 0) {
        return NULL;
    }
    GwHttp *http = g_new0(GwHttp, 1);
    http->socket_path = g_strdup(socket_path);
    http->routes = copy_list(routes);
    http->context = context;
    if (!give_to_group(socket_path, group, error) || !gw_fd_set_nonblocking(fd, true, error) ||
        !start_library(http, fd, error)) {
        gw_http_free(http);
        return NULL;
    }
    fd = GW_FD_NONE; /* the library closes it */
    attach_to_main_loop(http);
    return http;
}

/* The library must not be stopped with suspended connections. */
static void
answer_waiting(GwHttp *http)
{
    g_autoptr(GError) error =
        g_error_new_literal(GW_ERROR, GW_ERROR_UNREACHABLE,
                            "godwitd is shutting down: whether this was done is not known");

    for (GList *link = http->requests.head; link; link = link->next) {
        GwRequest *request = link->data;
        if (request->suspended && !request->response && !request->gone) {
            request->response = error_response(error);
            request->status = gw_http_status(error);
        }
        gw_request_resume(request);
    }
}

void
gw_http_free(GwHttp *http)
{
    if (!http) {
        return;
    }
    http->closing = true;
    if (http->daemon) {
        answer_waiting(http);
        for (int run = 0; run < FLUSH_RUNS; run++) {
            MHD_run(http->daemon);
        }
        /* A stream may have suspended itself again while it was flushed. */
        answer_waiting(http);
        MHD_stop_daemon(http->daemon);
    }
    if (http->source) {
        g_source_destroy(&http->source->base);
        g_source_unref(&http->source->base);
    }
    unlink(http->socket_path);
    g_free(http->socket_path);
    g_free(http->routes);
    g_free(http);
}
