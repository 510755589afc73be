// SPDX-License-Identifier: Apache-2.0
/* The forms of a host's address that are taken, and those that are slips. */
#include "fleet/address.h"

static void
test_good(void)
{
    static const struct {
        const char *text;
        const char *address;
        uint16_t port;
        const char *formatted;
    } rows[] = {
        {"192.0.2.7", "192.0.2.7", 0, "192.0.2.7:1"},
        {"192.0.2.7:7791", "192.0.2.7", 7791, "192.0.2.7:1"},
        {"alpha", "alpha", 0, "alpha:1"},
        {"Alpha-2.example.org:65535", "Alpha-2.example.org", 65535, "Alpha-2.example.org:1"},
        {"3com.example", "3com.example", 0, "3com.example:1"},
        {"::1", "::1", 0, "[::1]:1"},
        {"[::1]", "::1", 0, "[::1]:1"},
        {"[2001:db8::7]:80", "2001:db8::7", 80, "[2001:db8::7]:1"},
        {"fe80::1%eth0", "fe80::1%eth0", 0, "[fe80::1%eth0]:1"},
        {"[fe80::1%eth0]:81", "fe80::1%eth0", 81, "[fe80::1%eth0]:1"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *address = NULL;
        uint16_t port = 9;
        bool ok = gw_address_parse(rows[i].text, &address, &port, &error);
        g_assert_no_error(error);
        g_assert_true(ok);
        g_assert_cmpstr(address, ==, rows[i].address);
        g_assert_cmpuint(port, ==, rows[i].port);
        g_autofree char *formatted = gw_address_format(address, 1);
        g_assert_cmpstr(formatted, ==, rows[i].formatted);
    }
}

static void
test_bad(void)
{
    g_autofree char *long_label = g_strnfill(64, 'a');
    g_autofree char *long_text = g_strnfill(10000, '1');
    const char *const rows[] = {
        "",       " ",         "10.0.0.300",  "10.0.0",   "1.2.3.4.5", "a b",      "a/b",
        "alpha:", "alpha:0",   "alpha:65536", "alpha:x",  "alpha:1:2", "[::1",     "[::1]7790",
        "[::1]:", "[alpha]:1", "::g",         "-alpha",   "alpha-",    "a..b",     ":7790",
        "[]",     "fe80::1%",  "fe80::1%a b", "http://a", "a\n",       long_label, long_text,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        char *address = NULL;
        uint16_t port = 9;
        if (gw_address_parse(rows[i], &address, &port, &error)) {
            g_error("'%s' was taken", rows[i]);
        }
        g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
        g_assert_null(address);
        g_assert_cmpuint(port, ==, 9);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/address/good", test_good);
    g_test_add_func("/address/bad", test_bad);
    return g_test_run();
}
