// SPDX-License-Identifier: Apache-2.0
/*
 * Addresses of hosts as operators write them. Owns nothing; pure; any thread. At most 255 bytes;
 * fails with GW_ERROR_INVALID.
 */
#include "fleet/address.h"

#include <arpa/inet.h>
#include <string.h>

#define MAX_NAME_BYTES  253u /* RFC 1035, 2.3.4, without the closing dot */
#define MAX_LABEL_BYTES 63u

static bool
is_ipv6(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, "%", 2);
    struct in6_addr unused;

    return parts[0] && inet_pton(AF_INET6, parts[0], &unused) == 1 &&
           (!parts[1] || (parts[1][0] && !strpbrk(parts[1], "%/ ]")));
}

static bool
is_label(const char *label)
{
    size_t len = strlen(label);

    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(label[i]) && label[i] != '-' && label[i] != '_') {
            return false;
        }
    }
    return len >= 1 && len <= MAX_LABEL_BYTES && label[0] != '-' && label[len - 1] != '-';
}

static bool
is_name_or_ipv4(const char *text)
{
    struct in_addr unused;

    /* Digits and dots alone are meant as an address: 10.0.0.300 is a slip, not a name. */
    if (text[strspn(text, "0123456789.")] == '\0') {
        return inet_pton(AF_INET, text, &unused) == 1;
    }
    if (strlen(text) > MAX_NAME_BYTES) {
        return false;
    }
    g_auto(GStrv) labels = g_strsplit(text, ".", -1);
    for (char **label = labels; *label; label++) {
        if (!is_label(*label)) {
            return false;
        }
    }
    return true;
}

static bool
parse_port(const char *text, uint16_t *port)
{
    guint64 value;

    if (!g_ascii_string_to_unsigned(text, 10, 1, 65535, &value, NULL)) {
        return false;
    }
    *port = (uint16_t)value;
    return true;
}

/* Splits at the port, if there is one; false if what should be a port is none. */
static bool
split_port(const char *text, char **address, uint16_t *port)
{
    const char *colon = strrchr(text, ':');

    *port = 0;
    if (text[0] == '[') {
        const char *close = strchr(text, ']');
        if (!close || (close[1] && close[1] != ':') || (close[1] && !parse_port(close + 2, port))) {
            return false;
        }
        *address = g_strndup(text + 1, (size_t)(close - text - 1));
        return is_ipv6(*address);
    }
    if (colon && strchr(text, ':') == colon) {
        *address = g_strndup(text, (size_t)(colon - text));
        return parse_port(colon + 1, port) && is_name_or_ipv4(*address);
    }
    *address = g_strdup(text);
    return colon ? is_ipv6(*address) : is_name_or_ipv4(*address);
}

bool
gw_address_parse(const char *text, char **address, uint16_t *port, GError **error)
{
    g_autofree char *found = NULL;
    uint16_t found_port = 0;

    if (strlen(text) == 0 || strlen(text) > 255 || !split_port(text, &found, &found_port)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%.80s' is not a host's address: write a name or an IP address, with a port "
                    "if need be: alpha.example, 192.0.2.7:7790, 2001:db8::7, [2001:db8::7]:7790",
                    text);
        return false;
    }
    *address = g_steal_pointer(&found);
    *port = found_port;
    return true;
}

char *
gw_address_format(const char *address, uint16_t port)
{
    return g_strdup_printf(strchr(address, ':') ? "[%s]:%u" : "%s:%u", address, port);
}
