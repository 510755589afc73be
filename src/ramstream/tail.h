// SPDX-License-Identifier: Apache-2.0
/*
 * Recognises the end of a stream whose device sections cannot be measured.
 *
 * QEMU writes last: the footer of the last device section (0x7e, be32 id), the end mark 0x00 and,
 * unless the machine has suppress-vmdesc=on, a description: 0x06, be32 length, one JSON object of
 * exactly that length. The object is followed byte by byte, so nothing has to be kept.
 *
 * A whole description at the very end proves that QEMU wrote everything: it is written in one go
 * after the device state, JSON has no byte below 0x20, and so none of its prefixes looks like
 * another description. It does not prove that the device state in between is right. The state is
 * the guest's to shape: a stream that was cut exactly behind bytes that a guest arranged to look
 * like this is taken for whole.
 * A footer and an end mark alone are weaker proof: six bytes that device state can hold by chance.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_STREAM_TAIL_BYTES 6u

typedef struct GwStreamTail {
    uint8_t last[GW_STREAM_TAIL_BYTES]; /* of what was fed */
    bool described;                     /* what was fed ends with a whole description */
    bool in_description;
    bool in_string;
    bool in_escape;
    unsigned depth; /* of braces and brackets */
    uint32_t left;  /* bytes of the description to come */
} GwStreamTail;

void gw_stream_tail_init(GwStreamTail *tail);
void gw_stream_tail_feed(GwStreamTail *tail, const uint8_t *data, size_t len);

/* What was fed ends with a footer and the end mark. */
bool gw_stream_tail_marked(const GwStreamTail *tail);
