/* `strata image ls`, `inspect` and `history`. */
#include <errno.h>
#include <libsmartcols/libsmartcols.h>
#include <stdio.h>
#include <string.h>

#include "image_cli.h"

#define ID_DIGITS 12
#define NONE      "<none>"

#define OPTION_ROOT \
        CLI_LOCAL("root", 0, TEXT, &root, "DIR", "the image store (default: $STRATA_IMAGE_ROOT or the user's own)")
#define OPTION_FORMAT CLI_LOCAL("format", 0, TEXT, &format, "FORMAT", "table (the default) or json")

static int print_json(const json_t *json, struct err **err)
{
        if (!json || json_dumpf(json, stdout, JSON_INDENT(2)) < 0)
                return err_sys(err, json ? EIO : ENOMEM, "printing JSON");
        putchar('\n');
        return 0;
}

static struct libscols_table *new_table(const char *const *columns, size_t n)
{
        struct libscols_table *table = scols_new_table();

        for (size_t i = 0; table && i < n; i++)
                scols_table_new_column(table, columns[i], 0, i + 1 < n ? 0 : SCOLS_FL_TRUNC);
        return table;
}

static int add_line(struct libscols_table *table, const char *const *cells, size_t n)
{
        struct libscols_line *line = scols_table_new_line(table, NULL);

        for (size_t i = 0; line && i < n; i++)
                if (scols_line_set_data(line, i, cells[i]) < 0)
                        return -ENOMEM;
        return line ? 0 : -ENOMEM;
}

static int print_table(struct libscols_table *table, struct err **err)
{
        const int r = table ? scols_print_table(table) : -ENOMEM;

        scols_unref_table(table);
        return r < 0 ? err_sys(err, -r, "printing a table") : 0;
}

/* --- ls ------------------------------------------------------------------------------------------------------------------ */

struct ls {
        bool quiet, no_trunc, digests;
        json_t *json;
        struct libscols_table *table;
};

static int ls_line(struct ls *ls, const struct image_summary *image, const char *name)
{
        char repository[512] = NONE, tag[256] = NONE, id[80];
        const struct image_size size = image_size_text(image->size);
        const struct image_age age = image_age_text(image->created);
        const char *at = name ? strchr(name, '@') : NULL, *colon = name ? strrchr(name, ':') : NULL;
        const char *end = at ? at : colon;

        if (end) {
                snprintf(repository, sizeof(repository), "%.*s", (int)(end - name), name);
                if (!at)
                        snprintf(tag, sizeof(tag), "%s", end + 1);
        }
        snprintf(id, sizeof(id), "%.*s", ls->no_trunc ? 64 : ID_DIGITS, image_id_hex(image->id));
        if (ls->digests) {
                const char *cells[] = { repository, tag, image->digest, id, age.text, size.text };

                return add_line(ls->table, cells, ARRAY_SIZE(cells));
        } else {
                const char *cells[] = { repository, tag, id, age.text, size.text };

                return add_line(ls->table, cells, ARRAY_SIZE(cells));
        }
}

static int ls_image(void *opaque, const struct image_summary *image)
{
        struct ls *ls = opaque;
        json_t *names;
        int r = 0;

        if (ls->quiet) {
                printf("%.*s\n", ls->no_trunc ? 64 : ID_DIGITS, image_id_hex(image->id));
                return 0;
        }
        if (ls->json) {
                names = json_array();
                for (size_t i = 0; image->names[i]; i++)
                        json_array_append_new(names, json_string(image->names[i]));
                return json_array_append_new(ls->json,
                        json_pack("{s:s, s:s, s:o, s:s, s:s, s:s, s:I, s:I, s:I}", "id", image->id, "digest",
                                image->digest, "names", names, "created", image->created, "os", image->os,
                                "architecture", image->architecture, "size", (json_int_t)image->size, "layers",
                                (json_int_t)image->layers, "instances", (json_int_t)image->instances));
        }
        if (!image->names[0])
                return ls_line(ls, image, NULL);
        for (size_t i = 0; r == 0 && image->names[i]; i++)
                r = ls_line(ls, image, image->names[i]);
        return r;
}

int image_ls_command(int argc, char **argv, struct err **err)
{
        static const char *const columns[] = { "REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE" };
        static const char *const digest_columns[] = { "REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE" };
        const char *root = NULL, *format = NULL;
        struct ls ls = { 0 };
        const struct cli_option options[] = {
                OPTION_FORMAT,
                CLI_LOCAL("quiet", 'q', FLAG, &ls.quiet, NULL, "ids only"),
                CLI_LOCAL("no-trunc", 0, FLAG, &ls.no_trunc, NULL, "whole ids"),
                CLI_LOCAL("digests", 0, FLAG, &ls.digests, NULL, "the manifests' digests too"),
                OPTION_ROOT,
                { 0 },
        };
        const struct cli_usage usage = { "strata image ls", "[OPTION...]",
                "List images. SIZE is what a registry would send.", CLI_OPTIONS(options), 0, 0, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        bool json;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r == 0)
                r = image_format_parse(format, &json, err);
        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        if (r < 0)
                return r;
        ls.json = json ? json_array() : NULL;
        ls.table = ls.digests ? new_table(digest_columns, ARRAY_SIZE(digest_columns))
                              : new_table(columns, ARRAY_SIZE(columns));
        r = image_list(store, ls_image, &ls, err);
        if (r == 0 && ls.json)
                r = print_json(ls.json, err);
        else if (r == 0 && !ls.quiet)
                r = print_table(TAKE_PTR(ls.table), err);
        scols_unref_table(ls.table);
        json_decref(ls.json);
        return r;
}

/* --- inspect --------------------------------------------------------------------------------------------------------------- */

int image_inspect_json(struct image_store *store, const char *name, json_t **ret, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        const char *text;
        json_t *layers, *config, *manifest;
        size_t len;
        int r = image_find(store, name, &image, err);

        if (r < 0)
                return r;
        layers = json_array();
        for (size_t i = 0; i < image_layer_count(image); i++) {
                _cleanup_free_ char *path = image_layer_path(store, image, i);

                json_array_append_new(layers, json_string(path ? path : ""));
        }
        text = image_config_json(image, &len);
        config = json_loadb(text, len, 0, NULL);
        text = image_manifest_json(image, &len);
        manifest = json_loadb(text, len, 0, NULL);
        *ret = json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "id", image_id(image), "digest", image_digest(image), "name",
                image_name(image), "config", config, "manifest", manifest, "layers", layers);
        return *ret ? 0 : err_sys(err, ENOMEM, "inspecting an image");
}

int image_inspect_command(int argc, char **argv, struct err **err)
{
        const char *root = NULL;
        const struct cli_option options[] = { OPTION_ROOT, { 0 } };
        const struct cli_usage usage = { "strata image inspect", "[OPTION...] IMAGE...",
                "Print configuration, manifest and the directories of the layers, lowest first.", CLI_OPTIONS(options),
                1, -1, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        json_t *list;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        if (r < 0)
                return r;
        list = json_array();
        for (; r == 0 && first < argc; first++) {
                json_t *json;

                r = image_inspect_json(store, argv[first], &json, err);
                if (r == 0)
                        json_array_append_new(list, json);
        }
        if (r == 0)
                r = print_json(list, err);
        json_decref(list);
        return r;
}

/* --- history --------------------------------------------------------------------------------------------------------------- */

/* Newest first, as docker: collected, then printed from the end. */
static int collect_entry(void *opaque, const struct image_history_entry *entry)
{
        return json_array_insert_new(opaque, 0,
                json_pack("{s:s, s:s, s:s, s:b, s:I}", "created", entry->created, "created_by", entry->created_by,
                        "comment", entry->comment, "empty_layer", entry->empty_layer, "size", (json_int_t)entry->size));
}

static int history_table(const json_t *list, struct err **err)
{
        static const char *const columns[] = { "CREATED", "SIZE", "COMMENT", "CREATED BY" };
        struct libscols_table *table = new_table(columns, ARRAY_SIZE(columns));

        for (size_t i = 0; table && i < json_array_size(list); i++) {
                const json_t *entry = json_array_get(list, i);
                const struct image_age age = image_age_text(json_string_value(json_object_get(entry, "created")));
                const struct image_size size = image_size_text((u64)json_integer_value(json_object_get(entry, "size")));
                const char *cells[] = { age.text, size.text, json_string_value(json_object_get(entry, "comment")),
                        json_string_value(json_object_get(entry, "created_by")) };

                if (add_line(table, cells, ARRAY_SIZE(cells)) < 0) {
                        scols_unref_table(table);
                        table = NULL;
                }
        }
        return print_table(table, err);
}

int image_history_command(int argc, char **argv, struct err **err)
{
        const char *root = NULL, *format = NULL;
        const struct cli_option options[] = { OPTION_FORMAT, OPTION_ROOT, { 0 } };
        const struct cli_usage usage = { "strata image history", "[OPTION...] IMAGE",
                "Say how an image was made, newest step first.", CLI_OPTIONS(options), 1, 1, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        json_t *list;
        bool json;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r == 0)
                r = image_format_parse(format, &json, err);
        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        if (r == 0)
                r = image_find(store, argv[first], &image, err);
        if (r < 0)
                return r;
        list = json_array();
        r = image_history(store, image, collect_entry, list, err);
        if (r == 0)
                r = json ? print_json(list, err) : history_table(list, err);
        json_decref(list);
        return r;
}
