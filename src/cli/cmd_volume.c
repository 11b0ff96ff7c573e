/* `strata volume`. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "container_cli.h"
#include "filter.h"
#include "network_cli.h"
#include "runspec.h"

/* --- create -------------------------------------------------------------------------------------------------------- */

struct create {
        const char *driver;
        struct cli_words labels;
};

static int create_volume(const char *name, const struct instance_pairs *labels, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_free_ char *made = NULL;
        int r = instance_host_open(NULL, &host, err);

        if (r == 0)
                r = instance_volume_create(host, name, labels, &made, err);
        if (r == 0)
                puts(made);
        return r;
}

static int create_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("label", 0, LIST, offsetof(struct create, labels), "KEY=VALUE", "a label"),
                CLI_OPTION("driver", 'd', TEXT, offsetof(struct create, driver), "DRIVER", "local (the default)"),
                CLI_OPTION("opt", 'o', REFUSED, 0, "KEY=VALUE",
                        "a volume is a directory; mount others with --mount type=bind"),
                { 0 },
        };
        const struct cli_usage usage = { "strata volume create", "[OPTION...] [NAME]",
                "Make a volume, with a name of its own where none is given. Fine when it is there.",
                CLI_OPTIONS(options), 0, 1, false };
        struct instance_config config = INSTANCE_CONFIG_EMPTY; /* labels are read into one */
        struct arena arena = { 0 };
        struct runspec runspec = { &config, &arena };
        struct create create = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, &create, &first, err);

        if (r == 0 && create.driver && strcmp(create.driver, "local") != 0)
                r = err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "there is no volume driver '%s'", create.driver),
                        "there is: local");
        for (size_t i = 0; r == 0 && i < create.labels.n; i++)
                r = runspec_label(&runspec, create.labels.item[i], err);
        if (r == 0)
                r = create_volume(argv[first], &config.labels, err);
        cli_words_clear(&create.labels);
        arena_release(&arena);
        return MIN(r, 0);
}

/* --- ls ------------------------------------------------------------------------------------------------------------ */

static const struct listing_column columns[] = {
        { "Name", "VOLUME NAME", false },
        { "Driver", "DRIVER", false },
        { "Mountpoint", "MOUNTPOINT", true },
        { "Scope", "SCOPE", true },
        { "Labels", "LABELS", true },
        { "Links", "LINKS", true },
        { "CreatedAt", "CREATED AT", true },
        { 0 },
};

static const char *const filter_keys[] = { "name", "driver", "dangling", "label", "label!", NULL };

static int ls_one(void *opaque, const struct instance_volume *volume)
{
        struct list_command *ls = opaque;
        _cleanup_free_ char *labels = container_labels_text(&volume->labels);
        char links[24];

        if (!labels)
                return -ENOMEM;
        if (!filter_contains(&ls->filters, "name", volume->name) ||
                !filter_equals(&ls->filters, "driver", volume->driver) ||
                !filter_equals(&ls->filters, "dangling", volume->users ? "false" : "true") ||
                !filter_labels(&ls->filters, &volume->labels))
                return 0;
        snprintf(links, sizeof(links), "%zu", volume->users);
        return json_array_append_new(
                ls->rows, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "Name", volume->name, "Driver",
                                  volume->driver, "Mountpoint", volume->path, "Scope", "local", "Labels", labels,
                                  "Links", links, "CreatedAt", volume->created));
}

static int ls_volumes(struct list_command *ls, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        int r = instance_host_open(NULL, &host, err);

        return r < 0 ? r : instance_volume_list(host, ls_one, ls, err);
}

static int ls_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                LIST_OPTIONS("names", "name, driver, label, dangling"),
                CLI_OPTION("cluster", 0, REFUSED, 0, NULL, "volumes belong to this host"),
                { 0 },
        };
        const struct cli_usage usage = { "strata volume ls", "[OPTION...]", "List volumes.", CLI_OPTIONS(options), 0, 0,
                false };
        struct list_command ls = { .listing.columns = columns };

        /* docker's order */
        return list_command_run(&usage, filter_keys, "table {{.Driver}}\\t{{.Name}}", ls_volumes, argc, argv, &ls, err);
}

/* --- inspect ------------------------------------------------------------------------------------------------------- */

static json_t *pairs_json(const struct instance_pairs *pairs)
{
        json_t *json = json_object();

        for (size_t i = 0; i < pairs->n; i++)
                json_object_set_new(json, pairs->item[i].key, json_string(pairs->item[i].value));
        return json;
}

static int volume_json(void *opaque, const struct instance_volume *volume)
{
        json_t **ret = opaque;

        *ret = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o}", "Name", volume->name, "Driver", volume->driver,
                "Mountpoint", volume->path, "CreatedAt", volume->created, "Scope", "local", "Labels",
                pairs_json(&volume->labels), "Options", pairs_json(&volume->options));
        return *ret ? 0 : -ENOMEM;
}

int volume_inspect_json(struct instance_host *host, const char *name, json_t **ret, struct err **err)
{
        return instance_volume_find(host, name, volume_json, ret, err);
}

static int inspect_volumes(char *const *names, const char *format, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_json_ json_t *list = json_array();
        int r = instance_host_open(NULL, &host, err);

        for (; r == 0 && *names; names++) {
                json_t *json = NULL;

                r = volume_inspect_json(host, *names, &json, err);
                if (r == 0)
                        json_array_append_new(list, json);
        }
        return r < 0 ? r : listing_inspect(list, format, stdout, err);
}

static int inspect_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("format", 'f', TEXT, 0, "FORMAT", "json or a template as '{{.Mountpoint}}'"), { 0 }
        };
        const struct cli_usage usage = { "strata volume inspect", "[OPTION...] VOLUME...",
                "Print everything about volumes, as JSON.", CLI_OPTIONS(options), 1, -1, false };
        const char *format = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, &format, &first, err);

        return r != 0 ? MIN(r, 0) : inspect_volumes(argv + first, format, err);
}

/* --- rm, prune ----------------------------------------------------------------------------------------------------- */

static int remove_volume(struct instance_host *host, const char *name, void *opaque, struct err **err)
{
        const bool *force = opaque;
        _cleanup_(err_freep) struct err *own = NULL;
        int r = instance_volume_remove(host, name, &own);

        if (r < 0 && *force && err_get_id(own) == ERR_NOT_FOUND)
                r = 0;
        if (r == 0)
                puts(name);
        else
                *err = TAKE_PTR(own);
        return r;
}

static int rm_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = { CLI_OPTION("force", 'f', FLAG, 0, NULL, "missing ones are fine"),
                { 0 } };
        const struct cli_usage usage = { "strata volume rm", "[OPTION...] VOLUME...",
                "Remove volumes that no container mounts, with what is in them.", CLI_OPTIONS(options), 1, -1, false };
        bool force = false;
        int first, r = cli_options_parse(&usage, argc, argv, &force, &first, err);

        return r != 0 ? MIN(r, 0) : container_each_name(argv + first, remove_volume, &force, err);
}

static bool passes(void *opaque, const struct instance_volume *volume)
{
        return filter_until(opaque, volume->created) && filter_labels(opaque, &volume->labels);
}

static void print_removed(void *opaque, const char *name)
{
        puts(name);
}

int volume_prune(struct instance_host *host, bool all, const struct cli_words *filters, u64 *bytes, struct err **err)
{
        const struct instance_volume_prune prune = { all, passes, print_removed, (void *)filters };
        u64 freed = 0;
        int r = instance_volume_prune(host, &prune, &freed, err);

        *bytes += freed;
        return r;
}

struct prune {
        bool all, force;
        struct cli_words filters;
};

static int prune_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("all", 'a', FLAG, offsetof(struct prune, all), NULL, "those with a name, too"),
                CLI_OPTION("force", 'f', FLAG, offsetof(struct prune, force), NULL, "do not ask"),
                CLI_OPTION("filter", 0, LIST, offsetof(struct prune, filters), "KEY=VALUE", "until, label"),
                { 0 },
        };
        const struct cli_usage usage = { "strata volume prune", "[OPTION...]",
                "Remove anonymous volumes that no container mounts.", CLI_OPTIONS(options), 0, 0, false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        struct prune prune = { 0 };
        u64 bytes = 0;
        int first, r = cli_options_parse(&usage, argc, argv, &prune, &first, err);

        if (r == 0)
                r = filter_check_prune(&prune.filters, err);
        if (r == 0 && !prune.force &&
                !container_confirm(prune.all ? "This removes all volumes that no container uses."
                                             : "This removes all anonymous volumes that no container uses."))
                r = 1;
        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = volume_prune(host, prune.all, &prune.filters, &bytes, err);
        cli_words_clear(&prune.filters);
        if (r == 0)
                printf("Total reclaimed space: %s\n", listing_size(bytes).text);
        return MIN(r, 0);
}

const struct command cli_volume_commands[] = {
        { "create", "[OPTION...] [NAME]", "make one", create_command, NULL },
        { "ls", "[OPTION...]", "list them", ls_command, NULL },
        { "inspect", "[OPTION...] VOLUME...", "everything about some, as JSON", inspect_command, NULL },
        { "rm", "[OPTION...] VOLUME...", "remove some", rm_command, NULL },
        { "prune", "[OPTION...]", "remove unused ones", prune_command, NULL },
        { 0 },
};
