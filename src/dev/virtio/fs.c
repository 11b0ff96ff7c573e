/* virtio-fs (virtio 1.2, 5.11): the device. Queues: requests of high priority (FORGET), requests.
 *
 * What the host can answer from its memory is answered at once, on the thread that rings the doorbell: waking another one costs
 * more than most requests. The others are served by threads, for disks are slow: there are as many as there were requests at once, up to
 * THREADS_MAX. These threads never wait for the device lock, so whoever
 * holds it may wait for them (drain): what is done goes into a list, and is given back to the guest by the thread itself if the lock
 * happens to be free, which saves the way over the event loop, else by the loop.
 *
 * No DAX window (5.11.6.6): no shared memory region is offered, so drivers do not ask for mappings. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/virtio/fs_internal.h"

enum { QUEUE_HIPRIO, QUEUE_REQUEST, QUEUES };

#define THREADS_MAX 4U
#define STACK (256 * KIB)

struct fs_space { /* struct virtio_fs_config of the specification */
        char tag[VIRTIO_FS_TAG_MAX];
        u32 num_request_queues;
} _packed_;

/* Bytes that one run of the queue may read at once, with the device lock held. */
#define QUICK_BYTES_MAX (1U << 20)

/* Lives in virtio_request.data. */
struct job {
        struct virtio_request *req;
        struct job *next;
        u32 written;
};

struct job_list {
        struct job *first, **last;
};

struct virtio_fs {
        struct virtio_device vdev;
        struct fuse_server *server;
        int done_fd;
        struct loop_fd *done_watch;
        struct fuse_scratch *scratch; /* for what is served at once; under the device lock */
        pthread_t threads[THREADS_MAX];
        unsigned n_threads;   /* under the device lock */
        pthread_mutex_t lock; /* innermost; of what follows */
        pthread_cond_t work, idle;
        struct job_list todo, done;
        unsigned n_todo, n_running;
        bool stop;
};

static struct virtio_fs *fs_of(struct virtio_device *vdev)
{
        return container_of(vdev, struct virtio_fs, vdev);
}

static void list_init(struct job_list *list)
{
        list->first = NULL;
        list->last = &list->first;
}

static void list_append(struct job_list *list, struct job *job)
{
        job->next = NULL;
        *list->last = job;
        list->last = &job->next;
}

static struct job *list_take(struct job_list *list)
{
        struct job *job = list->first;

        if (job) {
                list->first = job->next;
                if (!list->first)
                        list->last = &list->first;
        }
        return job;
}

/* ---- done ---- */

/* Device lock held. */
static void give_back(struct virtio_fs *fs)
{
        struct job *job, *next;

        pthread_mutex_lock(&fs->lock);
        job = fs->done.first;
        list_init(&fs->done);
        pthread_mutex_unlock(&fs->lock);
        for (; job; job = next) {
                next = job->next;
                virtqueue_push(job->req, job->written);
        }
}

static void on_done(void *opaque, int revents)
{
        struct virtio_fs *fs = opaque;
        eventfd_t ignored;

        (void)revents;
        eventfd_read(fs->done_fd, &ignored);
        give_back(fs);
}

/* ---- the threads ---- */

static struct fuse_message message_of(const struct virtio_request *req)
{
        return (struct fuse_message){ .out = req->out, .in = req->in, .n_out = req->n_out, .n_in = req->n_in };
}

/* @error: the thread cannot serve. */
static void serve(struct virtio_fs *fs, struct job *job, struct fuse_scratch *scratch, int error)
{
        const struct fuse_message message = message_of(job->req);
        bool first;

        job->written = error < 0 ? fuse_server_refuse(fs->server, &message, error) : fuse_server_handle(fs->server, scratch, &message);
        pthread_mutex_lock(&fs->lock);
        first = !fs->done.first;
        list_append(&fs->done, job);
        if (--fs->n_running == 0 && !fs->todo.first)
                pthread_cond_broadcast(&fs->idle);
        pthread_mutex_unlock(&fs->lock);
        if (!first)
                return; /* who was first is about to give all back */
        if (pthread_mutex_trylock(fs->vdev.env->lock) == 0) {
                give_back(fs);
                pthread_mutex_unlock(fs->vdev.env->lock);
        } else {
                eventfd_write(fs->done_fd, 1);
        }
}

static void *thread_main(void *opaque)
{
        struct virtio_fs *fs = opaque;
        _cleanup_free_ struct fuse_scratch *scratch = malloc(sizeof(*scratch));
        const int r = scratch ? fuse_thread_enter(fs->server) : -ENOMEM;
        struct job *job;

        pthread_mutex_lock(&fs->lock);
        for (;;) {
                while (!fs->stop && !fs->todo.first)
                        pthread_cond_wait(&fs->work, &fs->lock);
                job = list_take(&fs->todo);
                if (!job)
                        break; /* stop */
                fs->n_todo--;
                fs->n_running++;
                pthread_mutex_unlock(&fs->lock);
                serve(fs, job, scratch, r);
                pthread_mutex_lock(&fs->lock);
        }
        pthread_mutex_unlock(&fs->lock);
        return NULL;
}

static void start_thread(struct virtio_fs *fs)
{
        sigset_t all, before;
        pthread_attr_t attr;

        sigfillset(&all);
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, STACK);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&fs->threads[fs->n_threads], &attr, thread_main, fs) == 0)
                fs->n_threads++;
        else
                log_warn("virtio-fs: a thread for a shared directory cannot be started");
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attr);
}

/* Device lock held. Whether there is one; if all are busy there is one more. Not before the first request that needs it: the process has to be
 * alone until it is in its jail. */
static bool have_thread(struct virtio_fs *fs)
{
        bool busy;

        pthread_mutex_lock(&fs->lock);
        busy = fs->n_todo + fs->n_running >= fs->n_threads;
        pthread_mutex_unlock(&fs->lock);
        if (busy && fs->n_threads < THREADS_MAX)
                start_thread(fs);
        return fs->n_threads > 0;
}

static void threads_stop(struct virtio_fs *fs)
{
        pthread_mutex_lock(&fs->lock);
        fs->stop = true;
        pthread_cond_broadcast(&fs->work);
        pthread_mutex_unlock(&fs->lock);
        while (fs->n_threads)
                pthread_join(fs->threads[--fs->n_threads], NULL);
}

/* ---- requests ---- */

static void fs_run(struct virtio_device *vdev, struct virtqueue *q)
{
        struct virtio_fs *fs = fs_of(vdev);
        struct virtio_request *req;
        u64 quick = 0;

        while ((req = virtqueue_pop(q))) {
                const struct fuse_message message = message_of(req);
                struct job *job = req->data;
                u32 written;

                if (quick < QUICK_BYTES_MAX && fuse_server_handle_quick(fs->server, fs->scratch, &message, &written)) {
                        quick += written;
                        virtqueue_push(req, written);
                        continue;
                }
                if (!have_thread(fs)) {
                        virtqueue_push(req, fuse_server_refuse(fs->server, &message, -ENOMEM));
                        continue;
                }
                job->req = req;
                pthread_mutex_lock(&fs->lock);
                list_append(&fs->todo, job);
                fs->n_todo++;
                pthread_cond_signal(&fs->work);
                pthread_mutex_unlock(&fs->lock);
        }
}

/* All that was asked is answered. */
static void drain(struct virtio_fs *fs)
{
        pthread_mutex_lock(&fs->lock);
        while (fs->n_running || fs->todo.first)
                pthread_cond_wait(&fs->idle, &fs->lock);
        pthread_mutex_unlock(&fs->lock);
        give_back(fs);
}

/* ---- life cycle ---- */

static void fs_reset(struct virtio_device *vdev)
{
        struct virtio_fs *fs = fs_of(vdev);

        drain(fs);
        if (fs->server) /* there is none when the device could not be made */
                fuse_server_forget_all(fs->server);
}

static void fs_queue_reset(struct virtio_device *vdev, struct virtqueue *q)
{
        (void)q;
        drain(fs_of(vdev));
}

static void fs_quiesce(struct virtio_device *vdev)
{
        drain(fs_of(vdev));
}

static void fs_save(struct virtio_device *vdev, struct state_out *out)
{
        fuse_server_save(fs_of(vdev)->server, out);
}

static int fs_load(struct virtio_device *vdev, struct state_in *in, u32 version, struct err **err)
{
        (void)version;
        return fuse_server_load(fs_of(vdev)->server, in, err);
}

static void fs_destroy(struct virtio_device *vdev)
{
        struct virtio_fs *fs = fs_of(vdev);

        threads_stop(fs);
        loop_fd_remove(fs->done_watch);
        if (fs->done_fd >= 0)
                close(fs->done_fd);
        fuse_server_free(fs->server);
        free(fs->scratch);
        pthread_mutex_destroy(&fs->lock);
        pthread_cond_destroy(&fs->work);
        pthread_cond_destroy(&fs->idle);
        free(fs);
}

static const struct virtio_ops fs_ops = {
        .queue_run = fs_run,
        .reset = fs_reset,
        .queue_reset = fs_queue_reset,
        .quiesce = fs_quiesce,
        .save = fs_save,
        .load = fs_load,
        .destroy = fs_destroy,
};
static const struct device_ops fs_device_ops = VIRTIO_DEVICE_OPS("virtio-fs", 1);

static const struct virtio_type fs_type = {
        .id = VIRTIO_ID_FS,
        .pci_class = 0x018000, /* mass storage, other */
        .device_ops = &fs_device_ops,
        .ops = &fs_ops,
        .n_queues = QUEUES,
        .queue_size = 512, /* a transfer of FUSE_TRANSFER_PAGES and what comes with it */
        .config_size = sizeof(struct fs_space),
        .request_size = sizeof(struct job),
};

static int start(struct virtio_fs *fs, struct err **err)
{
        fs->done_fd = -1;
        fs->scratch = malloc(sizeof(*fs->scratch));
        if (!fs->scratch)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a shared directory");
        fs->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fs->done_fd < 0)
                return err_sys(err, errno, "creating an event descriptor");
        fs->done_watch = loop_fd_add(fs->vdev.env->loop, fs->done_fd, POLLIN, on_done, fs, err);
        return fs->done_watch ? 0 : -ENOMEM;
}

int virtio_fs_new(struct device_env *env, struct pci_bus *bus, const struct virtio_fs_config *config, struct err **err)
{
        struct virtio_fs *fs = calloc(1, sizeof(*fs));
        struct fs_space *space;
        int r;

        if (!fs)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a shared directory");
        r = virtio_device_init(&fs->vdev, env, bus, &fs_type, err);
        if (r < 0) {
                free(fs);
                return r;
        }
        pthread_mutex_init(&fs->lock, NULL);
        pthread_cond_init(&fs->work, NULL);
        pthread_cond_init(&fs->idle, NULL);
        list_init(&fs->todo);
        list_init(&fs->done);
        fs->server = config->server;
        space = (struct fs_space *)fs->vdev.config;
        memcpy(space->tag, config->tag, MIN(strlen(config->tag), sizeof(space->tag)));
        space->num_request_queues = 1;
        r = start(fs, err);
        if (r < 0) {
                threads_stop(fs);
                fs->server = NULL; /* still the caller's */
                virtio_device_destroy(&fs->vdev.pci.dev);
                return r;
        }
        env->add(env, &fs->vdev.pci.dev);
        return 0;
}
