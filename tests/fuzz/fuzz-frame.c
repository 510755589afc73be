// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes what a peer sends: headers, payloads, RAM batches with their codecs, and the page model
 * behind them. The input is what comes out of TLS: frame after frame. Payloads are copied to
 * memory of their exact size, so that every read beyond is seen. Pages that decode must, encoded
 * anew, decode to the same.
 */
#include "lane/batch.h"
#include "lane/frame.h"
#include "lane/page_target.h"
#include "lane/ref_desk.h"
#include "lane/ref_keep.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What QEMU is given is dropped when there is so much of it. */
#define MAX_OUT_BYTES (1024u * 1024u)

#define PLACED_BYTES (16u * 1024u * 1024u)

typedef struct Peer {
    GwFramePool *pool;
    GwBatchDecoder *decoder;
    GwBatchDecoder *again;
    GwBatchEncoder *encoder;
    GwBatch *batch;
    GwPageTarget *pages;
    GByteArray *out;
    GArray *items;  /* of Seen: pages of the batch, as decoded */
    guint compared; /* of them, in the batch encoded anew */
    GwRefSource *source;
    GwRefKeep *keep;
    GwRefDesk *desk;
} Peer;

typedef struct Seen {
    GwBatchKind kind;
    bool names_block;
    uint16_t block;
    uint64_t address;
    uint64_t equal_place;
    uint8_t first;
} Seen;

static Seen
see(const GwBatchItem *item)
{
    return (Seen){
        .kind = item->kind,
        .names_block = item->names_block,
        .block = item->block,
        .address = item->address,
        .equal_place = gw_batch_place(item->equal_block, item->equal_address / GW_PAGE_BYTES),
        .first = item->data ? item->data[0] : 0,
    };
}

static bool
on_item_again(const GwBatchItem *item, void *data, GError **error)
{
    Peer *peer = data;
    Seen seen = see(item);
    const Seen *before = &g_array_index(peer->items, Seen, peer->compared++);

    if (peer->compared > peer->items->len || before->kind != seen.kind ||
        before->names_block != seen.names_block || before->block != seen.block ||
        before->address != seen.address || before->equal_place != seen.equal_place ||
        before->first != seen.first) {
        abort();
    }
    return true;
}

/* What was decoded must, encoded anew, decode to the same. */
static void
encode_again(Peer *peer)
{
    static const GwBatchEffort effort = {.codec = &gw_codec_zstd};
    g_autoptr(GwFrame) frame = gw_batch_encode(peer->encoder, peer->batch, &effort);

    if (frame && (frame->header.payload_bytes > gw_frame_max_payload(GW_FRAME_RAM) ||
                  !gw_batch_decode(peer->again, gw_frame_payload(frame),
                                   frame->header.payload_bytes, on_item_again, peer, NULL))) {
        abort();
    }
}

static void
add_again(Peer *peer, const GwBatchItem *item)
{
    Seen seen = see(item);

    /* Bytes may be split otherwise; deltas and references are not made without what they are of. */
    if (item->kind == GW_BATCH_OPAQUE || item->kind == GW_BATCH_DELTA ||
        item->kind == GW_BATCH_REFERENCE) {
        return;
    }
    if (!gw_batch_has_room(peer->batch)) {
        encode_again(peer);
    }
    g_array_append_val(peer->items, seen);
    gw_batch_add_page(peer->batch, &(GwBatchPage){
                                       .kind = item->kind,
                                       .names_block = item->names_block,
                                       .block = item->block,
                                       .address = item->address,
                                       .equal_place = seen.equal_place,
                                       .content = item->data,
                                   });
}

static bool
on_item(const GwBatchItem *item, void *data, GError **error)
{
    static const uint8_t page[GW_PAGE_BYTES] = {1};
    Peer *peer = data;
    GwBatchItem found = *item;

    add_again(peer, item);
    if (item->kind == GW_BATCH_REFERENCE && item->reference % 8 != 7) {
        found.data = page;
    }
    if (!gw_page_target_put(peer->pages, &found, peer->out, error)) {
        return false;
    }
    if (peer->out->len > MAX_OUT_BYTES) {
        g_byte_array_set_size(peer->out, 0);
    }
    return true;
}

static void
take_batch(Peer *peer, const uint8_t *payload, size_t len)
{
    g_autoptr(GError) error = NULL;

    g_byte_array_set_size(peer->out, 0);
    g_array_set_size(peer->items, 0);
    peer->compared = 0;
    if (gw_batch_decode(peer->decoder, payload, len, on_item, peer, &error) == (error != NULL)) {
        abort();
    }
    encode_again(peer);
    if (peer->compared != peer->items->len) {
        abort();
    }
}

static void
take_payload(Peer *peer, GwFrameType type, const uint8_t *payload, size_t len)
{
    const char *name;
    size_t name_len;
    uint16_t index;
    uint64_t number;
    GwAck ack;
    GwStreamMark mark;
    GwHello hello;
    GwStreamBegin begin;
    GwHello ours = {.version = 2, .oldest_version = 1};
    g_autoptr(GError) error = NULL;

    switch (type) {
    case GW_FRAME_HELLO:
        (void)(gw_hello_decode(payload, len, &hello, &error) &&
               gw_hello_agree(&ours, &hello, &index, &error));
        break;
    case GW_FRAME_REFUSE:
        error = gw_refuse_decode(payload, len);
        break;
    case GW_FRAME_BLOCK:
        (void)(gw_block_decode(payload, len, &index, &name, &name_len, &error) &&
               gw_page_target_add_block(peer->pages, index, name, name_len, &error));
        break;
    case GW_FRAME_STREAM_BEGIN:
        (void)(gw_stream_begin_decode(payload, len, &begin, &error) &&
               gw_page_target_begin(peer->pages, &begin, &error));
        break;
    case GW_FRAME_RAM:
        take_batch(peer, payload, len);
        break;
    case GW_FRAME_CHECKPOINT:
    case GW_FRAME_STREAM_END:
        (void)!gw_mark_decode(payload, len, &mark, &error);
        break;
    case GW_FRAME_ACK:
    case GW_FRAME_BYTES_ACK:
        (void)!gw_ack_decode(payload, len, &ack, &error);
        break;
    case GW_FRAME_NEED:
        (void)!gw_ref_keep_take_need(peer->keep, payload, len, &error);
        break;
    case GW_FRAME_FILL:
        (void)!gw_ref_desk_take_fill(peer->desk, payload, len, &error);
        break;
    case GW_FRAME_PING:
    case GW_FRAME_PONG:
        (void)!gw_number_decode(payload, len, &number, &error);
        break;
    case GW_FRAME_REFERENCES_END:
        gw_ref_desk_close(peer->desk);
        break;
    case GW_FRAME_CONTROL:
    case GW_FRAME_GOODBYE:
    case GW_FRAME_PROBE:
    case GW_FRAME_OPEN: /* what these carry is QEMU's */
    case GW_FRAME_BYTES:
    case GW_FRAME_END:
        break;
    }
}

/* One for all inputs, into a file instead of a process: what an input reads back it has put. */
static GwPlacer *
get_placer(void)
{
    static GwPlacer *placer;

    if (!placer) {
        int memory_fd = memfd_create("memory", MFD_CLOEXEC);
        int map_fd = memfd_create("map", MFD_CLOEXEC);

        if (ftruncate(memory_fd, PLACED_BYTES) < 0 ||
            ftruncate(map_fd, PLACED_BYTES / GW_PAGE_BYTES * 8) < 0) {
            abort();
        }
        placer = gw_placer_new(memory_fd, map_fd, NULL);
        if (!placer || !gw_placer_add_block(placer, "pc.ram", 0, PLACED_BYTES)) {
            abort();
        }
    }
    return placer;
}

static void
no_wake(void *data)
{
    /* Nobody sends. */
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    Peer peer = {
        .pool = gw_frame_pool_new(),
        .decoder = gw_batch_decoder_new(),
        .again = gw_batch_decoder_new(),
        .encoder = gw_batch_encoder_new(0),
        .pages = gw_page_target_new(
            &(GwPageTargetCaps){.table_bytes = 8u << 20, .copy_bytes = 16 * GW_PAGE_BYTES}),
        .out = g_byte_array_new(),
        .items = g_array_new(FALSE, FALSE, sizeof(Seen)),
    };
    GwFrameHeader header;

    peer.batch = gw_batch_new(peer.pool);
    gw_page_target_place(peer.pages, get_placer());
    peer.source = gw_ref_source_new(&(GwRefSourceOptions){.cache_folder = NULL});
    peer.keep = gw_ref_keep_new(peer.source, no_wake, NULL);
    peer.desk = gw_ref_desk_new(no_wake, NULL);
    while (len >= GW_FRAME_HEADER_BYTES && gw_frame_decode_header(data, &header, NULL)) {
        data += GW_FRAME_HEADER_BYTES;
        len -= GW_FRAME_HEADER_BYTES;
        size_t payload_len = MIN(len, header.payload_bytes);
        g_autofree uint8_t *payload = g_memdup2(data, payload_len);

        take_payload(&peer, header.type, payload, payload_len);
        data += payload_len;
        len -= payload_len;
    }
    gw_ref_desk_free(peer.desk);
    gw_ref_keep_free(peer.keep);
    gw_ref_source_free(peer.source);
    gw_batch_encoder_free(peer.encoder);
    gw_batch_decoder_free(peer.decoder);
    gw_batch_decoder_free(peer.again);
    gw_batch_free(peer.batch);
    gw_page_target_free(peer.pages);
    g_byte_array_unref(peer.out);
    g_array_unref(peer.items);
    gw_frame_pool_free(peer.pool);
    return 0;
}
