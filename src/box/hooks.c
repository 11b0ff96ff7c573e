#include "hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "sys.h"

enum { CLOSE_RANGE_FROM = 3 };

/* A hook without env has the runtime's, as with runc and crun; one with an empty env has none. */
static void _noreturn_ become_hook(const struct spec_hook *hook, const int stdio[3], const char *cwd)
{
        const char *no_args[] = { hook->path, NULL };
        sigset_t none;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        for (int sig = 1; sig < 32; sig++)
                signal(sig, SIG_DFL);
        for (int fd = 0; fd < 3; fd++)
                if (stdio[fd] >= 0 && dup2(stdio[fd], fd) < 0)
                        _exit(126);
        if (cwd && chdir(cwd) < 0)
                _exit(126);
        syscall(SYS_close_range, CLOSE_RANGE_FROM, ~0U, 0);
        execve(hook->path, (char *const *)(hook->args.n ? hook->args.item : no_args),
                hook->env.item ? (char *const *)hook->env.item : environ);
        dprintf(2, "%s: %s\n", hook->path, strerror(errno));
        _exit(127);
}

/* Waits until the process is dead, with SIGKILL when the time is over. Returns whether it was. */
static bool wait_until(int pidfd, const struct spec_hook *hook)
{
        struct timespec start, now;
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        s64 left_ms = -1;

        clock_gettime(CLOCK_MONOTONIC, &start);
        for (;;) {
                if (hook->timeout) {
                        clock_gettime(CLOCK_MONOTONIC, &now);
                        left_ms = (s64)*hook->timeout * 1000 -
                                  ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000);
                        if (left_ms <= 0)
                                break;
                }
                if (poll(&p, 1, hook->timeout ? (int)MIN(left_ms, (s64)1000000) : -1) > 0)
                        return false;
        }
        sys_pidfd_send_signal(pidfd, SIGKILL);
        return true;
}

static int run(const struct spec_hook *hook, const char *state, const char *cwd, int out, int errors, struct err **err)
{
        _cleanup_close_ int in = memfd_create("state", MFD_CLOEXEC), pidfd = -1;
        const int stdio[] = { in, out, errors };
        char text[64];
        int status = 0;
        bool late;
        pid_t pid;

        if (in < 0 || pwrite(in, state, strlen(state), 0) < 0)
                return err_sys(err, errno, "preparing hook '%s'", hook->path);
        pid = sys_clone3(&(struct sys_clone_args){
                .flags = CLONE_PIDFD, .pidfd = (u64)(uintptr_t)&pidfd, .exit_signal = SIGCHLD });
        if (pid < 0)
                return err_sys(err, -pid, "starting hook '%s'", hook->path);
        if (pid == 0)
                become_hook(hook, stdio, cwd);
        late = wait_until(pidfd, hook);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (late)
                return err_set(err, ERR_IO, ETIMEDOUT, "error running hook '%s': it took longer than %d s", hook->path,
                        *hook->timeout);
        if (WIFSIGNALED(status))
                return err_set(err, ERR_IO, EIO, "error running hook '%s': killed by signal %d: %s", hook->path,
                        WTERMSIG(status), sys_small(strsignal(WTERMSIG(status)), text, sizeof(text)));
        if (WEXITSTATUS(status))
                return err_set(
                        err, ERR_IO, EIO, "error running hook '%s': exit status %d", hook->path, WEXITSTATUS(status));
        return 0;
}

/* crun's annotations that name a file for what hooks print; -1: the runtime's own. */
static int open_output(const struct spec *spec, const char *key)
{
        const char *path = spec_annotation(spec, key);

        return path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0700) : -1;
}

static char *state_text(const struct box_handle *h, const char *status, pid_t pid)
{
        json_t *json = state_object(h, status);
        char *text;

        if (json && pid)
                json_object_set_new(json, "pid", json_integer(pid));
        text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        json_decref(json);
        return text;
}

int hooks_run(const struct spec *spec, enum spec_hook_point point, const struct box_handle *h, const char *status,
        pid_t pid, const char *cwd, struct err **err)
{
        _cleanup_close_ int out = -1, errors = -1;
        _cleanup_free_ char *state = NULL;

        if (!hooks_any(spec, point))
                return 0;
        state = state_text(h, status, pid);
        if (!state)
                return err_sys(err, ENOMEM, "running hooks");
        /* Inside the container their paths would be the container's. */
        if (point != HOOK_START_CONTAINER) {
                out = open_output(spec, "run.oci.hooks.stdout");
                errors = open_output(spec, "run.oci.hooks.stderr");
        }
        for (size_t i = 0; i < spec->hooks[point].n; i++) {
                const int r = run(&spec->hooks[point].item[i], state, cwd, out, errors, err);

                if (r < 0)
                        return err_wrap(err, r, "error running %s hook #%zu", spec_hook_name(point), i);
        }
        return 0;
}

void hooks_run_poststop(const struct spec *spec, const struct box_handle *h)
{
        _cleanup_(err_freep) struct err *err = NULL;

        if (hooks_run(spec, HOOK_POSTSTOP, h, "stopped", 0, h->bundle, &err) < 0)
                log_warn("%s", err_message(err));
}
