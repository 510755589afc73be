// SPDX-License-Identifier: Apache-2.0
/*
 * A disk that can lose power: a VFS of SQLite, in front of the real one, that remembers which
 * writes have been synced. At any moment the test can have what would be found after a power cut
 * written to another folder: all that was synced, and of the rest a random part, sector by sector.
 */
#pragma once

#include <stdbool.h>

typedef enum PowercutSurvivors {
    POWERCUT_SYNCED_ONLY,
    POWERCUT_RANDOM_SECTORS, /* of what was not synced; chosen by g_test_rand_int() */
    POWERCUT_ALL,            /* the process died, the kernel lives */
} PowercutSurvivors;

/* Makes this VFS the default; once in a process. */
void powercut_install(void);

/* Writes the files in the state that a cut leaves now to @folder, which must be empty. Callable
 * while the store works. */
void powercut_save(const char *folder, PowercutSurvivors survivors);

/* The next @n syncs fail with an I/O error; what they were to make durable stays in doubt. */
void powercut_fail_syncs(int n);

/* From now on the disk is this folder, and it is empty; other files are passed through. To be
 * called when no file is open. */
void powercut_follow(const char *folder);
