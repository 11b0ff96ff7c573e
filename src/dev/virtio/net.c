/* virtio-net (virtio 1.2, 5.1): one receive and one transmit queue, no control queue.
 *
 * Every frame in a ring has a 12-byte header in front. A backend that has it too (tap) gets and gives whole buffers, and the two
 * kernels do checksums and segmentation between them; for others (passt) the header is cut off and put on here, and no
 * offload is offered.
 *
 * Nobody drops for want of room: a frame that the backend cannot take now goes back into the ring (unpop) until writable(); a
 * frame that the guest has no buffers for stays with the backend until the receive queue runs again. */
#include "dev/virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtio.h"

enum { QUEUE_RX, QUEUE_TX, QUEUES };
#define QUEUE_SIZE 256U

enum { /* feature bits */
        F_CSUM = 0,
        F_GUEST_CSUM = 1,
        F_MTU = 3,
        F_MAC = 5,
        F_GUEST_TSO4 = 7,
        F_GUEST_TSO6 = 8,
        F_GUEST_ECN = 9,
        F_HOST_TSO4 = 11,
        F_HOST_TSO6 = 12,
        F_HOST_ECN = 13,
        F_MRG_RXBUF = 15,
        F_STATUS = 16,
};

enum { S_LINK_UP = 1 };

/* Which feature of each direction an offload of the backend makes possible, and what that feature depends on (5.1.3.1). */
static const struct {
        unsigned offload;
        u8 host, guest;
        u64 host_needs, guest_needs; /* at least one of them */
} offloads[] = {
        { NET_OFFLOAD_CSUM, F_CSUM, F_GUEST_CSUM, 0, 0 },
        { NET_OFFLOAD_TSO4, F_HOST_TSO4, F_GUEST_TSO4, BIT(F_CSUM), BIT(F_GUEST_CSUM) },
        { NET_OFFLOAD_TSO6, F_HOST_TSO6, F_GUEST_TSO6, BIT(F_CSUM), BIT(F_GUEST_CSUM) },
        { NET_OFFLOAD_ECN, F_HOST_ECN, F_GUEST_ECN, BIT(F_HOST_TSO4) | BIT(F_HOST_TSO6),
          BIT(F_GUEST_TSO4) | BIT(F_GUEST_TSO6) },
};

struct net_space { /* struct virtio_net_config of the specification */
        u8 mac[6];
        u16 status;
        u16 max_virtqueue_pairs;
        u16 mtu;
};

struct net_header { /* struct virtio_net_hdr */
        u8 flags, gso_type;
        u16 hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
_Static_assert(sizeof(struct net_header) == NET_VNET_HEADER, "virtio 1.2, 5.1.6");

struct virtio_net {
        struct virtio_device vdev;
        struct net_backend *backend;
        bool tx_blocked; /* the backend owes a writable() */
        bool rx_refused; /* the backend holds a frame for us */
};

static struct virtio_net *net_of(struct virtio_device *vdev)
{
        return container_of(vdev, struct virtio_net, vdev);
}

static struct net_space *space_of(struct virtio_net *net)
{
        return (struct net_space *)net->vdev.config;
}

static void count_dropped(struct virtio_net *net)
{
        counter_inc(net->vdev.env->counters, COUNTER_NET_DROPPED);
}

/* ---- guest to backend ---- */

/* 0: done with the request, sent or dropped. -EAGAIN: later. */
static int transmit(struct virtio_net *net, struct virtio_request *req)
{
        const u64 frame_bytes = req->out_bytes - NET_VNET_HEADER;
        int r;

        if (req->out_bytes < NET_VNET_HEADER + 14 || frame_bytes > NET_FRAME_MAX || req->n_out > NET_IOV_MAX) {
                count_dropped(net);
                return 0;
        }
        if (!net->backend->vnet_header)
                virtio_iov_trim(&req->out, &req->n_out, NET_VNET_HEADER);
        r = net->backend->ops->send(net->backend, req->out, req->n_out);
        if (r == -EAGAIN)
                return r;
        if (r < 0) {
                count_dropped(net);
                return 0;
        }
        trace(NET_TX, frame_bytes);
        counter_inc(net->vdev.env->counters, COUNTER_NET_TX_FRAMES);
        return 0;
}

static void tx_run(struct virtio_net *net, struct virtqueue *q)
{
        struct virtio_request *req;

        while (!net->tx_blocked && (req = virtqueue_pop(q))) {
                if (transmit(net, req) == -EAGAIN) {
                        net->tx_blocked = true;
                        virtqueue_unpop(req);
                        break;
                }
                virtqueue_fill(req, 0);
                virtqueue_flush(q);
        }
        virtqueue_notify(q);
}

static void on_writable(void *opaque)
{
        struct virtio_net *net = opaque;

        net->tx_blocked = false;
        virtqueue_rerun(&net->vdev.queues[QUEUE_TX]);
}

/* ---- backend to guest ---- */

enum rx_result { RX_DONE, RX_DROP, RX_NO_ROOM };

/* Buffers for @bytes: one, or with MRG_RXBUF as many as it takes. On RX_DONE there are *ret_n of them. */
static enum rx_result rx_collect(struct virtio_net *net, struct virtqueue *q, size_t bytes,
                                 struct virtio_request *reqs[static QUEUE_SIZE], unsigned *ret_n)
{
        const unsigned most = virtio_has(&net->vdev, F_MRG_RXBUF) ? q->size : 1;
        enum rx_result result = RX_DROP; /* will never fit */
        unsigned n = 0;
        u64 room = 0;

        while (n < most && room < bytes) {
                reqs[n] = virtqueue_pop(q);
                if (!reqs[n]) {
                        result = RX_NO_ROOM;
                        break;
                }
                if (reqs[n]->in_bytes < NET_VNET_HEADER) {
                        virtqueue_bad(q, reqs[n], VIRTIO_BAD_REQUEST);
                        break;
                }
                room += reqs[n++]->in_bytes;
        }
        if (room >= bytes) {
                *ret_n = n;
                return RX_DONE;
        }
        while (n)
                virtqueue_unpop(reqs[--n]);
        return result;
}

static void rx_copy(struct virtio_net *net, struct virtqueue *q, const struct net_header *header, const u8 *frame,
                    size_t len, struct virtio_request *reqs[static QUEUE_SIZE], unsigned n)
{
        size_t done = 0;

        for (unsigned i = 0; i < n; i++) {
                struct virtio_request *req = reqs[i];
                size_t at = 0, piece;

                if (i == 0)
                        at = virtio_iov_write(req->in, req->n_in, 0, header, sizeof(*header));
                piece = virtio_iov_write(req->in, req->n_in, at, frame + done, len - done);
                done += piece;
                virtqueue_fill(req, (u32)(at + piece));
        }
        virtqueue_flush(q);
        virtqueue_notify(q);
        trace(NET_RX, len);
        counter_inc(net->vdev.env->counters, COUNTER_NET_RX_FRAMES);
}

static bool on_receive(void *opaque, const u8 *frame, size_t len)
{
        struct virtio_net *net = opaque;
        struct virtqueue *q = &net->vdev.queues[QUEUE_RX];
        struct virtio_request *reqs[QUEUE_SIZE];
        struct net_header header = { 0 };
        enum rx_result result;
        unsigned n = 0;

        if (net->vdev.quiesced)
                return false;
        if (!virtio_running(&net->vdev) || !q->enabled || (net->backend->vnet_header && len < sizeof(header))) {
                count_dropped(net);
                return true;
        }
        if (net->backend->vnet_header) {
                memcpy(&header, frame, sizeof(header));
                frame += sizeof(header);
                len -= sizeof(header);
        }
        do
                result = rx_collect(net, q, sizeof(header) + len, reqs, &n);
        while (result == RX_NO_ROOM && virtqueue_wait(q));
        if (result == RX_NO_ROOM) {
                net->rx_refused = true;
                return false;
        }
        if (result == RX_DROP) {
                count_dropped(net);
                return true;
        }
        header.num_buffers = (u16)n;
        rx_copy(net, q, &header, frame, len, reqs, n);
        return true;
}

static void rx_run(struct virtio_net *net, struct virtqueue *q)
{
        if (net->rx_refused) {
                net->rx_refused = false;
                net->backend->ops->receive_ready(net->backend);
        }
        q->quiet = !net->rx_refused;
}

static void net_run(struct virtio_device *vdev, struct virtqueue *q)
{
        if (q->index == QUEUE_TX)
                tx_run(net_of(vdev), q);
        else
                rx_run(net_of(vdev), q);
}

/* ---- life cycle ---- */

static void on_link(void *opaque, bool up)
{
        struct virtio_net *net = opaque;
        struct net_space *space = space_of(net);
        const u16 status = up ? S_LINK_UP : 0;

        if (space->status == status)
                return;
        space->status = status;
        if (virtio_has(&net->vdev, F_STATUS))
                virtio_config_changed(&net->vdev);
}

static bool net_features_accepted(struct virtio_device *vdev, u64 features)
{
        (void)vdev;
        for (size_t i = 0; i < ARRAY_SIZE(offloads); i++) {
                if (features & BIT(offloads[i].host) && offloads[i].host_needs && !(features & offloads[i].host_needs))
                        return false;
                if (features & BIT(offloads[i].guest) && offloads[i].guest_needs && !(features & offloads[i].guest_needs))
                        return false;
        }
        return true;
}

static void backend_offloads(struct virtio_net *net)
{
        unsigned taken = 0;

        for (size_t i = 0; i < ARRAY_SIZE(offloads); i++) {
                if (virtio_has(&net->vdev, offloads[i].guest))
                        taken |= offloads[i].offload;
        }
        if (net->backend->ops->set_offloads)
                net->backend->ops->set_offloads(net->backend, taken);
}

static void net_start(struct virtio_device *vdev)
{
        backend_offloads(net_of(vdev));
}

static void net_reset(struct virtio_device *vdev)
{
        struct virtio_net *net = net_of(vdev);

        if (net->backend->ops->set_offloads)
                net->backend->ops->set_offloads(net->backend, 0);
}

static void net_queue_reset(struct virtio_device *vdev, struct virtqueue *q)
{
        (void)vdev; /* requests are never kept */
        (void)q;
}

static void net_quiesce(struct virtio_device *vdev)
{
        struct net_backend *backend = net_of(vdev)->backend;

        if (backend->ops->pause)
                backend->ops->pause(backend, true);
}

static void net_resume(struct virtio_device *vdev)
{
        struct net_backend *backend = net_of(vdev)->backend;

        if (backend->ops->pause)
                backend->ops->pause(backend, false);
}

static void net_save(struct virtio_device *vdev, struct state_out *out)
{
        state_put_bytes(out, space_of(net_of(vdev))->mac, 6);
}

static int net_load(struct virtio_device *vdev, struct state_in *in, u32 version, struct err **err)
{
        u8 mac[6] = { 0 };

        (void)version;
        state_get_bytes(in, mac, sizeof(mac));
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of virtio-net is truncated");
        memcpy(space_of(net_of(vdev))->mac, mac, sizeof(mac));
        return 0;
}

static void net_destroy(struct virtio_device *vdev)
{
        struct virtio_net *net = net_of(vdev);

        net_backend_free(net->backend);
        free(net);
}

static const struct virtio_ops net_ops = {
        .queue_run = net_run,
        .features_accepted = net_features_accepted,
        .start = net_start,
        .reset = net_reset,
        .queue_reset = net_queue_reset,
        .quiesce = net_quiesce,
        .resume = net_resume,
        .save = net_save,
        .load = net_load,
        .destroy = net_destroy,
};
static const struct device_ops net_device_ops = VIRTIO_DEVICE_OPS("virtio-net", 1);

static const struct virtio_type net_type = {
        .id = VIRTIO_ID_NET,
        .pci_class = 0x020000, /* Ethernet controller */
        .device_ops = &net_device_ops,
        .ops = &net_ops,
        .n_queues = QUEUES,
        .queue_size = QUEUE_SIZE,
        .config_size = sizeof(struct net_space),
        .features = BIT(F_MAC) | BIT(F_MRG_RXBUF) | BIT(F_STATUS),
};

static void offer(struct virtio_net *net, const struct virtio_net_config *config)
{
        static const u8 none[6], local[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };
        const struct net_backend *backend = config->backend;
        const u8 *mac = local;

        if (memcmp(config->mac, none, 6) != 0)
                mac = config->mac;
        else if (memcmp(backend->mac, none, 6) != 0)
                mac = backend->mac;
        memcpy(space_of(net)->mac, mac, 6);
        space_of(net)->status = S_LINK_UP;
        space_of(net)->max_virtqueue_pairs = 1;
        space_of(net)->mtu = backend->mtu;
        if (backend->mtu)
                net->vdev.features |= BIT(F_MTU);
        for (size_t i = 0; backend->vnet_header && i < ARRAY_SIZE(offloads); i++) {
                if (backend->offloads & offloads[i].offload)
                        net->vdev.features |= BIT(offloads[i].host) | BIT(offloads[i].guest);
        }
}

int virtio_net_new(struct device_env *env, struct pci_bus *bus, const struct virtio_net_config *config, struct err **err)
{
        struct virtio_net *net = calloc(1, sizeof(*net));
        int r;

        if (!net)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a virtio network device");
        r = virtio_device_init(&net->vdev, env, bus, &net_type, err);
        if (r < 0) {
                free(net);
                return r;
        }
        net->backend = config->backend;
        net->backend->client = (struct net_client){
                .receive = on_receive, .writable = on_writable, .link = on_link, .opaque = net,
        };
        offer(net, config);
        env->add(env, &net->vdev.pci.dev);
        return 0;
}
