/* Loads that are made of system calls, faults and switches: what a kernel costs its programs. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loads.h"

#define PAGE 4096

static void reap(pid_t pid)
{
        int status;

        must(waitpid(pid, &status, 0), "waitpid");
        if (status != 0) {
                fprintf(stderr, "child ended with status %x\n", (unsigned)status);
                exit(1);
        }
}

static pid_t must_fork(void)
{
        fflush(NULL);
        return (pid_t)must(fork(), "fork");
}

/* The cheapest call that the C library does not answer by itself. */
static uint64_t null_syscall(long rounds)
{
        uint64_t sum = 0;

        for (long i = 0; i < rounds; i++)
                sum += syscall(SYS_getppid) > 0 ? 1 : 2;
        return sum != 0 ? (uint64_t)rounds : 0;
}

static uint64_t byte_io(long rounds)
{
        int in = (int)must(open("/dev/zero", O_RDONLY), "/dev/zero"),
            out = (int)must(open("/dev/null", O_WRONLY), "/dev/null");
        uint64_t sum = 0;
        char c = 1;

        for (long i = 0; i < rounds; i++) {
                sum += (uint64_t)must(read(in, &c, 1), "read");
                sum += (uint64_t)must(write(out, &c, 1), "write") + (uint64_t)c;
        }
        return sum;
}

/* 1 MiB a round through a pipe to a second process, in pieces of 16 KiB. */
static uint64_t pipe_bulk(long rounds)
{
        static char buffer[16384];
        uint64_t sum = 0;
        int fds[2];
        ssize_t n;
        pid_t pid;

        must(pipe(fds), "pipe");
        pid = must_fork();
        if (pid == 0) {
                for (long i = 0; i < rounds * 64; i++) {
                        memset(buffer, (int)i, 64);
                        for (size_t done = 0; done < sizeof(buffer); done += (size_t)n)
                                n = must(write(fds[1], buffer + done, sizeof(buffer) - done), "write");
                }
                _exit(0);
        }
        close(fds[1]);
        while ((n = must(read(fds[0], buffer, sizeof(buffer)), "read")) > 0)
                sum += (uint64_t)n;
        reap(pid);
        return sum;
}

/* A token of one byte goes around a ring of processes: every hop is a switch of address spaces. */
static uint64_t ring(long rounds, int processes)
{
        int fds[16][2];
        pid_t pids[16];
        unsigned char token = 0;

        for (int i = 0; i < processes; i++)
                must(pipe(fds[i]), "pipe");
        for (int i = 1; i < processes; i++) {
                pids[i] = must_fork();
                if (pids[i] > 0)
                        continue;
                for (long k = 0; k < rounds; k++) {
                        must(read(fds[i - 1][0], &token, 1), "read");
                        token++;
                        must(write(fds[i][1], &token, 1), "write");
                }
                _exit(0);
        }
        for (long k = 0; k < rounds; k++) {
                must(write(fds[0][1], &token, 1), "write");
                must(read(fds[processes - 1][0], &token, 1), "read");
        }
        for (int i = 1; i < processes; i++)
                reap(pids[i]);
        return token;
}

static uint64_t ping_pong(long rounds)
{
        return ring(rounds, 2);
}

static uint64_t switches(long rounds)
{
        return ring(rounds, 8);
}

/* Two processes, a connected pair of sockets, epoll before every read: the shape of a small server. */
static uint64_t socket_server(long rounds)
{
        struct epoll_event event = { .events = EPOLLIN };
        char message[128] = "request";
        int fds[2], epoll;
        uint64_t sum = 0;
        pid_t pid;

        must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), "socketpair");
        pid = must_fork();
        close(fds[pid == 0]);
        epoll = (int)must(epoll_create1(0), "epoll_create1");
        must(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[pid != 0], &event), "epoll_ctl");
        for (long i = 0; i < rounds; i++) {
                if (pid != 0)
                        must(send(fds[1], message, sizeof(message), 0), "send");
                must(epoll_wait(epoll, &event, 1, -1), "epoll_wait");
                sum += (uint64_t)must(recv(fds[pid != 0], message, sizeof(message), 0), "recv");
                if (pid == 0)
                        must(send(fds[0], message, sizeof(message), 0), "send");
        }
        if (pid == 0)
                _exit(0);
        reap(pid);
        return sum;
}

static uint64_t fork_only(long rounds)
{
        uint64_t done = 0;
        pid_t pid;

        for (long i = 0; i < rounds; i++, done++) {
                pid = must_fork();
                if (pid == 0)
                        _exit(0);
                reap(pid);
        }
        return done;
}

/* A dynamically linked program, as almost all are. */
static uint64_t fork_exec(long rounds)
{
        uint64_t done = 0;
        pid_t pid;

        for (long i = 0; i < rounds; i++, done++) {
                pid = must_fork();
                if (pid == 0) {
                        execl("/usr/bin/true", "true", (char *)NULL);
                        _exit(1);
                }
                reap(pid);
        }
        return done;
}

static void *must_map(size_t size)
{
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
                must(-1, "mmap");
        return p;
}

/* 1,024 fresh pages a round. */
static uint64_t page_faults(long rounds)
{
        const size_t size = 1024 * PAGE;
        uint64_t sum = 0;

        for (long i = 0; i < rounds; i++) {
                unsigned char *p = must_map(size);

                madvise(p, size, MADV_NOHUGEPAGE);
                for (size_t at = 0; at < size; at += PAGE)
                        sum += ++p[at];
                munmap(p, size);
        }
        return sum;
}

/* A copy of 256 written pages after every fork. */
static uint64_t copy_on_write(long rounds)
{
        const size_t size = 256 * PAGE;
        unsigned char *p = must_map(size);
        uint64_t sum = 0;
        pid_t pid;

        madvise(p, size, MADV_NOHUGEPAGE);
        memset(p, 1, size);
        for (long i = 0; i < rounds; i++) {
                pid = must_fork();
                for (size_t at = 0; pid != 0 && at < size; at += PAGE)
                        sum += ++p[at];
                if (pid == 0)
                        _exit(0);
                reap(pid);
        }
        return sum;
}

static uint64_t map_unmap(long rounds)
{
        uint64_t sum = 0;

        for (long i = 0; i < rounds; i++) {
                unsigned char *p = must_map(16 * PAGE);

                p[PAGE] = (unsigned char)i;
                must(mprotect(p, PAGE, PROT_READ), "mprotect");
                sum += p[0] + p[PAGE];
                munmap(p, 16 * PAGE);
        }
        return sum;
}

static volatile sig_atomic_t signals;
static unsigned char *guarded;

static void count_signal(int number)
{
        (void)number;
        signals++;
}

static void open_page(int number)
{
        (void)number;
        signals++;
        mprotect(guarded, PAGE, PROT_READ | PROT_WRITE);
}

/* A signal to itself, and a fault that a handler repairs, as a garbage collector's barrier does. */
static uint64_t signal_handlers(long rounds)
{
        guarded = must_map(PAGE);
        signal(SIGUSR1, count_signal);
        signal(SIGSEGV, open_page);
        for (long i = 0; i < rounds; i++) {
                raise(SIGUSR1);
                must(mprotect(guarded, PAGE, PROT_NONE), "mprotect");
                (*(volatile unsigned char *)guarded)++;
        }
        return (uint64_t)signals + *guarded;
}

static uint64_t small_files(long rounds)
{
        uint64_t sum = 0;
        struct stat st;
        char name[64];

        for (long i = 0; i < rounds; i++) {
                int fd;

                snprintf(name, sizeof(name), "/tmp/.small-%ld", i % 16);
                fd = (int)must(open(name, O_RDWR | O_CREAT, 0600), name);
                must(pwrite(fd, name, sizeof(name), i % 3000), "pwrite");
                must(fstat(fd, &st), "fstat");
                sum += (uint64_t)st.st_size;
                close(fd);
                must(stat(name, &st), "stat");
                must(unlink(name), "unlink");
        }
        return sum;
}

static void *thread_nothing(void *arg)
{
        return arg;
}

static uint64_t threads(long rounds)
{
        pthread_t thread;
        uint64_t sum = 0;

        for (long i = 0; i < rounds; i++) {
                if (pthread_create(&thread, NULL, thread_nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
                        exit(1);
                sum++;
        }
        return sum;
}

/* Two threads, for machines with more than one CPU. */

static _Atomic uint64_t shared_counter;
static uint64_t guarded_counter;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static uint64_t in_two_threads(void *(*run)(void *), long rounds)
{
        pthread_t thread;

        if (pthread_create(&thread, NULL, run, &rounds) != 0)
                exit(1);
        run(&rounds);
        pthread_join(thread, NULL);
        return atomic_load(&shared_counter) + guarded_counter;
}

static void *add_atomically(void *arg)
{
        for (long i = 0; i < *(long *)arg; i++)
                atomic_fetch_add(&shared_counter, 1);
        return NULL;
}

static void *add_under_mutex(void *arg)
{
        for (long i = 0; i < *(long *)arg; i++) {
                pthread_mutex_lock(&mutex);
                guarded_counter++;
                pthread_mutex_unlock(&mutex);
        }
        return NULL;
}

static void *map_and_unmap(void *arg)
{
        atomic_fetch_add(&shared_counter, map_unmap(*(long *)arg) != 0);
        return NULL;
}

static uint64_t two_atomics(long rounds)
{
        return in_two_threads(add_atomically, rounds);
}

static uint64_t two_mutexes(long rounds)
{
        return in_two_threads(add_under_mutex, rounds);
}

/* Every unmap must reach the other CPU's TLB. */
static uint64_t two_unmaps(long rounds)
{
        return in_two_threads(map_and_unmap, rounds);
}

static const struct load loads[] = {
        { "null-syscall", null_syscall },
        { "byte-io", byte_io },
        { "pipe-bulk", pipe_bulk },
        { "ping-pong", ping_pong },
        { "switches", switches },
        { "socket-server", socket_server },
        { "fork", fork_only },
        { "fork-exec", fork_exec },
        { "page-faults", page_faults },
        { "copy-on-write", copy_on_write },
        { "map-unmap", map_unmap },
        { "signals", signal_handlers },
        { "small-files", small_files },
        { "threads", threads },
        { "two-atomics", two_atomics },
        { "two-mutexes", two_mutexes },
        { "two-unmaps", two_unmaps },
};

LOADS_MAIN(loads)
