// SPDX-License-Identifier: Apache-2.0
/*
 * The lists of networks.h, with GIO's masks. Owns what it is asked for; any thread; fails only on
 * what an operator wrote.
 */
#include "base/networks.h"

#include <gio/gio.h>
#include <netinet/in.h>
#include <string.h>

struct GwNetworks {
    GPtrArray *masks; /* of GInetAddressMask */
};

/* GIO takes a length that no address has, after a warning, for 0: for every address there is. */
static bool
has_sane_length(const char *word)
{
    const char *slash = strchr(word, '/');
    guint64 length;

    return !slash || g_ascii_string_to_unsigned(slash + 1, 10, 0, 128, &length, NULL);
}

static GInetAddressMask *
parse_network(const char *word, GError **error)
{
    g_autoptr(GError) problem = NULL;
    GInetAddressMask *mask =
        has_sane_length(word) ? g_inet_address_mask_new_from_string(word, &problem) : NULL;

    if (!mask) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%.60s' is not a network: %s", word,
                    problem ? problem->message : "its length is none");
    }
    return mask;
}

GwNetworks *
gw_networks_parse(const char *text, GError **error)
{
    g_auto(GStrv) words = g_strsplit_set(text, ", \t", -1);
    g_autoptr(GPtrArray) masks = g_ptr_array_new_with_free_func(g_object_unref);

    for (char **word = words; *word; word++) {
        GInetAddressMask *mask = (*word)[0] ? parse_network(*word, error) : NULL;

        if ((*word)[0] && !mask) {
            return NULL;
        }
        if (mask) {
            g_ptr_array_add(masks, mask);
        }
    }
    if (masks->len > GW_NETWORKS_MAX) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%u networks are more than %d", masks->len,
                    GW_NETWORKS_MAX);
        return NULL;
    }
    GwNetworks *networks = g_new0(GwNetworks, 1);
    networks->masks = g_steal_pointer(&masks);
    return networks;
}

void
gw_networks_free(GwNetworks *networks)
{
    if (networks) {
        g_ptr_array_unref(networks->masks);
        g_free(networks);
    }
}

/* NULL: no IP address. GIO makes IPv4 of IPv4 within IPv6. Transfer full. */
static GInetSocketAddress *
inet_address(const struct sockaddr_storage *address)
{
    if (address->ss_family != AF_INET && address->ss_family != AF_INET6) {
        return NULL;
    }
    /* GIO's own copy; it does not write to it. */
    struct sockaddr_storage copy = *address;
    return G_INET_SOCKET_ADDRESS(g_socket_address_new_from_native(&copy, sizeof(copy)));
}

bool
gw_networks_have(const GwNetworks *networks, const struct sockaddr_storage *address)
{
    g_autoptr(GInetSocketAddress) inet = inet_address(address);
    bool found = false;

    for (guint i = 0; networks && inet && i < networks->masks->len && !found; i++) {
        found = g_inet_address_mask_matches(g_ptr_array_index(networks->masks, i),
                                            g_inet_socket_address_get_address(inet));
    }
    return found;
}

char *
gw_sockaddr_text(const struct sockaddr_storage *address)
{
    g_autoptr(GInetSocketAddress) inet = inet_address(address);

    return inet ? g_inet_address_to_string(g_inet_socket_address_get_address(inet))
                : g_strdup("an unknown address");
}

uint16_t
gw_sockaddr_port(const struct sockaddr_storage *address)
{
    g_autoptr(GInetSocketAddress) inet = inet_address(address);

    return inet ? g_inet_socket_address_get_port(inet) : 0;
}

socklen_t
gw_sockaddr_len(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                          : sizeof(struct sockaddr_in);
}

void
gw_sockaddr_set_port(struct sockaddr_storage *address, uint16_t port)
{
    if (address->ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *)address)->sin_port = htons(port);
    }
}
