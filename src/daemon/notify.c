// SPDX-License-Identifier: Apache-2.0
/*
 * The notify protocol (sd_notify(3)). Owns one datagram socket and the watchdog's timer; main
 * context. Nothing fails: a manager that does not listen misses the message, and the log's debug
 * lines tell why.
 */
#include "daemon/notify.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

struct GwNotify {
    GwFd fd; /* connected, or GW_FD_NONE */
    unsigned watchdog;
};

static void
send_text(const GwNotify *notify, const char *text)
{
    if (notify->fd >= 0 && send(notify->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        gw_debug(NULL, "the service manager was not told '%s': %s", text, g_strerror(errno));
    }
}

/* "/path" or "@abstract"; anything else (vsock) is not for a daemon of this machine. */
static GwFd
connect_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(name);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);

    if ((name[0] != '/' && name[0] != '@') || len < 2 || len >= sizeof address.sun_path) {
        gw_warn(NULL, "NOTIFY_SOCKET '%s' is not a Unix socket: readiness is not told", name);
        return GW_FD_NONE;
    }
    memcpy(address.sun_path, name, len);
    if (name[0] == '@') {
        address.sun_path[0] = '\0';
    }
    g_auto(GwFd) fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, size) < 0) {
        gw_warn(NULL, "NOTIFY_SOCKET '%s' cannot be reached (%s): readiness is not told", name,
                g_strerror(errno));
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

static gboolean
feed_watchdog(void *data)
{
    send_text(data, "WATCHDOG=1");
    return G_SOURCE_CONTINUE;
}

static void
start_watchdog(GwNotify *notify)
{
    const char *interval_text = g_getenv("WATCHDOG_USEC");
    const char *pid_text = g_getenv("WATCHDOG_PID");
    guint64 interval_us;
    guint64 pid;

    if (notify->fd < 0 || !interval_text ||
        !g_ascii_string_to_unsigned(interval_text, 10, 2000, G_MAXUINT32 * 1000ull, &interval_us,
                                    NULL)) {
        return;
    }
    if (pid_text && (!g_ascii_string_to_unsigned(pid_text, 10, 1, G_MAXINT32, &pid, NULL) ||
                     pid != (guint64)getpid())) {
        return;
    }
    /* sd_watchdog_enabled(3): at half of the interval. */
    notify->watchdog = g_timeout_add((unsigned)(interval_us / 2000), feed_watchdog, notify);
}

GwNotify *
gw_notify_new(void)
{
    GwNotify *notify = g_new0(GwNotify, 1);
    const char *name = g_getenv("NOTIFY_SOCKET");

    notify->fd = name ? connect_to(name) : GW_FD_NONE;
    start_watchdog(notify);
    g_unsetenv("NOTIFY_SOCKET");
    g_unsetenv("WATCHDOG_USEC");
    g_unsetenv("WATCHDOG_PID");
    return notify;
}

void
gw_notify_free(GwNotify *notify)
{
    if (notify) {
        g_clear_handle_id(&notify->watchdog, g_source_remove);
        gw_fd_clear(&notify->fd);
        g_free(notify);
    }
}

void
gw_notify_ready(GwNotify *notify)
{
    send_text(notify, "READY=1");
}

void
gw_notify_reloading(GwNotify *notify)
{
    struct timespec now;

    /* The protocol wants CLOCK_MONOTONIC here, not our own clock. */
    clock_gettime(CLOCK_MONOTONIC, &now);
    g_autofree char *text =
        g_strdup_printf("RELOADING=1\nMONOTONIC_USEC=%" G_GINT64_FORMAT,
                        (int64_t)now.tv_sec * G_USEC_PER_SEC + now.tv_nsec / 1000);
    send_text(notify, text);
}

void
gw_notify_stopping(GwNotify *notify)
{
    send_text(notify, "STOPPING=1");
}

void
gw_notify_status(GwNotify *notify, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *status = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *text = g_strconcat("STATUS=", g_strdelimit(status, "\n", ' '), NULL);
    send_text(notify, text);
}
