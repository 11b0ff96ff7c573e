/* The guest's side of bench/guest/run: runs the commands that the host sends, one at a time, and times them.
 *
 * As PID 1 of a guest it mounts what programs expect and speaks on the serial console; in a chroot on the host it speaks on
 * its standard input and output. One line a message:
 *
 *   host   run ID COMMAND         COMMAND is for sh -c, in /tmp, standard input empty, standard output in /tmp/out
 *          end                    power off, or leave the chroot
 *   guest  @bench ready CPUS      once
 *          @bench start ID
 *          @bench stop ID STATUS NS CPU_NS     NS by this machine's monotonic clock, CPU_NS of the command and its children
 *          @bench sum ID BYTES HASH            of the standard output, computed after the clock was read
 *
 * The console is drained before the clock is read, so that the host sees "start" and "stop" when they happen and can compare
 * the guest's clock with its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define OUT "/tmp/out"
#define ERR "/tmp/err"

static int console_in = STDIN_FILENO, console_out = STDOUT_FILENO;

/* One write a line, so that the kernel's own messages fall between lines and not into them. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
        char line[512];
        va_list args;
        int n;

        va_start(args, format);
        n = vsnprintf(line, sizeof(line) - 1, format, args);
        va_end(args);
        if (n < 0)
                return;
        if ((size_t)n > sizeof(line) - 2)
                n = sizeof(line) - 2;
        line[n++] = '\n';
        if (write(console_out, line, (size_t)n) != n)
                exit(1);
        tcdrain(console_out);
}

static uint64_t now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static uint64_t timeval_ns(struct timeval t)
{
        return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_usec * 1000U;
}

/* FNV-1a, 64 bits. */
static uint64_t hash_file(const char *path, uint64_t *ret_bytes)
{
        unsigned char buffer[16384];
        uint64_t hash = 0xcbf29ce484222325U;
        ssize_t n;
        int fd;

        *ret_bytes = 0;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        while (fd >= 0 && (n = read(fd, buffer, sizeof(buffer))) > 0) {
                *ret_bytes += (uint64_t)n;
                for (ssize_t i = 0; i < n; i++)
                        hash = (hash ^ buffer[i]) * 0x100000001b3U;
        }
        if (fd >= 0)
                close(fd);
        return hash;
}

/* What went wrong, for the host's log: the end of what the command wrote to standard error. */
static void say_errors(void)
{
        char text[400];
        ssize_t n;
        int fd;

        fd = open(ERR, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        n = pread(fd, text, sizeof(text), 0);
        close(fd);
        for (ssize_t i = 0; i < n; i++)
                if ((unsigned char)text[i] < ' ')
                        text[i] = ' ';
        if (n > 0)
                say("@bench error %.*s", (int)n, text);
}

static void redirect(const char *path, int flags, int to)
{
        int fd = open(path, flags, 0600);

        if (fd < 0 || dup2(fd, to) < 0)
                _exit(126);
        close(fd);
}

static void child(char *command)
{
        char *argv[] = { "sh", "-c", command, NULL };

        setsid();
        redirect("/dev/null", O_RDONLY, STDIN_FILENO);
        redirect(OUT, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
        redirect(ERR, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
        execv("/bin/sh", argv);
        _exit(127);
}

static void run(const char *id, char *command)
{
        struct rusage before, after;
        uint64_t start, ns, cpu_ns, bytes, hash;
        int status = -1;
        pid_t pid, got;

        say("@bench start %s", id);
        getrusage(RUSAGE_CHILDREN, &before);
        start = now_ns();
        pid = fork();
        if (pid == 0)
                child(command);
        /* As PID 1 this also reaps what others left behind. */
        do
                got = waitpid(-1, &status, 0);
        while (pid > 0 && got != pid && (got > 0 || errno == EINTR));
        ns = now_ns() - start;
        getrusage(RUSAGE_CHILDREN, &after);
        cpu_ns = timeval_ns(after.ru_utime) + timeval_ns(after.ru_stime) - timeval_ns(before.ru_utime) -
                 timeval_ns(before.ru_stime);
        say("@bench stop %s %d %" PRIu64 " %" PRIu64, id, status, ns, cpu_ns);
        if (status != 0)
                say_errors();
        hash = hash_file(OUT, &bytes);
        say("@bench sum %s %" PRIu64 " %016" PRIx64, id, bytes, hash);
}

static void become_init(void)
{
        struct termios raw;

        mount("proc", "/proc", "proc", 0, NULL);
        mount("sysfs", "/sys", "sysfs", 0, NULL);
        mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
        mount("tmpfs", "/tmp", "tmpfs", 0, "size=80%");
        if (symlink("/proc/self/fd", "/dev/fd") < 0 && errno != EEXIST)
                say("@bench error /dev/fd: %s", strerror(errno));
        console_in = console_out = open("/dev/ttyS0", O_RDWR | O_CLOEXEC);
        if (console_in < 0)
                exit(1);
        if (tcgetattr(console_in, &raw) == 0) {
                cfmakeraw(&raw);
                tcsetattr(console_in, TCSANOW, &raw);
        }
}

int main(void)
{
        /* The kernel starts PID 1 without a file system mounted but the root. */
        bool is_init = getpid() == 1 && access("/proc/self", F_OK) < 0;
        char *line = NULL, *command;
        cpu_set_t cpus;
        size_t size = 0;
        FILE *in;

        if (is_init)
                become_init();
        else
                console_out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
        setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/bench", 1);
        setenv("LC_ALL", "C", 1);
        setenv("HOME", "/tmp", 1);
        in = fdopen(console_in, "re");
        if (!in || chdir("/tmp") < 0)
                return 1;
        say("@bench ready %d", sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 0);
        while (getline(&line, &size, in) > 0) {
                line[strcspn(line, "\r\n")] = '\0';
                if (strcmp(line, "end") == 0)
                        break;
                if (strncmp(line, "run ", 4) != 0)
                        continue;
                command = strchr(line + 4, ' ');
                if (!command)
                        continue;
                *command++ = '\0';
                run(line + 4, command);
        }
        if (is_init)
                reboot(RB_POWER_OFF);
        return 0;
}
