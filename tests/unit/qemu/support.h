// SPDX-License-Identifier: Apache-2.0
/*
 * What the tests of src/qemu share: waiting for events in the main context, folders, processes.
 */
#pragma once

#include "base/fd.h"
#include "qemu/launch.h"

#include <glib/gstdio.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define GIVE_UP_SECONDS 30

static inline gboolean
wait_took_too_long(void *data)
{
    g_error("nothing happened within %d s", GIVE_UP_SECONDS);
    return G_SOURCE_REMOVE;
}

/* Runs the main context until @condition holds; the test fails if that never comes. */
#define wait_for(condition)                                                                        \
    do {                                                                                           \
        guint guard = g_timeout_add_seconds(GIVE_UP_SECONDS, wait_took_too_long, NULL);            \
        while (!(condition)) {                                                                     \
            g_main_context_iteration(NULL, TRUE);                                                  \
        }                                                                                          \
        g_source_remove(guard);                                                                    \
    } while (0)

/* Runs whatever is ready now. */
static inline void
run_pending(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

static inline char *
make_test_dir(void)
{
    char *dir = g_dir_make_tmp("godwit-qemu-XXXXXX", NULL);

    g_assert_nonnull(dir);
    return dir;
}

static inline void
remove_test_dir(char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *entry = g_build_filename(path, name, NULL);
        if (g_file_test(entry, G_FILE_TEST_IS_DIR)) {
            remove_test_dir(g_strdup(entry));
        } else {
            g_remove(entry);
        }
    }
    g_clear_pointer(&dir, g_dir_close);
    g_rmdir(path);
    g_free(path);
}

static inline void
note_end(void *data)
{
    *(bool *)data = true;
}

/* Returns when @process is gone, at once if it already is. */
static inline void
wait_for_end(GwProcessId process)
{
    bool ended = false;
    g_autoptr(GError) error = NULL;
    g_autoptr(GwProcessWatch) watch = gw_process_watch(process, note_end, &ended, &error);

    if (!watch) {
        g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
        return;
    }
    wait_for(ended);
}

static inline char *
real_qemu(void)
{
    return g_find_program_in_path("qemu-system-x86_64");
}
