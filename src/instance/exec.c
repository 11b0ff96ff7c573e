#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "box/sys.h"
#include "rights.h"
#include "spec.h"

/* Which of the caller's descriptors are a terminal: those are not given away but copied (a process inside could type into the
 * user's terminal otherwise). */
#define STDIO 3

int blame_command(int r, struct err **error, struct err **err)
{
        const char *text = err_message(*error);
        const bool command = strstr(text, "executable file") || strstr(text, "exec:");

        if (command && (r == -ENOENT || r == -ENOTDIR))
                return err_set(err, ERR_NO_COMMAND, -r, "%s", text);
        if (command && r < 0)
                return err_set(err, ERR_NOT_EXECUTABLE, -r, "%s", text);
        if (err)
                *err = TAKE_PTR(*error);
        return r;
}

/* --- what it is to be ------------------------------------------------------------------------------------------- */

static int running_pid(struct instance *inst, pid_t *ret, struct err **err)
{
        const struct instance_state *state;
        int r = instance_get_state(inst, &state, err);

        if (r < 0)
                return r;
        if (state->status == INSTANCE_PAUSED)
                return err_set(err, ERR_BUSY, EBUSY, "the instance '%s' is paused", inst->config.name);
        if (state->status != INSTANCE_RUNNING || !state->pid)
                return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        *ret = state->pid;
        return 0;
}

static int join_env(struct instance *inst, const struct instance_exec *exec, struct instance_strings *ret)
{
        int r = 0;

        *ret = (struct instance_strings){ 0 };
        for (size_t i = 0; r == 0 && i < inst->config.env.n; i++) {
                const char *text = inst->config.env.item[i];
                const size_t n = strcspn(text, "=") + 1;
                bool given = false;

                for (const char *const *e = exec->env; e && *e; e++)
                        given |= strncmp(*e, text, n) == 0;
                if (!given)
                        r = strings_add(&inst->arena, ret, text);
        }
        for (const char *const *e = exec->env; r == 0 && e && *e; e++)
                if (strchr(*e, '='))
                        r = strings_add(&inst->arena, ret, *e);
        return r;
}

static int make_process(
        struct instance *inst, const struct instance_exec *exec, int root, json_t **ret, struct err **err)
{
        const struct instance_config *c = &inst->config;
        struct instance_config wanted = *c;
        struct security security;
        struct instance_strings env;
        struct build_user found;
        json_t *user = NULL, *args, *process;
        const char *cwd = exec->working_dir ? exec->working_dir : c->working_dir;
        u64 caps = 0;
        int r;

        wanted.privileged |= exec->privileged;
        r = security_parse(&wanted, &security, err);
        if (r == 0)
                r = rights_capabilities(&wanted, &caps, err);
        if (r == 0)
                r = spec_user(c, exec->user ? exec->user : c->user, root, &user, &found, err);
        if (r == 0 && join_env(inst, exec, &env) < 0)
                r = err_sys(err, ENOMEM, "exec");
        if (r < 0) {
                json_decref(user);
                return r;
        }
        args = json_array();
        for (const char *const *a = exec->argv; *a; a++)
                json_array_append_new(args, json_string(*a));
        process = json_pack("{s:b, s:o, s:o, s:o, s:s, s:o, s:b}", "terminal", exec->tty, "user", user, "args", args,
                "env", spec_environment(&env, found.home, NULL, exec->tty), "cwd", cwd && cwd[0] ? cwd : "/",
                "capabilities", rights_capabilities_json(caps, found.uid == 0), "noNewPrivileges",
                security.no_new_privileges);
        if (!process)
                return err_set(err, ERR_USAGE, EINVAL, "exec: a text is not UTF-8");
        if (c->oom_score_adj)
                json_object_set_new(process, "oomScoreAdj", json_integer(c->oom_score_adj));
        *ret = process;
        return 0;
}

int exec_process(struct instance *inst, const struct instance_exec *exec, int *ret_fd, struct err **err)
{
        _cleanup_close_ int root = -1, fd = -1;
        _cleanup_free_ char *text = NULL;
        json_t *process = NULL;
        char path[40];
        pid_t pid = 0;
        int r = running_pid(inst, &pid, err);

        if (r < 0)
                return r;
        snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
        root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
                return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        r = make_process(inst, exec, root, &process, err);
        if (r < 0)
                return r;
        text = json_dumps(process, JSON_COMPACT);
        json_decref(process);
        fd = memfd_create("process", MFD_CLOEXEC);
        r = text && fd >= 0 ? io_write_all(fd, text, strlen(text)) : -ENOMEM;
        if (r < 0)
                return err_sys(err, -r, "exec");
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* --- running it ------------------------------------------------------------------------------------------------- */

static int run(struct instance *inst, const struct instance_exec *exec, int process, int *ret_status, struct err **err)
{
        const struct box_runtime runtime = launch_runtime(inst);
        _cleanup_(err_freep) struct err *error = NULL;
        const struct io_fd_path path = io_fd_path(process);
        const struct box_exec_args args = {
                .id = inst->id, .process = path.text, .tty = exec->tty, .stdio.detach = exec->detach
        };
        int r;

        r = box_exec(&runtime, &args, ret_status, &error);
        return r < 0 ? blame_command(r, &error, err) : 0;
}

/* One direction between a terminal and a pipe. */
struct copy {
        int from, to;
};

static bool copy_some(struct copy *c)
{
        char buf[16384];
        ssize_t n = read(c->from, buf, sizeof(buf));

        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return true;
        if (n > 0 && io_write_all(c->to, buf, (size_t)n) == 0)
                return true;
        c->from = -1;
        return false;
}

static void relay(const int ours[STDIO], pid_t child)
{
        struct copy in = { ours[0] >= 0 ? 0 : -1, ours[0] };
        struct copy out[2] = { { ours[1], 1 }, { ours[2], 2 } };
        const int pidfd = sys_pidfd_open(child);
        int in_end = ours[0];

        for (bool alive = true; alive || out[0].from >= 0 || out[1].from >= 0;) {
                struct pollfd p[4] = { { .fd = in.from, .events = POLLIN }, { .fd = out[0].from, .events = POLLIN },
                        { .fd = out[1].from, .events = POLLIN }, { .fd = alive ? pidfd : -1, .events = POLLIN } };

                /* What it printed last is in the pipes; others who may hold them do not count. */
                if (poll(p, 4, alive ? -1 : 0) == 0)
                        break;
                if (p[0].revents && !copy_some(&in)) {
                        closep(&in_end);
                        in_end = -1;
                }
                for (int i = 0; i < 2; i++)
                        if (p[1 + i].revents)
                                copy_some(&out[i]);
                if (p[3].revents) {
                        alive = false;
                        in.from = -1;
                }
        }
        closep(&in_end);
        closep(&pidfd);
}

static void report_error(int fd, int r, const struct err *error)
{
        struct {
                int r, id;
        } head = { r, (int)err_get_id(error) };

        if (io_write_all(fd, &head, sizeof(head)) == 0)
                io_write_all(fd, err_message(error), strlen(err_message(error)));
}

static int read_error(int fd, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        int head[2];

        if (io_read_stream(fd, 65536, &text, &len, NULL) < 0 || len < sizeof(head))
                return 0;
        memcpy(head, text, sizeof(head));
        return err_set(err, (enum err_id)head[1], -head[0], "%s", text + sizeof(head));
}

/* With pipes in place of terminals: a child has them as its own descriptors and does the rest. */
static int run_piped(struct instance *inst, const struct instance_exec *exec, int process, const bool tty[STDIO],
        int *ret_status, struct err **err)
{
        int pipes[STDIO][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 } }, ours[STDIO] = { -1, -1, -1 }, report[2], status,
            r = 0;
        pid_t pid;

        if (pipe2(report, O_CLOEXEC) < 0)
                return err_sys(err, errno, "exec");
        for (int i = 0; i < STDIO; i++)
                if (tty[i] && pipe2(pipes[i], O_CLOEXEC) < 0)
                        r = err_sys(err, errno, "exec");
        pid = r < 0 ? -1 : fork();
        if (pid == 0) {
                struct err *error = NULL;
                int code = 0;

                for (int i = 0; i < STDIO; i++)
                        if (tty[i])
                                dup2(pipes[i][i > 0], i);
                for (int i = 0; i < STDIO; i++) {
                        closep(&pipes[i][0]);
                        closep(&pipes[i][1]);
                }
                r = run(inst, exec, process, &code, &error);
                if (r < 0)
                        report_error(report[1], r, error);
                _exit(r < 0 ? 125 : code);
        }
        close(report[1]);
        for (int i = 0; i < STDIO; i++) {
                closep(&pipes[i][i > 0]);
                ours[i] = pipes[i][i == 0];
        }
        if (pid > 0) {
                relay(ours, pid);
                while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                        ;
                r = read_error(report[0], err);
                *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        } else if (r == 0)
                r = err_sys(err, errno, "exec");
        close(report[0]);
        closep(&ours[1]);
        closep(&ours[2]);
        return r;
}

static int use_null(int fd)
{
        _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        return null < 0 || dup2(null, fd) < 0 ? -errno : 0;
}

int instance_exec(struct instance *inst, const struct instance_exec *exec, int *ret_status, struct err **err)
{
        bool tty[STDIO];
        _cleanup_close_ int process = -1;
        int r;

        if (!exec->argv || !exec->argv[0])
                return err_set(err, ERR_USAGE, EINVAL, "exec needs a command");
        r = exec_process(inst, exec, &process, err);
        if (r < 0)
                return r;
        if (exec->detach)
                for (int i = 0; i < STDIO; i++)
                        use_null(i);
        else if (!exec->open_stdin)
                use_null(0);
        for (int i = 0; i < STDIO; i++)
                tty[i] = !exec->tty && isatty(i);
        if (tty[0] || tty[1] || tty[2])
                r = run_piped(inst, exec, process, tty, ret_status, err);
        else
                r = run(inst, exec, process, ret_status, err);
        return r;
}
