// SPDX-License-Identifier: Apache-2.0
/*
 * Visits of VMs, on disk (lane/visit.h): the memory of VMs that left, and hashes of the memory with
 * which others came. One folder; names are VM@HOST@MOVE.pages and .tags, with the move's other
 * host. Of each VM there is what belongs to its last move, no more.
 *
 * Pages are bounded together by max_bytes (the oldest go first), by age, and by a tenth of the file
 * system that stays free. Hashes, 2 MiB per GiB of a guest, are kept as long as the VM is here.
 *
 * Main context; but for unlinking and asking for free space nothing here waits for the disk.
 */
#pragma once

#include "base/error.h"
#include "lane/visit.h"

typedef struct GwVisits GwVisits;

typedef struct GwVisitsOptions {
    const char *folder;
    uint64_t max_bytes; /* 0: no pages are kept */
    int64_t max_age_ms;
} GwVisitsOptions;

/* Removes what a crash left half written. */
GwVisits *gw_visits_new(const GwVisitsOptions *options) GW_MUST_USE;
void gw_visits_free(GwVisits *visits);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwVisits, gw_visits_free)

const char *gw_visits_folder(const GwVisits *visits);

/* Whether pages of a guest of this size are kept at all. */
bool gw_visits_keeps(const GwVisits *visits, uint64_t guest_bytes);
/* @vm is about to leave: who keeps its pages; NULL: nobody, there is no room. Transfer full. */
GwVisitWriter *gw_visits_begin(GwVisits *visits, const char *vm, const char *peer, const char *move,
                               uint64_t guest_bytes) GW_MUST_USE;
/* It left with @writer (nullable, transfer full): that and nothing else is kept of it. */
void gw_visits_left(GwVisits *visits, const char *vm, const char *move, GwVisitWriter *writer);
/* It came, with @tags (nullable, transfer full), which are written in the background. */
void gw_visits_came(GwVisits *visits, const char *vm, const char *peer, const char *move,
                    GwVisitTags *tags);
/* There is no such VM any more. */
void gw_visits_forget(GwVisits *visits, const char *vm);

/* Removes what is too old or too much; happens by itself now and then. */
void gw_visits_prune(GwVisits *visits);

/* --- any thread ------------------------------------------------------------------------------- */

#define GW_VISITS_PAGES ".pages"
#define GW_VISITS_TAGS  ".tags"

/* "m-" and 12 hexadecimal digits. */
bool gw_move_id_is_valid(const char *id);

/* Where the pages (GW_VISITS_PAGES) or the hashes of that move are. Transfer full. */
char *gw_visits_path(const char *folder, const char *vm, const char *peer, const char *move,
                     const char *suffix) GW_MUST_USE;
/* The move with which @vm came from @peer, if its hashes are here; NULL: no. Transfer full. */
char *gw_visits_find_tags(const char *folder, const char *vm, const char *peer) GW_MUST_USE;
