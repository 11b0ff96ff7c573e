/* A further process in a running container: by the runtime, with descriptors that are not the caller's terminal. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "box/sys.h"
#include "container.h"

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

/* The process object as a file without a name. */
static int process_file(const json_t *process, int *ret, struct err **err)
{
        _cleanup_free_ char *text = json_dumps(process, JSON_COMPACT);
        _cleanup_close_ int fd = memfd_create("process", MFD_CLOEXEC);
        int r = text && fd >= 0 ? io_write_all(fd, text, strlen(text)) : -ENOMEM;

        if (r < 0)
                return err_sys(err, -r, "exec");
        *ret = TAKE_FD(fd);
        return 0;
}

static int run(struct instance *inst, const struct instance_exec *exec, int process, int *ret_status, struct err **err)
{
        const struct box_runtime runtime = container_runtime(inst);
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

int container_exec(struct instance *inst, const struct instance_exec *exec, const json_t *process, int *ret_status,
        struct err **err)
{
        _cleanup_close_ int file = -1;
        bool tty[STDIO];
        int r = process_file(process, &file, err);

        if (r < 0)
                return r;
        for (int i = 0; i < STDIO; i++)
                tty[i] = !exec->tty && isatty(i);
        if (tty[0] || tty[1] || tty[2])
                return run_piped(inst, exec, file, tty, ret_status, err);
        return run(inst, exec, file, ret_status, err);
}

/* --- in the background ------------------------------------------------------------------------------------------ */

#define FILE_SPAWN_PID "spawn.pid"

static pid_t read_spawned(const struct instance *inst)
{
        _cleanup_free_ char *text = NULL;

        return io_read_file(inst->dir, FILE_SPAWN_PID, 32, &text, NULL, NULL) < 0 ? 0 : atoi(text);
}

int container_spawn(struct instance *inst, const json_t *process, int output, pid_t *ret, struct err **err)
{
        const struct box_runtime runtime = container_runtime(inst);
        _cleanup_free_ char *pid_file = instance_path(inst, FILE_SPAWN_PID);
        _cleanup_close_ int file = -1;
        int status, r = pid_file ? process_file(process, &file, err) : err_sys(err, ENOMEM, "exec");

        if (r < 0)
                return r;
        dup2(output, 1);
        dup2(output, 2);
        {
                const struct io_fd_path path = io_fd_path(file);
                const struct box_exec_args args = {
                        .id = inst->id, .process = path.text, .stdio = { .detach = true, .pid_file = pid_file }
                };

                r = box_exec(&runtime, &args, &status, err);
        }
        /* Ours must go, or who reads the output never finds its end. */
        dup2(0, 1);
        dup2(0, 2);
        if (r == 0)
                *ret = read_spawned(inst);
        unlinkat(inst->dir, FILE_SPAWN_PID, 0);
        return r;
}
