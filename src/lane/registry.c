// SPDX-License-Identifier: Apache-2.0
/*
 * The sessions of a server, and who may have another connection of them.
 *
 * Owns the table, not the sessions: each leaves it when it is over or freed. Main context. A
 * connection belongs to a session if it names the session's id, shows the ticket that only the
 * session's own greeting told, was proven (by TLS) to come from the host that began it, and is
 * newer than the last one for the same link, so that what was said once cannot be said again.
 */
#include "lane/link.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

static guint
id_hash(gconstpointer id)
{
    guint hash;

    /* Random bytes chosen by proven hosts of the fleet; what one of them may spoil is its own. */
    memcpy(&hash, id, sizeof(hash));
    return hash;
}

static gboolean
id_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, GW_SESSION_ID_BYTES) == 0;
}

GwLaneRegistry *
gw_lane_registry_new(void)
{
    GwLaneRegistry *registry = g_new0(GwLaneRegistry, 1);

    registry->refs = 1;
    registry->sessions = g_hash_table_new(id_hash, id_equal);
    return registry;
}

void
gw_lane_registry_unref(GwLaneRegistry *registry)
{
    if (--registry->refs == 0) {
        g_hash_table_unref(registry->sessions);
        g_free(registry);
    }
}

void
gw_lane_registry_add(GwLaneRegistry *registry, GwLane *lane)
{
    lane->registry = registry;
    registry->refs++;
    registry->used++;
    g_hash_table_insert(registry->sessions, lane->session_id, lane);
}

void
gw_lane_registry_remove(GwLane *lane, bool freed)
{
    GwLaneRegistry *registry = lane->registry;

    if (!registry) {
        return;
    }
    if (g_hash_table_lookup(registry->sessions, lane->session_id) == lane) {
        g_hash_table_remove(registry->sessions, lane->session_id);
    }
    if (freed) {
        registry->used--;
        lane->registry = NULL;
        gw_lane_registry_unref(registry);
    }
}

GwLane *
gw_lane_registry_find(GwLaneRegistry *registry, const GwHello *hello, const char *name,
                      GError **error)
{
    GwLane *lane = g_hash_table_lookup(registry->sessions, hello->session_id);

    if (!lane) {
        g_set_error(error, GW_ERROR, GW_ERROR_NOT_FOUND,
                    "the session is not known here any more: godwitd was started anew, or has "
                    "ended it");
        return NULL;
    }
    if (strcmp(lane->peer_name, name) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "the session belongs to another host than '%s'", name);
        return NULL;
    }
    if (gnutls_memcmp(lane->ticket, hello->ticket, GW_TICKET_BYTES) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "that is not the ticket of the session");
        return NULL;
    }
    const GwLink *link = lane->links[hello->link];

    if (link && hello->attempt <= link->last_attempt) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "there is a newer connection for link %u of the session", hello->link);
        return NULL;
    }
    return lane;
}

void
gw_lane_registry_end_others(GwLaneRegistry *registry, const GwHello *hello, const char *name)
{
    GHashTableIter iter;
    GwLane *lane;

    g_hash_table_iter_init(&iter, registry->sessions);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&lane)) {
        if (strcmp(lane->peer_name, name) == 0 &&
            memcmp(lane->peer_instance, hello->instance, GW_INSTANCE_BYTES) != 0) {
            gw_lane_end(lane,
                        g_error_new(GW_ERROR, GW_ERROR_UNREACHABLE,
                                    "godwitd of host '%s' was started anew and knows nothing of "
                                    "the session any more",
                                    name),
                        false);
        }
    }
}

bool
gw_lane_instance(uint8_t out[GW_INSTANCE_BYTES])
{
    static gsize state; /* 1: there are random numbers; 2: there are not */
    static uint8_t instance[GW_INSTANCE_BYTES];

    if (g_once_init_enter(&state)) {
        bool made = gnutls_rnd(GNUTLS_RND_NONCE, instance, sizeof(instance)) >= 0;

        g_once_init_leave(&state, made ? 1 : 2);
    }
    memcpy(out, instance, sizeof(instance));
    return state == 1;
}
