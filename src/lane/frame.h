// SPDX-License-Identifier: Apache-2.0
/*
 * The wire format of the lane: frames and their payloads. docs/wire-format.md tells it in prose.
 *
 * All numbers are big-endian. A connection is a TLS 1.3 stream of frames in both directions; the
 * first frame of each side is HELLO (or REFUSE).
 *
 * Frame header, 16 bytes:
 *
 *     offset size
 *          0    4  payload bytes that follow, at most gw_frame_max_payload(type)
 *          4    1  type, GwFrameType
 *          5    1  0
 *          6    2  channel, GwChannel
 *          8    8  sequence: 1, 2, 3 … per direction and class for ordered types, 0 for the others
 *
 * Ordered types are of one of two classes, which are numbered, acknowledged and kept apart: bulk
 * (control messages, the migration stream) and urgent (byte channels). Urgent frames never wait
 * for bulk ones.
 *
 * Payloads:
 *
 *     HELLO       0  8  magic "GODWIT\r\n"
 *                 8  2  protocol version of the sender
 *                10  2  oldest version that it still speaks
 *                12  4  flags: GW_HELLO_URGENT, the others 0
 *                16 16  session id, random, chosen by the side that connected, echoed by the other
 *                32  1  0: a new session; 1: one more connection of a session that exists
 *                33  1  which of the session's links this connection is for
 *                34  2  0
 *                36  4  attempt: grows with every connection that is tried for this link
 *                40 16  instance of the sender's daemon, random, another one after each start
 *                56 32  ticket: in the answer to a new session the secret that later connections
 *                       have to show, in a connection to one that exists that secret; else 0
 *                88  8  every bulk frame up to this sequence has been dealt with
 *                96  8  every bulk frame up to this sequence has been received
 *               104  2  n, bytes of bitmap, at most GW_RECEIVED_MAP_BYTES
 *               106  n  bitmap, lowest bit first: frames received of those that follow
 *           106 + n 18  the same three numbers for urgent frames, with a length m
 *           124 + n  m  the bitmap for urgent frames
 *                       (bytes beyond belong to later versions and are skipped)
 *     REFUSE      JSON {"code": …, "message": …}: why the session cannot begin or go on
 *     CONTROL     one JSON object
 *     STREAM_BEGIN
 *                 0 32  key of the page tags (page_tag.h)
 *                32  8  limits of the page memories (page_memory.h): bytes for tags,
 *                40  4  number of copies
 *     BLOCK       0  2  index of a RAM block of the stream: 0, 1, 2 … in order of appearance
 *                 2  n  its name, 1 to 255 bytes
 *     RAM         a batch of the stream: batch.h
 *     CHECKPOINT  0  8  bytes of QEMU's stream that the frames before this one stand for
 *                 8 16  digest over them (digest.h)
 *     STREAM_END  the same for the whole stream; no stream frame may follow
 *     REFERENCES_END
 *                 empty: no frame behind this one has references
 *     OPEN        empty: the sender has opened this byte channel
 *     BYTES       1 to GW_BYTES_MAX_BYTES bytes of the channel
 *     END         empty: no more bytes of the channel come from the sender
 *     ACK         0  8  every bulk frame up to this sequence has been dealt with
 *                 8  8  bytes of all bulk frames received, headers included, each counted once
 *     BYTES_ACK   the same for urgent frames
 *     PING, PONG  0  8  any number; PONG repeats PING's
 *     GOODBYE     empty: the sender is done with the session
 *     NEED, FILL  about references that a target cannot prove: image_ref.h
 *     PROBE       any bytes, without a meaning: the sender measures the link
 *
 * Ordered types are CONTROL, STREAM_BEGIN, BLOCK, RAM, CHECKPOINT, REFERENCES_END and STREAM_END
 * (bulk), OPEN, BYTES and END (urgent). Pure; any thread. Errors: GW_ERROR_PROTOCOL,
 * GW_ERROR_UNSUPPORTED for versions.
 */
#pragma once

#include "base/error.h"
#include "lane/page_memory.h"

#include <stddef.h>
#include <stdint.h>

#define GW_LANE_VERSION        2u
#define GW_LANE_OLDEST_VERSION 2u

#define GW_FRAME_HEADER_BYTES 16u
#define GW_HELLO_BYTES        124u /* without bitmaps */
#define GW_HELLO_MAX_BYTES    512u
#define GW_SESSION_ID_BYTES   16u
#define GW_INSTANCE_BYTES     16u
#define GW_TICKET_BYTES       32u
#define GW_RECEIVED_MAP_BYTES 128u
#define GW_LANE_MAX_LINKS     8u
/* Of one direction, ordered frames that are sent and not acknowledged. */
#define GW_LANE_MAX_UNACKED     16384u
#define GW_PROBE_MAX_BYTES      65536u
#define GW_REFUSE_MAX_BYTES     4096u
#define GW_BLOCK_NAME_MAX_BYTES 255u
#define GW_DIGEST_BYTES         16u
#define GW_MARK_BYTES           (8u + GW_DIGEST_BYTES)
#define GW_STREAM_BEGIN_BYTES   (GW_PAGE_TAG_KEY_BYTES + 12u)
#define GW_BYTES_MAX_BYTES      (64u * 1024u)

/* HELLO's flags: while it has a connection this link carries the urgent frames, and no others. */
#define GW_HELLO_URGENT 1u

typedef enum GwFrameType {
    GW_FRAME_HELLO = 1,
    GW_FRAME_REFUSE = 2,
    GW_FRAME_CONTROL = 3,
    GW_FRAME_BLOCK = 4,
    GW_FRAME_RAM = 5,
    GW_FRAME_CHECKPOINT = 6,
    GW_FRAME_STREAM_END = 7,
    GW_FRAME_ACK = 8,
    GW_FRAME_PING = 9,
    GW_FRAME_PONG = 10,
    GW_FRAME_GOODBYE = 11,
    GW_FRAME_STREAM_BEGIN = 12,
    GW_FRAME_NEED = 14,
    GW_FRAME_FILL = 15,
    GW_FRAME_OPEN = 16,
    GW_FRAME_BYTES = 17,
    GW_FRAME_END = 18,
    GW_FRAME_BYTES_ACK = 19,
    GW_FRAME_PROBE = 20,
    GW_FRAME_REFERENCES_END = 21,
} GwFrameType;

typedef enum GwChannel {
    GW_CHANNEL_CONTROL = 0,
    GW_CHANNEL_RAM = 1,
    GW_CHANNEL_RETURN_PATH = 2, /* byte channels from here on */
    GW_CHANNEL_PREEMPT = 3,
    GW_CHANNEL_N,
} GwChannel;

#define GW_CHANNEL_FIRST_BYTES GW_CHANNEL_RETURN_PATH
#define GW_CHANNEL_N_BYTES     (GW_CHANNEL_N - GW_CHANNEL_FIRST_BYTES)

typedef struct GwFrameHeader {
    uint32_t payload_bytes;
    GwFrameType type;
    uint16_t channel; /* OPEN, BYTES and END: which; with the others it follows from the type */
    uint64_t sequence;
} GwFrameHeader;

/* What one side has of the other's ordered frames. */
typedef struct GwReceived {
    uint64_t handled; /* dealt with: all up to here */
    uint64_t whole;   /* received: all up to here; not below `handled` */
    uint16_t map_bytes;
    uint8_t map[GW_RECEIVED_MAP_BYTES]; /* of those after `whole` */
} GwReceived;

typedef struct GwHello {
    uint16_t version;
    uint16_t oldest_version;
    uint32_t flags;
    uint8_t session_id[GW_SESSION_ID_BYTES];
    bool joins;
    uint8_t link;
    uint32_t attempt;
    uint8_t instance[GW_INSTANCE_BYTES];
    uint8_t ticket[GW_TICKET_BYTES];
    GwReceived received; /* bulk frames */
    GwReceived urgent;
} GwHello;

typedef struct GwStreamBegin {
    uint8_t key[GW_PAGE_TAG_KEY_BYTES];
    GwPageMemoryLimits limits;
} GwStreamBegin;

/* CHECKPOINT and STREAM_END. */
typedef struct GwStreamMark {
    uint64_t stream_bytes;
    uint8_t digest[GW_DIGEST_BYTES];
} GwStreamMark;

/* "RAM"; "unknown" for anything that is not a type. */
const char *gw_frame_type_name(GwFrameType type);
bool gw_frame_is_ordered(GwFrameType type);
/* Of the urgent class. */
bool gw_frame_is_urgent(GwFrameType type);
/* Stream frames travel only from the side that connected to the side that accepted. */
bool gw_frame_is_stream(GwFrameType type);
uint32_t gw_frame_max_payload(GwFrameType type);

/* Writes GW_FRAME_HEADER_BYTES. */
void gw_frame_encode_header(const GwFrameHeader *header, uint8_t *out);
/* Reads GW_FRAME_HEADER_BYTES; type, length, channel and the presence of a sequence are checked. */
bool gw_frame_decode_header(const uint8_t *in, GwFrameHeader *out, GError **error) GW_MUST_USE;

/* Whether @received covers @sequence. */
bool gw_received_has(const GwReceived *received, uint64_t sequence);

void gw_hello_encode(const GwHello *hello, GByteArray *out);
bool gw_hello_decode(const uint8_t *payload, size_t len, GwHello *out, GError **error) GW_MUST_USE;
/* The version that both speak: the newer of what both allow. */
bool gw_hello_agree(const GwHello *ours, const GwHello *theirs, uint16_t *version,
                    GError **error) GW_MUST_USE;

/* The message is cut to what fits. */
void gw_refuse_encode(const GError *refusal, GByteArray *out);
/* Never fails: what cannot be read becomes an error that says so. Transfer full. */
GError *gw_refuse_decode(const uint8_t *payload, size_t len) GW_MUST_USE;

void gw_block_encode(uint16_t index, const char *name, GByteArray *out);
/* @name points into @payload and is not terminated. */
bool gw_block_decode(const uint8_t *payload, size_t len, uint16_t *index, const char **name,
                     size_t *name_len, GError **error) GW_MUST_USE;

void gw_stream_begin_encode(const GwStreamBegin *begin, GByteArray *out);
bool gw_stream_begin_decode(const uint8_t *payload, size_t len, GwStreamBegin *out,
                            GError **error) GW_MUST_USE;

void gw_mark_encode(const GwStreamMark *mark, GByteArray *out);
bool gw_mark_decode(const uint8_t *payload, size_t len, GwStreamMark *out,
                    GError **error) GW_MUST_USE;

typedef struct GwAck {
    uint64_t sequence;
    uint64_t received_bytes;
} GwAck;

void gw_ack_encode(const GwAck *ack, GByteArray *out);
bool gw_ack_decode(const uint8_t *payload, size_t len, GwAck *out, GError **error) GW_MUST_USE;

/* PING, PONG. */
void gw_number_encode(uint64_t number, GByteArray *out);
bool gw_number_decode(const uint8_t *payload, size_t len, uint64_t *out,
                      GError **error) GW_MUST_USE;
