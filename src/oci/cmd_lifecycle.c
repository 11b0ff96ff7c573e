/* create, start, run, restore, exec: what makes processes. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci.h"

struct create_options {
        const char *bundle, *config, *console_socket, *pidfd_socket, *pid_file, *ignored;
        s64 preserve_fds;
        bool no_pivot, no_new_keyring, no_subreaper, detach, keep;
};

#define CREATE_OPTIONS                                                                                              \
        OPTION(STRING, struct create_options, bundle, "bundle", 'b', "the bundle's directory (default: this one)"), \
                OPTION(STRING, struct create_options, config, "config", 'f',                                        \
                        "config.json elsewhere than in the bundle"),                                                \
                OPTION(STRING, struct create_options, console_socket, "console-socket", 0,                          \
                        "a socket that gets the terminal's master"),                                                \
                OPTION(STRING, struct create_options, pidfd_socket, "pidfd-socket", 0,                              \
                        "a socket that gets a pidfd of the first process"),                                         \
                OPTION(STRING, struct create_options, pid_file, "pid-file", 0, "a file that gets the process id"),  \
                OPTION(NUMBER, struct create_options, preserve_fds, "preserve-fds", 0,                              \
                        "descriptors from 3 on that the process keeps"),                                            \
                OPTION(FLAG, struct create_options, no_pivot, "no-pivot", 0,                                        \
                        "move the root instead of pivot_root: for a root in a ramfs"),                              \
                OPTION(FLAG, struct create_options, no_new_keyring, "no-new-keyring", 0,                            \
                        "keep the caller's session keyring"),                                                       \
                OPTION(FLAG, struct create_options, no_subreaper, "no-subreaper", 0,                                \
                        "do not adopt processes that the container leaves behind")

static const struct option_spec create_options[] = { CREATE_OPTIONS, { 0 } };

static const struct option_spec run_options[] = {
        CREATE_OPTIONS,
        OPTION(FLAG, struct create_options, detach, "detach", 'd', "return when it runs"),
        OPTION(FLAG, struct create_options, keep, "keep", 0, "keep the stopped container"),
        { 0 },
};

static const struct option_spec no_options[] = { { 0 } };

/* listenfd_fds of socket activation count as preserved: sd_listen_fds(3). */
static unsigned activation_fds(void)
{
        const char *text = getenv("LISTEN_FDS");

        return text && atoi(text) > 0 && atoi(text) < 4096 ? (unsigned)atoi(text) : 0;
}

static int check_preserve(s64 n, struct err **err)
{
        return n < 0 || n > 65536
                       ? err_set(err, ERR_USAGE, EINVAL, "--preserve-fds: %lld is out of range", (long long)n)
                       : 0;
}

static struct box_create_args create_args(const struct create_options *o, const char *id)
{
        return (struct box_create_args){
                .id = id,
                .bundle = o->bundle ? o->bundle : ".",
                .config = o->config,
                .stdio = { .console_socket = o->console_socket,
                        .pid_file = o->pid_file,
                        .pidfd_socket = o->pidfd_socket,
                        .listen_fds = activation_fds(),
                        .preserve_fds = (unsigned)o->preserve_fds + activation_fds(),
                        .detach = o->detach },
                .no_pivot = o->no_pivot,
                .no_new_keyring = o->no_new_keyring,
                .no_subreaper = o->no_subreaper,
                .keep = o->keep,
        };
}

static int run_create(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct create_options o = { 0 };
        struct box_create_args args;
        char **words;
        int n, r = oci_options(&oci_create, argc, argv, &o, 1, 1, &words, &n, err);

        if (r == 0)
                r = check_preserve(o.preserve_fds, err);
        if (r)
                return MIN(r, 0);
        args = create_args(&o, words[0]);
        return box_create(&oci->runtime, &args, err);
}

static int run_run(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct create_options o = { 0 };
        struct box_create_args args;
        int status = 0, n, r;
        char **words;

        r = oci_options(&oci_run, argc, argv, &o, 1, 1, &words, &n, err);
        if (r == 0)
                r = check_preserve(o.preserve_fds, err);
        if (r)
                return MIN(r, 0);
        args = create_args(&o, words[0]);
        r = box_run(&oci->runtime, &args, &status, err);
        return r < 0 ? r : status;
}

static int run_start(struct oci *oci, int argc, char **argv, struct err **err)
{
        char **words, dummy;
        int n, r = oci_options(&oci_start, argc, argv, &dummy, 1, 1, &words, &n, err);

        return r ? MIN(r, 0) : box_start(&oci->runtime, words[0], err);
}

const struct oci_command oci_create = { "create", "CONTAINER", "make a container that `start` will start", run_create,
        create_options, false };
const struct oci_command oci_run = { "run", "CONTAINER", "create and start a container", run_run, run_options, false };
const struct oci_command oci_start = { "start", "CONTAINER", "start a created container", run_start, no_options,
        false };

/* ---- exec ---- */

struct exec_options {
        const char *console_socket, *pidfd_socket, *cwd, *user, *process, *pid_file, *process_label, *apparmor;
        struct option_list env, gids, caps, cgroups;
        s64 preserve_fds;
        bool tty, detach, no_new_privs, ignore_paused, no_subreaper;
};

static const struct option_spec exec_options[] = {
        OPTION(STRING, struct exec_options, console_socket, "console-socket", 0,
                "a socket that gets the terminal's master"),
        OPTION(STRING, struct exec_options, pidfd_socket, "pidfd-socket", 0,
                "a socket that gets a pidfd of the process"),
        OPTION(STRING, struct exec_options, cwd, "cwd", 0, "the working directory"),
        OPTION(LIST, struct exec_options, env, "env", 'e', "NAME=VALUE to add to the environment"),
        OPTION(FLAG, struct exec_options, tty, "tty", 't', "give it a terminal"),
        OPTION(STRING, struct exec_options, user, "user", 'u', "UID[:GID]"),
        OPTION(LIST, struct exec_options, gids, "additional-gids", 'g', "a further group"),
        OPTION(STRING, struct exec_options, process, "process", 'p', "a file with the process object"),
        OPTION(FLAG, struct exec_options, detach, "detach", 'd', "return when it runs"),
        OPTION(STRING, struct exec_options, pid_file, "pid-file", 0, "a file that gets the process id"),
        OPTION(STRING, struct exec_options, process_label, "process-label", 0, "the SELinux label"),
        OPTION(STRING, struct exec_options, apparmor, "apparmor", 0, "the AppArmor profile"),
        OPTION(FLAG, struct exec_options, no_new_privs, "no-new-privs", 0, "set no_new_privs"),
        OPTION(LIST, struct exec_options, caps, "cap", 'c', "a capability to add"),
        OPTION(NUMBER, struct exec_options, preserve_fds, "preserve-fds", 0,
                "descriptors from 3 on that the process keeps"),
        OPTION(LIST, struct exec_options, cgroups, "cgroup", 0, "[CONTROLLERS:]PATH of a group below the container's"),
        OPTION(FLAG, struct exec_options, ignore_paused, "ignore-paused", 0, "also in a paused container"),
        OPTION(FLAG, struct exec_options, no_subreaper, "no-subreaper", 0, "accepted for runc's sake"),
        { 0 },
};

static int read_gids(const struct option_list *list, u32 **ret, struct err **err)
{
        u32 *gids = calloc(list->n + 1, sizeof(*gids));

        for (size_t i = 0; gids && i < list->n; i++) {
                char *end;
                const unsigned long gid = strtoul(list->item[i], &end, 10);

                if (end == list->item[i] || *end || gid > UINT32_MAX - 1) {
                        free(gids);
                        return err_set(
                                err, ERR_USAGE, EINVAL, "--additional-gids: '%s' is not a group id", list->item[i]);
                }
                gids[i] = (u32)gid;
        }
        *ret = gids;
        return gids ? 0 : err_sys(err, ENOMEM, "exec");
}

static void release_exec_options(struct exec_options *o)
{
        free(o->env.item);
        free(o->gids.item);
        free(o->caps.item);
        free(o->cgroups.item);
}

static int run_exec(struct oci *oci, int argc, char **argv, struct err **err)
{
        _cleanup_(release_exec_options) struct exec_options o = { 0 };
        _cleanup_free_ u32 *gids = NULL;
        int status = 0, n, r;
        char **words;

        oci->error_status = 255; /* as runc: 1 could be the command's own */
        r = oci_options(&oci_exec, argc, argv, &o, 1, -1, &words, &n, err);
        if (r == 0)
                r = check_preserve(o.preserve_fds, err);
        if (r == 0)
                r = read_gids(&o.gids, &gids, err);
        if (r)
                return MIN(r, 0);
        {
                const struct box_exec_args args = {
                        .id = words[0],
                        .process = o.process,
                        .argv = (const char **)(words + 1),
                        .cwd = o.cwd,
                        .env = o.env.item,
                        .user = o.user,
                        .additional_gids = gids,
                        .n_additional_gids = o.gids.n,
                        .caps = o.caps.item,
                        .apparmor = o.apparmor,
                        .process_label = o.process_label,
                        .cgroups = o.cgroups.item,
                        .tty = o.tty,
                        .no_new_privs = o.no_new_privs,
                        .ignore_paused = o.ignore_paused,
                        .stdio = { .console_socket = o.console_socket,
                                .pid_file = o.pid_file,
                                .pidfd_socket = o.pidfd_socket,
                                .listen_fds = activation_fds(),
                                .preserve_fds = (unsigned)o.preserve_fds + activation_fds(),
                                .detach = o.detach },
                };

                r = box_exec(&oci->runtime, &args, &status, err);
        }
        return r < 0 ? r : status;
}

const struct oci_command oci_exec = { "exec", "CONTAINER COMMAND [ARGUMENT...]", "run a further process in a container",
        run_exec, exec_options, true };

/* ---- checkpoint, restore ---- */

struct checkpoint_options {
        struct create_options create;
        struct box_checkpoint_args args;
        s64 status_fd;
        const char *ignored;
};

#define CRIU_OPTIONS                                                                                                \
        OPTION(STRING, struct checkpoint_options, args.image_path, "image-path", 0,                                 \
                "the directory of the image (default: checkpoint)"),                                                \
                OPTION(STRING, struct checkpoint_options, args.work_path, "work-path", 0,                           \
                        "the directory of criu's logs"),                                                            \
                OPTION(STRING, struct checkpoint_options, args.parent_path, "parent-path", 0,                       \
                        "the image that this one is based on"),                                                     \
                OPTION(FLAG, struct checkpoint_options, args.tcp_established, "tcp-established", 0,                 \
                        "allow open TCP connections"),                                                              \
                OPTION(FLAG, struct checkpoint_options, args.tcp_skip_in_flight, "tcp-skip-in-flight", 0,           \
                        "leave out connections being made"),                                                        \
                OPTION(FLAG, struct checkpoint_options, args.tcp_close, "tcp-close", 0, "close TCP connections"),   \
                OPTION(FLAG, struct checkpoint_options, args.link_remap, "link-remap", 0,                           \
                        "allow links to files that were removed"),                                                  \
                OPTION(FLAG, struct checkpoint_options, args.ext_unix_sk, "ext-unix-sk", 0,                         \
                        "allow unix sockets to the outside"),                                                       \
                OPTION(FLAG, struct checkpoint_options, args.shell_job, "shell-job", 0,                             \
                        "allow a terminal of the outside"),                                                         \
                OPTION(FLAG, struct checkpoint_options, args.file_locks, "file-locks", 0, "allow file locks"),      \
                OPTION(FLAG, struct checkpoint_options, args.auto_dedup, "auto-dedup", 0,                           \
                        "punch out what a later image has too"),                                                    \
                OPTION(FLAG, struct checkpoint_options, args.lazy_pages, "lazy-pages", 0, "memory by userfaultfd"), \
                OPTION(STRING, struct checkpoint_options, args.manage_cgroups_mode, "manage-cgroups-mode", 0,       \
                        "soft, full, strict or ignore")

static const struct option_spec checkpoint_options[] = {
        CRIU_OPTIONS,
        OPTION(FLAG, struct checkpoint_options, args.leave_running, "leave-running", 0, "go on running"),
        OPTION(FLAG, struct checkpoint_options, args.pre_dump, "pre-dump", 0,
                "memory only, to make the final dump short"),
        OPTION(STRING, struct checkpoint_options, args.page_server, "page-server", 0, "HOST:PORT that gets the memory"),
        OPTION(NUMBER, struct checkpoint_options, status_fd, "status-fd", 0,
                "a descriptor that hears when lazy pages can start"),
        { 0 },
};

static const struct option_spec restore_options[] = {
        CRIU_OPTIONS,
        CREATE_OPTIONS, /* struct create_options comes first in struct checkpoint_options */
        OPTION(FLAG, struct checkpoint_options, create.detach, "detach", 'd', "return when it runs"),
        OPTION(STRING, struct checkpoint_options, args.lsm_profile, "lsm-profile", 0,
                "TYPE:NAME in place of the profile it had"),
        OPTION(STRING, struct checkpoint_options, args.lsm_mount_context, "lsm-mount-context", 0,
                "in place of the context mounts had"),
        { 0 },
};

static int parse_criu(
        const struct oci_command *command, int argc, char **argv, struct checkpoint_options *o, struct err **err)
{
        char **words;
        int n, r;

        o->status_fd = -1;
        r = oci_options(command, argc, argv, o, 1, 1, &words, &n, err);
        if (r)
                return r;
        o->args.id = words[0];
        o->args.status_fd = (int)o->status_fd;
        if (!o->args.image_path)
                o->args.image_path = "checkpoint";
        return check_preserve(o->create.preserve_fds, err);
}

static int run_checkpoint(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct checkpoint_options o = { 0 };
        const int r = parse_criu(&oci_checkpoint, argc, argv, &o, err);

        return r ? MIN(r, 0) : box_checkpoint(&oci->runtime, &o.args, err);
}

static int run_restore(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct checkpoint_options o = { 0 };
        struct box_create_args create;
        int status = 0, r = parse_criu(&oci_restore, argc, argv, &o, err);

        if (r)
                return MIN(r, 0);
        create = create_args(&o.create, o.args.id);
        r = box_restore(&oci->runtime, &create, &o.args, &status, err);
        return r < 0 ? r : status;
}

const struct oci_command oci_checkpoint = { "checkpoint", "CONTAINER", "write a running container to files",
        run_checkpoint, checkpoint_options, false };
const struct oci_command oci_restore = { "restore", "CONTAINER", "run a container from such files", run_restore,
        restore_options, false };
