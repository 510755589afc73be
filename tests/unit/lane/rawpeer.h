// SPDX-License-Identifier: Apache-2.0
/*
 * A peer that says whatever a test wants: TLS as a host with these certificates would, frames made
 * by hand. It runs in a thread of its own, blocking, while the main thread runs the lane.
 */
#pragma once

#include "lane/frame.h"

#include <gnutls/gnutls.h>

typedef struct RawPeer {
    int fd;
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    uint64_t sequence;
    gnutls_alert_description_t alert; /* received, if a call failed for one */
    GwHello answer;                   /* to raw_greet() */
    bool dies;                        /* closes without a word */
} RawPeer;

/* A listening TCP socket on 127.0.0.1. */
int raw_listen(uint16_t *port);
int raw_connect_tcp(uint16_t port);

/*
 * Takes over @fd; no check of the other side. @name NULL: no certificate. False: the handshake
 * failed; the peer must be closed nevertheless.
 */
bool raw_open(RawPeer *peer, int fd, bool server, const char *dir, const char *ca,
              const char *name);
void raw_close(RawPeer *peer);

/* The greeting from the side that connected, and the waiting for the answer to it. */
bool raw_greet(RawPeer *peer);
bool raw_greet_with(RawPeer *peer, const GwHello *hello, GwHello *answer);

bool raw_send(RawPeer *peer, const void *data, size_t len);
/* Ordered types get the next sequence. */
bool raw_send_frame(RawPeer *peer, GwFrameType type, const void *payload, size_t len);
/* The next frame of @type, others are skipped; the payload, transfer full, or NULL. */
GByteArray *raw_expect(RawPeer *peer, GwFrameType type);
/* The next frame of @refusal, or NULL at the next of @other; a greeting before goes to @hello. */
GByteArray *raw_expect_either(RawPeer *peer, GwFrameType refusal, GwFrameType other,
                              GwHello *hello);
