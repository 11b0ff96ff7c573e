#include "passwd.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "box/sys.h"
#include "userns.h"

#define FILE_MAX (16 * (off_t)MIB)

/* Whether a line has that name, its first field, or that id, its third. */
static bool has_entry(FILE *f, const char *name, u32 id)
{
        char *line = NULL;
        size_t room = 0;
        bool found = false;

        while (!found && getline(&line, &room, f) > 0) {
                char *rest = line, *end, *first = strsep(&rest, ":\n"), *third;

                strsep(&rest, ":\n");
                third = strsep(&rest, ":\n");
                found = strcmp(first, name) == 0 || (third && *third && strtoul(third, &end, 10) == id && !*end);
        }
        free(line);
        return found;
}

static bool ends_with_newline(int fd, off_t size)
{
        char last;

        return size == 0 || (pread(fd, &last, 1, size - 1) == 1 && last == '\n');
}

/* "NAME:" and @rest, unless the file has that name or id. */
static int add_entry(int root, const char *file, const char *name, u32 id, const char *rest, struct err **err)
{
        _cleanup_close_ int fd = sys_openat2(
                root, file, O_RDWR | O_APPEND | O_NOCTTY | O_NONBLOCK, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
        _cleanup_fclose_ FILE *f = NULL;
        _cleanup_free_ char *line = NULL;
        struct stat st;
        int copy, r;

        if (fd == -ENOENT || fd == -ENOTDIR)
                return 0;
        if (fd < 0)
                return err_sys(err, -fd, "--userns keep-id: opening the instance's '%s'", file);
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
                return 0;
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        f = copy < 0 ? NULL : fdopen(copy, "r");
        if (!f) {
                r = err_sys(err, errno, "--userns keep-id: reading the instance's '%s'", file);
                closep(&copy);
                return r;
        }
        if (has_entry(f, name, id))
                return 0;
        if (asprintf(&line, "%s%s:%s\n", ends_with_newline(fd, st.st_size) ? "" : "\n", name, rest) < 0)
                return err_sys(err, ENOMEM, "--userns keep-id: writing the instance's '%s'", file);
        r = io_write_all(fd, line, strlen(line));
        return r < 0 ? err_sys(err, -r, "--userns keep-id: writing the instance's '%s'", file) : 0;
}

static bool is_mounted(const struct instance_config *c, const char *target)
{
        for (size_t i = 0; i < c->mounts.n; i++)
                if (strcmp(c->mounts.item[i].target, target) == 0)
                        return true;
        return false;
}

/* What is in a field of /etc/passwd. */
static bool is_plain(const char *text)
{
        return text && !strpbrk(text, ":\n");
}

int passwd_add_user(const struct instance *inst, int root, struct err **err)
{
        const struct instance_config *c = &inst->config;
        struct userns_kept kept;
        _cleanup_free_ char *rest = NULL;
        const struct passwd *user;
        const struct group *group;
        const char *home;
        int r = 0;

        if (!userns_keeps(c, &kept))
                return 0;
        user = getpwuid(kept.outside_uid);
        if (!user || !is_plain(user->pw_name))
                return 0;
        home = user->pw_dir && is_mounted(c, user->pw_dir) ? user->pw_dir : c->working_dir;
        if (asprintf(&rest, "*:%u:%u:%s:%s:/bin/sh", kept.uid, kept.gid, is_plain(user->pw_gecos) ? user->pw_gecos : "",
                    is_plain(home) && *home ? home : "/") < 0)
                return err_sys(err, ENOMEM, "--userns keep-id");
        if (!is_mounted(c, "/etc/passwd"))
                r = add_entry(root, "etc/passwd", user->pw_name, kept.uid, rest, err);
        group = getgrgid(kept.outside_gid);
        if (r < 0 || !group || !is_plain(group->gr_name) || is_mounted(c, "/etc/group"))
                return r;
        free(TAKE_PTR(rest));
        if (asprintf(&rest, "x:%u:%s", kept.gid, user->pw_name) < 0)
                return err_sys(err, ENOMEM, "--userns keep-id");
        return add_entry(root, "etc/group", group->gr_name, kept.gid, rest, err);
}
