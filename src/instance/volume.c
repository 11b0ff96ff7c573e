/* Volumes: ROOT/volumes/NAME/{volume.json, _data}. A volume is there when its volume.json is. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "internal.h"
#include "tree_copy.h"

#define VOLUME_FILE "volume.json"
#define VOLUME_DATA "_data"

struct volume_name {
        char text[192];
};

static struct volume_name volume_file(const char *name, const char *file)
{
        struct volume_name path;

        snprintf(path.text, sizeof(path.text), DIR_VOLUMES "/%s%s%s", name, file[0] ? "/" : "", file);
        return path;
}

char *volume_path(const struct instance_host *host, const char *name)
{
        char *path;

        return asprintf(&path, "%s/%s", host->root, volume_file(name, VOLUME_DATA).text) < 0 ? NULL : path;
}

static bool volume_exists(const struct instance_host *host, const char *name)
{
        return faccessat(host->fd, volume_file(name, VOLUME_FILE).text, F_OK, 0) == 0;
}

static json_t *describe(const struct instance_pairs *labels, bool anonymous)
{
        json_t *json =
                json_pack("{s:I, s:b, s:{}}", "created", (json_int_t)time(NULL), "anonymous", anonymous, "labels");

        for (size_t i = 0; labels && i < labels->n; i++)
                json_object_set_new(
                        json_object_get(json, "labels"), labels->item[i].key, json_string(labels->item[i].value));
        return json;
}

static int make_volume(struct instance_host *host, const char *name, const struct instance_pairs *labels,
        bool anonymous, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int dir = -1;
        json_t *json;
        int r;

        if (volume_exists(host, name))
                return 0;
        json = describe(labels, anonymous);
        text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        json_decref(json);
        if (!text)
                return err_sys(err, ENOMEM, "making the volume '%s'", name);
        r = io_make_dir(host->fd, volume_file(name, "").text, 0711, err);
        if (r == 0)
                r = io_make_dir(host->fd, volume_file(name, VOLUME_DATA).text, 0755, err);
        if (r == 0)
                r = io_open_dir(host->fd, volume_file(name, "").text, &dir, err);
        return r < 0 ? r : file_replace(dir, VOLUME_FILE ".new", VOLUME_FILE, text, strlen(text), false, err);
}

int instance_volume_create(struct instance_host *host, const char *name, const struct instance_pairs *labels,
        char **ret_name, struct err **err)
{
        char made_up[ID_LEN + 1];
        _cleanup_close_ int lock = -1;
        _cleanup_free_ char *copy = NULL;
        int r = name ? name_check(name, err) : random_hex(made_up, ID_LEN, err);

        if (r < 0)
                return r;
        copy = strdup(name ? name : made_up);
        r = copy ? host_lock(host, true, &lock, err) : err_sys(err, ENOMEM, "making a volume");
        if (r == 0)
                r = make_volume(host, copy, labels, !name, err);
        if (r == 0 && ret_name)
                *ret_name = TAKE_PTR(copy);
        return r;
}

/* --- of an instance --------------------------------------------------------------------------------------------- */

int volumes_prepare(struct instance *inst, struct err **err)
{
        const struct instance_config *c = &inst->config;
        int r = 0;

        for (size_t i = 0; r == 0 && i < c->mounts.n; i++) {
                struct instance_mount *m = &c->mounts.item[i];
                _cleanup_free_ char *name = NULL;

                if (strcmp(m->type, "volume") != 0)
                        continue;
                r = instance_volume_create(inst->host, m->source && m->source[0] ? m->source : NULL, NULL, &name, err);
                if (r == 0 && (!m->source || !m->source[0])) {
                        m->source = arena_strdup(&inst->arena, name);
                        if (!m->source)
                                r = err_sys(err, ENOMEM, "making a volume");
                }
        }
        return r;
}

static bool is_empty(int dir)
{
        bool empty = true;

        io_list_dir(dir, ".", tree_is_not_empty, &empty, NULL);
        return empty;
}

int volume_fill(struct instance_host *host, const char *name, int root, const char *target, struct err **err)
{
        _cleanup_close_ int to = -1, from = -1, lock = -1;
        int r = io_open_dir(host->fd, volume_file(name, VOLUME_DATA).text, &to, err);

        if (r < 0)
                return err_wrap(err, r, "the volume '%s'", name);
        from = tree_open(root, target);
        if (from < 0 || !is_empty(to))
                return 0; /* the image has nothing there */
        /* One at a time: two first uses do not mix. */
        r = host_lock(host, true, &lock, err);
        if (r == 0 && is_empty(to))
                r = tree_copy(from, to, err);
        return r < 0 ? err_wrap(err, r, "filling the volume '%s'", name) : 0;
}

/* --- listing ---------------------------------------------------------------------------------------------------- */

struct users {
        const char *name;
        size_t n;
};

static int count_users(void *opaque, struct instance *inst)
{
        struct users *users = opaque;
        const struct instance_config *c = instance_get_config(inst);

        for (size_t i = 0; i < c->mounts.n; i++)
                if (strcmp(c->mounts.item[i].type, "volume") == 0 && c->mounts.item[i].source &&
                        strcmp(c->mounts.item[i].source, users->name) == 0) {
                        users->n++;
                        break;
                }
        return 0;
}

struct volume_walk {
        struct instance_host *host;
        int (*fn)(void *opaque, const struct instance_volume *volume);
        void *opaque;
        const char *only;
        size_t found;
};

static int read_labels(struct arena *arena, const json_t *json, struct instance_pairs *ret)
{
        const char *key;
        json_t *value;

        ret->item = arena_new(arena, struct instance_pair, json_object_size(json) + 1);
        if (!ret->item)
                return -ENOMEM;
        json_object_foreach((json_t *)json, key, value)
        {
                ret->item[ret->n].key = key;
                ret->item[ret->n++].value = json_string_value(value) ?: "";
        }
        return 0;
}

static int visit_volume(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct volume_walk *w = opaque;
        struct instance_volume volume = { .name = name, .driver = "local" };
        struct arena arena = { 0 };
        struct users users = { name, 0 };
        _cleanup_free_ char *text = NULL, *path = NULL;
        char created[40];
        json_t *json;
        time_t when;
        int r;

        if ((w->only && strcmp(w->only, name) != 0) || name_check(name, NULL) < 0 ||
                io_read_file(w->host->fd, volume_file(name, VOLUME_FILE).text, 65536, &text, NULL, NULL) < 0)
                return 0;
        json = json_loads(text, 0, NULL);
        path = volume_path(w->host, name);
        if (!json || !path) {
                json_decref(json);
                return 0;
        }
        when = (time_t)json_integer_value(json_object_get(json, "created"));
        strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", gmtime(&when));
        volume.path = path;
        volume.created = created;
        volume.anonymous = json_is_true(json_object_get(json, "anonymous"));
        r = read_labels(&arena, json_object_get(json, "labels"), &volume.labels);
        if (r == 0)
                r = instance_list(w->host, count_users, &users, err);
        volume.users = users.n;
        w->found++;
        if (r == 0)
                r = w->fn(w->opaque, &volume);
        json_decref(json);
        arena_release(&arena);
        return r;
}

int instance_volume_list(struct instance_host *host, int (*fn)(void *opaque, const struct instance_volume *volume),
        void *opaque, struct err **err)
{
        struct volume_walk w = { host, fn, opaque, NULL, 0 };

        return io_list_dir(host->fd, DIR_VOLUMES, visit_volume, &w, err);
}

int instance_volume_find(struct instance_host *host, const char *name,
        int (*fn)(void *opaque, const struct instance_volume *volume), void *opaque, struct err **err)
{
        struct volume_walk w = { host, fn, opaque, name, 0 };
        int r = visit_volume(&w, -1, name, err);

        return r == 0 && !w.found ? err_set(err, ERR_NOT_FOUND, ENOENT, "there is no volume '%.200s'", name) : r;
}

/* --- removing --------------------------------------------------------------------------------------------------- */

static int drop_volume(struct instance_host *host, const char *name, struct err **err)
{
        unlinkat(host->fd, volume_file(name, VOLUME_FILE).text, 0);
        return io_remove_tree(host->fd, volume_file(name, "").text, err);
}

int instance_volume_remove(struct instance_host *host, const char *name, struct err **err)
{
        _cleanup_close_ int lock = -1;
        struct users users = { name, 0 };
        int r = host_lock(host, true, &lock, err);

        if (r == 0 && (name_check(name, NULL) < 0 || !volume_exists(host, name)))
                r = err_set(err, ERR_NOT_FOUND, ENOENT, "there is no volume '%.200s'", name);
        if (r == 0)
                r = instance_list(host, count_users, &users, err);
        if (r < 0)
                return r;
        if (users.n)
                return err_set(err, ERR_BUSY, EBUSY, "%zu instances have the volume '%s'", users.n, name);
        return drop_volume(host, name, err);
}

static int is_anonymous(void *opaque, const struct instance_volume *volume)
{
        *(bool *)opaque = volume->anonymous && volume->users == 0;
        return 0;
}

void volumes_remove_anonymous(struct instance *inst)
{
        const struct instance_config *c = &inst->config;

        for (size_t i = 0; i < c->mounts.n; i++) {
                const struct instance_mount *m = &c->mounts.item[i];
                bool anonymous = false;

                if (strcmp(m->type, "volume") == 0 && m->source &&
                        instance_volume_find(inst->host, m->source, is_anonymous, &anonymous, NULL) == 0 && anonymous)
                        drop_volume(inst->host, m->source, NULL);
        }
}

struct pruning {
        const struct instance_volume_prune *prune;
        json_t *names;
        u64 bytes;
};

static int choose(void *opaque, const struct instance_volume *volume)
{
        struct pruning *p = opaque;

        if (volume->users == 0 && (p->prune->all || volume->anonymous) &&
                (!p->prune->wanted || p->prune->wanted(p->prune->opaque, volume))) {
                json_array_append_new(p->names, json_string(volume->name));
                p->bytes += tree_size(volume->path);
        }
        return 0;
}

int instance_volume_prune(
        struct instance_host *host, const struct instance_volume_prune *prune, u64 *ret_bytes, struct err **err)
{
        struct pruning p = { prune, json_array(), 0 };
        _cleanup_close_ int lock = -1;
        int r = host_lock(host, true, &lock, err);

        if (r == 0)
                r = instance_volume_list(host, choose, &p, err);
        for (size_t i = 0; r == 0 && i < json_array_size(p.names); i++) {
                const char *name = json_string_value(json_array_get(p.names, i));

                r = drop_volume(host, name, err);
                if (r == 0 && prune->removed)
                        prune->removed(prune->opaque, name);
        }
        json_decref(p.names);
        if (r == 0 && ret_bytes)
                *ret_bytes = p.bytes;
        return r;
}
