// SPDX-License-Identifier: Apache-2.0
/*
 * What a QEMU binary offers under an accelerator, asked of QEMU itself. Main context.
 *
 * The facts are {"version": "10.0.2", "machines": {…}, "cpu_features": […]}, the latter two as in
 * GwHostCaps.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

typedef struct GwCapsQuery GwCapsQuery;

typedef struct GwCapsQueryOptions {
    const char *accel; /* "kvm" or "tcg" */
    const char *binary;
    const char *user;
    const char *run_dir;
} GwCapsQueryOptions;

/* @facts: borrowed; NULL when @error is set. */
typedef void (*GwCapsQueryFn)(json_t *facts, const GError *error, void *data);

/* Calls back once, unless freed before. */
GwCapsQuery *gw_caps_query_start(const GwCapsQueryOptions *options, GwCapsQueryFn callback,
                                 void *data, GError **error) GW_MUST_USE;
void gw_caps_query_free(GwCapsQuery *query);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwCapsQuery, gw_caps_query_free)

/* Do these (from a cache, say) have the shape of facts? */
bool gw_caps_facts_are_valid(const json_t *facts);
