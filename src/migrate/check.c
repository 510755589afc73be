// SPDX-License-Identifier: Apache-2.0
/*
 * One run of the checks on the source: gather what is known here, ask the target, put the answers
 * together. The rows of the source are below, those of the target in check_target.c.
 *
 * Main context. Owns a session of its own, the file locks (through the probe) and the queries to
 * the VM's QEMU. Ends within GW_CHECK_TIMEOUT_MS: what was not answered by then is an error row.
 */
#include "migrate/check.h"

#include <stdarg.h>
#include <string.h>

#define MAX_ROWS      200
#define MAX_ROW_BYTES 1000

struct GwCheckRun {
    GwMoves *moves;
    json_t *request;
    GwCheckFn callback;
    void *data;
    json_t *checks; /* results so far */
    json_t *facts;  /* for the target */
    GwFileProbe *probe;
    GwTransportProbe *transport; /* NULL unless "auto" */
    GwLane *lane;
    unsigned waiting; /* for QEMU's answers and the probe */
    bool answered;
    guint timer;
    guint idle;
};

void
gw_check_add(json_t *out, const char *id, const char *status, const char *remedy,
             const char *format, ...)
{
    json_t *entry = json_object();
    va_list args;

    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    gw_json_set_str(entry, "id", id);
    gw_json_set_str(entry, "status", status);
    gw_json_set_str(entry, "message", message);
    gw_json_set_str(entry, "remedy", remedy);
    json_array_append_new(out, entry);
}

static const char *
vm_name(const GwCheckRun *run)
{
    return gw_json_str(run->request, "vm", "");
}

static const char *
target_name(const GwCheckRun *run)
{
    return gw_json_str(run->request, "target", "");
}

static GwVm *
vm_of(const GwCheckRun *run)
{
    return gw_vms_find(run->moves->options.vms, vm_name(run));
}

/* --- the end ---------------------------------------------------------------------------------- */

static bool
has_errors(const json_t *checks)
{
    size_t i;
    json_t *check;

    json_array_foreach(checks, i, check)
    {
        if (strcmp(gw_json_str(check, "status", "error"), "error") == 0) {
            return true;
        }
    }
    return false;
}

static gboolean
finish(gpointer data)
{
    GwCheckRun *run = data;
    g_autoptr(json_t) plan = json_pack("{s:s, s:s, s:s, s:b, s:O}", "vm", vm_name(run), "source",
                                       run->moves->options.host_name, "target", target_name(run),
                                       "ok", !has_errors(run->checks), "checks", run->checks);

    run->idle = 0;
    if (run->transport) {
        g_autofree char *reason = NULL;
        GwTransport choice = gw_transport_probe_choose(run->transport, &reason);
        gw_json_set_str(plan, "transport", gw_transport_name(choice));
        gw_json_set_str(plan, "transport_reason", reason);
        if (choice == GW_TRANSPORT_PLAIN) {
            gw_check_warn_of_plain(run->checks); /* the plan has the same array */
        }
    }
    /* The callback frees the run. */
    run->callback(plan, NULL, run->data);
    return G_SOURCE_REMOVE;
}

/* Always from the main loop: callers may free the run in the callback, and never see it early. */
static void
finish_soon(GwCheckRun *run)
{
    g_clear_handle_id(&run->timer, g_source_remove);
    if (run->transport) {
        gw_transport_probe_stop(run->transport);
    }
    if (run->lane) {
        gw_lane_finish(run->lane);
    }
    if (run->idle == 0) {
        run->idle = g_idle_add(finish, run);
    }
}

static gboolean
on_timeout(gpointer data)
{
    GwCheckRun *run = data;

    run->timer = 0;
    gw_check_add(run->checks, "answers", "error",
                 "look at the load and the storage of both hosts, then try again",
                 "the checks did not end within %d s", GW_CHECK_TIMEOUT_MS / 1000);
    finish_soon(run);
    return G_SOURCE_REMOVE;
}

/* --- the target ------------------------------------------------------------------------------- */

static void
send_facts(GwCheckRun *run)
{
    g_autoptr(GError) error = NULL;

    if (!gw_lane_send(run->lane, run->facts, &error)) {
        gw_check_add(run->checks, "target-answers", "error", "try again", "%s", error->message);
        finish_soon(run);
    }
}

/* The link is measured, or the port was tried. */
static void
on_probed(void *data)
{
    GwCheckRun *run = data;

    if (run->answered) {
        finish_soon(run);
    } else {
        send_facts(run);
    }
}

static void
on_ready(GwLane *lane, void *data)
{
    GwCheckRun *run = data;

    gw_check_add(run->checks, "target-reachable", "ok", NULL, "host '%s' answers and is trusted",
                 target_name(run));
    const GwMovesOptions *options = &run->moves->options;
    const char *transport = gw_json_str(run->request, "transport", "");
    if (strcmp(transport, "plain") == 0) {
        gw_check_plain(options, lane, run->checks);
    }
    if (strcmp(transport, "auto") == 0) {
        run->transport = gw_transport_probe_new(target_name(run), on_probed, run);
        gw_transport_probe_measure(run->transport, options, lane);
    } else {
        send_facts(run);
    }
}

/* Row by row, as they come from another host and go into the move's record. */
static bool
take_rows(GwCheckRun *run, const json_t *rows)
{
    size_t i;
    json_t *row;

    if (json_array_size(rows) == 0 || json_array_size(rows) > MAX_ROWS) {
        return false;
    }
    json_array_foreach(rows, i, row)
    {
        const char *status = gw_json_str(row, "status", "");
        bool known = strcmp(status, "ok") == 0 || strcmp(status, "warning") == 0;
        g_autofree char *id = g_strndup(gw_json_str(row, "id", "unknown"), 40);
        g_autofree char *remedy = g_strndup(gw_json_str(row, "remedy", NULL), MAX_ROW_BYTES);
        gw_check_add(run->checks, id, known ? status : "error", remedy, "%.*s", MAX_ROW_BYTES,
                     gw_json_str(row, "message", "the target gave no text"));
    }
    return true;
}

static void
on_message(GwLane *lane, json_t *message, void *data)
{
    GwCheckRun *run = data;
    json_t *why = json_object_get(message, "error");
    g_autoptr(GError) error = why ? gw_json_to_error(why) : NULL;

    if (run->answered) {
        return;
    }
    run->answered = true;
    if (!take_rows(run, json_object_get(message, "checks"))) {
        gw_check_add(run->checks, "protocol", "error",
                     "use the same version of Godwit on both hosts",
                     "host '%s' did not answer the checks: %.*s", target_name(run), MAX_ROW_BYTES,
                     error ? error->message : "its answer was not understood");
    }
    const GwMovesNetwork *network = &run->moves->options.network;
    int64_t port = CLAMP(gw_json_int(message, "direct_port", 0), 0, 65535);
    if (!run->transport || !gw_transport_probe_knock(
                               run->transport, network->address(target_name(run), network->network),
                               (uint16_t)port, gw_json_bool(message, "plain", false))) {
        finish_soon(run);
    }
}

static void
on_stream_end(GwLane *lane, const GwLaneStreamEnd *end, void *data)
{
    /* No stream was started on this session. */
}

static void
on_closed(GwLane *lane, const GError *error, void *data)
{
    GwCheckRun *run = data;

    if (run->transport) {
        gw_transport_probe_stop(run->transport);
    }
    g_clear_pointer(&run->lane, gw_lane_free);
    if (!run->answered) {
        gw_check_add(
            run->checks, "target-reachable", "error",
            "see that godwitd runs there, that its port is open, and that both hosts added "
            "each other ('godwit host list')",
            "%s", error->message);
        finish_soon(run);
    }
}

static void
ask_target(GwCheckRun *run)
{
    static const GwLaneHandlers handlers = {on_ready, on_message, on_stream_end, on_closed};
    const GwMovesNetwork *network = &run->moves->options.network;
    g_autoptr(GError) error = NULL;

    run->lane = network->connect(target_name(run), NULL, &handlers, run, network->network, &error);
    if (!run->lane) {
        gw_check_add(run->checks, "target-reachable", "error",
                     "add it with 'godwit host add NAME ADDRESS', see 'godwit host list'", "%s",
                     error->message);
        finish_soon(run);
    }
}

/* --- gathering -------------------------------------------------------------------------------- */

static void
gathered_one(GwCheckRun *run)
{
    if (--run->waiting == 0) {
        ask_target(run);
    }
}

static void
on_files(json_t *files, void *data)
{
    GwCheckRun *run = data;
    size_t i;
    json_t *file;

    json_array_foreach(files, i, file)
    {
        if (json_object_get(file, "error")) {
            gw_check_add(run->checks, "disks", "error", "see that the file exists and can be read",
                         "this host: %s", gw_json_str(file, "error", ""));
        }
    }
    json_object_set(run->facts, "files", files);
    gathered_one(run);
}

/* QEMU's own reasons why a guest cannot be migrated (a device without migration, a shared folder).
 */
static void
on_blockers(json_t *answer, const GError *error, void *data)
{
    GwCheckRun *run = data;
    json_t *reasons = json_object_get(answer, "blocked-reasons");
    size_t i;
    json_t *reason;

    json_array_foreach(reasons, i, reason)
    {
        gw_check_add(run->checks, "blockers", "error",
                     "remove the device or option from the definition and restart the VM",
                     "QEMU says that the guest cannot be migrated: %s", json_string_value(reason));
    }
    if (error) {
        gw_check_add(run->checks, "blockers", "error", "see 'godwit vm log'",
                     "QEMU does not answer: %s", error->message);
    } else if (json_array_size(reasons) == 0) {
        gw_check_add(run->checks, "blockers", "ok", NULL, "QEMU names no obstacle");
    }
    gathered_one(run);
}

/* The features that the guest's CPU really has, with its model's name expanded. */
static void
on_cpu_model(json_t *answer, const GError *error, void *data)
{
    GwCheckRun *run = data;
    json_t *properties = json_object_get(json_object_get(answer, "model"), "props");
    json_t *features = json_array();
    const char *name;
    json_t *value;

    json_object_foreach(properties, name, value)
    {
        if (json_is_true(value)) {
            json_array_append_new(features, json_string(name));
        }
    }
    json_object_set_new(run->facts, "cpu_features", features);
    gathered_one(run);
}

static json_t *
cpu_model_argument(const char *cpu)
{
    g_auto(GStrv) parts = g_strsplit(cpu, ",", -1);
    json_t *properties = json_object();

    for (char **part = parts[0] ? parts + 1 : parts; *part; part++) {
        if ((*part)[0] == '+' || (*part)[0] == '-') {
            gw_json_set_bool(properties, *part + 1, (*part)[0] == '+');
        }
    }
    /* Static: each CPUID feature once, without aliases and settings that are none. */
    return json_pack("{s:s, s:{s:s, s:o}}", "type", "static", "model", "name",
                     parts[0] ? parts[0] : "max", "props", properties);
}

static void
gather_facts(GwCheckRun *run, GwVm *vm)
{
    const json_t *run_info = gw_vm_run_info(vm);
    g_autofree char *text = gw_definition_text(gw_vm_definition(vm));
    GwQmp *qmp = gw_vm_qmp(vm);

    run->facts = json_pack("{s:s, s:s, s:i, s:i, s:s, s:s, s:s, s:s, s:s, s:O}", "service", "move",
                           "do", "check", "protocol", GW_CHECK_PROTOCOL, "oldest_protocol",
                           GW_CHECK_OLDEST_PROTOCOL, "godwit", GODWIT_VERSION, "vm", vm_name(run),
                           "transport", gw_json_str(run->request, "transport", "lane"), "mode",
                           gw_json_str(run->request, "mode", GW_MODE_PRE_COPY), "definition", text,
                           "run", run_info);
    run->waiting = 3;
    run->probe = gw_file_probe_source(gw_vm_definition(vm), on_files, run);
    gw_qmp_call(qmp, "query-migrate", NULL, on_blockers, run);
    gw_qmp_call(qmp, "query-cpu-model-expansion",
                cpu_model_argument(gw_json_str(run_info, "cpu", "max")), on_cpu_model, run);
}

/* --- the source's rows ------------------------------------------------------------------------ */

typedef struct SourceRow {
    const char *id;
    /* Adds its result; false: the other checks make no sense without it. */
    bool (*look)(GwCheckRun *run, GwVm *vm, const char *id);
} SourceRow;

static bool
look_running(GwCheckRun *run, GwVm *vm, const char *id)
{
    if (!vm) {
        gw_check_add(run->checks, id, "error", "see 'godwit vm list'",
                     "there is no VM '%s' on this host", vm_name(run));
        return false;
    }
    if (gw_vm_state(vm) != GW_VM_RUNNING || !gw_vm_qmp(vm) || !gw_vm_run_info(vm)) {
        g_autofree char *remedy =
            g_strdup_printf("start it with 'godwit vm start %s'", vm_name(run));
        gw_check_add(run->checks, id, "error", remedy, "VM '%s' is %s, not running", vm_name(run),
                     gw_vm_state_name(gw_vm_state(vm)));
        return false;
    }
    gw_check_add(run->checks, id, "ok", NULL, "VM '%s' is running", vm_name(run));
    return true;
}

static bool
look_free(GwCheckRun *run, GwVm *vm, const char *id)
{
    const char *holder = gw_vm_held_by(vm);

    if (holder && strcmp(holder, gw_json_str(run->request, "move", "")) != 0) {
        gw_check_add(run->checks, id, "error",
                     "wait for it, or cancel it with 'godwit migration cancel'",
                     "VM '%s' is being moved by %s", vm_name(run), holder);
    } else {
        gw_check_add(run->checks, id, "ok", NULL, "no other move of this VM is under way");
    }
    return true;
}

static bool
look_elsewhere(GwCheckRun *run, GwVm *vm, const char *id)
{
    if (strcmp(target_name(run), run->moves->options.host_name) == 0) {
        gw_check_add(run->checks, id, "error", "name another host",
                     "VM '%s' is on host '%s' already", vm_name(run), target_name(run));
        return false;
    }
    return true;
}

/* QEMU before 9.0 loses guest writes when it migrates under TCG. */
static bool
look_tcg(GwCheckRun *run, GwVm *vm, const char *id)
{
    const json_t *info = gw_vm_run_info(vm);
    const char *version = gw_json_str(info, "qemu_version", "0");

    if (strcmp(gw_json_str(info, "accel", ""), "tcg") == 0 && atoi(version) < 9) {
        gw_check_add(
            run->checks, id, "error",
            "run the VM under QEMU 9.0 or newer (10.0 is in bookworm-backports) or under KVM",
            "QEMU %s damages a guest that it migrates under TCG", version);
    }
    return true;
}

static bool
look_extra(GwCheckRun *run, GwVm *vm, const char *id)
{
    if (gw_vm_definition(vm)->extra[0]) {
        gw_check_add(run->checks, id, "warning",
                     "see that what they name exists on the target, too",
                     "the definition has extra QEMU arguments, which cannot be checked");
    }
    return true;
}

static bool
look_user_nics(GwCheckRun *run, GwVm *vm, const char *id)
{
    const GPtrArray *nics = gw_vm_definition(vm)->nics;

    for (guint i = 0; i < nics->len; i++) {
        const GwNic *nic = g_ptr_array_index(nics, i);
        if (strcmp(nic->mode, "user") == 0) {
            gw_check_add(run->checks, id, "warning",
                         "use mode = bridge where connections must survive",
                         "NIC '%s' is in user mode: the guest's open connections end with the move",
                         nic->name);
        }
    }
    return true;
}

/* Pages that the guest has free are left out on purpose, and nobody can tell them from lost ones.
 */
static bool
look_verify(GwCheckRun *run, GwVm *vm, const char *id)
{
    bool hints = strcmp(gw_json_str(gw_vm_run_info(vm), "balloon", ""), "hint") == 0;

    if (gw_json_str(run->request, "verify", NULL) && hints) {
        gw_check_add(run->checks, id, "error",
                     "write 'balloon = plain' into its definition and start it anew, or move it "
                     "without --verify full",
                     "VM '%s' runs with 'balloon = hint': memory that it has free is not sent, so "
                     "it differs between the hosts",
                     vm_name(run));
    }
    return true;
}

static const SourceRow source_rows[] = {
    {"vm-running", look_running}, {"vm-free", look_free},          {"other-host", look_elsewhere},
    {"tcg-source", look_tcg},     {"extra-arguments", look_extra}, {"user-network", look_user_nics},
    {"verify", look_verify},
};

GwCheckRun *
gw_check_run(GwMoves *moves, json_t *request, GwCheckFn callback, void *data)
{
    GwCheckRun *run = g_new0(GwCheckRun, 1);
    bool go_on = true;

    run->moves = moves;
    run->request = json_incref(request);
    run->callback = callback;
    run->data = data;
    run->checks = json_array();
    run->timer = g_timeout_add(GW_CHECK_TIMEOUT_MS, on_timeout, run);
    for (size_t i = 0; i < G_N_ELEMENTS(source_rows) && go_on; i++) {
        go_on = source_rows[i].look(run, vm_of(run), source_rows[i].id);
    }
    if (go_on) {
        gather_facts(run, vm_of(run));
    } else {
        finish_soon(run);
    }
    return run;
}

void
gw_check_run_free(GwCheckRun *run)
{
    if (!run) {
        return;
    }
    GwVm *vm = vm_of(run);
    if (vm && gw_vm_qmp(vm)) {
        gw_qmp_forget(gw_vm_qmp(vm), run);
    }
    g_clear_handle_id(&run->timer, g_source_remove);
    g_clear_handle_id(&run->idle, g_source_remove);
    gw_file_probe_free(run->probe);
    gw_transport_probe_free(run->transport);
    gw_lane_free(run->lane);
    json_decref(run->request);
    json_decref(run->checks);
    json_decref(run->facts);
    g_free(run);
}

char *
gw_check_summary(const json_t *plan)
{
    g_autoptr(GString) text = g_string_new(NULL);
    size_t i;
    json_t *check;

    json_array_foreach(json_object_get(plan, "checks"), i, check)
    {
        if (strcmp(gw_json_str(check, "status", ""), "error") == 0) {
            g_string_append_printf(text, "%s%s (%s)", text->len > 0 ? "; " : "",
                                   gw_json_str(check, "message", ""),
                                   gw_json_str(check, "remedy", "no remedy known"));
        }
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}
