// SPDX-License-Identifier: Apache-2.0
/*
 * godwitd: options, then the daemon in the foreground. Exit status: 0 stopped on request, 1 could
 * not start or go on, 2 mistakes in the options or the configuration.
 */
#include "base/log.h"
#include "daemon/config.h"
#include "daemon/daemon.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#define EXIT_MISTAKE 2

typedef struct Options {
    char *config;
    gboolean check_config;
    gboolean print_config;
    gboolean version;
    gboolean debug;
} Options;

static bool
parse_options(int *argc, char ***argv, Options *options, GError **error)
{
    const GOptionEntry entries[] = {
        {"config", 'c', 0, G_OPTION_ARG_FILENAME, &options->config,
         "Read FILE and conf.d/*.conf beside it (" GW_CONFIG_DEFAULT_PATH ")", "FILE"},
        {"check-config", 0, 0, G_OPTION_ARG_NONE, &options->check_config,
         "Tell all mistakes in the configuration and exit", NULL},
        {"print-config", 0, 0, G_OPTION_ARG_NONE, &options->print_config,
         "Print every key with its default and exit", NULL},
        {"debug", 0, 0, G_OPTION_ARG_NONE, &options->debug, "Log everything", NULL},
        {"version", 0, 0, G_OPTION_ARG_NONE, &options->version, "Print the version and exit", NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);

    g_option_context_set_summary(
        context, "The daemon of Godwit: runs the guests of this host and moves them.\n"
                 "It stays in the foreground. Guests keep running when it stops.");
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, argc, argv, error)) {
        return false;
    }
    if (*argc > 1) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "unexpected argument '%s'", (*argv)[1]);
        return false;
    }
    return true;
}

static int
run(const GwDaemonOptions *options, GwConfig *config)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwDaemon) daemon = gw_daemon_new(options, config, &error);

    if (!daemon || !gw_daemon_run(daemon, &error)) {
        gw_err(NULL, "godwitd ends: %s", error->message);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

int
main(int argc, char **argv)
{
    Options options = {0};
    g_autoptr(GError) error = NULL;

    umask(077);
    signal(SIGPIPE, SIG_IGN);
    if (!parse_options(&argc, &argv, &options, &error)) {
        fprintf(stderr, "godwitd: %s (see godwitd --help)\n", error->message);
        return EXIT_MISTAKE;
    }
    g_autofree char *owned_path = options.config;
    if (options.version) {
        printf("godwitd %s\n", GODWIT_VERSION);
        return EXIT_SUCCESS;
    }
    if (options.print_config) {
        g_autofree char *sample = gw_config_sample();
        fputs(sample, stdout);
        return EXIT_SUCCESS;
    }
    const GwDaemonOptions daemon_options = {
        .config_path = owned_path ? owned_path : GW_CONFIG_DEFAULT_PATH,
        .config_may_be_absent = owned_path == NULL,
        .debug = options.debug,
    };
    GwConfig *config =
        gw_config_load(daemon_options.config_path, daemon_options.config_may_be_absent, &error);
    if (!config) {
        fprintf(stderr, "%s\n", error->message);
        return EXIT_MISTAKE;
    }
    if (options.check_config) {
        gw_config_free(config);
        printf("%s: no mistakes\n", daemon_options.config_path);
        return EXIT_SUCCESS;
    }
    return run(&daemon_options, config);
}
