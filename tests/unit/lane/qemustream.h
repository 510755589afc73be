// SPDX-License-Identifier: Apache-2.0
/*
 * A migration stream as QEMU writes it (src/ramstream/format.h), made up: header, RAM in several
 * rounds with pages of three kinds and zero pages, a device nobody understands, the end.
 */
#pragma once

#include "ramstream/ramstream.h"

typedef struct QemuStreamSpec {
    uint32_t seed;
    unsigned n_pages;    /* of all rounds */
    unsigned zero_part;  /* of 100 */
    unsigned plain_part; /* of 100: pages that compress well; the rest is random */
    size_t device_bytes;
} QemuStreamSpec;

/* Transfer full. */
GByteArray *qemu_stream_make(const QemuStreamSpec *spec);
