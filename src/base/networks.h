// SPDX-License-Identifier: Apache-2.0
/*
 * Networks in CIDR notation (RFC 4632), as an operator lists them, and which addresses they have.
 *
 * Immutable once made; any thread. At most GW_NETWORKS_MAX. An IPv4 address within IPv6
 * (::ffff:192.0.2.7), as a socket for both has it, counts as the IPv4 address that it is.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>
#include <sys/socket.h>

#define GW_NETWORKS_MAX 32

typedef struct GwNetworks GwNetworks;

/* "10.77.0.0/24, fd00:77::/64", commas or blanks between; GW_ERROR_INVALID names the bad one. */
GwNetworks *gw_networks_parse(const char *text, GError **error) GW_MUST_USE;
void gw_networks_free(GwNetworks *networks);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwNetworks, gw_networks_free)

/* @networks NULL: none. */
bool gw_networks_have(const GwNetworks *networks, const struct sockaddr_storage *address);

/* Of an IP socket: the address as it is written, without its port. Transfer full. */
char *gw_sockaddr_text(const struct sockaddr_storage *address);
uint16_t gw_sockaddr_port(const struct sockaddr_storage *address);
socklen_t gw_sockaddr_len(const struct sockaddr_storage *address);
void gw_sockaddr_set_port(struct sockaddr_storage *address, uint16_t port);
