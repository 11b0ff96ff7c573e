/* A process's streams and the caller's descriptors.
 *
 * Theory of operation. Nothing here waits but the one poll(): a descriptor is written only after poll said that it takes something, and
 * then no more than a pipe that is not full takes at once (PIPE_BUF), since the descriptors are shared with others and must not be made
 * non-blocking. What is not written yet stays in the output's ring, for which the guest was given room; room is given back as the ring
 * empties. So a reader that stands still holds up its own stream only, and signals and input still pass. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#include "init/client_internal.h"

#define INPUT_SIZE 16384U

struct relaying {
        struct init_client *client;
        const struct init_relay *relay;
        int in;
        int out[2]; /* -1: what comes is thrown away */
};

static int send_room(struct init_client *client, u32 stream, u32 bytes, struct err **err)
{
        struct init_frame frame;

        client_begin(client, &frame, INIT_ROOM, client->process);
        init_put_u32(&frame, stream);
        init_put_u32(&frame, bytes);
        return client_send(client, &frame, err);
}

/* ---- output ---- */

static void drop(struct output *out, u32 n)
{
        out->first = (out->first + n) % (u32)sizeof(out->data);
        out->n -= n;
        out->owed += n;
}

/* Writes some of it to a descriptor that poll() said is ready. */
static void write_some(struct relaying *r, unsigned i)
{
        struct output *out = &r->client->outputs[i];
        const u32 n = MIN(MIN(out->n, (u32)sizeof(out->data) - out->first), (u32)PIPE_BUF);
        ssize_t done;

        done = write(r->out[i], out->data + out->first, n);
        if (done > 0)
                drop(out, (u32)done);
        else if (done < 0 && errno != EAGAIN && errno != EINTR)
                r->out[i] = -1; /* its reader went away; that does not end the process */
}

/* Gives back the room of what was written or thrown away. */
static int settle(struct relaying *r, struct err **err)
{
        int result = 0;

        for (unsigned i = 0; i < ARRAY_SIZE(r->out) && result == 0; i++) {
                struct output *out = &r->client->outputs[i];

                if (r->out[i] < 0)
                        drop(out, out->n);
                if (out->owed < sizeof(out->data) / 2 || out->ended || r->client->exited)
                        continue;
                result = send_room(r->client, i + 1, out->owed, err);
                out->owed = 0;
        }
        return result;
}

/* ---- input, signals ---- */

static int end_input(struct relaying *r, struct err **err)
{
        struct init_frame frame;

        r->in = -1;
        client_begin(r->client, &frame, INIT_END, r->client->process);
        init_put_u32(&frame, 0);
        return client_send(r->client, &frame, err);
}

static int take_input(struct relaying *r, struct err **err)
{
        u8 data[INPUT_SIZE];
        ssize_t n = read(r->in, data, MIN(r->client->room, (u32)sizeof(data)));
        struct init_frame frame;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0)
                return end_input(r, err);
        if (r->relay->filter) {
                n = r->relay->filter(r->relay->opaque, data, (size_t)n);
                if (n <= 0)
                        return n < 0 ? -EINTR : 0;
        }
        r->client->room -= (u32)n;
        client_begin(r->client, &frame, INIT_DATA, r->client->process);
        init_put_u32(&frame, 0);
        init_put_bytes(&frame, data, (size_t)n);
        return client_send(r->client, &frame, err);
}

static int follow_size(struct relaying *r, struct err **err)
{
        struct winsize size;

        if (r->relay->tty < 0 || ioctl(r->relay->tty, TIOCGWINSZ, &size) < 0)
                return 0;
        return init_client_resize(r->client, size.ws_col, size.ws_row, err);
}

static int take_signals(struct relaying *r, struct err **err)
{
        struct signalfd_siginfo info;
        int result = 0;

        while (result == 0 && read(r->relay->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
                result = info.ssi_signo == SIGWINCH ? follow_size(r, err) : init_client_signal(r->client, (int)info.ssi_signo, err);
        return result;
}

/* ---- all of it ---- */

static bool over(const struct relaying *r)
{
        return r->client->exited && (r->out[0] < 0 || !r->client->outputs[0].n) && (r->out[1] < 0 || !r->client->outputs[1].n);
}

static int take_messages(struct relaying *r, struct err **err)
{
        struct init_message m;
        int n = client_fill(r->client, 0, err);

        if (n == -ETIMEDOUT)
                n = 0;
        /* Others are answers that nobody waits for any more. */
        while (n == 0 && (n = client_next(r->client, &m, err)) > 0)
                n = m.type == INIT_FAILED && m.id == r->client->process ? client_failure(&m, err) : 0;
        return n;
}

static int run(struct relaying *r, struct err **err)
{
        enum { AT_SOCKET, AT_SIGNALS, AT_IN, AT_OUT, AT_ERR, N_FDS };
        const struct init_client *client = r->client;
        int n = follow_size(r, err);

        /* What came with the answer to START may be all there is. */
        if (n == 0 && !client->exited)
                n = take_messages(r, err);
        while (n == 0 && (n = settle(r, err)) == 0 && !over(r)) {
                struct pollfd p[N_FDS] = {
                        [AT_SOCKET] = { .fd = client->exited ? -1 : client->fd, .events = POLLIN },
                        [AT_SIGNALS] = { .fd = client->exited ? -1 : r->relay->signals, .events = POLLIN },
                        [AT_IN] = { .fd = client->room && !client->exited ? r->in : -1, .events = POLLIN },
                        [AT_OUT] = { .fd = client->outputs[0].n ? r->out[0] : -1, .events = POLLOUT },
                        [AT_ERR] = { .fd = client->outputs[1].n ? r->out[1] : -1, .events = POLLOUT },
                };

                if (poll(p, N_FDS, -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return err_sys(err, errno, "waiting for the machine");
                }
                for (unsigned i = 0; i < ARRAY_SIZE(r->out); i++)
                        if (p[AT_OUT + i].revents)
                                write_some(r, i);
                if (p[AT_SIGNALS].revents)
                        n = take_signals(r, err);
                if (n == 0 && p[AT_IN].revents)
                        n = take_input(r, err);
                if (n == 0 && p[AT_SOCKET].revents)
                        n = take_messages(r, err);
        }
        return n;
}

int init_client_relay(struct init_client *client, const struct init_relay *relay, int *ret_status, struct err **err)
{
        struct relaying relaying = { .client = client, .relay = relay, .in = relay->in, .out = { relay->out, relay->err } };
        const struct sigaction ignore = { .sa_handler = SIG_IGN };
        struct sigaction before;
        int r;

        if (!client->process)
                return err_set(err, ERR_INTERNAL, ESRCH, "no process was started");
        sigaction(SIGPIPE, &ignore, &before);
        r = run(&relaying, err);
        sigaction(SIGPIPE, &before, NULL);
        if (r == 0)
                *ret_status = client->status;
        return r;
}
