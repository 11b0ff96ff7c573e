#include "idmap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "procfs.h"
#include "sys.h"

enum { MAP_TEXT_MAX = 4096 }; /* the kernel takes one write of at most a page */

static int format_maps(const struct spec_id_maps *maps, char text[MAP_TEXT_MAX], struct err **err)
{
        size_t n = 0;

        text[0] = 0;
        for (size_t i = 0; i < maps->n; i++) {
                n += (size_t)snprintf(text + n, MAP_TEXT_MAX - n, "%u %u %u\n", maps->item[i].container_id,
                        maps->item[i].host_id, maps->item[i].size);
                if (n >= MAP_TEXT_MAX)
                        return err_set(err, ERR_BAD_CONFIG, E2BIG, "%zu id mappings are too many", maps->n);
        }
        return 0;
}

/* newuidmap PID CONTAINER HOST SIZE...: what a user may map beyond himself is in /etc/subuid. */
static int run_helper(const char *program, pid_t pid, const struct spec_id_maps *maps, struct err **err)
{
        _cleanup_free_ char **argv = calloc(maps->n * 3 + 3, sizeof(*argv));
        struct arena arena = { 0 };
        int status = -1, r = 0;
        size_t n = 0;
        pid_t child;

        if (!argv)
                return err_sys(err, ENOMEM, "mapping ids");
        argv[n++] = (char *)program;
        argv[n++] = arena_printf(&arena, "%d", pid);
        for (size_t i = 0; i < maps->n; i++) {
                argv[n++] = arena_printf(&arena, "%u", maps->item[i].container_id);
                argv[n++] = arena_printf(&arena, "%u", maps->item[i].host_id);
                argv[n++] = arena_printf(&arena, "%u", maps->item[i].size);
        }
        child = fork();
        if (child == 0) {
                execvp(program, argv);
                _exit(127);
        }
        if (child > 0)
                while (waitpid(child, &status, 0) < 0 && errno == EINTR)
                        ;
        if (status != 0) {
                r = err_set(err, ERR_NO_PERMISSION, EPERM, "mapping ids: %s %s", program,
                        WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not installed" : "refused");
                err_hint(err, r, "package uidmap must be there, and /etc/subuid and /etc/subgid must grant the ids");
        }
        arena_release(&arena);
        return r;
}

static int write_map(
        int proc, pid_t pid, const char *file, const char *helper, const struct spec_id_maps *maps, struct err **err)
{
        char path[64], text[MAP_TEXT_MAX];
        struct err *direct = NULL;
        int r = format_maps(maps, text, err);

        if (r < 0)
                return r;
        snprintf(path, sizeof(path), "%d/%s", pid, file);
        r = procfs_write(proc, path, text, &direct);
        if (r == -EPERM || r == -EACCES) {
                err_free(direct);
                return run_helper(helper, pid, maps, err);
        }
        if (r < 0 && err)
                *err = direct;
        else
                err_free(direct);
        return r;
}

int idmap_write_process(
        int proc, pid_t pid, const struct spec_id_maps *uids, const struct spec_id_maps *gids, struct err **err)
{
        char path[64];
        int r = 0;

        /* A user who maps only his own group must first give up setgroups (user_namespaces(7)). */
        if (geteuid() != 0 && gids->n == 1 && gids->item[0].size == 1) {
                snprintf(path, sizeof(path), "%d/setgroups", pid);
                r = procfs_write(proc, path, "deny", err);
        }
        if (r == 0)
                r = write_map(proc, pid, "gid_map", "newgidmap", gids, err);
        if (r == 0)
                r = write_map(proc, pid, "uid_map", "newuidmap", uids, err);
        return r;
}

int idmap_namespace(int proc, const struct spec_id_maps *uids, const struct spec_id_maps *gids, struct err **err)
{
        _cleanup_close_ int pidfd = -1, fd = -1;
        char path[64];
        pid_t pid;
        int r;

        pid = sys_clone3(&(struct sys_clone_args){
                .flags = CLONE_NEWUSER | CLONE_PIDFD, .pidfd = (u64)(uintptr_t)&pidfd, .exit_signal = SIGCHLD });
        if (pid < 0)
                return err_sys(err, -pid, "making a user namespace for a mount");
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                pause();
                _exit(0);
        }
        r = idmap_write_process(proc, pid, uids, gids, err);
        if (r == 0) {
                /* The namespace is a magic link: not through procfs_at. The number is ours and still alive. */
                snprintf(path, sizeof(path), "%d/ns/user", pid);
                fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
                if (fd < 0)
                        r = err_sys(err, errno, "opening the user namespace of a mount");
        }
        sys_pidfd_send_signal(pidfd, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        return r < 0 ? r : TAKE_FD(fd);
}

u32 idmap_to_host(const struct spec_id_maps *maps, u32 id)
{
        for (size_t i = 0; i < maps->n; i++) {
                const struct spec_id_map *m = &maps->item[i];

                if (id >= m->container_id && id - m->container_id < m->size)
                        return m->host_id + (id - m->container_id);
        }
        return UINT32_MAX;
}

/* One "CONTAINER-HOST-SIZE[#...]" list, up to a ';' or the end. */
static int parse_list(struct arena *arena, const char *text, const struct spec_id_maps *base, struct spec_id_maps *ret,
        struct err **err)
{
        const size_t length = strcspn(text, ";");
        size_t n = 1;

        for (size_t i = 0; i < length; i++)
                n += text[i] == '#';
        ret->item = arena_new(arena, struct spec_id_map, n);
        if (!ret->item)
                return err_sys(err, ENOMEM, "reading an idmap option");
        for (const char *p = text; p < text + length;) {
                const bool relative = *p == '@';
                struct spec_id_map *m = &ret->item[ret->n];
                int used = 0;

                if (ret->n >= n ||
                        sscanf(p + relative, "%u-%u-%u%n", &m->container_id, &m->host_id, &m->size, &used) != 3 ||
                        m->size == 0)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL,
                                "mount option idmap: '%.*s' is not a list of CONTAINER-HOST-SIZE", (int)length, text);
                if (relative) {
                        const u32 host = idmap_to_host(base, m->host_id);

                        if (host == UINT32_MAX)
                                return err_set(err, ERR_BAD_CONFIG, EINVAL, "mount option idmap: id %u is not mapped",
                                        m->host_id);
                        m->host_id = host;
                }
                ret->n++;
                p += relative + used;
                if (*p == '#')
                        p++;
        }
        return 0;
}

int idmap_parse_option(struct arena *arena, const char *text, const struct spec_linux *base,
        struct spec_id_maps *ret_uids, struct spec_id_maps *ret_gids, struct err **err)
{
        const char *uids = strstr(text, "uids="), *gids = strstr(text, "gids=");
        int r;

        if (!uids || !gids)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "mount option idmap: '%s' needs uids= and gids=", text);
        r = parse_list(arena, uids + 5, &base->uid_mappings, ret_uids, err);
        return r < 0 ? r : parse_list(arena, gids + 5, &base->gid_mappings, ret_gids, err);
}
