/* `strata image ls`, `inspect` and `history`: fields and columns have docker's names. */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "container_cli.h"
#include "filter.h"
#include "image_cli.h"

#define NONE           "<none>"
#define CREATED_BY_MAX 45 /* characters, where --no-trunc is not given */

#define ROOT_HELP "the image store (default: $STRATA_IMAGE_ROOT or the user's own)"

static s64 seconds_of(const char *created)
{
        s64 ns;

        return cli_parse_time(&ns, created, NULL) < 0 ? 0 : ns / (s64)NSEC_PER_SEC;
}

static struct listing_text since(const char *created)
{
        struct listing_text text = listing_duration(time(NULL) - seconds_of(created)), ago;

        snprintf(ago.text, sizeof(ago.text), "%.30s ago", text.text);
        return created[0] ? ago : (struct listing_text){ "N/A" };
}

/* As people write it: without what is the default. */
static const char *familiar(const char *name)
{
        static const char *const defaults[] = { "docker.io/library/", "docker.io/" };

        for (size_t i = 0; i < ARRAY_SIZE(defaults); i++)
                if (strncmp(name, defaults[i], strlen(defaults[i])) == 0)
                        return name + strlen(defaults[i]);
        return name;
}

/* The image's configuration file. */
static json_t *config_of(const struct image *image)
{
        size_t len;
        const char *text = image_config_json(image, &len);
        json_t *config = json_loadb(text, len, 0, NULL);

        return config ? config : json_object();
}

static const char *text_of(const json_t *json, const char *key)
{
        const char *text = json_string_value(json_object_get(json, key));

        return text ? text : "";
}

/* --- ls ------------------------------------------------------------------------------------------------------------------ */

struct ls {
        struct list_command list; /* the first, as list_command_run wants it */
        const char *root;
        bool all, no_trunc, digests;

        struct image_store *store;
        s64 after, before; /* seconds; images made between these */
};

static const struct listing_column columns[] = {
        { "ID", "IMAGE ID", false },
        { "Repository", "REPOSITORY", true },
        { "Tag", "TAG", true },
        { "Digest", "DIGEST", true },
        { "CreatedSince", "CREATED", true },
        { "CreatedAt", "CREATED AT", true },
        { "Size", "SIZE", true },
        { "Containers", "CONTAINERS", true },
        { 0 },
};

static const char *const filter_keys[] = { "dangling", "reference", "label", "label!", "before", "since", "until",
        NULL };

struct name {
        char repository[512], tag[256];
};

/* "REPOSITORY:TAG" or "REPOSITORY@DIGEST"; NULL: none. */
static struct name split(const char *full)
{
        const char *at = full ? strchr(full, '@') : NULL, *colon = full ? strrchr(full, ':') : NULL,
                   *end = at ? at : colon;
        struct name name = { NONE, NONE };

        if (!end)
                return name;
        full = familiar(full);
        snprintf(name.repository, sizeof(name.repository), "%.*s", (int)(end - full), full);
        if (!at)
                snprintf(name.tag, sizeof(name.tag), "%s", end + 1);
        return name;
}

/* Of the name, with or without tag, short or in full. */
static bool matches(const char *pattern, const char *full)
{
        const struct name name = split(full);
        char with_tag[1024];

        snprintf(with_tag, sizeof(with_tag), "%s:%s", name.repository, name.tag);
        return full &&
               (fnmatch(pattern, with_tag, FNM_PATHNAME) == 0 || fnmatch(pattern, name.repository, FNM_PATHNAME) == 0 ||
                       fnmatch(pattern, full, FNM_PATHNAME) == 0);
}

/* "reference=PATTERN", and the word of the command line. */
static bool is_meant(const struct list_command *list, const char *full)
{
        static const char key[] = "reference=";
        bool any = false, found = false;

        for (size_t i = 0; i < list->filters.n; i++)
                if (strncmp(list->filters.item[i], key, strlen(key)) == 0) {
                        any = true;
                        found |= matches(list->filters.item[i] + strlen(key), full);
                }
        return (!any || found) && (!list->words[0] || matches(list->words[0], full));
}

static bool has_labels(const struct ls *ls, const char *id)
{
        _cleanup_(image_freep) struct image *image = NULL;
        const struct image_pair *labels;
        struct instance_pairs pairs = { 0 };
        bool passes;

        if (!filter_has(&ls->list.filters, "label") && !filter_has(&ls->list.filters, "label!"))
                return true;
        if (image_find(ls->store, id, &image, NULL) < 0)
                return false;
        labels = image_get_config(image)->labels;
        while (labels[pairs.n].key)
                pairs.n++;
        pairs.item = calloc(pairs.n + 1, sizeof(*pairs.item));
        for (size_t i = 0; pairs.item && i < pairs.n; i++) {
                pairs.item[i].key = labels[i].key;
                pairs.item[i].value = labels[i].value;
        }
        passes = pairs.item && filter_labels(&ls->list.filters, &pairs);
        free(pairs.item);
        return passes;
}

static bool passes(const struct ls *ls, const struct image_summary *image)
{
        const s64 created = seconds_of(image->created);

        return filter_equals(&ls->list.filters, "dangling", image->names[0] ? "false" : "true") &&
               filter_until(&ls->list.filters, image->created) && (!ls->after || created > ls->after) &&
               (!ls->before || created < ls->before) && has_labels(ls, image->id);
}

/* The newest first. */
static size_t place_of(const json_t *rows, const char *created)
{
        size_t at = 0;

        while (at < json_array_size(rows) &&
                seconds_of(text_of(json_array_get(rows, at), "Created")) >= seconds_of(created))
                at++;
        return at;
}

static int ls_line(struct ls *ls, const struct image_summary *image, const char *full)
{
        const struct name name = split(full);
        char id[80], containers[24];

        if (!is_meant(&ls->list, full))
                return 0;
        snprintf(id, sizeof(id), "%.*s", ls->no_trunc ? (int)sizeof(id) - 1 : CONTAINER_ID_DIGITS,
                ls->no_trunc ? image->id : image_id_hex(image->id));
        snprintf(containers, sizeof(containers), "%zu", image->instances);
        return json_array_insert_new(ls->list.rows, place_of(ls->list.rows, image->created),
                json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "ID", id, "Repository", name.repository,
                        "Tag", name.tag, "Digest", image->digest, "CreatedSince", since(image->created).text,
                        "CreatedAt", listing_local_time(seconds_of(image->created)).text, "Size",
                        listing_size(image->size).text, "Containers", containers, "Created", image->created));
}

static int ls_image(void *opaque, const struct image_summary *image)
{
        struct ls *ls = opaque;
        int r = 0;

        if (!passes(ls, image))
                return 0;
        if (!image->names[0])
                return ls_line(ls, image, NULL);
        for (size_t i = 0; r == 0 && image->names[i]; i++)
                r = ls_line(ls, image, image->names[i]);
        return r;
}

/* When the image that a filter names was made. */
static int time_of(const struct ls *ls, const char *key, s64 *ret, struct err **err)
{
        const char *name = filter_first(&ls->list.filters, key);
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_json_ json_t *config = NULL;
        int r = name ? image_find(ls->store, name, &image, err) : 0;

        if (r < 0 || !name)
                return r;
        config = config_of(image);
        *ret = seconds_of(text_of(config, "created"));
        return 0;
}

static int collect_images(struct list_command *list, struct err **err)
{
        struct ls *ls = (struct ls *)list;
        int r = image_cli_open(ls->root, &ls->store, err);

        if (ls->digests && strncmp(list->listing.format, "table ", 6) == 0)
                list->listing.format =
                        "table {{.Repository}}\\t{{.Tag}}\\t{{.Digest}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}";
        if (r == 0)
                r = time_of(ls, "since", &ls->after, err);
        if (r == 0)
                r = time_of(ls, "before", &ls->before, err);
        if (r == 0)
                r = image_list(ls->store, ls_image, ls, err);
        image_store_close(ls->store);
        return r;
}

int image_ls_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                LIST_QUIET("ids"),
                CLI_OPTION("filter", 'f', LIST, offsetof(struct ls, list.filters), "KEY=VALUE",
                        "dangling, reference, label, before, since, until"),
                LIST_FORMAT("Repository"),
                CLI_OPTION("all", 'a', FLAG, offsetof(struct ls, all), NULL, "all are shown anyway"),
                CLI_OPTION("no-trunc", 0, FLAG, offsetof(struct ls, no_trunc), NULL, "whole ids"),
                CLI_OPTION("digests", 0, FLAG, offsetof(struct ls, digests), NULL, "the manifests' digests too"),
                CLI_OPTION("root", 0, TEXT, offsetof(struct ls, root), "DIR", ROOT_HELP),
                { 0 },
        };
        const struct cli_usage usage = { "strata image ls", "[OPTION...] [REPOSITORY[:TAG]]",
                "List images, the newest first. SIZE is what a registry would send.", CLI_OPTIONS(options), 0, 1,
                false };
        struct ls ls = { .list.listing.columns = columns };

        return list_command_run(&usage, filter_keys,
                "table {{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}", collect_images, argc,
                argv, &ls.list, err);
}

/* --- inspect --------------------------------------------------------------------------------------------------------------- */

/* What templates ask for is there also where the image does not say it. */
static json_t *config_with_defaults(const json_t *config)
{
        static const char *const texts[] = { "User", "WorkingDir", "StopSignal" },
                                 *const lists[] = { "Env", "Cmd", "Entrypoint", "Shell", "OnBuild" },
                                 *const objects[] = { "Labels", "ExposedPorts", "Volumes" };
        json_t *whole = json_pack("{}");

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                json_object_set_new(whole, texts[i], json_string(""));
        for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
                json_object_set_new(whole, lists[i], json_array());
        for (size_t i = 0; i < ARRAY_SIZE(objects); i++)
                json_object_set_new(whole, objects[i], json_object());
        json_object_update(whole, (json_t *)config);
        return whole;
}

struct names_of {
        json_t *tags, *digests;
};

static int collect_name(void *opaque, const char *full, const char *digest)
{
        struct names_of *of = opaque;
        const struct name name = split(full);

        if (strcmp(name.tag, NONE) != 0)
                json_array_append_new(of->tags, json_string(familiar(full)));
        json_array_append_new(of->digests, json_sprintf("%s@%s", name.repository, digest));
        return 0;
}

static json_t *layer_paths(struct image_store *store, const struct image *image)
{
        json_t *layers = json_array();

        for (size_t i = 0; i < image_layer_count(image); i++) {
                _cleanup_free_ char *path = image_layer_path(store, image, i);

                json_array_append_new(layers, json_string(path ? path : ""));
        }
        return layers;
}

static json_t *layer_ids(const json_t *config)
{
        json_t *ids = json_object_get(json_object_get(config, "rootfs"), "diff_ids");

        return ids ? json_incref(ids) : json_array();
}

static u64 size_of(const json_t *manifest)
{
        const json_t *layers = json_object_get(manifest, "layers"), *layer;
        u64 size = 0;
        size_t i;

        json_array_foreach(layers, i, layer) size += (u64)json_integer_value(json_object_get(layer, "size"));
        return size;
}

int image_inspect_json(struct image_store *store, const char *name, json_t **ret, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_json_ json_t *config = NULL, *manifest = NULL;
        struct names_of of = { .tags = json_array(), .digests = json_array() };
        const char *text;
        size_t len;
        int r = image_find(store, name, &image, err);

        if (r == 0)
                r = image_each_name(store, image_id(image), collect_name, &of, err);
        if (r < 0) {
                json_decref(of.tags);
                json_decref(of.digests);
                return r;
        }
        config = config_of(image);
        text = image_manifest_json(image, &len);
        manifest = json_loadb(text, len, 0, NULL);
        *ret = json_pack("{s:s, s:o, s:o, s:s, s:s, s:s, s:s, s:I, s:o, s:{s:s, s:o}, s:s, s:s, s:O, s:O, s:o}", "Id",
                image_id(image), "RepoTags", of.tags, "RepoDigests", of.digests, "Created", text_of(config, "created"), "Author",
                text_of(config, "author"), "Architecture", text_of(config, "architecture"), "Os", text_of(config, "os"),
                "Size", (json_int_t)size_of(manifest), "Config",
                config_with_defaults(json_object_get(config, "config")), "RootFS", "Type", "layers", "Layers",
                layer_ids(config), /* and ours: */ "digest", image_digest(image), "name", image_name(image), "config",
                config, "manifest", manifest, "layers", layer_paths(store, image));
        return *ret ? 0 : err_sys(err, ENOMEM, "inspecting an image");
}

struct inspect {
        const char *root, *format;
};

int image_inspect_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("format", 'f', TEXT, offsetof(struct inspect, format), "FORMAT",
                        "json or a template as '{{.Config.Cmd}}'"),
                CLI_OPTION("root", 0, TEXT, offsetof(struct inspect, root), "DIR", ROOT_HELP),
                { 0 },
        };
        const struct cli_usage usage = { "strata image inspect", "[OPTION...] IMAGE...",
                "Print what docker says of images, as JSON, and their configuration and manifest as they are stored and\n"
                "the directories of the layers, lowest first.",
                CLI_OPTIONS(options), 1, -1, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_json_ json_t *list = json_array();
        struct inspect inspect = { 0 };
        int first, missing = 0, r = cli_options_parse(&usage, argc, argv, &inspect, &first, err);

        if (r == 0)
                r = image_cli_open(inspect.root, &store, err);
        if (r != 0)
                return MIN(r, 0);
        for (; missing == 0 && first < argc; first++) {
                json_t *json;

                missing = image_inspect_json(store, argv[first], &json, err);
                if (missing == 0)
                        json_array_append_new(list, json);
        }
        if (missing == 0 || json_array_size(list) > 0) /* what was found is shown also when something else was not */
                r = listing_inspect(list, inspect.format, stdout, missing == 0 ? err : NULL);
        return missing < 0 ? missing : r;
}

/* --- history --------------------------------------------------------------------------------------------------------------- */

static const struct listing_column history_columns[] = {
        { "ID", "IMAGE", false },
        { "CreatedSince", "CREATED", false },
        { "CreatedBy", "CREATED BY", false },
        { "Size", "SIZE", false },
        { "Comment", "COMMENT", false },
        { "CreatedAt", "CREATED AT", true },
        { 0 },
};

struct history {
        struct listing listing;
        const char *root;
        bool no_trunc, human;

        const char *id;
        json_t *rows;
};

/* Newest first, as docker has it; that one has the image's id. */
static int collect_entry(void *opaque, const struct image_history_entry *entry)
{
        struct history *history = opaque;
        const int max = history->no_trunc ? 65536 : CREATED_BY_MAX;
        char created_by[65536 + 8], size[24];
        const json_t *last = json_array_get(history->rows, 0);

        snprintf(created_by, sizeof(created_by), "%.*s%s", max, entry->created_by,
                strlen(entry->created_by) > (size_t)max ? "..." : "");
        for (char *p = created_by; *p; p++)
                if (*p == '\t' || *p == '\n')
                        *p = ' ';
        snprintf(size, sizeof(size), "%llu", (unsigned long long)entry->size);
        if (last)
                json_object_set_new((json_t *)last, "ID", json_string("<missing>"));
        return json_array_insert_new(history->rows, 0,
                json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "ID", history->id, "CreatedSince",
                        since(entry->created).text, "CreatedAt", entry->created, "CreatedBy", created_by, "Size",
                        history->human ? listing_size(entry->size).text : size, "Comment", entry->comment));
}

int image_history_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("format", 0, TEXT, offsetof(struct history, listing.format), "FORMAT",
                        "table, 'table TEMPLATE', json or a template as '{{.CreatedBy}}'"),
                CLI_OPTION("quiet", 'q', FLAG, offsetof(struct history, listing.quiet), NULL, "ids only"),
                CLI_OPTION("no-trunc", 0, FLAG, offsetof(struct history, no_trunc), NULL, "whole ids and commands"),
                CLI_OPTION("human", 'H', FLAG, offsetof(struct history, human), NULL,
                        "sizes as people read them (=false: bytes)"),
                CLI_OPTION("root", 0, TEXT, offsetof(struct history, root), "DIR", ROOT_HELP),
                { 0 },
        };
        const struct cli_usage usage = { "strata image history", "[OPTION...] IMAGE",
                "Say how an image was made, newest step first.", CLI_OPTIONS(options), 1, 1, false };
        struct history history = { .listing.columns = history_columns, .human = true };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_json_ json_t *rows = json_array();
        char id[80];
        int first, r = cli_options_parse(&usage, argc, argv, &history, &first, err);

        if (r == 0)
                r = listing_check(&history.listing, err);
        if (r == 0)
                r = image_cli_open(history.root, &store, err);
        if (r == 0)
                r = image_find(store, argv[first], &image, err);
        if (r != 0)
                return MIN(r, 0);
        snprintf(id, sizeof(id), "%.*s", history.no_trunc ? (int)sizeof(id) - 1 : CONTAINER_ID_DIGITS,
                history.no_trunc ? image_id(image) : image_id_hex(image_id(image)));
        history.id = id;
        history.rows = rows;
        r = image_history(store, image, collect_entry, &history, err);
        return r < 0 ? r : listing_print(&history.listing, rows, stdout, err);
}
