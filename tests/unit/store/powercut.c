// SPDX-License-Identifier: Apache-2.0
/*
 * The VFS passes every call to the real one and keeps, for each file by name, its synced content
 * and the writes and truncations since. Files made and deleted count at once. Locks: one mutex, as
 * the store's worker writes while the test's thread saves.
 */
#include "powercut.h"

#include <glib.h>
#include <sqlite3.h>
#include <stdint.h>
#include <string.h>

#define SECTOR 512

/* A write, or a truncation to @offset if there is no data. */
typedef struct Change {
    size_t offset;
    GBytes *data;
} Change;

typedef struct DiskFile {
    GByteArray *synced;
    GPtrArray *changes; /* Change, since the last sync */
} DiskFile;

typedef struct ShimFile {
    sqlite3_file base;
    char *name;         /* NULL: not followed */
    sqlite3_file *real; /* behind this struct */
} ShimFile;

static GMutex lock;
static GHashTable *disk; /* by path: DiskFile */
static char *followed;
static int syncs_to_fail;
static sqlite3_vfs *real_vfs;
static sqlite3_vfs shim_vfs;

/* --- the disk --------------------------------------------------------------------------------- */

static void
change_free(void *data)
{
    Change *change = data;

    g_clear_pointer(&change->data, g_bytes_unref);
    g_free(change);
}

static void
disk_file_free(void *data)
{
    DiskFile *file = data;

    g_byte_array_unref(file->synced);
    g_ptr_array_unref(file->changes);
    g_free(file);
}

static DiskFile *
disk_file(const char *name)
{
    DiskFile *file = g_hash_table_lookup(disk, name);

    if (!file) {
        file = g_new0(DiskFile, 1);
        file->synced = g_byte_array_new();
        file->changes = g_ptr_array_new_with_free_func(change_free);
        g_hash_table_insert(disk, g_strdup(name), file);
    }
    return file;
}

static void
note_change(const ShimFile *shim, size_t offset, GBytes *data)
{
    if (shim->name) {
        Change *change = g_new0(Change, 1);
        change->offset = offset;
        change->data = data;
        g_mutex_lock(&lock);
        g_ptr_array_add(disk_file(shim->name)->changes, change);
        g_mutex_unlock(&lock);
    }
}

static void
grow_to(GByteArray *image, size_t len)
{
    if (image->len < len) {
        const guint before = image->len;
        g_byte_array_set_size(image, (guint)len);
        memset(image->data + before, 0, len - before);
    }
}

static bool
survives(PowercutSurvivors survivors)
{
    return survivors == POWERCUT_ALL || (survivors == POWERCUT_RANDOM_SECTORS && g_test_rand_bit());
}

/* Applies those parts of a change that survive. */
static void
apply(GByteArray *image, const Change *change, PowercutSurvivors survivors)
{
    if (!change->data) {
        if (image->len > change->offset && survives(survivors)) {
            g_byte_array_set_size(image, (guint)change->offset);
        }
        return;
    }
    size_t len;
    const uint8_t *data = g_bytes_get_data(change->data, &len);
    for (size_t done = 0; done < len;) {
        const size_t at = change->offset + done;
        const size_t piece = MIN(SECTOR - at % SECTOR, len - done);
        if (survives(survivors)) {
            grow_to(image, at + piece);
            memcpy(image->data + at, data + done, piece);
        }
        done += piece;
    }
}

static void
apply_all(const DiskFile *file, GByteArray *image, PowercutSurvivors survivors)
{
    for (unsigned i = 0; i < file->changes->len; i++) {
        apply(image, file->changes->pdata[i], survivors);
    }
}

void
powercut_save(const char *folder, PowercutSurvivors survivors)
{
    GHashTableIter iter;
    const char *name;
    DiskFile *file;

    g_mutex_lock(&lock);
    g_hash_table_iter_init(&iter, disk);
    while (g_hash_table_iter_next(&iter, (void **)&name, (void **)&file)) {
        g_autoptr(GByteArray) image = g_byte_array_new();
        g_autofree char *base = g_path_get_basename(name);
        g_autofree char *path = g_build_filename(folder, base, NULL);
        g_byte_array_append(image, file->synced->data, file->synced->len);
        apply_all(file, image, survivors);
        g_assert_true(g_file_set_contents(path, (const char *)image->data, image->len, NULL));
    }
    g_mutex_unlock(&lock);
}

void
powercut_fail_syncs(int n)
{
    g_mutex_lock(&lock);
    syncs_to_fail = n;
    g_mutex_unlock(&lock);
}

void
powercut_follow(const char *folder)
{
    g_mutex_lock(&lock);
    g_hash_table_remove_all(disk);
    g_free(followed);
    followed = g_strdup(folder);
    syncs_to_fail = 0;
    g_mutex_unlock(&lock);
}

/* --- the VFS ---------------------------------------------------------------------------------- */

static sqlite3_file *
real_of(sqlite3_file *file)
{
    return ((ShimFile *)file)->real;
}

static int
shim_close(sqlite3_file *file)
{
    g_free(((ShimFile *)file)->name);
    return real_of(file)->pMethods->xClose(real_of(file));
}

static int
shim_read(sqlite3_file *file, void *buffer, int len, sqlite3_int64 offset)
{
    return real_of(file)->pMethods->xRead(real_of(file), buffer, len, offset);
}

static int
shim_write(sqlite3_file *file, const void *data, int len, sqlite3_int64 offset)
{
    note_change((ShimFile *)file, (size_t)offset, g_bytes_new(data, (gsize)len));
    return real_of(file)->pMethods->xWrite(real_of(file), data, len, offset);
}

static int
shim_truncate(sqlite3_file *file, sqlite3_int64 len)
{
    note_change((ShimFile *)file, (size_t)len, NULL);
    return real_of(file)->pMethods->xTruncate(real_of(file), len);
}

static int
shim_sync(sqlite3_file *file, int flags)
{
    const ShimFile *shim = (ShimFile *)file;
    bool fail = false;

    g_mutex_lock(&lock);
    if (syncs_to_fail > 0 && shim->name) {
        syncs_to_fail--;
        fail = true;
    } else if (shim->name) {
        const DiskFile *on_disk = disk_file(shim->name);
        apply_all(on_disk, on_disk->synced, POWERCUT_ALL);
        g_ptr_array_set_size(on_disk->changes, 0);
    }
    g_mutex_unlock(&lock);
    return fail ? SQLITE_IOERR_FSYNC : real_of(file)->pMethods->xSync(shim->real, flags);
}

static int
shim_file_size(sqlite3_file *file, sqlite3_int64 *size)
{
    return real_of(file)->pMethods->xFileSize(real_of(file), size);
}

static int
shim_lock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int
shim_unlock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int
shim_check_lock(sqlite3_file *file, int *out)
{
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), out);
}

static int
shim_control(sqlite3_file *file, int op, void *arg)
{
    return real_of(file)->pMethods->xFileControl(real_of(file), op, arg);
}

static int
shim_sector_size(sqlite3_file *file)
{
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int
shim_characteristics(sqlite3_file *file)
{
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

/* Version 1, without shared memory and without mapped pages: every byte passes through here. */
static const sqlite3_io_methods shim_methods = {
    .iVersion = 1,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_file_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_check_lock,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector_size,
    .xDeviceCharacteristics = shim_characteristics,
};

static int
shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags)
{
    ShimFile *shim = (ShimFile *)file;

    shim->base.pMethods = NULL;
    shim->real = (sqlite3_file *)(shim + 1);
    int code = real_vfs->xOpen(real_vfs, name, shim->real, flags, out_flags);
    if (code == SQLITE_OK) {
        shim->base.pMethods = &shim_methods;
        shim->name = name && followed && g_str_has_prefix(name, followed) ? g_strdup(name) : NULL;
    }
    return code;
}

static int
shim_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    g_mutex_lock(&lock);
    g_hash_table_remove(disk, name);
    g_mutex_unlock(&lock);
    return real_vfs->xDelete(real_vfs, name, sync_folder);
}

void
powercut_install(void)
{
    disk = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, disk_file_free);
    real_vfs = sqlite3_vfs_find(NULL);
    shim_vfs = *real_vfs;
    shim_vfs.zName = "powercut";
    shim_vfs.szOsFile = (int)sizeof(ShimFile) + real_vfs->szOsFile;
    shim_vfs.xOpen = shim_open;
    shim_vfs.xDelete = shim_delete;
    g_assert_cmpint(sqlite3_vfs_register(&shim_vfs, 1), ==, SQLITE_OK);
}
