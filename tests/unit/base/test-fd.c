// SPDX-License-Identifier: Apache-2.0
/* Descriptors, whole reads and writes, Unix sockets, files that are replaced whole. */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static char *folder;

/* Transfer full. */
static char *
path_of(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static bool
is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void
test_auto_close(void)
{
    int number;
    {
        g_auto(GwFd) fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        number = fd;
        g_assert_true(is_open(number));
        errno = ENOSPC;
    }
    g_assert_cmpint(errno, ==, ENOSPC);
    g_assert_false(is_open(number));

    GwFd fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    gw_fd_clear(&fd);
    g_assert_cmpint(fd, ==, GW_FD_NONE);
    gw_fd_clear(&fd);
}

static void
set_pair(GwFd pair[2])
{
    g_autoptr(GError) error = NULL;

    g_assert_true(gw_fd_socketpair(pair, &error));
    g_assert_no_error(error);
    g_assert_true(fcntl(pair[0], F_GETFD) & FD_CLOEXEC);
    g_assert_true(fcntl(pair[1], F_GETFD) & FD_CLOEXEC);
}

typedef struct Sender {
    int fd;
    const uint8_t *data;
    size_t len;
} Sender;

/* Many small writes, so that the reader sees partial reads. */
static void *
send_in_pieces(void *data)
{
    const Sender *sender = data;

    for (size_t done = 0; done < sender->len;) {
        const size_t piece = MIN(1 + done % 777, sender->len - done);
        g_assert_true(gw_fd_write_full(sender->fd, sender->data + done, piece));
        done += piece;
    }
    shutdown(sender->fd, SHUT_WR);
    return NULL;
}

static void
test_read_full(void)
{
    g_auto(GwFd) left = GW_FD_NONE;
    g_auto(GwFd) right = GW_FD_NONE;
    GwFd pair[2];
    const size_t len = 300000;
    g_autofree uint8_t *sent = g_malloc(len);
    g_autofree uint8_t *got = g_malloc0(len);

    set_pair(pair);
    left = pair[0];
    right = pair[1];
    for (size_t i = 0; i < len; i++) {
        sent[i] = (uint8_t)(i * 31);
    }
    Sender sender = {left, sent, len};
    GThread *thread = g_thread_new("sender", send_in_pieces, &sender);
    g_assert_cmpint(gw_fd_read_full(right, got, len - 10), ==, (ssize_t)len - 10);
    /* Short only at the end of the file. */
    g_assert_cmpint(gw_fd_read_full(right, got + len - 10, 100), ==, 10);
    g_assert_cmpint(gw_fd_read_full(right, got, 1), ==, 0);
    g_thread_join(thread);
    g_assert_cmpint(memcmp(sent, got, len), ==, 0);
}

/* A write larger than the socket's buffer into a slow reader, with signals that interrupt it. */
static void
ignore_signal(int number)
{
    (void)number;
}

typedef struct Reader {
    int fd;
    pthread_t writer;
    size_t total;
} Reader;

static void *
read_and_disturb(void *data)
{
    Reader *reader = data;
    uint8_t buffer[4096];
    ssize_t count;

    while ((count = read(reader->fd, buffer, sizeof buffer)) > 0) {
        reader->total += (size_t)count;
        if (reader->total % (64 * sizeof buffer) < sizeof buffer) {
            pthread_kill(reader->writer, SIGUSR1);
        }
    }
    return NULL;
}

static void
test_write_full(void)
{
    /* Without SA_RESTART: the write returns short or with EINTR. */
    struct sigaction action = {.sa_handler = ignore_signal};
    struct sigaction before;
    GwFd pair[2];
    const size_t len = 8 * 1024 * 1024;
    g_autofree uint8_t *data = g_malloc0(len);

    g_assert_cmpint(sigaction(SIGUSR1, &action, &before), ==, 0);
    set_pair(pair);
    Reader reader = {pair[1], pthread_self(), 0};
    GThread *thread = g_thread_new("reader", read_and_disturb, &reader);
    g_assert_true(gw_fd_write_full(pair[0], data, len));
    gw_fd_clear(&pair[0]);
    g_thread_join(thread);
    gw_fd_clear(&pair[1]);
    g_assert_cmpuint(reader.total, ==, len);
    sigaction(SIGUSR1, &before, NULL);
}

static void
test_failures_have_errno(void)
{
    GwFd pair[2];
    uint8_t byte = 0;

    set_pair(pair);
    gw_fd_clear(&pair[1]);
    g_assert_false(gw_fd_write_full(pair[0], &byte, 1));
    g_assert_cmpint(errno, ==, EPIPE);
    gw_fd_clear(&pair[0]);
    g_assert_cmpint(gw_fd_read_full(-1, &byte, 1), ==, -1);
    g_assert_cmpint(errno, ==, EBADF);
}

static void
test_nonblocking(void)
{
    g_autoptr(GError) error = NULL;
    GwFd pair[2];
    uint8_t byte;

    set_pair(pair);
    g_assert_true(gw_fd_set_nonblocking(pair[0], true, &error));
    g_assert_cmpint(gw_fd_read_full(pair[0], &byte, 1), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
    g_assert_true(gw_fd_set_nonblocking(pair[0], false, &error));
    g_assert_false(fcntl(pair[0], F_GETFL) & O_NONBLOCK);
    gw_fd_clear(&pair[0]);
    gw_fd_clear(&pair[1]);
    g_assert_false(gw_fd_set_nonblocking(-1, true, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
}

static void
test_unix_socket(void)
{
    g_autofree char *path = path_of("socket");
    g_autoptr(GError) error = NULL;
    struct stat info;
    const mode_t mask = umask(0077);
    g_auto(GwFd) listener = gw_unix_listen(path, 0660, &error);

    umask(mask);
    g_assert_no_error(error);
    g_assert_cmpint(lstat(path, &info), ==, 0);
    g_assert_cmphex(info.st_mode & 07777, ==, 0660);

    g_auto(GwFd) client = gw_unix_connect(path, &error);
    g_assert_no_error(error);
    g_assert_false(fcntl(client, F_GETFL) & O_NONBLOCK);
    g_auto(GwFd) server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(server, >=, 0);

    /* A living listener is not replaced, a dead one is. */
    g_assert_cmpint(gw_unix_listen(path, 0600, &error), ==, GW_FD_NONE);
    g_assert_error(error, GW_ERROR, GW_ERROR_EXISTS);
    g_clear_error(&error);
    gw_fd_clear(&listener);
    g_assert_cmpint(gw_unix_connect(path, &error), ==, GW_FD_NONE);
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_assert_nonnull(strstr(error->message, path));
    g_clear_error(&error);
    listener = gw_unix_listen(path, 0600, &error);
    g_assert_no_error(error);
    g_assert_cmpint(unlink(path), ==, 0);
}

/* A listener that does not accept: neither may a connect wait for it, nor may it lose its path. */
static void
test_unix_socket_with_full_queue(void)
{
    g_autofree char *path = path_of("busy");
    g_autoptr(GError) error = NULL;
    g_auto(GwFd) listener = gw_unix_listen(path, 0600, &error);
    GwFd clients[16];
    unsigned n = 0;

    g_assert_no_error(error);
    g_assert_cmpint(listen(listener, 0), ==, 0);
    while (n < G_N_ELEMENTS(clients) && (clients[n] = gw_unix_connect(path, &error)) >= 0) {
        n++;
    }
    g_assert_cmpuint(n, <, G_N_ELEMENTS(clients));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_clear_error(&error);

    g_assert_cmpint(gw_unix_listen(path, 0600, &error), ==, GW_FD_NONE);
    g_assert_error(error, GW_ERROR, GW_ERROR_EXISTS);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    while (n > 0) {
        gw_fd_clear(&clients[--n]);
    }
    g_assert_cmpint(unlink(path), ==, 0);
}

static void
test_unix_socket_refusals(void)
{
    g_autofree char *file = path_of("file");
    g_autofree char *filler = g_strnfill(200, 'x');
    g_autofree char *too_long = path_of(filler);
    g_autoptr(GError) error = NULL;

    g_assert_true(g_file_set_contents(file, "precious", -1, NULL));
    g_assert_cmpint(gw_unix_listen(file, 0600, &error), ==, GW_FD_NONE);
    g_assert_error(error, GW_ERROR, GW_ERROR_EXISTS);
    g_clear_error(&error);
    g_assert_true(g_file_test(file, G_FILE_TEST_IS_REGULAR));
    g_assert_cmpint(unlink(file), ==, 0);

    g_assert_cmpint(gw_unix_listen(too_long, 0600, &error), ==, GW_FD_NONE);
    g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_cmpint(gw_unix_connect(too_long, &error), ==, GW_FD_NONE);
    g_assert_error(error, GW_ERROR, GW_ERROR_INVALID);
}

static void
check_file_round_trip(size_t len)
{
    g_autofree char *path = path_of("round-trip");
    g_autofree char *data = g_strnfill(len, 'z');
    g_autoptr(GError) error = NULL;
    size_t got = 1;

    g_assert_true(gw_file_write(path, data, len, 0640, &error));
    g_assert_no_error(error);
    g_autofree char *read_back = gw_file_read(path, len, &got, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(got, ==, len);
    g_assert_cmpint(memcmp(data, read_back, len), ==, 0);
    g_assert_cmpint(read_back[got], ==, '\0');
    if (len > 0) {
        got = 77;
        g_assert_null(gw_file_read(path, len - 1, &got, &error));
        g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
        g_assert_cmpuint(got, ==, 77);
    }
    g_assert_cmpint(unlink(path), ==, 0);
}

static void
test_file_round_trip(void)
{
    static const size_t sizes[] = {0, 1, 16383, 16384, 16385, 65536, 65537, 1000000};

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        check_file_round_trip(sizes[i]);
    }
}

static void
test_file_without_size(void)
{
    g_autoptr(GError) error = NULL;
    size_t len = 0;
    g_autofree char *text = gw_file_read("/proc/self/status", SIZE_MAX, &len, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(len, ==, strlen(text));
    g_assert_nonnull(strstr(text, "\nPid:\t"));
    g_assert_null(gw_file_read("/proc/self/status", 10, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
    g_clear_error(&error);
    /* Endless, and more than 64 KiB of a file that says it is empty. */
    g_assert_null(gw_file_read("/dev/zero", 200000, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_TOO_LARGE);
}

static unsigned
count_files(void)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

static void
test_file_write(void)
{
    g_autofree char *path = path_of("replaced");
    g_autofree char *nowhere = path_of("no-such-folder/file");
    g_autofree char *taken = path_of("taken");
    g_autoptr(GError) error = NULL;
    struct stat info;

    g_assert_true(g_file_set_contents(path, "old and longer", -1, NULL));
    g_assert_true(gw_file_write(path, "new", 3, 0600, &error));
    g_assert_no_error(error);
    g_autofree char *text = gw_file_read(path, 100, NULL, &error);
    g_assert_cmpstr(text, ==, "new");
    g_assert_cmpint(stat(path, &info), ==, 0);
    g_assert_cmphex(info.st_mode & 07777, ==, 0600);

    g_assert_false(gw_file_write(nowhere, "x", 1, 0600, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_clear_error(&error);

    /* A failure at the last step leaves no temporary file. */
    g_assert_cmpint(g_mkdir(taken, 0700), ==, 0);
    g_assert_false(gw_file_write(taken, "x", 1, 0600, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_assert_cmpuint(count_files(), ==, 2);
    g_assert_cmpint(rmdir(taken), ==, 0);
    g_assert_cmpint(unlink(path), ==, 0);
}

static void
test_file_read_failures(void)
{
    g_autofree char *path = path_of("absent");
    g_autoptr(GError) error = NULL;

    g_assert_null(gw_file_read(path, 100, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_assert_nonnull(strstr(error->message, path));
    g_clear_error(&error);
    g_assert_null(gw_file_read(folder, 100, NULL, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    folder = g_dir_make_tmp("godwit-fd-XXXXXX", NULL);
    g_test_add_func("/fd/auto-close", test_auto_close);
    g_test_add_func("/fd/read-full", test_read_full);
    g_test_add_func("/fd/write-full", test_write_full);
    g_test_add_func("/fd/failures-have-errno", test_failures_have_errno);
    g_test_add_func("/fd/nonblocking", test_nonblocking);
    g_test_add_func("/fd/unix-socket", test_unix_socket);
    g_test_add_func("/fd/unix-socket-with-full-queue", test_unix_socket_with_full_queue);
    g_test_add_func("/fd/unix-socket-refusals", test_unix_socket_refusals);
    g_test_add_func("/fd/file-round-trip", test_file_round_trip);
    g_test_add_func("/fd/file-without-size", test_file_without_size);
    g_test_add_func("/fd/file-write", test_file_write);
    g_test_add_func("/fd/file-read-failures", test_file_read_failures);
    int result = g_test_run();
    g_assert_cmpint(g_rmdir(folder), ==, 0);
    g_free(folder);
    return result;
}
