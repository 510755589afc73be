// SPDX-License-Identifier: Apache-2.0
/*
 * The direct transport's key with a real QEMU: who can read it, that QEMU takes it as a credential,
 * that it is not in QEMU's command line, and that nothing of it stays.
 */
#include "../vm/host.h"
#include "base/fd.h"
#include "support.h"

#include <glib/gstdio.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

typedef struct Rig {
    Host *host;
    GwMoves *moves;
    GwMove *move;
    char *folder;
    char *key_path;
} Rig;

static void
rig_init(Rig *rig)
{
    *rig = (Rig){.host = host_new()};
    /* QEMU's user has to get through. */
    g_assert_cmpint(g_chmod(rig->host->run_dir, 0711), ==, 0);
    const GwMovesOptions options = {
        .store = rig->host->store,
        .vms = rig->host->vms,
        .host_name = "alpha",
        .run_dir = rig->host->run_dir,
        .qemu_user = rig->host->qemu_user,
    };
    rig->moves = moves_load(&options, NULL);
    rig->move = gw_move_new(rig->moves, &gw_source_role,
                            json_pack("{s:s, s:s, s:s, s:s}", "id", "m-0123456789ab", "vm", "web",
                                      "target", "beta", "state", "prepared"));
    gw_moves_add(rig->moves, rig->move);
    rig->folder = g_build_filename(rig->host->run_dir, "key-m-0123456789ab", NULL);
    rig->key_path = g_build_filename(rig->folder, "keys.psk", NULL);
}

static void
rig_clear(Rig *rig)
{
    g_clear_pointer(&rig->moves, gw_moves_free);
    host_free(rig->host);
    g_free(rig->folder);
    g_free(rig->key_path);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rig, rig_clear)

static GwVm *
start_web(Rig *rig)
{
    GwVm *vm = host_define(rig->host, "[vm]\nname = web\nmemory = 64 MiB\n");

    host_start(rig->host, vm);
    gw_vm_hold(vm, rig->move->id);
    return vm;
}

static void
on_reply(json_t *answer, const GError *error, void *data)
{
    GError **told = data;

    *told = error ? g_error_copy(error) : g_error_new(GW_ERROR, GW_ERROR_CANCELLED, "none");
}

/* What QEMU said to the credentials; GW_ERROR_CANCELLED: it took them. Transfer full. */
static GError *
add_credentials(Rig *rig, const char *key, const char *endpoint)
{
    GError *told = NULL;
    g_autoptr(GError) error = NULL;
    bool added = gw_direct_add_credentials(rig->move, key, endpoint, on_reply, &told, &error);

    g_assert_no_error(error);
    g_assert_true(added);
    WAIT_FOR(told);
    return told;
}

static void
assert_private(const char *path, const char *user_name, mode_t mode)
{
    const struct passwd *user = user_name ? getpwnam(user_name) : NULL;
    struct stat st;

    g_assert_cmpint(lstat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, mode);
    g_assert_cmpint(st.st_uid, ==, user ? user->pw_uid : geteuid());
}

static void
test_new_key(void)
{
    g_autofree char *first = gw_direct_new_key();
    g_autofree char *second = gw_direct_new_key();

    g_assert_cmpuint(strlen(first), ==, 64);
    g_assert_cmpuint(strspn(first, "0123456789abcdef"), ==, 64);
    g_assert_cmpstr(first, !=, second);
}

static void
test_key_file(void)
{
    static const char *const endpoints[] = {"client", "server"};
    g_auto(Rig) rig;
    rig_init(&rig);
    GwVm *vm = start_web(&rig);
    const mode_t mask = umask(0);

    for (unsigned i = 0; i < G_N_ELEMENTS(endpoints); i++) {
        g_autofree char *key = gw_direct_new_key();
        g_autoptr(GError) told = add_credentials(&rig, key, endpoints[i]);
        g_assert_error(told, GW_ERROR, GW_ERROR_CANCELLED);
        assert_private(rig.folder, rig.host->qemu_user, 0700);
        assert_private(rig.key_path, rig.host->qemu_user, 0600);
        g_autofree char *content = gw_file_read(rig.key_path, 4096, NULL, NULL);
        g_autofree char *expected = g_strdup_printf("godwit:%s\n", key);
        g_assert_cmpstr(content, ==, expected);

        g_autofree char *proc = g_strdup_printf("/proc/%d/cmdline", (int)vm_pid(vm));
        size_t len = 0;
        g_autofree char *command = gw_file_read(proc, 1 << 20, &len, NULL);
        g_assert_null(memmem(command, len, key, 64));

        gw_direct_remove_key(rig.move);
        g_assert_false(g_file_test(rig.folder, G_FILE_TEST_EXISTS));
        gw_direct_remove_key(rig.move); /* nothing there is no error */
    }
    umask(mask);
}

/* QEMU says no: its own words come back. */
static void
test_bad_key(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    start_web(&rig);
    g_autoptr(GError) told = add_credentials(&rig, "00", "neither");

    g_assert_error(told, GW_ERROR, GW_ERROR_FAILED);
    gw_direct_remove_key(rig.move);
}

/* Somebody has put something in its place: it is not used, and it is not removed. */
static void
test_place_is_taken(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    start_web(&rig);
    g_autoptr(GError) error = NULL;
    GError *told = NULL;

    g_assert_cmpint(symlink("/nowhere", rig.folder), ==, 0);
    g_assert_false(gw_direct_add_credentials(rig.move, "00", "client", on_reply, &told, &error));
    g_assert_error(error, GW_ERROR, GW_ERROR_IO);
    g_assert_nonnull(strstr(error->message, rig.folder));
    g_assert_null(told);
    g_unlink(rig.folder);
}

/* What a crash left, and what a move's end removes. */
static void
test_removed_in_the_end(void)
{
    g_auto(Rig) rig;
    rig_init(&rig);
    GwVm *vm = start_web(&rig);
    g_autofree char *key = gw_direct_new_key();
    g_autoptr(GError) told = add_credentials(&rig, key, "client");

    g_assert_error(told, GW_ERROR, GW_ERROR_CANCELLED);
    gw_move_event(rig.move, GW_MOVE_EVENT_FAILED, NULL);
    WAIT_FOR(rig.move->state == GW_MOVE_ROLLED_BACK);
    g_assert_false(g_file_test(rig.folder, G_FILE_TEST_EXISTS));
    g_assert_null(gw_vm_held_by(vm));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/direct/new-key", test_new_key);
    g_test_add_func("/direct/key-file", test_key_file);
    g_test_add_func("/direct/bad-key", test_bad_key);
    g_test_add_func("/direct/place-is-taken", test_place_is_taken);
    g_test_add_func("/direct/removed-in-the-end", test_removed_in_the_end);
    return hosts_run();
}
