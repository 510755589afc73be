// SPDX-License-Identifier: Apache-2.0
/*
 * Parser and writer on hand-made streams: items as expected, cut at every byte, damaged at every
 * byte. The speed is measured with -m perf.
 */
#include "roundtrip.h"
#include "streams.h"

typedef struct Whole {
    const char *name;
    Stream *(*build)(void);
    const char *items; /* pages, and "-" for any bytes in between */
    const char *why;   /* it turned opaque; "" if it did not */
    bool marked;       /* it also ends where the description begins */
} Whole;

static const Whole wholes[] = {
    {"precopy", stream_precopy,
     "- pc.ram:0=11 0:1=22 0:63=0 vga.vram:3=0 - 1:5=0 - 0:0=33 - 0:2=44 -", DEVICE_WHY, true},
    {"undescribed", stream_undescribed,
     "- pc.ram:0=11 0:1=22 0:63=0 vga.vram:3=0 - 1:5=0 - 0:0=33 - 0:2=44 -", DEVICE_WHY, false},
    {"postcopy", stream_postcopy, "- pc.ram:511=11 rom:0=0 -", "", false},
    {"shared", stream_shared, "- rom:0=77 -", "", false},
    {"bitmap", stream_bitmap, "- pc.ram:0=11 - 0:1=22 -", DEVICE_WHY, true},
    {"old-machine", stream_old_machine, "- pc.ram:5=55 -", "the end mark has passed", true},
};

typedef struct Log {
    GString *text;
    RoundTrip *trip;
} Log;

static void
log_item(const GwRamItem *item, size_t pos, void *data)
{
    Log *log = data;

    if (item->kind == GW_RAM_ITEM_BYTES) {
        if (!g_str_has_suffix(log->text->str, "- ")) {
            g_string_append(log->text, "- ");
        }
        return;
    }
    if (item->names_block) {
        g_string_append(log->text, gw_ram_parser_block_name(log->trip->parser, item->block));
    } else {
        g_string_append_printf(log->text, "%u", item->block);
    }
    g_string_append_printf(log->text, ":%" G_GUINT64_FORMAT "=%x ", item->address / GW_PAGE_BYTES,
                           item->kind == GW_RAM_ITEM_PAGE ? item->data[0] : 0);
}

static void
check_whole(const Whole *whole, const Stream *stream, uint32_t pieces)
{
    g_autoptr(GString) text = g_string_new(NULL);
    RoundTrip trip = {.seen = log_item};
    Log log = {text, &trip};
    const char *why;

    trip.seen_data = &log;
    roundtrip_check(&trip, stream->bytes->data, stream->bytes->len, pieces);
    g_strchomp(text->str);
    g_assert_cmpstr(text->str, ==, whole->items);
    g_assert_cmpint(gw_ram_parser_is_opaque(trip.parser, &why), ==, whole->why[0] != '\0');
    g_assert_cmpstr(why, ==, whole->why);
    g_assert_true(gw_ram_parser_saw_end(trip.parser));
    roundtrip_clear(&trip);
}

static void
test_whole(const void *data)
{
    const Whole *whole = data;
    g_autoptr(Stream) stream = whole->build();

    for (uint32_t pieces = 0; pieces < 600; pieces++) {
        check_whole(whole, stream, pieces);
    }
}

/* From @pos to the next byte to be tried: the inside of a page's content is all the same. */
static size_t
next_place(const Stream *stream, size_t pos, unsigned *field)
{
    while (g_array_index(stream->fields, size_t, *field) <= pos) {
        (*field)++;
    }
    size_t start = *field > 0 ? g_array_index(stream->fields, size_t, *field - 1) : 0;
    size_t end = g_array_index(stream->fields, size_t, *field);
    return end - start < GW_PAGE_BYTES || pos + 61 >= end ? pos + 1 : pos + 61;
}

static void
test_cut(const void *data)
{
    const Whole *whole = data;
    g_autoptr(Stream) stream = whole->build();
    size_t marked_at = 0;
    unsigned field = 0;

    /* A description has three fields, before it stands the end mark. */
    if (whole->marked) {
        marked_at = g_array_index(stream->fields, size_t, stream->fields->len - 4);
    }
    for (size_t len = 0; len < stream->bytes->len; len = next_place(stream, len, &field)) {
        RoundTrip trip = {0};
        roundtrip_check(&trip, stream->bytes->data, len, 0);
        if (gw_ram_parser_saw_end(trip.parser) != (len > 0 && len == marked_at)) {
            g_test_message("wrong about the end at byte %zu", len);
            g_test_fail();
        }
        roundtrip_clear(&trip);
    }
}

static void
test_damaged(const void *data)
{
    const Whole *whole = data;
    g_autoptr(Stream) stream = whole->build();
    const uint8_t masks[] = {0x01, 0x04, 0x20, 0x80, 0xff};
    uint8_t *bytes = stream->bytes->data;
    unsigned field = 0;

    for (size_t i = 0; i < stream->bytes->len; i = next_place(stream, i, &field)) {
        for (size_t m = 0; m < G_N_ELEMENTS(masks); m++) {
            RoundTrip trip = {0};
            bytes[i] ^= masks[m];
            roundtrip_check(&trip, bytes, stream->bytes->len, 0);
            bytes[i] ^= masks[m];
            roundtrip_clear(&trip);
        }
    }
}

/* Each field in turn is taken out, doubled, and set to extremes. */
static void
test_fields(const void *data)
{
    const Whole *whole = data;
    g_autoptr(Stream) stream = whole->build();
    const uint8_t *bytes = stream->bytes->data;
    size_t len = stream->bytes->len;

    for (size_t start = 0, f = 0; f < stream->fields->len; f++) {
        size_t end = g_array_index(stream->fields, size_t, f);
        for (unsigned how = 0; how < 4; how++) {
            g_autoptr(GByteArray) changed = g_byte_array_new();
            RoundTrip trip = {0};
            g_byte_array_append(changed, bytes, (guint)(how == 1 ? end : start));
            if (how > 0) {
                g_byte_array_append(changed, bytes + start, (guint)(end - start));
            }
            if (how > 1) {
                memset(changed->data + start, how == 2 ? 0x00 : 0xff, end - start);
            }
            g_byte_array_append(changed, bytes + end, (guint)(len - end));
            roundtrip_check(&trip, changed->data, changed->len, 1000);
            roundtrip_clear(&trip);
        }
        start = end;
    }
}

static void
test_random(void)
{
    for (unsigned round = 0; round < 300; round++) {
        g_autoptr(Stream) stream = stream_new();
        RoundTrip trip = {0};

        put_ram_start(stream);
        size_t len = (size_t)g_test_rand_int_range(1, 20000);
        for (size_t i = 0; i < len; i++) {
            /* Mostly small numbers: they are flags, tokens and lengths. */
            int32_t limit = g_test_rand_bit() ? 64 : 256;
            gw_put_u8(stream->bytes, (uint8_t)g_test_rand_int_range(0, limit));
        }
        size_t skip = round % 3 == 0 ? stream->bytes->len - len : 0;
        roundtrip_check(&trip, stream->bytes->data + skip, stream->bytes->len - skip,
                        (uint32_t)g_test_rand_int());
        roundtrip_clear(&trip);
    }
}

static void
test_blocks(void)
{
    g_autoptr(Stream) stream = stream_new();
    RoundTrip trip = {0};

    put_ram_start(stream);
    put_page(stream, "unlisted", 1u << 20, 1);
    roundtrip_check(&trip, stream->bytes->data, stream->bytes->len, 0);
    g_assert_cmpuint(gw_ram_parser_n_blocks(trip.parser), ==, 3);
    g_assert_cmpstr(gw_ram_parser_block_name(trip.parser, 1), ==, "vga.vram");
    g_assert_cmpuint(gw_ram_parser_block_bytes(trip.parser, 1), ==,
                     VGA_BLOCK_PAGES * GW_PAGE_BYTES);
    g_assert_cmpstr(gw_ram_parser_block_name(trip.parser, 2), ==, "unlisted");
    g_assert_cmpuint(gw_ram_parser_block_bytes(trip.parser, 2), ==, 0);
    g_assert_null(gw_ram_parser_block_name(trip.parser, 3));
    g_assert_cmpuint(gw_ram_parser_block_bytes(trip.parser, 3), ==, 0);
    g_assert_cmpuint(trip.pages, ==, 1);
    roundtrip_clear(&trip);
}

/* A page that lies whole in the buffer is not copied. */
static void
test_borrowed(void)
{
    g_autoptr(Stream) stream = stream_new();
    g_autoptr(GwRamParser) parser = gw_ram_parser_new();
    GwRamItem item;
    size_t room;

    put_ram_start(stream);
    put_page(stream, "pc.ram", 0, 0x5a);
    uint8_t *space = gw_ram_parser_space(parser, &room);
    memcpy(space, stream->bytes->data, stream->bytes->len);
    gw_ram_parser_fed(parser, stream->bytes->len);
    do {
        g_assert_true(gw_ram_parser_next(parser, &item));
    } while (item.kind != GW_RAM_ITEM_PAGE);
    g_assert_true(item.data == space + stream->bytes->len - GW_PAGE_BYTES);
    g_assert_false(gw_ram_parser_next(parser, &item));
    g_assert_false(gw_ram_parser_finish(parser, &item));
    g_assert_false(gw_ram_parser_saw_end(parser));
}

static double
measure(const Stream *stream, size_t from, unsigned rounds)
{
    g_autoptr(GwRamParser) parser = gw_ram_parser_new();
    GwRamItem item;
    uint64_t bytes = 0;
    double seconds = 0;

    for (unsigned i = 0; i <= rounds; i++) {
        size_t room;
        uint8_t *space = gw_ram_parser_space(parser, &room);
        size_t start = i == 0 ? 0 : from;
        size_t len = i == 0 ? from : stream->bytes->len - from;
        memcpy(space, stream->bytes->data + start, len);
        gw_ram_parser_fed(parser, len);
        g_test_timer_start();
        while (gw_ram_parser_next(parser, &item)) {
            bytes += item.kind == GW_RAM_ITEM_ZERO ? 9 : item.kind == GW_RAM_ITEM_PAGE ? 4104 : 0;
        }
        seconds += g_test_timer_elapsed();
    }
    g_assert_false(gw_ram_parser_is_opaque(parser, NULL));
    return (double)bytes / seconds;
}

static void
test_speed(void)
{
    g_autoptr(Stream) pages = stream_new();
    g_autoptr(Stream) zeroes = stream_new();

    put_ram_start(pages);
    put_ram_start(zeroes);
    put_page(pages, "pc.ram", 0, 1);
    put_zero(zeroes, "pc.ram", 0, 0);
    size_t from_page = pages->bytes->len;
    size_t from_zero = zeroes->bytes->len;
    for (unsigned i = 0; i < 200; i++) {
        put_page(pages, NULL, i % RAM_BLOCK_PAGES, 1);
        put_zero(zeroes, NULL, i % RAM_BLOCK_PAGES, 0);
    }
    double page_rate = measure(pages, from_page, 20000);
    double zero_rate = measure(zeroes, from_zero, 200000);
    g_test_maximized_result(page_rate / 1e9, "pages: %.1f GB/s of stream", page_rate / 1e9);
    g_test_maximized_result(zero_rate / 9e6, "zero pages: %.1f million/s", zero_rate / 9e6);
    g_assert_cmpfloat(page_rate, >, 4e9);
}

static void
add_whole_tests(const Whole *whole)
{
    static const struct {
        const char *name;
        GTestDataFunc test;
    } how[] = {
        {"whole", test_whole},
        {"cut", test_cut},
        {"damaged", test_damaged},
        {"fields", test_fields},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(how); i++) {
        g_autofree char *path = g_strdup_printf("/ramstream/%s/%s", how[i].name, whole->name);
        g_test_add_data_func(path, whole, how[i].test);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(wholes); i++) {
        add_whole_tests(&wholes[i]);
    }
    g_test_add_func("/ramstream/random", test_random);
    g_test_add_func("/ramstream/blocks", test_blocks);
    g_test_add_func("/ramstream/borrowed", test_borrowed);
    if (g_test_perf()) {
        g_test_add_func("/ramstream/speed", test_speed);
    }
    return g_test_run();
}
