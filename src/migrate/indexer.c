// SPDX-License-Identifier: Apache-2.0
/*
 * One VM's disks after the other: indexes for later moves.
 *
 * Owns the list of VMs that it has seen running, those that wait, and the indexes that are being
 * made, which it looks at every LOOK_MS and lets go when they are done: what counts is the file
 * that they leave. Memory: of one VM's indexes, GW_REF_MAX_TABLE_BYTES at most. What fails is
 * told in the log by the index itself.
 */
#include "migrate/indexer.h"

#include "lane/image_cache.h"
#include "migrate/references.h"

#define LOOK_MS 1000

/* Disks are not read more often than that for moves that may never come. */
#define RECENT_S (24 * 3600)

/* A VM that runs here. */
typedef struct Known {
    GPtrArray *paths; /* of its disks */
    bool indexed;     /* in this run, or waiting for it */
    bool moving;      /* a move held it when it was last heard of */
} Known;

struct GwIndexer {
    GwVms *vms;
    GwVisits *visits; /* NULL: none */
    char *cache_folder;
    GHashTable *known; /* name → Known */
    GQueue waiting;    /* of names, owned */
    GwRefProbe *probe; /* NULL: none is under way */
    GwRefSource *indexes;
    guint look;
};

static void start_next(GwIndexer *indexer);

static void
known_free(void *data)
{
    Known *known = data;

    g_ptr_array_unref(known->paths);
    g_free(known);
}

static bool
is_building(GwRefSource *indexes)
{
    GwRefSourceFigures figures;

    for (unsigned i = 0; gw_ref_source_figures(indexes, i, &figures); i++) {
        if (figures.index.state == GW_IMAGE_INDEX_BUILDING) {
            return true;
        }
    }
    return false;
}

static gboolean
on_look(gpointer data)
{
    GwIndexer *indexer = data;

    if (is_building(indexer->indexes)) {
        return G_SOURCE_CONTINUE;
    }
    indexer->look = 0;
    g_clear_pointer(&indexer->indexes, gw_ref_source_free);
    start_next(indexer);
    return G_SOURCE_REMOVE;
}

static void
on_offers(json_t *offers, GwRefSource *source, void *data)
{
    GwIndexer *indexer = data;

    g_clear_pointer(&indexer->probe, gw_ref_probe_free);
    if (!source) {
        start_next(indexer);
        return;
    }
    indexer->indexes = source;
    indexer->look = g_timeout_add(LOOK_MS, on_look, indexer);
}

static void
start_next(GwIndexer *indexer)
{
    while (!indexer->probe && !indexer->indexes && !g_queue_is_empty(&indexer->waiting)) {
        g_autofree char *name = g_queue_pop_head(&indexer->waiting);
        GwVm *vm = gw_vms_find(indexer->vms, name);

        if (vm) {
            const GwRefProbeOptions options = {.definition = gw_vm_definition(vm),
                                               .index_folder = indexer->cache_folder,
                                               .recent_s = RECENT_S};

            indexer->probe = gw_ref_probe_source(&options, on_offers, indexer);
        }
    }
}

static Known *
know(GwIndexer *indexer, GwVm *vm)
{
    const GPtrArray *disks = gw_vm_definition(vm)->disks;
    Known *known = g_hash_table_lookup(indexer->known, gw_vm_name(vm));

    if (!known) {
        known = g_new0(Known, 1);
        g_hash_table_insert(indexer->known, g_strdup(gw_vm_name(vm)), known);
    } else {
        g_ptr_array_unref(known->paths);
    }
    known->paths = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(disks, i);

        g_ptr_array_add(known->paths, g_strdup(disk->path));
    }
    known->moving = gw_vm_held_by(vm) != NULL;
    return known;
}

static void
forget(GwIndexer *indexer, const char *name)
{
    const Known *known = g_hash_table_lookup(indexer->known, name);

    for (guint i = 0; known && !known->moving && i < known->paths->len; i++) {
        gw_image_cache_remove(indexer->cache_folder, g_ptr_array_index(known->paths, i));
    }
    if (indexer->visits && !(known && known->moving)) {
        gw_visits_forget(indexer->visits, name);
    }
    g_hash_table_remove(indexer->known, name);
}

void
gw_indexer_vm_changed(const char *name, GwVm *vm, void *data)
{
    GwIndexer *indexer = data;

    if (!vm) {
        forget(indexer, name);
        return;
    }
    Known *known = know(indexer, vm);

    if (gw_vm_state(vm) == GW_VM_RUNNING && !known->indexed) {
        known->indexed = true;
        g_queue_push_tail(&indexer->waiting, g_strdup(name));
        start_next(indexer);
    } else if (gw_vm_state(vm) == GW_VM_STOPPED) {
        known->indexed = false;
    }
}

bool
gw_indexer_is_idle(const GwIndexer *indexer)
{
    return !indexer->probe && !indexer->indexes;
}

GwIndexer *
gw_indexer_new(GwVms *vms, const char *cache_folder, GwVisits *visits)
{
    GwIndexer *indexer = g_new0(GwIndexer, 1);
    g_autoptr(GPtrArray) all = gw_vms_list(vms);

    indexer->vms = vms;
    indexer->visits = visits;
    indexer->cache_folder = g_strdup(cache_folder);
    indexer->known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, known_free);
    g_queue_init(&indexer->waiting);
    for (guint i = 0; i < all->len; i++) {
        GwVm *vm = g_ptr_array_index(all, i);

        gw_indexer_vm_changed(gw_vm_name(vm), vm, indexer);
    }
    return indexer;
}

void
gw_indexer_free(GwIndexer *indexer)
{
    if (!indexer) {
        return;
    }
    g_clear_handle_id(&indexer->look, g_source_remove);
    gw_ref_probe_free(indexer->probe);
    gw_ref_source_free(indexer->indexes);
    g_queue_clear_full(&indexer->waiting, g_free);
    g_hash_table_unref(indexer->known);
    g_free(indexer->cache_folder);
    g_free(indexer);
}
