// SPDX-License-Identifier: Apache-2.0
/*
 * Hashes of a guest's memory, see ram_hash.h.
 *
 * Owns the file in memory (memfd) that QEMU writes to, which QEMU opens anew by its own number for
 * it: that needs no path that both can see, and no right, as such a file is open to everybody who
 * has a descriptor. Main context; the hashing runs in a worker thread of GIO, on a descriptor of
 * its own. Limits: ram_hash.h. QEMU that refuses, or writes less than it was asked for, is an
 * error; one that does not answer is left to the state's timer.
 */
#include "migrate/ram_hash.h"

#include "base/fd.h"

#include <errno.h>
#include <gio/gio.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#define READ_BYTES (256u * 1024u)

typedef struct Job {
    GwRamHash *owner; /* NULL when it is gone */
    GwFd fd;
    GwRamHashRequest request;
} Job;

struct GwRamHash {
    GwMove *move;
    GwRamHashReadyFn ready;
    void *ready_data;
    GwRamHashDoneFn done; /* NULL: none is asked for */
    void *done_data;
    GPtrArray *ranges; /* NULL until ready */
    GwRamHashRequest request;
    GwFd fd;
    int64_t qemu_set; /* QEMU's numbers of the file; -1: it has none */
    int64_t qemu_fd;
    GError *failure; /* QEMU did not take the file */
    Job *job;
};

unsigned
gw_ram_hash_units(const GwRamHashRequest *request)
{
    return (unsigned)((request->bytes + request->unit_bytes - 1) / request->unit_bytes);
}

/* --- the worker ------------------------------------------------------------------------------- */

static void
job_free(void *data)
{
    Job *job = data;

    gw_fd_close(job->fd);
    g_free(job);
}

static bool
hash_unit(Job *job, XXH3_state_t *state, uint64_t at, uint8_t *out)
{
    g_autofree uint8_t *buffer = g_malloc(READ_BYTES);
    uint64_t end = MIN(at + job->request.unit_bytes, job->request.bytes);
    XXH128_canonical_t canonical;

    XXH3_128bits_reset_withSeed(state, job->request.seed);
    while (at < end) {
        ssize_t n = pread(job->fd, buffer, MIN(end - at, READ_BYTES), (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        XXH3_128bits_update(state, buffer, (size_t)n);
        at += (uint64_t)n;
    }
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(out, canonical.digest, GW_RAM_HASH_BYTES);
    return true;
}

static void
work(GTask *task, gpointer source_object, gpointer data, GCancellable *cancellable)
{
    Job *job = data;
    unsigned n = gw_ram_hash_units(&job->request);
    g_autofree uint8_t *hashes = g_malloc(n * GW_RAM_HASH_BYTES);
    XXH3_state_t *state = XXH3_createState();
    bool good = state != NULL;

    for (unsigned i = 0; i < n && good; i++) {
        good = hash_unit(job, state, i * job->request.unit_bytes, hashes + i * GW_RAM_HASH_BYTES);
    }
    XXH3_freeState(state);
    if (good) {
        g_task_return_pointer(task,
                              g_bytes_new_take(g_steal_pointer(&hashes), n * GW_RAM_HASH_BYTES),
                              (GDestroyNotify)g_bytes_unref);
    } else {
        g_task_return_new_error(task, GW_ERROR, GW_ERROR_PROTOCOL,
                                "QEMU gave less of the guest's memory than it was asked for");
    }
}

static void
report(GwRamHash *hash, GBytes *hashes, const GError *error)
{
    GwRamHashDoneFn done = hash->done;

    hash->done = NULL;
    done(hashes, error, hash->done_data);
}

static void
on_hashed(GObject *object, GAsyncResult *result, gpointer data)
{
    Job *job = g_task_get_task_data(G_TASK(result));
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) hashes = g_task_propagate_pointer(G_TASK(result), &error);

    if (job->owner) {
        job->owner->job = NULL;
        report(job->owner, hashes, error);
    }
}

static void
on_saved(json_t *answer, const GError *error, void *data)
{
    GwRamHash *hash = data;
    g_autoptr(GError) failure = error ? g_error_copy(error) : NULL;
    g_auto(GwFd) fd = failure ? GW_FD_NONE : dup(hash->fd);

    if (!failure && fd < 0) {
        gw_set_error_errno(&failure, errno, "cannot read the copy of the guest's memory");
    }
    if (failure) {
        report(hash, NULL, failure);
        return;
    }
    hash->job = g_new0(Job, 1);
    *hash->job = (Job){hash, g_steal_fd(&fd), hash->request};
    g_autoptr(GTask) task = g_task_new(NULL, NULL, on_hashed, NULL);
    g_task_set_task_data(task, hash->job, job_free);
    g_task_run_in_thread(task, work);
}

bool
gw_ram_hash_ask(GwRamHash *hash, const GwRamHashRequest *request, GwRamHashDoneFn done, void *data,
                GError **error)
{
    GwQmp *qmp = gw_move_qmp(hash->move);

    if (!qmp) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE, "QEMU's monitor does not answer");
        return false;
    }
    if (request->bytes == 0 || request->bytes > GW_RAM_HASH_MAX_BYTES ||
        request->unit_bytes < GW_RAM_PAGE_BYTES || request->unit_bytes > GW_RAM_HASH_MAX_BYTES ||
        gw_ram_hash_units(request) > GW_RAM_HASH_MAX_UNITS ||
        !gw_ram_map_has(hash->ranges, request->start, request->bytes)) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "the guest has no memory at 0x%" G_GINT64_MODIFIER "x, %" G_GUINT64_FORMAT
                    " bytes",
                    request->start, request->bytes);
        return false;
    }
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%" G_GINT64_FORMAT, hash->qemu_fd);
    hash->request = *request;
    hash->done = done;
    hash->done_data = data;
    gw_qmp_call(qmp, "pmemsave",
                json_pack("{s:I, s:I, s:s}", "val", (json_int_t)request->start, "size",
                          (json_int_t)request->bytes, "filename", path),
                on_saved, hash);
    return true;
}

/* --- beginning and end ------------------------------------------------------------------------ */

static void
on_fd_added(json_t *answer, const GError *error, void *data)
{
    GwRamHash *hash = data;

    g_clear_error(&hash->failure);
    hash->failure = error ? g_error_copy(error) : NULL;
    hash->qemu_set = gw_json_int(answer, "fdset-id", -1);
    hash->qemu_fd = gw_json_int(answer, "fd", -1);
}

static void
on_map(json_t *answer, const GError *error, void *data)
{
    GwRamHash *hash = data;
    g_autoptr(GError) failure = g_steal_pointer(&hash->failure);
    const char *text = json_string_value(answer);

    if (!failure && error) {
        failure = g_error_copy(error);
    }
    if (!failure) {
        hash->ranges = gw_ram_map_parse(text ? text : "", &failure);
    }
    hash->ready(hash->ranges, failure, hash->ready_data);
}

GwRamHash *
gw_ram_hash_new(GwMove *move, GwRamHashReadyFn ready, void *data, GError **error)
{
    g_autoptr(GwRamHash) hash = g_new0(GwRamHash, 1);
    GwQmp *qmp;

    hash->move = move;
    hash->ready = ready;
    hash->ready_data = data;
    hash->qemu_set = -1;
    hash->qemu_fd = -1;
    hash->fd = memfd_create("godwit-verify", MFD_CLOEXEC);
    if (hash->fd < 0) {
        gw_set_error_errno(error, errno, "cannot make a file in memory");
        return NULL;
    }
    qmp = gw_move_qmp(hash->move);
    if (!qmp) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE, "QEMU's monitor does not answer");
        return NULL;
    }
    gw_qmp_call_fd(qmp, "add-fd", NULL, hash->fd, on_fd_added, hash);
    gw_qmp_call(qmp, "human-monitor-command", json_pack("{s:s}", "command-line", "info mtree -f"),
                on_map, hash);
    return g_steal_pointer(&hash);
}

void
gw_ram_hash_free(GwRamHash *hash)
{
    if (!hash) {
        return;
    }
    GwQmp *qmp = gw_move_qmp(hash->move);

    if (qmp) {
        gw_qmp_forget(qmp, hash);
    }
    if (qmp && hash->qemu_set >= 0) {
        gw_qmp_call(qmp, "remove-fd", json_pack("{s:I}", "fdset-id", (json_int_t)hash->qemu_set),
                    NULL, NULL);
    }
    if (hash->job) {
        hash->job->owner = NULL;
    }
    if (hash->ranges) {
        g_ptr_array_unref(hash->ranges);
    }
    g_clear_error(&hash->failure);
    gw_fd_close(hash->fd);
    g_free(hash);
}
