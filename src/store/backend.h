// SPDX-License-Identifier: Apache-2.0
/*
 * What a kind of store has to provide, and what store.c does for it.
 *
 * store.c owns everything that does not depend on where the data is: building and checking
 * transactions, callbacks and their dropping, watches. A backend carries requests out. It is a
 * const struct of functions: a new kind of store is one new file with an open function that ends in
 * gw_store_new(), declared in store.h.
 *
 * Everything here is called in the main context. A backend that uses a thread hands requests over
 * and back itself; meanwhile that thread owns the answer and may read the question.
 */
#pragma once

#include "store/store.h"

/* A condition of a transaction: on the value if there is one, else on the revision. */
typedef struct GwStoreCompare {
    char *key;
    GBytes *value;
    int64_t mod_revision;
} GwStoreCompare;

/* A change: a put, or a deletion if there is no value. */
typedef struct GwStoreOp {
    char *key;
    GBytes *value;
    int64_t lease;
} GwStoreOp;

struct GwStoreTxn {
    GPtrArray *compares; /* GwStoreCompare */
    GPtrArray *ops;      /* GwStoreOp; no key twice */
    GHashTable *op_keys; /* borrowed from ops */
    size_t bytes;
    GError *error; /* the first broken limit */
};

typedef enum GwStoreRequestKind {
    GW_STORE_REQUEST_COMMIT,
    GW_STORE_REQUEST_RANGE,
    GW_STORE_REQUEST_LEASE_GRANT,
    GW_STORE_REQUEST_LEASE_KEEPALIVE,
    GW_STORE_REQUEST_LEASE_REVOKE,
} GwStoreRequestKind;

typedef struct GwStoreRequest {
    /* The question; constant once submitted. */
    GwStoreRequestKind kind;
    GwStoreTxn *txn; /* commit */
    char *prefix;    /* range */
    unsigned limit;
    int64_t lease;  /* keepalive, revoke */
    int64_t ttl_ms; /* grant */

    /* The answer; the backend's from submit to deliver. If error is set already, the request broke
     * a limit: it is only to be delivered in its turn. */
    GError *error;
    bool succeeded;         /* commit */
    int64_t revision;       /* commit, range */
    GPtrArray *entries;     /* range: GwStoreEntry */
    int64_t answered_lease; /* leases */
    int64_t answered_ttl_ms;

    /* Who waits; touched by store.c only. */
    bool wanted;
    union {
        GwStoreTxnFn txn;
        GwStoreRangeFn range;
        GwStoreLeaseFn lease;
    } callback;
    void *data;
} GwStoreRequest;

typedef struct GwStoreBackend {
    /* Begins to carry out @request (transfer full). Every request comes back once by
     * gw_store_deliver(), in the order of submission, never from inside this call. */
    void (*submit)(void *self, GwStoreRequest *request);
    /* Carries out what was submitted, delivers it, and releases @self. */
    void (*free)(void *self);
} GwStoreBackend;

/* @self goes to the functions of @backend. */
GwStore *gw_store_new(const GwStoreBackend *backend, void *self) GW_MUST_USE;

/*
 * Tells watches of @changes (GwStoreEntry, of one revision, each revision after the last one), then
 * calls the callback of @request. Either may be NULL: a change that no request made, a request that
 * changed nothing. Transfer full of both. A backend delivers the changes under every prefix;
 * store.c picks. The store may be freed inside: touch nothing of it afterwards.
 */
void gw_store_deliver(GwStore *store, GPtrArray *changes, GwStoreRequest *request);
