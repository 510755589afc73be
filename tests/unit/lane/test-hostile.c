// SPDX-License-Identifier: Apache-2.0
/*
 * Peers with a good certificate and bad manners. Each runs in a thread with GnuTLS by hand; the
 * session under test must end with a clear error, tell the peer, and leak or hang nothing.
 */
#include "base/cursor.h"
#include "base/units.h"
#include "harness.h"
#include "lane/batch.h"
#include "lane/digest.h"
#include "rawpeer.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 30000

typedef struct Villain Villain;
typedef void (*Villainy)(RawPeer *peer, Villain *villain);

struct Villain {
    Rig rig;
    Villainy act;
    GThread *thread;
    GwFramePool *pool;
    GByteArray *refusal; /* what it was told, if anything */
    gint stage;          /* atomic: how far it got */
    int listen_fd;       /* as a server */
    bool skip_greeting;
};

static void *
run_client(void *data)
{
    Villain *villain = data;
    RawPeer peer;

    g_assert_true(raw_open(&peer, raw_connect_tcp(gw_lane_server_port(villain->rig.server)), false,
                           villain->rig.dir, "ca", "beta"));
    if (villain->skip_greeting || raw_greet(&peer)) {
        villain->act(&peer, villain);
    }
    raw_close(&peer);
    return NULL;
}

static void
villain_init(Villain *villain, Villainy act, int64_t timeout_ms)
{
    *villain = (Villain){.act = act, .pool = gw_frame_pool_new()};
    rig_init(&villain->rig, timeout_ms);
}

static void
villain_clear(Villain *villain)
{
    if (villain->thread) {
        g_thread_join(villain->thread);
    }
    gw_frame_pool_free(villain->pool);
    if (villain->refusal) {
        g_byte_array_unref(villain->refusal);
    }
    rig_clear(&villain->rig);
}

static void stream_after_end(RawPeer *peer, Villain *villain);

/* Runs @act as a client; the accepted side is to end with @code and @words, told to the villain. */
static void
expect_caught(Villainy act, GwErrorCode code, const char *words)
{
    Villain villain;
    Drain drain;

    villain_init(&villain, act, TIMEOUT_MS);
    villain.thread = g_thread_new("villain", run_client, &villain);
    WAIT_FOR(villain.rig.accepted.lane);
    drain_init(&drain);
    drain_start(&drain);
    /* Who misbehaved at once may have been thrown out already. */
    bool started = gw_lane_start_stream(villain.rig.accepted.lane, drain.lane_fd, NULL);
    g_assert_true(started || villain.rig.accepted.closed);
    WAIT_FOR(villain.rig.accepted.closed);
    g_test_message("%s", villain.rig.accepted.closed->message);
    g_assert_error(villain.rig.accepted.closed, GW_ERROR, (int)code);
    g_assert_nonnull(strstr(villain.rig.accepted.closed->message, words));
    /* A stream that was whole stays so, whatever is sent behind it. */
    if (villain.rig.accepted.ended && act != stream_after_end) {
        g_assert_nonnull(villain.rig.accepted.end_error);
    }
    g_clear_pointer(&villain.rig.accepted.lane, gw_lane_free);
    drain_join(&drain);
    drain_clear(&drain);
    g_thread_join(g_steal_pointer(&villain.thread));
    g_assert_nonnull(villain.refusal);
    g_autoptr(GError) told = gw_refuse_decode(villain.refusal->data, villain.refusal->len);
    g_assert_error(told, GW_ERROR, (int)code);
    g_assert_nonnull(strstr(told->message, words));
    villain_clear(&villain);
}

static void
hear_refusal(RawPeer *peer, Villain *villain)
{
    villain->refusal = raw_expect(peer, GW_FRAME_REFUSE);
}

/* --- stream frames made by hand --------------------------------------------------------------- */

static void
send_begin(RawPeer *peer, uint64_t table_bytes, uint32_t copies)
{
    GwStreamBegin begin = {.key = "key", .limits = {.table_bytes = table_bytes, .copies = copies}};
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_stream_begin_encode(&begin, payload);
    raw_send_frame(peer, GW_FRAME_STREAM_BEGIN, payload->data, payload->len);
}

static void
send_block(RawPeer *peer, uint16_t index, const char *name)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_block_encode(index, name, payload);
    raw_send_frame(peer, GW_FRAME_BLOCK, payload->data, payload->len);
}

static void
send_batch(RawPeer *peer, GwBatch *batch)
{
    static const GwBatchEffort plain = {.codec = &gw_codec_plain};
    g_autoptr(GwBatchEncoder) encoder = gw_batch_encoder_new(0);
    g_autoptr(GwFrame) frame = gw_batch_encode(encoder, batch, &plain);

    raw_send_frame(peer, GW_FRAME_RAM, gw_frame_payload(frame), frame->header.payload_bytes);
}

static void
send_bytes(RawPeer *peer, Villain *villain, const void *data, size_t len)
{
    g_autoptr(GwBatch) batch = gw_batch_new(villain->pool);

    g_assert_cmpuint(gw_batch_add_bytes(batch, data, len), ==, len);
    send_batch(peer, batch);
}

static void
send_page(RawPeer *peer, Villain *villain, const GwBatchPage *page)
{
    g_autoptr(GwBatch) batch = gw_batch_new(villain->pool);

    gw_batch_add_page(batch, page);
    send_batch(peer, batch);
}

static void
send_mark(RawPeer *peer, GwFrameType type, const void *data, size_t len, uint64_t bytes)
{
    g_autoptr(GwDigest) digest = gw_digest_new();
    g_autoptr(GByteArray) payload = g_byte_array_new();
    GwStreamMark mark;

    gw_digest_add(digest, data, len);
    gw_digest_mark(digest, &mark);
    mark.stream_bytes = bytes;
    gw_mark_encode(&mark, payload);
    raw_send_frame(peer, type, payload->data, payload->len);
}

static void
wrong_digest(RawPeer *peer, Villain *villain)
{
    send_bytes(peer, villain, "stream", 6);
    send_mark(peer, GW_FRAME_STREAM_END, "scream", 6, 6);
    hear_refusal(peer, villain);
}

static void
wrong_length(RawPeer *peer, Villain *villain)
{
    send_bytes(peer, villain, "stream", 6);
    send_mark(peer, GW_FRAME_STREAM_END, "stream", 6, 7);
    hear_refusal(peer, villain);
}

/* Found in the middle, long before the end. */
static void
wrong_checkpoint(RawPeer *peer, Villain *villain)
{
    send_bytes(peer, villain, "abcde", 5);
    send_mark(peer, GW_FRAME_CHECKPOINT, "abcdX", 5, 5);
    hear_refusal(peer, villain);
}

static void
early_checkpoint(RawPeer *peer, Villain *villain)
{
    send_bytes(peer, villain, "abc", 3);
    send_mark(peer, GW_FRAME_CHECKPOINT, "abcdef", 6, 6);
    hear_refusal(peer, villain);
}

static void
damaged_batch(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_RAM, "\1\0\0\0\0\0\20\0\0\0\0\2\0\0\0\1abc", 19);
    hear_refusal(peer, villain);
}

static void
fill_for_nothing(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_FILL, "\0\0\0\0\0\0\0\1\0\0\0\0\0", 13);
    hear_refusal(peer, villain);
}

static void
cut_fill(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_FILL, "\0\0", 2);
    hear_refusal(peer, villain);
}

static void
need_to_target(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_NEED, "\0\0\0\0\0\0\0\1\0\0", 10);
    hear_refusal(peer, villain);
}

static void
send_references(RawPeer *peer)
{
    uint8_t payload[16 + 4 + 34] = {[3] = 1, [15] = 4, [16] = 1 << 3 | GW_BATCH_JUMP};

    payload[18] = 1 << 3 | GW_BATCH_REFERENCE;
    payload[19] = 1 << 3 | GW_BATCH_ZERO;
    raw_send_frame(peer, GW_FRAME_RAM, payload, sizeof(payload));
}

/* One page, with a section of references that was never agreed on. */
static void
unexpected_references(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, 0);
    send_block(peer, 0, "pc.ram");
    send_references(peer);
    hear_refusal(peer, villain);
}

/* It had said that there are no more. */
static void
references_after_their_end(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, 0);
    send_block(peer, 0, "pc.ram");
    raw_send_frame(peer, GW_FRAME_REFERENCES_END, "", 0);
    send_references(peer);
    hear_refusal(peer, villain);
}

/* A reference, and no section for it. */
static void
reference_without_section(RawPeer *peer, Villain *villain)
{
    uint8_t payload[16 + 3] = {[15] = 3, [16] = 1 << 3 | GW_BATCH_JUMP};

    payload[18] = 1 << 3 | GW_BATCH_REFERENCE;
    send_begin(peer, 1 << 20, 0);
    send_block(peer, 0, "pc.ram");
    raw_send_frame(peer, GW_FRAME_RAM, payload, sizeof(payload));
    hear_refusal(peer, villain);
}

static void
unknown_block(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, 0);
    send_block(peer, 0, "pc.ram");
    send_page(peer, villain,
              &(GwBatchPage){.kind = GW_BATCH_ZERO, .names_block = true, .block = 1});
    hear_refusal(peer, villain);
}

static void
skipped_block(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, 0);
    send_block(peer, 1, "pc.ram");
    hear_refusal(peer, villain);
}

static void
block_before_begin(RawPeer *peer, Villain *villain)
{
    send_block(peer, 0, "pc.ram");
    hear_refusal(peer, villain);
}

static void
page_before_begin(RawPeer *peer, Villain *villain)
{
    send_page(peer, villain, &(GwBatchPage){.kind = GW_BATCH_ZERO, .names_block = true});
    hear_refusal(peer, villain);
}

static void
two_begins(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, 0);
    send_begin(peer, 1 << 20, 0);
    hear_refusal(peer, villain);
}

static void
huge_table(RawPeer *peer, Villain *villain)
{
    send_begin(peer, UINT64_MAX, 0);
    hear_refusal(peer, villain);
}

static void
huge_copies(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, UINT32_MAX);
    hear_refusal(peer, villain);
}

static void
cut_begin(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_STREAM_BEGIN, "key", 3);
    hear_refusal(peer, villain);
}

static void
same_as_nothing(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, 16);
    send_block(peer, 0, "pc.ram");
    send_page(peer, villain, &(GwBatchPage){.kind = GW_BATCH_SAME});
    hear_refusal(peer, villain);
}

/* Sent with content, but then as zero. */
static void
same_as_zero(RawPeer *peer, Villain *villain)
{
    static const uint8_t content[GW_PAGE_BYTES] = "content";

    send_begin(peer, 1 << 20, 16);
    send_block(peer, 0, "pc.ram");
    send_page(peer, villain,
              &(GwBatchPage){.kind = GW_BATCH_CONTENT, .names_block = true, .content = content});
    send_page(peer, villain, &(GwBatchPage){.kind = GW_BATCH_ZERO});
    send_page(peer, villain, &(GwBatchPage){.kind = GW_BATCH_SAME});
    hear_refusal(peer, villain);
}

/* Where pages are not read back. */
static void
equal_to_sent(RawPeer *peer, Villain *villain)
{
    static const uint8_t content[GW_PAGE_BYTES] = "content";

    send_begin(peer, 1 << 20, 16);
    send_block(peer, 0, "pc.ram");
    send_page(peer, villain,
              &(GwBatchPage){.kind = GW_BATCH_CONTENT, .names_block = true, .content = content});
    send_page(peer, villain, &(GwBatchPage){.kind = GW_BATCH_EQUAL, .address = GW_PAGE_BYTES});
    hear_refusal(peer, villain);
}

/* QEMU would miss the name. */
static void
same_that_names(RawPeer *peer, Villain *villain)
{
    static const uint8_t content[GW_PAGE_BYTES] = "content";

    send_begin(peer, 1 << 20, 16);
    send_block(peer, 0, "pc.ram");
    send_page(peer, villain,
              &(GwBatchPage){.kind = GW_BATCH_CONTENT, .names_block = true, .content = content});
    send_page(peer, villain, &(GwBatchPage){.kind = GW_BATCH_SAME, .names_block = true});
    hear_refusal(peer, villain);
}

static void
delta_without_copy(RawPeer *peer, Villain *villain)
{
    static const uint8_t base[GW_PAGE_BYTES] = "content";
    static const uint8_t content[GW_PAGE_BYTES] = "CONTENT";

    send_begin(peer, 1 << 20, 16);
    send_block(peer, 0, "pc.ram");
    send_page(peer, villain,
              &(GwBatchPage){.kind = GW_BATCH_CONTENT, .names_block = true, .content = base});
    /* A copy is kept from the second time on. */
    send_page(peer, villain,
              &(GwBatchPage){.kind = GW_BATCH_CONTENT, .content = content, .base = base});
    hear_refusal(peer, villain);
}

static void
endless_blocks(RawPeer *peer, Villain *villain)
{
    send_begin(peer, 1 << 20, 0);
    for (unsigned i = 0; i <= GW_RAM_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("b%u", i);

        send_block(peer, (uint16_t)i, name);
    }
    hear_refusal(peer, villain);
}

static void
stream_after_end(RawPeer *peer, Villain *villain)
{
    send_bytes(peer, villain, "all", 3);
    send_mark(peer, GW_FRAME_STREAM_END, "all", 3, 3);
    send_bytes(peer, villain, "more", 4);
    hear_refusal(peer, villain);
}

/* --- frames at large
 * --------------------------------------------------------------------------------- */

static void
garbage(RawPeer *peer, Villain *villain)
{
    raw_send(peer, "this is not a frame of any kind", 31);
    hear_refusal(peer, villain);
}

static void
huge_frame(RawPeer *peer, Villain *villain)
{
    raw_send(peer, "\377\377\377\377\3\0\0\0\0\0\0\0\0\0\0\1", 16);
    hear_refusal(peer, villain);
}

static void
skipped_sequence(RawPeer *peer, Villain *villain)
{
    peer->sequence = GW_LANE_MAX_UNACKED;
    raw_send_frame(peer, GW_FRAME_CONTROL, "{}", 2);
    hear_refusal(peer, villain);
}

static void
bad_json(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_CONTROL, "{\"a\": 1", 7);
    hear_refusal(peer, villain);
}

static void
json_array_message(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_CONTROL, "[1, 2]", 6);
    hear_refusal(peer, villain);
}

static void
deep_json(RawPeer *peer, Villain *villain)
{
    g_autofree char *text = g_strnfill(100000, '[');

    raw_send_frame(peer, GW_FRAME_CONTROL, text, 100000);
    hear_refusal(peer, villain);
}

static void
forged_ack(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_ACK, "\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0\0", 16);
    hear_refusal(peer, villain);
}

static void
forged_receipt(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_ACK, "\0\0\0\0\0\0\0\0\0\0\0\0\7\0\0\0", 16);
    hear_refusal(peer, villain);
}

static void
second_hello(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_HELLO, "x", 1);
    hear_refusal(peer, villain);
}

static void
test_caught(void)
{
    static const struct {
        const char *what;
        Villainy act;
        GwErrorCode code;
        const char *words;
    } cases[] = {
        {"wrong digest", wrong_digest, GW_ERROR_PROTOCOL, "digests of source and target differ"},
        {"wrong length", wrong_length, GW_ERROR_PROTOCOL, "digests of source and target differ"},
        {"wrong checkpoint", wrong_checkpoint, GW_ERROR_PROTOCOL, "after 5 bytes the digests"},
        {"early checkpoint", early_checkpoint, GW_ERROR_PROTOCOL, "after 3 bytes the digests"},
        {"damaged batch", damaged_batch, GW_ERROR_PROTOCOL, "damaged RAM batch"},
        {"unknown block", unknown_block, GW_ERROR_PROTOCOL, ""},
        {"skipped block", skipped_block, GW_ERROR_PROTOCOL, "RAM block 1 where 0 was next"},
        {"endless blocks", endless_blocks, GW_ERROR_PROTOCOL, ""},
        {"block before begin", block_before_begin, GW_ERROR_PROTOCOL, "before the beginning"},
        {"page before begin", page_before_begin, GW_ERROR_PROTOCOL, "before the beginning"},
        {"two begins", two_begins, GW_ERROR_PROTOCOL, "second beginning"},
        {"huge table", huge_table, GW_ERROR_TOO_LARGE, "to remember pages by"},
        {"huge copies", huge_copies, GW_ERROR_TOO_LARGE, "for copies of pages"},
        {"cut begin", cut_begin, GW_ERROR_PROTOCOL, "STREAM_BEGIN"},
        {"same as nothing", same_as_nothing, GW_ERROR_PROTOCOL, "not known here"},
        {"same as zero", same_as_zero, GW_ERROR_PROTOCOL, "not known here"},
        {"equal to sent", equal_to_sent, GW_ERROR_PROTOCOL, "equal to one that is not known here"},
        {"same that names", same_that_names, GW_ERROR_PROTOCOL, "not known here"},
        {"delta without copy", delta_without_copy, GW_ERROR_PROTOCOL, "no copy of here"},
        {"fill for nothing", fill_for_nothing, GW_ERROR_PROTOCOL, "not asked"},
        {"cut fill", cut_fill, GW_ERROR_PROTOCOL, "cut off"},
        {"need to target", need_to_target, GW_ERROR_PROTOCOL, "no references"},
        {"unexpected references", unexpected_references, GW_ERROR_PROTOCOL, "agreed on"},
        {"references after their end", references_after_their_end, GW_ERROR_PROTOCOL,
         "would not again"},
        {"reference without section", reference_without_section, GW_ERROR_PROTOCOL, "proven"},
        {"stream after end", stream_after_end, GW_ERROR_PROTOCOL, "after the end of the stream"},
        {"garbage", garbage, GW_ERROR_PROTOCOL, "the peer sent a"},
        {"huge frame", huge_frame, GW_ERROR_PROTOCOL, "at most 1048576"},
        {"skipped sequence", skipped_sequence, GW_ERROR_PROTOCOL, "out of order"},
        {"bad JSON", bad_json, GW_ERROR_PROTOCOL, "a control message: bad JSON"},
        {"JSON array", json_array_message, GW_ERROR_PROTOCOL, "no JSON object"},
        {"deep JSON", deep_json, GW_ERROR_TOO_LARGE, "nested deeper"},
        {"forged ack", forged_ack, GW_ERROR_PROTOCOL, "never sent"},
        {"forged receipt", forged_receipt, GW_ERROR_PROTOCOL, "never sent"},
        {"second hello", second_hello, GW_ERROR_PROTOCOL, "second greeting"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_test_message("%s", cases[i].what);
        expect_caught(cases[i].act, cases[i].code, cases[i].words);
    }
}

/* --- greetings
 * ------------------------------------------------------------------------------------------ */

static void
newer_version(RawPeer *peer, Villain *villain)
{
    GwHello hello = {.version = 9, .oldest_version = 8};
    g_autoptr(GByteArray) payload = g_byte_array_new();

    gw_hello_encode(&hello, payload);
    raw_send_frame(peer, GW_FRAME_HELLO, payload->data, payload->len);
    hear_refusal(peer, villain);
    g_atomic_int_set(&villain->stage, 1);
}

static void
no_greeting(RawPeer *peer, Villain *villain)
{
    raw_send_frame(peer, GW_FRAME_CONTROL, "{}", 2);
    hear_refusal(peer, villain);
    g_atomic_int_set(&villain->stage, 1);
}

static void
test_greetings(void)
{
    static const struct {
        Villainy act;
        GwErrorCode code;
        const char *words;
    } cases[] = {
        {newer_version, GW_ERROR_UNSUPPORTED, "upgrade the older"},
        {no_greeting, GW_ERROR_PROTOCOL, "before its greeting"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Villain villain;

        villain_init(&villain, cases[i].act, TIMEOUT_MS);
        villain.skip_greeting = true;
        villain.thread = g_thread_new("villain", run_client, &villain);
        while (g_atomic_int_get(&villain.stage) == 0) {
            g_main_context_iteration(NULL, FALSE);
            g_thread_yield();
        }
        g_assert_nonnull(villain.refusal);
        g_autoptr(GError) told = gw_refuse_decode(villain.refusal->data, villain.refusal->len);
        g_assert_error(told, GW_ERROR, (int)cases[i].code);
        g_assert_nonnull(strstr(told->message, cases[i].words));
        g_assert_null(villain.rig.accepted.lane);
        villain_clear(&villain);
    }
}

/* --- silence
 * ---------------------------------------------------------------------------------------------- */

/* TCP is alive, nobody says anything. Ends when the other side closes. */
static void
silence(RawPeer *peer, Villain *villain)
{
    char waste[4096];

    while (recv(peer->fd, waste, sizeof(waste), 0) > 0) {
    }
}

static void
test_silent_client(void)
{
    Villain villain;

    villain_init(&villain, silence, 1500);
    villain.thread = g_thread_new("villain", run_client, &villain);
    WAIT_FOR(villain.rig.accepted.lane);
    int64_t begin_us = gw_now_us();
    WAIT_FOR(villain.rig.accepted.closed);
    g_assert_error(villain.rig.accepted.closed, GW_ERROR, GW_ERROR_TIMEOUT);
    g_assert_nonnull(strstr(villain.rig.accepted.closed->message, "has not been heard for"));
    g_assert_cmpint(gw_now_us() - begin_us, >, 1000000);
    g_clear_pointer(&villain.rig.accepted.lane, gw_lane_free);
    villain_clear(&villain);
}

/* Two good sessions stay up well beyond the timeout, as pings go to and fro. */
static gboolean
count_second(void *data)
{
    ++*(unsigned *)data;
    return G_SOURCE_CONTINUE;
}

static void
test_pings_keep_alive(void)
{
    unsigned seconds = 0;
    Rig rig;

    rig_init(&rig, 1500);
    rig_establish(&rig);
    guint timer = g_timeout_add_seconds(1, count_second, &seconds);
    WAIT_FOR(seconds == 4);
    g_source_remove(timer);
    g_assert_null(rig.client.closed);
    g_assert_null(rig.accepted.closed);
    rig_clear(&rig);
}

/* --- servers
 * ------------------------------------------------------------------------------------------------
 */

static void *
run_server(void *data)
{
    Villain *villain = data;
    int fd = accept(villain->listen_fd, NULL, NULL);
    RawPeer peer;

    if (raw_open(&peer, fd, true, villain->rig.dir, "ca", "alpha")) {
        villain->act(&peer, villain);
    }
    raw_close(&peer);
    close(villain->listen_fd);
    return NULL;
}

static void
villain_serve(Villain *villain, Villainy act)
{
    uint16_t port;

    villain_init(villain, act, TIMEOUT_MS);
    villain->listen_fd = raw_listen(&port);
    villain->thread = g_thread_new("villain", run_server, villain);
    rig_connect_to(&villain->rig, port, "ca", "beta", "alpha");
}

static void
expect_client_catches(Villainy act, GwErrorCode code, const char *words)
{
    Villain villain;

    villain_serve(&villain, act);
    WAIT_FOR(villain.rig.client.closed);
    g_test_message("%s", villain.rig.client.closed->message);
    g_assert_error(villain.rig.client.closed, GW_ERROR, (int)code);
    g_assert_nonnull(strstr(villain.rig.client.closed->message, words));
    g_clear_pointer(&villain.rig.client.lane, gw_lane_free);
    villain_clear(&villain);
}

static void
answer_hello(RawPeer *peer)
{
    g_autoptr(GByteArray) hello = raw_expect(peer, GW_FRAME_HELLO);

    g_assert_nonnull(hello);
    raw_send_frame(peer, GW_FRAME_HELLO, hello->data, hello->len);
}

static void
other_session(RawPeer *peer, Villain *villain)
{
    g_autoptr(GByteArray) hello = raw_expect(peer, GW_FRAME_HELLO);

    hello->data[20] ^= 1;
    raw_send_frame(peer, GW_FRAME_HELLO, hello->data, hello->len);
    hear_refusal(peer, villain);
}

static void
stream_to_source(RawPeer *peer, Villain *villain)
{
    answer_hello(peer);
    send_bytes(peer, villain, "backwards", 9);
    hear_refusal(peer, villain);
}

static void
unreadable_refusal(RawPeer *peer, Villain *villain)
{
    answer_hello(peer);
    raw_send_frame(peer, GW_FRAME_REFUSE, "\377\376", 2);
    silence(peer, villain);
}

static void
vanish(RawPeer *peer, Villain *villain)
{
    answer_hello(peer);
}

static void
test_bad_servers(void)
{
    expect_client_catches(other_session, GW_ERROR_PROTOCOL, "another session");
    expect_client_catches(stream_to_source, GW_ERROR_PROTOCOL, "to the source of the stream");
    expect_client_catches(unreadable_refusal, GW_ERROR_PROTOCOL, "unreadable");
    expect_client_catches(vanish, GW_ERROR_UNREACHABLE, "closed the connection");
}

/* A server that accepts TCP and then says nothing: the connect timeout ends it. */
static void
test_mute_server(void)
{
    Rig rig;
    uint16_t port;
    int fd = raw_listen(&port);

    rig_init(&rig, TIMEOUT_MS);
    g_autoptr(GwLaneCredentials) credentials = test_credentials(rig.dir, "ca", "beta");
    GwLaneConnect options = {
        .address = "127.0.0.1",
        .port = port,
        .expected_name = "alpha",
        .credentials = credentials,
        .connect_timeout_ms = 700,
        .session_timeout_ms = TIMEOUT_MS,
    };
    rig.client.lane = gw_lane_connect(&options, &side_handlers, &rig.client);
    WAIT_FOR(rig.client.closed);
    g_assert_error(rig.client.closed, GW_ERROR, GW_ERROR_TIMEOUT);
    g_assert_nonnull(strstr(rig.client.closed->message, "did not finish the TLS handshake"));
    close(fd);
    rig_clear(&rig);
}

/* --- odd, but allowed
 * ------------------------------------------------------------------------------------- */

/* GnuTLS renews keys by itself after 2^24 records, in the middle of a large guest. */
static void
key_updates(RawPeer *peer, Villain *villain)
{
    for (unsigned i = 0; i < 5; i++) {
        g_autofree char *text = g_strdup_printf("{\"text\": \"%u\"}", i);

        g_assert_cmpint(gnutls_session_key_update(peer->session, GNUTLS_KU_PEER), ==, 0);
        raw_send_frame(peer, GW_FRAME_CONTROL, text, strlen(text));
        g_autoptr(GByteArray) answer = raw_expect(peer, GW_FRAME_CONTROL);
        g_assert_nonnull(answer);
        g_atomic_int_inc(&villain->stage);
    }
    raw_send_frame(peer, GW_FRAME_GOODBYE, NULL, 0);
    silence(peer, villain);
}

static void
test_key_updates(void)
{
    g_autoptr(json_t) answer = json_object();
    Villain villain;

    villain_init(&villain, key_updates, TIMEOUT_MS);
    villain.thread = g_thread_new("villain", run_client, &villain);
    for (unsigned i = 1; i <= 5; i++) {
        WAIT_FOR(villain.rig.accepted.n_messages == i);
        g_assert_true(gw_lane_send(villain.rig.accepted.lane, answer, NULL));
    }
    WAIT_FOR(villain.rig.accepted.closed);
    g_assert_error(villain.rig.accepted.closed, GW_ERROR, GW_ERROR_CANCELLED);
    g_assert_cmpint(g_atomic_int_get(&villain.stage), ==, 5);
    g_assert_cmpstr(villain.rig.accepted.log->str, ==,
                    "message:0;message:1;message:2;message:3;message:4;closed;");
    villain_clear(&villain);
}

/* Frames cut into single bytes on the way are frames all the same. */
static void
byte_by_byte(RawPeer *peer, Villain *villain)
{
    static const char text[] = "{\"text\": \"slow\"}";
    GwFrameHeader header = {
        .payload_bytes = sizeof(text) - 1, .type = GW_FRAME_CONTROL, .sequence = 1};
    uint8_t wire[GW_FRAME_HEADER_BYTES + sizeof(text)];

    gw_frame_encode_header(&header, wire);
    memcpy(wire + GW_FRAME_HEADER_BYTES, text, sizeof(text));
    for (size_t i = 0; i < GW_FRAME_HEADER_BYTES + sizeof(text) - 1; i++) {
        raw_send(peer, wire + i, 1);
    }
    g_autoptr(GByteArray) ack = raw_expect(peer, GW_FRAME_ACK);
    g_assert_nonnull(ack);
}

static void
test_byte_by_byte(void)
{
    Villain villain;

    villain_init(&villain, byte_by_byte, TIMEOUT_MS);
    villain.thread = g_thread_new("villain", run_client, &villain);
    WAIT_FOR(villain.rig.accepted.closed);
    g_assert_cmpstr(villain.rig.accepted.log->str, ==, "message:slow;closed;");
    villain_clear(&villain);
}

/* A flood of frames that need an answer must not pile up answers. */
static void
ping_flood(RawPeer *peer, Villain *villain)
{
    for (unsigned i = 0; i < 20000; i++) {
        raw_send_frame(peer, GW_FRAME_PING, "12345678", 8);
    }
    raw_send_frame(peer, GW_FRAME_CONTROL, "{\"text\": \"done\"}", 16);
    g_autoptr(GByteArray) ack = raw_expect(peer, GW_FRAME_ACK);
    g_assert_nonnull(ack);
}

static void
test_ping_flood(void)
{
    Villain villain;

    villain_init(&villain, ping_flood, TIMEOUT_MS);
    villain.thread = g_thread_new("villain", run_client, &villain);
    WAIT_FOR(villain.rig.accepted.closed);
    g_assert_cmpstr(villain.rig.accepted.log->str, ==, "message:done;closed;");
    villain_clear(&villain);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hostile/caught", test_caught);
    g_test_add_func("/hostile/greetings", test_greetings);
    g_test_add_func("/hostile/silent-client", test_silent_client);
    g_test_add_func("/hostile/pings-keep-alive", test_pings_keep_alive);
    g_test_add_func("/hostile/bad-servers", test_bad_servers);
    g_test_add_func("/hostile/mute-server", test_mute_server);
    g_test_add_func("/hostile/key-updates", test_key_updates);
    g_test_add_func("/hostile/byte-by-byte", test_byte_by_byte);
    g_test_add_func("/hostile/ping-flood", test_ping_flood);
    return g_test_run();
}
