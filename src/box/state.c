#include "state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "procfs.h"
#include "sys.h"

enum { STATE_MAX = 1024 * 1024, ID_MAX = 1024, REMOVE_TRIES = 50 };

const char *box_status_name(enum box_status status)
{
        static const char *const names[] = { "creating", "created", "running", "paused", "stopped" };

        return (unsigned)status < ARRAY_SIZE(names) ? names[status] : "unknown";
}

char *box_default_root(const char *name)
{
        const char *dir = getenv("XDG_RUNTIME_DIR");
        char *path;

        if (geteuid() == 0 || !dir || dir[0] != '/')
                dir = "/run";
        return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

/* As runc: letters, digits and "_+-."; it becomes the name of a directory and of cgroups. */
static int check_id(const char *id, struct err **err)
{
        const size_t n = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.");

        if (!n || id[n] || n > ID_MAX || id[0] == '.') {
                const int r = err_set(err, ERR_USAGE, EINVAL, "invalid character in container ID '%s': invalid container ID format", id);

                return err_hint(err, r, "an id is made of letters, digits and _ + - . and does not begin with a dot");
        }
        return 0;
}

static int make_parents(const char *path)
{
        _cleanup_free_ char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        for (char *p = copy + 1; (p = strchr(p, '/')); p++) {
                *p = 0;
                if (mkdir(copy, 0700) < 0 && errno != EEXIST)
                        return -errno;
                *p = '/';
        }
        return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static struct box_handle *new_handle(const struct box_runtime *runtime, const char *id)
{
        struct box_handle *h = calloc(1, sizeof(*h));

        if (!h)
                return NULL;
        h->runtime = runtime;
        h->dir = -1;
        h->owner = geteuid();
        h->id = strdup(id);
        return h->id ? h : state_free(h);
}

int state_new(const struct box_runtime *runtime, const char *id, struct box_handle **ret, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_close_ int root = -1;
        int r = check_id(id, err);

        if (r < 0)
                return r;
        h = new_handle(runtime, id);
        if (!h)
                return err_sys(err, ENOMEM, "making container '%s'", id);
        root = open(runtime->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0 && errno == ENOENT) {
                r = make_parents(runtime->root);
                if (r < 0)
                        return err_sys(err, -r, "making the state directory '%s'", runtime->root);
                root = open(runtime->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        }
        if (root < 0)
                return err_sys(err, errno, "opening the state directory '%s'", runtime->root);
        if (mkdirat(root, id, 0711) < 0) {
                if (errno != EEXIST)
                        return err_sys(err, errno, "making '%s/%s'", runtime->root, id);
                r = err_set(err, ERR_BUSY, EEXIST,
                        "container '%s' already exists: container with given ID already exists", id);
                return err_hint(err, r, "choose another id or remove it with: delete %s", id);
        }
        h->dir = openat(root, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (h->dir < 0)
                return err_sys(err, errno, "opening '%s/%s'", runtime->root, id);
        *ret = TAKE_PTR(h);
        return 0;
}

/* The civil date of a day since 1970. The C library's functions read the time zone's files first, even for UTC. */
static void date_of(s64 day, int *ret_year, int *ret_month, int *ret_day)
{
        static const int lengths[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
        int year = 1970, month = 0;

        for (;; year++) {
                const int length = 365 + (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));

                if (day < length)
                        break;
                day -= length;
        }
        for (;; month++) {
                const int length =
                        lengths[month] + (month == 1 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));

                if (day < length)
                        break;
                day -= length;
        }
        *ret_year = year;
        *ret_month = month + 1;
        *ret_day = (int)day + 1;
}

int state_set_created(struct box_handle *h, struct err **err)
{
        struct timespec now;
        int year, month, day, second;

        clock_gettime(CLOCK_REALTIME, &now);
        date_of(now.tv_sec / 86400, &year, &month, &day);
        second = (int)(now.tv_sec % 86400);
        free(h->created);
        if (asprintf(&h->created, "%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ", year, month, day, second / 3600,
                    second / 60 % 60, second % 60, now.tv_nsec) < 0) {
                h->created = NULL;
                return err_sys(err, ENOMEM, "making container '%s'", h->id);
        }
        return 0;
}

static int write_file(int dir, const char *name, const char *text, size_t size)
{
        _cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

        if (fd < 0)
                return -errno;
        while (size) {
                const ssize_t n = write(fd, text, size);

                if (n < 0)
                        return -errno;
                text += n;
                size -= (size_t)n;
        }
        return 0;
}

static int read_file(int dir, const char *name, char **ret, size_t *ret_size)
{
        _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        struct stat st;
        ssize_t n;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size > STATE_MAX * 16)
                return -EFBIG;
        text = malloc((size_t)st.st_size + 1);
        if (!text)
                return -ENOMEM;
        n = read(fd, text, (size_t)st.st_size);
        if (n < 0)
                return -errno;
        *ret = TAKE_PTR(text);
        *ret_size = (size_t)n;
        return 0;
}

static int set_optional(json_t *object, const char *key, json_t *value)
{
        return value ? json_object_set(object, key, value) : 0;
}

static int set_string(json_t *object, const char *key, const char *text)
{
        return text ? json_object_set_new(object, key, json_string(text)) : 0;
}

int state_save(const struct box_handle *h, struct err **err)
{
        json_t *json = json_object();
        _cleanup_free_ char *text = NULL;
        int r = 0;

        if (!json)
                return err_sys(err, ENOMEM, "saving the state of '%s'", h->id);
        r |= json_object_set_new(json, "version", json_integer(1));
        r |= set_string(json, "id", h->id);
        r |= json_object_set_new(json, "pid", json_integer(h->pid));
        r |= json_object_set_new(json, "pid_start", json_integer((json_int_t)h->pid_start));
        r |= set_string(json, "bundle", h->bundle);
        r |= set_string(json, "rootfs", h->rootfs);
        r |= set_string(json, "created", h->created);
        r |= json_object_set_new(json, "owner", json_integer(h->owner));
        r |= set_string(json, "rdt_group", h->rdt_group);
        r |= json_object_set_new(json, "rdt_owned", json_boolean(h->rdt_owned));
        r |= set_optional(json, "cgroup", h->cgroup);
        r |= set_optional(json, "annotations", h->annotations);
        r |= set_optional(json, "external_descriptors", h->descriptors);
        text = r ? NULL : json_dumps(json, JSON_COMPACT);
        json_decref(json);
        if (!text)
                return err_sys(err, ENOMEM, "saving the state of '%s'", h->id);
        r = write_file(h->dir, STATE_FILE ".new", text, strlen(text));
        if (r == 0 && renameat(h->dir, STATE_FILE ".new", h->dir, STATE_FILE) < 0)
                r = -errno;
        return r < 0 ? err_sys(err, -r, "saving the state of '%s'", h->id) : 0;
}

int state_save_config(const struct box_handle *h, const struct spec *spec, struct err **err)
{
        const int r = write_file(h->dir, "config.json", spec->text, spec->text_size);

        return r < 0 ? err_sys(err, -r, "saving the configuration of '%s'", h->id) : 0;
}

int state_load_config(const struct box_handle *h, struct spec **ret, struct err **err)
{
        const int r = spec_load(h->dir, "config.json", ret, err);

        return r < 0 ? err_wrap(err, r, "container '%s'", h->id) : 0;
}

/* A copy of a member, or NULL where it is missing. */
static char *member_string(const json_t *json, const char *key)
{
        const char *text = json_string_value(json_object_get(json, key));

        return text ? strdup(text) : NULL;
}

static int from_json(struct box_handle *h, json_t *json)
{
        const json_int_t pid = json_integer_value(json_object_get(json, "pid"));

        h->bundle = member_string(json, "bundle");
        h->rootfs = member_string(json, "rootfs");
        h->created = member_string(json, "created");
        h->rdt_group = member_string(json, "rdt_group");
        h->rdt_owned = json_is_true(json_object_get(json, "rdt_owned"));
        if (!h->bundle || !h->rootfs || !h->created || pid <= 0 || pid > INT32_MAX)
                return -EINVAL;
        h->pid = (pid_t)pid;
        h->pid_start = (u64)json_integer_value(json_object_get(json, "pid_start"));
        h->owner = (uid_t)json_integer_value(json_object_get(json, "owner"));
        h->cgroup = json_incref(json_object_get(json, "cgroup"));
        h->annotations = json_incref(json_object_get(json, "annotations"));
        h->descriptors = json_incref(json_object_get(json, "external_descriptors"));
        return 0;
}

int state_open(const struct box_runtime *runtime, const char *id, struct box_handle **ret, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_free_ char *path = NULL;
        int r = check_id(id, err);

        if (r < 0)
                return r;
        h = new_handle(runtime, id);
        if (!h || asprintf(&path, "%s/%s", runtime->root, id) < 0)
                return err_sys(err, ENOMEM, "reading the state of '%s'", id);
        h->dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (h->dir < 0 && errno == ENOENT)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "container '%s' does not exist", id);
        if (h->dir < 0)
                return err_sys(err, errno, "opening '%s'", path);
        *ret = TAKE_PTR(h);
        return 0;
}

int state_read(struct box_handle *h, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        json_t *json = NULL;
        size_t size = 0;
        int r = read_file(h->dir, STATE_FILE, &text, &size);

        if (r == -ENOENT)
                return err_set(
                        err, ERR_NOT_FOUND, ENOENT, "container '%s' does not exist (it was never completed)", h->id);
        if (r < 0)
                return err_sys(err, -r, "reading the state of '%s'", h->id);
        r = spec_read_json(text, size, &json, err);
        if (r < 0)
                return err_wrap(err, r, "the state of '%s'", h->id);
        r = from_json(h, json);
        json_decref(json);
        return r < 0 ? err_set(err, ERR_BAD_STATE, EINVAL, "the state of '%s' is damaged", h->id) : 0;
}

int state_load(const struct box_runtime *runtime, const char *id, struct box_handle **ret, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        int r = state_open(runtime, id, &h, err);

        if (r == 0)
                r = state_read(h, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(h);
        return 0;
}

static int remove_files(const struct box_handle *h)
{
        const int copy = openat(h->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        struct dirent *entry;

        if (!dir)
                return -errno;
        while ((entry = readdir(dir)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        unlinkat(h->dir, entry->d_name, 0);
        closedir(dir);
        unlinkat(h->dir, "notify/notify", 0); /* notify.h */
        unlinkat(h->dir, "notify", AT_REMOVEDIR);
        unlinkat(h->dir, STATE_CRIU_ROOT, AT_REMOVEDIR);
        return 0;
}

int state_remove(const struct box_handle *h, struct err **err)
{
        _cleanup_free_ char *path = NULL;

        if (asprintf(&path, "%s/%s", h->runtime->root, h->id) < 0)
                return err_sys(err, ENOMEM, "removing the state of '%s'", h->id);
        for (int i = 0;; i++) {
                const int r = remove_files(h);

                if (r < 0)
                        return err_sys(err, -r, "removing the state of '%s'", h->id);
                if (rmdir(path) == 0 || errno == ENOENT)
                        return 0;
                /* A process of ours that is just dying may have made one more file. */
                if (errno != ENOTEMPTY || i == REMOVE_TRIES)
                        return err_sys(err, errno, "removing '%s'", path);
                usleep(10000);
        }
}

struct box_handle *state_free(struct box_handle *h)
{
        if (h) {
                closep(&h->dir);
                free(h->id);
                free(h->bundle);
                free(h->rootfs);
                free(h->created);
                free(h->rdt_group);
                json_decref(h->cgroup);
                json_decref(h->annotations);
                json_decref(h->descriptors);
                free(h);
        }
        return NULL;
}

u64 state_process_start(pid_t pid, bool *ret_zombie)
{
        char path[32], buf[1024];
        unsigned long long start = 0;
        char state = 0;
        const char *after;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        {
                _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

                n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
        }
        if (n <= 0)
                return 0;
        buf[n] = 0;
        /* The name in parentheses may hold anything; the last parenthesis ends it (proc(5)). */
        after = strrchr(buf, ')');
        if (!after ||
                sscanf(after + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                        &state, &start) != 2)
                return 0;
        if (ret_zombie)
                *ret_zombie = state == 'Z' || state == 'X';
        return start;
}

int state_pidfd(const struct box_handle *h)
{
        _cleanup_close_ int fd = sys_pidfd_open(h->pid);
        bool zombie = false;

        if (fd < 0)
                return fd;
        /* Looked at after the pidfd is open: if it is the right process now, the descriptor is of it. */
        if (state_process_start(h->pid, &zombie) != h->pid_start || zombie)
                return -ESRCH;
        return TAKE_FD(fd);
}

enum box_status state_quick_status(const struct box_handle *h)
{
        bool zombie = false;

        if (state_process_start(h->pid, &zombie) != h->pid_start || zombie)
                return BOX_STOPPED;
        return faccessat(h->dir, STATE_START_SOCKET, F_OK, 0) == 0 ? BOX_CREATED : BOX_RUNNING;
}

int state_status(const struct box_handle *h, enum box_status *ret, struct err **err)
{
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        enum box_status status = state_quick_status(h);
        bool frozen = false;
        int r;

        if (status == BOX_RUNNING && h->cgroup) {
                r = cgroup_load(h->cgroup, &cg, err);
                if (r == 0 && cgroup_exists(cg))
                        r = cgroup_is_frozen(cg, &frozen, err);
                if (r < 0)
                        return err_wrap(err, r, "container '%s'", h->id);
                if (frozen)
                        status = BOX_PAUSED;
        }
        *ret = status;
        return 0;
}

json_t *state_object(const struct box_handle *h, const char *status)
{
        json_t *json = json_object();
        const bool stopped = strcmp(status, "stopped") == 0;
        int r = 0;

        if (!json)
                return NULL;
        r |= json_object_set_new(json, "ociVersion", json_string("1.2.0"));
        r |= set_string(json, "id", h->id);
        r |= json_object_set_new(json, "pid", json_integer(stopped ? 0 : h->pid));
        r |= set_string(json, "status", status);
        r |= set_string(json, "bundle", h->bundle);
        r |= set_string(json, "rootfs", h->rootfs);
        r |= set_string(json, "created", h->created);
        r |= set_optional(json, "annotations", h->annotations);
        if (r) {
                json_decref(json);
                return NULL;
        }
        return json;
}
