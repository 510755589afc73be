// SPDX-License-Identifier: Apache-2.0
/*
 * Reads and trims QEMU's logs. Owns nothing; main context. Their text may be chosen by a guest: it
 * is only ever shown, never obeyed. A log that cannot be read gives no explanation, no error.
 */
#include "vm/qemu_log.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define START_MARK "=== start "
#define TAIL_BYTES (16u * 1024u)
/* Of one explanation. */
#define MAX_EXPLANATION_BYTES 2000u

typedef struct Remedy {
    const char *symptom;
    const char *advice; /* %s: the QEMU user */
} Remedy;

static const Remedy remedies[] = {
    {"Failed to get \"write\" lock", "another QEMU, here or on another host, has this image open: "
                                     "stop it first (two guests on one image destroy it)"},
    {"Failed to get shared \"write\" lock",
     "another QEMU, here or on another host, has this image open: stop it first"},
    {"Failed to get \"consistent read\" lock",
     "another QEMU, here or on another host, writes to this image: stop it first"},
    {"Permission denied", "give the user '%s' that QEMU runs as access to the file and the "
                          "folders above it (setfacl -m u:%s:rw FILE; setfacl -m u:%s:x FOLDER)"},
    {"No such file or directory",
     "check the path in the definition and that its storage is mounted on this host"},
    {"does not support O_DIRECT", "use cache = writeback for a disk on this file system"},
    {"may not support O_DIRECT", "use cache = writeback for a disk on this file system"},
    {"Image is not in qcow2 format",
     "set the disk's format to what the file is (see qemu-img info)"},
    {"Cannot allocate memory", "this host has too little free memory for the VM"},
    {"unsupported machine type", "this host's QEMU is too old for the VM's machine type"},
    {"failed to initialize kvm", "use accel = auto, which finds out whether KVM works"},
};

bool
gw_qemu_log_begin(const char *path, const char *const *argv, GError **error)
{
    g_auto(GwFd) fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    g_autofree char *now = gw_format_time(gw_wall_us());
    g_autoptr(GString) line = g_string_new(START_MARK);

    g_string_append_printf(line, "%s", now);
    for (; *argv; argv++) {
        g_autofree char *quoted = g_shell_quote(*argv);
        g_string_append_printf(line, " %s", quoted);
    }
    g_string_append_c(line, '\n');
    if (fd < 0 || !gw_fd_write_full(fd, line->str, line->len)) {
        gw_set_error_errno(error, errno, "cannot write QEMU's log '%s'", path);
        return false;
    }
    return true;
}

/* The last @max bytes of a file, NUL-terminated; NULL if it cannot be read. */
static char *
read_end(int fd, size_t max, size_t *len)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || lseek(fd, MAX(0, st.st_size - (off_t)max), SEEK_SET) < 0) {
        return NULL;
    }
    g_autofree char *text = g_try_malloc(max + 1);
    ssize_t count = text ? gw_fd_read_full(fd, text, max) : -1;
    if (count < 0) {
        return NULL;
    }
    text[count] = '\0';
    *len = (size_t)count;
    return g_steal_pointer(&text);
}

char *
gw_qemu_log_tail(const char *path)
{
    g_auto(GwFd) fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    g_autofree char *text = read_end(fd, TAIL_BYTES, &len);

    if (!text) {
        return g_strdup("");
    }
    g_autofree char *valid = g_utf8_make_valid(text, (gssize)len);
    const char *begin = valid;
    for (const char *mark = valid; (mark = strstr(mark, START_MARK)); mark++) {
        const char *newline = strchr(mark, '\n');
        if (newline && (mark == valid || mark[-1] == '\n')) {
            begin = newline + 1;
        }
    }
    return g_strdup(begin);
}

void
gw_qemu_log_trim(const char *path)
{
    g_auto(GwFd) fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    size_t len;

    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= GW_LOG_MAX_BYTES) {
        return;
    }
    g_autofree char *end = read_end(fd, GW_LOG_KEPT_BYTES, &len);
    if (!end || ftruncate(fd, 0) < 0 || !gw_fd_write_full(fd, end, len)) {
        gw_warn(NULL, "cannot cut the log '%s': %s", path, g_strerror(errno));
    }
}

/* Behind "2026-11-22T02:57:51.665932Z ", if it is there. */
static const char *
skip_timestamp(const char *line)
{
    static const char shape[] = "0000-00-00T00:00:00.";
    const char *at = line;

    for (unsigned i = 0; shape[i]; i++, at++) {
        if (shape[i] == '0' ? !g_ascii_isdigit(*at) : *at != shape[i]) {
            return line;
        }
    }
    while (g_ascii_isdigit(*at)) {
        at++;
    }
    return g_str_has_prefix(at, "Z ") ? at + 2 : line;
}

/* Behind "qemu-system-x86_64: " or "qemu: "; NULL if the line is not a message of QEMU's. */
static const char *
skip_program(const char *line)
{
    const char *colon = strstr(line, ": ");

    if (!g_str_has_prefix(line, "qemu") || !colon || memchr(line, ' ', (size_t)(colon - line))) {
        return NULL;
    }
    return colon + 2;
}

/* An option that is quoted whole (-blockdev {…}: ) says nothing to a reader. */
static const char *
skip_option(const char *message)
{
    const char *end = NULL;

    if (message[0] != '-') {
        return message;
    }
    for (const char *at = message; (at = strstr(at, "}: ")); at++) {
        end = at;
    }
    return end ? end + 3 : message;
}

/* The last error of QEMU and the lines of hints that follow it. */
static char *
last_error(const char *tail)
{
    g_auto(GStrv) lines = g_strsplit(tail, "\n", -1);
    g_autoptr(GString) out = g_string_new(NULL);
    bool taking = false;

    for (char **line = lines; *line; line++) {
        const char *text = skip_timestamp(g_strstrip(*line));
        const char *message = skip_program(text);
        if (message) {
            taking = !g_str_has_prefix(message, "warning:") && !g_str_has_prefix(message, "info:");
            if (taking) {
                g_string_assign(out, skip_option(message));
            }
        } else if (taking && text[0] && out->len < MAX_EXPLANATION_BYTES) {
            g_string_append_printf(out, " %s", text);
        }
    }
    return out->len ? g_string_free(g_steal_pointer(&out), FALSE) : NULL;
}

char *
gw_qemu_log_explain(const char *tail, const char *qemu_user)
{
    g_autofree char *message = last_error(tail);

    if (!message) {
        return NULL;
    }
    g_autoptr(GString) out =
        g_string_new_len(message, (gssize)MIN(strlen(message), (size_t)MAX_EXPLANATION_BYTES));
    for (unsigned i = 0; i < G_N_ELEMENTS(remedies); i++) {
        if (strstr(message, remedies[i].symptom)) {
            g_autoptr(GString) advice = g_string_new(remedies[i].advice);
            g_string_replace(advice, "%s", qemu_user ? qemu_user : g_get_user_name(), 0);
            g_string_append_printf(out, ": %s", advice->str);
            break;
        }
    }
    return g_utf8_make_valid(out->str, (gssize)out->len);
}
