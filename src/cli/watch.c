// SPDX-License-Identifier: Apache-2.0
/*
 * Watching one move. Owns a signalfd for SIGINT while it lives. One thread; blocks on the daemon's
 * event stream, whose signs of life bound the wait. A stream that breaks off is opened again for
 * RECONNECT_SECONDS; after that GW_ERROR_UNREACHABLE, and the move goes on without us.
 */
#include "cli/watch.h"
#include "base/fd.h"
#include "base/units.h"
#include "cli/progress.h"
#include "cli/text.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#define RECONNECT_SECONDS 60
#define RETRY_MS          1000
#define PLAIN_INTERVAL_US (5 * G_USEC_PER_SEC)
#define DEFAULT_COLUMNS   80

typedef enum Style {
    STYLE_LIVE,
    STYLE_PLAIN,
    STYLE_JSON,
} Style;

struct GwWatch {
    GwCli *cli;
    Style style;
    GwFd signals;
    sigset_t old_mask;
    json_t *last; /* the move as told last */
    unsigned events;
    GwProgressView view;
    char *shown_state;     /* plain: the last state printed */
    int64_t last_plain_us; /* when a line was printed last */
    bool drawn;            /* live: two lines are there to be rewritten */
    bool interrupted;
};

GwWatch *
gw_watch_begin(GwCli *cli, GError **error)
{
    GwWatch *watch = g_new0(GwWatch, 1);
    const char *terminal = g_getenv("TERM");
    bool live = isatty(STDOUT_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
    sigset_t mask;

    watch->cli = cli;
    watch->style = cli->json ? STYLE_JSON : live ? STYLE_LIVE : STYLE_PLAIN;
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, &watch->old_mask);
    watch->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (watch->signals < 0) {
        gw_set_error_errno(error, errno, "cannot watch for Ctrl-C");
        gw_watch_end(watch);
        return NULL;
    }
    return watch;
}

void
gw_watch_end(GwWatch *watch)
{
    if (!watch) {
        return;
    }
    /* A Ctrl-C that came too late for us must not end the process afterwards. */
    struct signalfd_siginfo pending;
    while (watch->signals >= 0 && read(watch->signals, &pending, sizeof pending) > 0) {
        continue;
    }
    gw_fd_clear(&watch->signals);
    sigprocmask(SIG_SETMASK, &watch->old_mask, NULL);
    json_decref(watch->last);
    g_free(watch->shown_state);
    g_free(watch);
}

/* --- showing ---------------------------------------------------------------------------------- */

static unsigned
terminal_columns(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                           : DEFAULT_COLUMNS;
}

/* Rewrites its two lines. One column is left free: some terminals wrap after the last. */
static void
show_live(GwWatch *watch)
{
    g_autofree char *lines = gw_progress_lines(&watch->view, watch->last, terminal_columns() - 1);
    g_auto(GStrv) parts = g_strsplit(lines, "\n", 2);

    printf("%s\r\033[K%s\n\r\033[K%s\n", watch->drawn ? "\033[2A" : "", parts[0], parts[1]);
    watch->drawn = true;
    fflush(stdout);
}

static void
show_plain(GwWatch *watch)
{
    const char *state = gw_json_str(watch->last, "state", "");
    int64_t now_us = gw_now_us();
    bool changed = g_strcmp0(state, watch->shown_state) != 0;

    if (!changed && now_us - watch->last_plain_us < PLAIN_INTERVAL_US) {
        return;
    }
    g_free(watch->shown_state);
    watch->shown_state = g_strdup(state);
    watch->last_plain_us = now_us;
    g_autofree char *line = gw_progress_plain(&watch->view, watch->last);
    puts(line);
    fflush(stdout);
}

/* For people, not part of the result: on stderr, below what is drawn. */
static void
tell(const char *text)
{
    fflush(stdout);
    fprintf(stderr, "%s\n", text);
}

/* --- the stream ------------------------------------------------------------------------------- */

static bool
on_event(json_t *event, void *data)
{
    GwWatch *watch = data;
    json_t *move = json_object_get(event, "move");
    const char *kind = gw_json_str(event, "event", "");

    if (strcmp(kind, "cut") == 0) {
        return false; /* and connect again */
    }
    if (!json_is_object(move)) {
        return true;
    }
    json_decref(watch->last);
    watch->last = json_incref(move);
    watch->events++;
    if (watch->style == STYLE_JSON) {
        gw_cli_print_json(event, true);
    } else if (watch->style == STYLE_LIVE) {
        show_live(watch);
    } else {
        show_plain(watch);
    }
    return strcmp(kind, "end") != 0;
}

static bool
on_signal(void *data)
{
    GwWatch *watch = data;
    struct signalfd_siginfo info;

    watch->interrupted = read(watch->signals, &info, sizeof info) == sizeof info;
    return !watch->interrupted;
}

static bool
has_ended(const GwWatch *watch)
{
    return watch->last && gw_json_bool(watch->last, "final", false);
}

/* Between two attempts; true if Ctrl-C came. */
static bool
pause_was_interrupted(GwWatch *watch)
{
    struct pollfd wait = {.fd = watch->signals, .events = POLLIN};

    return poll(&wait, 1, RETRY_MS) > 0 && !on_signal(watch);
}

static void
tell_detached(const char *id)
{
    g_autofree char *text = g_strdup_printf("\nThe move goes on without this command.\n"
                                            "  to watch it again:  godwit migration watch %s\n"
                                            "  to cancel it:       godwit migration cancel %s",
                                            id, id);
    tell(text);
}

/* @problem (transfer full) is NULL if the stream ended in good order but before the move. */
static void
lost(GError *problem, GError **error)
{
    if (problem) {
        g_propagate_error(error, problem);
    } else {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE,
                    "godwitd ended the stream of events before the move's end");
    }
}

/* One attempt after the other until the move has ended, Ctrl-C, or patience is out. */
static bool
follow(GwWatch *watch, const char *id, GError **error)
{
    GwClientStream stream = {on_event, watch->signals, on_signal, watch};
    g_autofree char *path = gw_client_path("/v1/migrations/", id, "/events");
    int64_t lost_us = 0;

    for (;;) {
        g_autoptr(GError) problem = NULL;
        unsigned before = watch->events;
        bool ok = gw_client_stream(gw_cli_client(watch->cli), path, &stream, &problem);
        if (has_ended(watch) || watch->interrupted) {
            return true;
        }
        if (watch->events != before) {
            lost_us = 0;
        }
        bool may_return = ok || problem->code == GW_ERROR_UNREACHABLE;
        if (!watch->last || !may_return ||
            (lost_us > 0 && gw_now_us() - lost_us > RECONNECT_SECONDS * G_USEC_PER_SEC)) {
            lost(g_steal_pointer(&problem), error);
            return false;
        }
        if (lost_us == 0) {
            lost_us = gw_now_us();
            tell("godwitd does not answer; the move goes on or is recovered. Trying again ...");
            watch->drawn = false;
        }
        if (pause_was_interrupted(watch)) {
            return true;
        }
    }
}

json_t *
gw_watch_move(GwWatch *watch, const char *id, GError **error)
{
    g_autofree char *safe_id = gw_text_escape(id, false);

    if (!follow(watch, id, error)) {
        return NULL;
    }
    if (!has_ended(watch)) {
        watch->cli->interrupted = true;
        tell_detached(safe_id);
        return NULL;
    }
    return json_incref(watch->last);
}
