/* Image configurations (OCI image spec, config.md): read into struct image_config, whose strings point into the JSON. */
#include <errno.h>
#include <string.h>

#include "internal.h"

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "reading an image's configuration");
}

static int wrong(struct err **err, const char *member)
{
        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "the image's configuration: '%s' is malformed", member);
}

/* An array of @n + 1 elements of @size that lives as long as the file. */
static void *new_list(struct config_file *file, size_t n, size_t size)
{
        void **lists = reallocarray(file->lists, file->n_lists + 1, sizeof(*lists));
        void *list;

        if (!lists)
                return NULL;
        file->lists = lists;
        list = calloc(n + 1, size);
        if (list)
                file->lists[file->n_lists++] = list;
        return list;
}

/* ["a", "b"] or null */
static int read_strings(
        struct config_file *file, const json_t *object, const char *member, const char *const **ret, struct err **err)
{
        const json_t *array = json_object_get(object, member);
        const char **list;

        if (array && !json_is_null(array) && !json_is_array(array))
                return wrong(err, member);
        list = new_list(file, json_array_size(array), sizeof(*list));
        if (!list)
                return no_memory(err);
        for (size_t i = 0; i < json_array_size(array); i++) {
                list[i] = json_string_value(json_array_get(array, i));
                if (!list[i])
                        return wrong(err, member);
        }
        *ret = list;
        return 0;
}

/* {"a": {}, "b": {}}: the keys matter */
static int read_keys(
        struct config_file *file, const json_t *object, const char *member, const char *const **ret, struct err **err)
{
        json_t *map = json_object_get(object, member), *value;
        const char **list, *key;
        size_t n = 0;

        if (map && !json_is_null(map) && !json_is_object(map))
                return wrong(err, member);
        list = new_list(file, json_object_size(map), sizeof(*list));
        if (!list)
                return no_memory(err);
        json_object_foreach(map, key, value) list[n++] = key;
        *ret = list;
        return 0;
}

static int read_labels(struct config_file *file, const json_t *object, const struct image_pair **ret, struct err **err)
{
        json_t *map = json_object_get(object, "Labels"), *value;
        struct image_pair *list;
        const char *key;
        size_t n = 0;

        if (map && !json_is_null(map) && !json_is_object(map))
                return wrong(err, "Labels");
        list = new_list(file, json_object_size(map), sizeof(*list));
        if (!list)
                return no_memory(err);
        json_object_foreach(map, key, value)
        {
                if (!json_is_string(value))
                        return wrong(err, "Labels");
                list[n++] = (struct image_pair){ key, json_string_value(value) };
        }
        *ret = list;
        return 0;
}

static u64 read_duration(const json_t *object, const char *member)
{
        const json_int_t v = json_integer_value(json_object_get(object, member));

        return v > 0 ? (u64)v : 0;
}

static int read_healthcheck(struct config_file *file, const json_t *config, struct err **err)
{
        const json_t *json = json_object_get(config, "Healthcheck"); /* docker's addition to the specification */
        struct image_healthcheck *check = &file->config.healthcheck;
        const json_int_t retries = json_integer_value(json_object_get(json, "Retries"));

        if (!json_is_object(json))
                return 0;
        check->interval_ns = read_duration(json, "Interval");
        check->timeout_ns = read_duration(json, "Timeout");
        check->start_period_ns = read_duration(json, "StartPeriod");
        check->retries = retries > 0 && retries < 1000000 ? (unsigned)retries : 0;
        return read_strings(file, json, "Test", &check->test, err);
}

static int read_diff_ids(struct config_file *file, struct err **err)
{
        const json_t *rootfs = json_object_get(file->json, "rootfs"), *ids = json_object_get(rootfs, "diff_ids");
        int r;

        if (ids && !json_is_null(ids) && !json_is_array(ids))
                return wrong(err, "rootfs.diff_ids");
        if (json_array_size(ids) > MANIFEST_LAYERS_MAX)
                return wrong(err, "rootfs.diff_ids");
        file->diff_ids = new_list(file, json_array_size(ids), sizeof(*file->diff_ids));
        if (!file->diff_ids)
                return no_memory(err);
        for (; file->n_diff_ids < json_array_size(ids); file->n_diff_ids++) {
                r = digest_parse(json_string_value(json_array_get(ids, file->n_diff_ids)),
                        &file->diff_ids[file->n_diff_ids], err);
                if (r < 0)
                        return err_wrap(err, r, "the image's configuration: rootfs.diff_ids");
        }
        return 0;
}

int config_file_parse(const char *text, size_t len, struct config_file *ret, struct err **err)
{
        _cleanup_(config_file_clear) struct config_file file = { 0 };
        struct image_config *c = &file.config;
        const json_t *config;
        int r = json_read(text, len, "the image's configuration", &file.json, err);

        if (r < 0)
                return r;
        config = json_object_get(file.json, "config");
        if (config && !json_is_null(config) && !json_is_object(config))
                return wrong(err, "config");
        c->os = json_text(file.json, "os");
        c->architecture = json_text(file.json, "architecture");
        c->variant = json_text(file.json, "variant");
        c->created = json_text(file.json, "created");
        c->author = json_text(file.json, "author");
        c->user = json_text(config, "User");
        c->working_dir = json_text(config, "WorkingDir");
        c->stop_signal = json_text(config, "StopSignal");
        if ((r = read_strings(&file, config, "Env", &c->env, err)) < 0 ||
                (r = read_strings(&file, config, "Entrypoint", &c->entrypoint, err)) < 0 ||
                (r = read_strings(&file, config, "Cmd", &c->cmd, err)) < 0 ||
                (r = read_strings(&file, config, "Shell", &c->shell, err)) < 0 ||
                (r = read_strings(&file, config, "OnBuild", &c->onbuild, err)) < 0 ||
                (r = read_keys(&file, config, "Volumes", &c->volumes, err)) < 0 ||
                (r = read_keys(&file, config, "ExposedPorts", &c->exposed_ports, err)) < 0 ||
                (r = read_labels(&file, config, &c->labels, err)) < 0 ||
                (r = read_healthcheck(&file, config, err)) < 0 || (r = read_diff_ids(&file, err)) < 0)
                return r;
        *ret = file;
        file = (struct config_file){ 0 };
        return 0;
}

void config_file_clear(struct config_file *file)
{
        for (size_t i = 0; i < file->n_lists; i++)
                free(file->lists[i]);
        free(file->lists);
        json_decref(file->json);
        *file = (struct config_file){ 0 };
}
