// SPDX-License-Identifier: Apache-2.0
/*
 * UDP echo on port 7: what the network sees of a move, from outside the guest.
 *
 * One thread. Datagrams up to 2048 bytes; longer ones come back cut. A send that fails (no route
 * yet, queue full) is left to the asker's next datagram, as UDP promises nothing.
 */
#include "witness.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

#define PORT 7

static atomic_ullong echoed;

static void *
run(void *data)
{
    int fd = *(int *)data;
    free(data);
    for (;;) {
        char buffer[2048];
        struct sockaddr_storage peer;
        socklen_t peer_len = sizeof peer;
        ssize_t len = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &peer_len);
        if (len >= 0 && sendto(fd, buffer, (size_t)len, 0, (struct sockaddr *)&peer, peer_len) >= 0)
            atomic_fetch_add(&echoed, 1);
    }
    return NULL;
}

void
echo_start(void)
{
    struct sockaddr_in here = {
        .sin_family = AF_INET,
        .sin_port = htons(PORT),
        .sin_addr.s_addr = htonl(INADDR_ANY),
    };
    int *fd = malloc(sizeof *fd);
    if (!fd || (*fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0 ||
        bind(*fd, (struct sockaddr *)&here, sizeof here) < 0) {
        perror("witness: UDP echo");
        exit(1);
    }
    witness_thread(run, fd);
}

uint64_t
echo_count(void)
{
    return atomic_load(&echoed);
}
