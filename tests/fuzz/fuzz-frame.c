// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes what a peer sends: headers, payloads, RAM batches with their codecs, and the writer
 * behind them. The input is what comes out of TLS: frame after frame. Payloads are copied to
 * memory of their exact size, so that every read beyond is seen. A batch that decodes must, encoded
 * anew, decode to the same items.
 */
#include "lane/batch.h"
#include "lane/frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* More output is not worth the time: a batch of zero pages makes 30 bytes of one bit. */
#define MAX_OUT_BYTES (1024u * 1024u)

typedef struct Peer {
    GwFramePool *pool;
    GwBatchDecoder *decoder;
    GwBatchEncoder *encoder;
    GwRamWriter *writer;
    GByteArray *out;
    GByteArray *again; /* the same from the batch encoded anew */
    bool encoding;
} Peer;

static bool take_again(Peer *peer);

static bool
on_item(const GwRamItem *item, void *data, GError **error)
{
    Peer *peer = data;
    GwRamItem copy = *item;

    if (peer->out->len < MAX_OUT_BYTES &&
        !gw_ram_writer_put(peer->writer, item, peer->out, error)) {
        peer->encoding = false;
        return false;
    }
    while (!gw_batch_encoder_add(peer->encoder, &copy)) {
        if (!take_again(peer)) {
            abort();
        }
    }
    return true;
}

static bool
on_item_again(const GwRamItem *item, void *data, GError **error)
{
    Peer *peer = data;

    return peer->again->len >= MAX_OUT_BYTES ||
           gw_ram_writer_put(peer->writer, item, peer->again, error);
}

/* Decodes what the encoder has collected. It was taken in from a batch, so it must be right. */
static bool
take_again(Peer *peer)
{
    g_autoptr(GwFrame) frame = gw_batch_encoder_take(peer->encoder);
    g_autoptr(GwBatchDecoder) decoder = gw_batch_decoder_new();

    return !frame || (frame->header.payload_bytes <= gw_frame_max_payload(GW_FRAME_RAM) &&
                      gw_batch_decode(decoder, gw_frame_payload(frame), frame->header.payload_bytes,
                                      on_item_again, peer, NULL));
}

static void
take_batch(Peer *peer, const uint8_t *payload, size_t len)
{
    g_autoptr(GError) error = NULL;

    g_byte_array_set_size(peer->out, 0);
    g_byte_array_set_size(peer->again, 0);
    peer->encoding = true;
    bool decoded = gw_batch_decode(peer->decoder, payload, len, on_item, peer, &error);

    if (decoded == (error != NULL)) {
        abort();
    }
    if (!peer->encoding) {
        gw_frame_free(gw_batch_encoder_take(peer->encoder));
        return;
    }
    if (!take_again(peer)) {
        abort();
    }
    size_t comparable = MIN(peer->out->len, peer->again->len);

    if (comparable < MAX_OUT_BYTES && peer->out->len != peer->again->len) {
        abort();
    }
    if (comparable > 0 && memcmp(peer->out->data, peer->again->data, comparable) != 0) {
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
               gw_ram_writer_add_block(peer->writer, name, name_len, &error));
        break;
    case GW_FRAME_RAM:
        take_batch(peer, payload, len);
        break;
    case GW_FRAME_CHECKPOINT:
    case GW_FRAME_STREAM_END:
        (void)!gw_mark_decode(payload, len, &mark, &error);
        break;
    case GW_FRAME_ACK:
        (void)!gw_ack_decode(payload, len, &ack, &error);
        break;
    case GW_FRAME_PING:
    case GW_FRAME_PONG:
        (void)!gw_number_decode(payload, len, &number, &error);
        break;
    case GW_FRAME_CONTROL:
    case GW_FRAME_GOODBYE:
        break;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    Peer peer = {
        .pool = gw_frame_pool_new(),
        .decoder = gw_batch_decoder_new(),
        .writer = gw_ram_writer_new(),
        .out = g_byte_array_new(),
        .again = g_byte_array_new(),
    };
    GwFrameHeader header;

    peer.encoder = gw_batch_encoder_new(&gw_codec_zstd, peer.pool);
    while (len >= GW_FRAME_HEADER_BYTES && gw_frame_decode_header(data, &header, NULL)) {
        data += GW_FRAME_HEADER_BYTES;
        len -= GW_FRAME_HEADER_BYTES;
        size_t payload_len = MIN(len, header.payload_bytes);
        g_autofree uint8_t *payload = g_memdup2(data, payload_len);

        take_payload(&peer, header.type, payload, payload_len);
        data += payload_len;
        len -= payload_len;
    }
    gw_batch_encoder_free(peer.encoder);
    gw_batch_decoder_free(peer.decoder);
    gw_ram_writer_free(peer.writer);
    g_byte_array_unref(peer.out);
    g_byte_array_unref(peer.again);
    gw_frame_pool_free(peer.pool);
    return 0;
}
