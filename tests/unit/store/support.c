// SPDX-License-Identifier: Apache-2.0
/* Requests to a store that wait for their answer; main context only; asserts on every failure. */
#include "support.h"

#include <glib/gstdio.h>
#include <string.h>

char *
test_folder_new(void)
{
    g_autoptr(GError) error = NULL;
    char *folder = g_dir_make_tmp("godwit-store-XXXXXX", &error);

    g_assert_no_error(error);
    return folder;
}

void
test_folder_free(char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(folder), ==, 0);
    g_free(folder);
}

GwStore *
test_store_open(const char *folder)
{
    g_autofree char *path = g_build_filename(folder, "store.db", NULL);
    g_autoptr(GError) error = NULL;
    GwStore *store = gw_store_sqlite_open(path, &error);

    g_assert_no_error(error);
    g_assert_nonnull(store);
    return store;
}

GwStoreEntry *
test_entry_copy(const GwStoreEntry *entry)
{
    GwStoreEntry *copy = g_memdup2(entry, sizeof *entry);

    copy->key = g_strdup(entry->key);
    copy->value = entry->value ? g_bytes_ref(entry->value) : NULL;
    return copy;
}

GPtrArray *
test_entries_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)gw_store_entry_free);
}

void
test_collect(const GwStoreEntry *entry, void *data)
{
    g_ptr_array_add(data, test_entry_copy(entry));
}

void
outcome_clear(Outcome *outcome)
{
    g_clear_pointer(&outcome->entries, g_ptr_array_unref);
    g_clear_error(&outcome->error);
}

static void
conclude(Outcome *outcome, const GError *error)
{
    g_assert_false(outcome->done);
    outcome->done = true;
    outcome->error = error ? g_error_copy(error) : NULL;
}

void
outcome_of_txn(const GwStoreTxnResult *result, const GError *error, void *data)
{
    Outcome *outcome = data;

    g_assert_true((result == NULL) == (error != NULL));
    outcome->succeeded = result && result->succeeded;
    outcome->revision = result ? result->revision : 0;
    conclude(outcome, error);
}

void
outcome_of_range(const GPtrArray *entries, int64_t revision, const GError *error, void *data)
{
    Outcome *outcome = data;

    g_assert_true((entries == NULL) == (error != NULL));
    outcome->entries = test_entries_new();
    for (unsigned i = 0; entries && i < entries->len; i++) {
        test_collect(entries->pdata[i], outcome->entries);
    }
    outcome->revision = revision;
    conclude(outcome, error);
}

void
outcome_of_lease(int64_t lease, int64_t ttl_ms, const GError *error, void *data)
{
    Outcome *outcome = data;

    outcome->lease = lease;
    outcome->ttl_ms = ttl_ms;
    conclude(outcome, error);
}

void
test_wait(const bool *done)
{
    while (!*done) {
        g_main_context_iteration(NULL, TRUE);
    }
}

Outcome
test_commit(GwStore *store, GwStoreTxn *txn)
{
    Outcome outcome = {0};

    gw_store_commit(store, txn, outcome_of_txn, &outcome);
    test_wait(&outcome.done);
    return outcome;
}

Outcome
test_range(GwStore *store, const char *prefix, unsigned limit)
{
    Outcome outcome = {0};

    gw_store_range(store, prefix, limit, outcome_of_range, &outcome);
    test_wait(&outcome.done);
    return outcome;
}

Outcome
test_grant(GwStore *store, int64_t ttl_ms)
{
    Outcome outcome = {0};

    gw_store_lease_grant(store, ttl_ms, outcome_of_lease, &outcome);
    test_wait(&outcome.done);
    return outcome;
}

Outcome
test_keepalive(GwStore *store, int64_t lease)
{
    Outcome outcome = {0};

    gw_store_lease_keepalive(store, lease, outcome_of_lease, &outcome);
    test_wait(&outcome.done);
    return outcome;
}

Outcome
test_revoke(GwStore *store, int64_t lease)
{
    Outcome outcome = {0};

    gw_store_lease_revoke(store, lease, outcome_of_lease, &outcome);
    test_wait(&outcome.done);
    return outcome;
}

int64_t
test_put(GwStore *store, const char *key, const char *text)
{
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_text(txn, key, text);
    g_auto(Outcome) outcome = test_commit(store, txn);
    g_assert_no_error(outcome.error);
    g_assert_true(outcome.succeeded);
    return outcome.revision;
}

char *
test_get(GwStore *store, const char *key)
{
    g_auto(Outcome) outcome = test_range(store, key, 1);

    g_assert_no_error(outcome.error);
    if (outcome.entries->len == 0) {
        return NULL;
    }
    const GwStoreEntry *entry = outcome.entries->pdata[0];
    if (strcmp(entry->key, key) != 0) {
        return NULL;
    }
    size_t len;
    const void *data = g_bytes_get_data(entry->value, &len);
    return g_strndup(data ? data : "", len);
}
