// SPDX-License-Identifier: Apache-2.0
/* Any text as a VM definition: what is accepted has to be readable again, and mean the same. */
#include "vm/definition.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GwDefinition) definition =
        gw_definition_parse((const char *)data, size, "fuzz", &error);

    if (!definition) {
        g_assert_nonnull(error);
        return 0;
    }
    g_autofree char *text = gw_definition_text(definition);
    g_autoptr(GwDefinition) again = gw_definition_parse(text, strlen(text), "again", NULL);
    g_assert_nonnull(again);
    g_autofree char *text_again = gw_definition_text(again);
    g_assert_cmpstr(text_again, ==, text);
    g_autoptr(json_t) json = gw_definition_json(definition);
    g_assert_nonnull(json);
    return 0;
}
