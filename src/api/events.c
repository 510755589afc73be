// SPDX-License-Identifier: Apache-2.0
/*
 * Event streams: a queue of lines for each reader, filled by gw_events_publish() and drained by
 * the HTTP server's content reader, which suspends the connection while there is nothing to tell.
 *
 * A stream is owned by its HTTP response (the library calls stream_free()); the hub only lists
 * those whose connection is there. A line is shared by all streams. Limits: in events.h; one
 * reader holds at most GW_EVENTS_MAX_QUEUED_BYTES and one line. Main context only. Cannot fail:
 * a reader over its limit is cut with an error line.
 */
#include "api/events.h"

#include <string.h>

#define READ_BLOCK_BYTES ((size_t)16 * 1024)

typedef struct Line {
    GBytes *text;
    char *progress_of; /* the move whose progress it is: may be replaced; else NULL */
} Line;

typedef struct Stream {
    GwEvents *hub;      /* NULL: not listed any more */
    GwRequest *request; /* NULL once the connection is gone */
    char *move_id;      /* NULL: everything */
    GQueue lines;       /* of Line */
    size_t queued_bytes;
    size_t head_pos; /* of the first line, already sent */
    bool ended;      /* no more lines will come */
} Stream;

struct GwEvents {
    GPtrArray *streams; /* of borrowed Stream */
    guint alive_timer;
};

static void
line_free(Line *line)
{
    g_bytes_unref(line->text);
    g_free(line->progress_of);
    g_free(line);
}

static GBytes *
line_text(const json_t *event)
{
    g_autofree char *text = gw_json_text(event);
    char *line = g_strconcat(text, "\n", NULL);

    return g_bytes_new_take(line, strlen(line));
}

/* --- one stream ------------------------------------------------------------------------------- */

static void
stream_push(Stream *stream, GBytes *text, const char *progress_of)
{
    Line *line = g_new0(Line, 1);

    line->text = g_bytes_ref(text);
    line->progress_of = g_strdup(progress_of);
    g_queue_push_tail(&stream->lines, line);
    stream->queued_bytes += g_bytes_get_size(text);
    if (stream->request) {
        gw_request_resume(stream->request);
    }
}

/* Removes a progress line that nobody has begun to read and that a newer one supersedes. */
static void
drop_older_progress(Stream *stream, const char *move_id)
{
    GList *link = stream->head_pos > 0 ? stream->lines.head->next : stream->lines.head;

    for (; link; link = link->next) {
        Line *line = link->data;
        if (g_strcmp0(line->progress_of, move_id) == 0) {
            stream->queued_bytes -= g_bytes_get_size(line->text);
            line_free(line);
            g_queue_delete_link(&stream->lines, link);
            return;
        }
    }
}

/* Leaves the line that is half sent, so that what follows begins on a line of its own. */
static void
stream_cut(Stream *stream)
{
    g_autoptr(json_t) event = json_object();
    g_autoptr(GError) error =
        g_error_new_literal(GW_ERROR, GW_ERROR_TOO_LARGE,
                            "this reader is too slow to be told of every change: connect again");

    while (stream->lines.length > (stream->head_pos > 0 ? 1u : 0u)) {
        line_free(g_queue_pop_tail(&stream->lines));
    }
    gw_json_set_str(event, "event", "cut");
    json_object_set_new(event, "error", gw_json_from_error(error));
    g_autoptr(GBytes) text = line_text(event);
    stream_push(stream, text, NULL);
    stream->ended = true;
}

static void
stream_tell(Stream *stream, GBytes *text, const char *progress_of)
{
    if (stream->ended) {
        return;
    }
    if (progress_of) {
        drop_older_progress(stream, progress_of);
    }
    if (stream->queued_bytes + g_bytes_get_size(text) > GW_EVENTS_MAX_QUEUED_BYTES) {
        stream_cut(stream);
    } else {
        stream_push(stream, text, progress_of);
    }
}

static void
stream_end(Stream *stream)
{
    stream->ended = true;
    if (stream->request) {
        gw_request_resume(stream->request);
    }
}

/* The library's content reader: some bytes, the end, or 0 with the connection suspended. */
static ssize_t
stream_read(void *data, uint64_t position, char *buffer, size_t max)
{
    Stream *stream = data;
    size_t done = 0;

    while (done < max && stream->lines.length > 0) {
        Line *line = stream->lines.head->data;
        gsize size;
        const char *text = g_bytes_get_data(line->text, &size);
        size_t part = MIN(size - stream->head_pos, max - done);

        memcpy(buffer + done, text + stream->head_pos, part);
        done += part;
        stream->head_pos += part;
        if (stream->head_pos == size) {
            stream->queued_bytes -= size;
            stream->head_pos = 0;
            line_free(g_queue_pop_head(&stream->lines));
        }
    }
    if (done == 0 && stream->ended) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    if (done == 0) {
        gw_request_suspend(stream->request);
    }
    return (ssize_t)done;
}

static void
stream_gone(void *data)
{
    Stream *stream = data;

    stream->request = NULL;
    if (stream->hub) {
        g_ptr_array_remove_fast(stream->hub->streams, stream);
        stream->hub = NULL;
    }
}

static void
stream_free(void *data)
{
    Stream *stream = data;

    stream_gone(stream);
    while (stream->lines.length > 0) {
        line_free(g_queue_pop_head(&stream->lines));
    }
    g_free(stream->move_id);
    g_free(stream);
}

/* --- the hub ---------------------------------------------------------------------------------- */

void
gw_events_publish(GwEvents *events, const json_t *event)
{
    const char *kind = gw_json_str(event, "event", "");
    const char *move_id = gw_json_str(json_object_get(event, "move"), "id", NULL);
    const char *progress_of = strcmp(kind, "progress") == 0 ? move_id : NULL;
    g_autoptr(GBytes) text = NULL;

    for (guint i = 0; i < events->streams->len; i++) {
        Stream *stream = events->streams->pdata[i];
        bool one_move = stream->move_id != NULL;

        if (one_move && g_strcmp0(stream->move_id, move_id) != 0) {
            continue;
        }
        text = text ? text : line_text(event);
        stream_tell(stream, text, progress_of);
        if (one_move && strcmp(kind, "end") == 0) {
            stream_end(stream);
        }
    }
}

static gboolean
tell_alive(void *data)
{
    GwEvents *events = data;
    g_autoptr(GBytes) text = g_bytes_new_static("{\"event\":\"alive\"}\n", 18);

    for (guint i = 0; i < events->streams->len; i++) {
        Stream *stream = events->streams->pdata[i];
        if (stream->lines.length == 0) {
            stream_tell(stream, text, NULL);
        }
    }
    return G_SOURCE_CONTINUE;
}

void
gw_events_answer(GwEvents *events, GwRequest *request, const char *move_id, json_t *first)
{
    g_autoptr(json_t) first_event = first;

    if (events->streams->len >= GW_EVENTS_MAX_STREAMS) {
        gw_request_answer_error(
            request, g_error_new(GW_ERROR, GW_ERROR_STATE,
                                 "there are %u event streams already: end one of them first",
                                 events->streams->len));
        return;
    }
    Stream *stream = g_new0(Stream, 1);
    stream->hub = events;
    stream->request = request;
    stream->move_id = g_strdup(move_id);
    g_queue_init(&stream->lines);
    g_ptr_array_add(events->streams, stream);
    if (first_event) {
        g_autoptr(GBytes) text = line_text(first_event);
        stream_push(stream, text, NULL);
        stream->ended = move_id && strcmp(gw_json_str(first_event, "event", ""), "end") == 0;
    }
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, READ_BLOCK_BYTES, stream_read, stream, stream_free);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/x-ndjson");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    gw_request_answer_stream(request, response, stream_gone, stream);
}

GwEvents *
gw_events_new(void)
{
    GwEvents *events = g_new0(GwEvents, 1);

    events->streams = g_ptr_array_new();
    events->alive_timer = g_timeout_add_seconds(GW_EVENTS_ALIVE_SECONDS, tell_alive, events);
    return events;
}

void
gw_events_free(GwEvents *events)
{
    if (!events) {
        return;
    }
    for (guint i = 0; i < events->streams->len; i++) {
        Stream *stream = events->streams->pdata[i];
        stream->hub = NULL;
        stream_end(stream);
    }
    g_ptr_array_unref(events->streams);
    g_source_remove(events->alive_timer);
    g_free(events);
}
