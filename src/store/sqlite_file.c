// SPDX-License-Identifier: Apache-2.0
/*
 * Opens the SQLite file of the store: creates it for its owner alone, locks it against a second
 * daemon, checks it, brings its schema up to date.
 *
 * Owns the connection. Used by one thread at a time: the opener, then the store's worker.
 * The lock: in exclusive locking mode with WAL, SQLite takes the file's exclusive lock at its first
 * read and keeps it until close; it also needs no -shm file. WAL with synchronous=FULL has the log
 * fsynced before a commit returns. Fails with an error that says what is wrong with which file and
 * what to do; a file that fails its checks is never changed, not even by moving its log into it.
 */
#include "store/sqlite_file.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define APPLICATION_ID INT64_C(0x47647774)

/* A daemon that is just going down gets this long to let go of the file. */
#define BUSY_TIMEOUT_MS 2000

/* integrity_check also compares every index with its table, in O(n log n) and with random reads;
 * beyond this size, far above what even a large fleet stores, that would delay the start, so only
 * the structure of all pages and rows is checked (quick_check). */
#define FULL_CHECK_MAX_BYTES (256 * 1024 * 1024)

/* Takes the lock before the first read, so that two daemons that start at once do not both get to
 * read and then wait for each other. */
#define LOCK "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT"

/* The log is cut back to this after a large transaction. */
#define PRAGMAS_OF_CONNECTION                                                                      \
    "PRAGMA synchronous = FULL;"                                                                   \
    "PRAGMA journal_size_limit = 4194304;"                                                         \
    "PRAGMA cell_size_check = ON;"                                                                 \
    "PRAGMA trusted_schema = OFF;"

/* Migration N takes a file from version N to N + 1. Never edit one that was released; append. */
static const char *const migrations[] = {
    "CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,"
    " failed_commits INTEGER NOT NULL) STRICT;"
    "INSERT INTO store VALUES (1, 1, 0);"
    "CREATE TABLE entry (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL,"
    " create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL, version INTEGER NOT NULL,"
    " lease INTEGER NOT NULL) STRICT;"
    "CREATE INDEX entry_lease ON entry (lease) WHERE lease != 0;"
    "CREATE TABLE lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL) STRICT;"
    "PRAGMA application_id = 0x47647774;",
};

/* --- errors ----------------------------------------------------------------------------------- */

static void
set_damaged(const GwSqliteFile *file, const char *what, const char *why, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_IO,
                "store %s: cannot %s: the file is damaged (%s). Stop godwitd, move %s and %s-wal "
                "away, keep them, and put a backup in their place, or start with an empty store "
                "and register the virtual machines again",
                file->path, what, why, file->path, file->path);
}

void
gw_sqlite_file_set_error(GwSqliteFile *file, const char *what, GError **error)
{
    const int code = sqlite3_extended_errcode(file->db);
    const int errnum = sqlite3_system_errno(file->db);
    const char *why = sqlite3_errmsg(file->db);
    const char *remedy = "see the kernel log for errors of the disk";

    switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        set_damaged(file, what, why, error);
        return;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        g_set_error(
            error, GW_ERROR, GW_ERROR_STATE,
            "store %s: cannot %s: another godwitd uses this file. Stop that one (\"fuser -v "
            "%s\" names it), or give this one a state folder of its own",
            file->path, what, file->path);
        return;
    case SQLITE_FULL:
        remedy = "free space on this file system; nothing was changed";
        break;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
        remedy = "check owner and mode of the file and its folder";
        break;
    default:
        break;
    }
    const bool os_error = errnum != 0 && (code & 0xff) != SQLITE_FULL;
    g_set_error(error, GW_ERROR, GW_ERROR_IO, "store %s: cannot %s: %s%s%s (code %d); %s",
                file->path, what, why, os_error ? ": " : "", os_error ? g_strerror(errnum) : "",
                code, remedy);
}

bool
gw_sqlite_file_exec(GwSqliteFile *file, const char *sql, const char *what, GError **error)
{
    if (sqlite3_exec(file->db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        gw_sqlite_file_set_error(file, what, error);
        return false;
    }
    return true;
}

/* The first column of the first row, as text; transfer full. */
static char *
query_text(GwSqliteFile *file, const char *sql, const char *what, GError **error)
{
    sqlite3_stmt *statement = NULL;
    char *text = NULL;

    if (sqlite3_prepare_v2(file->db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        text = g_strdup((const char *)sqlite3_column_text(statement, 0));
    }
    if (!text) {
        gw_sqlite_file_set_error(file, what, error);
    }
    sqlite3_finalize(statement);
    return text;
}

static bool
query_int(GwSqliteFile *file, const char *sql, const char *what, int64_t *out, GError **error)
{
    g_autofree char *text = query_text(file, sql, what, error);

    if (!text) {
        return false;
    }
    *out = g_ascii_strtoll(text, NULL, 10);
    return true;
}

/* --- the file --------------------------------------------------------------------------------- */

static bool
sync_folder_of(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_auto(GwFd) fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) != 0) {
        gw_set_error_errno(error, errno, "store %s: cannot sync the folder", path);
        return false;
    }
    return true;
}

/* Takes group and others off a file that exists. By path: to close a descriptor of a file drops
 * every lock that this process has on it. */
static bool
make_private(const char *path, const char *suffix, GError **error)
{
    g_autofree char *name = g_strconcat(path, suffix, NULL);
    struct stat info;

    if (stat(name, &info) != 0) {
        if (errno == ENOENT) {
            return true;
        }
    } else if (!S_ISREG(info.st_mode)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "store %s: not a regular file", name);
        return false;
    } else if ((info.st_mode & 07777) == 0600 || chmod(name, 0600) == 0) {
        return true;
    }
    gw_set_error_errno(error, errno,
                       "store %s: cannot make it private to its owner; check who owns it", name);
    return false;
}

static bool
create_private(const char *path, GError **error)
{
    g_auto(GwFd) fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0) {
        return sync_folder_of(path, error);
    }
    if (errno != EEXIST) {
        gw_set_error_errno(error, errno, "store %s: cannot create it; check its folder", path);
        return false;
    }
    return make_private(path, "", error) && make_private(path, "-wal", error) &&
           make_private(path, "-shm", error);
}

/* --- the schema ------------------------------------------------------------------------------- */

/* Refuses what is not ours, or newer than we are; reads only. */
static bool
check_identity(GwSqliteFile *file, int64_t *version, GError **error)
{
    int64_t application_id = 0, tables = 0, found = 0;

    if (!query_int(file, "PRAGMA user_version", "read it", &found, error) ||
        !query_int(file, "PRAGMA application_id", "read it", &application_id, error) ||
        !query_int(file, "SELECT count(*) FROM sqlite_schema", "read it", &tables, error)) {
        return false;
    }
    const bool empty = application_id == 0 && found == 0 && tables == 0;
    if (!empty && (application_id != APPLICATION_ID || found < 1)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "store %s: this is an SQLite file, but not a store of Godwit; choose another "
                    "path, or move the file away",
                    file->path);
        return false;
    }
    if (found > (int64_t)G_N_ELEMENTS(migrations)) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "store %s: it has schema version %" PRId64 ", and this godwitd " GODWIT_VERSION
                    " knows versions up to %zu: a newer godwitd has used it. Install that version "
                    "again, or restore a backup made before the upgrade",
                    file->path, found, G_N_ELEMENTS(migrations));
        return false;
    }
    *version = found;
    return true;
}

static bool
migrate(GwSqliteFile *file, int64_t version, GError **error)
{
    for (; version < (int64_t)G_N_ELEMENTS(migrations); version++) {
        g_autofree char *sql =
            g_strdup_printf("BEGIN; %s PRAGMA user_version = %" PRId64 "; COMMIT",
                            migrations[version], version + 1);
        if (!gw_sqlite_file_exec(file, sql, "bring its schema up to date", error)) {
            return false;
        }
    }
    return true;
}

static bool
check_integrity(GwSqliteFile *file, GError **error)
{
    struct stat info;
    const bool large = stat(file->path, &info) == 0 && info.st_size > FULL_CHECK_MAX_BYTES;
    g_autofree char *verdict = query_text(
        file, large ? "PRAGMA quick_check(1)" : "PRAGMA integrity_check(1)", "check it", error);

    if (!verdict) {
        return false;
    }
    if (strcmp(verdict, "ok") != 0) {
        set_damaged(file, "use it", g_strdelimit(verdict, "\n", ' '), error);
        return false;
    }
    return true;
}

/* --- open and close --------------------------------------------------------------------------- */

static bool
use_wal(GwSqliteFile *file, GError **error)
{
    g_autofree char *mode =
        query_text(file, "PRAGMA journal_mode = WAL", "switch it to a write-ahead log", error);

    if (!mode) {
        return false;
    }
    if (strcmp(mode, "wal") != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "store %s: its file system does not allow a write-ahead log (mode is \"%s\"); "
                    "move the state folder to a local disk",
                    file->path, mode);
        return false;
    }
    return gw_sqlite_file_exec(file, PRAGMAS_OF_CONNECTION, "configure it", error);
}

GwSqliteFile *
gw_sqlite_file_open(const char *path, GError **error)
{
    g_autoptr(GwSqliteFile) file = g_new0(GwSqliteFile, 1);
    int64_t version = 0;

    file->path = g_canonicalize_filename(path, NULL);
    if (!create_private(file->path, error)) {
        return NULL;
    }
    if (sqlite3_open_v2(file->path, &file->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK) {
        gw_sqlite_file_set_error(file, "open it", error);
        return NULL;
    }
    sqlite3_extended_result_codes(file->db, 1);
    sqlite3_busy_timeout(file->db, BUSY_TIMEOUT_MS);
    sqlite3_db_config(file->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (!gw_sqlite_file_exec(file, LOCK, "lock it", error) ||
        !check_identity(file, &version, error) || !check_integrity(file, error) ||
        !use_wal(file, error) || !migrate(file, version, error)) {
        return NULL;
    }
    sqlite3_db_config(file->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    return g_steal_pointer(&file);
}

void
gw_sqlite_file_close(GwSqliteFile *file)
{
    if (file) {
        sqlite3_close(file->db);
        g_free(file->path);
        g_free(file);
    }
}
