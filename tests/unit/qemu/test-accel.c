// SPDX-License-Identifier: Apache-2.0
/*
 * The proof guest under TCG, where it must come through, and on QEMUs that behave badly.
 */
#include "qemu/accel.h"

#include "support.h"

typedef struct Fixture {
    char *dir;
    char *qemu;
    GwAccelProof *proof;
    bool done;
    bool works;
    bool lasting;
    char *text;
} Fixture;

static void
set_up(Fixture *f, const void *unused)
{
    *f = (Fixture){.dir = make_test_dir(), .qemu = real_qemu()};
}

static void
tear_down(Fixture *f, const void *unused)
{
    gw_accel_proof_free(f->proof);
    g_free(f->qemu);
    g_free(f->text);
    remove_test_dir(f->dir);
}

static void
on_verdict(const GwAccelVerdict *verdict, void *data)
{
    Fixture *f = data;

    f->done = true;
    f->works = verdict->works;
    f->lasting = verdict->lasting;
    f->text = g_strdup(verdict->text);
    g_test_message("%s", verdict->text);
}

static void
prove(Fixture *f, const char *accel, const char *binary)
{
    g_autoptr(GError) error = NULL;

    f->proof = gw_accel_proof_start(
        &(GwAccelProofOptions){.accel = accel, .binary = binary, .run_dir = f->dir}, on_verdict, f,
        &error);
    g_assert_no_error(error);
    g_assert_false(f->done);
    wait_for(f->done);
}

/* A program that takes QEMU's place. Transfer full. */
static char *
fake_qemu(Fixture *f, const char *script)
{
    char *path = g_build_filename(f->dir, "fake-qemu", NULL);
    g_autofree char *text = g_strdup_printf("#!/bin/sh\n%s\n", script);

    g_assert_true(gw_file_write(path, text, strlen(text), 0755, NULL));
    return path;
}

static GwProcessId
proof_process(Fixture *f)
{
    g_autofree char *path = g_build_filename(f->dir, "probe-accel.pid", NULL);
    g_autofree char *text = gw_file_read(path, 256, NULL, NULL);
    GwProcessId process = {0};

    g_assert_nonnull(text);
    g_assert_cmpint(sscanf(text, "%d %" SCNu64, &process.pid, &process.start_ticks), ==, 2);
    return process;
}

static void
test_tcg(Fixture *f, const void *unused)
{
    if (!f->qemu) {
        g_test_skip("no qemu-system-x86_64");
        return;
    }
    prove(f, "tcg", f->qemu);
    g_assert_true(f->works);
    g_assert_true(f->lasting);
}

/* A guest that never answers: the same QEMU with a firmware that is one jump to itself. */
static void
test_hanging_guest(Fixture *f, const void *unused)
{
    g_autofree char *image = g_build_filename(f->dir, "image", NULL);
    g_autofree uint8_t *bytes = g_malloc0(65536);

    if (!f->qemu) {
        g_test_skip("no qemu-system-x86_64");
        return;
    }
    bytes[65536 - 16] = 0xeb; /* jmp to itself */
    bytes[65536 - 15] = 0xfe;
    g_assert_true(gw_file_write(image, bytes, 65536, 0600, NULL));
    g_autofree char *script = g_strdup_printf("exec %s \"$@\" -bios %s", f->qemu, image);
    g_autofree char *fake = fake_qemu(f, script);
    g_autoptr(GError) error = NULL;
    f->proof = gw_accel_proof_start(
        &(GwAccelProofOptions){.accel = "tcg", .binary = fake, .run_dir = f->dir}, on_verdict, f,
        &error);
    g_assert_no_error(error);
    GwProcessId process = proof_process(f);
    wait_for(f->done);
    g_assert_false(f->works);
    g_assert_true(f->lasting);
    g_assert_cmpstr(f->text, ==, "a 64-bit test guest did not finish within 3 s");
    wait_for_end(process);
}

/* Without an interrupt table any fault is a triple fault, which ends QEMU. */
static void
test_crashing_guest(Fixture *f, const void *unused)
{
    g_autofree char *image = g_build_filename(f->dir, "image", NULL);
    g_autofree uint8_t *bytes = g_malloc0(65536);
    static const uint8_t CODE[] = {0x0f, 0x01, 0x1e, 0x00, 0xf0, /* lidt 0xf000: all zeroes */
                                   0x0f, 0x0b};                  /* ud2 */

    if (!f->qemu) {
        g_test_skip("no qemu-system-x86_64");
        return;
    }
    memcpy(bytes + 65536 - 16, CODE, sizeof CODE);
    g_assert_true(gw_file_write(image, bytes, 65536, 0600, NULL));
    g_autofree char *script = g_strdup_printf("exec %s \"$@\" -bios %s", f->qemu, image);
    g_autofree char *fake = fake_qemu(f, script);
    prove(f, "tcg", fake);
    g_assert_false(f->works);
    g_assert_false(f->lasting);
    g_assert_nonnull(strstr(f->text, "QEMU ended before its 64-bit test guest finished"));
}

static void
test_words_of_qemu(Fixture *f, const void *unused)
{
    g_autofree char *fake = fake_qemu(f, "echo 'qemu-x: warning: odd' >&2\n"
                                         "echo 'qemu-x: no such thing' >&2; exit 1");

    prove(f, "kvm", fake);
    g_assert_false(f->works);
    g_assert_cmpstr(f->text, ==,
                    "/dev/kvm opens but QEMU ended before its 64-bit test guest finished: no such "
                    "thing");
}

static void
test_no_permission(Fixture *f, const void *unused)
{
    g_autofree char *fake =
        fake_qemu(f, "echo 'qemu-x: Could not access KVM kernel module: Permission denied' >&2");

    prove(f, "kvm", fake);
    g_assert_false(f->works);
    g_assert_false(f->lasting);
    g_assert_nonnull(strstr(f->text, "/dev/kvm is there but this user may not open it"));
}

static void
test_no_binary(Fixture *f, const void *unused)
{
    g_autoptr(GError) error = NULL;

    f->proof = gw_accel_proof_start(
        &(GwAccelProofOptions){.accel = "tcg", .binary = "/nonexistent", .run_dir = f->dir},
        on_verdict, f, &error);
    g_assert_null(f->proof);
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
}

#define ADD(name, function) g_test_add("/accel/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    ADD("tcg", test_tcg);
    ADD("hanging-guest", test_hanging_guest);
    ADD("crashing-guest", test_crashing_guest);
    ADD("words-of-qemu", test_words_of_qemu);
    ADD("no-permission", test_no_permission);
    ADD("no-binary", test_no_binary);
    return g_test_run();
}
