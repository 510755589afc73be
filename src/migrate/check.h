// SPDX-License-Identifier: Apache-2.0
/*
 * The checks before a move: each a row in a table, all run at once, each with its remedy.
 *
 * The source gathers what it knows (the VM, its QEMU, its files) and asks the target to judge it
 * against what the target has. Nothing is changed on either side: disks are proven to be the same
 * by a byte-range lock that the source takes on them, at an offset made for this run, and that the
 * target must see (check_files.c). The result is the plan of migrate.h.
 *
 * Main context; file probes run in a worker thread, because a dead file server may block them.
 */
#pragma once

#include "migrate/internal.h"

#define GW_CHECK_PROTOCOL        1 /* of the messages between two daemons, see docs/wire-format.md */
#define GW_CHECK_OLDEST_PROTOCOL 1
#define GW_CHECK_TIMEOUT_MS      30000

typedef struct GwCheckRun GwCheckRun;

/* @plan: as in migrate.h, borrowed; NULL when @error is set (the run itself failed). */
typedef void (*GwCheckFn)(json_t *plan, const GError *error, void *data);

/*
 * @request: {"vm", "target", "transport", "move" (nullable: the id of the move that asks), "verify"
 * (nullable)}. For "auto" the plan has the "transport" that was chosen, and "transport_reason".
 */
GwCheckRun *gw_check_run(GwMoves *moves, json_t *request, GwCheckFn callback,
                         void *data) GW_MUST_USE;
/* Stops it without a callback. NULL is fine. */
void gw_check_run_free(GwCheckRun *run);

/*
 * The target's answer to a "check" message that came @from there: an array of results. @port:
 * unless 0, one on which a QEMU could wait for a move; it is open until the answer is freed.
 * @plain: this host allows the plain transport from there.
 */
typedef void (*GwCheckAnswerFn)(json_t *checks, uint16_t port, bool plain, void *data);
typedef struct GwCheckAnswer GwCheckAnswer;
GwCheckAnswer *gw_check_answer(GwMoves *moves, const struct sockaddr_storage *from,
                               const json_t *message, GwCheckAnswerFn callback,
                               void *data) GW_MUST_USE;
void gw_check_answer_free(GwCheckAnswer *answer);

/* The errors of a plan in one message. */
char *gw_check_summary(const json_t *plan) GW_MUST_USE;

/* --- results ---------------------------------------------------------------------------------- */

/* Adds {"id", "status", "message", "remedy"} to the array @out; @remedy NULL where none is needed.
 */
void gw_check_add(json_t *out, const char *id, const char *status, const char *remedy,
                  const char *format, ...) GW_PRINTF(5, 6);

/* --- transport (check_transport.c) ------------------------------------------------------------ */

typedef struct GwTransportProbe GwTransportProbe;
typedef void (*GwTransportProbeFn)(void *data);

#define GW_PLAIN_REMEDY                                                                            \
    "if nobody but hosts can reach that network: name it in plain-networks in godwitd.conf on "    \
    "that host and restart godwitd; or use --transport lane"

/* The source's row for the plain transport to where @lane's other end is. */
void gw_check_plain(const GwMovesOptions *options, GwLane *lane, json_t *checks);
/* The row that says what it means. */
void gw_check_warn_of_plain(json_t *checks);

/* Of the link to @host. @done: told at the end of each step. */
GwTransportProbe *gw_transport_probe_new(const char *host, GwTransportProbeFn done,
                                         void *data) GW_MUST_USE;
void gw_transport_probe_free(GwTransportProbe *probe);
/* Measures the link. @lane is ready; borrowed until @done or gw_transport_probe_stop(). */
void gw_transport_probe_measure(GwTransportProbe *probe, const GwMovesOptions *options,
                                GwLane *lane);
void gw_transport_probe_stop(GwTransportProbe *probe);
/*
 * Tries the target's port, if the answer matters. False: it does not, and nothing is told.
 * @address: where QEMU would connect to by itself; @plain: the target allows the plain transport.
 */
bool gw_transport_probe_knock(GwTransportProbe *probe, const char *address, uint16_t port,
                              bool plain) GW_MUST_USE;
/* @reason: transfer full. */
GwTransport gw_transport_probe_choose(GwTransportProbe *probe, char **reason) GW_MUST_USE;

/* --- files (check_files.c) -------------------------------------------------------------------- */

typedef struct GwFileProbe GwFileProbe;

/* @files: array of what was found, borrowed. */
typedef void (*GwFileProbeFn)(json_t *files, void *data);

/*
 * Source: opens, locks and describes the files of a definition:
 * [{"kind": "disk"|"boot", "name", "path", "read_only", "size", "device": bool, "wwid",
 *   "offset" (of the lock), "sha256" (boot), "error"}]. The locks last until the probe is freed.
 */
GwFileProbe *gw_file_probe_source(const GwDefinition *definition, GwFileProbeFn callback,
                                  void *data) GW_MUST_USE;
/* Target: adds "verdict" ("ok" or why not) to each entry of @files (borrowed, copied). */
GwFileProbe *gw_file_probe_target(const json_t *files, GwFileProbeFn callback,
                                  void *data) GW_MUST_USE;
void gw_file_probe_free(GwFileProbe *probe);
