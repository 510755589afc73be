// SPDX-License-Identifier: Apache-2.0
/*
 * The sending host's QEMU during a move: start, pre-copy control, switchover, roll-back.
 *
 * A pre-copy runs without QEMU's return path: with it, a source whose connection dies after the
 * last byte resumes its guest by itself, and that may be after the target was given it. Without it
 * QEMU says "completed" once it has written everything and never resumes on its own after that;
 * whether the target has all of it is the lane's business (digests) and the target's (its QEMU has
 * loaded).
 *
 * Main context. Owns two timers of the move. Fails by events to the mover.
 */
#include "base/fd.h"
#include "base/units.h"
#include "migrate/internal.h"

#include <stdlib.h>
#include <string.h>

#define POLL_MS         100
#define BRING_BACK_MS   200
#define FAILURE_WAIT_MS 500
#define PATIENCE_US     (5 * G_USEC_PER_SEC) /* with a QEMU that is slow to answer */
#define FD_NAME         "gwmig"

/* --- figures ---------------------------------------------------------------------------------- */

static void
note_figures(GwSource *source, json_t *answer)
{
    json_t *record = source->move->record;
    json_t *ram = json_object_get(answer, "ram");

    if (json_object_get(answer, "downtime")) {
        gw_json_set_int(record, "downtime_qemu_ms", gw_json_int(answer, "downtime", 0));
    }
    if (json_object_get(answer, "expected-downtime") && source->threshold == 0) {
        gw_json_set_int(record, "expected_downtime_ms",
                        gw_json_int(answer, "expected-downtime", 0));
    }
    if (!ram) {
        return;
    }
    int64_t page_bytes = gw_json_int(ram, "page-size", 4096);
    GwProgressInput input = {
        .total_bytes = (uint64_t)gw_json_int(ram, "total", 0),
        .remaining_bytes = (uint64_t)gw_json_int(ram, "remaining", 0),
        .round = (unsigned)CLAMP(gw_json_int(ram, "dirty-sync-count", 0), 0, 1000000),
        .drain_bytes_s = (uint64_t)(json_number_value(json_object_get(ram, "mbps")) * 125000),
        .dirty_bytes_s = (uint64_t)(gw_json_int(ram, "dirty-pages-rate", 0) * page_bytes),
    };
    source->left_bytes = input.remaining_bytes;
    source->best_bytes_s = MAX(source->best_bytes_s, input.drain_bytes_s);
    source->looks += input.round > 1;
    source->progress = gw_progress_next(&source->progress, &input);
    gw_json_set_int(record, "percent", source->progress.percent);
    gw_json_set_int(record, "left_ms", source->progress.left_ms);
    gw_json_set_int(record, "round", input.round);
    gw_json_set_int(record, "rounds", input.round);
    gw_json_set_int(record, "ram_bytes", (int64_t)input.total_bytes);
    gw_json_set_int(record, "dirty_rate_bytes_s", (int64_t)input.dirty_bytes_s);
    gw_json_set_int(record, "qemu_sent_bytes", gw_json_int(ram, "transferred", 0));
}

/* A guest that writes little goes through many rounds in no time: each step is tried for a while.
 */
static int64_t
wanted_downtime_limit_ms(GwSource *source)
{
    json_t *record = source->move->record;
    int64_t limit_ms = gw_json_int(record, "downtime_limit_ms", 300);
    unsigned round = (unsigned)MIN(gw_json_int(record, "round", 0), source->looks);

    return gw_move_is_by_qemu(source->move) ? gw_progress_qemu_limit_ms(limit_ms, round)
                                            : gw_progress_downtime_limit_ms(limit_ms, round);
}

static void
on_adjusted(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;

    if (error) {
        GwLogFields fields = gw_move_log_fields(source->move);
        gw_warn(&fields, "QEMU keeps to its own idea of when to stop the guest: %s",
                error->message);
    }
}

/* Since 9.0. */
static bool
has_switchover_bandwidth(const GwSource *source)
{
    return atoi(gw_json_str(source->move->record, "source_qemu", "0")) >= 9;
}

/* QEMU multiplies the two; it counts bandwidth in bytes per millisecond. */
static json_t *
threshold_parameters(const GwSource *source)
{
    uint64_t per_ms = MAX(source->threshold / (uint64_t)source->downtime_limit_ms, 1);

    return json_pack("{s:I, s:I}", "downtime-limit", (json_int_t)source->downtime_limit_ms,
                     "avail-switchover-bandwidth", (json_int_t)MIN(per_ms, 1ull << 40) * 1000);
}

/*
 * Where QEMU decides: by what it has sent in the last 100 ms. In the short rounds behind the first
 * pass that is little, and it would go on for many of them although the link could take the rest at
 * once. So it is told the best rate that it has shown.
 */
static void
adjust_downtime_limit(GwSource *source, GwQmp *qmp)
{
    int64_t wanted_ms = wanted_downtime_limit_ms(source);
    bool tells_rate =
        has_switchover_bandwidth(source) && source->best_bytes_s > source->told_bytes_s;

    if (wanted_ms == source->downtime_limit_ms && !tells_rate) {
        return;
    }
    json_t *wanted = json_pack("{s:I}", "downtime-limit", (json_int_t)wanted_ms);
    if (tells_rate) {
        gw_json_set_int(wanted, "avail-switchover-bandwidth", (int64_t)source->best_bytes_s);
        source->told_bytes_s = source->best_bytes_s;
    }
    source->downtime_limit_ms = wanted_ms;
    gw_qmp_call(qmp, "migrate-set-parameters", wanted, on_adjusted, source);
}

static void
adjust_threshold(GwSource *source, GwQmp *qmp)
{
    json_t *record = source->move->record;
    GwLaneStats stats;

    if (!source->lane) {
        return;
    }
    gw_lane_stats(source->lane, &stats);
    const GwSwitchoverInput input = {
        .now_us = gw_now_us(),
        .wire_bytes = stats.wire_bytes,
        .stream_bytes = stats.stream_bytes,
        .in_flight_bytes = stats.in_flight_bytes,
        .rate_bytes_s = stats.rate_bytes_s,
        .rtt_us = stats.rtt_us,
        .round = (unsigned)gw_json_int(record, "round", 0),
    };
    gw_switchover_measure(&source->switchover, &input);
    uint64_t wanted =
        gw_switchover_threshold(&source->switchover, wanted_downtime_limit_ms(source));
    gw_json_set_int(record, "expected_downtime_ms",
                    gw_switchover_expected_ms(&source->switchover, source->left_bytes));
    if (wanted != source->threshold) {
        source->threshold = wanted;
        gw_qmp_call(qmp, "migrate-set-parameters", threshold_parameters(source), on_adjusted,
                    source);
    }
}

/* --- QEMU's events ---------------------------------------------------------------------------- */

static gboolean
on_failure_waited(gpointer data)
{
    GwSource *source = data;

    source->failure_wait = 0;
    gw_move_event(source->move, GW_MOVE_EVENT_FAILED, source->failure);
    return G_SOURCE_REMOVE;
}

/*
 * A session that dies closes QEMU's socket, so QEMU fails a moment before the session tells why.
 * That is the reason an operator needs: it gets the time to come first.
 */
static void
on_failure_reason(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;
    const char *reason =
        error ? error->message : gw_json_str(answer, "error-desc", "QEMU gave no reason");

    g_clear_error(&source->failure);
    source->failure = g_error_new(GW_ERROR, GW_ERROR_FAILED,
                                  "VM '%s': QEMU could not send the guest to host '%s': %s",
                                  source->move->vm_name, source->move->peer, reason);
    if (source->failure_wait == 0) {
        source->failure_wait = g_timeout_add(FAILURE_WAIT_MS, on_failure_waited, source);
    }
}

static void
on_migration_status(GwSource *source, const char *status)
{
    GwQmp *qmp = gw_move_qmp(source->move);

    if (strcmp(status, "pre-switchover") == 0 && !source->stop_seen) {
        source->stop_seen = true;
        if (source->post.paused) {
            gw_move_event(source->move, GW_MOVE_EVENT_POSTCOPY_READY, NULL);
            return;
        }
        source->stopped_us = gw_now_us();
        gw_move_event(source->move, GW_MOVE_EVENT_GUEST_STOPPED, NULL);
    } else if (strcmp(status, "completed") == 0) {
        source->qemu_completed = true;
        gw_source_check_sent(source);
    } else if (strcmp(status, "postcopy-paused") == 0) {
        gw_source_post_paused(source);
    } else if (strcmp(status, "failed") == 0 && qmp) {
        gw_qmp_call(qmp, "query-migrate", NULL, on_failure_reason, source);
    }
}

static void
on_vm_event(GwVm *vm, const char *event, json_t *arguments, void *data)
{
    GwSource *source = data;

    if (!event) {
        gw_move_fail(source->move, GW_MOVE_EVENT_QEMU_GONE, GW_ERROR_GUEST_LOST,
                     "VM '%s': its QEMU on this host ended during the move: %s",
                     source->move->vm_name,
                     gw_vm_stop_reason(vm) ? gw_vm_stop_reason(vm) : "no reason known");
    } else if (strcmp(event, "MIGRATION") == 0) {
        gw_move_log_status(source->move, gw_json_str(arguments, "status", ""));
        on_migration_status(source, gw_json_str(arguments, "status", ""));
    }
}

/* The status, too: its event is lost if QEMU's monitor had to be opened again. */
static void
on_figures(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;
    const char *status = gw_json_str(answer, "status", "");

    if (error) {
        return;
    }
    note_figures(source, answer);
    gw_move_progress(source->move);
    gw_source_post_consider(source);
    if (source->move->state == GW_MOVE_POSTCOPY) {
        gw_source_post_look(source, status);
        return;
    }
    if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0) {
        on_failure_reason(answer, NULL, source);
    } else {
        on_migration_status(source, status);
    }
}

static gboolean
on_poll(gpointer data)
{
    GwSource *source = data;
    GwQmp *qmp = gw_move_qmp(source->move);

    if (qmp) {
        gw_qmp_call(qmp, "query-migrate", NULL, on_figures, source);
    }
    if (qmp && source->move->state == GW_MOVE_PRECOPY) {
        if (source->threshold > 0) {
            adjust_threshold(source, qmp);
        } else {
            adjust_downtime_limit(source, qmp);
        }
    }
    return G_SOURCE_CONTINUE;
}

void
gw_source_qemu_observe(GwSource *source)
{
    GwVm *vm = gw_move_vm(source->move);

    if (vm && !source->observing) {
        source->observing = true;
        gw_vm_observe(vm, on_vm_event, source);
    }
}

void
gw_source_check_sent(GwSource *source)
{
    if (!source->qemu_completed || !(source->stream_ended || gw_move_is_by_qemu(source->move))) {
        return;
    }
    if (gw_source_verify_is_due(source)) {
        gw_source_verify_begin(source);
    } else {
        gw_move_event(source->move, GW_MOVE_EVENT_STREAM_SENT, NULL);
    }
}

/* --- start ------------------------------------------------------------------------------------ */

static json_t *
capability_list(bool may_post)
{
    /* Those that matter and those that an earlier move, or somebody else, may have left on. */
    const struct {
        const char *name;
        bool on;
    } wanted[] = {
        {"events", true},           {"pause-before-switchover", true}, {"return-path", may_post},
        {"postcopy-ram", may_post}, {"postcopy-preempt", may_post},    {"multifd", false},
        {"xbzrle", false},          {"auto-converge", false},
    };
    json_t *list = json_array();

    for (size_t i = 0; i < G_N_ELEMENTS(wanted); i++) {
        json_array_append_new(
            list, json_pack("{s:s, s:b}", "capability", wanted[i].name, "state", wanted[i].on));
    }
    return json_pack("{s:o}", "capabilities", list);
}

static json_t *
parameters(GwSource *source)
{
    json_t *record = source->move->record;

    source->downtime_limit_ms = wanted_downtime_limit_ms(source);
    source->threshold =
        has_switchover_bandwidth(source) && !gw_move_is_by_qemu(source->move) ? 1 : 0;
    json_t *all = json_pack("{s:I, s:I}", "downtime-limit", (json_int_t)source->downtime_limit_ms,
                            "max-bandwidth", (json_int_t)gw_json_int(record, "max_bandwidth", 0));
    if (gw_move_transport(source->move) != GW_TRANSPORT_DIRECT) { /* else once they exist */
        gw_json_set_str(all, "tls-creds", "");
    }
    if (source->threshold > 0) {
        json_object_update_new(all, threshold_parameters(source));
    } else if (has_switchover_bandwidth(source)) {
        gw_json_set_int(all, "avail-switchover-bandwidth", 0);
    }
    return all;
}

/* Commands are answered in order: the first that fails is the one that is told. */
static void
on_setup_reply(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;

    if (error) {
        gw_move_fail(source->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                     "VM '%s': QEMU on this host did not accept the move: %s",
                     source->move->vm_name, error->message);
    }
}

static void
on_started(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;

    on_setup_reply(answer, error, data);
    if (!error) {
        gw_move_event(source->move, GW_MOVE_EVENT_STARTED, NULL);
    }
}

static void
start_over(GwSource *source, GwQmp *qmp, GwFd fd)
{
    gw_qmp_call_fd(qmp, "getfd", json_pack("{s:s}", "fdname", FD_NAME), fd, on_setup_reply, source);
    gw_qmp_call(qmp, "migrate", json_pack("{s:s}", "uri", "fd:" FD_NAME), on_started, source);
}

static bool
start_on_lane(GwSource *source, GwQmp *qmp, GError **error)
{
    g_auto(GwFd) qemu_end = GW_FD_NONE;
    g_auto(GwFd) our_end = GW_FD_NONE;
    GwFd pair[2];

    if (!gw_fd_socketpair(pair, error)) {
        return false;
    }
    our_end = pair[0];
    qemu_end = pair[1];
    gw_lane_keep_visit(source->lane, source->visit);
    if (!gw_lane_start_stream(source->lane, g_steal_fd(&our_end), error)) {
        return false;
    }
    start_over(source, qmp, qemu_end);
    return true;
}

static bool
start_direct(GwSource *source, GwVm *vm, GError **error)
{
    GwMove *move = source->move;
    const GwMovesNetwork *network = &move->moves->options.network;
    const char *address = network->address(move->peer, network->network);
    const char *key = gw_json_str(source->door, "psk", "");
    bool is_v6 = address && strchr(address, ':');

    if (!address) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND, "host '%s' is not known any more",
                    move->peer);
        return false;
    }
    if (!gw_direct_add_credentials(move, key, "client", on_setup_reply, source, error)) {
        return false;
    }
    g_autofree char *uri = g_strdup_printf(is_v6 ? "tcp:[%s]:%d" : "tcp:%s:%d", address,
                                           (int)gw_json_int(source->door, "port", 0));
    gw_qmp_call(gw_vm_qmp(vm), "migrate-set-parameters",
                json_pack("{s:s, s:s}", "tls-creds", "gwpsk", "tls-hostname", move->peer),
                on_setup_reply, source);
    gw_qmp_call(gw_vm_qmp(vm), "migrate", json_pack("{s:s}", "uri", uri), on_started, source);
    return true;
}

static void
on_plain_connected(GwFd fd, const GError *error, void *data)
{
    GwSource *source = data;
    GwQmp *qmp = gw_move_qmp(source->move);
    g_auto(GwFd) owned = fd;

    g_clear_pointer(&source->plain_call, gw_plain_call_free);
    if (error) {
        gw_move_event(source->move, GW_MOVE_EVENT_FAILED, error);
    } else if (!qmp) {
        gw_move_fail(source->move, GW_MOVE_EVENT_FAILED, GW_ERROR_UNREACHABLE,
                     "VM '%s': QEMU's monitor does not answer", source->move->vm_name);
    } else {
        start_over(source, qmp, owned);
    }
}

/* To where the session is, which was authenticated there: names and their resolution have no say.
 */
static bool
start_plain(GwSource *source, GError **error)
{
    GwMove *move = source->move;
    struct sockaddr_storage there;

    gw_lane_ends(source->lane, NULL, &there);
    if (!gw_plain_is_allowed(&move->moves->options, &there, error)) {
        return false;
    }
    gw_sockaddr_set_port(&there, (uint16_t)gw_json_int(source->door, "port", 0));
    source->plain_call = gw_plain_call_new(move, &there, gw_json_str(source->door, "psk", ""),
                                           on_plain_connected, source, error);
    return source->plain_call != NULL;
}

static bool
start_stream(GwSource *source, GwVm *vm, GwQmp *qmp, GError **error)
{
    switch (gw_move_transport(source->move)) {
    case GW_TRANSPORT_DIRECT:
        return start_direct(source, vm, error);
    case GW_TRANSPORT_PLAIN:
        return start_plain(source, error);
    case GW_TRANSPORT_LANE:
    case GW_TRANSPORT_N:
        break;
    }
    return gw_move_may_post(source->move) ? gw_source_post_start(source, qmp, on_started, error)
                                          : start_on_lane(source, qmp, error);
}

void
gw_source_qemu_start(GwSource *source)
{
    GwVm *vm = gw_move_vm(source->move);
    GwQmp *qmp = gw_move_qmp(source->move);
    g_autoptr(GError) error = NULL;

    if (!source->lane) {
        return; /* its end is told by an event that waits behind this one */
    }
    if (!vm || gw_vm_state(vm) == GW_VM_STOPPED) {
        gw_move_fail(source->move, GW_MOVE_EVENT_QEMU_GONE, GW_ERROR_GUEST_LOST,
                     "VM '%s' stopped before the move began", source->move->vm_name);
        return;
    }
    if (!qmp) {
        gw_move_fail(source->move, GW_MOVE_EVENT_FAILED, GW_ERROR_UNREACHABLE,
                     "VM '%s': QEMU's monitor does not answer", source->move->vm_name);
        return;
    }
    source->qemu_completed = false;
    source->started_us = gw_now_us();
    source->qemu_cpu_us = gw_vm_cpu_us(vm);
    if (source->references) {
        gw_lane_set_references(source->lane, g_steal_pointer(&source->references));
    }
    gw_qmp_call(qmp, "migrate-set-capabilities", capability_list(gw_move_may_post(source->move)),
                on_setup_reply, source);
    gw_qmp_call(qmp, "migrate-set-parameters", parameters(source), on_setup_reply, source);
    if (!start_stream(source, vm, qmp, &error)) {
        gw_move_event(source->move, GW_MOVE_EVENT_FAILED, error);
    }
}

void
gw_source_qemu_watch(GwSource *source)
{
    if (source->poll == 0) {
        source->poll = g_timeout_add(POLL_MS, on_poll, source);
    }
    /* QEMU may have converged before our answer to "migrate" was read. */
    if (source->stop_seen) {
        gw_move_event(source->move, GW_MOVE_EVENT_GUEST_STOPPED, NULL);
    }
}

void
gw_source_qemu_continue(GwSource *source)
{
    GwQmp *qmp = gw_move_qmp(source->move);

    if (qmp) {
        gw_qmp_call(qmp, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"),
                    on_setup_reply, source);
    }
}

static void
on_last_figures(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;

    if (!error) {
        note_figures(source, answer);
    }
    gw_move_event(source->move, GW_MOVE_EVENT_PEER_RUNNING, NULL);
}

/* QEMU tells its downtime only now, and is gone after the next step. */
void
gw_source_qemu_finish(GwSource *source)
{
    GwQmp *qmp = gw_move_qmp(source->move);

    if (qmp) {
        gw_qmp_call(qmp, "query-migrate", NULL, on_last_figures, source);
    } else {
        gw_move_event(source->move, GW_MOVE_EVENT_PEER_RUNNING, NULL);
    }
}

/* --- roll-back -------------------------------------------------------------------------------- */

/*
 * A guest that stopped by itself is as it would be without the move: waiting for it to run would
 * hold the VM for ever.
 */
static void
on_guest_state(json_t *answer, const GError *error, void *data)
{
    static const char *const by_itself[] = {"guest-panicked", "internal-error", "io-error",
                                            "shutdown",       "watchdog",       NULL};
    GwSource *source = data;

    source->asked_us = 0;
    if (!error && (gw_json_bool(answer, "running", false) ||
                   g_strv_contains(by_itself, gw_json_str(answer, "status", "")))) {
        g_clear_handle_id(&source->bring_back, g_source_remove);
        gw_move_event(source->move, GW_MOVE_EVENT_GUEST_RUNNING, NULL);
    }
}

static void
on_continued(json_t *answer, const GError *error, void *data)
{
    GwSource *source = data;
    GwQmp *qmp = gw_move_qmp(source->move);

    if (error) {
        GwLogFields fields = gw_move_log_fields(source->move);
        gw_warn(&fields, "the guest does not resume yet, trying again: %s", error->message);
    }
    if (qmp) {
        gw_qmp_call(qmp, "query-status", NULL, on_guest_state, source);
    }
}

/*
 * One step back, repeated until the guest runs: end QEMU's migration if it is under way, then
 * resume. Resuming a running guest does no harm.
 */
static void
on_migration_state(json_t *answer, const GError *error, void *data)
{
    static const char *const over[] = {"", "none", "completed", "failed", "cancelled", NULL};
    GwSource *source = data;
    GwQmp *qmp = gw_move_qmp(source->move);

    source->asked_us = 0;
    if (error || !qmp) {
        return; /* the next try asks again; QEMU's end is told by its event */
    }
    const char *status = gw_json_str(answer, "status", "");
    if (g_str_has_prefix(status, "postcopy-")) {
        gw_move_fail(source->move, GW_MOVE_EVENT_QEMU_GONE, GW_ERROR_GUEST_LOST,
                     "VM '%s': the target did not get to run it, and QEMU on this host cannot take "
                     "back a guest that it has begun to send as post-copy",
                     source->move->vm_name);
        return;
    }
    if (g_strv_contains(over, status)) {
        source->asked_us = gw_now_us();
        gw_qmp_call(qmp, "cont", NULL, on_continued, source);
    } else if (strcmp(status, "cancelling") != 0) {
        gw_qmp_call(qmp, "migrate_cancel", NULL, NULL, NULL);
    }
}

static gboolean
on_bring_back(gpointer data)
{
    GwSource *source = data;
    GwVm *vm = gw_move_vm(source->move);

    if (!vm || gw_vm_state(vm) == GW_VM_STOPPED) {
        source->bring_back = 0;
        gw_move_fail(source->move, GW_MOVE_EVENT_QEMU_GONE, GW_ERROR_GUEST_LOST,
                     "VM '%s': its QEMU on this host is gone", source->move->vm_name);
        return G_SOURCE_REMOVE;
    }
    if (gw_vm_qmp(vm) && gw_now_us() - source->asked_us > PATIENCE_US) {
        source->asked_us = gw_now_us();
        gw_qmp_forget(gw_vm_qmp(vm), source);
        gw_qmp_call(gw_vm_qmp(vm), "query-migrate", NULL, on_migration_state, source);
    }
    return G_SOURCE_CONTINUE;
}

void
gw_source_qemu_bring_back(GwSource *source)
{
    g_clear_handle_id(&source->poll, g_source_remove);
    g_clear_pointer(&source->plain_call, gw_plain_call_free);
    gw_source_qemu_observe(source);
    if (source->bring_back == 0) {
        guint timer = g_timeout_add(BRING_BACK_MS, on_bring_back, source);
        source->bring_back = timer;
        if (on_bring_back(source) == G_SOURCE_REMOVE) {
            g_source_remove(timer);
        }
    }
}

void
gw_source_qemu_leave(GwSource *source)
{
    GwVm *vm = gw_move_vm(source->move);

    g_clear_handle_id(&source->poll, g_source_remove);
    g_clear_handle_id(&source->bring_back, g_source_remove);
    g_clear_handle_id(&source->failure_wait, g_source_remove);
    g_clear_pointer(&source->plain_call, gw_plain_call_free);
    g_clear_error(&source->failure);
    if (vm && gw_vm_qmp(vm)) {
        gw_qmp_forget(gw_vm_qmp(vm), source);
    }
    if (vm && source->observing) {
        gw_vm_unobserve(vm, source);
    }
    source->observing = false;
}
