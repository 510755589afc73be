// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of a session: struct GwLane and what its parts say to each other.
 *
 *     main context   lane.c    the public interface, handlers, life and death
 *                    server.c  listening; half-open sessions belong to it
 *     link thread    link.c    one connection: TCP, TLS, frames both ways, pings, timeouts
 *     inbox thread   target.c  ordered frames of the peer: control messages, QEMU's stream
 *     stream thread  source.c  QEMU → parser → batches → outbox; only while a stream is sent
 *
 *     QEMU → source.c → outbox → link.c → TCP … TCP → link.c → inbox → target.c → QEMU
 *
 * Threads meet in the outbox, the inbox and below `lock`, and tell the main context by events. They
 * use pthread locks, which thread sanitizers understand. Three eventfds wake those who poll:
 * wake_fd the link thread; stop_fd all of them, for good, when the lane is freed; cut_fd the
 * stream thread when the session is over.
 *
 * Several connections per session mean several links on one outbox and inbox; nothing else here
 * knows that there is only one.
 */
#pragma once

#include "base/fd.h"
#include "lane/inbox.h"
#include "lane/lane.h"
#include "lane/outbox.h"

#include <gio/gio.h>
#include <pthread.h>

#define GW_LANE_HANDSHAKE_MS 10000

/* Messages that wait for the main context; beyond it the peer is held back. */
#define GW_LANE_MAX_EVENTS 64u

typedef enum GwLaneEventKind {
    GW_LANE_EVENT_WELCOME, /* server: the peer proved `name`; a verdict is awaited */
    GW_LANE_EVENT_READY,   /* with the peer's `name` */
    GW_LANE_EVENT_MESSAGE,
    GW_LANE_EVENT_STREAM_END,
    GW_LANE_EVENT_CLOSED, /* nothing follows */
} GwLaneEventKind;

typedef struct GwLaneEvent {
    GwLaneEventKind kind;
    char *name;
    json_t *message;
    GError *error; /* STREAM_END (NULL: all well), CLOSED */
    GwLaneStreamEnd end;
} GwLaneEvent;

typedef enum GwLaneVerdict {
    GW_LANE_VERDICT_NONE,
    GW_LANE_VERDICT_WELCOME,
    GW_LANE_VERDICT_REFUSED,
} GwLaneVerdict;

typedef enum GwLaneThread {
    GW_LANE_THREAD_LINK,
    GW_LANE_THREAD_INBOX,
    GW_LANE_THREAD_STREAM,
    GW_LANE_N_THREADS,
} GwLaneThread;

typedef struct GwLaneResolve GwLaneResolve;

struct GwLane {
    /* --- constant once the threads run --- */
    char *peer_address; /* as configured, or the address of an accepted socket */
    uint16_t port;
    char *expected_name; /* NULL: accepted */
    GwLaneCredentials *credentials;
    int64_t open_deadline_us;
    int64_t session_timeout_ms;
    GList *addresses; /* of GInetAddress: where to connect to */
    GwFd accepted_fd; /* until the link thread takes it */
    GwFd wake_fd;
    GwFd stop_fd;
    GwFd cut_fd;
    bool wakes_made;
    GwFramePool *pool;
    GwOutbox *outbox;
    GwInbox *inbox;

    /* --- main context --- */
    GMainContext *context;
    GSource *event_source; /* made ready by gw_lane_post() */
    GSource *resolve_timeout;
    GwLaneResolve *resolve;
    GwLaneHandlers handlers;
    void *data;
    GwLaneServer *server; /* half-open: belongs to this server */
    struct GwLaneSlots *slots;
    char *peer_name;
    bool ready;
    bool over;
    bool stream_started;
    bool dispatching;
    bool freed;
    pthread_t threads[GW_LANE_N_THREADS];
    bool thread_runs[GW_LANE_N_THREADS];

    /* --- handed over to the stream thread when it starts --- */
    GwFd stream_fd;

    /* --- under `lock` --- */
    pthread_mutex_t lock;
    pthread_cond_t events_taken;
    GQueue events;
    bool closed_posted;
    bool stopping;
    bool finishing;
    GError *failure; /* of another thread; the link thread ends the session with it */
    GwLaneVerdict verdict;
    GError *verdict_error;
    GwLaneStats stats;
};

/* --- lane.c: for the threads ------------------------------------------------------------------ */

/* @event's content: transfer full. Waits while too many wait already. Any thread. */
void gw_lane_post(GwLane *lane, GwLaneEvent event);

/* Ends the session with @error (transfer full), told to the peer. The first one counts. */
void gw_lane_fail(GwLane *lane, GError *error);

/* Adds the calling thread's processor time since *@last_us and moves that on. */
void gw_lane_count_cpu(GwLane *lane, int64_t *last_us);

/* --- lane.c: for the server ------------------------------------------------------------------- */

/* An accepted socket; @fd: transfer full. NULL: it could not be set up. */
GwLane *gw_lane_accept(GwLaneServer *server, struct GwLaneSlots *slots, int fd,
                       const char *peer_address, GError **error) GW_MUST_USE;

/* --- server.c: for lane.c --------------------------------------------------------------------- */

/* How many sessions a server's slots are taken by; main context; outlives the server. */
typedef struct GwLaneSlots {
    unsigned refs;
    unsigned used;
} GwLaneSlots;

void gw_lane_slots_unref(GwLaneSlots *slots);

GwLaneCredentials *gw_lane_server_credentials(const GwLaneServer *server);
int64_t gw_lane_server_session_timeout_ms(const GwLaneServer *server);
/* Events of a half-open session; the last two end the server's ownership. */
bool gw_lane_server_welcome(GwLaneServer *server, const char *name, GError **error);
void gw_lane_server_accepted(GwLaneServer *server, GwLane *lane);
void gw_lane_server_dropped(GwLaneServer *server, GwLane *lane, const GError *error);

/* --- the threads' bodies ---------------------------------------------------------------------- */

void *gw_link_thread(void *lane);
void *gw_target_thread(void *lane);
void *gw_source_thread(void *lane);
