// SPDX-License-Identifier: Apache-2.0
/* Made-up migration streams. */
#include "qemustream.h"

#include "base/cursor.h"

#include <string.h>

#define ROUND_PAGES 5000u

typedef struct Maker {
    GByteArray *out;
    GwRamWriter *writer;
    GRand *random;
    uint64_t word; /* xorshift, as GRand is slow by the page */
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

static void
put_round(Maker *maker, const QemuStreamSpec *spec, unsigned first, unsigned n, bool last)
{
    uint8_t page[GW_PAGE_BYTES];

    gw_put_u8(maker->out, last ? 0x03 : 0x02);
    gw_put_be32(maker->out, 2);
    for (unsigned i = 0; i < n; i++) {
        unsigned dice = (unsigned)g_rand_int_range(maker->random, 0, 100);
        bool second = first % 3 == 1 && i >= n / 2;
        GwRamItem item = {
            .kind = dice < spec->zero_part ? GW_RAM_ITEM_ZERO : GW_RAM_ITEM_PAGE,
            .names_block = i == 0 || (second && i == n / 2),
            .block = second,
            .address = (uint64_t)(first / 2 + i) * GW_PAGE_BYTES,
            .data = page,
        };
        if (item.kind == GW_RAM_ITEM_PAGE) {
            fill_page(maker, page, dice < spec->zero_part + spec->plain_part);
        }
        g_assert_true(gw_ram_writer_put(maker->writer, &item, maker->out, NULL));
    }
    put_footer(maker->out);
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
    };

    for (size_t i = 0; i < G_N_ELEMENTS(block_names); i++) {
        g_assert_true(
            gw_ram_writer_add_block(maker.writer, block_names[i], strlen(block_names[i]), NULL));
    }
    put_start(maker.out, (uint64_t)(spec->n_pages + 1) * GW_PAGE_BYTES);
    for (unsigned first = 0; first < spec->n_pages; first += ROUND_PAGES) {
        unsigned n = MIN(ROUND_PAGES, spec->n_pages - first);

        put_round(&maker, spec, first, n, first + n == spec->n_pages);
    }
    put_device(&maker, spec->device_bytes);
    gw_ram_writer_free(maker.writer);
    g_rand_free(maker.random);
    return maker.out;
}
