// SPDX-License-Identifier: Apache-2.0
/*
 * Live events for HTTP clients: one JSON object per line, as they happen.
 *
 * Each event has a member "event": "state", "progress" and "end" tell of a move ("move"), "vm" of
 * a VM; "alive" comes every GW_EVENTS_ALIVE_SECONDS so that a dead connection is noticed; "cut"
 * is the last line for a reader too slow to be told of every state. What a reader has not fetched
 * yet is bounded: a newer "progress" of a move replaces an older one that still waits, the other
 * kinds are never dropped. Main context only.
 */
#pragma once

#include "api/http.h"

#define GW_EVENTS_MAX_STREAMS      32u
#define GW_EVENTS_MAX_QUEUED_BYTES (256u * 1024u)
#define GW_EVENTS_ALIVE_SECONDS    15u

typedef struct GwEvents GwEvents;

GwEvents *gw_events_new(void) GW_MUST_USE;
/* Ends every stream after what waits in it. */
void gw_events_free(GwEvents *events);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwEvents, gw_events_free)

/*
 * Answers @request with a stream of all events (@move_id NULL) or of those of one move, which
 * ends with the move. @first (transfer full, nullable) is told before everything else.
 */
void gw_events_answer(GwEvents *events, GwRequest *request, const char *move_id, json_t *first);

/* To all whom it concerns. */
void gw_events_publish(GwEvents *events, const json_t *event);
