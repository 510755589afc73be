// SPDX-License-Identifier: Apache-2.0
/*
 * The target's desk for references: resolves those of frames that wait to be handled.
 *
 * A thread of its own reads the blocks and proves the pages (image_ref.h) ahead of the thread that
 * handles frames, so neither disks nor questions to the source are waited for one after the other.
 * What is not proven is asked for (NEED), again when a connection came or went, and when no answer
 * (FILL) came for GW_REF_ANSWER_US.
 *
 * The thread is never waited for but at the regular end of a stream: a disk may hang. It lets go of
 * images and memory as soon as the read that it is in returns.
 *
 * Any thread; one takes. Memory: GW_REF_MAX_UNPROVEN_PAGES pages, one frame more, and the frames.
 */
#pragma once

#include "lane/image_ref.h"
#include "lane/pool.h"

#define GW_REF_ANSWER_US (5 * G_USEC_PER_SEC)
/* What a read is given to return when the session has ended. */
#define GW_REF_READ_S 5

typedef struct GwRefDesk GwRefDesk;

/* Called when there is a NEED to send, with the desk locked: it must not call back. */
typedef void (*GwRefDeskWake)(void *data);

GwRefDesk *gw_ref_desk_new(GwRefDeskWake wake, void *data);
/* Nobody may be in here any more but the desk's own thread. */
void gw_ref_desk_free(GwRefDesk *desk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRefDesk, gw_ref_desk_free)

/* The images that were agreed on (transfer full, also on failure). Once, before the first take().
 */
bool gw_ref_desk_start(GwRefDesk *desk, GwRefTarget *images, GError **error) GW_MUST_USE;

/*
 * The key of the stream's page tags, once. Nothing is resolved before it is known, and take() does
 * not wait for it: it is to come first. GW_ERROR_UNSUPPORTED.
 */
bool gw_ref_desk_set_key(GwRefDesk *desk, const uint8_t key[GW_PAGE_TAG_KEY_BYTES],
                         GError **error) GW_MUST_USE;

/*
 * A frame that take() will be called for, in the order of those calls. Its references are read
 * when it is its turn. Frames without references are ignored.
 */
void gw_ref_desk_announce(GwRefDesk *desk, GwFrame *frame);

/* take() would not wait. */
bool gw_ref_desk_is_ready(GwRefDesk *desk, uint64_t sequence);

/*
 * The proven pages of the frame @sequence; waits for them. Transfer full. NULL: GW_ERROR_PROTOCOL
 * if it has no references that make sense, GW_ERROR_CANCELLED when the session ended.
 */
GwRefPages *gw_ref_desk_take(GwRefDesk *desk, uint64_t sequence, GError **error) GW_MUST_USE;

/* No frame is taken any more; the images are closed as soon as no read is under way. */
void gw_ref_desk_close(GwRefDesk *desk);
/* Waits until they are. When all frames were taken before close() that takes no time. */
void gw_ref_desk_wait_closed(GwRefDesk *desk);
/* No FILL can come any more: who waits for one, or for a disk that hangs, gets an error. */
void gw_ref_desk_end(GwRefDesk *desk);
/* Nobody waits in here any more. */
void gw_ref_desk_stop(GwRefDesk *desk);

/* Processor time of the thread so far. */
uint64_t gw_ref_desk_cpu_us(GwRefDesk *desk);

/* --- links ------------------------------------------------------------------------------------ */

/* A connection came or went: what was asked may be lost. */
void gw_ref_desk_ask_again(GwRefDesk *desk);
bool gw_ref_desk_has_need(GwRefDesk *desk);
/* Appends the next NEED's payload. False: there is none. */
bool gw_ref_desk_next_need(GwRefDesk *desk, GByteArray *out);
/* A FILL. One that comes late is ignored; GW_ERROR_PROTOCOL for what was not asked for. */
bool gw_ref_desk_take_fill(GwRefDesk *desk, const uint8_t *payload, size_t len,
                           GError **error) GW_MUST_USE;
