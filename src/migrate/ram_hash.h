// SPDX-License-Identifier: Apache-2.0
/*
 * Hashes of a paused guest's memory as its QEMU has it.
 *
 * QEMU itself copies a piece of the guest's physical memory (pmemsave) into a file in memory that
 * the daemon gave it, and a worker thread hashes that: the daemon needs no right to look into
 * QEMU's own memory, and holds at most GW_RAM_HASH_MAX_BYTES of the guest's. A hash is XXH3-128
 * with a seed: whoever chooses the seed does it when the guest has stopped, so that no guest can
 * have aimed at it.
 *
 * Main context; callbacks report once and never from inside the call.
 */
#pragma once

#include "migrate/internal.h"
#include "migrate/ram_map.h"

#define GW_RAM_HASH_BYTES     16u
#define GW_RAM_HASH_MAX_BYTES (64u * 1024u * 1024u) /* of memory, in one request */
#define GW_RAM_HASH_MAX_UNITS 1024u

typedef struct GwRamHash GwRamHash;

/* What to hash: [start, start + bytes), a hash for each @unit_bytes, the last may be shorter. */
typedef struct GwRamHashRequest {
    uint64_t start;
    uint64_t bytes;
    uint64_t unit_bytes;
    uint64_t seed;
} GwRamHashRequest;

/* @ranges: of GwRamRange, borrowed, as long as the GwRamHash is there; NULL when @error is set. */
typedef void (*GwRamHashReadyFn)(const GPtrArray *ranges, const GError *error, void *data);
/* @hashes: GW_RAM_HASH_BYTES for each unit; NULL when @error is set. Borrowed. */
typedef void (*GwRamHashDoneFn)(GBytes *hashes, const GError *error, void *data);

GwRamHash *gw_ram_hash_new(GwMove *move, GwRamHashReadyFn ready, void *data,
                           GError **error) GW_MUST_USE;
/* Stops it without a callback. NULL is fine. */
void gw_ram_hash_free(GwRamHash *hash);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRamHash, gw_ram_hash_free)

unsigned gw_ram_hash_units(const GwRamHashRequest *request);

/* One at a time, once it is ready. GW_ERROR_PROTOCOL if that is not all memory, or too much. */
bool gw_ram_hash_ask(GwRamHash *hash, const GwRamHashRequest *request, GwRamHashDoneFn done,
                     void *data, GError **error) GW_MUST_USE;
