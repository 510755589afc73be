// SPDX-License-Identifier: Apache-2.0
/* A relay that breaks, stalls and refuses on demand. */
#include "proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_PAIRS 24

/* Bytes on their way from one socket to the other. */
typedef struct Way {
    int from, to;
    uint8_t buffer[32768];
    size_t have, done;
    bool ended; /* and the other side has been told */
} Way;

typedef struct Pair {
    bool used;
    Way ways[2];
    uint64_t bytes_left;
} Pair;

struct Proxy {
    int listen_fd;
    int wake_fd;
    uint16_t port;
    GThread *thread;
    Pair pairs[MAX_PAIRS];
    GRand *random;

    pthread_mutex_t lock; /* which thread sanitizers understand */
    uint16_t target_port;
    bool stop, cut, stalled, refusing;
    uint64_t cut_min, cut_max;
    uint64_t limit_bytes_s;
    unsigned n_cuts, n_connections;
};

static void
close_pair(Proxy *proxy, Pair *pair, bool reset)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};

    for (unsigned i = 0; i < 2; i++) {
        if (reset) {
            setsockopt(pair->ways[i].from, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        }
        close(pair->ways[i].from);
    }
    pair->used = false;
}

static void
cut_pair(Proxy *proxy, Pair *pair)
{
    close_pair(proxy, pair, g_rand_boolean(proxy->random));
    proxy->n_cuts++;
}

/* The kernel paces what it sends, and takes little ahead. */
static void
pace(int fd, uint64_t bytes_s)
{
    int buffer_bytes = 65536;

    setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &bytes_s, sizeof(bytes_s));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes));
}

static void
accept_one(Proxy *proxy)
{
    int on = 1;
    int fd = accept4(proxy->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(proxy->target_port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    unsigned i = 0;

    if (fd < 0) {
        return;
    }
    while (i < MAX_PAIRS && proxy->pairs[i].used) {
        i++;
    }
    int out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (i == MAX_PAIRS || proxy->refusing ||
        connect(out, (struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        close(out);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (proxy->limit_bytes_s > 0) {
        pace(fd, proxy->limit_bytes_s);
        pace(out, proxy->limit_bytes_s);
    }
    Pair *pair = &proxy->pairs[i];

    pair->used = true;
    pair->ways[0].from = pair->ways[1].to = fd;
    pair->ways[0].to = pair->ways[1].from = out;
    for (unsigned k = 0; k < 2; k++) {
        pair->ways[k].have = pair->ways[k].done = 0;
        pair->ways[k].ended = false;
    }
    pair->bytes_left = G_MAXUINT64;
    if (proxy->cut_max > 0) {
        double span = (double)(proxy->cut_max - proxy->cut_min);

        pair->bytes_left = proxy->cut_min + (uint64_t)(g_rand_double(proxy->random) * span);
    }
    proxy->n_connections++;
}

/* False: the connection broke. Who has nothing more to say may still listen. */
static bool
relay(Pair *pair, Way *way)
{
    if (way->ended || pair->bytes_left == 0) {
        return true;
    }
    if (way->done == way->have) {
        ssize_t n =
            recv(way->from, way->buffer, MIN(sizeof(way->buffer), pair->bytes_left), MSG_DONTWAIT);

        if (n < 0 && errno != EAGAIN) {
            return false;
        }
        if (n == 0) {
            shutdown(way->to, SHUT_WR);
            way->ended = true;
        }
        way->have = n > 0 ? (size_t)n : 0;
        way->done = 0;
        pair->bytes_left -= way->have;
    }
    if (way->done < way->have) {
        ssize_t n = send(way->to, way->buffer + way->done, way->have - way->done,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN) {
            return false;
        }
        way->done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void
serve(Proxy *proxy)
{
    for (unsigned i = 0; i < MAX_PAIRS; i++) {
        Pair *pair = &proxy->pairs[i];

        if (!pair->used) {
            continue;
        }
        if (proxy->cut) {
            cut_pair(proxy, pair);
        } else if (proxy->stalled) {
            continue;
        } else if (!relay(pair, &pair->ways[0]) || !relay(pair, &pair->ways[1])) {
            close_pair(proxy, pair, false);
        } else if (pair->bytes_left == 0) {
            cut_pair(proxy, pair);
        } else if (pair->ways[0].ended && pair->ways[1].ended) {
            close_pair(proxy, pair, false);
        }
    }
    proxy->cut = false;
}

static void *
run(void *data)
{
    Proxy *proxy = data;

    pthread_mutex_lock(&proxy->lock);
    while (!proxy->stop) {
        struct pollfd fds[2 + 2 * MAX_PAIRS] = {{.fd = proxy->wake_fd, .events = POLLIN},
                                                {.fd = proxy->listen_fd, .events = POLLIN}};
        nfds_t n = 2;
        eventfd_t count;

        for (unsigned i = 0; i < MAX_PAIRS && !proxy->stalled; i++) {
            for (unsigned k = 0; k < 2 && proxy->pairs[i].used; k++) {
                const Way *way = &proxy->pairs[i].ways[k];
                bool waits = way->done < way->have;

                fds[n++] = (struct pollfd){.fd = way->ended ? -1
                                                 : waits    ? way->to
                                                            : way->from,
                                           .events = waits ? POLLOUT : POLLIN};
            }
        }
        pthread_mutex_unlock(&proxy->lock);
        poll(fds, n, -1);
        pthread_mutex_lock(&proxy->lock);
        if (fds[0].revents) {
            eventfd_read(proxy->wake_fd, &count);
        }
        if (fds[1].revents) {
            accept_one(proxy);
        }
        serve(proxy);
    }
    pthread_mutex_unlock(&proxy->lock);
    return NULL;
}

Proxy *
proxy_new(const char *address, uint16_t port, uint16_t target_port)
{
    Proxy *proxy = g_new0(Proxy, 1);
    struct sockaddr_in native = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof(native);
    int on = 1;

    inet_pton(AF_INET, address, &native.sin_addr);
    proxy->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(proxy->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    g_assert_cmpint(bind(proxy->listen_fd, (struct sockaddr *)&native, len), ==, 0);
    g_assert_cmpint(listen(proxy->listen_fd, 16), ==, 0);
    g_assert_cmpint(getsockname(proxy->listen_fd, (struct sockaddr *)&native, &len), ==, 0);
    proxy->port = ntohs(native.sin_port);
    proxy->target_port = target_port;
    proxy->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    proxy->random = g_rand_new_with_seed(1);
    pthread_mutex_init(&proxy->lock, NULL);
    proxy->thread = g_thread_new("proxy", run, proxy);
    return proxy;
}

static void
wake(Proxy *proxy)
{
    eventfd_write(proxy->wake_fd, 1);
}

void
proxy_free(Proxy *proxy)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->stop = true;
    pthread_mutex_unlock(&proxy->lock);
    wake(proxy);
    g_thread_join(proxy->thread);
    for (unsigned i = 0; i < MAX_PAIRS; i++) {
        if (proxy->pairs[i].used) {
            close_pair(proxy, &proxy->pairs[i], false);
        }
    }
    close(proxy->listen_fd);
    close(proxy->wake_fd);
    g_rand_free(proxy->random);
    pthread_mutex_destroy(&proxy->lock);
    g_free(proxy);
}

uint16_t
proxy_port(Proxy *proxy)
{
    return proxy->port;
}

void
proxy_cut(Proxy *proxy)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->cut = true;
    pthread_mutex_unlock(&proxy->lock);
    wake(proxy);
}

void
proxy_cut_after(Proxy *proxy, uint32_t seed, uint64_t min, uint64_t max)
{
    pthread_mutex_lock(&proxy->lock);
    g_rand_set_seed(proxy->random, seed);
    proxy->cut_min = min;
    proxy->cut_max = max;
    pthread_mutex_unlock(&proxy->lock);
}

void
proxy_limit(Proxy *proxy, uint64_t bytes_s)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->limit_bytes_s = bytes_s;
    pthread_mutex_unlock(&proxy->lock);
}

void
proxy_stall(Proxy *proxy, bool on)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->stalled = on;
    pthread_mutex_unlock(&proxy->lock);
    wake(proxy);
}

void
proxy_refuse(Proxy *proxy, bool on)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->refusing = on;
    pthread_mutex_unlock(&proxy->lock);
}

void
proxy_set_target(Proxy *proxy, uint16_t target_port)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->target_port = target_port;
    pthread_mutex_unlock(&proxy->lock);
}

unsigned
proxy_cuts(Proxy *proxy)
{
    pthread_mutex_lock(&proxy->lock);
    unsigned n_cuts = proxy->n_cuts;
    pthread_mutex_unlock(&proxy->lock);
    return n_cuts;
}

unsigned
proxy_connections(Proxy *proxy)
{
    pthread_mutex_lock(&proxy->lock);
    unsigned n_connections = proxy->n_connections;
    pthread_mutex_unlock(&proxy->lock);
    return n_connections;
}
