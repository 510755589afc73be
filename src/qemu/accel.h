// SPDX-License-Identifier: Apache-2.0
/*
 * The proof that an accelerator runs guests: a tiny 64-bit one (proof_guest.S) has to compute a
 * known number under it. A device node that opens is no proof. Main context.
 */
#pragma once

#include "base/error.h"

/* For the guest itself; QEMU's own start has the monitor's timeout. */
#define GW_ACCEL_PROOF_MS 3000

typedef struct GwAccelProof GwAccelProof;

typedef struct GwAccelProofOptions {
    const char *accel; /* "kvm"; "tcg" for tests */
    const char *binary;
    const char *user;
    const char *run_dir;
} GwAccelProofOptions;

typedef struct GwAccelVerdict {
    bool works;
    bool lasting;     /* will hold until the next boot; other failures are quick to find again */
    const char *text; /* one clause for people, about the accelerator; borrowed */
} GwAccelVerdict;

typedef void (*GwAccelProofFn)(const GwAccelVerdict *verdict, void *data);

/* Fails when QEMU cannot be started at all. Calls back once, unless freed before. */
GwAccelProof *gw_accel_proof_start(const GwAccelProofOptions *options, GwAccelProofFn callback,
                                   void *data, GError **error) GW_MUST_USE;
void gw_accel_proof_free(GwAccelProof *proof);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwAccelProof, gw_accel_proof_free)
