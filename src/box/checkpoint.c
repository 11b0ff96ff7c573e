/* checkpoint by the criu program, and what restore.c shares with it. criu knows processes; what is the runtime's (the
 * root, mounts from the host, control groups, namespaces joined by path, stdio) it is told by options, and hands back
 * at restore by the same names. */
#include "checkpoint.h"

#include <limits.h>
#include <linux/kdev_t.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "devices.h"
#include "procfs.h"
#include "root.h"
#include "rootfs.h"
#include "spec/names.h"
#include "sys.h"

enum { LOG_LEVEL_ALL = 4, REAPED_TRIES = 600 };

/* enum criu_cg_mode of rpc.proto */
static const struct name cgroup_modes[] = {
        { "ignore", 0 },
        { "none", 1 },
        { "props", 2 },
        { "soft", 3 },
        { "full", 4 },
        { "strict", 5 },
        { NULL, 0 },
};

/* ---- what both have ---- */

static int open_dir(const char *path, int *ret, struct err **err)
{
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return err_sys(err, errno, "making '%s'", path);
        *ret = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return *ret < 0 ? err_sys(err, errno, "opening '%s'", path) : 0;
}

int checkpoint_open_dirs(
        const struct box_checkpoint_args *args, const char *log, struct checkpoint_dirs *ret, struct err **err)
{
        int r = open_dir(args->image_path, &ret->fd[CHECKPOINT_IMAGE], err);

        if (r == 0 && args->work_path)
                r = open_dir(args->work_path, &ret->fd[CHECKPOINT_WORK], err);
        if (r == 0 && asprintf(&ret->log, "%s/%s", args->work_path ? args->work_path : args->image_path, log) < 0) {
                ret->log = NULL;
                r = err_sys(err, ENOMEM, "preparing criu");
        }
        return r;
}

void checkpoint_close_dirs(struct checkpoint_dirs *dirs)
{
        closep(&dirs->fd[CHECKPOINT_IMAGE]);
        closep(&dirs->fd[CHECKPOINT_WORK]);
        free(dirs->log);
}

int checkpoint_common(struct criu_request *q, const struct launch *l, const struct checkpoint_dirs *dirs,
        const struct box_checkpoint_args *args, struct err **err)
{
        static const struct {
                size_t offset;
                enum criu_option option;
        } flags[] = {
                { offsetof(struct box_checkpoint_args, tcp_established), CRIU_TCP_ESTABLISHED },
                { offsetof(struct box_checkpoint_args, tcp_skip_in_flight), CRIU_TCP_SKIP_IN_FLIGHT },
                { offsetof(struct box_checkpoint_args, tcp_close), CRIU_TCP_CLOSE },
                { offsetof(struct box_checkpoint_args, link_remap), CRIU_LINK_REMAP },
                { offsetof(struct box_checkpoint_args, ext_unix_sk), CRIU_EXT_UNIX_SK },
                { offsetof(struct box_checkpoint_args, shell_job), CRIU_SHELL_JOB },
                { offsetof(struct box_checkpoint_args, file_locks), CRIU_FILE_LOCKS },
                { offsetof(struct box_checkpoint_args, auto_dedup), CRIU_AUTO_DEDUP },
                { offsetof(struct box_checkpoint_args, lazy_pages), CRIU_LAZY_PAGES },
        };
        const char *mode = args->manage_cgroups_mode ? args->manage_cgroups_mode : "soft";
        const struct name *known = name_find(cgroup_modes, mode);
        const char *file = spec_annotation(l->spec, "org.criu.config");

        if (!known)
                return err_set(err, ERR_USAGE, EINVAL,
                        "Invalid manage cgroups mode: '%s' is none of soft, full, strict, ignore, props, none", mode);
        criu_int(q, CRIU_IMAGES_DIR_FD, dirs->fd[CHECKPOINT_IMAGE]);
        if (dirs->fd[CHECKPOINT_WORK] >= 0)
                criu_int(q, CRIU_WORK_DIR_FD, dirs->fd[CHECKPOINT_WORK]);
        criu_text(q, CRIU_LOG_FILE, strrchr(dirs->log, '/') + 1);
        criu_int(q, CRIU_LOG_LEVEL, LOG_LEVEL_ALL);
        criu_int(q, CRIU_NOTIFY_SCRIPTS, true);
        criu_int(q, CRIU_ORPHAN_PTS_MASTER, true);
        criu_int(q, CRIU_MANAGE_CGROUPS_MODE, known->value);
        /* Network devices are not the runtime's, as with runc: the namespace comes back empty but for loopback. */
        criu_int(q, CRIU_EMPTY_NAMESPACES, CLONE_NEWNET);
        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (*(const bool *)((const char *)args + flags[i].offset))
                        criu_int(q, flags[i].option, true);
        /* Its settings override ours; one that is missing is fine. The annotation without a value: none. */
        if (!file || file[0])
                criu_text(q, CRIU_CONFIG_FILE, file ? file : "/etc/criu/runc.conf");
        return 0;
}

/* Where the existing @path leads inside @root, as the kernel writes it in mountinfo. */
static bool resolve_existing(const struct launch *l, int root, const char *path, char ret[PATH_MAX])
{
        _cleanup_close_ int fd = root_find(root, path, 0);
        char number[32], *inside = ret;
        const size_t prefix = strlen(l->rootfs);
        ssize_t n;

        if (fd < 0)
                return false;
        snprintf(number, sizeof(number), "self/fd/%d", fd);
        n = readlinkat(l->proc, number, ret, PATH_MAX - 1);
        if (n <= 0)
                return false;
        ret[n] = 0;
        /* The root of a running container is the root of its mount namespace; at restore it is still a directory. */
        if (prefix > 1 && strncmp(ret, l->rootfs, prefix) == 0 && ret[prefix] == '/')
                inside = ret + prefix;
        memmove(ret, inside, strlen(inside) + 1);
        return true;
}

/* The same for a path whose end need not exist: at restore, mount points inside of volumes do not. */
static bool resolve(const struct launch *l, int root, const char *path, char ret[PATH_MAX])
{
        char parent[PATH_MAX];
        size_t n = strlen(path), used;

        if (n >= sizeof(parent))
                return false;
        memcpy(parent, path, n + 1);
        while (!resolve_existing(l, root, n ? parent : "/", ret)) {
                while (n && parent[--n] != '/')
                        ;
                if (!n && !parent[0])
                        return false;
                parent[n] = 0;
        }
        used = strcmp(ret, "/") == 0 ? 0 : strlen(ret);
        return (size_t)snprintf(ret + used, PATH_MAX - used, "%s", path + n) < PATH_MAX - used;
}

static void say(struct criu_request *q, const struct launch *l, int root, checkpoint_mount *each, const char *path,
        const char *key, const char *source)
{
        char target[PATH_MAX];

        if (resolve(l, root, path, target))
                each(q, target, key ? key : target, source);
}

static int bind_mount(struct criu_request *q, const struct launch *l, int root, const struct mount_plan *plan,
        checkpoint_mount *each, struct err **err)
{
        const char *source = plan->mount->source;

        if (source[0] != '/')
                source = arena_printf(&l->spec->arena, "%s/%s", l->state->bundle, source);
        if (!source)
                return err_sys(err, ENOMEM, "preparing criu");
        say(q, l, root, each, plan->target, NULL, source);
        return 0;
}

/* Where the container has its own cgroup namespace or the host only v2, criu mounts control groups itself. */
static int hierarchies(struct criu_request *q, const struct launch *l, int root, const struct mount_plan *plan,
        checkpoint_mount *each, struct err **err)
{
        const struct cgroup_hierarchy *h;

        if (!l->cgroup || cgroup_is_unified(l->cgroup) || l->spec->namespaces_new & CLONE_NEWCGROUP)
                return 0;
        for (size_t i = 0; (h = cgroup_hierarchy(l->cgroup, i)); i++) {
                const char *path = arena_printf(&l->spec->arena, "%s/%s", plan->target, h->name);

                if (!path)
                        return err_sys(err, ENOMEM, "preparing criu");
                /* The mount point is in a tmpfs that is only there when the container runs. */
                each(q, path, path, h->path);
        }
        return 0;
}

int checkpoint_mounts(
        struct criu_request *q, const struct launch *l, int root, checkpoint_mount *each, struct err **err)
{
        const struct spec_linux *linux_ = &l->spec->linux_;
        const char *path;
        int r = 0;

        for (size_t i = 0; r == 0 && i < l->n_mounts; i++) {
                const struct mount_plan *plan = &l->mounts[i];
                const char *type = plan->mount->type;

                if (plan->options.flags & MOUNT_BIND)
                        r = bind_mount(q, l, root, plan, each, err);
                else if (type && (strcmp(type, "cgroup") == 0 || strcmp(type, "cgroup2") == 0))
                        r = hierarchies(q, l, root, plan, each, err);
        }
        if (!l->in_user_namespace)
                return r;
        for (size_t i = 0; (path = devices_default(i)); i++)
                each(q, path, path, path);
        for (size_t i = 0; i < linux_->devices.n; i++) {
                path = linux_->devices.item[i].path;
                each(q, path, path, path);
        }
        return r;
}

const char *checkpoint_namespace_key(enum spec_namespace_id id)
{
        /* The names that runc uses. */
        return id == NAMESPACE_NET ? "extRootNetNS" : id == NAMESPACE_PID ? "extRootPidNS" : NULL;
}

/* ---- checkpoint ---- */

static void dump_mount(struct criu_request *q, const char *target, const char *key, const char *source)
{
        (void)source;
        criu_textf(q, CRIU_EXTERNAL, "mnt[%s]:%s", target, key);
}

/* Masked files are the host's null device; masked directories a tmpfs, which criu dumps. */
static void dump_masked(struct criu_request *q, const struct launch *l, int root)
{
        const struct spec_strings *masked = &l->spec->linux_.masked_paths;

        for (size_t i = 0; i < masked->n; i++) {
                _cleanup_close_ int at = root_find(root, masked->item[i], 0);
                struct stat st;

                if (at >= 0 && fstat(at, &st) == 0 && S_ISCHR(st.st_mode))
                        say(q, l, root, dump_mount, masked->item[i], CHECKPOINT_MASK, CHECKPOINT_MASK);
        }
}

static int dump_namespaces(struct criu_request *q, const struct launch *l, struct err **err)
{
        for (int i = 0; i < NAMESPACE_COUNT; i++) {
                const char *path = l->spec->namespace_path[i],
                           *key = checkpoint_namespace_key((enum spec_namespace_id)i);
                struct stat st;

                if (!path || !key)
                        continue;
                if (stat(path, &st) < 0)
                        return err_sys(err, errno, "looking at the namespace '%s'", path);
                criu_textf(q, CRIU_EXTERNAL, "%s[%lu]:%s", i == NAMESPACE_NET ? "net" : "pid", (unsigned long)st.st_ino,
                        key);
        }
        return 0;
}

/* The mount that a process's descriptor is on; -1 when it has none such. */
static int mount_of(const struct launch *l, int fd)
{
        char path[64], text[512];
        const char *line;
        int id = -1;

        snprintf(path, sizeof(path), "%d/fdinfo/%d", l->state->pid, fd);
        if (procfs_read(l->proc, path, text, sizeof(text)) <= 0)
                return -1;
        line = strstr(text, "mnt_id:");
        return line && sscanf(line, "mnt_id: %d", &id) == 1 ? id : -1;
}

static bool has_mount(const struct launch *l, int id)
{
        char path[64];
        _cleanup_free_ char *line = NULL;
        _cleanup_fclose_ FILE *f = NULL;
        size_t room = 0;
        int fd;

        snprintf(path, sizeof(path), "%d/mountinfo", l->state->pid);
        fd = procfs_at(l->proc, path, O_RDONLY);
        f = fd < 0 ? NULL : fdopen(fd, "re");
        while (f && getline(&line, &room, f) > 0)
                if (atoi(line) == id)
                        return true;
        return false;
}

/* "file[MOUNT:INODE]": criu's name for a file that is stdio of the first process and lies outside of its mount
 * namespace, a log or the host's /dev/null. Terminals are --shell-job's. */
static bool outside_file(const struct launch *l, int fd, char *ret, size_t size)
{
        char path[64];
        struct stat st;
        const int mount = mount_of(l, fd);

        snprintf(path, sizeof(path), "%d/fd/%d", l->state->pid, fd);
        if (mount < 0 || has_mount(l, mount) || fstatat(l->proc, path, &st, 0) < 0)
                return false;
        if (!S_ISREG(st.st_mode) && !(S_ISCHR(st.st_mode) && MAJOR(st.st_rdev) == 1))
                return false;
        snprintf(ret, size, "file[%x:%llx]", (unsigned)mount, (unsigned long long)st.st_ino);
        return true;
}

/* Tells criu about stdio that comes from outside and writes down what it was, for restore to put something in its
 * place. */
static int dump_descriptors(struct criu_request *q, const struct launch *l, int image, struct err **err)
{
        json_t *list = json_loads(json_string_value(l->state->descriptors), 0, NULL);
        int fd = -1, r = -ENOMEM;
        char key[64];

        for (size_t i = 0; i < 3 && list; i++) {
                const char *path = json_string_value(json_array_get(list, i));

                if (!path || !outside_file(l, (int)i, key, sizeof(key)))
                        continue;
                criu_text(q, CRIU_EXTERNAL, key);
                json_array_set_new(list, i, json_sprintf("%s%s", key, path));
        }
        fd = openat(image, CHECKPOINT_DESCRIPTORS, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (list)
                r = fd < 0 ? -errno : json_dumpfd(list, fd, JSON_COMPACT) < 0 ? -EIO : 0;
        closep(&fd);
        json_decref(list);
        return r < 0 ? err_sys(err, -r, "writing " CHECKPOINT_DESCRIPTORS) : 0;
}

/* The group that criu may freeze while it looks: by v1's freezer or by v2. */
static const char *freezer(const struct launch *l)
{
        const struct cgroup_hierarchy *h;

        for (size_t i = 0; l->cgroup && (h = cgroup_hierarchy(l->cgroup, i)); i++)
                if (strcmp(h->name, "freezer") == 0 || cgroup_is_unified(l->cgroup))
                        return h->path;
        return NULL;
}

struct dumping {
        int status_fd; /* -1 once it was told */
};

static int dump_notify(void *arg, const char *name, pid_t pid, int fd, struct err **err)
{
        struct dumping *d = arg;

        (void)pid;
        (void)fd;
        (void)err;
        /* Whoever waits for the page server reads a zero byte. */
        if (strcmp(name, "status-ready") == 0 && d->status_fd >= 0) {
                if (write(d->status_fd, "", 1) == 1)
                        close(d->status_fd);
                d->status_fd = -1;
        }
        return 0;
}

static int check_parent(const struct box_checkpoint_args *args, int image, struct err **err)
{
        struct stat st;

        if (!args->parent_path)
                return 0;
        if (args->parent_path[0] == '/')
                return err_set(err, ERR_USAGE, EINVAL, "--parent-path must be relative: '%s'", args->parent_path);
        if (fstatat(image, args->parent_path, &st, 0) < 0)
                return err_sys(
                        err, errno, "invalid --parent-path: '%s' below '%s'", args->parent_path, args->image_path);
        return S_ISDIR(st.st_mode) ? 0
                                   : err_set(err, ERR_USAGE, ENOTDIR, "invalid --parent-path: '%s' is not a directory",
                                             args->parent_path);
}

static int check_status_fd(int fd, struct err **err)
{
        const int flags = fd < 0 ? O_WRONLY : fcntl(fd, F_GETFL);

        if (flags < 0)
                return err_sys(err, errno, "invalid --status-fd argument %d", fd);
        return (flags & O_ACCMODE) != O_RDONLY
                       ? 0
                       : err_set(err, ERR_USAGE, EBADF, "invalid --status-fd argument %d: not writable", fd);
}

static int add_page_server(struct criu_request *q, const char *text, struct err **err)
{
        const char *colon = text ? strrchr(text, ':') : NULL;
        char address[256], *end;
        unsigned long port;

        if (!text)
                return 0;
        port = colon ? strtoul(colon + 1, &end, 10) : 0;
        if (!colon || colon == text || (size_t)(colon - text) >= sizeof(address) || !port || *end || port > UINT16_MAX)
                return err_set(err, ERR_USAGE, EINVAL,
                        "--page-server: '%s': Use --page-server ADDRESS:PORT to specify page server", text);
        snprintf(address, sizeof(address), "%.*s", (int)(colon - text), text);
        criu_page_server(q, address, (u16)port);
        return 0;
}

/* The container as checkpoint needs it. */
static int load(struct launch *l, const struct box_runtime *runtime, const char *id, struct err **err)
{
        enum box_status status;
        int r = state_load(runtime, id, &l->state, err);

        if (r == 0)
                r = state_status(l->state, &status, err);
        if (r < 0)
                return r;
        if (status != BOX_RUNNING && status != BOX_PAUSED)
                return err_set(err, ERR_BUSY, EBUSY, "Container cannot be checkpointed in %s state: '%s'",
                        box_status_name(status), id);
        l->runtime = runtime;
        l->rootfs = l->state->rootfs;
        l->proc = procfs_open(err);
        if (l->proc < 0)
                return l->proc;
        r = state_load_config(l->state, &l->spec, err);
        if (r == 0)
                r = rootfs_plan(l, err);
        if (r == 0 && l->state->cgroup)
                r = cgroup_load(l->state->cgroup, &l->cgroup, err);
        if (r < 0)
                return r;
        rootfs_strip_targets(l);
        l->in_user_namespace = (l->spec->namespaces_new | l->spec->namespaces_joined) & CLONE_NEWUSER;
        return 0;
}

static int add_dump(struct criu_request *q, const struct launch *l, const struct checkpoint_dirs *dirs,
        const struct box_checkpoint_args *args, struct err **err)
{
        _cleanup_close_ int root = -1;
        const char *group = freezer(l);
        char path[32];
        int r = checkpoint_common(q, l, dirs, args, err);

        if (r == 0)
                r = add_page_server(q, args->page_server, err);
        if (r == 0)
                r = dump_namespaces(q, l, err);
        if (r < 0)
                return r;
        criu_int(q, CRIU_PID, l->state->pid);
        criu_text(q, CRIU_ROOT, l->rootfs);
        if (group)
                criu_text(q, CRIU_FREEZE_CGROUP, group);
        if (args->leave_running)
                criu_int(q, CRIU_LEAVE_RUNNING, true);
        if (args->parent_path)
                criu_text(q, CRIU_PARENT_IMAGE, args->parent_path);
        if (args->parent_path || args->pre_dump)
                criu_int(q, CRIU_TRACK_MEMORY, true);
        if (args->pre_dump)
                return 0;
        snprintf(path, sizeof(path), "%d/root", l->state->pid);
        root = openat(l->proc, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
                return err_sys(err, errno, "opening the root of container '%s'", args->id);
        dump_masked(q, l, root);
        r = checkpoint_mounts(q, l, root, dump_mount, err);
        return r < 0 ? r : dump_descriptors(q, l, dirs->fd[CHECKPOINT_IMAGE], err);
}

/* criu waits for processes to stop, which frozen ones do not. */
static int run_thawed(const struct launch *l, const struct criu_request *q, const struct criu_server *server,
        const struct box_checkpoint_args *args, struct err **err)
{
        bool frozen = false;
        int r = l->cgroup ? cgroup_is_frozen(l->cgroup, &frozen, err) : 0;

        if (r == 0 && frozen)
                r = cgroup_freeze(l->cgroup, false, err);
        if (r < 0)
                return r;
        r = criu_run(l->runtime->criu, q, server, NULL, err);
        if (frozen && (r < 0 || args->leave_running || args->pre_dump))
                cgroup_freeze(l->cgroup, true, NULL);
        return r;
}

/* In a pid namespace that lives on, restore wants the same number: it is free when the parent has reaped the
 * process. */
static void wait_reaped(pid_t pid)
{
        for (int i = 0; i < REAPED_TRIES && kill(pid, 0) == 0; i++)
                usleep(5000);
}

int box_checkpoint(const struct box_runtime *runtime, const struct box_checkpoint_args *args, struct err **err)
{
        _cleanup_(launch_release) struct launch l;
        _cleanup_(criu_release) struct criu_request q = { .type = args->pre_dump ? CRIU_PRE_DUMP : CRIU_DUMP };
        _cleanup_(checkpoint_close_dirs) struct checkpoint_dirs dirs = CHECKPOINT_NO_DIRS;
        struct dumping dumping = { .status_fd = args->status_fd };
        struct criu_server server = {
                .notify = dump_notify, .arg = &dumping, .fds = dirs.fd, .n_fds = ARRAY_SIZE(dirs.fd)
        };
        int r;

        launch_init(&l);
        r = load(&l, runtime, args->id, err);
        if (r == 0)
                r = criu_check(runtime->criu, err);
        if (r == 0)
                r = check_status_fd(args->status_fd, err);
        if (r == 0)
                r = checkpoint_open_dirs(args, "dump.log", &dirs, err);
        if (r == 0)
                r = check_parent(args, dirs.fd[CHECKPOINT_IMAGE], err);
        if (r == 0)
                r = add_dump(&q, &l, &dirs, args, err);
        server.log = dirs.log;
        if (r == 0)
                r = run_thawed(&l, &q, &server, args, err);
        if (r < 0)
                return err_wrap(err, r, "checkpointing container '%s'", args->id);
        if (args->leave_running || args->pre_dump)
                return 0;
        if (!(l.spec->namespaces_new & CLONE_NEWPID))
                wait_reaped(l.state->pid);
        return box_delete(runtime, args->id, true, err);
}
