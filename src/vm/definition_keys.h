// SPDX-License-Identifier: Apache-2.0
/*
 * The keys of a definition: one table per kind of group, used to read and to write it. A new key
 * is one new line in a table. Pure; any thread.
 */
#pragma once

#include "vm/definition.h"

#include <stddef.h>

typedef struct GwKeySpec GwKeySpec;

/*
 * How a kind of value is read and written. set() returns NULL, or what to write instead (transfer
 * full), with the field untouched. get() returns NULL if the field has no value (transfer full).
 */
typedef struct GwValueType {
    char *(*set)(const GwKeySpec *spec, const char *value, void *field);
    char *(*get)(const void *field);
} GwValueType;

struct GwKeySpec {
    const char *key; /* NULL ends a table */
    const GwValueType *type;
    size_t offset;
    const char *fallback; /* the value when the key is absent; NULL: none */
    bool needed;
    unsigned max;        /* for counts, which begin at 1 */
    const char *choices; /* "a, b" */
};

/* What gw_check_name() accepts. */
#define GW_NAME_HINT "use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"

extern const GwKeySpec gw_vm_keys[];
extern const GwKeySpec gw_boot_keys[];
extern const GwKeySpec gw_disk_keys[];
extern const GwKeySpec gw_nic_keys[];
extern const GwKeySpec gw_extra_keys[];

/* The field of @spec in @object, which is the struct that the table is for. */
static inline void *
gw_key_field(const GwKeySpec *spec, const void *object)
{
    return (char *)object + spec->offset;
}

/* "a, b, c": the keys of a table. Transfer full. */
char *gw_key_names(const GwKeySpec *keys) GW_MUST_USE;
