// SPDX-License-Identifier: Apache-2.0
/*
 * What two hosts agree on before a stream, with hostile offers; indexes made ahead; the folder of
 * visits and its bounds.
 */
#include "../lane/test-image-files.h"
#include "base/units.h"
#include "migrate/references.h"
#include "support.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <utime.h>

#define MOVE "m-0123456789ab"

/* --- probes ----------------------------------------------------------------------------------- */

typedef struct Probing {
    GwRefProbe *probe;
    bool done;
    json_t *offers;
    json_t *taken;
    GwRefSource *source;
    GwRefTarget *images;
} Probing;

static void
probing_clear(Probing *probing)
{
    json_decref(probing->offers);
    json_decref(probing->taken);
    gw_ref_source_free(probing->source);
    gw_ref_target_free(probing->images);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Probing, probing_clear)

static void
on_offers(json_t *offers, GwRefSource *source, void *data)
{
    Probing *probing = data;

    probing->offers = json_incref(offers);
    probing->source = source;
    probing->done = true;
    g_clear_pointer(&probing->probe, gw_ref_probe_free);
}

static void
on_taken(json_t *taken, GwRefTarget *images, void *data)
{
    Probing *probing = data;

    probing->taken = json_incref(taken);
    probing->images = images;
    probing->done = true;
    g_clear_pointer(&probing->probe, gw_ref_probe_free);
}

static void
offer(Probing *probing, const GwRefProbeOptions *options)
{
    probing->done = false;
    probing->probe = gw_ref_probe_source(options, on_offers, probing);
    WAIT_FOR(probing->done);
}

static void
take(Probing *probing, const GwRefProbeOptions *options, const json_t *offers)
{
    g_clear_pointer(&probing->taken, json_decref);
    g_clear_pointer(&probing->images, gw_ref_target_free);
    probing->done = false;
    probing->probe = gw_ref_probe_target(options, offers, on_taken, probing);
    WAIT_FOR(probing->done);
}

static GwDefinition *
define(const ImageFiles *files, const char *top)
{
    g_autofree char *text = g_strdup_printf("[vm]\nname = web\nmemory = 64 MiB\n"
                                            "[disk root]\npath = %s/%s\nformat = qcow2\n"
                                            "[disk data]\npath = %s/data\nformat = raw\n"
                                            "[disk gone]\npath = %s/gone\nformat = raw\n",
                                            files->folder, top, files->folder, files->folder);
    g_autoptr(GError) error = NULL;
    GwDefinition *definition = gw_definition_parse(text, strlen(text), "test", &error);

    g_assert_no_error(error);
    return definition;
}

static bool
make_disks(ImageFiles *files)
{
    if (!image_files_init(files)) {
        return false;
    }
    image_write_raw(files, "base", 500, 1);
    image_write_raw(files, "data", 300, 2);
    image_run(files, "qemu-img create -f qcow2 -F raw -b base top.qcow2");
    image_scribble(files, "top.qcow2", "qcow2", 40, "w");
    image_run(files, "qemu-img create -f qcow2 other.qcow2 2000k");
    return true;
}

static void
test_agreement(void)
{
    g_auto(Probing) probing = {0};
    ImageFiles files;

    if (!make_disks(&files)) {
        return;
    }
    g_autoptr(GwDefinition) definition = define(&files, "top.qcow2");
    g_autoptr(GwDefinition) other = define(&files, "other.qcow2");
    const GwRefProbeOptions options = {.definition = definition, .peer = "beta"};

    offer(&probing, &options);
    g_assert_nonnull(probing.source);
    g_assert_cmpuint(json_array_size(probing.offers), ==, 3); /* top, base, data */
    g_autofree char *text = gw_json_text(probing.offers);

    g_assert_null(strstr(text, files.folder)); /* no paths travel */
    take(&probing, &options, probing.offers);
    g_assert_cmpuint(json_array_size(probing.taken), ==, 3);
    g_assert_nonnull(probing.images);
    /* A target that has another disk in the place of the first. */
    take(&probing, &(GwRefProbeOptions){.definition = other, .peer = "beta"}, probing.offers);
    g_autofree char *numbers = gw_json_text(probing.taken);

    g_assert_cmpstr(numbers, ==, "[2]");
    image_files_clear(&files);
}

static void
test_hostile_offers(void)
{
    static const char *const texts[] = {
        "{}",
        "[1, null, \"x\", [], {}]",
        "[{\"disk\": \"root\"}]",
        "[{\"disk\": \"root\", \"layer\": -1, \"blocks\": 1, \"samples\": []}]",
        "[{\"disk\": \"root\", \"layer\": 9, \"blocks\": 500, \"samples\": []}]",
        "[{\"disk\": \"data\", \"layer\": 1, \"blocks\": 300, \"samples\": []}]",
        "[{\"disk\": \"data\", \"layer\": 0, \"blocks\": 300, \"samples\": []}]",
        "[{\"disk\": \"none\", \"layer\": 0, \"blocks\": 300, \"samples\": []}]",
        "[{\"visit\": \"m-0123456789ab\"}]",
        "[{\"visit\": \"../../../etc/pass\"}]",
        "[{\"visit\": 7}]",
    };
    g_auto(Probing) probing = {0};
    ImageFiles files;

    if (!make_disks(&files)) {
        return;
    }
    g_autoptr(GwDefinition) definition = define(&files, "top.qcow2");
    const GwRefProbeOptions options = {
        .definition = definition, .peer = "beta", .visits_folder = files.folder};

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(json_t) offers = gw_json_parse(texts[i], strlen(texts[i]), 65536, "test", NULL);

        g_assert_nonnull(offers);
        take(&probing, &options, offers);
        g_assert_cmpuint(json_array_size(probing.taken), ==, 0);
        g_assert_null(probing.images);
    }
    /* More than there may be. */
    g_autoptr(json_t) many = json_array();

    offer(&probing, &options);
    for (unsigned i = 0; i < 1000; i++) {
        json_array_append(many, json_array_get(probing.offers, 2));
    }
    take(&probing, &options, many);
    g_assert_cmpuint(json_array_size(probing.taken), ==, GW_REF_MAX_IMAGES);
    image_files_clear(&files);
}

/* Nobody hears of a probe that was given up. */
static void
test_given_up(void)
{
    g_auto(Probing) probing = {0};
    ImageFiles files;

    if (!make_disks(&files)) {
        return;
    }
    g_autoptr(GwDefinition) definition = define(&files, "top.qcow2");
    const GwRefProbeOptions options = {.definition = definition, .peer = "beta"};

    gw_ref_probe_free(gw_ref_probe_source(&options, on_offers, &probing));
    offer(&probing, &options); /* behind it, in the same loop */
    g_assert_nonnull(probing.source);
    image_files_clear(&files);
}

/* --- visits ----------------------------------------------------------------------------------- */

static char *
file_in(const char *folder, const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static bool
is_there(const char *folder, const char *name)
{
    g_autofree char *path = file_in(folder, name);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void
put_file(const char *folder, const char *name, gsize bytes, int64_t age_s)
{
    g_autofree char *path = file_in(folder, name);
    g_autofree char *text = g_malloc0(bytes);
    time_t when = (time_t)(gw_wall_us() / G_USEC_PER_SEC - age_s);

    memset(text, 'x', bytes);
    g_assert_true(g_file_set_contents(path, text, (gssize)bytes, NULL));
    g_assert_cmpint(utime(path, &(struct utimbuf){when, when}), ==, 0);
}

static void
test_bounds(void)
{
    char *folder = test_folder_new();
    const GwVisitsOptions options = {
        .folder = folder, .max_bytes = 5 << 20, .max_age_ms = 3600 * 1000};

    put_file(folder, "a@beta@m-1.pages", 1 << 20, 10);
    put_file(folder, "b@beta@m-2.pages", 2 << 20, 20);
    put_file(folder, "c@beta@m-3.pages", 3 << 20, 30);
    put_file(folder, "d@beta@m-4.pages", 1000, 4000);
    put_file(folder, "d@beta@m-4.tags", 1000, 400000);
    put_file(folder, "e@beta@m-5.pages.part", 1000, 1);
    put_file(folder, "other", 1000, 1000000);
    g_autoptr(GwVisits) visits = gw_visits_new(&options);

    g_assert_true(is_there(folder, "a@beta@m-1.pages"));
    g_assert_true(is_there(folder, "b@beta@m-2.pages"));
    g_assert_false(is_there(folder, "c@beta@m-3.pages")); /* too much */
    g_assert_false(is_there(folder, "d@beta@m-4.pages")); /* too old */
    g_assert_true(is_there(folder, "d@beta@m-4.tags"));
    g_assert_false(is_there(folder, "e@beta@m-5.pages.part"));
    g_assert_true(is_there(folder, "other"));
    /* Room for one that leaves. */
    g_assert_false(gw_visits_keeps(visits, 6 << 20));
    g_assert_true(gw_visits_keeps(visits, 4 << 20));
    g_assert_null(gw_visits_begin(visits, "f", "beta", MOVE, 6 << 20));
    g_autoptr(GwVisitWriter) writer = gw_visits_begin(visits, "f", "beta", MOVE, 4 << 20);

    g_assert_nonnull(writer);
    g_assert_false(is_there(folder, "b@beta@m-2.pages"));
    g_assert_true(is_there(folder, "a@beta@m-1.pages"));
    gw_visits_forget(visits, "d");
    g_assert_false(is_there(folder, "d@beta@m-4.tags"));
    test_folder_free(folder);
}

static GwVisitTags *
some_tags(void)
{
    GwVisitTags *tags = gw_visit_tags_new(1 << 20);
    uint8_t page[GW_PAGE_BYTES] = {1};

    gw_visit_tags_add_block(tags, "pc.ram", 6);
    gw_visit_tags_put(tags, 0, 3, page);
    return tags;
}

/* alpha's VM goes to beta, comes back, and goes again; both hosts' folders. */
static void
test_coming_and_going(void)
{
    char *here = test_folder_new();
    char *there = test_folder_new();
    GwVisitsOptions options = {.folder = here, .max_bytes = 1 << 30, .max_age_ms = G_MAXINT};
    g_autoptr(GwVisits) alpha = gw_visits_new(&options);
    g_autoptr(GwDefinition) definition = NULL;
    static const char text[] = "[vm]\nname = web\nmemory = 64 MiB\n";
    uint8_t page[GW_PAGE_BYTES] = {1};
    g_auto(Probing) probing = {0};

    options.folder = there;
    g_autoptr(GwVisits) beta = gw_visits_new(&options);

    put_file(here, "web@beta@m-000000000000.pages", 10, 0);
    put_file(here, "web@gamma@m-000000000001.tags", 10, 0);
    put_file(here, "web2@gamma@m-000000000002.tags", 10, 0);
    GwVisitWriter *writer = gw_visits_begin(alpha, "web", "beta", MOVE, 64 << 20);

    g_assert_nonnull(writer);
    gw_visit_writer_put(writer, 0, 3, page);
    gw_visits_left(alpha, "web", MOVE, writer);
    gw_visits_came(beta, "web", "alpha", MOVE, some_tags());
    WAIT_FOR((g_usleep(1000), is_there(here, "web@beta@" MOVE ".pages")) &&
             is_there(there, "web@alpha@" MOVE ".tags"));
    g_assert_false(is_there(here, "web@beta@m-000000000000.pages"));
    g_assert_false(is_there(here, "web@gamma@m-000000000001.tags"));
    g_assert_true(is_there(here, "web2@gamma@m-000000000002.tags"));

    definition = gw_definition_parse(text, strlen(text), "test", NULL);
    const GwRefProbeOptions from = {
        .definition = definition, .peer = "alpha", .visits_folder = there};
    const GwRefProbeOptions to = {.definition = definition, .peer = "beta", .visits_folder = here};
    const GwRefProbeOptions elsewhere = {
        .definition = definition, .peer = "gamma", .visits_folder = there};

    offer(&probing, &from);
    g_autofree char *offered = gw_json_text(probing.offers);

    g_assert_cmpstr(offered, ==, "[{\"visit\":\"" MOVE "\"}]");
    take(&probing, &to, probing.offers);
    g_assert_cmpuint(json_array_size(probing.taken), ==, 1);
    g_auto(Probing) other = {0};

    offer(&other, &elsewhere);
    g_assert_null(other.source);
    gw_visits_came(alpha, "web", "beta", "m-aaaaaaaaaaaa", NULL);
    g_assert_false(is_there(here, "web@beta@" MOVE ".pages"));
    test_folder_free(here);
    test_folder_free(there);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/references/agreement", test_agreement);
    g_test_add_func("/references/hostile-offers", test_hostile_offers);
    g_test_add_func("/references/given-up", test_given_up);
    g_test_add_func("/visits/bounds", test_bounds);
    g_test_add_func("/visits/coming-and-going", test_coming_and_going);
    return g_test_run();
}
