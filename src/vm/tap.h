// SPDX-License-Identifier: Apache-2.0
/*
 * Tap interfaces for NICs on a bridge. A tap lives as long as a process has it open: QEMU gets the
 * descriptor, so the interface survives the daemon and goes with QEMU. Needs CAP_NET_ADMIN. Main
 * context.
 */
#pragma once

#include "base/fd.h"
#include "vm/definition.h"

/* "gw" + 10 hex digits of a hash of the VM's name + "-" + index: at most 15 bytes. Transfer full.
 */
char *gw_tap_name(const char *vm_name, unsigned index) GW_MUST_USE;

/* Makes the tap called @name, adds it to the NIC's bridge and sets it up. */
GwFd gw_tap_open(const char *name, const GwNic *nic, GError **error) GW_MUST_USE;
