// SPDX-License-Identifier: Apache-2.0
/* What is made of QEMU's own words; where a start's part of the log begins; trimming. */
#include "vm/qemu_log.h"

#include "base/fd.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

#define STAMP "2026-11-22T02:57:51.665932Z qemu-system-x86_64: "

static void
check(const char *tail, const char *expected)
{
    g_autofree char *got = gw_qemu_log_explain(tail, "qemu");

    g_assert_cmpstr(got, ==, expected);
}

static void
test_explain(void)
{
    check("", NULL);
    check(STAMP "warning: nic a has no peer\n", NULL);
    check("some text of no program\n", NULL);
    check(
        STAMP "-blockdev {\"driver\":\"raw\",\"file\":{\"a\":\"b\"}}: Could not open '/x': "
              "No such file or directory\n",
        "Could not open '/x': No such file or directory: check the path in the definition and that "
        "its storage is mounted on this host");
    check(
        STAMP "-device {\"driver\":\"virtio-blk-pci\"}: Failed to get \"write\" lock\n"
              "Is another process using the image [/x]?\n",
        "Failed to get \"write\" lock Is another process using the image [/x]?: another QEMU, here "
        "or on another host, has this image open: stop it first (two guests on one image destroy "
        "it)");
    check(
        STAMP "-blockdev {}: Could not open '/x': Permission denied\n",
        "Could not open '/x': Permission denied: give the user 'qemu' that QEMU runs as access to "
        "the file and the folders above it (setfacl -m u:qemu:rw FILE; setfacl -m u:qemu:x "
        "FOLDER)");
    check("qemu: could not open kernel file '/k': No such file or directory\n",
          "could not open kernel file '/k': No such file or directory: check the path in the "
          "definition and that its storage is mounted on this host");
    /* The last error counts; a warning after it is none. */
    check(STAMP "first\n" STAMP "second\n" STAMP "warning: third\nof the warning\n", "second");
}

/* A guest may choose such text: its length is bounded and it stays UTF-8. */
static void
test_hostile(void)
{
    g_autofree char *long_line = g_strnfill(100000, 'x');
    g_autofree char *tail = g_strdup_printf(STAMP "%s\n%s\n\n", long_line, long_line);
    g_autofree char *got = gw_qemu_log_explain(tail, NULL);

    g_assert_cmpuint(strlen(got), <=, 2000);
}

static void
test_file(void)
{
    static const char *const first[] = {"/usr/bin/qemu", "-name", "it's", NULL};
    g_autofree char *folder = g_dir_make_tmp("gw-log-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "qemu.log", NULL);
    g_autoptr(GError) error = NULL;

    g_autofree char *none = gw_qemu_log_tail(path);
    g_assert_cmpstr(none, ==, "");
    g_assert_true(gw_qemu_log_begin(path, first, &error));
    g_auto(GwFd) fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    g_assert_true(gw_fd_write_full(fd, "old\n", 4));
    g_assert_true(gw_qemu_log_begin(path, first, &error));
    g_assert_true(gw_fd_write_full(fd, "new \xff\n", 6));
    g_autofree char *tail = gw_qemu_log_tail(path);
    g_assert_cmpstr(tail, ==, "new \xef\xbf\xbd\n");
    g_autofree char *all = gw_file_read(path, 4096, NULL, NULL);
    g_assert_nonnull(strstr(all, " '/usr/bin/qemu' '-name' 'it'\\''s'\nold\n"));
    g_unlink(path);
    g_rmdir(folder);
}

static void
test_trim(void)
{
    g_autofree char *folder = g_dir_make_tmp("gw-log-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "qemu.log", NULL);
    g_auto(GwFd) fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct stat st;

    g_assert_cmpint(ftruncate(fd, GW_LOG_MAX_BYTES), ==, 0);
    gw_qemu_log_trim(path);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, GW_LOG_MAX_BYTES);
    g_assert_true(gw_fd_write_full(fd, "end\n", 4));
    gw_qemu_log_trim(path);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, GW_LOG_KEPT_BYTES);
    /* A writer that appends goes on behind what was kept. */
    g_assert_true(gw_fd_write_full(fd, "more\n", 5));
    g_autofree char *text = gw_file_read(path, GW_LOG_MAX_BYTES, NULL, NULL);
    g_assert_cmpstr(text + GW_LOG_KEPT_BYTES - 4, ==, "end\nmore\n");
    g_unlink(path);
    g_rmdir(folder);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qemu-log/explain", test_explain);
    g_test_add_func("/qemu-log/hostile", test_hostile);
    g_test_add_func("/qemu-log/file", test_file);
    g_test_add_func("/qemu-log/trim", test_trim);
    return g_test_run();
}
