/* virtio-vsock (virtio 1.2, 5.10): the device. Queues: packets to the guest, packets from the guest, events.
 *
 * Theory of operation. Each packet that the guest sends is dealt with at once: its bytes go into the unix socket or, when that is
 * full, into the connection's buffer, for which the guest was given credit. So the transmit queue waits for nobody, with one
 * exception: the answer to a packet that belongs to no connection is a reset, and when VSOCK_RESETS_MAX of these wait for receive
 * buffers, the transmit queue waits for the guest to supply some. The receive queue never waits for the transmit queue, so the two
 * cannot block each other (5.10.6.1.2).
 *
 * In the other direction nothing is stored: a connection whose socket is readable and whose guest gave credit stands in the
 * `ready` list, and gets a receive buffer into which the socket is read directly; then it goes to the end of the list. What the
 * device itself has to say (REQUEST, RESPONSE, SHUTDOWN, credit) are bits of the connection and go the same way.
 *
 * A restored machine keeps its connection to the program inside this process (vsock_local.c); the others' sockets are another
 * process's, so the guest is told that they are shut down. When it has got another address meanwhile, it is told by the transport reset
 * event and closes all; its listening sockets stay. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/vsock_internal.h"

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, QUEUES };
enum { F_STREAM = 0 };
enum { EVENT_TRANSPORT_RESET = 0 };

/* Packets that are sent before the loop gets its turn again. */
#define PUMP_MAX 128U
/* Descriptors of a receive buffer that are used for data. Drivers give one or two. */
#define DATA_SEGMENTS_MAX 64U

static struct vsock *vsock_of(struct virtio_device *vdev)
{
        return container_of(vdev, struct vsock, vdev);
}

/* ---- to the guest ---- */

void vsock_reset_send(struct vsock *vs, const struct vsock_header *header)
{
        vs->resets[(vs->first_reset + vs->n_resets++) % VSOCK_RESETS_MAX] = (struct vsock_header){
                .src_cid = header->dst_cid,
                .dst_cid = header->src_cid,
                .src_port = header->dst_port,
                .dst_port = header->src_port,
                .type = header->type,
                .op = VSOCK_OP_RST,
        };
}

static bool reset_take(struct vsock *vs, struct vsock_header *ret)
{
        if (!vs->n_resets)
                return false;
        *ret = vs->resets[vs->first_reset];
        vs->first_reset = (vs->first_reset + 1) % VSOCK_RESETS_MAX;
        if (vs->n_resets-- == VSOCK_RESETS_MAX)
                virtqueue_rerun(&vs->vdev.queues[QUEUE_TX]);
        return true;
}

static struct virtio_request *rx_pop(struct virtqueue *q)
{
        struct virtio_request *req;

        /* Inside queue_run the core looks once more by itself. */
        do
                req = virtqueue_pop(q);
        while (!req && !q->running && virtqueue_wait(q));
        return req;
}

/* The part of a buffer behind the header. */
static unsigned data_part(const struct virtio_request *req, struct iovec data[static DATA_SEGMENTS_MAX])
{
        size_t skip = sizeof(struct vsock_header);
        unsigned n = 0;

        for (unsigned i = 0; i < req->n_in && n < DATA_SEGMENTS_MAX; i++) {
                const size_t here = MIN(skip, req->in[i].iov_len);

                skip -= here;
                if (here < req->in[i].iov_len)
                        data[n++] = (struct iovec){ (u8 *)req->in[i].iov_base + here, req->in[i].iov_len - here };
        }
        return n;
}

/* Sends one packet in @req, or gives it back when there was nothing to say. */
static void rx_fill(struct vsock *vs, struct virtio_request *req)
{
        struct iovec data[DATA_SEGMENTS_MAX];
        struct vsock_header header;
        struct vsock_conn *conn;
        bool any = reset_take(vs, &header);

        while (!any && (conn = vs->ready_first)) {
                any = vsock_conn_packet(conn, data, data_part(req, data), &header);
                /* To the end of the list, or away from it. */
                vs->ready_first = conn->next_ready;
                if (!vs->ready_first)
                        vs->ready_last = &vs->ready_first;
                conn->ready = false;
                vsock_conn_update(conn);
                if (!any && conn->ready)
                        break;
        }
        if (!any) {
                virtqueue_unpop(req);
                return;
        }
        trace(VSOCK_PACKET, 0, header.op, (u64)header.src_port << 32 | header.dst_port, header.len);
        virtio_iov_write(req->in, req->n_in, 0, &header, sizeof(header));
        virtqueue_push(req, (u32)sizeof(header) + header.len);
}

static bool has_work(const struct vsock *vs)
{
        return vs->n_resets || vs->ready_first;
}

void vsock_pump(struct vsock *vs)
{
        struct virtqueue *q = &vs->vdev.queues[QUEUE_RX];
        struct virtio_request *req;

        for (unsigned i = 0; i < PUMP_MAX && has_work(vs); i++) {
                req = rx_pop(q);
                if (!req)
                        return;
                if (req->in_bytes < sizeof(struct vsock_header)) {
                        virtqueue_bad(q, req, VIRTIO_BAD_REQUEST);
                        return;
                }
                rx_fill(vs, req);
        }
        if (has_work(vs))
                virtqueue_rerun(q);
}

/* ---- from the guest: one function for each op that belongs to a connection ---- */

static void on_response(struct vsock_conn *conn, const struct vsock_header *header, struct virtio_request *req)
{
        (void)header;
        (void)req;
        if (conn->state != VSOCK_REQUESTED || !vsock_host_accepted(conn)) {
                vsock_conn_reset(conn);
                return;
        }
        conn->state = VSOCK_OPEN;
        loop_timer_cancel(&conn->timer);
        vsock_conn_update(conn);
}

static void on_rst(struct vsock_conn *conn, const struct vsock_header *header, struct virtio_request *req)
{
        (void)header;
        (void)req;
        vsock_conn_guest_reset(conn);
}

static void on_shutdown(struct vsock_conn *conn, const struct vsock_header *header, struct virtio_request *req)
{
        (void)req;
        vsock_conn_guest_shutdown(conn, header->flags);
}

static void on_rw(struct vsock_conn *conn, const struct vsock_header *header, struct virtio_request *req)
{
        vsock_conn_receive(conn, req->out, req->n_out, header->len);
}

static void on_credit_update(struct vsock_conn *conn, const struct vsock_header *header, struct virtio_request *req)
{
        (void)header; /* its fields have been looked at, as every packet's */
        (void)req;
        vsock_conn_update(conn);
}

static void on_credit_request(struct vsock_conn *conn, const struct vsock_header *header, struct virtio_request *req)
{
        (void)header;
        (void)req;
        vsock_conn_owe(conn, VSOCK_OP_CREDIT_UPDATE);
}

static void (*const ops[VSOCK_OPS])(struct vsock_conn *conn, const struct vsock_header *header,
                                    struct virtio_request *req) = {
        [VSOCK_OP_RESPONSE] = on_response,
        [VSOCK_OP_RST] = on_rst,
        [VSOCK_OP_SHUTDOWN] = on_shutdown,
        [VSOCK_OP_RW] = on_rw,
        [VSOCK_OP_CREDIT_UPDATE] = on_credit_update,
        [VSOCK_OP_CREDIT_REQUEST] = on_credit_request,
};

/* The guest connects to a port of the host. */
static void on_request(struct vsock *vs, const struct vsock_header *header)
{
        struct vsock_conn *conn = vsock_conn_new(vs, true, -1);

        if (!conn) {
                vsock_reset_send(vs, header);
                return;
        }
        vsock_conn_bind(conn, header->src_port, header->dst_port);
        conn->guest_buffer = header->buf_alloc;
        if (vs->local && vs->local->port == header->dst_port) {
                if (!vsock_local_connect(conn))
                        vsock_conn_reset(conn);
        } else if (vs->listener) {
                vsock_host_connect(conn);
        } else {
                vsock_conn_reset(conn);
        }
}

static void packet_in(struct vsock *vs, const struct vsock_header *header, struct virtio_request *req)
{
        struct vsock_conn *conn = NULL;

        if (header->src_cid != vs->cid)
                return; /* nobody to answer to */
        if (header->dst_cid == VSOCK_CID_HOST && header->type == VSOCK_TYPE_STREAM)
                conn = vsock_conn_find(vs, header->src_port, header->dst_port);
        if (!conn && header->op == VSOCK_OP_REQUEST && header->dst_cid == VSOCK_CID_HOST &&
            header->type == VSOCK_TYPE_STREAM) {
                on_request(vs, header);
        } else if (!conn) {
                /* A reset is never answered with a reset. */
                if (header->op != VSOCK_OP_RST)
                        vsock_reset_send(vs, header);
        } else if (header->op >= VSOCK_OPS || !ops[header->op]) {
                /* Also a second REQUEST for ports that are in use. */
                vsock_conn_reset(conn);
        } else if (vsock_conn_credit(conn, header)) {
                ops[header->op](conn, header, req);
        }
}

static void tx_run(struct vsock *vs, struct virtqueue *q)
{
        struct virtio_request *req;

        while (!vsock_resets_full(vs) && (req = virtqueue_pop(q))) {
                struct vsock_header header;

                if (virtio_iov_read(req->out, req->n_out, 0, &header, sizeof(header)) != sizeof(header) ||
                    header.len > req->out_bytes - sizeof(header)) {
                        virtqueue_bad(q, req, VIRTIO_BAD_REQUEST);
                        return;
                }
                virtio_iov_trim(&req->out, &req->n_out, sizeof(header));
                trace(VSOCK_PACKET, 1, header.op, (u64)header.src_port << 32 | header.dst_port, header.len);
                packet_in(vs, &header, req);
                virtqueue_push(req, 0);
        }
        vsock_pump(vs);
}

/* ---- events ---- */

static void event_run(struct vsock *vs, struct virtqueue *q)
{
        const u32 event = EVENT_TRANSPORT_RESET;
        struct virtio_request *req;

        if (vs->reset_event_owed && (req = virtqueue_pop(q))) {
                virtqueue_push(req, (u32)virtio_iov_write(req->in, req->n_in, 0, &event, sizeof(event)));
                vs->reset_event_owed = false;
        }
        q->quiet = !vs->reset_event_owed;
}

static void vsock_run(struct virtio_device *vdev, struct virtqueue *q)
{
        struct vsock *vs = vsock_of(vdev);

        switch (q->index) {
        case QUEUE_RX:
                vsock_pump(vs);
                q->quiet = !has_work(vs);
                break;
        case QUEUE_TX:
                tx_run(vs, q);
                break;
        default:
                event_run(vs, q);
                break;
        }
}

/* ---- life cycle ---- */

static void forget_all(struct vsock *vs)
{
        vsock_conn_free_all(vs);
        vs->n_resets = 0;
}

static void vsock_reset(struct virtio_device *vdev)
{
        struct vsock *vs = vsock_of(vdev);

        forget_all(vs);
        vs->reset_event_owed = false;
}

static void stop(struct vsock *vs, bool stopped)
{
        vs->stopped = stopped;
        for (struct vsock_conn *conn = vs->all; conn; conn = conn->next)
                vsock_conn_update(conn);
        vsock_host_update(vs);
}

static void vsock_quiesce(struct virtio_device *vdev)
{
        stop(vsock_of(vdev), true);
}

static void vsock_resume(struct virtio_device *vdev)
{
        stop(vsock_of(vdev), false);
}

static void vsock_save(struct virtio_device *vdev, struct state_out *out)
{
        const struct vsock *vs = vsock_of(vdev);

        state_put_u32(out, vs->cid);
        vsock_state_save(vs, out);
}

/* The address is this machine's own: when it is another one, the guest reads it again after the event. */
static int vsock_load(struct virtio_device *vdev, struct state_in *in, u32 version, struct err **err)
{
        struct vsock *vs = vsock_of(vdev);
        const u32 cid = state_get_u32(in);
        int r = 0;

        if (state_in_error(in) || cid < VSOCK_CID_MIN || cid > VSOCK_CID_MAX)
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of virtio-vsock is damaged");
        forget_all(vs);
        if (version >= 2)
                r = vsock_state_load(vs, in);
        if (r == -ENOMEM)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the connections of virtio-vsock");
        if (r < 0)
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved connections of virtio-vsock are damaged");
        vs->reset_event_owed = version < 2 || cid != vs->cid;
        if (vs->reset_event_owed)
                forget_all(vs);
        return 0;
}

static void vsock_destroy(struct virtio_device *vdev)
{
        struct vsock *vs = vsock_of(vdev);

        vsock_conn_free_all(vs);
        if (vs->listener)
                vsock_host_free(vs);
        free(vs);
}

static const struct virtio_ops vsock_ops = {
        .queue_run = vsock_run,
        .reset = vsock_reset,
        .quiesce = vsock_quiesce,
        .resume = vsock_resume,
        .save = vsock_save,
        .load = vsock_load,
        .destroy = vsock_destroy,
};
static const struct device_ops vsock_device_ops = VIRTIO_DEVICE_OPS("virtio-vsock", 2);

static const struct virtio_type vsock_type = {
        .id = VIRTIO_ID_VSOCK,
        .pci_class = 0x028000, /* network controller, other */
        .device_ops = &vsock_device_ops,
        .ops = &vsock_ops,
        .n_queues = QUEUES,
        .queue_size = 256,
        .config_size = sizeof(u64),
        .features = BIT(F_STREAM),
};

int virtio_vsock_new(struct device_env *env, struct pci_bus *bus, const struct virtio_vsock_config *config, struct err **err)
{
        struct vsock *vs = calloc(1, sizeof(*vs));
        const u64 guest_cid = config->cid;
        int r;

        if (!vs)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a virtio socket device");
        r = virtio_device_init(&vs->vdev, env, bus, &vsock_type, err);
        if (r < 0) {
                free(vs);
                return r;
        }
        vs->cid = config->cid;
        vs->listener = config->listener;
        vs->local = config->local;
        vs->ready_last = &vs->ready_first;
        memcpy(vs->vdev.config, &guest_cid, sizeof(guest_cid));
        r = vs->listener ? vsock_host_init(vs, err) : 0;
        if (r < 0) {
                vs->listener = NULL; /* still the caller's */
                virtio_device_destroy(&vs->vdev.pci.dev);
                return r;
        }
        env->add(env, &vs->vdev.pci.dev);
        return 0;
}
