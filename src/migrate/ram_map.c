// SPDX-License-Identifier: Apache-2.0
/*
 * Reads QEMU's flat view, see ram_map.h. Owns only what it returns. QEMU may be in its guest's
 * hands: numbers are checked, ranges must ascend, their count is limited. A text without any range
 * is an error: nothing compared is not "all the same".
 */
#include "migrate/ram_map.h"

#include <string.h>

#define MAX_ADDRESS    ((uint64_t)1 << 56)
#define MAX_NAME_CHARS 255

static void
range_free(void *data)
{
    GwRamRange *range = data;

    g_free(range->block);
    g_free(range);
}

static bool
take_hex(const char **at, uint64_t *out)
{
    char *end = NULL;
    guint64 value = g_ascii_xdigit_value(**at) >= 0 ? g_ascii_strtoull(*at, &end, 16) : 0;

    if (!end || value >= MAX_ADDRESS) {
        return false;
    }
    *at = end;
    *out = value;
    return true;
}

static bool
take_text(const char **at, const char *text)
{
    if (!g_str_has_prefix(*at, text)) {
        return false;
    }
    *at += strlen(text);
    return true;
}

/* "START-LAST (prio N, TYPE): NAME[ @OFFSET]…"; false for a line of another kind or type. */
static bool
read_line(const char *line, GwRamRange *out)
{
    const char *at = line + strspn(line, " ");
    uint64_t last;

    if (at == line || !take_hex(&at, &out->start) || !take_text(&at, "-") ||
        !take_hex(&at, &last) || last < out->start || !take_text(&at, " (prio ")) {
        return false;
    }
    const char *type = strstr(at, ", ");
    if (!type || (!g_str_has_prefix(type, ", ram): ") && !g_str_has_prefix(type, ", rom): "))) {
        return false;
    }
    const char *name = type + strlen(", ram): ");
    const char *mark = strstr(name, " @");
    out->bytes = last - out->start + 1;
    out->offset = 0;
    if (mark) {
        at = mark + strlen(" @");
        if (!take_hex(&at, &out->offset)) {
            return false;
        }
    }
    size_t len = mark ? (size_t)(mark - name) : strcspn(name, " ");
    out->block = g_strndup(name, MIN(len, MAX_NAME_CHARS));
    g_strcanon(out->block,
               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
               "!#$%&()*+,-./:;<=>?@[]^_{|}~",
               '?');
    return true;
}

static void
cut_to_pages(GwRamRange *range)
{
    uint64_t end = range->start + range->bytes;
    uint64_t first_page = (range->start + GW_RAM_PAGE_BYTES - 1) / GW_RAM_PAGE_BYTES;
    uint64_t start = first_page * GW_RAM_PAGE_BYTES;

    end -= end % GW_RAM_PAGE_BYTES;
    range->bytes = end > start ? end - start : 0;
    range->offset += start - range->start;
    range->start = start;
}

static bool
add(GPtrArray *ranges, GwRamRange *read, GError **error)
{
    GwRamRange *before = ranges->len > 0 ? ranges->pdata[ranges->len - 1] : NULL;

    if (before && read->start < before->start + before->bytes) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "QEMU's map of the guest's memory is out of order");
        return false;
    }
    if (before && read->start == before->start + before->bytes &&
        read->offset == before->offset + before->bytes && strcmp(read->block, before->block) == 0) {
        before->bytes += read->bytes;
        return true;
    }
    if (ranges->len >= GW_RAM_MAX_RANGES) {
        g_set_error(error, GW_ERROR, GW_ERROR_TOO_LARGE,
                    "the guest's memory is in more than %u pieces", GW_RAM_MAX_RANGES);
        return false;
    }
    before = g_memdup2(read, sizeof *read);
    before->block = g_strdup(read->block);
    g_ptr_array_add(ranges, before);
    return true;
}

/* The beginning of the view of "memory"; NULL if there is none. */
static const char *
find_view(const char *text)
{
    const char *view = strstr(text, "FlatView #");
    const char *space = view ? strstr(view, " AS \"memory\", root: ") : NULL;

    return space ? strchr(space, '\n') : NULL;
}

GPtrArray *
gw_ram_map_parse(const char *text, GError **error)
{
    g_autoptr(GPtrArray) ranges = g_ptr_array_new_with_free_func(range_free);
    const char *line = find_view(text);

    /* An empty line ends the view. */
    while (line && line[1] != '\0' && line[1] != '\r' && line[1] != '\n') {
        const char *end = strchr(line + 1, '\n');
        g_autofree char *copy =
            end ? g_strndup(line + 1, (size_t)(end - line - 1)) : g_strdup(line + 1);
        GwRamRange read = {0};

        g_strchomp(copy);
        bool good = true;
        if (read_line(copy, &read)) {
            cut_to_pages(&read);
            good = read.bytes == 0 || add(ranges, &read, error);
        }
        g_free(read.block);
        if (!good) {
            return NULL;
        }
        line = end;
    }
    if (ranges->len == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "QEMU's map of the guest's memory is not understood");
        return NULL;
    }
    return g_steal_pointer(&ranges);
}

bool
gw_ram_map_has(const GPtrArray *ranges, uint64_t start, uint64_t bytes)
{
    for (guint i = 0; i < ranges->len; i++) {
        const GwRamRange *range = ranges->pdata[i];

        if (start >= range->start && start - range->start < range->bytes) {
            return bytes <= range->bytes - (start - range->start);
        }
    }
    return false;
}
