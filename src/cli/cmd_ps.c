/* `strata ps`: which containers there are. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "container_cli.h"
#include "filter.h"

#define COMMAND_WIDTH 20

struct ps {
        bool all, latest, no_trunc, size;
        s64 last;
        struct cli_words filters;
        struct listing listing;

        /* while rows are collected */
        struct instance_host *host;
        json_t *rows;
        char before_id[65], since_id[65]; /* of --filter before=, since=; "" */
        s64 before, since;
        struct err **err;
};

static const struct listing_column columns[] = {
        { "ID", "CONTAINER ID", false },
        { "Image", "IMAGE", false },
        { "Command", "COMMAND", false },
        { "RunningFor", "CREATED", false },
        { "Status", "STATUS", false },
        { "Ports", "PORTS", false },
        { "Names", "NAMES", false },
        { "Size", "SIZE", true },
        { "CreatedAt", "CREATED AT", true },
        { "State", "STATE", true },
        { "Labels", "LABELS", true },
        { "Mounts", "MOUNTS", true },
        { "Networks", "NETWORKS", true },
        { "LocalVolumes", "LOCAL VOLUMES", true },
        { 0 },
};

static const char *const filter_keys[] = { "id", "name", "label", "label!", "status", "ancestor", "exited", "health",
        "network", "volume", "before", "since", NULL };

/* --- what is said about one ---------------------------------------------------------------------------------------- */

static s64 now_seconds(void)
{
        return time(NULL);
}

/* When it was made; ns since 1970. */
static s64 created_ns(const struct instance_config *config)
{
        s64 ns = 0;

        cli_parse_time(&ns, config->created, NULL);
        return ns;
}

/* "Up 2 hours (healthy)", "Exited (1) 3 days ago", "Created" */
static void status_text(const struct instance_state *state, char *text, size_t size)
{
        const struct listing_text up = listing_duration(now_seconds() - state->started_ns / (s64)NSEC_PER_SEC);
        const struct listing_text down = listing_duration(now_seconds() - state->finished_ns / (s64)NSEC_PER_SEC);
        const bool known = *state->health != '\0';

        switch (state->status) {
        case INSTANCE_RUNNING:
                snprintf(text, size, "Up %s%s%s%s", up.text, known ? " (" : "",
                        strcmp(state->health, "starting") == 0 ? "health: starting" : state->health, known ? ")" : "");
                return;
        case INSTANCE_PAUSED:
                snprintf(text, size, "Up %s (Paused)", up.text);
                return;
        case INSTANCE_RESTARTING:
                snprintf(text, size, "Restarting (%d) %s ago", state->exit_code, down.text);
                return;
        case INSTANCE_EXITED:
                snprintf(text, size, "Exited (%d) %s ago", state->exit_code, down.text);
                return;
        case INSTANCE_CREATED:
                snprintf(text, size, "Created");
                return;
        case INSTANCE_REMOVING:
                snprintf(text, size, "Removal In Progress");
                return;
        case INSTANCE_DEAD:
                snprintf(text, size, "Dead");
                return;
        }
}

/* The command line in quotes. The caller's. */
static char *command_text(const struct instance_config *config, bool whole)
{
        const struct instance_strings *const lists[] = { &config->entrypoint, &config->command };
        char *text = NULL, *quoted = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);

        if (!out)
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
                for (size_t k = 0; k < lists[i]->n; k++)
                        fprintf(out, "%s%s", ftell(out) > 0 ? " " : "", lists[i]->item[k]);
        if (fclose(out) == 0) {
                for (char *p = text; *p; p++) /* a table has one line for it */
                        *p = *p == '\n' || *p == '\t' ? ' ' : *p;
                if (whole || len <= COMMAND_WIDTH)
                        len = asprintf(&quoted, "\"%s\"", text) < 0 ? 0 : len;
                else
                        len = asprintf(&quoted, "\"%.*s…\"", COMMAND_WIDTH - 1, text) < 0 ? 0 : len;
        }
        free(text);
        return len || quoted ? quoted : NULL;
}

static char *mounts_text(const struct instance_config *config, unsigned *ret_volumes)
{
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);
        const char *between = "";

        *ret_volumes = 0;
        if (!out)
                return NULL;
        for (size_t i = 0; i < config->mounts.n; i++) {
                const struct instance_mount *mount = &config->mounts.item[i];

                *ret_volumes += strcmp(mount->type, "volume") == 0;
                if (mount->source) {
                        fprintf(out, "%s%s", between, mount->source);
                        between = ",";
                }
        }
        return fclose(out) == 0 ? text : NULL;
}

/* The networks' names: those that were asked for. The caller's. */
static char *networks_text(const struct instance_config *config)
{
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);

        if (!out)
                return NULL;
        for (size_t i = 0; i < config->networks.n; i++)
                fprintf(out, "%s%s", i ? "," : "", config->networks.item[i].name);
        if (config->networks.n == 0)
                fputs(config->network_mode && *config->network_mode ? config->network_mode : "bridge", out);
        return fclose(out) == 0 ? text : NULL;
}

static int size_text(struct instance *inst, char *text, size_t size, struct err **err)
{
        u64 layer, total;
        int r = instance_size(inst, &layer, &total, err);

        if (r == 0)
                snprintf(text, size, "%s (virtual %s)", listing_size(layer).text, listing_size(total).text);
        return r;
}

static json_t *row_of(const struct ps *ps, struct instance *inst, const struct instance_state *state, struct err **err)
{
        const struct instance_config *config = instance_get_config(inst);
        const s64 created = created_ns(config) / (s64)NSEC_PER_SEC;
        unsigned n_volumes;
        _cleanup_free_ char *command = command_text(config, ps->no_trunc), *ports = container_ports_text(inst),
                            *labels = container_labels_text(&config->labels), *mounts = mounts_text(config, &n_volumes),
                            *networks = networks_text(config);
        char status[128] = "", size[96] = "", volumes[16], age[48];

        if (ps->size && size_text(inst, size, sizeof(size), err) < 0)
                return NULL;
        if (!command || !ports || !labels || !mounts || !networks) {
                err_sys(err, ENOMEM, "listing containers");
                return NULL;
        }
        status_text(state, status, sizeof(status));
        snprintf(volumes, sizeof(volumes), "%u", n_volumes);
        snprintf(age, sizeof(age), "%s ago", listing_duration(now_seconds() - created).text);
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "ID",
                ps->no_trunc ? instance_id(inst) : container_short_id(instance_id(inst)).text, "Image", config->image,
                "Command", command, "RunningFor", age, "Status", status, "Ports", ports, "Names", instance_name(inst),
                "Size", size, "CreatedAt", listing_local_time(created).text, "State",
                instance_status_name(state->status), "Labels", labels, "Mounts", mounts, "Networks", networks,
                "LocalVolumes", volumes);
}

/* --- which ones ---------------------------------------------------------------------------------------------------- */

static bool mounts_volume(const struct ps *ps, const struct instance_config *config)
{
        if (!filter_has(&ps->filters, "volume"))
                return true;
        for (size_t i = 0; i < config->mounts.n; i++) {
                const struct instance_mount *mount = &config->mounts.item[i];

                if ((mount->source && filter_equals(&ps->filters, "volume", mount->source)) ||
                        filter_equals(&ps->filters, "volume", mount->target))
                        return true;
        }
        return false;
}

static bool is_on_network(const struct ps *ps, const struct instance_config *config)
{
        if (config->networks.n == 0)
                return filter_equals(&ps->filters, "network",
                        config->network_mode && *config->network_mode ? config->network_mode : "bridge");
        for (size_t i = 0; i < config->networks.n; i++)
                if (filter_equals(&ps->filters, "network", config->networks.item[i].name))
                        return true;
        return false;
}

/* An image by its name as it was given, its full name, or its id. */
static bool is_of_image(const struct ps *ps, const struct instance_config *config)
{
        const char *id = config->image_id;

        if (!filter_has(&ps->filters, "ancestor") || filter_equals(&ps->filters, "ancestor", config->image) ||
                filter_begins(&ps->filters, "ancestor", id) ||
                (strncmp(id, "sha256:", 7) == 0 && filter_begins(&ps->filters, "ancestor", id + 7)))
                return true;
        for (size_t i = 0; i < ps->filters.n; i++) {
                _cleanup_free_ char *wanted = NULL, *full = NULL;

                if (strncmp(ps->filters.item[i], "ancestor=", 9) == 0 &&
                        image_name_normalize(ps->filters.item[i] + 9, &wanted, NULL) == 0 &&
                        image_name_normalize(config->image, &full, NULL) == 0 && strcmp(wanted, full) == 0)
                        return true;
        }
        return false;
}

static bool is_wanted(const struct ps *ps, struct instance *inst, const struct instance_state *state)
{
        const struct instance_config *config = instance_get_config(inst);
        const bool running = state->status == INSTANCE_RUNNING || state->status == INSTANCE_PAUSED ||
                             state->status == INSTANCE_RESTARTING;
        const char *health = *state->health ? state->health : "none";
        const s64 created = created_ns(config);
        char code[16];

        snprintf(code, sizeof(code), "%d", state->exit_code);
        if (!ps->all && !running && !filter_has(&ps->filters, "status") && !filter_has(&ps->filters, "exited"))
                return false;
        if (filter_has(&ps->filters, "exited") &&
                (state->status != INSTANCE_EXITED || !filter_equals(&ps->filters, "exited", code)))
                return false;
        if ((ps->before && created >= ps->before) || (ps->since && created <= ps->since) ||
                strcmp(instance_id(inst), ps->before_id) == 0 || strcmp(instance_id(inst), ps->since_id) == 0)
                return false;
        return filter_begins(&ps->filters, "id", instance_id(inst)) &&
               filter_contains(&ps->filters, "name", instance_name(inst)) &&
               filter_labels(&ps->filters, &config->labels) &&
               filter_equals(&ps->filters, "status", instance_status_name(state->status)) &&
               filter_equals(&ps->filters, "health", health) && is_of_image(ps, config) && is_on_network(ps, config) &&
               mounts_volume(ps, config);
}

static int list_one(void *opaque, struct instance *inst)
{
        struct ps *ps = opaque;
        const struct instance_state *state;
        json_t *row;
        int r = instance_get_state(inst, &state, ps->err);

        if (r < 0)
                return r;
        if (!is_wanted(ps, inst, state))
                return 0;
        row = row_of(ps, inst, state, ps->err);
        if (!row || json_array_append_new(ps->rows, row) < 0)
                return ps->err && *ps->err ? -EIO : err_sys(ps->err, ENOMEM, "listing containers");
        return ps->last > 0 && (s64)json_array_size(ps->rows) >= ps->last ? 1 : 0;
}

/* When the container of --filter before= or since= was made. */
static int find_bound(struct ps *ps, const char *key, s64 *ret, char id[65], struct err **err)
{
        const char *name = filter_first(&ps->filters, key);
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int r;

        if (!name)
                return 0;
        r = instance_find(ps->host, name, &inst, err);
        if (r < 0)
                return r;
        *ret = created_ns(instance_get_config(inst));
        snprintf(id, 65, "%s", instance_id(inst));
        return 0;
}

static int list(struct ps *ps, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        int r = instance_host_open(NULL, &host, err);

        ps->host = host;
        ps->err = err;
        if (r == 0)
                r = find_bound(ps, "before", &ps->before, ps->before_id, err);
        if (r == 0)
                r = find_bound(ps, "since", &ps->since, ps->since_id, err);
        if (r == 0)
                r = instance_list(host, list_one, ps, err);
        return MIN(r, 0);
}

int container_ps_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("all", 'a', FLAG, offsetof(struct ps, all), NULL, "also those that do not run"),
                CLI_OPTION("quiet", 'q', FLAG, offsetof(struct ps, listing.quiet), NULL, "ids only"),
                CLI_OPTION("filter", 'f', LIST, offsetof(struct ps, filters), "KEY=VALUE",
                        "id, name, label, status, ancestor, exited, health, network, volume, before, since"),
                CLI_OPTION("format", 0, TEXT, offsetof(struct ps, listing.format), "FORMAT",
                        "table, 'table TEMPLATE', json or a template as '{{.Names}}'"),
                CLI_PARSED("last", 'n', offsetof(struct ps, last), "N", "the newest N, whatever they do",
                        cli_parse_number),
                CLI_OPTION("latest", 'l', FLAG, offsetof(struct ps, latest), NULL, "the newest one"),
                CLI_OPTION("no-trunc", 0, FLAG, offsetof(struct ps, no_trunc), NULL, "whole ids and commands"),
                CLI_OPTION(
                        "size", 's', FLAG, offsetof(struct ps, size), NULL, "what they wrote, and with their images"),
                { 0 },
        };
        struct listing_column shown[ARRAY_SIZE(columns)];
        const struct cli_usage usage = { "strata ps", "[OPTION...]", "List containers: those that run.",
                CLI_OPTIONS(options), 0, 0, false };
        struct ps ps = { .last = -1, .listing.columns = shown };
        int first, r;

        memcpy(shown, columns, sizeof(columns));
        r = cli_options_parse(&usage, argc, argv, &ps, &first, err);
        for (struct listing_column *c = shown; c->field; c++)
                if (ps.size && strcmp(c->field, "Size") == 0)
                        c->extra = false;
        if (ps.latest)
                ps.last = 1;
        ps.all |= ps.last > 0;
        ps.rows = json_array();
        if (r == 0)
                r = listing_check(&ps.listing, err);
        if (r == 0)
                r = filter_check(&ps.filters, filter_keys, err);
        if (r == 0) {
                r = list(&ps, err);
                if (r == 0)
                        r = listing_print(&ps.listing, ps.rows, stdout, err);
        }
        json_decref(ps.rows);
        cli_words_clear(&ps.filters);
        return MIN(r, 0);
}
