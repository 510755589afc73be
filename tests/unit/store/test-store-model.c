// SPDX-License-Identifier: Apache-2.0
/*
 * The SQLite store against a model of a few lines: random transactions, ranges, grants and revokes,
 * many under way at once, with restarts between. The model predicts every answer when the request
 * is made; a replica fed only by a watch has to end up equal. Repeat a failure with --seed.
 */
#include "support.h"

#include <string.h>

#define KEYS               6
#define LEASES             3
#define ROUNDS             60
#define REQUESTS_PER_ROUND 40

typedef struct ModelKey {
    int64_t create_revision; /* 0: does not exist */
    int64_t mod_revision;
    int64_t version;
    int64_t lease;
    char value[8];
} ModelKey;

typedef struct Model {
    int64_t revision;
    ModelKey keys[KEYS];
} Model;

/* A request under way, with the answer that the model gave. */
typedef struct Expectation {
    Outcome outcome;
    bool is_txn;
    bool missing_lease;
    bool succeeded;
    Model after;
} Expectation;

static const char *const key_names[KEYS] = {"a", "a/b", "a/c", "a0", "b", "b%"};

typedef struct World {
    GwStore *store;
    Model model;
    Model replica;
    int64_t leases[LEASES]; /* 0: none */
    GPtrArray *under_way;   /* Expectation */
} World;

static void
expectation_free(void *data)
{
    Expectation *expectation = data;

    outcome_clear(&expectation->outcome);
    g_free(expectation);
}

/* --- the model -------------------------------------------------------------------------------- */

static void
model_put(Model *model, int key, const char *value, int64_t lease)
{
    ModelKey *at = &model->keys[key];

    at->mod_revision = model->revision;
    at->create_revision = at->create_revision ? at->create_revision : model->revision;
    at->version++;
    at->lease = lease;
    g_strlcpy(at->value, value, sizeof at->value);
}

/* Adds a random compare; whether it holds. */
static bool
random_compare(const Model *model, GwStoreTxn *txn)
{
    const int key = g_test_rand_int_range(0, KEYS);
    const ModelKey *at = &model->keys[key];

    if (g_test_rand_bit()) {
        const int64_t revision = at->mod_revision - (g_test_rand_int_range(0, 4) == 0);
        gw_store_txn_if_revision(txn, key_names[key], MAX(revision, 0));
        return MAX(revision, 0) == at->mod_revision;
    }
    const char *value = g_test_rand_int_range(0, 4) ? at->value : "other";
    gw_store_txn_if_value(txn, key_names[key], value, strlen(value));
    return at->create_revision && strcmp(value, at->value) == 0;
}

/* Adds a random operation on @key, and to @model what it does; false: its lease is gone. */
static bool
random_op(World *world, Model *model, int key, GwStoreTxn *txn)
{
    const int choice = g_test_rand_int_range(0, 10);
    char value[8];

    g_snprintf(value, sizeof value, "%d", g_test_rand_int_range(0, 1000));
    if (choice < 3) {
        gw_store_txn_delete(txn, key_names[key]);
        model->keys[key] = (ModelKey){0};
        return true;
    }
    int64_t lease = choice < 6 ? world->leases[g_test_rand_int_range(0, LEASES)] : 0;
    const bool gone = g_test_rand_int_range(0, 40) == 0;
    lease = gone ? 1000000 : lease;
    gw_store_txn_put_lease(txn, key_names[key], value, strlen(value), lease);
    model_put(model, key, value, lease);
    return !gone;
}

static bool
models_equal(const Model *left, const Model *right, bool revision_too)
{
    for (int key = 0; key < KEYS; key++) {
        const ModelKey *l = &left->keys[key];
        const ModelKey *r = &right->keys[key];
        if (l->create_revision != r->create_revision || l->mod_revision != r->mod_revision ||
            l->version != r->version || l->lease != r->lease || strcmp(l->value, r->value) != 0) {
            return false;
        }
    }
    return !revision_too || left->revision == right->revision;
}

/* --- requests --------------------------------------------------------------------------------- */

static Expectation *
expect(World *world)
{
    Expectation *expectation = g_new0(Expectation, 1);

    g_ptr_array_add(world->under_way, expectation);
    return expectation;
}

static void
random_txn(World *world)
{
    Expectation *expectation = expect(world);
    GwStoreTxn *txn = gw_store_txn_new();
    Model changed = world->model;
    bool holds = true;
    bool leases_exist = true;

    for (int n = g_test_rand_int_range(0, 3); n > 0; n--) {
        holds &= random_compare(&world->model, txn);
    }
    changed.revision++;
    for (int key = 0; key < KEYS; key++) {
        if (g_test_rand_int_range(0, 3) == 0) {
            leases_exist &= random_op(world, &changed, key, txn);
        }
    }
    if (holds && leases_exist && !models_equal(&changed, &world->model, false)) {
        world->model = changed;
    }
    expectation->is_txn = true;
    expectation->succeeded = holds;
    expectation->missing_lease = holds && !leases_exist;
    expectation->after = world->model;
    gw_store_commit(world->store, txn, outcome_of_txn, &expectation->outcome);
}

static void
full_range(World *world)
{
    Expectation *expectation = expect(world);

    expectation->after = world->model;
    gw_store_range(world->store, "", 0, outcome_of_range, &expectation->outcome);
}

static void
revoke_slot(World *world, int slot)
{
    const int64_t lease = world->leases[slot];
    bool any = false;

    for (int key = 0; lease && key < KEYS; key++) {
        if (world->model.keys[key].lease == lease) {
            world->model.keys[key] = (ModelKey){0};
            any = true;
        }
    }
    world->model.revision += any;
    world->leases[slot] = 0;
    gw_store_lease_revoke(world->store, lease, NULL, NULL);
}

/* --- checks ----------------------------------------------------------------------------------- */

static Model
model_of(const GPtrArray *entries, int64_t revision)
{
    Model model = {.revision = revision};
    int key = 0;

    for (unsigned i = 0; i < entries->len; i++, key++) {
        const GwStoreEntry *entry = entries->pdata[i];
        while (strcmp(key_names[key], entry->key) != 0) {
            key++;
            g_assert_cmpint(key, <, KEYS);
        }
        ModelKey *at = &model.keys[key];
        size_t len;
        const char *value = g_bytes_get_data(entry->value, &len);
        g_assert_cmpuint(len, <, sizeof at->value);
        memcpy(at->value, value, len);
        at->create_revision = entry->create_revision;
        at->mod_revision = entry->mod_revision;
        at->version = entry->version;
        at->lease = entry->lease;
    }
    return model;
}

static void
follow(const GwStoreEntry *entry, void *data)
{
    World *world = data;
    int key = 0;

    g_assert_cmpint(entry->mod_revision, >=, world->replica.revision);
    world->replica.revision = entry->mod_revision;
    while (strcmp(key_names[key], entry->key) != 0) {
        g_assert_cmpint(++key, <, KEYS);
    }
    world->replica.keys[key] = (ModelKey){0};
    if (entry->value) {
        GPtrArray one = {.pdata = (void *[]){(void *)entry}, .len = 1};
        world->replica.keys[key] = model_of(&one, 0).keys[key];
    }
}

static void
check(const Expectation *expectation)
{
    const Outcome *outcome = &expectation->outcome;

    g_assert_true(outcome->done);
    if (expectation->missing_lease) {
        g_assert_error(outcome->error, GW_ERROR, GW_ERROR_NOT_FOUND);
        return;
    }
    g_assert_no_error(outcome->error);
    g_assert_cmpint(outcome->revision, ==, expectation->after.revision);
    if (expectation->is_txn) {
        g_assert_true(outcome->succeeded == expectation->succeeded);
    } else {
        const Model found = model_of(outcome->entries, outcome->revision);
        g_assert_true(models_equal(&found, &expectation->after, true));
    }
}

static void
settle(World *world)
{
    full_range(world);
    const Expectation *last = world->under_way->pdata[world->under_way->len - 1];
    test_wait(&last->outcome.done);
    for (unsigned i = 0; i < world->under_way->len; i++) {
        check(world->under_way->pdata[i]);
    }
    g_ptr_array_set_size(world->under_way, 0);
    g_assert_true(models_equal(&world->replica, &world->model, true));
}

static void
play_round(World *world)
{
    for (int slot = 0; slot < LEASES; slot++) {
        if (!world->leases[slot]) {
            g_auto(Outcome) grant = test_grant(world->store, 3600000);
            g_assert_no_error(grant.error);
            world->leases[slot] = grant.lease;
        }
    }
    for (int i = 0; i < REQUESTS_PER_ROUND; i++) {
        const int choice = g_test_rand_int_range(0, 30);
        if (choice == 0) {
            revoke_slot(world, g_test_rand_int_range(0, LEASES));
        } else if (choice < 4) {
            full_range(world);
        } else {
            random_txn(world);
        }
    }
    settle(world);
}

static void
test_model(void)
{
    char *folder = test_folder_new();
    World world = {.model = {.revision = 1}, .replica = {.revision = 1}};

    world.under_way = g_ptr_array_new_with_free_func(expectation_free);
    world.store = test_store_open(folder);
    GwStoreWatch *watch = gw_store_watch(world.store, "", follow, &world);
    for (int round = 0; round < ROUNDS; round++) {
        play_round(&world);
        if (round % 10 == 9) {
            gw_store_free(world.store);
            gw_store_watch_stop(watch);
            world.store = test_store_open(folder);
            watch = gw_store_watch(world.store, "", follow, &world);
        }
    }
    gw_store_watch_stop(watch);
    gw_store_free(world.store);
    g_ptr_array_unref(world.under_way);
    test_folder_free(folder);
    g_test_message("%d requests, revision %" G_GINT64_FORMAT, ROUNDS * REQUESTS_PER_ROUND,
                   world.model.revision);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store-model/random", test_model);
    return g_test_run();
}
