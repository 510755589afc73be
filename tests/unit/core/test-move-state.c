// SPDX-License-Identifier: Apache-2.0
/*
 * The table of a move's states: every cell decided, every state left and entered, and the rules
 * that keep one copy of the guest.
 */
#include "core/move_state.h"

#include <glib.h>

#define FOR_EACH_CELL(state, event)                                                                \
    for (GwMoveState state = 0; state < GW_MOVE_N_STATES; state++)                                 \
        for (GwMoveEvent event = 0; event < GW_MOVE_N_EVENTS; event++)

static void
test_every_cell_is_decided(void)
{
    FOR_EACH_CELL(state, event)
    {
        if (gw_move_cell(state, event).verdict == GW_MOVE_UNDECIDED) {
            g_error("%s × %s is not decided", gw_move_state_info(state)->name,
                    gw_move_event_name(event));
        }
    }
}

static void
test_final_states_stay(void)
{
    FOR_EACH_CELL(state, event)
    {
        if (gw_move_state_info(state)->final) {
            g_assert_cmpint(gw_move_cell(state, event).verdict, ==, GW_MOVE_IGNORE);
            g_assert_nonnull(gw_move_state_info(state)->outcome);
        }
    }
}

static void
test_roles_do_not_mix(void)
{
    FOR_EACH_CELL(state, event)
    {
        GwMoveCell cell = gw_move_cell(state, event);
        if (cell.verdict == GW_MOVE_GO && cell.next != GW_MOVE_GUEST_LOST) {
            g_assert_cmpint(gw_move_state_info(state)->target, ==,
                            gw_move_state_info(cell.next)->target);
        }
    }
}

static void
mark_reachable(GwMoveState state, bool *reached)
{
    if (reached[state]) {
        return;
    }
    reached[state] = true;
    for (GwMoveEvent event = 0; event < GW_MOVE_N_EVENTS; event++) {
        GwMoveCell cell = gw_move_cell(state, event);
        if (cell.verdict == GW_MOVE_GO) {
            mark_reachable(cell.next, reached);
        }
    }
}

static void
test_every_state_is_reached(void)
{
    bool reached[GW_MOVE_N_STATES] = {false};

    for (GwMoveState state = 0; state < GW_MOVE_N_STATES; state++) {
        if (gw_move_state_info(state)->initial) {
            mark_reachable(state, reached);
        }
    }
    for (GwMoveState state = 0; state < GW_MOVE_N_STATES; state++) {
        g_assert_true(reached[state]);
    }
}

static bool
reaches_final(GwMoveState state)
{
    bool reached[GW_MOVE_N_STATES] = {false};

    mark_reachable(state, reached);
    for (GwMoveState other = 0; other < GW_MOVE_N_STATES; other++) {
        if (reached[other] && gw_move_state_info(other)->final) {
            return true;
        }
    }
    return false;
}

static void
test_every_state_has_a_way_out(void)
{
    for (GwMoveState state = 0; state < GW_MOVE_N_STATES; state++) {
        const GwMoveStateInfo *info = gw_move_state_info(state);
        g_assert_true(reaches_final(state));
        if (!info->final) {
            g_assert_true(info->timeout_ms > 0 || info->no_timeout_why);
            g_assert_cmpint(gw_move_cell(state, GW_MOVE_EVENT_RESTARTED).verdict, !=,
                            GW_MOVE_IGNORE);
        }
    }
}

/* The source comes back from the commit point by one event only. */
static void
test_the_commit_point(void)
{
    for (GwMoveEvent event = 0; event < GW_MOVE_N_EVENTS; event++) {
        GwMoveCell cell = gw_move_cell(GW_MOVE_HANDED_OVER, event);
        if (cell.verdict == GW_MOVE_GO && cell.next == GW_MOVE_ROLLING_BACK) {
            g_assert_cmpint(event, ==, GW_MOVE_EVENT_PEER_REFUSED);
        }
    }
    FOR_EACH_CELL(state, event)
    {
        GwMoveCell cell = gw_move_cell(state, event);
        if (cell.verdict == GW_MOVE_GO && cell.next == GW_MOVE_HANDED_OVER) {
            g_assert_cmpint(state, ==, GW_MOVE_SWITCHOVER);
            g_assert_cmpint(event, ==, GW_MOVE_EVENT_STREAM_SENT);
        }
        if (cell.verdict == GW_MOVE_GO && cell.next == GW_MOVE_ACCEPTED) {
            g_assert_cmpint(event, ==, GW_MOVE_EVENT_HANDED_TO_US);
        }
    }
    g_assert_true(gw_move_state_info(GW_MOVE_HANDED_OVER)->durable_first);
    g_assert_true(gw_move_state_info(GW_MOVE_ACCEPTED)->durable_first);
    g_assert_true(gw_move_state_info(GW_MOVE_REFUSED)->durable_first);
}

/* The operator's word ends what only the other host could, and never brings a guest back. */
static void
test_abandon(void)
{
    FOR_EACH_CELL(state, event)
    {
        GwMoveCell cell = gw_move_cell(state, event);
        bool source = state == GW_MOVE_HANDED_OVER || state == GW_MOVE_POSTCOPY;
        bool target = state == GW_MOVE_ACCEPTED || state == GW_MOVE_FETCHING;
        if (event == GW_MOVE_EVENT_ABANDON) {
            g_assert_cmpint(cell.verdict == GW_MOVE_GO, ==, source || target);
            g_assert_cmpint(cell.next, ==,
                            source   ? GW_MOVE_ABANDONED
                            : target ? GW_MOVE_GUEST_LOST
                                     : 0);
        } else if (cell.verdict == GW_MOVE_GO) {
            g_assert_cmpint(cell.next, !=, GW_MOVE_ABANDONED);
        }
        /* What it is to end must be on record before it is ended. */
        g_assert_true(gw_move_state_info(GW_MOVE_ABANDONED)->durable_first);
        g_assert_true(gw_move_state_info(GW_MOVE_GUEST_LOST)->durable_first);
    }
}

static void
test_names(void)
{
    for (GwMoveState state = 0; state < GW_MOVE_N_STATES; state++) {
        g_assert_cmpint(gw_move_state_from_name(gw_move_state_info(state)->name), ==, state);
    }
    g_assert_cmpint(gw_move_state_from_name("asleep"), ==, GW_MOVE_N_STATES);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/move-state/every-cell-is-decided", test_every_cell_is_decided);
    g_test_add_func("/move-state/final-states-stay", test_final_states_stay);
    g_test_add_func("/move-state/roles-do-not-mix", test_roles_do_not_mix);
    g_test_add_func("/move-state/every-state-is-reached", test_every_state_is_reached);
    g_test_add_func("/move-state/every-state-has-a-way-out", test_every_state_has_a_way_out);
    g_test_add_func("/move-state/the-commit-point", test_the_commit_point);
    g_test_add_func("/move-state/abandon", test_abandon);
    g_test_add_func("/move-state/names", test_names);
    return g_test_run();
}
