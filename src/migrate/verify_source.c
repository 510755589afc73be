// SPDX-License-Identifier: Apache-2.0
/*
 * `--verify full` on the sending host: before the guest is given up its memory, as QEMU has it on
 * both hosts, is compared by hashes.
 *
 * Both guests stand still: ours has sent its last byte, the target's has been loaded and not
 * started. Piece by piece (WINDOW_BYTES) the target is asked for a hash of each CHUNK_BYTES while
 * our own are made; where they differ the question is asked again page by page, so that the error
 * names addresses. The first piece that differs ends the move, and the guest goes on here.
 *
 * Main context. Owns the hashes of one piece on either side. Fails by FAILED; a target that does
 * not answer is left to the state's timer, which has gw_verify_timeout_ms() more for this.
 */
#include "base/units.h"
#include "migrate/ram_hash.h"

#include <string.h>
#include <unistd.h>

#define WINDOW_BYTES  GW_RAM_HASH_MAX_BYTES
#define CHUNK_BYTES   (256u * 1024u)
#define MAX_DRILLS    8u /* chunks of one piece that are looked at page by page */
#define MAX_NAMED     4u /* pages in the message */
#define BASE_MS       30000
#define SLOWEST_MIB_S 32u

G_STATIC_ASSERT(WINDOW_BYTES / CHUNK_BYTES <= GW_RAM_HASH_MAX_UNITS);
G_STATIC_ASSERT(CHUNK_BYTES / GW_RAM_PAGE_BYTES <= GW_RAM_HASH_MAX_UNITS);

typedef struct GwSourceVerify {
    GwSource *source;
    GwRamHash *hash;
    const GPtrArray *ranges; /* the hash's; NULL until it is ready */
    guint range;             /* the piece that comes next */
    uint64_t range_done_bytes;
    GwRamHashRequest request; /* the one that is asked */
    GBytes *ours;
    GBytes *theirs;
    GwRamHashRequest drills[MAX_DRILLS];
    unsigned n_drills;
    unsigned n_drilled;
    uint64_t pages;
    uint64_t mismatches;
    GString *named;
    int64_t started_us;
} GwSourceVerify;

int64_t
gw_verify_timeout_ms(uint64_t memory_bytes)
{
    return BASE_MS + (int64_t)(memory_bytes / (SLOWEST_MIB_S * 1024 * 1024)) * 1000;
}

bool
gw_source_verify_is_due(const GwSource *source)
{
    return json_object_get(source->move->record, "verify") && !source->verified;
}

static void
note(GwSourceVerify *verify)
{
    json_t *record = json_object_get(verify->source->move->record, "verify");

    gw_json_set_int(record, "pages", (int64_t)verify->pages);
    gw_json_set_int(record, "ms", (gw_now_us() - verify->started_us) / 1000);
    gw_json_set_int(record, "mismatches", (int64_t)verify->mismatches);
}

static void
fail(GwSourceVerify *verify, const char *why)
{
    GwMove *move = verify->source->move;

    note(verify);
    gw_move_fail(move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
                 "VM '%s': its memory could not be compared with the copy on host '%s': %s",
                 move->vm_name, move->peer, why);
}

static void
fail_mismatch(GwSourceVerify *verify)
{
    GwMove *move = verify->source->move;

    note(verify);
    gw_move_fail(
        move, GW_MOVE_EVENT_FAILED, GW_ERROR_FAILED,
        "VM '%s': its memory on host '%s' is not the same as on host '%s' in %" G_GUINT64_FORMAT
        " pages or more (%s): the guest goes on on host '%s'; try --transport direct, and "
        "report this with both daemons' logs",
        move->vm_name, move->peer, move->moves->options.host_name, verify->mismatches,
        verify->named->str, move->moves->options.host_name);
}

/* --- comparing -------------------------------------------------------------------------------- */

/* "pc.ram 0x6400000 (physical 0x6400000)" */
static void
name_page(GwSourceVerify *verify, uint64_t address)
{
    GString *out = verify->named;

    if (verify->mismatches > MAX_NAMED) {
        return;
    }
    for (guint i = 0; i < verify->ranges->len; i++) {
        const GwRamRange *range = verify->ranges->pdata[i];
        if (address >= range->start && address - range->start < range->bytes) {
            g_string_append_printf(
                out, "%s%s at 0x%" G_GINT64_MODIFIER "x, physical 0x%" G_GINT64_MODIFIER "x",
                out->len > 0 ? "; " : "", range->block, range->offset + (address - range->start),
                address);
        }
    }
}

static void
note_difference(GwSourceVerify *verify, unsigned unit)
{
    const GwRamHashRequest *request = &verify->request;
    uint64_t at = unit * request->unit_bytes;

    if (request->unit_bytes == GW_RAM_PAGE_BYTES) {
        verify->mismatches++;
        name_page(verify, request->start + at);
    } else if (verify->n_drills < MAX_DRILLS) {
        verify->drills[verify->n_drills++] = (GwRamHashRequest){
            .start = request->start + at,
            .bytes = MIN(request->unit_bytes, request->bytes - at),
            .unit_bytes = GW_RAM_PAGE_BYTES,
            .seed = request->seed,
        };
    }
}

static void ask(GwSourceVerify *verify, const GwRamHashRequest *request);

static void
finish(GwSourceVerify *verify)
{
    GwSource *source = verify->source;
    GwLogFields fields = gw_move_log_fields(source->move);

    note(verify);
    gw_info(&fields,
            "all %" G_GUINT64_FORMAT " pages of memory are the same on host '%s', %" G_GINT64_FORMAT
            " ms",
            verify->pages, source->move->peer, (gw_now_us() - verify->started_us) / 1000);
    gw_source_verify_free(source);
    source->verified = true;
    gw_source_check_sent(source);
}

static void
go_on(GwSourceVerify *verify)
{
    if (verify->n_drilled < verify->n_drills) {
        ask(verify, &verify->drills[verify->n_drilled++]);
        return;
    }
    if (verify->mismatches > 0) {
        fail_mismatch(verify);
        return;
    }
    if (verify->range == verify->ranges->len) {
        finish(verify);
        return;
    }
    const GwRamRange *range = verify->ranges->pdata[verify->range];
    GwRamHashRequest piece = {
        .start = range->start + verify->range_done_bytes,
        .bytes = MIN(range->bytes - verify->range_done_bytes, WINDOW_BYTES),
        .unit_bytes = CHUNK_BYTES,
        .seed = verify->request.seed,
    };
    verify->range_done_bytes += piece.bytes;
    if (verify->range_done_bytes == range->bytes) {
        verify->range++;
        verify->range_done_bytes = 0;
    }
    ask(verify, &piece);
}

/* The first that was not drilled for lack of room is counted by none: hence "or more". */
static void
compare(GwSourceVerify *verify)
{
    if (!verify->ours || !verify->theirs) {
        return;
    }
    const uint8_t *ours = g_bytes_get_data(verify->ours, NULL);
    const uint8_t *theirs = g_bytes_get_data(verify->theirs, NULL);

    for (unsigned i = 0; i < gw_ram_hash_units(&verify->request); i++) {
        if (memcmp(ours + i * GW_RAM_HASH_BYTES, theirs + i * GW_RAM_HASH_BYTES,
                   GW_RAM_HASH_BYTES) != 0) {
            note_difference(verify, i);
        }
    }
    if (verify->request.unit_bytes != GW_RAM_PAGE_BYTES) {
        verify->pages += verify->request.bytes / GW_RAM_PAGE_BYTES;
        note(verify);
    }
    g_clear_pointer(&verify->ours, g_bytes_unref);
    g_clear_pointer(&verify->theirs, g_bytes_unref);
    go_on(verify);
}

/* --- asking ----------------------------------------------------------------------------------- */

static void
on_hashed(GBytes *hashes, const GError *error, void *data)
{
    GwSourceVerify *verify = data;

    if (error) {
        fail(verify, error->message);
        return;
    }
    verify->ours = g_bytes_ref(hashes);
    compare(verify);
}

static void
ask(GwSourceVerify *verify, const GwRamHashRequest *request)
{
    GwSource *source = verify->source;
    g_autoptr(GError) error = NULL;

    verify->request = *request;
    if (!gw_ram_hash_ask(verify->hash, request, on_hashed, verify, &error)) {
        fail(verify, error->message);
        return;
    }
    gw_move_send(source->move, source->lane, "verify",
                 json_pack("{s:I, s:I, s:I, s:I}", "start", (json_int_t)request->start, "bytes",
                           (json_int_t)request->bytes, "unit", (json_int_t)request->unit_bytes,
                           "seed", (json_int_t)request->seed));
}

void
gw_source_verify_answer(GwSource *source, const json_t *message)
{
    GwSourceVerify *verify = source->verify;
    const GwRamHashRequest *request = verify ? &verify->request : NULL;
    gsize len = 0;

    if (!verify || verify->theirs || gw_json_int(message, "start", -1) != (int64_t)request->start ||
        gw_json_int(message, "unit", -1) != (int64_t)request->unit_bytes) {
        return; /* an answer to what is not asked (any more) */
    }
    guchar *hashes = g_base64_decode(gw_json_str(message, "hashes", ""), &len);
    verify->theirs = g_bytes_new_take(hashes, len);
    if (len != gw_ram_hash_units(request) * GW_RAM_HASH_BYTES) {
        fail(verify, "its answer has another number of hashes than was asked for");
        return;
    }
    compare(verify);
}

/* --- beginning and end ------------------------------------------------------------------------ */

static void
on_ready(const GPtrArray *ranges, const GError *error, void *data)
{
    GwSourceVerify *verify = data;

    if (error) {
        fail(verify, error->message);
        return;
    }
    verify->ranges = ranges;
    go_on(verify);
}

void
gw_source_verify_begin(GwSource *source)
{
    g_autoptr(GError) error = NULL;

    if (source->verify || source->move->state != GW_MOVE_SWITCHOVER) {
        return;
    }
    GwSourceVerify *verify = g_new0(GwSourceVerify, 1);
    source->verify = verify;
    verify->source = source;
    verify->named = g_string_new(NULL);
    verify->started_us = gw_now_us();
    /* Without random numbers any seed will do: what is looked for is damage, not an attack. */
    if (getentropy(&verify->request.seed, sizeof verify->request.seed) == 0) {
        verify->request.seed >>= 1; /* JSON's integers have a sign */
    }
    verify->hash = gw_ram_hash_new(source->move, on_ready, verify, &error);
    if (!verify->hash) {
        fail(verify, error->message);
    }
}

void
gw_source_verify_free(GwSource *source)
{
    GwSourceVerify *verify = g_steal_pointer(&source->verify);

    if (!verify) {
        return;
    }
    gw_ram_hash_free(verify->hash);
    g_clear_pointer(&verify->ours, g_bytes_unref);
    g_clear_pointer(&verify->theirs, g_bytes_unref);
    g_string_free(verify->named, TRUE);
    g_free(verify);
}
