/* Those who talk to the supervisor. A client that misbehaves loses its connection; it is root's, or the owner's, in any case: the
 * socket is in a directory of theirs. */
#include "supervise.h"

#define ATTACH_STDIN    (1 << 0)
#define ATTACH_CLEAN_UP (1 << 3)
#define PATIENCE        10000000000LL /* how long the end waits for a client that takes nothing */

void clients_accept(struct supervisor *s)
{
        for (;;) {
                const int fd = (int)SYS_4(SYS_accept4, s->listener, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK);
                struct client *c = s->client;

                if (fd < 0)
                        return;
                while (c < s->client + CLIENTS_MAX && c->fd >= 0)
                        c++;
                if (c == s->client + CLIENTS_MAX) {
                        sys_close(fd);
                        continue;
                }
                *c = (struct client){ .fd = fd };
                /* What it said already counts before anything is printed. */
                clients_receive(s, c);
        }
}

void client_close(struct supervisor *s, struct client *c)
{
        const bool cleaner = c->flags & ATTACH_CLEAN_UP;

        sys_close(c->fd);
        *c = (struct client){ .fd = -1 };
        clients_flush(s);
        if (cleaner && s->phase == PHASE_CLEANING && !s->helper)
                supervisor_cleaned(s); /* looks who does it now */
}

/* Returns false when it would have to wait. @m is a struct message or the beginning of one. */
static bool send_to(struct supervisor *s, struct client *c, const void *m, size_t len)
{
        const long r = SYS_5(SYS_sendto, c->fd, m, MESSAGE_HEADER + len, MSG_DONTWAIT | MSG_NOSIGNAL, 0);

        if (r == -EAGAIN)
                return false;
        if (r < 0)
                client_close(s, c);
        return true;
}

static void answer(struct supervisor *s, struct client *c, enum message_type type, int arg)
{
        const struct message_header header = { type, arg, 0 };

        send_to(s, c, &header, 0);
}

static bool waits_for_data(const struct supervisor *s)
{
        for (const struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                if (c->fd >= 0 && c->owes_data)
                        return true;
        return false;
}

bool clients_owe(const struct supervisor *s)
{
        for (const struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                if (c->fd >= 0 && (c->owes_data || c->owes_exit))
                        return true;
        return false;
}

void clients_flush(struct supervisor *s)
{
        for (struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                if (c->fd >= 0 && c->owes_data && send_to(s, c, &s->out, s->out_len))
                        c->owes_data = false;
        if (!waits_for_data(s))
                s->out_len = 0;
        for (struct client *c = s->client; c < s->client + CLIENTS_MAX; c++) {
                const struct message_header header = { MESSAGE_EXIT, s->status, s->phase == PHASE_CLEANING };

                if (c->fd < 0 || !c->owes_exit)
                        continue;
                if (send_to(s, c, &header, 0))
                        c->owes_exit = false;
        }
}

void clients_send(struct supervisor *s, u32 flag)
{
        for (struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                c->owes_data = c->fd >= 0 && (c->flags & flag);
        clients_flush(s);
}

void clients_exit(struct supervisor *s, bool last)
{
        for (struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                c->owes_exit = c->fd >= 0 && (c->waits || last);
        s->drop_at = supervisor_now() + PATIENCE;
        clients_flush(s);
}

void clients_started(struct supervisor *s)
{
        for (struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                if (c->fd >= 0 && c->waits)
                        answer(s, c, MESSAGE_STARTED, s->child);
}

bool clients_have_cleaner(const struct supervisor *s)
{
        for (const struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                if (c->fd >= 0 && (c->flags & ATTACH_CLEAN_UP))
                        return true;
        return false;
}

/* --- what they ask for ------------------------------------------------------------------------------------------ */

struct winsize_ {
        u16 rows, columns, x, y;
};

static void resize(struct supervisor *s, u32 size)
{
        const struct winsize_ w = { (u16)(size >> 16), (u16)size, 0, 0 };

        if (s->policy.tty && s->output[STREAM_OUT] >= 0)
                SYS_3(SYS_ioctl, s->output[STREAM_OUT], 0x5414 /* TIOCSWINSZ */, &w);
        s->size = size;
}

static void take_signal(struct supervisor *s, struct client *c, int signal)
{
        const int r = s->phase == PHASE_RUNNING && s->child ? sys_kill(s->child, signal) : -ESRCH;

        if (r == 0 && signal == SIGKILL)
                s->stopping = true; /* by hand: no policy starts it again */
        answer(s, c, r < 0 ? MESSAGE_FAILED : MESSAGE_DONE, r < 0 ? -r : 0);
}

static void take_stop(struct supervisor *s, struct client *c, const struct message *m)
{
        c->waits = true;
        s->stopping = true;
        s->again = m->type == MESSAGE_RESTART;
        answer(s, c, MESSAGE_DONE, 0);
        supervisor_stop(s, m->arg2, m->arg);
}

void clients_receive(struct supervisor *s, struct client *c)
{
        struct message *m = &s->message;
        const ssize_t n = sys_read(c->fd, m, sizeof(*m));
        size_t len;

        if (n == -EAGAIN || n == -EINTR)
                return;
        if (n < (ssize_t)MESSAGE_HEADER) {
                client_close(s, c);
                return;
        }
        len = (size_t)n - MESSAGE_HEADER;
        switch ((enum message_type)m->type) {
        case MESSAGE_ATTACH:
                c->flags = (u32)m->arg;
                c->waits = true;
                break;
        case MESSAGE_WAIT:
                c->waits = true;
                if (s->phase == PHASE_CLEANING)
                        c->owes_exit = true;
                clients_flush(s);
                break;
        case MESSAGE_STDIN:
                if (!(c->flags & ATTACH_STDIN))
                        break;
                if (len)
                        input_take(s, m->data, len);
                else
                        input_end(s);
                break;
        case MESSAGE_RESIZE:
                resize(s, (u32)m->arg);
                break;
        case MESSAGE_SIGNAL:
                take_signal(s, c, m->arg);
                break;
        case MESSAGE_STOP:
        case MESSAGE_RESTART:
                take_stop(s, c, m);
                break;
        case MESSAGE_RELOAD:
                supervisor_load(s);
                answer(s, c, MESSAGE_DONE, 0);
                break;
        case MESSAGE_FREE_PORTS:
                children_free_ports(s);
                answer(s, c, MESSAGE_DONE, 0);
                break;
        case MESSAGE_CLEANED:
                c->flags &= ~(u32)ATTACH_CLEAN_UP;
                if (s->phase == PHASE_CLEANING && !s->helper) {
                        s->cleaned = true;
                        supervisor_cleaned(s);
                }
                break;
        default:
                client_close(s, c);
        }
}
