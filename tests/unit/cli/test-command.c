// SPDX-License-Identifier: Apache-2.0
/*
 * The real command against a server with canned answers: what it asks, prints and exits with, also
 * on a terminal. Environment: GODWIT (the binary), MAN_DIR, DATA_DIR.
 */
#include "../api/support.h"
#include "api/events.h"

#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <utmp.h>

#define MOVE "m-000000000001"

typedef struct Fixture {
    Place place;
    GwHttp *http;
    GwEvents *events;
    GString *asked;
    char *console; /* path of a console's socket, or NULL */
} Fixture;

/* --- the server ------------------------------------------------------------------------------- */

static void
note(Fixture *fixture, const char *what, GwRequest *request, const char *const *members)
{
    g_autoptr(GError) error = NULL;
    const json_t *body = gw_request_body(request, members, &error);

    g_assert_no_error(error);
    g_autofree char *text = gw_json_text(body);
    g_string_append_printf(fixture->asked, "%s %s %s;", what, gw_request_arg(request), text);
}

static json_t *
a_move(const char *state, int percent, const char *outcome)
{
    json_t *move = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:b}", "id", MOVE, "vm", "web1",
                             "source", "alpha", "target", "beta", "state", state, "percent",
                             percent, "final", outcome != NULL);

    gw_json_set_str(move, "outcome", outcome);
    return move;
}

static json_t *
an_event(const char *kind, json_t *move)
{
    return json_pack("{s:s, s:o}", "event", kind, "move", move);
}

static void
vms(GwRequest *request, void *context)
{
    gw_request_answer(request,
                      json_pack("{s:[{s:s, s:s, s:{s:i, s:i}}]}", "vms", "name", "web1", "state",
                                "run\033ning", "definition", "vcpus", 2, "memory_bytes", 1048576),
                      NULL);
}

static void
define(GwRequest *request, void *context)
{
    static const char *const members[] = {"definition", "source", NULL};

    note(context, "define", request, members);
    gw_request_answer(
        request, json_pack("{s:s, s:[s]}", "name", "web1", "warnings", "extra\narguments"), NULL);
}

static void
start(GwRequest *request, void *context)
{
    gw_request_answer_error(
        request, g_error_new_literal(GW_ERROR, GW_ERROR_STATE, "it runs\033[31m\nalready"));
}

static void
stop(GwRequest *request, void *context)
{
    static const char *const members[] = {"force", "timeout_ms", NULL};

    note(context, "stop", request, members);
    gw_request_answer(request, json_pack("{s:s}", "name", "web1"), NULL);
}

static void
read_log(GwRequest *request, void *context)
{
    GError *error = NULL;
    int64_t offset;

    g_assert_true(gw_request_query_int(request, "offset", 1000, 0, &offset, &error));
    const char *text = offset == 0 ? "one\n" : offset == 4 ? "\033two\n" : "";
    gw_request_answer(
        request, json_pack("{s:s, s:i}", "text", text, "next_offset", (int)(offset + strlen(text))),
        NULL);
}

static void
console(GwRequest *request, void *context)
{
    Fixture *fixture = context;

    gw_request_answer(request, json_pack("{s:s}", "path", fixture->console), NULL);
}

static void
migrate(GwRequest *request, void *context)
{
    static const char *const members[] = {"vm",          "host",
                                          "transport",   "downtime_limit_ms",
                                          "timeout_ms",  "max_bandwidth_bytes_s",
                                          "connections", "encodings",
                                          "verify",      NULL};

    note(context, "migrate", request, members);
    gw_request_answer(request, a_move("planned", 0, NULL), NULL);
}

static void
abandon(GwRequest *request, void *context)
{
    static const char *const members[] = {"peer_is_off", NULL};
    json_t *move = a_move("abandoned", 50, "guest-lost");

    note(context, "abandon", request, members);
    gw_json_set_str(move, "reason", "start it\033again");
    gw_request_answer(request, move, NULL);
}

static void
plan(GwRequest *request, void *context)
{
    gw_request_answer(request,
                      json_pack("{s:b, s:[{s:s, s:s, s:s}]}", "ok", 0, "checks", "id", "memory",
                                "status", "error", "message", "too little"),
                      NULL);
}

static void
add_host(GwRequest *request, void *context)
{
    static const char *const members[] = {"name", "address", "port", NULL};

    note(context, "host", request, members);
    gw_request_answer(request, NULL, NULL);
}

static void
watch(GwRequest *request, void *context)
{
    Fixture *fixture = context;

    gw_events_answer(fixture->events, request, gw_request_arg(request),
                     an_event("state", a_move("planned", 0, NULL)));
}

static const GwRoute routes[] = {
    {"GET", "/v1/vms", vms, .help = ""},
    {"POST", "/v1/vms", define, .help = ""},
    {"POST", "/v1/vms/{name}/start", start, .help = ""},
    {"POST", "/v1/vms/{name}/stop", stop, .help = ""},
    {"GET", "/v1/vms/{name}/log", read_log, .help = ""},
    {"GET", "/v1/vms/{name}/console", console, .help = ""},
    {"POST", "/v1/hosts", add_host, .help = ""},
    {"POST", "/v1/migrations", migrate, .help = ""},
    {"POST", "/v1/migrations/plan", plan, .help = ""},
    {"POST", "/v1/migrations/{id}/abandon", abandon, .help = ""},
    {"GET", "/v1/migrations/{id}/events", watch, .help = ""},
    {0},
};

static void
set_up(Fixture *fixture, gconstpointer data)
{
    static const GwRoute *const tables[] = {routes, NULL};
    g_autoptr(GError) error = NULL;

    place_make(&fixture->place);
    fixture->asked = g_string_new(NULL);
    fixture->events = gw_events_new();
    fixture->http = gw_http_new(fixture->place.socket, NULL, tables, fixture, &error);
    g_assert_no_error(error);
    g_setenv("GODWIT_SOCKET", fixture->place.socket, TRUE);
}

static void
tear_down(Fixture *fixture, gconstpointer data)
{
    gw_events_free(fixture->events);
    gw_http_free(fixture->http);
    g_string_free(fixture->asked, TRUE);
    g_free(fixture->console);
    place_remove(&fixture->place);
}

static void
tell(Fixture *fixture, const char *kind, json_t *move)
{
    g_autoptr(json_t) event = an_event(kind, move);

    gw_events_publish(fixture->events, event);
}

/* --- running it ------------------------------------------------------------------------------- */

typedef struct Run {
    const char *line; /* the arguments */
    char *out;
    char *err;
    int status;
} Run;

static void
spawn(void *data)
{
    Run *run = data;
    g_autofree char *line = g_strdup_printf("'%s' %s", g_getenv("GODWIT"), run->line);
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    int wait_status;

    g_assert_true(g_shell_parse_argv(line, NULL, &argv, NULL));
    g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &run->out, &run->err, &wait_status,
                 &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(wait_status));
    run->status = WEXITSTATUS(wait_status);
}

static void
run_clear(Run *run)
{
    g_free(run->out);
    g_free(run->err);
}

static void
assert_run(const char *line, int status, const char *out, const char *err)
{
    Run run = {.line = line};

    run_beside_loop(spawn, &run);
    g_autofree char *shown_out = g_strescape(run.out, NULL);
    g_autofree char *shown_err = g_strescape(run.err, NULL);
    g_test_message("%s: %d '%s' '%s'", line, run.status, shown_out, shown_err);
    g_assert_cmpint(run.status, ==, status);
    g_assert_cmpstr(run.out, ==, out);
    g_assert_nonnull(strstr(run.err, err));
    run_clear(&run);
}

static void
assert_asked(Fixture *fixture, const char *expected)
{
    g_assert_cmpstr(fixture->asked->str, ==, expected);
    g_string_truncate(fixture->asked, 0);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void
test_usage(Fixture *fixture, gconstpointer data)
{
    assert_run("", 2, "", "a command is missing");
    assert_run("nonsense", 2, "", "no such command: 'nonsense'");
    assert_run("vm", 2, "", "a verb is missing after: 'vm'");
    assert_run("vm nonsense", 2, "", "no such command: 'vm nonsense'");
    assert_run("--nonsense vm list", 2, "", "'--nonsense'");
    assert_run("--socket", 2, "", "'--socket'");
    assert_run("vm list extra", 2, "", "usage: godwit vm list");
    assert_run("vm start", 2, "", "usage: godwit vm start [OPTION...] VM");
    assert_run("vm start --nonsense", 2, "", "--nonsense");
    assert_run("migrate web1", 2, "", "VM HOST");
    assert_run("migrate web1 beta --transport pigeon", 2, "",
               "'pigeon' is not auto, lane, direct or plain");
    assert_run("migrate web1 beta --verify some", 2, "", "'some' is not off or full");
    assert_run("migrate web1 beta --downtime-limit soon", 2, "", "--downtime-limit: 'soon'");
    assert_run("migrate web1 beta --max-bandwidth 0", 2, "", "--max-bandwidth: '0'");
    assert_run("init --join --status", 2, "", "only one of");
    assert_run("vm define /nonexistent", 1, "", "/nonexistent");
    assert_run("--version", 0, "godwit " GODWIT_VERSION "\n", "");
    assert_run("--socket /nonexistent vm list", 5, "", "start it");
    assert_run("vm list --socket=/nonexistent --json", 5, "",
               "{\"error\":{\"code\":\"unreachable\"");
    assert_asked(fixture, "");
}

static void
test_vm(Fixture *fixture, gconstpointer data)
{
    assert_run("vm list", 0,
               "NAME  STATE        VCPUS  MEMORY  ACCEL  MOVE\n"
               "web1  run\\x1bning  2      1 MiB   -      -\n",
               "");
    assert_run("vm list --names", 0, "web1\n", "");
    assert_run("vm start web1", 4, "", "godwit: it runs\\x1b[31m\nalready");
    assert_run("vm stop web1 --force", 0, "web1 is stopped\n", "");
    assert_run("vm stop -- web1", 0, "web1 is stopped\n", "");
    assert_asked(fixture, "stop web1 {\"force\":true,\"timeout_ms\":120000};"
                          "stop web1 {\"force\":false,\"timeout_ms\":120000};");
    assert_run("vm log web1", 0, "one\n\\x1btwo\n", "");

    g_autofree char *file = g_build_filename(fixture->place.folder, "web1.conf", NULL);
    g_autofree char *line = g_strdup_printf("vm define '%s'", file);
    g_autofree char *asked =
        g_strdup_printf("define  {\"definition\":\"text\",\"source\":\"%s\"};", file);
    g_assert_true(g_file_set_contents(file, "text", -1, NULL));
    assert_run(line, 0, "web1 is defined\n", "warning: extra\\x0aarguments\n");
    assert_asked(fixture, asked);
    g_assert_true(g_file_set_contents(file, "a\0b", 3, NULL));
    assert_run(line, 2, "", "NUL");
    g_assert_true(g_file_set_contents(file, "\xff", 1, NULL));
    assert_run(line, 2, "", "UTF-8");
    unlink(file);
}

static void
test_host(Fixture *fixture, gconstpointer data)
{
    const char *done = "beta is known now; add this host there, too\n";

    assert_run("host add beta [fd00::2]:77", 0, done, "");
    assert_run("host add beta 10.0.0.2,10.1.0.2 10.2.0.2", 0, done, "");
    assert_asked(fixture, "host  {\"name\":\"beta\",\"address\":\"[fd00::2]:77\"};"
                          "host  {\"name\":\"beta\",\"address\":\"10.0.0.2,10.1.0.2,10.2.0.2\"};");
}

static gboolean
tell_all(void *data)
{
    Fixture *fixture = data;

    tell(fixture, "progress", a_move("precopy", 50, NULL));
    tell(fixture, "state", a_move("switchover", 40, NULL));
    tell(fixture, "end", a_move("settled", 100, "completed"));
    return G_SOURCE_CONTINUE;
}

static gboolean
tell_rollback(void *data)
{
    tell(data, "end", a_move("rolled-back", 50, "rolled-back"));
    return G_SOURCE_CONTINUE;
}

static void
test_migrate(Fixture *fixture, gconstpointer data)
{
    guint timer = g_timeout_add(20, tell_all, fixture);

    assert_run("migrate web1 beta --downtime-limit 100ms --max-bandwidth '1 MiB/s' --timeout 1min "
               "--transport direct --connections 3 --encodings zstd,same --verify full",
               0,
               "web1: planned, 0 %\nweb1: precopy, 50 %\nweb1: switchover, 50 %\n"
               "web1: settled, 100 %\nweb1 runs on beta now (it was on alpha)\n",
               "");
    assert_asked(fixture,
                 "migrate  {\"max_bandwidth_bytes_s\":1048576,\"vm\":\"web1\",\"host\":\"beta\","
                 "\"transport\":\"direct\",\"verify\":\"full\",\"downtime_limit_ms\":100,"
                 "\"timeout_ms\":60000,\"connections\":3,\"encodings\":\"zstd,same\"};");
    Run run = {.line = "migrate web1 beta --json"};
    run_beside_loop(spawn, &run);
    g_auto(GStrv) lines = g_strsplit(run.out, "\n", -1);
    g_assert_cmpint(run.status, ==, 0);
    g_assert_cmpuint(g_strv_length(lines), ==, 6);
    g_assert_true(g_str_has_prefix(lines[3], "{\"event\":\"end\""));
    g_assert_true(g_str_has_prefix(lines[4], "{\"id\":\"" MOVE "\""));
    run_clear(&run);
    g_source_remove(timer);

    timer = g_timeout_add(20, tell_rollback, fixture);
    assert_run("migration watch " MOVE, 8,
               "web1: planned, 0 %\nweb1: rolled-back, 50 %\n"
               "web1 was not moved from alpha to beta\n",
               "it runs on the source as before");
    g_source_remove(timer);
    assert_run("migrate web1 beta --no-wait", 0,
               MOVE " is under way: godwit migration watch " MOVE "\n", "");
    assert_run("migration abandon " MOVE, 0, "start it\\x1bagain\n", "");
    assert_run("migration abandon " MOVE " --peer-is-off --json", 0,
               "{\n  \"id\": \"" MOVE "\",\n  \"vm\": \"web1\",\n  \"source\": \"alpha\",\n"
               "  \"target\": \"beta\",\n  \"state\": \"abandoned\",\n  \"percent\": 50,\n"
               "  \"final\": true,\n  \"outcome\": \"guest-lost\",\n"
               "  \"reason\": \"start it\\u001Bagain\"\n}\n",
               "");
    assert_run("migrate web1 beta --plan", 7,
               "error    memory            too little\n? cannot be moved from ? to ?\n",
               "not all checks passed");
}

/* --- on a terminal ---------------------------------------------------------------------------- */

typedef struct Terminal {
    int fd;
    pid_t pid;
    struct termios before;
    Fixture *fixture;
    const char *enough;
    char *text;
    int status; /* of waitpid() */
} Terminal;

/* The child's side of the pty stays open with us, so that its mode can be looked at afterwards. */
static int
open_terminal(Terminal *terminal, const char *const *args)
{
    int other;

    g_assert_cmpint(
        openpty(&terminal->fd, &other, NULL, NULL, &(struct winsize){.ws_row = 25, .ws_col = 60}),
        ==, 0);
    g_assert_cmpint(tcgetattr(other, &terminal->before), ==, 0);
    terminal->pid = fork();
    if (terminal->pid == 0) {
        login_tty(dup(other));
        setenv("TERM", "xterm", 1);
        execv(g_getenv("GODWIT"), (char **)args);
        _exit(127);
    }
    return other;
}

static void
read_terminal(void *data)
{
    Terminal *terminal = data;
    g_autofree char *more = read_until(terminal->fd, terminal->enough);
    g_autofree char *before = terminal->text;

    terminal->text = g_strconcat(before ? before : "", more, NULL);
}

static void
terminal_shows(Terminal *terminal, const char *text)
{
    terminal->enough = text;
    run_beside_loop(read_terminal, terminal);
    g_assert_nonnull(strstr(terminal->text, text));
}

static void
wait_for_end(void *data)
{
    Terminal *terminal = data;

    g_assert_cmpint(waitpid(terminal->pid, &terminal->status, 0), ==, terminal->pid);
}

static void
assert_terminal_restored(const Terminal *terminal, int other)
{
    struct termios after;

    g_assert_cmpint(tcgetattr(other, &after), ==, 0);
    g_assert_cmpuint(after.c_lflag, ==, terminal->before.c_lflag);
    g_assert_cmpuint(after.c_iflag, ==, terminal->before.c_iflag);
    g_assert_cmpuint(after.c_oflag, ==, terminal->before.c_oflag);
}

static void
test_live(Fixture *fixture, gconstpointer data)
{
    static const char *const args[] = {"godwit", "migrate", "web1", "beta", NULL};
    Terminal terminal = {.fixture = fixture};
    int other = open_terminal(&terminal, args);

    terminal_shows(&terminal, "[....................]  0 %");
    tell(fixture, "progress", a_move("precopy", 50, NULL));
    terminal_shows(&terminal, "\033[2A\r\033[Kweb1: alpha -> beta  precopy\r\n"
                              "\r\033[K[##########..........]  50 %\r\n");
    g_assert_true(gw_fd_write_full(terminal.fd, "\x03", 1));
    terminal_shows(&terminal, "godwit migration cancel " MOVE);
    run_beside_loop(wait_for_end, &terminal);
    g_assert_cmpint(WEXITSTATUS(terminal.status), ==, 130);
    gw_fd_close(other);
    gw_fd_close(terminal.fd);
    g_free(terminal.text);
}

/* The guest's side of a console, as QEMU has it. */
typedef struct Guest {
    int listener;
    int fd;
    const char *enough;
    char *text;
} Guest;

static void
guest_reads(void *data)
{
    Guest *guest = data;

    if (guest->fd < 0) {
        guest->fd = accept(guest->listener, NULL, NULL);
    }
    g_free(guest->text);
    guest->text = read_until(guest->fd, guest->enough);
}

static void
test_console(Fixture *fixture, gconstpointer data)
{
    static const char *const args[] = {"godwit", "vm", "console", "web1", NULL};
    /* Ctrl-C belongs to the guest; Ctrl-] or a signal is the end; the guest's end is, too. */
    enum { BY_KEY, BY_SIGNAL, BY_GUEST, N_ENDS };
    fixture->console = g_build_filename(fixture->place.folder, "console.sock", NULL);
    GwFd listener = gw_unix_listen(fixture->console, 0600, NULL);

    for (int end = BY_KEY; end < N_ENDS; end++) {
        Terminal terminal = {.fixture = fixture};
        Guest guest = {.listener = listener, .fd = -1, .enough = "ls\x03"};
        int other = open_terminal(&terminal, args);
        terminal_shows(&terminal, "Ctrl-] leaves it");
        g_assert_true(gw_fd_write_full(terminal.fd, "ls", 2));
        /* Raw from here on: else this would be SIGINT. */
        struct termios now;
        do {
            g_assert_cmpint(tcgetattr(other, &now), ==, 0);
            g_thread_yield();
        } while (now.c_lflag & ISIG);
        g_assert_true(gw_fd_write_full(terminal.fd, "\x03", 1));
        run_beside_loop(guest_reads, &guest);
        g_assert_cmpstr(guest.text, ==, "ls\x03");
        g_assert_true(gw_fd_write_full(guest.fd, "guest says hi", 13));
        terminal_shows(&terminal, "guest says hi");
        if (end == BY_KEY) {
            g_assert_true(gw_fd_write_full(terminal.fd, "x\x1dy", 3));
            guest.enough = NULL;
            run_beside_loop(guest_reads, &guest);
            g_assert_cmpstr(guest.text, ==, "x");
        } else if (end == BY_SIGNAL) {
            g_assert_cmpint(kill(terminal.pid, SIGTERM), ==, 0);
        }
        gw_fd_clear(&guest.fd);
        run_beside_loop(wait_for_end, &terminal);
        g_assert_cmpint(terminal.status, ==, end == BY_SIGNAL ? SIGTERM : 0);
        assert_terminal_restored(&terminal, other);
        gw_fd_close(other);
        gw_fd_close(terminal.fd);
        g_free(terminal.text);
        g_free(guest.text);
    }
    gw_fd_close(listener);
    unlink(fixture->console);
}

/* --- documents -------------------------------------------------------------------------------- */

/* Each command and each of its options is in the man page and in the completion. */
static void
check_documented(const char *command, const char *page, const char *completion)
{
    g_autofree char *line = g_strdup_printf("%s --help", command);
    Run run = {.line = line};
    g_autoptr(GRegex) option = g_regex_new("^  (?:-., )?(--[a-z-]+)", G_REGEX_MULTILINE, 0, NULL);
    g_autoptr(GMatchInfo) match = NULL;
    g_autofree char *quoted = g_strdup_printf("'%s'", command);
    const char *entry = strstr(completion, quoted);

    g_assert_nonnull(entry);
    const char *entry_end = strstr(entry, ";;");
    g_autofree char *offered = g_strndup(entry, (gsize)(entry_end - entry));
    run_beside_loop(spawn, &run);
    g_assert_cmpint(run.status, ==, 0);
    g_regex_match(option, run.out, 0, &match);
    for (; g_match_info_matches(match); g_match_info_next(match, NULL)) {
        g_autofree char *name = g_match_info_fetch(match, 1);
        g_auto(GStrv) parts = g_strsplit(name, "-", -1);
        g_autofree char *escaped = g_strjoinv("\\-", parts);
        bool common =
            g_strv_contains(((const char *const[]){"--json", "--socket", "--help", NULL}), name);
        if (!strstr(page, escaped) || (!common && !strstr(offered, name)) ||
            (common && !strstr(offered, "$common"))) {
            g_error("godwit %s %s: man page or completion lacks it", command, name);
        }
    }
    run_clear(&run);
}

static void
test_documents(Fixture *fixture, gconstpointer data)
{
    g_autofree char *page_path = g_build_filename(g_getenv("MAN_DIR"), "godwit.1", NULL);
    g_autofree char *completion_path =
        g_build_filename(g_getenv("DATA_DIR"), "godwit.bash-completion", NULL);
    g_autofree char *page = NULL;
    g_autofree char *completion = NULL;
    g_autoptr(GRegex) command = g_regex_new("^  ([a-z]+(?: [a-z]+)?)", G_REGEX_MULTILINE, 0, NULL);
    g_autoptr(GMatchInfo) match = NULL;
    unsigned n_commands = 0;
    Run run = {.line = "--help"};

    g_assert_true(g_file_get_contents(page_path, &page, NULL, NULL));
    g_assert_true(g_file_get_contents(completion_path, &completion, NULL, NULL));
    run_beside_loop(spawn, &run);
    const char *list = strstr(run.out, "Commands:");
    g_assert_nonnull(list);
    g_regex_match(command, list, 0, &match);
    for (; g_match_info_matches(match); g_match_info_next(match, NULL)) {
        g_autofree char *name = g_match_info_fetch(match, 1);
        g_autofree char *in_page = g_strdup_printf("godwit %s", name);
        g_assert_nonnull(strstr(page, in_page));
        check_documented(name, page, completion);
        n_commands++;
    }
    g_assert_cmpuint(n_commands, ==, 20);
    run_clear(&run);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function) g_test_add("/command/" name, Fixture, NULL, set_up, function, tear_down)
    ADD("usage", test_usage);
    ADD("vm", test_vm);
    ADD("host", test_host);
    ADD("migrate", test_migrate);
    ADD("live", test_live);
    ADD("console", test_console);
    ADD("documents", test_documents);
    return g_test_run();
}
