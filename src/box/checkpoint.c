/* checkpoint and restore by the criu program. criu knows processes; what is the runtime's (the root, mounts, cgroups,
 * namespaces joined by path) it is told by options. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "internal.h"
#include "rootfs.h"
#include "sys.h"
#include "wait.h"

enum { CRIU_OLDEST = 40000, CRIU_ARGS_MAX = 1024 };

struct arguments {
        struct arena arena;
        const char *argv[CRIU_ARGS_MAX];
        size_t n;
        bool overflow;
};

static void add(struct arguments *a, const char *fmt, ...) _printf_(2, 3);
static void add(struct arguments *a, const char *fmt, ...)
{
        char text[PATH_MAX * 2];
        va_list ap;
        char *copy;

        va_start(ap, fmt);
        vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        copy = arena_strdup(&a->arena, text);
        if (!copy || a->n + 1 >= CRIU_ARGS_MAX)
                a->overflow = true;
        else
                a->argv[a->n++] = copy;
}

static void arguments_release(struct arguments *a)
{
        arena_release(&a->arena);
}

static const char *program(const struct box_runtime *runtime)
{
        return runtime->criu ? runtime->criu : "criu";
}

/* "Version: 3.17.1" -> 31701. */
static int criu_version(const struct box_runtime *runtime, int *ret, struct err **err)
{
        int pipe_fd[2], status = 0, major = 0, minor = 0, sub = 0, r;
        char text[256];
        ssize_t n;
        pid_t pid;

        if (pipe2(pipe_fd, O_CLOEXEC) < 0)
                return err_sys(err, errno, "starting criu");
        pid = fork();
        if (pid == 0) {
                dup2(pipe_fd[1], 1);
                execlp(program(runtime), "criu", "--version", NULL);
                _exit(127);
        }
        close(pipe_fd[1]);
        n = read(pipe_fd[0], text, sizeof(text) - 1);
        close(pipe_fd[0]);
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        text[n > 0 ? n : 0] = 0;
        if (pid < 0 || status || sscanf(text, "Version: %d.%d.%d", &major, &minor, &sub) < 2) {
                r = err_set(err, ERR_UNSUPPORTED, ENOENT,
                        "checkpoint and restore need the criu program: '%s' does not run", program(runtime));
                return err_hint(err, r, "install criu 4.0 or newer, or name it with --criu");
        }
        *ret = major * 10000 + minor * 100 + sub;
        return 0;
}

static int check_criu(const struct box_runtime *runtime, struct err **err)
{
        int version = 0, r = criu_version(runtime, &version, err);

        if (r < 0)
                return r;
        if (version < CRIU_OLDEST) {
                r = err_set(err, ERR_UNSUPPORTED, ENOTSUP, "criu %d.%d is too old: 4.0 or newer is needed",
                        version / 10000, version / 100 % 100);
                return err_hint(err, r, "name a newer one with --criu");
        }
        return 0;
}

static int run_criu(const struct box_runtime *runtime, struct arguments *a, const char *work, struct err **err)
{
        int status = -1, r;
        pid_t pid;

        if (a->overflow)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "criu: too many mounts");
        a->argv[a->n] = NULL;
        pid = fork();
        if (pid == 0) {
                execvp(program(runtime), (char *const *)a->argv);
                _exit(127);
        }
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (status == 0)
                return 0;
        r = err_set(err, ERR_IO, EIO, "criu %s failed", a->argv[1]);
        return err_hint(err, r, "its log is in '%s'", work);
}

static void add_common(struct arguments *a, const struct box_checkpoint_args *args)
{
        static const struct {
                size_t offset;
                const char *option;
        } flags[] = {
                { offsetof(struct box_checkpoint_args, tcp_established), "--tcp-established" },
                { offsetof(struct box_checkpoint_args, tcp_skip_in_flight), "--skip-in-flight" },
                { offsetof(struct box_checkpoint_args, tcp_close), "--tcp-close" },
                { offsetof(struct box_checkpoint_args, link_remap), "--link-remap" },
                { offsetof(struct box_checkpoint_args, ext_unix_sk), "--ext-unix-sk" },
                { offsetof(struct box_checkpoint_args, shell_job), "--shell-job" },
                { offsetof(struct box_checkpoint_args, file_locks), "--file-locks" },
                { offsetof(struct box_checkpoint_args, auto_dedup), "--auto-dedup" },
                { offsetof(struct box_checkpoint_args, lazy_pages), "--lazy-pages" },
        };

        add(a, "--images-dir");
        add(a, "%s", args->image_path);
        if (args->work_path) {
                add(a, "--work-dir");
                add(a, "%s", args->work_path);
        }
        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (*(const bool *)((const char *)args + flags[i].offset))
                        add(a, "%s", flags[i].option);
        if (args->manage_cgroups_mode)
                add(a, "--manage-cgroups=%s", args->manage_cgroups_mode);
        add(a, "-v4");
}

static int make_directory(const char *path, struct err **err)
{
        return path && mkdir(path, 0700) < 0 && errno != EEXIST ? err_sys(err, errno, "making '%s'", path) : 0;
}

int box_checkpoint(const struct box_runtime *runtime, const struct box_checkpoint_args *args, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(spec_freep) struct spec *spec = NULL;
        _cleanup_(arguments_release) struct arguments a = { 0 };
        enum box_status status;
        char *colon;
        int r = state_load(runtime, args->id, &h, err);

        if (r == 0)
                r = state_status(h, &status, err);
        if (r < 0)
                return r;
        if (status != BOX_RUNNING && status != BOX_PAUSED)
                return err_set(err, ERR_BUSY, EBUSY, "container '%s' cannot be checkpointed in %s state", args->id,
                        box_status_name(status));
        r = check_criu(runtime, err);
        if (r == 0)
                r = state_load_config(h, &spec, err);
        if (r == 0)
                r = make_directory(args->image_path, err);
        if (r == 0)
                r = make_directory(args->work_path, err);
        if (r < 0)
                return r;
        add(&a, "criu");
        add(&a, args->pre_dump ? "pre-dump" : "dump");
        add(&a, "--tree");
        add(&a, "%d", h->pid);
        add(&a, "--root");
        add(&a, "%s", h->rootfs);
        add(&a, "--log-file");
        add(&a, "dump.log");
        add_common(&a, args);
        if (args->leave_running)
                add(&a, "--leave-running");
        if (args->parent_path) {
                add(&a, "--prev-images-dir");
                add(&a, "%s", args->parent_path);
                add(&a, "--track-mem");
        } else if (args->pre_dump) {
                add(&a, "--track-mem");
        }
        if (args->status_fd >= 0) {
                add(&a, "--status-fd");
                add(&a, "%d", args->status_fd);
        }
        if (args->page_server && (colon = strrchr(args->page_server, ':'))) {
                add(&a, "--page-server");
                add(&a, "--address");
                add(&a, "%.*s", (int)(colon - args->page_server), args->page_server);
                add(&a, "--port");
                add(&a, "%s", colon + 1);
        }
        for (size_t i = 0; i < spec->mounts.n; i++) {
                const struct spec_mount *m = &spec->mounts.item[i];
                struct mount_options options;

                if (mount_options_parse(&spec->arena, &m->options, &options, NULL) == 0 &&
                        (options.flags & MOUNT_BIND || (m->type && strcmp(m->type, "bind") == 0))) {
                        add(&a, "--external");
                        add(&a, "mnt[%s]:%s", m->destination, m->destination);
                }
        }
        return run_criu(runtime, &a, args->work_path ? args->work_path : args->image_path, err);
}

int box_restore(const struct box_runtime *runtime, const struct box_create_args *create,
        const struct box_checkpoint_args *args, int *ret_status, struct err **err)
{
        int r = check_criu(runtime, err);

        (void)create;
        (void)args;
        (void)ret_status;
        if (r < 0)
                return r;
        return err_set(err, ERR_UNSUPPORTED, ENOSYS, "restore is not there yet");
}
