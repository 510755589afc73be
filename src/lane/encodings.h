// SPDX-License-Identifier: Apache-2.0
/*
 * The ways to send less than a page's bytes that can be switched off, for measuring them.
 *
 * Text: names separated by commas, or "all", or "none". Zero pages are always left out.
 */
#pragma once

#include "base/error.h"

typedef enum GwEncoding {
    GW_ENCODING_SAME = 1 << 0,      /* "same": the content that was sent last */
    GW_ENCODING_EQUAL = 1 << 1,     /* "equal": another page's content that was sent */
    GW_ENCODING_DELTA = 1 << 2,     /* "delta": what changed since it was sent last */
    GW_ENCODING_REFERENCE = 1 << 3, /* "reference": a block of a disk image that both hosts read */
    GW_ENCODING_VISIT = 1 << 4,     /* "visit": a page of the VM's earlier visit to the target */
    GW_ENCODING_ZSTD = 1 << 5,      /* "zstd": batches of pages together */
    GW_ENCODING_ALL = (1 << 6) - 1,
} GwEncoding;

/* GW_ERROR_INVALID names the word and lists those that there are. */
bool gw_encodings_parse(const char *text, unsigned *out, GError **error) GW_MUST_USE;
/* As parsed; transfer full. */
char *gw_encodings_text(unsigned encodings) GW_MUST_USE;
