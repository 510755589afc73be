// SPDX-License-Identifier: Apache-2.0
/*
 * A migration stream as QEMU writes it (src/ramstream/format.h), made up: header, RAM in several
 * rounds with pages of three kinds and zero pages, a device nobody understands, the end. And the
 * guest that a QEMU makes of a stream.
 */
#pragma once

#include "ramstream/ramstream.h"

typedef struct QemuStreamSpec {
    uint32_t seed;
    unsigned n_pages;    /* of all rounds */
    unsigned zero_part;  /* of 100 */
    unsigned plain_part; /* of 100: pages that compress well; the rest is random */
    unsigned same_part;  /* of 100: pages as they were sent last at their address, if they were */
    unsigned delta_part; /* of 100: the same, with a few words changed */
    unsigned equal_part; /* of 100: pages as they were sent last at another one, if they were */
    size_t device_bytes;
    bool post_copy; /* the devices come in a package before the last round of several, too */
} QemuStreamSpec;

/* Of the package. */
#define QEMU_STREAM_PACKAGE "the guest may start on the target"

/* Transfer full. */
GByteArray *qemu_stream_make(const QemuStreamSpec *spec);

/*
 * What a QEMU has in the end that reads @stream: the guest's pages, and all that is no page. Equal
 * streams make equal guests, as do those of which one leaves out pages that are there already. A
 * page without the name of its block continues in the block that was named last.
 */
typedef struct QemuGuest {
    GHashTable *pages;  /* "BLOCK@ADDRESS" → GBytes */
    GByteArray *others; /* bytes that are no page */
    unsigned n_pages;   /* of the stream, zero pages with them */
} QemuGuest;

void qemu_guest_load(QemuGuest *guest, const GByteArray *stream);
void qemu_guest_assert_equal(const QemuGuest *a, const QemuGuest *b);
void qemu_guest_clear(QemuGuest *guest);
