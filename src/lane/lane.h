// SPDX-License-Identifier: Apache-2.0
/*
 * The lane: an authenticated session between two daemons.
 *
 * A session carries control messages (JSON objects, at most 1 MiB) in both directions and, for a
 * move, one QEMU migration stream from the side that opened it to the other. Everything that one
 * side sends arrives in the order in which it was sent: a control message that is sent after the
 * stream's end arrives after the stream's last byte. Frames, limits and versions: frame.h.
 *
 * Trust: TLS 1.3, both sides show a certificate of the fleet's CA; the name in it is the peer's
 * identity. Connecting names the identity that is expected. Accepting asks a callback whether this
 * (already proven) name is welcome. A refusal travels as text, so that both logs say why.
 *
 * Threads: the public functions and all callbacks belong to the main context; worker threads
 * inside own the sockets, the parser, the codecs and their buffers. gw_lane_stats() may be called
 * from any thread. No callback runs inside a call into the lane.
 *
 * A session outlives its TCP connections. The side that connected opens new ones, at all addresses
 * of the peer, when one is lost or silent; each side then sends what the other has not received.
 * Nothing is lost, twice or out of order; QEMU and the owner feel only that it takes longer. What
 * ends a session is a side's wish, a peer that was started anew and so knows nothing of it, or
 * silence for `session_timeout_ms` (GW_ERROR_TIMEOUT).
 *
 * Failure: a session ends once, with closed(); nothing is called after it.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <stdint.h>
#include <sys/socket.h>

typedef struct GwLane GwLane;
typedef struct GwLaneServer GwLaneServer;
typedef struct GwLaneCredentials GwLaneCredentials;
typedef struct GwRefSource GwRefSource; /* image_ref.h */
typedef struct GwRefTarget GwRefTarget;
typedef struct GwVisitWriter GwVisitWriter; /* visit.h */
typedef struct GwVisitTags GwVisitTags;
typedef struct GwPlacer GwPlacer; /* placer.h */

#define GW_LANE_MAX_MESSAGE_BYTES (1024u * 1024u)

/* --- credentials ------------------------------------------------------------------------------ */

/*
 * Loads CA certificate, own certificate and own key (PEM, the key not readable for others) from
 * files. One object serves all sessions; reference counted because workers use it.
 */
GwLaneCredentials *gw_lane_credentials_load(const char *ca_path, const char *cert_path,
                                            const char *key_path, GError **error) GW_MUST_USE;
GwLaneCredentials *gw_lane_credentials_ref(GwLaneCredentials *credentials);
void gw_lane_credentials_unref(GwLaneCredentials *credentials);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwLaneCredentials, gw_lane_credentials_unref)

/* The name in our own certificate. Borrowed. */
const char *gw_lane_credentials_name(const GwLaneCredentials *credentials);

/* --- figures ---------------------------------------------------------------------------------- */

typedef struct GwLaneStats {
    /* Wire: what this side handed to TCP, TLS and framing included. */
    uint64_t wire_bytes;
    /* ... of which, by cause (the sum is wire_bytes): */
    uint64_t page_bytes;      /* encoded pages and where they belong */
    uint64_t zero_bytes;      /* where zero pages belong */
    uint64_t same_bytes;      /* where pages belong that are the same as when last sent */
    uint64_t equal_bytes;     /* where pages belong that are equal to others, and to which */
    uint64_t delta_bytes;     /* what changed in pages, and where they belong */
    uint64_t reference_bytes; /* references, their proofs, and pages the target had not after all */
    uint64_t opaque_bytes;    /* everything of the stream that is not a page */
    uint64_t control_bytes;   /* control messages, acknowledgements, keepalives */
    uint64_t overhead_bytes;  /* frame and batch headers, greeting, TLS */
    uint64_t resent_bytes;    /* frames, or parts of frames, that were sent once more */
    /* The stream as the source's QEMU wrote it. */
    uint64_t stream_bytes;
    uint64_t pages; /* with content, as taken from QEMU; of these: */
    uint64_t same_pages;
    uint64_t equal_pages;
    uint64_t delta_pages;
    uint64_t reference_pages;
    uint64_t reference_misses; /* of these the target had not */
    uint64_t zero_pages;
    uint64_t placed_pages;    /* target: written into its QEMU's memory, not given to QEMU */
    uint64_t in_flight_bytes; /* handed to TCP or queued, not acknowledged by the peer */
    uint64_t rate_bytes_s;    /* what the peer acknowledged, over the last second */
    uint64_t rtt_us;          /* smallest seen */
    uint64_t burst_bytes_s;   /* by gw_lane_measure(); 0: not known */
    uint64_t requests;        /* that went over the return path and were answered by the preempt */
    uint64_t request_us;      /* ... channel: median time of the last ones, QEMU's share included */
    uint64_t cpu_us;          /* of this lane's worker threads */
    uint64_t memory_bytes;    /* held for the stream: tags, copies, buffers, indexes */
    bool opaque;              /* the parser has handed the rest over */
    unsigned links;           /* connections that are up */
    uint64_t reconnects;      /* connections in the place of one that was lost */
} GwLaneStats;

void gw_lane_stats(GwLane *lane, GwLaneStats *out);

/* --- sessions --------------------------------------------------------------------------------- */

typedef struct GwLaneStreamEnd {
    const GError *error;   /* NULL: the whole stream passed and, on the target, digests agree */
    uint64_t stream_bytes; /* as the source's QEMU wrote it */
    char digest[33];       /* over all of it, in hex: lane/digest.h */
    bool saw_end;          /* source: QEMU's own end-of-stream mark was seen */
} GwLaneStreamEnd;

typedef struct GwLaneHandlers {
    /*
     * Both sides are authenticated and agreed on a version. Sending is allowed from now on. Only
     * for the side that connected: the other side's accepted() says the same.
     */
    void (*ready)(GwLane *lane, void *data);
    /* A control message; borrowed. */
    void (*message)(GwLane *lane, json_t *message, void *data);
    /*
     * The stream has ended. Source: QEMU closed its end and all of it is queued. Target: all of
     * it was given to QEMU and the socket was shut down for writing; a digest mismatch, bytes
     * that do not decode or a QEMU that stopped reading is in end->error. Borrowed.
     */
    void (*stream_end)(GwLane *lane, const GwLaneStreamEnd *end, void *data);
    /* The session is over; @error says why (GW_ERROR_CANCELLED: the peer said goodbye). */
    void (*closed)(GwLane *lane, const GError *error, void *data);
} GwLaneHandlers;

typedef struct GwLaneConnect {
    const char *address; /* name or IP, as configured for the host */
    uint16_t port;
    const char *expected_name; /* the identity that the peer must prove */
    GwLaneCredentials *credentials;
    int64_t connect_timeout_ms;
    int64_t session_timeout_ms;
    /* All of these may be left out. */
    const char *const *more_addresses; /* of the same peer, ends with NULL */
    unsigned n_links;                  /* connections while a stream runs; 0: by measure */
    const char *congestion;            /* TCP's congestion control; NULL: by the link */
    unsigned encodings_off;            /* of GwEncoding */
    int64_t silence_ms; /* after which a connection is in doubt and another one opened; 0: 3000 */
} GwLaneConnect;

/* What a session's owner may wish for; zero is the default. As in GwLaneConnect. */
typedef struct GwLaneWishes {
    unsigned n_links;
    unsigned encodings_off;
} GwLaneWishes;

/*
 * Whether this kernel has TCP's congestion control of that name, after loading its module if there
 * is one. GW_ERROR_UNSUPPORTED names those that it has.
 */
bool gw_lane_check_congestion(const char *name, GError **error) GW_MUST_USE;

/*
 * Starts a session; everything, also failure to resolve or connect, is told by the handlers.
 * Transfer full: free it with gw_lane_free() at any time, also from within a handler.
 */
GwLane *gw_lane_connect(const GwLaneConnect *options, const GwLaneHandlers *handlers,
                        void *data) GW_MUST_USE;

/*
 * Ends the session at once if it is still there; the peer is told if the link takes it within a
 * moment. No handler is called afterwards. NULL is fine.
 */
void gw_lane_free(GwLane *lane);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwLane, gw_lane_free)

/* Says goodbye once everything sent so far is acknowledged, then closed() (also at the peer). If
 * that takes longer than session_timeout_ms the session ends with GW_ERROR_TIMEOUT. */
void gw_lane_finish(GwLane *lane);

/* For an accepted session: who serves it. The handlers are copied. */
void gw_lane_set_handlers(GwLane *lane, const GwLaneHandlers *handlers, void *data);

/* The identity that the peer proved. Borrowed; NULL before ready(). */
const char *gw_lane_peer_name(const GwLane *lane);

/*
 * The two ends of its newest connection, as the kernel has them; either may be NULL. AF_UNSPEC:
 * there has been none.
 */
void gw_lane_ends(GwLane *lane, struct sockaddr_storage *here, struct sockaddr_storage *there);

/* For how long nothing has come from the peer: after ready() a message comes every second. */
int64_t gw_lane_silent_us(const GwLane *lane);

/* Queues a control message. Borrowed. GW_ERROR_STATE before ready() or after closed(). */
bool gw_lane_send(GwLane *lane, json_t *message, GError **error) GW_MUST_USE;

/*
 * What both sides agreed on before the stream (image_ref.h): on the side that connected, where
 * pages are looked up; on the other, what they may refer to, which is closed by the time that
 * stream_end() says that all has come. Both: transfer full. Before gw_lane_start_stream(), once.
 */
void gw_lane_set_references(GwLane *lane, GwRefSource *references);
bool gw_lane_take_references(GwLane *lane, GwRefTarget *images, GError **error) GW_MUST_USE;

/*
 * Before gw_lane_start_stream(), borrowed until the lane is freed, NULL for none (visit.h): where
 * the side that connected keeps the pages that it sends; where the other notes how they came, until
 * stream_end().
 */
void gw_lane_keep_visit(GwLane *lane, GwVisitWriter *visit);
void gw_lane_note_visit(GwLane *lane, GwVisitTags *tags);

/*
 * The memory of the QEMU that the stream is for: pages are written there, and QEMU gets the rest.
 * On the side that accepted, before gw_lane_start_stream(). Transfer full; NULL for none.
 */
void gw_lane_place_pages(GwLane *lane, GwPlacer *placer);

/*
 * RAM blocks of which the peer can read back the pages that it got, as its owner told: then pages
 * may refer to them. On the side that connected, before gw_lane_start_stream(), once; later it has
 * no effect. Transfer full; NULL for none.
 */
void gw_lane_set_placed(GwLane *lane, char **blocks);

/*
 * Starts to carry QEMU's migration stream: on the side that connected from @fd to the peer, on
 * the side that accepted from the peer to @fd. @fd: a stream socket to QEMU, transfer full. Once
 * per session. A peer that sends stream frames before the target called this is held back.
 */
bool gw_lane_start_stream(GwLane *lane, int fd, GError **error) GW_MUST_USE;

/*
 * Measures how fast the link is, with at most 4 MiB that mean nothing, for 20 ms; the result comes
 * to be in the stats. After ready(), on the side that connected; again when it has come.
 */
void gw_lane_measure(GwLane *lane);

/* --- byte channels ---------------------------------------------------------------------------- */

/*
 * A byte channel carries what a socket yields to a socket at the peer, in one direction or both,
 * and each direction's end. It goes ahead of everything else, over a connection of its own if there
 * can be one, and outlives connections as the rest of the session does.
 */
typedef enum GwLaneBytes {
    GW_LANE_RETURN_PATH,
    GW_LANE_PREEMPT,
} GwLaneBytes;

#define GW_LANE_BYTES_READ  1u /* from the socket to the peer */
#define GW_LANE_BYTES_WRITE 2u /* from the peer to the socket */

/*
 * Carries @channel between the peer and @fd, a stream socket, transfer full; @ways: of
 * GW_LANE_BYTES_…. Once per channel and session; the first makes the session open a connection
 * more.
 */
bool gw_lane_open_bytes(GwLane *lane, GwLaneBytes channel, int fd, unsigned ways,
                        GError **error) GW_MUST_USE;

/*
 * The peer has opened a channel that is not open here: told once of each, as soon as the session
 * carries any byte channel here. What comes over it waits until it is opened here as well, and
 * what comes after that waits behind it.
 */
typedef void (*GwLaneOpenedFn)(GwLane *lane, GwLaneBytes channel, void *data);
/* @opened gets the handlers' data. */
void gw_lane_set_opened(GwLane *lane, GwLaneOpenedFn opened);

/*
 * From now on the stream leaves the network's queues so empty that what goes over byte channels
 * arrives about as fast as on an idle link. For the sender of a stream; costs it little.
 */
void gw_lane_set_paced(GwLane *lane);

/* --- server ----------------------------------------------------------------------------------- */

typedef struct GwLaneServerOptions {
    const char *bind_address; /* "0.0.0.0", "::" or one address */
    uint16_t port;
    GwLaneCredentials *credentials;
    int64_t session_timeout_ms;
    unsigned max_sessions;  /* as many connections may be half-open beside them */
    const char *congestion; /* as in GwLaneConnect */
    /* The most that a source may have us remember pages by; 0: by this host's memory. */
    uint64_t max_tag_bytes;  /* 5.03 MiB per GiB of a guest */
    uint64_t max_copy_bytes; /* copies of pages that changes are told against */
} GwLaneServerOptions;

typedef struct GwLaneServerHandlers {
    /* May the holder of this proven name connect? False with an error that is sent to it. */
    bool (*welcome)(const char *peer_name, GError **error, void *data);
    /* A session is ready. Transfer full. Call gw_lane_set_handlers() before returning. */
    void (*accepted)(GwLane *lane, void *data);
} GwLaneServerHandlers;

GwLaneServer *gw_lane_server_new(const GwLaneServerOptions *options,
                                 const GwLaneServerHandlers *handlers, void *data,
                                 GError **error) GW_MUST_USE;
/* The port it listens at; of use when 0 was asked for. */
uint16_t gw_lane_server_port(const GwLaneServer *server);
/* New credentials (renewed certificate) for sessions from now on. */
void gw_lane_server_set_credentials(GwLaneServer *server, GwLaneCredentials *credentials);
void gw_lane_server_free(GwLaneServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwLaneServer, gw_lane_server_free)
