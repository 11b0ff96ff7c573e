/* A user who is not root gets a user namespace in which he is, with the further ids that /etc/subuid and /etc/subgid grant
 * (newuidmap and newgidmap write those maps, they are set-user-id), or with his own alone. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "internal.h"

extern char **environ;

/* The first range of @file for the user, by name or number. */
static bool granted(const char *file, const char *user, uid_t uid, unsigned long *ret_start, unsigned long *ret_count)
{
        _cleanup_fclose_ FILE *f = fopen(file, "re");
        char line[512], number[24];

        snprintf(number, sizeof(number), "%u", uid);
        while (f && fgets(line, sizeof(line), f)) {
                char *colon = strchr(line, ':');

                if (!colon)
                        continue;
                *colon = '\0';
                if ((strcmp(line, user) == 0 || strcmp(line, number) == 0) &&
                        sscanf(colon + 1, "%lu:%lu", ret_start, ret_count) == 2 && *ret_count > 0)
                        return true;
        }
        return false;
}

/* PROGRAM PID 0 ID 1 1 START COUNT */
static int map_by_program(const char *program, pid_t pid, unsigned id, unsigned long start, unsigned long count)
{
        char pid_text[16], id_text[16], start_text[24], count_text[24];
        char *argv[] = { (char *)program, pid_text, (char *)"0", id_text, (char *)"1", (char *)"1", start_text,
                count_text, NULL };
        pid_t child;
        int status;

        snprintf(pid_text, sizeof(pid_text), "%d", (int)pid);
        snprintf(id_text, sizeof(id_text), "%u", id);
        snprintf(start_text, sizeof(start_text), "%lu", start);
        snprintf(count_text, sizeof(count_text), "%lu", count);
        if (posix_spawnp(&child, program, NULL, NULL, argv, environ) != 0)
                return -1;
        while (waitpid(child, &status, 0) < 0)
                if (errno != EINTR)
                        return -1;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static int map_from_outside(pid_t pid, uid_t uid, gid_t gid)
{
        const struct passwd *entry = getpwuid(uid);
        const char *user = entry ? entry->pw_name : "";
        unsigned long start, count;

        if (!granted("/etc/subuid", user, uid, &start, &count) ||
                map_by_program("newuidmap", pid, uid, start, count) < 0)
                return 1;
        if (!granted("/etc/subgid", user, uid, &start, &count) ||
                map_by_program("newgidmap", pid, gid, start, count) < 0)
                return 2;
        return 0;
}

static int write_map(const char *file, const char *text)
{
        _cleanup_close_ int fd = open(file, O_WRONLY | O_CLOEXEC);

        return fd < 0 ? -errno : io_write_all(fd, text, strlen(text));
}

static int map_own_id(uid_t uid, gid_t gid)
{
        char text[64];
        int r;

        snprintf(text, sizeof(text), "0 %u 1\n", uid);
        r = write_map("/proc/self/uid_map", text);
        write_map("/proc/self/setgroups", "deny");
        snprintf(text, sizeof(text), "0 %u 1\n", gid);
        return r < 0 ? r : write_map("/proc/self/gid_map", text);
}

int image_enter_user_namespace(struct err **err)
{
        const uid_t uid = geteuid();
        const gid_t gid = getegid();
        const pid_t self = getpid();
        int gate[2], status = -1;
        char byte = 0;
        pid_t helper;
        int r = 0;

        if (uid == 0)
                return 0;
        /* A helper outside writes the maps when we are inside. */
        if (pipe2(gate, O_CLOEXEC) < 0)
                return err_sys(err, errno, "entering a user namespace");
        helper = fork();
        if (helper == 0) {
                close(gate[1]);
                if (read(gate[0], &byte, 1) != 1)
                        _exit(1);
                _exit(map_from_outside(self, uid, gid));
        }
        close(gate[0]);
        if (helper < 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
                r = -errno;
        if (r == 0 && write(gate[1], &byte, 1) != 1)
                r = -errno;
        close(gate[1]);
        if (helper > 0)
                while (waitpid(helper, &status, 0) < 0 && errno == EINTR)
                        ;
        if (r < 0) {
                r = err_sys(err, -r, "entering a user namespace");
                return err_hint(err, r,
                        "the kernel or its settings may forbid them to users: kernel.unprivileged_userns_clone, user.max_user_namespaces");
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status) == 1)
                r = map_own_id(uid, gid);
        else if (WEXITSTATUS(status) == 2)
                r = -EPERM; /* half a map cannot be taken back */
        if (r < 0)
                return err_sys(err, -r, "mapping the ids of a user namespace");
        if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
                return err_sys(err, errno, "becoming root of a user namespace");
        mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL);
        return 0;
}
