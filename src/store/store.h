// SPDX-License-Identifier: Apache-2.0
/*
 * The store: a small key-value interface with revisions, compare-and-swap transactions, watches
 * and leases. One implementation is SQLite on a single host (store_sqlite.c); the interface is
 * what etcd offers, so that it fits behind it without a change above.
 *
 * Keys are UTF-8 paths without a leading slash ("vm/web1/owner"), 1 to 512 bytes. Values are
 * bytes, at most 1 MiB. Each commit that changes something gets the next revision of the whole
 * store; revisions outlive a restart and only grow. `create_revision`, `mod_revision` and
 * `version` mean what they mean in etcd; a key that does not exist has all of them 0.
 *
 * Layout: KIND/NAME or KIND/NAME/FIELD. Each kind belongs to one module, which alone writes it and
 * documents its fields; a NAME has passed gw_check_name() or is an id of our own, so that it holds
 * no slash. What is compared and swapped alone is a key of its own. Prefixes are bytes, not path
 * elements: "vm/web1" also finds "vm/web10", so a prefix that means a folder ends with a slash.
 * Keys are ordered by their bytes; no character in a key or prefix is a wildcard.
 *
 * Threads: everything is called from, and every callback runs in, the main context, never from
 * inside the call that was given it. Requests complete in the order in which they were made.
 * Durability: a transaction whose callback reports success survives a power cut.
 * Errors: GW_ERROR_IO (disk full, corrupt, unreachable): nothing was written, or, for a store
 * across a network, GW_ERROR_TIMEOUT: it is unknown whether it was; repeat the same transaction,
 * its compares tell. A request outside the limits below fails through its callback, in its turn,
 * with GW_ERROR_INVALID or GW_ERROR_TOO_LARGE, and changes nothing.
 * Ownership: a request's callback is called exactly once, unless gw_store_forget() drops it or
 * gw_store_free() comes first.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct GwStore GwStore;

typedef struct GwStoreEntry {
    char *key;
    GBytes *value;           /* NULL in a watch event that tells of a deletion */
    int64_t create_revision; /* a deletion has only its key and mod_revision */
    int64_t mod_revision;
    int64_t version;
    int64_t lease; /* 0: none */
} GwStoreEntry;

void gw_store_entry_free(GwStoreEntry *entry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwStoreEntry, gw_store_entry_free)

#define GW_STORE_MAX_KEY_BYTES   512
#define GW_STORE_MAX_VALUE_BYTES (1024 * 1024)

/* What etcd takes without configuration: --max-txn-ops, and below --max-request-bytes (1.5 MiB). */
#define GW_STORE_MAX_TXN_OPS   128 /* compares, and again operations */
#define GW_STORE_MAX_TXN_BYTES (GW_STORE_MAX_VALUE_BYTES + 256 * 1024) /* keys and values */

#define GW_STORE_MAX_TTL_MS (INT64_C(365) * 24 * 3600 * 1000)

/* --- transactions ----------------------------------------------------------------------------- */

/*
 * Compares, then operations: all compares hold → all operations happen, at one revision. Each key
 * may be put or deleted only once in a transaction. Deleting a key that does not exist changes
 * nothing; putting the value that is already there is a change.
 */
typedef struct GwStoreTxn GwStoreTxn;

GwStoreTxn *gw_store_txn_new(void);
void gw_store_txn_free(GwStoreTxn *txn);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwStoreTxn, gw_store_txn_free)

/* The key's mod_revision must be this (0: the key must not exist). */
void gw_store_txn_if_revision(GwStoreTxn *txn, const char *key, int64_t mod_revision);
/* The key must exist with exactly this value. */
void gw_store_txn_if_value(GwStoreTxn *txn, const char *key, const void *value, size_t len);
void gw_store_txn_put(GwStoreTxn *txn, const char *key, const void *value, size_t len);
void gw_store_txn_put_text(GwStoreTxn *txn, const char *key, const char *text);
/*
 * The key is deleted when the lease ends (0: no lease, as gw_store_txn_put()). If the lease does
 * not exist, the transaction fails with GW_ERROR_NOT_FOUND.
 */
void gw_store_txn_put_lease(GwStoreTxn *txn, const char *key, const void *value, size_t len,
                            int64_t lease);
void gw_store_txn_delete(GwStoreTxn *txn, const char *key);

typedef struct GwStoreTxnResult {
    bool succeeded;   /* false: a compare did not hold and nothing was changed */
    int64_t revision; /* of the store after it */
} GwStoreTxnResult;

/* @result is NULL when @error is set; both are borrowed. */
typedef void (*GwStoreTxnFn)(const GwStoreTxnResult *result, const GError *error, void *data);

/* @txn: transfer full. @callback may be NULL when nobody waits (an error is then logged). */
void gw_store_commit(GwStore *store, GwStoreTxn *txn, GwStoreTxnFn callback, void *data);

/* --- reading ---------------------------------------------------------------------------------- */

/* @entries: GPtrArray of GwStoreEntry sorted by key, borrowed; NULL when @error is set. */
typedef void (*GwStoreRangeFn)(const GPtrArray *entries, int64_t revision, const GError *error,
                               void *data);

/* All keys that begin with @prefix, at most @limit (0: no limit), linearizable. */
void gw_store_range(GwStore *store, const char *prefix, unsigned limit, GwStoreRangeFn callback,
                    void *data);

/* --- watches ---------------------------------------------------------------------------------- */

typedef struct GwStoreWatch GwStoreWatch;

/* One changed key; in order of revision; borrowed. */
typedef void (*GwStoreWatchFn)(const GwStoreEntry *entry, void *data);

/*
 * Tells of every change under @prefix committed after this call, until stopped. A change by a
 * request that was under way at the call may be told too: compare revisions. To follow a folder,
 * watch first, then read the range, and skip changes up to the range's revision.
 *
 * SQLite tells watches of a commit before it calls the commit's own callback, so what is kept up
 * to date by a watch is so there; a store across a network cannot promise that. A watch may be
 * stopped inside any callback, its own included, and also after gw_store_free().
 */
GwStoreWatch *gw_store_watch(GwStore *store, const char *prefix, GwStoreWatchFn callback,
                             void *data) GW_MUST_USE;
void gw_store_watch_stop(GwStoreWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwStoreWatch, gw_store_watch_stop)

/* --- leases ----------------------------------------------------------------------------------- */

/*
 * A lease ends @ttl_ms (1 to GW_STORE_MAX_TTL_MS) after its grant or last keepalive, or on revoke:
 * its keys are deleted at a new revision and watches are told. Never early; late by up to a second
 * after the machine was suspended. Time in suspend counts. A store that restarts (SQLite) or
 * changes its leader (etcd) gives every lease its full time again, and etcd may grant a longer
 * time than was asked for: a lease is no failure detector.
 *
 * @lease: its id (> 0) and the granted time to live (0 after a revoke); id 0 = the lease does not
 * exist any more.
 */
typedef void (*GwStoreLeaseFn)(int64_t lease, int64_t ttl_ms, const GError *error, void *data);

void gw_store_lease_grant(GwStore *store, int64_t ttl_ms, GwStoreLeaseFn callback, void *data);
void gw_store_lease_keepalive(GwStore *store, int64_t lease, GwStoreLeaseFn callback, void *data);
/* Deletes the lease and its keys. */
void gw_store_lease_revoke(GwStore *store, int64_t lease, GwStoreLeaseFn callback, void *data);

/* --- life ------------------------------------------------------------------------------------- */

/*
 * Drops every callback that was given this @data: no call after this returns. The requests are
 * still carried out. Watches with this @data are silent from now on, but are still to be stopped.
 * NULL drops nothing.
 */
void gw_store_forget(GwStore *store, void *data);

/* Carries out the requests under way, then closes. Their callbacks are not called. Blocking. */
void gw_store_free(GwStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwStore, gw_store_free)

/*
 * Opens or makes the SQLite store at @path (mode 0600): WAL, synchronous=FULL, integrity check at
 * start, schema version with forward migrations; a file of a newer schema is refused. Blocking;
 * done once at the daemon's start. Callbacks run in the calling thread's default main context.
 * Errors: GW_ERROR_STATE: another process uses the file; GW_ERROR_UNSUPPORTED: newer schema;
 * GW_ERROR_INVALID: not a store of Godwit; GW_ERROR_IO: damaged or not accessible.
 */
GwStore *gw_store_sqlite_open(const char *path, GError **error) GW_MUST_USE;
