// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of src/migrate share: one move, the registry, and the two roles.
 *
 *   moves.c         registry, records, history, the public functions of migrate.h
 *   move.c          the mover: events in, persisted transitions and timers out
 *   source.c        the sending host's steps that talk to the target
 *   source_qemu.c   ... and those that talk to QEMU: pre-copy, switchover, roll-back
 *   target.c        the receiving host's steps
 *   lost.c          the end of a move whose guest is lost, and moves that are abandoned
 *   verify_source.c, verify_target.c   `--verify full`: the comparison of the paused guest's memory
 *   ram_hash.c, ram_map.c   ... and its hashes, and where it is
 *   visitor.c       sessions from other hosts, until it is known which move they are about
 *   check*.c        the checks before a move
 *   source_post.c   post-copy: the sending host
 *   target_post.c   ... the receiving one
 *   post_socket.c   ... sockets to QEMU, and what the kernel allows
 *   qemu_memory.c   where the target's QEMU has its guest's memory
 *   direct.c        QEMU-to-QEMU transports: ports and keys
 *   plain.c         ... without TLS: the connection that the daemons make for it
 *   references.c    disk images that both hosts read
 *   indexer.c       indexes over them, ahead of moves
 *   visits.c        what is kept of VMs that leave and come
 *   report.c        the figures of a move
 */
#pragma once

#include "base/fd.h"
#include "base/log.h"
#include "core/move_state.h"
#include "core/progress.h"
#include "core/switchover.h"
#include "core/transport.h"
#include "migrate/migrate.h"
#include "migrate/references.h"

/* What it grows by in a move must fit. */
#define GW_MOVE_MAX_GENERATION (INT64_MAX - 8)

typedef struct GwMove GwMove;

/* What a role does. All functions run in the main context. */
typedef struct GwMoveRole {
    const char *name;           /* "source" or "target" */
    void (*init)(GwMove *move); /* makes move->side */
    /* The work of move->state, on entering it and when it is to be done again. */
    void (*enter)(GwMove *move);
    /* What is written together with the step into @next. */
    void (*write)(GwMove *move, GwMoveState next, GwStoreTxn *txn);
    /* Puts the latest figures into @record. */
    void (*report)(GwMove *move, json_t *record);
    /* The session with the other host; NULL: there is none. */
    const GwLane *(*lane)(const GwMove *move);
    void (*free)(GwMove *move);
} GwMoveRole;

typedef void (*GwMoveEndFn)(const GError *error, void *data);

struct GwMove {
    GwMoves *moves;
    const GwMoveRole *role;
    char *id;
    char *vm_name;
    char *peer;         /* the other host */
    int64_t generation; /* of the owner record before the move */
    GwMoveState state;
    json_t *record;   /* as in migrate.h */
    int64_t heard_us; /* the other host, in sessions that are over; at first: when we were made */

    /* The mover's. */
    json_t *next_record; /* being written; NULL otherwise */
    GwMoveState next_state;
    GwStoreTxnFn begun; /* told once of the first record, nullable */
    void *begun_data;
    GwMoveEndFn ended_fn; /* told once of the end, or that its record was not written; nullable */
    void *ended_data;
    GQueue events; /* of PendingEvent, waiting for the write */
    bool draining;
    guint timer;
    guint store_retry;
    unsigned calls;                  /* of GwVms that have yet to report: the move has to stay */
    void (*discarded)(GwMove *move); /* told when the VM is gone, nullable */
    guint discard_retry;
    bool ended;      /* observers know */
    int64_t told_us; /* when observers last heard of progress */

    void *side; /* the role's own */
};

struct GwMoves {
    GwMovesOptions options; /* strings owned */
    const GwHostCaps *caps; /* NULL until the probe is done */
    GHashTable *by_id;      /* id → GwMove, owning */
    GQueue order;           /* of GwMove, oldest first */
    GPtrArray *observers;
    GPtrArray *plans;    /* of GwPlan: dry runs under way (moves.c), owning */
    GPtrArray *visitors; /* of GwVisitor: sessions without a move (visitor.c), owning */
    GPtrArray *answers;  /* of Answer: owed to callers (moves.c), owning */
    bool is_loaded;      /* the records are known; before, no session is served */
    guint prune;
    GwMovesJsonFn loaded;
    void *loaded_data;
};

/* --- moves.c ---------------------------------------------------------------------------------- */

GwMove *gw_moves_find(GwMoves *moves, const char *id);
void gw_moves_add(GwMoves *moves, GwMove *move); /* transfer full */
void gw_moves_notify(GwMoves *moves, const char *event, GwMove *move);
void gw_moves_prune(GwMoves *moves);
/* The move, not yet final, that holds this VM; NULL if none. */
GwMove *gw_moves_busy_with(GwMoves *moves, const char *vm_name);
unsigned gw_moves_count_incoming(GwMoves *moves);
/* The VM of that name if it is this host's own with this generation; NULL otherwise. */
GwVm *gw_moves_find_owned(GwMoves *moves, const char *vm_name, int64_t generation);

/* --- move.c ----------------------------------------------------------------------------------- */

/* @record: transfer full; has id, vm, source, target, role, state, generation. */
GwMove *gw_move_new(GwMoves *moves, const GwMoveRole *role, json_t *record) GW_MUST_USE;
void gw_move_free(GwMove *move);

/* Writes the first record, then does the first state's work. @written may be NULL. */
void gw_move_begin(GwMove *move, GwStoreTxnFn written, void *data);

/* The mover. Never frees the move; may be called from anywhere, also from a role's enter(). */
void gw_move_event(GwMove *move, GwMoveEvent event, const GError *reason);

/* The same with a message made here. */
void gw_move_fail(GwMove *move, GwMoveEvent event, GwErrorCode code, const char *format, ...)
    GW_PRINTF(4, 5);

bool gw_move_is_final(const GwMove *move);
GwLogFields gw_move_log_fields(const GwMove *move);
/* QEMU's event. */
void gw_move_log_status(const GwMove *move, const char *status);

/* GwVms has reported: one of move->calls less. */
void gw_move_call_done(GwMove *move);

/* Writes the record of a final move again. */
void gw_move_save(GwMove *move);

/*
 * Removes the VM that the move holds from this host, again and again until it is gone, then calls
 * @discarded (nullable). Observers hear of the move's end when the first try has ended.
 */
void gw_move_discard_vm(GwMove *move, void (*discarded)(GwMove *move));

/* Refreshes the figures and tells the observers; at most 5 times a second. */
void gw_move_progress(GwMove *move);

/* LANE while "auto" is not decided. */
GwTransport gw_move_transport(const GwMove *move);
/* Its stream goes from QEMU to QEMU: no daemon sees a page, refers to one or has a digest. */
bool gw_move_is_by_qemu(const GwMove *move);

/* The VM of the move as long as the move holds it; NULL otherwise. */
GwVm *gw_move_vm(GwMove *move);
/* The monitor of its QEMU on this host; NULL: there is none. */
GwQmp *gw_move_qmp(GwMove *move);

/* --- lost.c ----------------------------------------------------------------------------------- */

/* A step's @record gets the process that has what is left of the guest here. */
void gw_move_note_half(GwMove *move, json_t *record);
/* Ends it, if @vm's QEMU still is the one that the record names. NULL is fine. */
void gw_move_end_half(GwMove *move, GwVm *vm);
/* Before its session is dropped: when the other host was last heard. */
void gw_move_note_heard(GwMove *move);
/* By its state. */
bool gw_move_is_abandonable(const GwMove *move);
/* GW_ERROR_STATE, or GW_ERROR_INVALID for want of the operator's word (migrate.h). */
bool gw_move_may_abandon(const GwMove *move, bool peer_is_off, GError **error) GW_MUST_USE;
/* After gw_move_may_abandon(). */
void gw_move_abandon(GwMove *move, GwMoveEndFn ended, void *data);

/* --- plain.c ---------------------------------------------------------------------------------- */

/* Whether this host's plain-networks have it; GW_ERROR_REFUSED says where it is missing. */
bool gw_plain_is_allowed(const GwMovesOptions *options, const struct sockaddr_storage *address,
                         GError **error) GW_MUST_USE;

/* Told once, from the main loop: the connection (transfer full) or why there is none. */
typedef void (*GwPlainFn)(GwFd fd, const GError *error, void *data);

/* Target: waits at the address @at for the source. */
typedef struct GwPlainDoor GwPlainDoor;
GwPlainDoor *gw_plain_door_new(GwMove *move, const struct sockaddr_storage *at, GwPlainFn done,
                               void *data, GError **error) GW_MUST_USE;
/* What the source has to know. Key: borrowed. */
const char *gw_plain_door_key(const GwPlainDoor *door);
uint16_t gw_plain_door_port(const GwPlainDoor *door);
/* Also from within its callback. NULL is fine. */
void gw_plain_door_free(GwPlainDoor *door);

/* Source: connects and shows the key. */
typedef struct GwPlainCall GwPlainCall;
GwPlainCall *gw_plain_call_new(GwMove *move, const struct sockaddr_storage *to, const char *key,
                               GwPlainFn done, void *data, GError **error) GW_MUST_USE;
/* Also from within its callback. NULL is fine. */
void gw_plain_call_free(GwPlainCall *call);

/* --- roles ------------------------------------------------------------------------------------ */

extern const GwMoveRole gw_source_role;
extern const GwMoveRole gw_target_role;

/* Sends {"service": "move", "do": @what, "move": id} with the members of @extra (transfer full,
 * nullable); failures end with the session, which tells of itself. */
void gw_move_send(GwMove *move, GwLane *lane, const char *what, json_t *extra);

/* --- source_qemu.c ---------------------------------------------------------------------------- */

typedef struct GwSource {
    GwMove *move;
    GwLane *lane; /* NULL while there is none */
    struct GwCheckRun *checks;
    guint reconnect;
    json_t *door;            /* by QEMU only: the target's {"port", "psk"} */
    GwPlainCall *plain_call; /* under way */

    /* References. */
    GwRefProbe *ref_probe;   /* under way */
    guint ref_wait;          /* everything else is ready */
    json_t *ref_offers;      /* NULL: none */
    GwRefSource *references; /* until the lane has it */
    GwVisitWriter *visit;    /* NULL: its memory is not kept */

    /* QEMU's side. */
    bool observing;
    guint poll;
    guint bring_back;
    int64_t asked_us; /* when the try to bring back that is under way began, 0: none is */
    guint failure_wait;
    GError *failure; /* QEMU's, told when failure_wait has passed */
    bool qemu_completed;
    bool stream_ended;
    bool stop_seen;
    struct {            /* source_post.c */
        GwFd listen_fd; /* for QEMU */
        guint watch;
        unsigned n_sockets;
        unsigned n_accepted;
        bool streams;      /* the session carries QEMU's channels */
        bool peer_listens; /* the target's QEMU waits for ours to resume */
        bool paused;       /* the guest, by us */
        bool continued;    /* QEMU was told to let go */
        bool told_failure;
        int64_t waits_us; /* since when the target is waited for */
    } post;
    int64_t downtime_limit_ms; /* the last one given to QEMU */
    uint64_t threshold;        /* ... and what it may have left then; 0: by its own estimate */
    GwSwitchover switchover;
    unsigned looks;        /* since the first round ended */
    uint64_t left_bytes;   /* in QEMU */
    uint64_t best_bytes_s; /* that QEMU has sent for a while */
    uint64_t told_bytes_s; /* what it was told of that; 0: nothing */
    int64_t started_us;
    int64_t stopped_us;
    int64_t running_us;
    int64_t qemu_cpu_us; /* when it started */
    GwProgress progress;
    struct GwSourceVerify *verify; /* NULL: no comparison is under way */
    bool verified;                 /* ... it has ended, and all was the same */
    json_t *ram;                   /* QEMU's last figures */
    GwLaneStats ended_stats;       /* of all sessions that are over */
} GwSource;

/* From the beginning: QEMU's end is told by QEMU_GONE. */
void gw_source_qemu_observe(GwSource *source);
/* PREPARED: gives QEMU its capabilities, parameters and the socket, and starts it. */
void gw_source_qemu_start(GwSource *source);
/* PRECOPY: figures, downtime ladder. */
void gw_source_qemu_watch(GwSource *source);
/* SWITCHOVER: lets QEMU send the rest. */
void gw_source_qemu_continue(GwSource *source);
/* ROLLING_BACK, CANCELLING: until the guest runs or QEMU is gone. */
void gw_source_qemu_bring_back(GwSource *source);
/* After the target's word: QEMU's last figures, then PEER_RUNNING. */
void gw_source_qemu_finish(GwSource *source);
/* No callback of QEMU reaches the move afterwards. */
void gw_source_qemu_leave(GwSource *source);
/* One more part of the stream's end is there. */
void gw_source_check_sent(GwSource *source);

/* --- source.c: for source_post.c and source_abandoned.c -----------------------------------------
 */

void gw_source_connect(GwSource *source);
/* Unless that is to happen already. */
void gw_source_connect_later(GwSource *source, guint ms);
/* Drops the session and opens another one soon. */
void gw_source_reconnect(GwSource *source);
void gw_source_send_given_up(GwSource *source);

/* --- source_abandoned.c ------------------------------------------------------------------------
 */

/* ABANDONED, and the target does not know yet. */
bool gw_source_owes_word(const GwMove *move);
/* Until it does, should it come back. */
void gw_source_tell_taken_back(GwMove *move);
void gw_source_tell_later(GwSource *source);
/* The target says "let-go", or why not. */
void gw_source_let_go(GwSource *source);
void gw_source_not_let_go(GwSource *source, const GError *error);

/* --- source_post.c ---------------------------------------------------------------------------- */

/* In place of a descriptor: a socket for QEMU, and the command to migrate over it. */
bool gw_source_post_start(GwSource *source, GwQmp *qmp, GwQmpReplyFn started,
                          GError **error) GW_MUST_USE;
/* PRECOPY: raises POSTCOPY_WANTED when the move's mode says so. */
void gw_source_post_consider(GwSource *source);
/* PAUSING. */
void gw_source_post_pause(GwSource *source);
/* POSTCOPY. */
void gw_source_post_enter(GwSource *source);
void gw_source_post_look(GwSource *source, const char *status);
/* ... which has paused the post-copy just now. */
void gw_source_post_paused(GwSource *source);
/* The target says "fetching" or "resume". */
void gw_source_post_heard(GwSource *source, const char *what);
/* The session is gone, and with it what belonged to it. */
void gw_source_post_close(GwSource *source);
/* --- verify_source.c -------------------------------------------------------------------------- */

/* What the comparison may add to the time that SWITCHOVER has. */
int64_t gw_verify_timeout_ms(uint64_t memory_bytes);
/* Asked for and not done: it comes before STREAM_SENT. */
bool gw_source_verify_is_due(const GwSource *source);
/* Once QEMU has sent everything. Ends by gw_source_check_sent() or FAILED. Again: no effect. */
void gw_source_verify_begin(GwSource *source);
/* The target's "verified". */
void gw_source_verify_answer(GwSource *source, const json_t *message);
void gw_source_verify_free(GwSource *source);

/* --- target.c --------------------------------------------------------------------------------- */

/* To the source, which took the VM back: why it is not gone. */
GError *gw_target_copy_stays(GwMoves *moves, GwVm *copy) GW_MUST_USE;

typedef struct GwTarget {
    GwMove *move;
    GwLane *lane;    /* NULL while there is none */
    json_t *prepare; /* the source's message; NULL for a move that this host does not know */
    int stream_fd;   /* our end of the socket to QEMU, until the lane has it */
    char *key;       /* by QEMU only, as the two below */
    uint16_t port;
    uint16_t next_port;
    GwPlainDoor *door; /* open; NULL: it is not */
    GwRefProbe *ref_probe;
    guint ref_wait;      /* QEMU is ready */
    json_t *ref_taken;   /* what is told to the source */
    GwRefTarget *images; /* until the lane has them */
    GwPlacer *placer;    /* until the lane has it; NULL: pages go through QEMU's loader */
    GwVisitTags *tags;   /* NULL: how the memory came is not noted */
    bool observing;
    bool loaded;        /* QEMU has loaded the whole stream */
    bool stream_whole;  /* ... and the lane's digests agree */
    bool given_up;      /* the source's word */
    bool taken_back;    /* ... after which it was told that this host is off */
    bool never_started; /* entered ACCEPTED in this process and has not sent the start yet */
    bool first_start;   /* the start under way is the first: if QEMU says no, it has not run */
    char *start_error;  /* what QEMU said to it */
    int64_t started_us;
    int64_t given_up_us; /* when the source's word came */
    guint refuse_timer;
    struct {        /* target_post.c */
        char *path; /* QEMU's socket */
        unsigned n_sockets;
        guint timer;
        bool streams;  /* the session carries QEMU's channels */
        bool loaded;   /* what the guest needs to run; its pages may still be on the source */
        bool known;    /* QEMU has said how it stands: */
        bool whole;    /* ... all pages are here */
        bool paused;   /* ... the post-copy is paused */
        bool recovers; /* QEMU was told to listen anew and has not answered */
        bool asks;     /* QEMU was asked for its status and has not answered */
        GwSpare *spare;
    } post;
    struct GwRamHash *hash; /* once the source has asked for hashes of the memory */
    bool hash_is_ready;
    json_t *verify;          /* the source's question, not answered; NULL: none */
    bool verifying;          /* it is being answered */
    GwLaneStats ended_stats; /* of all sessions that are over */
} GwTarget;

/* HANDED_TO_US if all is there that it takes. */
void gw_target_check_handed(GwTarget *target);
/* QEMU does: READY, as soon as the disks that the source offers to refer to were looked at. */
void gw_target_listens(GwTarget *target);

/* The source's session, new or again after the old one died. Lane: transfer full. */
void gw_target_take_session(GwMove *move, GwLane *lane, json_t *first_message);
/* What it has counted is kept. */
void gw_target_drop_session(GwTarget *target);
void gw_target_set_prepare(GwMove *move, const json_t *message);

/* --- target_qemu.c ---------------------------------------------------------------------------- */

/* PREPARING: has it listen. Ends by gw_target_listens() or READY, or FAILED. */
void gw_target_qemu_listen(GwTarget *target, GwVm *vm);
/* Whether it has loaded the stream: told by an event, which a monitor opened anew has lost. */
void gw_target_qemu_ask_loaded(GwTarget *target);
/* ACCEPTED. Again: no harm. */
void gw_target_qemu_start(GwTarget *target);
/* Its end and its events reach the move from here on. */
void gw_target_qemu_observe(GwTarget *target, GwVm *vm);
/* No callback of QEMU, and no timer for it, reaches the move afterwards. */
void gw_target_qemu_leave(GwTarget *target);

/* --- target_post.c ---------------------------------------------------------------------------- */

bool gw_target_post_listen(GwTarget *target, GwQmp *qmp, GError **error) GW_MUST_USE;
bool gw_target_post_receive(GwTarget *target, GError **error) GW_MUST_USE;
/* QEMU has entered post-copy: looks until the guest could run. */
void gw_target_post_await_load(GwTarget *target);
/* ACCEPTED or FETCHING, perhaps of a daemon before this one: gets ready what recovery takes. */
void gw_target_post_stand_by(GwTarget *target);
/* The guest was started: GUEST_FETCHING, or GUEST_RUNNING if all pages are here. */
void gw_target_post_started(GwTarget *target);
/* FETCHING. */
void gw_target_post_fetch(GwTarget *target);
/* QEMU says that its migration has this status. */
void gw_target_post_look(GwTarget *target, const char *status);
/* There is a new session: QEMU may wait for it. */
void gw_target_post_consider(GwTarget *target);
void gw_target_post_leave(GwTarget *target);

/* --- post_socket.c ---------------------------------------------------------------------------- */

#define GW_MODE_PRE_COPY  "pre-copy"
#define GW_MODE_POST_COPY "post-copy"
#define GW_MODE_HYBRID    "hybrid"

/* Passes over memory after which a move of that mode switches. */
#define GW_POST_AFTER_ROUND   1
#define GW_HYBRID_AFTER_ROUND 5

bool gw_mode_is_valid(const char *mode);
/* Its mode is not pre-copy. */
bool gw_move_may_post(const GwMove *move);
/* A path for a socket that QEMU may make or connect to. Transfer full. */
char *gw_post_socket_path(GwMove *move, unsigned number, GError **error) GW_MUST_USE;
void gw_post_remove_sockets(GwMove *move);
/* Is the process at the other end of @fd the VM's QEMU? */
bool gw_post_is_qemu(GwMove *move, int fd, GError **error) GW_MUST_USE;
GwFd gw_post_connect(GwMove *move, const char *path, GError **error) GW_MUST_USE;
/* May this user's processes handle page faults, as the target of a post-copy has to? */
bool gw_post_may_fault(const char *qemu_user);

/* --- report.c --------------------------------------------------------------------------------- */

/* Puts what the lane has counted into @record; nothing while it has sent nothing. */
void gw_report_lane(json_t *record, const GwLaneStats *stats);
/* Counts @session's figures in; what is not a count is then @session's. */
void gw_report_add(GwLaneStats *sum, const GwLaneStats *session);
/* All of @ended and, if there is one, the session's. */
GwLaneStats gw_report_sessions(const GwLaneStats *ended, GwLane *lane);
/* ... and what QEMU has used since @before_us (-1: not known). */
void gw_report_cpu(json_t *record, const GwVm *vm, int64_t before_us);
/* Source: what follows from all figures, once they are all there. */
void gw_report_derive(json_t *record);
/* The target's figures for its source's record. Transfer full. */
json_t *gw_report_for_source(const json_t *record) GW_MUST_USE;
/* ... and into it, as "at_target". @told may be anything. */
void gw_report_take_target(json_t *record, const json_t *told);

/* --- verify_target.c -------------------------------------------------------------------------- */

/* The source's "verify": answered when QEMU has loaded the guest. */
void gw_target_verify(GwTarget *target, json_t *message);
/* QEMU has loaded it. */
void gw_target_verify_loaded(GwTarget *target);
void gw_target_verify_free(GwTarget *target);

/* --- visitor.c -------------------------------------------------------------------------------- */

void gw_visitor_free(void *visitor);

/* --- direct.c --------------------------------------------------------------------------------- */

/* A fresh key for one move, hexadecimal. Transfer full. */
char *gw_direct_new_key(void) GW_MUST_USE;
/* Makes @user_name (NULL: nothing to do) the owner. */
bool gw_direct_give_to_qemu(const char *path, const char *user_name, GError **error) GW_MUST_USE;
/* Removes the key's file if there is one. */
void gw_direct_remove_key(GwMove *move);
/* Listens at the first free port for moves by QEMU, at the address @at or (NULL) all; nobody is let
 * in. GW_FD_NONE on failure. */
GwFd gw_direct_open_door(const GwMovesOptions *options, const struct sockaddr_storage *at,
                         uint16_t *port, GError **error) GW_MUST_USE;
/* Hands the key to QEMU as TLS credentials "gwpsk" for @endpoint ("server" | "client"). */
bool gw_direct_add_credentials(GwMove *move, const char *key, const char *endpoint,
                               GwQmpReplyFn reply, void *data, GError **error) GW_MUST_USE;
