// SPDX-License-Identifier: Apache-2.0
/*
 * From the threads to the owner: events and handlers.
 *
 * Owns the queue of events, below the lane's lock. Worker threads never call a handler: they post
 * to the queue and make a source of the main context ready, which empties it there. Messages are
 * bounded by GW_LANE_MAX_EVENTS; who posts one too many waits. Cannot fail.
 */
#include "lane/session.h"

static void
clear_event(GwLaneEvent *event)
{
    g_free(event->name);
    json_decref(event->message);
    g_clear_error(&event->error);
}

static void
free_event(void *event)
{
    clear_event(event);
    g_free(event);
}

void
gw_lane_post(GwLane *lane, GwLaneEvent event)
{
    pthread_mutex_lock(&lane->lock);
    while (event.kind == GW_LANE_EVENT_MESSAGE && lane->events.length >= GW_LANE_MAX_EVENTS &&
           !lane->stopping) {
        pthread_cond_wait(&lane->events_taken, &lane->lock);
    }
    bool late = lane->closed_posted || lane->stopping;
    if (!late) {
        lane->closed_posted = event.kind == GW_LANE_EVENT_CLOSED;
        g_queue_push_tail(&lane->events, g_memdup2(&event, sizeof(event)));
    }
    pthread_mutex_unlock(&lane->lock);
    if (late) {
        clear_event(&event);
    } else {
        g_source_set_ready_time(lane->event_source, 0);
    }
}

/* --- delivering events ------------------------------------------------------------------------ */

static void
deliver_ready(GwLane *lane, GwLaneEvent *event)
{
    lane->ready = true;
    if (!lane->peer_name) {
        lane->peer_name = g_steal_pointer(&event->name);
    }
    if (lane->server) {
        gw_lane_server_accepted(g_steal_pointer(&lane->server), lane);
    } else if (lane->handlers.ready) {
        lane->handlers.ready(lane, lane->data);
    }
}

static void
deliver_closed(GwLane *lane, const GError *error)
{
    lane->over = true;
    gw_lane_registry_remove(lane, false);
    if (lane->server) {
        gw_lane_server_dropped(g_steal_pointer(&lane->server), lane, error);
    } else if (lane->handlers.closed) {
        lane->handlers.closed(lane, error, lane->data);
    }
}

static void
deliver(GwLane *lane, GwLaneEvent *event)
{
    switch (event->kind) {
    case GW_LANE_EVENT_READY:
        deliver_ready(lane, event);
        break;
    case GW_LANE_EVENT_MESSAGE:
        if (lane->handlers.message) {
            lane->handlers.message(lane, event->message, lane->data);
        }
        break;
    case GW_LANE_EVENT_STREAM_END:
        if (lane->handlers.stream_end) {
            event->end.error = event->error;
            lane->handlers.stream_end(lane, &event->end, lane->data);
        }
        break;
    case GW_LANE_EVENT_OPENED:
        if (lane->opened) {
            lane->opened(lane, (GwLaneBytes)(event->channel - GW_CHANNEL_FIRST_BYTES), lane->data);
        }
        break;
    case GW_LANE_EVENT_CLOSED:
        deliver_closed(lane, event->error);
        break;
    }
}

static GwLaneEvent *
take_event(GwLane *lane)
{
    pthread_mutex_lock(&lane->lock);
    GwLaneEvent *event = g_queue_pop_head(&lane->events);
    pthread_cond_signal(&lane->events_taken);
    pthread_mutex_unlock(&lane->lock);
    return event;
}

static gboolean
dispatch_events(void *data)
{
    GwLane *lane = data;

    lane->dispatching = true;
    /* Not until the queue is empty: a peer that floods us may not keep the main loop from others.
     */
    for (unsigned i = 0; i < GW_LANE_MAX_EVENTS && !lane->freed; i++) {
        GwLaneEvent *event = take_event(lane);

        if (!event) {
            break;
        }
        g_source_set_ready_time(lane->event_source, 0);
        deliver(lane, event);
        free_event(event);
    }
    lane->dispatching = false;
    if (lane->freed) {
        gw_lane_destroy(lane);
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

/* Lowered before the queue is looked at, so that no event is overlooked. */
static gboolean
on_events_ready(GSource *source, GSourceFunc callback, void *data)
{
    g_source_set_ready_time(source, -1);
    return callback(data);
}

static GSourceFuncs event_source_funcs = {.dispatch = on_events_ready};

void
gw_lane_events_init(GwLane *lane)
{
    g_queue_init(&lane->events);
    lane->event_source = g_source_new(&event_source_funcs, sizeof(GSource));
    g_source_set_callback(lane->event_source, dispatch_events, lane, NULL);
    g_source_attach(lane->event_source, lane->context);
}

void
gw_lane_events_clear(GwLane *lane)
{
    g_queue_clear_full(&lane->events, free_event);
    g_source_unref(lane->event_source);
}

void
gw_lane_end_before_start(GwLane *lane, GError *error)
{
    gw_lane_post(lane, (GwLaneEvent){.kind = GW_LANE_EVENT_CLOSED, .error = error});
}
