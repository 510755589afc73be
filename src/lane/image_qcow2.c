// SPDX-License-Identifier: Apache-2.0
/*
 * qcow2: header and tables, for reading alone. Hostile input: the file may come from anybody.
 *
 * Owns in its layer 1 MiB in which pieces of L1 and L2 tables are kept, whatever their sizes, and
 * the backing file's name. A table is never loaded whole, so nothing in the file sizes any memory.
 * A piece that was read is not read again: of an image that QEMU is writing the state at that
 * moment counts. One thread. A damaged header fails with GW_ERROR_INVALID; a damaged or unreadable
 * table entry makes the blocks below it GW_IMAGE_UNKNOWN.
 */
#include "lane/image_layer.h"

#include "base/cursor.h"

#include <errno.h>
#include <string.h>

#define MAGIC            0x514649fbu
#define HEADER_MAX_BYTES 65536u
#define V2_HEADER_BYTES  72u
#define V3_HEADER_BYTES  104u
#define NAME_MAX_BYTES   1023u
#define FORMAT_MAX_BYTES 64u

#define MIN_CLUSTER_BITS 9u
#define MAX_CLUSTER_BITS 21u

#define INCOMPATIBLE_DIRTY       (UINT64_C(1) << 0) /* of refcounts only */
#define INCOMPATIBLE_COMPRESSION (UINT64_C(1) << 3) /* what compressed clusters are made with */
#define INCOMPATIBLE_HARMLESS    (INCOMPATIBLE_DIRTY | INCOMPATIBLE_COMPRESSION)

#define EXTENSION_END            0u
#define EXTENSION_BACKING_FORMAT 0xe2792acau

#define ENTRY_OFFSET     UINT64_C(0x00fffffffffffe00)
#define ENTRY_COPIED     (UINT64_C(1) << 63)
#define ENTRY_COMPRESSED (UINT64_C(1) << 62)
#define ENTRY_ZERO       UINT64_C(1)

/* --- header ----------------------------------------------------------------------------------- */

static bool
damaged(const GwImageLayer *layer, const char *what, GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                "'%s' is not a sound qcow2 image: %s; see 'qemu-img check'", layer->path, what);
    return false;
}

static void
unknown(GwImageLayer *layer, const char *why)
{
    g_free(layer->why_unknown);
    layer->why_unknown = g_strdup_printf("'%s' %s", layer->path, why);
}

static uint64_t
be64_at(const uint8_t *bytes)
{
    GwCursor cursor = gw_cursor(bytes, 8);

    return gw_cursor_be64(&cursor);
}

/* A name out of the file; NULL if it is not text that a path can be. */
static char *
text(const uint8_t *bytes, size_t len)
{
    return len > 0 && !memchr(bytes, 0, len) ? g_strndup((const char *)bytes, len) : NULL;
}

/* "nbd://…", "json:{…}" and the like name no file. */
static bool
names_protocol(const char *name)
{
    size_t plain = strcspn(name, ":/");

    return name[plain] == ':';
}

static void
take_backing_name(GwImageLayer *layer, const uint8_t *bytes, size_t len)
{
    g_autofree char *name = text(bytes, len);
    const char *file = name && g_str_has_prefix(name, "file:") ? name + 5 : name;

    if (!file || names_protocol(file)) {
        layer->why_no_backing = g_strdup_printf("the backing file of '%s' is no file", layer->path);
    } else if (g_path_is_absolute(file)) {
        layer->backing_path = g_strdup(file);
    } else {
        g_autofree char *folder = g_path_get_dirname(layer->path);

        layer->backing_path = g_build_filename(folder, file, NULL);
    }
}

static bool
read_backing_name(GwImageLayer *layer, uint64_t offset, uint32_t len, GError **error)
{
    uint8_t bytes[NAME_MAX_BYTES];

    if (offset == 0) {
        return true;
    }
    if (len > sizeof(bytes) || offset > (UINT64_C(1) << layer->cluster_bits) - len) {
        return damaged(layer, "the backing file's name does not fit into its place", error);
    }
    if (pread(layer->fd, bytes, len, (off_t)offset) != (ssize_t)len) {
        return damaged(layer, "the backing file's name is cut off", error);
    }
    take_backing_name(layer, bytes, len);
    return true;
}

/* Extensions are optional: one that is cut off ends the search. */
static void
read_extensions(GwImageLayer *layer, GwCursor cursor)
{
    while (gw_cursor_left(&cursor) >= 8) {
        uint32_t type = gw_cursor_be32(&cursor);
        uint32_t len = gw_cursor_be32(&cursor);
        const uint8_t *bytes = gw_cursor_bytes(&cursor, len);

        if (type == EXTENSION_END || !bytes) {
            return;
        }
        if (type == EXTENSION_BACKING_FORMAT && len <= FORMAT_MAX_BYTES) {
            g_free(layer->backing_format);
            layer->backing_format = text(bytes, len);
        }
        (void)gw_cursor_bytes(&cursor, (8 - len % 8) % 8);
    }
}

/* What version 3 adds; @header_len: where the extensions begin. */
static bool
read_features(GwImageLayer *layer, GwCursor *cursor, uint32_t *header_len, GError **error)
{
    *header_len = V2_HEADER_BYTES;
    if (layer->version < 3) {
        return true;
    }
    uint64_t incompatible = gw_cursor_be64(cursor);

    (void)gw_cursor_bytes(cursor, 20);
    *header_len = gw_cursor_be32(cursor);
    if (cursor->failed || *header_len < V3_HEADER_BYTES || *header_len > cursor->len) {
        return damaged(layer, "its header has an impossible size", error);
    }
    if (incompatible & ~INCOMPATIBLE_HARMLESS) {
        unknown(layer, "uses qcow2 features that are not understood here");
    }
    return true;
}

/* Fields up to the L1 table; the cursor stands behind the snapshots afterwards. */
static bool
read_fixed(GwImageLayer *layer, GwCursor *cursor, GError **error)
{
    if (gw_cursor_be32(cursor) != MAGIC) {
        return damaged(layer, "it does not begin like one", error);
    }
    layer->version = gw_cursor_be32(cursor);
    (void)gw_cursor_bytes(cursor, 12); /* the backing file's name */
    layer->cluster_bits = gw_cursor_be32(cursor);
    layer->n_bytes = gw_cursor_be64(cursor);
    uint32_t encryption = gw_cursor_be32(cursor);
    layer->l1_entries = gw_cursor_be32(cursor);
    layer->l1_offset = gw_cursor_be64(cursor);
    (void)gw_cursor_bytes(cursor, 24);

    if (cursor->failed || layer->version < 2 || layer->version > 3) {
        return damaged(layer, "its header is cut off or of an unknown version", error);
    }
    if (layer->cluster_bits < MIN_CLUSTER_BITS || layer->cluster_bits > MAX_CLUSTER_BITS) {
        return damaged(layer, "its clusters have an impossible size", error);
    }
    if (layer->l1_offset % (UINT64_C(1) << layer->cluster_bits) != 0 ||
        layer->l1_offset > (ENTRY_OFFSET >> 1)) {
        return damaged(layer, "its L1 table is at an impossible place", error);
    }
    if (encryption != 0) {
        unknown(layer, "is encrypted");
    } else if ((UINT64_C(1) << layer->cluster_bits) < GW_PAGE_BYTES) {
        unknown(layer, "has clusters below 4 KiB");
    }
    return true;
}

bool
gw_qcow2_open(GwImageLayer *layer, GError **error)
{
    g_autofree uint8_t *header = g_malloc(HEADER_MAX_BYTES);
    ssize_t len = pread(layer->fd, header, HEADER_MAX_BYTES, 0);
    uint32_t header_len;

    if (len < 0) {
        gw_set_error_errno(error, errno, "cannot read '%s'", layer->path);
        return false;
    }
    GwCursor cursor = gw_cursor(header, (size_t)len);
    if (!read_fixed(layer, &cursor, error) || !read_features(layer, &cursor, &header_len, error)) {
        return false;
    }
    GwCursor name = gw_cursor(header + 8, 12);
    uint64_t name_offset = gw_cursor_be64(&name);
    uint32_t name_len = gw_cursor_be32(&name);
    if (!read_backing_name(layer, name_offset, name_len, error)) {
        return false;
    }
    /* The extensions end before the name, or with the first cluster. */
    uint64_t end = name_offset ? name_offset : UINT64_C(1) << layer->cluster_bits;
    end = MIN(end, (uint64_t)len);
    if (end > header_len) {
        read_extensions(layer, gw_cursor(header + header_len, (size_t)(end - header_len)));
    }
    layer->slice_bytes = g_try_malloc((size_t)GW_QCOW2_N_SLICES * GW_QCOW2_SLICE_BYTES);
    if (!layer->slice_bytes) {
        g_set_error(error, GW_ERROR, GW_ERROR_FAILED, "not enough memory to read '%s'",
                    layer->path);
        return false;
    }
    return true;
}

/* --- tables ----------------------------------------------------------------------------------- */

/* The table entry at @offset of the file; false: it cannot be read. */
static bool
table_entry(GwImageLayer *layer, uint64_t offset, uint64_t *entry)
{
    uint64_t number = offset / GW_QCOW2_SLICE_BYTES + 1;
    unsigned slot = (unsigned)((number * UINT64_C(0x9e3779b97f4a7c15)) >> 56) % GW_QCOW2_N_SLICES;
    GwQcow2Slice *slice = &layer->slices[slot];
    uint8_t *bytes = layer->slice_bytes + (size_t)slot * GW_QCOW2_SLICE_BYTES;
    size_t at = offset % GW_QCOW2_SLICE_BYTES;

    if (slice->number != number) {
        ssize_t len = pread(layer->fd, bytes, GW_QCOW2_SLICE_BYTES, (off_t)(offset - at));

        slice->number = len < 0 ? 0 : number;
        slice->len = len < 0 ? 0 : (size_t)len;
    }
    if (at + 8 > slice->len) {
        return false;
    }
    *entry = be64_at(bytes + at);
    return true;
}

static bool
is_aligned(const GwImageLayer *layer, uint64_t offset)
{
    return offset % (UINT64_C(1) << layer->cluster_bits) == 0;
}

static GwImageContent
judge_l2_entry(const GwImageLayer *layer, uint64_t entry)
{
    uint64_t offset = entry & ENTRY_OFFSET;
    uint64_t understood = ENTRY_OFFSET | ENTRY_COPIED | (layer->version >= 3 ? ENTRY_ZERO : 0);

    if ((entry & ~understood) != 0 || !is_aligned(layer, offset)) {
        return GW_IMAGE_UNKNOWN; /* compressed, or damaged */
    }
    if (entry & ENTRY_ZERO) {
        return GW_IMAGE_ZERO;
    }
    return offset == 0 ? GW_IMAGE_BACKING : GW_IMAGE_DATA;
}

/* Content of the cluster with the L2 entry at @entry_offset of the file. */
static GwImageContent
look_up_cluster(GwImageLayer *layer, uint64_t entry_offset, uint64_t *file_offset)
{
    uint64_t entry;

    if (!table_entry(layer, entry_offset, &entry)) {
        return GW_IMAGE_UNKNOWN;
    }
    *file_offset = entry & ENTRY_OFFSET;
    return judge_l2_entry(layer, entry);
}

/* Clusters from @index to the end of the L2 table at @table, as far as they are of one kind. */
static GwImageExtent
map_l2(GwImageLayer *layer, uint64_t table, uint64_t index, uint64_t max_clusters)
{
    const uint64_t cluster_bytes = UINT64_C(1) << layer->cluster_bits;
    GwImageExtent extent = {.n_blocks = 1};
    uint64_t next_offset;

    extent.content = look_up_cluster(layer, table + index * 8, &extent.file_offset);
    while (extent.n_blocks < max_clusters) {
        uint64_t entry_offset = table + (index + extent.n_blocks) * 8;
        GwImageContent content = look_up_cluster(layer, entry_offset, &next_offset);

        if (content != extent.content ||
            (content == GW_IMAGE_DATA &&
             next_offset != extent.file_offset + extent.n_blocks * cluster_bytes)) {
            break;
        }
        extent.n_blocks++;
    }
    return extent;
}

GwImageExtent
gw_qcow2_map(GwImageLayer *layer, uint64_t block, uint64_t max_blocks)
{
    const unsigned block_bits = layer->cluster_bits - 12;
    const unsigned l2_bits = layer->cluster_bits - 3;
    const uint64_t cluster = block >> block_bits;
    const uint64_t in_cluster = block & ((UINT64_C(1) << block_bits) - 1);
    const uint64_t index = cluster & ((UINT64_C(1) << l2_bits) - 1);
    const uint64_t l1_index = cluster >> l2_bits;
    const uint64_t clusters_left = (UINT64_C(1) << l2_bits) - index; /* below this L1 entry */
    const uint64_t wanted = ((in_cluster + max_blocks - 1) >> block_bits) + 1;
    GwImageExtent extent = {.content = GW_IMAGE_UNKNOWN, .n_blocks = MIN(clusters_left, wanted)};
    uint64_t entry;

    if (l1_index < layer->l1_entries &&
        table_entry(layer, layer->l1_offset + l1_index * 8, &entry)) {
        uint64_t table = entry & ENTRY_OFFSET;

        if ((entry & ~(ENTRY_OFFSET | ENTRY_COPIED)) == 0 && table == 0) {
            extent.content = GW_IMAGE_BACKING;
        } else if ((entry & ~(ENTRY_OFFSET | ENTRY_COPIED)) == 0 && is_aligned(layer, table)) {
            extent = map_l2(layer, table, index, extent.n_blocks);
        }
    }
    extent.n_blocks = MIN((extent.n_blocks << block_bits) - in_cluster, max_blocks);
    if (extent.content == GW_IMAGE_DATA) {
        extent.file_offset += in_cluster * GW_PAGE_BYTES;
    }
    return extent;
}
