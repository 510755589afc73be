// SPDX-License-Identifier: Apache-2.0
/*
 * The source's referenced pages until the target has them: answers to its questions.
 *
 * Each frame with references leaves its group (image_ref.h) here, which goes when the frame is
 * acknowledged. A NEED of the target marks a group as asked about; links fetch the FILLs that
 * answer it. What is lost with a connection is asked for again by the target, so nothing of it is
 * remembered here.
 *
 * There are never more of them than the target deals with in GW_REF_QUEUE_US beside the way there
 * and back, by measure: at the end of a move the guest waits for what is left of them, and their
 * few bytes on the wire tell nothing of that.
 *
 * Any thread. Memory: GW_REF_MAX_UNPROVEN_PAGES pages, at most half as much again for what lies
 * between them in their batches' buffers, and those of the batches that are being encoded while the
 * last of them were taken.
 */
#pragma once

#include "lane/image_ref.h"
#include "lane/outbox.h"

#define GW_REF_QUEUE_US 40000

typedef struct GwRefKeep GwRefKeep;

/* Called when there is a FILL to send, with the keep locked: it must not call back. */
typedef void (*GwRefKeepWake)(void *data);

/* @source: borrowed, outlives the keep. */
GwRefKeep *gw_ref_keep_new(GwRefSource *source, GwRefKeepWake wake, void *data);
void gw_ref_keep_free(GwRefKeep *keep);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRefKeep, gw_ref_keep_free)

/* Where pages are looked up. */
GwRefSource *gw_ref_keep_source(const GwRefKeep *keep);

/* Waits until fewer pages than allowed are kept. False: stopped. */
bool gw_ref_keep_wait_room(GwRefKeep *keep) GW_MUST_USE;
/* The session is over: nobody waits in here any more. */
void gw_ref_keep_stop(GwRefKeep *keep);

/* Gives @frame (transfer full) to the outbox and keeps its references under its sequence. */
void gw_ref_keep_push(GwRefKeep *keep, GwOutbox *outbox, GwFrame *frame, int64_t now_us);

/* All frames up to @sequence are acknowledged. */
void gw_ref_keep_acked(GwRefKeep *keep, uint64_t sequence, int64_t now_us);

/* A NEED. One that comes late is ignored; GW_ERROR_PROTOCOL for what was never referenced. */
bool gw_ref_keep_take_need(GwRefKeep *keep, const uint8_t *payload, size_t len,
                           GError **error) GW_MUST_USE;
bool gw_ref_keep_has_fill(GwRefKeep *keep);
/* The next FILL's payload; NULL: none is due. Transfer full. */
GBytes *gw_ref_keep_next_fill(GwRefKeep *keep) GW_MUST_USE;
