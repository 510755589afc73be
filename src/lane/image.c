// SPDX-License-Identifier: Apache-2.0
/*
 * Images: opening the chain, finding and reading blocks through its layers.
 *
 * Owns the layers' files; at most GW_IMAGE_MAX_LAYERS, each with at most 1 MiB of tables. One
 * thread at a time. Only regular files and block devices are opened. The file that was asked for
 * must be sound; a backing file that is not there or not understood leaves what it would have had
 * unknown, and a note says so. A chain that comes back to itself, or does not end, is refused.
 */
#include "lane/image_layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <xxhash.h>

/* Reads that wait for the disk, at once. */
#define MAX_RUNS       256u
#define MAX_RUN_BLOCKS 256u

#define MAX_CLUSTER_BYTES (UINT64_C(2) << 20)

struct GwImage {
    GwImageLayer *layers[GW_IMAGE_MAX_LAYERS];
    unsigned n_layers;
    char *note;
};

/* --- opening ---------------------------------------------------------------------------------- */

static void
layer_free(GwImageLayer *layer)
{
    if (!layer) {
        return;
    }
    gw_fd_clear(&layer->fd);
    g_free(layer->path);
    g_free(layer->why_unknown);
    g_free(layer->backing_path);
    g_free(layer->backing_format);
    g_free(layer->why_no_backing);
    g_free(layer->slice_bytes);
    g_free(layer);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwImageLayer, layer_free)

void
gw_image_free(GwImage *image)
{
    if (!image) {
        return;
    }
    for (unsigned i = 0; i < image->n_layers; i++) {
        layer_free(image->layers[i]);
    }
    g_free(image->note);
    g_free(image);
}

/* NULL: not a format that can be read here. */
static const char *
known_format(const char *format)
{
    if (g_strcmp0(format, "qcow2") == 0) {
        return "qcow2";
    }
    return g_strcmp0(format, "raw") == 0 ? "raw" : NULL;
}

/* Whether it is a file or device; its size is all that a raw image has for a header. */
static bool
measure(GwImageLayer *layer, GError **error)
{
    struct stat st;

    if (fstat(layer->fd, &st) < 0) {
        gw_set_error_errno(error, errno, "cannot look at '%s'", layer->path);
        return false;
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is neither a file nor a block device",
                    layer->path);
        return false;
    }
    off_t end = S_ISREG(st.st_mode) ? st.st_size : lseek(layer->fd, 0, SEEK_END);
    if (end < 0) {
        gw_set_error_errno(error, errno, "cannot tell the size of '%s'", layer->path);
        return false;
    }
    layer->device = st.st_dev;
    layer->inode = st.st_ino;
    layer->file_bytes = (uint64_t)end;
    layer->n_bytes = (uint64_t)end;
    return true;
}

static GwImageLayer *
layer_open(const char *path, const char *format, GError **error)
{
    g_autoptr(GwImageLayer) layer = g_new0(GwImageLayer, 1);

    layer->fd = GW_FD_NONE;
    layer->path = g_strdup(path);
    layer->format = known_format(format);
    if (!layer->format) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "'%s' is of format %s, not raw or qcow2",
                    path, format ? format : "unknown");
        return NULL;
    }
    /* Not to hang on what turns out to be a pipe. */
    layer->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (layer->fd < 0) {
        gw_set_error_errno(error, errno, "cannot open the disk image '%s'", path);
        return NULL;
    }
    if (!measure(layer, error)) {
        return NULL;
    }
    if (strcmp(layer->format, "qcow2") == 0 && !gw_qcow2_open(layer, error)) {
        return NULL;
    }
    if (layer->n_bytes / GW_PAGE_BYTES > GW_IMAGE_MAX_BLOCKS) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE, "'%s' is larger than 64 TiB", path);
        return NULL;
    }
    return g_steal_pointer(&layer);
}

static void
add_note(GwImage *image, const char *why)
{
    if (!image->note) {
        image->note = g_strdup(why);
    }
}

/* Takes over @layer; false: the chain must not go on like this. */
static bool
append(GwImage *image, GwImageLayer *layer, GError **error)
{
    for (unsigned i = 0; i < image->n_layers; i++) {
        if (image->layers[i]->device == layer->device && image->layers[i]->inode == layer->inode) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                        "the backing files of '%s' come back to '%s'", image->layers[0]->path,
                        layer->path);
            layer_free(layer);
            return false;
        }
    }
    if (image->n_layers == GW_IMAGE_MAX_LAYERS) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "'%s' has more than %u backing files: commit or rebase some",
                    image->layers[0]->path, GW_IMAGE_MAX_LAYERS - 1);
        layer_free(layer);
        return false;
    }
    if (layer->why_unknown) {
        add_note(image, layer->why_unknown);
    }
    image->layers[image->n_layers++] = layer;
    return true;
}

/* The file behind @layer; NULL: there is none, or none of use (which layer->why_no_backing says).
 */
static GwImageLayer *
open_backing(GwImageLayer *layer)
{
    g_autoptr(GError) error = NULL;

    if (!layer->backing_path) {
        return NULL;
    }
    GwImageLayer *next = layer_open(layer->backing_path, layer->backing_format, &error);
    if (!next) {
        layer->why_no_backing =
            g_strdup_printf("the backing file of '%s': %s", layer->path, error->message);
    }
    return next;
}

GwImage *
gw_image_open(const char *path, const char *format, GError **error)
{
    g_autoptr(GwImage) image = g_new0(GwImage, 1);
    GwImageLayer *layer = layer_open(path, format, error);

    if (!layer) {
        return NULL;
    }
    for (GwImageLayer *next = layer; next; next = open_backing(layer)) {
        layer = next;
        if (!append(image, layer, error)) {
            return NULL;
        }
    }
    if (layer->why_no_backing) {
        add_note(image, layer->why_no_backing);
    }
    return g_steal_pointer(&image);
}

/* --- about ------------------------------------------------------------------------------------ */

static uint64_t
layer_n_blocks(const GwImageLayer *layer)
{
    return layer->n_bytes / GW_PAGE_BYTES;
}

uint64_t
gw_image_n_blocks(const GwImage *image)
{
    return layer_n_blocks(image->layers[0]);
}

uint64_t
gw_image_max_data_blocks(const GwImage *image)
{
    /* The last cluster may lie beyond the end. */
    return (image->layers[0]->file_bytes + MAX_CLUSTER_BYTES) / GW_PAGE_BYTES;
}

unsigned
gw_image_n_layers(const GwImage *image)
{
    return image->n_layers;
}

const char *
gw_image_layer_path(const GwImage *image, unsigned layer)
{
    return layer < image->n_layers ? image->layers[layer]->path : NULL;
}

const char *
gw_image_layer_format(const GwImage *image, unsigned layer)
{
    return layer < image->n_layers ? image->layers[layer]->format : NULL;
}

const char *
gw_image_note(const GwImage *image)
{
    return image->note;
}

bool
gw_image_identity(const GwImage *image, GwImageIdentity *out, GError **error)
{
    const GwImageLayer *layer = image->layers[0];
    const uint64_t shape[] = {layer->version, layer->cluster_bits, layer->l1_offset,
                              layer->l1_entries};
    struct stat st;

    if (fstat(layer->fd, &st) < 0) {
        gw_set_error_errno(error, errno, "cannot look at '%s'", layer->path);
        return false;
    }
    *out = (GwImageIdentity){
        .inode = st.st_ino,
        .n_blocks = layer_n_blocks(layer),
        .shape = XXH3_64bits(shape, sizeof(shape)),
        .file_bytes = (uint64_t)st.st_size,
        .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
        .tells_writes = S_ISREG(st.st_mode),
    };
    return true;
}

/* --- finding ---------------------------------------------------------------------------------- */

static GwImageExtent
raw_map(uint64_t block, uint64_t max_blocks)
{
    return (GwImageExtent){
        .content = GW_IMAGE_DATA,
        .n_blocks = max_blocks,
        .file_offset = block * GW_PAGE_BYTES,
    };
}

/* The file's holes, where the file system tells them. The descriptor's own position is unused. */
static GwImageExtent
raw_map_holes(const GwImageLayer *layer, uint64_t block, uint64_t max_blocks)
{
    GwImageExtent extent = raw_map(block, max_blocks);
    off_t start = (off_t)extent.file_offset;
    off_t data = lseek(layer->fd, start, SEEK_DATA);
    off_t end;

    if (data < 0 && errno == ENXIO) {
        extent.content = GW_IMAGE_ZERO;
        return extent;
    }
    if (data >= start + (off_t)GW_PAGE_BYTES) {
        extent.content = GW_IMAGE_ZERO;
        end = data - data % GW_PAGE_BYTES;
    } else {
        end = data < 0 ? -1 : lseek(layer->fd, data, SEEK_HOLE);
        end = end < 0 ? end : end + GW_PAGE_BYTES - 1;
    }
    /* A file that changes meanwhile may give anything. */
    if (end >= start + (off_t)GW_PAGE_BYTES) {
        extent.n_blocks = MIN(max_blocks, (uint64_t)(end - start) / GW_PAGE_BYTES);
    }
    return extent;
}

/* @block is one of the layer's. */
static GwImageExtent
map_one(GwImageLayer *layer, uint64_t block, uint64_t max_blocks, bool holes)
{
    max_blocks = MIN(max_blocks, layer_n_blocks(layer) - block);
    if (layer->why_unknown) {
        return (GwImageExtent){.content = GW_IMAGE_UNKNOWN, .n_blocks = max_blocks};
    }
    if (layer->slice_bytes) {
        return gw_qcow2_map(layer, block, max_blocks);
    }
    return holes ? raw_map_holes(layer, block, max_blocks) : raw_map(block, max_blocks);
}

GwImageExtent
gw_image_map_layer(GwImage *image, unsigned layer, uint64_t block, uint64_t max_blocks)
{
    if (layer >= image->n_layers || block >= layer_n_blocks(image->layers[layer])) {
        return (GwImageExtent){.content = GW_IMAGE_UNKNOWN, .layer = layer, .n_blocks = max_blocks};
    }
    GwImageExtent extent = map_one(image->layers[layer], block, max_blocks, true);
    extent.layer = layer;
    return extent;
}

/* What the guest sees at @block, which is one of the disk's; never BACKING. */
static GwImageExtent
map_guest(GwImage *image, uint64_t block, uint64_t max_blocks)
{
    GwImageExtent extent = {.content = GW_IMAGE_BACKING, .n_blocks = max_blocks};

    for (unsigned i = 0; i < image->n_layers && extent.content == GW_IMAGE_BACKING; i++) {
        GwImageLayer *layer = image->layers[i];
        uint64_t end = layer_n_blocks(layer);

        if (block >= end) {
            /* A disk that grew beyond its backing file reads as zero there. The block in which
             * the file ends is left alone. */
            extent.content =
                block * GW_PAGE_BYTES < layer->n_bytes ? GW_IMAGE_UNKNOWN : GW_IMAGE_ZERO;
            extent.n_blocks = 1;
        } else {
            extent = map_one(layer, block, extent.n_blocks, false);
            extent.layer = i;
        }
    }
    if (extent.content == GW_IMAGE_BACKING) {
        const GwImageLayer *last = image->layers[image->n_layers - 1];

        extent.content = last->why_no_backing ? GW_IMAGE_UNKNOWN : GW_IMAGE_ZERO;
    }
    return extent;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Reads that lie one behind the other in a file. */
typedef struct Run {
    GwImageRead *reads;
    size_t n;
    int fd;
    off_t offset;
} Run;

size_t
gw_image_read_extent(GwImage *image, const GwImageExtent *extent, uint8_t *out, size_t len)
{
    int fd = image->layers[extent->layer]->fd;
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(fd, out + done, len - done, (off_t)(extent->file_offset + done));

        if (n == 0 || (n < 0 && errno != EINTR)) {
            break;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return done;
}

/* True: all that is to be had was had. */
static bool
read_run(const Run *run, int flags)
{
    struct iovec pieces[MAX_RUN_BLOCKS];
    int n_pieces = 0;

    for (size_t i = 0; i < run->n; i++) {
        if (i > 0 && run->reads[i].out == run->reads[i - 1].out + GW_PAGE_BYTES) {
            pieces[n_pieces - 1].iov_len += GW_PAGE_BYTES;
        } else {
            pieces[n_pieces++] =
                (struct iovec){.iov_base = run->reads[i].out, .iov_len = GW_PAGE_BYTES};
        }
    }
    ssize_t len = preadv2(run->fd, pieces, n_pieces, run->offset, flags);
    size_t whole = len > 0 ? (size_t)len / GW_PAGE_BYTES : 0;

    for (size_t i = 0; i < whole; i++) {
        run->reads[i].known = true;
    }
    return whole == run->n;
}

/* Those of @reads that can be read at one go, beginning with the first. */
static Run
next_run(GwImage *image, GwImageRead *reads, size_t n_reads)
{
    Run run = {.reads = reads, .n = 1, .fd = GW_FD_NONE};

    if (reads[0].block >= gw_image_n_blocks(image)) {
        return run;
    }
    while (run.n < MIN(n_reads, MAX_RUN_BLOCKS) && reads[run.n].block == reads[0].block + run.n) {
        run.n++;
    }
    GwImageExtent extent = map_guest(image, reads[0].block, run.n);

    run.n = (size_t)MIN(run.n, extent.n_blocks);
    if (extent.content == GW_IMAGE_DATA) {
        run.fd = image->layers[extent.layer]->fd;
        run.offset = (off_t)extent.file_offset;
    }
    for (size_t i = 0; i < run.n && extent.content == GW_IMAGE_ZERO; i++) {
        memset(reads[i].out, 0, GW_PAGE_BYTES);
        reads[i].known = true;
    }
    return run;
}

static int
compare_reads(const void *a, const void *b)
{
    uint64_t left = ((const GwImageRead *)a)->block;
    uint64_t right = ((const GwImageRead *)b)->block;

    return left < right ? -1 : left > right;
}

static void
finish_runs(const Run *runs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        (void)read_run(&runs[i], 0);
    }
}

bool
gw_image_read(GwImage *image, GwImageRead *reads, size_t n_reads)
{
    Run waiting[MAX_RUNS];
    size_t n_waiting = 0;
    bool is_cold = false;

    qsort(reads, n_reads, sizeof(*reads), compare_reads);
    for (size_t i = 0; i < n_reads; i++) {
        reads[i].known = false;
    }
    for (size_t i = 0; i < n_reads;) {
        Run run = next_run(image, reads + i, n_reads - i);

        i += run.n;
        if (run.fd < 0 || read_run(&run, RWF_NOWAIT)) {
            continue;
        }
        /* Not in memory: let the disk begin, and fetch it when the others are on their way too. */
        (void)posix_fadvise(run.fd, run.offset, (off_t)(run.n * GW_PAGE_BYTES),
                            POSIX_FADV_WILLNEED);
        is_cold = true;
        waiting[n_waiting++] = run;
        if (n_waiting == MAX_RUNS) {
            finish_runs(waiting, n_waiting);
            n_waiting = 0;
        }
    }
    finish_runs(waiting, n_waiting);
    return is_cold;
}

void
gw_image_prefetch(GwImage *image, uint64_t block, uint64_t n_blocks)
{
    if (block >= gw_image_n_blocks(image)) {
        return;
    }
    GwImageExtent extent = map_guest(image, block, n_blocks);

    if (extent.content == GW_IMAGE_DATA) {
        (void)posix_fadvise(image->layers[extent.layer]->fd, (off_t)extent.file_offset,
                            (off_t)(MIN(n_blocks, extent.n_blocks) * GW_PAGE_BYTES),
                            POSIX_FADV_WILLNEED);
    }
}
