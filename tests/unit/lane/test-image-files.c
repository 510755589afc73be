// SPDX-License-Identifier: Apache-2.0
/* Disk images for tests. */
#include "test-image-files.h"

#include "base/json.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096u

bool
image_files_init(ImageFiles *files)
{
    g_autofree char *img = g_find_program_in_path("qemu-img");
    g_autofree char *io = g_find_program_in_path("qemu-io");
    g_autoptr(GError) error = NULL;

    if (!img || !io) {
        g_test_skip("qemu-img and qemu-io are not installed");
        return false;
    }
    files->folder = g_dir_make_tmp("godwit-image-XXXXXX", &error);
    g_assert_no_error(error);
    return true;
}

static void
remove_all(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (g_file_test(path, G_FILE_TEST_IS_DIR) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK)) {
            remove_all(path);
        } else {
            g_unlink(path);
        }
    }
    g_rmdir(folder);
}

void
image_files_clear(ImageFiles *files)
{
    if (files->folder) {
        remove_all(files->folder);
        g_clear_pointer(&files->folder, g_free);
    }
}

char *
image_file(const ImageFiles *files, const char *name)
{
    return g_build_filename(files->folder, name, NULL);
}

/* What the command prints, or NULL if it fails. */
static char *
spawn(const ImageFiles *files, const char *command)
{
    g_auto(GStrv) words = NULL;
    g_autofree char *text = NULL;
    g_autofree char *errors = NULL;
    g_autoptr(GError) error = NULL;
    int status = -1;

    g_assert_true(g_shell_parse_argv(command, NULL, &words, &error));
    g_assert_true(g_spawn_sync(files->folder, words, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &text,
                               &errors, &status, &error));
    bool ok = g_spawn_check_wait_status(status, NULL) && !strstr(text, "failed");
    if (!ok) {
        g_test_message("%s: %s%s", command, text, errors);
        return NULL;
    }
    return g_steal_pointer(&text);
}

bool
image_try(const ImageFiles *files, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_autofree char *command = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_autofree char *text = spawn(files, command);
    return text != NULL;
}

void
image_run(const ImageFiles *files, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_autofree char *command = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_autofree char *text = spawn(files, command);
    g_assert_nonnull(text);
}

/* One pattern file of random content serves all writes: each begins at another place in it. */
static void
write_command(GString *out, const char *pattern, char kind, uint64_t disk_bytes)
{
    uint64_t unit = g_test_rand_int_range(0, 3) == 0 ? 65536 : 4096;
    uint64_t n = (uint64_t)g_test_rand_int_range(1, 12);
    uint64_t offset = (uint32_t)g_test_rand_int() % (disk_bytes / unit) * unit;
    uint64_t len = MIN(n * unit, disk_bytes - offset);

    g_string_append(out, " -c '");
    if (kind == 'w') {
        g_string_append_printf(out, "write -s %s", pattern);
    } else {
        g_string_append(out, kind == 'z' ? "write -z" : "discard");
    }
    g_string_append_printf(out, " %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "'", offset, len);
}

void
image_scribble(const ImageFiles *files, const char *name, const char *format, unsigned n,
               const char *kinds)
{
    g_autoptr(GString) commands = g_string_new("");
    size_t disk_bytes;

    g_free(image_convert(files, name, format, &disk_bytes));
    size_t n_kinds = strlen(kinds);

    for (unsigned i = 0; i < n; i++) {
        g_autofree char *pattern = g_strdup_printf("pattern%u", i % 4);

        if (i < 4) {
            image_write_raw(files, pattern, 192, (uint32_t)g_test_rand_int());
        }
        write_command(commands, pattern, kinds[g_test_rand_int_range(0, (gint32)n_kinds)],
                      disk_bytes);
    }
    image_run(files, "qemu-io -t unsafe -f %s -d unmap %s %s", format, commands->str, name);
}

uint8_t *
image_convert(const ImageFiles *files, const char *name, const char *format, size_t *len)
{
    g_autofree char *raw = image_file(files, "converted");
    g_autoptr(GError) error = NULL;
    char *disk = NULL;

    image_run(files, "qemu-img convert -t unsafe -f %s -O raw %s converted", format, name);
    g_file_get_contents(raw, &disk, len, &error);
    g_assert_no_error(error);
    g_unlink(raw);
    return (uint8_t *)disk;
}

void
image_page(uint8_t *page, uint32_t seed, unsigned number)
{
    uint64_t state = (uint64_t)seed << 32 | number;

    for (unsigned i = 0; i < PAGE; i += 8) {
        /* splitmix64 */
        state += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t word = (state ^ (state >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);

        word = (word ^ (word >> 27)) * UINT64_C(0x94d049bb133111eb);
        word ^= word >> 31;
        memcpy(page + i, &word, 8);
    }
    if (number % 11 == 10) {
        memset(page, 0, PAGE);
    }
}

void
image_write_raw(const ImageFiles *files, const char *name, unsigned n_pages, uint32_t seed)
{
    g_autofree char *path = image_file(files, name);
    g_autofree uint8_t *bytes = g_malloc((gsize)n_pages * PAGE);
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < n_pages; i++) {
        image_page(bytes + (size_t)i * PAGE, seed, i);
    }
    g_file_set_contents(path, (const char *)bytes, (gssize)n_pages * PAGE, &error);
    g_assert_no_error(error);
}

void
image_patch(const ImageFiles *files, const char *name, size_t offset, const void *data, size_t len)
{
    g_autofree char *path = image_file(files, name);
    int fd = g_open(path, O_WRONLY | O_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, len, (off_t)offset), ==, (gssize)len);
    g_assert_cmpint(close(fd), ==, 0);
}

void
image_replace(const ImageFiles *files, const char *name, const char *from, const char *to,
              size_t len)
{
    g_autofree char *path = image_file(files, name);
    g_autofree char *bytes = NULL;
    size_t file_len;

    g_assert_true(g_file_get_contents(path, &bytes, &file_len, NULL));
    const char *at = memmem(bytes, MIN(file_len, 65536), from, len);
    g_assert_nonnull(at);
    image_patch(files, name, (size_t)(at - bytes), to, len);
}

uint64_t
image_own_blocks(const ImageFiles *files, const char *name)
{
    g_autofree char *command = g_strdup_printf("qemu-img map --output=json %s", name);
    g_autofree char *text = spawn(files, command);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) extents = gw_json_parse(text, strlen(text), 1 << 20, "qemu-img", &error);
    uint64_t bytes = 0;

    g_assert_no_error(error);
    for (size_t i = 0; i < json_array_size(extents); i++) {
        const json_t *extent = json_array_get(extents, i);

        if (gw_json_int(extent, "depth", -1) == 0 && gw_json_bool(extent, "data", false)) {
            bytes += (uint64_t)gw_json_int(extent, "length", 0);
        }
    }
    return bytes / PAGE;
}
