// SPDX-License-Identifier: Apache-2.0
/*
 * Reads /proc about this host. Owns nothing. Any thread. What cannot be read is "unknown" or 0.
 */
#include "qemu/host.h"

#include "base/fd.h"
#include "qemu/probe.h"

#include <fcntl.h>
#include <string.h>

/* The first processor's entry and all of meminfo fit; cpuinfo of many processors does not. */
#define HEAD_BYTES 16384

static char *
read_head(const char *path)
{
    g_auto(GwFd) fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = g_malloc0(HEAD_BYTES + 1);

    if (fd >= 0 && gw_fd_read_full(fd, text, HEAD_BYTES) < 0) {
        text[0] = '\0';
    }
    return text;
}

/* What follows "NAME BLANKS : " in a line; NULL if there is no such line. Transfer full. */
static char *
field(const char *path, const char *name)
{
    g_autofree char *text = read_head(path);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        char *colon = strchr(lines[i], ':');
        if (colon) {
            *colon = '\0';
        }
        if (colon && g_str_equal(g_strchomp(lines[i]), name)) {
            return g_strdup(g_strstrip(colon + 1));
        }
    }
    return NULL;
}

char *
gw_host_cpu_model(void)
{
    char *model = field("/proc/cpuinfo", "model name");

    return model ? model : g_strdup("unknown");
}

unsigned
gw_host_cpus(void)
{
    return g_get_num_processors();
}

static uint64_t
meminfo_bytes(const char *name)
{
    g_autofree char *kib = field("/proc/meminfo", name);

    return kib ? g_ascii_strtoull(kib, NULL, 10) * 1024 : 0;
}

uint64_t
gw_host_memory_bytes(void)
{
    return meminfo_bytes("MemTotal");
}

uint64_t
gw_memory_available_bytes(void)
{
    return meminfo_bytes("MemAvailable");
}

char *
gw_host_boot_id(void)
{
    char *text = gw_file_read("/proc/sys/kernel/random/boot_id", 256, NULL, NULL);

    return text ? g_strchomp(text) : g_strdup("unknown");
}
