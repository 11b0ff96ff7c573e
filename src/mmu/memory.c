#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "private.h"

/* Everything but the slots. */
static int memory_alloc(u64 ram_size, pthread_mutex_t *lock, struct counters *device_counters, struct guest_memory **ret, struct err **err)
{
        _cleanup_(guest_memory_freep) struct guest_memory *mem = calloc(1, sizeof(*mem));

        if (!mem)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the guest-physical map");
        mem->fd = mem->pagemap_fd = -1;
        io_space_init(&mem->mmio, lock, device_counters, false);
        mem->ram_size = ALIGN_UP(ram_size, PAGE_SIZE);
        mem->page_flags = calloc(mem->ram_size >> PAGE_SHIFT, 1);
        mem->code_chunks = calloc(mem->ram_size >> PAGE_SHIFT, sizeof(*mem->code_chunks));
        if (!mem->page_flags || !mem->code_chunks)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for page flags");
        *ret = TAKE_PTR(mem);
        return 0;
}

typedef void *slot_map_fn(struct guest_memory *mem, u64 size, u64 fd_offset, void *opaque);

static int slot_add(struct guest_memory *mem, u64 gpa, u64 size, u64 fd_offset, slot_map_fn *map, void *opaque, struct err **err)
{
        struct memory_slot *slot = &mem->slots[mem->n_slots];
        void *hva = map(mem, size, fd_offset, opaque);

        if (hva == MAP_FAILED)
                return err_sys(err, errno, "mapping %lu MiB of guest memory", (unsigned long)(size / MIB));
        *slot = (struct memory_slot){ .gpa = gpa, .size = size, .hva = hva, .fd_offset = fd_offset };
        mem->n_slots++;
        return 0;
}

static int slots_add(struct guest_memory *mem, slot_map_fn *map, void *opaque, struct err **err)
{
        const u64 low = MIN(mem->ram_size, PCI_HOLE_START);
        int r = slot_add(mem, 0, low, 0, map, opaque, err);

        if (r == 0 && mem->ram_size > low)
                r = slot_add(mem, PCI_HOLE_END, mem->ram_size - low, low, map, opaque, err);
        return r;
}

static void *map_shared(struct guest_memory *mem, u64 size, u64 fd_offset, void *opaque)
{
        (void)opaque;
        return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, mem->fd, (off_t)fd_offset);
}

int guest_memory_new(u64 ram_size, pthread_mutex_t *lock, struct counters *device_counters, struct guest_memory **ret,
                     struct err **err)
{
        _cleanup_(guest_memory_freep) struct guest_memory *mem = NULL;
        int r = memory_alloc(ram_size, lock, device_counters, &mem, err);

        if (r < 0)
                return r;
        mem->fd = memfd_create("guest-ram", MFD_CLOEXEC);
        if (mem->fd < 0)
                return err_sys(err, errno, "creating guest memory");
        if (ftruncate(mem->fd, (off_t)mem->ram_size) < 0)
                return err_sys(err, errno, "sizing guest memory to %lu MiB", (unsigned long)(mem->ram_size / MIB));
        r = slots_add(mem, map_shared, NULL, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(mem);
        return 0;
}

static void *map_pieces(struct guest_memory *mem, u64 size, u64 fd_offset, void *opaque)
{
        (void)mem;
        return private_map(opaque, fd_offset, size);
}

int guest_memory_new_private(u64 ram_size, const struct guest_memory_piece *pieces, size_t n, pthread_mutex_t *lock, struct counters *device_counters,
                             struct guest_memory **ret, struct err **err)
{
        _cleanup_(guest_memory_freep) struct guest_memory *mem = NULL;
        struct private_pieces list = { .pieces = pieces, .n = n };
        int r = memory_alloc(ram_size, lock, device_counters, &mem, err);

        if (r == 0)
                r = private_init(mem, err);
        if (r == 0)
                r = slots_add(mem, map_pieces, &list, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(mem);
        return 0;
}

struct guest_memory *guest_memory_free(struct guest_memory *mem)
{
        if (!mem)
                return NULL;
        for (size_t i = 0; i < mem->n_slots; i++)
                munmap(mem->slots[i].hva, mem->slots[i].size);
        if (mem->fd >= 0)
                close(mem->fd);
        private_free(mem);
        io_space_free(&mem->mmio);
        free(mem->page_flags);
        free(mem->code_chunks);
        free(mem);
        return NULL;
}

bool guest_memory_is_ram(const struct guest_memory *mem, u64 gpa, u64 len)
{
        while (len) {
                const struct memory_slot *slot = guest_memory_slot(mem, gpa);
                u64 n;

                if (!slot)
                        return false;
                n = MIN(len, slot->size - (gpa - slot->gpa));
                gpa += n;
                len -= n;
        }
        return true;
}

int guest_memory_read(const struct guest_memory *mem, u64 gpa, void *dst, u64 len)
{
        u8 *to = dst;

        if (!guest_memory_is_ram(mem, gpa, len))
                return -EFAULT;
        while (len) {
                const struct memory_slot *slot = guest_memory_slot(mem, gpa);
                u64 n = MIN(len, slot->size - (gpa - slot->gpa));

                memcpy(to, slot->hva + (gpa - slot->gpa), n);
                gpa += n;
                to += n;
                len -= n;
        }
        return 0;
}

int guest_memory_write(struct guest_memory *mem, u64 gpa, const void *src, u64 len)
{
        const u8 *from = src;
        const u64 start = gpa, total = len;

        if (!guest_memory_is_ram(mem, gpa, len))
                return -EFAULT;
        while (len) {
                const struct memory_slot *slot = guest_memory_slot(mem, gpa);
                u64 n = MIN(len, slot->size - (gpa - slot->gpa));

                memcpy(slot->hva + (gpa - slot->gpa), from, n);
                gpa += n;
                from += n;
                len -= n;
        }
        guest_memory_written(mem, start, total);
        return 0;
}

static u64 *chunks_of(const struct guest_memory *mem, const u8 *flags)
{
        return &mem->code_chunks[flags - mem->page_flags];
}

static void page_written(struct guest_memory *mem, u64 gpa, u64 len)
{
        u8 *flags = guest_memory_flags(mem, gpa);
        u8 old;

        if (!flags)
                return;
        /* Not a load first: it could pass the store before it, and a vCPU that marks the page in between and reads its
         * code would keep the old bytes. Pairs with guest_memory_mark_code. */
        old = __atomic_fetch_and(flags, (u8)~PAGE_CLEAN, __ATOMIC_SEQ_CST);
        if (old & PAGE_CODE && mem->on_code_write &&
            __atomic_load_n(chunks_of(mem, flags), __ATOMIC_SEQ_CST) & guest_memory_chunks(gpa, len))
                mem->on_code_write(mem->on_code_write_opaque, gpa, len);
}

void guest_memory_written(struct guest_memory *mem, u64 gpa, u64 len)
{
        while (len) {
                const u64 n = MIN(len, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));

                page_written(mem, gpa, n);
                gpa += n;
                len -= n;
        }
}

int guest_memory_discard(struct guest_memory *mem, u64 gpa, u64 len)
{
        const struct memory_slot *slot = guest_memory_slot(mem, gpa);

        if ((gpa | len) & (PAGE_SIZE - 1))
                return -EINVAL;
        if (!slot || slot->read_only || len > slot->size - (gpa - slot->gpa))
                return -EFAULT;
        if (len && guest_memory_is_private(mem)) {
                const int r = private_discard(mem, slot, gpa, len);

                if (r < 0)
                        return r;
        } else if (len && fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(slot->fd_offset + (gpa - slot->gpa)),
                                  (off_t)len) < 0) {
                return -errno;
        }
        guest_memory_written(mem, gpa, len);
        return 0;
}

bool guest_memory_mark_code(struct guest_memory *mem, u64 gpa, u64 len)
{
        u8 *flags = guest_memory_flags(mem, gpa);

        if (!flags)
                return false;
        __atomic_fetch_or(chunks_of(mem, flags), guest_memory_chunks(gpa, len), __ATOMIC_SEQ_CST);
        return !(__atomic_fetch_or(flags, PAGE_CODE, __ATOMIC_SEQ_CST) & PAGE_CODE);
}

bool guest_memory_is_code(const struct guest_memory *mem, u64 gpa, u64 len)
{
        const u8 *flags = guest_memory_flags(mem, gpa);

        return !flags || !(guest_memory_chunks(gpa, len) & ~__atomic_load_n(chunks_of(mem, flags), __ATOMIC_SEQ_CST));
}

void guest_memory_unmark_code(struct guest_memory *mem, u64 gpa, u64 chunks)
{
        u8 *flags = guest_memory_flags(mem, gpa);

        if (flags && !__atomic_and_fetch(chunks_of(mem, flags), ~chunks, __ATOMIC_SEQ_CST))
                __atomic_fetch_and(flags, (u8)~PAGE_CODE, __ATOMIC_SEQ_CST);
}

void guest_memory_dirty_start(struct guest_memory *mem)
{
        for (u64 i = 0; i < mem->ram_size >> PAGE_SHIFT; i++)
                __atomic_fetch_or(&mem->page_flags[i], PAGE_CLEAN, __ATOMIC_RELAXED);
        mem->dirty_tracking = true;
}

void guest_memory_dirty_stop(struct guest_memory *mem)
{
        mem->dirty_tracking = false;
        for (u64 i = 0; i < mem->ram_size >> PAGE_SHIFT; i++)
                __atomic_fetch_and(&mem->page_flags[i], (u8)~PAGE_CLEAN, __ATOMIC_RELAXED);
}

u64 guest_memory_dirty_collect(struct guest_memory *mem, u64 *bitmap)
{
        u64 n = 0;

        if (!mem->dirty_tracking)
                return 0;
        for (u64 i = 0; i < mem->ram_size >> PAGE_SHIFT; i++) {
                if (__atomic_fetch_or(&mem->page_flags[i], PAGE_CLEAN, __ATOMIC_RELAXED) & PAGE_CLEAN)
                        continue;
                bitmap[i / 64] |= BIT(i % 64);
                n++;
        }
        return n;
}
