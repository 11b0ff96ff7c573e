/* Talking to a supervisor: one packet is one message. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

struct instance_session {
        struct instance *inst; /* borrowed */
        int fd;
        unsigned flags;
        bool ended; /* EXIT came, and no start follows */
        struct message message;
};

int session_open(struct instance *inst, unsigned attach, struct instance_session **ret, struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = calloc(1, sizeof(*session));
        const struct sockaddr_un address = instance_socket(inst, FILE_ATTACH);
        int r;

        if (!session)
                return err_sys(err, ENOMEM, "attaching");
        session->inst = inst;
        session->flags = attach;
        session->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (session->fd < 0)
                return err_sys(err, errno, "attaching");
        if (connect(session->fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
                r = errno;
                if (r == ENOENT || r == ECONNREFUSED)
                        return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
                return err_sys(err, r, "reaching the supervisor of '%s'", inst->config.name);
        }
        r = attach ? session_send(session, MESSAGE_ATTACH, (int)attach, 0, err) : 0;
        if (r < 0)
                return r;
        *ret = TAKE_PTR(session);
        return 0;
}

struct instance_session *instance_session_free(struct instance_session *session)
{
        if (!session)
                return NULL;
        closep(&session->fd);
        free(session);
        return NULL;
}

int session_send(struct instance_session *session, enum message_type type, int arg, int arg2, struct err **err)
{
        const struct message_header header = { type, arg, arg2 };

        while (send(session->fd, &header, sizeof(header), MSG_NOSIGNAL) < 0)
                if (errno != EINTR)
                        return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running any more",
                                session->inst->config.name);
        return 0;
}

/* The length of the data, -EAGAIN with MSG_DONTWAIT, -ECONNRESET at the end. */
static ssize_t receive(struct instance_session *session, int flags)
{
        ssize_t n;

        do
                n = recv(session->fd, &session->message, sizeof(session->message), flags);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? -EAGAIN : -ECONNRESET;
        return n < (ssize_t)MESSAGE_HEADER ? -ECONNRESET : n - (ssize_t)MESSAGE_HEADER;
}

int session_answer(struct instance_session *session, struct err **err)
{
        while (receive(session, 0) >= 0) {
                if (session->message.type == MESSAGE_DONE)
                        return 0;
                if (session->message.type == MESSAGE_FAILED)
                        return -session->message.arg;
        }
        return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running any more", session->inst->config.name);
}

int session_wait_exit(struct instance_session *session, int *ret_status, bool *ret_last, struct err **err)
{
        while (receive(session, 0) >= 0) {
                if (session->message.type != MESSAGE_EXIT)
                        continue;
                *ret_status = session->message.arg;
                if (ret_last)
                        *ret_last = session->message.arg2;
                session->ended = session->message.arg2;
                return 0;
        }
        return 1;
}

int session_wait_started(struct instance_session *session, struct err **err)
{
        while (receive(session, 0) >= 0)
                if (session->message.type == MESSAGE_STARTED)
                        return 0;
        return err_set(err, ERR_IO, ECONNRESET, "the instance '%s' did not start again", session->inst->config.name);
}

void session_wait_closed(struct instance_session *session)
{
        while (receive(session, 0) >= 0)
                ;
}

/* --- the public half -------------------------------------------------------------------------------------------- */

int instance_attach(struct instance *inst, unsigned attach, struct instance_session **ret, struct err **err)
{
        return session_open(inst, attach, ret, err);
}

int instance_session_fd(const struct instance_session *session)
{
        return session->fd;
}

struct instance *session_instance(const struct instance_session *session)
{
        return session->inst;
}

int instance_session_next(struct instance_session *session, struct instance_session_event *ret, struct err **err)
{
        const ssize_t n = receive(session, MSG_DONTWAIT);
        const struct message *m = &session->message;

        if (n == -EAGAIN)
                return -EAGAIN;
        *ret = (struct instance_session_event){ .kind = INSTANCE_EVENT_CLOSED };
        if (n < 0)
                return 0;
        switch ((enum message_type)m->type) {
        case MESSAGE_STDOUT:
        case MESSAGE_STDERR:
                ret->kind = m->type == MESSAGE_STDOUT ? INSTANCE_EVENT_STDOUT : INSTANCE_EVENT_STDERR;
                ret->data = m->data;
                ret->len = (size_t)n;
                return 0;
        case MESSAGE_EXIT:
                ret->kind = INSTANCE_EVENT_EXIT;
                ret->status = m->arg;
                ret->last = m->arg2;
                session->ended = m->arg2;
                return 0;
        default:
                return -EAGAIN;
        }
}

ssize_t instance_session_write(struct instance_session *session, const void *data, size_t len, struct err **err)
{
        struct message_header header = { MESSAGE_STDIN, 0, 0 };
        struct iovec iov[2] = { { &header, sizeof(header) }, { (void *)data, MIN(len, (size_t)MESSAGE_DATA) } };
        const struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
        ssize_t n;

        if (len == 0)
                return 0;
        do
                n = sendmsg(session->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0 && (errno == EAGAIN || errno == ENOBUFS))
                return 0;
        if (n < 0)
                return err_sys(err, errno, "writing to '%s'", session->inst->config.name);
        return (ssize_t)iov[1].iov_len;
}

int instance_session_close_stdin(struct instance_session *session, struct err **err)
{
        return session_send(session, MESSAGE_STDIN, 0, 0, err);
}

int instance_session_resize(struct instance_session *session, u16 rows, u16 columns, struct err **err)
{
        return session_send(session, MESSAGE_RESIZE, (int)((u32)rows << 16 | columns), 0, err);
}

int instance_session_finish(struct instance_session *session, struct err **err)
{
        int r;

        if (!session->ended || !(session->flags & INSTANCE_ATTACH_CLEAN_UP))
                return 0;
        r = instance_clean_up(session->inst, err);
        if (r < 0)
                return r; /* our end of the connection tells the supervisor, who has it done */
        session->flags &= ~(unsigned)INSTANCE_ATTACH_CLEAN_UP;
        if (session_send(session, MESSAGE_CLEANED, 0, 0, NULL) == 0)
                session_wait_closed(session);
        return 0;
}
