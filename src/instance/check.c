/* Whether anything is left that belongs to nobody: what the chaos test looks at, and `strata system check`. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "network.h"
#include "net/net.h"

#define GROUP_ROOT   "/sys/fs/cgroup"
#define GROUP_PREFIX "strata-"

struct check {
        struct instance_host *host;
        void (*problem)(void *opaque, const char *text);
        void *opaque;
        int n;
};

static void _printf_(2, 3) complain(struct check *c, const char *fmt, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        va_end(ap);
        c->n++;
        if (c->problem && text)
                c->problem(c->opaque, text);
}

static bool is_alive(const struct check *c, const char *id)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;

        return instance_open(c->host, id, &inst, NULL) == 0 && supervisor_alive(inst);
}

static bool is_ours(const struct check *c, const char *id)
{
        char path[sizeof(DIR_INSTANCES) + ID_LEN + 2];

        snprintf(path, sizeof(path), DIR_INSTANCES "/%s", id);
        return faccessat(c->host->fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* --- directories ------------------------------------------------------------------------------------------------ */

static int check_file(void *opaque, int dirfd, const char *name, struct err **err)
{
        static const char *const of_runs[] = { DIR_BOX, DIR_VM, FILE_PID, FILE_OOM, FILE_CONSOLE };
        struct check *c = opaque;

        for (size_t i = 0; i < ARRAY_SIZE(of_runs); i++)
                if (strcmp(name, of_runs[i]) == 0)
                        complain(c, "'%s' of a run that is over", name);
        return 0;
}

static int check_instance(void *opaque, struct instance_host *host, const char *id, struct err **err)
{
        struct check *c = opaque;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        const int before = c->n;

        if (instance_open(host, id, &inst, NULL) < 0)
                return 0;
        if (!config_exists(inst->dir))
                complain(c, "the instance %.12s is incomplete", id);
        else if (!supervisor_alive(inst))
                io_list_dir(inst->dir, ".", check_file, c, NULL);
        if (c->n != before)
                complain(c, "... in %s/" DIR_INSTANCES "/%s", host->root, id);
        return 0;
}

static int check_name(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct check *c = opaque;
        char id[ID_LEN + 2];
        const ssize_t n = readlinkat(dirfd, name, id, sizeof(id) - 1);

        id[MAX(n, 0)] = '\0';
        if (!id_is_valid(id) || !is_ours(c, id))
                complain(c, "the name '%s' belongs to nobody", name);
        return 0;
}

static int check_pin(void *opaque, const char *id, const char *image_digest)
{
        struct check *c = opaque;

        if (id_is_valid(id) && !is_ours(c, id))
                complain(c, "the image %s is pinned by %.12s, which is gone", image_digest, id);
        return 0;
}

/* --- the kernel's ----------------------------------------------------------------------------------------------- */

/* Groups named after instances: of ours that do not run, or of nobody's (which may be another root's: only ours are told). */
static int check_group(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct check *c = opaque;
        const char *id = name + strlen(GROUP_PREFIX);

        if (strncmp(name, GROUP_PREFIX, strlen(GROUP_PREFIX)) == 0 && id_is_valid(id) && is_ours(c, id) &&
                !is_alive(c, id))
                complain(c, "the control group '%s' of an instance that does not run", name);
        return 0;
}

static int check_hierarchy(void *opaque, int dirfd, const char *name, struct err **err)
{
        _cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd >= 0)
                io_list_dir(fd, ".", check_group, opaque, NULL);
        return 0;
}

static void check_mounts(struct check *c)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
        _cleanup_free_ char *below = NULL;
        char *line = NULL;
        size_t room = 0;

        if (asprintf(&below, " %s/" DIR_INSTANCES "/", c->host->root) < 0)
                below = NULL;
        while (f && below && getline(&line, &room, f) > 0)
                if (strstr(line, below))
                        complain(c, "a mount: %.*s", (int)strcspn(line, "\n"), line);
        free(line);
}

static bool is_alive_for_net(void *opaque, const char *id)
{
        return is_alive(opaque, id);
}

static void net_problem(void *opaque, const char *text)
{
        complain(opaque, "network: %s", text);
}

static int check_networks(struct check *c, struct err **err)
{
        _cleanup_(net_store_closep) struct net_store *store = NULL;
        _cleanup_free_ char *root = network_root(c->host);
        int r;

        if (!root)
                return err_sys(err, ENOMEM, "checking networks");
        r = net_store_open(&(struct net_store_options){ .root = root }, &store, err);
        if (r == 0)
                r = net_check(store, is_alive_for_net, net_problem, c, err);
        return MIN(r, 0);
}

int instance_host_check(
        struct instance_host *host, void (*problem)(void *opaque, const char *text), void *opaque, struct err **err)
{
        struct check c = { host, problem, opaque, 0 };
        int r = host_each_id(host, check_instance, &c, err);

        if (r == 0)
                r = io_list_dir(host->fd, DIR_NAMES, check_name, &c, err);
        if (r == 0)
                r = image_instance_list(host->images, check_pin, &c, err);
        if (r == 0)
                r = io_list_dir(AT_FDCWD, GROUP_ROOT, check_hierarchy, &c, err);
        check_mounts(&c);
        if (r == 0)
                r = check_networks(&c, err);
        return r < 0 ? r : c.n;
}
