// SPDX-License-Identifier: Apache-2.0
/*
 * Two hosts, one guest, every order of events: an exhaustive walk over the table of
 * core/move_state.h in a small model of the world around it.
 *
 * The world: a guest process on each side, one slot per kind of message on its way, a durable and
 * a remembered state on each host. What may happen at any time: a message arrives, is lost, or
 * arrives twice; QEMU converges, fails or dies; a daemon is killed (what was not durable is
 * forgotten) and started again; a timer fires; the operator cancels; the store fails; the target's
 * host is switched off, and the operator abandons the move. And much later: the guest moves on from
 * the target to a third host, the target forgets the move; or the VM is started from its disks on
 * the source, which took it back.
 *
 * In every world that can be reached: the guest does not run twice, and the source's record says
 * whose it is. From every world that can be reached: if nothing fails any more, both hosts come to
 * a final state, and the guest runs on exactly one of them, or its QEMU has died.
 */
#include "core/move_state.h"

#include <glib.h>
#include <string.h>

typedef enum Guest {
    GUEST_NONE,
    GUEST_RUNNING,
    GUEST_PAUSED, /* also: loaded on the target and not started */
    GUEST_DEAD,   /* its QEMU ended while it ran, or while it was the only copy */
} Guest;

typedef enum Message {
    MSG_PREPARE = 1 << 0,
    MSG_PREPARED = 1 << 1,
    MSG_STREAM = 1 << 2,
    MSG_GIVEN_UP = 1 << 3,
    MSG_ABORT = 1 << 4,
    MSG_RUNNING = 1 << 5,
    MSG_REFUSED = 1 << 6,
    MSG_LOST = 1 << 7,
    MSG_SETTLED = 1 << 8,
    MSG_TAKEN_BACK = 1 << 9,
} Message;

#define N_MESSAGES 10

/* No target record yet. */
#define NOTHING GW_MOVE_N_STATES

typedef struct World {
    uint8_t source;         /* remembered state */
    uint8_t source_durable; /* what a restart finds */
    uint8_t target;
    uint8_t target_durable;
    uint8_t source_guest;
    uint8_t target_guest;
    uint8_t moved_on; /* the guest runs on a third host */
    uint16_t messages;
    uint8_t source_down; /* the daemon is dead */
    uint8_t target_down;
    uint8_t given_up; /* heard by the target */
    uint8_t started;  /* the target's guest has run at some time */
    uint8_t fresh;    /* ACCEPTED was entered by the daemon that runs now */
    uint8_t post;     /* the switch was to post-copy */
    uint8_t failed;   /* ... and the source's QEMU says that it failed */
    uint8_t whole;    /* the target has all pages of a post-copy */
    uint8_t knows;    /* the target has heard that the source knows the end */
    uint8_t anew;     /* the VM was started from its disks on the source */
    uint8_t faults;   /* left to happen; bounds the walk */
} World;

typedef struct Walk {
    GHashTable *seen; /* World → World */
    GQueue todo;
} Walk;

static void
visit(Walk *walk, const World *world)
{
    if (g_hash_table_contains(walk->seen, world)) {
        return;
    }
    World *copy = g_memdup2(world, sizeof *world);
    g_hash_table_add(walk->seen, copy);
    g_queue_push_tail(&walk->todo, copy);
}

static guint
world_hash(gconstpointer data)
{
    const guint8 *bytes = data;
    guint hash = 5381;

    for (size_t i = 0; i < sizeof(World); i++) {
        hash = hash * 33 + bytes[i];
    }
    return hash;
}

static gboolean
world_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(World)) == 0;
}

/* --- what the states do
 * --------------------------------------------------------------------------- */

static void
source_work(World *world)
{
    if (world->source == GW_MOVE_CHECKED) {
        world->messages |= MSG_PREPARE;
    } else if (world->source == GW_MOVE_HANDED_OVER) {
        world->messages |= MSG_GIVEN_UP;
    } else if (world->source == GW_MOVE_POSTCOPY) {
        bool lost = world->failed || world->source_guest == GUEST_DEAD;
        world->messages |= lost ? MSG_GIVEN_UP | MSG_ABORT : MSG_GIVEN_UP;
    } else if (world->source == GW_MOVE_ROLLING_BACK || world->source == GW_MOVE_CANCELLING) {
        world->messages |= MSG_ABORT;
    } else if (world->source == GW_MOVE_SETTLED) {
        world->source_guest = GUEST_NONE;
        world->messages |= MSG_SETTLED;
    } else if (world->source == GW_MOVE_ABANDONED) {
        world->source_guest = GUEST_DEAD;
        world->messages |= MSG_TAKEN_BACK;
    }
}

static void
target_answer(World *world)
{
    if (world->target == GW_MOVE_RUNNING) {
        world->messages |= MSG_RUNNING;
    } else if (world->target == GW_MOVE_REFUSED) {
        world->messages |= MSG_REFUSED;
    } else if (world->target == GW_MOVE_GUEST_LOST) {
        world->messages |= MSG_LOST;
    }
}

static void
target_work(World *world)
{
    if (world->target == GW_MOVE_INCOMING) {
        world->messages |= MSG_PREPARED;
    } else if (world->target == GW_MOVE_REFUSED) {
        world->target_guest = GUEST_NONE;
    } else if (world->target == GW_MOVE_GUEST_LOST) {
        world->target_guest = GUEST_DEAD;
    }
    target_answer(world);
}

/* The mover: a step that must be durable first is durable when its work begins. */
static void
source_event(World *world, GwMoveEvent event)
{
    GwMoveCell cell = gw_move_cell((GwMoveState)world->source, event);

    if (cell.verdict == GW_MOVE_GO) {
        world->source = (uint8_t)cell.next;
        if (gw_move_state_info(cell.next)->durable_first) {
            world->source_durable = world->source;
        }
    }
    if (cell.verdict == GW_MOVE_GO || cell.verdict == GW_MOVE_AGAIN) {
        source_work(world);
    }
}

static void
target_event(World *world, GwMoveEvent event)
{
    GwMoveCell cell = gw_move_cell((GwMoveState)world->target, event);

    if (cell.verdict == GW_MOVE_GO) {
        world->target = (uint8_t)cell.next;
        if (gw_move_state_info(cell.next)->durable_first) {
            world->target_durable = world->target;
        }
    }
    if (cell.verdict == GW_MOVE_GO || cell.verdict == GW_MOVE_AGAIN) {
        target_work(world);
    }
}

static void
maybe_hand_to_target(World *world)
{
    if (world->target == GW_MOVE_INCOMING && world->given_up &&
        world->target_guest == GUEST_PAUSED) {
        target_event(world, GW_MOVE_EVENT_HANDED_TO_US);
        world->fresh = 1;
    }
}

/*
 * A question about a move that the target does not know is answered by a durable refusal, unless
 * the guest is there; whatever is there is not touched.
 */
static void
target_hears_given_up(World *world)
{
    if (world->target == NOTHING && world->target_guest == GUEST_RUNNING) {
        world->messages |= MSG_RUNNING;
        return;
    }
    if (world->target == NOTHING) {
        world->target = world->target_durable = GW_MOVE_REFUSED;
        world->messages |= MSG_REFUSED;
        return;
    }
    world->given_up = 1;
    maybe_hand_to_target(world);
    target_answer(world);
}

static void
deliver(World *world, Message message)
{
    switch (message) {
    case MSG_PREPARE:
        if (world->target == NOTHING) {
            world->target = world->target_durable = GW_MOVE_PREPARING;
        }
        break;
    case MSG_PREPARED:
        source_event(world, GW_MOVE_EVENT_READY);
        break;
    case MSG_STREAM:
        if (world->target == GW_MOVE_INCOMING && world->target_guest == GUEST_NONE) {
            world->target_guest = GUEST_PAUSED;
            maybe_hand_to_target(world);
        }
        break;
    case MSG_GIVEN_UP:
        target_hears_given_up(world);
        break;
    case MSG_ABORT:
        if (world->target != NOTHING) {
            target_event(world, GW_MOVE_EVENT_PEER_FAILED);
        }
        break;
    case MSG_RUNNING:
        source_event(world, GW_MOVE_EVENT_PEER_RUNNING);
        break;
    case MSG_REFUSED:
        source_event(world, GW_MOVE_EVENT_PEER_REFUSED);
        break;
    case MSG_LOST:
        source_event(world, GW_MOVE_EVENT_PEER_LOST);
        break;
    case MSG_SETTLED:
        world->knows = 1;
        break;
    case MSG_TAKEN_BACK:
        if (world->target != NOTHING) {
            target_event(world, GW_MOVE_EVENT_TAKEN_BACK);
        }
        world->knows = 1;
        break;
    }
}

#define FIRST_SESSION (MSG_PREPARE | MSG_STREAM | MSG_ABORT)
#define TO_TARGET     (FIRST_SESSION | MSG_GIVEN_UP | MSG_SETTLED | MSG_TAKEN_BACK)

static bool
can_arrive(const World *world, Message message)
{
    bool up = message & TO_TARGET ? !world->target_down : !world->source_down;

    return up && (world->messages & message);
}

/* --- what may happen
 * ------------------------------------------------------------------------------- */

/* To post-copy: the guest is paused by the daemon, then QEMU gets ready, then it is given up. */
static void
postcopy_steps(Walk *walk, const World *now)
{
    World next = *now;

    if (now->source_down) {
        return;
    }
    if (now->source == GW_MOVE_PRECOPY) {
        source_event(&next, GW_MOVE_EVENT_POSTCOPY_WANTED);
    } else if (now->source == GW_MOVE_PAUSING && now->source_guest == GUEST_RUNNING) {
        next.source_guest = GUEST_PAUSED;
    } else if (now->source == GW_MOVE_PAUSING && now->source_guest == GUEST_PAUSED) {
        next.post = 1;
        source_event(&next, GW_MOVE_EVENT_POSTCOPY_READY);
        next.messages |= MSG_STREAM;
    }
    visit(walk, &next);
}

/* What QEMU has begun to send as post-copy it may be unable to take back. */
static void
cannot_take_back(Walk *walk, const World *now)
{
    World next = *now;

    if (!now->source_down && now->post && now->source == GW_MOVE_ROLLING_BACK &&
        now->source_guest == GUEST_PAUSED) {
        next.source_guest = GUEST_DEAD;
        source_event(&next, GW_MOVE_EVENT_QEMU_GONE);
        visit(walk, &next);
    }
}

/* Progress without any fault. */
static void
source_steps(Walk *walk, const World *now)
{
    World next = *now;

    if (now->source_down) {
        return;
    }
    if (now->source == GW_MOVE_PLANNED) {
        source_event(&next, GW_MOVE_EVENT_CHECKS_PASSED);
    } else if (now->source == GW_MOVE_PREPARED) {
        source_event(&next, GW_MOVE_EVENT_STARTED);
    } else if ((now->source == GW_MOVE_PRECOPY || now->source == GW_MOVE_PAUSING) &&
               now->source_guest == GUEST_RUNNING) {
        next.source_guest = GUEST_PAUSED;
        source_event(&next, GW_MOVE_EVENT_GUEST_STOPPED);
    } else if (now->source == GW_MOVE_SWITCHOVER && now->source_guest == GUEST_PAUSED) {
        next.messages |= MSG_STREAM;
        source_event(&next, GW_MOVE_EVENT_STREAM_SENT);
    } else if (now->source == GW_MOVE_HANDED_OVER || now->source == GW_MOVE_POSTCOPY) {
        source_event(&next, GW_MOVE_EVENT_TIMEOUT);
    } else if (now->source == GW_MOVE_ROLLING_BACK || now->source == GW_MOVE_CANCELLING) {
        bool alive = now->source_guest != GUEST_DEAD;
        next.source_guest = alive ? GUEST_RUNNING : GUEST_DEAD;
        source_event(&next, alive ? GW_MOVE_EVENT_GUEST_RUNNING : GW_MOVE_EVENT_QEMU_GONE);
    } else if (now->source == GW_MOVE_ABANDONED && !now->knows) {
        next.messages |= MSG_TAKEN_BACK;
    }
    visit(walk, &next);
}

static void
target_steps(Walk *walk, const World *now)
{
    World next = *now;

    if (now->target_down || now->target == NOTHING) {
        return;
    }
    if (now->target == GW_MOVE_PREPARING) {
        target_event(&next, GW_MOVE_EVENT_READY);
    } else if (now->target == GW_MOVE_INCOMING) {
        /* The source is silent for long enough, or the stream ended half way. */
        target_event(&next, GW_MOVE_EVENT_TIMEOUT);
    } else if (now->target == GW_MOVE_ACCEPTED &&
               (now->target_guest == GUEST_DEAD || now->moved_on)) {
        /* RUNNING was not written, and the VM's owner record says that it is another's by now. */
        target_event(&next, GW_MOVE_EVENT_QEMU_GONE);
    } else if (now->target == GW_MOVE_ACCEPTED) {
        next.target_guest = GUEST_RUNNING;
        next.started = 1;
        target_event(&next, now->post && !now->whole ? GW_MOVE_EVENT_GUEST_FETCHING
                                                     : GW_MOVE_EVENT_GUEST_RUNNING);
    } else if (now->target == GW_MOVE_FETCHING && now->target_guest == GUEST_DEAD) {
        target_event(&next, GW_MOVE_EVENT_QEMU_GONE);
    } else if (now->target == GW_MOVE_FETCHING &&
               (now->whole || (!now->failed && now->source_guest == GUEST_PAUSED))) {
        /* Also while the source's daemon is down: the last page may have come before. */
        next.whole = 1;
        target_event(&next, GW_MOVE_EVENT_FETCHED);
    }
    visit(walk, &next);
}

/*
 * Much later. The target forgets only what nobody can ask about any more, or what it would say
 * again: by then the session that prepared the move is long over, but the source may still ask.
 */
static void
afterwards(Walk *walk, const World *now)
{
    World next = *now;

    if (now->target_down || now->target == NOTHING) {
        return;
    }
    if (now->target == GW_MOVE_RUNNING && now->target_guest == GUEST_RUNNING) {
        next.target_guest = GUEST_NONE;
        next.moved_on = 1;
        visit(walk, &next);
    }
    next = *now;
    if (gw_move_state_info((GwMoveState)now->target)->final &&
        (now->target == GW_MOVE_REFUSED || now->knows)) {
        next.target = next.target_durable = NOTHING;
        next.given_up = next.fresh = 0;
        next.messages &= (uint16_t)~FIRST_SESSION;
        visit(walk, &next);
    }
}

static void
deliveries(Walk *walk, const World *now)
{
    for (int bit = 0; bit < N_MESSAGES; bit++) {
        Message message = (Message)(1 << bit);
        if (can_arrive(now, message)) {
            World once = *now;
            once.messages &= (uint16_t)~message;
            World twice = *now;
            deliver(&once, message);
            deliver(&twice, message);
            visit(walk, &once);
            visit(walk, &twice);
        }
    }
}

static void
restarts(Walk *walk, const World *now)
{
    World next = *now;

    if (now->source_down) {
        next.source_down = 0;
        next.source = now->source_durable;
        source_event(&next, GW_MOVE_EVENT_RESTARTED);
        visit(walk, &next);
    }
    next = *now;
    if (now->target_down) {
        next.target_down = 0;
        next.target = now->target_durable;
        next.given_up = 0;
        next.fresh = 0;
        if (next.target != NOTHING) {
            target_event(&next, GW_MOVE_EVENT_RESTARTED);
        }
        visit(walk, &next);
    }
}

/* A record that was not waited for reaches the disk some time later. */
static void
writes(Walk *walk, const World *now)
{
    World next = *now;

    next.source_durable = now->source_down ? now->source_durable : now->source;
    visit(walk, &next);
    next = *now;
    next.target_durable = now->target_down ? now->target_durable : now->target;
    visit(walk, &next);
}

/* On the source that is only done when the guest does not run there, nor anywhere else. */
static void
abandonments(Walk *walk, const World *now)
{
    bool gone = now->target_down && !now->moved_on &&
                (now->target_guest == GUEST_NONE || now->target_guest == GUEST_DEAD);
    bool fetches =
        now->target == GW_MOVE_FETCHING || (now->target == GW_MOVE_ACCEPTED && now->post);
    World next = *now;

    if (gone && !now->source_down) {
        source_event(&next, GW_MOVE_EVENT_ABANDON);
        visit(walk, &next);
    }
    next = *now;
    if (fetches && !now->target_down) {
        target_event(&next, GW_MOVE_EVENT_ABANDON);
        visit(walk, &next);
    }
    next = *now;
    if (now->source == GW_MOVE_ABANDONED) {
        next.anew = 1;
        visit(walk, &next);
    }
}

/* The target's host, with all that is on its way to it. */
static void
switch_off(Walk *walk, const World *now)
{
    World next = *now;

    next.faults--;
    next.target_down = 1;
    next.messages &= (uint16_t)~TO_TARGET;
    next.target_guest = now->target_guest == GUEST_NONE ? GUEST_NONE : GUEST_DEAD;
    visit(walk, &next);
}

static void
fault_event(Walk *walk, const World *now, bool at_source, GwMoveEvent event)
{
    World next = *now;

    next.faults--;
    if (at_source && now->source == GW_MOVE_POSTCOPY && event == GW_MOVE_EVENT_FAILED) {
        next.failed = 1;
    }
    if (at_source && !now->source_down) {
        source_event(&next, event);
        visit(walk, &next);
    } else if (!at_source && !now->target_down && now->target != NOTHING) {
        target_event(&next, event);
        visit(walk, &next);
    }
}

static void
process_faults(Walk *walk, const World *now)
{
    World next = *now;

    next.faults--;
    next.source_down = 1;
    visit(walk, &next);
    next = *now;
    next.faults--;
    next.target_down = 1;
    visit(walk, &next);
    next = *now;
    next.faults--;
    if (now->source_guest == GUEST_RUNNING || now->source_guest == GUEST_PAUSED) {
        next.source_guest = GUEST_DEAD;
        if (!now->source_down) {
            source_event(&next, GW_MOVE_EVENT_QEMU_GONE);
        }
        visit(walk, &next);
    }
    next = *now;
    next.faults--;
    if (now->target_guest != GUEST_NONE && now->target_guest != GUEST_DEAD) {
        next.target_guest = GUEST_DEAD;
        if (!now->target_down && now->target != NOTHING) {
            target_event(&next, GW_MOVE_EVENT_QEMU_GONE);
        }
        visit(walk, &next);
    }
}

static void
faults(Walk *walk, const World *now)
{
    static const GwMoveEvent events[] = {
        GW_MOVE_EVENT_CHECKS_FAILED, GW_MOVE_EVENT_FAILED,  GW_MOVE_EVENT_LINK_LOST,
        GW_MOVE_EVENT_STORE_FAILED,  GW_MOVE_EVENT_TIMEOUT, GW_MOVE_EVENT_CANCEL,
    };

    if (now->faults == 0) {
        return;
    }
    for (int bit = 0; bit < N_MESSAGES; bit++) {
        if (now->messages & (1 << bit)) {
            World next = *now;
            next.faults--;
            next.messages &= (uint16_t) ~(1 << bit);
            visit(walk, &next);
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(events); i++) {
        fault_event(walk, now, true, events[i]);
        fault_event(walk, now, false, events[i]);
    }
    /* QEMU says no to the first start: it has not run. After a restart nobody could know that. */
    if (now->target == GW_MOVE_ACCEPTED && now->fresh && now->target_guest == GUEST_PAUSED) {
        fault_event(walk, now, false, GW_MOVE_EVENT_START_REFUSED);
    }
    process_faults(walk, now);
    switch_off(walk, now);
}

/* --- what must hold
 * -------------------------------------------------------------------------------- */

static char *
describe(const World *world)
{
    static const char *const guests[] = {"none", "running", "paused", "dead"};
    GwMoveState source = (GwMoveState)world->source;

    return g_strdup_printf(
        "source %s (durable %s) guest %s%s, target %s (durable %s) guest %s%s, messages %02x",
        gw_move_state_info(source)->name,
        gw_move_state_info((GwMoveState)world->source_durable)->name, guests[world->source_guest],
        world->source_down ? " DOWN" : "",
        world->target == NOTHING ? "-" : gw_move_state_info((GwMoveState)world->target)->name,
        world->target_durable == NOTHING
            ? "-"
            : gw_move_state_info((GwMoveState)world->target_durable)->name,
        guests[world->target_guest], world->target_down ? " DOWN" : "", world->messages);
}

static bool
source_gave_up(GwMoveState durable)
{
    return durable == GW_MOVE_HANDED_OVER || durable == GW_MOVE_POSTCOPY ||
           durable == GW_MOVE_SETTLED || durable == GW_MOVE_GUEST_LOST;
}

static void
check_safety(const World *world)
{
    g_autofree char *text = describe(world);
    bool elsewhere = world->target_guest == GUEST_RUNNING || world->moved_on;
    bool twice = world->source_guest == GUEST_RUNNING && elsewhere;

    if (twice || (world->anew && elsewhere)) {
        g_error("the guest runs twice: %s", text);
    }
    /* Once it has run on the target, the source must never run it again. */
    if (world->started && world->source_guest == GUEST_RUNNING) {
        g_error("the source resumed a guest that had run on the target: %s", text);
    }
    if (world->target_guest == GUEST_RUNNING &&
        !source_gave_up((GwMoveState)world->source_durable)) {
        g_error("the target runs what the source has not given up: %s", text);
    }
}

static bool
is_settled(const World *world)
{
    return !world->source_down && !world->target_down &&
           gw_move_state_info((GwMoveState)world->source)->final &&
           (world->target == NOTHING || gw_move_state_info((GwMoveState)world->target)->final);
}

static void
check_end(const World *world)
{
    g_autofree char *text = describe(world);
    int running = (world->source_guest == GUEST_RUNNING) + (world->target_guest == GUEST_RUNNING) +
                  world->moved_on;
    bool died = world->source_guest == GUEST_DEAD || world->target_guest == GUEST_DEAD;

    if (running != 1 && !died) {
        g_error("all is settled and the guest runs %d times: %s", running, text);
    }
}

/* --- tests
 * ----------------------------------------------------------------------------------------- */

static World
first_world(uint8_t fault_count)
{
    World world;

    memset(&world, 0, sizeof world);
    world.source = world.source_durable = GW_MOVE_PLANNED;
    world.target = world.target_durable = NOTHING;
    world.source_guest = GUEST_RUNNING;
    world.faults = fault_count;
    return world;
}

/* With no fault left, every path must come to an end: follow one fair schedule from each world. */
static void
check_comes_to_an_end(const World *from)
{
    Walk one = {g_hash_table_new_full(world_hash, world_equal, g_free, NULL), G_QUEUE_INIT};
    World world = *from;
    bool settled = false;

    world.faults = 0;
    visit(&one, &world);
    while (!settled && !g_queue_is_empty(&one.todo)) {
        const World *now = g_queue_pop_head(&one.todo);
        settled = is_settled(now);
        restarts(&one, now);
        deliveries(&one, now);
        postcopy_steps(&one, now);
        source_steps(&one, now);
        target_steps(&one, now);
    }
    if (!settled) {
        g_autofree char *text = describe(from);
        g_error("no way to an end from: %s", text);
    }
    g_queue_clear(&one.todo);
    g_hash_table_unref(one.seen);
}

static void
test_every_order_of_events(void)
{
    Walk walk = {g_hash_table_new_full(world_hash, world_equal, g_free, NULL), G_QUEUE_INIT};
    World first = first_world(g_test_slow() ? 12 : 7);
    unsigned ended = 0;
    unsigned walked = 0;
    unsigned abandoned = 0; /* ... and all know of it */

    visit(&walk, &first);
    while (!g_queue_is_empty(&walk.todo)) {
        const World *now = g_queue_pop_head(&walk.todo);
        walked++;
        check_safety(now);
        if (is_settled(now) && now->messages == 0) {
            ended++;
            check_end(now);
        }
        if (walked % 97 == 0) {
            check_comes_to_an_end(now);
        }
        source_steps(&walk, now);
        postcopy_steps(&walk, now);
        cannot_take_back(&walk, now);
        target_steps(&walk, now);
        afterwards(&walk, now);
        deliveries(&walk, now);
        restarts(&walk, now);
        writes(&walk, now);
        faults(&walk, now);
        abandonments(&walk, now);
        abandoned += now->anew && is_settled(now) && now->knows;
    }
    g_assert_cmpuint(abandoned, >, 0);
    g_test_message("%u worlds, %u of them settled", walked, ended);
    g_assert_cmpuint(ended, >, 0);
    g_hash_table_unref(walk.seen);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/move-sim/every-order-of-events", test_every_order_of_events);
    return g_test_run();
}
