// SPDX-License-Identifier: Apache-2.0
/*
 * Makes tap interfaces with ioctls. Owns nothing; main context; a few system calls that do not
 * wait. On failure the interface goes with its descriptor.
 */
#include "vm/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

char *
gw_tap_name(const char *vm_name, unsigned index)
{
    g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, vm_name, -1);

    return g_strdup_printf("gw%.10s-%u", digest, index);
}

static struct ifreq
request_for(const char *name)
{
    struct ifreq request = {0};

    g_strlcpy(request.ifr_name, name, sizeof request.ifr_name);
    return request;
}

static bool
failed(const char *name, const char *what, GError **error)
{
    gw_set_error_errno(error, errno, "network interface %s: cannot %s", name, what);
    return false;
}

static GwFd
open_tap(const char *name, GError **error)
{
    g_auto(GwFd) fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        gw_set_error_errno(error, errno,
                           "cannot open /dev/net/tun (bridged NICs need the tun module and "
                           "CAP_NET_ADMIN)");
        return GW_FD_NONE;
    }
    struct ifreq request = request_for(name);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        failed(name, errno == EBUSY ? "make it, as it exists" : "make it", error);
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

/* A bridge takes the lowest address of its ports as its own, so that of a tap begins with fe. */
static bool
set_address(int control, const char *name, const char *mac, GError **error)
{
    struct ifreq request = request_for(name);
    unsigned bytes[6];

    if (sscanf(mac, "%2x:%2x:%2x:%2x:%2x:%2x", &bytes[0], &bytes[1], &bytes[2], &bytes[3],
               &bytes[4], &bytes[5]) != 6) {
        errno = EINVAL;
        return failed(name, "set its address", error);
    }
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    for (unsigned i = 0; i < 6; i++) {
        request.ifr_hwaddr.sa_data[i] = (char)(i == 0 ? 0xfe : bytes[i]);
    }
    return ioctl(control, SIOCSIFHWADDR, &request) == 0 || failed(name, "set its address", error);
}

/* A port with a smaller MTU would lower that of the bridge. */
static bool
copy_mtu(int control, const char *name, const char *bridge, GError **error)
{
    struct ifreq from = request_for(bridge);

    if (ioctl(control, SIOCGIFMTU, &from) < 0) {
        return failed(bridge, "read its MTU", error);
    }
    struct ifreq to = request_for(name);
    to.ifr_mtu = from.ifr_mtu;
    return ioctl(control, SIOCSIFMTU, &to) == 0 || failed(name, "set its MTU", error);
}

static bool
add_to_bridge(int control, const char *name, const char *bridge, GError **error)
{
    struct ifreq request = request_for(bridge);

    request.ifr_ifindex = (int)if_nametoindex(name);
    return ioctl(control, SIOCBRADDIF, &request) == 0 || failed(bridge, "add a port", error);
}

/* Adding no interface at all is refused with another reason by a bridge than by anything else. */
static bool
check_bridge(int control, const GwNic *nic, GError **error)
{
    struct ifreq request = request_for(nic->bridge);

    if (if_nametoindex(nic->bridge) == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND,
                    "nic %s: this host has no bridge '%s': make it (ip link add %s type bridge) or "
                    "name another",
                    nic->name, nic->bridge, nic->bridge);
        return false;
    }
    if (ioctl(control, SIOCBRADDIF, &request) < 0 && errno == EOPNOTSUPP) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "nic %s: '%s' is a network interface but not a bridge: name a bridge",
                    nic->name, nic->bridge);
        return false;
    }
    return true;
}

static bool
set_up(int control, const char *name, GError **error)
{
    struct ifreq request = request_for(name);

    if (ioctl(control, SIOCGIFFLAGS, &request) == 0) {
        request.ifr_flags |= IFF_UP;
        if (ioctl(control, SIOCSIFFLAGS, &request) == 0) {
            return true;
        }
    }
    return failed(name, "set it up", error);
}

GwFd
gw_tap_open(const char *name, const GwNic *nic, GError **error)
{
    g_auto(GwFd) control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (control < 0) {
        gw_set_error_errno(error, errno, "nic %s: cannot make a socket", nic->name);
        return GW_FD_NONE;
    }
    if (!check_bridge(control, nic, error)) {
        return GW_FD_NONE;
    }
    g_auto(GwFd) tap = open_tap(name, error);
    if (tap < 0 || !set_address(control, name, nic->mac, error) ||
        !copy_mtu(control, name, nic->bridge, error) ||
        !add_to_bridge(control, name, nic->bridge, error) || !set_up(control, name, error)) {
        g_prefix_error(error, "nic %s: ", nic->name);
        return GW_FD_NONE;
    }
    return g_steal_fd(&tap);
}
