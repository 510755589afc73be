// SPDX-License-Identifier: Apache-2.0
/*
 * QEMU's command line out of a definition and what this run has chosen. Pure; any thread.
 *
 * Everything that the guest can see (PCI addresses, models, machine, no option ROMs, whose sizes
 * differ between hosts) follows from the definition, machine and CPU alone, so that two hosts make
 * the same machine. Values of the definition reach QEMU as JSON or as whole arguments, never
 * inside option strings, where a comma in a path would be another option.
 */
#pragma once

#include "vm/definition.h"

/* The descriptors are numbers inside QEMU; GW_FD_NONE where there is none. */
typedef struct GwCommandPlan {
    const char *qemu_binary;
    const char *accel; /* "kvm" or "tcg" */
    const char *machine;
    const char *cpu;
    const char *balloon; /* as in the definition; of this run */
    const char *token;   /* tells this one run from every other */
    bool incoming;
    int qmp_fd;
    int spare_in_fd; /* both or none: for the spare monitor */
    int spare_out_fd;
    int serial_fds[GW_MAX_SERIAL_PORTS];
    int console_log_fd;
    int tap_fds[GW_MAX_NICS];
    bool block_device[GW_MAX_DISKS]; /* the disk's path is a device, not a file */
    const char *firmware_code;       /* NULL: the machine's own BIOS */
    int firmware_vars_fd;
} GwCommandPlan;

/* Transfer full. */
char **gw_command_build(const GwDefinition *definition, const GwCommandPlan *plan) GW_MUST_USE;

/* The block node of the disk with this index in the definition: "disk0". Transfer full. */
char *gw_command_disk_node(unsigned index) GW_MUST_USE;

/* Whether an argument of a running process is the one that carries this token. */
bool gw_command_argument_has_token(const char *argument, const char *token);
