// SPDX-License-Identifier: Apache-2.0
/*
 * The page model from end to end, without a session: made-up streams go through the source's side,
 * batches and the target's side; what comes out must make the same guest, with equal digests, and
 * byte for byte the same stream where nothing may be left out.
 */
#include "base/cursor.h"
#include "lane/encodings.h"
#include "lane/page_source.h"
#include "lane/page_target.h"
#include "qemustream.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

typedef struct Rig {
    GwFramePool *pool;
    GwRamParser *parser;
    GwPageSource *source;
    GwBatch *batch;
    GwBatchEncoder *encoder;
    GwBatchEffort effort;
    GwBatchDecoder *decoder;
    GwPageTarget *target;
    GwPlacer *placer; /* borrowed, NULL: none */
    GByteArray *out;
    bool begun;
    unsigned blocks_told;
    GwFrameCauses causes;
} Rig;

static void
rig_init(Rig *rig, unsigned encodings_off, GwPlacer *placer)
{
    bool zstd = !(encodings_off & GW_ENCODING_ZSTD);
    unsigned never = placer ? 0 : GW_ENCODING_EQUAL;

    *rig = (Rig){
        .pool = gw_frame_pool_new(),
        .parser = gw_ram_parser_new(),
        .source = gw_page_source_new(encodings_off | never),
        .encoder = gw_batch_encoder_new(0),
        .effort = {.codec = zstd ? &gw_codec_zstd : &gw_codec_plain, .zstd_deltas = zstd},
        .decoder = gw_batch_decoder_new(),
        .target = gw_page_target_new(&(GwPageTargetCaps){0}),
        .placer = placer,
        .out = g_byte_array_new(),
    };
    rig->batch = gw_batch_new(rig->pool);
    gw_page_target_place(rig->target, placer);
}

static void
rig_clear(Rig *rig)
{
    gw_ram_parser_free(rig->parser);
    gw_page_source_free(rig->source);
    gw_batch_free(rig->batch);
    gw_batch_encoder_free(rig->encoder);
    gw_batch_decoder_free(rig->decoder);
    gw_page_target_free(rig->target);
    g_byte_array_unref(rig->out);
    gw_frame_pool_free(rig->pool);
}

static bool
on_item(const GwBatchItem *item, void *data, GError **error)
{
    Rig *rig = data;

    return gw_page_target_put(rig->target, item, rig->out, error);
}

/* False: the target did not take it. */
static bool
try_flush(Rig *rig, GError **error)
{
    g_autoptr(GwFrame) frame = gw_batch_encode(rig->encoder, rig->batch, &rig->effort);

    if (!frame) {
        return true;
    }
    rig->causes.page_bytes += frame->causes.page_bytes;
    rig->causes.same_bytes += frame->causes.same_bytes;
    rig->causes.delta_bytes += frame->causes.delta_bytes;
    rig->causes.delta_pages += frame->causes.delta_pages;
    return gw_batch_decode(rig->decoder, gw_frame_payload(frame), frame->header.payload_bytes,
                           on_item, rig, error);
}

static void
flush(Rig *rig)
{
    g_autoptr(GError) error = NULL;

    bool ok = try_flush(rig, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
}

static void
add_block(Rig *rig, uint16_t index, const char *name)
{
    g_assert_true(gw_page_target_add_block(rig->target, index, name, strlen(name), NULL));
    if (rig->placer && gw_placer_find(rig->placer, name, strlen(name)) != GW_PLACER_NO_BLOCK) {
        gw_page_source_set_readable(rig->source, index);
    }
}

static void
begin(Rig *rig)
{
    GwStreamBegin begin;

    g_assert_true(gw_page_source_begin(rig->source, 64 << 20, &begin, NULL));
    g_assert_true(gw_page_target_begin(rig->target, &begin, NULL));
    rig->begun = true;
}

static void
tell_blocks(Rig *rig)
{
    if (!rig->begun) {
        begin(rig);
    }
    for (; rig->blocks_told < gw_ram_parser_n_blocks(rig->parser); rig->blocks_told++) {
        uint16_t index = (uint16_t)rig->blocks_told;
        const char *name = gw_ram_parser_block_name(rig->parser, index);

        add_block(rig, index, name);
    }
}

static void
take(Rig *rig, const GwRamItem *item)
{
    if (item->kind == GW_RAM_ITEM_BYTES) {
        gw_page_source_bytes(rig->source, item->data, item->len);
        for (size_t done = 0; done < item->len;) {
            done += gw_batch_add_bytes(rig->batch, item->data + done, item->len - done);
            if (done < item->len) {
                flush(rig);
            }
        }
        return;
    }
    const char *name = gw_ram_parser_block_name(rig->parser, item->block);

    tell_blocks(rig);
    if (!gw_batch_has_room(rig->batch)) {
        flush(rig);
    }
    gw_page_source_page(rig->source, item,
                        8 + (item->names_block ? 1 + strlen(name) : 0) +
                            (item->kind == GW_RAM_ITEM_PAGE ? GW_PAGE_BYTES : 1),
                        !gw_ram_parser_hides_changes(rig->parser), rig->batch);
}

static void
feed(Rig *rig, const GByteArray *stream)
{
    GwRamItem item;

    for (guint done = 0; done < stream->len;) {
        size_t room;
        uint8_t *space = gw_ram_parser_space(rig->parser, &room);
        guint len = (guint)MIN(room, stream->len - done);

        memcpy(space, stream->data + done, len);
        gw_ram_parser_fed(rig->parser, len);
        done += len;
        while (gw_ram_parser_next(rig->parser, &item)) {
            take(rig, &item);
        }
    }
    if (gw_ram_parser_finish(rig->parser, &item)) {
        take(rig, &item);
    }
    flush(rig);
}

static void
check(Rig *rig, const GByteArray *stream)
{
    GwStreamMark source, target;
    QemuGuest sent, received;

    gw_page_source_mark(rig->source, &source);
    gw_page_target_mark(rig->target, &target);
    g_assert_cmpuint(source.stream_bytes, ==, stream->len);
    g_assert_cmpuint(target.stream_bytes, ==, stream->len);
    g_assert_cmpmem(source.digest, GW_DIGEST_BYTES, target.digest, GW_DIGEST_BYTES);
    qemu_guest_load(&sent, stream);
    qemu_guest_load(&received, rig->out);
    qemu_guest_assert_equal(&sent, &received);
    qemu_guest_clear(&sent);
    qemu_guest_clear(&received);
}

static const QemuStreamSpec busy = {
    .n_pages = 40000,
    .zero_part = 10,
    .plain_part = 30,
    .same_part = 25,
    .delta_part = 25,
    .equal_part = 5,
    .device_bytes = 3000,
};

static GByteArray *
make_busy_stream(void)
{
    QemuStreamSpec spec = busy;

    spec.seed = g_test_rand_int();
    g_test_message("seed %u", spec.seed);
    return qemu_stream_make(&spec);
}

/* Whatever is switched off, the same guest comes out; and what is not, is used. */
static void
test_guest_arrives(void)
{
    static const unsigned off[] = {
        0,
        GW_ENCODING_SAME,
        GW_ENCODING_DELTA,
        GW_ENCODING_SAME | GW_ENCODING_DELTA,
        GW_ENCODING_ZSTD,
        GW_ENCODING_ALL,
    };
    g_autoptr(GByteArray) stream = make_busy_stream();

    for (size_t i = 0; i < G_N_ELEMENTS(off); i++) {
        bool same = !(off[i] & GW_ENCODING_SAME), delta = !(off[i] & GW_ENCODING_DELTA);
        Rig rig;

        rig_init(&rig, off[i], NULL);
        feed(&rig, stream);
        check(&rig, stream);
        GwPageSourceCounts sent = gw_page_source_take_counts(rig.source);
        GwPageTargetCounts received = gw_page_target_take_counts(rig.target);

        g_assert_cmpuint(sent.pages, ==, received.pages);
        g_assert_cmpuint(sent.zero_pages, ==, received.zero_pages);
        g_assert_cmpuint(sent.same_pages, ==, received.same_pages);
        g_assert_cmpuint(rig.causes.delta_pages, ==, received.delta_pages);
        g_assert_cmpint(received.same_pages > 2000, ==, same);
        g_assert_cmpuint(sent.equal_pages + received.equal_pages, ==, 0);
        g_assert_cmpint(received.delta_pages > 1000, ==, delta);
        g_assert_cmpint(rig.out->len < stream->len, ==, same);
        g_assert_cmpint(gw_page_target_memory_bytes(rig.target) > 0, ==, same || delta);
        g_assert_cmpuint(gw_page_target_memory_bytes(rig.target), ==,
                         gw_page_source_memory_bytes(rig.source));
        if (!same) {
            g_assert_cmpmem(rig.out->data, rig.out->len, stream->data, stream->len);
        }
        rig_clear(&rig);
    }
}

/* --- written straight into memory --------------------------------------------------------------
 */

static GwPlacer *
placer_of(const char *block, const void *memory, size_t bytes)
{
    GwPlacer *placer = gw_placer_new(open("/proc/self/mem", O_RDWR | O_CLOEXEC),
                                     open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), NULL);

    g_assert_true(gw_placer_add_block(placer, block, (uint64_t)(uintptr_t)memory, bytes));
    return placer;
}

/* What belongs to @block is in @memory, and not in what QEMU was given, which is all else. */
static void
check_placed(const QemuGuest *sent, const QemuGuest *received, const char *block,
             const uint8_t *memory)
{
    g_autofree char *prefix = g_strconcat(block, "@", NULL);
    GHashTableIter each;
    gpointer key, value;
    unsigned n_placed = 0;

    g_hash_table_iter_init(&each, sent->pages);
    while (g_hash_table_iter_next(&each, &key, &value)) {
        GBytes *other = g_hash_table_lookup(received->pages, key);

        if (g_str_has_prefix(key, prefix)) {
            uint64_t address = g_ascii_strtoull((const char *)key + strlen(prefix), NULL, 16);

            g_assert_null(other);
            g_assert_true(memcmp(memory + address, g_bytes_get_data(value, NULL),
                                 g_bytes_get_size(value)) == 0);
            n_placed++;
        } else {
            g_assert_true(other && g_bytes_equal(value, other));
        }
    }
    g_assert_cmpuint(n_placed, >, 1000);
    g_assert_cmpmem(sent->others->data, sent->others->len, received->others->data,
                    received->others->len);
}

static void
test_placed(void)
{
    static const char *const blocks[] = {"pc.ram", "0000:00:02.0/vga.vram"};
    const size_t bytes = (size_t)1 << 30;
    g_autoptr(GByteArray) stream = make_busy_stream();

    for (size_t i = 0; i < G_N_ELEMENTS(blocks); i++) {
        uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        QemuGuest sent, received;
        GwStreamMark source, target;
        Rig rig;

        g_assert_true(memory != MAP_FAILED);
        g_autoptr(GwPlacer) placer = placer_of(blocks[i], memory, bytes);
        rig_init(&rig, 0, placer);
        feed(&rig, stream);
        g_assert_true(gw_placer_drain(placer, NULL));
        gw_page_source_mark(rig.source, &source);
        gw_page_target_mark(rig.target, &target);
        g_assert_cmpmem(source.digest, GW_DIGEST_BYTES, target.digest, GW_DIGEST_BYTES);
        qemu_guest_load(&sent, stream);
        qemu_guest_load(&received, rig.out);
        check_placed(&sent, &received, blocks[i], memory);
        GwPageTargetCounts counts = gw_page_target_take_counts(rig.target);

        g_assert_cmpuint(counts.placed_pages, >, 1000);
        g_assert_cmpuint(counts.equal_pages, >, 100);
        g_assert_cmpuint(counts.equal_pages, ==,
                         gw_page_source_take_counts(rig.source).equal_pages);
        g_assert_cmpuint(gw_page_source_memory_bytes(rig.source), >, 0);
        qemu_guest_clear(&sent);
        qemu_guest_clear(&received);
        rig_clear(&rig);
        munmap(memory, bytes);
    }
}

/* --- pages that are equal to others ------------------------------------------------------------
 */

#define EQUAL_BYTES ((size_t)64 << 20)
/* More than can be under way. */
#define MANY_PAGES (2 * GW_PLACER_MAX_WORKERS * GW_PLACER_CHUNKS * 64)

typedef struct EqualRig {
    Rig rig;
    GwPlacer *placer;
    uint8_t *memory; /* of block 0, EQUAL_BYTES */
    uint8_t *model;
} EqualRig;

static uint8_t *
map_memory(void)
{
    uint8_t *memory = mmap(NULL, EQUAL_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert_true(memory != MAP_FAILED);
    return memory;
}

/* Block 0 is placed, block 1 is not. */
static void
equal_init(EqualRig *equal)
{
    equal->memory = map_memory();
    equal->model = map_memory();
    equal->placer = placer_of("ram", equal->memory, EQUAL_BYTES);
    rig_init(&equal->rig, 0, equal->placer);
    begin(&equal->rig);
    add_block(&equal->rig, 0, "ram");
    add_block(&equal->rig, 1, "vga");
}

static void
equal_clear(EqualRig *equal)
{
    rig_clear(&equal->rig);
    gw_placer_free(equal->placer);
    munmap(equal->memory, EQUAL_BYTES);
    munmap(equal->model, EQUAL_BYTES);
}

/* @fill: what makes its content; 0: zero. */
static void
put_in(EqualRig *equal, uint16_t block, unsigned page, uint32_t fill)
{
    uint8_t content[GW_PAGE_BYTES] = {0};
    GwRamItem item = {
        .kind = fill ? GW_RAM_ITEM_PAGE : GW_RAM_ITEM_ZERO,
        .block = block,
        .address = (uint64_t)page * GW_PAGE_BYTES,
        .data = content,
    };

    memcpy(content + 100, &fill, sizeof(fill));
    if (block == 0) {
        memcpy(equal->model + item.address, content, sizeof(content));
    }
    if (!gw_batch_has_room(equal->rig.batch)) {
        flush(&equal->rig);
    }
    gw_page_source_page(equal->rig.source, &item, 8 + (fill ? GW_PAGE_BYTES : 1), true,
                        equal->rig.batch);
}

static void
put(EqualRig *equal, unsigned page, uint32_t fill)
{
    put_in(equal, 0, page, fill);
}

/* So many of the pages since the last time were equal to others, and all is there. */
static void
expect_equal(EqualRig *equal, unsigned n)
{
    GwStreamMark source, target;

    flush(&equal->rig);
    g_assert_cmpuint(gw_page_source_take_counts(equal->rig.source).equal_pages, ==, n);
    g_assert_cmpuint(gw_page_target_take_counts(equal->rig.target).equal_pages, ==, n);
    gw_page_source_mark(equal->rig.source, &source);
    gw_page_target_mark(equal->rig.target, &target);
    g_assert_cmpmem(source.digest, GW_DIGEST_BYTES, target.digest, GW_DIGEST_BYTES);
}

static void
drain_and_compare(EqualRig *equal)
{
    g_assert_true(gw_placer_drain(equal->placer, NULL));
    g_assert_true(memcmp(equal->memory, equal->model, EQUAL_BYTES) == 0);
}

static void
test_equal(void)
{
    EqualRig equal;

    equal_init(&equal);
    put(&equal, 1, 'A');
    put(&equal, 2, 'A'); /* of the same batch, not written yet */
    expect_equal(&equal, 1);
    put(&equal, 3, 'A'); /* in a chunk */
    expect_equal(&equal, 1);
    drain_and_compare(&equal);
    put(&equal, 4, 'A');
    expect_equal(&equal, 1);
    put(&equal, 1, 'B'); /* what the others were equal to; they are not looked for */
    put(&equal, 5, 'A');
    put(&equal, 6, 'A');
    put(&equal, 7, 'B');
    expect_equal(&equal, 2);
    put(&equal, 5, 0);
    put(&equal, 8, 'A');
    put(&equal, 9, 'A');
    put(&equal, 8, 'C');
    put(&equal, 8, 'A'); /* and back again: what is noted holds once more */
    put(&equal, 10, 'A');
    expect_equal(&equal, 2);
    drain_and_compare(&equal);
    equal_clear(&equal);
}

/* The other block's pages may be equal to those that can be read back, not the other way round. */
static void
test_equal_across_blocks(void)
{
    EqualRig equal;

    equal_init(&equal);
    put_in(&equal, 1, 0, 'A');
    put(&equal, 20, 'A');
    expect_equal(&equal, 0);
    guint before = equal.rig.out->len;
    put_in(&equal, 1, 1, 'A');
    expect_equal(&equal, 1);
    g_assert_cmpuint(equal.rig.out->len - before, ==, 8 + GW_PAGE_BYTES);
    g_assert_cmpuint(equal.rig.out->data[before + 8 + 100], ==, 'A');
    drain_and_compare(&equal);
    equal_clear(&equal);
}

/* Few contents over and over, changing all the time. */
static void
test_equal_at_random(void)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    EqualRig equal;

    g_test_message("seed %u", seed);
    equal_init(&equal);
    for (unsigned i = 0; i < 60000; i++) {
        put(&equal, (unsigned)g_rand_int_range(random, 0, 4000),
            (uint32_t)g_rand_int_range(random, 0, 1500));
    }
    flush(&equal.rig);
    GwPageTargetCounts counts = gw_page_target_take_counts(equal.rig.target);

    g_assert_cmpuint(counts.equal_pages, >, 20000);
    g_assert_cmpuint(counts.equal_pages, ==,
                     gw_page_source_take_counts(equal.rig.source).equal_pages);
    expect_equal(&equal, 0);
    drain_and_compare(&equal);
    equal_clear(&equal);
}

/* Somebody else writes to what was written. */
static void
test_equal_to_what_changed(void)
{
    g_autoptr(GError) error = NULL;
    EqualRig equal;

    equal_init(&equal);
    put(&equal, 1, 'A');
    for (unsigned i = 0; i < MANY_PAGES; i++) {
        put(&equal, 100 + i, 1000 + i);
    }
    expect_equal(&equal, 0);
    drain_and_compare(&equal);
    equal.memory[GW_PAGE_BYTES] ^= 1;
    put(&equal, 2, 'A');
    g_assert_false(try_flush(&equal.rig, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "page 0x1000 of RAM block \"ram\""));
    equal_clear(&equal);
}

static void
expect_bad_equal(EqualRig *equal, uint16_t block, uint64_t page)
{
    const GwBatchItem item = {.kind = GW_BATCH_EQUAL,
                              .address = 77 * GW_PAGE_BYTES,
                              .equal_block = block,
                              .equal_address = page * GW_PAGE_BYTES};
    g_autoptr(GError) error = NULL;

    g_assert_false(gw_page_target_put(equal->rig.target, &item, equal->rig.out, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
}

/* What a source that is up to something may refer to. */
static void
test_equal_to_nothing(void)
{
    static const uint8_t content[GW_PAGE_BYTES] = {1};
    const uint64_t n_pages = EQUAL_BYTES / GW_PAGE_BYTES;
    const GwBatchItem beyond = {.kind = GW_BATCH_CONTENT, .address = EQUAL_BYTES, .data = content};
    g_autoptr(GError) error = NULL;
    EqualRig equal;

    equal_init(&equal);
    put(&equal, 1, 'A');
    put_in(&equal, 1, 1, 'B');
    put(&equal, 2, 'C');
    put(&equal, 2, 0);
    flush(&equal.rig);
    expect_bad_equal(&equal, 0, 2); /* zero by now */
    expect_bad_equal(&equal, 0, 3); /* never sent */
    expect_bad_equal(&equal, 1, 1); /* not read back */
    expect_bad_equal(&equal, 2, 1); /* no block */
    expect_bad_equal(&equal, GW_RAM_MAX_BLOCKS - 1, GW_BATCH_PLACE_PAGES - 1);
    expect_bad_equal(&equal, 0, n_pages - 1);
    expect_bad_equal(&equal, 0, n_pages);
    /* One that is remembered although there is no such page. */
    g_assert_false(gw_page_target_put(equal.rig.target, &beyond, equal.rig.out, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_PROTOCOL);
    expect_bad_equal(&equal, 0, n_pages);
    equal_clear(&equal);

    g_autoptr(GwPageTarget) early = gw_page_target_new(&(GwPageTargetCaps){0});
    equal.rig.target = early;
    equal.rig.out = g_byte_array_new();
    expect_bad_equal(&equal, 0, 0);
    g_byte_array_unref(equal.rig.out);
}

/* --- streams that change pages without saying how --------------------------------------------- */

static void
put_command(GByteArray *out, unsigned command, const void *data, uint16_t len)
{
    gw_put_u8(out, 0x08);
    gw_put_be16(out, (uint16_t)command);
    gw_put_be16(out, len);
    g_byte_array_append(out, data, len);
}

static void
put_xbzrle(GByteArray *out)
{
    static const uint8_t part[] = {0x02, 0, 0, 0, 2};

    g_byte_array_append(out, part, sizeof(part));
    gw_put_be64(out, 0x40);
    gw_put_u8(out, 6);
    g_byte_array_append(out, (const uint8_t *)"pc.ram", 6);
    gw_put_u8(out, 1);
    gw_put_be16(out, 3);
    g_byte_array_append(out, (const uint8_t *)"\1\1x", 3);
    gw_put_be64(out, 0x10);
    gw_put_u8(out, 0x7e);
    gw_put_be32(out, 2);
}

static void
put_fill(GByteArray *out)
{
    static const uint8_t part[] = {0x02, 0, 0, 0, 2};

    g_byte_array_append(out, part, sizeof(part));
    gw_put_be64(out, 0x02);
    gw_put_u8(out, 6);
    g_byte_array_append(out, (const uint8_t *)"pc.ram\7", 7);
    gw_put_be64(out, 0x10);
    gw_put_u8(out, 0x7e);
    gw_put_be32(out, 2);
}

/* The stream is: a head with two rounds of the same pages, @middle, and the same round once more.
 */
static void
expect_rounds(void (*middle)(GByteArray *), bool same_after)
{
    static const uint8_t part[] = {0x02, 0, 0, 0, 2};
    g_autoptr(GByteArray) head = qemu_stream_make(&(QemuStreamSpec){.seed = 5});
    g_autoptr(GByteArray) stream = g_byte_array_new();
    uint8_t page[GW_PAGE_BYTES] = "a page";
    Rig rig;

    /* Without rounds, the device and the end. */
    g_byte_array_append(stream, head->data, 4 + 4 + 1 + 4 + 4 + 4 + 4 + 8 + 7 + 8 + 22 + 8 + 13);
    for (unsigned round = 0; round < 3; round++) {
        if (round == 2) {
            middle(stream);
        }
        g_byte_array_append(stream, part, sizeof(part));
        gw_put_be64(stream, 0x08);
        gw_put_u8(stream, 6);
        g_byte_array_append(stream, (const uint8_t *)"pc.ram", 6);
        g_byte_array_append(stream, page, sizeof(page));
        gw_put_be64(stream, 0x28);
        g_byte_array_append(stream, page, sizeof(page));
        gw_put_be64(stream, 0x10);
        gw_put_u8(stream, 0x7e);
        gw_put_be32(stream, 2);
    }
    rig_init(&rig, 0, NULL);
    feed(&rig, stream);
    GwStreamMark source, target;

    gw_page_source_mark(rig.source, &source);
    gw_page_target_mark(rig.target, &target);
    g_assert_cmpmem(source.digest, GW_DIGEST_BYTES, target.digest, GW_DIGEST_BYTES);
    GwPageTargetCounts counts = gw_page_target_take_counts(rig.target);
    g_assert_cmpuint(counts.pages, ==, 6);
    /* Those that name the block are always written. */
    g_assert_cmpuint(counts.same_pages, ==, same_after ? 3 : 2);
    g_assert_cmpuint(rig.out->len, ==, stream->len - counts.same_pages * (8 + GW_PAGE_BYTES));
    g_assert_false(gw_ram_parser_is_opaque(rig.parser, NULL));
    rig_clear(&rig);
}

static void
put_ping(GByteArray *out)
{
    put_command(out, 2, "1234", 4);
}

static void
put_advise(GByteArray *out)
{
    put_command(out, 3, "", 0);
}

static void
put_listen(GByteArray *out)
{
    put_command(out, 4, "", 0);
}

static void
put_discard(GByteArray *out)
{
    put_command(out, 6, "\0\6pc.ram\0", 9);
}

static void
put_package(GByteArray *out)
{
    put_command(out, 7, "\0\0\0\5", 4);
    g_byte_array_append(out, (const uint8_t *)"inner", 5);
}

static void
test_hidden_changes(void)
{
    expect_rounds(put_ping, true);
    expect_rounds(put_advise, true);
    expect_rounds(put_listen, false);
    expect_rounds(put_discard, false);
    expect_rounds(put_package, false);
    expect_rounds(put_xbzrle, false);
    expect_rounds(put_fill, false);
}

/* --- caps ------------------------------------------------------------------------------------- */

static void
test_caps(void)
{
    const GwPageTargetCaps caps = {.table_bytes = 1 << 20, .copy_bytes = 16 * GW_PAGE_BYTES};
    static const struct {
        GwPageMemoryLimits limits;
        bool fits;
    } cases[] = {
        {{.table_bytes = 1 << 20, .copies = 16}, true},
        {{.table_bytes = 0, .copies = 0}, true},
        {{.table_bytes = (1 << 20) + 1, .copies = 0}, false},
        {{.table_bytes = 0, .copies = 17}, false},
        {{.table_bytes = UINT64_MAX, .copies = UINT32_MAX}, false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GwPageTarget) target = gw_page_target_new(&caps);
        GwStreamBegin begin = {.limits = cases[i].limits};
        g_autoptr(GError) error = NULL;

        g_assert_cmpint(gw_page_target_begin(target, &begin, &error), ==, cases[i].fits);
        if (!cases[i].fits) {
            g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
        }
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pages/guest-arrives", test_guest_arrives);
    g_test_add_func("/pages/placed", test_placed);
    g_test_add_func("/pages/equal", test_equal);
    g_test_add_func("/pages/equal-across-blocks", test_equal_across_blocks);
    g_test_add_func("/pages/equal-at-random", test_equal_at_random);
    g_test_add_func("/pages/equal-to-what-changed", test_equal_to_what_changed);
    g_test_add_func("/pages/equal-to-nothing", test_equal_to_nothing);
    g_test_add_func("/pages/hidden-changes", test_hidden_changes);
    g_test_add_func("/pages/caps", test_caps);
    return g_test_run();
}
