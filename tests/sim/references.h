// SPDX-License-Identifier: Apache-2.0
/*
 * Frames with references in a simulated session: the source's keep and the target's desk, for a
 * disk of which the target has another state, and what must come of it.
 *
 * The desk's thread reads on its own; settle() waits for it, so that a schedule depends on its seed
 * alone. One thread, but for the desk's.
 */
#pragma once

#include "lane/ref_desk.h"
#include "lane/ref_keep.h"

typedef struct SimReferences SimReferences;

typedef struct SimReferenceCounts {
    uint64_t frames;
    uint64_t unproven; /* of these with pages that the target has not */
    uint64_t needs;
    uint64_t fills;
    uint64_t double_fills; /* there was nothing left to prove */
    uint64_t late_fills;   /* the frame was gone */
    uint64_t overdue;      /* questions that only time repeated */
} SimReferenceCounts;

SimReferences *sim_references_new(GRand *random);
/* Before the frames' pool. */
void sim_references_free(SimReferences *references);

/* Source: the outbox gets a frame of a few pages, whose sequence will be @sequence. */
void sim_references_push(SimReferences *references, GwFramePool *pool, GwOutbox *outbox,
                         uint64_t sequence, int64_t now_us);
void sim_references_acked(SimReferences *references, uint64_t sequence, int64_t now_us);

/* Target: for each frame that got its place in the order. */
void sim_references_announce(SimReferences *references, GwFrame *frame);
/* Waits until everything that was announced is read, and asked for if it has to be. */
void sim_references_settle(SimReferences *references);
/* A connection came or went. */
void sim_references_ask_again(SimReferences *references);
/* What the desk's own clock does, by the simulated one. */
void sim_references_tick(SimReferences *references, int64_t now_us);

/* What end 0, the source, or 1 has to say next; NULL: nothing. Transfer full. */
GBytes *sim_references_next(SimReferences *references, unsigned end, int64_t now_us);
/* What has come to @end. */
void sim_references_hear(SimReferences *references, unsigned end, GBytes *payload, int64_t now_us);

/* The frame has references. */
bool sim_references_has(const SimReferences *references, uint64_t sequence);
/* The next frame to be handled, @sequence, has all of its pages, or never had references. */
bool sim_references_is_ready(SimReferences *references, uint64_t sequence);
/* Takes the pages of a frame that is ready; they must be what the source had. */
void sim_references_take(SimReferences *references, uint64_t sequence);

/* The source is told to stop. */
void sim_references_stop(SimReferences *references);
/* No link is left; with @freed, the session is being freed: takes what is taken after that. */
void sim_references_end(SimReferences *references, bool freed);
/* After the end: false if its pages will not come any more. */
bool sim_references_take_last(SimReferences *references, uint64_t sequence);

/* Adds what has happened so far to @sum. */
void sim_references_add_counts(const SimReferences *references, SimReferenceCounts *sum);
