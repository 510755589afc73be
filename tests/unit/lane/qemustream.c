// SPDX-License-Identifier: Apache-2.0
/* Made-up migration streams. */
#include "qemustream.h"

#include "base/cursor.h"
#include "ramstream/format.h"

#include <string.h>

#define ROUND_PAGES 5000u

typedef struct Maker {
    GByteArray *out;
    GwRamWriter *writer;
    GRand *random;
    uint64_t word;    /* xorshift, as GRand is slow by the page */
    GHashTable *sent; /* block << 32 | page → content; owned */
} Maker;

static const char *const block_names[] = {"pc.ram", "0000:00:02.0/vga.vram"};

static void
put_name(GByteArray *out, const char *name)
{
    gw_put_u8(out, (uint8_t)strlen(name));
    g_byte_array_append(out, (const uint8_t *)name, (guint)strlen(name));
}

static void
put_footer(GByteArray *out)
{
    gw_put_be64(out, 0x10); /* EOS */
    gw_put_u8(out, 0x7e);
    gw_put_be32(out, 2);
}

static void
put_start(GByteArray *out, uint64_t block_bytes)
{
    gw_put_be32(out, 0x5145564d);
    gw_put_be32(out, 3);
    gw_put_u8(out, 0x01);
    gw_put_be32(out, 2);
    put_name(out, "ram");
    gw_put_be32(out, 0);
    gw_put_be32(out, 4);
    gw_put_be64(out, (2 * block_bytes) | 0x04);
    for (size_t i = 0; i < G_N_ELEMENTS(block_names); i++) {
        put_name(out, block_names[i]);
        gw_put_be64(out, block_bytes);
    }
    put_footer(out);
}

static void
fill_page(Maker *maker, uint8_t *page, bool plain)
{
    for (size_t i = 0; i < GW_PAGE_BYTES; i += sizeof(maker->word)) {
        maker->word ^= maker->word << 13;
        maker->word ^= maker->word >> 7;
        maker->word ^= maker->word << 17;
        uint64_t value = plain && i % 128 != 0 ? i / 512 : maker->word;
        memcpy(page + i, &value, sizeof(value));
    }
}

/* False: nothing was sent there. */
static bool
recall_page(Maker *maker, const GwRamItem *item, uint8_t *page, bool change)
{
    uint64_t key = (uint64_t)item->block << 32 | item->address / GW_PAGE_BYTES;
    const uint8_t *last = g_hash_table_lookup(maker->sent, &key);

    if (!last) {
        return false;
    }
    memcpy(page, last, GW_PAGE_BYTES);
    for (unsigned i = 0; change && i < 5; i++) {
        page[g_rand_int_range(maker->random, 0, GW_PAGE_BYTES)] ^= 0x55;
    }
    return true;
}

static bool
recall_other(Maker *maker, const GwRamItem *item, unsigned n_pages, uint8_t *page)
{
    GwRamItem other = *item;

    other.block = (uint16_t)g_rand_int_range(maker->random, 0, 2);
    other.address = (uint64_t)g_rand_int_range(maker->random, 0, (gint32)n_pages) * GW_PAGE_BYTES;
    return recall_page(maker, &other, page, false);
}

static void
note_page(Maker *maker, const GwRamItem *item)
{
    uint64_t key = (uint64_t)item->block << 32 | item->address / GW_PAGE_BYTES;

    if (item->kind == GW_RAM_ITEM_PAGE) {
        g_hash_table_insert(maker->sent, g_memdup2(&key, sizeof(key)),
                            g_memdup2(item->data, GW_PAGE_BYTES));
    }
}

static void
put_round(Maker *maker, const QemuStreamSpec *spec, unsigned first, unsigned n, bool last)
{
    uint8_t page[GW_PAGE_BYTES];
    /* Rounds overlap; more so when pages are to be sent again. */
    unsigned base = first / (spec->same_part + spec->delta_part > 0 ? 8 : 2);

    gw_put_u8(maker->out, last ? 0x03 : 0x02);
    gw_put_be32(maker->out, 2);
    for (unsigned i = 0; i < n; i++) {
        unsigned dice = (unsigned)g_rand_int_range(maker->random, 0, 100);
        bool second = first % 3 == 1 && i >= n / 2;
        GwRamItem item = {
            .kind = dice < spec->zero_part ? GW_RAM_ITEM_ZERO : GW_RAM_ITEM_PAGE,
            .names_block = i == 0 || (second && i == n / 2),
            .block = second,
            .address = (uint64_t)(base + i) * GW_PAGE_BYTES,
            .data = page,
        };
        if (item.kind == GW_RAM_ITEM_PAGE) {
            unsigned recalled = 100 - spec->same_part - spec->delta_part;
            bool is_new =
                dice < recalled - spec->equal_part ||
                !(dice < recalled ? recall_other(maker, &item, base + n, page)
                                  : recall_page(maker, &item, page, dice < 100 - spec->same_part));

            if (is_new) {
                fill_page(maker, page, dice < spec->zero_part + spec->plain_part);
            }
        }
        note_page(maker, &item);
        g_assert_true(gw_ram_writer_put(maker->writer, &item, maker->out, NULL));
    }
    put_footer(maker->out);
}

static void
put_package(Maker *maker)
{
    const uint32_t len = strlen(QEMU_STREAM_PACKAGE);

    gw_put_u8(maker->out, GW_STREAM_COMMAND);
    gw_put_be16(maker->out, GW_STREAM_PACKAGED);
    gw_put_be16(maker->out, sizeof(len));
    gw_put_be32(maker->out, len);
    g_byte_array_append(maker->out, (const uint8_t *)QEMU_STREAM_PACKAGE, len);
}

static void
put_device(Maker *maker, size_t len)
{
    gw_put_u8(maker->out, 0x04);
    gw_put_be32(maker->out, 7);
    put_name(maker->out, "0000:00:09.0/mystery");
    gw_put_be32(maker->out, 0);
    gw_put_be32(maker->out, 5);
    for (size_t i = 0; i < len; i++) {
        gw_put_u8(maker->out, (uint8_t)(g_rand_int(maker->random) & 0x3f));
    }
    gw_put_u8(maker->out, 0x7e);
    gw_put_be32(maker->out, 7);
    gw_put_u8(maker->out, 0x00);
}

GByteArray *
qemu_stream_make(const QemuStreamSpec *spec)
{
    Maker maker = {
        .out = g_byte_array_new(),
        .writer = gw_ram_writer_new(),
        .random = g_rand_new_with_seed(spec->seed),
        .word = spec->seed + 1,
        .sent = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free),
    };

    for (size_t i = 0; i < G_N_ELEMENTS(block_names); i++) {
        g_assert_true(
            gw_ram_writer_add_block(maker.writer, block_names[i], strlen(block_names[i]), NULL));
    }
    put_start(maker.out, (uint64_t)(spec->n_pages + 1) * GW_PAGE_BYTES);
    for (unsigned first = 0; first < spec->n_pages; first += ROUND_PAGES) {
        unsigned n = MIN(ROUND_PAGES, spec->n_pages - first);

        if (spec->post_copy && first > 0 && first + n == spec->n_pages) {
            put_package(&maker);
        }
        put_round(&maker, spec, first, n, first + n == spec->n_pages);
    }
    put_device(&maker, spec->device_bytes);
    gw_ram_writer_free(maker.writer);
    g_rand_free(maker.random);
    g_hash_table_unref(maker.sent);
    return maker.out;
}

/* --- the other end ---------------------------------------------------------------------------- */

static void
load_item(QemuGuest *guest, const GwRamParser *parser, const GwRamItem *item)
{
    static const uint8_t zero[GW_PAGE_BYTES];

    if (item->kind == GW_RAM_ITEM_BYTES) {
        g_byte_array_append(guest->others, item->data, (guint)item->len);
        return;
    }
    g_hash_table_insert(
        guest->pages,
        g_strdup_printf("%s@%" G_GINT64_MODIFIER "x", gw_ram_parser_block_name(parser, item->block),
                        item->address),
        g_bytes_new(item->kind == GW_RAM_ITEM_PAGE ? item->data : zero, GW_PAGE_BYTES));
    guest->n_pages++;
}

void
qemu_guest_load(QemuGuest *guest, const GByteArray *stream)
{
    g_autoptr(GwRamParser) parser = gw_ram_parser_new();
    GwRamItem item;

    *guest = (QemuGuest){
        .pages =
            g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_bytes_unref),
        .others = g_byte_array_new(),
    };
    for (guint done = 0; done < stream->len;) {
        size_t room;
        uint8_t *space = gw_ram_parser_space(parser, &room);
        guint len = (guint)MIN(room, stream->len - done);

        memcpy(space, stream->data + done, len);
        gw_ram_parser_fed(parser, len);
        done += len;
        while (gw_ram_parser_next(parser, &item)) {
            load_item(guest, parser, &item);
        }
    }
    if (gw_ram_parser_finish(parser, &item)) {
        load_item(guest, parser, &item);
    }
}

void
qemu_guest_assert_equal(const QemuGuest *a, const QemuGuest *b)
{
    GHashTableIter iter;
    void *key, *content;

    g_assert_cmpmem(a->others->data, a->others->len, b->others->data, b->others->len);
    g_assert_cmpuint(g_hash_table_size(a->pages), ==, g_hash_table_size(b->pages));
    g_hash_table_iter_init(&iter, a->pages);
    while (g_hash_table_iter_next(&iter, &key, &content)) {
        const GBytes *other = g_hash_table_lookup(b->pages, key);

        g_assert_nonnull(other);
        g_assert_true(g_bytes_equal(content, other));
    }
}

void
qemu_guest_clear(QemuGuest *guest)
{
    g_hash_table_unref(guest->pages);
    g_byte_array_unref(guest->others);
}
