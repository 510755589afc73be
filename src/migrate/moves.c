// SPDX-License-Identifier: Apache-2.0
/*
 * All moves of this host: registry, history, plans, and recovery after a restart.
 *
 * Owns the moves, finished ones too (their records are the history, bounded by max_history), the
 * dry runs and the visitors. Main context. A record that cannot be understood is left in the store,
 * logged, and not acted upon.
 */
#include "base/units.h"
#include "lane/encodings.h"
#include "migrate/check.h"

#include <string.h>

#define DEFAULT_TRANSPORT "auto"

typedef struct Observer {
    GwMovesEventFn changed;
    void *data;
} Observer;

typedef struct GwPlan {
    GwMoves *moves;
    GwCheckRun *run;
    GwMovesJsonFn callback;
    void *data;
} GwPlan;

/* --- registry --------------------------------------------------------------------------------- */

GwMove *
gw_moves_find(GwMoves *moves, const char *id)
{
    return g_hash_table_lookup(moves->by_id, id);
}

void
gw_moves_add(GwMoves *moves, GwMove *move)
{
    g_hash_table_insert(moves->by_id, move->id, move);
    g_queue_push_tail(&moves->order, move);
}

GwMove *
gw_moves_busy_with(GwMoves *moves, const char *vm_name)
{
    for (GList *item = moves->order.tail; item; item = item->prev) {
        GwMove *move = item->data;
        if (!gw_move_is_final(move) && strcmp(move->vm_name, vm_name) == 0) {
            return move;
        }
    }
    return NULL;
}

unsigned
gw_moves_count_incoming(GwMoves *moves)
{
    unsigned count = 0;

    for (GList *item = moves->order.tail; item; item = item->prev) {
        GwMove *move = item->data;
        count += move->role == &gw_target_role && !gw_move_is_final(move);
    }
    return count;
}

void
gw_moves_notify(GwMoves *moves, const char *event, GwMove *move)
{
    g_autoptr(json_t) object = json_pack("{s:s, s:O}", "event", event, "move", move->record);

    for (guint i = 0; i < moves->observers->len; i++) {
        Observer *observer = g_ptr_array_index(moves->observers, i);
        observer->changed(object, observer->data);
    }
}

void
gw_moves_observe(GwMoves *moves, GwMovesEventFn changed, void *data)
{
    Observer *observer = g_new0(Observer, 1);

    *observer = (Observer){changed, data};
    g_ptr_array_add(moves->observers, observer);
}

void
gw_moves_unobserve(GwMoves *moves, void *data)
{
    for (guint i = moves->observers->len; i > 0; i--) {
        Observer *observer = g_ptr_array_index(moves->observers, i - 1);
        if (observer->data == data) {
            g_ptr_array_remove_index(moves->observers, i - 1);
        }
    }
}

/*
 * A guest that came here is remembered until its source has said that it knows: it may ask after
 * any time, when the guest is somewhere else, and must not take "never heard of it" for a refusal.
 * One that was taken back from a host is until that host knows, or is none of ours any more.
 */
static bool
may_be_forgotten(const GwMove *move)
{
    const GwMovesNetwork *network = &move->moves->options.network;
    bool came_here = move->role == &gw_target_role && move->state != GW_MOVE_REFUSED;
    bool to_be_told =
        move->state == GW_MOVE_ABANDONED && network->address(move->peer, network->network) != NULL;
    bool peer_knows = gw_json_bool(move->record, "settled", false);

    return gw_move_is_final(move) && move->calls == 0 && move->discard_retry == 0 &&
           (!(came_here || to_be_told) || peer_knows);
}

static gboolean
prune_one(gpointer data)
{
    GwMoves *moves = data;
    unsigned finished = 0;

    moves->prune = 0;
    for (GList *item = moves->order.tail, *older; item; item = older) {
        GwMove *move = item->data;
        older = item->prev;
        finished += gw_move_is_final(move);
        if (may_be_forgotten(move) && finished > moves->options.max_history) {
            g_autofree char *key = g_strdup_printf("move/%s", move->id);
            GwStoreTxn *txn = gw_store_txn_new();
            gw_store_txn_delete(txn, key);
            gw_store_commit(moves->options.store, txn, NULL, NULL);
            g_queue_delete_link(&moves->order, item);
            g_hash_table_remove(moves->by_id, move->id);
        }
    }
    return G_SOURCE_REMOVE;
}

/* Later, because the move that has just ended is still on the stack. */
void
gw_moves_prune(GwMoves *moves)
{
    if (moves->prune == 0) {
        moves->prune = g_timeout_add_seconds(5, prune_one, moves);
    }
}

json_t *
gw_moves_get(GwMoves *moves, const char *id)
{
    GwMove *move = gw_moves_find(moves, id);

    if (!move) {
        return NULL;
    }
    if (!gw_move_is_final(move)) {
        move->role->report(move, move->record);
    }
    return json_deep_copy(move->record);
}

json_t *
gw_moves_list(GwMoves *moves, unsigned limit)
{
    json_t *list = json_array();

    for (GList *item = moves->order.tail; item; item = item->prev) {
        if (limit > 0 && json_array_size(list) >= limit) {
            break;
        }
        GwMove *move = item->data;
        json_array_append_new(list, json_deep_copy(move->record));
    }
    return list;
}

static const char *
mode_of(const GwMoveRequest *request)
{
    return request->mode ? request->mode : GW_MODE_PRE_COPY;
}

/* What is not chosen is: post-copy goes over the lane only. */
static const char *
transport_of(const GwMoveRequest *request)
{
    bool pre_copy = strcmp(mode_of(request), GW_MODE_PRE_COPY) == 0;

    return request->transport ? request->transport : pre_copy ? DEFAULT_TRANSPORT : "lane";
}

/* --- plan ------------------------------------------------------------------------------------- */

static void
plan_free(void *data)
{
    GwPlan *plan = data;

    gw_check_run_free(plan->run);
    g_free(plan);
}

static void
on_plan(json_t *result, const GError *error, void *data)
{
    GwPlan *plan = data;

    plan->callback(result, error, plan->data);
    g_ptr_array_remove_fast(plan->moves->plans, plan);
}

static bool
wants_verify(const GwMoveRequest *request)
{
    return request->verify && strcmp(request->verify, "off") != 0;
}

void
gw_moves_plan(GwMoves *moves, const GwMoveRequest *request, GwMovesJsonFn callback, void *data)
{
    GwPlan *plan = g_new0(GwPlan, 1);
    g_autoptr(json_t) object =
        json_pack("{s:s, s:s, s:s, s:s}", "vm", request->vm, "target", request->host, "transport",
                  transport_of(request), "mode", mode_of(request));

    gw_json_set_str(object, "verify", wants_verify(request) ? request->verify : NULL);
    plan->moves = moves;
    plan->callback = callback;
    plan->data = data;
    g_ptr_array_add(moves->plans, plan);
    plan->run = gw_check_run(moves, object, on_plan, plan);
}

/* --- start ------------------------------------------------------------------------------------ */

typedef struct Answer {
    GwMoves *moves;
    GwMovesJsonFn callback;
    void *data;
    char *id;
    GError *error;
    guint source;
} Answer;

static void
answer_free(void *data)
{
    Answer *answer = data;

    g_clear_handle_id(&answer->source, g_source_remove);
    g_clear_error(&answer->error);
    g_free(answer->id);
    g_free(answer);
}

static gboolean
deliver_answer(gpointer data)
{
    Answer *answer = data;
    g_autoptr(json_t) object = answer->error ? NULL : gw_moves_get(answer->moves, answer->id);

    answer->source = 0;
    answer->callback(object, answer->error, answer->data);
    g_ptr_array_remove_fast(answer->moves->answers, answer);
    return G_SOURCE_REMOVE;
}

static Answer *
answer_new(GwMoves *moves, const char *id, GwMovesJsonFn callback, void *data)
{
    Answer *answer = g_new0(Answer, 1);

    *answer = (Answer){moves, callback, data, g_strdup(id), NULL, 0};
    g_ptr_array_add(moves->answers, answer);
    return answer;
}

/* From the main loop, as migrate.h promises. @error: transfer full, nullable. */
static void
answer_later(Answer *answer, GError *error)
{
    answer->error = error;
    answer->source = g_idle_add_full(G_PRIORITY_DEFAULT, deliver_answer, answer, NULL);
}

static void
on_begun(const GwStoreTxnResult *result, const GError *error, void *data)
{
    answer_later(data, error ? g_error_copy(error) : NULL);
}

static bool
may_start(GwMoves *moves, const GwMoveRequest *request, GwVm **vm, GError **error)
{
    GwTransport known;
    const GwMove *other = gw_moves_busy_with(moves, request->vm);
    const char *transport = transport_of(request);
    const char *mode = mode_of(request);
    unsigned encodings = 0;

    *vm = gw_vms_find(moves->options.vms, request->vm);
    if (!*vm) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND, "there is no VM '%s' on this host",
                    request->vm);
        return false;
    }
    if (other || gw_vm_held_by(*vm)) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "VM '%s' is being moved already, by %s: wait for it, or cancel it", request->vm,
                    other ? other->id : gw_vm_held_by(*vm));
        return false;
    }
    if (gw_vm_state(*vm) != GW_VM_RUNNING) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "VM '%s' is %s: only a running VM can be moved", request->vm,
                    gw_vm_state_name(gw_vm_state(*vm)));
        return false;
    }
    if (strcmp(transport, "auto") != 0 && !gw_transport_parse(transport, &known)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "transport '%.40s' is unknown: use auto, lane, direct or plain", transport);
        return false;
    }
    if (!gw_mode_is_valid(mode)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "mode '%.40s' is unknown: use " GW_MODE_PRE_COPY ", " GW_MODE_POST_COPY
                    " or " GW_MODE_HYBRID,
                    mode);
        return false;
    }
    if (strcmp(mode, GW_MODE_PRE_COPY) != 0 && strcmp(transport, "lane") != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "mode '%s' goes over the lane only: leave out the transport", mode);
        return false;
    }
    if (wants_verify(request) && strcmp(mode, GW_MODE_PRE_COPY) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "verify compares the paused guest's memory, and in mode '%s' the guest may run "
                    "on before all of it has come: leave out one of the two",
                    mode);
        return false;
    }
    if (wants_verify(request) && strcmp(request->verify, "full") != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "verify '%.40s' is unknown: use off or full",
                    request->verify);
        return false;
    }
    return (!request->encodings || gw_encodings_parse(request->encodings, &encodings, error)) &&
           gw_check_name("host name", request->host, error);
}

static int64_t
or_else(int64_t chosen, int64_t configured)
{
    return chosen > 0 ? chosen : configured;
}

static char *
new_id(GwMoves *moves)
{
    char *id = NULL;

    do {
        g_free(id);
        id = g_strdup_printf("m-%08x%04x", g_random_int(), g_random_int() & 0xffff);
    } while (gw_moves_find(moves, id));
    return id;
}

void
gw_moves_start(GwMoves *moves, const GwMoveRequest *request, GwMovesJsonFn callback, void *data)
{
    GwVm *vm = NULL;
    GError *error = NULL;

    if (!may_start(moves, request, &vm, &error)) {
        answer_later(answer_new(moves, NULL, callback, data), error);
        return;
    }
    g_autofree char *id = new_id(moves);
    json_t *record = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:i}", "id", id, "vm",
        request->vm, "source", moves->options.host_name, "target", request->host, "role", "source",
        "state", gw_move_state_info(GW_MOVE_PLANNED)->name, "generation",
        (json_int_t)gw_vm_generation(vm), "started", (json_int_t)gw_wall_us(), "transport",
        transport_of(request), "downtime_limit_ms",
        (json_int_t)or_else(request->downtime_limit_ms, moves->options.downtime_limit_ms),
        "max_bandwidth",
        (json_int_t)or_else((int64_t)request->max_bandwidth, (int64_t)moves->options.max_bandwidth),
        "timeout_ms", (json_int_t)request->timeout_ms, "percent", 0);
    gw_json_set_str(record, "mode", mode_of(request));
    const json_t *run_info = gw_vm_run_info(vm);
    gw_json_set_str(record, "source_qemu", gw_json_str(run_info, "qemu_version", NULL));
    gw_json_set_str(record, "accel", gw_json_str(run_info, "accel", NULL));
    gw_json_set_str(record, "encodings", request->encodings);
    gw_json_set_int(record, "connections_wanted",
                    or_else(request->connections, moves->options.connections));
    if (wants_verify(request)) {
        int64_t timeout_ms = gw_verify_timeout_ms(gw_vm_definition(vm)->memory_bytes);
        json_object_set_new(
            record, "verify",
            json_pack("{s:s, s:I}", "mode", request->verify, "timeout_ms", (json_int_t)timeout_ms));
    }
    GwMove *move = gw_move_new(moves, &gw_source_role, record);
    gw_moves_add(moves, move);
    gw_vm_hold(vm, id);
    gw_move_begin(move, on_begun, answer_new(moves, id, callback, data));
}

void
gw_moves_cancel(GwMoves *moves, const char *id, GwMovesJsonFn callback, void *data)
{
    GwMove *move = gw_moves_find(moves, id);
    GError *error = NULL;

    if (!move) {
        error = g_error_new(GW_ERROR, GW_ERROR_NOT_FOUND,
                            "there is no move '%.40s': see 'godwit migration list'", id);
    } else if (gw_move_cell(move->state, GW_MOVE_EVENT_CANCEL).verdict != GW_MOVE_GO) {
        bool may_abandon = gw_move_is_abandonable(move);

        error = g_error_new(GW_ERROR, GW_ERROR_STATE,
                            "move %s cannot be cancelled any more: it is %s%s%s", id,
                            gw_move_state_info(move->state)->name,
                            may_abandon ? "; if the other host is gone for good: "
                                          "godwit migration abandon "
                                        : "",
                            may_abandon ? id : "");
    } else {
        gw_move_fail(move, GW_MOVE_EVENT_CANCEL, GW_ERROR_CANCELLED, "cancelled on request");
    }
    answer_later(answer_new(moves, id, callback, data), error);
}

static void
on_abandoned(const GError *error, void *data)
{
    answer_later(data, error ? g_error_copy(error) : NULL);
}

void
gw_moves_abandon(GwMoves *moves, const char *id, bool peer_is_off, GwMovesJsonFn callback,
                 void *data)
{
    GwMove *move = gw_moves_find(moves, id);
    Answer *answer = answer_new(moves, id, callback, data);
    GError *error = NULL;

    if (!move) {
        error = g_error_new(GW_ERROR, GW_ERROR_NOT_FOUND,
                            "there is no move '%.40s': see 'godwit migration list'", id);
    } else if (gw_move_may_abandon(move, peer_is_off, &error)) {
        gw_move_abandon(move, on_abandoned, answer);
        return;
    }
    answer_later(answer, error);
}

void
gw_moves_postcopy(GwMoves *moves, const char *id, GwMovesJsonFn callback, void *data)
{
    GwMove *move = gw_moves_find(moves, id);
    GError *error = NULL;

    if (!move) {
        error = g_error_new(GW_ERROR, GW_ERROR_NOT_FOUND,
                            "there is no move '%.40s': see 'godwit migration list'", id);
    } else if (!gw_move_may_post(move)) {
        error = g_error_new(GW_ERROR, GW_ERROR_STATE,
                            "move %s was begun without post-copy: cancel it and begin it with "
                            "--mode " GW_MODE_HYBRID,
                            id);
    } else if (gw_move_cell(move->state, GW_MOVE_EVENT_POSTCOPY_WANTED).verdict != GW_MOVE_GO) {
        error = g_error_new(GW_ERROR, GW_ERROR_STATE,
                            "move %s cannot switch to post-copy now: it is %s", id,
                            gw_move_state_info(move->state)->name);
    } else {
        gw_move_event(move, GW_MOVE_EVENT_POSTCOPY_WANTED, NULL);
    }
    answer_later(answer_new(moves, id, callback, data), error);
}

/* --- recovery --------------------------------------------------------------------------------- */

static bool
is_owned_by(GwVm *vm, const char *host, int64_t generation)
{
    return g_strcmp0(gw_vm_owner(vm), host) == 0 && gw_vm_generation(vm) == generation;
}

GwVm *
gw_moves_find_owned(GwMoves *moves, const char *vm_name, int64_t generation)
{
    GwVm *vm = gw_vms_find(moves->options.vms, vm_name);

    return vm && is_owned_by(vm, moves->options.host_name, generation) ? vm : NULL;
}

/*
 * Does the VM of that name belong to this move? Only if its owner record is what the state of the
 * move says: the VM may have been moved again since, and an operator may have one of that name. An
 * incoming VM comes back held by its move already.
 */
static bool
vm_is_of(GwMove *move, GwVm *vm)
{
    const char *here = move->moves->options.host_name;
    int64_t generation = move->generation;

    if (move->role == &gw_target_role) {
        return (move->state == GW_MOVE_ACCEPTED || move->state == GW_MOVE_FETCHING) &&
               is_owned_by(vm, here, generation + 1);
    }
    if (move->state == GW_MOVE_HANDED_OVER || move->state == GW_MOVE_POSTCOPY) {
        return is_owned_by(vm, move->peer, generation + 1);
    }
    return is_owned_by(vm, here, generation) ||
           (move->state == GW_MOVE_ROLLING_BACK && is_owned_by(vm, here, generation + 2));
}

static void
on_swept(GwVm *vm, const GError *error, void *data)
{
    if (error) {
        gw_err(NULL, "a left-over of a move could not be cleaned up: %s", error->message);
    }
}

/*
 * A crash between a final record and the clean-up that follows it leaves a copy behind. It is one
 * only if its owner record still is the one that this very move wrote and names the other host: the
 * name alone says nothing, as the VM, or another one of that name, may have come back since.
 */
static bool
is_left_over(const GwMove *move, GwVm *vm)
{
    bool given_away = move->state == GW_MOVE_SETTLED || move->state == GW_MOVE_GUEST_LOST;

    if (strcmp(move->vm_name, gw_vm_name(vm)) != 0 ||
        strcmp(move->peer, move->moves->options.host_name) == 0) {
        return false;
    }
    return (given_away && is_owned_by(vm, move->peer, move->generation + 1)) ||
           (move->state == GW_MOVE_REFUSED && is_owned_by(vm, move->peer, move->generation + 2));
}

static void
recover(GwMoves *moves, GwMove *move)
{
    GwVm *vm = gw_vms_find(moves->options.vms, move->vm_name);
    bool ours = vm && !gw_vm_held_by(vm) && vm_is_of(move, vm);

    gw_direct_remove_key(move);
    gw_post_remove_sockets(move);
    if (gw_move_is_final(move)) {
        bool abandoned = move->state == GW_MOVE_ABANDONED;
        int64_t generation = move->generation + (abandoned ? 2 : 1);

        if (vm && !gw_vm_held_by(vm) && is_owned_by(vm, moves->options.host_name, generation)) {
            gw_move_end_half(move, vm);
        }
        if (abandoned) {
            gw_source_tell_taken_back(move);
        }
        return;
    }
    if (ours) {
        gw_vm_hold(vm, move->id);
    }
    gw_move_fail(move, GW_MOVE_EVENT_RESTARTED, GW_ERROR_FAILED,
                 "VM '%s': godwitd on host '%s' was started again during the move", move->vm_name,
                 moves->options.host_name);
}

/* A VM comes back held by the move that its own record names: does that one still deal with it? */
static bool
is_in_hand(GwMoves *moves, GwVm *vm)
{
    const char *holder = gw_vm_held_by(vm);
    const GwMove *move = holder ? gw_moves_find(moves, holder) : NULL;

    return move && !gw_move_is_final(move);
}

/* After recovery has taken what is its own: finished moves' copies and orphans go. */
static void
sweep(GwMoves *moves)
{
    g_autoptr(GPtrArray) vms = gw_vms_list(moves->options.vms);

    for (guint i = 0; i < vms->len; i++) {
        GwVm *vm = g_ptr_array_index(vms, i);
        bool left_over = gw_vm_held_by(vm) != NULL;
        for (GList *item = moves->order.head; item && !left_over; item = item->next) {
            left_over = is_left_over(item->data, vm);
        }
        if (left_over && !is_in_hand(moves, vm)) {
            gw_vms_discard(moves->options.vms, vm, on_swept, NULL);
        }
    }
}

static gint
by_start(gconstpointer a, gconstpointer b, gpointer data)
{
    const GwMove *first = a;
    const GwMove *second = b;
    int64_t difference =
        gw_json_int(first->record, "started", 0) - gw_json_int(second->record, "started", 0);

    return (difference > 0) - (difference < 0);
}

static bool
is_state_of(GwMoveState state, bool is_source)
{
    return state == GW_MOVE_GUEST_LOST ||
           (state != GW_MOVE_N_STATES && gw_move_state_info(state)->target == !is_source);
}

static void
load_record(GwMoves *moves, const GwStoreEntry *entry)
{
    g_autoptr(GError) error = NULL;
    gsize len = 0;
    const void *text = g_bytes_get_data(entry->value, &len);
    g_autoptr(json_t) record =
        gw_json_parse(text, len, GW_STORE_MAX_VALUE_BYTES, entry->key, &error);
    const char *role = gw_json_str(record, "role", "");
    const char *id = gw_json_str(record, "id", "");
    int64_t generation = gw_json_int(record, "generation", 0);
    GwMoveState state = gw_move_state_from_name(gw_json_str(record, "state", ""));
    bool is_source = strcmp(role, "source") == 0;

    if (!record || !is_state_of(state, is_source) || generation < 0 ||
        generation > GW_MOVE_MAX_GENERATION || id[0] == '\0' || gw_moves_find(moves, id)) {
        gw_err(NULL, "the record '%s' is not understood and is left alone%s%s", entry->key,
               error ? ": " : "", error ? error->message : "");
        return;
    }
    const GwMoveRole *known = is_source ? &gw_source_role : &gw_target_role;
    gw_moves_add(moves, gw_move_new(moves, known, g_steal_pointer(&record)));
}

static void
on_loaded(const GPtrArray *entries, int64_t revision, const GError *error, void *data)
{
    GwMoves *moves = data;

    if (error) {
        moves->loaded(NULL, error, moves->loaded_data);
        return;
    }
    for (guint i = 0; i < entries->len; i++) {
        load_record(moves, g_ptr_array_index(entries, i));
    }
    g_queue_sort(&moves->order, by_start, NULL);
    moves->is_loaded = true;
    /* Newest first: should two claim a VM, the end of the older one was not written. */
    for (GList *item = moves->order.tail; item; item = item->prev) {
        recover(moves, item->data);
    }
    sweep(moves);
    moves->loaded(NULL, NULL, moves->loaded_data);
}

/* --- life ------------------------------------------------------------------------------------- */

GwMoves *
gw_moves_new(const GwMovesOptions *options, GwMovesJsonFn loaded, void *data)
{
    GwMoves *moves = g_new0(GwMoves, 1);

    moves->options = *options;
    moves->options.host_name = g_strdup(options->host_name);
    moves->options.run_dir = g_strdup(options->run_dir);
    moves->options.qemu_user = g_strdup(options->qemu_user);
    moves->options.index_dir = g_strdup(options->index_dir);
    if (moves->options.refuse_timeout_ms <= 0) {
        moves->options.refuse_timeout_ms = 120000;
    }
    if (moves->options.downtime_limit_ms <= 0) {
        moves->options.downtime_limit_ms = 300;
    }
    moves->by_id =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)gw_move_free);
    g_queue_init(&moves->order);
    moves->observers = g_ptr_array_new_with_free_func(g_free);
    moves->plans = g_ptr_array_new_with_free_func(plan_free);
    moves->visitors = g_ptr_array_new_with_free_func(gw_visitor_free);
    moves->answers = g_ptr_array_new_with_free_func(answer_free);
    moves->loaded = loaded;
    moves->loaded_data = data;
    gw_store_range(options->store, "move/", 0, on_loaded, moves);
    return moves;
}

void
gw_moves_set_caps(GwMoves *moves, const GwHostCaps *caps)
{
    moves->caps = caps;
}

void
gw_moves_free(GwMoves *moves)
{
    if (!moves) {
        return;
    }
    gw_store_forget(moves->options.store, moves);
    g_clear_handle_id(&moves->prune, g_source_remove);
    g_ptr_array_unref(moves->plans);
    g_ptr_array_unref(moves->visitors);
    g_ptr_array_unref(moves->answers);
    g_queue_clear(&moves->order);
    g_hash_table_unref(moves->by_id);
    g_ptr_array_unref(moves->observers);
    g_free((char *)moves->options.host_name);
    g_free((char *)moves->options.run_dir);
    g_free((char *)moves->options.qemu_user);
    g_free((char *)moves->options.index_dir);
    g_free(moves);
}
