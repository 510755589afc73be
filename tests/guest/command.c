// SPDX-License-Identifier: Apache-2.0
/*
 * Commands on a serial port, one per line; each is answered with one line of JSON.
 *
 *     status           counters
 *     verify           reads all memory and all disk records first, then counters
 *     rate MB/s        changes the memory writer's rate
 *     set MiB          verifies, then starts with a working set of another size
 *     drop             verifies, then gives all memory back
 *     poweroff         answers, then switches the machine off
 *
 * A thread per port, one command at a time over all ports. A line that is empty is skipped (a
 * reader who has just connected sends one to get rid of what is left of an older line), one that
 * is too long or not a command is answered with {"error": …}.
 */
#include "witness.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define MAX_LINE   128u
#define MAX_ANSWER 1024u
#define MAX_NUMBER (1u << 20)

static pthread_mutex_t one_command = PTHREAD_MUTEX_INITIALIZER;

typedef struct Port {
    int fd;
    FILE *in;
} Port;

static void
put_line(const Port *port, const char *line)
{
    size_t len = strlen(line);
    for (size_t done = 0; done < len;) {
        ssize_t n = write(port->fd, line + done, len - done);
        if (n <= 0)
            return; /* the reader asks again */
        done += (size_t)n;
    }
}

static void
put_error(const Port *port, const char *message)
{
    char line[MAX_ANSWER];
    snprintf(line, sizeof line, "{\"error\": \"%s\"}\n", message);
    put_line(port, line);
}

static void
put_counts(const Port *port, const char *command, uint64_t pass_pages, uint64_t pass_records,
           int64_t pass_us)
{
    BeatCounts beat = beat_counts();
    MemoryCounts memory = memory_counts();
    DiskCounts disk = disk_counts();
    bool good = !memory.damaged_pages && !disk.errors && !beat.clock_errors;
    char line[MAX_ANSWER];
    snprintf(line, sizeof line,
             "{\"command\": \"%s\", \"verdict\": \"%s\", \"uptime_us\": %lld, \"cpus\": %u, "
             "\"beats\": %llu, \"beats_skipped\": %llu, \"longest_gap_us\": %llu, "
             "\"clock_errors\": %llu, \"rate_mb\": %u, \"set_mib\": %u, \"fill_mib\": %u, "
             "\"writes_bytes\": %llu, \"verified_pages\": %llu, \"damaged_pages\": %llu, "
             "\"disk_generation\": %llu, \"disk_records\": %llu, \"disk_checked\": %llu, "
             "\"disk_errors\": %llu, \"echoed\": %llu, "
             "\"pass_pages\": %llu, \"pass_records\": %llu, \"pass_ms\": %lld}\n",
             command, good ? "good" : "damaged", (long long)witness_now_us(), memory.writers,
             (unsigned long long)beat.beats, (unsigned long long)beat.skipped,
             (unsigned long long)beat.longest_gap_us, (unsigned long long)beat.clock_errors,
             memory.rate_mb, memory.set_mib, memory.fill_mib,
             (unsigned long long)memory.written_bytes, (unsigned long long)memory.verified_pages,
             (unsigned long long)memory.damaged_pages, (unsigned long long)disk.generation,
             (unsigned long long)disk.records, (unsigned long long)disk.checked,
             (unsigned long long)disk.errors, (unsigned long long)echo_count(),
             (unsigned long long)pass_pages, (unsigned long long)pass_records,
             (long long)pass_us / 1000);
    put_line(port, line);
}

static void
do_status(const Port *port, unsigned number)
{
    (void)number;
    put_counts(port, "status", 0, 0, 0);
}

static void
do_verify(const Port *port, unsigned number)
{
    (void)number;
    int64_t start_us = witness_now_us();
    uint64_t pages = memory_verify();
    uint64_t records = disk_verify();
    put_counts(port, "verify", pages, records, witness_now_us() - start_us);
}

static void
do_rate(const Port *port, unsigned number)
{
    memory_set_rate(number);
    put_counts(port, "rate", 0, 0, 0);
}

static void
do_set(const Port *port, unsigned number)
{
    if (memory_set_size(number))
        put_counts(port, "set", 0, 0, 0);
    else
        put_error(port, "not enough memory for this set; the set is empty now");
}

static void
do_drop(const Port *port, unsigned number)
{
    (void)number;
    memory_drop();
    put_counts(port, "drop", 0, 0, 0);
}

static void
do_poweroff(const Port *port, unsigned number)
{
    (void)number;
    put_counts(port, "poweroff", 0, 0, 0);
    /* The machine takes what its port has not passed on yet with it. */
    tcdrain(port->fd);
    usleep(200000);
    power_off();
}

static const struct {
    const char *name;
    bool has_number;
    void (*run)(const Port *port, unsigned number);
} commands[] = {
    {"status", false, do_status}, {"verify", false, do_verify}, {"rate", true, do_rate},
    {"set", true, do_set},        {"drop", false, do_drop},     {"poweroff", false, do_poweroff},
};

static void
obey(const Port *port, const char *line)
{
    char name[16] = "";
    char rest[16] = "";
    unsigned number = 0;
    int n = sscanf(line, "%15s %u %15s", name, &number, rest);
    for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(name, commands[i].name))
            continue;
        if (n != (commands[i].has_number ? 2 : 1) || number > MAX_NUMBER) {
            put_error(port, commands[i].has_number ? "wanted a number" : "wanted no argument");
            return;
        }
        pthread_mutex_lock(&one_command);
        commands[i].run(port, number);
        pthread_mutex_unlock(&one_command);
        return;
    }
    put_error(port, "wanted status, verify, rate MB/s, set MiB, drop or poweroff");
}

static void *
run(void *data)
{
    Port *port = data;
    char line[MAX_LINE];
    while (fgets(line, sizeof line, port->in)) {
        if (!strchr(line, '\n')) {
            for (int c = fgetc(port->in); c != '\n' && c != EOF; c = fgetc(port->in))
                continue;
            put_error(port, "line too long");
            continue;
        }
        line[strcspn(line, "\r\n")] = '\0';
        if (line[strspn(line, " \t")])
            obey(port, line);
    }
    return NULL;
}

void
command_start(const char *path, bool person)
{
    int fd = person ? open(path, O_RDWR | O_NOCTTY | O_CLOEXEC) : witness_open_serial(path);
    Port *port = malloc(sizeof *port);
    if (fd < 0 || !port || !(port->in = fdopen(fd, "r"))) {
        printf("witness: no command port %s\n", path);
        fflush(stdout);
        free(port);
        return;
    }
    port->fd = fd;
    witness_thread(run, port);
}
