// SPDX-License-Identifier: Apache-2.0
/*
 * For the tests of the store: a folder of their own, and requests that wait for their answer by
 * running the main context.
 */
#pragma once

#include "store/store.h"

/* A fresh temporary folder; transfer full. */
char *test_folder_new(void);

/* Removes the folder with the files in it, and frees @folder. */
void test_folder_free(char *folder);

/* Opens the store in @folder/store.db; it must succeed. */
GwStore *test_store_open(const char *folder);

/* What a request came back with; its members are the caller's. */
typedef struct Outcome {
    bool done;
    bool succeeded;
    int64_t revision;
    int64_t lease;
    int64_t ttl_ms;
    GPtrArray *entries; /* GwStoreEntry */
    GError *error;
} Outcome;

void outcome_clear(Outcome *outcome);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Outcome, outcome_clear)

/* Callbacks for requests that are not waited for at once; data is the Outcome. */
void outcome_of_txn(const GwStoreTxnResult *result, const GError *error, void *data);
void outcome_of_range(const GPtrArray *entries, int64_t revision, const GError *error, void *data);
void outcome_of_lease(int64_t lease, int64_t ttl_ms, const GError *error, void *data);

/* Runs the main context until @done. */
void test_wait(const bool *done);

/* @txn: transfer full. */
Outcome test_commit(GwStore *store, GwStoreTxn *txn);
Outcome test_range(GwStore *store, const char *prefix, unsigned limit);
Outcome test_grant(GwStore *store, int64_t ttl_ms);
Outcome test_keepalive(GwStore *store, int64_t lease);
Outcome test_revoke(GwStore *store, int64_t lease);

/* Puts one text; it must succeed. Returns the revision. */
int64_t test_put(GwStore *store, const char *key, const char *text);

/* The text under exactly @key; NULL if there is none. Transfer full. */
char *test_get(GwStore *store, const char *key);

GwStoreEntry *test_entry_copy(const GwStoreEntry *entry);

/* A watch callback that copies what it is told into the GPtrArray in @data. */
void test_collect(const GwStoreEntry *entry, void *data);
GPtrArray *test_entries_new(void);
