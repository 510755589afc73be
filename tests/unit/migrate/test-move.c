// SPDX-License-Identifier: Apache-2.0
/*
 * The mover, with a role that only notes what it is told and a store that answers when the test
 * says so: every event in every state; the order of record and work; what comes while a write is
 * under way; a store that fails; timers; what is forgotten and what is kept.
 */
#include "support.h"

#include <string.h>

typedef struct Work {
    unsigned entered;
    GwMoveState state; /* when entered last */
    unsigned depth;
    GwMoveEvent raise; /* by the next work, if raising */
    bool raising;
    unsigned written;
    GwMoveState next; /* in the last write() */
} Work;

/* One move at a time. */
static Work work;

static void
fake_init(GwMove *move)
{
    work = (Work){0};
}

static void
fake_enter(GwMove *move)
{
    g_assert_cmpuint(work.depth, ==, 0);
    work.depth++;
    work.entered++;
    work.state = move->state;
    if (work.raising) {
        work.raising = false;
        gw_move_event(move, work.raise, NULL);
        g_assert_cmpint(move->state, ==, work.state);
    }
    work.depth--;
}

static void
fake_write(GwMove *move, GwMoveState next, GwStoreTxn *txn)
{
    work.written++;
    work.next = next;
    gw_store_txn_put_text(txn, "vm/web/owner", gw_move_state_info(next)->name);
}

static void
fake_report(GwMove *move, json_t *record)
{
    gw_json_set_int(record, "figure", 7);
}

static void
fake_free(GwMove *move)
{
}

static const GwMoveRole fake_role = {
    .name = "fake",
    .init = fake_init,
    .enter = fake_enter,
    .write = fake_write,
    .report = fake_report,
    .free = fake_free,
};

static json_t *
record_of(const char *id, const char *role, GwMoveState state)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "id", id, "vm", "web", "source",
                     strcmp(role, "source") == 0 ? "alpha" : "beta", "target",
                     strcmp(role, "source") == 0 ? "beta" : "alpha", "role", role, "state",
                     gw_move_state_info(state)->name, "generation", (json_int_t)1);
}

static GwMove *
move_in(Bench *bench, GwMoveState state)
{
    GwMove *move = gw_move_new(bench->moves, &fake_role, record_of("m-1", "source", state));

    gw_moves_add(bench->moves, move);
    return move;
}

static void
raise_event(GwMove *move, GwMoveEvent event)
{
    gw_move_fail(move, event, GW_ERROR_FAILED, "because of %s", gw_move_event_name(event));
}

/* --- every cell ------------------------------------------------------------------------------- */

static void
check_record(const char *text, GwMoveState state, GwMoveEvent event)
{
    const GwMoveStateInfo *info = gw_move_state_info(state);
    g_autoptr(json_t) record = gw_json_parse(text, strlen(text), 65536, "record", NULL);
    g_autofree char *why = g_strdup_printf("because of %s", gw_move_event_name(event));
    bool good_end = state == GW_MOVE_SETTLED || state == GW_MOVE_RUNNING;

    g_assert_cmpstr(gw_json_str(record, "state", ""), ==, info->name);
    g_assert_cmpstr(gw_json_str(record, "reason", ""), ==, why);
    g_assert_cmpstr(gw_json_str(record, "outcome", "none"), ==,
                    info->outcome ? info->outcome : "none");
    g_assert_true(gw_json_bool(record, "final", !info->final) == info->final);
    g_assert_cmpint(gw_json_int(record, "figure", 0), ==, 7);
    g_assert_true((json_object_get(record, "error") == NULL) == good_end);
    g_assert_true((json_object_get(record, "ended") != NULL) == info->final);
    const json_t *step = json_array_get(json_object_get(record, "history"), 0);
    g_assert_cmpstr(gw_json_str(step, "state", ""), ==, info->name);
}

static void
check_step(Bench *bench, GwMove *move, GwMoveState next, GwMoveEvent event)
{
    const GwMoveState before = move->state;
    const bool waits = gw_move_state_info(next)->durable_first;

    raise_event(move, event);
    g_assert_cmpuint(bench->fake->commits, ==, 1);
    g_assert_cmpuint(work.written, ==, 1);
    g_assert_cmpint(work.next, ==, next);
    g_autofree char *other = fake_store_pending_text(bench->fake, "vm/web/owner");
    g_autofree char *record = fake_store_pending_text(bench->fake, "move/m-1");
    g_assert_cmpstr(other, ==, gw_move_state_info(next)->name);
    check_record(record, next, event);
    g_assert_cmpuint(work.entered, ==, waits ? 0 : 1);
    g_assert_cmpint(move->state, ==, waits ? before : next);
    fake_store_answer(bench->fake, false);
    g_assert_cmpuint(work.entered, ==, 1);
    g_assert_cmpint(work.state, ==, next);
    g_assert_cmpint(move->state, ==, next);
}

static void
check_cell(GwMoveState state, GwMoveEvent event)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, state);
    GwMoveCell cell = gw_move_cell(state, event);

    bench.fake->manual = true;
    bench.fake->commits = 0;
    if (cell.verdict == GW_MOVE_GO) {
        check_step(&bench, move, cell.next, event);
    } else {
        raise_event(move, event);
        g_assert_cmpuint(bench.fake->commits, ==, 0);
        g_assert_cmpuint(work.entered, ==, cell.verdict == GW_MOVE_AGAIN ? 1 : 0);
        g_assert_cmpint(move->state, ==, state);
    }
    g_assert_true(g_queue_is_empty(&bench.fake->pending));
    bench_clear(&bench);
}

static void
test_every_event_in_every_state(void)
{
    for (GwMoveState state = 0; state < GW_MOVE_N_STATES; state++) {
        for (GwMoveEvent event = 0; event < GW_MOVE_N_EVENTS; event++) {
            check_cell(state, event);
        }
    }
}

/* --- order ------------------------------------------------------------------------------------ */

static void
test_events_wait_for_the_write(void)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_SWITCHOVER);

    bench.fake->manual = true;
    raise_event(move, GW_MOVE_EVENT_STREAM_SENT);
    /* Too late for a cancel, in time for the answer: decided by the state that was being written.
     */
    raise_event(move, GW_MOVE_EVENT_CANCEL);
    raise_event(move, GW_MOVE_EVENT_QEMU_GONE);
    raise_event(move, GW_MOVE_EVENT_PEER_REFUSED);
    g_assert_cmpint(move->state, ==, GW_MOVE_SWITCHOVER);
    g_assert_cmpuint(bench.fake->pending.length, ==, 1);
    fake_store_answer(bench.fake, false);
    g_assert_cmpint(move->state, ==, GW_MOVE_ROLLING_BACK);
    g_assert_cmpuint(work.entered, ==, 2);
    fake_store_answer(bench.fake, false);
    bench_clear(&bench);
}

/* What a state's work raises is handled when that work is done, also after a durable step. */
static void
test_work_is_not_interrupted(void)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_CHECKED);

    bench.fake->manual = true;
    work.raising = true;
    work.raise = GW_MOVE_EVENT_FAILED;
    raise_event(move, GW_MOVE_EVENT_READY);
    raise_event(move, GW_MOVE_EVENT_CANCEL); /* came first */
    fake_store_answer(bench.fake, false);
    g_assert_cmpint(move->state, ==, GW_MOVE_CANCELLING);
    fake_store_answer_all(bench.fake);
    bench_clear(&bench);
}

static void
test_first_record(void)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_PLANNED);

    bench.fake->manual = true;
    gw_move_begin(move, NULL, NULL);
    raise_event(move, GW_MOVE_EVENT_CANCEL);
    g_assert_cmpuint(work.entered, ==, 0);
    fake_store_answer(bench.fake, false);
    g_assert_cmpuint(work.entered, ==, 2);
    g_assert_cmpint(move->state, ==, GW_MOVE_CANCELLING);
    fake_store_answer_all(bench.fake);
    bench_clear(&bench);
}

static void
on_begun_told(const GwStoreTxnResult *result, const GError *error, void *data)
{
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    *(bool *)data = true;
}

static void
test_first_record_fails(void)
{
    Bench bench;
    bool told = false;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_PLANNED);

    bench.fake->manual = true;
    gw_move_begin(move, on_begun_told, &told);
    raise_event(move, GW_MOVE_EVENT_CANCEL);
    fake_store_answer(bench.fake, true);
    g_assert_true(told);
    g_assert_null(gw_moves_find(bench.moves, "m-1"));
    g_assert_cmpuint(bench.moves->order.length, ==, 0);
    bench_clear(&bench);
}

/* Nothing that was written for a move reaches it after its end. */
static void
test_freed_during_a_write(void)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_SWITCHOVER);

    bench.fake->manual = true;
    raise_event(move, GW_MOVE_EVENT_STREAM_SENT);
    g_clear_pointer(&bench.moves, gw_moves_free);
    fake_store_answer(bench.fake, false);
    bench_clear(&bench);
}

/* --- a store that fails ----------------------------------------------------------------------- */

static void
test_store_fails(void)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_SWITCHOVER);

    bench.fake->manual = true;
    raise_event(move, GW_MOVE_EVENT_STREAM_SENT);
    raise_event(move, GW_MOVE_EVENT_PEER_RUNNING);
    fake_store_answer(bench.fake, true);
    /* Not given up, not at once taken back either. */
    g_assert_cmpint(move->state, ==, GW_MOVE_SWITCHOVER);
    g_assert_cmpuint(work.entered, ==, 0);
    WAIT_FOR(move->state == GW_MOVE_ROLLING_BACK);
    g_autofree char *text = fake_store_pending_text(bench.fake, "move/m-1");
    g_assert_nonnull(strstr(text, "the disk is full"));
    g_assert_null(strstr(text, "handed-over"));
    fake_store_answer_all(bench.fake);
    bench_clear(&bench);
}

/* A refusal must be durable: it is tried again until it is, and not a thousand times a second. */
static void
test_no_busy_loop(void)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_INCOMING);
    int64_t begin_us = g_get_monotonic_time();

    bench.fake->full = true;
    bench.fake->commits = 0;
    raise_event(move, GW_MOVE_EVENT_FAILED);
    WAIT_FOR(bench.fake->commits >= 3);
    g_assert_cmpint(g_get_monotonic_time() - begin_us, >=, 900000);
    g_assert_cmpuint(work.entered, ==, 0);
    bench.fake->full = false;
    WAIT_FOR(move->state == GW_MOVE_REFUSED);
    g_assert_cmpuint(work.entered, ==, 1);
    bench_clear(&bench);
}

/* --- timers ----------------------------------------------------------------------------------- */

static void
shorten(GwMovesOptions *options)
{
    options->prepare_timeout_ms = 20;
    options->switchover_timeout_ms = 20;
    options->precopy_timeout_ms = 60000;
}

static void
test_timeout(void)
{
    Bench bench;
    bench_init(&bench, shorten);
    GwMove *move = move_in(&bench, GW_MOVE_PLANNED);

    raise_event(move, GW_MOVE_EVENT_CHECKS_PASSED);
    WAIT_FOR(move->state == GW_MOVE_ROLLING_BACK);
    g_assert_nonnull(strstr(gw_json_str(move->record, "reason", ""), "'checked'"));
    bench_clear(&bench);
}

static void
test_timeout_of_the_request(void)
{
    Bench bench;
    bench_init(&bench, shorten);
    GwMove *move = move_in(&bench, GW_MOVE_PREPARED);

    gw_json_set_int(move->record, "timeout_ms", 20);
    raise_event(move, GW_MOVE_EVENT_STARTED);
    WAIT_FOR(move->state == GW_MOVE_ROLLING_BACK);
    bench_clear(&bench);
}

/* The timer of the state before does not strike in the next one. */
static void
test_timer_is_of_the_state(void)
{
    Bench bench;
    bench_init(&bench, shorten);
    GwMove *move = move_in(&bench, GW_MOVE_PRECOPY);

    raise_event(move, GW_MOVE_EVENT_GUEST_STOPPED);
    g_assert_cmpuint(move->timer, !=, 0);
    raise_event(move, GW_MOVE_EVENT_QEMU_GONE);
    WAIT_FOR(move->state == GW_MOVE_GUEST_LOST);
    g_assert_cmpuint(move->timer, ==, 0);
    bench_clear(&bench);
}

/* --- records ---------------------------------------------------------------------------------- */

/* An error's text may be the other host's: however long, the record fits the store. */
static void
test_long_reasons(void)
{
    g_autofree char *text = g_strnfill(GW_LANE_MAX_MESSAGE_BYTES, '\x01');
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_HANDED_OVER);

    gw_move_fail(move, GW_MOVE_EVENT_PEER_REFUSED, GW_ERROR_FAILED, "%s", text);
    gw_move_fail(move, GW_MOVE_EVENT_GUEST_RUNNING, GW_ERROR_FAILED, "%s", text);
    WAIT_FOR(move->state == GW_MOVE_ROLLED_BACK);
    g_autoptr(json_t) record = fake_store_record(bench.fake, "m-1");
    g_assert_cmpstr(gw_json_str(record, "state", ""), ==, "rolled-back");
    bench_clear(&bench);
}

static void
test_first_cause_stays(void)
{
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_PRECOPY);

    gw_move_fail(move, GW_MOVE_EVENT_LINK_LOST, GW_ERROR_UNREACHABLE, "the cable was pulled");
    gw_move_fail(move, GW_MOVE_EVENT_QEMU_GONE, GW_ERROR_GUEST_LOST, "and QEMU ended");
    WAIT_FOR(move->state == GW_MOVE_GUEST_LOST);
    const json_t *error = json_object_get(move->record, "error");
    g_assert_cmpstr(gw_json_str(error, "message", ""), ==, "the cable was pulled");
    g_assert_cmpstr(gw_json_str(error, "code", ""), ==, "unreachable");
    g_assert_cmpuint(json_array_size(json_object_get(move->record, "history")), ==, 2);
    bench_clear(&bench);
}

/* --- what is told ----------------------------------------------------------------------------- */

static void
note_event(json_t *event, void *data)
{
    g_string_append_printf(data, "%s:%s ", gw_json_str(event, "event", ""),
                           gw_json_str(json_object_get(event, "move"), "state", ""));
}

static void
test_observers(void)
{
    g_autoptr(GString) told = g_string_new(NULL);
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_CANCELLING);

    gw_moves_observe(bench.moves, note_event, told);
    gw_move_progress(move);
    gw_move_progress(move); /* at most 5 times a second */
    raise_event(move, GW_MOVE_EVENT_GUEST_RUNNING);
    WAIT_FOR(move->state == GW_MOVE_CANCELLED);
    g_assert_cmpstr(told->str, ==, "progress:cancelling state:cancelled end:cancelled ");
    gw_moves_unobserve(bench.moves, told);
    bench_clear(&bench);
}

/* The end is told when what has to be cleaned up is, too. */
static void
test_end_waits_for_calls(void)
{
    g_autoptr(GString) told = g_string_new(NULL);
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_CANCELLING);

    gw_moves_observe(bench.moves, note_event, told);
    move->calls = 1;
    raise_event(move, GW_MOVE_EVENT_GUEST_RUNNING);
    WAIT_FOR(move->state == GW_MOVE_CANCELLED);
    g_assert_cmpstr(told->str, ==, "state:cancelled ");
    gw_move_call_done(move);
    g_assert_cmpstr(told->str, ==, "state:cancelled end:cancelled ");
    gw_moves_unobserve(bench.moves, told);
    bench_clear(&bench);
}

static void
on_end_told(const GError *error, void *data)
{
    *(Told *)data = (Told){.done = true, .error = error ? g_error_copy(error) : NULL};
}

/* Whoever abandons a move hears that it was not written, or that all of it has ended. */
static void
test_abandoned(void)
{
    g_auto(Told) failed = {0};
    g_auto(Told) told = {0};
    Bench bench;
    bench_init(&bench, NULL);
    GwMove *move = move_in(&bench, GW_MOVE_HANDED_OVER);

    bench.fake->manual = true;
    gw_move_abandon(move, on_end_told, &failed);
    g_assert_cmpint(move->state, ==, GW_MOVE_HANDED_OVER);
    fake_store_answer(bench.fake, true);
    g_assert_error(failed.error, GW_ERROR, GW_ERROR_IO);
    WAIT_FOR(!move->next_record);
    g_assert_cmpint(move->state, ==, GW_MOVE_HANDED_OVER);
    g_assert_cmpuint(work.entered, ==, 0);

    move->calls = 1;
    gw_move_abandon(move, on_end_told, &told);
    fake_store_answer(bench.fake, false);
    g_assert_cmpint(move->state, ==, GW_MOVE_ABANDONED);
    g_assert_false(told.done);
    gw_move_call_done(move);
    g_assert_true(told.done);
    g_assert_no_error(told.error);
    bench_clear(&bench);
}

/* --- history ---------------------------------------------------------------------------------- */

static const char *
some_address(const char *host, void *network)
{
    return strcmp(host, "beta") == 0 ? "127.0.0.1" : NULL;
}

static void
short_history(GwMovesOptions *options)
{
    options->max_history = 1;
    options->network.address = some_address;
}

static GwMove *
add_final(Bench *bench, const GwMoveRole *role, const char *id, GwMoveState state)
{
    json_t *record = record_of(id, role == &gw_source_role ? "source" : "target", state);
    GwMove *move = gw_move_new(bench->moves, role, record);

    gw_moves_add(bench->moves, move);
    gw_move_save(move);
    return move;
}

static void
test_pruning(void)
{
    Bench bench;
    bench_init(&bench, short_history);
    add_final(&bench, &gw_source_role, "m-old", GW_MOVE_SETTLED);
    add_final(&bench, &gw_target_role, "m-refused", GW_MOVE_REFUSED);
    add_final(&bench, &gw_target_role, "m-came", GW_MOVE_RUNNING);
    GwMove *known = add_final(&bench, &gw_target_role, "m-known", GW_MOVE_RUNNING);
    GwMove *busy = add_final(&bench, &gw_source_role, "m-busy", GW_MOVE_SETTLED);
    add_final(&bench, &gw_source_role, "m-taken", GW_MOVE_ABANDONED);
    GwMove *let_go = add_final(&bench, &gw_source_role, "m-let-go", GW_MOVE_ABANDONED);
    GwMove *removed = add_final(&bench, &gw_source_role, "m-removed", GW_MOVE_ABANDONED);
    GwMove *move = move_in(&bench, GW_MOVE_CANCELLING);

    gw_json_set_bool(known->record, "settled", true);
    gw_json_set_bool(let_go->record, "settled", true);
    g_free(removed->peer);
    removed->peer = g_strdup("gone");
    busy->calls = 1;
    raise_event(move, GW_MOVE_EVENT_GUEST_RUNNING);
    WAIT_FOR(!gw_moves_find(bench.moves, "m-old"));
    g_assert_null(gw_moves_find(bench.moves, "m-refused"));
    g_assert_null(gw_moves_find(bench.moves, "m-known"));
    g_assert_null(gw_moves_find(bench.moves, "m-let-go"));
    g_assert_null(gw_moves_find(bench.moves, "m-removed"));
    /* The other host is to hear that it was taken back. */
    g_assert_nonnull(gw_moves_find(bench.moves, "m-taken"));
    g_assert_nonnull(gw_moves_find(bench.moves, "m-1"));
    g_assert_nonnull(gw_moves_find(bench.moves, "m-busy"));
    /* Its source may still ask what became of the guest. */
    g_assert_nonnull(gw_moves_find(bench.moves, "m-came"));
    WAIT_FOR(!g_hash_table_contains(bench.fake->values, "move/m-old"));
    g_assert_true(g_hash_table_contains(bench.fake->values, "move/m-came"));
    busy->calls = 0;
    bench_clear(&bench);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/move/every-event-in-every-state", test_every_event_in_every_state);
    g_test_add_func("/move/events-wait-for-the-write", test_events_wait_for_the_write);
    g_test_add_func("/move/work-is-not-interrupted", test_work_is_not_interrupted);
    g_test_add_func("/move/first-record", test_first_record);
    g_test_add_func("/move/first-record-fails", test_first_record_fails);
    g_test_add_func("/move/freed-during-a-write", test_freed_during_a_write);
    g_test_add_func("/move/store-fails", test_store_fails);
    g_test_add_func("/move/no-busy-loop", test_no_busy_loop);
    g_test_add_func("/move/timeout", test_timeout);
    g_test_add_func("/move/timeout-of-the-request", test_timeout_of_the_request);
    g_test_add_func("/move/timer-is-of-the-state", test_timer_is_of_the_state);
    g_test_add_func("/move/long-reasons", test_long_reasons);
    g_test_add_func("/move/first-cause-stays", test_first_cause_stays);
    g_test_add_func("/move/observers", test_observers);
    g_test_add_func("/move/end-waits-for-calls", test_end_waits_for_calls);
    g_test_add_func("/move/abandoned", test_abandoned);
    g_test_add_func("/move/pruning", test_pruning);
    return g_test_run();
}
