// SPDX-License-Identifier: Apache-2.0
/*
 * The states of a move and what every event does in every one of them. Pure; any thread.
 *
 * A move is a pair of records, one on each host, with a table for each role. The mover
 * (migrate/move.c) looks an event up in the table and does what the cell says; nothing else
 * changes a state. Every cell is decided.
 *
 * The commit point is the source's step into HANDED_OVER: the durable record "given up, generation
 * n+1 belongs to the target". Before it the source may always resume. After it the source resumes
 * only if the target has durably refused. The target starts the guest only from ACCEPTED, which it
 * enters after it was told of that record and has verified and loaded the whole stream.
 *
 *   source   planned → checked → prepared → precopy → switchover → handed-over → settled
 *            before handed-over:  → rolling-back → rolled-back,  → cancelling → cancelled
 *            handed-over, refused by the target: → rolling-back
 *            the guest's QEMU died: → guest-lost
 *            post-copy: precopy → pausing → postcopy → settled;  refused: → rolling-back
 *            handed-over, postcopy, the target is gone for good: → abandoned
 *   target   preparing → incoming → accepted → running;  before accepted: → refused
 *            post-copy: accepted → fetching → running
 *            accepted, and QEMU would not start it: → refused;  QEMU died: → guest-lost
 *
 * With post-copy the commit point is the step into POSTCOPY, which gives up as HANDED_OVER does. It
 * comes before QEMU lets go: the daemon has paused the guest itself (PAUSING), so a QEMU whose
 * switch fails does not resume it either. In FETCHING the guest runs on the target while pages
 * are still on the source: neither side alone has it, so a session that ends is begun again for as
 * long as it takes, and only the end of a QEMU on either side loses the guest, or the operator's
 * word that the other host is gone for good (ABANDON).
 *
 * ABANDONED takes the VM back, generation n+2, but not the guest: the target may have run it, and
 * then what this host still holds of it is older than its disks. So its QEMU is ended and the VM
 * can be started from its disks. It is entered only on the operator's word that the target's is
 * gone.
 *
 * Why exactly one copy runs, whatever dies when:
 *   - the source's guest runs only in states before SWITCHOVER and after a roll-back;
 *   - the target's guest runs only from ACCEPTED on, which needs the source's HANDED_OVER or
 *     POSTCOPY;
 *   - HANDED_OVER or POSTCOPY → ROLLING_BACK needs the target's REFUSED, which is final and
 * durable, and which it never enters once the guest may have run there.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef enum GwMoveState {
    GW_MOVE_PLANNED,
    GW_MOVE_CHECKED,
    GW_MOVE_PREPARED,
    GW_MOVE_PRECOPY,
    GW_MOVE_SWITCHOVER,
    GW_MOVE_PAUSING,
    GW_MOVE_POSTCOPY,
    GW_MOVE_HANDED_OVER,
    GW_MOVE_SETTLED,
    GW_MOVE_ROLLING_BACK,
    GW_MOVE_ROLLED_BACK,
    GW_MOVE_ABANDONED,
    GW_MOVE_CANCELLING,
    GW_MOVE_CANCELLED,
    /* Target. */
    GW_MOVE_PREPARING,
    GW_MOVE_INCOMING,
    GW_MOVE_ACCEPTED,
    GW_MOVE_FETCHING,
    GW_MOVE_RUNNING,
    GW_MOVE_REFUSED,
    /* Either. */
    GW_MOVE_GUEST_LOST,
    GW_MOVE_N_STATES,
} GwMoveState;

typedef enum GwMoveEvent {
    GW_MOVE_EVENT_CHECKS_PASSED,
    GW_MOVE_EVENT_CHECKS_FAILED,
    GW_MOVE_EVENT_READY,           /* source: the target's QEMU waits; target: ours waits */
    GW_MOVE_EVENT_STARTED,         /* source: QEMU sends */
    GW_MOVE_EVENT_GUEST_STOPPED,   /* source: converged, QEMU stopped the guest */
    GW_MOVE_EVENT_POSTCOPY_WANTED, /* source: by the move's mode, or the operator */
    GW_MOVE_EVENT_POSTCOPY_READY,  /* source: the guest is paused, QEMU waits for our word */
    GW_MOVE_EVENT_STREAM_SENT,     /* source: QEMU completed and all of it is on its way */
    GW_MOVE_EVENT_GUEST_RUNNING,   /* source: it runs here again; target: it runs here now */
    GW_MOVE_EVENT_PEER_RUNNING,    /* source: the target says that the guest runs there */
    GW_MOVE_EVENT_PEER_REFUSED,    /* source: the target has durably refused */
    GW_MOVE_EVENT_PEER_LOST,       /* source: the target started it and its QEMU died at once */
    GW_MOVE_EVENT_PEER_FAILED,     /* source: the target reports an error; target: source aborted */
    GW_MOVE_EVENT_HANDED_TO_US,    /* target: given up by the source, verified and loaded here */
    GW_MOVE_EVENT_GUEST_FETCHING,  /* target: it runs here and fetches pages from the source */
    GW_MOVE_EVENT_FETCHED,         /* target: all pages are here */
    GW_MOVE_EVENT_START_REFUSED,   /* target: QEMU would not start it, it has not run */
    GW_MOVE_EVENT_FAILED,          /* our QEMU or stream failed; the guest was not touched by it */
    GW_MOVE_EVENT_QEMU_GONE,       /* our QEMU process ended */
    GW_MOVE_EVENT_LINK_LOST,       /* the session with the other host ended */
    GW_MOVE_EVENT_STORE_FAILED,    /* a transition could not be written */
    GW_MOVE_EVENT_CANCEL,          /* the operator */
    GW_MOVE_EVENT_ABANDON,         /* the operator: the other host is gone for good */
    GW_MOVE_EVENT_TAKEN_BACK,      /* target: the source was told so, and owns the VM again */
    GW_MOVE_EVENT_TIMEOUT,         /* of the state */
    GW_MOVE_EVENT_RESTARTED,       /* the daemon was started again and finds this record */
    GW_MOVE_N_EVENTS,
} GwMoveEvent;

typedef enum GwMoveVerdict {
    GW_MOVE_UNDECIDED, /* a hole in the table: a defect, found by the unit test */
    GW_MOVE_IGNORE,    /* cannot matter any more, or is dealt with elsewhere (see the table) */
    GW_MOVE_AGAIN,     /* stay and do the state's work again */
    GW_MOVE_GO,        /* to `next` */
} GwMoveVerdict;

typedef struct GwMoveCell {
    GwMoveVerdict verdict;
    GwMoveState next; /* with GO */
} GwMoveCell;

typedef struct GwMoveStateInfo {
    const char *name;
    bool target; /* the role that has this state; GUEST_LOST: both, false */
    bool initial;
    bool final;
    const char *outcome; /* of a final state: completed, rolled-back, … */
    /*
     * The state's work waits until its record is durable, because the other host or a recovery
     * relies on it: a source's move that has ended is never taken up again, as its VM may be in a
     * later one. Where false, recovery from the earlier record does the same, and waiting would
     * only lengthen the downtime or block a roll-back on a full disk.
     */
    bool durable_first;
    int64_t timeout_ms; /* 0: none, for the reason in no_timeout_why */
    const char *no_timeout_why;
} GwMoveStateInfo;

const GwMoveStateInfo *gw_move_state_info(GwMoveState state);
const char *gw_move_event_name(GwMoveEvent event);
GwMoveCell gw_move_cell(GwMoveState state, GwMoveEvent event);

/* GW_MOVE_N_STATES for an unknown name. */
GwMoveState gw_move_state_from_name(const char *name);
