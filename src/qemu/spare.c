// SPDX-License-Identifier: Apache-2.0
/*
 * The spare monitor.
 *
 * Owns the daemon's ends of the two pipes and the command that waits for its answer. Main context.
 * Commands are written at once and as a whole, or not at all, as pipes do it with up to PIPE_BUF
 * bytes: a daemon that dies leaves no half of one. Each has a random id, so that the answer to one
 * of a daemon before is not taken for ours; what is not our answer is read and dropped, be it a
 * greeting, an event, the rest of a line that somebody else had begun to read, or rubbish.
 *
 * Limits: lines up to LINE_MAX_BYTES; longer ones are dropped. Fails by the reply: GW_ERROR_TIMEOUT
 * after GW_QMP_TIMEOUT_MS, GW_ERROR_UNREACHABLE when QEMU is gone or does not read.
 */
#include "qemu/spare.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define LINE_MAX_BYTES (64u * 1024u)
#define READ_BYTES     4096u
#define NEGOTIATION    "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n"

struct GwSpare {
    GwFd to_qemu;
    GwFd from_qemu;
    guint watch;
    guint timer;
    GString *line; /* so far */
    int64_t id;    /* of the command that waits; 0: none does */
    char *command;
    GwQmpReplyFn reply;
    void *data;
    GError *failure; /* it could not be sent */
};

/* --- for QEMU --------------------------------------------------------------------------------- */

void
gw_spare_ends_clear(GwSpareEnds *ends)
{
    gw_fd_clear(&ends->input);
    gw_fd_clear(&ends->output);
    gw_fd_clear(&ends->keeper);
}

static bool
make_pipe(const char *path, GError **error)
{
    if ((unlink(path) < 0 && errno != ENOENT) || mkfifo(path, 0600) < 0) {
        gw_set_error_errno(error, errno, "cannot make the pipe '%s'", path);
        return false;
    }
    return true;
}

static GwFd
open_end(const char *path, int flags, GError **error)
{
    GwFd fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot open the pipe '%s'", path);
    }
    return fd;
}

bool
gw_spare_make(const char *path, GwSpareEnds *out, GError **error)
{
    g_autofree char *in_path = g_strconcat(path, ".in", NULL);
    g_autofree char *out_path = g_strconcat(path, ".out", NULL);
    g_auto(GwSpareEnds) ends = {GW_FD_NONE, GW_FD_NONE, GW_FD_NONE};

    if (!make_pipe(in_path, error) || !make_pipe(out_path, error)) {
        return false;
    }
    /* A pipe is opened for one direction only when somebody has the other. */
    g_auto(GwFd) other = open_end(out_path, O_RDONLY | O_NONBLOCK, error);
    ends.keeper = other < 0 ? GW_FD_NONE : open_end(in_path, O_RDWR, error);
    ends.input = ends.keeper < 0 ? GW_FD_NONE : open_end(in_path, O_RDONLY, error);
    ends.output = ends.input < 0 ? GW_FD_NONE : open_end(out_path, O_WRONLY, error);
    if (ends.output < 0) {
        return false;
    }
    *out = ends;
    ends = (GwSpareEnds){GW_FD_NONE, GW_FD_NONE, GW_FD_NONE};
    return true;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* The reply may free @spare. */
static void
finish(GwSpare *spare, json_t *result, const GError *error)
{
    GwQmpReplyFn reply = spare->reply;

    g_clear_handle_id(&spare->timer, g_source_remove);
    spare->id = 0;
    if (reply) {
        reply(result, error, spare->data);
    }
}

/* True: it was the answer, and @spare may be gone. */
static bool
take_line(GwSpare *spare, const char *line, size_t len)
{
    g_autoptr(json_t) message =
        spare->id != 0 ? gw_json_parse(line, len, LINE_MAX_BYTES, "QEMU", NULL) : NULL;
    json_t *result = json_object_get(message, "return");
    const json_t *refusal = json_object_get(message, "error");
    g_autoptr(GError) error = NULL;

    if (!message || gw_json_int(message, "id", 0) != spare->id || (!result && !refusal)) {
        return false;
    }
    if (!result) {
        error = g_error_new(GW_ERROR, GW_ERROR_FAILED, "QEMU refused '%s': %s", spare->command,
                            gw_json_str(refusal, "desc", "it does not say why"));
    }
    finish(spare, result, error);
    return true;
}

/* All whole lines, or up to the answer. */
static void
take_lines(GwSpare *spare)
{
    char *end;

    while ((end = memchr(spare->line->str, '\n', spare->line->len))) {
        size_t len = (size_t)(end - spare->line->str);
        g_autofree char *line = g_strndup(spare->line->str, len);

        g_string_erase(spare->line, 0, (gssize)len + 1);
        if (take_line(spare, line, len)) {
            return;
        }
    }
    if (spare->line->len > LINE_MAX_BYTES) {
        g_string_truncate(spare->line, 0); /* its rest is not understood, and dropped as well */
    }
}

static gboolean
on_readable(gint fd, GIOCondition condition, gpointer data)
{
    GwSpare *spare = data;
    char buffer[READ_BYTES];
    ssize_t n = read(fd, buffer, sizeof buffer);

    if (n > 0) {
        g_string_append_len(spare->line, buffer, n);
        take_lines(spare);
        return G_SOURCE_CONTINUE;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    spare->watch = 0;
    if (spare->id != 0) {
        g_autoptr(GError) error = g_error_new(
            GW_ERROR, GW_ERROR_UNREACHABLE, "QEMU did not answer '%s': it is gone", spare->command);
        finish(spare, NULL, error);
    }
    return G_SOURCE_REMOVE;
}

static gboolean
on_timer(gpointer data)
{
    GwSpare *spare = data;
    g_autoptr(GError) error = g_steal_pointer(&spare->failure);

    spare->timer = 0;
    if (!error) {
        error = g_error_new(GW_ERROR, GW_ERROR_TIMEOUT, "QEMU did not answer '%s' in time",
                            spare->command);
    }
    finish(spare, NULL, error);
    return G_SOURCE_REMOVE;
}

/* --- commands --------------------------------------------------------------------------------- */

static bool
send_line(GwSpare *spare, const char *line, GError **error)
{
    size_t len = strlen(line);

    if (len > PIPE_BUF) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "a command of %zu bytes", len);
        return false;
    }
    if (write(spare->to_qemu, line, len) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE,
                    "QEMU does not read its spare monitor: %s", g_strerror(errno));
        return false;
    }
    return true;
}

void
gw_spare_call(GwSpare *spare, const char *command, json_t *arguments, GwQmpReplyFn reply,
              void *data)
{
    g_clear_handle_id(&spare->timer, g_source_remove);
    g_clear_error(&spare->failure);
    g_free(spare->command);
    spare->command = g_strdup(command);
    spare->id = 1 + (int64_t)(((uint64_t)g_random_int() << 30) ^ g_random_int());
    spare->reply = reply;
    spare->data = data;
    g_autoptr(json_t) object =
        json_pack("{s:s, s:I}", "exec-oob", command, "id", (json_int_t)spare->id);

    if (arguments) {
        json_object_set_new(object, "arguments", arguments);
    }
    g_autofree char *text = gw_json_text(object);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    bool sent = send_line(spare, line, &spare->failure);

    spare->timer = g_timeout_add(sent ? GW_QMP_TIMEOUT_MS : 0, on_timer, spare);
}

/* --- life ------------------------------------------------------------------------------------- */

GwSpare *
gw_spare_open(const char *path, bool fresh, GError **error)
{
    g_autofree char *in_path = g_strconcat(path, ".in", NULL);
    g_autofree char *out_path = g_strconcat(path, ".out", NULL);
    g_autoptr(GwSpare) spare = g_new0(GwSpare, 1);

    spare->line = g_string_new(NULL);
    spare->from_qemu = GW_FD_NONE;
    spare->to_qemu = open_end(in_path, O_WRONLY | O_NONBLOCK, error);
    if (spare->to_qemu >= 0) {
        spare->from_qemu = open_end(out_path, O_RDONLY | O_NONBLOCK, error);
    }
    if (spare->from_qemu < 0 || (fresh && !send_line(spare, NEGOTIATION, error))) {
        return NULL;
    }
    spare->watch =
        g_unix_fd_add(spare->from_qemu, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, spare);
    return g_steal_pointer(&spare);
}

void
gw_spare_free(GwSpare *spare)
{
    if (!spare) {
        return;
    }
    g_clear_handle_id(&spare->watch, g_source_remove);
    g_clear_handle_id(&spare->timer, g_source_remove);
    gw_fd_clear(&spare->to_qemu);
    gw_fd_clear(&spare->from_qemu);
    g_clear_error(&spare->failure);
    g_string_free(spare->line, TRUE);
    g_free(spare->command);
    g_free(spare);
}
