/* What is going on in the machine, from its /proc. Source: proc(5). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define NSEC 1000000000ULL
#define TICK_NS (NSEC / 100) /* USER_HZ is 100 on x86 */
#define PF_KTHREAD 0x00200000U
#define COMMAND_MAX 1024U

/* ---- processes ---- */

/* Fields of /proc/PID/stat, counted from the one behind the name. */
enum { STATE, PPID, PGRP, SESSION, TTY, TPGID, TASK_FLAGS, UTIME = 11, STIME, STARTTIME = 19, N_STAT };

struct task {
        u64 stat[N_STAT];
        char name[64];
        u32 uid;
};

static bool read_task(int proc, const char *pid, struct task *ret)
{
        char path[64], buffer[1024], *at, *name;
        struct text text = TEXT(path), found = TEXT(ret->name);
        struct stat st;

        text_add(&text, pid);
        if (fstatat(proc, path, &st, 0) < 0)
                return false;
        ret->uid = st.st_uid;
        text_add(&text, "/stat");
        if (read_file_at(proc, path, buffer, sizeof(buffer)) <= 0)
                return false;
        name = strchr(buffer, '(');
        at = strrchr(buffer, ')'); /* the name may have some too */
        if (!name || !at || at < name)
                return false;
        text_add_n(&found, name + 1, (size_t)(at - name - 1));
        for (unsigned i = 0; i < N_STAT; i++) {
                at = strchr(at, ' ');
                if (!at)
                        return false;
                ret->stat[i] = strtoull(++at, NULL, 10);
        }
        return true;
}

void each_pid(const struct init *init, void (*fn)(void *opaque, const char *pid), void *opaque)
{
        const int fd = openat(init->proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *entry;

        while (dir && (entry = readdir(dir)))
                if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && strtol(entry->d_name, NULL, 10) != getpid())
                        fn(opaque, entry->d_name);
        if (dir)
                closedir(dir);
}

/* Of a process that is none of the kernel's threads. */
typedef void task_fn(void *opaque, const char *pid, const struct task *task);

struct each_task {
        const struct init *init;
        task_fn *fn;
        void *opaque;
};

static void if_task(void *opaque, const char *pid)
{
        const struct each_task *each = opaque;
        struct task task;

        if (read_task(each->init->proc, pid, &task) && !(task.stat[TASK_FLAGS] & PF_KTHREAD))
                each->fn(each->opaque, pid, &task);
}

static void each_process(const struct init *init, task_fn *fn, void *opaque)
{
        each_pid(init, if_task, &(struct each_task){ init, fn, opaque });
}

static void add_tty(struct text *text, u64 tty)
{
        /* As in the stat field: minor in bits 31-20 and 7-0, major in 15-8. */
        const u64 major = bits(tty, 15, 8), minor = bits(tty, 31, 20) << 8 | bits(tty, 7, 0);

        text_add(text, major >= 136 && major <= 143 ? "pts/" : major == 4 && minor < 64 ? "tty" : major == 4 ? "ttyS" : "?");
        if (major == 4 || (major >= 136 && major <= 143))
                text_add_number(text, major == 4 ? minor % 64 : (major - 136) << 8 | minor);
}

/* The command line, or the name when there is none. */
static void add_command(const struct init *init, struct text *text, const char *pid, const struct task *task)
{
        char path[64];
        struct text file = TEXT(path);
        ssize_t n;

        text_add(&file, pid);
        text_add(&file, "/cmdline");
        n = read_file_at(init->proc, path, text->at, text->size);
        while (n > 0 && text->at[n - 1] == '\0')
                n--;
        for (ssize_t i = 0; i < n; i++)
                if (text->at[i] == '\0')
                        text->at[i] = ' ';
        text->len = n > 0 ? (size_t)n : 0;
        if (text->len)
                return;
        text_add(text, "[");
        text_add(text, task->name);
        text_add(text, "]");
}

struct report {
        struct init *init;
        u32 id;
        u64 boot_ns; /* when the machine was started, since 1970 */
};

static u64 now_ns(clockid_t clock)
{
        struct timespec ts;

        clock_gettime(clock, &ts);
        return (u64)ts.tv_sec * NSEC + (u64)ts.tv_nsec;
}

static void report_process(void *opaque, const char *pid, const struct task *task)
{
        const struct report *report = opaque;
        char tty[32], command[COMMAND_MAX];
        struct text tty_text = TEXT(tty), command_text = TEXT(command);
        struct init_frame frame;

        add_tty(&tty_text, task->stat[TTY]);
        add_command(report->init, &command_text, pid, task);
        link_begin(&report->init->link, &frame, INIT_PROCESS, report->id);
        init_put_u32(&frame, (u32)strtoul(pid, NULL, 10));
        init_put_u32(&frame, (u32)task->stat[PPID]);
        init_put_u32(&frame, task->uid);
        init_put_u64(&frame, report->boot_ns + task->stat[STARTTIME] * TICK_NS);
        init_put_u64(&frame, (task->stat[UTIME] + task->stat[STIME]) * TICK_NS);
        init_put_text(&frame, tty);
        init_put_text(&frame, command);
        link_end(&report->init->link, &frame);
}

void report_processes(struct init *init, const struct init_message *m)
{
        struct report report = { init, m->id, now_ns(CLOCK_REALTIME) - now_ns(CLOCK_BOOTTIME) };

        each_process(init, report_process, &report);
        link_send_numbers(&init->link, INIT_DONE, m->id, NULL, 0);
}

/* ---- sums ---- */

static void count_process(void *opaque, const char *pid, const struct task *task)
{
        (*(u32 *)opaque)++;
}

/* "Name:   123 kB" */
static u64 memory_line(const char *meminfo, const char *name)
{
        const char *line = strstr(meminfo, name);

        return line ? strtoull(line + strlen(name), NULL, 10) * KIB : 0;
}

/* The times of the first line but idle and waiting for I/O; a guest's are part of user already (proc(5)). */
static u64 cpu_time(const char *stat)
{
        u64 sum = 0;
        char *at = (char *)stat + strcspn(stat, " ");

        for (unsigned i = 0; i < 8; i++) {
                const u64 ticks = strtoull(at, &at, 10);

                if (i != 3 && i != 4)
                        sum += ticks;
        }
        return sum * TICK_NS;
}

void report_stats(struct init *init, const struct init_message *m)
{
        char stat[256], meminfo[4096];
        u64 total, cache, numbers[4];
        struct init_frame frame;
        u32 processes = 0;

        if (read_file_at(init->proc, "stat", stat, sizeof(stat)) < 0)
                stat[0] = '\0';
        if (read_file_at(init->proc, "meminfo", meminfo, sizeof(meminfo)) < 0)
                meminfo[0] = '\0';
        total = memory_line(meminfo, "MemTotal:");
        cache = memory_line(meminfo, "\nCached:") + memory_line(meminfo, "Buffers:") + memory_line(meminfo, "SReclaimable:");
        numbers[0] = cpu_time(stat);
        numbers[1] = total - MIN(total, memory_line(meminfo, "MemFree:") + cache);
        numbers[2] = total;
        numbers[3] = cache;
        each_process(init, count_process, &processes);
        link_begin(&init->link, &frame, INIT_STATS, m->id);
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                init_put_u64(&frame, numbers[i]);
        init_put_u32(&frame, processes);
        link_end(&init->link, &frame);
}
