// SPDX-License-Identifier: Apache-2.0
/*
 * The ladder of efforts against a model of a move: QEMU, encoders and a link of given speeds, of
 * which the slowest makes the others wait.
 */
#include "lane/adapt.h"
#include "lane/encodings.h"

#define PERIODS_PER_S 5u

typedef struct Model {
    double qemu_pages_s;
    double link_bytes_s;
    double busy; /* part of the processors that others use */
    unsigned n_encoders;
    GwAdapt adapt;
    unsigned n_changes;
} Model;

/* Of an effort: processor time and bytes of a page. */
static void
cost_of(const GwBatchEffort *effort, double *cpu_us, double *bytes)
{
    if (effort->codec->id == GW_CODEC_PLAIN) {
        *cpu_us = 0.05;
        *bytes = 4100;
        return;
    }
    if (effort->codec->single) {
        *cpu_us = 44;
        *bytes = 1570;
        return;
    }
    *cpu_us = effort->level >= 5 ? 25.7 : effort->level >= 3 ? 13 : effort->level >= 1 ? 7.5 : 5.1;
    *bytes = effort->level >= 5   ? 1690
             : effort->level >= 3 ? 1740
             : effort->level >= 1 ? 1930
                                  : 2520;
}

/* Pages per second that the encoders and the link are good for. */
static void
speeds_of(const Model *model, const GwBatchEffort *effort, double *encoder, double *link)
{
    unsigned n_encoders = effort->codec->single ? 1 : model->n_encoders;
    double cpu_us, bytes;

    cost_of(effort, &cpu_us, &bytes);
    *encoder = n_encoders * 1e6 * MIN(1, 2 - 2 * model->busy) / cpu_us;
    *link = model->link_bytes_s / bytes;
}

/* Pages per second in this period. */
static double
run_period(Model *model)
{
    GwBatchEffort before = gw_adapt_effort(&model->adapt, false);
    GwBatchEffort done = before;
    double encoder, link, cpu_us, bytes;

    speeds_of(model, &done, &encoder, &link);
    if (encoder < link) {
        done = gw_adapt_effort(&model->adapt, true);
        speeds_of(model, &done, &encoder, &link);
    }
    cost_of(&done, &cpu_us, &bytes);
    double pages = MIN(MIN(model->qemu_pages_s, encoder), link);
    /* What the stream thread would have taken without the one that holds it up. */
    double wait = 1 - pages / model->qemu_pages_s;
    double used = model->busy + pages * cpu_us / 1e6 / (2 * model->n_encoders);
    GwAdaptSample sample = {
        .period_us = GW_ADAPT_PERIOD_US,
        .waited_link_us = link < encoder ? (int64_t)(wait * GW_ADAPT_PERIOD_US) : 0,
        .waited_encoder_us = link < encoder ? 0 : (int64_t)(wait * GW_ADAPT_PERIOD_US),
        .encoder_cpu_us = (int64_t)(pages * cpu_us / PERIODS_PER_S),
        .n_encoders = model->n_encoders,
        .n_processors = 2 * model->n_encoders,
        .idle_percent = used >= 1 ? 0 : (unsigned)(100 * (1 - used)),
        .rate_bytes_s = (uint64_t)(pages * bytes),
        .taken_bytes = (uint64_t)(pages * 4104 / PERIODS_PER_S),
    };

    gw_adapt_sample(&model->adapt, &sample);
    GwBatchEffort now = gw_adapt_effort(&model->adapt, false);

    model->n_changes += now.codec != before.codec || now.level != before.level;
    return pages;
}

/* Mean pages per second over the last half of so much time. */
static double
run(Model *model, unsigned seconds)
{
    unsigned n = seconds * PERIODS_PER_S;
    double sum = 0;

    model->n_changes = 0;
    for (unsigned i = 0; i < n; i++) {
        double pages = run_period(model);

        sum += i >= n / 2 ? pages : 0;
    }
    return sum / (n - n / 2);
}

static void
model_init(Model *model, double link_bytes_s, double busy, unsigned encodings_off)
{
    *model = (Model){
        .qemu_pages_s = 500000,
        .link_bytes_s = link_bytes_s,
        .busy = busy,
        .n_encoders = 1,
    };
    gw_adapt_init(&model->adapt, encodings_off);
}

static void
expect(const Model *model, GwCodecId codec, int level)
{
    GwBatchEffort effort = gw_adapt_effort(&model->adapt, false);

    g_assert_cmpint(effort.codec->id, ==, codec);
    g_assert_cmpint(effort.level, ==, level);
}

static void
test_slow_link(void)
{
    Model model;

    model_init(&model, 12.5e6, 0.2, 0);
    run(&model, 4);
    expect(&model, GW_CODEC_ZSTD_WIDE, 8);
    g_assert_true(gw_adapt_effort(&model.adapt, false).zstd_deltas);
    run(&model, 60);
    g_assert_cmpuint(model.n_changes, ==, 0);
}

/* The guest needs the processors: no more than the common effort. */
static void
test_slow_link_busy_host(void)
{
    Model model;

    model_init(&model, 12.5e6, 0.95, 0);
    run(&model, 60);
    expect(&model, GW_CODEC_ZSTD_STREAM, 1);
    g_assert_cmpuint(model.n_changes, ==, 0);

    /* It was idle, and becomes busy. */
    model_init(&model, 12.5e6, 0.1, 0);
    run(&model, 4);
    expect(&model, GW_CODEC_ZSTD_WIDE, 8);
    model.busy = 0.94;
    run(&model, 4);
    expect(&model, GW_CODEC_ZSTD_STREAM, 1);
}

/* Faster than any codec: plain, and hardly a try at anything else. */
static void
test_fast_link(void)
{
    Model model;

    model_init(&model, 10e9, 0.3, 0);
    run(&model, 2);
    expect(&model, GW_CODEC_PLAIN, 0);
    g_assert_false(gw_adapt_effort(&model.adapt, false).zstd_deltas);
    g_assert_cmpfloat(run(&model, 60), >, 0.97 * model.qemu_pages_s);
}

/*
 * At every speed nearly as good as the best fixed effort. Where an effort is as quick as the link
 * is without it, the lower one is taken, which leaves the processors to the guest.
 */
static void
test_never_far_from_the_best(void)
{
    static const double links[] = {1e6, 12.5e6, 125e6, 312e6, 625e6, 1250e6, 3e9, 5e9};
    static const GwBatchEffort fixed[] = {
        {.codec = &gw_codec_plain},
        {.codec = &gw_codec_zstd_stream, .level = -7},
        {.codec = &gw_codec_zstd_stream, .level = 1},
        {.codec = &gw_codec_zstd_stream, .level = 3},
        {.codec = &gw_codec_zstd_stream, .level = 5},
        {.codec = &gw_codec_zstd_wide, .level = 8},
    };

    for (unsigned n_encoders = 1; n_encoders <= 4; n_encoders *= 2) {
        for (size_t i = 0; i < G_N_ELEMENTS(links); i++) {
            double best = 0;
            Model model;

            for (size_t k = 0; k < G_N_ELEMENTS(fixed); k++) {
                double cpu_us, bytes;

                cost_of(&fixed[k], &cpu_us, &bytes);
                double n = fixed[k].codec->single ? 1 : n_encoders;
                best = MAX(best, MIN(n * 1e6 / cpu_us, links[i] / bytes));
            }
            model_init(&model, links[i], 0.3, 0);
            model.n_encoders = n_encoders;
            best = MIN(best, model.qemu_pages_s);
            double pages = run(&model, 60);

            g_test_message("%u encoders, %.0f MB/s: %.0f pages/s of %.0f, %u changes", n_encoders,
                           links[i] / 1e6, pages, best, model.n_changes);
            g_assert_cmpfloat(pages, >, 0.85 * best);
            g_assert_cmpuint(model.n_changes, <, 30);
        }
    }
}

static void
test_link_changes(void)
{
    Model model;

    model_init(&model, 10e9, 0.3, 0);
    run(&model, 20);
    expect(&model, GW_CODEC_PLAIN, 0);
    model.link_bytes_s = 12.5e6;
    run(&model, 35);
    expect(&model, GW_CODEC_ZSTD_WIDE, 8);
    model.link_bytes_s = 10e9;
    run(&model, 2);
    expect(&model, GW_CODEC_PLAIN, 0);
}

static void
test_zstd_switched_off(void)
{
    Model model;

    model_init(&model, 1e6, 0, GW_ENCODING_ZSTD);
    run(&model, 10);
    expect(&model, GW_CODEC_PLAIN, 0);
    g_assert_cmpuint(model.n_changes, ==, 0);
}

/* The link runs dry: no waiting for the far view, and no stream begins anew for it. */
static void
test_hurry(void)
{
    Model model;

    model_init(&model, 12.5e6, 0.2, 0);
    for (unsigned i = 0; i < 20; i++) {
        GwBatchEffort calm = gw_adapt_effort(&model.adapt, false);
        GwBatchEffort hurry = gw_adapt_effort(&model.adapt, true);

        g_assert_false(hurry.codec->single);
        g_assert_true(calm.codec->single ||
                      (calm.codec == hurry.codec && calm.level == hurry.level));
        run_period(&model);
    }
    expect(&model, GW_CODEC_ZSTD_WIDE, 8);
    g_assert_cmpint(gw_adapt_effort(&model.adapt, true).level, ==, 1);
}

/* A clock that stands still, no encoders: nothing to divide by. */
static void
test_no_measures(void)
{
    GwAdapt adapt;

    gw_adapt_init(&adapt, 0);
    gw_adapt_sample(&adapt, &(GwAdaptSample){.n_encoders = 1});
    gw_adapt_sample(&adapt, &(GwAdaptSample){.period_us = 1000});
    g_assert_cmpint(gw_adapt_effort(&adapt, false).level, ==, 1);
}

static const GwAdaptSample encoders_too_slow = {
    .period_us = GW_ADAPT_PERIOD_US,
    .waited_encoder_us = GW_ADAPT_PERIOD_US,
    .n_encoders = 1,
    .n_processors = 2,
    .taken_bytes = 1000 * 1000,
};

/* On a far link it goes down rung by rung, on a near one at once. */
static void
test_steps_down(void)
{
    GwAdaptSample sample = encoders_too_slow;
    GwAdapt near, far;

    gw_adapt_init(&near, 0);
    gw_adapt_sample(&near, &sample);
    g_assert_cmpint(gw_adapt_effort(&near, false).codec->id, ==, GW_CODEC_PLAIN);
    sample.is_far = true;
    gw_adapt_init(&far, 0);
    gw_adapt_sample(&far, &sample);
    g_assert_cmpint(gw_adapt_effort(&far, false).level, ==, -7);
    /* The stream passes no faster: back, from wherever it came. */
    sample.waited_encoder_us = 0;
    gw_adapt_sample(&near, &sample);
    g_assert_cmpint(gw_adapt_effort(&near, false).level, ==, 1);
    gw_adapt_sample(&far, &sample);
    g_assert_cmpint(gw_adapt_effort(&far, false).level, ==, 1);
}

/* The stream passes faster than the link would take it plain: the encoders are not at fault. */
static void
test_no_faster_plain(void)
{
    const uint64_t link_bytes_s = 120u * 1000u * 1000u;
    GwAdaptSample link_full = encoders_too_slow;
    GwAdaptSample sample = encoders_too_slow;
    GwAdapt adapt;

    link_full.waited_encoder_us = 0;
    link_full.waited_link_us = GW_ADAPT_PERIOD_US;
    link_full.rate_bytes_s = link_bytes_s;
    sample.rate_bytes_s = link_bytes_s * 3 / 4;
    sample.taken_bytes = 220u * 1000u * 1000u / PERIODS_PER_S;
    gw_adapt_init(&adapt, 0);
    gw_adapt_sample(&adapt, &link_full);
    for (unsigned i = 0; i < 2 * PERIODS_PER_S; i++) {
        gw_adapt_sample(&adapt, &sample);
        g_assert_cmpint(gw_adapt_effort(&adapt, false).level, ==, 1);
    }

    /* It takes more than it did when it was full. */
    GwAdapt faster = adapt;

    sample.rate_bytes_s = link_bytes_s * 3 / 2;
    gw_adapt_sample(&faster, &sample);
    g_assert_cmpint(gw_adapt_effort(&faster, false).codec->id, ==, GW_CODEC_PLAIN);

    /* The stream passes slower than that: for one period, and for some. */
    sample.rate_bytes_s = link_bytes_s * 3 / 4;
    sample.taken_bytes = 50u * 1000u * 1000u / PERIODS_PER_S;
    GwAdapt slower = adapt;

    gw_adapt_sample(&slower, &sample);
    g_assert_cmpint(gw_adapt_effort(&slower, false).level, ==, 1);
    gw_adapt_sample(&slower, &sample);
    gw_adapt_sample(&slower, &sample);
    g_assert_cmpint(gw_adapt_effort(&slower, false).codec->id, ==, GW_CODEC_PLAIN);

    /* And what was seen is believed for a while only. */
    sample.taken_bytes = 220u * 1000u * 1000u / PERIODS_PER_S;
    for (unsigned i = 0; i < PERIODS_PER_S; i++) {
        gw_adapt_sample(&adapt, &sample);
    }
    g_assert_cmpint(gw_adapt_effort(&adapt, false).codec->id, ==, GW_CODEC_PLAIN);
}

/* A step down, and then the link is away for longer than the step is to last. */
static void
test_pause_after_a_step_down(void)
{
    GwAdaptSample sample = encoders_too_slow;
    GwAdapt adapt;

    gw_adapt_init(&adapt, 0);
    gw_adapt_sample(&adapt, &sample);
    g_assert_cmpint(gw_adapt_effort(&adapt, false).codec->id, ==, GW_CODEC_PLAIN);
    sample.period_us = 3 * G_USEC_PER_SEC;
    sample.waited_encoder_us = 0;
    sample.taken_bytes = 0;
    gw_adapt_sample(&adapt, &sample);
    g_assert_cmpint(gw_adapt_effort(&adapt, false).codec->id, ==, GW_CODEC_PLAIN);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/adapt/slow-link", test_slow_link);
    g_test_add_func("/adapt/slow-link-busy-host", test_slow_link_busy_host);
    g_test_add_func("/adapt/fast-link", test_fast_link);
    g_test_add_func("/adapt/never-far-from-the-best", test_never_far_from_the_best);
    g_test_add_func("/adapt/link-changes", test_link_changes);
    g_test_add_func("/adapt/zstd-switched-off", test_zstd_switched_off);
    g_test_add_func("/adapt/hurry", test_hurry);
    g_test_add_func("/adapt/no-measures", test_no_measures);
    g_test_add_func("/adapt/steps-down", test_steps_down);
    g_test_add_func("/adapt/no-faster-plain", test_no_faster_plain);
    g_test_add_func("/adapt/pause-after-a-step-down", test_pause_after_a_step_down);
    return g_test_run();
}
