#include "jail_porter.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd_pass.h"
#include "jail_internal.h"

/* Everything that it does is done at once: who waits longer waits for a porter that is stopped. */
#define ANSWER_SECONDS 5

enum porter_what { PORTER_MAP_UID, PORTER_MAP_GID, PORTER_DENY_SETGROUPS, PORTER_SOCKET, PORTER_SEAL, PORTER_CONNECT, PORTER_WHATS };

struct porter_request {
        u32 what;
        u32 sequence;
        u32 index, number;
        u64 dev, ino;
        char text[PORTER_TEXT_MAX]; /* as much as the message has; ends with 0 */
};

struct porter_answer {
        s32 result;
        u32 sequence; /* of the request: an answer that came too late is none to the next one */
};

struct porter_socket {
        char *path;
        u64 dev, ino;
};

struct porter {
        int socket;
        int proc_fd; /* /proc/self of the process in the jail */
        struct porter_socket sockets[JAIL_SOCKETS_MAX];
        size_t n_sockets;
        bool sealed;
};

/* ---- outside ---- */

static int write_file(const struct porter *p, const char *name, const char *text)
{
        _cleanup_close_ int fd = openat(p->proc_fd, name, O_WRONLY | O_CLOEXEC);

        return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int do_map_uid(struct porter *p, const struct porter_request *request)
{
        return write_file(p, "uid_map", request->text);
}

static int do_map_gid(struct porter *p, const struct porter_request *request)
{
        return write_file(p, "gid_map", request->text);
}

static int do_deny_setgroups(struct porter *p, const struct porter_request *request)
{
        return write_file(p, "setgroups", "deny");
}

static int do_socket(struct porter *p, const struct porter_request *request)
{
        struct porter_socket *s = &p->sockets[p->n_sockets];

        if (p->n_sockets == ARRAY_SIZE(p->sockets))
                return -E2BIG;
        *s = (struct porter_socket){ .path = strdup(request->text), .dev = request->dev, .ino = request->ino };
        if (!s->path)
                return -ENOMEM;
        p->n_sockets++;
        return 0;
}

static int do_seal(struct porter *p, const struct porter_request *request)
{
        p->sealed = true;
        close(TAKE_FD(p->proc_fd));
        if (!JAIL_SANITIZERS)
                jail_filter_install(JAIL_PORTER); /* a kernel without it is the jail's concern: its own stage finds that too */
        return 0;
}

static int do_connect(struct porter *p, const struct porter_request *request)
{
        char path[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];

        if (request->index >= p->n_sockets)
                return -EINVAL;
        snprintf(path, sizeof(path), "%s_%u", p->sockets[request->index].path, request->number);
        return unix_connect(path);
}

static const struct {
        int (*run)(struct porter *p, const struct porter_request *request);
        bool after_seal;
} requests[PORTER_WHATS] = {
        [PORTER_MAP_UID] = { do_map_uid, false },
        [PORTER_MAP_GID] = { do_map_gid, false },
        [PORTER_DENY_SETGROUPS] = { do_deny_setgroups, false },
        [PORTER_SOCKET] = { do_socket, false },
        [PORTER_SEAL] = { do_seal, false },
        [PORTER_CONNECT] = { do_connect, true },
};

static int serve(struct porter *p, struct porter_request *request, ssize_t size)
{
        if (size < (ssize_t)offsetof(struct porter_request, text) || request->what >= PORTER_WHATS ||
                requests[request->what].after_seal != p->sealed)
                return -EPERM;
        request->text[MIN((size_t)size - offsetof(struct porter_request, text), sizeof(request->text) - 1)] = '\0';
        return requests[request->what].run(p, request);
}

/* @result, or the descriptor if it is one. */
static bool answer(const struct porter *p, u32 sequence, int result, bool is_fd)
{
        const struct porter_answer body = { .result = is_fd ? 0 : result, .sequence = sequence };

        return fds_send(p->socket, &body, sizeof(body), &result, is_fd, 0) >= 0;
}

static void remove_sockets(const struct porter *p)
{
        for (size_t i = 0; i < p->n_sockets; i++)
                unix_listener_remove(p->sockets[i].path, p->sockets[i].dev, p->sockets[i].ino);
}

_noreturn_ static void porter_main(int socket, int proc_fd)
{
        struct porter p = { .socket = socket, .proc_fd = proc_fd };
        struct porter_request request;
        sigset_t all;

        /* It ends with the process in the jail, and by nothing else that is meant for that one. */
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
        for (;;) {
                ssize_t n = recv(p.socket, &request, sizeof(request), 0);
                bool is_fd;
                int r;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        break;
                r = serve(&p, &request, n);
                is_fd = r >= 0 && request.what == PORTER_CONNECT && p.sealed;
                if (!answer(&p, request.sequence, r, is_fd))
                        break;
                if (is_fd)
                        close(r);
                if (p.sealed && p.n_sockets == 0)
                        _exit(0);
        }
        remove_sockets(&p);
        _exit(0);
}

/* Only @a and @b stay open. */
static void close_others(int a, int b)
{
        const unsigned low = (unsigned)MIN(a, b), high = (unsigned)MAX(a, b);

        if (low > 0)
                close_range(0, low - 1, 0);
        if (high - low > 1)
                close_range(low + 1, high - 1, 0);
        close_range(high + 1, ~0U, 0);
}

int porter_start(struct porter_link *ret, struct err **err)
{
        const struct timeval timeout = { .tv_sec = ANSWER_SECONDS };
        _cleanup_close_ int ours = -1, theirs = -1, proc_fd = -1;
        int sockets[2];
        pid_t pid;

        /* Opened here: what is "self" there is somebody else. */
        proc_fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (proc_fd < 0)
                return err_sys(err, errno, "opening /proc/self");
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
                return err_sys(err, errno, "creating a pair of sockets");
        ours = sockets[0];
        theirs = sockets[1];
        setsockopt(ours, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
        pid = fork();
        if (pid < 0)
                return err_sys(err, errno, "starting a process");
        if (pid == 0) {
                close_others(theirs, proc_fd);
                porter_main(theirs, proc_fd);
        }
        *ret = (struct porter_link){ .socket = TAKE_FD(ours), .pid = pid };
        return 0;
}

/* ---- inside ---- */

/* The result, and the descriptor that came with it in *@ret_fd if that is not NULL. */
static int receive(const struct porter_link *link, u32 sequence, int *ret_fd)
{
        struct porter_answer body = { 0 };
        ssize_t n;

        do {
                _cleanup_close_ int fd = -1;
                unsigned n_fds = 0;

                n = fds_receive(link->socket, &body, sizeof(body), &fd, &n_fds, 1, 0);
                if (n == -EINTR)
                        continue;
                if (n != (ssize_t)sizeof(body))
                        return n < 0 ? (int)n : -EPIPE;
                if (body.sequence == sequence && ret_fd)
                        *ret_fd = TAKE_FD(fd);
        } while (n < 0 || body.sequence != sequence);
        return body.result;
}

/* porter_finish waits for the answer. */
static int tell(struct porter_link *link, struct porter_request *request)
{
        const size_t size = offsetof(struct porter_request, text) + strlen(request->text);

        request->sequence = ++link->sequence;
        return send(link->socket, request, size, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int tell_with_text(struct porter_link *link, struct porter_request *request, const char *text)
{
        if ((size_t)snprintf(request->text, sizeof(request->text), "%s", text) >= sizeof(request->text))
                return -E2BIG;
        return tell(link, request);
}

int porter_finish(struct porter_link *link)
{
        int r = 0;

        while (link->answered != link->sequence) {
                const int answer = receive(link, ++link->answered, NULL);

                if (r == 0)
                        r = answer;
        }
        return r;
}

int porter_map_ids(struct porter_link *link, bool deny_setgroups, const char *uid_map, const char *gid_map)
{
        struct porter_request request = { .what = PORTER_DENY_SETGROUPS };
        int r = deny_setgroups ? tell(link, &request) : 0;

        request.what = PORTER_MAP_GID;
        if (r == 0)
                r = tell_with_text(link, &request, gid_map);
        request.what = PORTER_MAP_UID;
        if (r == 0)
                r = tell_with_text(link, &request, uid_map);
        return r < 0 ? r : porter_finish(link);
}

int porter_add_socket(struct porter_link *link, const struct unix_listener *listener)
{
        struct porter_request request = { .what = PORTER_SOCKET, .dev = listener->dev, .ino = listener->ino };

        return tell_with_text(link, &request, listener->path);
}

int porter_seal(struct porter_link *link)
{
        struct porter_request request = { .what = PORTER_SEAL };

        return tell(link, &request);
}

int porter_connect(struct porter_link *link, u32 index, u32 number)
{
        struct porter_request request = { .what = PORTER_CONNECT, .index = index, .number = number };
        int fd = -1, r = tell(link, &request);

        if (r == 0)
                r = receive(link, link->answered = link->sequence, &fd);
        return r < 0 ? r : fd >= 0 ? fd : -EPROTO;
}
