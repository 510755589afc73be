// SPDX-License-Identifier: Apache-2.0
/*
 * The memory writer: pages that know who they are, how often they were written and what is on them.
 *
 * A page of 512 words carries its number, its generation and a checksum, then content that
 * follows from both. What its generation must be stands in a table elsewhere, so a page that is
 * whole but old (a lost write) is found as well as a torn or a misplaced one; the sum of the
 * table must equal the number of writes, so a table that is old together with its pages is found
 * too. Every page is verified before it is written again, and all of them on demand.
 *
 * Each CPU has a worker with two regions of its own: "hot" is written round and round in a
 * scattered order, "cold" is written once. A worker's lock guards its regions and counters; it is
 * held for a few pages at a time, so a full verification does not stop the writing. Damage is
 * counted for ever, reported for the first pages, and then taken note of so that one lost write
 * is one damaged page.
 */
#include "witness.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES    4096u
#define PAGE_WORDS    (PAGE_BYTES / 8)
#define PAGES_PER_MIB (1024u * 1024u / PAGE_BYTES)
#define HEADER_WORDS  3u
#define TICK_US       10000
#define TICKS_PER_S   (1000000 / TICK_US)
#define BATCH_PAGES   32u
#define MAX_WORKERS   64u
#define MAX_REPORTS   50u
#define RESERVE_MIB   24u                  /* of free memory, left to the kernel */
#define MULTIPLIER    6364136223846793005u /* Knuth's, for a 64-bit linear congruential generator */

typedef struct Region {
    uint64_t first_number; /* of page 0: numbers differ in the whole guest */
    uint64_t *words;
    uint32_t *generations;
    size_t n_pages;
    size_t stride; /* to the next page to be written; no common divisor with n_pages */
    size_t cursor;
    uint64_t n_writes;
} Region;

typedef struct Worker {
    unsigned cpu;
    pthread_mutex_t lock; /* guards all below */
    Region hot, cold;
    unsigned rate_mb_total;
    uint64_t written_bytes, verified_pages, damaged_pages;
} Worker;

static Worker workers[MAX_WORKERS];
static unsigned n_workers;
static unsigned set_mib, fill_mib, rate_mb; /* command.c allows one command at a time */
static DataKind data_kind;
static uint64_t dictionary[64]; /* words of text */

/* --- one page --------------------------------------------------------------------------------- */

static void
fill_dictionary(void)
{
    static const char syllables[] = "lapponicaflightgodwitharborwinter";
    for (unsigned i = 0; i < 64; i++) {
        char word[8];
        for (unsigned k = 0; k < 7; k++)
            word[k] = syllables[(i * 5 + k * (i % 7 + 1)) % (sizeof syllables - 1)];
        word[7] = ' ';
        memcpy(&dictionary[i], word, sizeof word);
    }
}

static uint64_t
scramble(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

static uint64_t
checksum(const uint64_t *page)
{
    uint64_t sum = scramble(page[0]) ^ page[1];
    for (unsigned i = HEADER_WORDS; i < PAGE_WORDS; i++)
        sum = (sum ^ page[i]) * MULTIPLIER + (sum >> 29);
    return sum;
}

static void
write_page(uint64_t *page, uint64_t number, uint32_t generation)
{
    uint64_t state = scramble(number << 32 ^ generation);
    page[0] = number;
    page[1] = generation;
    for (unsigned i = HEADER_WORDS; i < PAGE_WORDS; i++) {
        state = state * MULTIPLIER + 1442695040888963407u;
        bool text = data_kind == DATA_TEXT || (data_kind == DATA_MIXED && i % 4 != 0);
        page[i] = text ? dictionary[state >> 58] : state ^ state >> 32;
    }
    page[2] = checksum(page);
}

/* What is wrong with a page, or NULL. */
static const char *
page_fault(const uint64_t *page, uint64_t number, uint32_t generation)
{
    if (page[2] != checksum(page))
        return "torn";
    if (page[0] != number)
        return "foreign";
    return page[1] == generation ? NULL : "stale";
}

/* --- one region, its worker's lock held ------------------------------------------------------- */

static size_t
common_divisor(size_t a, size_t b)
{
    while (b) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void
region_write(Worker *worker, Region *region, size_t i)
{
    region->generations[i]++;
    write_page(region->words + i * PAGE_WORDS, region->first_number + i, region->generations[i]);
    region->n_writes++;
    worker->written_bytes += PAGE_BYTES;
}

static void
note_damage(Worker *worker, const char *fault, uint64_t number, uint64_t wanted, uint64_t found)
{
    if (worker->damaged_pages++ < MAX_REPORTS)
        witness_report("damage page %llx %s: generation %llu wanted, %llu found",
                       (unsigned long long)number, fault, (unsigned long long)wanted,
                       (unsigned long long)found);
}

static void
region_check(Worker *worker, Region *region, size_t i)
{
    uint64_t *page = region->words + i * PAGE_WORDS;
    uint64_t number = region->first_number + i;
    const char *fault = page_fault(page, number, region->generations[i]);
    worker->verified_pages++;
    if (!fault)
        return;
    note_damage(worker, fault, number, region->generations[i], page[1]);
    write_page(page, number, region->generations[i]);
}

static void
region_check_books(Worker *worker, Region *region)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < region->n_pages; i++)
        sum += region->generations[i];
    if (sum == region->n_writes)
        return;
    note_damage(worker, "books", region->first_number, region->n_writes, sum);
    region->n_writes = sum;
}

static void
region_release(Region *region)
{
    if (region->n_pages) {
        munmap(region->words, region->n_pages * PAGE_BYTES);
        munmap(region->generations, region->n_pages * sizeof *region->generations);
    }
    *region = (Region){.first_number = region->first_number};
}

static void *
map(size_t len)
{
    void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Maps a released region and writes each page once. */
static bool
region_make(Worker *worker, Region *region, size_t n_pages)
{
    if (!n_pages)
        return true;
    uint64_t *words = map(n_pages * PAGE_BYTES);
    uint32_t *generations = map(n_pages * sizeof *generations);
    if (!words || !generations) {
        if (words)
            munmap(words, n_pages * PAGE_BYTES);
        if (generations)
            munmap(generations, n_pages * sizeof *generations);
        return false;
    }
    region->words = words;
    region->generations = generations;
    region->n_pages = n_pages;
    region->stride = n_pages * 5 / 8 | 1; /* far enough that neighbours are not written together */
    while (common_divisor(region->stride, n_pages) != 1)
        region->stride++;
    for (size_t i = 0; i < n_pages; i++)
        region_write(worker, region, i);
    return true;
}

/* --- workers ---------------------------------------------------------------------------------- */

/* Lets go of the lock between batches. */
static uint64_t
verify_region(Worker *worker, Region *region)
{
    uint64_t n_checked = 0;
    pthread_mutex_lock(&worker->lock);
    for (size_t i = 0; i < region->n_pages; i++, n_checked++) {
        region_check(worker, region, i);
        if (i % BATCH_PAGES == BATCH_PAGES - 1) {
            pthread_mutex_unlock(&worker->lock);
            pthread_mutex_lock(&worker->lock);
        }
    }
    region_check_books(worker, region);
    pthread_mutex_unlock(&worker->lock);
    return n_checked;
}

/* Writes at most a batch; returns false when the budget is spent. */
static bool
write_batch(Worker *worker, int64_t *budget_bytes)
{
    Region *hot = &worker->hot;
    for (unsigned i = 0; i < BATCH_PAGES && *budget_bytes >= PAGE_BYTES && hot->n_pages; i++) {
        region_check(worker, hot, hot->cursor);
        region_write(worker, hot, hot->cursor);
        hot->cursor = (hot->cursor + hot->stride) % hot->n_pages;
        *budget_bytes -= PAGE_BYTES;
    }
    return *budget_bytes >= PAGE_BYTES && hot->n_pages;
}

static void *
run(void *data)
{
    Worker *worker = data;
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(worker->cpu, &here);
    pthread_setaffinity_np(pthread_self(), sizeof here, &here);
    int64_t next_us = witness_now_us();
    int64_t budget_bytes = 0;
    for (;;) {
        witness_tick(&next_us, TICK_US);
        pthread_mutex_lock(&worker->lock);
        int64_t share_bytes = (int64_t)worker->rate_mb_total * 1000000 / TICKS_PER_S / n_workers;
        budget_bytes += share_bytes;
        if (budget_bytes > 4 * share_bytes + PAGE_BYTES) /* faster than this CPU: do not pile up */
            budget_bytes = 4 * share_bytes + PAGE_BYTES;
        int64_t until_us = next_us + TICK_US;
        while (write_batch(worker, &budget_bytes) && witness_now_us() < until_us) {
            pthread_mutex_unlock(&worker->lock);
            pthread_mutex_lock(&worker->lock);
        }
        pthread_mutex_unlock(&worker->lock);
    }
    return NULL;
}

static unsigned
available_mib(void)
{
    return (unsigned)((uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) >> 20);
}

static bool
check_fits(unsigned wanted_mib)
{
    unsigned available = available_mib();
    if (wanted_mib + wanted_mib / 512 + RESERVE_MIB <= available)
        return true;
    printf("witness: %u MiB do not fit into %u MiB of free memory less %u\n", wanted_mib, available,
           RESERVE_MIB);
    fflush(stdout);
    return false;
}

static size_t
share_pages(unsigned mib)
{
    return (size_t)mib * PAGES_PER_MIB / n_workers;
}

bool
memory_start(const Options *options)
{
    long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    n_workers = n_cpus < 1 ? 1 : n_cpus > MAX_WORKERS ? MAX_WORKERS : (unsigned)n_cpus;
    data_kind = options->data;
    set_mib = options->set_mib;
    fill_mib = options->fill_mib;
    fill_dictionary();
    if (!check_fits(set_mib + fill_mib))
        return false;
    for (unsigned i = 0; i < n_workers; i++) {
        Worker *worker = &workers[i];
        worker->cpu = i;
        pthread_mutex_init(&worker->lock, NULL);
        worker->hot.first_number = (uint64_t)(2 * i + 1) << 24;
        worker->cold.first_number = (uint64_t)(2 * i + 2) << 24;
        if (!region_make(worker, &worker->cold, share_pages(fill_mib)) ||
            !region_make(worker, &worker->hot, share_pages(set_mib))) {
            puts("witness: out of memory");
            return false;
        }
    }
    memory_set_rate(options->rate_mb);
    for (unsigned i = 0; i < n_workers; i++)
        witness_thread(run, &workers[i]);
    return true;
}

MemoryCounts
memory_counts(void)
{
    MemoryCounts counts = {
        .writers = n_workers,
        .rate_mb = rate_mb,
        .set_mib = set_mib,
        .fill_mib = fill_mib,
    };
    for (unsigned i = 0; i < n_workers; i++) {
        pthread_mutex_lock(&workers[i].lock);
        counts.written_bytes += workers[i].written_bytes;
        counts.verified_pages += workers[i].verified_pages;
        counts.damaged_pages += workers[i].damaged_pages;
        pthread_mutex_unlock(&workers[i].lock);
    }
    return counts;
}

uint64_t
memory_verify(void)
{
    uint64_t n_checked = 0;
    for (unsigned i = 0; i < n_workers; i++) {
        n_checked += verify_region(&workers[i], &workers[i].cold);
        n_checked += verify_region(&workers[i], &workers[i].hot);
    }
    return n_checked;
}

void
memory_set_rate(unsigned new_rate_mb)
{
    rate_mb = new_rate_mb;
    for (unsigned i = 0; i < n_workers; i++) {
        pthread_mutex_lock(&workers[i].lock);
        workers[i].rate_mb_total = new_rate_mb;
        pthread_mutex_unlock(&workers[i].lock);
    }
}

bool
memory_set_size(unsigned new_set_mib)
{
    memory_verify();
    for (unsigned i = 0; i < n_workers; i++) {
        pthread_mutex_lock(&workers[i].lock);
        region_release(&workers[i].hot);
        pthread_mutex_unlock(&workers[i].lock);
    }
    set_mib = 0;
    if (!check_fits(new_set_mib))
        return false;
    bool done = true;
    for (unsigned i = 0; i < n_workers && done; i++) {
        pthread_mutex_lock(&workers[i].lock);
        done = region_make(&workers[i], &workers[i].hot, share_pages(new_set_mib));
        pthread_mutex_unlock(&workers[i].lock);
    }
    if (done)
        set_mib = new_set_mib;
    return done;
}

void
memory_drop(void)
{
    memory_verify();
    for (unsigned i = 0; i < n_workers; i++) {
        pthread_mutex_lock(&workers[i].lock);
        region_release(&workers[i].hot);
        region_release(&workers[i].cold);
        pthread_mutex_unlock(&workers[i].lock);
    }
    set_mib = 0;
    fill_mib = 0;
}
