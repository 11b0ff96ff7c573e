/* What the kernel alone takes for a container: namespaces, control groups, mounts, pivot_root, exec, and all of it away again.
 * Nothing is read, checked or remembered. bench/container compares the runtimes' growth with this one's.
 *
 *      container_floor ROOTFS NAME GROUP-DIRECTORY...   runs /bin/true of ROOTFS */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int r, const char *what)
{
        if (r >= 0)
                return;
        perror(what);
        _exit(1);
}

static void write_file(const char *path, const char *text, size_t len)
{
        const int fd = open(path, O_WRONLY | O_CLOEXEC);

        check(fd, path);
        check((int)write(fd, text, len), path);
        close(fd);
}

/* A new group of cgroup v1's cpuset has no processors and no memory until it is told. */
static void inherit_cpuset(const char *parent, const char *name, const char *file)
{
        char path[4096], text[4096];
        ssize_t n;
        int fd;

        snprintf(path, sizeof(path), "%s/%s", parent, file);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        n = read(fd, text, sizeof(text));
        close(fd);
        snprintf(path, sizeof(path), "%s/%s/%s", parent, name, file);
        if (n > 1)
                write_file(path, text, (size_t)n);
}

static void inside(const char *rootfs)
{
        static const struct {
                const char *type, *path, *options;
        } mounts[] = {
                { "proc", "proc", NULL },
                { "tmpfs", "dev", "mode=755,size=65536k" },
                { "devpts", "dev/pts", "newinstance,ptmxmode=0666,mode=0620,gid=5" },
                { "tmpfs", "dev/shm", "mode=1777,size=65536k" },
                { "mqueue", "dev/mqueue", NULL },
                { "sysfs", "sys", NULL },
        };

        check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "propagation");
        check(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL), rootfs);
        check(chdir(rootfs), rootfs);
        for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
                mkdir(mounts[i].path, 0755);
                check(mount("none", mounts[i].path, mounts[i].type, 0, mounts[i].options), mounts[i].path);
        }
        check((int)syscall(SYS_pivot_root, ".", "."), "pivot_root");
        check(umount2(".", MNT_DETACH), "umount");
        check(chdir("/"), "/");
        execl("/bin/true", "true", NULL);
        check(-1, "/bin/true");
}

int main(int argc, char **argv)
{
        struct clone_args args = { .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
                .exit_signal = SIGCHLD };
        char path[4096], pid_text[16], go = 0;
        int gate[2], status;
        long pid;

        if (argc < 3)
                return 2;
        check(pipe2(gate, O_CLOEXEC), "pipe");
        pid = syscall(SYS_clone3, &args, sizeof(args));
        check((int)pid, "clone3");
        if (pid == 0) {
                close(gate[1]);
                if (read(gate[0], &go, 1) != 1)
                        _exit(1);
                inside(argv[1]);
        }
        for (int i = 3; i < argc; i++) {
                snprintf(path, sizeof(path), "%s/%s", argv[i], argv[2]);
                check(mkdir(path, 0755), path);
                inherit_cpuset(argv[i], argv[2], "cpuset.cpus");
                inherit_cpuset(argv[i], argv[2], "cpuset.mems");
                snprintf(path, sizeof(path), "%s/%s/cgroup.procs", argv[i], argv[2]);
                write_file(path, pid_text, (size_t)snprintf(pid_text, sizeof(pid_text), "%ld", pid));
        }
        check((int)write(gate[1], &go, 1), "pipe");
        check(waitpid((pid_t)pid, &status, 0), "wait");
        for (int i = 3; i < argc; i++) {
                snprintf(path, sizeof(path), "%s/%s", argv[i], argv[2]);
                while (rmdir(path) < 0)
                        usleep(100);
        }
        return status != 0;
}
