// SPDX-License-Identifier: Apache-2.0
/*
 * Moves that end without their guest: what is left of it on this host is ended, and `migration
 * abandon`, the way out where the other host is gone for good.
 *
 * Without the other host a guest is never taken up again from memory. On the target pages are
 * missing. On the source all of them may be there, but they are older than the disks as soon as the
 * target has run the guest, and nobody is left who knows whether it has. Nor does this host know
 * whether the VM was started from its disks on the other one, which may have been told to abandon
 * the move, too: whoever abandons it says that it was not, and will not be.
 *
 * Main context. Owns nothing; what is to be ended is in the record, by process, so that a crash
 * before it is ended does no harm, nor what was started later.
 */
#include "base/units.h"
#include "migrate/internal.h"

/* Of a record: the process that has what is left of a lost guest, and is to end. */
#define HALF "half"

/* A peer that is connected is heard about every second; a session that ends is begun anew. */
#define PRESENT_US (5 * G_USEC_PER_SEC)

/* --- what is left ----------------------------------------------------------------------------- */

void
gw_move_note_half(GwMove *move, json_t *record)
{
    GwVm *vm = gw_move_vm(move);

    if (vm && gw_vm_state(vm) != GW_VM_STOPPED) {
        GwProcessId process = gw_vm_process(vm);

        json_object_set_new(record, HALF,
                            json_pack("{s:I, s:I}", "pid", (json_int_t)process.pid, "start_ticks",
                                      (json_int_t)process.start_ticks));
    }
}

static void
on_half_ended(GwVm *vm, const GError *error, void *data)
{
    GwMove *move = data;

    if (error) {
        GwLogFields fields = gw_move_log_fields(move);
        gw_err(&fields,
               "what is left of the guest here still runs: %s; end it with "
               "'godwit vm stop --force'",
               error->message);
    } else {
        json_object_del(move->record, HALF);
        gw_move_save(move);
    }
    gw_move_call_done(move);
}

/* Not by the VM's name alone: it may have been started from its disks since. */
static bool
is_half(const GwMove *move, GwVm *vm)
{
    const json_t *half = json_object_get(move->record, HALF);
    GwProcessId process = vm ? gw_vm_process(vm) : (GwProcessId){0};

    return half && process.pid > 0 && gw_json_int(half, "pid", 0) == process.pid &&
           (uint64_t)gw_json_int(half, "start_ticks", 0) == process.start_ticks;
}

void
gw_move_end_half(GwMove *move, GwVm *vm)
{
    if (is_half(move, vm)) {
        move->calls++;
        gw_vms_stop(move->moves->options.vms, vm, true, 0, on_half_ended, move);
    }
}

/* --- abandon ---------------------------------------------------------------------------------- */

bool
gw_move_is_abandonable(const GwMove *move)
{
    bool may = gw_move_cell(move->state, GW_MOVE_EVENT_ABANDON).verdict == GW_MOVE_GO;

    return may && (move->state != GW_MOVE_ACCEPTED || gw_move_may_post(move));
}

static int64_t
heard_us(const GwMove *move)
{
    const GwLane *lane = move->role->lane(move);
    bool lives = lane && gw_lane_peer_name(lane);

    return lives ? MAX(move->heard_us, gw_now_us() - gw_lane_silent_us(lane)) : move->heard_us;
}

void
gw_move_note_heard(GwMove *move)
{
    move->heard_us = heard_us(move);
}

static void
set_wrong_state(const GwMove *move, GError **error)
{
    const char *state = gw_move_state_info(move->state)->name;
    bool can_cancel = gw_move_cell(move->state, GW_MOVE_EVENT_CANCEL).verdict == GW_MOVE_GO;

    g_set_error(error, GW_ERROR, GW_ERROR_STATE, "move %s is not to be abandoned: it is %s%s%s",
                move->id, state,
                gw_move_is_final(move) ? ", and has ended"
                : can_cancel           ? "; cancel it: godwit migration cancel "
                                       : ", and ends by itself",
                can_cancel ? move->id : "");
}

bool
gw_move_may_abandon(const GwMove *move, bool peer_is_off, GError **error)
{
    if (!gw_move_is_abandonable(move)) {
        set_wrong_state(move, error);
        return false;
    }
    if (move->next_record) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "move %s is just taking its next step: look again", move->id);
        return false;
    }
    int64_t wait_us = heard_us(move) + PRESENT_US - gw_now_us();
    if (wait_us > 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE,
                    "move %s is not to be abandoned yet: host '%s' was heard, or this daemon was "
                    "started, less than %d s ago; wait for the move's end: godwit migration watch "
                    "%s; should that host stay silent, try again in %d s",
                    move->id, move->peer, (int)(PRESENT_US / G_USEC_PER_SEC), move->id,
                    (int)(wait_us / G_USEC_PER_SEC) + 1);
        return false;
    }
    if (!peer_is_off) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "VM '%s' may run on host '%s', which does not answer; --peer-is-off says that "
                    "it does not, and will not: that host is off, or cut off from the VM's disks, "
                    "and the VM was not moved on from there. If that is not true, two copies of "
                    "the VM write to the same disks as soon as it is started here",
                    move->vm_name, move->peer);
        return false;
    }
    return true;
}

void
gw_move_abandon(GwMove *move, GwMoveEndFn ended, void *data)
{
    move->ended_fn = ended;
    move->ended_data = data;
    gw_move_fail(move, GW_MOVE_EVENT_ABANDON, GW_ERROR_GUEST_LOST,
                 "VM '%s': abandoned on request, as host '%s' is said to be off, or cut off from "
                 "the VM's disks; what the guest had in memory is lost, and the VM can be started "
                 "again from its disks on host '%s': godwit vm start %s",
                 move->vm_name, move->peer, move->moves->options.host_name, move->vm_name);
}
