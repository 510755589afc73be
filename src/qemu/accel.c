// SPDX-License-Identifier: Apache-2.0
/*
 * Runs the proof guest under an accelerator and waits for its answer.
 *
 * The guest is a 64 KiB firmware image in a memory file that QEMU opens as /dev/fd/N; its answer
 * comes over a serial port whose other end is a socket pair of ours. The processor is "max" (under
 * KVM the same as "host"), because that is what guests get: on some hosts a plain model runs and
 * the host's own does not. Owns the QEMU, the image and the socket. Main context. Whatever happens
 * to QEMU or the guest becomes a verdict; only a QEMU that cannot be started is an error.
 */
#include "qemu/accel.h"

#include "base/cursor.h"
#include "base/fd.h"
#include "qemu/probe_qemu.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/mman.h>

#define IMAGE_BYTES 65536
#define GUEST_BYTES 4096

/* The product of the two factors in proof_guest.S. */
#define ANSWER_LOW   0xf58d71ae9c47917bull
#define ANSWER_HIGH  0x78547880b6031473ull
#define ANSWER_BYTES 16

/* Descriptors in QEMU's process. */
#define IMAGE_FD  4
#define SERIAL_FD 5
G_STATIC_ASSERT(IMAGE_FD == GW_PROBE_QEMU_FIRST_FD && SERIAL_FD == IMAGE_FD + 1);

extern const uint8_t gw_proof_guest[GUEST_BYTES];

struct GwAccelProof {
    char *accel;
    char *user;
    GwProbeQemu *qemu;
    GwFd serial;
    guint serial_source;
    guint timer_source;
    uint8_t answer[ANSWER_BYTES];
    size_t answer_len;
    GwAccelProofFn callback;
    void *data;
};

static void
stop(GwAccelProof *proof)
{
    if (proof->serial_source) {
        g_source_remove(proof->serial_source);
        proof->serial_source = 0;
    }
    if (proof->timer_source) {
        g_source_remove(proof->timer_source);
        proof->timer_source = 0;
    }
    g_clear_pointer(&proof->qemu, gw_probe_qemu_free);
    gw_fd_clear(&proof->serial);
}

void
gw_accel_proof_free(GwAccelProof *proof)
{
    if (!proof) {
        return;
    }
    stop(proof);
    g_free(proof->accel);
    g_free(proof->user);
    g_free(proof);
}

/* The last thing that is done with @proof, which the callback may free. */
static void
conclude(GwAccelProof *proof, bool works, bool lasting, const char *text)
{
    stop(proof);
    proof->callback(&(GwAccelVerdict){works, lasting, text}, proof->data);
}

static void
conclude_from_answer(GwAccelProof *proof)
{
    GwCursor cursor = gw_cursor(proof->answer, ANSWER_BYTES);
    uint64_t low = gw_cursor_le64(&cursor);
    uint64_t high = gw_cursor_le64(&cursor);

    if (low == ANSWER_LOW && high == ANSWER_HIGH) {
        conclude(proof, true, true, "a 64-bit test guest ran");
        return;
    }
    conclude(proof, false, false, "a 64-bit test guest computed a wrong result");
}

static gboolean
on_serial(gint fd, GIOCondition condition, void *data)
{
    GwAccelProof *proof = data;
    ssize_t count = read(fd, proof->answer + proof->answer_len, ANSWER_BYTES - proof->answer_len);

    if (count <= 0) {
        /* QEMU has closed it, and the monitor with it: that tells more. */
        proof->serial_source = 0;
        return G_SOURCE_REMOVE;
    }
    proof->answer_len += (size_t)count;
    if (proof->answer_len < ANSWER_BYTES) {
        return G_SOURCE_CONTINUE;
    }
    proof->serial_source = 0;
    conclude_from_answer(proof);
    return G_SOURCE_REMOVE;
}

static gboolean
on_late(void *data)
{
    GwAccelProof *proof = data;
    bool kvm = g_str_equal(proof->accel, "kvm");
    g_autofree char *text =
        g_strdup_printf("%sa 64-bit test guest did not finish within %d s",
                        kvm ? "/dev/kvm opens but " : "", GW_ACCEL_PROOF_MS / 1000);

    proof->timer_source = 0;
    conclude(proof, false, true, text);
    return G_SOURCE_REMOVE;
}

static void
on_ready(GwQmp *qmp, void *data)
{
    GwAccelProof *proof = data;

    proof->timer_source = g_timeout_add(GW_ACCEL_PROOF_MS, on_late, proof);
    gw_qmp_call(qmp, "cont", NULL, NULL, NULL);
}

static char *
explain_end(const GwAccelProof *proof, const GError *error)
{
    bool kvm = g_str_equal(proof->accel, "kvm");

    if (strstr(error->message, "Could not access KVM kernel module") == NULL) {
        return g_strdup_printf("%sQEMU ended before its 64-bit test guest finished: %s",
                               kvm ? "/dev/kvm opens but " : "", error->message);
    }
    if (strstr(error->message, "Permission denied") == NULL) {
        return g_strdup_printf("/dev/kvm cannot be used: %s", error->message);
    }
    return g_strdup_printf("/dev/kvm is there but %s%s may not open it: add %s to its group",
                           proof->user ? "user " : "this user", proof->user ? proof->user : "",
                           proof->user ? proof->user : "it");
}

static void
on_ended(const GError *error, void *data)
{
    GwAccelProof *proof = data;
    g_autofree char *text = explain_end(proof, error);

    conclude(proof, false, false, text);
}

/* The image is read by QEMU's user through /dev/fd: a memory file is open to all who hold it. */
static GwFd
make_image(GError **error)
{
    g_auto(GwFd) fd = memfd_create("proof-guest", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, IMAGE_BYTES) < 0 ||
        pwrite(fd, gw_proof_guest, GUEST_BYTES, IMAGE_BYTES - GUEST_BYTES) != GUEST_BYTES) {
        gw_set_error_errno(error, errno, "cannot make the test guest's image");
        return GW_FD_NONE;
    }
    return g_steal_fd(&fd);
}

static GwProbeQemu *
start_qemu(GwAccelProof *proof, const GwAccelProofOptions *options, GError **error)
{
    static const GwProbeQemuHandlers HANDLERS = {.ready = on_ready, .ended = on_ended};
    g_autofree char *machine = g_strdup_printf("q35,accel=%s", options->accel);
    const char *arguments[] = {
        "-machine",   machine,
        "-cpu",       "max",
        "-m",         "32",
        "-bios",      "/dev/fd/" G_STRINGIFY(IMAGE_FD),
        "-chardev",   "socket,id=answer,fd=" G_STRINGIFY(SERIAL_FD),
        "-device",    "isa-serial,chardev=answer",
        "-no-reboot", NULL,
    };
    g_auto(GwFd) image = make_image(error);
    GwFd pair[2] = {GW_FD_NONE, GW_FD_NONE};

    if (image < 0 || !gw_fd_socketpair(pair, error)) {
        return NULL;
    }
    proof->serial = pair[0];
    g_auto(GwFd) theirs = pair[1];
    int fds[] = {image, theirs};
    return gw_probe_qemu_start(
        &(GwProbeQemuOptions){
            .name = "accel",
            .binary = options->binary,
            .user = options->user,
            .run_dir = options->run_dir,
            .arguments = arguments,
            .fds = fds,
            .n_fds = G_N_ELEMENTS(fds),
        },
        &HANDLERS, proof, error);
}

GwAccelProof *
gw_accel_proof_start(const GwAccelProofOptions *options, GwAccelProofFn callback, void *data,
                     GError **error)
{
    g_autoptr(GwAccelProof) proof = g_new0(GwAccelProof, 1);

    proof->accel = g_strdup(options->accel);
    proof->user = g_strdup(options->user);
    proof->serial = GW_FD_NONE;
    proof->callback = callback;
    proof->data = data;
    proof->qemu = start_qemu(proof, options, error);
    if (!proof->qemu || !gw_fd_set_nonblocking(proof->serial, true, error)) {
        return NULL;
    }
    proof->serial_source =
        g_unix_fd_add(proof->serial, G_IO_IN | G_IO_HUP | G_IO_ERR, on_serial, proof);
    return g_steal_pointer(&proof);
}
