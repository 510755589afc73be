// SPDX-License-Identifier: Apache-2.0
/*
 * What all kinds of stores have in common: transactions and their limits, requests and who waits
 * for them, watches.
 *
 * Owns the requests' callbacks and the list of watches; the data is the backend's (backend.h). Runs
 * in the main context only. Callbacks may do anything, gw_store_free() included: a store under
 * delivery is held by a reference, and watches are called from a snapshot. Limits are checked here,
 * before a backend sees a request. Broken limits and failures reach the caller through the
 * callback; if nobody waits, they are logged.
 */
#include "base/log.h"
#include "store/backend.h"

#include <inttypes.h>
#include <string.h>

struct GwStore {
    const GwStoreBackend *backend;
    void *self;
    GQueue pending;     /* GwStoreRequest: submitted, not delivered */
    GPtrArray *watches; /* GwStoreWatch: not stopped */
    bool closed;
    unsigned references;
};

struct GwStoreWatch {
    GwStore *store; /* NULL once either of them is gone */
    char *prefix;
    GwStoreWatchFn callback; /* NULL: silent */
    void *data;
    unsigned references;
};

/* --- entries and transactions ----------------------------------------------------------------- */

void
gw_store_entry_free(GwStoreEntry *entry)
{
    if (entry) {
        g_free(entry->key);
        g_clear_pointer(&entry->value, g_bytes_unref);
        g_free(entry);
    }
}

static void
compare_free(void *data)
{
    GwStoreCompare *compare = data;

    g_free(compare->key);
    g_clear_pointer(&compare->value, g_bytes_unref);
    g_free(compare);
}

static void
op_free(void *data)
{
    GwStoreOp *op = data;

    g_free(op->key);
    g_clear_pointer(&op->value, g_bytes_unref);
    g_free(op);
}

GwStoreTxn *
gw_store_txn_new(void)
{
    GwStoreTxn *txn = g_new0(GwStoreTxn, 1);

    txn->compares = g_ptr_array_new_with_free_func(compare_free);
    txn->ops = g_ptr_array_new_with_free_func(op_free);
    txn->op_keys = g_hash_table_new(g_str_hash, g_str_equal);
    return txn;
}

void
gw_store_txn_free(GwStoreTxn *txn)
{
    if (txn) {
        g_hash_table_unref(txn->op_keys);
        g_ptr_array_unref(txn->compares);
        g_ptr_array_unref(txn->ops);
        g_clear_error(&txn->error);
        g_free(txn);
    }
}

/* The beginning of any key as text for a message. */
static char *
key_text(const char *key)
{
    g_autofree char *start = g_strndup(key, 64);

    return g_utf8_make_valid(start, -1);
}

static bool
check_key(const char *key, GError **error)
{
    const char *problem = NULL;

    if (key[0] == '\0') {
        problem = "it is empty";
    } else if (key[0] == '/') {
        problem = "it begins with a slash";
    } else if (strlen(key) > GW_STORE_MAX_KEY_BYTES) {
        problem = "it is longer than " G_STRINGIFY(GW_STORE_MAX_KEY_BYTES) " bytes";
    } else if (!g_utf8_validate(key, -1, NULL)) {
        problem = "it is not UTF-8";
    }
    if (problem) {
        g_autofree char *text = key_text(key);
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "store: the key \"%s\" is not valid: %s",
                    text, problem);
        return false;
    }
    return true;
}

/* Whether @key with @len bytes of value may join @txn as the next member of @list. */
static bool
txn_admit(GwStoreTxn *txn, const GPtrArray *list, const char *key, size_t len)
{
    if (txn->error || !check_key(key, &txn->error)) {
        return false;
    }
    if (len > GW_STORE_MAX_VALUE_BYTES) {
        g_set_error(&txn->error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "store: the value for \"%s\" has %zu bytes, the limit is %d", key, len,
                    GW_STORE_MAX_VALUE_BYTES);
        return false;
    }
    if (list->len >= GW_STORE_MAX_TXN_OPS) {
        g_set_error(&txn->error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "store: a transaction has more than %d %s", GW_STORE_MAX_TXN_OPS,
                    list == txn->ops ? "operations" : "compares");
        return false;
    }
    txn->bytes += strlen(key) + len;
    if (txn->bytes > GW_STORE_MAX_TXN_BYTES) {
        g_set_error(&txn->error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "store: a transaction has more than %d bytes (at \"%s\")",
                    GW_STORE_MAX_TXN_BYTES, key);
        return false;
    }
    return true;
}

void
gw_store_txn_if_revision(GwStoreTxn *txn, const char *key, int64_t mod_revision)
{
    if (!txn_admit(txn, txn->compares, key, 0)) {
        return;
    }
    if (mod_revision < 0) {
        g_set_error(&txn->error, GW_ERROR, GW_ERROR_INVALID,
                    "store: the revision %" PRId64 " compared with \"%s\" is negative",
                    mod_revision, key);
        return;
    }
    GwStoreCompare *compare = g_new0(GwStoreCompare, 1);
    compare->key = g_strdup(key);
    compare->mod_revision = mod_revision;
    g_ptr_array_add(txn->compares, compare);
}

void
gw_store_txn_if_value(GwStoreTxn *txn, const char *key, const void *value, size_t len)
{
    if (txn_admit(txn, txn->compares, key, len)) {
        GwStoreCompare *compare = g_new0(GwStoreCompare, 1);
        compare->key = g_strdup(key);
        compare->value = g_bytes_new(value, len);
        g_ptr_array_add(txn->compares, compare);
    }
}

/* @value: transfer full; NULL for a deletion. */
static void
txn_add_op(GwStoreTxn *txn, const char *key, GBytes *value, int64_t lease)
{
    GwStoreOp *op = g_new0(GwStoreOp, 1);

    op->key = g_strdup(key);
    op->value = value;
    op->lease = lease;
    g_ptr_array_add(txn->ops, op);
    if (!g_hash_table_add(txn->op_keys, op->key)) {
        g_set_error(&txn->error, GW_ERROR, GW_ERROR_INVALID,
                    "store: \"%s\" is changed twice in one transaction", key);
    }
}

void
gw_store_txn_put_lease(GwStoreTxn *txn, const char *key, const void *value, size_t len,
                       int64_t lease)
{
    if (!txn_admit(txn, txn->ops, key, len)) {
        return;
    }
    if (lease < 0) {
        g_set_error(&txn->error, GW_ERROR, GW_ERROR_INVALID,
                    "store: the lease %" PRId64 " for \"%s\" is negative", lease, key);
        return;
    }
    txn_add_op(txn, key, g_bytes_new(value, len), lease);
}

void
gw_store_txn_put(GwStoreTxn *txn, const char *key, const void *value, size_t len)
{
    gw_store_txn_put_lease(txn, key, value, len, 0);
}

void
gw_store_txn_put_text(GwStoreTxn *txn, const char *key, const char *text)
{
    gw_store_txn_put_lease(txn, key, text, strlen(text), 0);
}

void
gw_store_txn_delete(GwStoreTxn *txn, const char *key)
{
    if (txn_admit(txn, txn->ops, key, 0)) {
        txn_add_op(txn, key, NULL, 0);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

GwStore *
gw_store_new(const GwStoreBackend *backend, void *self)
{
    GwStore *store = g_new0(GwStore, 1);

    store->backend = backend;
    store->self = self;
    g_queue_init(&store->pending);
    store->watches = g_ptr_array_new();
    store->references = 1;
    return store;
}

static void
store_unref(GwStore *store)
{
    if (--store->references == 0) {
        g_ptr_array_unref(store->watches);
        g_free(store);
    }
}

void
gw_store_free(GwStore *store)
{
    if (!store) {
        return;
    }
    store->closed = true;
    for (unsigned i = 0; i < store->watches->len; i++) {
        GwStoreWatch *watch = store->watches->pdata[i];
        watch->callback = NULL;
        watch->store = NULL;
    }
    g_ptr_array_set_size(store->watches, 0);
    store->backend->free(store->self);
    store_unref(store);
}

void
gw_store_forget(GwStore *store, void *data)
{
    if (!data) {
        return;
    }
    for (GList *link = store->pending.head; link; link = link->next) {
        GwStoreRequest *request = link->data;
        if (request->data == data) {
            request->wanted = false;
        }
    }
    for (unsigned i = 0; i < store->watches->len; i++) {
        GwStoreWatch *watch = store->watches->pdata[i];
        if (watch->data == data) {
            watch->callback = NULL;
        }
    }
}

/* --- requests --------------------------------------------------------------------------------- */

static void
request_free(GwStoreRequest *request)
{
    gw_store_txn_free(request->txn);
    g_free(request->prefix);
    g_clear_pointer(&request->entries, g_ptr_array_unref);
    g_clear_error(&request->error);
    g_free(request);
}

static GwStoreRequest *
request_new(GwStoreRequestKind kind, bool wanted, void *data)
{
    GwStoreRequest *request = g_new0(GwStoreRequest, 1);

    request->kind = kind;
    request->wanted = wanted;
    request->data = data;
    return request;
}

static void
submit(GwStore *store, GwStoreRequest *request)
{
    g_queue_push_tail(&store->pending, request);
    store->backend->submit(store->self, request);
}

void
gw_store_commit(GwStore *store, GwStoreTxn *txn, GwStoreTxnFn callback, void *data)
{
    GwStoreRequest *request = request_new(GW_STORE_REQUEST_COMMIT, callback != NULL, data);

    request->txn = txn;
    request->error = g_steal_pointer(&txn->error);
    request->callback.txn = callback;
    submit(store, request);
}

void
gw_store_range(GwStore *store, const char *prefix, unsigned limit, GwStoreRangeFn callback,
               void *data)
{
    GwStoreRequest *request = request_new(GW_STORE_REQUEST_RANGE, callback != NULL, data);

    request->prefix = g_strdup(prefix);
    request->limit = limit;
    request->callback.range = callback;
    submit(store, request);
}

void
gw_store_lease_grant(GwStore *store, int64_t ttl_ms, GwStoreLeaseFn callback, void *data)
{
    GwStoreRequest *request = request_new(GW_STORE_REQUEST_LEASE_GRANT, callback != NULL, data);

    request->ttl_ms = ttl_ms;
    request->callback.lease = callback;
    if (ttl_ms < 1 || ttl_ms > GW_STORE_MAX_TTL_MS) {
        g_set_error(&request->error, GW_ERROR, GW_ERROR_INVALID,
                    "store: a lease of %" PRId64 " ms is not within 1 ms and a year", ttl_ms);
    }
    submit(store, request);
}

void
gw_store_lease_keepalive(GwStore *store, int64_t lease, GwStoreLeaseFn callback, void *data)
{
    GwStoreRequest *request = request_new(GW_STORE_REQUEST_LEASE_KEEPALIVE, callback != NULL, data);

    request->lease = lease;
    request->callback.lease = callback;
    submit(store, request);
}

void
gw_store_lease_revoke(GwStore *store, int64_t lease, GwStoreLeaseFn callback, void *data)
{
    GwStoreRequest *request = request_new(GW_STORE_REQUEST_LEASE_REVOKE, callback != NULL, data);

    request->lease = lease;
    request->callback.lease = callback;
    submit(store, request);
}

static void
call_back(const GwStoreRequest *request)
{
    const GwStoreTxnResult result = {request->succeeded, request->revision};
    const GError *error = request->error;

    switch (request->kind) {
    case GW_STORE_REQUEST_COMMIT:
        request->callback.txn(error ? NULL : &result, error, request->data);
        break;
    case GW_STORE_REQUEST_RANGE:
        request->callback.range(error ? NULL : request->entries, request->revision, error,
                                request->data);
        break;
    case GW_STORE_REQUEST_LEASE_GRANT:
    case GW_STORE_REQUEST_LEASE_KEEPALIVE:
    case GW_STORE_REQUEST_LEASE_REVOKE:
        request->callback.lease(request->answered_lease, request->answered_ttl_ms, error,
                                request->data);
        break;
    }
}

static void
finish(GwStore *store, GwStoreRequest *request)
{
    g_queue_remove(&store->pending, request);
    if (request->wanted && !store->closed) {
        call_back(request);
    } else if (request->error) {
        gw_warn(NULL, "%s (nobody waits for this request any more)", request->error->message);
    }
    request_free(request);
}

/* --- watches ---------------------------------------------------------------------------------- */

static void
watch_unref(void *data)
{
    GwStoreWatch *watch = data;

    if (--watch->references == 0) {
        g_free(watch->prefix);
        g_free(watch);
    }
}

GwStoreWatch *
gw_store_watch(GwStore *store, const char *prefix, GwStoreWatchFn callback, void *data)
{
    GwStoreWatch *watch = g_new0(GwStoreWatch, 1);

    watch->store = store;
    watch->prefix = g_strdup(prefix);
    watch->callback = callback;
    watch->data = data;
    watch->references = 1;
    g_ptr_array_add(store->watches, watch);
    return watch;
}

void
gw_store_watch_stop(GwStoreWatch *watch)
{
    if (!watch) {
        return;
    }
    if (watch->store) {
        g_ptr_array_remove(watch->store->watches, watch);
        watch->store = NULL;
    }
    watch->callback = NULL;
    watch_unref(watch);
}

/* From a snapshot, so that callbacks may start and stop watches. One that was started meanwhile
 * is not told: these changes were committed before. */
static void
tell_watches(const GwStore *store, const GPtrArray *changes)
{
    g_autoptr(GPtrArray) snapshot = g_ptr_array_new_with_free_func(watch_unref);

    for (unsigned i = 0; i < store->watches->len; i++) {
        GwStoreWatch *watch = store->watches->pdata[i];
        watch->references++;
        g_ptr_array_add(snapshot, watch);
    }
    for (unsigned c = 0; c < changes->len; c++) {
        const GwStoreEntry *entry = changes->pdata[c];
        for (unsigned i = 0; i < snapshot->len; i++) {
            const GwStoreWatch *watch = snapshot->pdata[i];
            if (watch->callback && g_str_has_prefix(entry->key, watch->prefix)) {
                watch->callback(entry, watch->data);
            }
        }
    }
}

void
gw_store_deliver(GwStore *store, GPtrArray *changes, GwStoreRequest *request)
{
    g_autoptr(GPtrArray) owned_changes = changes;

    store->references++;
    if (owned_changes) {
        tell_watches(store, owned_changes);
    }
    if (request) {
        finish(store, request);
    }
    store_unref(store);
}
