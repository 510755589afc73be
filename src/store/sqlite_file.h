// SPDX-License-Identifier: Apache-2.0
/*
 * The SQLite file under the store: safe creation, lock, checks, schema.
 *
 *   application_id  0x47647774 ("Gdwt")
 *   user_version    the schema's version, 1 + the index in the table of migrations
 *
 *   store   one row: revision, that of the last commit (1: nothing committed yet); failed_commits,
 *           how many commits the disk has refused
 *   entry   key (bytes), value, create_revision, mod_revision, version, lease (0: none)
 *   lease   id (never used again), ttl_ms
 *
 * One thread at a time; every call may block on the disk.
 */
#pragma once

#include "base/error.h"

#include <sqlite3.h>

typedef struct GwSqliteFile {
    sqlite3 *db;
    char *path;
} GwSqliteFile;

/* Errors as gw_store_sqlite_open(). */
GwSqliteFile *gw_sqlite_file_open(const char *path, GError **error) GW_MUST_USE;

void gw_sqlite_file_close(GwSqliteFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwSqliteFile, gw_sqlite_file_close)

/* Runs statements that give no rows; @what ("write a commit") is put in the message. */
bool gw_sqlite_file_exec(GwSqliteFile *file, const char *sql, const char *what,
                         GError **error) GW_MUST_USE;

/* Says that SQLite's last call failed, why, and what to do about it. */
void gw_sqlite_file_set_error(GwSqliteFile *file, const char *what, GError **error);
