// SPDX-License-Identifier: Apache-2.0
/*
 * Disk images as stores of pages: reading a guest's disk, raw or qcow2, in blocks of 4 KiB.
 *
 * An image is a file and its backing files, the chain; layer 0 is the file itself. What cannot be
 * read (compressed and encrypted clusters, external data files, a missing or unknown backing file,
 * clusters below 4 KiB, extended L2 entries) is GW_IMAGE_UNKNOWN: of no use, but no error.
 *
 * The image may be written by a running QEMU meanwhile, so everything read here may be old or torn.
 * That is no harm as long as nobody believes a block without a proof: see image_ref.h.
 *
 * The format is never guessed: a guest may write a qcow2 header onto its raw disk and so name any
 * file of the host as its backing file. For the same reason a backing file without a recorded
 * format is not opened. Nothing is ever written and no lock is taken.
 */
#pragma once

#include "base/error.h"
#include "ramstream/ramstream.h"

#include <stdint.h>

#define GW_IMAGE_MAX_LAYERS 16u
/* What is taken for a disk: 64 TiB. */
#define GW_IMAGE_MAX_BLOCKS (UINT64_C(1) << 34)

typedef enum GwImageContent {
    GW_IMAGE_DATA,
    GW_IMAGE_ZERO,
    GW_IMAGE_BACKING, /* of one layer: the next layer has it */
    GW_IMAGE_UNKNOWN,
} GwImageContent;

/* Blocks of the guest's disk that follow each other and are of one kind. */
typedef struct GwImageExtent {
    GwImageContent content;
    unsigned layer;
    uint64_t n_blocks;    /* at least 1 */
    uint64_t file_offset; /* DATA: where in the layer's file */
} GwImageExtent;

/* One block to read. */
typedef struct GwImageRead {
    uint64_t block;
    uint8_t *out; /* GW_PAGE_BYTES */
    bool known;   /* result; false: @out has anything */
} GwImageRead;

/* Which file this is and in what state, to tell later whether it is still the same. */
typedef struct GwImageIdentity {
    uint64_t inode;
    uint64_t n_blocks;
    uint64_t shape; /* of a qcow2 header: what says where the tables are */
    /* Changed by every write. */
    uint64_t file_bytes;
    int64_t mtime_ns;
    /* False for block devices, which do not tell when they were written. */
    bool tells_writes;
} GwImageIdentity;

/* One thread at a time. */
typedef struct GwImage GwImage;

/*
 * @format: "raw" or "qcow2". Errors: GW_ERROR_IO, GW_ERROR_UNSUPPORTED (format),
 * GW_ERROR_INVALID (not a qcow2 image, a chain that comes back to itself), GW_ERROR_TOO_LARGE.
 */
GwImage *gw_image_open(const char *path, const char *format, GError **error) GW_MUST_USE;
void gw_image_free(GwImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwImage, gw_image_free)

/* Whole blocks of the guest's disk. */
uint64_t gw_image_n_blocks(const GwImage *image);
/* Layer 0 has no more blocks of data than this, unless its tables say the same place twice. */
uint64_t gw_image_max_data_blocks(const GwImage *image);
unsigned gw_image_n_layers(const GwImage *image);
/* Borrowed; NULL for a layer that is not there. */
const char *gw_image_layer_path(const GwImage *image, unsigned layer);
const char *gw_image_layer_format(const GwImage *image, unsigned layer);
/* Why a part of the image is of no use, for people; NULL: all can be read. Borrowed. */
const char *gw_image_note(const GwImage *image);

/* Of layer 0, as of now. */
bool gw_image_identity(const GwImage *image, GwImageIdentity *out, GError **error) GW_MUST_USE;

/*
 * What layer @layer by itself has at @block and behind it, at most @max_blocks (≥ 1). Holes of a
 * file are looked for, so a loop over a layer is quick. UNKNOWN beyond the image's end.
 */
GwImageExtent gw_image_map_layer(GwImage *image, unsigned layer, uint64_t block,
                                 uint64_t max_blocks);

/*
 * Reads blocks of the guest's disk, all layers together. Sorts @reads by block; what is not in
 * memory is asked of the disk all at once. True: there was such.
 */
bool gw_image_read(GwImage *image, GwImageRead *reads, size_t n_reads);

/* Asks the disk for blocks that are read later, as far as they follow each other in a file. */
void gw_image_prefetch(GwImage *image, uint64_t block, uint64_t n_blocks);

/*
 * Reads up to @len bytes of a DATA extent straight from its layer's file. Bytes read: less than
 * @len at the end of the file and when it cannot be read.
 */
size_t gw_image_read_extent(GwImage *image, const GwImageExtent *extent, uint8_t *out, size_t len);
