// SPDX-License-Identifier: Apache-2.0
/* The notify protocol, heard on sockets of our own. */
#include "base/fd.h"
#include "daemon/notify.h"

#include <glib/gstdio.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Listens at "/path" or "@abstract" and names it in the environment. */
static GwFd
listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(name);
    GwFd fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, name, len);
    if (name[0] == '@') {
        address.sun_path[0] = '\0';
    }
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)),
                    ==, 0);
    g_setenv("NOTIFY_SOCKET", name, TRUE);
    return fd;
}

static void
assert_hears(int fd, const char *expected)
{
    char text[512];
    ssize_t len = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);

    g_assert_cmpint(len, >, 0);
    text[len] = '\0';
    g_assert_cmpstr(text, ==, expected);
}

static void
assert_protocol(int fd)
{
    g_autoptr(GwNotify) notify = gw_notify_new();
    char text[512] = "";

    g_assert_null(g_getenv("NOTIFY_SOCKET"));
    gw_notify_ready(notify);
    assert_hears(fd, "READY=1");
    gw_notify_status(notify, "two\nlines %d", 7);
    assert_hears(fd, "STATUS=two lines 7");
    int64_t before_us = g_get_monotonic_time();
    gw_notify_reloading(notify);
    g_assert_cmpint(recv(fd, text, sizeof text - 1, MSG_DONTWAIT), >, 0);
    g_assert_true(g_str_has_prefix(text, "RELOADING=1\nMONOTONIC_USEC="));
    int64_t told_us = g_ascii_strtoll(strrchr(text, '=') + 1, NULL, 10);
    g_assert_cmpint(told_us, >=, before_us);
    g_assert_cmpint(told_us, <=, g_get_monotonic_time());
    gw_notify_stopping(notify);
    assert_hears(fd, "STOPPING=1");
}

static void
test_path(void)
{
    g_autofree char *dir = g_dir_make_tmp("godwit-notify-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    g_auto(GwFd) fd = listen_at(path);

    assert_protocol(fd);
    g_unlink(path);
    g_rmdir(dir);
}

static void
test_abstract(void)
{
    g_autofree char *name = g_strdup_printf("@godwit-test-notify-%d", (int)getpid());
    g_auto(GwFd) fd = listen_at(name);

    assert_protocol(fd);
}

static void
test_nobody(void)
{
    static const char *const names[] = {"/nonexistent/socket", "vsock:2:1", "@", ""};

    g_unsetenv("NOTIFY_SOCKET");
    g_autoptr(GwNotify) silent = gw_notify_new();
    gw_notify_ready(silent);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_setenv("NOTIFY_SOCKET", names[i], TRUE);
        g_autoptr(GwNotify) notify = gw_notify_new();
        gw_notify_ready(notify);
        gw_notify_stopping(notify);
    }
}

static void
test_watchdog(void)
{
    g_autofree char *name = g_strdup_printf("@godwit-test-watchdog-%d", (int)getpid());
    g_autofree char *pid = g_strdup_printf("%d", (int)getpid());
    g_auto(GwFd) fd = listen_at(name);

    g_setenv("WATCHDOG_USEC", "20000", TRUE);
    g_setenv("WATCHDOG_PID", pid, TRUE);
    g_autoptr(GwNotify) notify = gw_notify_new();
    g_assert_nonnull(notify);
    g_assert_null(g_getenv("WATCHDOG_USEC"));
    g_assert_null(g_getenv("WATCHDOG_PID"));
    for (int i = 0; i < 2; i++) {
        g_main_context_iteration(NULL, TRUE);
        assert_hears(fd, "WATCHDOG=1");
    }
}

static void
test_watchdog_of_another(void)
{
    g_autofree char *name = g_strdup_printf("@godwit-test-other-%d", (int)getpid());
    g_auto(GwFd) fd = listen_at(name);
    char text[64];

    g_setenv("WATCHDOG_USEC", "2000", TRUE);
    g_setenv("WATCHDOG_PID", "1", TRUE);
    g_autoptr(GwNotify) notify = gw_notify_new();
    g_assert_nonnull(notify);
    g_assert_false(g_main_context_pending(NULL));
    g_assert_cmpint(recv(fd, text, sizeof text, MSG_DONTWAIT), <, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/notify/path", test_path);
    g_test_add_func("/notify/abstract", test_abstract);
    g_test_add_func("/notify/nobody", test_nobody);
    g_test_add_func("/notify/watchdog", test_watchdog);
    g_test_add_func("/notify/watchdog-of-another", test_watchdog_of_another);
    return g_test_run();
}
