// SPDX-License-Identifier: Apache-2.0
/* How busy this host's processors are. Any thread. */
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
