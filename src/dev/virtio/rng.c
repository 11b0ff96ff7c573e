/* virtio-rng (virtio 1.2, 5.4). A request is answered with at most REQUEST_MAX bytes, so that a guest cannot make the host's
 * generator work for long with the device lock held; drivers take what they get and ask again. */
#include "dev/virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "dev/virtio/virtio.h"

#define REQUEST_MAX 4096U

struct virtio_rng {
        struct virtio_device vdev;
};

static void rng_run(struct virtio_device *vdev, struct virtqueue *q)
{
        struct virtio_request *req;

        while ((req = virtqueue_pop(q))) {
                u32 written = 0;

                if (req->n_in == 0) {
                        virtqueue_bad(q, req, VIRTIO_BAD_REQUEST);
                        return;
                }
                for (unsigned i = 0; i < req->n_in && written < REQUEST_MAX; i++) {
                        const size_t want = MIN(req->in[i].iov_len, (size_t)(REQUEST_MAX - written));
                        const ssize_t got = getrandom(req->in[i].iov_base, want, GRND_NONBLOCK);

                        if (got <= 0)
                                break;
                        written += (u32)got;
                        if ((size_t)got < want)
                                break;
                }
                virtqueue_push(req, written);
        }
}

static void rng_destroy(struct virtio_device *vdev)
{
        free(container_of(vdev, struct virtio_rng, vdev));
}

static const struct virtio_ops rng_ops = { .queue_run = rng_run, .destroy = rng_destroy };
static const struct device_ops rng_device_ops = VIRTIO_DEVICE_OPS("virtio-rng", 1);

static const struct virtio_type rng_type = {
        .id = VIRTIO_ID_RNG,
        .pci_class = 0x00ff00, /* no class fits */
        .device_ops = &rng_device_ops,
        .ops = &rng_ops,
        .n_queues = 1,
        .queue_size = 64,
};

int virtio_rng_new(struct device_env *env, struct pci_bus *bus, struct err **err)
{
        struct virtio_rng *rng = calloc(1, sizeof(*rng));
        int r;

        if (!rng)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the virtio random number device");
        r = virtio_device_init(&rng->vdev, env, bus, &rng_type, err);
        if (r < 0) {
                free(rng);
                return r;
        }
        env->add(env, &rng->vdev.pci.dev);
        return 0;
}
