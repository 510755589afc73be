// SPDX-License-Identifier: Apache-2.0
/*
 * The power button: what an orderly stop of the VM presses.
 *
 * One thread, waiting on all input devices there were at the start (the button's module is loaded
 * before). Without an input device the button does nothing.
 */
#include "witness.h"

#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <sys/reboot.h>
#include <unistd.h>

#define MAX_DEVICES 8

static struct pollfd devices[MAX_DEVICES];
static nfds_t n_devices;

void
power_off(void)
{
    puts("witness: power off");
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
}

static void *
run(void *data)
{
    (void)data;
    while (poll(devices, n_devices, -1) >= 0) {
        for (nfds_t i = 0; i < n_devices; i++) {
            struct input_event event;
            if (!devices[i].revents)
                continue;
            if (read(devices[i].fd, &event, sizeof event) != sizeof event)
                devices[i].fd = -1; /* gone; poll skips it from now on */
            else if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
                power_off();
        }
    }
    return NULL;
}

void
power_start(void)
{
    for (int i = 0; i < MAX_DEVICES; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            devices[n_devices++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    if (n_devices)
        witness_thread(run, NULL);
}
