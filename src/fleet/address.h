// SPDX-License-Identifier: Apache-2.0
/*
 * The syntax of a host's address. Pure; any thread; nothing is looked up.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

/*
 * Reads "192.0.2.7", "alpha.example", "2001:db8::7", "fe80::7%eth0", each with a port as
 * "192.0.2.7:7790" or "[2001:db8::7]:7790". @address: without brackets, transfer full. @port: 0 if
 * none is given. GW_ERROR_INVALID tells the forms.
 */
bool gw_address_parse(const char *text, char **address, uint16_t *port, GError **error) GW_MUST_USE;

/* "192.0.2.7:7790" or "[2001:db8::7]:7790", for messages. Transfer full. */
char *gw_address_format(const char *address, uint16_t port) GW_MUST_USE;
