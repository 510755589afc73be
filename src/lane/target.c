// SPDX-License-Identifier: Apache-2.0
/*
 * The inbox thread: handles the peer's ordered frames one after the other.
 *
 * Control messages go to the main context. Stream frames are decoded; pages are
 * written into QEMU's memory or, with the rest, given to it as its stream; the digest over it is
 * compared at every checkpoint, and at the end before anybody may start the guest. A frame is
 * acknowledged when all of this is done: with a slow QEMU it takes longer, and the peer's window
 * holds the source back. Order is the order of sending throughout, also between messages and
 * stream.
 *
 * Owns decoder and page model. Memory: about 1.5 MiB, and up to 99 MiB of the decoder's windows,
 * beside the inbox and the page model's. What does not decode or agree ends the stream with an
 * error and the session with GW_ERROR_PROTOCOL; a QEMU that stops reading ends only the stream, so
 * that the two daemons can still talk about it.
 */
#include "base/units.h"
#include "lane/batch.h"
#include "lane/digest.h"
#include "lane/page_target.h"
#include "lane/session.h"
#include "lane/wake.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* What is collected before it is given to QEMU. */
#define OUT_BYTES (256u * 1024u)

/* After the session ended, QEMU still gets what arrived, unless it takes nothing for so long. */
#define STUCK_US (10 * G_USEC_PER_SEC)
#define LOOK_MS  500

typedef enum StreamState {
    STREAM_NONE,
    STREAM_RUNS,
    STREAM_ENDED, /* reported by stream_end */
} StreamState;

typedef struct GwTarget {
    GwLane *lane;
    GwBatchDecoder *decoder;
    GwPageTarget *pages;
    GByteArray *out;
    StreamState state;
    bool references_ended;
    bool qemu_gone;         /* stream frames are taken and dropped */
    int fd;                 /* the inbox's */
    GwRefPages *references; /* of the frame being handled, NULL: it has none */
    int64_t cpu_us;
    uint64_t helpers_cpu_us; /* of placer and desk, that were counted */
} GwTarget;

static void
post_stream_end(GwTarget *target, const GError *error)
{
    GwLaneEvent event = {.kind = GW_LANE_EVENT_STREAM_END};
    GwStreamMark mark;

    gw_page_target_mark(target->pages, &mark);
    event.end.stream_bytes = mark.stream_bytes;
    gw_digest_hex(&mark, event.end.digest);
    event.error = error ? g_error_copy(error) : NULL;
    target->state = STREAM_ENDED;
    gw_lane_post(target->lane, event);
}

/* --- towards QEMU ----------------------------------------------------------------------------- */

static bool
wait_for_qemu(GwTarget *target, int64_t progress_us, GError **error)
{
    int result = gw_wake_wait_fd(target->fd, POLLOUT, target->lane->stop_fd, LOOK_MS);

    if (result < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_CANCELLED, "the session was given up");
        return false;
    }
    if (result == 0 && gw_now_us() - progress_us > STUCK_US &&
        gw_inbox_end_reason(target->lane->inbox)) {
        g_set_error(error, GW_ERROR, GW_ERROR_TIMEOUT,
                    "the session is over and QEMU does not take the rest of the stream");
        return false;
    }
    return true;
}

static bool
write_to_qemu(GwTarget *target, GError **error)
{
    size_t written = 0;
    int64_t progress_us = gw_now_us();

    while (written < target->out->len) {
        ssize_t n = send(target->fd, target->out->data + written, target->out->len - written,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            written += (size_t)n;
            progress_us = gw_now_us();
        } else if (errno == EAGAIN) {
            if (!wait_for_qemu(target, progress_us, error)) {
                return false;
            }
        } else if (errno != EINTR) {
            gw_set_error_errno(error, errno, "QEMU stopped reading the migration stream");
            return false;
        }
    }
    return true;
}

static bool
give_to_qemu(GwTarget *target, GError **error)
{
    if (!write_to_qemu(target, error)) {
        target->qemu_gone = true;
        return false;
    }
    g_byte_array_set_size(target->out, 0);
    return true;
}

/* --- stream frames ---------------------------------------------------------------------------- */

static bool
on_item(const GwBatchItem *item, void *data, GError **error)
{
    GwTarget *target = data;
    GwBatchItem found = *item;

    if (item->kind == GW_BATCH_REFERENCE && target->references) {
        found.data = gw_ref_pages_get(target->references, item->reference);
        found.tag = gw_ref_pages_tag(target->references, item->reference);
    }
    if (!gw_page_target_put(target->pages, &found, target->out, error)) {
        target->qemu_gone = target->lane->placer && gw_placer_has_failed(target->lane->placer);
        return false;
    }
    return target->out->len < OUT_BYTES || give_to_qemu(target, error);
}

static bool
handle_begin(GwTarget *target, const uint8_t *payload, size_t len, GError **error)
{
    GwStreamBegin begin;

    return gw_stream_begin_decode(payload, len, &begin, error) &&
           gw_page_target_begin(target->pages, &begin, error) &&
           gw_ref_desk_set_key(target->lane->desk, begin.key, error);
}

static bool
handle_block(GwTarget *target, const uint8_t *payload, size_t len, GError **error)
{
    uint16_t index;
    const char *name;
    size_t name_len;

    return gw_block_decode(payload, len, &index, &name, &name_len, error) &&
           gw_page_target_add_block(target->pages, index, name, name_len, error);
}

static bool
handle_mark(GwTarget *target, const uint8_t *payload, size_t len, GError **error)
{
    GwStreamMark expected, mark;

    if (!gw_mark_decode(payload, len, &expected, error)) {
        return false;
    }
    gw_page_target_mark(target->pages, &mark);
    if (mark.stream_bytes != expected.stream_bytes ||
        memcmp(mark.digest, expected.digest, GW_DIGEST_BYTES) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the migration stream was damaged on its way: after %" G_GUINT64_FORMAT
                    " bytes the digests of source and target differ; the guest must not run from "
                    "it",
                    mark.stream_bytes);
        return false;
    }
    return true;
}

/* The guest may start as soon as QEMU has what comes behind this, and the disks be locked. */
static void
close_images(GwTarget *target)
{
    gw_ref_desk_close(target->lane->desk);
    gw_ref_desk_wait_closed(target->lane->desk);
    target->references_ended = true;
}

static bool
handle_stream_end(GwTarget *target, const uint8_t *payload, size_t len, GError **error)
{
    if (!handle_mark(target, payload, len, error)) {
        return false;
    }
    if (target->lane->placer && !gw_placer_drain(target->lane->placer, error)) {
        target->qemu_gone = true;
        return false;
    }
    close_images(target);
    shutdown(target->fd, SHUT_WR);
    post_stream_end(target, NULL);
    return true;
}

/* What is waited for comes over the links: they must not stop because the inbox is full. */
static GwRefPages *
take_references(GwLane *lane, uint64_t sequence, GError **error)
{
    bool waits = !gw_ref_desk_is_ready(lane->desk, sequence);

    if (waits) {
        gw_inbox_park(lane->inbox, true);
    }
    GwRefPages *pages = gw_ref_desk_take(lane->desk, sequence, error);

    if (waits) {
        gw_inbox_park(lane->inbox, false);
    }
    return pages;
}

/* Waits for the references of the frame if it has any. */
static bool
handle_ram(GwTarget *target, const GwFrame *frame, GError **error)
{
    const uint8_t *payload = gw_frame_payload(frame);
    size_t len = frame->header.payload_bytes;
    GwBatchReferences references;

    /* What is damaged is told when it is decoded. */
    if (gw_batch_references(payload, len, &references) && references.n_pages > 0) {
        if (target->references_ended) {
            g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                        "the peer referred to disk images after it said that it would not again");
            return false;
        }
        target->references = take_references(target->lane, frame->header.sequence, error);
        if (!target->references) {
            return false;
        }
    }
    bool handled = gw_batch_decode(target->decoder, payload, len, on_item, target, error) &&
                   give_to_qemu(target, error);

    g_clear_pointer(&target->references, gw_ref_pages_free);
    return handled;
}

static bool
handle_stream_frame(GwTarget *target, const GwFrame *frame, GError **error)
{
    const uint8_t *payload = gw_frame_payload(frame);
    size_t len = frame->header.payload_bytes;

    switch ((unsigned)frame->header.type) {
    case GW_FRAME_STREAM_BEGIN:
        return handle_begin(target, payload, len, error);
    case GW_FRAME_BLOCK:
        return handle_block(target, payload, len, error);
    case GW_FRAME_RAM:
        return handle_ram(target, frame, error);
    case GW_FRAME_CHECKPOINT:
        return handle_mark(target, payload, len, error);
    case GW_FRAME_REFERENCES_END:
        close_images(target);
        return true;
    default:
        return handle_stream_end(target, payload, len, error);
    }
}

static void
count(GwTarget *target)
{
    GwLane *lane = target->lane;
    GwPageTargetCounts counts = gw_page_target_take_counts(target->pages);
    uint64_t helpers_cpu_us = lane->desk ? gw_ref_desk_cpu_us(lane->desk) : 0;

    /* The placer is this thread's to see from the sink on. */
    if (target->state != STREAM_NONE && lane->placer) {
        helpers_cpu_us += gw_placer_cpu_us(lane->placer);
    }
    pthread_mutex_lock(&lane->lock);
    /* A source's figures are its stream thread's to count. */
    if (target->state != STREAM_NONE) {
        lane->stats.stream_bytes = gw_page_target_stream_bytes(target->pages);
        lane->stats.pages += counts.pages;
        lane->stats.same_pages += counts.same_pages;
        lane->stats.equal_pages += counts.equal_pages;
        lane->stats.delta_pages += counts.delta_pages;
        lane->stats.reference_pages += counts.reference_pages;
        lane->stats.zero_pages += counts.zero_pages;
        lane->stats.placed_pages += counts.placed_pages;
        lane->stats.memory_bytes = gw_page_target_memory_bytes(target->pages) +
                                   gw_batch_decoder_memory_bytes(target->decoder);
    }
    lane->stats.cpu_us += helpers_cpu_us - target->helpers_cpu_us;
    target->helpers_cpu_us = helpers_cpu_us;
    pthread_mutex_unlock(&lane->lock);
    gw_lane_count_cpu(lane, &target->cpu_us);
}

/* False: the session is to end with @error, or (no error) is over. */
static bool
handle_stream(GwTarget *target, const GwFrame *frame, GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (target->state == STREAM_NONE) {
        target->fd = gw_inbox_wait_sink(target->lane->inbox);
        if (target->fd < 0) {
            return false;
        }
        target->state = STREAM_RUNS;
        gw_page_target_note(target->pages, target->lane->tags);
        gw_page_target_place(target->pages, target->lane->placer);
    }
    if (target->qemu_gone) {
        return true;
    }
    if (target->state == STREAM_ENDED) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent a %s frame after the end of the stream",
                    gw_frame_type_name(frame->header.type));
        return false;
    }
    if (handle_stream_frame(target, frame, &problem)) {
        return true;
    }
    post_stream_end(target, problem);
    if (target->qemu_gone) {
        gw_ref_desk_close(target->lane->desk);
        return true;
    }
    g_propagate_error(error, g_steal_pointer(&problem));
    return false;
}

/* --- control messages and the thread
 * --------------------------------------------------------------- */

static bool
handle_control(GwTarget *target, const GwFrame *frame, GError **error)
{
    json_t *message = gw_json_parse(gw_frame_payload(frame), frame->header.payload_bytes,
                                    GW_LANE_MAX_MESSAGE_BYTES, "a control message", error);

    if (!message) {
        return false;
    }
    if (!json_is_object(message)) {
        json_decref(message);
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent a control message that is no JSON object");
        return false;
    }
    gw_lane_post(target->lane, (GwLaneEvent){.kind = GW_LANE_EVENT_MESSAGE, .message = message});
    return true;
}

static bool
handle_frame(GwTarget *target, const GwFrame *frame, GError **error)
{
    bool handled = frame->header.type == GW_FRAME_CONTROL ? handle_control(target, frame, error)
                                                          : handle_stream(target, frame, error);

    count(target);
    return handled;
}

/* Handles frames until the session's end, or until one ends it. */
static void
handle_frames(GwTarget *target)
{
    GwLane *lane = target->lane;
    bool going_on = true;
    GwFrame *taken;

    while ((taken = gw_inbox_take(lane->inbox))) {
        g_autoptr(GwFrame) frame = taken;
        GError *error = NULL;

        if (!going_on) {
            continue;
        }
        going_on = handle_frame(target, frame, &error);
        if (going_on) {
            gw_inbox_handled(lane->inbox, frame->header.sequence);
        } else if (error) {
            gw_lane_end(lane, error, true);
        }
    }
}

void *
gw_target_thread(void *data)
{
    GwLane *lane = data;
    GwTarget target = {
        .lane = lane,
        .decoder = gw_batch_decoder_new(),
        .pages = gw_page_target_new(&lane->page_caps),
        .out = g_byte_array_sized_new(OUT_BYTES + 2 * GW_PAGE_BYTES),
        .fd = GW_FD_NONE,
    };

    handle_frames(&target);
    const GError *reason = gw_inbox_end_reason(lane->inbox);

    if (reason) {
        gw_lane_post(lane,
                     (GwLaneEvent){.kind = GW_LANE_EVENT_CLOSED, .error = g_error_copy(reason)});
    }
    gw_batch_decoder_free(target.decoder);
    gw_page_target_free(target.pages);
    g_byte_array_unref(target.out);
    return NULL;
}
