// SPDX-License-Identifier: Apache-2.0
/*
 * QEMU's migration stream as a sequence of items: parser and writer. No I/O; any one thread.
 *
 * The parser is fed bytes in pieces of any size and yields items; written in order, the items
 * give back the same bytes exactly. What it does not know is not an error: from there on all is
 * GW_RAM_ITEM_BYTES ("opaque"), so a stream of another version or with unknown sections passes
 * untouched. The stream is hostile input (a guest, a peer or a file may have made it): every
 * length is checked before it is believed, and memory is bounded (see the limits).
 *
 * The format (QEMU migration/savevm.c, migration/ram.c; docs/devel/migration): the table stands in
 * format.h beside this file.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define GW_PAGE_BYTES 4096u

/* RAM blocks a stream may name; QEMU has about 10 per guest. */
#define GW_RAM_MAX_BLOCKS 4096u

typedef enum GwRamItemKind {
    GW_RAM_ITEM_BYTES, /* any bytes that are not a page: pass on verbatim */
    GW_RAM_ITEM_ZERO,  /* a page whose content is zero */
    GW_RAM_ITEM_PAGE,  /* a page with content */
} GwRamItemKind;

/*
 * A page item stands for its header and content in the stream: be64 (address | flags), for a page
 * that does not continue in the last one's block the block's name, then one byte 0 or the page.
 */
typedef struct GwRamItem {
    GwRamItemKind kind;
    bool names_block;    /* ZERO, PAGE: the header carries the block's name (no CONTINUE flag) */
    uint16_t block;      /* ZERO, PAGE: index into the stream's blocks, in order of appearance */
    uint64_t address;    /* ZERO, PAGE: offset in the block, a multiple of GW_PAGE_BYTES */
    const uint8_t *data; /* BYTES: `len` bytes; PAGE: GW_PAGE_BYTES; borrowed, see next() */
    size_t len;          /* BYTES only */
} GwRamItem;

typedef struct GwRamParser GwRamParser;

GwRamParser *gw_ram_parser_new(void);
void gw_ram_parser_free(GwRamParser *parser);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRamParser, gw_ram_parser_free)

/*
 * Where to put the next bytes of the stream: a buffer of at least 64 KiB (bounded, reused). Say how
 * many were put there with gw_ram_parser_fed(). Call both only after next() returned false.
 */
uint8_t *gw_ram_parser_space(GwRamParser *parser, size_t *len);
void gw_ram_parser_fed(GwRamParser *parser, size_t len);

/*
 * The next whole item; false if more bytes are needed. item->data stays valid until the next call
 * of space(). BYTES items come as soon as their bytes are there: nothing is held back for longer
 * than the field it belongs to.
 */
bool gw_ram_parser_next(GwRamParser *parser, GwRamItem *item);

/* After the last byte: what was left unfinished, as one BYTES item; false if nothing. */
bool gw_ram_parser_finish(GwRamParser *parser, GwRamItem *item);

/* Name of a block that items refer to; NULL for an unknown index. Borrowed. */
const char *gw_ram_parser_block_name(const GwRamParser *parser, uint16_t block);
/* Its size in bytes as the stream told; 0 if it did not. */
uint64_t gw_ram_parser_block_bytes(const GwRamParser *parser, uint16_t block);
unsigned gw_ram_parser_n_blocks(const GwRamParser *parser);

/*
 * True once the parser has given up understanding: NULL-safe reason in *why (nullable). A pre-copy
 * stream always gets there, behind the last page: nothing tells the length of device state.
 */
bool gw_ram_parser_is_opaque(const GwRamParser *parser, const char **why);

/*
 * True once a page may have changed at the target without an item that says so: by post-copy, which
 * makes it drop pages, by a delta page (XBZRLE) or by a page filled with one byte. What was sent
 * last at an address is then not what is there. Final; counts from the next item on.
 */
bool gw_ram_parser_hides_changes(const GwRamParser *parser);

/*
 * True once QEMU's end-of-stream mark (and the description behind it, if any) has passed whole.
 * Final after finish(); tail.h says what it proves behind device state.
 */
bool gw_ram_parser_saw_end(const GwRamParser *parser);

/*
 * The writer turns items back to bytes. Blocks are added in the order in which the parser met
 * them. GW_ERROR_PROTOCOL for an unknown block, a bad address or a full block table.
 */
typedef struct GwRamWriter GwRamWriter;

GwRamWriter *gw_ram_writer_new(void);
void gw_ram_writer_free(GwRamWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRamWriter, gw_ram_writer_free)

bool gw_ram_writer_add_block(GwRamWriter *writer, const char *name, size_t name_len,
                             GError **error) GW_MUST_USE;
/* Appends the item's bytes to @out. */
bool gw_ram_writer_put(GwRamWriter *writer, const GwRamItem *item, GByteArray *out,
                       GError **error) GW_MUST_USE;
