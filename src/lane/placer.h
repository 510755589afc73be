// SPDX-License-Identifier: Apache-2.0
/*
 * Pages on their way into the memory of the target's QEMU, without QEMU's help.
 *
 * QEMU's loader is one thread that reads every page from a socket and touches the guest's memory
 * for the first time, which is most of the work. Here several threads write pages straight into its
 * address space (/proc/PID/mem); QEMU reads what else the stream has, and has nothing to do for
 * them. Only while its guest has never run, and only for blocks whose pages all go this way: QEMU
 * and the placer never write to the same block.
 *
 * Pages of one address are written in the order in which they are put, and what was put last can be
 * had back at any time, written or not. Zero pages are written only where memory is there
 * (/proc/PID/pagemap): what was never touched is zero, and stays untouched.
 *
 * The descriptors belong to the memory of one process as it was when they were opened: should it
 * end, nothing is written anywhere else, whoever gets its number.
 *
 * One thread puts. Memory: GW_PLACER_CHUNKS of 260 KiB for each worker.
 */
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <stddef.h>
#include <stdint.h>

#define GW_PLACER_MAX_WORKERS 4u
#define GW_PLACER_CHUNKS      8u
#define GW_PLACER_MAX_BLOCKS  64u

typedef struct GwPlacer GwPlacer;

/*
 * @memory_fd: a process's memory, for reading and writing; @map_fd: its page map. Transfer full,
 * also on failure. A worker for each core, at most GW_PLACER_MAX_WORKERS; an error if not even one
 * can be started.
 */
GwPlacer *gw_placer_new(GwFd memory_fd, GwFd map_fd, GError **error) GW_MUST_USE;
/* Writes what was put, unless that failed before. NULL is fine. */
void gw_placer_free(GwPlacer *placer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwPlacer, gw_placer_free)

/*
 * A block of the guest's memory: @bytes from @start on in the process's address space, private
 * memory of its own. Before the first page. False: there are too many.
 */
bool gw_placer_add_block(GwPlacer *placer, const char *name, uint64_t start,
                         uint64_t bytes) GW_MUST_USE;

#define GW_PLACER_NO_BLOCK (-1)
/* The number of the block of this name, or GW_PLACER_NO_BLOCK. */
int gw_placer_find(const GwPlacer *placer, const char *name, size_t name_len);
/* The name of the block with this number; NULL: there is none. Borrowed. */
const char *gw_placer_block_name(const GwPlacer *placer, unsigned block);

/*
 * The page at @address, an offset in the block: @content is copied; NULL: zero. Waits while too
 * much is under way. GW_ERROR_PROTOCOL if the block has no such page, and what a worker has failed
 * with: GW_ERROR_IO, when the process is gone.
 */
bool gw_placer_put(GwPlacer *placer, int block, uint64_t address, const uint8_t *content,
                   GError **error) GW_MUST_USE;
/*
 * What was put last at @address, or is there, to @out, GW_PAGE_BYTES. The thread that puts. Fails
 * as gw_placer_put() does.
 */
bool gw_placer_get(GwPlacer *placer, int block, uint64_t address, uint8_t *out,
                   GError **error) GW_MUST_USE;
/* Until all that was put is written. */
bool gw_placer_drain(GwPlacer *placer, GError **error) GW_MUST_USE;
/* A worker has failed: nothing is written any more. Any thread. */
bool gw_placer_has_failed(GwPlacer *placer);

/* Processor time of the workers so far. Any thread. */
uint64_t gw_placer_cpu_us(GwPlacer *placer);
uint64_t gw_placer_memory_bytes(const GwPlacer *placer);
