// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of a session: struct GwLane and what its parts say to each other.
 *
 *     main context   lane.c      the public interface, life and death
 *                    events.c    handlers
 *                    resolve.c   names to addresses, before the first connection
 *                    server.c    listening, and which session a connection belongs to
 *     entry thread   entry.c     the server's: one connection until its session is known
 *     link threads   link.c      one each: its connection, frames both ways, pings, timeouts
 *                    link_burst.c  ... how fast it is, measured
 *                    reopen.c    the connecting side's: getting a connection, again and again
 *     inbox thread   target.c    ordered frames of the peer: control messages, QEMU's stream
 *     desk thread    ref_desk.c  references of frames that wait in the inbox
 *     stream thread  source.c    QEMU → parser → batches; only while a stream is sent
 *     encode threads encoder.c   batches → outbox; beside it
 *     bytes thread   bytes.c     byte channels, both ways; only once one was opened
 *
 *     QEMU → source.c → encoder.c → outbox → links → TCP … TCP → links → inbox → target.c → QEMU
 *
 * Byte channels have an outbox and an inbox of their own, the urgent ones, and as soon as there is
 * such a channel a link of their own: nothing of the bulk can stand before them but what fills the
 * network itself, which the bulk's window can be told to keep small (paced).
 *
 * A session has one to GW_LANE_MAX_LINKS links and outlives their connections. A link is a place
 * for a connection, with a number that both sides know, and a thread that lives as long as the
 * session. The connecting side keeps every link connected; the accepting side gets a new
 * connection for a link from the server and drops the one before it.
 *
 * Threads meet in the outbox, the inbox and below `lock`, and tell the main context by events. They
 * use pthread locks, which thread sanitizers understand. Eventfds wake those who poll: each link's
 * wake_fd, the bytes thread's bytes_fd; stop_fd all of them, for good, when the lane is freed;
 * cut_fd the stream and the bytes thread when the session is over.
 */
#pragma once

#include "base/fd.h"
#include "lane/inbox.h"
#include "lane/lane.h"
#include "lane/outbox.h"
#include "lane/page_target.h"
#include "lane/ref_desk.h"
#include "lane/ref_keep.h"

#include <gio/gio.h>
#include <pthread.h>
#include <sys/socket.h>

#define GW_LANE_HANDSHAKE_MS 10000

/* Messages that wait for the main context; beyond it the peer is held back. */
#define GW_LANE_MAX_EVENTS 64u

typedef enum GwLaneEventKind {
    GW_LANE_EVENT_READY, /* with the peer's `name` */
    GW_LANE_EVENT_MESSAGE,
    GW_LANE_EVENT_STREAM_END,
    GW_LANE_EVENT_OPENED,
    GW_LANE_EVENT_CLOSED, /* nothing follows */
} GwLaneEventKind;

typedef struct GwLaneEvent {
    GwLaneEventKind kind;
    char *name;
    json_t *message;
    GError *error; /* STREAM_END (NULL: all well), CLOSED */
    GwLaneStreamEnd end;
    GwChannel channel; /* OPENED */
} GwLaneEvent;

typedef struct GwLaneResolve GwLaneResolve;
typedef struct GwLaneRegistry GwLaneRegistry;
typedef struct GwConnection GwConnection;
typedef struct GwLink GwLink;
typedef struct GwBytes GwBytes;

struct GwLane {
    /* --- constant once the threads run --- */
    char *peer_address; /* as configured, or the address of an accepted socket */
    uint16_t port;
    char *expected_name; /* NULL: accepted */
    GwLaneCredentials *credentials;
    char *congestion; /* NULL: by the link */
    int64_t open_deadline_us;
    int64_t session_timeout_ms;
    int64_t silence_us; /* after which a connection is in doubt */
    unsigned n_links;   /* wanted; 0: by measure */
    unsigned encodings_off;
    GwPageTargetCaps page_caps;
    GList *addresses; /* of GInetAddress: where to connect to */
    GwFd stop_fd;
    GwFd cut_fd;
    GwFd bytes_fd;
    bool wakes_made;
    GwFramePool *pool;
    GwOutbox *outbox;
    GwInbox *inbox;
    GwOutbox *urgent_outbox;
    GwInbox *urgent_inbox;
    GwRefDesk *desk; /* the accepting side's; NULL for the other */
    uint8_t session_id[GW_SESSION_ID_BYTES];
    uint8_t ticket[GW_TICKET_BYTES]; /* the connecting side's first link sets it before READY */

    /* --- atomic --- */
    GwLink *links[GW_LANE_MAX_LINKS]; /* set once each, owned by the main context */
    int64_t heard_us;                 /* when bytes came last, over any link */
    bool confirmed;                   /* the peer has used the session */
    GwRefKeep *keep;    /* set once, if at all, by the main context before the stream starts */
    bool burst_wanted;  /* by gw_lane_measure() */
    bool loses_packets; /* the path to the peer does: link_path.c */

    /* --- main context --- */
    GMainContext *context;
    GwLaneOpenedFn opened; /* nullable */
    GwBytes *bytes;        /* NULL until a byte channel is opened */
    GSource *event_source; /* made ready by gw_lane_post() */
    GPtrArray *names;      /* not resolved yet */
    GSource *resolve_timeout;
    GwLaneResolve *resolve;
    GwLaneHandlers handlers;
    void *data;
    GwLaneServer *server; /* not ready yet: belongs to this server */
    GwLaneRegistry *registry;
    char *peer_name;
    uint8_t peer_instance[GW_INSTANCE_BYTES];
    bool ready;
    bool over;
    bool stream_started;
    bool dispatching;
    bool freed;
    pthread_t inbox_thread;
    pthread_t stream_thread;
    bool inbox_runs;
    bool stream_runs;
    GwRefSource *references; /* what `keep` looks in */

    /* --- handed over to the stream thread when it starts --- */
    GwFd stream_fd;
    GwVisitWriter *visit; /* borrowed, NULL: none */
    char **placed;        /* names of the blocks that the peer can read back, NULL: none */

    /* --- handed over to the inbox thread with the sink --- */
    GwVisitTags *tags; /* borrowed, NULL: none */
    GwPlacer *placer;  /* NULL: all goes to QEMU */

    /* --- under `lock` --- */
    pthread_mutex_t lock;
    pthread_cond_t events_taken;
    GQueue events;
    bool closed_posted;
    bool stopping;
    int64_t finishing_us;         /* since when; 0: not */
    bool said_goodbye;            /* at least one link did */
    GError *end_reason;           /* the session is over */
    bool tells_reason;            /* to the peer */
    unsigned links_running;       /* threads */
    struct sockaddr_storage here; /* ends of the newest connection; AF_UNSPEC: there was none */
    struct sockaddr_storage there;
    GwLaneStats stats;
};

/* --- events.c --------------------------------------------------------------------------------- */

/* @event's content: transfer full. Waits while too many wait already. Any thread. */
void gw_lane_post(GwLane *lane, GwLaneEvent event);
void gw_lane_events_init(GwLane *lane);
void gw_lane_events_clear(GwLane *lane);
/* The session ended before there was a thread to say so; @error: transfer full. */
void gw_lane_end_before_start(GwLane *lane, GError *error);

/* --- lane.c: for the threads ------------------------------------------------------------------ */

/* Ends the session with @error (transfer full), told to the peer if @tell. The first one counts. */
void gw_lane_end(GwLane *lane, GError *error, bool tell);

/* Adds the calling thread's processor time since *@last_us and moves that on. */
void gw_lane_count_cpu(GwLane *lane, int64_t *last_us);

/* --- lane.c: for the main context's other parts ------------------------------------------------
 */

/* A session of the side that accepts; @connection, its first: transfer full on success. */
GwLane *gw_lane_accept(const GwLaneServerOptions *options, GwConnection *connection,
                       const GwHello *hello, GError **error) GW_MUST_USE;
/* One more connection of it; @connection: transfer full on success. */
bool gw_lane_join(GwLane *lane, GwConnection *connection, const GwHello *hello,
                  GError **error) GW_MUST_USE;
/* Runs @body(@data) as a thread that leaves all signals to others. */
bool gw_lane_start_thread(pthread_t *thread, void *(*body)(void *), void *data, const char *name,
                          GError **error) GW_MUST_USE;
/* The session's first threads. */
bool gw_lane_start(GwLane *lane, GError **error) GW_MUST_USE;
void gw_lane_destroy(GwLane *lane);

/* --- resolve.c -------------------------------------------------------------------------------- */

/* Resolves `names` one after the other, then starts the first link; or posts the end. */
void gw_lane_resolve(GwLane *lane, guint timeout_ms);
void gw_lane_stop_resolving(GwLane *lane);

/* --- registry.c ------------------------------------------------------------------------------- */

/* A server's sessions by their id; main context; outlives the server. */
struct GwLaneRegistry {
    unsigned refs;
    unsigned used; /* sessions that were not freed yet */
    GHashTable *sessions;
};

GwLaneRegistry *gw_lane_registry_new(void);
void gw_lane_registry_unref(GwLaneRegistry *registry);
void gw_lane_registry_add(GwLaneRegistry *registry, GwLane *lane);
/* It can be resumed no more; and when @freed, it takes no place any more. */
void gw_lane_registry_remove(GwLane *lane, bool freed);
/*
 * The session that @hello, sent by the holder of the proven @name, wants a connection of.
 * GW_ERROR_NOT_FOUND, GW_ERROR_REFUSED.
 */
GwLane *gw_lane_registry_find(GwLaneRegistry *registry, const GwHello *hello, const char *name,
                              GError **error) GW_MUST_USE;
/* @name's daemon was started anew: the sessions of the one before are over. */
void gw_lane_registry_end_others(GwLaneRegistry *registry, const GwHello *hello, const char *name);

/* Random, the same for all of this process. False: no random numbers. */
bool gw_lane_instance(uint8_t out[GW_INSTANCE_BYTES]) GW_MUST_USE;

/* --- server.c: for events.c ---------------------------------------------------------------------
 */

/* Events of a session that is not ready yet; both end the server's ownership. */
void gw_lane_server_accepted(GwLaneServer *server, GwLane *lane);
void gw_lane_server_dropped(GwLaneServer *server, GwLane *lane, const GError *error);

/* --- bytes.c ---------------------------------------------------------------------------------- */

/* The lane's byte channels, and the thread that carries them. */
GwBytes *gw_bytes_new(GwLane *lane, GError **error) GW_MUST_USE;
/* @fd: transfer full. GW_ERROR_STATE: @channel is open already. */
bool gw_bytes_open(GwBytes *bytes, GwChannel channel, int fd, unsigned ways,
                   GError **error) GW_MUST_USE;
/* Waits for the thread, which ends when the lane's cut_fd is raised. */
void gw_bytes_join(GwBytes *bytes);
void gw_bytes_free(GwBytes *bytes);

/* --- the threads' bodies ---------------------------------------------------------------------- */

void *gw_target_thread(void *lane);
void *gw_source_thread(void *lane);
