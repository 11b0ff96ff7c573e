/* virtio-console (virtio 1.2, 5.3): one port, without MULTIPORT, with SIZE. Queue 0 carries input, queue 1 output.
 *
 * Input that the guest has no buffers for is refused, not stored: the terminal side keeps it until input_ready. */
#include "dev/virtio/console.h"

#include <errno.h>
#include <stdlib.h>

#include "dev/virtio/virtio.h"

enum { QUEUE_INPUT, QUEUE_OUTPUT, QUEUES };
enum { F_SIZE = 0 };

/* Drivers send up to a few pages at once. More would only serve to hold up the machine while it is printed. */
#define OUTPUT_MAX (1U << 20)

struct virtio_console {
        struct virtio_device vdev;
        struct virtio_console_config config;
        bool input_refused; /* input_ready is owed */
};

struct console_space { /* struct virtio_console_config of the specification */
        u16 columns, rows;
};

static struct virtio_console *console_of(struct virtio_device *vdev)
{
        return container_of(vdev, struct virtio_console, vdev);
}

static void output_run(struct virtio_console *con, struct virtqueue *q)
{
        struct virtio_request *req;

        while ((req = virtqueue_pop(q))) {
                if (req->out_bytes > OUTPUT_MAX) {
                        virtqueue_bad(q, req, VIRTIO_BAD_REQUEST);
                        return;
                }
                for (unsigned i = 0; i < req->n_out; i++)
                        con->config.output(con->config.opaque, req->out[i].iov_base, req->out[i].iov_len);
                virtqueue_push(req, 0);
        }
}

static void console_run(struct virtio_device *vdev, struct virtqueue *q)
{
        struct virtio_console *con = console_of(vdev);

        if (q->index == QUEUE_OUTPUT) {
                output_run(con, q);
                return;
        }
        if (con->input_refused) {
                con->input_refused = false;
                if (con->config.input_ready)
                        con->config.input_ready(con->config.opaque);
        }
        q->quiet = !con->input_refused;
}

size_t virtio_console_input(struct virtio_console *con, const u8 *data, size_t n)
{
        struct virtqueue *q = &con->vdev.queues[QUEUE_INPUT];
        struct virtio_request *req;
        size_t done = 0;

        while (done < n) {
                size_t taken;

                req = virtqueue_pop(q);
                if (!req) {
                        if (virtqueue_wait(q))
                                continue;
                        break;
                }
                taken = virtio_iov_write(req->in, req->n_in, 0, data + done, n - done);
                virtqueue_push(req, (u32)taken);
                done += taken;
                if (taken == 0)
                        break;
        }
        con->input_refused |= done < n;
        return done;
}

static void size_set(struct virtio_console *con, u16 columns, u16 rows)
{
        struct console_space *space = (struct console_space *)con->vdev.config;

        space->columns = columns;
        space->rows = rows;
}

void virtio_console_resize(struct virtio_console *con, u16 columns, u16 rows)
{
        size_set(con, columns, rows);
        if (virtio_has(&con->vdev, F_SIZE))
                virtio_config_changed(&con->vdev);
}

static void console_start(struct virtio_device *vdev)
{
        struct virtio_console *con = console_of(vdev);

        /* What was typed before the driver was there. */
        if (con->input_refused)
                virtqueue_rerun(&vdev->queues[QUEUE_INPUT]);
}

static void console_queue_reset(struct virtio_device *vdev, struct virtqueue *q)
{
        (void)vdev; /* requests are never kept */
        (void)q;
}

static void console_destroy(struct virtio_device *vdev)
{
        free(console_of(vdev));
}

static const struct virtio_ops console_ops = {
        .queue_run = console_run, .start = console_start, .queue_reset = console_queue_reset, .destroy = console_destroy,
};
static const struct device_ops console_device_ops = VIRTIO_DEVICE_OPS("virtio-console", 1);

static const struct virtio_type console_type = {
        .id = VIRTIO_ID_CONSOLE,
        .pci_class = 0x078000, /* simple communication controller, other */
        .device_ops = &console_device_ops,
        .ops = &console_ops,
        .n_queues = QUEUES,
        .queue_size = 128,
        .config_size = sizeof(struct console_space),
        .features = BIT(F_SIZE),
};

int virtio_console_new(struct device_env *env, struct pci_bus *bus, const struct virtio_console_config *config,
                       struct virtio_console **ret, struct err **err)
{
        struct virtio_console *con = calloc(1, sizeof(*con));
        int r;

        if (!con)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the virtio console");
        con->config = *config;
        r = virtio_device_init(&con->vdev, env, bus, &console_type, err);
        if (r < 0) {
                free(con);
                return r;
        }
        size_set(con, config->columns, config->rows);
        if (!config->columns || !config->rows)
                con->vdev.features &= ~BIT(F_SIZE);
        env->add(env, &con->vdev.pci.dev);
        *ret = con;
        return 0;
}
