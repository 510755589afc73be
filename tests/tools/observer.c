// SPDX-License-Identifier: Apache-2.0
/*
 * Watches a guest from outside: reads the beats of its second serial port on every host it may be.
 *
 * usage: observer SOCKET...        serial1.sock of the VM on host 0, host 1, ...
 *
 * Connects to each socket whenever it is there, for ever (a VM's sockets come and go with its
 * moves), and writes a line per event to stdout; times are CLOCK_MONOTONIC in microseconds:
 *
 *     connected SIDE TIME / closed SIDE TIME
 *     beat SIDE TIME COUNTER
 *     switch FROM TO TIME DOWNTIME_us COUNTER     first beat from another host; the downtime is
 *                                                 the time since the last beat less the period
 *     missed SIDE TIME N COUNTER                  N beats were not seen before this one
 *     error SIDE TIME repeated COUNTER            a beat that was there before: two guests run,
 *                                                 or one that was set back
 *     error SIDE TIME restarted COUNTER           the guest was booted anew
 *     guest SIDE TIME TEXT                        anything else it says: reports of damage
 *
 * The guest's line may begin on one host and end on another, so all sides share one line buffer,
 * and what the side that spoke last has to say is read before the others are heard. One thread, at
 * real-time priority if allowed; ends when stdin does, or stdout. Lines are cut at 255 bytes.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_SIDES     8
#define PERIOD_US     10000
#define RECONNECT_MS  2
#define MAX_LINE      256
#define RESTART_BELOW 200 /* a counter that falls back to its first two seconds is a new boot */

static const char *paths[MAX_SIDES];
static int sockets[MAX_SIDES];
static int n_sides;

static char line[MAX_LINE];
static size_t line_len;

static int speaker = -1; /* side of the last beat */
static uint64_t last_counter;
static int64_t last_beat_us;

static int64_t
now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void
take_beat(int side, int64_t time_us, uint64_t counter)
{
    long long time = (long long)time_us;
    unsigned long long count = counter;
    if (speaker >= 0 && counter <= last_counter)
        printf("error %d %lld %s %llu\n", side, time,
               counter < RESTART_BELOW ? "restarted" : "repeated", count);
    else if (speaker >= 0 && counter > last_counter + 1)
        printf("missed %d %lld %llu %llu\n", side, time, count - last_counter - 1, count);
    if (speaker >= 0 && speaker != side) {
        int64_t away_us = time_us - last_beat_us - PERIOD_US;
        printf("switch %d %d %lld %lld %llu\n", speaker, side, time,
               (long long)(away_us > 0 ? away_us : 0), count);
    }
    printf("beat %d %lld %llu\n", side, time, count);
    speaker = side;
    last_counter = counter;
    last_beat_us = time_us;
}

static void
take_line(int side, int64_t time_us)
{
    unsigned long long counter;
    line[line_len] = '\0';
    if (sscanf(line, "beat %llu ", &counter) == 1)
        take_beat(side, time_us, counter);
    else if (line_len)
        printf("guest %d %lld %s\n", side, (long long)time_us, line);
    line_len = 0;
}

static void
take_bytes(int side, const char *bytes, size_t len)
{
    int64_t time_us = now_us();
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == '\n')
            take_line(side, time_us);
        else if (bytes[i] != '\r' && line_len < MAX_LINE - 1)
            line[line_len++] = bytes[i];
    }
}

static void
try_connect(int side)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", paths[side]);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        perror("observer: socket");
        exit(1);
    }
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return;
    }
    sockets[side] = fd;
    printf("connected %d %lld\n", side, (long long)now_us());
}

static void
read_side(int side)
{
    char bytes[4096];
    ssize_t n;
    while ((n = read(sockets[side], bytes, sizeof bytes)) > 0)
        take_bytes(side, bytes, (size_t)n);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    printf("closed %d %lld\n", side, (long long)now_us());
    close(sockets[side]);
    sockets[side] = -1;
}

/* True while somebody holds our stdin. */
static bool
wait_and_read(void)
{
    struct pollfd polled[MAX_SIDES + 1] = {{.fd = STDIN_FILENO, .events = POLLIN}};
    bool all_connected = true;
    for (int i = 0; i < n_sides; i++) {
        if (sockets[i] < 0)
            try_connect(i);
        polled[i + 1] = (struct pollfd){.fd = sockets[i], .events = POLLIN};
        all_connected = all_connected && sockets[i] >= 0;
    }
    if (poll(polled, (nfds_t)n_sides + 1, all_connected ? -1 : RECONNECT_MS) < 0 && errno != EINTR)
        return false;
    if (speaker >= 0 && sockets[speaker] >= 0)
        read_side(speaker);
    for (int i = 0; i < n_sides; i++) {
        if (i != speaker && sockets[i] >= 0 && polled[i + 1].revents)
            read_side(i);
    }
    char ignored[64];
    if (polled[0].revents && read(STDIN_FILENO, ignored, sizeof ignored) <= 0)
        return false;
    return fflush(stdout) == 0;
}

int
main(int argc, char **argv)
{
    n_sides = argc - 1;
    if (n_sides < 1 || n_sides > MAX_SIDES) {
        fprintf(stderr, "usage: observer SOCKET...   (1 to %d)\n", MAX_SIDES);
        return 2;
    }
    for (int i = 0; i < n_sides; i++) {
        paths[i] = argv[i + 1];
        sockets[i] = -1;
        if (strlen(paths[i]) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
            fprintf(stderr, "observer: path too long for a socket: %s\n", paths[i]);
            return 2;
        }
    }
    struct sched_param priority = {.sched_priority = 10};
    sched_setscheduler(0, SCHED_FIFO, &priority); /* only punctuality is lost without it */
    while (wait_and_read())
        continue;
    return 0;
}
