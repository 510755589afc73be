// SPDX-License-Identifier: Apache-2.0
/* A socket path in a folder of its own, raw HTTP exchanges, and work in a thread beside the loop.
 */
#pragma once

#include "base/error.h"
#include "base/fd.h"

typedef struct Place {
    char *folder;
    char *socket;
} Place;

void place_make(Place *place);
void place_remove(Place *place);

/* Runs @work in a thread and the main loop until it is done. */
void run_beside_loop(void (*work)(void *data), void *data);

/* Iterates the main loop until *@flag; fails the test after 20 s. */
void loop_until(const bool *flag);

/* Connects, sends @text, reads to the end or until @enough is contained. Transfer full. */
char *exchange(const char *socket, const char *text, const char *enough);

/* The same in pieces. read_until() gives up at the end of the stream. */
GwFd open_and_send(const char *socket, const char *text);
char *read_until(int fd, const char *enough);
