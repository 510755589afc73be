// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes between the terminal and a console's socket, both ways. Owns the terminal's mode while
 * attached: signals that would end the process are blocked and seen through a signalfd, so there is
 * one way out; the mode is put back on it, and then the signal takes its course. What the guest
 * sends goes to the terminal as it is: this is the one place where it is not escaped, as a
 * console's programs need it.
 */
#include "cli/console.h"
#include "base/fd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>

#define ESCAPE_KEY 0x1d /* Ctrl-] */

/* Attributes off, cursor visible, at the beginning of a line: guests leave all sorts of things. */
#define TERMINAL_RESET "\033[0m\033[?25h\n"

typedef struct Console {
    int socket;
    int signals;
    bool stdin_open;
    bool done;
} Console;

static int
open_signals(sigset_t *old_mask)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
    sigset_t mask;

    sigemptyset(&mask);
    for (size_t i = 0; i < G_N_ELEMENTS(ending); i++) {
        sigaddset(&mask, ending[i]);
    }
    sigprocmask(SIG_BLOCK, &mask, old_mask);
    return signalfd(-1, &mask, SFD_CLOEXEC);
}

/* Up to the escape key, which ends it. */
static bool
from_terminal(Console *console, GError **error)
{
    char data[4096];
    ssize_t count = read(STDIN_FILENO, data, sizeof data);

    if (count <= 0) {
        console->stdin_open = false;
        return true;
    }
    char *escape = isatty(STDIN_FILENO) ? memchr(data, ESCAPE_KEY, (size_t)count) : NULL;
    size_t len = escape ? (size_t)(escape - data) : (size_t)count;
    console->done = escape != NULL;
    if (!gw_fd_write_full(console->socket, data, len)) {
        gw_set_error_errno(error, errno, "cannot write to the console");
        return false;
    }
    return true;
}

static bool
to_terminal(Console *console, GError **error)
{
    char data[4096];
    ssize_t count = read(console->socket, data, sizeof data);

    if (count <= 0) {
        console->done = true;
        return true;
    }
    if (!gw_fd_write_full(STDOUT_FILENO, data, (size_t)count)) {
        gw_set_error_errno(error, errno, "cannot write to the terminal");
        return false;
    }
    return true;
}

static bool
relay(Console *console, GError **error)
{
    while (!console->done) {
        struct pollfd fds[] = {
            {.fd = console->socket, .events = POLLIN},
            {.fd = console->stdin_open ? STDIN_FILENO : -1, .events = POLLIN},
            {.fd = console->signals, .events = POLLIN},
        };
        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            gw_set_error_errno(error, errno, "cannot wait for the console");
            return false;
        }
        if (fds[2].revents) {
            console->done = true;
        } else if ((fds[0].revents && !to_terminal(console, error)) ||
                   (fds[1].revents && !from_terminal(console, error))) {
            return false;
        }
    }
    return true;
}

bool
gw_console_attach(const char *vm, const char *socket_path, GError **error)
{
    g_auto(GwFd) fd = gw_unix_connect(socket_path, error);
    struct termios before;
    sigset_t old_mask;

    if (fd < 0) {
        g_prefix_error(error, "console of VM '%s' (root only): ", vm);
        return false;
    }
    g_auto(GwFd) signals = open_signals(&old_mask);
    bool on_terminal = tcgetattr(STDIN_FILENO, &before) == 0;
    if (on_terminal) {
        struct termios raw = before;
        fprintf(stderr, "Console of %s; Ctrl-] leaves it.\n", vm);
        cfmakeraw(&raw);
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    }
    Console console = {.socket = fd, .signals = signals, .stdin_open = true};
    bool ok = relay(&console, error);
    if (on_terminal) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
        fputs(TERMINAL_RESET, stderr);
    }
    sigprocmask(SIG_SETMASK, &old_mask, NULL);
    return ok;
}
