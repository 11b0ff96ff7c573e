/* What a container uses, by its control groups and /proc. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/clock.h"
#include "container.h"
#include "stats.h"

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

int container_stats(struct instance *inst, pid_t pid, struct instance_stats *ret, struct err **err)
{
        const struct box_runtime runtime = container_runtime(inst);
        json_t *stats = NULL;
        int r = box_stats(&runtime, inst->id, &stats, err);

        if (r < 0)
                return r;
        stats_of_groups(stats, ret);
        read_network(pid, ret);
        json_decref(stats);
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

int container_top(struct instance *inst, struct instance_processes *ret, struct err **err)
{
        const struct box_runtime runtime = container_runtime(inst);
        const s64 booted = boot_time_ns();
        _cleanup_free_ pid_t *pids = NULL;
        struct instance_process *item;
        size_t n = 0, found = 0;
        int r = box_pids(&runtime, inst->id, &pids, &n, err);

        if (r < 0)
                return r;
        item = arena_new(&inst->top_arena, struct instance_process, n + 1);
        if (!item)
                return err_sys(err, ENOMEM, "listing processes");
        for (size_t i = 0; i < n; i++)
                found += read_process(&inst->top_arena, pids[i], booted, &item[found]);
        qsort(item, found, sizeof(*item), by_pid);
        *ret = (struct instance_processes){ item, found };
        return 0;
}
