// SPDX-License-Identifier: Apache-2.0
/*
 * One accepted connection on its way to a session.
 *
 * Owns the connection until a session takes it, and the thread. What the thread and the main
 * context tell each other is below `lock`; while the thread waits for an answer the connection is
 * the main context's. Freeing stops the thread wherever it is, within milliseconds.
 *
 * Memory: one greeting of 256 bytes and what GnuTLS needs. Fails with GW_ERROR_TIMEOUT,
 * GW_ERROR_UNREACHABLE, GW_ERROR_REFUSED, GW_ERROR_UNSUPPORTED or GW_ERROR_PROTOCOL, told to the
 * peer as soon as TLS stands.
 */
#include "lane/entry.h"

#include "base/units.h"
#include "lane/session.h"
#include "lane/wake.h"

typedef enum EntryQuestion {
    ENTRY_ASKS_NOTHING,
    ENTRY_ASKS_WELCOME,
    ENTRY_ASKS_SESSION,
    ENTRY_IS_DONE,
} EntryQuestion;

struct GwEntry {
    GwEntryHandlers handlers;
    void *data;
    char *peer_address;
    GwLaneCredentials *credentials;
    int64_t deadline_us;
    GMainContext *context;
    GSource *source; /* made ready when the thread asks */
    GwFd stop_fd;
    pthread_t thread;
    bool runs;
    GwConnection *connection; /* NULL: a session took it */
    GwHello hello;

    pthread_mutex_t lock;
    pthread_cond_t answered;
    EntryQuestion question;
    bool stopping;
    GError *answer; /* NULL: yes */
    GError *end;    /* with ENTRY_IS_DONE */
};

/* --- the thread ------------------------------------------------------------------------------- */

/* False: the answer is no (@error), or stopped (no error). */
static bool
ask(GwEntry *entry, EntryQuestion question, GError **error)
{
    pthread_mutex_lock(&entry->lock);
    entry->question = question;
    g_source_set_ready_time(entry->source, 0);
    while (entry->question != ENTRY_ASKS_NOTHING && !entry->stopping) {
        pthread_cond_wait(&entry->answered, &entry->lock);
    }
    bool yes = !entry->stopping && !entry->answer;
    if (entry->answer) {
        g_propagate_error(error, g_steal_pointer(&entry->answer));
    }
    pthread_mutex_unlock(&entry->lock);
    return yes;
}

static bool
authenticate(GwEntry *entry, GError **error)
{
    GwConnection *connection = entry->connection;

    connection->tls = gw_tls_new(connection->fd, entry->credentials, NULL, connection->peer, error);
    return connection->tls &&
           gw_connection_shake_hands(connection, entry->stop_fd, entry->deadline_us, error);
}

static bool
receive_hello(GwEntry *entry, GError **error)
{
    GwHello ours = {.version = GW_LANE_VERSION, .oldest_version = GW_LANE_OLDEST_VERSION};
    GwConnection *connection = entry->connection;
    bool refused = false;
    uint16_t version;
    g_autoptr(GwFrame) frame =
        gw_connection_receive(connection, entry->stop_fd, entry->deadline_us, error);

    return frame && gw_connection_take_hello(connection, frame, &entry->hello, &refused, error) &&
           gw_hello_agree(&ours, &entry->hello, &version, error);
}

/* The socket is not looked at while an answer is awaited: what the peer sends then has to wait. */
static bool
introduce(GwEntry *entry, GError **error)
{
    GwConnection *connection = entry->connection;

    connection->peer_name = gw_tls_verify_peer(connection->tls, error);
    if (!connection->peer_name) {
        return false;
    }
    g_free(connection->peer);
    connection->peer =
        g_strdup_printf("host '%s' at %s", connection->peer_name, entry->peer_address);
    return ask(entry, ENTRY_ASKS_WELCOME, error) && receive_hello(entry, error) &&
           ask(entry, ENTRY_ASKS_SESSION, error);
}

static void *
entry_thread(void *data)
{
    GwEntry *entry = data;
    GError *error = NULL;

    if (authenticate(entry, &error) && !introduce(entry, &error) && error) {
        gw_connection_say_last(entry->connection, gw_refuse_frame(error), entry->stop_fd);
    }
    pthread_mutex_lock(&entry->lock);
    entry->question = ENTRY_IS_DONE;
    entry->end = error;
    pthread_mutex_unlock(&entry->lock);
    g_source_set_ready_time(entry->source, 0);
    return NULL;
}

/* --- main context ----------------------------------------------------------------------------- */

/* What the thread asks is answered; nothing of @entry is touched once it is done. */
static gboolean
on_question(void *data)
{
    GwEntry *entry = data;
    GError *answer = NULL;

    pthread_mutex_lock(&entry->lock);
    EntryQuestion question = entry->question;
    pthread_mutex_unlock(&entry->lock);
    switch (question) {
    case ENTRY_ASKS_NOTHING:
        return G_SOURCE_CONTINUE;
    case ENTRY_ASKS_WELCOME:
        if (!entry->handlers.welcome(entry->connection->peer_name, &answer, entry->data) &&
            !answer) {
            answer = g_error_new(GW_ERROR, GW_ERROR_REFUSED, "host '%s' is not welcome here",
                                 entry->connection->peer_name);
        }
        break;
    case ENTRY_ASKS_SESSION:
        if (entry->handlers.greeted(entry->connection, &entry->hello, &answer, entry->data)) {
            entry->connection = NULL;
        }
        break;
    case ENTRY_IS_DONE:
        entry->handlers.done(entry, entry->end, entry->data);
        return G_SOURCE_REMOVE;
    }
    pthread_mutex_lock(&entry->lock);
    entry->question = ENTRY_ASKS_NOTHING;
    entry->answer = answer;
    pthread_cond_signal(&entry->answered);
    pthread_mutex_unlock(&entry->lock);
    return G_SOURCE_CONTINUE;
}

/* Lowered before the question is looked at, so that none is overlooked. */
static gboolean
on_question_ready(GSource *source, GSourceFunc callback, void *data)
{
    g_source_set_ready_time(source, -1);
    return callback(data);
}

static GSourceFuncs question_source_funcs = {.dispatch = on_question_ready};

GwEntry *
gw_entry_new(int fd, const char *peer_address, GwLaneCredentials *credentials,
             const GwEntryHandlers *handlers, void *data, GError **error)
{
    g_autofree char *peer = g_strdup_printf("the peer at %s", peer_address);
    GwEntry *entry = g_new0(GwEntry, 1);

    entry->handlers = *handlers;
    entry->data = data;
    entry->peer_address = g_strdup(peer_address);
    entry->credentials = gw_lane_credentials_ref(credentials);
    entry->deadline_us = gw_now_us() + GW_LANE_HANDSHAKE_MS * 1000;
    entry->connection = gw_connection_new(fd, peer);
    entry->context = g_main_context_ref_thread_default();
    pthread_mutex_init(&entry->lock, NULL);
    pthread_cond_init(&entry->answered, NULL);
    entry->source = g_source_new(&question_source_funcs, sizeof(GSource));
    g_source_set_callback(entry->source, on_question, entry, NULL);
    g_source_attach(entry->source, entry->context);
    entry->stop_fd = gw_wake_new(error);
    entry->runs = entry->stop_fd >= 0 &&
                  gw_lane_start_thread(&entry->thread, entry_thread, entry, "gw-lane-entry", error);
    if (!entry->runs) {
        gw_entry_free(entry);
        return NULL;
    }
    return entry;
}

const char *
gw_entry_address(const GwEntry *entry)
{
    return entry->peer_address;
}

void
gw_entry_free(GwEntry *entry)
{
    g_source_destroy(entry->source);
    if (entry->runs) {
        pthread_mutex_lock(&entry->lock);
        entry->stopping = true;
        pthread_cond_signal(&entry->answered);
        pthread_mutex_unlock(&entry->lock);
        gw_wake_raise(entry->stop_fd);
        pthread_join(entry->thread, NULL);
    }
    gw_connection_free(entry->connection);
    g_clear_error(&entry->answer);
    g_clear_error(&entry->end);
    gw_fd_clear(&entry->stop_fd);
    pthread_cond_destroy(&entry->answered);
    pthread_mutex_destroy(&entry->lock);
    gw_lane_credentials_unref(entry->credentials);
    g_source_unref(entry->source);
    g_main_context_unref(entry->context);
    g_free(entry->peer_address);
    g_free(entry);
}
