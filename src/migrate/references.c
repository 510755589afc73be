// SPDX-License-Identifier: Apache-2.0
/*
 * Offering disk images, and looking at what was offered.
 *
 * A worker (GTask) owns the task with everything in it: names and paths of the disks, the images
 * that it opens, and its result until that is handed over. Memory: 1 MiB per image; the tables of
 * indexes share GW_REF_MAX_TABLE_BYTES. An image that cannot be opened or is another one is left
 * out, with a line in the debug log: the move goes on without it.
 */
#include "migrate/references.h"

#include "base/log.h"
#include "lane/image_cache.h"

#include <gio/gio.h>
#include <string.h>

typedef struct Disk {
    char *name;
    char *path;
    char *format;
} Disk;

typedef struct Task {
    GPtrArray *disks; /* of Disk */
    char *vm;
    char *peer;
    char *visits_folder; /* NULL: no visits */
    char *index_folder;  /* source */
    uint64_t guest_bytes;
    int64_t recent_s;
    json_t *offers; /* source: result; target: what came */
    json_t *taken;  /* target: result */
    GwRefSource *source;
    GwRefTarget *images;
} Task;

struct GwRefProbe {
    GCancellable *cancellable;
    GwRefOffersFn on_offers;
    GwRefTakenFn on_taken;
    void *data;
};

static void
disk_free(void *data)
{
    Disk *disk = data;

    g_free(disk->name);
    g_free(disk->path);
    g_free(disk->format);
    g_free(disk);
}

static void
task_free(void *data)
{
    Task *task = data;

    g_ptr_array_unref(task->disks);
    gw_ref_source_free(task->source);
    gw_ref_target_free(task->images);
    json_decref(task->offers);
    json_decref(task->taken);
    g_free(task->index_folder);
    g_free(task->visits_folder);
    g_free(task->peer);
    g_free(task->vm);
    g_free(task);
}

static void
tell_left_out(const Task *task, const char *disk, const GError *error)
{
    gw_debug(&(GwLogFields){.vm = task->vm}, "no references to disk '%.40s': %s", disk,
             error->message);
}

/* --- source ----------------------------------------------------------------------------------- */

/* For who wants indexes only: there is one that will do. */
static bool
is_recent(const Task *task, const char *path)
{
    return task->recent_s > 0 && task->index_folder &&
           gw_image_cache_is_recent(task->index_folder, path, task->recent_s);
}

/* One file, unless another disk has it, too. */
static bool
offer_file(Task *task, GHashTable *seen, const Disk *disk, const GwImage *chain, unsigned layer,
           GError **error)
{
    const char *path = gw_image_layer_path(chain, layer);
    const char *format = gw_image_layer_format(chain, layer);
    GwRefOffer offer;

    if (!g_hash_table_add(seen, g_strdup(path)) || is_recent(task, path)) {
        return true;
    }
    g_autoptr(GwImage) image = gw_image_open(path, format, error);

    if (!image || !gw_ref_source_add(task->source, path, format, error)) {
        return false;
    }
    gw_ref_offer_make(image, &offer);
    json_t *object = gw_ref_offer_to_json(&offer);

    gw_json_set_str(object, "disk", disk->name);
    gw_json_set_int(object, "layer", layer);
    json_array_append_new(task->offers, object);
    return true;
}

static bool
offer_disk(Task *task, GHashTable *seen, const Disk *disk, GError **error)
{
    g_autoptr(GwImage) chain = gw_image_open(disk->path, disk->format, error);

    for (unsigned layer = 0; chain && layer < gw_image_n_layers(chain); layer++) {
        if (!offer_file(task, seen, disk, chain, layer, error)) {
            return false;
        }
    }
    return chain != NULL;
}

/* The memory that the VM had when it came, if it came from there. */
static bool
offer_visit(Task *task, GError **error)
{
    g_autofree char *move =
        task->visits_folder ? gw_visits_find_tags(task->visits_folder, task->vm, task->peer) : NULL;

    if (!move) {
        return true;
    }
    g_autofree char *path =
        gw_visits_path(task->visits_folder, task->vm, task->peer, move, GW_VISITS_TAGS);
    GwVisitTags *tags = gw_visit_tags_load(path, gw_visit_tags_max_bytes(task->guest_bytes), error);

    if (!tags || !gw_ref_source_add_visit(task->source, tags, error)) {
        return false;
    }
    json_array_append_new(task->offers, json_pack("{s:s}", "visit", move));
    return true;
}

static void
offer_all(Task *task)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    const GwRefSourceOptions options = {
        .cache_folder = task->index_folder,
        .max_table_bytes = GW_REF_MAX_TABLE_BYTES / MAX(task->disks->len, 1),
        .is_awaited = task->recent_s == 0,
    };

    task->offers = json_array();
    task->source = gw_ref_source_new(&options);
    for (guint i = 0; i < task->disks->len; i++) {
        const Disk *disk = g_ptr_array_index(task->disks, i);
        g_autoptr(GError) error = NULL;

        if (!offer_disk(task, seen, disk, &error)) {
            tell_left_out(task, disk->name, error);
        }
    }
    g_autoptr(GError) error = NULL;

    if (!offer_visit(task, &error)) {
        gw_debug(&(GwLogFields){.vm = task->vm}, "no references to its earlier visit: %s",
                 error->message);
    }
    if (json_array_size(task->offers) == 0) {
        g_clear_pointer(&task->source, gw_ref_source_free);
    }
}

/* --- target ----------------------------------------------------------------------------------- */

static const Disk *
find_disk(const Task *task, const char *name)
{
    for (guint i = 0; i < task->disks->len; i++) {
        const Disk *disk = g_ptr_array_index(task->disks, i);

        if (strcmp(disk->name, name) == 0) {
            return disk;
        }
    }
    return NULL;
}

/* What this host has in the offered image's place; NULL with an error. */
static GwImage *
image_in_place(const Task *task, const char *name, int64_t layer, GError **error)
{
    const Disk *disk = find_disk(task, name);

    if (!disk) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "the VM has no such disk");
        return NULL;
    }
    g_autoptr(GwImage) chain = gw_image_open(disk->path, disk->format, error);

    if (!chain || layer == 0) {
        return g_steal_pointer(&chain);
    }
    if (layer >= gw_image_n_layers(chain)) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "here it has %u files, no more",
                    gw_image_n_layers(chain));
        return NULL;
    }
    return gw_image_open(gw_image_layer_path(chain, (unsigned)layer),
                         gw_image_layer_format(chain, (unsigned)layer), error);
}

/* The pages that this host kept when the VM left for the peer. */
static bool
take_visit(Task *task, const char *move, unsigned number, GError **error)
{
    if (!task->visits_folder || !gw_move_id_is_valid(move)) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "there are no visits of this kind");
        return false;
    }
    g_autofree char *path =
        gw_visits_path(task->visits_folder, task->vm, task->peer, move, GW_VISITS_PAGES);
    GwImage *image = gw_image_open(path, "raw", error);

    if (image) {
        gw_ref_target_set_image(task->images, number, image);
        json_array_append_new(task->taken, json_integer(number));
    }
    return image != NULL;
}

static bool
take_offer(Task *task, const json_t *object, unsigned number, GError **error)
{
    const char *visit = gw_json_str(object, "visit", NULL);
    GwRefOffer offer;
    const char *name;
    int64_t layer;

    if (visit) {
        return take_visit(task, visit, number, error);
    }
    if (!gw_json_need_string(object, "disk", &name, error) ||
        !gw_json_need_int(object, "layer", 0, GW_IMAGE_MAX_LAYERS - 1, &layer, error) ||
        !gw_ref_offer_from_json(object, &offer, error)) {
        return false;
    }
    g_autoptr(GwImage) image = image_in_place(task, name, layer, error);

    if (!image || !gw_ref_offer_check(&offer, image, error)) {
        return false;
    }
    gw_ref_target_set_image(task->images, number, g_steal_pointer(&image));
    json_array_append_new(task->taken, json_integer(number));
    return true;
}

static void
take_all(Task *task)
{
    size_t i;
    json_t *offer;

    task->taken = json_array();
    task->images = gw_ref_target_new();
    json_array_foreach(task->offers, i, offer)
    {
        g_autoptr(GError) error = NULL;

        if (i < GW_REF_MAX_IMAGES && !take_offer(task, offer, (unsigned)i, &error)) {
            tell_left_out(task, gw_json_str(offer, "disk", "?"), error);
        }
    }
    if (json_array_size(task->taken) == 0) {
        g_clear_pointer(&task->images, gw_ref_target_free);
    }
}

/* --- both ------------------------------------------------------------------------------------- */

static void
work(GTask *gtask, gpointer source_object, gpointer data, GCancellable *cancellable)
{
    Task *task = data;

    if (task->offers) {
        take_all(task);
    } else {
        offer_all(task);
    }
    g_task_return_boolean(gtask, TRUE);
}

static void
on_done(GObject *object, GAsyncResult *result, gpointer data)
{
    GTask *gtask = G_TASK(result);
    Task *task = g_task_get_task_data(gtask);
    GwRefProbe *probe = data;

    if (g_cancellable_is_cancelled(g_task_get_cancellable(gtask))) {
        return; /* the probe is gone */
    }
    if (probe->on_taken) {
        probe->on_taken(task->taken, g_steal_pointer(&task->images), probe->data);
    } else {
        probe->on_offers(task->offers, g_steal_pointer(&task->source), probe->data);
    }
}

/* @offers: NULL for the source. */
static GwRefProbe *
start(const GwRefProbeOptions *options, const json_t *offers, const GwRefProbe *callbacks)
{
    const GwDefinition *definition = options->definition;
    GwRefProbe *probe = g_memdup2(callbacks, sizeof(*callbacks));
    Task *task = g_new0(Task, 1);

    task->vm = g_strdup(definition->name);
    task->guest_bytes = definition->memory_bytes;
    task->peer = g_strdup(options->peer);
    task->visits_folder = g_strdup(options->visits_folder);
    task->index_folder = g_strdup(options->index_folder);
    task->recent_s = options->recent_s;
    task->offers = json_deep_copy(offers);
    task->disks = g_ptr_array_new_with_free_func(disk_free);
    for (guint i = 0; i < definition->disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(definition->disks, i);
        Disk *copy = g_new0(Disk, 1);

        *copy = (Disk){g_strdup(disk->name), g_strdup(disk->path), g_strdup(disk->format)};
        g_ptr_array_add(task->disks, copy);
    }
    probe->cancellable = g_cancellable_new();
    GTask *gtask = g_task_new(NULL, probe->cancellable, on_done, probe);
    g_task_set_check_cancellable(gtask, FALSE);
    g_task_set_task_data(gtask, task, task_free);
    g_task_run_in_thread(gtask, work);
    g_object_unref(gtask);
    return probe;
}

GwRefProbe *
gw_ref_probe_source(const GwRefProbeOptions *options, GwRefOffersFn callback, void *data)
{
    return start(options, NULL, &(GwRefProbe){.on_offers = callback, .data = data});
}

GwRefProbe *
gw_ref_probe_target(const GwRefProbeOptions *options, const json_t *offers, GwRefTakenFn callback,
                    void *data)
{
    return start(options, offers, &(GwRefProbe){.on_taken = callback, .data = data});
}

void
gw_ref_probe_free(GwRefProbe *probe)
{
    if (probe) {
        g_cancellable_cancel(probe->cancellable);
        g_object_unref(probe->cancellable);
        g_free(probe);
    }
}
