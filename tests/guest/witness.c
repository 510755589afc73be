// SPDX-License-Identifier: Apache-2.0
/*
 * Start of the witness: options, threads, READY on the console.
 *
 * Runs as root in the test guest, started by init once. Each part owns its thread and counters;
 * parts are asked through the functions of witness.h. A mistake in the options or a missing port
 * ends the process with a message on the console, which tests see as a guest that is never READY.
 */
#include "witness.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LATE_US 100000 /* a tick later than this starts a new rhythm */

void
witness_report(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (len < 0)
        return;
    if ((size_t)len > sizeof line - 2)
        len = sizeof line - 2;
    line[len++] = '\n';
    beat_write(line, (size_t)len);
    fwrite(line, 1, (size_t)len, stdout);
    fflush(stdout);
}

void
witness_thread(void *(*run)(void *), void *data)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run, data);
    if (error) {
        printf("witness: cannot start a thread: %s\n", strerror(error));
        exit(1);
    }
    pthread_detach(thread);
}

int64_t
witness_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void
witness_tick(int64_t *next_us, int64_t period_us)
{
    struct timespec until = {
        .tv_sec = *next_us / 1000000,
        .tv_nsec = *next_us % 1000000 * 1000,
    };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
    int64_t now_us = witness_now_us();
    *next_us = now_us - *next_us > LATE_US ? now_us + period_us : *next_us + period_us;
}

int
witness_open_serial(const char *path)
{
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    struct termios mode;
    if (tcgetattr(fd, &mode) < 0) { /* the node exists for every port, the port need not */
        close(fd);
        return -1;
    }
    cfmakeraw(&mode);
    cfsetspeed(&mode, B115200);
    if (tcsetattr(fd, TCSANOW, &mode) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool
parse_number(const char *name, const char *text, unsigned max, unsigned *out)
{
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *end || value > max) {
        printf("witness: witness.%s=%s: wanted a number from 0 to %u\n", name, text, max);
        return false;
    }
    *out = (unsigned)value;
    return true;
}

static bool
parse_data(const char *text, DataKind *out)
{
    static const char *const names[] = {"mixed", "text", "random"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(text, names[i])) {
            *out = (DataKind)i;
            return true;
        }
    }
    printf("witness: witness.data=%s: wanted mixed, text or random\n", text);
    return false;
}

static bool
parse_option(const char *name, const char *value, Options *options)
{
    const struct {
        const char *name;
        unsigned max;
        unsigned *out;
    } numbers[] = {
        {"rate", 100000, &options->rate_mb},      {"set", 1u << 20, &options->set_mib},
        {"fill", 1u << 20, &options->fill_mib},   {"disk-mib", 1024, &options->disk_mib},
        {"disk-rate", 1000, &options->disk_rate},
    };
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!strcmp(name, numbers[i].name))
            return parse_number(name, value, numbers[i].max, numbers[i].out);
    }
    if (!strcmp(name, "data"))
        return parse_data(value, &options->data);
    if (!strcmp(name, "disk") && strlen(value) < sizeof options->disk) {
        strcpy(options->disk, value);
        return true;
    }
    /* init's own options have other prefixes */
    printf("witness: witness.%s=%s: no such option\n", name, value);
    return false;
}

static bool
read_options(Options *options)
{
    char text[4096];
    FILE *file = fopen("/proc/cmdline", "re");
    if (!file || !fgets(text, sizeof text, file)) {
        puts("witness: cannot read /proc/cmdline");
        return false;
    }
    fclose(file);
    char *rest = NULL;
    for (char *word = strtok_r(text, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
        char *value = strchr(word, '=');
        if (strncmp(word, "witness.", 8) || !value)
            continue;
        *value++ = '\0';
        if (!parse_option(word + 8, value, options))
            return false;
    }
    return true;
}

int
main(void)
{
    Options options = {.rate_mb = 20, .set_mib = 64, .disk_mib = 4, .disk_rate = 20};
    if (!read_options(&options))
        return 1;
    beat_start();
    echo_start();
    power_start();
    if (!memory_start(&options))
        return 1;
    disk_start(&options);
    command_start("/dev/ttyS0", true);
    command_start("/dev/ttyS2", false);
    printf("READY after %lld ms\n", (long long)(witness_now_us() / 1000));
    fflush(stdout);
    for (;;)
        pause();
}
