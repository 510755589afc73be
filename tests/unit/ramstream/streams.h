// SPDX-License-Identifier: Apache-2.0
/*
 * Hand-made migration streams: every field is put by name, so that tests can cut and damage the
 * stream at each field's boundary.
 */
#pragma once

#include "base/cursor.h"
#include "ramstream/format.h"
#include "ramstream/ramstream.h"

#include <string.h>

#define RAM_SECTION     2u
#define BITMAP_SECTION  3u
#define DEVICE_SECTION  7u
#define RAM_BLOCK_PAGES 64u
#define VGA_BLOCK_PAGES 16u

/* What ends the understanding of nearly every stream. */
#define DEVICE_WHY "device state, whose length is not in the stream"

typedef struct Stream {
    GByteArray *bytes;
    GArray *fields; /* size_t: where each field ends */
} Stream;

Stream *stream_new(void);
void stream_free(Stream *stream);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Stream, stream_free)

void put_u8(Stream *stream, uint8_t value);
void put_u16(Stream *stream, uint16_t value);
void put_u32(Stream *stream, uint32_t value);
void put_u64(Stream *stream, uint64_t value);
void put_data(Stream *stream, const void *data, size_t len);
void put_fill(Stream *stream, uint8_t fill, size_t len);
void put_name(Stream *stream, const char *name);

void put_file_header(Stream *stream);
void put_configuration(Stream *stream);
void put_subsection(Stream *stream, const char *name);
void put_command(Stream *stream, uint16_t command, uint16_t len);
void put_start(Stream *stream, uint8_t type, uint32_t id, const char *name, uint32_t version);
void put_part(Stream *stream, uint8_t type, uint32_t id);
void put_footer(Stream *stream, uint32_t id);
/* The blocks "pc.ram" and "vga.vram". */
void put_block_list(Stream *stream);
/* @name is NULL for a page that continues in the last block. */
void put_page(Stream *stream, const char *name, uint64_t page, uint8_t fill);
void put_zero(Stream *stream, const char *name, uint64_t page, uint8_t fill);
void put_eos(Stream *stream);
void put_device(Stream *stream);
void put_description(Stream *stream, const char *json);

/* Up to the first record behind the block list. */
void put_ram_start(Stream *stream);

/* Whole streams, as the parts of QEMU that they are named after write them. */
Stream *stream_precopy(void);
Stream *stream_undescribed(void); /* machine with suppress-vmdesc=on */
Stream *stream_postcopy(void);    /* with huge pages */
Stream *stream_shared(void);      /* capability x-ignore-shared */
Stream *stream_bitmap(void);
Stream *stream_old_machine(void); /* before 2.4: no configuration, no footers */
