/* The side inside the guest of bench/instance: what is done there, timed with the guest's monotonic clock.
 *
 *     (as /init)                 prints "hello" and ends the machine
 *     seq DEVICE MIB             reads that much from the beginning, 1 MiB at a time
 *     random DEVICE SECONDS      reads 4 KiB at random places
 *     send ADDRESS PORT MIB      sends that much over TCP
 *
 * Prints "NAME VALUE": MiB a second, or reads a second. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024 * 1024)

static double now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
        perror(what);
        exit(1);
}

static int open_device(const char *path)
{
        const int fd = open(path, O_RDONLY | O_DIRECT);

        if (fd < 0)
                die(path);
        return fd;
}

static void *buffer(void)
{
        void *p = aligned_alloc(4096, MIB);

        if (!p)
                die("memory");
        memset(p, 1, MIB);
        return p;
}

static void read_in_order(const char *path, long mib)
{
        const int fd = open_device(path);
        void *p = buffer();
        const double start = now();

        for (long i = 0; i < mib; i++)
                if (pread(fd, p, MIB, i * MIB) != MIB)
                        die("reading");
        printf("seq %.2f\n", (double)mib / (now() - start));
}

static void read_at_random(const char *path, double seconds)
{
        const int fd = open_device(path);
        const uint64_t pages = (uint64_t)lseek(fd, 0, SEEK_END) / 4096;
        void *p = buffer();
        const double start = now();
        uint64_t x = 88172645463325252ULL, n = 0;

        do {
                for (int i = 0; i < 64; i++, n++) {
                        x ^= x << 13, x ^= x >> 7, x ^= x << 17; /* Marsaglia's xorshift */
                        if (pread(fd, p, 4096, (off_t)(x % pages * 4096)) != 4096)
                                die("reading");
                }
        } while (now() - start < seconds);
        printf("random %.0f\n", (double)n / (now() - start));
}

static void send_bytes(const char *address, const char *port, long mib)
{
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        char *p = buffer();
        const double start = now();

        inet_pton(AF_INET, address, &to.sin_addr);
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
                die("connecting");
        for (long left = mib * MIB; left > 0;) {
                const ssize_t n = write(fd, p, left < MIB ? (size_t)left : MIB);

                if (n < 0)
                        die("sending");
                left -= n;
        }
        shutdown(fd, SHUT_WR);
        if (read(fd, p, 1) < 0) /* the peer has it all */
                die("sending");
        printf("send %.2f\n", (double)mib / (now() - start));
}

int main(int argc, char *argv[])
{
        if (getpid() == 1) {
                if (write(1, "hello\n", 6) != 6)
                        return 1;
                reboot(RB_AUTOBOOT);
                return 1;
        }
        if (argc == 4 && strcmp(argv[1], "seq") == 0)
                read_in_order(argv[2], atol(argv[3]));
        else if (argc == 4 && strcmp(argv[1], "random") == 0)
                read_at_random(argv[2], atof(argv[3]));
        else if (argc == 5 && strcmp(argv[1], "send") == 0)
                send_bytes(argv[2], argv[3], atol(argv[4]));
        else
                return 2;
        return 0;
}
