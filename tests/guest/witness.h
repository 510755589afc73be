// SPDX-License-Identifier: Apache-2.0
/*
 * The witness: a static program inside the test guest that would notice any harm done by a move.
 *
 * Serial ports: 0 is the console (messages, READY, and commands for people), 1 carries the beats
 * and every report of damage, 2 takes commands and answers each with one line of JSON.
 * Options are read from the kernel's command line as witness.NAME=VALUE:
 *
 *     rate=MB/s   what the memory writer writes, 10^6 bytes per second       [20]
 *     set=MiB     memory that the writer goes round in                       [64]
 *     fill=MiB    memory that is written once and only verified              [0]
 *     data=KIND   page content: mixed (about 3:1 for zstd), text, random     [mixed]
 *     disk=PATH   block device for the disk writer                           [none]
 *     disk-mib=N  size of the region it uses, from 1 MiB on                  [4]
 *     disk-rate=N records per second                                         [20]
 *
 * Damage is sticky: a counter of errors never goes down.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum DataKind {
    DATA_MIXED,
    DATA_TEXT,
    DATA_RANDOM,
} DataKind;

typedef struct Options {
    unsigned rate_mb;
    unsigned set_mib;
    unsigned fill_mib;
    DataKind data;
    char disk[64]; /* empty: no disk writer */
    unsigned disk_mib;
    unsigned disk_rate;
} Options;

/* --- witness.c -------------------------------------------------------------------------------- */

/* A line about something that must not happen, to the console and to the beat port. */
void witness_report(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A new detached thread; the process ends with a message if there can be none. */
void witness_thread(void *(*run)(void *), void *data);
int64_t witness_now_us(void);
/* Sleeps until *@next_us (monotonic) and moves it on by @period_us; a long delay is not made up. */
void witness_tick(int64_t *next_us, int64_t period_us);
/* Opens a serial port in raw mode; -1 if the machine has none at @path. */
int witness_open_serial(const char *path);

/* --- beat.c ----------------------------------------------------------------------------------- */

typedef struct BeatCounts {
    uint64_t beats;
    uint64_t skipped; /* nobody read the port: the counter goes on, the line is left out */
    uint64_t clock_errors;
    uint64_t longest_gap_us; /* between two beats, by the guest's own clock */
} BeatCounts;

void beat_start(void);
BeatCounts beat_counts(void);
/* Writes a whole line to the beat port, or nothing. */
bool beat_write(const char *line, size_t len);

/* --- memory.c --------------------------------------------------------------------------------- */

typedef struct MemoryCounts {
    unsigned writers;
    unsigned rate_mb;
    unsigned set_mib;
    unsigned fill_mib;
    uint64_t written_bytes;
    uint64_t verified_pages;
    uint64_t damaged_pages;
} MemoryCounts;

/* Writes every page once, then starts a writer per CPU. False with a message if it cannot be. */
bool memory_start(const Options *options);
MemoryCounts memory_counts(void);
/* Reads every page there is and checks the books. Returns the number of pages looked at. */
uint64_t memory_verify(void);
void memory_set_rate(unsigned rate_mb);
/* Verifies, gives the memory back and starts with a set of the new size; false if it cannot. */
bool memory_set_size(unsigned set_mib);
/* Verifies and gives everything back. */
void memory_drop(void);

/* --- disk.c ----------------------------------------------------------------------------------- */

typedef struct DiskCounts {
    uint64_t generation; /* 0: no disk writer; grows with every boot of the same disk */
    uint64_t records;
    uint64_t checked;
    uint64_t errors;
} DiskCounts;

void disk_start(const Options *options);
DiskCounts disk_counts(void);
/* Reads all records back. Returns their number. */
uint64_t disk_verify(void);

/* --- echo.c, power.c, command.c --------------------------------------------------------------- */

/* Answers UDP datagrams on port 7 with their own content. */
void echo_start(void);
uint64_t echo_count(void);
/* Powers the machine off when its power button is pressed. */
void power_start(void);
void power_off(void);
/* Takes commands from @path; a @person's port keeps line editing. */
void command_start(const char *path, bool person);
