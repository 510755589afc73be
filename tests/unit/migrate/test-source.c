// SPDX-License-Identifier: Apache-2.0
/*
 * The sending host with a real QEMU and a target that does what a script says: answers of all
 * kinds, too early, wrong, twice or never, and sessions that end at each step. Whatever the target
 * does, the guest runs here afterwards unless it was given up, and nothing holds the VM.
 */
#include "../vm/host.h"
#include "base/fd.h"
#include "lane/encodings.h"
#include "peer.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>

typedef struct Rig {
    Peer peer;
    Host *host;
    GwNetworks *networks;
    GwMoves *moves;
    GwMove *move;
    /* The script's. */
    int64_t port;     /* where it says that it waits for the memory */
    const char *step; /* at which it misbehaves */
    const char *word; /* what it says there; NULL: it hangs up */
    unsigned asked;   /* "given-up" */
} Rig;

static void
rig_init(Rig *rig, ScriptFn script)
{
    *rig = (Rig){.host = host_new(), .networks = gw_networks_parse("127.0.0.1", NULL)};
    peer_init(&rig->peer, script, rig);
    const GwMovesOptions options = {
        .store = rig->host->store,
        .vms = rig->host->vms,
        .host_name = "alpha",
        .run_dir = rig->host->run_dir,
        .qemu_user = rig->host->qemu_user,
        .network = {peer_connect, peer_address, &rig->peer},
        .plain_networks = rig->networks,
        .max_history = 1000,
        .max_incoming = 4,
    };

    rig->moves = moves_load(&options, NULL);
    host_start(rig->host, host_define(rig->host, "[vm]\nname = web\nmemory = 64 MiB\n"));
}

static void
rig_clear(Rig *rig)
{
    gw_moves_free(rig->moves);
    host_free(rig->host);
    peer_clear(&rig->peer);
    gw_networks_free(rig->networks);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

static GwVm *
web_of(Rig *rig)
{
    return gw_vms_find(rig->host->vms, "web");
}

static void
on_started(json_t *object, const GError *error, void *data)
{
    Rig *rig = data;

    g_assert_no_error(error);
    rig->move = gw_moves_find(rig->moves, gw_json_str(object, "id", ""));
}

static void
start_move_over(Rig *rig, const char *transport)
{
    const GwMoveRequest request = {.vm = "web", .host = "beta", .transport = transport};

    rig->move = NULL;
    gw_moves_start(rig->moves, &request, on_started, rig);
    WAIT_FOR(rig->move);
}

static void
start_move(Rig *rig)
{
    start_move_over(rig, NULL);
}

static void
wait_for_move(Rig *rig, GwMoveState state)
{
    WAIT_FOR(gw_move_is_final(rig->move) || rig->move->state == state);
    if (rig->move->state != state) {
        g_error("%s: %s", gw_move_state_info(rig->move->state)->name,
                gw_json_str(rig->move->record, "reason", ""));
    }
}

static void
assert_back(Rig *rig, int64_t generation)
{
    wait_for_move(rig, GW_MOVE_ROLLED_BACK);
    WAIT_FOR(gw_vm_state(web_of(rig)) == GW_VM_RUNNING);
    g_assert_null(gw_vm_held_by(web_of(rig)));
    g_assert_cmpstr(gw_vm_owner(web_of(rig)), ==, "alpha");
    g_assert_cmpint(gw_vm_generation(web_of(rig)), ==, generation);
    g_autofree char *owner = host_record(rig->host, "vm/web/owner");
    g_autoptr(json_t) record = gw_json_parse(owner, strlen(owner), 4096, "owner", NULL);
    g_assert_cmpint(gw_json_int(record, "generation", 0), ==, generation);
    g_assert_cmpstr(gw_json_str(record, "host", ""), ==, "alpha");
}

static void
assert_gone(Rig *rig)
{
    WAIT_FOR(!web_of(rig));
    g_autofree char *records = host_record(rig->host, "vm/");
    g_assert_null(records);
}

/* --- the target ------------------------------------------------------------------------------- */

static json_t *
error_of(const char *text)
{
    return json_pack("{s:{s:s, s:s}}", "error", "code", "failed", "message", text);
}

static void
behave(Peer *peer, GwLane *lane, json_t *message)
{
    const char *what = gw_json_str(message, "do", "");

    if (strcmp(what, "check") == 0) {
        peer_say(lane, message, "checked",
                 json_pack("{s:[{s:s, s:s}]}", "checks", "id", "x", "status", "ok"));
    } else if (strcmp(what, "prepare") == 0) {
        peer_swallow_stream(peer, lane);
        peer_say(lane, message, "prepared", NULL);
    }
}

/* Does as it should until rig->step, then says rig->word or hangs up. */
static void
misbehave(Peer *peer, GwLane *lane, json_t *message)
{
    Rig *rig = peer->data;
    const char *what = gw_json_str(message, "do", "");

    rig->asked += strcmp(what, "given-up") == 0;
    if (strcmp(what, rig->step) != 0) {
        behave(peer, lane, message);
    } else if (rig->word) {
        peer_say(lane, message, rig->word, error_of("because"));
    } else {
        peer_hang_up(peer, lane);
    }
}

/* --- before the commit point ------------------------------------------------------------------ */

static void
test_wrong_words(void)
{
    static const struct {
        const char *step;
        const char *word;
    } cases[] = {
        {"check", NULL},      {"check", "running"},   {"check", "prepared"},
        {"prepare", NULL},    {"prepare", "running"}, {"prepare", "refused"},
        {"prepare", "lost"},  {"prepare", "failed"},  {"prepare", "checked"},
        {"prepare", "dance"},
    };
    g_auto(Rig) rig;
    rig_init(&rig, misbehave);

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        rig.step = cases[i].step;
        rig.word = cases[i].word;
        start_move(&rig);
        assert_back(&rig, 1);
    }
}

/* Ready, and gone before this host has written that it is. */
static void
prepared_and_gone(Peer *peer, GwLane *lane, json_t *message)
{
    behave(peer, lane, message);
    if (strcmp(gw_json_str(message, "do", ""), "prepare") == 0) {
        gw_lane_finish(lane);
    }
}

static void
test_gone_when_prepared(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, prepared_and_gone);

    for (unsigned i = 0; i < 10; i++) {
        start_move(&rig);
        assert_back(&rig, 1);
    }
}

/* Twice the same, and things that do not belong there, in between; each is ignored or ends the
 * move. */
static void
babble(Peer *peer, GwLane *lane, json_t *message)
{
    static const char *const lines[] = {
        "{\"do\":\"prepared\",\"move\":\"m-ffffffffffff\"}",
        "{\"do\":\"running\",\"move\":\"m-ffffffffffff\"}",
        "{\"do\":\"refused\",\"move\":7}",
        "{\"do\":\"lost\"}",
        "{}",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        json_t *line = json_loads(lines[i], 0, NULL);
        bool named = json_object_get(line, "move") != NULL;
        if (named && strcmp(gw_json_str(message, "do", ""), "prepare") == 0) {
            peer_say(lane, message, gw_json_str(line, "do", ""), line);
        } else {
            json_decref(line);
        }
    }
    behave(peer, lane, message);
    if (strcmp(gw_json_str(message, "do", ""), "prepare") == 0) {
        peer_say(lane, message, "prepared",
                 json_pack("{s:[s, i, s, n, []]}", "placed", "no.ram", 7, ""));
        peer_say(lane, message, "prepared",
                 json_pack("{s:s, s:i, s:{}}", "psk", "x", "port", -1, "placed"));
    } else if (strcmp(gw_json_str(message, "do", ""), "given-up") == 0) {
        peer_say(lane, message, "refused", NULL);
        peer_say(lane, message, "refused", NULL);
        peer_say(lane, message, "running", NULL);
        peer_say(lane, message, "lost", NULL);
    }
}

static void
test_babble(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, babble);

    start_move(&rig);
    assert_back(&rig, 3);
}

/* It cannot read back what it said that it could, and was sent pages that need it. */
static void
place_nothing(Peer *peer, GwLane *lane, json_t *message)
{
    if (strcmp(gw_json_str(message, "do", ""), "prepare") == 0) {
        peer_swallow_stream(peer, lane);
        peer_say(lane, message, "prepared", json_pack("{s:[s, s]}", "placed", "x", "pc.ram"));
    } else if (strcmp(gw_json_str(message, "do", ""), "given-up") == 0) {
        peer_say(lane, message, "refused", NULL);
    } else {
        behave(peer, lane, message);
    }
}

static void
test_places_nothing(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, place_nothing);

    /* The guest's firmware makes equal pages, sooner or later. */
    do {
        start_move(&rig);
        wait_for_move(&rig, GW_MOVE_ROLLED_BACK); /* whether it was given up before or not */
        WAIT_FOR(gw_vm_state(web_of(&rig)) == GW_VM_RUNNING);
    } while (gw_json_int(rig.move->record, "equal_pages", 0) == 0);
}

static void
on_unwanted(json_t *object, const GError *error, void *data)
{
    GError **out = data;

    *out = g_error_copy(error);
}

/* What is wished for one move reaches its session; what makes no sense starts none. */
static void
test_wishes(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, behave);
    GwMoveRequest request = {
        .vm = "web", .host = "beta", .connections = 3, .encodings = "zstd,smaller"};
    g_autoptr(GError) error = NULL;

    gw_moves_start(rig.moves, &request, on_unwanted, &error);
    WAIT_FOR(error);
    g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
    request.encodings = "zstd,same";
    gw_moves_start(rig.moves, &request, on_started, &rig);
    WAIT_FOR(rig.move);
    WAIT_FOR(rig.peer.wishes.n_links == 3);
    g_assert_cmpuint(rig.peer.wishes.encodings_off, ==,
                     GW_ENCODING_ALL & ~(GW_ENCODING_ZSTD | GW_ENCODING_SAME));
    gw_move_fail(rig.move, GW_MOVE_EVENT_CANCEL, GW_ERROR_CANCELLED, "enough");
    wait_for_move(&rig, GW_MOVE_CANCELLED);
}

/* --- by QEMU ---------------------------------------------------------------------------------- */

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void
wait_for_memory(Peer *peer, GwLane *lane, json_t *message)
{
    Rig *rig = peer->data;

    if (strcmp(gw_json_str(message, "do", ""), "prepare") == 0) {
        g_assert_cmpstr(gw_json_str(message, "transport", ""), ==, "plain");
        g_assert_null(json_object_get(message, "references"));
        peer_say(lane, message, "prepared",
                 json_pack("{s:I, s:s}", "port", (json_int_t)rig->port, "psk", KEY));
    } else {
        behave(peer, lane, message);
    }
}

static const char *
error_text(Rig *rig)
{
    return gw_json_str(json_object_get(rig->move->record, "error"), "message", "");
}

/* The key, then QEMU's stream; a connection that is reset in the middle ends the move. */
static void
test_plain(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, wait_for_memory);
    const GwMovesOptions ports = {.direct_port_min = 49460, .direct_port_max = 49480};
    uint16_t port = 0;
    char got[sizeof(KEY "QEVM") - 1];
    const struct linger at_once = {.l_onoff = 1};

    g_auto(GwFd) door = gw_direct_open_door(&ports, NULL, &port, NULL);
    g_assert_cmpint(door, >=, 0);
    rig.port = port;
    start_move_over(&rig, "plain");
    wait_for_move(&rig, GW_MOVE_PRECOPY);
    g_auto(GwFd) fd = accept(door, NULL, NULL);
    g_assert_cmpint(gw_fd_read_full(fd, got, sizeof(got)), ==, sizeof(got));
    g_assert_cmpmem(got, sizeof(got), KEY "QEVM", sizeof(got));
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    gw_fd_clear(&fd);
    assert_back(&rig, 1);
    g_assert_nonnull(strstr(error_text(&rig), "could not send the guest to host 'beta'"));
    g_assert_cmpstr(gw_json_str(rig.move->record, "transport", ""), ==, "plain");
}

/* Nobody listens there; the operator cancels while it is not known; it is no port at all. */
static void
test_plain_fails(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, wait_for_memory);

    rig.port = 49459;
    start_move_over(&rig, "plain");
    assert_back(&rig, 1);
    g_assert_nonnull(strstr(error_text(&rig), "'beta' at 127.0.0.1 port 49459"));
    start_move_over(&rig, "plain");
    wait_for_move(&rig, GW_MOVE_PREPARED);
    gw_move_fail(rig.move, GW_MOVE_EVENT_CANCEL, GW_ERROR_CANCELLED, "enough");
    g_assert_null(((GwSource *)rig.move->side)->plain_call);
    wait_for_move(&rig, GW_MOVE_CANCELLED);
    rig.port = 0;
    start_move_over(&rig, "plain");
    assert_back(&rig, 1);
    g_assert_nonnull(strstr(error_text(&rig), "no port and key"));
}

/* This host's networks have not the address that the session goes to: the target is not asked. */
static void
test_plain_is_not_allowed(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, wait_for_memory);

    rig.moves->options.plain_networks = NULL;
    start_move_over(&rig, "plain");
    assert_back(&rig, 1);
    g_assert_nonnull(strstr(error_text(&rig), "on host 'alpha' has no network with 127.0.0.1"));
    g_assert_nonnull(strstr(error_text(&rig), "plain-networks in godwitd.conf"));
    g_assert_null(strstr(rig.peer.heard->str, "prepare"));
}

static void
checks_of(Peer *peer, GwLane *lane, json_t *message)
{
    Rig *rig = peer->data;

    if (strcmp(gw_json_str(message, "do", ""), "check") == 0) {
        json_t *extra = json_object();
        json_object_set_new(extra, "checks", json_loads(rig->word, JSON_DECODE_ANY, NULL));
        peer_say(lane, message, "checked", extra);
    }
}

/* A target that says no more, or less, than a row has is not passed. */
static void
test_hostile_checks(void)
{
    static const char *const answers[] = {
        "null",
        "7",
        "{}",
        "[]",
        "[7]",
        "[{}]",
        "[[[]]]",
        "[{\"status\":\"OK\"}]",
        "[{\"status\":\"ok\"},{\"status\":7}]",
        "[{\"status\":\"error\",\"message\":[],\"remedy\":{},\"id\":7}]",
    };
    g_auto(Rig) rig;
    rig_init(&rig, checks_of);

    for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
        rig.word = answers[i];
        start_move(&rig);
        assert_back(&rig, 1);
        const json_t *error = json_object_get(rig.move->record, "error");
        g_assert_cmpstr(gw_json_str(error, "code", ""), ==, "checks-failed");
    }
}

/* More than a record may hold: the record is written nonetheless. */
static void
test_huge_checks(void)
{
    g_autoptr(GString) text = g_string_new("[");
    g_autofree char *filler = g_strnfill(9000, 'x');
    g_auto(Rig) rig;
    rig_init(&rig, checks_of);

    for (unsigned i = 0; i < 100; i++) {
        g_string_append_printf(text, "%s{\"status\":\"error\",\"id\":\"%s\",\"message\":\"%s\"}",
                               i ? "," : "", i ? "x" : filler, filler);
    }
    g_string_append(text, "]");
    rig.word = text->str;
    start_move(&rig);
    assert_back(&rig, 1);
    g_autofree char *key = g_strdup_printf("move/%s", rig.move->id);
    g_autofree char *record = host_record(rig.host, key);
    g_assert_nonnull(strstr(record, "\"rolled-back\""));
    g_assert_cmpuint(strlen(record), <, 512 * 1024);
}

/* Says nothing any more from rig->step on. */
static void
fall_silent(Peer *peer, GwLane *lane, json_t *message)
{
    Rig *rig = peer->data;

    if (strcmp(gw_json_str(message, "do", ""), rig->step) != 0) {
        behave(peer, lane, message);
    }
}

static void
on_cancelled(json_t *object, const GError *error, void *data)
{
    g_assert_no_error(error);
    *(bool *)data = true;
}

static void
test_cancel(void)
{
    static const char *const steps[] = {"check", "prepare"};
    g_auto(Rig) rig;
    rig_init(&rig, fall_silent);

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        bool done = false;
        rig.step = steps[i];
        g_string_truncate(rig.peer.heard, 0);
        start_move(&rig);
        WAIT_FOR(strstr(rig.peer.heard->str, steps[i]));
        gw_moves_cancel(rig.moves, rig.move->id, on_cancelled, &done);
        WAIT_FOR(done);
        wait_for_move(&rig, GW_MOVE_CANCELLED);
        g_assert_null(gw_vm_held_by(web_of(&rig)));
        g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_RUNNING);
    }
}

static void
test_freed_on_the_way(void)
{
    static const GwMoveState states[] = {GW_MOVE_PLANNED, GW_MOVE_CHECKED, GW_MOVE_PRECOPY,
                                         GW_MOVE_HANDED_OVER};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig, behave);
        start_move(&rig);
        WAIT_FOR(rig.move->state >= states[i]);
        g_clear_pointer(&rig.moves, gw_moves_free);
        /* QEMU and the VM go on, and nothing calls the move. */
        for (unsigned n = 0; n < 5; n++) {
            g_free(host_record(rig.host, "vm/web/owner"));
        }
    }
}

/* --- after it --------------------------------------------------------------------------------- */

static void
answer_given_up(Peer *peer, GwLane *lane, json_t *message)
{
    Rig *rig = peer->data;

    if (strcmp(gw_json_str(message, "do", ""), "given-up") != 0) {
        behave(peer, lane, message);
        return;
    }
    g_assert_cmpint(gw_json_int(message, "generation", 0), ==, 2);
    g_assert_cmpint(rig->move->state, ==, GW_MOVE_HANDED_OVER);
    g_autofree char *owner = host_record(rig->host, "vm/web/owner");
    g_assert_nonnull(strstr(owner, "beta"));
    peer_say(lane, message, rig->word, error_of("because"));
}

static void
test_running(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, answer_given_up);

    rig.word = "running";
    start_move(&rig);
    wait_for_move(&rig, GW_MOVE_SETTLED);
    assert_gone(&rig);
    WAIT_FOR(strstr(rig.peer.heard->str, "settled"));
    g_assert_cmpstr(rig.peer.heard->str, ==, "check prepare given-up settled ");
}

static void
test_lost(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, answer_given_up);

    rig.word = "lost";
    start_move(&rig);
    wait_for_move(&rig, GW_MOVE_GUEST_LOST);
    assert_gone(&rig);
}

static void
test_refused(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, answer_given_up);

    rig.word = "refused";
    start_move(&rig);
    assert_back(&rig, 3);
    /* And again, from where it is now. */
    rig.word = "running";
    rig.peer.script = behave;
    start_move(&rig);
    g_assert_cmpint(rig.move->generation, ==, 3);
    wait_for_move(&rig, GW_MOVE_HANDED_OVER);
}

/* The target is asked, and has no answer that would settle the move. */
static void
hand_over_unsettled(Rig *rig)
{
    rig->step = "given-up";
    rig->word = "failed";
    start_move(rig);
    wait_for_move(rig, GW_MOVE_HANDED_OVER);
    WAIT_FOR(rig->asked > 0);
}

/* QEMU ended when it was not ours any more; then the guest comes back, to nobody. */
static void
test_refused_without_qemu(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, misbehave);

    hand_over_unsettled(&rig);
    kill(vm_pid(web_of(&rig)), SIGKILL);
    WAIT_FOR(gw_vm_state(web_of(&rig)) == GW_VM_STOPPED);
    g_assert_cmpint(rig.move->state, ==, GW_MOVE_HANDED_OVER);
    rig.word = "refused";
    wait_for_move(&rig, GW_MOVE_GUEST_LOST);
    g_assert_null(gw_vm_held_by(web_of(&rig)));
    g_assert_cmpstr(gw_vm_owner(web_of(&rig)), ==, "alpha");
    g_assert_cmpint(gw_vm_generation(web_of(&rig)), ==, 3);
    host_start(rig.host, web_of(&rig));
}

/* Asked again and again, at a human pace; the guest stands still meanwhile. */
static void
test_asks_again(void)
{
    static const char *const words[] = {"failed", NULL};

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        g_auto(Rig) rig;
        rig_init(&rig, misbehave);
        rig.step = "given-up";
        rig.word = words[i];
        start_move(&rig);
        int64_t begin_us = g_get_monotonic_time();
        wait_for_move(&rig, GW_MOVE_HANDED_OVER);
        WAIT_FOR(rig.asked >= 2);
        int64_t seconds = (g_get_monotonic_time() - begin_us) / G_USEC_PER_SEC;
        g_assert_cmpint(rig.asked, <=, 3 + seconds);
        g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_PAUSED);
        rig.step = "";
        rig.peer.script = answer_given_up;
        rig.word = "running";
        wait_for_move(&rig, GW_MOVE_SETTLED);
        assert_gone(&rig);
    }
}

/* Only once the target has been silent for a while; and it is told when it is back. */
static void
test_abandoned(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, misbehave);

    hand_over_unsettled(&rig);
    g_auto(Told) connected = abandon(rig.moves, rig.move->id, true);
    g_assert_error(connected.error, GW_ERROR, GW_ERROR_STATE);
    g_assert_nonnull(strstr(connected.error->message, "host 'beta' was heard"));
    g_assert_cmpint(rig.move->state, ==, GW_MOVE_HANDED_OVER);

    rig.word = NULL;
    g_ptr_array_set_size(rig.peer.sessions, 0);
    const GwSource *source = rig.move->side;
    WAIT_FOR(!source->lane);
    g_auto(Told) dropped = abandon(rig.moves, rig.move->id, true);
    g_assert_error(dropped.error, GW_ERROR, GW_ERROR_STATE);
    g_assert_nonnull(strstr(dropped.error->message, "try again in"));
    rig.move->heard_us = 0;
    rig.step = "taken-back";
    rig.word = "failed";
    g_auto(Told) told = abandon(rig.moves, rig.move->id, true);
    g_assert_no_error(told.error);
    g_assert_cmpint(rig.move->state, ==, GW_MOVE_ABANDONED);
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_STOPPED);
    WAIT_FOR(json_object_get(rig.move->record, "unsettled"));
    g_autofree char *unsettled = host_record(rig.host, "move/");
    g_assert_nonnull(strstr(unsettled, "\"unsettled\":\"host 'beta': because\""));
    rig.word = "let-go";
    gw_source_tell_taken_back(rig.move);
    WAIT_FOR(gw_json_bool(rig.move->record, "settled", false));
    g_assert_null(json_object_get(rig.move->record, "unsettled"));
    g_autofree char *record = host_record(rig.host, "vm/web/owner");
    g_assert_cmpstr(record, ==, "{\"host\":\"alpha\",\"generation\":3}");
    WAIT_FOR(!source->lane);
    g_assert_cmpuint(source->reconnect, ==, 0);
    host_start(rig.host, web_of(&rig));
}

static void
on_refused_abandon(json_t *object, const GError *error, void *data)
{
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "cancel it: godwit migration cancel m-"));
    *(bool *)data = true;
}

static void
test_abandon_before_it_is_given_up(void)
{
    bool told = false;
    g_auto(Rig) rig;
    rig_init(&rig, fall_silent);

    rig.step = "prepare";
    start_move(&rig);
    WAIT_FOR(strstr(rig.peer.heard->str, "prepare"));
    gw_moves_abandon(rig.moves, rig.move->id, true, on_refused_abandon, &told);
    WAIT_FOR(told);
    g_assert_cmpint(rig.move->state, ==, GW_MOVE_CHECKED);
}

/* --- its own QEMU ----------------------------------------------------------------------------- */

static void
test_qemu_killed(void)
{
    static const GwMoveState states[] = {GW_MOVE_PLANNED, GW_MOVE_CHECKED, GW_MOVE_PREPARED,
                                         GW_MOVE_PRECOPY};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig, behave);
        start_move(&rig);
        WAIT_FOR(rig.move->state >= states[i]);
        kill(vm_pid(web_of(&rig)), SIGKILL);
        WAIT_FOR(gw_move_is_final(rig.move) || rig.move->state == GW_MOVE_HANDED_OVER);
        if (gw_move_is_final(rig.move)) {
            g_assert_cmpint(rig.move->state, ==, GW_MOVE_GUEST_LOST);
            g_assert_null(gw_vm_held_by(web_of(&rig)));
            g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_STOPPED);
        }
    }
}

static void
refuse_after_reset(json_t *answer, const GError *error, void *data)
{
    Peer *peer = data;
    Rig *rig = peer->data;

    g_assert_no_error(error);
    rig->step = "prepare";
    rig->word = "refused";
    g_autoptr(json_t) message = json_pack("{s:s, s:s}", "do", "prepare", "move", rig->move->id);
    misbehave(peer, g_ptr_array_index(peer->sessions, peer->sessions->len - 1), message);
}

/* The guest ends by itself just before the target says no. */
static void
reset_first(Peer *peer, GwLane *lane, json_t *message)
{
    Rig *rig = peer->data;

    if (strcmp(gw_json_str(message, "do", ""), "prepare") == 0) {
        gw_qmp_call(gw_vm_qmp(web_of(rig)), "system_reset", NULL, refuse_after_reset, peer);
    } else {
        behave(peer, lane, message);
    }
}

/* A guest that cannot run any more does not keep its VM held for ever. */
static void
test_guest_ended_by_itself(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, reset_first);

    host_kill(rig.host, web_of(&rig));
    gw_vms_discard(rig.host->vms, web_of(&rig), NULL, NULL);
    WAIT_FOR(!web_of(&rig));
    host_start(rig.host, host_define(rig.host, "[vm]\nname = web\nmemory = 64 MiB\n[extra]\n"
                                               "arguments = -no-reboot -no-shutdown\n"));
    start_move(&rig);
    wait_for_move(&rig, GW_MOVE_ROLLED_BACK);
    g_assert_null(gw_vm_held_by(web_of(&rig)));
    g_assert_cmpint(gw_vm_state(web_of(&rig)), ==, GW_VM_PAUSED);
}

static void
on_refused_start(json_t *object, const GError *error, void *data)
{
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    *(bool *)data = true;
}

static void
test_one_move_at_a_time(void)
{
    const GwMoveRequest request = {.vm = "web", .host = "beta"};
    bool told = false;
    g_auto(Rig) rig;
    rig_init(&rig, misbehave);

    rig.step = "prepare";
    rig.word = "refused";
    start_move(&rig);
    gw_moves_start(rig.moves, &request, on_refused_start, &told);
    WAIT_FOR(told);
    assert_back(&rig, 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/source/wrong-words", test_wrong_words);
    g_test_add_func("/source/plain", test_plain);
    g_test_add_func("/source/plain-fails", test_plain_fails);
    g_test_add_func("/source/plain-is-not-allowed", test_plain_is_not_allowed);
    g_test_add_func("/source/gone-when-prepared", test_gone_when_prepared);
    g_test_add_func("/source/babble", test_babble);
    g_test_add_func("/source/places-nothing", test_places_nothing);
    g_test_add_func("/source/wishes", test_wishes);
    g_test_add_func("/source/hostile-checks", test_hostile_checks);
    g_test_add_func("/source/huge-checks", test_huge_checks);
    g_test_add_func("/source/cancel", test_cancel);
    g_test_add_func("/source/freed-on-the-way", test_freed_on_the_way);
    g_test_add_func("/source/running", test_running);
    g_test_add_func("/source/lost", test_lost);
    g_test_add_func("/source/refused", test_refused);
    g_test_add_func("/source/refused-without-qemu", test_refused_without_qemu);
    g_test_add_func("/source/asks-again", test_asks_again);
    g_test_add_func("/source/abandoned", test_abandoned);
    g_test_add_func("/source/abandon-before-it-is-given-up", test_abandon_before_it_is_given_up);
    g_test_add_func("/source/qemu-killed", test_qemu_killed);
    g_test_add_func("/source/guest-ended-by-itself", test_guest_ended_by_itself);
    g_test_add_func("/source/one-move-at-a-time", test_one_move_at_a_time);
    return hosts_run();
}
