// SPDX-License-Identifier: Apache-2.0
/*
 * Tells the thread sanitizer what GLib guarantees between threads.
 *
 * GLib itself is not sanitized, and its queues and sources are locked by means that the sanitizer
 * does not see, so it would report every object handed over by one of them. This library is
 * preloaded for tests of the sanitized build. It passes on each call and adds what GLib documents:
 * what a thread did before it pushed to a queue (attached a source) has happened for the thread
 * that pops (whose callback is called), and likewise for a mutex. Only the functions that src/ uses
 * across threads are here.
 */
#include <dlfcn.h>
#include <glib.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);
/* What the queues allocate for themselves is no business of the sanitizer's. */
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (!g_atomic_pointer_get(&real)) {                                                            \
        g_atomic_pointer_set(&real, (__typeof__(name) *)dlsym(RTLD_NEXT, #name));                  \
    }

void
g_async_queue_push(GAsyncQueue *queue, gpointer data)
{
    REAL(g_async_queue_push)
    __tsan_release(queue);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    real(queue, data);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
}

gpointer
g_async_queue_pop(GAsyncQueue *queue)
{
    REAL(g_async_queue_pop)
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    gpointer data = real(queue);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    __tsan_acquire(queue);
    return data;
}

gpointer
g_async_queue_try_pop(GAsyncQueue *queue)
{
    REAL(g_async_queue_try_pop)
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    gpointer data = real(queue);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    __tsan_acquire(queue);
    return data;
}

gpointer
g_async_queue_timeout_pop(GAsyncQueue *queue, guint64 timeout)
{
    REAL(g_async_queue_timeout_pop)
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    gpointer data = real(queue, timeout);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    __tsan_acquire(queue);
    return data;
}

void
g_mutex_lock(GMutex *mutex)
{
    REAL(g_mutex_lock)
    real(mutex);
    __tsan_acquire(mutex);
}

void
g_mutex_unlock(GMutex *mutex)
{
    REAL(g_mutex_unlock)
    __tsan_release(mutex);
    real(mutex);
}

/* --- sources: the callback is wrapped, because GLib calls it from the inside ---------------- */

typedef struct Wrapped {
    GSourceFunc callback;
    gpointer data;
    GDestroyNotify notify;
} Wrapped;

static gboolean
call_wrapped(gpointer data)
{
    Wrapped *wrapped = data;

    __tsan_acquire(wrapped);
    return wrapped->callback(wrapped->data);
}

static void
free_wrapped(gpointer data)
{
    Wrapped *wrapped = data;

    __tsan_acquire(wrapped);
    if (wrapped->notify) {
        wrapped->notify(wrapped->data);
    }
    g_free(wrapped);
}

/* A callback of another type than GSourceFunc (of a file descriptor's source) is left as it is: the
 * sanitizer knows what descriptors guarantee. */
static gboolean
takes_data_alone(const GSource *source)
{
    return source->source_funcs == &g_idle_funcs || source->source_funcs == &g_timeout_funcs;
}

void
g_source_set_callback(GSource *source, GSourceFunc callback, gpointer data, GDestroyNotify notify)
{
    REAL(g_source_set_callback)
    if (!takes_data_alone(source)) {
        real(source, callback, data, notify);
        return;
    }
    Wrapped *wrapped = g_new0(Wrapped, 1);
    *wrapped = (Wrapped){.callback = callback, .data = data, .notify = notify};
    __tsan_release(wrapped);
    real(source, call_wrapped, wrapped, free_wrapped);
}
