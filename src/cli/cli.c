// SPDX-License-Identifier: Apache-2.0
/*
 * Options, the daemon's client and output that sub-commands share. Owns nothing beyond what its
 * callers hold; one thread.
 */
#include "cli/cli.h"
#include "base/fd.h"
#include "base/units.h"
#include "cli/text.h"

#include <stdio.h>
#include <string.h>

static char *
command_name(const GwCommand *command)
{
    return g_strjoin(" ", "godwit", command->noun, command->verb, NULL);
}

/* GLib's parser takes options out of the list and leaves the arguments. */
static bool
take_options(GwCli *cli, GStrv *args, const GOptionEntry *options, GError **error)
{
    g_autofree char *name = command_name(cli->command);
    g_autofree char *summary = g_strdup_printf("%s: %s.", name, cli->command->help);
    g_autofree char *socket_path = NULL;
    gboolean json = FALSE;
    gboolean help = FALSE;
    const GOptionEntry common[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
        {"socket", 0, 0, G_OPTION_ARG_FILENAME, &socket_path,
         "godwitd's socket (GODWIT_SOCKET, " GW_CLIENT_DEFAULT_SOCKET ")", "PATH"},
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, "Show this", NULL},
        {0}};
    g_autoptr(GOptionContext) context = g_option_context_new(cli->command->arguments);
    g_autoptr(GError) problem = NULL;

    g_set_prgname(name);
    g_option_context_set_help_enabled(context, FALSE);
    g_option_context_set_summary(context, summary);
    if (options) {
        g_option_context_add_main_entries(context, options, NULL);
    }
    g_option_context_add_main_entries(context, common, NULL);
    if (!g_option_context_parse_strv(context, args, &problem)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s (see %s --help)", problem->message,
                    name);
        return false;
    }
    cli->json = cli->json || json;
    if (socket_path) {
        g_free(cli->socket_path);
        cli->socket_path = g_steal_pointer(&socket_path);
    }
    if (help) {
        g_autofree char *text = g_option_context_get_help(context, TRUE, NULL);
        fputs(text, stdout);
        cli->stopped = true;
    }
    return !help;
}

bool
gw_cli_parse(GwCli *cli, char **args, const GOptionEntry *options, guint min, guint max,
             GError **error)
{
    g_autofree char *name = command_name(cli->command);
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();

    g_strv_builder_add(builder, name);
    g_strv_builder_addv(builder, (const char **)args);
    g_auto(GStrv) list = g_strv_builder_end(builder);
    if (!take_options(cli, &list, options, error)) {
        return false;
    }
    char **left = list + 1;
    if (left[0] && strcmp(left[0], "--") == 0) {
        left++;
    }
    guint count = g_strv_length(left);
    if (count < min || count > max) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "usage: %s [OPTION...] %s (see %s --help)",
                    name, cli->command->arguments, name);
        return false;
    }
    /* What is left fits: it came out of @args. */
    guint total = g_strv_length(args);
    for (guint i = 0; i < total; i++) {
        g_free(args[i]);
        args[i] = i < count ? g_strdup(left[i]) : NULL;
    }
    return true;
}

GwClient *
gw_cli_client(GwCli *cli)
{
    if (!cli->client) {
        const char *path = cli->socket_path ? cli->socket_path : g_getenv("GODWIT_SOCKET");
        cli->client = gw_client_new(path && path[0] ? path : GW_CLIENT_DEFAULT_SOCKET);
    }
    return cli->client;
}

json_t *
gw_cli_call(GwCli *cli, const char *method, const char *path, const json_t *body, GError **error)
{
    return gw_client_call(gw_cli_client(cli), method, path, body, error);
}

void
gw_cli_print_json(const json_t *value, bool one_line)
{
    size_t layout = one_line ? (size_t)JSON_COMPACT : (size_t)JSON_INDENT(2);
    char *text = json_dumps(value, layout | JSON_ENSURE_ASCII | JSON_ENCODE_ANY);

    puts(text ? text : "null");
    fflush(stdout);
    free(text);
}

void
gw_cli_print_members(const json_t *array, const char *key)
{
    const json_t *object;
    size_t i;

    json_array_foreach(array, i, object)
    {
        g_autofree char *text = gw_text_escape(gw_json_str(object, key, ""), false);
        puts(text);
    }
}

bool
gw_cli_duration_ms(const char *option, const char *text, int64_t *ms, GError **error)
{
    int64_t us = 0;

    if (!text) {
        return true;
    }
    if (!gw_parse_duration(text, &us, error)) {
        g_prefix_error(error, "%s: ", option);
        return false;
    }
    if (us < 1000) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: '%s' is less than 1 ms", option, text);
        return false;
    }
    *ms = us / 1000;
    return true;
}

char *
gw_cli_read_file(const char *path, size_t max_bytes, GError **error)
{
    size_t len = 0;
    g_autofree char *text =
        gw_file_read(strcmp(path, "-") == 0 ? "/dev/stdin" : path, max_bytes, &len, error);

    if (text && strlen(text) != len) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' has a NUL byte: it is no text file",
                    path);
        return NULL;
    }
    return g_steal_pointer(&text);
}
