// SPDX-License-Identifier: Apache-2.0
/* How busy this host's processors are, and a thread with them. Any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct GwProcessorTimes {
    uint64_t idle_ticks; /* of all processors since boot */
    uint64_t all_ticks;
} GwProcessorTimes;

/* False: the kernel does not tell. */
bool gw_processor_times(GwProcessorTimes *out);

/* Of the time between two readings; 0 if there was none. */
unsigned gw_processor_idle_percent(const GwProcessorTimes *before, const GwProcessorTimes *now);

/* What the calling thread has used so far. */
uint64_t gw_thread_cpu_us(void);
