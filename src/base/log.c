// SPDX-License-Identifier: Apache-2.0
/*
 * Log lines with fields: to the journal when stderr is connected to it, else to stderr.
 * Owns only the debug switch, set once at start. Any thread; a line is one write. Never fails:
 * what cannot be written is lost.
 */
#include "base/log.h"
#include "base/fd.h"
#include "base/units.h"

#include <stdarg.h>
#include <string.h>

static bool show_debug;

void
gw_log_init(bool debug)
{
    show_debug = debug;
}

/* Guests, QEMU and peers choose parts of messages: no control characters reach a terminal, neither
 * C0 nor C1 (U+009B begins a sequence as well as ESC [ does), and nothing that is not UTF-8. */
static void
append_escaped(GString *line, const char *text)
{
    while (*text) {
        const gunichar c = g_utf8_get_char_validated(text, -1);
        const bool valid = c != (gunichar)-1 && c != (gunichar)-2;
        if (*text == '\n') {
            g_string_append(line, " | ");
        } else if (!valid || g_unichar_iscntrl(c)) {
            g_string_append_printf(line, "\\x%02x", valid ? c : (unsigned char)*text);
        } else {
            g_string_append_unichar(line, c);
        }
        text = valid ? g_utf8_next_char(text) : text + 1;
    }
}

static void
append_field(GString *line, const char *name, const char *value)
{
    if (value) {
        g_string_append_printf(line, "%s=", name);
        append_escaped(line, value);
        g_string_append_c(line, ' ');
    }
}

static void
log_to_stderr(GwLogLevel level, const GwLogFields *fields, const char *message)
{
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG"};
    g_autofree char *time = gw_format_time(gw_wall_us());
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_append_printf(line, "%s %-5s ", time, names[level]);
    append_field(line, "vm", fields->vm);
    append_field(line, "host", fields->host);
    append_field(line, "move", fields->move);
    append_field(line, "step", fields->step);
    append_escaped(line, message);
    g_string_append_c(line, '\n');
    if (!gw_fd_write_full(STDERR_FILENO, line->str, line->len)) {
        return; /* nowhere left to complain */
    }
}

static bool
log_to_journal(GwLogLevel level, const GwLogFields *fields, const char *message)
{
    static const char *const priorities[] = {"3", "4", "6", "7"};
    g_autoptr(GString) clean = g_string_new(NULL);
    const struct {
        const char *key;
        const char *value;
    } all[] = {
        {"GODWIT_VM", fields->vm},
        {"GODWIT_HOST", fields->host},
        {"GODWIT_MOVE", fields->move},
        {"GODWIT_STEP", fields->step},
    };
    GLogField journal[3 + G_N_ELEMENTS(all)];
    gsize n = 0;

    append_escaped(clean, message);
    journal[n++] = (GLogField){"MESSAGE", clean->str, -1};
    journal[n++] = (GLogField){"PRIORITY", priorities[level], -1};
    journal[n++] = (GLogField){"SYSLOG_IDENTIFIER", "godwitd", -1};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        if (all[i].value) {
            journal[n++] = (GLogField){all[i].key, all[i].value, -1};
        }
    }
    return g_log_writer_journald(G_LOG_LEVEL_MESSAGE, journal, n, NULL) == G_LOG_WRITER_HANDLED;
}

void
gw_log(GwLogLevel level, const GwLogFields *fields, const char *format, ...)
{
    static const GwLogFields no_fields;
    va_list args;

    if (level == GW_LOG_LEVEL_DEBUG && !show_debug) {
        return;
    }
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    fields = fields ? fields : &no_fields;
    if (!g_log_writer_is_journald(STDERR_FILENO) || !log_to_journal(level, fields, message)) {
        log_to_stderr(level, fields, message);
    }
}
