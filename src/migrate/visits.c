// SPDX-License-Identifier: Apache-2.0
/*
 * The folder of visits.
 *
 * Owns the files; looks at them anew each time, as they are few. Names of VMs and hosts have no
 * '@' in them. A file that is in use when it is removed stays readable to who has it open. Errors
 * cost bytes at the next move and go to the log.
 */
#include "migrate/visits.h"

#include "base/log.h"
#include "base/units.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define PRUNE_S    600
#define FREE_SHARE 10u

#define PART ".part"

struct GwVisits {
    char *folder;
    uint64_t max_bytes;
    int64_t max_age_ms;
    guint timer;
};

typedef struct VisitFile {
    char *path;
    char *vm;
    char *rest; /* HOST@MOVE.suffix */
    uint64_t bytes;
    int64_t written_us;
} VisitFile;

static void
visit_file_free(void *data)
{
    VisitFile *file = data;

    g_free(file->path);
    g_free(file->vm);
    g_free(file->rest);
    g_free(file);
}

static VisitFile *
look_at(const char *folder, const char *name)
{
    const char *at = strchr(name, '@');
    struct stat st;

    if (!at) {
        return NULL;
    }
    g_autofree char *path = g_build_filename(folder, name, NULL);

    if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode)) {
        return NULL;
    }
    VisitFile *file = g_new0(VisitFile, 1);

    file->path = g_steal_pointer(&path);
    file->vm = g_strndup(name, (gsize)(at - name));
    file->rest = g_strdup(at + 1);
    file->bytes = (uint64_t)st.st_blocks * 512;
    file->written_us = st.st_mtim.tv_sec * G_USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
    return file;
}

/* Newest first, as that move began last. */
static int
compare_files(const void *a, const void *b)
{
    const VisitFile *first = *(VisitFile *const *)a;
    const VisitFile *second = *(VisitFile *const *)b;

    return (first->written_us < second->written_us) - (first->written_us > second->written_us);
}

/* Those of @vm, or all. */
static GPtrArray *
list_files(const char *folder, const char *vm)
{
    GPtrArray *files = g_ptr_array_new_with_free_func(visit_file_free);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        VisitFile *file = look_at(folder, name);

        if (file && (!vm || strcmp(file->vm, vm) == 0)) {
            g_ptr_array_add(files, file);
        } else if (file) {
            visit_file_free(file);
        }
    }
    g_ptr_array_sort(files, compare_files);
    return files;
}

static void
remove_file(const VisitFile *file)
{
    if (g_unlink(file->path) < 0 && errno != ENOENT) {
        gw_warn(&(GwLogFields){.vm = file->vm}, "cannot remove '%s': %s", file->path,
                g_strerror(errno));
    }
}

bool
gw_move_id_is_valid(const char *id)
{
    return strlen(id) == 14 && g_str_has_prefix(id, "m-") &&
           strspn(id + 2, "0123456789abcdef") == 12;
}

char *
gw_visits_path(const char *folder, const char *vm, const char *peer, const char *move,
               const char *suffix)
{
    g_autofree char *name = g_strdup_printf("%s@%s@%s%s", vm, peer, move, suffix);

    return g_build_filename(folder, name, NULL);
}

char *
gw_visits_find_tags(const char *folder, const char *vm, const char *peer)
{
    g_autoptr(GPtrArray) files = list_files(folder, vm);
    g_autofree char *prefix = g_strdup_printf("%s@", peer);

    for (guint i = 0; i < files->len; i++) {
        const VisitFile *file = g_ptr_array_index(files, i);

        if (g_str_has_prefix(file->rest, prefix) && g_str_has_suffix(file->rest, GW_VISITS_TAGS)) {
            size_t prefix_len = strlen(prefix);

            return g_strndup(file->rest + prefix_len,
                             strlen(file->rest) - prefix_len - strlen(GW_VISITS_TAGS));
        }
    }
    return NULL;
}

/* --- bounds ----------------------------------------------------------------------------------- */

/* Pages that are too old go, then the oldest until there is @room for more. */
static void
make_room(GwVisits *visits, uint64_t room)
{
    g_autoptr(GPtrArray) files = list_files(visits->folder, NULL);
    int64_t oldest_us = gw_wall_us() - visits->max_age_ms * 1000;
    uint64_t total = room;

    for (guint i = 0; i < files->len; i++) {
        const VisitFile *file = g_ptr_array_index(files, i);

        if (!g_str_has_suffix(file->rest, GW_VISITS_PAGES)) {
            continue;
        }
        total += file->bytes;
        if (total > visits->max_bytes || file->written_us < oldest_us) {
            remove_file(file);
            total -= file->bytes;
        }
    }
}

static bool
has_space(const GwVisits *visits, uint64_t bytes)
{
    struct statvfs fs;

    if (statvfs(visits->folder, &fs) < 0) {
        return false;
    }
    return (uint64_t)fs.f_bavail * fs.f_frsize >=
           bytes + (uint64_t)fs.f_blocks * fs.f_frsize / FREE_SHARE;
}

void
gw_visits_prune(GwVisits *visits)
{
    make_room(visits, 0);
}

static gboolean
on_prune(gpointer data)
{
    gw_visits_prune(data);
    return G_SOURCE_CONTINUE;
}

/* --- coming and going ------------------------------------------------------------------------- */

/* All files of @vm but those of @move (NULL: none). */
static void
forget_others(GwVisits *visits, const char *vm, const char *move)
{
    g_autoptr(GPtrArray) files = list_files(visits->folder, vm);
    g_autofree char *pattern = g_strdup_printf("@%s.", move ? move : "");

    for (guint i = 0; i < files->len; i++) {
        const VisitFile *file = g_ptr_array_index(files, i);

        if (!move || !strstr(file->rest, pattern)) {
            remove_file(file);
        }
    }
}

bool
gw_visits_keeps(const GwVisits *visits, uint64_t guest_bytes)
{
    return guest_bytes <= visits->max_bytes;
}

GwVisitWriter *
gw_visits_begin(GwVisits *visits, const char *vm, const char *peer, const char *move,
                uint64_t guest_bytes)
{
    g_autofree char *path = gw_visits_path(visits->folder, vm, peer, move, GW_VISITS_PAGES);
    g_autoptr(GError) error = NULL;

    if (!gw_visits_keeps(visits, guest_bytes)) {
        return NULL;
    }
    make_room(visits, guest_bytes);
    if (!has_space(visits, guest_bytes)) {
        gw_info(&(GwLogFields){.vm = vm},
                "its memory is not kept for its return: '%s' is nearly full", visits->folder);
        return NULL;
    }
    GwVisitWriter *writer = gw_visit_writer_new(path, &error);

    if (!writer) {
        gw_warn(&(GwLogFields){.vm = vm}, "its memory is not kept for its return: %s",
                error->message);
    }
    return writer;
}

void
gw_visits_left(GwVisits *visits, const char *vm, const char *move, GwVisitWriter *writer)
{
    forget_others(visits, vm, move);
    if (writer) {
        gw_visit_writer_keep(writer);
        gw_visit_writer_free(writer);
    }
}

typedef struct Saving {
    GwVisitTags *tags;
    char *path;
    char *vm;
} Saving;

static void
saving_free(void *data)
{
    Saving *saving = data;

    gw_visit_tags_free(saving->tags);
    g_free(saving->path);
    g_free(saving->vm);
    g_free(saving);
}

static void
save(GTask *task, gpointer source_object, gpointer data, GCancellable *cancellable)
{
    const Saving *saving = data;
    g_autoptr(GError) error = NULL;

    if (!gw_visit_tags_save(saving->tags, saving->path, &error)) {
        gw_warn(&(GwLogFields){.vm = saving->vm}, "all of it will be sent when it goes back: %s",
                error->message);
    }
    g_task_return_boolean(task, TRUE);
}

void
gw_visits_came(GwVisits *visits, const char *vm, const char *peer, const char *move,
               GwVisitTags *tags)
{
    forget_others(visits, vm, NULL);
    if (!tags) {
        return;
    }
    Saving *saving = g_new0(Saving, 1);

    saving->tags = tags;
    saving->path = gw_visits_path(visits->folder, vm, peer, move, GW_VISITS_TAGS);
    saving->vm = g_strdup(vm);
    g_autoptr(GTask) task = g_task_new(NULL, NULL, NULL, NULL);

    g_task_set_task_data(task, saving, saving_free);
    g_task_run_in_thread(task, save);
}

void
gw_visits_forget(GwVisits *visits, const char *vm)
{
    forget_others(visits, vm, NULL);
}

/* --- life ------------------------------------------------------------------------------------- */

const char *
gw_visits_folder(const GwVisits *visits)
{
    return visits->folder;
}

static void
remove_parts(const GwVisits *visits)
{
    g_autoptr(GPtrArray) files = list_files(visits->folder, NULL);

    for (guint i = 0; i < files->len; i++) {
        const VisitFile *file = g_ptr_array_index(files, i);

        if (g_str_has_suffix(file->rest, PART)) {
            remove_file(file);
        }
    }
}

GwVisits *
gw_visits_new(const GwVisitsOptions *options)
{
    GwVisits *visits = g_new0(GwVisits, 1);

    visits->folder = g_strdup(options->folder);
    visits->max_bytes = options->max_bytes;
    visits->max_age_ms = options->max_age_ms;
    remove_parts(visits);
    gw_visits_prune(visits);
    visits->timer = g_timeout_add_seconds(PRUNE_S, on_prune, visits);
    return visits;
}

void
gw_visits_free(GwVisits *visits)
{
    if (visits) {
        g_clear_handle_id(&visits->timer, g_source_remove);
        g_free(visits->folder);
        g_free(visits);
    }
}
