// SPDX-License-Identifier: Apache-2.0
/*
 * What every sub-command works with. One thread; blocking.
 *
 * A command prints its result on stdout (people's text, or JSON with --json) and returns false with
 * an error set when it failed; main() prints the error on stderr and turns its code into the exit
 * status (exit.h). Whatever a guest, peer or QEMU may have chosen goes through text.h first.
 */
#pragma once

#include "api/client.h"
#include "base/error.h"
#include "base/json.h"

typedef struct GwCli GwCli;

typedef struct GwCommand {
    const char *noun;
    const char *verb; /* NULL: the noun alone is the command */
    const char *arguments;
    const char *help;
    bool (*run)(GwCli *cli, char **args, GError **error);
} GwCommand;

struct GwCli {
    bool json;
    bool stopped;      /* nothing more to do and no error: --help was shown */
    bool interrupted;  /* by Ctrl-C, with the work going on in the daemon */
    char *socket_path; /* NULL until given */
    GwClient *client;
    const GwCommand *command;
};

/*
 * Takes the options out of @args (a NULL-terminated list) and checks that @min to @max arguments
 * are left there. @options may be NULL. False: stop, with an error, or without after --help.
 */
bool gw_cli_parse(GwCli *cli, char **args, const GOptionEntry *options, guint min, guint max,
                  GError **error) GW_MUST_USE;

/* The daemon's client, made when first needed. */
GwClient *gw_cli_client(GwCli *cli);

/* gw_client_call() on it. */
json_t *gw_cli_call(GwCli *cli, const char *method, const char *path, const json_t *body,
                    GError **error) GW_MUST_USE;

/* Prints JSON on stdout with nothing but ASCII: indented, or in one line. */
void gw_cli_print_json(const json_t *value, bool one_line);

/* One member of each object of an array, a line each: for scripts and completion. */
void gw_cli_print_members(const json_t *array, const char *key);

/* "300ms" to milliseconds; NULL leaves @ms alone. @option is for the message. */
bool gw_cli_duration_ms(const char *option, const char *text, int64_t *ms,
                        GError **error) GW_MUST_USE;

/* A small file, or stdin for "-". Transfer full. */
char *gw_cli_read_file(const char *path, size_t max_bytes, GError **error) GW_MUST_USE;

/* A whole command line, args[0] being the program's name. Returns the exit status. */
int gw_cli_main(char **args) GW_MUST_USE;

/* The tables of commands; each ends with an empty row. */
extern const GwCommand gw_commands_vm[];
extern const GwCommand gw_commands_host[];
extern const GwCommand gw_commands_move[];
