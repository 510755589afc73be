// SPDX-License-Identifier: Apache-2.0
/*
 * The public face of a session: making, talking to, and freeing it.
 *
 * Owns struct GwLane and everything in it. All of this runs in the main context that was the
 * thread's default when the session was made, but for gw_lane_end(), gw_lane_count_cpu() and
 * gw_lane_stats().
 *
 * Freeing raises stop_fd, joins the threads (none of them waits on anything but that eventfd, a
 * condition that is signalled, or a bounded piece of work) and only then lets go of the memory, so
 * it takes milliseconds, or 100 ms while a connection does not move. Memory per session: frames in
 * flight (the window, at most 64 MiB, and 16 MiB of control messages), as much at the other end
 * behind a gap, 4 MiB inbox, 5 MiB spare frames, at most 64 messages of 1 MiB, 3 MiB for parser and
 * codecs.
 */
#include "base/log.h"
#include "base/processor.h"
#include "base/units.h"
#include "lane/link.h"
#include "lane/wake.h"

#include <gnutls/crypto.h>
#include <signal.h>
#include <string.h>

#define DEFAULT_SILENCE_MS 3000

/*
 * Links by measure. On a far link two, of which the first carries all until packets are lost
 * (link_path.c): then one that was lost holds up one of them only. With four, each of which looks
 * for its share of the link at first, more is lost, and the last frames wait for the slowest. On a
 * near link as many as there are cores to encrypt beside QEMU and its guest.
 */
#define FAR_LINKS      2u
#define MAX_NEAR_LINKS 4u
#define CORES_PER_LINK 4u

/* --- waking links ----------------------------------------------------------------------------- */

static void
wake_all(GwLane *lane)
{
    for (unsigned i = 0; i < GW_LANE_MAX_LINKS; i++) {
        const GwLink *link = __atomic_load_n(&lane->links[i], __ATOMIC_ACQUIRE);

        if (link) {
            gw_wake_raise(link->wake_fd);
        }
    }
}

/*
 * Those that are at work look for more before they wait. @outbox, nullable: has work, which not
 * every link may take.
 */
static void
wake_one(GwLane *lane, GwOutbox *outbox)
{
    for (unsigned i = 0; i < GW_LANE_MAX_LINKS; i++) {
        GwLink *link = __atomic_load_n(&lane->links[i], __ATOMIC_ACQUIRE);

        if (link && (!outbox || gw_outbox_has_work(outbox, i)) &&
            __atomic_exchange_n(&link->idle, 0, __ATOMIC_SEQ_CST) != 0) {
            gw_wake_raise(link->wake_fd);
            return;
        }
    }
}

static void
on_outbox_wake(void *data)
{
    GwLane *lane = data;

    wake_one(lane, lane->outbox);
}

static void
on_urgent_outbox_wake(void *data)
{
    GwLane *lane = data;

    wake_one(lane, lane->urgent_outbox);
}

/* Called with locks of those who have something to say: they are not asked whether it is so. */
static void
on_reference_wake(void *lane)
{
    wake_one(lane, NULL);
}

static void
on_frame_queued(void *data, GwFrame *frame)
{
    const GwLane *lane = data;

    if (lane->desk) {
        gw_ref_desk_announce(lane->desk, frame);
    }
}

static void
on_inbox_wake(void *lane, bool all)
{
    if (all) {
        wake_all(lane);
    } else {
        wake_one(lane, NULL);
    }
}

/* --- for the threads -------------------------------------------------------------------------- */

static GwRefKeep *
keep_of(GwLane *lane)
{
    return __atomic_load_n(&lane->keep, __ATOMIC_ACQUIRE);
}

/* The stream thread does not wait for the peer any more. */
static void
stop_sending(GwLane *lane)
{
    gw_outbox_stop(lane->outbox);
    gw_outbox_stop(lane->urgent_outbox);
    if (keep_of(lane)) {
        gw_ref_keep_stop(keep_of(lane));
    }
}

void
gw_lane_end(GwLane *lane, GError *error, bool tell)
{
    pthread_mutex_lock(&lane->lock);
    bool first = !lane->end_reason;
    if (first) {
        lane->end_reason = error;
        lane->tells_reason = tell;
    }
    pthread_mutex_unlock(&lane->lock);
    if (!first) {
        g_error_free(error);
        return;
    }
    gw_wake_raise(lane->cut_fd);
    stop_sending(lane);
    wake_all(lane);
}

void
gw_lane_count_cpu(GwLane *lane, int64_t *last_us)
{
    int64_t now_us = (int64_t)gw_thread_cpu_us();

    pthread_mutex_lock(&lane->lock);
    lane->stats.cpu_us += (uint64_t)(now_us - *last_us);
    pthread_mutex_unlock(&lane->lock);
    *last_us = now_us;
}

/* --- making and freeing ----------------------------------------------------------------------- */

static bool
make_wakes(GwLane *lane, GError **error)
{
    GwFd *wakes[] = {&lane->stop_fd, &lane->cut_fd, &lane->bytes_fd};

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
    lane->stream_fd = GW_FD_NONE;
    lane->stop_fd = lane->cut_fd = lane->bytes_fd = GW_FD_NONE;
    lane->context = g_main_context_ref_thread_default();
    lane->names = g_ptr_array_new_with_free_func(g_free);
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->events_taken, NULL);
    lane->pool = gw_frame_pool_new();
    lane->outbox = gw_outbox_new(on_outbox_wake, lane);
    lane->inbox = gw_inbox_new(on_inbox_wake, on_frame_queued, lane);
    lane->urgent_outbox = gw_outbox_new(on_urgent_outbox_wake, lane);
    lane->urgent_inbox = gw_inbox_new(on_inbox_wake, NULL, lane);
    gw_lane_events_init(lane);
    lane->wakes_made = make_wakes(lane, error);
    return lane;
}

bool
gw_lane_start_thread(pthread_t *thread, void *(*body)(void *), void *data, const char *name,
                     GError **error)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(thread, NULL, body, data);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result != 0) {
        gw_set_error_errno(error, result, "cannot start a thread for a session with another host");
        return false;
    }
    pthread_setname_np(*thread, name);
    return true;
}

bool
gw_lane_start(GwLane *lane, GError **error)
{
    GwLink *link = lane->links[0] ? lane->links[0] : gw_link_new(lane, 0, error);

    if (!link) {
        return false;
    }
    lane->inbox_runs =
        gw_lane_start_thread(&lane->inbox_thread, gw_target_thread, lane, "gw-lane-inbox", error);
    return lane->inbox_runs && gw_link_start(link, error);
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
    stop_sending(lane);
    gw_inbox_stop(lane->inbox);
    if (lane->desk) {
        gw_ref_desk_stop(lane->desk);
    }
    if (lane->bytes) {
        gw_bytes_join(lane->bytes);
    }
    if (lane->inbox_runs) {
        pthread_join(lane->inbox_thread, NULL);
    }
    if (lane->stream_runs) {
        pthread_join(lane->stream_thread, NULL);
    }
    for (unsigned i = 0; i < GW_LANE_MAX_LINKS; i++) {
        if (lane->links[i]) {
            gw_link_join(lane->links[i]);
        }
    }
}

void
gw_lane_destroy(GwLane *lane)
{
    for (unsigned i = 0; i < GW_LANE_MAX_LINKS; i++) {
        if (lane->links[i]) {
            gw_link_free(lane->links[i]);
        }
    }
    gw_lane_events_clear(lane);
    gw_outbox_free(lane->outbox);
    gw_inbox_free(lane->inbox);
    gw_bytes_free(lane->bytes);
    gw_outbox_free(lane->urgent_outbox);
    gw_inbox_free(lane->urgent_inbox);
    gw_ref_desk_free(lane->desk);
    gw_placer_free(lane->placer);
    gw_ref_keep_free(lane->keep);
    gw_ref_source_free(lane->references);
    gw_frame_pool_free(lane->pool);
    gw_lane_credentials_unref(lane->credentials);
    g_list_free_full(lane->addresses, g_object_unref);
    g_ptr_array_unref(lane->names);
    gw_fd_clear(&lane->stop_fd);
    gw_fd_clear(&lane->cut_fd);
    gw_fd_clear(&lane->bytes_fd);
    gw_fd_clear(&lane->stream_fd);
    g_strfreev(lane->placed);
    g_clear_error(&lane->end_reason);
    pthread_cond_destroy(&lane->events_taken);
    pthread_mutex_destroy(&lane->lock);
    g_main_context_unref(lane->context);
    g_free(lane->peer_address);
    g_free(lane->expected_name);
    g_free(lane->peer_name);
    g_free(lane->congestion);
    g_free(lane);
}

void
gw_lane_free(GwLane *lane)
{
    if (!lane) {
        return;
    }
    lane->freed = true;
    g_source_destroy(lane->event_source);
    gw_lane_stop_resolving(lane);
    gw_lane_registry_remove(lane, true);
    stop_threads(lane);
    if (!lane->dispatching) {
        gw_lane_destroy(lane);
    }
}

/* --- connecting and accepting ----------------------------------------------------------------- */

static bool
make_session_id(GwLane *lane, GError **error)
{
    uint8_t instance[GW_INSTANCE_BYTES];

    if (gnutls_rnd(GNUTLS_RND_NONCE, lane->session_id, GW_SESSION_ID_BYTES) >= 0 &&
        gw_lane_instance(instance)) {
        return true;
    }
    g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "no random numbers for a session id");
    return false;
}

GwLane *
gw_lane_connect(const GwLaneConnect *options, const GwLaneHandlers *handlers, void *data)
{
    GError *error = NULL;
    GwLane *lane = new_lane(options->credentials, options->address, &error);

    lane->port = options->port;
    lane->expected_name = g_strdup(options->expected_name);
    lane->congestion = g_strdup(options->congestion);
    lane->open_deadline_us = gw_now_us() + options->connect_timeout_ms * 1000;
    lane->session_timeout_ms = options->session_timeout_ms;
    lane->silence_us = 1000 * (options->silence_ms > 0 ? options->silence_ms : DEFAULT_SILENCE_MS);
    lane->n_links = options->n_links;
    lane->encodings_off = options->encodings_off;
    g_ptr_array_add(lane->names, g_strdup(options->address));
    for (const char *const *name = options->more_addresses; name && *name; name++) {
        g_ptr_array_add(lane->names, g_strdup(*name));
    }
    gw_lane_set_handlers(lane, handlers, data);
    if (!lane->wakes_made || !make_session_id(lane, &error)) {
        gw_lane_end_before_start(lane, error);
        return lane;
    }
    gw_lane_resolve(lane, (guint)options->connect_timeout_ms);
    return lane;
}

GwLane *
gw_lane_accept(const GwLaneServerOptions *options, GwConnection *connection, const GwHello *hello,
               GError **error)
{
    GwLane *lane = new_lane(options->credentials, connection->peer, error);
    bool usable = lane->wakes_made;

    lane->desk = gw_ref_desk_new(on_reference_wake, lane);
    lane->session_timeout_ms = options->session_timeout_ms;
    lane->silence_us = 1000 * DEFAULT_SILENCE_MS;
    lane->page_caps = (GwPageTargetCaps){.table_bytes = options->max_tag_bytes,
                                         .copy_bytes = options->max_copy_bytes};
    lane->peer_name = g_strdup(connection->peer_name);
    memcpy(lane->session_id, hello->session_id, GW_SESSION_ID_BYTES);
    memcpy(lane->peer_instance, hello->instance, GW_INSTANCE_BYTES);
    if (usable && gnutls_rnd(GNUTLS_RND_KEY, lane->ticket, GW_TICKET_BYTES) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "no random numbers for a session's ticket");
        usable = false;
    }
    GwLink *link = usable ? gw_link_new(lane, 0, error) : NULL;

    if (link) {
        link->announces = true;
        link->last_attempt = hello->attempt;
        gw_link_hand(link, connection, hello);
    }
    if (!link || !gw_lane_start(lane, error)) {
        if (link) {
            link->handed = NULL; /* stays the caller's; no thread has seen it */
        }
        gw_lane_free(lane);
        return NULL;
    }
    return lane;
}

static void
set_urgent_link(GwLane *lane, GwLink *link)
{
    link->urgent = true;
    gw_outbox_prefer(lane->outbox, ~(1u << link->index));
    gw_outbox_prefer(lane->urgent_outbox, 1u << link->index);
}

bool
gw_lane_join(GwLane *lane, GwConnection *connection, const GwHello *hello, GError **error)
{
    GwLink *link = lane->links[hello->link];

    if (!link) {
        link = gw_link_new(lane, hello->link, error);
        if (link && (hello->flags & GW_HELLO_URGENT)) {
            set_urgent_link(lane, link);
        }
    }
    if (!link || (!link->runs && !gw_link_start(link, error))) {
        return false;
    }
    link->last_attempt = hello->attempt;
    gw_link_hand(link, connection, hello);
    return true;
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

void
gw_lane_ends(GwLane *lane, struct sockaddr_storage *here, struct sockaddr_storage *there)
{
    pthread_mutex_lock(&lane->lock);
    if (here) {
        *here = lane->here;
    }
    if (there) {
        *there = lane->there;
    }
    pthread_mutex_unlock(&lane->lock);
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

static bool
is_far(const GwLane *lane)
{
    return gw_outbox_rtt_us(lane->outbox) >= GW_WINDOW_FAR_RTT_US;
}

static unsigned
choose_n_links(const GwLane *lane)
{
    if (lane->n_links > 0) {
        return MIN(lane->n_links, GW_LANE_MAX_LINKS);
    }
    if (is_far(lane)) {
        return FAR_LINKS;
    }
    return CLAMP(g_get_num_processors() / CORES_PER_LINK, 1, MAX_NEAR_LINKS);
}

/* A session that only talks has one; a stream that has fewer than it might is slower. */
static void
open_more_links(GwLane *lane)
{
    unsigned n_links = choose_n_links(lane);

    gw_outbox_set_narrow(lane->outbox, lane->n_links == 0 && is_far(lane));
    for (unsigned i = 1; i < n_links; i++) {
        g_autoptr(GError) error = NULL;
        GwLink *link = gw_link_new(lane, i, &error);

        if (link) {
            link->joins = true;
        }
        if (!link || !gw_link_start(link, &error)) {
            gw_warn(&(GwLogFields){.host = lane->peer_name}, "only %u of %u connections: %s", i,
                    n_links, error->message);
            return;
        }
    }
}

void
gw_lane_set_references(GwLane *lane, GwRefSource *references)
{
    if (lane->references || lane->stream_started || !lane->expected_name) {
        gw_ref_source_free(references);
        return;
    }
    lane->references = references;
    __atomic_store_n(&lane->keep, gw_ref_keep_new(references, on_reference_wake, lane),
                     __ATOMIC_RELEASE);
}

bool
gw_lane_take_references(GwLane *lane, GwRefTarget *images, GError **error)
{
    if (!lane->desk || lane->stream_started) {
        gw_ref_target_free(images);
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "references are agreed on before the stream, by the side that receives it");
        return false;
    }
    return gw_ref_desk_start(lane->desk, images, error);
}

void
gw_lane_keep_visit(GwLane *lane, GwVisitWriter *visit)
{
    lane->visit = visit;
}

void
gw_lane_note_visit(GwLane *lane, GwVisitTags *tags)
{
    lane->tags = tags;
}

void
gw_lane_place_pages(GwLane *lane, GwPlacer *placer)
{
    if (lane->placer || lane->stream_started) {
        gw_placer_free(placer);
        return;
    }
    lane->placer = placer;
}

void
gw_lane_set_placed(GwLane *lane, char **blocks)
{
    if (lane->placed || lane->stream_started) {
        g_strfreev(blocks);
        return;
    }
    lane->placed = blocks;
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
    lane->stream_runs =
        gw_lane_start_thread(&lane->stream_thread, gw_source_thread, lane, "gw-lane-stream", error);
    if (lane->stream_runs) {
        open_more_links(lane);
    }
    return lane->stream_runs;
}

/* --- byte channels ---------------------------------------------------------------------------- */

/* Without it, urgent frames share the links of the others. */
static void
open_urgent_link(GwLane *lane)
{
    g_autoptr(GError) error = NULL;
    unsigned index = 1;

    while (index < GW_LANE_MAX_LINKS && lane->links[index]) {
        index++;
    }
    GwLink *link = index < GW_LANE_MAX_LINKS ? gw_link_new(lane, index, &error) : NULL;

    if (link) {
        link->joins = true;
        set_urgent_link(lane, link);
    }
    if (!link || !gw_link_start(link, &error)) {
        gw_warn(&(GwLogFields){.host = lane->peer_name}, "no connection for urgent frames: %s",
                error ? error->message : "there are as many as there can be");
    }
}

bool
gw_lane_open_bytes(GwLane *lane, GwLaneBytes channel, int fd, unsigned ways, GError **error)
{
    g_auto(GwFd) owned = fd;

    if (!check_usable(lane, "carry a byte channel", error)) {
        return false;
    }
    if (!lane->bytes) {
        lane->bytes = gw_bytes_new(lane, error);
        if (lane->bytes && lane->expected_name) {
            open_urgent_link(lane);
        }
    }
    return lane->bytes && gw_bytes_open(lane->bytes, (GwChannel)(GW_CHANNEL_FIRST_BYTES + channel),
                                        g_steal_fd(&owned), ways, error);
}

void
gw_lane_set_opened(GwLane *lane, GwLaneOpenedFn opened)
{
    lane->opened = opened;
}

void
gw_lane_set_paced(GwLane *lane)
{
    gw_outbox_set_paced(lane->outbox);
}

void
gw_lane_measure(GwLane *lane)
{
    pthread_mutex_lock(&lane->lock);
    lane->stats.burst_bytes_s = 0;
    pthread_mutex_unlock(&lane->lock);
    __atomic_store_n(&lane->burst_wanted, true, __ATOMIC_RELAXED);
    wake_all(lane);
}

void
gw_lane_finish(GwLane *lane)
{
    pthread_mutex_lock(&lane->lock);
    lane->finishing_us = lane->finishing_us ? lane->finishing_us : gw_now_us();
    pthread_mutex_unlock(&lane->lock);
    wake_all(lane);
}

int64_t
gw_lane_silent_us(const GwLane *lane)
{
    return gw_now_us() - __atomic_load_n(&lane->heard_us, __ATOMIC_RELAXED);
}

void
gw_lane_stats(GwLane *lane, GwLaneStats *out)
{
    GwOutboxFigures figures;

    gw_outbox_figures(lane->outbox, gw_now_us(), &figures);
    pthread_mutex_lock(&lane->lock);
    *out = lane->stats;
    pthread_mutex_unlock(&lane->lock);
    out->overhead_bytes = out->wire_bytes - out->page_bytes - out->zero_bytes - out->same_bytes -
                          out->equal_bytes - out->delta_bytes - out->reference_bytes -
                          out->opaque_bytes - out->control_bytes - out->resent_bytes;
    if (lane->references) {
        GwRefTotals totals;

        gw_ref_source_totals(lane->references, &totals);
        out->reference_misses = totals.misses;
    }
    out->in_flight_bytes = figures.in_flight_bytes;
    out->rate_bytes_s = figures.rate_bytes_s;
    out->rtt_us = figures.rtt_us;
}
