// SPDX-License-Identifier: Apache-2.0
/* Every route through the real server and the real client, with fakes behind it. */
#include "api/client.h"
#include "api/server.h"
#include "fakes.h"
#include "support.h"

#include <signal.h>
#include <string.h>

typedef struct Fixture {
    Place place;
    GwServer *server;
    GwClient *client;
} Fixture;

static json_t *
describe(void *data)
{
    return json_pack("{s:s}", "accel", "tcg");
}

static void
set_up(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    place_make(&fixture->place);
    fake_calls = g_string_new(NULL);
    fake_vm_state = GW_VM_RUNNING;
    fake_move_final = false;
    fake_log_path = g_build_filename(fixture->place.folder, "qemu.log", NULL);
    fixture->server = gw_server_new(
        &(GwServerOptions){
            .socket_path = fixture->place.socket,
            .host_name = "alpha",
            .pki_dir = "/pki",
            .describe = describe,
        },
        &error);
    g_assert_no_error(error);
    fixture->client = gw_client_new(fixture->place.socket);
}

static void
tear_down(Fixture *fixture, gconstpointer data)
{
    gw_client_free(fixture->client);
    gw_server_free(fixture->server);
    g_string_free(g_steal_pointer(&fake_calls), TRUE);
    g_clear_error(&fake_error);
    unlink(fake_log_path);
    g_clear_pointer(&fake_log_path, g_free);
    place_remove(&fixture->place);
}

typedef struct Call {
    GwClient *client;
    const char *method;
    const char *path;
    json_t *body;
    json_t *answer;
    GError *error;
} Call;

static void
do_call(void *data)
{
    Call *call = data;

    call->answer = gw_client_call(call->client, call->method, call->path, call->body, &call->error);
}

/* The answer's text, or "CODE: MESSAGE"; @body is JSON text or NULL. */
static char *
ask(Fixture *fixture, const char *method, const char *path, const char *body)
{
    Call call = {.client = fixture->client, .method = method, .path = path};
    g_autoptr(json_t) object = body ? json_loads(body, 0, NULL) : NULL;
    g_autoptr(GError) error = NULL;

    call.body = object;
    run_beside_loop(do_call, &call);
    g_autoptr(json_t) answer = call.answer;
    error = call.error;
    if (error) {
        return g_strdup_printf("%s: %s", gw_error_code_name(error->code), error->message);
    }
    return gw_json_text(answer);
}

static void
assert_ask(Fixture *fixture, const char *method, const char *path, const char *body,
           const char *expected)
{
    g_autofree char *answer = ask(fixture, method, path, body);

    g_assert_cmpstr(answer, ==, expected);
}

static void
assert_calls(const char *expected)
{
    g_assert_cmpstr(fake_calls->str, ==, expected);
    g_string_truncate(fake_calls, 0);
}

static void
test_vm(Fixture *fixture, gconstpointer data)
{
    const char *web1 = "{\"name\":\"web1\",\"state\":\"running\"}";

    assert_ask(fixture, "GET", "/v1/vms", NULL,
               "{\"vms\":[{\"name\":\"web1\",\"state\":\"running\"}]}");
    assert_ask(fixture, "GET", "/v1/vms/web1", NULL, web1);
    assert_ask(fixture, "GET", "/v1/vms/web2", NULL,
               "not-found: no VM 'web2' on host 'alpha': `godwit vm list` shows them");
    assert_ask(fixture, "POST", "/v1/vms", "{\"definition\":\"good\"}", web1);
    assert_ask(fixture, "POST", "/v1/vms", "{\"definition\":\"bad\",\"source\":\"f.conf\"}",
               "invalid: f.conf:1: not good");
    assert_ask(fixture, "POST", "/v1/vms", "{}", "invalid: 'definition' is missing");
    assert_ask(fixture, "POST", "/v1/vms/web1/start", NULL, web1);
    assert_ask(fixture, "POST", "/v1/vms/web1/stop", NULL, web1);
    assert_ask(fixture, "POST", "/v1/vms/web1/stop", "{\"force\":true,\"timeout_ms\":5}", web1);
    assert_ask(fixture, "POST", "/v1/vms/web1/stop", "{\"force\":1}",
               "invalid: 'force' must be true or false");
    assert_ask(fixture, "DELETE", "/v1/vms/web1", NULL, "{}");
    assert_ask(fixture, "DELETE", "/v1/vms/x", NULL,
               "not-found: no VM 'x' on host 'alpha': `godwit vm list` shows them");
    assert_calls("define web1;start;stop 0 120000;stop 1 5;undefine;");
    g_set_error(&fake_error, GW_ERROR, GW_ERROR_UNSUPPORTED, "QEMU says no");
    assert_ask(fixture, "POST", "/v1/vms/web1/start", NULL, "unsupported: QEMU says no");
}

static void
test_console(Fixture *fixture, gconstpointer data)
{
    assert_ask(fixture, "GET", "/v1/vms/web1/console", NULL,
               "{\"path\":\"/run/fake/vm/web1/console.sock\"}");
    fake_vm_state = GW_VM_STOPPED;
    g_autofree char *answer = ask(fixture, "GET", "/v1/vms/web1/console", NULL);
    g_assert_true(g_str_has_prefix(answer, "wrong-state: VM 'web1' is stopped"));
}

static void
test_log(Fixture *fixture, gconstpointer data)
{
    g_autofree char *big = g_strnfill(65536, 'x');

    assert_ask(fixture, "GET", "/v1/vms/web1/log", NULL,
               "{\"text\":\"\",\"next_offset\":0,\"size\":0}");
    /* "ä" begun but not there whole, and a byte that is no UTF-8 at all. */
    g_file_set_contents(fake_log_path, "one\n\xff\xc3", -1, NULL);
    assert_ask(fixture, "GET", "/v1/vms/web1/log", NULL,
               "{\"text\":\"one\\n\xef\xbf\xbd\",\"next_offset\":5,\"size\":6}");
    assert_ask(fixture, "GET", "/v1/vms/web1/log?offset=4", NULL,
               "{\"text\":\"\xef\xbf\xbd\",\"next_offset\":5,\"size\":6}");
    assert_ask(fixture, "GET", "/v1/vms/web1/log?offset=7", NULL,
               "{\"text\":\"one\\n\xef\xbf\xbd\",\"next_offset\":5,\"size\":6}");
    assert_ask(fixture, "GET", "/v1/vms/web1/log?offset=x", NULL,
               "invalid: 'offset' must be a whole number from 0 to 9223372036854775807");
    g_autofree char *more = g_strconcat(big, "tail", NULL);
    g_file_set_contents(fake_log_path, more, -1, NULL);
    g_autofree char *first = ask(fixture, "GET", "/v1/vms/web1/log", NULL);
    g_assert_nonnull(strstr(first, "\"next_offset\":65536,\"size\":65540"));
    assert_ask(fixture, "GET", "/v1/vms/web1/log?offset=65536", NULL,
               "{\"text\":\"tail\",\"next_offset\":65540,\"size\":65540}");
}

static void
test_host(Fixture *fixture, gconstpointer data)
{
    assert_ask(fixture, "GET", "/v1/host", NULL,
               "{\"accel\":\"tcg\",\"name\":\"alpha\",\"godwit_version\":\"" GODWIT_VERSION
               "\",\"identity\":{\"state\":\"none\"}}");
    assert_ask(fixture, "GET", "/v1/hosts", NULL, "{\"hosts\":[{\"name\":\"alpha\"}]}");
    assert_ask(fixture, "POST", "/v1/hosts", "{\"name\":\"beta\",\"address\":\"10.0.0.2\"}", "{}");
    assert_ask(fixture, "POST", "/v1/hosts", "{\"name\":\"beta\",\"address\":\"h\",\"port\":77}",
               "{}");
    assert_ask(fixture, "POST", "/v1/hosts", "{\"name\":\"b\",\"address\":\"h\",\"port\":65536}",
               "invalid: 'port' must be a whole number from 0 to 65535");
    assert_ask(fixture, "DELETE", "/v1/hosts/beta", NULL, "{}");
    assert_calls("add beta 10.0.0.2 0;add beta h 77;remove beta;");
    g_set_error(&fake_error, GW_ERROR, GW_ERROR_EXISTS, "known");
    assert_ask(fixture, "POST", "/v1/hosts", "{\"name\":\"b\",\"address\":\"h\"}", "exists: known");
    assert_ask(fixture, "GET", "/v1/hosts", NULL, "exists: known");
}

static void
test_identity(Fixture *fixture, gconstpointer data)
{
    const char *status = "{\"state\":\"none\",\"name\":\"alpha\"}";

    assert_ask(fixture, "GET", "/v1/identity", NULL, status);
    assert_ask(fixture, "POST", "/v1/identity/init", NULL, status);
    assert_ask(fixture, "POST", "/v1/identity/request", NULL, "{\"request\":\"REQUEST\"}");
    assert_ask(fixture, "POST", "/v1/identity/sign", "{\"request\":\"R\",\"valid_days\":30}",
               "{\"certificates\":\"CERTIFICATES\"}");
    assert_ask(fixture, "POST", "/v1/identity/sign", "{\"request\":\"R\",\"valid_days\":0}",
               "invalid: 'valid_days' must be a whole number from 1 to 3650");
    assert_ask(fixture, "POST", "/v1/identity/install", "{\"certificates\":\"C\"}", status);
    assert_calls("init /pki alpha;reload;sign R 30;install C;reload;");
    g_set_error(&fake_error, GW_ERROR, GW_ERROR_REFUSED, "no");
    assert_ask(fixture, "POST", "/v1/identity/init", NULL, "refused: no");
    assert_ask(fixture, "POST", "/v1/identity/request", NULL, "refused: no");
    assert_ask(fixture, "POST", "/v1/identity/sign", "{\"request\":\"R\"}", "refused: no");
    assert_ask(fixture, "POST", "/v1/identity/install", "{\"certificates\":\"C\"}", "refused: no");
    assert_calls("init /pki alpha;sign R 0;install C;");
}

static void
test_move(Fixture *fixture, gconstpointer data)
{
    const char *answer = "{\"id\":\"" FAKE_MOVE "\"}";

    assert_ask(fixture, "POST", "/v1/migrations", "{\"vm\":\"web1\",\"host\":\"beta\"}", answer);
    assert_ask(fixture, "POST", "/v1/migrations",
               "{\"vm\":\"web1\",\"host\":\"beta\",\"transport\":\"direct\","
               "\"downtime_limit_ms\":1,\"max_bandwidth_bytes_s\":2,\"timeout_ms\":3,"
               "\"connections\":4,\"encodings\":\"zstd\",\"verify\":\"full\"}",
               answer);
    assert_ask(fixture, "POST", "/v1/migrations/plan", "{\"vm\":\"web1\",\"host\":\"beta\"}",
               answer);
    assert_ask(fixture, "POST", "/v1/migrations", "{\"vm\":\"web1\"}",
               "invalid: 'host' is missing");
    assert_ask(fixture, "POST", "/v1/migrations",
               "{\"vm\":\"web1\",\"host\":\"beta\",\"connections\":9}",
               "invalid: 'connections' must be a whole number from 1 to 8");
    assert_ask(fixture, "POST", "/v1/migrations/m-1/cancel", NULL, answer);
    assert_ask(fixture, "POST", "/v1/migrations/m-1/abandon", NULL, answer);
    assert_ask(fixture, "POST", "/v1/migrations/m-1/abandon", "{\"peer_is_off\":true}", answer);
    assert_ask(fixture, "POST", "/v1/migrations/m-1/abandon", "{\"peer_is_off\":\"yes\"}",
               "invalid: 'peer_is_off' must be true or false");
    assert_ask(fixture, "GET", "/v1/migrations?limit=3", NULL, "{\"migrations\":[]}");
    assert_ask(fixture, "GET", "/v1/migrations/" FAKE_MOVE, NULL,
               "{\"id\":\"" FAKE_MOVE "\",\"final\":false}");
    assert_ask(fixture, "GET", "/v1/migrations/m-2", NULL,
               "not-found: no move 'm-2' on host 'alpha': `godwit migration list` shows them");
    assert_calls("move web1 beta - 0 0 0 0 - -;move web1 beta direct 1 2 3 4 zstd full;"
                 "plan web1 beta - 0 0 0 0 - -;cancel m-1;abandon m-1 0;abandon m-1 1;list 3;");
}

static void
test_list_of_routes(Fixture *fixture, gconstpointer data)
{
    g_autofree char *text = ask(fixture, "GET", "/v1", NULL);
    g_autoptr(json_t) answer = json_loads(text, 0, NULL);

    g_assert_cmpuint(json_array_size(json_object_get(answer, "routes")), ==, 27);
    g_assert_null(strstr(text, "\"help\":null"));
    g_assert_null(strstr(text, "\"help\":\"\""));
}

/* A request under way when the server goes: the backend's late report finds nobody. */
static gboolean
free_server(void *data)
{
    Fixture *fixture = data;

    if (fake_held->len == 0) {
        return G_SOURCE_CONTINUE;
    }
    g_clear_pointer(&fixture->server, gw_server_free);
    return G_SOURCE_REMOVE;
}

static void
test_server_freed(Fixture *fixture, gconstpointer data)
{
    fake_held = g_ptr_array_new();
    g_timeout_add(1, free_server, fixture);
    assert_ask(fixture, "POST", "/v1/vms/web1/start", NULL,
               "unreachable: godwitd is shutting down: whether this was done is not known");
    fake_report_held();
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function) g_test_add("/routes/" name, Fixture, NULL, set_up, function, tear_down)
    ADD("vm", test_vm);
    ADD("console", test_console);
    ADD("log", test_log);
    ADD("host", test_host);
    ADD("identity", test_identity);
    ADD("move", test_move);
    ADD("list", test_list_of_routes);
    ADD("server-freed", test_server_freed);
    return g_test_run();
}
