/* Processes of a container, and removing its groups for good.
 *
 * Whoever has a writable cgroup mount can nest groups as deep as the kernel allows, fork while being killed and hide
 * in a part that is frozen. So: no descriptor is held for each level, whatever is frozen is thawed after the signal,
 * and killing and removing repeat until all groups are gone or time is up. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "box/cgroup/internal.h"

#define REMOVE_TIMEOUT_NS (10 * NSEC_PER_SEC)
/* Deeper than anybody nests groups on purpose. Bounds descriptors and stack when processes are listed. */
#define LIST_DEPTH_MAX 200

static void dirclosep(DIR **dir)
{
        if (*dir)
                closedir(*dir);
}

/* A new stream on the directory @dir. */
static DIR *open_stream(int dir)
{
        _cleanup_close_ int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *stream = fd < 0 ? NULL : fdopendir(fd);

        if (stream)
                fd = -1;
        return stream;
}

/* The next group in @stream, or NULL. */
static const char *next_group(DIR *stream)
{
        struct dirent *entry;

        while ((entry = readdir(stream)))
                if (entry->d_type == DT_DIR && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        return entry->d_name;
        return NULL;
}

/* ---- processes ---- */

static int add_pid(struct pid_list *list, pid_t pid, struct err **err)
{
        if (list->n == list->cap) {
                const size_t cap = list->cap ? 2 * list->cap : 32;
                void *grown = reallocarray(list->pid, cap, sizeof(list->pid[0]));

                if (!grown)
                        return err_sys(err, ENOMEM, "listing processes");
                list->pid = grown;
                list->cap = cap;
        }
        list->pid[list->n++] = pid;
        return 0;
}

static int add_group(int dir, struct pid_list *list, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        struct err *why = NULL;
        int r = cgroup_read(dir, "cgroup.procs", &text, &why);

        /* A threaded v2 group lists only threads. Their ids do for every use made of the list. */
        if (r == -EOPNOTSUPP)
                r = cgroup_read(dir, "cgroup.threads", &text, NULL);
        err_free(why);
        if (r == -ENODEV || r == -ENOENT) /* removed meanwhile */
                return 0;
        if (r < 0)
                return err_sys(err, -r, "listing processes");
        for (char *pos = text, *line; r >= 0 && (line = cgroup_next_line(&pos));) {
                const pid_t pid = atoi(line);

                if (pid > 0) /* 0: not visible from our PID namespace */
                        r = add_pid(list, pid, err);
        }
        return r;
}

static int collect(int dir, unsigned depth, struct pid_list *list, struct err **err)
{
        _cleanup_(dirclosep) DIR *stream = NULL;
        const char *name;
        int r = add_group(dir, list, err);

        if (r >= 0 && depth == LIST_DEPTH_MAX)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "cgroups are nested deeper than %d", LIST_DEPTH_MAX);
        stream = r >= 0 ? open_stream(dir) : NULL;
        while (r >= 0 && stream && (name = next_group(stream))) {
                _cleanup_close_ int child = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

                if (child >= 0)
                        r = collect(child, depth + 1, list, err);
        }
        return r;
}

int cgroup_collect_pids(int dir, struct pid_list *list, struct err **err)
{
        return collect(dir, 0, list, err);
}

int cgroup_pids(struct cgroup *cg, pid_t **ret_pids, size_t *ret_n, struct err **err)
{
        struct hierarchy *h = cgroup_main(cg);
        struct pid_list list = { 0 };
        int r = h ? hierarchy_open(h, err) : 0;

        if (h && r >= 0)
                r = cgroup_collect_pids(h->dir, &list, err);
        if (r < 0) {
                free(list.pid);
                return r;
        }
        *ret_pids = list.pid;
        *ret_n = list.n;
        return 0;
}

/* ---- signals ---- */

static int signal_group(int dir, int signal, size_t *ret_n, struct err **err)
{
        struct pid_list list = { 0 };
        int r = cgroup_collect_pids(dir, &list, err);

        for (size_t i = 0; r >= 0 && i < list.n; i++)
                if (kill(list.pid[i], signal) < 0 && errno != ESRCH)
                        r = err_sys(err, errno, "sending signal %d to process %d", signal, (int)list.pid[i]);
        *ret_n = list.n;
        free(list.pid);
        return r;
}

/* Without cgroup.kill (Linux 5.14): frozen processes do not fork, so a signal to all of a frozen group is one to all
 * for good. */
static int kill_frozen(struct hierarchy *h, struct err **err)
{
        const bool freezes = h->face.v2 ? cgroup_has(h->dir, "cgroup.freeze") : hierarchy_has(h, CONTROLLER_FREEZER);
        size_t n;
        int r;

        if (freezes)
                (void)h->ops->freeze(h, true, NULL);
        r = signal_group(h->dir, SIGKILL, &n, err);
        if (freezes)
                (void)h->ops->freeze(h, false, NULL);
        return r;
}

static int kill_hierarchy(struct hierarchy *h, struct err **err)
{
        int r = hierarchy_open(h, err);

        if (r < 0)
                return r;
        if (h->face.v2 && cgroup_write(h->dir, "cgroup.kill", "1", NULL) >= 0)
                return 0;
        return kill_frozen(h, err);
}

int cgroup_kill(struct cgroup *cg, int signal, struct err **err)
{
        struct hierarchy *h = cgroup_main(cg);
        size_t n;
        int r = h ? hierarchy_open(h, err) : 0;

        if (!h || r < 0)
                return r;
        if (signal != SIGKILL)
                return signal_group(h->dir, signal, &n, err);
        r = kill_hierarchy(h, err);
        /* A v1 freezer holds back even SIGKILL. */
        h = cgroup_with(cg, CONTROLLER_FREEZER);
        if (h && !h->face.v2 && hierarchy_open(h, NULL) >= 0)
                (void)h->ops->freeze(h, false, NULL);
        return r;
}

/* ---- removal ---- */

/* Removes the groups directly below @dir that have none below themselves; *ret_deeper (-1: none) is one that does. */
static int remove_leaves(int dir, int *ret_deeper, struct err **err)
{
        _cleanup_(dirclosep) DIR *stream = open_stream(dir);
        const char *name;

        *ret_deeper = -1;
        if (!stream)
                return err_sys(err, errno, "reading a cgroup");
        while ((name = next_group(stream))) {
                _cleanup_(dirclosep) DIR *below = NULL;
                _cleanup_close_ int child = -1;

                if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
                        continue;
                child = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
                below = child < 0 ? NULL : open_stream(child);
                if (!below || !next_group(below))
                        return err_set(err, ERR_BUSY, EBUSY, "cgroup '%s' is in use", name);
                *ret_deeper = TAKE_FD(child);
                return 0;
        }
        return 0;
}

int cgroup_remove_below(int dir, struct err **err)
{
        _cleanup_close_ int at = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        size_t depth = 0;

        if (at < 0)
                return err_sys(err, errno, "reading a cgroup");
        for (;;) {
                int deeper, r = remove_leaves(at, &deeper, err);

                if (r < 0)
                        return r;
                if (deeper < 0 && depth == 0)
                        return 0;
                if (deeper < 0) { /* nothing left here: back up, where this one is now a leaf */
                        deeper = openat(at, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                        depth--;
                } else {
                        depth++;
                }
                if (deeper < 0)
                        return err_sys(err, errno, "reading a cgroup");
                close(at);
                at = deeper;
        }
}

void cgroup_remove_parents(const struct hierarchy *h)
{
        _cleanup_free_ char *path = strdup(h->face.path);

        for (unsigned i = 1; path && i < h->n_made; i++) {
                *strrchr(path, '/') = 0;
                if (rmdir(path) < 0)
                        return;
        }
}

/* 0 when the group is gone, -EBUSY when it is worth another try. */
static int remove_group(struct hierarchy *h, bool kill, struct err **err)
{
        if (!h->face.path)
                return 0;
        /* Most often everything has ended and nothing is nested. */
        if (rmdir(h->face.path) < 0 && errno != ENOENT) {
                if (errno != EBUSY && errno != ENOTEMPTY)
                        return err_sys(err, errno, "removing cgroup '%s'", h->face.path);
                if (kill && kill_hierarchy(h, NULL) >= 0)
                        (void)cgroup_remove_below(h->dir, NULL);
                if (rmdir(h->face.path) < 0 && errno != ENOENT)
                        return err_sys(err, errno, "removing cgroup '%s'", h->face.path);
        }
        closep(&h->dir);
        closep(&h->enter);
        h->dir = h->enter = -1;
        cgroup_remove_parents(h);
        return 0;
}

static int remove_all(struct cgroup *cg, struct err **err)
{
        int result = 0;

        for (size_t i = 0; i < cg->n; i++) {
                struct hierarchy *h = &cg->hierarchy[i];
                int r = hierarchy_settle(h, result < 0 ? NULL : err);

                if (r >= 0 && !h->shared)
                        r = remove_group(h, true, result < 0 ? NULL : err);
                if (r < 0 && result == 0)
                        result = r;
        }
        /* Only now is no process of ours left in there that would seem to be another's. */
        for (size_t i = 0; result >= 0 && i < cg->n; i++)
                if (cg->hierarchy[i].born_shared)
                        cgroup_shared_remove(&cg->hierarchy[i]);
        return result;
}

int cgroup_remove(struct cgroup *cg, struct err **err)
{
        const u64 deadline = clock_now_ns() + REMOVE_TIMEOUT_NS;
        struct timespec pause = { .tv_nsec = 100000 };
        int r;

        if (cg->unit)
                (void)cgroup_systemd_stop(cg->unit, cg->user_unit, NULL);
        for (;;) {
                struct err *why = NULL;

                r = remove_all(cg, &why);
                if (r >= 0)
                        return 0;
                if ((r != -EBUSY && r != -ENOTEMPTY) || clock_now_ns() >= deadline) {
                        if (err)
                                *err = why;
                        else
                                err_free(why);
                        return r;
                }
                err_free(why);
                nanosleep(&pause, NULL);
                pause.tv_nsec = MIN(pause.tv_nsec * 2, 50000000L);
        }
}
