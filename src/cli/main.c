// SPDX-License-Identifier: Apache-2.0
/*
 * The `godwit` command: see run.c for its commands and exit.h for its exit statuses.
 */
#include "cli/cli.h"

#include <locale.h>
#include <signal.h>

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    /* A closed pipe is an error of the write, not the end of a process that holds a terminal. */
    signal(SIGPIPE, SIG_IGN);
    return gw_cli_main(argv);
}
