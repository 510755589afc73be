// SPDX-License-Identifier: Apache-2.0
/*
 * The running digest over the stream, the same at both ends. One thread.
 *
 * It covers, in order, the bytes that are no page as they are, and of each page:
 *
 *     be64      address | flags, as its record in QEMU's stream begins (ramstream/format.h)
 *     be16      index of its block
 *     16 bytes  a page with content: its tag (page_tag.h)
 *
 * The tag stands for the content, so that pages count whose content the target does not see again
 * because it is the same as before. What is counted are the bytes of QEMU's stream.
 *
 * XXH3-128 finds damage by mistakes, of the network, of memory or of our own; it is no defence
 * against an attacker, which TLS is.
 */
#pragma once

#include "lane/frame.h"
#include "ramstream/ramstream.h"

#define GW_DIGEST_HEX_BYTES (2 * GW_DIGEST_BYTES + 1)

typedef struct GwDigest GwDigest;

GwDigest *gw_digest_new(void);
void gw_digest_free(GwDigest *digest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwDigest, gw_digest_free)

/* Bytes that are no page. */
void gw_digest_add(GwDigest *digest, const void *data, size_t len);
/* A page, ZERO or PAGE; its data is not looked at. @record_bytes: its record's length. */
void gw_digest_add_page(GwDigest *digest, const GwRamItem *page, const GwPageTag *tag,
                        size_t record_bytes);
/* Count and digest of everything added so far; adding may go on. */
void gw_digest_mark(const GwDigest *digest, GwStreamMark *out);
uint64_t gw_digest_bytes(const GwDigest *digest);

void gw_digest_hex(const GwStreamMark *mark, char out[GW_DIGEST_HEX_BYTES]);
