/* The main process's streams and this process's own.
 *
 * The descriptors may be shared with others, so they are not made non-blocking: pipes and terminals are opened anew for that. */
#include "agent_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "terminal.h"

#define READ_SIZE (32U * 1024)

/* ---- descriptors ---- */

static void open_one(struct agent_stdio *s, int fd, bool is_input)
{
        struct stat st;
        char path[32];

        s->fd = fstat(fd, &st) < 0 ? -1 : fd;
        s->is_socket = s->fd >= 0 && S_ISSOCK(st.st_mode);
        if (s->fd < 0 || !(S_ISFIFO(st.st_mode) || isatty(fd)))
                return;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        s->fd = open(path, (is_input ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        s->own = s->fd >= 0;
        if (!s->own)
                s->fd = fd; /* then with care (try_write) */
}

void agent_stdio_open(struct agent *agent, const int fds[static INIT_STREAMS])
{
        for (unsigned i = 0; i < INIT_STREAMS; i++) {
                agent->stdio[i].agent = agent;
                open_one(&agent->stdio[i], fds[i], i == 0);
        }
}

static void close_one(struct agent_stdio *s)
{
        s->watch = loop_fd_remove(s->watch);
        if (s->own)
                close(s->fd);
        s->own = false;
        s->fd = -1;
        byte_queue_drop(&s->out, s->out.n);
}

void agent_stdio_free(struct agent *agent)
{
        for (unsigned i = 0; i < INIT_STREAMS; i++)
                close_one(&agent->stdio[i]);
}

/* ---- output ---- */

/* How much was written; -1: nobody reads it any more. */
static ssize_t try_write(const struct agent_stdio *s, const u8 *data, size_t n)
{
        ssize_t done;

        if (s->is_socket)
                done = send(s->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        else if (s->own || !s->watch)
                done = write(s->fd, data, n);
        else /* what is ready takes so much at once */
                done = write(s->fd, data, MIN(n, (size_t)PIPE_BUF));
        return done >= 0 ? done : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

/* Room for what was written or thrown away. */
static void settle(struct agent_stdio *s, size_t n)
{
        const u32 stream = (u32)(s - s->agent->stdio);
        struct agent_task *task = agent_main(s->agent);

        s->owed += (u32)n;
        if (s->owed < INIT_ROOM_FIRST / 2 || !task)
                return;
        agent_grant(s->agent, task, stream, s->owed);
        s->owed = 0;
}

static void on_writable(void *opaque, int revents)
{
        struct agent_stdio *s = opaque;
        const ssize_t done = s->out.n ? try_write(s, byte_queue_data(&s->out), s->out.n) : 0;
        const size_t left = s->out.n;

        if (done < 0)
                close_one(s);
        else
                byte_queue_drop(&s->out, (size_t)done);
        settle(s, done < 0 ? left : (size_t)done);
        if (s->watch && !s->out.n)
                loop_fd_set_events(s->watch, 0);
        agent_end_if_done(s->agent);
}

void agent_stdio_write(struct agent *agent, u32 stream, const void *data, size_t n)
{
        struct agent_stdio *s = &agent->stdio[stream];
        const bool careful = s->watch && !s->own && !s->is_socket;
        ssize_t done = 0;

        if (s->fd >= 0 && !s->out.n && !careful)
                done = try_write(s, data, n);
        if (s->fd < 0 || done < 0) {
                close_one(s);
                settle(s, n);
                return;
        }
        settle(s, (size_t)done);
        if ((size_t)done == n)
                return;
        if (!s->watch) { /* a full disk: what cannot be written is lost, as it would be to the process */
                close_one(s);
                settle(s, n - (size_t)done);
        } else if (byte_queue_add(&s->out, (const u8 *)data + done, n - (size_t)done)) {
                loop_fd_set_events(s->watch, POLLOUT);
        } else {
                agent_fail(agent, "no memory for what the main process prints");
        }
}

bool agent_stdio_flushed(const struct agent *agent)
{
        return !agent->stdio[1].out.n && !agent->stdio[2].out.n;
}

void agent_stdio_finish(struct agent *agent)
{
        for (unsigned i = 1; i < INIT_STREAMS; i++) {
                struct agent_stdio *s = &agent->stdio[i];

                while (s->out.n) {
                        struct pollfd p = { .fd = s->fd, .events = POLLOUT };
                        const ssize_t done = poll(&p, 1, -1) < 0 ? 0 : try_write(s, byte_queue_data(&s->out), s->out.n);

                        byte_queue_drop(&s->out, done < 0 ? s->out.n : (size_t)done);
                }
        }
}

/* ---- input ---- */

static bool wants_input(struct agent *agent, const struct agent_task *task)
{
        return task && agent->s.phase == AGENT_RUNNING && !task->input_ended && task->room[0];
}

/* False: nothing is there now, or ever. */
static bool read_some(struct agent *agent, struct agent_task *task)
{
        u8 data[READ_SIZE], buffer[READ_SIZE + 64];
        const u32 stream = 0;
        struct init_frame frame;
        size_t size;
        ssize_t n = agent->stdio[0].fd < 0 ? 0 : read(agent->stdio[0].fd, data, MIN(task->room[0], READ_SIZE));

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return false;
        if (n <= 0) {
                task->input_ended = true;
                agent_send_numbers(agent, INIT_END, task->id, &stream, 1);
                return false;
        }
        task->room[0] -= (u32)n;
        init_frame_begin(&frame, buffer, sizeof(buffer), INIT_DATA, task->id);
        init_put_u32(&frame, stream);
        init_put_bytes(&frame, data, (size_t)n);
        if (init_frame_end(&frame, &size) == 0)
                agent_send(agent, buffer, size, task->id);
        return true;
}

static void on_readable(void *opaque, int revents)
{
        struct agent_stdio *s = opaque;
        struct agent_task *task = agent_main(s->agent);

        if (wants_input(s->agent, task))
                read_some(s->agent, task);
        agent_stdio_read(s->agent);
}

void agent_stdio_read(struct agent *agent)
{
        struct agent_stdio *s = &agent->stdio[0];
        struct agent_task *task = agent_main(agent);

        if (s->watch)
                loop_fd_set_events(s->watch, wants_input(agent, task) ? POLLIN : 0);
        else /* no more than there is room for */
                while (wants_input(agent, task) && read_some(agent, task))
                        ;
}

/* ---- the terminal, and all of it ---- */

void agent_stdio_resize(struct agent *agent)
{
        struct winsize size;
        u32 numbers[2];

        if (!agent->s.tty || !agent_main(agent) || ioctl(agent->stdio[0].fd, TIOCGWINSZ, &size) < 0)
                return;
        numbers[0] = size.ws_col;
        numbers[1] = size.ws_row;
        agent_send_numbers(agent, INIT_RESIZE, INIT_ID_MAIN, numbers, ARRAY_SIZE(numbers));
}

void agent_stdio_start(struct agent *agent)
{
        for (unsigned i = 0; i < INIT_STREAMS; i++) {
                struct agent_stdio *s = &agent->stdio[i];

                if (s->fd >= 0 && !s->watch)
                        s->watch = loop_fd_add(agent->loop, s->fd, s->out.n ? POLLOUT : 0, i == 0 ? on_readable : on_writable, s, NULL);
        }
        if (agent->s.tty)
                terminal_raw();
        agent_stdio_resize(agent);
        agent_stdio_read(agent);
}
