/* One container's groups after they were made: entering, limits, processes, freezing. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "box/cgroup/internal.h"
#include "box/sys.h"

int hierarchy_open(struct hierarchy *h, struct err **err)
{
        if (h->dir >= 0)
                return 0;
        h->dir = open(h->face.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        return h->dir < 0 ? err_sys(err, errno, "opening cgroup '%s'", h->face.path) : 0;
}

/* ---- which hierarchy does what ---- */

struct hierarchy *cgroup_with(const struct cgroup *cg, enum controller controller)
{
        for (size_t i = 0; i < cg->n; i++)
                if (hierarchy_has(&cg->hierarchy[i], controller))
                        return (struct hierarchy *)&cg->hierarchy[i];
        return NULL;
}

static struct hierarchy *v2_of(const struct cgroup *cg)
{
        for (size_t i = 0; i < cg->n; i++)
                if (cg->hierarchy[i].face.v2)
                        return (struct hierarchy *)&cg->hierarchy[i];
        return NULL;
}

struct hierarchy *cgroup_main(const struct cgroup *cg)
{
        static const enum controller preferred[] = { CONTROLLER_FREEZER, CONTROLLER_PIDS, CONTROLLER_DEVICES,
                CONTROLLER_MEMORY };
        struct hierarchy *h = v2_of(cg);

        for (size_t i = 0; !h && i < ARRAY_SIZE(preferred); i++)
                h = cgroup_with(cg, preferred[i]);
        return h || !cg->n ? h : (struct hierarchy *)&cg->hierarchy[0];
}

struct hierarchy *cgroup_freezer(const struct cgroup *cg)
{
        struct hierarchy *h = v2_of(cg);

        /* Linux 5.2 has cgroup.freeze. */
        if (h && hierarchy_open(h, NULL) >= 0 && cgroup_has(h->dir, "cgroup.freeze"))
                return h;
        return cgroup_with(cg, CONTROLLER_FREEZER);
}

const struct cgroup_hierarchy *cgroup_hierarchy(const struct cgroup *cg, size_t i)
{
        return i < cg->n ? &cg->hierarchy[i].face : NULL;
}

bool cgroup_is_unified(const struct cgroup *cg)
{
        return cg->n == 1 && cg->hierarchy[0].full;
}

bool cgroup_exists(const struct cgroup *cg)
{
        for (size_t i = 0; i < cg->n; i++)
                if (!cg->hierarchy[i].shared && access(cg->hierarchy[i].face.path, F_OK) == 0)
                        return true;
        return false;
}

/* ---- entering ---- */

int cgroup_clone_fd(const struct cgroup *cg)
{
        const struct hierarchy *h = v2_of(cg);

        return h ? h->dir : -1;
}

int cgroup_prepare_enter(struct cgroup *cg, struct err **err)
{
        for (size_t i = 0; i < cg->n; i++) {
                struct hierarchy *h = &cg->hierarchy[i];
                int r = hierarchy_open(h, err);

                if (r < 0)
                        return r;
                if (h->enter < 0)
                        h->enter = openat(h->dir, h->ops->enter_file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
                if (h->enter < 0)
                        return err_sys(err, errno, "opening '%s' of cgroup '%s'", h->ops->enter_file, h->face.path);
        }
        return 0;
}

int cgroup_enter(const struct cgroup *cg, bool cloned_into)
{
        for (size_t i = 0; i < cg->n; i++) {
                const struct hierarchy *h = &cg->hierarchy[i];
                int r;

                if (h->face.v2 && cloned_into)
                        continue;
                if (write(h->enter, "0", 1) < 0)
                        return -errno;
                r = h->shared ? cgroup_shared_enter(h) : 0;
                if (r < 0)
                        return r;
        }
        return 0;
}

static int join_group(int dir, const char *path, pid_t pid, struct err **err)
{
        int r = cgroup_write_number(dir, "cgroup.procs", pid, err);

        return r < 0 ? err_wrap(err, r, "moving process %d into cgroup '%s'", (int)pid, path) : 0;
}

int cgroup_join(struct cgroup *cg, pid_t pid, bool cloned_into, struct err **err)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < cg->n; i++) {
                struct hierarchy *h = &cg->hierarchy[i];

                if (h->face.v2 && cloned_into)
                        continue;
                r = hierarchy_open(h, err);
                if (r >= 0)
                        r = join_group(h->dir, h->face.path, pid, err);
        }
        return r;
}

/* Whether @h is named in "memory,cpu", or there is no such list. */
static bool is_listed(const struct hierarchy *h, const char *list, size_t len)
{
        for (size_t at = 0; at < len;) {
                const size_t n = strcspn(list + at, ",:");
                const enum controller c = controller_find(list + at, n);

                if (c != CONTROLLER_COUNT && hierarchy_has(h, c))
                        return true;
                if (h->face.options && strncmp(h->face.options, "none,", 5) == 0 && strlen(h->face.options) == n + 5 &&
                        memcmp(h->face.options + 5, list + at, n) == 0)
                        return true;
                at += n + 1;
        }
        return len == 0;
}

int cgroup_join_sub(struct cgroup *cg, const char *sub, pid_t pid, struct err **err)
{
        const char *colon = strchr(sub, ':');
        const size_t list_len = colon ? (size_t)(colon - sub) : 0;
        _cleanup_free_ char *path = NULL;
        unsigned joined = 0;
        char text[64];
        int r = cgroup_path_clean(colon ? colon + 1 : sub, &path, err);

        for (size_t i = 0; r >= 0 && i < cg->n; i++) {
                struct hierarchy *h = &cg->hierarchy[i];
                _cleanup_close_ int dir = -1;

                /* Nobody can have made a group below what is not the container's. */
                if (!is_listed(h, sub, list_len) || (h->shared && !list_len))
                        continue;
                r = hierarchy_open(h, err);
                if (r < 0)
                        break;
                dir = openat(h->dir, *path ? path + 1 : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (dir < 0)
                        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno,
                                "exec --cgroup: error adding pid %d to %s%s/cgroup.procs: %s", (int)pid, h->face.path,
                                path, sys_error_text(errno, text, sizeof(text)));
                r = join_group(dir, h->face.path, pid, err);
                joined++;
        }
        if (r >= 0 && joined == 0)
                return err_set(
                        err, ERR_NOT_FOUND, ENOENT, "exec --cgroup: unknown controller '%.*s'", (int)list_len, sub);
        return r;
}

/* ---- limits ---- */

static const char *const limit_names[] = {
#define CGROUP_LIMIT(id, section, key, smallest, largest, zero) section "." key,
#include "box/cgroup/limits.def"
#undef CGROUP_LIMIT
        "cpu.cpus",
        "cpu.mems",
        "blockIO throttling",
        "blockIO.weightDevice",
        "hugepageLimits",
        "network.priorities",
        "rdma",
        "unified",
};

/* What @res asks for, as the bits of hierarchy_ops.apply. */
static u64 asked_for(const struct cgroup_resources *res)
{
        u64 asked = res->set;

        asked |= res->cpus ? BIT(DONE_CPUS) : 0;
        asked |= res->mems ? BIT(DONE_MEMS) : 0;
        asked |= res->n_io_rates ? BIT(DONE_IO_RATES) : 0;
        asked |= res->n_io_weights ? BIT(DONE_IO_WEIGHTS) : 0;
        asked |= res->n_huge ? BIT(DONE_HUGE) : 0;
        asked |= res->n_net_priorities ? BIT(DONE_NET_PRIORITIES) : 0;
        asked |= res->n_rdma ? BIT(DONE_RDMA) : 0;
        asked |= res->n_unified ? BIT(DONE_UNIFIED) : 0;
        /* The spec calls these deprecated, or they say how, not what; and nothing is missing where the OOM killer
         * cannot be off. */
        asked &= ~(BIT(CGROUP_MEMORY_HIERARCHY) | BIT(CGROUP_MEMORY_CHECK) | BIT(CGROUP_MEMORY_KERNEL) |
                   BIT(CGROUP_MEMORY_KERNEL_TCP));
        if (!res->value[CGROUP_MEMORY_NO_OOM_KILLER])
                asked &= ~BIT(CGROUP_MEMORY_NO_OOM_KILLER);
        return asked;
}

/* Whether the kernel lets nobody here decide about devices: outside of the first user namespace or without being root.
 * */
static bool is_unprivileged(void)
{
        _cleanup_free_ char *map = NULL;
        unsigned inside, outside, count;

        return geteuid() != 0 || cgroup_read(AT_FDCWD, "/proc/self/uid_map", &map, NULL) < 0 ||
               sscanf(map, "%u %u %u", &inside, &outside, &count) != 3 || inside != 0 || outside != 0 ||
               count != UINT32_MAX;
}

int cgroup_set_devices(struct cgroup *cg, const struct cgroup_device_rule *rules, size_t n, struct err **err)
{
        struct hierarchy *h = cgroup_with(cg, CONTROLLER_DEVICES);
        struct err *why = NULL;
        int r;

        h = h ? h : v2_of(cg);
        if (!h)
                return 0;
        r = hierarchy_open(h, &why);
        if (r >= 0)
                r = h->ops->devices(h, rules, n, &why);
        if (r >= 0)
                return 0;
        /* A user can open only what his user can: the rules would add nothing that permissions do not do. */
        if ((r == -EPERM || r == -EACCES) && is_unprivileged()) {
                err_free(why);
                return 0;
        }
        if (err)
                *err = why;
        else
                err_free(why);
        return err_wrap(err, r, "setting device rules of cgroup '%s'", h->face.path);
}

int cgroup_apply(struct cgroup *cg, const struct cgroup_resources *res, struct err **err)
{
        u64 done = 0, missing;
        int r = 0;

        if (!res)
                return 0;
        if (cg->unit)
                r = cgroup_systemd_update(cg->unit, cg->user_unit, cgroup_is_unified(cg), res, err);
        for (size_t i = 0; r >= 0 && i < cg->n; i++) {
                struct hierarchy *h = &cg->hierarchy[i];

                if (h->born_shared && (res->cpus || res->mems))
                        r = cgroup_unshare(cg, h, err);
                if (r >= 0)
                        r = hierarchy_open(h, err);
                if (r >= 0)
                        r = h->ops->apply(h, res, &done, err);
                if (r < 0)
                        return err_wrap(err, r, "setting limits of cgroup '%s'", h->face.path);
        }
        if (r >= 0 && res->n_devices)
                r = cgroup_set_devices(cg, res->device, res->n_devices, err);
        missing = asked_for(res) & ~done;
        if (r < 0 || !missing)
                return r;
        return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                "this host has no cgroup controller, or we may not use it, for %s",
                limit_names[__builtin_ctzll(missing)]);
}

/* ---- freezing ---- */

int cgroup_freeze(struct cgroup *cg, bool freeze, struct err **err)
{
        struct hierarchy *h = cgroup_freezer(cg);
        int r;

        if (!h)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "the container has no cgroup that can be frozen");
        r = hierarchy_open(h, err);
        if (r >= 0)
                r = h->ops->freeze(h, freeze, err);
        return r < 0 ? err_wrap(err, r, "%s cgroup '%s'", freeze ? "freezing" : "thawing", h->face.path) : 0;
}

int cgroup_is_frozen(struct cgroup *cg, bool *ret_frozen, struct err **err)
{
        struct hierarchy *h = cgroup_freezer(cg);
        int r = h ? hierarchy_open(h, err) : 0;

        if (!h || r < 0) {
                *ret_frozen = false;
                return r;
        }
        return h->ops->is_frozen(h, ret_frozen, err);
}

/* ---- accounting ---- */

int cgroup_stats(struct cgroup *cg, json_t **ret, struct err **err)
{
        json_t *stats = json_object();
        int r = stats ? 0 : err_sys(err, ENOMEM, "reading statistics");

        for (size_t i = 0; r >= 0 && i < cg->n; i++) {
                struct hierarchy *h = &cg->hierarchy[i];

                r = hierarchy_open(h, err);
                if (r >= 0)
                        r = h->ops->stats(h, stats, err);
                if (r < 0)
                        err_wrap(err, r, "reading statistics of cgroup '%s'", h->face.path);
        }
        if (r < 0)
                json_decref(stats);
        else
                *ret = stats;
        return r;
}

static int memory_hierarchy(const struct cgroup *cg, struct hierarchy **ret, struct err **err)
{
        *ret = cgroup_with(cg, CONTROLLER_MEMORY);
        if (!*ret)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "the container has no memory cgroup");
        return hierarchy_open(*ret, err);
}

int cgroup_oom_watch(struct cgroup *cg, int *ret_fd, struct err **err)
{
        struct hierarchy *h;
        int r = memory_hierarchy(cg, &h, err);

        return r < 0 ? r : h->ops->oom_watch(h, ret_fd, err);
}

int cgroup_oom_read(struct cgroup *cg, int fd, u64 *ret_count, struct err **err)
{
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        struct hierarchy *h;
        char scratch[4096];
        int r = memory_hierarchy(cg, &h, err);

        /* An eventfd or an inotify descriptor: what it holds only says "look". */
        while (r >= 0 && poll(&ready, 1, 0) > 0 && ready.revents & POLLIN && read(fd, scratch, sizeof(scratch)) > 0)
                ;
        return r < 0 ? r : h->ops->oom_count(h, ret_count, err);
}

/* ---- features ---- */

json_t *cgroup_features(void)
{
        struct cgroup *layout = NULL;
        bool v1 = false, v2 = false, rdma = false;

        if (cgroup_layout(&layout, NULL) >= 0)
                for (size_t i = 0; i < layout->n; i++) {
                        v1 |= !layout->hierarchy[i].face.v2;
                        v2 |= layout->hierarchy[i].face.v2;
                }
        rdma = v1 || v2;
        cgroup_free(layout);
        /* What we can do, not what this host happens to mount: the spec's "recognised by the runtime". */
        return json_pack("{s:b, s:b, s:b, s:b, s:b}", "v1", 1, "v2", 1, "systemd", 1, "systemdUser", 1, "rdma", rdma);
}
