/* The runtime's side of create, start and run. Reading order: make_container, which every one of them goes through. */
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "hooks.h"
#include "idmap.h"
#include "internal.h"
#include "netdev.h"
#include "notify.h"
#include "rdt.h"
#include "rootfs.h"
#include "seal.h"
#include "spawn.h"
#include "sync.h"
#include "sys.h"
#include "wait.h"

/* ---- preparing ---- */

static bool is_annotated(const struct spec *spec, const char *key)
{
        const char *value = spec_annotation(spec, key);

        return value && strcmp(value, "0") != 0 && strcmp(value, "false") != 0;
}

static int prepare(struct launch *l, const struct box_create_args *args, struct err **err)
{
        int r;

        l->no_pivot = args->no_pivot;
        l->keep_groups = is_annotated(l->spec, "run.oci.keep_original_groups");
        l->no_new_keyring = args->no_new_keyring;
        /* Somebody else is in the pid namespace who might look at our process (CAP_SYS_PTRACE) before it is the
         * payload. */
        l->always_clone = !(l->spec->namespaces_new & CLONE_NEWPID) && geteuid() == 0;
        /* Hooks inside are programs of the image that our process executes: they could be /proc/self/exe in
         * disguise. */
        l->always_clone |= hooks_any(l->spec, HOOK_START_CONTAINER);
        r = launch_prepare_process(l, err);
        return r < 0 ? r : launch_connect(l, err);
}

/* ---- the conversation ---- */

/* Fetches the seccomp listener as soon as the process says where it is, and gives it to its agent. */
static int serve_listener(struct launch *l, const struct spawned *s, struct err **err)
{
        const int number = atomic_load(l->listener_page);
        _cleanup_close_ int listener = -1;
        json_t *state;
        int r;

        if (number < 0)
                return 0;
        listener = (int)syscall(SYS_pidfd_getfd, s->pidfd, number, 0);
        if (listener < 0)
                return err_sys(err, errno, "fetching the seccomp listener");
        state = state_object(l->state, "creating");
        r = state ? seccomp_filter_send_listener(l->filter, listener, s->pid, state, err)
                  : err_sys(err, ENOMEM, "sending the seccomp listener");
        json_decref(state);
        if (r < 0)
                err_wrap(err, r, "failed to connect with seccomp agent");
        atomic_store(l->listener_page, LISTENER_TAKEN); /* pairs with load_filter in process.c */
        return r;
}

/* Messages until @until or the end of the stream. */
int launch_converse(struct launch *l, const struct spawned *s, enum sync_type until, int *ret_master, struct err **err)
{
        for (;;) {
                int fd = -1, type;

                while (l->listener_page && atomic_load(l->listener_page) >= LISTENER_PENDING) {
                        struct pollfd p = { .fd = s->sync, .events = POLLIN };
                        int r;

                        if (poll(&p, 1, 1) > 0)
                                break;
                        r = serve_listener(l, s, err);
                        if (r < 0)
                                return r;
                }
                type = sync_receive(s->sync, NULL, &fd, err);
                if (type < 0)
                        return type;
                if (type == SYNC_TERMINAL && ret_master && *ret_master < 0) {
                        *ret_master = fd;
                        continue;
                }
                closep(&fd);
                if (type == SYNC_HOOKS) {
                        const int r = launch_run_hooks(l, 0, err);

                        if (r < 0)
                                return r;
                        sync_send(s->sync, SYNC_HOOKS, 0, -1);
                        continue;
                }
                if (type == (int)until || type == SYNC_END)
                        return type == (int)until ? 0
                                                  : err_set(err, ERR_IO, ECONNRESET,
                                                            "the container's process died while it was set up");
                return err_set(err, ERR_INTERNAL, EPROTO, "message %d came unexpected", type);
        }
}

static int listen_for_start(struct launch *l, struct err **err)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        l->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" STATE_START_SOCKET, l->state->dir);
        if (l->listener < 0 || bind(l->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
                listen(l->listener, 1) < 0)
                return err_sys(err, errno, "making the start socket");
        l->listener = launch_move_up(l, l->listener);
        return 0;
}

/* ---- making a container ---- */

static int set_up(struct launch *l, struct spawned *s, int *ret_master, struct err **err)
{
        int r = state_save_config(l->state, l->spec, err);

        if (r == 0)
                r = launch_make_cgroup(l, err);
        if (r == 0)
                r = rootfs_prepare_sources(l, err);
        if (r == 0)
                r = spawn(l, init_run, s, err);
        if (r < 0)
                return r;
        l->state->pid = s->pid;
        l->state->pid_start = state_process_start(s->pid, NULL);
        if (l->spec->namespaces_new & CLONE_NEWUSER) {
                r = idmap_write_process(
                        l->proc, s->pid, &l->spec->linux_.uid_mappings, &l->spec->linux_.gid_mappings, err);
                if (r == 0)
                        r = sync_send(s->sync, SYNC_MAPPED, 0, -1);
        }
        if (r == 0)
                r = rdt_apply(l->spec, l->state, s->pid, err);
        if (r == 0)
                r = netdev_move(l->spec, s->pid, err);
        if (r == 0)
                r = state_save(l->state, err);
        if (r < 0)
                return r;
        sync_send(s->sync, SYNC_GO, 0, -1); /* when it died, the conversation says why */
        log_debug("child process in init()");
        r = launch_converse(l, s, l->listener >= 0 ? SYNC_READY : SYNC_END, ret_master, err);
        if (r == 0)
                log_debug("init: closing the pipe to signal completion");
        launch_end_placeholder(l);
        return r;
}

/* Everything up to a container that is created (foreground false, listening for start) or runs. */
static int make_container(struct launch *l, const struct box_runtime *runtime, const struct box_create_args *args,
        bool listening, bool foreground, struct spawned *s, int *ret_master, struct err **err)
{
        int r = launch_open(l, runtime, args, foreground, err);

        if (r == 0)
                r = prepare(l, args, err);
        if (r < 0)
                return r;
        if (!listening && !l->process)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "process: missing, nothing can be run");
        r = launch_record(l, args->id, err);
        if (r < 0)
                return r;
        r = notify_prepare(l, err);
        if (r == 0 && listening)
                r = listen_for_start(l, err);
        if (r == 0)
                r = set_up(l, s, ret_master, err);
        if (r == 0)
                r = launch_publish(&args->stdio, s->pid, s->pidfd, err);
        if (r < 0)
                launch_undo(l, s);
        return r;
}

int box_create(const struct box_runtime *runtime, const struct box_create_args *args, struct err **err)
{
        _cleanup_(launch_release) struct launch l;
        _cleanup_(spawned_release) struct spawned s = SPAWNED_NONE;

        launch_init(&l);
        if (geteuid() == 0)
                seal_process();
        return make_container(&l, runtime, args, true, false, &s, NULL, err);
}

int box_start(const struct box_runtime *runtime, const char *id, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(spec_freep) struct spec *spec = NULL;
        _cleanup_close_ int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int notify = -1, pidfd = -1;
        enum box_status status;
        int r = state_load(runtime, id, &h, err);

        if (r < 0)
                return r;
        status = state_quick_status(h);
        if (status != BOX_CREATED)
                return err_set(err, ERR_BUSY, EBUSY, "cannot start a container that is %s", box_status_name(status));
        r = state_load_config(h, &spec, err);
        if (r < 0)
                return r;
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" STATE_START_SOCKET, h->dir);
        if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0)
                return err_sys(err, errno, "starting container '%s'", id);
        notify = notify_reopen(h, err);
        if (notify < -1)
                return notify;
        unlinkat(h->dir, STATE_START_SOCKET, 0);
        r = sync_send(sock, SYNC_GO, 0, -1);
        if (r < 0)
                return err_sys(err, -r, "starting container '%s'", id);
        r = sync_receive(sock, NULL, NULL, err);
        if (r < 0)
                return err_wrap(err, r, "starting container '%s'", id);
        r = hooks_run(spec, HOOK_POSTSTART, h, "running", 0, h->bundle, err);
        if (r < 0) {
                /* The specification: stop it, and go on with deleting. */
                box_delete(runtime, id, true, NULL);
                return r;
        }
        pidfd = notify >= 0 ? state_pidfd(h) : -1;
        if (pidfd >= 0)
                notify_wait(notify, pidfd);
        return 0;
}

int box_run(const struct box_runtime *runtime, const struct box_create_args *args, int *ret_status, struct err **err)
{
        _cleanup_(launch_release) struct launch l;
        _cleanup_(spawned_release) struct spawned s = SPAWNED_NONE;
        _cleanup_close_ int master = -1;
        const bool foreground = !args->stdio.detach;
        int r = 0;

        launch_init(&l);
        if (geteuid() == 0)
                seal_process();
        if (foreground) {
                r = wait_prepare(err);
                if (!args->no_subreaper)
                        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        }
        if (r == 0)
                r = make_container(&l, runtime, args, false, foreground, &s, &master, err);
        if (r < 0) {
                wait_drain(master);
                return r;
        }
        r = hooks_run(l.spec, HOOK_POSTSTART, l.state, "running", 0, l.state->bundle, err);
        if (r < 0) {
                launch_undo(&l, &s);
                return r;
        }
        if (!foreground) {
                if (l.notify >= 0)
                        notify_wait(l.notify, s.pidfd);
                *ret_status = 0;
                return 0;
        }
        return launch_wait(&l, &s, master, args->keep, ret_status, err);
}
