#include "sync.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd_pass.h"
#include "sys.h"

enum { TEXT_MAX = 2048 };

/* handover.c writes one of these too; its text is the program. */
struct message {
        u32 type;
        s32 value; /* errno of an error */
        u32 id;    /* enum err_id */
        char text[TEXT_MAX];
};

#define HEAD_SIZE offsetof(struct message, text)

static int send_message(int sock, const struct message *m, size_t size, int fd)
{
        const ssize_t sent = fds_send(sock, m, size, &fd, fd >= 0, 0);

        return sent < 0 ? (int)sent : 0;
}

int sync_send(int sock, enum sync_type type, int value, int fd)
{
        const struct message m = { .type = type, .value = value };

        return send_message(sock, &m, HEAD_SIZE, fd);
}

void sync_send_error(int sock, int errnum, const struct err *err)
{
        struct message m = { .type = SYNC_ERROR, .value = errnum < 0 ? -errnum : errnum, .id = err_get_id(err) };
        const char *text = err_message(err);
        const size_t n = MIN(strlen(text), (size_t)TEXT_MAX - 1);

        memcpy(m.text, text, n);
        send_message(sock, &m, HEAD_SIZE + n + 1, -1);
}

static int take_fd(struct msghdr *msg)
{
        int fd = -1;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
                        memcpy(&fd, CMSG_DATA(c), sizeof(int));
        return fd;
}

int sync_receive(int sock, int *ret_value, int *ret_fd, struct err **err)
{
        union {
                char buf[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control = { 0 };
        struct message m = { 0 };
        char text[64];
        int errnum;
        struct iovec iov = { &m, sizeof(m) - 1 };
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf)
        };
        _cleanup_close_ int fd = -1;
        ssize_t n;

        /* ECONNRESET: the other side ended without reading all that was sent to it. It is reported once, before what it
         * said last. */
        do
                n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
        while (n < 0 && (errno == EINTR || errno == ECONNRESET));
        if (n < 0)
                return err_sys(err, errno, "hearing from the container's process");
        if (n <= 0)
                return SYNC_END;
        fd = take_fd(&msg);
        if ((size_t)n < HEAD_SIZE)
                return err_set(err, ERR_INTERNAL, EPROTO, "a message of the container's process is damaged");
        errnum = m.value > 0 && m.value < 4096 ? m.value : EIO;
        m.text[sizeof(m.text) - 1] = 0;
        if (m.type == SYNC_ERROR)
                return err_set(err, m.id < ERR_ID_COUNT ? (enum err_id)m.id : ERR_INTERNAL, errnum, "%s", m.text);
        if (m.type == SYNC_EXEC_FAILED)
                return err_set(err, errnum == ENOENT ? ERR_NOT_FOUND : ERR_NO_PERMISSION, errnum, "exec %s: %s", m.text,
                        sys_error_text(errnum, text, sizeof(text)));
        if (ret_value)
                *ret_value = m.value;
        if (ret_fd)
                *ret_fd = TAKE_FD(fd);
        return (int)m.type;
}

int sync_expect(int sock, enum sync_type wanted, int *ret_value, int *ret_fd, struct err **err)
{
        const int type = sync_receive(sock, ret_value, ret_fd, err);

        if (type < 0)
                return type;
        if (type == SYNC_END)
                return err_set(err, ERR_IO, ECONNRESET, "the other process of the runtime went away");
        if (type != (int)wanted)
                return err_set(err, ERR_INTERNAL, EPROTO, "message %d came where %d was due", type, (int)wanted);
        return 0;
}
