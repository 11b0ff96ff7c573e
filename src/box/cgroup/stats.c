/* The object's shape (names, nesting, units) is that of runc's types/events.go, which Docker, cAdvisor and the like
 * read. A file that this kernel does not have is a member that is not there. */
#include "box/cgroup/stats.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NSEC_PER_USEC 1000ULL

/* ---- reading ---- */

/* 0 when there is no such file or number: statistics never fail for what a kernel lacks. */
static u64 number(int dir, const char *file)
{
        u64 value = 0;

        (void)cgroup_read_number(dir, file, &value, NULL);
        return value;
}

static char *text_of(int dir, const char *file)
{
        char *text = NULL;

        (void)cgroup_read(dir, file, &text, NULL);
        return text;
}

static u64 keyed_in(const char *text, const char *key)
{
        const size_t len = strlen(key);

        for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
                if (strncmp(line, key, len) == 0 && line[len] == ' ')
                        return strtoull(line + len + 1, NULL, 10);
        return 0;
}

int cgroup_read_keyed(int dir, const char *file, const char *key, u64 *ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        int r = cgroup_read(dir, file, &text, err);

        if (r >= 0)
                *ret = keyed_in(text, key);
        return r;
}

/* ---- writing ---- */

/* JSON integers are signed here; "no limit" is the largest one. */
static json_t *json_u64(u64 value)
{
        return json_integer((json_int_t)MIN(value, (u64)INT64_MAX));
}

/* The member @key of @object, an object made if it is not there. */
static json_t *sub(json_t *object, const char *key)
{
        json_t *member = json_object_get(object, key);

        if (!member) {
                member = json_object();
                json_object_set_new(object, key, member);
        }
        return member;
}

static void put(json_t *object, const char *key, u64 value)
{
        json_object_set_new(object, key, json_u64(value));
}

/* Every "KEY NUMBER" line. */
static json_t *raw_of(const char *text)
{
        json_t *raw = json_object();
        _cleanup_free_ char *copy = text ? strdup(text) : NULL;
        char *pos = copy, *line;

        while ((line = cgroup_next_line(&pos))) {
                char *space = strchr(line, ' ');

                if (!space)
                        continue;
                *space = 0;
                json_object_set_new(raw, line, json_u64(strtoull(space + 1, NULL, 10)));
        }
        return raw;
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" (accounting/psi.rst). */
static void put_pressure(json_t *object, int dir, const char *file)
{
        _cleanup_free_ char *text = text_of(dir, file);
        char *pos = text, *line;
        json_t *psi = NULL;

        while ((line = cgroup_next_line(&pos))) {
                double avg10, avg60, avg300;
                unsigned long long total;
                char kind[8];

                if (sscanf(line, "%7s avg10=%lf avg60=%lf avg300=%lf total=%llu", kind, &avg10, &avg60, &avg300,
                            &total) != 5)
                        continue;
                psi = psi ? psi : json_object();
                json_object_set_new(psi, kind,
                        json_pack("{s:f, s:f, s:f, s:I}", "avg10", avg10, "avg60", avg60, "avg300", avg300, "total",
                                (json_int_t)total));
        }
        if (psi)
                json_object_set_new(object, "psi", psi);
}

/* ---- version 1 ---- */

static json_t *number_list(char *text)
{
        json_t *list = json_array();
        char *pos = text, *word;

        while ((word = strsep(&pos, " \n")))
                if (*word)
                        json_array_append_new(list, json_u64(strtoull(word, NULL, 10)));
        return list;
}

static void v1_cpuacct(int dir, json_t *stats)
{
        _cleanup_free_ char *stat = text_of(dir, "cpuacct.stat"), *percpu = text_of(dir, "cpuacct.usage_percpu");
        const u64 tick_ns = NSEC_PER_USEC * 1000000 / (u64)sysconf(_SC_CLK_TCK);
        json_t *usage = sub(sub(stats, "cpu"), "usage");

        put(usage, "total", number(dir, "cpuacct.usage"));
        if (percpu)
                json_object_set_new(usage, "percpu", number_list(percpu));
        put(usage, "kernel", keyed_in(stat, "system") * tick_ns);
        put(usage, "user", keyed_in(stat, "user") * tick_ns);
}

static void v1_cpu(int dir, json_t *stats)
{
        _cleanup_free_ char *stat = text_of(dir, "cpu.stat");
        json_t *throttling = sub(sub(stats, "cpu"), "throttling");

        put(throttling, "periods", keyed_in(stat, "nr_periods"));
        put(throttling, "throttledPeriods", keyed_in(stat, "nr_throttled"));
        put(throttling, "throttledTime", keyed_in(stat, "throttled_time"));
}

static void v1_memory_entry(int dir, json_t *memory, const char *name, const char *prefix)
{
        static const struct {
                const char *key, *suffix;
        } files[] = { { "limit", "limit_in_bytes" }, { "usage", "usage_in_bytes" }, { "max", "max_usage_in_bytes" },
                { "failcnt", "failcnt" } };
        json_t *entry = json_object();

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                char file[64];

                snprintf(file, sizeof(file), "%s.%s", prefix, files[i].suffix);
                if (cgroup_has(dir, file))
                        put(entry, files[i].key, number(dir, file));
        }
        json_object_set_new(memory, name, entry);
}

static void v1_memory(int dir, json_t *stats)
{
        _cleanup_free_ char *stat = text_of(dir, "memory.stat");
        json_t *memory = sub(stats, "memory");

        put(memory, "cache", keyed_in(stat, "total_cache"));
        v1_memory_entry(dir, memory, "usage", "memory");
        v1_memory_entry(dir, memory, "swap", "memory.memsw");
        v1_memory_entry(dir, memory, "kernel", "memory.kmem");
        v1_memory_entry(dir, memory, "kernelTCP", "memory.kmem.tcp");
        json_object_set_new(memory, "raw", raw_of(stat));
}

static void put_pids(int dir, json_t *stats)
{
        const u64 limit = number(dir, "pids.max");

        put(sub(stats, "pids"), "current", number(dir, "pids.current"));
        put(sub(stats, "pids"), "limit", limit == UINT64_MAX ? 0 : limit);
}

/* "8:0 Read 4096" lines, or "8:0 4096". */
static json_t *io_entries(const char *text)
{
        _cleanup_free_ char *copy = text ? strdup(text) : NULL;
        json_t *list = json_array();
        char *pos = copy, *line;

        while ((line = cgroup_next_line(&pos))) {
                unsigned long long value;
                unsigned major, minor;
                char op[16] = "";

                if (sscanf(line, "%u:%u %15s %llu", &major, &minor, op, &value) != 4) {
                        *op = 0;
                        if (sscanf(line, "%u:%u %llu", &major, &minor, &value) != 3)
                                continue;
                }
                json_array_append_new(list, json_pack("{s:I, s:I, s:s, s:I}", "major", (json_int_t)major, "minor",
                                                    (json_int_t)minor, "op", op, "value", (json_int_t)value));
        }
        return list;
}

/* BFQ accounts where it schedules, throttling everywhere else. */
static void v1_blkio(int dir, json_t *stats)
{
        static const struct {
                const char *key, *bfq, *throttle;
        } files[] = {
                { "ioServiceBytesRecursive", "blkio.bfq.io_service_bytes_recursive",
                        "blkio.throttle.io_service_bytes_recursive" },
                { "ioServicedRecursive", "blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive" },
                { "ioQueueRecursive", "blkio.bfq.io_queued_recursive", NULL },
                { "ioServiceTimeRecursive", "blkio.bfq.io_service_time_recursive", NULL },
                { "ioWaitTimeRecursive", "blkio.bfq.io_wait_time_recursive", NULL },
                { "ioMergedRecursive", "blkio.bfq.io_merged_recursive", NULL },
                { "ioTimeRecursive", "blkio.bfq.time_recursive", NULL },
                { "sectorsRecursive", "blkio.bfq.sectors_recursive", NULL },
        };
        json_t *blkio = sub(stats, "blkio");

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                _cleanup_free_ char *text = text_of(dir, files[i].bfq);
                json_t *list = io_entries(text);

                if (json_array_size(list) == 0 && files[i].throttle) {
                        _cleanup_free_ char *throttle = text_of(dir, files[i].throttle);

                        json_decref(list);
                        list = io_entries(throttle);
                }
                if (json_array_size(list))
                        json_object_set(blkio, files[i].key, list);
                json_decref(list);
        }
}

/* "hugetlb.2MB.@suffix" is there for every page size. */
static void put_hugetlb(int dir, json_t *stats, const char *suffix, const char *max_suffix, const char *failures_suffix)
{
        const int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *stream = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *entry;

        while (stream && (entry = readdir(stream))) {
                char size[32], rest[64], file[160];
                json_t *huge;

                if (sscanf(entry->d_name, "hugetlb.%31[^.].%63s", size, rest) != 2 || strcmp(rest, suffix) != 0)
                        continue;
                huge = sub(sub(stats, "hugetlb"), size);
                put(huge, "usage", number(dir, entry->d_name));
                snprintf(file, sizeof(file), "hugetlb.%s.%s", size, max_suffix);
                if (cgroup_has(dir, file))
                        put(huge, "max", number(dir, file));
                snprintf(file, sizeof(file), "hugetlb.%s.%s", size, failures_suffix);
                put(huge, "failcnt", strchr(failures_suffix, '.') ? 0 : number(dir, file));
        }
        if (stream)
                closedir(stream);
}

static void v1_hugetlb(int dir, json_t *stats)
{
        put_hugetlb(dir, stats, "usage_in_bytes", "max_usage_in_bytes", "failcnt");
}

/* "0-2,5" as [0, 1, 2, 5]. The text is the kernel's. */
static json_t *set_of(const char *text)
{
        json_t *list = json_array();

        while (text && *text) {
                char *end;
                const unsigned long from = strtoul(text, &end, 10);
                unsigned long to = from;

                if (end == text)
                        break;
                if (*end == '-')
                        to = strtoul(end + 1, &end, 10);
                for (unsigned long i = from; i <= to && i < 65536; i++)
                        json_array_append_new(list, json_integer((json_int_t)i));
                text = *end == ',' ? end + 1 : NULL;
        }
        return list;
}

static void v1_cpuset(int dir, json_t *stats)
{
        static const struct {
                const char *key, *file;
        } files[] = {
                { "cpu_exclusive", "cpuset.cpu_exclusive" },
                { "mem_hardwall", "cpuset.mem_hardwall" },
                { "mem_exclusive", "cpuset.mem_exclusive" },
                { "memory_migrate", "cpuset.memory_migrate" },
                { "memory_spread_page", "cpuset.memory_spread_page" },
                { "memory_spread_slab", "cpuset.memory_spread_slab" },
                { "memory_pressure", "cpuset.memory_pressure" },
                { "sched_load_balance", "cpuset.sched_load_balance" },
        };
        _cleanup_free_ char *cpus = text_of(dir, "cpuset.cpus"), *mems = text_of(dir, "cpuset.mems"),
                            *level = text_of(dir, "cpuset.sched_relax_domain_level");
        json_t *cpuset = sub(stats, "cpuset");

        json_object_set_new(cpuset, "cpus", set_of(cpus));
        json_object_set_new(cpuset, "mems", set_of(mems));
        for (size_t i = 0; i < ARRAY_SIZE(files); i++)
                put(cpuset, files[i].key, number(dir, files[i].file));
        json_object_set_new(cpuset, "sched_relax_domain_level", json_integer(level ? atoi(level) : -1));
}

struct part {
        enum controller controller;
        void (*read)(int dir, json_t *stats);
};

static void read_parts(const struct hierarchy *h, json_t *stats, const struct part *parts, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (hierarchy_has(h, parts[i].controller))
                        parts[i].read(h->dir, stats);
}

int cgroup_v1_stats(const struct hierarchy *h, json_t *stats, struct err **err)
{
        static const struct part parts[] = {
                { CONTROLLER_CPUACCT, v1_cpuacct },
                { CONTROLLER_CPU, v1_cpu },
                { CONTROLLER_CPUSET, v1_cpuset },
                { CONTROLLER_MEMORY, v1_memory },
                { CONTROLLER_PIDS, put_pids },
                { CONTROLLER_HUGETLB, v1_hugetlb },
                { CONTROLLER_BLKIO, v1_blkio },
        };

        read_parts(h, stats, parts, ARRAY_SIZE(parts));
        return 0;
}

/* ---- version 2 ---- */

static void v2_cpu(int dir, json_t *stats)
{
        _cleanup_free_ char *stat = text_of(dir, "cpu.stat");
        json_t *cpu = sub(stats, "cpu"), *usage = sub(cpu, "usage"), *throttling = sub(cpu, "throttling");

        put(usage, "total", keyed_in(stat, "usage_usec") * NSEC_PER_USEC);
        put(usage, "user", keyed_in(stat, "user_usec") * NSEC_PER_USEC);
        put(usage, "kernel", keyed_in(stat, "system_usec") * NSEC_PER_USEC);
        put(throttling, "periods", keyed_in(stat, "nr_periods"));
        put(throttling, "throttledPeriods", keyed_in(stat, "nr_throttled"));
        put(throttling, "throttledTime", keyed_in(stat, "throttled_usec") * NSEC_PER_USEC);
        put_pressure(cpu, dir, "cpu.pressure");
}

static u64 sum(u64 a, u64 b)
{
        return a == UINT64_MAX || b == UINT64_MAX ? UINT64_MAX : a + b;
}

/* "swap" is memory and swap together, as version 1 counts. */
static void v2_memory(int dir, json_t *stats)
{
        _cleanup_free_ char *stat = text_of(dir, "memory.stat"), *events = text_of(dir, "memory.events");
        const u64 used = number(dir, "memory.current"), limit = number(dir, "memory.max");
        json_t *memory = sub(stats, "memory"), *usage = sub(memory, "usage"), *swap = sub(memory, "swap");

        put(memory, "cache", keyed_in(stat, "file"));
        put(usage, "usage", used);
        put(usage, "limit", limit);
        put(usage, "max", number(dir, "memory.peak"));
        put(usage, "failcnt", keyed_in(events, "max"));
        put(swap, "usage", sum(used, number(dir, "memory.swap.current")));
        put(swap, "limit", sum(limit, number(dir, "memory.swap.max")));
        put(swap, "failcnt", 0);
        json_object_set_new(memory, "raw", raw_of(stat));
        put_pressure(memory, dir, "memory.pressure");
}

/* "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6". */
static void v2_io(int dir, json_t *stats)
{
        static const struct {
                const char *key, *list, *op;
        } fields[] = {
                { "rbytes", "ioServiceBytesRecursive", "Read" },
                { "wbytes", "ioServiceBytesRecursive", "Write" },
                { "dbytes", "ioServiceBytesRecursive", "Discard" },
                { "rios", "ioServicedRecursive", "Read" },
                { "wios", "ioServicedRecursive", "Write" },
                { "dios", "ioServicedRecursive", "Discard" },
        };
        _cleanup_free_ char *stat = text_of(dir, "io.stat");
        json_t *blkio = sub(stats, "blkio");
        char *pos = stat, *line;

        while ((line = cgroup_next_line(&pos))) {
                char *rest = line, *device = strsep(&rest, " "), *word;
                unsigned major, minor;

                if (!device || sscanf(device, "%u:%u", &major, &minor) != 2)
                        continue;
                while ((word = strsep(&rest, " ")))
                        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                                const size_t len = strlen(fields[i].key);

                                if (strncmp(word, fields[i].key, len) != 0 || word[len] != '=')
                                        continue;
                                if (!json_object_get(blkio, fields[i].list))
                                        json_object_set_new(blkio, fields[i].list, json_array());
                                json_array_append_new(json_object_get(blkio, fields[i].list),
                                        json_pack("{s:I, s:I, s:s, s:I}", "major", (json_int_t)major, "minor",
                                                (json_int_t)minor, "op", fields[i].op, "value",
                                                (json_int_t)strtoll(word + len + 1, NULL, 10)));
                        }
        }
        put_pressure(blkio, dir, "io.pressure");
}

static void v2_hugetlb(int dir, json_t *stats)
{
        put_hugetlb(dir, stats, "current", "max", "events.max");
}

int cgroup_v2_stats(const struct hierarchy *h, json_t *stats, struct err **err)
{
        static const struct part parts[] = {
                { CONTROLLER_MEMORY, v2_memory },
                { CONTROLLER_PIDS, put_pids },
                { CONTROLLER_IO, v2_io },
                { CONTROLLER_HUGETLB, v2_hugetlb },
        };

        /* CPU time is accounted for every group, the controller is for limits. */
        if (h->full)
                v2_cpu(h->dir, stats);
        read_parts(h, stats, parts, ARRAY_SIZE(parts));
        return 0;
}
