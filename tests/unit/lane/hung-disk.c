// SPDX-License-Identifier: Apache-2.0
/* A disk that does not answer. Any thread; the linker puts the __wrap_ functions before libc's. */
#include "hung-disk.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/uio.h>
#include <unistd.h>

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hangs;
    unsigned n_hanging;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

void
hung_disk_begin(void)
{
    pthread_mutex_lock(&disk.lock);
    disk.hangs = true;
    pthread_mutex_unlock(&disk.lock);
}

void
hung_disk_wait(void)
{
    pthread_mutex_lock(&disk.lock);
    while (disk.n_hanging == 0) {
        pthread_cond_wait(&disk.changed, &disk.lock);
    }
    pthread_mutex_unlock(&disk.lock);
}

void
hung_disk_end(void)
{
    pthread_mutex_lock(&disk.lock);
    disk.hangs = false;
    pthread_cond_broadcast(&disk.changed);
    pthread_mutex_unlock(&disk.lock);
}

static void
ask_disk(void)
{
    pthread_mutex_lock(&disk.lock);
    disk.n_hanging++;
    pthread_cond_broadcast(&disk.changed);
    while (disk.hangs) {
        pthread_cond_wait(&disk.changed, &disk.lock);
    }
    disk.n_hanging--;
    pthread_mutex_unlock(&disk.lock);
}

ssize_t __real_pread64(int fd, void *out, size_t len, off_t offset);
ssize_t __wrap_pread64(int fd, void *out, size_t len, off_t offset);
ssize_t __real_preadv64v2(int fd, const struct iovec *pieces, int n, off_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *pieces, int n, off_t offset, int flags);

ssize_t
__wrap_pread64(int fd, void *out, size_t len, off_t offset)
{
    ask_disk();
    return __real_pread64(fd, out, len, offset);
}

ssize_t
__wrap_preadv64v2(int fd, const struct iovec *pieces, int n, off_t offset, int flags)
{
    ask_disk();
    return __real_preadv64v2(fd, pieces, n, offset, flags);
}
