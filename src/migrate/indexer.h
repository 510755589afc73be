// SPDX-License-Identifier: Apache-2.0
/*
 * Indexes of the disk images of VMs that run here, made in the background and kept in the cache
 * folder, so that a move that starts finds them there.
 *
 * One VM at a time, when it begins to run on this host or the daemon finds it running; idle I/O, as
 * image_index.h says; not those that have an index of the last 24 hours. A move never waits for an
 * index; one that is old costs bytes only and is made anew in the background of the next move. The
 * folder is bounded by the indexes themselves; those of a VM's own files go when the VM is
 * undefined, as do its visits (visits.h), not when it moves away: it may come back.
 *
 * Main context; the files are read by threads of their own.
 */
#pragma once

#include "migrate/visits.h"
#include "vm/vm.h"

typedef struct GwIndexer GwIndexer;

/* Begins with the VMs that run. @vms and @visits (nullable) outlive it. */
GwIndexer *gw_indexer_new(GwVms *vms, const char *cache_folder, GwVisits *visits) GW_MUST_USE;
void gw_indexer_free(GwIndexer *indexer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwIndexer, gw_indexer_free)

/* GwVmsChangedFn with the indexer as @data, for whoever owns gw_vms_on_change(). */
void gw_indexer_vm_changed(const char *name, GwVm *vm, void *indexer);

/* Nothing is under way or waits. */
bool gw_indexer_is_idle(const GwIndexer *indexer);
