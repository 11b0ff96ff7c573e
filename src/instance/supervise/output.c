/* What the container prints, to the log and to whoever is attached; and what it is given to read.
 *
 * Nothing more is read while somebody attached has not taken the last piece: a slow reader slows the container, nobody
 * loses a byte. */
#include "supervise.h"

/* --- the log -------------------------------------------------------------------------------------------------------
 *
 * The format of the Kubernetes CRI: "TIME STREAM TAG TEXT", where the tag P says that the line goes on in the next entry. A
 * piece that was read without its newline is written at once, so nothing is held back. */

#define LOG_BUFFER 8192
#define LOG_PREFIX 48

void log_open(struct supervisor *s)
{
        if (!s->policy.log)
                return;
        s->log = sys_open(FILE_LOG, O_WRONLY | O_CREAT | O_APPEND, 0640);
        s->log_size = s->log < 0 ? 0 : SYS_3(SYS_lseek, s->log, 0, SEEK_END);
}

static char *log_name(char *at, s64 i)
{
        at = text_put(at, FILE_LOG);
        if (i > 0) {
                *at++ = '.';
                at = text_number(at, i);
        }
        *at = '\0';
        return at;
}

static void rotate(struct supervisor *s)
{
        char from[32], to[32];

        for (s64 i = s->policy.log_max_files - 1; i > 0; i--) {
                log_name(from, i - 1);
                log_name(to, i);
                sys_rename(from, to);
        }
        if (s->policy.log_max_files <= 1)
                sys_unlink(FILE_LOG);
        sys_close(s->log);
        log_open(s);
}

/* Whole entries. */
static void write_entries(struct supervisor *s, const char *data, size_t len)
{
        if (s->policy.log_max_size > 0 && s->log_size >= s->policy.log_max_size)
                rotate(s);
        while (len) {
                const ssize_t n = sys_write(s->log, data, len);

                if (n == -EINTR)
                        continue;
                if (n <= 0)
                        return; /* a full disk must not stop the container */
                data += n;
                len -= (size_t)n;
                s->log_size += n;
        }
}

void log_write(struct supervisor *s, enum stream stream, const u8 *data, size_t len)
{
        char buf[LOG_BUFFER], prefix[LOG_PREFIX], *at = buf, *p;
        size_t prefix_len;

        if (s->log < 0)
                return;
        p = text_time(prefix, sys_clock(CLOCK_REALTIME));
        p = text_put(p, stream == STREAM_OUT ? " stdout " : " stderr ");
        prefix_len = (size_t)(p - prefix);
        while (len) {
                size_t n = 0, room;

                if (at + LOG_PREFIX * 2 > buf + sizeof(buf)) {
                        write_entries(s, buf, (size_t)(at - buf));
                        at = buf;
                }
                room = (size_t)(buf + sizeof(buf) - at) - LOG_PREFIX - 4;
                while (n < len && n < room && data[n] != '\n')
                        n++;
                for (size_t i = 0; i < prefix_len; i++)
                        *at++ = prefix[i];
                *at++ = n < len && data[n] == '\n' ? 'F' : 'P';
                *at++ = ' ';
                for (size_t i = 0; i < n; i++)
                        *at++ = (char)data[i];
                *at++ = '\n';
                n += n < len && data[n] == '\n';
                data += n;
                len -= n;
        }
        write_entries(s, buf, (size_t)(at - buf));
}

/* --- out -------------------------------------------------------------------------------------------------------- */

static void close_stream(struct supervisor *s, enum stream stream)
{
        if (s->input == s->output[stream])
                s->input = -1;
        sys_close(s->output[stream]);
        s->output[stream] = -1;
}

void output_pump(struct supervisor *s, enum stream stream)
{
        ssize_t n;

        if (s->output[stream] < 0 || s->out_len)
                return;
        n = sys_read(s->output[stream], s->out.data, sizeof(s->out.data));
        if (n == -EAGAIN || n == -EINTR)
                return;
        if (n <= 0) { /* a terminal that nobody has open says EIO */
                close_stream(s, stream);
                return;
        }
        log_write(s, stream, s->out.data, (size_t)n);
        s->out.type = stream == STREAM_OUT ? MESSAGE_STDOUT : MESSAGE_STDERR;
        s->out.arg = s->out.arg2 = 0;
        s->out_len = (size_t)n;
        clients_send(s, stream == STREAM_OUT ? 1 << 1 : 1 << 2);
}

/* What is in the pipes after the end; returns when there is no more, or when a client has to be waited for. */
void output_drain(struct supervisor *s)
{
        for (int stream = 0; stream < STREAM_COUNT; stream++) {
                while (s->output[stream] >= 0 && !s->out_len) {
                        struct pollfd p = { .fd = s->output[stream], .events = POLLIN };

                        if (SYS_3(SYS_poll, &p, 1, 0) <= 0)
                                break;
                        output_pump(s, stream);
                }
        }
}

void output_close(struct supervisor *s)
{
        for (int stream = 0; stream < STREAM_COUNT; stream++)
                if (s->output[stream] >= 0)
                        close_stream(s, stream);
        if (s->input >= 0)
                sys_close(s->input);
        s->input = -1;
        s->in_len = s->in_start = 0;
}

/* --- in --------------------------------------------------------------------------------------------------------- */

void input_flush(struct supervisor *s)
{
        while (s->in_start < s->in_len) {
                const ssize_t n =
                        s->input < 0 ? -EPIPE : sys_write(s->input, s->in + s->in_start, s->in_len - s->in_start);

                if (n == -EAGAIN)
                        return;
                if (n == -EINTR)
                        continue;
                if (n <= 0) {
                        if (!s->policy.tty && s->input >= 0) {
                                sys_close(s->input);
                                s->input = -1;
                        }
                        break;
                }
                s->in_start += (size_t)n;
        }
        s->in_start = s->in_len = 0;
}

void input_take(struct supervisor *s, const u8 *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                s->in[i] = data[i];
        s->in_start = 0;
        s->in_len = len;
        input_flush(s);
}

void input_end(struct supervisor *s)
{
        if (s->policy.tty || s->input < 0)
                return;
        sys_close(s->input);
        s->input = -1;
}

void console_accept(struct supervisor *s)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        char text[256];
        struct iovec iov = { text, sizeof(text) };
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        const int fd = (int)SYS_4(SYS_accept4, s->console, 0, 0, SOCK_CLOEXEC);
        const long n = fd < 0 ? fd : SYS_3(SYS_recvmsg, fd, &msg, MSG_CMSG_CLOEXEC);

        if (n >= 0 && msg.msg_controllen >= sizeof(struct cmsghdr) && control.header.cmsg_type == SCM_RIGHTS) {
                s->output[STREAM_OUT] = *(int *)CMSG_DATA(&control.header);
                sys_fcntl(s->output[STREAM_OUT], F_SETFL, O_RDWR | O_NONBLOCK);
                s->input = s->output[STREAM_OUT];
        }
        sys_close(fd);
        sys_close(s->console);
        s->console = -1;
        sys_unlink(FILE_CONSOLE);
}
