/* Version 2: one tree, other files, other units than the OCI spec's, which was made for version 1. Conversions are
 * those that runc and crun agreed on. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/clock.h"
#include "box/cgroup/internal.h"
#include "box/cgroup/stats.h"

/* ---- conversions ---- */

/* Shares 2..262144 with default 1024 to weight 1..10000 with default 100: 10^((l^2 + 125 l) / 612 - 7 / 34), l =
 * log2(shares), which meets all three (runc 1.4 and crun do the same). */
s64 cgroup_weight_of_shares(s64 shares)
{
        double l;

        if (shares <= 2)
                return 1;
        if (shares >= 262144)
                return 10000;
        l = log2((double)shares);
        return (s64)ceil(pow(10, (l * l + 125 * l) / 612.0 - 7.0 / 34.0));
}

/* 10..1000 to 1..10000. */
static s64 io_weight_of(s64 weight)
{
        return 1 + (weight - 10) * 9999 / 990;
}

static int write_or_max(const struct hierarchy *h, const char *file, s64 value, struct err **err)
{
        return value < 0 ? cgroup_write(h->dir, file, "max", err) : cgroup_write_number(h->dir, file, value, err);
}

/* ---- cpu ---- */

/* "cpu.max" has quota and period in one file; what is not given stays. */
static int set_cpu_max(const struct hierarchy *h, const struct cgroup_resources *res, struct err **err)
{
        _cleanup_free_ char *now = NULL;
        char quota[32] = "max", text[64];
        unsigned long long period = 100000;
        int r;

        if (!cgroup_resources_has(res, CGROUP_CPU_QUOTA) && !cgroup_resources_has(res, CGROUP_CPU_PERIOD))
                return 0;
        r = cgroup_read(h->dir, "cpu.max", &now, err);
        if (r < 0)
                return r;
        sscanf(now, "%31s %llu", quota, &period);
        if (cgroup_resources_has(res, CGROUP_CPU_QUOTA))
                snprintf(quota, sizeof(quota), "%lld", (long long)res->value[CGROUP_CPU_QUOTA]);
        if (quota[0] == '-')
                strcpy(quota, "max");
        if (cgroup_resources_has(res, CGROUP_CPU_PERIOD))
                period = (unsigned long long)res->value[CGROUP_CPU_PERIOD];
        snprintf(text, sizeof(text), "%s %llu", quota, period);
        return cgroup_write(h->dir, "cpu.max", text, err);
}

static int apply_cpu(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        const bool burst = cgroup_resources_has(res, CGROUP_CPU_BURST);
        bool burst_pending = burst;
        int r = 0;

        *done |= BIT(CGROUP_CPU_SHARES) | BIT(CGROUP_CPU_QUOTA) | BIT(CGROUP_CPU_PERIOD) | BIT(CGROUP_CPU_BURST) |
                 BIT(CGROUP_CPU_IDLE);
        /* An idle group has no weight to set: the kernel refuses. */
        if (cgroup_resources_has(res, CGROUP_CPU_IDLE))
                r = cgroup_write_number(h->dir, "cpu.idle", res->value[CGROUP_CPU_IDLE], err);
        if (r >= 0 && cgroup_resources_has(res, CGROUP_CPU_SHARES) &&
                !(cgroup_resources_has(res, CGROUP_CPU_IDLE) && res->value[CGROUP_CPU_IDLE]))
                r = cgroup_write_number(
                        h->dir, "cpu.weight", cgroup_weight_of_shares(res->value[CGROUP_CPU_SHARES]), err);
        /* The burst may not exceed the quota: whether it goes first depends on which way they move. */
        if (r >= 0 && burst)
                burst_pending = cgroup_write_number(h->dir, "cpu.max.burst", res->value[CGROUP_CPU_BURST], NULL) < 0;
        if (r >= 0)
                r = set_cpu_max(h, res, err);
        if (r >= 0 && burst_pending)
                r = cgroup_write_number(h->dir, "cpu.max.burst", res->value[CGROUP_CPU_BURST], err);
        return r;
}

static int apply_cpuset(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        int r = 0;

        *done |= BIT(DONE_CPUS) | BIT(DONE_MEMS);
        if (res->cpus)
                r = cgroup_write(h->dir, "cpuset.cpus", res->cpus, err);
        if (r >= 0 && res->mems)
                r = cgroup_write(h->dir, "cpuset.mems", res->mems, err);
        return r;
}

/* ---- memory ---- */

/* The spec's swap is memory and swap together; v2's is swap alone. */
static int swap_alone(const struct hierarchy *h, const struct cgroup_resources *res, s64 *ret, struct err **err)
{
        const s64 swap = res->value[CGROUP_MEMORY_SWAP];
        u64 memory = (u64)res->value[CGROUP_MEMORY_LIMIT];
        int r = 0;

        if (swap == -1 || swap == 0) { /* all of it, none of it */
                *ret = swap;
                return 0;
        }
        if (!cgroup_resources_has(res, CGROUP_MEMORY_LIMIT))
                r = cgroup_read_number(h->dir, "memory.max", &memory, err);
        if (r < 0)
                return r;
        if (memory == UINT64_MAX) {
                *ret = swap;
                return 0;
        }
        if ((u64)swap < memory)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "memory+swap limit (%lld) is below the memory limit (%llu)",
                        (long long)swap, (unsigned long long)memory);
        *ret = swap - (s64)memory;
        return 0;
}

static int set_swap(const struct hierarchy *h, const struct cgroup_resources *res, struct err **err)
{
        s64 swap = -1;
        int r = 0;

        if (cgroup_resources_has(res, CGROUP_MEMORY_SWAP))
                r = swap_alone(h, res, &swap, err);
        else if (!cgroup_resources_has(res, CGROUP_MEMORY_LIMIT) || res->value[CGROUP_MEMORY_LIMIT] != -1)
                return 0;
        if (r < 0 || ((swap == -1 || swap == 0) && !cgroup_has(h->dir, "memory.swap.max")))
                return r; /* no swap accounting: nothing to limit */
        return write_or_max(h, "memory.swap.max", swap, err);
}

static int check_usage(const struct hierarchy *h, const struct cgroup_resources *res, struct err **err)
{
        const s64 limit = res->value[CGROUP_MEMORY_LIMIT];
        u64 usage;
        int r;

        if (!res->value[CGROUP_MEMORY_CHECK] || !cgroup_resources_has(res, CGROUP_MEMORY_LIMIT) || limit < 0)
                return 0;
        r = cgroup_read_number(h->dir, "memory.current", &usage, err);
        if (r >= 0 && usage > (u64)limit)
                return err_set(err, ERR_BUSY, EBUSY, "rejecting memory limit %lld < usage %llu", (long long)limit,
                        (unsigned long long)usage);
        return r;
}

static int apply_memory(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        int r = check_usage(h, res, err);

        *done |= BIT(CGROUP_MEMORY_LIMIT) | BIT(CGROUP_MEMORY_RESERVATION) | BIT(CGROUP_MEMORY_SWAP);
        if (r >= 0)
                r = set_swap(h, res, err);
        if (r >= 0 && cgroup_resources_has(res, CGROUP_MEMORY_LIMIT))
                r = write_or_max(h, "memory.max", res->value[CGROUP_MEMORY_LIMIT], err);
        if (r >= 0 && cgroup_resources_has(res, CGROUP_MEMORY_RESERVATION))
                r = write_or_max(h, "memory.low", res->value[CGROUP_MEMORY_RESERVATION], err);
        return r;
}

/* ---- the other controllers ---- */

static int apply_pids(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        *done |= BIT(CGROUP_PIDS);
        return cgroup_resources_has(res, CGROUP_PIDS) ? write_or_max(h, "pids.max", res->value[CGROUP_PIDS], err) : 0;
}

static int apply_io(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        static const char *const keys[] = {
                [CGROUP_IO_READ_BPS] = "rbps",
                [CGROUP_IO_WRITE_BPS] = "wbps",
                [CGROUP_IO_READ_IOPS] = "riops",
                [CGROUP_IO_WRITE_IOPS] = "wiops",
        };
        const bool bfq = cgroup_has(h->dir, "io.bfq.weight");
        char text[96];
        int r = 0;

        *done |= BIT(CGROUP_IO_WEIGHT) | BIT(DONE_IO_RATES) | BIT(DONE_IO_WEIGHTS);
        if (cgroup_resources_has(res, CGROUP_IO_WEIGHT)) {
                const s64 weight = res->value[CGROUP_IO_WEIGHT];

                r = bfq ? cgroup_write_number(h->dir, "io.bfq.weight", weight, err)
                        : cgroup_write_number(h->dir, "io.weight", io_weight_of(weight), err);
        }
        for (size_t i = 0; r >= 0 && i < res->n_io_weights; i++) {
                const struct cgroup_io_weight *w = &res->io_weight[i];

                if (w->weight)
                        r = cgroup_write_device(h->dir, bfq ? "io.bfq.weight" : "io.weight", w->major, w->minor,
                                bfq ? w->weight : (u64)io_weight_of(w->weight), err);
        }
        for (size_t i = 0; r >= 0 && i < res->n_io_rates; i++) {
                const struct cgroup_io_rate *rate = &res->io_rate[i];

                snprintf(text, sizeof(text), "%u:%u %s=%llu", rate->major, rate->minor, keys[rate->limit],
                        (unsigned long long)rate->rate);
                r = cgroup_write(h->dir, "io.max", text, err);
        }
        return r;
}

int cgroup_apply_hugetlb(
        const struct hierarchy *h, const struct cgroup_resources *res, const char *limit, u64 *done, struct err **err)
{
        int r = 0;

        *done |= BIT(DONE_HUGE);
        for (size_t i = 0; r >= 0 && i < res->n_huge; i++) {
                char file[160], text[24];

                snprintf(text, sizeof(text), "%llu", (unsigned long long)res->huge[i].limit);
                snprintf(file, sizeof(file), "hugetlb.%s.%s", res->huge[i].page_size, limit);
                r = cgroup_write(h->dir, file, text, err);
                /* Reserved but unused pages, Linux 5.7. */
                snprintf(file, sizeof(file), "hugetlb.%s.rsvd.%s", res->huge[i].page_size, limit);
                if (r >= 0 && cgroup_has(h->dir, file))
                        r = cgroup_write(h->dir, file, text, err);
        }
        return r;
}

static int apply_hugetlb(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        return cgroup_apply_hugetlb(h, res, "max", done, err);
}

int cgroup_apply_rdma(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        int r = 0;

        *done |= BIT(DONE_RDMA);
        for (size_t i = 0; r >= 0 && i < res->n_rdma; i++) {
                const struct cgroup_rdma_limit *limit = &res->rdma[i];
                char text[200];
                int n = snprintf(text, sizeof(text), "%s", limit->device);

                if (limit->handles >= 0)
                        n += snprintf(
                                text + n, sizeof(text) - (size_t)n, " hca_handle=%lld", (long long)limit->handles);
                if (limit->objects >= 0)
                        snprintf(text + n, sizeof(text) - (size_t)n, " hca_object=%lld", (long long)limit->objects);
                r = cgroup_write(h->dir, "rdma.max", text, err);
        }
        return r;
}

static int v2_devices(const struct hierarchy *h, const struct cgroup_device_rule *rules, size_t n, struct err **err)
{
        return cgroup_devices_bpf(h->dir, rules, n, err);
}

/* Files named by the user. Beside v1 hierarchies only those of controllers that v2 has. */
static int apply_unified(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        for (size_t i = 0; i < res->n_unified; i++) {
                const struct cgroup_unified *u = &res->unified[i];
                const size_t len = strcspn(u->file, ".");
                const enum controller c = controller_find(u->file, len);
                int r;

                if (u->file[len] == 0)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL,
                                "unified: the specified key has not the form CONTROLLER.VALUE `%s`", u->file);
                if (c == CONTROLLER_COUNT && !cgroup_has(h->dir, u->file))
                        return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                                "unified resource '%s' can't be set: the requested cgroup controller `%.*s` is not available",
                                u->file, (int)len, u->file);
                if (c != CONTROLLER_COUNT && !hierarchy_has(h, c))
                        return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                                "%sunified resource '%s' can't be set: controller \"%.*s\" not available",
                                h->full ? "" : "invalid configuration: ", u->file, (int)len, u->file);
                r = cgroup_write(h->dir, u->file, u->value, err);
                if (r < 0)
                        return err_wrap(err, r, "unified resource '%s'", u->file);
        }
        *done |= BIT(DONE_UNIFIED);
        return 0;
}

static int v2_apply(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err)
{
        static const struct {
                enum controller controller;
                int (*apply)(
                        const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err);
        } parts[] = {
                { CONTROLLER_CPU, apply_cpu },
                { CONTROLLER_CPUSET, apply_cpuset },
                { CONTROLLER_MEMORY, apply_memory },
                { CONTROLLER_PIDS, apply_pids },
                { CONTROLLER_IO, apply_io },
                { CONTROLLER_HUGETLB, apply_hugetlb },
                { CONTROLLER_RDMA, cgroup_apply_rdma },
        };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(parts); i++)
                if (hierarchy_has(h, parts[i].controller))
                        r = parts[i].apply(h, res, done, err);
        /* The user's own words come last, over what was converted. */
        return r < 0 ? r : apply_unified(h, res, done, err);
}

/* ---- freezing ---- */

#define FREEZE_TIMEOUT_MS 10000

static int v2_is_frozen(const struct hierarchy *h, bool *ret, struct err **err)
{
        u64 value = 0;
        int r = cgroup_read_number(h->dir, "cgroup.freeze", &value, err);

        if (r >= 0)
                *ret = value != 0;
        return r;
}

/* cgroup.events says "frozen 1" when the last process has stopped, and wakes who polls it. */
static int v2_freeze(const struct hierarchy *h, bool freeze, struct err **err)
{
        const u64 deadline = clock_now_ns() + FREEZE_TIMEOUT_MS * 1000000ULL;
        _cleanup_close_ int events = openat(h->dir, "cgroup.events", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        int r = events < 0 ? err_sys(err, errno, "opening 'cgroup.events'")
                           : cgroup_write(h->dir, "cgroup.freeze", freeze ? "1" : "0", err);

        while (r >= 0) {
                struct pollfd ready = { .fd = events, .events = POLLPRI };
                char text[256] = "";
                const ssize_t n = pread(events, text, sizeof(text) - 1, 0);
                const u64 now = clock_now_ns();

                if (n < 0)
                        return err_sys(err, errno, "reading 'cgroup.events'");
                if (strstr(text, freeze ? "frozen 1" : "frozen 0"))
                        return 0;
                if (now >= deadline) {
                        (void)cgroup_write(h->dir, "cgroup.freeze", "0", NULL);
                        return err_set(err, ERR_BUSY, ETIMEDOUT, "its processes do not become %s",
                                freeze ? "frozen" : "thawed");
                }
                (void)poll(&ready, 1, (int)((deadline - now) / 1000000) + 1);
        }
        return r;
}

/* ---- out of memory ---- */

static int v2_oom_watch(const struct hierarchy *h, int *ret_fd, struct err **err)
{
        _cleanup_close_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        _cleanup_free_ char *path = NULL;

        if (asprintf(&path, "%s/memory.events", h->face.path) < 0)
                return err_sys(err, ENOMEM, "watching for lack of memory");
        if (fd < 0 || inotify_add_watch(fd, path, IN_MODIFY) < 0)
                return err_sys(err, errno, "watching '%s' for lack of memory", h->face.path);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int v2_oom_count(const struct hierarchy *h, u64 *ret, struct err **err)
{
        return cgroup_read_keyed(h->dir, "memory.events", "oom_kill", ret, err);
}

const struct hierarchy_ops hierarchy_v2_ops = {
        .apply = v2_apply,
        .devices = v2_devices,
        .freeze = v2_freeze,
        .is_frozen = v2_is_frozen,
        .stats = cgroup_v2_stats,
        .oom_watch = v2_oom_watch,
        .oom_count = v2_oom_count,
        .enter_file = "cgroup.procs",
};
