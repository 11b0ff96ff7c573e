/* Theory of operation.
 *
 * One ring a raw image, used under the device lock only. A request is one submission; what the kernel did not do completely (end
 * of file, a signal, a submitting vCPU thread that ended meanwhile) is reported as a partial result, and block.c lets the
 * thread pool do the rest with plain system calls. That keeps this file free of retry loops. Completions raise the
 * device's eventfd. More requests than the ring holds wait in a list. */
#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "internal.h"

#define URING_ENTRIES 128

struct uring {
        struct io_uring ring;
        struct host_file *file;
        int event_fd;
        struct block_request *waiting, **waiting_tail;
        unsigned in_ring;  /* queued or with the kernel */
        unsigned unsubmitted;
};

/* Only what prepare() asks for. A ring's operations are system calls that no filter of system calls sees, and this ring stays when the process
 * confines itself (vm/jail_seccomp.c). */
static int restrict_ring(struct io_uring *ring)
{
        static const u8 operations[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC };
        struct io_uring_restriction allowed[ARRAY_SIZE(operations)] = { 0 };

        for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
                allowed[i].opcode = IORING_RESTRICTION_SQE_OP;
                allowed[i].sqe_op = operations[i];
        }
        /* Debian 12's liburing declares functions for these and does not have them. */
        if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, allowed, ARRAY_SIZE(allowed)) < 0 ||
                syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
                return -errno;
        return 0;
}

int uring_new(struct host_file *file, int event_fd, struct uring **ret, struct err **err)
{
        _cleanup_free_ struct uring *u = calloc(1, sizeof(*u));
        int r;

        if (!u)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for io_uring");
        u->file = file;
        u->event_fd = event_fd;
        u->waiting_tail = &u->waiting;
        r = io_uring_queue_init(URING_ENTRIES, &u->ring, IORING_SETUP_R_DISABLED);
        if (r < 0)
                return err_sys(err, -r, "setting up io_uring");
        r = io_uring_register_eventfd(&u->ring, event_fd);
        if (r == 0)
                r = restrict_ring(&u->ring);
        if (r < 0) {
                io_uring_queue_exit(&u->ring);
                return err_sys(err, -r, "setting up io_uring");
        }
        *ret = TAKE_PTR(u);
        return 0;
}

struct uring *uring_free(struct uring *u)
{
        if (u) {
                io_uring_queue_exit(&u->ring);
                free(u);
        }
        return NULL;
}

static void wait_in_list(struct uring *u, struct block_request *req)
{
        req->next = NULL;
        *u->waiting_tail = req;
        u->waiting_tail = &req->next;
}

static void prepare(struct uring *u, struct io_uring_sqe *sqe, struct block_request *req)
{
        /* A longer list is done in part first. */
        const unsigned n = MIN(req->n_iov, (unsigned)IOV_MAX);

        if (req->op == BLOCK_OP_READ) {
                io_uring_prep_readv(sqe, u->file->fd, req->iov, n, req->offset);
        } else if (req->op == BLOCK_OP_WRITE) {
                io_uring_prep_writev(sqe, u->file->fd, req->iov, n, req->offset);
                if (req->flags & BLOCK_REQ_FUA)
                        sqe->rw_flags = RWF_DSYNC;
        } else {
                io_uring_prep_fsync(sqe, u->file->fd, IORING_FSYNC_DATASYNC);
        }
        io_uring_sqe_set_data(sqe, req);
        u->in_ring++;
        u->unsubmitted++;
}

void uring_queue(struct uring *u, struct block_request *req)
{
        struct io_uring_sqe *sqe = u->in_ring < URING_ENTRIES && !u->waiting ? io_uring_get_sqe(&u->ring) : NULL;

        if (sqe)
                prepare(u, sqe, req);
        else
                wait_in_list(u, req);
}

void uring_submit(struct uring *u)
{
        while (u->unsubmitted > 0) {
                const int n = io_uring_submit(&u->ring);

                if (n == -EINTR)
                        continue;
                if (n <= 0) {
                        /* -EAGAIN, -EBUSY: the kernel is short of memory; the loop comes back at once and tries again. */
                        eventfd_write(u->event_fd, 1);
                        return;
                }
                u->unsubmitted -= MIN((unsigned)n, u->unsubmitted);
        }
}

static void refill(struct uring *u)
{
        bool any = false;

        while (u->waiting && u->in_ring < URING_ENTRIES) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
                struct block_request *req = u->waiting;

                if (!sqe)
                        break;
                u->waiting = req->next;
                if (!u->waiting)
                        u->waiting_tail = &u->waiting;
                prepare(u, sqe, req);
                any = true;
        }
        if (any || u->unsubmitted > 0)
                uring_submit(u);
}

/* What a completion means for its request. */
static int outcome(struct uring *u, struct block_request *req, int res)
{
        if (res == -EINTR || res == -EAGAIN || res == -ECANCELED || res == -EOPNOTSUPP || res == -EINVAL)
                return 1;
        if (req->op == BLOCK_OP_FLUSH) {
                if (res < 0)
                        __atomic_store_n(&u->file->sync_failed, true, __ATOMIC_RELAXED);
                return MIN(res, 0);
        }
        if (res < 0)
                return res;
        req->progress = MIN((u64)res, req->bytes);
        return req->progress == req->bytes ? 0 : 1;
}

struct block_request *uring_reap(struct uring *u)
{
        struct io_uring_cqe *cqe;
        struct block_request *req;

        if (io_uring_peek_cqe(&u->ring, &cqe) < 0) {
                refill(u);
                return NULL;
        }
        req = io_uring_cqe_get_data(cqe);
        req->result = outcome(u, req, cqe->res);
        io_uring_cqe_seen(&u->ring, cqe);
        u->in_ring--;
        return req;
}
