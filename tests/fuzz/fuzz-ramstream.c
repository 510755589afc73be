// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes parser and writer of the migration stream: any bytes, fed in any pieces, must come out
 * the same. The input is a stream as QEMU writes it (recordings serve as seeds); its last byte also
 * chooses the sizes of the pieces.
 */
#include "../unit/ramstream/roundtrip.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    RoundTrip trip = {0};
    uint32_t last = len > 0 ? data[len - 1] : 0;
    uint32_t pieces = last < 64 ? last : last * 257;

    if (!roundtrip(&trip, data, len, pieces)) {
        fprintf(stderr, "fuzz-ramstream: %s at byte %zu\n", trip.broken, trip.pos);
        abort();
    }
    roundtrip_clear(&trip);
    return 0;
}
