// SPDX-License-Identifier: Apache-2.0
/*
 * The SQLite store on real files: revisions, ranges, leases, restarts, file modes, and every reason
 * for which a file is refused. A full disk is a tmpfs of 1 MiB (root only).
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Fixture {
    char *folder;
    char *path;
    GwStore *store;
} Fixture;

static void
set_up(Fixture *fixture, const void *unused)
{
    fixture->folder = test_folder_new();
    fixture->path = g_build_filename(fixture->folder, "store.db", NULL);
    fixture->store = test_store_open(fixture->folder);
}

static void
tear_down(Fixture *fixture, const void *unused)
{
    gw_store_free(fixture->store);
    g_free(fixture->path);
    test_folder_free(fixture->folder);
}

static void
reopen(Fixture *fixture)
{
    gw_store_free(g_steal_pointer(&fixture->store));
    fixture->store = test_store_open(fixture->folder);
}

static const GwStoreEntry *
entry_at(const GPtrArray *entries, unsigned index)
{
    g_assert_cmpuint(index, <, entries->len);
    return entries->pdata[index];
}

static void
check_text(const GwStoreEntry *entry, const char *text)
{
    size_t len;
    const void *data = g_bytes_get_data(entry->value, &len);

    g_assert_cmpmem(data, (int)len, text, (int)strlen(text));
}

/* --- entries ---------------------------------------------------------------------------------- */

static void
test_revisions(Fixture *fixture, const void *unused)
{
    GwStore *store = fixture->store;

    g_assert_cmpint(test_put(store, "vm/a", "one"), ==, 2);
    g_assert_cmpint(test_put(store, "vm/b", "one"), ==, 3);
    g_assert_cmpint(test_put(store, "vm/a", "two"), ==, 4);
    g_assert_cmpint(test_put(store, "vm/a", "two"), ==, 5);
    g_auto(Outcome) outcome = test_range(store, "vm/", 0);
    g_assert_cmpint(outcome.revision, ==, 5);
    g_assert_cmpuint(outcome.entries->len, ==, 2);
    const GwStoreEntry *entry = entry_at(outcome.entries, 0);
    g_assert_cmpstr(entry->key, ==, "vm/a");
    check_text(entry, "two");
    g_assert_cmpint(entry->create_revision, ==, 2);
    g_assert_cmpint(entry->mod_revision, ==, 5);
    g_assert_cmpint(entry->version, ==, 3);
    g_assert_cmpint(entry->lease, ==, 0);
}

/* A key that comes back begins anew, at a revision it never had. */
static void
test_delete(Fixture *fixture, const void *unused)
{
    GwStore *store = fixture->store;

    test_put(store, "a", "1");
    GwStoreTxn *txn = gw_store_txn_new();
    gw_store_txn_delete(txn, "a");
    gw_store_txn_delete(txn, "never");
    g_auto(Outcome) deleted = test_commit(store, txn);
    g_assert_cmpint(deleted.revision, ==, 3);

    GwStoreTxn *nothing = gw_store_txn_new();
    gw_store_txn_delete(nothing, "a");
    g_auto(Outcome) again = test_commit(store, nothing);
    g_assert_true(again.succeeded);
    g_assert_cmpint(again.revision, ==, 3);

    g_assert_cmpint(test_put(store, "a", "2"), ==, 4);
    g_auto(Outcome) outcome = test_range(store, "a", 0);
    g_assert_cmpint(entry_at(outcome.entries, 0)->create_revision, ==, 4);
    g_assert_cmpint(entry_at(outcome.entries, 0)->version, ==, 1);
}

static void
check_compare(GwStore *store, int64_t mod_revision, const char *value, bool holds)
{
    GwStoreTxn *txn = gw_store_txn_new();

    if (value) {
        gw_store_txn_if_value(txn, "owner", value, strlen(value));
    } else {
        gw_store_txn_if_revision(txn, "owner", mod_revision);
    }
    gw_store_txn_put_text(txn, "seen", "x");
    g_auto(Outcome) before = test_range(store, "seen", 0);
    g_auto(Outcome) outcome = test_commit(store, txn);
    g_assert_no_error(outcome.error);
    g_assert_true(outcome.succeeded == holds);
    g_assert_cmpint(outcome.revision, ==, before.revision + holds);
}

static void
test_compares(Fixture *fixture, const void *unused)
{
    check_compare(fixture->store, 0, NULL, true);
    check_compare(fixture->store, 1, NULL, false);
    check_compare(fixture->store, 0, "", false);
    const int64_t revision = test_put(fixture->store, "owner", "host-a");
    check_compare(fixture->store, 0, NULL, false);
    check_compare(fixture->store, revision, NULL, true);
    check_compare(fixture->store, revision - 1, NULL, false);
    check_compare(fixture->store, 0, "host-a", true);
    check_compare(fixture->store, 0, "host-", false);
    check_compare(fixture->store, 0, "host-ab", false);
    test_put(fixture->store, "owner", "");
    check_compare(fixture->store, 0, "", true);
}

static void
test_values(Fixture *fixture, const void *unused)
{
    g_autofree char *large = g_malloc(GW_STORE_MAX_VALUE_BYTES);
    GwStoreTxn *txn = gw_store_txn_new();

    memset(large, 0xa5, GW_STORE_MAX_VALUE_BYTES);
    gw_store_txn_put(txn, "a/large", large, GW_STORE_MAX_VALUE_BYTES);
    gw_store_txn_put(txn, "b/empty", NULL, 0);
    gw_store_txn_put(txn, "c/nul", "\0x\0", 3);
    g_auto(Outcome) outcome = test_commit(fixture->store, txn);
    g_assert_no_error(outcome.error);
    reopen(fixture);
    g_auto(Outcome) range = test_range(fixture->store, "", 0);
    g_assert_cmpuint(range.entries->len, ==, 3);
    g_autoptr(GBytes) expected = g_bytes_new_static(large, GW_STORE_MAX_VALUE_BYTES);
    g_assert_true(g_bytes_equal(entry_at(range.entries, 0)->value, expected));
    g_assert_cmpuint(g_bytes_get_size(entry_at(range.entries, 1)->value), ==, 0);
    g_autoptr(GBytes) nul = g_bytes_new_static("\0x\0", 3);
    g_assert_true(g_bytes_equal(entry_at(range.entries, 2)->value, nul));
}

/* --- ranges ----------------------------------------------------------------------------------- */

static void
check_range(GwStore *store, const char *prefix, unsigned limit, const char *expected)
{
    g_autoptr(GString) keys = g_string_new(NULL);
    g_auto(Outcome) outcome = test_range(store, prefix, limit);

    g_assert_no_error(outcome.error);
    for (unsigned i = 0; i < outcome.entries->len; i++) {
        g_string_append_printf(keys, "%s%s", i ? " " : "", entry_at(outcome.entries, i)->key);
    }
    g_assert_cmpstr(keys->str, ==, expected);
}

static void
test_ranges(Fixture *fixture, const void *unused)
{
    static const char *const keys[] = {"vm/web1/x", "vm/web10/x", "vm/web1",     "vm/%",  "vm/_",
                                       "Vm/a",      "vm0",        "vm/\xc3\xbf", "vm/ww", "host"};
    GwStore *store = fixture->store;

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        test_put(store, keys[i], "x");
    }
    check_range(store, "vm/web1", 0, "vm/web1 vm/web1/x vm/web10/x");
    check_range(store, "vm/web1/", 0, "vm/web1/x");
    check_range(store, "vm/%", 0, "vm/%");
    check_range(store, "vm/_", 0, "vm/_");
    check_range(store, "V", 0, "Vm/a");
    check_range(store, "vm/w", 2, "vm/web1 vm/web1/x");
    check_range(store, "", 2, "Vm/a host");
    check_range(store, "vm/*", 0, "");
    check_range(store, "vm/\xc3", 0, "vm/\xc3\xbf");
    check_range(store, "vm/\xc3\xbf", 0, "vm/\xc3\xbf");
    check_range(store, "vm/\xff", 0, "");
    check_range(store, "\xff\xff", 0, "");
    check_range(store, "x", 0, "");
    g_autofree char *long_prefix = g_strnfill(100000, 'v');
    check_range(store, long_prefix, 0, "");
}

/* Random keys over bytes that are special somewhere; every prefix against a filter by hand. */
static void
test_range_property(Fixture *fixture, const void *unused)
{
    static const char *const letters[] = {
        "%",           "_",        "*",    "?",    "'", "\"", "a", "A",
        "/",           "\xc3\xbf", "\x7f", "\x01", "[", "\\", " ", "\xf4\x8f\xbf\xbf",
        "\xe2\x82\xac"};
    g_autoptr(GPtrArray) keys = g_ptr_array_new_with_free_func(g_free);
    GwStoreTxn *txn = gw_store_txn_new();

    for (int i = 0; i < 100; i++) {
        g_autoptr(GString) key = g_string_new(NULL);
        for (int n = g_test_rand_int_range(1, 5); n > 0; n--) {
            g_string_append(key, letters[g_test_rand_int_range(0, G_N_ELEMENTS(letters))]);
        }
        if (key->str[0] != '/' &&
            !g_ptr_array_find_with_equal_func(keys, key->str, g_str_equal, NULL)) {
            gw_store_txn_put_text(txn, key->str, "x");
            g_ptr_array_add(keys, g_strdup(key->str));
        }
    }
    g_auto(Outcome) outcome = test_commit(fixture->store, txn);
    g_assert_no_error(outcome.error);
    for (unsigned i = 0; i < keys->len; i++) {
        const char *key = keys->pdata[i];
        g_autofree char *prefix =
            g_strndup(key, (gsize)g_test_rand_int_range(0, 1 + (int)strlen(key)));
        unsigned expected = 0;
        for (unsigned k = 0; k < keys->len; k++) {
            expected += g_str_has_prefix(keys->pdata[k], prefix);
        }
        g_auto(Outcome) range = test_range(fixture->store, prefix, 0);
        g_assert_cmpuint(range.entries->len, ==, expected);
        for (unsigned k = 1; k < range.entries->len; k++) {
            g_assert_cmpint(
                strcmp(entry_at(range.entries, k - 1)->key, entry_at(range.entries, k)->key), <, 0);
        }
    }
}

/* --- order, watches --------------------------------------------------------------------------- */

static void
append_revision(const GwStoreTxnResult *result, const GError *error, void *data)
{
    g_assert_no_error(error);
    g_array_append_val((GArray *)data, result->revision);
}

static void
test_order(Fixture *fixture, const void *unused)
{
    g_autoptr(GArray) revisions = g_array_new(FALSE, FALSE, sizeof(int64_t));
    g_autoptr(GPtrArray) told = test_entries_new();
    g_autoptr(GwStoreWatch) watch = gw_store_watch(fixture->store, "k", test_collect, told);
    g_assert_nonnull(watch);
    g_auto(Outcome) last = {0};

    for (int i = 0; i < 50; i++) {
        g_autofree char *key = g_strdup_printf("k%d", i);
        GwStoreTxn *txn = gw_store_txn_new();
        gw_store_txn_put_text(txn, key, "x");
        gw_store_commit(fixture->store, txn, append_revision, revisions);
    }
    gw_store_range(fixture->store, "k", 0, outcome_of_range, &last);
    test_wait(&last.done);
    g_assert_cmpuint(last.entries->len, ==, 50);
    g_assert_cmpuint(revisions->len, ==, 50);
    g_assert_cmpuint(told->len, ==, 50);
    for (unsigned i = 0; i < 50; i++) {
        g_assert_cmpint(g_array_index(revisions, int64_t, i), ==, 2 + (int64_t)i);
        g_assert_cmpint(entry_at(told, i)->mod_revision, ==, 2 + (int64_t)i);
    }
}

static void
test_watch(Fixture *fixture, const void *unused)
{
    g_autoptr(GPtrArray) told = test_entries_new();

    test_put(fixture->store, "vm/old", "before");
    g_autoptr(GwStoreWatch) watch = gw_store_watch(fixture->store, "vm/", test_collect, told);
    g_assert_nonnull(watch);
    GwStoreTxn *txn = gw_store_txn_new();
    gw_store_txn_delete(txn, "vm/old");
    gw_store_txn_put_text(txn, "vm/new", "text");
    gw_store_txn_put_text(txn, "host/a", "text");
    g_auto(Outcome) outcome = test_commit(fixture->store, txn);
    g_assert_cmpuint(told->len, ==, 2);
    const GwStoreEntry *gone = entry_at(told, 0);
    g_assert_cmpstr(gone->key, ==, "vm/old");
    g_assert_null(gone->value);
    g_assert_cmpint(gone->mod_revision, ==, outcome.revision);
    g_assert_cmpint(gone->create_revision, ==, 0);
    const GwStoreEntry *put = entry_at(told, 1);
    g_assert_cmpint(put->create_revision, ==, outcome.revision);
    g_assert_cmpint(put->version, ==, 1);
    check_text(put, "text");

    GwStoreTxn *refused = gw_store_txn_new();
    gw_store_txn_if_revision(refused, "vm/new", 0);
    gw_store_txn_put_text(refused, "vm/new", "other");
    g_auto(Outcome) no_change = test_commit(fixture->store, refused);
    g_assert_false(no_change.succeeded);
    g_assert_cmpuint(told->len, ==, 2);
}

/* --- leases ----------------------------------------------------------------------------------- */

static void
put_with_lease(GwStore *store, const char *key, int64_t lease, GQuark domain, int code)
{
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_lease(txn, key, "x", 1, lease);
    g_auto(Outcome) outcome = test_commit(store, txn);
    if (domain) {
        g_assert_error(outcome.error, domain, code);
    } else {
        g_assert_no_error(outcome.error);
        g_assert_true(outcome.succeeded);
    }
}

static void
note_deletion(const GwStoreEntry *entry, void *data)
{
    if (!entry->value) {
        *(bool *)data = true;
    }
}

static void
test_lease_expires(Fixture *fixture, const void *unused)
{
    GwStore *store = fixture->store;
    bool gone = false;
    g_autoptr(GPtrArray) told = test_entries_new();
    g_auto(Outcome) lease = test_grant(store, 150);
    const int64_t granted_us = g_get_monotonic_time();

    g_assert_cmpint(lease.lease, >, 0);
    g_assert_cmpint(lease.ttl_ms, ==, 150);
    put_with_lease(store, "member/b", lease.lease, 0, 0);
    put_with_lease(store, "member/a", lease.lease, 0, 0);
    const int64_t kept_revision = test_put(store, "member/kept", "x");
    g_autoptr(GwStoreWatch) collect = gw_store_watch(store, "member/", test_collect, told);
    g_assert_nonnull(collect);
    g_autoptr(GwStoreWatch) notice = gw_store_watch(store, "member/b", note_deletion, &gone);
    g_assert_nonnull(notice);
    test_wait(&gone);
    g_assert_cmpint(g_get_monotonic_time() - granted_us, >=, 145000);

    g_assert_cmpuint(told->len, ==, 2);
    g_assert_cmpstr(entry_at(told, 0)->key, ==, "member/a");
    g_assert_cmpint(entry_at(told, 0)->mod_revision, ==, kept_revision + 1);
    g_assert_cmpint(entry_at(told, 1)->mod_revision, ==, kept_revision + 1);
    check_range(store, "member/", 0, "member/kept");
    g_auto(Outcome) late = test_keepalive(store, lease.lease);
    g_assert_no_error(late.error);
    g_assert_cmpint(late.lease, ==, 0);
    put_with_lease(store, "member/c", lease.lease, GW_ERROR, GW_ERROR_NOT_FOUND);
    check_range(store, "member/c", 0, "");
}

/* Two leases of one length: the one that is kept alive outlives the other. */
static void
test_keepalive_prolongs(Fixture *fixture, const void *unused)
{
    GwStore *store = fixture->store;
    bool gone = false;
    g_auto(Outcome) kept = test_grant(store, 400);
    g_auto(Outcome) left = test_grant(store, 400);
    g_autoptr(GwStoreWatch) notice = gw_store_watch(store, "left", note_deletion, &gone);
    g_assert_nonnull(notice);

    put_with_lease(store, "kept", kept.lease, 0, 0);
    put_with_lease(store, "left", left.lease, 0, 0);
    while (!gone) {
        g_auto(Outcome) outcome = test_keepalive(store, kept.lease);
        g_assert_cmpint(outcome.lease, ==, kept.lease);
        g_assert_cmpint(outcome.ttl_ms, ==, 400);
    }
    check_range(store, "", 0, "kept");
}

static void
test_revoke_and_detach(Fixture *fixture, const void *unused)
{
    GwStore *store = fixture->store;
    g_auto(Outcome) lease = test_grant(store, 60000);

    put_with_lease(store, "a", lease.lease, 0, 0);
    put_with_lease(store, "b", lease.lease, 0, 0);
    g_auto(Outcome) before = test_range(store, "a", 0);
    g_assert_cmpint(entry_at(before.entries, 0)->lease, ==, lease.lease);
    test_put(store, "b", "without a lease");
    g_auto(Outcome) revoked = test_revoke(store, lease.lease);
    g_assert_no_error(revoked.error);
    g_assert_cmpint(revoked.lease, ==, lease.lease);
    check_range(store, "", 0, "b");
    g_auto(Outcome) again = test_revoke(store, lease.lease);
    g_assert_no_error(again.error);
    g_assert_cmpint(again.lease, ==, 0);

    /* Without keys it ends without a revision. */
    g_auto(Outcome) bare = test_grant(store, 60000);
    g_assert_cmpint(bare.lease, !=, lease.lease);
    g_auto(Outcome) first = test_range(store, "", 0);
    g_auto(Outcome) end = test_revoke(store, bare.lease);
    g_assert_no_error(end.error);
    g_auto(Outcome) second = test_range(store, "", 0);
    g_assert_cmpint(first.revision, ==, second.revision);
    g_auto(Outcome) zero = test_revoke(store, 0);
    g_assert_cmpint(zero.lease, ==, 0);
    check_range(store, "", 0, "b");
}

static void
test_lease_survives_restart(Fixture *fixture, const void *unused)
{
    bool gone = false;
    g_auto(Outcome) lease = test_grant(fixture->store, 200);
    g_auto(Outcome) revoked = test_grant(fixture->store, 200);

    put_with_lease(fixture->store, "a", lease.lease, 0, 0);
    g_auto(Outcome) end = test_revoke(fixture->store, revoked.lease);
    g_assert_no_error(end.error);
    reopen(fixture);
    const int64_t opened_us = g_get_monotonic_time();
    g_autoptr(GwStoreWatch) notice = gw_store_watch(fixture->store, "a", note_deletion, &gone);
    g_assert_nonnull(notice);
    g_auto(Outcome) no_more = test_keepalive(fixture->store, revoked.lease);
    g_assert_cmpint(no_more.lease, ==, 0);
    test_wait(&gone);
    /* Its full time from the opening, a little before opened_us was read. */
    g_assert_cmpint(g_get_monotonic_time() - opened_us, >=, 100000);
    g_auto(Outcome) next = test_grant(fixture->store, 200);
    g_assert_cmpint(next.lease, >, revoked.lease);
}

/* --- restarts and the file -------------------------------------------------------------------- */

static void
test_restart(Fixture *fixture, const void *unused)
{
    test_put(fixture->store, "a", "1");
    const int64_t revision = test_put(fixture->store, "b", "2");
    GwStoreTxn *txn = gw_store_txn_new();
    gw_store_txn_delete(txn, "b");
    g_auto(Outcome) deleted = test_commit(fixture->store, txn);
    g_assert_cmpint(deleted.revision, ==, revision + 1);
    reopen(fixture);
    check_range(fixture->store, "", 0, "a");
    g_assert_cmpint(test_put(fixture->store, "c", "3"), ==, revision + 2);
}

/* Requests under way when the store is freed are carried out. */
static void
test_free_carries_out(Fixture *fixture, const void *unused)
{
    g_auto(Outcome) outcome = {0};

    for (int i = 0; i < 20; i++) {
        g_autofree char *key = g_strdup_printf("k%02d", i);
        GwStoreTxn *txn = gw_store_txn_new();
        gw_store_txn_put_text(txn, key, "x");
        gw_store_commit(fixture->store, txn, outcome_of_txn, &outcome);
    }
    reopen(fixture);
    g_assert_false(outcome.done);
    g_auto(Outcome) range = test_range(fixture->store, "k", 0);
    g_assert_cmpuint(range.entries->len, ==, 20);
}

static void
free_in_callback(const GwStoreTxnResult *result, const GError *error, void *data)
{
    Fixture *fixture = data;

    g_assert_true(result->succeeded);
    gw_store_free(g_steal_pointer(&fixture->store));
}

static void
test_free_inside_callback(Fixture *fixture, const void *unused)
{
    g_auto(Outcome) never = {0};

    gw_store_commit(fixture->store, gw_store_txn_new(), free_in_callback, fixture);
    gw_store_commit(fixture->store, gw_store_txn_new(), outcome_of_txn, &never);
    while (fixture->store) {
        g_main_context_iteration(NULL, TRUE);
    }
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_assert_false(never.done);
}

static unsigned
mode_of(const char *path, const char *suffix)
{
    g_autofree char *name = g_strconcat(path, suffix, NULL);
    struct stat info;

    g_assert_cmpint(stat(name, &info), ==, 0);
    return info.st_mode & 07777;
}

static void
test_modes(Fixture *fixture, const void *unused)
{
    test_put(fixture->store, "a", "1");
    g_assert_cmphex(mode_of(fixture->path, ""), ==, 0600);
    g_assert_cmphex(mode_of(fixture->path, "-wal"), ==, 0600);
    gw_store_free(g_steal_pointer(&fixture->store));

    /* What was made readable by all is made private again. */
    g_assert_cmpint(chmod(fixture->path, 0644), ==, 0);
    fixture->store = test_store_open(fixture->folder);
    g_assert_cmphex(mode_of(fixture->path, ""), ==, 0600);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void
check_refused(const Fixture *fixture, int code, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_store_sqlite_open(fixture->path, &error));
    g_assert_error(error, GW_ERROR, code);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, fixture->path));
    g_assert_nonnull(strstr(error->message, word));
}

/* Leaves a log behind, as a crash would. */
static void
run_sql(const Fixture *fixture, const char *sql)
{
    sqlite3 *db = NULL;

    g_assert_cmpint(sqlite3_open(fixture->path, &db), ==, SQLITE_OK);
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    g_assert_cmpint(sqlite3_exec(db, sql, NULL, NULL, NULL), ==, SQLITE_OK);
    g_assert_cmpint(sqlite3_close(db), ==, SQLITE_OK);
}

static GBytes *
contents(const Fixture *fixture)
{
    char *data = NULL;
    gsize len = 0;

    g_assert_true(g_file_get_contents(fixture->path, &data, &len, NULL));
    return g_bytes_new_take(data, len);
}

static void
write_at(const Fixture *fixture, size_t offset, const char *data, size_t len)
{
    int fd = open(fixture->path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(pwrite(fd, data, len, (off_t)offset), ==, (ssize_t)len);
    g_assert_cmpint(close(fd), ==, 0);
}

static void
test_second_opener(Fixture *fixture, const void *unused)
{
    test_put(fixture->store, "a", "1");
    check_refused(fixture, GW_ERROR_STATE, "another godwitd");
    test_put(fixture->store, "a", "2");
}

static void
test_newer_schema(Fixture *fixture, const void *unused)
{
    test_put(fixture->store, "a", "1");
    gw_store_free(g_steal_pointer(&fixture->store));
    run_sql(fixture, "PRAGMA user_version = 1000");
    g_autoptr(GBytes) before = contents(fixture);
    check_refused(fixture, GW_ERROR_UNSUPPORTED, "newer godwitd");
    g_autoptr(GBytes) after = contents(fixture);
    g_assert_true(g_bytes_equal(before, after));
}

static void
test_foreign_files(Fixture *fixture, const void *unused)
{
    gw_store_free(g_steal_pointer(&fixture->store));
    g_assert_cmpint(g_unlink(fixture->path), ==, 0);
    run_sql(fixture, "CREATE TABLE songs (title TEXT)");
    check_refused(fixture, GW_ERROR_INVALID, "not a store of Godwit");

    g_assert_true(g_file_set_contents(fixture->path, "This is a text of some length.\n", -1, NULL));
    check_refused(fixture, GW_ERROR_IO, "damaged");
    g_autoptr(GBytes) text = contents(fixture);
    g_assert_cmpuint(g_bytes_get_size(text), ==, 31);

    g_assert_cmpint(g_unlink(fixture->path), ==, 0);
    g_assert_cmpint(g_mkdir(fixture->path, 0700), ==, 0);
    check_refused(fixture, GW_ERROR_INVALID, "not a regular file");
    g_assert_cmpint(g_rmdir(fixture->path), ==, 0);

    g_autofree char *nowhere = g_build_filename(fixture->folder, "no/folder/store.db", NULL);
    g_autoptr(GError) error = NULL;
    g_assert_null(gw_store_sqlite_open(nowhere, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
}

/* Damages each page in turn. The file is refused and not changed, or, where the damage hits no
 * structure that can be checked (the bytes of a value), it opens and works. */
static void
test_damaged_pages(Fixture *fixture, const void *unused)
{
    g_autofree char *filler = g_strnfill(3000, 'f');
    unsigned refused = 0;
    char garbage[1024];

    for (int i = 0; i < 40; i++) {
        g_autofree char *key = g_strdup_printf("vm/%d/definition", i);
        test_put(fixture->store, key, filler);
    }
    gw_store_free(g_steal_pointer(&fixture->store));
    g_autoptr(GBytes) sound = contents(fixture);
    const size_t len = g_bytes_get_size(sound);
    memset(garbage, 0xdb, sizeof garbage);
    for (size_t offset = 0; offset < len; offset += 4096) {
        g_autoptr(GError) error = NULL;
        write_at(fixture, offset, garbage, sizeof garbage);
        g_autoptr(GBytes) before = contents(fixture);
        g_autoptr(GwStore) store = gw_store_sqlite_open(fixture->path, &error);
        if (store) {
            g_auto(Outcome) range = test_range(store, "", 0);
            g_assert_true(range.done);
        } else {
            g_assert_error(error, GW_ERROR, GW_ERROR_IO);
            g_assert_nonnull(strstr(error->message, "damaged"));
            g_autoptr(GBytes) after = contents(fixture);
            g_assert_true(g_bytes_equal(before, after));
            refused++;
        }
        g_clear_pointer(&store, gw_store_free);
        g_assert_true(
            g_file_set_contents(fixture->path, g_bytes_get_data(sound, NULL), (gssize)len, NULL));
    }
    g_test_message("%u of %zu damaged pages refused", refused, len / 4096);
    g_assert_cmpuint(refused, >, len / 4096 / 2);
}

static void
test_cut_file(Fixture *fixture, const void *unused)
{
    test_put(fixture->store, "a", "1");
    gw_store_free(g_steal_pointer(&fixture->store));
    g_assert_cmpint(truncate(fixture->path, 4096), ==, 0);
    check_refused(fixture, GW_ERROR_IO, "damaged");
}

/* --- full disk -------------------------------------------------------------------------------- */

static Outcome
put_filler(GwStore *store, const char *key, const char *other)
{
    g_autofree char *filler = g_strnfill(60000, 'f');
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_text(txn, key, filler);
    gw_store_txn_put_text(txn, other, key);
    return test_commit(store, txn);
}

/* Fills the disk through the store; the number of commits that succeeded. */
static int
fill_disk(GwStore *store)
{
    for (int i = 0; i < 1000; i++) {
        g_autofree char *key = g_strdup_printf("filler/%04d", i);
        g_auto(Outcome) outcome = put_filler(store, key, "last");
        if (outcome.error) {
            g_test_message("%s", outcome.error->message);
            g_assert_error(outcome.error, GW_ERROR, GW_ERROR_IO);
            return i;
        }
    }
    g_assert_not_reached();
}

/* Every commit that was reported is there, whole, and nothing of any other. */
static void
check_filled(GwStore *store, int n)
{
    g_autofree char *last_key = g_strdup_printf("filler/%04d", n - 1);
    g_autofree char *last = test_get(store, "last");
    g_auto(Outcome) range = test_range(store, "filler/", 0);

    g_assert_no_error(range.error);
    g_assert_cmpint((int)range.entries->len, ==, n);
    g_assert_cmpstr(last, ==, last_key);
    g_assert_cmpint(range.revision, ==, n + 2);
}

static void
check_full_disk(const char *folder)
{
    g_autofree char *ballast = g_build_filename(folder, "ballast", NULL);
    g_autofree char *half = g_strnfill(200000, 'b');

    g_assert_true(g_file_set_contents(ballast, half, 200000, NULL));
    GwStore *store = test_store_open(folder);
    test_put(store, "first", "x");
    const int n = fill_disk(store);
    g_assert_cmpint(n, >, 2);
    check_filled(store, n);
    g_auto(Outcome) still = put_filler(store, "filler/more", "last");
    g_assert_error(still.error, GW_ERROR, GW_ERROR_IO);
    check_filled(store, n);

    /* Space comes back: the store that failed goes on, without a restart. */
    g_assert_cmpint(g_unlink(ballast), ==, 0);
    g_auto(Outcome) again = put_filler(store, "filler/9999", "last");
    g_assert_no_error(again.error);
    g_assert_cmpint(again.revision, ==, n + 3);
    gw_store_free(store);
    store = test_store_open(folder);
    g_autofree char *last = test_get(store, "last");
    g_assert_cmpstr(last, ==, "filler/9999");
    gw_store_free(store);
}

static void
test_full_disk(void)
{
    g_autofree char *folder = test_folder_new();

    if (mount("tmpfs", folder, "tmpfs", 0, "size=1m,mode=700") != 0) {
        g_test_skip("a tmpfs cannot be mounted here: it takes root");
    } else {
        check_full_disk(folder);
        g_assert_cmpint(umount2(folder, MNT_DETACH), ==, 0);
    }
    g_assert_cmpint(g_rmdir(folder), ==, 0);
}

int
main(int argc, char **argv)
{
#define ADD(name, function)                                                                        \
    g_test_add("/store-sqlite/" name, Fixture, NULL, set_up, function, tear_down)
    g_test_init(&argc, &argv, NULL);
    ADD("revisions", test_revisions);
    ADD("delete", test_delete);
    ADD("compares", test_compares);
    ADD("values", test_values);
    ADD("ranges", test_ranges);
    ADD("range-property", test_range_property);
    ADD("order", test_order);
    ADD("watch", test_watch);
    ADD("lease-expires", test_lease_expires);
    ADD("keepalive-prolongs", test_keepalive_prolongs);
    ADD("revoke-and-detach", test_revoke_and_detach);
    ADD("lease-survives-restart", test_lease_survives_restart);
    ADD("restart", test_restart);
    ADD("free-carries-out", test_free_carries_out);
    ADD("free-inside-callback", test_free_inside_callback);
    ADD("modes", test_modes);
    ADD("second-opener", test_second_opener);
    ADD("newer-schema", test_newer_schema);
    ADD("foreign-files", test_foreign_files);
    ADD("damaged-pages", test_damaged_pages);
    ADD("cut-file", test_cut_file);
    g_test_add_func("/store-sqlite/full-disk", test_full_disk);
    return g_test_run();
}
