// SPDX-License-Identifier: Apache-2.0
/*
 * From a command line to a command and from its error to an exit status. One thread. Output that
 * could not be written (a full disk, a closed pipe) is a failure.
 */
#include "cli/cli.h"
#include "cli/exit.h"
#include "cli/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const GwCommand *const tables[] = {gw_commands_move, gw_commands_vm, gw_commands_host};

static void
print_help(FILE *out)
{
    fputs("godwit moves running virtual machines between hosts, live.\n\nUsage:\n"
          "  godwit [--json] [--socket PATH] COMMAND ...\n\nCommands:\n",
          out);
    for (size_t t = 0; t < G_N_ELEMENTS(tables); t++) {
        for (const GwCommand *command = tables[t]; command->noun; command++) {
            g_autofree char *usage =
                g_strjoin(" ", command->noun, command->verb ? command->verb : command->arguments,
                          command->verb ? command->arguments : "", NULL);
            fprintf(out, "  %-32s %s\n", g_strchomp(usage), command->help);
        }
    }
    fputs("\n`godwit COMMAND --help` tells a command's options; godwit(1) tells the rest.\n", out);
}

/* The command of @args, with *@used words. */
static const GwCommand *
find_command(char **args, guint *used, GError **error)
{
    bool noun_known = false;

    for (size_t t = 0; t < G_N_ELEMENTS(tables); t++) {
        for (const GwCommand *command = tables[t]; command->noun; command++) {
            if (strcmp(command->noun, args[0]) != 0) {
                continue;
            }
            noun_known = true;
            if (!command->verb || g_strcmp0(command->verb, args[1]) == 0) {
                *used = command->verb ? 2 : 1;
                return command;
            }
        }
    }
    g_autofree char *what =
        noun_known && args[1] ? g_strjoin(" ", args[0], args[1], NULL) : g_strdup(args[0]);
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: '%s' (see godwit --help)",
                noun_known && !args[1] ? "a verb is missing after" : "no such command", what);
    return NULL;
}

/* Options before the command. Returns how many words they take, or -1 with an error. */
static int
take_global_options(GwCli *cli, char **args, GError **error)
{
    int i = 0;

    for (; args[i] && args[i][0] == '-'; i++) {
        if (strcmp(args[i], "--json") == 0) {
            cli->json = true;
        } else if (strcmp(args[i], "--version") == 0) {
            puts("godwit " GODWIT_VERSION);
            cli->stopped = true;
        } else if (strcmp(args[i], "--help") == 0 || strcmp(args[i], "-h") == 0) {
            print_help(stdout);
            cli->stopped = true;
        } else if (g_str_has_prefix(args[i], "--socket=")) {
            g_free(cli->socket_path);
            cli->socket_path = g_strdup(args[i] + strlen("--socket="));
        } else if (strcmp(args[i], "--socket") == 0 && args[i + 1]) {
            g_free(cli->socket_path);
            cli->socket_path = g_strdup(args[++i]);
        } else {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                        "unknown or incomplete option '%s' (see godwit --help)", args[i]);
            return -1;
        }
    }
    return i;
}

static bool
run(GwCli *cli, char **args, GError **error)
{
    guint used = 0;
    int options = take_global_options(cli, args, error);

    if (options < 0) {
        return false;
    }
    if (cli->stopped) {
        return true;
    }
    if (!args[options]) {
        print_help(stderr);
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "a command is missing");
        return false;
    }
    cli->command = find_command(args + options, &used, error);
    if (!cli->command) {
        return false;
    }
    g_auto(GStrv) rest = g_strdupv(args + options + used);
    return cli->command->run(cli, rest, error) || cli->stopped;
}

static void
print_error(const GwCli *cli, const GError *error)
{
    if (cli->json) {
        g_autoptr(json_t) object = json_object();
        json_object_set_new(object, "error", gw_json_from_error(error));
        char *text = json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII);
        fprintf(stderr, "%s\n", text);
        free(text);
        return;
    }
    g_autofree char *text = gw_text_escape(error->message, true);
    fprintf(stderr, "godwit: %s\n", text);
}

int
gw_cli_main(char **args)
{
    GwCli cli = {0};
    g_autoptr(GError) error = NULL;
    bool ok = run(&cli, args + 1, &error);

    gw_client_free(cli.client);
    g_free(cli.socket_path);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "godwit: cannot write the output: %s\n", g_strerror(errno));
        return GW_EXIT_FAILURE;
    }
    if (!ok) {
        print_error(&cli, error);
        return gw_exit_status(error);
    }
    return cli.interrupted ? GW_EXIT_INTERRUPTED : GW_EXIT_SUCCESS;
}
