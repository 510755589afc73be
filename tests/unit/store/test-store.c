// SPDX-License-Identifier: Apache-2.0
/*
 * What all stores have in common, on a backend that answers when the test says so: limits, who is
 * called when, forgetting, watches that come and go within callbacks, freeing at any moment.
 */
#include "store/backend.h"
#include "support.h"

#include <string.h>

/* --- a backend by hand ------------------------------------------------------------------------ */

typedef struct Fake {
    GwStore *store;
    GQueue requests;
    int64_t revision;
    bool freed;
} Fake;

static void
fake_submit(void *self, GwStoreRequest *request)
{
    Fake *fake = self;

    g_queue_push_tail(&fake->requests, request);
}

/* Answers the oldest request; @changes as in gw_store_deliver(). */
static void
fake_answer(Fake *fake, GPtrArray *changes)
{
    GwStoreRequest *request = g_queue_pop_head(&fake->requests);

    g_assert_nonnull(request);
    if (!request->error) {
        request->succeeded = true;
        request->revision = ++fake->revision;
        request->entries = test_entries_new();
        request->answered_lease = 7;
        request->answered_ttl_ms = 1000;
    }
    gw_store_deliver(fake->store, changes, request);
}

static void
fake_free(void *self)
{
    Fake *fake = self;

    while (!g_queue_is_empty(&fake->requests)) {
        fake_answer(fake, NULL);
    }
    fake->freed = true;
}

static const GwStoreBackend fake_backend = {.submit = fake_submit, .free = fake_free};

static void
fake_init(Fake *fake)
{
    *fake = (Fake){.revision = 1};
    g_queue_init(&fake->requests);
    fake->store = gw_store_new(&fake_backend, fake);
}

static GPtrArray *
change_of(const char *first, const char *second)
{
    GPtrArray *changes = test_entries_new();
    const char *keys[] = {first, second};

    for (size_t i = 0; i < G_N_ELEMENTS(keys) && keys[i]; i++) {
        GwStoreEntry *entry = g_new0(GwStoreEntry, 1);
        entry->key = g_strdup(keys[i]);
        entry->mod_revision = 2;
        g_ptr_array_add(changes, entry);
    }
    return changes;
}

/* --- limits ----------------------------------------------------------------------------------- */

/* Commits @txn and expects it to be refused with @code, whatever the backend would do. */
static void
check_refused(GwStoreTxn *txn, int code)
{
    Fake fake;
    g_auto(Outcome) outcome = {0};

    fake_init(&fake);
    gw_store_commit(fake.store, txn, outcome_of_txn, &outcome);
    g_assert_false(outcome.done);
    fake_answer(&fake, NULL);
    g_assert_true(outcome.done);
    g_assert_error(outcome.error, GW_ERROR, code);
    g_assert_true(g_utf8_validate(outcome.error->message, -1, NULL));
    gw_store_free(fake.store);
}

static void
test_key_limits(void)
{
    g_autofree char *too_long = g_strnfill(GW_STORE_MAX_KEY_BYTES + 1, 'k');
    const char *bad[] = {"", "/vm", "\xff", "vm/\xc3", "vm/\xed\xa0\x80", too_long};

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        GwStoreTxn *put = gw_store_txn_new();
        gw_store_txn_put_text(put, bad[i], "x");
        check_refused(put, GW_ERROR_INVALID);
        GwStoreTxn *removal = gw_store_txn_new();
        gw_store_txn_delete(removal, bad[i]);
        check_refused(removal, GW_ERROR_INVALID);
        GwStoreTxn *compare = gw_store_txn_new();
        gw_store_txn_if_revision(compare, bad[i], 0);
        check_refused(compare, GW_ERROR_INVALID);
    }
}

static void
test_size_limits(void)
{
    g_autofree char *data = g_malloc0(GW_STORE_MAX_VALUE_BYTES + 1);

    GwStoreTxn *value = gw_store_txn_new();
    gw_store_txn_put(value, "a", data, GW_STORE_MAX_VALUE_BYTES + 1);
    check_refused(value, GW_ERROR_TOO_LARGE);

    GwStoreTxn *compared = gw_store_txn_new();
    gw_store_txn_if_value(compared, "a", data, GW_STORE_MAX_VALUE_BYTES + 1);
    check_refused(compared, GW_ERROR_TOO_LARGE);

    GwStoreTxn *whole = gw_store_txn_new();
    gw_store_txn_put(whole, "a", data, GW_STORE_MAX_VALUE_BYTES);
    gw_store_txn_put(whole, "b", data, GW_STORE_MAX_TXN_BYTES - GW_STORE_MAX_VALUE_BYTES);
    check_refused(whole, GW_ERROR_TOO_LARGE);

    GwStoreTxn *many = gw_store_txn_new();
    for (int i = 0; i <= GW_STORE_MAX_TXN_OPS; i++) {
        g_autofree char *key = g_strdup_printf("k%d", i);
        gw_store_txn_put_text(many, key, "x");
    }
    check_refused(many, GW_ERROR_TOO_LARGE);
}

static void
test_other_limits(void)
{
    GwStoreTxn *twice = gw_store_txn_new();
    gw_store_txn_put_text(twice, "a", "1");
    gw_store_txn_delete(twice, "a");
    check_refused(twice, GW_ERROR_INVALID);

    GwStoreTxn *revision = gw_store_txn_new();
    gw_store_txn_if_revision(revision, "a", -1);
    check_refused(revision, GW_ERROR_INVALID);

    GwStoreTxn *lease = gw_store_txn_new();
    gw_store_txn_put_lease(lease, "a", "1", 1, -1);
    check_refused(lease, GW_ERROR_INVALID);

    /* The first broken limit is the one that is told. */
    GwStoreTxn *first = gw_store_txn_new();
    gw_store_txn_put_lease(first, "a", "1", 1, -1);
    gw_store_txn_put_text(first, "/", "x");
    gw_store_txn_put_text(first, "fine", "x");
    check_refused(first, GW_ERROR_INVALID);
}

static void
test_ttl_limits(void)
{
    static const int64_t bad[] = {INT64_MIN, -1, 0, GW_STORE_MAX_TTL_MS + 1, INT64_MAX};
    Fake fake;

    fake_init(&fake);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_auto(Outcome) outcome = {0};
        gw_store_lease_grant(fake.store, bad[i], outcome_of_lease, &outcome);
        fake_answer(&fake, NULL);
        g_assert_error(outcome.error, GW_ERROR, GW_ERROR_INVALID);
    }
    gw_store_free(fake.store);
}

/* --- callbacks -------------------------------------------------------------------------------- */

static void
test_answers(void)
{
    Fake fake;
    g_auto(Outcome) commit = {0};
    g_auto(Outcome) range = {0};
    g_auto(Outcome) lease = {0};

    fake_init(&fake);
    gw_store_commit(fake.store, gw_store_txn_new(), outcome_of_txn, &commit);
    gw_store_range(fake.store, "vm/", 0, outcome_of_range, &range);
    gw_store_lease_revoke(fake.store, 7, outcome_of_lease, &lease);
    fake_answer(&fake, NULL);
    g_assert_true(commit.done && commit.succeeded && commit.revision == 2);
    g_assert_false(range.done);
    fake_answer(&fake, NULL);
    g_assert_true(range.done && range.revision == 3);
    fake_answer(&fake, NULL);
    g_assert_true(lease.done && lease.lease == 7 && lease.ttl_ms == 1000);
    gw_store_free(fake.store);
    g_assert_true(fake.freed);
}

static void
test_forget(void)
{
    Fake fake;
    g_auto(Outcome) dropped = {0};
    g_auto(Outcome) kept = {0};
    g_autoptr(GPtrArray) told = test_entries_new();

    fake_init(&fake);
    g_autoptr(GwStoreWatch) silent = gw_store_watch(fake.store, "", test_collect, told);
    g_assert_nonnull(silent);
    gw_store_commit(fake.store, gw_store_txn_new(), outcome_of_txn, &dropped);
    gw_store_range(fake.store, "", 0, outcome_of_range, &dropped);
    gw_store_lease_grant(fake.store, 1000, outcome_of_lease, &dropped);
    gw_store_commit(fake.store, gw_store_txn_new(), outcome_of_txn, &kept);
    gw_store_commit(fake.store, gw_store_txn_new(), NULL, NULL);

    gw_store_forget(fake.store, NULL);
    gw_store_forget(fake.store, &dropped);
    gw_store_forget(fake.store, told);
    for (int i = 0; i < 5; i++) {
        fake_answer(&fake, change_of("vm/a", NULL));
    }
    g_assert_false(dropped.done);
    g_assert_true(kept.done);
    g_assert_cmpuint(told->len, ==, 0);

    /* Only what was given before: the same data may be used again. */
    gw_store_commit(fake.store, gw_store_txn_new(), outcome_of_txn, &dropped);
    fake_answer(&fake, NULL);
    g_assert_true(dropped.done);
    gw_store_free(fake.store);
}

static void
test_free_with_requests(void)
{
    Fake fake;
    g_auto(Outcome) outcome = {0};

    fake_init(&fake);
    gw_store_commit(fake.store, gw_store_txn_new(), outcome_of_txn, &outcome);
    gw_store_free(fake.store);
    g_assert_true(fake.freed);
    g_assert_false(outcome.done);
    g_assert_cmpint(fake.revision, ==, 2);
}

static void
free_store(const GwStoreTxnResult *result, const GError *error, void *data)
{
    Fake *fake = data;

    g_assert_no_error(error);
    g_assert_true(result->succeeded);
    gw_store_free(fake->store);
}

static void
free_store_on_watch(const GwStoreEntry *entry, void *data)
{
    Fake *fake = data;

    g_assert_nonnull(entry->key);
    g_assert_false(fake->freed);
    gw_store_free(fake->store);
}

static void
test_free_inside_callback(void)
{
    Fake fake;
    g_auto(Outcome) after = {0};

    fake_init(&fake);
    gw_store_commit(fake.store, gw_store_txn_new(), free_store, &fake);
    gw_store_commit(fake.store, gw_store_txn_new(), outcome_of_txn, &after);
    fake_answer(&fake, NULL);
    g_assert_true(fake.freed);
    g_assert_false(after.done);
}

/* The watch's second change and the commit's own callback come too late. */
static void
test_free_inside_watch(void)
{
    Fake fake;
    g_auto(Outcome) outcome = {0};

    fake_init(&fake);
    g_autoptr(GwStoreWatch) watch = gw_store_watch(fake.store, "", free_store_on_watch, &fake);
    g_assert_nonnull(watch);
    gw_store_commit(fake.store, gw_store_txn_new(), outcome_of_txn, &outcome);
    fake_answer(&fake, change_of("vm/a", "vm/b"));
    g_assert_true(fake.freed);
    g_assert_false(outcome.done);
}

/* --- watches ---------------------------------------------------------------------------------- */

static void
test_watch_prefixes(void)
{
    Fake fake;
    g_autoptr(GPtrArray) all = test_entries_new();
    g_autoptr(GPtrArray) folder = test_entries_new();
    g_autoptr(GPtrArray) other = test_entries_new();

    fake_init(&fake);
    g_autoptr(GwStoreWatch) of_all = gw_store_watch(fake.store, "", test_collect, all);
    g_autoptr(GwStoreWatch) of_folder = gw_store_watch(fake.store, "vm/a/", test_collect, folder);
    g_assert_nonnull(of_folder);
    g_autoptr(GwStoreWatch) of_other = gw_store_watch(fake.store, "v%", test_collect, other);
    g_assert_nonnull(of_other);
    gw_store_deliver(fake.store, change_of("vm/a/owner", "vm/ab"), NULL);
    g_assert_cmpuint(all->len, ==, 2);
    g_assert_cmpuint(folder->len, ==, 1);
    g_assert_cmpuint(other->len, ==, 0);
    g_assert_cmpstr(((GwStoreEntry *)folder->pdata[0])->key, ==, "vm/a/owner");

    gw_store_watch_stop(g_steal_pointer(&of_all));
    gw_store_deliver(fake.store, change_of("vm/a/owner", NULL), NULL);
    g_assert_cmpuint(all->len, ==, 2);
    g_assert_cmpuint(folder->len, ==, 2);
    /* The watches outlive the store. */
    gw_store_free(fake.store);
}

typedef struct Changer {
    GwStore *store;
    GwStoreWatch *stops[2];
    GwStoreWatch *started;
    GPtrArray *told;
} Changer;

static void
change_watches(const GwStoreEntry *entry, void *data)
{
    Changer *changer = data;

    g_assert_cmpstr(entry->key, ==, "vm/a");
    for (size_t i = 0; i < G_N_ELEMENTS(changer->stops); i++) {
        g_clear_pointer(&changer->stops[i], gw_store_watch_stop);
    }
    changer->started = gw_store_watch(changer->store, "", test_collect, changer->told);
}

/* A watch stops itself and the next one, and starts a third, which hears only what follows. */
static void
test_watches_change_inside(void)
{
    Fake fake;
    g_autoptr(GPtrArray) stopped = test_entries_new();
    g_autoptr(GPtrArray) told = test_entries_new();
    Changer changer = {.told = told};

    fake_init(&fake);
    changer.store = fake.store;
    changer.stops[0] = gw_store_watch(fake.store, "", change_watches, &changer);
    changer.stops[1] = gw_store_watch(fake.store, "", test_collect, stopped);
    gw_store_deliver(fake.store, change_of("vm/a", "vm/b"), NULL);
    g_assert_cmpuint(stopped->len, ==, 0);
    g_assert_cmpuint(told->len, ==, 0);
    gw_store_deliver(fake.store, change_of("vm/c", NULL), NULL);
    g_assert_cmpuint(told->len, ==, 1);
    gw_store_watch_stop(changer.started);
    gw_store_free(fake.store);
}

/* The promise of a local backend: the watch is told before the commit's own callback. */
static void
expect_done_by_watch(const GwStoreTxnResult *result, const GError *error, void *data)
{
    GPtrArray *told = data;

    g_assert_no_error(error);
    g_assert_nonnull(result);
    g_assert_cmpuint(told->len, ==, 1);
    g_ptr_array_set_size(told, 0);
}

static void
test_watch_comes_first(void)
{
    Fake fake;
    g_autoptr(GPtrArray) told = test_entries_new();

    fake_init(&fake);
    g_autoptr(GwStoreWatch) watch = gw_store_watch(fake.store, "", test_collect, told);
    g_assert_nonnull(watch);
    gw_store_commit(fake.store, gw_store_txn_new(), expect_done_by_watch, told);
    fake_answer(&fake, change_of("vm/a", NULL));
    g_assert_cmpuint(told->len, ==, 0);
    gw_store_free(fake.store);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/key-limits", test_key_limits);
    g_test_add_func("/store/size-limits", test_size_limits);
    g_test_add_func("/store/other-limits", test_other_limits);
    g_test_add_func("/store/ttl-limits", test_ttl_limits);
    g_test_add_func("/store/answers", test_answers);
    g_test_add_func("/store/forget", test_forget);
    g_test_add_func("/store/free-with-requests", test_free_with_requests);
    g_test_add_func("/store/free-inside-callback", test_free_inside_callback);
    g_test_add_func("/store/free-inside-watch", test_free_inside_watch);
    g_test_add_func("/store/watch-prefixes", test_watch_prefixes);
    g_test_add_func("/store/watches-change-inside", test_watches_change_inside);
    g_test_add_func("/store/watch-comes-first", test_watch_comes_first);
    return g_test_run();
}
