// SPDX-License-Identifier: Apache-2.0
/*
 * From the store's records back to VMs, and to the QEMUs that outlived the daemon.
 *
 * A run record's QEMU is the process with the recorded pid and start time whose command line has
 * the record's token. If there is none, the VM's lock decides (vm_start.c): free, there is no QEMU
 * and the record goes; held, a process with the token is looked for in all of /proc, again every
 * LOOK_MS until LOOK_LIMIT_MS, as it may be about to appear between fork and exec. If the lock is
 * held by something that cannot be found, the VM counts as stopped, the record stays and no start
 * succeeds. Loading ends when each QEMU has told its state, or after LOAD_LIMIT_MS.
 *
 * Incoming VMs come back held by their move, whose recovery decides about them. Records that cannot
 * be read are logged and left alone. Owns the load until it is done. Main context.
 */
#include "base/log.h"
#include "base/units.h"
#include "qemu/process.h"
#include "vm/command.h"
#include "vm/internal.h"
#include "vm/qemu_log.h"

#include <string.h>

#define LOOK_MS                100
#define LOOK_LIMIT_MS          3000
#define LOAD_LIMIT_MS          10000
#define MAX_COMMAND_LINE_BYTES (1024u * 1024u)

/* The records of one VM, borrowed from the store's answer. */
typedef struct Records {
    GBytes *definition;
    GBytes *owner;
    GBytes *run;
} Records;

typedef struct GwLoad {
    GwVms *vms;
    GwWaiter waiter;
    GPtrArray *unsure;  /* of GwVm: lock held, process not found yet */
    GPtrArray *waiting; /* of GwVm: found, state not known yet */
    guint look_timer;
    unsigned n_looks;
    guint limit_timer;
    bool records_read;
} GwLoad;

/* --- processes -------------------------------------------------------------------------------- */

static bool
process_has_token(pid_t pid, const char *token)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)pid);
    size_t len;
    g_autofree char *text = gw_file_read(path, MAX_COMMAND_LINE_BYTES, &len, NULL);

    for (size_t pos = 0; text && pos < len; pos += strlen(text + pos) + 1) {
        if (gw_command_argument_has_token(text + pos, token)) {
            return true;
        }
    }
    return false;
}

static bool
find_by_token(const char *token, GwProcessId *out)
{
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        uint64_t pid;
        GwProcessId found = {0};
        if (!g_ascii_string_to_unsigned(name, 10, 1, G_MAXINT32, &pid, NULL)) {
            continue;
        }
        found.pid = (pid_t)pid;
        /* The start time first: should the pid be used again in between, the token is not there. */
        if (gw_process_start_ticks(found.pid, &found.start_ticks, NULL) &&
            process_has_token(found.pid, token)) {
            *out = found;
            return true;
        }
    }
    return false;
}

typedef enum Search {
    SEARCH_FOUND,
    SEARCH_NONE,   /* there is no QEMU, for sure */
    SEARCH_UNSURE, /* something holds the lock */
} Search;

static Search
search_process(GwVm *vm)
{
    if (gw_process_alive(vm->run->process) &&
        process_has_token(vm->run->process.pid, vm->run->token)) {
        return SEARCH_FOUND;
    }
    g_auto(GwFd) lock = gw_vm_take_lock(vm, NULL);
    if (lock >= 0) {
        return SEARCH_NONE;
    }
    if (find_by_token(vm->run->token, &vm->run->process)) {
        gw_vm_save_run(vm);
        return SEARCH_FOUND;
    }
    return SEARCH_UNSURE;
}

/* --- the end of loading ----------------------------------------------------------------------- */

static void
load_free(GwLoad *load)
{
    g_clear_handle_id(&load->look_timer, g_source_remove);
    g_clear_handle_id(&load->limit_timer, g_source_remove);
    g_ptr_array_unref(load->unsure);
    g_ptr_array_unref(load->waiting);
    g_free(load);
}

static void
finish_if_done(GwVms *vms)
{
    GwLoad *load = vms->load;

    if (load && load->records_read && load->unsure->len == 0 && load->waiting->len == 0) {
        vms->load = NULL;
        gw_vms_report(vms, load->waiter, NULL, NULL);
        load_free(load);
    }
}

void
gw_vm_adopted(GwVm *vm)
{
    if (vm->vms->load && g_ptr_array_remove(vm->vms->load->waiting, vm)) {
        finish_if_done(vm->vms);
    }
}

static gboolean
on_limit(void *data)
{
    GwLoad *load = data;

    load->limit_timer = 0;
    for (unsigned i = 0; i < load->waiting->len; i++) {
        const GwVm *vm = g_ptr_array_index(load->waiting, i);
        gw_warn(GW_VM_LOG(vm), "QEMU (pid %d) does not answer: its guest's state is unknown",
                (int)vm->run->process.pid);
    }
    g_ptr_array_set_size(load->waiting, 0);
    finish_if_done(load->vms);
    return G_SOURCE_REMOVE;
}

/* --- one VM ----------------------------------------------------------------------------------- */

static void
adopt(GwLoad *load, GwVm *vm)
{
    gw_info(GW_VM_LOG(vm), "QEMU found again, pid %d%s", (int)vm->run->process.pid,
            vm->incoming ? ", incoming" : "");
    vm->phase = GW_PHASE_UP;
    /* Until QEMU says otherwise: a guest that may run is never taken for one that does not. */
    vm->guest_running = !vm->incoming;
    gw_vm_attach(vm);
    if (vm->qmp) {
        g_ptr_array_add(load->waiting, vm);
    }
}

/* Why there is no QEMU for the run record. Transfer full. */
static char *
reason_of_absence(const GwVm *vm)
{
    if (vm->run->process.pid == 0) {
        return g_strdup("the daemon ended before it launched QEMU: start the VM again");
    }
    g_autofree char *log = gw_vm_log_path(vm);
    g_autofree char *tail = gw_qemu_log_tail(log);
    g_autofree char *message = gw_qemu_log_explain(tail, vm->vms->qemu_user);
    return g_strdup_printf("QEMU ended while no daemon ran: %s",
                           message ? message : "the host was started anew, or QEMU was killed");
}

static void
ended_meanwhile(GwVm *vm)
{
    g_autofree char *reason = reason_of_absence(vm);

    gw_vm_set_stop_reason(vm, reason);
    gw_warn(GW_VM_LOG(vm), "stopped: %s", reason);
    gw_vm_gone(vm, NULL);
    if (vm->incoming) {
        gw_vm_forget_incoming(vm);
    }
}

static void
lost_track(GwVm *vm)
{
    gw_err(GW_VM_LOG(vm),
           "a process that is not its QEMU holds its lock: find it with fuser and end "
           "it; the VM cannot be started before");
    gw_vm_set_stop_reason(vm, "an unknown process holds the VM's lock");
    gw_vm_set_run(vm, NULL);
}

static gboolean
on_look(void *data)
{
    GwLoad *load = data;
    bool last = ++load->n_looks * LOOK_MS >= LOOK_LIMIT_MS;

    for (unsigned i = load->unsure->len; i-- > 0;) {
        GwVm *vm = g_ptr_array_index(load->unsure, i);
        Search search = search_process(vm);
        if (search == SEARCH_UNSURE && !last) {
            continue;
        }
        g_ptr_array_remove_index(load->unsure, i);
        if (search == SEARCH_FOUND) {
            adopt(load, vm);
        } else if (search == SEARCH_NONE) {
            ended_meanwhile(vm);
        } else {
            lost_track(vm);
        }
    }
    if (load->unsure->len > 0) {
        return G_SOURCE_CONTINUE;
    }
    load->look_timer = 0;
    finish_if_done(load->vms);
    return G_SOURCE_REMOVE;
}

static void
find_qemu(GwLoad *load, GwVm *vm)
{
    switch (search_process(vm)) {
    case SEARCH_FOUND:
        adopt(load, vm);
        return;
    case SEARCH_NONE:
        ended_meanwhile(vm);
        return;
    case SEARCH_UNSURE:
        g_ptr_array_add(load->unsure, vm);
        if (!load->look_timer) {
            load->look_timer = g_timeout_add(LOOK_MS, on_look, load);
        }
        return;
    }
}

/* --- records ---------------------------------------------------------------------------------- */

static GwDefinition *
parse_definition(const char *name, const void *text, size_t len, GError **error)
{
    g_autofree char *source = g_strdup_printf("record of VM %s", name);
    g_autoptr(GwDefinition) definition = gw_definition_parse(text, len, source, error);

    if (definition && strcmp(definition->name, name) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "record of VM %s: it names another, %s",
                    name, definition->name);
        return NULL;
    }
    return g_steal_pointer(&definition);
}

static GwDefinition *
parse_definition_record(const char *name, GBytes *record, GError **error)
{
    size_t len;
    const void *data = g_bytes_get_data(record, &len);

    return parse_definition(name, data, len, error);
}

/* What the VM is while it is incoming comes with the run record; the rest is an outdated copy. */
static GwDefinition *
incoming_definition(const char *name, const GwRun *run, GError **error)
{
    if (!run->definition_text || !run->move_id) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL,
                    "run record of VM %s: it is incoming, but of no move", name);
        return NULL;
    }
    return parse_definition(name, run->definition_text, strlen(run->definition_text), error);
}

static bool
read_owner(GwVm *vm, GBytes *record, GError **error)
{
    size_t len;
    const void *data = g_bytes_get_data(record, &len);

    if (!gw_owner_parse(data, len, vm->name, &vm->owner, error)) {
        return false;
    }
    vm->owner_text = g_strndup(data, len);
    return true;
}

/* A VM without an owner record may be shown, but not started. */
static GwVm *
vm_from_records(GwVms *vms, const char *name, const Records *records, GError **error)
{
    g_autoptr(GwDefinition) definition = NULL;
    g_autoptr(GwDefinition) incoming = NULL;
    g_autoptr(GwRun) run = NULL;

    if (records->run) {
        size_t len;
        const void *data = g_bytes_get_data(records->run, &len);
        run = gw_run_parse(data, len, name, error);
        if (!run) {
            return NULL;
        }
    }
    if (records->definition &&
        !(definition = parse_definition_record(name, records->definition, error))) {
        return NULL;
    }
    if (run && run->incoming && !(incoming = incoming_definition(name, run, error))) {
        return NULL;
    }
    if (!definition && !incoming) {
        g_set_error(error, GW_ERROR, GW_ERROR_PROTOCOL, "VM %s has records but no definition",
                    name);
        return NULL;
    }
    GwVm *vm = gw_vm_new(vms, incoming ? g_steal_pointer(&incoming) : g_steal_pointer(&definition));
    vm->outdated = g_steal_pointer(&definition);
    vm->incoming = run && run->incoming;
    vm->held_by = run && run->incoming ? g_strdup(run->move_id) : NULL;
    gw_vm_set_run(vm, g_steal_pointer(&run));
    if (records->owner && !read_owner(vm, records->owner, error)) {
        gw_vm_free(vm);
        return NULL;
    }
    return vm;
}

static void
load_vm(GwLoad *load, const char *name, const Records *records)
{
    g_autoptr(GError) error = NULL;
    GwVm *vm = vm_from_records(load->vms, name, records, &error);

    if (!vm) {
        gw_err(&(GwLogFields){.vm = name}, "cannot be loaded and is left alone: %s",
               error->message);
        return;
    }
    g_hash_table_insert(load->vms->by_name, vm->name, vm);
    if (vm->run) {
        find_qemu(load, vm);
    }
}

static GHashTable *
group_records(const GPtrArray *entries)
{
    g_autoptr(GHashTable) by_name = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);

    for (unsigned i = 0; i < entries->len; i++) {
        const GwStoreEntry *entry = g_ptr_array_index(entries, i);
        g_autofree char *name = NULL;
        g_autofree char *what = NULL;
        if (!gw_vm_key_split(entry->key, &name, &what)) {
            continue;
        }
        Records *records = g_hash_table_lookup(by_name, name);
        if (!records) {
            records = g_new0(Records, 1);
            g_hash_table_insert(by_name, g_steal_pointer(&name), records);
        }
        if (strcmp(what, "definition") == 0) {
            records->definition = entry->value;
        } else if (strcmp(what, "owner") == 0) {
            records->owner = entry->value;
        } else if (strcmp(what, "run") == 0) {
            records->run = entry->value;
        }
    }
    return g_steal_pointer(&by_name);
}

static void
on_records(const GPtrArray *entries, int64_t revision, const GError *error, void *data)
{
    GwLoad *load = data;
    GwVms *vms = load->vms;
    GHashTableIter iter;
    void *name, *records;

    if (error) {
        GwWaiter waiter = load->waiter;
        vms->load = NULL;
        load_free(load);
        gw_vms_report(vms, waiter, NULL, g_error_copy(error));
        return;
    }
    g_autoptr(GHashTable) by_name = group_records(entries);
    g_hash_table_iter_init(&iter, by_name);
    while (g_hash_table_iter_next(&iter, &name, &records)) {
        load_vm(load, name, records);
    }
    load->records_read = true;
    finish_if_done(vms);
}

void
gw_vms_load(GwVms *vms, GwWaiter loaded)
{
    GwLoad *load = g_new0(GwLoad, 1);

    load->vms = vms;
    load->waiter = loaded;
    load->unsure = g_ptr_array_new();
    load->waiting = g_ptr_array_new();
    load->limit_timer = g_timeout_add(LOAD_LIMIT_MS, on_limit, load);
    vms->load = load;
    gw_store_range(vms->store, GW_VM_KEY_PREFIX, 0, on_records, load);
}

void
gw_vms_load_free(GwVms *vms)
{
    if (vms->load) {
        gw_store_forget(vms->store, vms->load);
        g_clear_pointer(&vms->load, load_free);
    }
}
