// SPDX-License-Identifier: Apache-2.0
/*
 * eventfd helpers. Own nothing; any thread; raising and lowering cannot fail on a valid eventfd.
 */
#include "lane/wake.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

GwFd
gw_wake_new(GError **error)
{
    GwFd fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot make an eventfd");
    }
    return fd;
}

void
gw_wake_raise(int fd)
{
    /* EAGAIN means that it is raised 2^64 times: raised is all that is wanted. */
    (void)!eventfd_write(fd, 1);
}

void
gw_wake_lower(int fd)
{
    eventfd_t count;

    (void)!eventfd_read(fd, &count);
}

int
gw_wake_wait_fd(int fd, short events, int stop_fd, int timeout_ms)
{
    struct pollfd fds[] = {{.fd = fd, .events = events}, {.fd = stop_fd, .events = POLLIN}};

    /* EINTR counts as a timeout: callers look at the clock and wait again. */
    if (poll(fds, G_N_ELEMENTS(fds), timeout_ms) <= 0) {
        return 0;
    }
    if (fds[1].revents) {
        return -1;
    }
    return fds[0].revents ? 1 : 0;
}
