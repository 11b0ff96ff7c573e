/* Split virtqueues (virtio 1.2, 2.7), the device's side.
 *
 * Theory of operation. The driver owns the descriptor table and the available ring, we own the used ring, and other vCPUs write
 * theirs while we read. So every field is read exactly once into a local, then checked, then used. Three indices run freely
 * modulo 2^16: the ring's avail idx (how far the driver is), last_avail (how far we are), and used_idx.
 *
 *   pop    reads one entry at last_avail, walks the chain into scratch arrays, checks all of it, and only then makes a request.
 *   fill   writes a used element behind used_idx, not yet visible;  flush publishes;  notify interrupts if wanted.
 *
 * A head that is with the device has its bit in heads[]: a driver that makes the same head available again cannot make us hold
 * more requests than the queue has descriptors, and cannot have one buffer completed twice.
 *
 * Notifications. While queue_run works the driver is asked not to notify. Afterwards virtqueue_wait asks for a notification of
 * anything newer than seen_avail and then looks once more; both accesses are sequentially consistent, which closes the race with a
 * driver that added a buffer just before it looked whether we want to know (2.7.10, 2.7.13). A queue that only stores
 * buffers for later (input) is `quiet`: an exit for each refill would be for nothing; its device asks when it runs out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtio_internal.h"

enum { DESC_F_NEXT = 1, DESC_F_WRITE = 2, DESC_F_INDIRECT = 4 };
enum { AVAIL_F_NO_INTERRUPT = 1, USED_F_NO_NOTIFY = 1 };

struct desc {
        u64 addr;
        u32 len;
        u16 flags, next;
};

struct used_elem {
        u32 id, len;
};

struct ring_header {
        u16 flags, idx;
};

/* Guest memory, at any alignment, read once. */
typedef u64 guest_u64 __attribute__((aligned(1), may_alias));

static struct desc desc_load(const void *table, unsigned index)
{
        const volatile guest_u64 *p = (const volatile guest_u64 *)table + 2 * (size_t)index;
        const u64 lo = p[0], hi = p[1];

        return (struct desc){ .addr = lo, .len = (u32)hi, .flags = (u16)(hi >> 32), .next = (u16)(hi >> 48) };
}

/* The ring pieces are naturally aligned: virtqueue_map checked that. */
static const u16 *avail_entry(const struct virtqueue *q, unsigned i)
{
        return (const u16 *)q->avail_ring + 2 + i;
}

static struct used_elem *used_entry(const struct virtqueue *q, unsigned i)
{
        return (struct used_elem *)((u8 *)q->used_ring + 4) + i;
}

static u16 avail_idx(struct virtqueue *q)
{
        /* Pairs with the driver's release store: the entries before it are there. Sequentially consistent for virtqueue_wait. */
        q->seen_avail = __atomic_load_n(&((const struct ring_header *)q->avail_ring)->idx, __ATOMIC_SEQ_CST);
        return q->seen_avail;
}

static struct guest_memory *memory_of(const struct virtqueue *q)
{
        return q->vdev->env->memory;
}

/* Host address of a buffer that may be handed to the device. */
static void *buffer_hva(const struct guest_memory *mem, u64 gpa, u64 len, bool write)
{
        for (size_t i = 0; write && i < mem->n_slots; i++) {
                if (mem->slots[i].read_only && gpa - mem->slots[i].gpa < mem->slots[i].size)
                        return NULL;
        }
        return guest_memory_dma(mem, gpa, len);
}

bool virtqueue_map(struct virtqueue *q)
{
        const struct guest_memory *mem = memory_of(q);
        const u64 desc_len = 16ULL * q->size, avail_len = 6 + 2ULL * q->size, used_len = 6 + 8ULL * q->size;

        q->desc_ring = q->desc & 15 ? NULL : buffer_hva(mem, q->desc, desc_len, false);
        q->avail_ring = q->avail & 1 ? NULL : buffer_hva(mem, q->avail, avail_len, false);
        q->used_ring = q->used & 3 ? NULL : buffer_hva(mem, q->used, used_len, true);
        if (q->desc_ring && q->avail_ring && q->used_ring)
                return true;
        q->desc_ring = q->avail_ring = q->used_ring = NULL;
        virtqueue_bad(q, NULL, VIRTIO_BAD_RING);
        return false;
}

void virtqueue_reset(struct virtqueue *q)
{
        q->size = q->size_max;
        q->msix_vector = VIRTIO_NO_VECTOR;
        q->enabled = false;
        q->desc = q->avail = q->used = 0;
        q->desc_ring = q->avail_ring = NULL;
        q->used_ring = NULL;
        q->last_avail = q->seen_avail = q->used_idx = q->signalled_used = 0;
        q->signalled_valid = q->broken = q->quiet = false;
        q->staged = 0;
        q->in_flight = 0;
        memset(q->heads, 0, sizeof(q->heads));
        q->vdev->rerun_queues &= ~(u32)BIT(q->index);
}

static bool can_run(const struct virtqueue *q)
{
        return q->enabled && q->used_ring && !q->broken && virtio_running(q->vdev);
}

/* ---- from the driver ---- */

struct chain {
        struct virtio_scratch *scratch;
        unsigned n_out, n_in;
        u64 out_bytes, in_bytes;
};

static enum virtio_bad chain_add(struct chain *chain, const struct guest_memory *mem, const struct desc *desc)
{
        const bool write = desc->flags & DESC_F_WRITE;
        const unsigned n = chain->n_out + chain->n_in;
        void *hva;

        if (n == VIRTIO_SEGMENTS_MAX)
                return VIRTIO_BAD_CHAIN_LENGTH;
        if (!write && chain->n_in)
                return VIRTIO_BAD_ORDER;
        /* "A driver MUST NOT create a descriptor chain longer than 2^32 bytes in total" (2.7.5.1). */
        if (desc->len == 0 || chain->out_bytes + chain->in_bytes + desc->len > 0xffffffffULL)
                return VIRTIO_BAD_LENGTH;
        hva = buffer_hva(mem, desc->addr, desc->len, write);
        if (!hva)
                return VIRTIO_BAD_ADDRESS;
        chain->scratch->iov[n] = (struct iovec){ .iov_base = hva, .iov_len = desc->len };
        chain->scratch->gpa[n] = desc->addr;
        if (write) {
                chain->n_in++;
                chain->in_bytes += desc->len;
        } else {
                chain->n_out++;
                chain->out_bytes += desc->len;
        }
        return 0;
}

/* Walks a table from @first; every descriptor counts against the table's size, so that a loop ends. */
static enum virtio_bad table_walk(struct chain *chain, const struct virtqueue *q, const void *table, unsigned size,
                                  unsigned first, bool indirect)
{
        const struct guest_memory *mem = memory_of(q);
        unsigned index = first;
        enum virtio_bad bad;

        for (unsigned n = 0; n < size; n++) {
                const struct desc desc = desc_load(table, index);

                if (desc.flags & DESC_F_INDIRECT) {
                        const void *inner;

                        /* Not nested, not followed by more, whole descriptors, at least one (2.7.5.3). */
                        if (indirect || !virtio_has(q->vdev, VIRTIO_F_INDIRECT_DESC) || desc.flags & DESC_F_NEXT ||
                            desc.len == 0 || desc.len % 16 || desc.len / 16 > VIRTIO_SEGMENTS_MAX)
                                return VIRTIO_BAD_INDIRECT;
                        inner = buffer_hva(mem, desc.addr, desc.len, false);
                        if (!inner)
                                return VIRTIO_BAD_INDIRECT;
                        return table_walk(chain, q, inner, desc.len / 16, 0, true);
                }
                bad = chain_add(chain, mem, &desc);
                if (bad)
                        return bad;
                if (!(desc.flags & DESC_F_NEXT))
                        return 0;
                if (desc.next >= size)
                        return VIRTIO_BAD_NEXT;
                index = desc.next;
        }
        return VIRTIO_BAD_CHAIN_LENGTH;
}

/* One allocation: the request, its iovecs, its segments, the device's data. */
static struct virtio_request *request_new(struct virtqueue *q, const struct chain *chain)
{
        const unsigned n = chain->n_out + chain->n_in;
        const size_t iov_at = ALIGN_UP(sizeof(struct virtio_request), 16);
        const size_t segments_at = iov_at + n * sizeof(struct iovec);
        const size_t data_at = ALIGN_UP(segments_at + chain->n_in * sizeof(struct virtio_segment), 16);
        u8 *block = malloc(data_at + q->vdev->type->request_size);
        struct virtio_request *req = (struct virtio_request *)block;

        if (!block)
                return NULL;
        *req = (struct virtio_request){
                .queue = q, .n_out = chain->n_out, .n_in = chain->n_in, .out_bytes = chain->out_bytes,
                .in_bytes = chain->in_bytes, .out = (struct iovec *)(block + iov_at),
                .segments = (struct virtio_segment *)(block + segments_at), .segments_bytes = chain->in_bytes,
                .data = block + data_at,
        };
        req->in = req->out + chain->n_out;
        memcpy(req->out, chain->scratch->iov, n * sizeof(struct iovec));
        for (unsigned i = 0; i < chain->n_in; i++)
                req->segments[i] = (struct virtio_segment){
                        .gpa = chain->scratch->gpa[chain->n_out + i], .len = req->in[i].iov_len,
                };
        memset(req->data, 0, q->vdev->type->request_size);
        return req;
}

struct virtio_request *virtqueue_pop(struct virtqueue *q)
{
        struct chain chain = { .scratch = q->vdev->scratch };
        struct virtio_request *req;
        enum virtio_bad bad;
        u16 head, n;

        if (!can_run(q) || (q->running && !q->budget))
                return NULL;
        n = (u16)(avail_idx(q) - q->last_avail);
        if (n == 0)
                return NULL;
        if (n > q->size) {
                virtqueue_bad(q, NULL, VIRTIO_BAD_AVAIL_INDEX);
                return NULL;
        }
        head = __atomic_load_n(avail_entry(q, q->last_avail & (q->size - 1U)), __ATOMIC_RELAXED);
        if (head >= q->size)
                bad = VIRTIO_BAD_HEAD;
        else if (q->heads[head / 64] & BIT(head % 64))
                bad = VIRTIO_BAD_HEAD_IN_USE;
        else
                bad = table_walk(&chain, q, q->desc_ring, q->size, head, false);
        req = bad ? NULL : request_new(q, &chain);
        if (!req) {
                virtqueue_bad(q, NULL, bad ? bad : VIRTIO_BAD_MEMORY);
                return NULL;
        }
        req->head = head;
        q->heads[head / 64] |= BIT(head % 64);
        q->in_flight++;
        q->last_avail++;
        if (q->running)
                q->budget--;
        trace(VIRTIO_POP, q->vdev->pci.slot, q->index, req->out_bytes, req->in_bytes);
        return req;
}

/* ---- to the driver ---- */

void virtqueue_drop(struct virtio_request *req)
{
        struct virtqueue *q = req->queue;

        q->heads[req->head / 64] &= ~BIT(req->head % 64);
        q->in_flight--;
        free(req);
}

void virtqueue_unpop(struct virtio_request *req)
{
        struct virtqueue *q = req->queue;

        q->last_avail--;
        if (q->running)
                q->budget++;
        virtqueue_drop(req);
}

void virtqueue_bad(struct virtqueue *q, struct virtio_request *req, enum virtio_bad why)
{
        struct virtio_device *vdev = q->vdev;

        trace(VIRTIO_BAD, vdev->pci.slot, q->index, why);
        counter_inc(vdev->env->counters, COUNTER_VIRTIO_BAD_REQUESTS);
        if (req)
                virtqueue_drop(req);
        q->broken = true;
        virtio_needs_reset(vdev);
}

static void report_written(struct guest_memory *mem, const struct virtio_request *req, u32 written)
{
        u64 left = written;

        for (unsigned i = 0; left; i++) {
                const u64 n = MIN(left, req->segments[i].len);

                guest_memory_written(mem, req->segments[i].gpa, n);
                left -= n;
        }
}

void virtqueue_fill(struct virtio_request *req, u32 written)
{
        struct virtqueue *q = req->queue;

        written = (u32)MIN((u64)written, req->segments_bytes);
        report_written(memory_of(q), req, written);
        if (q->used_ring) {
                struct used_elem *elem = used_entry(q, (q->used_idx + q->staged) & (q->size - 1U));

                __atomic_store_n(&elem->id, req->head, __ATOMIC_RELAXED);
                __atomic_store_n(&elem->len, written, __ATOMIC_RELAXED);
                q->staged++;
        }
        trace(VIRTIO_PUSH, q->vdev->pci.slot, q->index, req->head, written);
        virtqueue_drop(req);
}

void virtqueue_flush(struct virtqueue *q)
{
        if (!q->staged)
                return;
        q->used_idx = (u16)(q->used_idx + q->staged);
        /* A driver that has not been told for half a turn of the indices is always told. */
        if ((u16)(q->used_idx - q->signalled_used) >= 0x8000)
                q->signalled_valid = false;
        q->staged = 0;
        /* Sequentially consistent, like the load in driver_wants_interrupt: the index is visible before the driver's wish is
         * read, so one of the two sides sees the other. */
        __atomic_store_n(&((struct ring_header *)q->used_ring)->idx, q->used_idx, __ATOMIC_SEQ_CST);
        guest_memory_written(memory_of(q), q->used, 4 + 8ULL * q->size);
}

static u16 used_event(const struct virtqueue *q)
{
        return __atomic_load_n(avail_entry(q, q->size), __ATOMIC_SEQ_CST);
}

static bool driver_wants_interrupt(struct virtqueue *q)
{
        const u16 now = q->used_idx, before = q->signalled_used;
        const bool valid = q->signalled_valid;

        if (!virtio_has(q->vdev, VIRTIO_F_EVENT_IDX))
                return !(__atomic_load_n(&((const struct ring_header *)q->avail_ring)->flags, __ATOMIC_SEQ_CST) &
                         AVAIL_F_NO_INTERRUPT);
        q->signalled_used = now;
        q->signalled_valid = true;
        /* Was used_event among the indices passed since last time? (2.7.7.2) */
        return !valid || (u16)(now - used_event(q) - 1) < (u16)(now - before);
}

void virtqueue_notify(struct virtqueue *q)
{
        if (!q->used_ring || (q->signalled_valid && q->signalled_used == q->used_idx))
                return;
        if (driver_wants_interrupt(q))
                virtio_interrupt_queue(q);
}

void virtqueue_push(struct virtio_request *req, u32 written)
{
        struct virtqueue *q = req->queue;

        virtqueue_fill(req, written);
        virtqueue_flush(q);
        virtqueue_notify(q);
}

/* ---- when to look ---- */

static void used_flags_set(struct virtqueue *q, u16 flags)
{
        __atomic_store_n(&((struct ring_header *)q->used_ring)->flags, flags, __ATOMIC_SEQ_CST);
        guest_memory_written(memory_of(q), q->used, 2);
}

/* With EVENT_IDX there is nothing to do: an event index that was passed does not fire again. */
static void notifications_off(struct virtqueue *q)
{
        if (!virtio_has(q->vdev, VIRTIO_F_EVENT_IDX))
                used_flags_set(q, USED_F_NO_NOTIFY);
}

bool virtqueue_wait(struct virtqueue *q)
{
        const u16 seen = q->seen_avail;

        if (!can_run(q))
                return false;
        q->quiet = false;
        if (virtio_has(q->vdev, VIRTIO_F_EVENT_IDX)) {
                __atomic_store_n((u16 *)used_entry(q, q->size), seen, __ATOMIC_SEQ_CST);
                guest_memory_written(memory_of(q), q->used + 4 + 8ULL * q->size, 2);
        } else {
                used_flags_set(q, 0);
        }
        return avail_idx(q) != seen;
}

void virtqueue_rerun(struct virtqueue *q)
{
        q->vdev->rerun_queues |= (u32)BIT(q->index);
        if (!q->vdev->rerun.armed)
                loop_timer_set(&q->vdev->rerun, 0);
}

/* Rounds of "more has arrived meanwhile" before the loop gets its turn, for queues whose device pops little or nothing. */
#define ROUNDS_MAX 16

void virtqueue_run(struct virtqueue *q)
{
        bool more = true;

        if (q->running || !can_run(q))
                return;
        q->running = true;
        q->budget = q->size;
        for (unsigned round = 0; more && round < ROUNDS_MAX; round++) {
                avail_idx(q);
                notifications_off(q);
                q->vdev->type->ops->queue_run(q->vdev, q);
                if (!q->budget)
                        break;
                more = !q->quiet && virtqueue_wait(q);
        }
        q->running = false;
        if (more && can_run(q))
                virtqueue_rerun(q);
}

/* ---- iovecs ---- */

size_t virtio_iov_read(const struct iovec *iov, unsigned n, size_t offset, void *dst, size_t len)
{
        size_t done = 0;

        for (unsigned i = 0; i < n && done < len; i++) {
                size_t piece;

                if (offset >= iov[i].iov_len) {
                        offset -= iov[i].iov_len;
                        continue;
                }
                piece = MIN(len - done, iov[i].iov_len - offset);
                memcpy((u8 *)dst + done, (const u8 *)iov[i].iov_base + offset, piece);
                done += piece;
                offset = 0;
        }
        return done;
}

size_t virtio_iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *src, size_t len)
{
        size_t done = 0;

        for (unsigned i = 0; i < n && done < len; i++) {
                size_t piece;

                if (offset >= iov[i].iov_len) {
                        offset -= iov[i].iov_len;
                        continue;
                }
                piece = MIN(len - done, iov[i].iov_len - offset);
                memcpy((u8 *)iov[i].iov_base + offset, (const u8 *)src + done, piece);
                done += piece;
                offset = 0;
        }
        return done;
}

bool virtio_iov_trim(struct iovec **iov, unsigned *n, u64 bytes)
{
        u64 total = 0;

        for (unsigned i = 0; i < *n; i++)
                total += (*iov)[i].iov_len;
        if (total < bytes)
                return false;
        while (bytes) {
                struct iovec *first = *iov;
                const u64 piece = MIN(bytes, (u64)first->iov_len);

                first->iov_base = (u8 *)first->iov_base + piece;
                first->iov_len -= piece;
                bytes -= piece;
                if (first->iov_len == 0) {
                        (*iov)++;
                        (*n)--;
                }
        }
        return true;
}
