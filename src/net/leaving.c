/* Interfaces that go.
 *
 * Removing one takes the kernel some 15 to 20 ms (it waits for RCU grace periods), which is longer than all else that
 * a container's end takes. When the container's processes have ended the kernel removes the interface anyway, together
 * with the namespace. So then we only note its name in run/leaving, and whoever attaches or checks next looks whether
 * it went. It did not when somebody else shares the namespace: then it is removed after all. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "internal.h"

enum { PATIENCE_S = 2 };

struct leaving_path {
        char text[sizeof(DIR_LEAVING) + IFNAMSIZ + 1];
};

static struct leaving_path path_of(const char *ifname)
{
        struct leaving_path p;

        snprintf(p.text, sizeof(p.text), DIR_LEAVING "/%.15s", ifname);
        return p;
}

bool process_has_ended(pid_t pid)
{
        char path[32], stat[512];
        const char *state;
        int n;

        if (pid <= 0)
                return false;
        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT;
        n = (int)read(fd, stat, sizeof(stat) - 1);
        if (n <= 0)
                return true; /* it ended between the two */
        stat[n] = '\0';
        state = strrchr(stat, ')'); /* proc(5): the name in parentheses may contain anything */
        return state && strlen(state) > 2 && (state[2] == 'Z' || state[2] == 'X');
}

static int delete_link(struct kernel *kernel, const char *ifname, struct err **err)
{
        const int r = link_delete(kernel->route, ifname);

        return r < 0 ? err_sys(err, -r, "removing the interface '%s'", ifname) : 0;
}

int leaving_remove(struct net_store *store, struct kernel *kernel, const char *ifname, bool has_ended, struct err **err)
{
        if (link_index(kernel->route, ifname) == -ENODEV)
                return 0;
        if (has_ended && symlinkat("-", store->run, path_of(ifname).text) == 0)
                return 0;
        return delete_link(kernel, ifname, err);
}

bool leaving_is(struct net_store *store, const char *ifname)
{
        return faccessat(store->run, path_of(ifname).text, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int collect_one(void *opaque, int dirfd, const char *ifname, struct err **err)
{
        struct kernel *kernel = opaque;
        struct stat st;
        int r = 0;

        if (link_index(kernel->route, ifname) > 0) {
                if (fstatat(dirfd, ifname, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                        time(NULL) - st.st_mtim.tv_sec <= PATIENCE_S)
                        return 0;
                r = delete_link(kernel, ifname, err);
        }
        if (r == 0)
                unlinkat(dirfd, ifname, 0);
        return r;
}

int leaving_collect(struct net_store *store, struct kernel *kernel, struct err **err)
{
        return store_list_dir(store->run, DIR_LEAVING, collect_one, kernel, err);
}
