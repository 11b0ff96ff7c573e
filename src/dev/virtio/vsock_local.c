/* The virtio socket device's port that is inside this process. */
#include <errno.h>
#include <poll.h>

#include "dev/virtio/vsock_internal.h"

bool vsock_local_connect(struct vsock_conn *conn)
{
        struct vsock *vs = conn->vs;
        bool taken;

        if (vs->local_in_use)
                return false;
        vs->local_in_use = true;
        conn->local = vs->local;
        conn->state = VSOCK_OPEN;
        vsock_conn_owe(conn, VSOCK_OP_RESPONSE);
        conn->in_local = true;
        taken = vs->local->ops->connected(vs->local->opaque, conn);
        conn->in_local = false;
        if (!taken) {
                conn->local = NULL;
                vs->local_in_use = false;
        }
        return taken;
}

void vsock_local_disconnect(struct vsock_conn *conn)
{
        const struct vsock_local *local = conn->local;

        if (!local)
                return;
        conn->local = NULL;
        conn->vs->local_in_use = false;
        local->ops->closed(local->opaque);
}

ssize_t vsock_local_read(struct vsock_conn *conn, const struct iovec *iov, unsigned n)
{
        size_t got;

        conn->in_local = true;
        got = conn->local->ops->fill(conn->local->opaque, iov, n);
        conn->in_local = false;
        errno = EAGAIN;
        return got ? (ssize_t)got : -1;
}

void vsock_local_write(struct vsock_conn *conn, const struct iovec *iov, unsigned n)
{
        conn->in_local = true;
        conn->local->ops->receive(conn->local->opaque, iov, n);
        conn->in_local = false;
}

void vsock_local_wake(struct vsock_conn *conn)
{
        if (!conn->in_local) {
                vsock_conn_ready(conn, POLLIN);
                return;
        }
        /* Whoever called the program sends what it has when it is done with the packet. */
        conn->readable = true;
        vsock_conn_update(conn);
}
