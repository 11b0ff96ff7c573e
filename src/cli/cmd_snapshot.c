/* `strata snapshot`, `strata restore`, `strata clone`: machines saved while they run, and going on as often as wanted. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "container_cli.h"
#include "instance/snapshot.h"
#include "runspec.h"

#define CLONES_MAX 1000

/* --- taking one ---------------------------------------------------------------------------------------------------- */

struct take {
        bool diff;
};

static int take_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("diff", 0, FLAG, offsetof(struct take, diff), NULL, "memory: only what changed since the machine's last snapshot"),
                { 0 },
        };
        const struct cli_usage usage = { "strata snapshot", "[OPTION...] CONTAINER SNAPSHOT",
                "Save a machine (--isolation vm) that runs, and let it go on.\nstrata snapshot ls, rm and inspect are about those that exist.",
                CLI_OPTIONS(options), 2, 2, false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        struct take take = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, &take, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = container_open(argv[first], &host, &inst, err);
        if (r == 0)
                r = instance_snapshot(inst, argv[first + 1], take.diff ? INSTANCE_SNAPSHOT_DIFF : 0, err);
        if (r == 0)
                puts(argv[first + 1]);
        return r;
}

/* --- ls, rm, inspect ----------------------------------------------------------------------------------------------- */

static const struct listing_column columns[] = {
        { "Name", "NAME", false },
        { "Container", "CONTAINER", false },
        { "Image", "IMAGE", false },
        { "Memory", "MEMORY", false },
        { "Size", "SIZE", false },
        { "Layers", "LAYERS", false },
        { "CreatedAt", "CREATED AT", false },
        { 0 },
};

static int ls_one(void *opaque, const struct instance_snapshot *s)
{
        const struct list_command *ls = opaque;
        char layers[16];

        snprintf(layers, sizeof(layers), "%u", s->layers);
        return json_array_append_new(ls->rows,
                       json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "Name", s->name, "Container", s->instance, "Image", s->image, "Memory",
                               listing_size(s->memory).text, "Size", listing_size(s->bytes).text, "Layers", layers, "CreatedAt", s->created)) < 0
                       ? -ENOMEM
                       : 0;
}

static int ls_snapshots(struct list_command *ls, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        int r = instance_host_open(NULL, &host, err);

        return r < 0 ? r : instance_snapshot_list(host, ls_one, ls, err);
}

static int ls_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = { LIST_QUIET("names"), LIST_FORMAT("Name"), { 0 } };
        const struct cli_usage usage = { "strata snapshot ls", "[OPTION...]", "List the snapshots of machines.", CLI_OPTIONS(options), 0, 0, false };
        struct list_command ls = { .listing.columns = columns };

        return list_command_run(&usage, NULL, NULL, ls_snapshots, argc, argv, &ls, err);
}

static int rm_command(int argc, char **argv, struct err **err)
{
        const struct cli_usage usage = { "strata snapshot rm", "SNAPSHOT...", "Remove snapshots. What began as one of them runs on.", NULL, 1,
                -1, false };

        return container_remove_command(&usage, instance_snapshot_remove, argc, argv, err);
}

static int inspect_one(struct instance_host *host, const char *name, void *opaque, struct err **err)
{
        json_t *record = NULL;
        int r = instance_snapshot_inspect(host, name, &record, err);

        if (r == 0)
                json_array_append_new(opaque, record);
        return r;
}

static int inspect_command(int argc, char **argv, struct err **err)
{
        const struct cli_usage usage = { "strata snapshot inspect", "SNAPSHOT...", "Print everything about snapshots, as JSON.", NULL, 1, -1,
                false };
        _cleanup_json_ json_t *found = json_array();
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = container_each_name(argv + first, inspect_one, found, err);
        if (r >= 0 && json_array_size(found)) {
                json_dumpf(found, stdout, JSON_INDENT(4));
                putchar('\n');
        }
        return r;
}

int container_snapshot_command(int argc, char **argv, struct err **err)
{
        static const struct {
                const char *word;
                int (*run)(int argc, char **argv, struct err **err);
        } words[] = { { "ls", ls_command }, { "list", ls_command }, { "rm", rm_command }, { "inspect", inspect_command } };

        for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(words); i++)
                if (strcmp(argv[1], words[i].word) == 0)
                        return words[i].run(argc - 1, argv + 1, err);
        return take_command(argc, argv, err);
}

/* --- restore, clone ------------------------------------------------------------------------------------------------ */

struct begin {
        const char *name;
        bool auto_remove;
        s64 count; /* CLI_UNSET: 1 */
        struct cli_words volumes, mounts;
        struct arena arena;
        struct instance_config given; /* what these say */
};

#define MOUNT_OPTIONS                                                                          \
        CLI_OPTION("volume", 'v', LIST, offsetof(struct begin, volumes), "SOURCE:TARGET[:ro]", \
                "this in place of what was mounted at TARGET"),                                \
                CLI_OPTION("mount", 0, LIST, offsetof(struct begin, mounts), "type=bind|volume,...", "likewise")

static void begin_release(struct begin *begin)
{
        cli_words_clear(&begin->volumes);
        cli_words_clear(&begin->mounts);
        arena_release(&begin->arena);
}

static int read_words(struct begin *begin, const struct cli_words *words, runspec_fn *read, struct err **err)
{
        struct runspec runspec = { &begin->given, &begin->arena };
        int r = 0;

        for (size_t i = 0; i < words->n && r == 0; i++)
                r = read(&runspec, words->item[i], err);
        return r;
}

static int read_mounts(struct begin *begin, struct err **err)
{
        int r = read_words(begin, &begin->volumes, runspec_volume, err);

        return r < 0 ? r : read_words(begin, &begin->mounts, runspec_mount, err);
}

static struct instance_clone clone_of(const struct begin *begin)
{
        return (struct instance_clone){ .name = begin->name,
                .auto_remove = begin->auto_remove,
                .mounts = begin->given.mounts.item,
                .n_mounts = begin->given.mounts.n };
}

static int begin_one(struct instance_host *host, const char *snapshot, const struct instance_clone *clone, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int r = instance_clone(host, snapshot, clone, &inst, err);

        if (r == 0) {
                puts(instance_get_config(inst)->name);
                fflush(stdout); /* the next one takes a while */
        }
        return r;
}

int container_restore_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("name", 0, TEXT, offsetof(struct begin, name), "NAME",
                        "its name (default: that of the machine that was saved)"),
                CLI_OPTION("rm", 0, FLAG, offsetof(struct begin, auto_remove), NULL, "remove it when it has ended"),
                MOUNT_OPTIONS,
                { 0 },
        };
        const struct cli_usage usage = { "strata restore", "[OPTION...] SNAPSHOT", "Let a machine go on as it was saved, in the background.",
                CLI_OPTIONS(options), 1, 1, false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(begin_release) struct begin begin = { 0 };
        struct instance_clone clone;
        int first, r = cli_options_parse(&usage, argc, argv, &begin, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = read_mounts(&begin, err);
        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r < 0)
                return r;
        clone = clone_of(&begin);
        clone.same = true;
        return begin_one(host, argv[first], &clone, err);
}

/* The names of several: NAME-1, NAME-2, ... */
static int clone_all(struct instance_host *host, const char *snapshot, const struct begin *begin, struct err **err)
{
        const s64 count = begin->count == CLI_UNSET ? 1 : begin->count;
        int r = 0;

        for (s64 i = 1; r == 0 && i <= count; i++) {
                struct instance_clone clone = clone_of(begin);
                char name[192];

                if (begin->name && count > 1) {
                        snprintf(name, sizeof(name), "%.140s-%lld", begin->name, (long long)i);
                        clone.name = name;
                }
                r = begin_one(host, snapshot, &clone, err);
        }
        return r;
}

/* Of a machine that runs: by a snapshot that nobody else sees for long. What began as it keeps its files. */
static int clone_running(struct instance_host *host, const char *name, const struct begin *begin, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        char snapshot[40];
        int r = instance_find(host, name, &inst, err);

        if (r < 0)
                return err_hint(err, r, "strata snapshot ls lists snapshots, strata ps what runs");
        snprintf(snapshot, sizeof(snapshot), "clone-%d-%llx", (int)getpid(), (unsigned long long)time(NULL));
        r = instance_snapshot(inst, snapshot, 0, err);
        if (r < 0)
                return r;
        r = clone_all(host, snapshot, begin, err);
        instance_snapshot_remove(host, snapshot, NULL);
        return r;
}

int container_clone_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_PARSED("count", 'n', offsetof(struct begin, count), "N", "how many (default: 1)", cli_parse_number),
                CLI_OPTION("name", 0, TEXT, offsetof(struct begin, name), "NAME",
                        "its name; of several: NAME-1, NAME-2, ... (default: made up)"),
                CLI_OPTION(
                        "rm", 0, FLAG, offsetof(struct begin, auto_remove), NULL, "remove them when they have ended"),
                MOUNT_OPTIONS,
                { 0 },
        };
        const struct cli_usage usage = { "strata clone", "[OPTION...] SNAPSHOT|CONTAINER",
                "Start machines that go on from a snapshot, each with a name, addresses, machine id and random numbers of its own.", CLI_OPTIONS(options), 1, 1,
                false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(begin_release) struct begin begin = { .count = CLI_UNSET };
        json_t *record = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, &begin, &first, err);

        if (r != 0)
                return MIN(r, 0);
        if (begin.count != CLI_UNSET && (begin.count < 1 || begin.count > CLONES_MAX))
                return err_set(err, ERR_USAGE, EINVAL, "--count takes a number from 1 to %d", CLONES_MAX);
        r = read_mounts(&begin, err);
        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r < 0)
                return r;
        if (instance_snapshot_inspect(host, argv[first], &record, NULL) < 0)
                return clone_running(host, argv[first], &begin, err);
        json_decref(record);
        return clone_all(host, argv[first], &begin, err);
}
