/* Networks of a user who is not root, and the default one of such a user's machines.
 *
 * Such a user may not change the host's network, but everything in a network namespace that belongs to the user's own user namespace.
 * So there is one for all networks that the user makes: bridges, addresses, rules and resolvers are in it, made by the same code as
 * root's, and pasta is its way out.
 *
 *      the host's namespace    run/BOOT-NETNS/inner        a link to the state of the other
 *                              run/BOOT-NETNS/helpers      .user.hold, .user.pasta: the processes below
 *      the inner one           run/BOOT-INNER/             as of any namespace (internal.h)
 *
 * Published ports are strata-forward's, which listens in the one and connects in the other (forwarder.c).
 * strata-resolve hold is in it and does nothing: by it the others find the namespace. It and pasta come with the first endpoint and go
 * with the last. Who has entered the namespace may not come back, so a child does; what it made is read from the records. */
#include "inner.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "attach.h"
#include "helper.h"

#define USER   ".user" /* in place of a container; hidden, so that nobody looks for its endpoints */
#define KIND   "hold"
#define LINK   "inner"
#define UPLINK "uplink"

enum { START_MS = 5000, STEP_MS = 5 };

/* --- children ----------------------------------------------------------------------------------------------------- */

/* The result of @fn in a child. */
static int in_child(int (*fn)(void *opaque, struct err **err), void *opaque, struct err **err)
{
        int report[2], r;
        pid_t pid;

        if (pipe2(report, O_CLOEXEC) < 0)
                return err_sys(err, errno, "starting a process");
        fflush(NULL);
        pid = fork();
        if (pid == 0) {
                struct err *error = NULL;

                prctl(PR_SET_PDEATHSIG, SIGKILL);
                r = fn(opaque, &error);
                err_send(report[1], r, error);
                _exit(0);
        }
        close(report[1]);
        r = pid < 0 ? err_sys(err, errno, "starting a process") : err_receive(report[0], err);
        close(report[0]);
        while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        return r;
}

/* --- the namespace ------------------------------------------------------------------------------------------------ */

/* Of our own user namespace: that of another may have been left by instances that were killed. */
static bool is_ours(int netns)
{
        _cleanup_close_ int owner = ioctl(netns, NS_GET_USERNS);
        struct stat a, b;

        return owner >= 0 && fstat(owner, &a) == 0 && stat("/proc/self/ns/user", &b) == 0 && a.st_ino == b.st_ino;
}

/* -1: there is none that we can enter. */
static int find_namespace(struct net_store *store)
{
        _cleanup_close_ int fd = -1;
        char path[40];
        pid_t pid;

        if (helper_find(store, USER, KIND, &pid) < 0)
                return -1;
        snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd >= 0 && is_ours(fd) ? TAKE_FD(fd) : -1;
}

/* In a child: a new namespace, and the process that stays in it. */
static int make_namespace(void *opaque, struct err **err)
{
        struct net_store *store = opaque;
        const struct link_inside nothing = { .ifname = NULL };
        _cleanup_(kernel_close) struct kernel kernel = KERNEL_CLOSED;
        _cleanup_free_ char *program = helper_program("strata-resolve");
        _cleanup_close_ int lock = -1;
        pid_t pid;
        int r;

        if (!program)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "the program 'strata-resolve' is missing");
        if (unshare(CLONE_NEWNET) < 0)
                return err_sys(err, errno, "making a network namespace");
        r = kernel_open(&kernel, err);
        if (r == 0) {
                r = link_configure_inside(kernel.route, &nothing);
                r = r < 0 ? err_sys(err, -r, "making a network namespace") : helper_open(store, USER, KIND, &lock, err);
        }
        if (r < 0)
                return r;
        /* the order that resolve/main.c knows */
        return helper_spawn((const char *const[]){ program, KIND, NULL }, (const int[]){ -1, -1, store->run, lock }, 4,
                -1, &pid, err);
}

static int start_pasta(struct net_store *store, int netns, struct err **err)
{
        const struct net_attach_request request = { .container = USER, .netns_fd = netns, .ifname = UPLINK };
        _cleanup_(endpoint_freep) struct endpoint *endpoint = calloc(1, sizeof(*endpoint));

        return endpoint ? pasta_start(store, &request, endpoint, err) : err_sys(err, ENOMEM, "starting pasta");
}

/* Under the exclusive lock. */
static void drop_namespace(struct net_store *store)
{
        char name[64], path[80];

        pasta_stop(store, USER);
        helper_stop(store, USER, KIND);
        if (store_read_link(store->run, LINK, name, sizeof(name)) < 0 || !store_is_name(name, sizeof(name)))
                return;
        snprintf(path, sizeof(path), "run/%s", name);
        store_remove_dir(store->fd, path);
        unlinkat(store->run, LINK, 0);
}

/* Under the exclusive lock. */
static int make_inner(struct net_store *store, int *ret_netns, struct err **err)
{
        _cleanup_close_ int netns = -1, run = -1;
        char name[64];
        struct stat st;
        int r;

        drop_namespace(store);
        r = in_child(make_namespace, store, err);
        for (int ms = 0; r == 0 && netns < 0 && ms < START_MS; ms += STEP_MS) {
                netns = find_namespace(store);
                if (netns < 0)
                        usleep(STEP_MS * 1000);
        }
        if (r < 0)
                return r;
        if (netns < 0 || fstat(netns, &st) < 0)
                return err_set(err, ERR_IO, ESRCH, "the process that keeps the network namespace does not start");
        r = store_run_name(name, sizeof(name), err);
        if (r == 0) {
                snprintf(strchr(name, '-'), 32, "-%lu", (unsigned long)st.st_ino);
                r = store_open_run(store, name, &run, err);
        }
        if (r == 0 && symlinkat(name, store->run, LINK) < 0)
                r = err_sys(err, errno, "noting the network namespace");
        if (r == 0)
                r = start_pasta(store, netns, err);
        if (r < 0) {
                drop_namespace(store);
                return r;
        }
        *ret_netns = TAKE_FD(netns);
        return 0;
}

/* Makes it where there is none, and a place of @container in it, so that nobody takes it away meanwhile. */
static int reserve(struct net_store *store, const char *container, int *ret_netns, struct err **err)
{
        struct net_store view;
        _cleanup_close_ int lock = -1, netns = -1, dir = -1;
        int r = net_store_lock(store, LOCK_EX, &lock, err);

        if (r < 0)
                return r;
        netns = find_namespace(store);
        if (netns < 0)
                r = make_inner(store, &netns, err);
        if (r < 0)
                return r;
        if (!inner_view(store, &view))
                return err_set(err, ERR_IO, ENOENT, "the state of the network namespace is gone");
        r = endpoint_lock(&view, container, true, &dir, err);
        inner_close_view(&view);
        if (r == 0)
                *ret_netns = TAKE_FD(netns);
        return r;
}

/* --- calls -------------------------------------------------------------------------------------------------------- */

struct call {
        const struct net_store *store;
        int netns;
        int (*fn)(struct net_store *inner, void *opaque, struct err **err);
        void *opaque;
};

/* What is switched on in a namespace of our own is nobody's concern. */
static void say_nothing(void *opaque, const char *text)
{
}

static int call_inside(void *opaque, struct err **err)
{
        const struct call *call = opaque;
        _cleanup_(net_store_closep) struct net_store *inner = NULL;
        const struct net_store_options options = { .root = call->store->root, .notice = say_nothing };
        int r;

        if (setns(call->netns, CLONE_NEWNET) < 0)
                return err_sys(err, errno, "entering the network namespace");
        r = net_store_open(&options, &inner, err);
        if (r == 0 && inner->rootless)
                r = err_set(err, ERR_NO_PERMISSION, EPERM, "the network namespace is not ours");
        return r < 0 ? r : call->fn(inner, call->opaque, err);
}

int inner_call(struct net_store *store, const char *container,
        int (*fn)(struct net_store *inner, void *opaque, struct err **err), void *opaque, struct err **err)
{
        _cleanup_close_ int netns = -1;
        struct call call = { .store = store, .fn = fn, .opaque = opaque };

        if (container) {
                const int r = reserve(store, container, &netns, err);

                if (r < 0)
                        return r;
        } else
                netns = find_namespace(store);
        if (netns < 0)
                return 0;
        call.netns = netns;
        return in_child(call_inside, &call, err);
}

bool inner_view(struct net_store *store, struct net_store *ret)
{
        char name[64], path[80];

        if (!store->rootless || store_read_link(store->run, LINK, name, sizeof(name)) < 0 ||
                !store_is_name(name, sizeof(name)))
                return false;
        snprintf(path, sizeof(path), "run/%s", name);
        *ret = *store;
        ret->run = openat(store->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        return ret->run >= 0;
}

void inner_close_view(struct net_store *view)
{
        closep(&view->run);
}

bool inner_has(struct net_store *store, const char *container)
{
        char path[sizeof(DIR_ENDPOINTS) + CONTAINER_MAX + 2];
        struct net_store view;
        bool there;

        if (!inner_view(store, &view))
                return false;
        snprintf(path, sizeof(path), DIR_ENDPOINTS "/%.128s", container);
        there = faccessat(view.run, path, F_OK, 0) == 0;
        inner_close_view(&view);
        return there;
}

int inner_collect(struct net_store *store, struct err **err)
{
        _cleanup_close_ int lock = -1, netns = -1;
        struct net_store view;
        bool used = false;
        int r;

        if (!inner_view(store, &view))
                return 0;
        r = net_store_lock(store, LOCK_EX, &lock, err);
        netns = find_namespace(store);
        if (r == 0 && netns >= 0)
                used = !store_is_empty(view.run, DIR_ENDPOINTS);
        inner_close_view(&view);
        if (r == 0 && !used)
                drop_namespace(store);
        return r;
}
