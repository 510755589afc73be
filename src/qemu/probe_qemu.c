// SPDX-License-Identifier: Apache-2.0
/*
 * Runs a QEMU for a probe.
 *
 * QEMU gets the monitor's socket already connected. That needs no access of QEMU's user to our
 * folder, shows a QEMU that ends at once as an end and not as a refused connection, and avoids a
 * race of QEMU (seen with 10.0): a client that connects to a listening monitor during the
 * start may be accepted by two of QEMU's threads at once, of which one then blocks for ever.
 *
 * In @run_dir there are, while it runs, probe-NAME.log (its stderr, read when it ends early) and
 * probe-NAME.pid ("PID START_TICKS", for cleaning up after a killed daemon). Owns the process, the
 * monitor and the files. Main context. Fails when QEMU cannot be started; all later trouble
 * goes to ended().
 */
#include "qemu/probe_qemu.h"

#include "base/fd.h"
#include "qemu/launch.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define MONITOR_FD     3
#define MONITOR_SOCKET "socket,id=qmp,fd=" G_STRINGIFY(MONITOR_FD)
#define LOG_MAX_BYTES  (1u * 1024u * 1024u)
#define LINE_MAX_CHARS 300

static const char *const GROUPS[] = {"kvm", NULL};

struct GwProbeQemu {
    GwProcessId process;
    GwQmp *qmp;
    char *socket_path;
    char *log_path;
    char *record_path;
    GwProbeQemuHandlers handlers;
    void *data;
};

void
gw_probe_qemu_free(GwProbeQemu *qemu)
{
    if (!qemu) {
        return;
    }
    gw_qmp_free(qemu->qmp);
    if (qemu->process.pid) {
        g_autoptr(GError) gone = NULL;
        bool sent = gw_process_signal(qemu->process, SIGKILL, &gone);
        (void)sent; /* It may have ended by itself. */
    }
    unlink(qemu->log_path);
    unlink(qemu->record_path);
    g_free(qemu->socket_path);
    g_free(qemu->log_path);
    g_free(qemu->record_path);
    g_free(qemu);
}

/* What QEMU said first that is not a warning, without its name in front; NULL if nothing. */
static char *
complaint(const char *log_path)
{
    g_autofree char *text = gw_file_read(log_path, LOG_MAX_BYTES, NULL, NULL);
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        char *line = g_strstrip(lines[i]);
        const char *colon = strstr(line, ": ");
        if (g_str_has_prefix(line, "qemu") && colon) {
            line = line + (colon + 2 - line);
        }
        if (*line && !g_str_has_prefix(line, "warning: ")) {
            return g_strndup(line, LINE_MAX_CHARS);
        }
    }
    return NULL;
}

static void
on_ready(GwQmp *qmp, void *data)
{
    GwProbeQemu *qemu = data;

    qemu->handlers.ready(qmp, qemu->data);
}

static void
on_closed(GwQmp *qmp, const GError *error, void *data)
{
    GwProbeQemu *qemu = data;
    g_autofree char *words = complaint(qemu->log_path);
    g_autoptr(GError) reason =
        words ? g_error_new(GW_ERROR, GW_ERROR_FAILED, "%s", words) : g_error_copy(error);

    qemu->handlers.ended(reason, qemu->data);
}

static void
end_leftover(const GwProbeQemu *qemu)
{
    g_autofree char *text = gw_file_read(qemu->record_path, LINE_MAX_CHARS, NULL, NULL);
    GwProcessId process = {0};

    if (text && sscanf(text, "%d %" SCNu64, &process.pid, &process.start_ticks) == 2) {
        g_autoptr(GError) gone = NULL;
        bool sent = gw_process_signal(process, SIGKILL, &gone);
        (void)sent; /* Usually it is long gone. */
    }
    unlink(qemu->socket_path);
    unlink(qemu->log_path);
}

static bool
keep_record(const GwProbeQemu *qemu, GError **error)
{
    g_autofree char *text =
        g_strdup_printf("%d %" PRIu64 "\n", (int)qemu->process.pid, qemu->process.start_ticks);

    return gw_file_write(qemu->record_path, text, strlen(text), 0600, error);
}

static GPtrArray *
command_line(const GwProbeQemuOptions *options)
{
    static const char *const COMMON[] = {
        "-nodefaults",
        "-no-user-config",
        "-S",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev",
        MONITOR_SOCKET,
        "-mon",
        "chardev=qmp,mode=control",
    };
    GPtrArray *argv = g_ptr_array_new();

    g_ptr_array_add(argv, (char *)options->binary);
    for (unsigned i = 0; i < G_N_ELEMENTS(COMMON); i++) {
        g_ptr_array_add(argv, (char *)COMMON[i]);
    }
    for (unsigned i = 0; options->arguments[i]; i++) {
        g_ptr_array_add(argv, (char *)options->arguments[i]);
    }
    g_ptr_array_add(argv, NULL);
    return argv;
}

/* Connects qemu->qmp to the returned descriptor, by way of a socket that is gone afterwards. */
static GwFd
connect_monitor(GwProbeQemu *qemu, GError **error)
{
    static const GwQmpHandlers HANDLERS = {.ready = on_ready, .closed = on_closed};
    g_auto(GwFd) listener = gw_unix_listen(qemu->socket_path, 0600, error);

    if (listener < 0) {
        return GW_FD_NONE;
    }
    qemu->qmp = gw_qmp_open(qemu->socket_path, &HANDLERS, qemu, error);
    unlink(qemu->socket_path);
    if (!qemu->qmp) {
        return GW_FD_NONE;
    }
    g_auto(GwFd) fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        gw_set_error_errno(error, errno, "QEMU's monitor: cannot accept our own connection");
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

static bool
launch(GwProbeQemu *qemu, const GwProbeQemuOptions *options, GError **error)
{
    int fds[1 + GW_PROBE_QEMU_MAX_FDS];
    int fds_as[1 + GW_PROBE_QEMU_MAX_FDS];
    g_auto(GwFd) monitor = connect_monitor(qemu, error);

    if (monitor < 0) {
        return false;
    }
    fds[0] = monitor;
    fds_as[0] = MONITOR_FD;
    for (unsigned i = 0; i < options->n_fds; i++) {
        fds[i + 1] = options->fds[i];
        fds_as[i + 1] = GW_PROBE_QEMU_FIRST_FD + (int)i;
    }
    g_autoptr(GPtrArray) argv = command_line(options);
    GwLaunch request = {
        .argv = (const char *const *)argv->pdata,
        .user = options->user,
        .groups = GROUPS,
        .log_path = qemu->log_path,
        .fds = fds,
        .fds_as = fds_as,
        .n_fds = options->n_fds + 1,
    };
    return gw_launch(&request, &qemu->process, error) && keep_record(qemu, error);
}

GwProbeQemu *
gw_probe_qemu_start(const GwProbeQemuOptions *options, const GwProbeQemuHandlers *handlers,
                    void *data, GError **error)
{
    g_autoptr(GwProbeQemu) qemu = g_new0(GwProbeQemu, 1);

    g_assert(options->n_fds <= GW_PROBE_QEMU_MAX_FDS);
    qemu->socket_path = g_strdup_printf("%s/probe-%s.sock", options->run_dir, options->name);
    qemu->log_path = g_strdup_printf("%s/probe-%s.log", options->run_dir, options->name);
    qemu->record_path = g_strdup_printf("%s/probe-%s.pid", options->run_dir, options->name);
    qemu->handlers = *handlers;
    qemu->data = data;
    end_leftover(qemu);
    if (!launch(qemu, options, error)) {
        g_prefix_error(error, "cannot probe QEMU: ");
        return NULL;
    }
    return g_steal_pointer(&qemu);
}
