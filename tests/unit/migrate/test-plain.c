// SPDX-License-Identifier: Apache-2.0
/*
 * The plain transport's connection, without QEMU: who is let in and who is not, what is waited for
 * and how long, and that nothing is left of a door or a call that was given up.
 */
#include "base/fd.h"
#include "support.h"

#include <dirent.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define WRONG "0000000000000000000000000000000000000000000000000000000000000000"

typedef struct Rig {
    Bench bench;
    GwNetworks *networks;
    GwMove *move;
    GwPlainDoor *door;
    GwPlainCall *call;
    struct sockaddr_storage place; /* the door's */
    unsigned n_told;               /* of the door */
    GwFd fd;
    GError *error;
    unsigned n_called; /* ... and of the call */
    GwFd call_fd;
    GError *call_error;
} Rig;

static struct sockaddr_storage
loopback(void)
{
    struct sockaddr_storage at = {0};

    *(struct sockaddr_in *)&at =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return at;
}

static void
rig_init(Rig *rig)
{
    *rig = (Rig){.fd = GW_FD_NONE, .call_fd = GW_FD_NONE, .place = loopback()};
    bench_init(&rig->bench, NULL);
    rig->networks = gw_networks_parse("127.0.0.0/8", NULL);
    rig->bench.moves->options.plain_networks = rig->networks;
    rig->bench.moves->options.direct_port_min = 49410;
    rig->bench.moves->options.direct_port_max = 49450;
    rig->move = gw_move_new(rig->bench.moves, &gw_source_role,
                            json_pack("{s:s, s:s, s:s, s:s}", "id", "m-0123456789ab", "vm", "web",
                                      "target", "beta", "state", "prepared"));
    gw_moves_add(rig->bench.moves, rig->move);
}

static void
rig_clear(Rig *rig)
{
    gw_plain_door_free(rig->door);
    gw_plain_call_free(rig->call);
    gw_fd_clear(&rig->fd);
    gw_fd_clear(&rig->call_fd);
    g_clear_error(&rig->error);
    g_clear_error(&rig->call_error);
    bench_clear(&rig->bench);
    gw_networks_free(rig->networks);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

static void
on_door(GwFd fd, const GError *error, void *data)
{
    Rig *rig = data;

    rig->n_told++;
    rig->fd = fd;
    rig->error = error ? g_error_copy(error) : NULL;
    g_clear_pointer(&rig->door, gw_plain_door_free);
}

static void
on_call(GwFd fd, const GError *error, void *data)
{
    Rig *rig = data;

    rig->n_called++;
    rig->call_fd = fd;
    rig->call_error = error ? g_error_copy(error) : NULL;
    g_clear_pointer(&rig->call, gw_plain_call_free);
}

static void
open_door(Rig *rig)
{
    struct sockaddr_storage at = loopback();
    g_autoptr(GError) error = NULL;

    rig->door = gw_plain_door_new(rig->move, &at, on_door, rig, &error);
    g_assert_no_error(error);
    gw_sockaddr_set_port(&rig->place, gw_plain_door_port(rig->door));
}

static void
call(Rig *rig, const char *key)
{
    g_autoptr(GError) error = NULL;

    rig->call = gw_plain_call_new(rig->move, &rig->place, key, on_call, rig, &error);
    g_assert_no_error(error);
}

/* Somebody else at the door. */
static GwFd
knock(Rig *rig, const char *text)
{
    GwFd fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&rig->place, gw_sockaddr_len(&rig->place)), ==,
                    0);
    g_assert_true(gw_fd_write_full(fd, text, strlen(text)));
    return fd;
}

/* Nothing more comes from it. */
static bool
is_closed(GwFd fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno == ECONNRESET);
}

static unsigned
count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(dir)) {
        n++;
    }
    closedir(dir);
    return n;
}

/* The key is taken off, and not a byte of what follows it. */
static void
test_meet(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    char got[4] = "";

    open_door(&rig);
    call(&rig, gw_plain_door_key(rig.door));
    WAIT_FOR(rig.n_called && rig.n_told);
    g_assert_no_error(rig.error);
    g_assert_no_error(rig.call_error);
    g_assert_true(gw_fd_write_full(rig.call_fd, "QEVM", 4));
    g_assert_cmpint(gw_fd_read_full(rig.fd, got, 4), ==, 4);
    g_assert_cmpmem(got, 4, "QEVM", 4);
    g_assert_null(rig.door);
    g_assert_null(rig.call);
}

/* In pieces, and with QEMU's first bytes behind it. */
static void
test_key_in_pieces(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    char got[4] = "";

    open_door(&rig);
    g_autofree char *key = g_strdup(gw_plain_door_key(rig.door));
    g_autofree char *half = g_strndup(key, 32);
    g_auto(GwFd) fd = knock(&rig, half);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_assert_true(gw_fd_write_full(fd, key + 32, 32) && gw_fd_write_full(fd, "QEVM", 4));
    WAIT_FOR(rig.n_told);
    g_assert_cmpint(gw_fd_read_full(rig.fd, got, 4), ==, 4);
    g_assert_cmpmem(got, 4, "QEVM", 4);
}

/* They are closed, and do not keep the right one out. */
static void
test_wrong_callers(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    open_door(&rig);
    g_auto(GwFd) wrong = knock(&rig, WRONG "QEVM");
    g_auto(GwFd) silent = knock(&rig, "");
    g_auto(GwFd) short_one = knock(&rig, "0000");
    shutdown(short_one, SHUT_WR);
    WAIT_FOR(is_closed(wrong) && is_closed(short_one));
    g_assert_false(is_closed(silent));
    g_assert_cmpuint(rig.n_told, ==, 0);
    call(&rig, gw_plain_door_key(rig.door));
    WAIT_FOR(rig.n_told);
    g_assert_no_error(rig.error);
    g_assert_cmpint(rig.fd, >=, 0);
    WAIT_FOR(is_closed(silent));
}

/* As many silent ones as there may be at once: the next is heard when they were turned away. */
static void
test_silent_callers(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwFd silent[4];

    open_door(&rig);
    for (unsigned i = 0; i < G_N_ELEMENTS(silent); i++) {
        silent[i] = knock(&rig, "");
    }
    call(&rig, gw_plain_door_key(rig.door));
    WAIT_FOR(rig.n_told);
    g_assert_no_error(rig.error);
    for (unsigned i = 0; i < G_N_ELEMENTS(silent); i++) {
        WAIT_FOR(is_closed(silent[i]));
        gw_fd_close(silent[i]);
    }
}

static void
test_too_many(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    open_door(&rig);
    for (unsigned i = 0; i < 16; i++) {
        g_auto(GwFd) fd = knock(&rig, WRONG);
        WAIT_FOR(is_closed(fd));
    }
    g_assert_cmpuint(rig.n_told, ==, 1);
    g_assert_error(rig.error, GW_ERROR, GW_ERROR_TIMEOUT);
    g_assert_nonnull(strstr(rig.error->message, "--transport lane"));
    g_assert_null(rig.door);
}

/* The network may have been another when the session was asked. */
static void
test_from_elsewhere(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    open_door(&rig);
    rig.bench.moves->options.plain_networks = NULL;
    call(&rig, gw_plain_door_key(rig.door));
    WAIT_FOR(rig.n_called);
    WAIT_FOR(is_closed(rig.call_fd));
    g_assert_cmpuint(rig.n_told, ==, 0);
}

static void
test_nobody_comes(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    rig.bench.moves->options.connect_timeout_ms = 50;
    open_door(&rig);
    WAIT_FOR(rig.n_told);
    g_assert_error(rig.error, GW_ERROR, GW_ERROR_TIMEOUT);
    g_assert_nonnull(strstr(rig.error->message, "did not come in time"));
}

/* Nobody listens; or nobody takes what waits, so that connecting takes for ever. */
static void
test_no_answer(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwFd queued[8];
    struct sockaddr_storage at = loopback();
    uint16_t port = 0;

    gw_sockaddr_set_port(&rig.place, 49409);
    call(&rig, WRONG);
    WAIT_FOR(rig.n_called);
    g_assert_error(rig.call_error, GW_ERROR, GW_ERROR_UNREACHABLE);
    g_assert_nonnull(strstr(rig.call_error->message, "VM 'web': no connection"));
    g_assert_nonnull(strstr(rig.call_error->message, "'beta' at 127.0.0.1 port 49409"));
    g_clear_error(&rig.call_error);

    g_auto(GwFd) deaf = gw_direct_open_door(&rig.bench.moves->options, &at, &port, NULL);
    g_assert_cmpint(deaf, >=, 0);
    gw_sockaddr_set_port(&rig.place, port);
    for (unsigned i = 0; i < G_N_ELEMENTS(queued); i++) {
        queued[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)!connect(queued[i], (struct sockaddr *)&rig.place, gw_sockaddr_len(&rig.place));
    }
    rig.bench.moves->options.connect_timeout_ms = 100;
    call(&rig, WRONG);
    WAIT_FOR(rig.n_called == 2);
    g_assert_error(rig.call_error, GW_ERROR, GW_ERROR_UNREACHABLE);
    for (unsigned i = 0; i < G_N_ELEMENTS(queued); i++) {
        gw_fd_close(queued[i]);
    }
}

/* Freed at any moment: nothing is told, nothing stays open. */
static void
test_freed(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);

    while (g_main_context_iteration(NULL, FALSE)) {
    }
    unsigned before = count_descriptors();
    for (unsigned i = 0; i < 12; i++) {
        open_door(&rig);
        g_auto(GwFd) fd = knock(&rig, "0000");
        g_assert_cmpint(fd, >=, 0);
        if (i > 5) {
            call(&rig, WRONG);
        }
        for (unsigned n = 0; n < i % 6; n++) {
            g_main_context_iteration(NULL, FALSE);
        }
        g_clear_pointer(&rig.call, gw_plain_call_free);
        g_clear_pointer(&rig.door, gw_plain_door_free);
        gw_fd_clear(&rig.call_fd);
    }
    g_assert_cmpuint(count_descriptors(), ==, before);
    g_assert_cmpuint(rig.n_told, ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/plain/meet", test_meet);
    g_test_add_func("/plain/key-in-pieces", test_key_in_pieces);
    g_test_add_func("/plain/wrong-callers", test_wrong_callers);
    g_test_add_func("/plain/silent-callers", test_silent_callers);
    g_test_add_func("/plain/too-many", test_too_many);
    g_test_add_func("/plain/from-elsewhere", test_from_elsewhere);
    g_test_add_func("/plain/nobody-comes", test_nobody_comes);
    g_test_add_func("/plain/no-answer", test_no_answer);
    g_test_add_func("/plain/freed", test_freed);
    return g_test_run();
}
