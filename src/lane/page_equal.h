// SPDX-License-Identifier: Apache-2.0
/*
 * An index of the contents that a stream has sent, from tag to page: finds another page with the
 * same content, which the target then takes from there.
 *
 * A hint only: what it finds counts if the page memory says that this page's content, as it was
 * sent last, has the whole tag. So nothing has to be taken out of it, and what it forgets costs
 * bytes. It keeps one page of each content; when that one has changed, the next with this content
 * takes its place.
 *
 * Memory: 10 bytes per page of the guest, 2.5 MiB per GiB, at most GW_PAGE_EQUAL_MAX_BYTES, filled
 * in by the kernel as it is used. One thread.
 */
#pragma once

#include "lane/page_memory.h"

#define GW_PAGE_EQUAL_MAX_BYTES (256u * 1024u * 1024u)

typedef struct GwPageEqual GwPageEqual;

/* For a guest of @n_pages. NULL: there is no memory for it. */
GwPageEqual *gw_page_equal_new(uint64_t n_pages) GW_MUST_USE;
void gw_page_equal_free(GwPageEqual *equals);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwPageEqual, gw_page_equal_free)

/* A page that is about to be sent. */
typedef struct GwPageEqualPage {
    uint16_t block; /* below GW_RAM_MAX_BLOCKS */
    uint64_t number;
    const GwPageTag *tag; /* of its content now */
    bool may_be_found;    /* later pages may be equal to it */
} GwPageEqualPage;

/*
 * True: another page has this content, and @place is where (gw_batch_place()). Else @page is noted
 * if it may be.
 */
bool gw_page_equal_find(GwPageEqual *equals, const GwPageMemory *memory,
                        const GwPageEqualPage *page, uint64_t *place);

uint64_t gw_page_equal_memory_bytes(const GwPageEqual *equals);
