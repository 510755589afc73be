// SPDX-License-Identifier: Apache-2.0
/*
 * A TCP relay on loopback with accidents: between a lane's two sides, in a thread of its own.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Proxy Proxy;

/* Listens at @address (127.x.y.z), @port (0: any), and relays to 127.0.0.1 @target_port. */
Proxy *proxy_new(const char *address, uint16_t port, uint16_t target_port);
void proxy_free(Proxy *proxy);
uint16_t proxy_port(Proxy *proxy);

/* All connections break now; half of the time as resets, else as ends without a word. */
void proxy_cut(Proxy *proxy);
/* Every connection breaks after @min to @max bytes (both ways, uniform); 0: none does. */
void proxy_cut_after(Proxy *proxy, uint32_t seed, uint64_t min, uint64_t max);
/* New connections carry at most so many bytes a second each way; 0: as many as they can. */
void proxy_limit(Proxy *proxy, uint64_t bytes_s);
/* Nothing is relayed, nothing breaks. */
void proxy_stall(Proxy *proxy, bool on);
/* New connections are closed at once. */
void proxy_refuse(Proxy *proxy, bool on);
void proxy_set_target(Proxy *proxy, uint16_t target_port);

unsigned proxy_cuts(Proxy *proxy);
unsigned proxy_connections(Proxy *proxy);
