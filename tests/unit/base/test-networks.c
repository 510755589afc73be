// SPDX-License-Identifier: Apache-2.0
/*
 * Networks: what is one, which addresses they have, and that nothing else is in them.
 */
#include "base/networks.h"

#include <arpa/inet.h>
#include <glib.h>
#include <string.h>

static struct sockaddr_storage
address_of(const char *text)
{
    struct sockaddr_storage address = {.ss_family = strchr(text, ':') ? AF_INET6 : AF_INET};
    void *place = address.ss_family == AF_INET6
                      ? (void *)&((struct sockaddr_in6 *)&address)->sin6_addr
                      : (void *)&((struct sockaddr_in *)&address)->sin_addr;

    g_assert_cmpint(inet_pton(address.ss_family, text, place), ==, 1);
    return address;
}

static void
test_members(void)
{
    static const struct {
        const char *address;
        bool member;
    } cases[] = {
        {"10.77.0.0", true},         {"10.77.0.255", true},
        {"10.77.1.0", false},        {"192.0.2.7", true},
        {"192.0.2.8", false},        {"fd00:77::1", true},
        {"fd00:77:0:1::1", false},   {"::ffff:10.77.0.9", true},
        {"::ffff:10.78.0.9", false}, {"::1", false},
        {"::10.77.0.9", false},      {"0.0.0.0", false},
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(GwNetworks) networks =
        gw_networks_parse("10.77.0.0/24, fd00:77::/64,192.0.2.7", &error);

    g_assert_no_error(error);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct sockaddr_storage address = address_of(cases[i].address);
        g_test_message("%s", cases[i].address);
        g_assert_cmpint(gw_networks_have(networks, &address), ==, cases[i].member);
        g_assert_false(gw_networks_have(NULL, &address));
    }
    const struct sockaddr_storage nowhere = {0};
    g_assert_false(gw_networks_have(networks, &nowhere));
}

static void
test_mistakes(void)
{
    static const char *const texts[] = {
        "lab",        "10.77.0.1/24",  "10.77.0.0/33",       "10.77.0/24",
        "fd00::/129", "::/129",        "0.0.0.0/4294967296", "10.77.0.0/",
        "/24",        "10.77.0.0/24;", "10.77.0.0/-1",       "*"};

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text = g_strdup_printf("192.0.2.0/24, %s", texts[i]);
        g_autofree char *named = g_strdup_printf("'%s'", texts[i]);
        if (gw_networks_parse(text, &error)) {
            g_error("'%s' was taken", texts[i]);
        }
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
        g_assert_nonnull(strstr(error->message, named));
    }
}

static void
test_number(void)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < GW_NETWORKS_MAX; i++) {
        g_string_append_printf(text, "10.%u.0.0/16 ", i);
    }
    g_autoptr(GwNetworks) most = gw_networks_parse(text->str, &error);
    g_assert_no_error(error);
    g_assert_nonnull(most);
    g_string_append(text, "10.200.0.0/16");
    g_assert_null(gw_networks_parse(text->str, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
    g_clear_error(&error);
    g_autoptr(GwNetworks) none = gw_networks_parse(" , ", &error);
    struct sockaddr_storage address = address_of("0.0.0.0");
    g_assert_no_error(error);
    g_assert_false(gw_networks_have(none, &address));
}

static void
test_addresses(void)
{
    struct sockaddr_storage mapped = address_of("::ffff:192.0.2.7");
    struct sockaddr_storage v4 = address_of("192.0.2.7");
    g_autofree char *text = gw_sockaddr_text(&mapped);
    g_autofree char *text_v4 = gw_sockaddr_text(&v4);

    g_assert_cmpstr(text, ==, "192.0.2.7");
    g_assert_cmpstr(text_v4, ==, "192.0.2.7");
    gw_sockaddr_set_port(&mapped, 49152);
    gw_sockaddr_set_port(&v4, 1);
    g_assert_cmpuint(gw_sockaddr_port(&mapped), ==, 49152);
    g_assert_cmpuint(gw_sockaddr_port(&v4), ==, 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/networks/members", test_members);
    g_test_add_func("/networks/mistakes", test_mistakes);
    g_test_add_func("/networks/number", test_number);
    g_test_add_func("/networks/addresses", test_addresses);
    return g_test_run();
}
