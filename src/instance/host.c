/* ROOT: opening it, names, ids, finding instances. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/log.h"
#include "ops.h"


/* --- opening ---------------------------------------------------------------------------------------------------- */

static char *default_root(void)
{
        const char *root = getenv("STRATA_ROOT"), *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
        char *path = NULL;
        int n;

        if (root && root[0])
                return strdup(root);
        if (geteuid() == 0)
                return strdup("/var/lib/strata");
        if (data && data[0] == '/')
                n = asprintf(&path, "%s/strata", data);
        else
                n = asprintf(&path, "%s/.local/share/strata", home && home[0] ? home : "/");
        return n < 0 ? NULL : path;
}

/* Where this program is, there are the others. */
static char *program_dir(void)
{
        const char *given = getenv("STRATA_PROGRAMS");
        char path[PATH_MAX];
        const ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
        char *slash;

        if (given && given[0])
                return strdup(given);
        path[MAX(n, 0)] = '\0';
        slash = strrchr(path, '/');
        return slash ? strndup(path, (size_t)(slash - path)) : NULL;
}

static int open_directories(struct instance_host *host, const char *root, struct err **err)
{
        /* Configurations have secrets in their environments; volumes are for whoever their owners let in. */
        static const struct {
                const char *name;
                mode_t mode;
        } dirs[] = { { DIR_INSTANCES, 0700 }, { DIR_NAMES, 0700 }, { DIR_VOLUMES, 0711 } };
        int r;

        host->fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (host->fd < 0 && errno == ENOENT) {
                r = io_make_path(root, 0711, err);
                if (r < 0)
                        return r;
                host->fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        }
        host->root = host->fd < 0 ? NULL : realpath(root, NULL);
        if (!host->root)
                return err_sys(err, errno, "opening '%s'", root);
        for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
                r = io_make_dir(host->fd, dirs[i].name, dirs[i].mode, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_boot_id(struct instance_host *host, struct err **err)
{
        _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        const ssize_t n = fd < 0 ? -1 : read(fd, host->boot_id, sizeof(host->boot_id) - 1);

        if (n <= 0)
                return err_sys(err, errno, "reading the boot's id");
        host->boot_id[n] = '\0';
        host->boot_id[strcspn(host->boot_id, "\n")] = '\0';
        return 0;
}

/* Whether we are root of a user's namespace, not of the host: the first one maps everything. */
static bool in_user_namespace(void)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/self/uid_map", "re");
        unsigned inside, outside, n;

        return f && fscanf(f, "%u %u %u", &inside, &outside, &n) == 3 && (inside || outside || n != UINT32_MAX);
}

/* Closed standard descriptors would be taken by files of ours, which a container's would then replace. */
static void fill_standard_descriptors(void)
{
        int fd;

        do
                fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        while (fd >= 0 && fd < 3);
        closep(&fd);
}

int instance_host_open(const struct instance_host_options *options, struct instance_host **ret, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_free_ char *root = NULL, *images = NULL;
        const char *image_root = getenv("STRATA_IMAGE_ROOT");
        int r;

        root = options && options->root ? strdup(options->root) : default_root();
        host = calloc(1, sizeof(*host));
        if (!host || !root)
                return err_sys(err, ENOMEM, "opening the instances' directory");
        host->fd = -1;
        fill_standard_descriptors();
        r = user_namespace_enter(root, err);
        host->rootless = in_user_namespace();
        if (r == 0)
                r = open_directories(host, root, err);
        if (r == 0)
                r = read_boot_id(host, err);
        if (r < 0)
                return r;
        host->programs = program_dir();
        if (!image_root || !image_root[0])
                images = asprintf(&images, "%s/images", host->root) < 0 ? NULL : images;
        else
                images = strdup(image_root);
        if (!images || !host->programs)
                return err_sys(err, ENOMEM, "opening the instances' directory");
        r = image_store_open(&(struct image_store_options){ .root = images }, &host->images, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(host);
        return 0;
}

struct instance_host *instance_host_close(struct instance_host *host)
{
        if (!host)
                return NULL;
        closep(&host->fd);
        image_store_close(host->images);
        free(host->programs);
        free(host->root);
        free(host);
        return NULL;
}

const char *instance_host_root(const struct instance_host *host)
{
        return host->root;
}

struct image_store *instance_host_images(struct instance_host *host)
{
        return host->images;
}

/* --- small things ----------------------------------------------------------------------------------------------- */

int file_replace(
        int dir, const char *tmp, const char *name, const void *data, size_t len, bool durable, struct err **err)
{
        _cleanup_close_ int fd = -1;
        int r;

        if (durable)
                return io_replace_file(dir, tmp, dir, name, data, len, err);
        fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = fd < 0 ? -errno : io_write_all(fd, data, len);
        if (r == 0 && renameat(dir, tmp, dir, name) < 0)
                r = -errno;
        return r < 0 ? err_sys(err, -r, "writing '%s'", name) : 0;
}

int random_hex(char *ret, size_t n, struct err **err)
{
        static const char digits[] = "0123456789abcdef";
        u8 random[ID_LEN];

        n = MIN(n, sizeof(random));
        if (getrandom(random, n, 0) != (ssize_t)n)
                return err_sys(err, errno, "making an id");
        for (size_t i = 0; i < n; i++)
                ret[i] = digits[random[i] & 15];
        ret[n] = '\0';
        return 0;
}

static bool is_hex(const char *text, size_t len)
{
        return strspn(text, "0123456789abcdef") == len;
}

bool id_is_valid(const char *id)
{
        return strlen(id) == ID_LEN && is_hex(id, ID_LEN);
}

char *instance_path(const struct instance *inst, const char *file)
{
        char *path;

        return asprintf(&path, "%s/" DIR_INSTANCES "/%s%s%s", inst->host->root, inst->id, file[0] ? "/" : "", file) < 0
                       ? NULL
                       : path;
}

/* --- names ------------------------------------------------------------------------------------------------------ */

int host_lock(struct instance_host *host, bool wait, int *ret, struct err **err)
{
        _cleanup_close_ int fd = openat(host->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return err_sys(err, errno, "opening the lock of '%s'", host->root);
        while (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) < 0) {
                if (errno == EWOULDBLOCK)
                        return -EAGAIN;
                if (errno != EINTR)
                        return err_sys(err, errno, "locking '%s'", host->root);
        }
        *ret = TAKE_FD(fd);
        return 0;
}

/* Nearly docker's rule, so that names go where docker's go: a host name, a file name. */
int name_check(const char *name, struct err **err)
{
        size_t n = 0;

        for (; name[n]; n++)
                if (!isalnum((unsigned char)name[n]) && !(n > 0 && strchr("_.-", name[n])))
                        break;
        if (n < 1 || name[n] || n > NAME_LEN_MAX) {
                const int r = err_set(err, ERR_USAGE, EINVAL, "'%.200s' cannot be a name", name);

                return err_hint(err, r,
                        "a name is of 1 to %d letters, digits, '_', '.' and '-', the first a letter or digit",
                        NAME_LEN_MAX);
        }
        return 0;
}

static ssize_t name_read(struct instance_host *host, const char *name, char ret[ID_LEN + 1])
{
        char path[NAME_LEN_MAX + sizeof(DIR_NAMES) + 2];
        ssize_t n;

        if (snprintf(path, sizeof(path), DIR_NAMES "/%s", name) >= (int)sizeof(path))
                return -ENOENT;
        n = readlinkat(host->fd, path, ret, ID_LEN + 1);
        if (n < 0)
                return -errno;
        ret[ID_LEN] = '\0';
        return n == ID_LEN && id_is_valid(ret) ? n : -ENOENT;
}

/* A directory that is somebody's, or being made: whoever makes one holds its lock (instance_lock). */
static bool id_is_taken(struct instance_host *host, const char *id)
{
        char path[sizeof(DIR_INSTANCES) + ID_LEN + 16];
        _cleanup_close_ int fd = -1;

        snprintf(path, sizeof(path), DIR_INSTANCES "/%s", id);
        fd = openat(host->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return false;
        return config_exists(fd) || flock(fd, LOCK_EX | LOCK_NB) < 0;
}

int name_take(struct instance_host *host, const char *name, const char *id, struct err **err)
{
        char path[NAME_LEN_MAX + sizeof(DIR_NAMES) + 2], owner[ID_LEN + 1];

        snprintf(path, sizeof(path), DIR_NAMES "/%s", name);
        for (int tries = 0; tries < 2; tries++) {
                if (symlinkat(id, host->fd, path) == 0)
                        return 0;
                if (errno != EEXIST)
                        return err_sys(err, errno, "taking the name '%s'", name);
                if (name_read(host, name, owner) > 0 && strcmp(owner, id) != 0 && id_is_taken(host, owner)) {
                        const int r = err_set(
                                err, ERR_BUSY, EEXIST, "the name '%s' is in use by the instance %.12s", name, owner);

                        return err_hint(err, r, "remove (or rename) that one to use the name again");
                }
                unlinkat(host->fd, path, 0);
        }
        return err_sys(err, EBUSY, "taking the name '%s'", name);
}

void name_drop(struct instance_host *host, const char *name, const char *id)
{
        char path[NAME_LEN_MAX + sizeof(DIR_NAMES) + 2], owner[ID_LEN + 1];

        if (name_read(host, name, owner) > 0 && strcmp(owner, id) == 0 &&
                snprintf(path, sizeof(path), DIR_NAMES "/%s", name) < (int)sizeof(path))
                unlinkat(host->fd, path, 0);
}

/* --- finding ---------------------------------------------------------------------------------------------------- */

int instance_open(struct instance_host *host, const char *id, struct instance **ret, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = calloc(1, sizeof(*inst));
        char path[sizeof(DIR_INSTANCES) + ID_LEN + 2];

        if (!inst)
                return err_sys(err, ENOMEM, "opening an instance");
        inst->host = host;
        inst->ops = instance_walls[0]; /* until the configuration says more */
        inst->dir = inst->ports_to = inst->userns = -1;
        snprintf(inst->id, sizeof(inst->id), "%s", id);
        snprintf(path, sizeof(path), DIR_INSTANCES "/%s", inst->id);
        inst->dir = openat(host->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (inst->dir < 0 && errno == ENOENT)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no instance '%s'", id);
        if (inst->dir < 0)
                return err_sys(err, errno, "opening the instance '%s'", id);
        snprintf(inst->box_root, sizeof(inst->box_root), "/proc/self/fd/%d/box", inst->dir);
        *ret = TAKE_PTR(inst);
        return 0;
}

struct id_walk {
        struct instance_host *host;
        int (*fn)(void *opaque, struct instance_host *host, const char *id, struct err **err);
        void *opaque;
};

static int visit_id(void *opaque, int dirfd, const char *name, struct err **err)
{
        const struct id_walk *w = opaque;

        return id_is_valid(name) ? w->fn(w->opaque, w->host, name, err) : 0;
}

int host_each_id(struct instance_host *host,
        int (*fn)(void *opaque, struct instance_host *host, const char *id, struct err **err), void *opaque,
        struct err **err)
{
        struct id_walk w = { host, fn, opaque };

        return io_list_dir(host->fd, DIR_INSTANCES, visit_id, &w, err);
}

struct id_search {
        const char *prefix;
        char found[ID_LEN + 1];
        unsigned n;
};

static int match_id(void *opaque, struct instance_host *host, const char *id, struct err **err)
{
        struct id_search *s = opaque;

        if (strncmp(id, s->prefix, strlen(s->prefix)) == 0) {
                snprintf(s->found, sizeof(s->found), "%s", id);
                s->n++;
        }
        return 0;
}

static int find_id(struct instance_host *host, const char *name, char ret[ID_LEN + 1], struct err **err)
{
        struct id_search search = { .prefix = name };
        int r;

        if (id_is_valid(name)) {
                snprintf(ret, ID_LEN + 1, "%s", name);
                return 0;
        }
        if (name[0] == '/') /* as docker prints names in inspect */
                name++;
        if (!strchr(name, '/') && name[0] && name[0] != '.' && name_read(host, name, ret) > 0)
                return 0;
        if (strlen(name) >= 1 && is_hex(name, strlen(name)) && strlen(name) < ID_LEN) {
                r = host_each_id(host, match_id, &search, err);
                if (r < 0)
                        return r;
        }
        if (search.n > 1)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is the beginning of several ids", name);
        if (search.n == 0) {
                r = err_set(err, ERR_NOT_FOUND, ENOENT, "there is no instance '%.200s'", name);
                return err_hint(err, r, "'strata ps --all' lists them");
        }
        memcpy(ret, search.found, ID_LEN + 1);
        return 0;
}

int instance_find(struct instance_host *host, const char *name, struct instance **ret, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        char id[ID_LEN + 1];
        int r = find_id(host, name, id, err);

        if (r == 0)
                r = instance_open(host, id, &inst, err);
        if (r < 0)
                return r;
        if (!config_exists(inst->dir))
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no instance '%.200s'", name);
        r = config_load(inst, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(inst);
        return 0;
}

struct instance *instance_free(struct instance *inst)
{
        if (!inst)
                return NULL;
        closep(&inst->dir);
        closep(&inst->userns);
        arena_release(&inst->arena);
        json_decref(inst->config_source);
        arena_release(&inst->state_arena);
        arena_release(&inst->top_arena);
        arena_release(&inst->path_arena);
        arena_release(&inst->network_arena);
        free(inst);
        return NULL;
}

const char *instance_id(const struct instance *inst)
{
        return inst->id;
}

const char *instance_name(const struct instance *inst)
{
        return inst->config.name;
}

const struct instance_config *instance_get_config(const struct instance *inst)
{
        return &inst->config;
}

/* --- listing ---------------------------------------------------------------------------------------------------- */

struct listing {
        struct instance **item;
        size_t n, room;
};

static int collect(void *opaque, struct instance_host *host, const char *id, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_(err_freep) struct err *problem = NULL;
        struct listing *l = opaque;
        int r = instance_open(host, id, &inst, NULL);

        if (r < 0)
                return 0; /* removed meanwhile */
        if (!config_exists(inst->dir)) {
                instance_drop_incomplete(inst, NULL);
                return 0;
        }
        r = config_load(inst, &problem);
        if (r < 0) {
                if (config_exists(inst->dir))
                        log_warn("%s", err_message(problem));
                return 0;
        }
        if (l->n == l->room) {
                const size_t room = l->room ? l->room * 2 : 64;
                struct instance **item = reallocarray(l->item, room, sizeof(*item));

                if (!item)
                        return err_sys(err, ENOMEM, "listing instances");
                l->item = item;
                l->room = room;
        }
        l->item[l->n++] = TAKE_PTR(inst);
        return 0;
}

static int by_creation(const void *a, const void *b)
{
        const struct instance *x = *(struct instance *const *)a, *y = *(struct instance *const *)b;

        return strcmp(y->config.created ? y->config.created : "", x->config.created ? x->config.created : "");
}

int instance_list(
        struct instance_host *host, int (*fn)(void *opaque, struct instance *inst), void *opaque, struct err **err)
{
        struct listing l = { 0 };
        int r = host_each_id(host, collect, &l, err);

        if (l.n)
                qsort(l.item, l.n, sizeof(*l.item), by_creation);
        for (size_t i = 0; i < l.n; i++) {
                if (r == 0)
                        r = fn(opaque, l.item[i]);
                instance_free(l.item[i]);
        }
        free(l.item);
        return r;
}
