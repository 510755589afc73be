// SPDX-License-Identifier: Apache-2.0
/*
 * Routes of this host's VMs. Owns nothing; main context; errors are answered.
 *
 * A log is served in parts of at most LOG_PART_BYTES from an offset the client keeps, as text: what
 * is not UTF-8 is replaced, and a character that is not there whole yet is left for the next part.
 */
#include "api/routes.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define LOG_PART_BYTES 65536

/* An orderly shutdown may take this long at most. */
#define MAX_STOP_TIMEOUT_MS     (24 * 3600 * 1000)
#define DEFAULT_STOP_TIMEOUT_MS (120 * 1000)

/* The VM of the path, or NULL with the request answered. */
static GwVm *
find_vm(GwRequest *request, GwApi *api)
{
    GwVm *vm = gw_vms_find(api->vms, gw_request_arg(request));

    if (!vm) {
        gw_request_answer_error(
            request, g_error_new(GW_ERROR, GW_ERROR_NOT_FOUND,
                                 "no VM '%.80s' on host '%s': `godwit vm list` shows them",
                                 gw_request_arg(request), api->host_name));
    }
    return vm;
}

static void
vm_done(GwVm *vm, const GError *error, void *data)
{
    gw_request_answer(data, error ? NULL : gw_vm_json(vm), error);
}

/* After it the VM is not there any more. */
static void
vm_removed(GwVm *vm, const GError *error, void *data)
{
    gw_request_answer(data, NULL, error);
}

static void
list_vms(GwRequest *request, void *context)
{
    GwApi *api = context;
    g_autoptr(GPtrArray) vms = gw_vms_list(api->vms);
    json_t *list = json_array();
    json_t *answer = json_object();

    for (guint i = 0; i < vms->len; i++) {
        json_array_append_new(list, gw_vm_json(vms->pdata[i]));
    }
    json_object_set_new(answer, "vms", list);
    gw_request_answer(request, answer, NULL);
}

static void
show_vm(GwRequest *request, void *context)
{
    GwVm *vm = find_vm(request, context);

    if (vm) {
        gw_request_answer(request, gw_vm_json(vm), NULL);
    }
}

static void
define_vm(GwRequest *request, void *context)
{
    static const char *const members[] = {"definition", "source", NULL};
    GwApi *api = context;
    GError *error = NULL;
    const char *text;
    const char *source = "definition";
    const json_t *body = gw_request_body(request, members, &error);

    if (!body || !gw_json_need_string(body, "definition", &text, &error) ||
        !gw_json_opt_string(body, "source", &source, &error)) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    GwDefinition *definition = gw_definition_parse(text, strlen(text), source, &error);
    if (!definition) {
        gw_request_answer_error(request, error);
        return;
    }
    gw_request_set_subject(request, definition->name);
    gw_vms_define(api->vms, definition, vm_done, request);
}

static void
undefine_vm(GwRequest *request, void *context)
{
    GwApi *api = context;
    GwVm *vm = find_vm(request, api);

    if (vm) {
        gw_vms_undefine(api->vms, vm, vm_removed, request);
    }
}

static void
start_vm(GwRequest *request, void *context)
{
    GwApi *api = context;
    GwVm *vm = find_vm(request, api);

    if (vm) {
        gw_vms_start(api->vms, vm, vm_done, request);
    }
}

static void
stop_vm(GwRequest *request, void *context)
{
    static const char *const members[] = {"force", "timeout_ms", NULL};
    GwApi *api = context;
    GError *error = NULL;
    bool force = false;
    int64_t timeout_ms = DEFAULT_STOP_TIMEOUT_MS;
    const json_t *body = gw_request_body(request, members, &error);

    if (!body || !gw_json_opt_bool(body, "force", &force, &error) ||
        !gw_json_opt_int(body, "timeout_ms", 1, MAX_STOP_TIMEOUT_MS, &timeout_ms, &error)) {
        gw_request_answer_bad_input(request, error);
        return;
    }
    GwVm *vm = find_vm(request, api);
    if (vm) {
        gw_request_set_subject(request, force ? "by force" : NULL);
        gw_vms_stop(api->vms, vm, force, timeout_ms, vm_done, request);
    }
}

/* Without the beginning of a character at the end whose other bytes may still be written. */
static size_t
whole_characters(const char *text, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned char c = (unsigned char)text[len - back];
        size_t needs = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        if ((c & 0xc0) != 0x80) {
            return needs > back ? len - back : len;
        }
    }
    return len;
}

/*
 * {"text", "next_offset", "size"} from @offset on; from the start if the file is shorter than
 * that (it was begun anew). A log that does not exist yet is empty.
 */
static json_t *
read_log_part(const char *path, int64_t offset, GError **error)
{
    g_autofree char *part = g_malloc(LOG_PART_BYTES);
    g_auto(GwFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st = {0};
    ssize_t count = 0;

    if (fd >= 0 && fstat(fd, &st) == 0) {
        offset = offset > st.st_size ? 0 : offset;
        count = pread(fd, part, LOG_PART_BYTES, offset);
    } else if (errno != ENOENT) {
        count = -1;
    }
    if (count < 0) {
        gw_set_error_errno(error, errno, "cannot read the log '%s'", path);
        return NULL;
    }
    size_t len = whole_characters(part, (size_t)count);
    g_autofree char *text = g_utf8_make_valid(part, (gssize)len);
    json_t *answer = json_object();
    json_object_set_new(answer, "text", json_string(text));
    gw_json_set_int(answer, "next_offset", offset + (int64_t)len);
    gw_json_set_int(answer, "size", st.st_size);
    return answer;
}

static void
read_log(GwRequest *request, void *context)
{
    GError *error = NULL;
    int64_t offset;

    if (!gw_request_query_int(request, "offset", G_MAXINT64, 0, &offset, &error)) {
        gw_request_answer_error(request, error);
        return;
    }
    GwVm *vm = find_vm(request, context);
    if (!vm) {
        return;
    }
    g_autofree char *path = gw_vm_log_path(vm);
    json_t *answer = read_log_part(path, offset, &error);
    if (!answer) {
        gw_request_answer_error(request, error);
        return;
    }
    gw_request_answer(request, answer, NULL);
}

static void
show_console(GwRequest *request, void *context)
{
    GwVm *vm = find_vm(request, context);

    if (!vm) {
        return;
    }
    if (gw_vm_state(vm) == GW_VM_STOPPED) {
        gw_request_answer_error(
            request, g_error_new(GW_ERROR, GW_ERROR_STATE,
                                 "VM '%s' is stopped and has no console: `godwit vm start %s`",
                                 gw_vm_name(vm), gw_vm_name(vm)));
        return;
    }
    g_autofree char *folder = gw_vm_run_dir(vm);
    g_autofree char *path = g_build_filename(folder, "console.sock", NULL);
    json_t *answer = json_object();
    gw_json_set_str(answer, "path", path);
    gw_request_answer(request, answer, NULL);
}

const GwRoute gw_routes_vm[] = {
    {"GET", "/v1/vms", list_vms, .help = "the VMs of this host"},
    {"POST", "/v1/vms", define_vm, .changes = true,
     .help = "define a VM: {definition (a key file's text), source?}"},
    {"GET", "/v1/vms/{name}", show_vm, .help = "one VM"},
    {"DELETE", "/v1/vms/{name}", undefine_vm, .changes = true, .help = "forget a stopped VM"},
    {"POST", "/v1/vms/{name}/start", start_vm, .changes = true,
     .help = "start; answers when the guest runs"},
    {"POST", "/v1/vms/{name}/stop", stop_vm, .changes = true,
     .help = "stop; answers when QEMU is gone: {force?, timeout_ms?}"},
    {"GET", "/v1/vms/{name}/log", read_log, .help = "a part of QEMU's log from ?offset=N on"},
    {"GET", "/v1/vms/{name}/console", show_console, .help = "path of the console's socket"},
    {0},
};
