// SPDX-License-Identifier: Apache-2.0
/*
 * The stream thread: QEMU's migration stream → parser → page model → batches → encoder.
 *
 * Owns parser, page model, encoder and the socket to QEMU, which is closed when the thread
 * ends: that is how QEMU learns of a session that died. It reads only while the window has room, so
 * back-pressure reaches QEMU through its socket; room is asked for again with every batch.
 *
 * A batch leaves when it is full, or when QEMU has been silent for LINGER_MS. Every
 * CHECKPOINT_BYTES the digest over all that was taken so far goes behind the batch that it ends
 * with. Memory: 1 MiB beside the page model's and the encoder's. Fails by a stream_end with an
 * error; the peer then gets a stream that ends early.
 */
#include "base/processor.h"
#include "base/units.h"
#include "lane/adapt.h"
#include "lane/batch.h"
#include "lane/digest.h"
#include "lane/encoder.h"
#include "lane/encodings.h"
#include "lane/page_source.h"
#include "lane/session.h"
#include "lane/wake.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define LINGER_MS        1
#define CHECKPOINT_BYTES (16u * 1024u * 1024u)

/* A wait for room that is more than a turn of the lock, and so many batches are then encoded one
 * after the other. */
#define BLOCKED_US      200
#define CAREFUL_BATCHES 8u

/*
 * A frame is to be a small part of what may be in flight. What the peer has received is told frame
 * by frame: of large ones so much at once that the link would run dry in between.
 */
#define FRAMES_IN_FLIGHT 12u
#define BATCH_MIN_BYTES  (64u * 1024u)

typedef struct GwSource {
    GwLane *lane;
    GwRamParser *parser;
    GwPageSource *pages;
    GwBatch *batch; /* being filled */
    GwEncoder *encoder;
    bool begun; /* the first page was there */
    bool references_ended;
    unsigned blocks_sent;
    uint64_t next_checkpoint;
    int64_t cpu_us;
    uint64_t workers_cpu_us; /* that were counted */

    uint32_t batch_bytes;     /* of contents, at most */
    uint64_t collected_bytes; /* of contents since the period began */

    unsigned n_careful; /* batches that are still to be encoded one after the other */
    GwAdapt adapt;
    int64_t sampled_us;            /* when the period began for which is measured: */
    int64_t waited_link_us;        /* in it */
    GwEncoderFigures encoder_then; /* at its beginning */
    GwProcessorTimes times_then;
    uint64_t stream_bytes_then;
    uint64_t queued_then;
} GwSource;

static void
send_payload(GwSource *source, GwFrameType type, const GByteArray *payload)
{
    gw_encoder_put_frame(source->encoder, gw_frame_new_with(source->lane->pool, type, payload));
}

static void
send_mark(GwSource *source, GwFrameType type)
{
    g_autoptr(GByteArray) payload = g_byte_array_sized_new(GW_MARK_BYTES);
    GwStreamMark mark;

    gw_page_source_mark(source->pages, &mark);
    gw_mark_encode(&mark, payload);
    send_payload(source, type, payload);
}

/* Names go ahead of the first batch that may refer to them. */
static void
send_new_blocks(GwSource *source)
{
    for (; source->blocks_sent < gw_ram_parser_n_blocks(source->parser); source->blocks_sent++) {
        g_autoptr(GByteArray) payload = g_byte_array_new();
        uint16_t index = (uint16_t)source->blocks_sent;

        const char *name = gw_ram_parser_block_name(source->parser, index);

        if (source->lane->references) {
            gw_ref_source_name_block(source->lane->references, index, name);
        }
        if (source->lane->placed &&
            g_strv_contains((const char *const *)source->lane->placed, name)) {
            gw_page_source_set_readable(source->pages, index);
        }
        gw_block_encode(index, name, payload);
        send_payload(source, GW_FRAME_BLOCK, payload);
    }
}

/* Of indexes. */
static uint64_t
reference_bytes(GwLane *lane)
{
    GwRefTotals totals = {0};

    if (lane->references) {
        gw_ref_source_totals(lane->references, &totals);
    }
    return totals.memory_bytes;
}

static void
count(GwSource *source)
{
    GwLane *lane = source->lane;
    GwPageSourceCounts counts = gw_page_source_take_counts(source->pages);
    GwEncoderFigures encoder;

    gw_encoder_figures(source->encoder, &encoder);
    pthread_mutex_lock(&lane->lock);
    lane->stats.stream_bytes = gw_page_source_stream_bytes(source->pages);
    lane->stats.pages += counts.pages;
    lane->stats.same_pages += counts.same_pages;
    lane->stats.equal_pages += counts.equal_pages;
    lane->stats.zero_pages += counts.zero_pages;
    lane->stats.memory_bytes =
        gw_page_source_memory_bytes(source->pages) + encoder.memory_bytes + reference_bytes(lane);
    lane->stats.cpu_us += encoder.cpu_us - source->workers_cpu_us;
    lane->stats.opaque = gw_ram_parser_is_opaque(source->parser, NULL);
    pthread_mutex_unlock(&lane->lock);
    source->workers_cpu_us = encoder.cpu_us;
    gw_lane_count_cpu(lane, &source->cpu_us);
}

/* How much becomes one frame, going by what lately became of it. */
static void
choose_batch_bytes(GwSource *source, const GwOutboxFigures *outbox)
{
    uint64_t queued_bytes = outbox->queued_bytes - source->queued_then;
    uint64_t wanted = GW_BATCH_MAX_BODY_BYTES;

    if (queued_bytes > 0) {
        wanted = outbox->limit_bytes / FRAMES_IN_FLIGHT * source->collected_bytes / queued_bytes;
    }
    source->batch_bytes = (uint32_t)CLAMP(wanted, BATCH_MIN_BYTES, GW_BATCH_MAX_BODY_BYTES);
    source->collected_bytes = 0;
    source->queued_then = outbox->queued_bytes;
}

/* Looks what the stream was waiting for, and how much work is right from now on. */
static void
adapt(GwSource *source)
{
    int64_t now_us = gw_now_us();
    GwProcessorTimes times = source->times_then;
    GwEncoderFigures encoder;
    GwOutboxFigures outbox;

    if (now_us - source->sampled_us < GW_ADAPT_PERIOD_US) {
        return;
    }
    gw_encoder_figures(source->encoder, &encoder);
    gw_outbox_figures(source->lane->outbox, now_us, &outbox);
    (void)gw_processor_times(&times);
    uint64_t stream_bytes = gw_page_source_stream_bytes(source->pages);
    GwAdaptSample sample = {
        .period_us = now_us - source->sampled_us,
        .waited_link_us = source->waited_link_us,
        .waited_encoder_us = (int64_t)(encoder.waited_us - source->encoder_then.waited_us),
        .encoder_cpu_us = (int64_t)(encoder.cpu_us - source->encoder_then.cpu_us),
        .n_encoders = encoder.n_workers,
        .n_processors = g_get_num_processors(),
        .idle_percent = gw_processor_idle_percent(&source->times_then, &times),
        .is_far = outbox.rtt_us >= GW_WINDOW_FAR_RTT_US,
        .rate_bytes_s = outbox.link_bytes_s,
        .taken_bytes = stream_bytes - source->stream_bytes_then,
    };

    gw_adapt_sample(&source->adapt, &sample);
    choose_batch_bytes(source, &outbox);
    source->sampled_us = now_us;
    source->waited_link_us = 0;
    source->encoder_then = encoder;
    source->times_then = times;
    source->stream_bytes_then = stream_bytes;
}

/*
 * Batches that are being encoded are in no window yet. Where the link is what the stream waits for,
 * they would add to what queues: there one goes after the other, which the encoders can afford.
 */
static void
wait_for_room(GwSource *source)
{
    if (source->n_careful > 0) {
        gw_encoder_drain(source->encoder);
        source->n_careful--;
    }
    int64_t begin_us = gw_now_us();
    /* Whether the session is over is asked again before QEMU is read. */
    (void)!gw_outbox_wait_room(source->lane->outbox);
    int64_t waited_us = gw_now_us() - begin_us;

    source->waited_link_us += waited_us;
    if (waited_us > BLOCKED_US) {
        source->n_careful = CAREFUL_BATCHES;
    }
}

/* The link runs dry, and for want of encoders. */
static bool
is_in_a_hurry(GwSource *source)
{
    bool waits = source->n_careful > 0 || gw_encoder_has_backlog(source->encoder);

    return waits && !gw_outbox_is_filled(source->lane->outbox);
}

static void
give_batch(GwSource *source)
{
    GwBatchEffort effort = gw_adapt_effort(&source->adapt, is_in_a_hurry(source));
    unsigned off = source->references_ended ? GW_ENCODING_ALL : source->lane->encodings_off;

    effort.images = off & GW_ENCODING_REFERENCE ? NULL : source->lane->references;
    effort.visit = off & GW_ENCODING_VISIT ? NULL : source->lane->references;
    count(source); /* before the peer can have it, and end the session for it */
    if (!gw_batch_is_empty(source->batch)) {
        source->collected_bytes += source->batch->content_bytes;
        gw_encoder_put_batch(source->encoder, source->batch, &effort);
        source->batch = gw_encoder_take_batch(source->encoder);
    }
}

static void
flush(GwSource *source)
{
    give_batch(source);
    wait_for_room(source);
    adapt(source);
}

/* The guest's size is known when its first page comes: the list of its blocks stands before. */
static bool
begin(GwSource *source, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_sized_new(GW_STREAM_BEGIN_BYTES);
    uint64_t guest_bytes = 0;
    GwStreamBegin begin;

    for (unsigned i = 0; i < gw_ram_parser_n_blocks(source->parser); i++) {
        guest_bytes += gw_ram_parser_block_bytes(source->parser, (uint16_t)i);
    }
    if (!gw_page_source_begin(source->pages, guest_bytes, &begin, error)) {
        return false;
    }
    gw_stream_begin_encode(&begin, payload);
    send_payload(source, GW_FRAME_STREAM_BEGIN, payload);
    source->begun = true;
    return true;
}

static void
add_bytes(GwSource *source, const GwRamItem *item)
{
    size_t done = 0;

    gw_page_source_bytes(source->pages, item->data, item->len);
    while (done < item->len) {
        size_t added = gw_batch_add_bytes(source->batch, item->data + done, item->len - done);

        done += added;
        if (added == 0) {
            flush(source);
        }
    }
}

static bool
add_page(GwSource *source, const GwRamItem *item, GError **error)
{
    size_t record_bytes = 8 + (item->kind == GW_RAM_ITEM_PAGE ? GW_PAGE_BYTES : 1);

    if (!source->begun && !begin(source, error)) {
        return false;
    }
    send_new_blocks(source);
    if (item->names_block) {
        record_bytes += 1 + strlen(gw_ram_parser_block_name(source->parser, item->block));
    }
    if (!gw_batch_has_room(source->batch) || source->batch->content_bytes >= source->batch_bytes) {
        flush(source);
    }
    if (source->lane->visit && item->kind == GW_RAM_ITEM_PAGE) {
        gw_visit_writer_put(source->lane->visit, item->block, item->address / GW_PAGE_BYTES,
                            item->data);
    }
    gw_page_source_page(source->pages, item, record_bytes,
                        !gw_ram_parser_hides_changes(source->parser), source->batch);
    return true;
}

/*
 * Behind the first command of a post-copy the guest may start on the target, and write to its
 * disks, while pages still come: before that the target closes them.
 */
static void
end_references(GwSource *source)
{
    g_autoptr(GByteArray) empty = g_byte_array_new();

    flush(source);
    send_payload(source, GW_FRAME_REFERENCES_END, empty);
    source->references_ended = true;
}

static bool
add_item(GwSource *source, const GwRamItem *item, GError **error)
{
    bool hides_changes = gw_ram_parser_hides_changes(source->parser);

    if (source->lane->placed && hides_changes) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "QEMU sends memory in a form that the target cannot write into its QEMU's: "
                    "switch its migration capabilities xbzrle and compress off");
        return false;
    }
    if (source->lane->references && hides_changes && !source->references_ended) {
        end_references(source);
    }
    if (item->kind == GW_RAM_ITEM_BYTES) {
        add_bytes(source, item);
    } else if (!add_page(source, item, error)) {
        return false;
    }
    if (gw_page_source_stream_bytes(source->pages) >= source->next_checkpoint) {
        flush(source);
        send_mark(source, GW_FRAME_CHECKPOINT);
        source->next_checkpoint = gw_page_source_stream_bytes(source->pages) + CHECKPOINT_BYTES;
    }
    return true;
}

static bool
take_in(GwSource *source, size_t len, GError **error)
{
    GwRamItem item;

    gw_ram_parser_fed(source->parser, len);
    while (gw_ram_parser_next(source->parser, &item)) {
        if (!add_item(source, &item, error)) {
            return false;
        }
    }
    return true;
}

/* QEMU has nothing for us now. False: the session is over. */
static bool
wait_for_qemu(GwSource *source)
{
    GwLane *lane = source->lane;
    int timeout_ms = gw_batch_is_empty(source->batch) ? -1 : LINGER_MS;
    int result = gw_wake_wait_fd(lane->stream_fd, POLLIN, lane->cut_fd, timeout_ms);

    if (result == 0) {
        flush(source);
    }
    return result >= 0;
}

/* False: the session is over. True: the stream is, orderly or with @error. */
static bool
pump(GwSource *source, GError **error)
{
    GwLane *lane = source->lane;

    while (gw_outbox_wait_room(lane->outbox) &&
           (!lane->keep || gw_ref_keep_wait_room(lane->keep))) {
        size_t room;
        uint8_t *space = gw_ram_parser_space(source->parser, &room);
        uint32_t piece = gw_outbox_piece_bytes(lane->outbox);
        ssize_t n = recv(lane->stream_fd, space, piece > 0 ? MIN(room, piece) : room, MSG_DONTWAIT);

        if (n > 0) {
            if (!take_in(source, (size_t)n, error)) {
                return true;
            }
            if (piece > 0) {
                flush(source); /* small frames, for the sake of urgent ones */
            }
        } else if (n == 0) {
            return true;
        } else if (errno != EAGAIN && errno != EINTR) {
            gw_set_error_errno(error, errno, "cannot read the migration stream from QEMU");
            return true;
        } else if (errno == EAGAIN && !wait_for_qemu(source)) {
            return false;
        }
    }
    return false;
}

/* @error: transfer full; NULL: QEMU's side ended in order. */
static void
end_stream(GwSource *source, GError *error)
{
    GwLaneEvent event = {.kind = GW_LANE_EVENT_STREAM_END, .error = error};
    GwStreamMark mark;
    GwRamItem rest;

    if (gw_ram_parser_finish(source->parser, &rest)) {
        add_bytes(source, &rest);
    }
    give_batch(source);
    send_mark(source, GW_FRAME_STREAM_END);
    /* What the owner says next must come behind it. */
    gw_encoder_drain(source->encoder);
    count(source);

    gw_page_source_mark(source->pages, &mark);
    event.end.stream_bytes = mark.stream_bytes;
    gw_digest_hex(&mark, event.end.digest);
    event.end.saw_end = gw_ram_parser_saw_end(source->parser);
    gw_lane_post(source->lane, event);
}

/* Threads that encode: half the cores are the guest's and its QEMU's. */
static unsigned
choose_n_workers(void)
{
    return MAX(g_get_num_processors() / 2, 1);
}

static void
run(GwSource *source)
{
    GError *error = NULL;

    gw_adapt_init(&source->adapt, source->lane->encodings_off);
    source->n_careful = CAREFUL_BATCHES;
    source->batch_bytes = BATCH_MIN_BYTES;
    source->sampled_us = gw_now_us();
    (void)gw_processor_times(&source->times_then);
    source->batch = gw_encoder_take_batch(source->encoder);
    if (pump(source, &error)) {
        end_stream(source, error);
    }
    gw_batch_free(source->batch);
}

void *
gw_source_thread(void *data)
{
    GwLane *lane = data;
    GwLaneEvent failure = {.kind = GW_LANE_EVENT_STREAM_END};
    unsigned never = lane->placed ? 0 : GW_ENCODING_EQUAL;
    GwSource source = {
        .lane = lane,
        .parser = gw_ram_parser_new(),
        .pages = gw_page_source_new(lane->encodings_off | never),
        .next_checkpoint = CHECKPOINT_BYTES,
    };

    source.encoder = gw_encoder_new(lane->pool, lane->outbox, choose_n_workers(), &failure.error);
    if (source.encoder) {
        gw_encoder_set_keep(source.encoder, lane->keep);
        run(&source);
    } else {
        gw_lane_post(lane, failure);
    }
    gw_fd_clear(&lane->stream_fd);
    gw_ram_parser_free(source.parser);
    gw_page_source_free(source.pages);
    gw_encoder_free(source.encoder);
    return NULL;
}
