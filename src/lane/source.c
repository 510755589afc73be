// SPDX-License-Identifier: Apache-2.0
/*
 * The stream thread: QEMU's migration stream → parser → batches → outbox.
 *
 * Owns parser, batch encoder, digest and the socket to QEMU, which is closed when the thread ends:
 * that is how QEMU learns of a session that died. It reads only while the window has room, so
 * back-pressure reaches QEMU through its socket.
 *
 * A batch leaves when it is full, or when QEMU has been silent for LINGER_MS. Every
 * CHECKPOINT_BYTES a digest over all bytes taken so far goes ahead of the batch that reaches that
 * place. Memory: about 3 MiB. Fails by a stream_end with an error; the peer then gets a stream
 * that ends early.
 */
#include "base/units.h"
#include "lane/batch.h"
#include "lane/digest.h"
#include "lane/session.h"
#include "lane/wake.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#define LINGER_MS        1
#define CHECKPOINT_BYTES (16u * 1024u * 1024u)

typedef struct GwSource {
    GwLane *lane;
    GwRamParser *parser;
    GwBatchEncoder *encoder;
    GwDigest *digest;
    unsigned blocks_sent;
    uint64_t next_checkpoint;
    uint64_t pages; /* since they were counted last */
    uint64_t zero_pages;
    int64_t cpu_us;
} GwSource;

static void
send_payload(GwSource *source, GwFrameType type, const GByteArray *payload)
{
    gw_outbox_push(source->lane->outbox, gw_frame_new_with(source->lane->pool, type, payload));
}

static void
send_mark(GwSource *source, GwFrameType type)
{
    g_autoptr(GByteArray) payload = g_byte_array_sized_new(GW_MARK_BYTES);
    GwStreamMark mark;

    gw_digest_mark(source->digest, &mark);
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

        gw_block_encode(index, gw_ram_parser_block_name(source->parser, index), payload);
        send_payload(source, GW_FRAME_BLOCK, payload);
    }
}

static void
count(GwSource *source)
{
    GwLane *lane = source->lane;

    pthread_mutex_lock(&lane->lock);
    lane->stats.stream_bytes = gw_digest_bytes(source->digest);
    lane->stats.pages += source->pages;
    lane->stats.zero_pages += source->zero_pages;
    lane->stats.opaque = gw_ram_parser_is_opaque(source->parser, NULL);
    pthread_mutex_unlock(&lane->lock);
    source->pages = 0;
    source->zero_pages = 0;
    gw_lane_count_cpu(lane, &source->cpu_us);
}

static void
flush(GwSource *source)
{
    GwFrame *frame = gw_batch_encoder_take(source->encoder);

    if (frame) {
        send_new_blocks(source);
        gw_outbox_push(source->lane->outbox, frame);
    }
    count(source);
}

static void
add_item(GwSource *source, GwRamItem *item)
{
    source->pages += item->kind == GW_RAM_ITEM_PAGE;
    source->zero_pages += item->kind == GW_RAM_ITEM_ZERO;
    while (!gw_batch_encoder_add(source->encoder, item)) {
        flush(source);
    }
}

static void
take_in(GwSource *source, const uint8_t *data, size_t len)
{
    GwRamItem item;

    gw_digest_add(source->digest, data, len);
    if (gw_digest_bytes(source->digest) >= source->next_checkpoint) {
        send_mark(source, GW_FRAME_CHECKPOINT);
        source->next_checkpoint = gw_digest_bytes(source->digest) + CHECKPOINT_BYTES;
    }
    gw_ram_parser_fed(source->parser, len);
    while (gw_ram_parser_next(source->parser, &item)) {
        add_item(source, &item);
    }
}

/* QEMU has nothing for us now. False: the session is over. */
static bool
wait_for_qemu(GwSource *source)
{
    GwLane *lane = source->lane;
    int timeout_ms = gw_batch_encoder_is_empty(source->encoder) ? -1 : LINGER_MS;
    int result = gw_wake_wait_fd(lane->stream_fd, POLLIN, lane->cut_fd, timeout_ms);

    if (result == 0) {
        flush(source);
    }
    return result >= 0;
}

/* False: the session is over. True: QEMU's side ended, with *@errnum 0 if orderly. */
static bool
pump(GwSource *source, int *errnum)
{
    GwLane *lane = source->lane;

    while (gw_outbox_wait_room(lane->outbox)) {
        size_t room;
        uint8_t *space = gw_ram_parser_space(source->parser, &room);
        uint32_t piece = gw_outbox_piece_bytes(lane->outbox);
        ssize_t n = recv(lane->stream_fd, space, piece > 0 ? MIN(room, piece) : room, MSG_DONTWAIT);

        if (n > 0) {
            take_in(source, space, (size_t)n);
            if (piece > 0) {
                flush(source); /* small frames, for the sake of urgent ones */
            }
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            *errnum = n == 0 ? 0 : errno;
            return true;
        } else if (errno == EAGAIN && !wait_for_qemu(source)) {
            return false;
        }
    }
    return false;
}

static void
end_stream(GwSource *source, int errnum)
{
    GwLaneEvent event = {.kind = GW_LANE_EVENT_STREAM_END};
    GwStreamMark mark;
    GwRamItem item;

    if (gw_ram_parser_finish(source->parser, &item)) {
        add_item(source, &item);
    }
    flush(source);
    send_mark(source, GW_FRAME_STREAM_END);

    gw_digest_mark(source->digest, &mark);
    event.end.stream_bytes = mark.stream_bytes;
    gw_digest_hex(&mark, event.end.digest);
    event.end.saw_end = gw_ram_parser_saw_end(source->parser);
    if (errnum != 0) {
        gw_set_error_errno(&event.error, errnum, "cannot read the migration stream from QEMU");
    }
    gw_lane_post(source->lane, event);
}

void *
gw_source_thread(void *data)
{
    GwLane *lane = data;
    GwSource source = {
        .lane = lane,
        .parser = gw_ram_parser_new(),
        .encoder = gw_batch_encoder_new(&gw_codec_zstd, lane->pool),
        .digest = gw_digest_new(),
        .next_checkpoint = CHECKPOINT_BYTES,
    };
    int errnum;

    if (pump(&source, &errnum)) {
        end_stream(&source, errnum);
    }
    gw_fd_clear(&lane->stream_fd);
    count(&source);
    gw_ram_parser_free(source.parser);
    gw_batch_encoder_free(source.encoder);
    gw_digest_free(source.digest);
    return NULL;
}
