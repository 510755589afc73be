// SPDX-License-Identifier: Apache-2.0
/*
 * The mover: the only place where a move's state changes.
 *
 * An event is looked up in the table of core/move_state.h. A step writes the new record first and,
 * where the table says so, does the new state's work only after the store has said that it is
 * durable; events that come meanwhile wait. Owns the record, the timer and the event queue of each
 * move. Main context. A store that fails makes the event STORE_FAILED after a pause, so that a
 * full disk is not hammered.
 *
 * If we crash before a record is written, recovery does what the old state says; if after it, what
 * the new one says. Either is safe at every step: that is what the table is for.
 */
#include "base/fault.h"
#include "base/units.h"
#include "migrate/internal.h"

#include <stdarg.h>

#define STORE_RETRY_MS       500
#define DISCARD_RETRY_MS     10000
#define PROGRESS_INTERVAL_US 200000
/* Some come from the other host and go into a record, whose size is limited. */
#define MAX_REASON_BYTES 4000

typedef struct PendingEvent {
    GwMoveEvent event;
    GError *reason;
} PendingEvent;

static void drain(GwMove *move);

static void
pending_event_free(PendingEvent *pending)
{
    g_clear_error(&pending->reason);
    g_free(pending);
}

GwLogFields
gw_move_log_fields(const GwMove *move)
{
    return (GwLogFields){
        .vm = move->vm_name,
        .host = move->peer,
        .move = move->id,
        .step = gw_move_state_info(move->state)->name,
    };
}

void
gw_move_log_status(const GwMove *move, const char *status)
{
    GwLogFields fields = gw_move_log_fields(move);

    gw_debug(&fields, "QEMU's migration: %s", status);
}

bool
gw_move_is_final(const GwMove *move)
{
    return gw_move_state_info(move->state)->final;
}

GwVm *
gw_move_vm(GwMove *move)
{
    GwVm *vm = gw_vms_find(move->moves->options.vms, move->vm_name);

    return vm && g_strcmp0(gw_vm_held_by(vm), move->id) == 0 ? vm : NULL;
}

GwQmp *
gw_move_qmp(GwMove *move)
{
    GwVm *vm = gw_move_vm(move);

    return vm ? gw_vm_qmp(vm) : NULL;
}

GwMove *
gw_move_new(GwMoves *moves, const GwMoveRole *role, json_t *record)
{
    GwMove *move = g_new0(GwMove, 1);
    bool is_source = role == &gw_source_role;

    move->moves = moves;
    move->role = role;
    move->record = record;
    move->id = g_strdup(gw_json_str(record, "id", ""));
    move->vm_name = g_strdup(gw_json_str(record, "vm", ""));
    move->peer = g_strdup(gw_json_str(record, is_source ? "target" : "source", ""));
    move->generation = gw_json_int(record, "generation", 0);
    move->state = gw_move_state_from_name(gw_json_str(record, "state", ""));
    move->heard_us = gw_now_us();
    g_queue_init(&move->events);
    role->init(move);
    return move;
}

void
gw_move_free(GwMove *move)
{
    gw_store_forget(move->moves->options.store, move);
    move->role->free(move);
    g_clear_handle_id(&move->timer, g_source_remove);
    g_clear_handle_id(&move->store_retry, g_source_remove);
    g_clear_handle_id(&move->discard_retry, g_source_remove);
    g_queue_clear_full(&move->events, (GDestroyNotify)pending_event_free);
    json_decref(move->record);
    json_decref(move->next_record);
    g_free(move->id);
    g_free(move->vm_name);
    g_free(move->peer);
    g_free(move);
}

/* --- timers ----------------------------------------------------------------------------------- */

static int64_t
state_timeout_ms(const GwMove *move)
{
    const GwMovesOptions *options = &move->moves->options;
    int64_t chosen = 0;
    int64_t more = 0;

    if (move->state == GW_MOVE_CHECKED || move->state == GW_MOVE_PREPARING) {
        chosen = options->prepare_timeout_ms;
    } else if (move->state == GW_MOVE_PRECOPY) {
        chosen = gw_json_int(move->record, "timeout_ms", 0);
        chosen = chosen > 0 ? chosen : options->precopy_timeout_ms;
    } else if (move->state == GW_MOVE_SWITCHOVER) {
        chosen = options->switchover_timeout_ms;
        more = gw_json_int(json_object_get(move->record, "verify"), "timeout_ms", 0);
    }
    return more + (chosen > 0 ? chosen : gw_move_state_info(move->state)->timeout_ms);
}

static gboolean
on_timeout(gpointer data)
{
    GwMove *move = data;

    move->timer = 0;
    gw_move_fail(move, GW_MOVE_EVENT_TIMEOUT, GW_ERROR_TIMEOUT,
                 "VM '%s': step '%s' took longer than %" G_GINT64_FORMAT " s", move->vm_name,
                 gw_move_state_info(move->state)->name, state_timeout_ms(move) / 1000);
    return G_SOURCE_REMOVE;
}

static void
arm_timer(GwMove *move)
{
    int64_t timeout_ms = gw_move_is_final(move) ? 0 : state_timeout_ms(move);

    g_clear_handle_id(&move->timer, g_source_remove);
    if (timeout_ms > 0) {
        move->timer = g_timeout_add((guint)MIN(timeout_ms, G_MAXINT), on_timeout, move);
    }
}

/* --- the record ------------------------------------------------------------------------------- */

/* A copy of the record as it will be in @next. */
static json_t *
record_for(GwMove *move, GwMoveState next, GwMoveEvent event, const GError *reason)
{
    json_t *record = json_deep_copy(move->record);
    json_t *step = json_object();
    const GwMoveStateInfo *info = gw_move_state_info(next);
    const char *why = reason ? reason->message : gw_move_event_name(event);
    json_t *history = json_object_get(record, "history");

    gw_json_set_str(record, "state", info->name);
    gw_json_set_str(record, "reason", why);
    gw_json_set_bool(record, "final", info->final);
    gw_json_set_str(record, "outcome", info->outcome);
    /* The first cause is the one an operator needs. */
    if (reason && !json_object_get(record, "error")) {
        json_object_set_new(record, "error", gw_json_from_error(reason));
    }
    gw_json_set_str(step, "state", info->name);
    gw_json_set_str(step, "reason", why);
    gw_json_set_int(step, "at", gw_wall_us());
    if (!json_is_array(history)) {
        json_object_set_new(record, "history", history = json_array());
    }
    json_array_append_new(history, step);
    move->role->report(move, record);
    if (info->final) {
        gw_json_set_int(record, "ended", gw_wall_us());
        if (next == GW_MOVE_SETTLED || next == GW_MOVE_RUNNING) {
            gw_json_set_int(record, "percent", 100);
            gw_json_set_int(record, "left_ms", 0);
            json_object_del(record, "error");
        }
    }
    return record;
}

static GwStoreTxn *
txn_for(GwMove *move, GwMoveState next, const json_t *record)
{
    g_autofree char *key = g_strdup_printf("move/%s", move->id);
    g_autofree char *text = gw_json_text(record);
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_text(txn, key, text);
    move->role->write(move, next, txn);
    return txn;
}

/* --- steps ------------------------------------------------------------------------------------ */

static void
log_step(GwMove *move, GwMoveState from)
{
    GwLogFields fields = gw_move_log_fields(move);
    const char *reason = gw_json_str(move->record, "reason", "");
    bool bad = move->state == GW_MOVE_ROLLING_BACK || move->state == GW_MOVE_REFUSED ||
               move->state == GW_MOVE_ABANDONED;

    GwLogLevel level = bad ? GW_LOG_LEVEL_WARNING : GW_LOG_LEVEL_INFO;

    level = move->state == GW_MOVE_GUEST_LOST ? GW_LOG_LEVEL_ERROR : level;
    gw_log(level, &fields, "%s → %s: %s", gw_move_state_info(from)->name,
           gw_move_state_info(move->state)->name, reason);
}

static void
tell_once(GwMove *move, const GError *error)
{
    GwMoveEndFn ended = move->ended_fn;

    move->ended_fn = NULL;
    if (ended) {
        ended(error, move->ended_data);
    }
}

/* Observers hear of the end when the copy that is not needed any more is gone, too. */
static void
tell_end(GwMove *move)
{
    if (gw_move_is_final(move) && move->calls == 0 && !move->ended) {
        move->ended = true;
        gw_moves_notify(move->moves, "end", move);
        tell_once(move, NULL);
    }
}

GwTransport
gw_move_transport(const GwMove *move)
{
    GwTransport transport = GW_TRANSPORT_LANE;

    (void)!gw_transport_parse(gw_json_str(move->record, "transport", ""), &transport);
    return transport;
}

bool
gw_move_is_by_qemu(const GwMove *move)
{
    return gw_move_transport(move) != GW_TRANSPORT_LANE;
}

void
gw_move_call_done(GwMove *move)
{
    move->calls--;
    tell_end(move);
}

static void
enter(GwMove *move, json_t *record, GwMoveState state)
{
    GwMoveState from = move->state;

    json_decref(move->record);
    move->record = record;
    move->state = state;
    log_step(move, from);
    arm_timer(move);
    gw_moves_notify(move->moves, "state", move);
    gw_fault_point(gw_move_state_info(state)->name);
    move->role->enter(move);
    if (gw_move_is_final(move)) {
        gw_direct_remove_key(move);
        gw_post_remove_sockets(move);
        gw_moves_prune(move->moves);
    }
    tell_end(move);
}

/* What the new state's work raises waits until that work is done. */
static void
enter_written(GwMove *move)
{
    move->draining = true;
    enter(move, g_steal_pointer(&move->next_record), move->next_state);
    move->draining = false;
    drain(move);
}

static gboolean
on_store_retry(gpointer data)
{
    GwMove *move = data;
    json_t *failed = move->next_record;
    g_autoptr(GError) reason = gw_json_to_error(json_object_get(failed, "store_error"));

    move->store_retry = 0;
    move->next_record = NULL;
    json_decref(failed);
    PendingEvent *first = g_new0(PendingEvent, 1);
    first->event = GW_MOVE_EVENT_STORE_FAILED;
    first->reason = g_steal_pointer(&reason);
    g_queue_push_head(&move->events, first);
    drain(move);
    return G_SOURCE_REMOVE;
}

static void
on_step_written(const GwStoreTxnResult *result, const GError *error, void *data)
{
    GwMove *move = data;

    if (error) {
        GwLogFields fields = gw_move_log_fields(move);
        gw_err(&fields, "cannot write the step to '%s': %s",
               gw_move_state_info(move->next_state)->name, error->message);
        json_object_set_new(move->next_record, "store_error", gw_json_from_error(error));
        move->store_retry = g_timeout_add(STORE_RETRY_MS, on_store_retry, move);
        tell_once(move, error);
        return;
    }
    enter_written(move);
}

static void
go(GwMove *move, GwMoveState next, const PendingEvent *pending)
{
    json_t *record = record_for(move, next, pending->event, pending->reason);
    GwStoreTxn *txn = txn_for(move, next, record);

    if (gw_move_state_info(next)->durable_first) {
        move->next_record = record;
        move->next_state = next;
        gw_store_commit(move->moves->options.store, txn, on_step_written, move);
    } else {
        gw_store_commit(move->moves->options.store, txn, NULL, NULL);
        enter(move, record, next);
    }
}

static void
handle(GwMove *move, const PendingEvent *pending)
{
    GwMoveCell cell = gw_move_cell(move->state, pending->event);
    GwLogFields fields = gw_move_log_fields(move);

    switch (cell.verdict) {
    case GW_MOVE_GO:
        go(move, cell.next, pending);
        break;
    case GW_MOVE_AGAIN:
        gw_debug(&fields, "%s: again", gw_move_event_name(pending->event));
        arm_timer(move);
        move->role->enter(move);
        break;
    case GW_MOVE_IGNORE:
    case GW_MOVE_UNDECIDED:
        gw_debug(&fields, "%s: does not matter now%s%s", gw_move_event_name(pending->event),
                 pending->reason ? ": " : "", pending->reason ? pending->reason->message : "");
        break;
    }
}

/* Events that are raised while one is handled wait for their turn. */
static void
drain(GwMove *move)
{
    if (move->draining) {
        return;
    }
    move->draining = true;
    while (!move->next_record && !g_queue_is_empty(&move->events)) {
        PendingEvent *pending = g_queue_pop_head(&move->events);
        handle(move, pending);
        pending_event_free(pending);
    }
    move->draining = false;
}

void
gw_move_event(GwMove *move, GwMoveEvent event, const GError *reason)
{
    PendingEvent *pending = g_new0(PendingEvent, 1);

    pending->event = event;
    if (reason) {
        g_autofree char *message = g_strndup(reason->message, MAX_REASON_BYTES);
        pending->reason = g_error_new_literal(reason->domain, reason->code, message);
    }
    g_queue_push_tail(&move->events, pending);
    drain(move);
}

void
gw_move_fail(GwMove *move, GwMoveEvent event, GwErrorCode code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autoptr(GError) reason = g_error_new_valist(GW_ERROR, (int)code, format, args);
    va_end(args);
    gw_move_event(move, event, reason);
}

/* --- beginning -------------------------------------------------------------------------------- */

static void
on_begun(const GwStoreTxnResult *result, const GError *error, void *data)
{
    GwMove *move = data;
    GwMoves *moves = move->moves;
    GwVm *vm = gw_move_vm(move);

    if (move->begun) {
        move->begun(result, error, move->begun_data);
    }
    if (!error) {
        enter_written(move);
        return;
    }
    /* Nothing was done yet and nobody was told: forget it. */
    if (vm) {
        gw_vm_release(vm);
    }
    g_queue_remove(&moves->order, move);
    g_hash_table_remove(moves->by_id, move->id);
}

void
gw_move_begin(GwMove *move, GwStoreTxnFn written, void *data)
{
    move->begun = written;
    move->begun_data = data;
    move->next_state = move->state;
    move->next_record = record_for(move, move->state, GW_MOVE_EVENT_STARTED, NULL);
    GwStoreTxn *txn = txn_for(move, move->state, move->next_record);
    gw_store_commit(move->moves->options.store, txn, on_begun, move);
}

/* --- after the end -----------------------------------------------------------------------------
 */

void
gw_move_save(GwMove *move)
{
    g_autofree char *key = g_strdup_printf("move/%s", move->id);
    g_autofree char *text = gw_json_text(move->record);
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_text(txn, key, text);
    gw_store_commit(move->moves->options.store, txn, NULL, NULL);
}

static void discard_vm(GwMove *move);

static gboolean
on_discard_retry(gpointer data)
{
    GwMove *move = data;

    move->discard_retry = 0;
    discard_vm(move);
    return G_SOURCE_REMOVE;
}

static void
on_discarded(GwVm *vm, const GError *error, void *data)
{
    GwMove *move = data;

    if (error) {
        GwLogFields fields = gw_move_log_fields(move);
        gw_err(&fields, "its copy on this host is not cleaned up yet, trying again: %s",
               error->message);
        move->discard_retry = g_timeout_add(DISCARD_RETRY_MS, on_discard_retry, move);
    } else if (move->discarded) {
        move->discarded(move);
    }
    gw_move_call_done(move);
}

static void
discard_vm(GwMove *move)
{
    GwVm *vm = gw_move_vm(move);

    if (vm) {
        move->calls++;
        gw_vms_discard(move->moves->options.vms, vm, on_discarded, move);
    } else if (move->discarded) {
        move->discarded(move);
    }
}

void
gw_move_discard_vm(GwMove *move, void (*discarded)(GwMove *move))
{
    move->discarded = discarded;
    discard_vm(move);
}

void
gw_move_progress(GwMove *move)
{
    int64_t now_us = gw_now_us();

    move->role->report(move, move->record);
    if (now_us - move->told_us >= PROGRESS_INTERVAL_US) {
        move->told_us = now_us;
        gw_moves_notify(move->moves, "progress", move);
    }
}

void
gw_move_send(GwMove *move, GwLane *lane, const char *what, json_t *extra)
{
    g_autoptr(json_t) message = extra ? extra : json_object();
    g_autoptr(GError) error = NULL;

    gw_json_set_str(message, "service", "move");
    gw_json_set_str(message, "do", what);
    gw_json_set_str(message, "move", move->id);
    if (!lane || !gw_lane_send(lane, message, &error)) {
        GwLogFields fields = gw_move_log_fields(move);
        gw_debug(&fields, "'%s' was not sent: %s", what, error ? error->message : "no session");
    }
}
