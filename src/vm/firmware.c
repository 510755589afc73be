// SPDX-License-Identifier: Apache-2.0
/*
 * Finds OVMF where Debian's package ovmf installs it. Owns nothing; main context. Code and
 * variables come in two sizes that do not mix: variables made earlier decide which code is taken.
 */
#include "vm/firmware.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define MAX_VARS_BYTES (4u * 1024u * 1024u)

typedef struct Variant {
    const char *code;
    const char *vars;
} Variant;

static const Variant variants[] = {
    {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
    {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
};

/* The first that is installed and, if there are variables already (@vars_bytes ≥ 0), fits them. */
static const Variant *
find_variant(int64_t vars_bytes)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(variants); i++) {
        struct stat code, vars;
        if (stat(variants[i].code, &code) == 0 && stat(variants[i].vars, &vars) == 0 &&
            (vars_bytes < 0 || vars.st_size == vars_bytes)) {
            return &variants[i];
        }
    }
    return NULL;
}

static bool
copy_template(const char *template, const char *path, GError **error)
{
    size_t len;
    g_autofree char *content = gw_file_read(template, MAX_VARS_BYTES, &len, error);

    return content && gw_file_write(path, content, len, 0600, error);
}

GwFd
gw_firmware_open(const char *vars_path, const char **code, GError **error)
{
    struct stat st;
    bool have_vars = stat(vars_path, &st) == 0;
    const Variant *variant = find_variant(have_vars ? st.st_size : -1);

    if (!variant) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                    "firmware = uefi: this host has no OVMF firmware%s: install the package ovmf "
                    "or use firmware = bios",
                    have_vars ? " that fits the VM's variables" : "");
        return GW_FD_NONE;
    }
    if (!have_vars && !copy_template(variant->vars, vars_path, error)) {
        return GW_FD_NONE;
    }
    g_auto(GwFd) fd = open(vars_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        gw_set_error_errno(error, errno, "cannot open the UEFI variables '%s'", vars_path);
        return GW_FD_NONE;
    }
    *code = variant->code;
    return g_steal_fd(&fd);
}
