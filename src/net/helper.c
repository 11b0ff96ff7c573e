#include "helper.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

enum { END_MS = 2000 };

struct lock_path {
        char text[sizeof(DIR_HELPERS) + CONTAINER_MAX + 20];
};

static struct lock_path path_of(const char *container, const char *kind)
{
        struct lock_path p;

        snprintf(p.text, sizeof(p.text), DIR_HELPERS "/%.128s.%.10s", container, kind);
        return p;
}

int helper_open(struct net_store *store, const char *container, const char *kind, int *ret, struct err **err)
{
        const int fd =
                openat(store->run, path_of(container, kind).text, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return err_sys(err, errno, "starting the %s of '%s'", kind, container);
        *ret = fd;
        return 0;
}

/* Who has the lock; 0: nobody. */
static pid_t owner_of(int fd)
{
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

        return fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

int helper_find(struct net_store *store, const char *container, const char *kind, pid_t *ret)
{
        _cleanup_close_ int fd = openat(store->run, path_of(container, kind).text, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        const pid_t pid = fd < 0 ? 0 : owner_of(fd);

        if (pid <= 0)
                return -ESRCH;
        *ret = pid;
        return 0;
}

static void kill_owner(int fd)
{
        const pid_t pid = owner_of(fd);
        _cleanup_close_ int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
        struct pollfd gone = { .fd = pidfd, .events = POLLIN };

        if (pidfd < 0 || owner_of(fd) != pid) /* still: so the descriptor is of that process and not of one after it */
                return;
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        poll(&gone, 1, END_MS);
        waitpid(pid, NULL, WNOHANG); /* when it is our own child */
}

void helper_stop(struct net_store *store, const char *container, const char *kind)
{
        const struct lock_path path = path_of(container, kind);
        _cleanup_close_ int fd = openat(store->run, path.text, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return;
        kill_owner(fd);
        unlinkat(store->run, path.text, 0);
        kill_owner(fd); /* one that had not come to its lock before; after this it finds that the file has no name */
}

int helper_spawn(const char *const *argv, const int *fds, size_t n_fds, int log, pid_t *ret, struct err **err)
{
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attr;
        int high[HELPER_FDS_MAX];
        sigset_t none;
        int r;

        if (n_fds > HELPER_FDS_MAX)
                return err_sys(err, E2BIG, "starting '%s'", argv[0]);

        sigemptyset(&none);
        posix_spawn_file_actions_init(&actions);
        posix_spawnattr_init(&attr);
        posix_spawnattr_setsigmask(&attr, &none);
        posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
        posix_spawn_file_actions_adddup2(&actions, 0, 1);
        if (log >= 0)
                posix_spawn_file_actions_adddup2(&actions, log, 2);
        for (size_t i = 0; i < n_fds; i++) {
                /* above all the numbers that are written to */
                high[i] = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD_CLOEXEC, 3 + (int)n_fds);
                posix_spawn_file_actions_adddup2(&actions, high[i] < 0 ? 0 : high[i], 3 + (int)i);
        }
        posix_spawn_file_actions_addclosefrom_np(&actions, 3 + (int)n_fds);
        r = posix_spawn(ret, argv[0], &actions, &attr, (char *const *)argv, environ);
        for (size_t i = 0; i < n_fds; i++)
                closep(&high[i]);
        posix_spawnattr_destroy(&attr);
        posix_spawn_file_actions_destroy(&actions);
        return r ? err_sys(err, r, "starting '%s'", argv[0]) : 0;
}

/* "PATH/DIR1:PATH/DIR2" */
static char *find_in_path(const char *name)
{
        const char *path = getenv("PATH");

        for (path = path && *path ? path : "/usr/bin:/bin"; *path; path += *path == ':') {
                const size_t n = strcspn(path, ":");
                char *program = NULL;

                if (n && *path == '/' && asprintf(&program, "%.*s/%s", (int)n, path, name) > 0 &&
                        access(program, X_OK) == 0)
                        return program;
                free(program);
                path += n;
        }
        return NULL;
}

char *helper_program(const char *name)
{
        char self[PATH_MAX];
        const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *slash, *program = NULL;

        if (n > 0) {
                self[n] = '\0';
                slash = strrchr(self, '/');
                if (slash && asprintf(&program, "%.*s/%s", (int)(slash - self), self, name) > 0 &&
                        access(program, X_OK) == 0)
                        return program;
                free(program);
        }
        return find_in_path(name);
}
