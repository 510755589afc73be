// SPDX-License-Identifier: Apache-2.0
/*
 * One file of an image's chain, between image.c and image_qcow2.c.
 *
 * Byte table of a qcow2 file (QEMU docs/interop/qcow2.rst), all numbers big-endian:
 *
 *     offset size
 *          0    4  magic "QFI\xfb"
 *          4    4  version, 2 or 3
 *          8    8  where in the file the backing file's name is; 0: none
 *         16    4  bytes of the name, at most 1023
 *         20    4  cluster bits: a cluster has 2^bits bytes, 9 to 21
 *         24    8  bytes of the guest's disk
 *         32    4  encryption, 0: none
 *         36    4  entries of the L1 table
 *         40    8  where the L1 table is
 *         48   24  refcounts and snapshots, of no use for reading
 *         72    8  version 3: incompatible features
 *         80   20  version 3: other features, refcount order
 *        100    4  version 3: bytes of the header; version 2 has 72
 *          …    …  extensions: be32 type, be32 bytes, data padded to 8; type 0 ends them
 *
 * An L1 entry points to an L2 table, one cluster of entries; an L2 entry to a cluster:
 *
 *     bits 9-55  offset in the file, a multiple of the cluster; 0: not allocated
 *     bit 63     the cluster is not shared with a snapshot
 *     bit 62     L2 only: compressed
 *     bit 0      L2 only, version 3: reads as zero
 */
#pragma once

#include "base/fd.h"
#include "lane/image.h"

/* Tables are read and kept in pieces of this size. */
#define GW_QCOW2_SLICE_BYTES 4096u
#define GW_QCOW2_N_SLICES    256u

typedef struct GwQcow2Slice {
    uint64_t number; /* offset in the file / GW_QCOW2_SLICE_BYTES, + 1; 0: empty */
    size_t len;
} GwQcow2Slice;

typedef struct GwImageLayer {
    char *path;
    const char *format; /* static */
    GwFd fd;
    uint64_t device;
    uint64_t inode;
    uint64_t file_bytes; /* when it was opened */
    uint64_t n_bytes;    /* of the guest's disk */
    char *why_unknown;   /* nothing in here can be read; NULL: fine */

    /* qcow2 */
    unsigned version;
    unsigned cluster_bits;
    uint64_t l1_offset;
    uint32_t l1_entries;
    char *backing_path; /* NULL: none */
    char *backing_format;
    char *why_no_backing; /* it has a backing file, which cannot be used; NULL: fine */
    GwQcow2Slice slices[GW_QCOW2_N_SLICES];
    uint8_t *slice_bytes; /* GW_QCOW2_N_SLICES × GW_QCOW2_SLICE_BYTES */
} GwImageLayer;

/* Reads the header of the file that is open in @layer; GW_ERROR_INVALID. */
bool gw_qcow2_open(GwImageLayer *layer, GError **error) GW_MUST_USE;

/* @block lies in the guest's disk. At most @max_blocks (≥ 1), of one kind. */
GwImageExtent gw_qcow2_map(GwImageLayer *layer, uint64_t block, uint64_t max_blocks);
