// SPDX-License-Identifier: Apache-2.0
/*
 * The store's promise: what a callback reported as committed survives, and no transaction is ever
 * half there. Held against SIGKILL of a writing process, against power cuts that lose and tear
 * what was not synced, and against syncs that fail.
 *
 * Commit number N writes four keys: "first" = "last" = "count" = N, and "log/N" of random length.
 */
#include "powercut.h"
#include "support.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define IN_FLIGHT 4
#define KILLS     100
#define CUTS      60

/* --- commits with numbers --------------------------------------------------------------------- */

/* Its length and bytes follow from the number, so that a reader can check all of it. */
static char *
log_value(int64_t number)
{
    return g_strnfill((gsize)(1 + number * 7919 % 9000), (char)('a' + number % 26));
}

static GwStoreTxn *
numbered_txn(int64_t number)
{
    g_autofree char *text = g_strdup_printf("%" PRId64, number);
    g_autofree char *key = g_strdup_printf("log/%" PRId64, number % 50);
    g_autofree char *value = log_value(number);
    GwStoreTxn *txn = gw_store_txn_new();

    gw_store_txn_put_text(txn, "first", text);
    gw_store_txn_put_text(txn, key, value);
    gw_store_txn_put_text(txn, "count", text);
    gw_store_txn_put_text(txn, "last", text);
    return txn;
}

static int64_t
number_under(GwStore *store, const char *key)
{
    g_autofree char *text = test_get(store, key);

    return text ? g_ascii_strtoll(text, NULL, 10) : 0;
}

/* The number of the last commit in the store, having checked that all is whole. */
static int64_t
check_whole(GwStore *store)
{
    const int64_t last = number_under(store, "last");
    g_auto(Outcome) range = test_range(store, "", 0);

    g_assert_cmpint(number_under(store, "first"), ==, last);
    g_assert_cmpint(number_under(store, "count"), ==, last);
    g_assert_cmpint(range.revision, ==, 1 + last);
    g_assert_cmpint(range.entries->len, ==, last ? 3 + MIN(last, 50) : 0);
    for (int64_t number = MAX(last - 49, 1); number <= last; number++) {
        g_autofree char *key = g_strdup_printf("log/%" PRId64, number % 50);
        g_autofree char *expected = log_value(number);
        g_autofree char *value = test_get(store, key);
        g_assert_cmpstr(value, ==, expected);
    }
    return last;
}

/* --- SIGKILL ---------------------------------------------------------------------------------- */

typedef struct Writer {
    GwStore *store;
    int64_t next;
} Writer;

static void write_next(Writer *writer);

static void
report(const GwStoreTxnResult *result, const GError *error, void *data)
{
    Writer *writer = data;
    const int64_t number = result->revision - 1;

    if (error || write(STDOUT_FILENO, &number, sizeof number) != sizeof number) {
        abort();
    }
    write_next(writer);
}

static void
write_next(Writer *writer)
{
    gw_store_commit(writer->store, numbered_txn(writer->next++), report, writer);
}

/* The child: commits for ever, IN_FLIGHT at a time, and reports each success on stdout. */
static int
writer_main(const char *path, int64_t first)
{
    g_autoptr(GError) error = NULL;
    Writer writer = {gw_store_sqlite_open(path, &error), first};

    if (!writer.store) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    for (int i = 0; i < IN_FLIGHT; i++) {
        write_next(&writer);
    }
    for (;;) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static bool
read_report(int fd, int64_t *reported)
{
    int64_t number;
    ssize_t count = read(fd, &number, sizeof number);

    g_assert_true(count == 0 || count == sizeof number);
    if (count > 0) {
        g_assert_cmpint(number, ==, *reported + 1);
        *reported = number;
    }
    return count > 0;
}

/* Starts a writer from commit @first on; its reports come from @fd. */
static GPid
start_writer(const char *path, int64_t first, int *fd)
{
    g_autofree char *number = g_strdup_printf("%" PRId64, first);
    const char *const argv[] = {"/proc/self/exe", "--writer", path, number, NULL};
    g_autoptr(GError) error = NULL;
    GPid pid;

    g_spawn_async_with_pipes(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid,
                             NULL, fd, NULL, &error);
    g_assert_no_error(error);
    return pid;
}

/* Kills the writer, reads what it had still reported, and closes @fd. */
static void
kill_writer(GPid pid, int fd, int64_t *reported)
{
    int status;

    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    while (read_report(fd, reported)) {
    }
    close(fd);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Runs a writer after commit @last and kills it after a random number of reports and a random part
 * of a commit. Returns the last number that it reported. */
static int64_t
run_and_kill(const char *path, int64_t last)
{
    int64_t reported = last;
    int fd = -1;
    const GPid pid = start_writer(path, last + 1, &fd);

    for (int n = g_test_rand_int_range(0, 12); n > 0; n--) {
        g_assert_true(read_report(fd, &reported));
    }
    g_usleep((gulong)g_test_rand_int_range(0, 3000));
    kill_writer(pid, fd, &reported);
    return reported;
}

/* While one process has the store, another one is refused and does the first one no harm. */
static void
test_second_process(void)
{
    char *folder = test_folder_new();
    g_autofree char *path = g_build_filename(folder, "store.db", NULL);
    g_autoptr(GError) error = NULL;
    int64_t reported = 0;
    int fd = -1;
    const GPid pid = start_writer(path, 1, &fd);

    g_assert_true(read_report(fd, &reported));
    g_assert_null(gw_store_sqlite_open(path, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_STATE);
    for (int n = 0; n < 10; n++) {
        g_assert_true(read_report(fd, &reported));
    }
    kill_writer(pid, fd, &reported);
    GwStore *store = test_store_open(folder);
    g_assert_cmpint(check_whole(store), >=, reported);
    gw_store_free(store);
    test_folder_free(folder);
}

static void
test_kill(void)
{
    char *folder = test_folder_new();
    g_autofree char *path = g_build_filename(folder, "store.db", NULL);
    int64_t last = 0;
    int unreported = 0;

    for (int round = 0; round < KILLS; round++) {
        const int64_t reported = run_and_kill(path, last);
        g_autoptr(GwStore) store = test_store_open(folder);
        last = check_whole(store);
        g_assert_cmpint(last, >=, reported);
        g_assert_cmpint(last, <=, reported + IN_FLIGHT);
        unreported += last > reported;
    }
    g_test_message("%d kills, %" PRId64 " commits, killed between commit and report %d times",
                   KILLS, last, unreported);
    test_folder_free(folder);
}

/* --- power cuts ------------------------------------------------------------------------------- */

static void
count_report(const GwStoreTxnResult *result, const GError *error, void *data)
{
    g_assert_no_error(error);
    *(int64_t *)data = result->revision - 1;
}

/* Opens what a cut would leave now, and checks it against what had been reported before. */
static void
check_cut(PowercutSurvivors survivors, int64_t reported, int64_t submitted)
{
    char *folder = test_folder_new();

    powercut_save(folder, survivors);
    GwStore *store = test_store_open(folder);
    const int64_t last = check_whole(store);
    g_assert_cmpint(last, >=, reported);
    g_assert_cmpint(last, <=, submitted);
    gw_store_free(store);
    test_folder_free(folder);
}

/* Cuts at random moments while the worker writes; the log is checkpointed on the way. */
static void
test_power_cut(void)
{
    char *folder = test_folder_new();
    powercut_follow(folder);
    GwStore *store = test_store_open(folder);
    int64_t reported = 0;
    int64_t submitted = 0;

    for (int cut = 0; cut < CUTS; cut++) {
        for (int n = g_test_rand_int_range(1, 25); n > 0; n--) {
            gw_store_commit(store, numbered_txn(++submitted), count_report, &reported);
        }
        const int64_t until = submitted - g_test_rand_int_range(0, IN_FLIGHT);
        while (reported < until) {
            g_main_context_iteration(NULL, TRUE);
        }
        check_cut(cut % 3 ? POWERCUT_RANDOM_SECTORS : POWERCUT_SYNCED_ONLY, reported, submitted);
    }
    gw_store_free(store);
    g_test_message("%d cuts, %" PRId64 " commits", CUTS, submitted);
    test_folder_free(folder);
}

/* --- syncs that fail -------------------------------------------------------------------------- */

static void
expect_failure(GwStore *store, int64_t number)
{
    g_auto(Outcome) outcome = test_commit(store, numbered_txn(number));

    g_assert_error(outcome.error, GW_ERROR, GW_ERROR_IO);
    g_assert_cmpint(check_whole(store), ==, number - 1);
}

static void
expect_success(GwStore *store, int64_t number)
{
    g_auto(Outcome) outcome = test_commit(store, numbered_txn(number));

    g_assert_no_error(outcome.error);
    g_assert_cmpint(outcome.revision, ==, number + 1);
}

/* A commit that was reported as failed does not come to life when the process dies after it,
 * although its bytes had reached the kernel; and the store goes on. */
static void
test_failed_sync(void)
{
    char *folder = test_folder_new();
    powercut_follow(folder);
    GwStore *store = test_store_open(folder);

    for (int64_t number = 1; number < 10; number++) {
        expect_success(store, number);
    }
    powercut_fail_syncs(1);
    expect_failure(store, 10);
    check_cut(POWERCUT_ALL, 9, 9);
    check_cut(POWERCUT_SYNCED_ONLY, 9, 9);
    /* Also when the log cannot be emptied at once: the next commit takes its place. */
    powercut_fail_syncs(3);
    expect_failure(store, 10);
    powercut_fail_syncs(0);
    expect_success(store, 10);
    check_cut(POWERCUT_ALL, 10, 10);
    check_cut(POWERCUT_SYNCED_ONLY, 10, 10);
    gw_store_free(store);
    test_folder_free(folder);
}

int
main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--writer") == 0) {
        return writer_main(argv[2], g_ascii_strtoll(argv[3], NULL, 10));
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store-crash/second-process", test_second_process);
    g_test_add_func("/store-crash/kill", test_kill);
    powercut_install();
    g_test_add_func("/store-crash/power-cut", test_power_cut);
    g_test_add_func("/store-crash/failed-sync", test_failed_sync);
    return g_test_run();
}
