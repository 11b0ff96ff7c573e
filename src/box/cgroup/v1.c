/* Version 1: each controller has files of its own and takes values as the OCI spec has them, for the spec was made for
 * it. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "box/cgroup/internal.h"
#include "box/cgroup/stats.h"

/* ---- limits ---- */

/* One order to the kernel. */
struct order {
        const char *file;
        char value[64];
        u64 done; /* bit of the limit */
};

struct orders {
        struct order item[24];
        size_t n;
};

static void add_order(struct orders *orders, const char *file, u64 done, const char *fmt, ...) _printf_(4, 5);
static void add_order(struct orders *orders, const char *file, u64 done, const char *fmt, ...)
{
        struct order *order = &orders->item[orders->n++];
        va_list ap;

        order->file = file;
        order->done = done;
        va_start(ap, fmt);
        vsnprintf(order->value, sizeof(order->value), fmt, ap);
        va_end(ap);
}

/* Files whose values are the spec's numbers. A burst must not exceed the quota, a realtime runtime not its period,
 * memory+swap not be below memory: which of two must be written first depends on what is set now, so orders that are
 * refused are tried again after others were taken. */
static const struct plain {
        enum controller controller;
        enum cgroup_limit limit;
        const char *file;
} plain_files[] = {
        { CONTROLLER_CPU, CGROUP_CPU_SHARES, "cpu.shares" },
        { CONTROLLER_CPU, CGROUP_CPU_PERIOD, "cpu.cfs_period_us" },
        { CONTROLLER_CPU, CGROUP_CPU_QUOTA, "cpu.cfs_quota_us" },
        { CONTROLLER_CPU, CGROUP_CPU_BURST, "cpu.cfs_burst_us" },
        { CONTROLLER_CPU, CGROUP_CPU_RT_PERIOD, "cpu.rt_period_us" },
        { CONTROLLER_CPU, CGROUP_CPU_RT_RUNTIME, "cpu.rt_runtime_us" },
        { CONTROLLER_CPU, CGROUP_CPU_IDLE, "cpu.idle" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_HIERARCHY, "memory.use_hierarchy" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_LIMIT, "memory.limit_in_bytes" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_SWAP, "memory.memsw.limit_in_bytes" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_RESERVATION, "memory.soft_limit_in_bytes" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_KERNEL, "memory.kmem.limit_in_bytes" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_KERNEL_TCP, "memory.kmem.tcp.limit_in_bytes" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_SWAPPINESS, "memory.swappiness" },
        { CONTROLLER_MEMORY, CGROUP_MEMORY_NO_OOM_KILLER, "memory.oom_control" },
        { CONTROLLER_NET_CLS, CGROUP_NET_CLASS, "net_cls.classid" },
};

/* Kernels that no longer account these separately refuse or lack the files; the spec calls the limits "not
 * recommended". */
static bool may_be_missing(u64 done)
{
        return done & (BIT(CGROUP_MEMORY_KERNEL) | BIT(CGROUP_MEMORY_KERNEL_TCP) | BIT(CGROUP_MEMORY_HIERARCHY));
}

static bool may_pass_later(int r)
{
        return r == -EINVAL || r == -EBUSY;
}

static int give_orders(const struct hierarchy *h, struct orders *orders, u64 *done, struct err **err)
{
        bool progress = true;

        while (orders->n && progress) {
                size_t left = 0;

                progress = false;
                for (size_t i = 0; i < orders->n; i++) {
                        const struct order order = orders->item[i];
                        int r = cgroup_write(h->dir, order.file, order.value, NULL);

                        if (r < 0 && may_pass_later(r)) {
                                orders->item[left++] = order;
                                continue;
                        }
                        if (r < 0 && !may_be_missing(order.done))
                                return err_sys(err, -r, "writing '%s' to '%s'", order.value, order.file);
                        *done |= order.done;
                        progress = true;
                }
                orders->n = left;
        }
        if (orders->n)
                return cgroup_write(h->dir, orders->item[0].file, orders->item[0].value, err);
        return 0;
}

/* Swap alone unlimited goes with memory unlimited: memory+swap could not be below it (runc does the same). */
static s64 swap_of(const struct cgroup_resources *res, bool *ret_given)
{
        *ret_given = cgroup_resources_has(res, CGROUP_MEMORY_SWAP);
        if (!*ret_given && cgroup_resources_has(res, CGROUP_MEMORY_LIMIT) && res->value[CGROUP_MEMORY_LIMIT] == -1) {
                *ret_given = true;
                return -1;
        }
        return res->value[CGROUP_MEMORY_SWAP];
}

static int check_usage(const struct hierarchy *h, const struct cgroup_resources *res, struct err **err)
{
        const s64 limit = res->value[CGROUP_MEMORY_LIMIT];
        u64 usage;
        int r;

        if (!res->value[CGROUP_MEMORY_CHECK] || !cgroup_resources_has(res, CGROUP_MEMORY_LIMIT) || limit < 0)
                return 0;
        r = cgroup_read_number(h->dir, "memory.usage_in_bytes", &usage, err);
        if (r >= 0 && usage > (u64)limit)
                return err_set(err, ERR_BUSY, EBUSY, "unable to set memory limit to %lld (current usage: %llu)",
                        (long long)limit, (unsigned long long)usage);
        return r;
}

static int apply_plain(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        struct orders orders = { .n = 0 };
        int r = 0;

        for (size_t i = 0; i < ARRAY_SIZE(plain_files); i++) {
                const struct plain *plain = &plain_files[i];
                bool given = cgroup_resources_has(res, plain->limit);
                s64 value = res->value[plain->limit];

                if (plain->limit == CGROUP_MEMORY_SWAP)
                        value = swap_of(res, &given);
                if (!given || !hierarchy_has(h, plain->controller))
                        continue;
                /* Unlimited swap on a kernel that accounts none is what there is already. Memory and swap together
                 * cannot be 0: that means no swap, which v1 cannot say without a limit of memory, or nothing at all
                 * (runc). */
                if (plain->limit == CGROUP_MEMORY_SWAP &&
                        (value == 0 || (value == -1 && !cgroup_has(h->dir, plain->file)))) {
                        *done |= BIT(plain->limit);
                        continue;
                }
                add_order(&orders, plain->file, BIT(plain->limit), "%lld", (long long)value);
        }
        if (hierarchy_has(h, CONTROLLER_MEMORY))
                r = check_usage(h, res, err);
        return r < 0 ? r : give_orders(h, &orders, done, err);
}

static int apply_cpuset(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        int r = 0;

        if (res->cpus)
                r = cgroup_write(h->dir, "cpuset.cpus", res->cpus, err);
        if (r >= 0 && res->mems)
                r = cgroup_write(h->dir, "cpuset.mems", res->mems, err);
        *done |= BIT(DONE_CPUS) | BIT(DONE_MEMS);
        return r;
}

static int apply_pids(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        *done |= BIT(CGROUP_PIDS);
        if (!cgroup_resources_has(res, CGROUP_PIDS))
                return 0;
        return res->value[CGROUP_PIDS] < 0 ? cgroup_write(h->dir, "pids.max", "max", err)
                                           : cgroup_write_number(h->dir, "pids.max", res->value[CGROUP_PIDS], err);
}

/* The weight of CFQ (up to Linux 4.20) or of BFQ. */
static const char *weight_file(const struct hierarchy *h, const char *cfq, const char *bfq)
{
        return cgroup_has(h->dir, cfq) || !cgroup_has(h->dir, bfq) ? cfq : bfq;
}

static int apply_blkio(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        static const char *const rate_files[] = {
                [CGROUP_IO_READ_BPS] = "blkio.throttle.read_bps_device",
                [CGROUP_IO_WRITE_BPS] = "blkio.throttle.write_bps_device",
                [CGROUP_IO_READ_IOPS] = "blkio.throttle.read_iops_device",
                [CGROUP_IO_WRITE_IOPS] = "blkio.throttle.write_iops_device",
        };
        int r = 0;

        *done |= BIT(CGROUP_IO_WEIGHT) | BIT(CGROUP_IO_LEAF_WEIGHT) | BIT(DONE_IO_RATES) | BIT(DONE_IO_WEIGHTS);
        if (cgroup_resources_has(res, CGROUP_IO_WEIGHT))
                r = cgroup_write_number(
                        h->dir, weight_file(h, "blkio.weight", "blkio.bfq.weight"), res->value[CGROUP_IO_WEIGHT], err);
        if (r >= 0 && cgroup_resources_has(res, CGROUP_IO_LEAF_WEIGHT))
                r = cgroup_write_number(h->dir, "blkio.leaf_weight", res->value[CGROUP_IO_LEAF_WEIGHT], err);
        for (size_t i = 0; r >= 0 && i < res->n_io_weights; i++) {
                const struct cgroup_io_weight *w = &res->io_weight[i];

                if (w->weight)
                        r = cgroup_write_device(h->dir,
                                weight_file(h, "blkio.weight_device", "blkio.bfq.weight_device"), w->major, w->minor,
                                w->weight, err);
                if (r >= 0 && w->leaf_weight)
                        r = cgroup_write_device(
                                h->dir, "blkio.leaf_weight_device", w->major, w->minor, w->leaf_weight, err);
        }
        for (size_t i = 0; r >= 0 && i < res->n_io_rates; i++) {
                const struct cgroup_io_rate *rate = &res->io_rate[i];

                r = cgroup_write_device(h->dir, rate_files[rate->limit], rate->major, rate->minor, rate->rate, err);
        }
        return r;
}

static int apply_hugetlb(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        return cgroup_apply_hugetlb(h, res, "limit_in_bytes", done, err);
}

static int apply_net_prio(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        int r = 0;

        *done |= BIT(DONE_NET_PRIORITIES);
        for (size_t i = 0; r >= 0 && i < res->n_net_priorities; i++) {
                char text[160];

                snprintf(text, sizeof(text), "%s %u", res->net_priority[i].name, res->net_priority[i].priority);
                r = cgroup_write(h->dir, "net_prio.ifpriomap", text, err);
        }
        return r;
}

static int write_rule(const struct hierarchy *h, const struct cgroup_device_rule *rule, struct err **err)
{
        char text[80], major[24] = "*", minor[24] = "*";

        if (rule->major != CGROUP_DEVICE_ANY)
                snprintf(major, sizeof(major), "%lld", (long long)rule->major);
        if (rule->minor != CGROUP_DEVICE_ANY)
                snprintf(minor, sizeof(minor), "%lld", (long long)rule->minor);
        snprintf(text, sizeof(text), "%c %s:%s %s%s%s", (char)rule->type, major, minor,
                rule->access & CGROUP_DEVICE_READ ? "r" : "", rule->access & CGROUP_DEVICE_WRITE ? "w" : "",
                rule->access & CGROUP_DEVICE_MKNOD ? "m" : "");
        /* "a" alone is the order to change the default; with numbers it would be refused. */
        return cgroup_write(h->dir, rule->allow ? "devices.allow" : "devices.deny",
                rule->type == CGROUP_DEVICE_ALL ? "a" : text, err);
}

/* Takes back everything that is allowed. Once a group has others below it the kernel no longer takes the one order
 * that says so: then what is on its list is denied line by line, which works as long as it is a list and not
 * "everything". */
static int deny_all(const struct hierarchy *h, struct err **err)
{
        _cleanup_free_ char *list = NULL;
        int r = cgroup_write(h->dir, "devices.deny", "a", NULL);

        if (r != -EINVAL)
                return r < 0 ? err_sys(err, -r, "writing 'a' to 'devices.deny'") : 0;
        r = cgroup_read(h->dir, "devices.list", &list, err);
        if (r >= 0 && list[0] == 'a')
                return err_set(err, ERR_BUSY, EBUSY,
                        "every device is allowed, and that cannot change while there are groups below");
        for (char *pos = list, *line; r >= 0 && (line = cgroup_next_line(&pos));)
                r = cgroup_write(h->dir, "devices.deny", line, err);
        return r;
}

/* The kernel's list starts as the parent's and each order changes it. A list of rules replaces it as a whole, and what
 * no rule allows is denied, so it starts from nothing. While it is rebuilt the container may be running (update): it
 * then lacks devices for a moment, as under the other runtimes. */
static int v1_devices(const struct hierarchy *h, const struct cgroup_device_rule *rules, size_t n, struct err **err)
{
        int r = deny_all(h, err);

        for (size_t i = 0; r >= 0 && i < n; i++)
                r = write_rule(h, &rules[i], err);
        for (size_t i = 0; r >= 0 && i < cgroup_n_default_devices; i++)
                r = write_rule(h, &cgroup_default_devices[i], err);
        return r;
}

static int v1_apply(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        static const struct {
                enum controller controller;
                int (*apply)(
                        const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err);
        } others[] = {
                { CONTROLLER_CPUSET, apply_cpuset },
                { CONTROLLER_PIDS, apply_pids },
                { CONTROLLER_BLKIO, apply_blkio },
                { CONTROLLER_HUGETLB, apply_hugetlb },
                { CONTROLLER_NET_PRIO, apply_net_prio },
                { CONTROLLER_RDMA, cgroup_apply_rdma },
        };
        int r = apply_plain(h, res, done, err);

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(others); i++)
                if (hierarchy_has(h, others[i].controller))
                        r = others[i].apply(h, res, done, err);
        return r;
}

/* ---- freezing ---- */

#define FREEZE_TIMEOUT_NS (10 * NSEC_PER_SEC)

static int v1_state(const struct hierarchy *h, char **ret, struct err **err)
{
        return cgroup_read(h->dir, "freezer.state", ret, err);
}

/* A process that forks while the group is being frozen can keep it FREEZING; asking again catches the child. */
static int v1_freeze(const struct hierarchy *h, bool freeze, struct err **err)
{
        const char *wanted = freeze ? "FROZEN" : "THAWED";
        const u64 deadline = clock_now_ns() + FREEZE_TIMEOUT_NS;
        struct timespec pause = { .tv_nsec = 20000 };

        for (;;) {
                _cleanup_free_ char *state = NULL;
                int r = cgroup_write(h->dir, "freezer.state", wanted, err);

                if (r >= 0)
                        r = v1_state(h, &state, err);
                if (r < 0)
                        return r;
                if (strcmp(state, wanted) == 0)
                        return 0;
                if (clock_now_ns() >= deadline)
                        break;
                nanosleep(&pause, NULL);
                pause.tv_nsec = MIN(2 * pause.tv_nsec, 10000000L);
        }
        (void)cgroup_write(h->dir, "freezer.state", "THAWED", NULL);
        return err_set(err, ERR_BUSY, ETIMEDOUT, "its processes do not become %s", freeze ? "frozen" : "thawed");
}

static int v1_is_frozen(const struct hierarchy *h, bool *ret, struct err **err)
{
        _cleanup_free_ char *state = NULL;
        int r = v1_state(h, &state, err);

        if (r >= 0)
                *ret = strcmp(state, "THAWED") != 0;
        return r;
}

/* ---- out of memory ---- */

/* cgroup-v1/memory.rst, "OOM Control": an eventfd is told by way of cgroup.event_control. */
static int v1_oom_watch(const struct hierarchy *h, int *ret_fd, struct err **err)
{
        _cleanup_close_ int control = openat(h->dir, "memory.oom_control", O_RDONLY | O_CLOEXEC),
                            fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        char text[40];
        int r;

        if (control < 0 || fd < 0)
                return err_sys(err, errno, "watching '%s' for lack of memory", h->face.path);
        snprintf(text, sizeof(text), "%d %d", fd, control);
        r = cgroup_write(h->dir, "cgroup.event_control", text, err);
        if (r >= 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

static int v1_oom_count(const struct hierarchy *h, u64 *ret, struct err **err)
{
        return cgroup_read_keyed(h->dir, "memory.oom_control", "oom_kill", ret, err);
}

const struct hierarchy_ops hierarchy_v1_ops = {
        .apply = v1_apply,
        .devices = v1_devices,
        .freeze = v1_freeze,
        .is_frozen = v1_is_frozen,
        .stats = cgroup_v1_stats,
        .oom_watch = v1_oom_watch,
        .oom_count = v1_oom_count,
        .enter_file = "tasks",
};
