// SPDX-License-Identifier: Apache-2.0
#include "support.h"

#include "base/fd.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

static gboolean
on_watchdog(void *what)
{
    g_error("waited too long for %s", (const char *)what);
    return G_SOURCE_REMOVE;
}

guint
watchdog_start(const char *what)
{
    return g_timeout_add_seconds(60, on_watchdog, (void *)what);
}

static void
remove_tree(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *entry = g_build_filename(path, name, NULL);
        if (g_file_test(entry, G_FILE_TEST_IS_DIR) && !g_file_test(entry, G_FILE_TEST_IS_SYMLINK)) {
            remove_tree(entry);
        } else {
            g_unlink(entry);
        }
    }
    g_rmdir(path);
}

char *
test_folder_new(void)
{
    g_autoptr(GError) error = NULL;
    char *folder = g_dir_make_tmp("gw-migrate-XXXXXX", &error);

    g_assert_no_error(error);
    g_assert_cmpint(g_chmod(folder, 0711), ==, 0);
    return folder;
}

void
test_folder_free(char *folder)
{
    remove_tree(folder);
    g_free(folder);
}

/* --- a store in memory ------------------------------------------------------------------------ */

static void
apply(FakeStore *fake, const GwStoreTxn *txn)
{
    for (unsigned i = 0; i < txn->ops->len; i++) {
        const GwStoreOp *op = g_ptr_array_index(txn->ops, i);
        if (op->value) {
            size_t len = 0;
            const char *text = g_bytes_get_data(op->value, &len);
            g_hash_table_insert(fake->values, g_strdup(op->key), g_strndup(text, len));
        } else {
            g_hash_table_remove(fake->values, op->key);
        }
    }
}

static int
compare_entries(const void *a, const void *b)
{
    const GwStoreEntry *first = *(GwStoreEntry *const *)a;
    const GwStoreEntry *second = *(GwStoreEntry *const *)b;

    return strcmp(first->key, second->key);
}

static GPtrArray *
entries_below(FakeStore *fake, const char *prefix)
{
    GPtrArray *entries = g_ptr_array_new_with_free_func((GDestroyNotify)gw_store_entry_free);
    GHashTableIter iter;
    void *key, *value;

    g_hash_table_iter_init(&iter, fake->values);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        if (g_str_has_prefix(key, prefix)) {
            GwStoreEntry *entry = g_new0(GwStoreEntry, 1);
            entry->key = g_strdup(key);
            entry->value = g_bytes_new(value, strlen(value));
            g_ptr_array_add(entries, entry);
        }
    }
    g_ptr_array_sort(entries, compare_entries);
    return entries;
}

void
fake_store_answer(FakeStore *fake, bool fail)
{
    GwStoreRequest *request = g_queue_pop_head(&fake->pending);

    g_assert_nonnull(request);
    if (fail && !request->error) {
        request->error = g_error_new(GW_ERROR, GW_ERROR_IO, "store: the disk is full");
    }
    if (!request->error && request->kind == GW_STORE_REQUEST_COMMIT) {
        apply(fake, request->txn);
        request->succeeded = true;
    } else if (!request->error) {
        g_assert_cmpint(request->kind, ==, GW_STORE_REQUEST_RANGE);
        request->entries = entries_below(fake, request->prefix);
    }
    gw_store_deliver(fake->store, NULL, request);
}

void
fake_store_answer_all(FakeStore *fake)
{
    while (!g_queue_is_empty(&fake->pending)) {
        const GwStoreRequest *next = g_queue_peek_head(&fake->pending);
        fake_store_answer(fake, fake->full && next->kind == GW_STORE_REQUEST_COMMIT);
    }
}

static gboolean
on_idle(void *data)
{
    FakeStore *fake = data;

    fake->idle = 0;
    fake_store_answer_all(fake);
    return G_SOURCE_REMOVE;
}

static void
fake_submit(void *self, GwStoreRequest *request)
{
    FakeStore *fake = self;

    fake->commits += request->kind == GW_STORE_REQUEST_COMMIT;
    g_queue_push_tail(&fake->pending, request);
    if (!fake->manual && fake->idle == 0) {
        fake->idle = g_idle_add(on_idle, fake);
    }
}

static void
fake_close(void *self)
{
    fake_store_answer_all(self);
}

FakeStore *
fake_store_new(void)
{
    static const GwStoreBackend backend = {.submit = fake_submit, .free = fake_close};
    FakeStore *fake = g_new0(FakeStore, 1);

    fake->values = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_queue_init(&fake->pending);
    fake->store = gw_store_new(&backend, fake);
    return fake;
}

void
fake_store_free(FakeStore *fake)
{
    gw_store_free(fake->store);
    g_clear_handle_id(&fake->idle, g_source_remove);
    g_hash_table_unref(fake->values);
    g_free(fake);
}

char *
fake_store_pending_text(FakeStore *fake, const char *key)
{
    const GwStoreRequest *request = g_queue_peek_head(&fake->pending);

    if (!request || request->kind != GW_STORE_REQUEST_COMMIT) {
        return NULL;
    }
    for (unsigned i = 0; i < request->txn->ops->len; i++) {
        const GwStoreOp *op = g_ptr_array_index(request->txn->ops, i);
        if (op->value && strcmp(op->key, key) == 0) {
            size_t len = 0;
            const char *text = g_bytes_get_data(op->value, &len);
            return g_strndup(text, len);
        }
    }
    return NULL;
}

json_t *
fake_store_record(FakeStore *fake, const char *id)
{
    g_autofree char *key = g_strdup_printf("move/%s", id);
    const char *text = g_hash_table_lookup(fake->values, key);

    return text ? gw_json_parse(text, strlen(text), GW_STORE_MAX_VALUE_BYTES, key, NULL) : NULL;
}

static void
on_moves_loaded(json_t *value, const GError *error, void *data)
{
    g_assert_no_error(error);
    *(bool *)data = true;
}

GwMoves *
moves_load(const GwMovesOptions *options, const GwHostCaps *caps)
{
    bool loaded = false;
    GwMoves *moves = gw_moves_new(options, on_moves_loaded, &loaded);

    gw_moves_set_caps(moves, caps);
    WAIT_FOR(loaded);
    return moves;
}

static void
on_told(json_t *object, const GError *error, void *data)
{
    *(Told *)data = (Told){true, json_incref(object), error ? g_error_copy(error) : NULL};
}

void
told_clear(Told *told)
{
    json_decref(told->object);
    g_clear_error(&told->error);
}

Told
abandon(GwMoves *moves, const char *id, bool peer_is_off)
{
    Told told = {0};

    gw_moves_abandon(moves, id, peer_is_off, on_told, &told);
    WAIT_FOR(told.done);
    return told;
}

/* --- a host without QEMU ---------------------------------------------------------------------- */

static void
on_vms_loaded(GwVm *vm, const GError *error, void *data)
{
    g_assert_no_error(error);
    *(bool *)data = true;
}

static GwLane *
no_connection(const char *host, const GwLaneWishes *wishes, const GwLaneHandlers *handlers,
              void *data, void *network, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND, "host '%s' is not known", host);
    return NULL;
}

static const char *
no_address(const char *host, void *network)
{
    return NULL;
}

static void
bench_load(Bench *bench, void (*change)(GwMovesOptions *options))
{
    const GwVmsOptions vms_options = {
        .store = bench->fake->store,
        .host_name = "alpha",
        .run_dir = bench->folder,
        .state_dir = bench->folder,
    };
    GwMovesOptions options = {
        .store = bench->fake->store,
        .host_name = "alpha",
        .run_dir = bench->folder,
        .network = {no_connection, no_address, NULL},
        .max_history = 1000,
        .max_incoming = 4,
    };
    bool vms_loaded = false;

    if (change) {
        change(&options);
    }
    bench->vms = gw_vms_new(&vms_options, on_vms_loaded, &vms_loaded);
    WAIT_FOR(vms_loaded);
    options.vms = bench->vms;
    bench->moves = moves_load(&options, NULL);
}

void
bench_init(Bench *bench, void (*change)(GwMovesOptions *options))
{
    *bench = (Bench){.folder = test_folder_new(), .fake = fake_store_new()};
    bench_load(bench, change);
}

static void
bench_unload(Bench *bench)
{
    g_clear_pointer(&bench->moves, gw_moves_free);
    g_clear_pointer(&bench->vms, gw_vms_free);
}

void
bench_clear(Bench *bench)
{
    bench_unload(bench);
    fake_store_free(bench->fake);
    test_folder_free(bench->folder);
}

void
bench_restart(Bench *bench)
{
    bench_unload(bench);
    bench_load(bench, NULL);
}
