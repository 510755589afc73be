// SPDX-License-Identifier: Apache-2.0
/*
 * The store of a single host: requests are carried out by a worker thread on one SQLite file.
 *
 * The worker owns the file, the revision and the leases' deadlines from the start to the end of the
 * thread; the main context never waits for a disk, except in open and free. Requests go to the
 * worker through a queue and come back, in order, through another one that a GSource of the main
 * context empties. Each commit is a transaction of SQLite of its own, fsynced before it is
 * answered.
 *
 * A lease's deadline (CLOCK_BOOTTIME) is only in memory, so a keepalive costs no write and every
 * lease has its full time again after a restart; its length is in the file. Due leases are expired
 * before each request, so no request sees a key whose lease is over.
 *
 * Failure: an operation that fails is rolled back whole and reported as GW_ERROR_IO; the state in
 * memory follows only a successful commit. The worker goes on, so the store works again when the
 * disk does. Expiry is tried again every second.
 */
#include "base/log.h"
#include "base/units.h"
#include "store/backend.h"
#include "store/sqlite_file.h"

#include <inttypes.h>
#include <string.h>

#define US_PER_SECOND INT64_C(1000000)

/* The queue's wait does not count time in suspend: look at the clock at least this often while
 * there are leases. Also the pause before an expiry that failed is tried again. */
#define MAX_WAIT_US US_PER_SECOND

typedef enum StatementId {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_SET_REVISION,
    SQL_COUNT_FAILURE,
    SQL_GET,
    SQL_PUT,
    SQL_DELETE,
    SQL_RANGE,
    SQL_KEYS_OF_LEASE,
    SQL_DELETE_KEYS_OF_LEASE,
    SQL_GRANT,
    SQL_DELETE_LEASE,
    SQL_REVISION,
    SQL_LEASES,
    N_STATEMENTS,
} StatementId;

#define ENTRY_COLUMNS "key, value, create_revision, mod_revision, version, lease"

static const char *const statement_sql[N_STATEMENTS] = {
    [SQL_BEGIN] = "BEGIN",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_SET_REVISION] = "UPDATE store SET revision = ?1",
    [SQL_COUNT_FAILURE] = "UPDATE store SET failed_commits = failed_commits + 1",
    [SQL_GET] = "SELECT " ENTRY_COLUMNS " FROM entry WHERE key = ?1",
    [SQL_PUT] = "INSERT OR REPLACE INTO entry (" ENTRY_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_DELETE] = "DELETE FROM entry WHERE key = ?1",
    [SQL_RANGE] = "SELECT " ENTRY_COLUMNS " FROM entry WHERE key >= ?1 ORDER BY key",
    [SQL_KEYS_OF_LEASE] = "SELECT key FROM entry WHERE lease = ?1 AND lease != 0 ORDER BY key",
    [SQL_DELETE_KEYS_OF_LEASE] = "DELETE FROM entry WHERE lease = ?1 AND lease != 0",
    [SQL_GRANT] = "INSERT INTO lease (ttl_ms) VALUES (?1)",
    [SQL_DELETE_LEASE] = "DELETE FROM lease WHERE id = ?1",
    [SQL_REVISION] = "SELECT revision FROM store",
    [SQL_LEASES] = "SELECT id, ttl_ms FROM lease",
};

typedef struct Lease {
    int64_t id;
    int64_t ttl_ms;
    int64_t deadline_us;
} Lease;

/* What comes back from the worker; either may be NULL. */
typedef struct Answer {
    GPtrArray *changes;
    GwStoreRequest *request;
} Answer;

typedef struct SqliteStore {
    GwStore *store;
    GThread *worker;
    GAsyncQueue *requests; /* GwStoreRequest, or the store itself as the end mark */
    GAsyncQueue *answers;  /* Answer */
    GSource *source;       /* ready when there are answers */

    /* The worker's, between open and free. */
    GwSqliteFile *file;
    sqlite3_stmt *statements[N_STATEMENTS];
    int64_t revision;
    GHashTable *leases; /* by id: Lease */
    bool expiry_failing;
} SqliteStore;

/* --- statements ------------------------------------------------------------------------------- */

/* A statement in use; free for the next use at the end of the scope. */
typedef sqlite3_stmt Statement;

static void
statement_release(Statement *statement)
{
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Statement, statement_release)

static void
bind_bytes(Statement *statement, int index, const void *data, size_t len)
{
    sqlite3_bind_blob64(statement, index, data ? data : "", len, SQLITE_STATIC);
}

static void
bind_key(Statement *statement, int index, const char *key)
{
    bind_bytes(statement, index, key, strlen(key));
}

/* Runs a statement that gives no rows. */
static bool
run(SqliteStore *self, Statement *statement, const char *what, GError **error)
{
    if (sqlite3_step(statement) != SQLITE_DONE) {
        gw_sqlite_file_set_error(self->file, what, error);
        return false;
    }
    return true;
}

/* Moves to the next row: 1, no more: 0, failed: -1. */
static int
next_row(SqliteStore *self, Statement *statement, GError **error)
{
    const int code = sqlite3_step(statement);

    if (code != SQLITE_ROW && code != SQLITE_DONE) {
        gw_sqlite_file_set_error(self->file, "read entries", error);
        return -1;
    }
    return code == SQLITE_ROW;
}

static bool
run_plain(SqliteStore *self, StatementId id, const char *what, GError **error)
{
    g_autoptr(Statement) statement = self->statements[id];

    return run(self, statement, what, error);
}

static bool
run_with_id(SqliteStore *self, StatementId id, int64_t value, GError **error)
{
    g_autoptr(Statement) statement = self->statements[id];

    sqlite3_bind_int64(statement, 1, value);
    return run(self, statement, "write leases", error);
}

/* --- entries ---------------------------------------------------------------------------------- */

static char *
column_key(Statement *row)
{
    const void *data = sqlite3_column_blob(row, 0);

    return g_strndup(data ? data : "", (size_t)sqlite3_column_bytes(row, 0));
}

/* The entry in the current row of ENTRY_COLUMNS; transfer full. */
static GwStoreEntry *
column_entry(SqliteStore *self, Statement *row, GError **error)
{
    const void *data = sqlite3_column_blob(row, 1);
    const size_t len = (size_t)sqlite3_column_bytes(row, 1);
    void *copy = len <= GW_STORE_MAX_VALUE_BYTES ? g_try_malloc(len) : NULL;

    if (len > 0 && (!copy || !data)) {
        g_autofree char *key = column_key(row);
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "store %s: cannot read the value of \"%s\" (%zu bytes): %s", self->file->path,
                    key, len, len > GW_STORE_MAX_VALUE_BYTES ? "too large" : "out of memory");
        g_free(copy);
        return NULL;
    }
    if (len > 0) {
        memcpy(copy, data, len);
    }
    GwStoreEntry *entry = g_new0(GwStoreEntry, 1);
    entry->key = column_key(row);
    entry->value = g_bytes_new_take(copy, len);
    entry->create_revision = sqlite3_column_int64(row, 2);
    entry->mod_revision = sqlite3_column_int64(row, 3);
    entry->version = sqlite3_column_int64(row, 4);
    entry->lease = sqlite3_column_int64(row, 5);
    return entry;
}

/* @entry is NULL if there is none; transfer full. */
static bool
get_entry(SqliteStore *self, const char *key, GwStoreEntry **entry, GError **error)
{
    g_autoptr(Statement) row = self->statements[SQL_GET];

    bind_key(row, 1, key);
    const int found = next_row(self, row, error);
    if (found < 0) {
        return false;
    }
    *entry = found ? column_entry(self, row, error) : NULL;
    return !found || *entry;
}

static void
add_deletion(GPtrArray *changes, char *key, int64_t revision)
{
    GwStoreEntry *entry = g_new0(GwStoreEntry, 1);

    entry->key = key;
    entry->mod_revision = revision;
    g_ptr_array_add(changes, entry);
}

static GPtrArray *
entries_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)gw_store_entry_free);
}

/* --- transactions ----------------------------------------------------------------------------- */

/*
 * A commit that failed half-way (full disk, failed fsync) may have left all its frames in the log,
 * where recovery after a crash would bring to life what was reported as not written. So a small
 * commit takes their place at once. If that fails too, the log may have no room to grow: once its
 * content is moved into the database, the next commit writes over its beginning. If the disk fails
 * even then, the doubt lasts until a commit succeeds.
 */
static void
bury_failed_commit(SqliteStore *self)
{
    if (!run_plain(self, SQL_COUNT_FAILURE, "note a failed commit", NULL)) {
        (void)sqlite3_wal_checkpoint_v2(self->file->db, NULL, SQLITE_CHECKPOINT_RESTART, NULL,
                                        NULL);
        (void)run_plain(self, SQL_COUNT_FAILURE, "note a failed commit", NULL);
    }
}

static void
roll_back(SqliteStore *self, bool commit_failed)
{
    if (!sqlite3_get_autocommit(self->file->db)) {
        (void)run_plain(self, SQL_ROLLBACK, "roll back", NULL);
    }
    if (commit_failed) {
        bury_failed_commit(self);
    }
}

/* Ends the transaction under way: durably if @ok, else without a trace. If it made @changes, all
 * have the revision after the current one. */
static bool
end_transaction(SqliteStore *self, bool ok, const GPtrArray *changes, GError **error)
{
    const int64_t revision = self->revision + (changes && changes->len > 0);

    if (ok && revision != self->revision) {
        ok = run_with_id(self, SQL_SET_REVISION, revision, error);
    }
    const bool committing = ok;
    if (ok) {
        ok = run_plain(self, SQL_COMMIT, "write a commit", error);
    }
    if (!ok) {
        roll_back(self, committing);
        return false;
    }
    self->revision = revision;
    return true;
}

static bool
compare_holds(SqliteStore *self, const GwStoreCompare *compare, bool *holds, GError **error)
{
    g_autoptr(GwStoreEntry) entry = NULL;

    if (!get_entry(self, compare->key, &entry, error)) {
        return false;
    }
    if (compare->value) {
        *holds = entry && g_bytes_equal(entry->value, compare->value);
    } else {
        *holds = (entry ? entry->mod_revision : 0) == compare->mod_revision;
    }
    return true;
}

static bool
all_compares_hold(SqliteStore *self, const GwStoreTxn *txn, bool *hold, GError **error)
{
    *hold = true;
    for (unsigned i = 0; *hold && i < txn->compares->len; i++) {
        if (!compare_holds(self, txn->compares->pdata[i], hold, error)) {
            return false;
        }
    }
    return true;
}

static Lease *
find_lease(SqliteStore *self, int64_t id)
{
    Lease *lease = g_hash_table_lookup(self->leases, &id);

    return lease && lease->deadline_us > gw_now_us() ? lease : NULL;
}

static bool
apply_put(SqliteStore *self, const GwStoreOp *op, GPtrArray *changes, GError **error)
{
    g_autoptr(GwStoreEntry) old = NULL;
    g_autoptr(Statement) statement = self->statements[SQL_PUT];

    if (op->lease != 0 && !find_lease(self, op->lease)) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND,
                    "store: \"%s\" was not written: its lease %" PRId64 " does not exist any more",
                    op->key, op->lease);
        return false;
    }
    if (!get_entry(self, op->key, &old, error)) {
        return false;
    }
    g_autoptr(GwStoreEntry) entry = g_new0(GwStoreEntry, 1);
    entry->key = g_strdup(op->key);
    entry->value = g_bytes_ref(op->value);
    entry->mod_revision = self->revision + 1;
    entry->create_revision = old ? old->create_revision : entry->mod_revision;
    entry->version = old ? old->version + 1 : 1;
    entry->lease = op->lease;

    bind_key(statement, 1, op->key);
    bind_bytes(statement, 2, g_bytes_get_data(op->value, NULL), g_bytes_get_size(op->value));
    sqlite3_bind_int64(statement, 3, entry->create_revision);
    sqlite3_bind_int64(statement, 4, entry->mod_revision);
    sqlite3_bind_int64(statement, 5, entry->version);
    sqlite3_bind_int64(statement, 6, entry->lease);
    if (!run(self, statement, "write an entry", error)) {
        return false;
    }
    g_ptr_array_add(changes, g_steal_pointer(&entry));
    return true;
}

static bool
apply_delete(SqliteStore *self, const GwStoreOp *op, GPtrArray *changes, GError **error)
{
    g_autoptr(Statement) statement = self->statements[SQL_DELETE];

    bind_key(statement, 1, op->key);
    if (!run(self, statement, "delete an entry", error)) {
        return false;
    }
    if (sqlite3_changes(self->file->db) > 0) {
        add_deletion(changes, g_strdup(op->key), self->revision + 1);
    }
    return true;
}

static bool
apply_ops(SqliteStore *self, const GwStoreTxn *txn, GPtrArray *changes, GError **error)
{
    for (unsigned i = 0; i < txn->ops->len; i++) {
        const GwStoreOp *op = txn->ops->pdata[i];
        if (!(op->value ? apply_put : apply_delete)(self, op, changes, error)) {
            return false;
        }
    }
    return true;
}

static bool
carry_out_commit(SqliteStore *self, GwStoreRequest *request, GPtrArray *changes)
{
    bool hold = false;

    if (!run_plain(self, SQL_BEGIN, "begin a commit", &request->error)) {
        return false;
    }
    bool ok = all_compares_hold(self, request->txn, &hold, &request->error);
    if (ok && hold) {
        ok = apply_ops(self, request->txn, changes, &request->error);
    }
    if (!end_transaction(self, ok, changes, &request->error)) {
        return false;
    }
    request->succeeded = hold;
    request->revision = self->revision;
    return true;
}

/* --- ranges ----------------------------------------------------------------------------------- */

static bool
carry_out_range(SqliteStore *self, GwStoreRequest *request)
{
    g_autoptr(GPtrArray) entries = entries_new();
    g_autoptr(Statement) row = self->statements[SQL_RANGE];
    int found = 0;

    /* The walk begins at the prefix itself and ends behind the last key that has it, so no upper
     * bound has to be computed from the prefix's last byte. */
    bind_key(row, 1, request->prefix);
    while ((request->limit == 0 || entries->len < request->limit) &&
           (found = next_row(self, row, &request->error)) > 0) {
        g_autoptr(GwStoreEntry) entry = column_entry(self, row, &request->error);
        if (!entry) {
            return false;
        }
        if (!g_str_has_prefix(entry->key, request->prefix)) {
            break;
        }
        g_ptr_array_add(entries, g_steal_pointer(&entry));
    }
    if (found < 0) {
        return false;
    }
    request->entries = g_steal_pointer(&entries);
    request->revision = self->revision;
    return true;
}

/* --- leases ----------------------------------------------------------------------------------- */

static void
remember_lease(SqliteStore *self, int64_t id, int64_t ttl_ms)
{
    Lease *lease = g_new0(Lease, 1);

    lease->id = id;
    lease->ttl_ms = ttl_ms;
    lease->deadline_us = gw_now_us() + ttl_ms * 1000;
    g_hash_table_insert(self->leases, &lease->id, lease);
}

static bool
carry_out_grant(SqliteStore *self, GwStoreRequest *request)
{
    if (!run_with_id(self, SQL_GRANT, request->ttl_ms, &request->error)) {
        roll_back(self, true);
        return false;
    }
    request->answered_lease = sqlite3_last_insert_rowid(self->file->db);
    request->answered_ttl_ms = request->ttl_ms;
    remember_lease(self, request->answered_lease, request->ttl_ms);
    return true;
}

static void
carry_out_keepalive(SqliteStore *self, GwStoreRequest *request)
{
    Lease *lease = find_lease(self, request->lease);

    if (lease) {
        lease->deadline_us = gw_now_us() + lease->ttl_ms * 1000;
        request->answered_lease = lease->id;
        request->answered_ttl_ms = lease->ttl_ms;
    }
}

static bool
collect_keys_of_lease(SqliteStore *self, int64_t id, GPtrArray *changes, GError **error)
{
    g_autoptr(Statement) row = self->statements[SQL_KEYS_OF_LEASE];
    int found = 0;

    sqlite3_bind_int64(row, 1, id);
    while ((found = next_row(self, row, error)) > 0) {
        add_deletion(changes, column_key(row), self->revision + 1);
    }
    return found == 0;
}

/* Deletes a lease and its keys, durably and at one revision. */
static bool
end_lease(SqliteStore *self, int64_t id, GPtrArray *changes, GError **error)
{
    if (!run_plain(self, SQL_BEGIN, "end a lease", error)) {
        return false;
    }
    const bool ok = collect_keys_of_lease(self, id, changes, error) &&
                    run_with_id(self, SQL_DELETE_KEYS_OF_LEASE, id, error) &&
                    run_with_id(self, SQL_DELETE_LEASE, id, error);
    if (!end_transaction(self, ok, changes, error)) {
        return false;
    }
    g_hash_table_remove(self->leases, &id);
    return true;
}

static bool
carry_out_revoke(SqliteStore *self, GwStoreRequest *request, GPtrArray *changes)
{
    if (!find_lease(self, request->lease)) {
        return true;
    }
    if (!end_lease(self, request->lease, changes, &request->error)) {
        return false;
    }
    request->answered_lease = request->lease;
    return true;
}

/* --- the worker ------------------------------------------------------------------------------- */

/* Sends an answer to the main context; transfer full. */
static void
send_answer(SqliteStore *self, GPtrArray *changes, GwStoreRequest *request)
{
    Answer *answer = g_new0(Answer, 1);

    answer->changes = changes;
    answer->request = request;
    g_async_queue_push(self->answers, answer);
    g_source_set_ready_time(self->source, 0);
}

static bool
carry_out(SqliteStore *self, GwStoreRequest *request, GPtrArray *changes)
{
    switch (request->kind) {
    case GW_STORE_REQUEST_COMMIT:
        return carry_out_commit(self, request, changes);
    case GW_STORE_REQUEST_RANGE:
        return carry_out_range(self, request);
    case GW_STORE_REQUEST_LEASE_GRANT:
        return carry_out_grant(self, request);
    case GW_STORE_REQUEST_LEASE_KEEPALIVE:
        carry_out_keepalive(self, request);
        return true;
    case GW_STORE_REQUEST_LEASE_REVOKE:
        return carry_out_revoke(self, request, changes);
    }
    return true;
}

static void
answer_request(SqliteStore *self, GwStoreRequest *request)
{
    g_autoptr(GPtrArray) changes = entries_new();
    const bool ok = !request->error && carry_out(self, request, changes);

    send_answer(self, ok ? g_steal_pointer(&changes) : NULL, request);
}

/* Microseconds until the first lease ends; -1: there is none. */
static int64_t
next_expiry_in_us(const SqliteStore *self)
{
    const int64_t now_us = gw_now_us();
    int64_t wait_us = -1;
    GHashTableIter iter;
    Lease *lease;

    g_hash_table_iter_init(&iter, self->leases);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&lease)) {
        const int64_t left_us = MAX(lease->deadline_us - now_us, 0);
        wait_us = wait_us < 0 ? left_us : MIN(wait_us, left_us);
    }
    return wait_us;
}

static Lease *
first_due_lease(const SqliteStore *self)
{
    const int64_t now_us = gw_now_us();
    Lease *first = NULL;
    GHashTableIter iter;
    Lease *lease;

    g_hash_table_iter_init(&iter, self->leases);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&lease)) {
        if (lease->deadline_us <= now_us && (!first || lease->deadline_us < first->deadline_us)) {
            first = lease;
        }
    }
    return first;
}

static void
expire_due_leases(SqliteStore *self)
{
    Lease *lease;

    while ((lease = first_due_lease(self))) {
        g_autoptr(GPtrArray) changes = entries_new();
        g_autoptr(GError) error = NULL;
        const bool ok = end_lease(self, lease->id, changes, &error);
        if (!ok && !self->expiry_failing) {
            gw_warn(NULL, "cannot end a lease that is over, trying again: %s", error->message);
        }
        self->expiry_failing = !ok;
        if (!ok) {
            return;
        }
        send_answer(self, g_steal_pointer(&changes), NULL);
    }
}

/* The next request; NULL when it is time to look at the leases. */
static void *
next_request(SqliteStore *self)
{
    int64_t wait_us = self->expiry_failing ? MAX_WAIT_US : next_expiry_in_us(self);

    if (wait_us < 0) {
        return g_async_queue_pop(self->requests);
    }
    return g_async_queue_timeout_pop(self->requests, (guint64)MIN(wait_us, MAX_WAIT_US));
}

static void *
worker_main(void *data)
{
    SqliteStore *self = data;

    for (;;) {
        void *request = next_request(self);
        expire_due_leases(self);
        if (request == self) {
            return NULL;
        }
        if (request) {
            answer_request(self, request);
        }
    }
}

/* --- the main context's side ------------------------------------------------------------------ */

typedef struct AnswerSource {
    GSource source;
    SqliteStore *self;
} AnswerSource;

static void
deliver_one(SqliteStore *self)
{
    g_autofree Answer *answer = g_async_queue_try_pop(self->answers);

    if (answer) {
        gw_store_deliver(self->store, answer->changes, answer->request);
    }
}

/* One answer for each turn of the main loop: the store may be freed inside, and other sources get
 * their turn. Readiness is taken back before the look at the queue, so that no answer is missed. */
static gboolean
source_dispatch(GSource *source, GSourceFunc unused, void *unused_data)
{
    SqliteStore *self = ((AnswerSource *)source)->self;

    g_source_set_ready_time(source, -1);
    if (g_async_queue_length(self->answers) > 1) {
        g_source_set_ready_time(source, 0);
    }
    deliver_one(self);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {.dispatch = source_dispatch};

static void
sqlite_submit(void *data, GwStoreRequest *request)
{
    SqliteStore *self = data;

    g_async_queue_push(self->requests, request);
}

static void
close_file(SqliteStore *self)
{
    for (int id = 0; id < N_STATEMENTS; id++) {
        sqlite3_finalize(self->statements[id]);
    }
    g_clear_pointer(&self->file, gw_sqlite_file_close);
    g_clear_pointer(&self->leases, g_hash_table_unref);
}

static void
sqlite_free(void *data)
{
    SqliteStore *self = data;

    g_async_queue_push(self->requests, self);
    g_thread_join(self->worker);
    while (g_async_queue_length(self->answers) > 0) {
        deliver_one(self);
    }
    g_source_destroy(self->source);
    g_source_unref(self->source);
    g_async_queue_unref(self->requests);
    g_async_queue_unref(self->answers);
    close_file(self);
    g_free(self);
}

static const GwStoreBackend sqlite_backend = {.submit = sqlite_submit, .free = sqlite_free};

/* --- open ------------------------------------------------------------------------------------- */

static bool
load_revision(SqliteStore *self, GError **error)
{
    g_autoptr(Statement) row = self->statements[SQL_REVISION];

    const int found = next_row(self, row, error);
    if (found == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO,
                    "store %s: it is damaged: its revision is missing; restore a backup",
                    self->file->path);
    }
    if (found > 0) {
        self->revision = sqlite3_column_int64(row, 0);
    }
    return found > 0;
}

static bool
load_leases(SqliteStore *self, GError **error)
{
    g_autoptr(Statement) row = self->statements[SQL_LEASES];
    int found = 0;

    while ((found = next_row(self, row, error)) > 0) {
        const int64_t ttl_ms = sqlite3_column_int64(row, 1);
        remember_lease(self, sqlite3_column_int64(row, 0), CLAMP(ttl_ms, 1, GW_STORE_MAX_TTL_MS));
    }
    return found == 0;
}

static bool
load_state(SqliteStore *self, GError **error)
{
    for (int id = 0; id < N_STATEMENTS; id++) {
        if (sqlite3_prepare_v3(self->file->db, statement_sql[id], -1, SQLITE_PREPARE_PERSISTENT,
                               &self->statements[id], NULL) != SQLITE_OK) {
            gw_sqlite_file_set_error(self->file, "prepare to use it", error);
            return false;
        }
    }
    return load_revision(self, error) && load_leases(self, error);
}

GwStore *
gw_store_sqlite_open(const char *path, GError **error)
{
    g_autoptr(GwSqliteFile) file = gw_sqlite_file_open(path, error);

    if (!file) {
        return NULL;
    }
    SqliteStore *self = g_new0(SqliteStore, 1);
    self->file = g_steal_pointer(&file);
    self->leases = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    if (!load_state(self, error)) {
        close_file(self);
        g_free(self);
        return NULL;
    }
    g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
    self->source = g_source_new(&source_funcs, sizeof(AnswerSource));
    ((AnswerSource *)self->source)->self = self;
    g_source_set_static_name(self->source, "store");
    g_source_attach(self->source, context);
    self->requests = g_async_queue_new();
    self->answers = g_async_queue_new();
    self->store = gw_store_new(&sqlite_backend, self);
    self->worker = g_thread_new("store", worker_main, self);
    return self->store;
}
