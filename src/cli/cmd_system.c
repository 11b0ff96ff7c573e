/* `strata system`: the whole host. `strata container prune` is here too. */
#include <errno.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "container_cli.h"
#include "filter.h"
#include "network_cli.h"

static bool is_active(struct instance *inst)
{
        const struct instance_state *state;

        return instance_get_state(inst, &state, NULL) < 0 || state->status == INSTANCE_RUNNING ||
               state->status == INSTANCE_PAUSED || state->status == INSTANCE_RESTARTING;
}

/* --- check --------------------------------------------------------------------------------------------------------- */

struct check {
        bool repair, deep;

        struct instance_host *host;
        unsigned problems;
};

static void print_problem(void *opaque, const char *text)
{
        struct check *check = opaque;

        check->problems++;
        printf("%s\n", text);
}

static bool is_alive(void *opaque, const char *container)
{
        const struct check *check = opaque;
        _cleanup_(instance_freep) struct instance *inst = NULL;

        return instance_find(check->host, container, &inst, NULL) == 0 && is_active(inst);
}

static int check_networks(struct check *check, struct err **err)
{
        _cleanup_(net_store_closep) struct net_store *store = NULL;
        int r = network_cli_open(check->host, &store, err);

        return r < 0 ? r : net_check(store, is_alive, print_problem, check, err);
}

static int check_all(struct check *check, struct err **err)
{
        int r = check->repair ? instance_host_recover(check->host, err) : 0;

        if (r >= 0)
                r = instance_host_check(check->host, print_problem, check, err);
        if (r >= 0)
                r = image_check(instance_host_images(check->host), check->deep, print_problem, check, err);
        if (r >= 0)
                r = check_networks(check, err);
        if (r < 0)
                return r;
        if (check->problems == 0)
                puts("Everything is as it should be.");
        return check->problems > 0;
}

int system_check_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("repair", 0, FLAG, offsetof(struct check, repair), NULL,
                        "first take away what killed processes left"),
                CLI_OPTION("deep", 0, FLAG, offsetof(struct check, deep), NULL, "read all images"),
                { 0 },
        };
        const struct cli_usage usage = { "strata system check", "[OPTION...]",
                "Look whether containers, images and networks are whole, and whether anything is left of\n"
                "containers that do not run. The exit status is 1 when there is a problem.",
                CLI_OPTIONS(options), 0, 0, false };
        struct check check = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, &check, &first, err);

        if (r == 0)
                r = instance_host_open(NULL, &check.host, err);
        else
                r = MIN(r, 0);
        if (check.host)
                r = check_all(&check, err);
        instance_host_close(check.host);
        return r;
}

/* --- prune --------------------------------------------------------------------------------------------------------- */

struct prune {
        bool all, force, volumes;
        struct cli_words filters;

        struct err **err;
        u64 bytes;
};

static int prune_container(void *opaque, struct instance *inst)
{
        struct prune *prune = opaque;
        const struct instance_config *config = instance_get_config(inst);
        u64 layer = 0, total;
        int r;

        if (is_active(inst) || !filter_until(&prune->filters, config->created) ||
                !filter_labels(&prune->filters, &config->labels))
                return 0;
        instance_size(inst, &layer, &total, NULL);
        r = instance_remove(inst, 0, prune->err);
        if (r < 0)
                return r;
        puts(instance_id(inst));
        prune->bytes += layer;
        return 0;
}

static int prune_containers(struct instance_host *host, struct prune *prune, struct err **err)
{
        prune->err = err;
        return instance_list(host, prune_container, prune, err);
}

static void print_removal(void *opaque, const char *what, const char *name)
{
        printf("%s: %s\n", what, name);
}

static int prune_images(struct instance_host *host, struct prune *prune, struct err **err)
{
        const struct image_removal removal = { print_removal, NULL };
        const struct image_prune_options options = { .all = prune->all, .removal = &removal };
        u64 bytes = 0;
        int r = image_prune(instance_host_images(host), &options, &bytes, err);

        prune->bytes += bytes;
        return r;
}

static int prune_everything(struct instance_host *host, struct prune *prune, struct err **err)
{
        int r = prune_containers(host, prune, err);

        if (r == 0)
                r = network_prune(host, &prune->filters, err);
        if (r == 0 && prune->volumes)
                r = volume_prune(host, false, &prune->filters, &prune->bytes, err);
        /* Images are told apart by neither: with a filter they stay. */
        return r < 0 || prune->filters.n ? r : prune_images(host, prune, err);
}

/* @what: the question; @fn: the work. */
static int prune_command(const struct cli_usage *usage, const char *what,
        int (*fn)(struct instance_host *host, struct prune *prune, struct err **err), int argc, char **argv,
        struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        struct prune prune = { 0 };
        int first, r = cli_options_parse(usage, argc, argv, &prune, &first, err);

        if (r == 0)
                r = filter_check_prune(&prune.filters, err);
        if (r == 0 && !prune.force && !container_confirm(what))
                r = 1;
        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = fn(host, &prune, err);
        cli_words_clear(&prune.filters);
        if (r == 0)
                printf("Total reclaimed space: %s\n", listing_size(prune.bytes).text);
        return MIN(r, 0);
}

#define PRUNE_FILTER CLI_OPTION("filter", 0, LIST, offsetof(struct prune, filters), "KEY=VALUE", "until, label")

int system_prune_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("all", 'a', FLAG, offsetof(struct prune, all), NULL,
                        "also images with a name that no container uses"),
                CLI_OPTION("volumes", 0, FLAG, offsetof(struct prune, volumes), NULL, "also anonymous volumes"),
                CLI_OPTION("force", 'f', FLAG, offsetof(struct prune, force), NULL, "do not ask"),
                PRUNE_FILTER,
                { 0 },
        };
        const struct cli_usage usage = { "strata system prune", "[OPTION...]",
                "Remove containers that do not run, networks that nobody uses, and images without a name.",
                CLI_OPTIONS(options), 0, 0, false };

        return prune_command(&usage, "This removes all stopped containers, unused networks and images without a name.",
                prune_everything, argc, argv, err);
}

int container_prune_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("force", 'f', FLAG, offsetof(struct prune, force), NULL, "do not ask"),
                PRUNE_FILTER,
                { 0 },
        };
        const struct cli_usage usage = { "strata container prune", "[OPTION...]", "Remove containers that do not run.",
                CLI_OPTIONS(options), 0, 0, false };

        return prune_command(&usage, "This removes all stopped containers.", prune_containers, argc, argv, err);
}

/* --- df ------------------------------------------------------------------------------------------------------------ */

static const struct listing_column columns[] = {
        { "Type", "TYPE", false },
        { "TotalCount", "TOTAL", false },
        { "Active", "ACTIVE", false },
        { "Size", "SIZE", false },
        { "Reclaimable", "RECLAIMABLE", false },
        { 0 },
};

/* Of one kind of thing. */
struct use {
        u64 n, active, bytes, idle_bytes;
};

struct df {
        struct use images, containers, volumes;
        struct err **err;
};

/* Bytes on the disk of everything below @path, on its file system. */
static u64 directory_bytes(const char *path)
{
        char *const paths[] = { (char *)path, NULL };
        FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
        u64 bytes = 0;
        FTSENT *entry;

        while (fts && (entry = fts_read(fts)))
                if (entry->fts_info != FTS_DP && entry->fts_statp && entry->fts_info != FTS_NS)
                        bytes += (u64)entry->fts_statp->st_blocks * 512;
        if (fts)
                fts_close(fts);
        return bytes;
}

static void count(struct use *use, bool active, u64 bytes)
{
        use->n++;
        use->active += active;
        use->bytes += bytes;
        use->idle_bytes += active ? 0 : bytes;
}

static int count_image(void *opaque, const struct image_summary *image)
{
        struct df *df = opaque;

        count(&df->images, image->instances > 0, image->size);
        return 0;
}

static int count_container(void *opaque, struct instance *inst)
{
        struct df *df = opaque;
        u64 layer = 0, total;
        int r = instance_size(inst, &layer, &total, df->err);

        if (r == 0)
                count(&df->containers, is_active(inst), layer);
        return r;
}

static int count_volume(void *opaque, const struct instance_volume *volume)
{
        struct df *df = opaque;

        count(&df->volumes, volume->users > 0, directory_bytes(volume->path));
        return 0;
}

static void add_row(json_t *rows, const char *type, const struct use *use)
{
        char total[24], active[24], reclaimable[64];

        snprintf(total, sizeof(total), "%llu", (unsigned long long)use->n);
        snprintf(active, sizeof(active), "%llu", (unsigned long long)use->active);
        snprintf(reclaimable, sizeof(reclaimable), "%s (%llu%%)", listing_size(use->idle_bytes).text,
                (unsigned long long)(use->bytes ? use->idle_bytes * 100 / use->bytes : 0));
        json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:s, s:s}", "Type", type, "TotalCount", total, "Active",
                                            active, "Size", listing_size(use->bytes).text, "Reclaimable", reclaimable));
}

int system_df_command(int argc, char **argv, struct err **err)
{
        struct listing listing = { .columns = columns };
        static const struct cli_option options[] = {
                CLI_OPTION("format", 0, TEXT, offsetof(struct listing, format), "FORMAT",
                        "table, json or a template as '{{.Size}}'"),
                CLI_OPTION("verbose", 'v', REFUSED, 0, NULL,
                        "'strata image ls', 'strata ps -as' and 'strata volume ls' say more"),
                { 0 },
        };
        const struct cli_usage usage = { "strata system df", "[OPTION...]",
                "Say what images (as a registry would send them), containers and volumes take.", CLI_OPTIONS(options),
                0, 0, false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_json_ json_t *rows = json_array();
        struct df df = { .err = err };
        int first, r = cli_options_parse(&usage, argc, argv, &listing, &first, err);

        if (r == 0)
                r = listing_check(&listing, err);
        if (r != 0)
                return MIN(r, 0);
        r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = image_list(instance_host_images(host), count_image, &df, err);
        if (r == 0)
                r = instance_list(host, count_container, &df, err);
        if (r == 0)
                r = instance_volume_list(host, count_volume, &df, err);
        if (r < 0)
                return r;
        add_row(rows, "Images", &df.images);
        add_row(rows, "Containers", &df.containers);
        add_row(rows, "Local Volumes", &df.volumes);
        return listing_print(&listing, rows, stdout, err);
}
