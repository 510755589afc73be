// SPDX-License-Identifier: Apache-2.0
/*
 * The sending host in a move that may switch to post-copy.
 *
 *     PAUSING    the daemon pauses the guest, then tells QEMU to switch; QEMU opens its preempt
 *                channel and waits before it lets go
 *     POSTCOPY   given up: QEMU may let go; the target starts the guest and fetches its pages
 *
 * Pausing comes first because a QEMU whose switch fails resumes what ran when it began, and nobody
 * can tell it not to; what was paused stays so. A session that ends makes both QEMUs pause the
 * post-copy; over a new one the target says when its QEMU listens again ("resume"), then ours is
 * told to go on from there. That is repeated until it works.
 *
 * Main context. Owns the listening socket to QEMU. Fails by events to the mover.
 */
#include "base/units.h"
#include "migrate/internal.h"

#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>

#define PATIENCE_US (15 * G_USEC_PER_SEC)

void
gw_source_post_close(GwSource *source)
{
    g_clear_handle_id(&source->post.watch, g_source_remove);
    gw_fd_clear(&source->post.listen_fd);
    source->post.n_accepted = 0;
    source->post.streams = source->post.peer_listens = false;
}

/* --- QEMU's connections ----------------------------------------------------------------------- */

/* The first is the main channel, with the return path in it; the second the preempt channel. */
static bool
carry(GwSource *source, int fd, GError **error)
{
    g_auto(GwFd) owned = fd;

    if (!source->lane || !gw_post_is_qemu(source->move, owned, error)) {
        return source->lane == NULL;
    }
    if (source->post.n_accepted++ > 0) {
        return gw_lane_open_bytes(source->lane, GW_LANE_PREEMPT, g_steal_fd(&owned),
                                  GW_LANE_BYTES_READ, error);
    }
    g_auto(GwFd) back = gw_fd_dup(owned, error);

    source->post.streams = true;
    return back >= 0 && gw_lane_start_stream(source->lane, g_steal_fd(&owned), error) &&
           gw_lane_open_bytes(source->lane, GW_LANE_RETURN_PATH, g_steal_fd(&back),
                              GW_LANE_BYTES_WRITE, error);
}

static gboolean
on_connection(int listen_fd, GIOCondition condition, gpointer data)
{
    GwSource *source = data;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    g_autoptr(GError) error = NULL;

    if (fd >= 0 && !carry(source, fd, &error)) {
        gw_move_event(source->move, GW_MOVE_EVENT_FAILED, error);
    }
    return G_SOURCE_CONTINUE;
}

/* The address for QEMU. Transfer full. */
static char *
listen_for_qemu(GwSource *source, GError **error)
{
    g_autofree char *path = gw_post_socket_path(source->move, source->post.n_sockets++, error);

    gw_source_post_close(source);
    if (path) {
        source->post.listen_fd = gw_unix_listen(path, 0600, error);
    }
    if (source->post.listen_fd < 0 ||
        !gw_direct_give_to_qemu(path, source->move->moves->options.qemu_user, error)) {
        return NULL;
    }
    source->post.watch = g_unix_fd_add(source->post.listen_fd, G_IO_IN, on_connection, source);
    return g_strconcat("unix:", path, NULL);
}

bool
gw_source_post_start(GwSource *source, GwQmp *qmp, GwQmpReplyFn started, GError **error)
{
    g_autofree char *uri = listen_for_qemu(source, error);

    if (!uri) {
        return false;
    }
    gw_qmp_call(qmp, "migrate", json_pack("{s:s}", "uri", uri), started, source);
    return true;
}

/* --- the switch ------------------------------------------------------------------------------- */

static bool
refused_by_qemu(GwSource *source, const GError *error)
{
    if (error) {
        gw_move_fail(source->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on this host did not switch to post-copy: %s",
                     source->move->vm_name, error->message);
    }
    return error != NULL;
}

static void
on_switching(json_t *answer, const GError *error, void *data)
{
    (void)refused_by_qemu(data, error);
}

/* Not paused: QEMU converged first and stopped the guest itself, which it will say. */
static void
on_paused_state(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;
    GwQmp *qmp = gw_move_qmp(source->move);

    if (refused_by_qemu(source, error) || source->move->state != GW_MOVE_PAUSING || !qmp ||
        strcmp(gw_json_str(answer, "status", ""), "paused") != 0) {
        return;
    }
    source->post.paused = true;
    gw_qmp_call(qmp, "migrate-start-postcopy", NULL, on_switching, source);
}

static void
on_paused(json_t *answer, const GError *error, void *data)
{
    (void)refused_by_qemu(data, error);
}

void
gw_source_post_pause(GwSource *source)
{
    GwQmp *qmp = gw_move_qmp(source->move);

    if (!qmp || !source->lane) {
        return; /* the end of either is told by its own event */
    }
    gw_lane_set_paced(source->lane);
    source->stopped_us = gw_now_us();
    gw_qmp_call(qmp, "stop", NULL, on_paused, source);
    gw_qmp_call(qmp, "query-status", NULL, on_paused_state, source);
}

/* When a move switches: after one pass over memory, or after some that did not get there. */
void
gw_source_post_consider(GwSource *source)
{
    const json_t *record = source->move->record;
    const char *mode = gw_json_str(record, "mode", GW_MODE_PRE_COPY);
    int64_t round = gw_json_int(record, "round", 0);
    int64_t wanted = strcmp(mode, GW_MODE_POST_COPY) == 0 ? GW_POST_AFTER_ROUND
                     : strcmp(mode, GW_MODE_HYBRID) == 0  ? GW_HYBRID_AFTER_ROUND
                                                          : G_MAXINT64;

    if (source->move->state == GW_MOVE_PRECOPY && round > wanted) {
        gw_move_event(source->move, GW_MOVE_EVENT_POSTCOPY_WANTED, NULL);
    }
}

/* --- given up --------------------------------------------------------------------------------- */

/* This host can send no more pages: the target need not wait for them. */
static void
tell_failure(GwSource *source, const char *why)
{
    g_autoptr(GError) error =
        g_error_new(GW_ERROR, GW_ERROR_GUEST_LOST, "VM '%s': %s", source->move->vm_name, why);
    json_t *extra = json_object();

    json_object_set_new(extra, "error", gw_json_from_error(error));
    gw_move_send(source->move, source->lane, "abort", extra);
    source->post.told_failure = true;
}

static void
on_resumed(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;

    if (error && source->move->state == GW_MOVE_POSTCOPY) {
        GwLogFields fields = gw_move_log_fields(source->move);
        gw_warn(&fields, "QEMU does not resume the post-copy, trying again: %s", error->message);
        gw_source_reconnect(source);
    }
}

static void
resume(GwSource *source, GwQmp *qmp)
{
    GwLogFields fields = gw_move_log_fields(source->move);
    g_autoptr(GError) error = NULL;
    g_autofree char *uri = listen_for_qemu(source, &error);

    if (!uri) {
        gw_err(&fields, "cannot resume the post-copy, trying again: %s", error->message);
        gw_source_reconnect(source);
        return;
    }
    gw_info(&fields, "the post-copy goes on over a new session");
    source->post.waits_us = gw_now_us();
    gw_lane_set_paced(source->lane);
    gw_qmp_call(qmp, "migrate", json_pack("{s:s, s:b}", "uri", uri, "resume", 1), on_resumed,
                source);
}

/* QEMU's status in POSTCOPY, asked for a few times a second. */
void
gw_source_post_look(GwSource *source, const char *status)
{
    GwQmp *qmp = gw_move_qmp(source->move);
    bool talks = source->lane && gw_lane_peer_name(source->lane);

    if (!qmp) {
        return;
    }
    if (strcmp(status, "pre-switchover") == 0) {
        /* It may have gone on by itself meanwhile: then it says no, which is as well. */
        gw_qmp_call(qmp, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"), NULL,
                    NULL);
    } else if ((strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0) && talks &&
               !source->post.told_failure) {
        tell_failure(source, "QEMU on the source has ended the post-copy with an error and "
                             "cannot send what is missing");
    } else if (strcmp(status, "postcopy-paused") != 0 || !talks || source->post.streams) {
        return; /* QEMU may have resumed since, over the session that is there */
    } else if (source->post.peer_listens) {
        resume(source, qmp);
    } else if (gw_now_us() - source->post.waits_us > PATIENCE_US) {
        gw_source_reconnect(source); /* one of the QEMUs did not do as it was told */
    }
}

void
gw_source_post_paused(GwSource *source)
{
    if (source->move->state == GW_MOVE_POSTCOPY && source->post.streams) {
        gw_source_reconnect(source); /* this session carries what QEMU has given up */
    }
}

void
gw_source_post_enter(GwSource *source)
{
    GwMove *move = source->move;
    GwVm *vm = gw_move_vm(move);
    bool talks = source->lane && gw_lane_peer_name(source->lane);

    if (vm && gw_vm_generation(vm) <= move->generation) {
        gw_vms_set_owner(move->moves->options.vms, vm, move->peer, move->generation + 1);
    }
    gw_source_qemu_observe(source);
    gw_source_qemu_watch(source);
    if (!source->lane && source->reconnect == 0) {
        gw_source_connect(source);
    }
    if (!talks) {
        return; /* one that is being opened is given the time it takes */
    }
    gw_source_send_given_up(source);
    if (!vm || gw_vm_state(vm) == GW_VM_STOPPED) {
        tell_failure(source, "its QEMU on the source is gone, with pages that were not sent yet");
    } else if (source->stop_seen && !source->post.continued) {
        source->post.continued = true;
        gw_source_post_look(source, "pre-switchover");
    }
}

void
gw_source_post_heard(GwSource *source, const char *what)
{
    if (strcmp(what, "resume") == 0) {
        source->post.peer_listens = true;
        return;
    }
    /* The guest runs on the target. */
    if (source->running_us == 0) {
        source->running_us = gw_now_us();
        gw_json_set_bool(source->move->record, "postcopy", true);
        gw_move_progress(source->move);
    }
}
