// SPDX-License-Identifier: Apache-2.0
/*
 * Are a VM's files on both hosts the same ones? Proven, not guessed from paths.
 *
 * Disk files: the source takes a read lock (fcntl, open file description) on one byte far behind
 * any image's end, at an offset drawn for this probe; the target asks whether that byte is locked
 * and its neighbour is not. Only a host that sees the same file through the same lock manager,
 * which is what QEMU's own image locks need as well, can answer that. Nothing is written.
 * Block devices: locks do not travel, so size and the device's own world-wide id are compared.
 * Kernel and initrd: SHA-256 of the content.
 *
 * A worker thread does the file work, as a dead file server may block it for ever; it owns its
 * task and outlives the probe if it must. Callbacks come in the main context.
 */
#include "base/fd.h"
#include "lane/image_ref.h"
#include "migrate/check.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MAX_FILES           (GW_MAX_DISKS + 2)
#define MAX_BOOT_FILE_BYTES (1024LL * 1024 * 1024)
#define READ_BYTES          (256 * 1024)
#define LOCK_BASE           (INT64_C(1) << 60)
#define LOCK_LAST           (LOCK_BASE + (INT64_C(1) << 50))

/* What the worker owns. */
typedef struct ProbeTask {
    json_t *files;
    bool is_source;
    GArray *locks; /* of int: descriptors that hold the source's locks */
} ProbeTask;

struct GwFileProbe {
    GCancellable *cancellable;
    GwFileProbeFn callback;
    void *data;
    GTask *gtask; /* its data has the locks: they last until the probe is freed */
};

static void
probe_task_free(void *data)
{
    ProbeTask *task = data;

    for (guint i = 0; i < task->locks->len; i++) {
        gw_fd_close(g_array_index(task->locks, int, i));
    }
    g_array_unref(task->locks);
    json_decref(task->files);
    g_free(task);
}

static void set_error(json_t *file, const char *key, const char *format, ...) GW_PRINTF(3, 4);

static void
set_error(json_t *file, const char *key, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    gw_json_set_str(file, key, text);
}

/* --- what a file is --------------------------------------------------------------------------- */

static char *
device_wwid(const struct stat *st)
{
    static const char *const names[] = {"wwid", "device/wwid", "dm/uuid", "serial",
                                        "device/serial"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_strdup_printf("/sys/dev/block/%u:%u/%s", major(st->st_rdev),
                                                minor(st->st_rdev), names[i]);
        char *text = gw_file_read(path, 4096, NULL, NULL);
        if (text && g_strstrip(text)[0] != '\0') {
            return text;
        }
        g_free(text);
    }
    return NULL;
}

/* False: it cannot be read, or is too large. */
static bool
hash_content(int fd, gnutls_hash_hd_t hash, json_t *file, const char *error_key)
{
    g_autofree uint8_t *buffer = g_malloc(READ_BYTES);
    int64_t total = 0;
    ssize_t count;

    while ((count = gw_fd_read_full(fd, buffer, READ_BYTES)) > 0) {
        total += count;
        if (total > MAX_BOOT_FILE_BYTES) {
            set_error(file, error_key, "is larger than 1 GiB");
            return false;
        }
        gnutls_hash(hash, buffer, (size_t)count);
    }
    if (count < 0) {
        set_error(file, error_key, "cannot be read: %s", g_strerror(errno));
    }
    return count == 0;
}

static bool
hash_file(int fd, char **hex, json_t *file, const char *error_key)
{
    uint8_t digest[GW_SHA256_BYTES];
    char text[2 * GW_SHA256_BYTES + 1];
    size_t len = sizeof(text);
    gnutls_hash_hd_t hash;

    if (gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) < 0) {
        set_error(file, error_key, "cannot be compared: there is no memory for a SHA-256");
        return false;
    }
    bool ok = hash_content(fd, hash, file, error_key);

    gnutls_hash_deinit(hash, digest);
    gnutls_hex_encode(&(gnutls_datum_t){digest, sizeof(digest)}, text, &len);
    *hex = ok ? g_strdup(text) : NULL;
    return ok;
}

static int
open_regular_or_device(json_t *file, struct stat *st, const char *error_key)
{
    /* Looked at before it is opened: opening a pipe may block, opening a watchdog starts it. */
    g_auto(GwFd) place = open(gw_json_str(file, "path", ""), O_PATH | O_CLOEXEC);

    if (place < 0 || fstat(place, st) < 0) {
        set_error(file, error_key, "cannot be opened: %s", g_strerror(errno));
        return GW_FD_NONE;
    }
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode)) {
        set_error(file, error_key, "is neither a file nor a block device");
        return GW_FD_NONE;
    }
    g_autofree char *same = g_strdup_printf("/proc/self/fd/%d", place);
    g_auto(GwFd) fd = open(same, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        set_error(file, error_key, "cannot be opened: %s", g_strerror(errno));
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

static int64_t
size_of(int fd, const struct stat *st)
{
    uint64_t bytes = 0;

    if (!S_ISBLK(st->st_mode)) {
        return st->st_size;
    }
    return ioctl(fd, BLKGETSIZE64, &bytes) == 0 ? (int64_t)bytes : -1;
}

static struct flock
lock_at(int64_t offset, short type)
{
    return (struct flock){
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = offset,
        .l_len = 1,
    };
}

/* --- source ----------------------------------------------------------------------------------- */

static void
describe_disk(ProbeTask *task, json_t *file)
{
    struct stat st;
    g_auto(GwFd) fd = open_regular_or_device(file, &st, "error");

    if (fd < 0) {
        return;
    }
    gw_json_set_int(file, "size", size_of(fd, &st));
    gw_json_set_bool(file, "device", S_ISBLK(st.st_mode));
    if (S_ISBLK(st.st_mode)) {
        g_autofree char *wwid = device_wwid(&st);
        gw_json_set_str(file, "wwid", wwid);
        return;
    }
    /* Even, so that the neighbour that must be free is never another probe's byte. */
    int64_t offset = LOCK_BASE + 2 * (((int64_t)g_random_int() << 16) ^ g_random_int());
    struct flock lock = lock_at(offset, F_RDLCK);
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        set_error(file, "error", "the file system of '%s' has no locks (%s): mount it with locking",
                  gw_json_str(file, "path", ""), g_strerror(errno));
        return;
    }
    gw_json_set_int(file, "offset", offset);
    int held = g_steal_fd(&fd);
    g_array_append_val(task->locks, held);
}

static void
describe_boot_file(json_t *file)
{
    struct stat st;
    g_autofree char *hex = NULL;
    g_auto(GwFd) fd = open_regular_or_device(file, &st, "error");

    if (fd >= 0 && hash_file(fd, &hex, file, "error")) {
        gw_json_set_str(file, "sha256", hex);
    }
}

/* --- target ----------------------------------------------------------------------------------- */

static void
judge_device(json_t *file, const struct stat *st)
{
    g_autofree char *wwid = device_wwid(st);
    const char *theirs = gw_json_str(file, "wwid", NULL);

    if (!wwid || !theirs) {
        set_error(file, "verdict",
                  "the device has no world-wide id, so it cannot be proven to be "
                  "the source's");
    } else if (strcmp(wwid, theirs) != 0) {
        set_error(file, "verdict", "is another device than the source's (%.80s, not %.80s)", wwid,
                  theirs);
    } else {
        gw_json_set_str(file, "verdict", "ok");
    }
}

static bool
is_locked(int fd, int64_t offset, bool *locked)
{
    struct flock lock = lock_at(offset, F_WRLCK);

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) {
        return false;
    }
    *locked = lock.l_type != F_UNLCK;
    return true;
}

static void
judge_disk(json_t *file)
{
    struct stat st;
    bool here = false;
    bool beside = false;
    int64_t offset = gw_json_int(file, "offset", 0);
    g_auto(GwFd) fd = open_regular_or_device(file, &st, "verdict");

    if (fd < 0) {
        return;
    }
    if (S_ISBLK(st.st_mode) != gw_json_bool(file, "device", false)) {
        set_error(file, "verdict", "is a device on one host and a file on the other");
    } else if (S_ISBLK(st.st_mode)) {
        judge_device(file, &st);
    } else if (offset < LOCK_BASE || offset > LOCK_LAST || !is_locked(fd, offset, &here) ||
               !is_locked(fd, offset + 1, &beside)) {
        set_error(file, "verdict",
                  "the file system has no locks, so it cannot be proven to be the "
                  "source's: mount it with locking");
    } else if (!here || beside) {
        set_error(file, "verdict", "is another file than the source's (its lock is not seen here)");
    } else {
        gw_json_set_str(file, "verdict", "ok");
    }
}

static void
judge_boot_file(json_t *file)
{
    struct stat st;
    g_autofree char *hex = NULL;
    g_auto(GwFd) fd = open_regular_or_device(file, &st, "verdict");

    if (fd < 0 || !hash_file(fd, &hex, file, "verdict")) {
        return;
    }
    bool same = strcmp(hex, gw_json_str(file, "sha256", "")) == 0;
    gw_json_set_str(file, "verdict", same ? "ok" : "has another content than the source's");
}

/* --- the worker ------------------------------------------------------------------------------- */

static void
work(GTask *gtask, gpointer source_object, gpointer data, GCancellable *cancellable)
{
    ProbeTask *task = data;
    size_t i;
    json_t *file;

    json_array_foreach(task->files, i, file)
    {
        bool disk = strcmp(gw_json_str(file, "kind", ""), "disk") == 0;
        if (g_cancellable_is_cancelled(cancellable)) {
            break;
        }
        if (task->is_source) {
            disk ? describe_disk(task, file) : describe_boot_file(file);
        } else {
            disk ? judge_disk(file) : judge_boot_file(file);
        }
    }
    g_task_return_boolean(gtask, TRUE);
}

static void
on_work_done(GObject *object, GAsyncResult *result, gpointer data)
{
    GTask *gtask = G_TASK(result);
    GwFileProbe *probe = data;

    if (g_cancellable_is_cancelled(g_task_get_cancellable(gtask))) {
        return; /* the probe is gone */
    }
    probe->callback(((ProbeTask *)g_task_get_task_data(gtask))->files, probe->data);
}

static GwFileProbe *
start(json_t *files, bool is_source, GwFileProbeFn callback, void *data)
{
    GwFileProbe *probe = g_new0(GwFileProbe, 1);
    ProbeTask *task = g_new0(ProbeTask, 1);

    probe->cancellable = g_cancellable_new();
    probe->callback = callback;
    probe->data = data;
    task->files = files;
    task->is_source = is_source;
    task->locks = g_array_new(FALSE, FALSE, sizeof(int));
    GTask *gtask = g_task_new(NULL, probe->cancellable, on_work_done, probe);
    g_task_set_check_cancellable(gtask, FALSE);
    g_task_set_task_data(gtask, task, probe_task_free);
    probe->gtask = gtask;
    g_task_run_in_thread(gtask, work);
    return probe;
}

static void
add_boot_file(json_t *files, const char *name, const char *path)
{
    if (path) {
        json_array_append_new(
            files, json_pack("{s:s, s:s, s:s}", "kind", "boot", "name", name, "path", path));
    }
}

GwFileProbe *
gw_file_probe_source(const GwDefinition *definition, GwFileProbeFn callback, void *data)
{
    json_t *files = json_array();

    for (guint i = 0; i < definition->disks->len; i++) {
        const GwDisk *disk = g_ptr_array_index(definition->disks, i);
        json_array_append_new(files,
                              json_pack("{s:s, s:s, s:s, s:b}", "kind", "disk", "name", disk->name,
                                        "path", disk->path, "read_only", disk->read_only));
    }
    add_boot_file(files, "kernel", definition->kernel);
    add_boot_file(files, "initrd", definition->initrd);
    return start(files, true, callback, data);
}

GwFileProbe *
gw_file_probe_target(const json_t *files, GwFileProbeFn callback, void *data)
{
    json_t *copy = json_array();
    size_t i;
    json_t *file;

    json_array_foreach(files, i, file)
    {
        if (i < MAX_FILES && json_is_object(file)) {
            json_array_append_new(copy, json_deep_copy(file));
        }
    }
    return start(copy, false, callback, data);
}

void
gw_file_probe_free(GwFileProbe *probe)
{
    if (!probe) {
        return;
    }
    g_cancellable_cancel(probe->cancellable);
    g_object_unref(probe->cancellable);
    g_object_unref(probe->gtask);
    g_free(probe);
}
