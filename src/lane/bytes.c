// SPDX-License-Identifier: Apache-2.0
/*
 * The bytes thread: byte channels between sockets of this host and the peer.
 *
 * Owns the channels' sockets, from gw_bytes_open() on; all are closed when the thread ends, which
 * is when the session is over: that is how QEMU learns of it. It reads what sockets yield into
 * urgent frames while the urgent window has room, and writes urgent frames of the peer, in order
 * and one at a time, to the sockets: a socket that takes nothing holds back the frames behind it.
 * A frame is acknowledged when its bytes were written, or dropped because the socket's other end is
 * gone. Memory: one frame of GW_BYTES_MAX_BYTES beside outbox and inbox.
 *
 * Fails by ending the session with GW_ERROR_PROTOCOL if the peer sends bytes of a channel that it
 * has not opened, or has ended.
 */
#include "base/units.h"
#include "lane/session.h"
#include "lane/wake.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define N_REQUESTS 255u

typedef struct ByteChannel {
    GwFd fd; /* GW_FD_NONE: not opened here */
    unsigned ways;
    bool sends;       /* what the socket yields; its end has not come yet */
    bool broken;      /* the socket takes no more: what comes for it is dropped */
    bool peer_opened; /* the peer has said OPEN */
    bool peer_ended;  /* ... END */
} ByteChannel;

struct GwBytes {
    GwLane *lane;
    pthread_t thread;
    bool runs;

    /* --- under `lock`: from the main context to the thread --- */
    pthread_mutex_t lock;
    ByteChannel handed[GW_CHANNEL_N_BYTES];

    /* --- main context --- */
    unsigned opened; /* a bit for each channel */

    /* --- thread --- */
    ByteChannel channels[GW_CHANNEL_N_BYTES];
    GwFrame *frame;   /* being written; NULL: none */
    size_t written;   /* of its payload */
    bool blocked;     /* its socket takes no more now */
    int64_t asked_us; /* the oldest page request that was not answered; 0: none is out */
    unsigned n_requests;
    uint32_t request_us[N_REQUESTS]; /* a ring */
    int64_t cpu_us;
};

/* --- to the peer ------------------------------------------------------------------------------ */

static void
push_empty(GwBytes *bytes, unsigned index, GwFrameType type)
{
    GwFrame *frame =
        gw_frame_new_with(bytes->lane->pool, type, &(GByteArray){.data = NULL, .len = 0});

    frame->header.channel = (uint16_t)(GW_CHANNEL_FIRST_BYTES + index);
    gw_outbox_push(bytes->lane->urgent_outbox, frame);
}

/* One read of the channel's socket. False: it yields nothing now. */
static bool
send_some(GwBytes *bytes, unsigned index)
{
    ByteChannel *channel = &bytes->channels[index];
    uint8_t buffer[GW_BYTES_MAX_BYTES];
    ssize_t n = recv(channel->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

    if (n > 0) {
        GByteArray payload = {.data = buffer, .len = (guint)n};
        GwFrame *frame = gw_frame_new_with(bytes->lane->pool, GW_FRAME_BYTES, &payload);

        frame->causes = (GwFrameCauses){.opaque_bytes = (uint32_t)n};
        frame->header.channel = (uint16_t)(GW_CHANNEL_FIRST_BYTES + index);
        gw_outbox_push(bytes->lane->urgent_outbox, frame);
        if (index + GW_CHANNEL_FIRST_BYTES == GW_CHANNEL_RETURN_PATH && bytes->asked_us == 0) {
            bytes->asked_us = gw_now_us();
        }
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return false;
    }
    channel->sends = false;
    push_empty(bytes, index, GW_FRAME_END);
    return false;
}

static void
send_all(GwBytes *bytes)
{
    for (unsigned i = 0; i < GW_CHANNEL_N_BYTES; i++) {
        while (bytes->channels[i].sends && gw_outbox_has_room(bytes->lane->urgent_outbox) &&
               send_some(bytes, i)) {
        }
    }
}

/* --- figures ---------------------------------------------------------------------------------- */

static int
by_value(const void *a, const void *b)
{
    const uint32_t *left = a, *right = b;

    return (*left > *right) - (*left < *right);
}

/*
 * How long a page request took is seen where QEMU asks. Of several at once the first counts; what
 * else goes over the return path is rare.
 */
static void
note_answer(GwBytes *bytes)
{
    uint32_t sorted[N_REQUESTS];
    GwLaneStats *stats = &bytes->lane->stats;

    if (bytes->asked_us == 0) {
        return;
    }
    int64_t took_us = MIN(gw_now_us() - bytes->asked_us, (int64_t)UINT32_MAX);

    bytes->request_us[bytes->n_requests++ % N_REQUESTS] = (uint32_t)took_us;
    bytes->asked_us = 0;
    unsigned n = MIN(bytes->n_requests, N_REQUESTS);
    memcpy(sorted, bytes->request_us, n * sizeof(sorted[0]));
    qsort(sorted, n, sizeof(sorted[0]), by_value);
    pthread_mutex_lock(&bytes->lane->lock);
    stats->requests = bytes->n_requests;
    stats->request_us = sorted[n / 2];
    pthread_mutex_unlock(&bytes->lane->lock);
}

/* --- from the peer ---------------------------------------------------------------------------- */

static bool
breach(GwBytes *bytes, const char *what)
{
    gw_lane_end(bytes->lane,
                g_error_new(GW_ERROR, GW_ERROR_PROTOCOL,
                            "the peer sent a %s frame of a byte "
                            "channel that %s",
                            gw_frame_type_name(bytes->frame->header.type), what),
                true);
    return false;
}

static void
take_open(GwBytes *bytes, ByteChannel *channel)
{
    channel->peer_opened = true;
    if (channel->fd < 0) {
        gw_lane_post(bytes->lane,
                     (GwLaneEvent){.kind = GW_LANE_EVENT_OPENED,
                                   .channel = (GwChannel)bytes->frame->header.channel});
    }
}

/* True: the frame is dealt with. */
static bool
write_payload(GwBytes *bytes, ByteChannel *channel)
{
    const GwFrame *frame = bytes->frame;

    while (!channel->broken && bytes->written < frame->header.payload_bytes) {
        ssize_t n = send(channel->fd, gw_frame_payload(frame) + bytes->written,
                         frame->header.payload_bytes - bytes->written, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            bytes->written += (size_t)n;
        } else if (errno == EAGAIN) {
            bytes->blocked = true;
            return false;
        } else if (errno != EINTR) {
            channel->broken = true;
        }
    }
    return true;
}

/* True: the frame is dealt with. */
static bool
take_frame(GwBytes *bytes)
{
    ByteChannel *channel = &bytes->channels[bytes->frame->header.channel - GW_CHANNEL_FIRST_BYTES];

    if (bytes->frame->header.type == GW_FRAME_OPEN) {
        if (channel->peer_opened) {
            return breach(bytes, "is open already");
        }
        take_open(bytes, channel);
        return true;
    }
    if (!channel->peer_opened || channel->peer_ended) {
        return breach(bytes, channel->peer_opened ? "has ended" : "was not opened");
    }
    if (channel->fd < 0) {
        return false; /* the owner has been told, and will open it */
    }
    if (!(channel->ways & GW_LANE_BYTES_WRITE)) {
        return breach(bytes, "goes the other way");
    }
    if (bytes->frame->header.type == GW_FRAME_END) {
        channel->peer_ended = true;
        shutdown(channel->fd, SHUT_WR);
        return true;
    }
    if (bytes->frame->header.channel == GW_CHANNEL_PREEMPT && bytes->written == 0) {
        note_answer(bytes);
    }
    return write_payload(bytes, channel);
}

static void
take_all(GwBytes *bytes)
{
    GwInbox *inbox = bytes->lane->urgent_inbox;

    bytes->blocked = false;
    while (bytes->frame || (bytes->frame = gw_inbox_try_take(inbox))) {
        if (!take_frame(bytes)) {
            return;
        }
        gw_inbox_handled(inbox, bytes->frame->header.sequence);
        g_clear_pointer(&bytes->frame, gw_frame_free);
        bytes->written = 0;
    }
}

/* --- the thread ------------------------------------------------------------------------------- */

static void
take_handed(GwBytes *bytes)
{
    for (unsigned i = 0; i < GW_CHANNEL_N_BYTES; i++) {
        ByteChannel *channel = &bytes->channels[i];

        pthread_mutex_lock(&bytes->lock);
        ByteChannel handed = bytes->handed[i];
        bytes->handed[i].fd = GW_FD_NONE;
        pthread_mutex_unlock(&bytes->lock);
        if (handed.fd >= 0) {
            channel->fd = handed.fd;
            channel->ways = handed.ways;
            channel->sends = (handed.ways & GW_LANE_BYTES_READ) != 0;
            push_empty(bytes, i, GW_FRAME_OPEN);
        }
    }
}

/* False: the session is over. */
static bool
wait_for_work(GwBytes *bytes)
{
    struct pollfd fds[2 + GW_CHANNEL_N_BYTES] = {
        {.fd = bytes->lane->cut_fd, .events = POLLIN},
        {.fd = bytes->lane->bytes_fd, .events = POLLIN},
    };
    bool has_room = gw_outbox_has_room(bytes->lane->urgent_outbox);

    for (unsigned i = 0; i < GW_CHANNEL_N_BYTES; i++) {
        const ByteChannel *channel = &bytes->channels[i];
        bool writes = bytes->blocked && bytes->frame &&
                      bytes->frame->header.channel == GW_CHANNEL_FIRST_BYTES + i;

        fds[2 + i].events =
            (short)((channel->sends && has_room ? POLLIN : 0) | (writes ? POLLOUT : 0));
        /* Not at all without events: a hang-up would be reported again and again. */
        fds[2 + i].fd = fds[2 + i].events ? channel->fd : GW_FD_NONE;
    }
    if (poll(fds, G_N_ELEMENTS(fds), -1) > 0 && fds[1].revents) {
        gw_wake_lower(bytes->lane->bytes_fd);
    }
    return fds[0].revents == 0;
}

static void *
bytes_thread(void *data)
{
    GwBytes *bytes = data;

    do {
        take_handed(bytes);
        take_all(bytes);
        send_all(bytes);
        gw_lane_count_cpu(bytes->lane, &bytes->cpu_us);
    } while (wait_for_work(bytes));
    for (unsigned i = 0; i < GW_CHANNEL_N_BYTES; i++) {
        gw_fd_clear(&bytes->channels[i].fd);
    }
    return NULL;
}

/* --- main context ----------------------------------------------------------------------------- */

GwBytes *
gw_bytes_new(GwLane *lane, GError **error)
{
    GwBytes *bytes = g_new0(GwBytes, 1);

    bytes->lane = lane;
    pthread_mutex_init(&bytes->lock, NULL);
    for (unsigned i = 0; i < GW_CHANNEL_N_BYTES; i++) {
        bytes->handed[i].fd = bytes->channels[i].fd = GW_FD_NONE;
    }
    bytes->runs = gw_lane_start_thread(&bytes->thread, bytes_thread, bytes, "gw-lane-bytes", error);
    if (!bytes->runs) {
        gw_bytes_free(bytes);
        return NULL;
    }
    return bytes;
}

bool
gw_bytes_open(GwBytes *bytes, GwChannel channel, int fd, unsigned ways, GError **error)
{
    unsigned index = (unsigned)channel - GW_CHANNEL_FIRST_BYTES;
    g_auto(GwFd) owned = fd;

    if (bytes->opened >> index & 1) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "byte channel %u is open already", index);
        return false;
    }
    bytes->opened |= 1u << index;
    pthread_mutex_lock(&bytes->lock);
    bytes->handed[index] = (ByteChannel){.fd = g_steal_fd(&owned), .ways = ways};
    pthread_mutex_unlock(&bytes->lock);
    gw_wake_raise(bytes->lane->bytes_fd);
    return true;
}

void
gw_bytes_join(GwBytes *bytes)
{
    if (bytes->runs) {
        pthread_join(bytes->thread, NULL);
        bytes->runs = false;
    }
}

void
gw_bytes_free(GwBytes *bytes)
{
    if (!bytes) {
        return;
    }
    for (unsigned i = 0; i < GW_CHANNEL_N_BYTES; i++) {
        gw_fd_clear(&bytes->handed[i].fd);
        gw_fd_clear(&bytes->channels[i].fd);
    }
    gw_frame_free(bytes->frame);
    pthread_mutex_destroy(&bytes->lock);
    g_free(bytes);
}
