// SPDX-License-Identifier: Apache-2.0
/*
 * Two hosts in one process, each with a store, an identity and a port of its own on loopback. All
 * waits are for callbacks; the watch over them is meson's timeout.
 */
#include "fleet/identity.h"
#include "fleet/peers.h"

#include <arpa/inet.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct Host {
    const char *name;
    char *dir;
    char *pki;
    uint16_t port;
    int64_t connect_timeout_ms;
    GwStore *store;
    GwPeers *peers;
    /* What was last reported to it. */
    unsigned calls;
    GError *error;
    json_t *hosts;
    GwLane *lane;
    char *asked; /* a member of the first message */
} Host;

typedef struct Fixture {
    char *root;
    Host alpha;
    Host beta;
} Fixture;

static void
wait_call(Host *host)
{
    while (host->calls == 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpuint(host->calls, ==, 1);
    host->calls = 0;
}

static void
on_done(const GError *error, void *data)
{
    Host *host = data;

    g_clear_error(&host->error);
    host->error = error ? g_error_copy(error) : NULL;
    host->calls++;
}

static void
on_hosts(json_t *hosts, const GError *error, void *data)
{
    Host *host = data;

    g_assert_no_error(error);
    json_decref(host->hosts);
    host->hosts = json_incref(hosts);
    host->calls++;
}

static json_t *
describe(void *data)
{
    const Host *host = data;

    /* "name" and "self" are lies that must not get through. */
    return json_pack("{s:s, s:i, s:s, s:b}", "godwit_version", host->name, "cpus", 2, "name",
                     "mallory", "self", 1);
}

/* A port that was free a moment ago. */
static uint16_t
free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, size), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&address, &size), ==, 0);
    close(fd);
    return ntohs(address.sin_port);
}

static void
start_peers(Host *host)
{
    const GwPeersOptions options = {
        .store = host->store,
        .host_name = host->name,
        .pki_dir = host->pki,
        .bind_address = "127.0.0.1",
        .port = host->port,
        .connect_timeout_ms = host->connect_timeout_ms,
        .session_timeout_ms = 10000,
        .describe = describe,
        .data = host,
    };

    host->peers = gw_peers_new(&options, on_done, host);
    g_assert_cmpuint(host->calls, ==, 0);
    wait_call(host);
    g_assert_no_error(host->error);
}

static void
host_setup(Fixture *fixture, Host *host, const char *name)
{
    g_autoptr(GError) error = NULL;

    host->name = name;
    host->dir = g_build_filename(fixture->root, name, NULL);
    g_assert_cmpint(g_mkdir(host->dir, 0700), ==, 0);
    host->pki = g_build_filename(host->dir, "pki", NULL);
    host->port = free_port();
    host->connect_timeout_ms = 5000;
    g_autofree char *path = g_build_filename(host->dir, "store.db", NULL);
    host->store = gw_store_sqlite_open(path, &error);
    g_assert_no_error(error);
}

static void
join(Host *ca, Host *host)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *pem = gw_identity_request(host->pki, host->name, &error);
    g_autofree char *answer = gw_identity_sign(ca->pki, pem, 0, &error);

    g_assert_true(gw_identity_install(host->pki, host->name, answer, &error));
    g_assert_no_error(error);
}

static void
init_ca(Host *host)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(gw_identity_init_ca(host->pki, host->name, &error));
    g_assert_no_error(error);
}

static void
setup(Fixture *fixture, const void *data)
{
    fixture->root = g_dir_make_tmp("godwit-peers-XXXXXX", NULL);
    host_setup(fixture, &fixture->alpha, "alpha");
    host_setup(fixture, &fixture->beta, "beta");
}

static void
setup_fleet(Fixture *fixture, const void *data)
{
    setup(fixture, data);
    init_ca(&fixture->alpha);
    join(&fixture->alpha, &fixture->beta);
    start_peers(&fixture->alpha);
    start_peers(&fixture->beta);
}

static void
remove_dir(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    g_rmdir(path);
}

static void
host_teardown(Host *host)
{
    gw_lane_free(host->lane);
    gw_peers_free(host->peers);
    gw_store_free(host->store);
    remove_dir(host->pki);
    remove_dir(host->dir);
    g_clear_error(&host->error);
    json_decref(host->hosts);
    g_free(host->asked);
    g_free(host->dir);
    g_free(host->pki);
}

static void
teardown(Fixture *fixture, const void *data)
{
    host_teardown(&fixture->alpha);
    host_teardown(&fixture->beta);
    g_assert_cmpint(g_rmdir(fixture->root), ==, 0);
    g_free(fixture->root);
}

static void
add(Host *host, const char *name, const char *address, uint16_t port)
{
    gw_peers_add(host->peers, name, address, port, on_done, host);
    g_assert_cmpuint(host->calls, ==, 0);
    wait_call(host);
}

static void
add_each_other(Fixture *fixture)
{
    add(&fixture->alpha, "beta", "127.0.0.1", fixture->beta.port);
    g_assert_no_error(fixture->alpha.error);
    add(&fixture->beta, "alpha", "127.0.0.1", fixture->alpha.port);
    g_assert_no_error(fixture->beta.error);
}

/* The entry of @name in what @host is told when it asks all. */
static json_t *
query(Host *host, const char *name)
{
    gw_peers_query(host->peers, on_hosts, host);
    g_assert_cmpuint(host->calls, ==, 0);
    wait_call(host);
    for (size_t i = 0; i < json_array_size(host->hosts); i++) {
        json_t *entry = json_array_get(host->hosts, i);
        if (g_str_equal(gw_json_str(entry, "name", ""), name)) {
            return entry;
        }
    }
    return NULL;
}

static void
assert_says(const char *message, const char *part)
{
    if (!message || !strstr(message, part)) {
        g_error("'%s' is not in: %s", part, message ? message : "(nothing)");
    }
}

static void
assert_unreachable(json_t *entry, const char *code, const char *part)
{
    const json_t *error = json_object_get(entry, "error");

    g_assert_false(gw_json_bool(entry, "reachable", true));
    assert_says(gw_json_str(error, "message", NULL), part);
    g_assert_cmpstr(gw_json_str(error, "code", NULL), ==, code);
    g_assert_null(json_object_get(entry, "godwit_version"));
}

/* --- tests ------------------------------------------------------------------------------------ */

static void
test_query(Fixture *fixture, const void *data)
{
    add_each_other(fixture);
    json_t *entry = query(&fixture->alpha, "beta");
    g_assert_cmpuint(json_array_size(fixture->alpha.hosts), ==, 2);
    g_assert_true(json_is_null(json_object_get(entry, "error")));
    g_assert_true(gw_json_bool(entry, "reachable", false));
    g_assert_cmpstr(gw_json_str(entry, "godwit_version", NULL), ==, "beta");
    g_assert_cmpstr(gw_json_str(entry, "address", NULL), ==, "127.0.0.1");
    g_assert_cmpint(gw_json_int(entry, "port", 0), ==, fixture->beta.port);
    g_assert_cmpint(gw_json_int(entry, "cpus", 0), ==, 2);
    g_assert_false(gw_json_bool(entry, "self", true));
    g_assert_cmpuint(json_array_size(json_object_get(entry, "addresses")), ==, 1);

    const json_t *self = json_array_get(fixture->alpha.hosts, 0);
    g_assert_cmpstr(gw_json_str(self, "name", NULL), ==, "alpha");
    g_assert_true(gw_json_bool(self, "self", false));
    g_assert_cmpstr(gw_json_str(self, "godwit_version", NULL), ==, "alpha");
}

/* Nobody listens at the first one. */
static void
test_second_address(Fixture *fixture, const void *data)
{
    add(&fixture->alpha, "beta", "127.0.0.3,127.0.0.1", fixture->beta.port);
    add(&fixture->beta, "alpha", "127.0.0.1", fixture->alpha.port);
    const json_t *entry = query(&fixture->alpha, "beta");
    g_assert_true(gw_json_bool(entry, "reachable", false));
    g_assert_cmpuint(json_array_size(json_object_get(entry, "addresses")), ==, 2);
}

static void
test_unknown_to_the_other(Fixture *fixture, const void *data)
{
    add(&fixture->alpha, "beta", "127.0.0.1", fixture->beta.port);
    json_t *entry = query(&fixture->alpha, "beta");
    assert_unreachable(entry, "refused", "host 'beta' does not know host 'alpha'");
    assert_says(gw_json_str(json_object_get(entry, "error"), "message", ""),
                "godwit host add alpha");
}

static void
test_unknown_here(Fixture *fixture, const void *data)
{
    static const GwLaneHandlers none;
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_peers_connect(fixture->alpha.peers, "beta", NULL, &none, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_assert_null(gw_peers_address(fixture->alpha.peers, "beta"));
    g_clear_error(&error);
    g_assert_null(gw_peers_connect(fixture->alpha.peers, "alpha", NULL, &none, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
}

static void
test_nobody_listens(Fixture *fixture, const void *data)
{
    uint16_t port = free_port();
    g_autofree char *where = g_strdup_printf("127.0.0.1:%u", port);
    g_autofree char *told = g_strdup_printf("127.0.0.1 port %u", port);

    add(&fixture->alpha, "gamma", where, 0);
    g_assert_no_error(fixture->alpha.error);
    assert_unreachable(query(&fixture->alpha, "gamma"), "unreachable", told);
}

/* Something takes the connection and stays silent. */
static void
test_no_answer(Fixture *fixture, const void *data)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, size), ==, 0);
    g_assert_cmpint(listen(fd, 5), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&address, &size), ==, 0);
    fixture->alpha.connect_timeout_ms = 300;
    init_ca(&fixture->alpha);
    start_peers(&fixture->alpha);
    add(&fixture->alpha, "gamma", "127.0.0.1", ntohs(address.sin_port));
    int64_t start_us = g_get_monotonic_time();
    assert_unreachable(query(&fixture->alpha, "gamma"), "timeout", "host 'gamma' at 127.0.0.1");
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 3 * G_USEC_PER_SEC);
    close(fd);
}

/* Another host's address under a wrong name: its certificate tells. */
static void
test_wrong_name(Fixture *fixture, const void *data)
{
    add(&fixture->beta, "alpha", "127.0.0.1", fixture->alpha.port);
    add(&fixture->alpha, "gamma", "127.0.0.1", fixture->beta.port);
    assert_unreachable(query(&fixture->alpha, "gamma"), "refused", "beta");
}

static void
test_foreign_fleet(Fixture *fixture, const void *data)
{
    init_ca(&fixture->alpha);
    init_ca(&fixture->beta);
    start_peers(&fixture->alpha);
    start_peers(&fixture->beta);
    add_each_other(fixture);
    assert_unreachable(query(&fixture->alpha, "beta"), "refused", "");
}

static void
test_add_and_remove(Fixture *fixture, const void *data)
{
    Host *alpha = &fixture->alpha;
    static const struct {
        const char *name;
        const char *address;
        uint16_t port;
        GwErrorCode code;
        const char *part;
    } bad[] = {
        {"alpha", "127.0.0.1", 0, GW_ERROR_INVALID, "this host itself"},
        {"Beta!", "127.0.0.1", 0, GW_ERROR_INVALID, "host name"},
        {"beta", "127.0.0.999", 0, GW_ERROR_INVALID, "not a host's address"},
        {"beta", "[::1]:80", 81, GW_ERROR_INVALID, "two ports"},
        {"beta", "[::1]:80,10.0.0.2:81", 0, GW_ERROR_INVALID, "two ports"},
        {"beta", "10.0.0.2,10.0.0.2", 0, GW_ERROR_INVALID, "given twice"},
        {"beta", "10.0.0.2,", 0, GW_ERROR_INVALID, "not a host's address"},
        {"beta", "a,b,c,d,e,f,g,h,i", 0, GW_ERROR_TOO_LARGE, "at most 8"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        add(alpha, bad[i].name, bad[i].address, bad[i].port);
        g_assert_error(alpha->error, GW_ERROR, (int)bad[i].code);
        assert_says(alpha->error->message, bad[i].part);
    }
    add(alpha, "beta", "[::1]:7791, beta.example", 0);
    g_assert_no_error(alpha->error);
    g_assert_cmpstr(gw_peers_address(alpha->peers, "beta"), ==, "::1");
    add(alpha, "beta", "127.0.0.1", 0);
    g_assert_error(alpha->error, GW_ERROR, GW_ERROR_EXISTS);

    /* The table is in the store: a restart finds it. */
    g_clear_pointer(&alpha->peers, gw_peers_free);
    start_peers(alpha);
    g_assert_cmpstr(gw_peers_address(alpha->peers, "beta"), ==, "::1");
    gw_peers_remove(alpha->peers, "beta", on_done, alpha);
    wait_call(alpha);
    g_assert_no_error(alpha->error);
    g_assert_null(gw_peers_address(alpha->peers, "beta"));
    gw_peers_remove(alpha->peers, "beta", on_done, alpha);
    wait_call(alpha);
    g_assert_error(alpha->error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_clear_pointer(&alpha->peers, gw_peers_free);
    start_peers(alpha);
    g_assert_null(gw_peers_address(alpha->peers, "beta"));
}

static void
test_two_adds_at_once(Fixture *fixture, const void *data)
{
    Host *alpha = &fixture->alpha;
    Host *beta = &fixture->beta; /* only as the second one's callback data */

    gw_peers_add(alpha->peers, "gamma", "192.0.2.1", 0, on_done, alpha);
    gw_peers_add(alpha->peers, "gamma", "192.0.2.2", 0, on_done, beta);
    wait_call(alpha);
    wait_call(beta);
    g_assert_no_error(alpha->error);
    g_assert_error(beta->error, GW_ERROR, GW_ERROR_EXISTS);
    g_assert_cmpstr(gw_peers_address(alpha->peers, "gamma"), ==, "192.0.2.1");
}

static void
test_without_identity(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;

    start_peers(&fixture->alpha);
    add(&fixture->alpha, "beta", "127.0.0.1", fixture->beta.port);
    g_assert_no_error(fixture->alpha.error);
    assert_unreachable(query(&fixture->alpha, "beta"), "wrong-state", "godwit init");
    g_assert_false(gw_peers_reload_identity(fixture->alpha.peers, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);

    /* Made later, it is taken up without a restart. */
    init_ca(&fixture->alpha);
    join(&fixture->alpha, &fixture->beta);
    g_assert_true(gw_peers_reload_identity(fixture->alpha.peers, NULL));
    start_peers(&fixture->beta);
    add(&fixture->beta, "alpha", "127.0.0.1", fixture->alpha.port);
    json_t *entry = query(&fixture->alpha, "beta");
    g_assert_true(gw_json_bool(entry, "reachable", false));
}

static void
test_identity_of_another_name(Fixture *fixture, const void *data)
{
    g_autoptr(GError) error = NULL;

    init_ca(&fixture->alpha);
    fixture->alpha.name = "renamed";
    start_peers(&fixture->alpha);
    g_assert_false(gw_peers_reload_identity(fixture->alpha.peers, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    assert_says(error->message, "'alpha' by its certificate");
}

static void
on_ask_ready(GwLane *lane, void *data)
{
    g_autoptr(json_t) question = json_pack("{s:s, s:s}", "service", "move", "id", "m-1");

    g_assert_true(gw_lane_send(lane, question, NULL));
}

static void
on_ask_message(GwLane *lane, json_t *message, void *data)
{
    Host *host = data;

    g_free(host->asked);
    host->asked = gw_json_text(message);
    host->calls++;
}

static void
on_ask_closed(GwLane *lane, const GError *error, void *data)
{
    Host *host = data;

    if (lane == host->lane) {
        g_clear_pointer(&host->lane, gw_lane_free);
    }
}

static const GwLaneHandlers ask_handlers = {
    .ready = on_ask_ready,
    .message = on_ask_message,
    .closed = on_ask_closed,
};

static void
serve_move(GwLane *lane, json_t *message, void *data)
{
    static const GwLaneHandlers handlers = {.closed = on_ask_closed};
    Host *host = data;
    g_autoptr(json_t) reply = json_pack("{s:s, s:s}", "from", gw_lane_peer_name(lane), "id",
                                        gw_json_str(message, "id", ""));

    host->lane = lane;
    gw_lane_set_handlers(lane, &handlers, host);
    g_assert_true(gw_lane_send(lane, reply, NULL));
}

static void
test_services(Fixture *fixture, const void *data)
{
    Host *alpha = &fixture->alpha;
    g_autoptr(GError) error = NULL;

    add_each_other(fixture);
    alpha->lane = gw_peers_connect(alpha->peers, "beta", NULL, &ask_handlers, alpha, &error);
    wait_call(alpha);
    assert_says(alpha->asked, "does not know the service 'move'");
    g_clear_pointer(&alpha->lane, gw_lane_free);

    gw_peers_serve(fixture->beta.peers, "move", serve_move, &fixture->beta);
    alpha->lane = gw_peers_connect(alpha->peers, "beta", NULL, &ask_handlers, alpha, &error);
    wait_call(alpha);
    g_assert_cmpstr(alpha->asked, ==, "{\"from\":\"alpha\",\"id\":\"m-1\"}");
    g_assert_nonnull(fixture->beta.lane);
}

/* Nothing is called after the end, whatever is under way. */
static void
test_freed_in_the_middle(Fixture *fixture, const void *data)
{
    Host *alpha = &fixture->alpha;

    add_each_other(fixture);
    gw_peers_query(alpha->peers, on_hosts, alpha);
    gw_peers_add(alpha->peers, "gamma", "192.0.2.1", 0, on_done, alpha);
    gw_peers_add(alpha->peers, "not a name", "192.0.2.1", 0, on_done, alpha);
    gw_peers_remove(alpha->peers, "beta", on_done, alpha);
    g_clear_pointer(&alpha->peers, gw_peers_free);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_assert_cmpuint(alpha->calls, ==, 0);
}

#define ADD(name, prepare, function)                                                               \
    g_test_add("/peers/" name, Fixture, NULL, prepare, function, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("query", setup_fleet, test_query);
    ADD("second-address", setup_fleet, test_second_address);
    ADD("unknown-to-the-other", setup_fleet, test_unknown_to_the_other);
    ADD("unknown-here", setup_fleet, test_unknown_here);
    ADD("nobody-listens", setup_fleet, test_nobody_listens);
    ADD("no-answer", setup, test_no_answer);
    ADD("wrong-name", setup_fleet, test_wrong_name);
    ADD("foreign-fleet", setup, test_foreign_fleet);
    ADD("add-and-remove", setup_fleet, test_add_and_remove);
    ADD("two-adds-at-once", setup_fleet, test_two_adds_at_once);
    ADD("without-identity", setup, test_without_identity);
    ADD("identity-of-another-name", setup, test_identity_of_another_name);
    ADD("services", setup_fleet, test_services);
    ADD("freed-in-the-middle", setup_fleet, test_freed_in_the_middle);
    return g_test_run();
}
