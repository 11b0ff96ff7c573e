#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

/* Answers that wait: more than this, and requests wait too. */
#define OUT_FULL (1024U * 1024)

/* ---- from the host ---- */

void link_fill(struct link *link)
{
        ssize_t n;

        link->n_in -= link->used;
        memmove(link->in, link->in + link->used, link->n_in);
        link->used = 0;
        n = recv(link->fd, link->in + link->n_in, sizeof(link->in) - link->n_in, MSG_DONTWAIT);
        if (n > 0)
                link->n_in += (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
                link->broken = true;
}

bool link_next(struct link *link, struct init_message *ret)
{
        while (!link->broken) {
                size_t size;
                int r = init_frame_next(link->in + link->used, link->n_in - link->used, &size);

                if (r == 0)
                        return false;
                if (r > 0) {
                        r = init_parse(link->in + link->used, size, INIT_TO_GUEST, ret);
                        link->used += size;
                        if (r == 0)
                                return true;
                }
                link->broken = r != -EPROTONOSUPPORT;
        }
        return false;
}

/* ---- to the host ---- */

void link_begin(struct link *link, struct init_frame *frame, enum init_type type, u32 id)
{
        init_frame_begin(frame, link->frame, sizeof(link->frame), type, id);
}

/* Behind what waits already. */
static bool out_append(struct link *link, const u8 *data, size_t n)
{
        if (link->out_first + link->n_out + n > link->out_cap) {
                const size_t cap = link->n_out + n > link->out_cap ? link->out_cap * 2 + n : link->out_cap;
                u8 *out = link->out;

                if (link->n_out)
                        memmove(out, out + link->out_first, link->n_out);
                link->out_first = 0;
                if (cap > link->out_cap)
                        out = realloc(link->out, cap);
                if (!out)
                        return false;
                link->out = out;
                link->out_cap = cap;
        }
        memcpy(link->out + link->out_first + link->n_out, data, n);
        link->n_out += n;
        return true;
}

void link_end(struct link *link, struct init_frame *frame)
{
        size_t size;

        if (init_frame_end(frame, &size) < 0 || !out_append(link, frame->data, size))
                link->broken = true;
}

void link_send_numbers(struct link *link, enum init_type type, u32 id, const u32 *numbers, size_t n)
{
        struct init_frame frame;

        link_begin(link, &frame, type, id);
        for (size_t i = 0; i < n; i++)
                init_put_u32(&frame, numbers[i]);
        link_end(link, &frame);
}

void link_flush(struct link *link)
{
        while (link->n_out && !link->broken) {
                const ssize_t n = send(link->fd, link->out + link->out_first, link->n_out, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        link->broken = true;
                        return;
                }
                link->out_first += (size_t)n;
                link->n_out -= (size_t)n;
        }
        link->out_first = 0;
}

bool link_full(const struct link *link)
{
        return link->n_out > OUT_FULL;
}
