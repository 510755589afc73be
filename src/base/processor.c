// SPDX-License-Identifier: Apache-2.0
/*
 * The first line of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal;
 * and the kernel's clock of a thread.
 *
 * Owns nothing; any thread; reads at most one buffer. Fails by false: then nobody knows.
 */
#include "base/processor.h"

#include <stdio.h>
#include <time.h>

bool
gw_processor_times(GwProcessorTimes *out)
{
    unsigned long long ticks[8];
    FILE *file = fopen("/proc/stat", "re");

    if (!file) {
        return false;
    }
    int n = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &ticks[0], &ticks[1],
                   &ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6], &ticks[7]);

    fclose(file);
    if (n != 8) {
        return false;
    }
    *out = (GwProcessorTimes){.idle_ticks = ticks[3] + ticks[4]};
    for (unsigned i = 0; i < 8; i++) {
        out->all_ticks += ticks[i];
    }
    return true;
}

unsigned
gw_processor_idle_percent(const GwProcessorTimes *before, const GwProcessorTimes *now)
{
    uint64_t all = now->all_ticks - before->all_ticks;
    uint64_t idle = now->idle_ticks - before->idle_ticks;

    /* The kernel's idle figure may go back a little. */
    if (now->all_ticks <= before->all_ticks || now->idle_ticks < before->idle_ticks) {
        return 0;
    }
    return idle >= all ? 100 : (unsigned)(100 * idle / all);
}

uint64_t
gw_thread_cpu_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
