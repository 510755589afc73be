// SPDX-License-Identifier: Apache-2.0
/* Sessions over loopback for tests. */
#include "harness.h"

#include "base/fd.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>

static gboolean
on_watchdog(void *what)
{
    g_error("waited too long for %s", (const char *)what);
    return G_SOURCE_REMOVE;
}

unsigned
watchdog_start(const char *what)
{
    return g_timeout_add_seconds(60, on_watchdog, (void *)what);
}

/* --- handlers
 * ------------------------------------------------------------------------------------- */

static void
maybe_free(Side *side)
{
    if (side->free_on_event) {
        g_clear_pointer(&side->lane, gw_lane_free);
    }
}

static void
on_ready(GwLane *lane, void *data)
{
    Side *side = data;

    side->ready = true;
    g_string_append(side->log, "ready;");
    maybe_free(side);
}

static void
on_message(GwLane *lane, json_t *message, void *data)
{
    Side *side = data;

    side->n_messages++;
    g_string_append_printf(side->log, "message:%s;", gw_json_str(message, "text", "?"));
    maybe_free(side);
}

static void
on_stream_end(GwLane *lane, const GwLaneStreamEnd *end, void *data)
{
    Side *side = data;

    g_assert_false(side->ended);
    side->ended = true;
    side->end_bytes = end->stream_bytes;
    side->end_digest = g_strdup(end->digest);
    side->end_saw_end = end->saw_end;
    side->end_error = end->error ? g_error_copy(end->error) : NULL;
    g_string_append(side->log, "end;");
    maybe_free(side);
}

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    Side *side = data;

    g_assert_null(side->closed);
    side->closed = g_error_copy(error);
    g_string_append(side->log, "closed;");
    maybe_free(side);
}

const GwLaneHandlers side_handlers = {
    .ready = on_ready,
    .message = on_message,
    .stream_end = on_stream_end,
    .closed = on_closed,
};

void
side_reset(Side *side)
{
    g_clear_pointer(&side->lane, gw_lane_free);
    g_clear_error(&side->end_error);
    g_clear_error(&side->closed);
    g_free(side->end_digest);
    if (side->log) {
        g_string_free(side->log, TRUE);
    }
    *side = (Side){.log = g_string_new(NULL)};
}

static void
side_clear(Side *side)
{
    side_reset(side);
    g_string_free(side->log, TRUE);
}

static bool
on_welcome(const char *peer_name, GError **error, void *data)
{
    Rig *rig = data;

    g_free(rig->asked);
    rig->asked = g_strdup(peer_name);
    if (rig->refuse) {
        g_set_error(error, GW_ERROR, GW_ERROR_REFUSED,
                    "host '%s' is not known here: run 'godwit host add %s ADDRESS'", peer_name,
                    peer_name);
        return false;
    }
    return true;
}

static void
on_accepted(GwLane *lane, void *data)
{
    Rig *rig = data;

    side_reset(&rig->accepted);
    rig->accepted.lane = lane;
    rig->accepted.ready = true;
    gw_lane_set_handlers(lane, &side_handlers, &rig->accepted);
}

/* --- the rig
 * ---------------------------------------------------------------------------------------- */

static void
write_host(Rig *rig, const char *name)
{
    test_cert_write(
        rig->ca, rig->dir, name,
        &(TestCert){.common_name = "ignored.when.there.is.a.dns.name", .dns_name = name});
}

void
rig_serve(Rig *rig, const char *certificate)
{
    g_autoptr(GwLaneCredentials) credentials = test_credentials(rig->dir, "ca", certificate);
    g_autoptr(GError) error = NULL;
    GwLaneServerOptions options = {
        .bind_address = "127.0.0.1",
        .credentials = credentials,
        .session_timeout_ms = rig->session_timeout_ms,
        .max_sessions = rig->max_sessions,
    };
    GwLaneServerHandlers handlers = {.welcome = on_welcome, .accepted = on_accepted};

    g_clear_pointer(&rig->server, gw_lane_server_free);
    rig->server = gw_lane_server_new(&options, &handlers, rig, &error);
    g_assert_no_error(error);
}

void
rig_init(Rig *rig, int64_t session_timeout_ms)
{
    /* GLib makes a lock for errors with the first one, in a way that thread sanitizers do not see.
     */
    g_error_free(g_error_new_literal(GW_ERROR, GW_ERROR_FAILED, ""));
    *rig =
        (Rig){.session_timeout_ms = session_timeout_ms, .max_sessions = 4, .address = "127.0.0.1"};
    rig->dir = g_dir_make_tmp("lane-XXXXXX", NULL);
    rig->ca = test_ca_new(rig->dir, "ca");
    rig->other_ca = test_ca_new(rig->dir, "other");
    write_host(rig, "alpha");
    write_host(rig, "beta");
    side_reset(&rig->client);
    side_reset(&rig->accepted);
    rig_serve(rig, "alpha");
}

static void
remove_folder(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        g_unlink(file);
    }
    g_dir_close(dir);
    g_rmdir(path);
}

void
rig_clear(Rig *rig)
{
    side_clear(&rig->client);
    side_clear(&rig->accepted);
    gw_lane_server_free(rig->server);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    test_ca_free(rig->ca);
    test_ca_free(rig->other_ca);
    remove_folder(rig->dir);
    g_free(rig->dir);
    g_free(rig->asked);
}

void
rig_connect_to(Rig *rig, uint16_t port, const char *ca, const char *certificate,
               const char *expected)
{
    g_autoptr(GwLaneCredentials) credentials = test_credentials(rig->dir, ca, certificate);
    GwLaneConnect options = {
        .address = rig->address,
        .more_addresses = rig->more_addresses,
        .port = port,
        .expected_name = expected,
        .credentials = credentials,
        .connect_timeout_ms = 20000,
        .session_timeout_ms = rig->session_timeout_ms,
        .n_links = rig->n_links,
        .silence_ms = rig->silence_ms,
    };

    side_reset(&rig->client);
    rig->client.lane = gw_lane_connect(&options, &side_handlers, &rig->client);
}

void
rig_connect(Rig *rig, const char *ca, const char *certificate, const char *expected)
{
    rig_connect_to(rig, gw_lane_server_port(rig->server), ca, certificate,
                   expected ? expected : "alpha");
}

void
rig_establish(Rig *rig)
{
    side_reset(&rig->accepted);
    rig_connect(rig, "ca", "beta", NULL);
    WAIT_FOR((rig->client.ready && rig->accepted.ready) || rig->client.closed);
    g_assert_no_error(rig->client.closed);
}

/* --- stand-ins for QEMU ----------------------------------------------------------------------- */

static void
make_pair(int *own, int *lane_fd)
{
    GwFd pair[2];

    g_assert_true(gw_fd_socketpair(pair, NULL));
    *own = pair[0];
    *lane_fd = pair[1];
}

static void *
feed(void *data)
{
    Feeder *feeder = data;
    size_t written = 0;

    while (written < feeder->bytes->len) {
        size_t len = MIN(feeder->bytes->len - written, 32768);
        ssize_t n = send(feeder->fd, feeder->bytes->data + written, len, MSG_NOSIGNAL);

        if (n <= 0) {
            break;
        }
        written += (size_t)n;
        g_atomic_int_set(&feeder->n_written, (gint)(written / 1024));
    }
    gw_fd_close(feeder->fd);
    return NULL;
}

void
feeder_start(Feeder *feeder, const GByteArray *bytes)
{
    *feeder = (Feeder){.bytes = bytes};
    make_pair(&feeder->fd, &feeder->lane_fd);
    feeder->thread = g_thread_new("feeder", feed, feeder);
}

void
feeder_join(Feeder *feeder)
{
    g_thread_join(feeder->thread);
}

static void *
drain_all(void *data)
{
    Drain *drain = data;
    guint8 buffer[65536];
    ssize_t n;

    while ((n = read(drain->fd, buffer, sizeof(buffer))) > 0) {
        g_byte_array_append(drain->bytes, buffer, (guint)n);
    }
    return NULL;
}

void
drain_init(Drain *drain)
{
    *drain = (Drain){.bytes = g_byte_array_new()};
    make_pair(&drain->fd, &drain->lane_fd);
}

void
drain_start(Drain *drain)
{
    drain->thread = g_thread_new("drain", drain_all, drain);
}

void
drain_join(Drain *drain)
{
    g_thread_join(drain->thread);
    drain->thread = NULL;
}

void
drain_clear(Drain *drain)
{
    gw_fd_close(drain->fd);
    g_byte_array_unref(drain->bytes);
}
