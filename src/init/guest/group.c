/* A control group with all processes but strata-init, so that they can be frozen: what is saved of a machine and goes on as somebody else
 * must not do so before it has been told who it is. The kernel's Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze".
 *
 * The processes see it as the root of all groups (a control group namespace), as in a container. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define GROUPS_PLACE "/sys/fs/cgroup"
/* Who has not stopped by then waits inside of the kernel for something, and stops on the way out. */
#define FREEZE_MS 1000

int group_open(void)
{
        const int all = private_mount("cgroup2");
        int group;

        if (all < 0)
                return all;
        mkdirat(all, INIT_GROUP, 0755);
        group = openat(all, INIT_GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(all);
        /* Linux 5.14. Processes can be started in a group since 5.7, which shows nowhere. */
        if (group >= 0 && faccessat(group, "cgroup.kill", F_OK, 0) < 0) {
                close(group);
                return -EOPNOTSUPP;
        }
        return group < 0 ? -errno : group;
}

static bool all_stand_still(int events)
{
        char text[256];
        const ssize_t n = pread(events, text, sizeof(text) - 1, 0);

        text[n > 0 ? n : 0] = '\0';
        return strstr(text, "frozen 1");
}

static void wait_for_all(int group)
{
        const int events = openat(group, "cgroup.events", O_RDONLY | O_CLOEXEC);
        struct pollfd p = { .fd = events, .events = POLLPRI };

        while (events >= 0 && !all_stand_still(events) && poll(&p, 1, FREEZE_MS) > 0)
                ;
        if (events >= 0)
                close(events);
}

int group_freeze(struct init *init, bool freeze)
{
        const int fd = openat(init->group, "cgroup.freeze", O_WRONLY | O_CLOEXEC);
        const bool written = fd >= 0 && write(fd, freeze ? "1" : "0", 1) == 1;
        const int r = written ? 0 : -errno;

        if (fd >= 0)
                close(fd);
        if (r < 0)
                return r;
        init->frozen = freeze;
        if (freeze) {
                wait_for_all(init->group);
                process_collect(init); /* what they said as who they were is not said again by others */
        }
        return 0;
}

int request_freeze(struct init *init, const struct init_message *m, struct failure *failure)
{
        const bool freeze = m->field[0].number;
        int r;

        if (init->group < 0)
                return fail(failure, EOPNOTSUPP, "stopping all processes", NULL);
        /* Who did not become what it was to be must not go on as who it was. */
        if (!freeze && init->half_told)
                return fail(failure, ECANCELED, "letting all processes go on", NULL);
        if (!freeze && init->readdressed)
                sockets_end_lost(init);
        r = group_freeze(init, freeze);
        init->half_told = init->readdressed = false;
        return r < 0 ? fail(failure, -r, freeze ? "stopping all processes" : "letting all processes go on", NULL) : 0;
}

void group_show_as_root(void)
{
        if (unshare(CLONE_NEWCGROUP) == 0 && umount2(GROUPS_PLACE, MNT_DETACH) == 0)
                mount("cgroup", GROUPS_PLACE, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}
