// SPDX-License-Identifier: Apache-2.0
/* What the client makes of a daemon that is not there, may not be asked, or talks nonsense. */
#include "api/client.h"
#include "support.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void
assert_error(const char *socket, GwErrorCode code, const char *contains)
{
    g_autoptr(GwClient) client = gw_client_new(socket);
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_client_call(client, "GET", "/v1/host", NULL, &error));
    g_assert_error(error, GW_ERROR, (int)code);
    g_assert_nonnull(strstr(error->message, contains));
}

static void
test_no_daemon(void)
{
    g_autofree char *long_path = g_strnfill(200, 'x');
    Place place;

    place_make(&place);
    assert_error(place.socket, GW_ERROR_UNREACHABLE, "start it (systemctl start godwitd)");
    assert_error("/nonexistent/godwit.sock", GW_ERROR_UNREACHABLE, "/nonexistent/godwit.sock");
    assert_error(long_path, GW_ERROR_INVALID, "longer than");
    /* A socket file whose daemon is gone. */
    g_auto(GwFd) fd = gw_unix_listen(place.socket, 0660, NULL);
    gw_fd_clear(&fd);
    assert_error(place.socket, GW_ERROR_UNREACHABLE, "does not answer");
    place_remove(&place);
}

static void
test_permission(void)
{
    Place place;
    int status;

    if (getuid() != 0) {
        g_test_skip("only root can become somebody else");
        return;
    }
    place_make(&place);
    GwFd fd = gw_unix_listen(place.socket, 0660, NULL);
    g_assert_cmpint(chmod(place.folder, 0711), ==, 0);
    g_assert_cmpint(chown(place.socket, 0, 42), ==, 0);
    pid_t child = fork();
    if (child == 0) {
        if (setgid(65534) != 0 || setuid(65534) != 0) {
            _exit(2);
        }
        assert_error(place.socket, GW_ERROR_REFUSED, "join the group");
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    gw_fd_close(fd);
    place_remove(&place);
}

/* Answers one connection with @data and closes it. */
static void *
serve_once(void *data)
{
    void **arguments = data;
    g_auto(GwFd) fd = accept(*(int *)arguments[0], NULL, NULL);
    const char *text = arguments[1];

    g_free(read_until(fd, "\r\n\r\n"));
    g_assert_true(gw_fd_write_full(fd, text, strlen(text)));
    return NULL;
}

static void
test_nonsense(void)
{
    static const struct {
        const char *answer;
        GwErrorCode code;
        const char *contains;
    } cases[] = {
        {"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nabc", GW_ERROR_PROTOCOL, "HTTP status 500"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", GW_ERROR_PROTOCOL, "bad JSON"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", GW_ERROR_UNREACHABLE, "was lost"},
        {"", GW_ERROR_UNREACHABLE, "was lost"},
        {"HTTP/1.1 404 No\r\nContent-Length: 48\r\n\r\n"
         "{\"error\":{\"code\":\"not-found\",\"message\":\"no VM\"}}",
         GW_ERROR_NOT_FOUND, "no VM"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Place place;
        place_make(&place);
        g_auto(GwFd) fd = gw_unix_listen(place.socket, 0660, NULL);
        void *arguments[] = {&fd, (void *)cases[i].answer};
        GThread *thread = g_thread_new("server", serve_once, arguments);
        assert_error(place.socket, cases[i].code, cases[i].contains);
        g_thread_join(thread);
        place_remove(&place);
    }
}

static void
test_timeout(void)
{
    g_autoptr(GError) error = NULL;
    Place place;

    place_make(&place);
    GwFd fd = gw_unix_listen(place.socket, 0660, NULL);
    g_autoptr(GwClient) client = gw_client_new(place.socket);
    gw_client_set_timeout_ms(client, 50);
    g_assert_null(gw_client_call(client, "GET", "/v1/host", NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TIMEOUT);
    gw_fd_close(fd);
    place_remove(&place);
}

static void
test_path(void)
{
    g_autofree char *path = gw_client_path("/v1/vms/", "a/../b c?", "/start");

    g_assert_cmpstr(path, ==, "/v1/vms/a%2F..%2Fb%20c%3F/start");
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/client/no-daemon", test_no_daemon);
    g_test_add_func("/client/permission", test_permission);
    g_test_add_func("/client/nonsense", test_nonsense);
    g_test_add_func("/client/timeout", test_timeout);
    g_test_add_func("/client/path", test_path);
    return g_test_run();
}
