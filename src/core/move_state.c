// SPDX-License-Identifier: Apache-2.0
/*
 * The table of move_state.h. Pure data; cannot fail.
 */
#include "core/move_state.h"

#include <stddef.h>
#include <string.h>

static const GwMoveStateInfo states[GW_MOVE_N_STATES] = {
    /* Longer than the checks may take (migrate/check.h), which say what did not answer. */
    [GW_MOVE_PLANNED] = {"planned", .initial = true, .durable_first = true, .timeout_ms = 40000},
    [GW_MOVE_CHECKED] = {"checked", .durable_first = true, .timeout_ms = 60000},
    [GW_MOVE_PREPARED] = {"prepared", .durable_first = true, .timeout_ms = 30000},
    [GW_MOVE_PRECOPY] = {"precopy", .timeout_ms = 3600000},
    [GW_MOVE_SWITCHOVER] = {"switchover", .timeout_ms = 30000},
    [GW_MOVE_PAUSING] = {"pausing", .timeout_ms = 30000},
    /* Goes on every timeout: only the target's word ends it, or the end of a QEMU. */
    [GW_MOVE_POSTCOPY] = {"postcopy", .durable_first = true, .timeout_ms = 5000},
    /* Asks again every timeout: the answer, not the time, ends this state. */
    [GW_MOVE_HANDED_OVER] = {"handed-over", .durable_first = true, .timeout_ms = 5000},
    [GW_MOVE_SETTLED] = {"settled", .final = true, .outcome = "completed", .durable_first = true},
    /* Tries again every timeout: only a running guest or a dead QEMU ends these states. */
    [GW_MOVE_ROLLING_BACK] = {"rolling-back", .timeout_ms = 10000},
    [GW_MOVE_ROLLED_BACK] = {"rolled-back", .final = true, .outcome = "rolled-back",
                             .durable_first = true},
    [GW_MOVE_ABANDONED] = {"abandoned", .final = true, .outcome = "guest-lost",
                           .durable_first = true},
    [GW_MOVE_CANCELLING] = {"cancelling", .timeout_ms = 10000},
    [GW_MOVE_CANCELLED] = {"cancelled", .final = true, .outcome = "cancelled",
                           .durable_first = true},
    [GW_MOVE_PREPARING] = {"preparing", .target = true, .initial = true, .durable_first = true,
                           .timeout_ms = 60000},
    [GW_MOVE_INCOMING] = {"incoming", .target = true,
                          .no_timeout_why = "the source times the pre-copy; a dead source ends the "
                                            "session, and the wait for its word has a timer of its "
                                            "own (refuse-timeout)"},
    [GW_MOVE_ACCEPTED] = {"accepted", .target = true, .durable_first = true, .timeout_ms = 5000},
    [GW_MOVE_FETCHING] = {"fetching", .target = true,
                          .no_timeout_why = "the guest runs, and half of it is on the source: it "
                                            "fetches as long as the link takes"},
    [GW_MOVE_RUNNING] = {"running", .target = true, .final = true, .outcome = "completed"},
    [GW_MOVE_REFUSED] = {"refused", .target = true, .final = true, .outcome = "refused",
                         .durable_first = true},
    [GW_MOVE_GUEST_LOST] = {"guest-lost", .final = true, .outcome = "guest-lost",
                            .durable_first = true},
};

static const char *const event_names[GW_MOVE_N_EVENTS] = {
    [GW_MOVE_EVENT_CHECKS_PASSED] = "checks-passed",
    [GW_MOVE_EVENT_CHECKS_FAILED] = "checks-failed",
    [GW_MOVE_EVENT_READY] = "ready",
    [GW_MOVE_EVENT_STARTED] = "started",
    [GW_MOVE_EVENT_GUEST_STOPPED] = "guest-stopped",
    [GW_MOVE_EVENT_POSTCOPY_WANTED] = "postcopy-wanted",
    [GW_MOVE_EVENT_POSTCOPY_READY] = "postcopy-ready",
    [GW_MOVE_EVENT_STREAM_SENT] = "stream-sent",
    [GW_MOVE_EVENT_GUEST_RUNNING] = "guest-running",
    [GW_MOVE_EVENT_PEER_RUNNING] = "peer-running",
    [GW_MOVE_EVENT_PEER_REFUSED] = "peer-refused",
    [GW_MOVE_EVENT_PEER_LOST] = "peer-lost",
    [GW_MOVE_EVENT_PEER_FAILED] = "peer-failed",
    [GW_MOVE_EVENT_HANDED_TO_US] = "handed-to-us",
    [GW_MOVE_EVENT_GUEST_FETCHING] = "guest-fetching",
    [GW_MOVE_EVENT_FETCHED] = "fetched",
    [GW_MOVE_EVENT_START_REFUSED] = "start-refused",
    [GW_MOVE_EVENT_FAILED] = "failed",
    [GW_MOVE_EVENT_QEMU_GONE] = "qemu-gone",
    [GW_MOVE_EVENT_LINK_LOST] = "link-lost",
    [GW_MOVE_EVENT_STORE_FAILED] = "store-failed",
    [GW_MOVE_EVENT_CANCEL] = "cancel",
    [GW_MOVE_EVENT_ABANDON] = "abandon",
    [GW_MOVE_EVENT_TAKEN_BACK] = "taken-back",
    [GW_MOVE_EVENT_TIMEOUT] = "timeout",
    [GW_MOVE_EVENT_RESTARTED] = "restarted",
};

#define NO                                                                                         \
    {                                                                                              \
        GW_MOVE_IGNORE, 0                                                                          \
    }
#define AGAIN                                                                                      \
    {                                                                                              \
        GW_MOVE_AGAIN, 0                                                                           \
    }
#define GO(state)                                                                                  \
    {                                                                                              \
        GW_MOVE_GO, GW_MOVE_##state                                                                \
    }

/* Every way to fail before the commit point ends the same way: the guest runs on the source. */
#define SOURCE_CAN_STILL_ROLL_BACK                                                                 \
    [GW_MOVE_EVENT_CHECKS_FAILED] = GO(ROLLING_BACK),                                              \
    [GW_MOVE_EVENT_PEER_REFUSED] = GO(ROLLING_BACK),                                               \
    [GW_MOVE_EVENT_PEER_FAILED] = GO(ROLLING_BACK), [GW_MOVE_EVENT_FAILED] = GO(ROLLING_BACK),     \
    [GW_MOVE_EVENT_LINK_LOST] = GO(ROLLING_BACK), [GW_MOVE_EVENT_STORE_FAILED] = GO(ROLLING_BACK), \
    [GW_MOVE_EVENT_TIMEOUT] = GO(ROLLING_BACK), [GW_MOVE_EVENT_RESTARTED] = GO(ROLLING_BACK),      \
    [GW_MOVE_EVENT_CANCEL] = GO(CANCELLING), [GW_MOVE_EVENT_ABANDON] = NO,                         \
    [GW_MOVE_EVENT_QEMU_GONE] = GO(GUEST_LOST), /* A peer that claims this before it was given the \
                                                   guest lies: end the move. */                    \
        [GW_MOVE_EVENT_PEER_RUNNING] = GO(ROLLING_BACK),                                           \
    [GW_MOVE_EVENT_PEER_LOST] = GO(ROLLING_BACK)

/* Events of the other role cannot happen in this one. */
#define NOT_OF_THE_SOURCE                                                                          \
    [GW_MOVE_EVENT_HANDED_TO_US] = NO, [GW_MOVE_EVENT_START_REFUSED] = NO,                         \
    [GW_MOVE_EVENT_GUEST_FETCHING] = NO, [GW_MOVE_EVENT_FETCHED] = NO,                             \
    [GW_MOVE_EVENT_TAKEN_BACK] = NO
#define NO_POSTCOPY_NOW [GW_MOVE_EVENT_POSTCOPY_WANTED] = NO, [GW_MOVE_EVENT_POSTCOPY_READY] = NO
#define NOT_OF_THE_TARGET                                                                          \
    NO_POSTCOPY_NOW, [GW_MOVE_EVENT_CHECKS_PASSED] = NO, [GW_MOVE_EVENT_CHECKS_FAILED] = NO,       \
                     [GW_MOVE_EVENT_STARTED] = NO, [GW_MOVE_EVENT_GUEST_STOPPED] = NO,             \
                     [GW_MOVE_EVENT_STREAM_SENT] = NO, [GW_MOVE_EVENT_PEER_RUNNING] = NO,          \
                     [GW_MOVE_EVENT_PEER_REFUSED] = NO, [GW_MOVE_EVENT_PEER_LOST] = NO

/* While the guest is brought back nothing but its running, or its QEMU's death, counts. */
#define SOURCE_BRINGS_BACK(end)                                                                    \
    {                                                                                              \
        NOT_OF_THE_SOURCE, NO_POSTCOPY_NOW,                                                        \
            [GW_MOVE_EVENT_GUEST_RUNNING] = GO(end), [GW_MOVE_EVENT_QEMU_GONE] = GO(GUEST_LOST),   \
            [GW_MOVE_EVENT_TIMEOUT] = AGAIN, [GW_MOVE_EVENT_RESTARTED] = AGAIN,                    \
            [GW_MOVE_EVENT_FAILED] = NO, [GW_MOVE_EVENT_CHECKS_PASSED] = NO,                       \
            [GW_MOVE_EVENT_CHECKS_FAILED] = NO, [GW_MOVE_EVENT_READY] = NO,                        \
            [GW_MOVE_EVENT_STARTED] = NO, [GW_MOVE_EVENT_GUEST_STOPPED] = NO,                      \
            [GW_MOVE_EVENT_STREAM_SENT] = NO, [GW_MOVE_EVENT_PEER_RUNNING] = NO,                   \
            [GW_MOVE_EVENT_PEER_REFUSED] = NO, [GW_MOVE_EVENT_PEER_LOST] = NO,                     \
            [GW_MOVE_EVENT_PEER_FAILED] = NO, [GW_MOVE_EVENT_LINK_LOST] = NO,                      \
            [GW_MOVE_EVENT_STORE_FAILED] = NO, [GW_MOVE_EVENT_CANCEL] = NO,                        \
            [GW_MOVE_EVENT_ABANDON] = NO                                                           \
    }

#define NOTHING_MATTERS_ANY_MORE                                                                   \
    {                                                                                              \
        NOT_OF_THE_SOURCE,                                                                         \
            NOT_OF_THE_TARGET, [GW_MOVE_EVENT_READY] = NO, [GW_MOVE_EVENT_GUEST_RUNNING] = NO,     \
                               [GW_MOVE_EVENT_PEER_FAILED] = NO, [GW_MOVE_EVENT_FAILED] = NO,      \
                               [GW_MOVE_EVENT_QEMU_GONE] = NO, [GW_MOVE_EVENT_LINK_LOST] = NO,     \
                               [GW_MOVE_EVENT_STORE_FAILED] = NO, [GW_MOVE_EVENT_CANCEL] = NO,     \
                               [GW_MOVE_EVENT_ABANDON] = NO, [GW_MOVE_EVENT_TIMEOUT] = NO,         \
                               [GW_MOVE_EVENT_RESTARTED] = NO                                      \
    }

static const GwMoveCell cells[GW_MOVE_N_STATES][GW_MOVE_N_EVENTS] = {
    [GW_MOVE_PLANNED] =
        {
            SOURCE_CAN_STILL_ROLL_BACK,
            NOT_OF_THE_SOURCE,
            NO_POSTCOPY_NOW,
            [GW_MOVE_EVENT_CHECKS_PASSED] = GO(CHECKED),
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_STARTED] = NO,
            [GW_MOVE_EVENT_GUEST_STOPPED] = NO,
            [GW_MOVE_EVENT_STREAM_SENT] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    [GW_MOVE_CHECKED] =
        {
            SOURCE_CAN_STILL_ROLL_BACK,
            NOT_OF_THE_SOURCE,
            NO_POSTCOPY_NOW,
            [GW_MOVE_EVENT_CHECKS_PASSED] = NO,
            [GW_MOVE_EVENT_READY] = GO(PREPARED),
            [GW_MOVE_EVENT_STARTED] = NO,
            [GW_MOVE_EVENT_GUEST_STOPPED] = NO,
            [GW_MOVE_EVENT_STREAM_SENT] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    [GW_MOVE_PREPARED] =
        {
            SOURCE_CAN_STILL_ROLL_BACK,
            NOT_OF_THE_SOURCE,
            NO_POSTCOPY_NOW,
            [GW_MOVE_EVENT_CHECKS_PASSED] = NO,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_STARTED] = GO(PRECOPY),
            /* A small guest may converge before QEMU's answer to the start was read. */
            [GW_MOVE_EVENT_GUEST_STOPPED] = GO(SWITCHOVER),
            [GW_MOVE_EVENT_STREAM_SENT] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    [GW_MOVE_PRECOPY] =
        {
            SOURCE_CAN_STILL_ROLL_BACK,
            NOT_OF_THE_SOURCE,
            [GW_MOVE_EVENT_POSTCOPY_WANTED] = GO(PAUSING),
            [GW_MOVE_EVENT_POSTCOPY_READY] = NO,
            [GW_MOVE_EVENT_CHECKS_PASSED] = NO,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_STARTED] = NO,
            [GW_MOVE_EVENT_GUEST_STOPPED] = GO(SWITCHOVER),
            [GW_MOVE_EVENT_STREAM_SENT] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    [GW_MOVE_SWITCHOVER] =
        {
            SOURCE_CAN_STILL_ROLL_BACK,
            NOT_OF_THE_SOURCE,
            NO_POSTCOPY_NOW,
            [GW_MOVE_EVENT_CHECKS_PASSED] = NO,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_STARTED] = NO,
            [GW_MOVE_EVENT_GUEST_STOPPED] = NO,
            [GW_MOVE_EVENT_STREAM_SENT] = GO(HANDED_OVER),
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    [GW_MOVE_PAUSING] =
        {
            SOURCE_CAN_STILL_ROLL_BACK,
            NOT_OF_THE_SOURCE,
            [GW_MOVE_EVENT_POSTCOPY_WANTED] = NO,
            [GW_MOVE_EVENT_POSTCOPY_READY] = GO(POSTCOPY),
            /* QEMU converged before the guest was paused. */
            [GW_MOVE_EVENT_GUEST_STOPPED] = GO(SWITCHOVER),
            [GW_MOVE_EVENT_CHECKS_PASSED] = NO,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_STARTED] = NO,
            [GW_MOVE_EVENT_STREAM_SENT] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    /* Given up; this host's QEMU goes on to send pages until the target has all of them. */
    [GW_MOVE_POSTCOPY] =
        {
            NOT_OF_THE_SOURCE,
            NO_POSTCOPY_NOW,
            [GW_MOVE_EVENT_PEER_RUNNING] = GO(SETTLED),
            [GW_MOVE_EVENT_PEER_REFUSED] = GO(ROLLING_BACK),
            [GW_MOVE_EVENT_PEER_LOST] = GO(GUEST_LOST),
            [GW_MOVE_EVENT_PEER_FAILED] = NO,
            [GW_MOVE_EVENT_LINK_LOST] = AGAIN,
            [GW_MOVE_EVENT_TIMEOUT] = AGAIN,
            [GW_MOVE_EVENT_RESTARTED] = AGAIN,
            /* The target is told: it alone knows whether it still needs this host's pages. */
            [GW_MOVE_EVENT_QEMU_GONE] = AGAIN,
            [GW_MOVE_EVENT_FAILED] = AGAIN,
            [GW_MOVE_EVENT_STORE_FAILED] = NO,
            [GW_MOVE_EVENT_CANCEL] = NO,
            [GW_MOVE_EVENT_ABANDON] = GO(ABANDONED),
            [GW_MOVE_EVENT_CHECKS_PASSED] = NO,
            [GW_MOVE_EVENT_CHECKS_FAILED] = NO,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_STARTED] = NO,
            [GW_MOVE_EVENT_GUEST_STOPPED] = NO,
            [GW_MOVE_EVENT_STREAM_SENT] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    /* The guest is not ours any more: only the target's word counts, and it is asked for again. */
    [GW_MOVE_HANDED_OVER] =
        {
            NOT_OF_THE_SOURCE,
            NO_POSTCOPY_NOW,
            [GW_MOVE_EVENT_PEER_RUNNING] = GO(SETTLED),
            [GW_MOVE_EVENT_PEER_REFUSED] = GO(ROLLING_BACK),
            [GW_MOVE_EVENT_PEER_LOST] = GO(GUEST_LOST),
            /* Not at once: a target that answers so to every question would keep us busy. */
            [GW_MOVE_EVENT_PEER_FAILED] = NO,
            [GW_MOVE_EVENT_LINK_LOST] = AGAIN,
            [GW_MOVE_EVENT_TIMEOUT] = AGAIN,
            [GW_MOVE_EVENT_RESTARTED] = AGAIN,
            [GW_MOVE_EVENT_QEMU_GONE] = NO,
            [GW_MOVE_EVENT_FAILED] = NO,
            [GW_MOVE_EVENT_STORE_FAILED] = NO,
            [GW_MOVE_EVENT_CANCEL] = NO,
            [GW_MOVE_EVENT_ABANDON] = GO(ABANDONED),
            [GW_MOVE_EVENT_CHECKS_PASSED] = NO,
            [GW_MOVE_EVENT_CHECKS_FAILED] = NO,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_STARTED] = NO,
            [GW_MOVE_EVENT_GUEST_STOPPED] = NO,
            [GW_MOVE_EVENT_STREAM_SENT] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
        },
    [GW_MOVE_SETTLED] = NOTHING_MATTERS_ANY_MORE,
    [GW_MOVE_ROLLING_BACK] = SOURCE_BRINGS_BACK(ROLLED_BACK),
    [GW_MOVE_ROLLED_BACK] = NOTHING_MATTERS_ANY_MORE,
    [GW_MOVE_ABANDONED] = NOTHING_MATTERS_ANY_MORE,
    [GW_MOVE_CANCELLING] = SOURCE_BRINGS_BACK(CANCELLED),
    [GW_MOVE_CANCELLED] = NOTHING_MATTERS_ANY_MORE,

    [GW_MOVE_PREPARING] =
        {
            NOT_OF_THE_TARGET,
            [GW_MOVE_EVENT_GUEST_FETCHING] = NO,
            [GW_MOVE_EVENT_FETCHED] = NO,
            [GW_MOVE_EVENT_READY] = GO(INCOMING),
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
            [GW_MOVE_EVENT_HANDED_TO_US] = NO,
            [GW_MOVE_EVENT_START_REFUSED] = NO,
            [GW_MOVE_EVENT_PEER_FAILED] = GO(REFUSED),
            [GW_MOVE_EVENT_FAILED] = GO(REFUSED),
            [GW_MOVE_EVENT_QEMU_GONE] = GO(REFUSED),
            [GW_MOVE_EVENT_LINK_LOST] = GO(REFUSED),
            [GW_MOVE_EVENT_STORE_FAILED] = GO(REFUSED),
            [GW_MOVE_EVENT_CANCEL] = GO(REFUSED),
            [GW_MOVE_EVENT_ABANDON] = NO,
            [GW_MOVE_EVENT_TAKEN_BACK] = GO(REFUSED),
            [GW_MOVE_EVENT_TIMEOUT] = GO(REFUSED),
            [GW_MOVE_EVENT_RESTARTED] = GO(REFUSED),
        },
    [GW_MOVE_INCOMING] =
        {
            NOT_OF_THE_TARGET,
            [GW_MOVE_EVENT_GUEST_FETCHING] = NO,
            [GW_MOVE_EVENT_FETCHED] = NO,
            [GW_MOVE_EVENT_HANDED_TO_US] = GO(ACCEPTED),
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
            [GW_MOVE_EVENT_START_REFUSED] = NO,
            [GW_MOVE_EVENT_PEER_FAILED] = GO(REFUSED),
            [GW_MOVE_EVENT_FAILED] = GO(REFUSED),
            [GW_MOVE_EVENT_QEMU_GONE] = GO(REFUSED),
            /* Only sent when the stream was whole: the source may still say that it gave up. */
            [GW_MOVE_EVENT_LINK_LOST] = NO,
            /* ACCEPTED could not be written, so nothing was started: refusing is still safe. */
            [GW_MOVE_EVENT_STORE_FAILED] = GO(REFUSED),
            [GW_MOVE_EVENT_CANCEL] = GO(REFUSED),
            [GW_MOVE_EVENT_ABANDON] = NO,
            [GW_MOVE_EVENT_TAKEN_BACK] = GO(REFUSED),
            [GW_MOVE_EVENT_TIMEOUT] = GO(REFUSED),
            [GW_MOVE_EVENT_RESTARTED] = GO(REFUSED),
        },
    /*
     * Ours. Starting it again when it runs already does no harm. START_REFUSED is raised only by
     * the daemon that entered this state: after a restart nobody knows whether it has run.
     */
    [GW_MOVE_ACCEPTED] =
        {
            NOT_OF_THE_TARGET,
            [GW_MOVE_EVENT_GUEST_FETCHING] = GO(FETCHING),
            [GW_MOVE_EVENT_FETCHED] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = GO(RUNNING),
            [GW_MOVE_EVENT_START_REFUSED] = GO(REFUSED),
            [GW_MOVE_EVENT_QEMU_GONE] = GO(GUEST_LOST),
            [GW_MOVE_EVENT_TIMEOUT] = AGAIN,
            [GW_MOVE_EVENT_RESTARTED] = AGAIN,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_HANDED_TO_US] = NO,
            [GW_MOVE_EVENT_PEER_FAILED] = NO,
            [GW_MOVE_EVENT_FAILED] = NO,
            [GW_MOVE_EVENT_LINK_LOST] = NO,
            [GW_MOVE_EVENT_STORE_FAILED] = NO,
            [GW_MOVE_EVENT_CANCEL] = NO,
            /* Only of a post-copy (migrate/lost.c): it may wait for pages already. */
            [GW_MOVE_EVENT_ABANDON] = GO(GUEST_LOST),
            [GW_MOVE_EVENT_TAKEN_BACK] = GO(GUEST_LOST),
        },
    /*
     * It runs here, and what it lacks is on the source. A source that aborts now has lost it. Not
     * written when it is entered: ACCEPTED leads here again.
     */
    [GW_MOVE_FETCHING] =
        {
            NOT_OF_THE_TARGET,
            [GW_MOVE_EVENT_FETCHED] = GO(RUNNING),
            [GW_MOVE_EVENT_PEER_FAILED] = GO(GUEST_LOST),
            [GW_MOVE_EVENT_QEMU_GONE] = GO(GUEST_LOST),
            [GW_MOVE_EVENT_RESTARTED] = AGAIN,
            [GW_MOVE_EVENT_LINK_LOST] = NO,
            [GW_MOVE_EVENT_GUEST_RUNNING] = NO,
            [GW_MOVE_EVENT_GUEST_FETCHING] = NO,
            [GW_MOVE_EVENT_START_REFUSED] = NO,
            [GW_MOVE_EVENT_READY] = NO,
            [GW_MOVE_EVENT_HANDED_TO_US] = NO,
            [GW_MOVE_EVENT_FAILED] = NO,
            [GW_MOVE_EVENT_STORE_FAILED] = NO,
            [GW_MOVE_EVENT_CANCEL] = NO,
            [GW_MOVE_EVENT_ABANDON] = GO(GUEST_LOST),
            [GW_MOVE_EVENT_TAKEN_BACK] = GO(GUEST_LOST),
            [GW_MOVE_EVENT_TIMEOUT] = NO,
        },
    [GW_MOVE_RUNNING] = NOTHING_MATTERS_ANY_MORE,
    [GW_MOVE_REFUSED] = NOTHING_MATTERS_ANY_MORE,
    [GW_MOVE_GUEST_LOST] = NOTHING_MATTERS_ANY_MORE,
};

const GwMoveStateInfo *
gw_move_state_info(GwMoveState state)
{
    return &states[state];
}

const char *
gw_move_event_name(GwMoveEvent event)
{
    return event_names[event];
}

GwMoveCell
gw_move_cell(GwMoveState state, GwMoveEvent event)
{
    return cells[state][event];
}

GwMoveState
gw_move_state_from_name(const char *name)
{
    int state = 0;

    while (state < GW_MOVE_N_STATES && strcmp(states[state].name, name) != 0) {
        state++;
    }
    return (GwMoveState)state;
}
