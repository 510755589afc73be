// SPDX-License-Identifier: Apache-2.0
/* Disk images for tests, made by QEMU's own tools in a folder that goes with the test. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct ImageFiles {
    char *folder;
} ImageFiles;

/* False: the tools are not installed; the test is marked as skipped. */
bool image_files_init(ImageFiles *files);
void image_files_clear(ImageFiles *files);

/* The path of @name in the folder. Transfer full. */
char *image_file(const ImageFiles *files, const char *name);

/* Runs "TOOL ARGUMENTS…" in the folder; false if it fails. */
bool image_try(const ImageFiles *files, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The same; it must not fail. */
void image_run(const ImageFiles *files, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Random writes to the image by qemu-io, @n of them, each with its own content; @kinds of "wzd":
 * data, zeros, discards. */
void image_scribble(const ImageFiles *files, const char *name, const char *format, unsigned n,
                    const char *kinds);

/* The guest's disk as QEMU reads it. Transfer full, *@len bytes. */
uint8_t *image_convert(const ImageFiles *files, const char *name, const char *format, size_t *len);

/* Writes a raw file of @n_pages pages, each different; some zero. */
void image_write_raw(const ImageFiles *files, const char *name, unsigned n_pages, uint32_t seed);

/* One page as image_write_raw() makes it. */
void image_page(uint8_t *page, uint32_t seed, unsigned number);

/* Overwrites bytes of a file. */
void image_patch(const ImageFiles *files, const char *name, size_t offset, const void *data,
                 size_t len);

/* The first place in the file's first 64 KiB with @len bytes as in @from gets those of @to. */
void image_replace(const ImageFiles *files, const char *name, const char *from, const char *to,
                   size_t len);

/* Blocks of data that the qcow2 file itself has, as QEMU counts them. */
uint64_t image_own_blocks(const ImageFiles *files, const char *name);
