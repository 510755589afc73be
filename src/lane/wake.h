// SPDX-License-Identifier: Apache-2.0
/*
 * Waking threads that poll: an eventfd, raised by one side and lowered by the other.
 * Any thread. gw_wake_raise() never blocks.
 */
#pragma once

#include "base/error.h"
#include "base/fd.h"

GwFd gw_wake_new(GError **error) GW_MUST_USE;
void gw_wake_raise(int fd);
void gw_wake_lower(int fd);

/*
 * Waits until @fd has @events (an error or hang-up counts), @stop_fd is raised or @timeout_ms (-1:
 * none) have passed. 1: @fd is ready; 0: timeout; -1: stopped.
 */
int gw_wake_wait_fd(int fd, short events, int stop_fd, int timeout_ms);
