// SPDX-License-Identifier: Apache-2.0
/*
 * The public face of a session: making, talking to, and freeing it.
 *
 * Owns struct GwLane and everything in it. All of this runs in the main context that was the
 * thread's default when the session was made, but for gw_lane_post(), gw_lane_fail(),
 * gw_lane_count_cpu() and gw_lane_stats(). Worker threads never call a handler: they post events
 * to a bounded queue and make a source of the main context ready, which empties it.
 *
 * Freeing raises stop_fd, joins the threads (none of them waits on anything but that eventfd, a
 * condition that is signalled, or a bounded piece of work) and only then lets go of the memory, so
 * it takes milliseconds. Memory per session: frames in flight (the window, at most 64 MiB), 4 MiB
 * inbox, 5 MiB spare frames, at most 64 messages of 1 MiB, 3 MiB for parser and codecs.
 */
#include "base/units.h"
#include "lane/session.h"
#include "lane/wake.h"

#include <signal.h>
#include <string.h>
#include <time.h>

struct GwLaneResolve {
    GwLane *lane; /* NULL: freed in the meantime */
    GCancellable *cancellable;
};

static void
clear_event(GwLaneEvent *event)
{
    g_free(event->name);
    json_decref(event->message);
    g_clear_error(&event->error);
}

static void
free_event(void *event)
{
    clear_event(event);
    g_free(event);
}

void
gw_lane_post(GwLane *lane, GwLaneEvent event)
{
    pthread_mutex_lock(&lane->lock);
    while (event.kind == GW_LANE_EVENT_MESSAGE && lane->events.length >= GW_LANE_MAX_EVENTS &&
           !lane->stopping) {
        pthread_cond_wait(&lane->events_taken, &lane->lock);
    }
    bool late = lane->closed_posted || lane->stopping;
    if (!late) {
        lane->closed_posted = event.kind == GW_LANE_EVENT_CLOSED;
        g_queue_push_tail(&lane->events, g_memdup2(&event, sizeof(event)));
    }
    pthread_mutex_unlock(&lane->lock);
    if (late) {
        clear_event(&event);
    } else {
        g_source_set_ready_time(lane->event_source, 0);
    }
}

void
gw_lane_fail(GwLane *lane, GError *error)
{
    pthread_mutex_lock(&lane->lock);
    bool first = !lane->failure;
    if (first) {
        lane->failure = error;
    }
    pthread_mutex_unlock(&lane->lock);
    if (!first) {
        g_error_free(error);
    }
    gw_wake_raise(lane->wake_fd);
}

void
gw_lane_count_cpu(GwLane *lane, int64_t *last_us)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    int64_t now_us = (int64_t)now.tv_sec * G_USEC_PER_SEC + now.tv_nsec / 1000;

    pthread_mutex_lock(&lane->lock);
    lane->stats.cpu_us += (uint64_t)(now_us - *last_us);
    pthread_mutex_unlock(&lane->lock);
    *last_us = now_us;
}

/* --- delivering events ------------------------------------------------------------------------ */

static void
deliver_welcome(GwLane *lane, const char *name)
{
    g_autoptr(GError) error = NULL;
    bool welcome = lane->server && gw_lane_server_welcome(lane->server, name, &error);

    if (lane->freed) {
        return;
    }
    if (!welcome && !error) {
        error = g_error_new(GW_ERROR, GW_ERROR_REFUSED, "host '%s' is not welcome here", name);
    }
    pthread_mutex_lock(&lane->lock);
    lane->verdict = welcome ? GW_LANE_VERDICT_WELCOME : GW_LANE_VERDICT_REFUSED;
    lane->verdict_error = g_steal_pointer(&error);
    pthread_mutex_unlock(&lane->lock);
    gw_wake_raise(lane->wake_fd);
}

static void
deliver_ready(GwLane *lane, GwLaneEvent *event)
{
    lane->ready = true;
    lane->peer_name = g_steal_pointer(&event->name);
    if (lane->server) {
        gw_lane_server_accepted(g_steal_pointer(&lane->server), lane);
    } else if (lane->handlers.ready) {
        lane->handlers.ready(lane, lane->data);
    }
}

static void
deliver_closed(GwLane *lane, const GError *error)
{
    lane->over = true;
    if (lane->server) {
        gw_lane_server_dropped(g_steal_pointer(&lane->server), lane, error);
    } else if (lane->handlers.closed) {
        lane->handlers.closed(lane, error, lane->data);
    }
}

static void
deliver(GwLane *lane, GwLaneEvent *event)
{
    switch (event->kind) {
    case GW_LANE_EVENT_WELCOME:
        deliver_welcome(lane, event->name);
        break;
    case GW_LANE_EVENT_READY:
        deliver_ready(lane, event);
        break;
    case GW_LANE_EVENT_MESSAGE:
        if (lane->handlers.message) {
            lane->handlers.message(lane, event->message, lane->data);
        }
        break;
    case GW_LANE_EVENT_STREAM_END:
        if (lane->handlers.stream_end) {
            event->end.error = event->error;
            lane->handlers.stream_end(lane, &event->end, lane->data);
        }
        break;
    case GW_LANE_EVENT_CLOSED:
        deliver_closed(lane, event->error);
        break;
    }
}

static GwLaneEvent *
take_event(GwLane *lane)
{
    pthread_mutex_lock(&lane->lock);
    GwLaneEvent *event = g_queue_pop_head(&lane->events);
    pthread_cond_signal(&lane->events_taken);
    pthread_mutex_unlock(&lane->lock);
    return event;
}

static void
destroy(GwLane *lane)
{
    g_queue_clear_full(&lane->events, free_event);
    gw_outbox_free(lane->outbox);
    gw_inbox_free(lane->inbox);
    gw_frame_pool_free(lane->pool);
    gw_lane_credentials_unref(lane->credentials);
    g_list_free_full(lane->addresses, g_object_unref);
    gw_fd_clear(&lane->accepted_fd);
    gw_fd_clear(&lane->wake_fd);
    gw_fd_clear(&lane->stop_fd);
    gw_fd_clear(&lane->cut_fd);
    gw_fd_clear(&lane->stream_fd);
    g_clear_error(&lane->failure);
    g_clear_error(&lane->verdict_error);
    pthread_cond_destroy(&lane->events_taken);
    pthread_mutex_destroy(&lane->lock);
    g_source_unref(lane->event_source);
    g_main_context_unref(lane->context);
    g_free(lane->peer_address);
    g_free(lane->expected_name);
    g_free(lane->peer_name);
    g_free(lane);
}

static gboolean
dispatch_events(void *data)
{
    GwLane *lane = data;

    lane->dispatching = true;
    /* Not until the queue is empty: a peer that floods us may not keep the main loop from others.
     */
    for (unsigned i = 0; i < GW_LANE_MAX_EVENTS && !lane->freed; i++) {
        GwLaneEvent *event = take_event(lane);

        if (!event) {
            break;
        }
        g_source_set_ready_time(lane->event_source, 0);
        deliver(lane, event);
        free_event(event);
    }
    lane->dispatching = false;
    if (lane->freed) {
        destroy(lane);
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

/* Lowered before the queue is looked at, so that no event is overlooked. */
static gboolean
on_events_ready(GSource *source, GSourceFunc callback, void *data)
{
    g_source_set_ready_time(source, -1);
    return callback(data);
}

static GSourceFuncs event_source_funcs = {.dispatch = on_events_ready};

/* --- making and freeing ----------------------------------------------------------------------- */

static bool
make_wakes(GwLane *lane, GError **error)
{
    GwFd *wakes[] = {&lane->wake_fd, &lane->stop_fd, &lane->cut_fd};

    for (unsigned i = 0; i < G_N_ELEMENTS(wakes); i++) {
        *wakes[i] = gw_wake_new(error);
        if (*wakes[i] < 0) {
            return false;
        }
    }
    return true;
}

/* @error may be set: then the lane cannot be started, only freed. */
static GwLane *
new_lane(GwLaneCredentials *credentials, const char *peer_address, GError **error)
{
    GwLane *lane = g_new0(GwLane, 1);

    lane->credentials = gw_lane_credentials_ref(credentials);
    lane->peer_address = g_strdup(peer_address);
    lane->accepted_fd = lane->stream_fd = GW_FD_NONE;
    lane->wake_fd = lane->stop_fd = lane->cut_fd = GW_FD_NONE;
    lane->context = g_main_context_ref_thread_default();
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->events_taken, NULL);
    g_queue_init(&lane->events);
    lane->wakes_made = make_wakes(lane, error);
    lane->pool = gw_frame_pool_new();
    lane->outbox = gw_outbox_new(lane->wake_fd);
    lane->inbox = gw_inbox_new(lane->wake_fd);
    lane->event_source = g_source_new(&event_source_funcs, sizeof(GSource));
    g_source_set_callback(lane->event_source, dispatch_events, lane, NULL);
    g_source_attach(lane->event_source, lane->context);
    return lane;
}

/* Workers leave all signals to the main thread. */
static bool
start_thread(GwLane *lane, GwLaneThread thread, void *(*body)(void *), const char *name,
             GError **error)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(&lane->threads[thread], NULL, body, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result != 0) {
        gw_set_error_errno(error, result, "cannot start a thread for the session with %s",
                           lane->peer_address);
        return false;
    }
    pthread_setname_np(lane->threads[thread], name);
    lane->thread_runs[thread] = true;
    return true;
}

static bool
start_session(GwLane *lane, GError **error)
{
    return start_thread(lane, GW_LANE_THREAD_INBOX, gw_target_thread, "gw-lane-inbox", error) &&
           start_thread(lane, GW_LANE_THREAD_LINK, gw_link_thread, "gw-lane-link", error);
}

static void
drop_source(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

static void
stop_resolving(GwLane *lane)
{
    drop_source(&lane->resolve_timeout);
    if (lane->resolve) {
        lane->resolve->lane = NULL;
        g_cancellable_cancel(lane->resolve->cancellable);
        lane->resolve = NULL;
    }
}

static void
stop_threads(GwLane *lane)
{
    pthread_mutex_lock(&lane->lock);
    lane->stopping = true;
    pthread_cond_broadcast(&lane->events_taken);
    pthread_mutex_unlock(&lane->lock);
    gw_wake_raise(lane->stop_fd);
    gw_wake_raise(lane->cut_fd);
    gw_outbox_stop(lane->outbox);
    gw_inbox_stop(lane->inbox);
    for (unsigned i = 0; i < GW_LANE_N_THREADS; i++) {
        if (lane->thread_runs[i]) {
            pthread_join(lane->threads[i], NULL);
        }
    }
}

void
gw_lane_free(GwLane *lane)
{
    if (!lane) {
        return;
    }
    lane->freed = true;
    g_source_destroy(lane->event_source);
    stop_resolving(lane);
    stop_threads(lane);
    if (lane->slots) {
        lane->slots->used--;
        gw_lane_slots_unref(g_steal_pointer(&lane->slots));
    }
    if (!lane->dispatching) {
        destroy(lane);
    }
}

/* --- connecting ------------------------------------------------------------------------------- */

static void
end_before_start(GwLane *lane, GError *error)
{
    gw_lane_post(lane, (GwLaneEvent){.kind = GW_LANE_EVENT_CLOSED, .error = error});
}

static void
on_resolved(GObject *resolver, GAsyncResult *result, void *data)
{
    GwLaneResolve *resolve = data;
    GwLane *lane = resolve->lane;
    g_autoptr(GError) cause = NULL;
    GError *error = NULL;
    GList *addresses = g_resolver_lookup_by_name_finish(G_RESOLVER(resolver), result, &cause);

    g_object_unref(resolve->cancellable);
    g_free(resolve);
    if (!lane) {
        g_list_free_full(addresses, g_object_unref);
        return;
    }
    lane->resolve = NULL;
    drop_source(&lane->resolve_timeout);
    lane->addresses = addresses;
    if (!addresses) {
        error = g_error_new(GW_ERROR, GW_ERROR_UNREACHABLE,
                            "address '%s' of host '%s' cannot be resolved: %s", lane->peer_address,
                            lane->expected_name, cause->message);
    } else {
        start_session(lane, &error);
    }
    if (error) {
        end_before_start(lane, error);
    }
}

static gboolean
on_resolve_timeout(void *data)
{
    GwLane *lane = data;

    stop_resolving(lane);
    end_before_start(lane, g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                                       "address '%s' of host '%s' was not resolved in time: check "
                                       "the name service or use an IP address",
                                       lane->peer_address, lane->expected_name));
    return G_SOURCE_REMOVE;
}

static void
start_resolving(GwLane *lane, guint timeout_ms)
{
    g_autoptr(GResolver) resolver = g_resolver_get_default();

    lane->resolve_timeout = g_timeout_source_new(timeout_ms);
    g_source_set_callback(lane->resolve_timeout, on_resolve_timeout, lane, NULL);
    g_source_attach(lane->resolve_timeout, lane->context);
    lane->resolve = g_new0(GwLaneResolve, 1);
    lane->resolve->lane = lane;
    lane->resolve->cancellable = g_cancellable_new();
    g_resolver_lookup_by_name_async(resolver, lane->peer_address, lane->resolve->cancellable,
                                    on_resolved, lane->resolve);
}

GwLane *
gw_lane_connect(const GwLaneConnect *options, const GwLaneHandlers *handlers, void *data)
{
    GError *error = NULL;
    GwLane *lane = new_lane(options->credentials, options->address, &error);

    lane->port = options->port;
    lane->expected_name = g_strdup(options->expected_name);
    lane->open_deadline_us = gw_now_us() + options->connect_timeout_ms * 1000;
    lane->session_timeout_ms = options->session_timeout_ms;
    gw_lane_set_handlers(lane, handlers, data);
    if (error) {
        end_before_start(lane, error);
        return lane;
    }
    start_resolving(lane, (guint)options->connect_timeout_ms);
    return lane;
}

GwLane *
gw_lane_accept(GwLaneServer *server, GwLaneSlots *slots, int fd, const char *peer_address,
               GError **error)
{
    GwLane *lane = new_lane(gw_lane_server_credentials(server), peer_address, error);

    lane->accepted_fd = fd;
    lane->server = server;
    lane->slots = slots;
    slots->refs++;
    slots->used++;
    lane->open_deadline_us = gw_now_us() + GW_LANE_HANDSHAKE_MS * 1000;
    lane->session_timeout_ms = gw_lane_server_session_timeout_ms(server);
    if (!lane->wakes_made || !start_session(lane, error)) {
        gw_lane_free(lane);
        return NULL;
    }
    return lane;
}

/* --- using ------------------------------------------------------------------------------------ */

void
gw_lane_set_handlers(GwLane *lane, const GwLaneHandlers *handlers, void *data)
{
    lane->handlers = *handlers;
    lane->data = data;
}

const char *
gw_lane_peer_name(const GwLane *lane)
{
    return lane->peer_name;
}

static bool
check_usable(const GwLane *lane, const char *what, GError **error)
{
    if (lane->ready && !lane->over) {
        return true;
    }
    g_set_error(error, GW_ERROR, GW_ERROR_STATE, "cannot %s: the session with %s is %s", what,
                lane->expected_name ? lane->expected_name : lane->peer_address,
                lane->over ? "over" : "not established yet");
    return false;
}

bool
gw_lane_send(GwLane *lane, json_t *message, GError **error)
{
    if (!check_usable(lane, "send a message", error)) {
        return false;
    }
    g_autofree char *text = gw_json_text(message);
    size_t len = strlen(text);

    if (!json_is_object(message) || len > GW_LANE_MAX_MESSAGE_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "a control message must be a JSON object of at most %u bytes, not %zu",
                    GW_LANE_MAX_MESSAGE_BYTES, len);
        return false;
    }
    GByteArray payload = {.data = (guint8 *)text, .len = (guint)len};

    return gw_outbox_push_control(lane->outbox,
                                  gw_frame_new_with(lane->pool, GW_FRAME_CONTROL, &payload), error);
}

bool
gw_lane_start_stream(GwLane *lane, int fd, GError **error)
{
    if (!check_usable(lane, "carry a migration stream", error)) {
        gw_fd_close(fd);
        return false;
    }
    if (lane->stream_started) {
        gw_fd_close(fd);
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "the session with '%s' has carried a migration stream already",
                    lane->peer_name);
        return false;
    }
    lane->stream_started = true;
    if (!lane->expected_name) {
        gw_inbox_set_sink(lane->inbox, fd);
        return true;
    }
    lane->stream_fd = fd;
    return start_thread(lane, GW_LANE_THREAD_STREAM, gw_source_thread, "gw-lane-stream", error);
}

void
gw_lane_finish(GwLane *lane)
{
    pthread_mutex_lock(&lane->lock);
    lane->finishing = true;
    pthread_mutex_unlock(&lane->lock);
    gw_wake_raise(lane->wake_fd);
}

void
gw_lane_stats(GwLane *lane, GwLaneStats *out)
{
    GwOutboxFigures figures;

    gw_outbox_figures(lane->outbox, gw_now_us(), &figures);
    pthread_mutex_lock(&lane->lock);
    *out = lane->stats;
    pthread_mutex_unlock(&lane->lock);
    out->overhead_bytes = out->wire_bytes - out->page_bytes - out->zero_bytes - out->opaque_bytes -
                          out->control_bytes;
    out->in_flight_bytes = figures.in_flight_bytes;
    out->rate_bytes_s = figures.rate_bytes_s;
    out->rtt_us = figures.rtt_us;
}
