// SPDX-License-Identifier: Apache-2.0
/*
 * libcurl over a Unix socket, driven through its multi interface so that a stream can be left when
 * a descriptor (a signal) becomes readable. Owns the curl handles; a connection is kept between
 * calls. Blocks the calling thread. What arrives is bounded by GW_CLIENT_MAX_ANSWER_BYTES and
 * GW_CLIENT_MAX_LINE_BYTES; a call by its timeout; a stream only by its callbacks, as the daemon
 * sends a sign of life every few seconds (STREAM_SILENCE_MS without one ends it).
 */
#include "api/client.h"
#include "base/fd.h"
#include "base/units.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>

#define CONNECT_TIMEOUT_MS 5000
#define STREAM_SILENCE_MS  60000
#define POLL_MS            1000

struct GwClient {
    CURLM *multi;
    CURL *easy;
    char *socket_path;
    int64_t timeout_ms;
};

/* One transfer: the body so far, and for a stream what to do with its lines. */
typedef struct Transfer {
    GByteArray *body;
    size_t max_bytes;
    bool too_large;
    const GwClientStream *stream; /* NULL: a plain call */
    CURL *easy;
    GError *line_error;
    bool stopped; /* a callback said so */
    int64_t last_sign_us;
} Transfer;

GwClient *
gw_client_new(const char *socket_path)
{
    GwClient *client = g_new0(GwClient, 1);

    client->multi = curl_multi_init();
    client->easy = curl_easy_init();
    client->socket_path = g_strdup(socket_path);
    client->timeout_ms = GW_CLIENT_DEFAULT_TIMEOUT_MS;
    return client;
}

void
gw_client_free(GwClient *client)
{
    if (client) {
        curl_easy_cleanup(client->easy);
        curl_multi_cleanup(client->multi);
        g_free(client->socket_path);
        g_free(client);
    }
}

void
gw_client_set_timeout_ms(GwClient *client, int64_t timeout_ms)
{
    client->timeout_ms = timeout_ms;
}

char *
gw_client_path(const char *before, const char *name, const char *after)
{
    g_autofree char *escaped = g_uri_escape_string(name, NULL, false);

    return g_strconcat(before, escaped, after, NULL);
}

/* --- what went wrong -------------------------------------------------------------------------- */

static void
explain_permission(const GwClient *client, GError **error)
{
    struct stat st;
    const struct group *group = stat(client->socket_path, &st) == 0 ? getgrgid(st.st_gid) : NULL;

    if (group && st.st_gid != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "permission denied on '%s': it is for root and group '%s'; use sudo, or join "
                    "the group (usermod -aG %s USER) and log in again",
                    client->socket_path, group->gr_name, group->gr_name);
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "permission denied on '%s': run as root, or set 'api-group' in "
                    "/etc/godwit/godwitd.conf",
                    client->socket_path);
    }
}

static void
explain_no_connection(const GwClient *client, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_auto(GwFd) fd = gw_unix_connect(client->socket_path, &problem);

    if (fd < 0 && faccessat(AT_FDCWD, client->socket_path, W_OK, AT_EACCESS) < 0 &&
        errno == EACCES) {
        explain_permission(client, error);
    } else if (fd < 0 && problem->code == GW_ERROR_INVALID) {
        g_set_error_literal(error, GW_ERROR, GW_ERROR_INVALID, problem->message);
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE,
                    "godwitd does not answer on '%s': start it (systemctl start godwitd), or name "
                    "its socket with --socket or GODWIT_SOCKET",
                    client->socket_path);
    }
}

static void
explain_failure(const GwClient *client, const Transfer *transfer, CURLcode code, GError **error)
{
    /* The latter is what curl calls a socket path that is too long. */
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST) {
        explain_no_connection(client, error);
    } else if (code == CURLE_OPERATION_TIMEDOUT) {
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT,
                    "godwitd did not answer in time: see its log for what it waits for");
    } else if (transfer->too_large) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "godwitd's answer is larger than %zu bytes", transfer->max_bytes);
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE,
                    "the connection to godwitd on '%s' was lost (%s): see whether it still runs "
                    "(systemctl status godwitd)",
                    client->socket_path, curl_easy_strerror(code));
    }
}

/* --- receiving -------------------------------------------------------------------------------- */

/* Hands over each whole line; false if the transfer shall end. */
static bool
take_lines(Transfer *transfer)
{
    GByteArray *body = transfer->body;
    guint start = 0;

    for (;;) {
        const guint8 *begin = body->data + start;
        const guint8 *end = body->len > start ? memchr(begin, '\n', body->len - start) : NULL;
        if (!end) {
            break;
        }
        g_autoptr(json_t) event = gw_json_parse(begin, (size_t)(end - begin), transfer->max_bytes,
                                                "godwitd's event", &transfer->line_error);
        start += (guint)(end - begin) + 1;
        transfer->stopped = !event || !transfer->stream->event(event, transfer->stream->data);
        if (transfer->stopped) {
            return false;
        }
    }
    g_byte_array_remove_range(body, 0, start);
    return true;
}

static size_t
receive(char *data, size_t size, size_t count, void *user)
{
    Transfer *transfer = user;
    size_t len = size * count;
    long status = 0;

    transfer->last_sign_us = gw_now_us();
    if (transfer->body->len + len > transfer->max_bytes) {
        transfer->too_large = true;
        return CURL_WRITEFUNC_ERROR;
    }
    g_byte_array_append(transfer->body, (const guint8 *)data, (guint)len);
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    /* An error is not a stream of events but one object. */
    if (transfer->stream && status == 200 && !take_lines(transfer)) {
        return CURL_WRITEFUNC_ERROR;
    }
    return len;
}

/* --- one transfer ----------------------------------------------------------------------------- */

static void
set_up(GwClient *client, Transfer *transfer, const char *method, const char *url)
{
    CURL *easy = client->easy;

    curl_easy_reset(easy);
    curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, client->socket_path);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "godwit/" GODWIT_VERSION);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, transfer->stream ? 0L : (long)client->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    transfer->easy = easy;
    transfer->last_sign_us = gw_now_us();
}

/* Whether a stream shall go on after what one poll brought. */
static bool
stream_goes_on(Transfer *transfer, const struct curl_waitfd *wake)
{
    const GwClientStream *stream = transfer->stream;

    if (wake->revents && !stream->woken(stream->data)) {
        transfer->stopped = true;
    }
    return !transfer->stopped &&
           gw_now_us() - transfer->last_sign_us < (int64_t)STREAM_SILENCE_MS * 1000;
}

/* Runs the transfer to its end or until its stream is left. */
static CURLcode
run(GwClient *client, Transfer *transfer)
{
    CURLcode result = CURLE_OPERATION_TIMEDOUT;
    int running = 1;
    int left;

    curl_multi_add_handle(client->multi, client->easy);
    while (running > 0) {
        struct curl_waitfd wake = {.fd = -1, .events = CURL_WAIT_POLLIN};
        unsigned n_extra = 0;
        if (transfer->stream && transfer->stream->wake_fd >= 0) {
            wake.fd = transfer->stream->wake_fd;
            n_extra = 1;
        }
        if (curl_multi_perform(client->multi, &running) != CURLM_OK || running == 0 ||
            curl_multi_poll(client->multi, &wake, n_extra, POLL_MS, NULL) != CURLM_OK ||
            (transfer->stream && !stream_goes_on(transfer, &wake))) {
            break;
        }
    }
    for (CURLMsg *message; (message = curl_multi_info_read(client->multi, &left));) {
        if (message->msg == CURLMSG_DONE) {
            result = message->data.result;
        }
    }
    curl_multi_remove_handle(client->multi, client->easy);
    return result;
}

/* The daemon's error object as an error. */
static bool
check_status(const GwClient *client, const Transfer *transfer, GError **error)
{
    long status = 0;

    curl_easy_getinfo(client->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200) {
        return true;
    }
    g_autoptr(json_t) answer = gw_json_parse(transfer->body->data, transfer->body->len,
                                             transfer->max_bytes, "godwitd's answer", NULL);
    const json_t *object = json_object_get(answer, "error");
    if (json_is_object(object)) {
        g_propagate_error(error, gw_json_to_error(object));
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "'%s' answered with HTTP status %ld and no reason: is it godwitd's socket?",
                    client->socket_path, status);
    }
    return false;
}

json_t *
gw_client_call(GwClient *client, const char *method, const char *path, const json_t *body,
               GError **error)
{
    g_autoptr(GByteArray) received = g_byte_array_new();
    g_autofree char *url = g_strconcat("http://godwitd", path, NULL);
    g_autofree char *text = body ? gw_json_text(body) : NULL;
    Transfer transfer = {.body = received, .max_bytes = GW_CLIENT_MAX_ANSWER_BYTES};
    struct curl_slist *headers = NULL;

    set_up(client, &transfer, method, url);
    if (text) {
        headers = curl_slist_append(NULL, "Content-Type: application/json");
        curl_easy_setopt(client->easy, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(client->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(text));
        curl_easy_setopt(client->easy, CURLOPT_POSTFIELDS, text);
    }
    CURLcode code = run(client, &transfer);
    curl_slist_free_all(headers);
    if (code != CURLE_OK) {
        explain_failure(client, &transfer, code, error);
        return NULL;
    }
    if (!check_status(client, &transfer, error)) {
        return NULL;
    }
    return gw_json_parse(received->data, received->len, GW_CLIENT_MAX_ANSWER_BYTES,
                         "godwitd's answer", error);
}

bool
gw_client_stream(GwClient *client, const char *path, const GwClientStream *stream, GError **error)
{
    g_autoptr(GByteArray) received = g_byte_array_new();
    g_autofree char *url = g_strconcat("http://godwitd", path, NULL);
    Transfer transfer = {
        .body = received,
        .max_bytes = GW_CLIENT_MAX_LINE_BYTES,
        .stream = stream,
    };

    set_up(client, &transfer, "GET", url);
    CURLcode code = run(client, &transfer);
    if (transfer.line_error) {
        g_propagate_error(error, transfer.line_error);
        return false;
    }
    if (transfer.stopped) {
        return true;
    }
    if (code != CURLE_OK) {
        explain_failure(client, &transfer, code, error);
        return false;
    }
    return check_status(client, &transfer, error);
}
