// SPDX-License-Identifier: Apache-2.0
/*
 * `--verify full` with a real QEMU on our side and the other host played by the test: answers that
 * differ, have another size or never come, and questions that must not be. (Equal memory is the
 * scenarios' business.)
 */
#include "../vm/host.h"
#include "migrate/ram_hash.h"
#include "peer.h"

#include <string.h>

#define ID     "m-0123456789ab"
#define TEXT   "[vm]\nname = web\nmemory = 64 MiB\nballoon = plain\n"
#define CHUNK  (256 * 1024)
#define WINDOW (16 * 1024 * 1024)

typedef struct Rig {
    Peer peer;
    Host *host;
    GwMoves *moves;
    GwMove *move;
    unsigned n_hashes; /* that beta leaves out */
    bool silent;
} Rig;

static void
rig_init(Rig *rig, ScriptFn script)
{
    *rig = (Rig){.host = host_new()};
    peer_init(&rig->peer, script, rig);
    const GwMovesOptions options = {
        .store = rig->host->store,
        .vms = rig->host->vms,
        .host_name = "alpha",
        .run_dir = rig->host->run_dir,
        .qemu_user = rig->host->qemu_user,
        .network = {peer_connect, peer_address, &rig->peer},
        .max_history = 1000,
        .max_incoming = 4,
    };

    rig->moves = moves_load(&options, host_caps());
}

static void
rig_clear(Rig *rig)
{
    gw_moves_free(rig->moves);
    host_free(rig->host);
    peer_clear(&rig->peer);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

static GwVm *
web_of(Rig *rig)
{
    return gw_vms_find(rig->host->vms, "web");
}

/* --- our side is the source ------------------------------------------------------------------- */

static void
on_started(json_t *object, const GError *error, void *data)
{
    Rig *rig = data;

    g_assert_no_error(error);
    rig->move = gw_moves_find(rig->moves, gw_json_str(object, "id", ""));
}

static void
start_move(Rig *rig)
{
    const GwMoveRequest request = {.vm = "web", .host = "beta", .verify = "full"};

    rig->move = NULL;
    gw_moves_start(rig->moves, &request, on_started, rig);
    WAIT_FOR(rig->move);
}

/* Hashes that are all zero. */
static void
behave(Peer *peer, GwLane *lane, json_t *message)
{
    Rig *rig = peer->data;
    const char *what = gw_json_str(message, "do", "");

    if (strcmp(what, "check") == 0) {
        peer_say(lane, message, "checked",
                 json_pack("{s:[{s:s, s:s}]}", "checks", "id", "x", "status", "ok"));
    } else if (strcmp(what, "prepare") == 0) {
        peer_swallow_stream(peer, lane);
        peer_say(lane, message, "prepared", NULL);
    } else if (strcmp(what, "verify") == 0 && rig->silent) {
        peer_hang_up(peer, lane);
    } else if (strcmp(what, "verify") == 0) {
        int64_t unit = gw_json_int(message, "unit", 0);
        int64_t bytes = gw_json_int(message, "bytes", 0);
        g_assert_cmpint(unit, >=, GW_RAM_PAGE_BYTES);
        gsize n = (gsize)((bytes + unit - 1) / unit) - rig->n_hashes;
        g_autofree guchar *zeros = g_malloc0(n * GW_RAM_HASH_BYTES);
        g_autofree char *text = g_base64_encode(zeros, n * GW_RAM_HASH_BYTES);
        peer_say(lane, message, "verified",
                 json_pack("{s:I, s:I, s:s}", "start", (json_int_t)7, "unit", (json_int_t)unit,
                           "hashes", "an answer to something else"));
        peer_say(lane, message, "verified",
                 json_pack("{s:I, s:I, s:s}", "start", (json_int_t)gw_json_int(message, "start", 0),
                           "unit", (json_int_t)unit, "hashes", text));
    }
}

static void
assert_back(Rig *rig, const char *why)
{
    WAIT_FOR(gw_move_is_final(rig->move));
    g_assert_cmpint(rig->move->state, ==, GW_MOVE_ROLLED_BACK);
    WAIT_FOR(gw_vm_state(web_of(rig)) == GW_VM_RUNNING);
    g_assert_cmpstr(gw_vm_owner(web_of(rig)), ==, "alpha");
    g_assert_null(strstr(rig->peer.heard->str, "given-up"));
    const json_t *error = json_object_get(rig->move->record, "error");
    if (!strstr(gw_json_str(error, "message", ""), why)) {
        g_error("%s", gw_json_str(error, "message", ""));
    }
}

static void
test_differs(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, behave);

    host_start(rig.host, host_define(rig.host, TEXT));
    start_move(&rig);
    assert_back(&rig, "pc.ram at 0x0, physical 0x0");
    const json_t *verify = json_object_get(rig.move->record, "verify");
    /* Eight chunks of the first piece are looked at page by page. */
    g_assert_cmpint(gw_json_int(verify, "mismatches", 0), >=, 7 * CHUNK / GW_RAM_PAGE_BYTES);
    g_assert_cmpint(gw_json_int(verify, "pages", 0), >, 0);
    /* Nothing is left of it that would hinder the next one. */
    rig.n_hashes = 1;
    start_move(&rig);
    assert_back(&rig, "another number of hashes");
    rig.silent = true;
    start_move(&rig);
    assert_back(&rig, "session with host 'beta' ended");
}

static void
test_freed_while_comparing(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, behave);

    host_start(rig.host, host_define(rig.host, TEXT));
    for (unsigned i = 0; i < 4; i++) {
        if (!rig.moves) {
            break;
        }
        start_move(&rig);
        WAIT_FOR(((GwSource *)rig.move->side)->verify || gw_move_is_final(rig.move));
        for (unsigned n = 0; n < i; n++) {
            g_main_context_iteration(NULL, TRUE);
        }
        if (i == 3) {
            g_clear_pointer(&rig.moves, gw_moves_free);
        } else {
            gw_move_fail(rig.move, GW_MOVE_EVENT_CANCEL, GW_ERROR_CANCELLED, "cancelled");
            WAIT_FOR(gw_move_is_final(rig.move));
            WAIT_FOR(gw_vm_state(web_of(&rig)) == GW_VM_RUNNING);
        }
    }
    for (unsigned n = 0; n < 5; n++) {
        g_free(host_record(rig.host, "vm/web/owner"));
    }
}

/* What the guest has free is not sent: the checks say so. */
static void
test_hints(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, behave);

    host_start(rig.host, host_define(rig.host, "[vm]\nname = web\nmemory = 64 MiB\n"));
    start_move(&rig);
    assert_back(&rig, "balloon = plain");
    g_assert_null(strstr(rig.peer.heard->str, "prepare"));
}

/* --- our side is the target ------------------------------------------------------------------- */

static Caller *
prepare(Rig *rig)
{
    const json_t *q35 = json_object_get(host_caps()->machines, "q35");
    Caller *caller;

    peer_open_door(&rig->peer, rig->moves);
    caller = caller_new(&rig->peer);
    caller_say(caller, json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:{s:s, s:s, s:s}}", "do",
                                 "prepare", "move", ID, "vm", "web", "generation", 1, "transport",
                                 "lane", "definition", TEXT, "run", "accel", "tcg", "machine",
                                 gw_json_str(q35, "alias_of", "q35"), "cpu", "max"));
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "prepared");
    rig->move = gw_moves_find(rig->moves, ID);
    return caller;
}

static void
ask(Caller *caller, int64_t start, int64_t bytes, int64_t unit)
{
    caller_say(caller, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "do", "verify", "move", ID,
                                 "start", (json_int_t)start, "bytes", (json_int_t)bytes, "unit",
                                 (json_int_t)unit, "seed", (json_int_t)5));
}

static void
hear_hashes(Caller *caller, int64_t start, gsize n_wanted, bool wanted_same)
{
    const json_t *answer = caller_hear(caller);
    gsize len = 0;
    bool same = true;

    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, "verified");
    g_assert_cmpint(gw_json_int(answer, "start", -1), ==, start);
    g_autofree guchar *hashes = g_base64_decode(gw_json_str(answer, "hashes", ""), &len);
    g_assert_cmpuint(len, ==, n_wanted * GW_RAM_HASH_BYTES);
    for (gsize i = 1; i < n_wanted; i++) {
        same = same && memcmp(hashes, hashes + i * GW_RAM_HASH_BYTES, GW_RAM_HASH_BYTES) == 0;
    }
    g_assert_true(same == wanted_same);
}

static void
test_questions(void)
{
    g_auto(Rig) rig;
    rig_init(&rig, behave);
    g_autoptr(Caller) caller = prepare(&rig);
    GwTarget *target = rig.move->side;

    /* Nothing is said before QEMU has loaded the guest; then it is. */
    ask(caller, WINDOW, WINDOW, CHUNK);
    WAIT_FOR(target->verify);
    g_assert_null(target->hash);
    target->loaded = true;
    gw_target_verify_loaded(target);
    hear_hashes(caller, WINDOW, WINDOW / CHUNK, true); /* nothing but zeros */
    ask(caller, WINDOW, CHUNK + 4096, CHUNK);
    hear_hashes(caller, WINDOW, 2, false); /* the second is shorter */
    ask(caller, WINDOW, CHUNK, 4096);
    hear_hashes(caller, WINDOW, CHUNK / 4096, true);
}

static void
test_bad_questions(void)
{
    static const int64_t questions[][3] = {
        {0xa0000000, 4096, 4096},              /* no memory there */
        {64 * 1024 * 1024 - 4096, 8192, 4096}, /* beyond its end */
        {WINDOW, WINDOW, 4096},                /* too many hashes */
        {WINDOW, 1 << 27, 1 << 20},
        {WINDOW, 4096, 1},
        {WINDOW, 0, 4096},
        {-1, 4096, 4096},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(questions); i++) {
        g_auto(Rig) rig;
        rig_init(&rig, behave);
        g_autoptr(Caller) caller = prepare(&rig);
        ((GwTarget *)rig.move->side)->loaded = true;
        ask(caller, questions[i][0], questions[i][1], questions[i][2]);
        g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "refused");
        WAIT_FOR(!web_of(&rig));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/verify/differs", test_differs);
    g_test_add_func("/verify/freed-while-comparing", test_freed_while_comparing);
    g_test_add_func("/verify/hints", test_hints);
    g_test_add_func("/verify/questions", test_questions);
    g_test_add_func("/verify/bad-questions", test_bad_questions);
    return hosts_run();
}
