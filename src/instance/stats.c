/* What an instance uses, by its control groups and /proc. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/clock.h"
#include "internal.h"

static u64 number_at(const json_t *json, const char *a, const char *b, const char *c)
{
        const json_t *value = json_object_get(json, a);

        value = b ? json_object_get(value, b) : value;
        value = c ? json_object_get(value, c) : value;
        return json_is_real(value) ? UINT64_MAX : (u64)json_integer_value(value);
}

static u64 host_memory(void)
{
        struct sysinfo info;

        return sysinfo(&info) == 0 ? (u64)info.totalram * info.mem_unit : 0;
}

static void read_memory(const json_t *stats, struct instance_stats *ret)
{
        const u64 usage = number_at(stats, "memory", "usage", "usage"), host = host_memory();
        u64 cache = number_at(stats, "memory", "raw", "total_inactive_file");

        if (!cache)
                cache = number_at(stats, "memory", "raw", "inactive_file");
        ret->memory = usage - MIN(cache, usage);
        ret->memory_limit = number_at(stats, "memory", "usage", "limit");
        if (ret->memory_limit == 0 || ret->memory_limit > host)
                ret->memory_limit = host;
}

static void read_block(const json_t *stats, struct instance_stats *ret)
{
        const json_t *list = json_object_get(json_object_get(stats, "blkio"), "ioServiceBytesRecursive");

        for (size_t i = 0; i < json_array_size(list); i++) {
                const json_t *entry = json_array_get(list, i);
                const char *op = json_string_value(json_object_get(entry, "op")) ?: "";
                const u64 value = (u64)json_integer_value(json_object_get(entry, "value"));

                if (strcasecmp(op, "read") == 0)
                        ret->block_read += value;
                else if (strcasecmp(op, "write") == 0)
                        ret->block_write += value;
        }
}

/* The interfaces of its network namespace but lo. */
static void read_network(pid_t pid, struct instance_stats *ret)
{
        char path[40], line[512];
        _cleanup_fclose_ FILE *f = NULL;

        snprintf(path, sizeof(path), "/proc/%d/net/dev", (int)pid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                unsigned long long rx, rx_packets, tx, tx_packets;
                char name[64];

                if (sscanf(line, " %63[^:]: %llu %llu %*u %*u %*u %*u %*u %*u %llu %llu", name, &rx, &rx_packets, &tx,
                            &tx_packets) != 5 ||
                        strcmp(name, "lo") == 0)
                        continue;
                ret->net_rx += rx;
                ret->net_rx_packets += rx_packets;
                ret->net_tx += tx;
                ret->net_tx_packets += tx_packets;
        }
}

int instance_get_stats(struct instance *inst, struct instance_stats *ret, struct err **err)
{
        const struct box_runtime runtime = launch_runtime(inst);
        const struct instance_state *state;
        struct instance_stats s = { .cpus = (unsigned)MAX(get_nprocs(), 1) };
        json_t *stats = NULL;
        int r = instance_get_state(inst, &state, err);

        if (r == 0 && !state->pid)
                r = err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        if (r == 0)
                r = box_stats(&runtime, inst->id, &stats, err);
        if (r < 0)
                return r;
        s.time_ns = (s64)clock_now_ns();
        s.cpu_ns = number_at(stats, "cpu", "usage", "total");
        s.cpu_user_ns = number_at(stats, "cpu", "usage", "user");
        s.cpu_system_ns = number_at(stats, "cpu", "usage", "kernel");
        s.pids = number_at(stats, "pids", "current", NULL);
        s.pids_limit = number_at(stats, "pids", "limit", NULL);
        read_memory(stats, &s);
        read_block(stats, &s);
        read_network(state->pid, &s);
        json_decref(stats);
        *ret = s;
        return 0;
}

/* --- processes -------------------------------------------------------------------------------------------------- */

static s64 boot_time_ns(void)
{
        struct timespec real, boot;

        clock_gettime(CLOCK_REALTIME, &real);
        clock_gettime(CLOCK_BOOTTIME, &boot);
        return ((s64)real.tv_sec - boot.tv_sec) * (s64)NSEC_PER_SEC + real.tv_nsec - boot.tv_nsec;
}

static const char *tty_name(struct arena *arena, int device)
{
        const unsigned ma = major((dev_t)device), mi = minor((dev_t)device);

        if (ma >= 136 && ma <= 143) /* Documentation/admin-guide/devices.txt: Unix98 PTY slaves */
                return arena_printf(arena, "pts/%u", (ma - 136) * 256 + mi);
        return "?";
}

static const char *command_line(struct arena *arena, pid_t pid, const char *comm)
{
        char path[40], text[4096];
        _cleanup_close_ int fd = -1;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return arena_printf(arena, "[%s]", comm);
        for (ssize_t i = 0; i < n - 1; i++)
                text[i] = text[i] ? text[i] : ' ';
        text[n] = '\0';
        return arena_strdup(arena, text);
}

/* proc(5), /proc/pid/stat; false when it is gone. */
static bool read_process(struct arena *arena, pid_t pid, s64 booted, struct instance_process *ret)
{
        const long hz = sysconf(_SC_CLK_TCK);
        char path[40], text[1024], comm[64], *p, *open_paren;
        unsigned long user, system;
        unsigned long long start;
        const struct passwd *pw;
        _cleanup_fclose_ FILE *f = NULL;
        struct stat st;
        int ppid, tty;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        f = fopen(path, "re");
        if (!f || !fgets(text, sizeof(text), f) || fstat(fileno(f), &st) < 0)
                return false;
        open_paren = strchr(text, '(');
        p = strrchr(text, ')');
        if (!open_paren || !p ||
                sscanf(p + 1, " %*c %d %*d %*d %d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %llu", &ppid,
                        &tty, &user, &system, &start) != 5)
                return false;
        snprintf(comm, sizeof(comm), "%.*s", (int)(p - open_paren - 1), open_paren + 1);
        pw = getpwuid(st.st_uid);
        *ret = (struct instance_process){ .pid = pid,
                .ppid = ppid,
                .uid = st.st_uid,
                .user = pw ? arena_strdup(arena, pw->pw_name) : arena_printf(arena, "%u", st.st_uid),
                .tty = tty_name(arena, tty),
                .started_ns = booted + (s64)(start * NSEC_PER_SEC / (u64)hz),
                .cpu_ns = (u64)(user + system) * NSEC_PER_SEC / (u64)hz,
                .command = command_line(arena, pid, comm) };
        return ret->user && ret->tty && ret->command;
}

static int by_pid(const void *a, const void *b)
{
        const struct instance_process *x = a, *y = b;

        return (x->pid > y->pid) - (x->pid < y->pid);
}

int instance_top(struct instance *inst, const struct instance_processes **ret, struct err **err)
{
        const struct box_runtime runtime = launch_runtime(inst);
        const s64 booted = boot_time_ns();
        const struct instance_state *state;
        _cleanup_free_ pid_t *pids = NULL;
        struct instance_processes *list = &inst->processes;
        size_t n = 0;
        int r = instance_get_state(inst, &state, err);

        if (r == 0 && !state->pid)
                r = err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        if (r == 0)
                r = box_pids(&runtime, inst->id, &pids, &n, err);
        if (r < 0)
                return r;
        arena_release(&inst->top_arena);
        *list = (struct instance_processes){ arena_new(&inst->top_arena, struct instance_process, n + 1), 0 };
        if (!list->item)
                return err_sys(err, ENOMEM, "listing processes");
        for (size_t i = 0; i < n; i++)
                list->n += read_process(&inst->top_arena, pids[i], booted, &list->item[list->n]);
        qsort(list->item, list->n, sizeof(*list->item), by_pid);
        *ret = list;
        return 0;
}
