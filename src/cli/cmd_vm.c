// SPDX-License-Identifier: Apache-2.0
/*
 * `godwit vm …`. Owns nothing; one thread.
 */
#include "base/units.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/text.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEFINITION_BYTES ((size_t)64 * 1024)
#define LOG_POLL_US          (G_USEC_PER_SEC / 2)

/* The daemon's own limit, and some time for its answer. */
#define ANSWER_MS 30000

static void
print_warnings(const json_t *vm)
{
    const json_t *warning;
    size_t i;

    json_array_foreach(json_object_get(vm, "warnings"), i, warning)
    {
        g_autofree char *text = gw_text_escape(json_string_value(warning), false);
        fprintf(stderr, "warning: %s\n", text);
    }
}

/* One line about a VM after something was done to it, or its object. */
static void
print_done(const GwCli *cli, const json_t *vm, const char *done)
{
    if (cli->json) {
        gw_cli_print_json(vm, false);
        return;
    }
    g_autofree char *name = gw_text_escape(gw_json_str(vm, "name", "?"), false);
    printf("%s %s\n", name, done);
}

static bool
vm_define(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autofree char *text = gw_cli_read_file(args[0], MAX_DEFINITION_BYTES, error);
    if (!text) {
        return false;
    }
    if (!g_utf8_validate(text, -1, NULL)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is not UTF-8 text", args[0]);
        return false;
    }
    g_autoptr(json_t) body = json_object();
    gw_json_set_str(body, "definition", text);
    gw_json_set_str(body, "source", args[0]);
    g_autoptr(json_t) vm = gw_cli_call(cli, "POST", "/v1/vms", body, error);
    if (!vm) {
        return false;
    }
    print_warnings(vm);
    print_done(cli, vm, "is defined");
    return true;
}

static void
print_vm_table(const json_t *vms)
{
    static const char *const headings[] = {"NAME",  "STATE", "VCPUS", "MEMORY",
                                           "ACCEL", "MOVE",  NULL};
    g_autoptr(GwTable) table = gw_table_new(headings);
    const json_t *vm;
    size_t i;

    json_array_foreach(vms, i, vm)
    {
        const json_t *definition = json_object_get(vm, "definition");
        g_autofree char *memory = gw_text_size(definition, "memory_bytes");
        g_autofree char *vcpus =
            g_strdup_printf("%" G_GINT64_FORMAT, gw_json_int(definition, "vcpus", 0));
        gw_table_add(table, gw_json_str(vm, "name", NULL), gw_json_str(vm, "state", NULL), vcpus,
                     memory, gw_json_str(json_object_get(vm, "run"), "accel", NULL),
                     gw_json_str(vm, "held_by", NULL));
    }
    g_autofree char *text = gw_table_text(table);
    fputs(text, stdout);
}

static bool
vm_list(GwCli *cli, char **args, GError **error)
{
    gboolean names = FALSE;
    const GOptionEntry options[] = {
        {"names", 0, 0, G_OPTION_ARG_NONE, &names, "Print the names only", NULL}, {0}};

    if (!gw_cli_parse(cli, args, options, 0, 0, error)) {
        return false;
    }
    g_autoptr(json_t) answer = gw_cli_call(cli, "GET", "/v1/vms", NULL, error);
    if (!answer) {
        return false;
    }
    const json_t *vms = json_object_get(answer, "vms");
    if (names) {
        gw_cli_print_members(vms, "name");
    } else if (cli->json) {
        gw_cli_print_json(vms, false);
    } else {
        print_vm_table(vms);
    }
    return true;
}

static void
print_field(const char *label, const char *value)
{
    if (value) {
        g_autofree char *safe = gw_text_escape(value, false);
        printf("  %-14s%s\n", label, safe);
    }
}

static void
print_devices(const json_t *definition)
{
    const json_t *device;
    size_t i;

    json_array_foreach(json_object_get(definition, "disks"), i, device)
    {
        g_autofree char *text = g_strdup_printf(
            "%s: %s (%s, %s%s)", gw_json_str(device, "name", "?"), gw_json_str(device, "path", "?"),
            gw_json_str(device, "format", "?"), gw_json_str(device, "bus", "?"),
            gw_json_bool(device, "read_only", false) ? ", read-only" : "");
        print_field("disk", text);
    }
    json_array_foreach(json_object_get(definition, "nics"), i, device)
    {
        g_autofree char *text = g_strdup_printf(
            "%s: %s %s %s", gw_json_str(device, "name", "?"), gw_json_str(device, "mode", "?"),
            gw_json_str(device, "bridge", ""), gw_json_str(device, "mac", ""));
        print_field("nic", text);
    }
}

static void
print_vm(const json_t *vm)
{
    const json_t *definition = json_object_get(vm, "definition");
    const json_t *run = json_object_get(vm, "run");
    g_autofree char *name = gw_text_escape(gw_json_str(vm, "name", "?"), false);
    g_autofree char *memory = gw_text_size(definition, "memory_bytes");
    g_autofree char *vcpus =
        g_strdup_printf("%" G_GINT64_FORMAT, gw_json_int(definition, "vcpus", 0));
    g_autofree char *owner =
        g_strdup_printf("%s (generation %" G_GINT64_FORMAT ")", gw_json_str(vm, "host", "-"),
                        gw_json_int(vm, "generation", 0));

    printf("%s\n", name);
    print_field("state", gw_json_str(vm, "state", NULL));
    print_field("stopped by", gw_json_str(vm, "stop_reason", NULL));
    print_field("owner", owner);
    print_field("move", gw_json_str(vm, "held_by", NULL));
    print_field("vcpus", vcpus);
    print_field("memory", memory);
    print_field("machine", gw_json_str(definition, "machine", NULL));
    print_field("cpu", gw_json_str(run, "cpu", gw_json_str(definition, "cpu", NULL)));
    print_field("firmware", gw_json_str(definition, "firmware", NULL));
    print_field("accelerator", gw_json_str(run, "accel", gw_json_str(definition, "accel", NULL)));
    print_field("balloon", gw_json_str(run, "balloon", gw_json_str(definition, "balloon", NULL)));
    print_field("QEMU", gw_json_str(run, "qemu_version", NULL));
    print_field("kernel", gw_json_str(definition, "kernel", NULL));
    print_field("initrd", gw_json_str(definition, "initrd", NULL));
    print_field("append", gw_json_str(definition, "append", NULL));
    print_devices(definition);
    print_warnings(vm);
}

/* METHOD /v1/vms/NAME… for a command whose only argument is the VM. */
static json_t *
call_vm(GwCli *cli, const char *method, const char *name, const char *suffix, GError **error)
{
    g_autofree char *path = gw_client_path("/v1/vms/", name, suffix);

    return gw_cli_call(cli, method, path, NULL, error);
}

static bool
vm_show(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autoptr(json_t) vm = call_vm(cli, "GET", args[0], "", error);
    if (!vm) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(vm, false);
    } else {
        print_vm(vm);
    }
    return true;
}

static bool
vm_start(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autoptr(json_t) vm = call_vm(cli, "POST", args[0], "/start", error);
    if (vm) {
        print_done(cli, vm, "is running");
    }
    return vm != NULL;
}

static bool
vm_stop(GwCli *cli, char **args, GError **error)
{
    gboolean force = FALSE;
    g_autofree char *timeout = NULL;
    int64_t timeout_ms = 120 * 1000;
    const GOptionEntry options[] = {
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, "Kill QEMU: as if the power was cut", NULL},
        {"timeout", 0, 0, G_OPTION_ARG_STRING, &timeout,
         "How long the guest may take to shut down (2min)", "T"},
        {0}};

    if (!gw_cli_parse(cli, args, options, 1, 1, error) ||
        !gw_cli_duration_ms("--timeout", timeout, &timeout_ms, error)) {
        return false;
    }
    g_autoptr(json_t) body = json_object();
    gw_json_set_bool(body, "force", force);
    gw_json_set_int(body, "timeout_ms", timeout_ms);
    g_autofree char *path = gw_client_path("/v1/vms/", args[0], "/stop");
    gw_client_set_timeout_ms(gw_cli_client(cli), timeout_ms + ANSWER_MS);
    g_autoptr(json_t) vm = gw_cli_call(cli, "POST", path, body, error);
    if (vm) {
        print_done(cli, vm, "is stopped");
    }
    return vm != NULL;
}

static bool
vm_console(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autoptr(json_t) answer = call_vm(cli, "GET", args[0], "/console", error);
    if (!answer) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(answer, false);
        return true;
    }
    return gw_console_attach(args[0], gw_json_str(answer, "path", ""), error);
}

/* What there is from *@offset on; *@offset then is where the next part begins. */
static bool
print_log(GwCli *cli, const char *name, int64_t *offset, GError **error)
{
    for (;;) {
        g_autofree char *suffix = g_strdup_printf("/log?offset=%" G_GINT64_FORMAT, *offset);
        g_autoptr(json_t) part = call_vm(cli, "GET", name, suffix, error);
        if (!part) {
            return false;
        }
        const char *raw = gw_json_str(part, "text", "");
        g_autofree char *text = gw_text_escape(raw, true);
        fputs(text, stdout);
        *offset = gw_json_int(part, "next_offset", *offset);
        if (!raw[0]) {
            fflush(stdout);
            return true;
        }
    }
}

static bool
vm_log(GwCli *cli, char **args, GError **error)
{
    gboolean follow = FALSE;
    int64_t offset = 0;
    const GOptionEntry options[] = {
        {"follow", 'f', 0, G_OPTION_ARG_NONE, &follow, "Go on as it grows, until Ctrl-C", NULL},
        {0}};

    if (!gw_cli_parse(cli, args, options, 1, 1, error)) {
        return false;
    }
    do {
        if (!print_log(cli, args[0], &offset, error)) {
            return false;
        }
        if (follow) {
            g_usleep(LOG_POLL_US);
        }
    } while (follow);
    return true;
}

static bool
vm_undefine(GwCli *cli, char **args, GError **error)
{
    if (!gw_cli_parse(cli, args, NULL, 1, 1, error)) {
        return false;
    }
    g_autoptr(json_t) answer = call_vm(cli, "DELETE", args[0], "", error);
    if (!answer) {
        return false;
    }
    if (cli->json) {
        gw_cli_print_json(answer, false);
    } else {
        printf("%s is not defined any more\n", args[0]);
    }
    return true;
}

const GwCommand gw_commands_vm[] = {
    {"vm", "define", "FILE", "define a VM from a key file (- for stdin)", vm_define},
    {"vm", "list", "", "list this host's VMs", vm_list},
    {"vm", "show", "VM", "show one VM", vm_show},
    {"vm", "start", "VM", "start a VM and wait until it runs", vm_start},
    {"vm", "stop", "VM", "shut a VM down and wait until it is off", vm_stop},
    {"vm", "console", "VM", "attach this terminal to a VM's console (Ctrl-] leaves)", vm_console},
    {"vm", "log", "VM", "print what QEMU said", vm_log},
    {"vm", "undefine", "VM", "forget a stopped VM", vm_undefine},
    {0},
};
