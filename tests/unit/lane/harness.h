// SPDX-License-Identifier: Apache-2.0
/*
 * Two real sessions over loopback in one main loop, and stand-ins for QEMU at both ends.
 */
#pragma once

#include "certs.h"

/* Turns the main loop until @condition holds; a minute without it is a failure. */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        unsigned watchdog_ = watchdog_start(G_STRLOC ": " #condition);                             \
        while (!(condition)) {                                                                     \
            g_main_context_iteration(NULL, TRUE);                                                  \
        }                                                                                          \
        g_source_remove(watchdog_);                                                                \
    } while (0)

unsigned watchdog_start(const char *what);

typedef struct Side {
    GwLane *lane; /* owned; NULL before it is there */
    GString *log; /* "ready;" "message:TEXT;" "end;" "closed;" in order */
    bool ready;
    unsigned n_messages;
    bool ended;
    uint64_t end_bytes;
    char *end_digest;
    bool end_saw_end;
    GError *end_error;
    GError *closed;
    bool free_on_event; /* frees the lane within the next handler */
} Side;

typedef struct Rig {
    char *dir;
    TestCa *ca;
    TestCa *other_ca;
    GwLaneServer *server;
    Side client;
    Side accepted;
    bool refuse; /* the server's answer to welcome() */
    char *asked; /* the name that welcome() was asked about */
    int64_t session_timeout_ms;
    unsigned max_sessions;
    /* How the client connects. */
    const char *address;
    const char *const *more_addresses;
    unsigned n_links;
    int64_t silence_ms;
} Rig;

/* Makes a fleet CA "ca", a foreign one "other", hosts "alpha" and "beta", and a server "alpha". */
void rig_init(Rig *rig, int64_t session_timeout_ms);
void rig_clear(Rig *rig);
void rig_serve(Rig *rig, const char *certificate);
/* Connects as @certificate, expecting "alpha" (or @expected). */
void rig_connect(Rig *rig, const char *ca, const char *certificate, const char *expected);
void rig_connect_to(Rig *rig, uint16_t port, const char *ca, const char *certificate,
                    const char *expected);
/* Both sides established, as beta → alpha. */
void rig_establish(Rig *rig);
void side_reset(Side *side);
extern const GwLaneHandlers side_handlers;

/* --- stand-ins for QEMU ----------------------------------------------------------------------- */

/* Writes @bytes to one end of a socket pair in a thread; the other end is for the lane. */
typedef struct Feeder {
    int fd;
    int lane_fd;
    const GByteArray *bytes;
    GThread *thread;
    gint n_written; /* in KiB; atomic */
} Feeder;

void feeder_start(Feeder *feeder, const GByteArray *bytes);
void feeder_join(Feeder *feeder);

/* Reads to the end of file in a thread. */
typedef struct Drain {
    int fd;
    int lane_fd;
    GByteArray *bytes;
    GThread *thread;
} Drain;

void drain_init(Drain *drain);
void drain_start(Drain *drain);
void drain_join(Drain *drain);
void drain_clear(Drain *drain);
