/* One group for all containers that a controller does nothing for.
 *
 * Version 1's cpuset limits and counts nothing until it is told to, but each of its groups makes the next container
 * start slower: the kernel compares a new group's processors with those of all its siblings, and rebuilds the host's
 * scheduling domains from all groups when one comes and when one goes (docs/adr/0032). So containers without cpuset
 * limits that have the same parent share one group beside the place where their own would be, with the parent's values:
 *
 *      cpuset/engine/strata@shared     containers A, B, C
 *      cpuset/engine/D                 container D, which was given processors
 *
 * A container gets its own group when it is given processors while it runs (cgroup_unshare). That this has happened is
 * known by the group's being there; states and handles of other runtimes need not hear of it.
 *
 * The shared group goes with its last container. Who is about to enter it holds a shared lock (flock) on the directory
 * from the moment it is known to be there; who removes it wants the exclusive one, and leaves the group to others when
 * it cannot have it or when there are processes; those come by later. Locks end with their holders, so a runtime that
 * is killed can at worst leave an empty group for the next removal.
 *
 * What a container sees of the group through a read-only cgroup mount is nothing of others: version 1 shows only
 * processes of the reader's pid namespace. Where it may write, it has its own (cgroup_spec.separate). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "box/cgroup/internal.h"

/* No container's id: those have no '@'. */
#define SHARED_NAME "strata@shared"

enum { OPEN_TRIES = 1000, TURN_TRIES = 1000, GATHER_TRIES = 100 };

int hierarchy_set_path(struct hierarchy *h, struct err **err)
{
        const int parent = (int)(strrchr(h->group, '/') + 1 - h->group);
        char *path;

        if (asprintf(&path, "%s%.*s%s", h->face.mount, h->shared ? parent : INT_MAX, h->group,
                    h->shared ? SHARED_NAME : "") < 0)
                return err_sys(err, ENOMEM, "making cgroups");
        free((char *)h->face.path);
        h->face.path = path;
        return 0;
}

/* Where the container's own group is, or would be. */
static int own_path(const struct hierarchy *h, const char *file, char *path, size_t size)
{
        const int n = snprintf(path, size, "%s%s%s", h->face.mount, h->group, file);

        return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

bool hierarchy_has_own(const struct hierarchy *h)
{
        char path[PATH_MAX];

        return own_path(h, "", path, sizeof(path)) < 0 || access(path, F_OK) == 0;
}

bool cgroup_may_share(const struct cgroup *cg, const struct hierarchy *h, const struct cgroup_spec *spec)
{
        const struct cgroup_resources *res = spec->resources;

        return !spec->separate && !h->face.v2 && h->controllers == BIT(CONTROLLER_CPUSET) && cgroup_main(cg) != h &&
               !(res && (res->cpus || res->mems)) && !hierarchy_has_own(h);
}

/* ---- life ---- */

static bool is_there(int parent, int dir)
{
        struct stat opened, there;

        return fstat(dir, &opened) == 0 && fstatat(parent, SHARED_NAME, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
               there.st_ino == opened.st_ino;
}

int cgroup_shared_open(int parent, int *ret_dir, struct err **err)
{
        for (int i = 0; i < OPEN_TRIES; i++) {
                _cleanup_close_ int dir = -1;

                if (mkdirat(parent, SHARED_NAME, 0755) < 0 && errno != EEXIST)
                        return err_sys(err, errno, "making '%s'", SHARED_NAME);
                dir = openat(parent, SHARED_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
                if (dir < 0 && errno != ENOENT)
                        return err_sys(err, errno, "opening '%s'", SHARED_NAME);
                if (dir < 0)
                        continue;
                /* Root's is not for a user's containers: for them it is as if it could not be made. */
                if (faccessat(dir, "tasks", W_OK, AT_EACCESS) < 0 && errno != ENOENT)
                        return err_sys(err, errno, "entering '%s'", SHARED_NAME);
                if (flock(dir, LOCK_SH) < 0)
                        return err_sys(err, errno, "locking '%s'", SHARED_NAME);
                /* The last container may have taken it along meanwhile. */
                if (is_there(parent, dir)) {
                        *ret_dir = TAKE_FD(dir);
                        return 0;
                }
        }
        return err_set(err, ERR_BUSY, EBUSY, "'%s' comes and goes", SHARED_NAME);
}

/* A descriptor on the parent, whose lock removals take turns by: the one that finds the last process gone must not
 * fail because another, which found it there, has not let go of the group yet. -1: not within a second. */
static int begin_removal(const struct hierarchy *h)
{
        const int n = (int)(strrchr(h->face.path, '/') - h->face.path);
        _cleanup_close_ int parent = -1;
        char path[PATH_MAX];

        if ((size_t)snprintf(path, sizeof(path), "%.*s", n, h->face.path) >= sizeof(path))
                return -1;
        parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        for (int i = 0; parent >= 0 && i < TURN_TRIES; i++) {
                if (flock(parent, LOCK_EX | LOCK_NB) == 0)
                        return TAKE_FD(parent);
                usleep(1000);
        }
        return -1;
}

void cgroup_shared_remove(struct hierarchy *h)
{
        _cleanup_close_ int turn = -1;

        if (!h->shared) { /* the container has left it */
                h->shared = true;
                if (hierarchy_set_path(h, NULL) < 0)
                        return;
        }
        turn = begin_removal(h);
        if (turn >= 0 && hierarchy_open(h, NULL) >= 0 && flock(h->dir, LOCK_EX | LOCK_NB) == 0 &&
                is_there(turn, h->dir) && rmdir(h->face.path) == 0)
                cgroup_remove_parents(h);
        closep(&h->dir);
        closep(&h->enter);
        h->dir = h->enter = -1;
}

/* ---- one's own after all ---- */

int hierarchy_settle(struct hierarchy *h, struct err **err)
{
        if (!h->shared || !hierarchy_has_own(h))
                return 0;
        closep(&h->dir);
        closep(&h->enter);
        h->dir = h->enter = -1;
        h->shared = false;
        return hierarchy_set_path(h, err);
}

int cgroup_shared_enter(const struct hierarchy *h)
{
        char path[PATH_MAX];
        int r = own_path(h, "/tasks", path, sizeof(path)), fd;

        if (r < 0)
                return r;
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        r = write(fd, "0", 1) < 0 ? -errno : 0;
        close(fd);
        return r;
}

static bool is_among(const struct pid_list *list, pid_t pid)
{
        for (size_t i = 0; i < list->n; i++)
                if (list->pid[i] == pid)
                        return true;
        return false;
}

/* One round. The number of processes that had to be moved. */
static int gather_once(struct cgroup *cg, const struct hierarchy *h, struct err **err)
{
        struct pid_list all = { 0 }, here = { 0 };
        int r = cgroup_pids(cg, &all.pid, &all.n, err), moved = 0;

        if (r >= 0)
                r = cgroup_collect_pids(h->dir, &here, err);
        for (size_t i = 0; r >= 0 && i < all.n; i++) {
                if (is_among(&here, all.pid[i]))
                        continue;
                r = cgroup_write_number(h->dir, "cgroup.procs", all.pid[i], NULL);
                moved += r >= 0;
                if (r < 0 && r != -ESRCH)
                        err_sys(err, -r, "moving process %d into '%s'", (int)all.pid[i], h->face.path);
                r = r == -ESRCH ? 0 : r;
        }
        free(all.pid);
        free(here.pid);
        return r < 0 ? r : moved;
}

/* The container's own group in @h, without processes. *ret_old is what @h was. */
static int make_own(struct hierarchy *h, struct hierarchy *ret_old, struct err **err)
{
        struct hierarchy own = *h;
        int r;

        own.shared = false;
        own.dir = own.enter = -1;
        own.n_made = 0;
        own.face.path = NULL;
        r = hierarchy_set_path(&own, err);
        if (r >= 0)
                r = cgroup_make_group(&own, 0, SIZE_MAX, err);
        if (r < 0) {
                free((char *)own.face.path);
                return r;
        }
        own.n_made = h->n_made; /* the shared group counts as made, so this is right for ours */
        *ret_old = *h;
        *h = own;
        return 0;
}

int cgroup_unshare(struct cgroup *cg, struct hierarchy *h, struct err **err)
{
        struct hierarchy old = { .dir = -1, .enter = -1 };
        int moved = 1, r = h->shared ? make_own(h, &old, err) : hierarchy_open(h, err);

        /* Also when a former attempt failed half-way. A process that is forked meanwhile is found in the next round. */
        for (int i = 0; r >= 0 && moved > 0 && i < GATHER_TRIES; i++)
                r = moved = gather_once(cg, h, err);
        if (old.shared) {
                cgroup_shared_remove(&old);
                free((char *)old.face.path);
        }
        return MIN(r, 0);
}
