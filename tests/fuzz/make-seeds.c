// SPDX-License-Identifier: Apache-2.0
/*
 * Writes inputs for the fuzz targets to begin with: sound ones, made by the encoders, where chance
 * would not find the structure in any time. Made at each run, so they are of the format as it is.
 *
 *   usage: make-seeds FOLDER      → FOLDER/fuzz-TARGET/NAME
 *
 * (Inputs that are text are in seeds/.)
 */
#include "../unit/ramstream/streams.h"
#include "lane/batch.h"
#include "lane/frame.h"
#include "lane/image_cache.h"
#include "lane/image_ref.h"
#include "lane/page_delta.h"

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;

static void
expect(bool good, const char *what, const GError *error)
{
    if (!good) {
        g_printerr("make-seeds: %s: %s\n", what, error ? error->message : "failed");
        exit(1);
    }
}

static void
save(const char *target, const char *name, const GByteArray *bytes)
{
    g_autofree char *place = g_build_filename(folder, target, NULL);
    g_autofree char *path = g_build_filename(place, name, NULL);
    g_autoptr(GError) error = NULL;

    expect(g_mkdir_with_parents(place, 0777) == 0, place, NULL);
    expect(g_file_set_contents(path, (const char *)bytes->data, bytes->len, &error), path, error);
}

/* Half of it does not shrink. */
static void
make_page(uint8_t page[GW_PAGE_BYTES], uint32_t seed)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);

    memset(page, (int)seed, GW_PAGE_BYTES);
    for (unsigned i = 0; i < GW_PAGE_BYTES / 2; i++) {
        page[i] = (uint8_t)g_rand_int(random);
    }
}

/* --- frames ----------------------------------------------------------------------------------- */

typedef struct Session {
    GByteArray *wire;
    uint64_t sequence;
    GwFramePool *pool;
    GwBatch *batch;
    GwBatchEncoder *encoder;
} Session;

static void
put_frame(Session *session, GwFrameType type, const void *payload, size_t len)
{
    uint8_t head[GW_FRAME_HEADER_BYTES];
    GwFrameHeader header = {.type = type, .payload_bytes = (uint32_t)len};

    header.sequence = gw_frame_is_ordered(type) ? ++session->sequence : 0;
    gw_frame_encode_header(&header, head);
    g_byte_array_append(session->wire, head, sizeof(head));
    g_byte_array_append(session->wire, payload, (guint)len);
}

/* @payload: transfer full. */
static void
put_payload(Session *session, GwFrameType type, GByteArray *payload)
{
    put_frame(session, type, payload->data, payload->len);
    g_byte_array_unref(payload);
}

static void
add_page(Session *session, uint64_t number, GwBatchKind kind, const uint8_t *content,
         const uint8_t *base)
{
    gw_batch_add_page(session->batch, &(GwBatchPage){
                                          .kind = kind,
                                          .names_block = number == 0,
                                          .address = number * GW_PAGE_BYTES,
                                          .content = content,
                                          .base = base,
                                      });
}

static void
put_batch(Session *session, const GwCodec *codec)
{
    const GwBatchEffort effort = {.codec = codec, .zstd_deltas = true};
    g_autoptr(GwFrame) frame = gw_batch_encode(session->encoder, session->batch, &effort);

    put_frame(session, GW_FRAME_RAM, gw_frame_payload(frame), frame->header.payload_bytes);
}

/* Pages of all kinds; the later batches are about pages that the first ones brought. */
static void
put_batches(Session *session, const GwCodec *codec)
{
    uint8_t first[GW_PAGE_BYTES], second[GW_PAGE_BYTES], third[GW_PAGE_BYTES];
    static const uint8_t opaque[20] = {1, 2, 3};

    make_page(first, 1);
    make_page(second, 2);
    memcpy(third, second, GW_PAGE_BYTES);
    third[100] ^= 0x55;
    third[3000] ^= 0xaa;
    gw_batch_add_bytes(session->batch, opaque, sizeof(opaque));
    for (uint64_t i = 0; i < 3; i++) {
        add_page(session, i, GW_BATCH_CONTENT, first, NULL);
    }
    add_page(session, 3, GW_BATCH_ZERO, NULL, NULL);
    add_page(session, 90, GW_BATCH_ZERO, NULL, NULL);
    put_batch(session, codec);
    for (uint64_t i = 0; i < 3; i++) {
        add_page(session, i, GW_BATCH_CONTENT, second, NULL);
    }
    put_batch(session, codec);
    add_page(session, 0, GW_BATCH_CONTENT, third, second);
    add_page(session, 2, GW_BATCH_SAME, NULL, NULL);
    memmove(first, second + 64, GW_PAGE_BYTES - 64);
    add_page(session, 1, GW_BATCH_CONTENT, first, second);
    for (uint64_t i = 0; i < 2; i++) {
        gw_batch_add_page(session->batch, &(GwBatchPage){.kind = GW_BATCH_EQUAL,
                                                         .address = (5 + i) * GW_PAGE_BYTES,
                                                         .equal_place = i});
    }
    put_batch(session, codec);
}

/* Four pages in a row that are references; the decoder does not look into the section. */
static void
put_references(Session *session)
{
    GByteArray *payload = g_byte_array_new();

    gw_put_be32(payload, 4);
    gw_put_be32(payload, 0);
    gw_put_be32(payload, 0);
    gw_put_be32(payload, 3); /* bytes of the map */
    gw_put_varint(payload, 8 + GW_BATCH_JUMP);
    gw_put_varint(payload, 7);
    gw_put_varint(payload, 4 * 8 + GW_BATCH_REFERENCE);
    g_byte_array_set_size(payload, payload->len + 40);
    memset(payload->data + payload->len - 40, 1, 40);
    put_payload(session, GW_FRAME_RAM, payload);
}

static void
put_mark(Session *session, GwFrameType type)
{
    GByteArray *payload = g_byte_array_new();

    gw_mark_encode(&(GwStreamMark){.stream_bytes = 40000}, payload);
    put_payload(session, type, payload);
}

static void
put_stream(Session *session, const GwCodec *codec)
{
    const GwStreamBegin begin = {.limits = {.table_bytes = 1 << 20, .copies = 8}};
    GByteArray *payload = g_byte_array_new();

    gw_stream_begin_encode(&begin, payload);
    put_payload(session, GW_FRAME_STREAM_BEGIN, payload);
    payload = g_byte_array_new();
    gw_block_encode(0, "pc.ram", payload);
    put_payload(session, GW_FRAME_BLOCK, payload);
    put_batches(session, codec);
    put_mark(session, GW_FRAME_CHECKPOINT);
    put_references(session);
    put_frame(session, GW_FRAME_REFERENCES_END, "", 0);
    put_mark(session, GW_FRAME_STREAM_END);
}

static void
put_talk(Session *session)
{
    static const char *const said = "{\"service\": \"move\", \"do\": \"check\"}";
    g_autoptr(GError) refusal = g_error_new(GW_ERROR, GW_ERROR_REFUSED, "not you");
    const GwHello hello = {.version = GW_LANE_VERSION,
                           .oldest_version = GW_LANE_OLDEST_VERSION,
                           .joins = true,
                           .attempt = 1,
                           .received = {.handled = 3, .whole = 4, .map_bytes = 2, .map = {2, 1}}};
    GByteArray *payload = g_byte_array_new();

    gw_hello_encode(&hello, payload);
    put_payload(session, GW_FRAME_HELLO, payload);
    put_frame(session, GW_FRAME_CONTROL, said, strlen(said));
    payload = g_byte_array_new();
    gw_ack_encode(&(GwAck){.sequence = 1, .received_bytes = 100}, payload);
    put_payload(session, GW_FRAME_ACK, payload);
    payload = g_byte_array_new();
    gw_number_encode(77, payload);
    put_payload(session, GW_FRAME_PING, payload);
    payload = g_byte_array_new();
    gw_put_be64(payload, 1);
    gw_put_be16(payload, 0);
    put_payload(session, GW_FRAME_NEED, payload);
    put_frame(session, GW_FRAME_GOODBYE, "", 0);
    payload = g_byte_array_new();
    gw_refuse_encode(refusal, payload);
    put_payload(session, GW_FRAME_REFUSE, payload);
}

/* @codec: NULL for a session without a stream. */
static void
make_session(const char *name, const GwCodec *codec)
{
    g_autoptr(GwFramePool) pool = gw_frame_pool_new();
    g_autoptr(GwBatch) batch = gw_batch_new(pool);
    g_autoptr(GByteArray) wire = g_byte_array_new();
    Session session = {
        .wire = wire, .pool = pool, .batch = batch, .encoder = gw_batch_encoder_new(0)};

    if (codec) {
        put_stream(&session, codec);
    } else {
        put_talk(&session);
    }
    gw_batch_encoder_free(session.encoder);
    save("fuzz-frame", name, wire);
}

/* --- images ----------------------------------------------------------------------------------- */

/* The first byte of an input of fuzz-image. */
enum { QCOW2, KEPT_INDEX, SECTION, NEED, OFFER, VISIT };

static GByteArray *
image_input(uint8_t kind)
{
    GByteArray *bytes = g_byte_array_new();

    gw_put_u8(bytes, kind);
    return bytes;
}

static void
append_file(GByteArray *bytes, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    gsize len = 0;

    expect(g_file_get_contents(path, &text, &len, &error), path, error);
    g_byte_array_append(bytes, (const uint8_t *)text, (guint)len);
    g_unlink(path);
}

/* Version 3, clusters of 4 KiB: header, L1 table, L2 table, one cluster of data. */
static void
make_qcow2(void)
{
    enum { CLUSTER = 4096 };
    const uint64_t copied = UINT64_C(1) << 63;
    g_autoptr(GByteArray) bytes = image_input(QCOW2);

    gw_put_be32(bytes, 0x514649fb);
    gw_put_be32(bytes, 3);
    gw_put_be64(bytes, 0); /* no backing file */
    gw_put_be32(bytes, 0);
    gw_put_be32(bytes, 12);
    gw_put_be64(bytes, 8 * CLUSTER);
    gw_put_be32(bytes, 0);
    gw_put_be32(bytes, 1);
    gw_put_be64(bytes, CLUSTER);
    g_byte_array_set_size(bytes, 1 + 4 * CLUSTER);
    memset(bytes->data + 1 + 48, 0, bytes->len - 1 - 48);
    bytes->data[1 + 103] = 104; /* bytes of the header */

    g_autoptr(GByteArray) tables = g_byte_array_new();
    gw_put_be64(tables, copied | 2 * CLUSTER);
    memcpy(bytes->data + 1 + CLUSTER, tables->data, 8);
    g_byte_array_set_size(tables, 0);
    gw_put_be64(tables, copied | 3 * CLUSTER);
    gw_put_be64(tables, 1);                               /* zeros */
    gw_put_be64(tables, UINT64_C(1) << 62 | 3 * CLUSTER); /* compressed */
    memcpy(bytes->data + 1 + 2 * CLUSTER, tables->data, 24);
    memset(bytes->data + 1 + 3 * CLUSTER, 7, CLUSTER);
    save("fuzz-image", "qcow2", bytes);
}

/* Of the image that the target looks for. */
static void
make_kept_index(void)
{
    g_autofree char *place = g_build_filename(folder, "index", NULL);
    const GwImageCacheKey key = {.folder = place, .path = "/x", .seed = 7, .identity = {1, 2}};
    g_autoptr(GwImageTable) table = gw_image_table_new(4, 4096);
    g_autoptr(GByteArray) bytes = image_input(KEPT_INDEX);
    g_autoptr(GError) error = NULL;

    gw_image_table_put(table, 12345, 3);
    expect(gw_image_cache_save(&key, table, 65536, &error), place, error);
    g_autoptr(GDir) dir = g_dir_open(place, 0, NULL);
    g_autofree char *path = g_build_filename(place, g_dir_read_name(dir), NULL);

    append_file(bytes, path);
    g_rmdir(place);
    save("fuzz-image", "kept-index", bytes);
}

/* Blocks 1 and 2 of image 0, block 9 of image 3, and a fill for the second page. */
static void
make_section(void)
{
    const uint8_t section_bytes =
        GW_REF_SECTION_MAX_BYTES - GW_REF_MAX_PAGES * GW_REF_RUN_MAX_BYTES + 5;
    g_autoptr(GByteArray) bytes = image_input(SECTION);
    uint8_t page[GW_PAGE_BYTES];

    gw_put_u8(bytes, 2); /* three pages */
    gw_put_u8(bytes, section_bytes);
    g_byte_array_set_size(bytes, bytes->len + section_bytes - 5);
    memset(bytes->data + bytes->len - section_bytes + 5, 1, section_bytes - 5);
    gw_put_varint(bytes, 2);
    gw_put_varint(bytes, 2);
    gw_put_varint(bytes, 1);
    gw_put_u8(bytes, 3);
    gw_put_varint(bytes, 18);
    gw_put_be64(bytes, 1);
    gw_put_be16(bytes, 1);
    gw_put_be16(bytes, 1);
    gw_put_u8(bytes, GW_CODEC_PLAIN);
    gw_put_be16(bytes, 1);
    make_page(page, 3);
    g_byte_array_append(bytes, page, GW_PAGE_BYTES);
    save("fuzz-image", "section", bytes);
}

static void
make_need(void)
{
    const guint digests = 3 * (GW_REF_NEED_MAX_BYTES - 10) / GW_REF_MAX_PAGES;
    g_autoptr(GByteArray) bytes = image_input(NEED);

    gw_put_be64(bytes, 1);
    gw_put_be16(bytes, 3);
    g_byte_array_set_size(bytes, bytes->len + digests);
    memset(bytes->data + bytes->len - digests, 9, digests);
    save("fuzz-image", "need", bytes);
}

static void
make_offer(void)
{
    const GwRefOffer offer = {.n_blocks = 64, .n_samples = 2, .samples = {{.block = 3}}};
    g_autoptr(GByteArray) bytes = image_input(OFFER);
    json_t *object = gw_ref_offer_to_json(&offer);
    char *text = json_dumps(object, 0);

    g_byte_array_append(bytes, (const uint8_t *)text, (guint)strlen(text));
    free(text);
    json_decref(object);
    save("fuzz-image", "offer", bytes);
}

static void
make_visit(void)
{
    g_autoptr(GwVisitTags) tags = gw_visit_tags_new(1 << 20);
    g_autofree char *path = g_build_filename(folder, "visit", NULL);
    g_autoptr(GByteArray) bytes = image_input(VISIT);
    g_autoptr(GError) error = NULL;
    uint8_t page[GW_PAGE_BYTES];

    make_page(page, 4);
    gw_visit_tags_add_block(tags, "pc.ram", 6);
    gw_visit_tags_put(tags, 0, 5, page);
    expect(gw_visit_tags_save(tags, path, &error), path, error);
    append_file(bytes, path);
    save("fuzz-image", "visit", bytes);
}

/* --- deltas, streams -------------------------------------------------------------------------- */

static void
make_deltas(void)
{
    enum { PUT = 6, PUT_DELTA = 3 }; /* a copy is kept of what is put */
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    GwDeltaEncoder *encoder = gw_delta_encoder_new();
    uint8_t base[GW_PAGE_BYTES], page[GW_PAGE_BYTES], delta[GW_DELTA_MAX_BYTES];

    memset(base, 6, sizeof(base));
    for (unsigned zstd = 0; zstd < 2; zstd++) {
        for (uint8_t fill = 5; fill <= 6; fill++) {
            gw_put_u8(bytes, PUT);
            gw_put_varint(bytes, zstd);
            gw_put_u8(bytes, fill);
        }
        memcpy(page, base, sizeof(page));
        for (unsigned i = 0; i < GW_PAGE_BYTES; i += zstd ? 16 : 900) {
            page[i] = (uint8_t)i;
        }
        gw_put_u8(bytes, PUT_DELTA);
        gw_put_varint(bytes, zstd);
        size_t len = gw_delta_encode(encoder, base, page, delta, zstd ? GW_DELTA_MAX_BYTES : 0);
        expect(len > 0, "a delta", NULL);
        g_byte_array_append(bytes, delta, (guint)len);
    }
    gw_delta_encoder_free(encoder);
    save("fuzz-page-delta", "deltas", bytes);
}

static void
make_streams(void)
{
    static const struct {
        const char *name;
        Stream *(*make)(void);
    } streams[] = {
        {"precopy", stream_precopy},   {"undescribed", stream_undescribed},
        {"postcopy", stream_postcopy}, {"shared", stream_shared},
        {"bitmap", stream_bitmap},     {"old-machine", stream_old_machine},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(streams); i++) {
        g_autoptr(Stream) stream = streams[i].make();

        save("fuzz-ramstream", streams[i].name, stream->bytes);
    }
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        g_printerr("usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    folder = argv[1];
    expect(g_mkdir_with_parents(folder, 0777) == 0, folder, NULL);
    make_session("talk", NULL);
    make_session("plain", &gw_codec_plain);
    make_session("zstd", &gw_codec_zstd);
    make_session("zstd-stream", &gw_codec_zstd_stream);
    make_qcow2();
    make_kept_index();
    make_section();
    make_need();
    make_offer();
    make_visit();
    make_deltas();
    make_streams();
    return 0;
}
