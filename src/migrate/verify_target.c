// SPDX-License-Identifier: Apache-2.0
/*
 * `--verify full` on the receiving host: answers the source's questions for hashes of the memory
 * that QEMU has loaded, one at a time.
 *
 * Main context. Owns the question and the hashing. Answers only between "loaded" and the source's
 * word that it gave the guest up. A question that cannot be answered fails the move: REFUSED.
 */
#include "base/fault.h"
#include "migrate/ram_hash.h"

static void serve(GwTarget *target);

static void
fail(GwTarget *target, const GError *error)
{
    gw_move_fail(target->move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                 "VM '%s': its memory on host '%s' could not be compared: %s",
                 target->move->vm_name, target->move->moves->options.host_name, error->message);
}

static void
on_hashed(GBytes *hashes, const GError *error, void *data)
{
    GwTarget *target = data;
    gsize len = 0;

    target->verifying = false;
    if (error) {
        fail(target, error);
        return;
    }
    g_autoptr(json_t) question = g_steal_pointer(&target->verify);
    const void *bytes = g_bytes_get_data(hashes, &len);
    g_autofree char *text = g_base64_encode(bytes, len);
    gw_move_send(target->move, target->lane, "verified",
                 json_pack("{s:I, s:I, s:s}", "start",
                           (json_int_t)gw_json_int(question, "start", 0), "unit",
                           (json_int_t)gw_json_int(question, "unit", 0), "hashes", text));
}

static void
on_ready(const GPtrArray *ranges, const GError *error, void *data)
{
    GwTarget *target = data;

    if (error) {
        fail(target, error);
        return;
    }
    target->hash_is_ready = true;
    serve(target);
}

static bool
ask(GwTarget *target, GError **error)
{
    int64_t start, bytes, unit, seed;

    if (!gw_json_need_int(target->verify, "start", 0, G_MAXINT64, &start, error) ||
        !gw_json_need_int(target->verify, "bytes", 1, GW_RAM_HASH_MAX_BYTES, &bytes, error) ||
        !gw_json_need_int(target->verify, "unit", GW_RAM_PAGE_BYTES, GW_RAM_HASH_MAX_BYTES, &unit,
                          error) ||
        !gw_json_need_int(target->verify, "seed", 0, G_MAXINT64, &seed, error)) {
        return false;
    }
    GwRamHashRequest request = {
        .start = (uint64_t)start,
        .bytes = (uint64_t)bytes,
        .unit_bytes = (uint64_t)unit,
        .seed = (uint64_t)seed,
    };
    return gw_ram_hash_ask(target->hash, &request, on_hashed, target, error);
}

static void
serve(GwTarget *target)
{
    g_autoptr(GError) error = NULL;

    if (!target->loaded || !target->verify || target->verifying) {
        return;
    }
    if (!target->hash) {
        gw_fault_point("verifying");
        target->hash = gw_ram_hash_new(target->move, on_ready, target, &error);
    } else if (target->hash_is_ready) {
        target->verifying = ask(target, &error);
    }
    if (error) {
        fail(target, error);
    }
}

void
gw_target_verify(GwTarget *target, json_t *message)
{
    if (target->verify) {
        return; /* one at a time: a source that waits for no answer gets none */
    }
    target->verify = json_incref(message);
    serve(target);
}

void
gw_target_verify_loaded(GwTarget *target)
{
    if (target->move->state == GW_MOVE_INCOMING) {
        serve(target);
    }
}

void
gw_target_verify_free(GwTarget *target)
{
    g_clear_pointer(&target->hash, gw_ram_hash_free);
    g_clear_pointer(&target->verify, json_decref);
    target->hash_is_ready = false;
    target->verifying = false;
}
