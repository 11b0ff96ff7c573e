/* The guest's end of the virtio socket tests (busybox has no AF_VSOCK). Static.
 *
 *   vsock serve PORT        echoes what each connection sends, for ever; says "vsock: serving"
 *   vsock cat PORT          standard input to PORT of the host, what comes back to standard output
 *   vsock many PORT N       N connections to the host at once, each must get its own line back
 *   vsock wait PORT         connects, reads until the connection breaks and says how
 *   vsock cid               the address of this machine */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>

#include <linux/vm_sockets.h>

#define HOST 2

static void die(const char *what)
{
        printf("vsock: %s: %s\n", what, strerror(errno));
        exit(1);
}

static int dial(unsigned port)
{
        const struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = HOST, .svm_port = port };
        const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

        if (fd < 0)
                die("socket");
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
                die("connect");
        return fd;
}

static void write_all(int fd, const char *data, size_t n)
{
        while (n) {
                const ssize_t done = write(fd, data, n);

                if (done <= 0)
                        die("write");
                data += done;
                n -= (size_t)done;
        }
}

static void copy(int from, int to)
{
        static char data[65536];
        ssize_t n;

        while ((n = read(from, data, sizeof(data))) > 0)
                write_all(to, data, (size_t)n);
        if (n < 0)
                die("read");
}

static int serve(unsigned port)
{
        const struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
        const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

        if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 128) < 0)
                die("listen");
        printf("vsock: serving\n");
        fflush(stdout);
        for (;;) {
                const int client = accept(fd, NULL, NULL);

                if (client < 0)
                        die("accept");
                if (fork() == 0) {
                        close(fd);
                        copy(client, client);
                        exit(0);
                }
                close(client);
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
        }
}

static int cat(unsigned port)
{
        const int fd = dial(port);

        if (fork() == 0) {
                copy(STDIN_FILENO, fd);
                shutdown(fd, SHUT_WR);
                exit(0);
        }
        copy(fd, STDOUT_FILENO);
        wait(NULL);
        return 0;
}

static int many(unsigned port, unsigned n)
{
        int *fds = calloc(n, sizeof(*fds));
        char line[64], back[64];
        unsigned good = 0;

        for (unsigned i = 0; i < n; i++)
                fds[i] = dial(port);
        for (unsigned i = 0; i < n; i++) {
                snprintf(line, sizeof(line), "connection %u\n", i);
                write_all(fds[i], line, strlen(line));
        }
        for (unsigned i = 0; i < n; i++) {
                const ssize_t got = read(fds[i], back, sizeof(back) - 1);

                snprintf(line, sizeof(line), "connection %u\n", i);
                good += got == (ssize_t)strlen(line) && memcmp(line, back, (size_t)got) == 0;
        }
        printf("many: %u of %u\n", good, n);
        return good != n;
}

static int wait_for_end(unsigned port)
{
        const int fd = dial(port);
        char byte;
        ssize_t n;

        printf("vsock: connected\n");
        fflush(stdout);
        while ((n = read(fd, &byte, 1)) > 0)
                ;
        printf("vsock: %s\n", n == 0 ? "end of file" : strerror(errno));
        return 0;
}

int main(int argc, char *argv[])
{
        const unsigned port = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;

        if (argc > 2 && strcmp(argv[1], "serve") == 0)
                return serve(port);
        if (argc > 2 && strcmp(argv[1], "cat") == 0)
                return cat(port);
        if (argc > 3 && strcmp(argv[1], "many") == 0)
                return many(port, (unsigned)strtoul(argv[3], NULL, 10));
        if (argc > 2 && strcmp(argv[1], "wait") == 0)
                return wait_for_end(port);
        if (argc > 1 && strcmp(argv[1], "cid") == 0) {
                const int fd = open("/dev/vsock", O_RDONLY);
                unsigned cid = 0;

                if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
                        die("/dev/vsock");
                printf("cid: %u\n", cid);
                return 0;
        }
        fprintf(stderr, "vsock: bad usage\n");
        return 2;
}
