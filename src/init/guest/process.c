/* Processes that the host started: their streams, signals, and ends.
 *
 * Theory of operation. What a process prints is read only as far as the host has room for it, and what the host sends goes into the
 * pipe or, when that is full, into a ring of INIT_ROOM_FIRST bytes, which is all the room that the host was given. So nothing waits and
 * nothing grows. When a process has ended, what it had printed is still in its pipes, perhaps with more by others who hold them: as much
 * as a pipe or terminal can hold is read, then END and EXITED are sent. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define READ_SIZE (32U * 1024)
/* More than what a pipe (64 KiB) or a terminal keeps. */
#define LAST_WORDS (128U * 1024)

static struct process *find(struct init *init, u32 id)
{
        for (size_t i = 0; i < PROCESSES_MAX; i++)
                if (init->processes[i].pid && init->processes[i].id == id)
                        return &init->processes[i];
        return NULL;
}

static struct process *find_free(struct init *init)
{
        for (size_t i = 0; i < PROCESSES_MAX; i++)
                if (!init->processes[i].pid)
                        return &init->processes[i];
        return NULL;
}

static void close_fd(int *fd)
{
        if (*fd >= 0)
                close(*fd);
        *fd = -1;
}

static void close_stream(struct process *p, unsigned i)
{
        struct stream *s = &p->streams[i];

        if (p->tty && i < 2 && p->streams[!i].fd == s->fd)
                s->fd = -1; /* the other one closes it */
        close_fd(&s->fd);
        free(s->ring);
        s->ring = NULL;
        s->n = 0;
}

/* ---- starting ---- */

static int above_stdio(int fd)
{
        int moved;

        if (fd < 0 || fd >= (int)INIT_STREAMS)
                return fd;
        moved = fcntl(fd, F_DUPFD_CLOEXEC, INIT_STREAMS);
        close(fd);
        return moved;
}

static int open_terminal(struct process *p, struct spawn *spawn)
{
        const struct init_message *m = spawn->start;
        const struct winsize size = {
                .ws_col = (unsigned short)m->field[START_COLUMNS].number,
                .ws_row = (unsigned short)m->field[START_ROWS].number,
        };
        int master = above_stdio(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)), slave, unlock = 0;

        if (master < 0)
                return fail(spawn->failure, errno, "opening a terminal at /dev/ptmx", NULL);
        p->streams[0].fd = p->streams[1].fd = master;
        slave = ioctl(master, TIOCSPTLCK, &unlock) < 0 ? -1 : above_stdio(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
        if (slave < 0)
                return fail(spawn->failure, errno, "opening a terminal", NULL);
        ioctl(master, TIOCSWINSZ, &size);
        for (unsigned i = 0; i < INIT_STREAMS; i++)
                spawn->streams[i] = slave;
        if (fchown(slave, (uid_t)m->field[START_UID].number, (gid_t)-1) < 0)
                return fail(spawn->failure, errno, "giving the terminal away", NULL);
        return 0;
}

static int open_pipe(struct process *p, struct spawn *spawn, unsigned i)
{
        const bool to_process = i == 0;
        int pipe[2];

        if (pipe2(pipe, O_CLOEXEC) < 0)
                return fail(spawn->failure, errno, "making a pipe", NULL);
        spawn->streams[i] = above_stdio(pipe[!to_process]);
        p->streams[i].fd = above_stdio(pipe[to_process]);
        /* /dev/stdout opens it anew, as the user. */
        if (spawn->streams[i] < 0 || p->streams[i].fd < 0 || fcntl(p->streams[i].fd, F_SETFL, O_NONBLOCK) < 0 ||
            fchown(spawn->streams[i], (uid_t)spawn->start->field[START_UID].number, (gid_t)-1) < 0)
                return fail(spawn->failure, errno, "preparing a pipe", NULL);
        return 0;
}

static int open_streams(struct init *init, struct process *p, struct spawn *spawn)
{
        const u64 flags = spawn->start->field[START_FLAGS].number;
        int r = 0;

        if (flags & INIT_START_TTY)
                return open_terminal(p, spawn);
        if (!(flags & INIT_START_STDIN)) {
                spawn->streams[0] = above_stdio(openat(init->dev, "null", O_RDWR | O_CLOEXEC));
                if (spawn->streams[0] < 0)
                        return fail(spawn->failure, errno, "opening /dev/null", NULL);
        }
        for (unsigned i = flags & INIT_START_STDIN ? 0 : 1; i < INIT_STREAMS && r == 0; i++)
                r = open_pipe(p, spawn, i);
        return r;
}

static void close_theirs(struct spawn *spawn)
{
        close_fd(&spawn->streams[0]);
        if (spawn->start->field[START_FLAGS].number & INIT_START_TTY)
                return; /* all three are one */
        close_fd(&spawn->streams[1]);
        close_fd(&spawn->streams[2]);
}

static int check_start(struct init *init, const struct init_message *m, struct failure *failure)
{
        if (find(init, m->id))
                return fail(failure, EEXIST, "starting a process: the number is in use", NULL);
        if (m->field[START_FLAGS].number & ~(u64)INIT_START_FLAGS)
                return fail(failure, EINVAL, "starting a process: unknown flags", NULL);
        if (m->field[START_GROUPS].number > INIT_GROUPS_MAX || m->field[START_LIMITS].number % 3)
                return fail(failure, EINVAL, "starting a process: groups or limits are malformed", NULL);
        if (init->rebooting)
                return fail(failure, ESHUTDOWN, "starting a process while the machine ends", NULL);
        return 0;
}

static pid_t start(struct init *init, struct process *p, struct spawn *spawn)
{
        pid_t pid = open_streams(init, p, spawn);

        if (pid == 0 && spawn->start->id == INIT_ID_MAIN)
                make_directories(spawn->start->field[START_CWD].text); /* when it cannot be, changing to it says why */
        if (pid == 0)
                pid = spawn_process(init, spawn);
        if (pid > 0 && spawn->failure->errnum) { /* it got no further than itself */
                waitpid(pid, NULL, 0);
                pid = -spawn->failure->errnum;
        }
        return pid;
}

int request_start(struct init *init, const struct init_message *m, struct failure *failure)
{
        struct process *p = find_free(init);
        struct spawn spawn = {
                .start = m, .streams = { -1, -1, -1 }, .proc = init->proc, .group = init->group, .namespace = init->namespace, .failure = failure
        };
        u32 answer;
        pid_t pid;
        int r = check_start(init, m, failure);

        if (r < 0)
                return r;
        if (!p)
                return fail(failure, EAGAIN, "starting a process: too many run", NULL);
        if (init->frozen) /* we would wait for its first step, which it cannot take */
                return fail(failure, EAGAIN, "starting a process: all stand still", NULL);
        *p = (struct process){ .id = m->id, .tty = m->field[START_FLAGS].number & INIT_START_TTY };
        for (unsigned i = 0; i < INIT_STREAMS; i++)
                p->streams[i] = (struct stream){ .fd = -1, .room = INIT_ROOM_FIRST };
        pid = start(init, p, &spawn);
        close_theirs(&spawn);
        if (pid < 0) {
                for (unsigned i = 0; i < INIT_STREAMS; i++)
                        close_stream(p, i);
                return pid;
        }
        p->pid = pid;
        if (p->tty && !(m->field[START_FLAGS].number & INIT_START_STDIN))
                p->streams[0].ended = true;
        if (m->field[START_FLAGS].number & INIT_START_PID_NS && init->namespace < 0)
                init->namespace = (int)syscall(SYS_pidfd_open, pid, 0);
        answer = (u32)pid;
        link_send_numbers(&init->link, INIT_STARTED, m->id, &answer, 1);
        return 0;
}

/* ---- what the host says ---- */

void process_signal(struct init *init, const struct init_message *m)
{
        const struct process *p = find(init, m->id);

        if (p && !p->exited)
                kill(p->pid, (int)m->field[0].number);
}

void process_resize(struct init *init, const struct init_message *m)
{
        const struct process *p = find(init, m->id);
        const struct winsize size = { .ws_col = (unsigned short)m->field[0].number, .ws_row = (unsigned short)m->field[1].number };

        if (p && p->tty && p->streams[1].fd >= 0)
                ioctl(p->streams[1].fd, TIOCSWINSZ, &size);
}

/* It reads no more: nothing is kept for it. */
static void input_over(struct init *init, struct process *p)
{
        const u32 stream = 0;

        if (!p->streams[0].ended)
                link_send_numbers(&init->link, INIT_END, p->id, &stream, 1);
        p->streams[0].ended = true;
        close_stream(p, 0);
}

/* Writes what the ring holds as far as the process takes it. */
static void feed(struct init *init, struct process *p)
{
        struct stream *s = &p->streams[0];
        ssize_t done = 1;

        while (s->n && done > 0) {
                done = write(s->fd, s->ring + s->first, MIN(s->n, INIT_ROOM_FIRST - s->first));
                if (done > 0) {
                        s->first = (s->first + (u32)done) % INIT_ROOM_FIRST;
                        s->n -= (u32)done;
                        s->owed += (u32)done;
                }
        }
        if (done < 0 && errno != EAGAIN && errno != EINTR) {
                input_over(init, p);
                return;
        }
        if (!s->n) {
                free(s->ring);
                s->ring = NULL;
                if (s->ended && !p->tty)
                        close_stream(p, 0);
        }
        if (s->owed >= INIT_ROOM_FIRST / 2 && !s->ended) {
                const u32 room[] = { 0, s->owed };

                link_send_numbers(&init->link, INIT_ROOM, p->id, room, ARRAY_SIZE(room));
                s->room += s->owed;
                s->owed = 0;
        }
}

void process_data(struct init *init, const struct init_message *m)
{
        struct process *p = find(init, m->id);
        const u64 n = m->field[1].number;
        struct stream *s;
        u32 end, before_wrap;

        if (!p || m->field[0].number != 0)
                return;
        s = &p->streams[0];
        if (s->ended || s->fd < 0)
                return;
        if (n > s->room || (!s->ring && !(s->ring = malloc(INIT_ROOM_FIRST)))) {
                input_over(init, p);
                return;
        }
        s->room -= (u32)n;
        end = (s->first + s->n) % INIT_ROOM_FIRST;
        before_wrap = MIN((u32)n, INIT_ROOM_FIRST - end);
        memcpy(s->ring + end, m->field[1].text, before_wrap);
        memcpy(s->ring, m->field[1].text + before_wrap, n - before_wrap);
        s->n += (u32)n;
        feed(init, p);
}

void process_end(struct init *init, const struct init_message *m)
{
        struct process *p = find(init, m->id);

        if (!p || m->field[0].number != 0 || p->streams[0].ended)
                return;
        p->streams[0].ended = true;
        if (p->streams[0].fd >= 0)
                feed(init, p);
}

/* ---- what the process says ---- */

static void output_over(struct init *init, struct process *p, u32 i)
{
        if (!p->streams[i].ended)
                link_send_numbers(&init->link, INIT_END, p->id, &i, 1);
        p->streams[i].ended = true;
        if (!p->tty || i != 1 || p->exited)
                close_stream(p, i);
}

/* Reads some of a stream, and sends it. False: nothing is there now. */
static bool read_some(struct init *init, struct process *p, u32 i)
{
        struct stream *s = &p->streams[i];
        u32 want = MIN(READ_SIZE, s->room);
        static u8 data[READ_SIZE];
        struct init_frame frame;
        ssize_t n;

        if (p->exited)
                want = MIN(want, p->left_to_read);
        n = read(s->fd, data, want);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return false;
        if (n <= 0) { /* a terminal that nobody has open any more: EIO */
                output_over(init, p, i);
                return false;
        }
        s->room -= (u32)n;
        if (p->exited)
                p->left_to_read -= (u32)n;
        link_begin(&init->link, &frame, INIT_DATA, p->id);
        init_put_u32(&frame, i);
        init_put_bytes(&frame, data, (size_t)n);
        link_end(&init->link, &frame);
        return true;
}

static void finish(struct init *init, struct process *p)
{
        const u32 status[] = {
                WIFEXITED(p->status) ? (u32)WEXITSTATUS(p->status) : 0,
                WIFSIGNALED(p->status) ? (u32)WTERMSIG(p->status) : 0,
        };

        for (unsigned i = 1; i < INIT_STREAMS; i++)
                if (p->streams[i].fd >= 0)
                        output_over(init, p, i);
        close_stream(p, 0);
        link_send_numbers(&init->link, INIT_EXITED, p->id, status, ARRAY_SIZE(status));
        p->pid = 0;
}

/* The last words of one that ended, as far as the host has room; then it is over. */
static void drain(struct init *init, struct process *p)
{
        bool waits = false;

        for (u32 i = 1; i < INIT_STREAMS; i++) {
                struct stream *s = &p->streams[i];

                while (s->fd >= 0 && s->room && p->left_to_read && read_some(init, p, i))
                        ;
                waits |= s->fd >= 0 && !s->room && p->left_to_read;
        }
        if (!waits)
                finish(init, p);
}

void process_room(struct init *init, const struct init_message *m)
{
        struct process *p = find(init, m->id);
        const u64 stream = m->field[0].number;

        if (!p || stream < 1 || stream >= INIT_STREAMS)
                return;
        p->streams[stream].room = (u32)MIN(p->streams[stream].room + m->field[1].number, (u64)INIT_ROOM_MAX);
        if (p->exited)
                drain(init, p);
}

void process_collect(struct init *init)
{
        for (size_t k = 0; k < PROCESSES_MAX; k++) {
                struct process *p = &init->processes[k];

                for (u32 i = 1; p->pid && !p->exited && i < INIT_STREAMS; i++)
                        while (p->streams[i].fd >= 0 && p->streams[i].room && read_some(init, p, i))
                                ;
        }
}

bool process_reap(struct init *init)
{
        int status;
        pid_t pid;

        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
                for (size_t i = 0; i < PROCESSES_MAX; i++) {
                        struct process *p = &init->processes[i];

                        if (p->pid != pid || p->exited)
                                continue;
                        p->exited = true;
                        p->status = status;
                        p->left_to_read = LAST_WORDS;
                        drain(init, p);
                }
        }
        return pid == 0 || errno != ECHILD;
}

/* ---- the loop's part ---- */

static short wanted(const struct process *p, unsigned i)
{
        const struct stream *s = &p->streams[i];

        if (s->fd < 0)
                return 0;
        if (i == 0)
                return s->n ? POLLOUT : 0;
        return !s->ended && s->room ? POLLIN : 0;
}

size_t process_poll(struct init *init, struct pollfd *fds)
{
        size_t n = 0;

        for (size_t k = 0; k < PROCESSES_MAX; k++) {
                const struct process *p = &init->processes[k];

                for (unsigned i = 0; p->pid && i < INIT_STREAMS; i++) {
                        const short events = wanted(p, i);

                        if (events)
                                fds[n++] = (struct pollfd){ .fd = p->streams[i].fd, .events = events };
                }
        }
        return n;
}

static bool is_ready(const struct pollfd *fds, size_t n, int fd, short events)
{
        for (size_t i = 0; i < n; i++)
                if (fds[i].fd == fd && fds[i].events == events && fds[i].revents)
                        return true;
        return false;
}

void process_ready(struct init *init, const struct pollfd *fds, size_t n)
{
        for (size_t k = 0; k < PROCESSES_MAX; k++) {
                struct process *p = &init->processes[k];

                if (p->pid && wanted(p, 0) && is_ready(fds, n, p->streams[0].fd, POLLOUT))
                        feed(init, p);
                for (u32 i = 1; p->pid && i < INIT_STREAMS; i++)
                        if (wanted(p, i) && is_ready(fds, n, p->streams[i].fd, POLLIN))
                                read_some(init, p, i);
        }
}
