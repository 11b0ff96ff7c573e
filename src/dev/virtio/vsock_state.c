/* Saved connections. That of the program inside this process goes on where it was; of the others the guest is told that they are shut
 * down (vsock.c). Of those only the ports are saved. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/vsock_internal.h"

static void save_local(const struct vsock_conn *conn, struct state_out *out)
{
        state_put_u32(out, conn->owed);
        state_put_u32(out, conn->received);
        state_put_u32(out, conn->forwarded);
        state_put_u32(out, conn->told_forwarded);
        state_put_u32(out, conn->sent);
        state_put_u32(out, conn->guest_forwarded);
        state_put_u32(out, conn->guest_buffer);
}

void vsock_state_save(const struct vsock *vs, struct state_out *out)
{
        u32 n = 0;

        for (const struct vsock_conn *conn = vs->all; conn; conn = conn->next)
                n += conn->hashed;
        state_put_u32(out, n);
        for (const struct vsock_conn *conn = vs->all; conn; conn = conn->next) {
                if (!conn->hashed)
                        continue;
                state_put_bool(out, conn->from_guest);
                state_put_u32(out, conn->guest_port);
                state_put_u32(out, conn->host_port);
                state_put_bool(out, conn->local);
                if (conn->local)
                        save_local(conn, out);
        }
        state_put_u32(out, vs->n_resets);
        for (unsigned i = 0; i < vs->n_resets; i++) {
                const struct vsock_header *reset = &vs->resets[(vs->first_reset + i) % VSOCK_RESETS_MAX];

                state_put_u64(out, reset->src_cid);
                state_put_u32(out, reset->src_port);
                state_put_u32(out, reset->dst_port);
                state_put_u16(out, reset->type);
        }
}

static void load_local(struct vsock_conn *conn, struct state_in *in)
{
        conn->owed = state_get_u32(in) & (BIT(VSOCK_OP_RESPONSE) | BIT(VSOCK_OP_CREDIT_UPDATE) | BIT(VSOCK_OP_CREDIT_REQUEST));
        conn->received = state_get_u32(in);
        conn->forwarded = state_get_u32(in);
        conn->told_forwarded = state_get_u32(in);
        conn->sent = state_get_u32(in);
        conn->guest_forwarded = state_get_u32(in);
        conn->guest_buffer = state_get_u32(in);
}

static int load_conn(struct vsock *vs, struct state_in *in)
{
        const bool from_guest = state_get_bool(in);
        const u32 guest_port = state_get_u32(in), host_port = state_get_u32(in);
        const bool local = state_get_bool(in);
        struct vsock_conn *conn;

        if (state_in_error(in) || vsock_conn_find(vs, guest_port, host_port) || vs->n_conns[from_guest] == VSOCK_CONNS_MAX)
                return -EINVAL;
        conn = vsock_conn_new(vs, from_guest, -1);
        if (!conn)
                return -ENOMEM;
        vsock_conn_bind(conn, guest_port, host_port);
        if (local) {
                u32 owed;

                load_local(conn, in);
                owed = conn->owed;
                if (state_in_error(in))
                        return -EINVAL;
                if (vs->local && vs->local->port == host_port && vsock_local_connect(conn)) {
                        conn->owed = owed; /* RESPONSE was sent then */
                        conn->readable = true;
                        vsock_conn_update(conn);
                        return 0;
                }
        }
        conn->state = VSOCK_OPEN;
        vsock_conn_abandon(conn);
        return 0;
}

static int load_reset(struct vsock *vs, struct state_in *in)
{
        struct vsock_header cause = { .src_cid = vs->cid };

        cause.dst_cid = state_get_u64(in);
        cause.dst_port = state_get_u32(in);
        cause.src_port = state_get_u32(in);
        cause.type = state_get_u16(in);
        if (state_in_error(in) || vsock_resets_full(vs))
                return -EINVAL;
        vsock_reset_send(vs, &cause);
        return 0;
}

int vsock_state_load(struct vsock *vs, struct state_in *in)
{
        u32 n = state_get_u32(in);
        int r = 0;

        for (u32 i = 0; i < n && r == 0; i++)
                r = load_conn(vs, in);
        n = r == 0 ? state_get_u32(in) : 0;
        for (u32 i = 0; i < n && r == 0; i++)
                r = load_reset(vs, in);
        if (r == 0 && state_in_error(in))
                r = -EINVAL;
        if (r < 0) {
                vsock_conn_free_all(vs);
                vs->n_resets = 0;
        }
        return r;
}
