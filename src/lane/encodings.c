// SPDX-License-Identifier: Apache-2.0
/*
 * Names of encodings, both ways. Pure; any thread. Fails on words that are no encoding.
 */
#include "lane/encodings.h"

static const struct {
    GwEncoding encoding;
    const char *name;
} encodings_table[] = {
    {GW_ENCODING_SAME, "same"},   {GW_ENCODING_EQUAL, "equal"},
    {GW_ENCODING_DELTA, "delta"}, {GW_ENCODING_REFERENCE, "reference"},
    {GW_ENCODING_VISIT, "visit"}, {GW_ENCODING_ZSTD, "zstd"},
};

static unsigned
find(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(encodings_table); i++) {
        if (g_str_equal(name, encodings_table[i].name)) {
            return encodings_table[i].encoding;
        }
    }
    return 0;
}

bool
gw_encodings_parse(const char *text, unsigned *out, GError **error)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    unsigned encodings = 0;

    if (g_str_equal(text, "all") || g_str_equal(text, "none")) {
        *out = text[0] == 'a' ? GW_ENCODING_ALL : 0;
        return true;
    }
    for (char **word = words; *word; word++) {
        unsigned encoding = find(g_strstrip(*word));

        if (encoding == 0) {
            g_autofree char *all = gw_encodings_text(GW_ENCODING_ALL);
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                        "'%.40s' is not an encoding; there are: all, none, or some of %s", *word,
                        all);
            return false;
        }
        encodings |= encoding;
    }
    if (encodings == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "no encoding is named; for none say 'none'");
        return false;
    }
    *out = encodings;
    return true;
}

char *
gw_encodings_text(unsigned encodings)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(encodings_table); i++) {
        if (encodings & encodings_table[i].encoding) {
            g_string_append_printf(text, "%s%s", text->len > 0 ? "," : "", encodings_table[i].name);
        }
    }
    if (text->len == 0) {
        g_string_append(text, "none");
    }
    return g_string_free(text, FALSE);
}
