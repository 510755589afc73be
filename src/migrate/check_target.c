// SPDX-License-Identifier: Apache-2.0
/*
 * The target's rows of the checks: what the source told of a VM against what this host has.
 *
 * The message is a peer's and is believed in nothing but what it asks about; it can make this host
 * open files for reading, which the peer, a trusted host of the fleet, may. Main context, files in
 * a worker thread. Every row adds one result at least and cannot fail otherwise.
 */
#include "base/fd.h"
#include "base/units.h"
#include "migrate/check.h"

#include <net/if.h>
#include <string.h>
#include <unistd.h>

/* QEMU needs memory beside the guest's own. */
#define QEMU_OVERHEAD_BYTES (256ULL * 1024 * 1024)
/* Several times what a CPU has. */
#define MAX_CPU_FEATURES 4096

struct GwCheckAnswer {
    GwMoves *moves;
    const struct sockaddr_storage *from; /* while rows are looked at */
    json_t *message;
    GwDefinition *definition; /* NULL if the source's was not understood */
    GwCheckAnswerFn callback;
    void *data;
    json_t *checks;
    GwFileProbe *probe;
    GwFd door; /* listens at `port` so that the source can see whether it gets there */
    uint16_t port;
    bool plain; /* this host's configuration allows the plain transport from there */
    guint idle;
};

typedef void (*LookFn)(GwCheckAnswer *answer, const char *id);

typedef struct TargetRow {
    const char *id;
    LookFn look;
} TargetRow;

static const GwHostCaps *
caps_of(const GwCheckAnswer *answer)
{
    return answer->moves->caps;
}

static const char *
here(const GwCheckAnswer *answer)
{
    return answer->moves->options.host_name;
}

static const json_t *
run_of(const GwCheckAnswer *answer)
{
    return json_object_get(answer->message, "run");
}

/* "10.0.2" → 1000, as GwHostCaps has it; 0 if it is no version. */
static unsigned
version_number(const char *text)
{
    unsigned major = 0;
    unsigned minor = 0;

    return sscanf(text, "%3u.%2u", &major, &minor) == 2 ? 100 * major + minor : 0;
}

static void
look_protocol(GwCheckAnswer *answer, const char *id)
{
    int64_t theirs = gw_json_int(answer->message, "protocol", 0);
    int64_t oldest = gw_json_int(answer->message, "oldest_protocol", INT64_MAX);

    if (theirs < GW_CHECK_OLDEST_PROTOCOL || oldest > GW_CHECK_PROTOCOL) {
        gw_check_add(answer->checks, id, "error", "use the same version of Godwit on both hosts",
                     "host '%s' speaks protocol %d, the source %" G_GINT64_FORMAT, here(answer),
                     GW_CHECK_PROTOCOL, theirs);
        return;
    }
    gw_check_add(answer->checks, id, "ok", NULL, "both hosts speak protocol %d", GW_CHECK_PROTOCOL);
}

static void
look_qemu_version(GwCheckAnswer *answer, const char *id)
{
    const char *theirs = gw_json_str(run_of(answer), "qemu_version", "unknown");
    const char *ours = caps_of(answer)->qemu_version;

    if (caps_of(answer)->qemu_major_minor < version_number(theirs)) {
        gw_check_add(answer->checks, id, "error", "install the same or a newer QEMU on the target",
                     "host '%s' has QEMU %s, older than the source's %s", here(answer), ours,
                     theirs);
        return;
    }
    gw_check_add(answer->checks, id, "ok", NULL, "QEMU %s can take over from %s", ours, theirs);
}

static void
look_postcopy(GwCheckAnswer *answer, const char *id)
{
    const char *mode = gw_json_str(answer->message, "mode", GW_MODE_PRE_COPY);
    const char *theirs = gw_json_str(run_of(answer), "qemu_version", "unknown");

    if (strcmp(mode, GW_MODE_PRE_COPY) == 0) {
        return;
    }
    if (MIN(caps_of(answer)->qemu_major_minor, version_number(theirs)) < 801) {
        gw_check_add(answer->checks, id, "error",
                     "install QEMU 8.1 or newer on both hosts, or choose --mode pre-copy",
                     "QEMU %s here and %s on the source cannot both do post-copy that is recovered "
                     "when a daemon ends",
                     caps_of(answer)->qemu_version, theirs);
    } else if (!gw_post_may_fault(answer->moves->options.qemu_user)) {
        gw_check_add(answer->checks, id, "error",
                     "there: chgrp kvm /dev/userfaultfd && chmod 660 /dev/userfaultfd (a udev rule "
                     "makes it last), or sysctl vm.unprivileged_userfaultfd=1",
                     "QEMU's user on host '%s' may not handle page faults (userfaultfd), as the "
                     "target of a post-copy has to",
                     here(answer));
    } else {
        gw_check_add(answer->checks, id, "ok", NULL, "post-copy is possible");
    }
}

static void
look_machine(GwCheckAnswer *answer, const char *id)
{
    const char *machine = gw_json_str(run_of(answer), "machine", "");

    if (!json_object_get(caps_of(answer)->machines, machine)) {
        gw_check_add(
            answer->checks, id, "error",
            "install a QEMU that has it, or choose an older machine type and restart the VM",
            "QEMU on host '%s' has no machine type '%s'", here(answer), machine);
        return;
    }
    gw_check_add(answer->checks, id, "ok", NULL, "machine type %s is there", machine);
}

static void
look_accelerator(GwCheckAnswer *answer, const char *id)
{
    const char *theirs = gw_json_str(run_of(answer), "accel", "");
    const char *ours = caps_of(answer)->accel;

    if (strcmp(theirs, ours) != 0) {
        gw_check_add(answer->checks, id, "error",
                     "set accel in godwitd.conf on both hosts to what both can do",
                     "the guest runs under %s, host '%s' offers %s (%s)", theirs, here(answer),
                     ours, caps_of(answer)->accel_reason);
    } else if (strcmp(ours, "tcg") == 0 && caps_of(answer)->qemu_major_minor < 900) {
        gw_check_add(answer->checks, id, "error",
                     "install QEMU 9.0 or newer (10.0 is in bookworm-backports) or use KVM",
                     "QEMU %s on host '%s' damages guests that migrate under TCG",
                     caps_of(answer)->qemu_version, here(answer));
    } else {
        gw_check_add(answer->checks, id, "ok", NULL, "both hosts use %s", ours);
    }
}

static bool
array_has(const json_t *array, const char *word)
{
    size_t i;
    json_t *entry;

    json_array_foreach(array, i, entry)
    {
        if (g_strcmp0(json_string_value(entry), word) == 0) {
            return true;
        }
    }
    return false;
}

static void
look_cpu(GwCheckAnswer *answer, const char *id)
{
    const json_t *features = json_object_get(answer->message, "cpu_features");
    bool told = json_array_size(features) > 0 && json_array_size(features) <= MAX_CPU_FEATURES;
    g_autoptr(GString) missing = g_string_new(NULL);
    size_t i;
    json_t *feature;

    json_array_foreach(features, i, feature)
    {
        const char *name = told ? json_string_value(feature) : NULL;
        if (name && !array_has(caps_of(answer)->cpu_features, name)) {
            g_string_append_printf(missing, "%s%s", missing->len > 0 ? ", " : "", name);
        }
    }
    if (missing->len > 0) {
        gw_check_add(answer->checks, id, "error",
                     "give the VM a cpu model that both hosts have and restart it",
                     "the guest's CPU has features that host '%s' lacks: %s", here(answer),
                     missing->str);
    } else if (!told) {
        gw_check_add(answer->checks, id, "warning", "compare the hosts' CPUs in 'godwit host list'",
                     "the source's QEMU did not tell the guest's CPU features");
    } else {
        gw_check_add(answer->checks, id, "ok", NULL, "all %zu CPU features are there",
                     json_array_size(features));
    }
}

static void
look_memory(GwCheckAnswer *answer, const char *id)
{
    uint64_t needed = answer->definition->memory_bytes + QEMU_OVERHEAD_BYTES;
    uint64_t available = gw_memory_available_bytes();
    g_autofree char *need = gw_format_size(needed);
    g_autofree char *have = gw_format_size(available);

    if (available < needed) {
        gw_check_add(answer->checks, id, "error", "free memory there, or choose another host",
                     "host '%s' has %s of memory available, the VM needs %s", here(answer), have,
                     need);
        return;
    }
    gw_check_add(answer->checks, id, "ok", NULL, "%s of memory available, %s needed", have, need);
}

static void
look_name(GwCheckAnswer *answer, const char *id)
{
    const char *name = answer->definition->name;
    GwVm *other = gw_vms_find(answer->moves->options.vms, name);

    if (other && gw_vm_held_by(other)) {
        gw_check_add(answer->checks, id, "error", "wait a moment until that has ended",
                     "host '%s' is not done yet with VM '%s' after move %s", here(answer), name,
                     gw_vm_held_by(other));
        return;
    }
    if (other) {
        gw_check_add(answer->checks, id, "error",
                     "undefine or rename the one that should not be there",
                     "host '%s' has a VM '%s' of its own (%s)", here(answer), name,
                     gw_vm_state_name(gw_vm_state(other)));
        return;
    }
    gw_check_add(answer->checks, id, "ok", NULL, "the name '%s' is free", name);
}

static const char *
owner_of_mac(GwCheckAnswer *answer, const char *mac)
{
    g_autoptr(GPtrArray) vms = gw_vms_list(answer->moves->options.vms);

    for (guint i = 0; i < vms->len; i++) {
        GwVm *vm = g_ptr_array_index(vms, i);
        const GPtrArray *nics = gw_vm_definition(vm)->nics;
        bool same_vm = strcmp(gw_vm_name(vm), answer->definition->name) == 0;
        for (guint n = 0; n < nics->len && !same_vm; n++) {
            const GwNic *nic = g_ptr_array_index(nics, n);
            if (g_ascii_strcasecmp(nic->mac, mac) == 0) {
                return gw_vm_name(vm);
            }
        }
    }
    return NULL;
}

static void
look_nics(GwCheckAnswer *answer, const char *id)
{
    const GPtrArray *nics = answer->definition->nics;

    for (guint i = 0; i < nics->len; i++) {
        const GwNic *nic = g_ptr_array_index(nics, i);
        const char *owner = owner_of_mac(answer, nic->mac);
        bool bridged = strcmp(nic->mode, "bridge") == 0;
        g_autofree char *path = g_strdup_printf("/sys/class/net/%s/bridge", nic->bridge);
        if (owner) {
            gw_check_add(answer->checks, id, "error", "give one of them another MAC address",
                         "NIC '%s': VM '%s' on host '%s' has the MAC address %s", nic->name, owner,
                         here(answer), nic->mac);
        } else if (bridged && (if_nametoindex(nic->bridge) == 0 || access(path, F_OK) != 0)) {
            gw_check_add(
                answer->checks, id, "error", "make the bridge there, or choose another host",
                "NIC '%s': host '%s' has no bridge '%s'", nic->name, here(answer), nic->bridge);
        } else {
            gw_check_add(answer->checks, id, "ok", NULL, "NIC '%s' can be connected", nic->name);
        }
    }
}

static void
look_limits(GwCheckAnswer *answer, const char *id)
{
    unsigned coming = gw_moves_count_incoming(answer->moves);
    unsigned limit = answer->moves->options.max_incoming;

    if (coming >= limit) {
        gw_check_add(answer->checks, id, "error",
                     "wait for one to end, or raise max-incoming there",
                     "host '%s' takes %u moves at the same time, and %u are under way",
                     here(answer), limit, coming);
        return;
    }
    gw_check_add(answer->checks, id, "ok", NULL, "%u of %u incoming moves under way", coming,
                 limit);
}

/* Not for the lane: it needs no port of its own. */
static void
look_direct_ports(GwCheckAnswer *answer, const char *id)
{
    const GwMovesOptions *options = &answer->moves->options;
    const char *transport = gw_json_str(answer->message, "transport", "lane");
    g_autoptr(GError) error = NULL;

    if (strcmp(transport, "lane") == 0) {
        return;
    }
    answer->door = gw_direct_open_door(options, NULL, &answer->port, &error);
    if (answer->door < 0) {
        gw_check_add(answer->checks, id, strcmp(transport, "auto") == 0 ? "warning" : "error",
                     "widen direct-ports in godwitd.conf there, or use --transport lane",
                     "host '%s': %s", here(answer), error->message);
        return;
    }
    gw_check_add(answer->checks, id, "ok", NULL, "port %u is free for QEMU", answer->port);
}

static void
look_plain(GwCheckAnswer *answer, const char *id)
{
    g_autoptr(GError) error = NULL;
    bool asked = strcmp(gw_json_str(answer->message, "transport", "lane"), "plain") == 0;

    answer->plain = gw_plain_is_allowed(&answer->moves->options, answer->from, &error);
    if (asked && !answer->plain) {
        gw_check_add(answer->checks, id, "error", GW_PLAIN_REMEDY, "%s", error->message);
    } else if (asked) {
        gw_check_add(answer->checks, id, "ok", NULL, "host '%s' allows it", here(answer));
    }
}

/* Rows that can be judged only if the definition was understood and QEMU is known. */
static const TargetRow rows[] = {
    {"qemu-version", look_qemu_version},
    {"machine-type", look_machine},
    {"accelerator", look_accelerator},
    {"cpu-features", look_cpu},
    {"memory", look_memory},
    {"name", look_name},
    {"network", look_nics},
    {"limits", look_limits},
    {"post-copy", look_postcopy},
    {"direct-ports", look_direct_ports},
    {"plain-networks", look_plain},
};

static gboolean
answer_now(gpointer data)
{
    GwCheckAnswer *answer = data;

    answer->idle = 0;
    answer->callback(answer->checks, answer->port, answer->plain, answer->data);
    return G_SOURCE_REMOVE;
}

static void
on_files(json_t *files, void *data)
{
    GwCheckAnswer *answer = data;
    size_t i;
    json_t *file;

    json_array_foreach(files, i, file)
    {
        bool disk = strcmp(gw_json_str(file, "kind", ""), "disk") == 0;
        const char *verdict = gw_json_str(file, "verdict", "was not looked at");
        const char *id = disk ? "disks" : "boot-files";
        if (strcmp(verdict, "ok") == 0) {
            gw_check_add(answer->checks, id, "ok", NULL, "'%s' is the same on both hosts",
                         gw_json_str(file, "path", ""));
        } else {
            gw_check_add(answer->checks, id, "error",
                         disk ? "put the disk on storage that both hosts mount at this path"
                              : "copy the file to the target",
                         "host '%s': '%s': %s", here(answer), gw_json_str(file, "path", ""),
                         verdict);
        }
    }
    answer->idle = g_idle_add(answer_now, answer);
}

static bool
is_judgeable(GwCheckAnswer *answer)
{
    const char *text = gw_json_str(answer->message, "definition", "");
    g_autoptr(GError) error = NULL;

    answer->definition = gw_definition_parse(text, strlen(text), "the source", &error);
    if (!answer->definition) {
        gw_check_add(
            answer->checks, "definition", "error", "use the same version of Godwit on both hosts",
            "host '%s' does not understand the VM's definition: %s", here(answer), error->message);
    }
    if (!caps_of(answer)) {
        gw_check_add(answer->checks, "qemu-version", "error",
                     "install QEMU there; 'godwit host list' there says what is missing",
                     "host '%s' has no working QEMU", here(answer));
    }
    return answer->definition && caps_of(answer);
}

GwCheckAnswer *
gw_check_answer(GwMoves *moves, const struct sockaddr_storage *from, const json_t *message,
                GwCheckAnswerFn callback, void *data)
{
    GwCheckAnswer *answer = g_new0(GwCheckAnswer, 1);

    answer->moves = moves;
    answer->from = from;
    answer->message = json_deep_copy(message);
    answer->callback = callback;
    answer->data = data;
    answer->checks = json_array();
    answer->door = GW_FD_NONE;
    look_protocol(answer, "protocol");
    if (!is_judgeable(answer)) {
        answer->idle = g_idle_add(answer_now, answer);
        return answer;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        rows[i].look(answer, rows[i].id);
    }
    answer->from = NULL;
    answer->probe =
        gw_file_probe_target(json_object_get(answer->message, "files"), on_files, answer);
    return answer;
}

void
gw_check_answer_free(GwCheckAnswer *answer)
{
    g_clear_handle_id(&answer->idle, g_source_remove);
    gw_fd_clear(&answer->door);
    gw_file_probe_free(answer->probe);
    gw_definition_free(answer->definition);
    json_decref(answer->message);
    json_decref(answer->checks);
    g_free(answer);
}
