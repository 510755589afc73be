// SPDX-License-Identifier: Apache-2.0
/*
 * The running digest over the stream's bytes, the same at both ends. One thread.
 *
 * XXH3-128 finds damage by mistakes, of the network, of memory or of our own; it is no defence
 * against an attacker, which TLS is.
 */
#pragma once

#include "lane/frame.h"

#define GW_DIGEST_HEX_BYTES (2 * GW_DIGEST_BYTES + 1)

typedef struct GwDigest GwDigest;

GwDigest *gw_digest_new(void);
void gw_digest_free(GwDigest *digest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwDigest, gw_digest_free)

void gw_digest_add(GwDigest *digest, const void *data, size_t len);
/* Count and digest of everything added so far; adding may go on. */
void gw_digest_mark(const GwDigest *digest, GwStreamMark *out);
uint64_t gw_digest_bytes(const GwDigest *digest);

void gw_digest_hex(const GwStreamMark *mark, char out[GW_DIGEST_HEX_BYTES]);
