// SPDX-License-Identifier: Apache-2.0
/*
 * Which disk images the two hosts of a move both read, so that pages can be sent as references to
 * their blocks (lane/image_ref.h).
 *
 * The source offers every file of the VM's disks, backing files too, in the order of the
 * definition: {"disk": name, "layer": 0 is the disk's own file, "blocks", "samples"}; and, if the
 * VM came from the target, the visit that the target may have kept: {"visit": id of that move}. The
 * place in the list is the image's number. The target looks at what it has in that place, by its
 * own paths, and answers with the numbers that it takes.
 *
 * A worker thread does the file work, as a dead file server may block it for ever; it owns its task
 * and outlives the probe if it must. Main context; the callback comes once, never from inside.
 */
#pragma once

#include "base/json.h"
#include "lane/image_ref.h"
#include "migrate/visits.h"
#include "vm/definition.h"

/* How long a move waits for a probe that is not done when everything else is. */
#define GW_REF_PROBE_WAIT_MS 500

/* What the tables of one VM's indexes may take together. */
#define GW_REF_MAX_TABLE_BYTES (UINT64_C(512) << 20)

typedef struct GwRefProbe GwRefProbe;

typedef struct GwRefProbeOptions {
    const GwDefinition *definition;
    const char *peer;          /* the move's other host */
    const char *visits_folder; /* NULL: no visits */
    const char *index_folder;  /* source: of indexes; NULL: they are not kept */
    int64_t recent_s;          /* source: files with an index younger than this are left out */
} GwRefProbeOptions;

/* @source: transfer full. NULL if there is nothing to offer; else with an index for each offer. */
typedef void (*GwRefOffersFn)(json_t *offers, GwRefSource *source, void *data);
GwRefProbe *gw_ref_probe_source(const GwRefProbeOptions *options, GwRefOffersFn callback,
                                void *data) GW_MUST_USE;

/* @taken: numbers. @images: transfer full, NULL if none was taken. */
typedef void (*GwRefTakenFn)(json_t *taken, GwRefTarget *images, void *data);
/* @offers: hostile. */
GwRefProbe *gw_ref_probe_target(const GwRefProbeOptions *options, const json_t *offers,
                                GwRefTakenFn callback, void *data) GW_MUST_USE;

/* Before the callback: it will not come. */
void gw_ref_probe_free(GwRefProbe *probe);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwRefProbe, gw_ref_probe_free)
