// SPDX-License-Identifier: Apache-2.0
/*
 * The receiving host with a real QEMU that waits, and a source played by the test: it goes, aborts,
 * lies, or is silent at each step, and QEMU or the store fail. Whatever it does, nothing runs here
 * that was not given and proven, what is refused is gone before that is said, and no other VM is
 * touched. (Whole streams are the scenarios' business.)
 */
#include "../vm/host.h"
#include "base/fd.h"
#include "peer.h"

#include <glib/gstdio.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#define ID   "m-0123456789ab"
#define UUID "5f0c9a52-3a0e-4d2b-9f5e-0123456789ab"
#define TEXT "[vm]\nname = web\nmemory = 64 MiB\nuuid = " UUID "\n"

typedef struct Rig {
    Host *host;
    Peer peer;
    FakeStore *fake; /* of the moves, if they have one of their own */
    GwNetworks *networks;
    GwMoves *moves;
} Rig;

static void
no_script(Peer *peer, GwLane *lane, json_t *message)
{
    g_assert_not_reached();
}

static void
rig_init_with(Rig *rig, FakeStore *fake)
{
    *rig =
        (Rig){.host = host_new(), .fake = fake, .networks = gw_networks_parse("127.0.0.1", NULL)};
    /* QEMU's user has to get through. */
    g_assert_cmpint(g_chmod(rig->host->run_dir, 0711), ==, 0);
    peer_init(&rig->peer, no_script, NULL);
    const GwMovesOptions options = {
        .store = fake ? fake->store : rig->host->store,
        .vms = rig->host->vms,
        .host_name = "alpha",
        .run_dir = rig->host->run_dir,
        .qemu_user = rig->host->qemu_user,
        .network = {peer_connect, peer_address, &rig->peer},
        .direct_port_min = 49300,
        .direct_port_max = 49400,
        .plain_networks = rig->networks,
        .connect_timeout_ms = 500,
        .refuse_timeout_ms = 300,
        .max_history = 1000,
        .max_incoming = 4,
    };

    rig->moves = moves_load(&options, host_caps());
    peer_open_door(&rig->peer, rig->moves);
}

static void
rig_init(Rig *rig)
{
    rig_init_with(rig, NULL);
}

static void
rig_clear(Rig *rig)
{
    gw_moves_free(rig->moves);
    host_free(rig->host);
    peer_clear(&rig->peer);
    g_clear_pointer(&rig->fake, fake_store_free);
    gw_networks_free(rig->networks);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

static GwVm *
web_of(Rig *rig)
{
    return gw_vms_find(rig->host->vms, "web");
}

static GwMove *
move_of(Rig *rig)
{
    return gw_moves_find(rig->moves, ID);
}

static json_t *
prepare_message(const char *transport)
{
    const json_t *q35 = json_object_get(host_caps()->machines, "q35");

    return json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:{s:s, s:s, s:s}}", "do", "prepare", "move",
                     ID, "vm", "web", "generation", 1, "transport", transport, "definition", TEXT,
                     "run", "accel", "tcg", "machine", gw_json_str(q35, "alias_of", "q35"), "cpu",
                     "max");
}

static json_t *
given_up(int64_t generation)
{
    return json_pack("{s:s, s:s, s:s, s:I}", "do", "given-up", "move", ID, "vm", "web",
                     "generation", (json_int_t)generation);
}

/* As far as "prepared". */
static Caller *
prepare(Rig *rig, const char *transport)
{
    Caller *caller = caller_new(&rig->peer);

    caller_say(caller, prepare_message(transport));
    const json_t *answer = caller_hear(caller);
    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, "prepared");
    g_assert_cmpint(gw_vm_state(web_of(rig)), ==, GW_VM_INCOMING);
    g_assert_cmpstr(gw_vm_held_by(web_of(rig)), ==, ID);
    return caller;
}

static void
assert_refused(Rig *rig)
{
    WAIT_FOR(move_of(rig)->state == GW_MOVE_REFUSED && !web_of(rig));
    WAIT_FOR(move_of(rig)->calls == 0);
    g_autofree char *record = host_record(rig->host, "move/" ID);
    g_assert_nonnull(strstr(record, "\"refused\""));
    g_autofree char *vm = host_record(rig->host, "vm/");
    g_assert_null(vm);
}

/* "refused" is said when nothing of it is left here. */
static void
hear_refused(Rig *rig, Caller *caller)
{
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "refused");
    g_assert_null(web_of(rig));
    assert_refused(rig);
}

/* --- before the stream ------------------------------------------------------------------------ */

static void
test_abort(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = prepare(&rig, "lane");

    caller_say(caller,
               json_pack("{s:s, s:s, s:{s:i}}", "do", "abort", "move", ID, "error", "code", 7));
    hear_refused(&rig, caller);
}

/* While QEMU is being started, at several moments. */
static void
test_abort_while_preparing(void)
{
    for (unsigned i = 0; i < 6; i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        g_autoptr(Caller) caller = caller_new(&rig.peer);
        caller_say(caller, prepare_message("lane"));
        if (i > 0) {
            WAIT_FOR(web_of(&rig));
        }
        for (unsigned n = 0; n < 3 * i; n++) {
            g_main_context_iteration(NULL, FALSE);
        }
        caller_say(caller, json_pack("{s:s, s:s}", "do", "abort", "move", ID));
        WAIT_FOR(move_of(&rig));
        assert_refused(&rig);
    }
}

static void
test_source_goes(void)
{
    for (unsigned i = 0; i < 4; i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        Caller *caller = i == 3 ? prepare(&rig, "lane") : caller_new(&rig.peer);
        if (i < 3) {
            caller_say(caller, prepare_message("lane"));
            WAIT_FOR(i == 0 ? move_of(&rig) != NULL : web_of(&rig) != NULL);
        }
        caller_free(caller);
        assert_refused(&rig);
    }
}

static void
test_qemu_killed(void)
{
    static const char *const transports[] = {"lane", "direct", "plain"};

    for (unsigned i = 0; i < G_N_ELEMENTS(transports); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        g_autoptr(Caller) caller = prepare(&rig, transports[i]);
        kill(vm_pid(web_of(&rig)), SIGKILL);
        hear_refused(&rig, caller);
    }
}

/* QEMU ends between its start and the report of it. */
static void
test_qemu_killed_while_preparing(void)
{
    for (unsigned i = 0; i < 8; i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        g_autoptr(Caller) caller = caller_new(&rig.peer);
        caller_say(caller, prepare_message("lane"));
        WAIT_FOR(web_of(&rig) && vm_pid(web_of(&rig)) > 0);
        for (unsigned n = 0; n < 2 * i && vm_pid(web_of(&rig)) > 0; n++) {
            g_main_context_iteration(NULL, FALSE);
        }
        if (web_of(&rig) && vm_pid(web_of(&rig)) > 0) {
            kill(vm_pid(web_of(&rig)), SIGKILL);
        }
        WAIT_FOR(move_of(&rig)->state == GW_MOVE_REFUSED);
        assert_refused(&rig);
    }
}

static void
test_operator_cancels(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = prepare(&rig, "lane");

    gw_move_fail(move_of(&rig), GW_MOVE_EVENT_CANCEL, GW_ERROR_CANCELLED, "cancelled on request");
    hear_refused(&rig, caller);
}

/* An operator's own VM of that name, in any state of its history, stays what it is. */
static void
test_name_is_taken(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwVm *own = host_define(rig.host, TEXT);
    host_start(rig.host, own);
    pid_t pid = vm_pid(own);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    caller_say(caller, prepare_message("lane"));
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "refused");
    g_assert_cmpint(vm_pid(web_of(&rig)), ==, pid);
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_RUNNING);
    g_assert_null(gw_vm_held_by(web_of(&rig)));
    /* And so it does when it is asked about that move. */
    g_autoptr(Caller) again = caller_new(&rig.peer);
    caller_say(again, given_up(2));
    g_assert_cmpstr(gw_json_str(caller_hear(again), "do", ""), ==, "refused");
    g_assert_cmpint(vm_pid(web_of(&rig)), ==, pid);
}

static void
test_direct(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autofree char *folder = g_strdup_printf("%s/key-" ID, rig.host->run_dir);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    caller_say(caller, prepare_message("direct"));
    const json_t *answer = caller_hear(caller);
    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, "prepared");
    g_assert_cmpint(gw_json_int(answer, "port", 0), >=, 49300);
    g_assert_cmpuint(strlen(gw_json_str(answer, "psk", "")), ==, 64);
    g_assert_true(g_file_test(folder, G_FILE_TEST_IS_DIR));
    /* The key is in no record. */
    g_autofree char *record = host_record(rig.host, "move/" ID);
    g_assert_null(strstr(record, gw_json_str(answer, "psk", "")));
    caller_say(caller, json_pack("{s:s, s:s}", "do", "abort", "move", ID));
    hear_refused(&rig, caller);
    g_assert_false(g_file_test(folder, G_FILE_TEST_EXISTS));
}

/* A connection to the door; @key NULL: it says nothing. */
static GwFd
knock(const json_t *prepared, const char *key)
{
    const struct sockaddr_in place = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                      .sin_port =
                                          htons((uint16_t)gw_json_int(prepared, "port", 0))};
    GwFd fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(fd, (const struct sockaddr *)&place, sizeof(place)), ==, 0);
    g_assert_true(!key || gw_fd_write_full(fd, key, strlen(key)));
    return fd;
}

static bool
is_open(const json_t *prepared)
{
    const struct sockaddr_in place = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                      .sin_port =
                                          htons((uint16_t)gw_json_int(prepared, "port", 0))};
    g_auto(GwFd) fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    return connect(fd, (const struct sockaddr *)&place, sizeof(place)) == 0;
}

/* Who shows the key is QEMU's from then on, and the door is closed; what comes is no guest. */
static void
test_plain(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = prepare(&rig, "plain");
    g_autoptr(json_t) prepared = json_incref(g_ptr_array_index(caller->answers, 0));
    const char *key = gw_json_str(prepared, "psk", "");
    g_autofree char *folder = g_strdup_printf("%s/key-" ID, rig.host->run_dir);
    static const char nonsense[] = "This is not what QEMU's stream begins with, nor its end.";
    GwTarget *target = move_of(&rig)->side;

    g_assert_cmpuint(strlen(key), ==, 64);
    g_assert_false(g_file_test(folder, G_FILE_TEST_EXISTS)); /* no file, no record has it */
    g_autofree char *record = host_record(rig.host, "move/" ID);
    g_assert_null(strstr(record, key));
    g_assert_nonnull(strstr(record, "\"transport\":\"plain\""));
    g_auto(GwFd) fd = knock(prepared, key);
    WAIT_FOR(!target->door);
    g_assert_false(is_open(prepared));
    bool written = gw_fd_write_full(fd, nonsense, sizeof nonsense);
    g_assert_true(written);
    gw_fd_clear(&fd);
    hear_refused(&rig, caller);
}

/* However a move ends before the source came, nothing listens any more. */
static void
test_plain_ends(void)
{
    for (unsigned i = 0; i < 3; i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        g_autoptr(Caller) caller = prepare(&rig, "plain");
        g_autoptr(json_t) prepared = json_incref(g_ptr_array_index(caller->answers, 0));
        g_auto(GwFd) silent = knock(prepared, NULL);
        if (i == 0) {
            caller_say(caller, json_pack("{s:s, s:s}", "do", "abort", "move", ID));
        } else if (i == 1) {
            gw_move_fail(move_of(&rig), GW_MOVE_EVENT_CANCEL, GW_ERROR_CANCELLED, "on request");
        } /* else nobody comes in time */
        hear_refused(&rig, caller);
        char byte;
        g_assert_false(is_open(prepared));
        g_assert_cmpint(recv(silent, &byte, 1, 0), <=, 0);
        const json_t *error = json_object_get(move_of(&rig)->record, "error");
        g_assert_true(i < 2 || strstr(gw_json_str(error, "message", ""), "--transport lane"));
    }
}

/* The source's checks may have been forgotten, or the networks be others by now. */
static void
test_plain_is_not_allowed(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(GwNetworks) elsewhere = gw_networks_parse("10.77.0.0/24", NULL);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    rig.moves->options.plain_networks = elsewhere;
    caller_say(caller, prepare_message("plain"));
    const json_t *answer = caller_hear(caller);
    const json_t *error = json_object_get(answer, "error");
    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, "refused");
    g_assert_nonnull(strstr(gw_json_str(error, "message", ""), "no network with 127.0.0.1"));
    g_assert_null(move_of(&rig));
    g_assert_null(web_of(&rig));
}

/* What can be read back of the guest is told. */
static void
test_tells_placed(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    caller_say(caller, prepare_message("lane"));
    const json_t *answer = caller_hear(caller);
    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, "prepared");
    const json_t *placed = json_object_get(answer, "placed");
    if (placed) {
        g_assert_cmpuint(json_array_size(placed), ==, 1);
        g_assert_cmpstr(json_string_value(json_array_get(placed, 0)), ==, "pc.ram");
    } else {
        g_test_skip("this system does not let QEMU's memory be written to");
    }
    caller_say(caller, json_pack("{s:s, s:s}", "do", "abort", "move", ID));
    hear_refused(&rig, caller);
}

/* --- a source that lies ----------------------------------------------------------------------- */

/* Given up, but nothing was sent: never started, and refused after a while. */
static void
test_given_up_without_a_stream(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = prepare(&rig, "lane");

    caller_say(caller, given_up(2));
    caller_say(caller, given_up(2));
    hear_refused(&rig, caller);
}

static void
test_given_up_early(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    caller_say(caller, prepare_message("lane"));
    caller_say(caller, given_up(2)); /* before QEMU was even started */
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "prepared");
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_INCOMING);
    hear_refused(&rig, caller);
}

static void
test_other_generation(void)
{
    static const int64_t generations[] = {INT64_MIN, 0, 1, 3, INT64_MAX};

    for (unsigned i = 0; i < G_N_ELEMENTS(generations); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        g_autoptr(Caller) caller = prepare(&rig, "lane");
        caller_say(caller, given_up(generations[i]));
        hear_refused(&rig, caller);
    }
}

/* Things that are not said here, or of another move, change nothing. */
static void
test_babble(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = prepare(&rig, "lane");

    caller_say(caller, prepare_message("lane"));
    caller_say(caller, json_pack("{s:s, s:s}", "do", "abort", "move", "m-ffffffffffff"));
    caller_say(caller, json_pack("{s:s, s:s}", "do", "running", "move", ID));
    caller_say(caller, json_pack("{s:i, s:[]}", "do", 7, "move"));
    g_autoptr(Caller) other = caller_new(&rig.peer);
    caller_say(other, prepare_message("lane"));
    g_assert_cmpstr(gw_json_str(caller_hear(other), "do", ""), ==, "refused");
    g_assert_cmpint(move_of(&rig)->state, ==, GW_MOVE_INCOMING);
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_INCOMING);
    /* Settled before anything has happened: only the session ends, and with it the move. */
    caller_say(caller, json_pack("{s:s, s:s}", "do", "settled", "move", ID));
    assert_refused(&rig);
    g_assert_false(gw_json_bool(move_of(&rig)->record, "settled", false));
}

/* A stream that is no guest: QEMU does not load it. */
static void
test_nonsense_stream(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = prepare(&rig, "lane");
    g_autoptr(GError) error = NULL;
    GwFd pair[2];
    static const char nonsense[] = "This is not what QEMU's stream begins with, nor its end.";

    bool made = gw_fd_socketpair(pair, &error);
    g_assert_true(made);
    bool started = gw_lane_start_stream(caller->lane, pair[0], &error);
    g_assert_no_error(error);
    g_assert_true(started);
    bool written = gw_fd_write_full(pair[1], nonsense, sizeof nonsense);
    g_assert_true(written);
    gw_fd_close(pair[1]);
    caller_say(caller, given_up(2));
    hear_refused(&rig, caller);
}

/* --- the records ------------------------------------------------------------------------------ */

/* Until the write of ACCEPTED is under way, which the fake store holds. */
static GwMove *
hold_accepted(Rig *rig, Caller *caller)
{
    GwMove *move = move_of(rig);
    GwTarget *target = move->side;

    WAIT_FOR(g_queue_is_empty(&rig->fake->pending));
    rig->fake->manual = true;
    target->loaded = target->stream_whole = true;
    caller_say(caller, given_up(2));
    WAIT_FOR(!g_queue_is_empty(&rig->fake->pending));
    return move;
}

/*
 * QEMU dies while ACCEPTED is being written: it was never started, so the guest goes back to the
 * source, and the owner record with it, in one transaction.
 */
static void
test_start_refused(void)
{
    g_auto(Rig) rig;
    rig_init_with(&rig, fake_store_new());
    g_autoptr(Caller) caller = prepare(&rig, "lane");
    GwMove *move = hold_accepted(&rig, caller);

    g_autofree char *ours = fake_store_pending_text(rig.fake, "vm/web/owner");
    g_assert_cmpstr(ours, ==, "{\"host\":\"alpha\",\"generation\":2}");
    kill(vm_pid(web_of(&rig)), SIGKILL);
    WAIT_FOR(gw_vm_state(web_of(&rig)) == GW_VM_STOPPED);
    g_assert_cmpint(move->state, ==, GW_MOVE_INCOMING);
    fake_store_answer(rig.fake, false);
    g_assert_cmpint(move->state, ==, GW_MOVE_ACCEPTED);
    g_autofree char *theirs = fake_store_pending_text(rig.fake, "vm/web/owner");
    g_assert_cmpstr(theirs, ==, "{\"host\":\"beta\",\"generation\":3}");
    g_assert_cmpuint(caller->answers->len, ==, 1);
    fake_store_answer(rig.fake, false);
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "refused");
    g_assert_null(web_of(&rig));
    rig.fake->manual = false;
}

/* ACCEPTED cannot be written: nothing was started, so it is refused when the store can say so. */
static void
test_accepted_is_not_written(void)
{
    g_auto(Rig) rig;
    rig_init_with(&rig, fake_store_new());
    g_autoptr(Caller) caller = prepare(&rig, "lane");
    GwMove *move = move_of(&rig);
    GwTarget *target = move->side;

    WAIT_FOR(g_queue_is_empty(&rig.fake->pending));
    rig.fake->full = true;
    rig.fake->commits = 0;
    target->loaded = target->stream_whole = true;
    caller_say(caller, given_up(2));
    WAIT_FOR(rig.fake->commits >= 2);
    caller_say(caller, given_up(2));
    g_assert_cmpint(move->state, ==, GW_MOVE_INCOMING);
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_INCOMING);
    g_assert_cmpuint(caller->answers->len, ==, 1);
    rig.fake->full = false;
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "refused");
    g_assert_null(web_of(&rig));
}

/* --- taken back ------------------------------------------------------------------------------- */

static json_t *
taken_back(void)
{
    return json_pack("{s:s, s:s, s:s, s:i}", "do", "taken-back", "move", ID, "vm", "web",
                     "generation", 3);
}

/* The move in that state, and the VM as it left it: owned by this host, generation @owned. */
static GwMove *
came_here(Rig *rig, GwMoveState state, int64_t owned)
{
    json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:s}", "id", ID, "vm",
                               "web", "source", "beta", "target", "alpha", "role", "target",
                               "state", gw_move_state_info(state)->name, "generation",
                               (json_int_t)1, "mode", "post-copy", "vm_uuid", UUID);
    GwVm *vm = host_define(rig->host, TEXT);
    GwMove *move = gw_move_new(rig->moves, &gw_target_role, record);

    g_autofree char *owner = g_strdup_printf("{\"host\":\"alpha\",\"generation\":%d}", (int)owned);
    host_put_record(rig->host, "vm/web/owner", owner);
    gw_vms_set_owner(rig->host->vms, vm, "alpha", owned);
    host_start(rig->host, vm);
    if (!gw_move_is_final(move)) {
        gw_vm_hold(vm, ID);
    }
    gw_moves_add(rig->moves, move);
    return move;
}

static void
hear_let_go(Rig *rig)
{
    g_autoptr(Caller) caller = caller_new(&rig->peer);

    caller_say(caller, taken_back());
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "let-go");
}

/* It stays, and the source hears what it is. */
static void
hear_copy_stays(Rig *rig)
{
    g_autoptr(Caller) caller = caller_new(&rig->peer);
    pid_t pid = vm_pid(web_of(rig));

    caller_say(caller, taken_back());
    const json_t *answer = caller_hear(caller);
    const json_t *error = json_object_get(answer, "error");
    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, "failed");
    g_assert_nonnull(strstr(gw_json_str(error, "message", ""), "generation 2 is on host 'alpha'"));
    g_assert_cmpint(vm_pid(web_of(rig)), ==, pid);
    g_assert_cmpint(gw_vm_state(web_of(rig)), ==, GW_VM_RUNNING);
}

/* The copy of the older generation is gone before that is said, even if it runs. */
static void
test_taken_back(void)
{
    static const GwMoveState states[] = {GW_MOVE_ACCEPTED, GW_MOVE_FETCHING, GW_MOVE_RUNNING,
                                         GW_MOVE_GUEST_LOST};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        GwMove *move = came_here(&rig, states[i], 2);
        hear_let_go(&rig);
        g_assert_null(web_of(&rig));
        g_assert_cmpint(move->state, ==,
                        states[i] == GW_MOVE_RUNNING ? GW_MOVE_RUNNING : GW_MOVE_GUEST_LOST);
        g_autofree char *record = host_record(rig.host, "move/" ID);
        g_assert_nonnull(strstr(record, "\"settled\":true"));
        g_autofree char *vm = host_record(rig.host, "vm/");
        g_assert_null(vm);
        WAIT_FOR(move->calls == 0);
    }
}

/* The stream had not even come: it is refused, and gone before that is said. */
static void
test_taken_back_while_coming(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = prepare(&rig, "lane");

    caller_say(caller, taken_back());
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "let-go");
    g_assert_null(web_of(&rig));
    assert_refused(&rig);
}

/* What came back since, what the source has confirmed, and what is in another move stay. */
static void
test_taken_back_too_late(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwMove *move = came_here(&rig, GW_MOVE_RUNNING, 4);
    pid_t pid = vm_pid(web_of(&rig));

    hear_let_go(&rig);
    g_assert_cmpint(vm_pid(web_of(&rig)), ==, pid);

    gw_vms_set_owner(rig.host->vms, web_of(&rig), "alpha", 2);
    hear_copy_stays(&rig); /* settled meanwhile */

    json_object_del(move->record, "settled");
    gw_vm_hold(web_of(&rig), "m-other");
    g_autoptr(Caller) caller = caller_new(&rig.peer);
    caller_say(caller, taken_back());
    WAIT_FOR(((GwTarget *)move->side)->lane);
    gw_vm_release(web_of(&rig));
    g_assert_cmpuint(caller->answers->len, ==, 0);
    g_assert_cmpint(vm_pid(web_of(&rig)), ==, pid);
    hear_let_go(&rig);
    g_assert_null(web_of(&rig));
}

/* A peer chooses name, generation and UUID of what it prepares: what is here is not its for that.
 */
static void
test_taken_back_refused(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwVm *own = host_define(rig.host, TEXT);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    host_start(rig.host, own);
    gw_vms_set_owner(rig.host->vms, own, "alpha", 2);
    hear_copy_stays(&rig); /* of a move that is not known */
    caller_say(caller, prepare_message("lane"));
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "refused");
    g_assert_cmpstr(gw_json_str(move_of(&rig)->record, "vm_uuid", ""), ==, UUID);
    hear_copy_stays(&rig);
}

/* Undefined, and another one of that name came since; or nobody knows whether it did. */
static void
test_taken_back_another(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwMove *move = came_here(&rig, GW_MOVE_RUNNING, 2);
    pid_t pid = vm_pid(web_of(&rig));

    json_object_del(move->record, "vm_uuid");
    hear_copy_stays(&rig);
    g_assert_false(gw_json_bool(move->record, "settled", false));
    gw_json_set_str(move->record, "vm_uuid", ID);
    hear_let_go(&rig);
    g_assert_cmpint(vm_pid(web_of(&rig)), ==, pid);
}

/* While ACCEPTED is being written: the guest is not started any more. */
static void
test_taken_back_while_accepting(void)
{
    g_auto(Rig) rig;
    rig_init_with(&rig, fake_store_new());
    g_autoptr(Caller) caller = prepare(&rig, "lane");
    GwMove *move = hold_accepted(&rig, caller);
    GwTarget *target = move->side;

    caller_say(caller, taken_back());
    WAIT_FOR(target->taken_back);
    fake_store_answer(rig.fake, false);
    g_assert_cmpint(move->state, ==, GW_MOVE_ACCEPTED);
    g_assert_true(target->never_started);
    rig.fake->manual = false;
    fake_store_answer_all(rig.fake);
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "let-go");
    g_assert_cmpint(move->state, ==, GW_MOVE_GUEST_LOST);
    g_assert_null(web_of(&rig));
}

static void
test_freed_on_the_way(void)
{
    for (unsigned i = 0; i < 6; i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        g_autoptr(Caller) caller = caller_new(&rig.peer);
        caller_say(caller, prepare_message(gw_transport_name(i % GW_TRANSPORT_N)));
        WAIT_FOR(i < 2 ? move_of(&rig) != NULL : web_of(&rig) != NULL);
        if (i > 3) {
            WAIT_FOR(move_of(&rig)->state == GW_MOVE_INCOMING);
            gw_move_fail(move_of(&rig), GW_MOVE_EVENT_CANCEL, GW_ERROR_CANCELLED, "cancelled");
        }
        /* As the daemon does: VMs go right after the moves. */
        g_clear_pointer(&rig.moves, gw_moves_free);
        host_stop_daemon(rig.host);
        host_start_daemon(rig.host);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/target/abort", test_abort);
    g_test_add_func("/target/abort-while-preparing", test_abort_while_preparing);
    g_test_add_func("/target/source-goes", test_source_goes);
    g_test_add_func("/target/qemu-killed", test_qemu_killed);
    g_test_add_func("/target/qemu-killed-while-preparing", test_qemu_killed_while_preparing);
    g_test_add_func("/target/operator-cancels", test_operator_cancels);
    g_test_add_func("/target/name-is-taken", test_name_is_taken);
    g_test_add_func("/target/direct", test_direct);
    g_test_add_func("/target/plain", test_plain);
    g_test_add_func("/target/plain-ends", test_plain_ends);
    g_test_add_func("/target/plain-is-not-allowed", test_plain_is_not_allowed);
    g_test_add_func("/target/tells-placed", test_tells_placed);
    g_test_add_func("/target/given-up-without-a-stream", test_given_up_without_a_stream);
    g_test_add_func("/target/given-up-early", test_given_up_early);
    g_test_add_func("/target/other-generation", test_other_generation);
    g_test_add_func("/target/babble", test_babble);
    g_test_add_func("/target/nonsense-stream", test_nonsense_stream);
    g_test_add_func("/target/start-refused", test_start_refused);
    g_test_add_func("/target/accepted-is-not-written", test_accepted_is_not_written);
    g_test_add_func("/target/taken-back", test_taken_back);
    g_test_add_func("/target/taken-back-while-coming", test_taken_back_while_coming);
    g_test_add_func("/target/taken-back-too-late", test_taken_back_too_late);
    g_test_add_func("/target/taken-back-refused", test_taken_back_refused);
    g_test_add_func("/target/taken-back-another", test_taken_back_another);
    g_test_add_func("/target/taken-back-while-accepting", test_taken_back_while_accepting);
    g_test_add_func("/target/freed-on-the-way", test_freed_on_the_way);
    return hosts_run();
}
