// SPDX-License-Identifier: Apache-2.0
/*
 * What other hosts may say to this one, over real sessions: first messages of all kinds, moves that
 * are not theirs, questions about moves that nobody knows, and random nonsense. Without QEMU: what
 * gets as far as wanting one is refused, durably.
 */
#include "peer.h"

#include <string.h>

#define ID "m-0123456789ab"

typedef struct Rig {
    Bench bench;
    Peer peer;
} Rig;

static void
no_script(Peer *peer, GwLane *lane, json_t *message)
{
    g_assert_not_reached();
}

static void
rig_init(Rig *rig)
{
    bench_init(&rig->bench, NULL);
    peer_init(&rig->peer, no_script, NULL);
    peer_open_door(&rig->peer, rig->bench.moves);
}

static void
rig_clear(Rig *rig)
{
    bench_clear(&rig->bench);
    peer_clear(&rig->peer);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

/* The answer to @text as a first message, and the session's end after it. Borrowed. */
static const json_t *
ask(Caller *caller, const char *text)
{
    json_t *message = json_loads(text, 0, NULL);

    g_assert_nonnull(message);
    caller_say(caller, message);
    return caller_hear(caller);
}

static void
assert_answer(Rig *rig, const char *text, const char *what, const char *part)
{
    g_autoptr(Caller) caller = caller_new(&rig->peer);
    const json_t *answer = ask(caller, text);
    const json_t *error = json_object_get(answer, "error");

    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, what);
    if (part && !strstr(gw_json_str(error, "message", ""), part)) {
        g_error("'%s' lacks '%s'", gw_json_str(error, "message", ""), part);
    }
}

static GwMove *
add_move(Rig *rig, const char *id, const char *role, GwMoveState state, const char *peer)
{
    bool is_source = strcmp(role, "source") == 0;
    json_t *record =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "id", id, "vm", "web", "source",
                  is_source ? "alpha" : peer, "target", is_source ? peer : "alpha", "role", role,
                  "state", gw_move_state_info(state)->name, "generation", (json_int_t)1);
    GwMove *move =
        gw_move_new(rig->bench.moves, is_source ? &gw_source_role : &gw_target_role, record);

    gw_moves_add(rig->bench.moves, move);
    return move;
}

/* --- first messages --------------------------------------------------------------------------- */

static void
test_hostile_first_messages(void)
{
    static const struct {
        const char *text;
        const char *what;
        const char *part;
    } cases[] = {
        {"{}", "failed", "unknown"},
        {"{\"do\":7}", "failed", "unknown"},
        {"{\"do\":\"settled\",\"move\":\"" ID "\"}", "failed", "'settled' is unknown"},
        {"{\"do\":\"abort\",\"move\":[]}", "failed", "unknown"},
        {"{\"do\":\"taken-back\"}", "let-go", NULL},
        {"{\"do\":\"taken-back\",\"move\":{},\"generation\":[]}", "let-go", NULL},
        {"{\"do\":\"taken-back\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":3}", "let-go",
         NULL},
        {"{\"do\":\"prepare\"}", "refused", "'generation' is missing"},
        {"{\"do\":\"prepare\",\"move\":7,\"vm\":\"web\",\"generation\":1}", "refused",
         "'move' is not a string"},
        {"{\"do\":\"prepare\",\"move\":\"../../etc\",\"vm\":\"web\",\"generation\":1}", "refused",
         "not the id of a move"},
        {"{\"do\":\"prepare\",\"move\":\"m-0123456789aZ\",\"vm\":\"web\",\"generation\":1}",
         "refused", "not the id of a move"},
        {"{\"do\":\"prepare\",\"move\":\"" ID "\",\"vm\":\"../web\",\"generation\":1}", "refused",
         "VM name"},
        {"{\"do\":\"prepare\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":0}", "refused",
         "'generation' must"},
        {"{\"do\":\"prepare\",\"move\":\"" ID
         "\",\"vm\":\"web\",\"generation\":9223372036854775807}",
         "refused", "'generation' must"},
        {"{\"do\":\"prepare\",\"move\":\"" ID
         "\",\"vm\":\"web\",\"generation\":1,\"transport\":\"pigeon\"}",
         "refused", "transport 'pigeon'"},
        {"{\"do\":\"prepare\",\"move\":\"" ID
         "\",\"vm\":\"web\",\"generation\":1,\"transport\":\"plain\"}",
         "refused", "no network with 127.0.0.1"},
        {"{\"do\":\"prepare\",\"move\":\"" ID
         "\",\"vm\":\"web\",\"generation\":1,\"transport\":\"plain\",\"mode\":\"post-copy\"}",
         "refused", "mode 'post-copy' is unknown here with transport 'plain'"},
        {"{\"do\":\"given-up\"}", "failed", "'generation' is missing"},
        {"{\"do\":\"given-up\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":1}", "failed",
         "'generation' must"},
        {"{\"do\":\"given-up\",\"move\":\"" ID
         "\",\"vm\":\"web\",\"generation\":-9223372036854775808}",
         "failed", "'generation' must"},
        {"{\"do\":\"given-up\",\"move\":\"m-1\",\"vm\":\"web\",\"generation\":2}", "failed",
         "not the id of a move"},
        {"{\"do\":\"given-up\",\"move\":\"" ID "\",\"vm\":{},\"generation\":2}", "failed",
         "'vm' is not a string"},
    };
    g_auto(Rig) rig;
    rig_init(&rig);

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        assert_answer(&rig, cases[i].text, cases[i].what, cases[i].part);
    }
    g_assert_cmpuint(g_hash_table_size(rig.bench.fake->values), ==, 0);
    g_assert_cmpuint(rig.bench.moves->order.length, ==, 0);
}

/* The answer is the last word: a source that wants to know more must not be left on the line. */
static void
test_goodbye(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    ask(caller, "{\"do\":\"dance\"}");
    WAIT_FOR(caller->closed);
    WAIT_FOR(rig.bench.moves->visitors->len == 0);
}

static void
test_check(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = caller_new(&rig.peer);
    const json_t *answer = ask(caller, "{\"do\":\"check\",\"definition\":[],\"protocol\":\"x\"}");
    const json_t *checks = json_object_get(answer, "checks");

    g_assert_cmpstr(gw_json_str(answer, "do", ""), ==, "checked");
    g_assert_cmpuint(json_array_size(checks), ==, 3);
    WAIT_FOR(caller->closed);
}

/* Hung up on while the files are looked at. */
static void
test_check_abandoned(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    Caller *caller = caller_new(&rig.peer);

    caller_say(caller, json_pack("{s:s}", "do", "check"));
    WAIT_FOR(rig.bench.moves->visitors->len == 1);
    caller_free(caller);
    WAIT_FOR(rig.bench.moves->visitors->len == 0);
}

/* Sessions of this moment wait until the records are known. */
static void
test_before_loaded(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    rig.bench.moves->is_loaded = false;
    assert_answer(&rig, "{\"do\":\"given-up\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":2}",
                  "failed", "is starting");
    g_assert_null(gw_moves_find(rig.bench.moves, ID));
    rig.bench.moves->is_loaded = true;
}

/* --- prepare ---------------------------------------------------------------------------------- */

#define PREPARE                                                                                    \
    "{\"do\":\"prepare\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":1,\"run\":{},"          \
    "\"definition\":\"[vm]\\nname = %s\\nmemory = 64 MiB\\n\"}"

static void
assert_refused_record(Rig *rig, const char *id)
{
    g_autoptr(json_t) record = fake_store_record(rig->bench.fake, id);

    g_assert_cmpstr(gw_json_str(record, "state", ""), ==, "refused");
    g_assert_cmpstr(gw_json_str(record, "source", ""), ==, "beta");
}

static void
test_prepare_fails(void)
{
    static const struct {
        const char *name;
        const char *part;
    } cases[] = {
        {"web", "QEMU"},                             /* there is none here */
        {"other", "with the definition of 'other'"}, /* and not that VM's either */
        {"web\\nmemory = lots", "memory"},           /* not understood */
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        g_autofree char *text = g_strdup_printf(PREPARE, cases[i].name);
        assert_answer(&rig, text, "refused", cases[i].part);
        assert_refused_record(&rig, ID);
        g_assert_null(gw_vms_find(rig.bench.vms, "web"));
        g_assert_null(gw_vms_find(rig.bench.vms, "other"));
    }
}

/* The record of the first stays what it is. */
static void
test_prepare_twice(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autofree char *text = g_strdup_printf(PREPARE, "web");

    add_move(&rig, ID, "source", GW_MOVE_HANDED_OVER, "beta");
    assert_answer(&rig, text, "refused", "known already");
    g_assert_cmpint(gw_moves_find(rig.bench.moves, ID)->state, ==, GW_MOVE_HANDED_OVER);
}

static void
test_prepare_while_busy(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autofree char *text = g_strdup_printf(PREPARE, "web");

    add_move(&rig, "m-ba9876543210", "source", GW_MOVE_HANDED_OVER, "beta");
    assert_answer(&rig, text, "refused", "m-ba9876543210");
    g_assert_null(gw_moves_find(rig.bench.moves, ID));
}

static void
test_too_many(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autofree char *text = g_strdup_printf(PREPARE, "web");

    for (unsigned i = 0; i < 4; i++) {
        g_autofree char *id = g_strdup_printf("m-%u", i);
        GwMove *move = add_move(&rig, id, "target", GW_MOVE_INCOMING, "beta");
        g_free(move->vm_name);
        move->vm_name = g_strdup(id);
    }
    assert_answer(&rig, text, "refused", "at most 4 moves");
}

/* The store is full: nothing was promised, so nothing is said. */
static void
test_prepare_with_full_store(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autofree char *text = g_strdup_printf(PREPARE, "web");
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    rig.bench.fake->full = true;
    caller_say(caller, json_loads(text, 0, NULL));
    WAIT_FOR(caller->closed);
    g_assert_cmpuint(caller->answers->len, ==, 0);
    g_assert_null(gw_moves_find(rig.bench.moves, ID));
}

/* The source goes before the first record is written. */
static void
test_prepare_abandoned(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autofree char *text = g_strdup_printf(PREPARE, "web");
    Caller *caller = caller_new(&rig.peer);

    rig.bench.fake->manual = true;
    caller_say(caller, json_loads(text, 0, NULL));
    WAIT_FOR(gw_moves_find(rig.bench.moves, ID));
    const GwTarget *target = gw_moves_find(rig.bench.moves, ID)->side;
    caller_free(caller);
    WAIT_FOR(!target->lane);
    fake_store_answer(rig.bench.fake, false);
    rig.bench.fake->manual = false;
    fake_store_answer_all(rig.bench.fake);
    WAIT_FOR(gw_moves_find(rig.bench.moves, ID)->state == GW_MOVE_REFUSED);
    WAIT_FOR(gw_moves_find(rig.bench.moves, ID)->calls == 0);
}

/* --- given-up --------------------------------------------------------------------------------- */

#define TAKEN_BACK "{\"do\":\"taken-back\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":3}"
#define GIVEN_UP   "{\"do\":\"given-up\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":2}"

/* Never heard of: refused, and that durably before it is said. */
static void
test_unknown_move(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    g_autoptr(Caller) caller = caller_new(&rig.peer);

    rig.bench.fake->manual = true;
    caller_say(caller, json_loads(GIVEN_UP, 0, NULL));
    WAIT_FOR(rig.bench.fake->pending.length == 1);
    fake_store_answer(rig.bench.fake, false);
    WAIT_FOR(rig.bench.fake->pending.length == 1);
    g_assert_cmpuint(caller->answers->len, ==, 0);
    fake_store_answer(rig.bench.fake, false);
    g_assert_cmpstr(gw_json_str(caller_hear(caller), "do", ""), ==, "refused");
    assert_refused_record(&rig, ID);
    /* Asked again, on the same session and on a new one. */
    g_assert_cmpstr(gw_json_str(ask(caller, GIVEN_UP), "do", ""), ==, "refused");
    assert_answer(&rig, GIVEN_UP, "refused", "knows nothing of this move");
}

/* A move of other hosts, or of the other direction, is none of beta's business. */
static void
test_not_between_us(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwMove *move = add_move(&rig, ID, "target", GW_MOVE_INCOMING, "gamma");

    assert_answer(&rig, GIVEN_UP, "failed", "not between these two hosts");
    assert_answer(&rig, TAKEN_BACK, "failed", "not between these two hosts");
    g_assert_false(((GwTarget *)move->side)->given_up);
    g_assert_cmpint(move->state, ==, GW_MOVE_INCOMING);

    g_auto(Rig) back;
    rig_init(&back);
    add_move(&back, ID, "source", GW_MOVE_HANDED_OVER, "beta");
    assert_answer(&back, GIVEN_UP, "failed", "not between these two hosts");
}

static void
test_answers_of_final_states(void)
{
    static const struct {
        GwMoveState state;
        const char *what;
    } cases[] = {
        {GW_MOVE_RUNNING, "running"}, {GW_MOVE_REFUSED, "refused"}, {GW_MOVE_GUEST_LOST, "lost"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        GwMove *move = add_move(&rig, ID, "target", cases[i].state, "beta");
        g_autoptr(Caller) caller = caller_new(&rig.peer);
        g_assert_cmpstr(gw_json_str(ask(caller, GIVEN_UP), "do", ""), ==, cases[i].what);
        /* Another move's words on this session do nothing. */
        caller_say(caller, json_pack("{s:s, s:s}", "do", "settled", "move", "m-ffffffffffff"));
        g_assert_cmpstr(gw_json_str(ask(caller, GIVEN_UP), "do", ""), ==, cases[i].what);
        g_assert_false(gw_json_bool(move->record, "settled", false));
        caller_say(caller, json_pack("{s:s, s:s}", "do", "settled", "move", ID));
        WAIT_FOR(caller->closed);
        WAIT_FOR(
            g_queue_is_empty(&rig.bench.fake->pending)); /* it answers when nothing else is to do */
        g_autoptr(json_t) record = fake_store_record(rig.bench.fake, ID);
        g_assert_true(gw_json_bool(record, "settled", false));
    }
}

/* The session that carries the stream is replaced before the stream's end: it cannot become whole.
 */
static void
test_new_session_cuts_the_stream(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwMove *move = add_move(&rig, ID, "target", GW_MOVE_INCOMING, "beta");
    g_autoptr(Caller) first = caller_new(&rig.peer);

    caller_say(first, json_loads(GIVEN_UP, 0, NULL));
    WAIT_FOR(((GwTarget *)move->side)->given_up);
    assert_answer(&rig, GIVEN_UP, "refused", "new session");
}

static void
short_wait(GwMovesOptions *options)
{
    options->refuse_timeout_ms = 50;
}

/* Given up, and the rest never comes. */
static void
test_given_up_and_never_loaded(void)
{
    Rig rig;
    bench_init(&rig.bench, short_wait);
    peer_init(&rig.peer, no_script, NULL);
    peer_open_door(&rig.peer, rig.bench.moves);
    add_move(&rig, ID, "target", GW_MOVE_INCOMING, "beta");

    assert_answer(&rig, GIVEN_UP, "refused", "did not load");
    rig_clear(&rig);
}

static void
test_wrong_generation(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    add_move(&rig, ID, "target", GW_MOVE_INCOMING, "beta");
    assert_answer(&rig, "{\"do\":\"given-up\",\"move\":\"" ID "\",\"vm\":\"web\",\"generation\":3}",
                  "refused", "another generation");
}

/* Nothing of it is here, whatever state it came to; that is the end of it. */
static void
test_taken_back(void)
{
    static const GwMoveState states[] = {GW_MOVE_INCOMING, GW_MOVE_ACCEPTED, GW_MOVE_FETCHING,
                                         GW_MOVE_RUNNING,  GW_MOVE_REFUSED,  GW_MOVE_GUEST_LOST};

    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        g_auto(Rig) rig;
        rig_init(&rig);
        GwMove *move = add_move(&rig, ID, "target", states[i], "beta");
        g_autoptr(Caller) caller = caller_new(&rig.peer);
        /* Another generation than that of the move: not a word. */
        caller_say(caller, json_pack("{s:s, s:s, s:s, s:i}", "do", "taken-back", "move", ID, "vm",
                                     "web", "generation", 2));
        g_assert_cmpstr(gw_json_str(ask(caller, TAKEN_BACK), "do", ""), ==, "let-go");
        g_assert_true(gw_move_is_final(move));
        g_assert_true(gw_json_bool(move->record, "settled", false));
        g_assert_cmpstr(gw_json_str(ask(caller, TAKEN_BACK), "do", ""), ==, "let-go");
    }
}

/* --- nonsense --------------------------------------------------------------------------------- */

static json_t *
random_value(GRand *random, unsigned depth)
{
    static const char *const words[] = {"",       "web",      "m-",        ID,
                                        "lane",   "direct",   "source",    "\x7f",
                                        "../../", "given-up", "taken-back"};

    switch (g_rand_int_range(random, 0, depth > 3 ? 6 : 8)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(g_rand_boolean(random));
    case 2:
        return json_integer(g_rand_int_range(random, -3, 4));
    case 3:
        return json_integer(g_rand_boolean(random) ? INT64_MAX : INT64_MIN);
    case 4:
        return json_real(g_rand_double(random));
    case 5:
        return json_string(words[g_rand_int_range(random, 0, G_N_ELEMENTS(words))]);
    case 6: {
        json_t *array = json_array();
        for (int n = g_rand_int_range(random, 0, 4); n > 0; n--) {
            json_array_append_new(array, random_value(random, depth + 1));
        }
        return array;
    }
    default: {
        json_t *object = json_object();
        json_object_set_new(object, "message", random_value(random, depth + 1));
        json_object_set_new(object, "path", random_value(random, depth + 1));
        json_object_set_new(object, "kind", random_value(random, depth + 1));
        return object;
    }
    }
}

static json_t *
random_message(GRand *random)
{
    static const char *const dos[] = {"check", "prepare", "given-up", "abort", "settled", "?"};
    static const char *const keys[] = {"move",         "vm",        "generation",     "definition",
                                       "run",          "transport", "protocol",       "files",
                                       "cpu_features", "error",     "oldest_protocol"};
    json_t *message = json_object();

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (g_rand_int_range(random, 0, 4) > 0) {
            json_object_set_new(message, keys[i], random_value(random, 0));
        }
    }
    /* Mostly right where it would stop at once otherwise. */
    if (g_rand_int_range(random, 0, 3) > 0) {
        gw_json_set_str(message, "move", ID);
        gw_json_set_str(message, "vm", "web");
        gw_json_set_int(message, "generation", g_rand_int_range(random, 1, 4));
    }
    if (g_rand_boolean(random)) {
        gw_json_set_str(message, "definition", "[vm]\nname = web\nmemory = 64 MiB\n");
    }
    gw_json_set_str(message, "do", dos[g_rand_int_range(random, 0, G_N_ELEMENTS(dos))]);
    return message;
}

/* Anything goes, as long as nothing breaks and no VM or key comes of it. */
static void
test_random_messages(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    guint32 seed = g_test_rand_int();
    GRand *random = g_rand_new_with_seed(seed);

    g_test_message("seed %u", seed);
    for (unsigned i = 0; i < 60; i++) {
        g_autoptr(Caller) caller = caller_new(&rig.peer);
        for (int n = g_rand_int_range(random, 1, 6); n > 0 && !caller->closed; n--) {
            caller_say(caller, random_message(random));
        }
        g_autoptr(Caller) last = caller_new(&rig.peer);
        ask(last, "{\"do\":\"ping\"}");
    }
    g_assert_null(gw_vms_find(rig.bench.vms, "web"));
    g_rand_free(random);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/visitor/hostile-first-messages", test_hostile_first_messages);
    g_test_add_func("/visitor/goodbye", test_goodbye);
    g_test_add_func("/visitor/check", test_check);
    g_test_add_func("/visitor/check-abandoned", test_check_abandoned);
    g_test_add_func("/visitor/before-loaded", test_before_loaded);
    g_test_add_func("/visitor/prepare-fails", test_prepare_fails);
    g_test_add_func("/visitor/prepare-twice", test_prepare_twice);
    g_test_add_func("/visitor/prepare-while-busy", test_prepare_while_busy);
    g_test_add_func("/visitor/too-many", test_too_many);
    g_test_add_func("/visitor/prepare-with-full-store", test_prepare_with_full_store);
    g_test_add_func("/visitor/prepare-abandoned", test_prepare_abandoned);
    g_test_add_func("/visitor/unknown-move", test_unknown_move);
    g_test_add_func("/visitor/not-between-us", test_not_between_us);
    g_test_add_func("/visitor/answers-of-final-states", test_answers_of_final_states);
    g_test_add_func("/visitor/new-session-cuts-the-stream", test_new_session_cuts_the_stream);
    g_test_add_func("/visitor/given-up-and-never-loaded", test_given_up_and_never_loaded);
    g_test_add_func("/visitor/wrong-generation", test_wrong_generation);
    g_test_add_func("/visitor/taken-back", test_taken_back);
    g_test_add_func("/visitor/random-messages", test_random_messages);
    return g_test_run();
}
