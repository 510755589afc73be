// SPDX-License-Identifier: Apache-2.0
/*
 * The inbox thread: handles the peer's ordered frames one after the other.
 *
 * Control messages go to the main context. Stream frames are decoded, written back to QEMU's
 * stream, and given to QEMU only after the digest over them agreed with every checkpoint they
 * pass. A frame is acknowledged when all of this is done: with a slow QEMU it takes longer, and
 * the peer's window holds the source back. Order is the order of sending throughout, also between
 * messages and stream.
 *
 * Owns decoder, writer, digest. Memory: about 1.5 MiB beside the inbox. What does not decode or
 * agree ends the stream with an error and the session with GW_ERROR_PROTOCOL; a QEMU that stops
 * reading ends only the stream, so that the two daemons can still talk about it.
 */
#include "base/units.h"
#include "lane/batch.h"
#include "lane/digest.h"
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
    GwRamWriter *writer;
    unsigned n_blocks;
    GByteArray *out;
    GwDigest *digest;
    GwStreamMark checkpoint;
    bool checkpoint_pending;
    StreamState state;
    bool qemu_gone; /* stream frames are taken and dropped */
    int fd;         /* the inbox's */
    uint64_t pages; /* since they were counted last */
    uint64_t zero_pages;
    int64_t cpu_us;
} GwTarget;

static void
post_stream_end(GwTarget *target, const GError *error)
{
    GwLaneEvent event = {.kind = GW_LANE_EVENT_STREAM_END};
    GwStreamMark mark;

    gw_digest_mark(target->digest, &mark);
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
digest_differs(const GwTarget *target, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                "the migration stream was damaged on its way: after %" G_GUINT64_FORMAT
                " bytes the digests of source and target differ; the guest must not run from it",
                gw_digest_bytes(target->digest));
    return false;
}

/* Adds what is collected to the digest, halting at the checkpoint if it lies therein. */
static bool
digest_out(GwTarget *target, GError **error)
{
    const uint8_t *data = target->out->data;
    size_t len = target->out->len;
    uint64_t before = gw_digest_bytes(target->digest);
    GwStreamMark mark;

    if (target->checkpoint_pending && target->checkpoint.stream_bytes - before <= len) {
        size_t up_to = (size_t)(target->checkpoint.stream_bytes - before);

        gw_digest_add(target->digest, data, up_to);
        gw_digest_mark(target->digest, &mark);
        if (memcmp(mark.digest, target->checkpoint.digest, GW_DIGEST_BYTES) != 0) {
            return digest_differs(target, error);
        }
        target->checkpoint_pending = false;
        data += up_to;
        len -= up_to;
    }
    gw_digest_add(target->digest, data, len);
    return true;
}

/* False without qemu_gone: the stream is damaged. */
static bool
give_to_qemu(GwTarget *target, GError **error)
{
    if (!digest_out(target, error)) {
        return false;
    }
    if (!write_to_qemu(target, error)) {
        target->qemu_gone = true;
        return false;
    }
    g_byte_array_set_size(target->out, 0);
    return true;
}

/* --- stream frames ---------------------------------------------------------------------------- */

static bool
on_item(const GwRamItem *item, void *data, GError **error)
{
    GwTarget *target = data;

    target->pages += item->kind == GW_RAM_ITEM_PAGE;
    target->zero_pages += item->kind == GW_RAM_ITEM_ZERO;
    if (!gw_ram_writer_put(target->writer, item, target->out, error)) {
        return false;
    }
    return target->out->len < OUT_BYTES || give_to_qemu(target, error);
}

static bool
handle_block(GwTarget *target, const uint8_t *payload, size_t len, GError **error)
{
    uint16_t index;
    const char *name;
    size_t name_len;

    if (!gw_block_decode(payload, len, &index, &name, &name_len, error)) {
        return false;
    }
    if (index != target->n_blocks) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer named RAM block %u where %u was next", index, target->n_blocks);
        return false;
    }
    target->n_blocks++;
    return gw_ram_writer_add_block(target->writer, name, name_len, error);
}

static bool
handle_checkpoint(GwTarget *target, const uint8_t *payload, size_t len, GError **error)
{
    if (target->checkpoint_pending) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent a checkpoint before the one before it was reached");
        return false;
    }
    if (!gw_mark_decode(payload, len, &target->checkpoint, error)) {
        return false;
    }
    if (target->checkpoint.stream_bytes < gw_digest_bytes(target->digest)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the peer sent a checkpoint for bytes that have passed already");
        return false;
    }
    target->checkpoint_pending = true;
    return true;
}

static bool
handle_stream_end(GwTarget *target, const uint8_t *payload, size_t len, GError **error)
{
    GwStreamMark expected, mark;

    if (!gw_mark_decode(payload, len, &expected, error)) {
        return false;
    }
    gw_digest_mark(target->digest, &mark);
    if (target->checkpoint_pending || mark.stream_bytes != expected.stream_bytes ||
        memcmp(mark.digest, expected.digest, GW_DIGEST_BYTES) != 0) {
        return digest_differs(target, error);
    }
    shutdown(target->fd, SHUT_WR);
    post_stream_end(target, NULL);
    return true;
}

static bool
handle_stream_frame(GwTarget *target, const GwFrame *frame, GError **error)
{
    const uint8_t *payload = gw_frame_payload(frame);
    size_t len = frame->header.payload_bytes;

    switch ((unsigned)frame->header.type) {
    case GW_FRAME_BLOCK:
        return handle_block(target, payload, len, error);
    case GW_FRAME_RAM:
        return gw_batch_decode(target->decoder, payload, len, on_item, target, error) &&
               give_to_qemu(target, error);
    case GW_FRAME_CHECKPOINT:
        return handle_checkpoint(target, payload, len, error);
    default:
        return handle_stream_end(target, payload, len, error);
    }
}

static void
count(GwTarget *target)
{
    GwLane *lane = target->lane;

    pthread_mutex_lock(&lane->lock);
    /* A source's stream_bytes are its stream thread's to count. */
    if (target->state != STREAM_NONE) {
        lane->stats.stream_bytes = gw_digest_bytes(target->digest);
        lane->stats.pages += target->pages;
        lane->stats.zero_pages += target->zero_pages;
    }
    pthread_mutex_unlock(&lane->lock);
    target->pages = 0;
    target->zero_pages = 0;
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
        .writer = gw_ram_writer_new(),
        .out = g_byte_array_sized_new(OUT_BYTES + 2 * GW_PAGE_BYTES),
        .digest = gw_digest_new(),
        .fd = GW_FD_NONE,
    };

    handle_frames(&target);
    const GError *reason = gw_inbox_end_reason(lane->inbox);

    if (reason) {
        gw_lane_post(lane,
                     (GwLaneEvent){.kind = GW_LANE_EVENT_CLOSED, .error = g_error_copy(reason)});
    }
    gw_batch_decoder_free(target.decoder);
    gw_ram_writer_free(target.writer);
    g_byte_array_unref(target.out);
    gw_digest_free(target.digest);
    return NULL;
}
