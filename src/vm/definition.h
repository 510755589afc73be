// SPDX-License-Identifier: Apache-2.0
/*
 * A VM's definition: what an operator writes in a key file, checked and normalised.
 *
 *     [vm]
 *     name = web1                  needed; also the file's identity
 *     memory = 1 GiB               64 MiB .. 4 TiB, a multiple of 1 MiB
 *     vcpus = 2                    1 .. 255
 *     cpu = max                    a QEMU model with optional ",+feature,-feature"; default: host
 *                                  under kvm, max under tcg
 *     machine = q35                pinned to a version when the VM is defined
 *     firmware = bios              bios | uefi
 *     accel = auto                 auto | kvm | tcg
 *     serial-ports = 1             1 .. 4; port 0 is the console, the others are sockets
 *     balloon = hint               hint: a memory balloon that tells a move which pages the guest
 *                                  has free, so that they stay home | plain: without that | none
 *     uuid = 5f0c…                 the guest's identity; made when the VM is defined
 *     [boot]
 *     kernel = /path  initrd = /path  append = text       direct boot; all or none but kernel
 *     [disk NAME]
 *     path = /path  format = qcow2|raw  bus = virtio|scsi|ide  cache = none|writeback
 *     read-only = false            an ide disk that is read-only is a CD-ROM drive
 *     [nic NAME]
 *     mode = bridge|user  bridge = br0  mac = 52:54:00:…  model = virtio|e1000
 *     [extra]
 *     arguments = -device x …      split like a shell's command line, passed to QEMU verbatim
 *
 * A mistake is reported with its line, group, key and the allowed values; all mistakes at once.
 * Paths are absolute. A missing MAC is made from the names (stable). Unknown groups and keys are
 * mistakes. Pure but for name look-ups in this file; main context.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <stdint.h>

#define GW_DEFINITION_MAX_BYTES (64u * 1024u)
#define GW_MAX_DISKS            32u
#define GW_MAX_NICS             16u
#define GW_MAX_SERIAL_PORTS     4u

typedef struct GwDisk {
    char *name;
    char *path;
    char *format;
    char *bus;
    char *cache;
    bool read_only;
} GwDisk;

typedef struct GwNic {
    char *name;
    char *mode; /* "bridge" or "user" */
    char *bridge;
    char *mac;
    char *model;
} GwNic;

typedef struct GwDefinition {
    char *name;
    uint64_t memory_bytes;
    unsigned vcpus;
    char *cpu; /* NULL: the accelerator's default */
    char *machine;
    char *firmware;
    char *accel;
    char *uuid; /* NULL until the VM is defined */
    unsigned serial_ports;
    char *balloon;
    char *kernel; /* NULL: boot from disk */
    char *initrd;
    char *append;
    GPtrArray *disks; /* of GwDisk */
    GPtrArray *nics;  /* of GwNic */
    char **extra;     /* NULL-terminated, never NULL */
} GwDefinition;

void gw_definition_free(GwDefinition *definition);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwDefinition, gw_definition_free)

/* Parses and checks the text of a definition file. @source (a file's name) is for messages. */
GwDefinition *gw_definition_parse(const char *text, size_t len, const char *source,
                                  GError **error) GW_MUST_USE;

/* The normalised key file, every value written out: parse(text(d)) equals d. Transfer full. */
char *gw_definition_text(const GwDefinition *definition) GW_MUST_USE;

/* For the API. Transfer full. */
json_t *gw_definition_json(const GwDefinition *definition) GW_MUST_USE;

/* Warnings an operator should read (extra arguments, cache=writeback on shared storage, …). */
GPtrArray *gw_definition_warnings(const GwDefinition *definition) GW_MUST_USE; /* of char * */
