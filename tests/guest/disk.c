// SPDX-License-Identifier: Apache-2.0
/*
 * The disk writer: records with generation and counter, written past the cache and read back.
 *
 * The region begins 1 MiB into the device and is a ring of records of 4 KiB. One record is written
 * per tick (O_DIRECT, then fdatasync) and two are read back: the one before it and one far away.
 * The generation is one more than the largest found at the start, so a disk that went back in
 * time over a reboot shows. A record must be the very one that was last written to its place.
 * One thread; the lock guards everything. An I/O error is an error like a wrong record: counted,
 * reported for the first ones, never fatal.
 */
#include "witness.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_BYTES   4096u
#define RECORD_WORDS   (RECORD_BYTES / 8)
#define START_BYTES    (1024 * 1024)
#define MAGIC          0x474f445749544e31u
#define MULTIPLIER     6364136223846793005u
#define MAX_REPORTS    50u
#define DEVICE_WAIT_US 5000000
#define DEVICE_POLL_US 10000

/* Words of a record: magic, slot, generation, counter, content ..., checksum. */
enum { MAGIC_AT, SLOT_AT, GENERATION_AT, COUNTER_AT, CONTENT_AT, SUM_AT = RECORD_WORDS - 1 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below after the start */
static int device = -1;
static size_t n_slots;
static uint64_t *expected;        /* per slot: the counter; 0 = not written by us */
static uint64_t *written, *found; /* aligned buffers of one record */
static DiskCounts counts;
static int64_t period_us;

static uint64_t
checksum(const uint64_t *record)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < SUM_AT; i++)
        sum = (sum ^ record[i]) * MULTIPLIER + (sum >> 29);
    return sum;
}

static off_t
slot_offset(size_t slot)
{
    return START_BYTES + (off_t)(slot * RECORD_BYTES);
}

static void
note_error(const char *what, size_t slot, const char *detail)
{
    if (counts.errors++ < MAX_REPORTS)
        witness_report("damage disk record %zu: %s: %s", slot, what, detail);
}

static bool
transfer_ok(ssize_t done, const char *what, size_t slot)
{
    if (done == RECORD_BYTES)
        return true;
    note_error(what, slot, done < 0 ? strerror(errno) : "short");
    return false;
}

static void
write_record(size_t slot)
{
    uint64_t counter = counts.records + 1;
    written[MAGIC_AT] = MAGIC;
    written[SLOT_AT] = slot;
    written[GENERATION_AT] = counts.generation;
    written[COUNTER_AT] = counter;
    uint64_t state = counter ^ counts.generation << 40;
    for (unsigned i = CONTENT_AT; i < SUM_AT; i++) {
        state = state * MULTIPLIER + 1442695040888963407u;
        written[i] = state;
    }
    written[SUM_AT] = checksum(written);
    expected[slot] = 0; /* neither old nor new can be relied on if the write fails */
    if (!transfer_ok(pwrite(device, written, RECORD_BYTES, slot_offset(slot)), "write", slot))
        return;
    if (fdatasync(device) < 0) {
        note_error("fdatasync", slot, strerror(errno));
        return;
    }
    expected[slot] = counter;
    counts.records = counter;
}

static void
check_record(size_t slot)
{
    if (!expected[slot])
        return;
    counts.checked++;
    if (!transfer_ok(pread(device, found, RECORD_BYTES, slot_offset(slot)), "read", slot))
        return;
    char detail[96];
    if (found[MAGIC_AT] != MAGIC || found[SUM_AT] != checksum(found) || found[SLOT_AT] != slot) {
        note_error("not a record of this place", slot, "torn or foreign");
    } else if (found[GENERATION_AT] != counts.generation || found[COUNTER_AT] != expected[slot]) {
        snprintf(detail, sizeof detail, "%llu.%llu wanted, %llu.%llu found",
                 (unsigned long long)counts.generation, (unsigned long long)expected[slot],
                 (unsigned long long)found[GENERATION_AT], (unsigned long long)found[COUNTER_AT]);
        note_error("stale", slot, detail);
    }
}

static void *
run(void *data)
{
    (void)data;
    int64_t next_us = witness_now_us();
    for (size_t slot = 0;; slot = (slot + 1) % n_slots) {
        witness_tick(&next_us, period_us);
        pthread_mutex_lock(&lock);
        write_record(slot);
        check_record((slot + n_slots - 1) % n_slots);
        check_record((slot + n_slots / 2) % n_slots);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

/* The device node may come a moment after the driver. */
static int
open_device(const char *path)
{
    for (int64_t until_us = witness_now_us() + DEVICE_WAIT_US;; usleep(DEVICE_POLL_US)) {
        int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
        if (fd >= 0 || witness_now_us() > until_us)
            return fd;
    }
}

/* Finds the generation to go on with. */
static void
read_generation(void)
{
    uint64_t newest = 0;
    for (size_t slot = 0; slot < n_slots; slot++) {
        if (!transfer_ok(pread(device, found, RECORD_BYTES, slot_offset(slot)), "read", slot))
            continue;
        if (found[MAGIC_AT] == MAGIC && found[SUM_AT] == checksum(found) &&
            found[GENERATION_AT] > newest)
            newest = found[GENERATION_AT];
    }
    counts.generation = newest + 1;
}

void
disk_start(const Options *options)
{
    if (!options->disk[0] || !options->disk_mib || !options->disk_rate)
        return;
    n_slots = (size_t)options->disk_mib * 1024 * 1024 / RECORD_BYTES;
    period_us = 1000000 / options->disk_rate;
    expected = calloc(n_slots, sizeof *expected);
    written = aligned_alloc(RECORD_BYTES, RECORD_BYTES);
    found = aligned_alloc(RECORD_BYTES, RECORD_BYTES);
    device = open_device(options->disk);
    if (!expected || !written || !found || device < 0) {
        counts.errors++;
        witness_report("damage disk %s: %s", options->disk, strerror(errno));
        return;
    }
    read_generation();
    witness_thread(run, NULL);
}

DiskCounts
disk_counts(void)
{
    pthread_mutex_lock(&lock);
    DiskCounts copy = counts;
    pthread_mutex_unlock(&lock);
    return copy;
}

uint64_t
disk_verify(void)
{
    uint64_t before = disk_counts().checked;
    for (size_t slot = 0; slot < n_slots && device >= 0; slot++) {
        pthread_mutex_lock(&lock);
        check_record(slot);
        pthread_mutex_unlock(&lock);
    }
    return disk_counts().checked - before;
}
