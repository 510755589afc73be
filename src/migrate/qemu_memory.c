// SPDX-License-Identifier: Apache-2.0
/*
 * Reads QEMU's table of RAM blocks and opens its memory, see qemu_memory.h.
 *
 * Main context; owns only what it returns. What QEMU says is used for writing to QEMU's own memory
 * alone; numbers are checked, lines that cannot be understood are left out. Limits: a map of
 * MAX_MAPS_BYTES. Without a placer a move takes the way through QEMU's loader.
 */
#include "migrate/qemu_memory.h"

#include "qemu/process.h"
#include "ramstream/ramstream.h"

#include <fcntl.h>
#include <string.h>

#define MAX_MAPS_BYTES (4u * 1024u * 1024u)
#define MAX_ADDRESS    ((uint64_t)1 << 56)
/* NAME, "4", "KiB", offset, used, total, address, "rw"; used counts */
#define N_WORDS 8u

static void
block_free(void *data)
{
    GwQemuBlock *block = data;

    g_free(block->name);
    g_free(block);
}

static bool
take_number(const char *word, unsigned base, uint64_t *out)
{
    return g_ascii_string_to_unsigned(g_str_has_prefix(word, "0x") ? word + 2 : word, base, 0,
                                      MAX_ADDRESS, out, NULL);
}

static void
take_line(GPtrArray *blocks, const char *line)
{
    g_auto(GStrv) split = g_strsplit_set(line, " \t\r", -1);
    const char *words[N_WORDS + 1];
    unsigned n = 0;
    uint64_t bytes, start;

    for (char **word = split; *word && n <= N_WORDS; word++) {
        if (**word) {
            words[n++] = *word;
        }
    }
    if (n != N_WORDS || strcmp(words[7], "rw") != 0 || !take_number(words[4], 16, &bytes) ||
        !take_number(words[6], 16, &start)) {
        return;
    }
    if (bytes < GW_QEMU_MEMORY_MIN_BYTES || bytes % GW_PAGE_BYTES != 0 || start == 0 ||
        start % GW_PAGE_BYTES != 0 || blocks->len == GW_PLACER_MAX_BLOCKS) {
        return;
    }
    GwQemuBlock *block = g_new0(GwQemuBlock, 1);
    block->name = g_strdup(words[0]);
    block->start = start;
    block->bytes = bytes;
    g_ptr_array_add(blocks, block);
}

GPtrArray *
gw_qemu_memory_parse(const char *table)
{
    GPtrArray *blocks = g_ptr_array_new_with_free_func(block_free);
    g_auto(GStrv) lines = g_strsplit(table, "\n", -1);

    for (char **line = lines; *line; line++) {
        take_line(blocks, *line);
    }
    return blocks;
}

/* "START-END PERMS OFFSET DEVICE INODE …" of readable, writable, private memory of no file. */
static bool
read_mapping(const char *line, uint64_t *start, uint64_t *end)
{
    g_auto(GStrv) words = g_strsplit(line, " ", 6);
    char *dash = words[0] ? strchr(words[0], '-') : NULL;

    if (!dash || g_strv_length(words) < 5) {
        return false;
    }
    *dash = '\0';
    return take_number(words[0], 16, start) && take_number(dash + 1, 16, end) &&
           strcmp(words[1], "rw-p") == 0 && strcmp(words[4], "0") == 0;
}

bool
gw_qemu_memory_is_private(const char *maps, const GwQemuBlock *block)
{
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    uint64_t known = block->start; /* all below it is */
    uint64_t end = block->start + block->bytes;

    /* In ascending order, as the kernel writes them. */
    for (char **line = lines; *line && known < end; line++) {
        uint64_t from, to;

        if (read_mapping(*line, &from, &to) && from <= known && to > known) {
            known = to;
        }
    }
    return known >= end;
}

static bool
add_blocks(GwPlacer *placer, GwProcessId process, const char *table, GError **error)
{
    g_autoptr(GPtrArray) blocks = gw_qemu_memory_parse(table);
    g_auto(GwFd) fd = gw_process_open(process, "maps", O_RDONLY, error);
    unsigned n_added = 0;

    if (fd < 0) {
        return false;
    }
    g_autofree char *maps = g_try_malloc(MAX_MAPS_BYTES + 1);
    ssize_t len = maps ? gw_fd_read_full(fd, maps, MAX_MAPS_BYTES) : -1;
    if (len < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "the map of its memory cannot be read");
        return false;
    }
    maps[len] = '\0';
    for (guint i = 0; i < blocks->len; i++) {
        const GwQemuBlock *block = blocks->pdata[i];

        n_added += gw_qemu_memory_is_private(maps, block) &&
                   gw_placer_add_block(placer, block->name, block->start, block->bytes);
    }
    if (n_added == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "it tells of no private memory of %u MiB or more",
                    GW_QEMU_MEMORY_MIN_BYTES >> 20);
    }
    return n_added > 0;
}

GwPlacer *
gw_qemu_memory_open(GwProcessId process, const char *table, GError **error)
{
    GwFd memory_fd = gw_process_open(process, "mem", O_RDWR, error);
    GwFd map_fd =
        memory_fd >= 0 ? gw_process_open(process, "pagemap", O_RDONLY, error) : GW_FD_NONE;

    if (map_fd < 0) {
        gw_fd_close(memory_fd);
        return NULL;
    }
    g_autoptr(GwPlacer) placer = gw_placer_new(memory_fd, map_fd, error);

    return placer && add_blocks(placer, process, table, error) ? g_steal_pointer(&placer) : NULL;
}
