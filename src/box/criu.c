#include "criu.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "sync.h"
#include "sys.h"

enum {
        OLDEST = 40000,
        MESSAGE_MAX = 65536, /* criu's answers are a few hundred bytes */
};

/* ---- protobuf: a message is a row of (field number << 3 | kind) and value ---- */

enum { KIND_VARINT = 0, KIND_FIXED64 = 1, KIND_BYTES = 2, KIND_FIXED32 = 5 };

static void put(struct criu_bytes *b, const void *data, size_t n)
{
        if (b->failed)
                return;
        if (b->room - b->n < n) {
                const size_t room = (b->n + n) * 2;
                u8 *bigger = realloc(b->data, room);

                if (!bigger) {
                        b->failed = true;
                        return;
                }
                b->data = bigger;
                b->room = room;
        }
        memcpy(b->data + b->n, data, n);
        b->n += n;
}

static void put_varint(struct criu_bytes *b, u64 value)
{
        u8 byte;

        do {
                byte = (u8)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
                put(b, &byte, 1);
                value >>= 7;
        } while (value);
}

static void put_int(struct criu_bytes *b, unsigned field, s64 value)
{
        put_varint(b, field << 3 | KIND_VARINT);
        put_varint(b, (u64)value); /* negative ones are ten bytes long, as protobuf has it */
}

static void put_bytes(struct criu_bytes *b, unsigned field, const void *data, size_t n)
{
        put_varint(b, field << 3 | KIND_BYTES);
        put_varint(b, n);
        put(b, data, n);
}

static void put_text(struct criu_bytes *b, unsigned field, const char *text)
{
        put_bytes(b, field, text, strlen(text));
}

static void put_message(struct criu_bytes *b, unsigned field, struct criu_bytes *message)
{
        put_bytes(b, field, message->data, message->n);
        b->failed |= message->failed;
        free(message->data);
}

void criu_int(struct criu_request *q, enum criu_option option, s64 value)
{
        put_int(&q->options, option, value);
}

void criu_text(struct criu_request *q, enum criu_option option, const char *value)
{
        put_text(&q->options, option, value);
}

void criu_textf(struct criu_request *q, enum criu_option option, const char *fmt, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                q->options.failed = true;
        else
                criu_text(q, option, text);
        va_end(ap);
}

void criu_inherit(struct criu_request *q, const char *key, int fd)
{
        struct criu_bytes m = { 0 };

        put_text(&m, 1, key);
        put_int(&m, 2, fd);
        put_message(&q->options, CRIU_INHERIT_FD, &m);
}

static void put_pair(struct criu_request *q, enum criu_option option, const char *first, const char *second)
{
        struct criu_bytes m = { 0 };

        put_text(&m, 1, first);
        put_text(&m, 2, second);
        put_message(&q->options, option, &m);
}

void criu_join(struct criu_request *q, const char *kind, const char *path)
{
        put_pair(q, CRIU_JOIN_NAMESPACE, kind, path);
}

void criu_cgroup_root(struct criu_request *q, const char *controller, const char *path)
{
        put_pair(q, CRIU_CGROUP_ROOT, controller, path);
}

void criu_page_server(struct criu_request *q, const char *address, u16 port)
{
        struct criu_bytes m = { 0 };

        put_text(&m, 1, address);
        put_int(&m, 2, port);
        put_message(&q->options, CRIU_PAGE_SERVER, &m);
}

void criu_release(struct criu_request *q)
{
        free(q->options.data);
}

/* What is left of a message that is being read. */
struct reader {
        const u8 *at, *end;
};

struct value {
        unsigned field;
        u64 number;        /* KIND_VARINT */
        struct reader sub; /* KIND_BYTES; else empty */
};

static bool get_varint(struct reader *m, u64 *ret)
{
        u64 value = 0;

        for (unsigned shift = 0; shift < 64 && m->at < m->end; shift += 7) {
                const u8 byte = *m->at++;

                value |= (u64)(byte & 0x7f) << shift;
                if (!(byte & 0x80)) {
                        *ret = value;
                        return true;
                }
        }
        return false;
}

/* The next field; false at the end and where the rest makes no sense. */
static bool get(struct reader *m, struct value *ret)
{
        u64 key, n;

        *ret = (struct value){ 0 };
        if (!get_varint(m, &key))
                return false;
        ret->field = (unsigned)(key >> 3);
        switch (key & 7) {
        case KIND_VARINT:
                return get_varint(m, &ret->number);
        case KIND_BYTES:
                if (!get_varint(m, &n))
                        return false;
                ret->sub.at = m->at;
                break;
        case KIND_FIXED64:
                n = 8;
                break;
        case KIND_FIXED32:
                n = 4;
                break;
        default:
                return false;
        }
        if (n > (size_t)(m->end - m->at))
                return false;
        m->at += n;
        if (ret->sub.at)
                ret->sub.end = m->at;
        return true;
}

/* criu_resp, as far as it says something to us. */
struct answer {
        unsigned type;
        bool success;
        int version; /* 40101 for 4.1.1 */
        int error;   /* criu's cr_errno */
        pid_t pid;
        char text[512]; /* the name of a notification, or what went wrong */
};

static void copy_text(struct answer *a, struct reader sub)
{
        const size_t n = MIN((size_t)(sub.end - sub.at), sizeof(a->text) - 1);

        memcpy(a->text, sub.at, n);
        a->text[n] = 0;
        a->text[strcspn(a->text, "\n")] = 0;
}

static void read_version(struct reader m, struct answer *a)
{
        struct value v;

        while (get(&m, &v)) {
                const int part = (int)MIN(v.number, (u64)99);

                a->version += v.field == 1 ? part * 10000 : v.field == 2 ? part * 100 : v.field == 4 ? part : 0;
        }
}

static void read_answer(struct reader m, struct answer *a)
{
        struct value v, inner;

        while (get(&m, &v)) {
                switch (v.field) {
                case 1:
                        a->type = (unsigned)v.number;
                        break;
                case 2:
                        a->success = v.number;
                        break;
                case 4: /* criu_restore_resp */
                        while (get(&v.sub, &inner))
                                if (inner.field == 1)
                                        a->pid = (pid_t)inner.number;
                        break;
                case 5: /* criu_notify */
                        while (get(&v.sub, &inner)) {
                                if (inner.field == 1 && inner.sub.at)
                                        copy_text(a, inner.sub);
                                else if (inner.field == 2)
                                        a->pid = (pid_t)inner.number;
                        }
                        break;
                case 7:
                        a->error = (int)v.number;
                        break;
                case 9:
                        if (v.sub.at)
                                copy_text(a, v.sub);
                        break;
                case 10:
                        read_version(v.sub, a);
                        break;
                default:
                        break;
                }
        }
}

/* ---- the program ---- */

static const char *program_name(const char *program)
{
        return program ? program : "criu";
}

/* criu opens what requests name by number through /proc/PID/fd of who made its socket, so that must be itself: it may
 * be in another mount namespace than we are. */
static int hand_out_socket(int boot, int *ret, struct err **err)
{
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
                return err_sys(err, errno, "starting criu");
        r = sync_send(boot, SYNC_READY, 0, pair[0]);
        close(pair[0]);
        *ret = pair[1];
        return r < 0 ? err_sys(err, -r, "starting criu") : 0;
}

static void _noreturn_ become_criu(const char *program, int boot, const struct criu_server *server)
{
        struct err *err = NULL;
        char number[16];
        sigset_t none;
        int sock = -1, r = 0;

        if (server && server->prepare)
                r = server->prepare(server->arg, &err);
        for (size_t i = 0; server && i < server->n_fds; i++)
                if (server->fds[i] >= 0)
                        fcntl(server->fds[i], F_SETFD, 0);
        if (r == 0)
                r = hand_out_socket(boot, &sock, &err);
        if (r < 0) {
                sync_send_error(boot, r, err);
                _exit(1);
        }
        sigemptyset(&none); /* wait.h blocks some, and criu waits by them */
        sigprocmask(SIG_SETMASK, &none, NULL);
        snprintf(number, sizeof(number), "%d", sock);
        execlp(program_name(program), "criu", "swrk", number, NULL);
        _exit(127);
}

struct conversation {
        int sock;
        pid_t pid;
};

static void end_conversation(struct conversation *c)
{
        closep(&c->sock);
        while (c->pid > 0 && waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
                ;
}

static int begin(const char *program, const struct criu_server *server, struct conversation *c, struct err **err)
{
        int boot[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, boot) < 0)
                return err_sys(err, errno, "starting criu");
        c->pid = fork();
        if (c->pid == 0) {
                close(boot[0]);
                become_criu(program, boot[1], server);
        }
        close(boot[1]);
        r = c->pid < 0 ? err_sys(err, errno, "starting criu") : sync_expect(boot[0], SYNC_READY, NULL, &c->sock, err);
        close(boot[0]);
        return r;
}

static int send_message(const struct conversation *c, const struct criu_bytes *message, struct err **err)
{
        if (message->failed)
                return err_sys(err, ENOMEM, "asking criu");
        return send(c->sock, message->data, message->n, MSG_NOSIGNAL) < 0 ? err_sys(err, errno, "asking criu") : 0;
}

/* 0: it is gone. @ret_fd as of criu_server.notify. */
static int receive(const struct conversation *c, u8 *buf, struct answer *a, int *ret_fd, struct err **err)
{
        union {
                char buf[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control;
        struct iovec iov = { buf, MESSAGE_MAX };
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf)
        };
        struct cmsghdr *h;
        ssize_t n;

        do
                n = recvmsg(c->sock, &msg, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno != ECONNRESET)
                return err_sys(err, errno, "hearing from criu");
        h = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
        *ret_fd = -1;
        if (h && h->cmsg_type == SCM_RIGHTS && h->cmsg_len >= CMSG_LEN(sizeof(int)))
                memcpy(ret_fd, CMSG_DATA(h), sizeof(int));
        *a = (struct answer){ 0 };
        if (n > 0)
                read_answer((struct reader){ buf, buf + n }, a);
        return n > 0;
}

int criu_check(const char *program, struct err **err)
{
        _cleanup_(end_conversation) struct conversation c = { -1, 0 };
        _cleanup_free_ u8 *buf = malloc(MESSAGE_MAX);
        struct criu_bytes message = { 0 };
        struct answer a = { 0 };
        int fd = -1, r = begin(program, NULL, &c, err);

        if (r < 0)
                return r;
        put_int(&message, 1, CRIU_VERSION);
        r = buf ? send_message(&c, &message, NULL) : -ENOMEM;
        free(message.data);
        if (r == 0)
                r = receive(&c, buf, &a, &fd, NULL);
        closep(&fd);
        if (r <= 0 || !a.success) {
                r = err_set(err, ERR_UNSUPPORTED, ENOENT,
                        "checkpoint and restore need the criu program: '%s' does not run", program_name(program));
                return err_hint(err, r, "install criu 4.0 or newer, or name it with --criu");
        }
        if (a.version >= OLDEST)
                return 0;
        r = err_set(err, ERR_UNSUPPORTED, ENOTSUP, "criu %d.%d is too old: 4.0 or newer is needed", a.version / 10000,
                a.version / 100 % 100);
        return err_hint(err, r, "name a newer one with --criu");
}

/* ---- a request ---- */

/* The text behind "Error (FILE:LINE): ", or all of it. */
static const char *without_place(const char *text)
{
        const char *error = strstr(text, "Error ("), *end = error ? strstr(error, "): ") : NULL;

        return end ? end + 3 : text;
}

/* A line "(00.1) Error (criu/mount.c:123): mnt: ..." that says why, not one that only follows or that criu itself
 * gets over. */
static bool tells(const char *text)
{
        static const char *const no_reason[] = { "rlimit: Can't setup RLIMIT_NOFILE", "tun: Unable to create tun" };

        for (size_t i = 0; i < ARRAY_SIZE(no_reason); i++)
                if (strncmp(text, no_reason[i], strlen(no_reason[i])) == 0)
                        return false;
        return true;
}

/* The first error in criu's log, or NULL. criu_resp has one too, but of another's choice. */
static char *find_reason(const char *path)
{
        _cleanup_close_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
        _cleanup_free_ char *line = NULL;
        _cleanup_fclose_ FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
        size_t room = 0;

        if (!f)
                return NULL;
        TAKE_FD(fd);
        while (getline(&line, &room, f) > 0) {
                const char *text = without_place(line);

                if (text != line && tells(text))
                        return strndup(text, strcspn(text, "\n"));
        }
        return NULL;
}

static int failed(enum criu_type type, const struct answer *a, const struct criu_server *server, struct err **err)
{
        _cleanup_free_ char *reason = find_reason(server->log);
        const char *what = type == CRIU_RESTORE ? "restore" : type == CRIU_DUMP ? "dump" : "pre-dump";
        const char *why = reason       ? reason
                          : a->text[0] ? without_place(a->text)
                          : a->error   ? strerror(a->error)
                                       : "it ended early";
        const int r = err_set(err, ERR_IO, a->error > 0 ? a->error : EIO, "criu %s failed: %s", what, why);

        return server->log ? err_hint(err, r, "its log is '%s'", server->log) : r;
}

static int answer_notification(const struct conversation *c, const struct answer *a, int fd,
        const struct criu_server *server, struct err **err)
{
        struct criu_bytes message = { 0 };
        const int r = server->notify(server->arg, a->text, a->pid, fd, err);
        int sent;

        put_int(&message, 1, CRIU_NOTIFY);
        put_int(&message, 3, r == 0);
        sent = send_message(c, &message, r == 0 ? err : NULL);
        free(message.data);
        return r < 0 ? r : sent;
}

int criu_run(const char *program, const struct criu_request *q, const struct criu_server *server, pid_t *ret_pid,
        struct err **err)
{
        _cleanup_(end_conversation) struct conversation c = { -1, 0 };
        _cleanup_free_ u8 *buf = malloc(MESSAGE_MAX);
        struct criu_bytes message = { .failed = q->options.failed || !buf };
        struct answer a;
        int r = begin(program, server, &c, err), refused = 0;

        if (r < 0)
                return r;
        put_int(&message, 1, q->type);
        put_bytes(&message, 2, q->options.data, q->options.n);
        r = send_message(&c, &message, err);
        free(message.data);
        while (r == 0) {
                int fd = -1;

                r = receive(&c, buf, &a, &fd, err);
                if (r > 0 && a.type == CRIU_NOTIFY) {
                        r = answer_notification(&c, &a, fd, server, err);
                        closep(&fd);
                        /* Refused: criu takes everything back and says so. */
                        if (r < 0 && !refused) {
                                refused = r;
                                r = 0;
                        }
                        continue;
                }
                closep(&fd);
                if (r == 0 || (r > 0 && !a.success))
                        r = refused ? refused : failed(q->type, &a, server, err);
        }
        if (r > 0 && ret_pid && a.pid <= 1)
                r = failed(q->type, &a, server, err);
        else if (r > 0 && ret_pid)
                *ret_pid = a.pid;
        return MIN(r, 0);
}
