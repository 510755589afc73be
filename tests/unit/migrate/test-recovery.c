// SPDX-License-Identifier: Apache-2.0
/*
 * What a restarted daemon makes of the records of moves, with the real store and real QEMUs: each
 * state with and without its guest, records that are older than the VM they name, and left-overs.
 * Whatever a record says, a VM of this host's own is not touched.
 */
#include "../vm/host.h"
#include "base/fd.h"
#include "support.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define WEB "[vm]\nname = web\nmemory = 64 MiB\n"

typedef struct Rig {
    Host *host;
    GwMoves *moves;
    unsigned asked; /* sessions that were wanted */
} Rig;

static GwLane *
no_connection(const char *host, const GwLaneWishes *wishes, const GwLaneHandlers *handlers,
              void *data, void *network, GError **error)
{
    ((Rig *)network)->asked++;
    g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND, "host '%s' is not known", host);
    return NULL;
}

static const char *
no_address(const char *host, void *network)
{
    return NULL;
}

static void
load_moves(Rig *rig)
{
    const GwMovesOptions options = {
        .store = rig->host->store,
        .vms = rig->host->vms,
        .host_name = "alpha",
        .run_dir = rig->host->run_dir,
        .qemu_user = rig->host->qemu_user,
        .network = {no_connection, no_address, rig},
        .max_history = 1000,
        .max_incoming = 4,
    };

    rig->moves = moves_load(&options, host_caps());
}

static void
rig_init(Rig *rig)
{
    *rig = (Rig){.host = host_new()};
}

static void
rig_clear(Rig *rig)
{
    g_clear_pointer(&rig->moves, gw_moves_free);
    host_free(rig->host);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

static GwVm *
web_of(Rig *rig)
{
    return gw_vms_find(rig->host->vms, "web");
}

/* The daemon ends and comes back. */
static void
restart(Rig *rig)
{
    g_clear_pointer(&rig->moves, gw_moves_free);
    host_stop_daemon(rig->host);
    host_start_daemon(rig->host);
    load_moves(rig);
}

static void
put_move(Rig *rig, const char *id, const char *role, GwMoveState state, int64_t generation)
{
    const GwMoveStateInfo *info = gw_move_state_info(state);
    bool is_source = strcmp(role, "source") == 0;
    bool may_post = state == GW_MOVE_POSTCOPY || state == GW_MOVE_FETCHING;
    g_autofree char *key = g_strdup_printf("move/%s", id);
    g_autoptr(json_t) record = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:b, s:[{s:s}], s:I}", "id", id, "vm", "web", "source",
        is_source ? "alpha" : "beta", "target", is_source ? "beta" : "alpha", "role", role, "state",
        info->name, "generation", (json_int_t)generation, "final", info->final, "history", "state",
        info->name, "started", (json_int_t)g_get_real_time());
    gw_json_set_str(record, "mode", may_post ? GW_MODE_POST_COPY : GW_MODE_PRE_COPY);
    g_autofree char *text = gw_json_text(record);

    host_put_record(rig->host, key, text);
}

static void
put_owner(Rig *rig, const char *owner, int64_t generation)
{
    g_autofree char *text =
        g_strdup_printf("{\"host\":\"%s\",\"generation\":%" G_GINT64_FORMAT "}", owner, generation);

    host_put_record(rig->host, "vm/web/owner", text);
}

static GwMoveState
state_of(Rig *rig, const char *id)
{
    return gw_moves_find(rig->moves, id)->state;
}

/* What is in the store, which is what the next restart finds. */
static json_t *
record_of(Rig *rig, const char *id)
{
    g_autofree char *key = g_strdup_printf("move/%s", id);
    g_autofree char *text = host_record(rig->host, key);

    return gw_json_parse(text, strlen(text), 65536, key, NULL);
}

static void
assert_recorded(Rig *rig, const char *id, GwMoveState state)
{
    g_autoptr(json_t) record = record_of(rig, id);

    g_assert_cmpstr(gw_json_str(record, "state", ""), ==, gw_move_state_info(state)->name);
}

static void
on_reply(json_t *answer, const GError *error, void *data)
{
    g_assert_no_error(error);
    *(bool *)data = true;
}

static void
start_web(Rig *rig)
{
    GwVm *vm = web_of(rig) ? web_of(rig) : host_define(rig->host, WEB);

    host_start(rig->host, vm);
}

static void
pause_web(Rig *rig)
{
    bool done = false;

    gw_qmp_call(gw_vm_qmp(web_of(rig)), "stop", NULL, on_reply, &done);
    WAIT_FOR(done && gw_vm_state(web_of(rig)) == GW_VM_PAUSED);
}

/* As after a switchover: the guest stands still, its owner record says @owner. */
static pid_t
stand_still(Rig *rig, const char *owner, int64_t generation)
{
    start_web(rig);
    pause_web(rig);
    put_owner(rig, owner, generation);
    return vm_pid(web_of(rig));
}

static void
assert_untouched(Rig *rig, pid_t pid)
{
    GwVm *vm = web_of(rig);

    g_assert_nonnull(vm);
    g_assert_null(gw_vm_held_by(vm));
    g_assert_cmpint(gw_vm_state(vm), ==, pid ? GW_VM_RUNNING : GW_VM_STOPPED);
    if (pid) {
        g_assert_cmpint(vm_pid(vm), ==, pid);
    }
}

/* A zombie does not. */
static bool
runs(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = gw_file_read(path, 4096, NULL, NULL);
    const char *name_end = text ? strrchr(text, ')') : NULL;

    return name_end && !strchr("ZX", name_end[2]);
}

/* Whatever recovery began has time to show: a command goes to QEMU and back, and so does a write.
 */
static void
let_it_work(Rig *rig)
{
    for (unsigned i = 0; i < 3; i++) {
        g_free(host_record(rig->host, "vm/web/definition"));
        GwVm *vm = web_of(rig);
        bool done = false;
        if (vm && gw_vm_qmp(vm)) {
            gw_qmp_call(gw_vm_qmp(vm), "query-status", NULL, on_reply, &done);
            WAIT_FOR(done);
        }
    }
}

/* --- the source's states ---------------------------------------------------------------------- */

static void
test_before_the_commit_point(void)
{
    static const GwMoveState states[] = {GW_MOVE_PLANNED, GW_MOVE_PREPARED, GW_MOVE_SWITCHOVER,
                                         GW_MOVE_ROLLING_BACK, GW_MOVE_CANCELLING};
    g_auto(Rig) rig;
    rig_init(&rig);
    pid_t pid = stand_still(&rig, "alpha", 1);

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        bool cancelling = states[i] == GW_MOVE_CANCELLING;
        g_autofree char *id = g_strdup_printf("m-%u", i);
        put_move(&rig, id, "source", states[i], 1);
        restart(&rig);
        g_assert_cmpstr(gw_vm_held_by(web_of(&rig)), ==, id);
        WAIT_FOR(gw_move_is_final(gw_moves_find(rig.moves, id)));
        assert_recorded(&rig, id, cancelling ? GW_MOVE_CANCELLED : GW_MOVE_ROLLED_BACK);
        assert_untouched(&rig, pid);
        g_assert_cmpint(gw_vm_generation(web_of(&rig)), ==, 1);
        pause_web(&rig);
    }
    g_assert_cmpuint(rig.asked, ==, 0);
}

/* The host was started anew, or QEMU died while no daemon ran. */
static void
test_before_the_commit_point_without_qemu(void)
{
    static const GwMoveState states[] = {GW_MOVE_CHECKED, GW_MOVE_PRECOPY, GW_MOVE_CANCELLING};
    g_auto(Rig) rig;
    rig_init(&rig);
    host_define(rig.host, WEB);

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_autofree char *id = g_strdup_printf("m-%u", i);
        put_move(&rig, id, "source", states[i], 1);
        restart(&rig);
        WAIT_FOR(state_of(&rig, id) == GW_MOVE_GUEST_LOST);
        assert_recorded(&rig, id, GW_MOVE_GUEST_LOST);
        assert_untouched(&rig, 0);
    }
    start_web(&rig);
}

static void
test_handed_over(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    stand_still(&rig, "beta", 2);

    put_move(&rig, "m-1", "source", GW_MOVE_HANDED_OVER, 1);
    restart(&rig);
    let_it_work(&rig);
    /* Nobody knows what the target did: the guest stays as it is and nobody can start it. */
    g_assert_cmpint(state_of(&rig, "m-1"), ==, GW_MOVE_HANDED_OVER);
    g_assert_cmpuint(rig.asked, >=, 1);
    g_assert_cmpstr(gw_vm_held_by(web_of(&rig)), ==, "m-1");
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_PAUSED);
    g_autoptr(GError) error = host_fail_start(rig.host, web_of(&rig));
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
}

/* A session that is to be opened in a moment is not opened beside another one, which it would end.
 */
static void
test_one_session_at_a_time(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    stand_still(&rig, "beta", 2);

    put_move(&rig, "m-1", "source", GW_MOVE_POSTCOPY, 1);
    restart(&rig);
    let_it_work(&rig);
    GwMove *move = gw_moves_find(rig.moves, "m-1");
    GwSource *source = move->side;
    g_assert_cmpuint(rig.asked, >=, 1);
    gw_source_reconnect(source);
    unsigned asked = rig.asked;
    gw_move_event(move, GW_MOVE_EVENT_TIMEOUT, NULL);
    g_assert_cmpuint(rig.asked, ==, asked);
    g_assert_cmpuint(source->reconnect, !=, 0);
    gw_source_connect(source);
    g_assert_cmpuint(rig.asked, ==, asked + 1);
    g_assert_cmpuint(source->reconnect, ==, 0);
}

static void
test_taken_back(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    pid_t pid = stand_still(&rig, "alpha", 3);

    put_move(&rig, "m-1", "source", GW_MOVE_ROLLING_BACK, 1);
    restart(&rig);
    WAIT_FOR(state_of(&rig, "m-1") == GW_MOVE_ROLLED_BACK);
    assert_untouched(&rig, pid);
}

/* --- the target's states ---------------------------------------------------------------------- */

static void
come_in(Rig *rig, const char *move_id, bool spare)
{
    const json_t *q35 = json_object_get(host_caps()->machines, "q35");
    g_autoptr(json_t) info =
        json_pack("{s:s, s:s, s:s, s:s}", "accel", "tcg", "machine",
                  gw_json_str(q35, "alias_of", "q35"), "cpu", "max", "qemu_version", "10.0.0");
    g_auto(Outcome) outcome = {0};

    gw_json_set_bool(info, "spare_monitor", spare);
    gw_vms_prepare_incoming(rig->host->vms, definition_of(WEB), info, move_id, on_outcome,
                            &outcome);
    wait_outcome(&outcome);
    g_assert_no_error(outcome.error);
}

static void
test_coming_in(void)
{
    static const GwMoveState states[] = {GW_MOVE_PREPARING, GW_MOVE_INCOMING};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        put_move(&rig, "m-1", "target", states[i], 1);
        come_in(&rig, "m-1", false);
        pid_t pid = vm_pid(web_of(&rig));
        restart(&rig);
        WAIT_FOR(state_of(&rig, "m-1") == GW_MOVE_REFUSED && !web_of(&rig));
        g_assert_false(runs(pid));
        assert_recorded(&rig, "m-1", GW_MOVE_REFUSED);
        g_autofree char *records = host_record(rig.host, "vm/");
        g_assert_null(records);
    }
}

static gboolean
on_tick(gpointer data)
{
    return G_SOURCE_CONTINUE;
}

/* The main loop of the QEMU of that pid waits for somebody to read a pipe. */
static bool
stands_still(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/syscall", (int)pid);
    g_autofree char *text = gw_file_read(path, 4096, NULL, NULL);
    g_autofree char *open_call = g_strdup_printf("%d ", SYS_openat);

    return text && g_str_has_prefix(text, open_call);
}

static void
on_last_reply(json_t *answer, const GError *error, void *data)
{
    /* The daemon that asked is gone by then. */
}

static void
on_answer(json_t *answer, const GError *error, void *data)
{
    *(char **)data = error ? g_strdup(error->message) : gw_json_text(answer);
}

static void
expect_spare(GwSpare *spare, const char *command, json_t *arguments, const char *expected)
{
    g_autofree char *answer = NULL;

    gw_spare_call(spare, command, arguments, on_answer, &answer);
    WAIT_FOR(answer);
    g_assert_nonnull(strstr(answer, expected));
}

#define YANKS "[{\"type\":\"chardev\""
#define NOT_PAUSED                                                                                 \
    "QEMU refused 'migrate-recover': Migrate recover can only be run when postcopy is paused."

/* While the main loop stands still: out of band, and after a restart over the spare monitor. */
static void
test_main_loop_stands_still(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autofree char *pipe_path = g_build_filename(rig.host->run_dir, "pipe", NULL);
    g_autofree char *answer = NULL;

    g_assert_cmpint(g_chmod(rig.host->run_dir, 0711), ==, 0);
    g_assert_cmpint(mkfifo(pipe_path, 0600), ==, 0);
    g_assert_cmpint(g_chmod(pipe_path, 0666), ==, 0);
    come_in(&rig, "m-1", true);
    pid_t pid = vm_pid(web_of(&rig));
    g_autoptr(GwSpare) spare = gw_vm_open_spare(web_of(&rig), true, NULL);
    g_assert_nonnull(spare);
    expect_spare(spare, "query-yank", NULL, YANKS);
    g_clear_pointer(&spare, gw_spare_free);
    gw_qmp_call(gw_vm_qmp(web_of(&rig)), "pmemsave",
                json_pack("{s:i, s:i, s:s}", "val", 0, "size", 4096, "filename", pipe_path),
                on_last_reply, NULL);
    guint tick = g_timeout_add(5, on_tick, NULL);
    WAIT_FOR(stands_still(pid));
    gw_qmp_call_oob(gw_vm_qmp(web_of(&rig)), "query-yank", NULL, on_answer, &answer);
    WAIT_FOR(answer);
    g_assert_nonnull(strstr(answer, YANKS));

    host_stop_daemon(rig.host);
    host_start_daemon(rig.host);
    g_assert_true(stands_still(pid));
    g_assert_null(gw_vm_qmp(web_of(&rig)));
    spare = gw_vm_open_spare(web_of(&rig), false, NULL);
    g_assert_nonnull(spare);
    expect_spare(spare, "query-yank", NULL, YANKS);
    expect_spare(spare, "migrate-recover", json_pack("{s:s}", "uri", "unix:/x"), NOT_PAUSED);

    g_auto(GwFd) reader = open(pipe_path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    g_assert_cmpint(reader, >=, 0);
    WAIT_FOR(gw_vm_qmp(web_of(&rig)));
    g_source_remove(tick);
}

/* What it takes to recover the post-copy is there again. */
static void
test_fetching(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    come_in(&rig, "m-1", true);
    pid_t pid = vm_pid(web_of(&rig));

    host_put_record(rig.host, "vm/web/definition", WEB);
    put_owner(&rig, "alpha", 2);
    put_move(&rig, "m-1", "target", GW_MOVE_FETCHING, 1);
    restart(&rig);
    g_assert_cmpint(state_of(&rig, "m-1"), ==, GW_MOVE_FETCHING);
    g_assert_cmpint(vm_pid(web_of(&rig)), ==, pid);
    const GwTarget *target = gw_moves_find(rig.moves, "m-1")->side;
    g_assert_nonnull(target->post.spare);
}

static void
test_accepted(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    pid_t pid = stand_still(&rig, "alpha", 2);

    put_move(&rig, "m-1", "target", GW_MOVE_ACCEPTED, 1);
    restart(&rig);
    WAIT_FOR(state_of(&rig, "m-1") == GW_MOVE_RUNNING);
    WAIT_FOR(gw_vm_state(web_of(&rig)) == GW_VM_RUNNING);
    assert_untouched(&rig, pid);
    g_assert_cmpint(gw_vm_generation(web_of(&rig)), ==, 2);
}

/* Nobody knows whether it has run: it is not given back. */
static void
test_accepted_without_qemu(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    host_define(rig.host, WEB);
    put_owner(&rig, "alpha", 2);

    put_move(&rig, "m-1", "target", GW_MOVE_ACCEPTED, 1);
    restart(&rig);
    WAIT_FOR(state_of(&rig, "m-1") == GW_MOVE_GUEST_LOST);
    assert_untouched(&rig, 0);
}

/* --- abandoned -------------------------------------------------------------------------------- */

/* The other host, for long enough. */
static void
fall_silent(Rig *rig)
{
    gw_moves_find(rig->moves, "m-1")->heard_us = 0;
}

static void
assert_abandoned(Rig *rig, GwMoveState state, pid_t pid, int64_t generation)
{
    GwMoveState before = state_of(rig, "m-1");
    g_auto(Told) early = abandon(rig->moves, "m-1", true);
    g_assert_error(early.error, GW_ERROR, GW_ERROR_STATE);
    g_assert_nonnull(strstr(early.error->message, "this daemon was started"));
    fall_silent(rig);
    g_auto(Told) wordless = abandon(rig->moves, "m-1", false);
    g_assert_error(wordless.error, GW_ERROR, GW_ERROR_INVALID);
    g_assert_nonnull(strstr(wordless.error->message, "two copies"));
    g_assert_cmpint(state_of(rig, "m-1"), ==, before);
    g_assert_cmpstr(gw_vm_held_by(web_of(rig)), ==, "m-1");
    g_auto(Told) told = abandon(rig->moves, "m-1", true);
    g_autofree char *expected = g_strdup_printf("alpha\",\"generation\":%d", (int)generation);

    g_assert_no_error(told.error);
    g_assert_cmpstr(gw_json_str(told.object, "outcome", ""), ==, "guest-lost");
    g_assert_nonnull(strstr(gw_json_str(told.object, "reason", ""), "godwit vm start web"));
    assert_recorded(rig, "m-1", state);
    g_assert_false(runs(pid));
    assert_untouched(rig, 0);
    g_autofree char *owner = host_record(rig->host, "vm/web/owner");
    g_assert_nonnull(strstr(owner, expected));
    g_auto(Told) again = abandon(rig->moves, "m-1", true);
    g_assert_error(again.error, GW_ERROR, GW_ERROR_STATE);
    g_assert_nonnull(strstr(again.error->message, "has ended"));

    /* From its disks, and over a restart of the daemon. */
    host_start(rig->host, web_of(rig));
    pid_t anew = vm_pid(web_of(rig));
    restart(rig);
    let_it_work(rig);
    assert_untouched(rig, anew);
}

static void
test_abandon_on_the_target(void)
{
    static const GwMoveState states[] = {GW_MOVE_ACCEPTED, GW_MOVE_FETCHING};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        come_in(&rig, "m-1", true);
        pid_t pid = vm_pid(web_of(&rig));
        GwStoreTxn *txn = gw_store_txn_new();

        gw_vms_txn_take_over(rig.host->vms, web_of(&rig), 2, txn);
        gw_store_commit(rig.host->store, txn, NULL, NULL);
        put_move(&rig, "m-1", "target", GW_MOVE_FETCHING, 1);
        restart(&rig);
        gw_moves_find(rig.moves, "m-1")->state = states[i];
        assert_abandoned(&rig, GW_MOVE_GUEST_LOST, pid, 2);
    }
}

static void
test_abandon_on_the_source(void)
{
    static const GwMoveState states[] = {GW_MOVE_POSTCOPY, GW_MOVE_HANDED_OVER};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        pid_t pid = stand_still(&rig, "beta", 2);
        put_move(&rig, "m-1", "source", states[i], 1);
        restart(&rig);
        unsigned asked = rig.asked;
        assert_abandoned(&rig, GW_MOVE_ABANDONED, pid, 3);
        /* The other host is to hear of it, and still after the restart. */
        g_assert_cmpuint(rig.asked, >=, asked + 2);
    }
}

/* QEMU died before, or the host was started anew. */
static void
test_abandon_without_qemu(void)
{
    static const GwMoveState states[] = {GW_MOVE_POSTCOPY, GW_MOVE_HANDED_OVER};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        host_define(rig.host, WEB);
        put_owner(&rig, "beta", 2);
        put_move(&rig, "m-1", "source", states[i], 1);
        restart(&rig);
        fall_silent(&rig);
        g_auto(Told) told = abandon(rig.moves, "m-1", true);
        g_assert_no_error(told.error);
        assert_recorded(&rig, "m-1", GW_MOVE_ABANDONED);
        host_start(rig.host, web_of(&rig));
    }
}

/* What can start by itself is not a matter of the other host. */
static void
test_abandon_accepted_pre_copy(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    host_define(rig.host, WEB);

    put_move(&rig, "m-1", "target", GW_MOVE_GUEST_LOST, 1);
    restart(&rig);
    gw_moves_find(rig.moves, "m-1")->state = GW_MOVE_ACCEPTED;
    g_auto(Told) told = abandon(rig.moves, "m-1", true);
    g_assert_error(told.error, GW_ERROR, GW_ERROR_STATE);
    g_assert_nonnull(strstr(told.error->message, "ends by itself"));
    g_auto(Told) unknown = abandon(rig.moves, "m-2", true);
    g_assert_error(unknown.error, GW_ERROR, GW_ERROR_NOT_FOUND);
}

/* --- records that are older than the VM ------------------------------------------------------- */

/* A stale record claims a VM that has come back, or that a later move holds. */
static void
test_stale_records(void)
{
    static const struct {
        const char *role;
        GwMoveState state;
        int64_t generation; /* the VM is alpha's with 3 */
    } stale[] = {
        {"source", GW_MOVE_HANDED_OVER, 1}, {"source", GW_MOVE_HANDED_OVER, 2},
        {"source", GW_MOVE_SWITCHOVER, 1},  {"source", GW_MOVE_SWITCHOVER, 2},
        {"source", GW_MOVE_CANCELLING, 1},  {"target", GW_MOVE_ACCEPTED, 1},
        {"target", GW_MOVE_PREPARING, 2},   {"target", GW_MOVE_INCOMING, 2},
    };
    g_auto(Rig) rig;
    rig_init(&rig);
    start_web(&rig);
    pid_t pid = vm_pid(web_of(&rig));

    put_owner(&rig, "alpha", 3);
    for (unsigned i = 0; i < G_N_ELEMENTS(stale); i++) {
        g_autofree char *id = g_strdup_printf("m-%u", i);
        put_move(&rig, id, stale[i].role, stale[i].state, stale[i].generation);
        restart(&rig);
        WAIT_FOR(stale[i].state == GW_MOVE_HANDED_OVER ||
                 gw_move_is_final(gw_moves_find(rig.moves, id)));
        let_it_work(&rig);
        assert_untouched(&rig, pid);
        g_autofree char *key = g_strdup_printf("move/%s", id);
        host_put_record(rig.host, key, "{}"); /* not understood: left alone from now on */
    }
}

/* Two records claim the VM: the newer one is right. */
static void
test_two_claims(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    stand_still(&rig, "beta", 2);

    put_move(&rig, "m-1", "source", GW_MOVE_ROLLING_BACK, 1);
    put_move(&rig, "m-2", "source", GW_MOVE_HANDED_OVER, 1);
    restart(&rig);
    WAIT_FOR(state_of(&rig, "m-1") == GW_MOVE_GUEST_LOST);
    let_it_work(&rig);
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_PAUSED);
    g_assert_cmpstr(gw_vm_held_by(web_of(&rig)), ==, "m-2");
}

/* --- left-overs ------------------------------------------------------------------------------- */

static void
test_left_overs(void)
{
    static const struct {
        const char *role;
        GwMoveState state;
        int64_t owned; /* by beta; the move began with 1 */
    } left[] = {
        {"source", GW_MOVE_SETTLED, 2},
        {"source", GW_MOVE_GUEST_LOST, 2},
        {"target", GW_MOVE_REFUSED, 3},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(left); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        pid_t pid = stand_still(&rig, "beta", left[i].owned);
        put_move(&rig, "m-1", left[i].role, left[i].state, 1);
        restart(&rig);
        WAIT_FOR(!web_of(&rig));
        g_assert_false(runs(pid));
    }
}

static void
test_incoming_left_overs(void)
{
    static const char *const holders[] = {"m-1", "m-unknown"};

    for (unsigned i = 0; i < G_N_ELEMENTS(holders); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        come_in(&rig, holders[i], false);
        put_move(&rig, "m-1", "target", GW_MOVE_REFUSED, 1);
        restart(&rig);
        WAIT_FOR(!web_of(&rig));
    }
}

/* A crash came before the half of a lost guest was ended. What was started later is left alone. */
static void
test_half_of_a_lost_guest(void)
{
    for (unsigned i = 0; i < 4; i++) {
        const bool is_half = i % 2;
        const bool abandoned = i / 2;
        g_auto(Rig) rig;
        rig_init(&rig);
        start_web(&rig);
        GwProcessId process = gw_vm_process(web_of(&rig));

        put_owner(&rig, "alpha", abandoned ? 3 : 2);
        put_move(&rig, "m-1", abandoned ? "source" : "target",
                 abandoned ? GW_MOVE_ABANDONED : GW_MOVE_GUEST_LOST, 1);
        g_autoptr(json_t) record = record_of(&rig, "m-1");
        json_object_set_new(record, "half",
                            json_pack("{s:I, s:I}", "pid", (json_int_t)process.pid, "start_ticks",
                                      (json_int_t)process.start_ticks - !is_half));
        g_autofree char *text = gw_json_text(record);
        host_put_record(rig.host, "move/m-1", text);
        restart(&rig);
        if (is_half) {
            WAIT_FOR(gw_moves_find(rig.moves, "m-1")->calls == 0);
            g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_STOPPED);
            g_assert_false(runs(process.pid));
            g_autoptr(json_t) after = record_of(&rig, "m-1");
            g_assert_null(json_object_get(after, "half"));
        } else {
            let_it_work(&rig);
            assert_untouched(&rig, process.pid);
        }
    }
}

/* Finished moves of all kinds and generations, and a VM that is this host's own. */
static void
test_own_vm_is_never_swept(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    start_web(&rig);
    pid_t pid = vm_pid(web_of(&rig));
    unsigned n = 0;

    put_owner(&rig, "alpha", 3);
    for (GwMoveState state = 0; state < GW_MOVE_N_STATES; state++) {
        const GwMoveStateInfo *info = gw_move_state_info(state);
        for (int64_t generation = 1; info->final && generation < 5; generation++) {
            g_autofree char *id = g_strdup_printf("m-%u", n++);
            put_move(&rig, id, info->target ? "target" : "source", state, generation);
            if (state == GW_MOVE_GUEST_LOST) {
                g_autofree char *other = g_strdup_printf("m-%u", n++);
                put_move(&rig, other, "target", state, generation);
            }
        }
    }
    restart(&rig);
    let_it_work(&rig);
    assert_untouched(&rig, pid);
    host_kill(rig.host, web_of(&rig));
    restart(&rig);
    let_it_work(&rig);
    assert_untouched(&rig, 0);
}

/* --- records that cannot be understood -------------------------------------------------------- */

static void
test_bad_records(void)
{
    static const char *const bad[] = {
        "",
        "not json",
        "[]",
        "{}",
        "{\"id\":\"m-0\",\"vm\":\"web\",\"role\":\"source\",\"state\":\"asleep\"}",
        "{\"id\":\"m-0\",\"vm\":\"web\",\"role\":\"source\",\"state\":\"accepted\"}",
        "{\"id\":\"m-0\",\"vm\":\"web\",\"role\":\"target\",\"state\":\"handed-over\"}",
        ("{\"id\":\"m-0\",\"vm\":\"web\",\"role\":\"source\",\"state\":\"handed-over\","
         "\"generation\":9223372036854775807}"),
        "{\"id\":7,\"vm\":[],\"role\":{},\"state\":\"planned\",\"generation\":\"many\"}",
    };
    g_auto(Rig) rig;
    rig_init(&rig);
    host_define(rig.host, WEB);

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        host_put_record(rig.host, "move/m-0", bad[i]);
        restart(&rig);
        g_autoptr(json_t) list = gw_moves_list(rig.moves, 0);
        g_assert_cmpuint(json_array_size(list), ==, 0);
        g_autofree char *text = host_record(rig.host, "move/m-0");
        g_assert_cmpstr(text, ==, bad[i]);
        assert_untouched(&rig, 0);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/recovery/before-the-commit-point", test_before_the_commit_point);
    g_test_add_func("/recovery/before-the-commit-point-without-qemu",
                    test_before_the_commit_point_without_qemu);
    g_test_add_func("/recovery/handed-over", test_handed_over);
    g_test_add_func("/recovery/one-session-at-a-time", test_one_session_at_a_time);
    g_test_add_func("/recovery/taken-back", test_taken_back);
    g_test_add_func("/recovery/coming-in", test_coming_in);
    g_test_add_func("/recovery/main-loop-stands-still", test_main_loop_stands_still);
    g_test_add_func("/recovery/fetching", test_fetching);
    g_test_add_func("/recovery/accepted", test_accepted);
    g_test_add_func("/recovery/accepted-without-qemu", test_accepted_without_qemu);
    g_test_add_func("/recovery/abandon-on-the-target", test_abandon_on_the_target);
    g_test_add_func("/recovery/abandon-on-the-source", test_abandon_on_the_source);
    g_test_add_func("/recovery/abandon-without-qemu", test_abandon_without_qemu);
    g_test_add_func("/recovery/abandon-accepted-pre-copy", test_abandon_accepted_pre_copy);
    g_test_add_func("/recovery/stale-records", test_stale_records);
    g_test_add_func("/recovery/two-claims", test_two_claims);
    g_test_add_func("/recovery/left-overs", test_left_overs);
    g_test_add_func("/recovery/incoming-left-overs", test_incoming_left_overs);
    g_test_add_func("/recovery/half-of-a-lost-guest", test_half_of_a_lost_guest);
    g_test_add_func("/recovery/own-vm-is-never-swept", test_own_vm_is_never_swept);
    g_test_add_func("/recovery/bad-records", test_bad_records);
    return hosts_run();
}
