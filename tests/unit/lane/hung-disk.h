// SPDX-License-Identifier: Apache-2.0
/*
 * A disk that does not answer: reads of images that never return until they are let go.
 *
 * The program is to be linked with `hung_disk_args` (meson.build), which sends its reads here.
 */
#pragma once

/* From now on reads hang. */
void hung_disk_begin(void);
/* Waits until one does. */
void hung_disk_wait(void);
/* They go on, and all that follow. */
void hung_disk_end(void);
