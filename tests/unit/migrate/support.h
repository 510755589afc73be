// SPDX-License-Identifier: Apache-2.0
/*
 * For the tests of moves: a store that answers when it is told to, waiting with a limit, hosts that
 * are two ends of real sessions over loopback.
 */
#pragma once

#include "lane/lane.h"
#include "migrate/internal.h"
#include "store/backend.h"

/* Turns the main loop until @condition holds; a minute without it is a failure. */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        guint watchdog_ = watchdog_start(G_STRLOC ": " #condition);                                \
        while (!(condition)) {                                                                     \
            g_main_context_iteration(NULL, TRUE);                                                  \
        }                                                                                          \
        g_source_remove(watchdog_);                                                                \
    } while (0)

guint watchdog_start(const char *what);

/* A fresh temporary folder that others may enter; test_folder_free() removes it with all in it. */
char *test_folder_new(void);
void test_folder_free(char *folder);

/* --- a store in memory ------------------------------------------------------------------------ */

typedef struct FakeStore {
    GwStore *store;
    GHashTable *values; /* key → text */
    GQueue pending;     /* of GwStoreRequest, not answered */
    bool manual;        /* requests wait for fake_store_answer() */
    bool full;          /* commits fail */
    unsigned commits;   /* submitted so far */
    guint idle;
} FakeStore;

FakeStore *fake_store_new(void);
void fake_store_free(FakeStore *fake);
/* Answers the oldest request. */
void fake_store_answer(FakeStore *fake, bool fail);
void fake_store_answer_all(FakeStore *fake);
/* What the oldest unanswered commit would write there; NULL if nothing. Transfer full. */
char *fake_store_pending_text(FakeStore *fake, const char *key);
/* The record of a move as it is in the store; NULL if none. Transfer full. */
json_t *fake_store_record(FakeStore *fake, const char *id);

/* gw_moves_new(), with all records loaded; @caps: NULL for none. */
GwMoves *moves_load(const GwMovesOptions *options, const GwHostCaps *caps);

/* What a GwMovesJsonFn was told. */
typedef struct Told {
    bool done;
    json_t *object;
    GError *error;
} Told;

void told_clear(Told *told);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Told, told_clear)
/* The answer to gw_moves_abandon(). */
Told abandon(GwMoves *moves, const char *id, bool peer_is_off);

/* --- a host without QEMU ---------------------------------------------------------------------- */

typedef struct Bench {
    char *folder;
    FakeStore *fake;
    GwVms *vms;
    GwMoves *moves;
} Bench;

/* Host "alpha". @change may alter the options, e.g. timeouts; NULL is fine. */
void bench_init(Bench *bench, void (*change)(GwMovesOptions *options));
void bench_clear(Bench *bench);
/* Ends moves and VMs and loads them again from what is in the store. */
void bench_restart(Bench *bench);
