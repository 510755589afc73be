// SPDX-License-Identifier: Apache-2.0
/* Taps on a real bridge, in a network namespace of this process's own. Needs root. */
#include "vm/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static const char *skip_reason;

static void
enter_namespace(void)
{
    static char reason[128];

    g_auto(GwFd) tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (unshare(CLONE_NEWNET) < 0 || tun < 0) {
        g_snprintf(reason, sizeof reason, "no network namespace or no /dev/net/tun: %s",
                   g_strerror(errno));
        skip_reason = reason;
    }
}

static struct ifreq
ask(const char *name, unsigned long what)
{
    g_auto(GwFd) control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};

    g_strlcpy(request.ifr_name, name, sizeof request.ifr_name);
    g_assert_cmpint(ioctl(control, what, &request), ==, 0);
    return request;
}

static void
make_bridge(const char *name, int mtu)
{
    g_auto(GwFd) control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};

    g_assert_cmpint(ioctl(control, SIOCBRADDBR, name), ==, 0);
    g_strlcpy(request.ifr_name, name, sizeof request.ifr_name);
    request.ifr_mtu = mtu;
    g_assert_cmpint(ioctl(control, SIOCSIFMTU, &request), ==, 0);
}

static GwNic
nic_on(const char *bridge)
{
    return (GwNic){.name = (char *)"lan",
                   .mode = (char *)"bridge",
                   .bridge = (char *)bridge,
                   .mac = (char *)"52:54:00:12:34:56"};
}

static void
test_name(void)
{
    g_autofree char *longest = g_strnfill(63, 'x');
    g_autofree char *one = gw_tap_name("web1", 0);
    g_autofree char *other = gw_tap_name("web2", 0);
    g_autofree char *last = gw_tap_name(longest, GW_MAX_NICS - 1);

    g_assert_cmpstr(one, !=, other);
    g_assert_cmpuint(strlen(last), <=, IFNAMSIZ - 1);
}

static void
test_bridge(void)
{
    g_autoptr(GError) error = NULL;
    GwNic nic = nic_on("br-test");

    if (skip_reason) {
        g_test_skip(skip_reason);
        return;
    }
    make_bridge("br-test", 9000);
    g_auto(GwFd) tap = gw_tap_open("gw-t-0", &nic, &error);
    g_assert_no_error(error);
    g_assert_cmpint(tap, >=, 0);
    struct ifreq flags = ask("gw-t-0", SIOCGIFFLAGS);
    g_assert_true(flags.ifr_flags & IFF_UP);
    g_assert_cmpint(ask("gw-t-0", SIOCGIFMTU).ifr_mtu, ==, 9000);
    g_assert_cmpint(ask("br-test", SIOCGIFMTU).ifr_mtu, ==, 9000);
    struct ifreq address = ask("gw-t-0", SIOCGIFHWADDR);
    g_assert_cmpmem(address.ifr_hwaddr.sa_data, 6, "\xfe\x54\x00\x12\x34\x56", 6);
    /* The bridge has it as a port: it cannot be added again. */
    g_auto(GwFd) control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq again = {.ifr_name = "br-test"};
    again.ifr_ifindex = (int)if_nametoindex("gw-t-0");
    g_assert_cmpint(ioctl(control, SIOCBRADDIF, &again), ==, -1);
    g_assert_cmpint(errno, ==, EBUSY);

    /* The name is taken while it is open, and free as soon as it is not. */
    g_assert_cmpint(gw_tap_open("gw-t-0", &nic, &error), ==, GW_FD_NONE);
    g_assert_nonnull(strstr(error->message, "as it exists"));
    gw_fd_clear(&tap);
    g_assert_cmpuint(if_nametoindex("gw-t-0"), ==, 0);
}

static void
test_no_bridge(void)
{
    g_autoptr(GError) error = NULL;
    GwNic nic = nic_on("br-none");

    g_assert_cmpint(gw_tap_open("gw-t-1", &nic, &error), ==, GW_FD_NONE);
    g_assert_error(error, GW_ERROR, GW_ERROR_NOT_FOUND);
    g_assert_cmpstr(error->message, ==,
                    "nic lan: this host has no bridge 'br-none': make it (ip link add br-none type "
                    "bridge) or name another");
}

static void
test_not_a_bridge(void)
{
    g_autoptr(GError) error = NULL;
    GwNic nic = nic_on("lo");

    if (skip_reason) {
        g_test_skip(skip_reason);
        return;
    }
    g_assert_cmpint(gw_tap_open("gw-t-2", &nic, &error), ==, GW_FD_NONE);
    g_assert_nonnull(strstr(error->message, "'lo' is a network interface but not a bridge"));
    g_assert_cmpuint(if_nametoindex("gw-t-2"), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    enter_namespace();
    g_test_add_func("/tap/name", test_name);
    g_test_add_func("/tap/bridge", test_bridge);
    g_test_add_func("/tap/no-bridge", test_no_bridge);
    g_test_add_func("/tap/not-a-bridge", test_not_a_bridge);
    return g_test_run();
}
