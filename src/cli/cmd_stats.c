/* `strata stats`: what containers use, once or again and again. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "container_cli.h"

#define PERIOD_MS 1000 /* between two measurements */
#define CLEAR     "\033[H\033[J"

static const struct listing_column columns[] = {
        { "ID", "CONTAINER ID", false },
        { "Name", "NAME", false },
        { "CPUPerc", "CPU %", false },
        { "MemUsage", "MEM USAGE / LIMIT", false },
        { "MemPerc", "MEM %", false },
        { "NetIO", "NET I/O", false },
        { "BlockIO", "BLOCK I/O", false },
        { "PIDs", "PIDS", false },
        { "Container", "CONTAINER", true },
        { 0 },
};

/* One container between two measurements. */
struct sample {
        char id[65];
        struct instance_stats last;
};

struct stats {
        bool all, no_stream, no_trunc;
        struct listing listing;

        char *const *names; /* none: all that run */
        struct sample *samples;
        size_t n_samples;
        json_t *rows; /* NULL while only measured */
        struct err **err;
};

static struct sample *sample_of(struct stats *stats, const char *id)
{
        struct sample *grown;

        for (size_t i = 0; i < stats->n_samples; i++)
                if (strcmp(stats->samples[i].id, id) == 0)
                        return &stats->samples[i];
        grown = reallocarray(stats->samples, stats->n_samples + 1, sizeof(*grown));
        if (!grown)
                return NULL;
        stats->samples = grown;
        grown += stats->n_samples++;
        *grown = (struct sample){ 0 };
        snprintf(grown->id, sizeof(grown->id), "%s", id);
        return grown;
}

static void pair_text(char *text, size_t size, struct listing_text a, struct listing_text b)
{
        snprintf(text, size, "%s / %s", a.text, b.text);
}

static double percent(u64 part, u64 whole)
{
        return whole ? 100.0 * (double)part / (double)whole : 0;
}

static json_t *row_of(const struct stats *stats, struct instance *inst, const struct instance_stats *now,
        const struct instance_stats *last)
{
        const u64 elapsed = (u64)(now->time_ns - last->time_ns);
        const u64 cpu = last->time_ns && now->cpu_ns >= last->cpu_ns ? now->cpu_ns - last->cpu_ns : 0;
        char memory[96], net[96], block[96], cpu_part[24], memory_part[24], pids[24];

        pair_text(memory, sizeof(memory), listing_size_binary(now->memory), listing_size_binary(now->memory_limit));
        pair_text(net, sizeof(net), listing_size(now->net_rx), listing_size(now->net_tx));
        pair_text(block, sizeof(block), listing_size(now->block_read), listing_size(now->block_write));
        snprintf(cpu_part, sizeof(cpu_part), "%.2f%%", percent(cpu, elapsed));
        snprintf(memory_part, sizeof(memory_part), "%.2f%%", percent(now->memory, now->memory_limit));
        snprintf(pids, sizeof(pids), "%llu", (unsigned long long)now->pids);
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "ID",
                stats->no_trunc ? instance_id(inst) : container_short_id(instance_id(inst)).text, "Name",
                instance_name(inst), "Container", instance_name(inst), "CPUPerc", cpu_part, "MemUsage", memory,
                "MemPerc", memory_part, "NetIO", net, "BlockIO", block, "PIDs", pids);
}

static bool runs(struct instance *inst)
{
        const struct instance_state *state;

        return instance_get_state(inst, &state, NULL) == 0 &&
               (state->status == INSTANCE_RUNNING || state->status == INSTANCE_PAUSED);
}

static int measure(void *opaque, struct instance *inst)
{
        struct stats *stats = opaque;
        struct instance_stats now = { 0 };
        struct sample *sample;
        json_t *row;

        if (runs(inst)) {
                if (instance_get_stats(inst, &now, NULL) < 0)
                        now = (struct instance_stats){ 0 }; /* it ended in between */
        } else if (!stats->all && !*stats->names) {
                return 0;
        }
        sample = sample_of(stats, instance_id(inst));
        if (!sample)
                return err_sys(stats->err, ENOMEM, "measuring containers");
        row = stats->rows ? row_of(stats, inst, &now, &sample->last) : NULL;
        sample->last = now;
        if (stats->rows && (!row || json_array_append_new(stats->rows, row) < 0))
                return err_sys(stats->err, ENOMEM, "measuring containers");
        return 0;
}

static int measure_all(struct stats *stats, struct instance_host *host, struct err **err)
{
        int r = 0;

        stats->err = err;
        if (!*stats->names)
                return instance_list(host, measure, stats, err);
        for (char *const *name = stats->names; r == 0 && *name; name++) {
                _cleanup_(instance_freep) struct instance *inst = NULL;

                r = instance_find(host, *name, &inst, err);
                if (r == 0)
                        r = measure(stats, inst);
        }
        return r;
}

static int show(struct stats *stats, struct instance_host *host, bool again, struct err **err)
{
        _cleanup_json_ json_t *rows = json_array();
        int r;

        stats->rows = rows;
        r = measure_all(stats, host, err);
        stats->rows = NULL;
        if (r < 0)
                return r;
        if (again)
                fputs(CLEAR, stdout);
        r = listing_print(&stats->listing, rows, stdout, err);
        fflush(stdout);
        return r;
}

/* Rates need two measurements; then the table is shown once, or until the user has seen enough. */
static int watch(struct stats *stats, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        const bool once = stats->no_stream || !isatty(STDOUT_FILENO);
        int r = instance_host_open(NULL, &host, err);

        if (r == 0)
                r = measure_all(stats, host, err);
        do {
                poll(NULL, 0, PERIOD_MS);
                if (r == 0)
                        r = show(stats, host, !once, err);
        } while (r == 0 && !once);
        return r;
}

int container_stats_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("all", 'a', FLAG, offsetof(struct stats, all), NULL, "also those that do not run"),
                CLI_OPTION("format", 0, TEXT, offsetof(struct stats, listing.format), "FORMAT",
                        "table, 'table TEMPLATE', json or a template as '{{.CPUPerc}}'"),
                CLI_OPTION("no-stream", 0, FLAG, offsetof(struct stats, no_stream), NULL, "once (as in a pipe)"),
                CLI_OPTION("no-trunc", 0, FLAG, offsetof(struct stats, no_trunc), NULL, "whole ids"),
                { 0 },
        };
        const struct cli_usage usage = { "strata stats", "[OPTION...] [CONTAINER...]",
                "Say what containers use: again and again on a terminal, once in a pipe.", CLI_OPTIONS(options), 0, -1,
                false };
        struct stats stats = { .listing.columns = columns };
        int first, r = cli_options_parse(&usage, argc, argv, &stats, &first, err);

        if (r == 0)
                r = listing_check(&stats.listing, err);
        if (r != 0)
                return MIN(r, 0);
        stats.names = argv + first;
        r = watch(&stats, err);
        free(stats.samples);
        return MIN(r, 0);
}
