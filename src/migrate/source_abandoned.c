// SPDX-License-Identifier: Apache-2.0
/*
 * An abandoned move at the source: the target, gone for good, comes back after all, and is to know
 * that the VM is not its own any more.
 *
 * Main context. Owns nothing; `settled` of the record says that the target knows, `unsettled` why
 * it does not yet. It is told again every TELL_AGAIN_MS, for as long as it takes.
 */
#include "base/units.h"
#include "migrate/internal.h"

#include <string.h>

#define TELL_AGAIN_MS 10000
/* The target's words. */
#define MAX_UNSETTLED_BYTES 4000

bool
gw_source_owes_word(const GwMove *move)
{
    return move->state == GW_MOVE_ABANDONED && !gw_json_bool(move->record, "settled", false);
}

void
gw_source_tell_taken_back(GwMove *move)
{
    if (gw_source_owes_word(move)) {
        gw_source_connect(move->side);
    }
}

void
gw_source_tell_later(GwSource *source)
{
    gw_source_connect_later(source, TELL_AGAIN_MS);
}

void
gw_source_let_go(GwSource *source)
{
    GwLogFields fields = gw_move_log_fields(source->move);

    if (gw_source_owes_word(source->move)) {
        g_clear_handle_id(&source->reconnect, g_source_remove);
        gw_json_set_bool(source->move->record, "settled", true);
        json_object_del(source->move->record, "unsettled");
        gw_move_save(source->move);
        gw_info(&fields, "host '%s' knows that the VM is not its own any more", source->move->peer);
        gw_lane_finish(source->lane);
    }
}

/* It is asked again all the same; a reason is told once. */
void
gw_source_not_let_go(GwSource *source, const GError *error)
{
    json_t *record = source->move->record;
    GwLogFields fields = gw_move_log_fields(source->move);
    g_autofree char *known = g_strdup(gw_json_str(record, "unsettled", ""));
    g_autofree char *why = g_strndup(error->message, MAX_UNSETTLED_BYTES);

    gw_json_set_str(record, "unsettled", why);
    if (strcmp(known, gw_json_str(record, "unsettled", "")) != 0) {
        gw_warn(&fields, "%s", gw_json_str(record, "unsettled", ""));
        gw_move_save(source->move);
    }
}
