// SPDX-License-Identifier: Apache-2.0
#include "support.h"

#include <poll.h>
#include <string.h>

#define PATIENCE_SECONDS 20

void
place_make(Place *place)
{
    place->folder = g_dir_make_tmp("godwit-api-XXXXXX", NULL);
    g_assert_nonnull(place->folder);
    place->socket = g_build_filename(place->folder, "s.sock", NULL);
}

void
place_remove(Place *place)
{
    unlink(place->socket);
    rmdir(place->folder);
    g_free(place->socket);
    g_free(place->folder);
}

static gboolean
out_of_patience(void *data)
{
    g_error("nothing happened for %d s", PATIENCE_SECONDS);
    return G_SOURCE_REMOVE;
}

void
loop_until(const bool *flag)
{
    guint timer = g_timeout_add_seconds(PATIENCE_SECONDS, out_of_patience, NULL);

    while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_remove(timer);
}

typedef struct Job {
    void (*work)(void *data);
    void *data;
    bool done;
} Job;

static void *
job_thread(void *data)
{
    Job *job = data;

    job->work(job->data);
    __atomic_store_n(&job->done, true, __ATOMIC_RELEASE);
    g_main_context_wakeup(NULL);
    return NULL;
}

void
run_beside_loop(void (*work)(void *data), void *data)
{
    Job job = {.work = work, .data = data};
    GThread *thread = g_thread_new("test", job_thread, &job);

    loop_until(&job.done);
    g_thread_join(thread);
}

GwFd
open_and_send(const char *socket, const char *text)
{
    g_autoptr(GError) error = NULL;
    GwFd fd = gw_unix_connect(socket, &error);

    g_assert_no_error(error);
    /* The server may have closed already: what it said counts. */
    (void)!gw_fd_write_full(fd, text, strlen(text));
    return fd;
}

char *
read_until(int fd, const char *enough)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char part[4096];

    while (!enough || !strstr(text->str, enough)) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        g_assert_cmpint(poll(&poll_fd, 1, PATIENCE_SECONDS * 1000), ==, 1);
        ssize_t count = read(fd, part, sizeof part);
        if (count <= 0) {
            break;
        }
        g_string_append_len(text, part, count);
    }
    return g_strdup(text->str);
}

char *
exchange(const char *socket, const char *text, const char *enough)
{
    g_auto(GwFd) fd = open_and_send(socket, text);

    return read_until(fd, enough);
}
