// SPDX-License-Identifier: Apache-2.0
/*
 * The byte table of QEMU's migration stream, version 3, as 7.2 to 10.x write it. All numbers are
 * big-endian; "name" is one length byte and that many bytes. Source of truth: QEMU's
 * migration/savevm.c, migration/ram.c, migration/block-dirty-bitmap.c, docs/devel/migration.
 *
 *   stream         = be32 magic, be32 version, [configuration], { section }, 0x00,
 *                    [ 0x06, be32 len, len bytes of JSON ]
 *   configuration  = 0x07, be32 len, machine type, { subsection }
 *   subsection     = 0x05, name, be32 version, content:
 *                    configuration/target-page-bits: be32 bits (12 on x86, where it is not sent)
 *                    configuration/capabilities: be32 count, count * name
 *                    configuration/uuid: 16 bytes
 *   section        = 0x01 START, be32 id, name, be32 instance, be32 version, payload, [footer]
 *                  | 0x02 PART,  be32 id, payload, [footer]
 *                  | 0x03 END,   be32 id, payload, [footer]
 *                  | 0x04 FULL,  as START: a device; nothing tells the length of its payload
 *                  | 0x08 COMMAND, be16 command, be16 len, len bytes
 *                    (PACKAGED: the 4 bytes are a be32 len2, and len2 bytes follow)
 *   footer         = 0x7e, be32 id (machine types before 2.4 send none)
 *
 * Payload of section "ram", version 4: { record }, until EOS. A record begins with a be64; its low
 * twelve bits are flags, the rest is an address in a block:
 *
 *   MEM_SIZE       address bits are the sum of all blocks' bytes; then blocks up to that sum:
 *                  name, be64 bytes, [be64 page size, post-copy and not 4096 only],
 *                  [be64 guest address, capability x-ignore-shared only]
 *   ZERO           [name unless CONTINUE], fill byte (always 0)
 *   PAGE           [name unless CONTINUE], 4096 bytes
 *   XBZRLE         [name unless CONTINUE], byte 1, be16 len, len bytes
 *   MULTIFD_FLUSH  nothing (QEMU 8.1 and later, with multifd)
 *   EOS            nothing; the payload's end
 *
 * HOOK (RDMA), COMPRESS_PAGE (gone in 9.1) and capability mapped-ram (pages at fixed places of a
 * file, 9.0 and later) are not understood.
 *
 * Payload of section "dirty-bitmap", version 1: { chunk }, until one with EOS. A chunk is a flags
 * byte, [name if DEVICE_NAME], [name if BITMAP_NAME], then with START: be32 granularity, byte;
 * COMPLETE: nothing; BITS: be64 sector, be32 sectors, and unless ZEROES: be64 len, len bytes.
 *
 * On q35 with virtio devices and user networking "ram" is the only section with a START, and
 * "dirty-bitmap" follows it when capability dirty-bitmaps is set. FULL sections come after ram's
 * END, except for virtio-mem's early state (8.0 and later), which hides the pages.
 */
#pragma once

#define GW_STREAM_MAGIC   0x5145564du /* "QEVM" */
#define GW_STREAM_VERSION 3u

typedef enum GwStreamToken {
    GW_STREAM_EOF = 0x00,
    GW_STREAM_START = 0x01,
    GW_STREAM_PART = 0x02,
    GW_STREAM_END = 0x03,
    GW_STREAM_FULL = 0x04,
    GW_STREAM_SUBSECTION = 0x05,
    GW_STREAM_DESCRIPTION = 0x06,
    GW_STREAM_CONFIGURATION = 0x07,
    GW_STREAM_COMMAND = 0x08,
    GW_STREAM_FOOTER = 0x7e,
} GwStreamToken;

#define GW_STREAM_FOOTER_BYTES 5u

/* ENABLE_COLO is left out on purpose: what follows it is not this format any more. */
typedef enum GwStreamCommand {
    GW_STREAM_OPEN_RETURN_PATH = 1,
    GW_STREAM_PING = 2,
    GW_STREAM_POSTCOPY_ADVISE = 3, /* be64 all page sizes or-ed, be64 target page size; or empty */
    GW_STREAM_POSTCOPY_LISTEN = 4,
    GW_STREAM_POSTCOPY_RUN = 5,
    GW_STREAM_POSTCOPY_RAM_DISCARD = 6,
    GW_STREAM_PACKAGED = 7,
    GW_STREAM_POSTCOPY_RESUME = 9,
    GW_STREAM_RECV_BITMAP = 10,
    GW_STREAM_SWITCHOVER_START = 11, /* QEMU 10.0 and later */
} GwStreamCommand;

#define GW_STREAM_RAM_VERSION    4u
#define GW_STREAM_BITMAP_VERSION 1u
#define GW_STREAM_MAX_NAME_BYTES 255u

#define GW_STREAM_RAM_FLAGS     0xfffu
#define GW_STREAM_RAM_ZERO      0x002u
#define GW_STREAM_RAM_MEM_SIZE  0x004u
#define GW_STREAM_RAM_PAGE      0x008u
#define GW_STREAM_RAM_EOS       0x010u
#define GW_STREAM_RAM_CONTINUE  0x020u
#define GW_STREAM_RAM_XBZRLE    0x040u
#define GW_STREAM_RAM_MULTIFD   0x200u
#define GW_STREAM_XBZRLE_MARKER 1u

#define GW_STREAM_BITMAP_EOS         0x01u
#define GW_STREAM_BITMAP_ZEROES      0x02u
#define GW_STREAM_BITMAP_BITMAP_NAME 0x04u
#define GW_STREAM_BITMAP_DEVICE_NAME 0x08u
#define GW_STREAM_BITMAP_START       0x10u
#define GW_STREAM_BITMAP_COMPLETE    0x20u
#define GW_STREAM_BITMAP_BITS        0x40u
#define GW_STREAM_BITMAP_KNOWN       0x7fu
