/* `image build`: stages in order, each instruction a change of the configuration or a layer.
 *
 * A layer's cache key is what the layer depends on: the layers below, the instruction with its variables put in, what it
 * copies, and for RUN the environment. Where a key was seen before and its layer is still in the store, nothing is done. */
#include "build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "change.h"

#define DIR_KEYS    DIR_BUILD_CACHE "/keys"
#define ONBUILD_MAX 200U

static void _printf_(2, 3) say(const struct build *build, const char *fmt, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        va_end(ap);
        if (build->options->log && text)
                build->options->log(build->options->opaque, text);
}

static json_t *stage_config(struct stage *stage)
{
        return json_object_get(stage->image.config, "config");
}

/* --- variables --------------------------------------------------------------------------------------------------------------------------- */

static const char *env_value(const json_t *env, const char *name, size_t len)
{
        for (size_t i = 0; i < json_array_size(env); i++) {
                const char *pair = json_string_value(json_array_get(env, i));

                if (pair && strncmp(pair, name, len) == 0 && pair[len] == '=')
                        return pair + len + 1;
        }
        return NULL;
}

/* ENV first, then ARG (Dockerfile reference, "Using ARG variables"). */
static const char *stage_variable(void *opaque, const char *name, size_t len)
{
        struct stage *stage = opaque;
        const char *value = env_value(json_object_get(stage_config(stage), "Env"), name, len);
        char key[256];

        if (value || len >= sizeof(key))
                return value;
        snprintf(key, sizeof(key), "%.*s", (int)len, name);
        return json_string_value(json_object_get(stage->args, key));
}

static const char *json_variable(void *opaque, const char *name, size_t len)
{
        char key[256];

        if (len >= sizeof(key))
                return NULL;
        snprintf(key, sizeof(key), "%.*s", (int)len, name);
        return json_string_value(json_object_get(opaque, key));
}

/* What every build knows of its platform; a stage that wants to see it says ARG. */
static int add_platform_args(json_t *args, struct err **err)
{
        struct platform p;
        char text[100];
        int r = platform_parse(NULL, &p, err);

        if (r < 0)
                return r;
        snprintf(text, sizeof(text), "%s/%s%s%s", p.os, p.architecture, p.variant[0] ? "/" : "", p.variant);
        for (int target = 0; target < 2; target++) {
                const char *const prefix = target ? "TARGET" : "BUILD";
                char key[32];

                snprintf(key, sizeof(key), "%sPLATFORM", prefix);
                json_object_set_new(args, key, json_string(text));
                snprintf(key, sizeof(key), "%sOS", prefix);
                json_object_set_new(args, key, json_string(p.os));
                snprintf(key, sizeof(key), "%sARCH", prefix);
                json_object_set_new(args, key, json_string(p.architecture));
                snprintf(key, sizeof(key), "%sVARIANT", prefix);
                json_object_set_new(args, key, json_string(p.variant));
        }
        return 0;
}

/* ARG NAME[=default]...: the command line's value counts, then the default, then what was said before FROM. */
static int take_arg(json_t *args, const json_t *given, const json_t *global, const char *text, struct err **err)
{
        _cleanup_json_ json_t *words = change_words(text);

        for (size_t i = 0; i < json_array_size(words); i++) {
                _cleanup_free_ char *name = strdup(json_string_value(json_array_get(words, i)));
                char *equals = name ? strchr(name, '=') : NULL;
                const json_t *value;

                if (!name || !*name || equals == name)
                        return err_set(err, ERR_USAGE, EINVAL, "ARG takes NAME or NAME=DEFAULT");
                if (equals)
                        *equals = '\0';
                value = json_object_get(given, name);
                if (!value && !equals)
                        value = json_object_get(global, name);
                if (value)
                        json_object_set(args, name, (json_t *)value);
                else if (equals)
                        json_object_set_new(args, name, json_string(equals + 1));
        }
        return 0;
}

/* --build-arg NAME=VALUE, or NAME with the environment's value */
static int take_given_args(struct build *build, struct err **err)
{
        build->given_args = json_object();
        for (const char *const *arg = build->options->args; arg && *arg; arg++) {
                _cleanup_free_ char *name = strdup(*arg);
                char *equals = name ? strchr(name, '=') : NULL;
                const char *value;

                if (equals)
                        *equals = '\0';
                value = equals ? equals + 1 : name ? getenv(name) : NULL;
                if (value && json_object_set_new(build->given_args, name, json_string(value)) < 0)
                        return err_set(err, ERR_USAGE, EINVAL, "--build-arg: '%.60s' is not UTF-8", *arg);
        }
        return 0;
}

/* --- the cache ---------------------------------------------------------------------------------------------------------------------------- */

static int cache_key(struct stage *stage, const char *instruction, const struct digest *content, const json_t *env,
        struct digest *ret, struct err **err)
{
        const json_t *config = stage_config(stage);
        _cleanup_json_ json_t *json = json_pack("{s:O, s:s, s:s, s:s, s:s}", "layers",
                json_object_get(json_object_get(stage->image.config, "rootfs"), "diff_ids"), "instruction", instruction,
                "content", content ? content->text : "", "user", json_text(config, "User"), "workdir",
                json_text(config, "WorkingDir"));
        const char *epoch = getenv("SOURCE_DATE_EPOCH");
        _cleanup_free_ char *text = NULL;

        if (json && env)
                json_object_set(json, "env", (json_t *)env);
        if (json && epoch)
                json_object_set_new(json, "epoch", json_string(epoch));
        text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
        return text ? digest_of(text, strlen(text), ret, err) : err_sys(err, ENOMEM, "building an image");
}

/* 1 when the layer of that key is there, and added. */
static int cache_use(struct stage *stage, const struct digest *key, struct err **err)
{
        struct build *build = stage->build;
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        char path[sizeof(DIR_KEYS) + 1 + DIGEST_HEX];
        struct descriptor layer;
        struct digest diff_id;
        size_t len;
        int r;

        snprintf(path, sizeof(path), DIR_KEYS "/%s", digest_hex(key));
        if (build->options->no_cache || io_read_file(build->store->fd, path, 64 * KIB, &text, &len, NULL) < 0 ||
                json_read(text, len, path, &json, NULL) < 0 ||
                descriptor_parse(json_object_get(json, "layer"), &layer, NULL) < 0 ||
                digest_parse(json_text(json, "diff_id"), &diff_id, NULL) < 0)
                return 0;
        r = lease_hold(build->lease, &layer.digest, err);
        if (r == 0)
                r = lease_hold(build->lease, &diff_id, err);
        if (r < 0)
                return r;
        if (!blob_exists(build->store, &layer.digest, NULL) || !layer_exists(build->store, &diff_id))
                return 0;
        r = new_image_add_layer(&stage->image, &layer, &diff_id, err);
        return r < 0 ? r : 1;
}

/* 1 when the step was done before; else the root file system that it works on. */
static int begin_layer(struct stage *stage, const char *instruction, const struct digest *content, const json_t *env,
        struct digest *ret_key, struct build_root *ret_root, struct err **err)
{
        int r = cache_key(stage, instruction, content, env, ret_key, err);

        if (r == 0)
                r = cache_use(stage, ret_key, err);
        if (r == 1)
                say(stage->build, " cached");
        return r != 0 ? r : build_root_open(stage->build, stage->image.config, true, ret_root, err);
}

static int cache_store(struct stage *stage, const struct digest *key, const struct descriptor *layer,
        const struct digest *diff_id, struct err **err)
{
        struct build *build = stage->build;
        _cleanup_json_ json_t *json =
                json_pack("{s:o, s:s}", "layer", descriptor_to_json(layer), "diff_id", diff_id->text);
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        _cleanup_close_ int dir = -1;
        int r = text ? io_make_dir(build->store->fd, DIR_BUILD_CACHE, 0700, err)
                     : err_sys(err, ENOMEM, "building an image");

        if (r == 0)
                r = io_make_dir(build->store->fd, DIR_KEYS, 0700, err);
        if (r == 0)
                r = io_open_dir(build->store->fd, DIR_KEYS, &dir, err);
        return r < 0 ? r
                     : io_replace_file(build->lease->tmp_fd, lease_new_name(build->lease).text, dir, digest_hex(key),
                               text, strlen(text), err);
}

/* --- instructions that make layers ---------------------------------------------------------------------------------------------------------- */

static int finish_layer(struct stage *stage, struct build_root *root, const struct digest *key, struct err **err)
{
        struct descriptor layer;
        struct digest diff_id;
        int r = build_root_commit(root, &layer, &diff_id, err);

        if (r == 0)
                r = new_image_add_layer(&stage->image, &layer, &diff_id, err);
        return r < 0 ? r : cache_store(stage, key, &layer, &diff_id, err);
}

static int do_copy(struct stage *stage, const struct docker_instruction *i, struct err **err)
{
        _cleanup_(build_root_close) struct build_root root = BUILD_ROOT_EMPTY;
        _cleanup_(build_copy_freep) struct build_copy *copy = NULL;
        _cleanup_free_ char *text = NULL, *line = NULL, *flags = NULL;
        struct digest content, key;
        int r = docker_expand(i->text, stage_variable, stage, &text, err);

        if (r == 0)
                r = build_copy_prepare(stage, i, text, &copy, &content, err);
        flags = json_dumps(i->flags, JSON_COMPACT);
        if (r == 0 && asprintf(&line, "%s %s %s", i->keyword, flags ? flags : "", text) < 0) {
                line = NULL;
                r = err_sys(err, ENOMEM, "copying");
        }
        if (r == 0)
                r = begin_layer(stage, line, &content, NULL, &key, &root, err);
        if (r != 0)
                return MIN(r, 0);
        r = build_copy_run(copy, &root, err);
        return r < 0 ? r : finish_layer(stage, &root, &key, err);
}

/* The process's variables: ENV, and ARGs that ENV does not hide. */
static json_t *run_env(struct stage *stage)
{
        json_t *env = json_array(), *value;
        const json_t *own = json_object_get(stage_config(stage), "Env");
        const char *name;

        json_object_foreach(stage->args, name, value)
        {
                _cleanup_free_ char *pair = NULL;

                if (env_value(own, name, strlen(name)) ||
                        asprintf(&pair, "%s=%s", name, json_string_value(value)) < 0) {
                        pair = NULL;
                        continue;
                }
                json_array_append_new(env, json_string(pair));
        }
        if (own)
                json_array_extend(env, (json_t *)own);
        return env;
}

static int do_run(struct stage *stage, const struct docker_instruction *i, struct err **err)
{
        _cleanup_(build_root_close) struct build_root root = BUILD_ROOT_EMPTY;
        _cleanup_json_ json_t *command = build_run_command(stage, i), *env = run_env(stage);
        _cleanup_free_ char *line = NULL, *flags = json_dumps(i->flags, JSON_COMPACT),
                            *command_text = command ? json_dumps(command, JSON_COMPACT) : NULL;
        struct digest key, sources;
        int r;

        if (!command_text || asprintf(&line, "RUN %s %s", flags ? flags : "", command_text) < 0) {
                line = NULL;
                return err_sys(err, ENOMEM, "running a command");
        }
        r = build_run_sources(stage, i, &sources, err);
        if (r == 0)
                r = begin_layer(stage, line, &sources, env, &key, &root, err);
        if (r != 0)
                return MIN(r, 0);
        r = build_run(stage, i, command, env, &root, err);
        return r < 0 ? r : finish_layer(stage, &root, &key, err);
}

/* The directory has to exist: a layer of its own, when it does not. */
static int make_workdir(struct stage *stage, struct err **err)
{
        _cleanup_(build_root_close) struct build_root root = BUILD_ROOT_EMPTY;
        const char *workdir = json_text(stage_config(stage), "WorkingDir");
        char path[TAR_PATH_MAX + 1];
        struct digest key;
        struct tree tree;
        int fd, r = tree_clean_path(workdir, path, err);

        if (r == 0)
                r = cache_key(stage, "WORKDIR", NULL, NULL, &key, err);
        if (r == 0)
                r = cache_use(stage, &key, err);
        if (r != 0)
                return MIN(r, 0);
        r = build_root_open(stage->build, stage->image.config, true, &root, err);
        if (r < 0)
                return r;
        tree_init(&tree, root.mount);
        if (tree_dir(&tree, path, false, &fd, NULL) == 0) {
                tree_clear(&tree);
                return 1; /* nothing to do */
        }
        r = tree_dir(&tree, path, true, &fd, err);
        tree_clear(&tree);
        return r < 0 ? r : finish_layer(stage, &root, &key, err);
}

/* --- an instruction --------------------------------------------------------------------------------------------------------------------------- */

/* Which texts have variables: those of commands are the shell's (Dockerfile reference, "Environment replacement"). */
static bool is_expanded(const char *keyword)
{
        static const char *const plain[] = { "CMD", "ENTRYPOINT", "SHELL", "ONBUILD", "HEALTHCHECK" };

        for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
                if (strcmp(plain[i], keyword) == 0)
                        return false;
        return true;
}

static int do_change(struct stage *stage, const struct docker_instruction *i, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        int r = 0;

        if (is_expanded(i->keyword))
                r = docker_expand(i->text, stage_variable, stage, &text, err);
        if (r < 0)
                return r;
        /* The base image's CMD was meant for its own ENTRYPOINT. */
        if (strcmp(i->keyword, "ENTRYPOINT") == 0 && !stage->cmd_set)
                json_object_del(stage_config(stage), "Cmd");
        if (strcmp(i->keyword, "CMD") == 0)
                stage->cmd_set = true;
        return change_apply(stage_config(stage), i->keyword, text ? text : i->text, err);
}

static int do_instruction(struct stage *stage, const struct docker_instruction *i, struct err **err)
{
        struct build *build = stage->build;
        _cleanup_free_ char *arg = NULL;
        bool layer = false;
        int r;

        say(build, "[%zu/%zu] %s", ++build->step, build->n_steps, i->original);
        if (strcmp(i->keyword, "ARG") == 0) {
                r = docker_expand(i->text, stage_variable, stage, &arg, err);
                if (r == 0)
                        r = take_arg(stage->args, build->given_args, build->stages[0].args, arg, err);
        } else if (strcmp(i->keyword, "RUN") == 0) {
                layer = true;
                r = do_run(stage, i, err);
        } else if (strcmp(i->keyword, "COPY") == 0 || strcmp(i->keyword, "ADD") == 0) {
                layer = true;
                r = do_copy(stage, i, err);
        } else if (strcmp(i->keyword, "MAINTAINER") == 0) {
                r = json_object_set_new(stage->image.config, "author", json_string(i->text)) < 0
                            ? err_sys(err, ENOMEM, "MAINTAINER")
                            : 0;
        } else {
                r = do_change(stage, i, err);
                if (r == 0 && strcmp(i->keyword, "WORKDIR") == 0) {
                        r = make_workdir(stage, err);
                        layer = r == 0;
                        r = MIN(r, 0);
                }
        }
        if (r == 0)
                r = new_image_add_history(&stage->image, i->original, NULL, !layer, err);
        if (r < 0 && i->line > 0)
                return err_wrap(err, r, "Dockerfile line %u, %s", i->line, i->keyword);
        return r < 0 ? err_wrap(err, r, "ONBUILD %s", i->keyword) : 0;
}

/* --- stages -------------------------------------------------------------------------------------------------------------------------------------- */

/* A stage before @before by name or number; NULL when there is none. */
static struct stage *find_stage(struct build *build, const char *name, size_t before)
{
        char *end;
        const unsigned long number = strtoul(name, &end, 10);

        for (size_t i = 0; i < before; i++)
                if (build->file.stages[i].name[0] && strcasecmp(build->file.stages[i].name, name) == 0)
                        return &build->stages[1 + i];
        return *name && !*end && number < before ? &build->stages[1 + number] : NULL;
}

static int build_stage(struct stage *stage, struct err **err);

static size_t stage_index(const struct build *build, const struct stage *stage)
{
        return (size_t)(stage - build->stages) - 1;
}

static int get_base(struct build *build, const char *name, struct image **ret, struct err **err)
{
        struct image_pull_options pull = { .progress = build->options->progress };

        if (build->options->pull)
                pull.policy = IMAGE_PULL_ALWAYS;
        return image_get(build->store, name, &pull, ret, err);
}

int build_find_source(
        struct build *build, const struct stage *stage, const char *name, json_t **ret_config, struct err **err)
{
        struct stage *source = find_stage(build, name, stage_index(build, stage));
        _cleanup_(image_freep) struct image *image = NULL;
        int r;

        if (source) {
                r = build_stage(source, err);
                if (r == 0)
                        *ret_config = json_incref(source->image.config);
                return r;
        }
        r = get_base(build, name, &image, err);
        for (size_t i = 0; r == 0 && i < image->config.n_diff_ids; i++)
                r = lease_hold(build->lease, &image->config.diff_ids[i], err);
        if (r == 0)
                *ret_config = json_incref(image->config.json);
        return r;
}

static int do_onbuild(struct stage *stage, struct err **err)
{
        _cleanup_json_ json_t *lines = json_incref(json_object_get(stage_config(stage), "OnBuild"));
        int r = 0;

        json_object_del(stage_config(stage), "OnBuild");
        for (size_t i = 0; r == 0 && i < MIN(json_array_size(lines), ONBUILD_MAX); i++) {
                _cleanup_(docker_instruction_clear) struct docker_instruction instruction = { 0 };

                r = dockerfile_parse_line(json_string_value(json_array_get(lines, i)), &instruction, err);
                if (r == 0)
                        r = do_instruction(stage, &instruction, err);
        }
        return r;
}

/* FROM: another stage, an image, or nothing. */
static int begin_stage(struct stage *stage, struct err **err)
{
        struct build *build = stage->build;
        _cleanup_free_ char *expanded = NULL;
        _cleanup_json_ json_t *words = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        struct stage *parent;
        const char *base;
        int r = docker_expand(stage->source->base, json_variable, build->stages[0].args, &expanded, err);

        if (r < 0)
                return r;
        words = change_words(expanded);
        base = json_string_value(json_array_get(words, 0));
        if (!base || !*base)
                return err_set(err, ERR_USAGE, EINVAL, "FROM '%s' names no image", stage->source->base);
        parent = find_stage(build, base, stage_index(build, stage));
        if (parent) {
                r = build_stage(parent, err);
                if (r == 0)
                        r = new_image_init(&stage->image, build->lease, NULL, err);
                if (r < 0)
                        return r;
                json_decref(stage->image.config);
                stage->image.config = json_deep_copy(parent->image.config);
                stage->image.layers = calloc(parent->image.n_layers + 1, sizeof(*stage->image.layers));
                if (!stage->image.layers || !stage->image.config)
                        return err_sys(err, ENOMEM, "building an image");
                if (parent->image.n_layers > 0)
                        memcpy(stage->image.layers, parent->image.layers,
                                parent->image.n_layers * sizeof(*stage->image.layers));
                stage->image.n_layers = parent->image.n_layers;
        } else if (strcmp(base, "scratch") == 0) {
                r = new_image_init(&stage->image, build->lease, NULL, err);
        } else {
                r = get_base(build, base, &image, err);
                if (r == 0)
                        r = new_image_init(&stage->image, build->lease, image, err);
        }
        say(build, "[%zu/%zu] FROM %s%s%s", ++build->step, build->n_steps, base, stage->source->name[0] ? " AS " : "",
                stage->source->name);
        return r < 0 ? r : do_onbuild(stage, err);
}

/* Once; what it needs is built first. */
static int build_stage(struct stage *stage, struct err **err)
{
        int r;

        if (stage->image.config)
                return 0;
        stage->args = json_object();
        r = begin_stage(stage, err);
        for (size_t i = 0; r == 0 && i < stage->source->n; i++)
                r = do_instruction(stage, &stage->source->instructions[i], err);
        return r;
}

/* --- a build --------------------------------------------------------------------------------------------------------------------------------------- */

/* stages[0] is what is before the first FROM: its ARGs. */
static int prepare_stages(struct build *build, struct err **err)
{
        struct stage *global;
        int r;

        build->stages = calloc(build->file.n_stages + 1, sizeof(*build->stages));
        if (!build->stages)
                return err_sys(err, ENOMEM, "building an image");
        global = &build->stages[0];
        global->build = build;
        global->args = json_object();
        r = add_platform_args(global->args, err);
        for (size_t i = 0; r == 0 && i < build->file.n_args; i++) {
                _cleanup_free_ char *text = NULL;

                r = docker_expand(build->file.args[i].text, json_variable, global->args, &text, err);
                if (r == 0)
                        r = take_arg(global->args, build->given_args, NULL, text, err);
        }
        for (size_t i = 0; i < build->file.n_stages; i++) {
                build->stages[i + 1].build = build;
                build->stages[i + 1].source = &build->file.stages[i];
                build->n_steps += 1 + build->file.stages[i].n;
        }
        return r;
}

static int publish(struct build *build, struct stage *stage, struct image **ret, struct err **err)
{
        const char *const *names = build->options->names;
        _cleanup_(image_freep) struct image *image = NULL;
        int r = 0;

        for (const char *const *label = build->options->labels; r == 0 && label && *label; label++)
                r = change_apply(stage_config(stage), "LABEL", *label, err);
        if (r == 0)
                r = new_image_publish(&stage->image, names ? names[0] : NULL, &image, err);
        for (size_t i = 1; r == 0 && names && names[0] && names[i]; i++)
                r = image_tag(build->store, image_id(image), names[i], err);
        if (r == 0)
                *ret = TAKE_PTR(image);
        return r;
}

static void build_clear(struct build *build)
{
        for (size_t i = 0; build->stages && i <= build->file.n_stages; i++) {
                new_image_clear(&build->stages[i].image);
                json_decref(build->stages[i].args);
        }
        free(build->stages);
        dockerfile_clear(&build->file);
        dockerignore_free(build->ignore);
        json_decref(build->given_args);
        closep(&build->context);
        lease_close(build->lease);
}

int image_build(
        struct image_store *store, const struct image_build_options *options, struct image **ret, struct err **err)
{
        _cleanup_(build_clear) struct build build = { .store = store, .options = options, .context = -1 };
        struct stage *target = NULL;
        struct platform host, wanted;
        int r = lease_open(store, &build.lease, err);

        if (r == 0)
                r = platform_parse(NULL, &host, err);
        if (r == 0)
                r = platform_parse(options->platform, &wanted, err);
        if (r == 0 && (strcmp(wanted.os, host.os) != 0 || strcmp(wanted.architecture, host.architecture) != 0))
                r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "images for %s are not built on %s/%s", options->platform,
                        host.os, host.architecture);
        if (r == 0)
                r = take_given_args(&build, err);
        if (r == 0)
                r = build_read_inputs(&build, err);
        if (r == 0)
                r = prepare_stages(&build, err);
        if (r < 0)
                return r;
        target = options->target ? find_stage(&build, options->target, build.file.n_stages)
                                 : &build.stages[build.file.n_stages];
        if (!target)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "the Dockerfile has no stage '%s'", options->target);
        r = build_stage(target, err);
        return r < 0 ? r : publish(&build, target, ret, err);
}
