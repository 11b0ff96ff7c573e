/* What was asked for and what the image says become one configuration. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "ops.h"

#include "userns.h"

#define LABEL_ISOLATION "io.strata.isolation"

int strings_add(struct arena *arena, struct instance_strings *list, const char *text)
{
        const char **item = arena_new(arena, const char *, list->n + 2);
        char *copy = arena_strdup(arena, text);

        if (!item || !copy)
                return -ENOMEM;
        if (list->n)
                memcpy(item, list->item, list->n * sizeof(*item));
        item[list->n] = copy;
        *list = (struct instance_strings){ item, list->n + 1 };
        return 0;
}

static int copy_list(struct arena *arena, const char *const *from, struct instance_strings *to)
{
        int r = 0;

        *to = (struct instance_strings){ 0 };
        for (; r == 0 && *from; from++)
                r = strings_add(arena, to, *from);
        return r;
}

/* The length of the variable's name. */
static size_t variable_len(const char *text)
{
        return strcspn(text, "=");
}

static bool same_variable(const char *a, const char *b)
{
        const size_t n = variable_len(a);

        return n == variable_len(b) && strncmp(a, b, n) == 0;
}

static bool names_variable(const struct instance_strings *list, size_t from, const char *text)
{
        for (size_t i = from; i < list->n; i++)
                if (same_variable(list->item[i], text))
                        return true;
        return false;
}

/* The image's, then what was given; the last of a name wins; a name alone takes away. */
static int merge_env(struct arena *arena, struct instance_config *config, const char *const *image)
{
        const struct instance_strings given = config->env;
        struct instance_strings env = { 0 };
        int r = 0;

        for (; r == 0 && *image; image++)
                if (!names_variable(&given, 0, *image))
                        r = strings_add(arena, &env, *image);
        for (size_t i = 0; r == 0 && i < given.n; i++)
                if (strchr(given.item[i], '=') && !names_variable(&given, i + 1, given.item[i]))
                        r = strings_add(arena, &env, given.item[i]);
        config->env = env;
        return r;
}

static int merge_command(struct arena *arena, struct instance_config *config, const struct image_config *image)
{
        const bool none = config->entrypoint.n == 1 && !config->entrypoint.item[0][0];
        int r = 0;

        if (none)
                config->entrypoint = (struct instance_strings){ 0 };
        else if (config->entrypoint.n == 0) {
                /* The image's command belongs to its entrypoint. */
                r = copy_list(arena, image->entrypoint, &config->entrypoint);
                if (r == 0 && config->command.n == 0)
                        r = copy_list(arena, image->cmd, &config->command);
        }
        return r;
}

static bool has_mount(const struct instance_config *config, const char *target)
{
        for (size_t i = 0; i < config->mounts.n; i++)
                if (strcmp(config->mounts.item[i].target, target) == 0)
                        return true;
        return false;
}

static int add_volume(struct arena *arena, struct instance_config *config, const char *target)
{
        const size_t n = config->mounts.n;
        struct instance_mount *item = arena_new(arena, struct instance_mount, n + 1);
        char *copy = arena_strdup(arena, target);

        if (!item || !copy)
                return -ENOMEM;
        if (n)
                memcpy(item, config->mounts.item, n * sizeof(*item));
        item[n] = (struct instance_mount){ .type = "volume", .target = copy };
        config->mounts.item = item;
        config->mounts.n = n + 1;
        return 0;
}

static bool has_label(const struct instance_pairs *pairs, const char *key)
{
        for (size_t i = 0; i < pairs->n; i++)
                if (strcmp(pairs->item[i].key, key) == 0)
                        return true;
        return false;
}

/* What the image asks for; who runs it may have said otherwise. */
static void choose_wall(struct instance_config *config)
{
        for (size_t i = 0; !config->isolation && i < config->labels.n; i++)
                if (strcmp(config->labels.item[i].key, LABEL_ISOLATION) == 0)
                        config->isolation = config->labels.item[i].value;
}

static int merge_labels(struct arena *arena, struct instance_pairs *labels, const struct image_pair *image)
{
        size_t n = 0, k = labels->n;
        struct instance_pair *item;

        while (image[n].key)
                n++;
        item = arena_new(arena, struct instance_pair, n + k + 1);
        if (!item)
                return -ENOMEM;
        if (k)
                memcpy(item, labels->item, k * sizeof(*item));
        for (size_t i = 0; i < n; i++) {
                if (has_label(labels, image[i].key))
                        continue;
                item[k] = (struct instance_pair){ arena_strdup(arena, image[i].key),
                        arena_strdup(arena, image[i].value) };
                if (!item[k].key || !item[k].value)
                        return -ENOMEM;
                k++;
        }
        *labels = (struct instance_pairs){ item, k };
        return 0;
}

static int merge_health(struct arena *arena, struct instance_health *health, const struct image_healthcheck *image)
{
        if (health->test.n == 0 && image->test && copy_list(arena, image->test, &health->test) < 0)
                return -ENOMEM;
        health->interval_ns = health->interval_ns ? health->interval_ns : (s64)image->interval_ns;
        health->timeout_ns = health->timeout_ns ? health->timeout_ns : (s64)image->timeout_ns;
        health->start_period_ns = health->start_period_ns ? health->start_period_ns : (s64)image->start_period_ns;
        health->retries = health->retries ? health->retries : (s64)image->retries;
        return 0;
}

static int take_text(struct arena *arena, const char **member, const char *image)
{
        if ((*member && **member) || !image[0])
                return 0;
        *member = arena_strdup(arena, image);
        return *member ? 0 : -ENOMEM;
}

static int merge(struct arena *arena, struct instance_config *config, const struct image_config *image)
{
        int r = merge_command(arena, config, image);

        if (r == 0)
                r = merge_env(arena, config, image->env);
        if (r == 0)
                r = userns_take_user(arena, config);
        if (r == 0)
                r = take_text(arena, &config->user, image->user);
        if (r == 0)
                r = take_text(arena, &config->working_dir, image->working_dir);
        if (r == 0)
                r = take_text(arena, &config->stop_signal, image->stop_signal);
        for (const char *const *v = image->volumes; r == 0 && *v; v++)
                if (!has_mount(config, *v))
                        r = add_volume(arena, config, *v);
        for (const char *const *p = image->exposed_ports; r == 0 && *p; p++)
                r = strings_add(arena, &config->exposed, *p);
        if (r == 0)
                r = merge_labels(arena, &config->labels, image->labels);
        if (r == 0)
                choose_wall(config);
        return r == 0 ? merge_health(arena, &config->health, &image->healthcheck) : r;
}

/* --- checks ----------------------------------------------------------------------------------------------------- */

static int check_mounts(const struct instance_config *config, struct err **err)
{
        static const char *const types[] = { "bind", "volume", "tmpfs" };

        for (size_t i = 0; i < config->mounts.n; i++) {
                const struct instance_mount *m = &config->mounts.item[i];
                size_t t = 0;

                while (t < ARRAY_SIZE(types) && strcmp(types[t], m->type) != 0)
                        t++;
                if (t == ARRAY_SIZE(types))
                        return err_set(err, ERR_USAGE, EINVAL, "mounts of type '%s' are not known", m->type);
                if (m->target[0] != '/' || strcmp(m->target, "/") == 0)
                        return err_set(err, ERR_USAGE, EINVAL,
                                "'%s' cannot be mounted on: an absolute path other than '/' is wanted", m->target);
                if (t == 0 && (!m->source || m->source[0] != '/'))
                        return err_set(err, ERR_USAGE, EINVAL, "the source of a bind mount must be absolute, not '%s'",
                                m->source ? m->source : "");
                if (t == 1 && m->source && name_check(m->source, NULL) < 0)
                        return err_set(err, ERR_USAGE, EINVAL, "'%s' cannot be a volume's name", m->source);
                for (size_t k = 0; k < i; k++)
                        if (strcmp(config->mounts.item[k].target, m->target) == 0)
                                return err_set(err, ERR_USAGE, EINVAL, "two mounts on '%s'", m->target);
        }
        return 0;
}

static const struct {
        const char *name;
        size_t offset;
        bool other;       /* "container:NAME" is possible */
        const char *also; /* one more; NULL */
} modes[] = {
        { "pid", offsetof(struct instance_config, pid_mode), true, NULL },
        { "ipc", offsetof(struct instance_config, ipc_mode), true, "none" },
        { "uts", offsetof(struct instance_config, uts_mode), false, NULL },
        { "cgroupns", offsetof(struct instance_config, cgroupns_mode), false, NULL },
};

static int check_modes(const struct instance_config *config, struct err **err)
{
        static const char *const own[] = { "", "private", "shareable", "host" };

        for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
                const char *mode = *(const char *const *)((const char *)config + modes[i].offset);
                size_t k = 0;

                if (!mode || (modes[i].other && strncmp(mode, "container:", 10) == 0) ||
                        (modes[i].also && strcmp(mode, modes[i].also) == 0))
                        continue;
                while (k < ARRAY_SIZE(own) && strcmp(own[k], mode) != 0)
                        k++;
                if (k == ARRAY_SIZE(own))
                        return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a %s namespace", mode, modes[i].name);
        }
        return 0;
}

static int check(const struct instance_config *config, struct err **err)
{
        const struct instance_resources *res = &config->resources;
        const struct instance_ops *wall;
        int r = check_mounts(config, err);

        if (r == 0)
                r = check_modes(config, err);
        if (r < 0)
                return r;
        r = instance_wall_find(config->isolation, &wall, err);
        if (r == 0)
                r = wall->check(config, err);
        if (r < 0)
                return r;
        if (config->entrypoint.n + config->command.n == 0)
                return err_set(err, ERR_USAGE, EINVAL, "no command was given, and the image has none");
        if (config->auto_remove && config->restart != INSTANCE_RESTART_NO)
                return err_set(err, ERR_USAGE, EINVAL, "an instance that is removed at its end cannot be restarted");
        if (res->memory && res->memory < (s64)(6 * MIB))
                return err_set(err, ERR_USAGE, EINVAL, "a memory limit below 6 MiB: nothing could start");
        if (res->memory_swap > 0 && res->memory_swap < res->memory)
                return err_set(err, ERR_USAGE, EINVAL, "memory and swap together are less than memory");
        if (res->nano_cpus < 0 || (res->nano_cpus && (res->cpu_period || res->cpu_quota)))
                return err_set(err, ERR_USAGE, EINVAL, "CPUs are given as a number or as quota and period");
        if (config->working_dir && config->working_dir[0] && config->working_dir[0] != '/')
                return err_set(
                        err, ERR_USAGE, EINVAL, "the working directory '%s' must be absolute", config->working_dir);
        if (instance_signal_parse(config->stop_signal ? config->stop_signal : "", err) < 0)
                return -EINVAL;
        return userns_check(config, err);
}

int config_merge(
        struct arena *arena, struct instance_config *config, const struct image_config *image, struct err **err)
{
        int r = merge(arena, config, image);

        return r < 0 ? err_sys(err, -r, "making a configuration") : check(config, err);
}

int config_argv(
        struct arena *arena, const struct instance_config *config, struct instance_strings *ret, struct err **err)
{
        struct instance_strings argv = { 0 };
        int r = 0;

        for (size_t i = 0; r == 0 && i < config->entrypoint.n; i++)
                r = strings_add(arena, &argv, config->entrypoint.item[i]);
        for (size_t i = 0; r == 0 && i < config->command.n; i++)
                r = strings_add(arena, &argv, config->command.item[i]);
        if (r < 0)
                return err_sys(err, -r, "making the command line");
        *ret = argv;
        return 0;
}

int instance_signal_parse(const char *text, struct err **err)
{
        const char *name = strncasecmp(text, "SIG", 3) == 0 ? text + 3 : text;
        char *end;
        long number;

        if (!text[0])
                return SIGTERM;
        number = strtol(text, &end, 10);
        if (!*end && number > 0 && number <= SIGRTMAX)
                return (int)number;
        for (int sig = 1; sig < NSIG; sig++) {
                const char *known = sigabbrev_np(sig);

                if (known && strcasecmp(known, name) == 0)
                        return sig;
        }
        if (strncasecmp(name, "RTMIN", 5) == 0 || strncasecmp(name, "RTMAX", 5) == 0) {
                number = strtol(name + 5, &end, 10);
                number += strncasecmp(name, "RTMIN", 5) == 0 ? SIGRTMIN : SIGRTMAX;
                if (!*end && number >= SIGRTMIN && number <= SIGRTMAX)
                        return (int)number;
        }
        return err_set(err, ERR_USAGE, EINVAL, "'%.40s' is not a signal", text);
}
