// SPDX-License-Identifier: Apache-2.0
/*
 * One TLS connection that carries frames: the socket, and one frame being sent and received each.
 *
 * It knows no session: it is made before one is known, and changes hands. One thread at a time.
 * Calls ending in "_some" never wait. The others wait for the socket until their deadline, or
 * until @stop_fd is raised: then they fail without an error.
 */
#pragma once

#include "base/fd.h"
#include "lane/pool.h"
#include "lane/tls.h"

/* How long last words and a peer's end are waited for. */
#define GW_CONNECTION_LINGER_US (2 * G_USEC_PER_SEC)

typedef struct GwConnection {
    GwFd fd;
    GwTls *tls;
    char *peer;        /* how messages call the other side */
    char *peer_name;   /* proven; NULL before */
    GwFramePool *pool; /* NULL: nothing but greetings and refusals is received */
    bool breached;     /* what failed was not the connection but what the peer sent */

    GwFrame *sending;
    size_t sent_bytes; /* of `sending` */

    uint8_t header[GW_FRAME_HEADER_BYTES];
    size_t header_have;
    GwFrame *receiving;
    size_t payload_have;
    int64_t heard_us; /* when bytes came last */

    uint64_t wire_counted; /* of the bytes given to TCP, how many the owner has counted */
} GwConnection;

/* @fd: transfer full. */
GwConnection *gw_connection_new(int fd, const char *peer);
/* Closes it without a word: for the peer it is a connection that was lost. */
void gw_connection_free(GwConnection *connection);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GwConnection, gw_connection_free)

/* TCP's options for a lane, before or after connecting. */
void gw_connection_tune(int fd, int64_t timeout_ms);

/* Of a connected socket, whose route may have had a say by then; NULL: it stays. */
void gw_connection_suit_link(int fd, const char *congestion);

/*
 * Sends what `sending` has left. 1: all of it, @sent is the frame, transfer full; 0: the socket
 * takes no more now; -1: the connection is gone.
 */
int gw_connection_send_some(GwConnection *connection, GwFrame **sent, GError **error);

/* A whole frame if there is one by now: 1 and @out, transfer full; 0; -1: gone, or `breached`. */
int gw_connection_receive_some(GwConnection *connection, GwFrame **out, GError **error);

bool gw_connection_shake_hands(GwConnection *connection, int stop_fd, int64_t deadline_us,
                               GError **error) GW_MUST_USE;
/* @frame: transfer full. */
bool gw_connection_send(GwConnection *connection, GwFrame *frame, int stop_fd, int64_t deadline_us,
                        GError **error) GW_MUST_USE;
GwFrame *gw_connection_receive(GwConnection *connection, int stop_fd, int64_t deadline_us,
                               GError **error) GW_MUST_USE;

/* Takes @hello to the wire; see gw_connection_send(). */
bool gw_connection_send_hello(GwConnection *connection, const GwHello *hello, int stop_fd,
                              int64_t deadline_us, GError **error) GW_MUST_USE;
/* Reads a greeting from @frame. GW_ERROR_REFUSED etc.: the peer refused, and @refused is set. */
bool gw_connection_take_hello(GwConnection *connection, const GwFrame *frame, GwHello *out,
                              bool *refused, GError **error) GW_MUST_USE;

/* Says @frame (transfer full; NULL: nothing) and waits for the end of the connection. */
void gw_connection_say_last(GwConnection *connection, GwFrame *frame, int stop_fd);
GwFrame *gw_refuse_frame(const GError *reason);

/* Tells the peer that the session is given up, as far as the socket takes it within a moment. */
void gw_connection_abandon(GwConnection *connection);
