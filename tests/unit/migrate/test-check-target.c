// SPDX-License-Identifier: Apache-2.0
/*
 * The target's rows, one by one, with capabilities and messages made for them, and messages that no
 * honest host would send. A bench without QEMU is enough: nothing is started by a check.
 */
#include "migrate/check.h"
#include "support.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define PLAIN "[vm]\nname = web\nmemory = 64 MiB\n"

typedef struct Rig {
    Bench bench;
    GwHostCaps *caps;
    json_t *checks;
    uint16_t port;
    bool plain;
    struct sockaddr_storage from; /* the session with the source */
} Rig;

static void
rig_init(Rig *rig)
{
    *rig = (Rig){0};
    bench_init(&rig->bench, NULL);
    rig->caps = g_new0(GwHostCaps, 1);
    rig->caps->qemu_binary = g_strdup("/usr/bin/qemu");
    rig->caps->qemu_version = g_strdup("10.0.2");
    rig->caps->qemu_major_minor = 1000;
    rig->caps->accel = g_strdup("tcg");
    rig->caps->accel_reason = g_strdup("no /dev/kvm");
    rig->caps->cpu_model = g_strdup("made up");
    rig->caps->machines = json_pack("{s:{s:b}, s:{s:s}}", "pc-q35-10.0", "deprecated", 0, "q35",
                                    "alias_of", "pc-q35-10.0");
    rig->caps->cpu_features = json_pack("[s, s, s]", "sse2", "aes", "avx");
    gw_moves_set_caps(rig->bench.moves, rig->caps);
}

static void
rig_clear(Rig *rig)
{
    bench_clear(&rig->bench);
    gw_host_caps_free(rig->caps);
    json_decref(rig->checks);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

static json_t *
good_message(void)
{
    return json_pack("{s:i, s:i, s:s, s:s, s:[s, s], s:{s:s, s:s, s:s, s:s}}", "protocol",
                     GW_CHECK_PROTOCOL, "oldest_protocol", GW_CHECK_OLDEST_PROTOCOL, "vm", "web",
                     "definition", PLAIN, "cpu_features", "sse2", "aes", "run", "accel", "tcg",
                     "machine", "pc-q35-10.0", "cpu", "max", "qemu_version", "10.0.2");
}

static void
on_answer(json_t *checks, uint16_t port, bool plain, void *data)
{
    Rig *rig = data;

    g_assert_null(rig->checks);
    rig->port = port;
    rig->plain = plain;
    rig->checks = json_incref(checks);
}

/* @message: transfer full. */
static void
check(Rig *rig, json_t *message)
{
    g_clear_pointer(&rig->checks, json_decref);
    GwCheckAnswer *answer = gw_check_answer(rig->bench.moves, &rig->from, message, on_answer, rig);
    json_decref(message); /* it keeps its own */
    WAIT_FOR(rig->checks);
    gw_check_answer_free(answer);
}

/* The worst row with this id; NULL if there is none. */
static const json_t *
row_of(Rig *rig, const char *id)
{
    const json_t *found = NULL;
    size_t i;
    json_t *row;

    json_array_foreach(rig->checks, i, row)
    {
        if (strcmp(gw_json_str(row, "id", ""), id) == 0 &&
            (!found || strcmp(gw_json_str(row, "status", ""), "ok") != 0)) {
            found = row;
        }
    }
    return found;
}

/* Also that nothing else is wrong, and that what is wrong has a remedy. */
static void
assert_only(Rig *rig, const char *id, const char *status, const char *part)
{
    size_t i;
    json_t *row;

    json_array_foreach(rig->checks, i, row)
    {
        const char *what = gw_json_str(row, "status", "?");
        const char *row_id = gw_json_str(row, "id", "?");
        bool ok = strcmp(what, "ok") == 0;
        if (!ok && (!id || strcmp(row_id, id) != 0)) {
            g_error("%s: %s: %s", row_id, what, gw_json_str(row, "message", ""));
        }
        g_assert_true(ok || gw_json_str(row, "remedy", NULL));
    }
    if (id) {
        const json_t *worst = row_of(rig, id);
        g_assert_nonnull(worst);
        g_assert_cmpstr(gw_json_str(worst, "status", ""), ==, status);
        if (!strstr(gw_json_str(worst, "message", ""), part)) {
            g_error("'%s' lacks '%s'", gw_json_str(worst, "message", ""), part);
        }
    }
}

/* A whole range that is taken stops a direct move; "auto" has the lane. */
static void
test_direct_ports(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    uint16_t port = 0;
    GwMovesOptions *options = &rig.bench.moves->options;
    g_auto(GwFd) taken = gw_direct_open_door(options, NULL, &port, NULL);
    struct sockaddr_in6 address;
    socklen_t len = sizeof(address);

    g_assert_cmpint(getsockname(taken, (struct sockaddr *)&address, &len), ==, 0);
    options->direct_port_min = options->direct_port_max = ntohs(address.sin6_port);
    static const char *const statuses[][2] = {{"direct", "error"}, {"auto", "warning"}};
    for (size_t i = 0; i < G_N_ELEMENTS(statuses); i++) {
        json_t *message = good_message();
        gw_json_set_str(message, "transport", statuses[i][0]);
        check(&rig, message);
        assert_only(&rig, "direct-ports", statuses[i][1], "direct moves");
        g_assert_cmpuint(rig.port, ==, 0);
    }
    check(&rig, good_message());
    g_assert_null(row_of(&rig, "direct-ports"));

    gw_fd_clear(&taken);
    json_t *message = good_message();
    gw_json_set_str(message, "transport", "auto");
    check(&rig, message);
    assert_only(&rig, NULL, NULL, NULL);
    g_assert_cmpuint(rig.port, ==, options->direct_port_min);
}

/* Refused, with the remedy, unless the networks have the address that the session comes from. */
static void
test_plain(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwMovesOptions *options = &rig.bench.moves->options;
    g_autoptr(GwNetworks) elsewhere = gw_networks_parse("10.77.0.0/24", NULL);
    g_autoptr(GwNetworks) here = gw_networks_parse("10.77.0.0/24 127.0.0.0/8", NULL);
    const GwNetworks *const configured[] = {NULL, elsewhere, here};

    *(struct sockaddr_in *)&rig.from =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (size_t i = 0; i < G_N_ELEMENTS(configured); i++) {
        options->plain_networks = configured[i];
        json_t *message = good_message();
        gw_json_set_str(message, "transport", "plain");
        check(&rig, message);
        bool allowed = configured[i] == here;
        assert_only(&rig, allowed ? NULL : "plain-networks", "error", "no network with 127.0.0.1");
        g_assert_nonnull(row_of(&rig, "plain-networks"));
        g_assert_cmpint(rig.plain, ==, allowed);
        message = good_message();
        gw_json_set_str(message, "transport", "auto");
        check(&rig, message);
        g_assert_null(row_of(&rig, "plain-networks")); /* the source chooses something else */
        g_assert_cmpint(rig.plain, ==, allowed);
    }
    rig.from = (struct sockaddr_storage){0};
    check(&rig, good_message());
    g_assert_false(rig.plain);
}

static void
test_all_is_well(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    check(&rig, good_message());
    assert_only(&rig, NULL, NULL, NULL);
    g_assert_nonnull(row_of(&rig, "protocol"));
    g_assert_nonnull(row_of(&rig, "memory"));
    g_assert_nonnull(row_of(&rig, "limits"));
}

static void
check_run(Rig *rig, const char *key, const char *value)
{
    json_t *message = good_message();

    gw_json_set_str(json_object_get(message, "run"), key, value);
    check(rig, message);
}

static void
test_qemu_version(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    check_run(&rig, "qemu_version", "10.1.0");
    assert_only(&rig, "qemu-version", "error", "older than the source's 10.1.0");
    check_run(&rig, "qemu_version", "9.2");
    assert_only(&rig, NULL, NULL, NULL);
}

static void
test_machine(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    check_run(&rig, "machine", "pc-q35-10.1");
    assert_only(&rig, "machine-type", "error", "'pc-q35-10.1'");
}

static void
test_accelerator(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    check_run(&rig, "accel", "kvm");
    assert_only(&rig, "accelerator", "error", "no /dev/kvm");
    /* Guests are damaged when QEMU before 9.0 moves them under TCG. */
    rig.caps->qemu_major_minor = 802;
    check_run(&rig, "qemu_version", "8.2.0");
    assert_only(&rig, "accelerator", "error", "damages guests");
    g_free(rig.caps->accel);
    rig.caps->accel = g_strdup("kvm");
    json_t *message = good_message();
    gw_json_set_str(json_object_get(message, "run"), "accel", "kvm");
    gw_json_set_str(json_object_get(message, "run"), "qemu_version", "8.2.0");
    check(&rig, message);
    assert_only(&rig, NULL, NULL, NULL);
}

static void
check_features(Rig *rig, json_t *features)
{
    json_t *message = good_message();

    json_object_set_new(message, "cpu_features", features);
    check(rig, message);
}

static void
test_cpu(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    check_features(&rig, json_pack("[s, s, s]", "aes", "amx", "apx"));
    assert_only(&rig, "cpu-features", "error", "lacks: amx, apx");
    check_features(&rig, json_array());
    assert_only(&rig, "cpu-features", "warning", "did not tell");
    check_features(&rig, json_pack("[i, n, {}]", 7));
    assert_only(&rig, NULL, NULL, NULL);
    json_t *many = json_array();
    for (unsigned i = 0; i < 100000; i++) {
        json_array_append_new(many, json_string("x"));
    }
    check_features(&rig, many);
    assert_only(&rig, "cpu-features", "warning", "did not tell");
}

static void
check_definition(Rig *rig, const char *text)
{
    json_t *message = good_message();

    gw_json_set_str(message, "definition", text);
    check(rig, message);
}

static void
test_memory(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    check_definition(&rig, "[vm]\nname = web\nmemory = 4 TiB\n");
    assert_only(&rig, "memory", "error", "the VM needs 4");
}

static void
test_network(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    check_definition(&rig, PLAIN "[nic a]\nmode = bridge\nbridge = gw-none0\n");
    assert_only(&rig, "network", "error", "no bridge 'gw-none0'");
    /* An interface that is none. */
    check_definition(&rig, PLAIN "[nic a]\nmode = bridge\nbridge = lo\n");
    assert_only(&rig, "network", "error", "no bridge 'lo'");
    check_definition(&rig, PLAIN "[nic a]\nmode = user\n");
    assert_only(&rig, NULL, NULL, NULL);
}

static void
add_incoming(Rig *rig, const char *id, const char *vm)
{
    json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "id", id, "vm", vm, "source",
                               "beta", "target", "alpha", "role", "target", "state", "incoming",
                               "generation", (json_int_t)1);

    gw_moves_add(rig->bench.moves, gw_move_new(rig->bench.moves, &gw_target_role, record));
}

static void
test_limits(void)
{
    static const char *const ids[] = {"m-1", "m-2", "m-3", "m-4"};
    g_auto(Rig) rig;
    rig_init(&rig);

    for (unsigned i = 0; i < G_N_ELEMENTS(ids); i++) {
        check(&rig, good_message());
        assert_only(&rig, NULL, NULL, NULL);
        add_incoming(&rig, ids[i], ids[i]);
    }
    check(&rig, good_message());
    assert_only(&rig, "limits", "error", "takes 4 moves");
}

static void
on_defined(GwVm *vm, const GError *error, void *data)
{
    g_assert_no_error(error);
    *(GwVm **)data = vm;
}

static GwVm *
define(Rig *rig, const char *text)
{
    GwVm *vm = NULL;

    gw_vms_set_caps(rig->bench.vms, rig->caps);
    gw_vms_define(rig->bench.vms, gw_definition_parse(text, strlen(text), "test", NULL), on_defined,
                  &vm);
    WAIT_FOR(vm);
    return vm;
}

static void
test_name_and_mac(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    define(&rig,
           "[vm]\nname = db\nmemory = 64 MiB\n[nic x]\nmode = user\nmac = 52:54:00:aa:bb:cc\n");
    check_definition(&rig, PLAIN "[nic a]\nmode = user\nmac = 52:54:00:AA:BB:CC\n");
    assert_only(&rig, "network", "error", "VM 'db'");
    GwVm *web = define(&rig, PLAIN);
    check(&rig, good_message());
    assert_only(&rig, "name", "error", "of its own (stopped)");
    gw_vm_hold(web, "m-old");
    check(&rig, good_message());
    assert_only(&rig, "name", "error", "after move m-old");
}

static void
test_protocol(void)
{
    static const struct {
        int64_t theirs;
        int64_t oldest;
        bool good;
    } cases[] = {
        {GW_CHECK_PROTOCOL, GW_CHECK_OLDEST_PROTOCOL, true},
        {GW_CHECK_PROTOCOL + 5, GW_CHECK_PROTOCOL, true},
        {GW_CHECK_PROTOCOL + 5, GW_CHECK_PROTOCOL + 1, false},
        {GW_CHECK_OLDEST_PROTOCOL - 1, 0, false},
        {INT64_MIN, INT64_MIN, false},
        {INT64_MAX, INT64_MAX, false},
    };
    g_auto(Rig) rig;
    rig_init(&rig);

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        json_t *message = good_message();
        gw_json_set_int(message, "protocol", cases[i].theirs);
        gw_json_set_int(message, "oldest_protocol", cases[i].oldest);
        check(&rig, message);
        assert_only(&rig, cases[i].good ? NULL : "protocol", "error", "speaks protocol");
    }
}

static void
test_files(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    json_t *message = good_message();

    json_object_set_new(message, "files",
                        json_pack("[{s:s, s:s}, {s:s, s:s, s:s}]", "kind", "disk", "path",
                                  "/no/disk", "kind", "boot", "path", "/no/kernel", "sha256",
                                  "00"));
    check(&rig, message);
    g_assert_nonnull(strstr(gw_json_str(row_of(&rig, "disks"), "message", ""), "/no/disk"));
    g_assert_nonnull(strstr(gw_json_str(row_of(&rig, "boot-files"), "message", ""), "/no/kernel"));
    g_assert_cmpstr(gw_json_str(row_of(&rig, "disks"), "status", ""), ==, "error");
    g_assert_cmpstr(gw_json_str(row_of(&rig, "boot-files"), "status", ""), ==, "error");
}

static void
test_no_qemu(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    gw_moves_set_caps(rig.bench.moves, NULL);
    check(&rig, good_message());
    assert_only(&rig, "qemu-version", "error", "no working QEMU");
}

/* Nothing of it is believed, nothing of it breaks anything, and an answer always comes. */
static void
test_hostile_messages(void)
{
    static const char *const texts[] = {
        "{}",
        "{\"definition\":7}",
        "{\"definition\":\"\"}",
        "{\"definition\":\"[vm]\\nname = web\\nmemory = 64 MiB\\n\"}",
        "{\"definition\":\"[vm]\\nname = web\\nmemory = 64 MiB\\n\",\"run\":7,\"files\":7}",
        "{\"definition\":\"[vm]\\nname = web\\nmemory = 64 MiB\\n\",\"run\":{\"accel\":[],"
        "\"machine\":{},\"cpu\":null,\"qemu_version\":1e99},\"cpu_features\":{\"a\":true}}",
        "{\"definition\":\"[vm]\\nname = web\\nmemory = 64 "
        "MiB\\n\",\"run\":{\"machine\":\"%n%s%s\","
        "\"accel\":\"%s%n\",\"qemu_version\":\"99999999999.99999999999\"}}",
    };
    g_auto(Rig) rig;
    rig_init(&rig);

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        json_t *message = json_loads(texts[i], 0, NULL);
        g_assert_nonnull(message);
        check(&rig, message);
        g_assert_cmpuint(json_array_size(rig.checks), >, 0);
        g_assert_nonnull(row_of(&rig, "protocol"));
        g_assert_cmpstr(gw_json_str(row_of(&rig, "protocol"), "status", ""), ==, "error");
    }
}

/* Freed at every moment: no callback comes. */
static void
test_freed(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    for (unsigned i = 0; i < 20; i++) {
        g_autoptr(json_t) message = i % 2 ? good_message() : json_object();
        GwCheckAnswer *answer =
            gw_check_answer(rig.bench.moves, &rig.from, message, on_answer, &rig);
        gw_check_answer_free(answer);
    }
    check(&rig, good_message());
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/check-target/direct-ports", test_direct_ports);
    g_test_add_func("/check-target/plain", test_plain);
    g_test_add_func("/check-target/all-is-well", test_all_is_well);
    g_test_add_func("/check-target/qemu-version", test_qemu_version);
    g_test_add_func("/check-target/machine", test_machine);
    g_test_add_func("/check-target/accelerator", test_accelerator);
    g_test_add_func("/check-target/cpu", test_cpu);
    g_test_add_func("/check-target/memory", test_memory);
    g_test_add_func("/check-target/network", test_network);
    g_test_add_func("/check-target/limits", test_limits);
    g_test_add_func("/check-target/name-and-mac", test_name_and_mac);
    g_test_add_func("/check-target/protocol", test_protocol);
    g_test_add_func("/check-target/files", test_files);
    g_test_add_func("/check-target/no-qemu", test_no_qemu);
    g_test_add_func("/check-target/hostile-messages", test_hostile_messages);
    g_test_add_func("/check-target/freed", test_freed);
    return g_test_run();
}
