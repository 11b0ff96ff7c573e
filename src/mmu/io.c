#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

void io_space_init(struct io_space *space, pthread_mutex_t *lock, struct counters *counters, bool is_port)
{
        *space = (struct io_space){ .lock = lock, .counters = counters, .is_port = is_port };
}

void io_space_free(struct io_space *space)
{
        free(space->regions);
        space->regions = NULL;
        space->n = space->cap = 0;
}

/* Index of the first region that ends after @address. */
static size_t lower_bound(const struct io_space *space, u64 address)
{
        size_t lo = 0, hi = space->n;

        while (lo < hi) {
                size_t mid = (lo + hi) / 2;

                if (space->regions[mid].base + space->regions[mid].size <= address)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        return lo;
}

int io_space_add(struct io_space *space, u64 base, u64 size, const struct io_ops *ops, void *opaque, const char *name,
                 struct err **err)
{
        size_t at = lower_bound(space, base);

        if (!size || base + size < base)
                return err_set(err, ERR_INTERNAL, EINVAL, "I/O region '%s' has no valid size", name);
        if (at < space->n && space->regions[at].base < base + size)
                return err_set(err, ERR_BUSY, EBUSY, "I/O region '%s' at 0x%lx overlaps '%s'", name, base,
                               space->regions[at].name);
        if (space->n == space->cap) {
                size_t cap = space->cap ? space->cap * 2 : 16;
                struct io_region *regions = reallocarray(space->regions, cap, sizeof(*regions));

                if (!regions)
                        return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for I/O region '%s'", name);
                space->regions = regions;
                space->cap = cap;
        }
        memmove(&space->regions[at + 1], &space->regions[at], (space->n - at) * sizeof(*space->regions));
        space->regions[at] = (struct io_region){ base, size, ops, opaque, name };
        space->n++;
        return 0;
}

void io_space_remove(struct io_space *space, u64 base, void *opaque)
{
        size_t at = lower_bound(space, base);

        if (at == space->n || space->regions[at].base != base || space->regions[at].opaque != opaque)
                return;
        memmove(&space->regions[at], &space->regions[at + 1], (space->n - at - 1) * sizeof(*space->regions));
        space->n--;
}

/* The region that holds @address, NULL when none does. */
static const struct io_region *find(struct io_space *space, u64 address)
{
        size_t at = space->last_hit;

        if (at >= space->n || address - space->regions[at].base >= space->regions[at].size) {
                at = lower_bound(space, address);
                if (at == space->n || address < space->regions[at].base)
                        return NULL;
                space->last_hit = at;
        }
        return &space->regions[at];
}

/* The largest power of two that @address, what is left, the region and the device allow for one device access. */
static unsigned piece_size(const struct io_region *region, u64 address, unsigned left)
{
        const unsigned max = region->ops->max_size ? region->ops->max_size : 8;
        const u64 room = region->size - (address - region->base);
        unsigned size = 8;

        while (size > left || size > max || size > room)
                size /= 2;
        return size;
}

static u64 ones(unsigned size)
{
        return size >= 8 ? ~0ULL : BIT(size * 8) - 1;
}

static void unclaimed(struct io_space *space, u64 address, unsigned size, bool write)
{
        trace(IO_UNCLAIMED, address, size, write);
        if (space->counters)
                counter_inc(space->counters, COUNTER_IO_UNCLAIMED);
}

bool io_read(struct io_space *space, u64 address, unsigned size, u64 *ret_value)
{
        bool claimed = true;
        u64 value = 0;

        pthread_mutex_lock(space->lock);
        for (unsigned done = 0; done < size;) {
                const struct io_region *region = find(space, address + done);
                unsigned n = 1;
                u64 piece = 0xff;

                if (region) {
                        n = piece_size(region, address + done, size - done);
                        piece = region->ops->read ? region->ops->read(region->opaque, address + done - region->base, n)
                                                  : ~0ULL;
                } else {
                        claimed = false;
                }
                value |= (piece & ones(n)) << (done * 8);
                done += n;
        }
        if (!claimed)
                unclaimed(space, address, size, false);
        if (space->counters)
                counter_inc(space->counters, space->is_port ? COUNTER_PIO_READS : COUNTER_MMIO_READS);
        pthread_mutex_unlock(space->lock);
        if (space->is_port)
                trace(PIO_READ, address, size, value);
        else
                trace(MMIO_READ, address, size, value);
        *ret_value = value;
        return claimed;
}

bool io_write(struct io_space *space, u64 address, u64 value, unsigned size)
{
        bool claimed = true;

        if (space->is_port)
                trace(PIO_WRITE, address, size, value);
        else
                trace(MMIO_WRITE, address, size, value);
        pthread_mutex_lock(space->lock);
        for (unsigned done = 0; done < size;) {
                const struct io_region *region = find(space, address + done);
                unsigned n = 1;

                if (region) {
                        n = piece_size(region, address + done, size - done);
                        if (region->ops->write)
                                region->ops->write(region->opaque, address + done - region->base,
                                                   (value >> (done * 8)) & ones(n), n);
                } else {
                        claimed = false;
                }
                done += n;
        }
        if (!claimed)
                unclaimed(space, address, size, true);
        if (space->counters)
                counter_inc(space->counters, space->is_port ? COUNTER_PIO_WRITES : COUNTER_MMIO_WRITES);
        pthread_mutex_unlock(space->lock);
        return claimed;
}
