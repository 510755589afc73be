// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile QEMU may say on its spare monitor: a command is replied to once at most, with a
 * result or an error. The first byte of the input is the size of the pieces; a byte 1 in the rest
 * becomes the command's id, which QEMU knows.
 */
#include "qemu/spare.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static GwSpareEnds qemu = {GW_FD_NONE, GW_FD_NONE, GW_FD_NONE};
static GwSpare *spare;

static void
set_up(void)
{
    g_autofree char *dir = g_dir_make_tmp("fuzz-spare-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "spare", NULL);
    g_autofree char *in_path = g_strconcat(path, ".in", NULL);
    g_autofree char *out_path = g_strconcat(path, ".out", NULL);

    g_assert_true(gw_spare_make(path, &qemu, NULL));
    spare = gw_spare_open(path, false, NULL);
    g_assert_nonnull(spare);
    /* Both sides have them open. */
    g_unlink(in_path);
    g_unlink(out_path);
    g_rmdir(dir);
}

static void
on_reply(json_t *result, const GError *error, void *data)
{
    unsigned *n_replies = data;

    g_assert_true((result == NULL) == (error != NULL));
    (*n_replies)++;
}

/* The command's id, as QEMU reads it. Transfer full. */
static char *
read_id(void)
{
    char line[4096];
    ssize_t n = read(qemu.input, line, sizeof line - 1);

    g_assert_cmpint(n, >, 0);
    g_autoptr(json_t) command = gw_json_parse(line, (size_t)n, sizeof line, "fuzz", NULL);
    return g_strdup_printf("%" G_GINT64_FORMAT, gw_json_int(command, "id", 0));
}

static void
say(const char *text, size_t len)
{
    g_assert_true(gw_fd_write_full(qemu.output, text, len));
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GString) said = g_string_new(NULL);
    unsigned n_replies = 0;

    if (size == 0) {
        return 0;
    }
    if (!spare) {
        set_up();
    }
    gw_spare_call(spare, "migrate-recover", NULL, on_reply, &n_replies);
    g_autofree char *id = read_id();
    for (size_t i = 1; i < size; i++) {
        if (data[i] == 1) {
            g_string_append(said, id);
        } else {
            g_string_append_c(said, (char)data[i]);
        }
    }
    size_t piece = (size_t)data[0] * 16 + 1;
    for (size_t at = 0; at < said->len; at += piece) {
        say(said->str + at, MIN(piece, said->len - at));
    }
    g_assert_cmpuint(n_replies, <=, 1);
    /* The input's last line ends with it, and its command: n_replies is gone. */
    gw_spare_call(spare, "query-yank", NULL, NULL, NULL);
    g_free(read_id());
    say("\n", 1);
    return 0;
}
