// SPDX-License-Identifier: Apache-2.0
/*
 * The beat: "beat COUNTER MONOTONIC_us REALTIME_us" every 10 ms on the second serial port.
 *
 * One thread at real-time priority, so that a busy guest does not look like a stopped one. It
 * also watches the clocks: monotonic time must not go back, and the two clocks must not drift
 * apart by more than a second since the start (nobody sets the guest's clock). When nobody reads
 * the port, lines are left out rather than waited for: the counter shows it. Lines are written in
 * one call each, which the terminal layer keeps whole.
 */
#include "witness.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_US        10000
#define MAX_QUEUED_BYTES 2048 /* half of the terminal's buffer: a line always fits whole */
#define MAX_DRIFT_US     1000000

static int port = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards counts */
static BeatCounts counts;

bool
beat_write(const char *line, size_t len)
{
    int queued = 0;
    if (port < 0 || ioctl(port, TIOCOUTQ, &queued) < 0 || queued > MAX_QUEUED_BYTES)
        return false;
    return write(port, line, len) == (ssize_t)len;
}

BeatCounts
beat_counts(void)
{
    pthread_mutex_lock(&lock);
    BeatCounts copy = counts;
    pthread_mutex_unlock(&lock);
    return copy;
}

typedef struct Clocks {
    int64_t monotonic_us;
    int64_t realtime_us;
} Clocks;

static Clocks
read_clocks(void)
{
    struct timespec real;
    Clocks clocks = {.monotonic_us = witness_now_us()};
    clock_gettime(CLOCK_REALTIME, &real);
    clocks.realtime_us = (int64_t)real.tv_sec * 1000000 + real.tv_nsec / 1000;
    return clocks;
}

/* Returns how many rules are broken. */
static unsigned
check_clocks(const Clocks *start, const Clocks *last, const Clocks *now)
{
    unsigned errors = 0;
    if (now->monotonic_us < last->monotonic_us) {
        witness_report("damage clock monotonic went back by %lld us",
                       (long long)(last->monotonic_us - now->monotonic_us));
        errors++;
    }
    int64_t drift_us =
        (now->realtime_us - start->realtime_us) - (now->monotonic_us - start->monotonic_us);
    int64_t drift_before_us =
        (last->realtime_us - start->realtime_us) - (last->monotonic_us - start->monotonic_us);
    if (llabs(drift_us) > MAX_DRIFT_US && llabs(drift_before_us) <= MAX_DRIFT_US) {
        witness_report("damage clock realtime is %lld us off monotonic", (long long)drift_us);
        errors++;
    }
    return errors;
}

static void *
run(void *data)
{
    (void)data;
    struct sched_param priority = {.sched_priority = 50};
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority);
    const Clocks start = read_clocks();
    Clocks last = start;
    int64_t next_us = start.monotonic_us;
    for (uint64_t beat = 1;; beat++) {
        witness_tick(&next_us, PERIOD_US);
        Clocks now = read_clocks();
        unsigned errors = check_clocks(&start, &last, &now);
        char line[96];
        int len = snprintf(line, sizeof line, "beat %llu %lld %lld\n", (unsigned long long)beat,
                           (long long)now.monotonic_us, (long long)now.realtime_us);
        bool written = beat_write(line, (size_t)len);
        int64_t gap_us = now.monotonic_us - last.monotonic_us;
        pthread_mutex_lock(&lock);
        counts.beats = beat;
        counts.skipped += !written;
        counts.clock_errors += errors;
        if (gap_us > 0 && (uint64_t)gap_us > counts.longest_gap_us)
            counts.longest_gap_us = (uint64_t)gap_us;
        pthread_mutex_unlock(&lock);
        last = now;
    }
    return NULL;
}

void
beat_start(void)
{
    port = witness_open_serial("/dev/ttyS1");
    if (port < 0) {
        puts("witness: no second serial port: beats are only counted");
        fflush(stdout);
    }
    witness_thread(run, NULL);
}
