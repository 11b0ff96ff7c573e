/* A new instance, and the end of one. The order in which things are made is the order in which they can be found again after a
 * kill: the directory (locked by its maker), the image's pin, the name, and last the configuration, which makes it one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "network.h"
#include "userns.h"

#define RENAMING_MAX (2 * NAME_LEN_MAX + 2) /* two names, a blank, a NUL */

static const char *const adjectives[] = { "amber", "ancient", "bold", "brave", "bright", "calm", "clear", "clever",
        "crisp", "curious", "daring", "deep", "eager", "early", "fair", "fearless", "fresh", "gentle", "golden",
        "grand", "happy", "hidden", "honest", "humble", "keen", "kind", "light", "lively", "lucky", "mellow", "merry",
        "mighty", "nimble", "noble", "patient", "polite", "proud", "quick", "quiet", "rapid", "serene", "sharp",
        "silent", "silver", "smooth", "steady", "sunny", "swift", "tidy", "vivid", "warm", "wild", "wise", "witty" };
static const char *const nouns[] = { "agate", "basalt", "bay", "boulder", "brook", "canyon", "cave", "chalk", "clay",
        "cliff", "coral", "cove", "crater", "delta", "dune", "fjord", "flint", "garnet", "geyser", "glacier", "gneiss",
        "granite", "gravel", "harbor", "hill", "island", "jade", "lagoon", "lava", "ledge", "marble", "meadow", "mesa",
        "mica", "moraine", "onyx", "opal", "pebble", "plateau", "pumice", "quartz", "reef", "ridge", "river", "ruby",
        "sandstone", "shale", "slate", "spring", "summit", "terrace", "topaz", "tundra", "valley" };

static int make_up_name(struct arena *arena, const char **ret, bool longer, struct err **err)
{
        u16 random[3];

        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return err_sys(err, errno, "making up a name");
        *ret = arena_printf(arena, longer ? "%s_%s_%u" : "%s_%s", adjectives[random[0] % ARRAY_SIZE(adjectives)],
                nouns[random[1] % ARRAY_SIZE(nouns)], random[2]);
        return *ret ? 0 : err_sys(err, ENOMEM, "making up a name");
}

static int take_name(struct instance *inst, struct err **err)
{
        const bool given = inst->config.name && inst->config.name[0];
        _cleanup_close_ int lock = -1;
        int r = given ? name_check(inst->config.name, err) : 0;

        if (r == 0)
                r = host_lock(inst->host, true, &lock, err);
        if (r < 0)
                return r;
        if (given)
                return name_take(inst->host, inst->config.name, inst->id, err);
        for (int tries = 0; tries < 64; tries++) {
                r = make_up_name(&inst->arena, &inst->config.name, tries > 2, err);
                if (r < 0)
                        return r;
                r = name_take(inst->host, inst->config.name, inst->id, NULL);
                if (r != -EEXIST)
                        return r < 0 ? err_sys(err, -r, "taking a name") : 0;
        }
        return err_set(err, ERR_BUSY, EEXIST, "all names are taken");
}

static const char *time_text(struct arena *arena)
{
        struct timespec now;
        struct tm tm;

        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &tm);
        return arena_printf(arena, "%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec);
}

/* "busybox" for "docker.io/library/busybox:latest". */
static const char *familiar_name(struct arena *arena, const char *full)
{
        static const char *const prefixes[] = { "docker.io/library/", "docker.io/" };
        static const char latest[] = ":latest";
        size_t n;

        for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
                if (strncmp(full, prefixes[i], strlen(prefixes[i])) == 0) {
                        full += strlen(prefixes[i]);
                        break;
                }
        n = strlen(full);
        if (n > sizeof(latest) && strcmp(full + n - (sizeof(latest) - 1), latest) == 0)
                n -= sizeof(latest) - 1;
        return arena_printf(arena, "%.*s", (int)n, full);
}

/* Our copy of what the caller gave, completed. */
static int prepare_config(
        struct instance *inst, const struct image *image, const struct instance_config *given, struct err **err)
{
        json_t *json = config_to_json(given);
        struct instance_config *config = &inst->config;
        int r = json ? config_adopt(inst, json, err) : err_sys(err, ENOMEM, "making a configuration");

        if (r < 0)
                return r;
        config->id = inst->id;
        config->image_id = arena_strdup(&inst->arena, image_id(image));
        config->image_digest = arena_strdup(&inst->arena, image_digest(image));
        if (!config->image || !config->image[0])
                config->image = familiar_name(&inst->arena, image_name(image));
        config->created = time_text(&inst->arena);
        if (!config->image_id || !config->image_digest || !config->image || !config->created)
                return err_sys(err, ENOMEM, "making a configuration");
        return config_merge(&inst->arena, config, image_get_config(image), err);
}

/* --volumes-from: what another has mounted, but where there is something already. */
static int add_mount(struct instance *inst, const struct instance_mount *from, bool read_only, struct err **err)
{
        struct instance_config *c = &inst->config;
        struct instance_mount *item;

        for (size_t i = 0; i < c->mounts.n; i++)
                if (strcmp(c->mounts.item[i].target, from->target) == 0)
                        return 0;
        item = arena_new(&inst->arena, struct instance_mount, c->mounts.n + 1);
        if (!item)
                return err_sys(err, ENOMEM, "taking over volumes");
        if (c->mounts.n)
                memcpy(item, c->mounts.item, c->mounts.n * sizeof(*item));
        item[c->mounts.n] = (struct instance_mount){ .type = arena_strdup(&inst->arena, from->type),
                .source = from->source ? arena_strdup(&inst->arena, from->source) : NULL,
                .target = arena_strdup(&inst->arena, from->target),
                .read_only = from->read_only || read_only,
                .no_copy = true };
        c->mounts.item = item;
        if (!item[c->mounts.n].type || !item[c->mounts.n].target)
                return err_sys(err, ENOMEM, "taking over volumes");
        c->mounts.n++;
        return 0;
}

static int add_volumes_from(struct instance *inst, struct err **err)
{
        const struct instance_config *c = &inst->config;
        int r = 0;

        for (size_t i = 0; r == 0 && i < c->volumes_from.n; i++) {
                _cleanup_(instance_freep) struct instance *other = NULL;
                _cleanup_free_ char *name = strdup(c->volumes_from.item[i]);
                char *option = name ? strchr(name, ':') : NULL;

                if (!name)
                        return err_sys(err, ENOMEM, "taking over volumes");
                if (option)
                        *option++ = '\0';
                if (option && strcmp(option, "ro") != 0 && strcmp(option, "rw") != 0)
                        return err_set(err, ERR_USAGE, EINVAL, "--volumes-from: '%s' is neither ro nor rw", option);
                r = instance_find(inst->host, name, &other, err);
                for (size_t m = 0; r == 0 && m < other->config.mounts.n; m++)
                        if (strcmp(other->config.mounts.item[m].type, "tmpfs") != 0)
                                r = add_mount(
                                        inst, &other->config.mounts.item[m], option && strcmp(option, "ro") == 0, err);
        }
        return r;
}

static int make_directory(struct instance_host *host, struct instance **ret, struct err **err)
{
        char id[ID_LEN + 1], path[sizeof(DIR_INSTANCES) + ID_LEN + 2];
        int r = random_hex(id, ID_LEN, err);

        if (r < 0)
                return r;
        snprintf(path, sizeof(path), DIR_INSTANCES "/%s", id);
        if (mkdirat(host->fd, path, 0700) < 0)
                return err_sys(err, errno, "making '%s/%s'", host->root, path);
        return instance_open(host, id, ret, err);
}

/* Ids are chosen among those of all configurations: one after the other. */
static int choose_and_save(struct instance *inst, struct err **err)
{
        _cleanup_close_ int lock = -1;
        int r = userns_is_own(&inst->config) ? host_lock(inst->host, true, &lock, err) : 0;

        if (r == 0)
                r = userns_choose(inst, err);
        return r < 0 ? r : config_save(inst, err);
}

static int create(struct instance_host *host, const struct image *image, const struct instance_config *config, bool sync_later,
        struct instance **ret, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_close_ int lock = -1;
        int r = make_directory(host, &inst, err);

        if (r < 0)
                return r;
        inst->sync_later = sync_later;
        r = instance_lock(inst, true, &lock, err);
        if (r == 0)
                r = prepare_config(inst, image, config, err);
        if (r == 0)
                r = add_volumes_from(inst, err);
        if (r == 0)
                r = take_name(inst, err);
        if (r == 0)
                r = volumes_prepare(inst, err);
        if (r == 0)
                r = image_instance_create(host->images, image, inst->id, err);
        if (r == 0)
                r = choose_and_save(inst, err);
        if (r < 0) {
                instance_destroy(inst, true, NULL);
                return r;
        }
        event_write(host, "create", inst, 0, "");
        *ret = TAKE_PTR(inst);
        return 0;
}

int instance_create(struct instance_host *host, const struct image *image, const struct instance_config *config,
        struct instance **ret, struct err **err)
{
        return create(host, image, config, false, ret, err);
}

int instance_create_to_start(struct instance_host *host, const struct image *image, const struct instance_config *config,
        struct instance **ret, struct err **err)
{
        return create(host, image, config, true, ret, err);
}

/* A rename has two names for a while, and notes which. All but @keep go (NULL: all). */
static void drop_noted_names(struct instance *inst, const char *keep)
{
        _cleanup_free_ char *text = NULL;
        char *rest, *name;

        if (io_read_file(inst->dir, FILE_RENAMING, RENAMING_MAX, &text, NULL, NULL) < 0)
                return;
        for (rest = text; (name = strsep(&rest, " "));)
                if (!keep || strcmp(name, keep) != 0)
                        name_drop(inst->host, name, inst->id);
        unlinkat(inst->dir, FILE_RENAMING, 0);
}

static int note_names(const struct instance *inst, const char *old, const char *name, struct err **err)
{
        char text[RENAMING_MAX];

        snprintf(text, sizeof(text), "%s %s", old, name);
        return launch_write_file(inst, FILE_RENAMING, text, err);
}

/* Without its configuration it is none any more: whoever comes later takes away the rest. It may have been renamed since @inst was read. What never
 * had a configuration has a caller who has dropped its names, and holds their lock (recover.c). */
static void drop_config_and_names(struct instance *inst)
{
        _cleanup_(instance_freep) struct instance *now = NULL;
        _cleanup_close_ int lock = -1;

        if (inst->config.name && host_lock(inst->host, true, &lock, NULL) == 0) {
                if (instance_open(inst->host, inst->id, &now, NULL) == 0 && config_load(now, NULL) == 0)
                        name_drop(inst->host, now->config.name, inst->id);
                drop_noted_names(inst, NULL);
                name_drop(inst->host, inst->config.name, inst->id);
        }
        unlinkat(inst->dir, "config.json", 0);
}

int instance_destroy(struct instance *inst, bool volumes, struct err **err)
{
        struct instance_host *host = inst->host;
        char path[sizeof(DIR_INSTANCES) + ID_LEN + 2];
        int r;

        drop_config_and_names(inst);
        if (volumes)
                volumes_remove_anonymous(inst);
        r = image_instance_remove(host->images, inst->id, err);
        if (r < 0)
                return r;
        snprintf(path, sizeof(path), DIR_INSTANCES "/%s", inst->id);
        return io_remove_tree(host->fd, path, err);
}

int instance_rename(struct instance *inst, const char *name, struct err **err)
{
        const char *old = inst->config.name;
        _cleanup_close_ int lock = -1, names = -1;
        int r = name_check(name, err);

        if (r == 0)
                r = instance_lock(inst, true, &lock, err);
        if (r == 0)
                r = host_lock(inst->host, true, &names, err);
        if (r == 0) /* not before: with --rm it may go meanwhile */
                r = config_load(inst, err);
        if (r < 0)
                return r;
        old = inst->config.name;
        if (strcmp(old, name) == 0)
                return err_set(err, ERR_USAGE, EINVAL, "its name is '%s' already", name);
        drop_noted_names(inst, old);
        r = note_names(inst, old, name, err);
        if (r == 0)
                r = name_take(inst->host, name, inst->id, err);
        if (r == 0) {
                inst->config.name = arena_strdup(&inst->arena, name);
                r = inst->config.name ? config_save(inst, err) : err_sys(err, ENOMEM, "renaming");
        }
        if (r < 0)
                inst->config.name = old;
        drop_noted_names(inst, inst->config.name);
        if (r == 0) {
                network_rename(inst, old);
                event_write(inst->host, "rename", inst, 0, old);
        }
        return r;
}
