// SPDX-License-Identifier: Apache-2.0
/*
 * The receiving host in a move that may switch to post-copy.
 *
 * QEMU listens on a socket of the move's own; the daemon connects to it once for the main channel,
 * whose other direction is the return path, and once more when the source has opened the preempt
 * channel. After the switch the guest is loaded when QEMU has left "inmigrate"; in FETCHING its
 * pages come until QEMU says "completed". A QEMU that pauses the post-copy, because a session
 * ended, is made to listen anew as soon as the source has a new session.
 *
 * While the post-copy is paused QEMU's main loop may stand still: a vCPU that waits for a page may
 * hold the lock that it needs. Then no command is answered but those out of band. So what QEMU does
 * is taken from its events, which come from the threads that it happens in; "query-migrate" is only
 * for events that were lost with a monitor, and no more than one of it waits. A monitor that is
 * opened meanwhile, after a restart of the daemon, does not get ready: then there is the spare one.
 * Where nothing is known recovery is tried: a QEMU that has not paused the post-copy refuses it.
 *
 * Main context. Owns a timer of the move. Fails by events to the mover.
 */
#include "base/fd.h"
#include "base/units.h"
#include "migrate/internal.h"

#include <string.h>

#define LOAD_POLL_MS  5
#define FETCH_POLL_MS 1000

static void
fail_setup(GwTarget *target, const GError *error)
{
    gw_move_fail(target->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                 "VM '%s': host '%s' cannot get ready for a post-copy: %s", target->move->vm_name,
                 target->move->moves->options.host_name, error->message);
}

/* --- QEMU's connections ----------------------------------------------------------------------- */

static void
on_listening(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    g_autoptr(GError) failure = NULL;

    if (error) {
        fail_setup(target, error);
        return;
    }
    target->stream_fd = gw_post_connect(target->move, target->post.path, &failure);
    if (target->stream_fd < 0) {
        fail_setup(target, failure);
        return;
    }
    gw_move_event(target->move, GW_MOVE_EVENT_READY, NULL);
}

static char *
next_uri(GwTarget *target, GError **error)
{
    g_free(target->post.path);
    target->post.path = gw_post_socket_path(target->move, target->post.n_sockets++, error);
    return target->post.path ? g_strconcat("unix:", target->post.path, NULL) : NULL;
}

bool
gw_target_post_listen(GwTarget *target, GwQmp *qmp, GError **error)
{
    g_autofree char *uri = next_uri(target, error);

    if (uri) {
        target->post.spare = gw_vm_open_spare(gw_move_vm(target->move), true, error);
    }
    if (!target->post.spare) {
        return false;
    }
    gw_qmp_call(qmp, "migrate-incoming", json_pack("{s:s}", "uri", uri), on_listening, target);
    return true;
}

/* After the main channel, which was connected before: QEMU takes the second for the preempt one. */
static void
on_opened(GwLane *lane, GwLaneBytes channel, void *data)
{
    GwTarget *target = data;
    g_autoptr(GError) error = NULL;

    if (channel != GW_LANE_PREEMPT || !target->post.path) {
        return;
    }
    g_auto(GwFd) fd = gw_post_connect(target->move, target->post.path, &error);
    if (fd < 0 ||
        !gw_lane_open_bytes(lane, channel, g_steal_fd(&fd), GW_LANE_BYTES_WRITE, &error)) {
        fail_setup(target, error);
    }
}

bool
gw_target_post_receive(GwTarget *target, GError **error)
{
    g_auto(GwFd) back = gw_fd_dup(target->stream_fd, error);

    if (back < 0) {
        return false;
    }
    target->post.streams = true;
    gw_lane_set_opened(target->lane, on_opened);
    return gw_lane_start_stream(target->lane, g_steal_fd(&target->stream_fd), error) &&
           gw_lane_open_bytes(target->lane, GW_LANE_RETURN_PATH, g_steal_fd(&back),
                              GW_LANE_BYTES_READ, error);
}

/* --- loading ---------------------------------------------------------------------------------- */

static void
on_run_state(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;

    target->post.asks = false;
    if (target->move->state == GW_MOVE_INCOMING && !error &&
        strcmp(gw_json_str(answer, "status", ""), "paused") == 0) {
        g_clear_handle_id(&target->post.timer, g_source_remove);
        target->loaded = target->post.loaded = true;
        gw_target_check_handed(target);
    }
}

static gboolean
on_load_poll(gpointer data)
{
    GwTarget *target = data;
    GwQmp *qmp = gw_move_qmp(target->move);

    if (qmp && !target->post.asks) {
        target->post.asks = true;
        gw_qmp_call(qmp, "query-status", NULL, on_run_state, target);
    }
    return G_SOURCE_CONTINUE;
}

/* QEMU has no event for it. */
void
gw_target_post_await_load(GwTarget *target)
{
    if (target->move->state == GW_MOVE_INCOMING && target->post.timer == 0) {
        target->post.timer = g_timeout_add(LOAD_POLL_MS, on_load_poll, target);
    }
}

/* QEMU is not asked whether all pages are here: it may not answer before they are. */
void
gw_target_post_started(GwTarget *target)
{
    gw_move_event(target->move,
                  target->post.whole ? GW_MOVE_EVENT_GUEST_RUNNING : GW_MOVE_EVENT_GUEST_FETCHING,
                  NULL);
}

/* --- fetching --------------------------------------------------------------------------------- */

/* The source sees its end and comes again. */
static void
begin_anew(GwTarget *target, const char *why)
{
    GwLogFields fields = gw_move_log_fields(target->move);

    gw_warn(&fields, "the post-copy needs a new session: %s", why);
    gw_target_drop_session(target);
}

/* It has begun to run, or was told to and may wait for a page before it says that it does. */
static bool
may_recover(const GwTarget *target)
{
    return gw_move_may_post(target->move) && !target->taken_back &&
           (target->move->state == GW_MOVE_ACCEPTED || target->move->state == GW_MOVE_FETCHING);
}

static void
on_recovering(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    g_autoptr(GError) failure = NULL;

    target->post.recovers = false;
    if (!target->lane || !may_recover(target)) {
        return;
    }
    if (error) {
        begin_anew(target, error->message);
        return;
    }
    /* Until it says more. */
    target->post.paused = target->post.known = false;
    target->stream_fd = gw_post_connect(target->move, target->post.path, &failure);
    if (target->stream_fd < 0 || !gw_target_post_receive(target, &failure)) {
        begin_anew(target, failure->message);
        return;
    }
    gw_move_send(target->move, target->lane, "resume", NULL);
}

/* @qmp: NULL if it is not ready. */
static void
recover(GwTarget *target, GwQmp *qmp)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *uri = qmp || target->post.spare ? next_uri(target, &error) : NULL;

    if (error) {
        begin_anew(target, error->message);
    }
    if (!uri) {
        return;
    }
    json_t *arguments = json_pack("{s:s}", "uri", uri);

    target->post.recovers = true;
    if (qmp) {
        gw_qmp_call_oob(qmp, "migrate-recover", arguments, on_recovering, target);
    } else {
        gw_spare_call(target->post.spare, "migrate-recover", arguments, on_recovering, target);
    }
}

/* A recovery that has begun goes on with the session that is there when QEMU listens. */
void
gw_target_post_consider(GwTarget *target)
{
    GwQmp *qmp = gw_move_qmp(target->move);
    bool known = target->post.known && qmp;

    if (!may_recover(target) || !target->lane || target->post.recovers) {
        return;
    }
    if (target->post.streams && target->post.paused) {
        begin_anew(target, "QEMU lost the old one");
    } else if (!target->post.streams && (target->post.paused || !known)) {
        recover(target, qmp);
    }
}

void
gw_target_post_stand_by(GwTarget *target)
{
    GwLogFields fields = gw_move_log_fields(target->move);
    g_autoptr(GError) error = NULL;

    if (!gw_move_may_post(target->move)) {
        return;
    }
    if (!target->post.spare) {
        target->post.spare = gw_vm_open_spare(gw_move_vm(target->move), false, &error);
    }
    if (!target->post.spare) {
        gw_warn(&fields, "a post-copy that stands still cannot be recovered: %s", error->message);
    }
    gw_target_post_consider(target);
}

void
gw_target_post_look(GwTarget *target, const char *status)
{
    target->post.known = true;
    target->post.whole = strcmp(status, "completed") == 0;
    target->post.paused = strcmp(status, "postcopy-paused") == 0;
    if (target->post.whole && target->move->state == GW_MOVE_FETCHING) {
        gw_move_event(target->move, GW_MOVE_EVENT_FETCHED, NULL);
    } else {
        gw_target_post_consider(target);
    }
}

static void
on_fetch_status(json_t *answer, const GError *error, void *data)
{
    GwTarget *target = data;
    const char *status = gw_json_str(answer, "status", "");

    target->post.asks = false;
    /* It may have resumed since, over the session that is there: that it has not is an event. */
    if (!error && !(target->post.streams && strcmp(status, "postcopy-paused") == 0)) {
        gw_target_post_look(target, status);
    }
}

static gboolean
on_fetch_poll(gpointer data)
{
    GwTarget *target = data;
    GwQmp *qmp = gw_move_qmp(target->move);

    if (qmp && !target->post.asks) {
        target->post.asks = true;
        gw_qmp_call(qmp, "query-migrate", NULL, on_fetch_status, target);
    } else {
        target->post.known = false; /* it does not answer */
        gw_target_post_consider(target);
    }
    return G_SOURCE_CONTINUE;
}

void
gw_target_post_fetch(GwTarget *target)
{
    g_clear_handle_id(&target->post.timer, g_source_remove);
    target->post.asks = false; /* what was asked before is forgotten */
    target->post.timer = g_timeout_add(FETCH_POLL_MS, on_fetch_poll, target);
    (void)on_fetch_poll(target);
}

void
gw_target_post_leave(GwTarget *target)
{
    g_clear_handle_id(&target->post.timer, g_source_remove);
    g_clear_pointer(&target->post.path, g_free);
    g_clear_pointer(&target->post.spare, gw_spare_free);
}
