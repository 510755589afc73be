// SPDX-License-Identifier: Apache-2.0
/*
 * Capabilities and limits of the process, by system calls (capset(2), prctl(2)). Owns nothing; runs
 * in the main thread before there are others. Fails with GW_ERROR_IO when the kernel refuses to
 * take away what was asked, and the daemon must then not go on with more than it should have.
 */
#include "daemon/privileges.h"
#include "base/log.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENOUGH_FILES 65536u

/* A row is here because something breaks without it. */
static const unsigned kept[] = {
    CAP_NET_ADMIN,                /* make taps and put them on bridges */
    CAP_SETUID,       CAP_SETGID, /* start QEMU as its own user */
    CAP_CHOWN,        CAP_FOWNER, /* give sockets and folders to QEMU's user and the API's group */
    CAP_DAC_OVERRIDE,             /* look at disk images, and into QEMU's folders */
    CAP_KILL,                     /* signal QEMU, which is another user's */
};

static uint64_t
kept_mask(void)
{
    uint64_t mask = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(kept); i++) {
        mask |= 1ull << kept[i];
    }
    return mask;
}

static bool
fail(const char *what, GError **error)
{
    gw_set_error_errno(error, errno, "cannot give up privileges (%s)", what);
    return false;
}

/* The bounding set: what a root process that we start could get back. */
static bool
shrink_bounding_set(uint64_t keep, GError **error)
{
    for (unsigned cap = 0; cap < 64; cap++) {
        int present = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
        if (present < 0) {
            return true; /* beyond the kernel's last one */
        }
        if (present && !(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
            return fail("bounding set", error);
        }
    }
    return true;
}

static bool
shrink_own_sets(uint64_t keep, GError **error)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {0};

    if (syscall(SYS_capget, &header, sets) < 0) {
        return fail("capget", error);
    }
    for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        sets[i].permitted &= (uint32_t)(keep >> (32 * i));
        sets[i].effective = sets[i].permitted;
        sets[i].inheritable = 0;
    }
    return syscall(SYS_capset, &header, sets) == 0 || fail("capset", error);
}

static bool
has_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {0};

    return syscall(SYS_capget, &header, sets) == 0 && (sets[0].effective | sets[1].effective) != 0;
}

bool
gw_privileges_drop(GError **error)
{
    const uint64_t keep = kept_mask();

    if (has_capabilities() &&
        (!shrink_bounding_set(keep, error) || !shrink_own_sets(keep, error))) {
        return false;
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) {
        return fail("ambient set", error);
    }
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 || fail("no_new_privs", error);
}

void
gw_privileges_raise_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return;
    }
    rlim_t wanted = MIN(limit.rlim_max, ENOUGH_FILES);
    if (limit.rlim_cur >= wanted) {
        return;
    }
    limit.rlim_cur = wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        gw_warn(NULL, "the limit of open files cannot be raised: %s", g_strerror(errno));
    }
}
